//! The metrics that there are: the one list that the scrape, docs/metrics.md and its test go by.

/// A metric: one name, and samples by labels.
#[derive(Debug)]
pub struct Family {
    /// Its name, without the prefix and without what its unit and kind add.
    pub(super) name: &'static str,
    /// What it is measured in.
    pub(super) unit: Unit,
    /// What kind of figure it is.
    pub(super) kind: Kind,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// What it tells.
    pub help: &'static str,
}

/// The base unit of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    /// It counts something, which its name tells.
    None,
    /// Seconds.
    Seconds,
    /// Bytes.
    Bytes,
}

/// The kind of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A number that only grows while the process lives.
    Counter,
    /// A number as of now.
    Gauge,
    /// How values are distributed.
    Histogram,
    /// Labels only.
    Info,
}

/// What all names begin with.
pub(super) const PREFIX: &str = "columba";

impl Family {
    /// The name in full, as its samples have it, but for what a histogram adds.
    #[must_use]
    pub fn full_name(&self) -> String {
        let unit = match self.unit() {
            "" => String::new(),
            unit => format!("_{unit}"),
        };
        let suffix = match self.kind {
            Kind::Counter => "_total",
            Kind::Info => "_info",
            Kind::Gauge | Kind::Histogram => "",
        };
        format!("{PREFIX}_{}{unit}{suffix}", self.name)
    }

    /// Its unit: `seconds`, `bytes` or nothing.
    #[must_use]
    pub fn unit(&self) -> &'static str {
        match self.unit {
            Unit::None => "",
            Unit::Seconds => "seconds",
            Unit::Bytes => "bytes",
        }
    }

    /// Its kind: `counter`, `gauge`, `histogram` or `info`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
            Kind::Info => "info",
        }
    }
}

/// Defines the metrics, and the list of them.
macro_rules! families {
    ($($id:ident: $kind:ident, $name:literal, $unit:ident, $labels:expr, $help:literal;)*) => {
        $(pub(super) static $id: Family = Family {
            name: $name,
            unit: Unit::$unit,
            kind: Kind::$kind,
            labels: &$labels,
            help: $help,
        };)*
        /// All metrics, in the order of the scrape.
        pub static FAMILIES: &[&Family] = &[$(&$id),*];
    };
}

families! {
    BUILD: Info, "build", None, ["version", "engine"],
        "The server's version, and its engine.";
    START_TIME: Gauge, "process_start_time", Seconds, [],
        "When the server started, as Unix time.";

    PUBLISHED_MESSAGES: Counter, "topic_published_messages", None, ["topic"],
        "Messages stored in a topic, dead letters included.";
    PUBLISHED_BYTES: Counter, "topic_published", Bytes, ["topic"],
        "Bytes of the messages stored in a topic.";
    DUPLICATES: Counter, "topic_duplicate_messages", None, ["topic"],
        "Messages left out because their id was known.";
    STORED_BYTES: Gauge, "topic_stored", Bytes, ["topic"],
        "Bytes of the messages that a topic has now.";
    TOPICS: Gauge, "topics", None, [],
        "Topics, the server's own included.";
    PUBLISH_DURATION: Histogram, "publish_duration", Seconds, [],
        "From accepting messages until they were on disk.";

    BACKLOG: Gauge, "subscription_backlog_messages", None, ["subscription"],
        "Messages not yet settled on disk, those in flight included.";
    OLDEST_UNACKED: Gauge, "subscription_oldest_unacked_age", Seconds, ["subscription"],
        "How long ago the oldest unsettled message was published; 0 without a backlog.";
    IN_FLIGHT: Gauge, "subscription_in_flight_messages", None, ["subscription"],
        "Messages with a consumer now.";
    SCHEDULED: Gauge, "subscription_scheduled_messages", None, ["subscription"],
        "Messages that wait for their delivery time, as far as the subscription has come.";
    CONSUMERS: Gauge, "subscription_consumers", None, ["subscription"],
        "Consumers with an open stream.";
    DELIVERIES: Counter, "subscription_deliveries", None, ["subscription"],
        "Messages handed out, each time anew.";
    REDELIVERIES: Counter, "subscription_redeliveries", None, ["subscription"],
        "Deliveries after the first of a message.";
    ACKS: Counter, "subscription_acks", None, ["subscription"],
        "Messages acknowledged.";
    NACKS: Counter, "subscription_nacks", None, ["subscription"],
        "Deliveries given back by a nack.";
    DEADLINES_PASSED: Counter, "subscription_ack_deadlines_passed", None, ["subscription"],
        "Deliveries that were neither acknowledged nor given back in time.";
    EXPIRED: Counter, "subscription_expired_messages", None, ["subscription"],
        "Messages dropped because their time to live was over.";
    DEAD_LETTERS: Counter, "subscription_dead_letters", None, ["subscription"],
        "Messages given up, with or without a dead-letter topic.";
    SUBSCRIPTIONS: Gauge, "subscriptions", None, [],
        "Durable subscriptions, the server's own included.";
    EPHEMERAL_DELIVERIES: Counter, "ephemeral_deliveries", None, [],
        "Messages handed to consumers without a durable subscription.";

    LOG_BYTES: Gauge, "log", Bytes, [],
        "Bytes of the log's segments, as far as they are written.";
    LOG_SEGMENTS: Gauge, "log_segments", None, [],
        "Segments of the log.";
    LOG_STALLED: Gauge, "log_stalled", None, [],
        "1 while nothing can be written because no byte is left on the disk, else 0.";
    DISK_FREE: Gauge, "disk_free", Bytes, [],
        "Bytes that can still be written to the disk of the data directory.";
    DISK_RESERVE: Gauge, "disk_reserve", Bytes, [],
        "Free bytes below which publishing is refused.";
    QUEUE_BYTES: Gauge, "write_queue", Bytes, [],
        "Bytes of requests that are accepted and not yet on disk.";
    QUEUE_LIMIT: Gauge, "write_queue_limit", Bytes, [],
        "Bytes that fit the write queue; then publishers wait.";
    SYNC_DURATION: Histogram, "log_sync_duration", Seconds, [],
        "How long syncing a batch to the disk took.";
    BATCH_BYTES: Histogram, "log_batch", Bytes, [],
        "Bytes written and synced together.";
    BATCH_REQUESTS: Histogram, "log_batch_requests", None, [],
        "Requests written and synced together.";

    COMMANDS_ENDED: Counter, "commands_ended", None, ["outcome"],
        "Commands that ended, by outcome: succeeded, failed, cancelled or expired.";
    COMMANDS_PENDING: Gauge, "commands_pending", None, [],
        "Commands that no handler has.";
    COMMANDS_RUNNING: Gauge, "commands_running", None, [],
        "Commands that a handler has.";
    COMMAND_HANDLERS: Gauge, "command_handlers", None, [],
        "Connected handlers of commands.";
    COMMAND_DURATION: Histogram, "command_duration", Seconds, [],
        "From accepting a command until it ended.";

    QUERIES: Counter, "queries", None, ["outcome"],
        "Queries that ended, by outcome: answered or failed.";
    QUERY_CACHE_HITS: Counter, "query_cache_hits", None, [],
        "Queries answered from the cache.";
    QUERY_CACHE_MISSES: Counter, "query_cache_misses", None, [],
        "Queries that allowed a cached answer and found none.";
    QUERIES_SHARED: Counter, "queries_shared", None, [],
        "Queries that joined a call under way instead of making one.";
    QUERIES_RETRIED: Counter, "queries_retried", None, [],
        "Calls of query handlers that were made again elsewhere.";
    QUERY_HANDLERS: Gauge, "query_handlers", None, [],
        "Connected handlers of queries.";

    VIEW_LAG: Gauge, "kv_view_lag_messages", None, ["topic"],
        "Messages of a key-value bucket's topic that its view has not taken in.";

    REQUESTS: Counter, "grpc_requests", None, ["method", "code"],
        "Calls that ended, streams included.";
    REQUEST_DURATION: Histogram, "grpc_request_duration", Seconds, ["method"],
        "How long calls without streams took.";
    STREAMS: Gauge, "grpc_open_streams", None, ["method"],
        "Calls with streams that are open.";
    CONNECTIONS: Gauge, "grpc_connections", None, [],
        "Open connections of the API, those that have not spoken yet included.";
    CONNECTION_LIMIT: Gauge, "grpc_connection_limit", None, [],
        "Connections that may be open at once; further ones wait.";

    CERTIFICATE_EXPIRY: Gauge, "tls_certificate_expiry_time", Seconds, [],
        "When the server's certificate expires, as Unix time.";
    TLS_RELOADS: Counter, "tls_reloads", None, [],
        "How often new certificates were taken up.";
    TLS_FAILED_RELOADS: Counter, "tls_failed_reloads", None, [],
        "How often new certificates were bad, and those in use were kept.";
}

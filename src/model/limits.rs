//! Every limit of the API in one place. The protos document them; `GetServerInfo` reports the most
//! important ones.

use std::time::Duration;

/// Longest topic, subscription or consumer name, in bytes.
pub const MAX_NAME_BYTES: usize = 255;
/// Longest `Message.key`, in bytes.
pub const MAX_KEY_BYTES: usize = 1_024;
/// Longest `type`, `content_type`, `correlation_id` or `causation_id` of a message, in bytes.
pub const MAX_MESSAGE_LABEL_BYTES: usize = 255;
/// Longest `Message.id`, in bytes.
pub const MAX_MESSAGE_ID_BYTES: usize = 255;
/// Furthest `Message.deliver_time` ahead of the server's clock.
pub const MAX_DELIVERY_DELAY: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);
/// Most attributes of a message, and most labels of a topic or subscription.
pub const MAX_ATTRIBUTES: usize = 64;
/// Longest attribute name, in bytes.
pub const MAX_ATTRIBUTE_NAME_BYTES: usize = 255;
/// Longest attribute value, in bytes.
pub const MAX_ATTRIBUTE_VALUE_BYTES: usize = 8_192;
/// Longest label name, in bytes.
pub const MAX_LABEL_NAME_BYTES: usize = 63;
/// Longest label value, in bytes.
pub const MAX_LABEL_VALUE_BYTES: usize = 255;

/// `max_message_bytes` of a topic that sets none.
pub const DEFAULT_MAX_MESSAGE_BYTES: u32 = 1 << 20;
/// Highest `max_message_bytes` of a topic.
pub const MAX_MESSAGE_BYTES: u32 = 8 << 20;
/// Most bytes of messages in one publish.
pub const MAX_PUBLISH_BYTES: usize = 16 << 20;
/// Most messages in one publish.
pub const MAX_PUBLISH_MESSAGES: usize = 10_000;
/// Largest request on the wire: a full publish with room for its framing.
pub const MAX_REQUEST_BYTES: usize = MAX_PUBLISH_BYTES + (1 << 20);
/// `dedupe_window` of a topic that sets none.
pub const DEFAULT_DEDUPE_WINDOW: Duration = Duration::from_secs(2 * 60);
/// Longest `dedupe_window` of a topic.
pub const MAX_DEDUPE_WINDOW: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// Most message ids remembered of one topic; then the oldest are forgotten first.
pub const MAX_IDS_PER_TOPIC: usize = 1_000_000;
/// Most message ids remembered in a server; then every topic forgets the oldest eighth of its own.
pub const MAX_IDS: usize = 2_000_000;
/// Most keys in the key index of one topic.
pub const MAX_KEYS_PER_TOPIC: usize = 1_000_000;
/// Most keys in all key indexes of a server.
pub const MAX_KEYS: usize = 4_000_000;
/// Most operations in one commit.
pub const MAX_COMMIT_OPERATIONS: usize = 100;
/// Requests of one publish stream under way at once.
pub const MAX_PUBLISH_STREAM_IN_FLIGHT: usize = 64;

/// Shortest `max_age` of a retention policy.
pub const MIN_RETENTION_AGE: Duration = Duration::from_secs(1);
/// Longest `max_age` of a retention policy.
pub const MAX_RETENTION_AGE: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// Most ids in one ack, nack or extension.
pub const MAX_ACK_IDS: usize = 10_000;
/// Most topics in a server.
pub const MAX_TOPICS: usize = 100_000;
/// Most subscriptions in a server.
pub const MAX_SUBSCRIPTIONS: usize = 100_000;
/// Topics that one pattern covers at once. Where one is full, no topic that it covers can be created.
pub const MAX_PATTERN_TOPICS: usize = 1_000;
/// Topics that all durable subscriptions with patterns cover, counted once for each.
pub const MAX_COVERED_TOPICS: usize = 100_000;
/// Most open consumers in a server, ephemeral ones included.
pub const MAX_CONSUMERS: usize = 20_000;
/// Most open consumers of one durable subscription.
pub const MAX_CONSUMERS_PER_SUBSCRIPTION: usize = 1_000;

/// Topics that metrics tell apart, and subscriptions; those beyond are counted together. Each has about 30 lines
/// in what a scrape returns.
pub const MAX_METRIC_LABELS: usize = 500;

/// Entries on a page of a list when the request names no number.
pub const DEFAULT_PAGE_SIZE: usize = 100;
/// Most entries on a page of a list.
pub const MAX_PAGE_SIZE: usize = 1_000;

/// `ack_deadline` of a subscription that sets none.
pub const DEFAULT_ACK_DEADLINE: Duration = Duration::from_secs(30);
/// Shortest ack deadline.
pub const MIN_ACK_DEADLINE: Duration = Duration::from_secs(1);
/// Longest ack deadline, and longest delay of a nack.
pub const MAX_ACK_DEADLINE: Duration = Duration::from_secs(12 * 60 * 60);
/// `max_in_flight` of a subscription that sets none.
pub const DEFAULT_MAX_IN_FLIGHT: u32 = 10_000;
/// Highest `max_in_flight` of a subscription.
pub const MAX_IN_FLIGHT: u32 = 1_000_000;

/// Messages of a subscription that wait for their key, without being in flight, at most; no new ones are
/// looked at then. About 200 bytes of memory for each.
pub const MAX_PARKED: usize = 100_000;
/// Each topic of a subscription with a pattern has its share of [`MAX_PARKED`], but no less than this.
pub const MIN_PARKED_PER_TOPIC: usize = 250;
/// Messages of a subscription that wait for their `deliver_time` at most; no new ones are looked at then.
/// About 50 bytes of memory for each.
pub const MAX_SCHEDULED: usize = 1_000_000;
/// Each topic of a subscription with a pattern has its share of [`MAX_SCHEDULED`], but no less than this.
pub const MIN_SCHEDULED_PER_TOPIC: usize = 1_000;

/// `max_backoff` of a retry policy that sets none.
pub const DEFAULT_MAX_BACKOFF: Duration = Duration::from_secs(10 * 60);
/// Highest `max_attempts` of a retry policy.
pub const MAX_ATTEMPTS: u32 = 100_000;
/// Shortest `idle_expiry` of a subscription.
pub const MIN_IDLE_EXPIRY: Duration = Duration::from_secs(60);
/// Longest `idle_expiry` of a subscription.
pub const MAX_IDLE_EXPIRY: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// Longest text of a filter, in bytes.
pub const MAX_FILTER_BYTES: usize = 4_096;
/// How deep the parts of a filter may be nested.
pub const MAX_FILTER_DEPTH: usize = 16;
/// What a filter may cost for one message at worst, in steps: a byte looked at is one, an operation 16.
pub const MAX_FILTER_COST: u64 = 1_000_000;
/// Largest `Message.data` that a filter sees as JSON, in bytes.
pub const MAX_FILTER_JSON_BYTES: usize = 64 << 10;
/// Most values, lists and objects included, in `Message.data` that a filter sees as JSON.
pub const MAX_FILTER_JSON_VALUES: usize = 2_000;

/// Longest reason of a nack, in bytes.
pub const MAX_REASON_BYTES: usize = 1_024;

/// `max_outstanding_messages` of a consumer that sets none.
pub const DEFAULT_OUTSTANDING_MESSAGES: u32 = 1_000;
/// Highest `max_outstanding_messages` of a consumer.
pub const MAX_OUTSTANDING_MESSAGES: u32 = 100_000;
/// `max_outstanding_bytes` of a consumer that sets none.
pub const DEFAULT_OUTSTANDING_BYTES: u64 = 16 << 20;
/// Highest `max_outstanding_bytes` of a consumer.
pub const MAX_OUTSTANDING_BYTES: u64 = 256 << 20;

/// Messages handed to a consumer in one batch at most.
pub const MAX_BATCH_MESSAGES: usize = 1_000;
/// Bytes of messages handed to a consumer in one batch at most; one message is always allowed.
/// A stream that its client does not read holds a few batches in memory.
pub const MAX_BATCH_BYTES: usize = 1 << 20;

/// Messages of a Pull or `ReadMessages` that names no number.
pub const DEFAULT_READ_MESSAGES: usize = 100;
/// Most messages of a Pull or `ReadMessages`.
pub const MAX_READ_MESSAGES: usize = 10_000;
/// Bytes of a Pull or `ReadMessages` that names no number.
/// Below the 4 MiB that gRPC clients take by default, with room for framing.
pub const DEFAULT_READ_BYTES: usize = 3 << 20;
/// Most bytes of a Pull or `ReadMessages`.
pub const MAX_READ_BYTES: usize = 16 << 20;
/// Longest wait of a Pull.
pub const MAX_PULL_WAIT: Duration = Duration::from_secs(60);
/// Pulls that wait for messages of one subscription at once.
pub const MAX_WAITING_PULLS: usize = 1_000;

/// Silence on a stream after which a heartbeat is sent.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(10);

/// What a subscription remembers to have happened to its messages. What happened alike to consecutive
/// messages within a tenth of a second counts once.
pub const HISTORY_ENTRIES: usize = 1_024;
/// How long a consumer may hold all that its credit allows, while more is waiting, before it is slow.
pub const SLOW_CONSUMER_AFTER: Duration = Duration::from_secs(10);
/// How long nothing more is said of the same slow consumer.
pub const SLOW_CONSUMER_SILENCE: Duration = Duration::from_secs(60);
/// Most streams of advisories, and as many of changes to topics, at once.
pub const MAX_WATCHERS: usize = 256;
/// How far behind a watcher may be, in events.
pub const WATCH_BACKLOG: usize = 1_024;

/// Letters that one redrive or purge deals with when the request names no number.
pub const DEFAULT_REDRIVE_MESSAGES: usize = 1_000;
/// Most letters that one redrive or purge deals with.
pub const MAX_REDRIVE_MESSAGES: usize = 10_000;
/// Highest `max_per_second` of a redrive.
pub const MAX_REDRIVE_RATE: u32 = 1_000_000;
/// Messages of a dead-letter topic that one request looks at.
pub const MAX_LETTERS_SCANNED: usize = 100_000;
/// Letters that a redrive lists as skipped.
pub const MAX_SKIPPED_LISTED: usize = 100;

/// Most connected handlers of commands and queries in a server.
pub const MAX_HANDLERS: usize = 10_000;

/// Longest `Command.id`, in bytes.
pub const MAX_COMMAND_ID_BYTES: usize = 255;
/// Largest payload of a command, in bytes.
pub const MAX_COMMAND_PAYLOAD_BYTES: usize = 1 << 20;
/// Largest result of a command, in bytes.
pub const MAX_COMMAND_RESULT_BYTES: usize = 1 << 20;
/// `max_message_bytes` of the topics that hold commands and outcomes: the largest payload or result, with
/// everything else at its limit.
pub const MAX_COMMAND_RECORD_BYTES: u32 = 3 << 20;
/// `timeout` of a command that sets none.
pub const DEFAULT_COMMAND_TIMEOUT: Duration = Duration::from_secs(60 * 60);
/// Shortest `timeout` of a command.
pub const MIN_COMMAND_TIMEOUT: Duration = Duration::from_millis(1);
/// Longest `timeout` of a command.
pub const MAX_COMMAND_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);
/// `wait` of a `WaitCommand` that sets none.
pub const DEFAULT_COMMAND_WAIT: Duration = Duration::from_secs(30);
/// Longest `wait` for the outcome of a command.
pub const MAX_COMMAND_WAIT: Duration = Duration::from_secs(60);
/// How long a command is leased to a handler.
pub const COMMAND_LEASE: Duration = Duration::from_secs(30);
/// Wait before the second attempt at a command that failed; doubles with each further one.
pub const MIN_COMMAND_BACKOFF: Duration = Duration::from_secs(1);
/// Longest wait before another attempt.
pub const MAX_COMMAND_BACKOFF: Duration = Duration::from_secs(60);
/// How long an execution is kept after its end.
pub const DEFAULT_COMMAND_RETENTION: Duration = Duration::from_secs(24 * 60 * 60);
/// Shortest retention of executions.
pub const MIN_COMMAND_RETENTION: Duration = Duration::from_secs(60);
/// Longest retention of executions.
pub const MAX_COMMAND_RETENTION: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// Most types of commands in a server.
pub const MAX_COMMAND_TYPES: usize = 1_000;
/// Most types that one handler of commands or queries handles.
pub const MAX_HANDLED_TYPES: usize = 100;
/// Most commands of one type that have not ended.
pub const MAX_UNFINISHED_PER_TYPE: usize = 500_000;
/// Most commands of a server that have not ended. About 400 bytes of memory for each.
pub const MAX_UNFINISHED_COMMANDS: usize = 1_000_000;
/// `max_outstanding` of a handler that sets none.
pub const DEFAULT_HANDLER_OUTSTANDING: u32 = 100;
/// Highest `max_outstanding` of a handler of commands.
pub const MAX_HANDLER_OUTSTANDING: u32 = 10_000;
/// Most topics that one completion publishes to: a commit, without the outcome and the lease.
pub const MAX_COMPLETION_TOPICS: usize = MAX_COMMIT_OPERATIONS - 2;
/// Most bytes of events in one completion: a publish, without the outcome.
pub const MAX_COMPLETION_EVENT_BYTES: usize = MAX_PUBLISH_BYTES - (1 << 20);
/// Longest code of a failure, in bytes.
pub const MAX_FAILURE_CODE_BYTES: usize = 255;
/// Longest message of a failure, in bytes.
pub const MAX_FAILURE_MESSAGE_BYTES: usize = 8_192;
/// Executions that one page of a list looks at.
pub const MAX_COMMANDS_SCANNED: usize = 10_000;
/// Most buckets in a server. Each has a file, a task and up to [`VIEW_CACHE_BYTES`] of memory.
pub const MAX_BUCKETS: usize = 1_000;
/// Longest name of a bucket, in bytes: it becomes part of a file's name.
pub const MAX_BUCKET_NAME_BYTES: usize = 128;
/// Pages of one bucket's view held in memory at most; the operating system caches the others.
pub const VIEW_CACHE_BYTES: usize = 2 << 20;
/// `max_value_bytes` of a bucket that sets none.
pub const DEFAULT_MAX_VALUE_BYTES: u32 = 1 << 20;
/// Highest `max_value_bytes` of a bucket.
pub const MAX_VALUE_BYTES: u32 = 8 << 20;
/// Most entries in one `PutBatch`.
pub const MAX_BATCH_ENTRIES: usize = 1_000;
/// Most entries with an `expected_revision` in one `PutBatch`.
pub const MAX_BATCH_EXPECTATIONS: usize = 100;
/// Shortest time for which an entry is kept.
pub const MIN_TTL: Duration = Duration::from_millis(1);
/// Longest time for which an entry is kept, if not for ever.
pub const MAX_TTL: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);
/// Longest wait of a read for a revision.
pub const MAX_REVISION_WAIT: Duration = Duration::from_secs(30);
/// Versions of a key that `History` finds at most.
pub const MAX_VERSIONS: usize = 64;
/// Most streams of `WatchEntries` at once.
pub const MAX_ENTRY_WATCHES: usize = 1_000;
/// Highest `limit` of a `WatchEntries`.
pub const MAX_WATCHED_ENTRIES: usize = 1_000;
/// Bytes of keys and values after which a response of `WatchEntries` ends; the step goes on in the next. A stream
/// that its client does not read holds one such response.
pub const WATCH_PART_BYTES: usize = 256 << 10;
/// Changes of a bucket remembered for those who watch it.
pub const CHANGES_KEPT: usize = 4_096;

/// `timeout` of a query that sets none, and of a watch that asks.
pub const DEFAULT_QUERY_TIMEOUT: Duration = Duration::from_secs(10);
/// Shortest `timeout` of a query.
pub const MIN_QUERY_TIMEOUT: Duration = Duration::from_millis(1);
/// Longest `timeout` of a query.
pub const MAX_QUERY_TIMEOUT: Duration = Duration::from_secs(5 * 60);
/// Largest payload of a query, in bytes.
pub const MAX_QUERY_BYTES: usize = 1 << 20;
/// Largest result of a query, in bytes: what gRPC clients take by default, 4 MiB, with room for framing.
pub const MAX_QUERY_RESULT_BYTES: usize = (4 << 20) - (64 << 10);
/// Longest message of a query's failure, in bytes: it travels in a header.
pub const MAX_QUERY_FAILURE_MESSAGE_BYTES: usize = 1_024;
/// Longest `ttl` of a cache policy; no answer is kept longer.
pub const MAX_CACHE_TTL: Duration = Duration::from_secs(60 * 60);
/// Bytes of answers, and of the queries that they answer, that are kept at most.
pub const MAX_CACHE_BYTES: u64 = 64 << 20;
/// Handlers of one query type at most.
pub const MAX_HANDLERS_PER_QUERY_TYPE: usize = 1_000;
/// `max_outstanding` of a query handler that sets none.
pub const DEFAULT_OUTSTANDING_QUERIES: u32 = 16;
/// Highest `max_outstanding` of a query handler.
pub const MAX_OUTSTANDING_QUERIES: u32 = 10_000;
/// Queries of one type that wait for a handler with free capacity at most.
pub const MAX_WAITING_QUERIES: usize = 1_000;
/// Queries under way in a server at most, shared ones counted for each that asks.
pub const MAX_OPEN_QUERIES: usize = 20_000;
/// Bytes of the queries under way in a server at most.
pub const MAX_OPEN_QUERY_BYTES: usize = 256 << 20;
/// How often a query is handed out anew because the handler that had it went away.
pub const MAX_LOST_HANDLERS: u32 = 4;
/// Highest `max_answers` of a gathering query, and most handlers that it is sent to.
pub const MAX_GATHERED_ANSWERS: usize = 100;
/// Bytes of answers that a gathering query returns at most.
pub const MAX_GATHERED_BYTES: usize = 16 << 20;
/// Streams that watch queries in a server at most.
pub const MAX_QUERY_WATCHERS: usize = 10_000;
/// Bytes of watched queries and their newest answers in a server at most.
pub const MAX_WATCHED_BYTES: usize = 256 << 20;

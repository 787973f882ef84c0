//! Every limit of the API in one place. The protos document them; `GetServerInfo` reports them.

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

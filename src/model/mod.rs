//! What every layer talks about: names, messages, positions, limits and kinds of errors.
//!
//! Knows no other module of the crate, and does no I/O.

pub mod advisory;
pub mod consumer;
pub mod dead_letter;
pub mod error;
pub mod explain;
pub mod filter;
pub mod header;
pub mod limits;
pub mod message;
pub mod name;
pub mod origins;
pub mod redrive;
pub mod retention;
pub mod retry;
pub mod subscription;
pub mod time;
pub mod topic;

pub use advisory::{Advisory, Notice};
pub use consumer::ConsumerInfo;
pub use dead_letter::DeadLetter;
pub use error::Kind;
pub use explain::{Explanation, Happening, Journey, Moment, Standing};
pub use filter::{Filter, FilterError};
pub use header::Header;
pub use message::{Delivery, Duplicate, Durability, Envelope, Offset, Receipt, Start, StoredMessage};
pub use name::{Name, NameError, Pattern};
pub use origins::Origins;
pub use retention::Retention;
pub use retry::{Backoff, RetryPolicy};
pub use subscription::{Mode, Subscription, SubscriptionSettings, SubscriptionStats};
pub use time::Timestamp;
pub use topic::{Topic, TopicSettings};

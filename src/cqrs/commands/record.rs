//! Commands and what becomes of them, as they are stored: messages in the server's own topics.
//!
//! Both are valid `columba.v1.Message`s with a key of which the engine knows, and fields of their own beyond.

use std::collections::BTreeMap;
use std::hash::Hasher as _;
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use siphasher::sip128::{Hasher128 as _, SipHasher13};

use super::execution::Ending;
use crate::model::{Envelope, Name, Offset, Timestamp};

/// Something to be done, within the limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Command {
    /// Its name in the server.
    pub(crate) id: String,
    /// What is to be done.
    pub(crate) kind: Name,
    /// Commands with the same one are handled in order; empty for none.
    pub(crate) key: String,
    /// The content.
    pub(crate) payload: Bytes,
    /// What the payload is.
    pub(crate) content_type: String,
    /// For handlers.
    pub(crate) attributes: BTreeMap<String, String>,
    /// How long it may take.
    pub(crate) timeout: Duration,
    /// Ties together what belongs together.
    pub(crate) correlation_id: String,
    /// What caused it.
    pub(crate) causation_id: String,
}

/// Why a command was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Failure {
    /// For programs.
    pub(crate) code: String,
    /// For people.
    pub(crate) message: String,
    /// Another attempt may succeed.
    pub(crate) retryable: bool,
}

/// A short stand-in for what was sent or completed: equal for equal content.
pub(crate) type Fingerprint = u128;

/// A command in its topic.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct StoredCommand {
    #[prost(bytes = "bytes", tag = "1")]
    payload: Bytes,
    #[prost(string, tag = "2")]
    pub(super) key: String,
    #[prost(string, tag = "4")]
    pub(super) id: String,
    #[prost(string, tag = "6")]
    content_type: String,
    #[prost(string, tag = "7")]
    correlation_id: String,
    #[prost(string, tag = "8")]
    causation_id: String,
    // Not where a message has them: the engine goes by some attributes.
    #[prost(btree_map = "string, string", tag = "1001")]
    attributes: BTreeMap<String, String>,
    #[prost(uint64, tag = "1002")]
    timeout_micros: u64,
    #[prost(uint64, tag = "1003")]
    accepted_micros: u64,
}

impl StoredCommand {
    pub(super) fn new(command: &Command, accepted: Timestamp) -> Self {
        Self {
            payload: command.payload.clone(),
            key: command.key.clone(),
            id: command.id.clone(),
            content_type: command.content_type.clone(),
            correlation_id: command.correlation_id.clone(),
            causation_id: command.causation_id.clone(),
            attributes: command.attributes.clone(),
            timeout_micros: u64::try_from(command.timeout.as_micros()).unwrap_or(u64::MAX),
            accepted_micros: accepted.0,
        }
    }

    /// Reads a stored command; `None` if it is damaged in a way that checksums do not find.
    pub(super) fn read(envelope: &Envelope) -> Option<Self> {
        Self::decode(envelope.0.clone()).ok()
    }

    pub(super) fn envelope(&self) -> Envelope {
        Envelope(self.encode_to_vec().into())
    }

    pub(super) fn accepted(&self) -> Timestamp {
        Timestamp(self.accepted_micros)
    }

    pub(super) fn timeout(&self) -> Duration {
        Duration::from_micros(self.timeout_micros)
    }

    /// Of all that a sender chooses: two commands with the same id must have the same.
    pub(super) fn fingerprint(&self, kind: &Name) -> Fingerprint {
        let chosen = Self { accepted_micros: 0, ..self.clone() };
        let mut hasher = SipHasher13::new();
        hasher.write(kind.as_str().as_bytes());
        hasher.write_u8(0xff);
        hasher.write(&chosen.encode_to_vec());
        hasher.finish128().as_u128()
    }

    pub(super) fn into_command(self, kind: &Name) -> Command {
        Command {
            timeout: self.timeout(),
            id: self.id,
            kind: kind.clone(),
            key: self.key,
            payload: self.payload,
            content_type: self.content_type,
            attributes: self.attributes,
            correlation_id: self.correlation_id,
            causation_id: self.causation_id,
        }
    }
}

/// What happened to a command, in the topic of outcomes of its type.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct StoredOutcome {
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) result: Bytes,
    #[prost(string, tag = "2")]
    pub(super) id: String,
    #[prost(uint32, tag = "1001")]
    what: u32,
    #[prost(uint64, tag = "1002")]
    pub(super) command_offset: Offset,
    #[prost(uint64, tag = "1003")]
    pub(super) time_micros: u64,
    #[prost(uint32, tag = "1004")]
    pub(super) attempts: u32,
    #[prost(message, optional, tag = "1005")]
    failure: Option<StoredFailure>,
    #[prost(bytes = "vec", tag = "1006")]
    completion: Vec<u8>,
}

/// Why a command was not carried out, as it is stored.
#[derive(Clone, PartialEq, prost::Message)]
struct StoredFailure {
    #[prost(string, tag = "1")]
    code: String,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(bool, tag = "3")]
    retryable: bool,
}

/// The number of a request to cancel among what can happen.
const CANCEL_REQUESTED: u32 = 1;

impl StoredOutcome {
    /// Somebody wants the command cancelled.
    pub(super) fn cancel_requested(id: &str, command_offset: Offset, time: Timestamp) -> Self {
        Self {
            id: id.to_owned(),
            what: CANCEL_REQUESTED,
            command_offset,
            time_micros: time.0,
            ..Self::default()
        }
    }

    /// The command has ended.
    pub(super) fn ended(id: &str, command_offset: Offset, ending: Ending, time: Timestamp) -> Self {
        let what = ending.number();
        Self { id: id.to_owned(), what, command_offset, time_micros: time.0, ..Self::default() }
    }

    pub(super) fn with_attempts(self, attempts: u32) -> Self {
        Self { attempts, ..self }
    }

    pub(super) fn with_result(self, result: Bytes) -> Self {
        Self { result, ..self }
    }

    pub(super) fn with_failure(self, failure: Option<Failure>) -> Self {
        let stored = |Failure { code, message, retryable }| StoredFailure { code, message, retryable };
        Self { failure: failure.map(stored), ..self }
    }

    /// The completion that it comes from.
    pub(super) fn with_completion(self, completion: Fingerprint) -> Self {
        Self { completion: completion.to_be_bytes().to_vec(), ..self }
    }

    pub(super) fn read(envelope: &Envelope) -> Option<Self> {
        Self::decode(envelope.0.clone()).ok()
    }

    pub(super) fn envelope(&self) -> Envelope {
        Envelope(self.encode_to_vec().into())
    }

    /// How the command ended; `None` for a request to cancel it.
    pub(super) fn ending(&self) -> Option<Ending> {
        Ending::numbered(self.what)
    }

    pub(super) fn is_cancel_request(&self) -> bool {
        self.what == CANCEL_REQUESTED
    }

    pub(super) fn is_from(&self, completion: Fingerprint) -> bool {
        self.completion == completion.to_be_bytes()
    }

    pub(super) fn failure(&self) -> Option<Failure> {
        let StoredFailure { code, message, retryable } = self.failure.clone()?;
        Some(Failure { code, message, retryable })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command() -> Command {
        Command {
            id: "i".into(),
            kind: Name::parse("a.b").unwrap(),
            key: "k".into(),
            payload: Bytes::from_static(b"p"),
            content_type: "c".into(),
            attributes: [("x".to_owned(), "y".to_owned())].into(),
            timeout: Duration::from_millis(1_500),
            correlation_id: "r".into(),
            causation_id: "s".into(),
        }
    }

    #[test]
    fn a_command_comes_back_and_the_engine_sees_its_key() {
        let command = command();
        let stored = StoredCommand::new(&command, Timestamp(7));
        let envelope = stored.envelope();
        assert_eq!((envelope.header().key, envelope.header().id), ("k", "i"));
        assert_eq!(envelope.header().only_for, "");
        let read = StoredCommand::read(&envelope).unwrap();
        assert_eq!(read.accepted(), Timestamp(7));
        assert_eq!(read.into_command(&command.kind), command);
    }

    #[test]
    fn whatever_a_sender_chooses_makes_another_fingerprint_and_time_does_not() {
        let of =
            |command: &Command, time| StoredCommand::new(command, Timestamp(time)).fingerprint(&command.kind);
        let base = of(&command(), 1);
        assert_eq!(of(&command(), 2), base);
        let changes: [fn(&mut Command); 8] = [
            |it| it.kind = Name::parse("a.c").unwrap(),
            |it| it.key.push('x'),
            |it| it.payload = Bytes::new(),
            |it| it.content_type.clear(),
            |it| it.attributes.clear(),
            |it| it.timeout = Duration::from_secs(1),
            |it| it.correlation_id.clear(),
            |it| it.causation_id.clear(),
        ];
        for change in changes {
            let mut other = command();
            change(&mut other);
            assert_ne!(of(&other, 1), base, "{other:?}");
        }
    }

    #[test]
    fn an_outcome_comes_back() {
        let failure = Failure { code: "C".into(), message: "m".into(), retryable: false };
        let outcome = StoredOutcome::ended("i", 4, Ending::Failed, Timestamp(9))
            .with_attempts(3)
            .with_failure(Some(failure.clone()))
            .with_completion(5);
        let envelope = outcome.envelope();
        assert_eq!(envelope.header().key, "i");
        let read = StoredOutcome::read(&envelope).unwrap();
        assert_eq!((read.ending(), read.failure()), (Some(Ending::Failed), Some(failure)));
        assert!(read.is_from(5) && !read.is_from(6) && !read.is_cancel_request());
        let request = StoredOutcome::cancel_requested("i", 4, Timestamp(9));
        assert!(request.is_cancel_request() && request.ending().is_none());
    }
}

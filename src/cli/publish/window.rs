//! What has been sent and not yet answered. A plain state machine: it does no I/O.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::super::error::{Error, Progress};
use super::input::Batch;
use crate::proto::v1::publish_stream_response::Result as Answer;
use crate::proto::v1::{
    Durability, Message, PublishError, PublishRequest, PublishResponse, PublishStreamRequest,
    PublishStreamResponse,
};

/// Batches in the order of the input. Those at the front leave when they are acknowledged, so what has
/// left is a gapless beginning of the input.
#[derive(Debug)]
pub(super) struct Window {
    topic: String,
    durability: Durability,
    guards: Guards,
    entries: VecDeque<Entry>,
    next_id: u64,
    acknowledged: Tally,
    /// Messages sent again although they may have been stored the first time, and may be stored twice.
    resent: u64,
    /// Messages left out at the beginning of the input.
    skipped: u64,
    /// Messages of the input that have come so far, those left out included.
    taken: u64,
}

/// What keeps messages from being stored twice, or after those of others.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Guards {
    /// All messages have ids, which the topic remembers for so long.
    pub(super) dedupe_window: Option<Duration>,
    /// The topic's last offset before the first message.
    pub(super) expected_last_offset: Option<u64>,
}

/// What has been acknowledged, without a gap from the first message on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) messages: u64,
    pub(super) bytes: u64,
    /// Of them, those that were stored before and not again.
    pub(super) duplicates: u64,
    /// Of the first message that was stored; 0 for none.
    pub(super) first_offset: u64,
    /// Of the last message that was stored; 0 for none.
    pub(super) last_offset: u64,
    /// How far into the input they reach, in bytes.
    pub(super) position: u64,
}

#[derive(Debug)]
struct Entry {
    id: u64,
    /// The number of the first message in the input, from 1.
    first: u64,
    messages: Vec<Message>,
    count: u64,
    bytes: usize,
    position: u64,
    state: State,
    /// When it was sent for the first time.
    sent: Instant,
}

#[derive(Debug)]
enum State {
    /// Sent; the outcome is unknown.
    Sent,
    /// Stored.
    Stored(PublishResponse),
    /// Certainly not stored.
    Refused,
}

impl Window {
    /// An empty window for requests to this topic.
    /// `skipped` messages of the input were left out at the beginning.
    pub(super) fn new(topic: String, durability: Durability, guards: Guards, skipped: u64) -> Self {
        let (entries, acknowledged) = (VecDeque::new(), Tally::default());
        let (next_id, resent, taken) = (1, 0, skipped);
        Self { topic, durability, guards, entries, next_id, acknowledged, resent, skipped, taken }
    }

    /// Batches in the window.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether an answer is due.
    pub(super) fn is_waiting(&self) -> bool {
        self.entries.iter().any(|entry| matches!(entry.state, State::Sent))
    }

    /// What has left the window.
    pub(super) fn acknowledged(&self) -> &Tally {
        &self.acknowledged
    }

    /// Messages sent again although they may have been stored the first time, and may be stored twice.
    pub(super) fn resent(&self) -> u64 {
        self.resent
    }

    /// Takes a batch in, and gives the request to send.
    pub(super) fn push(&mut self, batch: Batch) -> PublishStreamRequest {
        let id = self.next_id;
        self.next_id += 1;
        let count = batch.messages.len() as u64;
        let first = self.taken + 1;
        let request = self.request(id, first, batch.messages.clone());
        self.taken += count;
        self.entries.push_back(Entry {
            id,
            first,
            count,
            messages: batch.messages,
            bytes: batch.bytes,
            position: batch.position,
            state: State::Sent,
            sent: Instant::now(),
        });
        request
    }

    /// Takes an answer in. `Some` is the error of a refused batch.
    pub(super) fn answer(&mut self, response: PublishStreamResponse) -> Result<Option<PublishError>, Error> {
        let id = response.request_id;
        let entry =
            self.entries.iter_mut().find(|entry| entry.id == id && matches!(entry.state, State::Sent));
        let Some(entry) = entry else {
            return Err(Error::protocol("an answer to no request"));
        };
        let refused = match response.result {
            Some(Answer::Receipt(receipt)) => {
                entry.messages = Vec::new();
                entry.state = State::Stored(receipt);
                None
            }
            Some(Answer::Error(mut error)) => {
                entry.state = State::Refused;
                let (first, last) = (entry.first, entry.first + entry.count - 1);
                if last > first {
                    let place = format!(" (numbers from 0 on in messages {first} to {last} of the input)");
                    error.message.push_str(&place);
                }
                Some(error)
            }
            None => return Err(Error::protocol("an empty answer")),
        };
        self.advance();
        Ok(refused)
    }

    fn advance(&mut self) {
        while let Some(Entry { state: State::Stored(receipt), .. }) = self.entries.front() {
            let (first, last) = (receipt.first_offset, receipt.last_offset);
            let duplicates = receipt.duplicates.len() as u64;
            let Some(entry) = self.entries.pop_front() else { return };
            let tally = &mut self.acknowledged;
            if tally.first_offset == 0 {
                tally.first_offset = first;
            }
            tally.messages += entry.count;
            tally.bytes += entry.bytes as u64;
            tally.duplicates += duplicates;
            tally.last_offset = tally.last_offset.max(last);
            tally.position = entry.position;
        }
    }

    /// The requests to send on a new connection: all that are not known to be stored.
    pub(super) fn resend(&mut self) -> Vec<PublishStreamRequest> {
        let mut requests = Vec::with_capacity(self.entries.len());
        let window = self.guards.dedupe_window.unwrap_or_default();
        for at in 0..self.entries.len() {
            let entry = &mut self.entries[at];
            match entry.state {
                State::Stored(_) => continue,
                State::Sent if entry.sent.elapsed() < window => {}
                State::Sent => self.resent += entry.count,
                State::Refused => entry.state = State::Sent,
            }
            let (id, first, messages) = (entry.id, entry.first, entry.messages.clone());
            requests.push(self.request(id, first, messages));
        }
        requests
    }

    /// How far it came, when it goes no further.
    pub(super) fn progress(&self) -> Progress {
        let count = |wanted: fn(&State) -> bool| {
            self.entries.iter().filter(|entry| wanted(&entry.state)).map(|entry| entry.count).sum()
        };
        Progress {
            acknowledged: self.acknowledged.messages,
            last_offset: self.acknowledged.last_offset,
            unknown: count(|state| matches!(state, State::Sent)),
            stored_beyond: count(|state| matches!(state, State::Stored(_))),
            skip: self.skipped + self.acknowledged.messages,
        }
    }

    /// A request whose first message has this number in the input.
    fn request(&self, request_id: u64, first: u64, messages: Vec<Message>) -> PublishStreamRequest {
        let (topic, durability) = (self.topic.clone(), self.durability.into());
        let before = first - 1 - self.skipped;
        let expected_last_offset = self.guards.expected_last_offset.map(|offset| offset + before);
        let publish =
            PublishRequest { topic, messages, durability, expected_last_offset, ..PublishRequest::default() };
        PublishStreamRequest { request_id, publish: Some(publish) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::v1::Duplicate;

    fn window(batches: &[usize]) -> Window {
        guarded(batches, Guards::default())
    }

    fn guarded(batches: &[usize], guards: Guards) -> Window {
        let mut window = Window::new("t".into(), Durability::Unspecified, guards, 100);
        for (at, &count) in batches.iter().enumerate() {
            let messages = vec![Message::default(); count];
            let request = window.push(Batch { messages, bytes: count * 10, position: 100 * (at as u64 + 1) });
            assert_eq!(request.request_id, at as u64 + 1);
        }
        window
    }

    fn stored(request_id: u64, first_offset: u64, last_offset: u64) -> PublishStreamResponse {
        let receipt = PublishResponse { first_offset, last_offset, ..PublishResponse::default() };
        PublishStreamResponse { request_id, result: Some(Answer::Receipt(receipt)) }
    }

    fn refused(request_id: u64) -> PublishStreamResponse {
        PublishStreamResponse { request_id, result: Some(Answer::Error(PublishError::default())) }
    }

    #[test]
    fn acknowledges_a_beginning_without_gaps() {
        let mut window = window(&[2, 3, 1]);
        window.answer(stored(2, 13, 15)).unwrap();
        assert_eq!(window.acknowledged(), &Tally::default());
        window.answer(stored(1, 11, 12)).unwrap();
        let tally =
            Tally { messages: 5, bytes: 50, first_offset: 11, last_offset: 15, position: 200, duplicates: 0 };
        assert_eq!(window.acknowledged(), &tally);
        assert_eq!((window.len(), window.is_waiting()), (1, true));
    }

    #[test]
    fn a_refused_batch_holds_the_count_back_although_later_ones_are_stored() {
        let mut window = window(&[2, 3, 1, 4]);
        window.answer(stored(1, 1, 2)).unwrap();
        let refusal = window.answer(refused(2)).unwrap().unwrap().message;
        assert!(refusal.contains("messages 103 to 105 of the input"), "{refusal}");
        window.answer(stored(3, 3, 3)).unwrap();
        let progress = window.progress();
        assert_eq!((progress.acknowledged, progress.skip), (2, 102));
        assert_eq!((progress.unknown, progress.stored_beyond), (4, 1));
    }

    #[test]
    fn sends_again_what_is_not_known_to_be_stored() {
        let mut window = window(&[2, 3, 1, 4]);
        window.answer(refused(1)).unwrap();
        window.answer(stored(3, 1, 1)).unwrap();
        let again: Vec<_> = window.resend().iter().map(|request| request.request_id).collect();
        assert_eq!(again, [1, 2, 4]);
        assert_eq!(window.resent(), 7, "the refused one was certainly not stored");
        for (id, offset) in [(1, 10), (2, 20), (4, 30)] {
            window.answer(stored(id, offset, offset)).unwrap();
        }
        assert_eq!((window.acknowledged().messages, window.len()), (10, 0));
    }

    #[test]
    fn with_ids_nothing_that_is_sent_again_in_time_can_be_stored_twice() {
        for (window, resent) in [(Duration::from_secs(600), 0), (Duration::ZERO, 5)] {
            let mut window = guarded(&[2, 3], Guards { dedupe_window: Some(window), ..Guards::default() });
            assert_eq!((window.resend().len(), window.resent()), (2, resent));
            let duplicates = [0, 1].map(|index| Duplicate { index, offset: 7 }).to_vec();
            let again = PublishResponse { duplicates, ..PublishResponse::default() };
            window
                .answer(PublishStreamResponse { request_id: 1, result: Some(Answer::Receipt(again)) })
                .unwrap();
            window.answer(stored(2, 9, 11)).unwrap();
            let tally = window.acknowledged();
            assert_eq!((tally.messages, tally.duplicates), (5, 2));
            assert_eq!((tally.first_offset, tally.last_offset), (9, 11), "of those that were stored now");
        }
    }

    #[test]
    fn every_request_expects_those_before_it() {
        let guards = Guards { expected_last_offset: Some(40), ..Guards::default() };
        let mut window = guarded(&[2, 3, 1], guards);
        let expected =
            window.resend().into_iter().map(|request| request.publish.unwrap().expected_last_offset);
        assert_eq!(expected.collect::<Vec<_>>(), [Some(40), Some(42), Some(45)]);
    }

    #[test]
    fn answers_to_nothing_are_refused() {
        let mut window = window(&[1]);
        assert!(window.answer(stored(2, 1, 1)).is_err());
        assert!(window.answer(PublishStreamResponse { request_id: 1, result: None }).is_err());
        window.answer(stored(1, 1, 1)).unwrap();
        assert!(window.answer(stored(1, 1, 1)).is_err());
    }
}

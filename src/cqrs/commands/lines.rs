//! What waits at a handler for its key: commands of one key are carried out one after the other, but the
//! engine hands several of them to the same handler.

use std::collections::{HashMap, VecDeque};

use super::live::Id;
use crate::model::{Delivery, Name};

/// A type and a key.
pub(super) type Line = (Name, String);

/// The keys of commands that a handler has. Plain: knows no engine and no clock.
#[derive(Debug, Default)]
pub(super) struct Lines(HashMap<Line, Waiting>);

#[derive(Debug)]
struct Waiting {
    /// The command that is carried out.
    head: Id,
    /// Those after it, in order.
    rest: VecDeque<Delivery>,
}

impl Lines {
    /// A command has come. Returns it if it is its turn.
    pub(super) fn come(&mut self, line: &Line, id: &Id, delivery: Delivery) -> Option<Delivery> {
        match self.0.get_mut(line) {
            None => {
                self.0.insert(line.clone(), Waiting { head: Id::clone(id), rest: VecDeque::new() });
                Some(delivery)
            }
            // The head once more: what followed it was taken back with it, and comes again, too.
            Some(waiting) if waiting.head == *id => {
                waiting.rest.clear();
                Some(delivery)
            }
            Some(waiting) => {
                // What is older is not known to be taken back: what comes now has taken its place.
                let offset = delivery.message.offset;
                waiting.rest.retain(|other| other.message.offset < offset);
                waiting.rest.push_back(delivery);
                None
            }
        }
    }

    /// A command is not carried out any more. If it has ended, the next of its key is to be looked at, which
    /// is then the head, by the id that `id_of` finds; else all of the key are taken back.
    pub(super) fn freed(
        &mut self,
        line: &Line,
        id: &str,
        ended: bool,
        id_of: impl Fn(&Delivery) -> Option<Id>,
    ) -> Option<Delivery> {
        let waiting = self.0.get_mut(line).filter(|waiting| &*waiting.head == id)?;
        while let Some(next) = waiting.rest.pop_front().filter(|_| ended) {
            if let Some(id) = id_of(&next) {
                waiting.head = id;
                return Some(next);
            }
        }
        self.0.remove(line);
        None
    }

    /// What waits, for its leases to be kept.
    pub(super) fn waiting(&self) -> impl Iterator<Item = (&Name, &Delivery)> {
        self.0
            .iter()
            .flat_map(|((kind, _), waiting)| waiting.rest.iter().map(move |delivery| (kind, delivery)))
    }

    /// Takes out all that waits.
    pub(super) fn give_up(&mut self) -> impl Iterator<Item = (Name, Delivery)> {
        self.0.iter_mut().flat_map(|((kind, _), waiting)| {
            std::mem::take(&mut waiting.rest).into_iter().map(|delivery| (kind.clone(), delivery))
        })
    }

    /// The leases of some of those that wait are lost.
    pub(super) fn lost(&mut self, is_lost: impl Fn(&Delivery) -> bool) {
        for waiting in self.0.values_mut() {
            waiting.rest.retain(|delivery| !is_lost(delivery));
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::model::{Envelope, StoredMessage, Timestamp};

    fn delivery(offset: u64) -> Delivery {
        let message = StoredMessage {
            topic: Name::parse("t").unwrap(),
            offset,
            publish_time: Timestamp(0),
            envelope: Envelope(Bytes::new()),
        };
        Delivery { ack_id: Bytes::new(), attempt: 1, message }
    }

    #[test]
    fn one_of_a_key_at_a_time_in_order() {
        let mut lines = Lines::default();
        let line = |key: &str| (Name::parse("a").unwrap(), key.to_owned());
        let id = |offset: u64| Id::from(offset.to_string());
        let id_of = |delivery: &Delivery| Some(id(delivery.message.offset));
        let come = |lines: &mut Lines, key: &str, offset: u64| {
            lines.come(&line(key), &id(offset), delivery(offset)).is_some()
        };
        assert!(come(&mut lines, "x", 1) && come(&mut lines, "y", 2));
        assert!(!come(&mut lines, "x", 3) && !come(&mut lines, "x", 4));
        assert_eq!(lines.waiting().count(), 2);
        let next = lines.freed(&line("x"), "1", true, id_of).unwrap();
        assert_eq!(next.message.offset, 3);
        // The head comes again, and what followed it is to come again, too.
        assert!(come(&mut lines, "x", 3));
        assert_eq!(lines.waiting().count(), 0);
        assert!(!come(&mut lines, "x", 4));
        assert!(lines.freed(&line("x"), "1", true, id_of).is_none(), "not the head");
        assert!(lines.freed(&line("x"), "3", false, id_of).is_none(), "given back");
        assert!(come(&mut lines, "x", 3), "the key is free");
        assert!(!come(&mut lines, "x", 4));
        lines.lost(|delivery| delivery.message.offset == 4);
        assert!(lines.freed(&line("x"), "3", true, id_of).is_none());
        assert!(come(&mut lines, "x", 5));
    }
}

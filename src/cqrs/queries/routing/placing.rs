//! Calls on their way to handlers and back.

use super::{CallNo, DeliveryNo, HandlerNo, Place, Router, Step, lanes_of};

impl Router {
    /// Gives a call that is nowhere to the handler that has the fewest, of equals the one that was given
    /// nothing for longest; or lets it wait.
    pub(super) fn place(&mut self, no: CallNo, steps: &mut Vec<Step>) {
        let call = self.calls.get_mut(&no).expect("only calls that are in are placed");
        let free = self.lanes.handlers(&call.lane).iter().filter_map(|no| {
            let handler = &self.handlers[no];
            handler.has_room().then_some((handler.outstanding.len(), handler.last_given, *no))
        });
        if let Some((_, _, handler)) = free.min() {
            self.give(no, handler, steps);
        } else {
            call.place = Place::Waiting;
            self.lanes.wait(&call.lane, call.order, no);
        }
    }

    /// Places a call that was out for a while: its handlers may be gone.
    pub(super) fn retry(&mut self, no: CallNo, steps: &mut Vec<Step>) {
        let Some(call) = self.calls.get_mut(&no) else { return };
        call.place = Place::Settled;
        if self.lanes.handlers(&call.lane).is_empty() {
            self.lose(no, steps);
        } else {
            self.place(no, steps);
        }
    }

    fn give(&mut self, no: CallNo, to: HandlerNo, steps: &mut Vec<Step>) {
        self.last_delivery += 1;
        let delivery = DeliveryNo(self.last_delivery);
        let call = self.calls.get_mut(&no).expect("only calls that are in are given");
        let until = call.deadline;
        call.place = Place::Given { handler: to, delivery, until, taken: false };
        let handler = self.handlers.get_mut(&to).expect("lanes have connected handlers");
        handler.outstanding.insert(no);
        handler.inbox.push_back(no);
        handler.last_given = self.last_delivery;
        self.changed.insert(to);
        self.deliveries.insert(delivery, no);
        self.timers.insert((until, no));
        steps.push(Step::Given { handler: to, call: no });
    }

    /// Gives a handler with room what waits for it, the oldest first. Nobody else has room for that, or it
    /// would not wait.
    pub(super) fn fill(&mut self, no: HandlerNo, steps: &mut Vec<Step>) {
        while let Some(handler) = self.handlers.get(&no)
            && handler.has_room()
        {
            let lanes = lanes_of(no, &handler.name, &handler.types);
            let firsts = lanes.filter_map(|lane| Some((self.lanes.first(&lane)?, lane)));
            let Some(((order, call), lane)) = firsts.min_by_key(|&((order, _), _)| order) else { return };
            self.lanes.stop_waiting(&lane, order);
            self.give(call, no, steps);
        }
    }

    /// Takes a call from the handler that has it, and gives that one others.
    pub(super) fn free(&mut self, no: CallNo) -> Option<(HandlerNo, Vec<Step>)> {
        let Place::Given { handler, .. } = self.place_of(no)? else { return None };
        self.unplace(no);
        let mut steps = Vec::new();
        self.fill(handler, &mut steps);
        Some((handler, steps))
    }

    /// Takes a call from wherever it is.
    pub(super) fn unplace(&mut self, no: CallNo) {
        let Some(call) = self.calls.get_mut(&no) else { return };
        match std::mem::replace(&mut call.place, Place::Settled) {
            Place::Waiting => self.lanes.stop_waiting(&call.lane, call.order),
            Place::Paused { until } => _ = self.timers.remove(&(until, no)),
            Place::Given { handler, delivery, until, taken } => {
                self.changed.insert(handler);
                self.timers.remove(&(until, no));
                self.deliveries.remove(&delivery);
                if let Some(handler) = self.handlers.get_mut(&handler) {
                    handler.outstanding.remove(&no);
                    if !taken {
                        handler.inbox.retain(|&other| other != no);
                    }
                }
            }
            Place::Settled => {}
        }
    }
}

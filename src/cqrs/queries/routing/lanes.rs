//! Who serves each lane, and what waits in it.

use std::collections::{BTreeMap, HashMap};

use super::{CallNo, HandlerNo, Lane};

/// All lanes that have a handler.
#[derive(Debug, Default)]
pub(super) struct Lanes(HashMap<Lane, State>);

#[derive(Debug, Default)]
struct State {
    handlers: Vec<HandlerNo>,
    /// By the order of the calls.
    waiting: BTreeMap<u64, CallNo>,
}

impl Lanes {
    pub(super) fn join(&mut self, lane: Lane, handler: HandlerNo) {
        self.0.entry(lane).or_default().handlers.push(handler);
    }

    /// Takes a handler out; with the last one go the calls that wait.
    pub(super) fn leave(&mut self, lane: &Lane, handler: HandlerNo) -> Vec<CallNo> {
        let Some(state) = self.0.get_mut(lane) else { return Vec::new() };
        state.handlers.retain(|&other| other != handler);
        if !state.handlers.is_empty() {
            return Vec::new();
        }
        let state = self.0.remove(lane).unwrap_or_default();
        state.waiting.into_values().collect()
    }

    pub(super) fn handlers(&self, lane: &Lane) -> &[HandlerNo] {
        self.0.get(lane).map_or(&[], |state| &state.handlers)
    }

    /// How many calls wait.
    pub(super) fn waiting(&self, lane: &Lane) -> usize {
        self.0.get(lane).map_or(0, |state| state.waiting.len())
    }

    pub(super) fn wait(&mut self, lane: &Lane, order: u64, call: CallNo) {
        if let Some(state) = self.0.get_mut(lane) {
            state.waiting.insert(order, call);
        }
    }

    pub(super) fn stop_waiting(&mut self, lane: &Lane, order: u64) {
        if let Some(state) = self.0.get_mut(lane) {
            state.waiting.remove(&order);
        }
    }

    /// The call that has waited longest.
    pub(super) fn first(&self, lane: &Lane) -> Option<(u64, CallNo)> {
        let (&order, &call) = self.0.get(lane)?.waiting.first_key_value()?;
        Some((order, call))
    }
}

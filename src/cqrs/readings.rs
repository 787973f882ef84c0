//! What these layers have counted and measured, for whoever watches the server.

use super::Cqrs;
use super::commands::{Ending, TypeStats};
use super::handlers::HandlerKind;
use super::queries::Counters;
use crate::meter::Distribution;
use crate::model::{Name, Offset};

/// The readings of commands, queries and views.
#[derive(Debug, Clone)]
pub(crate) struct Readings {
    /// Commands that no handler has.
    pub(crate) commands_pending: u64,
    /// Commands that one has.
    pub(crate) commands_running: u64,
    /// Commands that ended, by how.
    pub(crate) commands_ended: [(Ending, u64); 4],
    /// From accepting a command until it ended, in seconds.
    pub(crate) command_durations: Distribution,
    /// Connected handlers of commands.
    pub(crate) command_handlers: u64,
    /// What happened to queries.
    pub(crate) queries: Counters,
    /// Connected handlers of queries.
    pub(crate) query_handlers: u64,
    /// How many messages of a bucket's topic its view has not taken in, by the topic.
    pub(crate) view_lags: Vec<(Name, Offset)>,
}

impl Cqrs {
    /// Everything, as of now.
    pub(crate) async fn readings(&self) -> Readings {
        let stats = self.commands.stats();
        let sum = |count: fn(&TypeStats) -> u64| stats.iter().map(count).sum();
        let ended = |ending: Ending| {
            let of_type = |stats: &TypeStats| stats.ended.iter().find(|(it, _)| *it == ending).map(|it| it.1);
            (ending, stats.iter().filter_map(of_type).sum())
        };
        Readings {
            commands_pending: sum(|stats| stats.pending),
            commands_running: sum(|stats| stats.running),
            commands_ended: Ending::ALL.map(ended),
            command_durations: self.commands.durations(),
            command_handlers: self.handlers.count(HandlerKind::Command),
            queries: self.queries.counters(),
            query_handlers: self.handlers.count(HandlerKind::Query),
            view_lags: self.views.lags().await,
        }
    }
}

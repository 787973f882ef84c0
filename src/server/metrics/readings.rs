//! Everything that a scrape tells, and how it is written down.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;

use super::families as f;
use super::page::{OTHERS, Page, label};
use crate::api::MethodReadings;
use crate::cqrs::{self, Ending};
use crate::engine::{self, LogReadings, SubscriptionReadings, TopicReadings};
use crate::model::limits::MAX_METRIC_LABELS;

/// No labels.
const BARE: [&str; 0] = [];

/// All readings of a server at one time.
#[derive(Debug)]
pub(super) struct Readings {
    pub(super) engine_name: &'static str,
    pub(super) started: SystemTime,
    pub(super) engine: engine::Readings,
    pub(super) cqrs: cqrs::Readings,
    pub(super) calls: Vec<MethodReadings>,
    pub(super) connections: u64,
    pub(super) max_connections: u64,
    pub(super) tls: Option<Tls>,
}

/// Readings of the certificates.
#[derive(Debug)]
pub(super) struct Tls {
    pub(super) expires_at: SystemTime,
    pub(super) reloads: u64,
    pub(super) failed_reloads: u64,
}

impl Collector for Readings {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page(encoder);
        page.info(&f::BUILD, &[env!("CARGO_PKG_VERSION"), self.engine_name])?;
        page.gauges(&f::START_TIME, [(BARE, unix(self.started))])?;
        self.topics(&mut page)?;
        self.subscriptions(&mut page)?;
        self.log(&mut page)?;
        self.commands(&mut page)?;
        self.queries(&mut page)?;
        self.views(&mut page)?;
        self.calls(&mut page)?;
        self.tls(&mut page)
    }
}

impl Readings {
    fn topics(&self, page: &mut Page<'_>) -> fmt::Result {
        let topics = |value: fn(&TopicReadings) -> u64| {
            self.engine.topics.iter().map(move |topic| ([label(topic.name.as_ref())], value(topic)))
        };
        page.counters(&f::PUBLISHED_MESSAGES, topics(|topic| topic.published_messages))?;
        page.counters(&f::PUBLISHED_BYTES, topics(|topic| topic.published_bytes))?;
        page.counters(&f::DUPLICATES, topics(|topic| topic.duplicates))?;
        page.gauges(&f::STORED_BYTES, topics(|topic| topic.stored_bytes))?;
        page.gauges(&f::TOPICS, [(BARE, self.engine.topics_total)])?;
        let log = self.engine.log.as_ref();
        page.histograms(&f::PUBLISH_DURATION, log.map(|log| (BARE, &log.publishes)))
    }

    fn subscriptions(&self, page: &mut Page<'_>) -> fmt::Result {
        let all = || self.engine.subscriptions.iter().map(|it| ([label(it.name.as_ref())], it));
        let counts = |value: fn(&SubscriptionReadings) -> u64| all().map(move |(name, it)| (name, value(it)));
        page.gauges(&f::BACKLOG, counts(|it| it.backlog_messages))?;
        page.gauges(&f::OLDEST_UNACKED, all().map(|(name, it)| (name, it.oldest_unacked_seconds)))?;
        page.gauges(&f::IN_FLIGHT, counts(|it| it.in_flight))?;
        page.gauges(&f::SCHEDULED, counts(|it| it.scheduled))?;
        page.gauges(&f::CONSUMERS, counts(|it| it.consumers))?;
        page.counters(&f::DELIVERIES, counts(|it| it.deliveries))?;
        page.counters(&f::REDELIVERIES, counts(|it| it.redeliveries))?;
        page.counters(&f::ACKS, counts(|it| it.acks))?;
        page.counters(&f::NACKS, counts(|it| it.nacks))?;
        page.counters(&f::DEADLINES_PASSED, counts(|it| it.deadlines_passed))?;
        page.counters(&f::EXPIRED, counts(|it| it.expired))?;
        page.counters(&f::DEAD_LETTERS, counts(|it| it.dead_letters))?;
        page.gauges(&f::SUBSCRIPTIONS, [(BARE, self.engine.subscriptions_total)])?;
        page.counters(&f::EPHEMERAL_DELIVERIES, [(BARE, self.engine.ephemeral_deliveries)])
    }

    fn log(&self, page: &mut Page<'_>) -> fmt::Result {
        let log = self.engine.log.as_ref();
        let value = |value: fn(&LogReadings) -> u64| log.map(|log| (BARE, value(log)));
        page.gauges(&f::LOG_BYTES, value(|log| log.bytes))?;
        page.gauges(&f::LOG_SEGMENTS, value(|log| log.segments))?;
        page.gauges(&f::LOG_STALLED, value(|log| log.stalled.into()))?;
        page.gauges(&f::DISK_FREE, value(|log| log.free_bytes))?;
        page.gauges(&f::DISK_RESERVE, value(|log| log.reserve_bytes))?;
        page.gauges(&f::QUEUE_BYTES, value(|log| log.queue_bytes))?;
        page.gauges(&f::QUEUE_LIMIT, value(|log| log.queue_limit_bytes))?;
        page.histograms(&f::SYNC_DURATION, log.map(|log| (BARE, &log.syncs)))?;
        page.histograms(&f::BATCH_BYTES, log.map(|log| (BARE, &log.batch_bytes)))?;
        page.histograms(&f::BATCH_REQUESTS, log.map(|log| (BARE, &log.batch_requests)))
    }

    fn commands(&self, page: &mut Page<'_>) -> fmt::Result {
        let ended = self.cqrs.commands_ended.map(|(ending, count)| ([outcome(ending)], count));
        page.counters(&f::COMMANDS_ENDED, ended)?;
        page.gauges(&f::COMMANDS_PENDING, [(BARE, self.cqrs.commands_pending)])?;
        page.gauges(&f::COMMANDS_RUNNING, [(BARE, self.cqrs.commands_running)])?;
        page.gauges(&f::COMMAND_HANDLERS, [(BARE, self.cqrs.command_handlers)])?;
        page.histograms(&f::COMMAND_DURATION, [(BARE, &self.cqrs.command_durations)])
    }

    fn queries(&self, page: &mut Page<'_>) -> fmt::Result {
        let queries = &self.cqrs.queries;
        let outcomes = [(["answered"], queries.answered), (["failed"], queries.failed)];
        page.counters(&f::QUERIES, outcomes)?;
        page.counters(&f::QUERY_CACHE_HITS, [(BARE, queries.from_cache)])?;
        page.counters(&f::QUERY_CACHE_MISSES, [(BARE, queries.missed)])?;
        page.counters(&f::QUERIES_SHARED, [(BARE, queries.shared)])?;
        page.counters(&f::QUERIES_RETRIED, [(BARE, queries.retried)])?;
        page.gauges(&f::QUERY_HANDLERS, [(BARE, self.cqrs.query_handlers)])
    }

    fn views(&self, page: &mut Page<'_>) -> fmt::Result {
        let (own, others) = self.cqrs.view_lags.split_at(self.cqrs.view_lags.len().min(MAX_METRIC_LABELS));
        let own = own.iter().map(|(topic, lag)| ([topic.as_str()], *lag));
        let others = (!others.is_empty()).then(|| ([OTHERS], others.iter().map(|(_, lag)| lag).sum()));
        page.gauges(&f::VIEW_LAG, own.chain(others))
    }

    fn calls(&self, page: &mut Page<'_>) -> fmt::Result {
        let named = || self.calls.iter().map(|call| (call.method.as_deref().unwrap_or(OTHERS), call));
        let ended = named()
            .flat_map(|(method, call)| call.ended.iter().map(move |&(code, count)| ([method, code], count)));
        page.counters(&f::REQUESTS, ended)?;
        let durations = named().filter_map(|(method, call)| Some(([method], call.durations.as_ref()?)));
        page.histograms(&f::REQUEST_DURATION, durations)?;
        page.gauges(&f::STREAMS, named().filter_map(|(method, call)| Some(([method], call.open?))))?;
        page.gauges(&f::CONNECTIONS, [(BARE, self.connections)])?;
        page.gauges(&f::CONNECTION_LIMIT, [(BARE, self.max_connections)])
    }

    fn tls(&self, page: &mut Page<'_>) -> fmt::Result {
        let tls = self.tls.as_ref();
        page.gauges(&f::CERTIFICATE_EXPIRY, tls.map(|tls| (BARE, unix(tls.expires_at))))?;
        page.counters(&f::TLS_RELOADS, tls.map(|tls| (BARE, tls.reloads)))?;
        page.counters(&f::TLS_FAILED_RELOADS, tls.map(|tls| (BARE, tls.failed_reloads)))
    }
}

fn outcome(ending: Ending) -> &'static str {
    match ending {
        Ending::Succeeded => "succeeded",
        Ending::Failed => "failed",
        Ending::Cancelled => "cancelled",
        Ending::Expired => "expired",
    }
}

/// Seconds since 1970.
fn unix(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

//! Streams of what happens in the server: advisories, and changes to topics.

use std::collections::VecDeque;

use futures::{Stream, StreamExt, stream};
use tokio::time::sleep;
use tonic::Status;

use super::status::Refusal;
use super::wire::admin::watch_events_response::Event;
use super::wire::admin::{self, WatchEventsResponse};
use super::wire::v1::watch_topics_response::Event as TopicEvent;
use super::wire::v1::{SnapshotEnd, TopicDeleted, TopicsHeartbeat, WatchTopicsResponse};
use super::{Context, convert};
use crate::engine::{Error, Page, TopicChanged, Watch, Watched};
use crate::model::limits::MAX_PAGE_SIZE;
use crate::model::{Advisory, Name, Notice, Offset, Pattern, Timestamp, Topic};

/// What comes next on a watch; `None` is silence.
async fn next<T>(watch: &mut Watch<T>, context: &Context) -> Result<Option<Watched<T>>, Refusal> {
    tokio::select! {
        biased;
        () = context.stop.cancelled() => Err(Refusal::shutting_down()),
        watched = watch.next() => watched.map(Some).ok_or_else(Refusal::shutting_down),
        () = sleep(context.heartbeat) => Ok(None),
    }
}

/// The stream of advisories.
pub(super) fn events(
    context: Context,
    watch: Watch<Advisory>,
) -> impl Stream<Item = Result<WatchEventsResponse, Status>> + Send {
    stream::unfold(Some((context, watch)), async |state| {
        let (context, mut watch) = state?;
        match next(&mut watch, &context).await {
            Ok(watched) => Some((Ok(event(watched)), Some((context, watch)))),
            Err(refusal) => Some((Err(refusal.into()), None)),
        }
    })
}

fn event(watched: Option<Watched<Advisory>>) -> WatchEventsResponse {
    let (time, event) = match watched {
        Some(Watched::Item(Advisory { time, notice })) => (time, notice_event(notice)),
        Some(Watched::Missed(count)) => {
            (Timestamp::now(), Event::EventsMissed(admin::EventsMissed { count }))
        }
        None => (Timestamp::now(), Event::Heartbeat(admin::EventsHeartbeat {})),
    };
    WatchEventsResponse { time: Some(convert::timestamp(time)), event: Some(event) }
}

fn notice_event(notice: Notice) -> Event {
    match notice {
        Notice::GivenUp { subscription, topic, offset, attempts, reason, letter } => {
            let (dead_letter_topic, dead_letter_offset) = letter_place(letter);
            Event::MessageGivenUp(admin::MessageGivenUp {
                subscription: subscription.to_string(),
                topic: topic.to_string(),
                offset,
                attempts,
                reason,
                dead_letter_topic,
                dead_letter_offset,
            })
        }
        Notice::SlowConsumer { subscription, consumer, name, outstanding } => {
            Event::SlowConsumer(admin::SlowConsumer {
                subscription: subscription.to_string(),
                consumer_id: consumer,
                consumer: name,
                outstanding_messages: outstanding,
            })
        }
        Notice::Damaged { topic, first, last } => Event::DataDamaged(admin::DataDamaged {
            topic: topic.to_string(),
            first_offset: first,
            last_offset: last,
        }),
        Notice::RetentionLoss { subscription, topic, first, last } => {
            Event::RetentionLoss(admin::RetentionLoss {
                subscription: subscription.to_string(),
                topic: topic.to_string(),
                first_offset: first,
                last_offset: last,
            })
        }
        Notice::DiskLow { available, reserve } => {
            Event::DiskLow(admin::DiskLow { available_bytes: available, reserve_bytes: reserve })
        }
        Notice::DiskOk => Event::DiskOk(admin::DiskOk {}),
    }
}

/// Where a dead letter is, on the wire.
pub(super) fn letter_place(letter: Option<(Name, Offset)>) -> (String, Offset) {
    letter.map_or_else(Default::default, |(topic, offset)| (topic.to_string(), offset))
}

/// The stream of topics, and of changes to them.
pub(super) fn topics(
    context: Context,
    watch: Watch<TopicChanged>,
    pattern: Option<Pattern>,
) -> impl Stream<Item = Result<WatchTopicsResponse, Status>> + Send {
    let phase = Phase::Snapshot { after: None, read: VecDeque::new() };
    stream::unfold(Some(Topics { context, watch, pattern, phase }), async |state| {
        let mut state = state?;
        match state.next().await {
            Ok(event) => Some((Ok(WatchTopicsResponse { event: Some(event) }), Some(state))),
            Err(refusal) => Some((Err(refusal.into()), None)),
        }
    })
}

/// What a stream of topics knows. The changes are watched from the beginning, the topics that are there
/// read as the client takes them.
struct Topics {
    context: Context,
    watch: Watch<TopicChanged>,
    pattern: Option<Pattern>,
    phase: Phase,
}

enum Phase {
    Snapshot { after: Option<Name>, read: VecDeque<Topic> },
    Live,
}

impl Topics {
    async fn next(&mut self) -> Result<TopicEvent, Refusal> {
        if let Phase::Snapshot { after, read } = &mut self.phase {
            if read.is_empty() {
                let (after, pattern) = (after.clone(), self.pattern.clone());
                let page = Page { after, limit: MAX_PAGE_SIZE, pattern };
                *read = self.context.engine.topics(page).await?.into();
            }
            if let Some(topic) = read.pop_front() {
                *after = Some(topic.name.clone());
                return Ok(TopicEvent::Existing(convert::topic(topic)));
            }
            self.phase = Phase::Live;
            return Ok(TopicEvent::SnapshotEnd(SnapshotEnd {}));
        }
        self.live().await
    }

    async fn live(&mut self) -> Result<TopicEvent, Refusal> {
        loop {
            let change = match next(&mut self.watch, &self.context).await? {
                None => return Ok(TopicEvent::Heartbeat(TopicsHeartbeat {})),
                Some(Watched::Missed(missed)) => return Err(Error::WatcherTooSlow { missed }.into()),
                Some(Watched::Item(change)) => change,
            };
            let name = match &change {
                TopicChanged::Created(topic) | TopicChanged::Updated(topic) => &topic.name,
                TopicChanged::Deleted(name) => name,
            };
            let wanted = self.pattern.as_ref().is_none_or(|pattern| pattern.matches(name));
            if wanted && !name.is_internal() {
                return Ok(topic_event(change));
            }
        }
    }
}

fn topic_event(change: TopicChanged) -> TopicEvent {
    match change {
        TopicChanged::Created(topic) => TopicEvent::Created(convert::topic(topic)),
        TopicChanged::Updated(topic) => TopicEvent::Updated(convert::topic(topic)),
        TopicChanged::Deleted(name) => TopicEvent::Deleted(TopicDeleted { topic: name.to_string() }),
    }
}

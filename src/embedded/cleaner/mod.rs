//! Keeps the log from growing for ever: drops what topics need not keep, moves what is left out of segments
//! that are mostly dead, and removes those that are.
//!
//! It looks every second, and sooner when much was written. What it does to the log it has the
//! writer do, among the publishes, in small steps; it never holds up a publish. [`retention`] says what may
//! go, [`reclaim`] frees its space.

mod clock;
mod reclaim;
pub(crate) mod retention;
mod walk;

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use self::clock::SteadyClock;
use self::reclaim::Reclaim;
use super::Shared;
use super::log::format::Trim;
use super::log::writer::Upkeep;
use super::log::{Log, Operation};
use super::topic::TopicHandle;
use crate::engine::{Error, Result};
use crate::model::{Advisory, Notice, Offset, Timestamp};

/// How long to wait after a failure.
const RETRY: Duration = Duration::from_secs(10);
/// Topics whose messages are dropped in one transaction.
const TRIMS_AT_ONCE: usize = 1_000;

/// Cleans every `period` until the engine is closed or gone.
pub(super) fn start(engine: &Arc<Shared>, period: Duration, segment_bytes: u64) {
    let clock = SteadyClock::new(Timestamp::now(), Instant::now());
    for work in [Work::Retain(clock), Work::Reclaim(Reclaim::new(segment_bytes))] {
        tokio::spawn(run(Arc::downgrade(engine), period, work));
    }
}

/// What is done in passes. Each has a task of its own: moving messages takes its time, and nobody's limit
/// is to be passed meanwhile.
enum Work {
    Retain(SteadyClock),
    Reclaim(Reclaim),
}

async fn run(engine: Weak<Shared>, period: Duration, mut work: Work) {
    let mut wait = period;
    loop {
        let Some(grown) = engine.upgrade().map(|engine| engine.log.reader.segments().grown()) else { return };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = grown => {}
        }
        let Some(engine) = engine.upgrade() else { return };
        if engine.check_open().is_err() {
            return;
        }
        let done = match &mut work {
            Work::Retain(clock) => retain(&engine, clock).await,
            Work::Reclaim(reclaim) => reclaim.pass(&engine).await,
        };
        wait = match done {
            Ok(()) => period,
            Err(Error::Closed | Error::Failed(_)) => return,
            Err(error) => {
                tracing::warn!(%error, "could not clean the log; trying again");
                RETRY
            }
        };
    }
}

/// Drops what topics need not keep.
async fn retain(engine: &Arc<Shared>, clock: &mut SteadyClock) -> Result<()> {
    let now = clock.read(Timestamp::now(), Instant::now());
    // A purge meanwhile would count the same messages.
    let _changes = engine.changing().await?;
    let topics: Vec<_> = engine.catalog().topics.values().cloned().collect();
    let acked = acked(engine);
    let reader = Arc::clone(&engine.log.reader);
    let due = blocking(move || {
        let mut due = Vec::new();
        for topic in topics {
            match retention::due(&reader, &topic, acked.get(&topic.id).copied(), now) {
                Ok(trim) => due.extend(trim.map(|trim| (topic, trim))),
                Err(error) => {
                    tracing::warn!(topic = %topic.name, %error, "cannot see what need not be kept");
                }
            }
        }
        Ok(due)
    });
    let mut due = due.await?;
    while !due.is_empty() {
        let rest = due.split_off(due.len().min(TRIMS_AT_ONCE));
        tell_of_losses(engine, &due);
        trim(&engine.log, due).await?;
        engine.log.reader.segments().note_dropped();
        due = rest;
    }
    Ok(())
}

/// The first message of each topic that some subscription of it has not settled on disk.
fn acked(engine: &Shared) -> BTreeMap<u64, Offset> {
    let mut acked = BTreeMap::new();
    for subscription in engine.catalog().subscriptions.values() {
        for lane in subscription.lanes().iter() {
            let next = lane.committed_floor() + 1;
            acked
                .entry(lane.topic.id)
                .and_modify(|least: &mut Offset| *least = next.min(*least))
                .or_insert(next);
        }
    }
    acked
}

/// Tells those who watch of subscriptions that lose messages by retention.
fn tell_of_losses(engine: &Shared, due: &[(Arc<TopicHandle>, Trim)]) {
    let firsts: BTreeMap<u64, Offset> = due.iter().map(|(topic, trim)| (topic.id, trim.first)).collect();
    for subscription in engine.catalog().subscriptions.values().filter(|it| !it.is_internal()) {
        for lane in subscription.lanes().iter() {
            let lost = lane.committed_floor() + 1;
            let Some(&first) = firsts.get(&lane.topic.id).filter(|&&first| lost < first) else { continue };
            engine.advisories.tell(|| {
                Advisory::now(Notice::RetentionLoss {
                    subscription: subscription.name.clone(),
                    topic: lane.topic.name.clone(),
                    first: lost,
                    last: first - 1,
                })
            });
        }
    }
}

/// Drops messages; durable when this returns.
pub(crate) async fn trim(log: &Log, trims: Vec<(Arc<TopicHandle>, Trim)>) -> Result<()> {
    upkeep(log, |reply| Upkeep::Trim { trims, reply }).await
}

/// Has the writer do something.
async fn upkeep<T>(log: &Log, upkeep: impl FnOnce(oneshot::Sender<Result<T>>) -> Upkeep) -> Result<T> {
    let (reply, done) = oneshot::channel();
    log.check_stall()?;
    log.submit(Operation::Upkeep(upkeep(reply)));
    log.answer(done).await
}

/// Runs what reads the disk off the async threads.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await.map_err(std::io::Error::other);
    done.flatten().map_err(|error| Error::Disk { reason: error.to_string() })
}

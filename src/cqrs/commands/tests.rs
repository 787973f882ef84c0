//! The state machine of an execution against a naive model; and the layer on an engine, where the API does not
//! reach.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::execution::{Cancel, Delivered, Due, Ended, Ending, Execution, Lease, State, Unclaimed};
use super::handling::Event;
use super::index::Told;
use super::record::{Command, Failure, StoredCommand, StoredOutcome};
use super::{Commands, Completion, Listing, Parts};
use crate::cqrs::handlers::Handlers;
use crate::engine::{Engine, MemoryEngine};
use crate::model::limits::{DEFAULT_COMMAND_RETENTION, MAX_UNFINISHED_PER_TYPE};
use crate::model::{Kind, Name, Timestamp};

/// What happens to a command; times are in seconds.
#[derive(Debug, Clone)]
enum Step {
    Pass(u64),
    Deliver,
    Extend { back: usize, by: u64 },
    Release { back: usize },
    Claim { back: usize },
    GiveBack,
    Succeed,
    Fails,
    Cancel,
    Look,
}

fn step() -> impl Strategy<Value = Step> {
    let back = 0..3_usize;
    prop_oneof![
        (1..40_u64).prop_map(Step::Pass),
        Just(Step::Deliver),
        (back.clone(), 1..60_u64).prop_map(|(back, by)| Step::Extend { back, by }),
        back.clone().prop_map(|back| Step::Release { back }),
        back.prop_map(|back| Step::Claim { back }),
        Just(Step::GiveBack),
        Just(Step::Succeed),
        Just(Step::Fails),
        Just(Step::Cancel),
        Just(Step::Look),
    ]
}

/// The same in the plainest words: the history of leases, and what is known besides.
#[derive(Debug, Default)]
struct Model {
    now: u64,
    /// Ends of all leases so far; the last one counts, unless it was given back for another attempt.
    leases: Vec<u64>,
    void: bool,
    claimed: bool,
    cancel: bool,
    ended: Option<Ending>,
}

const TIMEOUT: u64 = 100;
const LEASE: u64 = 30;

impl Model {
    fn state(&self) -> State {
        match (self.ended, self.leases.last()) {
            (Some(ending), _) => State::Ended(ending),
            (None, Some(&until)) if until > self.now => State::Running,
            (None, _) => State::Pending,
        }
    }

    fn is_last(&self, lease: usize) -> bool {
        lease + 1 == self.leases.len() && !self.void
    }
}

proptest! {
    #[test]
    fn an_execution_does_what_the_model_says(steps in proptest::collection::vec(step(), 1..60)) {
        let begin = Instant::now();
        let at = |seconds: u64| begin + Duration::from_secs(seconds);
        let stamp = |seconds: u64| Timestamp(1_000 + seconds);
        let timeout = Duration::from_secs(TIMEOUT);
        let mut execution = Execution::<u8>::new(stamp(0), timeout, timeout, begin);
        execution.offset = 1;
        let mut model = Model::default();
        let ack = |lease: usize| Bytes::from(format!("lease {lease}"));
        for step in steps {
            let now = model.now;
            let revision = execution.revision;
            let busy = model.claimed || model.ended.is_some();
            // A lease of some time ago, 0 for the last.
            let lease = |back: usize| (model.leases.len()).checked_sub(back + 1);
            match step {
                Step::Pass(seconds) => model.now += seconds,
                Step::Deliver => {
                    let attempt = u32::try_from(model.leases.len() + 1).unwrap();
                    let until = at(now + LEASE);
                    let offered = Lease { ack: ack(model.leases.len()), attempt, until, holder: 0 };
                    let expected = match () {
                        () if busy => Delivered::Ignore,
                        () if now >= TIMEOUT => Delivered::End(Ending::Expired),
                        () if model.cancel => Delivered::End(Ending::Cancelled),
                        () => Delivered::HandOut,
                    };
                    prop_assert_eq!(execution.deliver(offered, at(now), stamp(now)), expected);
                    if expected == Delivered::HandOut {
                        model.leases.push(now + LEASE);
                        model.void = false;
                        prop_assert_eq!(execution.attempts, attempt);
                    }
                }
                Step::Extend { back, by } => if let Some(lease) = lease(back) {
                    execution.extend(&ack(lease), at(now + by));
                    if model.is_last(lease) {
                        model.leases[lease] = now + by;
                    }
                },
                Step::Release { back } => if let Some(lease) = lease(back) {
                    let held = model.is_last(lease) && model.leases[lease] > now;
                    prop_assert_eq!(execution.release(&ack(lease), at(now), stamp(now)), held);
                    if held {
                        model.leases[lease] = now;
                    }
                },
                Step::Claim { back } => if let Some(lease) = lease(back) {
                    let claimed = execution.claim(&ack(lease));
                    match (model.ended, model.claimed, model.is_last(lease)) {
                        (Some(_), ..) => prop_assert!(matches!(claimed, Err(Unclaimed::Ended(_)))),
                        (None, true, _) => prop_assert_eq!(claimed, Err(Unclaimed::Settling)),
                        (None, false, true) => {
                            prop_assert_eq!(claimed, Ok(()));
                            model.claimed = true;
                        }
                        (None, false, false) => prop_assert_eq!(claimed, Err(Unclaimed::LeaseLost)),
                    }
                },
                Step::GiveBack if model.claimed => {
                    let failure = Failure { code: "C".into(), message: String::new(), retryable: true };
                    execution.failed(Arc::new(failure), at(now), stamp(now));
                    (model.claimed, model.void) = (false, true);
                    if let Some(until) = model.leases.last_mut() {
                        *until = now;
                    }
                }
                Step::Succeed if model.claimed => {
                    execution.end(Ended { ending: Ending::Succeeded, outcome: 7, time: stamp(now) });
                    (model.claimed, model.ended) = (false, Some(Ending::Succeeded));
                }
                Step::Fails if model.claimed => {
                    execution.unsettled();
                    model.claimed = false;
                }
                Step::Cancel => {
                    let asked = execution.cancel(at(now));
                    match (model.ended, model.claimed, model.state()) {
                        (Some(_), ..) => prop_assert!(matches!(asked, Cancel::Ended(_))),
                        (None, true, _) => prop_assert_eq!(asked, Cancel::Settling),
                        (None, false, State::Running) => {
                            prop_assert_eq!(asked, Cancel::Tell(0, ack(model.leases.len() - 1)));
                            execution.set_cancel_requested(stamp(now));
                            model.cancel = true;
                        }
                        (None, false, _) => prop_assert_eq!(asked, Cancel::End),
                    }
                }
                Step::Look => {
                    let due = execution.due(at(now));
                    let running = model.state() == State::Running;
                    let expected = match () {
                        () if busy => Due::Nothing,
                        () if now >= TIMEOUT => Due::End(Ending::Expired),
                        () if !model.cancel => Due::At(at(TIMEOUT)),
                        () if running => Due::At(at(TIMEOUT.min(*model.leases.last().unwrap()))),
                        () => Due::End(Ending::Cancelled),
                    };
                    prop_assert_eq!(due, expected);
                    if let Due::End(ending) = due {
                        prop_assert!(execution.begin() && !execution.begin());
                        execution.end(Ended { ending, outcome: 8, time: stamp(now) });
                        model.ended = Some(ending);
                    }
                }
                Step::GiveBack | Step::Succeed | Step::Fails => {}
            }
            prop_assert_eq!(execution.state(at(model.now)), model.state());
            prop_assert!(execution.revision >= revision);
        }
    }
}

fn name() -> Name {
    Name::parse("orders.place").unwrap()
}

fn command(id: &str) -> Command {
    Command {
        id: id.into(),
        kind: name(),
        key: String::new(),
        payload: Bytes::from_static(b"p"),
        content_type: String::new(),
        attributes: std::collections::BTreeMap::new(),
        timeout: Duration::from_secs(60),
        correlation_id: String::new(),
        causation_id: String::new(),
    }
}

async fn open(engine: &Arc<dyn Engine>, directory: Option<&Path>, retention: Duration) -> Commands {
    Commands::open(engine, directory, retention, Handlers::default()).await.unwrap()
}

fn memory() -> Arc<dyn Engine> {
    Arc::new(MemoryEngine::default())
}

/// Carries out one command; returns its id.
async fn carry_out(commands: &Commands) -> String {
    let mut handling = commands.handle(vec![name()], "", 1).await.unwrap();
    let Event::Delivery(handed) = handling.next().await.unwrap() else { panic!("a delivery") };
    let result = Completion::Result(Bytes::from_static(b"r"));
    commands.complete(handed.ack_id.clone(), result, Vec::new()).await.unwrap();
    handed.command.id
}

async fn send(commands: &Commands, id: &str) {
    commands.send(command(id), Duration::ZERO, &CancellationToken::new()).await.unwrap();
}

#[tokio::test]
async fn an_index_that_is_gone_damaged_or_of_another_log_is_made_anew() {
    let engine = memory();
    let dir = tempfile::tempdir().unwrap();
    let commands = open(&engine, Some(dir.path()), DEFAULT_COMMAND_RETENTION).await;
    drop(commands.handle(vec![name()], "", 1).await.unwrap());
    for id in ["a", "b"] {
        send(&commands, id).await;
    }
    assert_eq!(carry_out(&commands).await, "a");
    commands.list(Listing { limit: 9, ..Listing::default() }, None).await.unwrap();
    let known = commands.view("a", Parts::Whole).await.unwrap();
    commands.close().await;
    drop(commands);
    let file = std::fs::read_dir(dir.path()).unwrap().next().unwrap().unwrap().path();
    let good = std::fs::read(&file).unwrap();
    for bad in [None, Some(vec![7; 9_000]), Some(good[..good.len() / 2].to_vec())] {
        match bad {
            None => std::fs::remove_file(&file).unwrap(),
            Some(bytes) => std::fs::write(&file, bytes).unwrap(),
        }
        let commands = open(&engine, Some(dir.path()), DEFAULT_COMMAND_RETENTION).await;
        assert_eq!(commands.view("a", Parts::Whole).await.unwrap(), known);
        let again = commands.send(command("a"), Duration::ZERO, &CancellationToken::new()).await.unwrap();
        assert_eq!(again.state, State::Ended(Ending::Succeeded));
        assert_eq!(commands.view("b", Parts::Whole).await.unwrap().state, State::Pending);
        commands.close().await;
    }
    // Another log, as long as that one.
    let other = memory();
    let commands = open(&other, None, DEFAULT_COMMAND_RETENTION).await;
    drop(commands.handle(vec![name()], "", 1).await.unwrap());
    for id in ["c", "d"] {
        send(&commands, id).await;
    }
    assert_eq!(carry_out(&commands).await, "c");
    commands.close().await;
    drop(commands);
    let commands = open(&other, Some(dir.path()), DEFAULT_COMMAND_RETENTION).await;
    assert_eq!(commands.view("a", Parts::Whole).await.unwrap_err().reason(), "COMMAND_NOT_FOUND");
    assert_eq!(commands.view("c", Parts::Whole).await.unwrap().state, State::Ended(Ending::Succeeded));
    let listed = commands.list(Listing { limit: 9, ..Listing::default() }, None).await.unwrap().0;
    assert_eq!(listed.iter().map(|view| &*view.command.id).collect::<Vec<_>>(), ["c", "d"]);
    commands.close().await;
    drop(commands);
    // And one without the type.
    let commands = open(&memory(), Some(dir.path()), DEFAULT_COMMAND_RETENTION).await;
    assert_eq!(commands.view("c", Parts::Whole).await.unwrap_err().reason(), "COMMAND_NOT_FOUND");
}

#[tokio::test]
async fn rows_of_unknown_types_and_topics_that_cannot_be_read_hold_nothing_up() {
    let engine = memory();
    let commands = open(&engine, None, DEFAULT_COMMAND_RETENTION).await;
    // It comes before the other.
    let bad = Name::parse("a").unwrap();
    drop(commands.handle(vec![bad.clone(), name()], "", 2).await.unwrap());
    let row = Told::command(&Name::parse("aa").unwrap(), 1, StoredCommand::new(&command("x"), Timestamp(1)));
    commands.0.followed.index().apply(vec![row], Vec::new()).await.unwrap();
    send(&commands, "b").await;
    let listed = commands.list(Listing { limit: 9, ..Listing::default() }, None).await.unwrap().0;
    assert_eq!(listed.iter().map(|view| &*view.command.id).collect::<Vec<_>>(), ["b"]);

    engine.delete_topic(&Name::internal("commands", &bad), None).await.unwrap();
    commands.0.types.find(&bad).unwrap().command_at(1);
    assert_eq!(carry_out(&commands).await, "b");
    let indexed = async {
        while commands.0.knows("b") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), indexed).await.expect("the other type is read");
    let refused = commands.list(Listing { limit: 9, ..Listing::default() }, None).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Unavailable);
}

#[tokio::test]
async fn attempts_of_before_a_restart_are_known() {
    let engine = memory();
    let commands = open(&engine, None, DEFAULT_COMMAND_RETENTION).await;
    let mut handling = commands.handle(vec![name()], "", 9).await.unwrap();
    for id in ["pending", "expires"] {
        let timeout = if id == "expires" { Duration::from_millis(50) } else { Duration::from_secs(60) };
        let command = Command { timeout, ..command(id) };
        commands.send(command, Duration::ZERO, &CancellationToken::new()).await.unwrap();
        assert!(matches!(handling.next().await.unwrap(), Event::Delivery(_)));
    }
    commands.close().await;
    drop(handling);
    let commands = open(&engine, None, DEFAULT_COMMAND_RETENTION).await;
    let pending = commands.view("pending", Parts::Whole).await.unwrap();
    assert_eq!((pending.state, pending.attempts), (State::Pending, 1));
    let expired = commands.wait("expires", Duration::from_secs(20), &CancellationToken::new()).await.unwrap();
    assert_eq!((expired.state, expired.attempts), (State::Ended(Ending::Expired), 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn cancelling_beside_a_failure_that_may_pass_does_not_leave_it_pending() {
    let engine = memory();
    let commands = open(&engine, None, DEFAULT_COMMAND_RETENTION).await;
    let mut handling = commands.handle(vec![name()], "", 1).await.unwrap();
    // On a worker, what is spawned last runs first: the failure comes between the decision to tell the handler
    // and the telling.
    let rounds = async move {
        for round in 0..50 {
            let id = round.to_string();
            send(&commands, &id).await;
            let Event::Delivery(handed) = handling.next().await.unwrap() else { panic!("a delivery") };
            let failure = Failure { code: "BUSY".into(), message: String::new(), retryable: true };
            let fail = commands.complete(handed.ack_id, Completion::Failure(failure), Vec::new());
            let (cancelled, _) = tokio::join!(commands.cancel(&id), fail);
            assert_ne!(cancelled.unwrap().state, State::Pending, "round {round}");
        }
    };
    tokio::spawn(rounds).await.unwrap();
}

#[tokio::test]
async fn an_execution_is_forgotten_with_its_id_and_the_id_runs_again() {
    let engine = memory();
    let commands = open(&engine, None, DEFAULT_COMMAND_RETENTION).await;
    drop(commands.handle(vec![name()], "", 1).await.unwrap());
    send(&commands, "a").await;
    carry_out(&commands).await;
    commands.list(Listing { limit: 9, ..Listing::default() }, None).await.unwrap();
    let first = commands.view("a", Parts::Whole).await.unwrap();
    let index = commands.0.followed.index();
    assert_eq!(index.forget(first.ended.unwrap(), 10).await, Ok(0), "not before its time");
    assert_eq!(index.forget(first.ended.unwrap().after(Duration::from_micros(1)), 10).await, Ok(1));
    assert_eq!(commands.view("a", Parts::Whole).await.unwrap_err().reason(), "COMMAND_NOT_FOUND");
    send(&commands, "a").await;
    let second = commands.view("a", Parts::Whole).await.unwrap();
    assert!(second.accepted > first.accepted && second.state == State::Pending);
    // Made anew, the index knows the later one.
    commands.close().await;
    let commands = open(&engine, None, DEFAULT_COMMAND_RETENTION).await;
    assert_eq!(commands.view("a", Parts::Whole).await.unwrap().accepted, second.accepted);
    assert_eq!(carry_out(&commands).await, "a");
}

#[tokio::test]
async fn what_was_asked_and_what_is_due_outlasts_a_restart() {
    let engine = memory();
    let commands = open(&engine, None, DEFAULT_COMMAND_RETENTION).await;
    let mut handling = commands.handle(vec![name()], "", 9).await.unwrap();
    for id in ["cancelled", "expires"] {
        let timeout = if id == "expires" { Duration::from_millis(50) } else { Duration::from_secs(60) };
        let command = Command { timeout, ..command(id) };
        commands.send(command, Duration::ZERO, &CancellationToken::new()).await.unwrap();
        assert!(matches!(handling.next().await.unwrap(), Event::Delivery(_)));
    }
    assert!(commands.cancel("cancelled").await.unwrap().cancel_requested);
    // As a crash leaves it: nothing is given back before everything stops.
    commands.close().await;
    drop(handling);
    let commands = open(&engine, None, DEFAULT_COMMAND_RETENTION).await;
    let stop = CancellationToken::new();
    for (id, ending) in [("cancelled", Ending::Cancelled), ("expires", Ending::Expired)] {
        let view = commands.wait(id, Duration::from_secs(20), &stop).await.unwrap();
        assert_eq!(view.state, State::Ended(ending));
    }
}

#[tokio::test]
async fn what_retention_took_before_its_end_expires_all_the_same() {
    let engine = memory();
    let commands = open(&engine, None, DEFAULT_COMMAND_RETENTION).await;
    drop(commands.handle(vec![name()], "", 1).await.unwrap());
    let short = Command { timeout: Duration::from_millis(300), ..command("a") };
    commands.send(short, Duration::ZERO, &CancellationToken::new()).await.unwrap();
    let topic = Name::internal("commands", &name());
    engine.purge(&topic, crate::model::Start::Latest, crate::engine::Intent::Apply).await.unwrap();
    let view = commands.wait("a", Duration::from_secs(20), &CancellationToken::new()).await.unwrap();
    assert_eq!(view.state, State::Ended(Ending::Expired));
    // Without the index, nothing tells of the command, and its id is free.
    commands.close().await;
    let commands = open(&engine, None, DEFAULT_COMMAND_RETENTION).await;
    assert_eq!(commands.view("a", Parts::Whole).await.unwrap_err().reason(), "COMMAND_NOT_FOUND");
}

#[tokio::test]
async fn a_type_has_a_limit_and_figures() {
    let engine = memory();
    let commands = open(&engine, None, DEFAULT_COMMAND_RETENTION).await;
    let mut handling = commands.handle(vec![name()], "", 1).await.unwrap();
    send(&commands, "a").await;
    send(&commands, "b").await;
    assert!(matches!(handling.next().await.unwrap(), Event::Delivery(_)));
    let stats = &commands.stats()[0];
    assert_eq!((&stats.name, stats.pending, stats.running), (&name(), 1, 1));
    commands.cancel("b").await.unwrap();
    let stats = &commands.stats()[0];
    assert_eq!((stats.pending, stats.running), (0, 1));
    assert_eq!(stats.ended[2], (Ending::Cancelled, 1));
    let kind = commands.0.types.find(&name()).unwrap();
    let unfinished = &kind.counts.unfinished;
    let before = unfinished.swap(MAX_UNFINISHED_PER_TYPE as u64, std::sync::atomic::Ordering::Relaxed);
    let stop = CancellationToken::new();
    let refused = commands.send(command("c"), Duration::ZERO, &stop).await.unwrap_err();
    assert_eq!((refused.reason(), refused.retry_after().is_some()), ("TOO_MANY_COMMANDS", true));
    // What needs no place is answered: of the table, and of the index.
    commands.list(Listing { limit: 9, ..Listing::default() }, None).await.unwrap();
    assert!(!commands.0.knows("b"));
    for (id, state) in [("a", State::Running), ("b", State::Ended(Ending::Cancelled))] {
        let again = commands.send(command(id), Duration::ZERO, &stop).await.unwrap();
        assert_eq!(again.state, state);
    }
    let other = Command { payload: Bytes::new(), ..command("b") };
    assert_eq!(commands.send(other, Duration::ZERO, &stop).await.unwrap_err().reason(), "COMMAND_EXISTS");
    unfinished.store(before, std::sync::atomic::Ordering::Relaxed);
    send(&commands, "c").await;
}

#[tokio::test]
async fn a_claim_to_an_id_hides_nothing() {
    let engine = memory();
    let commands = open(&engine, None, DEFAULT_COMMAND_RETENTION).await;
    let mut handling = commands.handle(vec![name()], "", 1).await.unwrap();
    send(&commands, "a").await;
    let Event::Delivery(handed) = handling.next().await.unwrap() else { panic!("a delivery") };
    let result = || Completion::Result(Bytes::from_static(b"r"));
    commands.complete(handed.ack_id.clone(), result(), Vec::new()).await.unwrap();
    commands.list(Listing { limit: 9, ..Listing::default() }, None).await.unwrap();
    assert!(!commands.0.knows("a"), "the index has it");
    // Somebody sends it again, and has not looked it up yet.
    let kind = commands.0.types.find(&name()).unwrap();
    let claim = |id: &str| {
        let long = Duration::from_secs(60);
        let execution = Execution::new(Timestamp::now(), long, long, Instant::now());
        commands.0.table().insert(id.into(), Arc::clone(&kind), 7, execution);
    };
    claim("a");
    let ended = State::Ended(Ending::Succeeded);
    assert_eq!(commands.view("a", Parts::Whole).await.unwrap().state, ended);
    let stop = CancellationToken::new();
    assert_eq!(commands.wait("a", Duration::from_secs(20), &stop).await.unwrap().state, ended);
    let again = commands.complete(handed.ack_id.clone(), result(), Vec::new()).await.unwrap();
    assert_eq!(again.state, ended, "the same once more does nothing");
    assert_eq!(commands.extend(handed.ack_id.clone(), None).await.unwrap_err().reason(), "COMMAND_ENDED");
    // What has not been stored cannot be cancelled before it is.
    let (cancelled, ()) = tokio::join!(commands.cancel("a"), async { commands.0.table().withdraw("a") });
    assert_eq!(cancelled.unwrap_err().reason(), "COMMAND_ENDED");
    claim("b");
    assert!(!Arc::clone(&commands.0).end("b".into(), Ending::Cancelled).await.unwrap());
    assert_eq!(commands.view("b", Parts::Whole).await.unwrap_err().reason(), "COMMAND_NOT_FOUND");
}

#[tokio::test]
async fn while_the_index_is_made_anew_callers_are_refused_and_claim_nothing() {
    let engine = memory();
    let commands = open(&engine, None, DEFAULT_COMMAND_RETENTION).await;
    drop(commands.handle(vec![name()], "", 1).await.unwrap());
    let making = commands.0.followed.incomplete().await;
    let stop = CancellationToken::new();
    let send_it = commands.send(command("a"), Duration::ZERO, &stop);
    let (viewed, sent) = tokio::join!(commands.view("a", Parts::Whole), send_it);
    for error in [viewed.unwrap_err(), sent.unwrap_err()] {
        assert_eq!((error.kind(), error.retry_after().is_some()), (Kind::Unavailable, true));
    }
    assert!(!commands.0.knows("a"));
    drop(making);
    send(&commands, "a").await;
}

#[test]
fn outcomes_of_other_versions_are_passed_over() {
    let unknown = crate::model::Envelope(Bytes::from_static(&[0xff]));
    assert!(StoredOutcome::read(&unknown).is_none());
    let empty = StoredOutcome::read(&crate::model::Envelope(Bytes::new())).unwrap();
    assert!(empty.ending().is_none() && !empty.is_cancel_request());
}

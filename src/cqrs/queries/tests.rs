//! All of it together, with callers, handlers and watchers that come in crowds and go at any moment.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::task::{JoinSet, yield_now};

use super::error::Over;
use super::question::tests::parts;
use super::*;
use crate::model::Name;

const KIND: &str = "orders.get";

fn start() -> Queries {
    Queries::start(Handlers::default())
}

fn connect(queries: &Queries, name: &str, max: u32) -> Handler {
    queries.handle(name, vec![Name::parse(KIND).unwrap()], max).unwrap()
}

fn terms(timeout: Duration) -> Terms {
    Terms { timeout, cache: CachePolicy::default(), min_revision: 0 }
}

fn answer(text: impl Into<Bytes>, revision: u64) -> Answer {
    Answer { payload: text.into(), content_type: "".into(), revision, handler: "".into() }
}

fn everything() -> Scope {
    Scope { kind: Name::parse(KIND).unwrap(), key: None, payload: None }
}

/// What should happen at once.
async fn within<F: Future>(what: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(60), what).await.expect("it happens in time")
}

async fn idle(queries: &Queries) {
    within(async {
        while !queries.shared.with(|state, _| state.is_idle()) {
            yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_thousand_equal_queries_cost_one_call() {
    let queries = start();
    let handler = connect(&queries, "h", 1);
    let terms = terms(Duration::from_secs(60));
    let all = join_all((0..1_000).map(|_| queries.ask(parts(KIND, "k", "p"), &terms)));
    let serve = async {
        let delivery = handler.next().await;
        while queries.counters().asked < 1_000 {
            yield_now().await;
        }
        queries.answer(&delivery.id, Ok(answer("a", 0))).unwrap();
    };
    let (answers, ()) = within(async { tokio::join!(all, serve) }).await;
    assert!(answers.into_iter().all(|answered| &answered.unwrap().answer.payload[..] == b"a"));
    let counters = queries.counters();
    let expected = Counters { asked: 1_000, answered: 1_000, shared: 999, ..Counters::default() };
    assert_eq!(counters, expected);
    idle(&queries).await;
}

/// A handler that stays for a few queries and goes at any step.
async fn fickle(queries: Queries, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    for _ in 0..10 {
        let handler = connect(&queries, "", random.random_range(1..8));
        let mut held = Vec::new();
        for _ in 0..random.random_range(0..40) {
            tokio::select! {
                delivery = handler.next() => held.push(delivery),
                () = yield_now() => {}
            }
            if random.random_bool(0.6)
                && let Some(delivery) = held.pop()
            {
                let text = delivery.question.parts().key.clone();
                let taken = queries.answer(&delivery.id, Ok(answer(text, 0)));
                // Callers here have little time.
                assert!(matches!(taken, Ok(()) | Err(Error::Over(Over::Expired))), "{taken:?}");
            }
        }
        drop(handler);
        for delivery in held {
            let late = queries.answer(&delivery.id, Ok(answer("wrong", 0)));
            assert!(matches!(late, Err(Error::Over(_))), "{late:?}");
        }
        yield_now().await;
    }
}

/// Somebody who asks, and may lose patience.
async fn caller(queries: Queries, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    for _ in 0..20 {
        let key = random.random_range(0..30).to_string();
        let terms = terms(Duration::from_millis(random.random_range(1..100)));
        let ask = queries.ask(parts(KIND, &key, "p"), &terms);
        let patience = Duration::from_millis(random.random_range(0..60));
        match tokio::time::timeout(patience, ask).await {
            Ok(Ok(answered)) => assert_eq!(answered.answer.payload, key),
            Ok(Err(error)) => assert!(
                matches!(
                    error,
                    Error::NoHandler(_)
                        | Error::HandlerLost(_)
                        | Error::HandlersLost(_)
                        | Error::TimedOut { .. }
                ),
                "{error}"
            ),
            Err(_) => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_left_behind_when_all_come_and_go() {
    let queries = start();
    let mut crowd = JoinSet::new();
    for seed in 0..8 {
        crowd.spawn(fickle(queries.clone(), seed));
    }
    for seed in 0..100 {
        crowd.spawn(caller(queries.clone(), seed));
    }
    within(async {
        while let Some(ended) = crowd.join_next().await {
            ended.unwrap();
        }
    })
    .await;
    idle(&queries).await;
    assert!(queries.handlers.list(0, 10, None, None).is_empty());
}

#[tokio::test]
async fn a_storm_of_watchers_costs_a_call_for_each_question_and_storm() {
    const QUESTIONS: u64 = 10;
    const STORMS: u64 = 20;
    let queries = start();
    let handler = connect(&queries, "h", 100);
    let (revision, calls) = (AtomicU64::new(1), AtomicU64::new(0));
    let serve = async {
        loop {
            let delivery = handler.next().await;
            calls.fetch_add(1, Ordering::Relaxed);
            let revision = revision.load(Ordering::Relaxed);
            queries.answer(&delivery.id, Ok(answer(revision.to_string(), revision))).unwrap();
            yield_now().await;
        }
    };
    let watch = async |key: u64| {
        let mut watcher =
            queries.watch(parts(KIND, &key.to_string(), "p"), Duration::from_secs(60), 0).unwrap();
        let mut last = 0;
        while last < STORMS {
            match watcher.next().await.unwrap() {
                Seen::Answer(answer) => {
                    let revision = answer.answer().unwrap().revision;
                    assert!(revision > last, "never back, and never twice");
                    last = revision;
                }
                Seen::Stale(error) => panic!("{error}"),
            }
        }
    };
    let storms = async {
        for next in 2..=STORMS {
            for _ in 0..50 {
                yield_now().await;
            }
            revision.store(next, Ordering::Relaxed);
            queries.invalidate(&everything(), if next % 2 == 0 { 0 } else { next });
        }
        std::future::pending::<()>().await;
    };
    let watchers = join_all((0..500).map(|number| watch(number % QUESTIONS)));
    within(async {
        tokio::select! {
            _ = watchers => {}
            () = serve => {}
            () = storms => {}
        }
    })
    .await;
    // Each of the first answers may have been asked for by itself.
    let calls = calls.load(Ordering::Relaxed);
    assert!(calls <= 500 + STORMS * QUESTIONS * 2, "{calls} calls");
    idle(&queries).await;
}

#[tokio::test]
async fn who_watches_hears_of_a_handler_that_comes_back() {
    let queries = start();
    let handler = connect(&queries, "h", 1);
    let mut watcher = queries.watch(parts(KIND, "k", "p"), Duration::from_secs(60), 0).unwrap();
    let serve = async |handler: &Handler, text: &'static str, revision| {
        let delivery = handler.next().await;
        queries.answer(&delivery.id, Ok(answer(text, revision))).unwrap();
    };
    let (seen, ()) = within(async { tokio::join!(watcher.next(), serve(&handler, "a", 5)) }).await;
    assert!(matches!(seen, Ok(Seen::Answer(held)) if held.answer().unwrap().revision == 5));
    drop(handler);
    queries.invalidate(&everything(), 0);
    let stale = within(watcher.next()).await;
    assert!(matches!(stale, Ok(Seen::Stale(Error::NoHandler(_)))), "{stale:?}");
    let handler = connect(&queries, "h", 1);
    let (seen, ()) = within(async { tokio::join!(watcher.next(), serve(&handler, "b", 1)) }).await;
    assert!(matches!(seen, Ok(Seen::Answer(held)) if held.answer().unwrap().revision == 1));
}

#[tokio::test]
async fn open_queries_are_limited() {
    use crate::model::limits::MAX_OPEN_QUERIES;

    let queries = start();
    let _handler = connect(&queries, "h", 1);
    let terms = terms(Duration::from_secs(60));
    let mut asking: Vec<_> =
        (0..MAX_OPEN_QUERIES).map(|_| Box::pin(queries.ask(parts(KIND, "k", "p"), &terms))).collect();
    for ask in &mut asking {
        assert!(futures::poll!(ask).is_pending());
    }
    let refused = queries.ask(parts(KIND, "k", "p"), &terms).await;
    assert_eq!(refused, Err(Error::TooManyQueries));
    asking.pop();
    assert!(futures::poll!(Box::pin(queries.ask(parts(KIND, "k", "p"), &terms))).is_pending());
    drop(asking);
    idle(&queries).await;
}

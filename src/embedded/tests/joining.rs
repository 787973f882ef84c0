//! Consumers that come all at once, or go before they have come.

use futures::FutureExt;
use futures::future::join_all;

use super::*;
use crate::engine::Error;
use crate::model::limits::MAX_CONSUMERS_PER_SUBSCRIPTION;

async fn subscribed() -> EmbeddedEngine {
    let engine = open(&SimFs::new()).await.unwrap();
    create_topic(&engine, "orders").await;
    create_subscription(&engine, "worker", "orders").await;
    engine
}

async fn consumers(engine: &EmbeddedEngine) -> u32 {
    engine.stats(&name("worker")).await.unwrap().consumers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_leaves_while_joining_leaves_nothing_behind() {
    let engine = subscribed().await;
    for _ in 0..100 {
        let mut joining = engine.subscribe(Target::Durable(name("worker")), CREDIT);
        // One step, which may or may not be enough; its greeting is before the question that follows.
        drop(joining.as_mut().now_or_never());
        assert!(consumers(&engine).await <= 1);
        drop(joining);
        assert_eq!(consumers(&engine).await, 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_than_may_join_at_once_are_refused_and_block_nobody() {
    let engine = subscribed().await;
    let joins = (0..3 * MAX_CONSUMERS_PER_SUBSCRIPTION)
        .map(|_| engine.subscribe(Target::Durable(name("worker")), CREDIT));
    let joined = tokio::time::timeout(Duration::from_secs(20), join_all(joins)).await.expect("no deadlock");
    let refused: Vec<_> = joined.iter().filter_map(|joined| joined.as_ref().err()).collect();
    assert_eq!(joined.len() - refused.len(), MAX_CONSUMERS_PER_SUBSCRIPTION);
    assert!(refused.iter().all(|error| matches!(error, Error::TooMany { .. })), "{:?}", refused[0]);
    assert_eq!(consumers(&engine).await as usize, MAX_CONSUMERS_PER_SUBSCRIPTION);
    drop(joined);
    assert_eq!(consumers(&engine).await, 0);
}

//! Disks that fail: nothing is acknowledged afterwards, and nothing acknowledged before is lost.

use super::super::log::fs::Fs as _;
use super::super::log::fs_sim::Faults;
use super::super::log::segments;
use super::*;
use crate::engine::{Error, Settled};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_failed_sync_nothing_is_acknowledged() {
    for syncs in 0..50 {
        let fs = SimFs::new();
        let engine = open(&fs).await.unwrap();
        create_topic(&engine, "orders").await;
        fs.set_faults(Faults { syncs_before_error: Some(syncs), ..Faults::default() });
        let acknowledged = publish_until_failure(&engine).await;
        check_failed_and_recovered(&fs, engine, acknowledged).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_failed_write_nothing_is_acknowledged() {
    for writes in 0..20 {
        let fs = SimFs::new();
        let engine = open(&fs).await.unwrap();
        create_topic(&engine, "orders").await;
        fs.set_faults(Faults { writes_before_error: Some(writes), ..Faults::default() });
        let acknowledged = publish_until_failure(&engine).await;
        check_failed_and_recovered(&fs, engine, acknowledged).await;
    }
}

/// Publishes until that fails. Returns how many were acknowledged.
async fn publish_until_failure(engine: &EmbeddedEngine) -> usize {
    for n in 0.. {
        match publish(engine, "orders", &[&[b'x'; 700]]).await {
            Ok(receipt) => assert_eq!(receipt.first, n + 1),
            Err(error) => {
                assert!(matches!(error, Error::Failed(_)), "{error}");
                return usize::try_from(n).unwrap();
            }
        }
    }
    unreachable!()
}

async fn check_failed_and_recovered(fs: &SimFs, engine: EmbeddedEngine, acknowledged: usize) {
    assert!(engine.failed().await.contains("injected"));
    fs.set_faults(Faults::default());
    // The disk works again, but the log does not trust it any more.
    assert!(matches!(publish(&engine, "orders", &[b"x"]).await, Err(Error::Failed(_))));
    engine.close().await;
    let engine = open(&fs.copy()).await.unwrap();
    let (messages, damaged) = read_all(&engine, "orders").await;
    assert_eq!(damaged, []);
    assert!(messages.len() >= acknowledged, "{} of {acknowledged}", messages.len());
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_nearly_full_disk_refuses_publishing_and_nothing_else() {
    let fs = SimFs::new();
    let options = Options { disk_reserve_bytes: 20_000, ..OPTIONS };
    let engine = EmbeddedEngine::open_on(Arc::new(fs.clone()), "simulated", options.clone()).await.unwrap();
    create_topic(&engine, "orders").await;
    create_subscription(&engine, "worker", "orders").await;
    fs.set_faults(Faults { capacity: Some(60_000), ..Faults::default() });
    let mut accepted = 0;
    let error = loop {
        match publish(&engine, "orders", &[&[b'x'; 1000]]).await {
            Ok(_) => accepted += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::DiskFull { .. }), "{error}");
    assert!(accepted > 10);
    assert!(matches!(engine.check_space().await, Err(Error::DiskFull { reserve: 20_000, .. })));
    let delivered = deliveries(&engine, "worker").await;
    assert_eq!(delivered.len(), accepted);
    assert_eq!(ack(&engine, "worker", &delivered).await, accepted as u64);
    engine.close().await;

    let full = fs.copy();
    full.set_faults(Faults { capacity: Some(60_000), ..Faults::default() });
    let engine = EmbeddedEngine::open_on(Arc::new(full.clone()), "simulated", options).await.unwrap();
    assert!(matches!(publish(&engine, "orders", &[b"x"]).await, Err(Error::DiskFull { .. })));
    engine.delete_subscription(&name("worker"), None).await.unwrap();
    full.set_faults(Faults::default());
    publish(&engine, "orders", &[b"x"]).await.expect("there is space again");
    engine.check_space().await.unwrap();
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_engines_do_not_share_a_directory() {
    let fs = SimFs::new();
    let engine = open(&fs).await.unwrap();
    assert!(matches!(open(&fs).await, Err(OpenError::InUse { .. })));
    engine.close().await;
    open(&fs).await.unwrap().close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_buffered_receipt_says_so_and_readers_see_only_what_is_safe() {
    let fs = SimFs::new();
    let engine = open(&fs).await.unwrap();
    create_topic(&engine, "orders").await;
    fs.set_faults(Faults { syncs_before_error: Some(0), ..Faults::default() });
    let envelopes = vec![Envelope(Bytes::from_static(b"x"))];
    let receipt = engine.submit(&name("orders"), envelopes, Durability::Buffered.into()).await.unwrap().await;
    let durability = Durability::Buffered;
    assert_eq!(receipt, Ok(Receipt { first: 1, last: 1, duplicates: Vec::new(), durability }));
    engine.failed().await;
    assert_eq!(engine.topic(&name("orders")).await.unwrap().last_offset, 0, "never synced, never seen");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ack_that_did_not_reach_the_disk_leaves_the_backlog_as_it_was() {
    let fs = SimFs::new();
    let engine = open(&fs).await.unwrap();
    create_topic(&engine, "orders").await;
    create_subscription(&engine, "worker", "orders").await;
    publish(&engine, "orders", &[b"a", b"b"]).await.unwrap();
    let delivered = deliveries(&engine, "worker").await;
    fs.set_faults(Faults { syncs_before_error: Some(0), ..Faults::default() });
    let ids = delivered.into_iter().map(|delivery| delivery.ack_id).collect();
    let settled = engine.settle(&name("worker"), ids, Settlement::Ack { cumulative: false }).await;
    assert!(matches!(settled, Err(Error::Failed(_))), "{settled:?}");
    let stats = engine.stats(&name("worker")).await.unwrap();
    assert_eq!((stats.backlog_messages, stats.committed_offset), (2, 0));
    assert!(stats.oldest_unacked.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_hears_that_a_message_is_settled_already_before_that_is_on_disk() {
    let fs = SimFs::new();
    let engine = open(&fs).await.unwrap();
    create_topic(&engine, "orders").await;
    create_subscription(&engine, "worker", "orders").await;
    publish(&engine, "orders", &[b"a"]).await.unwrap();
    let ids: Vec<_> =
        deliveries(&engine, "worker").await.into_iter().map(|delivery| delivery.ack_id).collect();
    fs.set_faults(Faults { syncs_before_error: Some(0), ..Faults::default() });
    let (worker, ack) = (name("worker"), Settlement::Ack { cumulative: false });
    let first = engine.settle(&worker, ids.clone(), ack.clone());
    let (first, again) = tokio::join!(first, engine.settle(&worker, ids, ack.clone()));
    assert!(matches!(first, Err(Error::Failed(_))), "{first:?}");
    assert!(matches!(again, Err(Error::Failed(_))), "{again:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_cannot_be_read_for_a_while_loses_nothing() {
    let fs = SimFs::new();
    let engine = open(&fs).await.unwrap();
    create_topic(&engine, "orders").await;
    for _ in 0..100 {
        publish(&engine, "orders", &[&[b'x'; 700]]).await.unwrap();
    }
    create_subscription(&engine, "worker", "orders").await;
    engine.close().await;
    let engine = open(&fs).await.unwrap();
    // Without its sidecar, a segment is read for its index, too.
    for sidecar in fs.list("log").unwrap().iter().filter(|name| name.ends_with(".idx")) {
        fs.remove(&format!("log/{sidecar}")).unwrap();
    }
    fs.set_faults(Faults { fail_reads: true, ..Faults::default() });
    for _ in 0..2 {
        let read = engine.read(&name("orders"), Start::Earliest, ALL).await;
        assert!(matches!(read, Err(Error::Unreadable { .. })), "{read:?}");
    }
    let mut consumer = engine.subscribe(Target::Durable(name("worker")), CREDIT).await.unwrap();
    let waiting = tokio::spawn(async move { consumer.next().await });
    while engine.stats(&name("worker")).await.unwrap().consumers == 0 {
        tokio::task::yield_now().await;
    }
    fs.set_faults(Faults::default());
    let first = waiting.await.unwrap().unwrap();
    assert_eq!(first[0].message.offset, 1);
    assert_eq!(read_all(&engine, "orders").await.0.len(), 100);
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_disk_filled_by_others_acks_still_work_and_a_restart_too() {
    let fs = SimFs::new();
    let options = Options { disk_reserve_bytes: 30_000, ..OPTIONS };
    let open = || EmbeddedEngine::open_on(Arc::new(fs.clone()), "simulated", options.clone());
    let engine = open().await.unwrap();
    create_topic(&engine, "orders").await;
    create_subscription(&engine, "worker", "orders").await;
    for _ in 0..40 {
        publish(&engine, "orders", &[&[b'x'; 100]]).await.unwrap();
    }
    while !fs.exists("log/ballast").unwrap() {
        tokio::task::yield_now().await;
    }
    let used = (1 << 40) - fs.available().unwrap();
    fs.set_faults(Faults { capacity: Some(used), ..Faults::default() });
    // The first may come before anybody has looked at the disk again, and then takes the space kept.
    let _ = publish(&engine, "orders", &[b"x"]).await;
    assert!(matches!(publish(&engine, "orders", &[b"x"]).await, Err(Error::DiskFull { .. })));
    let delivered = deliveries(&engine, "worker").await;
    for delivery in &delivered[..20] {
        ack(&engine, "worker", std::slice::from_ref(delivery)).await;
    }
    engine.close().await;

    let engine = open().await.unwrap();
    let delivered = deliveries(&engine, "worker").await;
    assert!((20..=21).contains(&delivered.len()));
    for delivery in &delivered {
        ack(&engine, "worker", std::slice::from_ref(delivery)).await;
    }
    fs.set_faults(Faults::default());
    publish(&engine, "orders", &[b"x"]).await.expect("there is space again");
    while !fs.exists("log/ballast").unwrap() {
        publish(&engine, "orders", &[b"x"]).await.unwrap();
    }
    engine.close().await;
}

/// An engine whose disk others have filled to the last byte, the space kept for that included, and an ack
/// that waits for space.
async fn stalled(
    fs: &SimFs,
) -> (Arc<EmbeddedEngine>, tokio::task::JoinHandle<crate::engine::Result<Settled>>) {
    let engine = Arc::new(open(fs).await.unwrap());
    create_topic(&engine, "orders").await;
    create_subscription(&engine, "worker", "orders").await;
    for _ in 0..10 {
        publish(&engine, "orders", &[b"x"]).await.unwrap();
    }
    let delivered = deliveries(&engine, "worker").await;
    // The log comes to this after the note of what was handed out, which would else be what waits for space.
    create_subscription(&engine, "other", "orders").await;
    let used = (1 << 40) - fs.available().unwrap();
    fs.set_faults(Faults { capacity: Some(used), ..Faults::default() });
    let ids: Vec<_> = delivered.iter().map(|delivery| delivery.ack_id.clone()).collect();
    let settling = Arc::clone(&engine);
    let waiting = tokio::spawn(async move {
        settling.settle(&name("worker"), ids, Settlement::Ack { cumulative: false }).await
    });
    while engine.0.log.place(1).await.is_ok() {
        tokio::task::yield_now().await;
    }
    (engine, waiting)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_byte_left_acks_wait_for_space_and_everything_else_is_refused() {
    let fs = SimFs::new();
    let (engine, waiting) = stalled(&fs).await;
    let other = engine.discard(&name("worker"), vec![1]).await;
    assert!(matches!(other, Err(Error::DiskFull { .. })), "{other:?}");
    assert_eq!(read_all(&engine, "orders").await.0.len(), 10);
    let change = engine.seek(&name("worker"), Start::Earliest).await;
    assert!(matches!(change, Err(Error::DiskFull { .. })), "{change:?}");
    // What could not be acknowledged is not handed out.
    let pulled = engine.pull(&name("other"), ALL, Duration::from_millis(50)).await.unwrap();
    assert_eq!(pulled, []);
    assert!(!waiting.is_finished());
    let other = Arc::clone(&engine);
    let pulling = tokio::spawn(async move { other.pull(&name("other"), ALL, Duration::from_secs(20)).await });

    fs.set_faults(Faults::default());
    assert_eq!(waiting.await.unwrap().unwrap().committed_offset, 10);
    assert_eq!(pulling.await.unwrap().unwrap().len(), 10);
    while publish(&engine, "orders", &[b"y"]).await.is_err() {
        tokio::task::yield_now().await;
    }
    engine.close().await;
    let engine = open(&fs.copy()).await.unwrap();
    let left: Vec<_> = deliveries(&engine, "worker").await;
    assert_eq!(left.iter().map(|delivery| delivery.message.offset).collect::<Vec<_>>(), [11]);
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_for_space_does_not_keep_the_engine_from_closing() {
    let fs = SimFs::new();
    let (engine, waiting) = stalled(&fs).await;
    tokio::time::timeout(Duration::from_secs(20), engine.close()).await.expect("it ends");
    waiting.await.unwrap().unwrap_err();
    fs.set_faults(Faults::default());
    let engine = open(&fs).await.unwrap();
    assert_eq!(deliveries(&engine, "worker").await.len(), 10);
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_ends_when_the_disk_fails_under_it() {
    for syncs in 0..3 {
        let fs = SimFs::new();
        let engine = open(&fs).await.unwrap();
        create_topic(&engine, "orders").await;
        fs.set_faults(Faults { syncs_before_error: Some(syncs), ..Faults::default() });
        tokio::time::timeout(Duration::from_secs(20), engine.close()).await.expect("it ends");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redeliveries_take_none_of_the_last_space() {
    let fs = SimFs::new();
    let options = Options { disk_reserve_bytes: 30_000, ..OPTIONS };
    let engine = EmbeddedEngine::open_on(Arc::new(fs.clone()), "simulated", options).await.unwrap();
    create_topic(&engine, "orders").await;
    create_subscription(&engine, "worker", "orders").await;
    for _ in 0..20 {
        publish(&engine, "orders", &[&[b'x'; 10]]).await.unwrap();
    }
    let used = |fs: &SimFs| (1 << 40) - fs.available().unwrap();
    let before = used(&fs);
    fs.set_faults(Faults { capacity: Some(before + 20_000), ..Faults::default() });
    let mut delivered = deliveries(&engine, "worker").await;
    for _ in 0..200 {
        let ids = delivered.iter().map(|delivery| delivery.ack_id.clone()).collect();
        let nack = Settlement::Nack { retry: crate::engine::Retry::After(Duration::ZERO), reason: "".into() };
        engine.settle(&name("worker"), ids, nack).await.unwrap();
        delivered = deliveries(&engine, "worker").await;
        assert_eq!(delivered.len(), 20);
    }
    assert!(delivered[0].attempt > 200);
    assert_eq!(ack(&engine, "worker", &delivered).await, 20);
    fs.set_faults(Faults::default());
    assert!(used(&fs) < before + 20_000, "{} bytes more", used(&fs) - before);
    engine.close().await;
}

#[tokio::test]
async fn a_spent_ballast_is_made_of_the_spare_at_the_next_start() {
    let fs = SimFs::new();
    open(&fs).await.unwrap().close().await;
    assert!(!fs.exists(segments::BALLAST).unwrap());
    fs.set_bytes(segments::SPARE, vec![0; 9 << 20]);
    open(&fs).await.unwrap().close().await;
    assert_eq!(fs.bytes(segments::BALLAST).len() as u64, segments::BALLAST_BYTES);
    assert!(!fs.exists(segments::SPARE).unwrap());
}

//! Consumers that wait together are served in turn.

use futures::FutureExt as _;

use super::*;

#[tokio::test]
async fn who_waits_longest_is_served_next() {
    let engine = open(&SimFs::new()).await.unwrap();
    create_topic(&engine, "t").await;
    create_subscription(&engine, "s", "t").await;
    let mut consumers = Vec::new();
    for _ in 0..3 {
        consumers.push(engine.subscribe(Target::Durable(name("s")), CREDIT).await.unwrap());
    }
    let mut served = [0; 3];
    for _ in 0..9 {
        let mut waiting: Vec<_> = consumers.iter_mut().map(|consumer| consumer.next()).collect();
        for next in &mut waiting {
            assert!(next.as_mut().now_or_never().is_none());
        }
        publish(&engine, "t", &[b"x"]).await.unwrap();
        let (got, who, _) = futures::future::select_all(waiting).await;
        assert_eq!(got.unwrap().len(), 1);
        served[who] += 1;
    }
    assert_eq!(served, [3, 3, 3]);
}

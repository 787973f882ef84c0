//! Consumers that let fetched messages lie.

use super::*;

/// Longer than fetched messages are kept that nobody takes.
const LONG: Duration = Duration::from_millis(1_200);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_that_were_fetched_and_forgotten_come_all_the_same() {
    const MESSAGES: u64 = 300;
    let fs = SimFs::new();
    let engine = open(&fs).await.unwrap();
    create_topic(&engine, "orders").await;
    create_subscription(&engine, "worker", "orders").await;
    for _ in 0..MESSAGES {
        publish(&engine, "orders", &[&[b'x'; 700]]).await.unwrap();
    }
    engine.close().await;
    // Nothing is in memory: all of it is read from disk, and ahead.
    let engine = open(&fs).await.unwrap();
    let credit = Credit { messages: 10, ..CREDIT };
    let mut consumer = engine.subscribe(Target::Durable(name("worker")), credit).await.unwrap();
    let mut seen = Vec::new();
    while (seen.len() as u64) < MESSAGES {
        let deliveries = consumer.next().await.unwrap();
        seen.extend(deliveries.iter().map(|delivery| delivery.message.offset));
        if seen.len() <= 30 {
            // What is tested is what happens when time passes.
            tokio::time::sleep(LONG).await;
        }
        ack(&engine, "worker", &deliveries).await;
    }
    assert_eq!(seen, (1..=MESSAGES).collect::<Vec<_>>());
    engine.close().await;
}

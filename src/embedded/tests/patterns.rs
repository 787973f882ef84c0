//! Subscriptions with patterns on disk: what a crash leaves of them, and what the log gives again.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::super::log::fs::Fs as _;
use super::*;
use crate::embedded::delivery::ephemeral::{EphemeralConsumer, NewTopics};
use crate::embedded::state::Record;
use crate::engine::{Consumer as _, Credit, Error};
use crate::model::{Filter, Pattern, Retention};

const SEEDS: u64 = 40;

/// What the outside world knows: topics and offsets.
#[derive(Default, Clone)]
struct Ledger {
    published: BTreeSet<(String, Offset)>,
    acked: BTreeSet<(String, Offset)>,
    /// Topics whose deletion was asked for.
    deleted: BTreeSet<String>,
}

async fn subscribe(engine: &EmbeddedEngine, subscription: &str) {
    let settings = SubscriptionSettings {
        ack_deadline: Duration::from_secs(600),
        ..SubscriptionSettings::new(Pattern::parse("orders.*").unwrap())
    };
    engine.create_subscription(name(subscription), settings, Intent::Apply).await.unwrap();
}

fn places(deliveries: &[Delivery]) -> BTreeSet<(String, Offset)> {
    deliveries.iter().map(|it| (it.message.topic.to_string(), it.message.offset)).collect()
}

/// Creates topics and publishes to them, and deletes some.
async fn produce(engine: EmbeddedEngine, ledger: Arc<Mutex<Ledger>>, mut random: StdRng) {
    for round in 0.. {
        let topic = format!("orders.t{round}");
        if engine.create_topic(name(&topic), TopicSettings::default(), Intent::Apply).await.is_err() {
            return;
        }
        for _ in 0..random.random_range(1..4) {
            let to = format!("orders.t{}", random.random_range(0..=round));
            if ledger.lock().unwrap().deleted.contains(&to) {
                continue;
            }
            let Ok(receipt) = publish(&engine, &to, &[&[b'x'; 300], b"y"]).await else { return };
            let places = (receipt.first..=receipt.last).map(|offset| (to.clone(), offset));
            ledger.lock().unwrap().published.extend(places);
        }
        if random.random_ratio(1, 5) {
            let topic = format!("orders.t{}", random.random_range(0..=round));
            ledger.lock().unwrap().deleted.insert(topic.clone());
            let _ = engine.delete_topic(&name(&topic), None).await;
        }
    }
}

async fn consume(engine: EmbeddedEngine, ledger: Arc<Mutex<Ledger>>) {
    let mut consumer = engine.subscribe(Target::Durable(name("worker")), CREDIT).await.unwrap();
    while let Ok(deliveries) = consumer.next().await {
        let ids = deliveries.iter().map(|delivery| delivery.ack_id.clone()).collect();
        let settlement = Settlement::Ack { cumulative: false };
        let Ok(settled) = engine.settle(&name("worker"), ids, settlement).await else { return };
        let counts = |delivery: &&Delivery| settled.failures.iter().all(|(id, _)| *id != delivery.ack_id);
        let acked: Vec<_> = deliveries.iter().filter(counts).cloned().collect();
        ledger.lock().unwrap().acked.extend(places(&acked));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_power_cut_loses_a_topic_or_an_ack() {
    for seed in 0..SEEDS {
        let (fs, mut random) = (SimFs::new(), StdRng::seed_from_u64(seed));
        let engine = open(&fs).await.unwrap();
        subscribe(&engine, "worker").await;
        let ledger = Arc::new(Mutex::new(Ledger::default()));
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(produce(engine.clone(), Arc::clone(&ledger), StdRng::seed_from_u64(!seed)));
        tasks.spawn(consume(engine.clone(), Arc::clone(&ledger)));
        let wanted = random.random_range(1..60);
        while ledger.lock().unwrap().published.len() < wanted {
            tokio::task::yield_now().await;
        }
        let known = ledger.lock().unwrap().clone();
        let left = fs.after_power_cut(&mut random);
        tasks.shutdown().await;
        engine.close().await;

        let engine = open(&left).await.unwrap();
        let come = places(&deliveries(&engine, "worker").await);
        assert_eq!(come.intersection(&known.acked).next(), None, "seed {seed}: delivered after its ack");
        for place @ (topic, _) in &known.published {
            let is_there = known.deleted.contains(topic) || come.contains(place);
            // What was acked just before the cut need not be in the ledger.
            let is_settled = || is_settled(&engine, topic, place.1);
            assert!(is_there || is_settled(), "seed {seed}: {place:?} is lost");
        }
        // It goes on: a new topic is read, too.
        create_topic(&engine, "orders.after").await;
        publish(&engine, "orders.after", &[b"z"]).await.unwrap();
        let after = places(&deliveries(&engine, "worker").await);
        assert_eq!(after, BTreeSet::from([("orders.after".to_owned(), 1)]), "seed {seed}");
        engine.close().await;
    }
}

/// Whether the subscription's part in a topic has everything up to an offset settled.
fn is_settled(engine: &EmbeddedEngine, topic: &str, offset: Offset) -> bool {
    let handle = engine.0.find_subscription(&name("worker")).unwrap();
    let topic = engine.0.find_topic(&name(topic)).unwrap();
    handle.lane_of(&topic).unwrap().committed_floor() >= offset
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_alone_gives_all_again() {
    let fs = SimFs::new();
    let engine = open(&fs).await.unwrap();
    create_topic(&engine, "orders.eu").await;
    subscribe(&engine, "worker").await;
    create_topic(&engine, "orders.us").await;
    create_topic(&engine, "orders.gone").await;
    // Segments fill up and are removed, so that parts are told of again.
    create_topic(&engine, "noise").await;
    let retention = Retention { max_messages: Some(1), ..Retention::default() };
    let change = crate::engine::TopicChange { retention: Some(retention), ..Default::default() };
    engine.update_topic(&name("noise"), change, None, Intent::Apply).await.unwrap();
    for round in 0..60 {
        publish(&engine, "noise", &[&[b'n'; 2_000]]).await.unwrap();
        if round % 20 == 0 {
            publish(&engine, "orders.eu", &[b"a"]).await.unwrap();
            publish(&engine, "orders.us", &[b"b"]).await.unwrap();
        }
    }
    engine.delete_topic(&name("orders.gone"), None).await.unwrap();
    let all = deliveries(&engine, "worker").await;
    assert_eq!(all.len(), 6);
    let acked: Vec<_> = all.into_iter().filter(|it| it.message.offset == 2).collect();
    ack(&engine, "worker", &acked).await;
    engine.close().await;

    for keep_checkpoints in [true, false] {
        if !keep_checkpoints {
            for file in fs.list("checkpoints").unwrap() {
                fs.remove(&format!("checkpoints/{file}")).unwrap();
            }
        }
        let engine = open(&fs).await.unwrap();
        let again = deliveries(&engine, "worker").await;
        assert_eq!(again.len(), 4, "with checkpoints: {keep_checkpoints}");
        assert!(again.iter().all(|it| it.message.offset != 2 && it.attempt > 1));
        assert_eq!(engine.stats(&name("worker")).await.unwrap().backlog_messages, 4);
        engine.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_that_is_missing_is_made_again() {
    let fs = SimFs::new();
    let engine = open(&fs).await.unwrap();
    create_topic(&engine, "orders.eu").await;
    create_topic(&engine, "orders.us").await;
    subscribe(&engine, "worker").await;
    publish(&engine, "orders.eu", &[b"a"]).await.unwrap();
    publish(&engine, "orders.us", &[b"b"]).await.unwrap();
    ack(&engine, "worker", &deliveries(&engine, "worker").await).await;
    // As damage would have it.
    let handle = engine.0.find_subscription(&name("worker")).unwrap();
    let topic = engine.0.find_topic(&name("orders.us")).unwrap();
    let part = handle.lane_of(&topic).unwrap().id;
    engine.0.record(Record::DeleteSubscription(part)).await.unwrap();
    engine.close().await;
    for _ in 0..2 {
        let engine = open(&fs).await.unwrap();
        let again = deliveries(&engine, "worker").await;
        assert_eq!(places(&again), BTreeSet::from([("orders.us".to_owned(), 1)]));
        create_topic(&engine, "other").await;
        let made = engine.0.find_topic(&name("other")).unwrap().id;
        engine.delete_topic(&name("other"), None).await.unwrap();
        let handle = engine.0.find_subscription(&name("worker")).unwrap();
        assert!(handle.lanes().iter().all(|lane| lane.id < made), "no number is given twice");
        engine.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_deleted_while_it_is_read_ends_no_reader_of_others() {
    let engine = open(&SimFs::new()).await.unwrap();
    for topic in ["orders.eu", "orders.us"] {
        create_topic(&engine, topic).await;
        publish(&engine, topic, &[b"a"]).await.unwrap();
    }
    let [eu, us] = ["orders.eu", "orders.us"].map(|topic| engine.0.find_topic(&name(topic)).unwrap());
    let permit = || Arc::clone(&engine.0.consumers).try_acquire_owned().unwrap();
    let parts = || (engine.0.log.clone(), engine.0.end.subscribe(), permit());
    let wants = || (Filter::default(), CREDIT);
    let deleted = Error::TopicDeleted(name("orders.eu"));

    let pattern = Pattern::parse("orders.*").unwrap();
    let topics = NewTopics::new(&engine.0, pattern);
    let mut reader = EphemeralConsumer::of_pattern("reader".into(), topics, wants(), parts());
    for topic in reader.new_topics().unwrap() {
        reader.add(topic, 1);
    }
    reader.failed(eu.id, deleted.clone()).unwrap();
    let next = reader.next().await.unwrap();
    assert_eq!(places(&next), BTreeSet::from([("orders.us".to_owned(), 1)]));
    let lost = reader.failed(us.id, Error::Closed).unwrap_err();
    assert_eq!(lost, Error::Closed, "what is about all of them is no matter of one topic");

    let mut only = EphemeralConsumer::of_one("only".into(), &eu, wants(), parts());
    only.add(Arc::clone(&eu), 1);
    assert_eq!(only.failed(eu.id, deleted.clone()).unwrap_err(), deleted);
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_than_fits_in_memory_comes_from_many_topics() {
    const TOPICS: usize = 40;
    let fs = SimFs::new();
    let engine = open(&fs).await.unwrap();
    subscribe(&engine, "worker").await;
    for n in 0..TOPICS {
        let topic = format!("orders.t{n}");
        create_topic(&engine, &topic).await;
        publish(&engine, &topic, &[&vec![b'x'; 900_000], b"y"]).await.unwrap();
    }
    engine.close().await;
    // From the disk alone.
    let engine = open(&fs).await.unwrap();
    let credit = Credit { messages: 3, bytes: 1_000_000 };
    let mut consumer = engine.subscribe(Target::Durable(name("worker")), credit).await.unwrap();
    let mut come = Vec::new();
    while come.len() < 2 * TOPICS {
        let next = tokio::time::timeout(Duration::from_secs(60), consumer.next()).await;
        let next = next.expect("there is more").unwrap();
        ack(&engine, "worker", &next).await;
        come.extend(places(&next));
    }
    assert_eq!(come.iter().collect::<BTreeSet<_>>().len(), come.len());
    engine.close().await;
}

//! Power cuts at random moments, and a ledger that outlives them.
//!
//! The ledger holds what was acknowledged before the cut, and nothing else. Whatever it holds must
//! be there afterwards. The same test must fail on a disk that only pretends to sync.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::super::log::fs_sim::Faults;
use super::*;
use crate::engine::Retry;
use crate::model::RetryPolicy;

const TOPICS: [&str; 3] = ["orders", "orders.eu", "payments"];
const SEEDS: u64 = 60;

/// What the outside world knows.
#[derive(Default, Clone)]
struct Ledger {
    /// Acknowledged messages by topic and offset.
    published: BTreeMap<(&'static str, Offset), Vec<u8>>,
    /// Acknowledged acks of the subscription to the first topic.
    acked: BTreeSet<Offset>,
}

async fn produce(engine: EmbeddedEngine, ledger: Arc<Mutex<Ledger>>, producer: u64, mut random: StdRng) {
    for round in 0.. {
        let topic = TOPICS[random.random_range(0..TOPICS.len())];
        let count = random.random_range(1..5);
        let messages: Vec<Vec<u8>> = (0..count)
            .map(|n| {
                let mut data = format!("{producer}/{round}/{n}/").into_bytes();
                data.resize(data.len() + random.random_range(0..700), b'x');
                data
            })
            .collect();
        let slices: Vec<&[u8]> = messages.iter().map(Vec::as_slice).collect();
        let Ok(receipt) = publish(&engine, topic, &slices).await else { return };
        let mut ledger = ledger.lock().unwrap();
        for (offset, message) in (receipt.first..).zip(messages) {
            ledger.published.insert((topic, offset), message);
        }
    }
}

async fn consume(engine: EmbeddedEngine, ledger: Arc<Mutex<Ledger>>) {
    let target = Target::Durable(name("worker"));
    let mut consumer = engine.subscribe(target, CREDIT).await.unwrap();
    while let Ok(deliveries) = consumer.next().await {
        let ids = deliveries.iter().map(|delivery| delivery.ack_id.clone()).collect();
        let settlement = Settlement::Ack { cumulative: false };
        let Ok(settled) = engine.settle(&name("worker"), ids, settlement).await else { return };
        let mut ledger = ledger.lock().unwrap();
        assert_eq!(settled.failures, []);
        ledger.acked.extend(deliveries.iter().map(|delivery| delivery.message.offset));
    }
}

/// Runs a load on `fs`, cuts the power at a random moment, and returns what is left of the disk and
/// what had been acknowledged by then.
async fn run_until_power_cut(fs: &SimFs, seed: u64) -> (SimFs, Ledger) {
    let mut random = StdRng::seed_from_u64(seed);
    let engine = open(fs).await.unwrap();
    for topic in TOPICS {
        create_topic(&engine, topic).await;
    }
    create_subscription(&engine, "worker", TOPICS[0]).await;
    let ledger = Arc::new(Mutex::new(Ledger::default()));
    let mut tasks = tokio::task::JoinSet::new();
    for producer in 0..3 {
        let random = StdRng::seed_from_u64(seed ^ (producer << 32));
        tasks.spawn(produce(engine.clone(), Arc::clone(&ledger), producer, random));
    }
    tasks.spawn(consume(engine.clone(), Arc::clone(&ledger)));

    let wanted = random.random_range(1..250);
    while ledger.lock().unwrap().published.len() < wanted {
        tokio::task::yield_now().await;
    }
    // First the ledger, then the disk: what is in the ledger was acknowledged before the cut.
    let known = ledger.lock().unwrap().clone();
    let left = fs.after_power_cut(&mut random);
    tasks.shutdown().await;
    engine.close().await;
    (left, known)
}

/// What is wrong with a disk after a crash, going by the ledger.
async fn violations(fs: &SimFs, ledger: &Ledger) -> Vec<String> {
    let engine = match open(fs).await {
        Ok(engine) => engine,
        Err(error) => return vec![format!("cannot be opened: {error}")],
    };
    let mut wrong = Vec::new();
    for topic in TOPICS {
        if engine.topic(&name(topic)).await.is_err() {
            wrong.push(format!("{topic} is lost"));
            continue;
        }
        let (messages, damaged) = read_all(&engine, topic).await;
        if !damaged.is_empty() {
            wrong.push(format!("{topic} has gaps: {damaged:?}"));
        }
        let found: BTreeMap<Offset, &StoredMessage> =
            messages.iter().map(|message| (message.offset, message)).collect();
        for ((_, offset), data) in ledger.published.range((topic, 0)..=(topic, Offset::MAX)) {
            if found.get(offset).is_none_or(|message| message.envelope.0 != *data) {
                wrong.push(format!("{topic} lost {offset}"));
            }
        }
        if !messages.iter().map(|message| message.offset).eq(1..=messages.len() as u64) {
            wrong.push(format!("{topic} is not dense"));
        }
    }
    if engine.subscription(&name("worker")).await.is_err() {
        wrong.push("the subscription is lost".into());
        return wrong;
    }
    let last = engine.topic(&name(TOPICS[0])).await.unwrap().last_offset;
    let floor = engine.stats(&name("worker")).await.unwrap().committed_offset;
    if floor > last {
        wrong.push(format!("the floor {floor} is beyond the end {last}"));
    }
    for delivery in deliveries(&engine, "worker").await {
        if ledger.acked.contains(&delivery.message.offset) {
            wrong.push(format!("{} was delivered after its ack", delivery.message.offset));
        }
    }
    // It goes on where it was.
    if publish(&engine, TOPICS[0], &[b"after"]).await.map(|receipt| receipt.first) != Ok(last + 1) {
        wrong.push("publishing does not go on".into());
    }
    engine.close().await;
    wrong
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_in_a_power_cut() {
    for seed in 0..SEEDS {
        let (left, ledger) = run_until_power_cut(&SimFs::new(), seed).await;
        let wrong = violations(&left, &ledger).await;
        assert!(wrong.is_empty(), "seed {seed}: {wrong:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_test_fails_when_syncs_are_switched_off() {
    let mut caught = 0;
    for seed in 0..10 {
        let fs = SimFs::new();
        fs.set_faults(Faults { ignore_sync: true, ..Faults::default() });
        let (left, ledger) = run_until_power_cut(&fs, seed).await;
        let wrong = violations(&left, &ledger).await;
        println!("seed {seed}, syncs switched off: {} violations, such as {:?}", wrong.len(), wrong.first());
        caught += usize::from(!wrong.is_empty());
    }
    assert!(caught >= 5, "only {caught} of 10 power cuts without syncs were caught");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_survives_one_power_cut_after_another() {
    let mut random = StdRng::seed_from_u64(7);
    let mut fs = SimFs::new();
    let mut known: Vec<Vec<u8>> = Vec::new();
    for round in 0..20 {
        let engine = open(&fs).await.unwrap();
        if round == 0 {
            create_topic(&engine, "orders").await;
        }
        for n in 0..random.random_range(1..20) {
            let data = format!("{round}/{n}").repeat(100).into_bytes();
            publish(&engine, "orders", &[&data]).await.unwrap();
            known.push(data);
        }
        let left = fs.after_power_cut(&mut random);
        engine.close().await;
        fs = left;
        let engine = open(&fs).await.unwrap();
        let (messages, damaged) = read_all(&engine, "orders").await;
        assert_eq!(damaged, []);
        assert!(
            messages.iter().map(|message| &message.envelope.0[..]).eq(known.iter().map(|data| &data[..]))
        );
        engine.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_process_left_in_the_page_cache_is_on_disk_before_it_is_seen() {
    let mut random = StdRng::seed_from_u64(11);
    for round in 0..30 {
        let fs = SimFs::new();
        let engine = open(&fs).await.unwrap();
        create_topic(&engine, "orders").await;
        for n in 0..round {
            publish(&engine, "orders", &[&[b'x'; 300]]).await.unwrap_or_else(|error| panic!("{n}: {error}"));
        }
        // Written, and not synced.
        fs.set_faults(Faults { syncs_before_error: Some(0), ..Faults::default() });
        publish(&engine, "orders", &[&[b'y'; 3_000]]).await.unwrap_err();
        let killed = fs.after_kill();
        engine.close().await;

        let engine = open(&killed).await.unwrap();
        let (seen, damaged) = read_all(&engine, "orders").await;
        assert_eq!((seen.len(), damaged.len()), (round + 1, 0));
        let left = killed.after_power_cut(&mut random);
        publish(&engine, "orders", &[b"after"]).await.unwrap();
        let later = killed.after_power_cut(&mut random);
        engine.close().await;
        for (fs, more) in [(left, 0), (later, 1)] {
            let engine = open(&fs).await.unwrap();
            let (found, damaged) = read_all(&engine, "orders").await;
            assert_eq!((found.len(), damaged.len()), (seen.len() + more, 0), "round {round}");
            assert_eq!(found[..seen.len()], seen, "what was seen is as it was");
            engine.close().await;
        }
    }
}

/// The source offsets that a dead-letter topic tells of.
async fn buried(engine: &EmbeddedEngine) -> Vec<Offset> {
    let (letters, damaged) = read_all(engine, "dead").await;
    assert_eq!(damaged, []);
    let offset = |letter: &StoredMessage| {
        let text = String::from_utf8_lossy(&letter.envelope.0).into_owned();
        let digits = text.split("columba-dead-letter-offset").nth(1).unwrap().chars().skip(2);
        digits.take_while(char::is_ascii_digit).collect::<String>().parse().unwrap()
    };
    letters.iter().map(offset).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_is_among_the_dead_letters_or_still_to_be_delivered_and_never_both() {
    const MESSAGES: u64 = 40;
    let mut random = StdRng::seed_from_u64(5);
    let mut split = 0;
    for round in 0..40 {
        let fs = SimFs::new();
        let engine = open(&fs).await.unwrap();
        create_topic(&engine, "orders").await;
        create_topic(&engine, "dead").await;
        let retry = RetryPolicy { dead_letter_topic: Some(name("dead")), ..RetryPolicy::default() };
        let settings = SubscriptionSettings {
            ack_deadline: Duration::from_secs(600),
            retry,
            ..SubscriptionSettings::new(name("orders"))
        };
        engine.create_subscription(name("worker"), settings, Intent::Apply).await.unwrap();
        for _ in 0..MESSAGES {
            publish(&engine, "orders", &[&[b'x'; 300]]).await.unwrap();
        }
        let ids = deliveries(&engine, "worker").await.into_iter().map(|delivery| delivery.ack_id).collect();
        let give_up = Settlement::Nack { retry: Retry::Never, reason: "".into() };
        engine.settle(&name("worker"), ids, give_up).await.unwrap();
        while engine.stats(&name("worker")).await.unwrap().dead_lettered < round {
            tokio::task::yield_now().await;
        }
        let left = fs.after_power_cut(&mut random);
        engine.close().await;

        let engine = open(&left).await.unwrap();
        let buried = buried(&engine).await;
        let delivered = deliveries(&engine, "worker").await;
        let delivered: Vec<_> = delivered.iter().map(|delivery| delivery.message.offset).collect();
        split += usize::from(!buried.is_empty() && !delivered.is_empty());
        let mut all = [buried, delivered].concat();
        all.sort_unstable();
        assert_eq!(all, (1..=MESSAGES).collect::<Vec<_>>(), "round {round}");
        engine.close().await;
    }
    assert!(split > 5, "only {split} cuts came between the first and the last");
}

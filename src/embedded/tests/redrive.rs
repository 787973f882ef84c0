//! Letters on their way back, on a machine that dies at every step of it.

use std::collections::BTreeMap;

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::super::log::fs::Fs;
use super::super::log::fs_sim::Faults;
use super::*;
use crate::engine::{Error, Result, Retry};
use crate::model::{DeadLetter, RetryPolicy, redrive};

const LETTERS: u64 = 6;

fn record() -> Name {
    Name::internal("dead-letters", &name("dead"))
}

/// The messages `0` to `5` of `orders`, all of them given up to `dead`.
async fn disk_with_letters() -> SimFs {
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
    for n in 0..LETTERS {
        publish(&engine, "orders", &[data(n).as_bytes()]).await.unwrap();
    }
    let ids = deliveries(&engine, "worker").await.into_iter().map(|delivery| delivery.ack_id).collect();
    let give_up = Settlement::Nack { retry: Retry::Never, reason: "".into() };
    engine.settle(&name("worker"), ids, give_up).await.unwrap();
    while engine.stats(&name("worker")).await.unwrap().dead_lettered < LETTERS {
        tokio::task::yield_now().await;
    }
    engine.close().await;
    fs
}

/// A message with nothing but data.
fn data(n: u64) -> String {
    format!("\n\u{2}{n:02}")
}

/// Brings back every letter that is not dealt with, as the API does.
async fn redrive_all(engine: &EmbeddedEngine) -> Result<()> {
    let settings = SubscriptionSettings::new(name("dead"));
    engine.create_subscription(record(), settings, Intent::Apply).await?;
    for letter in engine.browse(&record(), 1, ALL).await? {
        let about = DeadLetter::read(&letter.envelope).unwrap();
        let message = redrive::only_for(&redrive::original(&letter.envelope), &about.subscription);
        match engine.move_message(&record(), letter.offset, &about.topic, message).await {
            Ok(_) | Err(Error::AlreadySettled { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// How often each message is in `orders`, and which letters are not dealt with.
async fn found(engine: &EmbeddedEngine) -> (BTreeMap<String, u64>, Vec<Offset>) {
    let mut counts = BTreeMap::new();
    let (messages, damaged) = read_all(engine, "orders").await;
    assert_eq!(damaged, []);
    for message in messages {
        let original = redrive::original(&message.envelope);
        *counts.entry(String::from_utf8(original.0.to_vec()).unwrap()).or_default() += 1;
    }
    let open = match engine.browse(&record(), 1, ALL).await {
        Ok(open) => open,
        Err(Error::SubscriptionNotFound(_)) => read_all(engine, "dead").await.0,
        Err(error) => panic!("{error}"),
    };
    (counts, open.iter().map(|letter| letter.offset).collect())
}

/// What is left after a crash: each letter is still to be redriven, or was, once. Returns how many were.
async fn check_and_finish(left: SimFs) -> u64 {
    let engine = open(&left).await.unwrap();
    let (counts, open_letters) = found(&engine).await;
    for n in 0..LETTERS {
        let is_open = open_letters.contains(&(n + 1));
        assert_eq!(counts[&data(n)], if is_open { 1 } else { 2 }, "{n}: {counts:?} {open_letters:?}");
    }
    redrive_all(&engine).await.unwrap();
    let done = found(&engine).await;
    assert!(done.0.len() as u64 == LETTERS && done.0.values().all(|&count| count == 2), "{done:?}");
    assert_eq!(done.1, [0; 0]);
    engine.close().await;

    // The log alone says the same.
    for checkpoint in left.list("checkpoints").unwrap() {
        left.remove(&format!("checkpoints/{checkpoint}")).unwrap();
    }
    let engine = open(&left).await.unwrap();
    assert_eq!(found(&engine).await, done);
    engine.close().await;
    LETTERS - open_letters.len() as u64
}

/// Redrives with a disk that fails at the given step, until it has gone through; checks what a kill and a
/// power cut leave after each step.
async fn die_at_every_step(fault: impl Fn(u64) -> Faults) {
    let disk = disk_with_letters().await;
    let mut random = StdRng::seed_from_u64(3);
    let (mut seen, mut step) = (std::collections::BTreeSet::new(), 0);
    loop {
        let fs = disk.copy();
        let engine = open(&fs).await.unwrap();
        fs.set_faults(fault(step));
        let ended = redrive_all(&engine).await;
        let (killed, cut) = (fs.after_kill(), fs.after_power_cut(&mut random));
        engine.close().await;
        seen.insert(check_and_finish(killed).await);
        seen.insert(check_and_finish(cut).await);
        if ended.is_ok() {
            break;
        }
        step += 1;
        assert!(step < 1_000);
    }
    assert_eq!(seen, (0..=LETTERS).collect(), "it died before, between and after all letters");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_letter_is_redriven_once_whichever_write_fails() {
    die_at_every_step(|step| Faults { writes_before_error: Some(step), ..Faults::default() }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_letter_is_redriven_once_whichever_sync_fails() {
    die_at_every_step(|step| Faults { syncs_before_error: Some(step), ..Faults::default() }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_letter_is_redriven_once_by_many_at_once_and_a_power_cut() {
    let disk = disk_with_letters().await;
    let mut random = StdRng::seed_from_u64(4);
    let mut between = 0;
    for round in 0..40 {
        let fs = disk.copy();
        let engine = open(&fs).await.unwrap();
        let mut redrives = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let engine = engine.clone();
            redrives.spawn(async move { redrive_all(&engine).await });
        }
        let orders = engine.0.find_topic(&name("orders")).unwrap();
        let mut visible = orders.watch();
        visible.wait_for(|&last| last >= LETTERS + round % (LETTERS + 1)).await.unwrap();
        let left = fs.after_power_cut(&mut random);
        redrives.shutdown().await;
        engine.close().await;
        let redriven = check_and_finish(left).await;
        between += u64::from(redriven > 0 && redriven < LETTERS);
    }
    assert!(between > 5, "only {between} cuts came between the first and the last");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_kept_about_letters_goes_with_their_topic() {
    let fs = disk_with_letters().await;
    let engine = open(&fs).await.unwrap();
    redrive_all(&engine).await.unwrap();
    engine.delete_subscription(&name("worker"), None).await.unwrap();
    engine.delete_topic(&name("dead"), None).await.unwrap();
    create_topic(&engine, "dead").await;
    publish(&engine, "dead", &[b"x"]).await.unwrap();
    let killed = fs.after_kill();
    engine.close().await;
    let engine = open(&killed).await.unwrap();
    assert_eq!(engine.browse(&record(), 1, ALL).await, Err(Error::SubscriptionNotFound(record())));
    engine.close().await;
}

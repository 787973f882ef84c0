//! Publishing: offsets, order, all or none.

use std::collections::BTreeSet;

use bytes::Bytes;
use futures::future::{join_all, try_join_all};

use super::Harness;
use super::fixture::{FREELY, Fixture, PATIENCE, envelope, name, next, soon, topic};
use crate::engine::{Error, Intent, Terms, TopicChange};
use crate::model::limits::MAX_PUBLISH_MESSAGES;
use crate::model::{Durability, Envelope, Offset, Start, Timestamp, TopicSettings};

fn limit(bytes: u32) -> TopicChange {
    TopicChange { max_message_bytes: Some(bytes), ..TopicChange::default() }
}

pub(crate) async fn offsets_are_dense_from_one(harness: impl Harness) {
    let engine = Fixture::new(&harness).await;
    for (count, expected) in [(1, (1, 1)), (3, (2, 4)), (1, (5, 5))] {
        let receipt = engine.publish(count).await;
        assert_eq!((receipt.first, receipt.last), expected);
    }
    let stored: Vec<_> = engine.read_all().await.iter().map(|message| message.offset).collect();
    assert_eq!(stored, [1, 2, 3, 4, 5]);
    assert_eq!(engine.topic(&topic()).await.unwrap().last_offset, 5);
}

pub(crate) async fn topics_count_for_themselves(harness: impl Harness) {
    let engine = Fixture::new(&harness).await;
    engine.create_topic(name("other"), TopicSettings::default(), Intent::Apply).await.unwrap();
    engine.publish(3).await;
    let pending = engine.submit(&name("other"), vec![envelope("other")], Terms::default()).await.unwrap();
    assert_eq!(soon(pending).await.unwrap().first, 1);
    assert_eq!(engine.publish(1).await.first, 4);
    assert_eq!(engine.read_all().await.len(), 4);
}

pub(crate) async fn messages_are_kept_as_they_came(harness: impl Harness) {
    let engine = Fixture::subscribed(&harness).await;
    let sent = vec![
        envelope(""),
        envelope((0..=u8::MAX).collect::<Vec<_>>()),
        Envelope(Bytes::from(vec![0; 100_000])),
        envelope("last"),
    ];
    engine.publish_all(sent.clone()).await;
    let read = engine.read_all().await;
    assert_eq!(read.iter().map(|message| message.envelope.clone()).collect::<Vec<_>>(), sent);
    assert!(read.iter().all(|message| message.topic == topic()));
    let pulled = engine.pull_n(4).await;
    assert_eq!(pulled.into_iter().map(|delivery| delivery.message).collect::<Vec<_>>(), read);
}

pub(crate) async fn publish_times_never_run_backward(harness: impl Harness) {
    let engine = Fixture::new(&harness).await;
    let before = Timestamp::now();
    for _ in 0..20 {
        engine.publish(2).await;
    }
    let times: Vec<_> = engine.read_all().await.iter().map(|message| message.publish_time).collect();
    assert!(times.is_sorted(), "{times:?}");
    // The engine may keep time by another clock, but not by one that is far off.
    assert!(times[0].0.abs_diff(before.0) < u64::try_from(6 * PATIENCE.as_micros()).unwrap());
}

pub(crate) async fn one_message_too_large_refuses_all(harness: impl Harness) {
    let engine = Fixture::new(&harness).await;
    engine.update_topic(&topic(), limit(10), None, Intent::Apply).await.unwrap();
    let messages = vec![envelope("fits"), envelope("0123456789"), envelope("0123456789a")];
    let outcome = match engine.submit(&topic(), messages.clone(), Terms::default()).await {
        Ok(pending) => soon(pending).await,
        Err(error) => Err(error),
    };
    let error = Error::MessageTooLarge { topic: topic(), index: 2, size: 11, limit: 10 };
    assert_eq!(outcome, Err(error));
    assert_eq!(engine.read_all().await, []);
    let receipt = engine.publish_all(messages[..2].to_vec()).await;
    assert_eq!((receipt.first, receipt.last), (1, 2));
}

pub(crate) async fn a_lower_limit_keeps_what_is_stored(harness: impl Harness) {
    let engine = Fixture::subscribed(&harness).await;
    engine.publish_all(vec![envelope("more than five bytes")]).await;
    engine.update_topic(&topic(), limit(5), None, Intent::Apply).await.unwrap();
    assert_eq!(engine.read_all().await.len(), 1);
    assert_eq!(engine.pull_next(1).await[0].message.envelope, envelope("more than five bytes"));
}

pub(crate) async fn pipelined_requests_keep_their_order(harness: impl Harness) {
    let engine = Fixture::new(&harness).await;
    let mut pending = Vec::new();
    for n in 0..200 {
        let messages = vec![envelope(format!("{n} first")), envelope(format!("{n} second"))];
        pending.push(engine.submit(&topic(), messages, Terms::default()).await.unwrap());
    }
    let receipts = soon(try_join_all(pending)).await.unwrap();
    for (receipt, n) in receipts.iter().zip(0..) {
        assert_eq!((receipt.first, receipt.last), (2 * n + 1, 2 * n + 2));
    }
    let read = engine.read_all().await;
    for (pair, n) in read.chunks(2).zip(0..) {
        assert_eq!(pair[0].envelope, envelope(format!("{n} first")));
        assert_eq!(pair[1].envelope, envelope(format!("{n} second")));
    }
}

pub(crate) async fn a_forgotten_receipt_loses_nothing(harness: impl Harness) {
    let engine = Fixture::new(&harness).await;
    drop(engine.submit(&topic(), vec![envelope("forgotten")], Terms::default()).await.unwrap());
    assert_eq!(engine.publish_all(vec![envelope("marker")]).await.first, 2);
    let read = engine.read_all().await;
    assert_eq!(read[0].envelope, envelope("forgotten"));
    assert_eq!(read[1].envelope, envelope("marker"));
}

pub(crate) async fn requests_stay_whole_among_concurrent_publishers(harness: impl Harness) {
    const PUBLISHERS: usize = 8;
    const REQUESTS: usize = 40;
    let fixture = Fixture::new(&harness).await;
    let publishers = (0..PUBLISHERS).map(|publisher| {
        let engine = fixture.engine();
        tokio::spawn(async move {
            let mut last = 0;
            for request in 0..REQUESTS {
                let message = |n| envelope(format!("{publisher} {request} {n}"));
                let messages = (0..3).map(message).collect();
                let receipt =
                    engine.submit(&topic(), messages, Terms::default()).await.unwrap().await.unwrap();
                assert!(receipt.first > last, "{} came after {last}", receipt.first);
                assert_eq!(receipt.last, receipt.first + 2);
                last = receipt.last;
            }
        })
    });
    for publisher in soon(join_all(publishers)).await {
        publisher.unwrap();
    }

    let read = fixture.read_all().await;
    let expected: Vec<_> = (1..=(PUBLISHERS * REQUESTS * 3) as u64).collect();
    assert_eq!(read.iter().map(|message| message.offset).collect::<Vec<_>>(), expected);
    let mut seen = BTreeSet::new();
    for request in read.chunks(3) {
        let texts = request.iter().map(|message| String::from_utf8(message.envelope.0.to_vec()).unwrap());
        let parts: Vec<_> = texts.map(|text| text.rsplit_once(' ').unwrap().0.to_owned()).collect();
        assert!(parts.iter().all(|part| *part == parts[0]), "requests are mixed: {parts:?}");
        assert!(seen.insert(parts[0].clone()), "{} is there twice", parts[0]);
    }
}

pub(crate) async fn the_largest_request_is_one_piece(harness: impl Harness) {
    let engine = Fixture::new(&harness).await;
    let receipt = engine.publish(MAX_PUBLISH_MESSAGES).await;
    assert_eq!((receipt.first, receipt.last), (1, MAX_PUBLISH_MESSAGES as u64));
    assert_eq!(engine.read_all().await.len(), MAX_PUBLISH_MESSAGES);
}

pub(crate) async fn receipts_say_what_was_reached(harness: impl Harness) {
    let engine = Fixture::new(&harness).await;
    let publish = async |terms| {
        let pending = engine.submit(&topic(), vec![envelope("safe")], terms).await.unwrap();
        soon(pending).await.unwrap().durability
    };
    publish(Durability::Buffered.into()).await;
    let asked_for = publish(Durability::Fsynced.into()).await;
    let default = publish(Terms::default()).await;
    let honest = if engine.capabilities().persistent { Durability::Fsynced } else { Durability::Buffered };
    assert_eq!((asked_for, default), (honest, honest));
    assert_eq!(engine.read_all().await.len(), 3, "what is safe makes safe what came before it");
}

pub(crate) async fn buffered_messages_arrive(harness: impl Harness) {
    let engine = Fixture::new(&harness).await;
    let mut consumer = engine.ephemeral(Start::Latest, FREELY).await;
    let messages = vec![envelope("buffered")];
    let pending = engine.submit(&topic(), messages, Durability::Buffered.into()).await.unwrap();
    assert_eq!(soon(pending).await.unwrap().first, 1);
    assert_eq!(next(&mut *consumer).await[0].message.envelope, envelope("buffered"));
}

fn after(expected: Offset) -> Terms {
    Terms { expected_last: Some(expected), ..Terms::default() }
}

pub(crate) async fn an_expected_last_offset_is_kept_to(harness: impl Harness) {
    let engine = Fixture::new(&harness).await;
    let publish = async |expected| match engine
        .submit(&topic(), vec![envelope("a"), envelope("b")], after(expected))
        .await
    {
        Ok(pending) => soon(pending).await,
        Err(error) => Err(error),
    };
    let moved = |expected, actual| Err(Error::Moved { topic: topic(), expected, actual });
    assert_eq!(publish(1).await, moved(1, 0));
    assert_eq!(publish(0).await.unwrap().last, 2, "the topic was empty");
    assert_eq!(publish(0).await, moved(0, 2));
    assert_eq!(publish(1).await, moved(1, 2));
    assert_eq!(publish(3).await, moved(3, 2));
    assert_eq!(publish(2).await.unwrap().last, 4);
    assert_eq!(engine.read_all().await.len(), 4);
}

pub(crate) async fn of_many_that_expect_the_same_one_is_stored(harness: impl Harness) {
    const PUBLISHERS: usize = 4;
    const ROUNDS: u64 = 20;
    let engine = Fixture::new(&harness).await;
    for round in 0..ROUNDS {
        // Pipelined and concurrent: none waits for the others.
        let mut tasks = tokio::task::JoinSet::new();
        for publisher in 0..PUBLISHERS {
            let engine = engine.engine();
            tasks.spawn(async move {
                let message = vec![envelope(format!("{round}/{publisher}"))];
                match engine.submit(&topic(), message, after(round)).await {
                    Ok(pending) => soon(pending).await.is_ok(),
                    Err(_) => false,
                }
            });
        }
        let stored = tasks.join_all().await.into_iter().filter(|&stored| stored).count();
        assert_eq!(stored, 1, "round {round}");
    }
    assert_eq!(engine.read_all().await.len() as u64, ROUNDS);
}

//! Several operations in one step.

use bytes::Bytes;

use super::Harness;
use super::fixture::{
    FREELY, Fixture, LONG, PLENTY, at_most, attempts, envelope, ids, nack, name, named, next_n, persistent,
    reopened, soon, subscription, topic,
};
use crate::engine::{Error, Failure, Intent, Operation, Outcome, Result, Terms};
use crate::model::{Delivery, Duplicate, Durability, Name, Offset, Receipt, Start, TopicSettings};

fn results() -> Name {
    name("results")
}

fn to(topic: Name, text: &str) -> Operation {
    Operation::Publish { topic, messages: vec![envelope(text)], terms: Terms::default() }
}

fn to_results(text: &str) -> Operation {
    to(results(), text)
}

fn expecting(topic: Name, expected: Offset) -> Operation {
    let terms = Terms { expected_last: Some(expected), ..Terms::default() };
    Operation::Publish { topic, messages: vec![envelope("expecting")], terms }
}

fn ack(deliveries: &[Delivery]) -> Operation {
    Operation::Ack { subscription: subscription(), ids: ids(deliveries) }
}

/// With a topic and its subscription, so many messages in it, and another topic for results.
async fn ready(harness: &impl Harness, messages: usize) -> Fixture {
    let engine = Fixture::subscribed(harness).await;
    engine.create_topic(results(), TopicSettings::default(), Intent::Apply).await.unwrap();
    if messages > 0 {
        engine.publish(messages).await;
    }
    engine
}

async fn commit(engine: &Fixture, operations: Vec<Operation>) -> Result<Vec<Outcome>> {
    soon(engine.commit(operations)).await
}

async fn refused(engine: &Fixture, operations: Vec<Operation>) -> (usize, Error) {
    match commit(engine, operations).await {
        Err(Error::InCommit { index, cause }) => (index, *cause),
        other => panic!("{other:?}"),
    }
}

async fn last(engine: &Fixture, topic: Name) -> Offset {
    engine.topic(&topic).await.unwrap().last_offset
}

fn published(outcome: &Outcome) -> &Receipt {
    let Outcome::Published(receipt) = outcome else { panic!("{outcome:?}") };
    receipt
}

pub(crate) async fn everything_happens(harness: impl Harness) {
    let engine = ready(&harness, 3).await;
    engine.add_subscription(&name("other"), Start::Earliest).await;
    let held = engine.pull_n(3).await;
    let other = soon(engine.pull(&name("other"), at_most(1), LONG)).await.unwrap();
    let operations = vec![
        ack(&held[..1]),
        to_results("one"),
        Operation::Ack { subscription: name("other"), ids: ids(&other) },
        to(topic(), "more"),
        ack(&held[2..]),
        to_results("two"),
    ];
    let outcomes = commit(&engine, operations).await.unwrap();
    assert_eq!(outcomes.len(), 6);
    assert_eq!(
        [&outcomes[0], &outcomes[2], &outcomes[4]],
        [&Outcome::Acked(1), &Outcome::Acked(1), &Outcome::Acked(1)]
    );
    let firsts = [1, 3, 5].map(|at| (published(&outcomes[at]).first, published(&outcomes[at]).last));
    assert_eq!(firsts, [(1, 1), (4, 4), (2, 2)]);
    let read = engine.read(&results(), Start::Earliest, PLENTY).await.unwrap();
    assert_eq!(
        read.iter().map(|message| &message.envelope).collect::<Vec<_>>(),
        [&envelope("one"), &envelope("two")]
    );
    assert_eq!(engine.ack(&held[1..2]).await, 3);
    assert_eq!(attempts(&engine.pull_next(10).await), [(4, 1)]);
}

pub(crate) async fn acks_or_publishes_alone_are_fine(harness: impl Harness) {
    let engine = ready(&harness, 2).await;
    let held = engine.pull_n(2).await;
    assert_eq!(commit(&engine, vec![ack(&held)]).await.unwrap(), [Outcome::Acked(2)]);
    let outcomes = commit(&engine, vec![to_results("a"), to_results("b")]).await.unwrap();
    assert_eq!([published(&outcomes[0]).first, published(&outcomes[1]).first], [1, 2]);
    assert_eq!(engine.pull_now(1).await, []);
}

pub(crate) async fn an_operation_sees_those_before_it(harness: impl Harness) {
    let engine = ready(&harness, 0).await;
    let settings = TopicSettings { key_index: true, ..TopicSettings::default() };
    engine.create_topic(name("keyed"), settings, Intent::Apply).await.unwrap();
    let keyed = |id: &str, expected| Operation::Publish {
        topic: name("keyed"),
        messages: vec![named(id, "key", "data")],
        terms: Terms { expected_key: Some(expected), ..Terms::default() },
    };
    let operations = vec![
        expecting(results(), 0),
        expecting(results(), 1),
        keyed("a", 0),
        keyed("b", 1),
        keyed("a", 9),
        keyed("c", 2),
    ];
    let outcomes = commit(&engine, operations).await.unwrap();
    assert_eq!(published(&outcomes[4]).duplicates, [Duplicate { index: 0, offset: 1 }]);
    assert_eq!((published(&outcomes[4]).first, published(&outcomes[5]).first), (0, 3));
    assert_eq!((last(&engine, results()).await, last(&engine, name("keyed")).await), (2, 3));
    let (index, error) = refused(&engine, vec![keyed("d", 3), keyed("e", 3)]).await;
    assert_eq!((index, error), (1, Error::KeyMoved { topic: name("keyed"), expected: 3, actual: 4 }));
    assert_eq!(last(&engine, name("keyed")).await, 3);
}

pub(crate) async fn a_failed_expectation_undoes_all(harness: impl Harness) {
    let engine = ready(&harness, 2).await;
    let mut consumer = engine.consumer(FREELY).await;
    let held = next_n(&mut *consumer, 2).await;
    let operations = vec![to_results("a"), ack(&held), expecting(topic(), 1)];
    let moved = Error::Moved { topic: topic(), expected: 1, actual: 2 };
    assert_eq!(refused(&engine, operations).await, (2, moved));
    assert_eq!((last(&engine, results()).await, last(&engine, topic()).await), (0, 2));
    let progress = engine.progress().await;
    assert_eq!((progress.in_flight, progress.backlog_messages), (2, 2), "the deliveries are still held");
    assert_eq!(engine.pull_now(10).await, []);
    assert_eq!(commit(&engine, vec![to_results("a"), ack(&held)]).await.unwrap()[1], Outcome::Acked(2));
}

pub(crate) async fn an_unknown_name_undoes_all(harness: impl Harness) {
    let engine = ready(&harness, 1).await;
    let held = engine.pull_n(1).await;
    let nowhere = refused(&engine, vec![ack(&held), to(name("nowhere"), "x")]).await;
    assert_eq!(nowhere, (1, Error::TopicNotFound(name("nowhere"))));
    let nobody = Operation::Ack { subscription: name("nobody"), ids: ids(&held) };
    let error = refused(&engine, vec![to_results("x"), nobody]).await;
    assert_eq!(error, (1, Error::SubscriptionNotFound(name("nobody"))));
    let large = to_results(&"x".repeat(2 << 20));
    let (index, error) = refused(&engine, vec![ack(&held), large]).await;
    assert!(index == 1 && matches!(error, Error::MessageTooLarge { index: 0, .. }), "{error:?}");
    assert_eq!(last(&engine, results()).await, 0);
    assert_eq!(engine.ack(&held).await, 1);
}

pub(crate) async fn an_id_without_effect_undoes_all(harness: impl Harness) {
    let engine = ready(&harness, 4).await;
    engine.add_subscription(&name("other"), Start::Earliest).await;
    let held = engine.pull_n(4).await;
    engine.ack(&held[1..2]).await;
    engine.settle_all(&held[2..3], nack()).await;
    let again = engine.pull_n(1).await;
    let foreign = soon(engine.pull(&name("other"), at_most(1), LONG)).await.unwrap();
    let good = &held[0].ack_id;
    for (bad, failure) in [
        (Bytes::from_static(b"garbage"), Failure::Unknown),
        (held[1].ack_id.clone(), Failure::AlreadySettled),
        (held[2].ack_id.clone(), Failure::Expired),
        (foreign[0].ack_id.clone(), Failure::WrongSubscription),
        (good.clone(), Failure::Expired),
    ] {
        let acks = Operation::Ack { subscription: subscription(), ids: vec![good.clone(), bad] };
        let error = refused(&engine, vec![to_results("x"), acks]).await;
        let expected = Error::AckRefused { subscription: subscription(), index: 1, failure };
        assert_eq!(error, (1, expected), "{failure:?}");
    }
    let twice = refused(&engine, vec![ack(&held[..1]), ack(&held[..1])]).await;
    assert!(matches!(twice, (1, Error::AckRefused { index: 0, failure: Failure::Expired, .. })), "{twice:?}");
    assert_eq!(last(&engine, results()).await, 0);
    let all = [&held[..1], &again, &held[3..]].concat();
    assert_eq!(
        commit(&engine, vec![ack(&all)]).await.unwrap(),
        [Outcome::Acked(4)],
        "all of them count still"
    );
}

pub(crate) async fn duplicates_are_no_error(harness: impl Harness) {
    let engine = ready(&harness, 2).await;
    let held = engine.pull_n(2).await;
    let result = || Operation::Publish {
        topic: results(),
        messages: vec![named("result", "", "data")],
        terms: Terms::default(),
    };
    commit(&engine, vec![result(), ack(&held[..1])]).await.unwrap();
    let outcomes = commit(&engine, vec![result(), ack(&held[1..])]).await.unwrap();
    assert_eq!(published(&outcomes[0]).duplicates, [Duplicate { index: 0, offset: 1 }]);
    assert_eq!((&outcomes[1], last(&engine, results()).await), (&Outcome::Acked(2), 1));
}

pub(crate) async fn of_commits_of_the_same_message_one_succeeds(harness: impl Harness) {
    const MESSAGES: usize = 20;
    let engine = ready(&harness, MESSAGES).await;
    for delivery in engine.pull_n(MESSAGES).await {
        let mut tasks = tokio::task::JoinSet::new();
        for worker in 0..4 {
            let (engine, delivery) = (engine.engine(), delivery.clone());
            tasks.spawn(async move {
                engine.commit(vec![to_results(&worker.to_string()), ack(&[delivery])]).await
            });
        }
        let outcomes = soon(tasks.join_all()).await;
        assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1, "{outcomes:?}");
    }
    assert_eq!(last(&engine, results()).await, MESSAGES as u64);
    assert_eq!(engine.progress().await.backlog_messages, 0);
}

pub(crate) async fn acks_from_before_a_seek_undo_all(harness: impl Harness) {
    let engine = ready(&harness, 2).await;
    let held = engine.pull_n(2).await;
    engine.seek(&subscription(), Start::Earliest).await.unwrap();
    let (index, error) = refused(&engine, vec![to_results("x"), ack(&held)]).await;
    assert!(matches!(error, Error::AckRefused { failure: Failure::Expired, .. }), "{error:?}");
    assert_eq!((index, last(&engine, results()).await), (1, 0));
    assert_eq!(attempts(&engine.pull_n(2).await), [(1, 1), (2, 1)]);
}

/// Whichever comes first, a message has a result or is delivered again, and never both.
pub(crate) async fn a_seek_meanwhile_comes_before_or_after(harness: impl Harness) {
    let engine = ready(&harness, 1).await;
    for round in 0..40 {
        let before = last(&engine, results()).await;
        let held = engine.pull_n(1).await;
        let (committer, seeker) = (engine.engine(), engine.engine());
        let operations = vec![to_results("x"), ack(&held)];
        let committed = tokio::spawn(async move { committer.commit(operations).await });
        let target = if round % 2 == 0 { Start::Latest } else { Start::Earliest };
        let sought = tokio::spawn(async move { seeker.seek(&subscription(), target).await });
        let committed = soon(committed).await.unwrap();
        soon(sought).await.unwrap().unwrap();
        assert_eq!(last(&engine, results()).await, before + u64::from(committed.is_ok()));
        let floor = u64::from(round % 2 == 0);
        assert_eq!(engine.progress().await.committed_offset, floor, "the seek has the last word");
        engine.seek(&subscription(), Start::Earliest).await.unwrap();
    }
}

pub(crate) async fn durability_is_the_highest_asked_for(harness: impl Harness) {
    let engine = ready(&harness, 1).await;
    let held = engine.pull_n(1).await;
    let with = |durability: Durability| Operation::Publish {
        topic: results(),
        messages: vec![envelope("x")],
        terms: durability.into(),
    };
    let honest = if engine.capabilities().persistent { Durability::Fsynced } else { Durability::Buffered };
    let (buffered, fsynced) = (Durability::Buffered, Durability::Fsynced);
    for operations in [vec![with(buffered), with(fsynced)], vec![with(buffered), ack(&held)]] {
        let outcomes = commit(&engine, operations).await.unwrap();
        assert_eq!(published(&outcomes[0]).durability, honest);
    }
    commit(&engine, vec![with(buffered)]).await.unwrap();
    assert_eq!(engine.publish(1).await.first, 2, "what is durable makes durable what came before it");
    assert_eq!(last(&engine, results()).await, 4);
}

pub(crate) async fn what_was_committed_stays(mut harness: impl Harness) {
    if !persistent(&harness) {
        return;
    }
    let engine = ready(&harness, 3).await;
    let held = engine.pull_n(3).await;
    commit(&engine, vec![to_results("a"), ack(&held[..2]), to_results("b")]).await.unwrap();
    refused(&engine, vec![to_results("c"), ack(&held[2..]), expecting(topic(), 0)]).await;
    let engine = reopened(&mut harness, engine).await;
    assert_eq!((last(&engine, results()).await, engine.progress().await.committed_offset), (2, 2));
    // An id from before the restart counts in a commit, too.
    refused(&engine, vec![ack(&held[2..]), expecting(topic(), 0)]).await;
    assert_eq!(commit(&engine, vec![ack(&held[2..])]).await.unwrap(), [Outcome::Acked(3)]);
    let engine = reopened(&mut harness, engine).await;
    assert_eq!(engine.pull_now(10).await, []);
}

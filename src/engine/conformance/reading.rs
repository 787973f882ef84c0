//! Reading without a subscription.

use super::Harness;
use super::fixture::{Fixture, PLENTY, at_most, envelope, persistent, reopened, topic};
use crate::engine::ReadLimit;
use crate::model::{Offset, Start, StoredMessage, Timestamp};

fn offsets(messages: &[StoredMessage]) -> Vec<Offset> {
    messages.iter().map(|message| message.offset).collect()
}

pub(crate) async fn starts_where_asked(harness: impl Harness) {
    let engine = Fixture::new(&harness).await;
    assert_eq!(engine.read_all().await, [], "a new topic is empty");
    engine.publish(4).await;
    let starts: [(_, &[Offset]); 8] = [
        (Start::Earliest, &[1, 2, 3, 4]),
        (Start::Latest, &[]),
        (Start::Offset(1), &[1, 2, 3, 4]),
        (Start::Offset(4), &[4]),
        (Start::Offset(5), &[]),
        (Start::Offset(u64::MAX), &[]),
        (Start::Time(Timestamp(0)), &[1, 2, 3, 4]),
        (Start::Time(Timestamp(u64::MAX)), &[]),
    ];
    for (start, expected) in starts {
        let read = engine.read(&topic(), start, PLENTY).await.unwrap();
        assert_eq!(offsets(&read), expected, "from {start:?}");
    }
}

pub(crate) async fn a_time_means_the_first_message_since(harness: impl Harness) {
    let engine = Fixture::new(&harness).await;
    for _ in 0..10 {
        engine.publish(2).await;
    }
    let all = engine.read_all().await;
    for time in all.iter().flat_map(|message| [message.publish_time.0, message.publish_time.0 + 1]) {
        let read = engine.read(&topic(), Start::Time(Timestamp(time)), PLENTY).await.unwrap();
        let since: Vec<_> = all.iter().filter(|message| message.publish_time.0 >= time).cloned().collect();
        assert_eq!(read, since);
    }
}

pub(crate) async fn stops_at_the_limits(harness: impl Harness) {
    let engine = Fixture::new(&harness).await;
    engine.publish_all(vec![envelope("1234"); 6]).await;
    let read = engine.read(&topic(), Start::Offset(2), at_most(3)).await.unwrap();
    assert_eq!(offsets(&read), [2, 3, 4]);
    for (bytes, expected) in [(8, 2), (11, 2), (12, 3), (23, 5), (24, 6)] {
        let limit = ReadLimit { bytes, ..PLENTY };
        let read = engine.read(&topic(), Start::Earliest, limit).await.unwrap();
        assert_eq!(read.len(), expected, "within {bytes} bytes");
    }
}

pub(crate) async fn one_message_is_always_allowed(mut harness: impl Harness) {
    let mut engine = Fixture::new(&harness).await;
    engine.publish_all(vec![envelope("small"), envelope(vec![b'x'; 5_000]), envelope("small")]).await;
    engine.publish_all(vec![envelope("later")]).await;
    for reopens in [false, true] {
        if reopens && persistent(&harness) {
            // Nothing of it is in memory then.
            engine = reopened(&mut harness, engine).await;
        }
        for bytes in [0, 1, 100] {
            let limit = ReadLimit { messages: 10, bytes };
            let read = async |from| engine.read(&topic(), Start::Offset(from), limit).await.unwrap();
            assert_eq!(offsets(&read(1).await), [1], "within {bytes} bytes");
            assert_eq!(offsets(&read(2).await), [2], "within {bytes} bytes");
            assert_eq!(read(3).await.first().map(|message| message.offset), Some(3), "within {bytes} bytes");
            assert_eq!(offsets(&read(4).await), [4], "within {bytes} bytes");
        }
        let nothing = ReadLimit { messages: 0, bytes: 100 };
        assert_eq!(engine.read(&topic(), Start::Earliest, nothing).await.unwrap(), []);
    }
}

pub(crate) async fn changes_nothing(harness: impl Harness) {
    let engine = Fixture::subscribed(&harness).await;
    engine.publish(3).await;
    let before = (engine.topic(&topic()).await.unwrap(), engine.progress().await);
    let first = engine.read_all().await;
    assert_eq!(engine.read_all().await, first);
    assert_eq!((engine.topic(&topic()).await.unwrap(), engine.progress().await), before);
    assert_eq!(engine.pull_n(3).await.len(), 3);
}

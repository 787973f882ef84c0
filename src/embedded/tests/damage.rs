//! Torn ends, flipped bits, and files gone missing.

use super::super::log::segments;
use super::*;
use crate::embedded::checkpoint;
use crate::embedded::log::fs::Fs as _;
use crate::engine::Retry;
use crate::model::RetryPolicy;

/// A log of some segments with messages `0`, `1`, … in topic `orders`, every third acked, and closed
/// cleanly only if asked. Returns the disk and the number of messages.
async fn sample(messages: usize, close: bool) -> SimFs {
    let fs = SimFs::new();
    let engine = open(&fs).await.unwrap();
    create_topic(&engine, "orders").await;
    create_subscription(&engine, "worker", "orders").await;
    for n in 0..messages {
        publish(&engine, "orders", &[&payload(n)]).await.unwrap();
    }
    let leased = deliveries(&engine, "worker").await;
    let thirds: Vec<_> = leased.into_iter().step_by(3).collect();
    ack(&engine, "worker", &thirds).await;
    let left = fs.copy();
    engine.close().await;
    if close { fs.copy() } else { left }
}

/// A way to damage a file.
type Spoil = fn(&SimFs, &str);

fn payload(n: usize) -> Vec<u8> {
    format!("{n}:").repeat(50).into_bytes()
}

fn segments_of(fs: &SimFs) -> Vec<String> {
    segments::list(fs).unwrap().into_iter().map(segments::path).collect()
}

/// A disk on which only the log tells of the past.
fn without_checkpoints(fs: &SimFs) -> SimFs {
    let fs = fs.copy();
    for name in fs.list(checkpoint::DIR).unwrap() {
        fs.remove(&format!("{}/{name}", checkpoint::DIR)).unwrap();
    }
    fs
}

/// What an engine says about the sample.
async fn describe(fs: &SimFs) -> (Vec<StoredMessage>, Vec<Offset>, Offset) {
    let engine = open(fs).await.unwrap();
    let (messages, damaged) = read_all(&engine, "orders").await;
    assert_eq!(damaged, []);
    let unacked =
        deliveries(&engine, "worker").await.iter().map(|delivery| delivery.message.offset).collect();
    let floor = engine.stats(&name("worker")).await.unwrap().committed_offset;
    engine.close().await;
    (messages, unacked, floor)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_torn_end_is_cut_at_the_last_whole_frame() {
    let fs = SimFs::new();
    let engine = open(&fs).await.unwrap();
    create_topic(&engine, "orders").await;
    let segment = segments_of(&fs).pop().unwrap();
    let mut ends = Vec::new();
    for n in 0..6 {
        publish(&engine, "orders", &[&payload(n)]).await.unwrap();
        ends.push(end_of_data(&fs.bytes(&segment)));
    }
    let left = without_checkpoints(&fs);
    engine.close().await;
    let mut whole = left.bytes(&segment);
    whole.resize(ends[5].next_multiple_of(8), 0);
    for cut in ends[2]..=ends[5].next_multiple_of(8) {
        for tail in [&[][..], &[0; 300], &[0xA5; 300]] {
            // A frame is whole without its padding, as long as the file goes on.
            let whole_at = |end: usize| if tail.is_empty() { end.next_multiple_of(8) } else { end };
            let expected = ends.iter().filter(|&&end| whole_at(end) <= cut).count();
            let fs = left.copy();
            fs.set_bytes(&segment, [&whole[..cut], tail].concat());
            let engine = open(&fs).await.unwrap();
            let (messages, damaged) = read_all(&engine, "orders").await;
            assert_eq!((messages.len(), damaged.len()), (expected, 0), "cut at {cut}");
            if tail.is_empty() || cut % 64 == 0 {
                // A second recovery finds nothing more to do.
                let once = fs.bytes(&segment);
                drop(engine);
                let engine = reopen(&fs).await;
                assert_eq!(fs.bytes(&segment), once, "cut at {cut}");
                assert_eq!(publish(&engine, "orders", &[b"on"]).await.unwrap().first, expected as u64 + 1);
                engine.close().await;
            }
        }
    }
}

/// Opens a disk whose engine was dropped just now: its lock goes with its last thread.
async fn reopen(fs: &SimFs) -> EmbeddedEngine {
    loop {
        match open(fs).await {
            Err(OpenError::InUse { .. }) => tokio::task::yield_now().await,
            opened => return opened.unwrap(),
        }
    }
}

fn end_of_data(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|&byte| byte != 0).map_or(0, |at| at + 1)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_bit_is_reported_and_everything_else_served() {
    let fs = sample(200, true).await;
    let segments = segments_of(&fs);
    assert!(segments.len() >= 3, "several segments: {segments:?}");
    let (whole, _, _) = describe(&fs.copy()).await;
    for (at, segment) in segments.iter().enumerate() {
        let bytes = fs.bytes(segment);
        let data = end_of_data(&bytes);
        // Not in the final mark, which carries nothing.
        let last = if at + 1 == segments.len() { data / 8 * 8 - 40 } else { data };
        for position in (40..last).step_by(197) {
            let fs = fs.copy();
            let mut flipped = bytes.clone();
            flipped[position] ^= 1 << (position % 8);
            fs.set_bytes(segment, flipped);
            let engine = open(&fs).await.unwrap();
            let Ok(topic) = engine.topic(&name("orders")).await else {
                panic!("the checkpoint has the topic, even if its record is damaged");
            };
            let (messages, damaged) = read_all(&engine, "orders").await;
            let lost: u64 = damaged.iter().map(|(first, last)| last - first + 1).sum();
            assert!(messages.iter().all(|message| whole.contains(message)), "nothing false");
            assert_eq!(messages.len() as u64 + lost, topic.last_offset, "{segment} at {position}");
            assert!(lost <= 1, "{segment} at {position}: {damaged:?}");
            assert_eq!(fs.bytes(segment).len(), bytes.len(), "nothing is cut");
            // Nothing tells of a topic's very last message, if that is what is damaged.
            assert!(topic.last_offset >= 199, "{segment} at {position}");
            // A subscriber gets everything else that was not acked, and is not stuck.
            let delivered = deliveries(&engine, "worker").await;
            let delivered: Vec<_> = delivered.iter().map(|delivery| delivery.message.offset).collect();
            let due = messages.iter().map(|message| message.offset).filter(|offset| offset % 3 != 1);
            for offset in due {
                assert!(delivered.contains(&offset), "{segment} at {position}: {offset} is missing");
            }
            engine.close().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_in_the_active_segment_survives_further_writes() {
    let fs = sample(6, true).await;
    let segment = segments_of(&fs).pop().unwrap();
    let mut bytes = fs.bytes(&segment);
    let at = bytes.windows(4).position(|window| window == b"2:2:").unwrap();
    bytes[at] ^= 1;
    fs.set_bytes(&segment, bytes);
    for round in 0..3 {
        let engine = open(&fs).await.unwrap();
        let receipt = publish(&engine, "orders", &[b"on"]).await.unwrap();
        assert_eq!(receipt.first, 7 + round);
        let (messages, damaged) = read_all(&engine, "orders").await;
        assert_eq!(damaged, [(3, 3)]);
        assert_eq!(messages.len() as u64, 6 + round);
        engine.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_state_comes_back_without_checkpoints_and_sidecars() {
    for close in [true, false] {
        let fs = sample(200, close).await;
        let expected = describe(&fs.copy()).await;
        assert_eq!(expected.0.len(), 200);
        let derived = |dir: &str, ending: &str| {
            let names = fs.list(dir).unwrap().into_iter();
            names.filter(|name| name.ends_with(ending)).map(|name| format!("{dir}/{name}")).collect()
        };
        let checkpoints: Vec<String> = derived(checkpoint::DIR, ".ckp");
        let sidecars: Vec<String> = derived(segments::DIR, ".idx");
        assert_eq!(checkpoints.len(), 2);
        assert!(sidecars.len() >= 3);
        let remove: Spoil = |fs, path| fs.remove(path).unwrap();
        let cut: Spoil = |fs, path| fs.set_bytes(path, fs.bytes(path)[..20].to_vec());
        let zero: Spoil = |fs, path| fs.set_bytes(path, vec![0; fs.bytes(path).len()]);
        let flip: Spoil = |fs, path| {
            let mut bytes = fs.bytes(path);
            let middle = bytes.len() / 2;
            bytes[middle] ^= 4;
            fs.set_bytes(path, bytes);
        };
        for spoil in [remove, cut, zero, flip] {
            for paths in
                [&checkpoints[..], &checkpoints[1..], &sidecars, &[&checkpoints[..], &sidecars].concat()]
            {
                let fs = fs.copy();
                for path in paths {
                    spoil(&fs, path);
                }
                assert_eq!(describe(&fs).await, expected);
                // What was made anew serves the next start.
                assert_eq!(describe(&fs.copy()).await.0, expected.0);
            }
        }
        // An older checkpoint under a newer name is not believed, nor a sidecar of another segment.
        let swapped = fs.copy();
        swapped.set_bytes(&checkpoints[1], fs.bytes(&checkpoints[0]));
        assert_eq!(describe(&swapped).await, expected);
        let swapped = fs.copy();
        swapped.set_bytes(&sidecars[0], fs.bytes(&sidecars[1]));
        assert_eq!(describe(&swapped).await, expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refuses_what_another_version_or_another_log_wrote() {
    let fs = sample(3, true).await;
    let segment = segments_of(&fs).pop().unwrap();

    let newer = fs.copy();
    newer.set_bytes("columba.meta", b"format = 9\n".to_vec());
    let Err(error) = open(&newer).await else { panic!("opened") };
    assert!(error.to_string().contains("format version 9"), "{error}");

    let foreign = SimFs::new();
    open(&foreign).await.unwrap().close().await;
    let foreign_segment = segments_of(&foreign).pop().unwrap();
    foreign.set_bytes(&foreign_segment, fs.bytes(&segment));
    let Err(error) = open(&foreign).await else { panic!("opened") };
    assert!(error.to_string().contains("belongs to another log"), "{error}");

    // Without its meta file the log still tells who it is.
    let lost = fs.copy();
    lost.remove("columba.meta").unwrap();
    assert_eq!(describe(&lost).await.0.len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_outlives_damage_to_the_record_that_made_it() {
    let fs = sample(3, true).await;
    let segment = segments_of(&fs).pop().unwrap();
    let mut bytes = fs.bytes(&segment);
    let at = bytes.windows(6).position(|window| window == b"orders").unwrap();
    bytes[at] ^= 1;
    fs.set_bytes(&segment, bytes);
    assert_eq!(describe(&fs.copy()).await.0.len(), 3, "the checkpoint has it");

    // Without one the topic is lost, and another of its name does not find its messages.
    let engine = open(&without_checkpoints(&fs)).await.unwrap();
    create_topic(&engine, "orders").await;
    assert_eq!(publish(&engine, "orders", &[b"new"]).await.unwrap().first, 1);
    let (messages, damaged) = read_all(&engine, "orders").await;
    assert_eq!((messages.len(), &messages[0].envelope.0[..], damaged), (1, &b"new"[..], vec![]));
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn offsets_are_not_given_again_when_the_end_of_the_log_is_lost() {
    let fs = sample(3, true).await;
    let segment = segments_of(&fs).pop().unwrap();
    let bytes = fs.bytes(&segment);
    let at = bytes.windows(4).position(|window| window == b"1:1:").unwrap();
    fs.set_bytes(&segment, bytes[..at].to_vec());
    for round in 0..3 {
        let engine = open(&fs).await.unwrap();
        assert_eq!(publish(&engine, "orders", &[b"on"]).await.unwrap().first, 4 + round);
        let (messages, damaged) = read_all(&engine, "orders").await;
        assert_eq!((messages.len() as u64, damaged), (2 + round, vec![(2, 3)]));
        engine.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_its_last_segment_nothing_is_given_out_twice() {
    let sound = sample(200, true).await;
    let last = segments_of(&sound).pop().unwrap();
    let floor = describe(&sound.copy()).await.2;
    let remove: Spoil = |fs, path| fs.remove(path).unwrap();
    let empty: Spoil = |fs, path| fs.set_bytes(path, Vec::new());
    for spoil in [remove, empty] {
        let fs = sound.copy();
        spoil(&fs, &last);
        for round in 1..=2 {
            let engine = open(&fs).await.unwrap();
            assert_eq!(publish(&engine, "orders", &[b"on"]).await.unwrap().first, 200 + round);
            let (messages, damaged) = read_all(&engine, "orders").await;
            let lost: u64 = damaged.iter().map(|(first, last)| last - first + 1).sum();
            assert!(lost > 0 && damaged.iter().all(|&(_, last)| last == 200), "{damaged:?}");
            assert_eq!(messages.len() as u64 + lost, 200 + round);
            assert!(engine.stats(&name("worker")).await.unwrap().committed_offset >= floor);
            engine.close().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_damage_hid_is_delivered_once_it_is_back() {
    let fs = sample(6, true).await;
    let segment = segments_of(&fs).pop().unwrap();
    let sound = fs.bytes(&segment);
    let mut bytes = sound.clone();
    let at = bytes.windows(4).position(|window| window == b"2:2:").unwrap();
    bytes[at] ^= 1;
    fs.set_bytes(&segment, bytes);
    let engine = open(&fs).await.unwrap();
    create_subscription(&engine, "other", "orders").await;
    for (subscription, expected) in [("worker", &[2, 5, 6][..]), ("other", &[1, 2, 4, 5, 6])] {
        let delivered = deliveries(&engine, subscription).await;
        assert_eq!(delivered.iter().map(|it| it.message.offset).collect::<Vec<_>>(), expected);
        ack(&engine, subscription, &delivered).await;
        assert_eq!(engine.stats(&name(subscription)).await.unwrap().backlog_messages, 1);
    }
    engine.close().await;

    let mut repaired = fs.bytes(&segment);
    repaired[at] ^= 1;
    fs.set_bytes(&segment, repaired);
    let engine = open(&fs).await.unwrap();
    // The first one had it once before it was damaged, the other never.
    for (subscription, attempt) in [("worker", 2), ("other", 1)] {
        let delivered = deliveries(&engine, subscription).await;
        let attempts: Vec<_> = delivered.iter().map(|it| (it.message.offset, it.attempt)).collect();
        assert_eq!(attempts, [(3, attempt)]);
        assert_eq!(ack(&engine, subscription, &delivered).await, 6);
    }
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_any_segment_the_log_goes_on_where_the_checkpoint_is() {
    let fs = sample(3, true).await;
    for segment in segments_of(&fs) {
        fs.remove(&segment).unwrap();
    }
    for round in 0..3 {
        let engine = open(&fs).await.unwrap();
        assert_eq!(publish(&engine, "orders", &[b"on"]).await.unwrap().first, 4 + round);
        create_topic(&engine, &format!("new-{round}")).await;
        let (messages, damaged) = read_all(&engine, "orders").await;
        assert_eq!((messages.len() as u64, damaged), (1 + round, vec![(1, 3)]));
        for before in 0..round {
            assert!(engine.topic(&name(&format!("new-{before}"))).await.is_ok());
        }
        engine.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_its_dead_letter_topic_a_subscription_drops_nothing() {
    let fs = SimFs::new();
    let engine = open(&fs).await.unwrap();
    create_topic(&engine, "orders").await;
    create_topic(&engine, "graveyard").await;
    let retry = RetryPolicy { dead_letter_topic: Some(name("graveyard")), ..RetryPolicy::default() };
    let settings = SubscriptionSettings { retry, ..SubscriptionSettings::new(name("orders")) };
    engine.create_subscription(name("worker"), settings, Intent::Apply).await.unwrap();
    publish(&engine, "orders", &[b"poison"]).await.unwrap();
    engine.close().await;
    let fs = without_checkpoints(&fs);
    let segment = segments_of(&fs).pop().unwrap();
    let mut bytes = fs.bytes(&segment);
    let at = bytes.windows(9).position(|window| window == b"graveyard").unwrap();
    bytes[at] ^= 1;
    fs.set_bytes(&segment, bytes);

    let engine = open(&fs).await.unwrap();
    assert!(engine.topic(&name("graveyard")).await.is_err());
    let ids = deliveries(&engine, "worker").await.into_iter().map(|delivery| delivery.ack_id).collect();
    let give_up = Settlement::Nack { retry: Retry::Never, reason: "".into() };
    engine.settle(&name("worker"), ids, give_up).await.unwrap();
    let stats = engine.stats(&name("worker")).await.unwrap();
    assert_eq!((stats.backlog_messages, stats.dead_lettered), (1, 0));
    engine.close().await;
}

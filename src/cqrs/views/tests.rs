//! Tests of the views against a naive model, on both engines, and of what they cost.

#![expect(clippy::option_option, reason = "a write without a score, and no write but a deletion")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::bucket::Listed;
use super::bucket::file;
use super::*;
use crate::cqrs::store;
use crate::embedded::{EmbeddedEngine, Options};
use crate::engine::MemoryEngine;
use crate::model::Offset;

const PATIENCE: Duration = Duration::from_secs(60);

fn name() -> Name {
    Name::parse("scores").unwrap()
}

fn chosen() -> Settings {
    Settings { max_value_bytes: 1 << 20, ..Settings::default() }
}

async fn in_memory() -> (Views, Arc<Bucket>) {
    let engine: Arc<dyn Engine> = Arc::new(MemoryEngine::default());
    let views = Views::open(&engine, None).await.unwrap();
    views.create(name(), chosen()).await.unwrap();
    let bucket = views.bucket(&name()).unwrap();
    (views, bucket)
}

fn put(key: &str, value: &str, score: Option<f64>) -> Write {
    let score = score.map(|score| Score::new(score).unwrap());
    let what = What::Put { value: value.to_owned().into(), score, expire_time: None };
    Write { key: key.into(), what, expected: None, id: String::new() }
}

fn deletion(key: &str) -> Write {
    Write { key: key.into(), what: What::Delete, expected: None, id: String::new() }
}

fn selection(prefix: &str, min: Option<f64>, max: Option<f64>, (by, descending): (By, bool)) -> Selection {
    let score = |number| Score::new(number).unwrap();
    let order = Order { by, descending };
    Selection { prefix: prefix.into(), min: min.map(score), max: max.map(score), order }
}

fn top(prefix: &str) -> Selection {
    selection(prefix, None, None, (By::Score, true))
}

async fn listed(bucket: &Bucket, selection: Selection, limit: usize, revision: Offset) -> Listed {
    let list = List { selection, after: None, limit, bytes: usize::MAX };
    bucket.list(list, revision, PATIENCE).await.unwrap()
}

async fn keys(bucket: &Bucket, selection: Selection, limit: usize, revision: Offset) -> Vec<String> {
    let entries = listed(bucket, selection, limit, revision).await.entries;
    entries.into_iter().map(|entry| entry.key.to_string()).collect()
}

/// What the model knows of an entry: its score and revision.
type Model = BTreeMap<String, (Option<Score>, Offset)>;

fn expected(model: &Model, selection: &Selection) -> Vec<(String, Offset)> {
    let about = |score, revision| About { revision, time: Timestamp(0), expire_time: None, score };
    let mut wanted: Vec<_> = model
        .iter()
        .filter(|(key, (score, revision))| selection.matches(key, &about(*score, *revision)))
        .map(|(key, (score, revision))| (*score, key.clone(), *revision))
        .collect();
    wanted.sort_by(|a, b| {
        let ascending = match selection.order.by {
            By::Key => a.1.cmp(&b.1),
            By::Score => (a.0, &a.1).cmp(&(b.0, &b.1)),
        };
        if selection.order.descending { ascending.reverse() } else { ascending }
    });
    wanted.into_iter().map(|(_, key, revision)| (key, revision)).collect()
}

fn a_key() -> impl Strategy<Value = String> {
    "[ab]{1,3}"
}

fn a_score() -> impl Strategy<Value = Option<f64>> {
    proptest::option::weighted(0.8, prop_oneof![(-3..4).prop_map(f64::from), Just(f64::INFINITY), Just(-0.0)])
}

/// `None` deletes.
fn a_write() -> impl Strategy<Value = (String, Option<Option<f64>>)> {
    (a_key(), proptest::option::weighted(0.75, a_score()))
}

fn a_selection() -> impl Strategy<Value = Selection> {
    let bound = || proptest::option::weighted(0.4, (-3..4).prop_map(f64::from));
    let order = prop_oneof![Just(By::Key), Just(By::Score)];
    ("[ab]{0,2}", bound(), bound(), order, any::<bool>())
        .prop_map(|(prefix, min, max, by, descending)| selection(&prefix, min, max, (by, descending)))
}

fn write_of((key, what): &(String, Option<Option<f64>>)) -> Write {
    match what {
        Some(score) => put(key, key, *score),
        None => deletion(key),
    }
}

fn note(model: &mut Model, (key, what): &(String, Option<Option<f64>>), revision: Offset) {
    match what {
        Some(score) => _ = model.insert(key.clone(), (score.map(|it| Score::new(it).unwrap()), revision)),
        None => _ = model.remove(key),
    }
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(work)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn lists_are_what_a_naive_model_says(
        writes in prop::collection::vec(a_write(), 1..60),
        selections in prop::collection::vec((a_selection(), 1_usize..6), 1..20),
    ) {
        block_on(async {
            let (views, bucket) = in_memory().await;
            let (mut model, mut last) = (Model::new(), 0);
            for write in &writes {
                last = bucket.write(vec![write_of(write)]).await.unwrap()[0];
                note(&mut model, write, last);
            }
            for (selection, limit) in selections {
                let (mut found, mut after) = (Vec::new(), None);
                loop {
                    let list = List { selection: selection.clone(), after, limit, bytes: usize::MAX };
                    let page = bucket.list(list, last, PATIENCE).await.unwrap();
                    prop_assert!(page.entries.len() <= limit);
                    found.extend(page.entries.iter().map(|entry| (entry.key.to_string(), entry.about.revision)));
                    after = page.next;
                    if after.is_none() {
                        break;
                    }
                }
                prop_assert_eq!(found, expected(&model, &selection), "{:?}", selection);
            }
            views.close().await;
            Ok(())
        })?;
    }

    #[test]
    fn a_watch_is_at_every_revision_what_the_list_is(
        writes in prop::collection::vec(a_write(), 1..80),
        selection in a_selection(),
        limit in proptest::option::of(1_usize..4),
        breaks in prop::collection::vec(any::<bool>(), 80),
    ) {
        block_on(async {
            let (views, bucket) = in_memory().await;
            let mut models = BTreeMap::from([(0, Model::new())]);
            let mut watch = views.watch(&name(), selection.clone(), limit, None).unwrap();
            let mut shown = BTreeMap::new();
            let (mut model, mut last) = (Model::new(), 0);
            let ends = |models: &BTreeMap<Offset, Model>, revision| {
                let mut wanted = expected(&models[&revision], &selection);
                wanted.truncate(limit.unwrap_or(usize::MAX));
                wanted.into_iter().collect::<BTreeMap<_, _>>()
            };
            let mut seen = take(&mut watch, &mut shown).await;
            prop_assert_eq!(&shown, &ends(&models, seen.0));
            for (write, breaks) in writes.iter().zip(breaks) {
                last = bucket.write(vec![write_of(write)]).await.unwrap()[0];
                note(&mut model, write, last);
                models.insert(last, model.clone());
                if breaks {
                    // What happens without a step in between comes as one.
                    watch = views.watch(&name(), selection.clone(), limit, Some(seen.1)).unwrap();
                }
                // Whatever of it is there already.
                while let Ok(part) = tokio::time::timeout(Duration::ZERO, take(&mut watch, &mut shown)).await {
                    seen = part;
                    prop_assert_eq!(&shown, &ends(&models, seen.0), "at {}", seen.0);
                }
            }
            let goal = ends(&models, last);
            while shown != goal {
                let step = tokio::time::timeout(PATIENCE, take(&mut watch, &mut shown)).await;
                seen = step.expect("it comes to where the list is");
                prop_assert_eq!(&shown, &ends(&models, seen.0), "at {}", seen.0);
            }
            views.close().await;
            Ok(())
        })?;
    }
}

/// Takes one whole step of a watch. As these are small, each is one part.
async fn take(watch: &mut Watch, shown: &mut BTreeMap<String, Offset>) -> (Offset, Seen) {
    let part = watch.next().await.unwrap();
    assert!(!part.incomplete);
    if part.reset {
        shown.clear();
    }
    for key in &part.removed {
        shown.remove(&**key);
    }
    shown.extend(part.entries.iter().map(|entry| (entry.key.to_string(), entry.about.revision)));
    (part.revision, part.seen)
}

async fn read_your_writes(rounds: usize) {
    const WRITERS: usize = 64;
    let dir = tempfile::tempdir().unwrap();
    let (engine, views) = on_disk(dir.path()).await;
    views.create(name(), chosen()).await.unwrap();
    let bucket = views.bucket(&name()).unwrap();
    let write = |writer: usize| {
        let bucket = Arc::clone(&bucket);
        async move {
            for round in 0..rounds / WRITERS {
                let (key, value) = (format!("{writer:02}.key"), format!("{round}"));
                #[expect(clippy::cast_precision_loss, reason = "small")]
                let revision = bucket.write(vec![put(&key, &value, Some(round as f64))]).await.unwrap()[0];
                let entry = bucket.get(key.clone(), revision, PATIENCE).await.unwrap();
                assert_eq!((entry.about.revision, &entry.value[..]), (revision, value.as_bytes()));
                let found = listed(&bucket, top(&format!("{writer:02}.")), 5, revision).await;
                assert_eq!(found.entries, [entry]);
                assert!(found.revision >= revision);
            }
        }
    };
    let start = Instant::now();
    futures::future::join_all((0..WRITERS).map(|writer| tokio::spawn(write(writer))))
        .await
        .into_iter()
        .for_each(|done| done.unwrap());
    println!("{rounds} rounds of put, get and list by {WRITERS} writers: {:?}", start.elapsed());
    close(&engine, views).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_writes_reads_what_it_wrote() {
    read_your_writes(3_200).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes"]
async fn whoever_writes_reads_what_it_wrote_a_hundred_thousand_times() {
    read_your_writes(100_000).await;
}

async fn on_disk(dir: &Path) -> (Arc<dyn Engine>, Views) {
    let engine = EmbeddedEngine::open(&dir.join("log"), Options::default()).await.unwrap();
    let engine: Arc<dyn Engine> = Arc::new(engine);
    let views = Views::open(&engine, Some(dir.join("views"))).await.unwrap();
    (engine, views)
}

async fn close(engine: &Arc<dyn Engine>, views: Views) {
    views.close().await;
    engine.close().await;
}

fn file_of(dir: &Path) -> PathBuf {
    dir.join("views").join(file(&name()))
}

/// Fills a bucket; returns its last revision.
async fn fill(bucket: &Arc<Bucket>, count: usize) -> Offset {
    let mut random = StdRng::seed_from_u64(7);
    let mut last = 0;
    for start in (0..count).step_by(1_000) {
        let end = count.min(start + 1_000);
        let writes = (start..end).map(|n| {
            let region = ["eu", "us", "as", "af"][n % 4];
            put(&format!("{region}.{n:07}"), "value", Some(random.random_range(0.0..1_000_000.0)))
        });
        last = *bucket.write(writes.collect()).await.unwrap().last().unwrap();
    }
    last
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_written_is_there_after_a_restart_whatever_became_of_the_view() {
    let dir = tempfile::tempdir().unwrap();
    let (engine, views) = on_disk(dir.path()).await;
    views.create(name(), chosen()).await.unwrap();
    let bucket = views.bucket(&name()).unwrap();
    fill(&bucket, 3_000).await;
    bucket.write(vec![put("eu.0000000", "new", None), deletion("us.0000001")]).await.unwrap();
    let last = bucket.write(vec![put("zz", "", Some(-1.0))]).await.unwrap()[0];
    let before = listed(&bucket, selection("", None, None, (By::Key, false)), 5_000, last).await;
    assert_eq!(before.entries.len(), 3_000);
    let saved = {
        views.close().await;
        engine.close().await;
        drop((bucket, views, engine));
        std::fs::read(file_of(dir.path())).unwrap()
    };
    let spoil: [&dyn Fn(&Path); 6] = [
        &|_| {},
        &|path| std::fs::remove_file(path).unwrap(),
        &|path| std::fs::write(path, "no view").unwrap(),
        &|path| std::fs::write(path, &saved[..saved.len() / 3]).unwrap(),
        &|path| {
            let mut bytes = saved.clone();
            bytes[4_096..].iter_mut().step_by(97).for_each(|byte| *byte ^= 1);
            std::fs::write(path, bytes).unwrap();
        },
        &|path| std::fs::write(path.with_file_name("kv-gone.redb"), "of a bucket that is gone").unwrap(),
    ];
    for (round, spoil) in spoil.into_iter().enumerate() {
        spoil(&file_of(dir.path()));
        let (engine, views) = on_disk(dir.path()).await;
        let bucket = views.bucket(&name()).unwrap();
        let now = listed(&bucket, selection("", None, None, (By::Key, false)), 5_000, last).await;
        assert_eq!((now.entries, now.revision), (before.entries.clone(), last), "round {round}");
        let (versions, _) = bucket.history("us.0000001".into(), None, 9, 1 << 20, PATIENCE).await.unwrap();
        assert!(matches!(versions[..], [Version::Deleted { .. }, Version::Put(_)]), "{round}: {versions:?}");
        let Version::Deleted { revision: gone, .. } = versions[0] else { unreachable!() };
        for (key, expected, actual) in [("zz", 0, last), ("us.0000001", gone, 0), ("nothing", 7, 0)] {
            let write = Write { expected: Some(expected), ..put(key, "", None) };
            let refused = bucket.write(vec![write]).await.unwrap_err();
            assert!(
                matches!(refused, Error::Conflict { actual: it, .. } if it == actual),
                "{key}: {refused}"
            );
        }
        let again = Write { expected: Some(0), id: "again".into(), ..put("us.0000001", "", None) };
        if round == 5 {
            bucket.write(vec![again]).await.expect("what was deleted is not there");
        }
        assert!(!dir.path().join("views/kv-gone.redb").exists());
        close(&engine, views).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_view_of_another_history_is_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let (engine, views) = on_disk(dir.path()).await;
    views.create(name(), chosen()).await.unwrap();
    views.bucket(&name()).unwrap().write(vec![put("old", "", Some(1.0))]).await.unwrap();
    close(&engine, views).await;
    copy(&dir.path().join("log"), &dir.path().join("backup"));
    let write = async |count: usize| {
        let (engine, views) = on_disk(dir.path()).await;
        let bucket = views.bucket(&name()).unwrap();
        let mut last = 0;
        for n in 0..count {
            last = bucket.write(vec![put(&format!("{count}.{n}"), "", Some(1.0))]).await.unwrap()[0];
        }
        let found = keys(&bucket, top(""), 10, last).await;
        close(&engine, views).await;
        found
    };
    assert_eq!(write(3).await, ["old", "3.2", "3.1", "3.0"]);
    let view = std::fs::read(file_of(dir.path())).unwrap();
    let restore = || {
        std::fs::remove_dir_all(dir.path().join("log")).unwrap();
        copy(&dir.path().join("backup"), &dir.path().join("log"));
    };
    // Behind the view; then, without a view that would have noticed, past it.
    restore();
    assert_eq!(write(0).await, ["old"]);
    assert_eq!(write(4).await, ["old", "4.3", "4.2", "4.1", "4.0"]);
    std::fs::write(file_of(dir.path()), view).unwrap();
    assert_eq!(write(0).await, ["old", "4.3", "4.2", "4.1", "4.0"]);
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to.join(entry.file_name()));
        } else {
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_expired_while_the_server_was_down_does_not_bring_back_what_was_before() {
    for keep_view in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let (engine, views) = on_disk(dir.path()).await;
        views.create(name(), chosen()).await.unwrap();
        let bucket = views.bucket(&name()).unwrap();
        let first = bucket.write(vec![put("a", "old", Some(1.0))]).await.unwrap()[0];
        bucket.get("a".into(), first, PATIENCE).await.unwrap();
        // The view does not hear of it before the end.
        views.close().await;
        let expire_time = Some(Timestamp(Timestamp::now().0 + 1_000));
        let what = What::Put { value: "short".into(), score: Some(Score::new(2.0).unwrap()), expire_time };
        let write = Write { key: "a".into(), what, expected: None, id: String::new() };
        let topic = topic(&name());
        let submitted = engine.submit(&topic, vec![entry::envelope(&write)], engine::Terms::default());
        submitted.await.unwrap().await.unwrap();
        engine.close().await;
        drop((bucket, views, engine));
        if !keep_view {
            std::fs::remove_file(file_of(dir.path())).unwrap();
        }
        let (engine, views) = on_disk(dir.path()).await;
        let bucket = views.bucket(&name()).unwrap();
        let answer = bucket.get("a".into(), first + 1, PATIENCE).await;
        assert!(matches!(answer, Err(Error::EntryNotFound { .. })), "{answer:?}");
        assert!(keys(&bucket, top(""), 5, 0).await.is_empty());
        close(&engine, views).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deletion_that_nobody_waits_for_is_done_to_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let (engine, views) = on_disk(dir.path()).await;
    views.create(name(), chosen()).await.unwrap();
    let bucket = views.bucket(&name()).unwrap();
    let last = bucket.write(vec![put("a", "old", None)]).await.unwrap()[0];
    bucket.get("a".into(), last, PATIENCE).await.unwrap();
    let of = name();
    let mut deletion = Box::pin(views.delete(&of, None));
    let first_poll = futures::poll!(deletion.as_mut());
    assert!(first_poll.is_pending(), "the disk takes longer");
    drop(deletion);
    let gone = async {
        while views.bucket(&name()).is_ok() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), gone).await.expect("it goes on to its end");
    views.create(name(), chosen()).await.unwrap();
    let bucket = views.bucket(&name()).unwrap();
    let last = bucket.write(vec![put("b", "new", None)]).await.unwrap()[0];
    assert_eq!(keys(&bucket, selection("", None, None, (By::Key, false)), 5, last).await, ["b"]);
    close(&engine, views).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_was_made_anew_behind_a_bucket_is_another_bucket() {
    let dir = tempfile::tempdir().unwrap();
    let (engine, views) = on_disk(dir.path()).await;
    views.create(name(), chosen()).await.unwrap();
    let bucket = views.bucket(&name()).unwrap();
    let last = bucket.write(vec![put("a", "old", None)]).await.unwrap()[0];
    bucket.get("a".into(), last, PATIENCE).await.unwrap();
    for repeats in [true, false] {
        engine.delete_topic(&topic(&name()), None).await.unwrap();
        if repeats {
            let again = views.delete(&name(), None).await;
            assert!(matches!(again, Err(Error::BucketNotFound(_))), "{again:?}");
            assert!(views.bucket(&name()).is_err());
        }
        views.create(name(), chosen()).await.unwrap();
        let held = bucket.write(vec![put("c", "of the bucket before", None)]).await;
        assert!(matches!(held, Err(Error::BucketNotFound(_))), "{held:?}");
        let bucket = views.bucket(&name()).unwrap();
        let last = bucket.write(vec![put("b", "new", None)]).await.unwrap()[0];
        assert_eq!(keys(&bucket, selection("", None, None, (By::Key, false)), 5, last).await, ["b"]);
    }
    close(&engine, views).await;
}

fn short_lived(key: &str, score: f64) -> Write {
    let expire_time = Some(Timestamp(Timestamp::now().0 + 3_600_000_000));
    let what = What::Put { value: "short".into(), score: Score::new(score), expire_time };
    Write { key: key.into(), what, expected: None, id: String::new() }
}

#[tokio::test]
async fn a_write_that_was_done_is_done_when_it_is_sent_again_after_its_time() {
    let (views, bucket) = in_memory().await;
    let first = bucket.write(vec![short_lived("a", 1.0)]).await.unwrap()[0];
    let again = Write { expected: Some(first), id: "x".into(), ..short_lived("a", 2.0) };
    let second = bucket.write(vec![again.clone()]).await.unwrap()[0];
    bucket.clock.advance(Duration::from_secs(7_200));
    assert_eq!(bucket.write(vec![again.clone()]).await, Ok(vec![second]));
    let other = Write { expected: Some(second), id: "y".into(), ..again };
    let refused = bucket.write(vec![other]).await;
    assert!(matches!(refused, Err(Error::Conflict { actual: 0, .. })), "{refused:?}");
    views.close().await;
}

#[tokio::test]
async fn a_watch_that_goes_on_hears_of_what_expires_however_late_the_view_removes_it() {
    let (views, bucket) = in_memory().await;
    bucket.write(vec![short_lived("c", 3.0), put("b", "", Some(2.0))]).await.unwrap();
    let watch_from = |seen| views.watch(&name(), top(""), Some(2), seen).unwrap();
    let (mut shown, mut watch) = (BTreeMap::new(), watch_from(None));
    let mut at = take(&mut watch, &mut shown).await;
    while shown.len() < 2 {
        at = take(&mut watch, &mut shown).await;
    }
    let last = bucket.write(vec![put("d", "", Some(1.0))]).await.unwrap()[0];
    bucket.reached(last, PATIENCE).await.unwrap();
    // The view sleeps until it is woken.
    bucket.clock.advance(Duration::from_secs(7_200));
    watch = watch_from(Some(at.1));
    let early = tokio::time::timeout(Duration::from_millis(50), take(&mut watch, &mut shown)).await;
    assert!(early.is_err(), "{early:?} {shown:?}");
    bucket.write(vec![put("e", "", Some(0.0))]).await.unwrap();
    while !shown.keys().eq(["b", "d"]) {
        let step = tokio::time::timeout(Duration::from_secs(10), take(&mut watch, &mut shown)).await;
        step.expect("it comes to what the list is");
    }
    views.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_view_that_comes_back_empty_is_not_shown_before_it_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let (engine, views) = on_disk(dir.path()).await;
    views.create(name(), chosen()).await.unwrap();
    let bucket = views.bucket(&name()).unwrap();
    let last = fill(&bucket, 5_000).await;
    bucket.reached(last, PATIENCE).await.unwrap();
    bucket.store.close();
    std::fs::write(file_of(dir.path()), "no view").unwrap();
    bucket.write(vec![deletion("nothing")]).await.unwrap();
    let all = selection("eu.", None, None, (By::Key, false));
    loop {
        let list = List { selection: all.clone(), after: None, limit: 5_000, bytes: usize::MAX };
        match bucket.list(list, 0, PATIENCE).await {
            Ok(found) => break assert_eq!(found.entries.len(), 1_250),
            Err(Error::Store(store::Error::Disk(_)) | Error::NotReady { .. }) => {
                tokio::task::yield_now().await;
            }
            Err(other) => panic!("{other}"),
        }
    }
    close(&engine, views).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_view_that_cannot_be_opened_says_where_and_goes_on_when_it_can() {
    let dir = tempfile::tempdir().unwrap();
    let (engine, views) = on_disk(dir.path()).await;
    let path = file_of(dir.path());
    std::fs::create_dir_all(&path).unwrap();
    views.create(name(), chosen()).await.unwrap();
    let bucket = views.bucket(&name()).unwrap();
    let last = bucket.write(vec![put("a", "", None)]).await.unwrap()[0];
    let get = async |patience| bucket.get("a".into(), last, patience).await;
    let problem = loop {
        match get(Duration::from_millis(20)).await {
            Err(Error::Store(store::Error::Disk(problem))) => break problem,
            other => assert!(matches!(other, Err(Error::NotReady { .. })), "{other:?}"),
        }
    };
    assert!(problem.starts_with(&format!("{}: ", path.display())), "{problem}");
    std::fs::remove_dir(&path).unwrap();
    assert_eq!(get(PATIENCE).await.unwrap().about.revision, last);
    close(&engine, views).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_top_of_many_costs_what_the_top_of_few_does() {
    costs_of_the_top(10_000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes a minute"]
async fn the_top_of_a_hundred_thousand_costs_what_the_top_of_a_thousand_does() {
    costs_of_the_top(100_000).await;
}

async fn costs_of_the_top(many: usize) {
    let mut costs = Vec::new();
    for count in [1_000, many] {
        let (views, bucket) = in_memory().await;
        let last = fill(&bucket, count).await;
        let one_key = format!("eu.{:07}", count - 4);
        let cost = async |selection: Selection| {
            let found = listed(&bucket, selection, 5, last).await;
            assert!(!found.entries.is_empty());
            found.steps
        };
        let highest = listed(&bucket, top(""), 5, last).await.entries;
        let fifth = highest[4].about.score.unwrap().number();
        costs.push([
            cost(top("")).await,
            // A quarter of all: the index by score is quicker.
            cost(top("eu.")).await,
            // One: the index by key is.
            cost(top(&one_key)).await,
            cost(selection("eu.", Some(500_000.0), None, (By::Score, true))).await,
            cost(selection("eu.", None, None, (By::Key, false))).await,
            // The five highest, in the order of keys: again the index by score.
            cost(selection("", Some(fifth), None, (By::Key, false))).await,
        ]);
        views.close().await;
    }
    println!("steps for a top 5 of 1,000 and of {many}: {costs:?}");
    for (few, many) in costs[0].iter().zip(&costs[1]) {
        assert!(*many <= few * 3 + 60, "{costs:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement, for a release build"]
async fn how_long_a_top_of_many_takes() {
    for count in [10_000, 1_000_000] {
        let dir = tempfile::tempdir().unwrap();
        let (engine, views) = on_disk(dir.path()).await;
        views.create(name(), chosen()).await.unwrap();
        let bucket = views.bucket(&name()).unwrap();
        let start = Instant::now();
        let last = fill(&bucket, count).await;
        let written = start.elapsed();
        bucket.reached(last, PATIENCE).await.unwrap();
        println!("{count} entries: written in {written:?}, in the view after {:?}", start.elapsed());
        let kinds: [(&str, Selection); 4] = [
            ("top 5", top("")),
            ("top 5 of a quarter", top("eu.")),
            ("top 5 above half, of a quarter", selection("eu.", Some(500_000.0), None, (By::Score, true))),
            ("top 5 of ten keys", top("eu.000000")),
        ];
        for (what, selection) in kinds {
            let mut times = Vec::new();
            for _ in 0..1_000 {
                let start = Instant::now();
                listed(&bucket, selection.clone(), 5, last).await;
                times.push(start.elapsed());
            }
            times.sort();
            println!("  {what}: median {:?}, 99 % {:?}", times[500], times[990]);
        }
        let mut times = Vec::new();
        for n in 0..1_000 {
            let key = format!("eu.{:07}", n * 4);
            let start = Instant::now();
            bucket.get(key, last, PATIENCE).await.unwrap();
            times.push(start.elapsed());
        }
        times.sort();
        println!("  get: median {:?}, 99 % {:?}", times[500], times[990]);
        println!("  file: {} MiB", std::fs::metadata(file_of(dir.path())).unwrap().len() >> 20);
        close(&engine, views).await;
    }
}

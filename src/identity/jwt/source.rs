//! Where an issuer's keys come from: a file that is watched, or an address that is asked now and then.
//! The keys that were good last stay in use while there are no newer ones.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use futures::FutureExt;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::fetch::{FETCH_TIMEOUT, Url, fetch};
use super::keys::KeySet;
use crate::watched::{self, Watch};

/// Largest key set, in bytes.
pub(super) const MAX_BYTES: u64 = 1 << 20;
/// Shortest time between two times that an address is asked, whatever tokens name.
const MIN_INTERVAL: Duration = Duration::from_secs(10);
/// Time after a failure until the address is asked again without a reason.
const RETRY_INTERVAL: Duration = Duration::from_secs(30);

/// Where the keys are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// A file.
    File(PathBuf),
    /// An address.
    Url {
        /// http or https.
        url: Url,
        /// The authorities in PEM to trust for https; none for the system's.
        ca: Option<PathBuf>,
        /// How often to ask. From 10 s to 24 h; default: 5 min.
        refresh: Duration,
        /// How long after an answer tokens with unknown keys have it asked again. Default: 10 s.
        min_interval: Duration,
    },
}

impl Location {
    /// An address with the usual times.
    #[must_use]
    pub fn url(url: Url, ca: Option<PathBuf>, refresh: Duration) -> Self {
        Self::Url { url, ca, refresh, min_interval: MIN_INTERVAL }
    }
}

/// The keys, and who keeps them fresh.
pub(super) struct Source {
    location: Location,
    keys: ArcSwapOption<KeySet>,
    failures: AtomicU64,
    /// Somebody has met an unknown key.
    asked: Notify,
    /// When the address was asked last.
    attempts: watch::Sender<Option<Instant>>,
}

impl Source {
    /// A file must be good. An address may be down when the server starts.
    pub(super) fn open(location: Location) -> Result<Arc<Self>, String> {
        let keys = match &location {
            Location::File(path) => Some(Arc::new(read(path)?)),
            Location::Url { .. } => None,
        };
        Ok(Arc::new(Self {
            location,
            keys: ArcSwapOption::new(keys),
            failures: AtomicU64::new(0),
            asked: Notify::new(),
            attempts: watch::Sender::new(None),
        }))
    }

    /// The keys that are known. None until the address has answered once.
    pub(super) fn keys(&self) -> Option<Arc<KeySet>> {
        self.keys.load_full()
    }

    pub(super) fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Asks for newer keys, unless it was done just now. Whether the address was asked since.
    pub(super) async fn ask(&self) -> bool {
        let Location::Url { min_interval, .. } = &self.location else { return false };
        let mut attempts = self.attempts.subscribe();
        if attempts.borrow_and_update().is_some_and(|last| last.elapsed() < *min_interval) {
            return false;
        }
        self.asked.notify_one();
        matches!(timeout(FETCH_TIMEOUT, attempts.changed()).await, Ok(Ok(())))
    }

    /// Keeps the keys fresh until `stop`.
    pub(super) async fn follow(self: Arc<Self>, stop: CancellationToken) {
        let follow = async {
            match &self.location {
                Location::File(path) => self.follow_file(path).await,
                Location::Url { url, ca, refresh, min_interval } => {
                    self.follow_url(url, ca.as_ref(), *refresh, *min_interval).await;
                }
            }
        };
        stop.run_until_cancelled(follow).await;
    }

    async fn follow_file(&self, path: &PathBuf) {
        let watch = Watch::new([path]);
        let mut failed: Option<String> = None;
        loop {
            watch.changed().await;
            let path = path.clone();
            let keys = tokio::task::spawn_blocking(move || read(&path)).await;
            failed = self.take_up(keys.expect("reading keys does not panic"), failed.as_deref());
        }
    }

    async fn follow_url(&self, url: &Url, ca: Option<&PathBuf>, refresh: Duration, min_interval: Duration) {
        let mut failed: Option<String> = None;
        loop {
            let fetched = fetch(url, ca).await.and_then(|bytes| KeySet::parse(&bytes));
            let fetched = fetched.map_err(|problem| format!("the keys at {url} cannot be used: {problem}"));
            failed = self.take_up(fetched, failed.as_deref());
            let now = Instant::now();
            self.attempts.send_replace(Some(now));
            // What was asked for during the attempt is answered by it.
            let _ = self.asked.notified().now_or_never();
            let wait = if failed.is_some() { refresh.min(RETRY_INTERVAL) } else { refresh };
            sleep_until(now + min_interval.min(wait)).await;
            let _ = timeout_at(now + wait, self.asked.notified()).await;
        }
    }

    /// Takes up new keys, or keeps those in use. What failed is returned, and told once.
    fn take_up(&self, keys: Result<KeySet, String>, failed: Option<&str>) -> Option<String> {
        match keys {
            Ok(keys) => {
                if failed.is_some() {
                    tracing::info!("the keys of the tokens' issuer are there again");
                }
                self.keys.store(Some(Arc::new(keys)));
                None
            }
            Err(problem) => {
                self.failures.fetch_add(1, Ordering::Relaxed);
                if failed != Some(&*problem) {
                    tracing::error!("keeping the keys in use: {problem}");
                }
                Some(problem)
            }
        }
    }
}

fn read(path: &Path) -> Result<KeySet, String> {
    let bytes = watched::read(path, MAX_BYTES)?;
    KeySet::parse(&bytes)
        .map_err(|problem| format!("the keys in {} cannot be used: {problem}", path.display()))
}

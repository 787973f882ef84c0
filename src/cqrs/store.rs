//! Derived data on disk: what is read from topics, arranged to be asked.
//!
//! Everything in a store can be made anew from the log. So a write waits for no disk, a crash may take
//! back the last ones, and a file that cannot be trusted is removed. Whoever fills a store keeps in it how
//! far it has read, in the transactions of what it has read, and after [`Store::open`] and
//! [`Store::reopen`] goes on from there.
//!
//! The one place beside the log's `fs_real.rs` that touches files: the database does so itself, and needs no
//! more from here than a directory and the removal of what is damaged.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use redb::backends::InMemoryBackend;
use redb::{Builder, Database, Durability, ReadTransaction, ReadableDatabase, WriteTransaction};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::spawn_blocking;
use tokio_util::task::AbortOnDropHandle;

use crate::model::Kind;

/// Writes after which one waits for the disk. Until then no page that was replaced is used again.
const SYNC_AFTER_WRITES: u32 = 256;
/// Time after which a write waits for the disk.
const SYNC_AFTER: Duration = Duration::from_secs(2);

/// Reads of one store at once; others wait. The threads for blocking work are the whole server's.
const READS_AT_ONCE: usize = 32;

/// What can go wrong with derived data.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    /// What is stored cannot be trusted: [`Store::reset`] it.
    #[error("derived data is damaged: {0}; it is made anew from the log")]
    Damaged(String),
    /// The disk is full, or fails. After a write has failed so, the store is to be [reopened](Store::reopen).
    #[error("derived data cannot be kept: {0}; check the server's disk")]
    Disk(String),
}

/// The result of using a store.
pub(crate) type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// The kind of trouble, which decides the gRPC code.
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::Damaged(_) | Self::Disk(_) => Kind::Unavailable,
        }
    }

    /// The machine-readable reason, as in `google.rpc.ErrorInfo`.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Damaged(_) => "VIEW_DAMAGED",
            Self::Disk(_) => "VIEW_UNREADABLE",
        }
    }
}

impl From<redb::Error> for Error {
    fn from(error: redb::Error) -> Self {
        use io::ErrorKind as K;
        use redb::Error as E;
        match error {
            // A file that ends too early is no trouble of the disk.
            E::Io(error) if !matches!(error.kind(), K::InvalidData | K::UnexpectedEof) => {
                Self::Disk(error.to_string())
            }
            E::PreviousIo | E::DatabaseClosed | E::DatabaseAlreadyOpen | E::LockPoisoned(_) => {
                Self::Disk(error.to_string())
            }
            other => Self::Damaged(other.to_string()),
        }
    }
}

/// Errors of single steps are errors of the database.
macro_rules! from_steps {
    ($($step:ident),*) => {
        $(impl From<redb::$step> for Error {
            fn from(error: redb::$step) -> Self {
                redb::Error::from(error).into()
            }
        })*
    };
}
from_steps!(StorageError, TableError, TransactionError, CommitError, DatabaseError);

/// A database of derived data. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Store(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// In memory, if there is none.
    path: Option<PathBuf>,
    cache_bytes: usize,
    /// Replaced when it is reopened; none after a failed attempt.
    database: RwLock<Option<Arc<Database>>>,
    sync: Mutex<Sync>,
    reads: Arc<Semaphore>,
    /// Held while the file is opened or removed; whether it was removed for good.
    is_removed: Mutex<bool>,
}

/// When to wait for the disk.
#[derive(Debug)]
struct Sync {
    writes: u32,
    last: Instant,
}

impl Store {
    /// The store with this file name in a directory, or one in memory. Not open: [`reopen`](Self::reopen) it.
    ///
    /// `cache_bytes` bound the pages of it held in memory.
    pub(crate) fn closed(directory: Option<&Path>, file: &str, cache_bytes: usize) -> Self {
        let path = directory.map(|directory| directory.join(file));
        let sync = Mutex::new(Sync { writes: 0, last: Instant::now() });
        let (database, reads) = (RwLock::default(), Arc::new(Semaphore::new(READS_AT_ONCE)));
        let is_removed = Mutex::new(false);
        Self(Arc::new(Inner { path, cache_bytes, database, sync, reads, is_removed }))
    }

    /// Opens the [store](Self::closed). What is damaged, or of another version, is logged and removed; the
    /// store is empty then. Reads the whole file to know.
    #[allow(dead_code, reason = "views open theirs in the background")]
    pub(crate) async fn open(directory: Option<&Path>, file: &str, cache_bytes: usize) -> Result<Self> {
        let store = Self::closed(directory, file, cache_bytes);
        store.reopen().await?;
        Ok(store)
    }

    /// Does something with what is stored now, of which later writes change nothing. Runs off the async
    /// threads.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&ReadTransaction) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let place = place(&self.0.reads).await;
        self.blocking(move |inner| {
            // Here, as it goes on when the caller is gone.
            let _place = place;
            read(&inner.database()?.begin_read()?)
        })
        .await
    }

    /// Changes what is stored: all of it, or after an error nothing. Writes wait for each other. Runs off the
    /// async threads.
    pub(crate) async fn write<T: Send + 'static>(
        &self,
        write: impl FnOnce(&WriteTransaction) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.blocking(move |inner| inner.write(write, false)).await
    }

    /// Waits until all that was written is on disk.
    pub(crate) async fn sync(&self) -> Result<()> {
        self.blocking(|inner| inner.write(|_| Ok(()), true)).await
    }

    /// Opens the file again, as it is needed after a failed write. The last writes before may be gone.
    pub(crate) async fn reopen(&self) -> Result<()> {
        self.blocking(Inner::open).await
    }

    /// Removes everything in it, whatever its state.
    pub(crate) async fn reset(&self) -> Result<()> {
        let empty = |inner: &Inner| {
            inner.remove_file()?;
            inner.open()
        };
        self.blocking(empty).await
    }

    /// Closes the file as soon as nobody reads it. Reads and writes fail from now on.
    pub(crate) fn close(&self) {
        self.0.set(None);
    }

    /// Removes the file for good. Reads and writes fail from now on, and so does opening it, even if that has
    /// begun before.
    pub(crate) async fn remove(&self) -> Result<()> {
        self.blocking(Inner::remove).await
    }

    /// What is stored now, to be read from more than once. While it is held, no page that it needs is used
    /// again: it is let go after `time`, therefore, even if nobody asks then.
    pub(crate) async fn snapshot(&self, time: Duration) -> Result<Snapshot> {
        let held = self.blocking(|inner| Ok(Some(Arc::new(inner.database()?.begin_read()?)))).await?;
        let held = Arc::new(Mutex::new(held));
        let of_timer = Arc::clone(&held);
        let timer = tokio::spawn(async move {
            tokio::time::sleep(time).await;
            of_timer.lock().unwrap_or_else(PoisonError::into_inner).take();
        });
        Ok(Snapshot { held, reads: Arc::clone(&self.0.reads), _timer: AbortOnDropHandle::new(timer) })
    }

    /// Removes the files of a directory whose names do not pass: stores of what is there no more.
    pub(crate) async fn remove_others(
        directory: &Path,
        keep: impl Fn(&str) -> bool + Send + 'static,
    ) -> Result<()> {
        let (shown, directory) = (directory, directory.to_owned());
        let removed = spawn_blocking(move || remove_others(&directory, keep)).await;
        let failed = |error| Error::Disk(format!("{}: {error}", shown.display()));
        removed.map_err(io::Error::other).flatten().map_err(failed)
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let inner = Arc::clone(&self.0);
        match spawn_blocking(move || work(&inner)).await {
            Ok(done) => done.map_err(|error| self.0.with_path(error)),
            // The database trusts pages that it has written, and panics over others.
            Err(error) => Err(Error::Damaged(error.to_string())),
        }
    }
}

async fn place(reads: &Arc<Semaphore>) -> OwnedSemaphorePermit {
    Arc::clone(reads).acquire_owned().await.expect("it is never closed")
}

/// What a store held at one moment.
pub(crate) struct Snapshot {
    /// None once it was let go.
    held: Arc<Mutex<Option<Arc<ReadTransaction>>>>,
    reads: Arc<Semaphore>,
    _timer: AbortOnDropHandle<()>,
}

impl Snapshot {
    /// As [`Store::read`], and one of its reads. Fails once the snapshot was let go.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&ReadTransaction) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (place, held) = (place(&self.reads).await, Arc::clone(&self.held));
        let done = spawn_blocking(move || {
            let _place = place;
            let transaction = held.lock().unwrap_or_else(PoisonError::into_inner).clone();
            read(&*transaction.ok_or_else(|| Error::Disk("what was read was held for too long".into()))?)
        })
        .await;
        done.map_err(|error| Error::Damaged(error.to_string())).flatten()
    }
}

fn remove_others(directory: &Path, keep: impl Fn(&str) -> bool) -> io::Result<()> {
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_file() && !entry.file_name().to_str().is_some_and(&keep) {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

impl Inner {
    fn database(&self) -> Result<Arc<Database>> {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner).clone();
        database.ok_or_else(|| Error::Disk("the file is not open".into()))
    }

    fn set(&self, database: Option<Database>) {
        *self.database.write().unwrap_or_else(PoisonError::into_inner) = database.map(Arc::new);
    }

    /// Says where, if it is trouble of the disk.
    fn with_path(&self, error: Error) -> Error {
        match (error, &self.path) {
            (Error::Disk(problem), Some(path)) => Error::Disk(format!("{}: {problem}", path.display())),
            (error, _) => error,
        }
    }

    fn open(&self) -> Result<()> {
        // Whoever began this may be gone, and the file removed meanwhile.
        let is_removed = self.is_removed.lock().unwrap_or_else(PoisonError::into_inner);
        if *is_removed {
            return Err(Error::Disk("the file was removed".into()));
        }
        let path = self.path.as_ref();
        if path.is_none() && self.database().is_ok() {
            return Ok(());
        }
        // Not before the old one is closed can the file be opened again.
        self.set(None);
        let opened = match self.open_once() {
            Err(Error::Damaged(problem)) => {
                tracing::error!(?path, problem, "derived data cannot be used; it is made anew from the log");
                self.remove_file()?;
                self.open_once()
            }
            opened => opened,
        };
        self.set(Some(opened?));
        Ok(())
    }

    fn open_once(&self) -> Result<Database> {
        let mut builder = Builder::new();
        builder.set_cache_size(self.cache_bytes);
        let Some(path) = &self.path else {
            return Ok(builder.create_with_backend(InMemoryBackend::new())?);
        };
        builder.set_check_integrity_on_open(true);
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory).map_err(|error| Error::Disk(error.to_string()))?;
        }
        let open = std::panic::AssertUnwindSafe(|| builder.create(path));
        let opened = std::panic::catch_unwind(open);
        opened.map_err(|_| Error::Damaged("it cannot be read".into()))?.map_err(Into::into)
    }

    fn remove(&self) -> Result<()> {
        *self.is_removed.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.remove_file()
    }

    fn remove_file(&self) -> Result<()> {
        self.set(None);
        let Some(path) = &self.path else { return Ok(()) };
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::Disk(error.to_string())),
            _ => Ok(()),
        }
    }

    fn write<T>(&self, write: impl FnOnce(&WriteTransaction) -> Result<T>, sync: bool) -> Result<T> {
        let database = self.database()?;
        let mut transaction = database.begin_write()?;
        let sync = self.is_sync_due() || sync;
        if !sync {
            let unsynced = transaction.set_durability(Durability::None);
            unsynced.map_err(|error| Error::Damaged(error.to_string()))?;
        }
        let done = write(&transaction)?;
        transaction.commit()?;
        Ok(done)
    }

    fn is_sync_due(&self) -> bool {
        let mut sync = self.sync.lock().unwrap_or_else(PoisonError::into_inner);
        sync.writes += 1;
        let due = sync.writes >= SYNC_AFTER_WRITES || sync.last.elapsed() >= SYNC_AFTER;
        if due {
            *sync = Sync { writes: 0, last: Instant::now() };
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use redb::TableDefinition;

    use super::*;

    const NUMBERS: TableDefinition<'_, u64, u64> = TableDefinition::new("numbers");
    const CACHE: usize = 1 << 20;

    async fn put(store: &Store, key: u64, value: u64) {
        let put = move |transaction: &WriteTransaction| {
            transaction.open_table(NUMBERS)?.insert(key, value)?;
            Ok(())
        };
        store.write(put).await.unwrap();
    }

    async fn get(store: &Store, key: u64) -> Option<u64> {
        let get = move |transaction: &ReadTransaction| match transaction.open_table(NUMBERS) {
            Ok(table) => Ok(table.get(key)?.map(|value| value.value())),
            Err(redb::TableError::TableDoesNotExist(_)) => Ok(None),
            Err(error) => Err(error.into()),
        };
        store.read(get).await.unwrap()
    }

    #[tokio::test]
    async fn what_was_synced_is_there_again() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(Some(&dir.path().join("new")), "a", CACHE).await.unwrap();
        put(&store, 1, 10).await;
        store.sync().await.unwrap();
        store.reopen().await.unwrap();
        assert_eq!(get(&store, 1).await, Some(10));
        drop(store);
        let store = Store::open(Some(&dir.path().join("new")), "a", CACHE).await.unwrap();
        assert_eq!(get(&store, 1).await, Some(10));
        store.reset().await.unwrap();
        assert_eq!(get(&store, 1).await, None);
    }

    #[tokio::test]
    async fn a_failed_write_changes_nothing() {
        let store = Store::open(None, "a", CACHE).await.unwrap();
        put(&store, 1, 10).await;
        let fail = |transaction: &WriteTransaction| {
            transaction.open_table(NUMBERS)?.insert(1, 11)?;
            Err::<(), _>(Error::Disk("full".into()))
        };
        assert_eq!(store.write(fail).await, Err(Error::Disk("full".into())));
        assert_eq!(get(&store, 1).await, Some(10));
    }

    #[tokio::test]
    async fn a_file_that_is_damaged_anywhere_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let store = Store::open(Some(dir.path()), "a", CACHE).await.unwrap();
        for key in 0..1_000 {
            put(&store, key, key).await;
        }
        store.sync().await.unwrap();
        drop(store);
        let good = std::fs::read(&path).unwrap();
        let page = 4_096;
        let written: Vec<_> =
            (0..good.len() / page).filter(|at| good[at * page..][..page].iter().any(|&b| b != 0)).collect();
        assert!(written.len() > 3, "{written:?}");
        for at in written {
            let mut bad = good.clone();
            bad[at * page..][..page].iter_mut().for_each(|byte| *byte ^= 0x5a);
            std::fs::write(&path, bad).unwrap();
            let store = Store::open(Some(dir.path()), "a", CACHE).await.unwrap();
            // A page that is not in use may be anything.
            assert!([None, Some(7)].contains(&get(&store, 7).await), "page {at}");
            put(&store, 1, 5).await;
            assert_eq!(get(&store, 1).await, Some(5));
        }
        let cuts = [1, 100, 319, 320, 4_096, good.len() / 2, good.len() - 1].map(|cut| &good[..cut]);
        for garbage in [&b"no database"[..], &[0; 8_192]].into_iter().chain(cuts) {
            std::fs::write(&path, garbage).unwrap();
            let store = Store::open(Some(dir.path()), "a", CACHE).await.unwrap();
            put(&store, 1, 5).await;
        }
    }

    #[tokio::test]
    async fn a_read_that_nobody_waits_for_counts_until_it_ends() {
        let store = Store::open(None, "a", CACHE).await.unwrap();
        let (started, starts) = tokio::sync::oneshot::channel();
        let (end, ends) = std::sync::mpsc::sync_channel::<()>(1);
        let reading = tokio::spawn({
            let store = store.clone();
            async move {
                let read = move |_: &ReadTransaction| {
                    started.send(()).unwrap();
                    let _ = ends.recv();
                    Ok(())
                };
                store.read(read).await
            }
        });
        starts.await.unwrap();
        reading.abort();
        assert!(reading.await.unwrap_err().is_cancelled());
        assert_eq!(store.0.reads.available_permits(), READS_AT_ONCE - 1);
        drop(end);
        let all = u32::try_from(READS_AT_ONCE).unwrap();
        drop(store.0.reads.acquire_many(all).await.unwrap());
    }

    #[tokio::test]
    async fn a_snapshot_is_let_go_after_its_time_though_nobody_asks() {
        let store = Store::open(None, "a", CACHE).await.unwrap();
        let snapshot = store.snapshot(Duration::from_millis(1)).await.unwrap();
        let held = Arc::clone(&snapshot.held);
        while held.lock().unwrap().is_some() {
            tokio::task::yield_now().await;
        }
        assert!(matches!(snapshot.read(|_| Ok(())).await, Err(Error::Disk(_))));
        let long = store.snapshot(Duration::from_secs(600)).await.unwrap();
        assert_eq!(long.read(|_| Ok(())).await, Ok(()));
    }

    #[tokio::test]
    async fn a_removed_store_refuses() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(Some(dir.path()), "a", CACHE).await.unwrap();
        store.remove().await.unwrap();
        assert!(!dir.path().join("a").exists());
        assert!(matches!(store.sync().await, Err(Error::Disk(_))));
        // As by somebody who began before, and whose turn comes after.
        assert!(matches!(store.reopen().await, Err(Error::Disk(_))));
        assert!(matches!(store.reset().await, Err(Error::Disk(_))));
        assert!(!dir.path().join("a").exists());
    }

    #[tokio::test]
    async fn trouble_of_the_disk_says_where() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("kv-a.redb")).unwrap();
        std::fs::write(dir.path().join("views"), "a plain file").unwrap();
        for (directory, path) in [(dir.path(), "kv-a.redb"), (&dir.path().join("views"), "views/kv-a.redb")] {
            let Err(Error::Disk(problem)) = Store::open(Some(directory), "kv-a.redb", CACHE).await else {
                panic!("{path} is no file")
            };
            let path = dir.path().join(path);
            assert!(problem.starts_with(&format!("{}: ", path.display())), "{problem}");
        }
        let Err(Error::Disk(problem)) = Store::remove_others(&dir.path().join("views"), |_| true).await
        else {
            panic!("it is no directory")
        };
        assert!(problem.contains(&*dir.path().join("views").to_string_lossy()), "{problem}");
    }
}

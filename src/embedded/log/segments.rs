//! The segment files of the log.

use std::collections::BTreeSet;
use std::io;
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use moka::sync::Cache;
use tokio::sync::Notify;

use super::format::{LogId, segment_header};
use super::fs::{File, Fs};

/// The directory of segments and sidecars.
pub(crate) const DIR: &str = "log";
/// Files of sealed segments that are kept open.
const OPEN_FILES: u64 = 16;
/// Whoever waits for the log to grow is told at each new segment, and each time so many bytes were written.
const GROWTH: u64 = 32 << 20;
/// Space that is kept for what must be written when the disk is full: acks, deletes, and the note that
/// says so.
pub(crate) const BALLAST: &str = "log/ballast";
/// Its size in bytes, or the disk reserve if that is less.
pub(crate) const BALLAST_BYTES: u64 = 8 << 20;
/// A segment made ahead of need.
pub(crate) const SPARE: &str = "log/spare";

/// The path of a segment.
pub(crate) fn path(first_sequence: u64) -> String {
    format!("{DIR}/{first_sequence:020}.seg")
}

/// The name of a segment's sidecar, in [`DIR`].
pub(crate) fn sidecar_name(first_sequence: u64) -> String {
    format!("{first_sequence:020}.idx")
}

/// The path of a segment's sidecar.
pub(crate) fn sidecar_path(first_sequence: u64) -> String {
    format!("{DIR}/{}", sidecar_name(first_sequence))
}

/// The first sequence numbers of all segments, in order.
pub(crate) fn list(fs: &dyn Fs) -> io::Result<Vec<u64>> {
    let names = fs.list(DIR)?;
    let number = |name: &str| name.strip_suffix(".seg")?.parse().ok();
    // Another file whose name is a number, too, is none of ours.
    let own = |name: &String| number(name).filter(|&first| path(first) == format!("{DIR}/{name}"));
    let mut segments: Vec<u64> = names.iter().filter_map(own).collect();
    segments.sort_unstable();
    Ok(segments)
}

/// Creates a segment, from the spare if there is one. Durable when this returns. May be called again
/// after it failed.
pub(crate) fn create(fs: &dyn Fs, log: LogId, first_sequence: u64) -> io::Result<Arc<dyn File>> {
    let path = path(first_sequence);
    // Opened only under its new name: under the old one, the housekeeper may put another file.
    let file = match fs.rename(SPARE, &path) {
        Ok(()) => fs.open(&path)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound && fs.exists(&path)? => fs.open(&path)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => fs.create(&path)?,
        Err(error) => return Err(error),
    };
    file.write_at(&segment_header(log, first_sequence), 0)?;
    file.sync()?;
    fs.sync_dir(DIR)?;
    Ok(file)
}

/// Removes a segment and its sidecar; fine if they are not there.
pub(crate) fn remove_files(fs: &dyn Fs, first_sequence: u64) -> io::Result<()> {
    for path in [sidecar_path(first_sequence), path(first_sequence)] {
        match fs.remove(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// The segments that there are, and the files of those in use.
pub(crate) struct Segments {
    first_sequences: RwLock<BTreeSet<u64>>,
    open: Cache<u64, Arc<dyn File>>,
    /// Those in which damage was met: they may hold what cannot be read now.
    damaged: RwLock<BTreeSet<u64>>,
    /// The length of the active one in bytes.
    active_bytes: AtomicU64,
    /// Told when much was written or dropped.
    grown: Notify,
}

impl Default for Segments {
    fn default() -> Self {
        Self {
            first_sequences: RwLock::default(),
            open: Cache::new(OPEN_FILES),
            damaged: RwLock::default(),
            active_bytes: AtomicU64::new(0),
            grown: Notify::new(),
        }
    }
}

impl Segments {
    /// Adds a segment.
    pub(crate) fn insert(&self, first_sequence: u64, file: Arc<dyn File>) {
        self.open.insert(first_sequence, file);
        self.first_sequences.write().unwrap_or_else(PoisonError::into_inner).insert(first_sequence);
    }

    /// Forgets segments that are not needed any more, and removes their files.
    pub(crate) fn remove(&self, fs: &dyn Fs, first_sequences: &[u64]) -> io::Result<()> {
        {
            let mut all = self.first_sequences.write().unwrap_or_else(PoisonError::into_inner);
            all.retain(|first| !first_sequences.contains(first));
        }
        for &first in first_sequences {
            self.close(first);
            remove_files(fs, first)?;
        }
        Ok(())
    }

    /// Lets go of a file now, not when the cache comes to it: until then, its space is not free.
    fn close(&self, first_sequence: u64) {
        self.open.invalidate(&first_sequence);
        self.open.run_pending_tasks();
    }

    /// Damage was met in a segment.
    pub(crate) fn note_damage(&self, first_sequence: u64) {
        self.damaged.write().unwrap_or_else(PoisonError::into_inner).insert(first_sequence);
    }

    /// Whether damage was met in a segment.
    pub(crate) fn is_damaged(&self, first_sequence: u64) -> bool {
        self.damaged.read().unwrap_or_else(PoisonError::into_inner).contains(&first_sequence)
    }

    /// Whether a segment was removed, or never was.
    pub(crate) fn is_removed(&self, first_sequence: u64) -> bool {
        !self.first_sequences.read().unwrap_or_else(PoisonError::into_inner).contains(&first_sequence)
    }

    /// The active segment.
    pub(crate) fn active(&self) -> u64 {
        let all = self.first_sequences.read().unwrap_or_else(PoisonError::into_inner);
        all.last().copied().unwrap_or_default()
    }

    /// The length of the active segment in bytes.
    pub(crate) fn active_bytes(&self) -> u64 {
        self.active_bytes.load(Ordering::Relaxed)
    }

    /// The active segment has this length now.
    pub(crate) fn set_active_bytes(&self, bytes: u64) {
        let before = self.active_bytes.swap(bytes, Ordering::Relaxed);
        let is_new = bytes < before;
        if is_new || before / GROWTH != bytes / GROWTH {
            self.grown.notify_waiters();
        }
    }

    /// Messages were dropped: what that leaves can be freed.
    pub(crate) fn note_dropped(&self) {
        self.grown.notify_waiters();
    }

    /// Resolves when much was written, or dropped, from now on.
    pub(crate) fn grown(self: &Arc<Self>) -> impl Future<Output = ()> + use<> {
        let segments = Arc::clone(self);
        async move { segments.grown.notified().await }
    }

    /// The segments before the active one.
    pub(crate) fn sealed(&self) -> Vec<u64> {
        let all = self.first_sequences.read().unwrap_or_else(PoisonError::into_inner);
        all.iter().rev().skip(1).rev().copied().collect()
    }

    /// The file of a segment; `NotFound` if it is gone.
    pub(crate) fn get(&self, fs: &dyn Fs, first_sequence: u64) -> io::Result<Arc<dyn File>> {
        if let Some(file) = self.open.get(&first_sequence) {
            return Ok(file);
        }
        let file = fs.open(&path(first_sequence))?;
        self.open.insert(first_sequence, Arc::clone(&file));
        if self.is_removed(first_sequence) {
            // It was removed meanwhile; its space is free once nobody has it open.
            self.close(first_sequence);
        }
        Ok(file)
    }

    /// The segment that follows one.
    pub(crate) fn after(&self, first_sequence: u64) -> Option<u64> {
        let all = self.first_sequences.read().unwrap_or_else(PoisonError::into_inner);
        all.range((Bound::Excluded(first_sequence), Bound::Unbounded)).next().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedded::log::format::SEGMENT_HEADER;
    use crate::embedded::log::fs_sim::SimFs;

    const LOG: LogId = LogId([7; 16]);

    /// A file system on which somebody puts a new spare whenever the old one was opened or renamed.
    struct Racing(SimFs);

    impl Racing {
        fn put_spare(&self) {
            let _ = self.0.remove(SPARE);
            self.0.create(SPARE).unwrap();
        }
    }

    impl Fs for Racing {
        fn create_dir(&self, path: &str) -> io::Result<()> {
            self.0.create_dir(path)
        }
        fn create(&self, path: &str) -> io::Result<Arc<dyn File>> {
            self.0.create(path)
        }
        fn open(&self, path: &str) -> io::Result<Arc<dyn File>> {
            let file = self.0.open(path)?;
            self.put_spare();
            Ok(file)
        }
        fn exists(&self, path: &str) -> io::Result<bool> {
            self.0.exists(path)
        }
        fn list(&self, dir: &str) -> io::Result<Vec<String>> {
            self.0.list(dir)
        }
        fn rename(&self, from: &str, to: &str) -> io::Result<()> {
            self.0.rename(from, to)?;
            self.put_spare();
            Ok(())
        }
        fn remove(&self, path: &str) -> io::Result<()> {
            self.0.remove(path)
        }
        fn sync_dir(&self, dir: &str) -> io::Result<()> {
            self.0.sync_dir(dir)
        }
        fn lock(&self, path: &str) -> io::Result<Box<dyn Send + Sync>> {
            self.0.lock(path)
        }
        fn available(&self) -> io::Result<u64> {
            self.0.available()
        }
    }

    #[test]
    fn a_removed_segment_is_not_kept_open() {
        let fs = SimFs::new();
        let segments = Segments::default();
        let file = create(&fs, LOG, 9).unwrap();
        segments.insert(9, Arc::clone(&file));
        segments.insert(10, create(&fs, LOG, 10).unwrap());
        let before = Arc::strong_count(&file);
        segments.remove(&fs, &[9]).unwrap();
        let after = Arc::strong_count(&file);
        // What is left is the test's own and the simulated disk's.
        assert!(after < before && after <= 2, "{before}, then {after}");
    }

    #[test]
    fn a_new_segment_is_the_file_of_its_name() {
        let fs = Racing(SimFs::new());
        fs.put_spare();
        let file = create(&fs, LOG, 9).unwrap();
        file.write_at(b"frame", SEGMENT_HEADER as u64).unwrap();
        assert!(fs.0.bytes(&path(9)).ends_with(b"frame"));
    }

    #[test]
    fn knows_which_segment_follows() {
        let (fs, segments) = (SimFs::new(), Segments::default());
        for first in [1, 8, 20] {
            segments.insert(first, create(&fs, LOG, first).unwrap());
        }
        assert_eq!([1, 8, 20].map(|first| segments.after(first)), [Some(8), Some(20), None]);
        assert!(segments.get(&fs, 8).is_ok());
        assert_eq!(segments.get(&fs, 9).err().map(|error| error.kind()), Some(io::ErrorKind::NotFound));
    }
}

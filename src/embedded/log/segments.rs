//! The segment files of the log.

use std::collections::BTreeSet;
use std::io;
use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock};

use moka::sync::Cache;

use super::format::{LogId, segment_header};
use super::fs::{File, Fs};

/// The directory of segments and sidecars.
pub(crate) const DIR: &str = "log";
/// Files of sealed segments that are kept open.
const OPEN_FILES: u64 = 16;
/// Space that is kept for what must be written when the disk is full: acks, deletes, and the note that
/// says so.
pub(crate) const BALLAST: &str = "log/ballast";
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

/// The segments that there are, and the files of those in use.
pub(crate) struct Segments {
    first_sequences: RwLock<BTreeSet<u64>>,
    open: Cache<u64, Arc<dyn File>>,
}

impl Default for Segments {
    fn default() -> Self {
        Self { first_sequences: RwLock::default(), open: Cache::new(OPEN_FILES) }
    }
}

impl Segments {
    /// Adds a segment.
    pub(crate) fn insert(&self, first_sequence: u64, file: Arc<dyn File>) {
        self.open.insert(first_sequence, file);
        self.first_sequences.write().unwrap_or_else(PoisonError::into_inner).insert(first_sequence);
    }

    /// The file of a segment; `NotFound` if it is gone.
    pub(crate) fn get(&self, fs: &dyn Fs, first_sequence: u64) -> io::Result<Arc<dyn File>> {
        if let Some(file) = self.open.get(&first_sequence) {
            return Ok(file);
        }
        let file = fs.open(&path(first_sequence))?;
        self.open.insert(first_sequence, Arc::clone(&file));
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

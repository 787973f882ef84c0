//! The segment files of the log.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, PoisonError, RwLock};

use super::format::{LogId, segment_header};
use super::fs::{File, Fs};

/// The directory of segments and sidecars.
pub(crate) const DIR: &str = "log";
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
    let mut segments: Vec<u64> =
        names.iter().filter_map(|name| name.strip_suffix(".seg")?.parse().ok()).collect();
    segments.sort_unstable();
    Ok(segments)
}

/// Creates a segment, from the spare if there is one. Durable when this returns.
pub(crate) fn create(fs: &dyn Fs, log: LogId, first_sequence: u64) -> io::Result<Arc<dyn File>> {
    let path = path(first_sequence);
    let file = match fs.open(SPARE) {
        Ok(spare) => {
            fs.rename(SPARE, &path)?;
            spare
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => fs.create(&path)?,
        Err(error) => return Err(error),
    };
    file.write_at(&segment_header(log, first_sequence), 0)?;
    file.sync()?;
    fs.sync_dir(DIR)?;
    Ok(file)
}

/// The open files of all segments.
#[derive(Default)]
pub(crate) struct Segments(RwLock<BTreeMap<u64, Arc<dyn File>>>);

impl Segments {
    /// Adds a segment.
    pub(crate) fn insert(&self, first_sequence: u64, file: Arc<dyn File>) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(first_sequence, file);
    }

    /// The file of a segment.
    pub(crate) fn get(&self, first_sequence: u64) -> Option<Arc<dyn File>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(&first_sequence).cloned()
    }
}

//! The file system as the engine sees it: one directory, opened files, explicit syncs.
//!
//! Everything that touches a disk goes through [`Fs`], so tests can lose unsynced writes, tear them
//! and fail calls (`fs_sim`), and the engine has one place to look at for durability.

use std::io;
use std::sync::Arc;

/// A directory tree that the engine owns. Paths are relative to it, with `/` between parts.
pub(crate) trait Fs: Send + Sync + 'static {
    /// Makes a directory and its parents; fine if it exists.
    fn create_dir(&self, path: &str) -> io::Result<()>;
    /// Creates a file that must not exist yet, for reading and writing.
    fn create(&self, path: &str) -> io::Result<Arc<dyn File>>;
    /// Opens an existing file for reading and writing.
    fn open(&self, path: &str) -> io::Result<Arc<dyn File>>;
    /// Whether there is a file.
    fn exists(&self, path: &str) -> io::Result<bool>;
    /// The names in a directory, in no order.
    fn list(&self, dir: &str) -> io::Result<Vec<String>>;
    /// Renames a file, replacing what has the new name. Durable after [`sync_dir`](Self::sync_dir).
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file. Durable after [`sync_dir`](Self::sync_dir).
    fn remove(&self, path: &str) -> io::Result<()>;
    /// Makes the names in a directory durable.
    fn sync_dir(&self, dir: &str) -> io::Result<()>;
    /// Takes the lock of the directory tree, held until the result is dropped. `WouldBlock` if
    /// another process or engine holds it.
    fn lock(&self, path: &str) -> io::Result<Box<dyn Send + Sync>>;
    /// Bytes that can still be written.
    fn available(&self) -> io::Result<u64>;
}

/// An open file.
pub(crate) trait File: Send + Sync + 'static {
    /// Writes all of `bytes` at `position`, growing the file if needed.
    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<()>;
    /// Fills `buffer` from `position`; `UnexpectedEof` if the file ends first.
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<()>;
    /// Makes everything written so far durable, the length included.
    fn sync(&self) -> io::Result<()>;
    /// The length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Cuts or extends (with zeros) the file.
    fn set_len(&self, len: u64) -> io::Result<()>;
}

/// Reads a whole file.
pub(crate) fn read(fs: &dyn Fs, path: &str) -> io::Result<Vec<u8>> {
    let file = fs.open(path)?;
    let len = usize::try_from(file.len()?).map_err(io::Error::other)?;
    let mut bytes = vec![0; len];
    file.read_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// Writes a whole file so that after a crash it is there completely, or is as it was before.
pub(crate) fn write_atomically(fs: &dyn Fs, dir: &str, name: &str, bytes: &[u8]) -> io::Result<()> {
    let path = if dir.is_empty() { name.to_owned() } else { format!("{dir}/{name}") };
    let temporary = format!("{path}.tmp");
    match fs.remove(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = fs.create(&temporary)?;
    let written = file.write_at(bytes, 0).and_then(|()| file.sync());
    if let Err(error) = written.and_then(|()| fs.rename(&temporary, &path)) {
        // It may be what fills the disk.
        let _ = fs.remove(&temporary);
        return Err(error);
    }
    fs.sync_dir(dir)
}

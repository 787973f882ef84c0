//! A file system in memory that loses what a power cut would lose, and fails on purpose.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use rand::RngExt;
use rand::rngs::StdRng;

use super::fs::{File, Fs};

/// What a disk writes or loses as a whole.
const SECTOR: usize = 512;

/// A simulated directory tree. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct SimFs(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    locked: Arc<AtomicBool>,
}

#[derive(Default)]
struct State {
    /// Names as a running program sees them.
    names: BTreeMap<String, Arc<SimFile>>,
    /// Names as they are on the disk.
    durable_names: BTreeMap<String, Arc<SimFile>>,
    faults: Faults,
}

/// What goes wrong. All off by default.
#[derive(Clone, Copy, Default)]
pub(crate) struct Faults {
    /// Syncs return at once and make nothing durable: the negative control of durability tests.
    pub(crate) ignore_sync: bool,
    /// This many more syncs succeed, then every one fails.
    pub(crate) syncs_before_error: Option<u64>,
    /// Reads fail, as on a disk that is not there for a while.
    pub(crate) fail_reads: bool,
    /// This many more writes succeed, then every one fails half-way.
    pub(crate) writes_before_error: Option<u64>,
    /// Bytes that fit on the disk; a write over it fails half-way with `StorageFull`.
    pub(crate) capacity: Option<u64>,
}

impl SimFs {
    /// An empty, faultless file system.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Sets what goes wrong from now on.
    pub(crate) fn set_faults(&self, faults: Faults) {
        self.state().faults = faults;
    }

    /// What a power cut at this moment leaves: everything synced, and any part of the rest.
    pub(crate) fn after_power_cut(&self, random: &mut StdRng) -> Self {
        let state = self.state();
        let mut names = state.durable_names.clone();
        for (name, file) in &state.names {
            // A name that was not synced may have made it all the same.
            if !names.contains_key(name) && random.random_bool(0.5) {
                names.insert(name.clone(), Arc::clone(file));
            }
        }
        let files = names.into_iter().map(|(name, file)| (name, Arc::new(file.after_power_cut(random))));
        Self::with_files(files.collect())
    }

    /// What a process that is killed at this moment leaves: an independent copy in which what is not
    /// synced still is not.
    pub(crate) fn after_kill(&self) -> Self {
        let copy = Self::new();
        let state = self.state();
        // A file that has both a name and a durable name is one file in the copy, too.
        let mut copies = BTreeMap::new();
        let mut copied = |file: &Arc<SimFile>| {
            let new = || Arc::new(file.as_it_is(Arc::downgrade(&copy.0)));
            Arc::clone(copies.entry(Arc::as_ptr(file)).or_insert_with(new))
        };
        let mut copy_all = |names: &BTreeMap<String, Arc<SimFile>>| {
            names.iter().map(|(name, file)| (name.clone(), copied(file))).collect()
        };
        let (names, durable_names) = (copy_all(&state.names), copy_all(&state.durable_names));
        let mut left = copy.state();
        (left.names, left.durable_names) = (names, durable_names);
        drop(left);
        copy
    }

    /// An independent copy of everything as a running program sees it.
    pub(crate) fn copy(&self) -> Self {
        let state = self.state();
        let files = state.names.iter().map(|(name, file)| {
            (name.clone(), Arc::new(SimFile::durable(Arc::downgrade(&self.0), file.contents().bytes.clone())))
        });
        Self::with_files(files.collect())
    }

    /// The bytes of a file.
    pub(crate) fn bytes(&self, path: &str) -> Vec<u8> {
        self.state().names[path].contents().bytes.clone()
    }

    /// Replaces the bytes of a file, durably.
    pub(crate) fn set_bytes(&self, path: &str, bytes: Vec<u8>) {
        let file = Arc::new(SimFile::durable(Arc::downgrade(&self.0), bytes));
        let mut state = self.state();
        state.names.insert(path.to_owned(), Arc::clone(&file));
        state.durable_names.insert(path.to_owned(), file);
    }

    fn with_files(files: BTreeMap<String, Arc<SimFile>>) -> Self {
        let fs = Self::new();
        for (name, file) in files {
            fs.set_bytes(&name, file.contents().bytes.clone());
        }
        fs
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().expect("no test panics while it holds the lock")
    }
}

impl Fs for SimFs {
    fn create_dir(&self, _path: &str) -> io::Result<()> {
        Ok(())
    }

    fn create(&self, path: &str) -> io::Result<Arc<dyn File>> {
        let mut state = self.state();
        if state.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let file = Arc::new(SimFile::durable(Arc::downgrade(&self.0), Vec::new()));
        state.names.insert(path.to_owned(), Arc::clone(&file));
        Ok(file)
    }

    fn open(&self, path: &str) -> io::Result<Arc<dyn File>> {
        let state = self.state();
        let file = state.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::clone(file) as Arc<dyn File>)
    }

    fn exists(&self, path: &str) -> io::Result<bool> {
        Ok(self.state().names.contains_key(path))
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let prefix = if dir.is_empty() { String::new() } else { format!("{dir}/") };
        let state = self.state();
        let names = state.names.keys().filter_map(|name| name.strip_prefix(&prefix));
        Ok(names.filter(|name| !name.contains('/')).map(str::to_owned).collect())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        let file = state.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.names.insert(to.to_owned(), file);
        Ok(())
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.state().names.remove(path).map(|_| ()).ok_or(io::ErrorKind::NotFound.into())
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        let mut state = self.state();
        state.faults.before_sync()?;
        if state.faults.ignore_sync {
            return Ok(());
        }
        let inside = |name: &String| name.starts_with(dir);
        let names = state.names.clone();
        state.durable_names.retain(|name, _| !inside(name) || names.contains_key(name));
        state.durable_names.extend(names.into_iter().filter(|(name, _)| inside(name)));
        Ok(())
    }

    fn lock(&self, _path: &str) -> io::Result<Box<dyn Send + Sync>> {
        if self.0.locked.swap(true, Ordering::SeqCst) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(Unlock(Arc::clone(&self.0.locked))))
    }

    fn available(&self) -> io::Result<u64> {
        let state = self.state();
        let used: u64 = state.names.values().map(|file| file.contents().bytes.len() as u64).sum();
        Ok(state.faults.capacity.unwrap_or(1 << 40).saturating_sub(used))
    }
}

struct Unlock(Arc<AtomicBool>);

impl Drop for Unlock {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

impl Faults {
    fn before_sync(&mut self) -> io::Result<()> {
        count_down(&mut self.syncs_before_error).map_err(|()| io::Error::other("injected sync failure"))
    }
}

fn count_down(left: &mut Option<u64>) -> Result<(), ()> {
    match left {
        Some(0) => Err(()),
        Some(left) => {
            *left -= 1;
            Ok(())
        }
        None => Ok(()),
    }
}

struct SimFile {
    fs: std::sync::Weak<Shared>,
    contents: Mutex<Contents>,
}

#[derive(Default)]
struct Contents {
    /// As a running program sees it.
    bytes: Vec<u8>,
    /// As it is on the disk for sure.
    durable: Vec<u8>,
    /// Byte ranges written since the last sync.
    unsynced: Vec<(usize, usize)>,
}

impl SimFile {
    fn durable(fs: std::sync::Weak<Shared>, bytes: Vec<u8>) -> Self {
        let contents = Contents { durable: bytes.clone(), bytes, unsynced: Vec::new() };
        Self { fs, contents: Mutex::new(contents) }
    }

    /// A copy, with what is synced and what is not.
    fn as_it_is(&self, fs: std::sync::Weak<Shared>) -> Self {
        let Contents { bytes, durable, unsynced } = &*self.contents();
        let (bytes, durable, unsynced) = (bytes.clone(), durable.clone(), unsynced.clone());
        Self { fs, contents: Mutex::new(Contents { bytes, durable, unsynced }) }
    }

    fn contents(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock().expect("no test panics while it holds the lock")
    }

    /// The synced bytes, with any subset of the sectors written since.
    fn after_power_cut(&self, random: &mut StdRng) -> Self {
        let contents = self.contents();
        let mut bytes = contents.durable.clone();
        for &(from, to) in &contents.unsynced {
            for sector in from / SECTOR..to.div_ceil(SECTOR) {
                if random.random_bool(0.5) {
                    let start = (sector * SECTOR).max(from);
                    let end = ((sector + 1) * SECTOR).min(to).min(contents.bytes.len());
                    if start < end {
                        bytes.resize(bytes.len().max(end), 0);
                        bytes[start..end].copy_from_slice(&contents.bytes[start..end]);
                    }
                }
            }
        }
        Self::durable(std::sync::Weak::new(), bytes)
    }

    fn with_faults<T>(&self, act: impl FnOnce(&mut Faults) -> io::Result<T>) -> io::Result<T> {
        match self.fs.upgrade() {
            Some(shared) => act(&mut shared.state.lock().expect("no panic under the lock").faults),
            None => act(&mut Faults::default()),
        }
    }

    fn used_elsewhere(&self) -> u64 {
        let Some(shared) = self.fs.upgrade() else { return 0 };
        let state = shared.state.lock().expect("no panic under the lock");
        let others = state.names.values().filter(|file| !std::ptr::eq(Arc::as_ptr(file), self));
        others.map(|file| file.contents().bytes.len() as u64).sum()
    }
}

impl File for SimFile {
    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<()> {
        let at = usize::try_from(position).map_err(io::Error::other)?;
        let (write_fails, capacity) = self.with_faults(|faults| {
            Ok((count_down(&mut faults.writes_before_error).is_err(), faults.capacity))
        })?;
        let room = capacity.map(|capacity| capacity.saturating_sub(self.used_elsewhere()));
        let full = room.is_some_and(|room| position + bytes.len() as u64 > room);
        let written = if write_fails || full { &bytes[..bytes.len() / 2] } else { bytes };

        let mut contents = self.contents();
        let end = at + written.len();
        let grown = contents.bytes.len().max(end);
        contents.bytes.resize(grown, 0);
        contents.bytes[at..end].copy_from_slice(written);
        contents.unsynced.push((at, end));
        if full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if write_fails { Err(io::Error::other("injected write failure")) } else { Ok(()) }
    }

    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<()> {
        let at = usize::try_from(position).map_err(io::Error::other)?;
        if self.with_faults(|faults| Ok(faults.fail_reads))? {
            return Err(io::Error::other("injected read failure"));
        }
        let contents = self.contents();
        let stored = contents.bytes.get(at..at + buffer.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(stored);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let ignored = self.with_faults(|faults| {
            faults.before_sync()?;
            Ok(faults.ignore_sync)
        })?;
        if !ignored {
            let mut contents = self.contents();
            contents.durable = contents.bytes.clone();
            contents.unsynced.clear();
        }
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.contents().bytes.len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let len = usize::try_from(len).map_err(io::Error::other)?;
        let mut contents = self.contents();
        contents.bytes.resize(len, 0);
        contents.unsynced.push((0, len));
        Ok(())
    }
}

//! Files that others replace while the server runs: read with a limit, and watched.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

/// How often files are looked at without a sign from the system: some file systems give none.
const POLL: Duration = Duration::from_secs(10);
/// Wait after a sign, so that files which are replaced one after the other are read together.
const SETTLE: Duration = Duration::from_millis(50);

/// Reads a small file whole. The error names it, and says what to do.
pub(crate) fn read(path: &Path, limit: u64) -> Result<Vec<u8>, String> {
    let at = path.display();
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(limit + 1).read_to_end(&mut bytes));
    read.map_err(|error| format!("cannot read {at}: {error}; check the path and its permissions"))?;
    if bytes.len() as u64 > limit {
        return Err(format!("{at} is larger than {limit} bytes; is it the right file?"));
    }
    Ok(bytes)
}

/// Says when files may have changed. It watches their directories, because they are replaced by
/// renaming, and Kubernetes replaces a link to the directory that they are in.
pub(crate) struct Watch {
    sign: Arc<Notify>,
    /// Ends the watching when dropped. None if the system watches nothing; then there is the poll.
    _watcher: Option<RecommendedWatcher>,
}

impl Watch {
    pub(crate) fn new<'a>(files: impl IntoIterator<Item = &'a PathBuf>) -> Self {
        let sign = Arc::new(Notify::new());
        let directories: BTreeSet<_> = files.into_iter().map(|file| directory(file)).collect();
        let watcher = watcher(sign.clone(), &directories);
        if let Err(error) = &watcher {
            tracing::warn!(%error, "cannot watch {directories:?}; looking every {} s", POLL.as_secs());
        }
        Self { sign, _watcher: watcher.ok() }
    }

    /// Waits until the files may have changed.
    pub(crate) async fn changed(&self) {
        if timeout(POLL, self.sign.notified()).await.is_ok() {
            sleep(SETTLE).await;
        }
    }
}

fn directory(file: &Path) -> &Path {
    file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn watcher(sign: Arc<Notify>, directories: &BTreeSet<&Path>) -> notify::Result<RecommendedWatcher> {
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // That somebody reads the files is no change; the server itself does.
        let reading = event.is_ok_and(|event| {
            matches!(event.kind, EventKind::Access(kind) if kind != AccessKind::Close(AccessMode::Write))
        });
        if !reading {
            sign.notify_one();
        }
    })?;
    for directory in directories {
        watcher.watch(directory, RecursiveMode::NonRecursive)?;
    }
    Ok(watcher)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_up_to_the_limit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "12345").unwrap();
        assert_eq!(read(&path, 5).unwrap(), b"12345");
        assert!(read(&path, 4).unwrap_err().contains("larger than 4 bytes"));
        assert!(read(&dir.path().join("none"), 4).unwrap_err().contains("none"));
    }

    #[tokio::test]
    async fn sees_a_link_to_a_directory_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for version in ["one", "two"] {
            std::fs::create_dir(at(version)).unwrap();
            std::fs::write(at(version).join("file"), version).unwrap();
        }
        std::os::unix::fs::symlink("one", at("data")).unwrap();
        std::os::unix::fs::symlink("data/file", at("file")).unwrap();
        let file = at("file");
        let watch = Watch::new([&file]);
        std::os::unix::fs::symlink("two", at("new")).unwrap();
        std::fs::rename(at("new"), at("data")).unwrap();
        timeout(POLL / 2, watch.changed()).await.expect("a sign from the system, not the poll");
        assert_eq!(read(&file, 100).unwrap(), b"two");
    }
}

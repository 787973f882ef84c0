//! The process's limit of open files, and how many connections fit under it.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Files that are kept for the log and the process itself, if the limit allows.
const RESERVED: usize = 256;

/// Raises the limit of open files as far as the process may, and says how many of the `wanted`
/// connections fit under it. A log that cannot open its next file has failed, so clients never get
/// the last descriptors: half of them at most where there are few.
#[must_use]
pub fn connections(wanted: usize) -> usize {
    let limit = raise();
    let fit = limit - RESERVED.min(limit / 2);
    if fit < wanted {
        tracing::warn!(
            "at most {fit} connections instead of {wanted}: the process may open {limit} files; raise its \
             limit (`ulimit -n`), or lower limits.connections"
        );
    }
    wanted.min(fit).max(1)
}

/// Returns the limit as it is now.
fn raise() -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    let limit = if raised.is_ok() { maximum } else { current };
    limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX))
}

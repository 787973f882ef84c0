//! A redrive or purge in as many requests as it takes, none of which takes long.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio_util::sync::CancellationToken;

use crate::cli::error::Error;
use crate::cli::output::Format;
use crate::cli::signals;

/// Letters in one request; fewer, where these would take more than a second.
const ROUND: u32 = 200;
/// Skipped letters that are printed.
pub(super) const MOST_SKIPS: usize = 100;

/// What comes next. Each letter is looked at once, and those that come meanwhile not at all: a message
/// that dies again does not keep the command going.
pub(super) struct Rounds {
    left: u64,
    size: u32,
    next: Option<(u64, u64)>,
    bar: ProgressBar,
    /// Ctrl-C ends it after the request that is under way, so that what is printed is what was done.
    stop: CancellationToken,
}

/// One request: how many letters, and from which offset to which.
pub(super) struct Round {
    pub(super) size: u32,
    pub(super) first: u64,
    pub(super) last: u64,
}

impl Rounds {
    pub(super) fn new(max: Option<u64>, rate: Option<u32>, format: Format) -> Result<Self, Error> {
        let target = match format {
            Format::Text => ProgressDrawTarget::stderr(),
            Format::Json => ProgressDrawTarget::hidden(),
        };
        let bar = ProgressBar::with_draw_target(None, target);
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}  {elapsed}") {
            bar.set_style(style);
        }
        let size = rate.unwrap_or(ROUND).min(ROUND);
        Ok(Self { left: max.unwrap_or(u64::MAX), size, next: Some((0, 0)), bar, stop: signals::stop()? })
    }

    /// The next request, unless that was all, or it was stopped.
    pub(super) fn next(&self) -> Option<Round> {
        let (first, last) = self.next.filter(|_| self.left > 0 && !self.stop.is_cancelled())?;
        let size = self.size.min(u32::try_from(self.left).unwrap_or(u32::MAX));
        Some(Round { size, first, last })
    }

    /// A request has dealt with so many letters, and says where to go on, and where the end is.
    pub(super) fn done(&mut self, taken: u32, (next, last): (u64, u64), text: String) {
        self.left = self.left.saturating_sub(taken.into());
        self.next = (next > 0).then_some((next, last));
        self.bar.set_message(text);
        self.bar.tick();
    }

    /// How it ended, when there is no next request.
    pub(super) fn end(&self) -> Result<(), Error> {
        let is_stopped = self.stop.is_cancelled() && self.left > 0 && self.next.is_some();
        if is_stopped { Err(Error::Stopped) } else { Ok(()) }
    }

    /// Removes the bar.
    pub(super) fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

//! The progress bar.

use indicatif::{HumanCount, ProgressDrawTarget, ProgressStyle};

use super::super::output::Format;
use super::window::Tally;

/// A bar on standard error; hidden where that is no terminal, or where the output is for programs.
pub(super) struct ProgressBar {
    bar: indicatif::ProgressBar,
    sized: bool,
}

impl ProgressBar {
    /// A bar over an input of this size in bytes; without a size, a count.
    pub(super) fn new(format: Format, size: Option<u64>) -> Self {
        let target = match format {
            Format::Text => ProgressDrawTarget::stderr(),
            Format::Json => ProgressDrawTarget::hidden(),
        };
        let bar = indicatif::ProgressBar::with_draw_target(size, target);
        let template = match size {
            Some(_) => "{bar:30} {percent:>3}%  {msg}  {elapsed}, {eta} to go",
            None => "{spinner} {msg}  {elapsed}",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Self { bar, sized: size.is_some() }
    }

    /// Shows what is acknowledged.
    pub(super) fn show(&self, tally: &Tally) {
        if self.bar.is_hidden() {
            return;
        }
        if self.sized {
            self.bar.set_position(tally.position);
        }
        self.bar.set_message(format!("{} messages", HumanCount(tally.messages)));
        self.bar.tick();
    }

    /// Prints a line without disturbing the bar.
    pub(super) fn note(&self, text: &str) {
        self.bar.suspend(|| eprintln!("{text}"));
    }

    /// Removes the bar.
    pub(super) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

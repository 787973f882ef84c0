//! Logging.

use std::fmt;
use std::io::{IsTerminal, stderr};

use tracing_subscriber::EnvFilter;

/// What is logged, and how.
#[derive(Debug, Clone)]
pub struct Log {
    /// `log.level`: `error`, `warn`, `info`, `debug`, `trace`, or a filter such as
    /// `info,columba=debug`. Default: info.
    pub level: String,
    /// `log.format`. Default: text.
    pub format: LogFormat,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

/// Whether a text can say what is logged.
#[must_use]
pub fn is_filter(text: &str) -> bool {
    !text.is_empty() && EnvFilter::try_new(text).is_ok()
}

/// Logs to standard error from now on. Only the first call of a process counts.
pub fn init(log: &Log) {
    let filter = EnvFilter::new(&log.level);
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr);
    let _ = match log.format {
        LogFormat::Text => lines.with_ansi(stderr().is_terminal()).try_init(),
        LogFormat::Json => lines.json().try_init(),
    };
}

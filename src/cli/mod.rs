//! The command line.

/// Parses the arguments, runs the command, and says how it ended.
#[must_use]
pub fn run() -> std::process::ExitCode {
    std::process::ExitCode::SUCCESS
}

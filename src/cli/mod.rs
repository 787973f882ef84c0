//! The command line.

pub mod serve;

use clap::Parser;

#[derive(Parser)]
enum Cli {
    Serve(serve::ServeArgs),
}

/// Parses the arguments, runs the command, and says how it ended.
#[must_use]
pub fn run() -> std::process::ExitCode {
    let Cli::Serve(args) = Cli::parse();
    serve::run(args)
}

//! `columba completion`.

use std::io::Write;

use clap::CommandFactory;
use clap_complete::Shell;

use super::error::Error;

/// Print a completion script for a shell
///
/// For bash: source <(columba completion bash)
#[derive(Debug, clap::Args)]
pub(super) struct CompletionArgs {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

pub(super) fn run(args: &CompletionArgs) -> Result<(), Error> {
    // Through memory, because the generator panics where writing fails, as it does on a closed pipe.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut super::Cli::command(), "columba", &mut script);
    std::io::stdout().write_all(&script)?;
    Ok(())
}

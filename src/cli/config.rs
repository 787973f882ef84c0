//! `columba config`: looks at the server's configuration without serving.

use std::path::PathBuf;
use std::process::ExitCode;

use serde::Serialize;

use super::context::Context;
use super::error::Error;
use super::serve;
use crate::config::{Config, Problems, Setting};

/// Check and show the configuration of a server
#[derive(Debug, clap::Subcommand)]
pub(super) enum ConfigCommand {
    /// Check the configuration that `columba serve` would use, and the files that it names
    ///
    /// Everything that is wrong is told at once. The exit status is 0 if nothing is, and 2 otherwise.
    #[command(after_help = "Example:\n  columba config check --config columba.toml")]
    Check(ConfigArgs),
    /// Show every setting, where it comes from, and its default; secrets are hidden
    #[command(after_help = "Example:\n  columba config show --config columba.toml")]
    Show(ConfigArgs),
}

#[derive(Debug, clap::Args)]
pub(super) struct ConfigArgs {
    /// A configuration file in TOML [default: the one in `COLUMBA_CONFIG`, if any]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Serialize)]
struct Shown<'a> {
    key: &'a str,
    /// None: it has its default.
    value: Option<&'a str>,
    origin: Option<&'a str>,
    default: &'a str,
}

impl<'a> From<&'a Setting> for Shown<'a> {
    fn from(setting: &'a Setting) -> Self {
        let (value, origin) = setting.given().unzip();
        Self { key: setting.key(), value, origin, default: setting.default() }
    }
}

pub(super) fn run(command: ConfigCommand, context: &Context) -> Result<ExitCode, Error> {
    match command {
        ConfigCommand::Check(ConfigArgs { config }) => {
            let loaded = Config::load(config, Vec::new());
            let checked = loaded.and_then(|config| serve::check(&config).map_err(Problems));
            if let Err(Problems(problems)) = checked {
                for problem in problems {
                    eprintln!("columba: {problem}");
                }
                return Ok(serve::EXIT_CONFIG.into());
            }
            context.format.sentence(&serde_json::json!({ "problems": [] }), "nothing is wrong")?;
        }
        ConfigCommand::Show(ConfigArgs { config }) => {
            let (_, settings) = Config::load_settings(config, Vec::new())
                .map_err(|problems| Error::Input(problems.to_string()))?;
            let shown: Vec<_> = settings.iter().map(Shown::from).collect();
            context.format.list(&shown, &["KEY", "VALUE", "ORIGIN"], &[], |one| {
                let origin = one.origin.unwrap_or("default").to_owned();
                vec![one.key.to_owned(), one.value.unwrap_or(one.default).to_owned(), origin]
            })?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

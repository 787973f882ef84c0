//! The command line: a gRPC client like any other, and `serve`.

mod auth;
mod backoff;
mod command;
mod completion;
mod config;
mod consumers;
mod context;
mod credentials;
mod dlq;
mod edit;
mod error;
mod events;
mod exec;
mod explain;
mod handlers;
mod health;
mod info;
mod kv;
mod message;
mod output;
mod pages;
mod parse;
mod publish;
mod query;
mod read;
mod retention;
mod seen;
pub mod serve;
mod signals;
mod subscribe;
mod subscription;
mod topic;

use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};

use context::{Context, GlobalArgs};
use error::Error;

const AFTER_HELP: &str = "\
Try it:
  columba serve
  columba topic create orders.created
  columba subscription create billing --topic orders.created
  columba publish orders.created '{\"id\": 1}' '{\"id\": 2}'
  columba subscribe billing --count 2

Exit status:
  0  done (health: serving)
  1  failed (health: not serving; command: it ended otherwise than SUCCEEDED; auth explain: denied)
  2  wrong usage
  3  no such thing
  4  unavailable: no server, no handler, or not ready
  5  exists already, and differs

Errors go to standard error; with -o json as {\"error\": {\"code\", \"reason\", \"message\"}}.";

/// Columba, a message service: publish messages to topics, and read them through subscriptions that
/// remember what was acknowledged.
///
/// `columba serve` is the server. All other commands are clients that talk gRPC to one.
#[derive(Debug, Parser)]
#[command(name = "columba", version, after_long_help = AFTER_HELP, propagate_version = true)]
struct Cli {
    #[command(flatten)]
    global: GlobalArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::ServeArgs),
    #[command(subcommand)]
    Topic(topic::TopicCommand),
    #[command(subcommand, visible_alias = "sub")]
    Subscription(subscription::SubscriptionCommand),
    Publish(publish::PublishArgs),
    Subscribe(subscribe::SubscribeArgs),
    Read(read::ReadArgs),
    #[command(name = "command", subcommand, visible_alias = "cmd")]
    OfCommands(command::CommandCommand),
    #[command(subcommand)]
    Query(query::QueryCommand),
    #[command(subcommand)]
    Dlq(dlq::DlqCommand),
    #[command(subcommand)]
    Kv(kv::KvCommand),
    Explain(explain::ExplainArgs),
    Consumers(consumers::ConsumersArgs),
    Handlers(handlers::HandlersArgs),
    Events(events::EventsArgs),
    #[command(subcommand)]
    Config(config::ConfigCommand),
    #[command(subcommand)]
    Auth(auth::AuthCommand),
    Health(health::HealthArgs),
    Info(info::InfoArgs),
    Completion(completion::CompletionArgs),
}

/// Parses the arguments, runs the command, and says how it ended.
#[must_use]
pub fn run() -> ExitCode {
    let matches = Cli::command().get_matches();
    refuse_client_options_of_the_server(&matches);
    let Cli { global, command } = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    if let Command::Serve(args) = command {
        return serve::run(args);
    }
    let context = Context::new(global);
    match run_client(command, &context) {
        Ok(code) => code,
        Err(error) => error.report(context.format),
    }
}

/// A server that was told `--tls-key` must not serve without TLS because that is an option of clients.
fn refuse_client_options_of_the_server(matches: &ArgMatches) {
    let Some(("serve", serve)) = matches.subcommand() else { return };
    let given = |id: &&&str| serve.value_source(id) == Some(ValueSource::CommandLine);
    if let Some(option) = credentials::OPTIONS.iter().find(given) {
        let option = option.replace('_', "-");
        let advice = format!(
            "--{option} is for clients; `columba serve` takes its certificates and tokens from the keys tls.* and \
             identity.* of the configuration file, or from variables such as COLUMBA_TLS_CERTIFICATE"
        );
        Cli::command().error(ErrorKind::ArgumentConflict, advice).exit();
    }
}

/// Runs a client command. One thread is enough: a client waits for the network most of the time.
fn run_client(command: Command, context: &Context) -> Result<ExitCode, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match command {
            Command::Serve(_) => unreachable!("serve builds its own runtime"),
            Command::Auth(command) => return auth::run(command, context).await,
            Command::Config(command) => return config::run(command, context),
            Command::Health(args) => return health::run(&args, context).await,
            Command::OfCommands(command) => return command::run(command, context).await,
            Command::Topic(command) => topic::run(command, context).await,
            Command::Subscription(command) => subscription::run(command, context).await,
            Command::Publish(args) => publish::run(args, context).await,
            Command::Subscribe(args) => subscribe::run(args, context).await,
            Command::Read(args) => read::run(args, context).await,
            Command::Query(command) => query::run(command, context).await,
            Command::Dlq(command) => dlq::run(command, context).await,
            Command::Kv(command) => kv::run(command, context).await,
            Command::Explain(args) => explain::run(args, context).await,
            Command::Consumers(args) => consumers::run(args, context).await,
            Command::Handlers(args) => handlers::run(args, context).await,
            Command::Events(args) => events::run(args, context).await,
            Command::Info(args) => info::run(args, context).await,
            Command::Completion(args) => completion::run(&args),
        }?;
        Ok(ExitCode::SUCCESS)
    })
}

#[cfg(test)]
mod tests;

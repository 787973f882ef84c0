//! `columba serve`: opens the data directory and serves until told to stop.

use std::future::Future;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use crate::authorization::Authorizer;
use crate::config::Config;
use crate::cqrs;
use crate::embedded::{EmbeddedEngine, OpenError};
use crate::identity::Authenticator;
use crate::server::{self, Listeners, ServeError, open_files};
use crate::telemetry;
use crate::tls::Tls;

/// The exit status for a configuration that cannot be.
pub(super) const EXIT_CONFIG: u8 = 2;
/// The exit status for everything else that keeps the server from serving.
const EXIT_FAILED: u8 = 1;

const AFTER_HELP: &str = "\
Every setting has a variable: storage.segment_size of the file is COLUMBA_STORAGE_SEGMENT_SIZE. docs/configuration.md
tells all of them, with their defaults and limits.";

/// Serve the API. Settings come from defaults, the configuration file, COLUMBA_… environment
/// variables and these flags, the later ones winning.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct ServeArgs {
    /// Where the gRPC API listens [default: 127.0.0.1:7171]
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<String>,
    /// Where /livez, /readyz and /metrics are answered [default: 127.0.0.1:7172]
    #[arg(long, value_name = "ADDRESS")]
    pub admin_listen: Option<String>,
    /// Where the log is kept [default: ./columba-data]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<String>,
    /// A configuration file in TOML [default: the one in `COLUMBA_CONFIG`, if any]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Allow addresses that other machines can reach, although TLS or identity is missing
    #[arg(long)]
    pub insecure: bool,
    /// What to log: error, warn, info, debug, trace, or a filter such as info,columba=debug
    /// [default: info]
    #[arg(long, value_name = "FILTER")]
    pub log_level: Option<String>,
    /// How log lines look: text or json [default: text]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
}

impl ServeArgs {
    fn load(self) -> Result<Config, crate::config::Problems> {
        let flags = [
            ("listen", self.listen),
            ("admin_listen", self.admin_listen),
            ("data_dir", self.data_dir),
            ("insecure", self.insecure.then(|| "true".to_owned())),
            ("log.level", self.log_level),
            ("log.format", self.log_format),
        ];
        let given = flags.into_iter().filter_map(|(key, value)| Some((key, value?))).collect();
        Config::load(self.config, given)
    }
}

/// Why the server does not serve, or stopped. The message says what to do.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{}", .0.join("\ncolumba: "))]
    Security(Vec<String>),
    #[error("cannot listen on {address}: {error}; {}", bind_hint(error))]
    Bind { address: SocketAddr, error: std::io::Error },
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Serve(#[from] ServeError),
    #[error("stopped at once by a second signal, before everything was finished")]
    Interrupted,
    #[error("cannot start: {0}; check the limits of threads and open files")]
    System(#[from] std::io::Error),
}

fn bind_hint(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            "stop the process that uses the port, or choose another with --listen or --admin-listen"
        }
        std::io::ErrorKind::PermissionDenied => "choose a port above 1023",
        std::io::ErrorKind::AddrNotAvailable => "choose an address of this machine",
        _ => "choose another with --listen or --admin-listen",
    }
}

/// Serves until SIGTERM or SIGINT. Exit status 0 after a graceful stop, 2 for a bad configuration,
/// else 1. Once it serves, it prints one line to standard output, whose format is stable:
///
/// ```text
/// columba VERSION serving gRPC on ADDRESS, admin on ADDRESS, data in DIR
/// ```
#[must_use]
pub fn run(args: ServeArgs) -> ExitCode {
    let config = match args.load() {
        Ok(config) => config,
        Err(problems) => {
            for problem in problems.0 {
                eprintln!("columba: {problem}");
            }
            return EXIT_CONFIG.into();
        }
    };
    telemetry::init(&config.log);
    match start(&config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("columba: {failure}");
            match failure {
                Failure::Security(_) => EXIT_CONFIG.into(),
                _ => EXIT_FAILED.into(),
            }
        }
    }
}

fn start(config: &Config) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let served = runtime.block_on(serve(config));
    // A disk that hangs must not keep the process from ending.
    runtime.shutdown_background();
    served
}

/// Serves until the first signal, and then drains; the second signal cuts everything short.
async fn serve(config: &Config) -> Result<(), Failure> {
    let mut signals = Signals::new()?;
    let (stop, stopped) = oneshot::channel();
    let shutdown = async {
        // An error would mean that the other end is gone, and then it is time, too.
        let _ = stopped.await;
    };
    tokio::select! {
        served = serve_until(config, shutdown) => served,
        () = async {
            signals.next().await;
            let _ = stop.send(());
            signals.next().await;
        } => Err(Failure::Interrupted),
    }
}

async fn serve_until(config: &Config, shutdown: impl Future<Output = ()>) -> Result<(), Failure> {
    let Security { tls, authenticator, authorizer } = security(config).map_err(Failure::Security)?;
    // The ports first: a port in use must not leave a data directory behind.
    let grpc = bind(config.listen).await?;
    let admin = bind(config.admin_listen).await?;
    let max_connections = open_files::connections(config.limits.connections);
    let engine = EmbeddedEngine::open(&config.data_dir, config.storage.clone()).await?;
    // Nobody has to listen to this.
    let _ = writeln!(
        std::io::stdout(),
        "columba {} serving gRPC on {}, admin on {}, data in {}",
        env!("CARGO_PKG_VERSION"),
        grpc.local_addr()?,
        admin.local_addr()?,
        config.data_dir.display()
    );
    let options = server::Options {
        max_connections,
        shutdown_deadline: config.shutdown.deadline,
        cqrs: cqrs::Options {
            directory: Some(config.data_dir.join("views")),
            command_retention: config.commands.retention,
        },
        tls,
        authenticator,
        authorizer,
        web: config.web.clone(),
        ..server::Options::default()
    };
    let listeners = Listeners { grpc, admin: Some(admin) };
    Ok(server::serve(Arc::new(engine), listeners, options, shutdown).await?)
}

/// Checks the files that a configuration names. The errors are all that is wrong with them.
pub(super) fn check(config: &Config) -> Result<(), Vec<String>> {
    security(config).map(drop)
}

struct Security {
    tls: Option<Arc<Tls>>,
    authenticator: Option<Arc<Authenticator>>,
    authorizer: Option<Arc<Authorizer>>,
}

/// Reads certificates, tokens, keys and rules. The errors are all that is wrong with them.
fn security(config: &Config) -> Result<Security, Vec<String>> {
    let mut problems = Vec::new();
    let tls = config.tls.clone().map(Tls::open).transpose();
    let tls = tls.unwrap_or_else(|problem| {
        problems.push(problem);
        None
    });
    let authenticator = Authenticator::open(config.identity.clone(), tls.clone());
    let authenticator = authenticator.unwrap_or_else(|found| {
        problems.extend(found);
        None
    });
    let authorizer = config.authorization.rules.clone().map(Authorizer::open).transpose();
    let authorizer = authorizer.unwrap_or_else(|found| {
        problems.extend(found);
        None
    });
    if problems.is_empty() { Ok(Security { tls, authenticator, authorizer }) } else { Err(problems) }
}

async fn bind(address: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).await.map_err(|error| Failure::Bind { address, error })
}

/// SIGTERM and SIGINT.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

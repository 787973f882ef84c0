//! The composition root: puts an engine behind listeners, serves, and drains.
//!
//! The listeners and the shutdown signal are arguments, so tests bind port 0 and nothing is global.

mod accept;
mod admin;
mod greeting;
pub mod metrics;
pub mod open_files;
mod transport;

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::net::TcpListener;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::Server;
use tower::util::option_layer;

use crate::api;
use crate::authorization::Authorizer;
use crate::cqrs::{self, Cqrs};
use crate::engine::{self, Engine};
use crate::identity::Authenticator;
use crate::meter::Level;
use crate::model::Origins;
use crate::model::limits::HEARTBEAT_INTERVAL;
use crate::tls::Tls;

use self::metrics::Metrics;

/// Bytes that a client may send ahead on one call.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
/// Bytes that a client may send ahead on one connection. Several stream windows, so that a stream
/// which the server does not read for a while cannot stall the others, acks among them.
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;
/// Calls open at once on one connection. tonic sets no limit of its own.
const MAX_STREAMS_PER_CONNECTION: u32 = 1_024;
/// Streams of one connection that the server may reset for the client's mistakes before it closes
/// the connection. hyper's default, which tonic takes away.
const MAX_LOCAL_RESETS: usize = 1_024;
/// How often the server asks a silent client for a sign of life, so that half-open connections do
/// not hold leases.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// How long the client has to give it.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long streams have to end once the engine has failed.
const FAILED_GRACE: Duration = Duration::from_millis(500);

/// Where to listen. Bound already.
#[derive(Debug)]
pub struct Listeners {
    /// For the API.
    pub grpc: TcpListener,
    /// For `/livez`, `/readyz` and `/metrics`; none, if nobody asks.
    pub admin: Option<TcpListener>,
}

/// How to serve.
#[derive(Debug, Clone)]
pub struct Options {
    /// Silence on a stream after which a heartbeat is sent. Default: 10 s.
    pub heartbeat: Duration,
    /// Connections open at once; further ones wait in the system's queue. Default: 10,000.
    pub max_connections: usize,
    /// How long a new connection may take until it has said something, the TLS handshake included,
    /// before it is closed. Default: 10 s.
    pub greeting_timeout: Duration,
    /// TLS handshakes at once; further ones wait, for as long as their greeting may take. Default: 512.
    pub max_handshakes: usize,
    /// Bytes of requests that have begun to arrive and are not complete, over all connections. Requests
    /// beyond are refused. Default: 256 MiB.
    pub unfinished_request_bytes: usize,
    /// How long shutting down may take, the engine's part included. Default: 25 s, which is below
    /// the grace period that Kubernetes gives.
    pub shutdown_deadline: Duration,
    /// How commands, queries and views work.
    pub cqrs: cqrs::Options,
    /// The certificates of the API's port. Default: none, and no TLS.
    pub tls: Option<Arc<Tls>>,
    /// Decides who calls. Default: none, and everybody may.
    pub authenticator: Option<Arc<Authenticator>>,
    /// Decides what callers may do; only with an authenticator. Default: none, and whoever is let in may do
    /// everything.
    pub authorizer: Option<Arc<Authorizer>>,
    /// Whose pages may call from browsers, by gRPC-Web, which takes HTTP/1.1 on the API's port. Default:
    /// nobody's, and HTTP/2 only.
    pub web: Option<Origins>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            heartbeat: HEARTBEAT_INTERVAL,
            max_connections: 10_000,
            greeting_timeout: Duration::from_secs(10),
            max_handshakes: 512,
            unfinished_request_bytes: 256 << 20,
            shutdown_deadline: Duration::from_secs(25),
            cqrs: cqrs::Options::default(),
            tls: None,
            authenticator: None,
            authorizer: None,
            web: None,
        }
    }
}

/// Why serving ended otherwise than by a shutdown.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The engine can never write again.
    #[error("{0}; nothing acknowledged is lost: repair the cause, then start again")]
    EngineFailed(String),
    /// The engine did not finish within the deadline.
    #[error(
        "the engine did not finish within {} s; what was acknowledged as FSYNCED is safe",
        .0.as_secs_f32()
    )]
    CloseTimedOut(Duration),
    /// What is stored of commands, queries and views could not be taken up.
    #[error("cannot take up commands and views: {0}")]
    Cqrs(engine::Error),
    /// The transport gave up.
    #[error("the gRPC server stopped: {0}")]
    Transport(String),
}

/// Serves until `shutdown` resolves, then drains: health says `NOT_SERVING`, every stream ends with
/// UNAVAILABLE, after a Goaway where its responses have one, nothing new is accepted, unary calls finish,
/// and the engine closes. What is not done by the deadline is cut off.
///
/// If the engine fails, streams end at once and the failure is returned, within a second.
pub async fn serve(
    engine: Arc<dyn Engine>,
    listeners: Listeners,
    options: Options,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let stop = CancellationToken::new();
    let cqrs = Cqrs::open(&engine, &options.cqrs).await.map_err(ServeError::Cqrs)?;
    let cqrs = Arc::new(cqrs);
    let security = api::Security::new(options.authenticator.clone(), options.authorizer.clone());
    let context = api::Context {
        engine: engine.clone(),
        cqrs: cqrs.clone(),
        stop: stop.clone(),
        heartbeat: options.heartbeat,
        security: security.clone(),
    };
    let (health, services) = api::services(context).await;

    let _follow = follow(&options, &stop);
    let open = Level::default();
    let connections = accept::connections(listeners.grpc, &options, open.clone(), stop.clone());
    let metrics = Arc::new(metrics(&engine, &cqrs, open, &options));
    let authenticate = api::AuthenticateLayer::new(security);
    let unfinished = api::UnfinishedLayer::new(options.unfinished_request_bytes);
    let web = option_layer(options.web.as_ref().map(api::web_layer));
    let mut layers = transport()
        .accept_http1(options.web.is_some())
        .layer(web)
        .layer(api::CallsLayer(metrics.calls.clone()))
        .layer(api::AnswerLayer)
        .layer(authenticate)
        .layer(unfinished);
    let grpc = layers.add_routes(services);
    let grpc = grpc.serve_with_incoming_shutdown(connections, stop.clone().cancelled_owned());
    let mut grpc = AbortOnDropHandle::new(tokio::spawn(grpc));
    let _admin = listeners.admin.map(|listener| admin::serve(listener, stop.clone(), metrics));

    let failure = tokio::select! {
        () = shutdown => None,
        reason = engine.failed() => Some(ServeError::EngineFailed(reason)),
        ended = &mut grpc => Some(ServeError::Transport(format!("{ended:?}"))),
    };
    health.set_not_serving().await;
    stop.cancel();
    match failure {
        None => drain(&*engine, &cqrs, grpc, options.shutdown_deadline).await,
        Some(failure @ ServeError::Transport(_)) => Err(failure),
        Some(failure) => {
            // Only a courtesy to the streams' clients: the exit does not wait for them.
            let _ = timeout(FAILED_GRACE, grpc).await;
            Err(failure)
        }
    }
}

fn metrics(engine: &Arc<dyn Engine>, cqrs: &Arc<Cqrs>, connections: Level, options: &Options) -> Metrics {
    Metrics {
        engine: Arc::clone(engine),
        cqrs: Arc::clone(cqrs),
        calls: api::Calls::new(),
        connections,
        max_connections: options.max_connections,
        tls: options.tls.clone(),
        started: SystemTime::now(),
        asking: tokio::sync::Mutex::default(),
    }
}

/// Lets calls finish, then the engine.
async fn drain<T>(
    engine: &dyn Engine,
    cqrs: &Cqrs,
    grpc: AbortOnDropHandle<T>,
    limit: Duration,
) -> Result<(), ServeError> {
    let deadline = Instant::now() + limit;
    // Clients that do not answer must not take the time that the engine needs.
    let reserved_for_engine = limit / 5;
    tracing::info!("shutting down");
    if timeout_at(deadline - reserved_for_engine, grpc).await.is_err() {
        tracing::warn!("some connections did not end in time and are cut off");
    }
    let close = async {
        cqrs.close().await;
        engine.close().await;
    };
    timeout_at(deadline, close).await.map_err(|_| ServeError::CloseTimedOut(limit))?;
    tracing::info!("shut down");
    Ok(())
}

/// Takes up new certificates, tokens, keys and rules until `stop`.
fn follow(options: &Options, stop: &CancellationToken) -> [Option<AbortOnDropHandle<()>>; 3] {
    let tls = options.tls.clone().map(|tls| tokio::spawn(tls.follow(stop.clone())));
    let identity = options.authenticator.clone().map(|identity| tokio::spawn(identity.follow(stop.clone())));
    let rules = options.authorizer.clone().map(|rules| tokio::spawn(rules.follow(stop.clone())));
    [tls, identity, rules].map(|task| task.map(AbortOnDropHandle::new))
}

fn transport() -> Server {
    Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(MAX_STREAMS_PER_CONNECTION)
        .http2_max_local_error_reset_streams(Some(MAX_LOCAL_RESETS))
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
}

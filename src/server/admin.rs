//! The admin port: `/livez` and `/readyz`, in plain HTTP for probes.

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

/// Serves until the handle is dropped. Alive as long as it answers; ready until `stop`.
pub(super) fn serve(listener: TcpListener, stop: CancellationToken) -> AbortOnDropHandle<()> {
    let ready = async move || match stop.is_cancelled() {
        false => (StatusCode::OK, "ready\n"),
        true => (StatusCode::SERVICE_UNAVAILABLE, "stopping\n"),
    };
    let routes = Router::new().route("/livez", get(async || "alive\n")).route("/readyz", get(ready));
    AbortOnDropHandle::new(tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, routes).await {
            tracing::error!(%error, "the admin port stopped");
        }
    }))
}

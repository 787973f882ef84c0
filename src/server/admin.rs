//! The admin port: `/livez` and `/readyz` for probes, and `/metrics`, in plain HTTP.

use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::metrics::{self, Metrics};

/// Serves until the handle is dropped. Alive as long as it answers; ready until `stop`.
pub(super) fn serve(
    listener: TcpListener,
    stop: CancellationToken,
    metrics: Arc<Metrics>,
) -> AbortOnDropHandle<()> {
    let ready = async move || {
        if stop.is_cancelled() {
            (StatusCode::SERVICE_UNAVAILABLE, "stopping\n")
        } else {
            (StatusCode::OK, "ready\n")
        }
    };
    let metrics = async move || scrape(&metrics).await;
    let routes = Router::new()
        .route("/livez", get(async || "alive\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics));
    AbortOnDropHandle::new(tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, routes).await {
            tracing::error!(%error, "the admin port stopped");
        }
    }))
}

async fn scrape(metrics: &Metrics) -> Response {
    match metrics.scrape().await {
        Ok(text) => ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")).into_response(),
    }
}

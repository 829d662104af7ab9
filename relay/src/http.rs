//! The relay's API, health checks and metrics, on `http.listen`.
//!
//! ```text
//! GET /livez              200 while the program runs
//! GET /readyz             200 while new publishers are taken, else 503
//! GET /metrics            Prometheus' text format
//! GET /api/v1/status      as `status --json`; also studios, publishers, connectors
//! ```
//!
//! There is no login, so it listens on this machine only unless told otherwise; it can be read and not changed, and
//! only under a host's name that is ours. No key, no token and no hash of one is ever in an answer. A fault here
//! never touches a feed.

use std::{net::TcpListener, sync::Arc};

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, Request, State},
    http::{HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use firstmile_shared::{
    config::Listen,
    http::{Hosts, Sockets},
};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::{
    control::{self, Control},
    metrics::{Listener, Metrics},
};

/// Serves until `shutdown`; requests that are being answered then are finished, if that takes no longer than a moment.
pub async fn serve(
    listener: TcpListener,
    listen: Listen,
    connections_max: usize,
    control: Control,
    metrics: Arc<Metrics>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let hosts = Hosts::new(&listen, listener.local_addr()?, "");
    let sockets = Sockets::new(listener, connections_max)?;
    let stragglers = sockets.end_stragglers(shutdown.clone());
    let server = axum::serve(sockets, router(control, metrics, hosts))
        .with_graceful_shutdown(shutdown.cancelled_owned());
    tokio::select! {
        ended = server.into_future() => Ok(ended?),
        never = stragglers => match never {},
    }
}

#[derive(Clone, Debug)]
struct Relay {
    control: Control,
    metrics: Arc<Metrics>,
}

fn router(control: Control, metrics: Arc<Metrics>, hosts: Hosts) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(prometheus))
        .route("/api/v1/status", get(status))
        .route("/api/v1/studios", get(studios))
        .route("/api/v1/publishers", get(publishers))
        .route("/api/v1/connectors", get(connectors))
        .fallback(|| async { problem(StatusCode::NOT_FOUND, "there is nothing here") })
        .layer(DefaultBodyLimit::max(BODY_LEN_MAX))
        .layer(middleware::map_response(harden))
        .layer(middleware::from_fn_with_state(hosts, known_host))
        .layer(middleware::from_fn_with_state(metrics.clone(), counted))
        .with_state(Relay { control, metrics })
}

async fn ready(State(relay): State<Relay>) -> Response {
    match relay.control.status().map(|status| status.state) {
        Some(control::State::Ready) => "ready\n".into_response(),
        Some(control::State::Draining) => {
            (StatusCode::SERVICE_UNAVAILABLE, "draining\n").into_response()
        }
        None => (StatusCode::SERVICE_UNAVAILABLE, "not started\n").into_response(),
    }
}

async fn prometheus(State(relay): State<Relay>) -> Response {
    let content_type = [(header::CONTENT_TYPE, "text/plain; version=0.0.4")];
    (content_type, relay.metrics.render()).into_response()
}

async fn status(State(relay): State<Relay>) -> Response {
    Json(relay.control.status()).into_response()
}

async fn studios(State(relay): State<Relay>) -> Response {
    Json(relay.control.studios()).into_response()
}

async fn publishers(State(relay): State<Relay>) -> Response {
    Json(relay.control.registry().publishers()).into_response()
}

async fn connectors(State(relay): State<Relay>) -> Response {
    Json(relay.control.registry().connectors()).into_response()
}

/// Answers only requests for a host that is ours.
async fn known_host(State(hosts): State<Hosts>, request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST);
    if host
        .and_then(|host| host.to_str().ok())
        .is_some_and(|host| hosts.know(host))
    {
        return next.run(request).await;
    }
    problem(
        StatusCode::MISDIRECTED_REQUEST,
        "this answers for its own host only: ask for localhost, or for the address of http.listen",
    )
}

/// Requests that are being answered are in the gauge.
async fn counted(State(metrics): State<Arc<Metrics>>, request: Request, next: Next) -> Response {
    let _open = metrics.connection(Listener::Http);
    next.run(request).await
}

fn problem(status: StatusCode, detail: &str) -> Response {
    (status, Json(json!({"error": detail}))).into_response()
}

/// Nothing of this origin may be framed, guessed, kept or run.
async fn harden(mut response: Response) -> Response {
    let headers = response.headers_mut();
    for (name, value) in [
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; frame-ancestors 'none'",
        ),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Nothing here reads a body.
const BODY_LEN_MAX: usize = 1024;

//! The connector's page and its API, on `http.listen`.
//!
//! ```text
//! GET    /                      the page (with /app.js, /style.css, /icon.svg: all in the program)
//! GET    /livez /readyz /metrics
//! GET    /api/v1/status         no secret in it
//! GET    /api/v1/events         what happened lately, the oldest first
//! GET    /api/v1/lines          guarded from here on: keys, or changes
//! POST   /api/v1/lines          {"name", "key"?}
//! GET    /api/v1/lines/ID       one line with its key
//! GET    /api/v1/lines/ID/qr    its address as an SVG picture
//! PATCH  /api/v1/lines/ID       {"enabled"?, "settings"?}
//! DELETE /api/v1/lines/ID
//! POST   /api/v1/lines/ID/take    {"publisher"?}  gives the line to an encoder that waits
//! POST   /api/v1/lines/ID/refuse  {"publisher"?}  sends one away
//! POST   /api/v1/lines/ID/resync  makes its encoder start again at live
//! POST   /api/v1/join           {"token"}
//! POST   /api/v1/leave          {"relay"}
//! ```
//!
//! There is no login: whoever reaches the port may do everything, so it listens on this machine only unless told
//! otherwise, and every request has to prove that no other site's page sent it ([`guard`]). A fault here never
//! touches a line.

mod api;
pub mod guard;
mod page;

use std::net::{SocketAddr, TcpListener};

use axum::{
    Router,
    extract::{DefaultBodyLimit, State},
    http::{HeaderValue, StatusCode, header},
    middleware,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use firstmile_shared::{
    config::Listen,
    http::{Hosts, Sockets},
    os,
};
use tokio_util::sync::CancellationToken;

use crate::{control::Control, metrics};

/// Serves until `shutdown`; requests that are being answered then are finished, if that takes no longer than a moment.
pub async fn serve(
    listener: TcpListener,
    listen: &Listen,
    control: Control,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let bound = listener.local_addr()?;
    let hosts = Hosts::new(listen, bound, &os::host_name());
    let sockets = Sockets::new(listener, CONNECTIONS_MAX)?;
    let stragglers = sockets.end_stragglers(shutdown.clone());
    let server = axum::serve(sockets, router(control, hosts))
        .with_graceful_shutdown(shutdown.cancelled_owned());
    tokio::select! {
        ended = server.into_future() => Ok(ended?),
        never = stragglers => match never {},
    }
}

/// The address to open in a browser.
pub fn page_url(bound: SocketAddr) -> String {
    match bound {
        bound if bound.ip().is_unspecified() => format!("http://localhost:{}/", bound.port()),
        bound => format!("http://{bound}/"),
    }
}

/// Everything that is served, behind the checks of [`guard`].
pub fn router(control: Control, hosts: Hosts) -> Router {
    let guarded = Router::new()
        .route("/api/v1/lines", get(api::lines).post(api::add_line))
        .route(
            "/api/v1/lines/{id}",
            get(api::line)
                .patch(api::change_line)
                .delete(api::remove_line),
        )
        .route("/api/v1/lines/{id}/qr", get(api::qr))
        .route("/api/v1/lines/{id}/take", post(api::take_line))
        .route("/api/v1/lines/{id}/refuse", post(api::refuse_line))
        .route("/api/v1/lines/{id}/resync", post(api::resync_line))
        .route("/api/v1/join", post(api::join))
        .route("/api/v1/leave", post(api::leave))
        .layer(middleware::from_fn(guard::same_origin));
    Router::new()
        .route("/api/v1/status", get(api::status))
        .route("/api/v1/events", get(api::events))
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(prometheus))
        .merge(guarded)
        .merge(page::router())
        .fallback(|| async { api::Problem::new(StatusCode::NOT_FOUND, "there is nothing here") })
        .layer(DefaultBodyLimit::max(BODY_LEN_MAX))
        .layer(middleware::map_response(harden))
        .layer(middleware::from_fn_with_state(hosts, guard::known_host))
        .with_state(control)
}

async fn ready(State(control): State<Control>) -> Response {
    let unready = control.unready();
    if unready.is_empty() {
        return "ready\n".into_response();
    }
    (
        StatusCode::SERVICE_UNAVAILABLE,
        format!("{}\n", unready.join("\n")),
    )
        .into_response()
}

async fn prometheus(State(control): State<Control>) -> Response {
    match metrics::render(&control.status()) {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
        Err(error) => {
            api::Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response()
        }
    }
}

/// Nothing of this origin may be framed, guessed, kept or sent elsewhere.
async fn harden(mut response: Response) -> Response {
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Own scripts and styles only; pictures may be blobs, for the QR code.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    img-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// A few open pages, each with the browser's six connections, and a scraper.
const CONNECTIONS_MAX: usize = 64;

/// A join token has a few hundred bytes, a line's settings less.
const BODY_LEN_MAX: usize = 16 * 1024;

#[cfg(test)]
mod tests;

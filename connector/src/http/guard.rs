//! Who may ask: the browser's own page and local programs, not another site's script.
//!
//! Two attacks matter for a page on the local machine. *DNS rebinding*: a site's name is pointed at 127.0.0.1 and its
//! script then counts as ours; the `Host` header still names the site, so only known hosts are answered. *Cross-site
//! requests*: a site's form or script sends a request to us; it can't set our header without being asked first
//! (CORS preflight, which we never grant), and browsers name its origin. The decisions are pure functions.

use axum::{
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use firstmile_shared::http::Hosts;

use super::api::Problem;

/// What guarded requests carry, with any value. A page of another origin can't set it.
pub const HEADER: &str = "x-firstmile";

/// Answers only requests for a host that is ours.
pub(super) async fn known_host(
    State(hosts): State<Hosts>,
    request: Request,
    next: Next,
) -> Response {
    let host = header_text(request.headers(), header::HOST.as_str());
    if host.is_some_and(|host| hosts.know(host)) {
        return next.run(request).await;
    }
    Problem::new(
        StatusCode::MISDIRECTED_REQUEST,
        "this page answers for this machine only: open it as localhost, or by the address of http.listen",
    )
    .into_response()
}

/// Answers only requests that this page or a local program made.
pub(super) async fn same_origin(request: Request, next: Next) -> Response {
    match check_origin(request.headers()) {
        Ok(()) => next.run(request).await,
        Err(message) => Problem::new(StatusCode::FORBIDDEN, message).into_response(),
    }
}

/// See the module's text. Programs without `Origin` (curl) need the header only.
pub fn check_origin(headers: &HeaderMap) -> Result<(), &'static str> {
    if headers.get(HEADER).is_none() {
        return Err("this needs the header X-Firstmile, so that no other site can ask for it");
    }
    let text = |name: &str| header_text(headers, name);
    if headers.contains_key(header::ORIGIN) {
        let origin =
            text(header::ORIGIN.as_str()).and_then(|origin| origin.strip_prefix("http://"));
        let host = text(header::HOST.as_str());
        let is_ours = match (origin, host) {
            (Some(origin), Some(host)) => origin.eq_ignore_ascii_case(host),
            _ => false,
        };
        if !is_ours {
            return Err("another site asked for this");
        }
    }
    match text("sec-fetch-site") {
        None | Some("same-origin") => Ok(()),
        Some(_) => Err("another site asked for this"),
    }
}

fn header_text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_site_can_neither_read_nor_change() {
        // (headers, allowed)
        for (headers, allowed) in [
            (vec![("x-firstmile", "cli")], true),
            (
                vec![("x-firstmile", "page"), ("origin", "http://localhost:8090")],
                true,
            ),
            (
                vec![
                    ("x-firstmile", "page"),
                    ("origin", "http://localhost:8090"),
                    ("sec-fetch-site", "same-origin"),
                ],
                true,
            ),
            (vec![], false),
            (vec![("origin", "http://localhost:8090")], false),
            (
                vec![("x-firstmile", "page"), ("origin", "http://evil.example")],
                false,
            ),
            (
                vec![
                    ("x-firstmile", "page"),
                    ("origin", "https://localhost:8090"),
                ],
                false,
            ),
            (
                vec![("x-firstmile", "page"), ("origin", "http://localhost:9999")],
                false,
            ),
            (vec![("x-firstmile", "page"), ("origin", "null")], false),
            (
                vec![("x-firstmile", "page"), ("sec-fetch-site", "cross-site")],
                false,
            ),
            (
                vec![("x-firstmile", "page"), ("sec-fetch-site", "same-site")],
                false,
            ),
        ] {
            let mut map = HeaderMap::new();
            map.insert("host", "localhost:8090".parse().unwrap());
            for (name, value) in &headers {
                map.insert(*name, value.parse().unwrap());
            }
            assert_eq!(check_origin(&map).is_ok(), allowed, "{headers:?}");
        }
    }
}

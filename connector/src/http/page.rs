//! The page itself: four files that are part of the program, so it works without a network and can't be missing.

use axum::{Router, http::header, routing::get};

/// The page's files.
pub(super) fn router<S: Clone + Send + Sync + 'static>() -> Router<S> {
    [
        (
            "/",
            "text/html; charset=utf-8",
            include_str!("page/index.html"),
        ),
        (
            "/app.js",
            "text/javascript; charset=utf-8",
            include_str!("page/app.js"),
        ),
        (
            "/style.css",
            "text/css; charset=utf-8",
            include_str!("page/style.css"),
        ),
        ("/icon.svg", "image/svg+xml", include_str!("page/icon.svg")),
    ]
    .into_iter()
    .fold(Router::new(), |router, (path, kind, text)| {
        router.route(
            path,
            get(move || async move { ([(header::CONTENT_TYPE, kind)], text) }),
        )
    })
}

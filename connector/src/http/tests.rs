//! The page and its API over a real socket, asked as browsers, scripts and attackers ask.

use std::net::SocketAddr;

use firstmile_shared::secret::StreamKey;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::*;
use crate::{
    control::Health,
    decode::Decoders,
    events::{Event, Events, Kind},
    lines::{Delay, Lines},
    output::{OutputKind, Outputs},
    tunnel::Tunnels,
};

const KEY: &str = "hunter2-own-key-99";

/// A served page with one line, until the test ends.
struct Fixture {
    address: SocketAddr,
    lines: Lines,
    events: Events,
    _folder: tempfile::TempDir,
    shutdown: CancellationToken,
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

impl Fixture {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let lines = Lines::open_to_play(
            folder.path(),
            Delay::Normal,
            Outputs::null_only(),
            OutputKind::Null,
            Decoders::default(),
        )
        .unwrap();
        lines
            .add("Camera 1", Some(StreamKey::parse(KEY).unwrap()))
            .unwrap();
        let events = Events::open(folder.path());
        let tunnels = Tunnels::open(
            folder.path(),
            lines.clone(),
            crate::tunnel::Settings::default(),
            events.clone(),
        )
        .unwrap();
        let control = Control::new(lines.clone(), tunnels, Health::default(), events.clone());
        let listen: Listen = "127.0.0.1:0".parse().unwrap();
        let listener = firstmile_shared::net::bind_tcp(&listen, "http.listen")
            .unwrap()
            .unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let stop = shutdown.clone();
        #[expect(
            clippy::disallowed_methods,
            reason = "ends with the test's own runtime, told by the fixture's drop"
        )]
        tokio::spawn(async move { serve(listener, &listen, control, stop).await });
        Self {
            address,
            lines,
            events,
            _folder: folder,
            shutdown,
        }
    }

    /// One request with exactly these headers (`Host` too); the status and everything that came back.
    async fn ask(&self, request: &str, headers: &[&str], body: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let length = format!("Content-Length: {}", body.len());
        let mut lines = vec![format!("{request} HTTP/1.1"), "Connection: close".into()];
        lines.extend(headers.iter().map(|header| (*header).to_owned()));
        if !body.is_empty() {
            lines.extend(["Content-Type: application/json".into(), length]);
        }
        let text = lines.join("\r\n") + "\r\n\r\n" + body;
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        (status, answer)
    }
}

const HOST: &str = "Host: localhost:8090";
const OURS: &str = "X-Firstmile: page";

#[tokio::test]
async fn the_page_and_its_files_are_in_the_program() {
    let page = Fixture::start();
    for (path, kind) in [
        ("/", "text/html"),
        ("/app.js", "text/javascript"),
        ("/style.css", "text/css"),
        ("/icon.svg", "image/svg+xml"),
    ] {
        let (status, answer) = page.ask(&format!("GET {path}"), &[HOST], "").await;
        assert_eq!(status, 200, "{path}");
        assert!(
            answer.contains(&format!("content-type: {kind}")),
            "{answer}"
        );
        assert!(
            answer.contains("content-security-policy: default-src 'none'"),
            "{answer}"
        );
        assert!(answer.contains("cache-control: no-store"), "{answer}");
        assert!(
            !answer.contains("https://") || path == "/",
            "works without a network: {path}"
        );
    }
}

#[tokio::test]
async fn a_name_that_is_not_ours_gets_nothing() {
    let page = Fixture::start();
    for path in ["/", "/api/v1/status", "/api/v1/lines", "/metrics", "/livez"] {
        for host in [
            vec!["Host: evil.example:8090"],
            vec!["Host: 192.0.2.1"],
            vec!["Host:"],
        ] {
            let headers = [host[0], OURS];
            let (status, answer) = page.ask(&format!("GET {path}"), &headers, "").await;
            assert_eq!(status, 421, "{path} as {host:?}");
            assert!(
                !answer.contains("Camera 1") && !answer.contains(KEY),
                "{answer}"
            );
        }
    }
}

#[tokio::test]
async fn another_site_can_neither_read_a_key_nor_change_a_line() {
    let page = Fixture::start();
    let from_elsewhere: [&[&str]; 4] = [
        &[HOST],
        &[HOST, "Origin: http://localhost:8090"],
        &[HOST, OURS, "Origin: https://evil.example"],
        &[HOST, OURS, "Sec-Fetch-Site: cross-site"],
    ];
    for headers in from_elsewhere {
        for (request, body) in [
            ("GET /api/v1/lines", ""),
            ("GET /api/v1/lines/1", ""),
            ("GET /api/v1/lines/1/qr", ""),
            ("POST /api/v1/lines", r#"{"name":"Camera 2"}"#),
            ("PATCH /api/v1/lines/1", r#"{"enabled":false}"#),
            ("DELETE /api/v1/lines/1", ""),
            ("POST /api/v1/join", r#"{"token":"fm1.x"}"#),
            ("POST /api/v1/leave", r#"{"relay":"x"}"#),
        ] {
            let (status, answer) = page.ask(request, headers, body).await;
            assert_eq!(status, 403, "{request} with {headers:?}");
            assert!(!answer.contains(KEY), "{answer}");
        }
    }
    let (status, answer) = page.ask("OPTIONS /api/v1/lines", &[HOST], "").await;
    assert_ne!(status, 200);
    assert!(
        !answer.to_lowercase().contains("access-control"),
        "{answer}"
    );
    let set = page.lines.set();
    assert_eq!(set.lines.len(), 1);
    assert!(set.lines[0].enabled);
}

#[tokio::test]
async fn no_key_is_in_the_status_the_metrics_or_an_error() {
    let page = Fixture::start();
    for (request, body) in [
        ("GET /api/v1/status", ""),
        ("GET /metrics", ""),
        ("GET /readyz", ""),
        (
            "POST /api/v1/lines",
            &format!(r#"{{"name":"Camera 2","key":"{KEY}"}}"#),
        ),
        (
            "POST /api/v1/lines",
            &format!(r#"{{"name":"Camera 2","key":"{KEY} !"}}"#),
        ),
        (
            "POST /api/v1/lines",
            &format!(r#"{{"name":"Camera 2","kee":"{KEY}"}}"#),
        ),
        ("POST /api/v1/join", &format!(r#"{{"token":"fm1.{KEY}"}}"#)),
    ] {
        let (_, answer) = page.ask(request, &[HOST, OURS], body).await;
        assert!(!answer.contains(KEY), "{request}: {answer}");
    }
}

#[tokio::test]
async fn the_status_has_every_field_of_the_contract() {
    let page = Fixture::start();
    let (status, answer) = page.ask("GET /api/v1/status", &[HOST], "").await;
    assert_eq!(status, 200);
    let json: serde_json::Value = serde_json::from_str(body(&answer)).unwrap();
    assert_eq!(json["relays"], serde_json::json!([]));
    let line = &json["lines"][0];
    for field in [
        "name",
        "state",
        "reason",
        "relay",
        "encoder_lag_ms",
        "delay_ms",
        "video",
        "audio",
        "hops_ms",
        "av_offset_ms",
        "bitrate_bps",
        "outputs",
    ] {
        assert!(line.get(field).is_some(), "{field} is absent from {line}");
    }
    for (part, fields) in [
        (
            "video",
            &[
                "codec",
                "width",
                "height",
                "fps",
                "units_total",
                "late_total",
                "dropped_total",
                "lost_total",
                "decode_errors_total",
            ][..],
        ),
        (
            "audio",
            &["codec", "sample_rate", "channels", "units_total"],
        ),
        (
            "hops_ms",
            &["encoder", "relay", "network", "wait", "decode"],
        ),
    ] {
        for field in fields {
            assert!(
                line[part].get(field).is_some(),
                "{part}.{field} is absent from {line}"
            );
        }
    }
    for percentile in ["p50", "p95", "p99"] {
        assert!(line["hops_ms"]["relay"].get(percentile).is_some(), "{line}");
    }
}

#[tokio::test]
async fn the_page_adds_shows_switches_and_removes_a_line() {
    let page = Fixture::start();
    let ours = [
        HOST,
        OURS,
        "Origin: http://localhost:8090",
        "Sec-Fetch-Site: same-origin",
    ];
    let (status, answer) = page
        .ask("POST /api/v1/lines", &ours, r#"{"name":"Drone"}"#)
        .await;
    assert_eq!(status, 200, "{answer}");
    let (_, answer) = page.ask("GET /api/v1/lines/2", &ours, "").await;
    let line: serde_json::Value = serde_json::from_str(body(&answer)).unwrap();
    assert_eq!(line["name"], "Drone");
    assert_eq!(line["key"], page.lines.find("Drone").unwrap().key.expose());
    let (status, answer) = page.ask("GET /api/v1/lines/2/qr", &ours, "").await;
    assert_eq!(
        status, 409,
        "there is no address before a relay was joined: {answer}"
    );
    let change = r#"{"enabled":false,"settings":{"delay":"safe"}}"#;
    let (status, _) = page.ask("PATCH /api/v1/lines/2", &ours, change).await;
    assert_eq!(status, 200);
    let drone = page.lines.find("Drone").unwrap();
    assert_eq!((drone.enabled, drone.delay_ms), (false, 1500));
    let (status, _) = page.ask("DELETE /api/v1/lines/2", &ours, "").await;
    assert_eq!(status, 200);
    assert_eq!(page.lines.set().lines.len(), 1);
}

#[tokio::test]
async fn a_wrong_request_is_answered_in_words() {
    let page = Fixture::start();
    // (request, body, status, part of the answer)
    for (request, body, status, words) in [
        (
            "POST /api/v1/lines",
            r#"{"name":"camera 1"}"#,
            400,
            "there is a line \\\"Camera 1\\\" already",
        ),
        (
            "POST /api/v1/lines",
            r#"{"name":""}"#,
            400,
            "must not be empty",
        ),
        ("POST /api/v1/lines", r"{}", 422, "name"),
        ("POST /api/v1/lines", r"{", 400, "error"),
        (
            "POST /api/v1/join",
            r#"{"token":"hello"}"#,
            400,
            "not a join token",
        ),
        (
            "PATCH /api/v1/lines/1",
            r#"{"settings":{"delay":"slow"}}"#,
            400,
            "is not studio, fast, normal",
        ),
        ("PATCH /api/v1/lines/1", r"{}", 400, "nothing to change"),
        ("DELETE /api/v1/lines/7", "", 404, "there is no line 7"),
        ("GET /nothing", "", 404, "there is nothing here"),
    ] {
        let (got, answer) = page.ask(request, &[HOST, OURS], body).await;
        assert_eq!(got, status, "{request} {body}: {answer}");
        assert!(answer.contains(words), "{request} {body}: {answer}");
    }
    let long = format!(r#"{{"name":"{}"}}"#, "x".repeat(20 * 1024));
    let (status, _) = page.ask("POST /api/v1/lines", &[HOST, OURS], &long).await;
    assert_eq!(status, 413);
}

#[tokio::test]
async fn readiness_follows_the_lines() {
    let page = Fixture::start();
    let (status, answer) = page.ask("GET /readyz", &[HOST], "").await;
    assert_eq!(status, 503);
    assert!(answer.contains("line \"Camera 1\": starting"), "{answer}");
    let (status, _) = page.ask("GET /livez", &[HOST], "").await;
    assert_eq!(status, 200);
    page.lines.enable("Camera 1", false).unwrap();
    let (status, _) = page.ask("GET /readyz", &[HOST], "").await;
    assert_eq!(
        status, 200,
        "a line that is switched off is as it should be"
    );
}

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").unwrap().1
}

#[tokio::test]
async fn what_happened_can_be_read_and_holds_no_key() {
    let page = Fixture::start();
    let event =
        Event::new(Kind::Held, "a second encoder uses the key of this line").line("Camera 1");
    page.events.note(event);
    let (status, answer) = page.ask("GET /api/v1/events", &[HOST], "").await;
    assert_eq!(status, 200);
    assert!(
        answer.contains(r#""kind":"held","line":"Camera 1","relay":null,"text":"a second encoder"#),
        "{answer}"
    );
    assert!(!answer.contains(KEY), "{answer}");
}

#[tokio::test]
async fn taking_and_refusing_is_for_our_own_page_only() {
    let page = Fixture::start();
    let id = page.lines.set().lines[0].id;
    for action in ["take", "refuse"] {
        let request = format!("POST /api/v1/lines/{id}/{action}");
        for foreign in [
            vec![HOST],
            vec![HOST, OURS, "Origin: http://evil.example"],
            vec![HOST, OURS, "Sec-Fetch-Site: cross-site"],
        ] {
            assert_eq!(
                page.ask(&request, &foreign, "{}").await.0,
                403,
                "{foreign:?}"
            );
        }
        assert_eq!(
            page.ask(&request, &["Host: evil.example", OURS], "{}")
                .await
                .0,
            421
        );
        let (status, answer) = page.ask(&request, &[HOST, OURS], "{}").await;
        assert_eq!(status, 503, "{answer}");
        assert!(answer.contains("no other encoder waits"), "{answer}");
        let named = r#"{"publisher":7}"#;
        let (_, answer) = page.ask(&request, &[HOST, OURS], named).await;
        assert!(answer.contains("no encoder with the number 7"), "{answer}");
    }
}

//! Answers as people read them: short, aligned, in plain words. Pure.
//!
//! What peers said of themselves comes here without controls already, see [`crate::registry`].

use std::fmt::Write;

use firstmile_shared::{config::Listen, tunnel::control::FindingSeverity};
use serde_json::Value;

use crate::{
    config::{Config, Span},
    control::{Invited, State, Status, StudioStatus},
    registry::{ConnectorStatus, PublisherState, PublisherStatus},
};

/// What stands beside a token, on standard error.
pub(super) fn invited(invited: &Invited, uses: u32) -> String {
    let connectors = if uses == 1 {
        "one connector".to_owned()
    } else {
        format!("{uses} connectors")
    };
    format!(
        "This is a secret: it lets {connectors} into studio {} until {}.\n\
         It says that the relay is at {}.\n\
         Next: on the studio's machine start firstmile-connector, then paste it into its page or into\n\
         `firstmile-connector join`.",
        invited.studio,
        invited.expires,
        invited.addresses.join(", ")
    )
}

/// `status`.
pub(super) fn status(status: &Status) -> String {
    let state = match status.state {
        State::Ready => "ready",
        State::Draining => "draining: no new publishers",
    };
    let shown = |address: Option<std::net::SocketAddr>| {
        address.map_or_else(|| Listen::Off.to_string(), |address| address.to_string())
    };
    let rows = [
        ("version", status.version.clone()),
        ("state", state.to_owned()),
        ("rtmp", shown(status.listen.rtmp)),
        ("rtmps", shown(status.listen.rtmps)),
        ("tunnel", shown(status.listen.tunnel)),
        ("http", shown(status.listen.http)),
        ("publishers", status.publishers.to_string()),
        ("connectors", status.connectors.to_string()),
    ];
    let mut text = String::new();
    for (name, value) in rows {
        let _ = writeln!(text, "{name:<11} {value}");
    }
    text
}

/// `drain`, on standard error.
pub(super) fn draining(status: &Status, wait: Option<Span>) -> String {
    let then = match wait {
        Some(wait) => format!(
            "Those that are not gone in {wait} are closed then, one after another (`drain --wait forever` lets them stay)."
        ),
        None => "Those that are live stay.".to_owned(),
    };
    format!(
        "draining: no new publishers; {} still there. Encoders that understand it were asked to connect again. {then}\n\
         Stop the relay when `firstmile-relay publishers` is empty.",
        status.publishers
    )
}

/// `studios`.
pub(super) fn studios(studios: &[StudioStatus]) -> String {
    if studios.is_empty() {
        return "no studio yet: `firstmile-relay invite STUDIO` makes one\n".to_owned();
    }
    let rows = studios.iter().map(|studio| {
        vec![
            studio.name.clone(),
            studio.connectors.to_string(),
            studio.lines.to_string(),
            studio.created.clone(),
        ]
    });
    table(&["STUDIO", "CONNECTORS", "LINES", "CREATED"], rows)
}

/// `publishers`.
pub(super) fn publishers(publishers: &[PublisherStatus]) -> String {
    if publishers.is_empty() {
        return "no encoder publishes\n".to_owned();
    }
    let rows = publishers.iter().map(|publisher| {
        let codecs = [&publisher.video_codec, &publisher.audio_codec];
        let codecs: Vec<_> = codecs.into_iter().flatten().map(String::as_str).collect();
        vec![
            publisher.studio.clone(),
            publisher.line.clone(),
            match publisher.state {
                PublisherState::Live => "live",
                PublisherState::Held => "held",
                PublisherState::Draining => "draining",
            }
            .to_owned(),
            publisher.peer.clone(),
            publisher.encoder.clone(),
            match publisher.stalled_ms {
                Some(ms) => format!("stalled {} s", ms / 1000),
                None => or_dash(publisher.bitrate_bps.map(bitrate)),
            },
            or_dash(publisher.encoder_lag_ms.map(|ms| format!("{ms} ms"))),
            codecs.join(" "),
            match publisher.delivered_to.len() {
                0 => "nobody".to_owned(),
                1 => "1 connector".to_owned(),
                n => format!("{n} connectors"),
            },
        ]
    });
    let mut text = table(
        &[
            "STUDIO", "LINE", "STATE", "FROM", "ENCODER", "BITRATE", "LAG", "CODECS", "GOES TO",
        ],
        rows,
    );
    for publisher in publishers {
        for finding in &publisher.findings {
            let severity = match finding.severity {
                FindingSeverity::Error => "error",
                FindingSeverity::Warning => "warning",
                FindingSeverity::Note => "note",
            };
            let _ = writeln!(text, "{severity}: {}: {}", publisher.studio, finding.text);
        }
    }
    text
}

/// `connectors`.
pub(super) fn connectors(connectors: &[ConnectorStatus]) -> String {
    if connectors.is_empty() {
        return "no connector has joined yet: `firstmile-relay invite STUDIO` prints a token\n"
            .to_owned();
    }
    let rows = connectors.iter().map(|connector| {
        vec![
            connector.id.clone(),
            connector.studio.clone(),
            connector.name.clone(),
            connector
                .since
                .clone()
                .unwrap_or_else(|| "not connected".to_owned()),
            or_dash(connector.peer.clone()),
            or_dash(connector.rtt_ms.map(|ms| format!("{ms:.0} ms"))),
            or_dash(connector.version.clone()),
        ]
    });
    table(
        &[
            "ID",
            "STUDIO",
            "NAME",
            "CONNECTED",
            "FROM",
            "RTT",
            "SOFTWARE",
        ],
        rows,
    )
}

/// `check-config`: every key with the value in force.
pub(super) fn config(config: &Config) -> String {
    let mut text = String::new();
    if let Ok(value) = serde_json::to_value(config) {
        settings("", &value, &mut text);
    }
    text
}

fn settings(path: &str, value: &Value, text: &mut String) {
    if let Value::Object(fields) = value {
        for (name, value) in fields {
            let dot = if path.is_empty() { "" } else { "." };
            settings(&format!("{path}{dot}{name}"), value, text);
        }
    } else {
        let _ = writeln!(text, "{path} = {value}");
    }
}

fn bitrate(bps: u64) -> String {
    format!("{}.{} Mbit/s", bps / 1_000_000, bps / 100_000 % 10)
}

fn or_dash(text: Option<String>) -> String {
    text.unwrap_or_else(|| "-".to_owned())
}

/// Columns as wide as their widest cell, two spaces apart, nothing behind the last.
fn table(head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let head = head.iter().map(ToString::to_string).collect();
    let rows: Vec<Vec<String>> = std::iter::once(head).chain(rows).collect();
    let columns = rows.first().map_or(0, Vec::len);
    let widths: Vec<usize> = (0..columns)
        .map(|column| {
            let cells = rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        })
        .collect();
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:<width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [
            vec!["truck1".to_owned(), "1".to_owned()],
            vec!["k\u{f6}ln".to_owned(), "12".to_owned()],
        ];
        assert_eq!(
            table(&["STUDIO", "LINES"], rows.into_iter()),
            "STUDIO  LINES\ntruck1  1\nk\u{f6}ln    12\n"
        );
    }

    #[test]
    fn every_setting_in_force_is_shown() {
        let text = config(&Config::default());
        for setting in [
            "rtmps.listen = \"[::]:1936\"",
            "rtmps.certificate = \"\"",
            "rtmps.key = \"\"",
            "https.listen = \"off\"",
            "limits.publishers = 256",
        ] {
            assert!(text.contains(setting), "{setting} is not in {text}");
        }
    }

    #[test]
    fn a_connector_that_is_away_is_said_to_be() {
        let text = connectors(&[ConnectorStatus {
            id: "0123456789ab".into(),
            studio: "truck1".into(),
            name: "vmix-pc".into(),
            version: None,
            peer: None,
            since: None,
            transport: None,
            rtt_ms: None,
        }]);
        assert!(
            text.contains("0123456789ab  truck1  vmix-pc  not connected"),
            "{text}"
        );
    }

    #[test]
    fn every_setting_is_listed_by_its_key() {
        let text = config(&Config::default());
        for line in [
            "rtmp.listen = \"[::]:1935\"",
            "tunnel.public_address = []",
            "limits.idle_timeout = \"10s\"",
            "limits.publishers = 256",
            "log.format = \"auto\"",
        ] {
            assert!(text.lines().any(|l| l == line), "no {line} in\n{text}");
        }
    }
}

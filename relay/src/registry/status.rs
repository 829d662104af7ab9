//! The registry's state as data: what `publishers --json` and `connectors --json` say (stable fields).

use firstmile_shared::{
    date,
    media::{Codec, MediaKind},
    tunnel::control::Finding,
};
use serde::{Deserialize, Serialize};

use super::{
    Session, Table,
    feed::{Publisher, codec_name},
    lock,
};
use crate::auth::Snapshot;

/// One encoder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PublisherStatus {
    /// The studio it publishes to.
    pub studio: String,
    /// The names of the lines it is for.
    pub line: String,
    /// Its address.
    pub peer: String,
    /// Its own name, without controls.
    pub encoder: String,
    /// "rtmp".
    pub protocol: String,
    /// When it came, RFC 3339.
    pub since: String,
    /// Whether its units go out.
    pub state: PublisherState,
    /// Age at ingest of the newest unit, milliseconds; while nothing comes, what the next one will have at least.
    pub encoder_lag_ms: Option<u32>,
    /// How much lag was accepted and is still in force: everything is shown that much later, milliseconds.
    #[serde(default)]
    pub accepted_lag_ms: u32,
    /// Bits per second of the last second.
    pub bitrate_bps: Option<u64>,
    /// For how long nothing has come, milliseconds, once that is more than two seconds; null while media come.
    pub stalled_ms: Option<u32>,
    /// "H.264"; also the name of what is not carried.
    pub video_codec: Option<String>,
    /// "AAC".
    pub audio_codec: Option<String>,
    /// What is wrong with it and what to set, the worst first.
    #[serde(default)]
    pub findings: Vec<Finding>,
    /// The connected connectors that get it.
    pub delivered_to: Vec<DeliveredTo>,
}

/// Whether a publisher's units go out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PublisherState {
    /// They do.
    Live,
    /// They are thrown away: another publisher has the line.
    Held,
    /// They do; the relay takes no new publishers.
    Draining,
}

/// One connector that gets a feed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeliveredTo {
    /// The first 12 hex digits of its identity.
    pub connector: String,
    /// What it calls the line.
    pub line: String,
    /// "quic" or "tcp".
    pub transport: String,
}

/// One connector.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConnectorStatus {
    /// The first 12 hex digits of its identity.
    pub id: String,
    /// The studio it belongs to.
    pub studio: String,
    /// The name of its machine.
    pub name: String,
    /// The program and its version; null while it is not connected, as are the others.
    pub version: Option<String>,
    /// Its address.
    pub peer: Option<String>,
    /// When it connected, RFC 3339.
    pub since: Option<String>,
    /// "quic" or "tcp".
    pub transport: Option<String>,
    /// The latest round trip, milliseconds.
    pub rtt_ms: Option<f64>,
}

pub(super) fn publishers(table: &Table, now_us: i64) -> Vec<PublisherStatus> {
    let mut all = Vec::new();
    for (grant, feed) in &table.feeds {
        let feed = lock(feed);
        let delivered_to: Vec<_> = feed
            .targets()
            .iter()
            .map(|target| DeliveredTo {
                connector: target.connector.to_string(),
                line: target.line_name.clone(),
                transport: table
                    .subscriptions
                    .get(&target.subscription)
                    .map_or_else(String::new, |session| session.info.transport.to_owned()),
            })
            .collect();
        for publisher in feed.publishers() {
            let (state, delivered_to) =
                match (feed.is_live(publisher.number), table.drain.is_some()) {
                    (true, false) => (PublisherState::Live, delivered_to.clone()),
                    (true, true) => (PublisherState::Draining, delivered_to.clone()),
                    (false, _) => (PublisherState::Held, Vec::new()),
                };
            all.push(PublisherStatus {
                studio: grant.studio.clone(),
                line: feed.line_names(),
                state,
                delivered_to,
                ..describe(publisher, now_us)
            });
        }
    }
    all.sort_by(|a, b| {
        (&a.studio, &a.line, &a.since, &a.peer).cmp(&(&b.studio, &b.line, &b.since, &b.peer))
    });
    all
}

pub(super) fn connectors(table: &Table, snapshot: &Snapshot) -> Vec<ConnectorStatus> {
    snapshot
        .connectors()
        .map(|record| {
            // The newest session, where an old one has not noticed yet that its modem changed.
            let session = table
                .subscriptions
                .values()
                .rev()
                .find(|session| session.connector == record.spki);
            let info = session.map(|session| &session.info);
            ConnectorStatus {
                id: record.spki.to_string(),
                studio: record.studio.clone(),
                name: info
                    .map(|info| printable(&info.name))
                    .filter(|name| !name.is_empty())
                    .unwrap_or_else(|| record.name.clone()),
                version: info.map(|info| printable(&info.software)),
                peer: info.and_then(|info| info.peer).map(|peer| peer.to_string()),
                since: session.map(Session::since),
                transport: info.map(|info| info.transport.to_owned()),
                rtt_ms: info.and_then(|info| info.rtt_ms),
            }
        })
        .collect()
}

impl Session {
    fn since(&self) -> String {
        date::rfc3339(self.since_unix)
    }
}

fn codec(publisher: &Publisher, kind: MediaKind) -> Option<String> {
    let seen = match kind {
        MediaKind::Video => publisher.video,
        MediaKind::Audio => publisher.audio,
        MediaKind::Data => None,
    };
    codec_name(&publisher.tracks, kind)
        .or(seen.map(Codec::name))
        .map(str::to_owned)
}

fn describe(publisher: &Publisher, now_us: i64) -> PublisherStatus {
    PublisherStatus {
        studio: String::new(),
        line: String::new(),
        peer: publisher.peer.to_string(),
        encoder: printable(publisher.shown_encoder()),
        protocol: publisher.protocol.to_owned(),
        since: date::rfc3339(publisher.since_unix),
        state: PublisherState::Held,
        encoder_lag_ms: publisher.lag_ms(now_us),
        accepted_lag_ms: publisher.accepted_lag_ms(),
        bitrate_bps: publisher.bitrate_bps,
        stalled_ms: publisher.stalled_ms(now_us),
        video_codec: codec(publisher, MediaKind::Video),
        audio_codec: codec(publisher, MediaKind::Audio),
        findings: publisher.findings.clone(),
        delivered_to: Vec::new(),
    }
}

/// A peer's own words, as they may be shown on a terminal: no controls, not endless.
fn printable(text: &str) -> String {
    crate::auth::printable(text)
}

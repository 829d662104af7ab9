//! Status as data: what `status --json` and `GET /api/v1/status` answer. Names and meaning of the fields are a
//! contract; a field without a value is `null`, never absent. No key is ever in it.

use std::net::SocketAddr;

use firstmile_shared::tunnel::control::Finding;
use serde::{Deserialize, Serialize};

use crate::{
    playout::LineSnapshot,
    tunnel::{RelaySnapshot, RelayState},
};

/// The whole program at one moment.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// "0.1.0".
    pub version: &'static str,
    /// The machine's name, as it stands before the brackets of its NDI sources.
    pub host: String,
    /// The studio that was joined; `null` before.
    pub studio: Option<String>,
    /// The relays that were joined.
    pub relays: Vec<RelaySnapshot>,
    /// The lines in the order of the file.
    pub lines: Vec<LineStatus>,
    /// What an operator should know about the program itself, worst first.
    pub notices: Vec<Notice>,
}

/// One line.
#[derive(Clone, Debug, Serialize)]
pub struct LineStatus {
    /// The line's number in this connector.
    pub id: u32,
    /// Everything else.
    #[serde(flatten)]
    pub snapshot: LineSnapshot,
    /// Encoders that use the line's key and wait: to be taken or refused.
    pub held: Vec<Rival>,
    /// Encoders that the operator refused, and that are sent away when they try again.
    pub refused: Vec<Rival>,
    /// What is wrong with the feed and what to set, the worst first, as the relay sees it. Names that strangers gave may
    /// be in it: escape it wherever it is shown.
    pub findings: Vec<Finding>,
    /// Encoders took the line from each other again and again: it changes only by the operator now.
    pub frozen: bool,
}

/// An encoder that uses a line's key and does not have the line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rival {
    /// Its number, for `line take` and `line refuse`.
    pub publisher: u32,
    /// Its own name, as it sent it: escape it wherever it is shown.
    pub encoder: String,
    /// Its address.
    pub peer: String,
    /// The relay that it publishes to.
    pub relay: String,
    /// When it came, or was refused: RFC 3339.
    pub since: String,
}

impl Rival {
    /// "Larix iOS/1.4, 203.0.113.7".
    pub fn who(&self) -> String {
        let address = match self.peer.parse::<SocketAddr>() {
            Ok(peer) => peer.ip().to_string(),
            Err(_) => self.peer.clone(),
        };
        format!("{}, {address}", self.encoder)
    }
}

/// Something about the program itself that a person should know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Notice {
    /// How bad it is.
    pub severity: Severity,
    /// What is the matter, in one sentence.
    pub text: String,
    /// What to do about it.
    pub remedy: Option<String>,
}

/// How bad a notice is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Something does not work.
    Error,
    /// Something works less well than it could.
    Warning,
}

/// Why no encoder can be heard of, whatever it does; `None` while a relay is connected.
pub(crate) fn out_of_reach(relays: &[RelaySnapshot]) -> Option<String> {
    if (relays.iter()).any(|relay| relay.state == RelayState::Connected) {
        return None;
    }
    let Some(relay) = relays.first() else {
        return Some(
            "no relay was joined yet: paste the join token of `firstmile-relay invite STUDIO`"
                .to_owned(),
        );
    };
    let address = &relay.address;
    Some(match (&relay.reason, relay.state) {
        (Some(reason), _) => format!("no relay is connected: {address}: {reason}"),
        (None, RelayState::Refused) => {
            format!("no relay is connected: {address} does not take this connector")
        }
        (None, _) => format!("no relay is connected: {address} is being dialled"),
    })
}

#[cfg(test)]
mod tests {
    use firstmile_shared::tunnel::control::IngestAddresses;

    use super::*;

    #[test]
    fn an_encoder_is_not_blamed_while_no_relay_is_connected() {
        let relay = |state, reason: Option<&str>| RelaySnapshot {
            address: "relay.example:4433".to_owned(),
            state,
            reason: reason.map(str::to_owned),
            transport: "quic",
            rtt_ms: None,
            lost_percent: None,
            studio: None,
            ingest: IngestAddresses::default(),
            declared: None,
            findings: std::collections::BTreeMap::new(),
            claims: std::collections::BTreeMap::new(),
        };
        let away = || relay(RelayState::Dialing, Some("no answer"));
        for (relays, part) in [
            (vec![], Some("no relay was joined yet")),
            (vec![away()], Some("relay.example:4433: no answer")),
            (
                vec![relay(RelayState::Dialing, None)],
                Some("is being dialled"),
            ),
            (
                vec![relay(RelayState::Refused, None)],
                Some("does not take"),
            ),
            (vec![away(), relay(RelayState::Connected, None)], None),
        ] {
            let reason = out_of_reach(&relays);
            assert_eq!(reason.is_some(), part.is_some(), "{reason:?}");
            assert!(
                reason
                    .unwrap_or_default()
                    .contains(part.unwrap_or_default())
            );
        }
    }
}

//! Asking an encoder to leave and come back, before its connection is closed: for a relay that is going to stop.
//!
//! Two ways, each only for those that announced it in `connect`: OBS 27.2 to 29 know "Go Away" (`supportsGoAway`),
//! a message of its own; Enhanced RTMP knows `NetConnection.Connect.ReconnectRequest` (bit 0 of `capsEx`). Both finish
//! their GOP and connect to the same address again. Everybody else would take neither for what it is.

use bytes::Bytes;

use super::{Session, commands::status};
use crate::rtmp::{amf0::Value, chunk::Message, message::Command};

/// By which words an encoder can be asked to leave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Farewell {
    /// By none.
    #[default]
    Unknown,
    /// OBS 27.2 to 29.
    GoAway,
    /// Enhanced RTMP, version 2.
    ReconnectRequest,
}

impl Farewell {
    /// As `connect` announced it.
    pub(super) fn announced(object: &Value) -> Self {
        let capabilities = object.get("capsEx").and_then(Value::as_number);
        if capabilities.is_some_and(has_reconnect) {
            Self::ReconnectRequest
        } else if object.get("supportsGoAway") == Some(&Value::Boolean(true)) {
            Self::GoAway
        } else {
            Self::Unknown
        }
    }
}

/// Bit 0 of a number that may be anything.
fn has_reconnect(capabilities: f64) -> bool {
    (0.0..4_294_967_296.0).contains(&capabilities) && capabilities.rem_euclid(2.0) >= 1.0
}

impl Session {
    /// Asks an encoder that publishes to leave at its next keyframe and to connect again, where it has announced that
    /// it understands. `false`: it has not, and was told nothing.
    pub fn ask_to_leave(&mut self) -> bool {
        let farewell = (self.connected.as_ref())
            .filter(|_| self.is_publishing())
            .map_or(Farewell::Unknown, |connected| connected.farewell);
        match farewell {
            Farewell::Unknown => return false,
            Farewell::GoAway => self.send_control(&Message {
                kind: KIND_GO_AWAY,
                stream: 0,
                timestamp: 0,
                payload: GO_AWAY,
            }),
            Farewell::ReconnectRequest => self.send_command(
                0,
                &Command {
                    name: "onStatus".to_owned(),
                    transaction: 0.0,
                    object: Value::Null,
                    arguments: vec![status(
                        "status",
                        "NetConnection.Connect.ReconnectRequest",
                        "The relay is going to stop: connect again.",
                    )],
                },
            ),
        }
        true
    }
}

/// Of OBS alone; libobs called it "RTMP Go Away".
const KIND_GO_AWAY: u8 = 0x20;

/// Says nothing; without a body OBS takes no notice.
const GO_AWAY: Bytes = Bytes::from_static(&[0; 4]);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_announced_it_is_asked_to_leave() {
        for (announced, farewell) in [
            (Value::object([]), Farewell::Unknown),
            (Value::Null, Farewell::Unknown),
            (
                Value::object([("supportsGoAway", Value::Boolean(true))]),
                Farewell::GoAway,
            ),
            (
                Value::object([("supportsGoAway", Value::Boolean(false))]),
                Farewell::Unknown,
            ),
            (
                Value::object([("capsEx", Value::Number(3.0))]),
                Farewell::ReconnectRequest,
            ),
            (
                Value::object([("capsEx", Value::Number(14.0))]),
                Farewell::Unknown,
            ),
            (
                Value::object([("capsEx", Value::Number(f64::NAN))]),
                Farewell::Unknown,
            ),
            (
                Value::object([("capsEx", Value::Number(-1.0))]),
                Farewell::Unknown,
            ),
        ] {
            assert_eq!(Farewell::announced(&announced), farewell, "{announced:?}");
        }
    }
}

//! The control stream: the one bidirectional stream of a tunnel, opened by the connector.
//!
//! A message is a length (u32, big-endian, of what follows) and one JSON object with a `type`. Fields that a
//! receiver does not know are ignored and fields added later are optional, so both ends can be a version apart;
//! a message whose `type` is unknown is ignored too ([`Received::Unknown`]).
//!
//! Normative text: `shared/PROTOCOL.md`, "Control messages". No I/O, no clock.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::tunnel::close::Close;

/// Longest message once a connector is known: the declaration of [`LINES_MAX`] lines with names of 64 characters
/// of four bytes is 109 kB.
pub const MESSAGE_LEN_MAX: usize = 128 * 1024;

/// Longest message before the relay knows who is there.
pub const MESSAGE_LEN_MAX_UNKNOWN: usize = 4 * 1024;

/// Most lines that one connector may declare.
pub const LINES_MAX: usize = 256;

/// What a connector says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum FromConnector {
    /// Redeems a join token for the public key of this connection. Answer: `enrolled` or `refused`.
    Enrol {
        /// The token's id.
        token: String,
        /// The token's secret.
        secret: crate::secret::Secret,
        /// The name of the machine, for the relay's lists.
        #[serde(default)]
        name: String,
    },
    /// Opens the session. Answer: `welcome` or `refused`.
    Hello {
        /// Highest protocol version spoken.
        version: u32,
        /// The name of the machine, for the relay's lists.
        name: String,
        /// The program and its version, "firstmile-connector 0.1.0".
        software: String,
        /// The same for all connections of one run of the program.
        session: u64,
        /// An older connection of the same `session` still delivers: its feeds move over, each at its next keyframe.
        /// Without it the older one is closed.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        handover: bool,
    },
    /// A full snapshot of this connector's lines; it replaces the one before. Answer: `declared`.
    Declare {
        /// Grows with every change; an older one than the last is ignored.
        generation: u64,
        /// At most [`LINES_MAX`].
        lines: Vec<LineDeclaration>,
    },
    /// Which lines are on air: who sends to one that is on program is not replaced while it sends. Said when it
    /// changes; all others are off.
    Tally {
        /// Line numbers on program.
        program: Vec<u32>,
        /// Line numbers on preview.
        preview: Vec<u32>,
    },
    /// The operator gives a line to this publisher, or lifts its refusal.
    Take {
        /// The connector's line number.
        line: u32,
        /// The publisher's number, as in `claims`.
        publisher: u32,
    },
    /// The operator does not want this publisher: its connection is closed, and it is not let in when it tries again.
    Refuse {
        /// The connector's line number.
        line: u32,
        /// The publisher's number, as in `claims`.
        publisher: u32,
    },
    /// Which tracks of a line are played: the others are sent when nothing else is. Without it 0 and 0; the relay
    /// forgets it with the connection.
    Play {
        /// The connector's line number.
        line: u32,
        /// The number of the video track: played from its next keyframe on.
        video: u8,
        /// The number of the audio track.
        audio: u8,
    },
    /// The operator wants the encoder that has this line to start anew: its connection is closed, so that it comes
    /// back at live.
    Resync {
        /// The connector's line number.
        line: u32,
    },
    /// What the studio's feeds should be like, for the findings. Said after the welcome if it is set, and forgotten
    /// with the connection.
    Show {
        /// The studio's show format.
        format: ShowFormat,
    },
    /// Asks for a join token of this connector's studio, for another machine of it. Answer: `invited` or
    /// `not_invited`, in the order of the questions.
    Invite {},
    /// The connector ends on purpose.
    Bye {
        /// For the relay's log.
        reason: String,
    },
}

/// One line as the relay needs to know it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LineDeclaration {
    /// The connector's own number for the line, in units and messages about it; stable while the line lives.
    pub line: u32,
    /// "Camera 1".
    pub name: String,
    /// HMAC-SHA-256 of the normalised stream key under the studio's salt, 64 hex digits: the relay
    /// never sees the key itself here. See [`crate::secret::StreamKey::hash`].
    pub key_hash: String,
    /// A disabled line takes no publisher.
    pub enabled: bool,
    /// The studio delay of this line, milliseconds: units older than it (plus 500 ms) need not be sent.
    pub delay_ms: u32,
    /// Who wins when a second encoder uses the key: `smart`, `always` or `never`.
    #[serde(default)]
    pub takeover: Takeover,
    /// What becomes of an encoder that falls behind: `reconnect` or `accept`.
    #[serde(default, skip_serializing_if = "LagPolicy::is_default")]
    pub lag: LagPolicy,
    /// The encoder lag above which that happens, milliseconds.
    #[serde(default = "max_lag_ms", skip_serializing_if = "is_max_lag_default")]
    pub max_lag_ms: u32,
}

/// The encoder lag above which something is done about it, when nobody said otherwise: milliseconds.
pub const MAX_LAG_MS: u32 = 3_000;

const fn max_lag_ms() -> u32 {
    MAX_LAG_MS
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
const fn is_max_lag_default(ms: &u32) -> bool {
    *ms == MAX_LAG_MS
}

/// What becomes of an encoder that is further behind than its line allows and does not catch up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LagPolicy {
    /// Its connection is closed, so that it starts again at live.
    #[default]
    Reconnect,
    /// Its pictures are shown that much later from then on.
    Accept,
}

impl LagPolicy {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// What the feeds of a show should be like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShowFormat {
    /// Pixels.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// Fields instead of frames.
    #[serde(default)]
    pub interlaced: bool,
    /// Frames (fields when interlaced) per so many seconds: 30000 and 1001.
    pub rate: (u32, u32),
}

/// What happens when a second encoder uses a key that is in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Takeover {
    /// The newcomer replaces a silent publisher or its own older connection, and is held otherwise. See
    /// [`crate::takeover`].
    #[default]
    Smart,
    /// The newcomer wins, unless they fight.
    Always,
    /// The newcomer waits until the other is gone.
    Never,
}

/// What a relay says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum FromRelay {
    /// The token was good: this connector belongs to the studio now.
    Enrolled {
        /// The studio's name.
        studio: String,
        /// Where encoders find this relay: a line added next has its right address before the first session.
        #[serde(default)]
        ingest: IngestAddresses,
    },
    /// The session is open.
    Welcome {
        /// The version both will speak.
        version: u32,
        /// The studio this connector belongs to.
        studio: String,
        /// The salt of the studio's key hashes, 64 hex digits.
        salt: String,
        /// The relay's program and version.
        software: String,
        /// Where encoders find this relay.
        ingest: IngestAddresses,
    },
    /// The relay does not take this connector; it closes the connection with `close` after it.
    Refused {
        /// The close code that follows, see [`Close::from_code`].
        code: u32,
        /// One sentence for the operator: what is wrong and what to do.
        message: String,
    },
    /// The snapshot of this generation is stored.
    Declared {
        /// The generation stored.
        generation: u64,
        /// Lines that could not be taken, with the reason for the operator.
        refused: Vec<RefusedLine>,
    },
    /// A publisher's units will follow on this line.
    FeedStarted {
        /// The connector's line number.
        line: u32,
        /// The publisher's number, as in its units.
        publisher: u32,
        /// The encoder's own name ("Larix iOS/1.4"), as it sent it: escape it wherever it is shown.
        encoder: String,
        /// The encoder's address.
        peer: String,
        /// The protocol it uses, "rtmp".
        protocol: String,
        /// What the encoder called itself when it came, which is part of who it is; `encoder` may be a better name
        /// that came later. Empty: the same.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        agent: String,
    },
    /// No more units of this publisher.
    FeedEnded {
        /// The connector's line number.
        line: u32,
        /// The publisher's number.
        publisher: u32,
        /// One clause for the operator: "the encoder left", "the encoder's network was lost".
        reason: String,
    },
    /// How the publishers of this connector's lines are doing, once a second.
    FeedStatus {
        /// One entry per publisher that is shown.
        feeds: Vec<FeedReport>,
        /// Packets of the last seconds that did not arrive, of a hundred: only the sender knows.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        lost_percent: Option<f64>,
    },
    /// Who else uses the key of a line. Said when it changes; nobody does before it was said.
    Claims {
        /// The connector's line number.
        line: u32,
        /// Publishers that are held until the operator decides, or the one that is shown falls silent.
        held: Vec<Claim>,
        /// Encoders that the operator refused and that are sent away when they try again.
        #[serde(default)]
        refused: Vec<Claim>,
        /// Encoders took the line from each other again and again: only the operator changes it now.
        #[serde(default)]
        frozen: bool,
    },
    /// What a publisher sends, said when it changes. What is not carried is here by name only.
    Tracks {
        /// The connector's line number.
        line: u32,
        /// The publisher's number.
        publisher: u32,
        /// In the order in which they came.
        tracks: Vec<TrackReport>,
    },
    /// What is wrong with the feed of a line, and whose side it is. Said when it changes; nothing is before it was
    /// said, and nothing when another publisher has the line.
    Findings {
        /// The connector's line number.
        line: u32,
        /// The publisher's number.
        publisher: u32,
        /// The worst first; at most [`FINDINGS_MAX`].
        findings: Vec<Finding>,
    },
    /// Units that were dropped on purpose, in the order of `seq`: do not wait for them.
    Dropped {
        /// The connector's line number.
        line: u32,
        /// The publisher's number.
        publisher: u32,
        /// The first dropped unit's `seq`.
        from_seq: u64,
        /// The last dropped unit's `seq`.
        to_seq: u64,
        /// How many of them were video.
        video: u32,
        /// How many of them were audio. If 0, no sound in the range was dropped and every picture was; and the
        /// other way round if `video` is 0. If neither is 0, units of the range may have been sent.
        audio: u32,
        /// No other picture needs any of them: what follows can be decoded.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        disposable: bool,
        /// `late`, `full`, `needs_keyframe`, `behind`, `superseded` or `thinned`.
        reason: DropReason,
    },
    /// A join token for one more connector of the studio.
    Invited {
        /// The token's id.
        token: String,
        /// The token's secret.
        secret: crate::secret::Secret,
        /// When it ends, seconds since 1970.
        expires_unix: u64,
    },
    /// There is no join token.
    NotInvited {
        /// One sentence for the operator.
        message: String,
    },
    /// The relay takes no new publishers and will stop.
    Draining {},
}

/// Where encoders find a relay.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IngestAddresses {
    /// Public hosts, best first; empty when the relay was not told: use the host that was dialled.
    pub hosts: Vec<String>,
    /// The TCP port of RTMP, when open.
    pub rtmp_port: Option<u16>,
    /// The TCP port of RTMPS, when open.
    pub rtmps_port: Option<u16>,
    /// The hosts that the certificate of RTMPS is for, best first: an encoder that verifies connects to no other. `None`
    /// from a relay that does not say: all of them.
    #[serde(default)]
    pub rtmps_hosts: Option<Vec<String>>,
}

/// A line that the relay could not take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedLine {
    /// The connector's line number.
    pub line: u32,
    /// One sentence for the operator.
    pub message: String,
}

/// How one publisher is doing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FeedReport {
    /// The connector's line number.
    pub line: u32,
    /// The publisher's number.
    pub publisher: u32,
    /// Age at ingest, milliseconds: what the encoder and its uplink hold back.
    pub encoder_lag_ms: Option<u32>,
    /// Bits per second of the last second.
    pub bitrate_bps: Option<u64>,
    /// For how long nothing has come from the encoder although its connection is there, milliseconds, once that is more
    /// than two seconds.
    #[serde(default)]
    pub stalled_ms: Option<u32>,
    /// Publishers that hold the same key and are not shown.
    #[serde(default)]
    pub held: u32,
    /// How much later than at first everything of it is shown because its lag was accepted, milliseconds.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub accepted_lag_ms: u32,
}

/// One track of a publisher.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrackReport {
    /// Its number among those of its kind, as in its units.
    pub track: u8,
    /// `video`, `audio` or `data`.
    pub kind: String,
    /// "H.264"; a name that operators know, also of what is not carried.
    pub codec: String,
    /// Whether its units come; without it they do.
    #[serde(default = "carried", skip_serializing_if = "is_carried")]
    pub carried: bool,
}

const fn carried() -> bool {
    true
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
const fn is_carried(carried: &bool) -> bool {
    *carried
}
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
const fn is_zero(value: &u32) -> bool {
    *value == 0
}

/// Something about a feed that a person should change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What it is, for programs: `keyframe_interval`.
    pub code: String,
    /// How bad it is.
    pub severity: FindingSeverity,
    /// Where it has to be changed: "encoder" or "uplink".
    pub side: String,
    /// One sentence: what is wrong and what to set. Names that strangers gave may be in it: escape it wherever it is
    /// shown.
    pub text: String,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FindingSeverity {
    /// The feed can't be shown as it is.
    Error,
    /// It will be seen or heard on air, or keeps a fault longer than need be.
    Warning,
    /// It could be better, or is a later version's word.
    #[serde(other)]
    Note,
}

/// Most findings of one feed; the least are left out.
pub const FINDINGS_MAX: usize = 12;

/// Most characters of a finding's text.
pub const FINDING_TEXT_MAX: usize = 240;

/// An encoder that has a line's key and not the line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// The publisher's number.
    pub publisher: u32,
    /// The encoder's own name, as it sent it: escape it wherever it is shown.
    pub encoder: String,
    /// The encoder's address.
    pub peer: String,
    /// When it came, or was refused: seconds since 1970 on the relay's clock.
    pub since_unix: i64,
}

/// Why units were dropped on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum DropReason {
    /// Too old to be shown in time.
    Late,
    /// The queue's byte limit.
    Full,
    /// It refers to a unit that was dropped.
    NeedsKeyframe,
    /// Its encoder is behind: it was too old to be shown when it came in.
    Behind,
    /// A newer keyframe went instead.
    Superseded,
    /// Its line is off the air, and the link can't carry all.
    Thinned,
    /// A later version's reason.
    #[serde(other)]
    Other,
}

/// One message off the wire.
#[derive(Clone, Debug, PartialEq)]
pub enum Received<M> {
    /// A message this build knows.
    Message(M),
    /// A later version's message, to be ignored: its `type`.
    Unknown(String),
}

/// Why a control stream is broken. Every variant is fatal to the session.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// The peer declared more than it may send now.
    #[error("control message of {len} bytes exceeds the limit of {max}")]
    TooLong {
        /// The declared length.
        len: usize,
        /// The limit at this moment.
        max: usize,
    },
    /// Not a JSON object with a `type`, or a known type without its fields.
    #[error("control message is not valid")]
    Invalid(#[source] serde_json::Error),
}

impl ControlError {
    /// The close code for the peer.
    pub const fn close(&self) -> Close {
        Close::Protocol
    }
}

/// A message as bytes for the stream.
pub fn encode<M: Serialize>(message: &M) -> Bytes {
    let json = serde_json::to_vec(message).unwrap_or_default();
    let mut bytes = BytesMut::with_capacity(LENGTH_LEN + json.len());
    bytes.put_u32(u32::try_from(json.len()).unwrap_or(u32::MAX));
    bytes.put_slice(&json);
    bytes.freeze()
}

/// Splits the control stream into messages.
///
/// Feed it with [`Decoder::buffer_mut`], then drain [`Decoder::poll`] until it answers `Ok(None)`. It holds at
/// most one message of the limit plus what was read last.
#[derive(Debug)]
pub struct Decoder {
    buffer: BytesMut,
    len_max: usize,
}

impl Decoder {
    /// A decoder for a peer that may send messages of `len_max` bytes.
    pub fn new(len_max: usize) -> Self {
        Self {
            buffer: BytesMut::new(),
            len_max,
        }
    }

    /// The tail to read into.
    pub fn buffer_mut(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// Changes the limit, when the peer became known.
    pub fn set_len_max(&mut self, len_max: usize) {
        self.len_max = len_max;
    }

    /// The next whole message, or `None` when more bytes are needed.
    pub fn poll<M: DeserializeOwned>(&mut self) -> Result<Option<Received<M>>, ControlError> {
        let Some(length) = self.buffer.first_chunk::<LENGTH_LEN>() else {
            return Ok(None);
        };
        let len = u32::from_be_bytes(*length) as usize;
        if len > self.len_max {
            return Err(ControlError::TooLong {
                len,
                max: self.len_max,
            });
        }
        if self.buffer.len() < LENGTH_LEN + len {
            return Ok(None);
        }
        self.buffer.advance(LENGTH_LEN);
        let json = self.buffer.split_to(len);
        match serde_json::from_slice(&json) {
            Ok(message) => Ok(Some(Received::Message(message))),
            Err(error) => Self::unknown_type::<M>(&json, error).map(Some),
        }
    }

    /// A type that is not ours is a later version's; a type of ours that does not parse is an error.
    fn unknown_type<M>(json: &[u8], error: serde_json::Error) -> Result<Received<M>, ControlError> {
        #[derive(Deserialize)]
        struct Tagged {
            r#type: String,
        }
        match serde_json::from_slice::<Tagged>(json) {
            Ok(Tagged { r#type }) if !KNOWN_TYPES.contains(&r#type.as_str()) => {
                Ok(Received::Unknown(r#type))
            }
            _ => Err(ControlError::Invalid(error)),
        }
    }
}

const LENGTH_LEN: usize = 4;

/// Every `type` of both directions; a test holds it against the enums.
const KNOWN_TYPES: &[&str] = &[
    "enrol",
    "hello",
    "declare",
    "tally",
    "take",
    "refuse",
    "play",
    "resync",
    "show",
    "invite",
    "bye",
    "enrolled",
    "welcome",
    "refused",
    "declared",
    "feed_started",
    "feed_ended",
    "feed_status",
    "claims",
    "tracks",
    "findings",
    "dropped",
    "invited",
    "not_invited",
    "draining",
];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode_all(pieces: &[&[u8]]) -> Vec<Received<FromConnector>> {
        let mut decoder = Decoder::new(MESSAGE_LEN_MAX);
        let mut messages = Vec::new();
        for piece in pieces {
            decoder.buffer_mut().extend_from_slice(piece);
            while let Some(message) = decoder.poll().unwrap() {
                messages.push(message);
            }
        }
        messages
    }

    proptest! {
        #[test]
        fn any_split_of_the_bytes_gives_the_same_messages(
            names in prop::collection::vec(".{0,40}", 1..5),
            cut in any::<prop::sample::Index>(),
        ) {
            let messages: Vec<_> = names.iter().map(|name| FromConnector::Bye { reason: name.clone() }).collect();
            let bytes: Vec<u8> = messages.iter().flat_map(encode).collect();
            let messages: Vec<_> = messages.into_iter().map(Received::Message).collect();
            let (head, tail) = bytes.split_at(cut.index(bytes.len()));
            prop_assert_eq!(&decode_all(&[head, tail]), &messages);
            let single: Vec<&[u8]> = bytes.chunks(1).collect();
            prop_assert_eq!(decode_all(&single), messages);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), short in any::<bool>()) {
            let mut decoder = Decoder::new(MESSAGE_LEN_MAX_UNKNOWN);
            if short {
                decoder.buffer_mut().put_u32(bytes.len().try_into().unwrap());
            }
            decoder.buffer_mut().extend_from_slice(&bytes);
            while let Ok(Some(_)) = decoder.poll::<FromConnector>() {}
        }
    }

    #[test]
    fn later_versions_may_add_messages_and_fields() {
        let bytes = |json: &str| {
            let mut bytes = BytesMut::new();
            bytes.put_u32(json.len().try_into().unwrap());
            bytes.put_slice(json.as_bytes());
            bytes
        };
        // (JSON, what it is to this version)
        for (json, expected) in [
            (
                r#"{"type":"bye","reason":"x","mood":7}"#,
                Some(Received::Message(FromConnector::Bye { reason: "x".into() })),
            ),
            (
                r#"{"type":"return_picture","fps":1}"#,
                Some(Received::Unknown("return_picture".into())),
            ),
            (r#"{"type":"bye"}"#, None),
            (r#"{"reason":"x"}"#, None),
            ("[[[[", None),
        ] {
            let mut decoder = Decoder::new(MESSAGE_LEN_MAX);
            decoder.buffer_mut().extend_from_slice(&bytes(json));
            assert_eq!(
                decoder.poll::<FromConnector>().ok().flatten(),
                expected,
                "{json}"
            );
        }
    }

    #[test]
    fn a_length_over_the_limit_is_refused_before_its_bytes_come() {
        let mut decoder = Decoder::new(MESSAGE_LEN_MAX_UNKNOWN);
        decoder.buffer_mut().put_u32(5_000);
        let error = decoder.poll::<FromConnector>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "control message of 5000 bytes exceeds the limit of 4096"
        );
    }
}

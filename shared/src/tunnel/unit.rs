//! One access unit on its own unidirectional QUIC stream, from relay to connector.
//!
//! ```text
//!  0        1        2        3        4                8                12               20
//! +--------+--------+--------+--------+----------------+----------------+----------------+-------
//! | layout | flags  | codec  | track  | line (u32)     | publisher (u32)| seq (u64)      |
//! +--------+--------+--------+--------+----------------+----------------+----------------+-------
//!  20               28               36               44               48        52           56           60
//! +----------------+----------------+----------------+----------------+---------+------------+------------+--------
//! | dts_us (i64)   | ingest_us (i64)| baseline_us    | queued_us (u32)| cts_us  | config_len | payload_len| config,
//! |                |                | (i64)          |                | (i32)   | (u32)      | (u32)      | payload
//! +----------------+----------------+----------------+----------------+---------+------------+------------+--------
//! ```
//!
//! All integers are big-endian. `layout` is 1. `dts_us` and `cts_us` are on the publisher's media clock;
//! `ingest_us` and `baseline_us` are on the relay's clock (an arbitrary epoch, see [`super::clock`]);
//! `ingest_us + queued_us` is when the relay began to send it.
//! Flags: bit 0 keyframe, bit 1 disposable, bit 2 discontinuity; the others are reserved and must be zero.
//! The stream ends with the payload; a stream that is reset before is a unit that will not come.
//!
//! Normative text: `shared/PROTOCOL.md`, "Units". No I/O, no clock.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::media::{AccessUnit, Codec};

/// Bytes before the configuration and the payload.
pub const HEADER_LEN: usize = 60;

/// Largest accepted payload. A 4K intra picture at 100 Mbit/s and 25 fps averages 500 kB; 8 MiB leaves
/// 16x for a burst and bounds what one unit can make a connector hold.
pub const PAYLOAD_LEN_MAX: usize = 8 * 1024 * 1024;

/// Largest accepted decoder configuration: real ones are under 300 bytes.
pub const CONFIG_LEN_MAX: usize = 16 * 1024;

/// The longest stream a unit can be: the bound for a reader.
pub const STREAM_LEN_MAX: usize = HEADER_LEN + CONFIG_LEN_MAX + PAYLOAD_LEN_MAX;

/// An access unit with its place in a feed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    /// Which of the connector's declared lines it is for.
    pub line: u32,
    /// Which publisher of that line it came from: a new number for each encoder connection.
    pub publisher: u32,
    /// Counts every unit of this publisher from 0, also those that are dropped later: a gap is a loss.
    pub seq: u64,
    /// When the relay had the whole unit, microseconds on the relay's clock.
    pub ingest_us: i64,
    /// The publisher's lowest `ingest - dts`, microseconds: what maps its media clock to the relay's clock.
    pub baseline_us: i64,
    /// How long it waited in the relay before it was sent, microseconds: tells the relay's part of a delay from
    /// the network's. Zero until then.
    pub queued_us: u32,
    /// What the encoder sent.
    pub access_unit: AccessUnit,
}

/// Why a stream is not a unit. The stream is thrown away; the session goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UnitError {
    /// A later version of this protocol, or not this protocol.
    #[error("unit layout {layout} is not 1")]
    Layout {
        /// The first byte of the stream.
        layout: u8,
    },
    /// A flag that this version does not know.
    #[error("reserved flag bits set: {flags:#04x}")]
    ReservedFlags {
        /// The flags byte.
        flags: u8,
    },
    /// A codec that this version does not know. Nothing else is wrong with the unit.
    #[error("unknown codec {code}")]
    UnknownCodec {
        /// The codec byte.
        code: u8,
        /// The connector's line number.
        line: u32,
        /// The publisher's number.
        publisher: u32,
        /// The unit's number: it is no gap.
        seq: u64,
    },
    /// A declared length is over its limit.
    #[error("{part} of {len} bytes exceeds the limit of {max}")]
    TooLong {
        /// `"configuration"` or `"payload"`.
        part: &'static str,
        /// The declared length.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// The stream ended early, or went on after the payload.
    #[error("stream of {len} bytes, its header says {expected}")]
    Length {
        /// The bytes that came.
        len: usize,
        /// The bytes that the header (or the smallest header) calls for.
        expected: usize,
    },
}

impl Unit {
    /// The header and the configuration. The payload follows on the stream as it is, without a copy.
    ///
    /// A unit within the limits is the caller's duty: see [`Unit::check`].
    pub fn encode_head(&self) -> Bytes {
        let unit = &self.access_unit;
        let config: &[u8] = unit.config.as_deref().unwrap_or_default();
        let mut head = BytesMut::with_capacity(HEADER_LEN + config.len());
        head.put_u8(LAYOUT);
        head.put_u8(
            (u8::from(unit.keyframe) * FLAG_KEYFRAME)
                | (u8::from(unit.disposable) * FLAG_DISPOSABLE)
                | (u8::from(unit.discontinuity) * FLAG_DISCONTINUITY),
        );
        head.put_u8(unit.codec.code());
        head.put_u8(unit.track);
        head.put_u32(self.line);
        head.put_u32(self.publisher);
        head.put_u64(self.seq);
        head.put_i64(unit.dts_us);
        head.put_i64(self.ingest_us);
        head.put_i64(self.baseline_us);
        head.put_u32(self.queued_us);
        head.put_i32(unit.cts_us);
        head.put_u32(u32::try_from(config.len()).unwrap_or(u32::MAX));
        head.put_u32(u32::try_from(unit.payload.len()).unwrap_or(u32::MAX));
        head.put_slice(config);
        head.freeze()
    }

    /// Whether a peer will accept this unit: its parts are within the limits.
    pub fn check(unit: &AccessUnit) -> Result<(), UnitError> {
        within(
            "configuration",
            unit.config.as_ref().map_or(0, Bytes::len),
            CONFIG_LEN_MAX,
        )?;
        within("payload", unit.payload.len(), PAYLOAD_LEN_MAX)
    }

    /// Parses a whole stream. The payload is a view into `stream`: nothing is copied.
    pub fn decode(mut stream: Bytes) -> Result<Self, UnitError> {
        let len = stream.len();
        let Some(header) = stream.first_chunk::<HEADER_LEN>() else {
            return Err(UnitError::Length {
                len,
                expected: HEADER_LEN,
            });
        };
        let mut header = &header[..];
        let layout = header.get_u8();
        if layout != LAYOUT {
            return Err(UnitError::Layout { layout });
        }
        let flags = header.get_u8();
        if flags & !FLAGS != 0 {
            return Err(UnitError::ReservedFlags { flags });
        }
        let code = header.get_u8();
        let track = header.get_u8();
        let line = header.get_u32();
        let publisher = header.get_u32();
        let seq = header.get_u64();
        let dts_us = header.get_i64();
        let ingest_us = header.get_i64();
        let baseline_us = header.get_i64();
        let queued_us = header.get_u32();
        let cts_us = header.get_i32();
        let config_len = header.get_u32() as usize;
        let payload_len = header.get_u32() as usize;
        within("configuration", config_len, CONFIG_LEN_MAX)?;
        within("payload", payload_len, PAYLOAD_LEN_MAX)?;
        let expected = HEADER_LEN + config_len + payload_len;
        if len != expected {
            return Err(UnitError::Length { len, expected });
        }
        let codec = Codec::from_code(code).ok_or(UnitError::UnknownCodec {
            code,
            line,
            publisher,
            seq,
        })?;
        stream.advance(HEADER_LEN);
        let config = stream.split_to(config_len);
        Ok(Self {
            line,
            publisher,
            seq,
            ingest_us,
            baseline_us,
            queued_us,
            access_unit: AccessUnit {
                codec,
                track,
                keyframe: flags & FLAG_KEYFRAME != 0,
                disposable: flags & FLAG_DISPOSABLE != 0,
                discontinuity: flags & FLAG_DISCONTINUITY != 0,
                dts_us,
                cts_us,
                config: (!config.is_empty()).then_some(config),
                payload: stream,
            },
        })
    }
}

fn within(part: &'static str, len: usize, max: usize) -> Result<(), UnitError> {
    if len > max {
        return Err(UnitError::TooLong { part, len, max });
    }
    Ok(())
}

const LAYOUT: u8 = 1;
const FLAG_KEYFRAME: u8 = 0x01;
const FLAG_DISPOSABLE: u8 = 0x02;
const FLAG_DISCONTINUITY: u8 = 0x04;
const FLAGS: u8 = FLAG_KEYFRAME | FLAG_DISPOSABLE | FLAG_DISCONTINUITY;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_unit() -> impl Strategy<Value = Unit> {
        (
            (
                any::<u32>(),
                any::<u32>(),
                any::<u64>(),
                any::<i64>(),
                any::<i64>(),
                any::<u32>(),
            ),
            (
                0..Codec::ALL.len(),
                any::<u8>(),
                any::<[bool; 3]>(),
                any::<i64>(),
                any::<i32>(),
            ),
            prop::collection::vec(any::<u8>(), 0..40),
            prop::collection::vec(any::<u8>(), 0..300),
        )
            .prop_map(
                |(
                    (line, publisher, seq, ingest_us, baseline_us, queued_us),
                    (codec, track, flags, dts_us, cts_us),
                    config,
                    payload,
                )| Unit {
                    line,
                    publisher,
                    seq,
                    ingest_us,
                    baseline_us,
                    queued_us,
                    access_unit: AccessUnit {
                        codec: Codec::ALL[codec],
                        track,
                        keyframe: flags[0],
                        disposable: flags[1],
                        discontinuity: flags[2],
                        dts_us,
                        cts_us,
                        config: (!config.is_empty()).then(|| config.into()),
                        payload: payload.into(),
                    },
                },
            )
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(unit in any_unit()) {
            let mut stream = BytesMut::from(&unit.encode_head()[..]);
            stream.extend_from_slice(&unit.access_unit.payload);
            prop_assert_eq!(Unit::decode(stream.freeze()), Ok(unit));
        }

        /// A stream cut short or with a tail is refused: a unit is whole or not at all.
        #[test]
        fn a_stream_of_the_wrong_length_is_refused(unit in any_unit(), cut in any::<prop::sample::Index>(), tail in 1..9usize) {
            let mut stream = BytesMut::from(&unit.encode_head()[..]);
            stream.extend_from_slice(&unit.access_unit.payload);
            let short = stream.clone().freeze().slice(..cut.index(stream.len()));
            let is_length_error = matches!(Unit::decode(short), Err(UnitError::Length { .. }));
            prop_assert!(is_length_error);
            stream.extend_from_slice(&vec![0; tail]);
            let is_length_error = matches!(Unit::decode(stream.freeze()), Err(UnitError::Length { .. }));
            prop_assert!(is_length_error);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), valid_start in any::<bool>()) {
            let mut bytes = bytes;
            if valid_start && bytes.len() > 3 {
                bytes[..3].copy_from_slice(&[LAYOUT, FLAG_KEYFRAME, Codec::H264.code()]);
            }
            drop(Unit::decode(bytes.into()));
        }
    }

    #[test]
    fn limits_and_reserved_values_are_named() {
        let unit = Unit {
            line: 1,
            publisher: 1,
            seq: 0,
            ingest_us: 0,
            baseline_us: 0,
            queued_us: 0,
            access_unit: AccessUnit {
                codec: Codec::H264,
                track: 0,
                keyframe: true,
                disposable: false,
                discontinuity: false,
                dts_us: 0,
                cts_us: 0,
                config: None,
                payload: Bytes::new(),
            },
        };
        let head = unit.encode_head();
        // (offset, value put there, error)
        for (offset, value, error) in [
            (0, 2, "unit layout 2 is not 1"),
            (1, 0x81, "reserved flag bits set: 0x81"),
            (2, 99, "unknown codec 99"),
            (
                52,
                0x7f,
                "configuration of 2130706432 bytes exceeds the limit of 16384",
            ),
            (
                56,
                0x7f,
                "payload of 2130706432 bytes exceeds the limit of 8388608",
            ),
        ] {
            let mut bytes = BytesMut::from(&head[..]);
            bytes[offset] = value;
            assert_eq!(Unit::decode(bytes.freeze()).unwrap_err().to_string(), error);
        }
    }
}

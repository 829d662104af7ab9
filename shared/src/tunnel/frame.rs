//! The tunnel on one byte stream: frames, for TCP with TLS where UDP does not get through.
//!
//! ```text
//!  0        1        2                 4                                   8
//! +--------+--------+-----------------+-----------------------------------+----------------
//! | kind   | zero   | length (u16)    | unit (u32)                        | `length` bytes
//! +--------+--------+-----------------+-----------------------------------+----------------
//! ```
//!
//! Integers are big-endian. What QUIC carries on streams and in datagrams is here cut into frames of one TLS record at
//! most, so that sound can pass a keyframe that is under way: the bytes of the control stream, the datagrams of the
//! clock, and units in parts. `unit` counts the units from 0, by one, and is zero in all other frames.
//!
//! Everything that is not as described is an error, and the end of the connection: both ends are told which version they
//! speak before (ALPN, `hello`), so there is nothing here to be passed over.
//!
//! Normative text: `shared/PROTOCOL.md`, "Over TCP". No I/O, no clock.

use std::collections::BTreeMap;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{
    close::Close,
    unit::{HEADER_LEN as UNIT_HEADER_LEN, STREAM_LEN_MAX},
};

/// Bytes before the body.
pub const HEADER_LEN: usize = 8;

/// The longest body: with the header one TLS record.
pub const BODY_LEN_MAX: usize = 16 * 1024 - HEADER_LEN;

/// Units that may be under way at once. A sender begins one of each class and finishes it before the next of its class.
pub const UNITS_OPEN_MAX: usize = 64;

/// What units that are under way may hold together.
pub const UNITS_BYTES_MAX: usize = 64 * 1024 * 1024;

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// The next bytes of the control stream.
    Control(Bytes),
    /// What is a datagram on QUIC: a ping or a pong.
    Datagram(Bytes),
    /// The next bytes of a unit.
    Part {
        /// Its number on this connection.
        unit: u32,
        /// No more follow.
        is_last: bool,
        /// As on a QUIC stream: head, configuration, payload.
        bytes: Bytes,
    },
    /// No more comes of a unit that was begun: as a stream's reset.
    GiveUp {
        /// Its number on this connection.
        unit: u32,
        /// See [`super::close::Reset`].
        code: u32,
    },
    /// The connection ends: as QUIC's `CONNECTION_CLOSE` with an application code.
    Close {
        /// See [`Close`].
        code: u32,
        /// For the operator; at most [`SENTENCE_LEN_MAX`] bytes count.
        sentence: Bytes,
    },
}

/// Why bytes are not frames, or frames make no sense. The connection ends with [`Close::Protocol`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// Not one of this version.
    #[error("unknown frame kind {kind}")]
    Kind {
        /// The first byte.
        kind: u8,
    },
    /// The second byte, or the number where there is no unit.
    #[error("reserved bits of a frame are set")]
    Reserved,
    /// A body that is longer than any, or not as long as its kind is.
    #[error("a frame of kind {kind} has a body of {len} bytes")]
    Length {
        /// The first byte.
        kind: u8,
        /// As declared.
        len: usize,
    },
    /// A unit that is not the next one, or one that is over.
    #[error("frames out of order: unit {unit}, next is {next}")]
    Order {
        /// The frame's.
        unit: u32,
        /// The one that would be begun next.
        next: u32,
    },
    /// More units under way than any sender has.
    #[error("more than {UNITS_OPEN_MAX} units under way")]
    TooMany,
}

impl FrameError {
    /// What the peer is told.
    pub const fn close(self) -> Close {
        Close::Protocol
    }
}

impl Frame {
    /// Appends the frame to `out`. A body over [`BODY_LEN_MAX`] is the caller's mistake, and cut.
    pub fn encode(&self, out: &mut BytesMut) {
        match self {
            Self::Control(bytes) => put(out, KIND_CONTROL, 0, bytes),
            Self::Datagram(bytes) => put(out, KIND_DATAGRAM, 0, bytes),
            Self::Part {
                unit,
                is_last,
                bytes,
            } => {
                let kind = if *is_last { KIND_LAST } else { KIND_PART };
                put(out, kind, *unit, bytes);
            }
            Self::GiveUp { unit, code } => put(out, KIND_GIVE_UP, *unit, &code.to_be_bytes()),
            Self::Close { code, sentence } => {
                let sentence = &sentence[..sentence.len().min(SENTENCE_LEN_MAX)];
                put(
                    out,
                    KIND_CLOSE,
                    0,
                    &[&code.to_be_bytes()[..], sentence].concat(),
                );
            }
        }
    }
}

fn put(out: &mut BytesMut, kind: u8, unit: u32, body: &[u8]) {
    let body = &body[..body.len().min(BODY_LEN_MAX)];
    out.reserve(HEADER_LEN + body.len());
    out.put_u8(kind);
    out.put_u8(0);
    out.put_u16(u16::try_from(body.len()).unwrap_or(u16::MAX));
    out.put_u32(unit);
    out.put_slice(body);
}

/// Bytes in, frames out.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: BytesMut,
}

impl Decoder {
    /// Where received bytes are appended. It holds one frame and what was read with it: poll before reading on.
    pub const fn buffer_mut(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// Whether the bytes end within a frame.
    pub fn is_within_frame(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// The next frame, or `None` until more bytes came. A frame's header is checked before its body is waited for.
    pub fn poll(&mut self) -> Result<Option<Frame>, FrameError> {
        let Some(header) = self.buffer.first_chunk::<HEADER_LEN>() else {
            return Ok(None);
        };
        let mut header = &header[..];
        let kind = header.get_u8();
        let zero = header.get_u8();
        let len = usize::from(header.get_u16());
        let unit = header.get_u32();
        let (min, max) = match kind {
            KIND_CONTROL | KIND_DATAGRAM | KIND_PART => (1, BODY_LEN_MAX),
            KIND_LAST => (0, BODY_LEN_MAX),
            KIND_GIVE_UP => (4, 4),
            KIND_CLOSE => (4, 4 + SENTENCE_LEN_MAX),
            _ => return Err(FrameError::Kind { kind }),
        };
        let is_of_unit = matches!(kind, KIND_PART | KIND_LAST | KIND_GIVE_UP);
        if zero != 0 || !is_of_unit && unit != 0 {
            return Err(FrameError::Reserved);
        }
        if !(min..=max).contains(&len) {
            return Err(FrameError::Length { kind, len });
        }
        if self.buffer.len() < HEADER_LEN + len {
            return Ok(None);
        }
        self.buffer.advance(HEADER_LEN);
        let mut body = self.buffer.split_to(len).freeze();
        Ok(Some(match kind {
            KIND_CONTROL => Frame::Control(body),
            KIND_DATAGRAM => Frame::Datagram(body),
            KIND_GIVE_UP => Frame::GiveUp {
                unit,
                code: body.get_u32(),
            },
            KIND_CLOSE => Frame::Close {
                code: body.get_u32(),
                sentence: body,
            },
            _ => Frame::Part {
                unit,
                is_last: kind == KIND_LAST,
                bytes: body,
            },
        }))
    }
}

/// Puts units together from their parts; the receiver's half. What it holds is bounded.
#[derive(Debug, Default)]
pub struct Assembly {
    open: BTreeMap<u32, Partial>,
    next: u32,
    bytes: usize,
}

#[derive(Debug)]
enum Partial {
    Collected(BytesMut),
    /// It can't be a unit, or there was no room: the rest of it is thrown away.
    Spoiled(Spoiled),
}

/// Why a unit that was sent is not there. The connection goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Spoiled {
    /// Longer than a unit can be.
    #[error("more than {STREAM_LEN_MAX} bytes")]
    TooLong,
    /// All that unfinished units may hold is held.
    #[error("unfinished units hold {UNITS_BYTES_MAX} bytes already")]
    Full,
}

impl Assembly {
    /// Takes a part in; the answer is the whole unit's bytes, when this was its last.
    pub fn part(
        &mut self,
        unit: u32,
        is_last: bool,
        bytes: &[u8],
    ) -> Result<Option<Result<Bytes, Spoiled>>, FrameError> {
        if !self.open.contains_key(&unit) {
            self.begin(unit)?;
        }
        let Some(partial) = self.open.get_mut(&unit) else {
            return Ok(None);
        };
        if let Partial::Collected(collected) = partial {
            let spoiled = if collected.len() + bytes.len() > STREAM_LEN_MAX {
                Some(Spoiled::TooLong)
            } else if self.bytes + bytes.len() > UNITS_BYTES_MAX {
                Some(Spoiled::Full)
            } else {
                None
            };
            if let Some(spoiled) = spoiled {
                self.bytes -= collected.len();
                *partial = Partial::Spoiled(spoiled);
            } else {
                if collected.is_empty() && !is_last {
                    collected.reserve(UNIT_HEADER_LEN.max(bytes.len()) * 2);
                }
                self.bytes += bytes.len();
                collected.extend_from_slice(bytes);
            }
        }
        if !is_last {
            return Ok(None);
        }
        Ok(self.open.remove(&unit).map(|partial| match partial {
            Partial::Collected(collected) => {
                self.bytes -= collected.len();
                Ok(collected.freeze())
            }
            Partial::Spoiled(spoiled) => Err(spoiled),
        }))
    }

    /// The sender gave a unit up that it had begun.
    pub fn give_up(&mut self, unit: u32) -> Result<(), FrameError> {
        let partial = self.open.remove(&unit).ok_or(FrameError::Order {
            unit,
            next: self.next,
        })?;
        if let Partial::Collected(collected) = partial {
            self.bytes -= collected.len();
        }
        Ok(())
    }

    /// Bytes of units that are under way.
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    fn begin(&mut self, unit: u32) -> Result<(), FrameError> {
        if unit != self.next {
            return Err(FrameError::Order {
                unit,
                next: self.next,
            });
        }
        if self.open.len() >= UNITS_OPEN_MAX {
            return Err(FrameError::TooMany);
        }
        // A day of 50 000 units a second, and round again.
        self.next = self.next.wrapping_add(1);
        self.open.insert(unit, Partial::Collected(BytesMut::new()));
        Ok(())
    }
}

/// The longest sentence of [`Frame::Close`].
pub const SENTENCE_LEN_MAX: usize = 400;

const KIND_CONTROL: u8 = 1;
const KIND_DATAGRAM: u8 = 2;
const KIND_PART: u8 = 3;
const KIND_LAST: u8 = 4;
const KIND_GIVE_UP: u8 = 5;
const KIND_CLOSE: u8 = 6;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode(bytes: &[u8]) -> Result<Vec<Frame>, FrameError> {
        let mut decoder = Decoder::default();
        decoder.buffer_mut().extend_from_slice(bytes);
        let mut frames = Vec::new();
        while let Some(frame) = decoder.poll()? {
            frames.push(frame);
        }
        Ok(frames)
    }

    fn any_frame() -> impl Strategy<Value = Frame> {
        let bytes = prop::collection::vec(any::<u8>(), 1..300).prop_map(Bytes::from);
        (0..5, any::<u32>(), any::<bool>(), any::<u32>(), bytes).prop_map(
            |(kind, unit, is_last, code, bytes)| match kind {
                0 => Frame::Control(bytes),
                1 => Frame::Datagram(bytes),
                2 => Frame::Part {
                    unit,
                    is_last,
                    bytes,
                },
                3 => Frame::GiveUp { unit, code },
                _ => Frame::Close {
                    code,
                    sentence: bytes,
                },
            },
        )
    }

    proptest! {
        /// However the network cuts them.
        #[test]
        fn what_is_encoded_is_decoded(frames in prop::collection::vec(any_frame(), 0..8), cut in 1..64usize) {
            let mut bytes = BytesMut::new();
            for frame in &frames {
                frame.encode(&mut bytes);
            }
            let mut decoder = Decoder::default();
            let mut got = Vec::new();
            for piece in bytes.chunks(cut) {
                decoder.buffer_mut().extend_from_slice(piece);
                while let Some(frame) = decoder.poll().unwrap() {
                    got.push(frame);
                }
            }
            prop_assert!(!decoder.is_within_frame());
            prop_assert_eq!(got, frames);
        }

        #[test]
        fn arbitrary_bytes_never_panic_and_hold_no_more_than_they_brought(bytes in prop::collection::vec(any::<u8>(), 0..400), kinds in any::<bool>()) {
            let mut bytes = bytes;
            if kinds {
                for start in (0..bytes.len().saturating_sub(8)).step_by(12) {
                    let header = [bytes[start] % 7, 0, 0, 4, 0, 0, 0, bytes[start + 7] % 3];
                    bytes[start..start + 8].copy_from_slice(&header);
                }
            }
            let mut assembly = Assembly::default();
            for frame in decode(&bytes).unwrap_or_default() {
                match frame {
                    Frame::Part { unit, is_last, bytes } => drop(assembly.part(unit, is_last, &bytes)),
                    Frame::GiveUp { unit, .. } => drop(assembly.give_up(unit)),
                    _ => {}
                }
            }
            prop_assert!(assembly.bytes() <= bytes.len());
        }
    }

    #[test]
    fn what_is_no_frame_is_named_before_its_body_is_waited_for() {
        // (header, error)
        for (header, error) in [
            ([0, 0, 0, 1, 0, 0, 0, 0], "unknown frame kind 0"),
            ([7, 0, 0, 1, 0, 0, 0, 0], "unknown frame kind 7"),
            // TLS within TLS, HTTP: somebody at the wrong port of a forwarder.
            ([0x16, 3, 1, 0, 0, 0, 0, 0], "unknown frame kind 22"),
            (*b"GET / HT", "unknown frame kind 71"),
            ([1, 1, 0, 1, 0, 0, 0, 0], "reserved bits of a frame are set"),
            ([1, 0, 0, 1, 0, 0, 0, 1], "reserved bits of a frame are set"),
            (
                [1, 0, 0, 0, 0, 0, 0, 0],
                "a frame of kind 1 has a body of 0 bytes",
            ),
            (
                [3, 0, 0x3f, 0xf9, 0, 0, 0, 0],
                "a frame of kind 3 has a body of 16377 bytes",
            ),
            (
                [5, 0, 0, 3, 0, 0, 0, 0],
                "a frame of kind 5 has a body of 3 bytes",
            ),
            (
                [6, 0, 1, 0x95, 0, 0, 0, 0],
                "a frame of kind 6 has a body of 405 bytes",
            ),
        ] {
            let refused = decode(&header).unwrap_err();
            assert_eq!(refused.to_string(), error, "{header:?}");
            assert_eq!(refused.close(), Close::Protocol);
        }
    }

    #[test]
    fn units_come_whole_though_another_passes_them() {
        let mut assembly = Assembly::default();
        assert_eq!(assembly.part(0, false, b"key"), Ok(None));
        assert_eq!(
            assembly.part(1, true, b"sound"),
            Ok(Some(Ok(Bytes::from_static(b"sound"))))
        );
        assert_eq!(
            assembly.part(0, true, b"frame"),
            Ok(Some(Ok(Bytes::from_static(b"keyframe"))))
        );
        assert_eq!(assembly.part(2, false, b"late"), Ok(None));
        assert_eq!(assembly.give_up(2), Ok(()));
        assert_eq!(assembly.part(3, true, b""), Ok(Some(Ok(Bytes::new()))));
        assert_eq!(assembly.bytes(), 0);
    }

    #[test]
    fn units_out_of_order_are_an_error() {
        let order = |unit, next| FrameError::Order { unit, next };
        let mut assembly = Assembly::default();
        assert_eq!(assembly.part(1, true, b"x"), Err(order(1, 0)));
        assembly.part(0, true, b"x").unwrap();
        assert_eq!(assembly.part(0, true, b"x"), Err(order(0, 1)), "it is over");
        assert_eq!(assembly.give_up(0), Err(order(0, 1)));
        assert_eq!(assembly.give_up(1), Err(order(1, 1)), "it was never begun");
    }

    #[test]
    fn units_that_never_end_cost_no_more_than_the_bounds() {
        let part = vec![0; BODY_LEN_MAX];
        let mut assembly = Assembly::default();
        // One that is too long is thrown away, and the connection goes on.
        let mut sent = 0;
        while sent <= STREAM_LEN_MAX {
            assert_eq!(assembly.part(0, false, &part), Ok(None));
            sent += part.len();
        }
        assert_eq!(assembly.bytes(), 0);
        assert_eq!(assembly.part(0, true, b""), Ok(Some(Err(Spoiled::TooLong))));
        // All together too, however they are spread.
        for unit in 1..=64 {
            for _ in 0..100 {
                assembly.part(unit, false, &part).unwrap();
                assert!(assembly.bytes() <= UNITS_BYTES_MAX);
            }
        }
        assert_eq!(assembly.part(64, true, b""), Ok(Some(Err(Spoiled::Full))));
        assembly.part(65, false, b"x").unwrap();
        assert_eq!(assembly.part(66, false, b"x"), Err(FrameError::TooMany));
        for unit in (1..=63).chain([65]) {
            assembly.give_up(unit).unwrap();
        }
        assert_eq!(assembly.bytes(), 0);
    }
}

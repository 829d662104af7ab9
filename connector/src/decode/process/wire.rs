//! What a line and its decoder's process say to each other. Pure.
//!
//! ```text
//! length of what follows (u32) | kind (u8) | body
//! ```
//! All integers are big-endian. Both ends are of one build, so there are no versions. The line asks, the process
//! answers with any number of pictures and blocks of sound and then `Done`. A picture's pixels are in the shared memory,
//! from its start; before it writes a second one for the same request the process asks for room, and waits.
//!
//! The process reads what its parent says; the parent reads what a process says that a stranger may have taken over:
//! [`ReplyReader`] is written for that, with limits before allocation.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use firstmile_shared::media::{Codec, MediaKind};

use crate::{
    decode::{CodedUnit, DecodeError, DecodedSound, ffmpeg::PictureHead},
    output::{FrameRate, Sound},
};

/// What the line says.
#[derive(Clone, Debug)]
pub(super) enum Request {
    /// The first word: nothing larger than so many pixels.
    Setup {
        max_pixels: u32,
    },
    Unit(CodedUnit),
    /// Give out what a track holds, and forget it.
    Finish(MediaKind),
    /// The pictures so far were copied.
    Room,
}

/// What the process says.
#[derive(Debug)]
pub(super) enum Reply {
    /// It can decode now. `is_confined`: the system lets it do nothing else.
    Ready {
        is_confined: bool,
    },
    Picture(PictureHead),
    Sound(DecodedSound),
    NeedRoom,
    /// The request is done with, so or so.
    Done(Result<(), DecodeError>),
}

/// What a process says that can't be. Its line starts another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(super) enum WireError {
    #[error("a message of {len} bytes")]
    Length { len: usize },
    #[error("a message of kind {kind} that can't be read")]
    Message { kind: u8 },
    #[error("a picture that can't be")]
    Picture,
    #[error("a word out of turn")]
    OutOfTurn,
    #[error("more pictures than a unit can give")]
    TooMany,
}

pub(super) fn put_setup(out: &mut Vec<u8>, max_pixels: u32) {
    frame(out, SETUP, |out| out.put_u32(max_pixels));
}

/// A unit's payload is at most what the tunnel takes, 8 MiB.
pub(super) fn put_unit(out: &mut Vec<u8>, unit: &CodedUnit) {
    let config = unit.config.as_deref();
    frame(out, UNIT, |out| {
        out.put_u8(unit.codec.code());
        out.put_i64(unit.pts_us);
        out.put_u8(u8::from(config.is_some()));
        out.put_u32(len_u32(config.unwrap_or_default()));
        out.put_slice(config.unwrap_or_default());
        out.put_slice(&unit.payload);
    });
}

pub(super) fn put_finish(out: &mut Vec<u8>, kind: MediaKind) {
    frame(out, FINISH, |out| {
        out.put_u8(u8::from(kind == MediaKind::Audio));
    });
}

pub(super) fn put_room(out: &mut Vec<u8>) {
    frame(out, ROOM, |_| {});
}

pub(super) fn put_ready(out: &mut Vec<u8>, is_confined: bool) {
    frame(out, READY, |out| out.put_u8(u8::from(is_confined)));
}

pub(super) fn put_picture(out: &mut Vec<u8>, head: &PictureHead) {
    frame(out, PICTURE, |out| {
        let rate = head.declared_rate;
        out.put_i64(head.pts_us);
        out.put_u32(head.width);
        out.put_u32(head.height);
        out.put_f32(head.aspect);
        out.put_u32(rate.map_or(0, |rate| rate.numerator));
        out.put_u32(rate.map_or(0, |rate| rate.denominator));
        out.put_u8(u8::from(head.damaged));
    });
}

pub(super) fn put_sound(out: &mut Vec<u8>, sound: &DecodedSound) {
    frame(out, SOUND, |out| {
        out.put_i64(sound.pts_us);
        out.put_u32(sound.source_rate);
        out.put_u8(u8::try_from(sound.sound.channels()).unwrap_or(u8::MAX));
        for sample in sound.sound.samples() {
            out.put_f32(*sample);
        }
    });
}

pub(super) fn put_need_room(out: &mut Vec<u8>) {
    frame(out, NEED_ROOM, |_| {});
}

pub(super) fn put_done(out: &mut Vec<u8>, result: &Result<(), DecodeError>) {
    let (code, codec, text) = match result {
        Ok(()) => (0, None, ""),
        Err(DecodeError::NoDecoder { codec }) => (1, Some(*codec), ""),
        Err(DecodeError::NoConfig { codec }) => (2, Some(*codec), ""),
        Err(DecodeError::Config { codec, reason }) => (3, Some(*codec), reason.as_str()),
        Err(DecodeError::Data { codec, reason }) => (4, Some(*codec), reason.as_str()),
        Err(DecodeError::Convert { what, reason }) => (
            if *what == PICTURE_WORD { 5 } else { 6 },
            None,
            reason.as_str(),
        ),
        // The others are never made there.
        Err(DecodeError::Memory | DecodeError::TooLarge { .. } | DecodeError::Lost { .. }) => {
            (7, None, "")
        }
    };
    frame(out, DONE, |out| {
        out.put_u8(code);
        out.put_u8(codec.map_or(0, Codec::code));
        out.put_slice(text.as_bytes());
    });
}

fn frame(out: &mut Vec<u8>, kind: u8, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.put_u32(0);
    out.put_u8(kind);
    body(out);
    let len = len_u32(out.get(start + LENGTH_LEN..).unwrap_or_default());
    if let Some(place) = out.get_mut(start..start + LENGTH_LEN) {
        place.copy_from_slice(&len.to_be_bytes());
    }
}

/// Units and configurations are bounded far below.
fn len_u32(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

/// Cuts a stream of bytes into messages of at most `MAX` bytes each.
#[derive(Debug, Default)]
struct Messages<const MAX: usize> {
    buffer: BytesMut,
}

impl<const MAX: usize> Messages<MAX> {
    fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole message: its kind and its body.
    fn poll(&mut self) -> Result<Option<(u8, Bytes)>, WireError> {
        let Some(length) = self.buffer.first_chunk::<LENGTH_LEN>() else {
            return Ok(None);
        };
        let len = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        if !(1..=MAX).contains(&len) {
            return Err(WireError::Length { len });
        }
        if self.buffer.len() < LENGTH_LEN + len {
            return Ok(None);
        }
        self.buffer.advance(LENGTH_LEN);
        let mut message = self.buffer.split_to(len).freeze();
        let kind = message.get_u8();
        Ok(Some((kind, message)))
    }
}

/// Reads what the line says. `push` what was read, then `poll` until `None`.
#[derive(Debug, Default)]
pub(super) struct RequestReader {
    messages: Messages<REQUEST_LEN_MAX>,
}

impl RequestReader {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.messages.push(bytes);
    }

    pub(super) fn poll(&mut self) -> Result<Option<Request>, WireError> {
        let Some((kind, body)) = self.messages.poll()? else {
            return Ok(None);
        };
        let request = read_request(kind, body).ok_or(WireError::Message { kind })?;
        Ok(Some(request))
    }
}

/// Reads what a process says. `push` what was read, then `poll` until `None`.
#[derive(Debug, Default)]
pub(super) struct ReplyReader {
    messages: Messages<REPLY_LEN_MAX>,
}

impl ReplyReader {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.messages.push(bytes);
    }

    pub(super) fn poll(&mut self) -> Result<Option<Reply>, WireError> {
        let Some((kind, body)) = self.messages.poll()? else {
            return Ok(None);
        };
        let reply = read_reply(kind, body).ok_or(WireError::Message { kind })?;
        Ok(Some(reply))
    }
}

fn read_request(kind: u8, mut body: Bytes) -> Option<Request> {
    Some(match kind {
        SETUP => Request::Setup {
            max_pixels: body.try_get_u32().ok()?,
        },
        UNIT => {
            let codec = Codec::from_code(body.try_get_u8().ok()?)?;
            let pts_us = body.try_get_i64().ok()?;
            let has_config = body.try_get_u8().ok()? != 0;
            let config_len = usize::try_from(body.try_get_u32().ok()?).ok()?;
            if config_len > body.len() {
                return None;
            }
            let config = body.split_to(config_len);
            Request::Unit(CodedUnit {
                codec,
                config: has_config.then_some(config),
                payload: body,
                pts_us,
            })
        }
        FINISH => Request::Finish(match body.try_get_u8().ok()? {
            0 => MediaKind::Video,
            _ => MediaKind::Audio,
        }),
        ROOM => Request::Room,
        _ => return None,
    })
}

fn read_reply(kind: u8, mut body: Bytes) -> Option<Reply> {
    Some(match kind {
        READY => Reply::Ready {
            is_confined: body.try_get_u8().ok()? != 0,
        },
        PICTURE => {
            let head = PictureHead {
                pts_us: body.try_get_i64().ok()?,
                width: body.try_get_u32().ok()?,
                height: body.try_get_u32().ok()?,
                aspect: body.try_get_f32().ok()?,
                declared_rate: read_rate(body.try_get_u32().ok()?, body.try_get_u32().ok()?),
                damaged: body.try_get_u8().ok()? != 0,
            };
            body.is_empty().then_some(Reply::Picture(head))?
        }
        SOUND => {
            let pts_us = body.try_get_i64().ok()?;
            let source_rate = body.try_get_u32().ok()?;
            let channels = usize::from(body.try_get_u8().ok()?);
            if !(1..=CHANNELS_MAX).contains(&channels) || !body.len().is_multiple_of(SAMPLE_LEN) {
                return None;
            }
            let samples = (body.chunks_exact(SAMPLE_LEN))
                .map(|mut sample| audible(sample.get_f32()))
                .collect();
            Reply::Sound(DecodedSound {
                pts_us,
                sound: Sound::planar(channels, samples),
                source_rate,
            })
        }
        NEED_ROOM => Reply::NeedRoom,
        DONE => {
            let code = body.try_get_u8().ok()?;
            let codec = body.try_get_u8().ok()?;
            Reply::Done(read_result(code, Codec::from_code(codec), &body)?)
        }
        _ => return None,
    })
}

fn read_result(code: u8, codec: Option<Codec>, text: &[u8]) -> Option<Result<(), DecodeError>> {
    let reason = printable(text);
    Some(Err(match code {
        0 => return Some(Ok(())),
        1 => DecodeError::NoDecoder { codec: codec? },
        2 => DecodeError::NoConfig { codec: codec? },
        3 => DecodeError::Config {
            codec: codec?,
            reason,
        },
        4 => DecodeError::Data {
            codec: codec?,
            reason,
        },
        5 => DecodeError::Convert {
            what: PICTURE_WORD,
            reason,
        },
        6 => DecodeError::Convert {
            what: "sound",
            reason,
        },
        7 => DecodeError::Memory,
        _ => return None,
    }))
}

/// What a stream declares, within reason; anything else is as good as no word of it.
fn read_rate(numerator: u32, denominator: u32) -> Option<FrameRate> {
    FrameRate::nominal(f64::from(numerator) / f64::from(denominator))
}

/// No sample can hurt an ear or a receiver's arithmetic more than the loudest that an encoder makes.
fn audible(sample: f32) -> f32 {
    if sample.is_finite() {
        sample.clamp(-SAMPLE_MAX, SAMPLE_MAX)
    } else {
        0.0
    }
}

/// Fit for a status line and a log, whoever wrote it.
fn printable(text: &[u8]) -> String {
    (text.iter().map(|byte| char::from(*byte)))
        .filter(|c| c.is_ascii_graphic() || *c == ' ')
        .take(REASON_CHARS_MAX)
        .collect()
}

const SETUP: u8 = 1;
const UNIT: u8 = 2;
const FINISH: u8 = 3;
const ROOM: u8 = 4;
const READY: u8 = 65;
const PICTURE: u8 = 66;
const SOUND: u8 = 67;
const NEED_ROOM: u8 = 68;
const DONE: u8 = 69;

const LENGTH_LEN: usize = 4;
const SAMPLE_LEN: usize = 4;
const PICTURE_WORD: &str = "picture";

/// A unit of the tunnel with its configuration, 8 MiB and 64 KiB, with room.
const REQUEST_LEN_MAX: usize = 9 * 1024 * 1024;

/// A second of eight channels; a block of sound has a twentieth of that.
const REPLY_LEN_MAX: usize = 2 * 1024 * 1024;

/// As many as the resampler takes.
const CHANNELS_MAX: usize = 16;

/// +18 dB over full scale.
const SAMPLE_MAX: f32 = 8.0;

const REASON_CHARS_MAX: usize = 160;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// One of each.
    fn said() -> Vec<u8> {
        let mut out = Vec::new();
        put_ready(&mut out, true);
        put_picture(
            &mut out,
            &PictureHead {
                pts_us: -5,
                width: 1920,
                height: 1080,
                aspect: 16.0 / 9.0,
                declared_rate: Some(FrameRate::new(30_000, 1_001)),
                damaged: true,
            },
        );
        put_need_room(&mut out);
        put_sound(
            &mut out,
            &DecodedSound {
                pts_us: 7,
                sound: Sound::planar(2, vec![0.5, -0.5, f32::NAN, 1e9]),
                source_rate: 44_100,
            },
        );
        for result in [
            Ok(()),
            Err(DecodeError::NoDecoder { codec: Codec::Av1 }),
            Err(DecodeError::NoConfig { codec: Codec::Aac }),
            Err(DecodeError::Data {
                codec: Codec::H264,
                reason: "Invalid\x1b[2J data\n".to_owned(),
            }),
            Err(DecodeError::Convert {
                what: "sound",
                reason: "0 channels".to_owned(),
            }),
            Err(DecodeError::Memory),
        ] {
            put_done(&mut out, &result);
        }
        out
    }

    fn read(reader: &mut ReplyReader, into: &mut Vec<String>) -> Result<(), WireError> {
        while let Some(reply) = reader.poll()? {
            into.push(format!("{reply:?}"));
        }
        Ok(())
    }

    #[test]
    fn replies_come_back_as_they_were_said_but_for_what_could_do_harm() {
        let mut reader = ReplyReader::default();
        reader.push(&said());
        let mut replies = Vec::new();
        read(&mut reader, &mut replies).unwrap();
        assert_eq!(replies.len(), 10);
        assert!(replies[1].contains("pts_us: -5, width: 1920, height: 1080"));
        assert!(replies[1].contains("numerator: 30000"), "{}", replies[1]);
        assert!(
            replies[3].contains("channels: 2, frames: 2"),
            "{}",
            replies[3]
        );
        assert!(replies[4].contains("Done(Ok(()))"));
        assert!(replies[7].contains("Invalid[2J data\""), "{}", replies[7]);
        let mut reader = ReplyReader::default();
        let mut sound = Vec::new();
        put_sound(
            &mut sound,
            &DecodedSound {
                pts_us: 0,
                sound: Sound::planar(1, vec![f32::NAN, 1e9, -0.25]),
                source_rate: 48_000,
            },
        );
        reader.push(&sound);
        let Ok(Some(Reply::Sound(sound))) = reader.poll() else {
            panic!("no sound");
        };
        assert_eq!(sound.sound.samples(), [0.0, SAMPLE_MAX, -0.25]);
    }

    #[test]
    fn requests_come_back_as_they_were_said() {
        let unit = CodedUnit {
            codec: Codec::H264,
            config: Some(Bytes::from_static(b"config")),
            payload: Bytes::from_static(b"payload"),
            pts_us: -1,
        };
        let mut out = Vec::new();
        put_setup(&mut out, 99);
        put_unit(&mut out, &unit);
        put_unit(
            &mut out,
            &CodedUnit {
                config: None,
                ..unit
            },
        );
        put_finish(&mut out, MediaKind::Audio);
        put_room(&mut out);
        let mut reader = RequestReader::default();
        reader.push(&out);
        let mut requests = Vec::new();
        while let Some(request) = reader.poll().unwrap() {
            requests.push(format!("{request:?}"));
        }
        assert_eq!(requests.len(), 5);
        assert_eq!(requests[0], "Setup { max_pixels: 99 }");
        assert!(requests[1].contains("b\"config\"") && requests[1].contains("b\"payload\""));
        assert!(requests[2].contains("config: None") && requests[2].contains("pts_us: -1"));
        assert_eq!(requests[3], "Finish(Audio)");
    }

    #[test]
    fn a_length_that_no_message_has_is_refused_before_anything_is_kept() {
        for length in [0, u32::MAX, 3 << 20] {
            let mut reader = ReplyReader::default();
            reader.push(&length.to_be_bytes());
            assert!(matches!(reader.poll(), Err(WireError::Length { .. })));
        }
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_replies(cuts in prop::collection::vec(0_usize..300, 0..20)) {
            let said = said();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(said.len())).collect();
            cuts.push(said.len());
            cuts.sort_unstable();
            let (mut whole, mut split) = (Vec::new(), Vec::new());
            let mut reader = ReplyReader::default();
            reader.push(&said);
            read(&mut reader, &mut whole).unwrap();
            let (mut reader, mut from) = (ReplyReader::default(), 0);
            for to in cuts {
                reader.push(&said[from..to]);
                read(&mut reader, &mut split).unwrap();
                from = to;
            }
            prop_assert_eq!(whole, split);
        }

        #[test]
        fn arbitrary_bytes_never_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..400),
            kind in 60_u8..75,
            body in prop::collection::vec(any::<u8>(), 0..120),
        ) {
            let mut reader = ReplyReader::default();
            reader.push(&bytes);
            let _ = read(&mut reader, &mut Vec::new());
            // With a length and a kind that lead further in.
            let mut framed = Vec::new();
            frame(&mut framed, kind, |out| out.put_slice(&body));
            let mut reader = ReplyReader::default();
            reader.push(&framed);
            let _ = read(&mut reader, &mut Vec::new());
            let mut reader = RequestReader::default();
            let mut framed = Vec::new();
            frame(&mut framed, kind - 60, |out| out.put_slice(&body));
            reader.push(&framed);
            let _ = reader.poll();
        }
    }
}

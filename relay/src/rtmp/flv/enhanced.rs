//! The tags of Enhanced RTMP: modifiers, several tracks, codecs by four characters.

use bytes::{Buf, Bytes};
use firstmile_shared::media::Codec;

use super::{FRAME_COMMAND, FRAME_DISPOSABLE, FRAME_KEY, Packet, Part, Unsupported, signed_24};

/// The parts of one tag, in its order.
#[derive(Clone, Debug)]
pub struct Parts {
    head: Head,
    left: Left,
}

/// What all parts of a tag have in common.
#[derive(Clone, Copy, Debug, Default)]
struct Head {
    is_video: bool,
    frame_type: u8,
    packet_type: u8,
    offset_ns: u32,
}

#[derive(Clone, Debug)]
enum Left {
    /// At most one part, which is this.
    One(Option<Packet>),
    /// As many as there are bytes for.
    Many {
        bytes: Bytes,
        /// `None`: each track names its own.
        four_cc: Option<[u8; 4]>,
        has_size: bool,
        /// Parts that may still come.
        parts_left: usize,
    },
}

impl Parts {
    /// A tag of one part, of track 0.
    pub(super) fn one(packet: Packet) -> Self {
        Self {
            head: Head::default(),
            left: Left::One(Some(packet)),
        }
    }
}

impl Iterator for Parts {
    type Item = Part;

    fn next(&mut self) -> Option<Part> {
        let head = self.head;
        let part = |track, packet| Part {
            track,
            offset_ns: head.offset_ns,
            packet,
        };
        match &mut self.left {
            Left::One(packet) => packet.take().map(|packet| part(0, packet)),
            Left::Many {
                bytes,
                four_cc,
                has_size,
                parts_left,
            } => {
                if bytes.is_empty() {
                    return None;
                }
                let whole = parts_left.checked_sub(1).and_then(|left| {
                    *parts_left = left;
                    track(bytes, *four_cc, *has_size)
                });
                let Some((number, four_cc, data)) = whole else {
                    bytes.clear();
                    return Some(part(0, Packet::Damaged));
                };
                Some(part(number, head.packet(four_cc, data)))
            }
        }
    }
}

/// The next track of a tag of several: its number, its codec, what it carries.
fn track(
    bytes: &mut Bytes,
    four_cc: Option<[u8; 4]>,
    has_size: bool,
) -> Option<(u8, [u8; 4], Bytes)> {
    let four_cc = match four_cc {
        Some(four_cc) => four_cc,
        None => take_array(bytes)?,
    };
    let [number] = take_array(bytes)?;
    let data = if has_size {
        let [a, b, c] = take_array(bytes)?;
        take(bytes, u32::from_be_bytes([0, a, b, c]) as usize)?
    } else {
        std::mem::take(bytes)
    };
    Some((number, four_cc, data))
}

pub(super) fn video(body: &Bytes) -> Parts {
    let frame_type = body.first().map_or(0, |head| head >> 4 & 0b111);
    parts(true, frame_type, body)
}

pub(super) fn audio(body: &Bytes) -> Parts {
    parts(false, 0, body)
}

fn parts(is_video: bool, frame_type: u8, body: &Bytes) -> Parts {
    let mut head = Head {
        is_video,
        frame_type,
        packet_type: body.first().map_or(0, |head| head & 0x0f),
        offset_ns: 0,
    };
    let mut left = body.slice(1.min(body.len())..);
    let left = head
        .parse(&mut left)
        .unwrap_or(Left::One(Some(Packet::Damaged)));
    Parts { head, left }
}

impl Head {
    /// What follows the head; `None` if it is cut short.
    fn parse(&mut self, left: &mut Bytes) -> Option<Left> {
        for _ in 0..MODIFIERS_MAX {
            if self.packet_type != PACKET_MODIFIER {
                break;
            }
            self.modifier(left)?;
        }
        if self.packet_type == PACKET_MODIFIER {
            return None;
        }
        if self.is_video && self.frame_type == FRAME_COMMAND && self.packet_type != VIDEO_METADATA {
            return Some(Left::One(Some(Packet::Nothing)));
        }
        let multitrack = if self.is_video {
            VIDEO_MULTITRACK
        } else {
            AUDIO_MULTITRACK
        };
        if self.packet_type != multitrack {
            let four_cc = take_array(left)?;
            return Some(Left::One(Some(self.packet(four_cc, std::mem::take(left)))));
        }
        let [kinds] = take_array(left)?;
        self.packet_type = kinds & 0x0f;
        if self.packet_type == multitrack || self.packet_type == PACKET_MODIFIER {
            return None;
        }
        let (has_own_codec, has_size) = match kinds >> 4 {
            ONE_TRACK => (false, false),
            MANY_TRACKS => (false, true),
            MANY_TRACKS_MANY_CODECS => (true, true),
            _ => {
                let what = Unsupported("tracks in an unknown order");
                return Some(Left::One(Some(Packet::Unsupported(what))));
            }
        };
        let four_cc = if has_own_codec {
            None
        } else {
            Some(take_array(left)?)
        };
        Some(Left::Many {
            bytes: std::mem::take(left),
            four_cc,
            has_size,
            parts_left: PARTS_MAX,
        })
    }

    fn modifier(&mut self, left: &mut Bytes) -> Option<()> {
        let [size] = take_array(left)?;
        let size = if size == u8::MAX {
            u16::from_be_bytes(take_array(left)?)
        } else {
            size.into()
        };
        let data = take(left, usize::from(size).saturating_add(1))?;
        let [next] = take_array(left)?;
        self.packet_type = next & 0x0f;
        if next >> 4 == MODIFIER_OFFSET
            && let Some(&[a, b, c]) = data.first_chunk()
        {
            let offset_ns = u32::from_be_bytes([0, a, b, c]);
            self.offset_ns = if offset_ns < NS_PER_MS { offset_ns } else { 0 };
        }
        Some(())
    }

    /// What `data` is to a track of this codec.
    fn packet(self, four_cc: [u8; 4], mut data: Bytes) -> Packet {
        let codec = FOUR_CCS
            .iter()
            .find(|(code, is_video, _)| *code == four_cc && *is_video == self.is_video)
            .map_or(Err("an unknown codec"), |(_, _, codec)| *codec);
        let codec = match codec {
            Ok(codec) => codec,
            Err(name) => return Packet::Unsupported(Unsupported(name)),
        };
        let has_composition = matches!(codec, Codec::H264 | Codec::H265);
        match (self.is_video, self.packet_type) {
            (_, SEQUENCE_START) => Packet::Config {
                codec,
                record: data,
            },
            (false, CODED_FRAMES) => Packet::Sound {
                codec: Some(codec),
                data,
            },
            (true, CODED_FRAMES) if has_composition => match take_array(&mut data) {
                Some(composition) => self.picture(codec, signed_24(composition), data),
                None => Packet::Damaged,
            },
            (true, CODED_FRAMES | CODED_FRAMES_X) => self.picture(codec, 0, data),
            (true, VIDEO_METADATA) => Packet::Metadata(data),
            // An end, a transport stream's description, an order of channels that decoders find out by themselves;
            // what later versions may send is not for us.
            _ => Packet::Nothing,
        }
    }

    fn picture(self, codec: Codec, composition_ms: i32, data: Bytes) -> Packet {
        Packet::Picture {
            codec,
            keyframe: self.frame_type == FRAME_KEY,
            disposable: self.frame_type == FRAME_DISPOSABLE,
            composition_ms,
            data,
        }
    }
}

fn take(bytes: &mut Bytes, len: usize) -> Option<Bytes> {
    (len <= bytes.len()).then(|| bytes.split_to(len))
}

fn take_array<const N: usize>(bytes: &mut Bytes) -> Option<[u8; N]> {
    let array = *bytes.first_chunk()?;
    bytes.advance(N);
    Some(array)
}

/// Four characters, whether of pictures, and the codec or what to call it.
type FourCc = ([u8; 4], bool, Result<Codec, &'static str>);

const FOUR_CCS: [FourCc; 12] = [
    (*b"avc1", true, Ok(Codec::H264)),
    (*b"hvc1", true, Ok(Codec::H265)),
    (*b"av01", true, Ok(Codec::Av1)),
    (*b"vp09", true, Ok(Codec::Vp9)),
    (*b"vp08", true, Err("VP8")),
    (*b"vvc1", true, Err("VVC")),
    (*b"mp4a", false, Ok(Codec::Aac)),
    (*b"Opus", false, Ok(Codec::Opus)),
    (*b"fLaC", false, Ok(Codec::Flac)),
    (*b"ac-3", false, Ok(Codec::Ac3)),
    (*b"ec-3", false, Ok(Codec::Eac3)),
    (*b".mp3", false, Ok(Codec::Mp3)),
];

const SEQUENCE_START: u8 = 0;
const CODED_FRAMES: u8 = 1;
const CODED_FRAMES_X: u8 = 3;
const VIDEO_METADATA: u8 = 4;
const AUDIO_MULTITRACK: u8 = 5;
const VIDEO_MULTITRACK: u8 = 6;
const PACKET_MODIFIER: u8 = 7;

const ONE_TRACK: u8 = 0;
const MANY_TRACKS: u8 = 1;
const MANY_TRACKS_MANY_CODECS: u8 = 2;

const MODIFIER_OFFSET: u8 = 0;
const NS_PER_MS: u32 = 1_000_000;

/// One kind exists.
const MODIFIERS_MAX: usize = 8;

/// Four times what is carried.
const PARTS_MAX: usize = 64;

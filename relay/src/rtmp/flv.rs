//! FLV tags, the bodies of RTMP's audio and video messages: which codec, which track, and where the coded data begins.
//!
//! ```text
//! video: frame type (4 bits) codec (4 bits) | AVC: packet type (1) composition time (3, signed, ms) | data
//! audio: format (4 bits) rate, size, channels (4 bits) | AAC: packet type (1) | data
//! ```
//! Enhanced RTMP (version 2 of its specification) sets the top bit of the video byte, or audio format 9:
//! ```text
//! head: 1, frame type (3 bits) or 9, then packet type (4 bits)
//! modifiers: size (1 or 1 + 2) | data | kind (4 bits) packet type (4 bits)              while that type is "modifier"
//! several tracks: kind (4 bits) packet type (4 bits) | codec unless each track has its own
//!                 | for each track: codec if it has its own | number (1) | size (3) unless it is the only one | data
//! one track: codec (4) | composition time (3) if NAL units come with one | data
//! ```
//! A tag is taken apart here into [`Part`]s, one for each track in it. What can't be played is named, so that an
//! operator learns what the encoder must be set to; codec numbers in metadata are never believed. Parts become access
//! units in [`units`].

pub mod data;
mod enhanced;
pub mod units;

use bytes::Bytes;
use firstmile_shared::media::Codec;

pub use enhanced::Parts;

/// What a tag says about one track.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The track's number among those of its kind; 0 where a tag does not speak of tracks.
    pub track: u8,
    /// To be added to the presentation time, nanoseconds below a millisecond.
    pub offset_ns: u32,
    /// What is said.
    pub packet: Packet,
}

/// What a part carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet {
    /// A decoder's configuration.
    Config {
        /// Of which codec.
        codec: Codec,
        /// The record; may be empty.
        record: Bytes,
    },
    /// A coded picture.
    Picture {
        /// How it is coded.
        codec: Codec,
        /// The container says that a decoder can start here.
        keyframe: bool,
        /// The container says that no other picture refers to it.
        disposable: bool,
        /// Presentation minus decode time, milliseconds.
        composition_ms: i32,
        /// In the form of [`Codec`].
        data: Bytes,
    },
    /// A block of sound; empty for silence.
    Sound {
        /// How it is coded; `None`: as before.
        codec: Option<Codec>,
        /// In the form of [`Codec`].
        data: Bytes,
    },
    /// What the colours mean: AMF values.
    Metadata(Bytes),
    /// Nothing to show and nothing wrong: end of sequence, a seek mark.
    Nothing,
    /// A codec that is not played.
    Unsupported(Unsupported),
    /// It ends before its data begins, or contradicts itself.
    Damaged,
}

/// What an encoder sends and we do not play, in words of our own: nothing of the wire gets into a log this way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unsupported(pub &'static str);

impl std::fmt::Display for Unsupported {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

/// The parts of a video tag. Any bytes are some tag.
pub fn video(body: &Bytes) -> Parts {
    let Some(&head) = body.first() else {
        return Parts::one(Packet::Nothing);
    };
    if head & 0x80 != 0 {
        return enhanced::video(body);
    }
    let frame_type = head >> 4;
    Parts::one(match head & 0x0f {
        _ if frame_type == FRAME_COMMAND => Packet::Nothing,
        CODEC_AVC => nal_units(Codec::H264, frame_type, body),
        // Not in any specification, but what older apps send.
        CODEC_HEVC => nal_units(Codec::H265, frame_type, body),
        codec => Packet::Unsupported(Unsupported(video_codec_name(codec))),
    })
}

/// The parts of an audio tag. Any bytes are some tag; none at all is a moment of silence.
pub fn audio(body: &Bytes) -> Parts {
    let Some(&head) = body.first() else {
        return Parts::one(Packet::Sound {
            codec: None,
            data: Bytes::new(),
        });
    };
    Parts::one(match head >> 4 {
        FORMAT_ENHANCED => return enhanced::audio(body),
        FORMAT_AAC => match body.get(1) {
            Some(&PACKET_CONFIG) => Packet::Config {
                codec: Codec::Aac,
                record: body.slice(AAC_HEADER_LEN..),
            },
            Some(&PACKET_DATA) => Packet::Sound {
                codec: Some(Codec::Aac),
                data: body.slice(AAC_HEADER_LEN..),
            },
            _ => Packet::Damaged,
        },
        FORMAT_MP3 | FORMAT_MP3_8K => Packet::Sound {
            codec: Some(Codec::Mp3),
            data: body.slice(1..),
        },
        format => Packet::Unsupported(Unsupported(audio_format_name(format))),
    })
}

fn nal_units(codec: Codec, frame_type: u8, body: &Bytes) -> Packet {
    let Some(&[_, packet_type, t0, t1, t2]) = body.first_chunk() else {
        return Packet::Damaged;
    };
    let data = body.slice(AVC_HEADER_LEN..);
    match packet_type {
        PACKET_CONFIG => Packet::Config {
            codec,
            record: data,
        },
        PACKET_DATA => Packet::Picture {
            codec,
            keyframe: frame_type == FRAME_KEY,
            disposable: false,
            composition_ms: signed_24([t0, t1, t2]),
            data,
        },
        _ => Packet::Nothing,
    }
}

/// 24 bits with a sign.
fn signed_24([a, b, c]: [u8; 3]) -> i32 {
    i32::from_be_bytes([a, b, c, 0]) >> 8
}

const fn video_codec_name(codec: u8) -> &'static str {
    match codec {
        2 => "Sorenson H.263",
        3 => "Screen video",
        4 | 5 => "VP6",
        6 => "Screen video 2",
        13 => "AV1 (codec number 13)",
        _ => "an unknown video codec",
    }
}

const fn audio_format_name(format: u8) -> &'static str {
    match format {
        0 | 3 => "PCM sound",
        1 => "ADPCM sound",
        4..=6 => "Nellymoser sound",
        7 | 8 => "G.711 sound",
        11 => "Speex",
        13 => "Opus (format number 13)",
        _ => "an unknown audio format",
    }
}

const FRAME_KEY: u8 = 1;
const FRAME_DISPOSABLE: u8 = 3;
const FRAME_COMMAND: u8 = 5;
const CODEC_AVC: u8 = 7;
const CODEC_HEVC: u8 = 12;
const FORMAT_MP3: u8 = 2;
const FORMAT_ENHANCED: u8 = 9;
const FORMAT_AAC: u8 = 10;
const FORMAT_MP3_8K: u8 = 14;
const PACKET_CONFIG: u8 = 0;
const PACKET_DATA: u8 = 1;
const AVC_HEADER_LEN: usize = 5;
const AAC_HEADER_LEN: usize = 2;

#[cfg(test)]
mod tests;

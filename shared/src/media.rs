//! Coded media as both ends see it: one access unit at a time, with its codec and its times.
//!
//! Not here: containers and wire formats (RTMP's FLV tags live in the relay, the tunnel's layout in
//! [`crate::tunnel::unit`]) and decoded pictures (the connector's).
//!
//! All times are microseconds. `dts_us` and `pts_us` are on the *media clock*: the publisher's own
//! timestamps, unrolled to 64 bits, zero at the publisher's zero. Payload formats follow ISO/IEC 14496-15
//! (length-prefixed NAL units for H.264 and H.265) and ISO/IEC 14496-3 (raw AAC frames, no ADTS).

pub mod aac;
pub mod av1;
pub mod avc;
mod bits;
mod config;
pub mod dolby;
pub mod flac;
pub mod hevc;
pub mod look;
pub mod mp3;
pub mod opus;
pub mod vp9;

use bytes::Bytes;

pub use config::{CodecConfig, ConfigError};

/// What a track carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum MediaKind {
    /// Pictures.
    Video,
    /// Sound.
    Audio,
    /// Timed text or metadata.
    Data,
}

impl MediaKind {
    /// `video`, `audio` or `data`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Video => "video",
            Self::Audio => "audio",
            Self::Data => "data",
        }
    }
}

/// The coding of a track. The number is the code point of the tunnel (PROTOCOL.md, "Codecs").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[non_exhaustive]
pub enum Codec {
    /// ITU-T H.264; configuration: `AVCDecoderConfigurationRecord`; payload: length-prefixed NAL units.
    H264 = 1,
    /// ITU-T H.265; configuration: `HEVCDecoderConfigurationRecord`; payload: length-prefixed NAL units.
    H265 = 2,
    /// AV1; configuration: `AV1CodecConfigurationRecord`; payload: a temporal unit.
    Av1 = 3,
    /// VP9; configuration: `VPCodecConfigurationRecord`; payload: a (super)frame.
    Vp9 = 4,
    /// MPEG-4 AAC; configuration: `AudioSpecificConfig`; payload: one raw frame.
    Aac = 16,
    /// Opus; configuration: `OpusHead`; payload: one packet.
    Opus = 17,
    /// FLAC; configuration: `STREAMINFO`; payload: one frame.
    Flac = 18,
    /// AC-3; no configuration; payload: one sync frame.
    Ac3 = 19,
    /// E-AC-3; no configuration; payload: one sync frame.
    Eac3 = 20,
    /// MPEG-1 layer 3; no configuration; payload: one frame.
    Mp3 = 21,
    /// Timecode, cue points, text; no configuration; payload: a JSON array of a name and values.
    Data = 32,
}

impl Codec {
    /// Every codec that has a code point.
    pub const ALL: [Self; 11] = [
        Self::H264,
        Self::H265,
        Self::Av1,
        Self::Vp9,
        Self::Aac,
        Self::Opus,
        Self::Flac,
        Self::Ac3,
        Self::Eac3,
        Self::Mp3,
        Self::Data,
    ];

    /// The codec with this code point.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|codec| codec.code() == code)
    }

    /// The code point of the tunnel.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// Whether a track of this codec is seen or heard.
    pub const fn kind(self) -> MediaKind {
        match self {
            Self::H264 | Self::H265 | Self::Av1 | Self::Vp9 => MediaKind::Video,
            Self::Aac | Self::Opus | Self::Flac | Self::Ac3 | Self::Eac3 | Self::Mp3 => {
                MediaKind::Audio
            }
            Self::Data => MediaKind::Data,
        }
    }

    /// Whether a decoder needs a configuration record before the first access unit.
    pub const fn needs_config(self) -> bool {
        !matches!(self, Self::Ac3 | Self::Eac3 | Self::Mp3 | Self::Data)
    }

    /// The name that operators know: "H.264", "AAC".
    pub const fn name(self) -> &'static str {
        match self {
            Self::H264 => "H.264",
            Self::H265 => "H.265",
            Self::Av1 => "AV1",
            Self::Vp9 => "VP9",
            Self::Aac => "AAC",
            Self::Opus => "Opus",
            Self::Flac => "FLAC",
            Self::Ac3 => "AC-3",
            Self::Eac3 => "E-AC-3",
            Self::Mp3 => "MP3",
            Self::Data => "data",
        }
    }
}

/// One coded picture or one coded block of sound, in decode order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessUnit {
    /// How the payload is coded.
    pub codec: Codec,
    /// 0 is the track that is played; others are carried only.
    pub track: u8,
    /// A decoder can start here. Every unit that is no picture is a keyframe.
    pub keyframe: bool,
    /// No other picture refers to this one: it can be left out without harm to the rest.
    pub disposable: bool,
    /// The media clock jumped just before this unit; nothing earlier says when it is due.
    pub discontinuity: bool,
    /// Decode time, microseconds on the media clock.
    pub dts_us: i64,
    /// `pts - dts`, microseconds; negative only from broken encoders.
    pub cts_us: i32,
    /// The decoder configuration, on every keyframe (so on every unit of sound) of a codec that has one, never
    /// elsewhere.
    pub config: Option<Bytes>,
    /// The coded data; empty only for a legal "silence" unit of sound.
    pub payload: Bytes,
}

impl AccessUnit {
    /// When the picture or sound is to be presented, microseconds on the media clock.
    pub const fn pts_us(&self) -> i64 {
        self.dts_us.saturating_add(self.cts_us as i64)
    }

    /// Video, audio or data.
    pub const fn kind(&self) -> MediaKind {
        self.codec.kind()
    }
}

#[cfg(test)]
fn hex(text: &str) -> Vec<u8> {
    text.as_bytes()
        .chunks(2)
        .map(|digits| u8::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap())
        .collect()
}

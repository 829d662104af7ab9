//! From coded units to pictures and sound that an output takes.
//!
//! [`Decoder`] is a boundary on purpose: units in, pictures out, nothing shared. The decoder is C code fed by
//! strangers; behind this trait it can move into a process of its own without the playout noticing.

#[cfg(test)]
pub(crate) mod clip;
mod ffmpeg;
mod gate;
mod pixels;

use bytes::Bytes;
use firstmile_shared::media::{Codec, MediaKind};

pub use self::{
    ffmpeg::FfmpegDecoder,
    gate::{Gate, Pass},
};
use crate::output::{FrameRate, Picture, Sound};

/// Decodes one line's picture and sound, one unit at a time, in decode order.
pub trait Decoder: Send {
    /// Decodes `unit` and appends what came out, which may belong to earlier units and may be nothing.
    ///
    /// After an error the unit is lost and the decoder goes on; what follows may show the damage until the next
    /// keyframe.
    fn decode(&mut self, unit: &CodedUnit, out: &mut Vec<Decoded>) -> Result<(), DecodeError>;

    /// Gives out what a track still holds and forgets it: the next unit of `kind` is one to start at, with its
    /// configuration.
    fn finish(&mut self, kind: MediaKind, out: &mut Vec<Decoded>);
}

/// What a decoder needs of an access unit.
#[derive(Clone, Debug)]
pub struct CodedUnit {
    /// How the payload is coded.
    pub codec: Codec,
    /// On every keyframe, so on every unit of sound; `None`: as before.
    pub config: Option<Bytes>,
    /// Not empty.
    pub payload: Bytes,
    /// Comes back on the picture or sound: microseconds on the media clock.
    pub pts_us: i64,
}

/// What a decoder gives.
#[derive(Debug)]
pub enum Decoded {
    /// A picture.
    Picture(DecodedPicture),
    /// A block of sound.
    Sound(DecodedSound),
}

/// A picture with its place in time.
#[derive(Debug)]
pub struct DecodedPicture {
    /// Of the unit it was coded in.
    pub pts_us: i64,
    /// Converted, ready for an output.
    pub picture: Picture,
    /// The rate that the stream declares, if it does; not always true.
    pub declared_rate: Option<FrameRate>,
    /// The decoder knows of damage in it.
    pub damaged: bool,
}

/// A block of sound with its place in time.
#[derive(Debug)]
pub struct DecodedSound {
    /// Of the unit that its first sample was coded in.
    pub pts_us: i64,
    /// Converted to 48 kHz, ready for an output.
    pub sound: Sound,
    /// The rate of the feed, Hz.
    pub source_rate: u32,
}

/// Why a unit gave nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// This build of FFmpeg has none, or it does not start.
    #[error("no decoder for {}", .codec.name())]
    NoDecoder {
        /// Which one was asked for.
        codec: Codec,
    },
    /// A unit came before its configuration.
    #[error("{} without its configuration", .codec.name())]
    NoConfig {
        /// How the unit is coded.
        codec: Codec,
    },
    /// The configuration can't be read, or asks for too large a picture.
    #[error("the {} configuration is not usable: {reason}", .codec.name())]
    Config {
        /// How the unit is coded.
        codec: Codec,
        /// What is wrong.
        reason: String,
    },
    /// Damaged data.
    #[error("the {} data is damaged: {reason}", .codec.name())]
    Data {
        /// How the unit is coded.
        codec: Codec,
        /// The decoder's own word.
        reason: String,
    },
    /// A picture or sound that can't be brought into the form outputs take.
    #[error("a decoded {what} can't be converted: {reason}")]
    Convert {
        /// `picture` or `sound`.
        what: &'static str,
        /// Why.
        reason: String,
    },
    /// No memory.
    #[error("out of memory")]
    Memory,
}

/// Most pixels of a picture: 4096 x 2304, the largest that a phone or camera sends. A decoder allocates about 20
/// pictures of the size that a stranger's stream names: 280 MB at this size, over 1 GB at 8K.
pub const PIXELS_MAX: u32 = 4096 * 2304;

//! From coded units to pictures and sound that an output takes.
//!
//! [`Decoder`] is a boundary on purpose: units in, pictures out, nothing shared. The decoder is C code fed by
//! strangers. Behind this trait it runs in a process of its own, one for each line ([`process`]), or in the line's
//! thread ([`FfmpegDecoder`]); [`Decoders`] knows which, and makes them.

#[cfg(test)]
pub(crate) mod clip;
mod ffmpeg;
mod gate;
mod limits;
mod pixels;
pub mod process;

use bytes::Bytes;
use firstmile_shared::media::{Codec, MediaKind};
use tracing::warn;

pub use self::{
    ffmpeg::FfmpegDecoder,
    gate::{Gate, Pass},
    process::ProcessDecoder,
};
use crate::{
    os::{CAN_HELP, HelperProgram},
    output::{FrameRate, Picture, Sound},
};

/// Decodes one line's picture and sound, one unit at a time, in decode order.
pub trait Decoder: Send {
    /// Decodes `unit` and appends what came out, which may belong to earlier units and may be nothing.
    ///
    /// After an error the unit is lost and the decoder goes on; what follows may show the damage until the next
    /// keyframe.
    fn decode(&mut self, unit: &CodedUnit, out: &mut Vec<Decoded>) -> Result<(), DecodeError>;

    /// Gives out what a track still holds and forgets it: the next unit of `kind` is one to start at, with its
    /// configuration. The only error is [`DecodeError::Lost`].
    fn finish(&mut self, kind: MediaKind, out: &mut Vec<Decoded>) -> Result<(), DecodeError>;

    /// Called while there is nothing to decode: makes ready for the next unit what is not. `true`: that took its time.
    fn tend(&mut self) -> bool {
        false
    }
}

/// Makes the decoders of all lines. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Decoders {
    max_pixels: u32,
    /// What runs as a line's decoder; `None`: the line's own thread decodes.
    helper: Option<HelperProgram>,
}

impl Decoders {
    /// Each line decodes in a thread of this process: a crash of the decoder is one of the program.
    pub const fn in_threads(max_pixels: u32) -> Self {
        Self {
            max_pixels,
            helper: None,
        }
    }

    /// Each line gets a process that runs `helper`, which must call [`process::main`]; see
    /// [`process::this_program`]. In threads where the system has no such helpers.
    pub fn in_processes(helper: HelperProgram, max_pixels: u32) -> Self {
        if !CAN_HELP {
            warn!(
                "decoder.isolation = process is not in this version for this system: decoding in threads"
            );
        }
        Self {
            max_pixels,
            helper: Some(helper).filter(|_| CAN_HELP),
        }
    }

    /// A decoder for the line of this name, which is shown in lists of processes.
    pub fn open(&self, line: &str) -> Result<Box<dyn Decoder>, DecodeError> {
        Ok(match &self.helper {
            Some(helper) => {
                let mut helper = helper.clone();
                helper.arguments.push(line.into());
                Box::new(ProcessDecoder::new(helper, self.max_pixels))
            }
            None => Box::new(FfmpegDecoder::new(self.max_pixels)?),
        })
    }
}

impl Default for Decoders {
    fn default() -> Self {
        Self::in_threads(PIXELS_MAX)
    }
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
    #[error("this computer's FFmpeg has no decoder for {}", .codec.name())]
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
    /// The stream asks for a picture that this connector was told not to make.
    #[error("the picture is {width}x{height}, more than decoder.max_pixels = {max_pixels}")]
    TooLarge {
        /// Luma samples, as coded.
        width: u32,
        /// Luma rows, as coded.
        height: u32,
        /// The bound in force.
        max_pixels: u32,
    },
    /// The configuration can't be read.
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
    /// The decoder itself is gone, with all that it held. The next unit starts another.
    #[error("the decoder {how}")]
    Lost {
        /// "crashed (it ended by signal 11 (SIGSEGV))".
        how: String,
    },
}

impl DecodeError {
    /// Whether nothing is left of the decoder, so that it has to be started at a keyframe again.
    pub const fn is_lost(&self) -> bool {
        matches!(self, Self::Lost { .. })
    }
}

/// The default of `decoder.max_pixels`: 4096 x 2304, the largest that a phone or camera sends. A decoder allocates about
/// 20 pictures of the size that a stranger's stream names: 280 MB at this size, over 1 GB at 8K.
pub const PIXELS_MAX: u32 = 4096 * 2304;

//! A decoder's configuration, whatever the codec: checked, and what it says about picture and sound.

use super::{
    AccessUnit, Codec,
    aac::{AacConfig, AacError},
    av1::{self, Av1Config, Av1Error},
    avc::{self, AvcConfig, AvcError},
    flac::{FlacConfig, FlacError},
    hevc::{self, HevcConfig, HevcError},
    look::{Colour, Look},
    opus::{OpusConfig, OpusError},
    vp9::{self, Vp9Config, Vp9Error},
};

/// A configuration that was understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CodecConfig {
    /// H.264.
    Avc(AvcConfig),
    /// H.265.
    Hevc(HevcConfig),
    /// AV1.
    Av1(Av1Config),
    /// VP9.
    Vp9(Vp9Config),
    /// AAC.
    Aac(AacConfig),
    /// Opus.
    Opus(OpusConfig),
    /// FLAC.
    Flac(FlacConfig),
    /// A codec that needs none.
    None,
}

/// Why a configuration is of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Of H.264.
    #[error(transparent)]
    Avc(#[from] AvcError),
    /// Of H.265.
    #[error(transparent)]
    Hevc(#[from] HevcError),
    /// Of AV1.
    #[error(transparent)]
    Av1(#[from] Av1Error),
    /// Of VP9.
    #[error(transparent)]
    Vp9(#[from] Vp9Error),
    /// Of AAC.
    #[error(transparent)]
    Aac(#[from] AacError),
    /// Of Opus.
    #[error(transparent)]
    Opus(#[from] OpusError),
    /// Of FLAC.
    #[error(transparent)]
    Flac(#[from] FlacError),
}

impl CodecConfig {
    /// Parses the record of this codec; one of a codec that needs none is not looked at.
    pub fn parse(codec: Codec, record: &[u8]) -> Result<Self, ConfigError> {
        Ok(match codec {
            Codec::H264 => Self::Avc(AvcConfig::parse(record)?),
            Codec::H265 => Self::Hevc(HevcConfig::parse(record)?),
            Codec::Av1 => Self::Av1(Av1Config::parse(record)?),
            Codec::Vp9 => Self::Vp9(Vp9Config::parse(record)?),
            Codec::Aac => Self::Aac(AacConfig::parse(record)?),
            Codec::Opus => Self::Opus(OpusConfig::parse(record)?),
            Codec::Flac => Self::Flac(FlacConfig::parse(record)?),
            Codec::Ac3 | Codec::Eac3 | Codec::Mp3 | Codec::Data => Self::None,
        })
    }

    /// Samples and rows that are shown, if the configuration says so.
    pub const fn shown_size(&self) -> Option<(u32, u32)> {
        match self {
            Self::Avc(config) => Some((config.sps.width, config.sps.height)),
            Self::Hevc(config) => Some((config.sps.width, config.sps.height)),
            Self::Av1(config) => config.size,
            _ => None,
        }
    }

    /// Samples and rows that a decoder allocates, if the configuration says so.
    pub const fn coded_size(&self) -> Option<(u32, u32)> {
        match self {
            Self::Avc(config) => Some(config.coded_size),
            Self::Hevc(config) => Some(config.coded_size),
            Self::Av1(config) => config.size,
            _ => None,
        }
    }

    /// The largest size that `payload`, a unit of this configuration, asks a decoder for by itself; `None` if it does
    /// not speak of it.
    pub fn coded_size_within(&self, payload: &[u8]) -> Option<(u32, u32)> {
        match self {
            Self::Avc(config) => avc::coded_size_within(payload, config.nal_length_size),
            Self::Hevc(config) => hevc::coded_size_within(payload, config.nal_length_size),
            Self::Av1(_) => av1::size_within(payload),
            Self::Vp9(_) => vp9::size_within(payload),
            _ => None,
        }
    }

    /// How pictures of this configuration look, of which `keyframe` is one; `None` if neither says it.
    pub fn look(&self, keyframe: &[u8]) -> Option<Look> {
        match self {
            Self::Avc(config) => Some(Look {
                size: (config.sps.width, config.sps.height),
                interlaced: config.sps.interlaced,
                colour: config.sps.colour,
            }),
            Self::Hevc(config) => Some(Look {
                size: (config.sps.width, config.sps.height),
                interlaced: config.sps.interlaced,
                colour: config.sps.colour,
            }),
            Self::Av1(config) => {
                let within = av1::sequence_within(keyframe);
                Some(Look {
                    size: within.map(|within| within.size).or(config.size)?,
                    interlaced: false,
                    colour: within.map_or(config.colour, |within| within.colour),
                })
            }
            Self::Vp9(config) => vp9::keyframe_within(keyframe).map(|within| Look {
                size: within.size,
                interlaced: false,
                colour: Colour {
                    full_range: within.colour.full_range || config.colour.full_range,
                    description: config.colour.description.or(within.colour.description),
                },
            }),
            _ => None,
        }
    }

    /// Rate in Hz and channels of what a decoder puts out, if the configuration says so.
    pub fn sound(&self) -> Option<(u32, u8)> {
        match self {
            Self::Aac(config) => Some((config.output_rate(), config.output_channels())),
            Self::Opus(config) => Some((48_000, config.channels)),
            Self::Flac(config) => Some((config.rate, config.channels)),
            _ => None,
        }
    }
}

impl AccessUnit {
    /// The configuration that the unit carries, if it does and it is good.
    pub fn parsed_config(&self) -> Option<CodecConfig> {
        CodecConfig::parse(self.codec, self.config.as_deref()?).ok()
    }
}

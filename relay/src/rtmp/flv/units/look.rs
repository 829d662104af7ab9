//! What the bitstream says of a picture or a frame where that is more than its tag says. Pure.

use bytes::Bytes;
use firstmile_shared::media::{Codec, CodecConfig, avc, dolby::DolbyFrame, hevc, mp3::Mp3Frame};

/// A picture as its tag has it.
#[derive(Debug)]
pub(super) struct Picture {
    pub(super) codec: Codec,
    pub(super) keyframe: bool,
    pub(super) disposable: bool,
    pub(super) composition_ms: i32,
    pub(super) data: Bytes,
}

/// A picture as its bitstream has it, where that says more than the tag.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    pub(super) is_picture: bool,
    pub(super) keyframe: bool,
    pub(super) disposable: bool,
    /// It has empty NAL units; the length of their lengths.
    pub(super) without_empty_units: Option<u8>,
}

impl Look {
    /// `None`: it contradicts its own format.
    pub(super) fn of(picture: &Picture, config: &CodecConfig) -> Option<Self> {
        Some(match config {
            CodecConfig::Avc(config) => {
                let info = avc::UnitInfo::of(&picture.data, config.nal_length_size).ok()?;
                Self {
                    is_picture: info.picture,
                    keyframe: info.is_keyframe(picture.keyframe),
                    disposable: info.disposable,
                    without_empty_units: info.empty_units.then_some(config.nal_length_size),
                }
            }
            CodecConfig::Hevc(config) => {
                let info = hevc::UnitInfo::of(&picture.data, config).ok()?;
                Self {
                    is_picture: info.picture,
                    keyframe: info.is_keyframe(picture.keyframe),
                    disposable: info.disposable,
                    without_empty_units: info.empty_units.then_some(config.nal_length_size),
                }
            }
            _ => Self {
                is_picture: !picture.data.is_empty(),
                keyframe: picture.keyframe,
                disposable: picture.disposable && !picture.keyframe,
                without_empty_units: None,
            },
        })
    }
}

/// Whether a frame of a codec without a configuration begins as one must; silence is no frame.
pub(super) fn has_sync(codec: Codec, data: &[u8]) -> bool {
    if data.is_empty() {
        return true;
    }
    match codec {
        Codec::Ac3 => DolbyFrame::parse(data).is_some_and(|frame| !frame.enhanced),
        Codec::Eac3 => DolbyFrame::parse(data).is_some(),
        Codec::Mp3 => Mp3Frame::parse(data).is_some(),
        _ => true,
    }
}

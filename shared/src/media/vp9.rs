//! VP9 as containers carry it: the `VPCodecConfigurationRecord`, and the head of a frame.
//!
//! Sources: "VP Codec ISO Media File Format Binding" and the VP9 bitstream specification (6.2). The record does not
//! say how large the picture is; each keyframe does.

use super::{bits::BitReader, look::Colour};

/// What a decoder configuration says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vp9Config {
    /// 0 to 3; 2 and 3 have more than 8 bits.
    pub profile: u8,
    /// Ten times the level; 0 if not said.
    pub level: u8,
    /// Bits of a luma sample.
    pub bit_depth: u8,
    /// What the numbers of the samples mean, as far as the record says it.
    pub colour: Colour,
}

/// What the head of a keyframe says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keyframe {
    /// Samples and rows.
    pub size: (u32, u32),
    /// What the numbers of the samples mean, as far as it is said.
    pub colour: Colour,
}

/// Why bytes are not a VP9 configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Vp9Error {
    /// The bytes end inside a field.
    #[error("the VP9 configuration is cut short at {len} bytes")]
    Truncated {
        /// Bytes there are.
        len: usize,
    },
    /// A profile or bit depth that does not exist.
    #[error("VP9 profile {profile} with {bit_depth} bits does not exist")]
    Profile {
        /// As in the record.
        profile: u8,
        /// As in the record.
        bit_depth: u8,
    },
}

impl Vp9Config {
    /// Parses a `VPCodecConfigurationRecord`, with or without the version and flags of the box that MP4 keeps it in:
    /// `FFmpeg` sends those too.
    pub fn parse(record: &[u8]) -> Result<Self, Vp9Error> {
        let truncated = Vp9Error::Truncated { len: record.len() };
        let bare = record.strip_prefix(&[1, 0, 0, 0]).unwrap_or(record);
        let &[profile, level, depth, primaries, transfer, matrix, _, _] =
            bare.first_chunk::<8>().ok_or(truncated)?;
        let bit_depth = depth >> 4;
        if profile > 3 || !matches!(bit_depth, 8 | 10 | 12) || (profile < 2) != (bit_depth == 8) {
            return Err(Vp9Error::Profile { profile, bit_depth });
        }
        Ok(Self {
            profile,
            level,
            bit_depth,
            colour: Colour {
                full_range: depth & 1 == 1,
                // 2 is "unspecified"; 0, which is reserved or RGB, is what careless muxers leave.
                description: (!matches!((primaries, matrix), (0 | 2, _) | (_, 0 | 2)))
                    .then_some((primaries, transfer, matrix)),
            },
        })
    }
}

/// The size of a keyframe, samples and rows; `None` for any other frame.
pub fn size_within(payload: &[u8]) -> Option<(u32, u32)> {
    keyframe_within(payload).map(|keyframe| keyframe.size)
}

/// The head of a keyframe; `None` for any other frame.
pub fn keyframe_within(payload: &[u8]) -> Option<Keyframe> {
    let mut reader = BitReader::new(payload);
    if reader.bits(2)? != FRAME_MARKER {
        return None;
    }
    let profile = u8::from(reader.bit()?) | u8::from(reader.bit()?) << 1;
    if profile == 3 {
        reader.skip(1)?;
    }
    let shows_existing = reader.bit()?;
    let is_inter = reader.bit()?;
    reader.skip(2)?;
    if shows_existing || is_inter || reader.bits(24)? != SYNC_CODE {
        return None;
    }
    if profile >= 2 {
        reader.skip(1)?;
    }
    let space = reader.byte(3)?;
    let is_rgb = space == COLOR_SPACE_RGB;
    let full_range = is_rgb || reader.bit()?;
    if profile % 2 == 1 {
        reader.skip(if is_rgb { 1 } else { 3 })?;
    }
    let size = (reader.bits(16)? + 1, reader.bits(16)? + 1);
    // `color_space` names all three at once.
    let description = match space {
        1 | 3 => Some((6, 6, 6)),
        2 => Some((1, 1, 1)),
        4 => Some((7, 7, 7)),
        5 => Some((9, 14, 9)),
        COLOR_SPACE_RGB => Some((1, 13, 0)),
        _ => None,
    };
    Some(Keyframe {
        size,
        colour: Colour {
            full_range,
            description,
        },
    })
}

const FRAME_MARKER: u32 = 2;
const SYNC_CODE: u32 = 0x49_8342;
const COLOR_SPACE_RGB: u8 = 7;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::hex, *};

    #[test]
    fn a_configuration_is_read_with_and_without_its_boxs_head() {
        for (record, level) in [("000a820101010000", 10), ("010000000015820202020000", 21)] {
            let config = Vp9Config::parse(&hex(record)).unwrap();
            assert_eq!(
                (config.profile, config.level, config.bit_depth),
                (0, level, 8)
            );
        }
        let unknown = Vp9Config::parse(&hex("01000000001f830202020000")).unwrap();
        let expected = Colour {
            full_range: true,
            description: None,
        };
        assert_eq!(unknown.colour, expected);
        let deep = Vp9Config::parse(&hex("0233a00910090000")).unwrap();
        assert_eq!((deep.profile, deep.bit_depth), (2, 10));
        assert_eq!(deep.colour.description, Some((9, 16, 9)));
    }

    #[test]
    fn what_is_no_configuration_is_named() {
        let wrong = |profile, bit_depth| Vp9Error::Profile { profile, bit_depth };
        for (record, error) in [
            ("", Vp9Error::Truncated { len: 0 }),
            ("000a8201010100", Vp9Error::Truncated { len: 7 }),
            ("040a820101010000", wrong(4, 8)),
            ("000aa20101010000", wrong(0, 10)),
            ("020a820101010000", wrong(2, 8)),
        ] {
            assert_eq!(Vp9Config::parse(&hex(record)), Err(error), "{record}");
        }
    }

    #[test]
    fn a_keyframe_says_how_large_it_is() {
        // (first bytes of a frame, size)
        for (frame, size) in [
            // 640x360, as libvpx begins a keyframe.
            ("824983420027f01670", Some((640, 360))),
            ("86004092", None),
            ("", None),
            ("00498342", None),
        ] {
            let frame = frame.replace(' ', "");
            assert_eq!(size_within(&hex(&frame)), size, "{frame}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(body in prop::collection::vec(any::<u8>(), 0..30)) {
            let _ = Vp9Config::parse(&body);
            let _ = size_within(&body);
            let _ = size_within(&[&[0x82, 0x49, 0x83, 0x42], &body[..]].concat());
        }
    }
}

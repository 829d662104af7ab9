//! AV1 as containers carry it: the `AV1CodecConfigurationRecord` and open bitstream units (OBUs).
//!
//! Only the sequence header is read: it bounds the size of all pictures. Sources: the AV1 bitstream specification (5.3,
//! 5.5) and "AV1 Codec ISO Media File Format Binding" (2.3.3).

use super::{bits::BitReader, look::Colour};

/// What a decoder configuration says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Av1Config {
    /// `seq_profile`: 0 main, 1 high, 2 professional.
    pub profile: u8,
    /// `seq_level_idx` of the first operating point.
    pub level: u8,
    /// Bits of a luma sample.
    pub bit_depth: u8,
    /// No colour planes.
    pub monochrome: bool,
    /// The largest picture, if the record has the sequence header; else it comes with the first keyframe.
    pub size: Option<(u32, u32)>,
    /// What the numbers of the samples mean, as far as that header says it.
    pub colour: Colour,
}

/// What a sequence header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sequence {
    /// The largest picture: samples and rows.
    pub size: (u32, u32),
    /// What the numbers of the samples mean, as far as it is said.
    pub colour: Colour,
}

/// Why bytes are not an AV1 configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Av1Error {
    /// The bytes end inside a field.
    #[error("the AV1 configuration is cut short at {len} bytes")]
    Truncated {
        /// Bytes there are.
        len: usize,
    },
    /// Not the marker and version that every record begins with.
    #[error("the AV1 configuration begins with {byte:#04x}")]
    Version {
        /// As in the record.
        byte: u8,
    },
    /// A profile that does not exist.
    #[error("AV1 profile {profile} is reserved")]
    Profile {
        /// As in the record.
        profile: u8,
    },
    /// An OBU, or the sequence header in it, that contradicts the specification.
    #[error("the AV1 sequence header is damaged")]
    Obu,
}

impl Av1Config {
    /// Parses an `AV1CodecConfigurationRecord`.
    pub fn parse(record: &[u8]) -> Result<Self, Av1Error> {
        let truncated = Av1Error::Truncated { len: record.len() };
        let (&[version, profile_level, depth, _delay], obus) =
            record.split_first_chunk::<4>().ok_or(truncated)?;
        if version != 0x81 {
            return Err(Av1Error::Version { byte: version });
        }
        let profile = profile_level >> 5;
        if profile > 2 {
            return Err(Av1Error::Profile { profile });
        }
        let mut sequence = None;
        for obu in Obus(obus) {
            let (kind, body) = obu.ok_or(Av1Error::Obu)?;
            if kind == KIND_SEQUENCE_HEADER {
                sequence = Some(Sequence::parse(body).ok_or(Av1Error::Obu)?);
            }
        }
        Ok(Self {
            profile,
            level: profile_level & 0x1f,
            bit_depth: match depth >> 5 & 0b11 {
                0b10 => 10,
                0b11 => 12,
                _ => 8,
            },
            monochrome: depth & 0x10 != 0,
            size: sequence.map(|sequence| sequence.size),
            colour: sequence.map_or_else(Colour::default, |sequence| sequence.colour),
        })
    }
}

/// The largest picture that the sequence headers within a temporal unit allow; `None` if it has none.
pub fn size_within(payload: &[u8]) -> Option<(u32, u32)> {
    Obus(payload)
        .map_while(|obu| obu)
        .filter(|(kind, _)| *kind == KIND_SEQUENCE_HEADER)
        .filter_map(|(_, body)| Sequence::parse(body))
        .map(|sequence| sequence.size)
        .reduce(super::avc::larger)
}

/// The last sequence header within a temporal unit.
pub fn sequence_within(payload: &[u8]) -> Option<Sequence> {
    Obus(payload)
        .map_while(|obu| obu)
        .filter(|(kind, _)| *kind == KIND_SEQUENCE_HEADER)
        .filter_map(|(_, body)| Sequence::parse(body))
        .last()
}

/// Walks OBUs: type and body. `None` for one that is damaged, and nothing after it.
struct Obus<'a>(&'a [u8]);

impl<'a> Iterator for Obus<'a> {
    type Item = Option<(u8, &'a [u8])>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let bytes = std::mem::take(&mut self.0);
        Some((|| {
            let (&head, mut rest) = bytes.split_first()?;
            if head & 0x80 != 0 {
                return None;
            }
            if head & 0b100 != 0 {
                rest = rest.get(1..)?;
            }
            let body = if head & 0b10 == 0 {
                rest
            } else {
                let (len, behind) = leb128(rest)?;
                let (body, behind) = behind.split_at_checked(len)?;
                self.0 = behind;
                body
            };
            Some((head >> 3 & 0xf, body))
        })())
    }
}

/// Seven bits a byte, the lowest first.
fn leb128(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let mut value = 0_u64;
    for (n, byte) in bytes.iter().take(8).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * n);
        if byte & 0x80 == 0 {
            return Some((usize::try_from(value).ok()?, bytes.get(n + 1..)?));
        }
    }
    None
}

impl Sequence {
    /// Parses the body of a sequence header (5.5.1). Damage behind the size costs the colours only.
    fn parse(body: &[u8]) -> Option<Self> {
        let mut reader = BitReader::new(body);
        let profile = reader.byte(3)?;
        reader.skip(1)?;
        let is_reduced = reader.bit()?;
        let size = size(&mut reader, is_reduced)?;
        let colour =
            pass_tools(&mut reader, is_reduced).and_then(|()| colour(&mut reader, profile));
        Some(Self {
            size,
            colour: colour.unwrap_or_default(),
        })
    }
}

/// `max_frame_width` and `max_frame_height`, behind the operating points.
fn size(reader: &mut BitReader<'_>, is_reduced: bool) -> Option<(u32, u32)> {
    if is_reduced {
        reader.skip(5)?;
    } else {
        let mut decoder_model_bits = None;
        if reader.bit()? {
            reader.skip(64)?;
            if reader.bit()? {
                reader.unsigned()?;
            }
            if reader.bit()? {
                decoder_model_bits = Some(reader.bits(5)? as usize + 1);
                reader.skip(32 + 5 + 5)?;
            }
        }
        let has_display_delay = reader.bit()?;
        for _ in 0..=reader.bits(5)? {
            reader.skip(12)?;
            if reader.bits(5)? > 7 {
                reader.skip(1)?;
            }
            if let Some(bits) = decoder_model_bits
                && reader.bit()?
            {
                reader.skip(2 * bits + 1)?;
            }
            if has_display_delay && reader.bit()? {
                reader.skip(4)?;
            }
        }
    }
    let (width_bits, height_bits) = (reader.bits(4)? + 1, reader.bits(4)? + 1);
    Some((reader.bits(width_bits)? + 1, reader.bits(height_bits)? + 1))
}

/// What lies between the size and the colours: which coding tools are used.
fn pass_tools(reader: &mut BitReader<'_>, is_reduced: bool) -> Option<()> {
    if !is_reduced && reader.bit()? {
        reader.skip(4 + 3)?;
    }
    reader.skip(3)?;
    if !is_reduced {
        reader.skip(4)?;
        let has_order_hint = reader.bit()?;
        if has_order_hint {
            reader.skip(2)?;
        }
        let chooses_screen_tools = reader.bit()?;
        let has_screen_tools = chooses_screen_tools || reader.bit()?;
        if has_screen_tools {
            let chooses_integer_motion = reader.bit()?;
            if !chooses_integer_motion {
                reader.skip(1)?;
            }
        }
        if has_order_hint {
            reader.skip(3)?;
        }
    }
    reader.skip(3)
}

/// `color_config` (5.5.2).
fn colour(reader: &mut BitReader<'_>, profile: u8) -> Option<Colour> {
    let is_deep = reader.bit()?;
    if profile == 2 && is_deep {
        reader.skip(1)?;
    }
    let is_grey = profile != 1 && reader.bit()?;
    let mut description = None;
    if reader.bit()? {
        let mut code = || reader.byte(8);
        description = Some((code()?, code()?, code()?));
    }
    let full_range = (!is_grey && description == Some(SRGB)) || reader.bit()?;
    Some(Colour {
        full_range,
        description,
    })
}

/// Primaries, transfer and matrix of it; its range is not said, and full.
const SRGB: (u8, u8, u8) = (1, 13, 0);

const KIND_SEQUENCE_HEADER: u8 = 1;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::hex, *};

    #[test]
    fn a_real_configuration_is_understood() {
        let config = Av1Config::parse(&hex(SVT)).unwrap();
        assert_eq!((config.profile, config.bit_depth), (0, 8));
        assert_eq!(config.size, Some((640, 360)));
        assert_eq!(config.colour, Colour::default());
        // A keyframe repeats the header behind its temporal delimiter.
        let unit = [&[0x12, 0][..], &hex(SVT)[4..], &[0x32, 1, 0]].concat();
        assert_eq!(size_within(&unit), Some((640, 360)));
        assert_eq!(size_within(&[0x32, 1, 0]), None);
    }

    #[test]
    fn colours_are_read_behind_the_tools() {
        let record = "81050c000a0f0200002d2a67fd9e017c0810104c20";
        let config = Av1Config::parse(&hex(record)).unwrap();
        assert_eq!(config.size, Some((1280, 720)));
        // Of the three, this one names its matrix alone: BT.2020.
        let colour = Colour {
            full_range: true,
            description: Some((2, 2, 9)),
        };
        assert_eq!(config.colour, colour);
        let unit = [&[0x12, 0][..], &hex(record)[4..], &[0x32, 1, 0]].concat();
        let size = (1280, 720);
        assert_eq!(sequence_within(&unit), Some(Sequence { size, colour }));
    }

    #[test]
    fn what_is_no_configuration_is_named() {
        for (record, error) in [
            ("", Av1Error::Truncated { len: 0 }),
            ("810000", Av1Error::Truncated { len: 3 }),
            ("01000c00", Av1Error::Version { byte: 1 }),
            ("81600c00", Av1Error::Profile { profile: 3 }),
            ("81000c00ff", Av1Error::Obu),
            ("81000c000a05", Av1Error::Obu),
            ("81000c000a0100", Av1Error::Obu),
        ] {
            assert_eq!(Av1Config::parse(&hex(record)), Err(error), "{record}");
        }
        let bare = Av1Config::parse(&hex("81004c00")).unwrap();
        assert_eq!((bare.size, bare.bit_depth), (None, 10));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(body in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = Av1Config::parse(&[&[0x81, 0, 0, 0], &body[..]].concat());
            let len = u8::try_from(body.len()).unwrap();
            let _ = Av1Config::parse(&[&[0x81, 0, 0, 0, 0x0a, len], &body[..]].concat());
            if let Some((width, height)) = size_within(&[&[0x0a, len], &body[..]].concat()) {
                prop_assert!(width <= 65_536 && height <= 65_536);
            }
        }
    }

    /// 640x360 8 bit, as SVT-AV1 in FFmpeg writes it.
    const SVT: &str = "81010c000a0c0200000d2627fb3805f00080";
}

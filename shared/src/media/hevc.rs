//! H.265 as containers carry it: the `HEVCDecoderConfigurationRecord` and length-prefixed NAL units.
//!
//! What a player must know without decoding, as [`super::avc`] has it for H.264. Sources: ITU-T H.265 (7.3, 7.4.2.2)
//! and ISO/IEC 14496-15 (8.3.3.1). Nothing is allocated.

mod sps;

use super::avc::{AvcError, NalUnits, larger};
pub use sps::Sps;

/// What a decoder configuration says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HevcConfig {
    /// Bytes of the length before each NAL unit: 1, 2 or 4.
    pub nal_length_size: u8,
    /// The first sequence parameter set.
    pub sps: Sps,
    /// The largest that any of its parameter sets asks a decoder for: luma samples and rows, before cropping.
    pub coded_size: (u32, u32),
}

/// Why bytes are not H.265 in this form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HevcError {
    /// The bytes end inside a field.
    #[error("the H.265 configuration is cut short at {len} bytes")]
    Truncated {
        /// Bytes there are.
        len: usize,
    },
    /// A configuration record of another version; only 1 exists, and 0 from drafts.
    #[error("H.265 configuration version {version} is unknown")]
    Version {
        /// As in the record.
        version: u8,
    },
    /// NAL unit lengths of three bytes are reserved.
    #[error("NAL unit lengths of 3 bytes are reserved")]
    NalLengthSize,
    /// More parameter sets than any encoder has.
    #[error("the H.265 configuration has more than {SETS_MAX} parameter sets")]
    TooManySets,
    /// No sequence parameter set in the record: nobody can tell what the picture is.
    #[error("the H.265 configuration has no sequence parameter set")]
    NoSps,
    /// A parameter set that contradicts the standard or asks for a picture larger than 16384 x 16384.
    #[error("the H.265 sequence parameter set is damaged")]
    Sps,
}

impl HevcConfig {
    /// Parses an `HEVCDecoderConfigurationRecord`.
    pub fn parse(record: &[u8]) -> Result<Self, HevcError> {
        let truncated = HevcError::Truncated { len: record.len() };
        let (head, mut left) = record.split_first_chunk::<23>().ok_or(truncated)?;
        let [version, .., length_size, arrays] = *head;
        if version > 1 {
            return Err(HevcError::Version { version });
        }
        let nal_length_size = (length_size & 0b11) + 1;
        if nal_length_size == 3 {
            return Err(HevcError::NalLengthSize);
        }

        let (mut first, mut coded_size, mut sets) = (None, (0, 0), 0);
        for _ in 0..arrays {
            let (&[kind, c0, c1], rest) = left.split_first_chunk::<3>().ok_or(truncated)?;
            left = rest;
            for _ in 0..u16::from_be_bytes([c0, c1]) {
                sets += 1;
                if sets > SETS_MAX {
                    return Err(HevcError::TooManySets);
                }
                let (len, rest) = left.split_first_chunk::<2>().ok_or(truncated)?;
                let (set, rest) = rest
                    .split_at_checked(usize::from(u16::from_be_bytes(*len)))
                    .ok_or(truncated)?;
                left = rest;
                if kind & 0x3f == KIND_SPS {
                    let sps = Sps::parse(set);
                    // Further ones may be of extensions that are not played: those are nobody's concern.
                    if let Ok(sps) = sps {
                        coded_size = larger(coded_size, sps.coded_size);
                    }
                    first.get_or_insert(sps);
                }
            }
        }
        Ok(Self {
            nal_length_size,
            sps: first.ok_or(HevcError::NoSps)??,
            coded_size,
        })
    }
}

/// The largest coded size that the parameter sets within an access unit ask a decoder for; `None` if it has none.
pub fn coded_size_within(payload: &[u8], nal_length_size: u8) -> Option<(u32, u32)> {
    NalUnits::new(payload, nal_length_size)
        .map_while(Result::ok)
        .filter(|unit| kind(unit.bytes) == KIND_SPS)
        .filter_map(|unit| Sps::parse(unit.bytes).ok())
        .map(|sps| sps.coded_size)
        .reduce(larger)
}

/// What can be said about an access unit without decoding it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent findings about one unit, not a state"
)]
pub struct UnitInfo {
    /// An intra random access picture: a decoder can start here.
    pub irap: bool,
    /// No other picture of any layer refers to this one.
    pub disposable: bool,
    /// There is at least one slice; without one (parameter sets, SEI) this is no picture.
    pub picture: bool,
    /// At least one NAL unit is empty.
    pub empty_units: bool,
}

impl UnitInfo {
    /// Inspects a whole access unit of a stream that `config` describes.
    pub fn of(payload: &[u8], config: &HevcConfig) -> Result<Self, AvcError> {
        let mut info = Self {
            disposable: true,
            ..Self::default()
        };
        for unit in NalUnits::new(payload, config.nal_length_size) {
            let unit = unit?;
            if unit.bytes.is_empty() {
                info.empty_units = true;
                continue;
            }
            let kind = kind(unit.bytes);
            if kind < KIND_VPS {
                info.picture = true;
                info.irap |= KINDS_IRAP.contains(&kind);
                // Sub-layer non-references: nothing of their own layer needs them, and there is no layer above.
                let is_reference = kind > KIND_LAST_NON_REFERENCE || kind % 2 == 1;
                info.disposable &= !is_reference && layer(unit.bytes) >= config.sps.layers_max;
            }
        }
        info.disposable &= info.picture;
        Ok(info)
    }

    /// Whether a decoder can start here. `declared` is the container's own claim: encoders that refresh gradually
    /// mark their recovery points with nothing else.
    pub fn is_keyframe(&self, declared: bool) -> bool {
        self.picture && (self.irap || declared)
    }
}

/// `nal_unit_type`; one that is never a slice for an empty unit.
fn kind(unit: &[u8]) -> u8 {
    unit.first().map_or(KIND_NONE, |byte| byte >> 1 & 0x3f)
}

/// `nuh_temporal_id_plus1`.
fn layer(unit: &[u8]) -> u8 {
    unit.get(1).map_or(0, |byte| byte & 0b111)
}

const KIND_LAST_NON_REFERENCE: u8 = 14;
const KINDS_IRAP: std::ops::RangeInclusive<u8> = 16..=23;
const KIND_VPS: u8 = 32;
const KIND_SPS: u8 = 33;
const KIND_NONE: u8 = 63;

/// Encoders have three.
const SETS_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{
        super::{hex, look::Colour},
        *,
    };

    #[test]
    fn a_real_configuration_is_understood() {
        let config = HevcConfig::parse(&hex(X265)).unwrap();
        assert_eq!(config.nal_length_size, 4);
        assert_eq!((config.sps.width, config.sps.height), (640, 360));
        assert_eq!(config.coded_size, (640, 368));
        assert_eq!((config.sps.bit_depth, config.sps.chroma_format), (8, 1));
        assert_eq!(config.sps.layers_max, 1);
    }

    /// Parameter sets of x265 4.3, at other presets with other tools before the colours.
    #[test]
    fn colours_are_read_behind_the_tools() {
        // (how it was coded, NAL unit, full range, description, interlaced)
        for (how, unit, full_range, description, interlaced) in [
            (
                "ultrafast, 10 bits, HDR10",
                "42010102200000030090000003000003005da00280802d136595952930bc05a848804820000003002000000303c1",
                false,
                Some((9, 16, 9)),
                false,
            ),
            (
                "medium, full range",
                "42010101600000030090000003000003005da00280802d165959a4932bc05b808080820000030002000003003c10",
                true,
                Some((1, 1, 1)),
                false,
            ),
            (
                "medium, fields, nothing said",
                "42010101600000030040000003000003005da00280802d165959a4932bc39a1a0000030002000003003c10",
                false,
                None,
                true,
            ),
        ] {
            let sps = Sps::parse(&hex(unit)).unwrap_or_else(|error| panic!("{how}: {error}"));
            assert_eq!((sps.width, sps.height), (1280, 720), "{how}");
            let colour = Colour {
                full_range,
                description,
            };
            assert_eq!((sps.colour, sps.interlaced), (colour, interlaced), "{how}");
        }
    }

    #[test]
    fn what_is_no_configuration_is_named() {
        let real = hex(X265);
        let with = |at: usize, byte: u8| {
            let mut record = real.clone();
            record[at] = byte;
            record
        };
        for (record, error) in [
            (vec![], HevcError::Truncated { len: 0 }),
            (real[..60].to_vec(), HevcError::Truncated { len: 60 }),
            (with(0, 2), HevcError::Version { version: 2 }),
            (with(21, 0x0e), HevcError::NalLengthSize),
            (with(22, 1), HevcError::NoSps),
            (
                [&real[..22], &[1, 0xa1, 0, 65], &[0; 200]].concat(),
                HevcError::TooManySets,
            ),
            (
                [&real[..22], &[1, 0xa1, 0, 1, 0, 2, 0x42, 1]].concat(),
                HevcError::Sps,
            ),
        ] {
            assert_eq!(HevcConfig::parse(&record), Err(error));
        }
    }

    #[test]
    fn pictures_are_told_by_their_nal_units() {
        let config = HevcConfig::parse(&hex(X265)).unwrap();
        // (NAL unit heads, picture, keyframe if not declared, disposable)
        for (heads, picture, keyframe, disposable) in [
            (&[[0x26, 1]][..], true, true, false), // IDR_W_RADL
            (&[[0x2a, 1]], true, true, false),     // CRA
            (&[[0x02, 1]], true, false, false),    // TRAIL_R
            (&[[0x00, 1]], true, false, true),     // TRAIL_N
            (&[[0x10, 1]], true, false, true),     // RASL_N
            (&[[0x00, 1], [0x02, 1]], true, false, false),
            (&[[0x4e, 1]], false, false, false), // SEI
            (&[[0x4e, 1], [0x26, 1]], true, true, false),
        ] {
            let payload: Vec<u8> = heads
                .iter()
                .flat_map(|head| [&[0, 0, 0, 3], &head[..], &[0x80]].concat())
                .collect();
            let info = UnitInfo::of(&payload, &config).unwrap();
            assert_eq!(
                (info.picture, info.is_keyframe(false), info.disposable),
                (picture, keyframe, disposable),
                "{heads:x?}"
            );
            assert_eq!(info.is_keyframe(true), picture);
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(
            mut record in prop::collection::vec(any::<u8>(), 0..200),
            sps in prop::collection::vec(any::<u8>(), 0..80),
            payload in prop::collection::vec(0..70u8, 0..60),
            at in 0..80usize,
        ) {
            let _ = HevcConfig::parse(&record);
            if let Some(byte) = record.first_mut() {
                *byte = 1;
            }
            let _ = HevcConfig::parse(&record);
            let _ = Sps::parse(&[&[0x42, 1], &sps[..]].concat());
            let _ = coded_size_within(&payload, 1);
            let mut damaged = hex(X265);
            let at = at % damaged.len();
            damaged[at] ^= sps.first().copied().unwrap_or(1);
            if let Ok(config) = HevcConfig::parse(&damaged) {
                let _ = UnitInfo::of(&payload, &config);
            }
        }
    }

    /// 640x360 4:2:0, as x265 in FFmpeg writes it.
    const X265: &str = "0101600000009000000000003ff000fcfdf8f800000f03200001001840010c01ffff01600000030090000003000003003f95\
        9409210001002b42010101600000030090000003000003003fa005020171f2e595952930bc05a020000003002000000303c1\
        22000100064401c073c189";
}

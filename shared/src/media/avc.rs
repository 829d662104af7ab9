//! H.264 as containers carry it: the `AVCDecoderConfigurationRecord` and length-prefixed NAL units.
//!
//! What a player must know without decoding: how large the picture is, where a decoder can start, which pictures
//! nobody refers to. Sources: ITU-T H.264 (7.3, Annex E) and ISO/IEC 14496-15 (5.2.4.1, 5.3.3). No pictures are
//! decoded here, and nothing is allocated but the copy that [`without_empty_units`] makes when it must.

mod sps;

use bytes::{BufMut, Bytes, BytesMut};

use super::bits::BitReader;
use sps::KIND_SPS;
pub use sps::Sps;
pub(super) use sps::without_emulation;

/// What a decoder configuration says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AvcConfig {
    /// Bytes of the length before each NAL unit: 1, 2 or 4.
    pub nal_length_size: u8,
    /// The first sequence parameter set.
    pub sps: Sps,
    /// The largest that any of its parameter sets asks a decoder for: luma samples and rows, before cropping.
    pub coded_size: (u32, u32),
}

/// Why bytes are not H.264 in this form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AvcError {
    /// The bytes end inside a field.
    #[error("the H.264 configuration is cut short at {len} bytes")]
    Truncated {
        /// Bytes there are.
        len: usize,
    },
    /// A configuration record of another version; only 1 exists.
    #[error("H.264 configuration version {version} is unknown")]
    Version {
        /// As in the record.
        version: u8,
    },
    /// NAL unit lengths of three bytes are reserved.
    #[error("NAL unit lengths of 3 bytes are reserved")]
    NalLengthSize,
    /// No sequence parameter set in the record: nobody can tell what the picture is.
    #[error("the H.264 configuration has no sequence parameter set")]
    NoSps,
    /// A parameter set that contradicts the standard or asks for a picture larger than 16384 x 16384.
    #[error("the H.264 sequence parameter set is damaged")]
    Sps,
    /// A NAL unit's length reaches past the end of the access unit.
    #[error("a NAL unit of {declared} bytes does not fit into the {left} bytes left")]
    NalLength {
        /// As in the length field.
        declared: usize,
        /// Bytes behind the length field.
        left: usize,
    },
}

impl AvcConfig {
    /// Parses an `AVCDecoderConfigurationRecord`. The extension at its end (chroma format, bit depth) is not needed.
    pub fn parse(record: &[u8]) -> Result<Self, AvcError> {
        let truncated = AvcError::Truncated { len: record.len() };
        let (
            &[
                version,
                _profile,
                _compatibility,
                _level,
                length_size,
                sps_count,
            ],
            sets,
        ) = record.split_first_chunk::<6>().ok_or(truncated)?;
        if version != 1 {
            return Err(AvcError::Version { version });
        }
        let nal_length_size = (length_size & 0b11) + 1;
        if nal_length_size == 3 {
            return Err(AvcError::NalLengthSize);
        }

        let (mut first, mut coded_size) = (None, (0, 0));
        let rest = parameter_sets(sets, sps_count & 0x1f, |sps| {
            // Further ones may be of extensions that are not played: those are nobody's concern.
            if let Ok(sps) = Sps::parse(sps) {
                coded_size = larger(coded_size, sps.coded_size);
            }
            first.get_or_insert(sps);
        })
        .ok_or(truncated)?;
        let (&pps_count, rest) = rest.split_first().ok_or(truncated)?;
        parameter_sets(rest, pps_count, |_| {}).ok_or(truncated)?;

        Ok(Self {
            nal_length_size,
            sps: Sps::parse(first.ok_or(AvcError::NoSps)?)?,
            coded_size,
        })
    }
}

/// The size of more samples.
pub(super) fn larger(a: (u32, u32), b: (u32, u32)) -> (u32, u32) {
    let samples = |(columns, rows): (u32, u32)| u64::from(columns) * u64::from(rows);
    if samples(b) > samples(a) { b } else { a }
}

/// The largest coded size that the parameter sets within an access unit ask a decoder for; `None` if it has none.
/// Encoders may change the picture's size in the middle of a stream this way.
pub fn coded_size_within(payload: &[u8], nal_length_size: u8) -> Option<(u32, u32)> {
    NalUnits::new(payload, nal_length_size)
        .map_while(Result::ok)
        .filter(|unit| unit.kind() == KIND_SPS)
        .filter_map(|unit| Sps::parse(unit.bytes).ok())
        .map(|sps| sps.coded_size)
        .reduce(larger)
}

/// Walks `count` parameter sets, each behind a length of two bytes; what follows them, or `None` if they are cut.
fn parameter_sets<'a>(
    mut bytes: &'a [u8],
    count: u8,
    mut each: impl FnMut(&'a [u8]),
) -> Option<&'a [u8]> {
    for _ in 0..count {
        let (len, rest) = bytes.split_first_chunk::<2>()?;
        let (set, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*len)))?;
        each(set);
        bytes = rest;
    }
    Some(bytes)
}

/// One NAL unit: its header byte and what follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NalUnit<'a> {
    /// With the header, without the length.
    pub bytes: &'a [u8],
}

impl NalUnit<'_> {
    /// `nal_unit_type`; 0 (unspecified) for an empty unit.
    pub fn kind(&self) -> u8 {
        self.bytes.first().map_or(0, |header| header & 0x1f)
    }

    /// `nal_ref_idc`: 0 if nothing refers to this unit.
    pub fn ref_idc(&self) -> u8 {
        self.bytes.first().map_or(0, |header| header >> 5 & 0b11)
    }

    /// Whether it carries (a part of) a coded picture.
    pub fn is_slice(&self) -> bool {
        (1..=5).contains(&self.kind())
    }
}

/// Walks the NAL units of an access unit; empty ones come out as empty. Ends after the first error.
#[derive(Clone, Debug)]
pub struct NalUnits<'a> {
    left: &'a [u8],
    length_size: usize,
}

impl<'a> NalUnits<'a> {
    /// Over `payload`, whose lengths have `nal_length_size` bytes each (1 to 4).
    pub fn new(payload: &'a [u8], nal_length_size: u8) -> Self {
        Self {
            left: payload,
            length_size: usize::from(nal_length_size.clamp(1, 4)),
        }
    }
}

impl<'a> Iterator for NalUnits<'a> {
    type Item = Result<NalUnit<'a>, AvcError>;

    fn next(&mut self) -> Option<Self::Item> {
        // Some encoders pad with zeros: a rest that can't be a NAL unit, or only empty ones.
        if self.left.iter().all(|byte| *byte == 0) && self.left.len() < self.length_size {
            return None;
        }
        let Some((length, rest)) = self.left.split_at_checked(self.length_size) else {
            let left = std::mem::take(&mut self.left).len();
            return Some(Err(AvcError::NalLength { declared: 0, left }));
        };
        let declared = length
            .iter()
            .fold(0, |len, byte| len << 8 | usize::from(*byte));
        let Some((bytes, rest)) = rest.split_at_checked(declared) else {
            self.left = &[];
            let left = rest.len();
            return Some(Err(AvcError::NalLength { declared, left }));
        };
        self.left = rest;
        Some(Ok(NalUnit { bytes }))
    }
}

/// What can be said about an access unit without decoding it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent findings about one unit, not a state"
)]
pub struct UnitInfo {
    /// An IDR picture: nothing after it refers to anything before it.
    pub idr: bool,
    /// A recovery point: a decoder that starts here shows right pictures after so many more (`recovery_frame_cnt`).
    pub recovery_frames: Option<u32>,
    /// Every slice is intra-coded.
    pub intra: bool,
    /// Every slice has `nal_ref_idc` 0: no other picture refers to this one.
    pub disposable: bool,
    /// There is at least one slice; without one (parameter sets, SEI) this is no picture.
    pub picture: bool,
    /// At least one NAL unit is empty; see [`without_empty_units`].
    pub empty_units: bool,
}

impl UnitInfo {
    /// Inspects a whole access unit.
    pub fn of(payload: &[u8], nal_length_size: u8) -> Result<Self, AvcError> {
        let mut info = Self {
            intra: true,
            disposable: true,
            ..Self::default()
        };
        for unit in NalUnits::new(payload, nal_length_size) {
            let unit = unit?;
            if unit.bytes.is_empty() {
                info.empty_units = true;
            } else if unit.is_slice() {
                info.picture = true;
                info.idr |= unit.kind() == KIND_IDR;
                info.disposable &= unit.ref_idc() == 0;
                // Partitions B and C belong to a slice whose head is in partition A.
                info.intra &= matches!(unit.kind(), 3 | 4) || slice_is_intra(unit);
            } else if unit.kind() == KIND_SEI && info.recovery_frames.is_none() {
                info.recovery_frames = recovery_point(unit);
            }
        }
        info.intra &= info.picture;
        info.disposable &= info.picture;
        Ok(info)
    }

    /// Whether a decoder can start here. `declared` is the container's own claim: it is believed where the
    /// bitstream does not contradict it, for encoders that mark an open GOP with nothing else.
    pub fn is_keyframe(&self, declared: bool) -> bool {
        self.picture && (self.idr || self.recovery_frames.is_some() || declared && self.intra)
    }
}

/// The access unit without its empty NAL units, which some cameras send and some decoders choke on.
pub fn without_empty_units(payload: &Bytes, nal_length_size: u8) -> Bytes {
    let length_size = usize::from(nal_length_size.clamp(1, 4));
    let mut clean = BytesMut::with_capacity(payload.len());
    for unit in NalUnits::new(payload, nal_length_size).map_while(Result::ok) {
        if !unit.bytes.is_empty() {
            let len = unit.bytes.len() as u64;
            clean.put_uint(len, length_size);
            clean.put_slice(unit.bytes);
        }
    }
    clean.freeze()
}

/// `slice_type` (7.4.3) without its "all slices of the picture" form: 2 is I, 4 is SI.
fn slice_is_intra(unit: NalUnit<'_>) -> bool {
    let mut reader = BitReader::new(unit.bytes.get(1..).unwrap_or_default());
    let slice_type = (|| {
        reader.unsigned()?;
        reader.unsigned()
    })();
    slice_type.is_some_and(|slice_type| slice_type <= 9 && matches!(slice_type % 5, 2 | 4))
}

/// `recovery_frame_cnt` of a recovery point SEI message (D.1.8), if the unit has one.
fn recovery_point(unit: NalUnit<'_>) -> Option<u32> {
    let mut left = unit.bytes.get(1..)?;
    loop {
        let (kind, rest) = sei_number(left)?;
        let (len, rest) = sei_number(rest)?;
        let (message, rest) = rest.split_at_checked(len)?;
        if kind == SEI_RECOVERY_POINT {
            return BitReader::new(message).unsigned();
        }
        left = rest;
    }
}

/// SEI types and sizes (7.3.2.3.1): as many 0xFF as it takes, then the rest.
fn sei_number(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let full = bytes.iter().take_while(|byte| **byte == 0xff).count();
    let (&last, rest) = bytes.get(full..)?.split_first()?;
    Some((full.checked_mul(255)?.checked_add(usize::from(last))?, rest))
}

const KIND_IDR: u8 = 5;
const KIND_SEI: u8 = 6;
const SEI_RECOVERY_POINT: usize = 6;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_real_configuration_is_understood() {
        let record =
            hex("0142c01fffe100176742c01fda014016ec0440000003004000000f23c60ca801000468ce0fc8");
        let config = AvcConfig::parse(&record).unwrap();
        assert_eq!(config.nal_length_size, 4);
        assert_eq!((config.sps.width, config.sps.height), (1280, 720));
        assert_eq!(config.coded_size, (1280, 720));
    }

    #[test]
    fn the_largest_of_several_parameter_sets_counts() {
        let small = "00176742c01fda014016ec0440000003004000000f23c60ca8";
        let large = "001967640028acd940780227e5c04400000fa40003a9803c60c658";
        let record = format!("0142c01fffe2{small}{large}01000468ce0fc8");
        let config = AvcConfig::parse(&hex(&record)).unwrap();
        assert_eq!((config.sps.width, config.sps.height), (1280, 720));
        assert_eq!(config.coded_size, (1920, 1088));
        let unit = format!("0000{large}00000002{}0000{small}", "65b8");
        assert_eq!(coded_size_within(&hex(&unit), 4), Some((1920, 1088)));
        assert_eq!(coded_size_within(&hex("0000000265b8"), 4), None);
    }

    #[test]
    fn what_is_no_configuration_is_named() {
        for (record, error) in [
            ("", AvcError::Truncated { len: 0 }),
            ("0242c01fffe1000000", AvcError::Version { version: 2 }),
            ("0142c01ffee1000000", AvcError::NalLengthSize),
            ("0142c01fffe000", AvcError::NoSps),
            ("0142c01fffe1000000", AvcError::Sps),
            ("0142c01fffe10017674200", AvcError::Truncated { len: 11 }),
        ] {
            assert_eq!(AvcConfig::parse(&hex(record)), Err(error), "{record}");
        }
    }

    #[test]
    fn where_a_decoder_can_start_and_what_it_can_do_without() {
        // Slices: 65 88 = IDR, I; 41 9a = referenced P; 01 9a = unreferenced P; 41 88 = I without IDR.
        // (what, unit, declared key, keyframe, disposable)
        for (what, unit, declared, keyframe, disposable) in [
            ("an IDR picture", "00000002 6588", true, true, false),
            (
                "an IDR picture the container calls inter",
                "00000002 6588",
                false,
                true,
                false,
            ),
            ("a P picture", "00000002 419a", false, false, false),
            (
                "a P picture the container calls key",
                "00000002 419a",
                true,
                false,
                false,
            ),
            (
                "a P picture without reference",
                "00000002 019a",
                false,
                false,
                true,
            ),
            (
                "one slice of two is referenced",
                "00000002 019a 00000002 419a",
                false,
                false,
                false,
            ),
            (
                "an I picture the container calls key",
                "00000002 4188",
                true,
                true,
                false,
            ),
            (
                "an I picture in the middle of a GOP",
                "00000002 4188",
                false,
                false,
                false,
            ),
            (
                "a recovery point, then P",
                "00000005 060601c480 00000002 419a",
                false,
                true,
                false,
            ),
            (
                "another SEI first",
                "00000008 060501aa0601c480 00000002 419a",
                false,
                true,
                false,
            ),
            (
                "no picture, only SEI",
                "00000005 060601c480",
                true,
                false,
                false,
            ),
            (
                "zeros behind the last unit",
                "00000002 6588 0000",
                true,
                true,
                false,
            ),
            (
                "empty units around",
                "00000000 00000002 6588 00000000",
                true,
                true,
                false,
            ),
        ] {
            let info = UnitInfo::of(&hex(unit), 4).unwrap();
            assert_eq!(
                (info.is_keyframe(declared), info.disposable),
                (keyframe, disposable),
                "{what}: {info:?}"
            );
        }
    }

    #[test]
    fn a_length_past_the_end_is_an_error() {
        for (unit, declared, left) in [
            ("00000003 6588", 3, 2),
            ("ffffffff 6588", 0xffff_ffff, 2),
            ("00000002 6588 0001", 0, 2),
        ] {
            let error = AvcError::NalLength { declared, left };
            assert_eq!(UnitInfo::of(&hex(unit), 4), Err(error), "{unit}");
        }
    }

    #[test]
    fn empty_units_are_taken_out() {
        let unit = Bytes::from(hex("00000000 00000002 6588 00000000 00000001 41"));
        assert!(UnitInfo::of(&unit, 4).unwrap().empty_units);
        assert_eq!(
            without_empty_units(&unit, 4),
            hex("00000002 6588 00000001 41")
        );
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), size in any::<u8>()) {
            let _ = AvcConfig::parse(&bytes);
            let _ = UnitInfo::of(&bytes, size);
            let _ = without_empty_units(&Bytes::from(bytes), size);
        }

        #[test]
        fn damaged_configurations_never_panic(at in 0..38usize, with in any::<u8>(), len in 0..39usize) {
            let mut record = hex("0142c01fffe100176742c01fda014016ec0440000003004000000f23c60ca801000468ce0fc8");
            record[at] = with;
            let _ = AvcConfig::parse(&record);
            let _ = AvcConfig::parse(&record[..len.min(record.len())]);
        }

        /// Whatever the units, the walk gives them back, and cleaning removes exactly the empty ones.
        #[test]
        fn units_survive_their_framing(
            units in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..8),
            size in prop::sample::select(vec![1u8, 2, 4]),
        ) {
            let frame = |units: &[Vec<u8>]| {
                let mut framed = BytesMut::new();
                for unit in units {
                    framed.put_uint(unit.len() as u64, size.into());
                    framed.put_slice(unit);
                }
                framed.freeze()
            };
            let framed = frame(&units);
            let walked: Vec<_> = NalUnits::new(&framed, size).map(|unit| unit.unwrap().bytes.to_vec()).collect();
            prop_assert_eq!(&walked, &units);
            let full: Vec<_> = units.into_iter().filter(|unit| !unit.is_empty()).collect();
            prop_assert_eq!(without_empty_units(&framed, size), frame(&full));
        }
    }

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b' ').collect();
        digits
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect()
    }
}

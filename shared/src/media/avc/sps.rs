//! The sequence parameter set (ITU-T H.264 7.3.2.1.1 and Annex E): the size and rhythm of the pictures.

use super::{
    super::{
        bits::BitReader,
        look::{Colour, SIDE_MAX},
    },
    AvcError,
};

/// What a sequence parameter set says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sps {
    /// `profile_idc`: 66 baseline, 77 main, 100 high.
    pub profile: u8,
    /// `level_idc`: ten times the level.
    pub level: u8,
    /// Luma samples shown, after cropping.
    pub width: u32,
    /// Luma rows shown, after cropping.
    pub height: u32,
    /// Luma samples and rows as they are coded, before cropping: what a decoder allocates.
    pub coded_size: (u32, u32),
    /// Bits of a luma sample.
    pub bit_depth: u8,
    /// `chroma_format_idc`: 1 is 4:2:0.
    pub chroma_format: u8,
    /// Fields or field pairs may be coded.
    pub interlaced: bool,
    /// Frames per second as a fraction, if announced.
    pub frame_rate: Option<(u32, u32)>,
    /// Width and height of one sample, if announced.
    pub sample_aspect: Option<(u16, u16)>,
    /// Most frames that precede another in decode order and follow it in output order, if announced or implied:
    /// 0 means that a decoder can put out each picture at once.
    pub reorder_frames: Option<u8>,
    /// What the numbers of the samples mean, as far as it is said.
    pub colour: Colour,
}

impl Sps {
    /// Parses one NAL unit, with its header byte.
    pub fn parse(unit: &[u8]) -> Result<Self, AvcError> {
        let Some((header, body)) = unit.split_first() else {
            return Err(AvcError::Sps);
        };
        if header & 0x1f != KIND_SPS || body.len() > LEN_MAX {
            return Err(AvcError::Sps);
        }
        parse(&without_emulation(body))
            .filter(|sps| {
                let (columns, rows) = sps.coded_size;
                sps.width > 0 && sps.height > 0 && columns <= SIDE_MAX && rows <= SIDE_MAX
            })
            .ok_or(AvcError::Sps)
    }
}

fn parse(body: &[u8]) -> Option<Sps> {
    let mut reader = BitReader::new(body);
    let profile = reader.byte(8)?;
    let constraints = reader.bits(8)?;
    let level = reader.byte(8)?;
    reader.unsigned()?;
    let format = if HIGH_PROFILES.contains(&profile) {
        Format::parse(&mut reader)?
    } else {
        Format::YUV_420_8
    };

    reader.unsigned().filter(|log2_max| *log2_max <= 12)?;
    let order_kind = picture_order(&mut reader)?;
    let max_references = reader.unsigned()?;
    reader.bit()?;
    let width_in_blocks = reader.unsigned()?.checked_add(1)?;
    let height_in_units = reader.unsigned()?.checked_add(1)?;
    let interlaced = !reader.bit()?;
    if interlaced {
        reader.bit()?;
    }
    reader.bit()?;
    let crop = if reader.bit()? {
        [
            reader.unsigned()?,
            reader.unsigned()?,
            reader.unsigned()?,
            reader.unsigned()?,
        ]
    } else {
        [0; 4]
    };
    // Damage in the announcements of Annex E does not spoil what is known by now.
    let vui = if reader.bit()? {
        Vui::parse(&mut reader)
    } else {
        Vui::default()
    };

    let (crop_x, crop_y) = format.crop_unit(interlaced);
    let shown = |size: u32, before: u32, after: u32, unit: u32| {
        size.checked_sub(before.checked_add(after)?.checked_mul(unit)?)
    };
    let rows = height_in_units.checked_mul(if interlaced { 32 } else { 16 })?;
    let [left, right, top, bottom] = crop;
    // Baseline and constrained profiles know no B pictures; order type 2 means output in decode order; an
    // intra-only profile (constraint_set3 on 44, 100 and above) refers to nothing.
    let implied = (order_kind == 2
        || profile == 66
        || max_references == 0
        || (profile == 44 || profile >= 100) && constraints & 0x10 != 0)
        .then_some(0);
    let columns = width_in_blocks.checked_mul(16)?;
    Some(Sps {
        profile,
        level,
        width: shown(columns, left, right, crop_x)?,
        height: shown(rows, top, bottom, crop_y)?,
        coded_size: (columns, rows),
        bit_depth: format.bit_depth,
        chroma_format: format.chroma,
        interlaced,
        frame_rate: vui.frame_rate,
        sample_aspect: vui.sample_aspect,
        reorder_frames: vui.reorder_frames.or(implied),
        colour: vui.colour,
    })
}

/// Sampling of the picture.
struct Format {
    chroma: u8,
    bit_depth: u8,
    separate_planes: bool,
}

impl Format {
    const YUV_420_8: Self = Self {
        chroma: 1,
        bit_depth: 8,
        separate_planes: false,
    };

    fn parse(reader: &mut BitReader<'_>) -> Option<Self> {
        let chroma = small(reader.unsigned()?, 3)?;
        let separate_planes = chroma == 3 && reader.bit()?;
        let bit_depth = 8 + small(reader.unsigned()?, 6)?;
        reader.unsigned()?;
        reader.bit()?;
        if reader.bit()? {
            let lists = if chroma == 3 { 12 } else { 8 };
            for list in 0..lists {
                if reader.bit()? {
                    skip_scaling_list(reader, if list < 6 { 16 } else { 64 })?;
                }
            }
        }
        Some(Self {
            chroma,
            bit_depth,
            separate_planes,
        })
    }

    /// Luma samples that one step of cropping takes away (equations 7-19 to 7-22).
    fn crop_unit(&self, interlaced: bool) -> (u32, u32) {
        let (x, y) = match self.chroma {
            1 => (2, 2),
            2 => (2, 1),
            _ => (1, 1),
        };
        let (x, y) = if self.separate_planes { (1, 1) } else { (x, y) };
        (x, if interlaced { 2 * y } else { y })
    }
}

fn skip_scaling_list(reader: &mut BitReader<'_>, len: u32) -> Option<()> {
    let (mut last, mut next) = (8, 8);
    for _ in 0..len {
        if next != 0 {
            next = (last + reader.signed()?.clamp(-128, 127)) & 0xff;
        }
        last = if next == 0 { last } else { next };
    }
    Some(())
}

/// Skips the fields of `pic_order_cnt_type` and answers with it.
fn picture_order(reader: &mut BitReader<'_>) -> Option<u32> {
    let kind = reader.unsigned()?;
    match kind {
        0 => {
            reader.unsigned()?;
        }
        1 => {
            reader.bit()?;
            reader.signed()?;
            reader.signed()?;
            let frames = reader.unsigned().filter(|frames| *frames <= 255)?;
            for _ in 0..frames {
                reader.signed()?;
            }
        }
        2 => {}
        _ => return None,
    }
    Some(kind)
}

/// The announcements of Annex E that are used here; each is `None` if absent or damaged.
#[derive(Default)]
struct Vui {
    sample_aspect: Option<(u16, u16)>,
    frame_rate: Option<(u32, u32)>,
    reorder_frames: Option<u8>,
    colour: Colour,
}

impl Vui {
    fn parse(reader: &mut BitReader<'_>) -> Self {
        let mut vui = Self::default();
        let _ = vui.fill(reader);
        vui
    }

    fn fill(&mut self, reader: &mut BitReader<'_>) -> Option<()> {
        if reader.bit()? {
            self.sample_aspect = match reader.bits(8)? as usize {
                255 => Some((word(reader)?, word(reader)?)),
                index => SAMPLE_ASPECTS.get(index).copied(),
            }
            .filter(|(x, y)| *x != 0 && *y != 0);
        }
        if reader.bit()? {
            reader.bit()?;
        }
        if reader.bit()? {
            self.colour.read_signal_type(reader)?;
        }
        if reader.bit()? {
            reader.unsigned()?;
            reader.unsigned()?;
        }
        if reader.bit()? {
            let ticks_per_field = reader.bits(32)?;
            let ticks_per_second = reader.bits(32)?;
            reader.bit()?;
            // Two fields make a frame, also of progressive video.
            self.frame_rate = ticks_per_field
                .checked_mul(2)
                .filter(|ticks| *ticks != 0 && ticks_per_second != 0)
                .map(|ticks| reduced(ticks_per_second, ticks));
        }
        let nal_hrd = reader.bit()?;
        if nal_hrd {
            skip_hrd(reader)?;
        }
        let vcl_hrd = reader.bit()?;
        if vcl_hrd {
            skip_hrd(reader)?;
        }
        if nal_hrd || vcl_hrd {
            reader.bit()?;
        }
        reader.bit()?;
        if reader.bit()? {
            reader.bit()?;
            for _ in 0..4 {
                reader.unsigned()?;
            }
            self.reorder_frames = small(reader.unsigned()?, 16);
        }
        Some(())
    }
}

fn word(reader: &mut BitReader<'_>) -> Option<u16> {
    u16::try_from(reader.bits(16)?).ok()
}

/// The number, if it is at most `max`.
fn small(number: u32, max: u8) -> Option<u8> {
    u8::try_from(number).ok().filter(|number| *number <= max)
}

fn skip_hrd(reader: &mut BitReader<'_>) -> Option<()> {
    let schedules = reader.unsigned().filter(|schedules| *schedules < 32)? + 1;
    reader.skip(8)?;
    for _ in 0..schedules {
        reader.unsigned()?;
        reader.unsigned()?;
        reader.bit()?;
    }
    reader.skip(20)
}

fn reduced(numerator: u32, denominator: u32) -> (u32, u32) {
    let (mut a, mut b) = (numerator, denominator);
    while b != 0 {
        (a, b) = (b, a % b);
    }
    (numerator / a, denominator / a)
}

/// Takes out the 0x03 that keeps start codes from appearing inside a unit (7.4.1).
pub(in crate::media) fn without_emulation(body: &[u8]) -> Vec<u8> {
    let mut clean = Vec::with_capacity(body.len());
    let mut zeros = 0;
    for &byte in body {
        if zeros >= 2 && byte == 3 {
            zeros = 0;
            continue;
        }
        zeros = if byte == 0 { zeros + 1 } else { 0 };
        clean.push(byte);
    }
    clean
}

pub(super) const KIND_SPS: u8 = 7;

/// A parameter set has tens of bytes, some hundreds with scaling lists.
const LEN_MAX: usize = 4096;

/// Profiles whose parameter sets say their chroma format.
const HIGH_PROFILES: [u8; 13] = [100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135];

/// Table E-1.
const SAMPLE_ASPECTS: [(u16, u16); 17] = [
    (0, 0),
    (1, 1),
    (12, 11),
    (10, 11),
    (16, 11),
    (40, 33),
    (24, 11),
    (20, 11),
    (32, 11),
    (80, 33),
    (18, 11),
    (15, 11),
    (64, 33),
    (160, 99),
    (4, 3),
    (3, 2),
    (2, 1),
];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn parameter_sets_of_real_encoders() {
        // (how it was coded by x264, NAL unit, width, height, rate, reorder, interlaced, depth, chroma)
        for (how, unit, width, height, rate, reorder, interlaced, depth, chroma) in [
            (
                "zerolatency",
                "6742c01fda014016ec0440000003004000000f23c60ca8",
                1280,
                720,
                (30, 1),
                0,
                false,
                8,
                1,
            ),
            (
                "-bf 2, cropped to 1080",
                "67640028acd940780227e5c04400000fa40003a9803c60c658",
                1920,
                1080,
                (30_000, 1_001),
                2,
                false,
                8,
                1,
            ),
            (
                "interlaced",
                "67640028acd94078044fde0220000003002000000643e2c5b2c0",
                1920,
                1080,
                (25, 1),
                2,
                true,
                8,
                1,
            ),
            (
                "4:4:4, 362 rows",
                "67f4001f919680a02ff9f011000003000100000300640f1832a0",
                640,
                362,
                (50, 1),
                0,
                false,
                8,
                3,
            ),
            (
                "baseline",
                "6742c00dd901419f9f0110000003001000000303c0f142a480",
                320,
                180,
                (30, 1),
                0,
                false,
                8,
                1,
            ),
            (
                "16:9 of 720x576",
                "67640 01eacb405a0937fe0080005a2000003000200000300641e2c5d40",
                720,
                576,
                (25, 1),
                0,
                false,
                8,
                1,
            ),
            (
                "10 bits, scaling lists",
                "676e001ea6cd940a02ff97011000000300100000030320f162d960",
                640,
                360,
                (25, 1),
                2,
                false,
                10,
                1,
            ),
        ] {
            let sps = Sps::parse(&hex(unit)).unwrap_or_else(|error| panic!("{how}: {error}"));
            assert_eq!((sps.width, sps.height), (width, height), "{how}");
            let whole_blocks = |size: u32| size.div_ceil(16) * 16;
            let coded = (whole_blocks(width), whole_blocks(height));
            assert_eq!(sps.coded_size, coded, "{how}: coded in whole blocks");
            assert_eq!(
                (sps.frame_rate, sps.reorder_frames),
                (Some(rate), Some(reorder)),
                "{how}"
            );
            assert_eq!(
                (sps.interlaced, sps.bit_depth, sps.chroma_format),
                (interlaced, depth, chroma),
                "{how}"
            );
        }
    }

    #[test]
    fn damaged_timing_costs_the_timing_only() {
        let whole = hex("6742c01fda014016ec0440000003004000000f23c60ca8");
        let sps = Sps::parse(&whole[..12]).unwrap();
        assert_eq!((sps.width, sps.height), (1280, 720));
        assert_eq!(sps.frame_rate, None);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic_and_never_make_a_giant(mut bytes in prop::collection::vec(any::<u8>(), 1..120)) {
            bytes[0] = 0x67;
            if let Ok(sps) = Sps::parse(&bytes) {
                let (columns, rows) = sps.coded_size;
                prop_assert!(sps.width <= columns && columns <= SIDE_MAX);
                prop_assert!(sps.height <= rows && rows <= SIDE_MAX);
            }
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

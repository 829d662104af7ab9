//! The sequence parameter set (ITU-T H.265 7.3.2.2 and Annex E): the size of the pictures, and their colours.

mod vui;

use super::{
    super::{
        avc::without_emulation,
        bits::BitReader,
        look::{Colour, SIDE_MAX},
    },
    HevcError, KIND_SPS, kind,
};

/// What a sequence parameter set says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sps {
    /// `general_profile_idc`: 1 main, 2 main 10, 4 range extensions.
    pub profile: u8,
    /// `general_level_idc`: thirty times the level.
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
    /// Temporal layers: 1 to 7.
    pub layers_max: u8,
    /// Most pictures that precede another in decode order and follow it in output order.
    pub reorder_frames: u8,
    /// Each picture is a field.
    pub interlaced: bool,
    /// What the numbers of the samples mean, as far as it is said.
    pub colour: Colour,
}

impl Sps {
    /// Parses one NAL unit, with its header of two bytes.
    pub fn parse(unit: &[u8]) -> Result<Self, HevcError> {
        if kind(unit) != KIND_SPS || unit.len() > LEN_MAX {
            return Err(HevcError::Sps);
        }
        let body = unit.get(2..).unwrap_or_default();
        parse(&without_emulation(body))
            .filter(|sps| {
                let (columns, rows) = sps.coded_size;
                sps.width > 0 && sps.height > 0 && columns <= SIDE_MAX && rows <= SIDE_MAX
            })
            .ok_or(HevcError::Sps)
    }
}

fn parse(body: &[u8]) -> Option<Sps> {
    let mut reader = BitReader::new(body);
    reader.skip(4)?;
    let layers_max = reader
        .byte(3)?
        .checked_add(1)
        .filter(|layers| *layers <= 7)?;
    reader.skip(1)?;
    let (profile, level) = profile_tier_level(&mut reader, layers_max)?;
    reader.unsigned().filter(|id| *id <= 15)?;
    let chroma_format = small(reader.unsigned()?, 3)?;
    let separate_planes = chroma_format == 3 && reader.bit()?;
    let (columns, rows) = (reader.unsigned()?, reader.unsigned()?);
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
    let bit_depth = 8 + small(reader.unsigned()?, 8)?;
    small(reader.unsigned()?, 8)?;
    let order_bits = 4 + u32::from(small(reader.unsigned()?, 12)?);
    let first = if reader.bit()? { 0 } else { layers_max - 1 };
    let mut reorder_frames = 0;
    for _ in first..layers_max {
        reader.unsigned()?;
        // The last is of the highest layer, which has all pictures.
        reorder_frames = small(reader.unsigned()?, 16)?;
        reader.unsigned()?;
    }
    let announced = vui::parse(&mut reader, order_bits);

    // Table 6-1.
    let (unit_x, unit_y) = match chroma_format {
        1 => (2, 2),
        2 if !separate_planes => (2, 1),
        _ => (1, 1),
    };
    let shown = |size: u32, before: u32, after: u32, unit: u32| {
        size.checked_sub(before.checked_add(after)?.checked_mul(unit)?)
    };
    let [left, right, top, bottom] = crop;
    Some(Sps {
        profile,
        level,
        width: shown(columns, left, right, unit_x)?,
        height: shown(rows, top, bottom, unit_y)?,
        coded_size: (columns, rows),
        bit_depth,
        chroma_format,
        layers_max,
        reorder_frames,
        interlaced: announced.interlaced,
        colour: announced.colour,
    })
}

/// Profile and level of the whole (7.3.3); those of single layers are skipped.
fn profile_tier_level(reader: &mut BitReader<'_>, layers_max: u8) -> Option<(u8, u8)> {
    reader.skip(3)?;
    let profile = reader.byte(5)?;
    reader.skip(32 + 48)?;
    let level = reader.byte(8)?;
    let below = usize::from(layers_max - 1);
    let mut present = [(false, false); 7];
    for layer in present.iter_mut().take(below) {
        *layer = (reader.bit()?, reader.bit()?);
    }
    if below > 0 {
        reader.skip(2 * (8 - below))?;
    }
    for (has_profile, has_level) in present {
        reader.skip(if has_profile { 88 } else { 0 })?;
        reader.skip(if has_level { 8 } else { 0 })?;
    }
    Some((profile, level))
}

/// The number, if it is at most `max`.
fn small(number: u32, max: u8) -> Option<u8> {
    u8::try_from(number).ok().filter(|number| *number <= max)
}

/// A parameter set has tens of bytes, some hundreds with scaling lists.
const LEN_MAX: usize = 4096;

//! The rest of the sequence parameter set: tools that have to be passed over, and the announcements of Annex E behind
//! them.

use super::super::super::{bits::BitReader, look::Colour};

/// The announcements that are used here; each is its default if absent or damaged.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Vui {
    pub(super) interlaced: bool,
    pub(super) colour: Colour,
}

/// From `log2_min_luma_coding_block_size_minus3` on. Damage here does not spoil what was read before.
pub(super) fn parse(reader: &mut BitReader<'_>, order_bits: u32) -> Vui {
    let mut vui = Vui::default();
    if let Some(true) = pass_tools(reader, order_bits) {
        let _ = vui.fill(reader);
    }
    vui
}

impl Vui {
    fn fill(&mut self, reader: &mut BitReader<'_>) -> Option<()> {
        if reader.bit()? && reader.byte(8)? == 255 {
            reader.skip(32)?;
        }
        if reader.bit()? {
            reader.skip(1)?;
        }
        if reader.bit()? {
            self.colour.read_signal_type(reader)?;
        }
        if reader.bit()? {
            reader.unsigned()?;
            reader.unsigned()?;
        }
        reader.skip(1)?;
        self.interlaced = reader.bit()?;
        Some(())
    }
}

/// Whether there is an Annex E behind the tools.
fn pass_tools(reader: &mut BitReader<'_>, order_bits: u32) -> Option<bool> {
    // Sizes of blocks and depths of trees.
    for _ in 0..6 {
        reader.unsigned()?;
    }
    if reader.bit()? && reader.bit()? {
        pass_scaling_lists(reader)?;
    }
    reader.skip(2)?;
    if reader.bit()? {
        reader.skip(8)?;
        reader.unsigned()?;
        reader.unsigned()?;
        reader.skip(1)?;
    }
    let sets = reader.unsigned().filter(|sets| *sets <= 64)?;
    let mut pictures = 0;
    for set in 0..sets {
        pictures = pass_reference_set(reader, set > 0, pictures)?;
    }
    if reader.bit()? {
        for _ in 0..reader.unsigned().filter(|count| *count <= 32)? {
            reader.bits(order_bits)?;
            reader.skip(1)?;
        }
    }
    reader.skip(2)?;
    reader.bit()
}

/// `scaling_list_data` (7.3.4).
fn pass_scaling_lists(reader: &mut BitReader<'_>) -> Option<()> {
    for size in 0..4 {
        for _ in 0..if size == 3 { 2 } else { 6 } {
            if !reader.bit()? {
                reader.unsigned()?;
                continue;
            }
            if size > 1 {
                reader.signed()?;
            }
            for _ in 0..64.min(1 << (4 + 2 * size)) {
                reader.signed()?;
            }
        }
    }
    Some(())
}

/// `st_ref_pic_set` (7.3.7): how many pictures it names. `before` is that number of the set before it.
fn pass_reference_set(reader: &mut BitReader<'_>, has_before: bool, before: u32) -> Option<u32> {
    let pictures = if has_before && reader.bit()? {
        reader.skip(1)?;
        reader.unsigned()?;
        let mut pictures = 0;
        for _ in 0..=before {
            let is_used = reader.bit()?;
            pictures += u32::from(is_used || reader.bit()?);
        }
        pictures
    } else {
        let pictures = reader.unsigned()?.checked_add(reader.unsigned()?)?;
        for _ in 0..pictures {
            reader.unsigned()?;
            reader.skip(1)?;
        }
        pictures
    };
    // 7.4.8: no more than the decoder keeps.
    (pictures <= 16).then_some(pictures)
}

//! How pictures look, whatever the codec: what a studio has to know before it shows them.

use super::bits::BitReader;

/// What the numbers of the samples mean (ITU-T H.273).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Colour {
    /// Black is 0 and white the largest number, instead of 16 and 235.
    pub full_range: bool,
    /// `colour_primaries`, `transfer_characteristics` and `matrix_coefficients`, if announced: 1 each is BT.709.
    pub description: Option<(u8, u8, u8)>,
}

impl Colour {
    /// Reads what follows `video_signal_type_present_flag` in the announcements of H.264 and H.265 (Annex E of both). What
    /// was read before damage counts.
    pub(super) fn read_signal_type(&mut self, reader: &mut BitReader<'_>) -> Option<()> {
        reader.skip(3)?;
        self.full_range = reader.bit()?;
        if reader.bit()? {
            let mut code = || reader.byte(8);
            self.description = Some((code()?, code()?, code()?));
        }
        Some(())
    }
}

/// How the pictures of a feed look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// Samples and rows that are shown.
    pub size: (u32, u32),
    /// Fields, or pairs of them, may be coded.
    pub interlaced: bool,
    /// What the numbers of the samples mean, as far as it is said.
    pub colour: Colour,
}

/// Twice the width of 8K: more is damage or an attack on whoever allocates pictures.
pub(super) const SIDE_MAX: u32 = 16_384;

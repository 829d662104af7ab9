//! The picture of a source that has none: a neutral card.
//!
//! Dark grey, a little lighter in the middle, and nothing else. No name, no text, no bars: it may reach program, and
//! nothing surprising may. Pure.

use crate::output::{BufferPool, Picture};

/// A card of this size; `width` is made even, neither is 0.
pub(super) fn card(pool: &BufferPool, width: u32, height: u32) -> Picture {
    let (width, height) = (width.max(2).next_multiple_of(2), height.max(2));
    let mut pixels = pool.take(Picture::byte_len(width, height));
    let mut dither = Dither(0x9e37_79b9);
    for (row, line) in (0..height).zip(pixels.chunks_exact_mut(width as usize * 2)) {
        let light = BASE + GLOW * bell(row, height);
        for (pair, group) in (0..width).step_by(2).zip(line.chunks_exact_mut(4)) {
            // Between limited range's black (16) and a tenth of the way to white.
            let luma = light * (0.6 + 0.4 * bell(pair, width));
            let mut dithered = || to_luma(luma + dither.next());
            group.copy_from_slice(&[128, dithered(), 128, dithered()]);
        }
    }
    #[expect(clippy::cast_precision_loss, reason = "a picture's size")]
    let aspect = width as f32 / height as f32;
    Picture {
        width,
        height,
        aspect,
        pixels,
    }
}

/// 0 at the edges, 1 in the middle.
#[expect(clippy::cast_precision_loss, reason = "a picture's size")]
fn bell(at: u32, len: u32) -> f32 {
    let from_middle = 2.0 * (at as f32 + 0.5) / len as f32 - 1.0;
    (1.0 - from_middle * from_middle).max(0.0)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "between 16 and 60"
)]
fn to_luma(value: f32) -> u8 {
    value.clamp(16.0, 60.0) as u8
}

/// Noise of one step, so that a slope of twenty steps does not show them.
struct Dither(u32);

impl Dither {
    /// 0 to 1.
    #[expect(clippy::cast_precision_loss, reason = "16 bits")]
    fn next(&mut self) -> f32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        (self.0 & 0xffff) as f32 / 65_536.0
    }
}

const BASE: f32 = 20.0;
const GLOW: f32 = 24.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_card_is_dark_grey_and_nothing_else() {
        for (width, height) in [(1280, 720), (1, 1), (0, 0), (641, 3)] {
            let card = card(&BufferPool::default(), width, height);
            assert!(card.width.is_multiple_of(2) && card.width >= 2);
            assert_eq!(
                card.pixels.len(),
                Picture::byte_len(card.width, card.height)
            );
            for group in card.pixels.chunks_exact(4) {
                assert!(group[0] == 128 && group[2] == 128);
                assert!((16..=60).contains(&group[1]) && (16..=60).contains(&group[3]));
            }
        }
    }
}

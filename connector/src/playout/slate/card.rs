//! The pixels of cards. Pure.
//!
//! The neutral card is dark grey, a little lighter in the middle, and nothing else. Text is grey on it, inside the
//! title-safe area. Everything is within limited range and without colour.

use super::{Format, Words, text::Typesetter};
use crate::output::{BufferPool, Picture};

/// The neutral card without anything to read.
pub(in crate::playout) fn card(format: Format) -> Picture {
    let mut picture = blank(format);
    let (width, height) = (picture.width, picture.height);
    let mut dither = Dither(0x9e37_79b9);
    for (row, line) in (0..height).zip(picture.pixels.chunks_exact_mut(width as usize * 2)) {
        let light = BASE + GLOW * bell(row, height);
        for (pair, group) in (0..width).step_by(2).zip(line.chunks_exact_mut(4)) {
            // Between limited range's black (16) and a tenth of the way to white.
            let luma = light * (0.6 + 0.4 * bell(pair, width));
            let mut dithered = || to_luma(luma + dither.next());
            group.copy_from_slice(&[128, dithered(), 128, dithered()]);
        }
    }
    picture
}

/// Black.
pub(super) fn black(format: Format) -> Picture {
    let mut picture = blank(format);
    for group in picture.pixels.chunks_exact_mut(4) {
        group.copy_from_slice(&[128, 16, 128, 16]);
    }
    picture
}

/// The neutral card with a line's name.
pub(super) fn named(format: Format, name: &str, typesetter: &mut Typesetter) -> Picture {
    let mut picture = card(format);
    let column = Column::of(&picture);
    let ink = typesetter.set(name, column.width, picture.height / 8, 3);
    let top = (picture.height.saturating_sub(ink.height)) / 2;
    print(&mut picture, &ink, column.left, top, NAME_LUMA);
    picture
}

/// The neutral card with a line's name, what is wrong with it, and what to do.
pub(super) fn diagnostic(
    format: Format,
    name: &str,
    words: &Words,
    typesetter: &mut Typesetter,
) -> Picture {
    let mut picture = card(format);
    let column = Column::of(&picture);
    let height = picture.height;
    let words = words.bounded();
    let blocks = [
        (name, height / 10, 2, NAME_LUMA),
        (words.reason.as_str(), height / 16, 4, TEXT_LUMA),
        (words.remedy.as_str(), height / 20, 4, NAME_LUMA),
    ]
    .map(|(text, size, lines_max, luma)| {
        (typesetter.set(text, column.width, size, lines_max), luma)
    });
    let gap = height / 24;
    let inked: u32 = blocks.iter().map(|(ink, _)| ink.height + gap).sum();
    let mut top = height.saturating_sub(inked.saturating_sub(gap)) / 2;
    for (ink, luma) in &blocks {
        print(&mut picture, ink, column.left, top, *luma);
        top += ink.height + gap;
    }
    picture
}

/// Where text goes: a tenth of the width is left free on both sides.
struct Column {
    left: u32,
    width: u32,
}

impl Column {
    const fn of(picture: &Picture) -> Self {
        let left = picture.width / 10;
        Self {
            left,
            width: picture.width - 2 * left,
        }
    }
}

/// How much of each pixel is covered by text: 255 is all of it.
#[derive(Debug, Default)]
pub(super) struct Ink {
    pub(super) width: u32,
    pub(super) height: u32,
    /// Row after row.
    pub(super) coverage: Vec<u8>,
}

/// Puts text on a picture; what would lie outside is left out.
fn print(picture: &mut Picture, ink: &Ink, left: u32, top: u32, luma: u8) {
    let (width, rows) = (picture.width as usize, ink.width.max(1) as usize);
    let lines = picture.pixels.chunks_exact_mut(width * 2);
    for (line, covered) in lines
        .skip(top as usize)
        .zip(ink.coverage.chunks_exact(rows))
    {
        let pixels = line.chunks_exact_mut(2).skip(left as usize);
        for (pixel, coverage) in pixels.zip(covered) {
            if let [_, own] = pixel {
                *own = blend(*own, luma, *coverage);
            }
        }
    }
}

/// `coverage` of 255 is all `over`.
pub(super) fn blend(under: u8, over: u8, coverage: u8) -> u8 {
    let mixed =
        u32::from(under) * (255 - u32::from(coverage)) + u32::from(over) * u32::from(coverage);
    u8::try_from((mixed + 127) / 255).unwrap_or(over)
}

/// A picture of this format, its pixels still undefined; of even width, neither side 0.
pub(super) fn blank(format: Format) -> Picture {
    let (width, height) = (
        format.width.max(2).next_multiple_of(2),
        format.height.max(2),
    );
    Picture {
        width,
        height,
        aspect: format.aspect,
        // A card lives long and is drawn once: no pool keeps its memory.
        pixels: BufferPool::default().take(Picture::byte_len(width, height)),
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

/// Light grey: read at the size of a multiviewer's tile, and never brighter than a picture.
const NAME_LUMA: u8 = 170;
const TEXT_LUMA: u8 = 220;

#[cfg(test)]
mod tests {
    use super::*;

    fn format(width: u32, height: u32) -> Format {
        Format {
            width,
            height,
            ..Format::DEFAULT
        }
    }

    #[test]
    fn the_neutral_card_is_dark_grey_and_nothing_else() {
        for (width, height) in [(1280, 720), (1, 1), (0, 0), (641, 3)] {
            let card = card(format(width, height));
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

    /// Rows and columns that differ from the neutral card: from, to.
    fn inked(picture: &Picture) -> Option<((usize, usize), (usize, usize))> {
        let neutral = card(format(picture.width, picture.height));
        let width = picture.width as usize;
        let (mut rows, mut columns) = (Vec::new(), Vec::new());
        for (index, (a, b)) in picture.pixels.iter().zip(neutral.pixels.iter()).enumerate() {
            if a != b {
                assert_eq!(index % 2, 1, "no colour");
                rows.push(index / 2 / width);
                columns.push(index / 2 % width);
            }
        }
        let span = |all: &[usize]| Some((*all.iter().min()?, *all.iter().max()?));
        Some((span(&rows)?, span(&columns)?))
    }

    #[test]
    fn a_name_is_inside_the_title_safe_area_at_any_size() {
        let mut typesetter = Typesetter::embedded();
        for (width, height) in [
            (1280, 720),
            (1920, 1080),
            (3840, 2160),
            (640, 360),
            (360, 640),
        ] {
            for name in ["Camera 1", &"W".repeat(64), &"カメラ ".repeat(16), "i"] {
                let card = named(format(width, height), name, &mut typesetter);
                let ((top, bottom), (left, right)) = inked(&card).unwrap();
                let (width, height) = (width as usize, height as usize);
                assert!(
                    left >= width / 10 && right < width - width / 10,
                    "{name} {width}"
                );
                assert!(
                    top >= height / 10 && bottom < height - height / 10,
                    "{name} {width}"
                );
            }
        }
    }

    #[test]
    fn a_rehearsal_card_has_its_three_texts_below_each_other() {
        let mut typesetter = Typesetter::embedded();
        let words = Words {
            reason: "The network to the relay was lost.".to_owned(),
            remedy: "Look at the modem.".to_owned(),
        };
        for (width, height) in [(1280, 720), (3840, 2160)] {
            let format = format(width, height);
            let card = diagnostic(format, "Camera 1", &words, &mut typesetter);
            let neutral = super::card(format);
            let row_len = width as usize * 2;
            let is_inked: Vec<bool> = (card.pixels.chunks_exact(row_len))
                .zip(neutral.pixels.chunks_exact(row_len))
                .map(|(row, neutral)| row != neutral)
                .collect();
            let blocks = is_inked
                .split(|is_inked| !is_inked)
                .filter(|rows| !rows.is_empty())
                .count();
            assert!(blocks >= 3, "{blocks} at {width}");
            let brightest = card.pixels.chunks_exact(2).map(|pixel| pixel[1]).max();
            assert_eq!(brightest, Some(TEXT_LUMA));
        }
        let endless = Words {
            reason: "Wort ".repeat(500),
            remedy: "x".repeat(5_000),
        };
        let card = diagnostic(
            format(1280, 720),
            &"W".repeat(64),
            &endless,
            &mut typesetter,
        );
        let ((top, bottom), _) = inked(&card).unwrap();
        assert!(top >= 36 && bottom < 720 - 36, "{top} {bottom}");
    }

    #[test]
    fn blending_is_exact_at_its_ends() {
        assert_eq!(
            (blend(40, 200, 0), blend(40, 200, 255), blend(40, 200, 128)),
            (40, 200, 120)
        );
    }
}

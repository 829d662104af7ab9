//! The moving test picture: a stamp for programs, a clock for people, and movement for the codec.
//!
//! Planar YUV 4:2:0 in limited range. A bar sweeps once a second and the frame flashes white when a whole second of
//! the wall clock begins, together with the beep: lip sync can be judged by eye. No I/O and no clock.

use crate::stamp::Stamp;

/// Paints one picture after another into one buffer.
#[derive(Debug)]
pub struct Painter {
    width: usize,
    height: usize,
    /// Luma, then U, then V.
    picture: Vec<u8>,
    background: Vec<u8>,
}

impl Painter {
    /// For pictures of `width` by `height` pixels, both even. `source` colours the picture, so that two sources
    /// are told apart by eye as well.
    ///
    /// # Panics
    /// When a dimension is odd or the picture is too small for the stamp.
    pub fn new(width: usize, height: usize, source: u8) -> Self {
        assert!(
            width.is_multiple_of(2) && height.is_multiple_of(2) && width >= 320 && height >= 180,
            "{width}x{height}: both sides must be even, and 320x180 is the least"
        );
        let luma = width * height;
        let mut background = vec![0; luma * 3 / 2];
        for (y, line) in background[..luma].chunks_exact_mut(width).enumerate() {
            for (x, sample) in line.iter_mut().enumerate() {
                *sample = 40 + u8::try_from((x * 60 / width) + (y * 40 / height)).unwrap_or(0);
            }
        }
        let (u, v) = HUES[usize::from(source) % HUES.len()];
        background[luma..luma * 5 / 4].fill(u);
        background[luma * 5 / 4..].fill(v);
        Self {
            width,
            height,
            picture: background.clone(),
            background,
        }
    }

    /// The picture that carries `stamp`, valid until the next call.
    pub fn paint(&mut self, stamp: Stamp) -> &[u8] {
        self.picture.copy_from_slice(&self.background);
        let phase_us = usize::try_from(stamp.wall_us % 1_000_000).unwrap_or(0);
        self.sweep(phase_us);
        if phase_us < FLASH_US {
            self.frame();
        }
        self.text(
            &clock_text(stamp.wall_us),
            self.height * 4 / 9,
            self.height / 8,
        );
        self.text(
            &format!("{:06}", stamp.number),
            self.height * 2 / 3,
            self.height / 16,
        );
        let luma = self.width * self.height;
        stamp.write(&mut self.picture[..luma], self.width);
        &self.picture
    }

    /// A bar that crosses the lower part of the picture once a second.
    fn sweep(&mut self, phase_us: usize) {
        let bar = self.width / 40;
        let left = phase_us * (self.width - bar) / 1_000_000;
        self.fill(left, self.height * 5 / 6, bar, self.height / 9, LIGHT);
    }

    /// A white frame around the picture.
    fn frame(&mut self) {
        let (width, height, rim) = (self.width, self.height, self.height / 40);
        self.fill(0, height - rim, width, rim, LIGHT);
        self.fill(width - rim, 0, rim, height, LIGHT);
        self.fill(0, 0, rim, height, LIGHT);
    }

    /// `text` of digits and marks, centred, `size` pixels high, from line `top`.
    fn text(&mut self, text: &str, top: usize, size: usize) {
        let dot = (size / GLYPH_ROWS).max(1);
        let advance = (GLYPH_COLUMNS + 1) * dot;
        let mut left = self.width.saturating_sub(text.len() * advance) / 2;
        for character in text.bytes() {
            for (row, line) in glyph(character).iter().enumerate() {
                for column in 0..GLYPH_COLUMNS {
                    if line >> (GLYPH_COLUMNS - 1 - column) & 1 == 1 {
                        self.fill(left + column * dot, top + row * dot, dot, dot, LIGHT);
                    }
                }
            }
            left += advance;
        }
    }

    fn fill(&mut self, left: usize, top: usize, width: usize, height: usize, level: u8) {
        let right = (left + width).min(self.width);
        let bottom = (top + height).min(self.height);
        for line in self.picture[top * self.width..bottom * self.width].chunks_exact_mut(self.width)
        {
            line[left..right].fill(level);
        }
    }
}

/// `HH:MM:SS.mmm` of the day in UTC.
fn clock_text(wall_us: u64) -> String {
    let ms = wall_us / 1000;
    let seconds = ms / 1000;
    format!(
        "{:02}:{:02}:{:02}.{:03}",
        seconds / 3600 % 24,
        seconds / 60 % 60,
        seconds % 60,
        ms % 1000
    )
}

/// Rows of five dots, leftmost highest.
fn glyph(character: u8) -> [u8; GLYPH_ROWS] {
    match character {
        b'0' => [0x0E, 0x11, 0x13, 0x15, 0x19, 0x11, 0x0E],
        b'1' => [0x04, 0x0C, 0x04, 0x04, 0x04, 0x04, 0x0E],
        b'2' => [0x0E, 0x11, 0x01, 0x02, 0x04, 0x08, 0x1F],
        b'3' => [0x1F, 0x02, 0x04, 0x02, 0x01, 0x11, 0x0E],
        b'4' => [0x02, 0x06, 0x0A, 0x12, 0x1F, 0x02, 0x02],
        b'5' => [0x1F, 0x10, 0x1E, 0x01, 0x01, 0x11, 0x0E],
        b'6' => [0x06, 0x08, 0x10, 0x1E, 0x11, 0x11, 0x0E],
        b'7' => [0x1F, 0x01, 0x02, 0x04, 0x08, 0x08, 0x08],
        b'8' => [0x0E, 0x11, 0x11, 0x0E, 0x11, 0x11, 0x0E],
        b'9' => [0x0E, 0x11, 0x11, 0x0F, 0x01, 0x02, 0x0C],
        b':' => [0x00, 0x04, 0x04, 0x00, 0x04, 0x04, 0x00],
        b'.' => [0x00, 0x00, 0x00, 0x00, 0x00, 0x0C, 0x0C],
        _ => [0; GLYPH_ROWS],
    }
}

const GLYPH_ROWS: usize = 7;
const GLYPH_COLUMNS: usize = 5;
const LIGHT: u8 = 220;
/// As long as the beep.
const FLASH_US: usize = 50_000;
/// U and V of muted blue, green, red, violet.
const HUES: [(u8, u8); 4] = [(150, 115), (115, 110), (115, 155), (145, 145)];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stamp::{Luma, Reading};

    #[test]
    fn nothing_is_painted_over_the_stamp() {
        for wall_us in [1_795_000_000_010_000, 1_795_000_000_990_000] {
            let stamp = Stamp {
                wall_us,
                number: 7,
                source: 1,
            };
            let mut painter = Painter::new(1280, 720, 1);
            let luma = Luma {
                samples: painter.paint(stamp),
                pixel_stride: 1,
                line_stride: 1280,
                width: 1280,
                height: 720,
            };
            assert_eq!(Stamp::read(luma), Reading::Stamp(stamp));
        }
    }

    #[test]
    fn the_clock_is_the_time_of_day() {
        assert_eq!(
            clock_text(86_400_000_000 * 3 + 3_723_004_000),
            "01:02:03.004"
        );
    }
}

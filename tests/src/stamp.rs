//! A time stamp in the picture that a program can read back after codec, NDI and scaling.
//!
//! ```text
//! 112 bits, row by row, highest bit first, as black and white cells in the top left corner:
//! | sync 16 | wall clock 48, 100 µs since the Unix epoch | picture number 24 | source 8 | CRC-16 |
//! ```
//!
//! 16 columns and 7 rows of cells of 1/48 of the width by 1/27 of the height (27×27 pixels at 720p), so the stamp
//! scales with the picture. Only luma is used: chroma is subsampled and converted on the way. The CRC covers what
//! lies between it and the sync word. No I/O and no clock.

/// What one picture says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// When the picture was made: microseconds since the Unix epoch, in steps of 100.
    pub wall_us: u64,
    /// Number of the picture, from zero, 24 bits: 77 hours at 60 pictures a second.
    pub number: u32,
    /// Which source made it, where several might be mixed up.
    pub source: u8,
}

/// What [`Stamp::read`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// No sync word: a picture that was never stamped, a card for example.
    Absent,
    /// A sync word and a wrong checksum: a stamped picture that was damaged.
    Damaged,
    /// A stamp.
    Stamp(Stamp),
}

/// A view of the luma samples of a picture in memory, whatever its pixel format.
#[derive(Clone, Copy, Debug)]
pub struct Luma<'a> {
    /// From the first luma sample on.
    pub samples: &'a [u8],
    /// Bytes from one sample to its right neighbour: 1 planar, 2 in UYVY.
    pub pixel_stride: usize,
    /// Bytes from one line to the next.
    pub line_stride: usize,
    /// Pixels.
    pub width: usize,
    /// Lines.
    pub height: usize,
}

impl Luma<'_> {
    fn at(&self, x: usize, y: usize) -> Option<u8> {
        self.samples
            .get(y * self.line_stride + x * self.pixel_stride)
            .copied()
    }
}

impl Stamp {
    /// Paints the stamp into a planar luma plane of `width` samples a line.
    ///
    /// # Panics
    /// When the plane is smaller than one line.
    pub fn write(&self, plane: &mut [u8], width: usize) {
        let height = plane.len() / width;
        let bits = self.bits();
        for row in 0..ROWS {
            let (top, bottom) = edges(row, height, ROWS_PER_PICTURE);
            for line in plane[top * width..bottom * width].chunks_exact_mut(width) {
                for column in 0..COLUMNS {
                    let (left, right) = edges(column, width, COLUMNS_PER_PICTURE);
                    let bit = bits >> (COLUMNS * ROWS - 1 - (row * COLUMNS + column)) & 1;
                    line[left..right].fill(if bit == 1 { WHITE } else { BLACK });
                }
            }
        }
    }

    /// Looks for a stamp.
    pub fn read(luma: Luma<'_>) -> Reading {
        let mut bits = 0_u128;
        for row in 0..ROWS {
            for column in 0..COLUMNS {
                let Some(level) = cell_level(luma, column, row) else {
                    return Reading::Absent;
                };
                bits = bits << 1 | u128::from(level > MIDDLE);
            }
        }
        Self::from_bits(bits)
    }

    fn bits(&self) -> u128 {
        let body = u128::from((self.wall_us / TICK_US) & CLOCK_MASK) << 32
            | u128::from(self.number & NUMBER_MASK) << 8
            | u128::from(self.source);
        u128::from(SYNC) << 96 | body << 16 | u128::from(crc16(body))
    }

    fn from_bits(bits: u128) -> Reading {
        if bits >> 96 != u128::from(SYNC) {
            return Reading::Absent;
        }
        let body = bits >> 16 & BODY_MASK;
        if u128::from(crc16(body)) != bits & 0xFFFF {
            return Reading::Damaged;
        }
        #[expect(
            clippy::cast_possible_truncation,
            reason = "each field is masked to its width"
        )]
        Reading::Stamp(Self {
            wall_us: (body >> 32) as u64 * TICK_US,
            number: (body >> 8) as u32 & NUMBER_MASK,
            source: body as u8,
        })
    }
}

/// Mean luma of the inner half of a cell: its rim bleeds into the neighbours when the picture is scaled or coded.
fn cell_level(luma: Luma<'_>, column: usize, row: usize) -> Option<u32> {
    let (left, right) = inner(edges(column, luma.width, COLUMNS_PER_PICTURE));
    let (top, bottom) = inner(edges(row, luma.height, ROWS_PER_PICTURE));
    let (mut sum, mut count) = (0_u32, 0_u32);
    for y in (top..bottom).step_by(2) {
        for x in (left..right).step_by(2) {
            sum += u32::from(luma.at(x, y)?);
            count += 1;
        }
    }
    sum.checked_div(count)
}

fn edges(index: usize, size: usize, cells: usize) -> (usize, usize) {
    (index * size / cells, (index + 1) * size / cells)
}

fn inner((low, high): (usize, usize)) -> (usize, usize) {
    let rim = (high - low) / 4;
    (low + rim, high - rim)
}

/// CRC-16/CCITT of the low 80 bits.
fn crc16(body: u128) -> u16 {
    body.to_be_bytes()[6..].iter().fold(0xFFFF, |crc, byte| {
        (0..8).fold(crc ^ u16::from(*byte) << 8, |crc, _| {
            if crc & 0x8000 == 0 {
                crc << 1
            } else {
                crc << 1 ^ 0x1021
            }
        })
    })
}

const SYNC: u16 = 0xA53C;
const COLUMNS: usize = 16;
const ROWS: usize = 7;
const COLUMNS_PER_PICTURE: usize = 48;
const ROWS_PER_PICTURE: usize = 27;
/// Limited range, as everything on the way expects.
const BLACK: u8 = 16;
const WHITE: u8 = 235;
const MIDDLE: u32 = 125;
const TICK_US: u64 = 100;
const CLOCK_MASK: u64 = (1 << 48) - 1;
const NUMBER_MASK: u32 = (1 << 24) - 1;
const BODY_MASK: u128 = (1 << 80) - 1;

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: Stamp = Stamp {
        wall_us: 1_795_000_000_123_400,
        number: 70_000,
        source: 3,
    };

    fn plane(width: usize, height: usize) -> Vec<u8> {
        let mut plane = vec![90; width * height];
        STAMP.write(&mut plane, width);
        plane
    }

    fn luma(samples: &[u8], width: usize, height: usize) -> Luma<'_> {
        Luma {
            samples,
            pixel_stride: 1,
            line_stride: width,
            width,
            height,
        }
    }

    #[test]
    fn a_stamp_reads_back_at_every_usual_size() {
        for (width, height) in [
            (640, 360),
            (854, 480),
            (1280, 720),
            (1920, 1080),
            (3840, 2160),
        ] {
            let plane = plane(width, height);
            assert_eq!(
                Stamp::read(luma(&plane, width, height)),
                Reading::Stamp(STAMP),
                "{width}x{height}"
            );
        }
    }

    #[test]
    fn a_stamp_reads_back_from_packed_pixels_with_padded_lines() {
        let (width, height, line_stride) = (1280, 720, 1280 * 2 + 64);
        let planar = plane(width, height);
        let mut packed = vec![128; line_stride * height];
        for (y, line) in planar.chunks_exact(width).enumerate() {
            for (x, sample) in line.iter().enumerate() {
                packed[y * line_stride + x * 2 + 1] = *sample;
            }
        }
        let view = Luma {
            samples: &packed[1..],
            pixel_stride: 2,
            line_stride,
            width,
            height,
        };
        assert_eq!(Stamp::read(view), Reading::Stamp(STAMP));
    }

    #[test]
    fn a_picture_without_a_stamp_is_not_called_damaged() {
        assert_eq!(
            Stamp::read(luma(&vec![90; 1280 * 720], 1280, 720)),
            Reading::Absent
        );
    }

    #[test]
    fn one_flipped_cell_is_called_damaged() {
        let mut plane = plane(1280, 720);
        // The last cell of the second row is one bit of the clock.
        for line in plane.chunks_exact_mut(1280).skip(27).take(26) {
            for sample in &mut line[400..426] {
                *sample = BLACK + WHITE - *sample;
            }
        }
        assert_eq!(Stamp::read(luma(&plane, 1280, 720)), Reading::Damaged);
    }
}

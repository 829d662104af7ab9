//! Text in any script: shaped, laid out and drawn as coverage.
//!
//! The fonts in `connector/fonts` are part of the program, so a card looks the same on every machine and needs nothing
//! installed: Latin, Greek, Cyrillic, Devanagari, Hebrew, Arabic, and Chinese, Japanese and Korean. For what they lack
//! the system's fonts are asked, once; what nobody has is drawn as a box, with a word in the log.

use std::sync::Arc;

use cosmic_text::{
    Align, Attrs, Buffer, Family, FontSystem, Metrics, Shaping, SwashCache, SwashContent, Wrap,
    fontdb::{Database, Source},
};

use tracing::warn;

use super::card::Ink;

/// Sets text. Not cheap to make: 5 MB of fonts are looked through.
pub(super) struct Typesetter {
    fonts: FontSystem,
    cache: SwashCache,
    /// The system's fonts are in `fonts` too, or must not be.
    is_complete: bool,
}

impl Typesetter {
    /// With the fonts of the program; the system's when they are needed.
    pub(super) fn new() -> Self {
        Self {
            fonts: fonts(false),
            cache: SwashCache::new(),
            is_complete: false,
        }
    }

    /// With nothing but the fonts of the program.
    #[cfg(test)]
    pub(super) fn embedded() -> Self {
        Self {
            is_complete: true,
            ..Self::new()
        }
    }

    /// Sets `text` centred in a column of `width` pixels, in lines of `size` pixels or smaller, so that it takes
    /// `lines_max` at most; what does not fit at the smallest size is cut off.
    pub(super) fn set(&mut self, text: &str, width: u32, size: u32, lines_max: u32) -> Ink {
        let smallest = size / SHRINK_MAX;
        let mut size = size;
        let mut buffer = self.lay_out(text, width, size);
        if !self.is_complete && lacks_glyphs(&buffer) {
            self.fonts = fonts(true);
            self.cache = SwashCache::new();
            self.is_complete = true;
            buffer = self.lay_out(text, width, size);
            if lacks_glyphs(&buffer) {
                warn!(
                    text,
                    "no font on this machine has all characters of a line's name"
                );
            }
        }
        while size > smallest.max(1) && !fits(&buffer, width, lines_max) {
            size = (size - size.div_ceil(10)).max(smallest.max(1));
            buffer = self.lay_out(text, width, size);
        }
        self.draw(&buffer, width, size, lines_max)
    }

    fn lay_out(&mut self, text: &str, width: u32, size: u32) -> Buffer {
        let (size, line) = (to_f32(size), to_f32(line_height(size)));
        let mut buffer = Buffer::new(&mut self.fonts, Metrics::new(size, line));
        buffer.set_wrap(Wrap::WordOrGlyph);
        buffer.set_size(Some(to_f32(width)), None);
        let attributes = Attrs::new().family(Family::Name(FAMILY));
        buffer.set_text(text, &attributes, Shaping::Advanced, Some(Align::Center));
        buffer.shape_until_scroll(&mut self.fonts, false);
        buffer
    }

    fn draw(&mut self, buffer: &Buffer, width: u32, size: u32, lines_max: u32) -> Ink {
        let lines = u32::try_from(buffer.layout_runs().count()).unwrap_or(lines_max);
        let height = lines.min(lines_max) * line_height(size);
        let mut ink = Ink {
            width,
            height,
            coverage: vec![0; width as usize * height as usize],
        };
        for run in buffer.layout_runs().take(lines_max as usize) {
            for glyph in run.glyphs {
                let placed = glyph.physical((0.0, run.line_y), 1.0);
                let Some(image) = self
                    .cache
                    .get_image_uncached(&mut self.fonts, placed.cache_key)
                else {
                    continue;
                };
                let bytes = match image.content {
                    SwashContent::Mask => 1,
                    // Coloured emoji and the like: their shape.
                    SwashContent::Color | SwashContent::SubpixelMask => 4,
                };
                let rows = image.placement.width.max(1) as usize * bytes;
                let left = placed.x + image.placement.left;
                let top = placed.y - image.placement.top;
                for (row, y) in image.data.chunks_exact(rows).zip(top..) {
                    for (pixel, x) in row.chunks_exact(bytes).zip(left..) {
                        ink.add(x, y, pixel.last().copied().unwrap_or(0));
                    }
                }
            }
        }
        ink
    }
}

impl std::fmt::Debug for Typesetter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Typesetter").finish_non_exhaustive()
    }
}

impl Ink {
    fn add(&mut self, x: i32, y: i32, coverage: u8) {
        let (Ok(x), Ok(y)) = (u32::try_from(x), u32::try_from(y)) else {
            return;
        };
        if x < self.width {
            let index = y as usize * self.width as usize + x as usize;
            if let Some(pixel) = self.coverage.get_mut(index) {
                *pixel = (*pixel).max(coverage);
            }
        }
    }
}

fn fonts(with_system: bool) -> FontSystem {
    let mut database = Database::new();
    for font in FONTS {
        database.load_font_source(Source::Binary(Arc::new(font)));
    }
    if with_system {
        database.load_system_fonts();
    }
    // The language chooses between Chinese and Japanese forms where fonts differ; a name has no language.
    FontSystem::new_with_locale_and_db("en-US".to_owned(), database)
}

fn lacks_glyphs(buffer: &Buffer) -> bool {
    (buffer.layout_runs()).any(|run| run.glyphs.iter().any(|glyph| glyph.glyph_id == 0))
}

fn fits(buffer: &Buffer, width: u32, lines_max: u32) -> bool {
    buffer.layout_runs().count() <= lines_max as usize
        && (buffer.layout_runs()).all(|run| run.line_w <= to_f32(width))
}

/// Room for accents and for scripts that reach far below the line.
const fn line_height(size: u32) -> u32 {
    size + size / 3
}

#[expect(clippy::cast_precision_loss, reason = "a picture's size")]
fn to_f32(pixels: u32) -> f32 {
    pixels as f32
}

/// A third of the wanted size is still read on a monitor; below that cutting off is better.
const SHRINK_MAX: u32 = 3;

const FAMILY: &str = "Noto Sans";

/// See `connector/fonts/README.md` for where they come from and their licences.
const FONTS: [&[u8]; 5] = [
    include_bytes!("../../../fonts/NotoSans-Regular.ttf"),
    include_bytes!("../../../fonts/NotoSansDevanagari-Regular.ttf"),
    include_bytes!("../../../fonts/NotoSansHebrew-Regular.ttf"),
    include_bytes!("../../../fonts/NotoSansArabic-Regular.ttf"),
    include_bytes!("../../../fonts/DroidSansFallback.ttf"),
];

#[cfg(test)]
mod tests {
    use super::*;

    /// What a text is shaped to: glyph numbers from left to right, and how many fonts they are from.
    fn shaped(text: &str) -> (Vec<u16>, usize) {
        let mut typesetter = Typesetter::embedded();
        let buffer = typesetter.lay_out(text, 2_000, 60);
        let mut fonts = Vec::new();
        let mut glyphs = Vec::new();
        for run in buffer.layout_runs() {
            let mut placed: Vec<_> = run.glyphs.iter().collect();
            placed.sort_by(|a, b| a.x.total_cmp(&b.x));
            glyphs.extend(placed.iter().map(|glyph| glyph.glyph_id));
            fonts.extend(placed.iter().map(|glyph| glyph.font_id));
        }
        fonts.sort_unstable();
        fonts.dedup();
        (glyphs, fonts.len())
    }

    #[test]
    fn the_program_has_a_glyph_for_every_character_of_these_names() {
        for name in [
            "Camera 1: stage left (wide) – “A” & 'B' #2 @ 50% €",
            "Kamera Größe Łódź Žižkov Ænima Đặng Thị İstanbul",
            "Κάμερα 1 Αθήνα",
            "Камера 2 Київ Ґанок Ћирилица",
            "कैमरा एक मंच क्षत्रिय",
            "מצלמה 3",
            "الكاميرا ٤",
            "相机五号 攝影機",
            "カメラ6 ステージ左",
            "카메라 일곱",
        ] {
            let (glyphs, _) = shaped(name);
            assert!(
                !glyphs.is_empty() && !glyphs.contains(&0),
                "{name}: {glyphs:?}"
            );
        }
        let (glyphs, _) = shaped("\u{13000}");
        assert!(
            glyphs.contains(&0),
            "no hieroglyphs, and the test above means something"
        );
    }

    #[test]
    fn scripts_are_shaped_and_ordered_not_just_drawn_letter_by_letter() {
        // Right to left: the first letter is drawn last.
        let (word, _) = shaped("אב");
        let (alef, _) = shaped("א");
        assert_eq!(word.last(), alef.last());
        // Arabic letters join: in a word they are other glyphs than alone.
        let (joined, _) = shaped("بب");
        let (alone, _) = shaped("ب");
        assert!(!joined.contains(&alone[0]), "{joined:?} {alone:?}");
        // Devanagari: ka + virama + ssa is one conjunct.
        let (conjunct, _) = shaped("क्ष");
        assert!(conjunct.len() < 3, "{conjunct:?}");
        // A mixed name takes each part from the font that has it.
        let (_, fonts) = shaped("Camera מצלמה 相机");
        assert_eq!(fonts, 3);
    }

    #[test]
    fn long_text_gets_smaller_then_breaks_then_ends() {
        let mut typesetter = Typesetter::embedded();
        let one = typesetter.set("Camera 1", 1_000, 90, 3);
        assert_eq!(one.height, line_height(90));
        let three = typesetter.set(&"Camera ".repeat(9), 1_000, 90, 3);
        assert!(three.height > one.height && three.height <= 3 * line_height(90));
        let cut = typesetter.set(&"Camera ".repeat(900), 1_000, 90, 3);
        assert_eq!(cut.height, 3 * line_height(30), "{}", cut.height);
        let unbroken = typesetter.set(&"W".repeat(64), 1_000, 90, 3);
        assert!(unbroken.coverage.contains(&255));
        assert_eq!(
            typesetter
                .set("", 1_000, 90, 3)
                .coverage
                .iter()
                .max()
                .copied()
                .unwrap_or(0),
            0
        );
    }
}

//! The studio's own card: a PNG or JPEG from a disk, as safely as if a stranger had put it there.
//!
//! Size and memory are bounded before anything is decoded, the decoders are Rust, and a file that can't be used is an
//! error that says which, why and what to do; the neutral card takes its place.

use std::{
    io::{self, Cursor, Read},
    panic::{self, AssertUnwindSafe},
    path::Path,
};

use firstmile_shared::ops;
use image::{DynamicImage, ImageFormat, ImageReader, Limits, RgbImage, imageops};

use super::{Format, card};
use crate::output::Picture;

/// Why a picture can't be the card of a line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// The system does not give it.
    #[error(
        "the slate {path} can't be read: {error}; put a PNG or JPEG there that this program may read"
    )]
    Read {
        /// The file.
        path: String,
        /// The system's reason.
        error: io::Error,
    },
    /// Larger than [`FILE_LEN_MAX`].
    #[error("the slate {path} is larger than {} MB; save it smaller", FILE_LEN_MAX / 1_000_000)]
    TooLong {
        /// The file.
        path: String,
    },
    /// Something else.
    #[error("the slate {path} is neither PNG nor JPEG; save it as one of them")]
    Format {
        /// The file.
        path: String,
    },
    /// More than [`SIDE_MAX`] on a side.
    #[error("the slate {path} is larger than {SIDE_MAX} x {SIDE_MAX} pixels; save it smaller")]
    TooLarge {
        /// The file.
        path: String,
    },
    /// Damaged.
    #[error("the slate {path} can't be decoded: {reason}; save it anew")]
    Damaged {
        /// The file.
        path: String,
        /// The decoder's own word.
        reason: String,
    },
}

/// Reads and decodes a file.
pub(super) fn load(path: &str) -> Result<RgbImage, ImageError> {
    let read = |error| ImageError::Read {
        path: path.to_owned(),
        error,
    };
    let file = ops::open_regular(Path::new(path)).map_err(read)?;
    let mut bytes = Vec::new();
    file.take(FILE_LEN_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(read)?;
    if bytes.len() as u64 > FILE_LEN_MAX {
        return Err(ImageError::TooLong {
            path: path.to_owned(),
        });
    }
    decode(path, &bytes)
}

fn decode(path: &str, bytes: &[u8]) -> Result<RgbImage, ImageError> {
    let path = || path.to_owned();
    let Ok(format @ (ImageFormat::Png | ImageFormat::Jpeg)) = image::guess_format(bytes) else {
        return Err(ImageError::Format { path: path() });
    };
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    let mut limits = Limits::default();
    limits.max_image_width = Some(SIDE_MAX);
    limits.max_image_height = Some(SIDE_MAX);
    limits.max_alloc = Some(ALLOCATION_MAX);
    reader.limits(limits);
    // A decoder's panic is one more way to say that the file is damaged.
    match panic::catch_unwind(AssertUnwindSafe(|| reader.decode())) {
        Ok(Ok(image)) => Ok(opaque(&image)),
        Ok(Err(image::ImageError::Limits(_))) => Err(ImageError::TooLarge { path: path() }),
        Ok(Err(error)) => Err(ImageError::Damaged {
            path: path(),
            reason: error.to_string(),
        }),
        Err(_) => Err(ImageError::Damaged {
            path: path(),
            reason: "its decoder failed".to_owned(),
        }),
    }
}

/// What is transparent lets black through.
fn opaque(image: &DynamicImage) -> RgbImage {
    if !image.color().has_alpha() {
        return image.to_rgb8();
    }
    let pixels = image.to_rgba8();
    RgbImage::from_fn(pixels.width(), pixels.height(), |x, y| {
        let image::Rgba([red, green, blue, alpha]) = *pixels.get_pixel(x, y);
        image::Rgb([red, green, blue].map(|colour| card::blend(0, colour, alpha)))
    })
}

/// The picture as large as it fits, whole and undistorted, on black.
pub(super) fn place(image: &RgbImage, format: Format) -> Picture {
    let mut picture = card::black(format);
    let (width, height) = fit(image, &picture);
    let scaled = imageops::resize(image, width, height, imageops::FilterType::CatmullRom);
    // Pairs of pixels share their colour: the picture begins on one.
    let left = (picture.width - width) / 2 / 2 * 2;
    let top = (picture.height - height) / 2;
    let is_high_definition = picture.height >= 720;
    let row_len = picture.width as usize * 2;
    let lines = picture.pixels.chunks_exact_mut(row_len).skip(top as usize);
    for (line, row) in lines.zip(scaled.rows()) {
        let colours: Vec<[f32; 3]> = row
            .map(|pixel| to_yuv(pixel.0, is_high_definition))
            .collect();
        let groups = line.chunks_exact_mut(4).skip(left as usize / 2);
        for (group, pair) in groups.zip(colours.chunks(2)) {
            let [first, second] = match pair {
                [first, second] => [*first, *second],
                [single] => [*single, *single],
                _ => continue,
            };
            group.copy_from_slice(&[
                to_byte(f32::midpoint(first[1], second[1])),
                to_byte(first[0]),
                to_byte(f32::midpoint(first[2], second[2])),
                to_byte(second[0]),
            ]);
        }
    }
    picture
}

/// The size of `image` within `picture`, whose pixels need not be square: 1 at least, the picture's at most.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "sizes of pictures"
)]
fn fit(image: &RgbImage, picture: &Picture) -> (u32, u32) {
    let (width, height) = (picture.width as f32, picture.height as f32);
    let shape = image.width() as f32 / image.height().max(1) as f32 / picture.aspect;
    let (wide, high) = if shape >= 1.0 {
        (width, height / shape)
    } else {
        (width * shape, height)
    };
    let clamp = |value: f32, max: u32| (value.round() as u32).clamp(1, max);
    (clamp(wide, picture.width), clamp(high, picture.height))
}

/// Luma and two colour differences in limited range: BT.709, and BT.601 for standard definition.
fn to_yuv(rgb: [u8; 3], is_high_definition: bool) -> [f32; 3] {
    let [red, green, blue] = rgb.map(|value| f32::from(value) / 255.0);
    let (of_red, of_blue) = if is_high_definition {
        (0.2126, 0.0722)
    } else {
        (0.299, 0.114)
    };
    let luma = of_red * red + (1.0 - of_red - of_blue) * green + of_blue * blue;
    [
        16.0 + 219.0 * luma,
        128.0 + 112.0 * (blue - luma) / (1.0 - of_blue),
        128.0 + 112.0 * (red - luma) / (1.0 - of_red),
    ]
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "between 16 and 240"
)]
fn to_byte(value: f32) -> u8 {
    value.round().clamp(16.0, 240.0) as u8
}

/// A card is a few megabytes; a video by mistake is not.
const FILE_LEN_MAX: u64 = 32_000_000;

/// 8K and a little.
const SIDE_MAX: u32 = 8_192;

/// 8192 x 8192 with 32 bits.
const ALLOCATION_MAX: u64 = 8_192 * 8_192 * 4;

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(image: &RgbImage, width: u32, height: u32, aspect: f32) -> Picture {
        place(
            image,
            Format {
                width,
                height,
                aspect,
            },
        )
    }

    fn encoded(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        image.write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    }

    /// (Y, U, V) of the pixel at these places.
    fn at(picture: &Picture, x: u32, y: u32) -> (u8, u8, u8) {
        let group = (y * picture.width + x / 2 * 2) as usize * 2;
        let luma = group + 1 + (x % 2) as usize * 2;
        (
            picture.pixels[luma],
            picture.pixels[group],
            picture.pixels[group + 2],
        )
    }

    #[test]
    fn a_picture_is_shown_whole_and_undistorted_in_its_own_colours() {
        let red = RgbImage::from_pixel(400, 400, image::Rgb([255, 0, 0]));
        let card = picture(&red, 1280, 720, 16.0 / 9.0);
        assert_eq!(at(&card, 640, 360), (63, 102, 240), "BT.709");
        assert_eq!(at(&card, 278, 360), (16, 128, 128), "black at its sides");
        assert_eq!((at(&card, 282, 0).0, at(&card, 998, 719).0), (63, 63));
        assert_eq!(at(&card, 1001, 360), (16, 128, 128));
        // Anamorphic 4:3: its pixels are not square, the square still is one.
        let card = picture(&red, 720, 576, 4.0 / 3.0);
        assert_eq!(at(&card, 360, 288), (81, 90, 240), "BT.601");
        assert_eq!((at(&card, 88, 5).0, at(&card, 92, 5).0), (16, 81));
        let wide = RgbImage::from_pixel(1000, 100, image::Rgb([255, 255, 255]));
        let card = picture(&wide, 1280, 720, 16.0 / 9.0);
        assert_eq!(
            (at(&card, 0, 360), at(&card, 0, 290).0),
            ((235, 128, 128), 16)
        );
        for (width, height) in [(2, 2), (6, 4), (1922, 1081)] {
            let card = picture(&wide, width, height, 16.0 / 9.0);
            assert_eq!((card.width, card.height), (width, height));
        }
    }

    #[test]
    fn png_and_jpeg_are_read_and_transparency_is_black() {
        let folder = tempfile::tempdir().unwrap();
        let mut image = image::RgbaImage::from_pixel(64, 32, image::Rgba([255, 255, 255, 255]));
        image.put_pixel(0, 0, image::Rgba([255, 255, 255, 0]));
        let image = DynamicImage::ImageRgba8(image);
        for (name, bytes) in [
            ("a.png", encoded(&image, ImageFormat::Png)),
            // The name says nothing.
            (
                "b.txt",
                encoded(&DynamicImage::ImageRgb8(image.to_rgb8()), ImageFormat::Jpeg),
            ),
        ] {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            let loaded = load(path.to_str().unwrap()).unwrap();
            assert_eq!(loaded.dimensions(), (64, 32));
            assert!(
                loaded
                    .get_pixel(40, 20)
                    .0
                    .iter()
                    .all(|colour| *colour > 250)
            );
            if name == "a.png" {
                assert_eq!(loaded.get_pixel(0, 0).0, [0, 0, 0]);
            }
        }
    }

    #[test]
    fn a_bad_file_is_named_with_the_cause_and_the_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let image = DynamicImage::ImageRgb8(RgbImage::new(64, 64));
        let png = encoded(&image, ImageFormat::Png);
        let mut huge = png.clone();
        // The header alone says 60,000 x 60,000, with its checksum.
        huge[16..24].copy_from_slice(&[0, 0, 0xea, 0x60, 0, 0, 0xea, 0x60]);
        let checksum = crc32(&huge[12..29]);
        huge[29..33].copy_from_slice(&checksum.to_be_bytes());
        let files: [(&str, &[u8], &str); 5] = [
            (
                "text.png",
                b"not a picture",
                "is neither PNG nor JPEG; save it",
            ),
            ("empty.png", b"", "is neither PNG nor JPEG"),
            ("cut.png", &png[..40], "can't be decoded: "),
            (
                "huge.png",
                &huge,
                "is larger than 8192 x 8192 pixels; save it smaller",
            ),
            ("film.png", &vec![0; 32_000_001], "is larger than 32 MB"),
        ];
        for (name, bytes, message) in files {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            let error = load(path.to_str().unwrap()).unwrap_err().to_string();
            assert!(
                error.contains(message) && error.contains(name),
                "{name}: {error}"
            );
        }
        let folder = folder.path().to_str().unwrap();
        let error = load(folder).unwrap_err().to_string();
        assert!(error.contains("is a directory"), "{error}");
        #[cfg(unix)]
        {
            // With nobody at its other end.
            let pipe = format!("{folder}/pipe.png");
            let made = std::process::Command::new("mkfifo").arg(&pipe).status();
            assert!(made.unwrap().success());
            let error = load(&pipe).unwrap_err().to_string();
            assert!(error.contains("it is not a file"), "{error}");
        }
        let error = load("/nowhere/card.png").unwrap_err().to_string();
        assert!(
            error.contains("/nowhere/card.png can't be read: No such file"),
            "{error}"
        );
    }

    /// Of PNG.
    fn crc32(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(u32::MAX, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
                if crc & 1 == 1 {
                    crc >> 1 ^ 0xedb8_8320
                } else {
                    crc >> 1
                }
            })
        })
    }

    proptest::proptest! {
        /// Whatever is in a file, it is a picture or an error.
        #[test]
        fn damaged_files_do_no_harm(at in proptest::collection::vec((0..2_000_usize, proptest::num::u8::ANY), 1..20), is_png: bool) {
            let texture: Vec<u8> = (0..32 * 32 * 3_u32).map(|n| (n * n % 251).to_le_bytes()[0]).collect();
            let image = DynamicImage::ImageRgb8(RgbImage::from_raw(32, 32, texture).unwrap());
            let mut bytes = encoded(&image, if is_png { ImageFormat::Png } else { ImageFormat::Jpeg });
            for (place, value) in at {
                let place = place % bytes.len();
                bytes[place] = value;
            }
            let _ = decode("test", &bytes);
        }
    }
}

//! FFmpeg, one unit at a time, without a demuxer: [`Ffmpeg`] decodes into whatever memory it is given,
//! [`FfmpegDecoder`] is the decoder of a line in the line's own thread.
//!
//! Every unit is decoded as soon as it is handed over: no frame threads (each would hold a picture back), low
//! delay on. What B-frames need for reordering is all that stays inside. A change of the configuration drains the
//! decoder and opens a new one (1.3 ms): without that FFmpeg goes on with the old one, without an error.

mod raw;
mod resample;
mod scale;

use std::{num::NonZero, sync::Once, thread};

use bytes::Bytes;
use ffmpeg_next::ffi;
use firstmile_shared::media::{Codec, MediaKind};

use self::{
    raw::{AvError, Context, Frame},
    resample::Resampler,
    scale::Scaler,
};
use super::{
    CodedUnit, DecodeError, Decoded, DecodedPicture, DecodedSound, Decoder,
    limits::SizeGuard,
    pixels::{self, Chroma, Plane, Source},
};
use crate::output::{BufferPool, FrameRate, Picture, PixelBuffer};

/// Where decoded pictures and sound are put.
pub(super) trait Sink {
    /// Memory for the pixels of one picture, exactly `len` bytes, until the next call.
    fn pixels(&mut self, len: usize) -> Result<&mut [u8], DecodeError>;

    /// The picture whose pixels were written last is complete.
    fn picture(&mut self, head: PictureHead);

    /// A block of sound.
    fn sound(&mut self, sound: DecodedSound);
}

/// A picture but for its pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct PictureHead {
    pub(super) pts_us: i64,
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) aspect: f32,
    pub(super) declared_rate: Option<FrameRate>,
    pub(super) damaged: bool,
}

impl PictureHead {
    /// With its pixels.
    pub(super) fn with(self, pixels: PixelBuffer) -> DecodedPicture {
        DecodedPicture {
            pts_us: self.pts_us,
            picture: Picture {
                width: self.width,
                height: self.height,
                aspect: self.aspect,
                pixels,
            },
            declared_rate: self.declared_rate,
            damaged: self.damaged,
        }
    }
}

/// Decodes a line in its own thread.
#[derive(Debug)]
pub struct FfmpegDecoder {
    ffmpeg: Ffmpeg,
    guard: SizeGuard,
    pool: BufferPool,
}

impl FfmpegDecoder {
    /// Nothing larger than `max_pixels` is decoded.
    pub fn new(max_pixels: u32) -> Result<Self, DecodeError> {
        Ok(Self {
            ffmpeg: Ffmpeg::new(max_pixels)?,
            guard: SizeGuard::new(max_pixels),
            pool: BufferPool::default(),
        })
    }

    fn gather<'a>(&self, out: &'a mut Vec<Decoded>) -> Gather<'a> {
        Gather {
            pool: self.pool.clone(),
            pixels: None,
            out,
        }
    }
}

impl Decoder for FfmpegDecoder {
    fn decode(&mut self, unit: &CodedUnit, out: &mut Vec<Decoded>) -> Result<(), DecodeError> {
        self.guard.check(unit)?;
        let mut sink = self.gather(out);
        self.ffmpeg.decode(unit, &mut sink)
    }

    fn finish(&mut self, kind: MediaKind, out: &mut Vec<Decoded>) -> Result<(), DecodeError> {
        let mut sink = self.gather(out);
        self.ffmpeg.finish(kind, &mut sink);
        Ok(())
    }
}

/// Puts pictures into pooled memory.
struct Gather<'a> {
    pool: BufferPool,
    pixels: Option<PixelBuffer>,
    out: &'a mut Vec<Decoded>,
}

impl Sink for Gather<'_> {
    fn pixels(&mut self, len: usize) -> Result<&mut [u8], DecodeError> {
        Ok(self.pixels.insert(self.pool.take(len)))
    }

    fn picture(&mut self, head: PictureHead) {
        if let Some(pixels) = self.pixels.take() {
            self.out.push(Decoded::Picture(head.with(pixels)));
        }
    }

    fn sound(&mut self, sound: DecodedSound) {
        self.out.push(Decoded::Sound(sound));
    }
}

/// FFmpeg for one line: a track of pictures and a track of sound.
pub(super) struct Ffmpeg {
    video: Option<Track>,
    audio: Option<Track>,
    frame: Frame,
    scaler: Option<Scaler>,
    resampler: Resampler,
    max_pixels: u32,
    threads: i32,
}

struct Track {
    codec: Codec,
    config: Option<Bytes>,
    context: Context,
}

impl Ffmpeg {
    /// Decoders are opened with the first unit of each track.
    pub(super) fn new(max_pixels: u32) -> Result<Self, DecodeError> {
        static QUIET: Once = Once::new();
        QUIET.call_once(raw::silence_log);
        Ok(Self {
            video: None,
            audio: None,
            frame: Frame::new()?,
            scaler: None,
            resampler: Resampler::default(),
            max_pixels,
            threads: threads(),
        })
    }

    /// Decodes `unit` into `sink`.
    pub(super) fn decode(
        &mut self,
        unit: &CodedUnit,
        sink: &mut dyn Sink,
    ) -> Result<(), DecodeError> {
        self.prepare(unit, sink)?;
        let kind = unit.codec.kind();
        // Out of its slot for the while, so that frames can be converted beside it.
        let Some(mut track) = self.track(kind).and_then(Option::take) else {
            return Err(DecodeError::NoConfig { codec: unit.codec });
        };
        let sent = if unit.payload.is_empty() {
            Ok(())
        } else {
            track
                .context
                .send(&unit.payload, unit.pts_us)
                .map_err(|error| DecodeError::Data {
                    codec: unit.codec,
                    reason: error.text(),
                })
        };
        let received = self.receive(&mut track, sink);
        if let Some(slot) = self.track(kind) {
            *slot = Some(track);
        }
        sent.and(received)
    }

    /// Puts what a track still holds into `sink` and closes the track.
    pub(super) fn finish(&mut self, kind: MediaKind, sink: &mut dyn Sink) {
        if let Some(mut track) = self.track(kind).and_then(Option::take) {
            track.context.finish();
            // That the rest can't be shown either is no news.
            let _ = self.receive(&mut track, sink);
        }
        if kind == MediaKind::Audio {
            self.resampler = Resampler::default();
        }
    }

    fn track(&mut self, kind: MediaKind) -> Option<&mut Option<Track>> {
        match kind {
            MediaKind::Video => Some(&mut self.video),
            MediaKind::Audio => Some(&mut self.audio),
            MediaKind::Data => None,
        }
    }

    /// Makes the track ready for `unit`: opened, and with the unit's configuration.
    fn prepare(&mut self, unit: &CodedUnit, sink: &mut dyn Sink) -> Result<(), DecodeError> {
        let codec = unit.codec;
        let Some(slot) = self.track(codec.kind()) else {
            return Err(DecodeError::NoDecoder { codec });
        };
        let fits = slot.as_ref().is_some_and(|track| {
            track.codec == codec && (unit.config.is_none() || unit.config == track.config)
        });
        if fits {
            return Ok(());
        }
        self.finish(codec.kind(), sink);
        if unit.config.is_none() && codec.needs_config() {
            return Err(DecodeError::NoConfig { codec });
        }
        let config = unit.config.as_deref().unwrap_or_default();
        let track = Track {
            codec,
            config: unit.config.clone(),
            context: Context::open(codec, config, self.threads, self.max_pixels)?,
        };
        if let Some(slot) = self.track(codec.kind()) {
            *slot = Some(track);
        }
        Ok(())
    }

    /// Takes everything out of the decoder that is ready.
    fn receive(&mut self, track: &mut Track, sink: &mut dyn Sink) -> Result<(), DecodeError> {
        let codec = track.codec;
        let damaged = |error: AvError| DecodeError::Data {
            codec,
            reason: error.text(),
        };
        while track.context.receive(&mut self.frame).map_err(damaged)? {
            match codec.kind() {
                MediaKind::Video => self.picture(&track.context, sink)?,
                MediaKind::Audio | MediaKind::Data => sink.sound(self.sound()?),
            }
        }
        Ok(())
    }

    fn picture(&mut self, context: &Context, sink: &mut dyn Sink) -> Result<(), DecodeError> {
        let fields = self.frame.get();
        let bad = |reason: String| DecodeError::Convert {
            what: "picture",
            reason,
        };
        let size = (
            usize::try_from(fields.width),
            usize::try_from(fields.height),
        );
        let (Ok(width @ 1..), Ok(height @ 1..)) = size else {
            return Err(bad(format!("{} x {}", fields.width, fields.height)));
        };
        let out_width = pixels::even(width);
        let buffer = sink.pixels(out_width * 2 * height)?;
        let is_full_range = is_full_range(fields);
        match planar_source(&self.frame, width, height, is_full_range) {
            Some(source) => pixels::to_uyvy(&source, buffer)
                .ok_or_else(|| bad("its planes are too short".to_owned()))?,
            None => Scaler::convert(
                &mut self.scaler,
                &self.frame,
                is_full_range,
                out_width,
                buffer,
            )
            .map_err(bad)?,
        }
        let (numerator, denominator) = context.declared_rate();
        sink.picture(PictureHead {
            pts_us: fields.pts,
            width: u32::try_from(out_width).unwrap_or(0),
            height: u32::try_from(height).unwrap_or(0),
            aspect: aspect(fields),
            declared_rate: FrameRate::nominal(f64::from(numerator) / f64::from(denominator)),
            damaged: fields.flags & ffi::AV_FRAME_FLAG_CORRUPT != 0
                || fields.decode_error_flags != 0,
        });
        Ok(())
    }

    fn sound(&mut self) -> Result<DecodedSound, DecodeError> {
        let sound = self
            .resampler
            .convert(&self.frame)
            .map_err(|reason| DecodeError::Convert {
                what: "sound",
                reason,
            })?;
        let fields = self.frame.get();
        Ok(DecodedSound {
            pts_us: fields.pts,
            sound,
            source_rate: u32::try_from(fields.sample_rate).unwrap_or(0),
        })
    }
}

impl std::fmt::Debug for Ffmpeg {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ffmpeg")
    }
}

/// The frame as our own kernels take it, if they know its format.
fn planar_source(
    frame: &Frame,
    width: usize,
    height: usize,
    full_range: bool,
) -> Option<Source<'_>> {
    use ffi::AVPixelFormat::{AV_PIX_FMT_NV12, AV_PIX_FMT_YUV420P, AV_PIX_FMT_YUVJ420P};
    let (pairs, lines) = (width.div_ceil(2), height.div_ceil(2));
    let plane = |plane, rows, row_len| {
        frame
            .plane(plane, rows, row_len)
            .map(|(bytes, stride)| Plane { bytes, stride })
    };
    let format = frame.get().format;
    let is = |known: ffi::AVPixelFormat| known as i32 == format;
    let chroma = if is(AV_PIX_FMT_YUV420P) || is(AV_PIX_FMT_YUVJ420P) {
        Chroma::Planar {
            u: plane(1, lines, pairs)?,
            v: plane(2, lines, pairs)?,
        }
    } else if is(AV_PIX_FMT_NV12) {
        Chroma::Interleaved {
            uv: plane(1, lines, 2 * pairs)?,
        }
    } else {
        return None;
    };
    Some(Source {
        width,
        height,
        y: plane(0, height, width)?,
        chroma,
        full_range,
    })
}

fn is_full_range(frame: &ffi::AVFrame) -> bool {
    frame.format == ffi::AVPixelFormat::AV_PIX_FMT_YUVJ420P as i32
        || frame.color_range == ffi::AVColorRange::AVCOL_RANGE_JPEG
}

/// Of the shown picture; pixels are square unless the stream says otherwise within reason.
fn aspect(frame: &ffi::AVFrame) -> f32 {
    let ratio = frame.sample_aspect_ratio;
    let pixel = f64::from(ratio.num) / f64::from(ratio.den);
    let pixel = if (0.1..=10.0).contains(&pixel) {
        pixel
    } else {
        1.0
    };
    #[expect(
        clippy::cast_possible_truncation,
        reason = "an aspect ratio needs no more digits"
    )]
    let aspect = (f64::from(frame.width) / f64::from(frame.height.max(1)) * pixel) as f32;
    aspect
}

/// For the slices of one picture; a picture of one slice wakes no second thread.
fn threads() -> i32 {
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    i32::try_from((cores / 2).clamp(1, 4)).unwrap_or(1)
}

#[cfg(test)]
mod tests;

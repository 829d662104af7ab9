//! Any decoded sound to 48 kHz planar float, in the frame's own channels.
//!
//! `swr_convert` itself: ffmpeg-next's wrapper keeps back 81 ms more with every second at 44.1 kHz. Sound that is
//! right already (AAC and Opus at 48 kHz) is only copied.
#![expect(unsafe_code, reason = "calls swresample")]

use std::{ffi::c_int, mem, ptr};

use ffmpeg_next::ffi;

use super::raw::{AvError, Frame};
use crate::output::{SAMPLE_RATE, Sound};

/// The converter of one track; made anew when the sound's form changes.
#[derive(Default)]
pub(super) struct Resampler {
    active: Option<Converter>,
}

struct Converter {
    format: c_int,
    rate: c_int,
    channels: c_int,
    context: *mut ffi::SwrContext,
}

// SAFETY: a context may be used from any thread, by one at a time; this owns it.
unsafe impl Send for Converter {}

impl Resampler {
    /// Converts one frame. What a change of form leaves in the old converter (0.35 ms) comes out before it.
    pub(super) fn convert(&mut self, frame: &Frame) -> Result<Sound, String> {
        let fields = frame.get();
        let channels = fields.ch_layout.nb_channels;
        if !(1..=CHANNELS_MAX).contains(&channels)
            || fields.sample_rate <= 0
            || fields.nb_samples < 0
        {
            return Err(format!("{channels} channels at {} Hz", fields.sample_rate));
        }
        let is_rate_right = fields.sample_rate == SAMPLE_RATE.cast_signed();
        if is_rate_right && let Some(planes) = frame.float_planes() {
            self.active = None;
            let samples = planes.flatten().copied().collect();
            return Ok(Sound::planar(to_usize(channels), samples));
        }
        let fits = self.active.as_ref().is_some_and(|active| {
            (active.format, active.rate, active.channels)
                == (fields.format, fields.sample_rate, channels)
        });
        if !fits {
            self.active = Some(Converter::new(frame)?);
        }
        let Some(active) = &mut self.active else {
            unreachable!("it was just filled");
        };
        active.convert(frame)
    }
}

impl Converter {
    fn new(frame: &Frame) -> Result<Self, String> {
        let fields = frame.get();
        let format = sample_format(fields.format)
            .ok_or_else(|| format!("sample format {}", fields.format))?;
        let mut converter = Self {
            format: fields.format,
            rate: fields.sample_rate,
            channels: fields.ch_layout.nb_channels,
            context: ptr::null_mut(),
        };
        // SAFETY: a zeroed layout is the documented empty one. Layouts by number of channels own no memory, and
        // in and out are the same, so no channel is moved. FFmpeg allocates the context or leaves it null.
        let made = unsafe {
            let mut layout: ffi::AVChannelLayout = mem::zeroed();
            ffi::av_channel_layout_default(&raw mut layout, converter.channels);
            ffi::swr_alloc_set_opts2(
                &raw mut converter.context,
                &raw mut layout,
                ffi::AVSampleFormat::AV_SAMPLE_FMT_FLTP,
                SAMPLE_RATE.cast_signed(),
                &raw mut layout,
                format,
                converter.rate,
                0,
                ptr::null_mut(),
            )
        };
        AvError::check(made).map_err(AvError::text)?;
        // SAFETY: the context was just made. The flag keeps the resampler in place even at equal rates, so that a
        // later correction of drift does not insert it in the middle of the sound.
        unsafe {
            let flag = i64::from(ffi::SWR_FLAG_RESAMPLE);
            AvError::check(ffi::av_opt_set_int(
                converter.context.cast(),
                c"flags".as_ptr(),
                flag,
                0,
            ))
            .map_err(AvError::text)?;
            AvError::check(ffi::swr_init(converter.context)).map_err(AvError::text)?;
        }
        Ok(converter)
    }

    fn convert(&mut self, frame: &Frame) -> Result<Sound, String> {
        let fields = frame.get();
        // SAFETY: the context is ours and initialised.
        let room = unsafe { ffi::swr_get_out_samples(self.context, fields.nb_samples) };
        let room = to_usize(AvError::check(room).map_err(AvError::text)?);
        let channels = to_usize(self.channels);
        let mut samples = vec![0.0_f32; room * channels];
        let mut planes: Vec<*mut u8> = samples
            .chunks_exact_mut(room.max(1))
            .map(|plane| plane.as_mut_ptr().cast())
            .collect();
        if planes.len() < channels {
            return Ok(Sound::silence(channels, 0));
        }
        // SAFETY: there is a plane of `room` floats for each channel; the input planes are the frame's own.
        let written = unsafe {
            ffi::swr_convert(
                self.context,
                planes.as_mut_ptr(),
                c_int::try_from(room).unwrap_or(0),
                fields.extended_data.cast(),
                fields.nb_samples,
            )
        };
        let written = to_usize(AvError::check(written).map_err(AvError::text)?).min(room);
        let samples = samples
            .chunks_exact(room)
            .flat_map(|plane| &plane[..written])
            .copied()
            .collect();
        Ok(Sound::planar(channels, samples))
    }
}

impl Drop for Converter {
    fn drop(&mut self) {
        // SAFETY: ours, and not used after this; null is allowed.
        unsafe { ffi::swr_free(&raw mut self.context) };
    }
}

/// A frame's format is a number; FFmpeg's functions want the enumeration.
fn sample_format(format: c_int) -> Option<ffi::AVSampleFormat> {
    use ffi::AVSampleFormat as F;
    [
        F::AV_SAMPLE_FMT_U8,
        F::AV_SAMPLE_FMT_S16,
        F::AV_SAMPLE_FMT_S32,
        F::AV_SAMPLE_FMT_FLT,
        F::AV_SAMPLE_FMT_DBL,
        F::AV_SAMPLE_FMT_U8P,
        F::AV_SAMPLE_FMT_S16P,
        F::AV_SAMPLE_FMT_S32P,
        F::AV_SAMPLE_FMT_FLTP,
        F::AV_SAMPLE_FMT_DBLP,
    ]
    .into_iter()
    .find(|known| *known as c_int == format)
}

fn to_usize(value: c_int) -> usize {
    usize::try_from(value).unwrap_or(0)
}

/// What NDI receivers take and AAC can carry is less.
const CHANNELS_MAX: c_int = 16;

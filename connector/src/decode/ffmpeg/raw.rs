//! FFmpeg's contexts, packets and frames as owned values: each is freed exactly once, and nothing outside
//! `decode::ffmpeg` sees a pointer.
//!
//! Raw calls and not ffmpeg-next's wrappers: those copy frames, leak on some errors, panic on empty planes, and
//! hide the extradata. See `decode::ffmpeg` for how they are used.
#![expect(unsafe_code, reason = "calls FFmpeg")]

use std::{
    ffi::{CStr, c_int},
    ptr, slice,
};

use ffmpeg_next::ffi;
use firstmile_shared::media::Codec;

use crate::decode::DecodeError;

/// An error number of FFmpeg's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AvError(c_int);

impl AvError {
    /// As FFmpeg says it: "Invalid data found when processing input".
    pub(super) fn text(self) -> String {
        let mut text = [0; 128];
        // SAFETY: the buffer has the length that is passed; FFmpeg ends the text with a NUL within it.
        unsafe {
            ffi::av_strerror(self.0, text.as_mut_ptr(), text.len());
            CStr::from_ptr(text.as_ptr()).to_string_lossy().into_owned()
        }
    }

    pub(super) fn check(code: c_int) -> Result<c_int, Self> {
        if code < 0 { Err(Self(code)) } else { Ok(code) }
    }

    /// Neither an error nor a frame: more input first, or all is out.
    fn is_empty(self) -> bool {
        self.0 == ffi::AVERROR(ffi::EAGAIN) || self.0 == ffi::AVERROR_EOF
    }
}

/// An open decoder of one track.
pub(super) struct Context(*mut ffi::AVCodecContext);

// SAFETY: a codec context may be used from any thread, by one at a time; this owns it.
unsafe impl Send for Context {}

impl Context {
    /// Opens a decoder with the configuration (`extradata`), which may be empty where the codec has none.
    ///
    /// One thread, or threads for the slices of one picture: frame threads would hold back a picture each. FFmpeg
    /// refuses pictures of more than `max_pixels`, also if their size changes later.
    pub(super) fn open(
        codec: Codec,
        extradata: &[u8],
        threads: c_int,
        max_pixels: u32,
    ) -> Result<Self, DecodeError> {
        let none = DecodeError::NoDecoder { codec };
        let decoder = find(codec).ok_or_else(|| none.clone())?;
        // SAFETY: `decoder` is one of FFmpeg's static tables.
        let context = Self(unsafe { ffi::avcodec_alloc_context3(decoder) });
        if context.0.is_null() {
            return Err(DecodeError::Memory);
        }
        // SAFETY: the context was just made and is ours; these fields are documented to be set before opening.
        unsafe {
            let context = &mut *context.0;
            context.thread_count = threads;
            context.thread_type = ffi::FF_THREAD_SLICE;
            context.flags |= ffi::AV_CODEC_FLAG_LOW_DELAY.cast_signed();
            context.pkt_timebase = ffi::AVRational {
                num: 1,
                den: 1_000_000,
            };
            context.max_pixels = i64::from(max_pixels);
        }
        context.set_extradata(extradata)?;
        // SAFETY: context and decoder belong together; no options are passed.
        AvError::check(unsafe { ffi::avcodec_open2(context.0, decoder, ptr::null_mut()) })
            .map_err(|error| DecodeError::Config {
                codec,
                reason: error.text(),
            })?;
        Ok(context)
    }

    fn set_extradata(&self, bytes: &[u8]) -> Result<(), DecodeError> {
        if bytes.is_empty() {
            return Ok(());
        }
        let len = c_int::try_from(bytes.len()).map_err(|_| DecodeError::Memory)?;
        // SAFETY: FFmpeg wants the bytes in its own memory with zeroed padding behind them, and frees them with
        // the context. The copy fits: the block is longer than `bytes`.
        unsafe {
            let block = ffi::av_mallocz(bytes.len() + PADDING).cast::<u8>();
            if block.is_null() {
                return Err(DecodeError::Memory);
            }
            ptr::copy_nonoverlapping(bytes.as_ptr(), block, bytes.len());
            (*self.0).extradata = block;
            (*self.0).extradata_size = len;
        }
        Ok(())
    }

    /// Hands one unit over. `payload` must not be empty: FFmpeg would take that for the end of the stream.
    pub(super) fn send(&mut self, payload: &[u8], pts_us: i64) -> Result<(), AvError> {
        debug_assert!(!payload.is_empty(), "an empty packet ends the stream");
        let packet = Packet::new(payload, pts_us)?;
        // SAFETY: both are ours and valid; FFmpeg takes its own reference to the packet's data.
        AvError::check(unsafe { ffi::avcodec_send_packet(self.0, packet.0) }).map(drop)
    }

    /// Says that nothing follows, so that what is held for reordering comes out.
    pub(super) fn finish(&mut self) {
        // SAFETY: a null packet is the documented end of the stream. It can only fail if it ended before.
        unsafe { ffi::avcodec_send_packet(self.0, ptr::null()) };
    }

    /// The next frame into `frame`; `false`: none without more input.
    pub(super) fn receive(&mut self, frame: &mut Frame) -> Result<bool, AvError> {
        // SAFETY: both are ours and valid; what the frame held is released first.
        match AvError::check(unsafe { ffi::avcodec_receive_frame(self.0, frame.0) }) {
            Ok(_) => Ok(true),
            Err(error) if error.is_empty() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Pictures per second as the stream declares them, (numerator, denominator); zeros if it does not.
    pub(super) fn declared_rate(&self) -> (c_int, c_int) {
        // SAFETY: the context is valid.
        let rate = unsafe { (*self.0).framerate };
        (rate.num, rate.den)
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: ours, and not used after this; FFmpeg sets the pointer to null.
        unsafe { ffi::avcodec_free_context(&raw mut self.0) };
    }
}

struct Packet(*mut ffi::AVPacket);

impl Packet {
    /// A copy of `payload` in FFmpeg's memory, with the padding that its bit readers run into.
    fn new(payload: &[u8], pts_us: i64) -> Result<Self, AvError> {
        let no_memory = AvError(ffi::AVERROR(ffi::ENOMEM));
        let len = c_int::try_from(payload.len()).map_err(|_| no_memory)?;
        // SAFETY: allocates, or gives null.
        let packet = Self(unsafe { ffi::av_packet_alloc() });
        if packet.0.is_null() {
            return Err(no_memory);
        }
        // SAFETY: the packet is ours; after `av_new_packet` its data has `len` bytes and zeroed padding.
        unsafe {
            AvError::check(ffi::av_new_packet(packet.0, len))?;
            ptr::copy_nonoverlapping(payload.as_ptr(), (*packet.0).data, payload.len());
            (*packet.0).pts = pts_us;
        }
        Ok(packet)
    }
}

impl Drop for Packet {
    fn drop(&mut self) {
        // SAFETY: ours, and not used after this.
        unsafe { ffi::av_packet_free(&raw mut self.0) };
    }
}

/// A decoded picture or block of sound; used again for the next.
pub(super) struct Frame(*mut ffi::AVFrame);

// SAFETY: a frame owns references to its data; this owns the frame.
unsafe impl Send for Frame {}

impl Frame {
    pub(super) fn new() -> Result<Self, DecodeError> {
        // SAFETY: allocates, or gives null.
        let frame = unsafe { ffi::av_frame_alloc() };
        if frame.is_null() {
            return Err(DecodeError::Memory);
        }
        Ok(Self(frame))
    }

    /// The frame's fields.
    pub(super) fn get(&self) -> &ffi::AVFrame {
        // SAFETY: valid for as long as this lives; nothing changes it while it is borrowed.
        unsafe { &*self.0 }
    }

    /// `rows` rows of `row_len` bytes of a plane, with the distance between them; `None` if it has no such rows.
    pub(super) fn plane(
        &self,
        plane: usize,
        rows: usize,
        row_len: usize,
    ) -> Option<(&[u8], usize)> {
        let frame = self.get();
        let data = *frame.data.get(plane)?;
        let stride = usize::try_from(*frame.linesize.get(plane)?).ok()?;
        if data.is_null() || stride < row_len || rows == 0 {
            return None;
        }
        let len = stride.checked_mul(rows - 1)?.checked_add(row_len)?;
        // SAFETY: a decoder's plane holds `linesize` bytes for each of its rows, and the callers ask for no more
        // rows and columns than the frame's size and format give.
        Some((unsafe { slice::from_raw_parts(data, len) }, stride))
    }

    /// Every channel's samples of a planar float frame; `None` for anything else.
    #[expect(
        clippy::cast_ptr_alignment,
        reason = "FFmpeg's planes are aligned to 16 bytes and more"
    )]
    pub(super) fn float_planes(&self) -> Option<impl Iterator<Item = &[f32]>> {
        let frame = self.get();
        if frame.format != ffi::AVSampleFormat::AV_SAMPLE_FMT_FLTP as c_int {
            return None;
        }
        let samples = usize::try_from(frame.nb_samples).ok()?;
        let channels = usize::try_from(frame.ch_layout.nb_channels).ok()?;
        if frame.extended_data.is_null() {
            return None;
        }
        // SAFETY: `extended_data` has a pointer per channel of a planar frame, each to `nb_samples` floats,
        // aligned for vector instructions.
        Some((0..channels).map(move |channel| unsafe {
            slice::from_raw_parts((*frame.extended_data.add(channel)).cast::<f32>(), samples)
        }))
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        // SAFETY: ours, and not used after this.
        unsafe { ffi::av_frame_free(&raw mut self.0) };
    }
}

/// FFmpeg writes to standard error unless told not to, text that a stranger's stream can shape. What matters of it
/// comes back as error codes, which are counted and logged here.
pub(super) fn silence_log() {
    // SAFETY: sets one integer.
    unsafe { ffi::av_log_set_level(ffi::AV_LOG_QUIET) };
}

fn find(codec: Codec) -> Option<*const ffi::AVCodec> {
    use ffi::AVCodecID as Id;
    let id = match codec {
        Codec::H264 => Id::AV_CODEC_ID_H264,
        Codec::H265 => Id::AV_CODEC_ID_HEVC,
        Codec::Av1 => Id::AV_CODEC_ID_AV1,
        Codec::Vp9 => Id::AV_CODEC_ID_VP9,
        Codec::Aac => Id::AV_CODEC_ID_AAC,
        Codec::Opus => Id::AV_CODEC_ID_OPUS,
        Codec::Flac => Id::AV_CODEC_ID_FLAC,
        Codec::Ac3 => Id::AV_CODEC_ID_AC3,
        Codec::Eac3 => Id::AV_CODEC_ID_EAC3,
        Codec::Mp3 => Id::AV_CODEC_ID_MP3,
        _ => return None,
    };
    // SAFETY: both look up static tables; the name is a C string.
    let decoder = unsafe {
        // FFmpeg's own AV1 decoder needs hardware.
        let dav1d = match codec {
            Codec::Av1 => ffi::avcodec_find_decoder_by_name(c"libdav1d".as_ptr()),
            _ => ptr::null(),
        };
        if dav1d.is_null() {
            ffi::avcodec_find_decoder(id)
        } else {
            dav1d
        }
    };
    (!decoder.is_null()).then_some(decoder)
}

const PADDING: usize = ffi::AV_INPUT_BUFFER_PADDING_SIZE as usize;

//! Whatever our own kernels do not know to UYVY, by swscale: 10-bit, 4:2:2, 4:4:4. Slower (2 to 6 ms for 1080p),
//! and rare in a live feed.
#![expect(unsafe_code, reason = "calls swscale")]

use std::{
    ffi::{CStr, c_int},
    ptr,
};

use ffmpeg_next::ffi;

use super::raw::{AvError, Frame};

/// A conversion, made for one format and size and made anew when they change.
pub(super) struct Scaler {
    key: Key,
    context: *mut ffi::SwsContext,
}

// SAFETY: a context may be used from any thread, by one at a time; this owns it.
unsafe impl Send for Scaler {}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Key {
    format: c_int,
    width: c_int,
    height: c_int,
    full_range: bool,
    out_width: c_int,
}

impl Scaler {
    /// Converts `frame` into `out`: rows of `out_width * 2` bytes without padding, as many as the frame has.
    pub(super) fn convert(
        slot: &mut Option<Self>,
        frame: &Frame,
        full_range: bool,
        out_width: usize,
        out: &mut [u8],
    ) -> Result<(), String> {
        let source = frame.get();
        let key = Key {
            format: source.format,
            width: source.width,
            height: source.height,
            full_range,
            out_width: c_int::try_from(out_width).map_err(|_| "too wide".to_owned())?,
        };
        let rows = usize::try_from(source.height).unwrap_or(0);
        if out.len() < out_width * 2 * rows {
            return Err("no room for the picture".to_owned());
        }
        if slot.as_ref().is_none_or(|scaler| scaler.key != key) {
            *slot = Some(Self::new(key)?);
        }
        let Some(scaler) = slot else {
            unreachable!("it was just filled");
        };
        let planes = [
            out.as_mut_ptr(),
            ptr::null_mut(),
            ptr::null_mut(),
            ptr::null_mut(),
        ];
        let strides = [key.out_width * 2, 0, 0, 0];
        // SAFETY: the context is made for the frame's size and format; `out` has room for all rows (checked above).
        let written = unsafe {
            ffi::sws_scale(
                scaler.context,
                source.data.as_ptr().cast(),
                source.linesize.as_ptr(),
                0,
                source.height,
                planes.as_ptr(),
                strides.as_ptr(),
            )
        };
        if written == source.height {
            Ok(())
        } else {
            Err("swscale stopped early".to_owned())
        }
    }

    /// The ranges have to be set before the context is initialised: afterwards they are accepted and ignored.
    fn new(key: Key) -> Result<Self, String> {
        // SAFETY: allocates, or gives null.
        let scaler = Self {
            key,
            context: unsafe { ffi::sws_alloc_context() },
        };
        if scaler.context.is_null() {
            return Err("out of memory".to_owned());
        }
        let uyvy = ffi::AVPixelFormat::AV_PIX_FMT_UYVY422 as c_int;
        let options: [(&CStr, c_int); 9] = [
            (c"srcw", key.width),
            (c"srch", key.height),
            (c"src_format", key.format),
            (c"src_range", c_int::from(key.full_range)),
            (c"dstw", key.out_width),
            (c"dsth", key.height),
            (c"dst_format", uyvy),
            (c"dst_range", 0),
            (c"sws_flags", ffi::SWS_BILINEAR),
        ];
        for (name, value) in options {
            // SAFETY: a context of swscale is an object with options; the name is a C string.
            let set = unsafe {
                ffi::av_opt_set_int(scaler.context.cast(), name.as_ptr(), i64::from(value), 0)
            };
            AvError::check(set)
                .map_err(|error| format!("{}: {}", name.to_string_lossy(), error.text()))?;
        }
        // SAFETY: the context is ours; no filters.
        AvError::check(unsafe {
            ffi::sws_init_context(scaler.context, ptr::null_mut(), ptr::null_mut())
        })
        .map_err(AvError::text)?;
        Ok(scaler)
    }
}

impl Drop for Scaler {
    fn drop(&mut self) {
        // SAFETY: ours, and not used after this; null is allowed.
        unsafe { ffi::sws_freeContext(self.context) };
    }
}

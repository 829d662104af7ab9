//! The part of NDI's C interface that a sender needs, bound by exported name.
//!
//! Layouts and names follow the MIT-licensed headers of the NDI SDK 6.3 (`Processing.NDI.Send.h`,
//! `Processing.NDI.structs.h`; Copyright (C) 2023-2025 Vizrt NDI AB). NDI 5 has the same symbols. By name and not
//! through the table of `NDIlib_v6_load`: a missing symbol is a clear error, a wrong slot would be a crash.
#![expect(unsafe_code, reason = "declares and binds a foreign library")]

use std::{
    ffi::{c_char, c_int, c_void},
    path::Path,
};

use libloading::Library;

/// An opaque sender; null when it could not be made.
pub(super) type Instance = *mut c_void;

/// `NDIlib_source_t`.
#[repr(C)]
pub(super) struct Source {
    pub(super) name: *const c_char,
    pub(super) url: *const c_char,
}

/// `NDIlib_send_create_t`.
#[repr(C)]
pub(super) struct SendCreate {
    pub(super) name: *const c_char,
    pub(super) groups: *const c_char,
    pub(super) clock_video: bool,
    pub(super) clock_audio: bool,
}

/// `NDIlib_video_frame_v2_t`.
#[repr(C)]
pub(super) struct VideoFrame {
    pub(super) width: c_int,
    pub(super) height: c_int,
    pub(super) four_cc: u32,
    pub(super) rate_numerator: c_int,
    pub(super) rate_denominator: c_int,
    pub(super) aspect: f32,
    pub(super) frame_format: c_int,
    /// 100 ns since the Unix epoch.
    pub(super) timecode: i64,
    pub(super) data: *const u8,
    pub(super) line_stride: c_int,
    pub(super) metadata: *const c_char,
    pub(super) timestamp: i64,
}

/// `NDIlib_audio_frame_v3_t`.
#[repr(C)]
pub(super) struct AudioFrame {
    pub(super) sample_rate: c_int,
    pub(super) channels: c_int,
    pub(super) samples: c_int,
    pub(super) timecode: i64,
    pub(super) four_cc: u32,
    pub(super) data: *const u8,
    pub(super) channel_stride: c_int,
    pub(super) metadata: *const c_char,
    pub(super) timestamp: i64,
}

/// `NDIlib_metadata_frame_t`.
#[repr(C)]
pub(super) struct MetadataFrame {
    pub(super) length: c_int,
    pub(super) timecode: i64,
    pub(super) data: *mut c_char,
}

/// `NDIlib_tally_t`.
#[repr(C)]
#[derive(Default)]
pub(super) struct TallyFlags {
    pub(super) on_program: bool,
    pub(super) on_preview: bool,
}

/// Checked with `offsetof` against the headers, x86-64.
#[cfg(target_pointer_width = "64")]
const _: () = {
    use std::mem::{offset_of, size_of};
    assert!(size_of::<Source>() == 16);
    assert!(size_of::<SendCreate>() == 24 && offset_of!(SendCreate, clock_video) == 16);
    assert!(size_of::<VideoFrame>() == 72 && offset_of!(VideoFrame, timecode) == 32);
    assert!(offset_of!(VideoFrame, data) == 40 && offset_of!(VideoFrame, timestamp) == 64);
    assert!(size_of::<AudioFrame>() == 64 && offset_of!(AudioFrame, timecode) == 16);
    assert!(offset_of!(AudioFrame, data) == 32 && offset_of!(AudioFrame, channel_stride) == 40);
    assert!(size_of::<MetadataFrame>() == 24 && size_of::<TallyFlags>() == 2);
};

pub(super) const UYVY: u32 = u32::from_le_bytes(*b"UYVY");
pub(super) const FLTP: u32 = u32::from_le_bytes(*b"FLTp");
pub(super) const PROGRESSIVE: c_int = 1;
pub(super) const TIMECODE_SYNTHESIZE: i64 = i64::MAX;

macro_rules! api {
    ($($field:ident = $symbol:literal: fn($($argument:ty),*) $(-> $result:ty)?;)*) => {
        /// The entry points. They stay valid for the life of the process: the library is never unloaded.
        pub(super) struct Api {
            $(pub(super) $field: unsafe extern "C" fn($($argument),*) $(-> $result)?,)*
        }

        impl Api {
            /// Looks up every entry point; the error is the name of the first that is missing.
            ///
            /// # Safety
            /// `library` must be NDI's: the types of its symbols are taken on trust.
            unsafe fn bind(library: &Library) -> Result<Self, &'static str> {
                Ok(Self {
                    $(
                        // SAFETY: the declared type is that of the header; the caller vouches for the library.
                        $field: *unsafe {
                            library.get::<unsafe extern "C" fn($($argument),*) $(-> $result)?>(
                                concat!($symbol, "\0").as_bytes(),
                            )
                        }
                        .map_err(|_| $symbol)?,
                    )*
                })
            }
        }
    };
}

api! {
    initialize = "NDIlib_initialize": fn() -> bool;
    version = "NDIlib_version": fn() -> *const c_char;
    is_supported_cpu = "NDIlib_is_supported_CPU": fn() -> bool;
    send_create = "NDIlib_send_create": fn(*const SendCreate) -> Instance;
    send_destroy = "NDIlib_send_destroy": fn(Instance);
    send_video_async = "NDIlib_send_send_video_async_v2": fn(Instance, *const VideoFrame);
    send_audio = "NDIlib_send_send_audio_v3": fn(Instance, *const AudioFrame);
    get_tally = "NDIlib_send_get_tally": fn(Instance, *mut TallyFlags, u32) -> bool;
    get_no_connections = "NDIlib_send_get_no_connections": fn(Instance, u32) -> c_int;
    add_connection_metadata = "NDIlib_send_add_connection_metadata": fn(Instance, *const MetadataFrame);
    get_source_name = "NDIlib_send_get_source_name": fn(Instance) -> *const Source;
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Api")
    }
}

/// Why a file is not a usable NDI library.
pub(super) enum OpenError {
    /// The loader's own reason.
    Load(String),
    /// Loaded, but this entry point is missing.
    Symbol(&'static str),
    /// The library refuses to run on this processor.
    Cpu,
}

/// Loads the library and starts it.
pub(super) fn open(path: &Path) -> Result<Api, OpenError> {
    // SAFETY: loading runs the library's initialisers. The path is from the operator's environment or a system
    // folder, and has NDI's own file name: no more trust than in any shared library of this system.
    let library = unsafe { Library::new(path) }.map_err(|error| OpenError::Load(chain(&error)))?;
    // SAFETY: as above, this is NDI's library.
    let api = unsafe { Api::bind(&library) }.map_err(OpenError::Symbol)?;
    // It owns threads that outlive every sender: unloading it would pull the code from under them.
    std::mem::forget(library);
    // SAFETY: both take no arguments, and `initialize` may be called more than once.
    if unsafe { (api.is_supported_cpu)() && (api.initialize)() } {
        Ok(api)
    } else {
        Err(OpenError::Cpu)
    }
}

/// The loader's reason is in the error's sources ("libavahi-client.so.3: cannot open shared object file").
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

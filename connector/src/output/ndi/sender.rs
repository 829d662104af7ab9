//! One NDI source.
#![expect(unsafe_code, reason = "calls the NDI library")]

use std::{
    ffi::{CStr, CString, NulError, c_int},
    fmt, io, mem,
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use tracing::warn;

use super::{
    sys::{self, Api, Instance},
    watcher::Watcher,
};
use crate::output::{FrameRate, Output, Picture, Receivers, SAMPLE_RATE, Sound};

/// Why a source could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SenderError {
    /// The library says no more than that.
    #[error(
        "NDI makes no source {name:?}: the name and the next {} after it are in use on this machine, or discovery is not running", NAMES_TRIED - 1
    )]
    Refused {
        /// The name asked for.
        name: String,
    },
    /// C strings end at a NUL.
    #[error("a source's name and groups can't hold a NUL")]
    Nul(#[from] NulError),
    /// The thread that waits for the source's tally could not be started.
    #[error("no thread for the tally of the NDI source")]
    Thread(#[source] io::Error),
}

/// An NDI source; it is seen on the network as long as this lives.
///
/// Pictures are sent asynchronously: the library reads a picture until the next one is handed over, so the last
/// one is held here.
pub(crate) struct NdiSender {
    api: Arc<Api>,
    /// Alive until `drop`.
    handle: Handle,
    watcher: Watcher,
    name: String,
    held: Option<Arc<Picture>>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Handle(pub(super) Instance);

// SAFETY: NDI's documentation allows all calls on a sender from any thread at once, but for creation and
// destruction: it is destroyed only after its watcher has ended.
unsafe impl Send for Handle {}

impl NdiSender {
    pub(super) fn create(
        api: &Arc<Api>,
        name: &str,
        groups: Option<&str>,
    ) -> Result<Self, SenderError> {
        let groups = groups.map(CString::new).transpose()?;
        for number in 1..=NAMES_TRIED {
            let numbered = match number {
                1 => name.to_owned(),
                number => format!("{name} {number}"),
            };
            let Some(handle) = create_instance(api, &numbered, groups.as_deref())? else {
                continue;
            };
            if number > 1 {
                warn!(name, used = numbered, "an NDI source of this name exists");
            }
            return Self::new(api, handle, numbered);
        }
        Err(SenderError::Refused {
            name: name.to_owned(),
        })
    }

    fn new(api: &Arc<Api>, handle: Handle, name: String) -> Result<Self, SenderError> {
        describe(api, handle);
        let name = source_name(api, handle).unwrap_or(name);
        let watcher = Watcher::start(api, handle).map_err(|error| {
            destroy(api, handle);
            SenderError::Thread(error)
        })?;
        Ok(Self {
            name,
            api: api.clone(),
            handle,
            watcher,
            held: None,
        })
    }
}

impl Output for NdiSender {
    fn kind(&self) -> &'static str {
        "ndi"
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn show(&mut self, picture: &Arc<Picture>, rate: FrameRate, timecode: i64) {
        let Handle(instance) = self.handle;
        if picture.pixels.len() < Picture::byte_len(picture.width, picture.height) {
            debug_assert!(false, "a picture holds all its pixels");
            return;
        }
        let frame = sys::VideoFrame {
            width: to_int(picture.width),
            height: to_int(picture.height),
            four_cc: sys::UYVY,
            rate_numerator: to_int(rate.numerator),
            rate_denominator: to_int(rate.denominator),
            aspect: picture.aspect,
            frame_format: sys::PROGRESSIVE,
            timecode,
            data: picture.pixels.as_ptr(),
            line_stride: to_int(picture.width.saturating_mul(2)),
            metadata: std::ptr::null(),
            timestamp: 0,
        };
        // SAFETY: the frame holds all the bytes its size says (checked above) and they stay where they are: the
        // picture is shared and immutable, and held until a later call has returned.
        unsafe { (self.api.send_video_async)(instance, &raw const frame) };
        self.held = Some(picture.clone());
    }

    fn play(&mut self, sound: &Sound, timecode: i64) {
        let Handle(instance) = self.handle;
        if sound.frames() == 0 {
            return;
        }
        let frames = c_int::try_from(sound.frames()).unwrap_or(c_int::MAX / 4);
        let frame = sys::AudioFrame {
            sample_rate: to_int(SAMPLE_RATE),
            channels: c_int::try_from(sound.channels()).unwrap_or(1),
            samples: frames,
            timecode,
            four_cc: sys::FLTP,
            data: sound.samples().as_ptr().cast(),
            channel_stride: frames.saturating_mul(4),
            metadata: std::ptr::null(),
            timestamp: 0,
        };
        // SAFETY: `Sound` holds `channels * frames` samples, and the library copies them before it returns.
        unsafe { (self.api.send_audio)(instance, &raw const frame) };
    }

    fn receivers(&self) -> Option<Receivers> {
        Some(self.watcher.receivers())
    }
}

impl Drop for NdiSender {
    /// Destroying a source was seen to hang for ever in some environments, so it happens on a thread of its own
    /// that is left behind after a while: the one thread that is not always joined.
    fn drop(&mut self) {
        // Never freed while the library may read it: not even if a thread hangs or can't be started.
        let held = mem::ManuallyDrop::new(self.held.take());
        if !self.watcher.end() {
            warn!(
                name = self.name,
                "NDI did not answer for this source in time: left to itself"
            );
            return;
        }
        let (api, handle) = (self.api.clone(), self.handle);
        let (done, wait) = mpsc::sync_channel(1);
        let destroyer = thread::Builder::new()
            .name("ndi-destroy".to_owned())
            .spawn(move || {
                destroy(&api, handle);
                drop(mem::ManuallyDrop::into_inner(held));
                let _ = done.send(());
            });
        match destroyer {
            Ok(thread) if wait.recv_timeout(DESTROY_LIMIT).is_ok() => drop(thread.join()),
            Ok(_) => warn!(
                name = self.name,
                "NDI did not end this source in time: left to itself"
            ),
            Err(error) => warn!(name = self.name, %error, "no thread to end this NDI source"),
        }
    }
}

impl fmt::Debug for NdiSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NdiSender")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

fn create_instance(
    api: &Api,
    name: &str,
    groups: Option<&CStr>,
) -> Result<Option<Handle>, SenderError> {
    let name = CString::new(name)?;
    let settings = sys::SendCreate {
        name: name.as_ptr(),
        groups: groups.map_or(std::ptr::null(), CStr::as_ptr),
        // Our own schedule paces; the library's clock would block the output thread.
        clock_video: false,
        clock_audio: false,
    };
    // SAFETY: the settings and their strings live through the call; the library copies them.
    let instance = unsafe { (api.send_create)(&raw const settings) };
    Ok((!instance.is_null()).then_some(Handle(instance)))
}

/// Tells receivers what we are.
fn describe(api: &Api, Handle(instance): Handle) {
    let Ok(text) = CString::new(PRODUCT) else {
        unreachable!("the constant holds no NUL");
    };
    let frame = sys::MetadataFrame {
        length: c_int::try_from(text.as_bytes_with_nul().len()).unwrap_or(0),
        timecode: sys::TIMECODE_SYNTHESIZE,
        data: text.as_ptr().cast_mut(),
    };
    // SAFETY: the text lives through the call, is not written to, and is copied by the library.
    unsafe { (api.add_connection_metadata)(instance, &raw const frame) };
}

/// "HOST (Camera 1)".
fn source_name(api: &Api, Handle(instance): Handle) -> Option<String> {
    // SAFETY: the source and its name belong to the live sender; they are read before anything else is called.
    unsafe {
        let source = (api.get_source_name)(instance);
        if source.is_null() || (*source).name.is_null() {
            return None;
        }
        Some(
            CStr::from_ptr((*source).name)
                .to_string_lossy()
                .into_owned(),
        )
    }
}

fn destroy(api: &Api, Handle(instance): Handle) {
    // SAFETY: the handle was taken out of its lock, so nobody else uses it; the null picture makes the library
    // let go of the last one before the sender goes.
    unsafe {
        (api.send_video_async)(instance, std::ptr::null());
        (api.send_destroy)(instance);
    }
}

fn to_int(value: u32) -> c_int {
    c_int::try_from(value).unwrap_or(c_int::MAX)
}

/// " 2" to " 9": more than nine of one name is a mistake somewhere.
const NAMES_TRIED: u32 = 9;

/// A program that stops must be gone within its grace period.
const DESTROY_LIMIT: Duration = Duration::from_secs(2);

const PRODUCT: &str = concat!(
    r#"<ndi_product long_name="Firstmile connector" short_name="Firstmile" manufacturer="Firstmile" version=""#,
    env!("CARGO_PKG_VERSION"),
    r#""/>"#
);

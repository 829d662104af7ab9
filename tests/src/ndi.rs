//! The receiving side of the NDI runtime, for tests: finds a source, takes what it sends.
//!
//! The runtime is loaded at run time by the names it exports; layouts follow the MIT-licensed NDI 6 headers. The
//! connector has its own loader for the sending side: two bindings written apart check each other.
//!
//! NDI® is a registered trademark of Vizrt NDI AB, <https://ndi.video/>.

#![expect(unsafe_code, reason = "a C library, loaded at run time")]

use std::{
    collections::BTreeSet,
    ffi::{CStr, CString, c_char, c_int, c_void},
    path::PathBuf,
    ptr, slice,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use libloading::Library;

use crate::stamp::Luma;

/// How long one finder looks. Every process with a source listens on port 5960, with `SO_REUSEPORT`: a finder without
/// mDNS hears of the sources of the one process that the kernel chose for its connection, the next finder's may be
/// another.
const ONE_FINDER: Duration = Duration::from_millis(500);

/// The loaded runtime. Never unloaded: it owns threads.
#[derive(Clone, Debug)]
pub struct Runtime {
    api: Arc<Api>,
}

impl Runtime {
    /// Loads and starts the runtime, once per process.
    ///
    /// # Errors
    /// A sentence that names what was tried.
    pub fn load() -> anyhow::Result<Self> {
        static RUNTIME: OnceLock<Result<Runtime, String>> = OnceLock::new();
        RUNTIME
            .get_or_init(|| Self::load_now().map_err(|error| format!("{error:#}")))
            .clone()
            .map_err(anyhow::Error::msg)
    }

    fn load_now() -> anyhow::Result<Self> {
        let mut tried = Vec::new();
        for path in candidates() {
            // SAFETY: the runtime's initialisers are what every NDI program runs.
            match unsafe { Library::new(&path) } {
                Ok(library) => {
                    let api = Api::bind(library)?;
                    // SAFETY: no arguments, and called before anything else.
                    if !unsafe { (api.initialize)() } {
                        bail!(
                            "the NDI runtime {} does not support this CPU",
                            path.display()
                        );
                    }
                    return Ok(Self { api: Arc::new(api) });
                }
                Err(error) => tried.push(error.to_string()),
            }
        }
        bail!(
            "no NDI runtime (`make setup` gets one). Tried: {}",
            tried.join("; ")
        )
    }

    /// Waits until a source whose advertised name, "HOST (name)", holds `name` is seen at 127.0.0.1.
    ///
    /// # Errors
    /// When none is seen before `deadline`; names those that were.
    pub fn find(&self, name: &str, deadline: Instant) -> anyhow::Result<Source> {
        let mut seen = BTreeSet::new();
        while Instant::now() < deadline {
            let until = deadline.min(Instant::now() + ONE_FINDER);
            for source in self.look(name, until)? {
                if source.name.contains(name) {
                    return Ok(source);
                }
                seen.insert(source.name);
            }
        }
        bail!("no NDI source {name:?}; seen: {seen:?}")
    }

    /// What one finder sees until it sees `name`, at the latest `until`.
    fn look(&self, name: &str, until: Instant) -> anyhow::Result<Vec<Source>> {
        let settings = FindCreate {
            show_local_sources: true,
            groups: ptr::null(),
            extra_ips: c"127.0.0.1".as_ptr(),
        };
        // SAFETY: `settings` outlives the call; the strings are static.
        let finder = unsafe { (self.api.find_create)(&raw const settings) };
        if finder.is_null() {
            bail!("NDI could not make a finder");
        }
        let sources = loop {
            // SAFETY: `finder` is live until destroyed below.
            unsafe { (self.api.find_wait)(finder, 100) };
            let sources = self.sources(finder);
            if sources.iter().any(|source| source.name.contains(name)) || Instant::now() > until {
                break sources;
            }
        };
        // SAFETY: made above, and not used again.
        unsafe { (self.api.find_destroy)(finder) };
        Ok(sources)
    }

    fn sources(&self, finder: Instance) -> Vec<Source> {
        let mut count = 0;
        // SAFETY: the array and its strings stay valid until the next call on this finder.
        unsafe {
            let sources = (self.api.find_get_current_sources)(finder, &raw mut count);
            if sources.is_null() {
                return Vec::new();
            }
            slice::from_raw_parts(sources, count as usize)
                .iter()
                .map(|source| Source {
                    name: text(source.name),
                    url: text(source.url),
                })
                .collect()
        }
    }

    /// Connects to a source.
    ///
    /// # Errors
    /// When the name holds a NUL byte or the runtime refuses.
    pub fn receive(&self, source: &Source) -> anyhow::Result<Receiver> {
        let name = CString::new(source.name.as_str())?;
        let url = CString::new(source.url.as_str())?;
        let settings = ReceiveCreate {
            source: RawSource {
                name: if source.name.is_empty() {
                    ptr::null()
                } else {
                    name.as_ptr()
                },
                url: if source.url.is_empty() {
                    ptr::null()
                } else {
                    url.as_ptr()
                },
            },
            color_format: COLOR_UYVY_BGRA,
            bandwidth: BANDWIDTH_HIGHEST,
            allow_fields: true,
            name: c"firstmile-tests".as_ptr(),
        };
        // SAFETY: the runtime copies the settings during the call.
        let instance = unsafe { (self.api.receive_create)(&raw const settings) };
        if instance.is_null() {
            bail!("NDI could not make a receiver");
        }
        Ok(Receiver {
            api: Arc::clone(&self.api),
            instance,
        })
    }
}

/// Where the library may be, best first; see `tests/scripts/ndi-runtime.sh`.
fn candidates() -> Vec<PathBuf> {
    let from_environment = ["NDI_RUNTIME_DIR_V6", "NDI_RUNTIME_DIR_V5"]
        .into_iter()
        .filter_map(std::env::var_os)
        .map(PathBuf::from);
    let try_out_copy = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/ndi/NDIlib"));
    let mut candidates: Vec<_> = from_environment
        .chain([try_out_copy])
        .flat_map(|folder| LIBRARIES.map(|library| folder.join(library)))
        .filter(|path| path.exists())
        .collect();
    candidates.extend(LIBRARIES.map(PathBuf::from));
    candidates
}

/// A source on the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// "HOST (name)".
    pub name: String,
    /// `ADDRESS:PORT`.
    pub url: String,
}

/// A connection to one source. Owned by one thread at a time.
#[derive(Debug)]
pub struct Receiver {
    api: Arc<Api>,
    instance: Instance,
}

// SAFETY: the runtime allows a receiver to be used from any thread; `&mut self` on capture keeps it to one at a time.
unsafe impl Send for Receiver {}

impl Receiver {
    /// Waits for the next thing from the source and shows it to `view`; what is shown is released after it.
    pub fn capture<T>(&mut self, wait: Duration, view: impl FnOnce(Captured<'_>) -> T) -> T {
        let mut video = VideoFrame::default();
        let mut audio = AudioFrame::default();
        let mut metadata = MetadataFrame::default();
        let wait_ms = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX);
        // SAFETY: the frames are zeroed and writable; each kind is released exactly once, after its last use.
        unsafe {
            match (self.api.receive_capture)(
                self.instance,
                &raw mut video,
                &raw mut audio,
                &raw mut metadata,
                wait_ms,
            ) {
                FRAME_VIDEO => {
                    let result = view(Captured::Video(video.view()));
                    (self.api.receive_free_video)(self.instance, &raw const video);
                    result
                }
                FRAME_AUDIO => {
                    let result = view(Captured::Audio(audio.view()));
                    (self.api.receive_free_audio)(self.instance, &raw const audio);
                    result
                }
                FRAME_METADATA => {
                    (self.api.receive_free_metadata)(self.instance, &raw const metadata);
                    view(Captured::Nothing)
                }
                FRAME_ERROR => view(Captured::Lost),
                _ => view(Captured::Nothing),
            }
        }
    }

    /// Whether the source is connected now.
    pub fn is_connected(&self) -> bool {
        // SAFETY: the instance lives as long as `self`.
        unsafe { (self.api.receive_connections)(self.instance) > 0 }
    }

    /// Tells the source that it is on program or in preview.
    pub fn set_tally(&mut self, program: bool, preview: bool) {
        let tally = Tally { program, preview };
        // SAFETY: the runtime copies the tally during the call.
        unsafe { (self.api.receive_set_tally)(self.instance, &raw const tally) };
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        // SAFETY: made by `receive`, destroyed once.
        unsafe { (self.api.receive_destroy)(self.instance) };
    }
}

/// What a source sent.
#[derive(Debug)]
pub enum Captured<'a> {
    /// A picture.
    Video(Video<'a>),
    /// A block of sound.
    Audio(Audio<'a>),
    /// Nothing of interest in that time.
    Nothing,
    /// The runtime says that the connection broke.
    Lost,
}

/// A picture as received.
#[derive(Clone, Copy, Debug)]
pub struct Video<'a> {
    /// Its luma.
    pub luma: Luma<'a>,
    /// Pixel format, such as `UYVY`.
    pub format: [u8; 4],
    /// Pictures per second, numerator and denominator, as declared.
    pub rate: (i32, i32),
    /// The sender's media clock, 100 ns.
    pub timecode: i64,
}

/// A block of sound as received.
#[derive(Clone, Copy, Debug)]
pub struct Audio<'a> {
    /// First channel, 1.0 is the sender's full scale.
    pub samples: &'a [f32],
    /// Samples a second.
    pub sample_rate: u32,
    /// How many channels there are.
    pub channels: u32,
    /// The sender's media clock at the first sample, 100 ns.
    pub timecode: i64,
}

impl VideoFrame {
    /// # Safety
    /// The frame was filled by the runtime and is not yet released.
    unsafe fn view(&self) -> Video<'_> {
        let format = self.four_cc.to_le_bytes();
        let (first, pixel_stride) = match &format {
            b"UYVY" | b"UYVA" => (1, 2),
            b"BGRA" | b"BGRX" => (1, 4),
            _ => (0, 1),
        };
        let size = |value: c_int| usize::try_from(value).unwrap_or(0);
        let (height, line_stride) = (size(self.yres), size(self.line_stride));
        let samples: &[u8] = if self.data.is_null() {
            &[]
        } else {
            // SAFETY: the caller's; a picture has at least `height` lines of `line_stride` bytes.
            unsafe { slice::from_raw_parts(self.data, height * line_stride) }
        };
        Video {
            luma: Luma {
                samples: samples.get(first..).unwrap_or(&[]),
                pixel_stride,
                line_stride,
                width: size(self.xres),
                height,
            },
            format,
            rate: (self.frame_rate_n, self.frame_rate_d),
            timecode: self.timecode,
        }
    }
}

impl AudioFrame {
    /// # Safety
    /// The frame was filled by the runtime and is not yet released.
    unsafe fn view(&self) -> Audio<'_> {
        let count = usize::try_from(self.samples).unwrap_or(0);
        let samples: &[f32] = if self.data.is_null() {
            &[]
        } else {
            // SAFETY: the caller's; planar floats, the first channel first, aligned by the runtime.
            unsafe { slice::from_raw_parts(self.data, count) }
        };
        Audio {
            samples,
            sample_rate: u32::try_from(self.sample_rate).unwrap_or(0),
            channels: u32::try_from(self.channels).unwrap_or(0),
            timecode: self.timecode,
        }
    }
}

/// # Safety
/// `pointer` is null or a string that lives during the call.
unsafe fn text(pointer: *const c_char) -> String {
    if pointer.is_null() {
        return String::new();
    }
    // SAFETY: the caller's.
    unsafe { CStr::from_ptr(pointer) }
        .to_string_lossy()
        .into_owned()
}

type Instance = *mut c_void;

#[repr(C)]
struct RawSource {
    name: *const c_char,
    url: *const c_char,
}

#[repr(C)]
struct FindCreate {
    show_local_sources: bool,
    groups: *const c_char,
    extra_ips: *const c_char,
}

#[repr(C)]
struct ReceiveCreate {
    source: RawSource,
    color_format: c_int,
    bandwidth: c_int,
    allow_fields: bool,
    name: *const c_char,
}

#[repr(C)]
struct VideoFrame {
    xres: c_int,
    yres: c_int,
    four_cc: u32,
    frame_rate_n: c_int,
    frame_rate_d: c_int,
    picture_aspect_ratio: f32,
    frame_format: c_int,
    timecode: i64,
    data: *const u8,
    line_stride: c_int,
    metadata: *const c_char,
    timestamp: i64,
}

impl Default for VideoFrame {
    fn default() -> Self {
        // SAFETY: integers and pointers, for all of which zero is a value.
        unsafe { std::mem::zeroed() }
    }
}

#[repr(C)]
struct AudioFrame {
    sample_rate: c_int,
    channels: c_int,
    samples: c_int,
    timecode: i64,
    four_cc: u32,
    data: *const f32,
    channel_stride: c_int,
    metadata: *const c_char,
    timestamp: i64,
}

impl Default for AudioFrame {
    fn default() -> Self {
        // SAFETY: as above.
        unsafe { std::mem::zeroed() }
    }
}

#[repr(C)]
struct MetadataFrame {
    length: c_int,
    timecode: i64,
    data: *mut c_char,
}

impl Default for MetadataFrame {
    fn default() -> Self {
        Self {
            length: 0,
            timecode: 0,
            data: ptr::null_mut(),
        }
    }
}

#[repr(C)]
struct Tally {
    program: bool,
    preview: bool,
}

const _: () = assert!(size_of::<VideoFrame>() == 72 && size_of::<AudioFrame>() == 64);

#[derive(Debug)]
struct Api {
    initialize: unsafe extern "C" fn() -> bool,
    find_create: unsafe extern "C" fn(*const FindCreate) -> Instance,
    find_destroy: unsafe extern "C" fn(Instance),
    find_wait: unsafe extern "C" fn(Instance, u32) -> bool,
    find_get_current_sources: unsafe extern "C" fn(Instance, *mut u32) -> *const RawSource,
    receive_create: unsafe extern "C" fn(*const ReceiveCreate) -> Instance,
    receive_destroy: unsafe extern "C" fn(Instance),
    receive_capture: unsafe extern "C" fn(
        Instance,
        *mut VideoFrame,
        *mut AudioFrame,
        *mut MetadataFrame,
        u32,
    ) -> c_int,
    receive_free_video: unsafe extern "C" fn(Instance, *const VideoFrame),
    receive_free_audio: unsafe extern "C" fn(Instance, *const AudioFrame),
    receive_free_metadata: unsafe extern "C" fn(Instance, *const MetadataFrame),
    receive_connections: unsafe extern "C" fn(Instance) -> c_int,
    receive_set_tally: unsafe extern "C" fn(Instance, *const Tally) -> bool,
}

impl Api {
    fn bind(library: Library) -> anyhow::Result<Self> {
        /// # Safety
        /// `T` is the function's type in the NDI headers.
        unsafe fn symbol<T: Copy>(library: &Library, name: &CStr) -> anyhow::Result<T> {
            // SAFETY: the caller's.
            unsafe { library.get::<T>(name.to_bytes_with_nul()) }
                .map(|symbol| *symbol)
                .with_context(|| {
                    format!("the NDI runtime is too old: no {}", name.to_string_lossy())
                })
        }
        // SAFETY: each field's type is the one of the NDI headers.
        let api = unsafe {
            Self {
                initialize: symbol(&library, c"NDIlib_initialize")?,
                find_create: symbol(&library, c"NDIlib_find_create_v2")?,
                find_destroy: symbol(&library, c"NDIlib_find_destroy")?,
                find_wait: symbol(&library, c"NDIlib_find_wait_for_sources")?,
                find_get_current_sources: symbol(&library, c"NDIlib_find_get_current_sources")?,
                receive_create: symbol(&library, c"NDIlib_recv_create_v3")?,
                receive_destroy: symbol(&library, c"NDIlib_recv_destroy")?,
                receive_capture: symbol(&library, c"NDIlib_recv_capture_v3")?,
                receive_free_video: symbol(&library, c"NDIlib_recv_free_video_v2")?,
                receive_free_audio: symbol(&library, c"NDIlib_recv_free_audio_v3")?,
                receive_free_metadata: symbol(&library, c"NDIlib_recv_free_metadata")?,
                receive_connections: symbol(&library, c"NDIlib_recv_get_no_connections")?,
                receive_set_tally: symbol(&library, c"NDIlib_recv_set_tally")?,
            }
        };
        std::mem::forget(library);
        Ok(api)
    }
}

const LIBRARIES: [&str; 2] = ["libndi.so.6", "libndi.so.5"];
const COLOR_UYVY_BGRA: c_int = 1;
const BANDWIDTH_HIGHEST: c_int = 100;
const FRAME_VIDEO: c_int = 1;
const FRAME_AUDIO: c_int = 2;
const FRAME_METADATA: c_int = 3;
const FRAME_ERROR: c_int = 4;

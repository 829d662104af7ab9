//! Where a line's pictures and sound go. Each output knows one foreign library, or none.

mod ndi;
mod null;
mod picture;
mod rate;

use std::{fmt, sync::Arc};

use tracing::{error, info, warn};

pub use self::{
    ndi::{Ndi, NdiError, SenderError},
    null::NullOutput,
    picture::{BufferPool, Picture, PixelBuffer, SAMPLE_RATE, Sound},
    rate::FrameRate,
};
use crate::playout::Tally;

/// One place where a line's pictures and sound go. Owned by the line's output thread for the line's whole life:
/// formats may change from one picture to the next, and without a feed it gets a slate and silence.
///
/// Calls take at most a few milliseconds and never wait for a receiver.
pub trait Output: Send + fmt::Debug {
    /// `ndi`, `null`.
    fn kind(&self) -> &'static str;

    /// As receivers see it.
    fn name(&self) -> &str;

    /// Shows a picture from now on. `timecode`: when it was to be shown, 100 ns since the Unix epoch, on the same
    /// scale as the sound's.
    fn show(&mut self, picture: &Arc<Picture>, rate: FrameRate, timecode: i64);

    /// Plays a sound after the ones before.
    fn play(&mut self, sound: &Sound, timecode: i64);

    /// What receivers do now; `None` if this output can't tell. Never waits.
    fn receivers(&self) -> Option<Receivers> {
        None
    }
}

/// What receivers of an output do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receivers {
    /// How many are connected.
    pub connections: u32,
    /// Whether one has it on air.
    pub tally: Tally,
}

/// Which output a line has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OutputKind {
    /// An NDI® source on the studio's network.
    #[default]
    Ndi,
    /// Counts, and notes when.
    Null,
}

/// What can be set for all NDI sources.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NdiSettings {
    /// Groups the sources belong to, separated by commas; `None` is the public group.
    pub groups: Option<String>,
}

/// What the lines' outputs share: the NDI library, loaded once. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Outputs {
    ndi: Result<Ndi, Arc<str>>,
    settings: NdiSettings,
}

impl Outputs {
    /// Loads the NDI runtime; without one, lines run with the null output and [`Self::ndi_error`] says why.
    pub fn load(settings: &NdiSettings) -> Self {
        let ndi = Ndi::load().map_err(|error| Arc::from(error.to_string()));
        match &ndi {
            Ok(ndi) => {
                info!(version = ndi.version(), library = %ndi.path().display(), "NDI runtime loaded");
            }
            Err(error) => warn!("no NDI output: {error}"),
        }
        Self {
            ndi,
            settings: settings.clone(),
        }
    }

    /// No NDI: every line gets the null output.
    pub fn null_only() -> Self {
        Self {
            ndi: Err(Arc::from("NDI is switched off")),
            settings: NdiSettings::default(),
        }
    }

    /// What was tried and where to get the runtime, if it could not be loaded.
    pub fn ndi_error(&self) -> Option<&str> {
        self.ndi.as_ref().err().map(|error| &**error)
    }

    /// The version of the NDI runtime in use.
    pub fn ndi_version(&self) -> Option<&str> {
        self.ndi.as_ref().ok().map(Ndi::version)
    }

    /// Opens an output called `name`. A line must run whatever happens: what can't be opened is replaced by the
    /// null output, with an error in the log.
    pub fn open(&self, kind: OutputKind, name: &str) -> Box<dyn Output> {
        if let (OutputKind::Ndi, Ok(ndi)) = (kind, &self.ndi) {
            match ndi.sender(name, self.settings.groups.as_deref()) {
                Ok(sender) => return Box::new(sender),
                Err(error) => error!(name, %error, "no NDI source for this line"),
            }
        }
        Box::new(NullOutput::new(name))
    }
}

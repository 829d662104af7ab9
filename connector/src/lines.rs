//! The lines of this connector: `STATE/lines.toml`, kept true, and one playout for each enabled line.
//!
//! The file belongs to the operator: its comments survive our edits, an edit by hand is taken over within a second,
//! and a broken one is refused as a whole while the running lines stay. What the program needs besides (the
//! generation that a relay compares, the next free id) is in `STATE/lines.json`, so that nobody restores it by
//! accident. A line's id never changes and is never given twice; its name is its NDI source's.
//!
//! [`Lines`] is the shared handle; [`Lines::run`] is the component that watches the file and arranges the playouts.

pub mod file;
pub mod settings;
mod stage;
mod store;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use firstmile_shared::{
    exit::{ExitCode, Failure, io_remedy},
    secret::{KeyError, StreamKey},
    tunnel::control::{ShowFormat, Takeover},
};
use tokio::{sync::watch, task, time};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

pub use self::settings::{Delay, Settings};
use self::{
    file::{FileError, NameError},
    settings::SettingError,
    stage::Stage,
    store::{Store, StoreError},
};
use crate::{
    decode::Decoders,
    output::{OutputKind, Outputs},
    playout::{LineHandle, LineSnapshot, Slate},
    unit_log::UnitLog,
};

/// One line as the rest of the program sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Stable while the line lives, never given twice.
    pub id: u32,
    /// "Camera 1": 1 to 64 characters, unique without case.
    pub name: String,
    /// What an encoder proves its right with.
    pub key: StreamKey,
    /// A disabled line has no output and takes no publisher.
    pub enabled: bool,
    /// The age at which its pictures are due, milliseconds.
    pub delay_ms: u32,
    /// Who wins when a second encoder uses the key.
    pub takeover: Takeover,
    /// Everything that was set on it.
    pub settings: Settings,
}

/// All lines at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LineSet {
    /// Grows with every change and every start of the program: a relay takes the newest.
    pub generation: u64,
    /// In the order of the file.
    pub lines: Vec<Line>,
}

impl LineSet {
    /// The line of this name, without regard to case.
    pub fn find(&self, name: &str) -> Option<&Line> {
        let wanted = file::folded(name);
        (self.lines.iter()).find(|line| file::folded(&line.name) == wanted)
    }
}

/// Why the lines could not be read or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LinesError {
    /// No line of that name.
    #[error("there is no line {name:?}; {}", known(.names))]
    Unknown {
        /// As given.
        name: String,
        /// The lines that there are.
        names: Vec<String>,
    },
    /// The name can't be one.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The key can't be one.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A setting was refused.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// The change would make the file wrong.
    #[error("{0}")]
    Change(#[source] FileError),
    /// The file on disk is wrong, so it can't be changed either.
    #[error("{}: {error}", path.display())]
    File {
        /// `lines.toml`.
        path: PathBuf,
        /// What is wrong with it.
        error: FileError,
    },
    /// The file could not be read or written.
    #[error("{}: {error}{}", path.display(), remedy(.error))]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        error: std::io::Error,
    },
}

impl From<LinesError> for Failure {
    fn from(error: LinesError) -> Self {
        let code = match &error {
            LinesError::Unknown { .. }
            | LinesError::Name(_)
            | LinesError::Key(_)
            | LinesError::Setting(_)
            | LinesError::Change(_) => ExitCode::Usage,
            LinesError::File { .. } => ExitCode::Config,
            LinesError::Io { .. } => ExitCode::Io,
        };
        Self::new(code, error.to_string())
    }
}

impl From<StoreError> for LinesError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::File { path, error } => Self::File { path, error },
            StoreError::Io { path, error } => Self::Io { path, error },
        }
    }
}

/// The lines; clones share them. Every method that touches the file blocks for a disk write.
#[derive(Clone, Debug)]
pub struct Lines {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    store: Mutex<Store>,
    sets: watch::Sender<Arc<LineSet>>,
    /// What is wrong with an edit by hand, until it is mended.
    refused_edit: Mutex<Option<String>>,
    /// `None` when a command line works alone: then nothing is played.
    stage: Option<Stage>,
    /// What all feeds should be like.
    show_format: OnceLock<ShowFormat>,
}

impl Lines {
    /// Reads the lines of a state folder whose lock is held. Nothing is played.
    pub fn open(state_dir: &Path, studio_delay: Delay) -> Result<Self, LinesError> {
        Self::with_stage(state_dir, studio_delay, None)
    }

    /// Like [`Lines::open`]; [`Lines::run`] will play the enabled ones.
    pub fn open_to_play(
        state_dir: &Path,
        studio_delay: Delay,
        outputs: Outputs,
        kind: OutputKind,
        decoders: Decoders,
    ) -> Result<Self, LinesError> {
        let stage = Stage::new(outputs, kind, decoders);
        Self::with_stage(state_dir, studio_delay, Some(stage))
    }

    fn with_stage(
        state_dir: &Path,
        studio_delay: Delay,
        stage: Option<Stage>,
    ) -> Result<Self, LinesError> {
        let store = Store::open(state_dir, studio_delay)?;
        let set = Arc::new(store.set().clone());
        Ok(Self {
            inner: Arc::new(Inner {
                store: Mutex::new(store),
                sets: watch::Sender::new(set),
                refused_edit: Mutex::new(None),
                stage,
                show_format: OnceLock::new(),
            }),
        })
    }

    /// Follows the lines as they change.
    pub fn watch(&self) -> watch::Receiver<Arc<LineSet>> {
        self.inner.sets.subscribe()
    }

    /// The lines now.
    pub fn set(&self) -> Arc<LineSet> {
        self.inner.sets.borrow().clone()
    }

    /// Where a line's units go; `None` when it does not exist or is disabled. Never waits for a playout.
    pub fn handle(&self, line: u32) -> Option<LineHandle> {
        self.inner.stage.as_ref()?.handle(line)
    }

    /// How each line is doing, by its id, in the order of the file; empty when nothing is played.
    pub fn snapshots(&self) -> Vec<(u32, LineSnapshot)> {
        let Some(stage) = &self.inner.stage else {
            return Vec::new();
        };
        (self.set().lines.iter())
            .map(|line| (line.id, stage.snapshot(line)))
            .collect()
    }

    /// Why lines that should be NDI sources are none: what was tried, and where to get the runtime.
    pub fn ndi_error(&self) -> Option<String> {
        self.inner.stage.as_ref()?.ndi_error()
    }

    /// Sets the card of lines that have none of their own; before [`Lines::run`].
    pub fn set_studio_slate(&self, slate: Slate) {
        if let Some(stage) = &self.inner.stage {
            stage.set_slate(slate);
        }
    }

    /// Notes every unit that arrives; before [`Lines::run`].
    pub fn set_unit_log(&self, log: UnitLog) {
        if let Some(stage) = &self.inner.stage {
            stage.set_unit_log(log);
        }
    }

    /// Sets what the feeds of the studio should be like, once.
    pub fn set_show_format(&self, format: ShowFormat) {
        let _ = self.inner.show_format.set(format);
    }

    /// What the feeds of the studio should be like, if somebody said so.
    pub fn show_format(&self) -> Option<ShowFormat> {
        self.inner.show_format.get().copied()
    }

    /// Why a studio's own card can't be shown, for each line that has one; the neutral card is shown instead.
    pub fn slate_faults(&self) -> Vec<String> {
        (self.inner.stage.as_ref()).map_or_else(Vec::new, Stage::slate_faults)
    }

    /// What is wrong with the last edit by hand; `None` when it was taken.
    pub fn refused_edit(&self) -> Option<String> {
        lock(&self.inner.refused_edit).clone()
    }

    /// Adds a line, with its own key or a generated one.
    pub fn add(&self, name: &str, key: Option<StreamKey>) -> Result<Line, LinesError> {
        let name = file::check_name(name)?;
        self.edit(|store| store.add(name, key))
    }

    /// Adds lines with all their settings: all of them or none.
    pub fn add_all(&self, entries: Vec<file::Entry>) -> Result<(), LinesError> {
        let mut store = self.store();
        store.reread_for_edit()?;
        store.add_all(entries)?;
        self.publish(&store);
        Ok(())
    }

    /// Takes a line away; its id is never given again.
    pub fn remove(&self, name: &str) -> Result<Line, LinesError> {
        let line = self.find(name)?;
        self.edit(|store| store.remove(line.id))
    }

    /// Sets keys of [`settings::KEYS`]: all of them or none. A picture file that can't be shown is refused here; one that
    /// goes bad later, or was written into the file by hand, is told by [`Lines::slate_faults`].
    pub fn configure(&self, name: &str, pairs: &[(String, String)]) -> Result<Line, LinesError> {
        let line = self.find(name)?;
        let mut settings = line.settings;
        for (key, value) in pairs {
            settings.set(key, value)?;
        }
        if pairs.iter().any(|(key, _)| key == "slate") {
            settings.check_slate()?;
        }
        self.edit(|store| store.change(line.id, |entry| entry.settings = settings))
    }

    /// Switches a line on or off.
    pub fn enable(&self, name: &str, enabled: bool) -> Result<Line, LinesError> {
        let line = self.find(name)?;
        self.edit(|store| store.change(line.id, |entry| entry.enabled = enabled))
    }

    /// The line of this name, or an error that lists the names there are.
    pub fn find(&self, name: &str) -> Result<Line, LinesError> {
        let set = self.set();
        set.find(name).cloned().ok_or_else(|| LinesError::Unknown {
            name: name.to_owned(),
            names: set.lines.iter().map(|line| line.name.clone()).collect(),
        })
    }

    /// Watches the file and plays the lines until `shutdown`, then ends every playout.
    pub async fn run(&self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let mut sets = self.watch();
        sets.mark_changed();
        let mut ticks = time::interval(POLL_INTERVAL);
        ticks.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
        loop {
            let lines = self.clone();
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                _ = sets.changed() => blocking(move || lines.arrange()).await,
                _ = ticks.tick() => blocking(move || {
                    lines.reread();
                    lines.arrange();
                }).await,
            }
        }
        let lines = self.clone();
        blocking(move || {
            if let Some(stage) = &lines.inner.stage {
                stage.stop();
            }
        })
        .await;
        Ok(())
    }

    fn arrange(&self) {
        if let Some(stage) = &self.inner.stage {
            stage.arrange(&self.set());
        }
    }

    /// Takes an edit by hand over, if there is one.
    fn reread(&self) {
        let mut store = self.store();
        match store.reread() {
            Ok(store::Reread::Unchanged) => {}
            Ok(store::Reread::Taken) => {
                info!(lines = store.set().lines.len(), "lines.toml was edited");
                self.publish(&store);
            }
            Ok(store::Reread::Restored) => {
                warn!(
                    "lines.toml was deleted or emptied; it is written again, the lines stay (`line remove` ends one)"
                );
            }
            Err(error) => {
                let message = format!("{}; the running lines stay", LinesError::from(error));
                let mut refused = lock(&self.inner.refused_edit);
                // A disk without room is looked at again each second, and is news once.
                if refused.as_ref() != Some(&message) {
                    error!("{message}");
                }
                *refused = Some(message);
            }
        }
    }

    fn edit<E: Into<LinesError>>(
        &self,
        change: impl FnOnce(&mut Store) -> Result<Line, E>,
    ) -> Result<Line, LinesError> {
        let mut store = self.store();
        // A change by hand that nobody has read yet comes first: it must not be overwritten.
        store.reread_for_edit()?;
        let line = change(&mut store).map_err(Into::into)?;
        self.publish(&store);
        Ok(line)
    }

    fn publish(&self, store: &Store) {
        *lock(&self.inner.refused_edit) = None;
        self.inner.sets.send_if_modified(|set| {
            let changed = **set != *store.set();
            if changed {
                *set = Arc::new(store.set().clone());
            }
            changed
        });
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        lock(&self.inner.store)
    }
}

/// A poisoned lock protects data that is replaced as a whole: it is as good as before.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Disk and thread joins off the runtime's own threads; a panic there is logged and the next round tries again.
async fn blocking(work: impl FnOnce() + Send + 'static) {
    if let Err(error) = task::spawn_blocking(work).await {
        error!(%error, "arranging the lines");
    }
}

fn remedy(error: &std::io::Error) -> String {
    io_remedy(error).map_or_else(String::new, |remedy| format!("; {remedy}"))
}

fn known(names: &[String]) -> String {
    if names.is_empty() {
        return "there are none yet: firstmile-connector line add NAME".to_owned();
    }
    let names: Vec<_> = names.iter().map(|name| format!("{name:?}")).collect();
    format!("the lines are {}", names.join(", "))
}

/// How soon an edit by hand is noticed.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;

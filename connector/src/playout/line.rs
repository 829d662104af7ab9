//! What a line's two threads, its handle and its status share.
//!
//! Four locks, held for microseconds and never two at once: coded units (`feeds`), decoded ones (`queue`), what was
//! measured (`stats`), and what to show without a picture (`absence`). The output thread, whose time counts, never
//! takes the first.

use std::{
    collections::VecDeque,
    sync::{
        Condvar, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
};

use tokio::sync::watch;

use super::{
    feeds::Feeds,
    jitter::Timing,
    report::FRESH_US,
    slate::Slate,
    snapshot::Tally,
    stats::{Histogram, Recent},
};
use crate::{
    output::{FrameRate, Picture, Receivers, Sound},
    unit_log::UnitLog,
};

/// The shared state of one line.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) name: String,
    delay_us: AtomicI64,
    video_lead_us: AtomicI64,
    sound_trim_us: AtomicI64,
    stop: AtomicBool,
    feeds: Mutex<Feeds>,
    pub(super) arrived: Condvar,
    queue: Mutex<Queue>,
    stats: Mutex<Stats>,
    /// What to show without a picture; the output thread looks now and then.
    absence: Mutex<Absence>,
    /// Where every unit that arrives is noted.
    pub(super) unit_log: OnceLock<UnitLog>,
    /// Whether receivers have the source on air, for whoever wants to follow it.
    tally: watch::Sender<Tally>,
}

/// What a source shows while its feed has no picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Absence {
    /// How long the last picture stays off program; `None`: without limit.
    pub(super) hold_us: Option<i64>,
    /// What follows it.
    pub(super) slate: Slate,
}

impl Default for Absence {
    fn default() -> Self {
        Self {
            hold_us: Some(2_000_000),
            slate: Slate::Clean,
        }
    }
}

/// Decoded, waiting to be due.
#[derive(Debug, Default)]
pub(super) struct Queue {
    pub(super) pictures: VecDeque<QueuedPicture>,
    pub(super) sounds: VecDeque<QueuedSound>,
}

/// A picture in the queue.
#[derive(Debug)]
pub(super) struct QueuedPicture {
    /// Due when the delay is added.
    pub(super) media_us: i64,
    pub(super) rate: FrameRate,
    pub(super) picture: Picture,
}

/// A block of sound in the queue.
#[derive(Debug)]
pub(super) struct QueuedSound {
    /// Its first sample is due when the delay is added.
    pub(super) media_us: i64,
    pub(super) sound: Sound,
}

/// What was measured. Counters count from the line's start.
#[derive(Debug)]
pub(super) struct Stats {
    pub(super) output: (&'static str, String),
    /// Why the studio's own card can't be shown.
    pub(super) slate_fault: Option<String>,
    pub(super) receivers: Option<Receivers>,
    pub(super) video_units: u64,
    pub(super) audio_units: u64,
    pub(super) last_arrival_us: Option<i64>,
    /// Likewise, of video.
    pub(super) last_video_us: Option<i64>,
    /// Whose relay answered last, and when.
    pub(super) relay_heard: Option<(u32, i64)>,
    pub(super) encoder_lag_ms: Option<u32>,
    /// Since when the relay has had nothing from the encoder, whose connection is there.
    pub(super) stalled_since_us: Option<i64>,
    pub(super) accepted_lag_ms: u32,
    pub(super) bitrate_bps: Option<u64>,
    /// The newest that the encoder sent.
    pub(super) timecode: Option<String>,
    pub(super) video: Option<VideoFormat>,
    pub(super) audio: Option<AudioFormat>,
    /// Decoded or decodable, but not shown: it was too late, or there was a gap.
    pub(super) late: u64,
    pub(super) dropped: u64,
    pub(super) decode_errors: u64,
    /// Until a picture came out again.
    pub(super) last_decode_error: Option<String>,
    pub(super) decoder_restarts: u64,
    /// What became of the last decoder, and what comes next; until a picture came out again.
    pub(super) decoder_loss: Option<String>,
    /// Since when the decoder is at work on one unit.
    pub(super) decoding_since_us: Option<i64>,
    pub(super) waits_for_keyframe: bool,
    /// When a picture of a feed was last shown.
    pub(super) shown_us: Option<i64>,
    /// Why the last feed ended, and when.
    pub(super) over: Option<(String, i64)>,
    pub(super) encoder: Recent,
    pub(super) relay: Recent,
    pub(super) network: Recent,
    pub(super) wait: Recent,
    pub(super) decode: Recent,
    /// How long after their due time pictures and sound were sent.
    pub(super) picture_off: Recent,
    pub(super) sound_off: Recent,
    /// How much too late the late ones were.
    pub(super) lateness: Recent,
    pub(super) network_histogram: Histogram,
    pub(super) wait_histogram: Histogram,
    pub(super) decode_histogram: Histogram,
    pub(super) output_histogram: Histogram,
}

/// Of the pictures being decoded.
#[derive(Clone, Copy, Debug)]
pub(super) struct VideoFormat {
    pub(super) codec: &'static str,
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) rate: FrameRate,
}

/// Of the sound being decoded.
#[derive(Clone, Copy, Debug)]
pub(super) struct AudioFormat {
    pub(super) codec: &'static str,
    pub(super) sample_rate: u32,
    pub(super) channels: u32,
}

impl Line {
    pub(super) fn new(name: String, delay_us: i64, output: (&'static str, String)) -> Self {
        let line = Self {
            name,
            delay_us: AtomicI64::new(0),
            video_lead_us: AtomicI64::new(2 * FrameRate::DEFAULT.interval_us()),
            sound_trim_us: AtomicI64::new(0),
            stop: AtomicBool::new(false),
            feeds: Mutex::default(),
            arrived: Condvar::new(),
            queue: Mutex::default(),
            stats: Mutex::new(Stats::new(output)),
            absence: Mutex::default(),
            unit_log: OnceLock::new(),
            tally: watch::Sender::new(Tally::Unknown),
        };
        line.set_delay(delay_us);
        line
    }

    pub(super) fn feeds(&self) -> MutexGuard<'_, Feeds> {
        self.feeds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn stats(&self) -> MutexGuard<'_, Stats> {
        self.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn delay_us(&self) -> i64 {
        self.delay_us.load(Ordering::Relaxed)
    }

    pub(super) fn set_delay(&self, delay_us: i64) {
        self.delay_us
            .store(delay_us.clamp(0, DELAY_MAX_US), Ordering::Relaxed);
    }

    pub(super) fn timing(&self) -> Timing {
        Timing {
            delay_us: self.delay_us(),
            video_lead_us: self.video_lead_us.load(Ordering::Relaxed),
            sound_trim_us: self.sound_trim_us(),
        }
    }

    pub(super) fn set_video_lead(&self, lead_us: i64) {
        self.video_lead_us.store(lead_us, Ordering::Relaxed);
    }

    /// Added to the due time of sound.
    pub(super) fn sound_trim_us(&self) -> i64 {
        self.sound_trim_us.load(Ordering::Relaxed)
    }

    pub(super) fn set_sound_trim(&self, trim_us: i64) {
        self.sound_trim_us
            .store(trim_us.clamp(-TRIM_MAX_US, TRIM_MAX_US), Ordering::Relaxed);
    }

    pub(super) fn absence(&self) -> MutexGuard<'_, Absence> {
        self.absence.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn watch_tally(&self) -> watch::Receiver<Tally> {
        self.tally.subscribe()
    }

    /// What receivers do now; followers hear of a change of the tally.
    pub(super) fn set_receivers(&self, receivers: Option<Receivers>) {
        let tally = receivers.map_or(Tally::Unknown, |receivers| receivers.tally);
        self.tally
            .send_if_modified(|known| std::mem::replace(known, tally) != tally);
        self.stats().receivers = receivers;
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Asks both threads to end.
    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
        // With the lock, so that the decode thread is either before its check or in its wait.
        drop(self.feeds());
        self.arrived.notify_all();
    }
}

impl Stats {
    /// For how long the encoder has been stalled; `None` while units come.
    pub(super) fn stalled_for_us(&self, now_us: i64) -> Option<i64> {
        let is_silent = (self.last_arrival_us).is_none_or(|at_us| now_us - at_us >= FRESH_US);
        let since_us = self.stalled_since_us.filter(|_| is_silent)?;
        Some(now_us.saturating_sub(since_us))
    }

    fn new(output: (&'static str, String)) -> Self {
        Self {
            output,
            slate_fault: None,
            receivers: None,
            video_units: 0,
            audio_units: 0,
            last_arrival_us: None,
            last_video_us: None,
            relay_heard: None,
            encoder_lag_ms: None,
            stalled_since_us: None,
            accepted_lag_ms: 0,
            bitrate_bps: None,
            timecode: None,
            video: None,
            audio: None,
            late: 0,
            dropped: 0,
            decode_errors: 0,
            last_decode_error: None,
            decoder_restarts: 0,
            decoder_loss: None,
            decoding_since_us: None,
            waits_for_keyframe: false,
            shown_us: None,
            over: None,
            encoder: Recent::default(),
            relay: Recent::default(),
            network: Recent::default(),
            wait: Recent::default(),
            decode: Recent::default(),
            picture_off: Recent::default(),
            sound_off: Recent::default(),
            lateness: Recent::default(),
            network_histogram: Histogram::new("network"),
            wait_histogram: Histogram::new("jitter"),
            decode_histogram: Histogram::new("decode"),
            output_histogram: Histogram::new("output"),
        }
    }
}

/// Ten times the longest preset; bounds what a line can hold.
const DELAY_MAX_US: i64 = 30_000_000;

/// Ten times what anybody sets; more than any encoder is off.
const TRIM_MAX_US: i64 = 20_000_000;

//! The decode thread of a line: takes units when it is their time, and puts pictures and sound into the queue.
//!
//! A keyframe can take 100 ms to decode, so this is not the thread that paces. It runs ahead of it by the lead, and
//! stops while the queue is full. When the decoder is lost (it crashed, it hung) the line holds its picture, and this
//! thread starts another and brings it to where the old one was: see [`recovery`].

mod recovery;

use std::{
    collections::VecDeque,
    panic::{self, AssertUnwindSafe},
    sync::PoisonError,
    time::Duration,
};

use bytes::Bytes;
use firstmile_shared::{
    clock::now_us,
    media::{AccessUnit, Codec, MediaKind},
    supervisor,
};
use tracing::{debug, error, warn};

use self::recovery::{Plan, Recovery};
use super::{
    feeds::Next,
    fps::RateFinder,
    jitter::{Picture, Queued},
    line::{AudioFormat, Line, QueuedPicture, QueuedSound, VideoFormat},
    stats::Recent,
};
use crate::{
    decode::{CodedUnit, DecodeError, Decoded, DecodedPicture, DecodedSound, Decoder, Gate, Pass},
    os::wait_until,
};

/// Makes the line's decoder; called again after a fault.
pub(super) type MakeDecoder = dyn Fn() -> Result<Box<dyn Decoder>, DecodeError> + Send;

/// Runs until the line stops. A fault in here costs the line its decoder's state, not the source.
pub(super) fn run(line: &Line, make: &MakeDecoder) {
    while !line.is_stopping() {
        match make() {
            Ok(decoder) => {
                let mut decoding = Decoding::new(line, decoder);
                if panic::catch_unwind(AssertUnwindSafe(|| decoding.run())).is_err() {
                    error!(line = line.name, "decoding failed; starting it anew");
                }
            }
            Err(error) => error!(line = line.name, %error, "no decoder"),
        }
        if !line.is_stopping() {
            wait_until(now_us() + RESTART_PAUSE_US);
        }
    }
}

struct Decoding<'a> {
    line: &'a Line,
    decoder: Box<dyn Decoder>,
    gate: Gate,
    rate: RateFinder,
    publisher: Option<u32>,
    /// Units in the decoder: what comes out is told by its presentation time.
    inside: VecDeque<Inside>,
    out: Vec<Decoded>,
    times: Recent,
    until_lead: u32,
    /// Of the last keyframe: a stream may have to be started where there is none.
    config: Option<Bytes>,
    recovery: Recovery,
    errors: ErrorLog,
}

#[derive(Clone, Copy)]
struct Inside {
    pts_us: i64,
    media_us: i64,
    arrived_us: i64,
}

impl<'a> Decoding<'a> {
    fn new(line: &'a Line, decoder: Box<dyn Decoder>) -> Self {
        Self {
            line,
            decoder,
            gate: Gate::default(),
            rate: RateFinder::default(),
            publisher: None,
            inside: VecDeque::new(),
            out: Vec::new(),
            times: Recent::default(),
            until_lead: 0,
            config: None,
            recovery: Recovery::default(),
            errors: ErrorLog::default(),
        }
    }

    fn run(&mut self) {
        while !self.line.is_stopping() {
            // What is decoded again comes before anything new.
            let has_room =
                self.line.queue().pictures.len() < PICTURES_MAX && !self.recovery.has_replay();
            let now_us = now_us();
            let next = self.line.feeds().next(self.line.timing(), has_room, now_us);
            match next {
                Next::Picture { publisher, picture } => {
                    self.follow(publisher);
                    self.picture(picture);
                }
                Next::Sound { publisher, queued } => {
                    self.follow(publisher);
                    self.sound(&queued);
                }
                Next::Drain => {
                    while self.recovery.has_replay() && !self.line.is_stopping() {
                        self.replay(None, firstmile_shared::clock::now_us());
                    }
                    self.drain();
                    self.close_gate();
                }
                Next::Over { reason } => self.over(reason, now_us),
                Next::Wait(until_us) if self.recovery.has_replay() => self.replay(until_us, now_us),
                Next::Wait(until_us) => self.wait(until_us, now_us),
            }
        }
    }

    /// Decodes the next of the units that were kept, or waits until that may be. What comes out was shown already, but
    /// for what the lost decoder still held.
    fn replay(&mut self, until_us: Option<i64>, now_us: i64) {
        if let Some(rest_us) = self.recovery.rests_until_us(now_us) {
            return self.wait(
                Some(until_us.map_or(rest_us, |until_us| until_us.min(rest_us))),
                now_us,
            );
        }
        if self
            .line
            .feeds()
            .has_keyframe_due(self.line.timing(), now_us)
        {
            // It is as quick to start there.
            return self.close_gate();
        }
        let Some(unit) = self.recovery.next_replay() else {
            return;
        };
        let result = self.decode(&unit);
        self.hand_over(Some(unit.codec));
        if let Err(error) = result {
            self.failed(&error, now_us);
        }
    }

    fn close_gate(&mut self) {
        self.gate.close();
        self.recovery.forget_gop();
    }

    /// Another publisher is another stream.
    fn follow(&mut self, publisher: u32) {
        if self.publisher == Some(publisher) {
            return;
        }
        self.publisher = Some(publisher);
        self.finish();
        self.gate = Gate::default();
        self.recovery.new_feed();
        self.rate = RateFinder::default();
        self.config = None;
        let mut stats = self.line.stats();
        stats.over = None;
        stats.timecode = None;
        stats.last_decode_error = None;
        stats.decoder_loss = None;
        stats.stalled_since_us = None;
    }

    fn over(&mut self, reason: String, now_us: i64) {
        self.finish();
        self.publisher = None;
        let mut stats = self.line.stats();
        stats.over = Some((reason, now_us));
        stats.encoder_lag_ms = None;
        stats.stalled_since_us = None;
        stats.accepted_lag_ms = 0;
        stats.bitrate_bps = None;
        stats.timecode = None;
        stats.waits_for_keyframe = false;
    }

    /// The pictures that the decoder holds are shown; others can follow from a keyframe on.
    fn drain(&mut self) {
        self.finish_track(MediaKind::Video);
        self.inside.clear();
    }

    /// What the decoder holds is shown.
    fn finish(&mut self) {
        self.drain();
        self.finish_track(MediaKind::Audio);
    }

    fn finish_track(&mut self, kind: MediaKind) {
        let start_us = self.watch();
        let result = self.decoder.finish(kind, &mut self.out);
        self.line.stats().decoding_since_us = None;
        self.hand_over(None);
        if let Err(error) = result {
            // What follows begins at a keyframe anyway.
            self.recovery.forget_gop();
            self.failed(&error, start_us);
        }
    }

    fn picture(&mut self, picture: Picture) {
        let Picture {
            queued,
            gap,
            thinned,
        } = picture;
        let start_us = now_us();
        let unit = &queued.unit;
        self.rate.unit(unit.dts_us, gap || thinned);
        let rests = self.recovery.rests_until_us(start_us).is_some();
        let pass = if rests {
            self.gate.close();
            Pass::Skip
        } else {
            self.gate.pass(unit.keyframe, gap, start_us)
        };
        self.note_wait(&queued, pass, start_us);
        if pass == Pass::Skip {
            self.recovery.forget_gop();
            return;
        }
        if pass == Pass::Restart {
            self.drain();
        }
        if self.inside.len() == INSIDE_MAX {
            self.inside.pop_front();
        }
        self.inside.push_back(Inside {
            pts_us: unit.pts_us(),
            media_us: queued.media_us(),
            arrived_us: queued.arrived_us,
        });
        if unit.config.is_some() {
            self.config.clone_from(&unit.config);
        }
        let config = match pass {
            Pass::Restart => self.config.clone(),
            Pass::Feed | Pass::Skip => unit.config.clone(),
        };
        let coded = coded(unit, config);
        self.recovery
            .feed(&coded, pass == Pass::Restart || unit.keyframe);
        let result = self.decode(&coded);
        let took_us = now_us() - start_us;
        if !self.out.is_empty() {
            self.note_decode(took_us, start_us);
        }
        self.hand_over(Some(unit.codec));
        if let Err(error) = result {
            self.failed(&error, now_us());
        }
    }

    fn sound(&mut self, queued: &Queued) {
        let start_us = now_us();
        if queued.unit.payload.is_empty() || self.recovery.rests_until_us(start_us).is_some() {
            return;
        }
        let pts_us = queued.unit.pts_us();
        let base_us = queued.media_us() - pts_us;
        let result = self.decode(&coded(&queued.unit, queued.unit.config.clone()));
        let codec = queued.unit.codec;
        for decoded in self.out.drain(..) {
            if let Decoded::Sound(sound) = decoded
                && sound.pts_us.abs_diff(pts_us) <= SOUND_OFF_MAX_US
            {
                put_sound(self.line, sound, base_us, codec);
            }
        }
        match result {
            Ok(()) => {}
            Err(error) if error.is_lost() => self.failed(&error, now_us()),
            Err(error) => self.errors.note(&self.line.name, &error, start_us),
        }
    }

    fn decode(&mut self, unit: &CodedUnit) -> Result<(), DecodeError> {
        self.watch();
        let result = self.decoder.decode(unit, &mut self.out);
        self.line.stats().decoding_since_us = None;
        result
    }

    /// From now on the decoder is at work: in the line's own thread nobody else can say that it hangs.
    fn watch(&self) -> i64 {
        let now_us = now_us();
        self.line.stats().decoding_since_us = Some(now_us);
        now_us
    }

    /// Puts what came out into the queue. `codec` is `None` for what an ended track still held.
    fn hand_over(&mut self, codec: Option<Codec>) {
        for decoded in std::mem::take(&mut self.out) {
            match decoded {
                Decoded::Picture(picture) => self.hand_over_picture(picture, codec),
                // Not enough to hear, and its place in time is not known any more.
                Decoded::Sound(_) => {}
            }
        }
    }

    fn hand_over_picture(&mut self, decoded: DecodedPicture, codec: Option<Codec>) {
        let Some(place) = self
            .inside
            .iter()
            .position(|unit| unit.pts_us == decoded.pts_us)
        else {
            debug!(
                line = self.line.name,
                pts_us = decoded.pts_us,
                "a picture of no known unit"
            );
            return;
        };
        let Some(inside) = self.inside.remove(place) else {
            return;
        };
        if decoded.damaged {
            // The ones that refer to it are no better: the last good picture stays until the next keyframe.
            self.close_gate();
            self.line.stats().decode_errors += 1;
            return;
        }
        self.rate.declare(decoded.declared_rate);
        let rate = self.rate.rate();
        let late_us = inside.arrived_us - inside.media_us - self.line.delay_us();
        let now_us = now_us();
        let is_missed = self.recovery.is_catching_up(now_us)
            && now_us > inside.media_us + self.line.delay_us() + rate.interval_us();
        {
            let mut stats = self.line.stats();
            if is_missed {
                // It was due while there was no decoder. Those in time follow soon.
                stats.late += 1;
                return;
            }
            stats.last_decode_error = None;
            stats.decoder_loss = None;
            if let Some(codec) = codec {
                stats.video = Some(VideoFormat {
                    codec: codec.name(),
                    width: decoded.picture.width,
                    height: decoded.picture.height,
                    rate,
                });
            }
            if late_us > 0 {
                stats.late += 1;
                stats.lateness.note(late_us, now_us);
                return;
            }
        }
        self.recovery.caught_up();
        self.line.queue().pictures.push_back(QueuedPicture {
            media_us: inside.media_us,
            rate,
            picture: decoded.picture,
        });
    }

    fn note_wait(&self, queued: &Queued, pass: Pass, now_us: i64) {
        let mut stats = self.line.stats();
        let waited_us = now_us - queued.arrived_us;
        stats.wait.note(waited_us, now_us);
        stats.wait_histogram.note(waited_us);
        stats.waits_for_keyframe = pass == Pass::Skip;
        stats.dropped += u64::from(pass == Pass::Skip);
    }

    /// Measures, and now and then learns how early to start.
    fn note_decode(&mut self, took_us: i64, now_us: i64) {
        self.times.note(took_us, now_us);
        {
            let mut stats = self.line.stats();
            stats.decode.note(took_us, now_us);
            stats.decode_histogram.note(took_us);
        }
        self.until_lead = self.until_lead.saturating_sub(1);
        if self.until_lead == 0 {
            self.until_lead = LEAD_EVERY;
            let frame_us = self.rate.rate().interval_us();
            let p99_us = self.times.percentile_us(990, now_us).unwrap_or(frame_us);
            let lead_us = (p99_us + frame_us).clamp(frame_us, 4 * frame_us);
            self.line.set_video_lead(lead_us);
        }
    }

    /// A unit could not be decoded: what refers to it can't be either.
    fn failed(&mut self, error: &DecodeError, now_us: i64) {
        if error.is_lost() {
            return self.lost(error, now_us);
        }
        self.close_gate();
        {
            let mut stats = self.line.stats();
            stats.decode_errors += 1;
            stats.last_decode_error = Some(error.to_string());
        }
        self.errors.note(&self.line.name, error, now_us);
    }

    /// The decoder is gone: another one goes on with the units that were kept, or with the next keyframe.
    fn lost(&mut self, error: &DecodeError, now_us: i64) {
        let plan = self.recovery.lost(now_us, supervisor::random());
        if !plan.replays {
            self.gate.close();
        }
        let said = lost_words(error, plan);
        warn!(line = self.line.name, "{said}");
        let mut stats = self.line.stats();
        stats.decoder_restarts += 1;
        stats.decoder_loss = Some(said);
    }

    /// A unit that comes ends a long wait; a short one is precise instead.
    fn wait(&mut self, until_us: Option<i64>, now_us: i64) {
        let left_us = until_us.map_or(LONG_WAIT_US, |until_us| until_us - now_us);
        if left_us <= SHORT_WAIT_US {
            // In steps: something more urgent may come. A full queue wants a picture taken, not a unit.
            wait_until(now_us + left_us.clamp(STEP_MIN_US, STEP_MAX_US));
            return;
        }
        if self.recovery.rests_until_us(now_us).is_none() && self.decoder.tend() {
            return;
        }
        let feeds = self.line.feeds();
        if self.line.is_stopping() {
            return;
        }
        // Not to the very end: the rest is waited for precisely.
        let left_us = (left_us - STEP_MAX_US).clamp(0, LONG_WAIT_US);
        drop(
            (self.line.arrived)
                .wait_timeout(feeds, Duration::from_micros(left_us.unsigned_abs()))
                .unwrap_or_else(PoisonError::into_inner),
        );
    }
}

fn coded(unit: &AccessUnit, config: Option<Bytes>) -> CodedUnit {
    CodedUnit {
        codec: unit.codec,
        config,
        payload: unit.payload.clone(),
        pts_us: unit.pts_us(),
    }
}

/// For the log and the operator: what happened, and what comes next.
fn lost_words(error: &DecodeError, plan: Plan) -> String {
    let often = match plan.times {
        0 | 1 => String::new(),
        times => format!(", {times} times on this feed"),
    };
    let next = match plan.pause_us {
        _ if plan.replays => "it is being started anew".to_owned(),
        ..SAID_MIN_US => "waiting for the next keyframe".to_owned(),
        us => format!(
            "it is started anew in {} s, at the next keyframe",
            (us + 999_999) / 1_000_000
        ),
    };
    format!("{error}{often}; {next}")
}

fn put_sound(line: &Line, decoded: DecodedSound, base_us: i64, codec: Codec) {
    line.stats().audio = Some(AudioFormat {
        codec: codec.name(),
        sample_rate: decoded.source_rate,
        channels: u32::try_from(decoded.sound.channels()).unwrap_or(0),
    });
    let mut queue = line.queue();
    if queue.sounds.len() >= SOUNDS_MAX {
        queue.sounds.pop_front();
    }
    queue.sounds.push_back(QueuedSound {
        media_us: base_us.saturating_add(decoded.pts_us),
        sound: decoded.sound,
    });
}

/// Says what can't be decoded, at most once a second, with a count.
#[derive(Default)]
struct ErrorLog {
    since_us: Option<i64>,
    unsaid: u64,
}

impl ErrorLog {
    fn note(&mut self, line: &str, error: &DecodeError, now_us: i64) {
        self.unsaid += 1;
        if self
            .since_us
            .is_none_or(|since_us| now_us - since_us >= 1_000_000)
        {
            warn!(line, %error, times = self.unsaid, "a unit could not be decoded");
            self.since_us = Some(now_us);
            self.unsaid = 0;
        }
    }
}

/// Sound starts where its unit does, give or take what a resampler holds. Anything else is made up.
const SOUND_OFF_MAX_US: u64 = 1_000_000;

/// A shorter pause is not worth a word.
const SAID_MIN_US: i64 = 1_000_000;

/// The queue between decoder and output.
const PICTURES_MAX: usize = 4;

/// A second of AAC; more than any lead.
const SOUNDS_MAX: usize = 50;

/// More than any decoder holds for reordering.
const INSIDE_MAX: usize = 64;

/// Pictures between two looks at the decode times.
const LEAD_EVERY: u32 = 30;

/// Below this, condition variables are too coarse on Windows.
const SHORT_WAIT_US: i64 = 50_000;
const STEP_MIN_US: i64 = 1_000;
const STEP_MAX_US: i64 = 10_000;
const LONG_WAIT_US: i64 = 1_000_000;

const RESTART_PAUSE_US: i64 = 100_000;

//! One encoder's connection, as its feed knows it. No clock: times are arguments, microseconds on the relay's clock.

use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock},
};

use firstmile_shared::{
    media::{AccessUnit, Codec, MediaKind},
    takeover::{ASK_AFTER_US, Challenger, Incumbent, Look},
    tunnel::{
        control::{Claim, Finding, ShowFormat, TrackReport},
        unit::Unit,
    },
};
use tokio_util::sync::CancellationToken;

use super::super::{
    Ending, PublishRequest,
    age::Age,
    lag::{Act, Lag, Rules},
};
use crate::{
    auth::printable,
    doctor::{Case, Doctor},
};

/// An encoder's connection.
#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fact of its own, and all of them may be true"
)]
pub(in crate::registry) struct Publisher {
    pub(in crate::registry) number: u32,
    pub(in crate::registry) peer: SocketAddr,
    /// What it called itself when it came: part of who it is.
    pub(super) look: Look,
    /// What its metadata called it later: for people.
    description: Option<String>,
    pub(in crate::registry) protocol: &'static str,
    pub(in crate::registry) since_unix: i64,
    pub(in crate::registry) video: Option<Codec>,
    pub(in crate::registry) audio: Option<Codec>,
    /// What it sends, also what is not carried.
    pub(in crate::registry) tracks: Vec<TrackReport>,
    /// Age at ingest of the newest unit.
    pub(super) lag_us: Option<i64>,
    pub(in crate::registry) bitrate_bps: Option<u64>,
    age: Age,
    baseline_us: Option<i64>,
    doctor: Doctor,
    /// What is wrong with it, as of the last second.
    pub(in crate::registry) findings: Vec<Finding>,
    lag: Lag,
    /// The youngest unit since the last tick.
    least_lag_us: Option<i64>,
    /// Counts the units that were for connectors.
    seq: u64,
    came_us: i64,
    pub(super) last_media_us: i64,
    /// Since when it has sent media and the incumbent has not.
    alone_since_us: Option<i64>,
    bytes_since_tick: u64,
    /// What came since its newest keyframe: for when it gets the line, and for connectors that come later.
    kept: Kept,
    /// It was given the line in the middle of a GOP.
    pub(super) waits_for_keyframe: bool,
    /// It looks like one that was refused and like one that was not: only the operator gives it the line.
    pub(super) is_in_doubt: bool,
    /// The operator was asked about it.
    pub(super) is_asked: bool,
    /// It was said that nothing comes from it.
    is_stalled: bool,
    closing: Closing,
}

/// A unit with the times that it got when it came in.
#[derive(Clone, Debug)]
pub(super) struct Timed {
    pub(super) unit: AccessUnit,
    pub(super) ingest_us: i64,
    pub(super) baseline_us: i64,
}

/// What came since a keyframe, as far as it fits.
#[derive(Debug, Default)]
struct Kept {
    /// With its number, if it has one.
    units: Vec<(Timed, Option<u64>)>,
    bytes: usize,
}

/// How a publisher's socket hears that it must go.
#[derive(Clone, Debug, Default)]
pub(in crate::registry) struct Closing {
    token: CancellationToken,
    ending: Arc<OnceLock<Ending>>,
    /// It is asked to leave and to come back, if it understands that.
    leave: CancellationToken,
}

impl Closing {
    pub(super) fn order(&self, ending: Ending) {
        let _ = self.ending.set(ending);
        self.token.cancel();
    }

    pub(in crate::registry) async fn ordered(&self) -> Ending {
        self.token.cancelled().await;
        self.ending.get().copied().unwrap_or(Ending::Withdrawn)
    }

    pub(in crate::registry) async fn asked_to_leave(&self) {
        self.leave.cancelled().await;
    }
}

impl Publisher {
    pub(in crate::registry) fn new(
        number: u32,
        request: PublishRequest,
        since_unix: i64,
        now_us: i64,
    ) -> Self {
        Self {
            number,
            peer: request.peer,
            look: Look {
                address: Some(request.peer.ip()),
                agent: request.encoder,
            },
            description: None,
            protocol: request.protocol,
            since_unix,
            video: None,
            audio: None,
            tracks: Vec::new(),
            lag_us: None,
            bitrate_bps: None,
            age: Age::default(),
            baseline_us: None,
            doctor: Doctor::default(),
            findings: Vec::new(),
            lag: Lag::default(),
            least_lag_us: None,
            seq: 0,
            came_us: now_us,
            last_media_us: now_us,
            alone_since_us: None,
            bytes_since_tick: 0,
            kept: Kept::default(),
            waits_for_keyframe: false,
            is_in_doubt: false,
            is_asked: false,
            is_stalled: false,
            closing: Closing::default(),
        }
    }

    pub(in crate::registry) fn closing(&self) -> Closing {
        self.closing.clone()
    }

    pub(in crate::registry) fn order(&self, ending: Ending) {
        self.closing.order(ending);
    }

    /// Its socket hears of it; whether the encoder understands is the protocol's affair.
    pub(in crate::registry) fn ask_to_leave(&self) {
        self.closing.leave.cancel();
    }

    pub(in crate::registry) fn look(&self) -> &Look {
        &self.look
    }

    /// The name to show: "obs-output module (libobs 29.0.2)" tells more than the "FMSc/1.0" that OBS comes with.
    pub(in crate::registry) fn shown_encoder(&self) -> &str {
        self.description.as_deref().unwrap_or(&self.look.agent)
    }

    pub(super) fn describe(&mut self, encoder: String) {
        self.description = Some(encoder);
    }

    /// Age at ingest of the newest unit; while nothing comes, what the next one will have at least.
    pub(in crate::registry) fn lag_ms(&self, now_us: i64) -> Option<u32> {
        let silent_us = self.silent_us(now_us);
        let waits_us = if silent_us > PAUSE_US { silent_us } else { 0 };
        self.lag_us.map(|us| ms(us.saturating_add(waits_us)))
    }

    /// How much lag was accepted and is still in force.
    pub(in crate::registry) fn accepted_lag_ms(&self) -> u32 {
        ms(self.age.accepted_us())
    }

    /// Lives with a lag from now on.
    pub(super) fn accept(&mut self, lag_us: i64) {
        self.age.accept(lag_us);
        self.lag_us = self.lag_us.map(|us| us.saturating_sub(lag_us).max(0));
        self.lag.acted();
    }

    /// What is to be done about the lag of the last `elapsed_us`.
    pub(super) fn judge_lag(&mut self, elapsed_us: i64, rules: Rules) -> Option<Act> {
        self.lag.second(self.least_lag_us.take(), elapsed_us, rules)
    }

    /// Measures a unit; the answer is the baseline.
    pub(super) fn observe(&mut self, unit: &AccessUnit, now_us: i64) -> i64 {
        if unit.kind() == MediaKind::Data {
            // Encoders date their data as they like: it has no say in how late they are.
            return self
                .baseline_us
                .unwrap_or(now_us.saturating_sub(unit.dts_us));
        }
        let baseline_us = self.age.observe(now_us, unit.dts_us, unit.discontinuity);
        let lag_us = now_us
            .saturating_sub(unit.pts_us())
            .saturating_sub(baseline_us);
        self.baseline_us = Some(baseline_us);
        self.lag_us = Some(lag_us.max(0));
        self.least_lag_us = Some(self.least_lag_us.map_or(lag_us, |least| least.min(lag_us)));
        self.doctor.observe(unit, now_us, lag_us);
        self.last_media_us = now_us;
        self.bytes_since_tick += unit.payload.len() as u64;
        match unit.kind() {
            MediaKind::Video if is_first(unit, self.video) => self.video = Some(unit.codec),
            MediaKind::Audio if is_first(unit, self.audio) => self.audio = Some(unit.codec),
            _ => {}
        }
        baseline_us
    }

    /// Closes the books of the last `elapsed_us`.
    pub(super) fn tick(&mut self, elapsed_us: u64) {
        let bits = std::mem::take(&mut self.bytes_since_tick).saturating_mul(8);
        self.bitrate_bps = Some(bits.saturating_mul(1_000_000) / elapsed_us.max(1));
    }

    /// Has it examined: once a second.
    pub(super) fn examine(
        &mut self,
        line: &str,
        show: Option<ShowFormat>,
        delay_us: i64,
        now_us: i64,
    ) {
        let foreign = |kind: MediaKind| {
            let mut tracks = self.tracks.iter();
            let first = tracks.find(|track| track.track == 0 && track.kind == kind.name());
            first
                .filter(|track| !track.carried)
                .map(|track| track.codec.as_str())
        };
        let case = Case {
            line,
            agent: self.description.as_deref().unwrap_or(&self.look.agent),
            show,
            delay_us,
            foreign_video: foreign(MediaKind::Video),
            foreign_audio: foreign(MediaKind::Audio),
        };
        self.findings = self.doctor.examine(&case, now_us);
    }

    pub(super) fn next_seq(&mut self) -> u64 {
        let seq = self.seq;
        self.seq += 1;
        seq
    }

    /// For how long nothing has come, when that is so long that it is no pause between two pictures.
    pub(in crate::registry) fn stalled_ms(&self, now_us: i64) -> Option<u32> {
        let silent_us = self.silent_us(now_us);
        (silent_us >= STALLED_US).then(|| u32::try_from(silent_us / 1000).unwrap_or(u32::MAX))
    }

    /// Whether it has just stalled (`Some(true)`), or sends again.
    pub(super) fn stall_changed(&mut self, now_us: i64) -> Option<bool> {
        let is_stalled = self.silent_us(now_us) >= STALLED_US;
        let was_stalled = std::mem::replace(&mut self.is_stalled, is_stalled);
        (is_stalled != was_stalled).then_some(is_stalled)
    }

    pub(super) fn silent_us(&self, now_us: i64) -> i64 {
        now_us.saturating_sub(self.last_media_us)
    }

    pub(super) fn incumbent(&self, now_us: i64) -> Incumbent<'_> {
        Incumbent {
            look: &self.look,
            silent_us: self.silent_us(now_us),
            // Without media it has shown no life at all.
            lag_us: self.lag_us.unwrap_or(i64::MAX),
        }
    }

    pub(super) fn waited_us(&self, now_us: i64) -> i64 {
        now_us.saturating_sub(self.came_us)
    }

    /// Whether it has waited for so long that the operator is asked.
    pub(super) fn is_question(&self, now_us: i64) -> bool {
        self.waited_us(now_us) >= ASK_AFTER_US
    }

    /// It sends media while it is held; the incumbent's came last at `incumbent_us`.
    pub(super) fn note_alone(&mut self, incumbent_us: i64, now_us: i64) {
        if self.alone_since_us.is_none_or(|us| us <= incumbent_us) {
            self.alone_since_us = Some(now_us);
        }
    }

    pub(super) fn challenger(&self, now_us: i64) -> Challenger<'_> {
        Challenger {
            look: &self.look,
            waited_us: Some(self.waited_us(now_us)),
            alone_us: (self.alone_since_us).map_or(0, |us| now_us.saturating_sub(us)),
        }
    }

    /// Keeps what has come since its newest keyframe, so that it has a picture at once when it gets the line, or when
    /// another connector comes. `seq`: its number, if there was somebody to have it.
    pub(super) fn keep(&mut self, timed: Timed, seq: Option<u64>) {
        let unit = &timed.unit;
        if is_keyframe(unit) {
            self.kept = Kept::default();
        } else if self.kept.units.is_empty() {
            return;
        }
        self.kept.bytes += unit.payload.len();
        self.kept.units.push((timed, seq));
        if self.kept.bytes > KEPT_BYTES_MAX || self.kept.units.len() > KEPT_UNITS_MAX {
            // A GOP as long as that is of no use: it can't be caught up with.
            self.kept = Kept::default();
        }
    }

    /// How old the keyframe is that was kept.
    pub(super) fn kept_for_us(&self, now_us: i64) -> Option<i64> {
        let (keyframe, _) = self.kept.units.first()?;
        Some(now_us.saturating_sub(keyframe.ingest_us))
    }

    pub(super) fn take_kept(&mut self) -> Vec<Timed> {
        let units = std::mem::take(&mut self.kept).units;
        units.into_iter().map(|(timed, _)| timed).collect()
    }

    /// What came since its newest keyframe, with its number: it gets one now if nobody was there to have it.
    pub(super) fn since_keyframe(&mut self, line: u32) -> Vec<Unit> {
        let (number, seq) = (self.number, &mut self.seq);
        let mut next = || {
            *seq += 1;
            *seq - 1
        };
        let units = self.kept.units.iter_mut();
        units
            .map(|(timed, seq)| Unit {
                line,
                publisher: number,
                seq: *seq.get_or_insert_with(&mut next),
                ingest_us: timed.ingest_us,
                baseline_us: timed.baseline_us,
                queued_us: 0,
                access_unit: timed.unit.clone(),
            })
            .collect()
    }

    /// It lost the line and is held from now on.
    pub(super) fn is_held_again(&mut self, now_us: i64) {
        // The operator knows of it: no need to wait before asking.
        self.came_us = now_us.saturating_sub(ASK_AFTER_US);
        self.alone_since_us = None;
        // It was sent already.
        self.kept = Kept::default();
        self.is_asked = true;
    }

    /// What the studio is told of it.
    pub(super) fn claim(&self) -> Claim {
        Claim {
            publisher: self.number,
            encoder: printable(self.shown_encoder()),
            peer: self.peer.to_string(),
            since_unix: self.since_unix,
        }
    }
}

/// A picture that a decoder can start with, of the track that is played.
pub(super) fn is_keyframe(unit: &AccessUnit) -> bool {
    unit.kind() == MediaKind::Video && unit.keyframe && unit.track == 0
}

/// Whether a unit says what its kind of media is coded with: track 0, else any.
fn is_first(unit: &AccessUnit, known: Option<Codec>) -> bool {
    unit.track == 0 || known.is_none()
}

/// The name of what comes on the first track of this kind, also if it is not carried.
pub(in crate::registry) fn codec_name(tracks: &[TrackReport], kind: MediaKind) -> Option<&str> {
    let mut named = tracks.iter().filter(|track| track.kind == kind.name());
    let first = named.clone().find(|track| track.track == 0);
    first
        .or_else(|| named.next())
        .map(|track| track.codec.as_str())
}
fn ms(us: i64) -> u32 {
    u32::try_from(us / 1000).unwrap_or(u32::MAX)
}

/// An encoder that sends is silent for one picture; what lasts longer than two at 5 a second is a stalled uplink.
const PAUSE_US: i64 = 400_000;

/// Without anything for so long, an encoder has stopped or its uplink has: no GOP and no network makes such a pause.
const STALLED_US: i64 = 2_000_000;

/// A GOP of 2 s at 16 Mbit/s.
const KEPT_BYTES_MAX: usize = 4 * 1024 * 1024;

/// A GOP of 5 s at 60 pictures a second, with its sound.
const KEPT_UNITS_MAX: usize = 600;

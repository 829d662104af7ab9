//! The jitter buffer of one feed: coded units, put in order and held until it is their time. Pure.
//!
//! Units come on streams of their own, in any order, and some never. Video is given out in the order of `seq`, each
//! unit at `decode time - lead`. Where something is missing it waits for it, up to [`GIVE_UP_US`] past the due time
//! (what comes late is still decoded, so that what follows is right), unless a keyframe makes it needless. Sound
//! needs no neighbours: it is given out by time alone.
//!
//! All times are microseconds of the connector's clock, but for those of the units themselves.

mod window;

use std::{collections::BTreeMap, ops::Bound};

use firstmile_shared::media::{AccessUnit, MediaKind};

use self::window::{Before, Missed, Window};

/// A unit in the buffer.
#[derive(Clone, Debug)]
pub(super) struct Queued {
    pub(super) unit: AccessUnit,
    pub(super) seq: u64,
    pub(super) arrived_us: i64,
    pub(super) baseline_us: i64,
}

impl Queued {
    /// When it is to be shown, if the delay were 0.
    pub(super) fn media_us(&self) -> i64 {
        // A broken encoder's composition offset must not hold a picture for half an hour.
        let offset_us = i64::from(self.unit.cts_us).clamp(-OFFSET_MAX_US, OFFSET_MAX_US);
        self.decode_us().saturating_add(offset_us)
    }

    /// When it is to be decoded, if the delay were 0: pictures that wait for later ones are decoded before them.
    fn decode_us(&self) -> i64 {
        self.baseline_us.saturating_add(self.unit.dts_us)
    }
}

/// How early units are given out, and for which delay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Timing {
    /// The studio delay.
    pub(super) delay_us: i64,
    /// Before its due time.
    pub(super) video_lead_us: i64,
    /// Added to the due time of sound.
    pub(super) sound_trim_us: i64,
}

/// A unit of video given out.
#[derive(Debug)]
pub(super) struct Picture {
    pub(super) queued: Queued,
    /// Something before it is missing that it may need.
    pub(super) gap: bool,
    /// Pictures before it were left out that no other needs.
    pub(super) thinned: bool,
}

/// Units that the relay left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// The first.
    pub from_seq: u64,
    /// The last.
    pub to_seq: u64,
    /// How many of them are pictures.
    pub video: u32,
    /// No other picture needs any of them.
    pub disposable: bool,
}

/// Units of video that were not given out, since start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Losses {
    /// Past their due time when they could have been decoded, or given out after it was too late.
    pub(super) late: u64,
    /// Left out by policy.
    pub(super) dropped: u64,
    /// Never came, sound included: nobody knows what they were.
    pub(super) lost: u64,
}

/// The buffer.
#[derive(Debug, Default)]
pub(super) struct Jitter {
    window: Window,
    video: BTreeMap<u64, Queued>,
    audio: BTreeMap<u64, Queued>,
    video_bytes: usize,
    audio_bytes: usize,
    /// The keyframe before the last: the length of a GOP is the distance.
    keyframe_dts_us: Option<i64>,
    gop_us: i64,
    picture: Option<LastPicture>,
    sound: Option<LastSound>,
    losses: Losses,
}

/// The unit of video that was given out last.
#[derive(Clone, Copy, Debug)]
struct LastPicture {
    decode_us: i64,
    interval_us: i64,
}

#[derive(Clone, Copy, Debug)]
struct LastSound {
    dts_us: i64,
    interval_us: i64,
}

impl Jitter {
    /// Takes a unit in; keeps the bound by skipping to the newest keyframe.
    pub(super) fn push(&mut self, queued: Queued, timing: Timing, now_us: i64) {
        let is_video = queued.unit.kind() == MediaKind::Video;
        if !self.window.arrived(queued.seq, is_video, now_us) {
            self.losses.late += u64::from(is_video);
            return;
        }
        if is_video {
            self.note_keyframe(&queued.unit);
            self.video_bytes += queued.unit.payload.len();
            if let Some(double) = self.video.insert(queued.seq, queued) {
                self.video_bytes -= double.unit.payload.len();
            }
            if self.is_overfull(timing) {
                self.skip_to_newest_keyframe();
            }
        } else {
            self.audio_bytes += queued.unit.payload.len();
            if let Some(double) = self.audio.insert(queued.seq, queued) {
                self.audio_bytes -= double.unit.payload.len();
            }
            while self.audio.len() > UNITS_MAX || self.audio_bytes > AUDIO_BYTES_MAX {
                let Some((_, oldest)) = self.audio.pop_first() else {
                    break;
                };
                self.audio_bytes -= oldest.unit.payload.len();
            }
        }
    }

    /// A unit came that is not played: it is no gap.
    pub(super) fn pass_over(&mut self, seq: u64, now_us: i64) {
        self.window.arrived(seq, false, now_us);
    }

    /// Units that the relay dropped: not to be waited for.
    pub(super) fn announce(&mut self, left_out: LeftOut) {
        let missed = match left_out {
            LeftOut { video: 0, .. } => Missed::Sound,
            LeftOut {
                disposable: true, ..
            } => Missed::Disposable,
            LeftOut { .. } => Missed::Picture,
        };
        let LeftOut {
            from_seq, to_seq, ..
        } = left_out;
        self.window.announced(from_seq, to_seq, missed);
        self.losses.dropped += u64::from(left_out.video);
    }

    /// The next unit of video whose time has come.
    pub(super) fn next_video(&mut self, timing: Timing, now_us: i64) -> Option<Picture> {
        let seq = self.ready_video(timing, now_us)?;
        while let Some(skipped) = self.video.first_entry().filter(|entry| *entry.key() < seq) {
            self.video_bytes -= skipped.remove().unit.payload.len();
            self.losses.late += 1;
        }
        let queued = self.video.remove(&seq)?;
        self.video_bytes -= queued.unit.payload.len();
        let before = self.window.before(seq);
        let gap = !matches!(before, Before::Whole | Before::Thinned);
        self.window.gave_out(seq, now_us);
        let decode_us = queued.decode_us();
        self.picture = Some(LastPicture {
            decode_us,
            interval_us: (self.picture)
                .map_or(0, |last| decode_us.saturating_sub(last.decode_us))
                .clamp(0, PICTURE_INTERVAL_MAX_US),
        });
        Some(Picture {
            queued,
            gap,
            thinned: before == Before::Thinned,
        })
    }

    /// When the next unit of video would be given out, if none is here: what waits in the decoder for later ones is
    /// shown in time only if it comes out then.
    pub(super) fn drain_at_us(&self, timing: Timing) -> Option<i64> {
        let last = self.picture.filter(|_| self.video.is_empty())?;
        Some(timing.decode_at_us(last.decode_us.saturating_add(last.interval_us)))
    }

    /// The next unit of sound whose time has come.
    pub(super) fn next_audio(&mut self, timing: Timing, now_us: i64) -> Option<Queued> {
        if self.audio_at_us(timing)? > now_us {
            return None;
        }
        let (_, queued) = self.audio.pop_first()?;
        self.audio_bytes -= queued.unit.payload.len();
        let dts_us = queued.unit.dts_us;
        self.sound = Some(LastSound {
            dts_us,
            interval_us: (self.sound)
                .map_or(0, |last| dts_us.saturating_sub(last.dts_us))
                .clamp(0, SOUND_INTERVAL_MAX_US),
        });
        Some(queued)
    }

    /// When to ask again if nothing new comes; `None` while there is nothing.
    pub(super) fn wake_us(&self, timing: Timing, now_us: i64) -> Option<i64> {
        let video = self.video.first_key_value().map(|(seq, head)| {
            let at_us = timing.video_at_us(head);
            let before = self.window.before(*seq);
            if at_us > now_us || matches!(before, Before::Whole | Before::Thinned) {
                at_us
            } else {
                let keyframe = self.keyframe_after(*seq).map(|key| timing.video_at_us(key));
                let give_up = timing.due_us(head).saturating_add(GIVE_UP_US);
                keyframe.map_or(give_up, |keyframe| keyframe.min(give_up))
            }
        });
        [video, self.audio_at_us(timing)]
            .into_iter()
            .flatten()
            .min()
    }

    /// Whether it is time for a keyframe that is here.
    pub(super) fn has_keyframe_due(&self, timing: Timing, now_us: i64) -> bool {
        (self.video.values())
            .take_while(|unit| timing.video_at_us(unit) <= now_us)
            .any(|unit| unit.unit.keyframe)
    }

    /// Whether everything was given out.
    pub(super) fn is_empty(&self) -> bool {
        self.video.is_empty() && self.audio.is_empty()
    }

    /// What was not given out, up to now.
    pub(super) fn losses(&mut self, now_us: i64) -> Losses {
        Losses {
            lost: self.window.lost(now_us),
            ..self.losses
        }
    }

    /// Which unit of video is to be given out now.
    fn ready_video(&self, timing: Timing, now_us: i64) -> Option<u64> {
        let (&first, head) = self.video.first_key_value()?;
        if timing.video_at_us(head) > now_us {
            return None;
        }
        let is_late = timing.due_us(head) < now_us;
        // Nothing before a keyframe that is late itself can be shown any more: start there.
        if is_late
            && let Some((&seq, _)) = (self.video.range((Bound::Excluded(first), Bound::Unbounded)))
                .rev()
                .find(|(_, unit)| unit.unit.keyframe && timing.due_us(unit) <= now_us)
        {
            return Some(seq);
        }
        if head.unit.keyframe || self.window.before(first) != Before::Unknown {
            return Some(first);
        }
        let keyframe = self.keyframe_after(first);
        if let Some(keyframe) = keyframe.filter(|unit| timing.video_at_us(unit) <= now_us) {
            return Some(keyframe.seq);
        }
        (timing.due_us(head).saturating_add(GIVE_UP_US) <= now_us).then_some(first)
    }

    fn keyframe_after(&self, seq: u64) -> Option<&Queued> {
        (self.video.range(seq..))
            .map(|(_, unit)| unit)
            .find(|unit| unit.unit.keyframe)
    }

    /// Sound that follows what was given out is given out early: then a long decode of a picture can't delay it. After
    /// a gap it waits for what may still come.
    fn audio_at_us(&self, timing: Timing) -> Option<i64> {
        let (_, head) = self.audio.first_key_value()?;
        let follows = self.sound.is_some_and(|last| {
            let distance_us = head.unit.dts_us.saturating_sub(last.dts_us);
            last.interval_us > 0 && (0..=last.interval_us * 3 / 2).contains(&distance_us)
        });
        let lead_us = if follows {
            SOUND_LEAD_US
        } else {
            SOUND_GAP_LEAD_US
        };
        let due_us = timing.due_us(head).saturating_add(timing.sound_trim_us);
        Some(due_us.saturating_sub(lead_us))
    }

    fn note_keyframe(&mut self, unit: &AccessUnit) {
        if unit.keyframe {
            if let Some(before_us) = self.keyframe_dts_us {
                let gop_us = unit.dts_us.saturating_sub(before_us);
                self.gop_us = gop_us.clamp(self.gop_us.min(GOP_MAX_US), GOP_MAX_US);
            }
            self.keyframe_dts_us = Some(unit.dts_us);
        }
    }

    /// More than the delay and a GOP: whoever takes units out does not keep up, or the feed is not what it says.
    fn is_overfull(&self, timing: Timing) -> bool {
        let (span_us, since_keyframe_us) =
            match (self.video.first_key_value(), self.video.last_key_value()) {
                (Some((_, oldest)), Some((_, newest))) => (
                    newest.decode_us().saturating_sub(oldest.decode_us()),
                    // The GOP that goes on may be longer than any before, or the first: without its units there would be
                    // nothing to see until it ends.
                    (self.keyframe_dts_us)
                        .map_or(0, |key_us| newest.unit.dts_us.saturating_sub(key_us)),
                ),
                _ => (0, 0),
            };
        let gop_us = self.gop_us.max(since_keyframe_us.clamp(0, GOP_MAX_US));
        let span_max_us = timing.delay_us.max(0) + gop_us + GIVE_UP_US;
        span_us > span_max_us || self.video.len() > UNITS_MAX || self.video_bytes > BYTES_MAX
    }

    fn skip_to_newest_keyframe(&mut self) {
        let newest = (self.video.iter().rev())
            .find(|(_, unit)| unit.unit.keyframe)
            .map(|(seq, _)| *seq);
        let kept = newest.map_or_else(BTreeMap::new, |seq| self.video.split_off(&seq));
        let skipped = std::mem::replace(&mut self.video, kept).len();
        self.video_bytes = self
            .video
            .values()
            .map(|unit| unit.unit.payload.len())
            .sum();
        let mut dropped = skipped;
        if self.video.len() > UNITS_MAX || self.video_bytes > BYTES_MAX {
            // The newest GOP alone is too much.
            dropped += std::mem::take(&mut self.video).len();
            self.video_bytes = 0;
        }
        if dropped > 0 {
            self.losses.dropped += dropped as u64;
            self.window.skipped();
        }
    }
}

impl Timing {
    /// When a unit is due at the output; sound: without its trim.
    pub(super) fn due_us(self, unit: &Queued) -> i64 {
        unit.media_us().saturating_add(self.delay_us)
    }

    fn video_at_us(self, unit: &Queued) -> i64 {
        self.decode_at_us(unit.decode_us())
    }

    fn decode_at_us(self, decode_us: i64) -> i64 {
        decode_us
            .saturating_add(self.delay_us)
            .saturating_sub(self.video_lead_us)
    }
}

/// The relay stops sending what is older than the delay and this.
const GIVE_UP_US: i64 = 500_000;

/// A keyframe of 4K was seen to take 118 ms: sound must not wait behind it.
const SOUND_LEAD_US: i64 = 150_000;

/// After a gap in the sound: as long as possible for what is missing, and still in time.
const SOUND_GAP_LEAD_US: i64 = 30_000;

const SOUND_INTERVAL_MAX_US: i64 = 200_000;

/// Five pictures a second: no slower feed has pictures that wait for others.
const PICTURE_INTERVAL_MAX_US: i64 = 200_000;

/// B-frames put pictures off by a few frames; 2 s is four at 2 fps.
const OFFSET_MAX_US: i64 = 2_000_000;

/// Longer GOPs than any in live use; what is learned from the stream must not open the bound.
const GOP_MAX_US: i64 = 10_000_000;

/// 3 s of delay and 10 s of GOP at 60 fps, and as much again.
const UNITS_MAX: usize = 2_048;

/// 13 s at 40 Mbit/s.
const BYTES_MAX: usize = 64 * 1024 * 1024;

/// 30 s of stereo as FLAC: nobody sends more, and a hostile relay must not make us hold or decode it.
const AUDIO_BYTES_MAX: usize = 4 * 1024 * 1024;

#[cfg(test)]
mod tests;

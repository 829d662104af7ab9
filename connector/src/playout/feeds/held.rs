//! A feed that is received and not played: another relay's feed of the same line has it, or the word of it has not
//! come yet. It keeps what it takes to be shown at once, and no more.

use std::collections::{BTreeMap, BTreeSet};

use firstmile_shared::{
    media::MediaKind,
    takeover::{ASK_AFTER_US, Challenger, Look},
};

use super::tuner::Tuner;
use crate::playout::{
    FeedInfo,
    jitter::{Jitter, Queued, Timing},
    media_clock::MediaClock,
};

/// A feed that is held.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) publisher: u32,
    /// `None`: its units came before the word of it.
    pub(super) info: Option<FeedInfo>,
    pub(super) look: Look,
    pub(super) clock: MediaClock,
    pub(super) tuner: Tuner,
    pub(super) buffer: Buffer,
    pub(super) pulse: Pulse,
}

/// When something came.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pulse {
    pub(super) came_us: i64,
    /// Its newest media, and their age then.
    pub(super) last_us: i64,
    pub(super) lag_us: i64,
    /// Since when it has sent media and the one that is played has not.
    pub(super) alone_since_us: Option<i64>,
}

/// Units from the newest keyframe on that could be shown now.
#[derive(Debug, Default)]
pub(super) struct Buffer {
    units: BTreeMap<u64, Queued>,
    /// What came between them and is not played.
    others: BTreeSet<u64>,
    bytes: usize,
}

impl Held {
    pub(super) fn new(publisher: u32, info: Option<FeedInfo>, now_us: i64) -> Self {
        Self {
            publisher,
            look: info.as_ref().map_or_else(nobody, FeedInfo::look),
            info,
            clock: MediaClock::default(),
            tuner: Tuner::default(),
            buffer: Buffer::default(),
            pulse: Pulse::new(now_us),
        }
    }

    /// Without a word of it, it can claim nothing.
    pub(super) fn challenger(&self, is_new: bool, now_us: i64) -> Option<Challenger<'_>> {
        self.info.as_ref()?;
        let since = |us: i64| now_us.saturating_sub(us);
        Some(Challenger {
            look: &self.look,
            waited_us: (!is_new).then(|| since(self.pulse.came_us)),
            alone_us: self.pulse.alone_since_us.map_or(0, since),
        })
    }

    /// Whether the operator is to be asked about it.
    pub(super) fn is_question(&self, now_us: i64) -> bool {
        self.info.is_some() && now_us.saturating_sub(self.pulse.came_us) >= ASK_AFTER_US
    }
}

/// One of whom nothing is known.
pub(super) const fn nobody() -> Look {
    Look {
        address: None,
        agent: String::new(),
    }
}

impl Pulse {
    pub(super) const fn new(now_us: i64) -> Self {
        Self {
            came_us: now_us,
            last_us: now_us,
            lag_us: 0,
            alone_since_us: None,
        }
    }

    pub(super) fn beat(&mut self, at_us: i64, lag_us: i64) {
        self.last_us = self.last_us.max(at_us);
        self.lag_us = lag_us;
    }

    /// It sends while it is held; the last of the one that is played came at `played_us`.
    pub(super) fn note_alone(&mut self, played_us: i64, now_us: i64) {
        if self.alone_since_us.is_none_or(|us| us <= played_us) {
            self.alone_since_us = Some(now_us);
        }
    }
}

impl Buffer {
    pub(super) fn push(&mut self, queued: Queued, timing: Timing, now_us: i64) {
        self.bytes += queued.unit.payload.len();
        if let Some(double) = self.units.insert(queued.seq, queued) {
            self.bytes -= double.unit.payload.len();
        }
        self.trim(timing, now_us);
        if self.bytes > BYTES_MAX || self.units.len() > UNITS_MAX {
            // From the newest keyframe on; if that is too much as well, from the next.
            let newest = self.keyframes().next_back();
            self.drop_before(newest.unwrap_or(u64::MAX));
        }
        if self.bytes > BYTES_MAX || self.units.len() > UNITS_MAX {
            self.drop_before(u64::MAX);
        }
    }

    /// A unit that is not played.
    pub(super) fn pass_over(&mut self, seq: u64) {
        self.others.insert(seq);
        if self.others.len() > UNITS_MAX {
            self.others.pop_first();
        }
    }

    /// Everything from where a decoder has to start, for playing on.
    pub(super) fn into_jitter(mut self, timing: Timing, now_us: i64) -> Jitter {
        self.trim(timing, now_us);
        let first = self.keyframes().next();
        if let Some(first) = first {
            self.drop_before(first);
        }
        let mut jitter = Jitter::default();
        for queued in self.units.into_values() {
            jitter.push(queued, timing, now_us);
        }
        for seq in self.others {
            jitter.pass_over(seq, now_us);
        }
        jitter
    }

    /// Drops what is before the newest keyframe that is due, and sound that is past its time.
    fn trim(&mut self, timing: Timing, now_us: i64) {
        let newest_due = self
            .keyframes()
            .rev()
            .find(|seq| timing.due_us(&self.units[seq]) <= now_us);
        if let Some(seq) = newest_due {
            self.drop_before(seq);
        }
        while let Some(first) = self.units.first_entry()
            && first.get().unit.kind() != MediaKind::Video
            && timing.due_us(first.get()) < now_us
        {
            self.bytes -= first.remove().unit.payload.len();
        }
    }

    fn keyframes(&self) -> impl DoubleEndedIterator<Item = u64> + '_ {
        (self.units.iter())
            .filter(|(_, queued)| queued.unit.kind() == MediaKind::Video && queued.unit.keyframe)
            .map(|(seq, _)| *seq)
    }

    fn drop_before(&mut self, seq: u64) {
        self.units = self.units.split_off(&seq);
        self.others = self.others.split_off(&seq);
        self.bytes = (self.units.values())
            .map(|queued| queued.unit.payload.len())
            .sum();
    }
}

/// 10 s at 12 Mbit/s: what one that is held may cost.
const BYTES_MAX: usize = 16 * 1024 * 1024;
const UNITS_MAX: usize = 2_048;

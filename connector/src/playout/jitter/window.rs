//! What is known of each `seq` since the last picture that was given out. Pure, and bounded.

use std::collections::{BTreeMap, VecDeque};

/// A stretch of `seq`, its first the oldest that still matters.
#[derive(Debug, Default)]
pub(super) struct Window {
    /// The `seq` of `slots[0]`.
    first: u64,
    slots: VecDeque<Slot>,
    /// A unit of video was given out: what is before `first` is decided.
    started: bool,
    /// The next picture does not follow the last one.
    broken: bool,
    /// Decided without having come, and when: lost, unless they still come or are announced.
    missing: BTreeMap<u64, i64>,
    lost: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slot {
    Unknown,
    Sound,
    Picture,
    /// Dropped on purpose.
    Dropped(Missed),
}

/// What was dropped on purpose, at the worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Missed {
    /// No picture.
    Sound,
    /// A picture that no other needs.
    Disposable,
    /// A picture.
    Picture,
}

/// What lies between the last picture given out and another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Before {
    /// No picture.
    Whole,
    /// Pictures that will not come, and that no other needs.
    Thinned,
    /// Something that has not come yet.
    Unknown,
    /// A picture that will not come.
    Broken,
}

impl Window {
    /// Notes an arrival; `false`: too late, its place in the order has passed.
    pub(super) fn arrived(&mut self, seq: u64, is_video: bool, now_us: i64) -> bool {
        let slot = if is_video { Slot::Picture } else { Slot::Sound };
        if self.slots.is_empty() && !self.started {
            self.first = seq;
        }
        if seq < self.first {
            self.missing.remove(&seq);
            // Before the first picture the start is open: streams do not arrive in order.
            if self.started || self.first - seq > START_MAX {
                return !is_video;
            }
            while self.first > seq {
                self.first -= 1;
                self.slots.push_front(Slot::Unknown);
            }
        }
        if seq - self.first >= SLOTS_MAX {
            self.advance(seq - SLOTS_MAX / 2, now_us);
            self.broken = true;
        }
        self.set(seq, |_| slot);
        true
    }

    /// Notes that a stretch was dropped by the relay; what has come of it stays.
    pub(super) fn announced(&mut self, from_seq: u64, to_seq: u64, missed: Missed) {
        let announced: Vec<u64> = (self.missing.range(from_seq..=to_seq.max(from_seq)))
            .map(|(seq, _)| *seq)
            .collect();
        for seq in announced {
            self.missing.remove(&seq);
        }
        if self.slots.is_empty() && !self.started {
            return;
        }
        if from_seq < self.first && to_seq >= self.first && missed == Missed::Picture {
            self.broken = true;
        }
        let from_seq = from_seq.max(self.first);
        let to_seq = to_seq.min(self.first.saturating_add(SLOTS_MAX - 1));
        for seq in from_seq..=to_seq {
            self.set(seq, |slot| match slot {
                Slot::Unknown => Slot::Dropped(missed),
                known => known,
            });
        }
    }

    /// What is between the last picture given out and this one.
    pub(super) fn before(&self, seq: u64) -> Before {
        if self.broken || !self.started {
            return Before::Broken;
        }
        let len = usize::try_from(seq.saturating_sub(self.first)).unwrap_or(usize::MAX);
        let mut before = Before::Whole;
        for slot in self.slots.iter().take(len) {
            match slot {
                Slot::Unknown => before = Before::Unknown,
                Slot::Dropped(Missed::Disposable) if before == Before::Whole => {
                    before = Before::Thinned;
                }
                Slot::Sound | Slot::Dropped(Missed::Sound | Missed::Disposable) => {}
                Slot::Picture | Slot::Dropped(Missed::Picture) => return Before::Broken,
            }
        }
        before
    }

    /// A picture was given out: what is before it is decided.
    pub(super) fn gave_out(&mut self, seq: u64, now_us: i64) {
        self.started = true;
        self.broken = false;
        self.advance(seq.saturating_add(1), now_us);
    }

    /// Pictures were left out: the next does not follow.
    pub(super) fn skipped(&mut self) {
        self.broken = true;
    }

    /// How many never came.
    pub(super) fn lost(&mut self, now_us: i64) -> u64 {
        while let Some(entry) = self.missing.first_entry()
            && now_us.saturating_sub(*entry.get()) >= LOST_AFTER_US
        {
            entry.remove();
            self.lost += 1;
        }
        self.lost
    }

    fn advance(&mut self, first: u64, now_us: i64) {
        while self.first < first {
            match self.slots.pop_front() {
                Some(Slot::Unknown) => {
                    self.missing.insert(self.first, now_us);
                }
                Some(_) => {}
                None => {
                    // A jump beyond everything known: nobody will tell what these were.
                    self.lost = self.lost.saturating_add(first - self.first);
                    self.first = first;
                    break;
                }
            }
            self.first += 1;
        }
        while self.missing.len() > MISSING_MAX {
            self.missing.pop_first();
            self.lost += 1;
        }
    }

    fn set(&mut self, seq: u64, change: impl FnOnce(Slot) -> Slot) {
        let Some(index) = (seq.checked_sub(self.first)).filter(|index| *index < SLOTS_MAX) else {
            return;
        };
        #[expect(clippy::cast_possible_truncation, reason = "below SLOTS_MAX")]
        let index = index as usize;
        if index >= self.slots.len() {
            self.slots.resize(index + 1, Slot::Unknown);
        }
        if let Some(slot) = self.slots.get_mut(index) {
            *slot = change(*slot);
        }
    }
}

/// 13 s of 60 pictures and 47 sounds a second, three times over.
const SLOTS_MAX: u64 = 4_096;

/// How far before the first arrival another may lie that was sent before it.
const START_MAX: u64 = 512;

/// The announcement of a drop comes on another stream; a second network's worth of delay is allowed for.
const LOST_AFTER_US: i64 = 2_000_000;

const MISSING_MAX: usize = 4_096;

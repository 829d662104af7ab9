//! What was dropped: totals for the operator, and records for the other end.

use std::collections::{BTreeMap, VecDeque};

use super::ticket::Ticket;
use crate::tunnel::control::DropReason;

/// Units of one publisher that were dropped for one reason.
///
/// If `audio` is 0, every video unit from `from_seq` to `to_seq` was dropped and no sound between them; if `video`
/// is 0 the other way round. Only when records pile up, because the other end does not read, are they joined:
/// then both may be set, and units between may have been sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dropped {
    /// The connector's line number.
    pub line: u32,
    /// The publisher's number.
    pub publisher: u32,
    /// The first.
    pub from_seq: u64,
    /// The last.
    pub to_seq: u64,
    /// How many pictures.
    pub video: u32,
    /// How many blocks of sound.
    pub audio: u32,
    /// No other picture needs any of the pictures.
    pub disposable: bool,
    /// Why.
    pub reason: DropReason,
}

/// Units dropped since the start, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Too old to be shown in time.
    pub late: u64,
    /// Over a bound in bytes.
    pub full: u64,
    /// Needed a unit that was dropped.
    pub needs_keyframe: u64,
    /// Too old already when they came in.
    pub behind: u64,
    /// A newer keyframe went instead.
    pub superseded: u64,
    /// The line was off the air, and the link can't carry all.
    pub thinned: u64,
}

impl Totals {
    /// All of them.
    pub const fn all(self) -> u64 {
        self.late + self.full + self.needs_keyframe + self.behind + self.superseded + self.thinned
    }

    const fn add(&mut self, reason: DropReason) {
        let sum = match reason {
            DropReason::Late => &mut self.late,
            DropReason::Full => &mut self.full,
            DropReason::NeedsKeyframe => &mut self.needs_keyframe,
            DropReason::Superseded => &mut self.superseded,
            DropReason::Thinned => &mut self.thinned,
            // Nothing here drops for another's reasons.
            DropReason::Behind | DropReason::Other => &mut self.behind,
        };
        *sum += 1;
    }
}

#[derive(Debug, Default)]
pub(super) struct Report {
    records: VecDeque<Dropped>,
    totals: Totals,
    by_line: BTreeMap<u32, Totals>,
}

impl Report {
    pub(super) const fn totals(&self) -> Totals {
        self.totals
    }

    pub(super) fn totals_of(&self, line: u32) -> Totals {
        self.by_line.get(&line).copied().unwrap_or_default()
    }

    /// Forgets lines that are not there any more.
    pub(super) fn forget(&mut self, is_gone: impl Fn(u32) -> bool) {
        self.by_line.retain(|line, _| !is_gone(*line));
    }

    pub(super) fn pop(&mut self) -> Option<Dropped> {
        self.records.pop_front()
    }

    pub(super) fn drop_unit(&mut self, ticket: &Ticket, reason: DropReason) {
        self.totals.add(reason);
        self.by_line.entry(ticket.line).or_default().add(reason);
        let is_video = ticket.is_video();
        let new = Dropped {
            line: ticket.line,
            publisher: ticket.publisher,
            from_seq: ticket.seq,
            to_seq: ticket.seq,
            video: u32::from(is_video),
            audio: u32::from(!is_video),
            // Where references are gone too, one record is enough.
            disposable: ticket.is_disposable()
                && !matches!(reason, DropReason::NeedsKeyframe | DropReason::Superseded),
            reason,
        };
        let continued = self
            .records
            .iter_mut()
            .rev()
            .take(JOIN_DEPTH)
            .find(|old| is_same_kind(old, &new) && ticket.previous_seq == Some(old.to_seq));
        if let Some(old) = continued {
            join(old, &new);
        } else if self.records.len() < RECORDS_MAX {
            self.records.push_back(new);
        } else {
            self.squeeze(new);
        }
    }

    /// Nobody takes the records: joins this one to another of the publisher, or forgets the oldest.
    fn squeeze(&mut self, new: Dropped) {
        let same = |old: &&mut Dropped| {
            (old.line, old.publisher, old.reason) == (new.line, new.publisher, new.reason)
        };
        if let Some(old) = self.records.iter_mut().rfind(same) {
            join(old, &new);
        } else {
            self.records.pop_front();
            self.records.push_back(new);
        }
    }
}

fn is_same_kind(old: &Dropped, new: &Dropped) -> bool {
    (old.line, old.publisher, old.reason, old.disposable)
        == (new.line, new.publisher, new.reason, new.disposable)
        && (old.video == 0) == (new.video == 0)
        && (old.audio == 0) == (new.audio == 0)
}

fn join(old: &mut Dropped, new: &Dropped) {
    old.from_seq = old.from_seq.min(new.from_seq);
    old.to_seq = old.to_seq.max(new.to_seq);
    old.disposable &= new.disposable;
    old.video = old.video.saturating_add(new.video);
    old.audio = old.audio.saturating_add(new.audio);
}

/// How far back to look for the record that a unit continues: kinds, reasons and lines take turns.
const JOIN_DEPTH: usize = 16;

/// Records kept for an end that does not read: a few seconds of a bad link.
const RECORDS_MAX: usize = 512;

//! What was dropped: totals for the operator, and records for the other end.

use std::collections::VecDeque;

use super::line::Ticket;
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
}

impl Totals {
    /// All of them.
    pub const fn all(self) -> u64 {
        self.late + self.full + self.needs_keyframe + self.behind
    }
}

#[derive(Debug, Default)]
pub(super) struct Report {
    records: VecDeque<Dropped>,
    totals: Totals,
}

impl Report {
    pub(super) const fn totals(&self) -> Totals {
        self.totals
    }

    pub(super) fn pop(&mut self) -> Option<Dropped> {
        self.records.pop_front()
    }

    pub(super) fn drop_unit(&mut self, ticket: &Ticket, reason: DropReason) {
        match reason {
            DropReason::Late => self.totals.late += 1,
            DropReason::Full => self.totals.full += 1,
            DropReason::NeedsKeyframe => self.totals.needs_keyframe += 1,
            // Nothing here drops for another's reasons.
            DropReason::Behind | DropReason::Other => self.totals.behind += 1,
        }
        let is_video = ticket.is_video();
        let new = Dropped {
            line: ticket.line,
            publisher: ticket.publisher,
            from_seq: ticket.seq,
            to_seq: ticket.seq,
            video: u32::from(is_video),
            audio: u32::from(!is_video),
            reason,
        };
        let continued = self
            .records
            .iter_mut()
            .rev()
            .take(JOIN_DEPTH)
            .find(|old| is_same_kind(old, &new) && ticket.previous_seq() == Some(old.to_seq));
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
    (old.line, old.publisher, old.reason) == (new.line, new.publisher, new.reason)
        && (old.video == 0) == (new.video == 0)
        && (old.audio == 0) == (new.audio == 0)
}

fn join(old: &mut Dropped, new: &Dropped) {
    old.from_seq = old.from_seq.min(new.from_seq);
    old.to_seq = old.to_seq.max(new.to_seq);
    old.video = old.video.saturating_add(new.video);
    old.audio = old.audio.saturating_add(new.audio);
}

/// How far back to look for the record that a unit continues: kinds, reasons and lines take turns.
const JOIN_DEPTH: usize = 16;

/// Records kept for an end that does not read: a few seconds of a bad link.
const RECORDS_MAX: usize = 512;

//! What follows from a unit that does not go out: which others don't, and what is kept of them.

use std::collections::VecDeque;

use super::{Line, Queued, Rank, Report, Ticket};
use crate::tunnel::control::DropReason;

impl Line {
    /// A newer keyframe comes: what is left of older GOPs is not worth what it would delay the new one by, if it waits
    /// for long already.
    pub(super) fn supersede(&mut self, keyframe: &Ticket, now_us: i64, report: &mut Report) {
        let limit_us = (self.delay_us / 2).max(SUPERSEDE_MIN_US);
        let is_behind = self.references.front().is_some_and(|oldest| {
            now_us.saturating_sub(oldest.ticket.presented_us) > limit_us
                && oldest.ticket.gop != keyframe.gop
        });
        if !is_behind {
            return;
        }
        let mut old: Vec<Queued> = self.references.drain(..).collect();
        old.extend(self.disposables.drain(..));
        old.sort_unstable_by_key(|queued| queued.ticket.seq);
        for queued in old {
            self.bytes -= queued.weight();
            report.drop_unit(&queued.ticket, DropReason::Superseded);
            if queued.ticket.is_reference()
                && let Some(track) = self.tracks.get_mut(&queued.ticket.track())
                && track.broken.is_none_or(|(gop, _)| gop != queued.ticket.gop)
            {
                track.broken = Some((queued.ticket.gop, queued.ticket.seq));
            }
        }
    }

    /// A unit that waited does not go out; nor does what needs it.
    pub(super) fn lose(&mut self, queued: Queued, reason: DropReason, report: &mut Report) {
        let ticket = queued.ticket;
        let is_kept = ticket.is_reference()
            && !ticket.keyframe
            && self.rank() == Rank::Off
            && self.is_of_newest_gop(&ticket);
        if !is_kept {
            report.drop_unit(&ticket, reason);
            return self.after_loss(&ticket, report);
        }
        self.shelf.begin(ticket.gop, report);
        self.shelf.put(queued, reason, report);
        self.cascade(&ticket, report);
    }

    /// A unit does not go out because of others that did not: kept if it may still be wanted.
    pub(super) fn leave_out(&mut self, queued: Queued, reason: DropReason, report: &mut Report) {
        let ticket = queued.ticket;
        if ticket.is_reference() && self.is_of_newest_gop(&ticket) && self.shelf.takes(ticket.gop) {
            self.shelf.put(queued, reason, report);
        } else {
            report.drop_unit(&ticket, reason);
        }
    }

    /// What a unit that is lost for good means for those that need it.
    pub(super) fn after_loss(&mut self, lost: &Ticket, report: &mut Report) {
        if !lost.is_reference() {
            return;
        }
        if self.shelf.takes(lost.gop) {
            self.shelf.close(report);
        }
        self.cascade(lost, report);
    }

    /// Takes what needs a reference out of the queue.
    fn cascade(&mut self, lost: &Ticket, report: &mut Report) {
        if let Some(track) = self.tracks.get_mut(&lost.track()) {
            track.broken = Some((lost.gop, lost.seq));
            track.needs_keyframe |= track.gop == Some(lost.gop);
        }
        let needs_it = |queued: &Queued| {
            let ticket = &queued.ticket;
            ticket.track() == lost.track() && ticket.gop == lost.gop && ticket.seq > lost.seq
        };
        let mut orphans = Vec::new();
        for queue in [&mut self.references, &mut self.disposables] {
            let (gone, kept): (Vec<_>, Vec<_>) = queue.drain(..).partition(&needs_it);
            *queue = VecDeque::from(kept);
            orphans.extend(gone);
        }
        orphans.sort_unstable_by_key(|queued| queued.ticket.seq);
        for orphan in orphans {
            self.bytes -= orphan.weight();
            self.leave_out(orphan, DropReason::NeedsKeyframe, report);
        }
    }
}

/// Less than this is the network's own rhythm.
const SUPERSEDE_MIN_US: i64 = 250_000;

//! One line's part of the queue: its units by class, its GOPs, its late ones.

mod loss;

use std::collections::{BTreeMap, VecDeque};

use super::{
    Class, LATE_MARGIN_US, Outgoing, Rank, Urgency,
    report::Report,
    share::{Flow, Place, Turns},
    shelf::Shelf,
    ticket::{Queued, Ticket},
    usage::Usage,
};
use crate::{
    media::MediaKind,
    tunnel::{control::DropReason, unit::Unit},
};

/// What of a line's pictures is sent while it is neither on program nor on preview.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Sends {
    /// Keyframes only.
    Keyframes,
    /// Those that others need.
    References,
    /// All.
    #[default]
    All,
}

#[derive(Debug)]
pub(super) struct Line {
    delay_us: i64,
    audio: VecDeque<Queued>,
    /// Keyframes and what others need, in decode order.
    references: VecDeque<Queued>,
    /// What no other needs, in decode order.
    disposables: VecDeque<Queued>,
    /// What is not played.
    spares: VecDeque<Queued>,
    /// What was left out of the newest GOP.
    shelf: Shelf,
    tracks: BTreeMap<(u32, u8), Track>,
    publisher: u32,
    played: Played,
    /// What is played from this video track's next keyframe on.
    wanted_video: u8,
    /// The last unit that came: of video, of sound.
    last_seq: [Option<u64>; 2],
    gops: u64,
    bytes: usize,
    place: Place,
    sends: Sends,
    usage: Usage,
    /// The encoder's newest picture was too old when it came in: nothing goes out until a keyframe that is not.
    is_behind: bool,
    /// Nothing is late before: a lower bound.
    next_expiry_us: i64,
}

/// The tracks that the connector plays.
#[derive(Clone, Copy, Debug)]
struct Played {
    video: u8,
    audio: u8,
}

/// One video track of one publisher.
#[derive(Debug, Default)]
struct Track {
    /// The GOP of its newest keyframe; `None` before the first.
    gop: Option<u64>,
    /// A reference of the newest GOP is missing: what follows can't be decoded.
    needs_keyframe: bool,
    /// The GOP that lost a reference last, and that reference.
    broken: Option<(u64, u64)>,
}

impl Line {
    pub(super) const fn new(delay_us: i64) -> Self {
        Self {
            delay_us,
            audio: VecDeque::new(),
            references: VecDeque::new(),
            disposables: VecDeque::new(),
            spares: VecDeque::new(),
            shelf: Shelf::new(),
            tracks: BTreeMap::new(),
            publisher: 0,
            played: Played { video: 0, audio: 0 },
            wanted_video: 0,
            last_seq: [None; 2],
            gops: 0,
            bytes: 0,
            place: Place::new(),
            sends: Sends::All,
            usage: Usage::new(),
            is_behind: false,
            next_expiry_us: i64::MAX,
        }
    }

    pub(super) const fn set_delay(&mut self, delay_us: i64) {
        self.delay_us = delay_us;
        self.next_expiry_us = i64::MIN;
    }

    /// What the connector plays: this sound at once, these pictures from their next keyframe on.
    pub(super) const fn set_played(&mut self, video: u8, audio: u8) {
        self.wanted_video = video;
        self.played.audio = audio;
    }

    pub(super) fn set_share(&mut self, share: u32) {
        self.place.set_share(share);
    }

    pub(super) const fn set_sends(&mut self, sends: Sends) {
        self.sends = sends;
        self.next_expiry_us = i64::MIN;
    }

    pub(super) const fn rank(&self) -> Rank {
        self.place.rank()
    }

    /// What the studio does with the line. If it is wanted now, what was left out of its newest GOP goes out after all.
    pub(super) fn set_rank(&mut self, rank: Rank, turns: &Turns) {
        let was_off = self.rank() == Rank::Off;
        self.next_expiry_us = i64::MIN;
        self.place.set_rank(rank, turns);
        let newest = (self.publisher, self.played.video);
        if was_off
            && let Some(track) = self.tracks.get_mut(&newest)
            && let Some(gop) = track.gop
        {
            let units = self.shelf.take(gop);
            if !units.is_empty() {
                track.needs_keyframe = false;
                track.broken = None;
            }
            for (mut queued, _) in units {
                queued.ticket.restored = true;
                self.bytes += queued.weight();
                self.references.push_back(queued);
            }
        }
    }

    /// A unit on its way is as urgent as its line is now; it goes before what the line still has here.
    pub(super) const fn renew(&self, ticket: &mut Ticket, turns: &Turns) {
        if ticket.urgency.rank() as u8 != self.rank() as u8 {
            ticket.urgency = ticket.urgency.of_rank(self.rank(), turns);
        }
    }

    /// The feed is over: nothing that was left out of it will be wanted.
    pub(super) fn forget_feed(&mut self, report: &mut Report) {
        self.shelf.close(report);
    }

    pub(super) const fn usage(&self) -> &Usage {
        &self.usage
    }

    /// Since when the oldest unit that is played waits, microseconds on the relay's clock.
    pub(super) fn oldest_us(&self) -> Option<i64> {
        let queues = [&self.audio, &self.references, &self.disposables];
        let heads = queues.into_iter().filter_map(VecDeque::front);
        heads.map(|queued| queued.unit.ingest_us).min()
    }

    /// Bytes held, with what was left out and may still be wanted.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes + self.shelf.bytes()
    }

    pub(super) fn units(&self) -> usize {
        self.audio.len() + self.references.len() + self.disposables.len() + self.spares.len()
    }

    pub(super) const fn next_expiry_us(&self) -> i64 {
        self.next_expiry_us
    }

    /// Whether nothing waits to be sent.
    pub(super) fn is_empty(&self) -> bool {
        self.units() == 0
    }

    /// What goes next, and how urgent it is.
    pub(super) fn head(&self) -> Option<(Urgency, Class)> {
        let (flow, class, queued) = if let Some(sound) = self.audio.front() {
            (Flow::Sound, Class::Audio, sound)
        } else if let Some(keyframe) = self.newest_keyframe() {
            let keyframe = &self.references[keyframe];
            (Flow::Pictures, Class::Keyframe, keyframe)
        } else if let Some(reference) = self.references.front() {
            (Flow::Pictures, Class::Reference, reference)
        } else if let Some(disposable) = self.disposables.front() {
            (Flow::Pictures, Class::NonReference, disposable)
        } else {
            (Flow::Spare, Class::Spare, self.spares.front()?)
        };
        Some((self.place.urgency(flow, queued.weight()), class))
    }

    /// Queues a unit, unless it can't be decoded, came in too old to be shown, or the line is thinned.
    pub(super) fn push(
        &mut self,
        unit: Unit,
        restored: bool,
        now_us: i64,
        turns: &Turns,
        report: &mut Report,
    ) {
        let mut ticket = self.ticket(&unit, report);
        ticket.restored = restored && ticket.is_reference();
        let queued = Queued { unit, ticket };
        self.usage.came(&ticket, queued.weight());
        let sends = if self.is_thinned() {
            self.sends
        } else {
            Sends::All
        };
        let is_orphan = ticket.is_video() && !ticket.keyframe && {
            let track = &self.tracks[&ticket.track()];
            track.gop.is_none() || track.needs_keyframe
        };
        if is_orphan {
            let reason = if self.is_behind {
                DropReason::Behind
            } else if sends == Sends::Keyframes {
                DropReason::Thinned
            } else {
                DropReason::NeedsKeyframe
            };
            return self.leave_out(queued, reason, report);
        }
        let age_us = (queued.unit.ingest_us).saturating_sub(ticket.presented_us);
        let is_behind = age_us > self.delay_us.max(BEHIND_MIN_US);
        if ticket.is_video() {
            self.is_behind = is_behind;
        }
        if is_behind {
            report.drop_unit(&ticket, DropReason::Behind);
            return self.after_loss(&ticket, report);
        }
        if ticket.is_disposable() && sends <= Sends::References {
            return report.drop_unit(&ticket, DropReason::Thinned);
        }
        if ticket.is_reference() && !ticket.keyframe && sends == Sends::Keyframes {
            return self.lose(queued, DropReason::Thinned, report);
        }
        if ticket.is_video() && ticket.keyframe {
            self.supersede(&ticket, now_us, report);
        }
        let deadline_us = self.deadline_us(&ticket).unwrap_or(i64::MAX);
        self.next_expiry_us = self.next_expiry_us.min(deadline_us);
        self.bytes += queued.weight();
        let (flow, queue) = match (ticket.is_video(), ticket.disposable) {
            _ if ticket.spare => (Flow::Spare, &mut self.spares),
            (false, _) => (Flow::Sound, &mut self.audio),
            (true, false) => (Flow::Pictures, &mut self.references),
            (true, true) => (Flow::Pictures, &mut self.disposables),
        };
        queue.push_back(queued);
        let waiting = match flow {
            Flow::Spare => self.spares.len(),
            Flow::Sound => self.audio.len(),
            Flow::Pictures => self.references.len() + self.disposables.len(),
        };
        if waiting == 1 {
            self.place.wake(flow, turns);
        }
    }

    /// Gives out the first unit of a class.
    pub(super) fn pop(&mut self, class: Class, turns: &mut Turns) -> Option<Outgoing> {
        let (flow, queued) = match class {
            Class::Audio => (Flow::Sound, self.audio.pop_front()),
            Class::Keyframe => {
                let index = self.newest_keyframe()?;
                (Flow::Pictures, self.references.remove(index))
            }
            Class::Reference => (Flow::Pictures, self.references.pop_front()),
            Class::NonReference => (Flow::Pictures, self.disposables.pop_front()),
            Class::Spare => (Flow::Spare, self.spares.pop_front()),
        };
        let queued = queued?;
        let weight = queued.weight();
        self.bytes -= weight;
        self.usage.sent(weight);
        let Queued { unit, mut ticket } = queued;
        ticket.class = class;
        ticket.urgency = self.place.serve(flow, weight, turns);
        Some(Outgoing { unit, ticket })
    }

    /// Drops what is late.
    pub(super) fn expire(&mut self, now_us: i64, report: &mut Report) {
        if now_us <= self.next_expiry_us && self.next_expiry_us != i64::MIN {
            return;
        }
        while let Some(index) = self.find_late(&self.references, now_us) {
            if let Some(queued) = self.remove(Index::Reference(index)) {
                self.lose(queued, DropReason::Late, report);
            }
        }
        while let Some(index) = self.find_late(&self.audio, now_us) {
            if let Some(queued) = self.remove(Index::Audio(index)) {
                report.drop_unit(&queued.ticket, DropReason::Late);
            }
        }
        while let Some(index) = self.find_late(&self.disposables, now_us) {
            if let Some(queued) = self.remove(Index::Disposable(index)) {
                report.drop_unit(&queued.ticket, DropReason::Late);
            }
        }
        while let Some(index) = self.find_late(&self.spares, now_us) {
            if let Some(queued) = self.remove(Index::Spare(index)) {
                report.drop_unit(&queued.ticket, DropReason::Late);
            }
        }
        self.next_expiry_us = self
            .all()
            .filter_map(|queued| self.deadline_us(&queued.ticket))
            .min()
            .unwrap_or(i64::MAX);
    }

    /// Drops one unit, or one GOP, to make room.
    pub(super) fn drop_one(&mut self, report: &mut Report) {
        if self.shelf.bytes() > 0 {
            return self.shelf.close(report);
        }
        let victim = if !self.spares.is_empty() {
            Index::Spare(0)
        } else if !self.disposables.is_empty() {
            Index::Disposable(0)
        } else if let Some(oldest) = self
            .references
            .iter()
            .position(|queued| !self.is_newest_keyframe(&queued.ticket))
        {
            Index::Reference(oldest)
        } else if !self.references.is_empty() {
            Index::Reference(0)
        } else {
            Index::Audio(0)
        };
        if let Some(queued) = self.remove(victim) {
            report.drop_unit(&queued.ticket, DropReason::Full);
            self.after_loss(&queued.ticket, report);
        }
    }

    /// The reason to give a unit up that is on its way.
    pub(super) fn verdict(&self, ticket: &Ticket, now_us: i64) -> Option<DropReason> {
        if ticket.is_video()
            && let Some(track) = self.tracks.get(&ticket.track())
            && let Some((gop, seq)) = track.broken
            && ticket.gop == gop
            && ticket.seq > seq
        {
            return Some(DropReason::NeedsKeyframe);
        }
        self.deadline_us(ticket)
            .is_some_and(|deadline_us| now_us > deadline_us)
            .then_some(DropReason::Late)
    }

    pub(super) fn given_up(&mut self, ticket: &Ticket, reason: DropReason, report: &mut Report) {
        report.drop_unit(ticket, reason);
        self.after_loss(ticket, report);
    }

    /// The last moment at which a unit can help; `None` for the newest keyframe and for what was left out after it and
    /// is wanted now.
    pub(super) fn deadline_us(&self, ticket: &Ticket) -> Option<i64> {
        let is_of_newest = ticket.is_video() && self.is_of_newest_gop(ticket);
        if is_of_newest && (ticket.keyframe || ticket.restored) {
            return None;
        }
        let is_hopeless = ticket.is_reference() && self.is_thinned();
        let margin_us = if ticket.spare || ticket.disposable || ticket.restored || is_hopeless {
            0
        } else {
            LATE_MARGIN_US
        };
        let age_max_us = self.delay_us.saturating_add(margin_us);
        Some(ticket.presented_us.saturating_add(age_max_us))
    }

    /// Sorts a unit in: which GOP, which place.
    fn ticket(&mut self, unit: &Unit, report: &mut Report) -> Ticket {
        let access_unit = &unit.access_unit;
        let kind = access_unit.kind();
        let track = access_unit.track;
        let is_wanted = kind == MediaKind::Video && track == self.wanted_video;
        if is_wanted && access_unit.keyframe {
            self.played.video = track;
        }
        let is_video = kind == MediaKind::Video && track == self.played.video;
        let spare = !is_video && (kind != MediaKind::Audio || track != self.played.audio);
        if unit.publisher != self.publisher {
            let before = std::mem::replace(&mut self.publisher, unit.publisher);
            self.last_seq = [None; 2];
            self.shelf.close(report);
            // The one before may still have units queued; nobody asks about older ones.
            self.tracks.retain(|(publisher, _), _| *publisher == before);
            self.next_expiry_us = i64::MIN;
        }
        let previous_seq = self.last_seq[usize::from(!is_video)].replace(unit.seq);
        if is_video && access_unit.keyframe {
            self.gops += 1;
            self.shelf.close(report);
            // The keyframe that was the newest is an ordinary one now, and may be late.
            self.next_expiry_us = i64::MIN;
        }
        let gop = if is_video {
            let track = self
                .tracks
                .entry((unit.publisher, access_unit.track))
                .or_default();
            if access_unit.keyframe {
                track.gop = Some(self.gops);
                track.needs_keyframe = false;
            }
            track.gop.unwrap_or_default()
        } else {
            0
        };
        Ticket {
            line: unit.line,
            publisher: unit.publisher,
            seq: unit.seq,
            class: Class::Reference,
            urgency: self.place.urgency(Flow::Spare, 0),
            track,
            kind,
            spare,
            keyframe: access_unit.keyframe,
            disposable: is_video && access_unit.disposable && !access_unit.keyframe,
            gop,
            // A broken or hostile encoder's "show it in an hour" must not keep a unit here for an hour.
            presented_us: unit
                .baseline_us
                .saturating_add(access_unit.pts_us())
                .min(unit.ingest_us.saturating_add(AHEAD_MAX_US)),
            previous_seq,
            restored: false,
        }
    }

    /// It is off the air, and the link can't carry all: what is late there won't catch up, and takes the others' time.
    fn is_thinned(&self) -> bool {
        self.sends != Sends::All && self.rank() == Rank::Off
    }

    fn is_newest_keyframe(&self, ticket: &Ticket) -> bool {
        ticket.is_video() && ticket.keyframe && self.is_of_newest_gop(ticket)
    }

    fn is_of_newest_gop(&self, ticket: &Ticket) -> bool {
        ticket.publisher == self.publisher
            && self
                .tracks
                .get(&ticket.track())
                .is_some_and(|track| track.gop == Some(ticket.gop))
    }

    fn newest_keyframe(&self) -> Option<usize> {
        self.references
            .iter()
            .rposition(|queued| self.is_newest_keyframe(&queued.ticket))
    }

    fn find_late(&self, queue: &VecDeque<Queued>, now_us: i64) -> Option<usize> {
        queue
            .iter()
            .position(|queued| self.verdict(&queued.ticket, now_us).is_some())
    }

    fn remove(&mut self, index: Index) -> Option<Queued> {
        let queued = match index {
            Index::Audio(index) => self.audio.remove(index),
            Index::Reference(index) => self.references.remove(index),
            Index::Disposable(index) => self.disposables.remove(index),
            Index::Spare(index) => self.spares.remove(index),
        }?;
        self.bytes -= queued.weight();
        Some(queued)
    }

    fn all(&self) -> impl Iterator<Item = &Queued> {
        self.audio
            .iter()
            .chain(&self.references)
            .chain(&self.disposables)
            .chain(&self.spares)
    }
}

/// A place in one of a line's queues.
#[derive(Clone, Copy)]
enum Index {
    Audio(usize),
    Reference(usize),
    Disposable(usize),
    Spare(usize),
}

/// No encoder's rhythm is so even that a shorter delay could hold it to it: what comes in younger is sent.
const BEHIND_MIN_US: i64 = 150_000;

/// The furthest that a picture may be due after its arrival, besides D: more than any encoder reorders.
const AHEAD_MAX_US: i64 = 2_000_000;

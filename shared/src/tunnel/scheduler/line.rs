//! One line's part of the queue: its units by class, its GOPs, its late ones.

use std::collections::{BTreeMap, VecDeque};

use super::{Class, LATE_MARGIN_US, Outgoing, UNIT_OVERHEAD, report::Report};
use crate::{
    media::MediaKind,
    tunnel::{control::DropReason, unit::Unit},
};

/// What the queue remembers of a unit that it gave out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// The connector's line number.
    pub line: u32,
    /// The publisher's number.
    pub publisher: u32,
    /// The unit's number.
    pub seq: u64,
    /// How urgent it was when it was given out.
    pub class: Class,
    track: u8,
    kind: MediaKind,
    keyframe: bool,
    disposable: bool,
    /// Not of a track that is played: it goes when nothing else does, and nobody misses it.
    spare: bool,
    /// Counts the keyframes of the line; the same for all units that belong together.
    gop: u64,
    /// When it has age zero, microseconds on the relay's clock.
    presented_us: i64,
    /// The unit of the same kind before this one: two dropped units without another between make one record.
    previous_seq: Option<u64>,
}

impl Ticket {
    /// A picture of the track that is played; else sound, or something that nobody looks at.
    pub const fn is_video(&self) -> bool {
        matches!(self.kind, MediaKind::Video) && !self.spare
    }

    pub(super) const fn previous_seq(&self) -> Option<u64> {
        self.previous_seq
    }

    const fn is_reference(&self) -> bool {
        self.is_video() && !self.disposable
    }

    const fn track(&self) -> (u32, u8) {
        (self.publisher, self.track)
    }
}

#[derive(Debug)]
pub(super) struct Line {
    delay_us: i64,
    audio: VecDeque<Queued>,
    /// Keyframes and what others need, in decode order.
    references: VecDeque<Queued>,
    /// What no other needs, in decode order.
    disposables: VecDeque<Queued>,
    tracks: BTreeMap<(u32, u8), Track>,
    publisher: u32,
    played: Played,
    /// What is played from this video track's next keyframe on.
    wanted_video: u8,
    /// The last unit that came: of video, of sound.
    last_seq: [Option<u64>; 2],
    gops: u64,
    bytes: usize,
    served: u64,
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

#[derive(Debug)]
struct Queued {
    unit: Unit,
    ticket: Ticket,
}

impl Queued {
    fn weight(&self) -> usize {
        let unit = &self.unit.access_unit;
        unit.payload.len() + unit.config.as_ref().map_or(0, bytes::Bytes::len) + UNIT_OVERHEAD
    }
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
            tracks: BTreeMap::new(),
            publisher: 0,
            played: Played { video: 0, audio: 0 },
            wanted_video: 0,
            last_seq: [None; 2],
            gops: 0,
            bytes: 0,
            served: 0,
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

    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn units(&self) -> usize {
        self.audio.len() + self.references.len() + self.disposables.len()
    }

    pub(super) const fn served(&self) -> u64 {
        self.served
    }

    pub(super) const fn next_expiry_us(&self) -> i64 {
        self.next_expiry_us
    }

    pub(super) fn is_empty(&self) -> bool {
        self.units() == 0
    }

    /// The class of what goes next.
    pub(super) fn head_class(&self) -> Option<Class> {
        if !self.audio.is_empty() {
            Some(Class::Audio)
        } else if self.newest_keyframe().is_some() {
            Some(Class::Keyframe)
        } else if !self.references.is_empty() {
            Some(Class::Reference)
        } else {
            (!self.disposables.is_empty()).then_some(Class::NonReference)
        }
    }

    /// Queues a unit, unless it can't be decoded or came in too old to be shown. `served`: where a line that was idle starts.
    pub(super) fn push(&mut self, unit: Unit, served: u64, report: &mut Report) {
        if self.is_empty() {
            self.served = self.served.max(served);
        }
        let ticket = self.ticket(&unit);
        let is_orphan = ticket.is_video() && !ticket.keyframe && {
            let track = &self.tracks[&ticket.track()];
            track.gop.is_none() || track.needs_keyframe
        };
        if is_orphan {
            let reason = if self.is_behind {
                DropReason::Behind
            } else {
                DropReason::NeedsKeyframe
            };
            report.drop_unit(&ticket, reason);
            return;
        }
        let age_us = unit.ingest_us.saturating_sub(ticket.presented_us);
        let is_behind = age_us > self.delay_us.max(BEHIND_MIN_US);
        if ticket.is_video() {
            self.is_behind = is_behind;
        }
        if is_behind {
            report.drop_unit(&ticket, DropReason::Behind);
            self.after_loss(&ticket, report);
            return;
        }
        let deadline_us = self.deadline_us(&ticket).unwrap_or(i64::MAX);
        self.next_expiry_us = self.next_expiry_us.min(deadline_us);
        let queued = Queued { unit, ticket };
        self.bytes += queued.weight();
        let queue = match (ticket.is_video(), ticket.disposable) {
            _ if ticket.spare => &mut self.disposables,
            (false, _) => &mut self.audio,
            (true, false) => &mut self.references,
            (true, true) => &mut self.disposables,
        };
        queue.push_back(queued);
    }

    /// Gives out the first unit of a class.
    pub(super) fn pop(&mut self, class: Class) -> Option<Outgoing> {
        let Queued { unit, mut ticket } = match class {
            Class::Audio => self.audio.pop_front(),
            Class::Keyframe => {
                let index = self.newest_keyframe()?;
                self.references.remove(index)
            }
            Class::Reference => self.references.pop_front(),
            Class::NonReference => self.disposables.pop_front(),
        }
        .inspect(|queued| {
            self.bytes -= queued.weight();
            self.served += queued.weight() as u64;
        })?;
        ticket.class = class;
        Some(Outgoing { unit, ticket })
    }

    /// Drops what is late.
    pub(super) fn expire(&mut self, now_us: i64, report: &mut Report) {
        if now_us <= self.next_expiry_us && self.next_expiry_us != i64::MIN {
            return;
        }
        while let Some(index) = self.find_late(&self.references, now_us) {
            if let Some(ticket) = self.remove(Index::Reference(index)) {
                report.drop_unit(&ticket, DropReason::Late);
                self.after_loss(&ticket, report);
            }
        }
        while let Some(index) = self.find_late(&self.audio, now_us) {
            if let Some(ticket) = self.remove(Index::Audio(index)) {
                report.drop_unit(&ticket, DropReason::Late);
            }
        }
        while let Some(index) = self.find_late(&self.disposables, now_us) {
            if let Some(ticket) = self.remove(Index::Disposable(index)) {
                report.drop_unit(&ticket, DropReason::Late);
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
        let victim = if !self.disposables.is_empty() {
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
        if let Some(ticket) = self.remove(victim) {
            report.drop_unit(&ticket, DropReason::Full);
            self.after_loss(&ticket, report);
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

    /// The last moment at which a unit can help; `None` for the newest keyframe.
    pub(super) fn deadline_us(&self, ticket: &Ticket) -> Option<i64> {
        if self.is_newest_keyframe(ticket) {
            return None;
        }
        let margin_us = if ticket.spare || ticket.is_video() && ticket.disposable {
            0
        } else {
            LATE_MARGIN_US
        };
        let age_max_us = self.delay_us.saturating_add(margin_us);
        Some(ticket.presented_us.saturating_add(age_max_us))
    }

    /// Sorts a unit in: which GOP, which place.
    fn ticket(&mut self, unit: &Unit) -> Ticket {
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
            // The one before may still have units queued; nobody asks about older ones.
            self.tracks.retain(|(publisher, _), _| *publisher == before);
            self.next_expiry_us = i64::MIN;
        }
        let previous_seq = self.last_seq[usize::from(!is_video)].replace(unit.seq);
        if is_video && access_unit.keyframe {
            self.gops += 1;
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
        }
    }

    /// What a lost unit means for those that need it.
    fn after_loss(&mut self, lost: &Ticket, report: &mut Report) {
        if !lost.is_reference() {
            return;
        }
        if let Some(track) = self.tracks.get_mut(&lost.track()) {
            track.broken = Some((lost.gop, lost.seq));
            track.needs_keyframe |= track.gop == Some(lost.gop);
        }
        let needs_it = |ticket: &Ticket| {
            ticket.track() == lost.track() && ticket.gop == lost.gop && ticket.seq > lost.seq
        };
        let bytes = &mut self.bytes;
        let mut orphans = Vec::new();
        for queue in [&mut self.references, &mut self.disposables] {
            queue.retain(|queued| {
                let is_orphan = needs_it(&queued.ticket);
                if is_orphan {
                    *bytes -= queued.weight();
                    orphans.push(queued.ticket);
                }
                !is_orphan
            });
        }
        orphans.sort_unstable_by_key(|ticket| ticket.seq);
        for ticket in &orphans {
            report.drop_unit(ticket, DropReason::NeedsKeyframe);
        }
    }

    fn is_newest_keyframe(&self, ticket: &Ticket) -> bool {
        ticket.is_video()
            && ticket.keyframe
            && ticket.publisher == self.publisher
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

    fn remove(&mut self, index: Index) -> Option<Ticket> {
        let queued = match index {
            Index::Audio(index) => self.audio.remove(index),
            Index::Reference(index) => self.references.remove(index),
            Index::Disposable(index) => self.disposables.remove(index),
        }?;
        self.bytes -= queued.weight();
        Some(queued.ticket)
    }

    fn all(&self) -> impl Iterator<Item = &Queued> {
        self.audio
            .iter()
            .chain(&self.references)
            .chain(&self.disposables)
    }
}

/// A place in one of a line's queues.
#[derive(Clone, Copy)]
enum Index {
    Audio(usize),
    Reference(usize),
    Disposable(usize),
}

/// No encoder's rhythm is so even that a shorter delay could hold it to it: what comes in younger is sent.
const BEHIND_MIN_US: i64 = 150_000;

/// The furthest that a picture may be due after its arrival, besides D: more than any encoder reorders.
const AHEAD_MAX_US: i64 = 2_000_000;

//! Which unit goes next, and which one is not worth sending any more.
//!
//! The queue between publishers, which can't be slowed, and one tunnel, which can stall. It is the only queue on
//! that way: the caller takes a unit out when the network can have it. Rules:
//!
//! - **Order**: sound, then pictures of lines on program, then on preview, then the others; a line's newest keyframe before
//!   references, these before the rest. Lines of one rank share, see [`share`]. Nothing of the network's time is kept
//!   for anybody: what one line does not use is the others'.
//! - **Spare**: tracks that are not played, and data, go last, and are dropped first.
//! - **Late**: what is not a reference goes out until its age is the studio delay D, everything else until
//!   D + 500 ms, a line's newest keyframe whatever its age.
//! - **Superseded**: when a new keyframe comes and what waits is older than half of D, what is left of older GOPs goes.
//! - **Thinned**: of a line that is off the air only references, or only keyframes, are taken ([`Sends`]), and none that is
//!   older than D.
//! - **Behind**: a unit whose age was over D when it came in is not sent; its encoder is behind. Pictures go on at the
//!   first keyframe that is younger.
//! - **Decodable**: after a reference is lost to this queue, nothing of its GOP goes out until the next keyframe.
//! - **Bounds**: bytes and units per line, bytes in total. Over a bound go, oldest first: what is not a reference, then the rest
//!   of the oldest GOP, then the newest keyframe, sound last; and from the line that holds the most.
//! - **Wanted after all**: what is left out at the end of the newest GOP of a line that is off the air is kept, within bounds,
//!   and goes out in one burst when the line turns preview or program.
//! - **Accounts**: every unit that came in goes out, is still queued or kept, or is in a [`Dropped`] record.
//!
//! Times are microseconds on the relay's clock. No I/O, no clock: `now_us` is an argument.

mod line;
mod report;
mod share;
mod shelf;
mod ticket;
mod usage;

use std::collections::{BTreeMap, BTreeSet};

use self::{line::Line, report::Report, share::Turns};
pub use self::{
    line::Sends,
    report::{Dropped, Totals},
    share::{Rank, SHARE_DEFAULT, SHARE_MAX, Urgency},
    ticket::{Ticket, UNIT_OVERHEAD},
    usage::Usage,
};

use crate::tunnel::{control::DropReason, control::LINES_MAX, unit::Unit};

/// How much older than D a unit may be that later ones need: the decoder catches up with late pictures, and a
/// GOP that is thrown away costs more than half a second.
pub const LATE_MARGIN_US: i64 = 500_000;

/// D of a line that nobody named: the product's `normal`.
pub const DELAY_DEFAULT_US: i64 = 600_000;

/// What one queue may hold. All hold after every call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one line, with [`UNIT_OVERHEAD`] for each unit.
    pub line_bytes_max: usize,
    /// Units of one line: bounds the work that very small ones make.
    pub line_units_max: usize,
    /// Bytes of all lines together.
    pub total_bytes_max: usize,
}

impl Default for Limits {
    /// A line of 50 Mbit/s with D = 3 s fits (22 MB), as does one of a thousand units a second; four of them
    /// that all stall at once fit in total.
    fn default() -> Self {
        Self {
            line_bytes_max: 24 * 1024 * 1024,
            line_units_max: 4096,
            total_bytes_max: 96 * 1024 * 1024,
        }
    }
}

/// What a unit is to its line; the greater goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Data, and anything of a track that is not played.
    Spare,
    /// A picture that no other needs.
    NonReference,
    /// A picture that later ones need; keyframes that are not the newest too.
    Reference,
    /// The newest keyframe of its line.
    Keyframe,
    /// Sound.
    Audio,
}

/// A unit to send, and what to ask about it while it is on its way.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// What to send.
    pub unit: Unit,
    /// For [`Scheduler::verdict`] and [`Scheduler::given_up`].
    pub ticket: Ticket,
}

/// The queue of one tunnel.
#[derive(Debug)]
pub struct Scheduler {
    limits: Limits,
    lines: BTreeMap<u32, Line>,
    /// Lines with something queued.
    waiting: BTreeSet<u32>,
    bytes: usize,
    turns: Turns,
    tally_changes: u64,
    report: Report,
}

/// How one line is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LineState {
    /// The connector's line number.
    pub line: u32,
    /// What the studio does with it.
    pub rank: Rank,
    /// What it wanted and got since the start.
    pub usage: Usage,
    /// Units that were dropped since the start.
    pub dropped: Totals,
    /// When the oldest unit came that waits and is played, microseconds on the relay's clock.
    pub oldest_us: Option<i64>,
}

impl Scheduler {
    /// An empty queue.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            lines: BTreeMap::new(),
            waiting: BTreeSet::new(),
            bytes: 0,
            turns: Turns::default(),
            tally_changes: 0,
            report: Report::default(),
        }
    }

    /// Sets a line's studio delay D.
    pub fn set_delay(&mut self, line: u32, delay_us: i64) {
        self.line(line).set_delay(delay_us);
    }

    /// Sets which tracks of a line are played: this sound at once, these pictures from their next keyframe on. Without
    /// it 0 and 0.
    pub fn set_played(&mut self, line: u32, video: u8, audio: u8) {
        self.line(line).set_played(video, audio);
    }

    /// Sets a line's share among those of its rank: 1 to [`SHARE_MAX`].
    pub fn set_share(&mut self, line: u32, share: u32) {
        self.line(line).set_share(share);
    }

    /// Sets what of a line's pictures is taken while it is off the air.
    pub fn set_sends(&mut self, line: u32, sends: Sends) {
        self.line(line).set_sends(sends);
    }

    /// Says which lines are on program and on preview; all others are off.
    pub fn set_tally(&mut self, program: &BTreeSet<u32>, preview: &BTreeSet<u32>) {
        let rank = |line| {
            if program.contains(line) {
                Rank::Program
            } else if preview.contains(line) {
                Rank::Preview
            } else {
                Rank::Off
            }
        };
        for line in program.union(preview) {
            self.line(*line);
        }
        for (number, line) in &mut self.lines {
            let rank = rank(number);
            if rank == line.rank() {
                continue;
            }
            self.tally_changes += 1;
            line.set_rank(rank, &self.turns);
            if !line.is_empty() {
                self.waiting.insert(*number);
            }
        }
    }

    /// How often [`Scheduler::set_tally`] changed something: units on their way are to be renewed then.
    pub const fn tally_changes(&self) -> u64 {
        self.tally_changes
    }

    /// Gives a unit on its way the urgency of what the studio does with its line now.
    pub fn renew(&self, ticket: &mut Ticket) {
        if let Some(line) = self.lines.get(&ticket.line) {
            line.renew(ticket, &self.turns);
        }
    }

    /// A line's feed is over: what waits still goes out.
    pub fn feed_ended(&mut self, line: u32) {
        let Self {
            lines,
            bytes,
            report,
            ..
        } = self;
        if let Some(line) = lines.get_mut(&line) {
            let before = line.bytes();
            line.forget_feed(report);
            *bytes -= before - line.bytes();
        }
    }

    /// Every line that was named since the start, in the order of their numbers.
    pub fn states(&self) -> impl Iterator<Item = LineState> {
        self.lines.iter().map(|(number, line)| LineState {
            line: *number,
            rank: line.rank(),
            usage: *line.usage(),
            dropped: self.report.totals_of(*number),
            oldest_us: line.oldest_us(),
        })
    }

    /// Takes a unit in. Older ones, or this one, may be dropped for it.
    pub fn push(&mut self, unit: Unit, now_us: i64) {
        self.take_in(unit, false, now_us);
    }

    /// Takes a unit in that came before this queue was there: one of what a feed has sent since its newest keyframe. A
    /// picture that later ones need is never too late, so that the next one can be decoded.
    pub fn restore(&mut self, unit: Unit, now_us: i64) {
        self.take_in(unit, true, now_us);
    }

    fn take_in(&mut self, unit: Unit, restored: bool, now_us: i64) {
        let number = unit.line;
        let before = self.line(number).bytes();
        let Self {
            limits,
            lines,
            turns,
            report,
            ..
        } = self;
        let Some(line) = lines.get_mut(&number) else {
            return;
        };
        line.expire(now_us, report);
        line.push(unit, restored, now_us, turns, report);
        line.expire(now_us, report);
        while line.bytes() > limits.line_bytes_max || line.units() > limits.line_units_max {
            line.drop_one(report);
        }
        let after = line.bytes();
        self.bytes = self.bytes - before + after;
        self.note_waiting(number);
        while self.bytes > self.limits.total_bytes_max {
            self.drop_from_largest();
        }
    }

    /// How urgent the next unit is; `None` when nothing waits. Expires what is late.
    pub fn peek(&mut self, now_us: i64) -> Option<Urgency> {
        self.expire(now_us);
        self.next().map(|(urgency, _, _)| urgency)
    }

    /// Takes the next unit out.
    pub fn pop(&mut self, now_us: i64) -> Option<Outgoing> {
        self.expire(now_us);
        let (_, class, number) = self.next()?;
        let line = self.lines.get_mut(&number)?;
        let before = line.bytes();
        let outgoing = line.pop(class, &mut self.turns)?;
        self.bytes -= before - line.bytes();
        self.note_waiting(number);
        Some(outgoing)
    }

    /// Whether a unit that was taken out should still arrive; else the reason to give it up
    /// (and to call [`Scheduler::given_up`]).
    pub fn verdict(&self, ticket: &Ticket, now_us: i64) -> Option<DropReason> {
        self.lines.get(&ticket.line)?.verdict(ticket, now_us)
    }

    /// When [`Scheduler::verdict`] will be [`DropReason::Late`] if nothing else happens; `None`: never.
    pub fn deadline_us(&self, ticket: &Ticket) -> Option<i64> {
        self.lines.get(&ticket.line)?.deadline_us(ticket)
    }

    /// A unit that was taken out will not arrive: counts it, and drops what needs it.
    pub fn given_up(&mut self, ticket: &Ticket, reason: DropReason) {
        let Self { lines, report, .. } = self;
        let Some(line) = lines.get_mut(&ticket.line) else {
            return;
        };
        let before = line.bytes();
        line.given_up(ticket, reason, report);
        self.bytes -= before - line.bytes();
        self.note_waiting(ticket.line);
    }

    /// Drops what is late by now.
    pub fn expire(&mut self, now_us: i64) {
        let Self {
            lines,
            waiting,
            bytes,
            report,
            ..
        } = self;
        waiting.retain(|number| {
            lines.get_mut(number).is_some_and(|line| {
                let before = line.bytes();
                line.expire(now_us, report);
                *bytes -= before - line.bytes();
                !line.is_empty()
            })
        });
    }

    /// When [`Scheduler::expire`] has something to do; `None` when nothing waits.
    pub fn next_expiry_us(&self) -> Option<i64> {
        self.waiting
            .iter()
            .filter_map(|number| self.lines.get(number))
            .map(Line::next_expiry_us)
            .min()
    }

    /// The next record of dropped units, for the other end.
    pub fn pop_dropped(&mut self) -> Option<Dropped> {
        self.report.pop()
    }

    /// How many units were dropped since the start.
    pub const fn totals(&self) -> Totals {
        self.report.totals()
    }

    /// Bytes that are queued or kept, with [`UNIT_OVERHEAD`] for each unit.
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether nothing is queued.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The most urgent of what waits: its class and its line.
    fn next(&self) -> Option<(Urgency, Class, u32)> {
        self.waiting
            .iter()
            .filter_map(|number| {
                let (urgency, class) = self.lines.get(number)?.head()?;
                Some((urgency, class, *number))
            })
            .max_by(|(a, _, a_line), (b, _, b_line)| a.cmp(b).then_with(|| b_line.cmp(a_line)))
    }

    fn drop_from_largest(&mut self) {
        let Self {
            lines,
            bytes,
            report,
            ..
        } = self;
        let Some((number, line)) = lines.iter_mut().max_by_key(|(_, line)| line.bytes()) else {
            return;
        };
        let number = *number;
        let before = line.bytes();
        line.drop_one(report);
        *bytes -= before - line.bytes();
        self.note_waiting(number);
    }

    fn note_waiting(&mut self, number: u32) {
        if self.lines.get(&number).is_some_and(|line| !line.is_empty()) {
            self.waiting.insert(number);
        } else {
            self.waiting.remove(&number);
        }
    }

    /// The line, made if need be. A connector that keeps changing its line numbers does not make this grow.
    fn line(&mut self, number: u32) -> &mut Line {
        if self.lines.len() >= 2 * LINES_MAX && !self.lines.contains_key(&number) {
            self.lines.retain(|_, line| line.bytes() > 0);
            let Self { lines, report, .. } = self;
            report.forget(|line| !lines.contains_key(&line));
        }
        self.lines
            .entry(number)
            .or_insert_with(|| Line::new(DELAY_DEFAULT_US))
    }
}

#[cfg(test)]
mod link_tests;
#[cfg(test)]
mod tests;

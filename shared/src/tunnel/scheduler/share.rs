//! Whose turn it is: first what it is, then what the studio does with its line, then who got less than its share.
//!
//! Among equals this is fair queueing in virtual time: each line pays for its bytes by its share, and that unit goes
//! first which is paid for first. So a small unit of a line within its share passes the keyframe of another, however
//! large; a line alone has the whole link; and one that was silent has saved nothing up. Pure.

use std::cmp::Reverse;

/// What the studio does with a line; the greater goes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rank {
    /// Neither; or nobody knows.
    #[default]
    Off,
    /// It is next.
    Preview,
    /// It is on air.
    Program,
}

/// What of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Flow {
    /// What is not played.
    Spare,
    /// Pictures.
    Pictures,
    /// Sound.
    Sound,
}

impl Flow {
    const ALL: [Self; 3] = [Self::Spare, Self::Pictures, Self::Sound];
}

/// How urgent a unit is; the greater goes first, also before one that is on its way and did not get a byte in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Urgency {
    flow: Flow,
    rank: Rank,
    paid: Reverse<u64>,
}

impl Urgency {
    /// Sound that is played.
    pub const fn is_sound(self) -> bool {
        matches!(self.flow, Flow::Sound)
    }

    /// Pictures that are played.
    pub const fn is_picture(self) -> bool {
        matches!(self.flow, Flow::Pictures)
    }

    /// What the studio did with the line when it was asked.
    pub const fn rank(self) -> Rank {
        self.rank
    }

    /// Among others now, and before all that is not paid for yet.
    pub(super) const fn of_rank(self, rank: Rank, turns: &Turns) -> Self {
        Self {
            flow: self.flow,
            rank,
            paid: Reverse(turns.now(self.flow, rank)),
        }
    }
}

/// Virtual time, for each flow and rank: where a line starts that was idle.
#[derive(Debug, Default)]
pub(super) struct Turns([[u64; 3]; 3]);

impl Turns {
    const fn now(&self, flow: Flow, rank: Rank) -> u64 {
        self.0[flow as usize][rank as usize]
    }

    fn advance(&mut self, flow: Flow, rank: Rank, to: u64) {
        let now = &mut self.0[flow as usize][rank as usize];
        *now = (*now).max(to);
    }
}

/// One line's place among the others.
#[derive(Debug)]
pub(super) struct Place {
    rank: Rank,
    share: u32,
    /// Up to when each flow has paid.
    paid: [u64; 3],
}

impl Place {
    pub(super) const fn new() -> Self {
        Self {
            rank: Rank::Off,
            share: SHARE_DEFAULT,
            paid: [0; 3],
        }
    }

    pub(super) const fn rank(&self) -> Rank {
        self.rank
    }

    pub(super) fn set_share(&mut self, share: u32) {
        self.share = share.clamp(1, SHARE_MAX);
    }

    /// Among its new equals it starts like one that was idle.
    pub(super) fn set_rank(&mut self, rank: Rank, turns: &Turns) {
        self.rank = rank;
        for flow in Flow::ALL {
            self.paid[flow as usize] = turns.now(flow, rank);
        }
    }

    /// Something of a flow comes that had nothing waiting.
    pub(super) fn wake(&mut self, flow: Flow, turns: &Turns) {
        let paid = &mut self.paid[flow as usize];
        *paid = (*paid).max(turns.now(flow, self.rank));
    }

    pub(super) const fn urgency(&self, flow: Flow, bytes: usize) -> Urgency {
        let paid = self.paid[flow as usize].saturating_add(self.cost(bytes));
        Urgency {
            flow,
            rank: self.rank,
            paid: Reverse(paid),
        }
    }

    /// A unit goes out: the line pays for it.
    pub(super) fn serve(&mut self, flow: Flow, bytes: usize, turns: &mut Turns) -> Urgency {
        let urgency = self.urgency(flow, bytes);
        let paid = &mut self.paid[flow as usize];
        turns.advance(flow, self.rank, *paid);
        *paid = urgency.paid.0;
        urgency
    }

    const fn cost(&self, bytes: usize) -> u64 {
        (bytes as u64).saturating_mul(SHARE_MAX as u64) / self.share as u64
    }
}

/// The share of a line that was not told otherwise.
pub const SHARE_DEFAULT: u32 = 10;

/// The largest share; the smallest is 1.
pub const SHARE_MAX: u32 = 100;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_is_counts_before_the_tally_and_the_tally_before_the_share() {
        let place = |rank, paid| {
            let mut place = Place::new();
            place.rank = rank;
            place.paid = [paid; 3];
            place
        };
        let order = [
            place(Rank::Off, 9).urgency(Flow::Sound, 100),
            place(Rank::Program, 5).urgency(Flow::Pictures, 100),
            place(Rank::Preview, 0).urgency(Flow::Pictures, 100),
            place(Rank::Off, 0).urgency(Flow::Pictures, 100),
            place(Rank::Off, 0).urgency(Flow::Pictures, 101),
            place(Rank::Off, 1_000).urgency(Flow::Pictures, 100),
            place(Rank::Program, 0).urgency(Flow::Spare, 100),
        ];
        assert!(order.is_sorted_by(|a, b| a > b), "{order:?}");
    }
}

//! What a line does when its decoder is lost: go on at once with what it has kept, or wait for the next keyframe. Pure.
//!
//! All units since the last keyframe are kept, coded: with them a fresh decoder is where the old one was within a few
//! hundred milliseconds, however long the GOP is. The same units are not tried twice, as the one that ended the decoder
//! may be among them; a decoder that goes on being lost is started less and less often.

use std::collections::VecDeque;

use crate::decode::CodedUnit;

/// What one line knows of its decoder's ends.
#[derive(Debug, Default)]
pub(super) struct Recovery {
    /// All units of video since the last starting point; none while that is not known, or too much.
    gop: Vec<CodedUnit>,
    gop_bytes: usize,
    /// How many of them were decoded again after the last loss.
    tried: usize,
    /// Still to be decoded again.
    replay: VecDeque<CodedUnit>,
    /// When a decoder was lost, of late.
    losses_us: VecDeque<i64>,
    /// How often with this feed.
    times: u32,
    rest_until_us: Option<i64>,
    catch_up_until_us: Option<i64>,
}

/// What to do about a loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// The units that were kept come first, then the feed goes on as if nothing had been. Otherwise it goes on with its
    /// next keyframe.
    pub(super) replays: bool,
    /// Nothing is decoded for so long.
    pub(super) pause_us: i64,
    /// How often it happened with this feed.
    pub(super) times: u32,
}

impl Recovery {
    /// Another feed: nothing of the one before is of use, but for how often the decoder was lost of late.
    pub(super) fn new_feed(&mut self) {
        self.forget_gop();
        self.times = 0;
    }

    /// A unit is about to be decoded. `is_start`: a decoder can start with it.
    pub(super) fn feed(&mut self, unit: &CodedUnit, is_start: bool) {
        if is_start {
            self.forget_gop();
        } else if self.gop.is_empty() {
            return;
        }
        self.gop_bytes += unit.payload.len();
        self.gop.push(unit.clone());
        if self.gop.len() > UNITS_MAX || self.gop_bytes > BYTES_MAX {
            self.forget_gop();
        }
    }

    /// What follows the units that were kept is not going to be decoded.
    pub(super) fn forget_gop(&mut self) {
        self.gop.clear();
        self.gop_bytes = 0;
        self.tried = 0;
        self.replay.clear();
    }

    /// The decoder is lost, with all that was fed to it. `random` is any number, evenly distributed.
    pub(super) fn lost(&mut self, now_us: i64, random: u32) -> Plan {
        while (self.losses_us.front()).is_some_and(|at_us| now_us - at_us > OF_LATE_US) {
            self.losses_us.pop_front();
        }
        if self.losses_us.len() == LOSSES_MAX {
            self.losses_us.pop_front();
        }
        self.losses_us.push_back(now_us);
        self.times = self.times.saturating_add(1);
        let pause_us = pause_us(self.losses_us.len(), random);
        let replays = self.gop.len() > self.tried && pause_us <= REPLAY_PAUSE_MAX_US;
        if replays {
            self.tried = self.gop.len();
            self.replay = self.gop.iter().cloned().collect();
        } else {
            self.forget_gop();
        }
        self.rest_until_us = Some(now_us + pause_us);
        self.catch_up_until_us = Some(now_us + pause_us + CATCH_UP_MAX_US);
        Plan {
            replays,
            pause_us,
            times: self.times,
        }
    }

    /// Until when nothing is decoded; `None`: now it is.
    pub(super) fn rests_until_us(&mut self, now_us: i64) -> Option<i64> {
        self.rest_until_us = self.rest_until_us.filter(|until_us| now_us < *until_us);
        self.rest_until_us
    }

    /// Whether units are to be decoded again before any other.
    pub(super) fn has_replay(&self) -> bool {
        !self.replay.is_empty()
    }

    /// The next of those.
    pub(super) fn next_replay(&mut self) -> Option<CodedUnit> {
        self.replay.pop_front()
    }

    /// Whether pictures come out that would have been due while there was no decoder: those are left out.
    pub(super) fn is_catching_up(&self, now_us: i64) -> bool {
        (self.catch_up_until_us).is_some_and(|until_us| now_us < until_us)
    }

    /// A picture came out in time.
    pub(super) fn caught_up(&mut self) {
        self.catch_up_until_us = None;
    }
}

/// None after the first loss: whatever that was, it may have been the only one. Then twice as long each time, less up to
/// a half, so that lines that fell together do not start together.
fn pause_us(losses: usize, random: u32) -> i64 {
    let Some(doublings) = losses.checked_sub(2) else {
        return 0;
    };
    let doublings = u32::try_from(doublings).unwrap_or(u32::MAX).min(16);
    let longest_us = (PAUSE_MIN_US << doublings).min(PAUSE_MAX_US);
    longest_us / 2 + longest_us / 2 * i64::from(random) / i64::from(u32::MAX)
}

/// A decoder that has lived for so long was well.
const OF_LATE_US: i64 = 30_000_000;

const PAUSE_MIN_US: i64 = 250_000;
const PAUSE_MAX_US: i64 = 10_000_000;

/// After a longer one the next keyframe is as near.
const REPLAY_PAUSE_MAX_US: i64 = 500_000;

/// More than this and the pauses are at their longest.
const LOSSES_MAX: usize = 16;

/// A GOP that is decoded again takes less. What is late after that is so for another reason.
const CATCH_UP_MAX_US: i64 = 3_000_000;

/// 10 s at 60 fps: decoding more again takes longer than the next keyframe does.
const UNITS_MAX: usize = 600;

/// 10 s at 25 Mbit/s.
const BYTES_MAX: usize = 32 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use firstmile_shared::media::Codec;

    use super::*;

    fn unit(pts_us: i64, len: usize) -> CodedUnit {
        CodedUnit {
            codec: Codec::H264,
            config: None,
            payload: vec![0; len].into(),
            pts_us,
        }
    }

    fn replayed(recovery: &mut Recovery) -> Vec<i64> {
        std::iter::from_fn(|| recovery.next_replay())
            .map(|unit| unit.pts_us)
            .collect()
    }

    #[test]
    fn the_first_loss_is_made_good_at_once_with_all_since_the_last_keyframe() {
        let mut recovery = Recovery::default();
        for n in 0..5 {
            recovery.feed(&unit(n, 10), n == 0 || n == 2);
        }
        let plan = recovery.lost(1_000, 0);
        assert_eq!(
            plan,
            Plan {
                replays: true,
                pause_us: 0,
                times: 1
            }
        );
        assert_eq!(recovery.rests_until_us(1_000), None);
        assert!(recovery.is_catching_up(1_000));
        assert_eq!(replayed(&mut recovery), [2, 3, 4]);
        recovery.caught_up();
        assert!(!recovery.is_catching_up(1_000));
    }

    #[test]
    fn the_same_units_are_not_tried_twice_and_the_next_keyframe_is() {
        let mut recovery = Recovery::default();
        recovery.feed(&unit(0, 10), true);
        assert!(recovery.lost(0, 0).replays);
        let again = recovery.lost(10_000, 0);
        assert!(!again.replays && !recovery.has_replay());
        assert_eq!((again.pause_us, again.times), (PAUSE_MIN_US / 2, 2));
        let rests = recovery.rests_until_us(10_000);
        assert_eq!(rests, Some(10_000 + PAUSE_MIN_US / 2));
        assert_eq!(recovery.rests_until_us(1_000_000), None);
        recovery.feed(&unit(1, 10), false);
        recovery.feed(&unit(2, 10), true);
        recovery.feed(&unit(3, 10), false);
        assert!(recovery.lost(1_000_000, 0).replays, "another GOP");
        assert_eq!(replayed(&mut recovery), [2, 3]);
        // It got past them: whatever it was this time, it was not those.
        recovery.feed(&unit(4, 10), false);
        assert!(recovery.lost(40_000_000, 0).replays);
        assert_eq!(replayed(&mut recovery), [2, 3, 4]);
    }

    #[test]
    fn a_feed_that_ends_every_decoder_gets_one_less_and_less_often() {
        let mut recovery = Recovery::default();
        let mut now_us = 0;
        let mut pauses = Vec::new();
        for n in 0..9 {
            recovery.feed(&unit(n, 10), true);
            let plan = recovery.lost(now_us, u32::MAX);
            pauses.push(plan.pause_us / 1_000);
            now_us += plan.pause_us;
        }
        assert_eq!(
            pauses,
            [0, 250, 500, 1_000, 2_000, 4_000, 8_000, 10_000, 10_000]
        );
        assert!(!recovery.has_replay());
        // After half a minute without one it is forgiven.
        recovery.feed(&unit(9, 10), true);
        let plan = recovery.lost(now_us + OF_LATE_US + 1, u32::MAX);
        assert_eq!((plan.pause_us, plan.times), (0, 10));
        recovery.new_feed();
        assert_eq!(recovery.lost(now_us, 0).times, 1, "of this feed");
    }

    #[test]
    fn what_is_kept_is_bounded() {
        for (units, len) in [(UNITS_MAX + 1, 1), (3, BYTES_MAX / 2)] {
            let mut recovery = Recovery::default();
            for n in 0..units {
                recovery.feed(&unit(0, len), n == 0);
            }
            assert!(!recovery.lost(0, 0).replays, "{units} units of {len}");
        }
        let mut recovery = Recovery::default();
        recovery.feed(&unit(0, 1), false);
        assert!(!recovery.lost(0, 0).replays, "no starting point");
    }
}

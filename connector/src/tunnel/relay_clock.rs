//! The relay's clock as the playout may use it: no steps while a show is on. Pure.
//!
//! [`ClockOffset`] gives the best estimate, which steps by some milliseconds whenever a better sample comes or an
//! old one is forgotten. Every step would move every due time, so the mapping follows it at 500 parts in a million
//! at most, over reconnections too. It jumps only when it must: in its first seconds, and when the relay's clock is
//! another one (the relay was restarted).

use firstmile_shared::tunnel::clock::{ClockOffset, Pong};

/// Maps the relay's times to this machine's. Microseconds throughout.
#[derive(Debug, Default)]
pub(super) struct RelayClock {
    estimate: ClockOffset,
    mapping: Option<Mapping>,
}

#[derive(Clone, Copy, Debug)]
struct Mapping {
    /// What is added to a time of the relay.
    shift_us: i64,
    /// When it was last moved.
    moved_us: i64,
    /// Until then it may jump: nothing is shown by it yet.
    loose_until_us: i64,
}

impl RelayClock {
    /// A new connection: samples of the old path say nothing of this one.
    pub(super) fn new_path(&mut self) {
        self.estimate = ClockOffset::default();
    }

    /// Takes a pong in that came at `now_us`.
    pub(super) fn record(&mut self, pong: Pong, now_us: i64) {
        self.estimate.record(pong, now_us);
        let Some(target_us) = self.estimate.to_connector_us(0) else {
            return;
        };
        let uncertainty_us = self.estimate.uncertainty_us().unwrap_or(0);
        self.mapping = Some(match self.mapping {
            Some(mapping) => mapping.moved(target_us, uncertainty_us, now_us),
            None => Mapping::new(target_us, now_us),
        });
    }

    /// A time of the relay on this machine's clock; `None` before the first pong.
    pub(super) fn map(&self, relay_us: i64) -> Option<i64> {
        self.mapping
            .map(|mapping| relay_us.saturating_add(mapping.shift_us))
    }

    /// The latest round trip of this path.
    pub(super) fn round_trip_us(&self) -> Option<i64> {
        self.estimate.round_trip_us()
    }
}

impl Mapping {
    const fn new(shift_us: i64, now_us: i64) -> Self {
        Self {
            shift_us,
            moved_us: now_us,
            loose_until_us: now_us.saturating_add(LOOSE_US),
        }
    }

    fn moved(self, target_us: i64, uncertainty_us: i64, now_us: i64) -> Self {
        let distance_us = target_us.saturating_sub(self.shift_us);
        let is_explained = distance_us.saturating_abs() <= uncertainty_us.saturating_add(SLACK_US);
        if !is_explained {
            return Self::new(target_us, now_us);
        }
        if now_us < self.loose_until_us {
            return Self {
                shift_us: target_us,
                moved_us: now_us,
                ..self
            };
        }
        let elapsed_us = now_us
            .saturating_sub(self.moved_us)
            .clamp(0, STEP_TIME_MAX_US);
        let step_us = elapsed_us * SLEW_PPM / 1_000_000;
        if step_us == 0 {
            return self;
        }
        Self {
            shift_us: self
                .shift_us
                .saturating_add(distance_us.clamp(-step_us, step_us)),
            moved_us: now_us,
            ..self
        }
    }
}

const SLEW_PPM: i64 = 500;

/// No longer time counts for one step: a connection that was away must not make up for it in one jump.
const STEP_TIME_MAX_US: i64 = 1_000_000;

/// Two good samples of one clock differ by no more than their round trips explain, and this.
const SLACK_US: i64 = 20_000;

/// The first samples of a connection are often worse than those that follow.
const LOOSE_US: i64 = 2_000_000;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A pong on a path of 20 ms each way, `extra_us` longer on the way back, by a relay `ahead_us` ahead.
    fn pong(now_us: i64, ahead_us: i64, extra_us: i64) -> Pong {
        let received_us = now_us - 20_000 - extra_us + ahead_us;
        Pong {
            ping_sent_us: now_us - 40_000 - extra_us,
            received_us,
            sent_us: received_us,
        }
    }

    #[test]
    fn a_better_sample_moves_the_mapping_slowly() {
        let mut clock = RelayClock::default();
        let ahead_us = 7_000_000;
        // Two seconds on a path whose way back is 10 ms longer: off by 5 ms.
        for n in 0..20 {
            clock.record(pong(n * 150_000, ahead_us, 10_000), n * 150_000);
        }
        assert_eq!(clock.map(ahead_us), Some(5_000));
        let now_us = 20 * 150_000;
        clock.record(pong(now_us, ahead_us, 0), now_us);
        assert_eq!(clock.map(ahead_us), Some(5_000 - 75), "150 ms at 500 ppm");
    }

    #[test]
    fn a_restarted_relay_has_another_clock_and_is_believed_at_once() {
        let mut clock = RelayClock::default();
        clock.record(pong(5_000_000, 90_000_000, 0), 5_000_000);
        clock.new_path();
        clock.record(pong(9_000_000, 100_000, 0), 9_000_000);
        assert_eq!(clock.map(100_000), Some(0));
    }

    #[test]
    fn a_reconnection_to_the_same_relay_keeps_the_mapping() {
        let mut clock = RelayClock::default();
        for n in 0..20 {
            clock.record(pong(n * 150_000, 1_000, 0), n * 150_000);
        }
        clock.new_path();
        // An hour away, and a worse path now.
        let now_us = 3_600_000_000;
        clock.record(pong(now_us, 1_000, 30_000), now_us);
        assert_eq!(clock.map(1_000), Some(500), "one second's worth at most");
    }

    #[test]
    fn nothing_is_known_before_the_first_pong() {
        assert_eq!(RelayClock::default().map(1), None);
    }

    proptest! {
        #[test]
        fn hostile_pongs_never_panic(times in prop::collection::vec(any::<[i64; 4]>(), 0..20), relay_us in any::<i64>()) {
            let mut clock = RelayClock::default();
            for [ping_sent_us, received_us, sent_us, now_us] in times {
                clock.record(Pong { ping_sent_us, received_us, sent_us }, now_us);
                let _ = clock.map(relay_us);
            }
        }
    }
}

//! How old a unit is when it comes in: the baseline that maps a publisher's media clock to the relay's. Pure.
//!
//! *Baseline*: the lowest `ingest - dts` of the last 60 s. The unit that set it met no queue anywhere, so every
//! other unit's distance from it is delay: what the encoder and its uplink hold back. A lower value counts at once. A
//! higher one counts when nothing lower came for 60 s, and only as fast as two clocks drift apart: an encoder that falls
//! back for good stays late, however long it does, until somebody decides to live with it ([`Age::accept`]). A jump of
//! the media clock starts anew.
//!
//! All times are microseconds.

use std::collections::VecDeque;

/// How long a lowest value counts.
pub const WINDOW_US: i64 = 60_000_000;

/// The baseline of one publisher.
#[derive(Clone, Debug, Default)]
pub struct Age {
    /// The lowest offset of each step of time that nothing later undercuts: offsets rise from front to back.
    lowest: VecDeque<Lowest>,
    /// In force, and since when.
    baseline: Option<Lowest>,
    accepted_us: i64,
}

#[derive(Clone, Copy, Debug)]
struct Lowest {
    at_us: i64,
    offset_us: i64,
}

impl Age {
    /// Takes in a unit's times and answers the baseline that is valid from it on.
    ///
    /// `ingest_us` is on the relay's clock and never goes back; `dts_us` is on the publisher's and may be anything.
    pub fn observe(&mut self, ingest_us: i64, dts_us: i64, discontinuity: bool) -> i64 {
        if discontinuity {
            *self = Self::default();
        }
        let offset_us = ingest_us.saturating_sub(dts_us);
        while self
            .lowest
            .front()
            .is_some_and(|old| ingest_us.saturating_sub(old.at_us) > WINDOW_US)
        {
            self.lowest.pop_front();
        }
        while self
            .lowest
            .back()
            .is_some_and(|old| old.offset_us >= offset_us)
        {
            self.lowest.pop_back();
        }
        // Within a step the lower one, which is there already, stands for both: so the memory is bounded.
        if self
            .lowest
            .back()
            .is_none_or(|old| ingest_us.saturating_sub(old.at_us) >= STEP_US)
        {
            self.lowest.push_back(Lowest {
                at_us: ingest_us,
                offset_us,
            });
        }
        let lowest_us = (self.lowest.front()).map_or(offset_us, |lowest| lowest.offset_us);
        self.follow(lowest_us, ingest_us)
    }

    /// Lives with a lag: everything is as old as it would be if it had come `lag_us` earlier, from now on. Nothing
    /// happens before the first unit.
    pub fn accept(&mut self, lag_us: i64) {
        if let Some(baseline) = &mut self.baseline {
            let lag_us = lag_us.max(0);
            baseline.offset_us = baseline.offset_us.saturating_add(lag_us);
            self.accepted_us = self.accepted_us.saturating_add(lag_us);
            self.lowest.clear();
        }
    }

    /// How much of what was accepted is still in force.
    pub const fn accepted_us(&self) -> i64 {
        self.accepted_us
    }

    fn follow(&mut self, lowest_us: i64, now_us: i64) -> i64 {
        let offset_us = match self.baseline {
            None => lowest_us,
            Some(old) if lowest_us <= old.offset_us => {
                // It caught up: what was lived with is not needed any more.
                let fall_us = old.offset_us.saturating_sub(lowest_us);
                self.accepted_us = self.accepted_us.saturating_sub(fall_us).max(0);
                lowest_us
            }
            Some(old) => {
                let passed_us = now_us.saturating_sub(old.at_us).max(0);
                let drift_us = passed_us.saturating_mul(DRIFT_PPM) / 1_000_000;
                // Units that follow each other within a millisecond drift by nothing: the time adds up.
                if drift_us == 0 {
                    return old.offset_us;
                }
                old.offset_us.saturating_add(drift_us).min(lowest_us)
            }
        };
        self.baseline = Some(Lowest {
            at_us: now_us,
            offset_us,
        });
        offset_us
    }
}

/// The clocks of two machines are 100 ppm apart at the most; an encoder that counts the pictures of 29.97 a second as 30
/// is 1000 ppm off.
const DRIFT_PPM: i64 = 1_200;

/// 600 entries in the window; a baseline may be kept or lost this much too early.
const STEP_US: i64 = 100_000;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: i64 = 1_000;
    const S: i64 = 1_000_000;

    #[test]
    fn the_least_delayed_unit_is_the_measure_for_all() {
        let mut age = Age::default();
        // (ingest, dts, baseline): the relay's clock began 500 ms before the encoder's.
        for (ingest_ms, dts_ms, baseline_ms) in [
            (540, 0, 540),  // The first one knows no better.
            (560, 40, 520), // Less delay: re-anchors at once.
            (780, 80, 520), // Held back by 180 ms.
            (790, 120, 520),
            (795, 160, 520),
            (2_700, 2_200, 500), // After the encoder's queue ran empty.
        ] {
            assert_eq!(
                age.observe(ingest_ms * MS, dts_ms * MS, false),
                baseline_ms * MS,
                "at {ingest_ms} ms"
            );
        }
    }

    #[test]
    fn a_jump_of_the_media_clock_starts_anew() {
        let mut age = Age::default();
        assert_eq!(age.observe(10 * S, 10 * S, false), 0);
        assert_eq!(age.observe(11 * S, 0, true), 11 * S);
    }

    #[test]
    fn what_lasts_is_late_until_somebody_lives_with_it() {
        let mut age = Age::default();
        age.observe(0, 0, false);
        // From now on everything comes 2 s late.
        let late = |age: &mut Age, n: i64| age.observe(n * 100 * MS, n * 100 * MS - 2 * S, false);
        let ten_minutes: Vec<_> = (1..=6_000).map(|n| late(&mut age, n)).collect();
        assert_eq!(ten_minutes[598], 0, "59.9 s on");
        assert!(
            ten_minutes[5_999] <= 540 * 1_200,
            "drift, not lag: {ten_minutes:?}"
        );
        let lag_us = 2 * S - ten_minutes[5_999];

        age.accept(lag_us);
        assert_eq!(late(&mut age, 6_001), 2 * S, "in one step");
        assert_eq!(age.accepted_us(), lag_us);
        // It catches up by half a second, and then altogether.
        assert_eq!(
            age.observe(700 * S, 700 * S - 1_500 * MS, false),
            1_500 * MS
        );
        assert_eq!(age.accepted_us(), lag_us - 500 * MS);
        assert_eq!(age.observe(701 * S, 701 * S, false), 0);
        assert_eq!(age.accepted_us(), 0);
    }

    /// 29.97 pictures a second that are counted as 30: the media clock is slow by 1000 ppm.
    #[test]
    fn an_encoder_that_counts_wrong_is_followed() {
        let mut age = Age::default();
        let mut worst_us = 0;
        for n in 0..60 * 60 * 30 {
            let ingest_us = n * 33_367;
            let offset_us = ingest_us - n * 33_333;
            worst_us = worst_us.max(offset_us - age.observe(ingest_us, n * 33_333, false));
        }
        assert!(
            worst_us <= 62_000,
            "a minute's drift and no more: {worst_us} us"
        );
    }

    #[test]
    fn two_clocks_that_drift_by_50_ppm_stay_within_a_frame_over_ten_hours() {
        let mut age = Age::default();
        let mut worst_us = 0;
        for n in 0..36_000 {
            let ingest_us = n * S;
            let dts_us = ingest_us - n * 50;
            let offset_us = ingest_us - dts_us;
            worst_us = worst_us.max(offset_us - age.observe(ingest_us, dts_us, false));
        }
        assert!(worst_us <= 3_100, "{worst_us} us");
    }

    proptest! {
        /// Against the definition, written the slow way.
        #[test]
        fn it_falls_with_the_lowest_of_the_window_and_rises_no_faster_than_clocks_drift(steps in prop::collection::vec((0..2_000_000i64, -500_000..500_000i64), 1..300)) {
            let mut age = Age::default();
            let mut all = Vec::new();
            let mut ingest_us = 0;
            let mut before = None::<i64>;
            for (step_us, offset_us) in steps {
                ingest_us += step_us;
                all.push((ingest_us, offset_us));
                let baseline = age.observe(ingest_us, ingest_us - offset_us, false);
                let lowest_within = |window_us: i64| {
                    all.iter().filter(|(at, _)| ingest_us - at <= window_us).map(|(_, offset)| *offset).min().unwrap()
                };
                prop_assert!(baseline <= offset_us, "no unit is younger than the baseline");
                prop_assert!(baseline <= lowest_within(WINDOW_US - STEP_US), "nothing in the window is forgotten");
                let before_us = before.replace(baseline).unwrap_or(baseline);
                prop_assert!(baseline <= before_us + step_us * DRIFT_PPM / 1_000_000 + 3, "it rose by more than drift");
                prop_assert!(baseline >= before_us.min(lowest_within(WINDOW_US)), "it fell for nothing");
                prop_assert!(age.lowest.len() <= 602);
            }
        }

        #[test]
        fn arbitrary_times_never_panic(times in prop::collection::vec((any::<i64>(), any::<i64>(), any::<bool>()), 0..50)) {
            let mut age = Age::default();
            for (ingest_us, dts_us, discontinuity) in times {
                age.observe(ingest_us, dts_us, discontinuity);
            }
        }
    }
}

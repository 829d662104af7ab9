//! How old a unit is when it comes in: the baseline that maps a publisher's media clock to the relay's. Pure.
//!
//! *Baseline*: the lowest `ingest - dts` of the last 60 s. The unit that set it met no queue anywhere, so every
//! other unit's distance from it is delay: what the encoder and its uplink hold back. A lower value counts at once;
//! a higher one only when nothing lower came for 60 s, which follows the drift of two clocks (50 ppm: 3 ms in the
//! window) and, after a minute, an encoder that really fell back for good. A jump of the media clock starts anew.
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
            self.lowest.clear();
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
        self.lowest
            .front()
            .map_or(offset_us, |lowest| lowest.offset_us)
    }
}

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
    fn what_lasts_a_minute_is_the_new_normal() {
        let mut age = Age::default();
        age.observe(0, 0, false);
        let mut baselines = Vec::new();
        for n in 1..=700 {
            // From now on everything comes 2 s late.
            baselines.push(age.observe(n * 100 * MS, n * 100 * MS - 2 * S, false));
        }
        assert_eq!(baselines[598], 0, "59.9 s on");
        assert_eq!(baselines[601], 2 * S, "60.2 s on");
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
        fn it_is_the_lowest_of_the_window(steps in prop::collection::vec((0..2_000_000i64, -500_000..500_000i64), 1..300)) {
            let mut age = Age::default();
            let mut all = Vec::new();
            let mut ingest_us = 0;
            for (step_us, offset_us) in steps {
                ingest_us += step_us;
                all.push((ingest_us, offset_us));
                let baseline = age.observe(ingest_us, ingest_us - offset_us, false);
                let lowest_within = |window_us: i64| {
                    all.iter().filter(|(at, _)| ingest_us - at <= window_us).map(|(_, offset)| *offset).min().unwrap()
                };
                prop_assert!(baseline <= offset_us, "no unit is younger than the baseline");
                prop_assert!(baseline >= lowest_within(WINDOW_US), "nothing older than the window counts");
                prop_assert!(baseline <= lowest_within(WINDOW_US - STEP_US), "nothing in the window is forgotten");
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

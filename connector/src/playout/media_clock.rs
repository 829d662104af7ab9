//! From a publisher's media clock to this machine's: one number, the baseline, kept from jumping about. Pure.
//!
//! The relay sends with every unit the lowest `ingest - dts` of the last minute; the tunnel maps it to our clock.
//! Both estimates improve by small steps all the time, and a step in the baseline is a step in when pictures are
//! due: so small ones are walked, at most 1 ms for each picture of 30 fps, which nobody sees.

/// The baseline in use.
#[derive(Clone, Debug, Default)]
pub(super) struct MediaClock {
    state: Option<State>,
}

#[derive(Clone, Copy, Debug)]
struct State {
    baseline_us: i64,
    newest_dts_us: i64,
}

impl MediaClock {
    /// The baseline for a unit: `dts_us` of the media clock, `fresh_us` the baseline that came with it.
    pub(super) fn baseline_us(&mut self, dts_us: i64, fresh_us: i64) -> i64 {
        let Some(state) = &mut self.state else {
            self.state = Some(State {
                baseline_us: fresh_us,
                newest_dts_us: dts_us,
            });
            return fresh_us;
        };
        let step_us = fresh_us.saturating_sub(state.baseline_us);
        let passed_us = dts_us.saturating_sub(state.newest_dts_us);
        if !(-LOWER_MAX_US..=RAISE_MAX_US).contains(&step_us) {
            // Much lower: what was held is older than we thought. Much higher: the media clock itself jumped.
            *state = State {
                baseline_us: fresh_us,
                newest_dts_us: dts_us,
            };
        } else if passed_us > 0 {
            let walk_us = passed_us.min(PASSED_MAX_US) * WALK_PERMILLE / 1000;
            state.baseline_us += step_us.clamp(-walk_us, walk_us);
            state.newest_dts_us = dts_us;
        }
        state.baseline_us
    }
}

/// 3 %: 1 ms for each 33 ms of media.
const WALK_PERMILLE: i64 = 30;

/// Media time that one unit can stand for; a gap does not make up for itself by a step.
const PASSED_MAX_US: i64 = 100_000;

/// A lower baseline makes everything due earlier. More than half a picture of 25 fps at once is taken at once:
/// the promise is the delay, and walking would break it for over half a second.
const LOWER_MAX_US: i64 = 20_000;

/// A higher one gives time back, which can wait. Two clocks drift apart by less than this: beyond it is another media
/// clock, or the lag of an encoder that was accepted.
const RAISE_MAX_US: i64 = 200_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_steps_are_walked_and_large_ones_taken_at_once() {
        // (baseline that comes from the second unit on, ms; baseline in use after 1, 2, 5, 30 pictures of 33.3 ms, µs)
        for (fresh_ms, expected) in [
            (1_000, [1_000_000, 1_000_000, 1_000_000, 1_000_000]),
            (1_004, [1_000_999, 1_001_998, 1_004_000, 1_004_000]),
            (996, [999_001, 998_002, 996_000, 996_000]),
            (1_150, [1_000_999, 1_001_998, 1_004_995, 1_029_970]),
            (1_300, [1_300_000, 1_300_000, 1_300_000, 1_300_000]),
            (979, [979_000, 979_000, 979_000, 979_000]),
            (3_000, [3_000_000, 3_000_000, 3_000_000, 3_000_000]),
        ] {
            let mut clock = MediaClock::default();
            assert_eq!(clock.baseline_us(0, 1_000_000), 1_000_000);
            let got: Vec<i64> = (1..=30)
                .map(|n| clock.baseline_us(n * 33_333, fresh_ms * 1000))
                .collect();
            assert_eq!([got[0], got[1], got[4], got[29]], expected, "{fresh_ms}");
        }
    }

    #[test]
    fn units_out_of_order_do_not_walk_twice() {
        let mut clock = MediaClock::default();
        clock.baseline_us(1_000_000, 0);
        let walked = clock.baseline_us(1_040_000, 10_000);
        assert_eq!(clock.baseline_us(1_020_000, 10_000), walked);
        assert_eq!(clock.baseline_us(1_040_000, 10_000), walked);
        assert_eq!(clock.baseline_us(i64::MAX, i64::MIN), i64::MIN);
        assert_eq!(clock.baseline_us(i64::MIN, i64::MAX), i64::MAX);
    }
}

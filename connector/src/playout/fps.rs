//! The frame rate that a source declares: the nominal one, from what the stream says and what is measured. Pure.

use crate::output::FrameRate;

/// Finds the rate of a feed.
#[derive(Clone, Debug)]
pub(super) struct RateFinder {
    declared: Option<FrameRate>,
    first_dts_us: Option<i64>,
    last_dts_us: i64,
    count: i64,
    /// What the last stretch gave.
    measured: Option<FrameRate>,
    rate: FrameRate,
}

impl Default for RateFinder {
    fn default() -> Self {
        Self {
            declared: None,
            first_dts_us: None,
            last_dts_us: 0,
            count: 0,
            measured: None,
            rate: FrameRate::DEFAULT,
        }
    }
}

impl RateFinder {
    /// The rate to declare now.
    pub(super) const fn rate(&self) -> FrameRate {
        self.rate
    }

    /// What the stream says of itself.
    pub(super) fn declare(&mut self, rate: Option<FrameRate>) {
        if self.declared != rate {
            self.declared = rate;
            self.decide();
        }
    }

    /// A unit of video in decode order; `gap`: something is missing before it.
    pub(super) fn unit(&mut self, dts_us: i64, gap: bool) {
        let step_us = dts_us.saturating_sub(self.last_dts_us);
        let first_us = *self.first_dts_us.get_or_insert(dts_us);
        if gap || (self.count > 0 && !(1..=STEP_MAX_US).contains(&step_us)) {
            self.first_dts_us = Some(dts_us);
            self.count = 0;
            self.last_dts_us = dts_us;
            return;
        }
        self.last_dts_us = dts_us;
        self.count += 1;
        if self.count > STRETCH {
            #[expect(clippy::cast_precision_loss, reason = "a count below 200 and seconds")]
            let fps = (self.count - 1) as f64 * 1e6 / (dts_us - first_us).max(1) as f64;
            self.measured = FrameRate::usual(fps).or(self.measured);
            self.first_dts_us = Some(dts_us);
            self.count = 1;
            self.decide();
        }
    }

    /// The stream's word counts where the measurement does not refute it: encoders write rates that are double, or
    /// that of their clock. A measurement counts by itself; without either the last rate stays.
    fn decide(&mut self) {
        self.rate = match (self.declared, self.measured) {
            (Some(declared), Some(measured)) => {
                let off = (declared.fps() / measured.fps() - 1.0).abs();
                if off < 0.02 { declared } else { measured }
            }
            (Some(declared), None) if (5.0..=120.0).contains(&declared.fps()) => declared,
            (_, Some(measured)) => measured,
            (_, None) => self.rate,
        };
    }
}

/// Pictures in a measurement: 4 s at 30 fps, where whole milliseconds still tell 30 from 29.97.
const STRETCH: i64 = 120;

/// A longer step is a pause, not a rate.
const STEP_MAX_US: i64 = 500_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_what_was_meant() {
        // (real rate, what the stream declares, what is said in the end)
        for (fps, declared, expected) in [
            (30.0, None, (30, 1)),
            (29.97, None, (30000, 1001)),
            (25.0, Some((50, 1)), (25, 1)), // Declared in fields.
            (59.94, Some((60000, 1001)), (60000, 1001)),
            (30.0, Some((30000, 1001)), (30000, 1001)), // Within the error of a measurement: believed.
            (30.0, Some((1000, 1)), (30, 1)),
            (24.3, None, (24, 1)), // A phone in the dark.
        ] {
            let mut finder = RateFinder::default();
            finder.declare(declared.map(|(n, d)| FrameRate::new(n, d)));
            for n in 0..400 {
                #[expect(clippy::cast_possible_truncation, reason = "13 s in ms")]
                let dts_ms = (f64::from(n) * 1000.0 / fps).round() as i64;
                finder.unit(dts_ms * 1000, false);
            }
            let rate = finder.rate();
            assert_eq!((rate.numerator, rate.denominator), expected, "{fps}");
        }
    }

    #[test]
    fn gaps_pauses_and_nonsense_measure_nothing() {
        let mut finder = RateFinder::default();
        for n in 0..1_000 {
            finder.unit(n * 100_000, n % 50 == 0);
        }
        for dts_us in [i64::MAX, i64::MIN, 0, i64::MAX] {
            finder.unit(dts_us, false);
        }
        assert_eq!(finder.rate(), FrameRate::DEFAULT);
    }
}

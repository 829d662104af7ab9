//! Frame rates as receivers want them: a nominal fraction, not what a jittery clock measured.

use std::fmt;

/// Pictures per second, as a fraction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameRate {
    /// For instance 30000.
    pub numerator: u32,
    /// For instance 1001; never 0.
    pub denominator: u32,
}

impl FrameRate {
    /// What a source declares before it knows better.
    pub const DEFAULT: Self = Self::new(30, 1);

    /// `numerator / denominator`; a denominator of 0 counts as 1.
    pub const fn new(numerator: u32, denominator: u32) -> Self {
        Self {
            numerator,
            denominator: if denominator == 0 { 1 } else { denominator },
        }
    }

    /// The nominal rate that a measured one means: exact where it is within 0.4 % of a usual one (23.976 and 24
    /// differ by 0.1 %, so the nearest wins), else rounded to a thousandth. `None` outside 1 to 240.
    pub fn nominal(fps: f64) -> Option<Self> {
        if !(1.0..=240.0).contains(&fps) {
            return None;
        }
        let nearest = USUAL
            .iter()
            .copied()
            .min_by(|a, b| (a.fps() - fps).abs().total_cmp(&(b.fps() - fps).abs()))?;
        if (nearest.fps() - fps).abs() <= fps * 0.004 {
            return Some(nearest);
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between 1,000 and 240,000"
        )]
        Some(Self::new((fps * 1000.0).round() as u32, 1000))
    }

    /// Pictures per second.
    pub fn fps(self) -> f64 {
        f64::from(self.numerator) / f64::from(self.denominator)
    }

    /// From one picture to the next, microseconds; at least 1.
    pub fn interval_us(self) -> i64 {
        (1_000_000 * i64::from(self.denominator) / i64::from(self.numerator.max(1))).max(1)
    }
}

impl fmt::Display for FrameRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2}", self.fps())
    }
}

/// What cameras and encoders really do.
const USUAL: [FrameRate; 14] = [
    FrameRate::new(10, 1),
    FrameRate::new(12, 1),
    FrameRate::new(15000, 1001),
    FrameRate::new(15, 1),
    FrameRate::new(20, 1),
    FrameRate::new(24000, 1001),
    FrameRate::new(24, 1),
    FrameRate::new(25, 1),
    FrameRate::new(30000, 1001),
    FrameRate::new(30, 1),
    FrameRate::new(50, 1),
    FrameRate::new(60000, 1001),
    FrameRate::new(60, 1),
    FrameRate::new(120, 1),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_measured_rate_becomes_the_one_that_was_meant() {
        for (fps, numerator, denominator) in [
            (23.98, 24000, 1001),
            (24.001, 24, 1),
            (25.05, 25, 1),
            (29.97, 30000, 1001),
            (29.98, 30000, 1001),
            (30.02, 30, 1),
            (59.94, 60000, 1001),
            (60.1, 60, 1),
            (48.0, 48000, 1000),
            (17.3, 17300, 1000),
        ] {
            assert_eq!(
                FrameRate::nominal(fps),
                Some(FrameRate::new(numerator, denominator)),
                "{fps}"
            );
        }
        for fps in [0.0, 0.5, 1000.0, f64::NAN, f64::INFINITY, -30.0] {
            assert_eq!(FrameRate::nominal(fps), None, "{fps}");
        }
        assert_eq!(FrameRate::new(30, 0).interval_us(), 33_333);
        assert_eq!(FrameRate::new(0, 1).interval_us(), 1_000_000);
    }
}

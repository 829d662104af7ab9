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

    /// What a stream declares, exact where it is within 0.1 % of a usual rate, else rounded to a thousandth. `None`
    /// outside 1 to 240.
    pub fn nominal(fps: f64) -> Option<Self> {
        let nearest = Self::nearest(fps)?;
        if (nearest.fps() - fps).abs() <= fps * 0.0004 {
            return Some(nearest);
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between 1,000 and 240,000"
        )]
        Some(Self::new((fps * 1000.0).round() as u32, 1000))
    }

    /// The usual rate that a measured one means (23.976 and 24 differ by 0.1 %: the nearest wins). `None` if it is
    /// not within 5 % of one: phones in the dark do 17 fps.
    pub fn usual(fps: f64) -> Option<Self> {
        Self::nearest(fps).filter(|nearest| (nearest.fps() - fps).abs() <= fps * 0.05)
    }

    fn nearest(fps: f64) -> Option<Self> {
        let distance = |rate: &Self| (rate.fps() - fps).abs();
        (1.0..=240.0).contains(&fps).then(|| {
            USUAL
                .into_iter()
                .min_by(|a, b| distance(a).total_cmp(&distance(b)))
        })?
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
        for (fps, expected) in [
            (23.98, Some((24000, 1001))),
            (24.001, Some((24, 1))),
            (25.05, Some((25, 1))),
            (29.97, Some((30000, 1001))),
            (29.98, Some((30000, 1001))),
            (30.02, Some((30, 1))),
            (59.94, Some((60000, 1001))),
            (60.1, Some((60, 1))),
            (17.3, None),
            (200.0, None),
            (0.0, None),
            (f64::NAN, None),
            (f64::INFINITY, None),
            (-30.0, None),
        ] {
            let rate = expected.map(|(n, d)| FrameRate::new(n, d));
            assert_eq!(FrameRate::usual(fps), rate, "{fps}");
        }
    }

    #[test]
    fn a_declared_rate_is_kept() {
        for (fps, expected) in [
            (30000.0 / 1001.0, Some((30000, 1001))),
            (29.97, Some((30000, 1001))),
            (30.0, Some((30, 1))),
            (48.0, Some((48000, 1000))),
            (0.5, None),
            (1000.0, None),
            (f64::NAN, None),
        ] {
            let rate = expected.map(|(n, d)| FrameRate::new(n, d));
            assert_eq!(FrameRate::nominal(fps), rate, "{fps}");
        }
        assert_eq!(FrameRate::new(30, 0).interval_us(), 33_333);
        assert_eq!(FrameRate::new(0, 1).interval_us(), 1_000_000);
    }
}

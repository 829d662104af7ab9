//! What a line measures: percentiles of the last seconds for people, histograms since start for graphs. Pure.

use std::collections::VecDeque;

use super::snapshot::{HistogramSnapshot, Percentiles};

/// The values of the last 10 s, microseconds.
#[derive(Clone, Debug, Default)]
pub(super) struct Recent {
    values: VecDeque<(i64, i64)>,
}

impl Recent {
    /// Notes a value.
    pub(super) fn note(&mut self, value_us: i64, now_us: i64) {
        self.forget(now_us);
        if self.values.len() >= VALUES_MAX {
            self.values.pop_front();
        }
        self.values.push_back((now_us, value_us));
    }

    /// The value that `permille` of them do not exceed.
    pub(super) fn percentile_us(&self, permille: usize, now_us: i64) -> Option<i64> {
        percentile(&self.sorted(now_us), permille)
    }

    /// Three of them, in milliseconds.
    pub(super) fn percentiles(&self, now_us: i64) -> Percentiles {
        let sorted = self.sorted(now_us);
        let at = |permille| percentile(&sorted, permille).map(to_ms);
        Percentiles {
            p50: at(500),
            p95: at(950),
            p99: at(990),
        }
    }

    /// How many of the last 10 s.
    pub(super) fn count(&self, now_us: i64) -> usize {
        let from_us = now_us - RECENT_US;
        self.values
            .iter()
            .filter(|(at_us, _)| *at_us >= from_us)
            .count()
    }

    fn sorted(&self, now_us: i64) -> Vec<i64> {
        let from_us = now_us - RECENT_US;
        let mut values: Vec<i64> = (self.values.iter())
            .filter(|(at_us, _)| *at_us >= from_us)
            .map(|(_, value_us)| *value_us)
            .collect();
        values.sort_unstable();
        values
    }

    fn forget(&mut self, now_us: i64) {
        while let Some((at_us, _)) = self.values.front()
            && *at_us < now_us - RECENT_US
        {
            self.values.pop_front();
        }
    }
}

/// Counts since start, by size.
#[derive(Clone, Debug)]
pub(super) struct Histogram {
    hop: &'static str,
    counts: [u64; BOUNDS_MS.len() + 1],
    sum_us: i64,
}

impl Histogram {
    pub(super) const fn new(hop: &'static str) -> Self {
        Self {
            hop,
            counts: [0; BOUNDS_MS.len() + 1],
            sum_us: 0,
        }
    }

    /// Notes a value; a negative one counts as 0.
    pub(super) fn note(&mut self, value_us: i64) {
        let value_us = value_us.max(0);
        let bucket = BOUNDS_MS.partition_point(|bound_ms| bound_ms * 1000 < value_us);
        if let Some(count) = self.counts.get_mut(bucket) {
            *count += 1;
        }
        self.sum_us = self.sum_us.saturating_add(value_us);
    }

    #[expect(clippy::cast_precision_loss, reason = "milliseconds and sums of them")]
    pub(super) fn snapshot(&self) -> HistogramSnapshot {
        let mut below = 0;
        let buckets = (BOUNDS_MS.iter().zip(&self.counts))
            .map(|(bound_ms, count)| {
                below += count;
                (*bound_ms as f64 / 1e3, below)
            })
            .collect();
        HistogramSnapshot {
            hop: self.hop,
            buckets,
            sum: self.sum_us as f64 / 1e6,
            count: self.counts.iter().sum(),
        }
    }
}

/// Milliseconds, to a hundredth.
#[expect(clippy::cast_precision_loss, reason = "times of the last seconds")]
pub(super) fn to_ms(us: i64) -> f64 {
    ((us as f64) / 10.0).round() / 100.0
}

fn percentile(sorted: &[i64], permille: usize) -> Option<i64> {
    let last = sorted.len().checked_sub(1)?;
    sorted.get((last * permille).div_ceil(1000)).copied()
}

const RECENT_US: i64 = 10_000_000;

/// 10 s at 120 fps, and sound.
const VALUES_MAX: usize = 2_048;

/// From under one picture to the longest delay there is.
const BOUNDS_MS: [i64; 13] = [1, 2, 5, 10, 20, 33, 50, 100, 200, 500, 1_000, 2_000, 5_000];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_last_ten_seconds() {
        let mut recent = Recent::default();
        assert_eq!(recent.percentiles(0), Percentiles::default());
        recent.note(9_000_000, 0);
        for n in 1..=100 {
            recent.note(n * 1_000, 1_000_000 + n);
        }
        let later = recent.percentiles(10_500_000);
        assert_eq!(
            (later.p50, later.p95, later.p99),
            (Some(51.0), Some(96.0), Some(100.0))
        );
        assert_eq!(recent.percentile_us(0, 10_500_000), Some(1_000));
        assert_eq!(recent.count(10_500_000), 100);
        assert_eq!(recent.percentiles(30_000_000), Percentiles::default());
    }

    #[test]
    fn a_histogram_counts_up_to_and_including_its_bounds() {
        let mut histogram = Histogram::new("decode");
        for value_us in [-5, 500, 1_000, 1_001, 60_000_000] {
            histogram.note(value_us);
        }
        let snapshot = histogram.snapshot();
        assert_eq!(snapshot.buckets[..2], [(0.001, 3), (0.002, 4)]);
        assert_eq!(snapshot.buckets.last(), Some(&(5.0, 4)));
        assert_eq!(snapshot.count, 5);
        assert!((snapshot.sum - 60.002_501).abs() < 1e-9);
    }
}

//! How fast one publisher is read: a bucket of a second's bytes, or messages. Pure: times are arguments, microseconds.

/// What a publisher may send, as an average of a second.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    per_second: i64,
    /// What it may still send at once; less than nothing when it was read ahead of its time.
    credit: i64,
    at_us: i64,
}

impl Pace {
    /// A full bucket.
    pub fn new(per_second: u64) -> Self {
        let per_second = i64::try_from(per_second).unwrap_or(i64::MAX).max(1);
        Self {
            per_second,
            credit: per_second,
            at_us: 0,
        }
    }

    /// So much was read.
    pub fn spend(&mut self, amount: usize, now_us: i64) {
        let elapsed_us = now_us.saturating_sub(self.at_us).clamp(0, SECOND_US);
        self.at_us = now_us;
        let earned = elapsed_us.saturating_mul(self.per_second) / SECOND_US;
        let full = self.per_second;
        let amount = i64::try_from(amount).unwrap_or(i64::MAX);
        self.credit = (self.credit.saturating_add(earned).min(full)).saturating_sub(amount);
    }

    /// Spends one, if there is one now.
    pub fn take(&mut self, now_us: i64) -> bool {
        let may = self.waits_until_us().is_none_or(|at_us| at_us <= now_us);
        if may {
            self.spend(1, now_us);
        }
        may
    }

    /// When it may be read again; `None`: now.
    pub fn waits_until_us(&self) -> Option<i64> {
        let debt = self.credit.checked_neg().filter(|debt| *debt > 0)?;
        let wait_us = debt.saturating_mul(SECOND_US) / self.per_second;
        Some(self.at_us.saturating_add(wait_us))
    }
}

const SECOND_US: i64 = 1_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads 64 KiB whenever it may, for so many seconds; the answer is the average in bytes a second.
    fn read_greedily(pace: &mut Pace, seconds: i64) -> i64 {
        let (mut now_us, mut total) = (0, 0);
        while now_us < seconds * SECOND_US {
            pace.spend(65_536, now_us);
            total += 65_536;
            now_us = pace.waits_until_us().unwrap_or(now_us).max(now_us + 50);
        }
        total / seconds
    }

    #[test]
    fn a_publisher_is_read_no_faster_than_its_rate_and_as_fast_as_that() {
        for rate in [125_000, 2_500_000, 25_000_000] {
            let mut pace = Pace::new(rate);
            let average = read_greedily(&mut pace, 20);
            let rate = i64::try_from(rate).unwrap();
            // The bucket was full: a second's worth comes on top.
            assert!(
                average >= rate && average <= rate + rate / 10,
                "{average} of {rate}"
            );
        }
    }

    #[test]
    fn what_is_taken_one_by_one_is_bounded_too() {
        let mut pace = Pace::new(3);
        let ms = (0..20_000).filter(|ms| pace.take(ms * 1_000)).count();
        assert!((60..=64).contains(&ms), "{ms} in 20 s");
    }

    #[test]
    fn a_burst_of_a_second_is_not_held_up() {
        let mut pace = Pace::new(1_000_000);
        pace.spend(1_000_000, 5);
        assert_eq!(pace.waits_until_us(), None);
        pace.spend(1_000, 5);
        assert_eq!(pace.waits_until_us(), Some(1_005));
        pace.spend(0, 5 + SECOND_US);
        assert_eq!(pace.waits_until_us(), None);
    }
}

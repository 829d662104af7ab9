//! How long to wait before trying again: capped, jittered, and never two owners.
//!
//! No clock and no random source: the caller gives the randomness and does the waiting.

use std::time::Duration;

/// Doubles from `min` to `max`; each wait is jittered to between half and all of it, so that the studios that
/// a relay's restart cut off do not come back in one instant.
#[derive(Clone, Debug)]
pub struct Backoff {
    min: Duration,
    max: Duration,
    next: Duration,
}

impl Backoff {
    /// A fresh start. `min` and `max` are the first and the longest wait.
    pub const fn new(min: Duration, max: Duration) -> Self {
        Self {
            min,
            max,
            next: min,
        }
    }

    /// The wait before the next try. `random` is any number, evenly distributed.
    pub fn next_wait(&mut self, random: u32) -> Duration {
        let wait = self.next;
        self.next = wait.saturating_mul(2).min(self.max);
        wait.mul_f64(0.5 + 0.5 * f64::from(random) / f64::from(u32::MAX))
    }

    /// It worked: the next failure starts from the shortest wait.
    pub const fn reset(&mut self) {
        self.next = self.min;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_cap_and_start_over() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
        let waits: Vec<_> = (0..7)
            .map(|_| backoff.next_wait(u32::MAX).as_millis())
            .collect();
        assert_eq!(waits, [100, 200, 400, 800, 1600, 2000, 2000]);
        assert_eq!(
            backoff.next_wait(0).as_millis(),
            1000,
            "jitter takes at most half"
        );
        backoff.reset();
        assert_eq!(backoff.next_wait(u32::MAX).as_millis(), 100);
    }
}

//! How a track's time goes on, and how much data may come in a time. Pure.

/// Whether a track's time goes on as time does.
#[derive(Debug, Default)]
pub(super) struct TrackTime {
    /// Arrival, µs, and media time, ms, of the last unit.
    last: Option<(i64, i64)>,
}

impl TrackTime {
    pub(super) fn is_fresh(&self, now_us: i64) -> bool {
        self.last
            .is_some_and(|(then_us, _)| now_us.saturating_sub(then_us) < FRESH_US)
    }

    /// Notes a unit. `true`: its time has nothing to do with the last one's.
    pub(super) fn jumps(&mut self, now_us: i64, dts_ms: i64) -> bool {
        let last = self.last.replace((now_us, dts_ms));
        last.is_some_and(|(then_us, last_ms)| {
            let step_ms = dts_ms.saturating_sub(last_ms);
            let passed_ms = now_us.saturating_sub(then_us).max(0) / 1_000;
            step_ms < -BACKWARD_MAX_MS || step_ms > passed_ms.saturating_add(FORWARD_MAX_MS)
        })
    }
}

/// How many units of data may still come this second.
#[derive(Debug, Default)]
pub(super) struct DataBudget {
    since_us: Option<i64>,
    taken: u32,
}

impl DataBudget {
    pub(super) fn take(&mut self, now_us: i64) -> bool {
        let is_new = self
            .since_us
            .is_none_or(|since_us| now_us.saturating_sub(since_us) >= 1_000_000);
        if is_new {
            *self = Self {
                since_us: Some(now_us),
                taken: 0,
            };
        }
        self.taken = self.taken.saturating_add(1);
        self.taken <= DATA_PER_SECOND_MAX
    }
}

/// A track that has been silent for longer may have become something else.
const FRESH_US: i64 = 1_000_000;

/// Encoders that start a track anew or wrap at 24 bits go back by much more; none reorders by as much.
const BACKWARD_MAX_MS: i64 = 1_000;

/// A pause of the encoder passes in real time, too; what leaps ahead of real time by this much is another clock.
const FORWARD_MAX_MS: i64 = 10_000;

/// Two timecodes for each picture of 60 a second.
const DATA_PER_SECOND_MAX: u32 = 120;

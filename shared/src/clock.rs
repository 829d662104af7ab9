//! The process's monotonic clock as a number: microseconds since it was first asked.
//!
//! Pure modules take such a number as an argument; only their callers name this module.

use std::{
    sync::OnceLock,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// Microseconds of this process's monotonic clock.
pub fn now_us() -> i64 {
    static START: OnceLock<Instant> = OnceLock::new();
    let elapsed = START.get_or_init(Instant::now).elapsed();
    i64::try_from(elapsed.as_micros()).unwrap_or(i64::MAX)
}

/// Microseconds since the Unix epoch, to compare what several programs of one machine have measured.
pub fn unix_now_us() -> i64 {
    let elapsed = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);
    i64::try_from(elapsed.as_micros()).unwrap_or(i64::MAX)
}

/// Seconds since the Unix epoch, for dates that people and files see.
pub fn unix_now() -> i64 {
    let elapsed = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);
    i64::try_from(elapsed.as_secs()).unwrap_or(i64::MAX)
}

//! Clocks and counters: what a process used, and how late things came.

use std::{
    fs,
    sync::{Mutex, OnceLock, PoisonError},
    time::Instant,
};

use anyhow::Context;
use bytes::Bytes;
use serde::Serialize;

use super::feed;
use crate::watch::Spread;

/// Microseconds since the first call in this process.
pub fn now_us() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    let elapsed = START.get_or_init(Instant::now).elapsed();
    u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX)
}

/// Processor time that a process has used, seconds: the sum over its threads, to the nanosecond.
pub fn cpu_seconds(pid: u32) -> anyhow::Result<f64> {
    let mut total_ns = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let path = task?.path().join("schedstat");
        // A thread that ended between the two reads has no more file; it had next to nothing left to add.
        let Ok(text) = fs::read_to_string(&path) else {
            continue;
        };
        total_ns += text
            .split_whitespace()
            .next()
            .and_then(|ns| ns.parse::<u64>().ok())
            .with_context(|| format!("{}: {text:?}", path.display()))?;
    }
    #[expect(clippy::cast_precision_loss, reason = "a measurement")]
    Ok(total_ns as f64 / 1e9)
}

/// Counts arrivals between two moments.
#[derive(Debug, Default)]
pub struct Arrivals {
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    open: bool,
    units: u64,
    bytes: u64,
    delays_ms: Vec<f64>,
}

impl Arrivals {
    /// A payload arrived.
    pub fn add(&self, payload: &Bytes) {
        let arrived_us = now_us();
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if counts.open {
            counts.units += 1;
            counts.bytes += payload.len() as u64;
            if let Some(sent_us) = feed::sent_us(payload) {
                #[expect(clippy::cast_precision_loss, reason = "a measurement")]
                counts
                    .delays_ms
                    .push(arrived_us.saturating_sub(sent_us) as f64 / 1000.0);
            }
        }
    }

    /// From now on.
    pub fn open(&self) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        *counts = Counts {
            open: true,
            ..Counts::default()
        };
    }

    /// Until now: units, gigabits, delay.
    pub fn close(&self) -> (u64, f64, Option<Spread>) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.open = false;
        #[expect(clippy::cast_precision_loss, reason = "a measurement")]
        let gigabits = counts.bytes as f64 * 8.0 / 1e9;
        (
            counts.units,
            gigabits,
            Spread::of(std::mem::take(&mut counts.delays_ms)),
        )
    }
}

/// One window of one hop.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Sample {
    /// Units that arrived.
    pub units: u64,
    /// Processor seconds of the hop for each gigabit that arrived.
    pub cpu_s_per_gbit: f64,
    /// From sent to arrived.
    pub delay_ms: Spread,
}

/// The middle of some values; the lower of two.
pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len().saturating_sub(1) / 2).copied()
}

//! A rate that varies like a phone's: a trace for [`Rate::Trace`](super::link::Rate::Trace), made, not recorded. Pure: the
//! same wish and seed give the same trace.
//!
//! - The logarithm of the rate follows an Ornstein-Uhlenbeck process around the wished mean.
//! - Fades (the edge of a cell, a bus between): Poisson, of exponential length, the rate multiplied by their depth, with
//!   ramps of 200 ms.
//! - What has accumulated is granted in bursts some milliseconds apart, as a radio's scheduler does.
//!
//! This is an invention that was fitted to nothing. Times are milliseconds here and microseconds in the trace, rates Mbit/s
//! of whole packets.

use super::link::Random;

/// What is wished.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lte {
    /// How long until it repeats, seconds.
    pub seconds: u32,
    /// Mean rate outside the fades, Mbit/s.
    pub mean_mbps: f64,
    /// Standard deviation of the rate's natural logarithm.
    pub sigma: f64,
    /// How long it remembers, seconds.
    pub memory_s: f64,
    /// Seconds from one fade to the next on average.
    pub fade_every_s: f64,
    /// How long a fade is on average, seconds.
    pub fade_s: f64,
    /// What a fade leaves of the rate, 0 to 1.
    pub fade_depth: f64,
    /// Milliseconds from one burst to the next on average.
    pub burst_ms: f64,
}

impl Default for Lte {
    fn default() -> Self {
        Self {
            seconds: 60,
            mean_mbps: 12.0,
            sigma: 0.45,
            memory_s: 3.0,
            fade_every_s: 25.0,
            fade_s: 1.2,
            fade_depth: 0.08,
            burst_ms: 4.0,
        }
    }
}

impl Lte {
    /// When 1,500 bytes may go, microseconds; the last one is the period.
    pub fn trace(&self, seed: u64) -> Vec<i64> {
        let mut random = Random::new(seed);
        let length_ms = i64::from(self.seconds) * 1_000;
        let fades = self.fades(length_ms, &mut random);
        let keeps = 1.0 / (self.memory_s * 1_000.0);
        let step = self.sigma * (2.0 * keeps).sqrt();
        let middle = self.mean_mbps.ln() - self.sigma * self.sigma / 2.0;
        let mut off = self.sigma * random.normal();
        let mut credit = 0.0;
        let mut times = Vec::new();
        for now_ms in 0..length_ms {
            off += step * random.normal() - keeps * off;
            let deepest = (fades.iter())
                .map(|(from_ms, to_ms)| ramp(now_ms, *from_ms, *to_ms))
                .fold(0.0, f64::max);
            let gain = self.fade_depth.max(f64::MIN_POSITIVE).powf(deepest);
            credit += (middle + off).exp() * gain * PACKETS_PER_MS_AT_1_MBPS;
            if random.fraction() * self.burst_ms < 1.0 {
                while credit >= 1.0 {
                    credit -= 1.0;
                    times.push(now_ms * 1_000);
                }
            }
        }
        times.push(length_ms * 1_000);
        times
    }

    /// From when to when.
    #[expect(clippy::cast_possible_truncation, reason = "milliseconds of minutes")]
    fn fades(&self, length_ms: i64, random: &mut Random) -> Vec<(i64, i64)> {
        let mut fades = Vec::new();
        let mut now_ms = 0;
        if self.fade_every_s <= 0.0 {
            return fades;
        }
        loop {
            now_ms += (random.exponential(self.fade_every_s) * 1_000.0) as i64;
            let fade_ms = (random.exponential(self.fade_s) * 1_000.0) as i64;
            if now_ms >= length_ms {
                return fades;
            }
            fades.push((now_ms, now_ms + fade_ms));
            now_ms += fade_ms;
        }
    }
}

/// How much of a fade there is, 0 to 1.
#[expect(clippy::cast_precision_loss, reason = "milliseconds of minutes")]
fn ramp(now_ms: i64, from_ms: i64, to_ms: i64) -> f64 {
    let before = (now_ms - from_ms + RAMP_MS) as f64 / RAMP_MS as f64;
    let after = (to_ms + RAMP_MS - now_ms) as f64 / RAMP_MS as f64;
    before.min(after).clamp(0.0, 1.0)
}

const RAMP_MS: i64 = 200;

/// Of 1,500 bytes.
const PACKETS_PER_MS_AT_1_MBPS: f64 = 125.0 / 1_500.0;

#[cfg(test)]
mod tests {
    use super::*;

    /// Mbit/s of each second.
    fn rates(times: &[i64]) -> Vec<f64> {
        let mut packets = vec![0_u32; 60];
        for time_us in times.iter().filter(|time_us| **time_us < 60_000_000) {
            packets[usize::try_from(time_us / 1_000_000).unwrap()] += 1;
        }
        packets
            .iter()
            .map(|count| f64::from(*count) * 0.012)
            .collect()
    }

    #[test]
    fn the_rate_varies_around_its_mean_and_fades() {
        let times = Lte::default().trace(1);
        assert!(times.is_sorted());
        assert_eq!(times.last(), Some(&60_000_000));
        let mut rates = rates(&times);
        let mean = rates.iter().sum::<f64>() / 60.0;
        assert!((7.0..17.0).contains(&mean), "{mean}");
        rates.sort_by(f64::total_cmp);
        assert!(rates[0] < mean / 3.0 && rates[59] > mean * 1.3, "{rates:?}");
    }

    #[test]
    fn the_same_seed_is_the_same_trace_and_another_is_another() {
        let lte = Lte::default();
        assert_eq!(lte.trace(7), lte.trace(7));
        assert_ne!(lte.trace(7), lte.trace(8));
    }
}

//! What a viewer of an output saw and heard: pure accounting over arrivals, for tests and the demo.
//!
//! All times are microseconds of one wall clock, the source's and the viewer's alike. No I/O, no clock: the caller says
//! when something arrived.
//!
//! Sound: a sample of a block that arrived at t is heard at t plus its place in the block, as if played on arrival. Beeps
//! begin on whole seconds at the source ([`crate::source`]), so their delay is known modulo one second; the picture's
//! delay says which.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::stamp::Reading;

/// Takes arrivals, answers with a [`Report`].
#[derive(Debug, Default)]
pub struct Watch {
    sources: BTreeMap<u8, Seen>,
    pictures: u64,
    unstamped: u64,
    damaged: u64,
    formats: BTreeMap<String, u64>,
    audio_blocks: u64,
    audio_formats: BTreeMap<String, u64>,
    ear: Ear,
    connected: bool,
    connects: u32,
    drops: u32,
}

/// Every picture of one source that arrived, in the order of arrival.
#[derive(Debug, Default)]
struct Seen {
    arrivals: Vec<Arrival>,
}

#[derive(Clone, Copy, Debug)]
struct Arrival {
    number: u32,
    stamped_us: u64,
    arrived_us: u64,
    timecode_us: i64,
}

/// Finds the onsets of beeps.
#[derive(Debug)]
struct Ear {
    quiet_samples: u64,
    onsets: Vec<Onset>,
}

#[derive(Clone, Copy, Debug)]
struct Onset {
    heard_us: u64,
    timecode_us: i64,
}

impl Default for Ear {
    fn default() -> Self {
        Self {
            quiet_samples: u64::MAX / 2,
            onsets: Vec::new(),
        }
    }
}

impl Watch {
    /// A picture arrived. `timecode_us` is the sender's media clock.
    pub fn picture(&mut self, arrived_us: u64, reading: Reading, timecode_us: i64, format: &str) {
        self.pictures += 1;
        count(&mut self.formats, format);
        match reading {
            Reading::Absent => self.unstamped += 1,
            Reading::Damaged => self.damaged += 1,
            Reading::Stamp(stamp) => {
                self.sources
                    .entry(stamp.source)
                    .or_default()
                    .arrivals
                    .push(Arrival {
                        number: stamp.number,
                        stamped_us: stamp.wall_us,
                        arrived_us,
                        timecode_us,
                    });
            }
        }
    }

    /// A block of sound arrived; `samples` is one channel.
    pub fn sound(
        &mut self,
        arrived_us: u64,
        samples: &[f32],
        sample_rate: u32,
        timecode_us: i64,
        format: &str,
    ) {
        self.audio_blocks += 1;
        count(&mut self.audio_formats, format);
        let rate = u64::from(sample_rate.max(1));
        for (index, sample) in (0_u64..).zip(samples) {
            if sample.abs() <= SILENCE {
                self.ear.quiet_samples = self.ear.quiet_samples.saturating_add(1);
                continue;
            }
            if self.ear.quiet_samples >= rate / 4 {
                let into_us = index * 1_000_000 / rate;
                self.ear.onsets.push(Onset {
                    heard_us: arrived_us + into_us,
                    timecode_us: timecode_us.saturating_add_unsigned(into_us),
                });
            }
            self.ear.quiet_samples = 0;
        }
    }

    /// The state of the connection, as often as one likes.
    pub fn connection(&mut self, connected: bool) {
        self.connects += u32::from(connected && !self.connected);
        self.drops += u32::from(!connected && self.connected);
        self.connected = connected;
    }

    /// What was seen and heard so far.
    pub fn report(&self) -> Report {
        Report {
            pictures: self.pictures,
            unstamped: self.unstamped,
            damaged: self.damaged,
            sources: self
                .sources
                .iter()
                .map(|(source, seen)| (*source, self.source_report(seen)))
                .collect(),
            formats: self.formats.clone(),
            audio_blocks: self.audio_blocks,
            audio_formats: self.audio_formats.clone(),
            beeps: self.ear.onsets.len(),
            connects: self.connects,
            drops: self.drops,
        }
    }

    fn source_report(&self, seen: &Seen) -> SourceReport {
        let arrivals = &seen.arrivals;
        let mut report = SourceReport::default();
        for arrival in arrivals {
            report.first.get_or_insert(arrival.number);
            match report.last {
                Some(last) if arrival.number == last => report.repeated += 1,
                Some(last) if arrival.number < last => report.backwards += 1,
                Some(last) => {
                    report.missing += arrival.number - last - 1;
                    if arrival.number > last + 1 && report.holes.len() < HOLES_MAX {
                        report.holes.push((last + 1, arrival.number - 1));
                    }
                    report.last = Some(arrival.number);
                    report.pictures += 1;
                }
                None => {
                    report.last = Some(arrival.number);
                    report.pictures += 1;
                }
            }
        }

        // A held picture is sent again and again: only its first arrival says something about delay.
        let fresh: Vec<_> = arrivals
            .iter()
            .enumerate()
            .filter(|(index, arrival)| *index == 0 || arrivals[index - 1].number != arrival.number)
            .map(|(_, arrival)| *arrival)
            .collect();
        let delays = fresh
            .iter()
            .map(|a| ms(a.arrived_us, a.stamped_us))
            .collect();
        report.delay_ms = Spread::of(delays);
        report.gap_ms = Spread::of(
            fresh
                .windows(2)
                .map(|pair| ms(pair[1].arrived_us, pair[0].arrived_us))
                .collect(),
        );
        if let Some(delay) = report.delay_ms {
            report.av_offset_ms = self.av_offset_ms(&fresh, delay.p50);
            report.av_offset_timecode_ms = self.av_offset_timecode_ms(&fresh);
        }
        report
    }

    /// Sound delay minus picture delay, medians.
    fn av_offset_ms(&self, fresh: &[Arrival], picture_ms: f64) -> Option<f64> {
        let (from, to) = (fresh.first()?.arrived_us, fresh.last()?.arrived_us);
        let offsets = self
            .ear
            .onsets
            .iter()
            .filter(|onset| (from..=to).contains(&onset.heard_us))
            .map(|onset| {
                let phase_ms = ms(onset.heard_us % 1_000_000, 0);
                nearest_to_zero(phase_ms - picture_ms)
            })
            .collect();
        Some(Spread::of(offsets)?.p50)
    }

    /// The same by the sender's timecodes: where a beep lies on the pictures' own clock.
    fn av_offset_timecode_ms(&self, fresh: &[Arrival]) -> Option<f64> {
        let lead = |timecode_us: i64, wall_us: u64| {
            ms_signed(timecode_us - i64::try_from(wall_us).unwrap_or(0))
        };
        let pictures = fresh
            .iter()
            .map(|a| lead(a.timecode_us, a.stamped_us))
            .collect();
        let picture_lead = Spread::of(pictures)?.p50;
        let (from, to) = (fresh.first()?.arrived_us, fresh.last()?.arrived_us);
        let offsets = self
            .ear
            .onsets
            .iter()
            .filter(|onset| (from..=to).contains(&onset.heard_us))
            .map(|onset| nearest_to_zero(ms_signed(onset.timecode_us) - picture_lead))
            .collect();
        Some(Spread::of(offsets)?.p50)
    }
}

/// The whole account.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// All pictures.
    pub pictures: u64,
    /// Of these, without a stamp: cards.
    pub unstamped: u64,
    /// Of these, with a broken one.
    pub damaged: u64,
    /// By the source's number.
    pub sources: BTreeMap<u8, SourceReport>,
    /// How many pictures of which size, pixel format and rate.
    pub formats: BTreeMap<String, u64>,
    /// Blocks of sound.
    pub audio_blocks: u64,
    /// How many blocks of which kind.
    pub audio_formats: BTreeMap<String, u64>,
    /// Beeps heard.
    pub beeps: usize,
    /// How often the connection was made.
    pub connects: u32,
    /// How often it broke.
    pub drops: u32,
}

/// The account of one source's stamped pictures.
#[derive(Clone, Debug, Default, Serialize)]
pub struct SourceReport {
    /// Different pictures that arrived in order.
    pub pictures: u32,
    /// Number of the first.
    pub first: Option<u32>,
    /// Number of the newest.
    pub last: Option<u32>,
    /// Numbers between first and newest that never came, or came too late to be in order.
    pub missing: u32,
    /// The first of these holes, from and to.
    pub holes: Vec<(u32, u32)>,
    /// Arrivals of the picture that was there already.
    pub repeated: u32,
    /// Arrivals of an older picture than the one before.
    pub backwards: u32,
    /// Stamping to arrival.
    pub delay_ms: Option<Spread>,
    /// Between arrivals of different pictures.
    pub gap_ms: Option<Spread>,
    /// Sound later than picture when positive, at arrival, median.
    pub av_offset_ms: Option<f64>,
    /// The same on the sender's media clock.
    pub av_offset_timecode_ms: Option<f64>,
}

/// Percentiles of something, milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// Median.
    pub p50: f64,
    /// 95 of 100 are at most this.
    pub p95: f64,
    /// 99 of 100 are at most this.
    pub p99: f64,
    /// The largest.
    pub max: f64,
}

impl Spread {
    /// `None` of nothing.
    pub fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let at = |percent: usize| {
            values
                .get((values.len() * percent / 100).min(values.len().saturating_sub(1)))
                .copied()
        };
        Some(Self {
            p50: at(50)?,
            p95: at(95)?,
            p99: at(99)?,
            max: at(100)?,
        })
    }
}

fn count(counts: &mut BTreeMap<String, u64>, name: &str) {
    if let Some(count) = counts.get_mut(name) {
        *count += 1;
    } else {
        counts.insert(name.to_owned(), 1);
    }
}

fn ms(later_us: u64, earlier_us: u64) -> f64 {
    ms_signed(later_us.cast_signed() - earlier_us.cast_signed())
}

#[expect(
    clippy::cast_precision_loss,
    reason = "microseconds since 1970 fit 53 bits until 2255"
)]
fn ms_signed(us: i64) -> f64 {
    us as f64 / 1000.0
}

/// Of all values a whole number of seconds apart, the one nearest to zero.
fn nearest_to_zero(value_ms: f64) -> f64 {
    (value_ms + 500.0).rem_euclid(1000.0) - 500.0
}

/// Enough to see where it began.
const HOLES_MAX: usize = 16;
/// Below this a sample is silence; the beep is at half of full scale.
const SILENCE: f32 = 0.1;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stamp::Stamp;

    const START_US: u64 = 1_795_000_000_000_000;

    fn show(watch: &mut Watch, arrived_us: u64, number: u32, delay_us: u64) {
        let stamp = Stamp {
            wall_us: arrived_us - delay_us,
            number,
            source: 1,
        };
        watch.picture(arrived_us, Reading::Stamp(stamp), 0, "1280x720");
    }

    #[test]
    fn missing_repeated_and_backward_pictures_are_told_apart() {
        let mut watch = Watch::default();
        for (index, number) in (0..).zip([0, 1, 1, 4, 3, 5]) {
            show(&mut watch, START_US + index * 33_000, number, 100_000);
        }
        let report = &watch.report().sources[&1];
        assert_eq!(
            (
                report.pictures,
                report.missing,
                report.repeated,
                report.backwards
            ),
            (4, 2, 1, 1)
        );
    }

    #[test]
    fn delay_and_gaps_are_measured_at_first_arrival() {
        let mut watch = Watch::default();
        for index in 0..100_u32 {
            show(
                &mut watch,
                START_US + u64::from(index) * 40_000,
                index,
                150_000,
            );
        }
        let report = &watch.report().sources[&1];
        assert_eq!(report.delay_ms.map(|delay| delay.p99), Some(150.0));
        assert_eq!(report.gap_ms.map(|gap| gap.p95), Some(40.0));
    }

    /// A second of sound in blocks of 20 ms, with a beep that is heard `delay_ms` after each whole second.
    fn beeps(watch: &mut Watch, seconds: u64, delay_ms: u64) {
        for block in 0..seconds * 50 {
            let arrived_us = START_US + block * 20_000;
            let samples: Vec<f32> = (0..960)
                .map(|sample| {
                    let heard_us = arrived_us + sample * 1_000_000 / 48_000;
                    let source_us = heard_us - delay_ms * 1000;
                    if source_us % 1_000_000 < 50_000 {
                        0.5
                    } else {
                        0.0
                    }
                })
                .collect();
            watch.sound(arrived_us, &samples, 48_000, 0, "48000 Hz");
        }
    }

    #[test]
    fn sound_that_is_later_than_the_picture_gives_a_positive_offset() {
        let mut watch = Watch::default();
        for index in 0..150_u32 {
            show(
                &mut watch,
                START_US + u64::from(index) * 33_333,
                index,
                150_000,
            );
        }
        beeps(&mut watch, 5, 180);
        let report = watch.report();
        assert_eq!(report.beeps, 5);
        let offset = report.sources[&1].av_offset_ms.unwrap();
        assert!((offset - 30.0).abs() < 0.1, "{offset}");
    }

    #[test]
    fn a_broken_connection_is_counted_once() {
        let mut watch = Watch::default();
        for connected in [false, true, true, false, false, true] {
            watch.connection(connected);
        }
        let report = watch.report();
        assert_eq!((report.connects, report.drops), (2, 1));
    }
}

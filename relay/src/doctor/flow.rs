//! How the feed comes in: how much the encoder makes, how much its uplink carries, and how far behind that leaves it.

use std::collections::VecDeque;

use firstmile_shared::media::{AccessUnit, MediaKind};

use super::{Report, Side, in_last_minute, megabits, remember, seconds, times};

#[derive(Debug, Default)]
pub(super) struct Flow {
    /// How it stood four times a second, lately.
    samples: VecDeque<Sample>,
    now: Sample,
    /// The youngest unit since the last examination.
    least_lag_us: Option<i64>,
    lag_us: i64,
    /// When an upload stood still, and for how long.
    stalls: VecDeque<(i64, i64)>,
}

/// Sums since the start.
#[derive(Clone, Copy, Debug, Default)]
struct Sample {
    at_us: i64,
    /// Media time that has come, jumps left out.
    media_us: i64,
    bytes: u64,
    video_bytes: u64,
}

/// What came within the last seconds.
#[derive(Clone, Copy, Debug)]
struct Rates {
    /// Bits a second of the way here.
    carried_bps: u64,
    /// Bits a second of the media.
    made_bps: u64,
    /// Media time for each second, thousandths.
    pace_permille: i64,
}

impl Flow {
    /// `step_us`: by how much the unit's media time went on; `None` if that is not known, or it jumped.
    pub(super) fn observe(
        &mut self,
        unit: &AccessUnit,
        now_us: i64,
        step_us: Option<i64>,
        lag_us: i64,
    ) {
        let waited_us = now_us.saturating_sub(self.now.at_us);
        let step_us = step_us.unwrap_or(0);
        // The media went on while nothing came: it was held back. An encoder that makes nothing holds nothing back.
        if self.now.bytes > 0 && waited_us >= STALL_US && step_us < waited_us / 2 {
            remember(&mut self.stalls, now_us, waited_us);
        }
        let is_video = unit.kind() == MediaKind::Video;
        let len = unit.payload.len() as u64;
        self.now.at_us = now_us;
        self.now.bytes += len;
        self.now.video_bytes += if is_video { len } else { 0 };
        self.now.media_us = self.now.media_us.saturating_add(step_us.max(0));
        self.least_lag_us = Some(self.least_lag_us.map_or(lag_us, |least| least.min(lag_us)));
        if (self.samples.back()).is_none_or(|last| now_us.saturating_sub(last.at_us) >= SAMPLE_US) {
            self.samples.push_back(self.now);
            while self.samples.len() > SAMPLES_MAX {
                self.samples.pop_front();
            }
        }
    }

    /// Of the picture, as the encoder makes it.
    pub(super) fn video_bps(&self) -> Option<u64> {
        let first = self.samples.front()?;
        let media_us = self.now.media_us - first.media_us;
        (media_us >= RATE_MIN_US).then(|| bps(self.now.video_bytes - first.video_bytes, media_us))
    }

    /// `wanted_bps`: more than that would be of no use to pictures of that size. The answer: whether a rate was named to
    /// set.
    pub(super) fn examine(
        &mut self,
        report: &mut Report<'_>,
        now_us: i64,
        wanted_bps: Option<u64>,
    ) -> bool {
        let mut names_rate = false;
        let who = report.who.to_owned();
        let silent_us = now_us.saturating_sub(self.now.at_us);
        if let Some(least_us) = self.least_lag_us.take() {
            self.lag_us = least_us;
        }
        if silent_us >= SILENT_US {
            let whole = silent_us / 1_000_000 * 1_000_000;
            report.error(
                "stalled",
                Side::Uplink,
                &format!(
                    "nothing has come from {who} for {}: its uplink stands still, or it was paused",
                    seconds(whole)
                ),
            );
        } else {
            names_rate = self.examine_lag(report, now_us, wanted_bps);
        }
        let stalls = in_last_minute(&mut self.stalls, now_us);
        if stalls > 0 {
            let longest_us = self.stalls.iter().map(|(_, us)| *us).max().unwrap_or(0);
            report.warn(
                "upload_stalls",
                Side::Uplink,
                &format!(
                    "the uplink of {who} stood still {} in the last minute, for up to {}: find it a better network, or \
                     give the line a delay of more than that",
                    times(stalls),
                    seconds(longest_us)
                ),
            );
        }
        names_rate
    }

    fn examine_lag(&self, report: &mut Report<'_>, now_us: i64, wanted_bps: Option<u64>) -> bool {
        let delay_us = report.case.delay_us;
        if self.lag_us < (delay_us / 2).max(LAG_MIN_US) {
            return false;
        }
        let to_set = |bps| to_set(bps).min(wanted_bps.unwrap_or(u64::MAX));
        let mut names_rate = true;
        let behind = format!("{} is {} behind", report.who, seconds(self.lag_us));
        let rates = self.rates(now_us);
        let text = match rates {
            Some(rates) if rates.pace_permille >= CATCHES_UP_PERMILLE => {
                names_rate = false;
                let left_us = self.lag_us * 1_000 / (rates.pace_permille - 1_000);
                format!(
                    "{behind} and catches up: live again in about {} s",
                    left_us / 1_000_000 + 1
                )
            }
            Some(rates) if rates.carried_bps < rates.made_bps * 97 / 100 => format!(
                "{behind}: its uplink carries {} of {} Mbit/s, set {}",
                megabits(rates.carried_bps),
                megabits(rates.made_bps),
                megabits(to_set(rates.carried_bps))
            ),
            Some(rates) => format!(
                "{behind} and does not catch up: its uplink carries its {} Mbit/s and no more, set {}, or start it again",
                megabits(rates.made_bps),
                megabits(to_set(rates.carried_bps))
            ),
            None => {
                names_rate = false;
                behind
            }
        };
        if self.lag_us > delay_us {
            report.error("behind", Side::Uplink, &text);
        } else {
            report.warn("behind", Side::Uplink, &text);
        }
        names_rate
    }

    fn rates(&self, now_us: i64) -> Option<Rates> {
        let first = (self.samples.iter())
            .find(|sample| now_us.saturating_sub(sample.at_us) <= RATE_WINDOW_US)?;
        let passed_us = now_us - first.at_us;
        let media_us = self.now.media_us - first.media_us;
        let bytes = self.now.bytes - first.bytes;
        (passed_us >= RATE_MIN_US && media_us > 0).then(|| Rates {
            carried_bps: bps(bytes, passed_us),
            made_bps: bps(bytes, media_us),
            pace_permille: media_us.saturating_mul(1_000) / passed_us,
        })
    }
}

/// Three quarters and a little: room for sound, for what RTMP adds, and for catching up. In tenths of a megabit.
const fn to_set(carried_bps: u64) -> u64 {
    let tenths = carried_bps * 78 / 100 / 100_000;
    if tenths == 0 {
        100_000
    } else {
        tenths * 100_000
    }
}

fn bps(bytes: u64, us: i64) -> u64 {
    let us = u64::try_from(us).unwrap_or(0).max(1);
    u64::try_from(u128::from(bytes) * 8_000_000 / u128::from(us)).unwrap_or(u64::MAX)
}

const SAMPLE_US: i64 = 250_000;
const SAMPLES_MAX: usize = 41;
const RATE_WINDOW_US: i64 = 5_000_000;
const RATE_MIN_US: i64 = 2_500_000;

/// An uplink that is this much quicker than the stream.
const CATCHES_UP_PERMILLE: i64 = 1_030;

/// Nobody sees less, whatever the delay.
const LAG_MIN_US: i64 = 300_000;

/// A phone that changes its cell takes less.
const STALL_US: i64 = 1_000_000;

/// A stalled publisher, while it lasts.
const SILENT_US: i64 = 2_000_000;

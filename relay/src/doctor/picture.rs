//! The pictures: their size and colours, their rate and its regularity, keyframes, B-frames, bits.

use std::collections::VecDeque;

use bytes::Bytes;
use firstmile_shared::media::{AccessUnit, CodecConfig, look::Look};

use super::{Report, Side, TIME_MAX_US, megabits, seconds};

#[derive(Debug, Default)]
pub(super) struct Pictures {
    last_us: Option<i64>,
    /// The record, and what it says.
    config: Option<(Bytes, Option<CodecConfig>)>,
    look: Option<Look>,
    /// From picture to picture, of the last seconds of media.
    steps: VecDeque<i64>,
    steps_us: i64,
    last_dts_us: Option<i64>,
    keyframe_dts_us: Option<i64>,
    /// From keyframe to keyframe, the last few.
    gops: VecDeque<i64>,
    /// How long pictures wait for later ones, the last few.
    offsets: VecDeque<i64>,
}

impl Pictures {
    /// When the last one came.
    pub(super) const fn last_us(&self) -> Option<i64> {
        self.last_us
    }

    /// `step_us`: `None` if media time jumped.
    pub(super) fn observe(&mut self, unit: &AccessUnit, now_us: i64, step_us: Option<i64>) {
        self.last_us = Some(now_us);
        if let Some(record) = &unit.config
            && self
                .config
                .as_ref()
                .is_none_or(|(known, _)| known != record)
        {
            self.config = Some((record.clone(), unit.parsed_config()));
            self.look = None;
        }
        if unit.keyframe
            && let Some((_, Some(config))) = &self.config
        {
            self.look = config.look(&unit.payload);
        }
        let before_us = self.last_dts_us.replace(unit.dts_us);
        let Some(before_us) = before_us.filter(|_| step_us.is_some()) else {
            self.keyframe_dts_us = unit.keyframe.then_some(unit.dts_us);
            return;
        };
        let step_us = unit.dts_us.saturating_sub(before_us).min(STEPS_US);
        if step_us > 0 {
            self.steps.push_back(step_us);
            self.steps_us += step_us;
            while self.steps_us > STEPS_US || self.steps.len() > STEPS_MAX {
                self.steps_us -= self.steps.pop_front().unwrap_or(self.steps_us);
            }
        }
        keep(&mut self.offsets, unit.cts_us.into(), OFFSETS_MAX);
        if unit.keyframe
            && let Some(key_us) = self.keyframe_dts_us.replace(unit.dts_us)
        {
            keep(
                &mut self.gops,
                (unit.dts_us.saturating_sub(key_us)).clamp(0, TIME_MAX_US),
                GOPS_MAX,
            );
        }
    }

    pub(super) fn examine(&self, report: &mut Report<'_>) {
        self.examine_format(report);
        self.examine_colours(report);
        self.examine_rate(report);
        self.examine_keyframes(report);
        self.examine_order(report);
    }

    /// What pictures of this size and rate need, bits a second.
    pub(super) fn wanted_bps(&self) -> Option<u64> {
        Some(wanted_bps(&self.look?, &self.rate()?))
    }

    /// Against what a picture of this size and rate needs. `video_bps` is what the encoder makes.
    pub(super) fn examine_bitrate(&self, report: &mut Report<'_>, video_bps: Option<u64>) {
        let (Some(look), Some(video_bps), Some(rate)) = (self.look, video_bps, self.rate()) else {
            return;
        };
        let (width, height) = look.size;
        let wanted_bps = wanted_bps(&look, &rate);
        #[expect(clippy::cast_precision_loss, reason = "a rate of bits")]
        let per_pixel = video_bps as f64 / pixels(&look, &rate).max(1.0);
        let is_high =
            (per_pixel > BITS_PER_PIXEL_MAX && video_bps > HIGH_MIN_BPS) || video_bps > HIGH_BPS;
        let what = format!(
            "{} sends {} Mbit/s for {width}x{height} at {}",
            report.who,
            megabits(video_bps),
            shown_fps(rate.fps)
        );
        if is_high {
            report.warn(
                "bitrate_high",
                Side::Encoder,
                &format!(
                    "{what}: nobody sees more than {} of it and its uplink has to carry all; set {}",
                    megabits(wanted_bps.saturating_mul(2)),
                    megabits(wanted_bps)
                ),
            );
        } else if per_pixel < BITS_PER_PIXEL_MIN {
            report.warn(
                "bitrate_low",
                Side::Encoder,
                &format!(
                    "{what}: whatever moves looks coarse; set {}, or a smaller picture",
                    megabits(wanted_bps)
                ),
            );
        }
    }

    fn examine_format(&self, report: &mut Report<'_>) {
        let Some(look) = self.look else {
            return;
        };
        let (width, height) = look.size;
        let size = format!("{width}x{height}");
        let who = report.who.to_owned();
        match report.case.show {
            Some(show) if (show.width, show.height) != look.size => {
                let turned = (show.width > show.height) != (width > height);
                let what = if turned { "turn it, and set" } else { "set" };
                report.warn(
                    "resolution",
                    Side::Encoder,
                    &format!(
                        "{who} sends {size}, the show is {}x{}: {what} {}x{}",
                        show.width, show.height, show.width, show.height
                    ),
                );
            }
            None if height > width => report.warn(
                "resolution",
                Side::Encoder,
                &format!("{who} sends an upright picture of {size}: turn it"),
            ),
            _ => {}
        }
        if look.interlaced && report.case.show.is_none_or(|show| !show.interlaced) {
            report.note(
                "interlaced",
                Side::Encoder,
                &format!(
                    "{who} sends interlaced pictures, which are shown as they are: set progressive"
                ),
            );
        }
    }

    fn examine_colours(&self, report: &mut Report<'_>) {
        let Some(look) = self.look else {
            return;
        };
        let who = report.who.to_owned();
        if look.colour.full_range {
            report.warn(
                "colour_range",
                Side::Encoder,
                &format!(
                    "{who} sends full-range (PC) colours: black and white are not where the studio has them; set limited \
                     (TV) range"
                ),
            );
        }
        match look.colour.description {
            None | Some((2, _, _) | (_, _, 2)) => report.note(
                "colour_unknown",
                Side::Encoder,
                &format!("{who} does not say which colours it sends, BT.709 is assumed: set BT.709 (Rec. 709)"),
            ),
            Some((_, transfer @ (16 | 18), _)) => {
                let name = if transfer == 16 { "PQ" } else { "HLG" };
                report.warn(
                    "hdr",
                    Side::Encoder,
                    &format!("{who} sends HDR ({name}): in a show of BT.709 it looks pale; set SDR, BT.709 (Rec. 709)"),
                );
            }
            Some((_, _, 5 | 6)) if look.size.1 >= 720 => report.note(
                "colour_sd",
                Side::Encoder,
                &format!("{who} sends the colours of SD (BT.601) in an HD picture: set BT.709 (Rec. 709)"),
            ),
            Some(_) => {}
        }
    }

    fn examine_rate(&self, report: &mut Report<'_>) {
        let Some(rate) = self.rate() else {
            return;
        };
        let who = report.who.to_owned();
        let shown = shown_fps(rate.fps);
        let wanted = report.case.show.map(|show| {
            let (frames, seconds) = show.rate;
            let whole = f64::from(frames) / f64::from(seconds.max(1));
            (whole, if show.interlaced { whole / 2.0 } else { whole })
        });
        let is_near = |wanted: f64| (rate.fps - wanted).abs() <= wanted * 0.02;
        if rate.fps < FPS_MIN && !wanted.is_some_and(|(a, b)| is_near(a) || is_near(b)) {
            let set = wanted.map_or_else(|| "25 or more".to_owned(), |(fps, _)| shown_fps(fps));
            report.warn(
                "frame_rate",
                Side::Encoder,
                &format!("{who} sends {shown} pictures a second, whatever moves jerks: set {set}, and give it light"),
            );
        } else if let Some((whole, half)) = wanted
            && !is_near(whole)
            && !is_near(half)
        {
            report.warn(
                "frame_rate",
                Side::Encoder,
                &format!(
                    "{who} sends {shown} pictures a second, the show has {}: set {}, or some are shown twice or never",
                    shown_fps(whole),
                    shown_fps(whole)
                ),
            );
        }
        if rate.uneven_percent >= UNEVEN_PERCENT {
            report.warn(
                "irregular_rate",
                Side::Encoder,
                &format!(
                    "{who} sends {shown} pictures a second on average, but up to {} ms apart: set a constant frame rate, \
                     and give it light",
                    rate.longest_us / 1_000
                ),
            );
        }
    }

    fn examine_keyframes(&self, report: &mut Report<'_>) {
        let running_us = match (self.last_dts_us, self.keyframe_dts_us) {
            (Some(last_us), Some(key_us)) => last_us.saturating_sub(key_us),
            _ => 0,
        };
        let longest_us = self.gops.iter().copied().max().unwrap_or(0);
        let gop_us = longest_us.max(running_us);
        if gop_us <= GOP_US {
            return;
        }
        let who = report.who;
        let text = if running_us > longest_us {
            format!(
                "{who} has sent no keyframe for {}: set one every second, or each return freezes as long",
                seconds(running_us / 1_000_000 * 1_000_000)
            )
        } else {
            format!(
                "{who} sends a keyframe every {}: set 1 s, or each return freezes up to {}",
                seconds(gop_us),
                seconds(gop_us)
            )
        };
        report.warn("keyframe_interval", Side::Encoder, &text);
    }

    fn examine_order(&self, report: &mut Report<'_>) {
        let longest_us = self.offsets.iter().copied().max().unwrap_or(0);
        if longest_us <= 0 || self.offsets.len() < OFFSETS_MAX / 2 {
            return;
        }
        let text = format!(
            "{} sends B-frames, which hold each picture back by up to {} ms: set none (zero latency)",
            report.who,
            longest_us / 1_000
        );
        if longest_us >= OFFSET_US {
            report.warn("b_frames", Side::Encoder, &text);
        } else {
            report.note("b_frames", Side::Encoder, &text);
        }
    }

    fn rate(&self) -> Option<Rate> {
        let count = self.steps.len();
        if count < STEPS_MIN || self.steps_us < RATE_MIN_US {
            return None;
        }
        let mut steps: Vec<i64> = self.steps.iter().copied().collect();
        steps.sort_unstable();
        let median_us = steps[count / 2];
        // RTMP counts milliseconds.
        let slack_us = (median_us * 35 / 100).max(4_000);
        let uneven = (steps.iter())
            .filter(|step| (**step - median_us).abs() > slack_us)
            .count();
        #[expect(
            clippy::cast_precision_loss,
            reason = "seconds and a count of pictures"
        )]
        let fps = count as f64 * 1e6 / self.steps_us as f64;
        Some(Rate {
            fps,
            longest_us: steps[count - 1],
            uneven_percent: uneven * 100 / count,
        })
    }
}

/// Pixels a second.
fn pixels(look: &Look, rate: &Rate) -> f64 {
    f64::from(look.size.0) * f64::from(look.size.1) * rate.fps
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rate of bits"
)]
fn wanted_bps(look: &Look, rate: &Rate) -> u64 {
    (pixels(look, rate) * BITS_PER_PIXEL).max(1e6) as u64
}

#[derive(Clone, Copy, Debug)]
struct Rate {
    fps: f64,
    longest_us: i64,
    /// Of a hundred steps, those that are far from the median.
    uneven_percent: usize,
}

fn keep(values: &mut VecDeque<i64>, value: i64, most: usize) {
    if values.len() == most {
        values.pop_front();
    }
    values.push_back(value);
}

/// "25", "29.97": the rate that is meant, if it is one that is known.
fn shown_fps(fps: f64) -> String {
    const KNOWN: [(f64, &str); 12] = [
        (15.0, "15"),
        (20.0, "20"),
        (23.976, "23.98"),
        (24.0, "24"),
        (25.0, "25"),
        (29.97, "29.97"),
        (30.0, "30"),
        (48.0, "48"),
        (50.0, "50"),
        (59.94, "59.94"),
        (60.0, "60"),
        (120.0, "120"),
    ];
    let nearest = (KNOWN.iter()).min_by(|a, b| (a.0 - fps).abs().total_cmp(&(b.0 - fps).abs()));
    match nearest {
        Some((known, name)) if (known - fps).abs() <= known * 0.0004 => (*name).to_owned(),
        _ => {
            let text = format!("{fps:.1}");
            text.trim_end_matches(".0").to_owned()
        }
    }
}

/// Ten seconds of media.
const STEPS_US: i64 = 10_000_000;
const STEPS_MAX: usize = 1_200;
const STEPS_MIN: usize = 6;
const RATE_MIN_US: i64 = 3_000_000;

/// Below it the eye sees single pictures.
const FPS_MIN: f64 = 18.0;
const UNEVEN_PERCENT: usize = 10;

/// Encoders that were set to 2 or 3 s do so more or less.
const GOP_US: i64 = 3_300_000;
const GOPS_MAX: usize = 5;

/// Four pictures at 30 a second.
const OFFSET_US: i64 = 130_000;
const OFFSETS_MAX: usize = 60;

/// 6.2 Mbit/s for 1080p30.
const BITS_PER_PIXEL: f64 = 0.1;
/// 1.2 Mbit/s for 1080p30.
const BITS_PER_PIXEL_MIN: f64 = 0.02;
/// 22 Mbit/s for 1080p30.
const BITS_PER_PIXEL_MAX: f64 = 0.35;
const HIGH_MIN_BPS: u64 = 6_000_000;
const HIGH_BPS: u64 = 40_000_000;

//! The feed's times: whether they go on as they should, and how far sound and picture are apart on the way.

use std::collections::VecDeque;

use firstmile_shared::media::{AccessUnit, MediaKind};

use super::{Report, Side, TIME_MAX_US, in_last_minute, remember, seconds, times};

#[derive(Debug, Default)]
pub(super) struct Timing {
    video_us: Option<i64>,
    audio_us: Option<i64>,
    /// The newest of both.
    newest_us: Option<i64>,
    /// When times went backwards, and by how much.
    backwards: VecDeque<(i64, i64)>,
    /// When they jumped, and by how much.
    jumps: VecDeque<(i64, i64)>,
    /// The newest picture's time less the sound's, whenever sound comes: (when, by how much).
    gaps: VecDeque<(i64, i64)>,
}

impl Timing {
    /// By how much media time went on with this unit; `None` for the first, and where it jumped.
    pub(super) fn observe(&mut self, unit: &AccessUnit, now_us: i64) -> Option<i64> {
        let is_video = unit.kind() == MediaKind::Video;
        let last = if is_video {
            &mut self.video_us
        } else {
            &mut self.audio_us
        };
        let before_us = last.replace(unit.dts_us);
        if let Some(before_us) = before_us {
            let step_us = (unit.dts_us.saturating_sub(before_us)).clamp(-TIME_MAX_US, TIME_MAX_US);
            if unit.discontinuity {
                // Sound and picture jump together: one jump.
                let is_new = (self.jumps.back())
                    .is_none_or(|(at_us, _)| now_us.saturating_sub(*at_us) > JUMP_US);
                if is_new {
                    remember(&mut self.jumps, now_us, step_us);
                }
            } else if step_us < 0 || (step_us == 0 && is_video) {
                remember(&mut self.backwards, now_us, -step_us);
            }
        }
        if unit.discontinuity {
            self.gaps.clear();
            // What the other kind sent before the jump is on another clock.
            let other = if is_video {
                &mut self.audio_us
            } else {
                &mut self.video_us
            };
            if other.is_some_and(|us| us.abs_diff(unit.dts_us) > JUMP_US.unsigned_abs()) {
                *other = None;
            }
            self.newest_us = Some(unit.dts_us);
            return None;
        }
        if !is_video && let Some(video_us) = self.video_us {
            if self.gaps.len() == GAPS_MAX {
                self.gaps.pop_front();
            }
            self.gaps.push_back((
                now_us,
                (video_us.saturating_sub(unit.dts_us)).clamp(-TIME_MAX_US, TIME_MAX_US),
            ));
        }
        let newest_us = self.newest_us.get_or_insert(unit.dts_us);
        let step_us = (unit.dts_us.saturating_sub(*newest_us)).clamp(0, TIME_MAX_US);
        *newest_us = (*newest_us).max(unit.dts_us);
        Some(step_us)
    }

    pub(super) fn examine(&mut self, report: &mut Report<'_>, now_us: i64) {
        let who = report.who.to_owned();
        let jumps = in_last_minute(&mut self.jumps, now_us);
        if let Some((_, by_us)) = self.jumps.back().filter(|_| jumps > 0) {
            let direction = if *by_us < 0 { "back" } else { "ahead" };
            report.warn(
                "timestamp_jumps",
                Side::Encoder,
                &format!(
                    "the clock of {who} jumped {} in the last minute, last by {} {direction}: each jump is seen; update \
                     it or start it again",
                    times(jumps),
                    seconds(by_us.saturating_abs())
                ),
            );
        }
        let backwards = in_last_minute(&mut self.backwards, now_us);
        if backwards >= BACKWARDS_MIN {
            report.warn(
                "timestamps_backwards",
                Side::Encoder,
                &format!(
                    "{who} sends times that stand still or go back, {} in the last minute: pictures stutter; update it or \
                     start it again",
                    if backwards < super::REMEMBERED_MAX {
                        times(backwards)
                    } else {
                        "again and again".to_owned()
                    }
                ),
            );
        }
        self.examine_gap(report, now_us);
    }

    fn examine_gap(&self, report: &mut Report<'_>, now_us: i64) {
        let mut gaps: Vec<i64> = (self.gaps.iter())
            .filter(|(at_us, _)| now_us.saturating_sub(*at_us) <= GAP_WINDOW_US)
            .map(|(_, gap_us)| *gap_us)
            .collect();
        if gaps.len() < GAPS_MIN {
            return;
        }
        gaps.sort_unstable();
        let gap_us = gaps[gaps.len() / 2];
        if gap_us.abs() < GAP_US {
            return;
        }
        let (late, early) = if gap_us > 0 {
            ("its sound", "the picture")
        } else {
            ("its pictures", "the sound")
        };
        let apart = format!(
            "{} sends {late} {} after {early} they belong to",
            report.who,
            seconds(gap_us.abs())
        );
        if gap_us.abs() > report.case.delay_us {
            report.error(
                "interleaving",
                Side::Encoder,
                &format!(
                    "{apart}: that is more than the delay of {}, so {late} can't be shown; set a longer delay, or its \
                     audio and video buffers alike",
                    seconds(report.case.delay_us)
                )
                .replace("its sound can't be shown", "its sound can't be heard"),
            );
        } else {
            report.warn(
                "interleaving",
                Side::Encoder,
                &format!("{apart}: so much less of the delay is left for the network; set its audio and video buffers alike"),
            );
        }
    }
}

/// Sound and picture are this far apart at the most, when both jump.
const JUMP_US: i64 = 1_000_000;

const BACKWARDS_MIN: usize = 3;

/// Sound is interleaved with pictures by a keyframe or two at the most.
const GAP_US: i64 = 300_000;
const GAP_WINDOW_US: i64 = 5_000_000;
const GAPS_MIN: usize = 20;
const GAPS_MAX: usize = 256;

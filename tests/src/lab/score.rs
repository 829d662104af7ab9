//! What a viewer would have seen and heard, told from when each unit arrived. Pure.
//!
//! A picture is *shown* when it and all that it refers to have arrived by its capture + D: all reference pictures since its
//! keyframe. Whatever comes later is never shown late, so a missing picture is a frozen one. A unit that never came has an
//! endless delay: who drops a lot looks no quicker for it.
//!
//! Times are microseconds of one clock, from the capture on.

use serde::{Deserialize, Serialize};

/// A picture of the measured time, in the order of decoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Picture {
    /// When the camera took it.
    pub captured_us: i64,
    /// Refers to none before it.
    pub is_keyframe: bool,
    /// None refers to it.
    pub is_disposable: bool,
    /// When it was whole at the studio.
    pub arrived_us: Option<i64>,
}

/// A block of sound of the measured time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// When the microphone took it.
    pub captured_us: i64,
    /// When it was whole at the studio.
    pub arrived_us: Option<i64>,
}

/// All units of one feed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Take {
    /// Pictures.
    pub pictures: Vec<Picture>,
    /// Sound.
    pub blocks: Vec<Block>,
}

/// In short.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// Pictures that were taken.
    pub pictures: usize,
    /// Pictures that came, whenever.
    pub arrived: usize,
    /// Pictures on time at D with all that they refer to.
    pub shown: usize,
    /// The longest time without a new picture, beyond the interval of two pictures.
    pub freeze_ms: f64,
    /// From capture to arrival.
    pub picture_ms: Delays,
    /// Likewise, of sound.
    pub audio_ms: Delays,
    /// Blocks of sound.
    pub blocks: usize,
    /// Blocks of sound that came by their capture + D.
    pub heard: usize,
}

/// Percentiles; `None`: it never came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Delays {
    /// Half of them.
    pub p50: Option<f64>,
    /// 95 of 100.
    pub p95: Option<f64>,
    /// 99 of 100.
    pub p99: Option<f64>,
    /// All of them.
    pub max: Option<f64>,
}

impl Take {
    /// In short, at this delay.
    pub fn score(&self, delay_us: i64) -> Score {
        let shown = self.shown(delay_us);
        let pictures =
            (self.pictures.iter()).map(|picture| (picture.captured_us, picture.arrived_us));
        let blocks = (self.blocks.iter()).map(|block| (block.captured_us, block.arrived_us));
        Score {
            pictures: self.pictures.len(),
            arrived: pictures.clone().filter(|(_, at)| at.is_some()).count(),
            shown: shown.iter().filter(|is_shown| **is_shown).count(),
            freeze_ms: ms(self.freeze_us(&shown)),
            picture_ms: Delays::of(pictures),
            audio_ms: Delays::of(blocks.clone()),
            blocks: self.blocks.len(),
            heard: blocks
                .filter(|(captured_us, at)| at.is_some_and(|at_us| at_us <= captured_us + delay_us))
                .count(),
        }
    }

    /// Which pictures are shown.
    pub fn shown(&self, delay_us: i64) -> Vec<bool> {
        // When all that the next picture refers to is there.
        let mut ready_us = None;
        (self.pictures.iter())
            .map(|picture| {
                let before_us = if picture.is_keyframe {
                    Some(i64::MIN)
                } else {
                    ready_us
                };
                let own_us = before_us
                    .zip(picture.arrived_us)
                    .map(|(before_us, arrived_us)| before_us.max(arrived_us));
                if !picture.is_disposable {
                    ready_us = own_us;
                }
                own_us.is_some_and(|own_us| own_us <= picture.captured_us + delay_us)
            })
            .collect()
    }

    /// From `moment_us` to the capture of the last picture that is not shown, 0 when all later ones are.
    pub fn whole_again_us(&self, moment_us: i64, delay_us: i64) -> i64 {
        let last = (self.pictures.iter().zip(self.shown(delay_us)))
            .rfind(|(picture, is_shown)| !is_shown && picture.captured_us >= moment_us);
        last.map_or(0, |(picture, _)| picture.captured_us - moment_us)
    }

    /// From `moment_us` to the first sound that arrives then and on time; `None`: it never did.
    pub fn heard_again_us(&self, moment_us: i64, delay_us: i64) -> Option<i64> {
        (self.blocks.iter())
            .filter_map(|block| {
                let at_us = block.arrived_us?;
                (at_us >= moment_us && at_us <= block.captured_us + delay_us).then_some(at_us)
            })
            .min()
            .map(|at_us| at_us - moment_us)
    }

    /// From `moment_us` to the first picture that arrives then and is shown; `None`: there is none.
    pub fn seen_again_us(&self, moment_us: i64, delay_us: i64) -> Option<i64> {
        (self.pictures.iter().zip(self.shown(delay_us)))
            .filter(|(_, is_shown)| *is_shown)
            .filter_map(|(picture, _)| picture.arrived_us.filter(|at_us| *at_us >= moment_us))
            .min()
            .map(|at_us| at_us - moment_us)
    }

    fn freeze_us(&self, shown: &[bool]) -> i64 {
        let (Some(first), Some(last)) = (self.pictures.first(), self.pictures.last()) else {
            return 0;
        };
        let interval_us =
            (self.pictures.get(1)).map_or(0, |second| second.captured_us - first.captured_us);
        let mut since_us = first.captured_us - interval_us;
        let mut longest_us = 0;
        for (picture, _) in (self.pictures.iter().zip(shown)).filter(|(_, is_shown)| **is_shown) {
            longest_us = longest_us.max(picture.captured_us - since_us - interval_us);
            since_us = picture.captured_us;
        }
        let longest_us = longest_us.max(last.captured_us - since_us);
        // RTMP's times are whole milliseconds, so intervals differ by one.
        if longest_us <= 1_000 { 0 } else { longest_us }
    }
}

impl Delays {
    fn of(units: impl Iterator<Item = (i64, Option<i64>)>) -> Self {
        let mut delays: Vec<i64> = units
            .map(|(captured_us, at)| at.map_or(i64::MAX, |at_us| at_us - captured_us))
            .collect();
        delays.sort_unstable();
        let at = |permille: usize| {
            let last = delays.len().checked_sub(1)?;
            let delay_us = delays.get((last * permille).div_ceil(1_000))?;
            (*delay_us != i64::MAX).then(|| ms(*delay_us))
        };
        Self {
            p50: at(500),
            p95: at(950),
            p99: at(990),
            max: at(1_000),
        }
    }
}

/// Milliseconds, to a tenth.
#[expect(clippy::cast_precision_loss, reason = "times of minutes")]
pub fn ms(us: i64) -> f64 {
    (us as f64 / 100.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    const D: i64 = 600_000;

    /// Pictures each 100 ms, `k`ey, `p` (reference) or `b` (disposable), with their delays in ms.
    fn take(pictures: &[(char, Option<i64>)]) -> Take {
        let pictures = (0..).zip(pictures).map(|(n, (kind, delay_ms))| Picture {
            captured_us: n * 100_000,
            is_keyframe: *kind == 'k',
            is_disposable: *kind == 'b',
            arrived_us: delay_ms.map(|ms| n * 100_000 + ms * 1_000),
        });
        Take {
            pictures: pictures.collect(),
            blocks: Vec::new(),
        }
    }

    #[test]
    fn a_picture_needs_its_references_by_its_own_time_and_no_disposable_one() {
        let on_time = Some(50);
        for (pictures, shown) in [
            (vec![('k', on_time), ('p', on_time)], vec![true, true]),
            (
                vec![('k', None), ('p', on_time), ('k', on_time)],
                vec![false, false, true],
            ),
            // Late for itself, in time for the second after it.
            (
                vec![('k', Some(750)), ('p', on_time), ('p', on_time)],
                vec![false, false, true],
            ),
            (
                vec![('k', on_time), ('b', None), ('p', on_time)],
                vec![true, false, true],
            ),
            (
                vec![('k', on_time), ('p', None), ('b', on_time)],
                vec![true, false, false],
            ),
            (vec![('k', Some(600)), ('p', Some(601))], vec![true, false]),
        ] {
            assert_eq!(take(&pictures).shown(D), shown, "{pictures:?}");
        }
    }

    #[test]
    fn a_freeze_is_the_longest_time_without_a_new_picture() {
        let on_time = Some(50);
        for (pictures, freeze_ms) in [
            (vec![('k', on_time), ('p', on_time)], 0.0),
            (
                vec![('k', on_time), ('p', None), ('p', on_time), ('k', on_time)],
                200.0,
            ),
            (vec![('k', None), ('k', on_time)], 100.0),
            (vec![('k', on_time), ('k', None), ('k', None)], 200.0),
            (vec![('k', None), ('k', None)], 200.0),
        ] {
            let score = take(&pictures).score(D);
            assert!(
                (score.freeze_ms - freeze_ms).abs() < 0.1,
                "{pictures:?}: {score:?}"
            );
        }
    }

    #[test]
    fn what_never_came_has_an_endless_delay() {
        let pictures: Vec<_> = (0..100)
            .map(|n| ('k', (n % 10 != 0).then_some(40)))
            .collect();
        let score = take(&pictures).score(D);
        assert_eq!((score.shown, score.arrived), (90, 90));
        assert_eq!(score.picture_ms.p50, Some(40.0));
        assert_eq!(score.picture_ms.p95, None);
    }

    #[test]
    fn after_a_trouble_it_is_told_when_picture_and_sound_were_back() {
        let mut take = take(&[('k', Some(50)), ('k', None), ('k', None), ('k', Some(50))]);
        take.blocks = vec![
            // From before the trouble's end, on time; late; on time.
            Block {
                captured_us: 0,
                arrived_us: Some(90_000),
            },
            Block {
                captured_us: 0,
                arrived_us: Some(700_000),
            },
            Block {
                captured_us: 210_000,
                arrived_us: Some(230_000),
            },
        ];
        assert_eq!(take.whole_again_us(100_000, D), 100_000);
        assert_eq!(take.whole_again_us(250_000, D), 0);
        assert_eq!(take.heard_again_us(100_000, D), Some(130_000));
        assert_eq!(take.seen_again_us(100_000, D), Some(250_000));
        assert_eq!(take.heard_again_us(800_000, D), None);
    }
}

//! The sound of a source: one unbroken run of samples, whatever the feed does. Pure.
//!
//! A feed's blocks follow each other without a sample between them, however its time stamps wobble (RTMP has whole
//! milliseconds; a block of AAC is 21.33). Silence is put where the feed has none, and only there; what comes for a
//! stretch that was filled already is cut off.

mod fade;

pub(super) use self::fade::Fade;

/// Where the run ends, in due time.
#[derive(Clone, Debug, Default)]
pub(super) struct SoundRun {
    end_us: Option<i64>,
}

/// How a block joins the run. Frames are samples of one channel, at 48 kHz.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Join {
    /// When the first of what is played is due.
    pub(super) due_us: i64,
    /// Silence before the block.
    pub(super) silence: usize,
    /// Cut off the block's start; the whole block if it is longer.
    pub(super) cut: usize,
}

impl SoundRun {
    /// When a block that is due at `due_us` is to be played: with the run, if it continues it.
    pub(super) fn start_us(&self, due_us: i64) -> i64 {
        match self.end_us {
            Some(end_us) if (due_us - end_us).abs() <= WOBBLE_US => end_us,
            _ => due_us,
        }
    }

    /// Plays a block of `frames` that is due at `due_us`.
    pub(super) fn play(&mut self, due_us: i64, frames: usize) -> Join {
        let end_us = self.end_us.unwrap_or(due_us);
        let off_us = due_us.saturating_sub(end_us);
        if off_us.abs() <= WOBBLE_US {
            // The run follows the time stamps slowly, so that their wobble is not heard as jitter.
            self.end_us = Some(end_us + frames_to_us(frames) + off_us / FOLLOW);
            return Join {
                due_us: end_us,
                silence: 0,
                cut: 0,
            };
        }
        if off_us > 0 {
            // A gap longer than the hold is not filled by one block of silence but by many: see `silence_until`.
            let silence = us_to_frames(off_us.min(SILENCE_MAX_US));
            self.end_us = Some(due_us.saturating_add(frames_to_us(frames)));
            return Join {
                due_us: due_us - off_us.min(SILENCE_MAX_US),
                silence,
                cut: 0,
            };
        }
        let cut = us_to_frames(off_us.saturating_neg()).min(frames);
        self.end_us = Some(end_us + frames_to_us(frames - cut));
        Join {
            due_us: end_us,
            silence: 0,
            cut,
        }
    }

    /// A block of silence to play now because nothing else came: when it is due, and its frames.
    pub(super) fn silence(&mut self, now_us: i64, patience_us: i64) -> Option<(i64, usize)> {
        let end_us = *self.end_us.get_or_insert(now_us - BLOCK_US);
        if now_us.saturating_sub(end_us) < BLOCK_US + patience_us {
            return None;
        }
        // After a long sleep of this machine the run starts anew instead of catching up.
        let start_us = end_us.max(now_us - SILENCE_MAX_US);
        self.end_us = Some(start_us + BLOCK_US);
        Some((start_us, us_to_frames(BLOCK_US)))
    }

    /// When [`Self::silence`] is next to be asked.
    pub(super) fn silence_at_us(&self, patience_us: i64) -> Option<i64> {
        self.end_us.map(|end_us| end_us + BLOCK_US + patience_us)
    }
}

fn frames_to_us(frames: usize) -> i64 {
    i64::try_from(frames).unwrap_or(0) * 1000 / 48
}

fn us_to_frames(us: i64) -> usize {
    usize::try_from(us.max(0)).unwrap_or(0) * 48 / 1000
}

/// How far a time stamp may be off the run before it means a gap or an overlap: more than a block of AAC, so that a
/// single wrong one changes nothing, and less than anybody sees.
const WOBBLE_US: i64 = 30_000;

/// One eighth of each deviation is taken over: settles in half a second.
const FOLLOW: i64 = 8;

/// Silence comes in blocks of this length.
const BLOCK_US: i64 = 20_000;

/// The longest silence played at once.
const SILENCE_MAX_US: i64 = 200_000;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_feed_in_whole_milliseconds_is_played_without_a_seam() {
        let mut run = SoundRun::default();
        let mut last_us = None;
        for block in 0..5_000_i64 {
            let due_us = block * 1024 * 1000 / 48_000 * 1000;
            let start_us = run.start_us(due_us);
            let join = run.play(due_us, 1024);
            assert_eq!((join.silence, join.cut), (0, 0), "block {block}");
            assert_eq!(join.due_us, start_us);
            assert!(
                (join.due_us - due_us).abs() <= 1_000,
                "block {block}: {join:?}"
            );
            if let Some(last_us) = last_us {
                let step_us: i64 = join.due_us - last_us;
                assert!((step_us - 21_333).abs() < 300, "block {block}: {step_us}");
            }
            last_us = Some(join.due_us);
        }
    }

    #[test]
    fn gaps_are_filled_and_overlaps_cut() {
        // After a second of sound: (next block due at, ms; silence, cut, in frames)
        for (due_ms, silence, cut) in [
            (1_000, 0, 0),
            (1_020, 0, 0),
            (980, 0, 0),
            (1_100, 4_800, 0),
            (5_000, 9_600, 0),
            (960, 0, 1_920),
            (500, 0, 4_800),
        ] {
            let mut run = SoundRun::default();
            for block in 0..10 {
                run.play(block * 100_000, 4_800);
            }
            let join = run.play(due_ms * 1000, 4_800);
            assert_eq!((join.silence, join.cut), (silence, cut), "{due_ms}");
        }
    }

    #[test]
    fn silence_runs_while_there_is_no_feed_and_leaves_room_for_one() {
        let mut run = SoundRun::default();
        let mut played_us = 0;
        for now_ms in 0..1_000 {
            while let Some((due_us, frames)) = run.silence(now_ms * 1000, 0) {
                assert!(due_us <= now_ms * 1000);
                played_us += frames_to_us(frames);
            }
        }
        assert_eq!(played_us, 1_000_000);
        // A block that is due now joins without a seam.
        assert_eq!(run.play(1_000_000, 1024).silence, 0);
        // With a feed, it has a while to come.
        assert_eq!(run.silence(1_030_000, 60_000), None);
        assert_eq!(run.silence_at_us(60_000), Some(1_083_833));
        assert!(run.silence(1_084_000, 60_000).is_some());
    }

    proptest! {
        /// Whatever comes, what is played never runs backwards and never skips: each join starts where the last ended.
        #[test]
        fn the_run_has_no_seams(events in prop::collection::vec((-300_000..300_000_i64, 1..3_000usize, any::<bool>()), 1..100)) {
            let mut run = SoundRun::default();
            let (mut now_us, mut end_us) = (0, None::<i64>);
            for (step_us, frames, is_feed) in events {
                now_us += step_us.abs() / 4;
                let (due_us, played) = if is_feed {
                    let join = run.play(now_us + step_us, frames);
                    (join.due_us, join.silence + frames - join.cut)
                } else if let Some((due_us, frames)) = run.silence(now_us, 0) {
                    (due_us, frames)
                } else {
                    continue;
                };
                if let Some(end_us) = end_us {
                    // 200 ms of silence is the most that is made up at once, and the run follows the clock slowly.
                    prop_assert!(due_us >= end_us - WOBBLE_US / FOLLOW - 1, "{due_us} after {end_us}");
                }
                end_us = Some(due_us + frames_to_us(played));
            }
        }
    }
}

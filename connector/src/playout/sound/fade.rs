//! Where sound meets silence: no click. Pure.
//!
//! What ends, ends in 20 ms of its own echo, played backwards and faded out: the first of these samples is the last that
//! was heard, so nothing jumps, and silence begins as in a room. What begins is faded in. Where two stretches are joined
//! that did not follow each other, the one fades into the other.

use std::f32::consts::PI;

use crate::output::Sound;

/// What was played last, as far as a fade needs it.
#[derive(Debug)]
pub(in crate::playout) struct Fade {
    /// The last samples of each channel, [`FADE`] at most.
    tail: Vec<Vec<f32>>,
    /// Frames of what comes next that are still to be faded in.
    rising: usize,
}

impl Default for Fade {
    /// Before the first sound there was silence.
    fn default() -> Self {
        Self {
            tail: Vec::new(),
            rising: FADE,
        }
    }
}

impl Fade {
    /// Silence, with the end of what was played before.
    pub(in crate::playout) fn silence(&mut self, channels: usize, frames: usize) -> Sound {
        let channels = channels.max(1);
        let mut samples = vec![0.0; channels * frames];
        if self.tail.len() == channels {
            for (channel, tail) in samples.chunks_exact_mut(frames.max(1)).zip(&self.tail) {
                let len = FADE.min(frames).min(tail.len());
                for (n, (sample, echo)) in channel
                    .iter_mut()
                    .zip(tail.iter().rev())
                    .take(len)
                    .enumerate()
                {
                    *sample = echo * falling(n, len);
                }
            }
        }
        self.tail.clear();
        self.rising = FADE;
        Sound::planar(channels, samples)
    }

    /// The next block; `is_cut`: something was cut off its start, so it does not follow what was played.
    pub(in crate::playout) fn sound(&mut self, sound: Sound, is_cut: bool) -> Sound {
        let (channels, frames) = (sound.channels(), sound.frames());
        if self.tail.len() != channels {
            // Another layout is another sound.
            self.rising = FADE;
        }
        let mut samples = sound.into_samples();
        let rising = self.rising.min(FADE);
        for (at, channel) in samples.chunks_exact_mut(frames.max(1)).enumerate() {
            if rising > 0 {
                for (n, sample) in channel.iter_mut().take(rising).enumerate() {
                    *sample *= 1.0 - falling(FADE - rising + n, FADE);
                }
            } else if is_cut && let Some(tail) = self.tail.get(at) {
                let len = JOIN.min(tail.len());
                for (n, (sample, echo)) in channel
                    .iter_mut()
                    .zip(tail.iter().rev())
                    .take(len)
                    .enumerate()
                {
                    let falling = falling(n, len);
                    *sample = echo * falling + *sample * (1.0 - falling);
                }
            }
        }
        self.rising = rising.saturating_sub(frames);
        self.remember(channels, frames, &samples);
        Sound::planar(channels, samples)
    }

    fn remember(&mut self, channels: usize, frames: usize, samples: &[f32]) {
        if self.tail.len() != channels {
            self.tail = vec![Vec::new(); channels];
        }
        for (tail, channel) in self
            .tail
            .iter_mut()
            .zip(samples.chunks_exact(frames.max(1)))
        {
            let new = channel
                .get(frames.saturating_sub(FADE)..)
                .unwrap_or(channel);
            let old = (tail.len() + new.len()).saturating_sub(FADE);
            tail.drain(..old);
            tail.extend_from_slice(new);
        }
    }
}

/// From just below 1 to 0 over `len` frames, level at both ends.
#[expect(clippy::cast_precision_loss, reason = "a thousand frames")]
fn falling(n: usize, len: usize) -> f32 {
    f32::midpoint(1.0, (PI * (n + 1) as f32 / len.max(1) as f32).cos())
}

/// 20 ms: the length of a block of silence, so that a fade never spans two.
const FADE: usize = 960;

/// 5 ms: two stretches of one sound.
const JOIN: usize = 240;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[expect(clippy::cast_precision_loss, reason = "a few thousand samples")]
    /// A tone of half of full scale; its own largest step from sample to sample is 0.03.
    fn tone(from: usize, frames: usize) -> Sound {
        let samples =
            (from..from + frames).map(|n| (n as f32 * 440.0 * 2.0 * PI / 48_000.0).sin() * 0.5);
        let left: Vec<f32> = samples.collect();
        Sound::planar(2, [left.clone(), left].concat())
    }

    const STEP_MAX: f32 = 0.031;

    fn largest_step(samples: &[f32]) -> f32 {
        samples
            .windows(2)
            .map(|pair| (pair[1] - pair[0]).abs())
            .fold(0.0, f32::max)
    }

    #[test]
    fn the_end_of_a_sound_and_its_return_do_not_click() {
        for end in 1_024..1_200 {
            let mut fade = Fade::default();
            let mut heard = Vec::new();
            let mut hear = |sound: Sound| heard.extend_from_slice(sound.channel(1));
            hear(fade.silence(2, 960));
            hear(fade.sound(tone(0, 1_024), false));
            hear(fade.sound(tone(1_024, end), false));
            let lost_at = 960 + 1_024 + end;
            for _ in 0..5 {
                hear(fade.silence(2, 960));
            }
            hear(fade.sound(tone(777, 512), false));
            hear(fade.sound(tone(777 + 512, 1_024), false));
            let step = largest_step(&heard);
            assert!(step < STEP_MAX, "{step} after {end}");
            assert!(
                heard[lost_at..lost_at + 400]
                    .iter()
                    .any(|sample| sample.abs() > 0.2),
                "it fades, it is not cut"
            );
            assert!(
                heard[lost_at + 960..lost_at + 4_800]
                    .iter()
                    .all(|sample| *sample == 0.0),
                "then silence"
            );
            assert!(
                heard[heard.len() - 500..]
                    .iter()
                    .any(|sample| sample.abs() > 0.49),
                "back at its full level"
            );
        }
    }

    #[test]
    fn what_is_cut_off_its_start_is_joined_without_a_click() {
        for cut in 0..200 {
            let mut fade = Fade::default();
            let mut heard = Vec::new();
            heard.extend_from_slice(fade.sound(tone(0, 2_048), false).channel(0));
            heard.extend_from_slice(fade.sound(tone(2_000 + cut, 1_024), true).channel(0));
            let step = largest_step(&heard);
            assert!(step < 0.04, "{step} at {cut}");
        }
    }

    #[test]
    fn a_sound_without_a_seam_is_not_touched() {
        let mut fade = Fade::default();
        fade.sound(tone(0, 1_024), false);
        for n in 1..5 {
            let block = tone(n * 1_024, 1_024);
            assert_eq!(fade.sound(block.clone(), false), block);
        }
    }

    #[test]
    fn another_layout_is_faded_in() {
        let mut fade = Fade::default();
        fade.sound(tone(0, 2_000), false);
        let mono = fade.sound(Sound::planar(1, vec![0.5; 1_024]), false);
        assert!(mono.channel(0)[0] < 0.001 && (mono.channel(0)[1_000] - 0.5).abs() < 0.001);
        assert_eq!(fade.silence(6, 100).channels(), 6);
    }

    proptest! {
        /// Any blocks of one tone, with silences and cuts between them: its level is kept, and nothing is louder.
        #[test]
        fn nothing_is_louder_than_the_sound_itself(blocks in prop::collection::vec((0..3_u8, 1..3_000_usize), 1..30)) {
            let mut fade = Fade::default();
            let mut at = 0;
            for (kind, frames) in blocks {
                let played = match kind {
                    0 => fade.silence(2, frames),
                    kind => fade.sound(tone(at, frames), kind == 2),
                };
                at += frames;
                prop_assert_eq!((played.channels(), played.frames()), (2, frames));
                prop_assert!(played.samples().iter().all(|sample| sample.abs() <= 0.501));
            }
        }
    }
}

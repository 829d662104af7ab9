//! A monitor on one NDI source: keeps the pixels that it shows, and says by its tally whether it is on air.
//!
//! [`crate::viewer`] reads stamps; this one compares pictures. NDI's codec is lossy, so equal pictures differ by a little
//! noise: [`Shot::distance`] says by how much.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};

use crate::{
    ndi::{Captured, Receiver, Runtime, Video},
    stamp::{Luma, Reading, Stamp},
};

/// Receives until dropped.
#[derive(Debug)]
pub struct Screen {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    seen: Mutex<Seen>,
    tally: AtomicU8,
    stop: AtomicBool,
}

#[derive(Debug, Default)]
struct Seen {
    latest: Option<Arc<Shot>>,
    tape: Option<Tape>,
    was_connected: bool,
    drops: u32,
}

/// What a receiver says about a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Says {
    /// Nothing at all: no tally is ever sent.
    Nothing,
    /// Neither on program nor in preview.
    Off,
    /// In preview.
    Preview,
    /// On air.
    Program,
}

/// One picture as it was received.
#[derive(Debug)]
pub struct Shot {
    /// When the sender was to show it: microseconds since the Unix epoch.
    pub timecode_us: i64,
    /// Pixels.
    pub width: usize,
    /// Pixels.
    pub height: usize,
    /// What the source painted in, if this is a camera's picture.
    pub reading: Reading,
    /// Rows of luma and chroma in turn, from a luma on.
    pixels: Vec<u8>,
}

/// Everything that came in a while.
#[derive(Clone, Debug, Default)]
pub struct Tape {
    /// Each picture, repeats too.
    pub shots: Vec<Arc<Shot>>,
    /// Each block of sound.
    pub sounds: Vec<Block>,
}

/// A block of sound, its first channel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Block {
    /// The sender's time of its first sample, microseconds.
    pub timecode_us: i64,
    /// How many.
    pub samples: usize,
    /// The largest step from one sample to the next, from the block before to this one too; 1.0 is full scale.
    pub step: f32,
    /// The largest sample.
    pub peak: f32,
}

impl Screen {
    /// Finds a source by a part of its name and connects to it.
    ///
    /// # Errors
    /// When there is no runtime or no such source before `deadline`.
    pub fn find(name: &str, deadline: Instant) -> anyhow::Result<Self> {
        let runtime = Runtime::load()?;
        let source = runtime.find(name, deadline)?;
        let receiver = runtime.receive(&source)?;
        let shared = Arc::new(Shared::default());
        let thread = thread::Builder::new().name("screen".into()).spawn({
            let shared = shared.clone();
            move || watch(receiver, &shared)
        })?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Says this from now on; it is under way when this returns.
    pub fn say(&self, says: Says) {
        self.shared.tally.store(says as u8, Ordering::SeqCst);
        // The thread may be in a wait of its own.
        thread::sleep(2 * CAPTURE_WAIT);
    }

    /// The picture on the screen.
    pub fn latest(&self) -> anyhow::Result<Arc<Shot>> {
        self.seen().latest.clone().context("nothing on the screen")
    }

    /// Waits for a picture that `is_it`.
    pub fn wait_for(
        &self,
        what: &str,
        patience: Duration,
        is_it: impl Fn(&Shot) -> bool,
    ) -> anyhow::Result<Arc<Shot>> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(shot) = self.seen().latest.clone().filter(|shot| is_it(shot)) {
                return Ok(shot);
            }
            if Instant::now() > deadline {
                bail!(
                    "still waiting for {what}; on the screen: {:?}",
                    self.seen().latest.as_ref().map(|shot| shot.reading)
                );
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Everything from now on, for so long.
    pub fn tape(&self, length: Duration) -> Tape {
        self.start_tape();
        thread::sleep(length);
        self.end_tape()
    }

    /// Everything from now on, until [`Screen::end_tape`].
    pub fn start_tape(&self) {
        self.seen().tape = Some(Tape::default());
    }

    /// What came since [`Screen::start_tape`].
    pub fn end_tape(&self) -> Tape {
        self.seen().tape.take().unwrap_or_default()
    }

    /// How often the connection to the source broke.
    pub fn drops(&self) -> u32 {
        self.seen().drops
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.shared
            .seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shot {
    fn of(video: &Video<'_>, reading: Reading) -> Self {
        let Luma {
            samples,
            line_stride,
            width,
            height,
            ..
        } = video.luma;
        let row_len = 2 * width - 1;
        let mut pixels = Vec::with_capacity(row_len * height);
        for row in samples.chunks(line_stride.max(1)).take(height) {
            pixels.extend_from_slice(row.get(..row_len).unwrap_or(row));
        }
        Self {
            timecode_us: video.timecode / 10,
            width,
            height,
            reading,
            pixels,
        }
    }

    /// From UYVY pixels, rows without padding.
    pub fn from_uyvy(pixels: &[u8], width: usize, height: usize) -> Self {
        let rows = pixels.chunks_exact(2 * width).take(height);
        Self {
            timecode_us: 0,
            width,
            height,
            reading: Reading::Absent,
            pixels: rows.flat_map(|row| &row[1..]).copied().collect(),
        }
    }

    /// The stamp of a camera's picture.
    pub fn stamp(&self) -> Option<Stamp> {
        match self.reading {
            Reading::Stamp(stamp) => Some(stamp),
            Reading::Absent | Reading::Damaged => None,
        }
    }

    /// Luma of one pixel.
    pub fn luma(&self, x: usize, y: usize) -> u8 {
        let row_len = 2 * self.width - 1;
        self.pixels.get(y * row_len + 2 * x).copied().unwrap_or(0)
    }

    /// How different two pictures are: the mean of the worst block of 8 rows and 16 columns, in steps of 8 bits. Large
    /// when their sizes differ.
    pub fn distance(&self, other: &Self) -> f64 {
        if (self.width, self.height) != (other.width, other.height) {
            return 255.0;
        }
        let row_len = (2 * self.width).saturating_sub(1).max(1);
        let mut worst = 0.0_f64;
        let bands = (self.pixels.chunks(8 * row_len)).zip(other.pixels.chunks(8 * row_len));
        for (ours, theirs) in bands {
            let mut sums = vec![(0_u32, 0_u32); row_len.div_ceil(32)];
            for (row, their_row) in ours.chunks(row_len).zip(theirs.chunks(row_len)) {
                for (block, (a, b)) in sums
                    .iter_mut()
                    .zip(row.chunks(32).zip(their_row.chunks(32)))
                {
                    for (a, b) in a.iter().zip(b) {
                        block.0 += u32::from(a.abs_diff(*b));
                        block.1 += 1;
                    }
                }
            }
            for (sum, count) in sums {
                worst = worst.max(f64::from(sum) / f64::from(count.max(1)));
            }
        }
        worst
    }

    /// For people: the luma as a PGM.
    pub fn to_pgm(&self) -> Vec<u8> {
        let mut file = format!("P5 {} {} 255\n", self.width, self.height).into_bytes();
        for row in self.pixels.chunks(2 * self.width - 1) {
            file.extend(row.iter().step_by(2));
        }
        file
    }
}

fn watch(mut receiver: Receiver, shared: &Shared) {
    let mut said = Says::Nothing as u8;
    let mut last = 0.0_f32;
    while !shared.stop.load(Ordering::Relaxed) {
        let says = shared.tally.load(Ordering::SeqCst);
        if says != said {
            said = says;
            receiver.set_tally(says == Says::Program as u8, says == Says::Preview as u8);
        }
        receiver.capture(CAPTURE_WAIT, |captured| match captured {
            Captured::Video(video) => {
                let shot = Arc::new(Shot::of(&video, Stamp::read(video.luma)));
                let mut seen = shared.seen.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(tape) = &mut seen.tape
                    && tape.shots.len() < TAPE_MAX
                {
                    tape.shots.push(shot.clone());
                }
                seen.latest = Some(shot);
            }
            Captured::Audio(audio) => {
                let mut block = Block {
                    timecode_us: audio.timecode / 10,
                    samples: audio.samples.len(),
                    step: 0.0,
                    peak: 0.0,
                };
                for sample in audio.samples {
                    block.step = block.step.max((sample - last).abs());
                    block.peak = block.peak.max(sample.abs());
                    last = *sample;
                }
                let mut seen = shared.seen.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(tape) = &mut seen.tape {
                    tape.sounds.push(block);
                }
            }
            Captured::Nothing | Captured::Lost => {}
        });
        let is_connected = receiver.is_connected();
        let mut seen = shared.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.drops += u32::from(seen.was_connected && !is_connected);
        seen.was_connected = is_connected;
    }
}

/// A tally is on its way within so long.
const CAPTURE_WAIT: Duration = Duration::from_millis(5);

/// 15 s of 720p30: 800 MB. Held pictures come five a second.
const TAPE_MAX: usize = 450;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_changed_letter_is_seen_and_noise_is_not() {
        let mut pixels = vec![100_u8; 64 * 32 * 2];
        let before = Shot::from_uyvy(&pixels, 64, 32);
        assert!(before.distance(&before) < f64::EPSILON);
        for (n, pixel) in pixels.iter_mut().enumerate() {
            *pixel += u8::try_from(n % 2).unwrap();
        }
        assert!(before.distance(&Shot::from_uyvy(&pixels, 64, 32)) < 1.0);
        for row in 8..16 {
            pixels[row * 128 + 41] = 200;
            pixels[row * 128 + 43] = 200;
        }
        assert!(before.distance(&Shot::from_uyvy(&pixels, 64, 32)) > 4.0);
        assert!(before.distance(&Shot::from_uyvy(&pixels, 32, 64)) > 200.0);
        assert_eq!(before.to_pgm().len(), 13 + 64 * 32);
    }
}

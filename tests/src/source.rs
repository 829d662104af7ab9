//! A camera and its microphone, in real time: raw pictures to one writer, sound to another.
//!
//! Picture k is due at T0 + k/fps and sample n at T0 + n/48000, so the two stay one clock apart from nothing. Nothing is
//! skipped: an encoder that numbers pictures must see every one; those written late are counted. T0 is when the reader
//! took the second picture: an encoder reads one to learn what it is and only then starts its own clock.
//!
//! Sound: 16 bit little-endian stereo at 48 kHz, silence with a 1 kHz beep of 50 ms at each whole second of the wall clock.

use std::{
    fs::OpenOptions,
    io::{self, ErrorKind, Write},
    path::PathBuf,
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::Serialize;

use crate::{picture::Painter, stamp::Stamp};

/// What to make.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Pixels, even.
    pub width: usize,
    /// Lines, even.
    pub height: usize,
    /// Pictures a second.
    pub fps: u32,
    /// How many pictures; `None` is for ever.
    pub pictures: Option<u32>,
    /// Goes into every stamp.
    pub source: u8,
    /// A named pipe for the sound.
    pub audio: Option<PathBuf>,
}

/// How it went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// Pictures written.
    pub pictures: u32,
    /// Of these, more than a picture's time after they were due.
    pub late: u32,
    /// The worst, microseconds.
    pub latest_us: u64,
}

/// Runs until all pictures are written or the reader of the pictures leaves.
pub fn run(settings: &Settings, video: &mut impl Write) -> io::Result<Outcome> {
    // The rendezvous hands T0 to the sound; dropped without one, it ends the sound too.
    let (start, started) = mpsc::sync_channel(1);
    let sound = settings.audio.clone().map(|path| {
        let samples = settings
            .pictures
            .map(|pictures| u64::from(pictures) * SAMPLE_RATE / u64::from(settings.fps));
        thread::spawn(move || play(&path, &started, samples))
    });

    let mut painter = Painter::new(settings.width, settings.height, settings.source);
    let mut outcome = Outcome::default();
    let mut first_us = None;
    for number in 0..settings.pictures.unwrap_or(u32::MAX) {
        if let Some(first_us) = first_us {
            let due_us = first_us + u64::from(number) * 1_000_000 / u64::from(settings.fps);
            let late_us = wait_until(due_us);
            outcome.late += u32::from(late_us > 1_000_000 / u64::from(settings.fps));
            outcome.latest_us = outcome.latest_us.max(late_us);
        }
        let picture = painter.paint(Stamp {
            wall_us: wall_us(),
            number,
            source: settings.source,
        });
        match video.write_all(picture).and_then(|()| video.flush()) {
            Ok(()) => outcome.pictures += 1,
            // The sound may still be waiting for a reader that never comes: it is not waited for.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(outcome),
            Err(error) => return Err(error),
        }
        if number == 1 {
            let second_us = wall_us();
            first_us = Some(second_us - 1_000_000 / u64::from(settings.fps));
            start.send(first_us).ok();
        }
    }
    drop(start);
    match sound.map(thread::JoinHandle::join) {
        Some(Ok(Err(error))) if error.kind() != ErrorKind::BrokenPipe => Err(error),
        _ => Ok(outcome),
    }
}

/// Microseconds since the Unix epoch.
pub fn wall_us() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_micros()).unwrap_or(0))
}

fn play(path: &PathBuf, started: &Receiver<Option<u64>>, samples: Option<u64>) -> io::Result<()> {
    let mut pipe = OpenOptions::new().write(true).open(path)?;
    // What the encoder reads to recognise the input, before there is a T0: silence.
    pipe.write_all(&block(0, None))?;
    let Ok(Some(first_us)) = started.recv() else {
        return Ok(());
    };
    let mut number = 1;
    // Whole blocks only, so that the sound does not outlast the pictures: the encoder waits for the longer of them.
    while samples.is_none_or(|samples| (number + 1) * BLOCK <= samples) {
        // A microphone delivers a block when its last sample was heard.
        wait_until(first_us + (number + 1) * BLOCK * 1_000_000 / SAMPLE_RATE);
        pipe.write_all(&block(number, Some(first_us)))?;
        number += 1;
    }
    Ok(())
}

/// One block of sound; silence before T0 is known.
fn block(number: u64, first_us: Option<u64>) -> Vec<u8> {
    (number * BLOCK..(number + 1) * BLOCK)
        .flat_map(|sample| {
            let level = first_us.map_or(0, |first_us| {
                beep(first_us + sample * 1_000_000 / SAMPLE_RATE)
            });
            let bytes = level.to_le_bytes();
            [bytes[0], bytes[1], bytes[0], bytes[1]]
        })
        .collect()
}

/// The sample at a moment of the wall clock.
fn beep(wall_us: u64) -> i16 {
    let phase_us = wall_us % 1_000_000;
    if phase_us >= BEEP_US {
        return 0;
    }
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        reason = "a phase below a second and a level below half of full scale"
    )]
    let level = ((phase_us as f64 / 1e6 * TONE_HZ * std::f64::consts::TAU).sin() * 16_000.0) as i16;
    level
}

/// Sleeps until a moment of the wall clock; answers by how much it has passed, microseconds. The media are made in real
/// time, so here a sleep is the work.
fn wait_until(due_us: u64) -> u64 {
    loop {
        let now_us = wall_us();
        if now_us >= due_us {
            return now_us - due_us;
        }
        thread::sleep(Duration::from_micros(due_us - now_us));
    }
}

/// Samples a second.
pub const SAMPLE_RATE: u64 = 48_000;
/// Samples a write: one AAC frame, 21 ms.
const BLOCK: u64 = 1024;
const BEEP_US: u64 = 50_000;
const TONE_HZ: f64 = 1000.0;

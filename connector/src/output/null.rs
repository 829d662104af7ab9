//! The output that shows nothing: counts pictures and sound and notes when they came.

use std::sync::Arc;

use firstmile_shared::clock::now_us;
use tracing::{debug, trace};

use super::{FrameRate, Output, Picture, Sound};

/// Counts and forgets.
#[derive(Debug)]
pub struct NullOutput {
    name: String,
    pictures: u64,
    sound_frames: u64,
    last_picture_us: Option<i64>,
    longest_gap_us: i64,
}

impl NullOutput {
    /// An output called `name`.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            pictures: 0,
            sound_frames: 0,
            last_picture_us: None,
            longest_gap_us: 0,
        }
    }
}

impl Output for NullOutput {
    fn kind(&self) -> &'static str {
        "null"
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn show(&mut self, picture: &Arc<Picture>, rate: FrameRate, timecode: i64) {
        let now_us = now_us();
        let gap_us = self.last_picture_us.map_or(0, |last_us| now_us - last_us);
        self.longest_gap_us = self.longest_gap_us.max(gap_us);
        self.last_picture_us = Some(now_us);
        self.pictures += 1;
        trace!(name = self.name, picture.width, picture.height, %rate, timecode, gap_us, "picture");
    }

    fn play(&mut self, sound: &Sound, timecode: i64) {
        self.sound_frames += sound.frames() as u64;
        trace!(name = self.name, frames = sound.frames(), timecode, "sound");
    }
}

impl Drop for NullOutput {
    fn drop(&mut self) {
        debug!(
            name = self.name,
            pictures = self.pictures,
            sound_frames = self.sound_frames,
            longest_gap_us = self.longest_gap_us,
            "null output closed"
        );
    }
}

//! Decoded pictures and sound on their way to an output, and the pool that picture memory comes from.

use std::{
    fmt,
    ops::{Deref, DerefMut},
    sync::{Arc, Mutex, PoisonError},
};

/// A picture ready to be sent: UYVY (4:2:2, 8 bit), limited range, rows without padding.
///
/// UYVY and not NV12 or I420: the decoder's three planes have to be copied into one buffer anyway, our kernel
/// does that in the same time for each of them, and NDI takes UYVY with the least delay (1080p60, one way, p50/p95:
/// 4.8/8.5 ms, against 5.3/7.6 for NV12 and 9–12/16–20 for I420) and the same CPU.
#[derive(Debug)]
pub struct Picture {
    /// Pixels; even.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// Of the shown picture, width / height: pixels need not be square.
    pub aspect: f32,
    /// `width * height * 2` bytes.
    pub pixels: PixelBuffer,
}

impl Picture {
    /// Bytes that a picture of this size takes.
    pub const fn byte_len(width: u32, height: u32) -> usize {
        width as usize * height as usize * 2
    }
}

/// Sound ready to be sent: 48 kHz, 32-bit float, 1.0 is full scale, one channel after the other.
#[derive(Clone, PartialEq)]
pub struct Sound {
    channels: usize,
    samples: Vec<f32>,
}

/// Every sound at an output has this rate.
pub const SAMPLE_RATE: u32 = 48_000;

impl Sound {
    /// `samples` holds channel after channel, each of the same length; what does not divide is cut off.
    pub fn planar(channels: usize, mut samples: Vec<f32>) -> Self {
        let channels = channels.max(1);
        samples.truncate(samples.len() / channels * channels);
        Self { channels, samples }
    }

    /// Nothing to hear, `frames` samples long.
    pub fn silence(channels: usize, frames: usize) -> Self {
        Self::planar(channels, vec![0.0; channels.max(1) * frames])
    }

    /// How many channels; at least 1.
    pub const fn channels(&self) -> usize {
        self.channels
    }

    /// Samples of each channel.
    pub fn frames(&self) -> usize {
        self.samples.len() / self.channels
    }

    /// Every channel's samples, channel after channel.
    pub fn samples(&self) -> &[f32] {
        &self.samples
    }

    /// The same, to change them.
    pub fn into_samples(self) -> Vec<f32> {
        self.samples
    }

    /// The samples of one channel, from 0.
    pub fn channel(&self, channel: usize) -> &[f32] {
        self.samples
            .chunks_exact(self.frames().max(1))
            .nth(channel)
            .unwrap_or_default()
    }

    /// The same without its first `frames` samples.
    #[must_use]
    pub fn without_start(&self, frames: usize) -> Self {
        let samples = self
            .samples
            .chunks_exact(self.frames().max(1))
            .flat_map(|channel| channel.get(frames..).unwrap_or_default())
            .copied()
            .collect();
        Self::planar(self.channels, samples)
    }
}

impl fmt::Debug for Sound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sound")
            .field("channels", &self.channels)
            .field("frames", &self.frames())
            .finish_non_exhaustive()
    }
}

/// Memory for pictures, used again and again: one picture of 1080p is 4 MB, too much to ask the system for
/// at every frame. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct BufferPool {
    free: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl BufferPool {
    /// A buffer of exactly `len` bytes; what is in it is undefined, but never memory of anything else.
    pub fn take(&self, len: usize) -> PixelBuffer {
        let mut bytes = self.lock().pop().unwrap_or_default();
        bytes.resize(len, 0);
        PixelBuffer {
            bytes,
            pool: self.clone(),
        }
    }

    fn give_back(&self, bytes: Vec<u8>) {
        let mut free = self.lock();
        if free.len() < FREE_MAX {
            free.push(bytes);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Vec<u8>>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes of a picture; goes back to its pool when dropped.
pub struct PixelBuffer {
    bytes: Vec<u8>,
    pool: BufferPool,
}

impl Deref for PixelBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl DerefMut for PixelBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl Drop for PixelBuffer {
    fn drop(&mut self) {
        self.pool.give_back(std::mem::take(&mut self.bytes));
    }
}

impl fmt::Debug for PixelBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PixelBuffer({} bytes)", self.bytes.len())
    }
}

/// One with the output, one held, one in work, and one to spare; the queue's four are in use while it is full.
const FREE_MAX: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_buffer_is_used_again() {
        let pool = BufferPool::default();
        let first = pool.take(1000);
        let address = first.as_ptr();
        drop(first);
        assert_eq!(pool.take(900).as_ptr(), address);
        assert_eq!(pool.take(900).len(), 900);
    }

    #[test]
    fn cutting_the_start_of_a_sound_cuts_every_channel() {
        let sound = Sound::planar(2, vec![1.0, 2.0, 3.0, 10.0, 20.0, 30.0]);
        assert_eq!(
            sound.without_start(1),
            Sound::planar(2, vec![2.0, 3.0, 20.0, 30.0])
        );
        assert_eq!(sound.without_start(9).frames(), 0);
        assert_eq!(sound.channel(1), [10.0, 20.0, 30.0]);
        assert_eq!(Sound::silence(0, 5).frames(), 5);
        assert!(Sound::planar(2, vec![]).channel(0).is_empty());
    }
}

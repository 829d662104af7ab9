//! The payloads of a synthetic feed: 1080p30 at 5.6 Mbit/s with a keyframe every two seconds, and AAC at 128 kbit/s.
//!
//! Sizes are what matters here, not pictures. Each payload begins with the moment it was made, so that the far end, in
//! the same process, knows its delay.

use bytes::{BufMut, Bytes, BytesMut};

/// Pictures a second.
pub const FPS: u32 = 30;
/// AAC frames a second, 48 kHz by 1024.
pub const AAC_FRAMES_PER_SECOND: f64 = 48_000.0 / 1024.0;

/// Bytes of the picture with this number.
pub const fn picture_len(number: u32) -> usize {
    if is_keyframe(number) {
        KEYFRAME_LEN
    } else {
        PICTURE_LEN
    }
}

/// Whether the picture with this number is a keyframe.
pub const fn is_keyframe(number: u32) -> bool {
    number.is_multiple_of(FPS * 2)
}

/// A payload of `len` bytes that says when it was made, on the clock of [`crate::bench::meter::now_us`].
pub fn payload(len: usize, made_us: u64) -> Bytes {
    let mut bytes = BytesMut::with_capacity(len);
    bytes.put_slice(&MARK);
    bytes.put_u64(made_us);
    // Not zero: neither a NAL start code nor emulation prevention comes up, whoever looks.
    bytes.resize(len.max(STAMP_LEN), 0x5A);
    bytes.freeze()
}

/// When a payload that arrived was made; looks for the mark where codecs put their own bytes in front.
pub fn made_us(arrived: &[u8]) -> Option<u64> {
    let head = arrived.get(..SEARCH_LEN.min(arrived.len()))?;
    let at = head.windows(MARK.len()).position(|window| window == MARK)?;
    let stamp = arrived.get(at + MARK.len()..)?.first_chunk::<8>()?;
    Some(u64::from_be_bytes(*stamp))
}

/// Bytes of an AAC frame.
pub const AAC_LEN: usize = 341;
const KEYFRAME_LEN: usize = 164_000;
const PICTURE_LEN: usize = 21_000;
const MARK: [u8; 8] = *b"fm-bench";
const STAMP_LEN: usize = MARK.len() + 8;
const SEARCH_LEN: usize = 512;

//! Any first bytes, in any pieces: a handshake ends, waits for more, or names what the peer speaks instead.

#![no_main]

use bytes::BytesMut;
use firstmile_relay::rtmp::handshake::{BLOCK_LEN, Handshake};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u64, u16, &[u8])| {
    let (seed, piece, bytes) = input;
    let piece = usize::from(piece).max(1);
    let (mut handshake, mut output) = (Handshake::new(seed), BytesMut::new());
    let mut pending = BytesMut::new();
    let mut is_over = false;
    for piece in bytes.chunks(piece) {
        pending.extend_from_slice(piece);
        match handshake.advance(&mut pending, &mut output) {
            Ok(over) => is_over = over,
            Err(_) => return,
        }
        // Nothing but a part that is not whole yet stays behind.
        assert!(is_over || pending.len() < BLOCK_LEN);
    }
    assert!(output.len() <= 1 + 2 * BLOCK_LEN);
    if is_over {
        assert!(bytes.len() > 2 * BLOCK_LEN);
        assert_eq!(output.len(), 1 + 2 * BLOCK_LEN);
        assert_eq!(pending[..], bytes[1 + 2 * BLOCK_LEN..]);
    }
});

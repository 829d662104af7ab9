//! Any bytes as a chunk stream: the same messages however they are cut, and no more memory than allowed.

#![no_main]

use bytes::BytesMut;
use firstmile_relay::rtmp::chunk::{ChunkError, Decoder, Encoder, Limits, Message};
use libfuzzer_sys::fuzz_target;

const LIMITS: Limits = Limits {
    message_len_max: 64 * 1024,
    unfinished_len_max: 64 * 1024,
    chunk_streams_max: 64,
};

/// A basic header of three bytes, a message header of eleven, an extended timestamp.
const HEADER_LEN_MAX: usize = 3 + 11 + 4;

fuzz_target!(|input: (u8, u8, &[u8])| {
    let (piece, chunk_size, bytes) = input;
    let (whole, whole_end) = decode(bytes, bytes.len().max(1));
    let (pieces, pieces_end) = decode(bytes, usize::from(piece).max(1));
    assert_eq!(whole, pieces);
    assert_eq!(whole_end, pieces_end);

    // What was understood can be said again.
    let mut encoder = Encoder::default();
    let mut again = BytesMut::new();
    encoder.set_chunk_size(&mut again, u32::from(chunk_size));
    for message in &whole {
        encoder.encode(&mut again, 5, message);
    }
    assert_eq!(decode(&again, again.len().max(1)), (whole, None));
});

fn decode(bytes: &[u8], piece: usize) -> (Vec<Message>, Option<ChunkError>) {
    let mut decoder = Decoder::new(LIMITS);
    let (mut input, mut messages) = (BytesMut::new(), Vec::new());
    for piece in bytes.chunks(piece) {
        input.extend_from_slice(piece);
        loop {
            let polled = decoder.poll(&mut input);
            assert!(decoder.buffered_bytes() <= LIMITS.unfinished_len_max);
            match polled {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break,
                Err(error) => return (messages, Some(error)),
            }
        }
        assert!(input.len() < HEADER_LEN_MAX, "{}", input.len());
    }
    (messages, None)
}

use std::collections::VecDeque;

use bytes::BufMut;
use proptest::prelude::*;

use super::*;
use crate::rtmp::{chunk::Encoder, vectors};

#[test]
fn every_stream_of_chunks_means_what_the_table_says() {
    let limits = Limits {
        message_len_max: 65_536,
        unfinished_len_max: 65_536,
        chunk_streams_max: 64,
    };
    for line in vectors::lines(include_str!("../vectors/chunks.txt")) {
        let [text, meaning] = line[..] else {
            panic!("two fields: {line:?}");
        };
        let bytes = vectors::bytes(text);
        // In one piece and byte by byte.
        for piece_len in [bytes.len(), 1] {
            let mut decoder = Decoder::new(limits);
            let mut input = BytesMut::new();
            let mut found = Vec::new();
            'pieces: for piece in bytes.chunks(piece_len) {
                input.extend_from_slice(piece);
                loop {
                    match decoder.poll(&mut input) {
                        Ok(Some(message)) => {
                            found.push(format!("{}@{}", message.kind, message.timestamp));
                        }
                        Ok(None) => break,
                        Err(error) => {
                            found.push(error.to_string());
                            break 'pieces;
                        }
                    }
                }
            }
            assert_eq!(found.join(" "), meaning, "{text} in pieces of {piece_len}");
        }
    }
}

#[test]
fn interleaved_messages_are_kept_apart() {
    let picture: Vec<u8> = (0..300_u16).map(|n| n as u8).collect();
    let sound = vec![0xaf; 200];
    let bytes = [
        &full(6, 40, 300, kind::VIDEO)[..],
        &picture[..128],
        &full(4, 41, 200, kind::AUDIO),
        &sound[..128],
        &[0xc6],
        &picture[128..256],
        &full(2, 0, 4, kind::ACKNOWLEDGEMENT),
        &[0, 0, 0, 9],
        &[0xc4],
        &sound[128..],
        &[0xc6],
        &picture[256..],
    ]
    .concat();
    assert_eq!(
        decode(&bytes),
        Ok(vec![
            message(kind::ACKNOWLEDGEMENT, 0, &[0, 0, 0, 9]),
            message(kind::AUDIO, 41, &sound),
            message(kind::VIDEO, 40, &picture),
        ])
    );
}

#[test]
fn times_follow_from_what_headers_leave_out() {
    // (what, headers of empty messages on one chunk stream, times)
    for (what, headers, times) in [
        (
            "full headers",
            "04000064000000080000000004000096000000080000000",
            vec![100, 150],
        ),
        (
            "format 1 adds its delta",
            "040000640000000800000000440000140000000a",
            vec![100, 120],
        ),
        (
            "format 2 adds its delta",
            "04000064000000080000000084000014",
            vec![100, 120],
        ),
        (
            "format 3 repeats the delta",
            "04000064000000080000000084000014c4c4",
            vec![100, 120, 140, 160],
        ),
        (
            "format 3 after format 0 has the same time",
            "040000640000000800000000c4",
            vec![100, 100],
        ),
        (
            "times wrap",
            "04ffffff000000080000000 0fffffff084000014".trim(),
            vec![0xffff_fff0, 4],
        ),
        (
            "an extended delta",
            "0400000000000008000000 0084ffffff01000000",
            vec![0, 0x0100_0000],
        ),
        (
            "a first header of format 1 counts from 0",
            "44000028000000080",
            vec![40],
        ),
    ] {
        let mut text: String = headers.replace(' ', "");
        if text.len() % 2 == 1 {
            text.push('0');
        }
        let got = decode(&hex(&text)).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(
            got.iter().map(|m| m.timestamp).collect::<Vec<_>>(),
            times,
            "{what}"
        );
    }
}

#[test]
fn the_letter_of_the_specification_can_be_asked_for() {
    let mut decoder = Decoder::new(LIMITS);
    decoder.set_first_delta_is_timestamp(true);
    let mut input = BytesMut::from(&hex("040000640000000800000000c4")[..]);
    let times: Vec<_> =
        std::iter::from_fn(|| decoder.poll(&mut input).unwrap().map(|m| m.timestamp)).collect();
    assert_eq!(times, [100, 200]);
}

/// After 4 h 39 min a time needs four bytes more, and encoders differ in where they put them.
#[test]
fn long_shows_are_read_with_and_without_repeated_times() {
    let body: Vec<u8> = (1..=200).collect();
    let head = hex("04ffffff0000c8090100000001234567");
    for repeated in [true, false] {
        let mut bytes = [&head[..], &body[..128], &[0xc4]].concat();
        if repeated {
            bytes.extend(hex("01234567"));
        }
        bytes.extend(&body[128..]);
        bytes.extend(hex("0400000a0000000801000000"));
        let expected = [
            message(kind::VIDEO, 0x0123_4567, &body),
            message(kind::AUDIO, 10, &[]),
        ];
        let got: Vec<_> = decode(&bytes)
            .unwrap()
            .into_iter()
            .map(|m| Message { stream: 0, ..m })
            .collect();
        assert_eq!(got, expected, "repeated: {repeated}");
    }
}

#[test]
fn a_new_chunk_size_counts_from_the_next_chunk_also_within_a_message() {
    let body = vec![7; 400];
    let bytes = [
        &full(6, 0, 400, kind::VIDEO)[..],
        &body[..128],
        &full(2, 0, 4, kind::SET_CHUNK_SIZE),
        &[0, 0, 1, 0],
        &[0xc6],
        &body[128..384],
        &[0xc6],
        &body[384..],
    ]
    .concat();
    assert_eq!(decode(&bytes), Ok(vec![message(kind::VIDEO, 0, &body)]));
}

#[test]
fn the_largest_chunk_size_is_accepted() {
    let body = vec![7; 100_000];
    let bytes = [
        &full(2, 0, 4, kind::SET_CHUNK_SIZE)[..],
        &[0x7f, 0xff, 0xff, 0xff],
        &full(6, 0, 100_000, kind::VIDEO),
        &body,
    ]
    .concat();
    assert_eq!(decode(&bytes), Ok(vec![message(kind::VIDEO, 0, &body)]));
}

#[test]
fn an_aborted_message_leaves_no_trace() {
    let bytes = [
        &full(6, 0, 200, kind::VIDEO)[..],
        &[1; 128],
        &full(2, 0, 4, kind::ABORT),
        &[0, 0, 0, 6],
        &full(6, 5, 2, kind::VIDEO),
        &[8, 9],
    ]
    .concat();
    let mut decoder = Decoder::new(LIMITS);
    let mut input = BytesMut::from(&bytes[..]);
    let got = decoder.poll(&mut input).unwrap();
    assert_eq!(got, Some(message(kind::VIDEO, 5, &[8, 9])));
    assert_eq!(decoder.unfinished_len, 0);
}

#[test]
fn a_new_header_inside_a_message_gives_the_old_one_up() {
    let bytes = [
        &full(6, 0, 200, kind::VIDEO)[..],
        &[1; 128],
        &full(6, 5, 2, kind::VIDEO),
        &[8, 9],
    ]
    .concat();
    assert_eq!(decode(&bytes), Ok(vec![message(kind::VIDEO, 5, &[8, 9])]));
}

#[test]
fn every_way_to_number_a_chunk_stream_is_read() {
    for id in ["03", "3f", "0000", "00ff", "010000", "01ffff"] {
        let bytes = hex(&format!("{id}000005000001080000000042"));
        assert_eq!(
            decode(&bytes),
            Ok(vec![message(kind::AUDIO, 5, &[0x42])]),
            "{id}"
        );
    }
}

#[test]
fn what_must_not_be_is_named() {
    let too_long = LIMITS.message_len_max + 1;
    let many: Vec<u8> = (0..9)
        .flat_map(|n| full(3 + n, 0, 0, kind::AUDIO))
        .collect();
    // Chunks of 65,536 bytes, and five messages of 100,000 begun.
    let mut unfinished = hex("02000000000004010000000000010000");
    for chunk_stream in 3..8 {
        unfinished.extend(full(chunk_stream, 0, 100_000, kind::VIDEO));
        unfinished.extend(vec![0; 65_536]);
    }
    for (bytes, error) in [
        (
            vec![0xc5],
            ChunkError::NoHeader {
                chunk_stream: 5,
                format: 3,
            },
        ),
        (
            vec![0x85, 0, 0, 1],
            ChunkError::NoHeader {
                chunk_stream: 5,
                format: 2,
            },
        ),
        (
            full(3, 0, too_long as u32, kind::VIDEO),
            ChunkError::MessageTooLong {
                len: too_long,
                max: LIMITS.message_len_max,
            },
        ),
        (many, ChunkError::TooManyChunkStreams { max: 8 }),
        (
            unfinished,
            ChunkError::TooMuchUnfinished {
                max: LIMITS.unfinished_len_max,
            },
        ),
        (
            hex("020000000000040100000000 00000000"
                .replace(' ', "")
                .as_str()),
            ChunkError::ChunkSize,
        ),
        (
            hex("020000000000040100000000ffffffff"),
            ChunkError::ChunkSize,
        ),
    ] {
        assert_eq!(decode(&bytes), Err(error));
    }
}

#[test]
fn announced_bytes_cost_nothing() {
    let mut decoder = Decoder::new(LIMITS);
    let mut input = BytesMut::from(&full(6, 0, 200_000, kind::VIDEO)[..]);
    input.put_slice(&[0; 100]);
    assert_eq!(decoder.poll(&mut input), Ok(None));
    assert!(
        decoder.buffered_bytes() <= GROWTH_MIN,
        "{}",
        decoder.buffered_bytes()
    );
}

proptest! {
    #[test]
    fn any_split_of_the_bytes_gives_the_same_messages(
        messages in prop::collection::vec(arbitrary_message(), 1..12),
        picks in prop::collection::vec(any::<u8>(), 0..60),
        cuts in prop::collection::vec(1..40usize, 0..80),
    ) {
        let bytes = interleaved(&messages, &picks);
        let whole = decode(&bytes).unwrap();
        prop_assert_eq!(whole.len(), messages.len());
        for message in &messages {
            prop_assert!(whole.contains(message), "{:?}", message);
        }

        let mut decoder = Decoder::new(LIMITS);
        let mut input = BytesMut::new();
        let (mut got, mut left, mut cuts) = (Vec::new(), &bytes[..], cuts.into_iter());
        while !left.is_empty() {
            let (part, rest) = left.split_at(cuts.next().unwrap_or(left.len()).min(left.len()));
            input.extend_from_slice(part);
            left = rest;
            while let Some(message) = decoder.poll(&mut input).unwrap() {
                got.push(message);
            }
            prop_assert!(input.len() < 19, "only a header stays behind");
        }
        prop_assert_eq!(got, whole);
    }

    #[test]
    fn what_the_encoder_writes_is_read_back(
        messages in prop::collection::vec(arbitrary_message(), 1..8),
        chunk_size in 1..70_000u32,
    ) {
        let (mut encoder, mut bytes) = (Encoder::default(), BytesMut::new());
        encoder.set_chunk_size(&mut bytes, chunk_size);
        for message in &messages {
            encoder.encode(&mut bytes, 5, message);
        }
        prop_assert_eq!(decode(&bytes).unwrap(), messages);
    }

    #[test]
    fn arbitrary_bytes_never_panic_and_are_held_within_bounds(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
        let mut decoder = Decoder::new(LIMITS);
        let mut input = BytesMut::from(&bytes[..]);
        while let Ok(Some(_)) = decoder.poll(&mut input) {}
        let held: usize = decoder.streams.iter().flat_map(|stream| &stream.body).map(Vec::capacity).sum();
        prop_assert_eq!(decoder.buffered_bytes(), held);
        prop_assert!(decoder.buffered_bytes() <= 2 * bytes.len() + LIMITS.chunk_streams_max * GROWTH_MIN);
    }
}

fn arbitrary_message() -> impl Strategy<Value = Message> {
    (
        3..30u8,
        any::<u32>(),
        prop::num::u32::ANY,
        prop::collection::vec(any::<u8>(), 0..600),
    )
        .prop_map(|(kind, stream, timestamp, payload)| Message {
            kind,
            stream,
            timestamp,
            payload: payload.into(),
        })
}

/// Chunks of up to six messages at a time, in an order that `picks` decides.
fn interleaved(messages: &[Message], picks: &[u8]) -> Vec<u8> {
    let mut waiting = messages.iter();
    let mut lanes = vec![VecDeque::new(); 6];
    let mut picks = picks.iter().copied().chain(0..).map(usize::from);
    let mut bytes = Vec::new();
    loop {
        for (lane, chunks) in lanes.iter_mut().enumerate() {
            if chunks.is_empty()
                && let Some(message) = waiting.next()
            {
                chunks.extend(chunks_of(message, lane as u8 + 3));
            }
        }
        let busy: Vec<_> = (0..lanes.len())
            .filter(|lane| !lanes[*lane].is_empty())
            .collect();
        if busy.is_empty() {
            return bytes;
        }
        let lane = busy[picks.next().unwrap_or(0) % busy.len()];
        bytes.extend(lanes[lane].pop_front().unwrap());
    }
}

fn chunks_of(message: &Message, chunk_stream: u8) -> Vec<Vec<u8>> {
    let mut bytes = BytesMut::new();
    Encoder::default().encode(&mut bytes, chunk_stream, message);
    let extended = if message.timestamp >= TIME_EXTENDED {
        4
    } else {
        0
    };
    let mut chunks = Vec::new();
    let mut header_len = 12 + extended;
    while !bytes.is_empty() {
        let len = bytes.len().min(header_len + CHUNK_SIZE_INITIAL);
        chunks.push(bytes.split_to(len).to_vec());
        header_len = 1 + extended;
    }
    chunks
}

fn decode(bytes: &[u8]) -> Result<Vec<Message>, ChunkError> {
    let mut decoder = Decoder::new(LIMITS);
    let mut input = BytesMut::from(bytes);
    let mut messages = Vec::new();
    while let Some(message) = decoder.poll(&mut input)? {
        messages.push(message);
    }
    Ok(messages)
}

/// A header of format 0.
fn full(chunk_stream: u8, timestamp: u32, len: u32, kind: u8) -> Vec<u8> {
    let mut bytes = vec![chunk_stream];
    bytes.put_uint(timestamp.into(), 3);
    bytes.put_uint(len.into(), 3);
    bytes.put_u8(kind);
    bytes.put_u32_le(0);
    bytes
}

fn message(kind: u8, timestamp: u32, payload: &[u8]) -> Message {
    Message {
        kind,
        stream: 0,
        timestamp,
        payload: payload.to_vec().into(),
    }
}

fn hex(text: &str) -> Vec<u8> {
    text.as_bytes()
        .chunks(2)
        .map(|digits| u8::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap())
        .collect()
}

const LIMITS: Limits = Limits {
    message_len_max: 256 * 1024,
    unfinished_len_max: 256 * 1024,
    chunk_streams_max: 8,
};

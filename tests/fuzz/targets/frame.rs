//! Any bytes as the tunnel over TCP, and any frames in any order: the same frames however the network cuts them, units that
//! are what was sent of them, and never more memory than came.

#![no_main]

use std::collections::BTreeMap;

use arbitrary::Arbitrary;
use bytes::{Bytes, BytesMut};
use firstmile_shared::tunnel::frame::{Assembly, Decoder, Frame, FrameError, UNITS_OPEN_MAX};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
enum Input {
    Raw(Vec<u8>, u8),
    Frames(Vec<Said>, u8),
}

#[derive(Arbitrary, Debug)]
enum Said {
    Control(Vec<u8>),
    Part { unit: u8, is_last: bool, bytes: Vec<u8> },
    /// Of the unit that was not begun yet.
    Next { is_last: bool, bytes: Vec<u8> },
    GiveUp { unit: u8 },
}

fuzz_target!(|input: Input| match input {
    Input::Raw(bytes, cut) => {
        let whole = decode(&bytes, bytes.len());
        assert_eq!(decode(&bytes, usize::from(cut) + 1), whole);
        let mut again = BytesMut::new();
        for frame in &whole.0 {
            frame.encode(&mut again);
        }
        assert!(bytes.starts_with(&again), "another encoding of the same");
        assemble(&whole.0, bytes.len());
    }
    Input::Frames(said, cut) => {
        let mut bytes = BytesMut::new();
        let mut frames = Vec::new();
        let mut next = 0;
        for said in said {
            let frame = match said {
                Said::Control(bytes) if bytes.is_empty() => continue,
                Said::Control(bytes) => Frame::Control(bytes.into()),
                Said::Part { is_last: false, bytes, .. } | Said::Next { is_last: false, bytes }
                    if bytes.is_empty() =>
                {
                    continue;
                }
                Said::Part { unit, is_last, bytes } => Frame::Part {
                    unit: unit.into(),
                    is_last,
                    bytes: bytes.into(),
                },
                Said::Next { is_last, bytes } => {
                    next += 1;
                    Frame::Part {
                        unit: next - 1,
                        is_last,
                        bytes: bytes.into(),
                    }
                }
                Said::GiveUp { unit } => Frame::GiveUp {
                    unit: unit.into(),
                    code: 16,
                },
            };
            frame.encode(&mut bytes);
            frames.push(frame);
        }
        assert_eq!(decode(&bytes, usize::from(cut) + 1), (frames.clone(), None));
        assemble(&frames, bytes.len());
    }
});

fn decode(bytes: &[u8], cut: usize) -> (Vec<Frame>, Option<FrameError>) {
    let mut decoder = Decoder::default();
    let mut frames = Vec::new();
    for piece in bytes.chunks(cut.max(1)) {
        decoder.buffer_mut().extend_from_slice(piece);
        loop {
            match decoder.poll() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Some(error)),
            }
        }
    }
    (frames, None)
}

/// Beside a model that keeps everything.
fn assemble(frames: &[Frame], len: usize) {
    let mut assembly = Assembly::default();
    let mut open: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
    let mut next = 0;
    for frame in frames {
        match frame {
            Frame::Part { unit, is_last, bytes } => {
                let is_fine = open.contains_key(unit)
                    || (*unit == next && open.len() < UNITS_OPEN_MAX);
                let answer = assembly.part(*unit, *is_last, bytes);
                assert_eq!(answer.is_ok(), is_fine, "{answer:?}");
                let Ok(answer) = answer else {
                    return;
                };
                if *unit == next {
                    next += 1;
                }
                open.entry(*unit).or_default().extend_from_slice(bytes);
                let whole = is_last.then(|| open.remove(unit)).flatten().map(Bytes::from);
                assert_eq!(answer, whole.map(Ok));
            }
            Frame::GiveUp { unit, .. } => {
                let was_open = open.remove(unit).is_some();
                let answer = assembly.give_up(*unit);
                assert_eq!(answer.is_ok(), was_open);
                if answer.is_err() {
                    return;
                }
            }
            _ => {}
        }
        let held: usize = open.values().map(Vec::len).sum();
        assert_eq!(assembly.bytes(), held);
        assert!(held <= len);
    }
}

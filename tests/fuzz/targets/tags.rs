//! Any FLV tags in any order: what comes out is something that the tunnel can carry.
//!
//! Input: tags behind each other, each of [`HEAD_LEN`] bytes and a body; so a table of tags makes seeds.

#![no_main]

use bytes::Buf;
use firstmile_relay::rtmp::flv::units::{Outcome, Units};
use firstmile_shared::tunnel::unit::Unit;
use libfuzzer_sys::fuzz_target;

/// Kind, milliseconds since the tag before, timestamp, length of the body.
const HEAD_LEN: usize = 1 + 2 + 4 + 2;

fuzz_target!(|input: &[u8]| {
    let mut input = input;
    let mut units = Units::default();
    let mut now_us = 0;
    while input.len() >= HEAD_LEN {
        let is_video = input.get_u8() & 1 == 0;
        now_us += i64::from(input.get_u16()) * 1000;
        let timestamp = input.get_u32();
        let len = usize::from(input.get_u16()).min(input.len());
        let body = input.copy_to_bytes(len);
        if is_video {
            units.video(now_us, timestamp, &body);
        } else {
            units.audio(now_us, timestamp, &body);
        }
        while let Some(outcome) = units.poll() {
            if let Outcome::Unit(unit) = outcome {
                assert!(!unit.payload.is_empty());
                assert_eq!(Unit::check(&unit), Ok(()), "{unit:?}");
            }
        }
    }
});

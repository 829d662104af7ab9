//! Any FLV tags in any order: what comes out is something that the tunnel can carry.

#![no_main]

use arbitrary::Arbitrary;
use bytes::Bytes;
use firstmile_relay::rtmp::flv::units::{Outcome, Units};
use firstmile_shared::tunnel::unit::Unit;
use libfuzzer_sys::fuzz_target;

#[derive(Debug, Arbitrary)]
struct Tag<'a> {
    is_video: bool,
    later_ms: u16,
    timestamp: u32,
    body: &'a [u8],
}

fuzz_target!(|tags: Vec<Tag<'_>>| {
    let mut units = Units::default();
    let mut now_us = 0;
    for tag in tags {
        now_us += i64::from(tag.later_ms) * 1000;
        let body = Bytes::copy_from_slice(tag.body);
        if tag.is_video {
            units.video(now_us, tag.timestamp, &body);
        } else {
            units.audio(now_us, tag.timestamp, &body);
        }
        while let Some(outcome) = units.poll() {
            if let Outcome::Unit(unit) = outcome {
                assert!(!unit.payload.is_empty());
                assert_eq!(Unit::check(&unit), Ok(()), "{unit:?}");
            }
        }
    }
});

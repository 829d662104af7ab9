//! Any bytes as a unit's stream on the tunnel: what is understood can be written, and reads the same.

#![no_main]

use bytes::{Bytes, BytesMut};
use firstmile_shared::tunnel::unit::Unit;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(unit) = Unit::decode(Bytes::copy_from_slice(bytes)) else {
        return;
    };
    let mut written = BytesMut::from(&unit.encode_head()[..]);
    written.extend_from_slice(&unit.access_unit.payload);
    assert_eq!(Unit::decode(written.freeze()).as_ref(), Ok(&unit));
});

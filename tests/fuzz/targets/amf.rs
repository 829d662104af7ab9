//! Any bytes as AMF0, AMF3 inside included: what is understood can be written, and reads the same.

#![no_main]

use bytes::BytesMut;
use firstmile_relay::rtmp::amf0;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(values) = amf0::decode_all(bytes) else {
        return;
    };
    let mut written = BytesMut::new();
    for value in &values {
        amf0::encode(value, &mut written);
    }
    let again = amf0::decode_all(&written);
    // As text, because a number that is none equals nothing, not even itself.
    assert_eq!(format!("{again:?}"), format!("Ok({values:?})"));
});

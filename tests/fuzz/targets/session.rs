//! A whole connection as bytes, seeded with what real encoders send.

#![no_main]

use firstmile_fuzz::Driven;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    firstmile_fuzz::connection(bytes, &mut Driven::new(1, true));
});

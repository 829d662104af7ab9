//! Any bytes as control messages, from either side: understood, unknown, or refused; and what is understood can be said again.

#![no_main]

use std::fmt::Debug;

use firstmile_shared::tunnel::control::{self, Decoder, FromConnector, FromRelay, Received};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (bool, &[u8])| match input {
    (true, bytes) => hear::<FromConnector>(bytes),
    (false, bytes) => hear::<FromRelay>(bytes),
});

const LEN_MAX: usize = 16 * 1024;

fn hear<M: serde::de::DeserializeOwned + serde::Serialize + Debug>(bytes: &[u8]) {
    let mut decoder = Decoder::new(LEN_MAX);
    decoder.buffer_mut().extend_from_slice(bytes);
    while let Ok(Some(received)) = decoder.poll::<M>() {
        if let Received::Message(message) = received {
            let mut again = Decoder::new(usize::MAX);
            again
                .buffer_mut()
                .extend_from_slice(&control::encode(&message));
            let said = again.poll::<M>();
            assert!(
                matches!(&said, Ok(Some(Received::Message(said))) if format!("{said:?}") == format!("{message:?}")),
                "{message:?} becomes {said:?}"
            );
        }
    }
}

//! What holds for any bytes and any order of operations.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Operation {
    Bytes(Vec<u8>),
    Command(&'static str, f64),
    Media(u8, u32, Vec<u8>),
    Elapse(u32),
    Accept,
    Refuse,
    Drain,
}

fn operation() -> impl Strategy<Value = Operation> {
    let names = prop::sample::select(vec![
        "connect",
        "createStream",
        "publish",
        "FCPublish",
        "FCUnpublish",
        "deleteStream",
        "unknown",
    ]);
    prop_oneof![
        1 => prop::collection::vec(any::<u8>(), 0..300).prop_map(Operation::Bytes),
        6 => (names, 0.0..9.0f64).prop_map(|(name, transaction)| Operation::Command(name, transaction)),
        8 => (
            prop::sample::select(vec![kind::AUDIO, kind::VIDEO, kind::DATA_AMF0, kind::AGGREGATE, kind::USER_CONTROL]),
            any::<u32>(),
            prop_oneof![
                Just(AVCC_TAG.to_vec()), Just(ASC_TAG.to_vec()), Just(KEY_TAG.to_vec()),
                prop::collection::vec(any::<u8>(), 0..2000),
            ],
        ).prop_map(|(kind, time, body)| Operation::Media(kind, time, body)),
        1 => (0..3_000_000u32).prop_map(Operation::Elapse),
        3 => Just(Operation::Accept),
        1 => Just(Operation::Refuse),
        3 => Just(Operation::Drain),
    ]
}

proptest! {
    /// Whatever an encoder and the driver do, in whatever order, the session holds a bounded amount and does not panic.
    #[test]
    fn any_operations_stay_within_the_bound(operations in prop::collection::vec(operation(), 0..60)) {
        let mut encoder = Encoder::default();
        encoder.handshake();
        let mut session = Session::new(0, WITHIN_US, 7);
        let mut now_us = 0_i64;
        for operation in operations {
            match operation {
                Operation::Bytes(bytes) => encoder.bytes.extend_from_slice(&bytes),
                Operation::Command("connect", _) => encoder.connect("truck1"),
                Operation::Command(name, transaction) => encoder.call(name, transaction, &["key"]),
                Operation::Media(kind, timestamp, body) => {
                    encoder.send(6, &Message { timestamp, ..tag(kind, &body) });
                }
                Operation::Elapse(us) => {
                    now_us += i64::from(us);
                    if session.handle_timeout(now_us).is_err() { break; }
                }
                Operation::Accept => session.accept_publish(),
                Operation::Refuse => session.refuse_publish(),
                Operation::Drain => while session.poll_event().is_some() || session.poll_transmit().is_some() {},
            }
            let before = session.is_publishing();
            let result = session.handle_input(now_us, &mut encoder.bytes);
            let bound = if before { BUFFERED_BYTES_MAX } else { 6 * UNAUTHENTICATED_LEN_MAX };
            prop_assert!(session.buffered_bytes() <= bound, "{}", session.buffered_bytes());
            prop_assert!(session.events.len() <= EVENTS_MAX + 2);
            if result.is_err() { break; }
        }
    }

    #[test]
    fn any_split_of_the_bytes_gives_the_same_events(cuts in prop::collection::vec(1..500usize, 0..60)) {
        let mut encoder = publishing_encoder();
        encoder.media();
        let bytes = encoder.bytes.freeze();
        let play = |cuts: &[usize]| {
            let mut session = Session::new(0, WITHIN_US, 1);
            let (mut input, mut events) = (BytesMut::new(), Vec::new());
            let (mut left, mut cuts) = (&bytes[..], cuts.iter());
            while !left.is_empty() {
                let (part, rest) = left.split_at((*cuts.next().unwrap_or(&left.len())).min(left.len()));
                input.extend_from_slice(part);
                left = rest;
                while session.handle_input(0, &mut input).unwrap() == Progress::Full {
                    session.poll_transmit();
                    events.extend(std::iter::from_fn(|| session.poll_event()));
                    session.accept_publish();
                }
                events.extend(std::iter::from_fn(|| session.poll_event()));
            }
            events
        };
        let whole = play(&[]);
        prop_assert_eq!(units(&whole), 2);
        prop_assert_eq!(play(&cuts), whole);
    }

    #[test]
    fn arbitrary_bytes_never_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..2000),
        stage in 0..3u8,
    ) {
        let mut encoder = Encoder::default();
        let mut session = Session::new(0, WITHIN_US, 1);
        if stage > 0 {
            encoder.handshake();
        }
        if stage > 1 {
            encoder = publishing_encoder();
            drive(&mut session, &mut encoder.bytes);
            session.accept_publish();
        }
        encoder.bytes.extend_from_slice(&bytes);
        while session.handle_input(0, &mut encoder.bytes) == Ok(Progress::Full) {
            if session.poll_event().is_none() && session.poll_transmit().is_none() {
                break;
            }
        }
    }
}

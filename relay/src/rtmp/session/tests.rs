mod odd;
mod properties;

use super::*;
use crate::rtmp::{amf0::Value, handshake::BLOCK_LEN, message::Command};

#[test]
fn an_encoder_publishes_and_leaves() {
    let mut encoder = Encoder::default();
    let mut session = Session::new(0, WITHIN_US, 1);
    encoder.handshake();
    encoder.connect("truck1");
    encoder.call("releaseStream", 2.0, &["key"]);
    encoder.call("FCPublish", 3.0, &["key"]);
    encoder.call("createStream", 4.0, &[]);
    let (events, replies) = drive(&mut session, &mut encoder.bytes);
    assert_eq!(events, []);
    assert_eq!(
        replies
            .iter()
            .map(|c| (c.name.as_str(), c.transaction))
            .collect::<Vec<_>>(),
        [
            ("_result", 1.0),
            ("_result", 2.0),
            ("_result", 3.0),
            ("onFCPublish", 3.0),
            ("_result", 4.0)
        ]
    );

    encoder.call("publish", 5.0, &["key", "live"]);
    let (events, replies) = drive(&mut session, &mut encoder.bytes);
    assert_eq!(events, [requested("truck1", "key")]);
    assert_eq!(replies, [], "the answer waits for the decision");

    session.accept_publish();
    encoder.media();
    let (events, replies) = drive(&mut session, &mut encoder.bytes);
    assert_eq!(codes(&replies), ["NetStream.Publish.Start"]);
    assert_eq!(units(&events), 2);
    assert_eq!(session.poll_timeout(), None, "nothing expires on air");

    encoder.call("FCUnpublish", 6.0, &["key"]);
    encoder.call("deleteStream", 7.0, &["key"]);
    assert_eq!(
        drive(&mut session, &mut encoder.bytes).0,
        [Event::Unpublished]
    );
}

#[test]
fn the_order_of_the_answer_is_the_one_every_encoder_accepts() {
    let mut encoder = Encoder::default();
    let mut session = Session::new(0, WITHIN_US, 1);
    encoder.handshake();
    encoder.connect("truck1");
    let _ = session.handle_input(0, &mut encoder.bytes).unwrap();
    let mut output = BytesMut::from(&session.poll_transmit().unwrap()[1 + 2 * BLOCK_LEN..]);
    // Window, bandwidth, chunk size, result.
    assert_eq!([output[7], output[16 + 7], output[16 + 17 + 7]], [5, 6, 1]);
    let mut decoder = chunk::Decoder::new(Limits::default().of_publishers());
    let result = std::iter::from_fn(|| decoder.poll(&mut output).unwrap())
        .last()
        .unwrap();
    let text = String::from_utf8_lossy(&result.payload).into_owned();
    let at = |word: &str| text.find(word).unwrap_or_else(|| panic!("no {word}"));
    assert!(at("level") < at("code") && at("code") < at("description"));
}

#[test]
fn media_sent_ahead_of_our_answer_waits() {
    let mut encoder = publishing_encoder();
    encoder.media();
    let mut session = Session::new(0, WITHIN_US, 1);
    let (events, _) = drive(&mut session, &mut encoder.bytes);
    assert_eq!(units(&events), 0);
    assert!(!encoder.bytes.is_empty());
    session.accept_publish();
    assert_eq!(units(&drive(&mut session, &mut encoder.bytes).0), 2);
}

#[test]
fn a_wrong_key_is_told_and_the_connection_closed() {
    let mut encoder = publishing_encoder();
    let mut session = Session::new(0, WITHIN_US, 1);
    drive(&mut session, &mut encoder.bytes);
    session.refuse_publish();
    let (_, replies) = drive(&mut session, &mut encoder.bytes);
    assert_eq!(codes(&replies), ["NetStream.Publish.BadName"]);
    assert!(session.is_closing());
}

/// Before it publishes and in the middle of it.
#[test]
fn an_encoder_that_the_studio_refuses_is_told_so() {
    for is_live in [false, true] {
        let mut encoder = publishing_encoder();
        let mut session = Session::new(0, WITHIN_US, 1);
        drive(&mut session, &mut encoder.bytes);
        if is_live {
            session.accept_publish();
            drive(&mut session, &mut encoder.bytes);
        }
        session.deny_publish();
        let (_, replies) = drive(&mut session, &mut encoder.bytes);
        assert_eq!(codes(&replies), ["NetStream.Publish.Denied"]);
        assert!(session.is_closing());
    }
}

#[test]
fn a_fault_that_passes_is_not_told() {
    let mut encoder = publishing_encoder();
    let mut session = Session::new(0, WITHIN_US, 1);
    drive(&mut session, &mut encoder.bytes);
    session.close();
    assert_eq!(drive(&mut session, &mut encoder.bytes), (vec![], vec![]));
}

#[test]
fn an_encoder_may_publish_again_on_the_same_connection() {
    let mut encoder = publishing_encoder();
    let mut session = Session::new(0, WITHIN_US, 1);
    drive(&mut session, &mut encoder.bytes);
    session.accept_publish();
    encoder.call("publish", 8.0, &["other", "live"]);
    let (events, _) = drive(&mut session, &mut encoder.bytes);
    assert_eq!(events, [Event::Unpublished, requested("truck1", "other")]);
    session.accept_publish();
    encoder.media();
    assert_eq!(units(&drive(&mut session, &mut encoder.bytes).0), 2);
}

#[test]
fn commands_behind_amf3s_format_byte_and_without_transactions_are_understood() {
    let mut encoder = Encoder::default();
    encoder.handshake();
    encoder.connect("truck1");
    encoder.call_as(kind::COMMAND_AMF3, &[0], "createStream", 2.0, &[]);
    // GStreamer: transaction 0.
    encoder.call("publish", 0.0, &["key", "live"]);
    let mut session = Session::new(0, WITHIN_US, 1);
    assert_eq!(
        drive(&mut session, &mut encoder.bytes).0,
        [requested("truck1", "key")]
    );
}

#[test]
fn pings_are_answered_and_windows_acknowledged() {
    let mut encoder = publishing_encoder();
    let mut session = Session::new(0, WITHIN_US, 1);
    drive(&mut session, &mut encoder.bytes);
    session.accept_publish();
    session.poll_transmit();
    encoder.send(2, &message::control(kind::WINDOW_ACK_SIZE, 20_000));
    encoder.send(
        2,
        &Message {
            payload: vec![0, 6, 0, 0, 0, 7].into(),
            ..message::control(kind::USER_CONTROL, 0)
        },
    );
    encoder.send(
        4,
        &Message {
            payload: vec![0; 20_000].into(),
            ..message::control(kind::AUDIO, 0)
        },
    );
    let _ = session.handle_input(0, &mut encoder.bytes).unwrap();
    let mut output = BytesMut::from(&session.poll_transmit().unwrap()[..]);
    let mut decoder = chunk::Decoder::new(Limits::default().of_publishers());
    let sent: Vec<_> = std::iter::from_fn(|| decoder.poll(&mut output).unwrap()).collect();
    assert_eq!(sent[0].payload[..], [0, 7, 0, 0, 0, 7]);
    assert_eq!(sent[1].kind, kind::ACKNOWLEDGEMENT);
}

#[test]
fn acknowledgements_never_come_near_the_end_of_the_range() {
    let mut acknowledgements = Acknowledgements::default();
    acknowledgements.set_window(0);
    for _ in 0..5 {
        let sequence = acknowledgements.received(0x3fff_ffff);
        assert!(sequence.is_none_or(|sequence| sequence < SEQUENCE_RESET));
    }
}

#[test]
fn what_is_not_played_is_told_once() {
    let mut encoder = publishing_encoder();
    let mut session = Session::new(0, WITHIN_US, 1);
    drive(&mut session, &mut encoder.bytes);
    session.accept_publish();
    for _ in 0..3 {
        encoder.send(6, &tag(kind::VIDEO, b"\x90vvc1..."));
        encoder.send(4, &tag(kind::AUDIO, b"\xbf..."));
    }
    let (events, _) = drive(&mut session, &mut encoder.bytes);
    let told: Vec<_> = events
        .iter()
        .map(|event| match event {
            Event::Tracks(tracks) => format!("{} tracks", tracks.len()),
            Event::Unsupported(what) => what.to_string(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(told, ["1 tracks", "VVC", "2 tracks", "Speex"]);
}

#[test]
fn the_encoders_name_is_told_and_can_not_break_a_line() {
    let mut encoder = publishing_encoder();
    let mut session = Session::new(0, WITHIN_US, 1);
    drive(&mut session, &mut encoder.bytes);
    session.accept_publish();
    let mut body = BytesMut::new();
    for value in [
        Value::string("@setDataFrame"),
        Value::string("onMetaData"),
        Value::object([("encoder", Value::string("obs\n\u{1b}[2J"))]),
    ] {
        crate::rtmp::amf0::encode(&value, &mut body);
    }
    encoder.send(4, &tag(kind::DATA_AMF0, &body));
    // Damaged metadata does no harm.
    encoder.send(4, &tag(kind::DATA_AMF0, &[0x42]));
    let (events, _) = drive(&mut session, &mut encoder.bytes);
    assert_eq!(
        events,
        [Event::Metadata {
            encoder: "obs  [2J".into()
        }]
    );
}

#[test]
fn aggregates_are_taken_apart() {
    let mut encoder = publishing_encoder();
    let mut session = Session::new(0, WITHIN_US, 1);
    drive(&mut session, &mut encoder.bytes);
    session.accept_publish();
    let mut body = Vec::new();
    for (time, tag) in [(5, ASC_TAG), (5, b"\xaf\x01a"), (28, b"\xaf\x01b")] {
        body.extend([8, 0, 0, tag.len() as u8, 0, 0, time, 0, 0, 0, 1]);
        body.extend(tag);
        body.extend([0; 4]);
    }
    encoder.send(
        4,
        &Message {
            timestamp: 100,
            ..tag(kind::AGGREGATE, &body)
        },
    );
    let (events, _) = drive(&mut session, &mut encoder.bytes);
    let times: Vec<_> = events
        .iter()
        .filter_map(|e| {
            if let Event::Unit(u) = e {
                Some(u.dts_us)
            } else {
                None
            }
        })
        .collect();
    assert_eq!(times, [100_000, 123_000]);
}

#[test]
fn strangers_are_held_to_time_and_bytes() {
    let mut session = Session::new(5, WITHIN_US, 1);
    assert_eq!(session.poll_timeout(), Some(10_000_005));
    assert_eq!(session.handle_timeout(10_000_004), Ok(()));
    assert_eq!(
        session.handle_timeout(10_000_005),
        Err(SessionError::TimedOut {
            within_us: WITHIN_US
        })
    );

    let mut encoder = Encoder::default();
    encoder.handshake();
    for _ in 0..200 {
        encoder.send(4, &tag(kind::DATA_AMF0, &[5; 900]));
    }
    let mut session = Session::new(0, WITHIN_US, 1);
    let error = session.handle_input(0, &mut encoder.bytes);
    assert_eq!(
        error,
        Err(SessionError::TooMuchUnauthenticated {
            len_max: UNAUTHENTICATED_LEN_MAX
        })
    );

    let mut encoder = Encoder::default();
    encoder.handshake();
    encoder.call("publish", 1.0, &["key"]);
    let error = Session::new(0, WITHIN_US, 1).handle_input(0, &mut encoder.bytes);
    assert_eq!(
        error,
        Err(SessionError::NotConnected { command: "publish" })
    );

    let mut encoder = Encoder::default();
    encoder.handshake();
    encoder.connect("truck1");
    encoder.call("play", 1.0, &["key"]);
    assert_eq!(
        Session::new(0, WITHIN_US, 1).handle_input(0, &mut encoder.bytes),
        Err(SessionError::Play)
    );
}

/// A message can be one byte: a header that repeats the one before, of nothing.
#[test]
fn many_small_messages_are_counted_and_give_others_their_turn() {
    let mut encoder = publishing_encoder();
    let mut session = Session::new(0, WITHIN_US, 1);
    drive(&mut session, &mut encoder.bytes);
    session.accept_publish();
    session.take_messages();
    encoder.send(4, &tag(kind::AUDIO, &[]));
    encoder.bytes.extend_from_slice(&[0xc4; 999]);
    let mut turns = 1;
    while session.handle_input(0, &mut encoder.bytes) == Ok(Progress::Full) {
        turns += 1;
    }
    assert_eq!(session.take_messages(), 1_000);
    assert_eq!(turns, 1 + 1_000 / MESSAGES_AT_ONCE);

    let inside = [8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 11];
    encoder.send(4, &tag(kind::AGGREGATE, &inside.repeat(500)));
    while session.handle_input(0, &mut encoder.bytes) == Ok(Progress::Full) {}
    assert_eq!(session.take_messages(), 1 + 500);
    // Those that are obeyed at once count, too.
    encoder.send(4, &tag(kind::ABORT, &[]));
    encoder.bytes.extend_from_slice(&[0xc4; 99]);
    while session.handle_input(0, &mut encoder.bytes) == Ok(Progress::Full) {}
    assert_eq!(session.take_messages(), 100);
}

/// Nor what it began to say while it published, and never ends: it counts as a stranger's again.
#[test]
fn who_ends_its_publish_keeps_no_more_than_a_stranger() {
    for (begun, expected) in [
        (100, Ok(Progress::NeedsInput)),
        (
            300,
            Err(SessionError::TooMuchUnauthenticated {
                len_max: UNAUTHENTICATED_LEN_MAX,
            }),
        ),
    ] {
        let mut encoder = publishing_encoder();
        let mut session = Session::new(0, WITHIN_US, 1);
        drive(&mut session, &mut encoder.bytes);
        session.accept_publish();
        // A picture of which so many chunks come, and a command between them.
        encoder.send(6, &tag(kind::VIDEO, &vec![0x27; 100_000]));
        encoder.bytes.truncate(12 - 1 + begun * (1 + 128));
        encoder.call("deleteStream", 7.0, &["key"]);
        let result = session.handle_input(0, &mut encoder.bytes);
        assert_eq!(result, expected, "{begun} chunks");
    }
}

#[test]
fn who_is_sent_away_keeps_nothing() {
    let mut encoder = publishing_encoder();
    let mut session = Session::new(0, WITHIN_US, 1);
    drive(&mut session, &mut encoder.bytes);
    session.accept_publish();
    encoder.send(6, &tag(kind::VIDEO, &vec![0x27; 100_000]));
    encoder.bytes.truncate(90_000);
    drive(&mut session, &mut encoder.bytes);
    assert!(session.buffered_bytes() >= 80_000);
    session.deny_publish();
    drive(&mut session, &mut encoder.bytes);
    assert_eq!(session.buffered_bytes(), 0);
}

/// However much of its last pictures came in one read with the command that ends them.
#[test]
fn who_ends_its_publish_was_no_stranger_while_it_published() {
    let mut encoder = publishing_encoder();
    let mut session = Session::new(0, WITHIN_US, 1);
    drive(&mut session, &mut encoder.bytes);
    session.accept_publish();
    encoder.send(
        6,
        &tag(kind::VIDEO, &vec![0x27; 2 * UNAUTHENTICATED_LEN_MAX]),
    );
    encoder.call("deleteStream", 7.0, &["key"]);
    assert_eq!(
        session.handle_input(0, &mut encoder.bytes),
        Ok(Progress::NeedsInput)
    );
    // From then on it is one again.
    encoder.send(
        6,
        &tag(kind::VIDEO, &vec![0x27; 2 * UNAUTHENTICATED_LEN_MAX]),
    );
    assert!(session.handle_input(0, &mut encoder.bytes).is_err());
}

#[test]
fn no_debug_text_shows_the_key() {
    let mut encoder = publishing_encoder();
    let mut session = Session::new(0, WITHIN_US, 1);
    let _ = session.handle_input(0, &mut encoder.bytes);
    let event = session.poll_event().unwrap();
    assert_eq!(event, requested("truck1", "key"));
    for text in [format!("{event:?}"), format!("{session:?}")] {
        assert!(!text.contains("\"key\""), "{text}");
    }
}

/// What an encoder sends.
#[derive(Default)]
struct Encoder {
    chunks: chunk::Encoder,
    bytes: BytesMut,
}

impl Encoder {
    fn handshake(&mut self) {
        self.bytes.extend_from_slice(&[3]);
        self.bytes.extend_from_slice(&[0; 2 * BLOCK_LEN]);
    }

    fn send(&mut self, chunk_stream: u8, message: &Message) {
        self.chunks.encode(&mut self.bytes, chunk_stream, message);
    }

    fn connect(&mut self, app: &str) {
        let command = Command {
            name: "connect".into(),
            transaction: 1.0,
            object: Value::object([
                ("app", Value::string(app)),
                ("flashVer", Value::string("FMLE/3.0 (compatible; Lavf59)")),
            ]),
            arguments: vec![],
        };
        self.send(3, &command.to_message(0));
    }

    fn call(&mut self, name: &str, transaction: f64, arguments: &[&str]) {
        self.call_as(kind::COMMAND_AMF0, &[], name, transaction, arguments);
    }

    fn call_as(
        &mut self,
        kind: u8,
        before: &[u8],
        name: &str,
        transaction: f64,
        arguments: &[&str],
    ) {
        let command = Command {
            name: name.into(),
            transaction,
            object: Value::Null,
            arguments: arguments.iter().map(|text| Value::string(text)).collect(),
        };
        let mut message = command.to_message(1);
        message.kind = kind;
        message.payload = [before, &message.payload].concat().into();
        self.send(3, &message);
    }

    /// Configurations, a keyframe and a block of sound.
    fn media(&mut self) {
        self.send(6, &tag(kind::VIDEO, AVCC_TAG));
        self.send(4, &tag(kind::AUDIO, ASC_TAG));
        self.send(6, &tag(kind::VIDEO, KEY_TAG));
        self.send(4, &tag(kind::AUDIO, b"\xaf\x01sound"));
    }
}

fn publishing_encoder() -> Encoder {
    let mut encoder = Encoder::default();
    encoder.handshake();
    encoder.connect("truck1");
    encoder.call("createStream", 2.0, &[]);
    encoder.call("publish", 3.0, &["key", "live"]);
    encoder
}

/// Gives the session all bytes; its events, and its commands and statuses.
fn drive(session: &mut Session, input: &mut BytesMut) -> (Vec<Event>, Vec<Command>) {
    let (mut events, mut sent) = (Vec::new(), BytesMut::new());
    loop {
        let progress = session.handle_input(0, input).unwrap();
        let (had_events, had_bytes) = (events.len(), sent.len());
        events.extend(std::iter::from_fn(|| session.poll_event()));
        sent.extend(std::iter::from_fn(|| session.poll_transmit()).flatten());
        let is_idle =
            session.take_messages() == 0 && (events.len(), sent.len()) == (had_events, had_bytes);
        if progress == Progress::NeedsInput || is_idle {
            break;
        }
    }
    if sent.len() > 2 * BLOCK_LEN {
        let _ = sent.split_to(1 + 2 * BLOCK_LEN);
    }
    let mut decoder = chunk::Decoder::new(Limits::default().of_publishers());
    // As the session announced it in its first answer.
    let mut announced = BytesMut::new();
    chunk::Encoder::default().set_chunk_size(&mut announced, 4096);
    assert_eq!(decoder.poll(&mut announced), Ok(None));
    let commands = std::iter::from_fn(|| decoder.poll(&mut sent).unwrap())
        .filter_map(|message| match Incoming::parse(message) {
            Ok(Incoming::Command(command)) => Some(command),
            _ => None,
        })
        .collect();
    (events, commands)
}

fn codes(commands: &[Command]) -> Vec<&str> {
    commands
        .iter()
        .filter_map(|command| command.arguments.first()?.get("code")?.as_str())
        .collect()
}

fn units(events: &[Event]) -> usize {
    events
        .iter()
        .filter(|event| matches!(event, Event::Unit(_)))
        .count()
}

fn requested(studio: &str, key: &str) -> Event {
    Event::PublishRequested(PublishRequested {
        studio: studio.into(),
        key: Secret::new(key),
        encoder: "Lavf59".into(),
    })
}

fn tag(kind: u8, body: &[u8]) -> Message {
    Message {
        kind,
        stream: 1,
        timestamp: 0,
        payload: body.to_vec().into(),
    }
}

const WITHIN_US: i64 = 10_000_000;
const AVCC_TAG: &[u8] =
    b"\x17\0\0\0\0\x01\x42\xc0\x1f\xff\xe1\x00\x17\x67\x42\xc0\x1f\xda\x01\x40\x16\xec\x04\x40\x00\
    \x00\x03\x00\x40\x00\x00\x0f\x23\xc6\x0c\xa8\x01\x00\x04\x68\xce\x0f\xc8";
const ASC_TAG: &[u8] = b"\xaf\0\x12\x10";
const KEY_TAG: &[u8] = b"\x17\x01\0\0\0\0\0\0\x02\x65\x88";

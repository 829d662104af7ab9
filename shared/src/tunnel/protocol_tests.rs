//! `PROTOCOL.md` against the code: a number that is in one and not in the other fails here (or in the relay's
//! `tunnel::tests`, for what only the relay knows).

use std::collections::BTreeSet;

use super::{
    ALPN, VERSION,
    clock::{HEARTBEAT, Ping, Pong, WINDOW_US},
    close::{Close, Reset},
    control::{
        FINDING_TEXT_MAX, FINDINGS_MAX, FromConnector, FromRelay, LINES_MAX, MAX_LAG_MS,
        MESSAGE_LEN_MAX, MESSAGE_LEN_MAX_UNKNOWN, ShowFormat,
    },
    frame::{self, BODY_LEN_MAX, Frame, SENTENCE_LEN_MAX},
    scheduler::LATE_MARGIN_US,
    unit::{CONFIG_LEN_MAX, HEADER_LEN, PAYLOAD_LEN_MAX, Unit},
};
use crate::{
    media::{AccessUnit, Codec},
    quic::{IDLE_TIMEOUT, STRANGER_WINDOW, STREAMS_MIN},
    secret::Secret,
    takeover,
};

const TEXT: &str = include_str!("../../PROTOCOL.md");

/// The rows of the tables of a section, as trimmed cells without code marks.
fn rows(section: &str) -> Vec<Vec<String>> {
    let start = TEXT
        .find(&format!("# {section}\n"))
        .unwrap_or_else(|| panic!("no section {section:?}"));
    let rest = &TEXT[start + 2..];
    let end = rest.find("\n#").unwrap_or(rest.len());
    rest[..end]
        .lines()
        .filter(|line| line.starts_with("| "))
        .map(|line| {
            let cells = line.trim().trim_matches('|').split('|');
            cells
                .map(|cell| cell.trim().replace('`', ""))
                .collect::<Vec<_>>()
        })
        .collect()
}

/// The value beside a name.
fn value(section: &str, name: &str) -> String {
    rows(section)
        .into_iter()
        .find(|row| row[0] == name)
        .unwrap_or_else(|| panic!("no row {name:?} in {section:?}"))[1]
        .clone()
}

#[test]
fn names_and_limits_are_those_of_the_code() {
    for (section, name, code) in [
        (
            "Handshake",
            "ALPN",
            String::from_utf8(ALPN.to_vec()).unwrap(),
        ),
        ("Handshake", "version", VERSION.to_string()),
        (
            "Handshake",
            "length of a message",
            MESSAGE_LEN_MAX_UNKNOWN.to_string(),
        ),
        ("Handshake", "bytes in flight", STRANGER_WINDOW.to_string()),
        (
            "Control messages",
            "length of a message after the welcome",
            MESSAGE_LEN_MAX.to_string(),
        ),
        (
            "Control messages",
            "lines of a declaration",
            LINES_MAX.to_string(),
        ),
        ("Units", "configuration", CONFIG_LEN_MAX.to_string()),
        ("Units", "payload", PAYLOAD_LEN_MAX.to_string()),
    ] {
        assert_eq!(value(section, name), code, "{section}: {name}");
    }
    for sentence in [
        format!("every {} ms", HEARTBEAT.as_millis()),
        format!("of the last {} s tells", WINDOW_US / 1_000_000),
        format!("{} s without a packet", IDLE_TIMEOUT.as_secs()),
        format!("D + {} ms", LATE_MARGIN_US / 1000),
        format!("at least {STREAMS_MIN} streams"),
        format!("`max_lag_ms` (without it {MAX_LAG_MS})"),
        format!("at most {FINDINGS_MAX}, the worst first"),
        format!("at most {FINDING_TEXT_MAX} characters"),
        format!("{} when it is late", Reset::Late as u32),
        format!("{} when its feed ended", Reset::FeedEnded as u32),
        format!("sent nothing for {} ms. One", takeover::SILENT_US / 1000),
        format!(
            "has sent nothing for {} ms, or",
            takeover::RETURNED_US / 1000
        ),
        format!("younger than {} ms;", takeover::STALE_US / 1000),
        format!("for {} s after", takeover::OFF_PROGRAM_US / 1_000_000),
        format!(
            "After {} changes in {} s",
            takeover::CHANGES_MAX,
            takeover::WINDOW_US / 1_000_000
        ),
        format!("not tried for {} s", takeover::REFUSED_FOR_US / 1_000_000),
    ] {
        let flat = TEXT.replace('\n', " ");
        assert!(flat.contains(&sentence), "not in the text: {sentence}");
    }
}

#[test]
fn close_codes_are_those_of_the_code() {
    let rows = &rows("Close codes")[1..];
    for row in rows {
        let close = Close::from_code(row[0].parse().unwrap()).unwrap();
        let name = format!("{close:?}").to_lowercase();
        assert_eq!(row[1].replace(' ', ""), name);
        assert_eq!(row[2] == "yes", close.is_final(), "{name}");
    }
    let known = (0..1_000).filter_map(Close::from_code).count();
    assert_eq!(rows.len(), known);
}

#[test]
fn codecs_are_those_of_the_code() {
    let rows = &rows("Codecs")[1..];
    for row in rows {
        let codec = Codec::from_code(row[0].parse().unwrap()).unwrap();
        assert_eq!(row[1], codec.name());
        assert_eq!(row[2] != "none", codec.needs_config(), "{}", row[1]);
    }
    assert_eq!(rows.len(), Codec::ALL.len());
}

/// A unit whose fields are all different, found again where the table says.
#[test]
fn the_layout_of_a_unit_is_that_of_the_code() {
    let unit = Unit {
        line: 0x0102_0304,
        publisher: 0x1112_1314,
        seq: 0x2122_2324_2526_2728,
        ingest_us: 0x3132_3334_3536_3738,
        baseline_us: -0x4142_4344_4546_4748,
        queued_us: 0x5152_5354,
        access_unit: AccessUnit {
            codec: Codec::Opus,
            track: 3,
            keyframe: true,
            disposable: false,
            discontinuity: true,
            dts_us: 0x6162_6364_6566_6768,
            cts_us: -0x7172_7374,
            config: Some(vec![9; 5].into()),
            payload: vec![8; 7].into(),
        },
    };
    let media = &unit.access_unit;
    let head = unit.encode_head();
    let rows = &rows("Units")[1..];
    let mut end = 0;
    for row in rows.iter().take_while(|row| !row[2].is_empty()) {
        let (offset, len): (usize, usize) = (row[0].parse().unwrap(), row[1].parse().unwrap());
        assert_eq!(offset, end, "{}", row[2]);
        end = offset + len;
        let expected: Vec<u8> = match row[2].as_str() {
            "layout" => vec![row[3].parse().unwrap()],
            "flags" => vec![0b101],
            "codec" => vec![media.codec.code()],
            "track" => vec![media.track],
            "line" => unit.line.to_be_bytes().into(),
            "publisher" => unit.publisher.to_be_bytes().into(),
            "seq" => unit.seq.to_be_bytes().into(),
            "dts_us" => media.dts_us.to_be_bytes().into(),
            "ingest_us" => unit.ingest_us.to_be_bytes().into(),
            "baseline_us" => unit.baseline_us.to_be_bytes().into(),
            "queued_us" => unit.queued_us.to_be_bytes().into(),
            "cts_us" => media.cts_us.to_be_bytes().into(),
            "config_len" => 5u32.to_be_bytes().into(),
            "payload_len" => 7u32.to_be_bytes().into(),
            other => panic!("a field that is not in the code: {other}"),
        };
        assert_eq!(head[offset..end], expected, "{}", row[2]);
    }
    assert_eq!(end, HEADER_LEN);
    assert!(rows.iter().any(|row| row[0] == HEADER_LEN.to_string()));
}

#[test]
fn datagrams_are_those_of_the_code() {
    let rows = &rows("Clocks and heartbeat")[1..];
    let ping = Ping { sent_us: 1 }.encode();
    let answer = Pong {
        ping_sent_us: 1,
        received_us: 2,
        sent_us: 3,
    }
    .encode();
    for (row, datagram) in rows.iter().zip([ping, answer]) {
        assert_eq!(row[0], datagram[0].to_string(), "{}", row[1]);
        let fields = row[2].split(',').count();
        assert_eq!(datagram.len(), 1 + 8 * fields, "{}", row[1]);
    }
    assert_eq!(rows.len(), 2);
}

/// Every message with all its fields; a new one has to be added here and to the text.
#[test]
fn control_messages_are_those_of_the_code() {
    let from_connector = [
        FromConnector::Enrol {
            token: String::new(),
            secret: Secret::new(""),
            name: String::new(),
        },
        FromConnector::Hello {
            version: 1,
            name: String::new(),
            software: String::new(),
            session: 0,
            handover: true,
        },
        FromConnector::Declare {
            generation: 0,
            lines: vec![],
        },
        FromConnector::Tally {
            program: vec![],
            preview: vec![],
        },
        FromConnector::Take {
            line: 0,
            publisher: 0,
        },
        FromConnector::Refuse {
            line: 0,
            publisher: 0,
        },
        FromConnector::Play {
            line: 0,
            video: 0,
            audio: 0,
        },
        FromConnector::Resync { line: 0 },
        FromConnector::Show {
            format: ShowFormat {
                width: 1920,
                height: 1080,
                interlaced: false,
                rate: (25, 1),
            },
        },
        FromConnector::Invite {},
        FromConnector::Bye {
            reason: String::new(),
        },
    ];
    check_messages("Connector to relay", from_connector.iter().map(json));
    check_messages("Relay to connector", from_relay().iter().map(json));
}

fn from_relay() -> Vec<FromRelay> {
    use super::control::{DropReason, IngestAddresses};
    vec![
        FromRelay::Enrolled {
            studio: String::new(),
            ingest: IngestAddresses::default(),
        },
        FromRelay::Welcome {
            version: 1,
            studio: String::new(),
            salt: String::new(),
            software: String::new(),
            ingest: IngestAddresses::default(),
        },
        FromRelay::Refused {
            code: 0,
            message: String::new(),
        },
        FromRelay::Declared {
            generation: 0,
            refused: vec![],
        },
        FromRelay::FeedStarted {
            line: 0,
            publisher: 0,
            encoder: String::new(),
            peer: String::new(),
            protocol: String::new(),
            agent: "FMLE/3.0".to_owned(),
        },
        FromRelay::FeedEnded {
            line: 0,
            publisher: 0,
            reason: String::new(),
        },
        FromRelay::FeedStatus {
            feeds: vec![],
            lost_percent: Some(0.0),
        },
        FromRelay::Claims {
            line: 0,
            held: vec![],
            refused: vec![],
            frozen: true,
        },
        FromRelay::Tracks {
            line: 0,
            publisher: 0,
            tracks: vec![],
        },
        FromRelay::Findings {
            line: 0,
            publisher: 0,
            findings: vec![],
        },
        FromRelay::Dropped {
            line: 0,
            publisher: 0,
            from_seq: 0,
            to_seq: 0,
            video: 0,
            audio: 0,
            disposable: true,
            reason: DropReason::Late,
        },
        FromRelay::Invited {
            token: String::new(),
            secret: Secret::new(""),
            expires_unix: 0,
        },
        FromRelay::NotInvited {
            message: String::new(),
        },
        FromRelay::Draining {},
    ]
}

fn json<M: serde::Serialize>(message: &M) -> serde_json::Value {
    serde_json::to_value(message).unwrap()
}

fn check_messages(section: &str, messages: impl Iterator<Item = serde_json::Value>) {
    let text: BTreeSet<(String, BTreeSet<String>)> = rows(section)[1..]
        .iter()
        .map(|row| {
            let fields = row[1].split(", ").filter(|field| !field.is_empty());
            (row[0].clone(), fields.map(str::to_owned).collect())
        })
        .collect();
    let code: BTreeSet<_> = messages
        .map(|message| {
            let object = message.as_object().unwrap();
            let fields = object.keys().filter(|key| *key != "type");
            let kind = object["type"].as_str().unwrap().to_owned();
            (kind, fields.cloned().collect::<BTreeSet<_>>())
        })
        .collect();
    assert_eq!(text, code, "{section}");
}

#[test]
fn frames_are_those_of_the_code() {
    let bytes = bytes::Bytes::from_static(b"12345678");
    let part = |is_last| Frame::Part {
        unit: 7,
        is_last,
        bytes: bytes.clone(),
    };
    let (any, close) = (BODY_LEN_MAX.to_string(), 4 + SENTENCE_LEN_MAX);
    let frames = [
        (
            Frame::Control(bytes.clone()),
            "control",
            format!("1 to {any}"),
        ),
        (
            Frame::Datagram(bytes.clone()),
            "datagram",
            format!("1 to {any}"),
        ),
        (part(false), "part", format!("1 to {any}")),
        (part(true), "last part", format!("0 to {any}")),
        (
            Frame::GiveUp { unit: 7, code: 16 },
            "give up",
            "4".to_owned(),
        ),
        (
            Frame::Close {
                code: 1,
                sentence: bytes.clone(),
            },
            "close",
            format!("4 to {close}"),
        ),
    ];
    let rows = rows("Over TCP");
    for (frame, name, lengths) in &frames {
        let mut encoded = bytes::BytesMut::new();
        frame.encode(&mut encoded);
        let row = rows.iter().find(|row| row[1] == *name).unwrap();
        assert_eq!(row[0], encoded[0].to_string(), "{name}");
        assert_eq!(row[2], *lengths, "{name}");
    }
    let kinds = rows.iter().filter(|row| row.len() == 5 && row[0] != "kind");
    assert_eq!(kinds.count(), frames.len(), "no frame besides");
    let fields: usize = rows
        .iter()
        .filter(|row| row.len() == 4)
        .filter_map(|row| row[1].parse::<usize>().ok())
        .sum();
    assert_eq!(fields, frame::HEADER_LEN);
    let text = TEXT.split("# Over TCP").nth(1).unwrap();
    for number in [frame::UNITS_OPEN_MAX, frame::UNITS_BYTES_MAX] {
        assert!(text.contains(&number.to_string()), "{number}");
    }
}

use proptest::prelude::*;

use super::*;
use crate::rtmp::vectors;

#[test]
fn every_tag_means_what_the_table_says() {
    let mut count = 0;
    for line in vectors::lines(include_str!("../vectors/tags.txt")) {
        let [kind, bytes, meaning] = line[..] else {
            panic!("three fields: {line:?}");
        };
        let body = Bytes::from(vectors::bytes(bytes));
        let parts = match kind {
            "video" => video(&body),
            "audio" => audio(&body),
            other => panic!("{other} is neither video nor audio"),
        };
        let found: Vec<_> = parts.map(|part| describe(&part)).collect();
        assert_eq!(found.join("; "), meaning, "{kind} {bytes}");
        count += 1;
    }
    assert!(count > 90, "{count} lines");
}

#[test]
fn the_parts_of_a_tag_are_bounded() {
    // Many tracks of AV1, all without a byte.
    let mut body = b"\x96\x11av01".to_vec();
    body.extend([0; 4].repeat(1_000_000));
    let parts: Vec<_> = video(&body.into()).collect();
    assert_eq!(parts.len(), 65);
    assert_eq!(parts[64].packet, Packet::Damaged);
}

fn describe(part: &Part) -> String {
    let what = match &part.packet {
        Packet::Config { codec, record } => {
            format!("config {}, {} bytes", codec.name(), record.len())
        }
        Packet::Picture {
            codec,
            keyframe,
            disposable,
            composition_ms,
            data,
        } => {
            let form = match (keyframe, disposable) {
                (true, _) => "keyframe",
                (_, true) => "disposable",
                _ => "picture",
            };
            let later = match composition_ms {
                0 => String::new(),
                ms => format!(", {ms} ms later"),
            };
            format!("{form} {}, {} bytes{later}", codec.name(), data.len())
        }
        Packet::Sound { codec, data } => {
            let codec = codec.map_or("as before", Codec::name);
            format!("sound {codec}, {} bytes", data.len())
        }
        Packet::Metadata(amf) => format!("metadata, {} bytes", amf.len()),
        Packet::Nothing => "nothing".to_owned(),
        Packet::Unsupported(what) => format!("not played: {what}"),
        Packet::Damaged => "damaged".to_owned(),
    };
    let offset = match part.offset_ns {
        0 => String::new(),
        ns => format!(", {ns} ns later"),
    };
    format!("track {}: {what}{offset}", part.track)
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(
        head in prop::sample::select(vec![0x00u8, 0x90, 0x91, 0x95, 0x96, 0x97, 0xd4]),
        body in prop::collection::vec(prop_oneof![0..0x30u8, any::<u8>()], 0..60),
    ) {
        let len = body.len();
        for body in [Bytes::from(body.clone()), [&[head], &body[..]].concat().into()] {
            for part in video(&body).chain(audio(&body)) {
                if let Packet::Picture { data, .. } | Packet::Sound { data, .. } = part.packet {
                    prop_assert!(data.len() <= len);
                }
                prop_assert!(part.offset_ns < 1_000_000);
            }
        }
    }
}

use proptest::prelude::*;

use super::*;

#[test]
fn an_empty_block_of_sound_is_silence_and_no_unit() {
    let mut units = Units::default();
    audio(&mut units, 0, 0, &tag(&[0xaf, 0], &[0x11, 0x90]));
    assert_eq!(audio(&mut units, 0, 23, &tag(&[0xaf, 1], &[])), []);
    let next = unit(audio(&mut units, 0, 46, &tag(&[0xaf, 1], &[0x21])));
    assert_eq!(next.dts_us, 46_000);
}

#[test]
fn the_configuration_is_on_every_keyframe_and_on_all_sound() {
    let mut units = ready();
    let key = unit(video(&mut units, 0, 0, &picture(KEY)));
    assert_eq!((key.keyframe, key.config.as_deref()), (true, Some(AVCC)));
    let delta = unit(video(&mut units, 0, 33, &picture(DELTA)));
    assert_eq!((delta.keyframe, delta.config), (false, None));
    let again = unit(video(&mut units, 0, 66, &picture(KEY)));
    assert_eq!(again.config.as_deref(), Some(AVCC));
    let sound = unit(audio(&mut units, 0, 66, &tag(&[0xaf, 1], b"sound")));
    assert_eq!(
        (sound.keyframe, sound.config.as_deref()),
        (true, Some(&ASC[..]))
    );
    assert_eq!(sound.payload, &b"sound"[..]);
}

#[test]
fn what_nobody_could_decode_is_left_out_and_counted() {
    let mut units = Units::default();
    assert_eq!(
        video(&mut units, 0, 0, &picture(KEY)),
        [],
        "no configuration"
    );
    assert_eq!(audio(&mut units, 0, 0, &tag(&[0xaf, 1], b"sound")), []);
    video(&mut units, 0, 0, &tag(&[0x17, 0, 0, 0, 0], AVCC));
    assert_eq!(video(&mut units, 0, 0, &picture(DELTA)), [], "no keyframe");
    assert_eq!(
        video(
            &mut units,
            0,
            0,
            &tag(&[0x27, 1, 0, 0, 0], &[0, 0, 9, 9, 1])
        ),
        []
    );
    video(&mut units, 0, 0, &tag(&[0x17, 0, 0, 0, 0], b"not a record"));
    let counts = Counts {
        damaged: 2,
        undecodable: 3,
        unsupported: 0,
    };
    assert_eq!(units.counts(), counts);
    assert!(
        unit(video(&mut units, 0, 0, &picture(KEY))).keyframe,
        "the good record is still there"
    );
}

#[test]
fn repeated_and_empty_configurations_change_nothing() {
    let mut units = ready();
    unit(video(&mut units, 0, 0, &picture(KEY)));
    video(&mut units, 0, 33, &tag(&[0x17, 0, 0, 0, 0], AVCC));
    video(&mut units, 0, 33, &tag(&[0x17, 0, 0, 0, 0], b""));
    unit(video(&mut units, 0, 33, &picture(DELTA)));
}

#[test]
fn a_new_configuration_waits_for_its_keyframe() {
    let mut units = ready();
    unit(video(&mut units, 0, 0, &picture(KEY)));
    let mut other = AVCC.to_vec();
    other.extend([0xfd, 0xf8, 0xf8, 0]);
    video(&mut units, 0, 33, &tag(&[0x17, 0, 0, 0, 0], &other));
    assert_eq!(video(&mut units, 0, 33, &picture(DELTA)), []);
    assert_eq!(
        unit(video(&mut units, 0, 66, &picture(KEY)))
            .config
            .as_deref(),
        Some(&other[..])
    );
}

#[test]
fn empty_nal_units_do_not_get_through() {
    let mut units = ready();
    let body = [&[0, 0, 0, 0], KEY, &[0, 0, 0, 0]].concat();
    assert_eq!(unit(video(&mut units, 0, 0, &picture(&body))).payload, KEY);
    assert_eq!(video(&mut units, 0, 33, &picture(&[0, 0, 0, 0])), []);
    assert_eq!(video(&mut units, 0, 33, &picture(&[])), []);
    assert_eq!(units.counts(), Counts::default());
}

#[test]
fn times_are_unrolled_and_jumps_are_marked() {
    // (what, ms as sent, ms unrolled and whether marked)
    for (what, sent, got) in [
        (
            "even steps",
            &[0, 33, 67][..],
            &[(0, false), (33, false), (67, false)][..],
        ),
        (
            "the wrap after 49 days",
            &[u32::MAX - 10, 22],
            &[(4_294_967_285, false), (4_294_967_318, false)],
        ),
        (
            "a little backwards",
            &[500, 467],
            &[(500, false), (467, false)],
        ),
        (
            "24 bits wrapped",
            &[16_777_200, 10],
            &[(16_777_200, false), (10, true)],
        ),
        (
            "the encoder's clock began anew",
            &[90_000, 0, 33],
            &[(90_000, false), (0, true), (33, false)],
        ),
        (
            "a leap",
            &[0, 60_000, 60_033],
            &[(0, false), (60_000, true), (60_033, false)],
        ),
    ] {
        let mut units = ready();
        let times: Vec<_> = sent
            .iter()
            .map(|ms| unit(video(&mut units, 0, *ms, &picture(KEY))))
            .map(|unit| (unit.dts_us / 1_000, unit.discontinuity))
            .collect();
        assert_eq!(times, got, "{what}");
    }
}

#[test]
fn a_pause_in_real_time_is_no_leap() {
    let mut units = ready();
    unit(video(&mut units, 0, 0, &picture(KEY)));
    assert!(!unit(video(&mut units, 60_000_000, 60_000, &picture(KEY))).discontinuity);
}

proptest! {
    #[test]
    fn arbitrary_tags_never_panic(
        tags in prop::collection::vec((any::<bool>(), any::<i64>(), any::<u32>(), arbitrary_tag()), 0..20),
    ) {
        let mut units = ready();
        for (is_video, now_us, timestamp, body) in tags {
            let given = if is_video {
                video(&mut units, now_us, timestamp, &body)
            } else {
                audio(&mut units, now_us, timestamp, &body)
            };
            for unit in given {
                prop_assert_eq!(unit.config.is_some(), unit.keyframe && unit.codec.needs_config());
            }
        }
    }
}

fn arbitrary_tag() -> impl Strategy<Value = Bytes> {
    let heads = prop::sample::select(vec![
        vec![0x17, 0, 0, 0, 0],
        vec![0x17, 1, 0, 0, 0],
        vec![0x27, 1, 0xff, 0, 0],
        vec![0xaf, 0],
        vec![0xaf, 1],
        b"\x90hvc1".to_vec(),
        b"\xa1hvc1\0\0\0".to_vec(),
        b"\x90av01".to_vec(),
        b"\xa3av01".to_vec(),
        b"\xd4av01\x02\0\x09colorInfo".to_vec(),
        b"\x91ac-3".to_vec(),
        b"\x96\x21".to_vec(),
        vec![],
    ]);
    let bodies = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..30),
        prop::collection::vec(0..8u8, 0..30),
        Just(AVCC.to_vec()),
        Just(KEY.to_vec()),
    ];
    (heads, bodies).prop_map(|(head, body)| [head, body].concat().into())
}

fn ready() -> Units {
    let mut units = Units::default();
    video(&mut units, 0, 0, &tag(&[0x17, 0, 0, 0, 0], AVCC));
    audio(&mut units, 0, 0, &tag(&[0xaf, 0], &ASC));
    units
}

fn picture(data: &[u8]) -> Bytes {
    let head = if data == KEY { 0x17 } else { 0x27 };
    tag(&[head, 1, 0, 0, 0], data)
}

fn tag(head: &[u8], body: &[u8]) -> Bytes {
    [head, body].concat().into()
}

#[track_caller]
fn unit(mut units: Vec<AccessUnit>) -> AccessUnit {
    assert_eq!(units.len(), 1, "{units:?}");
    units.remove(0)
}

fn video(units: &mut Units, now_us: i64, ms: u32, body: &Bytes) -> Vec<AccessUnit> {
    units.video(now_us, ms, body);
    given(units)
}

fn audio(units: &mut Units, now_us: i64, ms: u32, body: &Bytes) -> Vec<AccessUnit> {
    units.audio(now_us, ms, body);
    given(units)
}

fn given(units: &mut Units) -> Vec<AccessUnit> {
    std::iter::from_fn(|| units.poll())
        .filter_map(|outcome| match outcome {
            Outcome::Unit(unit) => Some(unit),
            _ => None,
        })
        .collect()
}

/// 1280x720, as x264 writes it.
const AVCC: &[u8] =
    b"\x01\x42\xc0\x1f\xff\xe1\x00\x17\x67\x42\xc0\x1f\xda\x01\x40\x16\xec\x04\x40\x00\
    \x00\x03\x00\x40\x00\x00\x0f\x23\xc6\x0c\xa8\x01\x00\x04\x68\xce\x0f\xc8";
const ASC: [u8; 2] = [0x12, 0x10];
const KEY: &[u8] = &[0, 0, 0, 2, 0x65, 0x88];
const DELTA: &[u8] = &[0, 0, 0, 2, 0x41, 0x9a];

#[test]
fn tracks_are_kept_apart_and_listed() {
    let mut units = ready();
    let second = [0, 0, 0, 2, 0x65, 0x99];
    // As FFmpeg 9 sends them: the first in the classic way.
    video(&mut units, 0, 0, &tag(b"\x96\0avc1\x01", AVCC));
    let first = unit(video(&mut units, 0, 0, &picture(KEY)));
    let other = unit(video(&mut units, 0, 0, &tag(b"\x96\x03avc1\x01", &second)));
    assert_eq!((first.track, &first.payload[..]), (0, KEY));
    assert_eq!((other.track, &other.payload[..]), (1, &second[..]));
    assert_eq!(other.config.as_deref(), Some(AVCC));
    assert_eq!(
        video(&mut units, 0, 0, &tag(b"\x96\x03avc1\x02", &second)),
        [],
        "a third, without a configuration"
    );
    let listed: Vec<_> = units
        .tracks()
        .map(|track| (track.kind, track.number, track.codec))
        .collect();
    assert_eq!(
        listed,
        [
            (MediaKind::Video, 0, Ok(Codec::H264)),
            (MediaKind::Audio, 0, Ok(Codec::Aac)),
            (MediaKind::Video, 1, Ok(Codec::H264)),
        ]
    );
    for number in 0..=255 {
        let head = [b"\x95\0mp4a", &[number][..]].concat();
        audio(&mut units, 0, 0, &tag(&head, &ASC));
    }
    assert_eq!(units.tracks().count(), 16);
    assert_eq!(units.counts().unsupported, 256 - 14);
}

#[test]
fn sound_without_a_configuration_begins_with_its_mark() {
    let dolby = [0x0b, 0x77, 0x48, 0x0d, 0x0c, 0x40, 0x2f, 0x84];
    for (head, frame, codec) in [
        (&b"\x91ac-3"[..], &dolby[..], Codec::Ac3),
        (
            b"\x91ec-3",
            &[0x0b, 0x77, 0, 0xbf, 0x32, 0x87, 0xc0],
            Codec::Eac3,
        ),
        (b"\x91.mp3", &[0xff, 0xfb, 0x90, 0x64], Codec::Mp3),
        (b"\x2f", &[0xff, 0xfb, 0x90, 0x64], Codec::Mp3),
    ] {
        let mut units = Units::default();
        assert_eq!(audio(&mut units, 0, 0, &tag(head, b"nonsense")), []);
        let sound = unit(audio(&mut units, 0, 5, &tag(head, frame)));
        assert_eq!((sound.codec, sound.dts_us), (codec, 5_000));
        assert_eq!((sound.keyframe, &sound.config), (true, &None));
        // An empty message is silence.
        assert_eq!(audio(&mut units, 0, 6, &Bytes::new()), []);
        assert_eq!(units.counts().damaged, 1, "{codec:?}");
    }
}

#[test]
fn nanoseconds_count_for_the_presentation_only() {
    let mut units = Units::default();
    video(&mut units, 0, 0, &tag(b"\x90av01", &[0x81, 0, 0x0c, 0]));
    let body = tag(b"\x97\x02\x07\xa1\x20\x01av01", &[0x12, 0]);
    let picture = unit(video(&mut units, 0, 40, &body));
    assert_eq!((picture.dts_us, picture.cts_us), (40_000, 500));
}

#[test]
fn colours_are_told_when_they_change_and_before_keyframes() {
    let colors = tag(b"\xd4avc1\x02\0\x09colorInfo\x03\0\0\x09", b"");
    let reset = tag(b"\xd4avc1\x02\0\x09colorInfo\x06", b"");
    let mut units = ready();
    let mut seen = Vec::new();
    let steps = [
        &colors,
        &picture(KEY),
        &picture(DELTA),
        &colors,
        &picture(KEY),
        &reset,
        &picture(KEY),
    ];
    for (ms, body) in (0..).zip(steps) {
        for unit in video(&mut units, 0, ms, body) {
            seen.push(match unit.codec {
                Codec::Data => String::from_utf8(unit.payload.to_vec()).unwrap(),
                _ => format!("picture {}", unit.dts_us / 1_000),
            });
        }
    }
    assert_eq!(
        seen,
        [
            r#"["colorInfo",{}]"#,
            "picture 1",
            "picture 2",
            r#"["colorInfo",{}]"#,
            "picture 4",
            r#"["colorInfo",null]"#,
            "picture 6",
        ]
    );
}

#[test]
fn data_has_no_say_in_the_clock_and_is_bounded() {
    let timecode = [
        Value::string("onFI"),
        Value::object([("st", Value::string("10:11:12:13"))]),
    ];
    let mut units = ready();
    unit(video(&mut units, 0, 5_000, &picture(KEY)));
    // (ms as sent, ms as passed on)
    for (sent, ms) in [
        (5_010, 5_010),
        (4_000, 4_000),
        (0, 0),
        (60_000, 5_000),
        (u32::MAX, -1),
    ] {
        units.data(0, sent, &timecode);
        let data = unit(given(&mut units));
        assert_eq!(
            (data.codec, data.dts_us, data.discontinuity),
            (Codec::Data, ms * 1_000, false)
        );
        assert_eq!(data.payload, &br#"["onFI",{"st":"10:11:12:13"}]"#[..]);
    }
    assert!(!unit(video(&mut units, 0, 5_033, &picture(DELTA))).discontinuity);
    for _ in 0..1_000 {
        units.data(999_999, 5_033, &timecode);
    }
    assert_eq!(given(&mut units).len(), 115);
    units.data(1_000_000, 5_033, &timecode);
    assert_eq!(given(&mut units).len(), 1);
}

#[test]
fn a_track_that_becomes_something_else_is_named() {
    let mut units = ready();
    unit(video(&mut units, 0, 0, &picture(KEY)));
    let foreign = tag(b"\x91vvc1", b"data");
    units.video(500_000, 500, &foreign);
    assert_eq!(units.poll(), None, "the picture goes on");
    units.video(1_500_000, 1_500, &foreign);
    units.video(1_500_000, 1_500, &foreign);
    let told: Vec<_> = std::iter::from_fn(|| units.poll()).collect();
    assert_eq!(
        told,
        [
            Outcome::TracksChanged,
            Outcome::Unsupported(Unsupported("VVC"))
        ]
    );
    assert_eq!(video(&mut units, 1_600_000, 1_600, &picture(DELTA)), []);
    video(
        &mut units,
        1_600_000,
        1_600,
        &tag(&[0x17, 0, 0, 0, 0], AVCC),
    );
    unit(video(&mut units, 1_600_000, 1_600, &picture(KEY)));
}

#[test]
fn a_small_part_does_not_keep_a_large_message() {
    let mut units = Units::default();
    video(&mut units, 0, 0, &tag(b"\x90av01", &[0x81, 0, 0x0c, 0]));
    let mut body = b"\x96\x11av01\x09\x01\0\0".to_vec();
    body.extend(vec![0; 65_536]);
    body.extend(b"\0\0\0\x02\x12\0");
    let body = Bytes::from(body);
    let small = unit(video(&mut units, 0, 0, &body));
    let message = body.as_ptr_range();
    assert!(!message.contains(&small.payload.as_ptr()));
}

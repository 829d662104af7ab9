use bytes::Bytes;
use firstmile_shared::{
    media::{AccessUnit, Codec},
    tunnel::unit::Unit,
};

use super::*;

const TIMING: Timing = Timing {
    delay_us: 300_000,
    video_lead_us: 40_000,
    sound_trim_us: 0,
};

fn arrived(publisher: u32, seq: u64, at_us: i64) -> ArrivedUnit {
    ArrivedUnit {
        unit: Unit {
            line: 1,
            publisher,
            seq,
            ingest_us: 0,
            baseline_us: 0,
            queued_us: 0,
            access_unit: AccessUnit {
                codec: Codec::H264,
                track: 0,
                keyframe: seq == 0,
                disposable: false,
                discontinuity: false,
                dts_us: i64::try_from(seq).unwrap() * 40_000,
                cts_us: 0,
                config: None,
                payload: Bytes::from_static(b"x"),
            },
        },
        arrived_us: at_us,
        baseline_us: at_us - i64::try_from(seq).unwrap() * 40_000,
        ingest_us: at_us,
    }
}

fn info(publisher: u32) -> FeedInfo {
    FeedInfo {
        publisher,
        relay: "relay:4433".to_owned(),
        encoder: format!("encoder {publisher}"),
        peer: "10.0.0.1:5".to_owned(),
    }
}

/// What is played by `now_us`: "publisher:seq" and "over".
fn play(feeds: &mut Feeds, now_us: i64) -> String {
    let mut out = Vec::new();
    loop {
        match feeds.next(TIMING, true, now_us) {
            Next::Picture { publisher, picture } => {
                out.push(format!("{publisher}:{}", picture.queued.seq));
            }
            Next::Sound { .. } => out.push("sound".to_owned()),
            Next::Drain => out.push("drain".to_owned()),
            Next::Over { reason } => out.push(format!("over ({reason})")),
            Next::Wait(until_us) => {
                assert!(until_us.is_none_or(|until_us| until_us > now_us));
                return out.join(" ");
            }
        }
    }
}

/// A decoder holds pictures back until later ones come; at the end none does, and sound that lasts longer must not
/// make them late.
#[test]
fn the_last_pictures_do_not_wait_for_the_end_of_the_sound() {
    let mut feeds = Feeds::default();
    feeds.started(info(7));
    for seq in 0..3 {
        let at_us = i64::try_from(seq).unwrap() * 40_000;
        feeds.push(arrived(7, seq, at_us), TIMING, at_us);
    }
    let mut sound = arrived(7, 8, 320_000);
    sound.unit.access_unit.codec = Codec::Aac;
    feeds.push(sound, TIMING, 320_000);
    assert_eq!(play(&mut feeds, 379_999), "7:0 7:1 7:2");
    feeds.ended(7, "the encoder left".to_owned());
    // The next picture would have been given out now: 120 + 300 - 40 ms.
    assert_eq!(play(&mut feeds, 379_999), "");
    assert_eq!(play(&mut feeds, 380_000), "drain");
    assert_eq!(play(&mut feeds, 600_000), "sound over (the encoder left)");
}

#[test]
fn a_feed_that_ended_is_played_to_its_end() {
    let mut feeds = Feeds::default();
    feeds.started(info(7));
    for seq in 0..3 {
        let at_us = i64::try_from(seq).unwrap() * 40_000;
        assert!(feeds.push(arrived(7, seq, at_us), TIMING, at_us));
    }
    feeds.ended(7, "the encoder left".to_owned());
    assert!(!feeds.is_on());
    assert_eq!(play(&mut feeds, 260_000), "7:0");
    assert_eq!(feeds.current().map(|info| info.publisher), Some(7));
    assert_eq!(play(&mut feeds, 400_000), "7:1 7:2 over (the encoder left)");
    assert_eq!(feeds.current(), None);
    assert!(
        !feeds.push(arrived(7, 3, 400_000), TIMING, 400_000),
        "a straggler"
    );
}

#[test]
fn a_successor_takes_over_when_its_first_picture_is_due() {
    let mut feeds = Feeds::default();
    feeds.started(info(1));
    for seq in 0..10 {
        feeds.push(
            arrived(1, seq, 40_000 * i64::try_from(seq).unwrap()),
            TIMING,
            0,
        );
    }
    // Its first unit may come before the word of it.
    assert!(feeds.push(arrived(2, 0, 100_000), TIMING, 100_000));
    assert_eq!(
        play(&mut feeds, 359_999),
        "1:0 1:1 1:2",
        "not while the first is on"
    );
    feeds.started(info(2));
    assert_eq!(play(&mut feeds, 360_000), "2:0");
    assert_eq!(feeds.current(), Some(&info(2)));
    assert!(feeds.is_on());
}

#[test]
fn a_publisher_that_a_new_tunnel_session_brings_back_goes_on() {
    let mut feeds = Feeds::default();
    feeds.started(info(1));
    feeds.push(arrived(1, 0, 0), TIMING, 0);
    feeds.ended(1, "the relay is unreachable".to_owned());
    feeds.started(info(1));
    assert!(feeds.is_on());
    feeds.push(arrived(1, 1, 40_000), TIMING, 40_000);
    assert_eq!(play(&mut feeds, 400_000), "1:0 1:1");
    feeds.ended(1, "the relay is unreachable".to_owned());
    assert_eq!(play(&mut feeds, 400_000), "over (the relay is unreachable)");
    feeds.started(info(1));
    assert!(
        feeds.push(arrived(1, 9, 500_000), TIMING, 500_000),
        "even after its end"
    );
}

#[test]
fn the_number_of_feeds_is_bounded() {
    let mut feeds = Feeds::default();
    for publisher in 0..10 {
        feeds.push(arrived(publisher, 0, 0), TIMING, 0);
    }
    assert_eq!(feeds.feeds.len(), FEEDS_MAX);
    for publisher in 20..60 {
        feeds.started(info(publisher));
    }
    assert_eq!((feeds.feeds.len(), feeds.gone.len()), (FEEDS_MAX, GONE_MAX));
    assert_eq!(feeds.feeds.back().unwrap().publisher, 59);
}

#[test]
fn impossible_times_are_refused_or_mended() {
    let mut feeds = Feeds::default();
    for (arrived_us, baseline_us, dts_us, seq) in [
        (i64::MAX, 0, 0, 0),
        (0, i64::MIN, 0, 0),
        (0, 0, i64::MAX, 0),
        (0, 0, 0, u64::MAX),
    ] {
        let mut unit = arrived(1, 0, 0);
        unit.arrived_us = arrived_us;
        unit.baseline_us = baseline_us;
        unit.unit.access_unit.dts_us = dts_us;
        unit.unit.seq = seq;
        assert!(!feeds.push(unit, TIMING, 0));
    }
    // Due in an hour, it says: it is due when the delay has passed.
    let mut unit = arrived(1, 0, 0);
    unit.baseline_us = 3_600_000_000;
    assert!(feeds.push(unit, TIMING, 0));
    assert_eq!(play(&mut feeds, 300_000), "1:0");
}

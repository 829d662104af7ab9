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
        agent: format!("encoder {publisher}"),
        peer: "10.0.0.1:5".to_owned(),
        tracks: Vec::new(),
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
    feeds.started(info(7), TIMING, 0);
    for seq in 0..3 {
        let at_us = i64::try_from(seq).unwrap() * 40_000;
        feeds.push(arrived(7, seq, at_us), TIMING, at_us);
    }
    let mut sound = arrived(7, 8, 320_000);
    sound.unit.access_unit.codec = Codec::Aac;
    feeds.push(sound, TIMING, 320_000);
    assert_eq!(play(&mut feeds, 379_999), "7:0 7:1 7:2");
    feeds.ended(7, "the encoder left".to_owned(), 0);
    // The next picture would have been given out now: 120 + 300 - 40 ms.
    assert_eq!(play(&mut feeds, 379_999), "");
    assert_eq!(play(&mut feeds, 380_000), "drain");
    assert_eq!(play(&mut feeds, 600_000), "sound over (the encoder left)");
}

#[test]
fn a_feed_that_ended_is_played_to_its_end() {
    let mut feeds = Feeds::default();
    feeds.started(info(7), TIMING, 0);
    for seq in 0..3 {
        let at_us = i64::try_from(seq).unwrap() * 40_000;
        assert_eq!(
            feeds.push(arrived(7, seq, at_us), TIMING, at_us),
            Taken::Played
        );
    }
    feeds.ended(7, "the encoder left".to_owned(), 0);
    assert!(!feeds.is_on());
    assert_eq!(play(&mut feeds, 260_000), "7:0");
    assert_eq!(feeds.current().map(|info| info.publisher), Some(7));
    assert_eq!(play(&mut feeds, 400_000), "7:1 7:2 over (the encoder left)");
    assert_eq!(feeds.current(), None);
    assert_eq!(
        feeds.push(arrived(7, 3, 400_000), TIMING, 400_000),
        Taken::Refused,
        "a straggler"
    );
}

#[test]
fn a_successor_takes_over_when_its_first_picture_is_due() {
    let mut feeds = Feeds::default();
    feeds.started(info(1), TIMING, 0);
    for seq in 0..10 {
        feeds.push(
            arrived(1, seq, 40_000 * i64::try_from(seq).unwrap()),
            TIMING,
            0,
        );
    }
    // Its first unit may come before the word of it.
    assert_eq!(
        feeds.push(arrived(2, 0, 100_000), TIMING, 100_000),
        Taken::Held
    );
    assert_eq!(
        play(&mut feeds, 359_999),
        "1:0 1:1 1:2",
        "not while the first is on"
    );
    feeds.started(info(2), TIMING, 0);
    assert_eq!(play(&mut feeds, 360_000), "2:0");
    assert_eq!(feeds.current(), Some(&info(2)));
    assert!(feeds.is_on());
}

#[test]
fn a_publisher_that_a_new_tunnel_session_brings_back_goes_on() {
    let mut feeds = Feeds::default();
    feeds.started(info(1), TIMING, 0);
    feeds.push(arrived(1, 0, 0), TIMING, 0);
    feeds.ended(1, "the relay is unreachable".to_owned(), 0);
    feeds.started(info(1), TIMING, 0);
    assert!(feeds.is_on());
    feeds.push(arrived(1, 1, 40_000), TIMING, 40_000);
    assert_eq!(play(&mut feeds, 400_000), "1:0 1:1");
    feeds.ended(1, "the relay is unreachable".to_owned(), 0);
    assert_eq!(play(&mut feeds, 400_000), "over (the relay is unreachable)");
    feeds.started(info(1), TIMING, 0);
    assert_eq!(
        feeds.push(arrived(1, 9, 500_000), TIMING, 500_000),
        Taken::Played,
        "even after its end"
    );
}

#[test]
fn the_number_of_feeds_is_bounded() {
    let mut feeds = Feeds::default();
    for publisher in 0..10 {
        feeds.push(arrived(publisher, 0, 0), TIMING, 0);
    }
    assert_eq!((feeds.feeds.len(), feeds.held.len()), (1, HELD_MAX));
    feeds.started(info(0), TIMING, 0);
    for publisher in 20..60 {
        feeds.started(info(publisher), TIMING, 0);
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
        assert_eq!(feeds.push(unit, TIMING, 0), Taken::Refused);
    }
    // Due in an hour, it says: it is due when the delay has passed.
    let mut unit = arrived(1, 0, 0);
    unit.baseline_us = 3_600_000_000;
    assert_eq!(feeds.push(unit, TIMING, 0), Taken::Played);
    assert_eq!(play(&mut feeds, 300_000), "1:0");
}

/// Of another relay.
fn elsewhere(publisher: u32) -> FeedInfo {
    FeedInfo {
        relay: "spare:4433".to_owned(),
        peer: "10.0.0.2:5".to_owned(),
        tracks: Vec::new(),
        ..info(publisher)
    }
}

const FRAME_US: i64 = 40_000;

/// A feed at 25 pictures a second, a keyframe each second, as it would come without delay from 0 on.
fn frame(publisher: u32, n: u32) -> ArrivedUnit {
    let mut unit = arrived(publisher, n.into(), i64::from(n) * FRAME_US);
    unit.unit.access_unit.keyframe = n.is_multiple_of(25);
    unit
}

/// Lets both feeds run from picture `from` to before `to`; what is played.
fn run(feeds: &mut Feeds, publishers: &[u32], from: u32, to: u32) -> Vec<String> {
    let mut played = Vec::new();
    for n in from..to {
        let now_us = i64::from(n) * FRAME_US;
        for publisher in publishers {
            feeds.push(frame(*publisher, n), TIMING, now_us);
        }
        let text = play(feeds, now_us);
        played.extend(text.split_whitespace().map(str::to_owned));
    }
    played
}

fn sources(played: &[String]) -> String {
    let mut sources: Vec<_> = (played.iter())
        .filter_map(|text| text.split_once(':').map(|(publisher, _)| publisher))
        .collect();
    sources.dedup();
    sources.join(" ")
}

#[test]
fn of_two_relays_the_first_feed_is_played_until_it_fails() {
    let mut feeds = Feeds::default();
    feeds.started(info(1), TIMING, 0);
    feeds.started(elsewhere(2), TIMING, 0);
    let played = run(&mut feeds, &[1, 2], 0, 100);
    assert_eq!(sources(&played), "1");
    assert_eq!(feeds.held(3_960_000)[0].info, elsewhere(2));
    let held = &feeds.held[0].buffer;
    assert!(format!("{held:?}").len() < 60_000, "one GOP and the delay");

    // Nothing comes by the first relay any more; a second later the other feed goes on where it is.
    let played = run(&mut feeds, &[2], 100, 150);
    assert_eq!(sources(&played), "1 2");
    let first = played.iter().find(|text| text.starts_with("2:")).unwrap();
    assert_eq!(first, "2:100", "from its newest keyframe that is due");
    assert!(played.contains(&"2:142".to_owned()), "and up to now");
    assert_eq!(feeds.losses(6_000_000), Losses::default());
    let changes = feeds.take_changes();
    assert_eq!(
        changes,
        [FeedChange {
            new: elsewhere(2),
            old: Some(info(1)),
            why: Why::Silent
        }]
    );

    // When the first comes back it is held.
    let played = run(&mut feeds, &[1, 2], 150, 200);
    assert_eq!(sources(&played), "2");
}

#[test]
fn a_feed_that_ends_leaves_the_line_to_the_one_of_the_other_relay() {
    for (is_on_program, waits_us) in [(false, 240_000), (true, 1_000_000)] {
        let mut feeds = Feeds::default();
        feeds.set_program(is_on_program, 0);
        feeds.started(info(1), TIMING, 0);
        feeds.started(elsewhere(2), TIMING, 0);
        run(&mut feeds, &[1, 2], 0, 50);
        feeds.ended(1, "the encoder left".to_owned(), 1_960_000);
        let played = run(&mut feeds, &[2], 50, 100);
        let at = feeds.take_changes();
        assert_eq!(at[0].why, Why::Left);
        assert_eq!(sources(&played), "1 2", "{is_on_program} {waits_us}");
        // The last of the first: 49. It is due 300 ms after it came.
        assert!(played.contains(&"1:49".to_owned()));
        assert_eq!(played.contains(&"over".to_owned()), is_on_program);
    }
}

/// A relay that replaces its own publisher is obeyed: it knows better than the order in which its words come.
#[test]
fn a_publisher_that_its_relay_replaced_does_not_lose_the_line_to_the_other_relay() {
    let mut feeds = Feeds::default();
    feeds.started(info(1), TIMING, 0);
    feeds.started(elsewhere(2), TIMING, 0);
    run(&mut feeds, &[1, 2], 0, 50);
    feeds.ended(1, Why::Returned.reason().to_owned(), 1_990_000);
    feeds.started(info(3), TIMING, 1_995_000);
    let played = run(&mut feeds, &[2, 3], 50, 100);
    assert_eq!(sources(&played), "1 3");
}

#[test]
fn the_operator_takes_the_other_relays_feed_and_back() {
    let mut feeds = Feeds::default();
    feeds.started(info(1), TIMING, 0);
    feeds.started(elsewhere(2), TIMING, 0);
    run(&mut feeds, &[1, 2], 0, 60);
    assert!(feeds.take(2, 2_400_000));
    let played = run(&mut feeds, &[1, 2], 60, 90);
    assert_eq!(sources(&played), "1 2");
    let seqs: Vec<u64> = (played.iter())
        .filter_map(|text| text.split_once(':')?.1.parse().ok())
        .collect();
    let gap = seqs
        .windows(2)
        .map(|pair| pair[1].saturating_sub(pair[0]))
        .max();
    assert_eq!(gap, Some(1), "no picture is left out: {seqs:?}");

    assert!(feeds.take(1, 3_600_000));
    let played = run(&mut feeds, &[1, 2], 90, 120);
    assert_eq!(sources(&played), "2 1");
    // One that waits at its relay is not here yet; its relay is asked, and obeyed when it comes.
    assert!(!feeds.take(9, 4_800_000));
    feeds.started(elsewhere(9), TIMING, 4_900_000);
    let played = run(&mut feeds, &[1, 9], 123, 150);
    assert!(sources(&played).ends_with('9'), "{played:?}");
}

#[test]
fn both_relays_silent_at_once_is_the_studios_own_network() {
    let mut feeds = Feeds::default();
    feeds.started(info(1), TIMING, 0);
    feeds.started(elsewhere(2), TIMING, 0);
    run(&mut feeds, &[1, 2], 0, 50);
    // Three seconds of nothing; then the held one's units happen to come first.
    let played = run(&mut feeds, &[2, 1], 125, 175);
    assert_eq!(sources(&played), "1");
}

/// The operator gives the line back to an encoder that had it before: its keyframe may be here before the word of it.
#[test]
fn a_publisher_that_gets_the_line_again_is_shown_from_its_first_keyframe() {
    for is_taken_here in [false, true] {
        let mut feeds = Feeds::default();
        feeds.started(info(1), TIMING, 0);
        feeds.push(arrived(1, 0, 0), TIMING, 0);
        feeds.started(info(2), TIMING, 40_000);
        feeds.push(arrived(2, 0, 40_000), TIMING, 40_000);
        assert_eq!(play(&mut feeds, 400_000), "2:0");
        assert_eq!(
            feeds.push(arrived(1, 1, 400_000), TIMING, 400_000),
            Taken::Refused,
            "a straggler"
        );
        let mut now_us = 3_000_000;
        if is_taken_here {
            now_us = 500_000;
            assert!(!feeds.take(1, now_us));
        }
        let mut keyframe = arrived(1, 9, now_us);
        keyframe.unit.access_unit.keyframe = true;
        assert_eq!(feeds.push(keyframe, TIMING, now_us), Taken::Held);
        feeds.started(info(1), TIMING, now_us + 1);
        feeds.push(arrived(1, 10, now_us + 40_000), TIMING, now_us + 40_000);
        assert_eq!(play(&mut feeds, now_us + 340_000), "1:9 1:10");
    }
}

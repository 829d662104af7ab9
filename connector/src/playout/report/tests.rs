use firstmile_shared::tunnel::control::TrackReport;

use super::*;
use crate::playout::{line::Line, stats::Recent};

const NOW_US: i64 = 100_000_000;

fn feed() -> FeedInfo {
    FeedInfo {
        publisher: 1,
        relay: "relay.example:4433".to_owned(),
        encoder: "Larix iOS".to_owned(),
        agent: "test".to_owned(),
        peer: "203.0.113.9:1000".to_owned(),
        tracks: Vec::new(),
    }
}

/// The state and the reason after `change`, with or without a feed.
fn told(feed: Option<&FeedInfo>, change: impl FnOnce(&mut Stats)) -> (LineState, String) {
    let line = Line::new(
        "Camera 1".to_owned(),
        600_000,
        ("null", "Camera 1".to_owned()),
    );
    let mut stats = line.stats();
    change(&mut stats);
    let facts = Facts {
        name: "Camera 1",
        delay_us: 600_000,
        feed,
        is_on: feed.is_some(),
        losses: Losses::default(),
        now_us: NOW_US,
    };
    let snapshot = snapshot(&facts, &stats);
    (snapshot.state, snapshot.reason.unwrap_or_default())
}

fn noted(value_us: i64) -> Recent {
    let mut recent = Recent::default();
    for _ in 0..10 {
        recent.note(value_us, NOW_US);
    }
    recent
}

#[test]
fn what_can_not_be_decoded_is_named_with_its_remedy() {
    let track = |kind: &str, codec: &str, carried| TrackReport {
        track: 0,
        kind: kind.to_owned(),
        codec: codec.to_owned(),
        carried,
    };
    let live = |stats: &mut Stats| {
        stats.shown_us = Some(NOW_US - 10_000);
        stats.last_arrival_us = Some(NOW_US - 10_000);
        stats.last_video_us = Some(NOW_US - 10_000);
    };
    // (tracks, what is known, state and reason)
    for (tracks, is_live, expected) in [
        (
            vec![track("video", "VVC", false), track("audio", "AAC", true)],
            false,
            (
                LineState::Waiting,
                "Camera 1 sends VVC, which this version can't decode: set H.264 in the encoder",
            ),
        ),
        (
            // A relay that is newer than this connector carries it.
            vec![track("video", "AV2", true)],
            false,
            (
                LineState::Waiting,
                "Camera 1 sends AV2, which this version can't decode: set H.264 in the encoder",
            ),
        ),
        (
            vec![
                track("video", "H.264", true),
                track("audio", "Speex", false),
            ],
            true,
            (
                LineState::Live,
                "Camera 1 sends sound as Speex, which this version can't decode: set AAC in the encoder",
            ),
        ),
        (
            vec![track("video", "VP8", false), track("video", "AV1", true)],
            true,
            (LineState::Live, ""),
        ),
    ] {
        let feed = FeedInfo { tracks, ..feed() };
        let (state, reason) = told(Some(&feed), |stats| {
            if is_live {
                live(stats);
            }
        });
        assert_eq!((state, reason.as_str()), expected);
    }
}

#[test]
fn every_state_says_why_in_plain_words() {
    let (waiting, slate, live) = (LineState::Waiting, LineState::Slate, LineState::Live);
    let shown = |stats: &mut Stats| stats.shown_us = Some(NOW_US - 5_000_000);
    let arriving = |stats: &mut Stats| {
        stats.last_arrival_us = Some(NOW_US - 10_000);
        stats.last_video_us = Some(NOW_US - 10_000);
    };
    let feed = feed();
    assert_eq!(
        told(None, |_| {}),
        (waiting, "waiting for an encoder".to_owned())
    );
    let left = |stats: &mut Stats| {
        shown(stats);
        stats.over = Some(("the encoder left".to_owned(), NOW_US - 12_300_000));
    };
    assert_eq!(
        told(None, left),
        (slate, "the encoder left, 12 s ago".to_owned())
    );
    assert_eq!(
        told(Some(&feed), |_| {}),
        (
            waiting,
            "an encoder is connected, nothing has come from it yet".to_owned()
        )
    );
    let silent = |stats: &mut Stats| {
        shown(stats);
        stats.last_arrival_us = Some(NOW_US - 4_000_000);
    };
    assert_eq!(
        told(Some(&feed), silent),
        (
            slate,
            "nothing has come from the encoder for 4 s".to_owned()
        )
    );
    let keyframe = |stats: &mut Stats| {
        arriving(stats);
        stats.waits_for_keyframe = true;
    };
    assert_eq!(
        told(Some(&feed), keyframe),
        (
            waiting,
            "waiting for the encoder's next keyframe".to_owned()
        )
    );
    let sound_only = |stats: &mut Stats| {
        keyframe(stats);
        stats.last_video_us = Some(NOW_US - 4_000_000);
        stats.decoder_loss = Some("the decoder ended".to_owned());
    };
    assert_eq!(
        told(Some(&feed), sound_only),
        (waiting, "the encoder sends sound but no picture".to_owned()),
        "also after an earlier feed with pictures"
    );
    let late = |stats: &mut Stats| {
        shown(stats);
        arriving(stats);
        stats.lateness = noted(249_500);
        stats.network = noted(800_000);
    };
    assert_eq!(
        told(Some(&feed), late),
        (slate, "pictures come up to 250 ms too late for the delay of 600 ms (most of it between the relay and this \
                 studio): a longer delay would show them".to_owned())
    );
    let well = |stats: &mut Stats| {
        stats.shown_us = Some(NOW_US - 30_000);
        stats.picture_off = noted(100);
    };
    assert_eq!(told(Some(&feed), well), (live, String::new()));
    let uplink = |stats: &mut Stats| {
        well(stats);
        stats.lateness = noted(1);
        stats.encoder = noted(900_000);
    };
    assert_eq!(
        told(Some(&feed), uplink),
        (live, "50 % of the pictures of the last 10 s came too late for the delay of 600 ms (most of it in the encoder \
                and its uplink)".to_owned())
    );
}

/// When the relay itself is not heard any more, nobody knows what the encoder does.
#[test]
fn a_relay_that_is_not_heard_is_not_the_encoders_fault() {
    let feed = feed();
    let silent = |stats: &mut Stats, publisher| {
        stats.shown_us = Some(NOW_US - 5_000_000);
        stats.last_arrival_us = Some(NOW_US - 4_000_000);
        stats.relay_heard = Some((publisher, NOW_US - 4_100_000));
    };
    let (state, reason) = told(Some(&feed), |stats| silent(stats, feed.publisher));
    assert_eq!(state, LineState::Slate);
    assert_eq!(
        reason,
        "nothing at all has come from the relay (it, or the network between it and the studio) for 4 s"
    );
    let (_, reason) = told(Some(&feed), |stats| silent(stats, feed.publisher + 1));
    assert_eq!(reason, "nothing has come from the encoder for 4 s");
}

/// Scripts read these names.
#[test]
fn the_status_has_every_field_of_the_contract_and_none_is_absent() {
    let line = Line::new(
        "Camera 1".to_owned(),
        600_000,
        ("ndi", "HOST (Camera 1)".to_owned()),
    );
    let facts = Facts {
        name: "Camera 1",
        delay_us: 600_000,
        feed: None,
        is_on: false,
        losses: Losses::default(),
        now_us: NOW_US,
    };
    let json = serde_json::to_value(snapshot(&facts, &line.stats())).unwrap();
    for pointer in [
        "/name",
        "/state",
        "/reason",
        "/relay",
        "/encoder_lag_ms",
        "/delay_ms",
        "/video/codec",
        "/video/width",
        "/video/height",
        "/video/fps",
        "/video/units_total",
        "/video/late_total",
        "/video/dropped_total",
        "/video/lost_total",
        "/video/decode_errors_total",
        "/audio/codec",
        "/audio/sample_rate",
        "/audio/channels",
        "/audio/units_total",
        "/hops_ms/encoder/p50",
        "/hops_ms/relay/p95",
        "/hops_ms/network/p99",
        "/hops_ms/wait/p50",
        "/hops_ms/decode/p50",
        "/av_offset_ms",
        "/bitrate_bps",
        "/outputs/0/kind",
        "/outputs/0/name",
        "/outputs/0/connections",
        "/outputs/0/tally",
    ] {
        assert!(json.pointer(pointer).is_some(), "{pointer}");
    }
    assert_eq!(json["state"], "waiting");
    assert_eq!(json["outputs"][0]["tally"], "unknown");
}

#[test]
fn sound_that_is_later_than_the_picture_is_a_positive_offset() {
    let line = Line::new("Camera 1".to_owned(), 0, ("null", String::new()));
    let mut stats = line.stats();
    assert_eq!(av_offset_us(&stats, NOW_US), None);
    stats.sound_off = noted(7_000);
    stats.picture_off = noted(2_000);
    assert_eq!(av_offset_us(&stats, NOW_US), Some(5_000));
}

//! The registry over a real directory, with connectors that write down what they are told.

use std::net::{IpAddr, Ipv4Addr};

use bytes::Bytes;
use firstmile_shared::{
    media::{AccessUnit, Codec},
    tunnel::control::Takeover,
};

use super::*;
use crate::{
    auth::tests::{directory, enrolled, line},
    store::StoreThread,
};

const LIMITS: Limits = Limits {
    publishers: 6,
    publishers_per_studio: 5,
    connectors: 3,
    connectors_per_studio: 2,
};

/// A connector that writes down what it is told, a line each.
#[derive(Debug, Default)]
struct Notebook(Mutex<Vec<String>>);

impl Notebook {
    fn write(&self, text: String) {
        lock(&self.0).push(text);
    }

    /// What was written since the last time.
    fn read(&self) -> Vec<String> {
        std::mem::take(&mut lock(&self.0))
    }
}

impl Subscriber for Notebook {
    fn feed_started(&self, feed: FeedStart) {
        self.write(format!(
            "line {} starts: {} from {}, {} ms",
            feed.line, feed.encoder, feed.peer, feed.delay_ms
        ));
    }
    fn set_delay(&self, line: u32, delay_ms: u32) {
        self.write(format!("line {line} delay {delay_ms} ms"));
    }
    fn deliver(&self, unit: Unit) {
        self.write(format!("line {} unit {}", unit.line, unit.seq));
    }
    fn restore(&self, units: Vec<Unit>) {
        for unit in units {
            self.write(format!("line {} unit {} again", unit.line, unit.seq));
        }
    }
    fn feed_ended(&self, line: u32, _publisher: u32, reason: &str) {
        self.write(format!("line {line} ends: {reason}"));
    }
    fn tracks(&self, _line: u32, _publisher: u32, _tracks: Vec<TrackReport>) {}
    fn claims(&self, line: u32, claims: Claims) {
        let name = |claim: &Claim| claim.encoder.clone();
        let held: Vec<_> = claims.held.iter().map(name).collect();
        let refused: Vec<_> = claims.refused.iter().map(name).collect();
        let frozen = if claims.frozen { ", frozen" } else { "" };
        self.write(format!(
            "line {line} held [{}], refused [{}]{frozen}",
            held.join(", "),
            refused.join(", ")
        ));
    }
    fn report(&self, feeds: Vec<FeedReport>) {
        for feed in feeds {
            self.write(format!(
                "line {}: lag {:?} ms, {:?} bit/s, {} held",
                feed.line, feed.encoder_lag_ms, feed.bitrate_bps, feed.held
            ));
            if let Some(ms) = feed.stalled_ms {
                self.write(format!("line {}: stalled for {ms} ms", feed.line));
            }
        }
    }
    fn findings(&self, line: u32, _publisher: u32, findings: Vec<Finding>) {
        let codes: Vec<_> = findings.iter().map(|f| f.code.as_str()).collect();
        self.write(format!("line {line} has [{}]", codes.join(", ")));
    }
    fn draining(&self) {
        self.write("draining".to_owned());
    }
}

/// A relay's inside with two studios; each has a connector with line 1 and the key "front-camera".
struct Stage {
    registry: Registry,
    directory: Directory,
    truck1: Spki,
    truck2: Spki,
    _store: StoreThread,
}

impl Stage {
    async fn new() -> Self {
        let (directory, store) = directory().await;
        let truck1 = enrolled(&directory, "truck1", 1).await;
        let truck2 = enrolled(&directory, "truck2", 2).await;
        for (studio, connector) in [("truck1", truck1), ("truck2", truck2)] {
            let line = line(&directory, studio, 1, "front-camera");
            directory.declare(connector, 1, vec![line]).await.unwrap();
        }
        let registry = Registry::new(directory.clone(), Arc::new(Metrics::new()), LIMITS);
        Self {
            registry,
            directory,
            truck1,
            truck2,
            _store: store,
        }
    }

    fn connect(&self, studio: &str, connector: Spki) -> (Subscription, Arc<Notebook>) {
        let notebook = Arc::new(Notebook::default());
        let subscription = self
            .registry
            .subscribe(studio, connector, notebook.clone(), None);
        (subscription, notebook)
    }

    /// An encoder at 203.0.113.`host`.
    fn publish(&self, studio: &str, host: u8) -> Result<Publication, Refusal> {
        self.registry.publish(PublishRequest {
            studio: studio.to_owned(),
            key: "FRONT camera".to_owned(),
            peer: SocketAddr::new(IpAddr::V4(Ipv4Addr::new(203, 0, 113, host)), 50_000),
            encoder: format!("phone {host}"),
            protocol: "rtmp",
        })
    }
}

fn unit(dts_us: i64) -> AccessUnit {
    AccessUnit {
        codec: Codec::H264,
        track: 0,
        keyframe: true,
        disposable: false,
        discontinuity: false,
        dts_us,
        cts_us: 0,
        config: Some(Bytes::from_static(b"avcC")),
        payload: Bytes::from_static(&[0; 1000]),
    }
}

fn has_to_go(publication: &Publication) -> bool {
    let mut replaced = std::pin::pin!(publication.replaced());
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    replaced.as_mut().poll(&mut context).is_ready()
}

#[tokio::test]
async fn a_feed_reaches_its_own_studio_only_whoever_comes_first() {
    let stage = Stage::new().await;
    let (_early, early) = stage.connect("truck1", stage.truck1);
    let (_other, other) = stage.connect("truck2", stage.truck2);
    let mut encoder = stage.publish("truck1", 7).unwrap();
    encoder.deliver(unit(0), clock::now_us());
    let (_late, late) = stage.connect("truck1", stage.truck1);
    encoder.deliver(unit(40_000), clock::now_us());
    assert_eq!(encoder.labels(), ("truck1", "Camera 1"));
    encoder.end("the encoder's network was lost");

    let starts = "line 1 starts: phone 7 from 203.0.113.7:50000, 600 ms";
    let ends = "line 1 ends: the encoder's network was lost";
    assert_eq!(
        early.read(),
        [starts, "line 1 unit 0", "line 1 unit 1", ends]
    );
    assert_eq!(
        late.read(),
        [starts, "line 1 unit 0 again", "line 1 unit 1", ends],
        "who comes late begins with the newest keyframe"
    );
    assert_eq!(other.read(), [""; 0]);
    assert_eq!(stage.publish("truck3", 7).unwrap_err(), Refusal::UnknownKey);
}

#[tokio::test]
async fn what_came_while_nobody_was_there_is_numbered_when_somebody_comes() {
    let stage = Stage::new().await;
    let mut encoder = stage.publish("truck1", 7).unwrap();
    let picture = |n: i64, keyframe| AccessUnit {
        keyframe,
        config: None,
        ..unit(n * 40_000)
    };
    for (n, keyframe) in [(0, true), (1, false), (2, true), (3, false)] {
        encoder.deliver(picture(n, keyframe), clock::now_us());
    }
    let (_first, first) = stage.connect("truck1", stage.truck1);
    encoder.deliver(picture(4, false), clock::now_us());
    let (_second, second) = stage.connect("truck1", stage.truck1);
    let again = |seq| format!("line 1 unit {seq} again");
    assert_eq!(
        first.read()[1..],
        [again(0), again(1), "line 1 unit 2".to_owned()]
    );
    assert_eq!(second.read()[1..], [again(0), again(1), again(2)]);
}

#[tokio::test]
async fn the_spare_laptop_gets_the_same_feed_under_its_own_line_number() {
    let stage = Stage::new().await;
    let spare = enrolled(&stage.directory, "truck1", 3).await;
    let declared = line(&stage.directory, "truck1", 9, "front-camera");
    stage
        .directory
        .declare(spare, 1, vec![declared])
        .await
        .unwrap();
    let (_main, main) = stage.connect("truck1", stage.truck1);
    let (_spare, spare) = stage.connect("truck1", spare);
    let mut encoder = stage.publish("truck1", 7).unwrap();
    encoder.deliver(unit(0), clock::now_us());
    assert_eq!(main.read()[1..], ["line 1 unit 0"]);
    assert_eq!(spare.read()[1..], ["line 9 unit 0"]);
    assert_eq!(encoder.labels().1, "Camera 1, Camera 9");
}

#[tokio::test]
async fn a_second_encoder_waits_and_moves_up() {
    let stage = Stage::new().await;
    let (_session, notebook) = stage.connect("truck1", stage.truck1);
    let mut first = stage.publish("truck1", 7).unwrap();
    let mut second = stage.publish("truck1", 8).unwrap();
    first.deliver(unit(0), clock::now_us());
    second.deliver(unit(0), clock::now_us());
    assert_eq!(
        notebook.read()[1..],
        ["line 1 unit 0"],
        "the second is held"
    );
    assert!(!has_to_go(&first) && !has_to_go(&second));
    let states: Vec<_> = stage
        .registry
        .publishers()
        .iter()
        .map(|p| p.state)
        .collect();
    assert_eq!(states, [PublisherState::Live, PublisherState::Held]);

    drop(first);
    second.deliver(unit(40_000), clock::now_us());
    assert_eq!(
        notebook.read(),
        [
            "line 1 ends: the encoder left",
            "line 1 starts: phone 8 from 203.0.113.8:50000, 600 ms",
            "line 1 unit 0",
            "line 1 unit 1",
        ],
        "with the picture that it had",
    );
}

#[tokio::test]
async fn a_phone_that_changed_networks_does_not_wait_for_its_ghost() {
    let stage = Stage::new().await;
    let (_session, notebook) = stage.connect("truck1", stage.truck1);
    let mut ghost = stage.publish("truck1", 7).unwrap();
    let now_us = clock::now_us();
    ghost.deliver(unit(0), now_us);
    let mut returned = stage.publish("truck1", 8).unwrap();
    notebook.read();

    returned.deliver(unit(0), now_us + 50_000);
    returned.deliver(unit(40_000), now_us + 900_000);
    assert!(!has_to_go(&ghost), "it may be a hiccup");
    returned.deliver(unit(80_000), now_us + 1_000_000);
    assert!(has_to_go(&ghost));
    ghost.deliver(unit(40_000), now_us + 1_100_000);
    drop(ghost);
    assert_eq!(
        notebook.read(),
        [
            "line 1 ends: another encoder took over the line: nothing had come from this one for 1 s",
            "line 1 starts: phone 8 from 203.0.113.8:50000, 600 ms",
            "line 1 unit 0",
        ]
    );
    assert_eq!(stage.registry.publishers_len(), 1);
}

#[tokio::test]
async fn an_encoder_that_reconnects_replaces_its_own_older_connection() {
    let stage = Stage::new().await;
    let mut first = stage.publish("truck1", 7).unwrap();
    first.deliver(unit(0), clock::now_us() - 300_000);
    let _second = stage.publish("truck1", 7).unwrap();
    assert!(has_to_go(&first));
    assert_eq!(first.replaced().await, Ending::Replaced(Why::Returned));
}

/// A production switcher of the studio shows it: only silence counts now, whichever connector says so.
#[tokio::test]
async fn on_program_the_same_encoder_has_to_be_silent_to_be_replaced() {
    let stage = Stage::new().await;
    let (session, notebook) = stage.connect("truck1", stage.truck1);
    let mut first = stage.publish("truck1", 7).unwrap();
    session.tally([1].into());
    first.deliver(unit(0), clock::now_us() - 300_000);
    let mut second = stage.publish("truck1", 7).unwrap();
    assert!(!has_to_go(&first));
    let now_us = clock::now_us();
    second.deliver(unit(0), now_us);
    second.deliver(unit(40_000), now_us + 650_000);
    assert!(!has_to_go(&first));
    notebook.read();
    second.deliver(unit(80_000), now_us + 950_000);
    assert_eq!(first.replaced().await, Ending::Replaced(Why::Silent));
    assert_eq!(notebook.read().len(), 3);
}

/// The crew changes a battery; the second camera's encoder, which has the same key by mistake, is not for the audience.
#[tokio::test]
async fn on_program_nobody_moves_up_before_a_second_has_passed() {
    let stage = Stage::new().await;
    let (session, notebook) = stage.connect("truck1", stage.truck1);
    session.tally([1].into());
    let mut first = stage.publish("truck1", 7).unwrap();
    let mut second = stage.publish("truck1", 8).unwrap();
    let now_us = clock::now_us();
    first.deliver(unit(0), now_us);
    drop(first);
    notebook.read();
    second.deliver(unit(0), now_us + 500_000);
    assert_eq!(notebook.read(), [""; 0]);

    let mut returned = stage.publish("truck1", 7).unwrap();
    returned.deliver(unit(0), now_us + 900_000);
    assert_eq!(
        notebook.read()[1..],
        ["line 1 unit 0"],
        "it is back in time"
    );
    drop(returned);
    notebook.read();
    second.deliver(unit(40_000), now_us + 1_950_000);
    assert_eq!(
        notebook.read()[0],
        "line 1 starts: phone 8 from 203.0.113.8:50000, 600 ms"
    );
}

#[tokio::test]
async fn the_operator_takes_at_the_next_keyframe_and_the_other_is_held() {
    let stage = Stage::new().await;
    let (session, notebook) = stage.connect("truck1", stage.truck1);
    let mut first = stage.publish("truck1", 7).unwrap();
    let mut second = stage.publish("truck1", 8).unwrap();
    let number = second.number;
    let now_us = clock::now_us();
    let between = |dts_us| AccessUnit {
        keyframe: false,
        config: None,
        ..unit(dts_us)
    };
    // Its GOP is older than the delay: there is nothing to show of it until the next.
    second.deliver(unit(0), now_us - 700_000);
    first.deliver(unit(0), now_us);
    notebook.read();
    assert!(!session.take(1, number.wrapping_add(9)) && !session.take(2, number));
    assert!(session.take(1, number));
    second.deliver(between(40_000), now_us + 10_000);
    first.deliver(between(40_000), now_us + 20_000);
    assert_eq!(
        notebook.read(),
        ["line 1 unit 1"],
        "the first stays so long"
    );
    second.deliver(unit(80_000), now_us + 50_000);
    second.deliver(between(120_000), now_us + 90_000);
    first.deliver(between(80_000), now_us + 90_000);
    assert_eq!(
        notebook.read(),
        [
            "line 1 ends: the operator chose another encoder",
            "line 1 starts: phone 8 from 203.0.113.8:50000, 600 ms",
            "line 1 unit 0",
            "line 1 held [phone 7], refused []",
            "line 1 unit 1",
        ]
    );
    assert!(!has_to_go(&first));

    // And back: its newest GOP is young enough to be shown in time, so it is at once.
    first.deliver(unit(120_000), now_us + 100_000);
    first.deliver(between(160_000), now_us + 140_000);
    assert!(session.take(1, first.number));
    assert_eq!(
        notebook.read(),
        [
            "line 1 ends: the operator chose another encoder",
            "line 1 starts: phone 7 from 203.0.113.7:50000, 600 ms",
            "line 1 unit 2",
            "line 1 unit 3",
            "line 1 held [phone 8], refused []",
        ]
    );
}

#[tokio::test]
async fn a_refused_encoder_is_told_and_is_no_question_again() {
    let stage = Stage::new().await;
    let (session, notebook) = stage.connect("truck1", stage.truck1);
    let _first = stage.publish("truck1", 7).unwrap();
    let second = stage.publish("truck1", 8).unwrap();
    let number = second.number;
    assert!(session.refuse(1, number));
    assert_eq!(second.replaced().await, Ending::Refused);
    drop(second);
    for _ in 0..20 {
        assert_eq!(stage.publish("truck1", 8).unwrap_err(), Refusal::ByStudio);
    }
    let metrics = stage.registry.shared.metrics.render();
    assert!(metrics.contains("refusals_total{reason=\"by_studio\"} 20"));
    assert_eq!(
        notebook.read()[1..],
        ["line 1 held [], refused [phone 8]"],
        "said once"
    );
    let (_late, late) = stage.connect("truck1", stage.truck1);
    assert_eq!(late.read().len(), 2, "a new session hears of it");

    assert!(session.take(1, number), "the operator relents");
    assert_eq!(notebook.read(), ["line 1 held [], refused []"]);
    assert!(stage.publish("truck1", 8).is_ok());
}

/// Two phones of one crew behind one address: which of them comes back, only a person can say.
#[tokio::test]
async fn the_twin_of_a_refused_encoder_is_a_question_when_it_comes_back() {
    let stage = Stage::new().await;
    let (session, notebook) = stage.connect("truck1", stage.truck1);
    let mut good = stage.publish("truck1", 8).unwrap();
    good.deliver(unit(0), clock::now_us());
    let bad = stage.publish("truck1", 8).unwrap();
    assert!(session.refuse(1, bad.number));
    drop(bad);
    assert_eq!(
        stage.publish("truck1", 8).unwrap_err(),
        Refusal::ByStudio,
        "the good one is here, so this is the other"
    );
    drop(good);
    notebook.read();

    let mut doubtful = stage.publish("truck1", 8).unwrap();
    let now_us = clock::now_us();
    doubtful.deliver(unit(0), now_us);
    stage.registry.report(1_000_000);
    doubtful.deliver(unit(40_000), now_us + 5_000_000);
    assert_eq!(
        notebook.read(),
        ["line 1 held [phone 8], refused [phone 8]"],
        "it is not shown by itself"
    );
    assert!(session.take(1, doubtful.number));
    assert!(
        notebook.read()[0].starts_with("line 1 starts: phone 8"),
        "the operator knows it"
    );
    assert_eq!(stage.publish("truck1", 8).unwrap_err(), Refusal::ByStudio);
}

/// Also when nobody publishes any more, and then it costs nothing for ever.
#[tokio::test]
async fn a_refusal_outlives_the_publishers_and_ends_with_the_key() {
    let stage = Stage::new().await;
    let (session, _notebook) = stage.connect("truck1", stage.truck1);
    let only = stage.publish("truck1", 8).unwrap();
    assert!(session.refuse(1, only.number));
    drop(only);
    stage.registry.report(1_000_000);
    assert_eq!(stage.publish("truck1", 8).unwrap_err(), Refusal::ByStudio);
    assert_eq!(stage.registry.publishers_len(), 0);
    stage
        .directory
        .declare(stage.truck1, 2, vec![])
        .await
        .unwrap();
    stage.registry.refresh_all();
    stage.registry.report(1_000_000);
    assert!(stage.registry.table().feeds.is_empty());
}

#[tokio::test]
async fn the_operator_is_asked_after_a_second_and_once() {
    let stage = Stage::new().await;
    let (_session, notebook) = stage.connect("truck1", stage.truck1);
    let mut first = stage.publish("truck1", 7).unwrap();
    let mut second = stage.publish("truck1", 8).unwrap();
    let now_us = clock::now_us();
    notebook.read();
    for n in 0..200 {
        let at_us = now_us + n * 40_000;
        first.deliver(unit(n * 40_000), at_us);
        second.deliver(unit(n * 40_000), at_us + 20_000);
    }
    let asked: Vec<_> = (notebook.read().into_iter())
        .filter(|text| !text.contains("unit"))
        .collect();
    assert_eq!(asked, ["line 1 held [phone 8], refused []"]);
    drop(second);
    assert_eq!(notebook.read(), ["line 1 held [], refused []"]);
}

/// Each dials again when it is cut off, on a line where the newest wins.
#[tokio::test]
async fn encoders_that_fight_are_stopped_with_one_alarm() {
    let stage = Stage::new().await;
    let mut declared = line(&stage.directory, "truck1", 1, "front-camera");
    declared.takeover = Takeover::Always;
    stage
        .directory
        .declare(stage.truck1, 2, vec![declared])
        .await
        .unwrap();
    let (_session, notebook) = stage.connect("truck1", stage.truck1);
    let mut encoders = vec![stage.publish("truck1", 7).unwrap()];
    for host in [8, 7, 8, 7, 8] {
        encoders.push(stage.publish("truck1", host).unwrap());
        encoders.retain(|publication| !has_to_go(publication));
    }
    let told = notebook.read();
    let starts = told.iter().filter(|text| text.contains("starts")).count();
    let alarms = told.iter().filter(|text| text.ends_with("frozen")).count();
    assert_eq!((starts, alarms), (3, 1), "{told:?}");
}

#[tokio::test]
async fn a_line_that_is_taken_away_ends_its_feed_and_a_new_delay_does_not() {
    let stage = Stage::new().await;
    let (_session, notebook) = stage.connect("truck1", stage.truck1);
    let encoder = stage.publish("truck1", 7).unwrap();
    notebook.read();
    let mut declared = line(&stage.directory, "truck1", 1, "front-camera");

    declared.delay_ms = 1500;
    stage
        .directory
        .declare(stage.truck1, 2, vec![declared.clone()])
        .await
        .unwrap();
    stage.registry.refresh_all();
    assert_eq!(notebook.read(), ["line 1 delay 1500 ms"]);
    assert!(!has_to_go(&encoder));

    declared.enabled = false;
    stage
        .directory
        .declare(stage.truck1, 3, vec![declared])
        .await
        .unwrap();
    stage.registry.refresh_all();
    assert_eq!(
        notebook.read(),
        ["line 1 ends: the studio took the line away"]
    );
    assert!(has_to_go(&encoder));
    assert_eq!(encoder.replaced().await, Ending::Withdrawn);
    assert_eq!(stage.publish("truck1", 7).unwrap_err(), Refusal::UnknownKey);
}

#[tokio::test]
async fn a_studio_away_does_not_end_the_feed() {
    let stage = Stage::new().await;
    let (session, notebook) = stage.connect("truck1", stage.truck1);
    let mut encoder = stage.publish("truck1", 7).unwrap();
    drop(session);
    notebook.read();
    encoder.deliver(unit(0), clock::now_us());
    assert!(!has_to_go(&encoder));
    assert_eq!(notebook.read(), [""; 0]);
    let dropped = "firstmile_relay_units_dropped_total{reason=\"no_connector\"} 1";
    assert!(stage.registry.shared.metrics.render().contains(dropped));
}

#[tokio::test]
async fn limits_and_drain_stop_new_publishers_only() {
    let stage = Stage::new().await;
    let (_session, notebook) = stage.connect("truck1", stage.truck1);
    let all: Vec<_> = (0..5)
        .map(|host| stage.publish("truck1", host).unwrap())
        .collect();
    assert_eq!(
        stage.publish("truck1", 9).unwrap_err(),
        Refusal::Full,
        "the studio's limit"
    );
    let other = stage.publish("truck2", 9).unwrap();
    assert_eq!(
        stage.publish("truck2", 8).unwrap_err(),
        Refusal::Full,
        "the relay's limit"
    );
    drop(other);
    stage.registry.drain(None);
    stage.registry.drain(None);
    assert_eq!(stage.publish("truck2", 9).unwrap_err(), Refusal::Draining);
    assert!(all.iter().all(|publication| !has_to_go(publication)));
    assert_eq!(notebook.read()[1..], ["draining"]);
    assert_eq!(
        stage.registry.publishers()[0].state,
        PublisherState::Draining
    );
}

/// A thousand feeds a second would fill the log, the studio's events, and its connectors' control streams.
#[tokio::test]
async fn whoever_does_nothing_but_begin_is_slowed_down_and_nobody_else_is() {
    let stage = Stage::new().await;
    let (_session, notebook) = stage.connect("truck1", stage.truck1);
    let begins = (0..1_000).filter(|_| stage.publish("truck1", 7).is_ok());
    assert_eq!(begins.count(), 10);
    let told = notebook.read();
    let starts = told.iter().filter(|text| text.contains("starts")).count();
    assert_eq!(starts, 10, "{told:?}");
    assert_eq!(
        stage.publish("truck1", 7).unwrap_err(),
        Refusal::TooOften,
        "its feed has ended, and is remembered"
    );
    stage.publish("truck1", 8).unwrap();
    stage.publish("truck2", 7).unwrap();
}

#[tokio::test]
async fn the_policy_of_the_line_decides() {
    let stage = Stage::new().await;
    for (generation, takeover, host, is_replaced) in [
        (2, Takeover::Never, 7, false),
        (3, Takeover::Always, 8, true),
    ] {
        let mut declared = line(&stage.directory, "truck1", 1, "front-camera");
        declared.takeover = takeover;
        stage
            .directory
            .declare(stage.truck1, generation, vec![declared])
            .await
            .unwrap();
        let first = stage.publish("truck1", 7).unwrap();
        let _second = stage.publish("truck1", host).unwrap();
        assert_eq!(has_to_go(&first), is_replaced, "{takeover:?}");
    }
}

#[tokio::test]
async fn once_a_second_the_studio_hears_how_its_feeds_are() {
    let stage = Stage::new().await;
    let (session, notebook) = stage.connect("truck1", stage.truck1);
    let mut encoder = stage.publish("truck1", 7).unwrap();
    let _held = stage.publish("truck1", 8).unwrap();
    let now_us = clock::now_us();
    encoder.deliver(unit(0), now_us);
    encoder.deliver(unit(40_000), now_us + 290_000);
    notebook.read();
    stage.registry.report(1_000_000);
    assert_eq!(
        notebook.read(),
        ["line 1: lag Some(250) ms, Some(16000) bit/s, 1 held"]
    );

    session.describe(SessionInfo {
        name: "truck\u{1b}[2J".to_owned(),
        software: "firstmile-connector 0.1.0".to_owned(),
        transport: "quic",
        ..SessionInfo::default()
    });
    session.measured(Some(41.5), SocketAddr::from(([192, 0, 2, 1], 1)));
    let live = serde_json::to_value(&stage.registry.publishers()[0]).unwrap();
    let since = live["since"].clone();
    assert_eq!(
        live,
        serde_json::json!({
            "studio": "truck1", "line": "Camera 1", "peer": "203.0.113.7:50000", "encoder": "phone 7",
            "protocol": "rtmp", "since": since, "state": "live", "encoder_lag_ms": 250, "bitrate_bps": 16000,
            "stalled_ms": null, "video_codec": "H.264", "audio_codec": null,
            "accepted_lag_ms": 0, "findings": [],
            "delivered_to": [{"connector": "010101010101", "line": "Camera 1", "transport": "quic"}],
        })
    );
    let connectors = serde_json::to_value(stage.registry.connectors()).unwrap();
    let since = connectors[0]["since"].clone();
    assert!(since.is_string());
    assert_eq!(
        connectors,
        serde_json::json!([
            {"id": "010101010101", "studio": "truck1", "name": "truck[2J", "version": "firstmile-connector 0.1.0",
             "peer": "192.0.2.1:1", "since": since, "transport": "quic", "rtt_ms": 41.5},
            {"id": "020202020202", "studio": "truck2", "name": "pc-2", "version": null,
             "peer": null, "since": null, "transport": null, "rtt_ms": null},
        ])
    );
}

#[tokio::test]
async fn a_publisher_that_sends_nothing_for_two_seconds_is_stalled_until_it_sends_again() {
    let stage = Stage::new().await;
    let (_session, notebook) = stage.connect("truck1", stage.truck1);
    let mut encoder = stage.publish("truck1", 7).unwrap();
    let stalled = || stage.registry.publishers()[0].stalled_ms;
    encoder.deliver(unit(0), clock::now_us() - 1_500_000);
    assert_eq!(stalled(), None);
    encoder.deliver(unit(40_000), clock::now_us() - 3_000_000);
    assert!(stalled().is_some_and(|ms| (3_000..3_500).contains(&ms)));
    notebook.read();
    stage.registry.report(1_000_000);
    let told = notebook.read().join("; ");
    assert!(told.contains("stalled for 3"), "{told}");
    encoder.deliver(unit(80_000), clock::now_us());
    assert_eq!(stalled(), None);
}

#[tokio::test]
async fn those_that_stay_in_a_drained_relay_are_closed_when_their_time_is_over() {
    let stage = Stage::new().await;
    let stays = stage.publish("truck1", 7).unwrap();
    stage.registry.drain(Some(Duration::from_secs(5)));
    stage.registry.close_drained(clock::now_us());
    assert!(!has_to_go(&stays));
    stage.registry.drain(Some(Duration::ZERO));
    stage.registry.close_drained(clock::now_us());
    assert_eq!(stays.replaced().await, Ending::Drained);
}

#[tokio::test]
async fn a_change_of_the_directory_is_followed_without_being_asked() {
    let stage = Stage::new().await;
    let encoder = stage.publish("truck1", 7).unwrap();
    let shutdown = CancellationToken::new();
    let run = stage.registry.run(shutdown.clone());
    let script = async {
        stage.directory.revoke_studio("truck1").await.unwrap();
        let ending = encoder.replaced().await;
        shutdown.cancel();
        ending
    };
    let ((), ending) = tokio::join!(run, script);
    assert_eq!(ending, Ending::Withdrawn);
}

#[tokio::test]
async fn a_connector_that_comes_back_finds_its_own_place() {
    let stage = Stage::new().await;
    let has_room = |studio, connector| stage.registry.has_room(studio, connector);
    let spare = Spki([3; 32]);
    let _main = stage.connect("truck1", stage.truck1);
    assert!(has_room("truck1", spare));
    let _spare = stage.connect("truck1", spare);
    assert!(!has_room("truck1", Spki([4; 32])), "the studio's limit");
    assert!(has_room("truck1", spare), "it comes back");
    assert!(has_room("truck2", stage.truck2));
    let _other = stage.connect("truck2", stage.truck2);
    assert!(!has_room("truck2", Spki([4; 32])), "the relay's limit");
}

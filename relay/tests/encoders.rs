//! Real encoders against the ingest: what they send must come out as it went in.
//!
//! `ffmpeg` signs its handshake and speaks classic FLV; `GStreamer` (`rtmp2sink`) shakes hands plainly, compresses
//! headers and numbers its commands 0. A missing program skips its tests and says so; with
//! `FIRSTMILE_REQUIRE_FFMPEG=1` a missing ffmpeg is a failure.

#![allow(clippy::unwrap_used, reason = "a test that goes wrong may panic")]

use std::{
    process::{Command, Output, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use firstmile_relay::{
    auth::Directory,
    config::LimitsConfig,
    ingest::{Desk, Ingest, RtmpIngest},
    metrics::Metrics,
    registry::{Claims, FeedStart, Registry, Subscriber, Subscription},
    store::{StoreThread, sqlite::Sqlite},
};
use firstmile_shared::{
    config::Listen,
    media::{AccessUnit, MediaKind, aac::AacConfig, avc::AvcConfig},
    net,
    secret::StreamKey,
    tls::Spki,
    tunnel::{
        control::{FeedReport, Finding, LagPolicy, LineDeclaration, Takeover, TrackReport},
        unit::Unit,
    },
};
use tokio::{task::JoinSet, time};
use tokio_util::sync::CancellationToken;

#[tokio::test]
async fn ffmpegs_pictures_and_sound_come_out_complete() {
    if !have("ffmpeg") {
        return;
    }
    let mut relay = Relay::start().await;
    let url = relay.url(KEY);
    run(ffmpeg(&["-bf", "2"], &url)).await.success("ffmpeg");
    relay.studio.wait_end().await;
    let units = relay.studio.units();

    let video: Vec<_> = units
        .iter()
        .filter(|unit| unit.kind() == MediaKind::Video)
        .collect();
    assert_eq!(video.len(), 90, "pictures");
    let keyframes: Vec<_> = (0..90).filter(|n| video[*n].keyframe).collect();
    assert_eq!(keyframes, [0, 30, 60]);
    let config = AvcConfig::parse(video[0].config.as_deref().unwrap()).unwrap();
    assert_eq!((config.sps.width, config.sps.height), (640, 360));
    assert_eq!(config.sps.frame_rate, Some((30, 1)));
    assert!(
        video.iter().any(|unit| unit.disposable),
        "B-pictures nobody refers to"
    );
    let mut shown: Vec<_> = video.iter().map(|unit| unit.pts_us() / 1_000).collect();
    shown.sort_unstable();
    let steps: Vec<_> = shown.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(
        steps.iter().all(|step| (33..=34).contains(step)),
        "{steps:?}"
    );

    let audio: Vec<_> = units
        .iter()
        .filter(|unit| unit.kind() == MediaKind::Audio)
        .collect();
    assert!(
        (125..=135).contains(&audio.len()),
        "{} blocks of sound",
        audio.len()
    );
    for unit in &audio {
        let config = AacConfig::parse(unit.config.as_deref().unwrap()).unwrap();
        assert_eq!(
            (config.output_rate(), config.output_channels()),
            (44_100, 1)
        );
    }
    rises(&video);
    rises(&audio);
    assert!(units.iter().all(|unit| !unit.discontinuity));
    let texts = relay.studio.texts();
    assert!(texts[0].contains("Lavf"), "{texts:?}");
    assert_eq!(
        texts.last().map(String::as_str),
        Some("ends: the encoder stopped")
    );
    relay.stop().await;
}

#[tokio::test]
async fn ffmpeg_with_a_wrong_key_is_told_and_stops() {
    if !have("ffmpeg") {
        return;
    }
    let mut relay = Relay::start().await;
    let output = run(ffmpeg(&[], &relay.url("wrong-key"))).await;
    assert!(!output.0.status.success());
    let errors = String::from_utf8_lossy(&output.0.stderr);
    assert!(errors.contains("Operation not permitted"), "{errors}");
    assert!(relay.studio.texts().is_empty());
    relay.stop().await;
}

/// 0xFFFFFF ms is reached after 4 h 39 min; from then on times take four bytes more.
#[tokio::test]
async fn ffmpegs_show_goes_on_after_four_hours_and_a_half() {
    if !have("ffmpeg") {
        return;
    }
    let mut relay = Relay::start().await;
    let arguments = ["-output_ts_offset", "16775.5"];
    run(ffmpeg(&arguments, &relay.url(KEY)))
        .await
        .success("ffmpeg");
    relay.studio.wait_end().await;
    let units = relay.studio.units();
    for kind in [MediaKind::Video, MediaKind::Audio] {
        let track: Vec<_> = units.iter().filter(|unit| unit.kind() == kind).collect();
        let (first, last) = (
            track[0].dts_us / 1_000,
            track[track.len() - 1].dts_us / 1_000,
        );
        assert!(
            (16_775_400..16_775_600).contains(&first),
            "{kind:?}: {first}"
        );
        assert!((16_778_400..16_778_600).contains(&last), "{kind:?}: {last}");
        assert!(track.len() >= 90);
        rises(&track);
        assert!(track.iter().all(|unit| !unit.discontinuity), "{kind:?}");
    }
    relay.stop().await;
}

#[tokio::test]
async fn gstreamers_pictures_and_sound_come_out_complete() {
    if !have("gst-launch-1.0") {
        return;
    }
    let mut relay = Relay::start().await;
    let mut command = Command::new("gst-launch-1.0");
    command.args(["-q", "-e"]).args(
        "videotestsrc num-buffers=60 is-live=true ! video/x-raw,width=640,height=360,framerate=30/1 \
         ! x264enc tune=zerolatency speed-preset=ultrafast key-int-max=30 ! h264parse ! mux. \
         audiotestsrc num-buffers=90 is-live=true ! audio/x-raw,rate=44100,channels=2 \
         ! voaacenc ! aacparse ! mux. flvmux name=mux streamable=true ! rtmp2sink"
            .split_whitespace(),
    );
    command.arg(format!("location={}", relay.url(KEY)));
    run(command).await.success("gst-launch-1.0");
    relay.studio.wait_end().await;
    let units = relay.studio.units();
    let video: Vec<_> = units
        .iter()
        .filter(|unit| unit.kind() == MediaKind::Video)
        .collect();
    assert_eq!(video.len(), 60, "pictures");
    assert!(video[0].keyframe && video[30].keyframe);
    let config = AvcConfig::parse(video[0].config.as_deref().unwrap()).unwrap();
    assert_eq!((config.sps.width, config.sps.height), (640, 360));
    let audio: Vec<_> = units
        .iter()
        .filter(|unit| unit.kind() == MediaKind::Audio)
        .collect();
    assert!(audio.len() >= 80, "{} blocks of sound", audio.len());
    rises(&video);
    rises(&audio);
    relay.stop().await;
}

/// The registry over a real directory, with one studio listening, behind a real listener.
struct Relay {
    address: std::net::SocketAddr,
    studio: Arc<Studio>,
    shutdown: CancellationToken,
    ingest: JoinSet<anyhow::Result<()>>,
    _subscription: Subscription,
    _store: StoreThread,
}

impl Relay {
    async fn start() -> Self {
        let store = StoreThread::start(Sqlite::in_memory().unwrap()).unwrap();
        let directory = Directory::open(store.handle()).await.unwrap();
        let spki = Spki([1; 32]);
        let invitation = directory.invite("truck1", 1, 60).await.unwrap();
        directory
            .enrol(&invitation.id, &invitation.secret, spki, "pc")
            .await
            .unwrap();
        let salt = directory.salt("truck1").unwrap();
        let line = LineDeclaration {
            line: 1,
            name: "Camera 1".to_owned(),
            key_hash: StreamKey::parse(KEY).unwrap().hash(&salt).to_hex(),
            enabled: true,
            delay_ms: 600,
            takeover: Takeover::Smart,
            lag: LagPolicy::Reconnect,
            max_lag_ms: 3_000,
        };
        directory.declare(spki, 1, vec![line]).await.unwrap();
        let metrics = Arc::new(Metrics::new());
        let limits = LimitsConfig::default();
        let registry = Registry::new(directory, metrics.clone(), (&limits).into());
        let studio = Arc::new(Studio::default());
        let subscription = registry.subscribe("truck1", spki, studio.clone(), None);

        let listener = net::bind_tcp(&Listen::at("127.0.0.1", 0), "rtmp.listen");
        let rtmp = RtmpIngest::new(listener.unwrap().unwrap(), (&limits).into()).unwrap();
        let address = rtmp.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let mut ingest = JoinSet::new();
        ingest.spawn(rtmp.run(Desk::new(registry, metrics), shutdown.clone()));
        Self {
            address,
            studio,
            shutdown,
            ingest,
            _subscription: subscription,
            _store: store,
        }
    }

    fn url(&self, key: &str) -> String {
        format!("rtmp://{}/truck1/{key}", self.address)
    }

    async fn stop(&mut self) {
        self.shutdown.cancel();
        let ended = time::timeout(PATIENCE, self.ingest.join_next()).await;
        ended.unwrap().unwrap().unwrap().unwrap();
    }
}

/// A connector that keeps what it gets.
#[derive(Debug, Default)]
struct Studio {
    units: Mutex<Vec<AccessUnit>>,
    texts: Mutex<Vec<String>>,
}

impl Studio {
    fn units(&self) -> Vec<AccessUnit> {
        self.units.lock().unwrap().clone()
    }

    fn texts(&self) -> Vec<String> {
        self.texts.lock().unwrap().clone()
    }

    async fn wait_end(&self) {
        let started = Instant::now();
        while !self.texts().iter().any(|text| text.starts_with("ends")) {
            assert!(started.elapsed() < PATIENCE, "the feed did not end");
            time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Subscriber for Studio {
    fn feed_started(&self, feed: FeedStart) {
        let text = format!("starts: {}", feed.encoder);
        self.texts.lock().unwrap().push(text);
    }
    fn set_delay(&self, _line: u32, _delay_ms: u32) {}
    fn deliver(&self, unit: Unit) {
        self.units.lock().unwrap().push(unit.access_unit);
    }
    fn restore(&self, _: Vec<Unit>) {}
    fn feed_ended(&self, _line: u32, _publisher: u32, reason: &str) {
        let text = format!("ends: {reason}");
        self.texts.lock().unwrap().push(text);
    }
    fn tracks(&self, _line: u32, _publisher: u32, _tracks: Vec<TrackReport>) {}
    fn claims(&self, _line: u32, _claims: Claims) {}
    fn report(&self, _feeds: Vec<FeedReport>) {}
    fn findings(&self, _line: u32, _publisher: u32, _findings: Vec<Finding>) {}
    fn draining(&self) {}
}

/// Three seconds of pattern and tone, as fast as they can be coded.
fn ffmpeg(arguments: &[&str], url: &str) -> Command {
    let mut command = Command::new("ffmpeg");
    command
        .args(["-hide_banner", "-nostdin", "-loglevel", "error"])
        .args(["-f", "lavfi", "-i", "testsrc2=s=640x360:r=30"])
        .args(["-f", "lavfi", "-i", "sine=r=44100"])
        .args(["-t", "3", "-c:v", "libx264", "-preset", "veryfast"])
        .args(["-pix_fmt", "yuv420p", "-g", "30", "-sc_threshold", "0"])
        .args(["-c:a", "aac"])
        .args(arguments)
        .args(["-f", "flv", url]);
    command
}

struct Ended(Output);

impl Ended {
    #[track_caller]
    fn success(&self, who: &str) {
        let errors = String::from_utf8_lossy(&self.0.stderr);
        assert!(
            self.0.status.success(),
            "{who}: {}: {errors}",
            self.0.status
        );
    }
}

async fn run(mut command: Command) -> Ended {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let output = tokio::task::spawn_blocking(move || command.output());
    Ended(
        time::timeout(PATIENCE, output)
            .await
            .unwrap()
            .unwrap()
            .unwrap(),
    )
}

#[track_caller]
fn rises(track: &[&AccessUnit]) {
    for pair in track.windows(2) {
        assert!(
            pair[0].dts_us < pair[1].dts_us,
            "{} then {}",
            pair[0].dts_us,
            pair[1].dts_us
        );
    }
}

#[expect(clippy::print_stderr, reason = "a skipped test has to say so")]
fn have(program: &str) -> bool {
    let version = Command::new(program)
        .arg(if program == "ffmpeg" {
            "-version"
        } else {
            "--version"
        })
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if version.is_ok_and(|status| status.success()) {
        return true;
    }
    let required = program == "ffmpeg"
        && std::env::var("FIRSTMILE_REQUIRE_FFMPEG").is_ok_and(|value| value == "1");
    assert!(
        !required,
        "{program} is missing, and FIRSTMILE_REQUIRE_FFMPEG=1 says it must not be"
    );
    eprintln!("SKIPPED: {program} is not installed");
    false
}

const KEY: &str = "front-camera-1";
const PATIENCE: Duration = Duration::from_secs(25);

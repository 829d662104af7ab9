//! A line as a whole, in real time: units in at one end, an output that notes everything at the other.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use firstmile_shared::media::{AccessUnit, Codec};

mod decoder_faults;

use super::*;
use crate::{
    decode::clip::camera,
    os::wait_until,
    output::{FrameRate, Picture, Sound},
};

/// Notes when what came.
#[derive(Clone, Debug, Default)]
struct Noted {
    log: Arc<Mutex<Log>>,
}

#[derive(Debug, Default)]
struct Log {
    /// Sent at, time code, and a picture's own pixels as a name.
    pictures: Vec<(i64, i64, u64)>,
    /// Sent at, time code, frames, whether there was something to hear.
    sounds: Vec<(i64, i64, usize, bool)>,
}

impl Noted {
    fn log(&self) -> std::sync::MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Output for Noted {
    fn kind(&self) -> &'static str {
        "test"
    }

    fn name(&self) -> &'static str {
        "test"
    }

    fn show(&mut self, picture: &Arc<Picture>, _rate: FrameRate, timecode: i64) {
        let name = (picture.pixels.iter()).fold(picture.pixels.len() as u64, |sum, byte| {
            sum.wrapping_mul(31) + u64::from(*byte)
        });
        self.log().pictures.push((now_us(), timecode, name));
    }

    fn play(&mut self, sound: &Sound, timecode: i64) {
        let is_loud = sound.samples().iter().any(|sample| sample.abs() > 0.01);
        self.log()
            .sounds
            .push((now_us(), timecode, sound.frames(), is_loud));
    }
}

/// A line under test, and the encoder in front of it.
struct Fixture {
    _artist: Artist,
    playout: Playout,
    handle: LineHandle,
    noted: Noted,
    seq: u64,
}

const DELAY_US: i64 = 250_000;

impl Fixture {
    fn start() -> Self {
        Self::with(
            "Camera 1",
            Box::new(|| Decoders::default().open("Camera 1")),
        )
    }

    fn with(name: &str, make: Box<MakeDecoder>) -> Self {
        let noted = Noted::default();
        let settings = LineSettings::new(name, DELAY_US, OutputKind::Null);
        let artist = Artist::start().unwrap();
        let output = Box::new(noted.clone());
        let (playout, handle) = Playout::start_with(&settings, output, &artist, make).unwrap();
        Self {
            _artist: artist,
            playout,
            handle,
            noted,
            seq: 0,
        }
    }

    fn connect(&mut self, publisher: u32) {
        self.seq = 0;
        self.handle.feed_started(FeedInfo {
            publisher,
            relay: "relay:4433".to_owned(),
            encoder: "test".to_owned(),
            agent: "test".to_owned(),
            peer: "127.0.0.1:1".to_owned(),
            tracks: Vec::new(),
        });
    }

    /// Sends the units at their decode times from `start_us` on, each `network_us(n)` later.
    fn send(
        &mut self,
        publisher: u32,
        units: &[AccessUnit],
        start_us: i64,
        network_us: impl Fn(usize) -> i64,
    ) {
        let mut order: Vec<_> = units
            .iter()
            .enumerate()
            .map(|(n, unit)| {
                (
                    start_us + unit.dts_us + network_us(n),
                    self.seq + n as u64,
                    unit,
                )
            })
            .collect();
        self.seq += units.len() as u64;
        order.sort_by_key(|(at_us, ..)| *at_us);
        for (at_us, seq, unit) in order {
            wait_until(at_us);
            self.handle.push(ArrivedUnit {
                unit: Unit {
                    line: 1,
                    publisher,
                    seq,
                    ingest_us: 0,
                    baseline_us: 0,
                    queued_us: 0,
                    access_unit: unit.clone(),
                },
                arrived_us: now_us(),
                baseline_us: start_us,
                ingest_us: start_us + unit.dts_us,
            });
        }
    }
}

/// The middle of what is measured and the worst but a twentieth: this machine does other things too.
fn spread(mut values: Vec<i64>) -> (i64, i64) {
    values.sort_unstable();
    (values[values.len() / 2], values[values.len() * 19 / 20])
}

#[test]
fn a_feed_is_played_evenly_in_sync_and_whole() {
    for encoder in [
        "-preset ultrafast -tune zerolatency",
        "-preset veryfast -bf 2",
    ] {
        let Some(units) = camera(4, encoder) else {
            return;
        };
        let mut fixture = Fixture::start();
        fixture.connect(1);
        let start_us = now_us() + 20_000;
        // Up to 60 ms of network, out of order.
        fixture.send(1, &units, start_us, |n| {
            i64::try_from(n * 7 % 60).unwrap() * 1_000
        });
        let snapshot = fixture.handle.snapshot();
        // What the decoder still holds for reordering comes out at the end.
        fixture.handle.feed_ended(1, String::new());
        wait_until(start_us + 4_000_000 + DELAY_US + 200_000);

        assert_eq!(snapshot.state, LineState::Live, "{:?}", snapshot.reason);
        assert_eq!(snapshot.reason, None);
        let video = &snapshot.video;
        assert_eq!(
            (video.codec, video.width, video.height),
            (Some("H.264"), Some(320), Some(180))
        );
        assert_eq!(
            (video.units_total, video.lost_total, video.dropped_total),
            (120, 0, 0)
        );
        assert_eq!((video.fps, video.decode_errors_total), (Some(30.0), 0));
        assert_eq!(snapshot.audio.sample_rate, Some(48_000));
        let offset_ms = snapshot.av_offset_ms.unwrap();
        assert!(offset_ms.abs() <= 20.0, "{offset_ms} ms");

        let log = fixture.noted.log();
        let mut pictures = log.pictures.clone();
        pictures.retain(|(at_us, ..)| *at_us > start_us + DELAY_US - 5_000);
        pictures.dedup_by_key(|(_, _, name)| *name);
        let late = fixture.handle.snapshot().video.late_total;
        assert!(late <= 6, "{late} late of 120");
        assert!(
            pictures.len() as u64 + late >= 119,
            "{} pictures",
            pictures.len()
        );
        let gaps = pictures
            .windows(2)
            .map(|pair| pair[1].0 - pair[0].0)
            .collect();
        let (middle_us, worst_us) = spread(gaps);
        assert!(
            (middle_us - 33_333).abs() < 2_000 && worst_us < 50_000,
            "{middle_us} {worst_us}"
        );

        // A tone from the first to the last sample, apart from the encoder's own start and end.
        let loud: Vec<_> = log.sounds.iter().filter(|(.., is_loud)| *is_loud).collect();
        let frames: usize = loud.iter().map(|(_, _, frames, _)| frames).sum();
        assert!(frames.abs_diff(4 * 48_000) <= 2 * 1024, "{frames}");
        let first = log
            .sounds
            .iter()
            .position(|(.., is_loud)| *is_loud)
            .unwrap();
        let run = &log.sounds[first..first + loud.len()];
        assert!(
            run.iter().all(|(.., is_loud)| *is_loud),
            "silence within the tone"
        );
        for (n, pair) in run.windows(2).enumerate() {
            let end = pair[0].1 + i64::try_from(pair[0].2).unwrap() * 10_000 / 48;
            // At first the run finds its place, by a few milliseconds; then it is there.
            let limit = if n < 25 { 40_000 } else { 10_000 };
            let seam = (pair[1].1 - end).abs();
            assert!(seam < limit, "{} µs after block {n}", seam / 10);
        }
        drop(log);
        fixture.playout.stop();
    }
}

#[test]
fn an_encoder_that_returns_is_seen_at_its_first_keyframe_on_the_same_source() {
    let Some(units) = camera(2, "-preset ultrafast -tune zerolatency") else {
        return;
    };
    let mut fixture = Fixture::start();
    assert_eq!(fixture.handle.snapshot().state, LineState::Waiting);
    fixture.connect(1);
    let start_us = now_us() + 20_000;
    fixture.send(1, &units[..units.len() / 2], start_us, |_| 5_000);
    fixture.handle.feed_ended(1, "the encoder left".to_owned());
    wait_until(start_us + 1_000_000 + DELAY_US + 1_300_000);
    let snapshot = fixture.handle.snapshot();
    assert_eq!(snapshot.state, LineState::Slate);
    assert!(
        snapshot
            .reason
            .unwrap()
            .starts_with("the encoder left, 1 s ago")
    );
    assert_eq!(snapshot.relay, None);

    // It comes back in the middle of a GOP: what is before its first keyframe is not shown.
    fixture.connect(2);
    let from = units
        .iter()
        .position(|unit| unit.dts_us >= 700_000)
        .unwrap();
    let keyframe_us = units[from..]
        .iter()
        .find(|unit| unit.codec == Codec::H264 && unit.keyframe)
        .unwrap()
        .dts_us;
    let start_us = now_us() + 20_000 - 700_000;
    fixture.send(2, &units[from..], start_us, |_| 5_000);
    wait_until(start_us + 2_000_000 + DELAY_US);
    let log = fixture.noted.log();
    let mut shown = log.pictures.clone();
    shown.retain(|(at_us, ..)| *at_us > start_us + 700_000);
    let held = shown[0].2;
    let (back_us, ..) = *shown.iter().find(|(_, _, name)| *name != held).unwrap();
    let due_us = start_us + keyframe_us + DELAY_US;
    assert!(
        (-5_000..60_000).contains(&(back_us - due_us)),
        "{} ms off",
        (back_us - due_us) / 1000
    );
    drop(log);
    assert_eq!(fixture.handle.snapshot().state, LineState::Live);
}

/// The delay is a promise: what comes after it is decoded, counted and not shown.
#[test]
fn what_comes_too_late_is_not_shown_and_the_delay_stays() {
    let Some(units) = camera(4, "-preset ultrafast -tune zerolatency") else {
        return;
    };
    let video: Vec<_> = units
        .into_iter()
        .filter(|unit| unit.codec == Codec::H264)
        .collect();
    let mut fixture = Fixture::start();
    fixture.connect(1);
    let start_us = now_us() + 20_000;
    // The link stalls for a second, then everything comes at once.
    let stalled = |n: usize| {
        let sent_us = video[n].dts_us;
        if (1_500_000..2_500_000).contains(&sent_us) {
            2_500_000 - sent_us
        } else {
            5_000
        }
    };
    fixture.send(1, &video, start_us, stalled);
    wait_until(start_us + 4_000_000 + DELAY_US + 100_000);
    let log = fixture.noted.log();
    let mut shown = log.pictures.clone();
    shown.retain(|(at_us, ..)| *at_us > start_us + DELAY_US - 5_000);
    shown.dedup_by_key(|(_, _, name)| *name);
    let off: Vec<i64> = (shown.windows(2))
        .map(|pair| pair[1].0 - pair[0].0)
        .filter(|gap_us| *gap_us > 300_000)
        .collect();
    assert_eq!(off.len(), 1, "one stall: {off:?}");
    assert!(
        (700_000..950_000).contains(&off[0]),
        "a second less the delay: {off:?}"
    );
    drop(log);
    let video = fixture.handle.snapshot().video;
    // 1 s less 250 ms of 30 fps: they were too late.
    assert!(
        (18..=30).contains(&video.late_total),
        "{}",
        video.late_total
    );
    assert_eq!((video.dropped_total, video.lost_total), (0, 0));
}

#[test]
fn a_missing_picture_hides_all_that_refer_to_it() {
    let Some(units) = camera(3, "-preset ultrafast -tune zerolatency") else {
        return;
    };
    let video: Vec<_> = units
        .into_iter()
        .filter(|unit| unit.codec == Codec::H264)
        .collect();
    let mut fixture = Fixture::start();
    fixture.connect(1);
    let start_us = now_us() + 20_000;
    fixture.send(1, &video[..40], start_us, |_| 5_000);
    fixture.seq += 2;
    let left_out = LeftOut {
        from_seq: 40,
        to_seq: 41,
        video: 2,
        disposable: false,
    };
    fixture.handle.dropped(1, left_out);
    fixture.send(1, &video[42..], start_us, |_| 5_000);
    wait_until(start_us + 3_000_000 + DELAY_US + 100_000);
    let mut shown = fixture.noted.log().pictures.clone();
    shown.retain(|(at_us, ..)| *at_us > start_us + DELAY_US - 5_000);
    shown.dedup_by_key(|(_, _, name)| *name);
    let longest = shown
        .windows(2)
        .map(|pair| pair[1].0 - pair[0].0)
        .max()
        .unwrap();
    // From picture 39 to the keyframe at 60.
    assert!((650_000..800_000).contains(&longest), "{longest}");
    let video = fixture.handle.snapshot().video;
    assert_eq!(
        (video.dropped_total, video.lost_total),
        (2 + 18, 0),
        "the relay's, and those that refer to them"
    );
}

#[test]
fn a_line_stops_within_its_time_whatever_it_does() {
    let mut fixture = Fixture::start();
    fixture.connect(1);
    thread::sleep(Duration::from_millis(50));
    let before_us = now_us();
    fixture.playout.stop();
    assert!(now_us() - before_us < 2_000_000);
    // The handle outlives it and does no harm.
    fixture
        .handle
        .set(&LineSettings::new("Camera 1", 1, OutputKind::Null));
    fixture.handle.feed_ended(1, String::new());
    assert_eq!(fixture.handle.snapshot().delay_ms, 0);
}

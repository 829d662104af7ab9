//! The main job: a real encoder's RTMP becomes a real NDI source, through a relay and a tunnel that the studio dialled.

use std::time::{Duration, Instant};

use firstmile_tests::{
    harness::{DELAY_MS, Encoder, EncoderSettings, Need, OutputKind, PATIENCE, Show, can_run},
    viewer::Viewer,
};

const SECONDS: u32 = 20;

/// `ffmpeg` pushes 720p30 with a stamp in every picture and a beep in every second; the studio sees every picture, in
/// order, evenly, on time, with the sound where it belongs.
fn every_picture_arrives(settings: &EncoderSettings) -> anyhow::Result<()> {
    if !can_run(&[Need::Ndi, Need::Ffmpeg]) {
        return Ok(());
    }
    let show = Show::start()?;
    let studio = show.joined("truck1", OutputKind::Ndi)?;
    let line = show.add_line("truck1", &studio, "Camera 1", None)?;
    let viewer = Viewer::find("Camera 1", Instant::now() + PATIENCE)?;
    viewer.wait_for("the card", Instant::now() + PATIENCE, |seen| {
        seen.unstamped > 0
    })?;

    // It goes on publishing until the picture is judged: how an encoder ends is another matter.
    let encoder = Encoder::start(show.folder(), "camera", &line.url, settings)?;
    let pictures = SECONDS * settings.fps;
    let length = Duration::from_secs(SECONDS.into());
    let report = viewer.wait_for("all pictures", Instant::now() + length + PATIENCE, |seen| {
        seen.sources
            .get(&1)
            .is_some_and(|source| source.last.is_some_and(|last| last >= pictures - 1))
    })?;
    let after = studio.line("Camera 1")?;
    drop(encoder);

    let seen = &report.sources[&1];
    let account = format!("{report:#?}\n{after:#}\n{}", show.logs()?);
    assert!(
        seen.first == Some(0) && seen.pictures >= pictures,
        "from the first to the last: {account}"
    );
    assert_eq!(
        (seen.missing, seen.backwards, report.damaged),
        (0, 0, 0),
        "every picture, in order: {account}"
    );
    let (Some(gap), Some(delay), Some(offset)) = (seen.gap_ms, seen.delay_ms, seen.av_offset_ms)
    else {
        panic!("nothing was measured: {account}");
    };
    assert!(gap.p95 <= 50.0, "gaps {gap:?}: {account}");
    assert!(delay.p50 <= DELAY_MS + 200.0, "delay {delay:?}: {account}");
    assert!(offset.abs() <= 45.0, "A/V offset {offset} ms: {account}");
    assert_eq!((report.connects, report.drops), (1, 0), "{account}");
    Ok(())
}

#[test]
fn every_picture_of_a_low_delay_encoder_arrives_in_order_and_on_time() -> anyhow::Result<()> {
    every_picture_arrives(&EncoderSettings::default())
}

#[test]
fn every_picture_of_an_encoder_with_b_pictures_arrives_in_order_and_on_time() -> anyhow::Result<()>
{
    every_picture_arrives(&EncoderSettings {
        b_pictures: 2,
        ..EncoderSettings::default()
    })
}

/// The field unit's power fails and it comes back: for the studio the source was there all the time.
#[test]
fn an_encoder_that_returns_is_seen_again_on_the_same_connection() -> anyhow::Result<()> {
    if !can_run(&[Need::Ndi, Need::Ffmpeg]) {
        return Ok(());
    }
    let show = Show::start()?;
    let studio = show.joined("truck1", OutputKind::Ndi)?;
    let line = show.add_line("truck1", &studio, "Camera 1", None)?;
    let viewer = Viewer::find("Camera 1", Instant::now() + PATIENCE)?;

    let mut first = Encoder::start(
        show.folder(),
        "first",
        &line.url,
        &EncoderSettings::default(),
    )?;
    viewer.wait_for(
        "two seconds of the first",
        Instant::now() + PATIENCE,
        |seen| {
            seen.sources
                .get(&1)
                .is_some_and(|source| source.pictures >= 60)
        },
    )?;
    studio.wait_line("Camera 1", "live")?;
    first.kill()?;
    let gone = studio.wait_line("Camera 1", "slate")?;
    assert!(gone["reason"].is_string(), "says what happened: {gone}");
    let held = viewer.report();
    viewer.wait_for("the held picture", Instant::now() + PATIENCE, |seen| {
        seen.pictures > held.pictures + 3
    })?;

    let _second = Encoder::start(
        show.folder(),
        "second",
        &line.url,
        &EncoderSettings {
            source: 2,
            ..EncoderSettings::default()
        },
    )?;
    let report = viewer.wait_for(
        "two seconds of the second",
        Instant::now() + PATIENCE,
        |seen| {
            seen.sources
                .get(&2)
                .is_some_and(|source| source.pictures >= 60)
        },
    )?;
    studio.wait_line("Camera 1", "live")?;

    let back = &report.sources[&2];
    assert_eq!(
        (back.first, back.missing, back.backwards),
        (Some(0), 0, 0),
        "again from its first keyframe on: {report:#?}"
    );
    assert_eq!(
        (report.connects, report.drops),
        (1, 0),
        "the receiver never lost its source: {report:#?}"
    );
    Ok(())
}

/// It says goodbye and leaves with pictures still on their way: the very last one is what the studio keeps looking at.
#[test]
fn an_encoder_that_stops_leaves_its_last_picture() -> anyhow::Result<()> {
    if !can_run(&[Need::Ndi, Need::Ffmpeg]) {
        return Ok(());
    }
    let show = Show::start()?;
    let studio = show.joined("truck1", OutputKind::Ndi)?;
    let line = show.add_line("truck1", &studio, "Camera 1", None)?;
    let viewer = Viewer::find("Camera 1", Instant::now() + PATIENCE)?;
    let settings = EncoderSettings {
        seconds: Some(3),
        b_pictures: 2,
        ..EncoderSettings::default()
    };
    let mut encoder = Encoder::start(show.folder(), "camera", &line.url, &settings)?;
    let ended = encoder.wait(PATIENCE)?;
    assert!(ended.success(), "{ended}: {}", encoder.log()?);
    viewer.wait_for("the last picture", Instant::now() + PATIENCE, |seen| {
        seen.sources
            .get(&1)
            .is_some_and(|source| source.last == Some(89))
    })?;
    let line = studio.wait_line("Camera 1", "slate")?;
    assert!(line["reason"].is_string(), "{line}");
    Ok(())
}

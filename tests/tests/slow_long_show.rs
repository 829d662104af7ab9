//! What only a long show shows: that nothing grows.

use std::time::{Duration, Instant};

use firstmile_tests::{
    harness::{Encoder, EncoderSettings, Need, OutputKind, PATIENCE, Show, can_run},
    viewer::Viewer,
    watch::SourceReport,
};

/// What a viewer sees of the camera in one minute.
fn one_minute() -> anyhow::Result<SourceReport> {
    let viewer = Viewer::find("Camera 1", Instant::now() + PATIENCE)?;
    let report = viewer.wait_for(
        "a minute of pictures",
        Instant::now() + MINUTE + PATIENCE,
        |seen| {
            seen.sources
                .get(&1)
                .is_some_and(|source| source.pictures >= 60 * 30)
        },
    )?;
    Ok(report.sources[&1].clone())
}

/// The first minute and the last of ten have the same delay and the same lip sync, and nothing was lost in between.
#[test]
fn delay_and_lip_sync_do_not_drift_in_ten_minutes() -> anyhow::Result<()> {
    if !can_run(&[Need::Ndi, Need::Ffmpeg]) {
        return Ok(());
    }
    let show = Show::start()?;
    let studio = show.joined("truck1", OutputKind::Ndi)?;
    let line = show.add_line("truck1", &studio, "Camera 1", None)?;
    // As a studio has it: the delay of the shorter tests is the least that works on a machine of one's own.
    (studio.program())
        .command(&["line", "set", "Camera 1", "delay=normal"], "")?
        .success()?;
    let through = Viewer::find("Camera 1", Instant::now() + PATIENCE)?;
    let _encoder = Encoder::start(
        show.folder(),
        "camera",
        &line.url,
        &EncoderSettings::default(),
    )?;
    studio.wait_line("Camera 1", "live")?;

    let first = one_minute()?;
    through.wait_for("the ninth minute", Instant::now() + 9 * MINUTE, |seen| {
        seen.sources
            .get(&1)
            .is_some_and(|source| source.pictures >= 9 * 60 * 30)
    })?;
    let last = one_minute()?;

    let (Some(delay_then), Some(delay_now)) = (first.delay_ms, last.delay_ms) else {
        panic!("no delay: {first:?} {last:?}");
    };
    let one_picture_ms = 1000.0 / 30.0;
    assert!(
        (delay_now.p50 - delay_then.p50).abs() < one_picture_ms,
        "delay went from {delay_then:?} to {delay_now:?}"
    );
    let (Some(offset_then), Some(offset_now)) = (first.av_offset_ms, last.av_offset_ms) else {
        panic!("no A/V offset: {first:?} {last:?}");
    };
    assert!(
        (offset_now - offset_then).abs() < one_picture_ms,
        "A/V offset went from {offset_then} ms to {offset_now} ms"
    );
    let report = through.report();
    let all = &report.sources[&1];
    assert_eq!(
        (all.missing, all.backwards, report.drops),
        (0, 0, 0),
        "{report:#?}; the connector: {:#}",
        studio.line("Camera 1")?
    );
    Ok(())
}

const MINUTE: Duration = Duration::from_mins(1);

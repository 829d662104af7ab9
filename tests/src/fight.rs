//! Two crews, one key: a show of any length.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::Value;

use crate::{
    harness::{
        Connector, Encoder, EncoderSettings, Need, OutputKind, PATIENCE, Show, can_run, wait_for,
    },
    viewer::Viewer,
    watch::Report,
};

/// A small camera with a keyframe each second.
pub fn small(source: u8) -> EncoderSettings {
    EncoderSettings {
        size: (640, 360),
        source,
        ..EncoderSettings::default()
    }
}

/// Waits until so many pictures of a source were seen.
///
/// # Errors
/// When they were not in time.
pub fn see(viewer: &Viewer, source: u8, pictures: u32) -> anyhow::Result<Report> {
    let what = format!("{pictures} pictures of source {source}");
    viewer.wait_for(&what, Instant::now() + PATIENCE, |seen| {
        (seen.sources.get(&source)).is_some_and(|seen| seen.pictures >= pictures)
    })
}

/// What happened, as the connector tells it: the kinds.
///
/// # Errors
/// When it does not answer.
pub fn events(studio: &Connector) -> anyhow::Result<Vec<Value>> {
    let printed = studio
        .program()
        .command(&["events", "--json"], "")?
        .success()?;
    Ok(serde_json::from_str(&printed)?)
}

/// Waits until so many encoders are held on a line; answers with the line's entry.
///
/// # Errors
/// When they are not in time.
pub fn wait_held(studio: &Connector, line: &str, count: usize) -> anyhow::Result<Value> {
    wait_for(&format!("{count} held on {line:?}"), PATIENCE, || {
        let line = studio.line(line)?;
        let held = line["held"].as_array().map_or(0, Vec::len);
        Ok((held == count).then_some(line.clone()).ok_or(line))
    })
}

/// A second healthy encoder comes with the key of a live one, and both would dial again whenever they were cut off: the
/// first stays for `length` and the operator is asked once. Then he takes the second, refuses the first, and that one
/// dials again in vain.
///
/// # Errors
/// When anything is not so.
pub fn two_healthy_encoders(length: Duration) -> anyhow::Result<()> {
    if !can_run(&[Need::Ndi, Need::Ffmpeg]) {
        return Ok(());
    }
    let show = Show::start()?;
    let studio = show.joined("truck1", OutputKind::Ndi)?;
    let line = show.add_line("truck1", &studio, "Camera 1", None)?;
    let viewer = Viewer::find("Camera 1", Instant::now() + PATIENCE)?;
    let mut first = Encoder::start(show.folder(), "first", &line.url, &small(1))?;
    see(&viewer, 1, 30)?;
    let mut second = Encoder::start(show.folder(), "second", &line.url, &small(2))?;
    let asked = wait_held(&studio, "Camera 1", 1)?;
    let question = asked["reason"].as_str().unwrap_or_default();
    ensure!(
        question.contains("second encoder") && question.contains("127.0.0.1"),
        "{asked}"
    );

    // The length of the show: nothing is waited for.
    let end = Instant::now() + length;
    while Instant::now() < end {
        ensure!(first.runs()? && second.runs()?, "cut off: {}", show.logs()?);
        std::thread::sleep(Duration::from_millis(250));
    }
    let report = viewer.report();
    ensure!(
        report.sources.keys().eq([&1]) && report.sources[&1].missing == 0,
        "a change: {report:#?}"
    );
    let kinds = |kind: &str| -> anyhow::Result<usize> {
        Ok(events(&studio)?
            .iter()
            .filter(|event| event["kind"] == kind)
            .count())
    };
    let questions = studio
        .program()
        .log()?
        .matches("a second encoder uses")
        .count();
    ensure!(
        (
            kinds("held")?,
            kinds("took_over")?,
            kinds("frozen")?,
            questions
        ) == (1, 0, 0, 1),
        "one question: {:#?}",
        events(&studio)?
    );

    let takes = Instant::now();
    studio
        .program()
        .command(&["line", "take", "Camera 1"], "")?
        .success()?;
    let report = see(&viewer, 2, 1)?;
    let took = takes.elapsed();
    // A keyframe comes each second, and is shown a studio delay later.
    ensure!(
        took < Duration::from_millis(1_500),
        "the take took {took:?}"
    );
    ensure!((report.connects, report.drops) == (1, 0), "{report:#?}");
    let waits = wait_held(&studio, "Camera 1", 1)?;
    let number = waits["held"][0]["publisher"].as_u64().context("a number")?;
    ensure!(first.runs()?, "the one that lost the line waits");

    let refuse = ["line", "refuse", "Camera 1", &number.to_string()];
    studio.program().command(&refuse, "")?.success()?;
    ensure!(!first.wait(PATIENCE)?.success(), "it is told");
    for attempt in ["again", "and again", "and once more"] {
        let mut stubborn = Encoder::start(show.folder(), attempt, &line.url, &small(1))?;
        ensure!(!stubborn.wait(PATIENCE)?.success(), "it is not let in");
    }
    let after = studio.line("Camera 1")?;
    ensure!(
        after["held"] == Value::Array(vec![])
            && after["refused"].as_array().map(Vec::len) == Some(1),
        "{after:#}"
    );
    ensure!(
        kinds("held")? == 2 && kinds("refused")? == 1,
        "{:#?}",
        events(&studio)?
    );
    let seen = viewer.report().sources[&1].last;
    let later = see(&viewer, 2, viewer.report().sources[&2].pictures + 30)?;
    ensure!(
        later.sources[&1].last == seen,
        "nothing of the refused one: {later:#?}"
    );
    note(&format!("take to picture: {} ms", took.as_millis()));
    Ok(())
}

/// Says what was measured.
#[expect(clippy::print_stderr, reason = "the figures of the run")]
pub fn note(text: &str) {
    eprintln!("{text}");
}

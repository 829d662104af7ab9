//! Faults inside a running studio: a decoder that crashes or hangs, a page under attack. The sources go on.

use std::{
    fs,
    io::Write,
    net::TcpStream,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use firstmile_tests::{
    harness::{
        Connector, Encoder, EncoderSettings, Need, OutputKind, PATIENCE, Show, can_run, http_get,
        wait_for,
    },
    viewer::Viewer,
    watch::{Report, SourceReport},
};

/// The processes that decode for the line of this name.
fn decoders_of(studio: &Connector, line: &str) -> anyhow::Result<Vec<u32>> {
    let parent = studio.program().pid().context("the connector runs")?;
    let mut found = Vec::new();
    for task in fs::read_dir(format!("/proc/{parent}/task"))? {
        // A thread may end meanwhile.
        let children = fs::read_to_string(task?.path().join("children")).unwrap_or_default();
        for pid in children.split_whitespace() {
            let arguments = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            if arguments == format!("firstmile-connector\0decoder-process\0{line}\0") {
                found.push(pid.parse()?);
            }
        }
    }
    Ok(found)
}

fn signal(studio: &Connector, line: &str, signal: &str) -> anyhow::Result<u32> {
    let decoders = decoders_of(studio, line)?;
    let [pid] = decoders[..] else {
        bail!("{line} has the decoders {decoders:?}");
    };
    let sent = Command::new("sh")
        .args([
            "-c",
            "kill -s \"$1\" \"$2\"",
            "sh",
            signal,
            &pid.to_string(),
        ])
        .status()?;
    assert!(sent.success());
    Ok(pid)
}

fn wait_pictures(viewer: &Viewer, source: u8, pictures: u32) -> anyhow::Result<Report> {
    viewer.wait_for("pictures", Instant::now() + PATIENCE, |seen| {
        (seen.sources.get(&source)).is_some_and(|seen| seen.pictures >= pictures)
    })
}

fn of(report: &Report, source: u8) -> anyhow::Result<&SourceReport> {
    report.sources.get(&source).context("no stamped pictures")
}

/// Two cameras; the decoder of the first crashes, and hangs.
#[test]
fn a_decoder_that_crashes_or_hangs_costs_its_line_two_seconds_at_most_and_the_other_nothing()
-> anyhow::Result<()> {
    if !can_run(&[Need::Ndi, Need::Ffmpeg]) {
        return Ok(());
    }
    let show = Show::start()?;
    let studio = show.joined("truck1", OutputKind::Ndi)?;
    let (mut viewers, mut encoders) = (Vec::new(), Vec::new());
    for source in [1, 2] {
        let name = format!("Camera {source}");
        let line = show.add_line("truck1", &studio, &name, None)?;
        viewers.push(Viewer::find(&name, Instant::now() + PATIENCE)?);
        let settings = EncoderSettings {
            size: (640, 360),
            // Four seconds: nobody waits for a keyframe here.
            gop: 120,
            source,
            ..EncoderSettings::default()
        };
        encoders.push(Encoder::start(show.folder(), &name, &line.url, &settings)?);
    }
    let [hit, other] = &viewers[..] else {
        bail!("two viewers");
    };
    wait_pictures(hit, 1, 30)?;
    wait_pictures(other, 2, 30)?;

    let mut before = wait_pictures(hit, 1, 60)?;
    for (restarts, sent) in [(1, "SEGV"), (2, "STOP")] {
        let seen = of(&before, 1)?.pictures;
        let ended = signal(&studio, "Camera 1", sent)?;
        before = wait_pictures(hit, 1, seen + 90)?;
        let now = decoders_of(&studio, "Camera 1")?;
        assert!(now.len() == 1 && now[0] != ended, "{sent}: {now:?}");
        let line = studio.line("Camera 1")?;
        let account = format!("{sent}: {line:#}\n{before:#?}\n{}", show.logs()?);
        assert_eq!(
            line["video"]["decoder_restarts_total"], restarts,
            "{account}"
        );
        assert_eq!(line["state"], "live", "{account}");
        let longest_ms = of(&before, 1)?.gap_ms.context("no gaps")?.max;
        assert!(longest_ms <= 2_000.0, "held for {longest_ms} ms: {account}");
    }

    let (hit, other) = (hit.report(), other.report());
    let after = studio.line("Camera 2")?;
    let account = format!("{other:#?}\n{after:#}\n{}", show.logs()?);
    let seen = of(&other, 2)?;
    assert_eq!(
        (seen.missing, seen.backwards, other.damaged),
        (0, 0, 0),
        "{account}"
    );
    for count in [
        "late_total",
        "lost_total",
        "dropped_total",
        "decoder_restarts_total",
    ] {
        assert_eq!(after["video"][count], 0, "{count}: {account}");
    }
    for report in [&hit, &other] {
        assert_eq!(
            (report.connects, report.drops),
            (1, 0),
            "the sources never went"
        );
    }
    let metrics = http_get(studio.program().address("http")?, "/metrics")?;
    assert!(
        metrics.contains("firstmile_connector_decoder_restarts_total{line=\"Camera 1\"} 2"),
        "{metrics}"
    );
    Ok(())
}

#[test]
fn the_decoders_of_a_killed_connector_are_gone_within_a_second() -> anyhow::Result<()> {
    let show = Show::start()?;
    let mut studio = show.connector("studio", OutputKind::Null)?;
    for name in ["Camera 1", "Camera 2"] {
        studio.add_line(name, None)?;
    }
    let decoders = wait_for("a decoder for each line", PATIENCE, || {
        let found = [
            decoders_of(&studio, "Camera 1")?,
            decoders_of(&studio, "Camera 2")?,
        ]
        .concat();
        Ok(if found.len() == 2 {
            Ok(found)
        } else {
            Err(found.len().into())
        })
    })?;
    // One that is stopped can't notice anything by itself.
    signal(&studio, "Camera 2", "STOP")?;
    studio.program_mut().kill()?;
    wait_for("their end", Duration::from_secs(1), || {
        let left = (decoders.iter())
            .filter(|pid| fs::exists(format!("/proc/{pid}/exe")).unwrap_or(false))
            .count();
        Ok(if left == 0 { Ok(()) } else { Err(left.into()) })
    })
}

/// Garbage, half requests and connections that never speak, all the time; and in the middle the relay dies.
#[test]
fn a_page_under_attack_and_a_dead_relay_do_not_touch_the_source() -> anyhow::Result<()> {
    if !can_run(&[Need::Ndi, Need::Ffmpeg]) {
        return Ok(());
    }
    let mut show = Show::start()?;
    let studio = show.joined("truck1", OutputKind::Ndi)?;
    let line = show.add_line("truck1", &studio, "Camera 1", None)?;
    let viewer = Viewer::find("Camera 1", Instant::now() + PATIENCE)?;
    let settings = EncoderSettings {
        size: (640, 360),
        ..EncoderSettings::default()
    };
    let _encoder = Encoder::start(show.folder(), "camera", &line.url, &settings)?;
    let page = studio.program().address("http")?;
    let before = wait_pictures(&viewer, 1, 30)?;
    let mut silent = Vec::new();
    for round in 0..150_u8 {
        if let Ok(mut socket) = TcpStream::connect_timeout(&page, Duration::from_millis(100)) {
            // What comes back, if anything, is nobody's concern.
            let _ = match round % 3 {
                0 => socket.write_all(&[round; 4_000]),
                1 => socket.write_all(b"GET /api/v1/status HTTP/1.1\r\nHost: "),
                _ => Ok(()),
            };
            silent.push(socket);
        }
        thread::sleep(Duration::from_millis(20));
    }
    let seen = of(&before, 1)?.pictures;
    let during = wait_pictures(&viewer, 1, seen + 60)?;
    assert_eq!(of(&during, 1)?.missing, 0, "{during:#?}");
    show.relay_mut().kill()?;
    let held = viewer.report();
    let after = viewer.wait_for("the held picture", Instant::now() + PATIENCE, |now| {
        now.pictures > held.pictures + 30
    })?;
    drop(silent);
    assert_eq!((after.connects, after.drops), (1, 0), "{after:#?}");
    Ok(())
}

//! A source without a picture, as a switcher sees it: pixels of the real NDI source, tally from a real receiver.

use std::{
    process::Command,
    thread,
    time::{Duration, Instant},
};

use firstmile_connector::playout::CardText;
use firstmile_tests::{
    harness::{Encoder, EncoderSettings, Need, OutputKind, PATIENCE, Show, can_run},
    screen::{Says, Screen, Tape},
    slate::{NAME, SAME, Scene, assert_sound_flows, card, on_program_nothing_but_the_last_picture},
    viewer::Viewer,
};

#[test]
fn on_program_nothing_but_the_last_picture_is_seen_whatever_happens() -> anyhow::Result<()> {
    on_program_nothing_but_the_last_picture(Duration::from_millis(1_500), "hold=500ms")
}

/// A rehearsal: off program the words are there and right; the director cuts to the line, and they are not.
#[test]
fn a_rehearsal_card_has_the_right_words_and_is_clean_within_a_picture_of_program()
-> anyhow::Result<()> {
    let Some(mut f) = Scene::start(&["slate=diagnostic", "hold=500ms"])? else {
        return Ok(());
    };
    f.screen.say(Says::Off);
    f.encoder.kill()?;
    let reason = f.studio.wait_line(NAME, "slate")?["reason"].to_string();
    let said = reason
        .trim_matches('"')
        .split(',')
        .next()
        .unwrap_or_default();
    let (first, rest) = said.split_at(1);
    let expected = card(CardText::Diagnosis {
        name: NAME,
        reason: &format!("{}{rest}.", first.to_uppercase()),
        remedy: "The picture returns by itself with the encoder and its connection; the connector's page says which of \
                 them is away.",
    });
    let words = f
        .screen
        .wait_for(&reason, PATIENCE, |shot| shot.distance(&expected) < SAME)?;
    let blank = card(CardText::None);

    // Without the renderer: dark grey, with bright ink in three places below each other, and none at the edges.
    let inked_rows: Vec<bool> = (0..720)
        .map(|y| (0..1280).any(|x| words.luma(x, y) > 120))
        .collect();
    let blocks = inked_rows
        .split(|is_inked| !is_inked)
        .filter(|rows| rows.len() > 10)
        .count();
    assert!(blocks >= 3, "{blocks} blocks of text");
    assert!(
        inked_rows[..36]
            .iter()
            .chain(&inked_rows[684..])
            .all(|is_inked| !is_inked)
    );

    f.screen.start_tape();
    let before_us = now_us();
    f.screen.say(Says::Program);
    thread::sleep(Duration::from_millis(2_500));
    let tape = f.screen.end_tape();
    let clean = tape.shots.iter().find(|shot| shot.distance(&blank) < SAME);
    let clean_us = clean.map(|shot| shot.timecode_us - before_us);
    // A picture of 30 a second, and the 5 ms until this receiver says it.
    assert!(
        clean_us.is_some_and(|us| us < 38_000),
        "clean after {clean_us:?} µs"
    );
    let after_us = before_us + 38_000;
    for shot in tape.shots.iter().filter(|shot| shot.timecode_us > after_us) {
        assert!(shot.distance(&blank) < SAME, "it stays clean");
    }
    // Cut away: not yet, it may be cut back to.
    f.screen.say(Says::Off);
    for shot in &f.screen.tape(Duration::from_secs(2)).shots {
        assert!(shot.distance(&blank) < SAME, "clean for 10 s after program");
    }
    Ok(())
}

/// Before the first feed and after the last: the name, in the letters of whoever named it; settings act on the same
/// source.
#[test]
fn the_clean_card_has_the_name_only_and_the_studios_own_picture_replaces_it() -> anyhow::Result<()>
{
    if !can_run(&[Need::Ndi]) {
        return Ok(());
    }
    let name = "Камера ٣ 舞台";
    let show = Show::start()?;
    let studio = show.connector("studio", OutputKind::Ndi)?;
    studio.add_line(name, None)?;
    let screen = Screen::find(name, Instant::now() + PATIENCE)?;
    screen.say(Says::Preview);
    let named = card(CardText::Name(name));
    screen.wait_for("the name", PATIENCE, |shot| shot.distance(&named) < SAME)?;
    screen.say(Says::Program);
    let blank = card(CardText::None);
    for shot in &screen.tape(Duration::from_secs(1)).shots {
        assert!(shot.distance(&blank) < SAME, "nothing to read on program");
    }

    let command = |arguments: &[&str]| studio.program().command(arguments, "");
    let refused = command(&["line", "set", name, "slate=/nowhere/card.png"])?;
    assert_eq!(refused.code, Some(2), "{refused:?}");
    for part in [
        "/nowhere/card.png",
        "No such file",
        "put a PNG or JPEG there",
    ] {
        assert!(refused.stderr.contains(part), "{part}: {refused:?}");
    }
    let own = show.folder().join("card.png");
    let made = Command::new("ffmpeg")
        .args([
            "-hide_banner",
            "-nostdin",
            "-loglevel",
            "error",
            "-f",
            "lavfi",
        ])
        .args(["-i", "color=c=white:s=640x640", "-frames:v", "1"])
        .arg(&own)
        .status()?;
    assert!(made.success());
    let own = own.display().to_string();
    command(&["line", "set", name, &format!("slate={own}")])?.success()?;
    let own_card = screen.wait_for("the studio's own card, on program too", PATIENCE, |shot| {
        shot.luma(640, 360) > 230
    })?;
    assert!(
        own_card.luma(200, 360) < 20 && own_card.luma(1080, 360) < 20,
        "whole, on black"
    );
    // It goes bad: told in the status, and the neutral card takes its place.
    std::fs::write(&own, "no picture any more")?;
    command(&["line", "set", name, "slate=clean"])?.success()?;
    screen.wait_for("the neutral card", PATIENCE, |shot| {
        shot.distance(&blank) < SAME
    })?;
    let lines = studio.program().state().join("lines.toml");
    let text = std::fs::read_to_string(&lines)?;
    std::fs::write(&lines, text.replace("\"clean\"", &format!("{own:?}")))?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let notices = studio.status()?["notices"].to_string();
        if notices.contains(&own) && notices.contains("neither PNG nor JPEG") {
            break;
        }
        assert!(Instant::now() < deadline, "{notices}");
        thread::sleep(Duration::from_millis(100));
    }
    assert!(screen.latest()?.distance(&blank) < SAME);
    assert_eq!(screen.drops(), 0, "one source through all of it");
    Ok(())
}

/// A loud tone, cut off by a power failure, and its return: it fades, silence flows, it fades in again.
#[test]
fn sound_fades_into_silence_and_back_without_a_click_or_a_hole() -> anyhow::Result<()> {
    if !can_run(&[Need::Ndi, Need::Ffmpeg]) {
        return Ok(());
    }
    let show = Show::start()?;
    let studio = show.joined("truck1", OutputKind::Ndi)?;
    let line = show.add_line("truck1", &studio, NAME, None)?;
    let screen = Screen::find(NAME, Instant::now() + PATIENCE)?;
    let tone = || {
        Command::new("ffmpeg")
            .args(["-hide_banner", "-nostdin", "-loglevel", "error", "-re"])
            .args(["-f", "lavfi", "-i", "testsrc2=s=320x180:r=30", "-re"])
            .args(["-f", "lavfi", "-i", "sine=f=440:r=48000"])
            .args(["-af", "volume=12dB", "-pix_fmt", "yuv420p"])
            .args(["-c:v", "libx264", "-preset", "ultrafast"])
            .args(["-tune", "zerolatency", "-g", "30"])
            .args(["-c:a", "aac", "-b:a", "192k"])
            .args(["-f", "flv", &line.url])
            .spawn()
    };
    let is_loud = |tape: &Tape| tape.sounds.iter().filter(|block| block.peak > 0.45).count() > 40;
    for round in ["first", "second"] {
        screen.start_tape();
        let mut encoder = tone()?;
        studio.wait_line(NAME, "live")?;
        thread::sleep(Duration::from_millis(1_500));
        encoder.kill()?;
        encoder.wait()?;
        studio.wait_line(NAME, "slate")?;
        thread::sleep(Duration::from_millis(500));
        let tape = screen.end_tape();
        assert!(is_loud(&tape), "{round}: the tone is heard");
        let is_silent = tape.sounds.last().is_some_and(|block| block.peak < 0.001);
        assert!(is_silent, "{round}: and gone");
        assert_sound_flows(&tape, round);
        // 440 Hz at half of full scale steps by 0.029; AAC adds a little. Cut off it would step by up to 0.5.
        let steps = tape.sounds.iter().map(|block| block.step);
        let step = steps.fold(0.0, f32::max);
        assert!(step < 0.045, "{round}: a step of {step} is a click");
    }
    Ok(())
}

/// The operator moves the sound: it is heard there, and the status says so.
#[test]
fn the_trim_of_a_line_moves_its_sound() -> anyhow::Result<()> {
    if !can_run(&[Need::Ndi, Need::Ffmpeg]) {
        return Ok(());
    }
    let show = Show::start()?;
    let studio = show.joined("truck1", OutputKind::Ndi)?;
    let line = show.add_line("truck1", &studio, NAME, None)?;
    let set = ["line", "set", NAME, "audio_trim_ms=180"];
    studio.program().command(&set, "")?.success()?;
    let viewer = Viewer::find(NAME, Instant::now() + PATIENCE)?;
    let settings = EncoderSettings::default();
    let _encoder = Encoder::start(show.folder(), "camera", &line.url, &settings)?;
    let report = viewer.wait_for("five seconds", Instant::now() + PATIENCE, |seen| {
        (seen.sources.get(&1)).is_some_and(|source| source.pictures >= 150)
    })?;
    let offset_ms = report.sources[&1].av_offset_ms;
    assert!(
        offset_ms.is_some_and(|ms| (ms - 180.0).abs() <= 45.0),
        "{report:#?}"
    );
    let told = studio.line(NAME)?["av_offset_ms"].as_f64();
    assert!(
        told.is_some_and(|ms| (ms - 180.0).abs() <= 30.0),
        "{told:?}"
    );
    Ok(())
}

fn now_us() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| i64::try_from(since.as_micros()).unwrap_or(0))
}

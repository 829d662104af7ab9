//! The slate's scenes: one line of a real show, a screen on its source, and everything that can go wrong.

use std::{
    process::Command,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use firstmile_connector::playout::CardText;

use crate::{
    harness::{
        Connector, Encoder, EncoderSettings, LineAddress, Need, OutputKind, PATIENCE, Show, can_run,
    },
    screen::{Says, Screen, Shot, Tape},
};

/// The line.
pub const NAME: &str = "Camera 1";

/// Noise of NDI's codec between two encodings of one picture; a letter is ten times that.
pub const SAME: f64 = 6.0;

/// A show with one line, a screen on it, and an encoder that publishes.
#[derive(Debug)]
pub struct Scene {
    /// Publishes.
    pub encoder: Encoder,
    /// Watches.
    pub screen: Screen,
    /// Where the encoder publishes.
    pub line: LineAddress,
    /// The connector.
    pub studio: Connector,
    /// The relay.
    pub show: Show,
}

impl Scene {
    /// Waits until its pictures are seen; `None` where it can't run. `settings` are for `line set`.
    pub fn start(settings: &[&str]) -> anyhow::Result<Option<Self>> {
        if !can_run(&[Need::Ndi, Need::Ffmpeg]) {
            return Ok(None);
        }
        let show = Show::start()?;
        let studio = show.joined("truck1", OutputKind::Ndi)?;
        let line = show.add_line("truck1", &studio, NAME, None)?;
        set(&studio, settings)?;
        let screen = Screen::find(NAME, Instant::now() + PATIENCE)?;
        let encoder = encoder(&show, "first", &line, 1)?;
        let scene = Self {
            encoder,
            screen,
            line,
            studio,
            show,
        };
        scene.wait_live(1)?;
        Ok(Some(scene))
    }

    /// Waits until pictures of this camera are seen.
    pub fn wait_live(&self, source: u8) -> anyhow::Result<()> {
        let is_live = |shot: &Shot| shot.stamp().is_some_and(|stamp| stamp.source == source);
        self.screen
            .wait_for("a picture of the camera", PATIENCE, is_live)?;
        self.studio.wait_line(NAME, "live").map(drop)
    }

    /// Waits until pictures have stopped to come; answers with the last.
    pub fn wait_held(&self) -> anyhow::Result<Arc<Shot>> {
        self.studio.wait_line(NAME, "slate")?;
        self.screen.latest()
    }

    /// # Panics
    /// Unless all that the screen shows for `length` is `held`, and sound flows.
    pub fn assert_held(&self, held: &Shot, length: Duration, what: &str) {
        let tape = self.screen.tape(length);
        let expected = length.as_secs_f64() * 5.0;
        #[expect(clippy::cast_precision_loss, reason = "a few")]
        let shots = tape.shots.len() as f64;
        assert!(
            shots > expected * 0.8 - 1.0,
            "{what}: the source stopped: {shots} pictures"
        );
        for shot in &tape.shots {
            let distance = shot.distance(held);
            assert!(
                distance < SAME,
                "{what}: {distance} off the held picture, {:?}",
                shot.reading
            );
            assert_eq!(shot.stamp(), held.stamp(), "{what}");
        }
        assert_sound_flows(&tape, what);
        assert_eq!(
            self.screen.drops(),
            0,
            "{what}: the source was there all the time"
        );
    }
}

fn encoder(show: &Show, name: &str, line: &LineAddress, source: u8) -> anyhow::Result<Encoder> {
    let settings = EncoderSettings {
        source,
        ..EncoderSettings::default()
    };
    Encoder::start(show.folder(), name, &line.url, &settings)
}

fn set(studio: &Connector, settings: &[&str]) -> anyhow::Result<()> {
    if settings.is_empty() {
        return Ok(());
    }
    let arguments = [&["line", "set", NAME], settings].concat();
    studio
        .program()
        .command(&arguments, "")?
        .success()
        .map(drop)
}

/// The card as it should be.
pub fn card(text: CardText<'_>) -> Shot {
    let picture = text.draw(1280, 720);
    Shot::from_uyvy(&picture.pixels, 1280, 720)
}

/// # Panics
/// Unless block follows block, by the sender's own clock.
pub fn assert_sound_flows(tape: &Tape, what: &str) {
    let samples: usize = tape.sounds.iter().map(|block| block.samples).sum();
    let (Some(first), Some(last)) = (tape.sounds.first(), tape.sounds.last()) else {
        panic!("{what}: no sound at all");
    };
    let holes = tape.sounds.windows(2).filter(|pair| {
        let length_us = i64::try_from(pair[0].samples * 1000 / 48).unwrap_or(0);
        (pair[1].timecode_us - pair[0].timecode_us - length_us).abs() > 5_000
    });
    // Where the machine itself stood still for longer than 200 ms, the sound begins anew instead of catching up.
    assert!(holes.count() <= 1, "{what}: holes in the sound");
    let spent_us = last.timecode_us - first.timecode_us;
    let heard_us = i64::try_from((samples - last.samples) * 1000 / 48).unwrap_or(0);
    let off_us = (heard_us - spent_us).abs();
    assert!(
        off_us < spent_us / 50 + 5_000,
        "{what}: {heard_us} of {spent_us} µs"
    );
}

/// Lines up everything that can go wrong while the line is on air, and looks at each for `length`.
///
/// # Errors
/// When the show itself fails.
///
/// # Panics
/// When something else than the last picture is seen.
pub fn on_program_nothing_but_the_last_picture(
    length: Duration,
    setting: &str,
) -> anyhow::Result<()> {
    let Some(mut f) = Scene::start(&[setting])? else {
        return Ok(());
    };
    f.screen.say(Says::Program);

    f.encoder.kill()?;
    let held = f.wait_held()?;
    f.assert_held(&held, length, "encoder lost");

    // What this version can't show: a codec of the last century.
    let mut old = Command::new("ffmpeg")
        .args(["-hide_banner", "-nostdin", "-loglevel", "error", "-re"])
        .args([
            "-f",
            "lavfi",
            "-i",
            "smptebars=s=1280x720:r=30",
            "-c:v",
            "flv1",
        ])
        .args(["-f", "flv", &f.line.url])
        .spawn()?;
    f.assert_held(&held, length, "codec unsupported");
    let line = f.studio.line(NAME)?;
    assert!(line["reason"].is_string(), "{line}");
    old.kill().ok();
    old.wait()?;

    f.encoder = encoder(&f.show, "second", &f.line, 2)?;
    f.wait_live(2)?;
    let pid = f.studio.program().pid().unwrap_or(0);
    let until = Instant::now() + length;
    f.screen.start_tape();
    let mut crashes = 0;
    while Instant::now() < until {
        crashes += crash_children(pid)?;
        thread::sleep(Duration::from_millis(300));
    }
    let tape = f.screen.end_tape();
    assert!(crashes > 0, "a decoder of its own process");
    assert!(!tape.shots.is_empty());
    for shot in &tape.shots {
        let stamp = shot.stamp().map(|stamp| stamp.source);
        assert_eq!(stamp, Some(2), "decoder crashed: only pictures of the feed");
    }
    assert_eq!(f.screen.drops(), 0);

    f.wait_live(2)?;
    f.show.relay_mut().kill()?;
    let held = f.wait_held()?;
    f.assert_held(&held, length, "tunnel lost");

    f.show.relay_mut().restart()?;
    drop(f.encoder);
    f.encoder = encoder(&f.show, "third", &f.line, 3)?;
    f.screen.wait_for("the third encoder", PATIENCE, |shot| {
        shot.stamp().is_some_and(|stamp| stamp.source == 3)
    })?;
    let revoked = f
        .show
        .relay()
        .command(&["revoke", "studio", "truck1"], "")?;
    revoked.success()?;
    let held = f.wait_held()?;
    f.assert_held(&held, length, "key revoked");
    Ok(())
}

/// Sends SIGSEGV to every child of a process; how many there were.
fn crash_children(pid: u32) -> anyhow::Result<usize> {
    let mut children = Vec::new();
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let list = std::fs::read_to_string(task?.path().join("children")).unwrap_or_default();
        children.extend(list.split_whitespace().map(str::to_owned));
    }
    for child in &children {
        Command::new("kill").args(["-SEGV", child]).status()?;
    }
    Ok(children.len())
}

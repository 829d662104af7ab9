//! Power cuts: relay, connector and encoder are killed, in any order, and everything goes on where it was.

use std::time::{Duration, Instant};

use firstmile_tests::{
    harness::{
        Connector, Encoder, EncoderSettings, Need, OutputKind, PATIENCE, Program, Show, can_run,
        wait_for,
    },
    kills::{Kills, seed},
    viewer::Viewer,
};
use serde_json::{Value, json};

/// What a relay remembers of its studios.
fn studios(relay: &Program) -> anyhow::Result<Value> {
    let printed = relay.command(&["studios", "--json"], "")?.success()?;
    Ok(serde_json::from_str(&printed)?)
}

/// Everything about a connector's lines: names, keys, addresses.
fn lines(studio: &Connector) -> anyhow::Result<Value> {
    let printed = studio
        .program()
        .command(&["line", "list", "--json"], "")?
        .success()?;
    Ok(serde_json::from_str(&printed)?)
}

/// Waits until the relay has this many connectors; answers how long after `since` that was.
fn connected(relay: &Program, count: u64, since: Instant) -> anyhow::Result<Duration> {
    wait_for("the connector at the relay", PATIENCE, || {
        let printed = relay.command(&["status", "--json"], "")?.success()?;
        let status: Value = serde_json::from_str(&printed)?;
        let is_there = status["connectors"] == count;
        Ok(if is_there { Ok(()) } else { Err(status) })
    })?;
    Ok(since.elapsed())
}

/// Says what was measured.
#[expect(clippy::print_stderr, reason = "the figures of the run")]
fn note(what: &str, took: Duration) {
    eprintln!("{what}: {} ms", took.as_millis());
}

fn quick(source: u8) -> EncoderSettings {
    EncoderSettings {
        size: (640, 360),
        source,
        ..EncoderSettings::default()
    }
}

/// Killed and started again at once, and killed again and left dead for a while: either way the connector is back within
/// 3 s of the start, an encoder's next push goes through, and nothing that was known is forgotten.
#[test]
fn a_relay_that_was_killed_has_its_studio_back_within_three_seconds() -> anyhow::Result<()> {
    if !can_run(&[Need::Ffmpeg]) {
        return Ok(());
    }
    let mut show = Show::start()?;
    let studio = show.joined("truck1", OutputKind::Null)?;
    let line = show.add_line("truck1", &studio, "Camera 1", None)?;
    let mut first = Encoder::start(show.folder(), "first", &line.url, &quick(1))?;
    studio.wait_line("Camera 1", "live")?;
    let (enrolled, declared) = (studios(show.relay())?, lines(&studio)?);

    show.relay_mut().kill()?;
    show.relay_mut().restart()?;
    let took = connected(show.relay(), 1, Instant::now())?;
    note(
        "relay killed and started at once, connector back after",
        took,
    );
    assert!(took < Duration::from_secs(3), "{took:?}\n{}", show.logs()?);
    let log = studio.program().log()?;
    assert!(
        log.contains("the relay was restarted"),
        "it was told by the relay's next life, not by silence:\n{log}"
    );
    first.wait(PATIENCE)?;
    let again = Instant::now();
    let _second = Encoder::start(show.folder(), "second", &line.url, &quick(2))?;
    studio.wait_line("Camera 1", "live")?;
    note("the encoder's next push, live after", again.elapsed());
    assert!(
        again.elapsed() < Duration::from_secs(5),
        "{:?}",
        again.elapsed()
    );
    assert_eq!(
        (studios(show.relay())?, lines(&studio)?),
        (enrolled, declared)
    );

    // Long enough for the connector to have noticed and to have dialled in vain; a line is added meanwhile.
    show.relay_mut().kill()?;
    let dead = Instant::now();
    let spare = studio.add_line("Camera 2", None)?;
    studio.wait_relay("dialing")?;
    wait_for("dials in vain", PATIENCE, || {
        let relay = studio.status()?["relays"][0].clone();
        let reason = relay["reason"].as_str().unwrap_or_default();
        Ok(if reason.contains("can't be reached") {
            Ok(())
        } else {
            Err(relay)
        })
    })?;
    while dead.elapsed() < Duration::from_secs(4) {
        std::thread::sleep(Duration::from_millis(50));
    }
    show.relay_mut().restart()?;
    let took = connected(show.relay(), 1, Instant::now())?;
    note("relay dead for 4 s, connector back after", took);
    assert!(took < Duration::from_secs(3), "{took:?}\n{}", show.logs()?);
    wait_for("the new line at the relay", PATIENCE, || {
        let known = studios(show.relay())?;
        let is_known = known[0]["lines"] == 2;
        Ok(if is_known { Ok(()) } else { Err(known) })
    })?;
    let _third = Encoder::start(show.folder(), "third", &spare.url, &quick(3))?;
    studio.wait_line("Camera 2", "live")?;
    Ok(())
}

/// The studio's PC loses power for a moment. The field does not notice, and the switcher gets the same source again.
#[test]
fn a_connector_that_was_killed_is_the_same_source_again_and_the_encoder_never_noticed()
-> anyhow::Result<()> {
    if !can_run(&[Need::Ndi, Need::Ffmpeg]) {
        return Ok(());
    }
    let show = Show::start()?;
    let mut studio = show.joined("truck1", OutputKind::Ndi)?;
    let line = show.add_line("truck1", &studio, "Camera 1", None)?;
    let _encoder = Encoder::start(show.folder(), "camera", &line.url, &quick(1))?;
    studio.wait_line("Camera 1", "live")?;
    let viewer = Viewer::find("Camera 1", Instant::now() + PATIENCE)?;
    viewer.wait_for("a picture", Instant::now() + PATIENCE, |seen| {
        seen.sources.contains_key(&1)
    })?;
    let name = viewer.source().name.clone();
    drop(viewer);
    let publisher = |relay: &Program| -> anyhow::Result<Value> {
        let printed = relay.command(&["publishers", "--json"], "")?.success()?;
        let list: Value = serde_json::from_str(&printed)?;
        Ok(json!([
            list.as_array().map(Vec::len),
            list[0]["peer"],
            list[0]["since"]
        ]))
    };
    let before = publisher(show.relay())?;
    let helpers = studio.program().children()?;

    studio.program_mut().kill()?;
    let started = Instant::now();
    studio.program_mut().restart()?;
    let viewer = Viewer::find("Camera 1", Instant::now() + PATIENCE)?;
    viewer.wait_for("a picture again", Instant::now() + PATIENCE, |seen| {
        seen.sources.contains_key(&1)
    })?;
    let took = started.elapsed();
    note("connector killed, picture after", took);
    let gop = Duration::from_secs(1);
    assert!(
        took <= Duration::from_secs(3) + gop,
        "{took:?}\n{}",
        show.logs()?
    );
    assert_eq!(viewer.source().name, name);
    assert_eq!(
        publisher(show.relay())?,
        before,
        "the encoder's connection stayed"
    );
    wait_for("the helpers of the killed one to be gone", PATIENCE, || {
        let left = helpers.iter().filter(|helper| helper.is_there());
        let left: Vec<u32> = left.map(|helper| helper.pid).collect();
        Ok(if left.is_empty() {
            Ok(())
        } else {
            Err(left.into())
        })
    })?;
    studio.wait_line("Camera 1", "live")?;
    Ok(())
}

/// The connector is started first, with nobody to talk to, and the relay comes when it comes.
#[test]
fn a_connector_that_starts_before_its_relay_finds_it() -> anyhow::Result<()> {
    let mut show = Show::start()?;
    let mut studio = show.joined("truck1", OutputKind::Null)?;
    studio.add_line("Camera 1", None)?;
    let before = lines(&studio)?;
    studio.program_mut().kill()?;
    show.relay_mut().kill()?;

    studio.program_mut().restart()?;
    studio.wait_relay("dialing")?;
    assert_eq!(
        lines(&studio)?,
        before,
        "addresses are known while the relay is away"
    );
    show.relay_mut().restart()?;
    let took = connected(show.relay(), 1, Instant::now())?;
    assert!(took < Duration::from_secs(3), "{took:?}\n{}", show.logs()?);
    studio.wait_connected()
}

/// Killed in the middle of a change: what was acknowledged is there afterwards, and nothing is half-written.
#[test]
fn ten_kills_at_random_moments_lose_nothing_that_was_acknowledged() -> anyhow::Result<()> {
    let tally = Kills::start(seed())?.run(10)?;
    assert!(
        tally.acknowledged > 0 && tally.unheard + tally.undone > 0,
        "{tally:?}"
    );
    Ok(())
}

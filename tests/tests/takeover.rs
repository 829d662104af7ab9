//! Encoders that come back, encoders that come twice: who is seen.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use firstmile_tests::{
    encoder::{SyntheticEncoder, SyntheticFeed},
    fight::{events, note, see, small, two_healthy_encoders, wait_held},
    harness::{Encoder, Need, OutputKind, PATIENCE, Program, Show, can_run, wait_for},
    screen::{Says, Screen},
    viewer::Viewer,
};
use serde_json::Value;
use tokio::time;

fn publishers(relay: &Program) -> anyhow::Result<Vec<Value>> {
    let printed = relay.command(&["publishers", "--json"], "")?.success()?;
    Ok(serde_json::from_str(&printed)?)
}

/// The phone's network stalls for 5 s with its connection open, then it dials anew: its ghost does not keep the line, and
/// no receiver notices anything but a picture that stands.
#[test]
fn an_encoder_that_returns_while_its_old_connection_lingers_is_seen_at_once() -> anyhow::Result<()>
{
    if !can_run(&[Need::Ndi, Need::Ffmpeg]) {
        return Ok(());
    }
    let show = Show::start()?;
    let studio = show.joined("truck1", OutputKind::Ndi)?;
    let line = show.add_line("truck1", &studio, "Camera 1", None)?;
    let viewer = Viewer::find("Camera 1", Instant::now() + PATIENCE)?;
    let watched = || -> anyhow::Result<()> {
        let line = studio.line("Camera 1")?;
        anyhow::ensure!(line["outputs"][0]["connections"] == 1, "{line:#}");
        Ok(())
    };
    let mut ghost = Encoder::start(show.folder(), "ghost", &line.url, &small(1))?;
    see(&viewer, 1, 60)?;

    ghost.freeze()?;
    // The length of the outage: nothing is waited for.
    let end = Instant::now() + Duration::from_secs(5);
    while Instant::now() < end {
        watched()?;
    }
    let _returned = Encoder::start(show.folder(), "returned", &line.url, &small(2))?;
    let report = see(&viewer, 2, 60)?;
    watched()?;

    let back = &report.sources[&2];
    let account = format!("{report:#?}\n{}", show.logs()?);
    assert_eq!(
        (back.first, back.missing, back.backwards),
        (Some(0), 0, 0),
        "from its first keyframe on: {account}"
    );
    let worst_ms = back.delay_ms.map_or(f64::MAX, |delay| delay.max);
    assert!(worst_ms <= 1_500.0, "a GOP and half a second: {account}");
    note(&format!(
        "the worst delay of the returned encoder: {worst_ms:.0} ms"
    ));
    assert_eq!((report.connects, report.drops), (1, 0), "{account}");
    assert_eq!(publishers(show.relay())?.len(), 1, "the ghost is gone");
    let told = events(&studio)?;
    assert_eq!(
        told.iter()
            .filter(|event| event["kind"] == "took_over")
            .count(),
        1,
        "{told:#?}"
    );
    ghost.kill()
}

#[test]
fn two_healthy_encoders_on_one_key_are_one_question() -> anyhow::Result<()> {
    two_healthy_encoders(Duration::from_secs(10))
}

/// One camera by two relays: the first that came is shown, the other is the spare.
#[test]
fn of_two_relays_the_spare_is_held_until_the_first_fails() -> anyhow::Result<()> {
    if !can_run(&[Need::Ndi, Need::Ffmpeg]) {
        return Ok(());
    }
    let show = Show::start()?;
    let studio = show.joined("truck1", OutputKind::Ndi)?;
    let line = show.add_line("truck1", &studio, "Camera 1", None)?;
    let spare = Program::start(
        "firstmile-relay",
        &show.folder().join("spare"),
        &[
            ("FIRSTMILE_RELAY__RTMP__LISTEN", "127.0.0.1:0"),
            ("FIRSTMILE_RELAY__RTMPS__LISTEN", "off"),
            ("FIRSTMILE_RELAY__TUNNEL__LISTEN", "127.0.0.1:0"),
            ("FIRSTMILE_RELAY__HTTP__LISTEN", "127.0.0.1:0"),
        ],
    )?;
    let tunnel = spare.address("tunnel")?.to_string();
    let token = spare
        .command(&["invite", "truck1", "--address", &tunnel], "")?
        .success()?;
    studio.join(&token)?.success()?;
    wait_for("the spare relay to know the line", PATIENCE, || {
        let studios = spare.command(&["studios", "--json"], "")?.success()?;
        let studios: Value = serde_json::from_str(&studios)?;
        Ok(if studios[0]["lines"] == 1 {
            Ok(())
        } else {
            Err(studios)
        })
    })?;
    let by_spare = format!("rtmp://{}/truck1/{}", spare.address("rtmp")?, line.key);
    let viewer = Viewer::find("Camera 1", Instant::now() + PATIENCE)?;

    let mut first = Encoder::start(show.folder(), "first", &line.url, &small(1))?;
    see(&viewer, 1, 30)?;
    let _second = Encoder::start(show.folder(), "second", &by_spare, &small(2))?;
    let asked = wait_held(&studio, "Camera 1", 1)?;
    let report = see(&viewer, 1, viewer.report().sources[&1].pictures + 60)?;
    assert!(report.sources.keys().eq([&1]), "{report:#?}");
    assert_eq!(asked["held"][0]["relay"], tunnel.as_str(), "{asked:#}");
    assert_eq!(publishers(&spare)?[0]["state"], "live");

    first.kill()?;
    let failed = Instant::now();
    let report = see(&viewer, 2, 1)?;
    note(&format!(
        "the spare is seen {} ms after the first was killed",
        failed.elapsed().as_millis()
    ));
    assert!(
        failed.elapsed() < Duration::from_millis(2_500),
        "{:?}",
        failed.elapsed()
    );
    assert_eq!((report.connects, report.drops), (1, 0), "{report:#?}");

    // The first comes back: now it is the spare, until the operator says otherwise.
    let _returned = Encoder::start(show.folder(), "returned", &line.url, &small(3))?;
    wait_held(&studio, "Camera 1", 1)?;
    assert!(!viewer.report().sources.contains_key(&3));
    studio
        .program()
        .command(&["line", "take", "Camera 1"], "")?
        .success()?;
    let report = see(&viewer, 3, 30)?;
    assert_eq!(report.sources[&3].backwards, 0, "{report:#?}");
    assert_eq!((report.connects, report.drops), (1, 0), "{report:#?}");
    Ok(())
}

/// An encoder on a bad link sends now and then; another that looks like it comes. Off program that is the same one on a
/// new connection. On program only a second of silence would say so.
#[test]
fn on_program_an_encoder_that_still_sends_is_not_replaced_by_its_likeness() -> anyhow::Result<()> {
    if !can_run(&[Need::Ndi]) {
        return Ok(());
    }
    let show = Show::start()?;
    let studio = show.joined("truck1", OutputKind::Ndi)?;
    let line = show.add_line("truck1", &studio, "Camera 1", None)?;
    let screen = Screen::find("Camera 1", Instant::now() + PATIENCE)?;
    let rtmp = show.relay().address("rtmp")?;
    let runtime = tokio::runtime::Runtime::new()?;
    for (says, tally, lives) in [(Says::Program, "program", 2), (Says::Off, "off", 1)] {
        screen.say(says);
        wait_for(tally, PATIENCE, || {
            let line = studio.line("Camera 1")?;
            let is_so = line["outputs"][0]["tally"] == tally;
            Ok(if is_so { Ok(()) } else { Err(line) })
        })?;
        if tally == "off" {
            // What was on program a moment ago is protected too.
            std::thread::sleep(Duration::from_secs(11));
        }
        let stay = runtime.block_on(two_likenesses(rtmp, &line.key))?;
        assert_eq!(stay, lives, "{tally}: {:#?}", publishers(show.relay())?);
    }
    Ok(())
}

/// One sends a unit each 600 ms; 400 ms after one of them its likeness comes and sends well for two seconds. How many of
/// them are connected then?
async fn two_likenesses(relay: SocketAddr, key: &str) -> anyhow::Result<usize> {
    let feed = SyntheticFeed {
        gop: 1,
        ..SyntheticFeed::default()
    };
    let mut units = feed.units();
    let mut first = SyntheticEncoder::connect(relay).await?;
    first.publish("truck1", key).await?;
    let mut likeness = SyntheticEncoder::connect(relay).await?;
    let mut is_first_here = true;
    for step in 0..60 {
        let Some(unit) = units.next() else { break };
        if step % 15 == 0 && is_first_here {
            is_first_here = first.send(&unit).await.is_ok();
        }
        if step == 10 {
            likeness.publish("truck1", key).await?;
        }
        if step >= 10 {
            likeness.send(&unit).await?;
        }
        time::sleep(Duration::from_millis(40)).await;
    }
    Ok(1 + usize::from(is_first_here))
}

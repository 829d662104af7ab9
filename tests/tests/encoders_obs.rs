//! A real OBS (29, of Debian) through what happens to a relay: `make test-encoders` installs it and runs this.

#![expect(clippy::print_stderr, reason = "the figures of the run")]

use std::{
    thread,
    time::{Duration, Instant},
};

use firstmile_tests::{
    harness::{Connector, Obs, OutputKind, Show, wait_for},
    hostile::rtmp,
};

/// OBS publishing to "Camera 1" of a studio that counts what comes.
struct OnAir {
    show: Show,
    studio: Connector,
    obs: Obs,
}

fn start(name: &str) -> anyhow::Result<OnAir> {
    let show = Show::start()?;
    let studio = show.joined("truck1", OutputKind::Null)?;
    let line = show.add_line("truck1", &studio, "Camera 1", None)?;
    let obs = Obs::start(show.folder(), name, &server(&line.url)?, &line.key)?;
    studio.wait_line("Camera 1", "live")?;
    Ok(OnAir { show, studio, obs })
}

/// What OBS asks for as "server": the URL without the key.
fn server(url: &str) -> anyhow::Result<String> {
    let (server, _) = url
        .rsplit_once('/')
        .ok_or_else(|| anyhow::anyhow!("{url}"))?;
    Ok(server.to_owned())
}

impl OnAir {
    fn units(&self) -> anyhow::Result<u64> {
        let line = self.studio.line("Camera 1")?;
        Ok(line["video"]["units_total"].as_u64().unwrap_or(0))
    }

    /// How long no unit came, once `what` was done: from the last one before to the first one after.
    fn longest_gap_during(&self, window: Duration) -> anyhow::Result<Duration> {
        let (mut seen, mut since) = (self.units()?, Instant::now());
        let (begun, mut longest) = (Instant::now(), Duration::ZERO);
        while begun.elapsed() < window {
            thread::sleep(Duration::from_millis(20));
            let units = self.units()?;
            if units != seen {
                longest = longest.max(since.elapsed());
                (seen, since) = (units, Instant::now());
            }
        }
        Ok(longest.max(since.elapsed()))
    }
}

#[test]
fn obs_is_back_within_three_seconds_of_a_relays_restart() -> anyhow::Result<()> {
    let mut air = start("restart")?;
    air.show.relay_mut().stop()?;
    let stopped = Instant::now();
    let before = air.units()?;
    air.show.relay_mut().restart()?;
    let up = stopped.elapsed();
    wait_for(
        "pictures after the restart",
        Duration::from_secs(10),
        || {
            let units = air.units()?;
            Ok(if units > before + 5 {
                Ok(())
            } else {
                Err(units.into())
            })
        },
    )?;
    let took = stopped.elapsed();
    eprintln!("relay up after {up:?}, OBS's pictures after {took:?}");
    assert!(took <= Duration::from_secs(3), "{took:?}");
    assert!(air.obs.runs()?);
    Ok(())
}

#[test]
fn obs_goes_and_comes_back_within_three_seconds_when_its_relay_is_drained() -> anyhow::Result<()> {
    let air = start("drain")?;
    let told = air.show.relay().command(&["drain", "--wait", "20s"], "")?;
    told.success()?;
    // x264's longest GOP is 250 pictures: OBS goes at its next keyframe.
    let gap = air.longest_gap_during(Duration::from_secs(15))?;
    let log = air.obs.log()?;
    eprintln!("longest time without a picture while it was drained: {gap:?}");
    assert!(gap <= Duration::from_secs(3), "{gap:?}");
    assert!(
        log.matches("Connecting to RTMP URL").count() >= 2,
        "it went and came back:\n{log}"
    );
    Ok(())
}

#[test]
fn obs_with_a_wrong_key_tells_its_user_and_with_the_right_one_gets_in_after_five_wrong_ones()
-> anyhow::Result<()> {
    let show = Show::start()?;
    let studio = show.joined("truck1", OutputKind::Null)?;
    let line = show.add_line("truck1", &studio, "Camera 1", None)?;
    let server = server(&line.url)?;
    let wrong = Obs::start(show.folder(), "wrong", &server, "wrong-key-2026")?;
    // As a dialogue on its screen, and in its log; it does not try again.
    wrong.wait_said("failed: -3", Duration::from_secs(20))?;
    thread::sleep(Duration::from_secs(5));
    let log = wrong.log()?;
    assert_eq!(log.matches("Connecting to RTMP URL").count(), 1, "{log}");
    drop(wrong);

    let rtmp = show.relay().address("rtmp")?;
    let runtime = tokio::runtime::Runtime::new()?;
    for _ in 0..5 {
        let from = rtmp.ip();
        let (answer, _) = runtime.block_on(rtmp::knock(rtmp, from, "truck1", "wrong-key-2026"))?;
        assert_eq!(answer, "refused: NetStream.Publish.BadName");
    }
    let right = Obs::start(show.folder(), "right", &server, &line.key)?;
    studio.wait_line("Camera 1", "live")?;
    let log = right.log()?;
    assert_eq!(log.matches("Connecting to RTMP URL").count(), 1, "{log}");
    Ok(())
}

//! A studio whose network lets no UDP through, or only sometimes: the feeds come by the way that is left.

use std::{
    fs,
    process::Command,
    time::{Duration, Instant},
};

use firstmile_tests::{
    forwarder::Forwarder,
    harness::{
        Connector, Encoder, EncoderSettings, Need, OutputKind, PATIENCE, Show, can_run, wait_for,
    },
};
use serde_json::Value;

/// A show whose studio reaches its relay through a forwarder only.
struct Stage {
    // Dropped in this order.
    _encoder: Encoder,
    studio: Connector,
    forwarder: Forwarder,
    show: Show,
}

const LINE: &str = "Camera 1";

impl Stage {
    /// With an encoder that is on, and a picture at the studio.
    fn set(before_join: impl FnOnce(&Forwarder)) -> anyhow::Result<Self> {
        let show = Show::start()?;
        let forwarder = Forwarder::to(show.relay().address("tunnel")?)?;
        before_join(&forwarder);
        let mut studio = show.connector("studio", OutputKind::Null)?;
        studio.program_mut().stop()?;
        (studio.program_mut()).set("FIRSTMILE_CONNECTOR__TUNNEL__PROBE_SECONDS", "2");
        // Longer than a heartbeat, after which the other port is known.
        (studio.program_mut()).set("FIRSTMILE_CONNECTOR__DELAY", "600");
        studio.program_mut().restart()?;
        let address = forwarder.address().to_string();
        let invite = ["invite", "truck1", "--address", &address];
        let token = show.relay().command(&invite, "")?.success()?;
        studio.join(token.trim_end())?.success()?;
        studio.wait_connected()?;
        let line = show.add_line("truck1", &studio, LINE, None)?;
        let settings = EncoderSettings {
            size: (640, 360),
            ..EncoderSettings::default()
        };
        let encoder = Encoder::start(show.folder(), "camera", &line.url, &settings)?;
        studio.wait_line(LINE, "live")?;
        Ok(Self {
            _encoder: encoder,
            studio,
            forwarder,
            show,
        })
    }

    /// Waits until the tunnel goes this way and pictures come.
    fn wait_live_over(&self, transport: &str) -> anyhow::Result<Value> {
        wait_for(&format!("pictures over {transport}"), PATIENCE, || {
            let status = self.studio.status()?;
            let relay = &status["relays"][0];
            let is_so = relay["state"] == "connected"
                && relay["transport"] == transport
                && status["lines"][0]["state"] == "live";
            Ok(if is_so { Ok(status) } else { Err(status) })
        })
    }

    fn video(&self) -> anyhow::Result<Value> {
        Ok(self.studio.line(LINE)?["video"].clone())
    }

    /// What was lost of the pictures, or shown late, since the start: once nothing is in question any more.
    fn settled(&self) -> anyhow::Result<[u64; 3]> {
        // What is missing is given up after 2 s.
        std::thread::sleep(Duration::from_millis(2_500));
        let video = self.video()?;
        Ok(["lost_total", "late_total", "dropped_total"]
            .map(|count| video[count].as_u64().unwrap_or(u64::MAX)))
    }

    /// What the relay calls the way to the studio.
    fn relays_word(&self) -> anyhow::Result<Value> {
        let printed = (self.show.relay())
            .command(&["connectors", "--json"], "")?
            .success()?;
        let connectors: Value = serde_json::from_str(&printed)?;
        Ok(connectors[0]["transport"].clone())
    }
}

/// Says what was measured.
#[expect(clippy::print_stderr, reason = "the figures of the run")]
fn note(what: &str, took: Duration) {
    eprintln!("{what}: {} ms", took.as_millis());
}

#[test]
fn a_studio_without_udp_joins_and_is_live_over_tcp() -> anyhow::Result<()> {
    if !can_run(&[Need::Ffmpeg]) {
        return Ok(());
    }
    let mut stage = Stage::set(|forwarder| forwarder.let_udp(false))?;
    let status = stage.wait_live_over("tcp")?;
    assert!(status["relays"][0]["rtt_ms"].is_number(), "{status}");
    assert_eq!(stage.relays_word()?, "tcp");
    let printed = (stage.studio.program())
        .command(&["status"], "")?
        .success()?;
    assert!(
        printed.contains("No UDP gets through to the relay")
            && printed.contains("a lost packet holds up everything"),
        "{printed}"
    );

    stage.studio.program_mut().kill()?;
    let since = Instant::now();
    stage.studio.program_mut().restart()?;
    stage.wait_live_over("tcp")?;
    note(
        "UDP blocked, from the program's start to live over TCP",
        since.elapsed(),
    );
    assert!(since.elapsed() < Duration::from_secs(10));
    Ok(())
}

/// Blocked while pictures come, and let through again: back over TCP, then over UDP, the latter without anybody seeing it.
#[test]
fn udp_that_is_blocked_and_comes_back_costs_one_gap_and_no_more() -> anyhow::Result<()> {
    if !can_run(&[Need::Ffmpeg]) {
        return Ok(());
    }
    let stage = Stage::set(|_| {})?;
    stage.wait_live_over("quic")?;
    stage.forwarder.let_udp(false);
    let since = Instant::now();
    stage.wait_live_over("tcp")?;
    note(
        "UDP blocked in the middle, live over TCP after",
        since.elapsed(),
    );
    assert!(
        since.elapsed() < Duration::from_secs(10),
        "{}",
        stage.show.logs()?
    );
    assert_eq!(stage.relays_word()?, "tcp");

    let settled = stage.settled()?;
    stage.forwarder.let_udp(true);
    let since = Instant::now();
    wait_for("QUIC again", PATIENCE, || {
        let status = stage.studio.status()?;
        let line = &status["lines"][0];
        assert_eq!(line["state"], "live", "{line}");
        let is_back = status["relays"][0]["transport"] == "quic";
        Ok(if is_back { Ok(()) } else { Err(status) })
    })?;
    note(
        "UDP let through again, QUIC took over after",
        since.elapsed(),
    );
    wait_for("one connection at the relay", PATIENCE, || {
        let printed = (stage.show.relay())
            .command(&["status", "--json"], "")?
            .success()?;
        let status: Value = serde_json::from_str(&printed)?;
        let is_one = status["connectors"] == 1 && stage.relays_word()? == "quic";
        Ok(if is_one { Ok(()) } else { Err(status) })
    })?;
    assert_eq!(stage.settled()?, settled, "{}", stage.show.logs()?);
    Ok(())
}

/// A NAT box that forgets: the tunnel's packets come from another port from one moment on.
#[test]
fn another_port_of_the_studios_connection_costs_nothing() -> anyhow::Result<()> {
    if !can_run(&[Need::Ffmpeg]) {
        return Ok(());
    }
    let stage = Stage::set(|_| {})?;
    let settled = stage.settled()?;
    let before = stage.video()?["units_total"].as_u64();
    for _ in 0..4 {
        stage.forwarder.rebind();
        std::thread::sleep(Duration::from_secs(1));
    }
    assert_eq!(stage.settled()?, settled, "{}", stage.show.logs()?);
    let after = stage.video()?["units_total"].as_u64();
    assert!(
        after > before.map(|before| before + 90),
        "{before:?} {after:?}"
    );
    let status = stage.studio.status()?;
    assert_eq!(status["relays"][0]["transport"], "quic", "{status}");
    Ok(())
}

#[test]
fn a_relay_that_dies_under_a_tcp_tunnel_is_found_again() -> anyhow::Result<()> {
    let mut stage = Show::start()?;
    let forwarder = Forwarder::to(stage.relay().address("tunnel")?)?;
    forwarder.let_udp(false);
    let studio = stage.connector("studio", OutputKind::Null)?;
    let address = forwarder.address().to_string();
    let invite = ["invite", "truck1", "--address", &address];
    let token = stage.relay().command(&invite, "")?.success()?;
    studio.join(token.trim_end())?.success()?;
    studio.wait_connected()?;
    stage.relay_mut().kill()?;
    studio.wait_relay("dialing")?;
    stage.relay_mut().restart()?;
    let since = Instant::now();
    let relay = studio.wait_relay("connected")?;
    note(
        "relay killed under TCP, connected after its start",
        since.elapsed(),
    );
    assert_eq!(relay["transport"], "tcp");

    // What is stuck is noticed as what is closed is, and heals without anybody's help.
    forwarder.let_tcp(false);
    studio.wait_relay("dialing")?;
    forwarder.let_tcp(true);
    studio.wait_connected()?;
    Ok(())
}

/// The relay moves to another machine, and its name with it.
#[test]
fn a_relay_whose_name_leads_elsewhere_is_found_there() -> anyhow::Result<()> {
    // The names are those of the tests' own namespace.
    if std::env::var_os("FIRSTMILE_NETNS").is_none() {
        return Ok(());
    }
    let mut show = Show::start()?;
    let hosts = show.folder().join("hosts");
    let point = |address: &str| -> anyhow::Result<()> {
        let known = "127.0.0.1 localhost\n::1 localhost\n";
        Ok(fs::write(&hosts, format!("{known}{address} relay.test\n"))?)
    };
    point("127.0.0.1")?;
    let mounted = Command::new("mount")
        .args(["--bind", &hosts.display().to_string(), "/etc/hosts"])
        .status()?;
    assert!(mounted.success(), "{mounted}");
    let port = show.relay().address("tunnel")?.port();
    let studio = show.connector("studio", OutputKind::Null)?;
    let invite = [
        "invite",
        "truck1",
        "--address",
        &format!("relay.test:{port}"),
    ];
    let token = show.relay().command(&invite, "")?.success()?;
    studio.join(token.trim_end())?.success()?;
    studio.wait_connected()?;

    show.relay_mut().kill()?;
    let moved = format!("127.0.0.7:{port}");
    (show.relay_mut()).set("FIRSTMILE_RELAY__TUNNEL__LISTEN", &moved);
    show.relay_mut().restart()?;
    point("127.0.0.7")?;
    let since = Instant::now();
    wait_for("the connector at the relay's new address", PATIENCE, || {
        let printed = (show.relay())
            .command(&["status", "--json"], "")?
            .success()?;
        let status: Value = serde_json::from_str(&printed)?;
        let is_there = status["connectors"] == 1;
        Ok(if is_there { Ok(()) } else { Err(status) })
    })?;
    note(
        "the relay's name leads elsewhere, found there after",
        since.elapsed(),
    );
    let unmounted = Command::new("umount").arg("/etc/hosts").status()?;
    assert!(unmounted.success(), "{unmounted}");
    Ok(())
}

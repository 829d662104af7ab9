//! The laboratory itself does to packets what it was told, and its table once, in short (`make lab QUICK=1`): bounds for a
//! noisy machine. What is asserted of the table is what held when it was last measured, with room; what is not met of what
//! must be is said.

#![cfg(target_os = "linux")]

use std::{
    net::UdpSocket,
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use firstmile_tests::lab::{
    Lab, RELAY,
    access::Uplink,
    link::{Loss, Outage, Rate, Shape},
    missing,
    row::{System, rows},
    table::{Line, measure, render},
    trace::Lte,
    tun::{Shapes, Way},
};

#[expect(clippy::print_stderr, reason = "a skipped test has to say so")]
fn can_run() -> bool {
    let missing = missing();
    if let Some(why) = &missing {
        eprintln!("SKIPPED: {why}");
    }
    missing.is_none()
}

/// How long pings from the studio to the relay took, milliseconds; a lost one is missing.
fn ping(lab: &Lab, count: usize, more: &[&str]) -> anyhow::Result<Vec<f64>> {
    let output = lab
        .studio
        .host
        .command("ping")
        .args(["-n", "-W", "1", "-c", &count.to_string()])
        .args(more)
        .arg(RELAY)
        .stdin(Stdio::null())
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let times = text.lines().filter_map(|line| {
        let (_, time) = line.split_once("time=")?;
        time.split(' ').next()?.parse().ok()
    });
    Ok(times.collect())
}

/// Packets of 1,200 bytes from the relay to the studio at this rate for so long: what part of them came, and Mbit/s of
/// whole packets.
fn blast(lab: &Lab, mbps: f64, length: Duration) -> anyhow::Result<(f64, f64)> {
    let sender = lab.relay.inside(move || -> anyhow::Result<u32> {
        let socket = UdpSocket::bind((RELAY, 7_000))?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        let (_, to) = socket.recv_from(&mut [0; 16])?;
        let (start, mut sent) = (Instant::now(), 0_u32);
        while start.elapsed() < length {
            let due = start.elapsed().as_secs_f64() * mbps * 1e6 / (1_228.0 * 8.0);
            while f64::from(sent) < due {
                // A full device loses it, as the link would.
                let _ = socket.send_to(&[0; 1_200], to);
                sent += 1;
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(sent)
    })?;
    let receiver = lab.studio.host.inside(move || -> anyhow::Result<u32> {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.send_to(b"here", (RELAY, 7_000))?;
        socket.set_read_timeout(Some(Duration::from_secs(2)))?;
        let mut received = 0;
        while socket.recv(&mut [0; 2_048]).is_ok() {
            received += 1;
        }
        Ok(received)
    })?;
    let sent = sender.finish()??;
    let came = receiver.finish()??;
    let rate = f64::from(came) * 1_228.0 * 8.0 / 1e6 / length.as_secs_f64();
    Ok((f64::from(came) / f64::from(sent), rate))
}

fn delayed() -> Shape {
    Shape {
        delay_us: 30_000,
        ..Shape::default()
    }
}

#[test]
fn packets_take_as_long_as_told_also_through_the_carriers_nat_and_after_every_change_of_address()
-> anyhow::Result<()> {
    if !can_run() {
        return Ok(());
    }
    let slow = Shape {
        delay_us: 45_000,
        ..Shape::default()
    };
    let uplinks = [Uplink::both(&delayed()), Uplink::both(&slow)];
    let mut lab = Lab::start(&Shapes::default(), &uplinks, 1)?;
    for (more, expected_ms) in [(&[][..], 60.0), (&["-I", "100.64.2.2"], 90.0)] {
        let mut times = ping(&lab, 40, &[&["-i", "0.01"], more].concat())?;
        times.sort_by(f64::total_cmp);
        assert_eq!(times.len(), 40, "{times:?}");
        assert!(
            (expected_ms..expected_ms + 5.0).contains(&times[20]),
            "{times:?}"
        );
    }

    lab.studio.uplinks[0].rebind()?;
    assert_eq!(ping(&lab, 3, &["-i", "0.01"])?.len(), 3, "rebound");
    lab.studio.uplinks[0].move_outside(44)?;
    assert_eq!(ping(&lab, 3, &["-i", "0.01"])?.len(), 3, "moved outside");
    lab.studio.move_inside(0, 9)?;
    assert_eq!(ping(&lab, 3, &["-i", "0.01"])?.len(), 3, "moved inside");

    lab.studio.uplinks[0].link.reshape(
        Way::Down,
        Shape {
            jitter_us: 20_000,
            ..delayed()
        },
    );
    let times = ping(&lab, 60, &["-i", "0.02"])?;
    let mean = times.iter().sum::<f64>() / 60.0;
    assert!((67.0..75.0).contains(&mean), "60 and 0 to 20 ms: {times:?}");

    lab.studio.uplinks[0]
        .link
        .reshape_both(&Uplink::both(&delayed()));
    lab.studio.uplinks[0]
        .link
        .fail(Duration::from_millis(400), Outage::Drops);
    let came = ping(&lab, 20, &["-i", "0.05"])?.len();
    assert!((8..16).contains(&came), "{came} of 20");
    assert!(lab.studio.uplinks[0].link.counts(Way::Up).outage > 0);
    Ok(())
}

#[test]
fn a_link_carries_and_loses_as_much_as_told_and_a_venue_can_block_udp() -> anyhow::Result<()> {
    if !can_run() {
        return Ok(());
    }
    let lab = Lab::start(&Shapes::default(), &[Shapes::default()], 1)?;
    let uplink = &lab.studio.uplinks[0];
    let with = |rate: Rate, loss: Loss| {
        let shape = Shape {
            rate,
            loss,
            ..delayed()
        };
        uplink.link.reshape(Way::Down, shape);
    };
    let length = Duration::from_secs(3);

    with(Rate::Constant(10_000_000), Loss::None);
    let (_, rate) = blast(&lab, 20.0, length)?;
    // What waited in the queue of 500 kB comes after the end.
    assert!((9.0..12.0).contains(&rate), "{rate} of 10 Mbit/s");

    with(Rate::Unlimited, Loss::Random(0.03));
    let (came, _) = blast(&lab, 10.0, length)?;
    assert!((0.955..0.985).contains(&came), "{came}, 3 % lost");

    let bursts = Loss::Bursts {
        enter: 0.0062,
        leave: 0.2,
    };
    with(Rate::Unlimited, bursts);
    let (came, _) = blast(&lab, 10.0, length)?;
    assert!((0.94..0.99).contains(&came), "{came}, 3 % lost in bursts");

    let lte = Lte {
        seconds: 3,
        fade_every_s: 0.0,
        ..Lte::default()
    };
    let trace = lte.trace(3);
    #[expect(clippy::cast_precision_loss, reason = "packets of seconds")]
    let offered = trace.len() as f64 * 12_000.0 / 3e6;
    with(Rate::Trace(trace), Loss::None);
    let (_, rate) = blast(&lab, 40.0, length)?;
    assert!(
        (offered * 0.85..offered * 1.25).contains(&rate),
        "{rate} of {offered} Mbit/s"
    );

    with(Rate::Unlimited, Loss::None);
    uplink.block_udp(true)?;
    assert_eq!(ping(&lab, 3, &["-i", "0.01"])?.len(), 3, "only UDP");
    assert!(
        blast(&lab, 1.0, Duration::from_millis(100)).is_err(),
        "no UDP comes through"
    );
    uplink.block_udp(false)?;
    let (came, _) = blast(&lab, 1.0, Duration::from_millis(100))?;
    assert!(came > 0.9, "{came}");
    Ok(())
}

#[test]
#[expect(clippy::print_stderr, reason = "the table is for people")]
fn the_tunnel_does_on_bad_links_what_it_did_when_last_measured() {
    if !can_run() {
        return;
    }
    let systems = [System::Firstmile, System::TcpBbr, System::Srt];
    let lines: Vec<Line> = (rows().iter().filter(|row| !row.is_long()))
        .map(|row| measure(row, &systems, 1, |_| ()))
        .collect();
    eprintln!("{}", render(&lines));
    let figure = |row: &str, name: &str| {
        let line = lines.iter().find(|line| line.name == row);
        line.and_then(|line| line.figures.get(&System::Firstmile)?.get(name).copied()?)
    };
    for row in ["clean", "loss", "bursts", "rebind", "public-ip", "modem-ip"] {
        let shown = figure(row, "shown");
        assert!(shown >= Some(540.0), "{row}: {shown:?} of 600 shown");
        let p95 = figure(row, "audio_p95_ms");
        assert!(p95.is_some_and(|ms| ms <= 250.0), "{row}: sound {p95:?} ms");
    }
    for (row, name, limit) in [
        ("dip", "whole_again_ms", 4_500.0),
        ("outage-1s", "freeze_ms", 3_500.0),
        ("outage-3.3s", "freeze_ms", 7_500.0),
        ("relay-dies", "seen_again_ms", 5_000.0),
    ] {
        let value = figure(row, name);
        assert!(
            value.is_some_and(|ms| ms <= limit),
            "{row}: {name} {value:?}"
        );
    }
    for line in lines.iter().filter(|line| line.name != "on-air") {
        assert!(line.faults.is_empty(), "{}: {:?}", line.name, line.faults);
    }
}

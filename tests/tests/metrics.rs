//! METRICS.md, `/metrics` of both programs, and what happens: all three say the same.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::Context;
use firstmile_shared::{
    media::AccessUnit,
    secret::{StreamKey, from_hex},
    tls::Identity,
    token::JoinToken,
    tunnel::{
        VERSION,
        control::{FromConnector, FromRelay, LagPolicy, LineDeclaration, Takeover},
    },
};
use firstmile_tests::{
    encoder::{SyntheticEncoder, SyntheticFeed},
    harness::{
        Encoder, EncoderSettings, Need, OutputKind, PATIENCE, Program, Show, can_run, http_get,
        wait_for,
    },
    hostile::{
        address,
        quic::Guest,
        rtmp::{self, Attack},
    },
    metrics::{Documented, Scrape, differences, documented, read},
};
use ring::rand::SystemRandom;
use tokio::{
    task::JoinSet,
    time::{self, Instant},
};

const TABLE: &str = include_str!("../../METRICS.md");

/// The rows of one program.
fn rows(program: &str) -> anyhow::Result<Vec<Documented>> {
    let prefix = format!("firstmile_{program}_");
    let mut rows = documented(TABLE)?;
    rows.retain(|row| row.name.starts_with(&prefix));
    Ok(rows)
}

fn scrape(program: &Program) -> anyhow::Result<Scrape> {
    let answer = http_get(program.address("http")?, "/metrics")?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no body")?;
    assert!(head.contains("text/plain; version=0.0.4"), "{head}");
    read(body).with_context(|| body.to_owned())
}

/// Counters and histograms of a kind that have not moved.
fn unmoved(scrape: &Scrape, rows: &[Documented], on_faults: bool) -> Vec<String> {
    let rows = rows
        .iter()
        .filter(|row| row.on_faults == on_faults && row.kind != "gauge");
    rows.flat_map(|row| {
        let still = row.series().into_iter().filter(|labels| {
            row.value(scrape, labels)
                .is_none_or(|value| value.abs() < f64::EPSILON)
        });
        still.map(|labels| {
            let values: Vec<_> = labels.into_values().collect();
            format!("{} {}", row.name, values.join(" "))
        })
    })
    .collect()
}

#[test]
fn after_a_show_every_documented_metric_is_there_and_none_besides() -> anyhow::Result<()> {
    if !can_run(&[Need::Ndi, Need::Ffmpeg]) {
        return Ok(());
    }
    let show = Show::start()?;
    let studio = show.joined("truck1", OutputKind::Ndi)?;
    let line = show.add_line("truck1", &studio, "Camera \"1\"", None)?;
    let small = EncoderSettings {
        size: (640, 360),
        ..EncoderSettings::default()
    };
    let _encoder = Encoder::start(show.folder(), "camera", &line.url, &small)?;
    studio.wait_line("Camera \"1\"", "live")?;
    for (program, rows) in [
        (show.relay(), rows("relay")?),
        (studio.program(), rows("connector")?),
    ] {
        assert!(rows.len() > 5, "METRICS.md is read");
        wait_for("everything to be measured", PATIENCE, || {
            let scrape = scrape(program)?;
            let mut wrong = differences(&scrape, &rows);
            wrong.extend(unmoved(&scrape, &rows, false));
            Ok(if wrong.is_empty() {
                Ok(())
            } else {
                Err(wrong.into())
            })
        })?;
    }
    Ok(())
}

/// Everything that should not happen, one after the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_bad_show_every_metric_of_faults_has_moved() -> anyhow::Result<()> {
    if !can_run(&[Need::Ffmpeg]) {
        return Ok(());
    }
    let show = Show::start_set(&[
        ("FIRSTMILE_RELAY__LIMITS__HANDSHAKE_TIMEOUT", "1s"),
        ("FIRSTMILE_RELAY__RTMPS__LISTEN", "127.0.0.1:0"),
    ])?;
    let rtmps = show.relay().address("rtmps")?;
    let (rtmp, tunnel) = (
        show.relay().address("rtmp")?,
        show.relay().address("tunnel")?,
    );
    let used = show.invite("truck1", &[])?;
    let mut studio = show.connector("studio", OutputKind::Null)?;
    studio.join(&used)?.success()?;
    studio.wait_connected()?;
    let line = show.add_line("truck1", &studio, "Camera 1", None)?;

    wrong_doors(rtmp, rtmps).await?;
    strangers(rtmp, tunnel, &JoinToken::parse(&used)?).await?;
    let small = EncoderSettings {
        size: (640, 360),
        ..EncoderSettings::default()
    };
    let behind = Encoder::start(show.folder(), "slow", &line.url, &small)?;
    studio.wait_line("Camera 1", "live")?;
    wait_for("late pictures", PATIENCE, || {
        // Longer than the delay: the relay, which knows nothing of it, sends on. What the encoder holds back is not sent.
        studio.program().pause(Duration::from_millis(400))?;
        let line = studio.line("Camera 1")?;
        let is_late = line["video"]["late_total"] != 0;
        Ok(if is_late { Ok(()) } else { Err(line) })
    })?;
    for helper in studio.program().children()? {
        // By its number, which is ours as long as its parent has not waited for it.
        std::process::Command::new("kill")
            .args(["-KILL", &helper.pid.to_string()])
            .status()?;
    }
    wait_for("another decoder", PATIENCE, || {
        let line = studio.line("Camera 1")?;
        let is_new = line["video"]["decoder_restarts_total"] != 0 && line["state"] == "live";
        Ok(if is_new { Ok(()) } else { Err(line) })
    })?;
    drop(behind);
    let mut encoder = second_encoder(rtmp, &line.key).await?;
    late_and_damaged(&mut encoder).await?;
    encoder.send_paced(feed(2_000, 0), Instant::now()).await?;
    let deaf =
        |studio: &str| JoinToken::parse(&show.invite(studio, &[])?).map_err(anyhow::Error::from);
    full_queue(rtmp, tunnel, &deaf("truck2")?).await?;
    too_late(rtmp, tunnel, &deaf("truck3")?).await?;
    let resync = ["line", "resync", "Camera 1"];
    studio.program().command(&resync, "")?.success()?;
    let mut encoder = SyntheticEncoder::connect_from(address(11), rtmp).await?;
    encoder.publish("truck1", &line.key).await?;
    encoder.send_paced(feed(1_000, 0), Instant::now()).await?;

    let rows_here = rows("connector")?;
    // What no test on one machine brings about: packets that are lost for good.
    let elsewhere = ["firstmile_connector_units_dropped_total lost"];
    wait_for("the connector's faults to be counted", PATIENCE, || {
        let mut still = unmoved(&scrape(studio.program())?, &rows_here, true);
        still.retain(|name| !elsewhere.contains(&name.as_str()));
        Ok(if still.is_empty() {
            Ok(())
        } else {
            Err(still.into())
        })
    })?;

    // In good order: of a killed one the relay hears after ten seconds.
    studio.program_mut().stop()?;
    encoder.send_paced(feed(1_000, 0), Instant::now()).await?;
    show.relay().command(&["drain"], "")?.success()?;
    let mut newcomer = SyntheticEncoder::connect_from(address(9), rtmp).await?;
    assert!(newcomer.publish("truck1", &line.key).await.is_err());
    let rows_here = rows("relay")?;
    // An operator's word, see `takeover.rs`; an encoder that stays behind, see `lagging.rs`; a link that can't carry all
    // lines, see the scheduler's `link_tests.rs`.
    let elsewhere = [
        "firstmile_relay_units_dropped_total thinned",
        "firstmile_relay_refusals_total by_studio",
        "firstmile_relay_resyncs_total reconnect",
        "firstmile_relay_resyncs_total accept",
    ];
    wait_for("the relay's faults to be counted", PATIENCE, || {
        let mut still = unmoved(&scrape(show.relay())?, &rows_here, true);
        still.retain(|name| !elsewhere.contains(&name.as_str()));
        Ok(if still.is_empty() {
            Ok(())
        } else {
            Err(still.into())
        })
    })
}

/// Not a picture in it, only the weight of pictures; it begins at this media time.
fn feed(duration_ms: u32, from_ms: i64) -> impl Iterator<Item = AccessUnit> + Send {
    let feed = SyntheticFeed {
        gop: 30,
        duration_ms,
        ..SyntheticFeed::default()
    };
    feed.units().map(move |mut unit| {
        unit.dts_us += from_ms * 1_000;
        unit
    })
}

/// Every protocol that is none of RTMP's, and RTMP where TLS belongs.
async fn wrong_doors(rtmp: SocketAddr, rtmps: SocketAddr) -> anyhow::Result<()> {
    for (to, bytes) in [
        (rtmp, &b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03"[..]),
        (rtmp, b"\x06\0\0\0\0"),
        (rtmp, b"G\x40\x11\x10\0\x42\xf0"),
        (rtmp, b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"),
        (rtmps, b"\x03\0\0\0\0\0\0\0\0"),
        (rtmps, b"\x16\x03\x01\0\x04\x01\0\0\0"),
    ] {
        rtmp::say(to, address(10), bytes, PATIENCE).await?;
    }
    rtmp::say(rtmp, address(10), &[0xff; 64], PATIENCE).await?;
    Ok(())
}

async fn strangers(rtmp: SocketAddr, tunnel: SocketAddr, used: &JoinToken) -> anyhow::Result<()> {
    rtmp::knock(rtmp, address(1), "truck1", "wrong-key-2026").await?;
    Attack::Http.run(rtmp, address(1), PATIENCE).await?;
    Attack::HalfHandshake
        .run(rtmp, address(2), PATIENCE)
        .await?;
    // More than one address may hold: the first have to make room. They stay until they are told.
    let mut crowd = JoinSet::new();
    for _ in 0..70 {
        crowd.spawn(Attack::Dribble.run(rtmp, address(3), PATIENCE));
    }
    while let Some(told) = crowd.join_next().await {
        told??;
    }
    let thief = Identity::ephemeral()?;
    for message in [
        FromConnector::Hello {
            version: VERSION,
            name: "thief".into(),
            software: "thief".into(),
            session: 1,
            handover: false,
        },
        FromConnector::Enrol {
            token: used.id.clone(),
            secret: used.secret.clone(),
            name: "thief".into(),
        },
    ] {
        let mut guest = Guest::dial(tunnel, &used.pins, &thief, address(4)).await?;
        guest.say(&message).await?;
        guest.closed(PATIENCE).await?;
    }
    Ok(())
}

/// A second encoder waits while the first one sends, and takes the line when that falls silent. Answers with the second.
async fn second_encoder(rtmp: SocketAddr, key: &str) -> anyhow::Result<SyntheticEncoder> {
    let mut first = SyntheticEncoder::connect_from(address(5), rtmp).await?;
    first.publish("truck1", key).await?;
    let mut second = SyntheticEncoder::connect_from(address(6), rtmp).await?;
    let start = Instant::now();
    let held = async {
        time::sleep(Duration::from_millis(500)).await;
        second.publish("truck1", key).await?;
        // While the first one sends, and for two seconds after.
        second
            .send_paced(feed(3_500, 0), start + Duration::from_millis(500))
            .await
    };
    let (sent, held) = tokio::join!(first.send_paced(feed(2_000, 0), start), held);
    sent?;
    held?;
    Ok(second)
}

/// Its uplink stops for a while, and then delivers all at once; nothing of it is a picture.
async fn late_and_damaged(encoder: &mut SyntheticEncoder) -> anyhow::Result<()> {
    time::sleep(Duration::from_millis(1_500)).await;
    for unit in feed(1_500, 3_500) {
        encoder.send(&unit).await?;
    }
    Ok(())
}

/// A studio that wants everything for half a minute and takes nothing.
async fn full_queue(rtmp: SocketAddr, tunnel: SocketAddr, token: &JoinToken) -> anyhow::Result<()> {
    let (_guest, key) = deaf_studio(tunnel, token, 30_000, address(7)).await?;
    let mut encoder = SyntheticEncoder::connect_from(address(8), rtmp).await?;
    encoder.publish(&token.studio, key.expose()).await?;
    for unit in feed(60_000, 0) {
        encoder.send(&unit).await?;
    }
    Ok(())
}

/// A studio that takes nothing, of a feed that is worth something for a tenth of a second.
async fn too_late(rtmp: SocketAddr, tunnel: SocketAddr, token: &JoinToken) -> anyhow::Result<()> {
    let (_guest, key) = deaf_studio(tunnel, token, 100, address(12)).await?;
    let mut encoder = SyntheticEncoder::connect_from(address(13), rtmp).await?;
    encoder.publish(&token.studio, key.expose()).await?;
    (encoder.send_paced(feed(3_000, 0), Instant::now())).await
}

/// A connector that has declared a line and reads no units.
async fn deaf_studio(
    tunnel: SocketAddr,
    token: &JoinToken,
    delay_ms: u32,
    from: IpAddr,
) -> anyhow::Result<(Guest, StreamKey)> {
    let identity = Identity::ephemeral()?;
    let mut guest = Guest::dial_deaf(tunnel, &token.pins, &identity, from).await?;
    guest
        .say(&FromConnector::Enrol {
            token: token.id.clone(),
            secret: token.secret.clone(),
            name: "deaf".into(),
        })
        .await?;
    guest
        .say(&FromConnector::Hello {
            version: VERSION,
            name: "deaf".into(),
            software: "deaf".into(),
            session: 1,
            handover: false,
        })
        .await?;
    let key = StreamKey::generate(&SystemRandom::new());
    loop {
        match guest.hear().await? {
            FromRelay::Welcome { salt, .. } => {
                let salt = from_hex(&salt).context("the salt")?;
                let line = LineDeclaration {
                    line: 1,
                    name: "Camera 1".into(),
                    key_hash: key.hash(&salt).to_hex(),
                    enabled: true,
                    delay_ms,
                    takeover: Takeover::default(),
                    lag: LagPolicy::Reconnect,
                    max_lag_ms: 3_000,
                };
                let lines = vec![line];
                let declare = FromConnector::Declare {
                    generation: 1,
                    lines,
                };
                guest.say(&declare).await?;
            }
            FromRelay::Declared { .. } => return Ok((guest, key)),
            _ => {}
        }
    }
}

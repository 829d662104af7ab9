//! Beside strangers that do everything wrong, an honest 6 Mbit/s publisher loses nothing and the relay's memory stays where
//! it is. The same publisher without strangers, in the same run, is the control.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, ensure};
use firstmile_shared::{
    secret::{StreamKey, from_hex},
    tls::Identity,
    token::JoinToken,
    tunnel::{
        VERSION,
        close::Close,
        control::{FromConnector, FromRelay, LagPolicy, LineDeclaration, Takeover},
    },
};
use firstmile_tests::{
    bench::{meter::Arrivals, studio::Studio},
    encoder::{SyntheticEncoder, SyntheticFeed},
    harness::{Show, http_get},
    hostile::{
        Outcome, address, honest,
        quic::{self, Guest},
        rtmp::{self, Attack},
    },
};
use ring::rand::SystemRandom;
use tokio::{
    task::JoinSet,
    time::{self, Instant},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::print_stderr, reason = "the figures of the run")]
async fn strangers_cost_an_honest_publisher_nothing() -> anyhow::Result<()> {
    let show = Show::start_set(&[("FIRSTMILE_RELAY__LIMITS__HANDSHAKE_TIMEOUT", "3s")])?;
    let (rtmp, tunnel) = (
        show.relay().address("rtmp")?,
        show.relay().address("tunnel")?,
    );
    let token = JoinToken::parse(&show.invite("truck1", &[])?)?;
    let mut studio = Studio::join(&token).await?;
    let key = StreamKey::generate(&SystemRandom::new());
    studio.declare(std::slice::from_ref(&key), DELAY_MS).await?;
    let arrivals = Arc::new(Arrivals::default());
    let mut background = JoinSet::new();
    background.spawn(studio.count(Arc::clone(&arrivals)));

    let control = honest::publish(rtmp, "truck1", &key, &arrivals, CONTROL).await?;
    let memory_before = show.relay().peak_memory()?;
    let mut publisher = JoinSet::new();
    publisher.spawn({
        let arrivals = Arc::clone(&arrivals);
        async move { honest::publish(rtmp, "truck1", &key, &arrivals, ATTACKED).await }
    });
    let mut attacks = JoinSet::new();
    attacks.spawn(knocks(rtmp));
    let other = JoinToken::parse(&show.invite("truck2", &[])?)?;
    let mut others = Studio::join(&other).await?;
    let other_key = StreamKey::generate(&SystemRandom::new());
    others
        .declare(std::slice::from_ref(&other_key), DELAY_MS)
        .await?;
    attacks.spawn(encoders(rtmp, other.studio, other_key));
    attacks.spawn(packets(tunnel));
    attacks.spawn(connectors(tunnel, token));
    let deaf = JoinToken::parse(&show.invite("truck3", &[])?)?;
    attacks.spawn(deaf_connector(rtmp, tunnel, deaf));
    while let Some(attack) = attacks.join_next().await {
        attack??;
    }
    let attacked = publisher.join_next().await.context("the publisher")???;
    let grown = show.relay().peak_memory()? - memory_before;
    let metrics = http_get(show.relay().address("http")?, "/metrics")?;
    let refusals: Vec<_> = metrics
        .lines()
        .filter(|line| line.contains("_refusals_total{"))
        .collect();
    eprintln!(
        "control {control:?}\nattacked {attacked:?}\npeak memory +{grown} bytes\n{refusals:#?}"
    );

    for account in [&control, &attacked] {
        assert_eq!(account.arrived, account.sent, "{account:?}");
    }
    assert!(grown <= MEMORY_MAX, "{grown} bytes, from {memory_before}");
    for reason in [
        "unknown_key",
        "protocol",
        "tls_on_rtmp",
        "http",
        "too_slow",
        "full",
        "token",
        "unknown_connector",
    ] {
        let counted = refusals.iter().find_map(|line| {
            let (label, count) = line.rsplit_once(' ')?;
            label
                .contains(&format!("reason=\"{reason}\""))
                .then_some(count)
        });
        assert!(
            counted.is_some_and(|count| count != "0"),
            "{reason}: {refusals:#?}"
        );
    }
    let log = show.relay().log()?;
    assert!(!log.contains("panicked"), "{log}");
    Ok(())
}

/// A wrong key and an unknown studio: the same answer after the same time.
async fn knocks(rtmp: SocketAddr) -> anyhow::Result<()> {
    let (mut wrong, mut unknown) = (Vec::new(), Vec::new());
    for _ in 0..KNOCK_ROUNDS {
        let mut round = JoinSet::new();
        // Each from an address of its own: one that sends many is answered later and later.
        for n in 0..KNOCKS {
            round.spawn(async move {
                let studio = if n % 2 == 0 { "truck1" } else { "nobody" };
                let knock = rtmp::knock(rtmp, address(700 + n), studio, "wrong-key-2026");
                (studio, knock.await)
            });
        }
        while let Some(knocked) = round.join_next().await {
            let (studio, answer) = knocked?;
            let (answer, took) = answer?;
            ensure!(
                answer == "refused: NetStream.Publish.BadName",
                "{studio}: {answer}"
            );
            let times = if studio == "truck1" {
                &mut wrong
            } else {
                &mut unknown
            };
            times.push(took.as_secs_f64() * 1000.0);
        }
    }
    wrong.sort_by(f64::total_cmp);
    unknown.sort_by(f64::total_cmp);
    for permille in [100, 500, 900] {
        let at = |times: &[f64]| times[times.len() * permille / 1000];
        let apart = (at(&wrong) - at(&unknown)).abs();
        ensure!(
            apart <= KNOCKS_APART_MS,
            "told apart by {apart} ms at {permille}/1000: {wrong:?} {unknown:?}"
        );
    }
    Ok(())
}

/// Everything at once on the encoders' port, each from an address of its own, again and again.
async fn encoders(rtmp: SocketAddr, studio: String, key: StreamKey) -> anyhow::Result<()> {
    let until = Instant::now() + ATTACKED - Duration::from_secs(7);
    let mut peers = JoinSet::new();
    // Silence, from one address and from many.
    let mut silent = rtmp::idle(rtmp, address(1), 100).await?;
    for peer in 2..22 {
        silent.extend(rtmp::idle(rtmp, address(peer), 20).await?);
    }
    for (peer, attack) in (100..).zip(Attack::ALL) {
        peers.spawn(async move {
            while Instant::now() < until {
                let outcome = attack.run(rtmp, address(peer), PATIENCE).await?;
                let limit = if attack.is_patient() {
                    PATIENCE
                } else {
                    AT_ONCE
                };
                ensure!(outcome.is_closed_within(limit), "{attack:?}: {outcome:?}");
                time::sleep(Duration::from_millis(50)).await;
            }
            Ok(())
        });
    }
    // The largest chunk size there is, and the right key: nothing is wrong with that.
    let mut large = SyntheticEncoder::connect(rtmp).await?;
    large.set_chunk_size(0x7fff_ffff);
    large.publish(&studio, key.expose()).await?;
    let feed = SyntheticFeed {
        duration_ms: 2_000,
        ..SyntheticFeed::default()
    };
    large.send_paced(feed.units(), Instant::now()).await?;
    large.unpublish(key.expose()).await?;
    drop(large);
    let deaf = rtmp::publish_and_never_read(rtmp, address(50), &studio, key.expose(), PATIENCE);
    let deaf = deaf.await?;
    ensure!(
        deaf != Outcome::Open,
        "a publisher that never reads is let go: {deaf:?}"
    );
    while let Some(peer) = peers.join_next().await {
        peer??;
    }
    drop(silent);
    Ok(())
}

/// Datagrams without meaning, and 2,000 connections that nobody continues.
async fn packets(tunnel: SocketAddr) -> anyhow::Result<()> {
    let from: Vec<_> = (200..300).map(address).collect();
    quic::send_all(tunnel, &quic::garbage(5_000), &from, 2_000).await?;
    let initials = quic::first_packets(2_000).await?;
    quic::send_all(tunnel, &initials, &from, 1_000).await?;
    // Once more, as they were: replayed.
    quic::send_all(tunnel, &initials, &from, 1_000).await
}

/// Connectors that nobody invited, and a token that was used.
async fn connectors(tunnel: SocketAddr, used: JoinToken) -> anyhow::Result<()> {
    let stranger = Identity::ephemeral()?;
    let dial = async |peer: u16| Guest::dial(tunnel, &used.pins, &stranger, address(peer)).await;

    // Opened, and nothing more.
    let mut stalled = Vec::new();
    for peer in 400..430 {
        stalled.push(dial(peer).await?);
    }
    // Truncated: a message of 100 bytes of which 10 come, and the end of the stream.
    let mut truncated = dial(500).await?;
    truncated.say_bytes(&[0, 0, 0, 100]).await?;
    truncated.say_bytes(&[b'{'; 10]).await?;
    truncated.finish();
    ensure!(matches!(
        truncated.closed(PATIENCE).await?,
        Close::Bye | Close::Protocol
    ));
    // Half a message, and silence.
    let mut half = dial(501).await?;
    half.say_bytes(&[0, 0, 0, 100, b'{']).await?;
    // Of absurd length; not text; not what is expected.
    for (peer, bytes) in (510..).zip([
        &[0xff, 0xff, 0xff, 0xff][..],
        &[0, 0, 0, 4, 0xff, 0xfe, 0, 1],
        b"\0\0\0\x02[]",
    ]) {
        let mut guest = dial(peer).await?;
        guest.say_bytes(bytes).await?;
        let close = guest.closed(PATIENCE).await?;
        ensure!(close == Close::Protocol, "{bytes:?}: {close:?}");
    }
    // Deep: within the length that a stranger has.
    let mut deep = dial(520).await?;
    let nested = "[".repeat(4_000);
    deep.say_bytes(&u32::try_from(nested.len())?.to_be_bytes())
        .await?;
    deep.say_bytes(nested.as_bytes()).await?;
    ensure!(
        deep.closed(PATIENCE).await? == Close::Protocol,
        "nested too deep"
    );
    // Replayed: somebody else's token, after it was used; a hello without one.
    let enrol = FromConnector::Enrol {
        token: used.id.clone(),
        secret: used.secret.clone(),
        name: "thief".into(),
    };
    let hello = FromConnector::Hello {
        version: VERSION,
        name: "thief".into(),
        software: "thief".into(),
        session: 1,
        handover: false,
    };
    for (peer, message, wanted) in [(530, &enrol, Close::Token), (531, &hello, Close::Unknown)] {
        let mut guest = dial(peer).await?;
        guest.say(message).await?;
        let close = guest.closed(PATIENCE).await?;
        ensure!(close == wanted, "{message:?}: {close:?}");
    }
    for guest in stalled.iter().chain([&half]) {
        let close = guest.closed(PATIENCE).await?;
        ensure!(close == Close::TooSlow, "stalled: {close:?}");
    }
    Ok(())
}

/// One that was invited, says everything twice and something old, and then takes next to nothing of what it is sent.
async fn deaf_connector(
    rtmp: SocketAddr,
    tunnel: SocketAddr,
    token: JoinToken,
) -> anyhow::Result<()> {
    let identity = Identity::ephemeral()?;
    let mut guest = Guest::dial_deaf(tunnel, &token.pins, &identity, address(600)).await?;
    let enrol = FromConnector::Enrol {
        token: token.id.clone(),
        secret: token.secret.clone(),
        name: "deaf".into(),
    };
    let hello = FromConnector::Hello {
        version: VERSION,
        name: "deaf".into(),
        software: "deaf".into(),
        session: 1,
        handover: false,
    };
    guest.say(&enrol).await?;
    guest.say(&hello).await?;
    let salt = loop {
        if let FromRelay::Welcome { salt, .. } = guest.hear().await? {
            break from_hex(&salt).context("the salt")?;
        }
    };
    let key = StreamKey::generate(&SystemRandom::new());
    let declare = |generation, lines: usize| FromConnector::Declare {
        generation,
        lines: (0..lines)
            .map(|_| LineDeclaration {
                line: 1,
                name: "Camera 1".into(),
                key_hash: key.hash(&salt).to_hex(),
                enabled: true,
                delay_ms: DELAY_MS,
                takeover: Takeover::default(),
                lag: LagPolicy::Reconnect,
                max_lag_ms: 3_000,
            })
            .collect(),
    };
    for message in [
        &declare(7, 1),
        &hello,
        &enrol,
        &declare(7, 1),
        &declare(6, 0),
    ] {
        guest.say(message).await?;
        time::sleep(Duration::from_millis(100)).await;
    }
    // What was declared last counts, not what was said last.
    let mut encoder = SyntheticEncoder::connect(rtmp).await?;
    encoder.publish(&token.studio, key.expose()).await?;
    let feed = SyntheticFeed {
        duration_ms: 8_000,
        ..SyntheticFeed::default()
    };
    // Its units are dropped, which is its own affair: the encoder never waits.
    encoder.send_paced(feed.units(), Instant::now()).await?;
    encoder.unpublish(key.expose()).await
}

const DELAY_MS: u32 = 600;
const CONTROL: Duration = Duration::from_secs(6);
const ATTACKED: Duration = Duration::from_secs(18);

/// For what is to be noticed by its time: `handshake_timeout` here, 5 s at the tunnel, and some.
const PATIENCE: Duration = Duration::from_secs(8);
/// For what is to be noticed by its bytes, on a busy machine.
const AT_ONCE: Duration = Duration::from_secs(2);

const MEMORY_MAX: u64 = 64 * 1024 * 1024;

const KNOCKS: u16 = 30;
const KNOCK_ROUNDS: usize = 3;
/// A guess of a key takes a second; what a network adds differs by more than this.
const KNOCKS_APART_MS: f64 = 25.0;

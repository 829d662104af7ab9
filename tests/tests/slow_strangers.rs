//! What strangers cost: a minute of a thousand of them, and the memory of each.

use std::{
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, ensure};
use firstmile_shared::{secret::StreamKey, token::JoinToken};
use firstmile_tests::{
    authority::Authority,
    bench::{meter::Arrivals, studio::Studio},
    encoder::SyntheticEncoder,
    harness::{Show, executable, http_get},
    hostile::{
        address,
        crowd::{self, Account},
        honest,
        rtmp::RELAY_NAME,
    },
};
use ring::rand::SystemRandom;
use tokio::{
    task::JoinSet,
    time::{self, Instant},
};

/// A thousand slow handshakes at every moment, 200 connections a second of garbage, 50 peers of nested values: the honest
/// publisher loses nothing, and is no later than twice what it is without them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::print_stderr, reason = "the figures of the run")]
async fn a_minute_of_a_thousand_strangers_costs_an_honest_publisher_nothing() -> anyhow::Result<()>
{
    let show = Show::start()?;
    let rtmp = show.relay().address("rtmp")?;
    let token = JoinToken::parse(&show.invite("truck1", &[])?)?;
    let mut studio = Studio::join(&token).await?;
    let key = StreamKey::generate(&SystemRandom::new());
    studio.declare(std::slice::from_ref(&key), 600).await?;
    let arrivals = Arc::new(Arrivals::default());
    let mut background = JoinSet::new();
    background.spawn(studio.count(Arc::clone(&arrivals)));

    let control = honest::publish(rtmp, "truck1", &key, &arrivals, MINUTE).await?;
    let memory_before = show.relay().peak_memory()?;
    let seconds = (MINUTE.as_secs() + 2).to_string();
    let strangers = Command::new("nice")
        .args(["-n", "19"])
        .arg(executable("strangers")?)
        .args([rtmp.to_string(), seconds])
        .stdout(Stdio::piped())
        .spawn()
        .context("nice strangers")?;
    let attacked = honest::publish(rtmp, "truck1", &key, &arrivals, MINUTE).await?;
    let grown = show.relay().peak_memory()? - memory_before;
    let told = tokio::task::spawn_blocking(|| strangers.wait_with_output()).await??;
    let account: Account = serde_json::from_slice(&told.stdout)?;

    let metrics = http_get(show.relay().address("http")?, "/metrics")?;
    let refusals: Vec<_> = metrics
        .lines()
        .filter(|line| line.contains("_refusals_total{") && !line.ends_with(" 0"))
        .collect();
    let log = show.relay().log()?;
    eprintln!(
        "control {control:?}\nattacked {attacked:?}\npeak memory +{grown} bytes\n{account:?}\n{refusals:#?}"
    );
    for honest in [&control, &attacked] {
        assert_eq!(honest.arrived, honest.sent, "{honest:?}");
    }
    assert!(grown <= 64 * MIB, "{grown} bytes, from {memory_before}");
    let (with, without) = (attacked.delay_ms.p99, control.delay_ms.p99);
    assert!(with <= 2.0 * without, "p99 {with} ms, {without} ms alone");
    assert!(!log.contains("panicked"), "{log}");
    // Each kind of refusal at most once a second.
    let lines = log.lines().filter(|line| line.contains("was turned away"));
    let limit = usize::try_from(MINUTE.as_secs() + 10)? * refusals.len();
    assert!(lines.count() <= limit, "a flood of log lines");
    ensure!(account.slow >= 1_000, "{account:?}");
    ensure!(account.garbage >= 195 * MINUTE.as_secs(), "{account:?}");
    ensure!(account.nested >= 1_000, "{account:?}");
    Ok(())
}

/// Whatever a peer without a key sends, it costs the relay less than 64 KiB: by the peak of its memory over a thousand.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_peers_without_a_key_cost_less_than_64_kib_each() -> anyhow::Result<()> {
    a_thousand_are_bounded("rtmp", None).await
}

/// The same inside TLS, whose own buffers count.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_peers_without_a_key_cost_less_than_64_kib_each_inside_tls() -> anyhow::Result<()>
{
    let folder = tempfile::tempdir()?;
    let authority = Authority::make(folder.path(), &[RELAY_NAME])?;
    a_thousand_are_bounded("rtmps", Some(&authority)).await
}

#[expect(clippy::print_stderr, reason = "the figures of the run")]
async fn a_thousand_are_bounded(
    listener: &str,
    authority: Option<&Authority>,
) -> anyhow::Result<()> {
    let mut settings = vec![("FIRSTMILE_RELAY__LIMITS__HANDSHAKE_TIMEOUT", "60s")];
    if let Some(Authority {
        certificate, key, ..
    }) = authority
    {
        settings.extend([
            ("FIRSTMILE_RELAY__RTMPS__LISTEN", "127.0.0.1:0"),
            (
                "FIRSTMILE_RELAY__RTMPS__CERTIFICATE",
                certificate.to_str().context("a path")?,
            ),
            (
                "FIRSTMILE_RELAY__RTMPS__KEY",
                key.to_str().context("a path")?,
            ),
        ]);
    }
    let show = Show::start_set(&settings)?;
    let door = show.relay().address(listener)?;
    let tls = authority.map(Authority::trusting).transpose()?;
    let tls = tls.as_ref();
    // What the program needs once, for the first few.
    let warm = crowd::greedy(door, tls, 20, GREEDY).await?;
    settle(&show, listener, 20).await?;
    drop(warm);
    settle(&show, listener, 0).await?;
    let before = show.relay().peak_memory()?;
    let open = crowd::greedy(door, tls, PEERS, GREEDY).await?;
    settle(&show, listener, PEERS).await?;
    let each = (show.relay().peak_memory()? - before) / u64::from(PEERS);
    eprintln!("{listener}: {each} bytes for each of {PEERS} peers, from a peak of {before}");
    assert!(each <= 64 * 1024, "{each} bytes");
    drop(open);
    // An encoder finds a place beside them.
    SyntheticEncoder::connect_from(address(9), show.relay().address("rtmp")?).await?;
    Ok(())
}

/// Until the relay has so many connections, and has had time to read what they sent.
async fn settle(show: &Show, listener: &str, connections: u16) -> anyhow::Result<()> {
    let wanted = format!("connections{{listener=\"{listener}\"}} {connections}\n");
    let deadline = Instant::now() + Duration::from_secs(20);
    while !http_get(show.relay().address("http")?, "/metrics")?.contains(&wanted) {
        ensure!(Instant::now() < deadline, "not {connections} connections");
        time::sleep(Duration::from_millis(100)).await;
    }
    time::sleep(Duration::from_secs(2)).await;
    Ok(())
}

const MINUTE: Duration = Duration::from_mins(1);
const PEERS: u16 = 1_000;

/// All that may be sent without a key, besides the handshake.
const GREEDY: usize = 29 * 1024;

const MIB: u64 = 1024 * 1024;

//! `make bench-tunnel`: what it costs the relay to send each access unit on a stream of its own, and how late units come,
//! at 1, 4 and 50 feeds, beside two floors of the same run: a bare QUIC hop with one stream for a feed, and one with a
//! stream for each unit. Rounds are interleaved; the table holds medians and their ratios to the first floor.

use std::{
    collections::BTreeMap,
    io::{self, BufRead, BufReader, Write},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use clap::Parser;
use firstmile_shared::{secret::StreamKey, token::JoinToken};
use firstmile_tests::{
    bench::{
        feed::Way,
        hop::{self, Addresses, Mode},
        meter::{Arrivals, Sample, cpu_seconds, median},
        studio::Studio,
    },
    harness::Show,
};
use ring::rand::SystemRandom;
use tokio::{
    task::{self, JoinSet},
    time::{self, Instant},
};

/// Measures stream-per-unit against its floors.
#[derive(Debug, Parser)]
#[command(name = "bench-tunnel")]
struct Arguments {
    /// How many feeds at once.
    #[arg(long, value_delimiter = ',', default_value = "1,4,50")]
    feeds: Vec<usize>,
    /// Rounds of each kind; the median is shown.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds measured in a round, after three of warm-up.
    #[arg(long, default_value_t = 6)]
    seconds: u64,
    /// Only serve as a floor (used by the bench itself, so that a hop's processor time is its own).
    #[arg(long, hide = true)]
    serve: Option<Mode>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    if let Some(mode) = arguments.serve {
        return hop::serve(mode, |addresses| {
            let line = serde_json::to_string(addresses).unwrap_or_default();
            // Nobody to tell when the bench is gone.
            let _ = writeln!(io::stdout(), "{line}");
        })
        .await;
    }
    let mut samples: BTreeMap<(usize, Kind), Vec<Sample>> = BTreeMap::new();
    for round in 1..=arguments.rounds {
        for feeds in &arguments.feeds {
            for kind in Kind::ALL {
                let sample = kind.measure(*feeds, arguments.seconds).await?;
                writeln!(
                    io::stderr(),
                    "round {round}: {feeds} feeds, {}: {}",
                    kind.name(),
                    serde_json::to_string(&sample)?
                )?;
                samples.entry((*feeds, kind)).or_default().push(sample);
            }
        }
    }
    print_table(&samples)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    OneStream,
    StreamPerUnit,
    Relay,
}

impl Kind {
    const ALL: [Self; 3] = [Self::OneStream, Self::StreamPerUnit, Self::Relay];

    const fn name(self) -> &'static str {
        match self {
            Self::OneStream => "bare hop, one stream per feed",
            Self::StreamPerUnit => "bare hop, one stream per unit",
            Self::Relay => "the relay, RTMP in",
        }
    }

    async fn measure(self, feeds: usize, seconds: u64) -> anyhow::Result<Sample> {
        match self {
            Self::OneStream => measure_floor(Mode::OneStream, feeds, seconds).await,
            Self::StreamPerUnit => measure_floor(Mode::StreamPerUnit, feeds, seconds).await,
            Self::Relay => measure_relay(feeds, seconds).await,
        }
    }
}

async fn measure_floor(mode: Mode, feeds: usize, seconds: u64) -> anyhow::Result<Sample> {
    let (hop, addresses) = Hop::start(mode)?;
    let arrivals = Arc::new(Arrivals::default());
    let connection = hop::dial(&addresses).await?;
    let mut far_end = JoinSet::new();
    far_end.spawn(hop::count(mode, connection.clone(), Arc::clone(&arrivals)));
    let mut ways = Vec::new();
    for _ in 0..feeds {
        ways.push(Way::plain(addresses.tcp).await?);
    }
    let sample = window(hop.child.id(), ways, &arrivals, seconds).await?;
    connection.close(0_u32.into(), b"measured");
    far_end.shutdown().await;
    Ok(sample)
}

async fn measure_relay(feeds: usize, seconds: u64) -> anyhow::Result<Sample> {
    let (show, token) = task::block_in_place(|| {
        let show = Show::start()?;
        let token = JoinToken::parse(&show.invite(STUDIO, &[])?)?;
        anyhow::Ok((show, token))
    })?;
    let random = SystemRandom::new();
    let keys: Vec<_> = (0..feeds).map(|_| StreamKey::generate(&random)).collect();
    let mut studio = Studio::join(&token).await?;
    studio.declare(&keys, DELAY_MS).await?;
    let connection = studio.connection().clone();
    let arrivals = Arc::new(Arrivals::default());
    let mut far_end = JoinSet::new();
    far_end.spawn(studio.count(Arc::clone(&arrivals)));
    let to = show.relay().address("rtmp")?;
    let mut ways = Vec::new();
    for key in &keys {
        ways.push(Way::rtmp(to, STUDIO, key.expose()).await?);
    }
    let pid = show.relay().pid().context("the relay runs")?;
    let sample = window(pid, ways, &arrivals, seconds).await?;
    connection.close(0_u32.into(), b"measured");
    far_end.shutdown().await;
    task::block_in_place(|| drop(show));
    Ok(sample)
}

/// Starts the feeds, their keyframes spread evenly over two seconds, warms up and measures.
async fn window(
    pid: u32,
    ways: Vec<Way>,
    arrivals: &Arrivals,
    seconds: u64,
) -> anyhow::Result<Sample> {
    let step = GOP / u32::try_from(ways.len())?;
    let start = Instant::now();
    let mut feeds = JoinSet::new();
    for (index, way) in (0..).zip(ways) {
        feeds.spawn(way.push(start + step * index));
    }
    // The length of the measurement is its point: nothing is waited for.
    time::sleep(GOP + WARM_UP).await;
    let cpu_before = cpu_seconds(pid)?;
    arrivals.open();
    time::sleep(Duration::from_secs(seconds)).await;
    let (units, gigabits, delay_ms) = arrivals.close();
    let cpu = cpu_seconds(pid)? - cpu_before;
    if let Some(ended) = feeds.try_join_next() {
        ended?.context("a feed ended early")?;
    }
    feeds.shutdown().await;
    Ok(Sample {
        units,
        cpu_s_per_gbit: cpu / gigabits,
        delay_ms: delay_ms.context("nothing arrived")?,
    })
}

/// A floor in a process of its own, ended with its owner.
struct Hop {
    child: Child,
}

impl Hop {
    fn start(mode: Mode) -> anyhow::Result<(Self, Addresses)> {
        let mode = match mode {
            Mode::OneStream => "one-stream",
            Mode::StreamPerUnit => "stream-per-unit",
        };
        let child = Command::new(std::env::current_exe()?)
            .args(["--serve", mode])
            .stdout(Stdio::piped())
            .spawn()?;
        let mut hop = Self { child };
        let stdout = hop.child.stdout.take().context("the hop has an output")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        Ok((hop, serde_json::from_str(&line)?))
    }
}

impl Drop for Hop {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn print_table(samples: &BTreeMap<(usize, Kind), Vec<Sample>>) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "| feeds | hop | CPU s/Gbit | to one stream | delay p50 ms | p99 ms | max ms |\n|---|---|---|---|---|---|---|"
    )?;
    for ((feeds, kind), rounds) in samples {
        let middle =
            |of: fn(&Sample) -> f64| median(rounds.iter().map(of).collect()).unwrap_or(0.0);
        let floor = samples
            .get(&(*feeds, Kind::OneStream))
            .and_then(|rounds| median(rounds.iter().map(|sample| sample.cpu_s_per_gbit).collect()))
            .unwrap_or(f64::NAN);
        let cpu = middle(|sample| sample.cpu_s_per_gbit);
        writeln!(
            out,
            "| {feeds} | {} | {cpu:.3} | {:.2} | {:.2} | {:.1} | {:.1} |",
            kind.name(),
            cpu / floor,
            middle(|sample| sample.delay_ms.p50),
            middle(|sample| sample.delay_ms.p99),
            middle(|sample| sample.delay_ms.max),
        )?;
    }
    Ok(())
}

const STUDIO: &str = "bench";
/// The studio delay that the lines declare, milliseconds: the connector's default.
const DELAY_MS: u32 = 600;
/// From one keyframe of a feed to its next.
const GOP: Duration = Duration::from_secs(2);
const WARM_UP: Duration = Duration::from_secs(1);

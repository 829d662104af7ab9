//! `make bench-tunnel`: what it costs the relay to send each access unit on a stream of its own, and how late units come,
//! at 1, 4 and 50 feeds, beside two floors of the same run: a bare QUIC hop with one stream for a feed, and one with a
//! stream for each unit. Rounds are interleaved; the table holds medians and their ratios to the first floor.

use std::{
    collections::BTreeMap,
    io::{self, BufRead, BufReader, Write},
    net::SocketAddr,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use clap::Parser;
use firstmile_tests::bench::{
    feed,
    hop::{self, Addresses, Mode},
    meter::{Arrivals, Sample, cpu_seconds, median, now_us},
};
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    task::JoinSet,
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
    /// Seconds measured in a round, after two of warm-up.
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
}

impl Kind {
    const ALL: [Self; 2] = [Self::OneStream, Self::StreamPerUnit];

    const fn name(self) -> &'static str {
        match self {
            Self::OneStream => "bare hop, one stream per feed",
            Self::StreamPerUnit => "bare hop, one stream per unit",
        }
    }

    async fn measure(self, feeds: usize, seconds: u64) -> anyhow::Result<Sample> {
        match self {
            Self::OneStream => measure_floor(Mode::OneStream, feeds, seconds).await,
            Self::StreamPerUnit => measure_floor(Mode::StreamPerUnit, feeds, seconds).await,
        }
    }
}

async fn measure_floor(mode: Mode, feeds: usize, seconds: u64) -> anyhow::Result<Sample> {
    let (hop, addresses) = Hop::start(mode)?;
    let arrivals = Arc::new(Arrivals::default());
    let connection = hop::dial(&addresses).await?;
    let mut far_end = JoinSet::new();
    far_end.spawn(hop::count(mode, connection.clone(), Arc::clone(&arrivals)));
    let mut feeders = JoinSet::new();
    for index in 0..feeds {
        feeders.spawn(push(addresses.tcp, index, feeds));
    }
    let sample = window(hop.child.id(), &arrivals, seconds).await?;
    if let Some(ended) = feeders.try_join_next() {
        ended?.context("a feed ended early")?;
    }
    feeders.shutdown().await;
    connection.close(0_u32.into(), b"measured");
    far_end.shutdown().await;
    Ok(sample)
}

/// Warms up, then measures.
async fn window(pid: u32, arrivals: &Arrivals, seconds: u64) -> anyhow::Result<Sample> {
    // The length of the measurement is its point: nothing is waited for.
    time::sleep(WARM_UP).await;
    let cpu_before = cpu_seconds(pid)?;
    arrivals.open();
    time::sleep(Duration::from_secs(seconds)).await;
    let (units, gigabits, delay_ms) = arrivals.close();
    let cpu = cpu_seconds(pid)? - cpu_before;
    Ok(Sample {
        units,
        cpu_s_per_gbit: cpu / gigabits,
        delay_ms: delay_ms.context("nothing arrived")?,
    })
}

/// One feed into a floor, in real time, with its start spread over one picture's time.
async fn push(to: SocketAddr, index: usize, feeds: usize) -> anyhow::Result<()> {
    let mut socket = TcpStream::connect(to).await?;
    socket.set_nodelay(true)?;
    let picture = Duration::from_secs(1) / feed::FPS;
    let sound = Duration::from_secs_f64(1.0 / feed::AAC_FRAMES_PER_SECOND);
    let start = Instant::now() + picture * u32::try_from(index)? / u32::try_from(feeds)?;
    let mut pictures = time::interval_at(start, picture);
    let mut sounds = time::interval_at(start, sound);
    // Keyframes of many encoders do not fall together.
    let mut number = u32::try_from(index)? * 7;
    loop {
        let len = tokio::select! {
            _ = pictures.tick() => {
                number += 1;
                feed::picture_len(number)
            }
            _ = sounds.tick() => feed::AAC_LEN,
        };
        let payload = feed::payload(len, now_us());
        socket.write_u32(u32::try_from(payload.len())?).await?;
        socket.write_all(&payload).await?;
    }
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

const WARM_UP: Duration = Duration::from_secs(2);

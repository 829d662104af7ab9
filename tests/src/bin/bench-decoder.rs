//! `make bench-decoder`: what a decoder in a process of its own costs beside one in the line's thread, on real H.264 in real
//! time. Rounds are interleaved; the table holds medians.
//!
//! Everything is counted that differs: both processes, the socket, the copy out of shared memory, the wake-ups. Not counted is
//! what comes after, as it is the same: NDI.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use bytes::{Buf, Bytes};
use clap::Parser;
use firstmile_connector::{
    decode::{CodedUnit, Decoded, Decoder, FfmpegDecoder, PIXELS_MAX, ProcessDecoder, process},
    os::HelperProgram,
};
use firstmile_relay::rtmp::flv::{self, Packet};
use firstmile_shared::media::{Codec, MediaKind};
use firstmile_tests::{
    bench::meter::{cpu_seconds, median},
    watch::Spread,
};

/// Measures a decoder in a process against one in a thread.
#[derive(Debug, Parser)]
#[command(name = "bench-decoder")]
struct Arguments {
    /// Pictures' width and height.
    #[arg(long, default_value = "1920x1080")]
    size: String,
    /// Pictures a second.
    #[arg(long, default_value_t = 60)]
    fps: u32,
    /// Bits a second of the picture.
    #[arg(long, default_value = "8M")]
    bitrate: String,
    /// B-pictures between references.
    #[arg(long, default_value_t = 0)]
    b_pictures: u32,
    /// Rounds of each kind; the median is shown.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds measured in a round, after one of warm-up.
    #[arg(long, default_value_t = 10)]
    seconds: u32,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let clip = Clip::make(&arguments)?;
    let mut samples: BTreeMap<Kind, Vec<Sample>> = BTreeMap::new();
    for round in 1..=arguments.rounds {
        for kind in [Kind::Thread, Kind::Process] {
            let sample = kind.measure(&clip, arguments.seconds)?;
            writeln!(io::stderr(), "round {round}: {kind:?}: {sample:?}")?;
            samples.entry(kind).or_default().push(sample);
        }
    }
    print_table(&samples)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Thread,
    Process,
}

/// One window of one decoder.
#[derive(Clone, Copy, Debug)]
struct Sample {
    /// Of one core.
    cpu_percent: f64,
    /// From a unit to its picture.
    decode_ms: Spread,
    /// Of the decoder's process.
    resident_mb: Option<f64>,
}

impl Kind {
    fn measure(self, clip: &Clip, seconds: u32) -> anyhow::Result<Sample> {
        Ok(match self {
            Self::Thread => {
                let mut decoder = FfmpegDecoder::new(PIXELS_MAX)?;
                let (cpu, decode_ms) = window(&mut decoder, |_| None, clip, seconds)?;
                Sample {
                    cpu_percent: cpu,
                    decode_ms,
                    resident_mb: None,
                }
            }
            Self::Process => {
                let mut decoder = ProcessDecoder::new(program()?, PIXELS_MAX);
                let (cpu, decode_ms) =
                    window(&mut decoder, ProcessDecoder::process_id, clip, seconds)?;
                let pid = decoder.process_id().context("the decoder runs")?;
                Sample {
                    cpu_percent: cpu,
                    decode_ms,
                    resident_mb: Some(resident_mb(pid)?),
                }
            }
        })
    }
}

/// The connector that was built beside this.
fn program() -> anyhow::Result<HelperProgram> {
    let own = std::env::current_exe()?;
    let mut program = process::this_program("firstmile-connector");
    program.path = own.with_file_name("firstmile-connector");
    program.arguments.push("bench".into());
    Ok(program)
}

/// Decodes in real time: the share of a core, and how long each unit of video took.
fn window<D: Decoder>(
    decoder: &mut D,
    process_id: impl Fn(&D) -> Option<u32>,
    clip: &Clip,
    seconds: u32,
) -> anyhow::Result<(f64, Spread)> {
    let used = |decoder: &D| -> anyhow::Result<f64> {
        let own = cpu_seconds(std::process::id())?;
        let other = process_id(decoder).map_or(Ok(0.0), cpu_seconds)?;
        Ok(own + other)
    };
    let (mut out, mut took_ms, mut pictures) = (Vec::new(), Vec::new(), 0_u32);
    let start = Instant::now();
    let mut since = None;
    for pass in 0.. {
        for (at, unit) in clip.units(pass) {
            let elapsed = start.elapsed();
            if since.is_none() && elapsed >= WARM_UP {
                since = Some((Instant::now(), used(decoder)?));
            }
            if elapsed >= WARM_UP + Duration::from_secs(seconds.into()) {
                let (from, before) = since.context("it warmed up")?;
                let cpu = (used(decoder)? - before) / from.elapsed().as_secs_f64() * 100.0;
                if pictures < clip.fps * seconds * 9 / 10 {
                    bail!("only {pictures} pictures: this computer does not keep up");
                }
                return Ok((cpu, Spread::of(took_ms).context("nothing was decoded")?));
            }
            thread::sleep(at.saturating_sub(elapsed));
            let begun = Instant::now();
            decoder.decode(&unit, &mut out)?;
            if since.is_some() && unit.codec == Codec::H264 {
                took_ms.push(begun.elapsed().as_secs_f64() * 1000.0);
            }
            let seen = out
                .drain(..)
                .filter(|out| matches!(out, Decoded::Picture(_)));
            pictures += u32::try_from(seen.count())?;
        }
    }
    bail!("the clip is empty")
}

fn resident_mb(pid: u32) -> anyhow::Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let kb: f64 = (line.and_then(|line| line.split_whitespace().next()))
        .context("RssAnon")?
        .parse()?;
    Ok(kb / 1024.0)
}

fn print_table(samples: &BTreeMap<Kind, Vec<Sample>>) -> anyhow::Result<()> {
    let middle = |kind: Kind, of: fn(&Sample) -> f64| {
        let rounds = samples.get(&kind).map(Vec::as_slice).unwrap_or_default();
        median(rounds.iter().map(of).collect()).unwrap_or(f64::NAN)
    };
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "| decoder | % of a core | unit → picture p50 ms | p99 ms | max ms |\n|---|---|---|---|---|"
    )?;
    for (kind, name) in [
        (Kind::Thread, "in a thread"),
        (Kind::Process, "in a process"),
    ] {
        writeln!(
            out,
            "| {name} | {:.1} | {:.2} | {:.1} | {:.1} |",
            middle(kind, |sample| sample.cpu_percent),
            middle(kind, |sample| sample.decode_ms.p50),
            middle(kind, |sample| sample.decode_ms.p99),
            middle(kind, |sample| sample.decode_ms.max),
        )?;
    }
    let (thread, process) = (
        middle(Kind::Thread, |sample| sample.cpu_percent),
        middle(Kind::Process, |sample| sample.cpu_percent),
    );
    writeln!(
        out,
        "\nA process costs {:.1} % of a core more ({:.2} times a thread's) and {:.0} MB of its own.",
        process - thread,
        process / thread,
        middle(Kind::Process, |sample| sample
            .resident_mb
            .unwrap_or(f64::NAN)),
    )?;
    Ok(())
}

/// Coded pictures and sound of some seconds, played again and again.
struct Clip {
    units: Vec<(i64, CodedUnit)>,
    length_us: i64,
    fps: u32,
}

impl Clip {
    /// By `ffmpeg`: moving test pictures with noise, as hard to decode as a real scene.
    fn make(arguments: &Arguments) -> anyhow::Result<Self> {
        let Arguments { size, fps, .. } = arguments;
        let picture = format!(
            "testsrc2=size={size}:rate={fps}:duration={CLIP_SECONDS},noise=alls=12:allf=t,format=yuv420p"
        );
        let sound = format!("sine=frequency=440:sample_rate=48000:duration={CLIP_SECONDS}");
        let output = Command::new("ffmpeg")
            .args(["-hide_banner", "-loglevel", "error", "-nostdin"])
            .args(["-f", "lavfi", "-i", &picture, "-f", "lavfi", "-i", &sound])
            .args(["-c:v", "libx264", "-preset", "veryfast"])
            .args(["-bf", &arguments.b_pictures.to_string()])
            .args(["-b:v", &arguments.bitrate, "-maxrate", &arguments.bitrate])
            .args(["-bufsize", &arguments.bitrate, "-g", &(2 * fps).to_string()])
            .args(["-c:a", "aac", "-b:a", "128k", "-ac", "2"])
            .args(["-f", "flv", "-flvflags", "no_duration_filesize", "pipe:1"])
            .output()
            .context("ffmpeg")?;
        if !output.status.success() {
            bail!("ffmpeg: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(Self {
            units: units(output.stdout.into())?,
            length_us: i64::from(CLIP_SECONDS) * 1_000_000,
            fps: *fps,
        })
    }

    /// When each is due, since the start, in the pass of this number.
    fn units(&self, pass: i64) -> impl Iterator<Item = (Duration, CodedUnit)> + '_ {
        let offset_us = pass * self.length_us;
        self.units.iter().map(move |(at_us, unit)| {
            let mut unit = unit.clone();
            unit.pts_us += offset_us;
            let at_us = u64::try_from(at_us + offset_us).unwrap_or(0);
            (Duration::from_micros(at_us), unit)
        })
    }
}

/// Cuts what ffmpeg wrote: (decode time, unit).
fn units(mut file: Bytes) -> anyhow::Result<Vec<(i64, CodedUnit)>> {
    file.advance(FILE_HEADER_LEN);
    let (mut video_config, mut audio_config) = (None, None);
    let mut units = Vec::new();
    while file.len() > TAG_HEADER_LEN {
        let kind = file.get_u8();
        let len = usize::try_from(file.get_uint(3))?;
        let low = file.get_uint(3);
        let at_us = i64::try_from((u64::from(file.get_u8()) << 24) | low)? * 1_000;
        file.advance(3);
        let body = file.split_to(len);
        file.advance(PREVIOUS_TAG_LEN);
        let unit = |codec, config: Option<Bytes>, payload, offset_us| CodedUnit {
            codec,
            config,
            payload,
            pts_us: at_us + offset_us,
        };
        let parts = match kind {
            TAG_VIDEO => flv::video(&body),
            TAG_AUDIO => flv::audio(&body),
            _ => continue,
        };
        for part in parts {
            match part.packet {
                Packet::Config { codec, record } if codec.kind() == MediaKind::Video => {
                    video_config = Some(record);
                }
                Packet::Config { record, .. } => audio_config = Some(record),
                Packet::Picture {
                    codec,
                    keyframe,
                    composition_ms,
                    data,
                    ..
                } => {
                    let config = video_config.clone().filter(|_| keyframe);
                    let offset_us = i64::from(composition_ms) * 1_000;
                    units.push((at_us, unit(codec, config, data, offset_us)));
                }
                Packet::Sound {
                    codec: Some(codec),
                    data,
                } => units.push((at_us, unit(codec, audio_config.clone(), data, 0))),
                _ => {}
            }
        }
    }
    if units.is_empty() {
        bail!("ffmpeg wrote nothing");
    }
    Ok(units)
}

/// Six seconds are long enough to repeat, and soon encoded.
const CLIP_SECONDS: u32 = 6;
const WARM_UP: Duration = Duration::from_secs(1);

const FILE_HEADER_LEN: usize = 9 + PREVIOUS_TAG_LEN;
const TAG_HEADER_LEN: usize = 11;
const PREVIOUS_TAG_LEN: usize = 4;
const TAG_AUDIO: u8 = 8;
const TAG_VIDEO: u8 = 9;

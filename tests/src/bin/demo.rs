//! `make demo`: a whole show on this machine, with nothing kept: a relay, a connector that joins it, one line, and a
//! camera (a moving picture with a clock, and a tone) that a real `ffmpeg` pushes. Says in plain words what happens.
//!
//! With `--seconds` it ends by itself with figures; exit code 1 when the main job did not work. It runs in a private
//! network namespace (`tests/netns.sh`), so its NDI source is seen by nothing else.

use std::{
    io::{self, Write},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use clap::Parser;
use firstmile_tests::{
    harness::{
        Connector, Encoder, EncoderSettings, LineAddress, Need, OutputKind, PATIENCE, Show, can_run,
    },
    viewer::Viewer,
    watch::{Report, SourceReport},
};
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};

/// Shows the main job on this machine.
#[derive(Debug, Parser)]
#[command(name = "demo")]
struct Arguments {
    /// Ends by itself after so many seconds of pictures, with figures.
    #[arg(long, value_parser = clap::value_parser!(u32).range(3..))]
    seconds: Option<u32>,
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    if !can_run(&[Need::Ffmpeg]) {
        return Ok(ExitCode::FAILURE);
    }
    let with_ndi = can_run(&[Need::Ndi]);
    let interrupted = interruption()?;
    say("Firstmile, all of it on this machine and nothing kept.\n")?;
    let show = Show::start()?;
    let worked = Demo::start(&show, with_ndi).and_then(|demo| match arguments.seconds {
        Some(seconds) => demo.measure(seconds, &interrupted),
        None => demo.run_on(&interrupted),
    });
    match worked {
        _ if arguments.seconds.is_none() && interrupted.load(Ordering::Relaxed) => {
            say("ended")?;
            Ok(ExitCode::SUCCESS)
        }
        Ok(true) => Ok(ExitCode::SUCCESS),
        Ok(false) => {
            say(&format!("The main job did NOT work.\n\n{}", show.logs()?))?;
            Ok(ExitCode::FAILURE)
        }
        Err(error) => {
            say(&format!(
                "The main job did NOT work: {error}\n\n{}",
                show.logs()?
            ))?;
            Ok(ExitCode::FAILURE)
        }
    }
}

/// Everything that runs, in the order in which it ends.
struct Demo {
    encoder: Encoder,
    viewer: Option<Viewer>,
    studio: Connector,
    line: LineAddress,
}

impl Demo {
    fn start(show: &Show, with_ndi: bool) -> anyhow::Result<Self> {
        say(&format!(
            "vps$     firstmile-relay\n         takes RTMP on {}, connectors dial {} (UDP)",
            show.relay().address("rtmp")?,
            show.relay().address("tunnel")?,
        ))?;
        let token = show.invite("truck1", &[])?;
        say(&format!(
            "vps$     firstmile-relay invite truck1\n         {}… (one use, 24 hours)",
            token.get(..16).unwrap_or_default(),
        ))?;

        let output = if with_ndi {
            OutputKind::Ndi
        } else {
            OutputKind::Null
        };
        let studio = show.connector("studio", output)?;
        say(&format!(
            "studio$  firstmile-connector\n         its page is http://{}/",
            studio.program().address("http")?,
        ))?;
        studio.join(&token)?.success()?;
        studio.wait_connected()?;
        say(
            "studio$  firstmile-connector join\n         joined: it dialled out, nobody had to open a port",
        )?;
        let line = show.add_line("truck1", &studio, LINE, None)?;
        say(&format!(
            "studio$  firstmile-connector line add \"{LINE}\"\n         url: {}",
            line.url
        ))?;
        let viewer = if with_ndi {
            let viewer = Viewer::find(LINE, Instant::now() + PATIENCE)?;
            say(&format!(
                "         NDI® source \"{}\" is there",
                viewer.source().name
            ))?;
            viewer.wait_for("a first picture", Instant::now() + PATIENCE, |seen| {
                seen.pictures > 0
            })?;
            Some(viewer)
        } else {
            say(
                "         no NDI® runtime (https://ndi.video): pictures are decoded and counted only",
            )?;
            None
        };
        let encoder = Encoder::start(
            show.folder(),
            "camera",
            &line.url,
            &EncoderSettings::default(),
        )?;
        say(
            "field$   ffmpeg … -f flv URL\n         720p30 H.264 and AAC: a moving picture with a clock, a tone each second\n",
        )?;
        studio.wait_line(LINE, "live")?;
        Ok(Self {
            encoder,
            viewer,
            studio,
            line,
        })
    }

    /// Until interrupted: one line a second.
    fn run_on(mut self, interrupted: &AtomicBool) -> anyhow::Result<bool> {
        say(&format!(
            "LIVE. What to do next:
  - open the connector's page in this network namespace, from another terminal:
      sudo nsenter -t {pid} -n curl http://{page}/
  - for a real show: `make release`, then README.md, \"Five minutes to a picture\"
  - any encoder could push to {url}
Ctrl-C ends everything.\n",
            pid = std::process::id(),
            page = self.studio.program().address("http")?,
            url = self.line.url,
        ))?;
        loop {
            let ended = self.encoder.wait(Duration::from_secs(1)).is_ok();
            if ended || interrupted.load(Ordering::Relaxed) {
                return Ok(false);
            }
            say(&one_line(&self.studio.line(LINE)?, self.report().as_ref()))?;
        }
    }

    /// For `seconds`, then figures.
    fn measure(mut self, seconds: u32, interrupted: &AtomicBool) -> anyhow::Result<bool> {
        say(&format!("LIVE, for {seconds} seconds:"))?;
        let end = Instant::now() + Duration::from_secs(seconds.into());
        while Instant::now() < end && !interrupted.load(Ordering::Relaxed) {
            say(&one_line(&self.studio.line(LINE)?, self.report().as_ref()))?;
            // The show is the work here: it is watched for as long as was asked for.
            thread::sleep(Duration::from_secs(1).min(end - Instant::now().min(end)));
        }
        let line = self.studio.line(LINE)?;
        let report = self.report();
        let encoder_ended = self.encoder.wait(Duration::ZERO).is_ok();
        let summary = Summary::of(&line, report.as_ref(), seconds);
        say(&format!("\n{}", summary.lines.join("\n")))?;
        let worked = summary.worked && !encoder_ended;
        if worked {
            say("The main job works.")?;
        }
        Ok(worked)
    }

    fn report(&self) -> Option<Report> {
        self.viewer.as_ref().map(Viewer::report)
    }
}

/// The state of the line, now.
fn one_line(line: &Value, report: Option<&Report>) -> String {
    let video = &line["video"];
    let studio = format!(
        "  {:<8} {} units, {} late, {} dropped",
        line["state"].as_str().unwrap_or("?"),
        video["units_total"],
        video["late_total"],
        video["dropped_total"],
    );
    let seen = report.and_then(|report| report.sources.values().next());
    match seen.and_then(|seen| Some((seen, seen.delay_ms?))) {
        Some((seen, delay)) => format!(
            "{studio}; NDI: {} pictures, {} missing, delay {:.0} ms",
            seen.pictures, seen.missing, delay.p50
        ),
        None => studio,
    }
}

/// The figures at the end, and the verdict.
struct Summary {
    lines: Vec<String>,
    worked: bool,
}

impl Summary {
    fn of(line: &Value, report: Option<&Report>, seconds: u32) -> Self {
        let video = &line["video"];
        let count = |name: &str| video[name].as_u64().unwrap_or(0);
        let (units, dropped) = (count("units_total"), count("dropped_total"));
        // Half of what a 30 fps camera makes: generous, so that a busy machine is not called broken.
        let enough = u64::from(seconds) * 30 / 2;
        let mut summary = Self {
            lines: vec![
                format!(
                    "units      {units} video, {} audio",
                    line["audio"]["units_total"]
                ),
                format!("late       {}", count("late_total")),
                format!(
                    "dropped    {dropped} by policy, {} lost by the network",
                    count("lost_total")
                ),
            ],
            worked: line["state"] == "live" && units >= enough && dropped == 0,
        };
        if let Some(report) = report {
            summary.add_received(report, enough, &line["delay_ms"]);
        }
        summary
    }

    fn add_received(&mut self, report: &Report, enough: u64, studio_delay: &Value) {
        let nothing = SourceReport::default();
        let seen = report.sources.values().next().unwrap_or(&nothing);
        self.lines.push(format!(
            "pictures   {} received from NDI, {} missing, {} out of order, {} damaged",
            seen.pictures, seen.missing, seen.backwards, report.damaged
        ));
        if let (Some(delay), Some(gap)) = (seen.delay_ms, seen.gap_ms) {
            self.lines.push(format!(
                "delay      p50 {:.0} ms, p99 {:.0} ms from camera to NDI receiver; {studio_delay} ms of it are the studio delay",
                delay.p50, delay.p99
            ));
            self.lines.push(format!(
                "gaps       p50 {:.1} ms, p95 {:.1} ms",
                gap.p50, gap.p95
            ));
        }
        if let Some(offset) = seen.av_offset_ms {
            self.lines.push(format!(
                "A/V offset {offset:+.0} ms at the receiver (+: sound later)"
            ));
        }
        self.worked &= u64::from(seen.pictures) >= enough
            && seen.backwards == 0
            && report.drops == 0
            && seen.av_offset_ms.is_some();
    }
}

/// Set when somebody wants the demo to end; then everything that runs ends in order and the folder goes.
fn interruption() -> anyhow::Result<Arc<AtomicBool>> {
    let interrupted = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&interrupted);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut terminate = {
        let _context = runtime.enter();
        signal(SignalKind::terminate())?
    };
    // Not joined: it waits for a signal until the process ends.
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = tokio::signal::ctrl_c() => {}
                    _ = terminate.recv() => {}
                }
            });
            flag.store(true, Ordering::Relaxed);
        })?;
    Ok(interrupted)
}

fn say(text: &str) -> io::Result<()> {
    writeln!(io::stdout(), "{text}")
}

const LINE: &str = "Camera 1";

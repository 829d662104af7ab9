//! The row with four cameras: a director who looks at all of them has one on program, then cuts to another.
//!
//! Tally is what NDI receivers say, so this row needs the NDI runtime: a process on the studio's host receives every line and
//! is told which one is on program (`lab --director`).

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};

use super::{
    Lab, RELAY,
    feed::Feed,
    row::{DELAY_MS, Figures, Row, WARM_UP_S},
    run::{DELAY_US, figures, sleep_until, warmed},
    score::ms,
    show::{LabShow, STUDIO, TAIL, arrivals, rtmp},
};
use crate::{
    encoder::SyntheticFeed,
    harness::{PATIENCE, executable},
    ndi::{Receiver, Runtime},
};

/// The row's cut comes this long after what is measured, seconds.
const AFTER_CUT_S: f64 = 4.0;

pub(super) fn run(row: &Row, lab: &Lab) -> anyhow::Result<Figures> {
    // Local sources are announced on `lo`.
    lab.studio.host.ip("link set lo multicast on")?;
    lab.studio.host.ip("route replace 224.0.0.0/4 dev lo")?;
    let mut show = LabShow::start_with_output(lab, 1, DELAY_MS, "ndi")?;
    let lines = show.add_lines(LINES)?;
    let mut director = Director::start(lab)?;
    director.cut_to(1)?;
    let measured = warmed(row.feed);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "4,000"
    )]
    let more_ms = (AFTER_CUT_S * 1_000.0) as u32;
    let mut feeds = Vec::new();
    let mut encoders = Vec::new();
    for (number, line) in (0..).zip(&lines) {
        let feed = Feed {
            units: SyntheticFeed {
                duration_ms: measured.units.duration_ms + more_ms,
                ..row.feed
            },
            // Keyframes don't fall together, as they don't in life.
            start_us: measured.start_us + number * 450_000,
        };
        encoders.push(feed.publish(&lab.encoder.host, rtmp(RELAY), STUDIO, &line.key)?);
        feeds.push(feed);
    }
    sleep_until(measured.end_us(), Duration::ZERO);
    let cut_us = firstmile_shared::clock::unix_now_us();
    director.cut_to(2)?;
    sleep_until(feeds[LINES - 1].end_us(), TAIL);
    let rows = show.units()?;
    drop(director);
    drop(show);
    for encoder in encoders {
        encoder.finish()??;
    }
    let figures_of = |line: usize| {
        let arrived = arrivals(&rows, &lines[line].name);
        let feed = Feed {
            units: SyntheticFeed {
                duration_ms: measured.units.duration_ms,
                ..row.feed
            },
            ..feeds[line]
        };
        figures(row, feed, &arrived, DELAY_US)
    };
    let program = figures_of(0);
    let mut all = Figures::new();
    for (name, value) in program {
        if name.starts_with("picture_") || name.starts_with("audio_") {
            all.insert(name, value);
        } else if name == "shown" {
            all.insert("program_shown".to_owned(), value);
        }
    }
    for line in 1..LINES {
        let shown = figures_of(line).remove("shown").flatten();
        all.insert(format!("camera_{}_shown", line + 1), shown);
    }
    let cut = feeds[1].take(WARM_UP_S, &arrivals(&rows, &lines[1].name));
    // A still picture may be an old one.
    let seen = cut.seen_again_us(cut_us, EVER_US).map(ms);
    all.insert("cut_ms".to_owned(), seen);
    Ok(all)
}

const LINES: usize = 4;
const EVER_US: i64 = i64::MAX / 4;

/// A process on the studio's host that has all lines before it.
struct Director {
    child: Child,
    says: Option<ChildStdin>,
}

impl Director {
    fn start(lab: &Lab) -> anyhow::Result<Self> {
        let mut child = lab
            .studio
            .host
            .command(executable("lab")?)
            .args(["--director", &LINES.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let says = child.stdin.take();
        let answers = child.stdout.take().context("the director's output")?;
        let director = Self { child, says };
        let (said, heard) = mpsc::channel();
        thread::spawn(move || {
            let mut line = String::new();
            let read = BufReader::new(answers).read_line(&mut line);
            // Nobody waits any more after a while.
            let _ = said.send(read.is_ok_and(|len| len > 0));
        });
        if !heard.recv_timeout(PATIENCE).unwrap_or(false) {
            bail!("no NDI source was seen: this row needs the NDI runtime");
        }
        Ok(director)
    }

    fn cut_to(&mut self, line: usize) -> anyhow::Result<()> {
        let says = self.says.as_mut().context("it runs")?;
        writeln!(says, "{line}")?;
        Ok(says.flush()?)
    }
}

impl Drop for Director {
    fn drop(&mut self) {
        // With its input it ends.
        drop(self.says.take());
        thread::sleep(Duration::from_millis(100));
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Receives `lines` lines, says so on standard output, and puts the one on program whose number comes on standard input.
///
/// # Errors
/// Without the NDI runtime, or when a line's source is not seen.
pub fn direct(lines: usize) -> anyhow::Result<()> {
    let runtime = Runtime::load()?;
    let deadline = Instant::now() + PATIENCE;
    let mut receivers: Vec<Receiver> = (1..=lines)
        .map(|number| runtime.receive(&runtime.find(&format!("(Camera {number})"), deadline)?))
        .collect::<anyhow::Result<_>>()?;
    writeln!(std::io::stdout(), "ready")?;
    let (says, said) = mpsc::channel();
    thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            // Whoever listened is gone.
            let _ = says.send(line.trim().parse::<usize>().unwrap_or(0));
        }
    });
    loop {
        match said.try_recv() {
            Ok(on_program) => {
                for (number, receiver) in (1..).zip(&mut receivers) {
                    receiver.set_tally(number == on_program, false);
                }
            }
            Err(mpsc::TryRecvError::Disconnected) => return Ok(()),
            Err(mpsc::TryRecvError::Empty) => {}
        }
        for receiver in &mut receivers {
            receiver.capture(Duration::from_millis(5), |_| ());
        }
    }
}

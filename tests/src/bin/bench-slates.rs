//! What sources without a picture cost: eight lines of one connector, with and without receivers, waiting and held.
//!
//! Prints one JSON line for each state: processor time of the connector and all its decoders in percent of one core, and
//! resident memory. The receivers are threads of this program and not counted.

use std::{
    fs,
    io::Write,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use firstmile_tests::{
    bench::meter,
    harness::{Encoder, EncoderSettings, Need, OutputKind, PATIENCE, Show, can_run},
    screen::{Says, Screen},
};
use serde_json::json;

const LINES: usize = 8;
const WINDOW: Duration = Duration::from_secs(20);

fn main() -> anyhow::Result<()> {
    if !can_run(&[Need::Ndi, Need::Ffmpeg]) {
        return Ok(());
    }
    let show = Show::start()?;
    let studio = show.joined("truck1", OutputKind::Ndi)?;
    let pid = studio.program().pid().unwrap_or(0);
    measure("no lines", pid)?;
    let mut lines = Vec::new();
    for number in 1..=LINES {
        let name = format!("Camera {number}");
        lines.push((show.add_line("truck1", &studio, &name, None)?, name));
    }
    measure("8 waiting at 720p, no receiver", pid)?;
    let mut screens = Vec::new();
    for (_, name) in &lines {
        let screen = Screen::find(name, Instant::now() + PATIENCE)?;
        screen.say(Says::Off);
        screens.push(screen);
    }
    measure("8 waiting at 720p with a name to read, 8 receivers", pid)?;

    for ((line, name), screen) in lines.iter().zip(&screens) {
        screen.say(Says::Program);
        let settings = EncoderSettings {
            size: (1920, 1080),
            fps: 10,
            gop: 10,
            ..EncoderSettings::default()
        };
        let mut encoder = Encoder::start(show.folder(), name, &line.url, &settings)?;
        screen.wait_for("a picture", PATIENCE, |shot| shot.stamp().is_some())?;
        encoder.kill()?;
        studio.wait_line(name, "slate")?;
    }
    measure("8 held at 1080p on program, 8 receivers", pid)?;
    for (_, name) in &lines {
        let set = ["line", "set", name, "hold=0", "slate=diagnostic"];
        studio.program().command(&set, "")?.success()?;
    }
    for screen in &screens {
        screen.say(Says::Off);
    }
    thread::sleep(Duration::from_secs(15));
    measure("8 rehearsal cards at 1080p, 8 receivers", pid)?;
    Ok(())
}

/// Settles, and measures for a while.
fn measure(what: &str, pid: u32) -> anyhow::Result<()> {
    thread::sleep(Duration::from_secs(3));
    let before = cpu_seconds(pid)?;
    let from = Instant::now();
    thread::sleep(WINDOW);
    let percent = (cpu_seconds(pid)? - before) / from.elapsed().as_secs_f64() * 100.0;
    let row = json!({
        "state": what,
        "cpu_percent_of_one_core": (percent * 100.0).round() / 100.0,
        "resident_mb": resident_mb(pid)?,
    });
    writeln!(std::io::stdout(), "{row}")?;
    Ok(())
}

/// Of the program and its children.
fn cpu_seconds(pid: u32) -> anyhow::Result<f64> {
    let mut seconds = meter::cpu_seconds(pid)?;
    for child in children(pid)? {
        seconds += meter::cpu_seconds(child)?;
    }
    Ok(seconds)
}

fn resident_mb(pid: u32) -> anyhow::Result<u64> {
    let mut kib = 0;
    for pid in children(pid)?.into_iter().chain([pid]) {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let number = line.and_then(|line| line.split_whitespace().next());
        kib += number.map_or(Ok(0), str::parse::<u64>)?;
    }
    Ok(kib / 1000)
}

fn children(pid: u32) -> anyhow::Result<Vec<u32>> {
    let listed = Command::new("ps")
        .args(["-o", "pid=", "--ppid", &pid.to_string()])
        .output()?;
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    Ok(listed
        .split_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .collect())
}

//! `make lab`: the laboratory's table. Each row is a bad link with real programs on both sides of it, beside the same stream over
//! TCP with the kernel's BBR and over SRT, on links of the same shape at the same time. Root only.
//!
//! Exit code 0 also when bounds are not met: the table says so. 69 where there can be no laboratory.

use std::{
    fs,
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
    time::Instant,
};

use anyhow::ensure;
use clap::Parser;
use firstmile_tests::{
    lab::{
        missing, on_air,
        row::{Kind, System, rows},
        table::{measure, render},
    },
    ndi::Runtime,
};

/// Measures tunnels on bad links.
#[derive(Debug, Parser)]
#[command(name = "lab")]
struct Arguments {
    /// One repetition, without the row of ten minutes.
    #[arg(long)]
    quick: bool,
    /// Only these rows, by name; `list` names them all.
    #[arg(long, value_delimiter = ',')]
    rows: Vec<String>,
    /// Repetitions; the median is shown.
    #[arg(long, default_value_t = 5)]
    repeat: u64,
    /// Only ours, without those beside it.
    #[arg(long)]
    alone: bool,
    /// Where all figures go as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Receive so many lines and put on program what standard input says (used by the laboratory itself).
    #[arg(long, hide = true)]
    director: Option<usize>,
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    if let Some(lines) = arguments.director {
        on_air::direct(lines)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut wanted = rows();
    if arguments.rows == ["list"] {
        for row in &wanted {
            writeln!(io::stdout(), "{:12} {}", row.name, row.title)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    for name in &arguments.rows {
        ensure!(
            wanted.iter().any(|row| row.name == name),
            "there is no row {name:?}: see --rows list"
        );
    }
    if let Some(why) = missing() {
        writeln!(io::stderr(), "lab: {why}")?;
        return Ok(ExitCode::from(69));
    }
    if !arguments.rows.is_empty() {
        wanted.retain(|row| arguments.rows.iter().any(|name| name == row.name));
    } else if arguments.quick {
        wanted.retain(|row| !row.is_long());
    }
    let mut systems = vec![System::Firstmile];
    if !arguments.alone {
        systems.extend([System::TcpBbr, System::Srt]);
    }
    if wanted.iter().any(|row| row.kind == Kind::OnAir) && Runtime::load().is_err() {
        writeln!(
            io::stderr(),
            "no NDI runtime: the row with tally can't be measured"
        )?;
        wanted.retain(|row| row.kind != Kind::OnAir);
    }
    let start = Instant::now();
    let mut lines = Vec::new();
    for row in &wanted {
        let is_once = arguments.quick || row.is_long();
        let times = if is_once { 1 } else { arguments.repeat };
        let say = |text: &str| {
            // Nobody to tell when the terminal is gone.
            let _ = writeln!(io::stderr(), "[{:4} s] {text}", start.elapsed().as_secs());
        };
        lines.push(measure(row, &systems, times, say));
        if let Some(file) = &arguments.json {
            fs::write(file, serde_json::to_vec_pretty(&lines)?)?;
        }
    }
    writeln!(io::stdout(), "{}", render(&lines))?;
    Ok(ExitCode::SUCCESS)
}

//! `ndi-receive`: receives one NDI source and prints what arrived as JSON: pictures in order, missing and repeated, gaps,
//! delay by the stamps of `stamp-source`, A/V offset by its beeps, broken connections.
//!
//! Run it in a private network namespace: `tests/netns.sh ndi-receive --name 'Camera 1' --seconds 10`. Exit code 3 when
//! the source was not found, 4 when no stamped picture came.

use std::{
    io::{self, Write},
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::Parser;
use firstmile_tests::{
    ndi::{Runtime, Source},
    viewer::Viewer,
};

/// Receives one NDI source and prints what arrived.
#[derive(Debug, Parser)]
#[command(name = "ndi-receive")]
struct Arguments {
    /// A part of the source's name.
    #[arg(long, required_unless_present = "url")]
    name: Option<String>,
    /// `ADDRESS:PORT` of the source instead of looking for it.
    #[arg(long)]
    url: Option<String>,
    /// How long to receive, from the first stamped picture on.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// How long to wait for the source, and again for its first stamped picture.
    #[arg(long, default_value_t = 15)]
    patience: u64,
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let patience = Duration::from_secs(arguments.patience);
    let runtime = Runtime::load()?;
    let source = match (arguments.url, arguments.name) {
        (Some(url), name) => Source {
            name: name.unwrap_or_default(),
            url,
        },
        (None, name) => match runtime.find(&name.unwrap_or_default(), Instant::now() + patience) {
            Ok(source) => source,
            Err(error) => {
                writeln!(io::stderr(), "ndi-receive: {error:#}")?;
                return Ok(ExitCode::from(3));
            }
        },
    };
    let viewer = Viewer::connect(&runtime, source)?;
    let started = viewer.wait_for("a stamped picture", Instant::now() + patience, |report| {
        !report.sources.is_empty()
    });
    let report = if started.is_ok() {
        let end = Instant::now() + Duration::from_secs(arguments.seconds);
        // Not a wait for something: it is the length of the measurement.
        viewer.wait_for("", end, |_| false).ok();
        viewer.report()
    } else {
        viewer.report()
    };
    writeln!(io::stdout(), "{}", serde_json::to_string(&report)?)?;
    Ok(if report.sources.is_empty() {
        ExitCode::from(4)
    } else {
        ExitCode::SUCCESS
    })
}

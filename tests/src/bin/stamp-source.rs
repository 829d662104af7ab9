//! `stamp-source`: a camera for an encoder: stamped raw pictures (yuv420p) on standard output, beeps into a named pipe.
//!
//! ```text
//! mkfifo sound
//! stamp-source --size 1280x720 --fps 30 --seconds 20 --audio sound |
//!   ffmpeg -probesize 32 -f rawvideo -pix_fmt yuv420p -s 1280x720 -r 30 -i - \
//!          -probesize 32 -f s16le -ar 48000 -ac 2 -i sound -map 0:v -map 1:a \
//!          -c:v libx264 -preset veryfast -tune zerolatency -g 60 -b:v 3M -c:a aac -f flv rtmp://…
//! ```
//!
//! Says how it went on standard error, as one line of JSON.

use std::{
    fs::File,
    io::{self, Write},
    os::fd::AsFd,
    path::PathBuf,
};

use anyhow::Context;
use clap::Parser;
use firstmile_tests::source::{self, Settings};

/// Makes stamped pictures and beeps in real time.
#[derive(Debug, Parser)]
#[command(name = "stamp-source")]
struct Arguments {
    /// Picture size.
    #[arg(long, default_value = "1280x720", value_parser = size)]
    size: (usize, usize),
    /// Pictures a second.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=120))]
    fps: u32,
    /// Ends after so many seconds of pictures; without it when the reader leaves.
    #[arg(long)]
    seconds: Option<u32>,
    /// A number from 0 to 255 in every stamp, to tell sources apart.
    #[arg(long, default_value_t = 0)]
    source: u8,
    /// A named pipe for the sound: 16 bit, 48 kHz, stereo.
    #[arg(long)]
    audio: Option<PathBuf>,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let settings = Settings {
        width: arguments.size.0,
        height: arguments.size.1,
        fps: arguments.fps,
        pictures: arguments.seconds.map(|seconds| seconds * arguments.fps),
        source: arguments.source,
        audio: arguments.audio,
    };
    // Past the line buffer of `Stdout`, which would search every picture for its last newline.
    let mut output = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let outcome = source::run(&settings, &mut output).context("stamp-source")?;
    writeln!(io::stderr(), "{}", serde_json::to_string(&outcome)?)?;
    Ok(())
}

fn size(text: &str) -> Result<(usize, usize), String> {
    let (width, height) = text.split_once('x').ok_or("expected WIDTHxHEIGHT")?;
    let side = |text: &str| text.parse::<usize>().map_err(|error| error.to_string());
    let (width, height) = (side(width)?, side(height)?);
    if width % 2 != 0 || height % 2 != 0 || width < 320 || height < 180 {
        return Err("both sides must be even, and 320x180 is the least".into());
    }
    Ok((width, height))
}

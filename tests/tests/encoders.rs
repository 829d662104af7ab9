//! Every encoder and its codecs, from its own file to the connector: payload, times and configuration of every unit.
//!
//! An encoder writes the same packets to the relay and to a file. What a bare connector gets by the tunnel is held
//! against the list of hashes that FFmpeg's own demuxer makes of that file, so neither this product's parser nor its
//! types are on both sides. `make test-encoders` fetches the encoders and runs this.

#![allow(clippy::unwrap_used, reason = "a test that goes wrong may panic")]

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
};

use anyhow::{Context, bail, ensure};
use firstmile_shared::{
    media::{Codec, MediaKind},
    secret::{StreamKey, to_hex},
    token::JoinToken,
};
use firstmile_tests::{
    bench::studio::{Feed, Studio},
    harness::{OutputKind, PATIENCE, Show, wait_for},
};
use ring::digest;

/// Who encodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Debian,
    Nine,
    Python,
}

/// What is encoded, and what has to come out of it.
struct Case {
    who: Who,
    arguments: &'static str,
    tracks: &'static [(Codec, u8)],
}

const CASES: &[Case] = &[
    Case {
        who: Who::Debian,
        arguments: "-c:v libx264 -preset veryfast -bf 2 -c:a aac",
        tracks: &[(Codec::H264, 0), (Codec::Aac, 0)],
    },
    Case {
        who: Who::Debian,
        arguments: "-c:v libx264 -preset veryfast -bf 2 -c:a aac -output_ts_offset 16775.5",
        tracks: &[(Codec::H264, 0), (Codec::Aac, 0)],
    },
    Case {
        who: Who::Debian,
        arguments: "-c:v libx264 -preset ultrafast -c:a libmp3lame -ar 44100",
        tracks: &[(Codec::H264, 0), (Codec::Mp3, 0)],
    },
    Case {
        who: Who::Nine,
        arguments: "-c:v libx264 -preset veryfast -bf 2 -c:a aac",
        tracks: &[(Codec::H264, 0), (Codec::Aac, 0)],
    },
    Case {
        who: Who::Nine,
        arguments: "-c:v libx265 -preset ultrafast -x265-params log-level=none:bframes=3 -c:a libopus",
        tracks: &[(Codec::H265, 0), (Codec::Opus, 0)],
    },
    Case {
        who: Who::Nine,
        arguments: "-c:v libx265 -preset ultrafast -x265-params log-level=none -c:a libopus \
                    -output_ts_offset 16775.5",
        tracks: &[(Codec::H265, 0), (Codec::Opus, 0)],
    },
    Case {
        who: Who::Nine,
        arguments: "-c:v libsvtav1 -preset 12 -c:a flac",
        tracks: &[(Codec::Av1, 0), (Codec::Flac, 0)],
    },
    Case {
        who: Who::Nine,
        arguments: "-c:v libvpx-vp9 -deadline realtime -cpu-used 8 -c:a ac3",
        tracks: &[(Codec::Vp9, 0), (Codec::Ac3, 0)],
    },
    Case {
        who: Who::Nine,
        arguments: "-c:v libx264 -preset ultrafast -c:a eac3",
        tracks: &[(Codec::H264, 0), (Codec::Eac3, 0)],
    },
    // Two tracks of each, the second of another kind of picture.
    Case {
        who: Who::Nine,
        arguments: "-map 0:v -map 1:a -c:v libx264 -preset ultrafast -c:a aac -filter:v:1 negate",
        tracks: &[
            (Codec::H264, 0),
            (Codec::H264, 1),
            (Codec::Aac, 0),
            (Codec::Aac, 1),
        ],
    },
    // HDR: colours in packets of their own.
    Case {
        who: Who::Nine,
        arguments: "-pix_fmt yuv420p10le -c:v libx265 -preset ultrafast \
                    -x265-params log-level=none:colorprim=bt2020:transfer=smpte2084:colormatrix=bt2020nc \
                    -color_primaries bt2020 -color_trc smpte2084 -colorspace bt2020nc -c:a aac",
        tracks: &[(Codec::H265, 0), (Codec::Aac, 0), (Codec::Data, 0)],
    },
    Case {
        who: Who::Python,
        arguments: "libx265 libopus",
        tracks: &[(Codec::H265, 0), (Codec::Opus, 0)],
    },
    Case {
        who: Who::Python,
        arguments: "libsvtav1 aac",
        tracks: &[(Codec::Av1, 0), (Codec::Aac, 0)],
    },
    Case {
        who: Who::Python,
        arguments: "libvpx-vp9 flac",
        tracks: &[(Codec::Vp9, 0), (Codec::Flac, 0)],
    },
];

#[test]
fn every_unit_at_the_connector_is_the_encoders_own() -> anyhow::Result<()> {
    let stage = Stage::start()?;
    for (number, case) in CASES.iter().enumerate() {
        let what = format!("{:?}: {}", case.who, case.arguments);
        let (feed, file) = stage.publish(number, case).with_context(|| what.clone())?;
        check(&feed, &file, case).with_context(|| what.clone())?;
    }
    Ok(())
}

/// The wrap of 24 bits, which FFmpeg 9 crosses in the middle: everything comes on one clock.
#[test]
fn four_hours_and_39_minutes_pass_without_a_gap() -> anyhow::Result<()> {
    let stage = Stage::start()?;
    let case = Case {
        who: Who::Nine,
        arguments: "-c:v libx264 -preset ultrafast -c:a aac -output_ts_offset 16770 -t 14",
        tracks: &[(Codec::H264, 0), (Codec::Aac, 0)],
    };
    let (feed, file) = stage.publish(0, &case)?;
    check(&feed, &file, &case)?;
    for (codec, track) in case.tracks {
        let times = times(&feed, *codec, *track);
        ensure!(
            times.iter().any(|us| *us < 16_777_215_000)
                && times.iter().any(|us| *us > 16_777_216_000)
        );
        let steps = times.windows(2).map(|pair| pair[1] - pair[0]);
        ensure!(steps.clone().max() <= Some(50_000), "{codec:?}: a gap");
        ensure!(steps.min() > Some(0), "{codec:?}: backwards");
    }
    ensure!(
        feed.units
            .iter()
            .all(|unit| !unit.access_unit.discontinuity)
    );
    Ok(())
}

/// It comes by name, and nothing of it as something else.
#[test]
fn what_is_not_played_is_named() -> anyhow::Result<()> {
    let stage = Stage::start()?;
    let case = Case {
        who: Who::Nine,
        arguments: "-c:v libvvenc -preset faster -c:a eac3",
        tracks: &[(Codec::Eac3, 0)],
    };
    let (feed, _) = stage.publish(0, &case)?;
    let tracks: Vec<_> = (feed.tracks.iter())
        .map(|track| (track.kind.as_str(), track.codec.as_str(), track.carried))
        .collect();
    ensure!(tracks.contains(&("video", "VVC", false)), "{tracks:?}");
    ensure!(tracks.contains(&("audio", "E-AC-3", true)), "{tracks:?}");
    ensure!(
        feed.units
            .iter()
            .all(|unit| unit.access_unit.kind() == MediaKind::Audio)
    );
    Ok(())
}

/// By the real programs, decoders in their sandboxes: what is decodable is shown, and its name is told.
#[test]
fn the_studio_shows_every_codec() -> anyhow::Result<()> {
    let show = Show::start()?;
    let connector = show.joined("truck1", OutputKind::Null)?;
    let line = show.add_line("truck1", &connector, "Camera 1", None)?;
    for (arguments, video, audio) in [
        (
            "-c:v libx265 -preset ultrafast -x265-params log-level=none -c:a libopus",
            "H.265",
            "Opus",
        ),
        ("-c:v libsvtav1 -preset 12 -c:a flac", "AV1", "FLAC"),
        (
            "-c:v libvpx-vp9 -deadline realtime -cpu-used 8 -c:a ac3",
            "VP9",
            "AC-3",
        ),
        (
            "-c:v libx264 -preset ultrafast -c:a eac3",
            "H.264",
            "E-AC-3",
        ),
        (
            "-c:v libx264 -preset ultrafast -c:a libmp3lame -ar 44100",
            "H.264",
            "MP3",
        ),
    ] {
        let encoder = Live::start(arguments, &line.url)?;
        let shown = wait_for(&format!("{video} and {audio}"), PATIENCE, || {
            let line = connector.line("Camera 1")?;
            let is_shown = line["state"] == "live"
                && line["video"]["codec"] == video
                && line["audio"]["codec"] == audio;
            Ok(is_shown.then_some(line.clone()).ok_or(line))
        })?;
        drop(encoder);
        ensure!(shown["video"]["decode_errors_total"] == 0, "{shown}");
        ensure!(shown["video"]["width"] == 640, "{shown}");
        connector.wait_line("Camera 1", "slate")?;
    }
    // What it can't decode it names.
    let encoder = Live::start("-c:v libvvenc -preset faster -c:a aac", &line.url)?;
    wait_for("the name of what can't be decoded", PATIENCE, || {
        let line = connector.line("Camera 1")?;
        let expected =
            "Camera 1 sends VVC, which this version can't decode: set H.264 in the encoder";
        Ok((line["reason"] == expected).then_some(()).ok_or(line))
    })?;
    drop(encoder);
    Ok(())
}

#[test]
fn the_operator_chooses_a_track() -> anyhow::Result<()> {
    let show = Show::start()?;
    let connector = show.joined("truck1", OutputKind::Null)?;
    let line = show.add_line("truck1", &connector, "Camera 1", None)?;
    let arguments = "-map 0:v -c:v:0 libx264 -preset:v:0 ultrafast -c:v:1 libx265 -preset:v:1 ultrafast \
                     -x265-params log-level=none -c:a aac";
    let _encoder = Live::start(arguments, &line.url)?;
    let shows = |codec: &str| {
        wait_for(codec, PATIENCE, || {
            let line = connector.line("Camera 1")?;
            let is_shown = line["state"] == "live" && line["video"]["codec"] == codec;
            Ok(is_shown.then_some(line.clone()).ok_or(line))
        })
    };
    let first = shows("H.264")?;
    let listed: Vec<_> = (first["tracks"].as_array().context("tracks")?.iter())
        .map(|track| format!("{} {} {}", track["kind"], track["track"], track["codec"]))
        .collect();
    for track in [
        "\"video\" 0 \"H.264\"",
        "\"video\" 1 \"H.265\"",
        "\"audio\" 0 \"AAC\"",
    ] {
        ensure!(listed.iter().any(|listed| listed == track), "{listed:?}");
    }
    for (setting, codec) in [("track=1", "H.265"), ("track=0", "H.264")] {
        connector
            .program()
            .command(&["line", "set", "Camera 1", setting], "")?
            .success()?;
        shows(codec)?;
    }
    let last = connector.line("Camera 1")?;
    for counter in ["lost_total", "dropped_total", "decode_errors_total"] {
        ensure!(last["video"][counter] == 0, "{counter}: {last}");
    }
    Ok(())
}

/// FFmpeg 9 that sends in real time until it is dropped.
struct Live(Child);

impl Live {
    fn start(arguments: &str, url: &str) -> anyhow::Result<Self> {
        let child = Command::new(fetched("ffmpeg9")?)
            .args(["-hide_banner", "-nostdin", "-loglevel", "error"])
            .args(["-re", "-f", "lavfi", "-i", "testsrc2=s=640x360:r=30"])
            .args(["-re", "-f", "lavfi", "-i", "sine=r=48000"])
            .args([
                "-map", "0:v", "-map", "1:a", "-g", "30", "-pix_fmt", "yuv420p",
            ])
            .args(arguments.split_whitespace())
            .args(["-f", "flv", url])
            .env("SVT_LOG", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self(child))
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A relay, and where encoders write.
struct Stage {
    show: Show,
    runtime: tokio::runtime::Runtime,
}

impl Stage {
    fn start() -> anyhow::Result<Self> {
        Ok(Self {
            show: Show::start()?,
            runtime: tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()?,
        })
    }

    /// Runs an encoder to its end: what came of it at the connector, and its file.
    fn publish(&self, number: usize, case: &Case) -> anyhow::Result<(Feed, PathBuf)> {
        let key = format!("encoder-key-{number}");
        let address = self.show.relay().address("rtmp")?;
        let studio_name = format!("studio{number}");
        let url = format!("rtmp://{address}/{studio_name}/{key}");
        let file = self.show.folder().join(format!("{number}.flv"));
        let token = JoinToken::parse(&self.show.invite(&studio_name, &[])?)?;
        let mut command = command(case, &url, &file)?;
        let feed = self.runtime.block_on(async {
            let mut studio = Studio::join(&token).await?;
            studio
                .declare(&[StreamKey::parse(&key).context("the key")?], DELAY_MS)
                .await?;
            let encoder = thread::spawn(move || command.output());
            let feed = studio.take_feed().await;
            let ended = encoder.join().unwrap()?;
            ensure!(
                ended.status.success(),
                "{}: {}",
                ended.status,
                String::from_utf8_lossy(&ended.stderr)
            );
            feed
        })?;
        Ok((feed, file))
    }
}

/// No unit is so old that it is left out: encoders send as fast as they can.
const DELAY_MS: u32 = 30_000;

fn command(case: &Case, url: &str, file: &Path) -> anyhow::Result<Command> {
    let arguments: Vec<_> = case.arguments.split_whitespace().collect();
    let mut command = match case.who {
        Who::Python => {
            let mut command = Command::new(fetched("python")?);
            let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/pyav_push.py");
            command.arg(script).arg(url).arg(file).args(arguments);
            command
        }
        Who::Debian | Who::Nine => {
            let program = match case.who {
                Who::Nine => fetched("ffmpeg9")?,
                _ => "ffmpeg".into(),
            };
            let tee = format!("[f=flv]{}|[f=flv]{url}", file.display());
            let mut command = Command::new(program);
            command
                .args(["-hide_banner", "-nostdin", "-loglevel", "error", "-y"])
                .args(["-f", "lavfi", "-i", "testsrc2=s=640x360:r=30"])
                .args(["-f", "lavfi", "-i", "sine=r=48000"])
                .args(["-map", "0:v", "-map", "1:a", "-t", "3", "-g", "30"])
                .args(["-pix_fmt", "yuv420p", "-flags", "+global_header"])
                .args(arguments)
                .args(["-f", "tee", &tee]);
            command
        }
    };
    command
        .env("SVT_LOG", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    Ok(command)
}

/// What `tests/scripts/encoders.sh` fetched.
fn fetched(name: &str) -> anyhow::Result<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../target/encoders")
        .join(name);
    ensure!(
        path.exists(),
        "no {}: run it by make test-encoders",
        path.display()
    );
    Ok(path)
}

/// One packet of a list of hashes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Packet {
    dts_ms: i64,
    pts_ms: i64,
    hash: String,
}

/// One stream of it.
#[derive(Debug, Default)]
struct Stream {
    kind: String,
    /// Hash of the configuration.
    config: Option<String>,
    packets: Vec<Packet>,
}

/// The encoder's own file, as FFmpeg reads it.
fn listed(file: &Path) -> anyhow::Result<Vec<Stream>> {
    let output = Command::new(fetched("ffmpeg9")?)
        .args(["-hide_banner", "-nostdin", "-loglevel", "error", "-copyts"])
        .args(["-fflags", "+noparse+nofillin", "-i"])
        .arg(file)
        .args(["-map", "0", "-c", "copy", "-f", "framehash", "-"])
        .output()?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let mut streams: BTreeMap<usize, Stream> = BTreeMap::new();
    for line in String::from_utf8(output.stdout)?.lines() {
        let fields: Vec<_> = line.split(',').map(str::trim).collect();
        if let Some(number) = line.strip_prefix("#extradata ") {
            let number = number.split(',').next().context("a stream")?.parse()?;
            streams.entry(number).or_default().config = fields.last().map(ToString::to_string);
        } else if let Some(rest) = line.strip_prefix("#media_type ") {
            let (number, kind) = rest.split_once(": ").context("a kind")?;
            kind.clone_into(&mut streams.entry(number.parse()?).or_default().kind);
        } else if let Some(rest) = line.strip_prefix("#tb ") {
            ensure!(rest.ends_with(": 1/1000"), "not in milliseconds: {line}");
        // A packet without a byte is how FFmpeg reads the end of a sequence: nobody sent it.
        } else if !line.starts_with('#') && fields.get(4) != Some(&"0") {
            streams
                .entry(fields[0].parse()?)
                .or_default()
                .packets
                .push(Packet {
                    dts_ms: fields[1].parse()?,
                    pts_ms: fields[2].parse()?,
                    hash: fields[5].to_owned(),
                });
        }
    }
    Ok(streams.into_values().collect())
}

fn check(feed: &Feed, file: &Path, case: &Case) -> anyhow::Result<()> {
    ensure!(feed.dropped == 0, "{} units were left out", feed.dropped);
    let listed = listed(file)?;
    for (codec, track) in case.tracks {
        if *codec == Codec::Data {
            check_colors(feed)?;
            continue;
        }
        let own = (listed.iter())
            .filter(|stream| stream.kind == codec.kind().name())
            .nth(usize::from(*track))
            .with_context(|| format!("no {codec:?} {track} in the file"))?;
        check_track(feed, *codec, *track, own)
            .with_context(|| format!("{codec:?}, track {track}"))?;
    }
    let expected = |unit: &(Codec, u8)| case.tracks.contains(unit) || unit.0 == Codec::Data;
    for unit in &feed.units {
        let unit = (unit.access_unit.codec, unit.access_unit.track);
        ensure!(expected(&unit), "a unit of {unit:?}");
    }
    Ok(())
}

fn check_track(feed: &Feed, codec: Codec, track: u8, own: &Stream) -> anyhow::Result<()> {
    let units: Vec<_> = (feed.units.iter().map(|unit| &unit.access_unit))
        .filter(|unit| unit.codec == codec && unit.track == track)
        .collect();
    ensure!(
        units.len() == own.packets.len() && units.len() >= 20,
        "{} units of {}",
        units.len(),
        own.packets.len()
    );
    for (n, (unit, packet)) in units.iter().zip(&own.packets).enumerate() {
        ensure!(
            hash(&unit.payload) == packet.hash,
            "unit {n} has another payload"
        );
        let off_ms = [
            unit.dts_us / 1_000 - packet.dts_ms,
            unit.pts_us() / 1_000 - packet.pts_ms,
        ];
        ensure!(
            off_ms.iter().all(|ms| ms.abs() <= 1),
            "unit {n} is off by {off_ms:?} ms"
        );
        ensure!(
            unit.config.is_some() == (unit.keyframe && codec.needs_config()),
            "unit {n}: a configuration belongs to keyframes"
        );
        if let Some(config) = &unit.config
            && Some(hash(config)) != own.config
        {
            bail!(
                "unit {n} has another configuration of {} bytes",
                config.len()
            );
        }
    }
    ensure!(units[0].keyframe, "it begins with a keyframe");
    Ok(())
}

/// As FFmpeg was told to write them.
fn check_colors(feed: &Feed) -> anyhow::Result<()> {
    let colors: Vec<_> = (feed.units.iter())
        .filter(|unit| unit.access_unit.codec == Codec::Data)
        .map(|unit| String::from_utf8_lossy(&unit.access_unit.payload).into_owned())
        .collect();
    let first: serde_json::Value = serde_json::from_str(colors.first().context("no colours")?)?;
    ensure!(first[0] == "colorInfo", "{first}");
    let config = &first[1]["colorConfig"];
    ensure!(config["matrixCoefficients"] == 9, "{first}");
    Ok(())
}

fn times(feed: &Feed, codec: Codec, track: u8) -> Vec<i64> {
    (feed.units.iter().map(|unit| &unit.access_unit))
        .filter(|unit| unit.codec == codec && unit.track == track)
        .map(|unit| unit.dts_us)
        .collect()
}

fn hash(bytes: &[u8]) -> String {
    to_hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

//! The encoder doctor on real encoders, each with one fault: it names the fault, on the relay and in the studio.

use std::{
    collections::BTreeMap,
    fs,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use firstmile_tests::{
    fight::note,
    harness::{Need, OutputKind, PATIENCE, Show, can_run, wait_for},
    lagging::publishers,
};
use serde_json::Value;

/// An encoder with one fault: its name, what is said of it, and the arguments that make it so.
struct Patient {
    name: &'static str,
    code: &'static str,
    arguments: &'static str,
}

const PATTERN: &str = "-re -f lavfi -i testsrc2=s=640x360:r=25 -re -f lavfi -i sine=r=48000";

const fn patient(name: &'static str, code: &'static str, arguments: &'static str) -> Patient {
    Patient {
        name,
        code,
        arguments,
    }
}

const PATIENTS: [Patient; 11] = [
    patient("Long GOP", "keyframe_interval", "-g 200"),
    patient("Two pictures", "frame_rate", "-r 2 -g 2"),
    patient(
        "Dark room",
        "irregular_rate",
        "-vf select='gt(random(0),0.4)' -vsync vfr",
    ),
    patient("Mute", "no_sound", "-an"),
    patient("Old microphone", "sample_rate", "-ar 22050"),
    patient("Small", "resolution", "-s 480x270"),
    patient(
        "Fat",
        "bitrate_high",
        "-b:v 9M -minrate 9M -maxrate 9M -bufsize 1M -x264-params nal-hrd=cbr",
    ),
    patient("Thin", "bitrate_low", "-vf drawbox=t=fill -b:v 20k"),
    patient(
        "Full range",
        "colour_range",
        "-pix_fmt yuvj420p -color_range pc",
    ),
    patient(
        "Film",
        "b_frames",
        "-preset fast -tune film -bf 8 -b_strategy 0",
    ),
    patient(
        "Jumping clock",
        "timestamp_jumps",
        "-bsf:v setts=ts='if(gte(N,125),TS+100000,TS)' -bsf:a setts=ts='if(gte(N,235),TS+100000,TS)'",
    ),
];

/// Ended with its owner.
struct Encoder(Child);

impl Drop for Encoder {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

impl Encoder {
    fn start(patient: &Patient, url: &str) -> anyhow::Result<Self> {
        // The last of an option counts: the patient's.
        let healthy = "-c:v libx264 -preset ultrafast -tune zerolatency -pix_fmt yuv420p -g 25 -sc_threshold 0 -b:v 1M \
             -maxrate 1M -bufsize 500k -colorspace bt709 -color_primaries bt709 -color_trc bt709 -c:a aac -ar 48000";
        let arguments = [PATTERN, healthy, patient.arguments];
        let arguments = arguments.iter().flat_map(|part| part.split_whitespace());
        let child = Command::new("ffmpeg")
            .args(["-hide_banner", "-nostdin", "-loglevel", "error"])
            .args(arguments)
            .args(["-f", "flv", "-flvflags", "no_duration_filesize", url])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()?;
        Ok(Self(child))
    }

    /// Its uplink stands still: with `-re` it makes up for it at once.
    fn stall(&self, length: Duration) -> anyhow::Result<()> {
        for signal in ["STOP", "CONT"] {
            // The shell's own `kill`: the child is not yet waited for, so its id is still its own.
            let pid = self.0.id().to_string();
            Command::new("sh")
                .args(["-c", "kill -\"$1\" \"$2\"", "sh", signal, &pid])
                .status()?;
            if signal == "STOP" {
                thread::sleep(length);
            }
        }
        Ok(())
    }
}

/// The codes of a publisher's or a line's findings, but for notes.
fn codes(entry: &Value) -> Vec<String> {
    (entry["findings"].as_array().into_iter().flatten())
        .filter(|finding| finding["severity"] != "note")
        .filter_map(|finding| finding["code"].as_str().map(str::to_owned))
        .collect()
}

fn by_name(entries: &[Value], name: &str) -> Option<Value> {
    let is_it = |entry: &&Value| entry["line"] == name || entry["name"] == name;
    entries.iter().find(is_it).cloned()
}

#[test]
#[expect(clippy::too_many_lines, reason = "one show, from its start to its end")]
fn the_doctor_names_the_faults_of_bad_encoders() -> anyhow::Result<()> {
    if !can_run(&[Need::Ffmpeg]) {
        return Ok(());
    }
    let show = Show::start()?;
    let mut studio = show.connector("connector-truck1", OutputKind::Null)?;
    studio.join(&show.invite("truck1", &[])?)?.success()?;
    // All lines at once: a relay takes one change a second.
    let stalls = patient("Stalls", "upload_stalls", "");
    let well = patient("Well", "", "");
    let all: Vec<_> = PATIENTS.iter().chain([&stalls, &well]).collect();
    let lines: Vec<_> = (all.iter().enumerate())
        .map(|(n, one)| {
            format!(
                "[[line]]\nname = {:?}\nkey = \"patient-{n:03}\"\ndelay = 600\n",
                one.name
            )
        })
        .collect();
    studio.program_mut().stop()?;
    fs::write(
        show.folder().join("connector-truck1/lines.toml"),
        lines.concat(),
    )?;
    (studio.program_mut()).set("FIRSTMILE_CONNECTOR__SHOW_FORMAT", "640x360p25");
    studio.program_mut().restart()?;
    studio.wait_connected()?;
    wait_for("the relay to know the lines", PATIENCE, || {
        let studios = show
            .relay()
            .command(&["studios", "--json"], "")?
            .success()?;
        let studios: Value = serde_json::from_str(&studios)?;
        Ok(if studios[0]["lines"] == all.len() {
            Ok(())
        } else {
            Err(studios)
        })
    })?;

    let rtmp = show.relay().address("rtmp")?;
    let mut encoders = BTreeMap::new();
    for (n, one) in all.iter().enumerate() {
        let encoder = Encoder::start(one, &format!("rtmp://{rtmp}/truck1/patient-{n:03}"))?;
        encoders.insert(one.name, encoder);
    }
    wait_for("all encoders", PATIENCE, || {
        let publishers = publishers(show.relay())?;
        let sending = publishers
            .iter()
            .filter(|one| one["bitrate_bps"].as_u64() > Some(0));
        let count = sending.count();
        Ok(if count == all.len() {
            Ok(())
        } else {
            Err(count.into())
        })
    })?;
    let started = Instant::now();
    thread::sleep(Duration::from_secs(2));
    encoders["Stalls"].stall(Duration::from_millis(1_500))?;

    let wanted: Vec<_> = all.iter().filter(|one| !one.code.is_empty()).collect();
    wait_for("the relay to name each fault", PATIENCE, || {
        let publishers = publishers(show.relay())?;
        let missing: Vec<_> = (wanted.iter())
            .filter(|one| {
                let found = by_name(&publishers, one.name).map(|entry| codes(&entry));
                !found
                    .unwrap_or_default()
                    .iter()
                    .any(|code| code == one.code)
            })
            .map(|one| one.name)
            .collect();
        Ok(if missing.is_empty() {
            Ok(())
        } else {
            Err(format!("{missing:?}: {publishers:#?}").into())
        })
    })?;
    let took = started.elapsed();
    wait_for("the studio to hear of each", PATIENCE, || {
        let status = studio.status()?;
        let lines = status["lines"].as_array().cloned().unwrap_or_default();
        let all_there = wanted.iter().all(|one| {
            let found = by_name(&lines, one.name).map(|entry| codes(&entry));
            found
                .unwrap_or_default()
                .iter()
                .any(|code| code == one.code)
        });
        Ok(if all_there { Ok(()) } else { Err(status) })
    })?;
    let publishers = publishers(show.relay())?;
    let well = by_name(&publishers, "Well").unwrap_or_default();
    assert_eq!(codes(&well), Vec::<String>::new(), "{well:#}");
    let table = show.relay().command(&["publishers"], "")?.success()?;
    let shown = studio.program().command(&["status"], "")?.success()?;
    for table in [&table, &shown] {
        assert!(
            table.contains("Mute's encoder sends pictures without sound"),
            "{table}"
        );
    }
    let besides: Vec<_> = (wanted.iter())
        .map(|one| {
            let entry = by_name(&publishers, one.name).unwrap_or_default();
            format!("{}: {}", one.name, codes(&entry).join(", "))
        })
        .collect();
    note(&format!(
        "{} faults named within {:.1} s; all warnings: {}",
        wanted.len(),
        took.as_secs_f64(),
        besides.join("; ")
    ));
    Ok(())
}

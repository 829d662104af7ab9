//! With real processes: the test program itself, started again as a decoder.

use std::{
    fs,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use firstmile_shared::media::{AccessUnit, Codec};

use super::*;
use crate::{
    decode::{FfmpegDecoder, PIXELS_MAX, clip::camera},
    output::Sound,
};

const AS_DECODER: &str = "FIRSTMILE_TEST_AS_DECODER";

/// Starts the test below as a decoder.
pub(crate) fn test_program() -> HelperProgram {
    let test = "decode::process::tests::this_is_the_decoder_of_the_others";
    HelperProgram {
        path: std::env::current_exe().unwrap(),
        shown_as: None,
        arguments: [test, "--exact", "--nocapture", "--test-threads=1"]
            .map(Into::into)
            .to_vec(),
        environment: vec![(AS_DECODER.into(), "1".into())],
    }
}

#[test]
fn this_is_the_decoder_of_the_others() {
    if std::env::var_os(AS_DECODER).is_some() {
        let _ = main();
        std::process::exit(0);
    }
}

fn new_decoder() -> ProcessDecoder {
    ProcessDecoder::new(test_program(), PIXELS_MAX)
}

fn coded(unit: &AccessUnit) -> CodedUnit {
    CodedUnit {
        codec: unit.codec,
        config: unit.config.clone(),
        payload: unit.payload.clone(),
        pts_us: unit.pts_us(),
    }
}

/// Everything, to the end.
fn decode(decoder: &mut dyn Decoder, units: &[AccessUnit]) -> Vec<Decoded> {
    let mut out = Vec::new();
    for unit in units {
        decoder.decode(&coded(unit), &mut out).unwrap();
    }
    decoder.finish(MediaKind::Video, &mut out).unwrap();
    decoder.finish(MediaKind::Audio, &mut out).unwrap();
    out
}

/// A signal to a process on another processor takes a moment, in which it may still answer.
fn wait_until_struck(pid: u32) {
    let deadline = Instant::now() + Duration::from_secs(5);
    let runs = || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let state = stat
            .rsplit(") ")
            .next()
            .and_then(|rest| rest.chars().next());
        matches!(state, Some('R' | 'S' | 'D'))
    };
    while runs() {
        assert!(Instant::now() < deadline);
        thread::sleep(Duration::from_millis(1));
    }
}

fn signal(pid: u32, signal: &str) {
    let sent = Command::new("sh")
        .args([
            "-c",
            "kill -s \"$1\" \"$2\"",
            "sh",
            signal,
            &pid.to_string(),
        ])
        .status()
        .unwrap();
    assert!(sent.success());
}

fn is_there(pid: u32) -> bool {
    let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // A zombie waits for its parent only.
    !state.is_empty() && !state.contains(") Z ")
}

#[test]
fn a_process_gives_the_same_pictures_and_sound_as_a_thread() {
    for encoder in [
        "-preset ultrafast -tune zerolatency",
        "-preset veryfast -bf 3",
    ] {
        let Some(units) = camera(2, encoder) else {
            return;
        };
        let there = decode(&mut new_decoder(), &units);
        let here = decode(&mut FfmpegDecoder::new(PIXELS_MAX).unwrap(), &units);
        assert_eq!(there.len(), here.len());
        let mut sounds: (Vec<Sound>, Vec<Sound>) = Default::default();
        for (there, here) in there.into_iter().zip(here) {
            match (there, here) {
                (Decoded::Picture(there), Decoded::Picture(here)) => {
                    assert_eq!(there.pts_us, here.pts_us);
                    assert!(there.picture.pixels[..] == here.picture.pixels[..]);
                    assert_eq!(
                        (
                            there.picture.width,
                            there.picture.height,
                            there.declared_rate
                        ),
                        (here.picture.width, here.picture.height, here.declared_rate)
                    );
                }
                (Decoded::Sound(there), Decoded::Sound(here)) => {
                    assert_eq!(
                        (there.pts_us, there.source_rate),
                        (here.pts_us, here.source_rate)
                    );
                    sounds.0.push(there.sound);
                    sounds.1.push(here.sound);
                }
                (there, here) => panic!("{there:?} is not {here:?}"),
            }
        }
        assert!(sounds.0 == sounds.1);
    }
}

#[test]
fn a_decoder_that_crashed_or_hangs_is_replaced_and_says_how_it_ended() {
    let Some(units) = camera(1, "-preset ultrafast -tune zerolatency") else {
        return;
    };
    let mut decoder = new_decoder();
    for (sent, expected, at_most_ms) in [
        (
            "SEGV",
            "the decoder crashed (it ended by signal 11 (SIGSEGV))",
            500,
        ),
        (
            "KILL",
            "the decoder crashed (it ended by signal 9 (SIGKILL))",
            500,
        ),
        ("STOP", "the decoder gave no answer for 1 s", 1_700),
    ] {
        decode(&mut decoder, &units);
        let pid = decoder.process_id().unwrap();
        signal(pid, sent);
        wait_until_struck(pid);
        let start = Instant::now();
        let mut out = Vec::new();
        let error = decoder.decode(&coded(&units[0]), &mut out).unwrap_err();
        assert!(error.is_lost());
        assert_eq!(error.to_string(), expected);
        let took_ms = start.elapsed().as_millis();
        assert!(took_ms <= at_most_ms, "{sent}: {took_ms} ms");
        assert!(!is_there(pid) && decoder.process_id().is_none());
        assert!(decoder.finish(MediaKind::Video, &mut out).is_ok());
    }
    assert!(!decode(&mut decoder, &units).is_empty());
}

/// Ctrl-C and a service manager's stop reach a whole group of processes: what is to end is the parent's to say.
#[test]
fn a_stop_signal_does_not_end_a_decoder() {
    let Some(units) = camera(1, "-preset ultrafast -tune zerolatency") else {
        return;
    };
    let mut decoder = new_decoder();
    decode(&mut decoder, &units);
    let pid = decoder.process_id().unwrap();
    for stop in ["INT", "TERM", "HUP"] {
        signal(pid, stop);
    }
    decode(&mut decoder, &units);
    assert_eq!(decoder.process_id(), Some(pid));
}

#[test]
fn a_decoder_that_died_idle_is_replaced_before_the_next_unit() {
    let mut decoder = new_decoder();
    assert!(decoder.tend());
    assert!(!decoder.tend(), "it is there");
    signal(decoder.process_id().unwrap(), "KILL");
    let deadline = Instant::now() + Duration::from_secs(5);
    while decoder.process_id().is_some() {
        assert!(Instant::now() < deadline);
        decoder.tend();
    }
    decoder.retry_at_us = 0;
    assert!(decoder.tend() && decoder.process_id().is_some());
}

#[test]
fn a_decoder_has_nothing_but_its_work() {
    let Some(units) = camera(1, "-tune zerolatency") else {
        return;
    };
    let mut decoder = new_decoder();
    decode(&mut decoder, &units);
    let pid = decoder.process_id().unwrap();
    let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
    let limits = read("limits");
    let limit = |name: &str| {
        let line = limits.lines().find(|line| line.starts_with(name)).unwrap();
        line[name.len()..]
            .split_whitespace()
            .next()
            .unwrap()
            .to_owned()
    };
    assert_eq!(
        (limit("Max core file size"), limit("Max file size")),
        ("0".into(), "0".into())
    );
    assert!(limit("Max address space").parse::<u64>().unwrap() < 8 << 30);
    let environment = read("environ");
    assert_eq!(
        environment,
        format!("{AS_DECODER}=1\0"),
        "and nothing of ours"
    );
    let files: Vec<_> = (fs::read_dir(format!("/proc/{pid}/fd")).unwrap())
        .map(|fd| fs::read_link(fd.unwrap().path()).unwrap())
        .collect();
    assert_eq!(files.len(), 4, "three streams and the socket: {files:?}");
    let nothing = files.iter().filter(|file| file.ends_with("null")).count();
    assert_eq!(nothing, 2, "{files:?}");
    // Of a whole program it is every thread; here it began in one that the test program started.
    let is_confined =
        |status: &str| status.contains("Seccomp:\t2") && status.contains("NoNewPrivs:\t1");
    let confined = (fs::read_dir(format!("/proc/{pid}/task")).unwrap())
        .filter(|task| {
            let status = task.as_ref().unwrap().path().join("status");
            is_confined(&fs::read_to_string(status).unwrap())
        })
        .count();
    assert!(
        confined >= 1,
        "the thread that decodes, and those it starts"
    );
}

/// Ten times what a night of a broken encoder brings.
#[test]
fn twenty_decoders_that_were_killed_leave_nothing_behind() {
    const ALONE: &str = "FIRSTMILE_TEST_ALONE";
    if std::env::var_os(ALONE).is_none() {
        let name = "decode::process::tests::twenty_decoders_that_were_killed_leave_nothing_behind";
        let alone = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture"])
            .env(ALONE, "1")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&alone.stdout);
        assert!(
            alone.status.success() && said.contains("1 passed"),
            "{said}"
        );
        return;
    }
    let Some(units) = camera(1, "-preset ultrafast -tune zerolatency") else {
        return;
    };
    let mut decoder = new_decoder();
    let mut kill = || {
        decode(&mut decoder, &units[..4]);
        let pid = decoder.process_id().unwrap();
        signal(pid, "KILL");
        let mut out = Vec::new();
        assert!(decoder.decode(&coded(&units[0]), &mut out).is_err());
        pid
    };
    kill();
    let before = footprint();
    let pids: Vec<u32> = (0..20).map(|_| kill()).collect();
    let after = footprint();
    assert_eq!(
        (after.files, after.children),
        (before.files, before.children)
    );
    let grown_kb = after.resident_kb.saturating_sub(before.resident_kb);
    assert!(grown_kb < 2_000, "{grown_kb} kB");
    assert_eq!(pids.iter().filter(|pid| is_there(**pid)).count(), 0);
}

struct Footprint {
    files: usize,
    children: usize,
    resident_kb: usize,
}

fn footprint() -> Footprint {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let children = tasks
        .map(|task| fs::read_to_string(task.unwrap().path().join("children")).unwrap())
        .map(|children| children.split_whitespace().count())
        .sum();
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    Footprint {
        files: fs::read_dir("/proc/self/fd").unwrap().count(),
        children,
        resident_kb: statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4,
    }
}

/// Also of one that is stopped and could not notice that its socket is at its end.
#[test]
fn a_decoder_does_not_outlive_a_killed_program() {
    const AS_PARENT: &str = "FIRSTMILE_TEST_AS_PARENT";
    if std::env::var_os(AS_PARENT).is_some() {
        let mut decoders = [new_decoder(), new_decoder()];
        for decoder in &mut decoders {
            let mut out = Vec::new();
            // An answer: it is up, and has taken care of its end.
            let nothing = CodedUnit {
                codec: Codec::Aac,
                config: None,
                payload: vec![0].into(),
                pts_us: 0,
            };
            let error = decoder.decode(&nothing, &mut out).unwrap_err();
            assert!(!error.is_lost());
            #[expect(clippy::print_stdout, reason = "tells its parent")]
            {
                println!("pid {}", decoder.process_id().unwrap());
            }
        }
        thread::sleep(Duration::from_mins(1));
        return;
    }
    let name = "decode::process::tests::a_decoder_does_not_outlive_a_killed_program";
    let mut parent = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(AS_PARENT, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let pids: Vec<u32> = (BufReader::new(parent.stdout.take().unwrap()).lines())
        .filter_map(|line| line.unwrap().strip_prefix("pid ")?.parse().ok())
        .take(2)
        .collect();
    assert!(pids.len() == 2 && pids.iter().all(|pid| is_there(*pid)));
    signal(pids[1], "STOP");
    parent.kill().unwrap();
    let killed = Instant::now();
    while pids.iter().any(|pid| is_there(*pid)) {
        assert!(killed.elapsed() < Duration::from_secs(1), "{pids:?}");
        thread::sleep(Duration::from_millis(10));
    }
    parent.wait().unwrap();
}

/// A program that answers with `bytes` whatever it is asked.
fn answering(bytes: &[u8]) -> HelperProgram {
    let octal = bytes.iter().fold(String::new(), |octal, byte| {
        octal + &format!("\\{byte:03o}")
    });
    HelperProgram {
        path: "/bin/sh".into(),
        shown_as: None,
        arguments: vec!["-c".into(), format!("printf '{octal}' >&0; sleep 5").into()],
        environment: Vec::new(),
    }
}

/// Whoever takes a decoder over can say what he likes: his own line loses its decoder, and that is all.
#[test]
fn what_no_decoder_says_ends_it_and_nothing_else() {
    let head = PictureHead {
        pts_us: 0,
        width: 64,
        height: 64,
        aspect: 1.0,
        declared_rate: None,
        damaged: false,
    };
    let picture = |width, height, aspect| {
        let mut bytes = Vec::new();
        let head = PictureHead {
            width,
            height,
            aspect,
            ..head
        };
        wire::put_picture(&mut bytes, &head);
        bytes
    };
    let many = {
        let mut bytes = Vec::new();
        for _ in 0..100 {
            wire::put_picture(&mut bytes, &head);
        }
        bytes
    };
    let mut ready = Vec::new();
    wire::put_ready(&mut ready, true);
    let unit = CodedUnit {
        codec: Codec::Aac,
        config: None,
        payload: vec![0].into(),
        pts_us: 0,
    };
    for (bytes, expected) in [
        (
            picture(u32::MAX - 1, u32::MAX, 1.0),
            "a picture that can't be",
        ),
        (picture(16_384, 16_384, 1.0), "a picture that can't be"),
        (picture(63, 64, 1.0), "a picture that can't be"),
        (picture(0, 64, 1.0), "a picture that can't be"),
        (picture(64, 64, f32::NAN), "a picture that can't be"),
        (many, "more pictures than a unit can give"),
        (ready.clone(), "a word out of turn"),
        (vec![0xff; 64], "a message of 4294967295 bytes"),
        (
            vec![0, 0, 0, 2, 99, 0],
            "a message of kind 99 that can't be read",
        ),
    ] {
        let program = answering(&[&ready[..], &bytes].concat());
        let mut decoder = ProcessDecoder::new(program, PIXELS_MAX);
        let mut out = Vec::new();
        let error = decoder.decode(&unit, &mut out).unwrap_err();
        assert!(
            error.is_lost() && error.to_string().contains(expected),
            "{error}"
        );
    }
}

#[test]
fn a_program_that_is_no_decoder_is_said_to_be_none() {
    let unit = CodedUnit {
        codec: Codec::Aac,
        config: None,
        payload: vec![0].into(),
        pts_us: 0,
    };
    for (path, expected) in [
        (
            "/nonexistent",
            "the decoder can't be started as a process of its own: No such file",
        ),
        (
            "/bin/false",
            "the decoder does not start (it ended with code 1)",
        ),
    ] {
        let program = HelperProgram {
            path: path.into(),
            arguments: Vec::new(),
            ..answering(&[])
        };
        let mut decoder = ProcessDecoder::new(program, PIXELS_MAX);
        let error = decoder
            .decode(&unit, &mut Vec::new())
            .unwrap_err()
            .to_string();
        assert!(error.starts_with(expected), "{error}");
    }
}

#[test]
fn a_picture_that_is_too_large_never_reaches_a_decoder() {
    let Some(units) = camera(1, "-tune zerolatency") else {
        return;
    };
    let mut decoder = ProcessDecoder::new(test_program(), 320 * 180);
    let first = units.iter().find(|unit| unit.codec == Codec::H264).unwrap();
    let error = decoder.decode(&coded(first), &mut Vec::new()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the picture is 320x192, more than decoder.max_pixels = 57600"
    );
    assert_eq!(decoder.process_id(), None);
}

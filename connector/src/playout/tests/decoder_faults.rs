//! Decoders that crash, hang and refuse: one line holds its picture for a moment, the others never notice.

use std::{fs, process::Command, sync::atomic::AtomicU32, sync::atomic::Ordering};

use super::*;
use crate::decode::{
    CodedUnit, DecodeError, Decoded, Decoder, PIXELS_MAX, process::tests::test_program,
};

fn isolated(name: &'static str) -> Fixture {
    let decoders = Decoders::in_processes(test_program(), PIXELS_MAX);
    Fixture::with(name, Box::new(move || decoders.open(name)))
}

/// The processes that decode for the line of this name.
fn decoders_of(line: &str) -> Vec<u32> {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    tasks
        .filter_map(|task| fs::read_to_string(task.unwrap().path().join("children")).ok())
        .flat_map(|children| {
            (children.split_whitespace())
                .map(|pid| pid.parse().unwrap())
                .collect::<Vec<u32>>()
        })
        .filter(|pid| {
            let arguments = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            arguments.trim_end_matches('\0').ends_with(line)
        })
        .collect()
}

fn signal(line: &str, signal: &str) {
    let decoders = decoders_of(line);
    assert_eq!(decoders.len(), 1, "{line}: {decoders:?}");
    let sent = Command::new("sh")
        .args([
            "-c",
            "kill -s \"$1\" \"$2\"",
            "sh",
            signal,
            &decoders[0].to_string(),
        ])
        .status()
        .unwrap();
    assert!(sent.success());
}

/// When a picture was first shown, from `from_us` on.
fn fresh(fixture: &Fixture, from_us: i64) -> Vec<i64> {
    let mut pictures = fixture.noted.log().pictures.clone();
    pictures.dedup_by_key(|(_, _, name)| *name);
    pictures.retain(|(at_us, ..)| *at_us > from_us);
    pictures.iter().map(|(at_us, ..)| *at_us).collect()
}

/// The longest that one picture stayed.
fn longest_us(shown: &[i64]) -> i64 {
    shown
        .windows(2)
        .map(|pair| pair[1] - pair[0])
        .max()
        .unwrap()
}

/// A GOP of 8 s: whoever waits for the next keyframe is seen to wait.
#[test]
fn a_decoder_that_crashes_and_one_that_hangs_cost_their_line_a_moment_and_the_other_nothing() {
    let Some(units) = camera(8, "-preset ultrafast -tune zerolatency -g 240") else {
        return;
    };
    let mut lines = [isolated("Camera 1"), isolated("Camera 2")];
    for line in &mut lines {
        line.connect(1);
    }
    let start_us = now_us() + 300_000;
    thread::scope(|scope| {
        for line in &mut lines {
            scope.spawn(|| line.send(1, &units, start_us, |_| 5_000));
        }
        wait_until(start_us + 2_000_000);
        signal("Camera 1", "SEGV");
        wait_until(start_us + 4_500_000);
        signal("Camera 1", "STOP");
    });
    wait_until(start_us + 8_000_000 + DELAY_US);
    let [hit, other] = &lines;
    let snapshots = [hit.handle.snapshot(), other.handle.snapshot()];
    let from_us = start_us + DELAY_US - 5_000;

    // Killed between two pictures: a replacement, and all since the keyframe again.
    let shown = fresh(hit, from_us);
    let crash: Vec<i64> = (shown.iter().copied())
        .filter(|at_us| *at_us < start_us + 4_000_000)
        .collect();
    assert!(longest_us(&crash) < 1_000_000, "{} µs", longest_us(&crash));
    assert!(longest_us(&shown) < 2_000_000, "{} µs", longest_us(&shown));
    let end_us = start_us + 8_000_000 + DELAY_US;
    assert!(shown.last().unwrap() > &(end_us - 200_000), "to the end");
    let video = &snapshots[0].video;
    assert_eq!(
        (video.decoder_restarts_total, video.decode_errors_total),
        (2, 0)
    );
    assert_eq!((video.lost_total, video.dropped_total), (0, 0));
    assert!(
        shown.len() as u64 + video.late_total >= 239,
        "every picture is shown or was too late: {} {}",
        shown.len(),
        video.late_total
    );
    assert_eq!(
        (snapshots[0].state, &snapshots[0].reason),
        (LineState::Live, &None)
    );
    let last = shown
        .windows(2)
        .rev()
        .take(30)
        .map(|pair| pair[1] - pair[0])
        .collect();
    assert!(spread(last).1 < 70_000, "it runs evenly again");

    let shown = fresh(other, from_us);
    let video = &snapshots[1].video;
    assert!(longest_us(&shown) < 250_000, "{} µs", longest_us(&shown));
    assert!(video.late_total <= 6, "{} late", video.late_total);
    assert!(
        shown.len() as u64 + video.late_total >= 239,
        "{}",
        shown.len()
    );
    assert_eq!(
        (
            video.decoder_restarts_total,
            video.lost_total,
            video.dropped_total
        ),
        (0, 0, 0)
    );
    for line in lines {
        line.playout.stop();
    }
    assert!(decoders_of("Camera 1").is_empty() && decoders_of("Camera 2").is_empty());
}

/// Dies of every keyframe.
#[derive(Debug)]
struct Poisoned {
    tries: Arc<AtomicU32>,
}

impl Decoder for Poisoned {
    fn decode(&mut self, _: &CodedUnit, _: &mut Vec<Decoded>) -> Result<(), DecodeError> {
        self.tries.fetch_add(1, Ordering::Relaxed);
        Err(DecodeError::Lost {
            how: "crashed (it ended by signal 11 (SIGSEGV))".to_owned(),
        })
    }

    fn finish(&mut self, _: MediaKind, _: &mut Vec<Decoded>) -> Result<(), DecodeError> {
        Ok(())
    }
}

#[test]
fn a_feed_that_ends_every_decoder_is_tried_less_and_less_often_and_said_so() {
    let Some(units) = camera(6, "-preset ultrafast -tune zerolatency -g 10") else {
        return;
    };
    let tries = Arc::new(AtomicU32::new(0));
    let make = {
        let tries = tries.clone();
        move || {
            let tries = tries.clone();
            Ok(Box::new(Poisoned { tries }) as Box<dyn Decoder>)
        }
    };
    let mut line = Fixture::with("Camera 1", Box::new(make));
    line.connect(1);
    let start_us = now_us() + 20_000;
    line.send(1, &units, start_us, |_| 5_000);
    let snapshot = line.handle.snapshot();
    let tries = tries.load(Ordering::Relaxed);
    // At once, once more with what was kept, then after 0.25, 0.5, 1, 2 and 4 s, a little less each.
    assert!((5..=9).contains(&tries), "{tries} of {}", units.len());
    assert_eq!(snapshot.video.decoder_restarts_total, u64::from(tries));
    let reason = snapshot.reason.unwrap();
    let expected = format!(
        "the decoder crashed (it ended by signal 11 (SIGSEGV)), {tries} times on this feed; it is started anew in "
    );
    assert!(reason.starts_with(&expected), "{reason}");
    assert!(reason.ends_with(" s, at the next keyframe"), "{reason}");
}

/// Does not come back from its first unit.
#[derive(Debug)]
struct Hanging;

impl Decoder for Hanging {
    fn decode(&mut self, _: &CodedUnit, _: &mut Vec<Decoded>) -> Result<(), DecodeError> {
        loop {
            thread::park();
        }
    }

    fn finish(&mut self, _: MediaKind, _: &mut Vec<Decoded>) -> Result<(), DecodeError> {
        Ok(())
    }
}

#[test]
fn a_decoder_that_hangs_in_the_lines_own_thread_is_named_and_does_not_keep_the_line_from_ending() {
    let Some(units) = camera(3, "-preset ultrafast -tune zerolatency") else {
        return;
    };
    let mut line = Fixture::with("Camera 1", Box::new(|| Ok(Box::new(Hanging))));
    line.connect(1);
    line.send(1, &units, now_us(), |_| 0);
    let reason = line.handle.snapshot().reason.unwrap();
    assert!(
        reason.starts_with("the decoder has been at one picture for 2 s: if it stays so, restart"),
        "{reason}"
    );
    let before_us = now_us();
    line.playout.stop();
    let took_us = now_us() - before_us;
    assert!(took_us < 2_500_000, "{took_us}");
}

#[test]
fn a_picture_that_is_too_large_is_refused_by_name_and_the_next_feed_is_played() {
    let Some(units) = camera(1, "-preset ultrafast -tune zerolatency") else {
        return;
    };
    let decoders = Decoders::in_processes(test_program(), 320 * 180);
    let mut line = Fixture::with("Camera 1", Box::new(move || decoders.open("Camera 1")));
    line.connect(1);
    let start_us = now_us();
    line.send(1, &units, start_us, |_| 0);
    wait_until(start_us + 1_000_000 + DELAY_US);
    let snapshot = line.handle.snapshot();
    assert_eq!(snapshot.state, LineState::Waiting);
    assert_eq!(
        snapshot.reason.unwrap(),
        "the pictures can't be decoded: the picture is 320x192, more than decoder.max_pixels = 57600; \
         waiting for the encoder's next keyframe"
    );
    assert_eq!(
        snapshot.video.decoder_restarts_total, 0,
        "it never saw them"
    );
}

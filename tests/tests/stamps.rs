//! The measuring tools themselves, before anything is measured with them.

use std::{
    io::{Read, Write},
    process::{Command, Stdio},
    thread,
};

use firstmile_tests::{
    harness::{Need, can_run},
    picture::Painter,
    stamp::{Luma, Reading, Stamp},
};

const PICTURES: u32 = 60;

/// What an encoder and a scaler do to a stamp, it survives: otherwise a lost stamp would say nothing about Firstmile.
#[test]
fn no_stamp_is_lost_in_x264_at_half_size_and_low_bitrate() {
    if !can_run(&[Need::Ffmpeg]) {
        return;
    }
    let mut ffmpeg = Command::new("ffmpeg")
        .args(["-hide_banner", "-nostdin", "-loglevel", "error"])
        .args([
            "-f", "rawvideo", "-pix_fmt", "yuv420p", "-s", "1280x720", "-r", "30", "-i", "-",
        ])
        .args([
            "-vf",
            "scale=640:360",
            "-c:v",
            "libx264",
            "-preset",
            "ultrafast",
        ])
        .args([
            "-tune",
            "zerolatency",
            "-bf",
            "2",
            "-b:v",
            "400k",
            "-f",
            "flv",
            "-",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let coded = ffmpeg.stdout.take().unwrap();
    let mut decoder = Command::new("ffmpeg")
        .args(["-hide_banner", "-nostdin", "-loglevel", "error", "-i", "-"])
        .args(["-f", "rawvideo", "-pix_fmt", "yuv420p", "-"])
        .stdin(coded)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut raw = ffmpeg.stdin.take().unwrap();
    let camera = thread::spawn(move || {
        let mut painter = Painter::new(1280, 720, 9);
        for number in 0..PICTURES {
            let wall_us = 1_795_000_000_000_000 + u64::from(number) * 33_300;
            let stamp = Stamp {
                wall_us,
                number,
                source: 9,
            };
            raw.write_all(painter.paint(stamp)).unwrap();
        }
    });

    let mut output = decoder.stdout.take().unwrap();
    let mut picture = vec![0; 640 * 360 * 3 / 2];
    let mut numbers = Vec::new();
    while output.read_exact(&mut picture).is_ok() {
        let luma = Luma {
            samples: &picture,
            pixel_stride: 1,
            line_stride: 640,
            width: 640,
            height: 360,
        };
        match Stamp::read(luma) {
            Reading::Stamp(stamp) => numbers.push(stamp.number),
            other => panic!("picture {}: {other:?}", numbers.len()),
        }
    }
    camera.join().unwrap();
    ffmpeg.wait().unwrap();
    decoder.wait().unwrap();
    assert_eq!(numbers, (0..PICTURES).collect::<Vec<_>>());
}

use firstmile_shared::media::AccessUnit;

use super::*;
use crate::decode::clip::{camera, clip};

fn new_decoder() -> FfmpegDecoder {
    FfmpegDecoder::new(crate::decode::PIXELS_MAX).unwrap()
}

fn coded(unit: &AccessUnit) -> CodedUnit {
    CodedUnit {
        codec: unit.codec,
        config: unit.config.clone(),
        payload: unit.payload.clone(),
        pts_us: unit.pts_us(),
    }
}

fn only(units: &[AccessUnit], kind: MediaKind) -> Vec<AccessUnit> {
    units
        .iter()
        .filter(|unit| unit.kind() == kind)
        .cloned()
        .collect()
}

/// What a decoder gave, and after how many units.
#[derive(Default)]
struct Run {
    pictures: Vec<(usize, DecodedPicture)>,
    sounds: Vec<DecodedSound>,
    errors: Vec<DecodeError>,
}

fn decode(decoder: &mut FfmpegDecoder, units: &[AccessUnit]) -> Run {
    let mut run = Run::default();
    let take = |run: &mut Run, fed: usize, out: Vec<Decoded>| {
        for decoded in out {
            match decoded {
                Decoded::Picture(picture) => run.pictures.push((fed, picture)),
                Decoded::Sound(sound) => run.sounds.push(sound),
            }
        }
    };
    for (n, unit) in units.iter().enumerate() {
        let mut out = Vec::new();
        if let Err(error) = decoder.decode(&coded(unit), &mut out) {
            run.errors.push(error);
        }
        take(&mut run, n + 1, out);
    }
    let mut out = Vec::new();
    decoder.finish(MediaKind::Video, &mut out).unwrap();
    decoder.finish(MediaKind::Audio, &mut out).unwrap();
    take(&mut run, units.len(), out);
    run
}

fn mean_luma(picture: &Picture) -> f64 {
    let luma: u64 = picture
        .pixels
        .iter()
        .skip(1)
        .step_by(2)
        .map(|y| u64::from(*y))
        .sum();
    #[expect(clippy::cast_precision_loss, reason = "a mean")]
    let mean = luma as f64 / (picture.pixels.len() / 2) as f64;
    mean
}

/// The decoder itself holds back nothing but what B-frames need.
#[test]
fn every_picture_comes_out_as_soon_as_it_can() {
    // (encoder, units needed before the first picture, pictures of 60)
    for (encoder, delay) in [
        ("-preset ultrafast -tune zerolatency", 0),
        ("-preset veryfast -bf 0", 0),
        ("-preset veryfast -bf 2", 2),
        (
            "-preset veryfast -tune zerolatency -x264-params slices=4",
            0,
        ),
    ] {
        let Some(units) = camera(2, encoder) else {
            return;
        };
        let video = only(&units, MediaKind::Video);
        let run = decode(&mut new_decoder(), &video);
        assert_eq!((run.errors.len(), run.pictures.len()), (0, 60), "{encoder}");
        for (n, (fed, _)) in run.pictures.iter().enumerate() {
            assert!(
                *fed <= (n + 1 + delay).min(60),
                "{encoder}: picture {n} after {fed} units"
            );
        }
        let mut expected: Vec<i64> = video.iter().map(AccessUnit::pts_us).collect();
        expected.sort_unstable();
        let got: Vec<i64> = run
            .pictures
            .iter()
            .map(|(_, picture)| picture.pts_us)
            .collect();
        assert_eq!(
            got, expected,
            "{encoder}: in the order and with the times of presentation"
        );
        let first = &run.pictures[0].1;
        assert_eq!((first.picture.width, first.picture.height), (320, 180));
        assert_eq!(first.declared_rate, Some(FrameRate::new(30, 1)));
        assert!((first.picture.aspect - 16.0 / 9.0).abs() < 0.01);
    }
}

/// 44.1 kHz becomes 48 kHz to the sample, however long it runs: a resampler that keeps back a little of every block
/// would be 81 ms late after each second.
#[test]
fn sound_at_44_1_khz_loses_nothing_on_its_way_to_48() {
    for (rate, channels) in [
        (44_100, 2),
        (44_100, 1),
        (48_000, 2),
        (48_000, 6),
        (22_050, 2),
    ] {
        let arguments = format!(
            "-f lavfi -i sine=frequency=440:sample_rate={rate}:duration=20 -c:a aac -ac {channels}"
        );
        let Some(units) = clip(&arguments) else {
            return;
        };
        let run = decode(&mut new_decoder(), &units);
        assert!(run.errors.is_empty());
        let frames: usize = run.sounds.iter().map(|sound| sound.sound.frames()).sum();
        let expected = units.len() * 1024 * 48_000 / usize::try_from(rate).unwrap();
        assert!(
            frames.abs_diff(expected) <= 48,
            "{rate} Hz: {frames} of {expected}"
        );
        for sound in &run.sounds {
            assert_eq!(
                (sound.sound.channels(), sound.source_rate),
                (channels, rate)
            );
        }
        // A tone and not noise: its zero crossings are twice its frequency. ffmpeg puts mono into the centre of 5.1.
        let tone = if channels == 6 { 2 } else { 0 };
        let signal: Vec<f32> = run
            .sounds
            .iter()
            .flat_map(|sound| sound.sound.channel(tone))
            .copied()
            .collect();
        let signal = &signal[48_000..10 * 48_000];
        let crossings = signal
            .windows(2)
            .filter(|pair| (pair[0] < 0.0) != (pair[1] < 0.0))
            .count();
        assert!(
            crossings.abs_diff(2 * 440 * 9) <= 20,
            "{rate} Hz, {channels} channels: {crossings}"
        );
    }
}

/// Without a word about it FFmpeg would go on with the old parameters and wrong pictures.
#[test]
fn a_change_of_format_loses_no_picture() {
    let small =
        "-f lavfi -i testsrc2=size=320x180:rate=30:duration=2 -c:v libx264 -g 30 -pix_fmt yuv420p";
    let Some(first) = clip(&format!("{small} -preset veryfast -bf 2")) else {
        return;
    };
    for second in [
        "-f lavfi -i testsrc2=size=640x360:rate=30:duration=2 -c:v libx264 -g 30 -pix_fmt yuv420p -tune zerolatency".to_owned(),
        format!("{small} -profile:v baseline"),
    ] {
        let Some(second) = clip(&second) else { return };
        let units: Vec<_> = first.iter().chain(&second).cloned().collect();
        let run = decode(&mut new_decoder(), &units);
        assert_eq!((run.errors.len(), run.pictures.len()), (0, 120));
        let alone = decode(&mut new_decoder(), &second);
        for ((_, picture), (_, expected)) in run.pictures[60..].iter().zip(&alone.pictures) {
            assert!(picture.picture.pixels[..] == expected.picture.pixels[..], "the same pictures");
        }
    }
}

#[test]
fn full_range_is_brought_to_limited() {
    let white = |range: &str, format: &str| {
        clip(&format!(
            "-f lavfi -i color=white:size=64x64:rate=10:duration=1 -vf scale=out_range={range},format={format} \
             -c:v libx264 -tune zerolatency -color_range {range}"
        ))
    };
    for (range, format) in [
        ("tv", "yuv420p"),
        ("pc", "yuvj420p"),
        ("tv", "yuv444p"),
        ("pc", "yuvj444p"),
        ("tv", "yuv420p10le"),
    ] {
        let Some(units) = white(range, format) else {
            return;
        };
        let run = decode(&mut new_decoder(), &units);
        assert_eq!(run.pictures.len(), 10, "{range} {format}");
        let luma = mean_luma(&run.pictures[0].1.picture);
        assert!((luma - 235.0).abs() < 1.5, "{range} {format}: {luma}");
        let chroma = run.pictures[0].1.picture.pixels[0];
        assert!(chroma.abs_diff(128) <= 1, "{range} {format}: {chroma}");
    }
}

#[test]
fn an_odd_size_becomes_an_even_one() {
    // 4:4:4 can have an odd width.
    let odd = "-f lavfi -i testsrc=size=321x181:rate=10:duration=1 -c:v libx264 -pix_fmt yuv444p -tune zerolatency";
    let Some(units) = clip(odd) else { return };
    let run = decode(&mut new_decoder(), &units);
    let picture = &run.pictures[0].1.picture;
    assert_eq!((picture.width, picture.height), (322, 181));
    assert_eq!(picture.pixels.len(), 322 * 181 * 2);
}

/// Whatever a stranger sends: an error at most, and the line goes on with the next keyframe.
#[test]
fn damage_is_an_error_and_never_the_end() {
    let Some(units) = camera(2, "-preset veryfast -tune zerolatency") else {
        return;
    };
    let mut state = 12_345_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for _ in 0..5 {
        let mut decoder = new_decoder();
        let damaged: Vec<_> = (units.iter().cloned())
            .map(|mut unit| {
                let mut bytes = unit.payload.to_vec();
                let len = bytes.len() as u64;
                match random() % 8 {
                    0 => bytes.truncate(usize::try_from(random() % len).unwrap()),
                    1 => bytes[usize::try_from(random() % len).unwrap()] ^= 0x55,
                    2 => bytes.insert(0, 0xff),
                    _ => {}
                }
                unit.payload = bytes.into();
                unit
            })
            .collect();
        decode(&mut decoder, &damaged);
        let run = decode(&mut decoder, &units);
        assert_eq!((run.errors.len(), run.pictures.len()), (0, 60));
    }
}

/// Encoders that refresh bit by bit send one keyframe at the start and never again.
#[test]
fn a_stream_without_keyframes_is_shown_from_its_recovery_point() {
    let refresh = "-preset veryfast -tune zerolatency -x264-params intra-refresh=1:keyint=30";
    let Some(units) = camera(4, refresh) else {
        return;
    };
    let mut video = only(&units, MediaKind::Video);
    let config = video[0].config.clone();
    video.drain(..10);
    // ffmpeg marks its recovery points as keyframes; not every encoder does.
    for unit in &mut video {
        unit.config = None;
    }
    video[0].config = config;
    let run = decode(&mut new_decoder(), &video);
    assert!(run.errors.is_empty());
    let (fed, _) = run.pictures[0];
    assert!(
        (20..=80).contains(&fed),
        "the first picture after {fed} units"
    );
    assert_eq!(run.pictures.len(), video.len() + 1 - fed);
}

#[test]
fn a_configuration_that_can_not_be_is_named() {
    let mut decoder = new_decoder();
    let mut out = Vec::new();
    let unit = |codec, config: Option<&'static [u8]>| CodedUnit {
        codec,
        config: config.map(Bytes::from_static),
        payload: Bytes::from_static(&[0, 0, 0, 1, 0x65]),
        pts_us: 0,
    };
    for (unit, expected) in [
        (unit(Codec::H264, None), "H.264 without its configuration"),
        (unit(Codec::Aac, None), "AAC without its configuration"),
        (
            unit(Codec::H264, Some(b"x")),
            "the H.264 configuration is not usable: ",
        ),
        (
            unit(Codec::H264, Some(&[1; 40])),
            "the H.264 configuration is not usable: ",
        ),
    ] {
        let error = decoder.decode(&unit, &mut out).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
    }
    assert!(out.is_empty());
}

/// A reconnecting encoder opens a decoder each time: they have to be given back.
#[test]
fn opening_and_closing_does_not_leak() {
    // The memory of a process that runs other tests beside this one says nothing: it runs itself again, alone.
    const ALONE: &str = "FIRSTMILE_TEST_ALONE";
    if std::env::var_os(ALONE).is_none() {
        let name = "decode::ffmpeg::tests::opening_and_closing_does_not_leak";
        let alone = std::process::Command::new(std::env::current_exe().unwrap())
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
    let Some(units) = camera(1, "-tune zerolatency") else {
        return;
    };
    let open_and_close = |times: usize| {
        for _ in 0..times {
            let run = decode(&mut new_decoder(), &units[..4]);
            assert!(!run.pictures.is_empty());
        }
    };
    open_and_close(50);
    // Other tests of this process take memory meanwhile, a leak grows each time.
    let grown = || {
        let before = resident_kb();
        open_and_close(300);
        resident_kb().saturating_sub(before)
    };
    let grown: Vec<_> = (0..5)
        .map(|_| grown())
        .take_while(|kb| *kb >= 4_000)
        .collect();
    assert!(grown.len() < 5, "kB in 300 rounds: {grown:?}");
}

fn resident_kb() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4
}

//! Test media: Debian's ffmpeg encodes, and its FLV is cut into the units that RTMP would have brought.

use std::{
    env, io,
    process::{Command, Stdio},
};

use bytes::{Buf, Bytes};
use firstmile_shared::media::{AccessUnit, Codec};

/// What ffmpeg makes of `arguments` (inputs and encoders), as units. `None` where there is no ffmpeg, said aloud; a
/// failure where `FIRSTMILE_REQUIRE_FFMPEG` is set.
#[expect(clippy::print_stderr, reason = "a skipped test says so")]
pub(crate) fn clip(arguments: &str) -> Option<Vec<AccessUnit>> {
    let output = Command::new("ffmpeg")
        .args(["-hide_banner", "-loglevel", "error", "-nostdin"])
        .args(arguments.split_whitespace())
        .args(["-f", "flv", "-flvflags", "no_duration_filesize", "pipe:1"])
        .stdin(Stdio::null())
        .output();
    match output {
        Ok(output) => {
            assert!(
                output.status.success(),
                "{}",
                String::from_utf8_lossy(&output.stderr)
            );
            Some(units(output.stdout.into()))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            assert!(
                env::var_os("FIRSTMILE_REQUIRE_FFMPEG").is_none(),
                "ffmpeg is not installed"
            );
            eprintln!("SKIPPED: ffmpeg is not installed");
            None
        }
        Err(error) => panic!("ffmpeg: {error}"),
    }
}

/// Moving pictures of 30 fps and a tone, as an encoder in the field sends them.
pub(crate) fn camera(seconds: u32, encoder: &str) -> Option<Vec<AccessUnit>> {
    clip(&format!(
        "-f lavfi -i testsrc2=size=320x180:rate=30:duration={seconds} -f lavfi -i \
         sine=frequency=440:sample_rate=48000:duration={seconds} -c:v libx264 -pix_fmt yuv420p -g 30 {encoder} \
         -c:a aac -ac 2"
    ))
}

/// Splits FLV as ffmpeg writes it; this is no parser for strangers.
fn units(mut flv: Bytes) -> Vec<AccessUnit> {
    flv.advance(9 + 4);
    let (mut video_config, mut audio_config) = (None, None);
    let mut units = Vec::new();
    while flv.len() > 11 {
        let kind = flv.get_u8();
        let len = usize::try_from(flv.get_uint(3)).unwrap();
        let low = flv.get_uint(3);
        let time_ms = i64::try_from((u64::from(flv.get_u8()) << 24) | low).unwrap();
        flv.advance(3);
        let mut body = flv.split_to(len);
        flv.advance(4);
        let unit = |codec, keyframe, cts_us, config: &Option<Bytes>, payload| AccessUnit {
            codec,
            track: 0,
            keyframe,
            disposable: false,
            discontinuity: false,
            dts_us: time_ms * 1000,
            cts_us,
            config: config.clone().filter(|_| keyframe),
            payload,
        };
        match kind {
            9 => {
                let keyframe = body.get_u8() >> 4 == 1;
                let packet = body.get_u8();
                let cts_ms = i32::try_from(body.get_int(3)).unwrap();
                match packet {
                    0 => video_config = Some(body),
                    1 => units.push(unit(
                        Codec::H264,
                        keyframe,
                        cts_ms * 1000,
                        &video_config,
                        body,
                    )),
                    _ => {}
                }
            }
            8 => {
                body.advance(1);
                match body.get_u8() {
                    0 => audio_config = Some(body),
                    _ => units.push(unit(Codec::Aac, true, 0, &audio_config, body)),
                }
            }
            _ => {}
        }
    }
    units
}

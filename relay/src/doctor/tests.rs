//! Feeds in virtual time: what an encoder makes, through an uplink, to the doctor.

mod codecs;

use bytes::Bytes;
use firstmile_shared::media::Codec;
use proptest::prelude::*;

use super::*;

const S: i64 = 1_000_000;
const MS: i64 = 1_000;

/// An encoder and its uplink. As it stands, nothing is wrong with it.
#[derive(Clone)]
struct Feed {
    fps: i64,
    gop: i64,
    /// Bits a second of the picture.
    video_bps: i64,
    cts_us: i64,
    sps: &'static [u8],
    /// AAC's own code: 48 kHz, stereo.
    audio: Option<[u8; 2]>,
    /// By how much sound comes after its pictures.
    sound_late_us: i64,
    /// Bits a second that the uplink carries; 0: any.
    link_bps: i64,
    /// The uplink stands still in between.
    stall: (i64, i64),
    /// Every so many pictures the camera leaves out the next but one.
    skips: i64,
    /// Media time from then on is ahead by so much.
    jump: (i64, i64),
    /// Every so many pictures the time goes back by a picture.
    backwards: i64,
    seconds: i64,
}

impl Default for Feed {
    fn default() -> Self {
        Self {
            fps: 30,
            gop: 30,
            video_bps: 3_000_000,
            cts_us: 0,
            sps: SPS_720P_709,
            audio: Some([0x11, 0x90]),
            sound_late_us: 0,
            link_bps: 0,
            stall: (0, 0),
            skips: 0,
            jump: (i64::MAX, 0),
            backwards: 0,
            seconds: 20,
        }
    }
}

impl Feed {
    /// What comes when: (arrival, unit).
    fn units(&self) -> Vec<(i64, AccessUnit)> {
        let mut made = Vec::new();
        for n in 0..self.seconds * self.fps {
            if self.skips > 0 && n % self.skips == self.skips - 1 {
                continue;
            }
            let at_us = n * S / self.fps;
            let mut dts_us = at_us;
            if self.backwards > 0 && n % self.backwards == 3 {
                dts_us -= 2 * S / self.fps;
            }
            let keyframe = n % self.gop == 0;
            let len = usize::try_from(self.video_bps / 8 / self.fps).unwrap();
            made.push((at_us, self.unit(Codec::H264, dts_us, keyframe, len)));
        }
        let blocks = if self.audio.is_some() {
            self.seconds * 48_000 / 1_024
        } else {
            0
        };
        for n in 0..blocks {
            let dts_us = n * 1_024 * S / 48_000;
            let unit = self.unit(Codec::Aac, dts_us, true, 341);
            made.push((dts_us + self.sound_late_us, unit));
        }
        made.sort_by_key(|(at_us, _)| *at_us);
        let mut free_us = 0;
        let mut jumped = [false; 2];
        for (at_us, unit) in &mut made {
            let (from_us, until_us) = self.stall;
            let sent_us = (*at_us).max(free_us);
            let sent_us = if (from_us..until_us).contains(&sent_us) {
                until_us
            } else {
                sent_us
            };
            let bits = i64::try_from(unit.payload.len()).unwrap() * 8;
            free_us = sent_us
                + if self.link_bps > 0 {
                    bits * S / self.link_bps
                } else {
                    0
                };
            if unit.dts_us >= self.jump.0 {
                let kind = usize::from(unit.kind() == MediaKind::Audio);
                unit.discontinuity = !std::mem::replace(&mut jumped[kind], true);
                unit.dts_us += self.jump.1;
            }
            *at_us = free_us;
        }
        made
    }

    fn unit(&self, codec: Codec, dts_us: i64, keyframe: bool, len: usize) -> AccessUnit {
        let config = match codec {
            Codec::Aac => self.audio.map(|config| Bytes::copy_from_slice(&config)),
            _ => keyframe.then(|| avcc(self.sps)),
        };
        AccessUnit {
            codec,
            track: 0,
            keyframe,
            disposable: false,
            discontinuity: false,
            dts_us,
            cts_us: if codec == Codec::H264 {
                i32::try_from(self.cts_us).unwrap()
            } else {
                0
            },
            config,
            payload: vec![0; len].into(),
        }
    }

    /// What is found each second, up to `until_us`, with ages as the registry measures them.
    fn examined(&self, case: &Case<'_>, until_us: i64) -> Vec<(i64, Vec<Finding>)> {
        let mut doctor = Doctor::default();
        let mut age = crate::registry::age::Age::default();
        let mut found = Vec::new();
        let mut units = self.units().into_iter().peekable();
        let mut now_us = 0;
        while now_us < until_us {
            now_us += S;
            while let Some((at_us, unit)) = units.next_if(|(at_us, _)| *at_us <= now_us) {
                let baseline_us = age.observe(at_us, unit.dts_us, unit.discontinuity);
                doctor.observe(&unit, at_us, at_us - unit.pts_us() - baseline_us);
            }
            found.push((now_us, doctor.examine(case, now_us)));
        }
        found
    }

    /// At the end.
    fn findings(&self, case: &Case<'_>) -> Vec<Finding> {
        let mut all = self.examined(case, self.seconds * S);
        all.pop().map(|(_, findings)| findings).unwrap_or_default()
    }
}

fn case() -> Case<'static> {
    Case {
        line: "Camera 2",
        agent: "Larix iOS/1.4",
        show: None,
        delay_us: 600 * MS,
        foreign_video: None,
        foreign_audio: None,
    }
}

fn hd25() -> Case<'static> {
    Case {
        show: Some(ShowFormat {
            width: 1920,
            height: 1080,
            interlaced: false,
            rate: (25_000, 1_000),
        }),
        ..case()
    }
}

fn avcc(sps: &[u8]) -> Bytes {
    let mut record = vec![1, sps[1], sps[2], sps[3], 0xff, 0xe1, 0];
    record.push(u8::try_from(sps.len()).unwrap());
    record.extend(sps);
    record.extend([1, 0, 4, 0x68, 0xce, 0x0f, 0xc8]);
    record.into()
}

#[test]
fn a_feed_that_is_well_has_no_findings() {
    for feed in [
        Feed::default(),
        Feed {
            fps: 25,
            gop: 50,
            ..Feed::default()
        },
        Feed {
            fps: 60,
            video_bps: 6_000_000,
            gop: 120,
            ..Feed::default()
        },
        Feed {
            link_bps: 6_000_000,
            ..Feed::default()
        },
    ] {
        for (at_us, findings) in feed.examined(&case(), feed.seconds * S) {
            assert_eq!(findings, [], "after {at_us} us");
        }
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn each_fault_is_named_with_its_side_and_its_remedy() {
    let well = Feed::default();
    let mut wrong = Vec::new();
    // (feed, case, code, side, sentence)
    for (feed, case, code, side, text) in [
        (
            Feed {
                link_bps: 2_100_000,
                video_bps: 3_870_000,
                seconds: 11,
                ..well.clone()
            },
            case(),
            "behind",
            "uplink",
            "Camera 2's phone is 4.7 s behind: its uplink carries 2.1 of 4.0 Mbit/s, set 1.6",
        ),
        (
            Feed {
                stall: (5 * S, 15 * S),
                link_bps: 3_800_000,
                seconds: 22,
                ..well.clone()
            },
            case(),
            "behind",
            "uplink",
            "Camera 2's phone is 8.5 s behind and catches up: live again in about 40 s",
        ),
        (
            Feed {
                stall: (10 * S, 15 * S),
                seconds: 18,
                ..well.clone()
            },
            case(),
            "upload_stalls",
            "uplink",
            "the uplink of Camera 2's phone stood still once in the last minute, for up to 5 s: find it a better \
             network, or give the line a delay of more than that",
        ),
        (
            Feed {
                gop: 240,
                ..well.clone()
            },
            case(),
            "keyframe_interval",
            "encoder",
            "Camera 2's phone sends a keyframe every 8 s: set 1 s, or each return freezes up to 8 s",
        ),
        (
            Feed {
                gop: 10_000,
                ..well.clone()
            },
            case(),
            "keyframe_interval",
            "encoder",
            "Camera 2's phone has sent no keyframe for 19 s: set one every second, or each return freezes as long",
        ),
        (
            Feed {
                fps: 2,
                gop: 2,
                video_bps: 1_000_000,
                ..well.clone()
            },
            case(),
            "frame_rate",
            "encoder",
            "Camera 2's phone sends 2 pictures a second, whatever moves jerks: set 25 or more, and give it light",
        ),
        (
            well.clone(),
            hd25(),
            "frame_rate",
            "encoder",
            "Camera 2's phone sends 30 pictures a second, the show has 25: set 25, or some are shown twice or never",
        ),
        (
            well.clone(),
            hd25(),
            "resolution",
            "encoder",
            "Camera 2's phone sends 1280x720, the show is 1920x1080: set 1920x1080",
        ),
        (
            Feed {
                skips: 5,
                ..well.clone()
            },
            case(),
            "irregular_rate",
            "encoder",
            "Camera 2's phone sends 24 pictures a second on average, but up to 66 ms apart: set a constant frame rate, \
             and give it light",
        ),
        (
            Feed {
                cts_us: 166_000,
                ..well.clone()
            },
            case(),
            "b_frames",
            "encoder",
            "Camera 2's phone sends B-frames, which hold each picture back by up to 166 ms: set none (zero latency)",
        ),
        (
            Feed {
                sps: SPS_720P_FULL_RANGE,
                ..well.clone()
            },
            case(),
            "colour_range",
            "encoder",
            "Camera 2's phone sends full-range (PC) colours: black and white are not where the studio has them; set \
             limited (TV) range",
        ),
        (
            Feed {
                sps: SPS_720P_UNKNOWN,
                ..well.clone()
            },
            case(),
            "colour_unknown",
            "encoder",
            "Camera 2's phone does not say which colours it sends, BT.709 is assumed: set BT.709 (Rec. 709)",
        ),
        (
            Feed {
                video_bps: 20_000_000,
                ..well.clone()
            },
            case(),
            "bitrate_high",
            "encoder",
            "Camera 2's phone sends 20.1 Mbit/s for 1280x720 at 30: nobody sees more than 5.5 of it and its uplink has \
             to carry all; set 2.8",
        ),
        (
            Feed {
                video_bps: 300_000,
                ..well.clone()
            },
            case(),
            "bitrate_low",
            "encoder",
            "Camera 2's phone sends 0.3 Mbit/s for 1280x720 at 30: whatever moves looks coarse; set 2.8, or a smaller \
             picture",
        ),
        (
            Feed {
                audio: None,
                ..well.clone()
            },
            case(),
            "no_sound",
            "encoder",
            "Camera 2's phone sends pictures without sound: switch its microphone on",
        ),
        (
            Feed {
                audio: Some([0x13, 0x90]),
                ..well.clone()
            },
            case(),
            "sample_rate",
            "encoder",
            "Camera 2's phone sends sound of 22.05 kHz: set 48 kHz, or it is converted and loses what is above 11.025 kHz",
        ),
        (
            Feed {
                jump: (10 * S, 100 * S),
                ..well.clone()
            },
            case(),
            "timestamp_jumps",
            "encoder",
            "the clock of Camera 2's phone jumped once in the last minute, last by 100 s ahead: each jump is seen; update \
             it or start it again",
        ),
        (
            Feed {
                backwards: 100,
                ..well.clone()
            },
            case(),
            "timestamps_backwards",
            "encoder",
            "Camera 2's phone sends times that stand still or go back, 6 times in the last minute: pictures stutter; \
             update it or start it again",
        ),
        (
            Feed {
                sound_late_us: 1_500 * MS,
                ..well.clone()
            },
            case(),
            "interleaving",
            "encoder",
            "Camera 2's phone sends its sound 1.5 s after the picture they belong to: that is more than the delay of 0.6 s, \
             so its sound can't be heard; set a longer delay, or its audio and video buffers alike",
        ),
    ] {
        let findings = feed.findings(&case);
        let found = findings.iter().find(|finding| finding.code == code);
        let found = found.map(|found| (found.side.as_str(), found.text.as_str()));
        if found != Some((side, text)) {
            wrong.push(format!("{code}: {findings:#?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_worst_comes_first_and_a_fault_names_no_other() {
    let feed = Feed {
        link_bps: 2_100_000,
        sps: SPS_720P_UNKNOWN,
        gop: 240,
        ..Feed::default()
    };
    let codes: Vec<_> = (feed.findings(&case()).into_iter())
        .map(|finding| (finding.code, finding.severity))
        .collect();
    assert_eq!(
        codes,
        [
            ("behind".to_owned(), FindingSeverity::Error),
            ("keyframe_interval".to_owned(), FindingSeverity::Warning),
            ("colour_unknown".to_owned(), FindingSeverity::Note),
        ]
    );
}

/// An uplink that is too slow for a stream that is too much names the smaller of the two numbers, once.
#[test]
fn one_bitrate_is_named_to_set() {
    let feed = Feed {
        video_bps: 30_000_000,
        link_bps: 20_000_000,
        sps: SPS_720P_UNKNOWN,
        ..Feed::default()
    };
    let findings = feed.findings(&case());
    let rates: Vec<_> = (findings.iter())
        .filter(|finding| finding.text.contains("Mbit/s"))
        .map(|finding| (finding.code.as_str(), finding.text.split_once("set ")))
        .collect();
    let [("behind", Some((_, set)))] = rates[..] else {
        panic!("{findings:#?}");
    };
    assert!(set.starts_with("2."), "{set}");
}

#[test]
fn what_is_over_is_forgotten_and_what_stalls_is_said_while_it_lasts() {
    let feed = Feed {
        stall: (10 * S, 16 * S),
        seconds: 90,
        ..Feed::default()
    };
    let codes_at = |seconds: i64| -> Vec<String> {
        let (_, findings) = feed.examined(&case(), seconds * S).pop().unwrap();
        findings.into_iter().map(|finding| finding.code).collect()
    };
    for (seconds, codes) in [
        (11, &[][..]),
        (13, &["stalled"]),
        (15, &["stalled"]),
        (17, &["upload_stalls"]),
        (75, &["upload_stalls"]),
        (78, &[]),
    ] {
        assert_eq!(codes_at(seconds), codes, "after {seconds} s");
    }
}

/// No unit of what can't be carried is observed, and nobody is to look for a camera that is there.
#[test]
fn a_codec_that_can_not_be_decoded_is_what_is_wrong() {
    let case = Case {
        foreign_video: Some("Sorenson H.263"),
        foreign_audio: Some("Speex"),
        ..case()
    };
    let texts = [
        "Camera 2's phone sends Sorenson H.263, which can't be decoded: set H.264",
        "Camera 2's phone sends sound as Speex, which can't be decoded: set AAC",
    ];
    let findings = Doctor::default().examine(&case, S);
    let found: Vec<_> = findings.iter().map(|f| f.text.as_str()).collect();
    assert_eq!(found, texts);
    let mut doctor = Doctor::default();
    let feed = Feed::default();
    for n in 0..1_000 {
        let at_us = n * 20 * MS;
        doctor.observe(&feed.unit(Codec::Aac, at_us, true, 341), at_us, 0);
    }
    let findings = doctor.examine(&case, 20 * S);
    let found: Vec<_> = findings.iter().map(|f| f.text.as_str()).collect();
    assert_eq!(found, texts);
}

#[test]
fn a_stranger_does_not_paint_the_terminal() {
    let case = Case {
        line: "Camera\u{1b}[2J 2",
        agent: &"x".repeat(10_000),
        ..case()
    };
    let feed = Feed {
        audio: None,
        ..Feed::default()
    };
    let findings = feed.findings(&case);
    assert_eq!(findings.len(), 1);
    assert!(!findings[0].text.contains(char::is_control));
    assert!(findings[0].text.chars().count() <= FINDING_TEXT_MAX);
}

proptest! {
    #[test]
    fn arbitrary_times_never_panic_and_findings_are_bounded(
        units in prop::collection::vec((any::<i64>(), any::<i64>(), any::<i32>(), any::<[bool; 3]>(), 0..2_000usize), 0..200),
    ) {
        let mut doctor = Doctor::default();
        let feed = Feed::default();
        let mut now_us = 0i64;
        for (step_us, dts_us, cts_us, [is_video, keyframe, discontinuity], len) in units {
            now_us += step_us.rem_euclid(3 * S);
            let codec = if is_video { Codec::H264 } else { Codec::Aac };
            let unit = AccessUnit {
                discontinuity,
                cts_us,
                ..feed.unit(codec, dts_us, keyframe, len)
            };
            doctor.observe(&unit, now_us, dts_us);
            prop_assert!(doctor.examine(&hd25(), now_us).len() <= FINDINGS_MAX);
        }
    }
}

/// As x264 writes them: 1280x720 at 30, with BT.709 said, in full range, with nothing said.
const SPS_720P_709: &[u8] =
    b"\x67\x42\xc0\x1f\xda\x01\x40\x16\xec\x05\xa8\x08\x08\x0a\x00\x00\x03\x00\x02\x00\x00\x03\x00\x79\x1e\x30\x65\x40";
const SPS_720P_FULL_RANGE: &[u8] =
    b"\x67\x42\xc0\x1f\xda\x01\x40\x16\xec\x05\xb8\x08\x08\x0a\x00\x00\x03\x00\x02\x00\x00\x03\x00\x79\x1e\x30\x65\x40";
const SPS_720P_UNKNOWN: &[u8] =
    b"\x67\x42\xc0\x1f\xda\x01\x40\x16\xec\x04\x40\x00\x00\x03\x00\x40\x00\x00\x0f\x23\xc6\x0c\xa8";

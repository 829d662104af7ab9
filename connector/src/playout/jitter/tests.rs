use bytes::Bytes;
use firstmile_shared::media::Codec;
use proptest::prelude::*;

use super::*;

const FRAME_US: i64 = 40_000;
const TIMING: Timing = Timing {
    delay_us: 400_000,
    video_lead_us: FRAME_US,
    sound_trim_us: 0,
};

/// `K` a keyframe, `p` a picture, `a` sound; the `seq`th unit of a feed of 25 fps, arriving at `arrived_us`.
fn unit(seq: u64, kind: char, arrived_us: i64) -> Queued {
    let dts_us = i64::try_from(seq).unwrap() * FRAME_US;
    Queued {
        unit: AccessUnit {
            codec: if kind == 'a' { Codec::Aac } else { Codec::H264 },
            track: 0,
            keyframe: kind != 'p',
            disposable: false,
            discontinuity: false,
            dts_us,
            cts_us: 0,
            config: None,
            payload: Bytes::from_static(&[0; 100]),
        },
        seq,
        arrived_us,
        baseline_us: 0,
    }
}

fn left_out(from_seq: u64, to_seq: u64, video: u32) -> LeftOut {
    LeftOut {
        from_seq,
        to_seq,
        video,
        disposable: false,
    }
}

/// What is given out by `now_us`, in order; `|` before what follows a gap.
fn drain(jitter: &mut Jitter, now_us: i64) -> String {
    let mut out = String::new();
    while let Some(picture) = jitter.next_video(TIMING, now_us) {
        if picture.gap {
            out.push('|');
        }
        out += &picture.queued.seq.to_string();
        out.push(' ');
    }
    out.trim_end().to_owned()
}

/// The same, asked every millisecond.
fn play(jitter: &mut Jitter, from_us: i64, to_us: i64) -> String {
    let steps = (from_us..=to_us).step_by(1_000);
    let out: Vec<String> = steps
        .map(|now_us| drain(jitter, now_us))
        .filter(|out| !out.is_empty())
        .collect();
    out.join(" ")
}

fn filled(units: &str) -> Jitter {
    let mut jitter = Jitter::default();
    for (seq, kind) in units.chars().enumerate() {
        if kind != '.' {
            jitter.push(unit(seq as u64, kind, 0), TIMING, 0);
        }
    }
    jitter
}

/// Sound has no keyframes to skip to: the oldest goes. A "unit" of sound of 8 MiB is not one.
#[test]
fn what_sound_may_hold_is_bounded_in_bytes_too() {
    let mut jitter = Jitter::default();
    let mut push = |seq, len| {
        let mut sound = unit(seq, 'a', 0);
        sound.unit.payload = vec![0; len].into();
        jitter.push(sound, TIMING, 0);
        jitter
            .audio
            .values()
            .map(|unit| unit.unit.payload.len())
            .sum::<usize>()
    };
    for seq in 0..100 {
        assert!(push(seq, 1024 * 1024) <= AUDIO_BYTES_MAX);
    }
    assert_eq!(push(100, 8 * 1024 * 1024), 0);
    assert_eq!(push(101, 300), 300);
    assert!(jitter.next_audio(TIMING, i64::MAX).is_some());
    assert_eq!(jitter.audio_bytes, 0);
}

#[test]
fn a_unit_is_held_until_its_due_time_less_the_lead() {
    let mut jitter = filled("Kpp");
    assert_eq!(jitter.wake_us(TIMING, 0), Some(360_000));
    assert_eq!(drain(&mut jitter, 359_999), "");
    assert_eq!(drain(&mut jitter, 360_000), "|0");
    assert_eq!(drain(&mut jitter, 399_999), "");
    assert_eq!(drain(&mut jitter, 440_000), "1 2");
    assert!(jitter.is_empty());
    assert_eq!(jitter.wake_us(TIMING, 440_000), None);
}

#[test]
fn units_come_out_in_order_whatever_order_they_come_in() {
    let mut jitter = Jitter::default();
    for seq in [2, 0, 3, 1] {
        let kind = if seq == 0 { 'K' } else { 'p' };
        jitter.push(unit(seq, kind, 0), TIMING, 0);
    }
    assert_eq!(drain(&mut jitter, 1_000_000), "|0 1 2 3");
}

/// With B-frames a picture is decoded at its decode time: the ones it waits for have to be in by when it is due.
#[test]
fn a_reordered_picture_is_given_out_by_its_decode_time() {
    let mut jitter = Jitter::default();
    let mut reordered = unit(0, 'K', 0);
    reordered.unit.cts_us = 80_000;
    jitter.push(reordered, TIMING, 0);
    assert_eq!(jitter.wake_us(TIMING, 0), Some(360_000));
    assert_eq!(drain(&mut jitter, 360_000), "|0");
}

#[test]
fn what_is_missing_is_waited_for_and_given_up() {
    // (units, from 0 on, all there at once but the dots; given out by 600 ms, given out by 1.5 s)
    for (units, early, late) in [
        ("Kppp", "|0 1 2 3", ""),
        ("Kp.pp", "|0 1", "|3 4"), // The missing one may still come, half a second past the due time.
        ("Kp.pKp", "|0 1 |4 5", ""), // A keyframe makes it needless.
        ("Kp.ppppppKp", "|0 1", "|9 10"),
        ("Kpapap", "|0 1 3 5", ""), // Sound is no gap.
        (".ppKp", "|1 2 3 4", ""), // Where it starts, nothing is missing; the gate sees to the rest.
    ] {
        let mut jitter = filled(units);
        assert_eq!(play(&mut jitter, 0, 600_000), early, "{units} early");
        assert_eq!(play(&mut jitter, 600_000, 1_500_000), late, "{units} late");
    }
}

#[test]
fn a_unit_that_comes_late_is_still_given_out_in_its_place() {
    let mut jitter = filled("Kp.pp");
    assert_eq!(drain(&mut jitter, 600_000), "|0 1");
    jitter.push(unit(2, 'p', 700_000), TIMING, 700_000);
    assert_eq!(drain(&mut jitter, 700_000), "2 3 4");
    assert_eq!(jitter.losses(9_000_000), Losses::default());
}

#[test]
fn an_announced_drop_is_not_waited_for() {
    // (announced, how many of them video; given out by 600 ms; dropped, lost in the end)
    for (announced, video, expected, dropped, lost) in [
        (None, 0, "|0 1", 0, 1),
        (Some((2, 2)), 1, "|0 1 |3 4", 1, 0),
        (Some((2, 2)), 0, "|0 1 3 4", 0, 0),  // It was sound.
        (Some((1, 3)), 1, "|0 1 |3 4", 1, 0), // A stretch says what is missing in it, not what came.
        (Some((0, u64::MAX)), 1, "|0 1 |3 4", 1, 0),
        (Some((7, 3)), 1, "|0 1", 1, 1), // Nonsense.
    ] {
        let mut jitter = filled("Kp.pp");
        if let Some((from, to)) = announced {
            jitter.announce(left_out(from, to, video));
        }
        assert_eq!(drain(&mut jitter, 600_000), expected, "{announced:?}");
        drain(&mut jitter, 1_500_000);
        let losses = jitter.losses(9_000_000);
        assert_eq!(
            (losses.dropped, losses.lost),
            (dropped, lost),
            "{announced:?}"
        );
    }
}

#[test]
fn what_follows_pictures_that_no_other_needs_is_no_gap() {
    let mut jitter = filled("K.p.ap");
    for seq in [1, 3] {
        jitter.announce(LeftOut {
            disposable: true,
            ..left_out(seq, seq, 1)
        });
    }
    let mut given = Vec::new();
    while let Some(picture) = jitter.next_video(TIMING, 600_000) {
        given.push((picture.queued.seq, picture.gap, picture.thinned));
    }
    assert_eq!(
        given,
        [(0, true, false), (2, false, true), (5, false, true)]
    );
    assert_eq!(jitter.losses(9_000_000).dropped, 2);
    // Something else is missing there, too.
    let mut jitter = filled("K..p");
    jitter.announce(LeftOut {
        disposable: true,
        ..left_out(1, 1, 1)
    });
    assert_eq!(drain(&mut jitter, 600_000), "|0");
    jitter.announce(left_out(2, 2, 1));
    assert_eq!(drain(&mut jitter, 600_000), "|3");
}

#[test]
fn a_loss_counts_only_when_nobody_explains_it() {
    let mut jitter = filled("Kp.pp");
    drain(&mut jitter, 1_500_000);
    assert_eq!(jitter.losses(1_600_000).lost, 0, "too early to tell");
    jitter.announce(left_out(2, 2, 1));
    assert_eq!(
        jitter.losses(9_000_000),
        Losses {
            dropped: 1,
            ..Losses::default()
        }
    );

    let mut jitter = filled("Kp.pp");
    drain(&mut jitter, 1_500_000);
    jitter.push(unit(2, 'p', 1_600_000), TIMING, 1_600_000);
    assert_eq!(
        jitter.losses(9_000_000),
        Losses {
            late: 1,
            ..Losses::default()
        }
    );
}

/// After a stall everything comes at once and late: decoding starts at the newest keyframe that is due.
#[test]
fn a_late_burst_is_skipped_up_to_its_newest_keyframe() {
    let mut jitter = filled("KppKppKpp");
    assert_eq!(drain(&mut jitter, 900_000), "|6 7 8");
    assert_eq!(jitter.losses(0).late, 6);
}

#[test]
fn too_much_is_cut_at_the_newest_keyframe() {
    let mut jitter = Jitter::default();
    for seq in 0..100 {
        let kind = if seq % 10 == 0 { 'K' } else { 'p' };
        jitter.push(unit(seq, kind, 0), TIMING, 0);
    }
    let count = u64::try_from(jitter.video.len()).unwrap();
    // The delay, a GOP of 400 ms and 500 ms are 32 pictures.
    assert!(count <= 33, "{count}");
    let (&first, head) = jitter.video.first_key_value().unwrap();
    assert!(head.unit.keyframe);
    assert_eq!(jitter.losses(0).dropped, first);
    // A gap, but one that starts with a keyframe.
    assert!(drain(&mut jitter, 90_000_000).starts_with('|'));
}

#[test]
fn the_newest_gop_stays_however_long_it_is() {
    let mut jitter = Jitter::default();
    for seq in 0..500 {
        jitter.push(unit(seq, if seq == 0 { 'K' } else { 'p' }, 0), TIMING, 0);
    }
    assert_eq!(jitter.video.len(), 500);
    assert_eq!(jitter.losses(0), Losses::default());
}

#[test]
fn sound_that_follows_comes_early_and_sound_after_a_gap_in_time() {
    let mut jitter = filled("aa.a");
    // The first two are not known to follow: 30 ms before they are due; then 150 ms before.
    assert_eq!(jitter.wake_us(TIMING, 0), Some(370_000));
    assert!(jitter.next_audio(TIMING, 369_999).is_none());
    assert_eq!(jitter.next_audio(TIMING, 370_000).unwrap().seq, 0);
    assert_eq!(jitter.next_audio(TIMING, 410_000).unwrap().seq, 1);
    // One is missing: it has until 30 ms before its successor is due.
    assert!(jitter.next_audio(TIMING, 489_999).is_none());
    jitter.push(unit(2, 'a', 0), TIMING, 450_000);
    assert_eq!(jitter.next_audio(TIMING, 450_000).unwrap().seq, 2);
    assert_eq!(jitter.next_audio(TIMING, 450_000).unwrap().seq, 3);
}

proptest! {
    /// Whatever is lost, doubled or out of order: what comes out rises, never follows a gap unannounced, and every
    /// unit is given out, held, or counted.
    #[test]
    fn what_comes_out_is_in_order_and_accounted_for(
        events in prop::collection::vec((0..120u64, 0..4u8, -50_000..400_000_i64), 1..300),
        gop in 1..40u64,
    ) {
        let mut jitter = Jitter::default();
        let (mut now_us, mut last) = (0, None);
        let mut arrived = std::collections::BTreeSet::new();
        let mut given = 0;
        for (seq, what, step_us) in events {
            now_us += step_us.max(0) / 4;
            if what == 3 {
                jitter.announce(left_out(seq, seq + 2, 1));
            } else if arrived.insert(seq) {
                jitter.push(unit(seq, if seq % gop == 0 { 'K' } else { 'p' }, now_us), TIMING, now_us);
            }
            while let Some(picture) = jitter.next_video(TIMING, now_us) {
                let seq = picture.queued.seq;
                prop_assert!(last.is_none_or(|last| last < seq), "{seq} after {last:?}");
                prop_assert!(picture.gap || last.is_some_and(|last| last + 1 == seq), "gap before {seq}");
                last = Some(seq);
                given += 1;
            }
            if !jitter.video.is_empty() {
                prop_assert!(jitter.wake_us(TIMING, now_us).is_some_and(|at_us| at_us > now_us), "a wake-up in the past");
            }
        }
        let held = jitter.video.len();
        let losses = jitter.losses(now_us);
        let announced = losses.dropped;
        let counted = given + held as u64 + losses.late;
        prop_assert!(counted <= arrived.len() as u64 && counted + announced >= arrived.len() as u64);
    }

    /// Numbers from a stranger end in losses, never in a panic or without end.
    #[test]
    fn arbitrary_numbers_never_panic(
        events in prop::collection::vec((0..1u64 << 53, -(1i64 << 53)..1i64 << 53, any::<i32>(), any::<bool>(), 0..3u8), 1..60),
        delay_us in 0..30_000_000_i64,
    ) {
        let timing = Timing { delay_us, video_lead_us: 33_333, sound_trim_us: 0 };
        let mut jitter = Jitter::default();
        let mut now_us = 0;
        for (seq, time_us, cts_us, keyframe, what) in events {
            let mut queued = unit(0, if what == 0 { 'a' } else { 'p' }, now_us);
            queued.seq = seq;
            queued.unit.keyframe = keyframe;
            queued.unit.dts_us = time_us;
            queued.unit.cts_us = cts_us;
            queued.baseline_us = now_us - time_us / 2;
            if what == 2 {
                jitter.announce(left_out(seq, u64::MAX - seq, 7));
            }
            jitter.push(queued, timing, now_us);
            now_us = now_us.max(time_us);
            let _ = (jitter.wake_us(timing, now_us), jitter.next_video(timing, now_us), jitter.next_audio(timing, now_us));
            let _ = jitter.losses(now_us);
        }
    }
}

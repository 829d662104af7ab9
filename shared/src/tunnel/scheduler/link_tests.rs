//! The queue in front of a link, in virtual time: cameras put in, a link of a given rate takes out a packet at a time,
//! and what would be shown at the other end is counted.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::media::{AccessUnit, Codec};

const MS: i64 = 1_000;
const S: i64 = 1_000_000;
const PACKET: usize = 1_200;

/// A camera: 30 pictures a second, a keyframe every 2 s of eight times a picture's size, 47 blocks of sound.
#[derive(Clone, Copy)]
struct Camera {
    line: u32,
    bits_per_second: u64,
    /// Of three pictures, two that no other needs.
    has_disposables: bool,
    gop: u64,
}

impl Camera {
    const fn new(line: u32, bits_per_second: u64) -> Self {
        Self {
            line,
            bits_per_second,
            has_disposables: false,
            gop: 60,
        }
    }

    fn picture(self, n: u64) -> (char, usize) {
        // 8 + (gop - 1) parts in a GOP; cameras do not have their keyframes together.
        let gop_bits = self.bits_per_second * self.gop / 30;
        let part = gop_bits / 8 / (7 + self.gop);
        let n = n + u64::from(self.line) * 17;
        let part = usize::try_from(part).unwrap();
        match n % self.gop {
            0 => ('K', part * 8),
            n if self.has_disposables && n % 3 != 0 => ('b', part),
            _ => ('p', part),
        }
    }
}

/// What is known of each picture.
#[derive(Clone, Copy, Debug)]
struct Picture {
    kind: char,
    made_us: i64,
    arrived_us: Option<i64>,
}

struct Show {
    scheduler: Scheduler,
    cameras: Vec<Camera>,
    next_seq: BTreeMap<u32, u64>,
    /// By line.
    pictures: BTreeMap<u32, BTreeMap<u64, Picture>>,
    sound: BTreeMap<u32, Vec<Option<i64>>>,
    sound_of: BTreeMap<(u32, u64), (usize, i64)>,
    flying: Vec<(Outgoing, usize)>,
    now_us: i64,
    delay_us: i64,
    /// What the link could have sent so far, in bits.
    credit: i64,
    most_bytes: usize,
}

impl Show {
    fn new(cameras: &[Camera], delay_us: i64) -> Self {
        let mut scheduler = Scheduler::new(Limits::default());
        for camera in cameras {
            scheduler.set_delay(camera.line, delay_us);
        }
        Self {
            scheduler,
            cameras: cameras.to_vec(),
            next_seq: BTreeMap::new(),
            pictures: BTreeMap::new(),
            sound: BTreeMap::new(),
            sound_of: BTreeMap::new(),
            flying: Vec::new(),
            now_us: 0,
            delay_us,
            credit: 0,
            most_bytes: 0,
        }
    }

    fn tally(&mut self, program: &[u32], preview: &[u32]) {
        let set = |lines: &[u32]| lines.iter().copied().collect::<BTreeSet<_>>();
        self.scheduler.set_tally(&set(program), &set(preview));
        for (unit, _) in &mut self.flying {
            self.scheduler.renew(&mut unit.ticket);
        }
        self.flying
            .sort_by_key(|(unit, _)| std::cmp::Reverse(unit.ticket.urgency));
    }

    /// Goes on for so long on a link of so many bits a second.
    fn run(&mut self, for_us: i64, bits_per_second: i64) {
        let end_us = self.now_us + for_us;
        while self.now_us < end_us {
            let before_us = self.now_us;
            self.now_us += MS;
            for index in 0..self.cameras.len() {
                self.film(self.cameras[index], before_us);
            }
            self.credit += bits_per_second / 1000;
            while self.credit > 0 && self.send_packet() {}
            // What is not used is gone.
            self.credit = self.credit.min(0);
            self.most_bytes = self.most_bytes.max(self.scheduler.bytes());
        }
    }

    fn film(&mut self, camera: Camera, before_us: i64) {
        let crossed = |per_second: i64| {
            let (before, now) = (before_us * per_second / S, self.now_us * per_second / S);
            (now > before).then_some(u64::try_from(now).unwrap())
        };
        let (picture, sound) = (crossed(30), crossed(47));
        if let Some(n) = picture {
            let (kind, len) = camera.picture(n);
            let seq = self.push(camera.line, kind, len);
            let picture = Picture {
                kind,
                made_us: self.now_us,
                arrived_us: None,
            };
            self.pictures
                .entry(camera.line)
                .or_default()
                .insert(seq, picture);
        }
        if sound.is_some() {
            let seq = self.push(camera.line, 'a', 340);
            let blocks = self.sound.entry(camera.line).or_default();
            self.sound_of
                .insert((camera.line, seq), (blocks.len(), self.now_us));
            blocks.push(None);
        }
    }

    fn push(&mut self, line: u32, kind: char, len: usize) -> u64 {
        let next = self.next_seq.entry(line).or_default();
        let seq = *next;
        *next += 1;
        let unit = Unit {
            line,
            publisher: 1,
            seq,
            ingest_us: self.now_us,
            baseline_us: 0,
            queued_us: 0,
            access_unit: AccessUnit {
                codec: if kind == 'a' { Codec::Aac } else { Codec::H264 },
                track: 0,
                keyframe: matches!(kind, 'K' | 'a'),
                disposable: kind == 'b',
                discontinuity: false,
                dts_us: self.now_us,
                cts_us: 0,
                config: None,
                payload: vec![0; len].into(),
            },
        };
        self.scheduler.push(unit, self.now_us);
        seq
    }

    /// As the sender does it: late ones are given up, the most urgent goes first, a packet at a time.
    fn send_packet(&mut self) -> bool {
        let now_us = self.now_us;
        while let Some(index) = (self.flying.iter())
            .position(|(unit, _)| self.scheduler.verdict(&unit.ticket, now_us).is_some())
        {
            let (unit, _) = self.flying.remove(index);
            let reason = self.scheduler.verdict(&unit.ticket, now_us).unwrap();
            self.scheduler.given_up(&unit.ticket, reason);
        }
        let first = self.flying.first().map(|(unit, _)| unit.ticket.urgency);
        if let Some(urgency) = self.scheduler.peek(now_us)
            && first.is_none_or(|first| urgency > first)
        {
            let unit = self.scheduler.pop(now_us).unwrap();
            let len = unit.unit.access_unit.payload.len();
            self.flying.insert(0, (unit, len));
        }
        let Some((_, left)) = self.flying.first_mut() else {
            return false;
        };
        let sent = PACKET.min(*left);
        *left -= sent;
        self.credit -= i64::try_from(sent * 8).unwrap();
        if *left == 0 {
            let (unit, _) = self.flying.remove(0);
            self.arrived(&unit);
        }
        true
    }

    fn arrived(&mut self, outgoing: &Outgoing) {
        let (line, seq) = (outgoing.unit.line, outgoing.unit.seq);
        let pictures = self.pictures.entry(line).or_default();
        if let Some(picture) = pictures.get_mut(&seq) {
            assert_eq!(picture.arrived_us, None, "sent twice");
            picture.arrived_us = Some(self.now_us);
        } else if let Some((index, made_us)) = self.sound_of.remove(&(line, seq)) {
            let blocks = self.sound.entry(line).or_default();
            if let Some(block) = blocks.get_mut(index) {
                *block = Some(self.now_us - made_us);
            }
        }
    }

    /// Of the pictures made in a stretch of time: how many, and how many were shown in time with all they need.
    fn shown(&self, line: u32, from_us: i64, to_us: i64) -> (usize, usize) {
        let (mut all, mut shown, mut is_whole) = (0, 0, false);
        for picture in self.pictures[&line].values() {
            let arrived = picture.arrived_us.is_some();
            match picture.kind {
                'K' => is_whole = arrived,
                'p' => is_whole &= arrived,
                _ => {}
            }
            if (from_us..to_us).contains(&picture.made_us) {
                all += 1;
                let in_time = (picture.arrived_us)
                    .is_some_and(|at_us| at_us - picture.made_us <= self.delay_us);
                shown += usize::from(is_whole && in_time);
            }
        }
        (all, shown)
    }

    /// How old pictures were on arrival, those that came; the given part (per mille) is below.
    fn delay_us(&self, line: u32, from_us: i64, to_us: i64, per_mille: usize) -> i64 {
        let pictures = self.pictures[&line].values();
        let mut delays: Vec<_> = pictures
            .filter(|picture| (from_us..to_us).contains(&picture.made_us))
            .filter_map(|picture| Some(picture.arrived_us? - picture.made_us))
            .collect();
        delays.sort_unstable();
        delays[(delays.len() - 1) * per_mille / 1000]
    }

    /// An hour of pictures is more than a test should hold.
    fn forget_before(&mut self, before_us: i64) {
        for pictures in self.pictures.values_mut() {
            pictures.retain(|_, picture| picture.made_us >= before_us);
        }
        self.sound.clear();
        self.sound_of.clear();
    }

    fn sound_us(&self, line: u32, per_mille: usize) -> i64 {
        let blocks = &self.sound[&line];
        let mut delays: Vec<_> = (blocks.iter())
            .map(|delay| delay.unwrap_or(i64::MAX))
            .collect();
        delays.sort_unstable();
        delays[(delays.len() - 1) * per_mille / 1000]
    }
}

/// Four lines of 4 Mbit/s on 9.
fn overloaded(tune: impl Fn(&mut Show)) -> Show {
    let cameras = [1, 2, 3, 4].map(|line| Camera::new(line, 4_000_000));
    let mut show = Show::new(&cameras, 600 * MS);
    tune(&mut show);
    show
}

#[test]
fn program_loses_nothing_on_a_link_that_is_too_slow_for_all() {
    for preview in [&[][..], &[2][..]] {
        let mut show = overloaded(|show| {
            show.tally(&[1], preview);
            for line in 1..=4 {
                show.scheduler.set_sends(line, Sends::References);
            }
        });
        show.run(60 * S, 9_000_000);
        let end = show.now_us - S;
        let (all, on_time) = show.shown(1, 2 * S, end);
        assert_eq!(on_time, all, "on program");
        let worst = show.delay_us(1, 0, end, 1000);
        assert!(worst < 150 * MS, "{worst}: a keyframe alone takes 120 ms");
        for line in 1..=4 {
            let worst = show.sound_us(line, 995);
            assert!(worst < 10 * MS, "sound of {line}: {worst}");
        }
        let of = |line| show.shown(line, 2 * S, end).1 * 100 / all;
        if preview.is_empty() {
            // 5 Mbit/s for 12, and what comes too late is worth nothing.
            let sum = of(2) + of(3) + of(4);
            assert!(sum > 70, "{} {} {}", of(2), of(3), of(4));
        } else {
            assert_eq!(of(2), 100, "on preview");
        }
    }
}

/// Whether the line's newest keyframe was there so long after a moment, and since when its pictures have all been shown.
fn picture_after(show: &Show, line: u32, cut_us: i64) -> (i64, i64) {
    let pictures = || show.pictures[&line].values();
    let keyframe = pictures()
        .rfind(|picture| picture.kind == 'K' && picture.made_us <= cut_us)
        .unwrap();
    let mut whole_us = cut_us;
    let mut is_whole = false;
    for picture in pictures() {
        is_whole = match picture.kind {
            'K' => picture.arrived_us.is_some(),
            _ => is_whole && picture.arrived_us.is_some(),
        };
        let is_shown = is_whole
            && (picture.arrived_us).is_some_and(|at_us| at_us - picture.made_us <= show.delay_us);
        if picture.made_us >= cut_us && picture.made_us < show.now_us - S && !is_shown {
            whole_us = picture.made_us;
        }
    }
    (
        keyframe.arrived_us.unwrap_or(i64::MAX) - cut_us,
        whole_us - cut_us,
    )
}

#[test]
fn a_hot_cut_to_a_line_without_motion_has_a_picture_at_once_and_motion_by_the_next_keyframe() {
    for sends in [Sends::All, Sends::References, Sends::Keyframes] {
        // Anywhere in a GOP.
        for part in 0..8 {
            let mut show = overloaded(|show| {
                show.tally(&[1], &[]);
                for line in 1..=4 {
                    show.scheduler.set_sends(line, sends);
                }
            });
            show.run(20 * S + part * 250 * MS, 9_000_000);
            let cut_us = show.now_us;
            show.tally(&[3], &[]);
            show.run(8 * S, 9_000_000);
            let (picture_us, motion_us) = picture_after(&show, 3, cut_us);
            assert!(picture_us <= 400 * MS, "{sends:?} {part}: {picture_us}");
            assert!(motion_us <= 2_100 * MS, "{sends:?} {part}: {motion_us}");
        }
    }
}

#[test]
fn what_was_left_out_of_a_gop_is_sent_in_one_burst_when_the_line_is_wanted() {
    // Nearly all of a GOP of 10 s was left out, and there is room now.
    let camera = Camera {
        gop: 300,
        ..Camera::new(1, 2_000_000)
    };
    for (program, preview) in [(&[1][..], &[][..]), (&[][..], &[1][..])] {
        let mut show = Show::new(&[camera], 600 * MS);
        show.scheduler.set_sends(1, Sends::Keyframes);
        show.run(18 * S, 20_000_000);
        let cut_us = show.now_us;
        assert!(show.shown(1, 0, cut_us).1 <= 3, "keyframes only");
        show.tally(program, preview);
        show.run(9 * S, 20_000_000);
        // 9 s of 2 Mbit/s at 20.
        let (_, motion_us) = picture_after(&show, 1, cut_us);
        assert!(motion_us < 900 * MS, "{motion_us}");
        assert_eq!(show.scheduler.bytes(), 0);
    }
    // What is too much is not kept.
    let mut show = Show::new(
        &[Camera {
            bits_per_second: 20_000_000,
            ..camera
        }],
        600 * MS,
    );
    show.scheduler.set_sends(1, Sends::Keyframes);
    show.run(18 * S, 20_000_000);
    assert!(
        show.most_bytes < shelf::SHELF_BYTES_MAX + 400_000,
        "{}",
        show.most_bytes
    );
    show.tally(&[1], &[]);
    show.run(S, 20_000_000);
    assert!(show.scheduler.is_empty());
}

#[test]
fn off_the_air_pictures_that_no_other_needs_go_first() {
    let cameras = [1, 2].map(|line| Camera {
        has_disposables: true,
        ..Camera::new(line, 4_000_000)
    });
    let mut show = Show::new(&cameras, 600 * MS);
    show.tally(&[1], &[]);
    show.scheduler.set_sends(1, Sends::References);
    show.scheduler.set_sends(2, Sends::References);
    show.run(2 * S, 6_500_000);
    // Pictures before the first keyframe.
    while show.scheduler.pop_dropped().is_some() {}
    let before = show.scheduler.totals().thinned;
    show.run(20 * S, 6_500_000);
    let end = show.now_us - S;
    let (all, on_time) = show.shown(1, 2 * S, end);
    assert_eq!(on_time, all, "on program it is not thinned");
    let (all, on_time) = show.shown(2, 2 * S, end);
    assert_eq!(on_time, all.div_ceil(3), "every third is needed");
    let mut disposable = 0;
    while let Some(dropped) = show.scheduler.pop_dropped() {
        assert_eq!(
            (dropped.reason, dropped.disposable),
            (DropReason::Thinned, true)
        );
        disposable += dropped.video;
    }
    assert_eq!(
        u64::from(disposable),
        show.scheduler.totals().thinned - before
    );
}

#[test]
fn a_line_that_sends_four_times_its_share_delays_nobody_else() {
    let delay = |other: u64| {
        let mut show = Show::new(
            &[Camera::new(1, 4_000_000), Camera::new(2, other)],
            600 * MS,
        );
        show.run(30 * S, 10_000_000);
        let end = show.now_us - S;
        let (all, on_time) = show.shown(1, 2 * S, end);
        assert_eq!(on_time, all, "{other}");
        show.delay_us(1, 0, end, 950)
    };
    let (fair, greedy) = (delay(4_000_000), delay(20_000_000));
    assert!(greedy - fair < 10 * MS, "{fair} {greedy}");
}

#[test]
fn what_a_line_gets_of_a_link_that_is_too_slow_follows_its_share() {
    // Each picture for itself: there is always one to send.
    let cameras = [1, 2, 3].map(|line| Camera {
        gop: 1,
        ..Camera::new(line, 8_000_000)
    });
    let mut show = Show::new(&cameras, 600 * MS);
    show.scheduler.set_share(1, 20);
    show.scheduler.set_share(3, 5);
    show.run(60 * S, 7_000_000);
    let sent: Vec<u64> = (show.scheduler.states())
        .map(|state| state.usage.sent_bytes)
        .collect();
    // 20 : 10 : 5, and a unit more or less.
    let of = |line: usize| sent[line - 1] * 100 / sent.iter().sum::<u64>();
    assert!((55..=59).contains(&of(1)), "{sent:?}");
    assert!((26..=31).contains(&of(2)), "{sent:?}");
    assert!((12..=17).contains(&of(3)), "{sent:?}");
    // What one does not want is the others'.
    let cameras = [Camera::new(1, 1_000_000), Camera::new(2, 7_000_000)];
    let mut show = Show::new(&cameras, 600 * MS);
    show.scheduler.set_share(1, 100);
    show.run(20 * S, 9_000_000);
    let (all, on_time) = show.shown(2, 2 * S, show.now_us - S);
    assert_eq!(on_time, all);
}

#[test]
fn a_new_keyframe_takes_the_place_of_old_gops_where_the_link_is_behind() {
    // Mbit/s for ms each; pictures of a camera of 6 Mbit/s that are shown, of 100, with D = 600 ms
    let wobble: Vec<_> = [(3, 500), (8, 500)].repeat(20);
    for (link, least) in [
        (&[(20, 20_000)][..], 100),
        (&[(5, 20_000)], 74),
        (&wobble, 82),
        (&[(20, 7_000), (3, 5_000), (20, 8_000)], 71),
        // A gap that the delay nearly bridges costs no more than it has to.
        (&[(20, 8_000), (0, 600), (20, 8_000)], 90),
    ] {
        let mut show = Show::new(&[Camera::new(1, 6_000_000)], 600 * MS);
        for (rate, for_ms) in link {
            show.run(for_ms * MS, rate * 1_000_000);
        }
        let (all, on_time) = show.shown(1, 2 * S, show.now_us - S);
        assert!(on_time * 100 >= all * least, "{link:?}: {on_time} of {all}");
        let worst = show.sound_us(1, 940);
        assert!(worst < 20 * MS, "{link:?}: sound {worst}");
    }
}

/// Anything may happen for an hour; then all is as it was at the beginning.
#[test]
fn after_an_hour_of_a_link_that_changes_all_the_time_the_delay_is_that_of_the_beginning() {
    let cameras = [
        Camera::new(1, 1_500_000),
        Camera {
            has_disposables: true,
            ..Camera::new(2, 1_500_000)
        },
        Camera::new(3, 1_000_000),
    ];
    let mut show = Show::new(&cameras, 600 * MS);
    let mut state = 1u64;
    let mut random = |below: i64| {
        // xorshift: the same hour each time.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        i64::try_from(state % u64::try_from(below).unwrap()).unwrap()
    };
    let calm = |show: &mut Show| {
        let from_us = show.now_us + 5 * S;
        show.run(35 * S, 10_000_000);
        let delays = [1, 2, 3].map(|line| {
            let to_us = show.now_us - S;
            let (all, on_time) = show.shown(line, from_us, to_us);
            assert_eq!(on_time, all, "line {line} at {} s", show.now_us / S);
            show.delay_us(line, from_us, to_us, 950)
        });
        (delays, show.scheduler.bytes())
    };
    let (first, first_bytes) = calm(&mut show);
    let mut most = [0; 2];
    while show.now_us < 3_560 * S {
        match random(8) {
            0 => show.run(random(3_000) * MS, 0),
            1 => show.tally(
                &[1 + u32::try_from(random(4)).unwrap()],
                &[1 + u32::try_from(random(4)).unwrap()],
            ),
            2 => {
                let sends = [Sends::All, Sends::References, Sends::Keyframes];
                let line = 1 + u32::try_from(random(3)).unwrap();
                let which = usize::try_from(random(3)).unwrap();
                show.scheduler.set_sends(line, sends[which]);
            }
            _ => {
                let rate = 500_000 + random(6_000_000);
                show.run((100 + random(5_000)) * MS, rate);
            }
        }
        let half = usize::from(show.now_us > 1_800 * S);
        most[half] = show.most_bytes.max(most[half]);
        show.most_bytes = 0;
        show.forget_before(show.now_us - 60 * S);
        while show.scheduler.pop_dropped().is_some() {}
    }
    show.tally(&[], &[]);
    for line in 1..=3 {
        show.scheduler.set_sends(line, Sends::All);
    }
    let (last, last_bytes) = calm(&mut show);
    for (first, last) in first.into_iter().zip(last) {
        assert!((first - last).abs() <= 2 * MS, "{first} {last}");
    }
    assert!(
        last_bytes <= first_bytes + 20_000,
        "{first_bytes} {last_bytes}"
    );
    assert!(most[1] < 2_000_000 && most[1] < most[0] * 2, "{most:?}");
}

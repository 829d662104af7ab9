//! Virtual time throughout: a unit every 10 ms, D = 100 ms unless told.

use proptest::prelude::*;

use super::*;
use crate::media::{AccessUnit, Codec};

const STEP_US: i64 = 10_000;
const D_US: i64 = 100_000;

/// `K` keyframe, `p` reference, `b` nobody needs it, `a` sound.
fn unit(line: u32, seq: u64, kind: char, at_us: i64, len: usize) -> Unit {
    Unit {
        line,
        publisher: 1,
        seq,
        ingest_us: at_us,
        baseline_us: 0,
        queued_us: 0,
        access_unit: AccessUnit {
            codec: if kind == 'a' { Codec::Aac } else { Codec::H264 },
            track: 0,
            keyframe: matches!(kind, 'K' | 'a'),
            disposable: kind == 'b',
            discontinuity: false,
            dts_us: at_us,
            cts_us: 0,
            config: None,
            payload: vec![0; len].into(),
        },
    }
}

fn kind(outgoing: &Outgoing) -> char {
    let unit = &outgoing.unit.access_unit;
    match (unit.codec, unit.keyframe, unit.disposable) {
        (Codec::Aac, ..) => 'a',
        (_, true, _) => 'K',
        (_, _, true) => 'b',
        _ => 'p',
    }
}

fn scheduler(limits: Limits) -> Scheduler {
    let mut scheduler = Scheduler::new(limits);
    for line in 1..4 {
        scheduler.set_delay(line, D_US);
    }
    // Nothing is kept of what is left out.
    scheduler.set_tally(&(1..4).collect(), &BTreeSet::new());
    scheduler
}

/// One unit each step, then what comes out `later_us` after the last.
fn run(sent: &str, later_us: i64, limits: Limits) -> (String, Scheduler) {
    let mut scheduler = scheduler(limits);
    let mut now_us = 0;
    for (seq, kind) in sent.chars().enumerate() {
        now_us = i64::try_from(seq).unwrap() * STEP_US;
        scheduler.push(unit(1, seq as u64, kind, now_us, 100), now_us);
    }
    now_us += later_us;
    let got = std::iter::from_fn(|| scheduler.pop(now_us))
        .map(|outgoing| kind(&outgoing))
        .collect();
    (got, scheduler)
}

#[test]
fn the_urgent_goes_first() {
    // (what came, what goes, in which order)
    for (sent, order) in [
        ("Kpabpa", "aaKppb"),
        ("KppKpp", "KKpppp"), // The second K overtakes: then the first, and its references.
        ("", ""),
        ("ppKp", "Kp"), // Joined in the middle of a GOP.
        ("aab", "aa"),  // Pictures before any keyframe are no use, sound is.
    ] {
        assert_eq!(run(sent, 0, Limits::default()).0, order, "sent {sent:?}");
    }
}

#[test]
fn what_is_restored_is_never_too_late_if_later_pictures_need_it() {
    let mut scheduler = scheduler(Limits::default());
    let now_us = 2_000_000;
    for (seq, kind) in (0..).zip("Kapbp".chars()) {
        let at_us = i64::try_from(seq).unwrap() * STEP_US;
        scheduler.restore(unit(1, seq, kind, at_us, 100), now_us);
    }
    scheduler.push(unit(1, 5, 'p', now_us, 100), now_us);
    let got: String = std::iter::from_fn(|| scheduler.pop(now_us))
        .map(|outgoing| kind(&outgoing))
        .collect();
    assert_eq!(got, "Kppp");
    assert_eq!(
        scheduler.totals().late,
        2,
        "the sound, and what nobody needs"
    );
}

#[test]
fn what_is_late_is_not_sent() {
    // (what came, ms after the last unit, what still goes, dropped late, dropped because it needs one of those)
    for (sent, later_ms, goes, late, orphans) in [
        ("Kpb", 100, "Kpb", 0, 0),
        ("Kpb", 101, "Kp", 1, 0), // Older than D: no use for what no other needs.
        ("Kpp", 590, "Kpp", 0, 0),
        ("Kpp", 591, "K", 1, 1), // D + 500 ms: the first p is late, the second needs it.
        ("Kpp", 60_000, "K", 1, 1), // The newest keyframe is a picture to show at any age.
        ("KppKp", 570, "Kp", 1, 2), // The older GOP goes as a whole, the newer is in time.
        ("aaK", 590, "aK", 1, 0),
    ] {
        let (got, scheduler) = run(sent, later_ms * 1000, Limits::default());
        let Totals {
            late: was_late,
            needs_keyframe,
            full,
            behind,
            ..
        } = scheduler.totals();
        assert_eq!(
            (got.as_str(), was_late, needs_keyframe, full, behind),
            (goes, late, orphans, 0, 0),
            "sent {sent:?}, {later_ms} ms"
        );
    }
}

#[test]
fn what_an_encoder_sends_too_late_does_not_go_out_until_a_keyframe_in_time() {
    // (what came with how old it was, hundreds of ms; what goes with D = 600 ms; dropped because its encoder is behind)
    for (sent, goes, behind) in [
        ("K0 p0 p6 p0", "Kppp", 0),         // As old as D is in time.
        ("K0 p7 p0 K0 p0", "KKp", 2),       // What refers to the late one can't be decoded.
        ("K0 b7 p0", "Kp", 1),              // Nobody refers to it.
        ("K9 p8 K7 p6 K5 p4", "Kp", 4), // It catches up: a young picture of an old GOP is no use.
        ("K0 p0 K9 p9 a9 a3 p3", "aKp", 4), // Sound needs no keyframe.
        ("a9 a9 a1", "a", 2),
    ] {
        let mut scheduler = scheduler(Limits::default());
        scheduler.set_delay(1, 600_000);
        let now_us = 10_000_000;
        for (seq, sent) in sent.split(' ').enumerate() {
            let (letter, age) = sent.split_at(1);
            let mut unit = unit(1, seq as u64, letter.parse().unwrap(), now_us, 100);
            unit.access_unit.dts_us = now_us - age.parse::<i64>().unwrap() * 100_000;
            scheduler.push(unit, now_us);
        }
        let going: String = std::iter::from_fn(|| scheduler.pop(now_us))
            .map(|outgoing| kind(&outgoing))
            .collect();
        assert_eq!(
            (going.as_str(), scheduler.totals().behind),
            (goes, behind),
            "{sent}"
        );
        assert_eq!(scheduler.totals().all(), behind, "{sent}");
    }
}

#[test]
fn a_delay_that_no_encoder_keeps_is_not_held_against_it() {
    let mut scheduler = scheduler(Limits::default());
    for (age_us, behind) in [(150_000, 0), (150_001, 1)] {
        scheduler.set_delay(1, 0);
        let mut unit = unit(1, 0, 'K', 1_000_000, 100);
        unit.access_unit.dts_us -= age_us;
        scheduler.push(unit, 1_000_000);
        assert_eq!(scheduler.totals().behind, behind);
    }
}

#[test]
fn over_the_bound_pictures_go_before_sound_and_whole_gops_before_the_newest_keyframe() {
    let limit = |units: usize| Limits {
        line_units_max: units,
        ..Limits::default()
    };
    // (what came, units that fit, what goes)
    for (sent, fit, goes) in [
        ("KpbpbKp", 5, "KKppp"),
        ("KppKppa", 5, "aKpp"), // The older GOP as a whole, though one unit less would do.
        ("Kppppa", 4, "aK"), // One GOP over the bound: its keyframe stays, until the next one ...
        ("KppppKp", 4, "KKp"), // ... comes.
        ("Kaaaa", 4, "aaaa"),
        ("aaaaa", 4, "aaaa"),
        ("K", 0, ""),
    ] {
        let (got, scheduler) = run(sent, 0, limit(fit));
        assert_eq!(got, goes, "sent {sent:?}, {fit} fit");
        assert_eq!(
            scheduler.totals().all(),
            (sent.len() - goes.len()) as u64,
            "sent {sent:?}, {fit} fit"
        );
    }
}

#[test]
fn the_line_that_holds_the_most_pays_for_the_total() {
    let mut scheduler = scheduler(Limits {
        total_bytes_max: 6 * (100 + UNIT_OVERHEAD),
        ..Limits::default()
    });
    for (seq, (line, kind)) in [
        (1, 'K'),
        (1, 'p'),
        (2, 'K'),
        (1, 'b'),
        (1, 'p'),
        (2, 'p'),
        (2, 'p'),
    ]
    .into_iter()
    .enumerate()
    {
        scheduler.push(unit(line, seq as u64, kind, 0, 100), 0);
    }
    assert_eq!(scheduler.totals().full, 1);
    assert_eq!(
        scheduler
            .pop_dropped()
            .map(|dropped| (dropped.line, dropped.from_seq)),
        Some((1, 3)),
        "line 1 held four, and what no other needs goes first"
    );
}

#[test]
fn lines_share_and_a_line_that_was_silent_does_not_save_up() {
    let mut scheduler = scheduler(Limits::default());
    let mut seq = 0;
    let mut push = |scheduler: &mut Scheduler, line, count, len| {
        for _ in 0..count {
            scheduler.push(unit(line, seq, 'a', 0, len), 0);
            seq += 1;
        }
    };
    push(&mut scheduler, 1, 20, 1_000);
    for _ in 0..10 {
        scheduler.pop(0);
    }
    push(&mut scheduler, 2, 20, 500);
    let lines: Vec<u32> = std::iter::from_fn(|| scheduler.pop(0))
        .take(9)
        .map(|outgoing| outgoing.unit.line)
        .collect();
    // 3 x 1256 bytes of line 1 against 6 x 756 of line 2: equal to within a unit.
    assert_eq!(
        lines.iter().filter(|line| **line == 1).count(),
        3,
        "{lines:?}"
    );
}

#[test]
fn a_unit_on_its_way_is_given_up_when_late_and_takes_its_followers_along() {
    let mut scheduler = scheduler(Limits::default());
    for (seq, kind) in "KppbK".chars().enumerate().take(4) {
        scheduler.push(unit(1, seq as u64, kind, 0, 100), 0);
    }
    let key = scheduler.pop(0).unwrap().ticket;
    let first = scheduler.pop(0).unwrap().ticket;
    let second = scheduler.pop(0).unwrap().ticket;
    assert_eq!(scheduler.deadline_us(&first), Some(D_US + LATE_MARGIN_US));
    assert_eq!(
        scheduler.deadline_us(&key),
        None,
        "the newest keyframe has no deadline"
    );
    assert_eq!(scheduler.verdict(&first, 600_000), None);
    assert_eq!(scheduler.verdict(&first, 600_001), Some(DropReason::Late));

    scheduler.given_up(&first, DropReason::Late);

    assert_eq!(
        scheduler.verdict(&second, 0),
        Some(DropReason::NeedsKeyframe)
    );
    assert_eq!(scheduler.verdict(&key, i64::MAX), None);
    assert!(scheduler.is_empty(), "the b needed it too");
    scheduler.push(unit(1, 4, 'p', 40_000, 100), 40_000);
    assert!(
        scheduler.is_empty(),
        "and so does all that comes before the next keyframe"
    );
    scheduler.push(unit(1, 5, 'K', 50_000, 100), 50_000);
    assert_eq!(
        scheduler.pop(50_000).map(|outgoing| outgoing.unit.seq),
        Some(5)
    );
    assert_eq!(
        scheduler.verdict(&key, i64::MAX),
        Some(DropReason::Late),
        "it is not the newest any more"
    );
}

#[test]
fn records_say_exactly_what_was_dropped() {
    let (_, mut scheduler) = run("KapapabpKpa", 0, Limits::default());
    assert_eq!(scheduler.pop_dropped(), None);
    let (_, mut scheduler) = run("KapapabpKpa", 10_000_000, Limits::default());
    let mut records: Vec<_> = std::iter::from_fn(|| scheduler.pop_dropped())
        .map(|d| (d.from_seq, d.to_seq, d.video, d.audio, d.reason))
        .collect();
    records.sort_unstable_by_key(|record| record.0);
    assert_eq!(
        records,
        [
            (0, 0, 1, 0, DropReason::Late),
            (1, 10, 0, 4, DropReason::Late),
            (2, 7, 4, 0, DropReason::NeedsKeyframe),
            (9, 9, 1, 0, DropReason::Late),
        ]
    );
}

#[test]
fn another_encoder_starts_with_its_own_keyframe() {
    let mut scheduler = scheduler(Limits::default());
    scheduler.push(unit(1, 0, 'K', 0, 100), 0);
    for (seq, kind) in "pK".chars().enumerate() {
        let mut unit = unit(1, seq as u64, kind, 10_000, 100);
        unit.publisher = 2;
        scheduler.push(unit, 10_000);
    }
    // The keyframe of the encoder that left is not the newest of the line: it has a deadline now.
    let order: Vec<_> = std::iter::from_fn(|| scheduler.pop(600_001))
        .map(|outgoing| (outgoing.unit.publisher, outgoing.unit.seq))
        .collect();
    assert_eq!(order, [(2, 1)]);
}

#[derive(Clone, Debug)]
enum Event {
    Push {
        line: u32,
        kind: char,
        len: usize,
        cts_us: i32,
        encoder_lag_us: i64,
    },
    Pop,
    GiveUp(prop::sample::Index),
    Wait(i64),
    NewEncoder,
    Tally([bool; 4], [bool; 4]),
    Thin(u32, Sends),
}

fn any_event() -> impl Strategy<Value = Event> {
    let push = (
        1..4u32,
        prop::sample::select(vec!['K', 'p', 'p', 'p', 'b', 'a', 'a']),
        0..2_000usize,
        prop_oneof![4 => Just(0), 1 => -50_000..100_000, 1 => any::<i32>()],
        prop_oneof![4 => Just(0), 1 => 0..900_000i64, 1 => any::<i64>()],
    )
        .prop_map(|(line, kind, len, cts_us, encoder_lag_us)| Event::Push {
            line,
            kind,
            len,
            cts_us,
            encoder_lag_us,
        });
    prop_oneof![
        8 => push,
        4 => Just(Event::Pop),
        1 => any::<prop::sample::Index>().prop_map(Event::GiveUp),
        2 => (0..300_000i64).prop_map(Event::Wait),
        1 => Just(Event::NewEncoder),
        1 => any::<([bool; 4], [bool; 4])>().prop_map(|(program, preview)| Event::Tally(program, preview)),
        1 => (1..4u32, prop::sample::select(vec![Sends::All, Sends::References, Sends::Keyframes]))
            .prop_map(|(line, sends)| Event::Thin(line, sends)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever the stalls, the drops and the encoder's timestamps: bounds hold, nothing that can't be decoded
    /// goes out, and every unit went out, waits, or is in a record.
    #[test]
    fn what_comes_out_is_decodable_and_accounted_for(
        events in prop::collection::vec(any_event(), 0..300),
        line_units in 0..12usize,
        total_units in 0..24usize,
    ) {
        let limits = Limits {
            line_bytes_max: line_units * 1_000,
            line_units_max: 10,
            total_bytes_max: total_units * 1_000,
        };
        let mut scheduler = scheduler(limits);
        let mut model = Model::default();
        let mut now_us = 0;
        for event in events {
            match event.clone() {
                Event::Push { line, kind, len, cts_us, encoder_lag_us } => {
                    let mut unit = unit(line, model.next_seq(line), kind, now_us, len);
                    unit.publisher = model.publisher;
                    unit.access_unit.cts_us = cts_us;
                    unit.access_unit.dts_us = now_us.saturating_sub(encoder_lag_us);
                    model.pushed(&unit);
                    scheduler.push(unit, now_us);
                }
                Event::Pop => if let Some(outgoing) = scheduler.pop(now_us) {
                    let urgent = scheduler.peek(now_us);
                    prop_assert!(urgent <= Some(outgoing.ticket.urgency));
                    model.popped(&outgoing)?;
                },
                Event::GiveUp(index) => if !model.out.is_empty() {
                    let ticket = model.out.swap_remove(index.index(model.out.len()));
                    let reason = scheduler.verdict(&ticket, now_us).unwrap_or(DropReason::Late);
                    scheduler.given_up(&ticket, reason);
                    model.given_up(&ticket);
                },
                Event::Wait(us) => {
                    now_us += us;
                    scheduler.expire(now_us);
                }
                Event::NewEncoder => model.new_encoder(),
                Event::Tally(program, preview) => {
                    let numbers = |lines: [bool; 4]| (0..4u32).zip(lines).filter(|(_, is)| *is).map(|(line, _)| line).collect();
                    scheduler.set_tally(&numbers(program), &numbers(preview));
                }
                Event::Thin(line, sends) => scheduler.set_sends(line, sends),
            }
            if matches!(event, Event::Tally(..) | Event::Thin(..)) {
                scheduler.expire(now_us);
            }
            prop_assert!(scheduler.bytes() <= limits.total_bytes_max);
            for line in scheduler.lines.values() {
                prop_assert!(line.bytes() <= limits.line_bytes_max);
                prop_assert!(line.units() <= limits.line_units_max);
            }
            prop_assert!(scheduler.next_expiry_us().is_none_or(|at_us| at_us >= now_us));
        }
        let rest = std::iter::from_fn(|| scheduler.pop(now_us)).collect::<Vec<_>>();
        for outgoing in &rest {
            model.popped(outgoing)?;
        }
        let kept: usize = scheduler.lines.values().map(Line::bytes).sum();
        prop_assert_eq!(scheduler.bytes(), kept);
        for line in 1..4 {
            scheduler.feed_ended(line);
        }
        prop_assert_eq!(scheduler.bytes(), 0);
        let reported: u64 = std::iter::from_fn(|| scheduler.pop_dropped())
            .map(|dropped| u64::from(dropped.video + dropped.audio))
            .sum();
        prop_assert_eq!(reported, scheduler.totals().all());
        prop_assert_eq!(model.came, model.out.len() as u64 + scheduler.totals().all());
    }
}

/// What a decoder at the other end could do with what came out.
#[derive(Default)]
struct Model {
    publisher: u32,
    seqs: BTreeMap<u32, u64>,
    came: u64,
    /// Every reference that came, by line and publisher: its number, and that of its keyframe.
    references: BTreeMap<(u32, u32), Vec<(u64, u64)>>,
    /// What went out and was not given up.
    out: Vec<Ticket>,
    lost: BTreeSet<(u32, u32, u64)>,
    sent: BTreeSet<(u32, u32, u64)>,
}

impl Model {
    fn next_seq(&mut self, line: u32) -> u64 {
        let seq = self.seqs.entry(line).or_default();
        *seq += 1;
        *seq - 1
    }

    fn new_encoder(&mut self) {
        self.publisher += 1;
        self.seqs.clear();
    }

    fn pushed(&mut self, unit: &Unit) {
        self.came += 1;
        let access_unit = &unit.access_unit;
        if access_unit.codec == Codec::H264 && (access_unit.keyframe || !access_unit.disposable) {
            let references = self
                .references
                .entry((unit.line, unit.publisher))
                .or_default();
            let keyframe = match references.last() {
                _ if access_unit.keyframe => unit.seq,
                Some((_, keyframe)) => *keyframe,
                None => return,
            };
            references.push((unit.seq, keyframe));
        }
    }

    fn popped(&mut self, outgoing: &Outgoing) -> Result<(), TestCaseError> {
        let unit = &outgoing.unit;
        let feed = (unit.line, unit.publisher);
        if unit.access_unit.codec == Codec::H264 && !unit.access_unit.keyframe {
            let references = self.references.get(&feed).map_or(&[][..], |all| all);
            let before = references.iter().rev().find(|(seq, _)| *seq < unit.seq);
            prop_assert!(before.is_some(), "a picture before any keyframe");
            let keyframe = before.unwrap().1;
            for (seq, _) in references
                .iter()
                .filter(|(seq, of)| *of == keyframe && *seq < unit.seq)
            {
                let id = (unit.line, unit.publisher, *seq);
                prop_assert!(
                    self.sent.contains(&id),
                    "{} went out without {seq}",
                    unit.seq
                );
                prop_assert!(
                    !self.lost.contains(&id),
                    "{} went out after {seq} was lost",
                    unit.seq
                );
            }
        }
        self.sent.insert((unit.line, unit.publisher, unit.seq));
        self.out.push(outgoing.ticket);
        Ok(())
    }

    fn given_up(&mut self, ticket: &Ticket) {
        self.lost
            .insert((ticket.line, ticket.publisher, ticket.seq));
    }
}

#[test]
fn tracks_that_are_not_played_go_last_and_take_nothing_along() {
    let mut scheduler = Scheduler::new(Limits::default());
    let mut seq = 0;
    let mut push = |scheduler: &mut Scheduler, track: u8, letter: char| {
        let mut unit = unit(1, seq, letter, 0, 100);
        unit.access_unit.track = track;
        seq += 1;
        scheduler.push(unit, 0);
    };
    let order = |scheduler: &mut Scheduler| -> Vec<(u8, char)> {
        std::iter::from_fn(|| scheduler.pop(0))
            .map(|out| (out.unit.access_unit.track, kind(&out)))
            .collect()
    };
    for (track, letter) in [(1, 'K'), (1, 'a'), (0, 'K'), (1, 'p'), (0, 'p'), (0, 'a')] {
        push(&mut scheduler, track, letter);
    }
    assert_eq!(
        order(&mut scheduler),
        [(0, 'a'), (0, 'K'), (0, 'p'), (1, 'K'), (1, 'a'), (1, 'p')]
    );
    // Another choice holds from its first keyframe on, for sound at once.
    scheduler.set_played(1, 1, 1);
    for (track, letter) in [(1, 'p'), (0, 'p'), (1, 'a'), (1, 'K'), (0, 'p'), (1, 'p')] {
        push(&mut scheduler, track, letter);
    }
    assert_eq!(
        order(&mut scheduler),
        [(1, 'a'), (1, 'K'), (0, 'p'), (1, 'p'), (1, 'p'), (0, 'p')]
    );
    assert_eq!(scheduler.pop_dropped(), None);
}

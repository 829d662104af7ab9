use std::sync::Mutex;

use super::*;
use crate::{
    output::{BufferPool, Sound},
    playout::{Tally, slate::Slate},
};

/// What a receiver would see: (time code in ms since the start, card or picture, size), sound as (time code, frames).
#[derive(Clone, Debug, Default)]
struct Seen {
    log: Arc<Mutex<Log>>,
}

#[derive(Debug, Default)]
struct Log {
    pictures: Vec<(i64, u8)>,
    sounds: Vec<(i64, usize)>,
    /// The first channel, as it would be heard.
    heard: Vec<f32>,
    receivers: Option<Receivers>,
}

impl Output for Seen {
    fn kind(&self) -> &'static str {
        "test"
    }

    fn name(&self) -> &'static str {
        "test"
    }

    fn show(&mut self, picture: &Arc<Picture>, _rate: FrameRate, timecode: i64) {
        self.log
            .lock()
            .unwrap()
            .pictures
            .push((timecode, picture.pixels[1]));
    }

    fn play(&mut self, sound: &Sound, timecode: i64) {
        let mut log = self.log.lock().unwrap();
        log.sounds.push((timecode, sound.frames()));
        log.heard.extend_from_slice(sound.channel(0));
    }

    fn receivers(&self) -> Option<Receivers> {
        self.log.lock().unwrap().receivers
    }
}

/// Cards of one grey, drawn at once: what can be read and what can't.
#[derive(Clone)]
struct Greys {
    wanted: Arc<Mutex<Option<(Format, Slate)>>>,
    bare: Arc<Picture>,
    full: Arc<Picture>,
}

const BARE: u8 = 30;
const FULL: u8 = 50;

impl Cards for Greys {
    fn want(&mut self, format: Format, slate: &Slate) {
        *self.wanted.lock().unwrap() = Some((format, slate.clone()));
    }

    fn bare(&self) -> Option<Arc<Picture>> {
        Some(self.bare.clone())
    }

    fn full(&self) -> Option<Arc<Picture>> {
        Some(self.full.clone())
    }
}

fn grey(mark: u8) -> Picture {
    let mut pixels = BufferPool::default().take(16);
    pixels.fill(mark);
    Picture {
        width: 4,
        height: 2,
        aspect: 2.0,
        pixels,
    }
}

/// A line in virtual time.
struct Fixture {
    line: Line,
    seen: Seen,
    cards: Greys,
}

const DELAY_US: i64 = 100_000;
const RATE: FrameRate = FrameRate::new(25, 1);

impl Fixture {
    fn new() -> Self {
        Self {
            line: Line::new("Camera 1".to_owned(), DELAY_US, ("test", "test".to_owned())),
            seen: Seen::default(),
            cards: Greys {
                wanted: Arc::default(),
                bare: Arc::new(grey(BARE)),
                full: Arc::new(grey(FULL)),
            },
        }
    }

    /// A picture of one grey (`mark`, above the card's).
    fn picture(&self, media_us: i64, mark: u8) {
        self.line.queue().pictures.push_back(QueuedPicture {
            media_us,
            rate: RATE,
            picture: grey(mark),
        });
    }

    fn sound(&self, media_us: i64, frames: usize) {
        self.line.queue().sounds.push_back(QueuedSound {
            media_us,
            sound: Sound::planar(2, vec![0.5; 2 * frames]),
        });
    }

    fn start(&self) -> Showing<'_> {
        let (output, cards) = (self.seen.clone(), self.cards.clone());
        Showing::new(&self.line, Box::new(output), Box::new(cards), 0)
    }

    /// From now on one receiver says this.
    fn tally(&self, tally: Tally) {
        self.seen.log.lock().unwrap().receivers = Some(Receivers {
            connections: 1,
            tally,
        });
    }

    /// What was shown since the last call: (ms, grey).
    fn shown(&self) -> Vec<(i64, u8)> {
        let pictures = std::mem::take(&mut self.seen.log.lock().unwrap().pictures);
        pictures
            .into_iter()
            .map(|(at, mark)| ((at - timecode(0)) / 10_000, mark))
            .collect()
    }
}

/// Steps through every millisecond.
fn run(showing: &mut Showing<'_>, from_ms: i64, to_ms: i64) {
    for now_ms in from_ms..to_ms {
        showing.step(now_ms * 1000);
    }
}

fn is_card(mark: u8) -> bool {
    (16..=60).contains(&mark)
}

#[test]
fn a_source_without_a_feed_shows_a_card_and_plays_silence() {
    let fixture = Fixture::new();
    let mut showing = fixture.start();
    run(&mut showing, 0, 2_000);
    let shown = fixture.shown();
    assert_eq!(shown.len(), 10, "five a second");
    assert!(shown.iter().all(|(_, mark)| is_card(*mark)));
    let frames: usize = fixture
        .seen
        .log
        .lock()
        .unwrap()
        .sounds
        .iter()
        .map(|(_, frames)| frames)
        .sum();
    assert!(frames.abs_diff(2 * 48_000) <= 1_920, "{frames}");
}

#[test]
fn pictures_are_sent_when_they_are_due_and_evenly() {
    let fixture = Fixture::new();
    let mut showing = fixture.start();
    // Time stamps in whole milliseconds that wobble by one.
    for n in 0..20_u8 {
        fixture.picture(i64::from(n) * 40_000 + i64::from(n % 3) * 1_000, 100 + n);
    }
    run(&mut showing, 0, 895);
    let shown = fixture.shown();
    let fresh: Vec<_> = shown.iter().filter(|(_, mark)| !is_card(*mark)).collect();
    assert_eq!(fresh.len(), 20);
    for (n, (at_ms, mark)) in fresh.iter().enumerate() {
        assert_eq!(usize::from(*mark), 100 + n);
        let due_ms = 100 + 40 * i64::try_from(n).unwrap();
        assert!((at_ms - due_ms).abs() <= 2, "picture {n} at {at_ms} ms");
    }
}

#[test]
fn a_late_picture_gives_way_to_a_newer_one_and_is_shown_if_it_is_the_only_one() {
    let fixture = Fixture::new();
    let mut showing = fixture.start();
    for n in 0..4_u8 {
        fixture.picture(i64::from(n) * 40_000, 100 + n);
    }
    // Due at 100, 140, 180 and 220 ms; this thread wakes up at 175.
    showing.step(175_000);
    assert_eq!(
        fixture.shown().last(),
        Some(&(140, 101)),
        "the first is more than a frame late"
    );
    assert_eq!(fixture.line.stats().late, 1);
    run(&mut showing, 176, 300);
    assert_eq!(fixture.line.stats().late, 1, "two and three come after");
    fixture.shown();
    fixture.picture(120_000, 200);
    showing.step(900_000);
    assert_eq!(fixture.shown().last().map(|(_, mark)| *mark), Some(200));
}

/// What there is to be seen, for how long: (from ms, grey).
fn changes(shown: &[(i64, u8)]) -> Vec<(i64, u8)> {
    let mut changes = shown.to_vec();
    changes.dedup_by_key(|(_, mark)| *mark);
    changes
}

/// Nothing surprising reaches program: what was there stays, until it has been off for a while.
#[test]
fn the_last_picture_is_held_and_the_card_comes_off_program_only() {
    // (on program from the first second until, ms; the card comes at, ms)
    for (program_until_ms, card_from_ms) in [(0, 2_000..2_030), (6_000, 15_990..16_030)] {
        let fixture = Fixture::new();
        let mut showing = fixture.start();
        fixture.picture(-DELAY_US, 200);
        let first = if program_until_ms > 0 {
            Tally::Program
        } else {
            Tally::Off
        };
        fixture.tally(first);
        run(&mut showing, 0, program_until_ms.max(100));
        fixture.tally(Tally::Off);
        run(&mut showing, program_until_ms.max(100), 20_000);
        let shown = fixture.shown();
        let changes = changes(&shown);
        assert_eq!((changes.len(), changes[0]), (2, (0, 200)), "{changes:?}");
        assert!(card_from_ms.contains(&changes[1].0), "{changes:?}");
        assert_eq!(changes[1].1, FULL);
        let gap_ms = shown.windows(2).map(|pair| pair[1].0 - pair[0].0).max();
        assert_eq!(gap_ms, Some(200), "the source never stops");
        // The feed is back: its picture is there at once.
        fixture.picture(20_000_000, 210);
        run(&mut showing, 20_000, 20_150);
        assert_eq!(fixture.shown().last(), Some(&(20_100, 210)));
    }
}

/// A director takes a card to program: what can be read on it is gone with the next step, not with the next repeat.
#[test]
fn what_can_be_read_is_gone_within_a_picture_of_program() {
    let fixture = Fixture::new();
    let mut showing = fixture.start();
    fixture.tally(Tally::Preview);
    run(&mut showing, 0, 3_050);
    assert_eq!(changes(&fixture.shown()), [(0, BARE), (1_000, FULL)]);
    assert!(
        showing.wake_us(3_050_000) <= 3_050_000 + 8_000,
        "it looks often enough"
    );
    fixture.tally(Tally::Program);
    run(&mut showing, 3_050, 3_100);
    assert_eq!(fixture.shown(), [(3_050, BARE)]);
    run(&mut showing, 3_100, 8_000);
    fixture.tally(Tally::Off);
    run(&mut showing, 8_000, 20_000);
    assert_eq!(changes(&fixture.shown()), [(3_250, BARE), (17_999, FULL)]);
}

#[test]
fn settings_are_taken_over_while_the_source_plays() {
    let fixture = Fixture::new();
    let mut showing = fixture.start();
    fixture.tally(Tally::Off);
    fixture.picture(-DELAY_US, 200);
    run(&mut showing, 0, 1_000);
    *fixture.line.absence() = Absence {
        hold_us: Some(5_000_000),
        slate: Slate::Diagnostic,
    };
    run(&mut showing, 1_000, 6_000);
    assert_eq!(changes(&fixture.shown()), [(0, 200), (5_000, FULL)]);
    let wanted = fixture.cards.wanted.lock().unwrap().clone();
    let (format, slate) = wanted.unwrap();
    assert_eq!(
        (format.width, format.height, slate),
        (4, 2, Slate::Diagnostic)
    );
}

#[test]
fn the_trim_moves_the_sound_and_not_the_picture() {
    for trim_ms in [-80_i64, 0, 250] {
        let fixture = Fixture::new();
        fixture.line.set_sound_trim(trim_ms * 1000);
        let mut showing = fixture.start();
        for n in 0..10_u8 {
            fixture.picture(1_000_000 + i64::from(n) * 40_000, 100 + n);
        }
        for n in 0..20 {
            fixture.sound(1_000_000 + n * 21_333, 1_024);
        }
        run(&mut showing, 0, 2_000);
        let shown = fixture.shown();
        assert!(shown.contains(&(1_100, 100)), "{trim_ms}: {shown:?}");
        let log = fixture.seen.log.lock().unwrap();
        let (first, _) = log
            .sounds
            .iter()
            .find(|(_, frames)| *frames == 1_024)
            .unwrap();
        let heard_ms = (first - timecode(0)) / 10_000;
        assert!(
            (heard_ms - 1_100 - trim_ms).abs() <= 30,
            "{trim_ms}: {heard_ms}"
        );
    }
}

/// The relay is told of it: whoever follows hears of each change once.
#[test]
fn who_follows_the_tally_hears_of_each_change_once() {
    let fixture = Fixture::new();
    let mut tally = fixture.line.watch_tally();
    assert_eq!(
        *tally.borrow_and_update(),
        Tally::Unknown,
        "nobody asked yet"
    );
    let mut showing = fixture.start();
    fixture.tally(Tally::Off);
    run(&mut showing, 0, 500);
    assert_eq!(*tally.borrow_and_update(), Tally::Off);
    fixture.tally(Tally::Program);
    run(&mut showing, 500, 1_000);
    assert_eq!(*tally.borrow_and_update(), Tally::Program);
    run(&mut showing, 1_000, 2_000);
    assert!(!tally.has_changed().unwrap(), "no change, no news");
}

/// Sound follows its own run: no gap, nothing twice, no click, through the end of a feed and its return.
#[test]
fn the_sound_of_a_source_never_stops_and_never_clicks() {
    let fixture = Fixture::new();
    let mut showing = fixture.start();
    // A tone; its own largest step from sample to sample is 0.03.
    let tone = |from: u16| {
        let samples: Vec<f32> = (0..1024_u16)
            .map(|n| {
                let turns = (f32::from(from) + f32::from(n)) * 440.0 / 48_000.0;
                (turns * std::f32::consts::TAU).sin() / 2.0
            })
            .collect();
        Sound::planar(2, [samples.clone(), samples].concat())
    };
    let blocks = |from_us: i64, count: i64| {
        for n in 0..count {
            fixture.line.queue().sounds.push_back(QueuedSound {
                media_us: from_us + n * 64_000 / 3 / 1000 * 1000,
                sound: tone(u16::try_from(n * 1024).unwrap()),
            });
        }
    };
    run(&mut showing, 0, 500);
    blocks(400_000, 40);
    run(&mut showing, 500, 3_000);
    blocks(2_950_000, 40);
    run(&mut showing, 3_000, 4_000);
    let log = fixture.seen.log.lock().unwrap();
    for pair in log.sounds.windows(2) {
        let ((start, frames), (next, _)) = (pair[0], pair[1]);
        let end = start + i64::try_from(frames).unwrap() * 10_000 / 48;
        // The run follows the time stamps by at most 4 ms a block; not a sample is left out for that.
        assert!(
            (next - end).abs() <= 40_000,
            "{} ms between blocks",
            (next - end) / 10_000
        );
    }
    let feed = log
        .sounds
        .iter()
        .filter(|(_, frames)| *frames == 1024)
        .count();
    assert_eq!(feed, 80);
    assert!(
        log.heard.len().abs_diff(4 * 48_000) <= 60 * 48,
        "{}",
        log.heard.len()
    );
    let steps = log.heard.windows(2).map(|pair| (pair[1] - pair[0]).abs());
    let largest = steps.fold(0.0_f32, f32::max);
    assert!(largest < 0.031, "{largest}");
}

#[test]
fn cadence_follows_a_real_step_at_once() {
    let mut cadence = Cadence::default();
    assert_eq!(cadence.shown(1_000_000, RATE), 1_000_000);
    assert_eq!(
        cadence.shown(1_041_000, RATE),
        1_040_250,
        "wobble is evened out"
    );
    assert_eq!(cadence.shown(1_100_000, RATE), 1_100_000, "a step is not");
    let fast = FrameRate::new(240, 1);
    assert_eq!(
        cadence.at_us(1_138_000, fast),
        1_138_000,
        "wobble is less than a quarter of a frame"
    );
}

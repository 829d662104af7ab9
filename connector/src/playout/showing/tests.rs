use std::sync::Mutex;

use super::*;
use crate::output::Receivers;

/// What a receiver would see: (time code in ms since the start, card or picture, size), sound as (time code, frames).
#[derive(Clone, Debug, Default)]
struct Seen {
    log: Arc<Mutex<Log>>,
}

#[derive(Debug, Default)]
struct Log {
    pictures: Vec<(i64, u8)>,
    sounds: Vec<(i64, usize)>,
    on_program: bool,
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
        self.log
            .lock()
            .unwrap()
            .sounds
            .push((timecode, sound.frames()));
    }

    fn receivers(&self) -> Option<Receivers> {
        let tally = if self.log.lock().unwrap().on_program {
            Tally::Program
        } else {
            Tally::Off
        };
        Some(Receivers {
            connections: 1,
            tally,
        })
    }
}

/// A line in virtual time.
struct Fixture {
    line: Line,
    seen: Seen,
    pool: BufferPool,
}

const DELAY_US: i64 = 100_000;
const RATE: FrameRate = FrameRate::new(25, 1);

impl Fixture {
    fn new() -> Self {
        Self {
            line: Line::new("Camera 1".to_owned(), DELAY_US, ("test", "test".to_owned())),
            seen: Seen::default(),
            pool: BufferPool::default(),
        }
    }

    /// A picture of one grey (`mark`, above the card's).
    fn picture(&self, media_us: i64, mark: u8) {
        let mut pixels = self.pool.take(16);
        pixels.fill(mark);
        self.line.queue().pictures.push_back(QueuedPicture {
            media_us,
            rate: RATE,
            picture: Picture {
                width: 4,
                height: 2,
                aspect: 2.0,
                pixels,
            },
        });
    }

    fn sound(&self, media_us: i64, frames: usize) {
        self.line.queue().sounds.push_back(QueuedSound {
            media_us,
            sound: Sound::planar(2, vec![0.5; 2 * frames]),
        });
    }

    fn start(&self) -> Showing<'_> {
        Showing::new(&self.line, Box::new(self.seen.clone()), 0)
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

/// Nothing surprising reaches program: what was there stays, until it has been off for a while.
#[test]
fn the_last_picture_is_held_and_the_card_comes_off_program_only() {
    // (on program from the first second until, ms; the card comes at, ms)
    for (program_until_ms, card_from_ms) in [(0, 2_200..2_500), (6_000, 15_900..16_300)] {
        let fixture = Fixture::new();
        let mut showing = fixture.start();
        fixture.picture(-DELAY_US, 200);
        run(&mut showing, 0, 100);
        fixture.line.queue().over_us = Some(100_000);
        fixture.seen.log.lock().unwrap().on_program = program_until_ms > 0;
        run(&mut showing, 100, program_until_ms.max(100));
        fixture.seen.log.lock().unwrap().on_program = false;
        run(&mut showing, program_until_ms.max(100), 20_000);
        let shown = fixture.shown();
        let (first_card_ms, _) = *shown
            .iter()
            .skip(1)
            .find(|(_, mark)| is_card(*mark))
            .unwrap();
        assert!(card_from_ms.contains(&first_card_ms), "{first_card_ms}");
        assert_eq!(shown[0].1, 200);
        let gap_ms = shown.windows(2).map(|pair| pair[1].0 - pair[0].0).max();
        assert_eq!(gap_ms, Some(200), "the source never stops");
        // The feed is back: its picture is there at once.
        fixture.line.queue().over_us = None;
        fixture.picture(20_000_000, 210);
        run(&mut showing, 20_000, 20_150);
        assert_eq!(fixture.shown().last(), Some(&(20_100, 210)));
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
    run(&mut showing, 0, 500);
    assert_eq!(*tally.borrow_and_update(), Tally::Off);
    fixture.seen.log.lock().unwrap().on_program = true;
    run(&mut showing, 500, 1_000);
    assert_eq!(*tally.borrow_and_update(), Tally::Program);
    run(&mut showing, 1_000, 2_000);
    assert!(!tally.has_changed().unwrap(), "no change, no news");
}

/// Sound follows its own run: no gap, nothing twice, through the end of a feed and its return.
#[test]
fn the_sound_of_a_source_never_stops() {
    let fixture = Fixture::new();
    let mut showing = fixture.start();
    let blocks = |from_us: i64, count: i64| {
        for n in 0..count {
            fixture.sound(from_us + n * 64_000 / 3 / 1000 * 1000, 1024);
        }
    };
    run(&mut showing, 0, 500);
    blocks(400_000, 40);
    run(&mut showing, 500, 3_000);
    blocks(2_950_000, 40);
    run(&mut showing, 3_000, 4_000);
    let sounds = &fixture.seen.log.lock().unwrap().sounds;
    for pair in sounds.windows(2) {
        let ((start, frames), (next, _)) = (pair[0], pair[1]);
        let end = start + i64::try_from(frames).unwrap() * 10_000 / 48;
        // The run follows the time stamps by at most 4 ms a block; not a sample is left out for that.
        assert!(
            (next - end).abs() <= 40_000,
            "{} ms between blocks",
            (next - end) / 10_000
        );
    }
    let feed = sounds.iter().filter(|(_, frames)| *frames == 1024).count();
    assert_eq!(feed, 80);
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

//! The output thread of a line: an absolute schedule, and nothing else.
//!
//! It owns the output for the line's whole life. A picture is sent when it is due, sound too; while there is no
//! picture the last one is repeated, and later a card, as [`slate`] says; while there is no sound there is silence.

use std::sync::{Arc, OnceLock};

use firstmile_shared::clock::now_us;
use tracing::debug;

use super::{
    line::{Absence, Line, QueuedPicture, QueuedSound},
    slate::{self, Cards, Format, Rule, Shown},
    sound::{Fade, SoundRun},
};
use crate::{
    os::{prefer_this_thread, wait_until},
    output::{FrameRate, Output, Picture, Receivers},
};

/// Runs until the line stops, then closes the output.
pub(super) fn run(line: &Line, output: Box<dyn Output>, cards: Box<dyn Cards>) {
    if let Err(error) = prefer_this_thread() {
        debug!(line = line.name, %error, "pictures are paced at ordinary priority");
    }
    let mut showing = Showing::new(line, output, cards, now_us());
    while !line.is_stopping() {
        showing.step(now_us());
        wait_until(showing.wake_us(now_us()));
    }
}

struct Showing<'a> {
    line: &'a Line,
    output: Box<dyn Output>,
    cards: Box<dyn Cards>,
    cadence: Cadence,
    run: SoundRun,
    fade: Fade,
    channels: usize,
    rate: FrameRate,
    picture: Arc<Picture>,
    /// What the picture is.
    shown: Shown,
    sent_us: i64,
    /// When a picture and when a sound of a feed was last sent.
    fresh_us: Option<i64>,
    sound_us: Option<i64>,
    rule: Rule,
    receivers: Option<Receivers>,
    absence: Absence,
    next_look_us: i64,
}

impl<'a> Showing<'a> {
    fn new(
        line: &'a Line,
        output: Box<dyn Output>,
        mut cards: Box<dyn Cards>,
        now_us: i64,
    ) -> Self {
        let absence = line.absence().clone();
        cards.want(Format::DEFAULT, &absence.slate);
        Self {
            line,
            output,
            cards,
            picture: Arc::new(slate::neutral(Format::DEFAULT)),
            cadence: Cadence::default(),
            run: SoundRun::default(),
            fade: Fade::default(),
            channels: 2,
            rate: FrameRate::DEFAULT,
            shown: Shown::Bare,
            sent_us: now_us - REPEAT_US,
            fresh_us: None,
            sound_us: None,
            rule: Rule::default(),
            receivers: None,
            absence,
            next_look_us: now_us,
        }
    }

    /// Does all that is due.
    fn step(&mut self, now_us: i64) {
        while let Some(sound) = self.due_sound(now_us) {
            self.play(sound, now_us);
        }
        self.play_silence(now_us);
        self.listen(now_us);
        if let Some((picture, due_us)) = self.due_picture(now_us) {
            self.show(picture, due_us, now_us);
        } else if self.change_card(now_us) || now_us - self.sent_us >= REPEAT_US {
            self.send(now_us, now_us);
        }
        if now_us >= self.next_look_us {
            self.next_look_us = now_us + LOOK_EVERY_US;
            self.look();
        }
    }

    /// When something is due next, or to be looked for.
    fn wake_us(&self, now_us: i64) -> i64 {
        let (delay_us, trim_us) = (self.line.delay_us(), self.line.sound_trim_us());
        let queue = self.line.queue();
        let picture = queue
            .pictures
            .front()
            .map(|next| self.cadence.at_us(next.media_us + delay_us, next.rate));
        let sound = queue
            .sounds
            .front()
            .map(|next| self.run.start_us(next.media_us + delay_us + trim_us));
        let silence = self.run.silence_at_us(self.patience_us(now_us));
        [picture, sound, silence]
            .into_iter()
            .flatten()
            .fold(self.sent_us + REPEAT_US, i64::min)
            .clamp(now_us, now_us + self.step_max_us(now_us))
    }

    /// How long what comes into the queue may be overlooked: while a feed is on not long, as it may be due at once. Nor
    /// may a tally while there is something to read: it must be gone within a picture of 60 a second.
    fn step_max_us(&self, now_us: i64) -> i64 {
        match self.fresh_us.max(self.sound_us) {
            Some(fed_us) if now_us - fed_us < FEED_SOUND_US => STEP_MAX_US,
            _ if self.shown == Shown::Full => READ_STEP_MAX_US,
            _ => IDLE_STEP_MAX_US,
        }
    }

    /// The next picture, if it is due. One that is past its time by more than a frame is left out if there is a newer.
    fn due_picture(&mut self, now_us: i64) -> Option<(QueuedPicture, i64)> {
        let delay_us = self.line.delay_us();
        let mut late = 0;
        let mut queue = self.line.queue();
        let due = loop {
            let Some(next) = queue.pictures.front() else {
                break None;
            };
            let due_us = next.media_us + delay_us;
            if queue.pictures.len() > 1 && now_us > due_us + next.rate.interval_us() {
                queue.pictures.pop_front();
                late += 1;
                continue;
            }
            break (self.cadence.at_us(due_us, next.rate) <= now_us)
                .then(|| queue.pictures.pop_front())
                .flatten()
                .map(|picture| (picture, due_us));
        };
        drop(queue);
        if late > 0 {
            self.line.stats().late += late;
        }
        due
    }

    fn show(&mut self, next: QueuedPicture, due_us: i64, now_us: i64) {
        let at_us = self.cadence.shown(due_us, next.rate);
        self.picture = Arc::new(next.picture);
        self.rate = next.rate;
        self.shown = Shown::Picture;
        self.fresh_us = Some(now_us);
        self.send(at_us, now_us);
        let mut stats = self.line.stats();
        stats.shown_us = Some(now_us);
        stats.picture_off.note(now_us - due_us, now_us);
        stats.output_histogram.note(now_us - due_us);
    }

    /// Puts a card in the place of the last picture when it may be, or another card in the place of one; whether there
    /// is something else to be seen now.
    fn change_card(&mut self, now_us: i64) -> bool {
        let idle_us = self.fresh_us.map_or(i64::MAX, |us| now_us - us);
        let hold_us = self.absence.hold_us;
        let wanted = self.rule.decide(self.shown, idle_us, hold_us, now_us);
        // A card that is not drawn yet is not waited for: what can't be read is, and what is there stays.
        let card = match wanted {
            Shown::Picture => None,
            Shown::Bare => self.cards.bare().map(|card| (card, Shown::Bare)),
            Shown::Full => (self.cards.full().map(|card| (card, Shown::Full)))
                .or_else(|| self.cards.bare().map(|card| (card, Shown::Bare))),
        };
        let Some((card, shown)) = card else {
            return false;
        };
        let is_new = !Arc::ptr_eq(&card, &self.picture);
        (self.picture, self.shown) = (card, shown);
        is_new
    }

    fn send(&mut self, at_us: i64, now_us: i64) {
        self.output.show(&self.picture, self.rate, timecode(at_us));
        self.sent_us = now_us;
    }

    fn due_sound(&mut self, now_us: i64) -> Option<QueuedSound> {
        let delay_us = self.line.delay_us();
        let mut queue = self.line.queue();
        let next = queue.sounds.front()?;
        let due_us = next.media_us + delay_us + self.line.sound_trim_us();
        (self.run.start_us(due_us) <= now_us).then(|| queue.sounds.pop_front())?
    }

    fn play(&mut self, next: QueuedSound, now_us: i64) {
        let QueuedSound { media_us, sound } = next;
        let trim_us = self.line.sound_trim_us();
        let due_us = media_us + self.line.delay_us() + trim_us;
        self.channels = sound.channels();
        self.sound_us = Some(now_us);
        let join = self.run.play(due_us, sound.frames());
        if join.silence > 0 {
            let silence = self.fade.silence(self.channels, join.silence);
            self.output.play(&silence, timecode(join.due_us));
        }
        let first_us = join.due_us + i64::try_from(join.silence).unwrap_or(0) * 1000 / 48;
        if join.cut >= sound.frames() {
            return;
        }
        let is_whole = join.cut == 0;
        let sound = if is_whole {
            sound
        } else {
            sound.without_start(join.cut)
        };
        let sound = self.fade.sound(sound, !is_whole);
        self.output.play(&sound, timecode(first_us));
        if is_whole {
            // What the operator put between sound and picture is there to be seen.
            let off_us = now_us - due_us + trim_us;
            self.line.stats().sound_off.note(off_us, now_us);
        }
    }

    fn play_silence(&mut self, now_us: i64) {
        let patience_us = self.patience_us(now_us);
        while let Some((due_us, frames)) = self.run.silence(now_us, patience_us) {
            let silence = self.fade.silence(self.channels, frames);
            self.output.play(&silence, timecode(due_us));
        }
    }

    /// A feed's sound may come a little late; without a feed nothing is waited for.
    fn patience_us(&self, now_us: i64) -> i64 {
        match self.sound_us {
            Some(sound_us) if now_us - sound_us < FEED_SOUND_US => PATIENCE_US,
            _ => 0,
        }
    }

    /// Hears what receivers do: each time, because a tally may not wait.
    fn listen(&mut self, now_us: i64) {
        let receivers = self.output.receivers();
        self.rule.note(receivers, now_us);
        if receivers != self.receivers {
            self.receivers = receivers;
            self.line.set_receivers(receivers);
        }
    }

    /// Follows the settings, and has cards drawn in the size of the picture before they are needed.
    fn look(&mut self) {
        {
            let absence = self.line.absence();
            if *absence != self.absence {
                self.absence = absence.clone();
            }
        }
        let format = Format::of(&self.picture);
        self.cards.want(format, &self.absence.slate);
    }
}

/// Evens out time stamps: RTMP has whole milliseconds, so 30 fps come as 33, 33 and 34.
#[derive(Debug, Default)]
struct Cadence {
    next_us: Option<i64>,
}

impl Cadence {
    /// When a picture that is due at `due_us` is to be sent: where the run expects it, drawn to the time stamp.
    fn at_us(&self, due_us: i64, rate: FrameRate) -> i64 {
        match self.next_us {
            Some(next_us)
                if (due_us - next_us).abs() <= EVEN_MAX_US.min(rate.interval_us() / 4) =>
            {
                next_us + (due_us - next_us) / EVEN_FOLLOW
            }
            _ => due_us,
        }
    }

    fn shown(&mut self, due_us: i64, rate: FrameRate) -> i64 {
        let at_us = self.at_us(due_us, rate);
        self.next_us = Some(at_us + rate.interval_us());
        at_us
    }
}

/// A time of our clock as NDI writes it: 100 ns since the Unix epoch. One base for the whole process, taken once: a
/// clock that is set later must not tear pictures and sound apart.
fn timecode(at_us: i64) -> i64 {
    static EPOCH_US: OnceLock<i64> = OnceLock::new();
    let epoch_us = EPOCH_US.get_or_init(|| {
        let unix_us = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |elapsed| i64::try_from(elapsed.as_micros()).unwrap_or(0));
        unix_us - now_us()
    });
    (epoch_us + at_us) * 10
}

/// Five a second keep a source alive in every receiver and cost next to nothing.
const REPEAT_US: i64 = 200_000;

/// How late sound may be before silence takes its place.
const PATIENCE_US: i64 = 30_000;

/// Without sound for so long, a feed has none.
const FEED_SOUND_US: i64 = 1_000_000;

const LOOK_EVERY_US: i64 = 100_000;

const STEP_MAX_US: i64 = 5_000;

/// With the tally's own 4 ms, less than a picture of 60 a second.
const READ_STEP_MAX_US: i64 = 8_000;

/// A feed's first picture comes into the queue two frames before it is due.
const IDLE_STEP_MAX_US: i64 = 20_000;

/// Deviations up to this are wobble; larger ones are meant.
const EVEN_MAX_US: i64 = 3_000;
const EVEN_FOLLOW: i64 = 4;

#[cfg(test)]
mod tests;

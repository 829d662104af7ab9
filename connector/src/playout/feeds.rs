//! The feeds of one line: the one being played, while encoders change the one that follows it, and those of other
//! relays that are held. Pure.
//!
//! A feed that ended is played to its end: what arrived is due up to the delay later. Its successor takes over when
//! the first of its own units is due. Which relay's feed is played is decided by [`firstmile_shared::takeover`], as
//! each relay decides between its publishers; one that was held goes on from its newest keyframe.

mod held;
mod rivals;
pub(super) mod tuner;

use std::collections::VecDeque;

use firstmile_shared::{
    takeover::{Arbiter, Incumbent, Look, Why},
    tunnel::control::{Takeover, TrackReport},
};

use self::{
    held::{Buffer, Held, Pulse},
    tuner::{Role, Tuner},
};
use super::{
    ArrivedUnit, FeedInfo,
    jitter::{Jitter, LeftOut, Losses, Picture, Queued, Timing},
    media_clock::MediaClock,
};

/// The feeds of a line, the one being played first.
#[derive(Debug, Default)]
pub(super) struct Feeds {
    feeds: VecDeque<Feed>,
    /// In the order in which they came.
    held: Vec<Held>,
    /// Publishers whose feeds were played to the end: what still comes of them is late.
    gone: VecDeque<Gone>,
    past: Losses,
    policy: Takeover,
    /// The number of the tracks to play, where there are such.
    track: u8,
    arbiter: Arbiter,
    /// The operator chose this one, which its relay has yet to send.
    wanted: Option<u32>,
    /// When a feed left last, and when its last media had come.
    ended_us: i64,
    left_us: i64,
    changes: VecDeque<FeedChange>,
}

#[derive(Debug)]
struct Feed {
    publisher: u32,
    /// `None`: its units came before the word of it.
    info: Option<FeedInfo>,
    look: Look,
    /// Why it ended.
    ended: Option<String>,
    /// [`Next::Drain`] was said of its end.
    is_drained: bool,
    clock: MediaClock,
    tuner: Tuner,
    jitter: Jitter,
    pulse: Pulse,
    /// It was held: it begins when the one before has no more.
    waits: Option<Buffer>,
}

/// A publisher whose feed was played to its end.
#[derive(Clone, Copy, Debug)]
struct Gone {
    publisher: u32,
    /// When its last unit came.
    last_us: i64,
}

/// What became of a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// It is going to be played.
    Played,
    /// It is of a track that is not, or data.
    Other,
    /// Another feed has the line.
    Held,
    /// Its feed was played to its end, there are too many feeds, or it has impossible times.
    Refused,
}

impl Taken {
    /// One word.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Played => "played",
            Self::Other => "other",
            Self::Held => "held",
            Self::Refused => "refused",
        }
    }
}

/// One feed took the line from another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedChange {
    /// Who has it now.
    pub new: FeedInfo,
    /// Who had it, if that is known.
    pub old: Option<FeedInfo>,
    /// By which right.
    pub why: Why,
}

/// A feed of another relay that is held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldFeed {
    /// Who publishes it, and by which relay it comes.
    pub info: FeedInfo,
    /// When it came, microseconds of the connector's clock.
    pub came_us: i64,
}

/// What to do next.
#[derive(Debug)]
pub(super) enum Next {
    /// Decode this unit of video.
    Picture {
        /// Whose it is.
        publisher: u32,
        /// The unit.
        picture: Picture,
    },
    /// Decode this unit of sound.
    Sound {
        /// Whose it is.
        publisher: u32,
        /// The unit.
        queued: Queued,
    },
    /// The feed ended and its last unit of video was given out: show what the decoder still holds. Sound may follow.
    Drain,
    /// The last feed was played to its end.
    Over {
        /// One clause for the operator.
        reason: String,
    },
    /// Nothing until then, or until something comes.
    Wait(Option<i64>),
}

impl Feeds {
    /// Takes a unit in.
    pub(super) fn push(&mut self, arrived: ArrivedUnit, timing: Timing, now_us: i64) -> Taken {
        let publisher = arrived.unit.publisher;
        if !has_sane_times(&arrived) {
            return Taken::Refused;
        }
        if let Some(index) = self.held_index(publisher) {
            return self.hold(index, arrived, timing, now_us);
        }
        if self.is_straggler(publisher, now_us) {
            return Taken::Refused;
        }
        if self.find(publisher).is_none() {
            let is_taken = self.chosen().is_some();
            if self.feeds.len() >= FEEDS_MAX || (is_taken && self.held.len() >= HELD_MAX) {
                return Taken::Refused;
            }
            let newcomer = Held::new(publisher, None, now_us);
            if is_taken {
                self.held.push(newcomer);
                return self.hold(self.held.len() - 1, arrived, timing, now_us);
            }
            self.line_up(newcomer, timing, now_us);
        }
        let Some(feed) = self.find(publisher) else {
            return Taken::Refused;
        };
        if feed.tuner.role(&arrived.unit.access_unit, arrived.unit.seq) == Role::Other {
            feed.pulse.beat(arrived.arrived_us, feed.pulse.lag_us);
            feed.pass_over(arrived.unit.seq, now_us);
            return Taken::Other;
        }
        let (queued, lag_us) = queued(&mut feed.clock, arrived);
        feed.pulse.beat(queued.arrived_us, lag_us);
        match &mut feed.waits {
            Some(buffer) => buffer.push(queued, timing, now_us),
            None => feed.jitter.push(queued, timing, now_us),
        }
        Taken::Played
    }

    /// A unit came that nobody here can read: it is no gap.
    pub(super) fn pass_over(&mut self, publisher: u32, seq: u64, now_us: i64) {
        if seq > TIME_MAX_US.unsigned_abs() {
            return;
        }
        if let Some(index) = self.held_index(publisher) {
            self.held[index].buffer.pass_over(seq);
        } else if let Some(feed) = self.find(publisher) {
            feed.pass_over(seq, now_us);
        }
    }

    /// A publisher is there; those before it at the same relay are not any more.
    pub(super) fn started(&mut self, info: FeedInfo, timing: Timing, now_us: i64) {
        let publisher = info.publisher;
        self.gone.retain(|gone| gone.publisher != publisher);
        for feed in &mut self.feeds {
            let is_same_relay = (feed.info.as_ref()).is_some_and(|old| old.relay == info.relay);
            if is_same_relay && feed.publisher != publisher {
                feed.ended
                    .get_or_insert_with(|| "another encoder took over".to_owned());
            }
        }
        self.held.retain(|held| {
            held.publisher == publisher
                || (held.info.as_ref()).is_none_or(|old| old.relay != info.relay)
        });
        let is_free = self
            .chosen()
            .is_none_or(|index| self.feeds[index].publisher == publisher);
        let held = self.held_index(publisher);
        if is_free
            && held.is_none()
            && let Some(feed) = self.find(publisher)
        {
            feed.look = info.look();
            feed.info = Some(info);
            feed.ended = None;
            feed.is_drained = false;
            return;
        }
        let mut newcomer = match held {
            Some(index) => self.held.remove(index),
            None => Held::new(publisher, None, now_us),
        };
        newcomer.look = info.look();
        newcomer.info = Some(info);
        match self.right_of(&newcomer, now_us) {
            Some(why) if self.chosen().is_none() || why == Why::Left => {
                self.line_up(newcomer, timing, now_us);
            }
            Some(why) => self.promote(newcomer, why, now_us),
            None => {
                if self.held.len() >= HELD_MAX {
                    self.held.remove(0);
                }
                self.held.push(newcomer);
            }
        }
    }

    /// What a publisher sends.
    pub(super) fn set_tracks(&mut self, publisher: u32, tracks: &[TrackReport]) {
        let choice = tuner::choice(tracks, self.track);
        for (number, info, tuner) in self.tuners() {
            if let Some(info) = info
                && number == publisher
            {
                info.tracks = tracks.to_vec();
                tuner.want(choice);
            }
        }
    }

    /// The number of the tracks to play, where there are such.
    pub(super) fn set_track(&mut self, number: u8) {
        if self.track == number {
            return;
        }
        self.track = number;
        for (_, info, tuner) in self.tuners() {
            let tracks = info.as_ref().map_or(&[][..], |info| &info.tracks);
            tuner.want(tuner::choice(tracks, number));
        }
    }

    /// The tracks of pictures and sound that are played of a publisher's feed.
    pub(super) fn played(&mut self, publisher: u32) -> Option<(u8, u8)> {
        let mut tuners = self.tuners();
        let (.., tuner) = tuners.find(|(number, ..)| *number == publisher)?;
        Some(tuner.wanted())
    }

    /// Whose, what is known of it, and which of its tracks are played.
    fn tuners(&mut self) -> impl Iterator<Item = (u32, &mut Option<FeedInfo>, &mut Tuner)> {
        let held =
            (self.held.iter_mut()).map(|held| (held.publisher, &mut held.info, &mut held.tuner));
        let feeds =
            (self.feeds.iter_mut()).map(|feed| (feed.publisher, &mut feed.info, &mut feed.tuner));
        held.chain(feeds)
    }

    /// A publisher is gone.
    pub(super) fn ended(&mut self, publisher: u32, reason: String, now_us: i64) {
        self.held.retain(|held| held.publisher != publisher);
        if self.wanted == Some(publisher) {
            self.wanted = None;
        }
        let Some(feed) = self.find(publisher) else {
            return;
        };
        feed.ended = Some(reason);
        self.left_us = feed.pulse.last_us;
        self.ended_us = now_us;
        if self.chosen().is_none() {
            self.arbiter.left();
        }
        self.fill(now_us);
    }

    /// Units that the relay dropped.
    pub(super) fn announce(&mut self, publisher: u32, left_out: LeftOut) {
        if self.held_index(publisher).is_some() {
            return;
        }
        match self.find(publisher) {
            Some(feed) => feed.jitter.announce(left_out),
            None => self.past.dropped += u64::from(left_out.video),
        }
    }

    /// What to do now. `has_room`: a picture may be decoded.
    pub(super) fn next(&mut self, timing: Timing, has_room: bool, now_us: i64) -> Next {
        self.fill(now_us);
        loop {
            let successor_us = (self.feeds.get(1))
                .filter(|feed| feed.waits.is_none())
                .and_then(|feed| feed.jitter.wake_us(timing, now_us));
            let Some(feed) = self.feeds.front_mut() else {
                return Next::Wait(None);
            };
            if let Some(buffer) = feed.waits.take() {
                feed.jitter = buffer.into_jitter(timing, now_us);
            }
            if let Some(reason) = &feed.ended
                && (feed.jitter.is_empty() || successor_us.is_some_and(|at_us| at_us <= now_us))
            {
                let reason = reason.clone();
                self.remove_first();
                if self.feeds.is_empty() {
                    return Next::Over { reason };
                }
                continue;
            }
            let publisher = feed.publisher;
            if let Some(queued) = feed.jitter.next_audio(timing, now_us) {
                return Next::Sound { publisher, queued };
            }
            if has_room && let Some(picture) = feed.jitter.next_video(timing, now_us) {
                return Next::Picture { publisher, picture };
            }
            let drain_us = (feed.jitter.drain_at_us(timing))
                .filter(|_| feed.ended.is_some() && !feed.is_drained);
            if drain_us.is_some_and(|at_us| at_us <= now_us) {
                feed.is_drained = true;
                return Next::Drain;
            }
            let own_us = feed.jitter.wake_us(timing, now_us);
            let successor_us = successor_us.filter(|_| feed.ended.is_some());
            return Next::Wait([own_us, drain_us, successor_us].into_iter().flatten().min());
        }
    }

    /// Whether a later keyframe of what is played now could be decoded at this moment.
    pub(super) fn has_keyframe_due(&self, timing: Timing, now_us: i64) -> bool {
        (self.feeds.front()).is_some_and(|feed| feed.jitter.has_keyframe_due(timing, now_us))
    }

    /// Who publishes what is played now.
    pub(super) fn current(&self) -> Option<&FeedInfo> {
        self.feeds.front()?.info.as_ref()
    }

    /// Who publishes what is played now or next.
    pub(super) fn chosen_publisher(&self) -> Option<u32> {
        Some(self.feeds[self.chosen()?].publisher)
    }

    /// Whether there is a feed that has not ended.
    pub(super) fn is_on(&self) -> bool {
        self.chosen().is_some()
    }

    /// Units of video that were not given out, since start.
    pub(super) fn losses(&mut self, now_us: i64) -> Losses {
        self.feeds
            .iter_mut()
            .fold(self.past, |sum, feed| add(sum, feed.jitter.losses(now_us)))
    }

    /// Who wins when several relays bring a feed.
    pub(super) fn set_policy(&mut self, policy: Takeover) {
        self.policy = policy;
    }

    /// Whether a receiver has the line on program.
    pub(super) fn set_program(&mut self, is_on_program: bool, now_us: i64) {
        self.arbiter.set_program(is_on_program, now_us);
    }

    /// Whether encoders fought for the line and the choice is frozen.
    pub(super) const fn is_frozen(&self) -> bool {
        self.arbiter.is_frozen()
    }

    /// The one that has the line: the last that did not end.
    fn chosen(&self) -> Option<usize> {
        self.feeds.iter().rposition(|feed| feed.ended.is_none())
    }

    fn incumbent(&self, now_us: i64) -> Option<Incumbent<'_>> {
        let feed = &self.feeds[self.chosen()?];
        Some(Incumbent {
            look: &feed.look,
            silent_us: now_us.saturating_sub(feed.pulse.last_us),
            lag_us: feed.pulse.lag_us,
        })
    }

    fn held_index(&self, publisher: u32) -> Option<usize> {
        self.held
            .iter()
            .position(|held| held.publisher == publisher)
    }

    /// The newest feed of a publisher: it may have lost the line and got it again.
    fn find(&mut self, publisher: u32) -> Option<&mut Feed> {
        (self.feeds.iter_mut())
            .rev()
            .find(|feed| feed.publisher == publisher)
    }

    /// Whether a unit belongs to a feed that was played to its end. One that got the line again sends a keyframe first,
    /// and that may be here before its relay's word.
    fn is_straggler(&self, publisher: u32, now_us: i64) -> bool {
        (self.gone.iter()).any(|gone| {
            gone.publisher == publisher && now_us.saturating_sub(gone.last_us) < STRAGGLE_US
        })
    }

    fn remove_first(&mut self) {
        let Some(mut feed) = self.feeds.pop_front() else {
            return;
        };
        // Whatever did not come by now never will.
        self.past = add(self.past, feed.jitter.losses(i64::MAX));
        let is_back = |other: &Feed| other.publisher == feed.publisher;
        if self.feeds.iter().any(is_back) {
            return;
        }
        if self.gone.len() == GONE_MAX {
            self.gone.pop_front();
        }
        self.gone.push_back(Gone {
            publisher: feed.publisher,
            last_us: feed.pulse.last_us,
        });
    }
}

impl Feed {
    fn new(held: Held) -> Self {
        Self {
            publisher: held.publisher,
            info: held.info,
            look: held.look,
            ended: None,
            is_drained: false,
            clock: held.clock,
            tuner: held.tuner,
            jitter: Jitter::default(),
            pulse: held.pulse,
            waits: Some(held.buffer),
        }
    }

    fn pass_over(&mut self, seq: u64, now_us: i64) {
        match &mut self.waits {
            Some(buffer) => buffer.pass_over(seq),
            None => self.jitter.pass_over(seq, now_us),
        }
    }
}

/// A unit for the buffer, and its age when it came in.
fn queued(clock: &mut MediaClock, arrived: ArrivedUnit) -> (Queued, i64) {
    let unit = arrived.unit.access_unit;
    let lag_us = arrived.ingest_us - arrived.baseline_us - unit.dts_us;
    let baseline_us = if arrived.baseline_us + unit.dts_us > arrived.arrived_us + AHEAD_MAX_US {
        arrived.arrived_us - unit.dts_us
    } else {
        arrived.baseline_us
    };
    let queued = Queued {
        baseline_us: clock.baseline_us(unit.dts_us, baseline_us),
        seq: arrived.unit.seq,
        arrived_us: arrived.arrived_us,
        unit,
    };
    (queued, lag_us)
}

/// Within these no sum of times overflows: 285 years, and a count that no feed reaches.
fn has_sane_times(arrived: &ArrivedUnit) -> bool {
    let sane = -TIME_MAX_US..=TIME_MAX_US;
    let unit = &arrived.unit;
    let times = [
        arrived.arrived_us,
        arrived.baseline_us,
        arrived.ingest_us,
        unit.access_unit.dts_us,
    ];
    times.iter().all(|time| sane.contains(time)) && unit.seq <= TIME_MAX_US.unsigned_abs()
}

fn add(a: Losses, b: Losses) -> Losses {
    Losses {
        late: a.late + b.late,
        dropped: a.dropped + b.dropped,
        lost: a.lost + b.lost,
    }
}

const TIME_MAX_US: i64 = 1 << 53;

/// Nothing arrives before it is made, give or take what the clocks are off.
const AHEAD_MAX_US: i64 = 1_000_000;

/// The one played, its successor, and one that follows while both are short.
const FEEDS_MAX: usize = 3;

/// Relays besides the one that is played, and publishers whose word has not come yet.
const HELD_MAX: usize = 3;

/// Longer than a unit is underway that its relay had not given up.
const STRAGGLE_US: i64 = 2_000_000;

/// Stragglers of so many publishers are told from new ones.
const GONE_MAX: usize = 16;

/// Within which a relay says who follows on a publisher that lost the line.
const SUCCESSOR_US: i64 = 200_000;

/// Changes that nobody has asked for yet.
const CHANGES_MAX: usize = 16;

#[cfg(test)]
mod tests;

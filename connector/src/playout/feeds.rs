//! The feeds of one line: the one being played and, while encoders change, the one that follows it. Pure.
//!
//! A feed that ended is played to its end: what arrived is due up to the delay later. Its successor takes over when
//! the first of its own units is due.

use std::collections::VecDeque;

use super::{
    ArrivedUnit, FeedInfo,
    jitter::{Jitter, Losses, Picture, Queued, Timing},
    media_clock::MediaClock,
};

/// The feeds of a line, the one being played first.
#[derive(Debug, Default)]
pub(super) struct Feeds {
    feeds: VecDeque<Feed>,
    /// Publishers whose feeds were played to the end: what still comes of them is late.
    gone: VecDeque<u32>,
    past: Losses,
}

#[derive(Debug)]
struct Feed {
    publisher: u32,
    /// `None`: its units came before the word of it.
    info: Option<FeedInfo>,
    /// Why it ended.
    ended: Option<String>,
    /// [`Next::Drain`] was said of its end.
    is_drained: bool,
    clock: MediaClock,
    jitter: Jitter,
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
    /// Takes a unit in. `false`: of a feed that was played to its end, of one too many, or with impossible times.
    pub(super) fn push(&mut self, arrived: ArrivedUnit, timing: Timing, now_us: i64) -> bool {
        let publisher = arrived.unit.publisher;
        if self.gone.contains(&publisher) || !has_sane_times(&arrived) {
            return false;
        }
        let known = self.feeds.iter().any(|feed| feed.publisher == publisher);
        if !known {
            if self.feeds.len() >= FEEDS_MAX {
                return false;
            }
            self.feeds.push_back(Feed::new(publisher, None));
        }
        let Some(feed) = self.find(publisher) else {
            return false;
        };
        let unit = arrived.unit.access_unit;
        let baseline_us = if arrived.baseline_us + unit.dts_us > arrived.arrived_us + AHEAD_MAX_US {
            arrived.arrived_us - unit.dts_us
        } else {
            arrived.baseline_us
        };
        let queued = Queued {
            baseline_us: feed.clock.baseline_us(unit.dts_us, baseline_us),
            seq: arrived.unit.seq,
            arrived_us: arrived.arrived_us,
            unit,
        };
        feed.jitter.push(queued, timing, now_us);
        true
    }

    /// A publisher is there; the ones before it are not any more.
    pub(super) fn started(&mut self, info: FeedInfo) {
        let publisher = info.publisher;
        self.gone.retain(|gone| *gone != publisher);
        for feed in &mut self.feeds {
            if feed.publisher != publisher {
                feed.ended
                    .get_or_insert_with(|| "another encoder took over".to_owned());
            }
        }
        if let Some(feed) = self.find(publisher) {
            feed.info = Some(info);
            feed.ended = None;
            feed.is_drained = false;
            return;
        }
        if self.feeds.len() >= FEEDS_MAX {
            self.remove_first();
        }
        self.feeds.push_back(Feed::new(publisher, Some(info)));
    }

    /// A publisher is gone.
    pub(super) fn ended(&mut self, publisher: u32, reason: String) {
        if let Some(feed) = self.find(publisher) {
            feed.ended = Some(reason);
        }
    }

    /// Units that the relay dropped.
    pub(super) fn announce(&mut self, publisher: u32, from_seq: u64, to_seq: u64, video: u32) {
        match self.find(publisher) {
            Some(feed) => feed.jitter.announce(from_seq, to_seq, video),
            None => self.past.dropped += u64::from(video),
        }
    }

    /// What to do now. `has_room`: a picture may be decoded.
    pub(super) fn next(&mut self, timing: Timing, has_room: bool, now_us: i64) -> Next {
        loop {
            let successor_us =
                (self.feeds.get(1)).and_then(|feed| feed.jitter.wake_us(timing, now_us));
            let Some(feed) = self.feeds.front_mut() else {
                return Next::Wait(None);
            };
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

    /// Whether there is a feed that has not ended.
    pub(super) fn is_on(&self) -> bool {
        self.feeds.iter().any(|feed| feed.ended.is_none())
    }

    /// Units of video that were not given out, since start.
    pub(super) fn losses(&mut self, now_us: i64) -> Losses {
        self.feeds
            .iter_mut()
            .fold(self.past, |sum, feed| add(sum, feed.jitter.losses(now_us)))
    }

    fn find(&mut self, publisher: u32) -> Option<&mut Feed> {
        (self.feeds.iter_mut()).find(|feed| feed.publisher == publisher)
    }

    fn remove_first(&mut self) {
        let Some(mut feed) = self.feeds.pop_front() else {
            return;
        };
        // Whatever did not come by now never will.
        self.past = add(self.past, feed.jitter.losses(i64::MAX));
        if self.gone.len() == GONE_MAX {
            self.gone.pop_front();
        }
        self.gone.push_back(feed.publisher);
    }
}

impl Feed {
    fn new(publisher: u32, info: Option<FeedInfo>) -> Self {
        Self {
            publisher,
            info,
            ended: None,
            is_drained: false,
            clock: MediaClock::default(),
            jitter: Jitter::default(),
        }
    }
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

/// The one played, its successor, and one whose word has not come yet.
const FEEDS_MAX: usize = 3;

/// Stragglers of so many publishers are told from new ones.
const GONE_MAX: usize = 16;

#[cfg(test)]
mod tests;

//! Which relay's feed has the line, and which are held: what follows from the verdicts of
//! [`firstmile_shared::takeover`]. Pure.

use std::fmt;

use firstmile_shared::takeover::{ASK_AFTER_US, SILENT_US, Verdict, Why};

use super::{
    super::{ArrivedUnit, FeedInfo, jitter::Timing},
    CHANGES_MAX, FEEDS_MAX, Feed, FeedChange, Feeds, HELD_MAX, HeldFeed, SUCCESSOR_US, Taken,
    held::{Buffer, Held, Pulse},
    queued,
    tuner::{Role, Tuner},
};

impl Feeds {
    /// The operator chose a publisher. `true`: it is here and has the line now; else its relay has to be asked.
    pub(in crate::playout) fn take(&mut self, publisher: u32, now_us: i64) -> bool {
        self.wanted = None;
        if let Some(index) = self.held_index(publisher) {
            let held = self.held.remove(index);
            self.promote(held, Why::Operator, now_us);
            return true;
        }
        if self.chosen_publisher() == Some(publisher) {
            self.arbiter.decided();
            return true;
        }
        self.wanted = Some(publisher);
        // What comes from it now is new, and may be here before its relay's word.
        self.gone.retain(|gone| gone.publisher != publisher);
        false
    }

    /// The feeds of whom the operator is asked.
    pub(in crate::playout) fn held(&self, now_us: i64) -> Vec<HeldFeed> {
        (self.held.iter())
            .filter(|held| held.is_question(now_us))
            .filter_map(|held| {
                Some(HeldFeed {
                    info: FeedInfo {
                        // Whoever looks for news looks for encoders.
                        tracks: Vec::new(),
                        ..held.info.clone()?
                    },
                    came_us: held.pulse.came_us,
                })
            })
            .collect()
    }

    /// Who took the line from whom since the last time.
    pub(in crate::playout) fn take_changes(&mut self) -> Vec<FeedChange> {
        self.changes.drain(..).collect()
    }

    /// By which right a newcomer gets the line at once.
    pub(super) fn right_of(&mut self, newcomer: &Held, now_us: i64) -> Option<Why> {
        if self.wanted == Some(newcomer.publisher) {
            self.wanted = None;
            return Some(Why::Operator);
        }
        let mut arbiter = std::mem::take(&mut self.arbiter);
        let verdict = self
            .incumbent(now_us)
            .zip(newcomer.challenger(true, now_us))
            .map(|(incumbent, challenger)| {
                arbiter.judge(self.policy, incumbent, challenger, now_us)
            });
        self.arbiter = arbiter;
        match verdict {
            None => Some(Why::Left),
            Some(Verdict::Take(why)) => Some(why),
            Some(Verdict::Wait | Verdict::Hold) => None,
        }
    }

    /// A unit of one that is held: its turn may have come with it.
    pub(super) fn hold(
        &mut self,
        index: usize,
        arrived: ArrivedUnit,
        timing: Timing,
        now_us: i64,
    ) -> Taken {
        let played_us = self.chosen().map(|index| self.feeds[index].pulse.last_us);
        let held = &mut self.held[index];
        if held.tuner.role(&arrived.unit.access_unit, arrived.unit.seq) == Role::Other {
            held.buffer.pass_over(arrived.unit.seq);
            return Taken::Held;
        }
        let (queued, lag_us) = queued(&mut held.clock, arrived);
        held.pulse.beat(queued.arrived_us, lag_us);
        held.pulse.note_alone(played_us.unwrap_or(i64::MIN), now_us);
        held.buffer.push(queued, timing, now_us);
        if played_us.is_none() {
            self.fill(now_us);
            return Taken::Held;
        }
        let mut arbiter = std::mem::take(&mut self.arbiter);
        let verdict = self
            .incumbent(now_us)
            .zip(self.held[index].challenger(false, now_us))
            .map(|(incumbent, challenger)| {
                arbiter.judge(self.policy, incumbent, challenger, now_us)
            });
        self.arbiter = arbiter;
        if let Some(Verdict::Take(why)) = verdict {
            let held = self.held.remove(index);
            self.promote(held, why, now_us);
        }
        Taken::Held
    }

    /// The line is free: one that is held gets it, on program only when a second without media has passed.
    pub(super) fn fill(&mut self, now_us: i64) {
        if self.held.is_empty() || self.chosen().is_some() {
            return;
        }
        let since = |us: i64| now_us.saturating_sub(us);
        // Its relay may have another one for the line: the word of it follows at once, or when the operator chose it.
        let is_settled = since(self.ended_us) >= SUCCESSOR_US
            && (self.wanted.is_none() || since(self.ended_us) >= SILENT_US);
        let may_return = self.arbiter.is_on_program(now_us) && since(self.left_us) < SILENT_US;
        if !is_settled || may_return {
            return;
        }
        let lives = |held: &Held| now_us.saturating_sub(held.pulse.last_us) < SILENT_US;
        let known = |held: &Held| held.info.is_some();
        let next = (self.held.iter())
            .position(|held| known(held) && lives(held))
            .or_else(|| self.held.iter().position(known));
        if let Some(index) = next {
            let held = self.held.remove(index);
            self.promote(held, Why::Left, now_us);
        }
    }

    /// A publisher gets a line that nobody has: what it has sent is played when it is due.
    pub(super) fn line_up(&mut self, newcomer: Held, timing: Timing, now_us: i64) {
        if self.feeds.len() >= FEEDS_MAX {
            self.remove_first();
        }
        let mut feed = Feed::new(newcomer);
        if let Some(buffer) = feed.waits.take() {
            feed.jitter = buffer.into_jitter(timing, now_us);
        }
        self.feeds.push_back(feed);
    }

    /// One that was held gets the line; the one that loses it is held if it has not ended.
    pub(super) fn promote(&mut self, held: Held, why: Why, now_us: i64) {
        let old = self.chosen().and_then(|index| self.feeds.get_mut(index));
        let old_info = old.as_ref().and_then(|old| old.info.clone());
        if let Some(old) = old {
            old.ended = Some(why.reason().to_owned());
            let look = old.look.clone();
            let loser = Held {
                publisher: old.publisher,
                info: old.info.clone(),
                look: look.clone(),
                clock: old.clock.clone(),
                tuner: tuned(old.tuner.wanted()),
                buffer: Buffer::default(),
                pulse: Pulse {
                    came_us: now_us.saturating_sub(ASK_AFTER_US),
                    alone_since_us: None,
                    ..old.pulse
                },
            };
            self.arbiter.changed(look, why, now_us);
            if self.held.len() < HELD_MAX {
                self.held.push(loser);
            }
        }
        if let Some(new) = held.info.clone() {
            if self.changes.len() == CHANGES_MAX {
                self.changes.pop_front();
            }
            self.changes.push_back(FeedChange {
                new,
                old: old_info,
                why,
            });
        }
        if self.feeds.len() >= FEEDS_MAX {
            self.remove_first();
        }
        self.gone.retain(|gone| gone.publisher != held.publisher);
        self.feeds.push_back(Feed::new(held));
    }
}

/// For a feed that begins again.
fn tuned(wanted: (u8, u8)) -> Tuner {
    let mut tuner = Tuner::default();
    tuner.want(wanted);
    tuner
}

impl fmt::Display for FeedChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let FeedInfo {
            encoder,
            peer,
            relay,
            ..
        } = &self.new;
        write!(
            f,
            "{encoder} from {peer}, by relay {relay}, has the line now"
        )?;
        match &self.old {
            Some(old) => write!(
                f,
                "; {} from {}, by relay {}, lost it: {}",
                old.encoder,
                old.peer,
                old.relay,
                self.why.reason()
            ),
            None => Ok(()),
        }
    }
}

//! Who has the line and who waits for it: what follows from the verdicts of [`firstmile_shared::takeover`].

use firstmile_shared::{
    takeover::{Challenger, SILENT_US, Verdict, Why},
    tunnel::control::Claim,
};
use tracing::{info, warn};

use super::{
    super::{Claims, Ending},
    Feed, Publisher, announce,
    publisher::{Timed, is_keyframe},
};
use crate::metrics::Dropped;

impl Feed {
    /// By which right a newcomer gets the line at once.
    pub(super) fn right_of(&mut self, newcomer: &Publisher, now_us: i64) -> Option<Why> {
        let Some(incumbent) = self.live.and_then(|live| self.index(live)) else {
            let is_free =
                (self.vacancy.as_ref()).is_none_or(|vacancy| vacancy.look.is_like(&newcomer.look));
            return is_free.then_some(Why::Left);
        };
        let challenger = Challenger {
            waited_us: None,
            ..newcomer.challenger(now_us)
        };
        let policy = self.policy();
        let incumbent = self.publishers[incumbent].incumbent(now_us);
        let verdict = self.arbiter.judge(policy, incumbent, challenger, now_us);
        match verdict {
            Verdict::Take(why) => Some(why),
            Verdict::Wait | Verdict::Hold => None,
        }
    }

    /// A unit of one that is held: its turn may have come with it.
    pub(super) fn hold(&mut self, index: usize, timed: Timed, now_us: i64) {
        let incumbent = self.live.and_then(|live| self.index(live));
        let policy = self.policy();
        let is_start = is_keyframe(&timed.unit);
        let incumbent_us = incumbent.map_or(i64::MIN, |index| self.publishers[index].last_media_us);
        let publisher = &mut self.publishers[index];
        publisher.keep(timed, None);
        publisher.note_alone(incumbent_us, now_us);
        let publisher = &self.publishers[index];
        let number = publisher.number;
        let right = if self.taken == Some(number) {
            (is_start || publisher.video.is_none()).then_some(Why::Operator)
        } else if publisher.is_in_doubt {
            None
        } else if let Some(incumbent) = incumbent {
            let incumbent = self.publishers[incumbent].incumbent(now_us);
            let challenger = publisher.challenger(now_us);
            match self.arbiter.judge(policy, incumbent, challenger, now_us) {
                Verdict::Take(why) => Some(why),
                Verdict::Wait | Verdict::Hold => None,
            }
        } else {
            None
        };
        if let Some(why) = right {
            self.switch_to(number, why, now_us);
            self.tell();
            return;
        }
        self.metrics.dropped(Dropped::Held, 1);
        if incumbent.is_none() && !self.publishers[index].is_in_doubt {
            self.fill_vacancy(now_us);
        } else if publisher_asks(&self.publishers[index], now_us) || self.froze_now() {
            self.tell_at(now_us);
        }
    }

    pub(super) fn froze_now(&self) -> bool {
        self.arbiter.is_frozen() && !self.told.frozen
    }

    /// The line was left on program: the one that waits gets it when a second without a picture has passed.
    pub(super) fn fill_vacancy(&mut self, now_us: i64) {
        let is_over = (self.vacancy.as_ref())
            .is_none_or(|vacancy| now_us.saturating_sub(vacancy.last_media_us) >= SILENT_US);
        if self.live.is_none()
            && is_over
            && let Some(next) = self.next_held(now_us)
        {
            self.switch_to(next, Why::Left, now_us);
            self.tell();
        }
    }

    /// The operator gives the line to a publisher, or lets one that was refused try again. `false`: there is none
    /// of this number.
    pub(in crate::registry) fn take(&mut self, number: u32, now_us: i64) -> bool {
        if self.refused.lift(|claim| claim.publisher == number) {
            info!(
                studio = self.studio,
                line = self.line_names(),
                "the operator lifted a refusal"
            );
            self.tell();
            return true;
        }
        let Some(index) = self.index(number) else {
            return false;
        };
        if self.live == Some(number) {
            self.arbiter.decided();
            self.taken = None;
        } else {
            let is_fresh = (self.publishers[index].kept_for_us(now_us))
                .is_some_and(|age_us| age_us <= self.delay_us());
            if is_fresh || self.live.is_none() {
                self.switch_to(number, Why::Operator, now_us);
            } else {
                // The one that is shown stays until there is a picture of the other.
                self.taken = Some(number);
            }
        }
        self.tell();
        true
    }

    /// The operator does not want a publisher: it is told, and not let in again for a while. `false`: there is none
    /// of this number.
    pub(in crate::registry) fn refuse(&mut self, number: u32, now_us: i64, now_unix: i64) -> bool {
        let Some(index) = self.index(number) else {
            return false;
        };
        let gone = self.publishers.remove(index);
        let claim = Claim {
            since_unix: now_unix,
            ..gone.claim()
        };
        info!(
            studio = self.studio,
            line = self.line_names(),
            peer = %gone.peer,
            "the operator refused an encoder"
        );
        let has_twin = (self.publishers.iter()).any(|other| other.look.is_like(&gone.look));
        self.refused.add(gone.look.clone(), claim, has_twin, now_us);
        self.arbiter.decided();
        gone.order(Ending::Refused);
        self.left(&gone, Ending::Refused.reason(), false, now_us);
        self.tell();
        true
    }

    /// Makes a publisher the live one. The one before is told to go, or held if that was the operator's wish.
    pub(super) fn switch_to(&mut self, number: u32, why: Why, now_us: i64) {
        if let Some(old) = self.live.take() {
            for target in &self.targets {
                target.outbox.feed_ended(target.line, old, why.reason());
            }
            self.metrics.takeover();
            self.depose(old, why, now_us);
        }
        self.live = Some(number);
        self.taken = None;
        self.vacancy = None;
        let delay_us = self.delay_us();
        let Some(index) = self.index(number) else {
            return;
        };
        let live = &mut self.publishers[index];
        live.is_in_doubt = false;
        let is_fresh = (live.kept_for_us(now_us)).is_some_and(|age_us| age_us <= delay_us);
        let kept = live.take_kept();
        live.waits_for_keyframe = live.video.is_some() && !is_fresh;
        let live = &self.publishers[index];
        for target in &self.targets {
            announce(target, live);
        }
        if is_fresh {
            for timed in kept {
                self.send(index, timed, 0);
            }
        }
    }

    /// Takes the line from a publisher.
    pub(super) fn depose(&mut self, number: u32, why: Why, now_us: i64) {
        let Some(index) = self.index(number) else {
            return;
        };
        let loser = &mut self.publishers[index];
        info!(
            studio = self.studio,
            peer = %loser.peer,
            why = why.reason(),
            "a publisher lost its line"
        );
        self.arbiter.changed(loser.look.clone(), why, now_us);
        if why == Why::Operator {
            loser.is_held_again(now_us);
        } else {
            self.publishers.remove(index).order(Ending::Replaced(why));
        }
    }

    /// The one that waited longest, of those that send media if there are any.
    pub(super) fn next_held(&self, now_us: i64) -> Option<u32> {
        let mut held = self.publishers.iter().filter(|held| !held.is_in_doubt);
        let longest = held.clone().next();
        held.find(|held| held.silent_us(now_us) < SILENT_US)
            .or(longest)
            .map(|held| held.number)
    }

    /// Tells the connectors who else uses the key, when it is news.
    pub(super) fn tell(&mut self) {
        let claims = Claims {
            held: (self.publishers.iter())
                .filter(|held| held.is_asked && self.live != Some(held.number))
                .map(Publisher::claim)
                .collect(),
            refused: self.refused.iter().cloned().collect(),
            frozen: self.arbiter.is_frozen(),
        };
        if claims == self.told {
            return;
        }
        if claims.frozen && !self.told.frozen {
            warn!(
                studio = self.studio,
                line = self.line_names(),
                "encoders take the line from each other: the choice is frozen"
            );
        }
        for target in &self.targets {
            target.outbox.claims(target.line, claims.clone());
        }
        self.told = claims;
    }

    /// Likewise, with those who have waited for long enough by now.
    pub(super) fn tell_at(&mut self, now_us: i64) {
        let live = self.live;
        for held in &mut self.publishers {
            held.is_asked |= live != Some(held.number) && held.is_question(now_us);
        }
        self.tell();
    }
}

fn publisher_asks(held: &Publisher, now_us: i64) -> bool {
    !held.is_asked && held.is_question(now_us)
}

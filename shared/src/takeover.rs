//! Who keeps a line when a second encoder uses its key. Pure: time is an argument, microseconds on any one clock.
//!
//! The relay applies this to the publishers of a key, the connector to the feeds that several relays bring it of one
//! line. Nobody is knocked off by accident: a healthy *incumbent* stays, and its *challenger* is held until somebody
//! decides. But an encoder that lost its network and came back must not wait for its own ghost:
//!
//! - `smart`: the challenger takes the line when the incumbent has sent nothing for [`SILENT_US`]. One that looks
//!   like the incumbent (same address, same agent) is the same encoder on a new connection and takes it at once,
//!   unless the incumbent shows that it is another one by going on beside it: an encoder sends fresh media on one
//!   connection only.
//! - On program, and for [`OFF_PROGRAM_US`] after, only silence or the operator replaces the incumbent.
//! - `always`: the newest takes it. `never`: it waits until the incumbent is gone.
//! - Encoders that live and take the line from each other more than [`CHANGES_MAX`] times in [`WINDOW_US`] are
//!   stopped: the choice is *frozen* on the one that has the line, until it leaves, the operator decides, or the
//!   others have been away for [`WINDOW_US`].

use std::{collections::VecDeque, net::IpAddr};

use crate::tunnel::control::Takeover;

/// Silence after which an incumbent may be replaced. Encoders send sound every 20 ms and pictures every 40 ms: a
/// second without either is no jitter, and is what a viewer calls frozen.
pub const SILENT_US: i64 = 1_000_000;

/// Silence that says enough when the challenger looks like the incumbent: ten pictures at 40 a second.
pub const RETURNED_US: i64 = 250_000;

/// Media of this age come out of the send buffer of a connection that its encoder gave up.
pub const STALE_US: i64 = 1_000_000;

/// How long a challenger waits before the operator is asked: by then an incumbent that is a ghost has lost the line.
pub const ASK_AFTER_US: i64 = 1_000_000;

/// In which changes are counted.
pub const WINDOW_US: i64 = 30_000_000;

/// Changes between living encoders in the window; one more freezes the choice.
pub const CHANGES_MAX: usize = 2;

/// What was on program so recently may be cut back to.
pub const OFF_PROGRAM_US: i64 = 10_000_000;

/// What an encoder is recognised by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// Its address; `None` is like no other.
    pub address: Option<IpAddr>,
    /// What it calls itself when it comes.
    pub agent: String,
}

impl Look {
    /// Whether it may be the same encoder.
    pub fn is_like(&self, other: &Self) -> bool {
        self.address.is_some() && self == other
    }
}

/// Who has the line.
#[derive(Clone, Copy, Debug)]
pub struct Incumbent<'a> {
    /// What it is recognised by.
    pub look: &'a Look,
    /// Since its last media.
    pub silent_us: i64,
    /// Age of its last media when they came; the highest there is if none came.
    pub lag_us: i64,
}

/// Who wants it.
#[derive(Clone, Copy, Debug)]
pub struct Challenger<'a> {
    /// What it is recognised by.
    pub look: &'a Look,
    /// Since it came; `None` while it is coming.
    pub waited_us: Option<i64>,
    /// How long it has sent media while the incumbent sent none: what silenced both says nothing of either.
    pub alone_us: i64,
}

/// What becomes of a challenger now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It takes the line.
    Take(Why),
    /// It is held; it is too early to ask anybody.
    Wait,
    /// It is held until the operator decides or the incumbent falls silent.
    Hold,
}

/// Why a line changes hands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The incumbent sent nothing.
    Silent,
    /// The same encoder on a new connection.
    Returned,
    /// The newest wins: the line is set so.
    Newest,
    /// The incumbent left.
    Left,
    /// A person said so.
    Operator,
}

impl Why {
    /// Which one says so; `None` when a feed ended for another reason.
    pub fn of_reason(reason: &str) -> Option<Self> {
        let all = [Self::Silent, Self::Returned, Self::Newest, Self::Operator];
        all.into_iter().find(|why| why.reason() == reason)
    }

    /// One clause for the operator, about the one that lost the line.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Silent => {
                "another encoder took over the line: nothing had come from this one for 1 s"
            }
            Self::Returned => "the encoder came back on a new connection",
            Self::Newest => {
                "another encoder took over the line, as its setting takeover = always says"
            }
            Self::Left => "it left",
            Self::Operator => "the operator chose another encoder",
        }
    }
}

/// Judges the challengers of one line, and remembers what it needs for that.
#[derive(Debug, Default)]
pub struct Arbiter {
    changes: VecDeque<Change>,
    is_frozen: bool,
    /// Since when nobody challenges a frozen choice.
    calm_since_us: Option<i64>,
    is_on_program: bool,
    on_program_us: Option<i64>,
}

#[derive(Debug)]
struct Change {
    at_us: i64,
    loser: Look,
    /// The one that lost the line was alive.
    was_alive: bool,
}

impl Arbiter {
    /// Whether a receiver has the line on program, as the studio says.
    pub fn set_program(&mut self, is_on_program: bool, now_us: i64) {
        if self.is_on_program || is_on_program {
            self.on_program_us = Some(now_us);
        }
        self.is_on_program = is_on_program;
    }

    /// On program, or a moment ago.
    pub fn is_on_program(&self, now_us: i64) -> bool {
        self.is_on_program
            || (self.on_program_us).is_some_and(|us| now_us.saturating_sub(us) < OFF_PROGRAM_US)
    }

    /// Whether encoders fought for the line and the choice is frozen.
    pub const fn is_frozen(&self) -> bool {
        self.is_frozen
    }

    /// What becomes of a challenger: asked when it comes, and again with its media. A [`Verdict::Take`] is to be
    /// followed by [`Arbiter::changed`].
    pub fn judge(
        &mut self,
        policy: Takeover,
        incumbent: Incumbent<'_>,
        challenger: Challenger<'_>,
        now_us: i64,
    ) -> Verdict {
        self.calm_since_us = None;
        if incumbent.silent_us < RETURNED_US {
            self.note_rival(challenger.look, now_us);
        }
        let waited_us = challenger.waited_us.unwrap_or(0);
        if let Some(why) = self.claim(policy, incumbent, challenger, now_us)
            && !self.is_frozen
        {
            if why != Why::Newest || self.fights(now_us) < CHANGES_MAX {
                return Verdict::Take(why);
            }
            self.is_frozen = true;
        }
        if waited_us < ASK_AFTER_US {
            Verdict::Wait
        } else {
            Verdict::Hold
        }
    }

    /// By which right it would take the line.
    fn claim(
        &self,
        policy: Takeover,
        incumbent: Incumbent<'_>,
        challenger: Challenger<'_>,
        now_us: i64,
    ) -> Option<Why> {
        let is_new = challenger.waited_us.is_none();
        let is_silent = incumbent.silent_us >= SILENT_US
            && (is_new || challenger.alone_us >= SILENT_US - ALONE_SLACK_US);
        let has_returned = || {
            challenger.look.is_like(incumbent.look)
                && challenger.waited_us.unwrap_or(0) < ASK_AFTER_US
                && (incumbent.silent_us >= RETURNED_US || incumbent.lag_us >= STALE_US)
        };
        match policy {
            Takeover::Never => None,
            Takeover::Smart | Takeover::Always if is_silent => Some(Why::Silent),
            Takeover::Always => is_new.then_some(Why::Newest),
            Takeover::Smart => {
                (!self.is_on_program(now_us) && has_returned()).then_some(Why::Returned)
            }
        }
    }

    /// The line went from `loser` to another by this right.
    pub fn changed(&mut self, loser: Look, why: Why, now_us: i64) {
        if why == Why::Operator {
            return self.decided();
        }
        if self.changes.len() == CHANGES_REMEMBERED {
            self.changes.pop_front();
        }
        self.changes.push_back(Change {
            at_us: now_us,
            loser,
            was_alive: why == Why::Newest,
        });
    }

    /// The operator chose: what was before does not count.
    pub fn decided(&mut self) {
        self.changes.clear();
        self.is_frozen = false;
    }

    /// The incumbent left by itself: there is nothing to freeze.
    pub fn left(&mut self) {
        self.is_frozen = false;
    }

    /// Nobody challenges the incumbent now. To be said now and then: after a while the choice is free again.
    pub fn calm(&mut self, now_us: i64) {
        let since_us = *self.calm_since_us.get_or_insert(now_us);
        if self.is_frozen && now_us.saturating_sub(since_us) >= WINDOW_US {
            self.decided();
        }
    }

    /// One that lost the line is back while the winner sends: it lives, so they fight.
    fn note_rival(&mut self, look: &Look, now_us: i64) {
        self.forget(now_us);
        for change in &mut self.changes {
            change.was_alive |= change.loser.is_like(look);
        }
        if self.fights(now_us) > CHANGES_MAX {
            self.is_frozen = true;
        }
    }

    /// Changes between living encoders in the window.
    fn fights(&mut self, now_us: i64) -> usize {
        self.forget(now_us);
        self.changes
            .iter()
            .filter(|change| change.was_alive)
            .count()
    }

    fn forget(&mut self, now_us: i64) {
        self.changes
            .retain(|change| now_us.saturating_sub(change.at_us) < WINDOW_US);
    }
}

/// Encoders that the operator does not want, by their look: each is refused without a question until it has not tried
/// for [`REFUSED_FOR_US`], or the operator thinks better of it.
#[derive(Debug)]
pub struct Refusals<T> {
    entries: VecDeque<Entry<T>>,
}

#[derive(Debug)]
struct Entry<T> {
    look: Look,
    what: T,
    /// Another encoder that was not refused looked the same.
    has_twin: bool,
    tried_us: i64,
}

impl<T> Default for Refusals<T> {
    fn default() -> Self {
        Self {
            entries: VecDeque::new(),
        }
    }
}

impl<T> Refusals<T> {
    /// The operator refused this one. `has_twin`: another encoder of the line looks the same.
    pub fn add(&mut self, look: Look, what: T, has_twin: bool, now_us: i64) {
        self.entries.retain(|known| known.look != look);
        if self.entries.len() == REFUSALS_MAX {
            self.entries.pop_front();
        }
        self.entries.push_back(Entry {
            look,
            what,
            has_twin,
            tried_us: now_us,
        });
    }

    /// Whether one that comes was refused, or looks as if.
    pub fn knows(&mut self, look: &Look, now_us: i64) -> bool {
        self.forget(now_us);
        let entry = (self.entries.iter_mut()).find(|known| known.look.is_like(look));
        entry.map(|known| known.tried_us = now_us).is_some()
    }

    /// Whether one of this look may also be the one that was not refused.
    pub fn is_in_doubt(&self, look: &Look) -> bool {
        (self.entries.iter()).any(|known| known.has_twin && known.look.is_like(look))
    }

    /// Lifts those that `which` says; `true` if there were any.
    pub fn lift(&mut self, which: impl Fn(&T) -> bool) -> bool {
        let before = self.entries.len();
        self.entries.retain(|known| !which(&known.what));
        before != self.entries.len()
    }

    /// Lifts those that have not tried for long.
    pub fn forget(&mut self, now_us: i64) {
        self.entries
            .retain(|known| now_us.saturating_sub(known.tried_us) < REFUSED_FOR_US);
    }

    /// What was said of each.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.entries.iter().map(|known| &known.what)
    }

    /// Whether nobody is refused.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// The policy of a key that several connectors declared: the one that protects the incumbent most.
pub fn strictest(policies: impl IntoIterator<Item = Takeover>) -> Takeover {
    let caution = |policy: &Takeover| match policy {
        Takeover::Always => 0,
        Takeover::Smart => 1,
        Takeover::Never => 2,
    };
    policies.into_iter().max_by_key(caution).unwrap_or_default()
}

/// An encoder that a person refused may be started again by another person; one that tries by itself does so every
/// few seconds.
pub const REFUSED_FOR_US: i64 = 600_000_000;

/// Of one line at once.
const REFUSALS_MAX: usize = 8;

/// What a challenger may lack of a second alone: it sends every 20 to 40 ms, not at the moment that counts.
const ALONE_SLACK_US: i64 = 100_000;

const CHANGES_REMEMBERED: usize = 8;

#[cfg(test)]
mod tests;

//! One key of one studio: who publishes it, who waits, and which connectors get its units.
//!
//! Who has the line is decided by [`firstmile_shared::takeover`]; here is what follows from it. No clock and no
//! waiting: times are arguments, microseconds on the relay's clock. Connectors are behind [`Subscriber`], whose
//! methods return at once.

mod lag;
mod publisher;
mod rivals;
mod starts;

use std::sync::Arc;

use firstmile_shared::{
    media::{AccessUnit, MediaKind},
    takeover::{self, Arbiter, Look, Refusals, Why},
    tls::Spki,
    tunnel::{
        control::{Claim, FeedReport, Finding, ShowFormat, Takeover, TrackReport},
        unit::Unit,
    },
};

use tracing::{info, warn};

pub(super) use self::publisher::{Closing, Publisher, codec_name};
use self::{publisher::Timed, starts::Starts};
use super::{Claims, Ending, FeedStart, Subscriber};
use crate::{
    auth::LineRecord,
    metrics::{Direction, Dropped, Hop, Metrics},
};

/// The feed of one key.
#[derive(Debug)]
pub(super) struct Feed {
    /// For the log.
    studio: String,
    metrics: Arc<Metrics>,
    lines: Vec<LineRecord>,
    targets: Vec<Target>,
    /// In the order in which they came.
    publishers: Vec<Publisher>,
    live: Option<u32>,
    /// The operator's choice, which gets the line with its next keyframe.
    taken: Option<u32>,
    /// Who had the line and left it on program: the others wait as if it were silent.
    vacancy: Option<Vacancy>,
    arbiter: Arbiter,
    refused: Refusals<Claim>,
    starts: Starts,
    /// What the connectors know.
    told: Claims,
    /// Likewise, of the publisher that has the line.
    told_findings: (u32, Vec<Finding>),
    /// When something was last done about the lag of the publisher that has the line.
    resynced_us: Option<i64>,
}

#[derive(Debug)]
struct Vacancy {
    look: Look,
    last_media_us: i64,
}

/// A connected session that declared the key.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) subscription: u64,
    /// The older session of the same connector that it follows.
    pub(super) predecessor: Option<u64>,
    pub(super) turn: Turn,
    pub(super) connector: Spki,
    pub(super) line: u32,
    pub(super) line_name: String,
    pub(super) delay_ms: u32,
    pub(super) is_on_program: bool,
    pub(super) show: Option<ShowFormat>,
    pub(super) outbox: Arc<dyn Subscriber>,
}

/// Which of two sessions of one connector gets the units of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// It does.
    Sends,
    /// From the next keyframe on.
    Waits,
    /// Not any more.
    Over,
}

/// What became of a publisher that asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// It has the line.
    Live,
    /// It has the line, and another one lost it.
    Replaces,
    /// It waits.
    Held,
    /// The operator does not want it.
    Refused,
    /// It begins again and again.
    TooOften,
}

impl Feed {
    pub(super) fn new(studio: &str, metrics: Arc<Metrics>) -> Self {
        Self {
            studio: studio.to_owned(),
            metrics,
            lines: Vec::new(),
            targets: Vec::new(),
            publishers: Vec::new(),
            live: None,
            taken: None,
            vacancy: None,
            arbiter: Arbiter::default(),
            refused: Refusals::default(),
            starts: Starts::default(),
            told: Claims::default(),
            told_findings: Default::default(),
            resynced_us: None,
        }
    }

    /// Notes what a publisher's metadata calls it.
    pub(super) fn describe(&mut self, number: u32, encoder: String) {
        if let Some(publisher) = self.publishers.iter_mut().find(|p| p.number == number) {
            publisher.describe(encoder);
            self.tell();
        }
    }

    /// Notes what a publisher sends; the connectors hear of it if it has the line.
    pub(super) fn set_tracks(&mut self, number: u32, tracks: Vec<TrackReport>) {
        let is_live = self.live == Some(number);
        let Some(publisher) = self.publishers.iter_mut().find(|p| p.number == number) else {
            return;
        };
        publisher.tracks = tracks;
        if is_live {
            for target in &self.targets {
                let tracks = publisher.tracks.clone();
                target.outbox.tracks(target.line, number, tracks);
            }
        }
    }

    /// Brings the lines and the connected sessions up to date. Connectors that are new to a live feed hear of it;
    /// without an enabled line, every publisher is told to go: the studio took the key away.
    pub(super) fn update(&mut self, lines: Vec<LineRecord>, targets: Vec<Target>, now_us: i64) {
        self.lines = lines;
        let is_on_program = targets.iter().any(|target| target.is_on_program);
        self.arbiter.set_program(is_on_program, now_us);
        let old = std::mem::replace(&mut self.targets, targets);
        self.take_turns(&old);
        if self.told != Claims::default() {
            for target in &self.targets {
                if !contains(&old, target) {
                    target.outbox.claims(target.line, self.told.clone());
                }
            }
        }
        let mut newcomers = Vec::new();
        if let Some(live) = self.live.and_then(|number| self.publisher(number)) {
            for gone in old.iter().filter(|old| !contains(&self.targets, old)) {
                gone.outbox
                    .feed_ended(gone.line, live.number, "the studio took the line away");
            }
            for target in &self.targets {
                match old.iter().find(|old| old.is_same_line(target)) {
                    None => {
                        announce(target, live);
                        // Who follows a session that sends gets everything from the next keyframe on.
                        if target.turn == Turn::Sends {
                            newcomers.push((target.line, target.outbox.clone()));
                        }
                    }
                    Some(old) if old.delay_ms != target.delay_ms => {
                        target.outbox.set_delay(target.line, target.delay_ms);
                    }
                    Some(_) => {}
                }
            }
        }
        if let Some(live) = self.live.and_then(|number| self.index(number)) {
            for (line, outbox) in newcomers {
                let units = self.publishers[live].since_keyframe(line);
                if !units.is_empty() {
                    outbox.restore(units);
                }
            }
        }
        if self.lines.is_empty() {
            self.close_all(Ending::Withdrawn);
        }
    }

    /// Takes a publisher in, live or held, unless the operator refused it before.
    pub(super) fn publish(&mut self, mut newcomer: Publisher, now_us: i64) -> Decision {
        if self.refused.knows(&newcomer.look, now_us) {
            // While the one that was not refused has the line, this is the other one.
            let twin = self.live.and_then(|live| self.publisher(live));
            let is_the_other = twin.is_some_and(|twin| twin.look.is_like(&newcomer.look));
            newcomer.is_in_doubt = !is_the_other && self.refused.is_in_doubt(&newcomer.look);
            if !newcomer.is_in_doubt {
                return Decision::Refused;
            }
        }
        if !self.starts.begins(newcomer.peer.ip(), now_us) {
            return Decision::TooOften;
        }
        let number = newcomer.number;
        let right = if newcomer.is_in_doubt {
            None
        } else {
            self.right_of(&newcomer, now_us)
        };
        self.publishers.push(newcomer);
        let decision = match right {
            Some(why) => {
                let replaces = self.live.is_some();
                self.switch_to(number, why, now_us);
                if replaces {
                    Decision::Replaces
                } else {
                    Decision::Live
                }
            }
            None => Decision::Held,
        };
        self.tell();
        decision
    }

    /// Hands a unit to every connected connector, or throws it away if its publisher is held.
    pub(super) fn deliver(&mut self, number: u32, unit: AccessUnit, now_us: i64) {
        let Some(index) = self.index(number) else {
            // It was replaced and its socket has not heard of it yet.
            return self.metrics.dropped(Dropped::Held, 1);
        };
        let publisher = &mut self.publishers[index];
        let baseline_us = publisher.observe(&unit, now_us);
        let lag_us = publisher.lag_us.unwrap_or(0);
        self.metrics.unit(Direction::In, unit.payload.len());
        self.metrics.observe_hop(Hop::Ingest, lag_us);
        let timed = Timed {
            unit,
            ingest_us: now_us,
            baseline_us,
        };
        if self.live == Some(number) {
            self.send(index, timed, lag_us);
        } else {
            self.hold(index, timed, now_us);
        }
    }

    fn send(&mut self, index: usize, timed: Timed, lag_us: i64) {
        let Timed {
            unit,
            ingest_us,
            baseline_us,
        } = timed;
        let publisher = &mut self.publishers[index];
        if publisher.waits_for_keyframe && unit.kind() == MediaKind::Video {
            if !publisher::is_keyframe(&unit) {
                return self.metrics.dropped(Dropped::Held, 1);
            }
            publisher.waits_for_keyframe = false;
        }
        let is_start = publisher::is_keyframe(&unit) || publisher.video.is_none();
        let timed = Timed {
            unit: unit.clone(),
            ingest_us,
            baseline_us,
        };
        if self.targets.is_empty() {
            publisher.keep(timed, None);
            return self.metrics.dropped(Dropped::NoConnector, 1);
        }
        if is_start {
            self.hand_over();
        }
        let publisher = &mut self.publishers[index];
        if self
            .targets
            .iter()
            .all(|target| lag_us > i64::from(target.delay_ms) * 1000)
        {
            self.metrics.late();
        }
        let seq = publisher.next_seq();
        publisher.keep(timed, Some(seq));
        let unit = Unit {
            line: 0,
            publisher: publisher.number,
            seq,
            ingest_us,
            baseline_us,
            queued_us: 0,
            access_unit: unit,
        };
        let mut targets = self.targets.iter().filter(|it| it.turn == Turn::Sends);
        let Some(first) = targets.next() else {
            return;
        };
        for target in targets {
            target.outbox.deliver(Unit {
                line: target.line,
                ..unit.clone()
            });
        }
        first.outbox.deliver(Unit {
            line: first.line,
            ..unit
        });
    }

    /// Whose turn it was stays so; who follows a session that sends waits for a keyframe.
    fn take_turns(&mut self, old: &[Target]) {
        let sends: Vec<_> = (self.targets.iter())
            .map(|target| {
                let before = old.iter().find(|old| old.is_same_line(target));
                before.map(|old| old.turn)
            })
            .collect();
        let is_there = |subscription| {
            let mut targets = self.targets.iter().zip(&sends);
            targets.any(|(target, turn)| {
                target.subscription == subscription && *turn == Some(Turn::Sends)
            })
        };
        let turns: Vec<_> = (self.targets.iter().zip(&sends))
            .map(|(target, before)| match before {
                Some(turn @ (Turn::Sends | Turn::Over)) => *turn,
                // One that is gone can't be waited for.
                Some(Turn::Waits) | None if target.predecessor.is_some_and(is_there) => Turn::Waits,
                Some(Turn::Waits) | None => Turn::Sends,
            })
            .collect();
        for (target, turn) in self.targets.iter_mut().zip(turns) {
            target.turn = turn;
        }
    }

    /// A keyframe comes: those who wait for it get everything from it on, and those whom they follow nothing more.
    fn hand_over(&mut self) {
        let mut followed = Vec::new();
        for target in &mut self.targets {
            if target.turn == Turn::Waits {
                target.turn = Turn::Sends;
                followed.extend(target.predecessor);
            }
        }
        for target in &mut self.targets {
            if followed.contains(&target.subscription) {
                target.turn = Turn::Over;
            }
        }
    }

    /// A publisher left; the next one that is held moves up. `true` when it was still there.
    pub(super) fn end(&mut self, number: u32, reason: &str, now_us: i64) -> bool {
        let Some(index) = self.index(number) else {
            return false;
        };
        let gone = self.publishers.remove(index);
        self.left(&gone, reason, false, now_us);
        self.tell();
        true
    }

    /// What follows when a publisher is not here any more. `returns`: it was sent away to come back at once.
    fn left(&mut self, gone: &Publisher, reason: &str, returns: bool, now_us: i64) {
        if self.taken == Some(gone.number) {
            self.taken = None;
        }
        if self.live != Some(gone.number) {
            return;
        }
        self.live = None;
        self.arbiter.left();
        for target in &self.targets {
            target.outbox.feed_ended(target.line, gone.number, reason);
        }
        if let Some(taken) = self.taken {
            return self.switch_to(taken, Why::Operator, now_us);
        }
        if self.publishers.is_empty() {
            return;
        }
        // It may be back before anybody misses it; who else has the key is not for the audience.
        if returns || self.arbiter.is_on_program(now_us) {
            self.vacancy = Some(Vacancy {
                look: gone.look.clone(),
                last_media_us: gone.last_media_us,
            });
        }
        self.fill_vacancy(now_us);
    }

    /// Tells every publisher to go; they are gone from the feed at once.
    pub(super) fn close_all(&mut self, ending: Ending) {
        if let Some(live) = self.live.take() {
            for target in &self.targets {
                target.outbox.feed_ended(target.line, live, ending.reason());
            }
        }
        for publisher in self.publishers.drain(..) {
            publisher.order(ending);
        }
        self.taken = None;
        self.vacancy = None;
        self.refused = Refusals::default();
        self.starts = Starts::default();
        self.tell();
    }

    /// Closes the books of the last `elapsed_us`; answers what each session is told.
    pub(super) fn tick(
        &mut self,
        elapsed_us: i64,
        now_us: i64,
    ) -> Vec<(u64, Arc<dyn Subscriber>, FeedReport)> {
        let line = self.line_names();
        for publisher in &mut self.publishers {
            publisher.tick(u64::try_from(elapsed_us).unwrap_or(0));
            let (studio, peer) = (&self.studio, publisher.peer);
            match publisher.stall_changed(now_us) {
                Some(true) => warn!(
                    studio,
                    line, %peer, "publisher stalled: its connection is there, and nothing has come for 2 s"
                ),
                Some(false) => info!(studio, line, %peer, "publisher sends again"),
                None => {}
            }
        }
        self.judge_lag(elapsed_us, now_us);
        self.examine(now_us);
        // It outlives the publisher that was sent away: the one that comes back is not sent away at once.
        if (self.resynced_us)
            .is_some_and(|at_us| now_us.saturating_sub(at_us) >= super::lag::PAUSE_US)
        {
            self.resynced_us = None;
        }
        self.refused.forget(now_us);
        self.starts.forget(now_us);
        if self.publishers.len() < 2 {
            self.arbiter.calm(now_us);
        }
        self.fill_vacancy(now_us);
        self.tell_at(now_us);
        let held = u32::try_from(self.publishers.len().saturating_sub(1)).unwrap_or(u32::MAX);
        let Some(owner) = self.live.and_then(|number| self.publisher(number)) else {
            return Vec::new();
        };
        self.targets
            .iter()
            .map(|target| {
                let report = FeedReport {
                    line: target.line,
                    publisher: owner.number,
                    encoder_lag_ms: owner.lag_ms(now_us),
                    bitrate_bps: owner.bitrate_bps,
                    stalled_ms: owner.stalled_ms(now_us),
                    held,
                    accepted_lag_ms: owner.accepted_lag_ms(),
                };
                (target.subscription, target.outbox.clone(), report)
            })
            .collect()
    }

    /// Has every publisher examined, and tells the connectors what is news of the one that has the line.
    fn examine(&mut self, now_us: i64) {
        let show = self.targets.iter().find_map(|target| target.show);
        let (names, delay_us) = (self.line_names(), self.delay_us());
        for publisher in &mut self.publishers {
            publisher.examine(&names, show, delay_us, now_us);
        }
        let Some(live) = self.live.and_then(|number| self.publisher(number)) else {
            return;
        };
        let found = (live.number, live.findings.clone());
        let is_news = if self.told_findings.0 == found.0 {
            self.told_findings.1 != found.1
        } else {
            !found.1.is_empty()
        };
        if is_news {
            for target in &self.targets {
                (target.outbox).findings(target.line, found.0, found.1.clone());
            }
        }
        self.told_findings = found;
    }

    pub(super) fn publishers(&self) -> &[Publisher] {
        &self.publishers
    }

    /// Whether there is nothing in it to remember.
    pub(super) fn is_unused(&self) -> bool {
        let remembers =
            !self.refused.is_empty() || !self.starts.is_empty() || self.resynced_us.is_some();
        self.publishers.is_empty() && !remembers
    }

    pub(super) fn is_live(&self, number: u32) -> bool {
        self.live == Some(number)
    }

    pub(super) fn targets(&self) -> &[Target] {
        &self.targets
    }

    pub(super) fn has_lines(&self) -> bool {
        !self.lines.is_empty()
    }

    /// "Camera 1", or several names where the connectors call it differently.
    pub(super) fn line_names(&self) -> String {
        let mut names: Vec<&str> = self.lines.iter().map(|line| line.name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        names.join(", ")
    }

    fn publisher(&self, number: u32) -> Option<&Publisher> {
        self.publishers.iter().find(|p| p.number == number)
    }

    fn index(&self, number: u32) -> Option<usize> {
        self.publishers.iter().position(|p| p.number == number)
    }

    fn policy(&self) -> Takeover {
        takeover::strictest(self.lines.iter().map(|line| line.takeover))
    }

    /// The longest of the connectors' delays: what is younger can still be shown in time.
    fn delay_us(&self) -> i64 {
        let delays = self.targets.iter().map(|target| target.delay_ms);
        i64::from(delays.max().unwrap_or(0)) * 1000
    }
}

impl Target {
    fn is_same_line(&self, other: &Self) -> bool {
        self.subscription == other.subscription && self.line == other.line
    }
}

fn contains(targets: &[Target], target: &Target) -> bool {
    targets.iter().any(|other| other.is_same_line(target))
}

/// Tells a connector of a feed and its tracks.
fn announce(target: &Target, live: &Publisher) {
    target.outbox.feed_started(start(target, live));
    if !live.tracks.is_empty() {
        let tracks = live.tracks.clone();
        target.outbox.tracks(target.line, live.number, tracks);
    }
    if !live.findings.is_empty() {
        let findings = live.findings.clone();
        target.outbox.findings(target.line, live.number, findings);
    }
}

fn start(target: &Target, live: &Publisher) -> FeedStart {
    FeedStart {
        line: target.line,
        publisher: live.number,
        delay_ms: target.delay_ms,
        encoder: live.shown_encoder().to_owned(),
        agent: live.look.agent.clone(),
        peer: live.peer,
        protocol: live.protocol,
    }
}

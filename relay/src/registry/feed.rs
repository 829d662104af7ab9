//! One key of one studio: who publishes it, who waits, and which connectors get its units.
//!
//! No clock and no waiting: times are arguments, microseconds on the relay's clock. Connectors are behind
//! [`Subscriber`], whose methods return at once.

use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock},
};

use firstmile_shared::{
    media::{AccessUnit, Codec, MediaKind},
    tls::Spki,
    tunnel::{
        control::{FeedReport, Takeover},
        unit::Unit,
    },
};
use tokio_util::sync::CancellationToken;

use super::{
    Ending, FeedStart, Subscriber,
    age::Age,
    takeover::{self, Claimant, Decision},
};
use crate::{
    auth::LineRecord,
    metrics::{Direction, Dropped, Hop, Metrics},
};

/// The feed of one key.
#[derive(Debug, Default)]
pub(super) struct Feed {
    lines: Vec<LineRecord>,
    targets: Vec<Target>,
    /// In the order in which they came.
    publishers: Vec<Publisher>,
    live: Option<u32>,
}

/// A connected session that declared the key.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) subscription: u64,
    pub(super) connector: Spki,
    pub(super) line: u32,
    pub(super) line_name: String,
    pub(super) delay_ms: u32,
    pub(super) outbox: Arc<dyn Subscriber>,
}

/// An encoder's connection.
#[derive(Debug)]
pub(super) struct Publisher {
    pub(super) number: u32,
    pub(super) peer: SocketAddr,
    /// What it called itself when it came: part of who it is.
    encoder: String,
    /// What its metadata called it later: for people.
    description: Option<String>,
    pub(super) protocol: &'static str,
    pub(super) since_unix: i64,
    pub(super) video: Option<Codec>,
    pub(super) audio: Option<Codec>,
    /// Age at ingest of the newest unit.
    pub(super) lag_us: Option<i64>,
    pub(super) bitrate_bps: Option<u64>,
    age: Age,
    /// Counts the units that were for connectors.
    seq: u64,
    last_media_us: i64,
    bytes_since_tick: u64,
    closing: Closing,
}

/// How a publisher's socket hears that it must go.
#[derive(Clone, Debug, Default)]
pub(super) struct Closing {
    token: CancellationToken,
    ending: Arc<OnceLock<Ending>>,
}

impl Closing {
    fn order(&self, ending: Ending) {
        let _ = self.ending.set(ending);
        self.token.cancel();
    }

    pub(super) async fn ordered(&self) -> Ending {
        self.token.cancelled().await;
        self.ending.get().copied().unwrap_or(Ending::Replaced)
    }
}

impl Publisher {
    pub(super) fn new(
        number: u32,
        request: super::PublishRequest,
        since_unix: i64,
        now_us: i64,
    ) -> Self {
        Self {
            number,
            peer: request.peer,
            encoder: request.encoder,
            description: None,
            protocol: request.protocol,
            since_unix,
            video: None,
            audio: None,
            lag_us: None,
            bitrate_bps: None,
            age: Age::default(),
            seq: 0,
            last_media_us: now_us,
            bytes_since_tick: 0,
            closing: Closing::default(),
        }
    }

    pub(super) fn closing(&self) -> Closing {
        self.closing.clone()
    }

    /// The name to show: "obs-output module (libobs 29.0.2)" tells more than the "FMSc/1.0" that OBS comes with.
    pub(super) fn shown_encoder(&self) -> &str {
        self.description.as_deref().unwrap_or(&self.encoder)
    }

    /// Measures a unit; the answer is the baseline.
    fn observe(&mut self, unit: &AccessUnit, now_us: i64) -> i64 {
        let baseline_us = self.age.observe(now_us, unit.dts_us, unit.discontinuity);
        let lag_us = now_us
            .saturating_sub(unit.pts_us())
            .saturating_sub(baseline_us);
        self.lag_us = Some(lag_us.max(0));
        self.last_media_us = now_us;
        self.bytes_since_tick += unit.payload.len() as u64;
        match unit.kind() {
            MediaKind::Video => self.video = Some(unit.codec),
            MediaKind::Audio => self.audio = Some(unit.codec),
            MediaKind::Data => {}
        }
        baseline_us
    }

    fn silent_us(&self, now_us: i64) -> i64 {
        now_us.saturating_sub(self.last_media_us)
    }

    fn claimant(&self) -> Claimant<'_> {
        Claimant {
            ip: self.peer.ip(),
            encoder: &self.encoder,
        }
    }
}

impl Feed {
    /// Notes what a publisher's metadata calls it.
    pub(super) fn describe(&mut self, number: u32, encoder: String) {
        if let Some(publisher) = self.publishers.iter_mut().find(|p| p.number == number) {
            publisher.description = Some(encoder);
        }
    }

    /// Brings the lines and the connected sessions up to date. Connectors that are new to a live feed hear of it;
    /// without an enabled line, every publisher is told to go: the studio took the key away.
    pub(super) fn update(&mut self, lines: Vec<LineRecord>, targets: Vec<Target>) {
        self.lines = lines;
        let old = std::mem::replace(&mut self.targets, targets);
        let Some(live) = self.live.and_then(|number| self.publisher(number)) else {
            return;
        };
        for gone in old.iter().filter(|old| !contains(&self.targets, old)) {
            gone.outbox
                .feed_ended(gone.line, live.number, "the studio took the line away");
        }
        for target in &self.targets {
            match old.iter().find(|old| old.is_same_line(target)) {
                None => target.outbox.feed_started(start(target, live)),
                Some(old) if old.delay_ms != target.delay_ms => {
                    target.outbox.set_delay(target.line, target.delay_ms);
                }
                Some(_) => {}
            }
        }
        if self.lines.is_empty() {
            self.close_all(Ending::Withdrawn);
        }
    }

    /// Takes a publisher in, live or held.
    pub(super) fn publish(&mut self, newcomer: Publisher, now_us: i64) -> Decision {
        let incumbent = self
            .live
            .and_then(|number| self.publisher(number))
            .map(|live| (live.claimant(), live.silent_us(now_us)));
        let decision = takeover::decide(self.policy(), incumbent, newcomer.claimant());
        let number = newcomer.number;
        self.publishers.push(newcomer);
        if decision != Decision::Hold {
            self.switch_to(number);
        }
        decision
    }

    /// Hands a unit to every connected connector, or throws it away if its publisher is held.
    pub(super) fn deliver(
        &mut self,
        number: u32,
        unit: AccessUnit,
        now_us: i64,
        metrics: &Metrics,
    ) {
        let Some(publisher) = self.publishers.iter_mut().find(|p| p.number == number) else {
            // It was replaced and its socket has not heard of it yet.
            return metrics.dropped(Dropped::Held, 1);
        };
        let baseline_us = publisher.observe(&unit, now_us);
        let lag_us = publisher.lag_us.unwrap_or(0);
        metrics.unit(Direction::In, unit.payload.len());
        metrics.observe_hop(Hop::Ingest, lag_us);
        if self.live != Some(number) && !self.takes_over(number, now_us, metrics) {
            return metrics.dropped(Dropped::Held, 1);
        }
        if self.targets.is_empty() {
            return metrics.dropped(Dropped::NoConnector, 1);
        }
        if self
            .targets
            .iter()
            .all(|target| lag_us > i64::from(target.delay_ms) * 1000)
        {
            metrics.late();
        }
        let Some(publisher) = self.publishers.iter_mut().find(|p| p.number == number) else {
            return;
        };
        let seq = publisher.seq;
        publisher.seq += 1;
        let unit = Unit {
            line: 0,
            publisher: number,
            seq,
            ingest_us: now_us,
            baseline_us,
            queued_us: 0,
            access_unit: unit,
        };
        let Some((last, others)) = self.targets.split_last() else {
            return;
        };
        for target in others {
            target.outbox.deliver(Unit {
                line: target.line,
                ..unit.clone()
            });
        }
        last.outbox.deliver(Unit {
            line: last.line,
            ..unit
        });
    }

    /// A publisher left; the next one that is held moves up. `true` when it was still there.
    pub(super) fn end(&mut self, number: u32, reason: &str, now_us: i64) -> bool {
        let Some(index) = self.publishers.iter().position(|p| p.number == number) else {
            return false;
        };
        self.publishers.remove(index);
        if self.live == Some(number) {
            self.live = None;
            for target in &self.targets {
                target.outbox.feed_ended(target.line, number, reason);
            }
            if let Some(next) = self.next_held(now_us) {
                self.switch_to(next);
            }
        }
        true
    }

    /// Tells every publisher to go; they are gone from the feed at once.
    pub(super) fn close_all(&mut self, ending: Ending) {
        if let Some(live) = self.live.take() {
            for target in &self.targets {
                target.outbox.feed_ended(target.line, live, ending.reason());
            }
        }
        for publisher in self.publishers.drain(..) {
            publisher.closing.order(ending);
        }
    }

    /// Closes the books of the last `elapsed_us`; answers what each session is told.
    pub(super) fn tick(&mut self, elapsed_us: i64) -> Vec<(u64, Arc<dyn Subscriber>, FeedReport)> {
        for publisher in &mut self.publishers {
            let bits = std::mem::take(&mut publisher.bytes_since_tick).saturating_mul(8);
            let elapsed_us = u64::try_from(elapsed_us).unwrap_or(0).max(1);
            publisher.bitrate_bps = Some(bits.saturating_mul(1_000_000) / elapsed_us);
        }
        let held = u32::try_from(self.publishers.len().saturating_sub(1)).unwrap_or(u32::MAX);
        let Some(live) = self.live.and_then(|number| self.publisher(number)) else {
            return Vec::new();
        };
        self.targets
            .iter()
            .map(|target| {
                let report = FeedReport {
                    line: target.line,
                    publisher: live.number,
                    encoder_lag_ms: live.lag_ms(),
                    bitrate_bps: live.bitrate_bps,
                    held,
                };
                (target.subscription, target.outbox.clone(), report)
            })
            .collect()
    }

    pub(super) fn publishers(&self) -> &[Publisher] {
        &self.publishers
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

    fn policy(&self) -> Takeover {
        takeover::strictest(self.lines.iter().map(|line| line.takeover))
    }

    /// One that is held sends media: whether the incumbent has been silent for so long that it moves up.
    fn takes_over(&mut self, number: u32, now_us: i64, metrics: &Metrics) -> bool {
        let silent_us = self
            .live
            .and_then(|live| self.publisher(live))
            .map_or(i64::MAX, |live| live.silent_us(now_us));
        let is_promoted = takeover::may_promote(self.policy(), silent_us);
        if is_promoted {
            metrics.takeover();
            self.switch_to(number);
        }
        is_promoted
    }

    /// The one that waited longest, of those that send media if there are any.
    fn next_held(&self, now_us: i64) -> Option<u32> {
        self.publishers
            .iter()
            .find(|held| held.silent_us(now_us) < takeover::SILENT_US)
            .or(self.publishers.first())
            .map(|held| held.number)
    }

    /// Makes a publisher the live one; the one before is told to go.
    fn switch_to(&mut self, number: u32) {
        if let Some(old) = self.live.take() {
            for target in &self.targets {
                target
                    .outbox
                    .feed_ended(target.line, old, Ending::Replaced.reason());
            }
            if let Some(index) = self.publishers.iter().position(|p| p.number == old) {
                self.publishers
                    .remove(index)
                    .closing
                    .order(Ending::Replaced);
            }
        }
        self.live = Some(number);
        if let Some(live) = self.publisher(number) {
            for target in &self.targets {
                target.outbox.feed_started(start(target, live));
            }
        }
    }
}

impl Publisher {
    pub(super) fn lag_ms(&self) -> Option<u32> {
        self.lag_us
            .map(|us| u32::try_from(us / 1000).unwrap_or(u32::MAX))
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

fn start(target: &Target, live: &Publisher) -> FeedStart {
    FeedStart {
        line: target.line,
        publisher: live.number,
        delay_ms: target.delay_ms,
        encoder: live.shown_encoder().to_owned(),
        peer: live.peer,
        protocol: live.protocol,
    }
}

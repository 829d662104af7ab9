//! What waits for one connector: media in the scheduler, and control messages.
//!
//! The registry puts in from the publishers' tasks and never waits; the session of the connector takes out. It is
//! the only queue between an encoder's socket and the network to the studio.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use firstmile_shared::{
    clock,
    tunnel::{
        control::{self, FeedReport, Finding, FromRelay, LINES_MAX, TrackReport},
        scheduler::{Limits, Scheduler, Totals},
        unit::Unit,
    },
};
use tokio::sync::Notify;

use crate::registry::{Claims, FeedStart, Subscriber};

/// The queue of one connected session. Every method returns at once.
#[derive(Debug)]
pub struct Outbox {
    queues: Mutex<Queues>,
    notify: Notify,
}

/// Locked for a few moves of pointers at a time, never across an await.
#[derive(Debug)]
pub(super) struct Queues {
    pub(super) scheduler: Scheduler,
    messages: VecDeque<Bytes>,
    /// Only the newest is of use: it waits for a peer that reads slowly, instead of piling up.
    report: Option<Vec<FeedReport>>,
    /// By line; only the newest is of use, too.
    claims: BTreeMap<u32, Claims>,
    /// By line: the publisher and its tracks, likewise.
    tracks: BTreeMap<u32, (u32, Vec<TrackReport>)>,
    /// Likewise, with the publisher that they are about.
    findings: BTreeMap<u32, (u32, Vec<Finding>)>,
    lost_percent: Option<f64>,
    has_overflown: bool,
}

impl Outbox {
    /// An empty queue.
    pub fn new(limits: Limits) -> Self {
        Self {
            queues: Mutex::new(Queues {
                scheduler: Scheduler::new(limits),
                messages: VecDeque::new(),
                report: None,
                claims: BTreeMap::new(),
                tracks: BTreeMap::new(),
                findings: BTreeMap::new(),
                lost_percent: None,
                has_overflown: false,
            }),
            notify: Notify::new(),
        }
    }

    /// A publisher's units will follow.
    pub fn feed_started(&self, feed: FeedStart) {
        self.queues()
            .scheduler
            .set_delay(feed.line, i64::from(feed.delay_ms) * 1000);
        self.send(&FromRelay::FeedStarted {
            line: feed.line,
            publisher: feed.publisher,
            encoder: feed.encoder,
            peer: feed.peer.to_string(),
            protocol: feed.protocol.to_owned(),
            agent: feed.agent,
        });
    }

    /// The studio delay of a line changed.
    pub fn set_delay(&self, line: u32, delay_ms: u32) {
        self.queues()
            .scheduler
            .set_delay(line, i64::from(delay_ms) * 1000);
        self.notify.notify_one();
    }

    /// Which tracks of a line the connector plays.
    pub fn play(&self, line: u32, video: u8, audio: u8) {
        self.queues().scheduler.set_played(line, video, audio);
    }

    /// A unit, with the connector's own line number. Too late or too much: it, or others, are dropped and counted.
    pub fn deliver(&self, unit: Unit) {
        self.queues().scheduler.push(unit, clock::now_us());
        self.notify.notify_one();
    }

    /// What a publisher has sent since its newest keyframe, to a session that has just come.
    pub fn restore(&self, units: Vec<Unit>) {
        let now_us = clock::now_us();
        let mut queues = self.queues();
        for unit in units {
            queues.scheduler.restore(unit, now_us);
        }
        drop(queues);
        self.notify.notify_one();
    }

    /// No more units of this publisher; what is queued still goes out. `reason` is one clause for the operator.
    pub fn feed_ended(&self, line: u32, publisher: u32, reason: &str) {
        self.send(&FromRelay::FeedEnded {
            line,
            publisher,
            reason: reason.to_owned(),
        });
    }

    /// Who else uses the line's key.
    pub fn claims(&self, line: u32, claims: Claims) {
        self.queues().claims.insert(line, claims);
        self.notify.notify_one();
    }

    /// What a publisher sends.
    pub fn tracks(&self, line: u32, publisher: u32, tracks: Vec<TrackReport>) {
        self.queues().tracks.insert(line, (publisher, tracks));
        self.notify.notify_one();
    }

    /// What is wrong with the feed of a line.
    pub fn findings(&self, line: u32, publisher: u32, findings: Vec<Finding>) {
        self.queues().findings.insert(line, (publisher, findings));
        self.notify.notify_one();
    }

    /// How the feeds are doing, once a second.
    pub fn report(&self, feeds: Vec<FeedReport>) {
        self.queues().report = Some(feeds);
        self.notify.notify_one();
    }

    /// The relay takes no new publishers.
    pub fn draining(&self) {
        self.send(&FromRelay::Draining {});
    }

    /// How many units were dropped for this connector.
    pub fn dropped(&self) -> Totals {
        self.queues().scheduler.totals()
    }

    /// Packets that the network lost in the last seconds, of a hundred: told with the next state of the feeds.
    pub(super) fn set_lost_percent(&self, lost_percent: Option<f64>) {
        self.queues().lost_percent = lost_percent;
    }

    /// Queues a control message.
    pub(super) fn send(&self, message: &FromRelay) {
        let bytes = control::encode(message);
        let mut queues = self.queues();
        if queues.messages.len() < MESSAGES_MAX {
            queues.messages.push_back(bytes);
        } else {
            queues.has_overflown = true;
        }
        drop(queues);
        self.notify.notify_one();
    }

    /// Resolves when something came in since the last time.
    pub(super) async fn changed(&self) {
        self.notify.notified().await;
    }

    pub(super) fn queues(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Subscriber for Outbox {
    fn feed_started(&self, feed: FeedStart) {
        self.feed_started(feed);
    }

    fn set_delay(&self, line: u32, delay_ms: u32) {
        self.set_delay(line, delay_ms);
    }

    fn deliver(&self, unit: Unit) {
        self.deliver(unit);
    }

    fn restore(&self, units: Vec<Unit>) {
        self.restore(units);
    }

    fn feed_ended(&self, line: u32, publisher: u32, reason: &str) {
        self.feed_ended(line, publisher, reason);
    }

    fn claims(&self, line: u32, claims: Claims) {
        self.claims(line, claims);
    }

    fn tracks(&self, line: u32, publisher: u32, tracks: Vec<TrackReport>) {
        self.tracks(line, publisher, tracks);
    }

    fn report(&self, feeds: Vec<FeedReport>) {
        self.report(feeds);
    }

    fn findings(&self, line: u32, publisher: u32, findings: Vec<Finding>) {
        self.findings(line, publisher, findings);
    }

    fn draining(&self) {
        self.draining();
    }
}

impl Queues {
    /// The next control message. Records of dropped units and the feeds' state are made only when the peer reads.
    pub(super) fn next_message(&mut self) -> Option<Bytes> {
        if let Some(message) = self.messages.pop_front() {
            return Some(message);
        }
        if let Some(dropped) = self.scheduler.pop_dropped() {
            return Some(control::encode(&FromRelay::Dropped {
                line: dropped.line,
                publisher: dropped.publisher,
                from_seq: dropped.from_seq,
                to_seq: dropped.to_seq,
                video: dropped.video,
                audio: dropped.audio,
                disposable: dropped.disposable,
                reason: dropped.reason,
            }));
        }
        if let Some((line, claims)) = self.claims.pop_first() {
            return Some(control::encode(&FromRelay::Claims {
                line,
                held: claims.held,
                refused: claims.refused,
                frozen: claims.frozen,
            }));
        }
        if let Some((line, (publisher, tracks))) = self.tracks.pop_first() {
            return Some(control::encode(&FromRelay::Tracks {
                line,
                publisher,
                tracks,
            }));
        }
        if let Some((line, (publisher, findings))) = self.findings.pop_first() {
            return Some(control::encode(&FromRelay::Findings {
                line,
                publisher,
                findings,
            }));
        }
        let feeds = self.report.take()?;
        Some(control::encode(&FromRelay::FeedStatus {
            feeds,
            lost_percent: self.lost_percent,
        }))
    }

    /// The peer does not read its control stream: it is broken.
    pub(super) const fn has_overflown(&self) -> bool {
        self.has_overflown
    }
}

/// Control messages that may wait: an end and a start for every line at once, when a studio's encoders all come
/// back, and some to spare.
const MESSAGES_MAX: usize = 2 * LINES_MAX + 32;

#[cfg(test)]
mod tests {
    use super::*;

    fn message(bytes: &Bytes) -> serde_json::Value {
        serde_json::from_slice(&bytes[4..]).unwrap()
    }

    #[test]
    fn a_peer_that_does_not_read_is_noticed_and_costs_no_more() {
        let outbox = Outbox::new(Limits::default());
        for publisher in 0..2_000 {
            outbox.feed_ended(1, publisher, "the encoder left");
        }
        let mut queues = outbox.queues();
        assert!(queues.has_overflown());
        let waiting = std::iter::from_fn(|| queues.next_message()).count();
        assert_eq!(waiting, MESSAGES_MAX);
    }

    #[test]
    fn only_the_newest_state_of_the_feeds_waits() {
        let outbox = Outbox::new(Limits::default());
        for bitrate in [1, 2, 3] {
            outbox.report(vec![FeedReport {
                line: 1,
                publisher: 1,
                encoder_lag_ms: None,
                bitrate_bps: Some(bitrate),
                stalled_ms: None,
                held: 0,
                accepted_lag_ms: 0,
            }]);
        }
        let mut queues = outbox.queues();
        let first = message(&queues.next_message().unwrap());
        assert_eq!(first["feeds"][0]["bitrate_bps"], 3);
        assert_eq!(queues.next_message(), None);
    }
}

//! Keeps a congestion controller within what the path has lately carried.
//!
//! Live media seldom fills a window, and quinn's BBR takes that for an endless path: its window grew to 6 MB in
//! 8 s of 6 Mbit/s, and when the link dipped, all of that could queue in front of the sound (1.3 s, measured). It
//! also empties the path for 200 ms every so often, to measure it, and believes its first round trip for ever. So
//! whatever the controller says, the window stays between
//!
//! - below: what was delivered lately, at the least round trip + [`QUEUE_MIN`], and
//! - above: the same with [`QUEUE_MAX`]: nothing waits longer than that in the network because of us, and a rate
//!   that is asked for can still more than double in each round trip of a mobile network.
//!
//! When more than that waits, or the least round trip was not seen for a while, little is sent for a moment. If the
//! round trip then falls to the least, the queue was ours, and only what is delivered since counts. If it does not,
//! the queue is another's or the path became longer: that is the least round trip from now on, so that giving way
//! does not starve us.
//!
//! While no acknowledgement comes the window opens by a packet every 50 ms, so that new sound serves as a probe:
//! quinn's own probes come at doubled intervals, and after an outage of a second they can be a second away.

use std::{
    any::Any,
    collections::VecDeque,
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use quinn::congestion::{Controller, ControllerFactory};
use quinn_proto::RttEstimator;

/// Makes bounded controllers of others.
pub(super) struct Bounded {
    inner: Arc<dyn ControllerFactory + Send + Sync>,
}

impl Bounded {
    pub(super) const fn new(inner: Arc<dyn ControllerFactory + Send + Sync>) -> Self {
        Self { inner }
    }
}

impl ControllerFactory for Bounded {
    fn build(self: Arc<Self>, now: Instant, mtu: u16) -> Box<dyn Controller> {
        let inner = self.inner.clone().build(now, mtu);
        Box::new(Governor {
            path: Path::new(now, inner.initial_window(), mtu.into()),
            inner,
        })
    }
}

struct Governor {
    inner: Box<dyn Controller>,
    path: Path,
}

impl fmt::Debug for Governor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Governor")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl Controller for Governor {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        self.path.on_sent(now);
        self.inner.on_sent(now, bytes, last_packet_number);
    }

    fn on_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        app_limited: bool,
        rtt: &RttEstimator,
    ) {
        self.path.on_ack(now, sent, bytes);
        self.inner.on_ack(now, sent, bytes, app_limited, rtt);
    }

    fn on_end_acks(
        &mut self,
        now: Instant,
        in_flight: u64,
        app_limited: bool,
        largest_packet_num_acked: Option<u64>,
    ) {
        self.path.on_end_acks(now, in_flight);
        self.inner
            .on_end_acks(now, in_flight, app_limited, largest_packet_num_acked);
    }

    fn on_congestion_event(
        &mut self,
        now: Instant,
        sent: Instant,
        is_persistent_congestion: bool,
        lost_bytes: u64,
    ) {
        self.inner
            .on_congestion_event(now, sent, is_persistent_congestion, lost_bytes);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.path.mtu = new_mtu.into();
        self.inner.on_mtu_update(new_mtu);
    }

    fn window(&self) -> u64 {
        let (lower, upper) = self.path.bounds;
        let window = self.inner.window().clamp(lower.min(upper), upper);
        window + self.path.probes(Instant::now())
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Self {
            inner: self.inner.clone_box(),
            path: self.path.clone(),
        })
    }

    fn initial_window(&self) -> u64 {
        self.inner.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

/// What the path has shown. No clock: times are arguments.
#[derive(Clone, Debug)]
struct Path {
    mtu: u64,
    initial_window: u64,
    /// Since when there is something to send: at first, and after a pause, the window is the initial one.
    started: Instant,
    /// Everything is acknowledged, since then.
    idle_since: Option<Instant>,
    last_ack: Instant,
    /// The acknowledgements being told now: bytes, and the least round trip.
    batch: Option<(u64, Duration)>,
    /// Acknowledged in the last round trip or so: for the rate, and for what waits in the network.
    acked: VecDeque<Ack>,
    /// The highest rate of each [`RATE_BUCKET`], bytes a second.
    rates: VecDeque<(Instant, u64)>,
    /// The round trip when nothing waits; the maximum before the first.
    least: Duration,
    phase: Phase,
    /// Below and above, bytes.
    bounds: (u64, u64),
}

#[derive(Clone, Copy, Debug)]
struct Ack {
    at: Instant,
    bytes: u64,
    round_trip: Duration,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    /// The least round trip was seen lately.
    Steady { seen: Instant },
    /// Something waits, or has waited for long. Little is sent, to see whether it is ours.
    Draining {
        since: Instant,
        /// Little of ours is on its way, since then.
        little_since: Option<Instant>,
        /// The least round trip from then on.
        least: Duration,
    },
}

impl Path {
    fn new(now: Instant, initial_window: u64, mtu: u64) -> Self {
        Self {
            mtu,
            initial_window,
            started: now,
            idle_since: Some(now),
            last_ack: now,
            batch: None,
            acked: VecDeque::new(),
            rates: VecDeque::new(),
            least: Duration::MAX,
            phase: Phase::Steady { seen: now },
            bounds: (0, initial_window),
        }
    }

    fn on_sent(&mut self, now: Instant) {
        if let Some(since) = self.idle_since.take() {
            self.last_ack = now;
            if now.saturating_duration_since(since) > PAUSE {
                self.started = now;
                self.rates.clear();
                self.phase = Phase::Steady { seen: now };
                self.bounds = (0, self.initial_window);
            }
        }
    }

    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64) {
        let round_trip = now.saturating_duration_since(sent);
        let (all, least) = self.batch.unwrap_or((0, Duration::MAX));
        self.batch = Some((all + bytes, least.min(round_trip)));
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64) {
        let Some((bytes, round_trip)) = self.batch.take() else {
            return;
        };
        self.last_ack = now;
        self.idle_since = (in_flight == 0).then_some(now);
        self.least = self.least.min(round_trip);
        let rate_now = self.note_rate(now, bytes, round_trip);
        self.advance(now, round_trip, in_flight);

        let rates = self.rates.iter().copied();
        match self.phase {
            Phase::Steady { .. } => {
                let rate = rates.map(|(_, rate)| rate).max().unwrap_or(rate_now);
                let is_fresh =
                    now.saturating_duration_since(self.started) < FRESH.max(4 * self.least);
                let floor = if is_fresh {
                    self.initial_window
                } else {
                    FLOOR_PACKETS * self.mtu
                };
                let upper = carried(rate, self.least + QUEUE_MAX).max(floor);
                self.bounds = (carried(rate, self.least + QUEUE_MIN).min(upper), upper);
            }
            Phase::Draining { since, .. } => {
                let rates = rates.filter(|(at, _)| *at >= since).map(|(_, rate)| rate);
                let rate = rates.max().unwrap_or(rate_now);
                let window = carried(rate, self.least).max(DRAINED_PACKETS * self.mtu);
                self.bounds = (window, window);
            }
        }
    }

    /// Whether something waits in the network, and whose it is.
    fn advance(&mut self, now: Instant, round_trip: Duration, in_flight: u64) {
        let is_least = round_trip <= self.least + (self.least / 8).max(LEAST_SLACK);
        match &mut self.phase {
            Phase::Steady { seen } if is_least => *seen = now,
            Phase::Steady { seen } => {
                let standing = self.acked.iter().map(|ack| ack.round_trip).min();
                let queue = standing.unwrap_or(self.least).saturating_sub(self.least);
                if queue > QUEUE_MAX || now.saturating_duration_since(*seen) > LEAST_VALID {
                    self.phase = Phase::Draining {
                        since: now,
                        little_since: None,
                        least: Duration::MAX,
                    };
                }
            }
            Phase::Draining { since, .. } if is_least => {
                // It was ours: what the path carried before it filled up is of no use.
                let since = *since;
                self.rates.retain(|(at, _)| *at >= since);
                self.phase = Phase::Steady { seen: now };
            }
            Phase::Draining {
                little_since: little_since @ None,
                ..
            } => *little_since = (in_flight <= self.bounds.1).then_some(now),
            Phase::Draining {
                little_since: Some(little_since),
                least,
                ..
            } => {
                *least = round_trip.min(*least);
                if now.saturating_duration_since(*little_since) > round_trip + DRAINED_WAIT {
                    // Little of ours is on its way, and still it waits: another's queue, or a longer path.
                    self.least = *least;
                    self.phase = Phase::Steady { seen: now };
                }
            }
        }
    }

    /// Takes the bytes into account; the rate now, bytes a second.
    fn note_rate(&mut self, now: Instant, bytes: u64, round_trip: Duration) -> u64 {
        let span = self.least.clamp(RATE_SPAN_MIN, RATE_SPAN_MAX);
        self.acked.push_back(Ack {
            at: now,
            bytes,
            round_trip,
        });
        while let Some(ack) = self.acked.front()
            && now.saturating_duration_since(ack.at) >= span
        {
            self.acked.pop_front();
        }
        let acked: u64 = self.acked.iter().map(|ack| ack.bytes).sum();
        let span_us = u64::try_from(span.as_micros()).unwrap_or(u64::MAX).max(1);
        let rate = acked.saturating_mul(1_000_000) / span_us;
        while let Some((at, _)) = self.rates.front()
            && now.saturating_duration_since(*at) > RATE_MEMORY
        {
            self.rates.pop_front();
        }
        match self.rates.back_mut() {
            Some((at, highest)) if now.saturating_duration_since(*at) < RATE_BUCKET => {
                *highest = rate.max(*highest);
            }
            _ => self.rates.push_back((now, rate)),
        }
        rate
    }

    /// Bytes above the window while nothing is acknowledged.
    fn probes(&self, now: Instant) -> u64 {
        if self.idle_since.is_some() {
            return 0;
        }
        let silent = now.saturating_duration_since(self.last_ack);
        let expected = (3 * self.least.min(Duration::from_millis(300))).max(PROBE_AFTER);
        let Some(beyond) = silent.checked_sub(expected) else {
            return 0;
        };
        let packets = 1 + beyond.as_millis() / PROBE_EVERY.as_millis();
        self.mtu * u64::try_from(packets).unwrap_or(u64::MAX).min(PROBES_MAX)
    }
}

/// Bytes that a rate (bytes a second) carries in a time.
fn carried(rate: u64, time: Duration) -> u64 {
    let time_us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    rate.saturating_mul(time_us) / 1_000_000
}

/// Room for the controller to find out whether there is more.
const QUEUE_MIN: Duration = Duration::from_millis(50);

/// The most that may wait in the network because of us.
const QUEUE_MAX: Duration = Duration::from_millis(150);

/// Audio alone must never wait for a window.
const FLOOR_PACKETS: u64 = 16;

/// The initial window holds so long at a start.
const FRESH: Duration = Duration::from_millis(500);

/// A pause after which the path is new: nobody knows what became of it.
const PAUSE: Duration = Duration::from_secs(1);

/// A rate is what came within a round trip, within these.
const RATE_SPAN_MIN: Duration = Duration::from_millis(100);
const RATE_SPAN_MAX: Duration = Duration::from_millis(500);

const RATE_BUCKET: Duration = Duration::from_millis(250);

/// A keyframe interval of most encoders: what its keyframes showed is not forgotten between them.
const RATE_MEMORY: Duration = Duration::from_secs(2);

/// A round trip this much above the least is one too, as is one by an eighth.
const LEAST_SLACK: Duration = Duration::from_millis(10);

/// The least round trip is looked for again after this time; live media shows it by itself between pictures.
const LEAST_VALID: Duration = Duration::from_secs(3);

/// What is sent at the least while looking.
const DRAINED_PACKETS: u64 = 4;

/// For the last acknowledgements of what was sent before.
const DRAINED_WAIT: Duration = Duration::from_millis(50);

const PROBE_AFTER: Duration = Duration::from_millis(250);
const PROBE_EVERY: Duration = Duration::from_millis(50);
const PROBES_MAX: u64 = 100;

#[cfg(test)]
mod tests;

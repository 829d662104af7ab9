//! How the connector knows the relay's clock: heartbeats in QUIC datagrams, and the offset between the clocks.
//!
//! The connector sends a [`Ping`] every [`HEARTBEAT`]; the relay answers at once with a [`Pong`] that holds both
//! of its own times. The sample with the least round trip of the last [`WINDOW_US`] tells the offset best
//! (as in NTP, RFC 5905 section 8); half of that round trip is the most that an asymmetric path can hide.
//!
//! Times are microseconds on either clock, each with an arbitrary epoch. No I/O, no clock.

use std::{collections::VecDeque, time::Duration};

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// How often the connector sends a ping: it also keeps a changed address of the modem unnoticed (an address
/// change cost 169 ms with this interval, 1029 ms with one second).
pub const HEARTBEAT: Duration = Duration::from_millis(150);

/// How long a sample counts.
pub const WINDOW_US: i64 = 10_000_000;

/// Connector to relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ping {
    /// The connector's clock when it was sent.
    pub sent_us: i64,
}

/// Relay to connector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pong {
    /// [`Ping::sent_us`], echoed.
    pub ping_sent_us: i64,
    /// The relay's clock when the ping came.
    pub received_us: i64,
    /// The relay's clock when this left.
    pub sent_us: i64,
}

impl Ping {
    /// As a datagram.
    pub fn encode(self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(9);
        bytes.put_u8(KIND_PING);
        bytes.put_i64(self.sent_us);
        bytes.freeze()
    }

    /// `None` for anything else, to be ignored.
    pub fn decode(mut datagram: &[u8]) -> Option<Self> {
        (datagram.len() >= 9 && datagram.get_u8() == KIND_PING).then(|| Self {
            sent_us: datagram.get_i64(),
        })
    }
}

impl Pong {
    /// As a datagram.
    pub fn encode(self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(25);
        bytes.put_u8(KIND_PONG);
        bytes.put_i64(self.ping_sent_us);
        bytes.put_i64(self.received_us);
        bytes.put_i64(self.sent_us);
        bytes.freeze()
    }

    /// How long it and its ping were on their way, when it came at `now_us` of the clock that sent the ping; 0 at least.
    pub fn round_trip_us(self, now_us: i64) -> i64 {
        let away_us = now_us.saturating_sub(self.ping_sent_us);
        let held_us = self.sent_us.saturating_sub(self.received_us);
        away_us.saturating_sub(held_us.max(0)).max(0)
    }

    /// `None` for anything else, to be ignored.
    pub fn decode(mut datagram: &[u8]) -> Option<Self> {
        (datagram.len() >= 25 && datagram.get_u8() == KIND_PONG).then(|| Self {
            ping_sent_us: datagram.get_i64(),
            received_us: datagram.get_i64(),
            sent_us: datagram.get_i64(),
        })
    }
}

/// The best estimate of `relay clock - connector clock`.
#[derive(Clone, Debug, Default)]
pub struct ClockOffset {
    samples: VecDeque<Sample>,
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    at_us: i64,
    round_trip_us: i64,
    offset_us: i64,
}

impl ClockOffset {
    /// Takes in a pong that came at `now_us` of the connector's clock. Impossible times are ignored.
    pub fn record(&mut self, pong: Pong, now_us: i64) {
        let Some(sample) = Sample::new(pong, now_us) else {
            return;
        };
        while self
            .samples
            .front()
            .is_some_and(|old| now_us.saturating_sub(old.at_us) > WINDOW_US)
        {
            self.samples.pop_front();
        }
        if self.samples.len() == SAMPLES_MAX {
            self.samples.pop_front();
        }
        self.samples.push_back(sample);
    }

    /// A time of the relay's clock on the connector's clock; `None` before the first pong.
    pub fn to_connector_us(&self, relay_us: i64) -> Option<i64> {
        self.best()
            .map(|best| relay_us.saturating_sub(best.offset_us))
    }

    /// The most that the offset can be wrong if the path is wholly asymmetric: half the best round trip.
    pub fn uncertainty_us(&self) -> Option<i64> {
        self.best().map(|best| best.round_trip_us / 2)
    }

    /// The latest round trip.
    pub fn round_trip_us(&self) -> Option<i64> {
        self.samples.back().map(|sample| sample.round_trip_us)
    }

    fn best(&self) -> Option<&Sample> {
        self.samples
            .iter()
            .min_by_key(|sample| sample.round_trip_us)
    }
}

impl Sample {
    fn new(pong: Pong, now_us: i64) -> Option<Self> {
        let away_us = now_us.checked_sub(pong.ping_sent_us)?;
        let held_us = pong.sent_us.checked_sub(pong.received_us)?;
        let round_trip_us = away_us.checked_sub(held_us)?;
        if held_us < 0 || round_trip_us < 0 {
            return None;
        }
        let out_us = pong.received_us.checked_sub(pong.ping_sent_us)?;
        let back_us = pong.sent_us.checked_sub(now_us)?;
        Some(Self {
            at_us: now_us,
            round_trip_us,
            offset_us: out_us.checked_add(back_us)? / 2,
        })
    }
}

const KIND_PING: u8 = 1;
const KIND_PONG: u8 = 2;

/// 10 s of heartbeats and a few to spare: bounds what a relay that answers twice can make us hold.
const SAMPLES_MAX: usize = 128;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_least_round_trip_tells_the_offset() {
        const OFFSET: i64 = 5_000_000;
        let mut clock = ClockOffset::default();
        // (sent, way out, way back) in ms: a queue on the way back makes a sample worse, not the estimate.
        for (sent_ms, out_ms, back_ms) in [(0, 30, 30), (150, 30, 400), (300, 35, 31)] {
            let sent_us = sent_ms * 1000;
            let received_us = sent_us + out_ms * 1000 + OFFSET;
            clock.record(
                Pong {
                    ping_sent_us: sent_us,
                    received_us,
                    sent_us: received_us + 10,
                },
                sent_us + (out_ms + back_ms) * 1000 + 10,
            );
        }
        assert_eq!(clock.to_connector_us(OFFSET + 77), Some(77));
        assert_eq!(clock.uncertainty_us(), Some(30_000));
        assert_eq!(clock.round_trip_us(), Some(66_000));
    }

    #[test]
    fn an_old_sample_is_forgotten() {
        let mut clock = ClockOffset::default();
        clock.record(
            Pong {
                ping_sent_us: 0,
                received_us: 100,
                sent_us: 100,
            },
            0,
        );
        clock.record(
            Pong {
                ping_sent_us: WINDOW_US,
                received_us: WINDOW_US + 900,
                sent_us: WINDOW_US + 900,
            },
            WINDOW_US + 1_000,
        );
        assert_eq!(
            clock.to_connector_us(400),
            Some(0),
            "offset is (900 - 100) / 2 of the newer sample"
        );
    }

    proptest! {
        #[test]
        fn datagrams_survive_and_arbitrary_ones_never_panic(a in any::<i64>(), b in any::<i64>(), c in any::<i64>(), now in any::<i64>(), noise in prop::collection::vec(any::<u8>(), 0..40)) {
            let pong = Pong { ping_sent_us: a, received_us: b, sent_us: c };
            prop_assert_eq!(Pong::decode(&pong.encode()), Some(pong));
            prop_assert_eq!(Ping::decode(&Ping { sent_us: a }.encode()), Some(Ping { sent_us: a }));
            let mut clock = ClockOffset::default();
            clock.record(pong, now);
            let _ = clock.to_connector_us(now);
            let _ = (Ping::decode(&noise), Pong::decode(&noise));
        }
    }
}

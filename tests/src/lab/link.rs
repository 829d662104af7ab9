//! One direction of a bad link, without a socket and without a clock: packets and the time go in, packets come out.
//!
//! ```text
//! in → outage? → queue, bounded in bytes → rate (constant, or a trace of opportunities) → loss → delay and jitter → out
//! ```
//! A packet waits in the queue until it is sent; only what was sent can be lost on the air. Jitter never reorders.
//! Times are microseconds on any monotonic clock, sizes are bytes of whole packets, rates bits per second. What is
//! random is so by a seed: the same packets at the same times have the same fate.

use std::collections::VecDeque;

/// What the link is like from now on.
#[derive(Clone, Debug, PartialEq)]
pub struct Shape {
    /// How fast it is.
    pub rate: Rate,
    /// From the end of sending to the arrival.
    pub delay_us: i64,
    /// Up to this much more, evenly spread.
    pub jitter_us: i64,
    /// Which packets are lost.
    pub loss: Loss,
    /// What waits at most; a packet that does not fit is dropped.
    pub queue_bytes_max: usize,
}

impl Default for Shape {
    /// A wire: no delay, no limit but a queue of 500 kB.
    fn default() -> Self {
        Self {
            rate: Rate::Unlimited,
            delay_us: 0,
            jitter_us: 0,
            loss: Loss::None,
            queue_bytes_max: 500_000,
        }
    }
}

/// How fast a link is.
#[derive(Clone, Debug, PartialEq)]
pub enum Rate {
    /// Everything goes at once.
    Unlimited,
    /// Bits per second.
    Constant(u64),
    /// At each of these times, microseconds from the start and again and again, 1,500 bytes may go; what is not used then
    /// is gone. This is how a radio gives out its time.
    Trace(Vec<i64>),
}

/// Which packets are lost on the air.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Loss {
    /// None.
    None,
    /// Each with this probability.
    Random(f64),
    /// In bursts (Gilbert and Elliott): with `enter` a packet begins one, with `leave` ends it; all in it are lost.
    Bursts {
        /// Probability, per packet.
        enter: f64,
        /// Probability, per packet.
        leave: f64,
    },
}

/// What happens to packets while the link is out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outage {
    /// They are lost.
    Drops,
    /// They wait in the queue, as in a modem that searches its network.
    Holds,
}

/// What became of the packets so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Packets that came out.
    pub delivered: u64,
    /// Their bytes.
    pub delivered_bytes: u64,
    /// Packets that found the queue full.
    pub queue_full: u64,
    /// Packets lost on the air.
    pub lost: u64,
    /// Packets lost in an outage.
    pub outage: u64,
}

/// One direction of a link.
#[derive(Debug)]
pub struct Direction<P> {
    shape: Shape,
    random: Random,
    queue: VecDeque<(i64, P)>,
    queue_bytes: usize,
    /// When the packet that is being sent is through.
    free_us: i64,
    trace: Opportunities,
    in_burst: bool,
    out: Option<(i64, Outage)>,
    /// On the air, by arrival.
    air: VecDeque<(i64, P)>,
    last_arrival_us: i64,
    counts: Counts,
}

/// Where a trace stands.
#[derive(Debug, Default)]
struct Opportunities {
    base_us: i64,
    next: usize,
    /// Bytes left of the opportunity at hand.
    credit: usize,
}

impl<P: AsRef<[u8]>> Direction<P> {
    /// A link of this shape at `now_us`.
    pub fn new(shape: Shape, seed: u64, now_us: i64) -> Self {
        let mut direction = Self {
            shape: Shape::default(),
            random: Random::new(seed),
            queue: VecDeque::new(),
            queue_bytes: 0,
            free_us: now_us,
            trace: Opportunities::default(),
            in_burst: false,
            out: None,
            air: VecDeque::new(),
            last_arrival_us: i64::MIN,
            counts: Counts::default(),
        };
        direction.reshape(shape, now_us);
        direction
    }

    /// The link is like this from now on; what waits, waits on.
    pub fn reshape(&mut self, shape: Shape, now_us: i64) {
        self.send(now_us);
        if shape.rate != self.shape.rate {
            self.free_us = now_us;
            self.trace = Opportunities {
                base_us: now_us,
                ..Opportunities::default()
            };
        }
        self.shape = shape;
    }

    /// Nothing goes until `until_us`.
    pub fn fail(&mut self, until_us: i64, outage: Outage, now_us: i64) {
        self.send(now_us);
        self.out = Some((until_us, outage));
    }

    /// What became of the packets so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Bytes that wait to be sent.
    pub fn queued_bytes(&self) -> usize {
        self.queue_bytes
    }

    /// A packet enters.
    pub fn push(&mut self, packet: P, now_us: i64) {
        self.send(now_us);
        if self.is_out(now_us) == Some(Outage::Drops) {
            self.counts.outage += 1;
            return;
        }
        let len = packet.as_ref().len();
        if self.queue_bytes.saturating_add(len) > self.shape.queue_bytes_max {
            self.counts.queue_full += 1;
            return;
        }
        self.queue_bytes += len;
        self.queue.push_back((now_us, packet));
        self.send(now_us);
    }

    /// The next packet that has arrived by `now_us`.
    pub fn pop(&mut self, now_us: i64) -> Option<P> {
        self.send(now_us);
        if self.air.front()?.0 > now_us {
            return None;
        }
        let (_, packet) = self.air.pop_front()?;
        self.counts.delivered += 1;
        self.counts.delivered_bytes += packet.as_ref().len() as u64;
        Some(packet)
    }

    /// When to come again, if no packet enters before.
    pub fn next_us(&self) -> Option<i64> {
        let arrival_us = self.air.front().map(|(at_us, _)| *at_us);
        let sent_us = self.queue.front().map(|(entered_us, packet)| {
            let ready_us =
                (self.out).map_or(*entered_us, |(until_us, _)| until_us.max(*entered_us));
            match &self.shape.rate {
                Rate::Unlimited => ready_us,
                Rate::Constant(bps) => {
                    self.free_us.max(ready_us) + time_us(packet.as_ref().len(), *bps)
                }
                Rate::Trace(times) => self.trace.at_us(times).max(ready_us),
            }
        });
        [arrival_us, sent_us].into_iter().flatten().min()
    }

    fn is_out(&self, now_us: i64) -> Option<Outage> {
        self.out
            .filter(|(until_us, _)| now_us < *until_us)
            .map(|(_, outage)| outage)
    }

    /// Puts on the air what was sent by `now_us`.
    fn send(&mut self, now_us: i64) {
        let ready_us = match self.out {
            Some((until_us, _)) if now_us < until_us => return,
            Some((until_us, _)) => until_us,
            None => i64::MIN,
        };
        let rate = std::mem::replace(&mut self.shape.rate, Rate::Unlimited);
        while let Some((entered_us, packet)) = self.queue.front() {
            let (entered_us, len) = ((*entered_us).max(ready_us), packet.as_ref().len());
            let sent_us = match &rate {
                Rate::Unlimited => entered_us,
                Rate::Constant(bps) => self.free_us.max(entered_us) + time_us(len, *bps),
                Rate::Trace(times) => match self.trace.take(times, entered_us, len, now_us) {
                    Some(sent_us) => sent_us,
                    None => break,
                },
            };
            if sent_us > now_us {
                break;
            }
            self.free_us = sent_us;
            self.queue_bytes -= len;
            if let Some((_, packet)) = self.queue.pop_front() {
                self.fly(packet, sent_us);
            }
        }
        self.shape.rate = rate;
    }

    fn fly(&mut self, packet: P, sent_us: i64) {
        if self.is_lost() {
            self.counts.lost += 1;
            return;
        }
        let jitter_us = self.random.below(self.shape.jitter_us);
        let arrival_us = (sent_us + self.shape.delay_us + jitter_us).max(self.last_arrival_us);
        self.last_arrival_us = arrival_us;
        self.air.push_back((arrival_us, packet));
    }

    fn is_lost(&mut self) -> bool {
        match self.shape.loss {
            Loss::None => false,
            Loss::Random(probability) => self.random.fraction() < probability,
            Loss::Bursts { enter, leave } => {
                let change = if self.in_burst { leave } else { enter };
                self.in_burst ^= self.random.fraction() < change;
                self.in_burst
            }
        }
    }
}

impl Opportunities {
    fn at_us(&self, times: &[i64]) -> i64 {
        (times.get(self.next)).map_or(i64::MAX, |time_us| self.base_us.saturating_add(*time_us))
    }

    /// When the first opportunities after `entered_us` that suffice for `len` bytes are, if that is by `now_us`.
    fn take(&mut self, times: &[i64], entered_us: i64, len: usize, now_us: i64) -> Option<i64> {
        let period_us = *times.last()?;
        if period_us <= 0 {
            return None;
        }
        let mut at_us = entered_us;
        while self.credit < len {
            at_us = self.at_us(times);
            if at_us > now_us {
                return None;
            }
            self.next += 1;
            if self.next == times.len() {
                self.next = 0;
                self.base_us += period_us;
            }
            // What nobody waited for is gone.
            self.credit = if at_us < entered_us {
                0
            } else {
                self.credit + OPPORTUNITY_BYTES
            };
        }
        self.credit -= len;
        Some(at_us)
    }
}

/// How long `len` bytes take.
fn time_us(len: usize, bps: u64) -> i64 {
    let bits = (len as u64).saturating_mul(8_000_000);
    i64::try_from(bits / bps.max(1)).unwrap_or(i64::MAX)
}

/// `SplitMix64`: the same fate for the same seed.
#[derive(Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From 0 to 1, without it.
    #[expect(clippy::cast_precision_loss, reason = "53 bits")]
    pub(super) fn fraction(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Normal, of mean 0 and deviation 1 (Box and Muller).
    pub(super) fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.fraction()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.fraction()).cos()
    }

    /// Exponential, of this mean.
    pub(super) fn exponential(&mut self, mean: f64) -> f64 {
        -mean * (1.0 - self.fraction()).ln()
    }

    /// From 0 to `limit`, without it.
    fn below(&mut self, limit: i64) -> i64 {
        match u64::try_from(limit) {
            Ok(0) | Err(_) => 0,
            Ok(limit) => i64::try_from(self.next() % limit).unwrap_or(0),
        }
    }
}

/// What one opportunity of a trace carries.
const OPPORTUNITY_BYTES: usize = 1_500;

#[cfg(test)]
mod tests {
    use super::*;

    /// Pushes a packet of 1,250 bytes each `step_us`; when each came out.
    fn arrivals(link: &mut Direction<Vec<u8>>, count: i64, step_us: i64) -> Vec<i64> {
        let mut times = Vec::new();
        let mut now_us = 0;
        for n in 0..count {
            advance(link, &mut now_us, n * step_us, &mut times);
            link.push(vec![0; 1_250], now_us);
        }
        advance(link, &mut now_us, i64::MAX, &mut times);
        times
    }

    fn advance(link: &mut Direction<Vec<u8>>, now_us: &mut i64, to_us: i64, times: &mut Vec<i64>) {
        while let Some(next_us) = link.next_us().filter(|next_us| *next_us <= to_us) {
            *now_us = next_us;
            while link.pop(*now_us).is_some() {
                times.push(*now_us);
            }
        }
        if to_us != i64::MAX {
            *now_us = to_us;
        }
    }

    fn link(shape: Shape) -> Direction<Vec<u8>> {
        Direction::new(shape, 1, 0)
    }

    #[test]
    fn a_packet_takes_its_time_on_the_wire_and_in_the_air() {
        let mut link = link(Shape {
            rate: Rate::Constant(10_000_000),
            delay_us: 30_000,
            ..Shape::default()
        });
        // A millisecond each at 10 Mbit/s, one behind the other.
        assert_eq!(arrivals(&mut link, 3, 0), [31_000, 32_000, 33_000]);
    }

    #[test]
    fn what_does_not_fit_into_the_queue_is_dropped() {
        let mut link = link(Shape {
            rate: Rate::Constant(1_000_000),
            queue_bytes_max: 3_000,
            ..Shape::default()
        });
        assert_eq!(arrivals(&mut link, 10, 0).len(), 2);
        assert_eq!(link.counts().queue_full, 8);
        assert_eq!(link.queued_bytes(), 0);
    }

    #[test]
    fn an_outage_drops_or_holds() {
        for (outage, arrived) in [(Outage::Drops, 5), (Outage::Holds, 10)] {
            let mut link = link(Shape::default());
            link.fail(45_000, outage, 0);
            let times = arrivals(&mut link, 10, 10_000);
            assert_eq!(times.len(), arrived, "{outage:?}");
            assert!(times.iter().all(|at_us| *at_us >= 45_000), "{times:?}");
        }
    }

    #[test]
    fn losses_are_as_many_as_told_and_the_same_each_time() {
        for loss in [
            Loss::Random(0.03),
            Loss::Bursts {
                enter: 0.0062,
                leave: 0.2,
            },
        ] {
            let shape = Shape {
                loss,
                ..Shape::default()
            };
            let lost = |shape: &Shape| {
                let mut link = link(shape.clone());
                arrivals(&mut link, 20_000, 100);
                link.counts().lost
            };
            let first = lost(&shape);
            assert!((450..750).contains(&first), "{loss:?}: {first}");
            assert_eq!(lost(&shape), first);
        }
    }

    #[test]
    fn jitter_delays_and_never_reorders() {
        let mut link = link(Shape {
            delay_us: 10_000,
            jitter_us: 20_000,
            ..Shape::default()
        });
        let times = arrivals(&mut link, 500, 1_000);
        assert!(times.is_sorted());
        let late = times
            .iter()
            .zip(0..)
            .filter(|(at_us, n)| **at_us > n * 1_000 + 20_000);
        assert!(late.count() > 200);
    }

    #[test]
    fn a_trace_gives_out_its_opportunities_and_what_nobody_used_is_gone() {
        let mut link = link(Shape {
            rate: Rate::Trace(vec![10_000, 20_000, 100_000]),
            ..Shape::default()
        });
        // The one at 10 ms finds nobody; two packets share what three opportunities of 1,500 bytes carry.
        let mut times = Vec::new();
        let mut now_us = 15_000;
        link.push(vec![0; 1_400], now_us);
        link.push(vec![0; 1_400], now_us);
        link.push(vec![0; 1_400], now_us);
        advance(&mut link, &mut now_us, i64::MAX, &mut times);
        assert_eq!(times, [20_000, 100_000, 110_000]);
    }

    #[test]
    fn a_slower_link_keeps_what_waits() {
        let mut link = link(Shape {
            rate: Rate::Constant(10_000_000),
            ..Shape::default()
        });
        for _ in 0..4 {
            link.push(vec![0; 1_250], 0);
        }
        link.reshape(
            Shape {
                rate: Rate::Constant(1_000_000),
                ..Shape::default()
            },
            1_000,
        );
        let (mut times, mut now_us) = (Vec::new(), 1_000);
        advance(&mut link, &mut now_us, i64::MAX, &mut times);
        // The first came at 1 ms and is taken out now.
        assert_eq!(times, [1_000, 11_000, 21_000, 31_000]);
    }
}

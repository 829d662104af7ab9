//! A link in virtual time: a queue that leaves at a rate, then a delay; acknowledgements come back after the same.
//! The controller inside asks for everything, so what is seen is the upper bound alone.

use super::*;

const MTU: u64 = 1200;
const ONE_WAY: Duration = Duration::from_millis(30);

struct Link {
    start: Instant,
    now: Instant,
    path: Path,
    /// Bytes a second.
    rate: u64,
    /// When the last byte that is queued has left.
    free_at: Instant,
    /// Acknowledgements on their way: when they come, when the packet was sent.
    acks: VecDeque<(Instant, Instant)>,
    in_flight: u64,
    /// The longest that a packet of the last second waited.
    waits: VecDeque<(Instant, Duration)>,
    delivered: u64,
    sent: u64,
    one_way: Duration,
}

impl Link {
    fn new(rate: u64) -> Self {
        let start = Instant::now();
        Self {
            start,
            now: start,
            path: Path::new(start, 64 * MTU, MTU),
            rate,
            free_at: start,
            acks: VecDeque::new(),
            in_flight: 0,
            waits: VecDeque::new(),
            delivered: 0,
            sent: 0,
            one_way: ONE_WAY,
        }
    }

    /// Sends as much as it may of what `source` has, a millisecond at a time. The source is told how many bytes left.
    fn run(&mut self, time: Duration, mut source: impl FnMut(Duration) -> u64) {
        let end = self.now + time;
        while self.now < end {
            self.now += Duration::from_millis(1);
            self.take_acks();
            let wanted = source(self.now - self.start);
            let mut sent = 0;
            let window = self.path.bounds.1 + self.path.probes(self.now);
            while sent + MTU <= wanted && self.in_flight + MTU <= window {
                self.send();
                sent += MTU;
            }
        }
    }

    fn send(&mut self) {
        self.path.on_sent(self.now);
        self.in_flight += MTU;
        self.sent += MTU;
        let begin = self.free_at.max(self.now);
        self.waits.push_back((self.now, begin - self.now));
        self.free_at = begin + Duration::from_micros(MTU * 1_000_000 / self.rate);
        self.acks
            .push_back((self.free_at + 2 * self.one_way, self.now));
    }

    fn take_acks(&mut self) {
        let mut count = 0;
        while let Some((at, sent)) = self.acks.front().copied()
            && at <= self.now
        {
            self.acks.pop_front();
            self.path.on_ack(self.now, sent, MTU);
            self.in_flight -= MTU;
            self.delivered += MTU;
            count += 1;
        }
        if count > 0 {
            self.path.on_end_acks(self.now, self.in_flight);
        }
    }

    /// The longest wait of what was sent in the last `time`.
    fn wait_of_the_last(&self, time: Duration) -> Duration {
        let since = self.now.checked_sub(time).unwrap_or(self.start);
        let lately = self.waits.iter().filter(|(at, _)| *at >= since);
        lately.map(|(_, wait)| *wait).max().unwrap_or_default()
    }

    fn delivered_in(&mut self, time: Duration, source: impl FnMut(Duration) -> u64) -> u64 {
        let before = self.delivered;
        self.run(time, source);
        self.delivered - before
    }
}

/// Everything, always.
fn greedy(_: Duration) -> u64 {
    u64::MAX / 2
}

const MBIT: u64 = 125_000;
const SECOND: Duration = Duration::from_secs(1);

/// A camera: 30 pictures a second, every 60th eight times as large, as far as they may be handed over at once.
struct Camera {
    rate: u64,
    left: u64,
    next: Duration,
    n: u64,
}

impl Camera {
    fn new(rate: u64) -> Self {
        Self {
            rate,
            left: 0,
            next: Duration::ZERO,
            n: 0,
        }
    }

    fn at(&mut self, now: Duration, sent: u64) -> u64 {
        self.left -= sent.min(self.left);
        while self.next <= now {
            let weight = if self.n.is_multiple_of(60) { 8 } else { 1 };
            // What is half a second old is dropped by the scheduler.
            self.left = (self.left + weight * self.rate * 60 / 67 / 30).min(self.rate / 2);
            self.next += Duration::from_micros(33_333);
            self.n += 1;
        }
        self.left
    }
}

#[test]
fn a_full_link_is_used_and_little_waits_before_it() {
    for mbit in [1, 3, 5, 20, 100] {
        let mut link = Link::new(mbit * MBIT);
        link.run(20 * SECOND, greedy);
        let delivered = link.delivered_in(10 * SECOND, greedy);
        let share = delivered * 100 / (10 * mbit * MBIT);
        let wait = link.wait_of_the_last(10 * SECOND);
        assert!(share >= 90, "{mbit} Mbit/s: {share} % used");
        assert!(
            wait <= Duration::from_millis(200),
            "{mbit} Mbit/s: {wait:?}"
        );
    }
}

#[test]
fn a_dip_queues_for_a_moment_only() {
    let mut link = Link::new(20 * MBIT);
    link.run(5 * SECOND, greedy);
    link.rate = 3 * MBIT;
    link.run(2 * SECOND, greedy);
    let delivered = link.delivered_in(3 * SECOND, greedy);
    let wait = link.wait_of_the_last(3 * SECOND);
    assert!(wait <= Duration::from_millis(200), "{wait:?}");
    let share = delivered * 100 / (3 * 3 * MBIT);
    assert!(share >= 85, "{share} % used");
    link.rate = 20 * MBIT;
    link.run(2 * SECOND, greedy);
    let share = link.delivered_in(SECOND, greedy) * 100 / (20 * MBIT);
    assert!(share >= 85, "it found the way back: {share} %");
}

#[test]
fn a_camera_that_is_more_than_the_link_fills_it_and_no_queue() {
    let mut link = Link::new(5 * MBIT);
    let mut camera = Camera::new(6 * MBIT);
    let mut last = 0;
    let before = link.delivered;
    let mut run = |link: &mut Link, time| {
        let end = link.now + time;
        while link.now < end {
            let wanted = camera.at(link.now - link.start, last);
            let in_flight = link.sent;
            link.run(Duration::from_millis(1), |_| wanted);
            last = link.sent - in_flight;
        }
    };
    run(&mut link, 20 * SECOND);
    let share = (link.delivered - before) * 100 / (20 * 5 * MBIT);
    let wait = link.wait_of_the_last(15 * SECOND);
    assert!(share >= 90, "{share} % used");
    assert!(wait <= Duration::from_millis(220), "{wait:?}");
}

#[test]
fn a_path_that_becomes_longer_is_used_as_before() {
    let mut link = Link::new(10 * MBIT);
    link.one_way = Duration::from_millis(1);
    link.run(5 * SECOND, greedy);
    link.one_way = Duration::from_millis(60);
    link.run(5 * SECOND, greedy);
    let share = link.delivered_in(5 * SECOND, greedy) * 100 / (5 * 10 * MBIT);
    assert!(share >= 85, "{share} % used");
}

#[test]
fn a_queue_of_others_is_not_given_way_to_for_ever() {
    let mut link = Link::new(10 * MBIT);
    link.run(5 * SECOND, greedy);
    // Somebody else keeps 250 ms in the same queue and leaves us half of the rate.
    link.one_way = ONE_WAY + Duration::from_millis(125);
    link.rate = 5 * MBIT;
    link.run(6 * SECOND, greedy);
    let share = link.delivered_in(5 * SECOND, greedy) * 100 / (5 * 5 * MBIT);
    assert!(share >= 80, "{share} % used");
}

#[test]
fn silence_opens_the_window_slowly_and_an_idle_path_not_at_all() {
    let mut link = Link::new(10 * MBIT);
    link.run(SECOND, greedy);
    let last_ack = link.path.last_ack;
    // (silence in ms, packets above the window)
    for (silence_ms, packets) in [(100, 0), (250, 1), (300, 2), (1_250, 21), (60_000, 100)] {
        let now = last_ack + Duration::from_millis(silence_ms);
        assert_eq!(link.path.probes(now), packets * MTU, "{silence_ms} ms");
    }
    link.run(SECOND, |_| 0);
    assert_eq!(link.path.probes(link.now + 60 * SECOND), 0);
}

#[test]
fn after_a_pause_the_window_is_the_initial_one() {
    let mut link = Link::new(MBIT);
    link.run(5 * SECOND, greedy);
    assert!(link.path.bounds.1 < 64 * MTU);
    link.run(3 * SECOND, |_| 0);
    link.path.on_sent(link.now);
    assert_eq!(link.path.bounds, (0, 64 * MTU));
}

//! Over QUIC: a stream for each unit.
//!
//! - quinn may hold about one congestion window; sound and control messages have a reserve above it;
//! - a unit that got no byte in means congestion: only something more urgent is taken out after it;
//! - a unit that got some bytes in and no more *may* be held by the peer's window for that one stream: then one
//!   other unit is tried, and if that goes through, the first is set aside until its window opens;
//! - no stream credit is congestion;
//! - what is late is reset, also when quinn has all of it and the peer has not.

use std::{
    cmp::{Ordering, Reverse},
    collections::BinaryHeap,
    future::Future,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use firstmile_shared::{
    clock,
    tunnel::{
        close::Reset,
        control::DropReason,
        scheduler::{Class, Outgoing, Rank, Ticket, Totals, Urgency},
    },
};
use quinn::{Connection, ConnectionError, SendStream, VarInt, WriteError};
use tokio::time::Instant;

use super::{super::Outbox, SendError, report};
use crate::metrics::{Direction, Hop, Metrics};

pub(in crate::tunnel) struct Sender {
    outbox: Arc<Outbox>,
    metrics: Arc<Metrics>,
    control: SendStream,
    /// What is left of the control message on its way.
    message: Bytes,
    /// Units on their way, most urgent first.
    flying: Vec<Flying>,
    /// Units that quinn has whole, by the time at which they are late.
    sent: BinaryHeap<Reverse<Sent>>,
    stream: NextStream,
    window: Window,
    sent_checked: Instant,
    /// The tally that the order of what is on its way follows.
    tally_changes: u64,
    /// What the metrics know of.
    reported: Totals,
}

struct Flying {
    stream: SendStream,
    /// Head and payload; what is written is cut off.
    parts: [Bytes; 2],
    ticket: Ticket,
    ingest_us: i64,
    has_begun: bool,
    /// Nothing went in at the last try.
    is_stuck: bool,
    /// Others went through while it did not: its own stream is held, not the connection.
    is_held: bool,
}

struct Sent {
    check_us: i64,
    ticket: Ticket,
    stream: SendStream,
}

/// What one try to write a unit came to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Progress {
    Done,
    Some,
    None,
}

impl Sender {
    pub(super) fn new(
        connection: Connection,
        outbox: Arc<Outbox>,
        metrics: Arc<Metrics>,
        control: SendStream,
    ) -> Self {
        Self {
            stream: NextStream::new(connection.clone()),
            window: Window::new(connection),
            outbox,
            metrics,
            control,
            message: Bytes::new(),
            flying: Vec::new(),
            sent: BinaryHeap::new(),
            sent_checked: Instant::now(),
            tally_changes: 0,
            reported: Totals::default(),
        }
    }

    /// Sends what can be sent now, and has the task woken when more can. Ends only by an error.
    ///
    /// To be called again after [`Sender::next_check`], and when the outbox changed.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<SendError> {
        match self.pump(context) {
            Ok(()) => Poll::Pending,
            Err(error) => Poll::Ready(error),
        }
    }

    /// When something becomes late, if nothing happens before.
    pub(super) fn next_check(&self) -> Option<Duration> {
        let now_us = clock::now_us();
        let queues = self.outbox.queues();
        let in_queue = queues.scheduler.next_expiry_us();
        let on_its_way = self
            .flying
            .iter()
            .filter_map(|unit| queues.scheduler.deadline_us(&unit.ticket))
            .min();
        drop(queues);
        let sent = self.sent.peek().map(|sent| sent.0.check_us);
        let next_us = [in_queue, on_its_way, sent].into_iter().flatten().min()?;
        let wait_us = u64::try_from(next_us.saturating_sub(now_us)).unwrap_or(0);
        // A unit is late when its time has passed, not when it comes; and checks go together.
        Some(Duration::from_micros(wait_us).max(CHECK_INTERVAL))
    }

    /// Whether units or messages are still to be handed to quinn.
    pub(super) fn is_idle(&self) -> bool {
        self.flying.is_empty()
            && self.message.is_empty()
            && self.outbox.queues().scheduler.is_empty()
    }

    /// The control stream, for last words.
    pub(super) fn into_control(self) -> (Connection, SendStream) {
        (self.window.connection, self.control)
    }

    fn pump(&mut self, context: &mut Context<'_>) -> Result<(), SendError> {
        let now_us = clock::now_us();
        self.window.follow();
        self.give_up(now_us);
        self.renew();
        self.window.set(Class::Audio);
        self.send_messages(context)?;
        let mut blocked = self.push_on(context)?;
        loop {
            let Some(urgency) = self.outbox.queues().scheduler.peek(now_us) else {
                break;
            };
            if !self.may_try(blocked, urgency) {
                break;
            }
            let Poll::Ready(stream) = self.stream.poll(context) else {
                break;
            };
            let stream = stream?;
            let Some(outgoing) = self.outbox.queues().scheduler.pop(now_us) else {
                self.stream.put_back(stream);
                break;
            };
            self.take_off(outgoing, stream);
            blocked = self.push_on(context)?;
        }
        self.window.rest(&self.flying, !self.message.is_empty());
        report(&self.outbox, &self.metrics, &mut self.reported);
        Ok(())
    }

    /// What the studio does with a line counts for what is on its way, too.
    fn renew(&mut self) {
        let queues = self.outbox.queues();
        let changes = queues.scheduler.tally_changes();
        if std::mem::replace(&mut self.tally_changes, changes) == changes {
            return;
        }
        for unit in &mut self.flying {
            queues.scheduler.renew(&mut unit.ticket);
            // Fails only on a stream that is gone; writing to it will tell.
            let _ = unit.stream.set_priority(priority(&unit.ticket));
        }
        drop(queues);
        self.flying.sort_by_key(|unit| Reverse(unit.ticket.urgency));
    }

    fn send_messages(&mut self, context: &mut Context<'_>) -> Result<(), SendError> {
        if self.outbox.queues().has_overflown() {
            return Err(SendError::TooSlow);
        }
        loop {
            if self.message.is_empty() {
                let mut queues = self.outbox.queues();
                let Some(message) = queues.next_message() else {
                    return Ok(());
                };
                self.message = message;
            }
            let mut part = [std::mem::take(&mut self.message)];
            let written = poll_chunks(&mut self.control, &mut part, context);
            [self.message] = part;
            match written {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(WriteError::ConnectionLost(error))) => return Err(error.into()),
                Poll::Ready(Err(_)) => return Err(SendError::ControlStopped),
            }
        }
    }

    /// Writes what it can of the units on their way. The answer is the most urgent that congestion stopped.
    fn push_on(&mut self, context: &mut Context<'_>) -> Result<Option<Urgency>, SendError> {
        let mut index = 0;
        while let Some(unit) = self.flying.get_mut(index) {
            let class = unit.ticket.class;
            self.window.set(class);
            match unit.write(context) {
                Ok(progress) => {
                    if progress != Progress::None && !unit.has_begun {
                        unit.has_begun = true;
                        let waited_us = clock::now_us().saturating_sub(unit.ingest_us);
                        self.metrics.observe_hop(Hop::Scheduler, waited_us);
                    }
                    unit.is_stuck = progress == Progress::None;
                    unit.is_held &= unit.is_stuck;
                    if !unit.is_stuck {
                        self.hold_before(index, class);
                    }
                    if progress == Progress::Done {
                        self.land(index);
                    } else {
                        index += 1;
                    }
                }
                Err(WriteError::ConnectionLost(error)) => return Err(error.into()),
                // The connector has no use for it: as if it had arrived.
                Err(_) => drop(self.flying.remove(index)),
            }
        }
        // Most urgent first: the first is the greatest.
        let blocked = self.flying.iter().find(|unit| !unit.has_begun);
        Ok(blocked.map(|unit| unit.ticket.urgency))
    }

    /// A unit went through. Those that were tried before it, under the same limit, and got nothing in are held by
    /// their own stream's window. (Sound has a reserve, so what it can do says nothing of pictures.)
    fn hold_before(&mut self, index: usize, class: Class) {
        for unit in &mut self.flying[..index] {
            let is_comparable = class != Class::Audio || unit.ticket.class == Class::Audio;
            unit.is_held |= unit.is_stuck && unit.has_begun && is_comparable;
        }
    }

    /// Whether a unit that is so urgent may be taken out now. A unit that has begun and got stuck does not forbid it:
    /// it may be held, and the next one tells.
    fn may_try(&self, blocked: Option<Urgency>, urgency: Urgency) -> bool {
        blocked.is_none_or(|blocked| urgency > blocked) && self.has_room(urgency.is_sound())
    }

    /// Whether one more unit may be on its way: a peer that holds its streams must not make us hold more than this.
    fn has_room(&self, is_sound: bool) -> bool {
        let units_max = if is_sound {
            FLYING_MAX + FLYING_AUDIO_RESERVE
        } else {
            FLYING_MAX
        };
        self.flying.len() < units_max
            && self.flying.iter().map(Flying::left).sum::<usize>() < FLYING_BYTES_MAX
    }

    fn take_off(&mut self, outgoing: Outgoing, stream: SendStream) {
        let Outgoing { mut unit, ticket } = outgoing;
        let queued_us = clock::now_us().saturating_sub(unit.ingest_us);
        unit.queued_us = u32::try_from(queued_us.max(0)).unwrap_or(u32::MAX);
        // Fails only on a stream that is gone; writing to it will tell.
        let _ = stream.set_priority(priority(&ticket));
        self.metrics
            .unit(Direction::Out, unit.access_unit.payload.len());
        let flying = Flying {
            parts: [unit.encode_head(), unit.access_unit.payload],
            stream,
            ticket,
            ingest_us: unit.ingest_us,
            has_begun: false,
            is_stuck: false,
            is_held: false,
        };
        let place = self
            .flying
            .partition_point(|other| other.ticket.urgency >= ticket.urgency);
        self.flying.insert(place, flying);
    }

    /// quinn has all of it.
    fn land(&mut self, index: usize) {
        let mut unit = self.flying.remove(index);
        // Fails only if the peer stopped it: fine too.
        let _ = unit.stream.finish();
        let now_us = clock::now_us();
        let deadline_us = self.outbox.queues().scheduler.deadline_us(&unit.ticket);
        self.sent.push(Reverse(Sent {
            check_us: deadline_us.unwrap_or(now_us + NEWEST_KEYFRAME_CHECK_US),
            ticket: unit.ticket,
            stream: unit.stream,
        }));
    }

    /// Resets what is late, and what can't be decoded because of that.
    fn give_up(&mut self, now_us: i64) {
        self.check_sent(now_us);
        loop {
            let queues = self.outbox.queues();
            let hopeless = self.flying.iter().enumerate().find_map(|(index, unit)| {
                let reason = queues.scheduler.verdict(&unit.ticket, now_us)?;
                Some((index, reason))
            });
            drop(queues);
            let Some((index, reason)) = hopeless else {
                return;
            };
            let mut unit = self.flying.remove(index);
            let _ = unit.stream.reset(code(Reset::Late));
            self.given_up(&unit.ticket, reason);
        }
    }

    fn check_sent(&mut self, now_us: i64) {
        if self.sent_checked.elapsed() < CHECK_INTERVAL {
            return;
        }
        self.sent_checked = Instant::now();
        while self
            .sent
            .peek()
            .is_some_and(|Reverse(sent)| sent.check_us < now_us)
        {
            let Some(Reverse(mut sent)) = self.sent.pop() else {
                return;
            };
            let verdict = self.outbox.queues().scheduler.verdict(&sent.ticket, now_us);
            let Some(reason) = verdict else {
                sent.check_us = now_us + NEWEST_KEYFRAME_CHECK_US;
                self.sent.push(Reverse(sent));
                continue;
            };
            // Only what the peer has not acknowledged can be reset.
            if sent.stream.reset(code(Reset::Late)).is_ok() {
                self.given_up(&sent.ticket, reason);
            }
        }
    }

    fn given_up(&self, ticket: &Ticket, reason: DropReason) {
        self.outbox.queues().scheduler.given_up(ticket, reason);
    }
}

impl Flying {
    /// Writes until it is done or stopped.
    fn write(&mut self, context: &mut Context<'_>) -> Result<Progress, WriteError> {
        let mut progress = Progress::None;
        while self.left() > 0 {
            match poll_chunks(&mut self.stream, &mut self.parts, context) {
                Poll::Ready(written) => {
                    written?;
                    progress = Progress::Some;
                }
                Poll::Pending => return Ok(progress),
            }
        }
        Ok(Progress::Done)
    }

    fn left(&self) -> usize {
        self.parts.iter().map(Bytes::len).sum()
    }
}

impl PartialEq for Sent {
    fn eq(&self, other: &Self) -> bool {
        self.check_us == other.check_us
    }
}

impl Eq for Sent {}

impl PartialOrd for Sent {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Sent {
    fn cmp(&self, other: &Self) -> Ordering {
        self.check_us.cmp(&other.check_us)
    }
}

/// The stream for the next unit.
struct NextStream {
    connection: Connection,
    spare: Option<SendStream>,
    /// Waits for the peer to grant more.
    waiting: Option<Pin<Box<dyn OpenStream>>>,
}

trait OpenStream: Future<Output = Result<SendStream, ConnectionError>> + Send {}

impl<F: Future<Output = Result<SendStream, ConnectionError>> + Send> OpenStream for F {}

impl NextStream {
    fn new(connection: Connection) -> Self {
        Self {
            connection,
            spare: None,
            waiting: None,
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<SendStream, ConnectionError>> {
        if let Some(stream) = self.spare.take() {
            return Poll::Ready(Ok(stream));
        }
        if self.waiting.is_none() {
            // Nearly always there is one, without a box.
            if let ready @ Poll::Ready(_) = pin!(self.connection.open_uni()).poll(context) {
                return ready;
            }
            let connection = self.connection.clone();
            self.waiting = Some(Box::pin(async move { connection.open_uni().await }));
        }
        let Some(waiting) = &mut self.waiting else {
            return Poll::Pending;
        };
        let answer = waiting.as_mut().poll(context);
        if answer.is_ready() {
            self.waiting = None;
        }
        answer
    }

    fn put_back(&mut self, stream: SendStream) {
        self.spare = Some(stream);
    }
}

/// How much quinn may hold: about one congestion window.
struct Window {
    connection: Connection,
    base: u64,
    current: u64,
    followed: Option<Instant>,
}

impl Window {
    fn new(connection: Connection) -> Self {
        Self {
            connection,
            base: 0,
            current: 0,
            followed: None,
        }
    }

    /// Takes the congestion window over.
    fn follow(&mut self) {
        if self
            .followed
            .is_some_and(|at| at.elapsed() < WINDOW_INTERVAL)
        {
            return;
        }
        self.followed = Some(Instant::now());
        let congestion_window = self.connection.stats().path.cwnd;
        // A little more than the window, so that there is always something to send when it opens.
        self.base = congestion_window + (congestion_window / 4).max(WINDOW_SLACK_MIN);
    }

    /// The limit for units of this class.
    fn set(&mut self, class: Class) {
        let reserve = if class == Class::Audio {
            WINDOW_RESERVE
        } else {
            0
        };
        self.apply(self.base + reserve);
    }

    /// The limit that quinn wakes us by.
    fn rest(&mut self, flying: &[Flying], has_message: bool) {
        let is_urgent = has_message
            || flying
                .iter()
                .any(|unit| unit.ticket.class == Class::Audio && !unit.is_held);
        self.set(if is_urgent {
            Class::Audio
        } else {
            Class::Reference
        });
    }

    fn apply(&mut self, window: u64) {
        if window != self.current {
            self.current = window;
            self.connection.set_send_window(window);
        }
    }
}

/// One try to write; a stream that is full wakes the task when it is not. Empty parts are skipped.
fn poll_chunks(
    stream: &mut SendStream,
    parts: &mut [Bytes],
    context: &mut Context<'_>,
) -> Poll<Result<usize, WriteError>> {
    let first = parts
        .iter()
        .position(|part| !part.is_empty())
        .unwrap_or(parts.len());
    // Dropping the future loses nothing: quinn keeps the waker, and what is written is cut off.
    pin!(stream.write_chunks(&mut parts[first..]))
        .poll(context)
        .map_ok(|written| written.bytes)
}

/// quinn sends, and repeats, the higher first. Among lines of one rank it takes turns: only little waits in quinn.
fn priority(ticket: &Ticket) -> i32 {
    let of_rank = match ticket.class {
        Class::Audio => return CONTROL_PRIORITY - 1,
        Class::Spare => return 0,
        Class::Keyframe => 3,
        Class::Reference => 2,
        Class::NonReference => 1,
    };
    of_rank
        + match ticket.urgency.rank() {
            Rank::Off => 0,
            Rank::Preview => 3,
            Rank::Program => 6,
        }
}

/// Before all units.
pub(in crate::tunnel) const CONTROL_PRIORITY: i32 = 11;

const fn code(reset: Reset) -> VarInt {
    VarInt::from_u32(reset as u32)
}

/// Units on their way at once, and their bytes: only a peer that holds its streams gets there.
const FLYING_MAX: usize = 64;
const FLYING_AUDIO_RESERVE: usize = 128;
const FLYING_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What is late may be late by this much before it is noticed: one timer for many units.
const CHECK_INTERVAL: Duration = Duration::from_millis(20);

/// A line's newest keyframe is never late, until a newer one comes.
const NEWEST_KEYFRAME_CHECK_US: i64 = 1_000_000;

const WINDOW_INTERVAL: Duration = Duration::from_millis(10);

/// Ten packets: what the pacer sends in one burst.
const WINDOW_SLACK_MIN: u64 = 10 * 1200;

/// Sound and messages above the window: 50 lines of 128 kbit/s for 300 ms.
const WINDOW_RESERVE: u64 = 256 * 1024;

//! Over TCP: everything in one stream, frame by frame.
//!
//! The next frame is chosen when the kernel has taken the one before, so that sound passes a keyframe that is under way
//! and what is late is left out here. What the kernel has can't be taken back: it gets little
//! ([`firstmile_shared::tcp`]).

use std::{
    cmp::Reverse,
    collections::VecDeque,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use firstmile_shared::{
    clock, tcp,
    tunnel::{
        clock::{Ping, Pong},
        close::Reset,
        frame::{Frame, UNITS_OPEN_MAX},
        scheduler::{Outgoing, Ticket, Totals},
    },
};

use super::{super::Outbox, SendError, report};
use crate::metrics::{Direction, Hop, Metrics};

pub(in crate::tunnel) struct Sender {
    outbox: Arc<Outbox>,
    metrics: Arc<Metrics>,
    writer: tcp::Writer,
    /// What is left of the control message on its way.
    message: Bytes,
    /// Pings to be answered, and when they came.
    pings: VecDeque<(Ping, i64)>,
    is_ping_due: bool,
    /// Units on their way, most urgent first: each was more urgent than the one before it.
    flying: Vec<Flying>,
    /// Units on their way that the peer has to be told not to wait for.
    given_up: Vec<u32>,
    next_number: u32,
    /// The tally that the order of what is on its way follows.
    tally_changes: u64,
    /// What the metrics know of.
    reported: Totals,
}

struct Flying {
    number: u32,
    /// Head and payload; what is sent is cut off.
    parts: [Bytes; 2],
    ticket: Ticket,
}

impl Sender {
    pub(super) fn new(outbox: Arc<Outbox>, metrics: Arc<Metrics>, writer: tcp::Writer) -> Self {
        Self {
            outbox,
            metrics,
            writer,
            message: Bytes::new(),
            pings: VecDeque::new(),
            is_ping_due: false,
            flying: Vec::new(),
            given_up: Vec::new(),
            next_number: 0,
            tally_changes: 0,
            reported: Totals::default(),
        }
    }

    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<SendError> {
        match self.pump(context) {
            Ok(()) => Poll::Pending,
            Err(error) => Poll::Ready(error),
        }
    }

    pub(super) fn next_check(&self) -> Option<Duration> {
        let now_us = clock::now_us();
        let queues = self.outbox.queues();
        let in_queue = queues.scheduler.next_expiry_us();
        let on_its_way = (self.flying.iter())
            .filter_map(|unit| queues.scheduler.deadline_us(&unit.ticket))
            .min();
        drop(queues);
        let next_us = [in_queue, on_its_way].into_iter().flatten().min()?;
        let wait_us = u64::try_from(next_us.saturating_sub(now_us)).unwrap_or(0);
        Some(Duration::from_micros(wait_us).max(CHECK_INTERVAL))
    }

    pub(super) fn is_idle(&self) -> bool {
        self.flying.is_empty()
            && self.message.is_empty()
            && self.outbox.queues().scheduler.is_empty()
    }

    /// A ping came. One that asks for more than it lets in gets answers to the newest.
    pub(super) fn answer(&mut self, ping: Ping) {
        if self.pings.len() == PINGS_MAX {
            self.pings.pop_front();
        }
        self.pings.push_back((ping, clock::now_us()));
    }

    /// Asks how far away the peer is.
    pub(super) const fn ping(&mut self) {
        self.is_ping_due = true;
    }

    pub(super) fn into_writer(self) -> tcp::Writer {
        self.writer
    }

    fn pump(&mut self, context: &mut Context<'_>) -> Result<(), SendError> {
        if self.outbox.queues().has_overflown() {
            return Err(SendError::TooSlow);
        }
        while let Poll::Ready(ready) = self.writer.poll_ready(context) {
            ready?;
            if !self.fill() {
                break;
            }
        }
        self.give_up(clock::now_us());
        report(&self.outbox, &self.metrics, &mut self.reported);
        Ok(())
    }

    /// Fills one record with what is most urgent now. `false`: there is nothing.
    fn fill(&mut self) -> bool {
        let now_us = clock::now_us();
        self.give_up(now_us);
        let mut is_empty = true;
        loop {
            let room = self.writer.room();
            if room < ROOM_MIN && !is_empty {
                return true;
            }
            let Some(frame) = self.next_frame(room, now_us) else {
                return !is_empty;
            };
            self.writer.put(&frame);
            is_empty = false;
        }
    }

    fn next_frame(&mut self, room: usize, now_us: i64) -> Option<Frame> {
        if let Some((ping, received_us)) = self.pings.pop_front() {
            let pong = Pong {
                ping_sent_us: ping.sent_us,
                received_us,
                sent_us: clock::now_us(),
            };
            return Some(Frame::Datagram(pong.encode()));
        }
        if std::mem::take(&mut self.is_ping_due) {
            let ping = Ping { sent_us: now_us };
            return Some(Frame::Datagram(ping.encode()));
        }
        if let Some(unit) = self.given_up.pop() {
            let code = Reset::Late as u32;
            return Some(Frame::GiveUp { unit, code });
        }
        if self.message.is_empty() {
            let message = self.outbox.queues().next_message();
            self.message = message.unwrap_or_default();
        }
        if !self.message.is_empty() {
            let len = self.message.len().min(room);
            return Some(Frame::Control(self.message.split_to(len)));
        }
        self.next_part(room, now_us)
    }

    fn next_part(&mut self, room: usize, now_us: i64) -> Option<Frame> {
        self.renew();
        let waiting = self.outbox.queues().scheduler.peek(now_us);
        let begun = self.flying.first().map(|unit| unit.ticket.urgency);
        let units_max = match waiting {
            Some(urgency) if urgency.is_sound() => UNITS_OPEN_MAX,
            _ => UNITS_OPEN_MAX / 2,
        };
        if waiting > begun && self.flying.len() < units_max {
            let outgoing = self.outbox.queues().scheduler.pop(now_us);
            if let Some(outgoing) = outgoing {
                self.take_off(outgoing, now_us);
            }
        }
        let unit = self.flying.first_mut()?;
        let number = unit.number;
        let [head, payload] = &mut unit.parts;
        // The head is 16 KiB at most, and alone then.
        let part = if head.is_empty() { payload } else { head };
        let bytes = part.split_to(part.len().min(room));
        let is_last = unit.parts.iter().all(Bytes::is_empty);
        if is_last {
            self.flying.remove(0);
        }
        Some(Frame::Part {
            unit: number,
            is_last,
            bytes,
        })
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
        }
        drop(queues);
        self.flying.sort_by_key(|unit| Reverse(unit.ticket.urgency));
    }

    fn take_off(&mut self, outgoing: Outgoing, now_us: i64) {
        let Outgoing { mut unit, ticket } = outgoing;
        let waited_us = now_us.saturating_sub(unit.ingest_us).max(0);
        unit.queued_us = u32::try_from(waited_us).unwrap_or(u32::MAX);
        self.metrics
            .unit(Direction::Out, unit.access_unit.payload.len());
        self.metrics.observe_hop(Hop::Scheduler, waited_us);
        let flying = Flying {
            number: self.next_number,
            parts: [unit.encode_head(), unit.access_unit.payload],
            ticket,
        };
        self.next_number = self.next_number.wrapping_add(1);
        self.flying.insert(0, flying);
    }

    /// Gives up what is late, and what can't be decoded because of that.
    fn give_up(&mut self, now_us: i64) {
        loop {
            let mut queues = self.outbox.queues();
            let hopeless = (self.flying.iter().enumerate()).find_map(|(index, unit)| {
                let reason = queues.scheduler.verdict(&unit.ticket, now_us)?;
                Some((index, reason))
            });
            let Some((index, reason)) = hopeless else {
                return;
            };
            let unit = self.flying.remove(index);
            queues.scheduler.given_up(&unit.ticket, reason);
            self.given_up.push(unit.number);
        }
    }
}

/// What is late may be late by this much before it is noticed: one timer for many units.
const CHECK_INTERVAL: Duration = Duration::from_millis(20);

/// A part shorter than this is not worth its frame: the record goes as it is.
const ROOM_MIN: usize = 512;

/// A second and a half of heartbeats.
const PINGS_MAX: usize = 10;

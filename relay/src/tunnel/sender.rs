//! The way out of one session: control messages and units, most urgent first, without ever waiting.
//!
//! A unit on its way is a record with bytes left; the whole sender is polled as one, never awaited, and nothing is
//! spawned per unit. The queue is the scheduler's, not the transport's: a unit is taken out only when the network can
//! have it, because what the transport has accepted can't be overtaken any more.

mod quic;
mod stream;

use std::{
    io,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use firstmile_shared::tunnel::{clock::Ping, control::DropReason, scheduler::Totals};
use quinn::ConnectionError;

pub(super) use self::quic::CONTROL_PRIORITY;
use super::{Outbox, words::ControlWriter};
use crate::metrics::{Dropped, Metrics};

/// Why a session can't send any more.
#[derive(Debug, thiserror::Error)]
pub(super) enum SendError {
    /// The connection is gone.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    /// The connection is gone.
    #[error("the studio's network was lost (TCP: {0})")]
    Tcp(#[from] io::Error),
    /// The peer refuses the control stream.
    #[error("the peer stopped the control stream")]
    ControlStopped,
    /// The peer does not read its control stream.
    #[error("the peer does not read its control stream")]
    TooSlow,
}

/// One for each transport; both obey the same scheduler.
pub(super) enum Sender {
    /// A stream for each unit.
    Quic(Box<quic::Sender>),
    /// One stream for all.
    Stream(Box<stream::Sender>),
}

impl Sender {
    pub(super) fn new(control: ControlWriter, outbox: Arc<Outbox>, metrics: Arc<Metrics>) -> Self {
        match control {
            ControlWriter::Quic(connection, control) => {
                let sender = quic::Sender::new(connection, outbox, metrics, control);
                Self::Quic(Box::new(sender))
            }
            ControlWriter::Tcp(writer) => {
                Self::Stream(Box::new(stream::Sender::new(outbox, metrics, writer)))
            }
        }
    }

    /// Sends what can be sent now, and has the task woken when more can. Ends only by an error.
    ///
    /// To be called again after [`Sender::next_check`], and when the outbox changed.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<SendError> {
        match self {
            Self::Quic(sender) => sender.poll(context),
            Self::Stream(sender) => sender.poll(context),
        }
    }

    /// When something becomes late, if nothing happens before.
    pub(super) fn next_check(&self) -> Option<Duration> {
        match self {
            Self::Quic(sender) => sender.next_check(),
            Self::Stream(sender) => sender.next_check(),
        }
    }

    /// Whether units or messages are still to be handed to the transport.
    pub(super) fn is_idle(&self) -> bool {
        match self {
            Self::Quic(sender) => sender.is_idle(),
            Self::Stream(sender) => sender.is_idle(),
        }
    }

    /// Answers a ping that came over TCP. (QUIC's are datagrams.)
    pub(super) fn answer(&mut self, ping: Ping) {
        if let Self::Stream(sender) = self {
            sender.answer(ping);
        }
    }

    /// Over TCP, asks how far away the peer is. (QUIC knows.)
    pub(super) fn ping(&mut self) {
        if let Self::Stream(sender) = self {
            sender.ping();
        }
    }

    /// For last words.
    pub(super) fn into_control(self) -> ControlWriter {
        match self {
            Self::Quic(sender) => {
                let (connection, control) = sender.into_control();
                ControlWriter::Quic(connection, control)
            }
            Self::Stream(sender) => ControlWriter::Tcp(sender.into_writer()),
        }
    }
}

/// Counts what the scheduler left out since the last time.
fn report(outbox: &Outbox, metrics: &Metrics, reported: &mut Totals) {
    let totals = outbox.dropped();
    let before = std::mem::replace(reported, totals);
    if totals == before {
        return;
    }
    for (reason, units) in [
        (DropReason::Late, totals.late - before.late),
        (DropReason::Full, totals.full - before.full),
        (
            DropReason::NeedsKeyframe,
            totals.needs_keyframe - before.needs_keyframe,
        ),
        (DropReason::Behind, totals.behind - before.behind),
        (
            DropReason::Superseded,
            totals.superseded - before.superseded,
        ),
        (DropReason::Thinned, totals.thinned - before.thinned),
    ] {
        metrics.dropped(Dropped::Scheduler(reason), units);
    }
}

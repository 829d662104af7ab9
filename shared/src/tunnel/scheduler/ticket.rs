//! What the queue knows of a unit besides its bytes.

use super::{Class, Urgency};
use crate::{media::MediaKind, tunnel::unit::Unit};

/// What the queue remembers of a unit that it gave out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct Ticket {
    /// The connector's line number.
    pub line: u32,
    /// The publisher's number.
    pub publisher: u32,
    /// The unit's number.
    pub seq: u64,
    /// What it was when it was given out.
    pub class: Class,
    /// How urgent it was then.
    pub urgency: Urgency,
    pub(super) track: u8,
    pub(super) kind: MediaKind,
    pub(super) keyframe: bool,
    pub(super) disposable: bool,
    /// Not of a track that is played: it goes when nothing else does, and nobody misses it.
    pub(super) spare: bool,
    /// Counts the keyframes of the line; the same for all units that belong together.
    pub(super) gop: u64,
    /// When it has age zero, microseconds on the relay's clock.
    pub(super) presented_us: i64,
    /// The unit of the same kind before this one: two dropped units without another between make one record.
    pub(super) previous_seq: Option<u64>,
    /// It was left out and is sent after all: what follows is decoded with it, however old it is.
    pub(super) restored: bool,
}

impl Ticket {
    /// A picture of the track that is played; else sound, or something that nobody looks at.
    pub const fn is_video(&self) -> bool {
        matches!(self.kind, MediaKind::Video) && !self.spare
    }

    /// A picture that is played and that no other needs.
    pub const fn is_disposable(&self) -> bool {
        self.is_video() && self.disposable
    }

    pub(super) const fn is_reference(&self) -> bool {
        self.is_video() && !self.disposable
    }

    pub(super) const fn track(&self) -> (u32, u8) {
        (self.publisher, self.track)
    }
}

/// A unit that waits.
#[derive(Debug)]
pub(super) struct Queued {
    pub(super) unit: Unit,
    pub(super) ticket: Ticket,
}

impl Queued {
    pub(super) fn weight(&self) -> usize {
        let unit = &self.unit.access_unit;
        unit.payload.len() + unit.config.as_ref().map_or(0, bytes::Bytes::len) + UNIT_OVERHEAD
    }
}

/// What a queued unit costs besides its payload and configuration.
pub const UNIT_OVERHEAD: usize = 256;

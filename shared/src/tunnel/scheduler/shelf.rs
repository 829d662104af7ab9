//! What is left out of a line that is off the air, and wanted again if it goes on air within the same GOP. Pure.

use std::collections::VecDeque;

use super::{report::Report, ticket::Queued};
use crate::tunnel::control::DropReason;

/// The end of one GOP, from the first reference that was left out: references only, in decode order.
#[derive(Debug)]
pub(super) struct Shelf {
    gop: u64,
    units: VecDeque<(Queued, DropReason)>,
    bytes: usize,
    /// Something before, or of it, is gone for good.
    is_closed: bool,
}

impl Shelf {
    pub(super) const fn new() -> Self {
        Self {
            gop: 0,
            units: VecDeque::new(),
            bytes: 0,
            is_closed: true,
        }
    }

    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// The first reference of a GOP is left out.
    pub(super) fn begin(&mut self, gop: u64, report: &mut Report) {
        self.clear(report);
        self.gop = gop;
        self.is_closed = false;
    }

    /// Whether the GOP's units are kept.
    pub(super) const fn takes(&self, gop: u64) -> bool {
        self.gop == gop && !self.is_closed
    }

    /// Keeps a unit, unless that is too much: then nothing of the GOP is.
    pub(super) fn put(&mut self, queued: Queued, reason: DropReason, report: &mut Report) {
        self.bytes += queued.weight();
        self.units.push_back((queued, reason));
        if self.bytes > SHELF_BYTES_MAX {
            self.close(report);
        }
    }

    /// Gives all of it out, in decode order, if it is of this GOP.
    pub(super) fn take(&mut self, gop: u64) -> VecDeque<(Queued, DropReason)> {
        if !self.takes(gop) {
            return VecDeque::new();
        }
        self.is_closed = true;
        self.bytes = 0;
        std::mem::take(&mut self.units)
    }

    /// Nothing of this GOP is of use any more.
    pub(super) fn close(&mut self, report: &mut Report) {
        self.clear(report);
        self.is_closed = true;
    }

    fn clear(&mut self, report: &mut Report) {
        self.bytes = 0;
        for (queued, reason) in self.units.drain(..) {
            report.drop_unit(&queued.ticket, reason);
        }
    }
}

/// A GOP of 4 s at 8 Mbit/s: what is more would be no quicker than the next keyframe.
pub(super) const SHELF_BYTES_MAX: usize = 4 * 1024 * 1024;

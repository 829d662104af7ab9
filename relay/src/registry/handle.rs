//! What the registry hands out: the right to deliver, and a place among the listeners. Dropping one gives it back.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use firstmile_shared::{
    clock,
    media::AccessUnit,
    tunnel::control::{ShowFormat, TrackReport},
};
use tracing::info;

use super::{
    Ending, Registry, SessionInfo,
    feed::{Closing, Feed},
    lock,
};
use crate::auth::Grant;

/// The right to deliver. Dropping it ends the feed.
#[derive(Debug)]
pub struct Publication {
    pub(super) registry: Registry,
    pub(super) grant: Grant,
    pub(super) line: String,
    pub(super) feed: Arc<Mutex<Feed>>,
    pub(super) number: u32,
    pub(super) closing: Closing,
    pub(super) is_ended: bool,
}

impl Publication {
    /// Numbers and dates a unit and hands it to every connected connector; never waits. While the publisher is held
    /// the unit is thrown away.
    pub fn deliver(&mut self, unit: AccessUnit, now_us: i64) {
        lock(&self.feed).deliver(self.number, unit, now_us);
    }

    /// Notes the name that the encoder's metadata gives it, for the lists. A takeover still goes by the name that it
    /// came with.
    pub fn describe(&self, encoder: String) {
        lock(&self.feed).describe(self.number, encoder);
    }

    /// Notes what the encoder sends, for the lists and the connectors.
    pub fn set_tracks(&self, tracks: Vec<TrackReport>) {
        lock(&self.feed).set_tracks(self.number, tracks);
    }

    /// Ends the feed with a clause for the operator: "the encoder's network was lost".
    pub fn end(mut self, reason: &str) {
        self.finish(reason);
    }

    /// Resolves when the publisher must go: its socket is to be closed.
    pub async fn replaced(&self) -> Ending {
        self.closing.ordered().await
    }

    /// Resolves when the publisher is to be asked to leave and to connect again.
    pub async fn asked_to_leave(&self) {
        self.closing.asked_to_leave().await;
    }

    /// The studio and the names of the lines, for the log.
    pub fn labels(&self) -> (&str, &str) {
        (&self.grant.studio, &self.line)
    }

    fn finish(&mut self, reason: &str) {
        if std::mem::replace(&mut self.is_ended, true) {
            return;
        }
        self.registry.end(&self.grant, self.number, reason);
        let (studio, line) = self.labels();
        self.registry.shared.metrics.publishers(studio, -1);
        info!(studio, line, reason, "publisher gone");
    }
}

impl Drop for Publication {
    fn drop(&mut self) {
        self.finish("the encoder left");
    }
}

/// A connected session in the registry. Dropping it takes the session out.
#[derive(Debug)]
pub struct Subscription {
    pub(super) registry: Registry,
    pub(super) studio: String,
    pub(super) id: u64,
}

impl Subscription {
    /// Its number, for the one that follows it.
    pub const fn id(&self) -> u64 {
        self.id
    }

    /// What the lists show of the session.
    pub fn describe(&self, info: SessionInfo) {
        if let Some(session) = self.registry.table().subscriptions.get_mut(&self.id) {
            session.info = info;
        }
    }

    /// The latest round trip, milliseconds, and the present address (a modem may have changed it).
    pub fn measured(&self, rtt_ms: Option<f64>, peer: SocketAddr) {
        if let Some(session) = self.registry.table().subscriptions.get_mut(&self.id) {
            session.info.rtt_ms = rtt_ms;
            session.info.peer = Some(peer);
        }
    }
}

impl Subscription {
    /// Which of the session's lines a receiver has on program, all others being off.
    pub fn tally(&self, program: BTreeSet<u32>) {
        let mut table = self.registry.table();
        if let Some(session) = table.subscriptions.get_mut(&self.id)
            && session.program != program
        {
            session.program = program;
            self.registry.refresh(&table, &self.studio);
        }
    }

    /// What the feeds of the session's studio should be like.
    pub fn show(&self, format: ShowFormat) {
        let mut table = self.registry.table();
        if let Some(session) = table.subscriptions.get_mut(&self.id)
            && session.show != Some(format)
        {
            session.show = Some(format);
            self.registry.refresh(&table, &self.studio);
        }
    }

    /// The operator gives a line to a publisher, or lets one that was refused try again. `false`: there is none.
    pub fn take(&self, line: u32, publisher: u32) -> bool {
        let take = |feed: &mut Feed| feed.take(publisher, clock::now_us());
        self.registry.with_feed(self.id, line, take) == Some(true)
    }

    /// The operator wants the publisher that has the line to start anew. `false`: nobody has it.
    pub fn resync(&self, line: u32) -> bool {
        let resync = |feed: &mut Feed| feed.resync(clock::now_us());
        self.registry.with_feed(self.id, line, resync) == Some(true)
    }

    /// The operator does not want a publisher. `false`: there is none.
    pub fn refuse(&self, line: u32, publisher: u32) -> bool {
        let refuse = |feed: &mut Feed| feed.refuse(publisher, clock::now_us(), clock::unix_now());
        self.registry.with_feed(self.id, line, refuse) == Some(true)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut table = self.registry.table();
        table.subscriptions.remove(&self.id);
        self.registry.refresh(&table, &self.studio);
        drop(table);
        self.registry.shared.metrics.connectors(&self.studio, -1);
    }
}

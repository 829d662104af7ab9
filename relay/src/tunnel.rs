//! The tunnel's relay end: connectors dial in, prove who they are, declare their lines and get their feeds.

mod outbox;

use std::fmt;

use firstmile_shared::{tls::Spki, tunnel::scheduler::Totals};

pub use self::outbox::Outbox;
pub use crate::registry::FeedStart;

/// Where the feeds of a studio's lines come from: the registry.
pub trait Feeds: fmt::Debug + Send + Sync + 'static {
    /// From now until the answer is dropped, `outbox` gets the feeds of the lines that this connector declared;
    /// those that are live are announced at once. The lines are the directory's, also when they change.
    fn subscribe(
        &self,
        studio: &str,
        connector: Spki,
        outbox: std::sync::Arc<Outbox>,
    ) -> Subscription;
}

/// Ends a subscription when dropped.
pub type Subscription = Box<dyn std::any::Any + Send>;

/// What the tunnel measures; the program's metrics implement it.
pub trait Observer: fmt::Debug + Send + Sync + 'static {
    /// A unit left for the network, this long after the relay had it whole, microseconds.
    fn unit_sent(&self, wait_us: i64);
    /// Units were dropped since the last call.
    fn units_dropped(&self, dropped: Totals);
}

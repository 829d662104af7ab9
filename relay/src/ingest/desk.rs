//! Where a protocol asks who may publish, and says whom it turned away.

use std::{
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time;
use tracing::warn;

use crate::{
    metrics::{Metrics, Refused},
    registry::{Publication, PublishRequest, Refusal, Registry},
};

/// Admits publishers. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Desk {
    registry: Registry,
    metrics: Arc<Metrics>,
    refusals: Arc<Mutex<Refusals>>,
}

/// Refusals not yet logged. A flood of them must not become a flood of log lines.
#[derive(Debug, Default)]
struct Refusals {
    count: u64,
    last: Option<(SocketAddr, String)>,
}

impl Desk {
    /// A desk in front of `registry`.
    pub fn new(registry: Registry, metrics: Arc<Metrics>) -> Self {
        Self {
            registry,
            metrics,
            refusals: Arc::default(),
        }
    }

    /// Lets a publisher in or not. A wrong key and a studio that is not there are both answered after
    /// [`WRONG_KEY_DELAY`]: neither what the answer is nor how long it takes tells them apart. The key that counts is
    /// the one after that delay: most encoders stop for good at this answer, and the line may just be on its way here.
    pub async fn admit(&self, request: PublishRequest) -> Result<Publication, Refusal> {
        let peer = request.peer;
        if !self.registry.knows(&request.studio, &request.key) {
            time::sleep(WRONG_KEY_DELAY).await;
        }
        let answer = self.registry.publish(request);
        if let Err(refusal) = answer {
            self.note(peer, refusal);
        }
        answer
    }

    /// Counts somebody who never got as far as a key. `why` is a clause of ours, not the peer's text.
    pub fn turned_away(&self, reason: Refused, peer: SocketAddr, why: impl fmt::Display) {
        self.metrics.refused(reason);
        self.note(peer, why);
    }

    /// What the relay measures.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Logs refusals, at most once a second, for ever.
    pub async fn report_refusals(&self) {
        let mut tick = time::interval(Duration::from_secs(1));
        tick.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let refusals = std::mem::take(&mut *self.refusals());
            if let Some((peer, why)) = refusals.last {
                warn!(refused = refusals.count, %peer, why, "encoders turned away; the last one");
            }
        }
    }

    fn note(&self, peer: SocketAddr, why: impl fmt::Display) {
        let mut refusals = self.refusals();
        refusals.count = refusals.count.saturating_add(1);
        refusals.last = Some((peer, why.to_string()));
    }

    fn refusals(&self) -> std::sync::MutexGuard<'_, Refusals> {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Long enough that guessing keys is hopeless, short enough that a typing error is told while the person looks.
pub const WRONG_KEY_DELAY: Duration = Duration::from_secs(1);

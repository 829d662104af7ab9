//! Where a protocol asks who may publish, and says whom it turned away.

use std::{
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use firstmile_shared::clock;
use tokio::time;
use tracing::warn;

use super::wrong_keys::WrongKeys;
use crate::{
    address::network_of,
    config::LimitsConfig,
    metrics::{Metrics, Refused},
    registry::{Publication, PublishRequest, Refusal, Registry},
};

/// Admits publishers. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Desk {
    registry: Registry,
    metrics: Arc<Metrics>,
    wrong_keys: Arc<Mutex<WrongKeys>>,
    refusals: Arc<Mutex<BTreeMap<Refused, Refusals>>>,
    /// Whoever reports holds it.
    reporter: Arc<tokio::sync::Mutex<()>>,
}

/// Refusals for one reason that are not yet logged. A flood of them must not become a flood of log lines.
#[derive(Debug)]
struct Refusals {
    count: u64,
    last: (SocketAddr, String),
}

impl Desk {
    /// A desk in front of `registry`, with the limits that the program has by default.
    pub fn new(registry: Registry, metrics: Arc<Metrics>) -> Self {
        Self::with_limits(registry, metrics, &LimitsConfig::default())
    }

    /// Likewise, with other limits.
    pub fn with_limits(registry: Registry, metrics: Arc<Metrics>, limits: &LimitsConfig) -> Self {
        let wrong_keys = WrongKeys::new(limits.wrong_key_delay.0, limits.wrong_key_delay_max.0);
        Self {
            registry,
            metrics,
            wrong_keys: Arc::new(Mutex::new(wrong_keys)),
            refusals: Arc::default(),
            reporter: Arc::default(),
        }
    }

    /// Lets a publisher in or not. The right key is let in at once, whatever its address did before. A wrong key and a
    /// studio that is not there are both answered after the same time, see [`WrongKeys`]: neither what the answer is nor
    /// how long it takes tells them apart. The key that counts is the one after that delay: most encoders stop for good
    /// at this answer, and the line may just be on its way here. `when_wrong` is called before the delay begins.
    pub async fn admit(
        &self,
        request: PublishRequest,
        when_wrong: impl FnOnce() + Send,
    ) -> Result<Publication, Refusal> {
        let peer = request.peer;
        if !self.registry.knows(&request.studio, &request.key) {
            when_wrong();
            let delay = lock(&self.wrong_keys).came(network_of(peer.ip()), clock::now_us());
            // So that guessing is slow, and an unknown studio can't be told from a wrong key.
            time::sleep(delay).await;
        }
        let answer = self.registry.publish(request);
        if let Err(refusal) = answer {
            self.note(refusal.counted_as(), peer, refusal);
        }
        answer
    }

    /// Counts somebody who never got as far as a key. `why` is a clause of ours, not the peer's text.
    pub fn turned_away(&self, reason: Refused, peer: SocketAddr, why: impl fmt::Display) {
        self.metrics.refused(reason);
        self.note(reason, peer, why);
    }

    /// What the relay measures.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Logs refusals, for each reason at most once a second, for ever. Of several listeners at one desk one does it.
    pub async fn report_refusals(&self) {
        let _turn = self.reporter.lock().await;
        let mut tick = time::interval(Duration::from_secs(1));
        tick.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            for (reason, refusals) in std::mem::take(&mut *lock(&self.refusals)) {
                let (peer, why) = refusals.last;
                let (reason, refused) = (reason.label(), refusals.count);
                warn!(
                    reason,
                    refused, "an encoder at {peer} was turned away: {why}"
                );
            }
        }
    }

    fn note(&self, reason: Refused, peer: SocketAddr, why: impl fmt::Display) {
        let mut refusals = lock(&self.refusals);
        let last = (peer, why.to_string());
        let count = refusals.get(&reason).map_or(0, |refusals| refusals.count);
        let count = count.saturating_add(1);
        refusals.insert(reason, Refusals { count, last });
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

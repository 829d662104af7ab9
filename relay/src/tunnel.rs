//! The tunnel's relay end: connectors dial in, prove who they are, declare their lines and get their feeds.
//!
//! [`Tunnel::serve`] owns the endpoint and every session's task; all are joined before it returns. A stranger costs
//! at most what [`admission`] allows and 5 s; a session ends when its connector is revoked, replaced by a newer
//! connection of itself, silent, or broken.
//!
//! Not here: which feed goes to whom ([`crate::registry`]), and the wire formats ([`firstmile_shared::tunnel`]).

mod admission;
mod greeting;
mod outbox;
mod sender;
mod session;

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use firstmile_shared::{
    tls::Spki,
    tunnel::{close::Close, control::IngestAddresses, scheduler},
};
use quinn::{Connection, Endpoint, Incoming, VarInt};
use tokio::{task::JoinSet, time};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, info, info_span};

use self::admission::{Admission, Decision};
pub use self::outbox::Outbox;
use crate::{
    address::canonical,
    auth::Directory,
    metrics::{Listener, Metrics, Refused},
    registry::Registry,
};

/// What sessions are made of. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Tunnel {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    directory: Directory,
    registry: Registry,
    metrics: Arc<Metrics>,
    ingest: IngestAddresses,
    queue: scheduler::Limits,
    admission: Mutex<Admission>,
    /// The one session of each connector.
    sessions: Mutex<HashMap<Spki, Connection>>,
}

impl Tunnel {
    /// `ingest`: where encoders find this relay, as connectors are told. `queue`: what may wait for each connector.
    pub fn new(
        directory: Directory,
        registry: Registry,
        metrics: Arc<Metrics>,
        ingest: IngestAddresses,
        queue: scheduler::Limits,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                directory,
                registry,
                metrics,
                ingest,
                queue,
                admission: Mutex::default(),
                sessions: Mutex::default(),
            }),
        }
    }

    /// Accepts connectors until `shutdown`; then every session says goodbye. See
    /// [`firstmile_shared::quic::listen`] for the endpoint.
    pub async fn serve(
        &self,
        endpoint: Endpoint,
        shutdown: CancellationToken,
    ) -> anyhow::Result<()> {
        let mut sessions = JoinSet::new();
        loop {
            let incoming = tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                incoming = endpoint.accept() => incoming,
                // A session that panicked took nothing with it but itself.
                Some(ended) = sessions.join_next() => {
                    if let Err(error) = ended {
                        tracing::error!(%error, "a session broke");
                    }
                    continue;
                }
            };
            let Some(incoming) = incoming else {
                anyhow::bail!("the tunnel's socket is gone");
            };
            if let Some(stranger) = self.judge(incoming) {
                let tunnel = self.clone();
                let peer = canonical(stranger.incoming.remote_address());
                let span = info_span!("connector", %peer);
                let shutdown = shutdown.clone();
                sessions.spawn(
                    async move { session::run(&tunnel.shared, stranger, shutdown).await }
                        .instrument(span),
                );
            }
        }
        let goodbye = async { while sessions.join_next().await.is_some() {} };
        if time::timeout(GOODBYE_TIMEOUT, goodbye).await.is_err() {
            sessions.shutdown().await;
        }
        close_endpoint(&endpoint).await;
        Ok(())
    }

    /// Lets a stranger in, asks it for a proof of its address, or sends it away.
    fn judge(&self, incoming: Incoming) -> Option<Stranger> {
        let address = incoming.remote_address().ip();
        let is_validated = incoming.remote_address_validated();
        match lock(&self.shared.admission).enter(address, is_validated) {
            Decision::Admit => Some(Stranger {
                incoming,
                place: Place {
                    shared: self.shared.clone(),
                    address,
                },
            }),
            Decision::Retry => {
                // Fails only for one that is validated.
                let _ = incoming.retry();
                None
            }
            Decision::Refuse => {
                debug!(%address, "too many handshakes");
                self.shared.metrics.refused(Refused::Full);
                incoming.refuse();
                None
            }
        }
    }
}

/// Somebody at the door, with a place among those who are looked at.
struct Stranger {
    incoming: Incoming,
    place: Place,
}

/// A place at the door; free again when dropped.
struct Place {
    shared: Arc<Shared>,
    address: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.shared.admission).leave(self.address);
    }
}

/// A connector's place at the table: one each.
struct Seat<'a> {
    shared: &'a Shared,
    spki: Spki,
    id: usize,
}

impl<'a> Seat<'a> {
    /// Takes the place; an older connection of the same connector is closed.
    fn take(shared: &'a Shared, spki: Spki, connection: &Connection) -> Self {
        let id = connection.stable_id();
        let before = lock(&shared.sessions).insert(spki, connection.clone());
        if let Some(before) = before {
            info!("replaces an older connection of the same connector");
            close(&before, Close::Replaced);
        }
        Self { shared, spki, id }
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        let mut sessions = lock(&self.shared.sessions);
        if sessions
            .get(&self.spki)
            .is_some_and(|now| now.stable_id() == self.id)
        {
            sessions.remove(&self.spki);
        }
    }
}

fn close(connection: &Connection, close: Close) {
    connection.close(VarInt::from_u32(close.code()), close.sentence().as_bytes());
}

async fn close_endpoint(endpoint: &Endpoint) {
    let bye = Close::Bye;
    endpoint.close(VarInt::from_u32(bye.code()), bye.sentence().as_bytes());
    let _ = time::timeout(GOODBYE_TIMEOUT, endpoint.wait_idle()).await;
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// For sessions to flush and say goodbye, within the grace period of the program.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;

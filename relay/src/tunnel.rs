//! The tunnel's relay end: connectors dial in, prove who they are, declare their lines and get their feeds.
//!
//! [`Tunnel::serve`] owns the endpoint and every session's task; all are joined before it returns. A stranger costs
//! at most what [`admission`] allows and 5 s; a session ends when its connector is revoked, replaced by a newer
//! connection of itself, silent, or broken.
//!
//! Not here: which feed goes to whom ([`crate::registry`]), and the wire formats ([`firstmile_shared::tunnel`]).

mod admission;
mod greeting;
mod link;
mod outbox;
mod sender;
mod session;
mod words;

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use firstmile_shared::{
    tcp::Acceptor,
    tls::Spki,
    tunnel::{close::Close, control::IngestAddresses, scheduler},
};
use quinn::{Endpoint, Incoming, VarInt};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time,
};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, info, info_span};

pub use self::outbox::Outbox;
use self::{
    admission::{Admission, Decision},
    link::Link,
};
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
    acceptor: Acceptor,
    admission: Mutex<Admission>,
    /// The one session of each connector.
    sessions: Mutex<HashMap<Spki, Link>>,
}

impl Tunnel {
    /// `ingest`: where encoders find this relay, as connectors are told. `queue`: what may wait for each connector.
    /// `acceptor`: for those that come over TCP.
    pub fn new(
        directory: Directory,
        registry: Registry,
        metrics: Arc<Metrics>,
        ingest: IngestAddresses,
        queue: scheduler::Limits,
        acceptor: Acceptor,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                directory,
                registry,
                metrics,
                ingest,
                queue,
                acceptor,
                admission: Mutex::default(),
                sessions: Mutex::default(),
            }),
        }
    }

    /// Accepts connectors until `shutdown`; then every session says goodbye. See
    /// [`firstmile_shared::quic::listen`] for the endpoint; `fallback` is for those whom UDP does not reach.
    pub async fn serve(
        &self,
        endpoint: Endpoint,
        fallback: Option<TcpListener>,
        shutdown: CancellationToken,
    ) -> anyhow::Result<()> {
        let mut sessions = JoinSet::new();
        loop {
            let stranger = tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                incoming = endpoint.accept() => {
                    let Some(incoming) = incoming else {
                        anyhow::bail!("the tunnel's socket is gone");
                    };
                    self.judge(incoming)
                }
                (socket, peer) = accept(fallback.as_ref()) => self.judge_tcp(socket, peer),
                // A session that panicked took nothing with it but itself.
                Some(ended) = sessions.join_next() => {
                    if let Err(error) = ended {
                        tracing::error!(%error, "a session broke");
                    }
                    continue;
                }
            };
            if let Some(stranger) = stranger {
                let tunnel = self.clone();
                let peer = stranger.place.peer;
                let span = info_span!("connector", %peer);
                let shutdown = shutdown.clone();
                sessions.spawn(
                    async move { session::run(&tunnel.shared, stranger, shutdown).await }
                        .instrument(span),
                );
            }
        }
        drop(fallback);
        let goodbye = async { while sessions.join_next().await.is_some() {} };
        if time::timeout(GOODBYE_TIMEOUT, goodbye).await.is_err() {
            sessions.shutdown().await;
        }
        close_endpoint(&endpoint).await;
        Ok(())
    }

    /// Lets a stranger in, asks it for a proof of its address, or sends it away.
    fn judge(&self, incoming: Incoming) -> Option<Stranger> {
        let peer = canonical(incoming.remote_address());
        let is_validated = incoming.remote_address_validated();
        match self.enter(peer, is_validated) {
            Decision::Admit => Some(self.admit(Door::Quic(incoming), peer)),
            Decision::Retry => {
                // Fails only for one that is validated.
                let _ = incoming.retry();
                None
            }
            Decision::Refuse => {
                incoming.refuse();
                None
            }
        }
    }

    /// Likewise; whoever has a TCP connection has proved its address.
    fn judge_tcp(&self, socket: TcpStream, peer: SocketAddr) -> Option<Stranger> {
        let peer = canonical(peer);
        (self.enter(peer, true) == Decision::Admit).then(|| self.admit(Door::Tcp(socket), peer))
    }

    fn enter(&self, peer: SocketAddr, is_validated: bool) -> Decision {
        let decision = lock(&self.shared.admission).enter(peer.ip(), is_validated);
        if decision == Decision::Refuse {
            debug!(%peer, "too many handshakes");
            self.shared.metrics.refused(Refused::Full);
        }
        decision
    }

    fn admit(&self, door: Door, peer: SocketAddr) -> Stranger {
        Stranger {
            door,
            place: Place {
                shared: self.shared.clone(),
                peer,
            },
        }
    }
}

/// The next connection; waits for ever without a listener.
async fn accept(listener: Option<&TcpListener>) -> (TcpStream, SocketAddr) {
    let Some(listener) = listener else {
        return std::future::pending().await;
    };
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            // One that left before it was accepted, or no file handles: others will go.
            Err(error) => {
                debug!(%error, "a TCP connection was not accepted");
                time::sleep(ACCEPT_AGAIN).await;
            }
        }
    }
}

/// Somebody at the door, with a place among those who are looked at.
struct Stranger {
    door: Door,
    place: Place,
}

/// How it came.
enum Door {
    Quic(Incoming),
    Tcp(TcpStream),
}

/// A place at the door; free again when dropped.
struct Place {
    shared: Arc<Shared>,
    peer: SocketAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.shared.admission).leave(self.peer.ip());
    }
}

/// A connector's place at the table: one each.
struct Seat<'a> {
    shared: &'a Shared,
    spki: Spki,
    link: &'a Link,
}

impl<'a> Seat<'a> {
    /// Takes the place; an older connection of the same connector is closed.
    fn take(shared: &'a Shared, spki: Spki, link: &'a Link) -> Self {
        let before = lock(&shared.sessions).insert(spki, link.clone());
        if let Some(before) = before {
            info!("replaces an older connection of the same connector");
            before.close(Close::Replaced);
        }
        Self { shared, spki, link }
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        let mut sessions = lock(&self.shared.sessions);
        if sessions
            .get(&self.spki)
            .is_some_and(|now| now.is_same(self.link))
        {
            sessions.remove(&self.spki);
        }
    }
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

const ACCEPT_AGAIN: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests;

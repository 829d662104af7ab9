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
    /// The one session of each connector; one that hands its feeds over is not there any more.
    sessions: Mutex<HashMap<Spki, Seated>>,
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
    /// [`firstmile_shared::quic::listen`] for the endpoint; `doors` are for those whom UDP does not reach.
    pub async fn serve(
        &self,
        endpoint: Endpoint,
        doors: Doors,
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
                (socket, peer) = accept(doors.own.as_ref()) => self.judge_tcp(socket, peer),
                (socket, peer) = accept(doors.https.as_ref()) => self.judge_tcp(socket, peer),
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
        drop(doors);
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

/// Where connectors may come over TCP.
#[derive(Debug, Default)]
pub struct Doors {
    /// The tunnel's own port.
    pub own: Option<TcpListener>,
    /// The port of HTTPS, which few networks block; the tunnel is told apart by ALPN.
    pub https: Option<TcpListener>,
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
                // Nothing tells when a handle is free, and the error comes back at once until then.
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
#[expect(
    clippy::large_enum_variant,
    reason = "there is one of them at a time for each peer, on its way to its task"
)]
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

/// Who has a connector's place at the table.
#[derive(Debug)]
struct Seated {
    link: Link,
    /// Of the connector's program.
    run: u64,
    /// In the registry.
    subscription: Option<u64>,
    /// Cancelled when another connection of the same run follows.
    followed: CancellationToken,
}

/// A connector's place at the table: one each.
struct Seat<'a> {
    shared: &'a Shared,
    spki: Spki,
    link: &'a Link,
    /// The one before stays until its feeds have moved over: its subscription.
    predecessor: Option<u64>,
    followed: CancellationToken,
}

impl<'a> Seat<'a> {
    /// Takes the place. An older connection of the same connector is closed; if it is of the same run of the same program
    /// and `handover` is asked for, it stays until its feeds have moved.
    fn take(shared: &'a Shared, spki: Spki, link: &'a Link, run: u64, handover: bool) -> Self {
        let followed = CancellationToken::new();
        let seated = Seated {
            link: link.clone(),
            run,
            subscription: None,
            followed: followed.clone(),
        };
        let before = lock(&shared.sessions).insert(spki, seated);
        let mut predecessor = None;
        if let Some(before) = before {
            // A copied identity is another run: two programs with one key must not share feeds.
            if handover && before.run == run && before.subscription.is_some() {
                info!("follows an older connection of the same connector");
                predecessor = before.subscription;
                before.followed.cancel();
            } else {
                info!("replaces an older connection of the same connector");
                before.link.close(Close::Replaced);
            }
        }
        Self {
            shared,
            spki,
            link,
            predecessor,
            followed,
        }
    }

    fn set_subscription(&self, id: u64) {
        if let Some(seated) = lock(&self.shared.sessions).get_mut(&self.spki)
            && seated.link.is_same(self.link)
        {
            seated.subscription = Some(id);
        }
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        let mut sessions = lock(&self.shared.sessions);
        if sessions
            .get(&self.spki)
            .is_some_and(|now| now.link.is_same(self.link))
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

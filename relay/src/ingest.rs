//! How feeds come in: the seam that every protocol stands on, and the accept loop of RTMP.
//!
//! A protocol is an [`Ingest`]: it owns its sockets, turns what they carry into access units, and asks the [`Desk`]
//! who may publish. It never touches the registry's inside, the scheduler or the tunnel. RTMP's bytes are understood
//! in [`crate::rtmp`]; this module and [`publisher`] are the sockets, deadlines and limits around it.
//!
//! Who can make us hold what: [`connections`] bounds connections in all and per address, [`crate::rtmp::session`]
//! the bytes of each before its key is known. When all places are taken, the oldest connection without a key gives
//! its place up, so strangers can't keep an encoder with the right key out.

pub mod connections;
pub mod desk;
pub mod mistake;
pub mod pace;
pub mod proxy;
pub mod publisher;
pub mod tls;
pub mod wrong_keys;

use std::{future::Future, io, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context;
use firstmile_shared::{clock, net, supervisor};
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument, debug, debug_span, info, warn};

pub use self::{connections::Connections, desk::Desk, mistake::Ports, tls::Tls};
use self::{
    connections::Place,
    mistake::{Mistake, Spoken},
    proxy::ProxyError,
    publisher::Publisher,
};
use crate::{
    address::canonical,
    config::{LimitsConfig, Network, Span},
    metrics::{Listener, Refused},
    rtmp::session::{self, Session},
};

/// A protocol by which encoders deliver their feeds.
pub trait Ingest: Send + 'static {
    /// As in `PublishRequest::protocol`, in lists and logs.
    const PROTOCOL: &'static str;

    /// Serves encoders until `shutdown`; then lets them go, and returns when all are gone.
    fn run(
        self,
        desk: Desk,
        shutdown: CancellationToken,
    ) -> impl Future<Output = anyhow::Result<()>> + Send;
}

/// What one listener serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections in all; at the limit nobody is accepted until there is a place.
    pub connections: usize,
    /// Connections of one address (IPv6: of one /64); more are closed at once.
    pub connections_per_address: usize,
    /// From a connection to a publish.
    pub handshake_timeout: Duration,
    /// How long an encoder's network may be silent.
    pub idle_timeout: Duration,
    /// Bytes before a publish is accepted.
    pub unauthenticated_bytes: usize,
    /// Bytes of one message of a publish.
    pub message_bytes: usize,
    /// Bytes a second of one publisher.
    pub bytes_per_second: u64,
}

impl From<&LimitsConfig> for Limits {
    fn from(config: &LimitsConfig) -> Self {
        Self {
            connections: config.rtmp_connections.get(),
            connections_per_address: config.rtmp_connections_per_address.get(),
            handshake_timeout: config.handshake_timeout.0,
            idle_timeout: config.idle_timeout.0,
            unauthenticated_bytes: config.unauthenticated_bytes.get(),
            message_bytes: config.message_bytes.get(),
            bytes_per_second: config.publisher_bitrate.bytes_per_second(),
        }
    }
}

/// RTMP over plain TCP.
#[derive(Debug)]
pub struct RtmpIngest {
    listener: TcpListener,
    limits: Limits,
    connections: Connections,
    ports: Ports,
    proxies: Arc<[Network]>,
}

/// RTMP over TLS.
#[derive(Debug)]
pub struct RtmpsIngest {
    plain: RtmpIngest,
    tls: Tls,
}

/// By which way encoders come in.
#[derive(Clone, Debug)]
struct Door {
    listener: Listener,
    /// As in `PublishRequest::protocol`.
    protocol: &'static str,
    limits: Limits,
    ports: Ports,
    proxies: Arc<[Network]>,
    tls: Option<Tls>,
}

impl RtmpIngest {
    /// Serves the encoders that connect to `listener`. Must be called inside a runtime.
    pub fn new(listener: std::net::TcpListener, limits: Limits) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let ports = Ports {
            rtmp: Some(listener.local_addr()?.port()),
            rtmps: None,
        };
        Ok(Self {
            listener,
            limits,
            connections: Connections::new(limits.connections, limits.connections_per_address),
            ports,
            proxies: Arc::default(),
        })
    }

    /// Takes its places from those of another listener.
    #[must_use]
    pub fn sharing(self, connections: &Connections) -> Self {
        Self {
            connections: connections.clone(),
            ..self
        }
    }

    /// Tells those who are wrong here where to go.
    #[must_use]
    pub fn with_ports(self, ports: Ports) -> Self {
        Self { ports, ..self }
    }

    /// Expects a PROXY protocol header of whoever comes from one of these networks.
    #[must_use]
    pub fn behind(self, proxies: &[Network]) -> Self {
        Self {
            proxies: proxies.into(),
            ..self
        }
    }

    /// Likewise, with TLS around it.
    pub fn secured(self, tls: Tls) -> RtmpsIngest {
        RtmpsIngest { plain: self, tls }
    }

    /// The places of its connections.
    pub fn connections(&self) -> &Connections {
        &self.connections
    }

    /// Where encoders connect, as really bound.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl Ingest for RtmpIngest {
    const PROTOCOL: &'static str = "rtmp";

    async fn run(self, desk: Desk, shutdown: CancellationToken) -> anyhow::Result<()> {
        let address = self.local_addr().context("the RTMP listener")?;
        info!(%address, "taking RTMP");
        let reports = shutdown.run_until_cancelled(desk.report_refusals());
        let serve = self.serve(Listener::Rtmp, Self::PROTOCOL, None, &desk, &shutdown);
        let _ = tokio::join!(reports, serve);
        Ok(())
    }
}

impl Ingest for RtmpsIngest {
    const PROTOCOL: &'static str = "rtmps";

    async fn run(self, desk: Desk, shutdown: CancellationToken) -> anyhow::Result<()> {
        let address = self.plain.local_addr().context("the RTMPS listener")?;
        info!(%address, "taking RTMPS");
        self.tls.tell();
        let reports = shutdown.run_until_cancelled(desk.report_refusals());
        let tls = self.tls.clone();
        let follows = shutdown.run_until_cancelled(tls.follow_files());
        let (door, tls) = (Listener::Rtmps, Some(self.tls));
        let serve = (self.plain).serve(door, Self::PROTOCOL, tls, &desk, &shutdown);
        let _ = tokio::join!(reports, follows, serve);
        Ok(())
    }
}

impl RtmpIngest {
    /// Until `shutdown`, and until the last one has gone then.
    async fn serve(
        self,
        listener: Listener,
        protocol: &'static str,
        tls: Option<Tls>,
        desk: &Desk,
        shutdown: &CancellationToken,
    ) {
        let door = Door {
            listener,
            protocol,
            limits: self.limits,
            ports: self.ports,
            proxies: self.proxies.clone(),
            tls,
        };
        let publishers = TaskTracker::new();
        let accepts = self.accept_all(&door, desk, &publishers, shutdown);
        let _ = shutdown.run_until_cancelled(accepts).await;
        drop(self);
        publishers.close();
        publishers.wait().await;
    }

    async fn accept_all(
        &self,
        door: &Door,
        desk: &Desk,
        publishers: &TaskTracker,
        shutdown: &CancellationToken,
    ) {
        loop {
            self.connections.wait_for_place().await;
            let (socket, peer) = self.accept().await;
            let place = if door.is_proxy(peer) {
                self.connections.enter_unnamed()
            } else if let Some(place) = self.connections.enter(peer.ip()) {
                place
            } else {
                desk.turned_away(Refused::Full, peer, TOO_MANY);
                continue;
            };
            if let Err(error) = net::watch_peer(&SockRef::from(&socket), self.limits.idle_timeout) {
                // It has hung up already.
                debug!(%peer, %error, "a new connection can not be set up");
                continue;
            }
            let serve = door
                .clone()
                .serve(socket, peer, place, desk.clone(), shutdown.clone());
            publishers.spawn(serve.instrument(debug_span!("encoder", %peer)));
        }
    }

    async fn accept(&self) -> (TcpStream, SocketAddr) {
        let mut retry_in = ACCEPT_RETRY_MIN;
        loop {
            match self.listener.accept().await {
                Ok((socket, peer)) => return (socket, canonical(peer)),
                // EMFILE, ECONNABORTED: ours or the peer's passing trouble, not the listener's end.
                Err(error) => {
                    warn!(%error, ?retry_in, "accepting an encoder failed");
                    time::sleep(retry_in).await;
                    retry_in = (retry_in * 2).min(ACCEPT_RETRY_MAX);
                }
            }
        }
    }
}

/// Why somebody was turned away before RTMP began.
struct TurnedAway {
    /// `None`: it has left, and nobody needs to know.
    reason: Option<Refused>,
    why: String,
}

impl TurnedAway {
    fn new(reason: Refused, why: impl Into<String>) -> Self {
        Self {
            reason: Some(reason),
            why: why.into(),
        }
    }

    const fn quietly() -> Self {
        Self {
            reason: None,
            why: String::new(),
        }
    }

    fn tell(self, desk: &Desk, peer: SocketAddr) {
        if let Some(reason) = self.reason {
            desk.turned_away(reason, peer, self.why);
        }
    }
}

impl Door {
    /// Whether it has to say whom it brings.
    fn is_proxy(&self, peer: SocketAddr) -> bool {
        (self.proxies.iter()).any(|network| network.contains(peer.ip()))
    }

    /// One connection, from its first byte to its last.
    async fn serve(
        self,
        mut socket: TcpStream,
        mut peer: SocketAddr,
        mut place: Place,
        desk: Desk,
        shutdown: CancellationToken,
    ) {
        let _open = desk.metrics().connection(self.listener);
        let session = self.session();
        let must_go = place.must_go();
        let deadline = time::Instant::now() + self.limits.handshake_timeout;
        let before = async {
            if self.is_proxy(peer) {
                if let Some(named) = read_proxy_header(&mut socket).await? {
                    peer = named;
                }
                if !place.belongs_to(peer.ip()) {
                    return Err(TurnedAway::new(Refused::Full, TOO_MANY));
                }
            }
            match &self.tls {
                Some(_) => self.expect_tls(&socket).await,
                None => Ok(()),
            }
        };
        let outcome = tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            () = must_go.cancelled() => Err(TurnedAway::new(Refused::Full, MADE_ROOM)),
            outcome = time::timeout_at(deadline, before) => {
                outcome.unwrap_or_else(|_| Err(self.too_slow()))
            }
        };
        if let Err(turned_away) = outcome {
            turned_away.tell(&desk, peer);
            return let_go(&mut socket, &place).await;
        }
        let Some(tls) = &self.tls else {
            let publisher = Publisher::new(socket, peer, &self, session, place, desk);
            return publisher.run(&shutdown).await;
        };
        let outcome = tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            () = must_go.cancelled() => Err(TurnedAway::new(Refused::Full, MADE_ROOM)),
            outcome = time::timeout_at(deadline, tls.accept(socket)) => match outcome {
                Ok(Ok(stream)) => Ok(stream),
                Ok(Err(why)) => Err(TurnedAway::new(Refused::Tls, why)),
                Err(_) => Err(self.too_slow()),
            },
        };
        match outcome {
            Ok(stream) => {
                let publisher = Publisher::new(stream, peer, &self, session, place, desk);
                publisher.run(&shutdown).await;
            }
            Err(turned_away) => turned_away.tell(&desk, peer),
        }
    }

    fn session(&self) -> Session {
        let within_us = self.limits.handshake_timeout.as_micros();
        let limits = session::Limits {
            publish_within_us: i64::try_from(within_us).unwrap_or(i64::MAX),
            unauthenticated_len: self.limits.unauthenticated_bytes,
            message_len: self.limits.message_bytes,
        };
        Session::with_limits(clock::now_us(), limits, supervisor::random().into())
    }

    fn too_slow(&self) -> TurnedAway {
        let within = Span(self.limits.handshake_timeout);
        TurnedAway::new(
            Refused::TooSlow,
            format!("no publish within {within} (limits.handshake_timeout)"),
        )
    }

    /// Looks at the first bytes, and leaves them where they are: TLS has words of its own for what it can't read, and
    /// they help nobody.
    async fn expect_tls(&self, socket: &TcpStream) -> Result<(), TurnedAway> {
        let mut first = [0; FIRST_LEN];
        let mut looks = FIRST_LOOKS;
        loop {
            let len = socket.peek(&mut first).await.unwrap_or(0);
            let seen = first.get(..len).unwrap_or_default();
            looks -= 1;
            match Spoken::of(seen) {
                Some(Spoken::Tls) => return Ok(()),
                // A load balancer that looks whether somebody is here.
                None => return Err(TurnedAway::quietly()),
                // The next bytes may tell more. Nothing tells of them: what is only peeked at stays readable.
                Some(_) if len < 4 && looks > 0 => time::sleep(FIRST_WAIT).await,
                Some(spoken) => {
                    let mistake = self.mistake(spoken);
                    return Err(TurnedAway::new(mistake.reason(), mistake.to_string()));
                }
            }
        }
    }

    fn mistake(&self, spoken: Spoken) -> Mistake {
        Mistake {
            spoken,
            listener: self.listener,
            ports: self.ports,
        }
    }
}

async fn read_proxy_header(socket: &mut TcpStream) -> Result<Option<SocketAddr>, TurnedAway> {
    let wrong = |error: ProxyError| TurnedAway::new(Refused::Proxy, error.to_string());
    let lost = |_: io::Error| wrong(ProxyError::Missing);
    let mut start = [0; proxy::START_LEN];
    socket.read_exact(&mut start).await.map_err(lost)?;
    let start = proxy::Start::parse(&start).map_err(wrong)?;
    let mut rest = vec![0; start.rest_len];
    socket.read_exact(&mut rest).await.map_err(lost)?;
    start.peer(&rest).map_err(wrong)
}

/// Ends a connection so that the other side sees an end, not a fault: with unread bytes on our side, closing would reset
/// it, and what we said last would be lost on the way. Not for longer than its place can be spared.
async fn let_go<S: AsyncRead + AsyncWrite + Unpin>(socket: &mut S, place: &Place) {
    let goodbye = async {
        socket.shutdown().await?;
        let (mut bytes, mut left) = ([0; 1024], LINGER_LEN_MAX);
        while left > 0 {
            match socket.read(&mut bytes).await? {
                0 => break,
                len => left = left.saturating_sub(len),
            }
        }
        io::Result::Ok(())
    };
    let must_go = place.must_go();
    // Lost is as good as ended.
    let _ = must_go
        .run_until_cancelled(time::timeout(LINGER, goodbye))
        .await;
}

const TOO_MANY: &str = "too many connections of its address";
const MADE_ROOM: &str = "it had to make room";

/// How long and how much somebody who was turned away may go on sending before he is cut off.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_LEN_MAX: usize = 64 * 1024;

/// What tells one protocol from another.
const FIRST_LEN: usize = 16;
const FIRST_LOOKS: u32 = 3;
const FIRST_WAIT: Duration = Duration::from_millis(50);

const ACCEPT_RETRY_MIN: Duration = Duration::from_millis(5);
const ACCEPT_RETRY_MAX: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;

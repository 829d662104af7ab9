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
pub mod publisher;

use std::{future::Future, io, net::SocketAddr, time::Duration};

use anyhow::Context;
use firstmile_shared::{clock, net, supervisor};
use socket2::SockRef;
use tokio::{
    net::{TcpListener, TcpStream},
    time,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument, debug, debug_span, info, warn};

pub use self::{connections::Connections, desk::Desk};
use self::{connections::Place, publisher::Publisher};
use crate::{
    address::canonical,
    config::LimitsConfig,
    metrics::{Listener, Refused},
    rtmp::session::Session,
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
}

impl From<&LimitsConfig> for Limits {
    fn from(config: &LimitsConfig) -> Self {
        Self {
            connections: config.rtmp_connections.get(),
            connections_per_address: config.rtmp_connections_per_address.get(),
            handshake_timeout: config.handshake_timeout.0,
            idle_timeout: config.idle_timeout.0,
        }
    }
}

/// RTMP over plain TCP.
#[derive(Debug)]
pub struct RtmpIngest {
    listener: TcpListener,
    limits: Limits,
    connections: Connections,
}

impl RtmpIngest {
    /// Serves the encoders that connect to `listener`. Must be called inside a runtime.
    pub fn new(listener: std::net::TcpListener, limits: Limits) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        Ok(Self {
            listener: TcpListener::from_std(listener)?,
            limits,
            connections: Connections::new(limits.connections, limits.connections_per_address),
        })
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
        let publishers = TaskTracker::new();
        let reports = shutdown.run_until_cancelled(desk.report_refusals());
        let accepts = shutdown.run_until_cancelled(self.accept_all(&desk, &publishers, &shutdown));
        let _ = tokio::join!(reports, accepts);
        drop(self);
        publishers.close();
        publishers.wait().await;
        Ok(())
    }
}

impl RtmpIngest {
    async fn accept_all(
        &self,
        desk: &Desk,
        publishers: &TaskTracker,
        shutdown: &CancellationToken,
    ) {
        loop {
            self.connections.wait_for_place().await;
            let (socket, peer) = self.accept().await;
            let Some(place) = self.connections.enter(peer.ip()) else {
                desk.turned_away(Refused::Full, peer, "too many connections of its address");
                continue;
            };
            if let Err(error) = net::watch_peer(&SockRef::from(&socket), self.limits.idle_timeout) {
                // It has hung up already.
                debug!(%peer, %error, "a new connection can not be set up");
                continue;
            }
            let publisher = self.publisher(socket, peer, place, desk.clone(), shutdown.clone());
            publishers.spawn(publisher.instrument(debug_span!("encoder", %peer)));
        }
    }

    fn publisher(
        &self,
        socket: TcpStream,
        peer: SocketAddr,
        place: Place,
        desk: Desk,
        shutdown: CancellationToken,
    ) -> impl Future<Output = ()> + Send + use<> {
        let within_us = self.limits.handshake_timeout.as_micros();
        let session = Session::new(
            clock::now_us(),
            i64::try_from(within_us).unwrap_or(i64::MAX),
            supervisor::random().into(),
        );
        let open = desk.metrics().connection(Listener::Rtmp);
        let publisher = Publisher::new(socket, peer, Self::PROTOCOL, session, place, desk);
        async move {
            publisher.run(&shutdown).await;
            drop(open);
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

const ACCEPT_RETRY_MIN: Duration = Duration::from_millis(5);
const ACCEPT_RETRY_MAX: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;

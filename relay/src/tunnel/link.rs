//! A connector's connection, whatever carries it: who is there, how far away, and its end.

use std::{
    net::SocketAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use firstmile_shared::tunnel::close::Close;
use quinn::{Connection, ConnectionError, VarInt};
use tokio_util::sync::CancellationToken;

/// A connection; clones are the same one.
#[derive(Clone, Debug)]
pub(super) enum Link {
    /// UDP.
    Quic(Connection),
    /// Where UDP does not get through.
    Tcp(Arc<TcpLink>),
}

/// What is known of a TCP connection besides its two halves, which its session has.
#[derive(Debug)]
pub(super) struct TcpLink {
    peer: SocketAddr,
    /// Why it is to end.
    order: OnceLock<Close>,
    is_ordered: CancellationToken,
    /// 0: not known.
    round_trip_us: AtomicU64,
}

/// Why a connection is gone.
#[derive(Debug, thiserror::Error)]
pub(super) enum Lost {
    #[error("{}", explain(.0))]
    Quic(#[from] ConnectionError),
    /// Nothing came for too long.
    #[error("the studio's network was lost")]
    Silent,
    /// It was closed from here.
    #[error("closed here: {}", .0.sentence())]
    Ordered(Close),
}

/// What an operator reads when a connection is gone.
fn explain(error: &ConnectionError) -> String {
    match error {
        ConnectionError::TimedOut => "the studio's network was lost".to_owned(),
        ConnectionError::ApplicationClosed(_) => "it left".to_owned(),
        ConnectionError::LocallyClosed => "closed here".to_owned(),
        other => other.to_string(),
    }
}

impl Lost {
    pub(super) const fn close(&self) -> Close {
        match self {
            Self::Ordered(close) => *close,
            Self::Quic(_) | Self::Silent => Close::Bye,
        }
    }
}

impl Link {
    /// A TCP connection from this address.
    pub(super) fn tcp(peer: SocketAddr) -> Self {
        Self::Tcp(Arc::new(TcpLink {
            peer,
            order: OnceLock::new(),
            is_ordered: CancellationToken::new(),
            round_trip_us: AtomicU64::new(0),
        }))
    }

    pub(super) fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Quic(a), Self::Quic(b)) => a.stable_id() == b.stable_id(),
            (Self::Tcp(a), Self::Tcp(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }

    /// Ends it. Over TCP the one who serves it has to say so: [`Link::closed`] resolves there.
    pub(super) fn close(&self, close: Close) {
        match self {
            Self::Quic(connection) => {
                connection.close(VarInt::from_u32(close.code()), close.sentence().as_bytes());
            }
            Self::Tcp(link) => {
                // The first reason counts.
                let _ = link.order.set(close);
                link.is_ordered.cancel();
            }
        }
    }

    /// Resolves when it is gone, or is to go.
    pub(super) async fn closed(&self) -> Lost {
        match self {
            Self::Quic(connection) => connection.closed().await.into(),
            Self::Tcp(link) => {
                link.is_ordered.cancelled().await;
                Lost::Ordered(link.order.get().copied().unwrap_or(Close::Bye))
            }
        }
    }

    /// The next datagram. Over TCP there are none: they come with everything else.
    pub(super) async fn read_datagram(&self) -> Result<Bytes, Lost> {
        match self {
            Self::Quic(connection) => Ok(connection.read_datagram().await?),
            Self::Tcp(_) => std::future::pending().await,
        }
    }

    /// As the lists call it.
    pub(super) const fn transport(&self) -> &'static str {
        match self {
            Self::Quic(_) => "quic",
            Self::Tcp(_) => "tcp",
        }
    }

    /// A modem may change it.
    pub(super) fn remote_address(&self) -> SocketAddr {
        match self {
            Self::Quic(connection) => connection.remote_address(),
            Self::Tcp(link) => link.peer,
        }
    }

    /// `None`: not known yet.
    pub(super) fn round_trip(&self) -> Option<Duration> {
        match self {
            Self::Quic(connection) => Some(connection.rtt()),
            Self::Tcp(link) => match link.round_trip_us.load(Ordering::Relaxed) {
                0 => None,
                us => Some(Duration::from_micros(us)),
            },
        }
    }

    /// Over TCP only the tunnel's own pings tell.
    pub(super) fn set_round_trip(&self, us: i64) {
        if let (Self::Tcp(link), Ok(us)) = (self, u64::try_from(us)) {
            link.round_trip_us.store(us.max(1), Ordering::Relaxed);
        }
    }

    /// Packets sent and lost since the start. `None`: the kernel keeps it to itself.
    pub(super) fn packets(&self) -> Option<(u64, u64)> {
        match self {
            Self::Quic(connection) => {
                let path = connection.stats().path;
                Some((path.sent_packets, path.lost_packets))
            }
            Self::Tcp(_) => None,
        }
    }
}

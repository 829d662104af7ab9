//! Peers that mean harm, or that are broken so badly that it makes no difference: each does one thing wrong and says what
//! the relay did about it.
//!
//! They come from addresses of their own (`127.0.0.0/8` is all loopback), as strangers do; the limits for each address
//! would otherwise stop them before they get to their point.

pub mod crowd;
pub mod honest;
pub mod quic;
pub mod rtmp;

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

/// The loopback address of a peer, by its number.
pub const fn address(peer: u16) -> IpAddr {
    let [high, low] = peer.to_be_bytes();
    IpAddr::V4(Ipv4Addr::new(127, 66, high, low))
}

/// What the relay did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It ended the connection, after this time.
    Closed(Duration),
    /// It still listened when the peer had enough.
    Open,
}

impl Outcome {
    /// Whether it ended the connection within `limit`.
    pub fn is_closed_within(self, limit: Duration) -> bool {
        matches!(self, Self::Closed(took) if took <= limit)
    }
}

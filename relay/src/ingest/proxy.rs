//! The PROXY protocol, version 2: the first bytes that a load balancer sends, saying whom it brings. Pure.
//!
//! ```text
//! signature (12) | version 2, command (1) | family (1) | length (2) | addresses and more
//! ```
//! Source: `HAProxy`'s `proxy-protocol.txt`, section 2.2. Who may send one is the configuration's word
//! (`rtmp.proxy_protocol_from`); from there it has to come, since guessing would let encoders claim any address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// What every header begins with; as the first byte of RTMP it would be nobody's version.
pub const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// Bytes that say how many follow.
pub const START_LEN: usize = 16;

/// The most that may follow: addresses take 36, cloud providers add some hundred.
pub const REST_LEN_MAX: usize = 1024;

/// Why a header can't be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProxyError {
    /// The connection begins with something else.
    #[error(
        "it comes from rtmp.proxy_protocol_from without a PROXY protocol header: switch version 2 on in the load balancer"
    )]
    Missing,
    /// The text form.
    #[error("its load balancer sends version 1 of the PROXY protocol: set version 2")]
    Version1,
    /// A version that there is not, or addresses that do not fit.
    #[error("its load balancer's PROXY protocol header can not be read")]
    Unreadable,
}

/// How a header begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    is_proxied: bool,
    family: u8,
    /// Bytes that follow.
    pub rest_len: usize,
}

impl Start {
    /// Reads the first bytes.
    pub fn parse(bytes: &[u8; START_LEN]) -> Result<Self, ProxyError> {
        let Some([version, family, length @ ..]) = bytes.strip_prefix(&SIGNATURE) else {
            let is_text = bytes.starts_with(b"PROXY ");
            return Err(if is_text {
                ProxyError::Version1
            } else {
                ProxyError::Missing
            });
        };
        let rest_len = match length {
            [high, low] => usize::from(u16::from_be_bytes([*high, *low])),
            _ => return Err(ProxyError::Unreadable),
        };
        let is_proxied = match version {
            // LOCAL: the load balancer's own health check.
            0x20 => false,
            0x21 => true,
            _ => return Err(ProxyError::Unreadable),
        };
        if rest_len > REST_LEN_MAX {
            return Err(ProxyError::Unreadable);
        }
        Ok(Self {
            is_proxied,
            family: *family,
            rest_len,
        })
    }

    /// Whom it brings; `None`: nobody but itself.
    pub fn peer(self, rest: &[u8]) -> Result<Option<SocketAddr>, ProxyError> {
        if !self.is_proxied {
            return Ok(None);
        }
        let (address, ports): (IpAddr, _) = match self.family {
            TCP_OVER_IPV4 => {
                let (source, rest) = rest
                    .split_first_chunk::<4>()
                    .ok_or(ProxyError::Unreadable)?;
                (Ipv4Addr::from(*source).into(), rest.get(4..))
            }
            TCP_OVER_IPV6 => {
                let (source, rest) =
                    (rest.split_first_chunk::<16>()).ok_or(ProxyError::Unreadable)?;
                let source = IpAddr::from(Ipv6Addr::from(*source));
                (source.to_canonical(), rest.get(16..))
            }
            // It does not know, or speaks for a Unix socket.
            _ => return Ok(None),
        };
        let port = (ports.and_then(<[u8]>::first_chunk::<2>)).ok_or(ProxyError::Unreadable)?;
        Ok(Some(SocketAddr::new(address, u16::from_be_bytes(*port))))
    }
}

const TCP_OVER_IPV4: u8 = 0x11;
const TCP_OVER_IPV6: u8 = 0x21;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(header: &[u8]) -> Result<Option<SocketAddr>, ProxyError> {
        let (start, rest) = header.split_first_chunk().unwrap();
        let start = Start::parse(start)?;
        start.peer(&rest[..start.rest_len.min(rest.len())])
    }

    fn header(version: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let len = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[version, family], &len, rest].concat()
    }

    const V4: [u8; 12] = [203, 0, 113, 9, 10, 0, 0, 1, 0xd4, 0x31, 0x07, 0x8f];

    #[test]
    fn a_header_says_who_the_encoder_is() {
        let v6 = |first: [u8; 16]| [&first[..], &[0; 16], &[0xd4, 0x31, 0x07, 0x8f]].concat();
        let mapped = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 203, 0, 113, 9];
        let more = [&V4[..], &[0x20, 0, 3, 1, 2, 3]].concat();
        for (version, family, rest, peer) in [
            (0x21, 0x11, V4.to_vec(), Some("203.0.113.9:54321")),
            (0x21, 0x11, more, Some("203.0.113.9:54321")),
            (
                0x21,
                0x21,
                v6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7).octets()),
                Some("[2001:db8::7]:54321"),
            ),
            (0x21, 0x21, v6(mapped), Some("203.0.113.9:54321")),
            // A health check, and protocols without an address.
            (0x20, 0x00, vec![], None),
            (0x20, 0x11, V4.to_vec(), None),
            (0x21, 0x00, vec![1, 2, 3], None),
            (0x21, 0x31, vec![0; 216], None),
        ] {
            let read = read(&header(version, family, &rest)).unwrap();
            assert_eq!(read, peer.map(|text| text.parse().unwrap()), "{family:#x}");
        }
    }

    #[test]
    fn what_is_no_header_is_told_apart() {
        for (bytes, error) in [
            (vec![3; 20], ProxyError::Missing),
            (
                b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03garbage".to_vec(),
                ProxyError::Missing,
            ),
            (
                b"PROXY TCP4 203.0.113.9 10.0.0.1 1 2\r\n".to_vec(),
                ProxyError::Version1,
            ),
            (header(0x11, 0x11, &V4), ProxyError::Unreadable),
            (header(0x22, 0x11, &V4), ProxyError::Unreadable),
            (header(0x21, 0x11, &V4[..9]), ProxyError::Unreadable),
            (header(0x21, 0x21, &V4), ProxyError::Unreadable),
            (header(0x21, 0x11, &[0; 1025]), ProxyError::Unreadable),
        ] {
            assert_eq!(read(&bytes), Err(error), "{bytes:x?}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(
            tail in any::<[u8; 4]>(),
            rest in proptest::collection::vec(any::<u8>(), 0..64),
        ) {
            let mut start = [0; START_LEN];
            start[..12].copy_from_slice(&SIGNATURE);
            start[12..].copy_from_slice(&tail);
            if let Ok(start) = Start::parse(&start) {
                prop_assert!(start.rest_len <= REST_LEN_MAX);
                let _ = start.peer(&rest);
            }
        }
    }
}

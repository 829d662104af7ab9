//! What speaks on an encoders' port when it is not RTMP, and what its user should do. Pure.
//!
//! The first bytes tell: an encoder that was given the wrong port or scheme is to be found in the log by its mistake,
//! not by "connection closed".

use std::fmt;

use super::proxy;
use crate::metrics::{Listener, Refused};

/// A protocol, by its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spoken {
    /// RTMP, plain.
    Rtmp,
    /// RTMP under its own cipher, or a relative of that.
    Rtmpe,
    /// TLS: RTMPS, or a browser.
    Tls,
    /// A request of HTTP, or an answer.
    Http,
    /// Packets of an MPEG transport stream.
    MpegTs,
    /// A load balancer's header.
    Proxy,
    /// Something else, with this first byte.
    Other(u8),
}

impl Spoken {
    /// What these first bytes begin; `None` as long as there are none.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        let first = *bytes.first()?;
        let begins = |text: &[u8]| bytes.starts_with(text) || text.starts_with(bytes);
        Some(match first {
            // 0x0d is a version of RTMP that nobody has.
            b'\r' if begins(&proxy::SIGNATURE) => Self::Proxy,
            b'P' if bytes.starts_with(b"PROXY ") => Self::Proxy,
            0x16 => Self::Tls,
            6 | 8 | 9 => Self::Rtmpe,
            0..0x20 => Self::Rtmp,
            // The same first byte as "GET".
            0x47 if !begins(b"GET ") => Self::MpegTs,
            b'A'..=b'Z' if bytes.get(..4).is_none_or(is_word) => Self::Http,
            other => Self::Other(other),
        })
    }
}

/// "GET ", "POST", "HTTP", "PRI ".
fn is_word(bytes: &[u8]) -> bool {
    let is_letter = |byte: &u8| byte.is_ascii_uppercase() || b" /".contains(byte);
    bytes.iter().all(is_letter)
}

/// The ports that encoders can be sent to; `None` for what is off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ports {
    /// RTMP's.
    pub rtmp: Option<u16>,
    /// RTMPS's.
    pub rtmps: Option<u16>,
}

/// The wrong thing on a port of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// What was spoken.
    pub spoken: Spoken,
    /// Where.
    pub listener: Listener,
    /// What there is.
    pub ports: Ports,
}

impl Mistake {
    /// How it is counted.
    pub const fn reason(self) -> Refused {
        match self.spoken {
            Spoken::Rtmp => Refused::RtmpOnRtmps,
            Spoken::Rtmpe => Refused::Rtmpe,
            Spoken::Tls => Refused::TlsOnRtmp,
            Spoken::Http => Refused::Http,
            Spoken::MpegTs => Refused::MpegTs,
            Spoken::Proxy => Refused::Proxy,
            Spoken::Other(_) => Refused::Protocol,
        }
    }
}

/// A clause about "it", with the remedy behind the colon.
impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, port, scheme) = match self.listener {
            Listener::Rtmps => ("RTMPS", self.ports.rtmps, "rtmps://"),
            _ => ("RTMP", self.ports.rtmp, "rtmp://"),
        };
        let here = format!("the {name} port {}", port.unwrap_or_default());
        match self.spoken {
            Spoken::Tls => {
                write!(f, "it speaks RTMPS to {here}: ")?;
                match self.ports.rtmps {
                    Some(rtmps) => write!(f, "use rtmps:// and port {rtmps}"),
                    None => f.write_str("use rtmp://, or switch RTMPS on by rtmps.listen"),
                }
            }
            Spoken::Rtmp => {
                write!(f, "it speaks RTMP to {here}: ")?;
                match self.ports.rtmp {
                    Some(rtmp) => write!(f, "use rtmp:// and port {rtmp}"),
                    None => f.write_str("use rtmps://"),
                }
            }
            Spoken::Rtmpe => {
                write!(
                    f,
                    "it speaks RTMPE to {here}, whose cipher protects nothing: "
                )?;
                match self.ports.rtmps {
                    Some(rtmps) => write!(f, "use rtmps:// and port {rtmps}"),
                    None => f.write_str("use rtmp://"),
                }
            }
            Spoken::Http => write!(
                f,
                "it speaks HTTP to {here}: a browser or a scanner has no business here, and an encoder is to use {scheme}"
            ),
            Spoken::MpegTs => write!(
                f,
                "it sends a bare MPEG transport stream to {here}: set the encoder's output to RTMP (FFmpeg: -f flv)"
            ),
            Spoken::Proxy => f.write_str(
                "it sends a PROXY protocol header and its address is not in rtmp.proxy_protocol_from: add it there if it is your load balancer",
            ),
            Spoken::Other(byte) => write!(
                f,
                "it sends what is not {name} to {here} (first byte {byte:#04x}): use {scheme}"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bytes_tell_what_is_spoken() {
        for (bytes, spoken) in [
            (&b"\x03\0\0\0\0"[..], Spoken::Rtmp),
            (b"\x03", Spoken::Rtmp),
            (b"\x06\0", Spoken::Rtmpe),
            (b"\x16\x03\x01\x02", Spoken::Tls),
            (b"GET / HTTP/1.1", Spoken::Http),
            (b"GET", Spoken::Http),
            (b"POST /open/1 HTTP/1.1", Spoken::Http),
            (b"PRI * HTTP/2.0", Spoken::Http),
            (b"G\x40\x11\x10", Spoken::MpegTs),
            (b"G\0\x64\x1b", Spoken::MpegTs),
            (&proxy::SIGNATURE, Spoken::Proxy),
            (b"\r\n", Spoken::Proxy),
            (b"\r\0\0\0", Spoken::Rtmp),
            (b"PROXY TCP4", Spoken::Proxy),
            (b"\xff\xfe", Spoken::Other(0xff)),
            (b"A\0\0\0", Spoken::Other(b'A')),
        ] {
            assert_eq!(Spoken::of(bytes), Some(spoken), "{bytes:x?}");
        }
        assert_eq!(Spoken::of(b""), None);
    }

    #[test]
    fn every_mistake_is_named_with_its_remedy() {
        let both = Ports {
            rtmp: Some(1935),
            rtmps: Some(1936),
        };
        let plain = Ports {
            rtmps: None,
            ..both
        };
        for (spoken, listener, ports, sentence) in [
            (
                Spoken::Tls,
                Listener::Rtmp,
                both,
                "it speaks RTMPS to the RTMP port 1935: use rtmps:// and port 1936",
            ),
            (
                Spoken::Tls,
                Listener::Rtmp,
                plain,
                "it speaks RTMPS to the RTMP port 1935: use rtmp://, or switch RTMPS on by rtmps.listen",
            ),
            (
                Spoken::Rtmp,
                Listener::Rtmps,
                both,
                "it speaks RTMP to the RTMPS port 1936: use rtmp:// and port 1935",
            ),
            (
                Spoken::Other(0xff),
                Listener::Rtmps,
                both,
                "it sends what is not RTMPS to the RTMPS port 1936 (first byte 0xff): use rtmps://",
            ),
        ] {
            let mistake = Mistake {
                spoken,
                listener,
                ports,
            };
            assert_eq!(mistake.to_string(), sentence);
        }
        for spoken in [Spoken::Http, Spoken::MpegTs, Spoken::Rtmpe, Spoken::Proxy] {
            let mistake = Mistake {
                spoken,
                listener: Listener::Rtmp,
                ports: both,
            };
            assert!(mistake.to_string().starts_with("it "), "{mistake}");
        }
    }
}

//! The tunnel's connection over TCP with TLS 1.3, where UDP does not get through: the same identities, and frames both
//! ways ([`crate::tunnel::frame`]).
//!
//! What a socket has taken can't be overtaken or left out any more, so it takes little: the kernel is asked to hold no
//! more than [`UNSENT_MAX`] beyond what is on its way, and [`Writer`] is given the next frame only when it has handed the
//! one before to the kernel.

use std::{
    future::poll_fn,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, BytesMut};
use rustls::{
    ClientConfig, ServerConfig,
    pki_types::{CertificateDer, ServerName},
};
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf},
    net::TcpStream,
    time,
};
use tokio_rustls::{LazyConfigAcceptor, TlsConnector, TlsStream, server::StartHandshake};

use crate::{
    net, os,
    tls::{self, Identity, Pins, SERVER_NAME, Spki},
    tunnel::{
        ALPN,
        close::Close,
        frame::{Decoder, Frame, FrameError, HEADER_LEN},
    },
};

/// Unacknowledged bytes, or no answer to probes, for so long: the connection is dead.
pub const DEAD_AFTER: Duration = Duration::from_secs(5);

/// What may wait in the kernel beyond what is on its way, bytes: one TLS record.
pub const UNSENT_MAX: u32 = 16 * 1024;

/// Why there is no connection (any more).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TcpError {
    /// The network, or TLS.
    #[error("{}", explain(.0))]
    Io(#[from] io::Error),
    /// What came are no frames.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// It ended within a frame.
    #[error("the connection ended within a frame")]
    Truncated,
    /// The other end wants another protocol than the tunnel.
    #[error("it does not speak the tunnel's protocol (ALPN)")]
    Protocol,
    /// It showed no certificate.
    #[error("it showed no usable certificate")]
    NoCertificate,
}

impl TcpError {
    /// What the peer is told.
    pub const fn close(&self) -> Close {
        match self {
            Self::Frame(error) => error.close(),
            Self::Truncated | Self::Protocol | Self::NoCertificate => Close::Protocol,
            Self::Io(_) => Close::Bye,
        }
    }
}

fn explain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "nobody listens there (TCP)".to_owned(),
        io::ErrorKind::TimedOut => "no answer (TCP)".to_owned(),
        io::ErrorKind::UnexpectedEof
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::BrokenPipe => "the connection was broken off (TCP)".to_owned(),
        _ => error.to_string(),
    }
}

/// A connection after its handshake.
#[derive(Debug)]
pub struct Connection {
    /// Who is at the other end.
    pub spki: Spki,
    /// Its address.
    pub peer: SocketAddr,
    /// What it says.
    pub reader: Reader,
    /// What it is told.
    pub writer: Writer,
}

impl Connection {
    fn new(stream: TlsStream<TcpStream>, peer: SocketAddr) -> Result<Self, TcpError> {
        let (_, session) = stream.get_ref();
        if session.alpn_protocol() != Some(ALPN) {
            return Err(TcpError::Protocol);
        }
        let certificate: Option<&CertificateDer<'_>> =
            session.peer_certificates().and_then(<[_]>::first);
        let spki = certificate
            .and_then(|certificate| Spki::of_certificate(certificate).ok())
            .ok_or(TcpError::NoCertificate)?;
        let (read, write) = tokio::io::split(stream);
        Ok(Self {
            spki,
            peer,
            reader: Reader {
                half: read,
                decoder: Decoder::default(),
            },
            writer: Writer {
                half: write,
                out: BytesMut::new(),
                waiting: 0,
            },
        })
    }
}

/// What a connector dials with. Cheap to clone; `pins` serve one dial.
pub async fn connect(
    address: SocketAddr,
    identity: &Identity,
    pins: Arc<Pins>,
) -> Result<Connection, TcpError> {
    let config: ClientConfig = tls::client_config(identity, pins).map_err(io::Error::other)?;
    let socket = TcpStream::connect(address).await?;
    prepare(&socket)?;
    let name = ServerName::try_from(SERVER_NAME).map_err(io::Error::other)?;
    let stream = TlsConnector::from(Arc::new(config))
        .connect(name, socket)
        .await?;
    Connection::new(stream.into(), address)
}

/// What a relay takes connections with. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Acceptor {
    config: Arc<ServerConfig>,
}

impl Acceptor {
    /// For a relay of this identity.
    pub fn new(identity: &Identity) -> Result<Self, rustls::Error> {
        Ok(Self {
            config: Arc::new(tls::server_config(identity)?),
        })
    }

    /// Shakes hands. Cancel it when it takes too long.
    pub async fn accept(&self, socket: TcpStream) -> Result<Connection, TcpError> {
        let hello = Hello::read(socket).await?;
        if hello.is_for_tunnel() {
            return self.go_on(hello).await;
        }
        // TLS tells it in its own words.
        drop(self.go_on(hello).await);
        Err(TcpError::Protocol)
    }

    /// Shakes hands with one whose first words were read already: where one port serves several protocols.
    pub async fn go_on(&self, hello: Hello) -> Result<Connection, TcpError> {
        let Hello { start, peer } = hello;
        let stream = start.into_stream(self.config.clone()).await?;
        Connection::new(stream.into(), peer)
    }
}

/// The first words of somebody who connects: which protocol is wanted.
pub struct Hello {
    start: StartHandshake<TcpStream>,
    peer: SocketAddr,
}

impl std::fmt::Debug for Hello {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hello")
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

impl Hello {
    /// Waits for them.
    pub async fn read(socket: TcpStream) -> Result<Self, TcpError> {
        let peer = socket.peer_addr()?;
        prepare(&socket)?;
        let start = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), socket).await?;
        Ok(Self { start, peer })
    }

    /// Whether the tunnel is among what it asks for (ALPN).
    pub fn is_for_tunnel(&self) -> bool {
        let hello = self.start.client_hello();
        hello
            .alpn()
            .is_some_and(|mut offered| offered.any(|name| name == ALPN))
    }
}

fn prepare(socket: &TcpStream) -> io::Result<()> {
    let socket = SockRef::from(socket);
    net::watch_peer(&socket, DEAD_AFTER)?;
    os::prepare_for_media(&socket, UNSENT_MAX);
    Ok(())
}

/// What comes in.
#[derive(Debug)]
pub struct Reader {
    half: ReadHalf<TlsStream<TcpStream>>,
    decoder: Decoder,
}

impl Reader {
    /// The next frame; `None` when the peer has ended the connection well. Cancel-safe.
    pub async fn next(&mut self) -> Result<Option<Frame>, TcpError> {
        next_frame(&mut self.half, &mut self.decoder).await
    }

    /// Reads on to the end and throws away what comes: a socket that is closed with unread bytes takes the last words
    /// with it. Waits [`LAST_WORDS_MAX`] at most.
    pub async fn drain(&mut self) {
        let mut waste = [0; 4096];
        let end = async { while self.half.read(&mut waste).await.is_ok_and(|len| len > 0) {} };
        let _ = time::timeout(LAST_WORDS_MAX, end).await;
    }
}

async fn next_frame<R: AsyncRead + Unpin>(
    half: &mut R,
    decoder: &mut Decoder,
) -> Result<Option<Frame>, TcpError> {
    loop {
        if let Some(frame) = decoder.poll()? {
            return Ok(Some(frame));
        }
        let is_within_frame = decoder.is_within_frame();
        let buffer = decoder.buffer_mut();
        buffer.reserve(READ_LEN);
        match half.read_buf(buffer).await {
            Ok(0) if is_within_frame => return Err(TcpError::Truncated),
            Ok(0) => return Ok(None),
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// What goes out.
#[derive(Debug)]
pub struct Writer {
    half: WriteHalf<TlsStream<TcpStream>>,
    out: BytesMut,
    /// Bytes put since everything was the kernel's last.
    waiting: usize,
}

impl Writer {
    /// Ready when all frames so far are the kernel's: then it is time to choose the next one.
    pub fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.out.is_empty() {
            let written = ready!(Pin::new(&mut self.half).poll_write(context, &self.out))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.out.advance(written);
        }
        ready!(Pin::new(&mut self.half).poll_flush(context))?;
        self.waiting = 0;
        Poll::Ready(Ok(()))
    }

    /// Adds a frame; [`Writer::poll_ready`] sends it.
    pub fn put(&mut self, frame: &Frame) {
        let before = self.out.len();
        frame.encode(&mut self.out);
        self.waiting += self.out.len() - before;
    }

    /// Bytes that were put and are not the kernel's, some of them perhaps.
    pub const fn waiting(&self) -> usize {
        self.waiting
    }

    /// The longest body that still fits in the record that is being filled.
    pub fn room(&self) -> usize {
        RECORD_LEN.saturating_sub(self.out.len() + HEADER_LEN)
    }

    /// Sends what was put.
    pub async fn flush(&mut self) -> io::Result<()> {
        poll_fn(|context| self.poll_ready(context)).await
    }

    /// Tells why, and ends this direction. Waits [`LAST_WORDS_MAX`] at most.
    pub async fn close(&mut self, close: Close) {
        self.put(&Frame::Close {
            code: close.code(),
            sentence: close.sentence().into(),
        });
        let words = async {
            self.flush().await?;
            self.half.shutdown().await
        };
        let _ = time::timeout(LAST_WORDS_MAX, words).await;
    }
}

/// Last words take a round trip; who needs longer is not there any more.
const LAST_WORDS_MAX: Duration = Duration::from_millis(500);

const READ_LEN: usize = 16 * 1024;

/// The plain text of one TLS record.
const RECORD_LEN: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;
    use crate::tunnel::frame::BODY_LEN_MAX;

    async fn pair() -> (Connection, Connection) {
        let (relay, studio) = (
            Identity::ephemeral().unwrap(),
            Identity::ephemeral().unwrap(),
        );
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let acceptor = Acceptor::new(&relay).unwrap();
        let accepted = async { acceptor.accept(listener.accept().await.unwrap().0).await };
        let pins = Pins::new(vec![relay.spki()]);
        let (accepted, connected) = tokio::join!(accepted, connect(address, &studio, pins));
        let (accepted, connected) = (accepted.unwrap(), connected.unwrap());
        assert_eq!(accepted.spki, studio.spki());
        assert_eq!(connected.spki, relay.spki());
        (accepted, connected)
    }

    #[tokio::test]
    async fn frames_pass_and_the_last_words_arrive() {
        let (mut relay, mut studio) = pair().await;
        let part = Frame::Part {
            unit: 0,
            is_last: true,
            bytes: vec![7; BODY_LEN_MAX].into(),
        };
        let ping = Frame::Datagram("ping".into());
        relay.writer.put(&part);
        relay.writer.flush().await.unwrap();
        // Said while the other end closes: it must not take the close's words away.
        studio.writer.put(&ping);
        studio.writer.flush().await.unwrap();
        relay.writer.close(Close::Replaced).await;
        let drained = async {
            relay.reader.drain().await;
            drop(relay);
        };
        let heard = async {
            let got = studio.reader.next().await.unwrap();
            assert_eq!(got, Some(part));
            let Some(Frame::Close { code, sentence }) = studio.reader.next().await.unwrap() else {
                panic!("no close");
            };
            assert_eq!(Close::from_code(code.into()), Some(Close::Replaced));
            assert_eq!(sentence, Close::Replaced.sentence());
            assert_eq!(studio.reader.next().await.unwrap(), None);
            studio.writer.close(Close::Bye).await;
        };
        tokio::join!(drained, heard);
    }

    #[tokio::test]
    async fn another_key_than_the_pinned_one_is_refused_and_named() {
        let relay = Identity::ephemeral().unwrap();
        let other = Identity::ephemeral().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let acceptor = Acceptor::new(&relay).unwrap();
        let pins = Pins::new(vec![other.spki()]);
        let accepted = async { acceptor.accept(listener.accept().await.unwrap().0).await };
        let (accepted, connected) = tokio::join!(accepted, connect(address, &other, pins.clone()));
        assert!(accepted.is_err() && connected.is_err());
        assert_eq!(pins.wrong_pin().unwrap().found, relay.spki());
    }

    #[tokio::test]
    async fn a_browser_at_the_tunnels_port_is_told_apart() {
        let relay = Identity::ephemeral().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let acceptor = Acceptor::new(&relay).unwrap();
        let accepted = async { acceptor.accept(listener.accept().await.unwrap().0).await };
        let mut config = tls::client_config(&relay, Pins::new(vec![relay.spki()])).unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let dial = async {
            let socket = TcpStream::connect(address).await.unwrap();
            let name = ServerName::try_from("relay.example").unwrap();
            let connector = TlsConnector::from(Arc::new(config));
            assert!(connector.connect(name, socket).await.is_err());
        };
        let (accepted, ()) = tokio::join!(accepted, dial);
        assert!(matches!(accepted, Err(TcpError::Protocol)), "{accepted:?}");
    }

    #[tokio::test]
    async fn an_end_within_a_frame_is_an_error() {
        let mut decoder = Decoder::default();
        let mut bytes = BytesMut::new();
        Frame::Control("x".into()).encode(&mut bytes);
        let end = next_frame(&mut &bytes[..bytes.len() - 1], &mut decoder).await;
        assert!(matches!(end, Err(TcpError::Truncated)), "{end:?}");
    }
}

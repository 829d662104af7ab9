//! On the encoders' port.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::Context;
use bytes::{BufMut, Bytes, BytesMut};
use firstmile_relay::rtmp::{
    amf0::{self, Value},
    chunk::{Message, kind},
    handshake::BLOCK_LEN,
    message::Command,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::{self, Instant},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::Outcome;
use crate::encoder::SyntheticEncoder;

/// What a peer does that has no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attack {
    /// Bytes without meaning.
    Garbage,
    /// A browser that was told `https://RELAY:1935`.
    Tls,
    /// One that was told `http://`.
    Http,
    /// Half of the handshake, and silence.
    HalfHandshake,
    /// A byte now and then.
    Dribble,
    /// The handshake, and silence.
    NoConnect,
    /// `publish` without `connect`.
    PublishBeforeConnect,
    /// A command of 16 MB is announced.
    AbsurdLength,
    /// Sixty-five messages begun at once.
    ManyChunkStreams,
    /// Objects in objects, thirty thousand deep.
    DeepValues,
    /// Chunks of no bytes.
    ChunkSizeZero,
    /// A chunk size with the top bit set.
    ChunkSizeNegative,
    /// An acknowledgement for every no bytes.
    WindowZero,
    /// Commands without end, whose answers it never reads.
    NeverReads,
    /// It wants to watch.
    Play,
}

impl Attack {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::Garbage,
        Self::Tls,
        Self::Http,
        Self::HalfHandshake,
        Self::Dribble,
        Self::NoConnect,
        Self::PublishBeforeConnect,
        Self::AbsurdLength,
        Self::ManyChunkStreams,
        Self::DeepValues,
        Self::ChunkSizeZero,
        Self::ChunkSizeNegative,
        Self::WindowZero,
        Self::NeverReads,
        Self::Play,
    ];

    /// Whether all that it does wrong is to take its time.
    pub const fn is_patient(self) -> bool {
        matches!(
            self,
            // After the handshake, a window of nothing is a number like any other.
            Self::HalfHandshake | Self::Dribble | Self::NoConnect | Self::WindowZero
        )
    }

    /// Does it once; waits at most `patience` for the relay to have enough.
    pub async fn run(
        self,
        relay: SocketAddr,
        from: IpAddr,
        patience: Duration,
    ) -> anyhow::Result<Outcome> {
        let mut socket = connect(relay, from).await?;
        let begun = Instant::now();
        let bytes = self.bytes();
        if self.is_behind_handshake() {
            shake_hands(&mut socket).await?;
        }
        let doing = async {
            match self {
                Self::Dribble => loop {
                    if socket.write_all(&[3]).await.is_err() {
                        return;
                    }
                    // As long as nothing comes, it is still there.
                    let mut answer = [0; 64];
                    let wait = Duration::from_millis(100);
                    if let Ok(Ok(0) | Err(_)) = time::timeout(wait, socket.read(&mut answer)).await
                    {
                        return;
                    }
                },
                Self::NeverReads => while socket.write_all(&bytes).await.is_ok() {},
                _ => {
                    // It may have had enough in the middle.
                    let _ = socket.write_all(&bytes).await;
                    read_to_end(&mut socket).await;
                }
            }
        };
        Ok(match time::timeout(patience, doing).await {
            Ok(()) => Outcome::Closed(begun.elapsed()),
            Err(_) => Outcome::Open,
        })
    }

    const fn is_behind_handshake(self) -> bool {
        !matches!(
            self,
            Self::Garbage | Self::Tls | Self::Http | Self::HalfHandshake | Self::Dribble
        )
    }

    fn bytes(self) -> Bytes {
        match self {
            Self::Garbage => noise(64 * 1024),
            // A record header and a hello's header; no server gets further.
            Self::Tls => {
                [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", &noise(507)[..]].concat().into()
            }
            Self::Http => Bytes::from_static(
                b"GET / HTTP/1.1\r\nHost: relay.example\r\nUser-Agent: curl/8\r\nAccept: */*\r\n\r\n",
            ),
            Self::HalfHandshake => [&[3], &[0; 700][..]].concat().into(),
            Self::Dribble | Self::NoConnect => Bytes::new(),
            Self::PublishBeforeConnect => chunked(&command("publish", &["key", "live"])),
            Self::AbsurdLength => Bytes::from_static(b"\x03\0\0\0\xff\xff\xff\x14\0\0\0\0"),
            Self::ManyChunkStreams => many_chunk_streams(),
            Self::DeepValues => deep_values(),
            Self::ChunkSizeZero => chunked(&number(kind::SET_CHUNK_SIZE, 0)),
            Self::ChunkSizeNegative => chunked(&number(kind::SET_CHUNK_SIZE, 0x8000_0000)),
            Self::WindowZero => chunked(&number(kind::WINDOW_ACK_SIZE, 0)),
            Self::NeverReads => {
                let one = chunked(&command("createStream", &[]));
                one.repeat(100).into()
            }
            Self::Play => {
                let connect = Command {
                    object: Value::object([("app", Value::string("truck1"))]),
                    ..connect_command()
                };
                let play = command("play", &["key"]);
                [chunked(&connect.to_message(0)), chunked(&play)].concat().into()
            }
        }
    }
}

/// Sends these first bytes, and waits until the relay has had enough.
pub async fn say(
    relay: SocketAddr,
    from: IpAddr,
    bytes: &[u8],
    patience: Duration,
) -> anyhow::Result<Outcome> {
    let mut socket = connect(relay, from).await?;
    let begun = Instant::now();
    socket.write_all(bytes).await?;
    Ok(
        match time::timeout(patience, read_to_end(&mut socket)).await {
            Ok(()) => Outcome::Closed(begun.elapsed()),
            Err(_) => Outcome::Open,
        },
    )
}

/// How a publish with a wrong key, or for a studio that is not there, was answered: the status code, and after which time.
pub async fn knock(
    relay: SocketAddr,
    from: IpAddr,
    studio: &str,
    key: &str,
) -> anyhow::Result<(String, Duration)> {
    let mut encoder = SyntheticEncoder::connect_from(from, relay).await?;
    let begun = Instant::now();
    let refused = encoder.publish(studio, key).await;
    let took = begun.elapsed();
    let answer = refused.err().context("it was let in")?.to_string();
    Ok((answer, took))
}

/// Publishes with the right key, asks for an answer to everything and reads none. `Open` when the relay bore it.
pub async fn publish_and_never_read(
    relay: SocketAddr,
    from: IpAddr,
    studio: &str,
    key: &str,
    patience: Duration,
) -> anyhow::Result<Outcome> {
    let socket = TcpSocket::new_v4()?;
    // Soon full.
    socket.set_recv_buffer_size(4 * 1024)?;
    socket.bind(SocketAddr::new(from, 0))?;
    let mut socket = socket.connect(relay).await?;
    shake_hands(&mut socket).await?;
    let connect = Command {
        object: Value::object([("app", Value::string(studio))]),
        ..connect_command()
    };
    let mut hello = BytesMut::from(&chunked(&connect.to_message(0))[..]);
    hello.put(chunked(&command("publish", &[key, "live"])));
    socket.write_all(&hello).await?;
    let mut answer = BytesMut::new();
    let started = b"NetStream.Publish.Start";
    while !answer.windows(started.len()).any(|part| part == started) {
        anyhow::ensure!(
            socket.read_buf(&mut answer).await? > 0,
            "the relay closed the connection"
        );
    }
    // A ping: six bytes that ask for as many.
    let ping = Message {
        kind: kind::USER_CONTROL,
        stream: 0,
        timestamp: 0,
        payload: Bytes::from_static(&[0, 6, 0, 0, 0, 1]),
    };
    let pings = chunked(&ping).repeat(1_000);
    let begun = Instant::now();
    let asking = async { while socket.write_all(&pings).await.is_ok() {} };
    Ok(match time::timeout(patience, asking).await {
        Ok(()) => Outcome::Closed(begun.elapsed()),
        Err(_) => Outcome::Open,
    })
}

/// A connection without a key that the relay keeps something for.
#[derive(Debug)]
pub struct Open(#[expect(dead_code, reason = "held open")] Stream);

#[derive(Debug)]
#[expect(dead_code, reason = "held open")]
enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Open {
    /// Shakes hands, and begins a message of so many bytes, of which all come but the last hundred.
    pub async fn with_unfinished_message(
        relay: SocketAddr,
        from: IpAddr,
        bytes: usize,
    ) -> anyhow::Result<Self> {
        let mut socket = connect(relay, from).await?;
        begin_message(&mut socket, bytes).await?;
        Ok(Self(Stream::Plain(socket)))
    }

    /// Likewise, inside TLS.
    pub async fn with_unfinished_message_in_tls(
        relay: SocketAddr,
        tls: &TlsConnector,
        from: IpAddr,
        bytes: usize,
    ) -> anyhow::Result<Self> {
        let socket = connect(relay, from).await?;
        let mut socket = tls.connect(RELAY_NAME.try_into()?, socket).await?;
        begin_message(&mut socket, bytes).await?;
        Ok(Self(Stream::Tls(Box::new(socket))))
    }
}

async fn begin_message<S: AsyncRead + AsyncWrite + Unpin>(
    socket: &mut S,
    bytes: usize,
) -> anyhow::Result<()> {
    shake_hands(socket).await?;
    let mut chunks = BytesMut::new();
    let mut encoder = firstmile_relay::rtmp::chunk::Encoder::default();
    encoder.set_chunk_size(&mut chunks, 0x10_0000);
    encoder.encode(
        &mut chunks,
        3,
        &Message {
            kind: kind::COMMAND_AMF0,
            stream: 0,
            timestamp: 0,
            payload: vec![0x2a; bytes].into(),
        },
    );
    chunks.truncate(chunks.len() - 100);
    socket.write_all(&chunks).await?;
    socket.flush().await?;
    Ok(())
}

/// What the relay's certificate is for, where TLS is spoken.
pub const RELAY_NAME: &str = "relay.example";

/// Connects and says nothing, `count` times; the answer holds them open.
pub async fn idle(relay: SocketAddr, from: IpAddr, count: usize) -> anyhow::Result<Vec<TcpStream>> {
    let mut sockets = Vec::with_capacity(count);
    for _ in 0..count {
        sockets.push(connect(relay, from).await?);
    }
    Ok(sockets)
}

async fn connect(relay: SocketAddr, from: IpAddr) -> anyhow::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(from, 0))?;
    Ok(socket.connect(relay).await?)
}

async fn shake_hands<S: AsyncRead + AsyncWrite + Unpin>(socket: &mut S) -> anyhow::Result<()> {
    let mut hello = vec![0; 1 + 2 * BLOCK_LEN];
    hello[0] = 3;
    socket.write_all(&hello).await?;
    socket.read_exact(&mut hello).await?;
    Ok(())
}

async fn read_to_end(socket: &mut TcpStream) {
    let mut answer = [0; 4096];
    while let Ok(1..) = socket.read(&mut answer).await {}
}

fn connect_command() -> Command {
    Command {
        name: "connect".to_owned(),
        transaction: 1.0,
        object: Value::Null,
        arguments: Vec::new(),
    }
}

fn command(name: &str, arguments: &[&str]) -> Message {
    Command {
        name: name.to_owned(),
        transaction: 2.0,
        object: Value::Null,
        arguments: arguments.iter().map(|text| Value::string(text)).collect(),
    }
    .to_message(1)
}

fn number(kind: u8, number: u32) -> Message {
    Message {
        kind,
        stream: 0,
        timestamp: 0,
        payload: Bytes::copy_from_slice(&number.to_be_bytes()),
    }
}

/// In chunks of 128 bytes, which everybody starts with.
fn chunked(message: &Message) -> Bytes {
    let mut bytes = BytesMut::new();
    firstmile_relay::rtmp::chunk::Encoder::default().encode(&mut bytes, 3, message);
    bytes.freeze()
}

/// Each a message of 64 KiB of which 128 bytes come.
fn many_chunk_streams() -> Bytes {
    let mut bytes = BytesMut::new();
    for stream in 64..164_u8 {
        // One byte of basic header for 2 to 63, two for 64 to 319.
        bytes.put_slice(&[0, stream - 64, 0, 0, 0, 0, 0xff, 0xff, 20, 0, 0, 0, 0]);
        bytes.put_bytes(0, 128);
    }
    bytes.freeze()
}

/// A `connect` whose object has an object in it, which has an object in it, …
fn deep_values() -> Bytes {
    let mut body = BytesMut::new();
    amf0::encode(&Value::string("connect"), &mut body);
    amf0::encode(&Value::Number(1.0), &mut body);
    while body.len() + 8 < 60 * 1024 {
        body.put_slice(&[3, 0, 1, b'a']);
    }
    chunked(&Message {
        kind: kind::COMMAND_AMF0,
        stream: 0,
        timestamp: 0,
        payload: body.freeze(),
    })
}

/// The same each time.
fn noise(len: usize) -> Bytes {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let bytes = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        // Never a version that RTMP would take for its own.
        state.to_be_bytes()[0] | 0x80
    });
    bytes.take(len).collect()
}

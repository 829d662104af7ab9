//! The floors: the least that a hop from TCP to QUIC can do, over the same QUIC settings as the tunnel.
//!
//! Each TCP connection is a feed of payloads with their length in front (`u32`, big-endian). [`Mode::OneStream`] copies a
//! feed into one stream; [`Mode::StreamPerUnit`] opens a stream for each payload. Both wait for flow control like any
//! simple program would: a floor has no policy for late units.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    sync::Arc,
};

use anyhow::Context;
use bytes::Bytes;
use firstmile_shared::{
    quic::{self, ResetKey, Transport},
    tls::{Identity, Pins, SERVER_NAME, Spki},
};
use quinn::{Connection, RecvStream};
use serde::{Deserialize, Serialize};
use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use super::meter::Arrivals;

/// How payloads travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// One stream for each feed.
    OneStream,
    /// One stream for each payload.
    StreamPerUnit,
}

/// Where a hop listens; printed as one line of JSON when it is ready.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Addresses {
    /// Feeds.
    pub tcp: SocketAddr,
    /// The far end dials this.
    pub quic: SocketAddr,
    /// The hop's key, hexadecimal.
    pub pin: String,
}

/// Serves one far end and its feeds until it hangs up.
pub async fn serve(mode: Mode, ready: impl FnOnce(&Addresses)) -> anyhow::Result<()> {
    let identity = Identity::ephemeral()?;
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    let endpoint = quic::listen(socket, &identity, &ResetKey::random(), Transport::default())?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    ready(&Addresses {
        tcp: listener.local_addr()?,
        quic: endpoint.local_addr()?,
        pin: identity.spki().to_hex(),
    });
    let connection = endpoint.accept().await.context("no far end")?.await?;
    connection.set_send_window(SEND_WINDOW);
    let mut feeds = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (socket, _) = accepted?;
                feeds.spawn(copy(mode, socket, connection.clone()));
            }
            Some(_) = feeds.join_next() => {}
            _ = connection.closed() => return Ok(()),
        }
    }
}

async fn copy(mode: Mode, mut socket: TcpStream, connection: Connection) -> anyhow::Result<()> {
    socket.set_nodelay(true)?;
    let mut stream = match mode {
        Mode::OneStream => Some(connection.open_uni().await?),
        Mode::StreamPerUnit => None,
    };
    loop {
        let payload = read_payload(&mut socket).await?;
        if let Some(stream) = &mut stream {
            let len = u32::try_from(payload.len())?.to_be_bytes();
            stream
                .write_all_chunks(&mut [Bytes::copy_from_slice(&len), payload])
                .await?;
        } else {
            let mut stream = connection.open_uni().await?;
            stream.write_all_chunks(&mut [payload]).await?;
            stream.finish()?;
        }
    }
}

async fn read_payload(socket: &mut TcpStream) -> io::Result<Bytes> {
    let len = socket.read_u32().await?;
    let mut payload = vec![0; len as usize];
    socket.read_exact(&mut payload).await?;
    Ok(payload.into())
}

/// Dials a hop.
pub async fn dial(addresses: &Addresses) -> anyhow::Result<Connection> {
    let pin = Spki::from_hex(&addresses.pin).context("the hop's pin")?;
    let identity = Identity::ephemeral()?;
    let config = quic::client_config(&identity, Pins::new(vec![pin]), Transport::default())?;
    let endpoint = quic::dialer(UdpSocket::bind("127.0.0.1:0")?)?;
    Ok(endpoint
        .connect_with(config, addresses.quic, SERVER_NAME)?
        .await?)
}

/// The far end of a hop: counts what arrives until the connection ends.
pub async fn count(mode: Mode, connection: Connection, arrivals: Arc<Arrivals>) {
    let mut streams = JoinSet::new();
    loop {
        tokio::select! {
            accepted = connection.accept_uni() => match accepted {
                Ok(stream) => {
                    streams.spawn(count_stream(mode, stream, Arc::clone(&arrivals)));
                }
                Err(_) => return,
            },
            Some(_) = streams.join_next() => {}
        }
    }
}

async fn count_stream(
    mode: Mode,
    mut stream: RecvStream,
    arrivals: Arc<Arrivals>,
) -> anyhow::Result<()> {
    match mode {
        Mode::StreamPerUnit => {
            arrivals.add(&stream.read_to_end(PAYLOAD_LEN_MAX).await?.into());
            Ok(())
        }
        Mode::OneStream => loop {
            let mut len = [0; 4];
            stream.read_exact(&mut len).await?;
            let mut payload = vec![0; u32::from_be_bytes(len) as usize];
            stream.read_exact(&mut payload).await?;
            arrivals.add(&payload.into());
        },
    }
}

const PAYLOAD_LEN_MAX: usize = 1 << 20;
/// Never the limit here: a floor does not drop.
const SEND_WINDOW: u64 = 64 << 20;

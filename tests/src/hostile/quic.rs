//! On the connectors' port.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail};
use bytes::Bytes;
use firstmile_shared::{
    quic::{self, Transport},
    tls::{Identity, Pins, SERVER_NAME, Spki},
    tunnel::{
        close::Close,
        control::{self, Decoder, FromConnector, FromRelay, MESSAGE_LEN_MAX, Received},
    },
};
use quinn::{
    Connection, ConnectionError, Endpoint, RecvStream, SendStream, TransportConfig, VarInt,
};
use tokio::{net::UdpSocket, time};

/// A connection whose control stream says what a test wants it to say.
#[derive(Debug)]
pub struct Guest {
    connection: Connection,
    send: SendStream,
    receive: RecvStream,
    decoder: Decoder,
    _endpoint: Endpoint,
}

impl Guest {
    /// Dials and opens the control stream.
    pub async fn dial(
        relay: SocketAddr,
        pins: &[Spki],
        identity: &Identity,
        from: IpAddr,
    ) -> anyhow::Result<Self> {
        Self::dial_with(relay, pins, identity, from, None).await
    }

    /// One that takes next to nothing: ten streams, 16 KiB.
    pub async fn dial_deaf(
        relay: SocketAddr,
        pins: &[Spki],
        identity: &Identity,
        from: IpAddr,
    ) -> anyhow::Result<Self> {
        let mut transport = TransportConfig::default();
        transport
            .max_concurrent_uni_streams(VarInt::from_u32(10))
            .receive_window(VarInt::from_u32(16 * 1024))
            .keep_alive_interval(Some(quic::KEEP_ALIVE));
        Self::dial_with(relay, pins, identity, from, Some(transport)).await
    }

    async fn dial_with(
        relay: SocketAddr,
        pins: &[Spki],
        identity: &Identity,
        from: IpAddr,
        transport: Option<TransportConfig>,
    ) -> anyhow::Result<Self> {
        let endpoint = quic::dialer(std::net::UdpSocket::bind(SocketAddr::new(from, 0))?)?;
        let pins = Pins::new(pins.to_vec());
        let mut config = quic::client_config(identity, pins, Transport::default())?;
        if let Some(transport) = transport {
            config.transport_config(Arc::new(transport));
        }
        let connection = endpoint.connect_with(config, relay, SERVER_NAME)?.await?;
        let (send, receive) = connection.open_bi().await?;
        Ok(Self {
            connection,
            send,
            receive,
            decoder: Decoder::new(MESSAGE_LEN_MAX),
            _endpoint: endpoint,
        })
    }

    /// The connection.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Says something right.
    pub async fn say(&mut self, message: &FromConnector) -> anyhow::Result<()> {
        self.say_bytes(&control::encode(message)).await
    }

    /// Says something.
    pub async fn say_bytes(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        Ok(self.send.write_all(bytes).await?)
    }

    /// Has nothing more to say.
    pub fn finish(&mut self) {
        // Fails only when it was said before.
        let _ = self.send.finish();
    }

    /// What the relay says next.
    pub async fn hear(&mut self) -> anyhow::Result<FromRelay> {
        loop {
            match self.decoder.poll()? {
                Some(Received::Message(message)) => return Ok(message),
                Some(Received::Unknown(_)) => {}
                None => {
                    let chunk = self.receive.read_chunk(MESSAGE_LEN_MAX, true).await?;
                    let chunk = chunk.context("the relay closed the control stream")?;
                    self.decoder.buffer_mut().extend_from_slice(&chunk.bytes);
                }
            }
        }
    }

    /// Waits until the relay closes the connection, and says with which code.
    pub async fn closed(&self, patience: Duration) -> anyhow::Result<Close> {
        match time::timeout(patience, self.connection.closed()).await {
            Ok(ConnectionError::ApplicationClosed(closed)) => {
                let code = closed.error_code.into_inner();
                Close::from_code(code).with_context(|| format!("an unknown code {code}"))
            }
            Ok(error) => bail!("it ended otherwise: {error}"),
            Err(_) => bail!("it is still open after {patience:?}"),
        }
    }
}

/// First packets of connections that nobody will ever continue: made by real dials to a socket that does not answer, so that
/// each is right in every byte.
pub async fn first_packets(count: usize) -> anyhow::Result<Vec<Bytes>> {
    let silent = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let goal = silent.local_addr()?;
    let endpoint = quic::dialer(std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?)?;
    let identity = Identity::ephemeral()?;
    let mut packets = BTreeMap::new();
    while packets.len() < count {
        let dials = DIALS_AT_ONCE.min(count - packets.len());
        let wanted = packets.len() + dials;
        let mut pending = Vec::with_capacity(dials);
        for _ in 0..dials {
            let pins = Pins::new(vec![identity.spki()]);
            let config = quic::client_config(&identity, pins, Transport::default())?;
            pending.push(endpoint.connect_with(config, goal, SERVER_NAME)?);
        }
        let mut packet = [0; 2048];
        while packets.len() < wanted {
            let (len, _) = time::timeout(PATIENCE, silent.recv_from(&mut packet)).await??;
            let packet = packet.get(..len).unwrap_or_default();
            // Long header, version, then the length and bytes of the ID that the client chose.
            let id_len = usize::from(packet.get(5).copied().unwrap_or(0));
            let is_first = packet.first().is_some_and(|first| first & 0xf0 == 0xc0);
            if let (true, Some(id)) = (is_first, packet.get(6..6 + id_len)) {
                packets
                    .entry(id.to_vec())
                    .or_insert_with(|| Bytes::copy_from_slice(packet));
            }
        }
    }
    Ok(packets.into_values().collect())
}

/// Sends packets as they are, each from the next of `from`, `rate` in a second.
pub async fn send_all(
    relay: SocketAddr,
    packets: &[Bytes],
    from: &[IpAddr],
    rate: u32,
) -> anyhow::Result<()> {
    let mut sockets = Vec::with_capacity(from.len());
    for address in from {
        sockets.push(UdpSocket::bind(SocketAddr::new(*address, 0)).await?);
    }
    let mut ticks = time::interval(Duration::from_millis(10));
    let at_once = usize::try_from(rate / 100)?.max(1);
    let mut socket = sockets.iter().cycle();
    for packets in packets.chunks(at_once) {
        ticks.tick().await;
        for packet in packets {
            let socket = socket.next().context("an address to send from")?;
            // Refused by a full buffer: lost like any other.
            let _ = socket.send_to(packet, relay).await;
        }
    }
    Ok(())
}

/// Datagrams without meaning; half of them begin like a packet of some version of QUIC.
pub fn garbage(count: usize) -> Vec<Bytes> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..count)
        .map(|n| {
            let len = usize::try_from(next() % 1_400).unwrap_or(0) + 1;
            let mut bytes: Vec<u8> = (0..len).map(|_| next().to_be_bytes()[0]).collect();
            match n % 4 {
                // A long header of version 1, and of one that is not there.
                0 => overwrite(&mut bytes, &[0xc3, 0, 0, 0, 1, 8]),
                1 => overwrite(&mut bytes, &[0xc0, 0xba, 0xba, 0xba, 0xba, 20]),
                2 => overwrite(&mut bytes, &[0x40]),
                _ => {}
            }
            bytes.into()
        })
        .collect()
}

fn overwrite(bytes: &mut [u8], with: &[u8]) {
    for (byte, with) in bytes.iter_mut().zip(with) {
        *byte = *with;
    }
}

/// So many fit into a socket's buffer.
const DIALS_AT_ONCE: usize = 50;
const PATIENCE: Duration = Duration::from_secs(10);

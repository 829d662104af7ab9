//! The connection to a relay, whatever carries it: messages both ways, pings, units.
//!
//! What is said is written while the next arrival is waited for ([`Link::next`]); nothing waits for the other direction.

use std::time::Duration;

use firstmile_shared::{
    clock, tcp,
    tunnel::{
        clock::{Ping, Pong},
        close::Close,
        control::{self, Decoder, FromConnector, FromRelay, MESSAGE_LEN_MAX, Received},
        frame::{Assembly, BODY_LEN_MAX, Frame},
        unit::Unit,
    },
};
use quinn::{Connection, Endpoint, VarInt};
use tokio::time;
use tracing::debug;

use super::{
    control_stream::Control,
    ended::Ended,
    receiver::{LostUnit, Receiver},
};

/// What came.
#[derive(Debug)]
pub(super) enum Arrival {
    /// A word of the relay.
    Message(FromRelay),
    /// The answer to a ping.
    Pong(Pong),
    /// A unit, or the end of one that did not come.
    Unit(Result<Unit, LostUnit>),
}

/// Which way the tunnel goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Way {
    /// UDP.
    #[default]
    Quic,
    /// Where UDP does not get through.
    Tcp,
}

impl Way {
    /// As the status calls it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Quic => "quic",
            Self::Tcp => "tcp",
        }
    }
}

/// A connection.
pub(super) enum Link {
    Quic(Box<QuicLink>),
    Tcp(Box<TcpLink>),
}

pub(super) struct QuicLink {
    connection: Connection,
    /// Lives as long as the connection.
    endpoint: Endpoint,
    control: Control,
    receiver: Receiver,
}

pub(super) struct TcpLink {
    connection: tcp::Connection,
    decoder: Decoder,
    assembly: Assembly,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Link").field(&self.way()).finish()
    }
}

impl Link {
    /// Over a QUIC connection that is there.
    pub(super) async fn quic(connection: Connection, endpoint: Endpoint) -> Result<Self, Ended> {
        Ok(Self::Quic(Box::new(QuicLink {
            control: Control::open(&connection).await?,
            connection,
            endpoint,
            receiver: Receiver::default(),
        })))
    }

    /// Over a TCP connection that is there.
    pub(super) fn tcp(connection: tcp::Connection) -> Self {
        Self::Tcp(Box::new(TcpLink {
            connection,
            decoder: Decoder::new(MESSAGE_LEN_MAX),
            assembly: Assembly::default(),
        }))
    }

    pub(super) const fn way(&self) -> Way {
        match self {
            Self::Quic(_) => Way::Quic,
            Self::Tcp(_) => Way::Tcp,
        }
    }

    /// Queues a message; [`Link::next`] writes it. The relay reads or closes: there are never more than a few.
    pub(super) fn say(&mut self, message: &FromConnector) {
        match self {
            Self::Quic(link) => link.control.say(message),
            Self::Tcp(link) => {
                let bytes = control::encode(message);
                for start in (0..bytes.len()).step_by(BODY_LEN_MAX) {
                    let end = bytes.len().min(start + BODY_LEN_MAX);
                    let part = Frame::Control(bytes.slice(start..end));
                    link.connection.writer.put(&part);
                }
            }
        }
    }

    /// Asks for the relay's time.
    pub(super) fn ping(&mut self) {
        let ping = Ping {
            sent_us: clock::now_us(),
        };
        match self {
            // Lost here is like lost on the way: the next one comes soon.
            Self::Quic(link) => drop(link.connection.send_datagram(ping.encode())),
            Self::Tcp(link) if link.connection.writer.waiting() < PINGS_WAITING_MAX => {
                let ping = Frame::Datagram(ping.encode());
                link.connection.writer.put(&ping);
            }
            // It would only say how long it waited.
            Self::Tcp(_) => {}
        }
    }

    /// Streams that the relay may have open. Over TCP there are none.
    pub(super) fn grant_streams(&self, streams: u32) {
        if let Self::Quic(link) = self {
            link.connection
                .set_max_concurrent_uni_streams(VarInt::from_u32(streams));
        }
    }

    /// The next arrival; meanwhile writes what is queued. Cancel-safe.
    pub(super) async fn next(&mut self) -> Result<Arrival, Ended> {
        match self {
            Self::Quic(link) => link.next().await,
            Self::Tcp(link) => link.next().await,
        }
    }

    /// A message that is here already.
    pub(super) fn received(&mut self) -> Result<Option<FromRelay>, Ended> {
        match self {
            Self::Quic(link) => link.control.received(),
            Self::Tcp(link) => message(&mut link.decoder),
        }
    }

    /// Writes what is queued.
    pub(super) async fn flush(&mut self) -> Result<(), Ended> {
        match self {
            Self::Quic(link) => link.control.flush().await,
            Self::Tcp(link) => {
                let flushed = link.connection.writer.flush().await;
                flushed.map_err(|error| Ended::Tcp(error.into()))
            }
        }
    }

    /// Closes, and gives the word a moment to leave.
    pub(super) async fn close(&mut self, close: Close) {
        match self {
            Self::Quic(link) => {
                let code = VarInt::from_u32(close.code());
                link.connection.close(code, close.sentence().as_bytes());
                let _ = time::timeout(GOODBYE_TIMEOUT, link.endpoint.wait_idle()).await;
            }
            Self::Tcp(link) => {
                link.connection.writer.close(close).await;
                link.connection.reader.drain().await;
            }
        }
    }
}

impl QuicLink {
    async fn next(&mut self) -> Result<Arrival, Ended> {
        loop {
            tokio::select! {
                biased;
                datagram = self.connection.read_datagram() => {
                    if let Some(pong) = Pong::decode(&datagram?) {
                        return Ok(Arrival::Pong(pong));
                    }
                }
                stream = self.connection.accept_uni() => {
                    if let Some(answer) = self.receiver.take(stream?).await {
                        return Ok(Arrival::Unit(answer));
                    }
                }
                answer = self.receiver.next() => return Ok(Arrival::Unit(answer)),
                message = self.control.next() => return Ok(Arrival::Message(message?)),
            }
        }
    }
}

impl TcpLink {
    async fn next(&mut self) -> Result<Arrival, Ended> {
        let tcp::Connection { reader, writer, .. } = &mut self.connection;
        loop {
            if let Some(message) = message(&mut self.decoder)? {
                return Ok(Arrival::Message(message));
            }
            let frame = tokio::select! {
                biased;
                // First: what comes may never stop coming.
                flushed = writer.flush(), if writer.waiting() > 0 => {
                    flushed.map_err(tcp::TcpError::from)?;
                    continue;
                }
                frame = reader.next() => frame?,
            };
            match frame {
                Some(Frame::Control(bytes)) => {
                    self.decoder.buffer_mut().extend_from_slice(&bytes);
                }
                Some(Frame::Datagram(bytes)) => {
                    if let Some(pong) = Pong::decode(&bytes) {
                        return Ok(Arrival::Pong(pong));
                    }
                    if let Some(ping) = Ping::decode(&bytes)
                        && writer.waiting() < PINGS_WAITING_MAX
                    {
                        let now_us = clock::now_us();
                        let pong = Pong {
                            ping_sent_us: ping.sent_us,
                            received_us: now_us,
                            sent_us: now_us,
                        };
                        writer.put(&Frame::Datagram(pong.encode()));
                    }
                }
                Some(Frame::Part {
                    unit,
                    is_last,
                    bytes,
                }) => {
                    let whole = self.assembly.part(unit, is_last, &bytes);
                    if let Some(whole) = whole.map_err(tcp::TcpError::from)? {
                        let unit = whole.map_err(LostUnit::from);
                        return Ok(Arrival::Unit(
                            unit.and_then(|bytes| Ok(Unit::decode(bytes)?)),
                        ));
                    }
                }
                Some(Frame::GiveUp { unit, .. }) => {
                    self.assembly.give_up(unit).map_err(tcp::TcpError::from)?;
                    return Ok(Arrival::Unit(Err(LostUnit::GivenUp)));
                }
                Some(Frame::Close { code, .. }) => {
                    return Err(Ended::Closed(Close::from_code(code.into())));
                }
                None => return Err(Ended::NoControl),
            }
        }
    }
}

fn message(decoder: &mut Decoder) -> Result<Option<FromRelay>, Ended> {
    loop {
        match decoder.poll()? {
            Some(Received::Message(message)) => return Ok(Some(message)),
            Some(Received::Unknown(kind)) => debug!(kind, "a later version's message"),
            None => return Ok(None),
        }
    }
}

const GOODBYE_TIMEOUT: Duration = Duration::from_millis(500);

/// Bytes: a second of pings and some words.
const PINGS_WAITING_MAX: usize = 4 * 1024;

//! The control stream's two halves, whatever carries them.

use std::time::Duration;

use firstmile_shared::{
    clock, tcp,
    tunnel::{
        clock::{Ping, Pong},
        close::Close,
        control::{
            self, ControlError, Decoder, FromConnector, FromRelay, MESSAGE_LEN_MAX,
            MESSAGE_LEN_MAX_UNKNOWN, Received,
        },
        frame::{BODY_LEN_MAX, Frame},
    },
};
use quinn::{Connection, ConnectionError, ReadError, RecvStream, SendStream, WriteError};
use tokio::time::{self, Instant};

use super::sender::CONTROL_PRIORITY;

/// Why nothing can be said or heard any more.
#[derive(Debug, thiserror::Error)]
pub(super) enum WordsError {
    #[error("connection lost")]
    Connection(#[from] ConnectionError),
    #[error("control stream lost")]
    Read(#[from] ReadError),
    #[error("control stream lost")]
    Write(#[from] WriteError),
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error(transparent)]
    Tcp(#[from] tcp::TcpError),
    #[error("it sends units, which only a relay does")]
    Units,
}

impl WordsError {
    /// What the peer is told.
    pub(super) const fn close(&self) -> Close {
        match self {
            Self::Control(error) => error.close(),
            Self::Tcp(error) => error.close(),
            Self::Units => Close::Protocol,
            Self::Connection(_) | Self::Read(_) | Self::Write(_) => Close::Bye,
        }
    }

    /// Whether the peer broke the protocol, and is not just gone.
    pub(super) fn is_breach(&self) -> bool {
        self.close() == Close::Protocol
    }
}

/// What a connector said.
pub(super) enum Heard {
    /// On the control stream.
    Message(Received<FromConnector>),
    /// Over TCP: to be answered at once. On QUIC it is a datagram.
    Ping(Ping),
    /// Over TCP: the answer to ours.
    Pong(Pong),
    /// It ended the control stream, or the connection.
    Left,
}

/// Both halves.
pub(super) struct Words {
    pub(super) reader: ControlReader,
    pub(super) writer: ControlWriter,
}

impl Words {
    /// Waits for the connector to open the control stream.
    pub(super) async fn accept(connection: &Connection) -> Result<Self, WordsError> {
        let (send, receive) = connection.accept_bi().await?;
        // Fails only on a stream that is gone; writing to it will tell.
        let _ = send.set_priority(CONTROL_PRIORITY);
        Ok(Self {
            reader: ControlReader {
                stream: ReadFrom::Quic(receive),
                decoder: Decoder::new(MESSAGE_LEN_MAX_UNKNOWN),
                heard: Instant::now(),
            },
            writer: ControlWriter::Quic(connection.clone(), send),
        })
    }

    /// Over TCP nothing has to be opened.
    pub(super) fn tcp(reader: tcp::Reader, writer: tcp::Writer) -> Self {
        Self {
            reader: ControlReader {
                stream: ReadFrom::Tcp(reader),
                decoder: Decoder::new(MESSAGE_LEN_MAX_UNKNOWN),
                heard: Instant::now(),
            },
            writer: ControlWriter::Tcp(writer),
        }
    }

    /// Over TCP: the reason, and the end. (QUIC's is the connection's own.)
    pub(super) async fn close(mut self, close: Close) {
        if let (ControlWriter::Tcp(writer), ReadFrom::Tcp(reader)) =
            (&mut self.writer, &mut self.reader.stream)
        {
            writer.close(close).await;
            reader.drain().await;
        }
    }
}

/// The connector's half.
pub(super) struct ControlReader {
    stream: ReadFrom,
    decoder: Decoder,
    heard: Instant,
}

enum ReadFrom {
    Quic(RecvStream),
    Tcp(tcp::Reader),
}

impl ControlReader {
    /// The connector is known: its messages may be long.
    pub(super) fn trust(&mut self) {
        self.decoder.set_len_max(MESSAGE_LEN_MAX);
    }

    /// Since when nothing has come over TCP; QUIC finds out by itself.
    pub(super) fn silent_for(&self) -> Duration {
        match self.stream {
            ReadFrom::Quic(_) => Duration::ZERO,
            ReadFrom::Tcp(_) => self.heard.elapsed(),
        }
    }

    /// The next word. Cancel-safe.
    pub(super) async fn next(&mut self) -> Result<Heard, WordsError> {
        loop {
            if let Some(message) = self.decoder.poll()? {
                return Ok(Heard::Message(message));
            }
            match &mut self.stream {
                ReadFrom::Quic(stream) => match stream.read_chunk(READ_LEN, true).await? {
                    Some(chunk) => self.decoder.buffer_mut().extend_from_slice(&chunk.bytes),
                    None => return Ok(Heard::Left),
                },
                ReadFrom::Tcp(reader) => {
                    let frame = reader.next().await?;
                    self.heard = Instant::now();
                    match frame {
                        Some(Frame::Control(bytes)) => {
                            self.decoder.buffer_mut().extend_from_slice(&bytes);
                        }
                        Some(Frame::Datagram(bytes)) => {
                            if let Some(ping) = Ping::decode(&bytes) {
                                return Ok(Heard::Ping(ping));
                            }
                            if let Some(pong) = Pong::decode(&bytes) {
                                return Ok(Heard::Pong(pong));
                            }
                        }
                        Some(Frame::Part { .. } | Frame::GiveUp { .. }) => {
                            return Err(WordsError::Units);
                        }
                        Some(Frame::Close { .. }) | None => return Ok(Heard::Left),
                    }
                }
            }
        }
    }
}

/// The relay's half.
pub(super) enum ControlWriter {
    Quic(Connection, SendStream),
    Tcp(tcp::Writer),
}

impl ControlWriter {
    /// Says something, and waits until it is on its way.
    pub(super) async fn say(&mut self, message: &FromRelay) -> Result<(), WordsError> {
        let bytes = control::encode(message);
        match self {
            Self::Quic(_, stream) => stream.write_all(&bytes).await?,
            Self::Tcp(writer) => {
                for start in (0..bytes.len()).step_by(BODY_LEN_MAX) {
                    let end = bytes.len().min(start + BODY_LEN_MAX);
                    writer.put(&Frame::Control(bytes.slice(start..end)));
                    writer.flush().await.map_err(tcp::TcpError::from)?;
                }
            }
        }
        Ok(())
    }

    /// Answers a ping that came over TCP.
    pub(super) async fn answer(&mut self, ping: Ping) -> Result<(), WordsError> {
        if let Self::Tcp(writer) = self {
            writer.put(&Frame::Datagram(answer(ping).encode()));
            writer.flush().await.map_err(tcp::TcpError::from)?;
        }
        Ok(())
    }

    /// Ends the control stream and waits until the peer has it, within reason. Over TCP the close does that.
    pub(super) async fn last_words(&mut self) {
        if let Self::Quic(_, stream) = self
            && stream.finish().is_ok()
        {
            let _ = time::timeout(LAST_WORDS_TIMEOUT, stream.stopped()).await;
        }
    }
}

/// The pong to a ping that came just now.
pub(super) fn answer(ping: Ping) -> Pong {
    let now_us = clock::now_us();
    Pong {
        ping_sent_us: ping.sent_us,
        received_us: now_us,
        sent_us: now_us,
    }
}

const LAST_WORDS_TIMEOUT: Duration = Duration::from_secs(1);

const READ_LEN: usize = 16 * 1024;

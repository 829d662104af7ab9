//! The control stream: messages out, messages in, none waiting for the other direction.

use std::future::pending;

use bytes::{Buf, BytesMut};
use firstmile_shared::tunnel::control::{
    self, Decoder, FromConnector, FromRelay, MESSAGE_LEN_MAX, Received,
};
use quinn::{Connection, RecvStream, SendStream, WriteError};
use tracing::debug;

use super::ended::Ended;

/// The control stream, both ways.
pub(super) struct Control {
    send: SendStream,
    receive: RecvStream,
    decoder: Decoder,
    /// Not yet written.
    out: BytesMut,
}

impl Control {
    pub(super) async fn open(connection: &Connection) -> Result<Self, Ended> {
        let (send, receive) = connection.open_bi().await?;
        Ok(Self {
            send,
            receive,
            decoder: Decoder::new(MESSAGE_LEN_MAX),
            out: BytesMut::new(),
        })
    }

    /// Queues a message; [`Control::next`] writes it. The relay reads or closes: there are never more than a few.
    pub(super) fn say(&mut self, message: &FromConnector) {
        self.out.extend_from_slice(&control::encode(message));
    }

    pub(super) async fn flush(&mut self) -> Result<(), Ended> {
        while !self.out.is_empty() {
            let written = self.send.write(&self.out).await?;
            self.out.advance(written);
        }
        Ok(())
    }

    /// A message that is here already.
    pub(super) fn received(&mut self) -> Result<Option<FromRelay>, Ended> {
        loop {
            match self.decoder.poll()? {
                Some(Received::Message(message)) => return Ok(Some(message)),
                Some(Received::Unknown(kind)) => debug!(kind, "a later version's message"),
                None => return Ok(None),
            }
        }
    }

    /// The next message; meanwhile writes what is queued. Cancel-safe.
    pub(super) async fn next(&mut self) -> Result<FromRelay, Ended> {
        loop {
            if let Some(message) = self.received()? {
                return Ok(message);
            }
            tokio::select! {
                written = write_some(&mut self.send, &self.out) => self.out.advance(written?),
                chunk = self.receive.read_chunk(READ_LEN, true) => match chunk? {
                    Some(chunk) => self.decoder.buffer_mut().extend_from_slice(&chunk.bytes),
                    None => return Err(Ended::NoControl),
                },
            }
        }
    }
}

async fn write_some(send: &mut SendStream, bytes: &[u8]) -> Result<usize, WriteError> {
    if bytes.is_empty() {
        return pending().await;
    }
    send.write(bytes).await
}

const READ_LEN: usize = 16 * 1024;

//! The first words of a connection: from a certificate to a connector that may be served.
//!
//! Until the welcome the peer is a stranger: it may send one control stream of small messages, and has
//! [`GREETING_TIMEOUT`] for all of it.

use std::{str, time::Duration};

use firstmile_shared::{
    clock,
    secret::to_hex,
    tls::Spki,
    tunnel::{
        VERSION,
        clock::{Ping, Pong},
        close::Close,
        control::{
            self, ControlError, Decoder, FromConnector, FromRelay, MESSAGE_LEN_MAX,
            MESSAGE_LEN_MAX_UNKNOWN, Received,
        },
    },
};
use quinn::{
    Connection, ConnectionError, ReadError, RecvStream, SendStream,
    rustls::pki_types::CertificateDer,
};
use tokio::time;
use tracing::{info, warn};

use super::{Shared, sender::CONTROL_PRIORITY};
use crate::{auth::ConnectorRecord, metrics::Refused};

/// A connector that was welcomed.
pub(super) struct Guest {
    pub(super) record: ConnectorRecord,
    /// Its program and version, as it says.
    pub(super) software: String,
    pub(super) send: SendStream,
    pub(super) control: ControlReader,
}

/// Why nobody was welcomed.
#[derive(Debug, thiserror::Error)]
pub(super) enum GreetingError {
    #[error("connection lost")]
    Connection(#[from] ConnectionError),
    #[error("control stream lost")]
    Read(#[from] ReadError),
    #[error("control stream lost")]
    Write(#[from] quinn::WriteError),
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error("it left")]
    Left,
    #[error("no certificate")]
    NoCertificate,
    #[error("it said nothing in time")]
    TooSlow,
    #[error("it was told why: {message}")]
    Refused { close: Close, message: String },
}

impl GreetingError {
    /// What the peer is told.
    pub(super) const fn close(&self) -> Close {
        match self {
            Self::Refused { close, .. } => *close,
            Self::Control(error) => error.close(),
            Self::TooSlow => Close::TooSlow,
            Self::Connection(_) | Self::Read(_) | Self::Write(_) | Self::Left => Close::Bye,
            Self::NoCertificate => Close::Protocol,
        }
    }
}

/// Enrols and welcomes. The time for all of it is limited here.
pub(super) async fn greet(
    shared: &Shared,
    connection: &Connection,
) -> Result<Guest, GreetingError> {
    let spki = identity(connection).ok_or(GreetingError::NoCertificate)?;
    let greeting = async {
        tokio::select! {
            guest = talk(shared, connection, spki) => guest,
            error = answer_pings(connection) => Err(error.into()),
        }
    };
    time::timeout(GREETING_TIMEOUT, greeting)
        .await
        .unwrap_or(Err(GreetingError::TooSlow))
}

/// Clocks are compared from the start, so that the first unit's times mean something.
async fn answer_pings(connection: &Connection) -> ConnectionError {
    loop {
        match connection.read_datagram().await {
            Ok(datagram) => answer_ping(connection, &datagram),
            Err(error) => return error,
        }
    }
}

/// Sends the pong of a ping; anything else is ignored.
pub(super) fn answer_ping(connection: &Connection, datagram: &[u8]) {
    if let Some(ping) = Ping::decode(datagram) {
        let now_us = clock::now_us();
        let pong = Pong {
            ping_sent_us: ping.sent_us,
            received_us: now_us,
            sent_us: now_us,
        };
        // It may be lost on the way just as well.
        let _ = connection.send_datagram(pong.encode());
    }
}

/// Who is at the other end: proved by the handshake.
fn identity(connection: &Connection) -> Option<Spki> {
    let chain = connection
        .peer_identity()?
        .downcast::<Vec<CertificateDer<'static>>>()
        .ok()?;
    Spki::of_certificate(chain.first()?).ok()
}

async fn talk(
    shared: &Shared,
    connection: &Connection,
    spki: Spki,
) -> Result<Guest, GreetingError> {
    let (mut send, receive) = connection.accept_bi().await?;
    // Fails only on a stream that is gone; writing to it will tell.
    let _ = send.set_priority(CONTROL_PRIORITY);
    let mut control = ControlReader::new(receive);
    loop {
        let message = match control.next().await? {
            Some(Received::Message(message)) => message,
            Some(Received::Unknown(_)) => continue,
            None => return Err(GreetingError::Left),
        };
        match message {
            FromConnector::Enrol {
                token,
                secret,
                name,
            } => match shared.directory.enrol(&token, &secret, spki, &name).await {
                Ok(studio) => {
                    let ingest = shared.ingest.clone();
                    let enrolled = FromRelay::Enrolled { studio, ingest };
                    send.write_all(&control::encode(&enrolled)).await?;
                }
                Err(error) => {
                    shared.metrics.refused(Refused::Token);
                    let close = match error {
                        crate::auth::EnrolError::Unavailable(_) => Close::Busy,
                        _ => Close::Token,
                    };
                    info!(connector = %spki, %error, "join refused");
                    return refuse(send, close, error.to_string()).await;
                }
            },
            FromConnector::Hello {
                version, software, ..
            } => {
                if version < VERSION {
                    return refuse(send, Close::Version, Close::Version.sentence().to_owned())
                        .await;
                }
                let Some((record, salt)) = find(shared, &spki) else {
                    shared.metrics.refused(Refused::UnknownConnector);
                    warn!(connector = %spki, "an unknown connector, or one that was revoked");
                    return refuse(send, Close::Unknown, Close::Unknown.sentence().to_owned())
                        .await;
                };
                if !shared.registry.has_room(&record.studio, spki) {
                    shared.metrics.refused(Refused::Full);
                    info!(studio = record.studio, connector = %spki, "no room: limits.connectors, limits.connectors_per_studio");
                    return refuse(send, Close::Busy, Close::Busy.sentence().to_owned()).await;
                }
                control.decoder.set_len_max(MESSAGE_LEN_MAX);
                let welcome = FromRelay::Welcome {
                    version: VERSION,
                    studio: record.studio.clone(),
                    salt: to_hex(&salt),
                    software: SOFTWARE.to_owned(),
                    ingest: shared.ingest.clone(),
                };
                send.write_all(&control::encode(&welcome)).await?;
                return Ok(Guest {
                    record,
                    software,
                    send,
                    control,
                });
            }
            FromConnector::Bye { .. } => return Err(GreetingError::Left),
            // Before the welcome they mean nothing.
            FromConnector::Declare { .. }
            | FromConnector::Tally { .. }
            | FromConnector::Take { .. }
            | FromConnector::Play { .. }
            | FromConnector::Refuse { .. }
            | FromConnector::Resync { .. }
            | FromConnector::Show { .. }
            | FromConnector::Invite {} => {}
        }
    }
}

fn find(shared: &Shared, spki: &Spki) -> Option<(ConnectorRecord, [u8; 32])> {
    let record = shared.directory.connector(spki)?;
    let salt = shared.directory.salt(&record.studio)?;
    Some((record, salt))
}

/// Tells why, and gives the words time to arrive.
async fn refuse<T>(
    mut send: SendStream,
    close: Close,
    message: String,
) -> Result<T, GreetingError> {
    let refused = FromRelay::Refused {
        code: close.code(),
        message: message.clone(),
    };
    send.write_all(&control::encode(&refused)).await?;
    last_words(send).await;
    Err(GreetingError::Refused { close, message })
}

/// Ends the control stream and waits until the peer has it, within reason.
pub(super) async fn last_words(mut send: SendStream) {
    if send.finish().is_ok() {
        let _ = time::timeout(LAST_WORDS_TIMEOUT, send.stopped()).await;
    }
}

/// The connector's half of the control stream.
pub(super) struct ControlReader {
    stream: RecvStream,
    decoder: Decoder,
}

impl ControlReader {
    fn new(stream: RecvStream) -> Self {
        Self {
            stream,
            decoder: Decoder::new(MESSAGE_LEN_MAX_UNKNOWN),
        }
    }

    /// The next message; `None` when the peer ended the stream. Cancel-safe.
    pub(super) async fn next(&mut self) -> Result<Option<Received<FromConnector>>, GreetingError> {
        loop {
            if let Some(message) = self.decoder.poll()? {
                return Ok(Some(message));
            }
            match self.stream.read_chunk(READ_LEN, true).await? {
                Some(chunk) => self.decoder.buffer_mut().extend_from_slice(&chunk.bytes),
                None => return Ok(None),
            }
        }
    }
}

const SOFTWARE: &str = concat!("firstmile-relay ", env!("CARGO_PKG_VERSION"));

/// From the end of the handshake to the welcome.
pub(super) const GREETING_TIMEOUT: Duration = Duration::from_secs(5);

const LAST_WORDS_TIMEOUT: Duration = Duration::from_secs(1);

const READ_LEN: usize = 16 * 1024;

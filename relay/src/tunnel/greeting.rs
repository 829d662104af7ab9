//! The first words of a connection: from a certificate to a connector that may be served.
//!
//! Until the welcome the peer is a stranger: it may send one control stream of small messages, and has
//! [`GREETING_TIMEOUT`] for all of it.

use std::time::Duration;

use firstmile_shared::{
    secret::to_hex,
    tls::Spki,
    tunnel::{
        VERSION,
        clock::Ping,
        close::Close,
        control::{FromConnector, FromRelay, Received},
    },
};
use quinn::{Connection, rustls::pki_types::CertificateDer};
use tokio::time;
use tracing::{info, warn};

use super::{
    Shared,
    link::Link,
    words::{Heard, Words, WordsError, answer},
};
use crate::{auth::ConnectorRecord, metrics::Refused};

/// A connector that was welcomed.
pub(super) struct Guest {
    pub(super) record: ConnectorRecord,
    /// Its program and version, as it says.
    pub(super) software: String,
    /// The run of its program.
    pub(super) run: u64,
    /// An older connection of this run still delivers.
    pub(super) handover: bool,
}

/// Why nobody was welcomed.
#[derive(Debug, thiserror::Error)]
pub(super) enum GreetingError {
    #[error(transparent)]
    Words(#[from] WordsError),
    #[error("it left")]
    Left,
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
            Self::Words(error) => error.close(),
            Self::TooSlow => Close::TooSlow,
            Self::Left => Close::Bye,
        }
    }
}

/// Enrols and welcomes one whose key is `spki`. The time for all of it is limited here. `words` is `None` until the peer
/// has opened its control stream.
pub(super) async fn greet(
    shared: &Shared,
    link: &Link,
    spki: Spki,
    words: &mut Option<Words>,
) -> Result<Guest, GreetingError> {
    let greeting = async {
        tokio::select! {
            guest = talk(shared, link, spki, words) => guest,
            error = answer_pings(link) => Err(error.into()),
        }
    };
    time::timeout(GREETING_TIMEOUT, greeting)
        .await
        .unwrap_or(Err(GreetingError::TooSlow))
}

/// Clocks are compared from the start, so that the first unit's times mean something.
async fn answer_pings(link: &Link) -> WordsError {
    let Link::Quic(connection) = link else {
        // They come with the words.
        return std::future::pending().await;
    };
    loop {
        match connection.read_datagram().await {
            Ok(datagram) => answer_ping(link, &datagram),
            Err(error) => return error.into(),
        }
    }
}

/// Sends the pong of a ping that came in a datagram; anything else is ignored.
pub(super) fn answer_ping(link: &Link, datagram: &[u8]) {
    if let (Link::Quic(connection), Some(ping)) = (link, Ping::decode(datagram)) {
        // It may be lost on the way just as well.
        let _ = connection.send_datagram(answer(ping).encode());
    }
}

/// Who is at the other end: proved by the handshake.
pub(super) fn identity(connection: &Connection) -> Option<Spki> {
    let chain = connection
        .peer_identity()?
        .downcast::<Vec<CertificateDer<'static>>>()
        .ok()?;
    Spki::of_certificate(chain.first()?).ok()
}

async fn talk(
    shared: &Shared,
    link: &Link,
    spki: Spki,
    words: &mut Option<Words>,
) -> Result<Guest, GreetingError> {
    if let (Link::Quic(connection), None) = (link, &words) {
        *words = Some(Words::accept(connection).await?);
    }
    let Some(words) = words else {
        return Err(GreetingError::Left);
    };
    loop {
        let message = match words.reader.next().await? {
            Heard::Message(Received::Message(message)) => message,
            Heard::Ping(ping) => {
                words.writer.answer(ping).await?;
                continue;
            }
            Heard::Message(Received::Unknown(_)) | Heard::Pong(_) => continue,
            Heard::Left => return Err(GreetingError::Left),
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
                    words.writer.say(&enrolled).await?;
                }
                Err(error) => {
                    shared.metrics.refused(Refused::Token);
                    let close = match error {
                        crate::auth::EnrolError::Unavailable(_) => Close::Busy,
                        _ => Close::Token,
                    };
                    info!(connector = %spki, %error, "join refused");
                    return refuse(words, close, error.to_string()).await;
                }
            },
            FromConnector::Hello {
                version,
                software,
                session: run,
                handover,
                ..
            } => {
                if version < VERSION {
                    return refuse(words, Close::Version, Close::Version.sentence().to_owned())
                        .await;
                }
                let Some((record, salt)) = find(shared, &spki) else {
                    shared.metrics.refused(Refused::UnknownConnector);
                    warn!(connector = %spki, "an unknown connector, or one that was revoked");
                    return refuse(words, Close::Unknown, Close::Unknown.sentence().to_owned())
                        .await;
                };
                if !shared.registry.has_room(&record.studio, spki) {
                    shared.metrics.refused(Refused::Full);
                    info!(studio = record.studio, connector = %spki, "no room: limits.connectors, limits.connectors_per_studio");
                    return refuse(words, Close::Busy, Close::Busy.sentence().to_owned()).await;
                }
                words.reader.trust();
                let welcome = FromRelay::Welcome {
                    version: VERSION,
                    studio: record.studio.clone(),
                    salt: to_hex(&salt),
                    software: SOFTWARE.to_owned(),
                    ingest: shared.ingest.clone(),
                };
                words.writer.say(&welcome).await?;
                return Ok(Guest {
                    record,
                    software,
                    run,
                    handover,
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
async fn refuse<T>(words: &mut Words, close: Close, message: String) -> Result<T, GreetingError> {
    let refused = FromRelay::Refused {
        code: close.code(),
        message: message.clone(),
    };
    words.writer.say(&refused).await?;
    words.writer.last_words().await;
    Err(GreetingError::Refused { close, message })
}

const SOFTWARE: &str = concat!("firstmile-relay ", env!("CARGO_PKG_VERSION"));

/// From the end of the handshake to the welcome.
pub(super) const GREETING_TIMEOUT: Duration = Duration::from_secs(5);

//! A bare connector: speaks the tunnel's protocol to a real relay and counts or keeps what comes. No playout, no
//! decoder.

use std::{net::UdpSocket, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use firstmile_shared::{
    quic::{self, Transport},
    secret::{StreamKey, from_hex},
    tls::{Identity, Pins, SERVER_NAME},
    token::JoinToken,
    tunnel::{
        VERSION,
        control::{
            self, Decoder, FromConnector, FromRelay, LagPolicy, LineDeclaration, MESSAGE_LEN_MAX,
            Received, Takeover, TrackReport,
        },
        unit::{STREAM_LEN_MAX, Unit},
    },
};
use quinn::{Connection, RecvStream, SendStream};
use tokio::{task::JoinSet, time};

use super::meter::Arrivals;

/// A session that was welcomed.
#[derive(Debug)]
pub struct Studio {
    connection: Connection,
    control: Control,
    salt: [u8; 32],
}

#[derive(Debug)]
struct Control {
    send: SendStream,
    receive: RecvStream,
    decoder: Decoder,
}

impl Studio {
    /// Dials, redeems `token`, says hello.
    pub async fn join(token: &JoinToken) -> anyhow::Result<Self> {
        let identity = Identity::ephemeral()?;
        let pins = Pins::new(token.pins.clone());
        let config = quic::client_config(&identity, pins, Transport::default())?;
        let endpoint = quic::dialer(UdpSocket::bind("127.0.0.1:0")?)?;
        let address = token.addresses.first().context("an address")?.parse()?;
        let connection = endpoint.connect_with(config, address, SERVER_NAME)?.await?;
        let (send, receive) = connection.open_bi().await?;
        let mut control = Control {
            send,
            receive,
            decoder: Decoder::new(MESSAGE_LEN_MAX),
        };
        control
            .say(&FromConnector::Enrol {
                token: token.id.clone(),
                secret: token.secret.clone(),
                name: "bench".into(),
            })
            .await?;
        control
            .say(&FromConnector::Hello {
                version: VERSION,
                name: "bench".into(),
                software: "bench-tunnel".into(),
                session: 1,
                handover: false,
            })
            .await?;
        let salt = loop {
            if let FromRelay::Welcome { salt, .. } = control.hear().await? {
                break from_hex(&salt).context("the salt")?;
            }
        };
        Ok(Self {
            connection,
            control,
            salt,
        })
    }

    /// Declares one line for each key; returns when the relay has stored them.
    pub async fn declare(&mut self, keys: &[StreamKey], delay_ms: u32) -> anyhow::Result<()> {
        let lines = (1..)
            .zip(keys)
            .map(|(line, key)| LineDeclaration {
                line,
                name: format!("Camera {line}"),
                key_hash: key.hash(&self.salt).to_hex(),
                enabled: true,
                delay_ms,
                takeover: Takeover::default(),
                lag: LagPolicy::Reconnect,
                max_lag_ms: 3_000,
            })
            .collect();
        self.control
            .say(&FromConnector::Declare {
                generation: 1,
                lines,
            })
            .await?;
        loop {
            if let FromRelay::Declared { refused, .. } = self.control.hear().await? {
                if refused.is_empty() {
                    return Ok(());
                }
                bail!("lines refused: {refused:?}");
            }
        }
    }

    /// Keeps all that comes of the next feed, until it has ended and nothing has come for a while.
    pub async fn take_feed(&mut self) -> anyhow::Result<Feed> {
        let mut streams = JoinSet::new();
        let (mut feed, mut is_over) = (Feed::default(), false);
        loop {
            let patience = if is_over { QUIET } else { PATIENCE };
            tokio::select! {
                accepted = self.connection.accept_uni() => {
                    let mut stream = accepted?;
                    streams.spawn(async move { stream.read_to_end(STREAM_LEN_MAX).await });
                }
                heard = self.control.hear() => match heard? {
                    FromRelay::FeedEnded { .. } => is_over = true,
                    FromRelay::Tracks { tracks, .. } => feed.tracks = tracks,
                    FromRelay::Dropped { from_seq, to_seq, .. } => {
                        feed.dropped += to_seq - from_seq + 1;
                    }
                    _ => {}
                },
                Some(read) = streams.join_next() => {
                    // A stream that was reset is a unit that will not come.
                    if let Ok(bytes) = read? {
                        feed.units.push(Unit::decode(bytes.into())?);
                    }
                }
                () = time::sleep(patience) => {
                    if !is_over {
                        bail!("nothing has come for {PATIENCE:?} of a feed that has not ended: {} units", feed.units.len());
                    }
                    feed.units.sort_unstable_by_key(|unit| unit.seq);
                    return Ok(feed);
                }
            }
        }
    }

    /// The connection, to hang up.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Counts units until the connection ends.
    pub async fn count(mut self, arrivals: Arc<Arrivals>) {
        let mut streams = JoinSet::new();
        loop {
            tokio::select! {
                accepted = self.connection.accept_uni() => match accepted {
                    Ok(stream) => {
                        streams.spawn(count_unit(stream, Arc::clone(&arrivals)));
                    }
                    Err(_) => return,
                },
                // Read, so that the relay's reports do not pile up.
                heard = self.control.hear() => if heard.is_err() {
                    return;
                },
                Some(_) = streams.join_next() => {}
            }
        }
    }
}

/// All that came of one feed.
#[derive(Debug, Default)]
pub struct Feed {
    /// In the order in which the relay got them.
    pub units: Vec<Unit>,
    /// As the relay named them last.
    pub tracks: Vec<TrackReport>,
    /// Units that the relay left out.
    pub dropped: u64,
}

/// An encoder that starts may take this long.
const PATIENCE: Duration = Duration::from_secs(30);

/// Units of a feed that has ended come at once.
const QUIET: Duration = Duration::from_millis(400);

async fn count_unit(mut stream: RecvStream, arrivals: Arc<Arrivals>) -> anyhow::Result<()> {
    let unit = Unit::decode(stream.read_to_end(STREAM_LEN_MAX).await?.into())?;
    arrivals.add(&unit.access_unit.payload);
    Ok(())
}

impl Control {
    async fn say(&mut self, message: &FromConnector) -> anyhow::Result<()> {
        Ok(self.send.write_all(&control::encode(message)).await?)
    }

    /// The next message; waits may be given up without loss.
    async fn hear(&mut self) -> anyhow::Result<FromRelay> {
        loop {
            match self.decoder.poll()? {
                Some(Received::Message(FromRelay::Refused { message, .. })) => {
                    bail!("the relay refused: {message}")
                }
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
}

//! The connections to the relays: their interface, until the sessions are in.

use std::path::Path;

use firstmile_shared::{exit::ExitCode, token::JoinToken, tunnel::control::IngestAddresses};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::lines::Lines;

/// How the connection to a relay is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RelayState {
    /// After the relay's welcome.
    Connected,
    /// Trying.
    Dialing,
    /// The relay does not take us.
    Refused,
}

/// One relay at one moment.
#[derive(Clone, Debug, Serialize)]
pub struct RelaySnapshot {
    /// `HOST:PORT` as dialled.
    pub address: String,
    /// How the connection is.
    pub state: RelayState,
    /// Why it is not connected.
    pub reason: Option<String>,
    /// `quic`.
    pub transport: &'static str,
    /// Round trip, milliseconds.
    pub rtt_ms: Option<f64>,
    /// Of the last seconds.
    pub lost_percent: Option<f64>,
    /// The studio that was joined there.
    pub studio: Option<String>,
    /// Where encoders find the relay.
    #[serde(skip)]
    pub ingest: IngestAddresses,
}

/// What joining led to.
#[derive(Clone, Debug)]
pub struct Joined {
    /// The studio.
    pub studio: String,
    /// The relay's address.
    pub relay: String,
}

/// Why a token was not redeemed.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("this build can't connect to relays yet")]
pub struct JoinError;

impl JoinError {
    /// For the command line.
    pub const fn exit_code(&self) -> ExitCode {
        ExitCode::Unavailable
    }
}

/// All relays that were joined. Clones share them.
#[derive(Clone, Debug)]
pub struct Tunnels {
    lines: Lines,
}

impl Tunnels {
    /// Over a state folder.
    pub fn open(_state_dir: &Path, lines: Lines) -> anyhow::Result<Self> {
        Ok(Self { lines })
    }

    /// Keeps a connection to every relay until `shutdown`.
    pub async fn run(&self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let _ = self.lines.watch();
        shutdown.cancelled().await;
        Ok(())
    }

    /// Dials, pins, enrols and remembers.
    #[expect(clippy::unused_async, reason = "it will dial")]
    pub async fn join(&self, _token: &JoinToken) -> Result<Joined, JoinError> {
        Err(JoinError)
    }

    /// Forgets a relay.
    pub fn leave(&self, relay: &str) -> anyhow::Result<()> {
        anyhow::bail!("there is no relay {relay:?}")
    }

    /// Every relay at this moment.
    pub fn snapshot(&self) -> Vec<RelaySnapshot> {
        Vec::new()
    }
}

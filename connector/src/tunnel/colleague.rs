//! Join tokens for another machine of the studio: asked of a relay over its session.

use std::time::Duration;

use firstmile_shared::{exit::ExitCode, secret::Secret};
use tokio::{
    sync::{mpsc, oneshot},
    time,
};

/// A question to the session; it is dropped unanswered when the session ends.
pub(super) type InviteAsk = oneshot::Sender<Result<Invited, String>>;

/// What the relay gave.
#[derive(Debug)]
pub(super) struct Invited {
    pub(super) token: String,
    pub(super) secret: Secret,
    pub(super) expires_unix: u64,
}

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InviteError {
    /// There is no session with this relay.
    #[error(
        "relay {0} is not connected, and only it can let another machine in: try again when `firstmile-connector status` \
         shows it connected, or `leave` it"
    )]
    Away(String),
    /// It does not know the question, or is very slow.
    #[error(
        "relay {0} gave no join token in time: it may be of an older version, or its link very slow"
    )]
    Silent(String),
    /// It does not want to.
    #[error("relay {relay}: {message}")]
    Refused {
        /// Its address.
        relay: String,
        /// Its own sentence.
        message: String,
    },
}

impl InviteError {
    /// For the command line.
    pub const fn exit_code(&self) -> ExitCode {
        ExitCode::Unavailable
    }
}

/// Asks the session with `relay`.
pub(super) async fn ask(
    session: &mpsc::Sender<InviteAsk>,
    relay: &str,
) -> Result<Invited, InviteError> {
    let away = || InviteError::Away(relay.to_owned());
    let (ask, answer) = oneshot::channel();
    let asked = async {
        session.send(ask).await.map_err(|_| away())?;
        answer.await.map_err(|_| away())
    };
    let answer = (time::timeout(PATIENCE, asked).await)
        .map_err(|_| InviteError::Silent(relay.to_owned()))??;
    answer.map_err(|message| InviteError::Refused {
        relay: relay.to_owned(),
        message,
    })
}

/// A relay pauses 5 s between two tokens.
const PATIENCE: Duration = Duration::from_secs(12);

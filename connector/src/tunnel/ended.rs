//! Why a session with a relay ended, in words for the operator.

use std::time::Duration;

use firstmile_shared::{
    tcp::TcpError,
    text,
    tunnel::{close::Close, control::ControlError},
};
use quinn::{ConnectionError, ReadError, WriteError};

use super::{dial::DialError, is_final};

/// A modem that lost its cell needs a new connection sooner than QUIC gives up the old one.
pub(super) const SILENCE_MAX: Duration = Duration::from_secs(2);

/// Why there is no session (any more).
#[derive(Debug, thiserror::Error)]
pub(super) enum Ended {
    /// On purpose.
    #[error("stopped")]
    Stopped,
    /// No address led to it.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The relay said why: its sentence.
    #[error("{message}")]
    Refused {
        close: Option<Close>,
        message: String,
    },
    /// The relay closed the connection with a code.
    #[error("{}", .0.map_or("the relay closed the connection, for a reason that this version does not know", Close::sentence))]
    Closed(Option<Close>),
    /// Nothing came for [`SILENCE_MAX`].
    #[error("nothing came from the relay for {} s", SILENCE_MAX.as_secs())]
    Silent,
    /// No answer to the first words.
    #[error("the relay did not answer in time")]
    NoWelcome,
    /// The network.
    #[error("{}", lost(.0))]
    Connection(ConnectionError),
    /// The network, or what came is not this protocol, over TCP.
    #[error("{}", lost_tcp(.0))]
    Tcp(#[from] TcpError),
    /// The control stream.
    #[error("the relay ended the control stream")]
    NoControl,
    /// Not this protocol.
    #[error("the relay broke the tunnel protocol: {0}")]
    Protocol(#[from] ControlError),
    /// Not this protocol either.
    #[error("the relay broke the tunnel protocol: the salt of its welcome is not 64 hex digits")]
    BadSalt,
}

impl Ended {
    /// A refusal, in the relay's own words as far as they can be shown.
    pub(super) fn refused(code: u32, message: &str) -> Self {
        Self::Refused {
            close: Close::from_code(code.into()),
            message: printable(message),
        }
    }

    /// Whether a person has to do something first.
    pub(super) fn is_refusal(&self) -> bool {
        match self {
            Self::Refused { close, .. } => close.is_none_or(is_final),
            Self::Closed(close) => close.is_some_and(is_final),
            Self::Dial(error) => matches!(error, DialError::WrongPin(_)),
            Self::Stopped
            | Self::Silent
            | Self::NoWelcome
            | Self::Connection(_)
            | Self::Tcp(_)
            | Self::NoControl
            | Self::Protocol(_)
            | Self::BadSalt => false,
        }
    }

    /// What the relay is told.
    pub(super) const fn close(&self) -> Close {
        match self {
            Self::Protocol(_) | Self::BadSalt => Close::Protocol,
            Self::Tcp(error) => error.close(),
            Self::Silent | Self::NoWelcome => Close::TooSlow,
            _ => Close::Bye,
        }
    }
}

impl From<ConnectionError> for Ended {
    fn from(error: ConnectionError) -> Self {
        match error {
            ConnectionError::ApplicationClosed(closed) => {
                Self::Closed(Close::from_code(closed.error_code.into()))
            }
            other => Self::Connection(other),
        }
    }
}

impl From<ReadError> for Ended {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::ConnectionLost(error) => error.into(),
            _ => Self::NoControl,
        }
    }
}

impl From<WriteError> for Ended {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::ConnectionLost(error) => error.into(),
            _ => Self::NoControl,
        }
    }
}

fn lost(error: &ConnectionError) -> String {
    match error {
        ConnectionError::TimedOut => "the network to the relay was lost".to_owned(),
        ConnectionError::Reset => "the relay was restarted".to_owned(),
        other => format!("the connection to the relay was lost ({other})"),
    }
}

fn lost_tcp(error: &TcpError) -> String {
    match error.close() {
        Close::Protocol => format!("the relay broke the tunnel protocol: {error}"),
        _ => format!("the connection to the relay was lost ({error})"),
    }
}

/// What the relay says, fit for a terminal, a log and a page: a relay may be hostile.
pub(super) fn printable(text: &str) -> String {
    text.chars()
        .filter(|c| !text::is_deceptive(*c))
        .take(MESSAGE_CHARS_MAX)
        .collect()
}

const MESSAGE_CHARS_MAX: usize = 400;

//! How a program ends: exit codes that scripts rely on, and an error that says what to do.

use std::{fmt, io};

/// Exit codes after `sysexits.h`; product contract, never renumbered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    /// It worked.
    Ok = 0,
    /// The main job of a check did not work.
    Failed = 1,
    /// A wrong command line, or a mangled token.
    Usage = 2,
    /// What is asked for is not running or not reachable.
    Unavailable = 69,
    /// Reading or writing failed.
    Io = 74,
    /// The relay refused: wrong pin, used or expired token, revoked.
    Refused = 77,
    /// The configuration does not allow a start.
    Config = 78,
}

/// Why a program ends early: a code for scripts and a sentence for people.
///
/// The message says what failed, with which value, from which file or variable, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What the process returns.
    pub code: ExitCode,
    /// What standard error gets.
    pub message: String,
}

impl Failure {
    /// A failure with this code and message.
    pub fn new(code: ExitCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }

    /// Reading or writing failed: what was attempted, the system's reason, and what to do where that is known.
    pub fn io(what: impl fmt::Display, error: &io::Error) -> Self {
        let remedy = io_remedy(error).map_or(String::new(), |remedy| format!("; {remedy}"));
        Self::new(ExitCode::Io, format!("{what}: {error}{remedy}"))
    }

    /// The configuration does not allow a start.
    pub fn config(message: impl Into<String>) -> Self {
        Self::new(ExitCode::Config, message)
    }

    /// What is asked for is not running or not reachable.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(ExitCode::Unavailable, message)
    }
}

/// What a person can do about a file or folder that can't be used, as a clause; `None` where the reason says it all.
pub fn io_remedy(error: &io::Error) -> Option<&'static str> {
    Some(match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "make room on its disk",
        io::ErrorKind::ReadOnlyFilesystem => {
            "its disk can only be read: mount it for writing, or choose another place"
        }
        io::ErrorKind::PermissionDenied => {
            "let the user that this program runs as read and write it"
        }
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
            "something that is no folder is in its way: move that, or choose another place"
        }
        io::ErrorKind::IsADirectory => "a folder is in its place: move that",
        io::ErrorKind::InvalidData => "it is damaged: restore it from a backup",
        _ => return None,
    })
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code as u8)
    }
}

/// Runs a program's `main`: prints a failure on standard error and turns it into the exit code.
///
/// An [`anyhow::Error`] that holds a [`Failure`] keeps its code; any other ends with [`ExitCode::Io`].
#[expect(
    clippy::print_stderr,
    reason = "the one place where a program's last words are printed"
)]
pub fn report(program: &str, result: anyhow::Result<()>) -> std::process::ExitCode {
    let Err(error) = result else {
        return ExitCode::Ok.into();
    };
    let code = error
        .downcast_ref::<Failure>()
        .map_or(ExitCode::Io, |failure| failure.code);
    eprintln!("{program}: {error:#}");
    code.into()
}

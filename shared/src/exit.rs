//! How a program ends: exit codes that scripts rely on, and an error that says what to do.

use std::fmt;

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

    /// Reading or writing failed: what was attempted, and the system's reason.
    pub fn io(what: impl fmt::Display, error: &std::io::Error) -> Self {
        Self::new(ExitCode::Io, format!("{what}: {error}"))
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

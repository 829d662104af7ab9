//! Status as data: what `status --json` and `GET /api/v1/status` answer. Names and meaning of the fields are a
//! contract; a field without a value is `null`, never absent. No key is ever in it.

use serde::Serialize;

use crate::{playout::LineSnapshot, tunnel::RelaySnapshot};

/// The whole program at one moment.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// "0.1.0".
    pub version: &'static str,
    /// The machine's name, as it stands before the brackets of its NDI sources.
    pub host: String,
    /// The studio that was joined; `null` before.
    pub studio: Option<String>,
    /// The relays that were joined.
    pub relays: Vec<RelaySnapshot>,
    /// The lines in the order of the file.
    pub lines: Vec<LineStatus>,
    /// What an operator should know about the program itself, worst first.
    pub notices: Vec<Notice>,
}

/// One line.
#[derive(Clone, Debug, Serialize)]
pub struct LineStatus {
    /// The line's number in this connector.
    pub id: u32,
    /// Everything else.
    #[serde(flatten)]
    pub snapshot: LineSnapshot,
}

/// Something about the program itself that a person should know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Notice {
    /// How bad it is.
    pub severity: Severity,
    /// What is the matter, in one sentence.
    pub text: String,
    /// What to do about it.
    pub remedy: Option<String>,
}

/// How bad a notice is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Something does not work.
    Error,
    /// Something works less well than it could.
    Warning,
}

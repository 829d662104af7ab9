//! Where there are no helpers yet: what needs one works in this process instead.
//!
//! The place of a Windows version: `CreateProcess` with a named section and two anonymous pipes, a job object that ends
//! the helper with its parent, and a restricted token.

use std::io;

use super::HelperProgram;

/// Whether this system has helpers.
pub(crate) const CAN_HELP: bool = false;

/// Not used here.
pub(crate) const THIS_PROGRAM: &str = "";

/// A running helper: there is none.
#[derive(Debug)]
pub(crate) enum Helper {}

/// How a helper ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HelperEnd {
    /// In words, after "it ended".
    pub(crate) how: String,
    /// What it printed last.
    pub(crate) last_words: String,
}

/// What a helper writes pictures into: there is none.
#[derive(Debug)]
pub(crate) enum SharedMemory {}

/// A helper's memory: there is none.
#[derive(Debug)]
pub(crate) enum OwnMemory {}

/// What a helper works with.
#[derive(Debug)]
pub(crate) struct HelperSide {
    /// To its parent.
    pub(crate) channel: io::Empty,
    /// What the parent reads from.
    pub(crate) memory: OwnMemory,
}

impl Helper {
    pub(crate) fn start(_: &HelperProgram, _memory_len: usize) -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(crate) fn id(&self) -> u32 {
        match *self {}
    }

    pub(crate) fn memory(&self) -> &SharedMemory {
        match *self {}
    }

    pub(crate) fn send(&mut self, _: &[u8], _deadline_us: i64) -> io::Result<()> {
        match *self {}
    }

    pub(crate) fn receive(&mut self, _: &mut [u8], _deadline_us: i64) -> io::Result<usize> {
        match *self {}
    }

    pub(crate) fn is_running(&mut self) -> bool {
        match *self {}
    }

    pub(crate) fn end(self, _is_ending: bool) -> HelperEnd {
        match self {}
    }
}

impl SharedMemory {
    pub(crate) fn len(&self) -> usize {
        match *self {}
    }

    pub(crate) fn copy_to(&self, _: &mut [u8]) -> bool {
        match *self {}
    }
}

impl OwnMemory {
    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        match *self {}
    }
}

pub(crate) fn become_helper() -> io::Result<HelperSide> {
    Err(io::ErrorKind::Unsupported.into())
}

pub(crate) fn confine(_bytes: u64) -> io::Result<bool> {
    Ok(false)
}

//! A helper: a child process of this program that does one thing for it, and whose end costs nothing but that.
//!
//! It speaks over a socket that is its standard input, gets memory to share as its standard output, and what it prints
//! on standard error is kept for the log. It inherits nothing else: no environment, no files.

use std::{
    fmt::Write as _,
    fs::File,
    io::{self, ErrorKind, Read, Write},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{
            net::UnixStream,
            process::{CommandExt, ExitStatusExt},
        },
    },
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use firstmile_shared::clock::now_us;
use tracing::error;

use super::{SharedMemory, set_nonblocking};
use crate::os::{HelperProgram, wait_until};

/// A running helper. It ends when this is dropped, and when this process ends, however it does.
#[derive(Debug)]
pub(crate) struct Helper {
    child: Child,
    channel: UnixStream,
    memory: SharedMemory,
    /// Its standard error, not waited for.
    words: File,
    ended: Option<ExitStatus>,
}

/// How a helper ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HelperEnd {
    /// In words, after "it ended": "by signal 11 (SIGSEGV)".
    pub(crate) how: String,
    /// What it printed last, made safe to print.
    pub(crate) last_words: String,
}

impl Helper {
    /// Starts `program` with `memory_len` bytes to share. Returns before it is ready.
    pub(crate) fn start(program: &HelperProgram, memory_len: usize) -> io::Result<Self> {
        let (memory, memory_fd) = SharedMemory::new(memory_len)?;
        let (channel, its_end) = UnixStream::pair()?;
        channel.set_read_timeout(Some(STEP))?;
        channel.set_write_timeout(Some(STEP))?;
        let mut command = Command::new(&program.path);
        command
            .args(&program.arguments)
            .env_clear()
            .envs(
                program
                    .environment
                    .iter()
                    .map(|(name, value)| (name, value)),
            )
            // The terminal's Ctrl-C is for the program; the helper goes with it.
            .process_group(0)
            .stdin(Stdio::from(OwnedFd::from(its_end)))
            .stdout(Stdio::from(memory_fd))
            .stderr(Stdio::piped());
        if let Some(name) = &program.shown_as {
            command.arg0(name);
        }
        let mut child = command.spawn()?;
        let words = child.stderr.take().ok_or(ErrorKind::BrokenPipe)?;
        let words = File::from(OwnedFd::from(words));
        let helper = Self {
            child,
            channel,
            memory,
            words,
            ended: None,
        };
        set_nonblocking(helper.words.as_raw_fd())?;
        Ok(helper)
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it writes pictures into.
    pub(crate) fn memory(&self) -> &SharedMemory {
        &self.memory
    }

    /// Sends all of `bytes`, until `deadline_us` of the clock.
    pub(crate) fn send(&mut self, mut bytes: &[u8], deadline_us: i64) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.channel.write(bytes) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
                Err(error) => retry(error, deadline_us)?,
            }
        }
        Ok(())
    }

    /// Receives some bytes, until `deadline_us` of the clock; none: it has closed its end.
    pub(crate) fn receive(&mut self, into: &mut [u8], deadline_us: i64) -> io::Result<usize> {
        loop {
            match self.channel.read(into) {
                Ok(_) if now_us() > deadline_us => return Err(ErrorKind::TimedOut.into()),
                Ok(read) => return Ok(read),
                Err(error) => retry(error, deadline_us)?,
            }
        }
    }

    /// Whether it still runs.
    pub(crate) fn is_running(&mut self) -> bool {
        self.ended.is_none() && matches!(self.child.try_wait(), Ok(None))
    }

    /// Ends it. `is_ending`: it closed its end, so it may be about to end by itself and its own way is worth to know.
    pub(crate) fn end(mut self, is_ending: bool) -> HelperEnd {
        if is_ending {
            self.reap(LAST_STEPS_US);
        }
        let was_killed = self.ended.is_none();
        self.kill();
        HelperEnd {
            how: match self.ended {
                Some(status) if !was_killed => describe(status),
                _ => "by this program".to_owned(),
            },
            last_words: self.last_words(),
        }
    }

    fn kill(&mut self) {
        if self.ended.is_some() {
            return;
        }
        if let Err(error) = self.child.kill() {
            error!(pid = self.id(), %error, "a helper process can't be ended");
        }
        self.reap(KILL_MAX_US);
        if self.ended.is_none() {
            error!(pid = self.id(), "a helper process does not end");
        }
    }

    fn reap(&mut self, patience_us: i64) {
        let until_us = now_us() + patience_us;
        loop {
            if let Ok(Some(status)) = self.child.try_wait() {
                self.ended = Some(status);
                return;
            }
            if now_us() >= until_us {
                return;
            }
            wait_until(now_us() + REAP_STEP_US);
        }
    }

    fn last_words(&mut self) -> String {
        let mut words = [0; WORDS_MAX];
        let len = self.words.read(&mut words).unwrap_or(0);
        let text = String::from_utf8_lossy(words.get(..len).unwrap_or_default());
        text.trim().escape_debug().to_string()
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Goes on after an interruption and until the deadline after a step's wait.
fn retry(error: io::Error, deadline_us: i64) -> io::Result<()> {
    match error.kind() {
        ErrorKind::Interrupted => Ok(()),
        ErrorKind::WouldBlock | ErrorKind::TimedOut if now_us() < deadline_us => Ok(()),
        ErrorKind::WouldBlock => Err(ErrorKind::TimedOut.into()),
        _ => Err(error),
    }
}

fn describe(status: ExitStatus) -> String {
    let Some(signal) = status.signal() else {
        return format!("with code {}", status.code().unwrap_or(-1));
    };
    let mut text = format!("by signal {signal}");
    if let Some((_, name)) = SIGNALS.iter().find(|(number, _)| *number == signal) {
        let _ = write!(text, " ({name})");
    }
    text
}

/// What ends a program that did not mean to end.
const SIGNALS: [(i32, &str); 8] = [
    (libc::SIGILL, "SIGILL"),
    (libc::SIGABRT, "SIGABRT"),
    (libc::SIGBUS, "SIGBUS"),
    (libc::SIGFPE, "SIGFPE"),
    (libc::SIGKILL, "SIGKILL"),
    (libc::SIGSEGV, "SIGSEGV"),
    (libc::SIGTERM, "SIGTERM"),
    (libc::SIGSYS, "SIGSYS"),
];

/// How often a wait looks at its deadline.
const STEP: Duration = Duration::from_millis(100);

/// From the end of its socket to the end of a process.
const LAST_STEPS_US: i64 = 50_000;

/// A killed process is gone at once, unless the system itself hangs.
const KILL_MAX_US: i64 = 500_000;
const REAP_STEP_US: i64 = 1_000;

/// A panic's message and place fit.
const WORDS_MAX: usize = 1_024;

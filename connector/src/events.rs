//! What happened, in plain words with its time: for the operator who was looking elsewhere.
//!
//! The newest are in memory for the page and the API; all go to `STATE/events.jsonl`, one JSON object a line, which
//! is put aside as `events.1.jsonl` when it is full: never more than two files of [`FILE_LEN_MAX`]. No key and no
//! token is ever in them. Noting never waits: the disk is [`Events::run`]'s affair, and a full disk loses the file's
//! copy only.

use std::{
    collections::VecDeque,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use firstmile_shared::{clock, date, os, text};
use serde::{Deserialize, Serialize};
use tokio::{task, time};
use tokio_util::sync::CancellationToken;
use tracing::warn;

mod follow;

use crate::lines::Lines;

use self::follow::Follow;

/// What kind of thing happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Kind {
    /// The program started.
    Started,
    /// An encoder's feed began.
    FeedStarted,
    /// It ended.
    FeedEnded,
    /// Another encoder has the line now.
    TookOver,
    /// A second encoder uses the line's key and waits.
    Held,
    /// One that waited does not any more.
    Released,
    /// The operator refused one.
    Refused,
    /// Encoders fought for the line and the choice is frozen.
    Frozen,
    /// It is free again.
    Unfrozen,
    /// The relay welcomed this connector.
    RelayConnected,
    /// The connection to the relay is gone.
    RelayLost,
    /// The relay does not take this connector.
    RelayRefused,
    /// A line was added.
    LineAdded,
    /// A line was removed.
    LineRemoved,
    /// An encoder did not catch up, and is shown later from then on.
    LagAccepted,
    /// The source shows no pictures of the feed any more.
    SlateShown,
    /// It shows them again.
    PicturesShown,
    /// The decoder was started again.
    DecoderRestarted,
    /// The encoder's connection is there and nothing comes by it.
    FeedStalled,
    /// It sends again.
    FeedResumed,
    /// One of a later version.
    #[serde(other)]
    Other,
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When, RFC 3339.
    pub at: String,
    /// What kind of thing.
    pub kind: Kind,
    /// The line's name.
    pub line: Option<String>,
    /// The relay's address.
    pub relay: Option<String>,
    /// What happened, in a clause without controls. Encoders' own names may be in it: escape it wherever it is shown.
    pub text: String,
}

impl Event {
    /// Now.
    pub fn new(kind: Kind, text: impl Into<String>) -> Self {
        Self {
            at: date::rfc3339(clock::unix_now()),
            kind,
            line: None,
            relay: None,
            text: printable(&text.into()),
        }
    }

    /// About this line.
    #[must_use]
    pub fn line(self, name: &str) -> Self {
        Self {
            line: Some(name.to_owned()),
            ..self
        }
    }

    /// About this relay.
    #[must_use]
    pub fn relay(self, address: &str) -> Self {
        Self {
            relay: Some(address.to_owned()),
            ..self
        }
    }
}

/// What happened lately. Clones share it.
#[derive(Clone, Debug)]
pub struct Events {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    folder: PathBuf,
    log: Mutex<Log>,
}

#[derive(Debug, Default)]
struct Log {
    newest: VecDeque<Event>,
    /// How many of the newest are not on disk.
    unwritten: usize,
    /// Something of this run is in the file.
    has_written: bool,
}

impl Events {
    /// Those of a state folder. Reads the disk; what can't be read is not there.
    pub fn open(state_dir: &Path) -> Self {
        let mut newest = VecDeque::new();
        for name in [OLD_FILE, FILE] {
            for event in read(&state_dir.join(name)) {
                remember(&mut newest, event);
            }
        }
        Self {
            inner: Arc::new(Inner {
                folder: state_dir.to_owned(),
                log: Mutex::new(Log {
                    newest,
                    ..Log::default()
                }),
            }),
        }
    }

    /// Notes something. Never waits.
    pub fn note(&self, event: Event) {
        let mut log = self.log();
        remember(&mut log.newest, event);
        log.unwritten = (log.unwritten + 1).min(log.newest.len());
    }

    /// The newest, the oldest of them first.
    pub fn list(&self) -> Vec<Event> {
        self.log().newest.iter().cloned().collect()
    }

    /// Follows the lines and writes what happened to disk, until `shutdown`.
    pub async fn run(&self, lines: &Lines, shutdown: CancellationToken) -> anyhow::Result<()> {
        let mut follow = Follow::default();
        let mut look = time::interval(LOOK_INTERVAL);
        look.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
        loop {
            let is_over = (shutdown.run_until_cancelled(look.tick()).await).is_none();
            for event in follow.look(lines) {
                self.note(event);
            }
            let events = self.clone();
            let written = task::spawn_blocking(move || events.write()).await?;
            if let Err(error) = written {
                warn!(%error, "{FILE} can't be written; what happened is in the log and on the page");
            }
            if is_over {
                return Ok(());
            }
        }
    }

    /// Appends what is not on disk.
    fn write(&self) -> io::Result<()> {
        let mut text = Vec::new();
        {
            let mut log = self.log();
            let first = log.newest.len() - log.unwritten;
            if log.unwritten > 0 && !std::mem::replace(&mut log.has_written, true) {
                // A line that a crash cut off ends here.
                text.push(b'\n');
            }
            for event in log.newest.range(first..) {
                serde_json::to_writer(&mut text, event)?;
                text.push(b'\n');
            }
            log.unwritten = 0;
        }
        if text.is_empty() {
            return Ok(());
        }
        let path = self.inner.folder.join(FILE);
        let len = fs::metadata(&path).map_or(0, |metadata| metadata.len());
        let file = if len == 0 {
            Some(os::create_private_file(&path)?)
        } else if len + text.len() as u64 > FILE_LEN_MAX {
            fs::rename(&path, self.inner.folder.join(OLD_FILE))?;
            Some(os::create_private_file(&path)?)
        } else {
            None
        };
        let mut file = match file {
            Some(file) => file,
            None => OpenOptions::new().append(true).open(&path)?,
        };
        file.write_all(&text)
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        (self.inner.log.lock()).unwrap_or_else(PoisonError::into_inner)
    }
}

fn remember(newest: &mut VecDeque<Event>, event: Event) {
    if newest.len() == NEWEST_MAX {
        newest.pop_front();
    }
    newest.push_back(event);
}

/// The events of a file, as far as they make sense.
fn read(path: &Path) -> Vec<Event> {
    let mut bytes = Vec::new();
    let whole =
        File::open(path).and_then(|file| file.take(2 * FILE_LEN_MAX).read_to_end(&mut bytes));
    if whole.is_err() {
        return Vec::new();
    }
    (bytes.split(|byte| *byte == b'\n'))
        .filter_map(|line| serde_json::from_slice(line).ok())
        .collect()
}

/// Names of encoders come from strangers.
fn printable(text: &str) -> String {
    (text.chars())
        .filter(|c| !text::is_deceptive(*c))
        .take(TEXT_CHARS_MAX)
        .collect()
}

const FILE: &str = "events.jsonl";
const OLD_FILE: &str = "events.1.jsonl";

/// Some 4,000 events: a season of quiet shows, or a day of an encoder that comes and goes.
const FILE_LEN_MAX: u64 = 1024 * 1024;

/// In memory.
const NEWEST_MAX: usize = 500;

const TEXT_CHARS_MAX: usize = 400;

/// How soon what the lines show is noticed, and written.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests;

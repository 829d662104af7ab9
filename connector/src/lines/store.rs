//! `lines.toml` and `lines.json` on disk, and what they say together.
//!
//! Every change is written whole or not at all, and only then believed. Nothing here is asynchronous or shared: the
//! owner locks it.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::{Duration, SystemTime},
};

use firstmile_shared::{clock, ops, os, secret::StreamKey};
use ring::rand::SystemRandom;
use serde::{Deserialize, Serialize};

use super::{
    Line, LineSet, LinesError,
    file::{Entry, FILE_LEN_MAX, FileError, LinesFile, folded, next_id},
    settings::{Delay, Settings},
};

/// Why the files could not be used.
#[derive(Debug)]
pub(super) enum StoreError {
    /// Wrong content.
    File { path: PathBuf, error: FileError },
    /// The system's reason.
    Io { path: PathBuf, error: io::Error },
}

/// What a look at the disk found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reread {
    Unchanged,
    /// An edit by hand was taken over.
    Taken,
    /// The file was gone, or nothing was left in it, and is there again.
    Restored,
}

#[derive(Debug)]
pub(super) struct Store {
    path: PathBuf,
    counters_path: PathBuf,
    studio_delay: Delay,
    file: LinesFile,
    counters: Counters,
    set: LineSet,
    /// The file as it was when it was last looked at.
    seen: Option<Stamp>,
    /// Looks that found no file: editors take it away for a moment.
    missing: u8,
}

/// What must outlive the lines themselves.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Counters {
    generation: u64,
    /// The highest id ever given.
    last_id: u32,
}

/// What changes when somebody writes a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    len: u64,
}

impl Store {
    pub(super) fn open(state_dir: &Path, studio_delay: Delay) -> Result<Self, StoreError> {
        let mut store = Self {
            path: state_dir.join("lines.toml"),
            counters_path: state_dir.join("lines.json"),
            studio_delay,
            file: LinesFile::default(),
            counters: Counters::default(),
            set: LineSet::default(),
            seen: None,
            missing: 0,
        };
        store.counters = store.read_counters()?;
        let text = match ops::read_text(&store.path, FILE_LEN_MAX) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(store.io(error)),
        };
        let file = LinesFile::parse(&text).map_err(|error| store.wrong(error))?;
        store.seen = stamp(&store.path).ok().flatten();
        store.adopt(file)?;
        Ok(store)
    }

    pub(super) fn set(&self) -> &LineSet {
        &self.set
    }

    /// Looks whether somebody edited the file. An error is told once for each edit.
    pub(super) fn reread(&mut self) -> Result<Reread, StoreError> {
        let now = stamp(&self.path).map_err(|error| self.io(error))?;
        if now.is_none() {
            return self.restore();
        }
        if now == self.seen {
            self.missing = 0;
            return Ok(Reread::Unchanged);
        }
        let Some(text) = self.settled(now)? else {
            return Ok(Reread::Unchanged);
        };
        if self.is_wiped(&text) {
            return self.restore();
        }
        self.missing = 0;
        let before = std::mem::replace(&mut self.seen, now);
        let taken = self.take_over(&text);
        if let Err(StoreError::Io { .. }) = &taken {
            // Nothing is wrong with the edit: a disk that is full now may have room at the next look.
            self.seen = before;
        }
        taken.map(|()| Reread::Taken)
    }

    /// Nothing is left of lines that there are: what an editor leaves on a full disk, not what a person means, who has
    /// `line remove` for the last one.
    fn is_wiped(&self, text: &str) -> bool {
        text.trim().is_empty() && !self.set.lines.is_empty()
    }

    /// Like [`Store::reread`], but a broken edit is an error each time.
    pub(super) fn reread_for_edit(&mut self) -> Result<(), StoreError> {
        for _ in 0..SETTLE_TRIES {
            let now = stamp(&self.path).map_err(|error| self.io(error))?;
            if now.is_none() || now == self.seen && self.is_on_disk() {
                return Ok(());
            }
            if let Some(text) = self.settled(now)? {
                if self.is_wiped(&text) {
                    return Ok(());
                }
                let before = std::mem::replace(&mut self.seen, now);
                let taken = self.take_over(&text);
                if taken.is_err() {
                    // Who watches the file has not seen it yet, and names it to everybody else.
                    self.seen = before;
                }
                return taken;
            }
        }
        Err(self.io(io::Error::other("another program keeps writing it")))
    }

    /// The file's text once nobody writes it any more; `None` while somebody does.
    ///
    /// Many editors truncate a file and then write it: what is seen in between is half an edit, or an empty
    /// file that would end every line.
    fn settled(&self, before: Option<Stamp>) -> Result<Option<String>, StoreError> {
        // Not in a task: everything here reads and writes files and runs on a thread that may wait.
        thread::sleep(SETTLE);
        let text = ops::read_text(&self.path, FILE_LEN_MAX).map_err(|error| self.io(error))?;
        let after = stamp(&self.path).map_err(|error| self.io(error))?;
        Ok((before == after).then_some(text))
    }

    pub(super) fn add(&mut self, name: String, key: Option<StreamKey>) -> Result<Line, LinesError> {
        let mut file = self.file.clone();
        let id = next_id(&self.used_ids(&file), self.counters.last_id);
        let entry = Entry {
            id: Some(id),
            name,
            key: Some(key.unwrap_or_else(new_key)),
            enabled: true,
            settings: Settings::default(),
        };
        file.add([&entry]).map_err(LinesError::Change)?;
        self.adopt(file)?;
        self.line(id)
    }

    pub(super) fn add_all(&mut self, mut entries: Vec<Entry>) -> Result<(), LinesError> {
        let mut file = self.file.clone();
        for entry in &mut entries {
            entry.id = None;
        }
        file.add(&entries).map_err(LinesError::Change)?;
        // It gives them their ids.
        self.adopt(file)?;
        Ok(())
    }

    pub(super) fn remove(&mut self, id: u32) -> Result<Line, LinesError> {
        let line = self.line(id)?;
        let mut file = self.file.clone();
        if let Some(index) = self.index(id) {
            file.remove(index).map_err(LinesError::Change)?;
        }
        self.adopt(file)?;
        Ok(line)
    }

    pub(super) fn change(
        &mut self,
        id: u32,
        change: impl FnOnce(&mut Entry),
    ) -> Result<Line, LinesError> {
        let mut file = self.file.clone();
        if let Some(index) = self.index(id)
            && let Some(entry) = file.entries().get(index)
        {
            let mut entry = entry.clone();
            change(&mut entry);
            file.replace([(index, &entry)])
                .map_err(LinesError::Change)?;
        }
        self.adopt(file)?;
        self.line(id)
    }

    fn index(&self, id: u32) -> Option<usize> {
        let entries = self.file.entries();
        entries.iter().position(|entry| entry.id == Some(id))
    }

    fn line(&self, id: u32) -> Result<Line, LinesError> {
        let line = self.set.lines.iter().find(|line| line.id == id);
        line.cloned().ok_or_else(|| LinesError::Unknown {
            name: format!("number {id}"),
            names: self.set.lines.iter().map(|l| l.name.clone()).collect(),
        })
    }

    fn take_over(&mut self, text: &str) -> Result<(), StoreError> {
        let file = LinesFile::parse(text).map_err(|error| self.wrong(error))?;
        // Few editors do it, and what a relay is told of must outlast a power cut.
        let synced = ops::open_regular(&self.path).and_then(|file| file.sync_all());
        synced.map_err(|error| self.io(error))?;
        self.adopt(file)
    }

    fn restore(&mut self) -> Result<Reread, StoreError> {
        self.missing = self.missing.saturating_add(1);
        if self.missing < MISSING_LOOKS || self.seen.is_none() {
            return Ok(Reread::Unchanged);
        }
        self.missing = 0;
        self.write(&self.file.to_string())?;
        Ok(Reread::Restored)
    }

    /// Fills in what a person left out, writes what is new, and only then believes it.
    fn adopt(&mut self, mut file: LinesFile) -> Result<(), StoreError> {
        let mut counters = self.counters;
        let mut used = self.used_ids(&file);
        let mut completed = Vec::new();
        for (index, entry) in file.entries().iter().enumerate() {
            let known = self.known(&file, entry);
            let id = match (entry.id, known) {
                (Some(id), _) => id,
                (None, Some(line)) => line.id,
                (None, None) => next_id(&used, counters.last_id),
            };
            used.insert(id);
            counters.last_id = counters.last_id.max(id);
            if entry.id.is_some() && entry.key.is_some() {
                continue;
            }
            let key = entry
                .key
                .clone()
                .or_else(|| known.map(|line| line.key.clone()));
            completed.push((
                index,
                Entry {
                    id: Some(id),
                    key: Some(key.unwrap_or_else(new_key)),
                    ..entry.clone()
                },
            ));
        }
        if !completed.is_empty() {
            file.replace(completed.iter().map(|(index, entry)| (*index, entry)))
                .map_err(|error| self.wrong(error))?;
        }
        let lines = lines_of(&file, self.studio_delay);
        let is_first = self.set.generation == 0;
        if is_first || lines != self.set.lines {
            counters.generation = next_generation(counters.generation);
            self.write_counters(counters)?;
        }
        let text = file.to_string();
        // An editor may have left it with a mode of its own; it holds keys.
        if !self.is_same_on_disk(&text) || !self.is_private() {
            self.write(&text)?;
        }
        self.file = file;
        self.counters = counters;
        self.set = LineSet {
            generation: counters.generation,
            lines,
        };
        Ok(())
    }

    /// The ids of a file and of the lines that run: what a new line can't have.
    fn used_ids(&self, file: &LinesFile) -> BTreeSet<u32> {
        let in_file = file.entries().iter().filter_map(|entry| entry.id);
        let running = self.set.lines.iter().map(|line| line.id);
        in_file.chain(running).collect()
    }

    /// The running line that a hand-written one continues: the same id, else the same name if its id is free.
    fn known(&self, file: &LinesFile, entry: &Entry) -> Option<&Line> {
        let mut lines = self.set.lines.iter();
        match entry.id {
            Some(id) => lines.find(|line| line.id == id),
            None => lines.find(|line| {
                folded(&line.name) == folded(&entry.name)
                    && !file.entries().iter().any(|other| other.id == Some(line.id))
            }),
        }
    }

    fn is_on_disk(&self) -> bool {
        self.is_same_on_disk(&self.file.to_string())
    }

    /// No file is as good as an empty one.
    fn is_same_on_disk(&self, text: &str) -> bool {
        match ops::read_text(&self.path, FILE_LEN_MAX) {
            Ok(there) => there == text,
            Err(error) => text.is_empty() && error.kind() == io::ErrorKind::NotFound,
        }
    }

    fn is_private(&self) -> bool {
        os::is_private_owner(&self.path).unwrap_or(true)
    }

    fn write(&mut self, text: &str) -> Result<(), StoreError> {
        ops::write_atomic(&self.path, text.as_bytes()).map_err(|error| self.io(error))?;
        self.seen = stamp(&self.path).ok().flatten();
        Ok(())
    }

    fn read_counters(&self) -> Result<Counters, StoreError> {
        let path = &self.counters_path;
        let fail = |error| StoreError::Io {
            path: path.clone(),
            error,
        };
        match fs::read(path) {
            // Ours alone: when it is damaged, the clock gives a newer generation and the lines the highest id.
            Ok(json) => Ok(serde_json::from_slice(&json).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Counters::default()),
            Err(error) => Err(fail(error)),
        }
    }

    fn write_counters(&self, counters: Counters) -> Result<(), StoreError> {
        let json = serde_json::to_vec(&counters).unwrap_or_default();
        ops::write_atomic(&self.counters_path, &json).map_err(|error| StoreError::Io {
            path: self.counters_path.clone(),
            error,
        })
    }

    fn io(&self, error: io::Error) -> StoreError {
        let path = self.path.clone();
        StoreError::Io { path, error }
    }

    fn wrong(&self, error: FileError) -> StoreError {
        let path = self.path.clone();
        StoreError::File { path, error }
    }
}

fn lines_of(file: &LinesFile, studio_delay: Delay) -> Vec<Line> {
    (file.entries().iter())
        .filter_map(|entry| {
            Some(Line {
                id: entry.id?,
                name: entry.name.clone(),
                key: entry.key.clone()?,
                enabled: entry.enabled,
                delay_ms: entry.settings.delay.ms(studio_delay),
                takeover: entry.settings.takeover,
                settings: entry.settings.clone(),
            })
        })
        .collect()
}

/// At least the clock's seconds, so that a state folder restored from a backup is still newer to the relay.
fn next_generation(last: u64) -> u64 {
    let clock = u64::try_from(clock::unix_now()).unwrap_or(0);
    last.saturating_add(1).max(clock)
}

fn new_key() -> StreamKey {
    StreamKey::generate(&SystemRandom::new())
}

fn stamp(path: &Path) -> io::Result<Option<Stamp>> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(Some(Stamp {
            modified: metadata.modified().ok(),
            len: metadata.len(),
        })),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Longer than a busy machine leaves an editor between truncating a file and writing it.
const SETTLE: Duration = Duration::from_millis(50);
const SETTLE_TRIES: u32 = 20;

/// Looks, a second apart, after which a missing file is missing on purpose.
const MISSING_LOOKS: u8 = 3;

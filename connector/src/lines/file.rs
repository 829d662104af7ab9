//! `lines.toml` as text: read as a whole or refused as a whole, and edited so that comments survive.
//!
//! ```toml
//! [[line]]
//! id = 1                  # given by the program, never used twice
//! name = "Camera 1"
//! key = "7k2m-x9qd-h4tp"
//! enabled = false         # left out: true
//! delay = "safe"          # and the other settings of a line, all optional
//! ```
//!
//! A person may add a `[[line]]` with a name only: the program fills in `id` and `key`. No I/O and no random
//! source: the caller gives both.

use std::collections::{BTreeMap, BTreeSet};

use firstmile_shared::{
    secret::{KeyError, KeyHash, StreamKey},
    text,
    tunnel::control::LINES_MAX,
};
use toml_edit::{ArrayOfTables, DocumentMut, Item, Table, TomlError, value};

use super::settings::{KEYS, SettingError, Settings};

/// 256 lines with every setting, and 3 kB of comments on each.
pub const FILE_LEN_MAX: u64 = 1024 * 1024;

/// Most characters of a line's name.
pub const NAME_LEN_MAX: usize = 64;

/// One line as the file has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Given by the program; a hand-written line has none yet.
    pub id: Option<u32>,
    /// "Camera 1".
    pub name: String,
    /// A hand-written line may leave it to the program.
    pub key: Option<StreamKey>,
    /// Whether the line takes a feed.
    pub enabled: bool,
    /// Everything else.
    pub settings: Settings,
}

/// Why the file (or a change to it) was refused. The running lines stay as they are.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// Not TOML. The offending text is not kept: it may be a key.
    #[error("it is not valid TOML: {message}")]
    Syntax {
        /// What is wrong, and at which line and column.
        message: String,
    },
    /// A key outside the lines that this version does not know.
    #[error("unknown key {key:?}; the file consists of [[line]] sections")]
    UnknownKey {
        /// The key.
        key: String,
    },
    /// `line` is not an array of tables.
    #[error("each line is a section of its own that begins with [[line]]")]
    NotSections,
    /// Too many lines.
    #[error("{count} lines are more than {LINES_MAX}")]
    TooMany {
        /// The lines in the file.
        count: usize,
    },
    /// One line is wrong.
    #[error("line {label}: {error}")]
    Line {
        /// The line's name in quotes, or its place in the file.
        label: String,
        /// What is wrong with it.
        error: EntryError,
    },
}

/// What is wrong with one line.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EntryError {
    /// A line has a name.
    #[error("it has no name; a line needs at least name = \"Camera 1\"")]
    NoName,
    /// See [`check_name`].
    #[error(transparent)]
    Name(#[from] NameError),
    /// The key can't be one.
    #[error("its key was not taken: {0}")]
    Key(#[from] KeyError),
    /// Two lines share a key: a feed could not be told apart.
    #[error("its key is that of line {other:?}; each line needs its own")]
    KeyTaken {
        /// The other line's name.
        other: String,
    },
    /// The program's own number was edited.
    #[error(
        "its id is not a number from 1 to 4294967295 of its own; take the id away and the program gives it one"
    )]
    Id,
    /// `enabled` is true or false.
    #[error("enabled is true or false")]
    Enabled,
    /// A setting was refused.
    #[error(transparent)]
    Setting(#[from] SettingError),
}

/// Why a text can't be the name of a line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// Nothing that can be seen is left without the white space around it.
    #[error("a line's name must not be empty")]
    Empty,
    /// Longer than [`NAME_LEN_MAX`].
    #[error("a line's name has at most {NAME_LEN_MAX} characters, this one has {len}")]
    TooLong {
        /// Characters given.
        len: usize,
    },
    /// Line breaks, tabs, escape sequences, marks that turn the writing direction, and what hides.
    #[error(
        "a line's name must not contain control characters; there is one at position {position}"
    )]
    Control {
        /// Counted from 1.
        position: usize,
    },
    /// Another line has it, perhaps in other case.
    #[error("there is a line {other:?} already; names differ in more than upper and lower case")]
    Taken {
        /// The other line's name.
        other: String,
    },
}

/// A name as it is stored: without the white space around it, 1 to 64 characters, no controls, something to see.
pub fn check_name(name: &str) -> Result<String, NameError> {
    let name = name.trim();
    if let Some(position) = name.chars().position(text::is_deceptive) {
        return Err(NameError::Control {
            position: position + 1,
        });
    }
    match name.chars().count() {
        _ if !text::is_visible(name) => Err(NameError::Empty),
        len if len > NAME_LEN_MAX => Err(NameError::TooLong { len }),
        _ => Ok(name.to_owned()),
    }
}

/// What makes two names the same.
pub fn folded(name: &str) -> String {
    name.trim().to_lowercase()
}

/// The whole file: as text with its comments, and as what it says.
#[derive(Clone, Debug, Default)]
pub struct LinesFile {
    document: DocumentMut,
    entries: Vec<Entry>,
}

impl LinesFile {
    /// Reads the file, or says why not.
    pub fn parse(text: &str) -> Result<Self, FileError> {
        let document: DocumentMut =
            (text.parse()).map_err(|error: TomlError| FileError::Syntax {
                message: toml_message(&error),
            })?;
        let mut file = Self {
            document,
            entries: Vec::new(),
        };
        file.read()?;
        Ok(file)
    }

    /// The lines in the order of the file.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Appends lines: all of them or none.
    pub fn add<'a>(
        &mut self,
        entries: impl IntoIterator<Item = &'a Entry>,
    ) -> Result<(), FileError> {
        self.change(|tables| {
            for entry in entries {
                let mut table = Table::new();
                write_entry(&mut table, entry);
                tables.push(table);
            }
        })
    }

    /// Takes the line at `index` away, with the comments that stand in it.
    pub fn remove(&mut self, index: usize) -> Result<(), FileError> {
        self.change(|tables| drop(tables.remove(index)))
    }

    /// Brings the line at each index to its entry, all of them or none; what is the same already is not touched.
    pub fn replace<'a>(
        &mut self,
        entries: impl IntoIterator<Item = (usize, &'a Entry)>,
    ) -> Result<(), FileError> {
        self.change(|tables| {
            for (index, entry) in entries {
                if let Some(table) = tables.get_mut(index) {
                    write_entry(table, entry);
                }
            }
        })
    }

    /// Changes a copy, reads it again as if a person had typed it, and keeps it only if it is right. That takes all of
    /// the file's lines, so many changes come here together.
    fn change(&mut self, edit: impl FnOnce(&mut ArrayOfTables)) -> Result<(), FileError> {
        let mut next = self.clone();
        let item = (next.document.entry(LINE)).or_insert_with(|| ArrayOfTables::new().into());
        let tables = item
            .as_array_of_tables_mut()
            .ok_or(FileError::NotSections)?;
        edit(tables);
        next.read()?;
        *self = next;
        Ok(())
    }

    fn read(&mut self) -> Result<(), FileError> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut taken = Taken::default();
        for (key, item) in self.document.as_table() {
            if key != LINE {
                return Err(FileError::UnknownKey {
                    key: key.to_owned(),
                });
            }
            // An inline `line = []` is what remains when an editor tidies an empty list.
            let is_empty_list = item.as_array().is_some_and(toml_edit::Array::is_empty);
            let Some(tables) = item.as_array_of_tables() else {
                if is_empty_list {
                    continue;
                }
                return Err(FileError::NotSections);
            };
            if tables.len() > LINES_MAX {
                return Err(FileError::TooMany {
                    count: tables.len(),
                });
            }
            for (n, table) in tables.iter().enumerate() {
                let entry = read_entry(table)
                    .and_then(|entry| taken.take(&entry).map(|()| entry))
                    .map_err(|error| FileError::Line {
                        label: label(table, n),
                        error,
                    })?;
                entries.push(entry);
            }
        }
        self.entries = entries;
        Ok(())
    }
}

impl std::fmt::Display for LinesFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.document.fmt(f)
    }
}

fn read_entry(table: &Table) -> Result<Entry, EntryError> {
    let mut name = None;
    let mut entry = Entry {
        id: None,
        name: String::new(),
        key: None,
        enabled: true,
        settings: Settings::default(),
    };
    for (key, item) in table {
        match key {
            "id" => {
                let id = item.as_integer().and_then(|id| u32::try_from(id).ok());
                entry.id = Some(id.filter(|id| *id > 0).ok_or(EntryError::Id)?);
            }
            "name" => name = Some(check_name(&text_of(item))?),
            "key" => entry.key = Some(StreamKey::parse(&text_of(item))?),
            "enabled" => entry.enabled = item.as_bool().ok_or(EntryError::Enabled)?,
            setting => entry.settings.set(setting, &text_of(item))?,
        }
    }
    entry.name = name.ok_or(EntryError::NoName)?;
    Ok(entry)
}

/// Names, keys and ids are each line's own: those that lines have already.
#[derive(Default)]
struct Taken {
    ids: BTreeSet<u32>,
    /// What makes names and keys the same, with the name of the line that has it.
    names: BTreeMap<String, String>,
    keys: BTreeMap<KeyHash, String>,
}

impl Taken {
    fn take(&mut self, entry: &Entry) -> Result<(), EntryError> {
        if let Some(other) = (self.names).insert(folded(&entry.name), entry.name.clone()) {
            return Err(EntryError::Name(NameError::Taken { other }));
        }
        if entry.id.is_some_and(|id| !self.ids.insert(id)) {
            return Err(EntryError::Id);
        }
        // As a relay compares them: without regard to case and dashes.
        let key = entry.key.as_ref().map(|key| key.hash(&[0; 32]));
        if let Some(key) = key
            && let Some(other) = self.keys.insert(key, entry.name.clone())
        {
            return Err(EntryError::KeyTaken { other });
        }
        Ok(())
    }
}

fn write_entry(table: &mut Table, entry: &Entry) {
    if let Some(id) = entry.id {
        put(table, "id", i64::from(id).into());
    }
    put(table, "name", entry.name.as_str().into());
    if let Some(key) = &entry.key {
        put(table, "key", key.expose().into());
    }
    if !entry.enabled || table.contains_key("enabled") {
        put(table, "enabled", entry.enabled.into());
    }
    let default = Settings::default();
    for key in KEYS {
        let (Some(wanted), Some(unset)) = (entry.settings.get(key), default.get(key)) else {
            continue;
        };
        let mut current = Settings::default();
        if let Some(item) = table.get(key) {
            // It was read from here, so it is right; `5m` and `300s` are the same value.
            let _ = current.set(key, &text_of(item));
        }
        if current.get(key).as_deref() == Some(&wanted) {
            continue;
        }
        if wanted == unset {
            table.remove(key);
        } else {
            put(table, key, typed(&wanted));
        }
    }
}

/// Sets a value and keeps the comment behind it.
fn put(table: &mut Table, key: &str, mut new: toml_edit::Value) {
    match table.get_mut(key).and_then(Item::as_value_mut) {
        Some(old) if same_value(old, &new) => {}
        Some(old) => {
            *new.decor_mut() = old.decor().clone();
            *old = new;
        }
        None => drop(table.insert(key, value(new))),
    }
}

fn same_value(old: &toml_edit::Value, new: &toml_edit::Value) -> bool {
    text_of_value(old) == text_of_value(new)
}

/// Numbers are written as numbers.
fn typed(text: &str) -> toml_edit::Value {
    text.parse::<i64>().map_or_else(|_| text.into(), Into::into)
}

fn text_of(item: &Item) -> String {
    item.as_value().map_or_else(String::new, text_of_value)
}

/// Values are text first: `delay = 600` and `delay = "600"` are the same.
fn text_of_value(value: &toml_edit::Value) -> String {
    match value.as_str() {
        Some(text) => text.to_owned(),
        None => value.clone().decorated("", "").to_string(),
    }
}

fn label(table: &Table, index: usize) -> String {
    let name = table
        .get("name")
        .map(text_of)
        .and_then(|name| check_name(&name).ok());
    name.map_or_else(
        || format!("number {}", index + 1),
        |name| format!("{name:?}"),
    )
}

/// The parser's message is for a terminal: several lines, with the offending one shown. That one may hold a key, so
/// only the place and what is wrong are kept.
fn toml_message(error: &TomlError) -> String {
    let text = error.to_string();
    let place = text.lines().next().unwrap_or_default();
    let place = place.trim_start_matches("TOML parse error ");
    let what = error.message().trim_end().replace('\n', "; ");
    format!("{what} ({place})")
}

/// A free number for a line that has none: above every number ever given. A person may have written the highest there
/// is; then it is the lowest that no line has.
pub fn next_id(used: &BTreeSet<u32>, above: u32) -> u32 {
    let last = used.last().copied().unwrap_or(0).max(above);
    last.checked_add(1)
        .or_else(|| (1..=u32::MAX).find(|id| !used.contains(id)))
        .unwrap_or(u32::MAX)
}

const LINE: &str = "line";

#[cfg(test)]
mod tests;

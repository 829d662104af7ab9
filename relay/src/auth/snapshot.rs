//! The directory at one moment: immutable, shared, read without waiting. Pure.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use firstmile_shared::{
    secret::KeyHash,
    tls::Spki,
    tunnel::control::{LagPolicy, Takeover},
};

use crate::store::{ConnectorContents, Line, StudioContents};

/// All studios and connectors. A clone shares what did not change.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    studios: BTreeMap<String, Arc<Studio>>,
    connectors: HashMap<Spki, ConnectorRecord>,
}

/// A connector that may connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectorRecord {
    /// Who it is.
    pub spki: Spki,
    /// The studio it belongs to.
    pub studio: String,
    /// The name of its machine when it was enrolled.
    pub name: String,
    /// When it was enrolled, seconds since 1970.
    pub enrolled_unix: i64,
}

/// One studio: the world that its keys are looked up in.
#[derive(Clone, Debug)]
pub struct Studio {
    /// Its name.
    pub name: String,
    /// What its key hashes are made with.
    pub salt: [u8; 32],
    /// When it was made, seconds since 1970.
    pub created_unix: i64,
    connectors: Vec<ConnectorContents>,
    /// Enabled lines only.
    keys: HashMap<KeyHash, Vec<LineRecord>>,
}

/// An enabled line, found by its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineRecord {
    /// The connector that declared it.
    pub connector: Spki,
    /// That connector's number for it.
    pub line: u32,
    /// "Camera 1".
    pub name: String,
    /// The studio delay, milliseconds.
    pub delay_ms: u32,
    /// Who wins when a second encoder comes.
    pub takeover: Takeover,
    /// What becomes of an encoder that falls behind.
    pub lag: LagPolicy,
    /// By how much it may, milliseconds.
    pub max_lag_ms: u32,
}

/// The right to publish: a key that some connector of the studio declared.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Grant {
    /// The studio.
    pub studio: String,
    /// The key, as the studio's lines are found by it.
    pub key: KeyHash,
}

impl Snapshot {
    /// Puts a studio in, or takes it out.
    pub fn set(&mut self, name: &str, studio: Option<Studio>) {
        self.connectors
            .retain(|_, connector| connector.studio != name);
        let Some(studio) = studio else {
            self.studios.remove(name);
            return;
        };
        for connector in &studio.connectors {
            self.connectors.insert(
                connector.spki,
                ConnectorRecord {
                    spki: connector.spki,
                    studio: name.to_owned(),
                    name: connector.name.clone(),
                    enrolled_unix: connector.enrolled_unix,
                },
            );
        }
        self.studios.insert(name.to_owned(), Arc::new(studio));
    }

    /// All studios, by name.
    pub fn studios(&self) -> impl Iterator<Item = &Studio> {
        self.studios.values().map(Arc::as_ref)
    }

    /// One studio.
    pub fn studio(&self, name: &str) -> Option<&Studio> {
        self.studios.get(name).map(Arc::as_ref)
    }

    /// All connectors that may connect, by studio and then by age.
    pub fn connectors(&self) -> impl Iterator<Item = &ConnectorRecord> {
        self.studios()
            .flat_map(|studio| &studio.connectors)
            .filter_map(|connector| self.connectors.get(&connector.spki))
    }

    /// One connector.
    pub fn connector(&self, spki: &Spki) -> Option<&ConnectorRecord> {
        self.connectors.get(spki)
    }

    /// Looks a key up, as an encoder offered it, within its studio only.
    ///
    /// An unknown studio takes the same work as a wrong key: the time tells nobody which studios there are. Hashes
    /// are looked up in a plain table: without the salt nobody can choose them, so the time tells nothing there.
    pub fn grant(&self, studio: &str, offered_key: &str) -> Option<Grant> {
        let found = self.studio(studio);
        let salt = found.map_or([0; 32], |studio| studio.salt);
        let key = KeyHash::of(offered_key, &salt);
        let studio = found?;
        studio.keys.contains_key(&key).then(|| Grant {
            studio: studio.name.clone(),
            key,
        })
    }

    /// The enabled lines with this key, of all the studio's connectors.
    pub fn lines(&self, grant: &Grant) -> &[LineRecord] {
        self.studio(&grant.studio)
            .and_then(|studio| studio.keys.get(&grant.key))
            .map_or(&[], Vec::as_slice)
    }

    /// Whether exactly this declaration is the connector's present one.
    pub fn is_declared(&self, studio: &str, spki: &Spki, generation: u64, lines: &[Line]) -> bool {
        self.studio(studio)
            .and_then(|studio| studio.connectors.iter().find(|c| c.spki == *spki))
            .is_some_and(|c| c.generation == generation && c.lines == lines)
    }
}

impl Studio {
    /// Builds the look-up table of a studio's keys.
    pub fn new(contents: StudioContents) -> Self {
        let mut keys: HashMap<KeyHash, Vec<LineRecord>> = HashMap::new();
        for connector in &contents.connectors {
            for line in connector.lines.iter().filter(|line| line.enabled) {
                keys.entry(line.key).or_default().push(LineRecord {
                    connector: connector.spki,
                    line: line.line,
                    name: line.name.clone(),
                    delay_ms: line.delay_ms,
                    takeover: line.takeover,
                    lag: line.lag,
                    max_lag_ms: line.max_lag_ms,
                });
            }
        }
        Self {
            name: contents.name,
            salt: contents.salt,
            created_unix: contents.created_unix,
            connectors: contents.connectors,
            keys,
        }
    }

    /// How many connectors may connect.
    pub fn connectors_len(&self) -> usize {
        self.connectors.len()
    }

    /// How many lines its connectors declared, enabled or not.
    pub fn lines_len(&self) -> usize {
        self.connectors.iter().map(|c| c.lines.len()).sum()
    }
}

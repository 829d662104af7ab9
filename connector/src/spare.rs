//! The file that makes a second machine of the same studio: `export` writes it, `join --from` reads it.
//!
//! ```json
//! {"firstmile_export": 1, "tokens": ["fm1.…"], "lines": "[[line]]\nname = \"Camera 1\"\n…"}
//! ```
//!
//! It holds a join token of each relay, for one machine, and all lines with their keys: whoever has it can be the
//! studio. Not the connector's own identity: two machines with one would take each other's place at the relay.

use std::path::Path;

use firstmile_shared::{
    exit::{ExitCode, Failure},
    ops,
    secret::Secret,
    token::JoinToken,
};
use serde::{Deserialize, Serialize};

use crate::lines::{
    LineSet,
    file::{Entry, LinesFile, folded},
};

/// What a machine needs to become one more connector of a studio.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Spare {
    #[serde(rename = "firstmile_export")]
    version: u32,
    /// One join token for each relay.
    pub tokens: Vec<Secret>,
    /// `lines.toml` without the program's own numbers.
    lines: Secret,
}

impl Spare {
    /// Of these relays and lines.
    pub fn new(tokens: &[JoinToken], set: &LineSet) -> Result<Self, Failure> {
        let mut file = LinesFile::default();
        let entries: Vec<_> = (set.lines.iter())
            .map(|line| Entry {
                id: None,
                name: line.name.clone(),
                key: Some(line.key.clone()),
                enabled: line.enabled,
                settings: line.settings.clone(),
            })
            .collect();
        file.add(&entries)
            .map_err(|error| Failure::config(format!("lines: {error}")))?;
        Ok(Self {
            version: VERSION,
            tokens: (tokens.iter())
                .map(|token| Secret::new(token.encode()))
                .collect(),
            lines: Secret::new(file.to_string()),
        })
    }

    /// From the text of a file, whose name is for the error only.
    pub fn parse(text: &str, file: &Path) -> Result<Self, Failure> {
        let file = file.display();
        // What serde says may quote the secrets.
        let spare: Self = serde_json::from_str(text).map_err(|_| {
            Failure::new(
                ExitCode::Usage,
                format!("{file} is not a whole file of `firstmile-connector export`: export and copy it again"),
            )
        })?;
        if spare.version > VERSION {
            return Err(Failure::new(
                ExitCode::Usage,
                format!("{file} is of a later version: update this connector"),
            ));
        }
        Ok(spare)
    }

    /// The lines.
    pub fn lines(&self) -> Result<Vec<Entry>, Failure> {
        let lines = LinesFile::parse(self.lines.expose()).map_err(|error| {
            Failure::new(ExitCode::Usage, format!("the exported lines: {error}"))
        })?;
        Ok(lines.entries().to_vec())
    }

    /// Writes it for its owner only. Replaces nothing but another export.
    pub fn write(&self, file: &Path) -> Result<(), Failure> {
        match ops::read_text(file, FILE_LEN_MAX) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Ok(text) if Self::parse(&text, file).is_ok() => {}
            _ => {
                return Err(Failure::new(
                    ExitCode::Usage,
                    format!(
                        "{} is there already and is no export: give another name, or delete it first",
                        file.display()
                    ),
                ));
            }
        }
        // A bare name has an empty folder.
        let whole =
            std::path::absolute(file).map_err(|error| Failure::io(file.display(), &error))?;
        let json = serde_json::to_vec(self).unwrap_or_default();
        ops::write_atomic(&whole, &json).map_err(|error| Failure::io(file.display(), &error))
    }
}

/// Which of `entries` a studio with `set` still needs. A name that stands for another camera here is an error: nothing
/// is changed then.
pub fn missing(entries: Vec<Entry>, set: &LineSet) -> Result<Vec<Entry>, Failure> {
    let mut missing = Vec::new();
    for entry in entries {
        let mut here = set.lines.iter();
        let same = here.find(|line| {
            folded(&line.name) == folded(&entry.name) || Some(&line.key) == entry.key.as_ref()
        });
        match same {
            None => missing.push(entry),
            Some(line)
                if folded(&line.name) == folded(&entry.name)
                    && Some(&line.key) == entry.key.as_ref() => {}
            Some(line) => {
                return Err(Failure::new(
                    ExitCode::Usage,
                    format!(
                        "line {:?} of the export and line {:?} of this machine share a name or a key and are not the \
                         same line: rename or remove the one here",
                        entry.name, line.name
                    ),
                ));
            }
        }
    }
    Ok(missing)
}

const VERSION: u32 = 1;

/// 256 lines with all their settings are some 60 kB.
pub const FILE_LEN_MAX: u64 = 1024 * 1024;

#[cfg(test)]
mod tests {
    use firstmile_shared::secret::StreamKey;

    use super::*;
    use crate::lines::{Line, settings::Settings};

    fn line(name: &str, key: &str) -> Line {
        let mut settings = Settings::default();
        settings.set("takeover", "never").unwrap();
        Line {
            id: 7,
            name: name.into(),
            key: StreamKey::parse(key).unwrap(),
            enabled: false,
            delay_ms: 600,
            takeover: settings.takeover,
            settings,
        }
    }

    fn set(lines: &[Line]) -> LineSet {
        LineSet {
            generation: 1,
            lines: lines.to_vec(),
        }
    }

    #[test]
    fn lines_travel_with_their_keys_and_settings() {
        let studio = set(&[
            line("Camera 1", "front-camera"),
            line("Kran süd", "crane-key-2"),
        ]);
        let spare = Spare::new(&[], &studio).unwrap();
        let text = serde_json::to_string(&spare).unwrap();
        let read = Spare::parse(&text, Path::new("spare.json")).unwrap();
        let lines = read.lines().unwrap();
        for (entry, line) in lines.iter().zip(&studio.lines) {
            assert_eq!(entry.name, line.name);
            assert_eq!(entry.key.as_ref(), Some(&line.key));
            assert_eq!((entry.id, entry.enabled), (None, false));
            assert_eq!(entry.settings, line.settings);
        }
        assert_eq!(lines.len(), 2);
        let again = missing(lines, &studio).unwrap();
        assert!(again.is_empty(), "joining twice adds nothing: {again:?}");
    }

    #[test]
    fn another_camera_of_the_same_name_or_key_is_never_replaced() {
        let spare = Spare::new(&[], &set(&[line("Camera 1", "front-camera")])).unwrap();
        for here in [
            line("camera 1", "other-camera"),
            line("Other", "front-camera"),
        ] {
            let error = missing(spare.lines().unwrap(), &set(&[here])).unwrap_err();
            assert!(error.message.contains("Camera 1"), "{error}");
            assert!(!error.message.contains("front-camera"), "{error}");
        }
    }

    #[test]
    fn other_files_are_neither_read_nor_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let spare = Spare::new(&[], &set(&[])).unwrap();
        let file = folder.path().join("spare.json");
        spare.write(&file).unwrap();
        spare.write(&file).unwrap();
        for other in [
            "",
            "{}",
            "notes",
            r#"{"firstmile_export":2,"tokens":[],"lines":""}"#,
        ] {
            std::fs::write(&file, other).unwrap();
            assert!(Spare::parse(other, &file).is_err(), "{other}");
            let error = spare.write(&file).unwrap_err();
            assert!(error.message.contains("spare.json"), "{error}");
            assert_eq!(std::fs::read_to_string(&file).unwrap(), other);
        }
        #[cfg(unix)]
        {
            // What never ends must not be waited for.
            let error = spare.write(Path::new("/dev/zero")).unwrap_err();
            assert!(error.message.contains("is no export"), "{error}");
        }
    }
}

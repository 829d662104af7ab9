//! The relays that were joined: `STATE/relays.json`, mode 0600, never half-written.

use std::{
    io,
    path::{Path, PathBuf},
};

use firstmile_shared::{exit::Failure, ops, tls::Spki, tunnel::control::IngestAddresses};
use serde::{Deserialize, Serialize};

/// A relay that was joined. Its keys say which one it is; its addresses may change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Relay {
    /// `HOST:PORT`, best first; never empty.
    pub(super) addresses: Vec<String>,
    /// Its key, and the next one while it changes; never empty.
    pub(super) pins: Vec<Spki>,
    /// The studio that was joined there.
    pub(super) studio: String,
    /// Where encoders find it, as it said last: addresses of lines must not change while it is away.
    #[serde(default)]
    pub(super) ingest: IngestAddresses,
    /// Where it takes the tunnel beside HTTPS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) https_port: Option<u16>,
}

impl Relay {
    /// What operators call it.
    pub(super) fn name(&self) -> &str {
        self.addresses.first().map_or("", String::as_str)
    }

    fn is_called(&self, name: &str) -> bool {
        let name = name.trim();
        self.addresses.iter().any(|address| {
            let host = address.rsplit_once(':').map_or("", |(host, _)| host);
            let bare = host.trim_start_matches('[').trim_end_matches(']');
            [address.as_str(), host, bare]
                .iter()
                .any(|known| known.eq_ignore_ascii_case(name))
        })
    }

    /// Whether a connection made for the one serves the other.
    pub(super) fn is_dialled_like(&self, other: &Self) -> bool {
        let dialled = |relay: &Self| {
            (
                relay.addresses.clone(),
                relay.pins.clone(),
                relay.studio.clone(),
                relay.https_port,
            )
        };
        dialled(self) == dialled(other)
    }

    fn is_same(&self, other: &Self) -> bool {
        self.pins.iter().any(|pin| other.pins.contains(pin))
    }
}

/// All of them, and their file.
#[derive(Debug)]
pub(super) struct Book {
    file: PathBuf,
    relays: Vec<Relay>,
}

#[derive(Default, Serialize, Deserialize)]
struct Contents {
    relays: Vec<Relay>,
}

impl Book {
    /// Reads the file; a connector that never joined has none.
    pub(super) fn open(file: &Path) -> Result<Self, Failure> {
        let contents = match std::fs::read(file) {
            Ok(json) => serde_json::from_slice::<Contents>(&json)
                .ok()
                .filter(Contents::is_usable)
                .ok_or_else(|| {
                    Failure::config(format!(
                        "{} is not a list of relays any more: restore it, or delete it and join again",
                        file.display()
                    ))
                })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Contents::default(),
            Err(error) => return Err(Failure::io(file.display(), &error)),
        };
        Ok(Self {
            file: file.to_owned(),
            relays: contents.relays,
        })
    }

    pub(super) fn relays(&self) -> &[Relay] {
        &self.relays
    }

    /// Remembers a relay; a new token of a known one replaces what is known.
    pub(super) fn add(&mut self, relay: Relay) -> io::Result<()> {
        let mut relays = self.relays.clone();
        match relays.iter_mut().find(|known| known.is_same(&relay)) {
            Some(known) => *known = relay,
            None => relays.push(relay),
        }
        self.replace(relays)
    }

    /// Remembers where encoders find the relay of this key; writes nothing when that is known.
    pub(super) fn set_ingest(&mut self, pin: Spki, ingest: IngestAddresses) -> io::Result<()> {
        let mut relays = self.relays.clone();
        let known = (relays.iter_mut()).find(|relay| relay.pins.first() == Some(&pin));
        match known {
            Some(relay) if relay.ingest != ingest => relay.ingest = ingest,
            _ => return Ok(()),
        }
        self.replace(relays)
    }

    /// Forgets the relay of this name, an address or its host. `false`: there is none.
    pub(super) fn remove(&mut self, name: &str) -> io::Result<bool> {
        let mut relays = self.relays.clone();
        relays.retain(|relay| !relay.is_called(name));
        if relays.len() == self.relays.len() {
            return Ok(false);
        }
        self.replace(relays).map(|()| true)
    }

    fn replace(&mut self, relays: Vec<Relay>) -> io::Result<()> {
        let contents = Contents { relays };
        let json = serde_json::to_vec_pretty(&contents).map_err(io::Error::other)?;
        ops::write_atomic(&self.file, &json)?;
        self.relays = contents.relays;
        Ok(())
    }
}

impl Contents {
    fn is_usable(&self) -> bool {
        self.relays
            .iter()
            .all(|relay| !relay.addresses.is_empty() && !relay.pins.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use firstmile_shared::exit::ExitCode;

    use super::*;

    fn relay(address: &str, pin: u8) -> Relay {
        Relay {
            addresses: vec![address.to_owned(), "[2001:db8::1]:4433".to_owned()],
            pins: vec![Spki([pin; 32])],
            studio: "truck1".to_owned(),
            ingest: IngestAddresses::default(),
            https_port: None,
        }
    }

    #[test]
    fn where_encoders_find_a_relay_is_known_while_it_is_away() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("relays.json");
        let mut book = Book::open(&file).unwrap();
        book.add(relay("relay.example:4433", 1)).unwrap();
        let ingest = IngestAddresses {
            hosts: vec!["live.example".to_owned()],
            rtmp_port: Some(1940),
            rtmps_port: None,
            rtmps_hosts: None,
        };
        book.set_ingest(Spki([1; 32]), ingest.clone()).unwrap();
        let relays = Book::open(&file).unwrap().relays().to_vec();
        assert_eq!(relays[0].ingest, ingest);
        assert!(
            relays[0].is_dialled_like(&relay("relay.example:4433", 1)),
            "news for encoders do not end the connection"
        );
    }

    #[test]
    fn relays_are_remembered_and_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("relays.json");
        let mut book = Book::open(&file).unwrap();
        book.add(relay("relay.example:4433", 1)).unwrap();
        book.add(relay("other.example:4433", 2)).unwrap();
        assert_eq!(Book::open(&file).unwrap().relays(), book.relays());

        book.add(relay("moved.example:4433", 1)).unwrap();
        let names: Vec<_> = book.relays().iter().map(Relay::name).collect();
        assert_eq!(
            names,
            ["moved.example:4433", "other.example:4433"],
            "the same key is the same relay"
        );

        assert!(!book.remove("relay.example").unwrap());
        assert!(book.remove(" MOVED.example ").unwrap());
        assert!(book.remove("2001:db8::1").unwrap());
        assert_eq!(Book::open(&file).unwrap().relays(), []);
    }

    #[test]
    fn a_broken_file_is_named_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("relays.json");
        for broken in [
            "{",
            r#"{"relays":[{"addresses":[],"pins":[],"studio":""}]}"#,
        ] {
            std::fs::write(&file, broken).unwrap();
            let error = Book::open(&file).unwrap_err();
            assert_eq!(error.code, ExitCode::Config);
            assert!(error.message.contains("relays.json"), "{error}");
            assert_eq!(std::fs::read_to_string(&file).unwrap(), broken);
        }
    }
}

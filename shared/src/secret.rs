//! Secrets, and the stream key: what an encoder proves its right to a line with.
//!
//! Nothing here can be printed by accident: `Debug` hides the value and there is no `Display`; the one way out is
//! called `expose`. Keys are compared as HMAC-SHA-256 hashes ([`StreamKey::hash`]), so a relay never holds one.

use std::fmt;

use ring::{hmac, rand::SecureRandom};
use serde::{Deserialize, Serialize};

/// Any text that must not be seen: a token's secret, a passphrase.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Takes the text in.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself: for the wire, the state file and the operator's own screen only.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

/// A line's stream key, as it was generated or typed.
#[derive(Clone, PartialEq, Eq)]
pub struct StreamKey(String);

/// Why a text can't be a stream key. The text itself is not in the message: it may be a real key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Too short to be a secret, or too long for an encoder's field.
    #[error("a key has 8 to 128 characters, this one has {len}")]
    Length {
        /// Characters given.
        len: usize,
    },
    /// A character that some encoder would not carry.
    #[error(
        "a key is made of letters, digits and . _ ~ -; {character:?} at position {position} is not one of them"
    )]
    Character {
        /// The first one that is not allowed.
        character: char,
        /// Counted from 1.
        position: usize,
    },
    /// Nothing is left once dashes are taken away.
    #[error("a key needs at least 8 characters besides dashes, this one has {len}")]
    OnlyDashes {
        /// Characters left.
        len: usize,
    },
}

impl StreamKey {
    /// A new key: 12 characters of 32 (60 bits), without look-alikes, in groups of four ("7k2m-x9qd-h4tp").
    ///
    /// # Panics
    /// Never in practice: only if the operating system has no random numbers.
    #[expect(
        clippy::expect_used,
        reason = "without random numbers there is no safe way on"
    )]
    pub fn generate(random: &dyn SecureRandom) -> Self {
        let mut bytes = [0; 12];
        random
            .fill(&mut bytes)
            .expect("the operating system has random numbers");
        let mut key = String::with_capacity(14);
        for (n, byte) in bytes.into_iter().enumerate() {
            if n > 0 && n % 4 == 0 {
                key.push('-');
            }
            key.push(char::from(ALPHABET[usize::from(byte) % ALPHABET.len()]));
        }
        Self(key)
    }

    /// A studio's own text, as typed: white space around it is taken away.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let text = text.trim();
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '~' | '-');
        if let Some((position, character)) = text.chars().enumerate().find(|(_, c)| !allowed(*c)) {
            return Err(KeyError::Character {
                character,
                position: position + 1,
            });
        }
        let len = text.len();
        if !(8..=128).contains(&len) {
            return Err(KeyError::Length { len });
        }
        let len = normalise(text).len();
        if len < 8 {
            return Err(KeyError::OnlyDashes { len });
        }
        Ok(Self(text.to_owned()))
    }

    /// The key itself: for the encoder's URL and the operator's own screen only.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// A key of few different characters, or of letters only, is easily guessed.
    pub fn is_weak(&self) -> bool {
        let normal = normalise(&self.0);
        let mut different: Vec<char> = normal.chars().collect();
        different.sort_unstable();
        different.dedup();
        different.len() < 6 || normal.len() < 12 && !normal.contains(|c: char| c.is_ascii_digit())
    }

    /// HMAC-SHA-256 of the normalised key under the studio's salt: what a relay stores and looks up.
    pub fn hash(&self, salt: &[u8; 32]) -> KeyHash {
        KeyHash::of(&self.0, salt)
    }
}

impl fmt::Debug for StreamKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StreamKey(***)")
    }
}

/// What a relay knows of a stream key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyHash([u8; 32]);

impl KeyHash {
    /// The hash of a key as an encoder sent it: any text, without regard to case, dashes and spaces.
    pub fn of(offered: &str, salt: &[u8; 32]) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, salt);
        let tag = hmac::sign(&key, normalise(offered).as_bytes());
        let mut hash = [0; 32];
        hash.copy_from_slice(tag.as_ref());
        Self(hash)
    }

    /// From 64 hex digits.
    pub fn from_hex(text: &str) -> Option<Self> {
        from_hex(text).map(Self)
    }

    /// As 64 hex digits.
    pub fn to_hex(self) -> String {
        to_hex(&self.0)
    }
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyHash(***)")
    }
}

/// 32 bytes from 64 hex digits.
pub fn from_hex(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let digits = std::str::from_utf8(digits).ok()?;
        *byte = u8::from_str_radix(digits, 16)
            .ok()
            .filter(|_| !digits.starts_with('+'))?;
    }
    Some(bytes)
}

/// Lower-case hex digits.
pub fn to_hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes
        .iter()
        .fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}

/// People read keys aloud and phones capitalise: case, dashes and spaces say nothing.
fn normalise(key: &str) -> String {
    key.chars()
        .filter(|c| *c != '-' && !c.is_whitespace())
        .map(|c| c.to_ascii_lowercase())
        .collect()
}

/// Crockford's base 32: no i, l, o, u.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ring::rand::SystemRandom;

    use super::*;

    #[test]
    fn a_generated_key_is_readable_and_long_enough() {
        let key = StreamKey::generate(&SystemRandom::new());
        let text = key.expose();
        assert_eq!(text.len(), 14, "{text}");
        assert_eq!(text.split('-').map(str::len).collect::<Vec<_>>(), [4, 4, 4]);
        assert!(!text.contains(['i', 'l', 'o', 'u']), "{text}");
        assert_eq!(StreamKey::parse(text), Ok(key));
    }

    #[test]
    fn the_way_a_person_types_a_key_does_not_matter() {
        let salt = [7; 32];
        let stored = StreamKey::parse("7k2m-x9qd-h4tp").unwrap().hash(&salt);
        for typed in ["7k2mx9qdh4tp", "7K2M-X9QD-H4TP", " 7k2m x9qd h4tp\n"] {
            assert_eq!(KeyHash::of(typed, &salt), stored, "{typed:?}");
        }
        assert_ne!(KeyHash::of("7k2m-x9qd-h4tq", &salt), stored);
        assert_ne!(
            KeyHash::of("7k2m-x9qd-h4tp", &[8; 32]),
            stored,
            "another studio's salt"
        );
    }

    #[test]
    fn what_can_not_be_a_key_is_said_without_printing_it() {
        for (text, error) in [
            ("short", "a key has 8 to 128 characters, this one has 5"),
            (
                "--------",
                "a key needs at least 8 characters besides dashes, this one has 0",
            ),
            (
                "has space in",
                "a key is made of letters, digits and . _ ~ -; ' ' at position 4 is not one of them",
            ),
        ] {
            assert_eq!(StreamKey::parse(text).unwrap_err().to_string(), error);
        }
    }

    #[test]
    fn nothing_shows_a_secret() {
        let key = StreamKey::parse("correct.horse.7").unwrap();
        let shown = format!(
            "{key:?} {:?} {:?}",
            Secret::new("hunter2"),
            key.hash(&[0; 32])
        );
        assert_eq!(shown, "StreamKey(***) Secret(***) KeyHash(***)");
    }

    proptest! {
        #[test]
        fn hashes_survive_hex_and_arbitrary_text_never_panics(text in ".{0,80}", salt in any::<[u8; 32]>()) {
            let hash = KeyHash::of(&text, &salt);
            prop_assert_eq!(KeyHash::from_hex(&hash.to_hex()), Some(hash));
            drop((KeyHash::from_hex(&text), StreamKey::parse(&text)));
        }
    }
}

//! The join token: the one line of text that enrols a connector.
//!
//! ```text
//! "fm1." base64url( addresses | pins | studio | id | secret | expires (u64) | https port (u16) | later ... | check (4 bytes) )
//! ```
//!
//! `addresses` and `pins` are a count (u8) and that many entries; a text is a length (u8) and its bytes; a pin is
//! 32 bytes; integers are big-endian. `check` is the start of the SHA-256 of everything before it: a token that
//! lost a character on its way through a messenger is told apart from one that the relay refuses. Bytes between
//! the port (0: none; tokens of the first version end before it) and `check` belong to later versions and are ignored.
//!
//! No I/O, no clock.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::digest;

use crate::{secret::Secret, tls::Spki};

/// Everything a connector needs to find a relay, to know that it is the right one, and to be let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinToken {
    /// Where the tunnel of the relay is, `HOST:PORT`, best first; 1 to 16.
    pub addresses: Vec<String>,
    /// The relay's identity; two while it changes.
    pub pins: Vec<Spki>,
    /// The studio that is joined.
    pub studio: String,
    /// The token's name at the relay; not secret.
    pub id: String,
    /// What proves the right to join.
    pub secret: Secret,
    /// Seconds since 1970; the relay's clock decides.
    pub expires_unix: u64,
    /// The TCP port, of the same hosts, where the relay takes the tunnel beside HTTPS.
    pub https_port: Option<u16>,
}

/// Why a text is not a join token. All are a matter of copying it again (exit code 2).
///
/// The text itself is not in the messages: it may hold most of a real secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// Nothing but white space and quotes.
    #[error("there is no token: paste the whole line that `firstmile-relay invite` printed")]
    Empty,
    /// Something else was pasted.
    #[error("this is not a join token: one begins with \"fm1.\"")]
    NotAToken,
    /// Made by a newer relay.
    #[error("this token is of a later kind (fm{version}): update this connector")]
    Later {
        /// The number after "fm".
        version: u32,
    },
    /// A character that no token has.
    #[error(
        "the token was mangled on its way: {character:?} does not belong there; copy the whole line again"
    )]
    Character {
        /// The first one.
        character: char,
    },
    /// The check does not match: characters are missing, changed or too many.
    #[error(
        "the token was mangled on its way: characters are missing or changed; copy the whole line again"
    )]
    Mangled,
    /// The check is right and the content is not: not made by a relay.
    #[error("the token is damaged: its {part} is not valid; ask for a new one")]
    Content {
        /// Which field.
        part: &'static str,
    },
}

impl JoinToken {
    /// As one line of text, without a line break. It contains the secret.
    ///
    /// Texts longer than 255 bytes, or more than 255 entries, do not fit and are cut: such a token is then
    /// refused by [`JoinToken::parse`].
    pub fn encode(&self) -> String {
        let mut bytes = Vec::with_capacity(160);
        bytes.push(u8::try_from(self.addresses.len()).unwrap_or(u8::MAX));
        for address in &self.addresses {
            put_text(&mut bytes, address);
        }
        bytes.push(u8::try_from(self.pins.len()).unwrap_or(u8::MAX));
        for pin in &self.pins {
            bytes.extend_from_slice(&pin.0);
        }
        put_text(&mut bytes, &self.studio);
        put_text(&mut bytes, &self.id);
        put_text(&mut bytes, self.secret.expose());
        bytes.extend_from_slice(&self.expires_unix.to_be_bytes());
        bytes.extend_from_slice(&self.https_port.unwrap_or(0).to_be_bytes());
        let check = check(&bytes);
        bytes.extend_from_slice(&check);
        format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
    }

    /// Reads a token as people paste it: quotes, white space and line breaks anywhere are tolerated, and so are
    /// words before it.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let body = body(text)?;
        let bytes = URL_SAFE_NO_PAD
            .decode(body)
            .map_err(|_| TokenError::Mangled)?;
        let (content, given) = bytes
            .split_last_chunk::<CHECK_LEN>()
            .ok_or(TokenError::Mangled)?;
        if *given != check(content) {
            return Err(TokenError::Mangled);
        }
        Self::from_content(content)
    }

    /// Whether the token's time is over, by a clock that may be wrong: for a hint, never for a decision.
    pub const fn is_expired(&self, now_unix: u64) -> bool {
        now_unix >= self.expires_unix
    }

    fn from_content(mut content: &[u8]) -> Result<Self, TokenError> {
        let bytes = &mut content;
        let addresses = (0..take_count(bytes, "list of addresses", ADDRESSES_MAX)?)
            .map(|_| take_text(bytes, "address"))
            .collect::<Result<Vec<_>, _>>()?;
        let pins = (0..take_count(bytes, "list of keys", PINS_MAX)?)
            .map(|_| take::<32>(bytes, "key").map(Spki))
            .collect::<Result<Vec<_>, _>>()?;
        let studio = take_text(bytes, "studio")?;
        let id = take_text(bytes, "name")?;
        let secret = Secret::new(take_text(bytes, "secret")?);
        let expires_unix = take::<8>(bytes, "end time").map(u64::from_be_bytes)?;
        // Earlier versions end here.
        let https_port = take::<2>(bytes, "port").map_or(0, u16::from_be_bytes);
        Ok(Self {
            addresses,
            pins,
            studio,
            id,
            secret,
            expires_unix,
            https_port: (https_port != 0).then_some(https_port),
        })
    }
}

/// The base64 of a token in `text`, without what messengers add.
fn body(text: &str) -> Result<String, TokenError> {
    let mut clean = String::with_capacity(text.len());
    for character in text.chars().filter(|c| !is_padding(*c)) {
        match character {
            // Word processors make one long dash of two.
            '\u{2014}' => clean.push_str("--"),
            other => clean.push(other),
        }
    }
    if clean.is_empty() {
        return Err(TokenError::Empty);
    }
    // Phones capitalise the first letter.
    let lower = clean.to_ascii_lowercase();
    let Some(start) = lower.find(PREFIX) else {
        return Err(
            later_version(&lower).map_or(TokenError::NotAToken, |version| TokenError::Later {
                version,
            }),
        );
    };
    let body = clean.split_off(start + PREFIX.len());
    match body
        .chars()
        .find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_')))
    {
        Some(character) => Err(TokenError::Character { character }),
        None => Ok(body),
    }
}

/// White space, quotes of any language, and invisible characters.
fn is_padding(character: char) -> bool {
    character.is_whitespace()
        || character.is_control()
        || matches!(
            character,
            '"' | '\'' | '`' | '<' | '>' | '\u{ab}' | '\u{bb}' | '\u{feff}'
                | '\u{200b}'..='\u{200f}' | '\u{2018}'..='\u{201f}' | '\u{2039}' | '\u{203a}' | '\u{2060}'
        )
}

fn later_version(lower: &str) -> Option<u32> {
    let digits = lower.strip_prefix("fm")?.split_once('.')?.0;
    digits.parse().ok()
}

fn check(content: &[u8]) -> [u8; CHECK_LEN] {
    let digest = digest::digest(&digest::SHA256, content);
    std::array::from_fn(|n| digest.as_ref()[n])
}

fn put_text(bytes: &mut Vec<u8>, text: &str) {
    let len = u8::try_from(text.len()).unwrap_or(u8::MAX);
    bytes.push(len);
    bytes.extend_from_slice(&text.as_bytes()[..usize::from(len)]);
}

fn take<const N: usize>(bytes: &mut &[u8], part: &'static str) -> Result<[u8; N], TokenError> {
    let (head, rest) = bytes
        .split_first_chunk()
        .ok_or(TokenError::Content { part })?;
    *bytes = rest;
    Ok(*head)
}

fn take_count(bytes: &mut &[u8], part: &'static str, max: u8) -> Result<u8, TokenError> {
    match take(bytes, part)? {
        [count] if (1..=max).contains(&count) => Ok(count),
        _ => Err(TokenError::Content { part }),
    }
}

fn take_text(bytes: &mut &[u8], part: &'static str) -> Result<String, TokenError> {
    let [len] = take(bytes, part)?;
    let (text, rest) = bytes
        .split_at_checked(usize::from(len))
        .ok_or(TokenError::Content { part })?;
    *bytes = rest;
    let text = str::from_utf8(text).map_err(|_| TokenError::Content { part })?;
    if text.is_empty() || text.chars().any(char::is_control) {
        return Err(TokenError::Content { part });
    }
    Ok(text.to_owned())
}

const PREFIX: &str = "fm1.";

/// One accidental match in four thousand million.
const CHECK_LEN: usize = 4;

/// A host with IPv4, IPv6 and a name on three ports, and some to spare.
const ADDRESSES_MAX: u8 = 16;

/// The relay's key, and the next one while it changes.
const PINS_MAX: u8 = 2;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn token() -> JoinToken {
        JoinToken {
            addresses: vec!["relay.example:4433".into(), "[2001:db8::1]:4433".into()],
            pins: vec![Spki([7; 32])],
            studio: "truck1".into(),
            id: "k3v9".into(),
            secret: Secret::new("correct-horse"),
            expires_unix: 1_800_000_000,
            https_port: Some(443),
        }
    }

    #[test]
    fn what_messengers_add_is_tolerated() {
        let text = token().encode();
        assert!(text.starts_with("fm1."), "{text}");
        let (head, tail) = text.split_at(60);
        for pasted in [
            text.clone(),
            format!("  {text}\r\n"),
            format!("\"{text}\""),
            format!("\u{201e}{text}\u{201c}"),
            format!("`{head}\n    {tail}`"),
            format!("Fm1.{}", &text[4..]),
            format!("Here is the token:\n{text}"),
            format!("{head}\u{200b}{tail}"),
            text.replace("--", "\u{2014}"),
        ] {
            assert_eq!(JoinToken::parse(&pasted), Ok(token()), "{pasted:?}");
        }
    }

    #[test]
    fn each_way_to_be_wrong_has_its_own_sentence() {
        let text = token().encode();
        let short = text[..text.len() - 5].to_owned();
        let changed = text.replacen('A', "B", 1);
        let mut no_pins = token();
        no_pins.pins.clear();
        for (pasted, error) in [
            (" \"\" ".to_owned(), TokenError::Empty),
            ("rtmp://relay/truck1".into(), TokenError::NotAToken),
            ("fm2.AAAA".into(), TokenError::Later { version: 2 }),
            (format!("{text}."), TokenError::Character { character: '.' }),
            (short, TokenError::Mangled),
            (changed, TokenError::Mangled),
            ("fm1.".into(), TokenError::Mangled),
            (
                no_pins.encode(),
                TokenError::Content {
                    part: "list of keys",
                },
            ),
        ] {
            assert_eq!(JoinToken::parse(&pasted), Err(error), "{pasted:?}");
        }
    }

    #[test]
    fn a_later_version_may_add_fields() {
        let bytes = URL_SAFE_NO_PAD.decode(&token().encode()[4..]).unwrap();
        let mut content = bytes[..bytes.len() - CHECK_LEN].to_vec();
        content.extend_from_slice(b"something new");
        let check = check(&content);
        content.extend_from_slice(&check);
        let text = format!("fm1.{}", URL_SAFE_NO_PAD.encode(content));
        assert_eq!(JoinToken::parse(&text), Ok(token()));
    }

    #[test]
    fn nothing_shows_the_secret() {
        assert!(!format!("{:?}", token()).contains("correct-horse"));
        let error = JoinToken::parse(&token().encode()[..90]).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("fm1.A"));
    }

    #[test]
    fn a_token_knows_when_its_time_is_over() {
        assert!(!token().is_expired(1_799_999_999));
        assert!(token().is_expired(1_800_000_000));
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_parsed(
            addresses in prop::collection::vec("[a-z.]{1,60}:[0-9]{1,5}", 1..4),
            pins in prop::collection::vec(any::<[u8; 32]>(), 1..3),
            texts in prop::collection::vec("[a-zA-Z0-9-]{1,40}", 3),
            expires_unix in any::<u64>(),
            https_port in any::<u16>(),
        ) {
            let token = JoinToken {
                addresses,
                pins: pins.into_iter().map(Spki).collect(),
                studio: texts[0].clone(),
                id: texts[1].clone(),
                secret: Secret::new(texts[2].clone()),
                expires_unix,
                https_port: (https_port != 0).then_some(https_port),
            };
            prop_assert_eq!(JoinToken::parse(&token.encode()), Ok(token));
        }

        /// Also with a right check: whoever can compute SHA-256 can make one.
        #[test]
        fn arbitrary_text_and_arbitrary_content_never_panic(text in ".{0,80}", mut content in prop::collection::vec(any::<u8>(), 0..120)) {
            drop(JoinToken::parse(&text));
            drop(JoinToken::parse(&format!("fm1.{text}")));
            let check = check(&content);
            content.extend_from_slice(&check);
            drop(JoinToken::parse(&format!("fm1.{}", URL_SAFE_NO_PAD.encode(content))));
        }
    }
}

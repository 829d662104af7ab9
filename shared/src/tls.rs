//! Who is at the other end: identity without a certificate authority.
//!
//! An identity is the SHA-256 of a public key ([`Spki`]). Both ends make a key and a self-signed certificate at
//! their first start; nothing else in a certificate (names, dates, issuer) is looked at.

use std::fmt;

use ring::digest;
use rustls::{pki_types::CertificateDer, server::ParsedCertificate};
use serde::{Deserialize, Serialize};

use crate::secret::{from_hex, to_hex};

/// The SHA-256 of a public key (its DER `SubjectPublicKeyInfo`): who somebody is.
///
/// `Display` and `Debug` show the first 12 hex digits, which is what operators see and type.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Spki(pub [u8; 32]);

impl Spki {
    /// Hex digits in the short form.
    pub const SHORT_LEN: usize = 12;

    /// The identity in a certificate.
    pub fn of_certificate(certificate: &CertificateDer<'_>) -> Result<Self, rustls::Error> {
        let info = ParsedCertificate::try_from(certificate)?.subject_public_key_info();
        let mut hash = [0; 32];
        hash.copy_from_slice(digest::digest(&digest::SHA256, &info).as_ref());
        Ok(Self(hash))
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

impl fmt::Display for Spki {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&to_hex(&self.0[..Self::SHORT_LEN / 2]))
    }
}

impl fmt::Debug for Spki {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Spki({self})")
    }
}

impl From<Spki> for String {
    fn from(spki: Spki) -> Self {
        spki.to_hex()
    }
}

impl TryFrom<String> for Spki {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::from_hex(&text).ok_or("an identity is 64 hex digits")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_shown_short_and_kept_whole() {
        let spki = Spki(std::array::from_fn(|n| u8::try_from(n).unwrap()));
        assert_eq!(spki.to_string(), "000102030405");
        assert_eq!(format!("{spki:?}"), "Spki(000102030405)");
        assert_eq!(Spki::from_hex(&spki.to_hex()), Some(spki));
        let json = serde_json::to_string(&spki).unwrap();
        assert_eq!(serde_json::from_str::<Spki>(&json).unwrap(), spki);
        assert!(serde_json::from_str::<Spki>("\"00\"").is_err());
    }
}

//! Who is at the other end: identity without a certificate authority.
//!
//! An identity is the SHA-256 of a public key ([`Spki`]). Both ends make a key and a self-signed certificate at
//! their first start ([`Identity`]); nothing else in a certificate (names, dates, issuer) is looked at. What a
//! handshake proves is that the peer holds the private key of the certificate that it showed: both verifiers check
//! that signature with the crypto provider, and nothing here ever takes it for granted.
//!
//! The connector knows whom to expect ([`Pins`]) and refuses anybody else within the handshake. The relay takes any
//! key within the handshake; who may do what is decided at every HELLO, against the live table. Tickets are off at
//! both ends: a resumed handshake would skip the verifiers. So is 0-RTT: it can be replayed.

use std::{
    fmt, fs, io,
    path::Path,
    sync::{Arc, OnceLock},
};

use ring::digest;
use rustls::{
    CertificateError, CipherSuite, ClientConfig, DigitallySignedStruct, DistinguishedName,
    PeerIncompatible, ServerConfig, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring as provider, verify_tls13_signature},
    pki_types::{
        CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime, pem::PemObject,
    },
    server::{
        NoServerSessionStorage, ParsedCertificate,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::{CertifiedKey, SingleCertAndKey},
    version::TLS13,
};
use serde::{Deserialize, Serialize};

use crate::{
    exit::{ExitCode, Failure},
    ops, os,
    secret::{from_hex, to_hex},
    tunnel::ALPN,
};

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

/// Our own key and self-signed certificate.
#[derive(Clone)]
pub struct Identity {
    key: Arc<CertifiedKey>,
    spki: Spki,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.spki)
    }
}

impl Identity {
    /// The identity in `file`; made and written (mode 0600, whole or not at all) if there is none.
    ///
    /// A file that others can read, or that does not hold a key and its certificate, is refused: it is never
    /// replaced, since who loses his key is somebody else.
    pub fn load_or_create(file: &Path) -> Result<Self, Failure> {
        let shown = file.display();
        match fs::read(file) {
            Ok(pem) => {
                let is_private = os::is_private_owner(file)
                    .map_err(|error| Failure::io(format_args!("key file {shown}"), &error))?;
                if !is_private {
                    return Err(Failure::config(format!(
                        "key file {shown} can be read by others, so it is not secret any more: if it never left this machine, chmod 600 it; else delete it and join again"
                    )));
                }
                Self::from_pem(&pem).map_err(|error| {
                    Failure::config(format!(
                        "key file {shown} does not hold a private key and its certificate ({error}): restore it from a backup, or delete it to get a new identity and join again"
                    ))
                })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let pem = Self::generate().map_err(|error| {
                    Failure::new(ExitCode::Io, format!("can't make a key: {error}"))
                })?;
                ops::write_atomic(file, pem.as_bytes())
                    .map_err(|error| Failure::io(format_args!("key file {shown}"), &error))?;
                Self::from_pem(pem.as_bytes()).map_err(|error| {
                    Failure::new(ExitCode::Io, format!("the new key is not usable: {error}"))
                })
            }
            Err(error) => Err(Failure::io(format_args!("key file {shown}"), &error)),
        }
    }

    /// An identity that lives in memory only, for tests and trials.
    pub fn ephemeral() -> Result<Self, IdentityError> {
        Self::from_pem(Self::generate()?.as_bytes())
    }

    /// Who we are to others.
    pub const fn spki(&self) -> Spki {
        self.spki
    }

    fn generate() -> Result<String, IdentityError> {
        let key = rcgen::KeyPair::generate()?;
        let certificate =
            rcgen::CertificateParams::new([SERVER_NAME.to_owned()])?.self_signed(&key)?;
        Ok(key.serialize_pem() + &certificate.pem())
    }

    fn from_pem(pem: &[u8]) -> Result<Self, IdentityError> {
        let certificate = CertificateDer::from_pem_slice(pem)?;
        let key = PrivatePkcs8KeyDer::from_pem_slice(pem)?;
        let spki = Spki::of_certificate(&certificate)?;
        // Also refuses a certificate that is not this key's.
        let key = CertifiedKey::from_der(
            vec![certificate],
            PrivateKeyDer::Pkcs8(key),
            &crypto_provider(),
        )?;
        Ok(Self {
            key: Arc::new(key),
            spki,
        })
    }
}

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
#[non_exhaustive]
pub enum IdentityError {
    /// Not made.
    Generate(#[from] rcgen::Error),
    /// Not a PEM file with both.
    Pem(#[from] rustls::pki_types::pem::Error),
    /// Not usable, or the key is not the certificate's.
    Key(#[from] rustls::Error),
}

/// The relay's end: asks for a certificate, takes any whose private key the peer proves to hold.
pub fn server_config(identity: &Identity) -> Result<ServerConfig, rustls::Error> {
    server_config_with(identity.key.clone())
}

fn server_config_with(key: Arc<CertifiedKey>) -> Result<ServerConfig, rustls::Error> {
    let provider = crypto_provider();
    let mut config = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(Arc::new(AnyClient { provider }))
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(config)
}

/// The connector's end: shows its certificate, takes only a relay with one of the pinned keys.
pub fn client_config(identity: &Identity, pins: Arc<Pins>) -> Result<ClientConfig, rustls::Error> {
    client_config_with(identity.key.clone(), pins)
}

fn client_config_with(
    key: Arc<CertifiedKey>,
    pins: Arc<Pins>,
) -> Result<ClientConfig, rustls::Error> {
    let provider = crypto_provider();
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(pins)
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    Ok(config)
}

/// The keys that a relay may have: one, or two while it changes. Serves one dial.
#[derive(Debug)]
pub struct Pins {
    pins: Vec<Spki>,
    provider: Arc<CryptoProvider>,
    refused: OnceLock<Spki>,
}

/// Somebody else answers at the relay's address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "another key than this relay's answers there ({found} instead of {}): the relay was set up anew, or somebody is in between; ask for a new token",
    .expected.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or ")
)]
pub struct WrongPin {
    /// Who answered.
    pub found: Spki,
    /// Who was expected.
    pub expected: Vec<Spki>,
}

impl Pins {
    /// For the next dial.
    pub fn new(pins: Vec<Spki>) -> Arc<Self> {
        Arc::new(Self {
            pins,
            provider: crypto_provider(),
            refused: OnceLock::new(),
        })
    }

    /// Whether the dial failed because somebody else answered.
    pub fn wrong_pin(&self) -> Option<WrongPin> {
        self.refused.get().map(|found| WrongPin {
            found: *found,
            expected: self.pins.clone(),
        })
    }
}

impl ServerCertVerifier for Pins {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let found = Spki::of_certificate(certificate)?;
        if self.pins.contains(&found) {
            // It is the expected key; that the peer holds it is `verify_tls13_signature`'s question.
            return Ok(ServerCertVerified::assertion());
        }
        let _ = self.refused.set(found);
        Err(CertificateError::ApplicationVerificationFailure.into())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// Takes any key, once the peer has proved to hold it: HELLO decides what it may do.
#[derive(Debug)]
struct AnyClient {
    provider: Arc<CryptoProvider>,
}

impl ClientCertVerifier for AnyClient {
    fn client_auth_mandatory(&self) -> bool {
        true
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        // Readable is all that is asked here; that the peer holds it is `verify_tls13_signature`'s question.
        Spki::of_certificate(certificate).map(|_| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// ring, with AES-128 before AES-256: half the rounds for a show that is over tomorrow.
fn crypto_provider() -> Arc<CryptoProvider> {
    let mut provider = provider::default_provider();
    provider
        .cipher_suites
        .sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    Arc::new(provider)
}

/// What a connector asks for by name, and what certificates are made for; nobody compares it.
pub const SERVER_NAME: &str = "firstmile";

#[cfg(test)]
mod tests;

//! Where the certificate comes from, and what it says.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use firstmile_shared::{
    clock, date,
    exit::{ExitCode, Failure},
    ops, os,
};
use rustls::{
    client::verify_server_name,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    server::ParsedCertificate,
    sign::CertifiedKey,
};
use x509_parser::{extensions::GeneralName, prelude::*};

/// Where the certificate and its key are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The operator's files, read again when they change.
    Files {
        /// `rtmps.certificate`.
        certificate: PathBuf,
        /// `rtmps.key`.
        key: PathBuf,
    },
    /// One file of ours: a key, and a certificate for these hosts that it signs itself. Made when it is not there.
    OwnMade {
        /// In the state folder.
        file: PathBuf,
        /// Names and addresses of the relay.
        hosts: Vec<String>,
    },
}

/// Of a file: whether it is another one than before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    modified: Option<SystemTime>,
    len: u64,
}

/// A certificate that can be shown.
#[derive(Debug)]
pub struct Loaded {
    key: Arc<CertifiedKey>,
    leaf: CertificateDer<'static>,
    names: Vec<String>,
    has_wildcards: bool,
    ends_unix: i64,
    from: String,
}

impl Source {
    /// Reads it, or makes it. The error names the file, what is wrong and the remedy.
    pub fn load(&self) -> Result<Loaded, Failure> {
        match self {
            Self::Files { certificate, key } => of_files(certificate, key),
            Self::OwnMade { file, hosts } => own_made(file, hosts),
        }
    }

    /// How its files are at this moment; `None` for one that is not there. Asks the disk.
    pub fn stamps(&self) -> [Option<Stamp>; 2] {
        match self {
            Self::Files { certificate, key } => [stamp(certificate), stamp(key)],
            Self::OwnMade { .. } => [None; 2],
        }
    }
}

fn stamp(file: &Path) -> Option<Stamp> {
    let metadata = fs::metadata(file).ok()?;
    Some(Stamp {
        modified: metadata.modified().ok(),
        len: metadata.len(),
    })
}

impl Loaded {
    fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        from: String,
    ) -> Result<Self, String> {
        let leaf = chain
            .first()
            .cloned()
            .ok_or("there is no certificate in it")?;
        let (_, parsed) = X509Certificate::from_der(&leaf).map_err(|error| error.to_string())?;
        let names = names_of(&parsed);
        let has_wildcards = has_wildcards(&parsed);
        let ends_unix = parsed.validity().not_after.timestamp();
        let key =
            CertifiedKey::from_der(chain, key, &ring::default_provider()).map_err(|error| {
                match error {
                    rustls::Error::InconsistentKeys(_) => {
                        "the key is not the certificate's".to_owned()
                    }
                    error => error.to_string(),
                }
            })?;
        Ok(Self {
            key: Arc::new(key),
            leaf,
            names,
            has_wildcards,
            ends_unix,
            from,
        })
    }

    /// For a handshake.
    pub fn key(&self) -> Arc<CertifiedKey> {
        self.key.clone()
    }

    /// The names and addresses that it is for, as it writes them.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Whether an encoder that connects to this host and verifies finds it right, as far as the name goes.
    pub fn is_for(&self, host: &str) -> bool {
        let Ok(name) = ServerName::try_from(host) else {
            return false;
        };
        ParsedCertificate::try_from(&self.leaf)
            .is_ok_and(|leaf| verify_server_name(&leaf, &name).is_ok())
    }

    /// Whether its last day has passed.
    pub fn is_over(&self) -> bool {
        self.ends_unix <= clock::unix_now()
    }

    /// One clause for the log: whose it is, for whom, until when.
    pub fn describe(&self) -> String {
        let from = &self.from;
        let names = match (self.names.is_empty(), self.has_wildcards) {
            (false, _) => self.names.join(", "),
            (true, true) => "names with a wildcard".to_owned(),
            (true, false) => {
                "no name (its subjectAltName is empty: encoders that verify it do not connect)"
                    .to_owned()
            }
        };
        let until = date::rfc3339(self.ends_unix);
        let over = if self.is_over() {
            ", WHICH IS OVER: encoders that verify it do not connect"
        } else {
            ""
        };
        format!("RTMPS shows the certificate of {from}, for {names}, valid until {until}{over}")
    }
}

fn has_wildcards(certificate: &X509Certificate<'_>) -> bool {
    let names = certificate.subject_alternative_name().ok().flatten();
    (names.iter().flat_map(|names| &names.value.general_names))
        .any(|name| matches!(name, GeneralName::DNSName(name) if name.contains('*')))
}

/// Names that a wildcard stands for can't be told from it.
fn names_of(certificate: &X509Certificate<'_>) -> Vec<String> {
    let names = certificate.subject_alternative_name().ok().flatten();
    let names = names.map(|names| names.value.general_names.iter());
    (names.into_iter().flatten())
        .filter_map(|name| match name {
            GeneralName::DNSName(name) if !name.contains('*') => Some((*name).to_owned()),
            GeneralName::IPAddress(bytes) => address_of(bytes).map(|address| address.to_string()),
            _ => None,
        })
        .collect()
}

fn address_of(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(IpAddr::from(*bytes.first_chunk::<4>()?)),
        16 => Some(IpAddr::from(*bytes.first_chunk::<16>()?)),
        _ => None,
    }
}

fn of_files(certificate: &Path, key: &Path) -> Result<Loaded, Failure> {
    let fail = |setting: &str, file: &Path, error: &str| {
        Failure::config(format!(
            "{setting} = \"{}\": {error}; give a PEM file that this user can read, with the certificate first and then those that lead to the authority, and its unencrypted private key",
            file.display()
        ))
    };
    let read = |setting: &str, file: &Path| {
        ops::read_text(file, FILE_LEN_MAX).map_err(|error| fail(setting, file, &error.to_string()))
    };
    let text = read("rtmps.certificate", certificate)?;
    let chain = CertificateDer::pem_slice_iter(text.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| fail("rtmps.certificate", certificate, &error.to_string()))?;
    let text = read("rtmps.key", key)?;
    // The error could quote the file.
    let key_of = PrivateKeyDer::from_pem_slice(text.as_bytes())
        .map_err(|_| fail("rtmps.key", key, "no private key can be read in it"))?;
    let from = certificate.display().to_string();
    Loaded::new(chain, key_of, from).map_err(|error| fail("rtmps.certificate", certificate, &error))
}

/// Reads our own, and makes the certificate anew when the relay's hosts are others; the key stays.
fn own_made(file: &Path, hosts: &[String]) -> Result<Loaded, Failure> {
    let shown = file.display();
    if !file.exists() {
        return make(file, hosts, None);
    }
    let is_private = os::is_private_owner(file)
        .map_err(|error| Failure::io(format_args!("key file {shown}"), &error))?;
    if !is_private {
        return Err(Failure::config(format!(
            "key file {shown} can be read by others: delete it, another one is made"
        )));
    }
    let text = ops::read_text(file, FILE_LEN_MAX)
        .map_err(|error| Failure::io(format_args!("key file {shown}"), &error))?;
    let loaded = load_own(&text).map_err(|error| {
        Failure::config(format!(
            "key file {shown} does not hold a private key and its certificate ({error}): delete it, another one is made"
        ))
    })?;
    if hosts.iter().all(|host| loaded.is_for(host)) {
        return Ok(loaded);
    }
    make(file, hosts, Some(&text))
}

fn load_own(text: &str) -> Result<Loaded, String> {
    let leaf =
        CertificateDer::from_pem_slice(text.as_bytes()).map_err(|error| error.to_string())?;
    let key = PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|_| "no private key")?;
    Loaded::new(vec![leaf], key, "our own making".to_owned())
}

fn make(file: &Path, hosts: &[String], old: Option<&str>) -> Result<Loaded, Failure> {
    let text = generate(hosts, old).map_err(|error| {
        Failure::new(
            ExitCode::Io,
            format!("can't make a certificate for RTMPS: {error}"),
        )
    })?;
    ops::write_atomic(file, text.as_bytes())
        .map_err(|error| Failure::io(format_args!("key file {}", file.display()), &error))?;
    load_own(&text).map_err(|error| Failure::new(ExitCode::Io, error))
}

fn generate(hosts: &[String], old: Option<&str>) -> Result<String, rcgen::Error> {
    let key = match old {
        Some(pem) => rcgen::KeyPair::from_pem(pem)?,
        None => rcgen::KeyPair::generate()?,
    };
    let mut parameters = rcgen::CertificateParams::new(hosts)?;
    let mut name = rcgen::DistinguishedName::new();
    name.push(rcgen::DnType::CommonName, "firstmile-relay");
    parameters.distinguished_name = name;
    Ok(key.serialize_pem() + &parameters.self_signed(&key)?.pem())
}

/// A chain of ten certificates with RSA keys has 20 KiB.
const FILE_LEN_MAX: u64 = 1024 * 1024;

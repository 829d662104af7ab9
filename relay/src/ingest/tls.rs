//! TLS in front of RTMP: the certificate, from files that may change or made by ourselves, and the handshake.
//!
//! TLS 1.2 and 1.3 by rustls with ring. Encoders are old and simple: none has to name a host, one that names an address
//! is fine, and nobody is asked for a certificate. Nothing is resumed: an encoder connects once a show, and what
//! resumption keeps would be a stranger's to fill.

mod capped;
mod certificate;

use std::{io, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use firstmile_shared::exit::{ExitCode, Failure};
use rustls::{
    AlertDescription, ServerConfig,
    crypto::ring,
    server::{ClientHello, NoServerSessionStorage, ResolvesServerCert},
    sign::CertifiedKey,
    version::{TLS12, TLS13},
};
use tokio::{net::TcpStream, task, time};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tracing::{info, warn};

pub use self::{
    capped::Capped,
    certificate::{Loaded, Source, Stamp},
};

/// An encoder's connection with TLS.
pub type Secured = TlsStream<Capped<TcpStream>>;

/// What takes TLS handshakes. Cheap to clone.
#[derive(Clone)]
pub struct Tls {
    acceptor: TlsAcceptor,
    certificates: Arc<Certificates>,
}

#[derive(Debug)]
struct Certificates {
    source: Source,
    /// Of the files, when they were read first.
    stamps: [Option<Stamp>; 2],
    current: ArcSwap<Loaded>,
}

/// What is known of the files that are followed.
#[derive(Debug)]
pub(super) struct Followed {
    /// When they were read last.
    known: [Option<Stamp>; 2],
    /// At the last look.
    seen: [Option<Stamp>; 2],
    /// Why they can't be used, as they were read last.
    fault: Option<String>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls")
            .field("source", &self.certificates.source)
            .finish_non_exhaustive()
    }
}

impl Tls {
    /// With the certificate that `source` has at this moment.
    pub fn new(source: Source) -> Result<Self, Failure> {
        // Before they are read: what changes in between is a change.
        let stamps = source.stamps();
        let loaded = source.load()?;
        let certificates = Arc::new(Certificates {
            source,
            stamps,
            current: ArcSwap::from_pointee(loaded),
        });
        let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let builder = builder
            .with_protocol_versions(&[&TLS13, &TLS12])
            .map_err(|error| Failure::new(ExitCode::Io, format!("rtmps.listen: {error}")))?;
        let mut config = builder
            .with_no_client_auth()
            .with_cert_resolver(certificates.clone());
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Self {
            acceptor: TlsAcceptor::from(Arc::new(config)),
            certificates,
        })
    }

    /// Whether the certificate is not one that the relay made.
    pub fn is_of_operator(&self) -> bool {
        matches!(self.certificates.source, Source::Files { .. })
    }

    /// Of these hosts, those that an encoder finds in the certificate; without any, those that the certificate names.
    /// Empty for a certificate of our own, which no encoder takes that looks at it.
    pub fn hosts(&self, public: &[String]) -> Vec<String> {
        if !self.is_of_operator() {
            return Vec::new();
        }
        let current = self.certificates.current.load();
        if public.is_empty() {
            return current.names().to_vec();
        }
        (public.iter())
            .filter(|host| current.is_for(host))
            .cloned()
            .collect()
    }

    /// Shakes hands; the error is a clause for the log.
    pub async fn accept(&self, socket: TcpStream) -> Result<Secured, String> {
        let socket = Capped::new(socket, HANDSHAKE_LEN_MAX);
        match self.acceptor.accept(socket).await {
            Ok(mut stream) => {
                stream.get_mut().0.lift();
                Ok(stream)
            }
            Err(error) => Err(self.explain(&error)),
        }
    }

    fn explain(&self, error: &io::Error) -> String {
        use AlertDescription as Alert;
        let tls = error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<rustls::Error>());
        match tls {
            Some(rustls::Error::AlertReceived(
                Alert::UnknownCA
                | Alert::BadCertificate
                | Alert::CertificateUnknown
                | Alert::CertificateExpired
                | Alert::CertificateRevoked
                | Alert::UnsupportedCertificate,
            )) => format!(
                "it does not trust this relay's certificate: {}",
                self.remedy()
            ),
            Some(rustls::Error::PeerIncompatible(_)) => {
                "it speaks no TLS that is still safe (1.2 or 1.3): update it, or use rtmp://"
                    .to_owned()
            }
            Some(error) => format!("its TLS handshake failed ({error})"),
            None if error.kind() == io::ErrorKind::UnexpectedEof => {
                format!("it broke the TLS handshake off; {}", self.doubt())
            }
            None => format!("its TLS handshake failed ({})", error.kind()),
        }
    }

    /// Of one that leaves without a word: what it may have been, with the remedy.
    pub fn doubt(&self) -> String {
        format!(
            "if it does not trust this relay's certificate: {}",
            self.remedy()
        )
    }

    fn remedy(&self) -> String {
        match &self.certificates.source {
            Source::OwnMade { .. } => {
                "set rtmps.certificate and rtmps.key to one that it trusts, or switch verification off in the encoder".to_owned()
            }
            Source::Files { .. } => format!(
                "its URL has to name what rtmps.certificate is for ({}), and that file has to hold the whole chain",
                self.certificates.current.load().names().join(", ")
            ),
        }
    }

    /// Follows the certificate's files for ever: a new certificate serves those who connect from then on, one that can't
    /// be used changes nothing and is named.
    pub async fn follow_files(&self) {
        let Source::Files { .. } = &self.certificates.source else {
            return std::future::pending().await;
        };
        let mut tick = time::interval(LOOK_EVERY);
        tick.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
        let mut followed = self.followed();
        loop {
            tick.tick().await;
            match self.look(&mut followed).await {
                Some(Ok(())) => self.tell(),
                Some(Err(why)) => warn!(
                    "the changed certificate can not be used, the one before stays in force: {why}"
                ),
                None => {}
            }
        }
    }

    /// The files as they were when they were read first.
    pub(super) fn followed(&self) -> Followed {
        let stamps = self.certificates.stamps;
        Followed {
            known: stamps,
            seen: stamps,
            fault: None,
        }
    }

    /// Looks at the files once: what a change of them came to, if there was one.
    pub(super) async fn look(&self, followed: &mut Followed) -> Option<Result<(), String>> {
        let source = self.certificates.source.clone();
        let now = task::spawn_blocking(move || source.stamps()).await.ok()?;
        // Two files are not changed in one moment: taken once they have been the same for two looks.
        let is_settled = now == std::mem::replace(&mut followed.seen, now);
        let is_same = now == followed.known;
        // What makes them unusable may pass without a change: a hook gives them to the relay's user afterwards.
        if !is_settled || (is_same && followed.fault.is_none()) {
            return None;
        }
        followed.known = now;
        let source = self.certificates.source.clone();
        let loaded = match task::spawn_blocking(move || source.load()).await {
            Ok(loaded) => loaded.map_err(|failure| failure.message),
            Err(error) => Err(error.to_string()),
        };
        let fault = loaded.as_ref().err().cloned();
        let is_known = is_same && fault == followed.fault;
        followed.fault = fault;
        let taken = loaded.map(|loaded| self.certificates.current.store(Arc::new(loaded)));
        (!is_known).then_some(taken)
    }

    /// Tells the log which certificate is in force; one that is over is a warning.
    pub fn tell(&self) {
        let current = self.certificates.current.load();
        if current.is_over() {
            warn!("{}", current.describe());
        } else {
            info!("{}", current.describe());
        }
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load().key())
    }
}

/// Hellos have less than 2 KiB, with all that browsers put in.
const HANDSHAKE_LEN_MAX: usize = 16 * 1024;

const LOOK_EVERY: Duration = Duration::from_secs(1);

//! The assembled relay: what is bound, what runs, and in which order it starts and stops.
//!
//! `main` and the tests start the same thing. Vital are the store, the registry, ingest and tunnel; a fault in the API
//! starts that again and touches nothing else.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use anyhow::Context;
use firstmile_shared::{
    admin,
    config::Listen,
    exit::{ExitCode, Failure},
    net,
    ops::{RunFile, StateDir},
    os,
    quic::{self, ResetKey, Transport},
    supervisor::Supervisor,
    tcp::Acceptor,
    tls::Identity,
    tunnel::{control::IngestAddresses, scheduler},
};
use tracing::{info, warn};

use crate::{
    auth::Directory,
    config::{Config, TunnelConfig},
    control::{Bound, Control},
    http,
    ingest::{Connections, Desk, Ingest, Ports, RtmpIngest, Tls, tls::Source},
    metrics::Metrics,
    registry::{Limits, Registry},
    store::{StoreError, StoreThread, sqlite::Sqlite},
    tunnel::{Doors, Tunnel},
};

/// The relay as a thing that can be started.
#[derive(Debug)]
pub struct Relay;

/// A started relay. Dropping it stops everything at once; [`Running::run`] stops it well.
#[derive(Debug)]
pub struct Running {
    bound: Bound,
    control: Control,
    supervisor: Supervisor,
    // Dropped in this order: first whoever writes, then the store, then the lock.
    _store: StoreThread,
    _state: StateDir,
}

impl Relay {
    /// Binds everything, opens the store and starts all components. When it answers, encoders and connectors are
    /// served and `run.json` says where.
    pub async fn start(config: Config, state: StateDir) -> Result<Running, Failure> {
        for sentence in config.not_served() {
            warn!("{sentence}");
        }
        let mut sockets = Sockets::bind(&config)?;
        let bound = sockets.bound()?;
        let mut parts = Parts::open(config, state.path(), Some(bound)).await?;
        state.write_run_file(&RunFile {
            pid: std::process::id(),
            rtmp: bound.rtmp.map(|address| address.to_string()),
            rtmps: bound.rtmps.map(|address| address.to_string()),
            tunnel: bound.tunnel.map(|address| address.to_string()),
            http: bound.http.map(|address| address.to_string()),
        })?;

        let mut supervisor = Supervisor::default();
        parts.start_control(&mut supervisor, state.path())?;
        parts.start_store(&mut supervisor);
        parts.start_registry(&mut supervisor);
        let tls = parts.start_ingest(&mut supervisor, &mut sockets, &bound, state.path())?;
        let ingest = parts.ingest_addresses(&bound, tls.as_ref());
        parts.start_tunnel(&mut supervisor, &mut sockets, ingest, state.path())?;
        parts.start_http(&mut supervisor, sockets.http.take());
        parts.tell(&bound);
        Ok(Running {
            bound,
            control: parts.control,
            supervisor,
            _store: parts.store,
            _state: state,
        })
    }
}

impl Running {
    /// What is really listened on.
    pub fn addresses(&self) -> Bound {
        self.bound
    }

    /// A way to ask it.
    pub fn control(&self) -> &Control {
        &self.control
    }

    /// Runs until `signal` or a fault, then stops: new ones are refused, encoders and connectors hear a goodbye.
    pub async fn run(self, signal: impl Future<Output = ()>) -> anyhow::Result<()> {
        self.supervisor.run(signal, GRACE).await
    }

    /// Stops now.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.run(async {}).await
    }
}

/// What is bound before anything starts: a port that is taken is found while nothing runs yet.
#[derive(Debug)]
struct Sockets {
    rtmp: Option<std::net::TcpListener>,
    rtmps: Option<std::net::TcpListener>,
    tunnel: Option<std::net::UdpSocket>,
    /// On the port of `tunnel`.
    fallback: Option<std::net::TcpListener>,
    https: Option<std::net::TcpListener>,
    http: Option<std::net::TcpListener>,
}

impl Sockets {
    fn bind(config: &Config) -> Result<Self, Failure> {
        let (tunnel, fallback) = bind_tunnel(&config.tunnel)?;
        Ok(Self {
            rtmp: net::bind_tcp(&config.rtmp.listen, "rtmp.listen")?,
            rtmps: match net::bind_tcp(&config.rtmps.listen, "rtmps.listen") {
                // Nobody asked for that port, so nobody is to miss his RTMP for it.
                Err(failure) if config.rtmps.is_default_listener() => {
                    warn!("RTMPS is off: {}", failure.message);
                    None
                }
                other => other?,
            },
            tunnel,
            fallback,
            https: net::bind_tcp(&config.https.listen, "https.listen")?,
            http: net::bind_tcp(&config.http.listen, "http.listen")?,
        })
    }

    fn bound(&self) -> Result<Bound, Failure> {
        let fail = |error: std::io::Error| Failure::io("a listener's address", &error);
        let tcp = |listener: &Option<std::net::TcpListener>| {
            let address = listener.as_ref().map(std::net::TcpListener::local_addr);
            address.transpose().map_err(fail)
        };
        let tunnel = self.tunnel.as_ref().map(std::net::UdpSocket::local_addr);
        Ok(Bound {
            rtmp: tcp(&self.rtmp)?,
            rtmps: tcp(&self.rtmps)?,
            tunnel: tunnel.transpose().map_err(fail)?,
            https: tcp(&self.https)?,
            http: tcp(&self.http)?,
        })
    }
}

/// Both protocols on one port.
fn bind_tunnel(
    config: &TunnelConfig,
) -> Result<(Option<std::net::UdpSocket>, Option<std::net::TcpListener>), Failure> {
    let mut tries = PORT_TRIES;
    loop {
        let Some(udp) = net::bind_udp(&config.listen, SETTING)? else {
            return Ok((None, None));
        };
        if !config.tcp {
            return Ok((Some(udp), None));
        }
        let bound = udp
            .local_addr()
            .map_err(|error| Failure::io(SETTING, &error))?;
        tries -= 1;
        match net::bind_tcp(&config.listen.with_port(bound.port()), SETTING) {
            Ok(tcp) => return Ok((Some(udp), tcp)),
            // The system chose the port, and it was free for UDP only.
            Err(_) if config.listen.port() == Some(0) && tries > 0 => {}
            Err(failure) => {
                return Err(Failure {
                    message: format!(
                        "{} (TCP; tunnel.tcp = false does without it)",
                        failure.message
                    ),
                    ..failure
                });
            }
        }
    }
}

const SETTING: &str = "tunnel.listen";

const PORT_TRIES: usize = 20;

/// Everything that the components share; also what a command line alone works with.
#[derive(Debug)]
pub(crate) struct Parts {
    config: Config,
    identity: Identity,
    directory: Directory,
    registry: Registry,
    metrics: Arc<Metrics>,
    pub(crate) control: Control,
    store: StoreThread,
}

impl Parts {
    /// Opens the state; its lock must be held. `bound` is `None` where nothing is going to run.
    pub(crate) async fn open(
        config: Config,
        state: &Path,
        bound: Option<Bound>,
    ) -> Result<Self, Failure> {
        let identity = Identity::load_or_create(&state.join(IDENTITY_FILE))?;
        let file = state.join(DATABASE_FILE);
        let fail = |error: &StoreError| {
            let code = match error {
                // Another start of the same program does not help, so nobody should try.
                StoreError::Later { .. } => ExitCode::Config,
                _ => ExitCode::Io,
            };
            let message = format!("database {}: {}", file.display(), error.sentence());
            Failure::new(code, message)
        };
        if !file.exists() {
            // SQLite would make it as the umask says; its journals take the file's mode.
            os::create_private_file(&file).map_err(|error| {
                Failure::io(format_args!("database {}", file.display()), &error)
            })?;
        }
        let store = Sqlite::open(&file).map_err(|error| fail(&error))?;
        let store = StoreThread::start(store)
            .map_err(|error| Failure::io("the database's thread", &error))?;
        let directory = Directory::open(store.handle())
            .await
            .map_err(|error| fail(&error))?;
        let metrics = Arc::new(Metrics::new());
        let registry = Registry::new(
            directory.clone(),
            metrics.clone(),
            Limits::from(&config.limits),
        );
        let control = Control::new(
            config.clone(),
            directory.clone(),
            registry.clone(),
            identity.spki(),
            bound,
        );
        Ok(Self {
            config,
            identity,
            directory,
            registry,
            metrics,
            control,
            store,
        })
    }

    fn start_control(&self, supervisor: &mut Supervisor, state: &Path) -> Result<(), Failure> {
        let listener = admin::bind(state)
            .map_err(|error| Failure::io("the control socket in the state folder", &error))?;
        let control = self.control.clone();
        let shutdown = supervisor.shutdown_token();
        supervisor.spawn("control", async move {
            admin::serve(listener, shutdown, move |request| {
                let control = control.clone();
                async move { control.handle(request).await }
            })
            .await;
            Ok(())
        });
        Ok(())
    }

    fn start_store(&mut self, supervisor: &mut Supervisor) {
        let ended = self.store.ended();
        let shutdown = supervisor.shutdown_token();
        supervisor.spawn("store", async move {
            match shutdown.run_until_cancelled(ended).await {
                Some(()) => anyhow::bail!("the database's thread ended"),
                None => Ok(()),
            }
        });
    }

    fn start_registry(&self, supervisor: &mut Supervisor) {
        let registry = self.registry.clone();
        let shutdown = supervisor.shutdown_token();
        supervisor.spawn("registry", async move {
            registry.run(shutdown).await;
            Ok(())
        });
    }

    /// The answer is RTMPS's own part of it.
    fn start_ingest(
        &self,
        supervisor: &mut Supervisor,
        sockets: &mut Sockets,
        bound: &Bound,
        state: &Path,
    ) -> Result<Option<Tls>, Failure> {
        let limits = (&self.config.limits).into();
        let ports = Ports {
            rtmp: bound.rtmp.map(|address| address.port()),
            rtmps: bound.rtmps.map(|address| address.port()),
        };
        let proxies = &self.config.rtmp.proxy_protocol_from;
        let desk = Desk::with_limits(
            self.registry.clone(),
            self.metrics.clone(),
            &self.config.limits,
        );
        let mut connections: Option<Connections> = None;
        let mut open = |listener, setting: &str| -> Result<RtmpIngest, Failure> {
            let ingest = RtmpIngest::new(listener, limits)
                .map_err(|error| Failure::io(setting, &error))?
                .with_ports(ports)
                .behind(proxies);
            // One address has one share, whichever way it comes.
            let shared = connections.get_or_insert_with(|| ingest.connections().clone());
            Ok(ingest.sharing(shared))
        };
        if let Some(listener) = sockets.rtmp.take() {
            let ingest = open(listener, "rtmp.listen")?;
            supervisor.spawn(
                "ingest",
                ingest.run(desk.clone(), supervisor.shutdown_token()),
            );
        }
        let Some(listener) = sockets.rtmps.take() else {
            return Ok(None);
        };
        let tls = Tls::new(self.certificate(state)?)?;
        let ingest = open(listener, "rtmps.listen")?.secured(tls.clone());
        supervisor.spawn("rtmps", ingest.run(desk, supervisor.shutdown_token()));
        Ok(Some(tls))
    }

    fn certificate(&self, state: &Path) -> Result<Source, Failure> {
        if let Some((certificate, key)) = self.config.rtmps.certificate_and_key()? {
            return Ok(Source::Files {
                certificate: certificate.to_owned(),
                key: key.to_owned(),
            });
        }
        let public = self.config.tunnel.public_address.iter();
        let public = public.map(|address| address.host.clone());
        let local = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
        Ok(Source::OwnMade {
            file: state.join(RTMPS_FILE),
            hosts: public.chain(local).collect(),
        })
    }

    /// Where connectors tell encoders to go.
    fn ingest_addresses(&self, bound: &Bound, tls: Option<&Tls>) -> IngestAddresses {
        let hosts = self.config.tunnel.public_address.iter();
        let hosts: Vec<_> = hosts.map(|address| address.host.clone()).collect();
        if let Some(tls) = tls
            && tls.is_of_operator()
            && tls.hosts(&hosts).is_empty()
        {
            warn!(
                "no rtmps:// URL is offered: rtmps.certificate is not for a name in tunnel.public_address ({})",
                hosts.join(", ")
            );
        }
        IngestAddresses {
            rtmp_port: bound.rtmp.map(|address| address.port()),
            rtmps_port: bound.rtmps.map(|address| address.port()),
            rtmps_hosts: tls.map(|tls| tls.hosts(&hosts)),
            hosts,
        }
    }

    fn start_tunnel(
        &self,
        supervisor: &mut Supervisor,
        sockets: &mut Sockets,
        ingest: IngestAddresses,
        state: &Path,
    ) -> Result<(), Failure> {
        let Some(socket) = sockets.tunnel.take() else {
            return Ok(());
        };
        let listen = |listener: Option<std::net::TcpListener>, setting| {
            let listener = listener.map(tokio::net::TcpListener::from_std).transpose();
            listener.map_err(|error| Failure::io(setting, &error))
        };
        let doors = Doors {
            own: listen(sockets.fallback.take(), SETTING)?,
            https: listen(sockets.https.take(), "https.listen")?,
        };
        let acceptor = Acceptor::new(&self.identity)
            .map_err(|error| Failure::new(ExitCode::Io, format!("tunnel.listen: {error}")))?;
        let reset_key = ResetKey::load_or_create(&state.join(RESET_KEY_FILE))?;
        let transport = Transport {
            congestion: self.config.tunnel.congestion,
            ..Transport::default()
        };
        let endpoint = quic::listen(socket, &self.identity, &reset_key, transport)
            .map_err(|error| Failure::new(ExitCode::Io, format!("tunnel.listen: {error}")))?;
        let tunnel = Tunnel::new(
            self.directory.clone(),
            self.registry.clone(),
            self.metrics.clone(),
            ingest,
            scheduler::Limits::default(),
            acceptor,
        );
        let shutdown = supervisor.shutdown_token();
        supervisor.spawn("tunnel", async move {
            tunnel.serve(endpoint, doors, shutdown).await
        });
        Ok(())
    }

    fn start_http(&self, supervisor: &mut Supervisor, listener: Option<std::net::TcpListener>) {
        let Some(listener) = listener else {
            return;
        };
        let listen = self.config.http.listen.clone();
        let connections_max = self.config.limits.http_connections.get();
        let (control, metrics) = (self.control.clone(), self.metrics.clone());
        let shutdown = supervisor.shutdown_token();
        let start = move || {
            let listener = listener.try_clone();
            let (listen, control, metrics) = (listen.clone(), control.clone(), metrics.clone());
            let shutdown = shutdown.clone();
            async move {
                let listener = listener.context("the listener of http.listen")?;
                http::serve(
                    listener,
                    listen,
                    connections_max,
                    control,
                    metrics,
                    shutdown,
                )
                .await
            }
        };
        // The fault is in the log; the API itself is what would show it.
        supervisor.spawn_restarting("http", start, |_| {});
    }

    /// For whoever looks at the log to learn what to do next.
    fn tell(&self, bound: &Bound) {
        let shown = |address: Option<SocketAddr>| {
            address.map_or_else(|| Listen::Off.to_string(), |address| address.to_string())
        };
        info!(
            rtmp = shown(bound.rtmp),
            rtmps = shown(bound.rtmps),
            tunnel = shown(bound.tunnel),
            http = shown(bound.http),
            identity = %self.identity.spki(),
            "firstmile-relay {} is ready",
            env!("CARGO_PKG_VERSION")
        );
        if self.directory.snapshot().studios().next().is_none() {
            info!("no studio yet: `firstmile-relay invite STUDIO` prints a join token for it");
        }
    }
}

/// The relay's key and certificate.
const IDENTITY_FILE: &str = "identity.pem";

/// The key and the certificate that RTMPS shows when the operator gave none.
const RTMPS_FILE: &str = "rtmps.pem";

/// What ends the connections of the relay's former life at once.
const RESET_KEY_FILE: &str = "reset.key";

/// Studios, connectors, tokens, lines.
const DATABASE_FILE: &str = "relay.sqlite";

/// Goodbyes take a round trip; who needs longer is not there any more.
const GRACE: Duration = Duration::from_secs(5);

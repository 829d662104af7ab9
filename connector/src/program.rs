//! The running connector: its parts, started in order and stopped together.
//!
//! Only `lines` is vital: a fault in the page, the control socket or the tunnel is shown as degraded while that part
//! is started again; pictures go on. The same assembly runs in the binary and, in-process, in tests.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use firstmile_shared::{
    admin,
    config::Listen,
    exit::Failure,
    net,
    ops::{RunFile, StateDir},
    os,
    supervisor::Supervisor,
};
use tracing::{error, info, warn};

use crate::{
    config::{Config, OutputDefault},
    control::{Control, Health},
    events::Events,
    http,
    lines::Lines,
    output::Outputs,
    tunnel::Tunnels,
    unit_log::UnitLog,
};

/// A started connector.
#[derive(Debug)]
pub struct Connector {
    supervisor: Supervisor,
    control: Control,
    page: Option<SocketAddr>,
    state: Arc<StateDir>,
}

impl Connector {
    /// Starts all parts. When it returns, the lines are known, the page answers and `run.json` is written.
    pub async fn start(config: &Config, state: StateDir) -> Result<Self, Failure> {
        let state = Arc::new(state);
        for sentence in config.not_served() {
            warn!("{sentence}");
        }
        let outputs = load_outputs(config).await;
        let lines = Lines::open_to_play(
            state.path(),
            config.delay.0,
            outputs,
            config.output.default.into(),
            config.decoders(),
        )?;
        lines.set_studio_slate(config.slate.0.clone());
        if let Some(format) = config.show_format.0 {
            lines.set_show_format(format);
        }
        let unit_log = (config.diagnostics.units.as_deref())
            .map(UnitLog::create)
            .transpose()?;
        if let Some(log) = &unit_log {
            lines.set_unit_log(log.clone());
        }
        let events = Events::open(state.path());
        let tunnels = open_tunnels(config, &state, &lines, &events)?;
        let health = Health::default();
        let control = Control::new(
            lines.clone(),
            tunnels.clone(),
            health.clone(),
            events.clone(),
        );

        let mut supervisor = Supervisor::default();
        let shutdown = supervisor.shutdown_token();
        supervisor.spawn("lines", {
            let (lines, shutdown) = (lines.clone(), shutdown.clone());
            async move { lines.run(shutdown).await }
        });
        start_events(events, lines, &health, &mut supervisor);
        start_unit_log(unit_log, &health, &mut supervisor);
        let page = start_page(config, &state, &control, &health, &mut supervisor);
        start_socket(&state, &control, &health, &mut supervisor);
        supervisor.spawn_restarting(
            "tunnel",
            move || {
                let (tunnels, shutdown) = (tunnels.clone(), shutdown.clone());
                async move { tunnels.run(shutdown).await }
            },
            move |fault| health.report("connection to the relays", fault),
        );
        state.write_run_file(&run_file(page))?;
        Ok(Self {
            supervisor,
            control,
            page,
            state,
        })
    }

    /// Where the page is; `None` when it is off or its port was taken.
    pub fn page(&self) -> Option<SocketAddr> {
        self.page
    }

    /// Asks it, as the page and the command line do.
    pub fn control(&self) -> &Control {
        &self.control
    }

    /// Runs until `signal` or a fault of a vital part. A second stop signal ends it at once.
    pub async fn run(self, signal: impl Future<Output = ()>) -> anyhow::Result<()> {
        self.greet();
        let result = self.supervisor.run(signal, GRACE).await;
        drop(self.state);
        result
    }

    /// What somebody who starts it for the first time has to know.
    fn greet(&self) {
        let status = self.control.status();
        let page = self.page.map(http::page_url);
        info!(
            state = %self.state.path().display(),
            lines = status.lines.len(),
            relays = status.relays.len(),
            "firstmile-connector {} is up",
            status.version
        );
        if let Some(url) = &page {
            info!("the page is at {url}");
        } else {
            info!("there is no page: http.listen is off or its port is taken");
        }
        if status.relays.is_empty() {
            let place = page.map_or_else(String::new, |url| format!(" at {url} or"));
            info!(
                "next: paste the join token of `firstmile-relay invite STUDIO`{place} by `firstmile-connector join`"
            );
        } else if status.lines.is_empty() {
            info!(
                "next: name the first line, on the page or by `firstmile-connector line add \"Camera 1\"`"
            );
        }
    }
}

/// Loading a library reads the disk: not on the runtime's own threads.
async fn load_outputs(config: &Config) -> Outputs {
    if config.output.default == OutputDefault::Null {
        return Outputs::null_only();
    }
    let settings = config.ndi_settings();
    let loaded = tokio::task::spawn_blocking(move || Outputs::load(&settings)).await;
    loaded.unwrap_or_else(|error| {
        error!(%error, "loading the NDI runtime");
        Outputs::null_only()
    })
}

fn start_page(
    config: &Config,
    state: &Arc<StateDir>,
    control: &Control,
    health: &Health,
    supervisor: &mut Supervisor,
) -> Option<SocketAddr> {
    let listen = config.http.listen.clone();
    if listen == Listen::Off {
        return None;
    }
    // A taken port must not keep the sources off the air: the page is tried again until it is free.
    let first = match net::bind_tcp(&listen, "http.listen") {
        Ok(listener) => listener,
        Err(failure) => {
            warn!("{failure}; the lines go on without their page, which is tried again");
            None
        }
    };
    let bound = (first.as_ref()).and_then(|listener| listener.local_addr().ok());
    if let Some(bound) = bound
        && !bound.ip().is_loopback()
    {
        warn!(
            "the page at {bound} shows stream keys to everybody who reaches it: keep it in a network you trust"
        );
    }
    let first = Arc::new(Mutex::new(first));
    let (control, state, shutdown) = (control.clone(), state.clone(), supervisor.shutdown_token());
    let serve = move || {
        let (listen, control, shutdown) = (listen.clone(), control.clone(), shutdown.clone());
        let (first, state) = (first.clone(), state.clone());
        async move {
            let ready = first.lock().unwrap_or_else(PoisonError::into_inner).take();
            let listener = match ready {
                Some(listener) => listener,
                None => bind_again(&listen, &state)?,
            };
            http::serve(listener, &listen, control, shutdown).await
        }
    };
    let health = health.clone();
    supervisor.spawn_restarting("page", serve, move |fault| health.report("page", fault));
    bound
}

fn bind_again(listen: &Listen, state: &StateDir) -> anyhow::Result<std::net::TcpListener> {
    let listener = net::bind_tcp(listen, "http.listen")?;
    let listener = listener.ok_or_else(|| anyhow::anyhow!("http.listen is off"))?;
    state.write_run_file(&run_file(listener.local_addr().ok()))?;
    Ok(listener)
}

fn start_events(events: Events, lines: Lines, health: &Health, supervisor: &mut Supervisor) {
    let shutdown = supervisor.shutdown_token();
    let follow = move || {
        let (events, lines, shutdown) = (events.clone(), lines.clone(), shutdown.clone());
        async move { events.run(&lines, shutdown).await }
    };
    let health = health.clone();
    supervisor.spawn_restarting("events", follow, move |fault| {
        health.report("log of events", fault);
    });
}

fn start_unit_log(log: Option<UnitLog>, health: &Health, supervisor: &mut Supervisor) {
    let Some(log) = log else {
        return;
    };
    let (health, shutdown) = (health.clone(), supervisor.shutdown_token());
    let write = move || {
        let (log, shutdown) = (log.clone(), shutdown.clone());
        async move { log.run(shutdown).await }
    };
    supervisor.spawn_restarting("log of units", write, move |fault| {
        health.report("log of units", fault);
    });
}

fn start_socket(
    state: &Arc<StateDir>,
    control: &Control,
    health: &Health,
    supervisor: &mut Supervisor,
) {
    let (control, state, shutdown) = (control.clone(), state.clone(), supervisor.shutdown_token());
    let serve = move || {
        let (control, state, shutdown) = (control.clone(), state.clone(), shutdown.clone());
        async move {
            let listener = admin::bind(state.path())?;
            let answer = move |request| {
                let control = control.clone();
                async move { control.answer(request).await }
            };
            admin::serve(listener, shutdown, answer).await;
            Ok(())
        }
    };
    let health = health.clone();
    supervisor.spawn_restarting("control socket", serve, move |fault| {
        health.report("control socket", fault);
    });
}

/// The relays and the identity of a state folder, for the program and for a command line alone.
pub fn open_tunnels(
    config: &Config,
    state: &StateDir,
    lines: &Lines,
    events: &Events,
) -> Result<Tunnels, Failure> {
    let (lines, events) = (lines.clone(), events.clone());
    Tunnels::open(state.path(), lines, config.tunnels(), events)
}

fn run_file(page: Option<SocketAddr>) -> RunFile {
    RunFile {
        pid: std::process::id(),
        http: page.map(|address| address.to_string()),
        ..RunFile::default()
    }
}

/// Resolves at the first stop signal.
pub async fn stop_signal() {
    if let Err(error) = os::wait_for_stop_signal().await {
        error!(%error, "stop signals can't be received");
        std::future::pending::<()>().await;
    }
}

/// NDI sources close within two seconds.
const GRACE: Duration = Duration::from_secs(5);

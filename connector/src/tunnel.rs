//! The connections to the relays: joined once, kept from then on.
//!
//! [`Tunnels::run`] keeps one loop for each relay of the book: dial, greet, serve, and after a pause dial again.
//! That loop is the only one that retries. What a relay refuses for good (another key, an unknown connector) is
//! tried again every half minute only, and says why.
//!
//! Not here: what becomes of the units ([`crate::playout`]), and the wire formats ([`firstmile_shared::tunnel`]).

mod book;
mod claims;
mod colleague;
mod control_stream;
mod dial;
mod ended;
mod link;
mod receiver;
mod relay_clock;
mod session;

use std::{
    collections::{BTreeMap, HashMap},
    io,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use firstmile_shared::{
    backoff::Backoff,
    exit::{ExitCode, Failure},
    quic::Transport,
    supervisor::random,
    tls::{Identity, Spki, WrongPin},
    token::JoinToken,
    tunnel::{
        close::Close,
        control::{Finding, FromConnector, IngestAddresses},
    },
};
use serde::Serialize;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time,
};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, info, info_span, warn};

pub use self::colleague::InviteError;
use self::{
    book::{Book, Relay},
    colleague::InviteAsk,
    dial::{DialError, Dialer, Ways},
    ended::Ended,
    link::Way,
    relay_clock::RelayClock,
    session::Session,
};
use crate::{
    events::{Event, Events, Kind},
    identity,
    lines::Lines,
};

pub use self::claims::Claims;

/// What all connections to relays share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// QUIC's.
    pub transport: Transport,
    /// How often QUIC is tried again while a tunnel goes over TCP.
    pub probe_every: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            transport: Transport::default(),
            probe_every: Duration::from_mins(1),
        }
    }
}

/// How the connection to a relay is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RelayState {
    /// After the relay's welcome.
    Connected,
    /// Trying.
    Dialing,
    /// The relay does not take us.
    Refused,
}

/// One relay at one moment.
#[derive(Clone, Debug, Serialize)]
pub struct RelaySnapshot {
    /// `HOST:PORT` as dialled.
    pub address: String,
    /// How the connection is.
    pub state: RelayState,
    /// Why it is not connected, or what the relay could not take.
    pub reason: Option<String>,
    /// `quic` or `tcp`.
    pub transport: &'static str,
    /// Round trip, milliseconds.
    pub rtt_ms: Option<f64>,
    /// Of the last seconds, as the relay counts.
    pub lost_percent: Option<f64>,
    /// The studio that was joined there.
    pub studio: Option<String>,
    /// Where encoders find the relay.
    #[serde(skip)]
    pub ingest: IngestAddresses,
    /// The generation of the lines that this session's relay has stored.
    #[serde(skip)]
    pub declared: Option<u64>,
    /// Who else uses the key of a line, by its number.
    #[serde(skip)]
    pub claims: BTreeMap<u32, Claims>,
    /// What is wrong with the feed of a line, by its number.
    #[serde(skip)]
    pub findings: BTreeMap<u32, Vec<Finding>>,
}

impl RelaySnapshot {
    /// What the way that the tunnel goes costs, if there is a better one: a sentence, and what to do.
    pub fn detour(&self) -> Option<(String, String)> {
        if self.state != RelayState::Connected || self.transport != Way::Tcp.name() {
            return None;
        }
        let address = &self.address;
        let port = address.rsplit_once(':').map_or("4433", |(_, port)| port);
        Some((
            format!(
                "No UDP gets through to the relay {address}, so the feeds come over TCP: a lost packet holds up everything \
                 behind it, and pictures freeze sooner on a bad link."
            ),
            format!(
                "Let UDP out to port {port} in the studio's firewall: the tunnel goes back to it by itself."
            ),
        ))
    }

    fn dialing(relay: &Relay) -> Self {
        Self {
            address: relay.name().to_owned(),
            state: RelayState::Dialing,
            reason: None,
            transport: Way::Quic.name(),
            rtt_ms: None,
            lost_percent: None,
            studio: Some(relay.studio.clone()),
            ingest: relay.ingest.clone(),
            declared: None,
            claims: BTreeMap::new(),
            findings: BTreeMap::new(),
        }
    }
}

/// What joining led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    /// The studio.
    pub studio: String,
    /// The relay's address.
    pub relay: String,
}

/// Why a token was not redeemed. Each with what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// Another relay than the token's answers at its address.
    #[error(transparent)]
    WrongPin(WrongPin),
    /// The relay does not take the token.
    #[error("{message}")]
    Refused {
        /// The relay's own sentence.
        message: String,
    },
    /// The relay can't be reached, or the connection broke.
    #[error("{message}; nothing is lost: the same token can be used again")]
    Unavailable {
        /// What was tried.
        message: String,
    },
    /// It was redeemed and can't be remembered.
    #[error(
        "joined, but {file} can't be written ({error}); mend that and join again with the same token"
    )]
    Store {
        /// `relays.json`.
        file: &'static str,
        /// The system's reason.
        error: io::Error,
    },
}

impl JoinError {
    /// For the command line.
    pub const fn exit_code(&self) -> ExitCode {
        match self {
            Self::WrongPin(_) | Self::Refused { .. } => ExitCode::Refused,
            Self::Unavailable { .. } => ExitCode::Unavailable,
            Self::Store { .. } => ExitCode::Io,
        }
    }
}

impl From<DialError> for JoinError {
    fn from(error: DialError) -> Self {
        match error {
            DialError::WrongPin(wrong) => Self::WrongPin(wrong),
            DialError::Unreachable { .. } => Self::Unavailable {
                message: error.to_string(),
            },
        }
    }
}

impl From<Ended> for JoinError {
    fn from(ended: Ended) -> Self {
        let message = ended.to_string();
        if ended.is_refusal() {
            Self::Refused { message }
        } else {
            Self::Unavailable { message }
        }
    }
}

/// Why a relay was not left.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LeaveError {
    /// No relay of that name.
    #[error("there is no relay {name:?}; {}", if .known.is_empty() { "none was joined".to_owned() } else { format!("joined are {}", .known.join(", ")) })]
    Unknown {
        /// As given.
        name: String,
        /// Those that were joined.
        known: Vec<String>,
    },
    /// The list could not be written.
    #[error("relays.json can't be written: {0}")]
    Io(#[from] io::Error),
}

/// All relays that were joined. Clones share them.
#[derive(Clone, Debug)]
pub struct Tunnels {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    identity: Identity,
    lines: Lines,
    settings: Settings,
    book: Mutex<Book>,
    /// Counts the changes of the book.
    changes: watch::Sender<u64>,
    /// By the relay's first pin.
    states: Mutex<HashMap<Spki, RelaySnapshot>>,
    /// How to ask the session with a relay for a join token, by the relay's first pin.
    inviters: Mutex<HashMap<Spki, mpsc::Sender<InviteAsk>>>,
    /// Of the sessions that are open: what is put in is said to the relay.
    voices: Mutex<HashMap<Spki, mpsc::Sender<FromConnector>>>,
    events: Events,
}

impl Tunnels {
    /// The relays and the identity of a state folder. Reads, and at the first start writes, the disk.
    pub fn open(
        state_dir: &Path,
        lines: Lines,
        settings: Settings,
        events: Events,
    ) -> Result<Self, Failure> {
        Ok(Self {
            shared: Arc::new(Shared {
                identity: identity::load(state_dir)?,
                lines,
                settings,
                book: Mutex::new(Book::open(&state_dir.join(BOOK_FILE))?),
                changes: watch::Sender::new(0),
                states: Mutex::default(),
                inviters: Mutex::default(),
                voices: Mutex::default(),
                events,
            }),
        })
    }

    /// Who this connector is to relays.
    pub fn spki(&self) -> Spki {
        self.shared.identity.spki()
    }

    /// Keeps a connection to every relay until `shutdown`.
    pub async fn run(&self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let mut changes = self.shared.changes.subscribe();
        let mut running: HashMap<Spki, (Relay, CancellationToken)> = HashMap::new();
        let mut loops = JoinSet::new();
        loop {
            changes.mark_unchanged();
            let relays = self.relays();
            running.retain(|_, (relay, stop)| {
                let is_kept = relays.iter().any(|kept| kept.is_dialled_like(relay));
                if !is_kept {
                    stop.cancel();
                }
                is_kept
            });
            for relay in relays {
                let Some(id) = relay.pins.first().copied() else {
                    continue;
                };
                if running.contains_key(&id) {
                    continue;
                }
                let stop = shutdown.child_token();
                running.insert(id, (relay.clone(), stop.clone()));
                let span = info_span!("relay", address = relay.name());
                let shared = self.shared.clone();
                loops.spawn(async move { keep(&shared, id, relay, stop).await }.instrument(span));
            }
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                _ = changes.changed() => {}
                // One that was stopped; or one that broke: then all start again.
                Some(ended) = loops.join_next() => ended?,
            }
        }
        while loops.join_next().await.is_some() {}
        Ok(())
    }

    /// Dials, checks the relay's key, redeems the token and remembers the relay.
    pub async fn join(&self, token: &JoinToken) -> Result<Joined, JoinError> {
        let shared = &self.shared;
        let dialer = Dialer {
            https_port: token.https_port,
            addresses: token.addresses.clone(),
            pins: token.pins.clone(),
            identity: shared.identity.clone(),
            transport: shared.settings.transport,
            probe_every: shared.settings.probe_every,
        };
        let reached = dialer.dial(Ways::after(Way::Quic)).await?;
        let address = reached.address.clone();
        let (studio, ingest) = session::enrol(reached, token).await?;
        info!(studio, relay = address, "joined");
        // The one that answered is the best, whatever the token says.
        let mut addresses = token.addresses.clone();
        addresses.sort_by_key(|known| *known != address);
        let relay = Relay {
            addresses,
            pins: token.pins.clone(),
            studio: studio.clone(),
            ingest,
            https_port: token.https_port,
        };
        let shared = shared.clone();
        let stored = tokio::task::spawn_blocking(move || {
            lock(&shared.book).add(relay)?;
            shared.changes.send_modify(|changes| *changes += 1);
            Ok(())
        });
        let stored = stored
            .await
            .unwrap_or_else(|error| Err(io::Error::other(error)));
        match stored {
            Ok(()) => Ok(Joined {
                studio,
                relay: address,
            }),
            Err(error) => Err(JoinError::Store {
                file: BOOK_FILE,
                error,
            }),
        }
    }

    /// Forgets a relay, by any of its addresses or hosts. Writes the disk.
    pub fn leave(&self, relay: &str) -> Result<(), LeaveError> {
        let mut book = lock(&self.shared.book);
        if !book.remove(relay)? {
            return Err(LeaveError::Unknown {
                name: relay.to_owned(),
                known: book
                    .relays()
                    .iter()
                    .map(|relay| relay.name().to_owned())
                    .collect(),
            });
        }
        drop(book);
        self.shared.changes.send_modify(|changes| *changes += 1);
        Ok(())
    }

    /// Says something to a relay, by its address as the status shows it. `false`: it is not connected.
    pub fn say(&self, relay: &str, message: FromConnector) -> bool {
        let id = (lock(&self.shared.states).iter())
            .find(|(_, state)| state.address == relay)
            .map(|(id, _)| *id);
        let voices = lock(&self.shared.voices);
        id.and_then(|id| voices.get(&id))
            .is_some_and(|voice| voice.try_send(message).is_ok())
    }

    /// Every relay at this moment.
    pub fn snapshot(&self) -> Vec<RelaySnapshot> {
        let relays = self.relays();
        let states = lock(&self.shared.states);
        relays
            .iter()
            .map(|relay| {
                let state = relay.pins.first().and_then(|id| states.get(id));
                state
                    .cloned()
                    .unwrap_or_else(|| RelaySnapshot::dialing(relay))
            })
            .collect()
    }

    /// A join token of each relay for another machine of the studio: for a spare.
    pub async fn invite_colleague(&self) -> Result<Vec<JoinToken>, InviteError> {
        let mut tokens = Vec::new();
        for relay in self.relays() {
            let session = (relay.pins.first())
                .and_then(|id| lock(&self.shared.inviters).get(id).cloned())
                .ok_or_else(|| InviteError::Away(relay.name().to_owned()))?;
            let invited = colleague::ask(&session, relay.name()).await?;
            tokens.push(JoinToken {
                addresses: relay.addresses,
                pins: relay.pins,
                studio: relay.studio,
                id: invited.token,
                secret: invited.secret,
                expires_unix: invited.expires_unix,
                https_port: relay.https_port,
            });
        }
        Ok(tokens)
    }

    fn relays(&self) -> Vec<Relay> {
        lock(&self.shared.book).relays().to_vec()
    }
}

/// One relay's line of the status.
#[derive(Clone, Debug)]
struct Status {
    shared: Arc<Shared>,
    id: Spki,
}

impl Status {
    fn update(&self, change: impl FnOnce(&mut RelaySnapshot)) {
        if let Some(snapshot) = lock(&self.shared.states).get_mut(&self.id) {
            change(snapshot);
        }
    }

    /// Keeps the addresses of lines as they are while the relay is away.
    async fn remember(&self, ingest: IngestAddresses) {
        let (shared, id) = (self.shared.clone(), self.id);
        let stored = tokio::task::spawn_blocking(move || lock(&shared.book).set_ingest(id, ingest));
        if let Ok(Err(error)) = stored.await {
            warn!(%error, "{BOOK_FILE} can't be written");
        }
    }

    /// From now on the session is asked for join tokens.
    fn take_invite_asks(&self) -> mpsc::Receiver<InviteAsk> {
        let (ask, asks) = mpsc::channel(1);
        lock(&self.shared.inviters).insert(self.id, ask);
        asks
    }

    /// Notes what happened to the relay.
    fn note(&self, kind: Kind, text: String) {
        let states = lock(&self.shared.states);
        let address = states.get(&self.id).map(|state| state.address.clone());
        drop(states);
        let event = Event::new(kind, text).relay(address.as_deref().unwrap_or_default());
        self.shared.events.note(event);
    }

    fn is_refused(&self) -> bool {
        let states = lock(&self.shared.states);
        (states.get(&self.id)).is_some_and(|state| state.state == RelayState::Refused)
    }

    fn down(&self, state: RelayState, reason: String) {
        lock(&self.shared.inviters).remove(&self.id);
        self.update(|snapshot| {
            snapshot.state = state;
            snapshot.reason = Some(reason);
            snapshot.rtt_ms = None;
            snapshot.lost_percent = None;
            snapshot.declared = None;
            snapshot.claims.clear();
            snapshot.findings.clear();
        });
    }
}

/// Keeps one relay until `stop`.
async fn keep(shared: &Arc<Shared>, id: Spki, relay: Relay, stop: CancellationToken) {
    lock(&shared.states).insert(id, RelaySnapshot::dialing(&relay));
    let status = Status {
        shared: shared.clone(),
        id,
    };
    let mut backoff = Backoff::new(RETRY_MIN, RETRY_MAX);
    let mut clock = RelayClock::default();
    let mut way = Way::default();
    let dialer = Dialer {
        https_port: relay.https_port,
        addresses: relay.addresses,
        pins: relay.pins,
        identity: shared.identity.clone(),
        transport: shared.settings.transport,
        probe_every: shared.settings.probe_every,
    };
    loop {
        let wait = match attempt(&dialer, &status, &mut clock, &mut way, &stop).await {
            Attempt::Stopped => break,
            Attempt::WasConnected(reason) => {
                warn!(reason, "connection to the relay lost; dialling again");
                let lost = format!("connection to the relay lost: {reason}");
                status.note(Kind::RelayLost, lost);
                status.down(RelayState::Dialing, reason);
                backoff.reset();
                backoff.next_wait(random())
            }
            Attempt::Failed(reason) => {
                status.down(RelayState::Dialing, reason);
                backoff.next_wait(random())
            }
            Attempt::Refused(reason) => {
                warn!(reason, "the relay does not take this connector");
                if !status.is_refused() {
                    let refused = format!("the relay does not take this connector: {reason}");
                    status.note(Kind::RelayRefused, refused);
                }
                status.down(RelayState::Refused, reason);
                backoff.reset();
                REFUSED_RETRY.mul_f64(0.5 + f64::from(random()) / f64::from(u32::MAX) / 2.0)
            }
        };
        if stop.run_until_cancelled(time::sleep(wait)).await.is_none() {
            break;
        }
    }
    // Not if it is another loop's by now: the relay was joined anew.
    if !lock(&shared.book)
        .relays()
        .iter()
        .any(|known| known.pins.first() == Some(&id))
    {
        lock(&shared.states).remove(&id);
    }
}

/// How one dial and its session went.
enum Attempt {
    /// On purpose.
    Stopped,
    /// There was a welcome.
    WasConnected(String),
    /// There was none, this time.
    Failed(String),
    /// There will be none until a person does something.
    Refused(String),
}

async fn attempt(
    dialer: &Dialer,
    status: &Status,
    clock: &mut RelayClock,
    way: &mut Way,
    stop: &CancellationToken,
) -> Attempt {
    let reached = dialer.dial(Ways::after(*way));
    let reached = match stop.run_until_cancelled(reached).await {
        None => return Attempt::Stopped,
        Some(Ok(reached)) => reached,
        Some(Err(error @ DialError::WrongPin(_))) => return Attempt::Refused(error.to_string()),
        Some(Err(error @ DialError::Unreachable { .. })) => {
            // Perhaps it is another network by now.
            *way = Way::default();
            return Attempt::Failed(error.to_string());
        }
    };
    let lines = &status.shared.lines;
    clock.new_path();
    let mut session = match Session::open(reached, dialer, lines, clock, stop).await {
        Ok(session) => session,
        Err(Ended::Stopped) => return Attempt::Stopped,
        Err(ended) if ended.is_refusal() => return Attempt::Refused(ended.to_string()),
        Err(ended) => return Attempt::Failed(ended.to_string()),
    };
    *way = session.way();
    let transport = way.name();
    info!(studio = session.studio(), transport, "connected");
    let (studio, ingest, address) = (
        session.studio().to_owned(),
        session.ingest(),
        session.address().to_owned(),
    );
    status.remember(ingest.clone()).await;
    status.update(|snapshot| {
        snapshot.state = RelayState::Connected;
        snapshot.reason = None;
        snapshot.address = address;
        snapshot.transport = transport;
        snapshot.studio = Some(studio);
        snapshot.ingest = ingest;
    });
    status.note(Kind::RelayConnected, "connected to the relay".to_owned());
    let (voice, said) = mpsc::channel(VOICE_MAX);
    lock(&status.shared.voices).insert(status.id, voice);
    let ended = session.serve(status, said, stop).await;
    *way = session.way();
    lock(&status.shared.voices).remove(&status.id);
    match ended {
        Ended::Stopped => Attempt::Stopped,
        ended if ended.is_refusal() => Attempt::Refused(ended.to_string()),
        ended => Attempt::WasConnected(ended.to_string()),
    }
}

/// Whether dialling again soon is of no use.
const fn is_final(close: Close) -> bool {
    // Two programs with one key would take each other's place for ever.
    close.is_final() || matches!(close, Close::Replaced)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the operator may say before the relay has taken it.
const VOICE_MAX: usize = 16;

const BOOK_FILE: &str = "relays.json";

const RETRY_MIN: Duration = Duration::from_millis(100);

/// A relay that was restarted has to be found within 3 s. The last packet of a dial that ends in vain leaves 0.9 s before
/// its end, so this pause is what else may pass unheard.
const RETRY_MAX: Duration = Duration::from_secs(1);

/// A revoked connector may be taken back, a relay's key may come back: without anybody touching this end.
const REFUSED_RETRY: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests;

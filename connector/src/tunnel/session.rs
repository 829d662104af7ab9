//! One connection to one relay, from the first word to the last.

mod follow;
mod hear;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
    pin::pin,
    sync::Arc,
    time::Duration,
};

use firstmile_shared::{
    backoff::Backoff,
    clock, os, quic,
    secret::from_hex,
    token::JoinToken,
    tunnel::{
        VERSION,
        clock::{HEARTBEAT, Pong},
        close::Close,
        control::{FromConnector, FromRelay, IngestAddresses, LINES_MAX, LineDeclaration},
        unit::{Unit, UnitError},
    },
};
use ring::rand::{SecureRandom, SystemRandom};
use tokio::{
    sync::{mpsc, watch},
    time::{self, Instant},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use self::follow::{Former, Successor, next_of_former, next_opened};
use super::{
    RETRY_MAX, RETRY_MIN, Status,
    colleague::InviteAsk,
    dial::{Dialed, Dialer},
    ended::Ended,
    link::{Arrival, Link, Way},
    receiver::LostUnit,
    relay_clock::RelayClock,
};
use crate::{
    lines::{LineSet, Lines},
    playout::{ArrivedUnit, FeedInfo},
};

/// Redeems a token on a fresh connection; the answer is the studio.
pub(super) async fn enrol(
    reached: Dialed,
    token: &JoinToken,
) -> Result<(String, IngestAddresses), Ended> {
    let Dialed { mut link, .. } = reached;
    let words = async {
        link.say(&FromConnector::Enrol {
            token: token.id.clone(),
            secret: token.secret.clone(),
            name: os::host_name(),
        });
        loop {
            match link.next().await? {
                Arrival::Message(FromRelay::Enrolled { studio, ingest }) => {
                    return Ok((studio, ingest));
                }
                Arrival::Message(FromRelay::Refused { code, message }) => {
                    return Err(Ended::refused(code, &message));
                }
                _ => {}
            }
        }
    };
    let answer = time::timeout(ENROL_TIMEOUT, words)
        .await
        .unwrap_or(Err(Ended::NoWelcome));
    link.close(Close::Bye).await;
    answer
}

/// A session that was welcomed.
pub(super) struct Session<'a> {
    link: Link,
    /// Why `link` is gone, while `successor` may still come.
    gone: Option<Ended>,
    dialer: &'a Dialer,
    successor: Option<Successor>,
    former: Option<Former>,
    /// When the next second connection is tried, if one is wanted.
    next_dial: Instant,
    backoff: Backoff,
    /// How often QUIC is tried again from TCP.
    probe_every: Duration,
    /// Nothing came for so long that a second connection is wanted.
    is_silent: bool,
    address: String,
    lines: &'a Lines,
    sets: watch::Receiver<Arc<LineSet>>,
    clock: &'a mut RelayClock,
    studio: String,
    salt: [u8; 32],
    ingest: IngestAddresses,
    heard: Instant,
    /// Line and publisher of what is live here.
    feeds: BTreeSet<(u32, u32)>,
    /// Of those, what the relay has not named again since the connection is another one.
    unconfirmed: BTreeSet<(u32, u32)>,
    /// By line: who has it.
    infos: BTreeMap<u32, FeedInfo>,
    /// By line: how much lag of its encoder was accepted, milliseconds.
    accepted: BTreeMap<u32, u32>,
    /// By line: who lost it to another publisher, and why.
    losers: BTreeMap<u32, (FeedInfo, String)>,
    /// Lines on program and on preview, as the relay knows.
    told: (BTreeSet<u32>, BTreeSet<u32>),
    /// The tracks of each line that are played, as the relay knows.
    played: BTreeMap<u32, (u8, u8)>,
    /// Units that came before the relay's clock was known.
    early: Early,
    /// Who waits for a join token for another machine.
    asked: VecDeque<InviteAsk>,
}

impl fmt::Debug for Session<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl<'a> Session<'a> {
    /// Says hello and waits for the welcome.
    pub(super) async fn open(
        reached: Dialed,
        dialer: &'a Dialer,
        lines: &'a Lines,
        clock: &'a mut RelayClock,
        stop: &CancellationToken,
    ) -> Result<Self, Ended> {
        let Dialed { mut link, address } = reached;
        let welcome = stop
            .run_until_cancelled(time::timeout(WELCOME_TIMEOUT, hello(&mut link, false)))
            .await
            .map_or(Err(Ended::Stopped), |welcome| {
                welcome.unwrap_or(Err(Ended::NoWelcome))
            });
        match welcome {
            Ok(welcome) => {
                let session = Self {
                    link,
                    gone: None,
                    dialer,
                    successor: None,
                    former: None,
                    // It may have been a relay in its first moment.
                    next_dial: Instant::now() + PROBE_FIRST.min(dialer.probe_every),
                    backoff: Backoff::new(RETRY_MIN, RETRY_MAX),
                    probe_every: dialer.probe_every,
                    is_silent: false,
                    address,
                    lines,
                    sets: lines.watch(),
                    clock,
                    studio: welcome.studio,
                    salt: welcome.salt,
                    ingest: welcome.ingest,
                    heard: Instant::now(),
                    feeds: BTreeSet::new(),
                    unconfirmed: BTreeSet::new(),
                    infos: BTreeMap::new(),
                    accepted: BTreeMap::new(),
                    losers: BTreeMap::new(),
                    told: Default::default(),
                    played: BTreeMap::new(),
                    early: welcome.early,
                    asked: VecDeque::new(),
                };
                for (pong, now_us) in welcome.pongs {
                    session.clock.record(pong, now_us);
                }
                Ok(session)
            }
            Err(ended) => {
                link.close(ended.close()).await;
                Err(ended)
            }
        }
    }

    pub(super) const fn way(&self) -> Way {
        self.link.way()
    }

    pub(super) fn studio(&self) -> &str {
        &self.studio
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    pub(super) fn ingest(&self) -> IngestAddresses {
        self.ingest.clone()
    }

    /// Declares the lines and takes their feeds, until something ends it.
    /// `said` is for the relay.
    pub(super) async fn serve(
        &mut self,
        status: &Status,
        said: mpsc::Receiver<FromConnector>,
        stop: &CancellationToken,
    ) -> Ended {
        let asks = status.take_invite_asks();
        let ended = self.listen(status, said, stop, asks).await;
        let reason = match &ended {
            Ended::Stopped => "the connector stops".to_owned(),
            other => other.to_string(),
        };
        for (line, publisher) in std::mem::take(&mut self.feeds) {
            if let Some(handle) = self.lines.handle(line) {
                handle.feed_ended(publisher, reason.clone());
            }
        }
        if matches!(ended, Ended::Stopped) {
            self.link.say(&FromConnector::Bye { reason });
            let _ = time::timeout(GOODBYE_TIMEOUT, self.link.flush()).await;
        }
        self.link.close(ended.close()).await;
        ended
    }

    async fn listen(
        &mut self,
        status: &Status,
        mut said: mpsc::Receiver<FromConnector>,
        stop: &CancellationToken,
        mut asks: mpsc::Receiver<InviteAsk>,
    ) -> Ended {
        let mut stopping = pin!(stop.cancelled());
        let mut heartbeat = time::interval(HEARTBEAT);
        heartbeat.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
        let mut measure = time::interval(MEASURE_INTERVAL);
        let mut look = time::interval(TALLY_INTERVAL);
        look.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
        self.sets.mark_changed();
        self.say_show();
        loop {
            tokio::select! {
                biased;
                () = &mut stopping => return Ended::Stopped,
                _ = heartbeat.tick() => {
                    self.look_after(status);
                    self.link.ping();
                }
                opened = next_opened(&mut self.successor, self.heard) => {
                    if let Some(ended) = self.followed(opened, status) {
                        return ended;
                    }
                }
                arrival = next_of_former(&mut self.former) => self.hear_former(arrival),
                arrival = self.link.next(), if self.gone.is_none() => {
                    let ended = match arrival {
                        Ok(Arrival::Message(message)) => self.hear(message, status),
                        Ok(Arrival::Pong(pong)) => {
                            self.pong(pong);
                            None
                        }
                        Ok(Arrival::Unit(answer)) => {
                            self.unit(answer);
                            None
                        }
                        Err(ended) => {
                            let ended = self.last_words(ended);
                            self.lost(ended)
                        }
                    };
                    if let Some(ended) = ended {
                        return ended;
                    }
                }
                changed = self.sets.changed() => {
                    if changed.is_err() {
                        return Ended::Stopped;
                    }
                    self.declare();
                }
                Some(ask) = asks.recv() => {
                    self.link.say(&FromConnector::Invite {});
                    self.asked.push_back(ask);
                }
                Some(message) = said.recv() => self.link.say(&message),
                _ = look.tick() => {
                    self.tell_tally();
                    self.tell_played();
                }
                _ = measure.tick() => self.measure(status),
            }
        }
    }

    fn say_show(&mut self) {
        if let Some(format) = self.lines.show_format() {
            self.link.say(&FromConnector::Show { format });
        }
    }

    /// A refusal that arrived together with the close says more than its code.
    fn last_words(&mut self, ended: Ended) -> Ended {
        while let Ok(Some(message)) = self.link.received() {
            if let FromRelay::Refused { code, message } = message {
                return Ended::refused(code, &message);
            }
        }
        ended
    }

    fn declare(&mut self) {
        let set = self.sets.borrow_and_update().clone();
        let longest_ms = set
            .lines
            .iter()
            .map(|line| line.delay_ms)
            .max()
            .unwrap_or(0);
        let streams = quic::streams_max(set.lines.len(), Duration::from_millis(longest_ms.into()));
        self.link.grant_streams(streams);
        if set.lines.len() > LINES_MAX {
            warn!("only the first {LINES_MAX} lines are declared to the relay");
        }
        let lines = set
            .lines
            .iter()
            .take(LINES_MAX)
            .map(|line| LineDeclaration {
                line: line.id,
                name: line.name.clone(),
                key_hash: line.key.hash(&self.salt).to_hex(),
                enabled: line.enabled,
                delay_ms: line.delay_ms,
                takeover: line.takeover,
                lag: line.settings.lag,
                max_lag_ms: line.settings.max_lag.0,
            })
            .collect();
        self.link.say(&FromConnector::Declare {
            generation: set.generation,
            lines,
        });
    }

    fn pong(&mut self, pong: Pong) {
        let now_us = clock::now_us();
        self.heard = Instant::now();
        self.clock.record(pong, now_us);
        for (line, publisher) in &self.feeds {
            if let Some(handle) = self.lines.handle(*line) {
                handle.relay_heard(*publisher);
            }
        }
        for (unit, arrived_us) in self.early.take() {
            self.deliver(unit, arrived_us);
        }
    }

    fn unit(&mut self, answer: Result<Unit, LostUnit>) {
        self.heard = Instant::now();
        match answer {
            Ok(unit) => {
                self.has_moved(unit.line);
                self.deliver(unit, clock::now_us());
            }
            Err(LostUnit::GivenUp) => {}
            Err(LostUnit::Invalid(UnitError::UnknownCodec {
                line,
                publisher,
                seq,
                ..
            })) => {
                // Its name is in the relay's list of tracks.
                if let Some(handle) = self.lines.handle(line) {
                    handle.pass_over(publisher, seq);
                }
            }
            Err(lost) => debug!(%lost, "a unit did not come"),
        }
    }

    fn deliver(&mut self, unit: Unit, arrived_us: i64) {
        let (Some(baseline_us), Some(ingest_us)) = (
            self.clock.map(unit.baseline_us),
            self.clock.map(unit.ingest_us),
        ) else {
            self.early.push(unit, arrived_us);
            return;
        };
        if let Some(handle) = self.lines.handle(unit.line) {
            handle.push(ArrivedUnit {
                unit,
                arrived_us,
                baseline_us,
                ingest_us,
            });
        }
    }

    fn measure(&self, status: &Status) {
        let round_trip = self
            .clock
            .round_trip_us()
            .and_then(|us| u64::try_from(us).ok())
            .map(Duration::from_micros);
        let rtt_ms = round_trip.map(|round_trip| round_trip.as_secs_f64() * 1000.0);
        status.update(|snapshot| snapshot.rtt_ms = rtt_ms);
    }
}

/// Units that came before the relay's clock was known, with their arrival. The first ones stay: they hold the keyframe.
#[derive(Default)]
pub(super) struct Early {
    units: VecDeque<(Unit, i64)>,
    bytes: usize,
}

impl Early {
    pub(super) fn push(&mut self, unit: Unit, arrived_us: i64) {
        let bytes = self.bytes + unit.access_unit.payload.len();
        if self.units.len() < EARLY_MAX && bytes <= EARLY_BYTES_MAX {
            self.bytes = bytes;
            self.units.push_back((unit, arrived_us));
        }
    }

    pub(super) fn take(&mut self) -> VecDeque<(Unit, i64)> {
        std::mem::take(self).units
    }

    fn into_units(self) -> VecDeque<(Unit, i64)> {
        self.units
    }
}

/// What the relay said at the beginning.
struct Welcome {
    studio: String,
    salt: [u8; 32],
    ingest: IngestAddresses,
    /// And when they came.
    pongs: Vec<(Pong, i64)>,
    early: Early,
}

/// `handover`: an older connection still delivers, and its feeds move over at their next keyframe.
async fn hello(link: &mut Link, handover: bool) -> Result<Welcome, Ended> {
    // By the time the first unit comes, the relay's clock is known.
    link.ping();
    link.say(&FromConnector::Hello {
        version: VERSION,
        name: os::host_name(),
        software: SOFTWARE.to_owned(),
        session: session_id(),
        handover,
    });
    let (mut pongs, mut early) = (Vec::new(), Early::default());
    loop {
        match link.next().await? {
            Arrival::Message(FromRelay::Welcome {
                studio,
                salt,
                ingest,
                ..
            }) => {
                let salt = from_hex(&salt).ok_or(Ended::BadSalt)?;
                return Ok(Welcome {
                    studio,
                    salt,
                    ingest,
                    pongs,
                    early,
                });
            }
            Arrival::Message(FromRelay::Refused { code, message }) => {
                return Err(Ended::refused(code, &message));
            }
            Arrival::Pong(pong) if pongs.len() < PONGS_MAX => {
                pongs.push((pong, clock::now_us()));
            }
            // Its stream may be here before the welcome is.
            Arrival::Unit(Ok(unit)) => early.push(unit, clock::now_us()),
            Arrival::Pong(_) | Arrival::Message(_) | Arrival::Unit(Err(_)) => {}
        }
    }
}

/// The same for all connections of one run of the program.
fn session_id() -> u64 {
    static ID: std::sync::OnceLock<u64> = std::sync::OnceLock::new();
    *ID.get_or_init(|| {
        let mut bytes = [0; 8];
        let _ = SystemRandom::new().fill(&mut bytes);
        u64::from_be_bytes(bytes)
    })
}

const SOFTWARE: &str = concat!("firstmile-connector ", env!("CARGO_PKG_VERSION"));

/// UDP that was lost for a moment only is soon found again.
const PROBE_FIRST: Duration = Duration::from_secs(5);

/// One is asked for.
const PONGS_MAX: usize = 4;

const WELCOME_TIMEOUT: Duration = Duration::from_secs(5);

/// The relay writes its disk first.
const ENROL_TIMEOUT: Duration = Duration::from_secs(10);

const GOODBYE_TIMEOUT: Duration = Duration::from_millis(500);

/// How soon the relay hears that a line is on air: a few frames.
const TALLY_INTERVAL: Duration = Duration::from_millis(100);

const MEASURE_INTERVAL: Duration = Duration::from_secs(1);

/// Units that may wait for the first pong.
const EARLY_MAX: usize = 256;

/// The largest unit and some: they wait for a round trip, and a relay that never answers must not make us hold more.
const EARLY_BYTES_MAX: usize = 12 * 1024 * 1024;

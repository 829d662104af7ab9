//! Who is live: publishers on one side, connected connectors on the other, and which unit goes where.
//!
//! Everything here returns at once: no disk, no network, no lock held across an await. A feed goes to every
//! connector of the studio that declared its key; the lines come from the [`Directory`]'s snapshot, and whoever
//! connects is behind [`Subscriber`]. The pure parts are [`firstmile_shared::takeover`] (who keeps a line), [`age`]
//! (how old a unit is when it comes in) and [`lag`]
//! (what is done about an encoder that is behind).
//!
//! Not here: sockets (see [`crate::ingest`] and [`crate::tunnel`]) and who may publish (see [`crate::auth`]).
//!
//! Locks: the table first, then one feed. Delivering a unit takes the feed's only.

pub mod age;
mod drain;
mod feed;
mod handle;
pub mod lag;
mod status;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use firstmile_shared::{
    clock, supervisor,
    takeover::{Look, Why},
    tls::Spki,
    tunnel::{
        control::{Claim, FeedReport, Finding, ShowFormat, TrackReport},
        unit::Unit,
    },
};
use tokio::time;
use tokio_util::sync::CancellationToken;
use tracing::info;

use self::{
    drain::Drain,
    feed::{Decision, Feed, Publisher, Target, Turn},
};
pub use self::{
    handle::{Publication, Subscription},
    status::{ConnectorStatus, DeliveredTo, PublisherState, PublisherStatus},
};
use crate::{
    auth::{Directory, Grant},
    config::LimitsConfig,
    metrics::{Metrics, Refused},
};

/// A connected connector, as the registry needs it. Every method returns at once.
pub trait Subscriber: fmt::Debug + Send + Sync {
    /// A publisher's units will follow.
    fn feed_started(&self, feed: FeedStart);
    /// The studio delay of a line changed, milliseconds.
    fn set_delay(&self, line: u32, delay_ms: u32);
    /// A unit, with the connector's own line number.
    fn deliver(&self, unit: Unit);
    /// What a publisher has sent since its newest keyframe, before this session was there.
    fn restore(&self, units: Vec<Unit>);
    /// No more units of this publisher; `reason` is one clause for the operator.
    fn feed_ended(&self, line: u32, publisher: u32, reason: &str);
    /// Who else uses the line's key.
    fn claims(&self, line: u32, claims: Claims);
    /// What a publisher sends.
    fn tracks(&self, line: u32, publisher: u32, tracks: Vec<TrackReport>);
    /// How the feeds are doing, once a second.
    fn report(&self, feeds: Vec<FeedReport>);
    /// What is wrong with the feed of a line.
    fn findings(&self, line: u32, publisher: u32, findings: Vec<Finding>);
    /// The relay takes no new publishers.
    fn draining(&self);
}

/// A publisher's units are going to come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedStart {
    /// The connector's line number.
    pub line: u32,
    /// The publisher's number, as in its units.
    pub publisher: u32,
    /// The studio delay of the line, milliseconds.
    pub delay_ms: u32,
    /// The encoder's own name, as it sent it.
    pub encoder: String,
    /// What it called itself when it came.
    pub agent: String,
    /// The encoder's address.
    pub peer: SocketAddr,
    /// "rtmp".
    pub protocol: &'static str,
}

/// Who else uses the key of a line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claims {
    /// Those that are held, and of whom the operator is asked.
    pub held: Vec<Claim>,
    /// Those that the operator refused.
    pub refused: Vec<Claim>,
    /// They took the line from each other: only the operator changes it now.
    pub frozen: bool,
}

/// What an encoder asks for.
#[derive(Clone)]
pub struct PublishRequest {
    /// The studio it names.
    pub studio: String,
    /// The key, as it was offered.
    pub key: String,
    /// Its address.
    pub peer: SocketAddr,
    /// Its own name, as it sent it.
    pub encoder: String,
    /// "rtmp".
    pub protocol: &'static str,
}

impl fmt::Debug for PublishRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PublishRequest")
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

/// Why an encoder may not publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No such studio, no such key there, or no enabled line with it: one answer for all.
    #[error(
        "unknown studio or stream key: compare its URL with what `firstmile-connector line url NAME` says in the studio"
    )]
    UnknownKey,
    /// The relay is about to stop.
    #[error("this relay takes no new publishers now")]
    Draining,
    /// A limit is reached.
    #[error("this relay is full")]
    Full,
    /// It does nothing but begin to publish.
    #[error("it begins to publish again and again: once a second has to do")]
    TooOften,
    /// The studio's operator does not want this encoder.
    #[error("the studio refused this encoder")]
    ByStudio,
}

impl Refusal {
    /// How it is counted.
    pub const fn counted_as(self) -> Refused {
        match self {
            Self::UnknownKey => Refused::UnknownKey,
            Self::Draining => Refused::Draining,
            Self::Full | Self::TooOften => Refused::Full,
            Self::ByStudio => Refused::ByStudio,
        }
    }
}

/// Why a publisher is told to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Another connection took the line.
    Replaced(Why),
    /// The operator does not want it.
    Refused,
    /// It did not catch up.
    Behind,
    /// The operator wants it to start anew.
    Restarted,
    /// The studio removed or disabled the line, or its connector or the studio was revoked.
    Withdrawn,
    /// The relay is being emptied, and its operator's time is over.
    Drained,
}

impl Ending {
    /// One clause for the operator.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Replaced(why) => why.reason(),
            Self::Refused => "the studio refused the encoder",
            Self::Behind => "the encoder was too far behind and was made to start again",
            Self::Restarted => "the studio made the encoder start again",
            Self::Withdrawn => "the line was taken away from the encoder",
            Self::Drained => "the relay is going to stop",
        }
    }
}

/// Most at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Publishers of the whole relay.
    pub publishers: usize,
    /// Publishers of one studio.
    pub publishers_per_studio: usize,
    /// Connected connectors of the whole relay.
    pub connectors: usize,
    /// Connected connectors of one studio.
    pub connectors_per_studio: usize,
}

impl From<&LimitsConfig> for Limits {
    fn from(config: &LimitsConfig) -> Self {
        Self {
            publishers: config.publishers.get(),
            publishers_per_studio: config.publishers_per_studio.get(),
            connectors: config.connectors.get(),
            connectors_per_studio: config.connectors_per_studio.get(),
        }
    }
}

/// Who publishes and who listens. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Registry {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    directory: Directory,
    metrics: Arc<Metrics>,
    limits: Limits,
    table: Mutex<Table>,
}

#[derive(Debug)]
struct Table {
    drain: Option<Drain>,
    next_publisher: u32,
    next_subscription: u64,
    feeds: HashMap<Grant, Arc<Mutex<Feed>>>,
    subscriptions: BTreeMap<u64, Session>,
}

/// A connected connector.
#[derive(Debug)]
struct Session {
    studio: String,
    connector: Spki,
    outbox: Arc<dyn Subscriber>,
    /// The older one that it follows.
    predecessor: Option<u64>,
    /// Its lines on program.
    program: BTreeSet<u32>,
    /// What its studio's feeds should be like.
    show: Option<ShowFormat>,
    info: SessionInfo,
    since_unix: i64,
}

/// What the relay's lists show of a connector's session.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SessionInfo {
    /// The name of its machine.
    pub name: String,
    /// The program and its version.
    pub software: String,
    /// Its address.
    pub peer: Option<SocketAddr>,
    /// "quic" or "tcp".
    pub transport: &'static str,
    /// The latest round trip.
    pub rtt_ms: Option<f64>,
}

impl Registry {
    /// A registry without anybody.
    pub fn new(directory: Directory, metrics: Arc<Metrics>, limits: Limits) -> Self {
        Self {
            shared: Arc::new(Shared {
                directory,
                metrics,
                limits,
                table: Mutex::new(Table {
                    drain: None,
                    // Not 1: a connector that still holds units of a relay's earlier run must not mix them up.
                    next_publisher: supervisor::random(),
                    next_subscription: 0,
                    feeds: HashMap::new(),
                    subscriptions: BTreeMap::new(),
                }),
            }),
        }
    }

    /// Whether a line of this studio has this key, as offered.
    pub fn knows(&self, studio: &str, key: &str) -> bool {
        let snapshot = self.shared.directory.snapshot();
        snapshot.grant(studio, key).is_some()
    }

    /// Lets an encoder publish, or says why not.
    pub fn publish(&self, request: PublishRequest) -> Result<Publication, Refusal> {
        self.try_publish(request)
            .inspect_err(|refusal| self.shared.metrics.refused(refusal.counted_as()))
    }

    /// Whether one more connector of this studio fits. One that is connected already takes its own place again.
    pub fn has_room(&self, studio: &str, connector: Spki) -> bool {
        let table = self.table();
        let others = || {
            let sessions = table.subscriptions.values();
            sessions.filter(|session| session.connector != connector)
        };
        let of_studio = others().filter(|session| session.studio == studio);
        others().count() < self.shared.limits.connectors
            && of_studio.count() < self.shared.limits.connectors_per_studio
    }

    /// Hands a session the feeds of its lines, those that are live at once, until the answer is dropped. `predecessor`:
    /// the older session that it follows; each feed moves over from it at its next keyframe.
    pub fn subscribe(
        &self,
        studio: &str,
        connector: Spki,
        outbox: Arc<dyn Subscriber>,
        predecessor: Option<u64>,
    ) -> Subscription {
        let mut table = self.table();
        let id = table.next_subscription;
        table.next_subscription += 1;
        if table.drain.is_some() {
            outbox.draining();
        }
        table.subscriptions.insert(
            id,
            Session {
                studio: studio.to_owned(),
                connector,
                outbox,
                predecessor,
                program: BTreeSet::new(),
                show: None,
                info: SessionInfo::default(),
                since_unix: clock::unix_now(),
            },
        );
        self.refresh(&table, studio);
        drop(table);
        self.shared.metrics.connectors(studio, 1);
        Subscription {
            registry: self.clone(),
            studio: studio.to_owned(),
            id,
        }
    }

    /// Takes no new publishers from now on, and tells everybody: connectors, and the encoders that understand it.
    /// Those that are still here after `close_after` are closed, one after another; `None`: they stay. Called again, it
    /// only changes that.
    pub fn drain(&self, close_after: Option<Duration>) {
        let mut table = self.table();
        let is_new = table.drain.is_none();
        let mut drain = table.drain.take().unwrap_or_default();
        drain.close_at(close_after.map(|after| {
            let after_us = i64::try_from(after.as_micros()).unwrap_or(i64::MAX);
            clock::now_us().saturating_add(after_us)
        }));
        if is_new {
            for session in table.subscriptions.values() {
                session.outbox.draining();
            }
            for (grant, feed) in &table.feeds {
                for publisher in lock(feed).publishers() {
                    publisher.ask_to_leave();
                    drain.asked(grant.clone(), publisher.look().clone());
                }
            }
        }
        table.drain = Some(drain);
        drop(table);
        let then = match close_after {
            Some(after) => format!(
                "those that are still here in {} s are closed",
                after.as_secs()
            ),
            None => "those that are live stay".to_owned(),
        };
        info!("draining: no new publishers; {then}");
    }

    /// Whether [`Registry::drain`] was called.
    pub fn is_draining(&self) -> bool {
        self.table().drain.is_some()
    }

    /// How many encoders publish or are held.
    pub fn publishers_len(&self) -> usize {
        self.table().publishers_len(None)
    }

    /// How many connectors are connected.
    pub fn connectors_len(&self) -> usize {
        self.table().subscriptions.len()
    }

    /// Every publisher, by studio and line.
    pub fn publishers(&self) -> Vec<PublisherStatus> {
        status::publishers(&self.table(), clock::now_us())
    }

    /// Every connector that may connect; the fields of its session are null while it does not.
    pub fn connectors(&self) -> Vec<ConnectorStatus> {
        status::connectors(&self.table(), &self.shared.directory.snapshot())
    }

    /// Follows the directory and reports once a second, until `shutdown`.
    pub async fn run(&self, shutdown: CancellationToken) {
        let mut changes = self.shared.directory.revocations();
        let mut tick = time::interval(REPORT_EVERY);
        tick.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
        let mut last_us = clock::now_us();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                Ok(()) = changes.changed() => self.refresh_all(),
                _ = tick.tick() => {
                    let now_us = clock::now_us();
                    self.report(now_us.saturating_sub(last_us));
                    self.close_drained(now_us);
                    last_us = now_us;
                }
            }
        }
    }

    fn try_publish(&self, request: PublishRequest) -> Result<Publication, Refusal> {
        let grant = self
            .shared
            .directory
            .snapshot()
            .grant(&request.studio, &request.key)
            .ok_or(Refusal::UnknownKey)?;
        let mut table = self.table();
        let now_us = clock::now_us();
        if let Some(drain) = &table.drain {
            let look = Look {
                address: Some(request.peer.ip()),
                agent: request.encoder.clone(),
            };
            if !drain.lets_back(&grant, &look, now_us) {
                return Err(Refusal::Draining);
            }
        }
        let limits = self.shared.limits;
        if table.publishers_len(None) >= limits.publishers
            || table.publishers_len(Some(&grant.studio)) >= limits.publishers_per_studio
        {
            return Err(Refusal::Full);
        }
        let number = table.next_publisher;
        table.next_publisher = number.wrapping_add(1);
        let feed = (table.feeds.entry(grant.clone()))
            .or_insert_with(|| {
                let metrics = self.shared.metrics.clone();
                Arc::new(Mutex::new(Feed::new(&grant.studio, metrics)))
            })
            .clone();
        let peer = request.peer;
        let publisher = Publisher::new(number, request, clock::unix_now(), now_us);
        let closing = publisher.closing();
        let (decision, line) = {
            let mut feed = lock(&feed);
            self.update(&table, &grant, &mut feed);
            if !feed.has_lines() {
                // Taken away since the key was looked up.
                table.feeds.remove(&grant);
                return Err(Refusal::UnknownKey);
            }
            if feed.publishers().len() > HELD_MAX {
                return Err(Refusal::Full);
            }
            (feed.publish(publisher, now_us), feed.line_names())
        };
        drop(table);
        let studio = grant.studio.clone();
        match decision {
            Decision::Live => info!(studio, line, %peer, "publisher live"),
            Decision::Held => {
                info!(studio, line, %peer, "publisher held: another one has the line");
            }
            Decision::Replaces => {
                info!(studio, line, %peer, "publisher live: it took the line over");
            }
            Decision::Refused => return Err(Refusal::ByStudio),
            Decision::TooOften => return Err(Refusal::TooOften),
        }
        self.shared.metrics.publishers(&studio, 1);
        Ok(Publication {
            registry: self.clone(),
            grant,
            line,
            feed,
            number,
            closing,
            is_ended: false,
        })
    }

    fn end(&self, grant: &Grant, number: u32, reason: &str) {
        let mut table = self.table();
        let Some(feed) = table.feeds.get(grant).cloned() else {
            return;
        };
        let is_unused = {
            let mut feed = lock(&feed);
            feed.end(number, reason, clock::now_us());
            feed.is_unused()
        };
        if is_unused {
            table.feeds.remove(grant);
        }
    }

    /// Brings every feed of a studio up to date.
    fn refresh(&self, table: &Table, studio: &str) {
        for (grant, feed) in table
            .feeds
            .iter()
            .filter(|(grant, _)| grant.studio == studio)
        {
            self.update(table, grant, &mut lock(feed));
        }
    }

    fn refresh_all(&self) {
        let table = self.table();
        for (grant, feed) in &table.feeds {
            self.update(&table, grant, &mut lock(feed));
        }
    }

    fn update(&self, table: &Table, grant: &Grant, feed: &mut Feed) {
        let snapshot = self.shared.directory.snapshot();
        let lines = snapshot.lines(grant);
        let targets = table.targets(lines);
        feed.update(lines.to_vec(), targets, clock::now_us());
    }

    /// Does something to the feed of a session's line; `None` when there is no such feed.
    fn with_feed<T>(
        &self,
        subscription: u64,
        line: u32,
        action: impl FnOnce(&mut Feed) -> T,
    ) -> Option<T> {
        let table = self.table();
        let studio = &table.subscriptions.get(&subscription)?.studio;
        let of_line = |feed: &Feed| {
            let mut targets = feed.targets().iter();
            targets.any(|target| target.subscription == subscription && target.line == line)
        };
        (table.feeds.iter())
            .filter(|(grant, _)| grant.studio == *studio)
            .map(|(_, feed)| lock(feed))
            .find(|feed| of_line(feed))
            .map(|mut feed| action(&mut feed))
    }

    /// Closes those whose turn it is, of a relay that is being emptied.
    fn close_drained(&self, now_us: i64) {
        let table = self.table();
        let Some(drain) = &table.drain else {
            return;
        };
        let mut left = drain.to_close(table.publishers_len(None), now_us);
        for feed in table.feeds.values() {
            for publisher in lock(feed).publishers() {
                if left == 0 {
                    return;
                }
                publisher.order(Ending::Drained);
                left -= 1;
            }
        }
    }

    fn report(&self, elapsed_us: i64) {
        let mut reports: BTreeMap<u64, (Arc<dyn Subscriber>, Vec<FeedReport>)> = BTreeMap::new();
        let mut table = self.table();
        table.feeds.retain(|_, feed| {
            let mut feed = lock(feed);
            for (subscription, outbox, report) in feed.tick(elapsed_us, clock::now_us()) {
                let entry = reports.entry(subscription);
                entry.or_insert_with(|| (outbox, Vec::new())).1.push(report);
            }
            !feed.is_unused()
        });
        drop(table);
        for (outbox, feeds) in reports.into_values() {
            outbox.report(feeds);
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        lock(&self.shared.table)
    }
}

impl Table {
    fn publishers_len(&self, studio: Option<&str>) -> usize {
        self.feeds
            .iter()
            .filter(|(grant, _)| studio.is_none_or(|studio| grant.studio == studio))
            .map(|(_, feed)| lock(feed).publishers().len())
            .sum()
    }

    /// The connected sessions of the connectors that declared these lines.
    fn targets(&self, lines: &[crate::auth::LineRecord]) -> Vec<Target> {
        self.subscriptions
            .iter()
            .flat_map(|(id, session)| {
                lines
                    .iter()
                    .filter(|line| line.connector == session.connector)
                    .map(|line| Target {
                        subscription: *id,
                        predecessor: session.predecessor,
                        turn: Turn::Sends,
                        connector: session.connector,
                        line: line.line,
                        line_name: line.name.clone(),
                        delay_ms: line.delay_ms,
                        show: session.show,
                        is_on_program: session.program.contains(&line.line),
                        outbox: session.outbox.clone(),
                    })
            })
            .collect()
    }
}

/// What a panic left half done is at most one feed's; the others go on.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Publishers of one key that may wait besides the live one: a crew's spare, its second phone, and their ghosts.
const HELD_MAX: usize = 4;

const REPORT_EVERY: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;

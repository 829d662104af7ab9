//! One connector: from its handshake to its end.

use std::{
    collections::VecDeque,
    future::{self, Future, poll_fn},
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use firstmile_shared::{
    text,
    tls::Spki,
    tunnel::{
        close::Close,
        control::{
            self, FromConnector, FromRelay, IngestAddresses, LINES_MAX, LineDeclaration, Received,
            RefusedLine,
        },
    },
};
use quinn::{Connection, ConnectionError};
use tokio::time::{self, Instant};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{
    Listener, Outbox, Place, Seat, Shared, Stranger, close,
    greeting::{self, ControlReader, GreetingError, Guest, answer_ping, last_words},
    sender::{SendError, Sender},
};
use crate::{
    address::canonical,
    auth::{ConnectorRecord, Directory},
    metrics::Refused,
    registry::{SessionInfo, Subscription},
    store::StoreError,
};

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("{}", lost(.0))]
    Connection(#[from] ConnectionError),
    #[error(transparent)]
    Control(GreetingError),
    #[error(transparent)]
    Send(SendError),
    #[error("it left")]
    Left,
    #[error("it was revoked")]
    Revoked,
    #[error("the relay stops")]
    Shutdown,
}

impl Ended {
    const fn close(&self) -> Close {
        match self {
            Self::Connection(_)
            | Self::Left
            | Self::Shutdown
            | Self::Send(SendError::Connection(_)) => Close::Bye,
            Self::Control(error) => error.close(),
            Self::Send(SendError::TooSlow) => Close::TooSlow,
            Self::Send(SendError::ControlStopped) => Close::Protocol,
            Self::Revoked => Close::Unknown,
        }
    }
}

/// What an operator reads when a connection is gone.
fn lost(error: &ConnectionError) -> String {
    match error {
        ConnectionError::TimedOut => "the studio's network was lost".to_owned(),
        ConnectionError::ApplicationClosed(_) => "it left".to_owned(),
        ConnectionError::LocallyClosed => "closed here".to_owned(),
        other => other.to_string(),
    }
}

/// Serves a stranger from the first packet to the end of its session.
pub(super) async fn run(shared: &Shared, stranger: Stranger, shutdown: CancellationToken) {
    let Stranger { incoming, place } = stranger;
    let _open = shared.metrics.connection(Listener::Tunnel);
    let handshake = async { incoming.accept()?.await };
    let connection = tokio::select! {
        biased;
        () = shutdown.cancelled() => return,
        answer = time::timeout(HANDSHAKE_TIMEOUT, handshake) => match answer {
            Ok(Ok(connection)) => connection,
            // Port scanners, wrong pins, other protocols: not worth an operator's line each.
            Ok(Err(error)) => {
                shared.metrics.refused(match error {
                    ConnectionError::TimedOut => Refused::TooSlow,
                    _ => Refused::Protocol,
                });
                return debug!(%error, "handshake failed");
            }
            Err(_) => {
                shared.metrics.refused(Refused::TooSlow);
                return debug!("handshake took too long");
            }
        },
    };
    let guest = tokio::select! {
        biased;
        () = shutdown.cancelled() => return close(&connection, Close::Bye),
        guest = greeting::greet(shared, &connection) => guest,
    };
    match guest {
        Ok(guest) => welcome(shared, &connection, guest, place, shutdown).await,
        Err(error) => {
            debug!(%error, "not welcomed");
            match &error {
                GreetingError::TooSlow => shared.metrics.refused(Refused::TooSlow),
                GreetingError::Control(_) | GreetingError::NoCertificate => {
                    shared.metrics.refused(Refused::Protocol);
                }
                // Counted where they were refused, or gone by themselves.
                GreetingError::Refused { .. }
                | GreetingError::Connection(_)
                | GreetingError::Read(_)
                | GreetingError::Write(_)
                | GreetingError::Left => {}
            }
            close(&connection, error.close());
        }
    }
}

async fn welcome(
    shared: &Shared,
    connection: &Connection,
    guest: Guest,
    place: Place,
    shutdown: CancellationToken,
) {
    // It is known now: its place at the door is free for the next.
    drop(place);
    let record = &guest.record;
    info!(studio = record.studio, connector = %record.spki, name = record.name, software = printable(&guest.software), "connector is here");
    let _seat = Seat::take(shared, record.spki, connection);
    let outbox = Arc::new(Outbox::new(shared.queue));
    let subscription = shared
        .registry
        .subscribe(&record.studio, record.spki, outbox.clone());
    subscription.describe(SessionInfo {
        name: record.name.clone(),
        software: printable(&guest.software),
        peer: Some(canonical(connection.remote_address())),
        transport: "quic",
        rtt_ms: None,
    });
    let mut session = Session {
        connection,
        directory: &shared.directory,
        ingest: &shared.ingest,
        record: guest.record.clone(),
        control: guest.control,
        outbox: outbox.clone(),
        sender: Sender::new(
            connection.clone(),
            outbox,
            shared.metrics.clone(),
            guest.send,
        ),
        subscription,
        losses: Losses::default(),
        declarations: Declarations::new(shared.directory.clone(), record.spki),
        invitations: Invitations::new(shared.directory.clone(), record.clone()),
    };
    let ended = session.serve(&shutdown).await;
    info!(connector = %guest.record.spki, reason = %ended, "connector is gone");
    let code = ended.close();
    if matches!(ended, Ended::Shutdown | Ended::Revoked) {
        session.say_goodbye(code).await;
    }
    close(connection, code);
}

struct Session<'a> {
    connection: &'a Connection,
    directory: &'a Directory,
    ingest: &'a IngestAddresses,
    record: ConnectorRecord,
    control: ControlReader,
    outbox: Arc<Outbox>,
    sender: Sender,
    subscription: Subscription,
    losses: Losses,
    declarations: Declarations,
    invitations: Invitations,
}

impl Session<'_> {
    /// Everything at once, and nothing ever waits for one unit.
    async fn serve(&mut self, shutdown: &CancellationToken) -> Ended {
        let connection = self.connection;
        let outbox = self.outbox.clone();
        let mut revocations = self.directory.revocations();
        let mut closed = pin!(connection.closed());
        let mut stopping = pin!(shutdown.cancelled());
        let mut datagram = pin!(connection.read_datagram());
        let mut measure = time::interval(MEASURE_INTERVAL);
        loop {
            let check = self.sender.next_check();
            tokio::select! {
                biased;
                error = &mut closed => return error.into(),
                () = &mut stopping => return Ended::Shutdown,
                bytes = &mut datagram => {
                    match bytes {
                        Ok(bytes) => answer_ping(connection, &bytes),
                        Err(error) => return error.into(),
                    }
                    datagram.set(connection.read_datagram());
                }
                error = poll_fn(|context| self.sender.poll(context)) => return Ended::Send(error),
                () = outbox.changed() => {}
                message = self.control.next() => match message {
                    Ok(Some(Received::Message(message))) => {
                        if let Some(ended) = self.hear(message) {
                            return ended;
                        }
                    }
                    Ok(Some(Received::Unknown(kind))) => debug!(kind, "a later version's message"),
                    Ok(None) => return Ended::Left,
                    Err(error) => return Ended::Control(error),
                },
                answer = self.declarations.next() => self.declared(answer),
                answer = self.invitations.next() => self.outbox.send(&answer),
                _ = revocations.changed() => {
                    if !self.is_still_welcome() {
                        return Ended::Revoked;
                    }
                }
                _ = measure.tick() => self.measure(),
                () = wait(check) => {}
            }
        }
    }

    fn hear(&mut self, message: FromConnector) -> Option<Ended> {
        match message {
            FromConnector::Declare { generation, lines } => {
                self.declarations.add(generation, lines);
                None
            }
            FromConnector::Invite {} => {
                if !self.invitations.ask() {
                    self.outbox.send(&FromRelay::NotInvited {
                        message: "the relay makes one join token after the other: try again".into(),
                    });
                }
                None
            }
            FromConnector::Bye { reason } => {
                debug!(reason = printable(&reason), "goodbye");
                Some(Ended::Left)
            }
            // A token is redeemed by the same key again when its answer was lost: it is known by now.
            FromConnector::Enrol { .. } => {
                self.outbox.send(&FromRelay::Enrolled {
                    studio: self.record.studio.clone(),
                    ingest: self.ingest.clone(),
                });
                None
            }
            FromConnector::Tally { program, .. } => {
                // As many lines as it can have declared.
                let program = program.into_iter().take(LINES_MAX).collect();
                self.subscription.tally(program);
                None
            }
            FromConnector::Play { line, video, audio } => {
                self.outbox.play(line, video, audio);
                None
            }
            FromConnector::Take { line, publisher } => {
                if !self.subscription.take(line, publisher) {
                    debug!(line, publisher, "it takes a publisher that is not here");
                }
                None
            }
            FromConnector::Resync { line } => {
                if !self.subscription.resync(line) {
                    debug!(line, "it wants an encoder to start again that is not here");
                }
                None
            }
            FromConnector::Show { format } => {
                self.subscription.show(format);
                None
            }
            FromConnector::Refuse { line, publisher } => {
                if !self.subscription.refuse(line, publisher) {
                    debug!(line, publisher, "it refuses a publisher that is not here");
                }
                None
            }
            // Said once.
            FromConnector::Hello { .. } => None,
        }
    }

    fn declared(&self, declared: Declared) {
        let Declared { generation, answer } = declared;
        match answer {
            Ok(refused) => self.outbox.send(&FromRelay::Declared {
                generation,
                refused,
            }),
            // No answer: it is stored when the disk takes it, or replaced by a newer one before.
            Err(error) => {
                warn!(connector = %self.record.spki, %error, "lines not stored; trying again");
            }
        }
    }

    fn is_still_welcome(&self) -> bool {
        self.directory
            .connector(&self.record.spki)
            .is_some_and(|now| now.studio == self.record.studio)
    }

    fn measure(&mut self) {
        let path = self.connection.stats().path;
        let lost_percent = self.losses.sample(path.sent_packets, path.lost_packets);
        self.outbox.set_lost_percent(lost_percent);
        let rtt_ms = self.connection.rtt().as_secs_f64() * 1000.0;
        self.subscription
            .measured(rtt_ms, canonical(self.connection.remote_address()));
    }

    /// What is on its way goes out, then the reason.
    async fn say_goodbye(mut self, close: Close) {
        let flushed = poll_fn(|context| {
            let ended = self.sender.poll(context);
            if ended.is_ready() || self.sender.is_idle() {
                std::task::Poll::Ready(())
            } else {
                std::task::Poll::Pending
            }
        });
        let _ = time::timeout(FLUSH_TIMEOUT, flushed).await;
        if close == Close::Unknown {
            let mut control = self.sender.into_control();
            let refused = FromRelay::Refused {
                code: close.code(),
                message: close.sentence().to_owned(),
            };
            let bytes = control::encode(&refused);
            if time::timeout(FLUSH_TIMEOUT, control.write_all(&bytes))
                .await
                .is_ok_and(|written| written.is_ok())
            {
                last_words(control).await;
            }
        }
    }
}

/// What the network lost of the last [`LOSS_SAMPLES`] seconds.
#[derive(Default)]
struct Losses {
    /// Packets sent and lost since the start, once a second.
    samples: VecDeque<(u64, u64)>,
}

impl Losses {
    fn sample(&mut self, sent: u64, lost: u64) -> Option<f64> {
        self.samples.push_back((sent, lost));
        if self.samples.len() > LOSS_SAMPLES {
            self.samples.pop_front();
        }
        let (sent_before, lost_before) = *self.samples.front()?;
        let sent = u32::try_from(sent.saturating_sub(sent_before)).ok()?;
        let lost = u32::try_from(lost.saturating_sub(lost_before)).ok()?;
        (sent > 0).then(|| 100.0 * f64::from(lost) / f64::from(sent))
    }
}

/// The newest declaration waits while one is stored; one that could not be stored comes again. On average one a second is; a few may follow each other at
/// once, so that an encoder that starts right after its line was added is let in.
struct Declarations {
    directory: Directory,
    spki: Spki,
    storing: Option<Storing>,
    newest: Option<(u64, Vec<LineDeclaration>)>,
    /// When the next would be due at one a second; it may come [`DECLARE_BURST`] early.
    due: Option<Instant>,
}

/// A declaration on its way into the store, and what of it goes into force then.
type Storing = Pin<Box<dyn Future<Output = (Declared, Vec<LineDeclaration>)> + Send>>;

struct Declared {
    generation: u64,
    answer: Result<Vec<RefusedLine>, StoreError>,
}

impl Declarations {
    const fn new(directory: Directory, spki: Spki) -> Self {
        Self {
            directory,
            spki,
            storing: None,
            newest: None,
            due: None,
        }
    }

    fn add(&mut self, generation: u64, lines: Vec<LineDeclaration>) {
        self.newest = Some((generation, lines));
    }

    /// Stores the newest, and the answer to it. Cancel-safe.
    async fn next(&mut self) -> Declared {
        if self.storing.is_none() && self.newest.is_some() {
            if let Some(early) = self.due.and_then(|due| due.checked_sub(DECLARE_BURST)) {
                time::sleep_until(early).await;
            }
            self.storing = self.newest.take().map(|(generation, lines)| {
                let (directory, spki) = (self.directory.clone(), self.spki);
                let storing = async move {
                    let answer = directory.declare(spki, generation, lines.clone()).await;
                    (Declared { generation, answer }, lines)
                };
                Box::pin(storing) as _
            });
        }
        let Some(storing) = &mut self.storing else {
            return future::pending().await;
        };
        let (declared, lines) = storing.await;
        self.storing = None;
        let now = Instant::now();
        let mut due = self.due.map_or(now, |due| due.max(now)) + DECLARE_INTERVAL;
        if declared.answer.is_err() {
            // A full disk must not cost a line its encoder for longer than the disk is full.
            self.newest.get_or_insert((declared.generation, lines));
            due = now + DECLARE_BURST + STORE_RETRY;
        }
        self.due = Some(due);
        declared
    }
}

/// Join tokens for other machines of the studio: one at a time, with a pause between two.
struct Invitations {
    directory: Directory,
    record: ConnectorRecord,
    making: Option<Pin<Box<dyn Future<Output = FromRelay> + Send>>>,
    last: Option<Instant>,
}

impl Invitations {
    const fn new(directory: Directory, record: ConnectorRecord) -> Self {
        Self {
            directory,
            record,
            making: None,
            last: None,
        }
    }

    /// `false`: one is being made.
    fn ask(&mut self) -> bool {
        if self.making.is_some() {
            return false;
        }
        let (directory, record) = (self.directory.clone(), self.record.clone());
        let pause = self.last.map_or(Duration::ZERO, |last| {
            INVITE_INTERVAL.saturating_sub(last.elapsed())
        });
        self.making = Some(Box::pin(async move {
            time::sleep(pause).await;
            match directory.invite_colleague(&record).await {
                Ok(invitation) => {
                    info!(studio = record.studio, connector = %record.spki, "join token for another connector");
                    FromRelay::Invited {
                        token: invitation.id,
                        secret: invitation.secret,
                        expires_unix: u64::try_from(invitation.expires_unix).unwrap_or(0),
                    }
                }
                Err(error) => {
                    warn!(connector = %record.spki, %error, "no join token for another connector");
                    FromRelay::NotInvited {
                        message: "the relay can't store a join token now: try again in a minute"
                            .into(),
                    }
                }
            }
        }));
        true
    }

    /// The answer to the question. Cancel-safe.
    async fn next(&mut self) -> FromRelay {
        let Some(making) = &mut self.making else {
            return future::pending().await;
        };
        let answer = making.await;
        self.making = None;
        self.last = Some(Instant::now());
        answer
    }
}

/// What a stranger calls itself, made fit for a log and a list.
fn printable(text: &str) -> String {
    text.chars()
        .filter(|c| !text::is_deceptive(*c))
        .take(64)
        .collect()
}

async fn wait(until: Option<Duration>) {
    match until {
        Some(duration) => time::sleep(duration).await,
        None => future::pending().await,
    }
}

/// TLS and QUIC: a few round trips of a bad link.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

const MEASURE_INTERVAL: Duration = Duration::from_secs(1);

const LOSS_SAMPLES: usize = 10;

/// A snapshot a second, on average.
const DECLARE_INTERVAL: Duration = Duration::from_secs(1);

/// Five snapshots: what a person clicks together in a moment.
const DECLARE_BURST: Duration = Duration::from_secs(5);

/// A disk that did not take a snapshot gets it again after this time.
const STORE_RETRY: Duration = Duration::from_secs(5);

/// Ten tokens in one go would only fill the table.
const INVITE_INTERVAL: Duration = Duration::from_secs(5);

const FLUSH_TIMEOUT: Duration = Duration::from_millis(300);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_are_those_of_the_last_seconds() {
        let mut losses = Losses::default();
        assert_eq!(losses.sample(0, 0), None);
        assert_eq!(losses.sample(200, 3), Some(1.5));
        for _ in 0..LOSS_SAMPLES {
            losses.sample(300, 3);
        }
        assert_eq!(
            losses.sample(400, 53),
            Some(50.0),
            "the old ones are forgotten"
        );
    }
}

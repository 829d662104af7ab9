//! One connector: from its handshake to its end.

use std::{
    collections::VecDeque,
    future::{self, Future, poll_fn},
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use firstmile_shared::{
    clock, quic, text,
    tls::Spki,
    tunnel::{
        close::Close,
        control::{
            FromConnector, FromRelay, IngestAddresses, LINES_MAX, LineDeclaration, Received,
            RefusedLine,
        },
    },
};
use quinn::ConnectionError;
use tokio::time::{self, Instant};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{
    Door, Listener, Outbox, Place, Seat, Shared, Stranger,
    greeting::{self, GreetingError, Guest, answer_ping},
    link::{Link, Lost},
    sender::{SendError, Sender},
    words::{ControlReader, Heard, Words, WordsError},
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
    #[error(transparent)]
    Lost(#[from] Lost),
    #[error(transparent)]
    Control(WordsError),
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
            Self::Lost(lost) => lost.close(),
            Self::Left
            | Self::Shutdown
            | Self::Send(SendError::Connection(_) | SendError::Tcp(_)) => Close::Bye,
            Self::Control(error) => error.close(),
            Self::Send(SendError::TooSlow) => Close::TooSlow,
            Self::Send(SendError::ControlStopped) => Close::Protocol,
            Self::Revoked => Close::Unknown,
        }
    }
}

/// Serves a stranger from the first packet to the end of its session.
pub(super) async fn run(shared: &Shared, stranger: Stranger, shutdown: CancellationToken) {
    let Stranger { door, place } = stranger;
    let _open = shared.metrics.connection(Listener::Tunnel);
    let handshake = shake_hands(shared, door);
    let known = tokio::select! {
        biased;
        () = shutdown.cancelled() => return,
        answer = time::timeout(HANDSHAKE_TIMEOUT, handshake) => answer.unwrap_or(Err(Refused::TooSlow)),
    };
    let (link, spki, mut words) = match known {
        Ok(known) => known,
        // Port scanners, wrong pins, other protocols: not worth an operator's line each.
        Err(reason) => return shared.metrics.refused(reason),
    };
    let guest = tokio::select! {
        biased;
        () = shutdown.cancelled() => Err(Close::Bye),
        guest = greeting::greet(shared, &link, spki, &mut words) => guest.map_err(|error| {
            debug!(%error, "not welcomed");
            match &error {
                GreetingError::TooSlow => shared.metrics.refused(Refused::TooSlow),
                GreetingError::Words(error) if error.is_breach() => {
                    shared.metrics.refused(Refused::Protocol);
                }
                // Counted where they were refused, or gone by themselves.
                GreetingError::Refused { .. } | GreetingError::Words(_) | GreetingError::Left => {}
            }
            error.close()
        }),
    };
    match (guest, words) {
        (Ok(guest), Some(words)) => welcome(shared, &link, guest, words, place, shutdown).await,
        (Err(code), Some(words)) => {
            words.close(code).await;
            link.close(code);
        }
        (guest, None) => link.close(guest.err().unwrap_or(Close::Bye)),
    }
}

/// Who is there, and the words that can be had already. The error is what is counted.
async fn shake_hands(shared: &Shared, door: Door) -> Result<(Link, Spki, Option<Words>), Refused> {
    match door {
        Door::Quic(incoming) => {
            let handshake = async { incoming.accept()?.await };
            let connection = handshake.await.map_err(|error| {
                debug!(%error, "handshake failed");
                match error {
                    ConnectionError::TimedOut => Refused::TooSlow,
                    _ => Refused::Protocol,
                }
            })?;
            let Some(spki) = greeting::identity(&connection) else {
                Link::Quic(connection).close(Close::Protocol);
                return Err(Refused::Protocol);
            };
            Ok((Link::Quic(connection), spki, None))
        }
        Door::Tcp(socket) => {
            let connection = shared.acceptor.accept(socket).await.map_err(|error| {
                debug!(%error, "handshake failed (TCP)");
                Refused::Protocol
            })?;
            let words = Words::tcp(connection.reader, connection.writer);
            Ok((Link::tcp(connection.peer), connection.spki, Some(words)))
        }
    }
}

async fn welcome(
    shared: &Shared,
    link: &Link,
    guest: Guest,
    words: Words,
    place: Place,
    shutdown: CancellationToken,
) {
    // It is known now: its place at the door is free for the next.
    drop(place);
    let record = &guest.record;
    let transport = link.transport();
    info!(studio = record.studio, connector = %record.spki, name = record.name, transport, software = printable(&guest.software), "connector is here");
    let seat = Seat::take(shared, record.spki, link, guest.run, guest.handover);
    let outbox = Arc::new(Outbox::new(shared.queue));
    let subscription = shared.registry.subscribe(
        &record.studio,
        record.spki,
        outbox.clone(),
        seat.predecessor,
    );
    seat.set_subscription(subscription.id());
    subscription.describe(SessionInfo {
        name: record.name.clone(),
        software: printable(&guest.software),
        peer: Some(canonical(link.remote_address())),
        transport,
        rtt_ms: None,
    });
    let mut session = Session {
        link,
        followed: seat.followed.clone(),
        directory: &shared.directory,
        ingest: &shared.ingest,
        record: guest.record.clone(),
        control: words.reader,
        outbox: outbox.clone(),
        sender: Sender::new(words.writer, outbox, shared.metrics.clone()),
        subscription,
        losses: Losses::default(),
        declarations: Declarations::new(shared.directory.clone(), record.spki),
        invitations: Invitations::new(shared.directory.clone(), record.clone()),
    };
    let ended = session.serve(&shutdown).await;
    info!(connector = %guest.record.spki, reason = %ended, "connector is gone");
    session.end(&ended).await;
    link.close(ended.close());
}

struct Session<'a> {
    link: &'a Link,
    /// Cancelled when another connection takes the feeds over.
    followed: CancellationToken,
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
        let link = self.link;
        let outbox = self.outbox.clone();
        let mut revocations = self.directory.revocations();
        let mut closed = pin!(link.closed());
        let mut stopping = pin!(shutdown.cancelled());
        let followed = self.followed.clone();
        let mut handed_over = pin!(async {
            followed.cancelled().await;
            // A limit, not a wait: a connector that moves its lines closes this one itself.
            time::sleep(HANDOVER_MAX).await;
        });
        let mut datagram = pin!(link.read_datagram());
        let mut measure = time::interval(MEASURE_INTERVAL);
        loop {
            let check = self.sender.next_check();
            tokio::select! {
                biased;
                error = &mut closed => return error.into(),
                () = &mut stopping => return Ended::Shutdown,
                () = &mut handed_over => return Lost::Ordered(Close::Replaced).into(),
                bytes = &mut datagram => {
                    match bytes {
                        Ok(bytes) => answer_ping(link, &bytes),
                        Err(error) => return error.into(),
                    }
                    datagram.set(link.read_datagram());
                }
                error = poll_fn(|context| self.sender.poll(context)) => return Ended::Send(error),
                () = outbox.changed() => {}
                heard = self.control.next() => match heard {
                    Ok(Heard::Message(Received::Message(message))) => {
                        if let Some(ended) = self.hear(message) {
                            return ended;
                        }
                    }
                    Ok(Heard::Message(Received::Unknown(kind))) => {
                        debug!(kind, "a later version's message");
                    }
                    Ok(Heard::Ping(ping)) => self.sender.answer(ping),
                    Ok(Heard::Pong(pong)) => link.set_round_trip(pong.round_trip_us(clock::now_us())),
                    Ok(Heard::Left) => return Ended::Left,
                    Err(error) => return Ended::Control(error),
                },
                answer = self.declarations.next() => self.declared(answer),
                answer = self.invitations.next() => self.outbox.send(&answer),
                _ = revocations.changed() => {
                    if !self.is_still_welcome() {
                        return Ended::Revoked;
                    }
                }
                _ = measure.tick() => {
                    if self.control.silent_for() > quic::IDLE_TIMEOUT {
                        return Lost::Silent.into();
                    }
                    self.measure();
                }
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
        let packets = self.link.packets();
        let lost_percent = packets.and_then(|(sent, lost)| self.losses.sample(sent, lost));
        self.outbox.set_lost_percent(lost_percent);
        self.sender.ping();
        let rtt_ms = self.link.round_trip().map(|rtt| rtt.as_secs_f64() * 1000.0);
        self.subscription
            .measured(rtt_ms, canonical(self.link.remote_address()));
    }

    /// Where there is time: what is on its way goes out. Then the reason.
    async fn end(mut self, ended: &Ended) {
        let close = ended.close();
        let is_graceful = matches!(ended, Ended::Shutdown | Ended::Revoked);
        if is_graceful {
            let flushed = poll_fn(|context| {
                let ended = self.sender.poll(context);
                if ended.is_ready() || self.sender.is_idle() {
                    std::task::Poll::Ready(())
                } else {
                    std::task::Poll::Pending
                }
            });
            let _ = time::timeout(FLUSH_TIMEOUT, flushed).await;
        }
        let mut words = Words {
            reader: self.control,
            writer: self.sender.into_control(),
        };
        if is_graceful && close == Close::Unknown {
            let refused = FromRelay::Refused {
                code: close.code(),
                message: close.sentence().to_owned(),
            };
            let said = time::timeout(FLUSH_TIMEOUT, words.writer.say(&refused)).await;
            if said.is_ok_and(|said| said.is_ok()) {
                words.writer.last_words().await;
            }
        }
        if !matches!(ended, Ended::Left) {
            words.close(close).await;
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

/// A connector says goodbye to the connection before sooner.
const HANDOVER_MAX: Duration = Duration::from_secs(15);

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

//! One encoder's connection: the only place where RTMP bytes meet a socket.
//!
//! Ownership: the task owns its socket, its session, its place and, while it publishes, its publication; all end
//! with it. Every write has a deadline; reading waits for as long as an encoder that is there likes to pause.

use std::{io, net::SocketAddr, time::Duration};

use bytes::BytesMut;
use firstmile_shared::{clock, tunnel::control::TrackReport};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    task, time,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{
    Desk, Door, LINGER,
    connections::Place,
    let_go,
    mistake::{Mistake, Spoken},
    pace::Pace,
};
use crate::{
    metrics::Refused,
    registry::{Ending, Publication, PublishRequest, Refusal},
    rtmp::{
        flv::units::TrackInfo,
        session::{Event, Progress, PublishRequested, Session, SessionError},
    },
};

/// Drives one session over one socket (TCP, or TLS over it).
#[derive(Debug)]
pub struct Publisher<S> {
    socket: S,
    peer: SocketAddr,
    door: Door,
    session: Session,
    place: Place,
    desk: Desk,
    publication: Option<Publication>,
    /// How often it asked to publish.
    asked: u32,
    input: BytesMut,
    pace: Pace,
    message_pace: Pace,
    /// How often something is told of what it sends.
    told_pace: Pace,
    /// What it sends, not told yet.
    tracks: Option<Vec<TrackReport>>,
    /// It was read more slowly than it sends, and that was said.
    is_slowed: bool,
    /// It was asked to leave, whether it understands that or not.
    is_asked_to_leave: bool,
    /// Its first bytes were looked at.
    has_begun: bool,
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("the encoder closed the connection")]
    Left,
    #[error("the relay is stopping")]
    Shutdown,
    #[error("the encoder was refused")]
    Refused,
    #[error("{}", .0.reason())]
    Ordered(Ending),
    #[error("it had to make room")]
    MadeRoom,
    #[error("{0}")]
    Mistaken(Mistake),
    #[error("the encoder broke the protocol: {0}")]
    Protocol(#[from] SessionError),
    #[error("{}", lost(.0))]
    Lost(#[from] io::Error),
}

fn lost(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::TimedOut => "the encoder's network fell silent",
        io::ErrorKind::ConnectionReset => "the encoder's connection was reset",
        _ => "the encoder's connection was lost",
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Publisher<S> {
    /// A connection that was just accepted.
    pub(super) fn new(
        socket: S,
        peer: SocketAddr,
        door: &Door,
        session: Session,
        place: Place,
        desk: Desk,
    ) -> Self {
        Self {
            socket,
            peer,
            door: door.clone(),
            session,
            place,
            desk,
            publication: None,
            asked: 0,
            input: BytesMut::new(),
            pace: Pace::new(door.limits.bytes_per_second),
            message_pace: Pace::new(MESSAGES_PER_SECOND),
            told_pace: Pace::new(TOLD_PER_SECOND),
            tracks: None,
            is_slowed: false,
            is_asked_to_leave: false,
            has_begun: false,
        }
    }

    /// Serves the encoder until it leaves, breaks the protocol, or must go.
    pub async fn run(mut self, shutdown: &CancellationToken) {
        let end = match self.serve(shutdown).await {
            Ok(never) => match never {},
            Err(end) => end,
        };
        debug!(%end, "connection ends");
        if let Some(publication) = self.publication.take() {
            self.report_left_out(&publication);
            publication.end(&end.to_string());
        } else {
            match &end {
                End::Mistaken(mistake) => self.turned_away(mistake.reason(), &end),
                End::Protocol(SessionError::TimedOut { .. }) => {
                    self.turned_away(Refused::TooSlow, &end);
                }
                End::Protocol(_) => self.turned_away(Refused::Protocol, &end),
                End::MadeRoom => self.turned_away(Refused::Full, &end),
                // Some verify only after the handshake, and go without an alert.
                End::Left | End::Lost(_) if !self.has_begun && self.door.tls.is_some() => {
                    self.left_after_handshake();
                }
                End::Left | End::Shutdown | End::Refused | End::Ordered(_) | End::Lost(_) => {}
            }
        }
        match end {
            End::Ordered(Ending::Refused) => {
                self.session.deny_publish();
                // Lost is as good as said: the connection ends.
                let _ = self.flush().await;
                let_go(&mut self.socket, &self.place).await;
            }
            End::Refused | End::Mistaken(_) | End::Protocol(_) => {
                let_go(&mut self.socket, &self.place).await;
            }
            // Its place is wanted: what can be said at once is.
            End::MadeRoom => {
                let _ = time::timeout(Duration::ZERO, self.socket.shutdown()).await;
            }
            _ => {
                let _ = time::timeout(LINGER, self.socket.shutdown()).await;
            }
        }
    }

    fn left_after_handshake(&self) {
        if let Some(tls) = &self.door.tls {
            let why = format!("it left after the TLS handshake; {}", tls.doubt());
            self.desk.turned_away(Refused::Tls, self.peer, why);
        }
    }

    fn turned_away(&self, reason: Refused, end: &End) {
        self.desk.turned_away(reason, self.peer, end);
    }

    async fn serve(
        &mut self,
        shutdown: &CancellationToken,
    ) -> Result<std::convert::Infallible, End> {
        let must_go = self.place.must_go();
        loop {
            self.digest(shutdown).await?;
            if self.session.has_shaken_hands() {
                self.place.has_shaken_hands();
            }
            let tracks_us = self.tell_tracks();
            self.make_room_to_read();
            let deadline_us = self.session.poll_timeout();
            let pause_us = self.pause();
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return Err(End::Shutdown),
                // Who was let in at the last moment stays.
                () = must_go.cancelled(), if !self.session.is_publishing() => return Err(End::MadeRoom),
                ending = ordered(self.publication.as_ref()) => return Err(End::Ordered(ending)),
                () = asked_to_leave(self.publication.as_ref()), if !self.is_asked_to_leave => {
                    self.is_asked_to_leave = true;
                    let understands = self.session.ask_to_leave();
                    debug!(understands, "the encoder is to leave");
                }
                read = read_when(pause_us, &mut self.socket, &mut self.input) => {
                    match read? {
                        0 => return Err(End::Left),
                        len => self.pace.spend(len, clock::now_us()),
                    }
                    self.begin()?;
                }
                () = sleep_until(tracks_us) => {}
                () = sleep_until(deadline_us) => self.session.handle_timeout(clock::now_us())?,
            }
        }
    }

    /// The first bytes tell who is wrong here.
    fn begin(&mut self) -> Result<(), End> {
        if !std::mem::replace(&mut self.has_begun, true) {
            match Spoken::of(&self.input) {
                Some(Spoken::Rtmp) | None => {}
                Some(spoken) => return Err(End::Mistaken(self.door.mistake(spoken))),
            }
        }
        Ok(())
    }

    /// Until when it is not read, since it sends more than it may.
    fn pause(&mut self) -> Option<i64> {
        let waits = [&self.pace, &self.message_pace].map(Pace::waits_until_us);
        let until_us = waits.into_iter().flatten().max()?;
        if let Some(publication) = &self.publication
            && !std::mem::replace(&mut self.is_slowed, true)
        {
            let (studio, line) = publication.labels();
            let what = match waits {
                [Some(_), _] => "limits.publisher_bitrate",
                _ => "4000 messages a second",
            };
            warn!(studio, line, peer = %self.peer, "the encoder sends more than {what}: it is read no faster");
        }
        Some(until_us)
    }

    /// Lets the session read all there is, and does what comes of it.
    async fn digest(&mut self, shutdown: &CancellationToken) -> Result<(), End> {
        loop {
            let progress = self.session.handle_input(clock::now_us(), &mut self.input);
            let messages = self.session.take_messages();
            self.message_pace.spend(messages, clock::now_us());
            self.flush().await?;
            while let Some(event) = self.session.poll_event() {
                self.handle(event, shutdown).await?;
            }
            self.flush().await?;
            if self.session.is_closing() {
                return Err(End::Refused);
            }
            if progress? == Progress::NeedsInput {
                return Ok(());
            }
            // There may be much more: the other encoders, and the tunnel, have their turn.
            task::yield_now().await;
        }
    }

    async fn handle(&mut self, event: Event, shutdown: &CancellationToken) -> Result<(), End> {
        match event {
            Event::Unit(unit) => {
                if let Some(publication) = &mut self.publication {
                    publication.deliver(unit, clock::now_us());
                }
            }
            Event::PublishRequested(request) => {
                self.asked = self.asked.saturating_add(1);
                let is_restless = self.asked > PUBLISHES_AT_ONCE;
                let must_go = self.place.must_go();
                let answer = async {
                    if is_restless {
                        // The pause is the point: see the constant.
                        time::sleep(PUBLISH_PAUSE).await;
                    }
                    self.admit(request).await
                };
                let answer = tokio::select! {
                    biased;
                    () = shutdown.cancelled() => return Err(End::Shutdown),
                    answer = answer => answer,
                    // The right key does not wait, but for an encoder that only stops and starts.
                    () = must_go.cancelled() => return Err(End::MadeRoom),
                };
                match answer {
                    Ok(publication) => self.accept(publication),
                    // They stop for good when they are told this: right for a wrong key, and when a person said no.
                    Err(Refusal::UnknownKey) => self.session.refuse_publish(),
                    Err(Refusal::ByStudio) => self.session.deny_publish(),
                    Err(Refusal::Draining | Refusal::Full | Refusal::TooOften) => {
                        self.session.close();
                    }
                }
            }
            Event::Unpublished => {
                self.place.is_stranger();
                self.tracks = None;
                if let Some(publication) = self.publication.take() {
                    self.report_left_out(&publication);
                    publication.end("the encoder stopped");
                }
            }
            Event::Unsupported(what) => {
                if let Some((studio, line)) = self.publication.as_ref().map(Publication::labels)
                    && self.told_pace.take(clock::now_us())
                {
                    warn!(studio, line, peer = %self.peer, sends = what.0, "the encoder sends what can not be played");
                }
            }
            Event::Tracks(tracks) => {
                self.tracks = Some(tracks.iter().map(track_report).collect());
            }
            Event::Metadata { encoder } => {
                debug!(encoder, "the encoder says who it is");
                if let Some(publication) = &self.publication {
                    publication.describe(encoder);
                }
            }
        }
        Ok(())
    }

    /// Tells the studio what it sends, if that is news; the answer is when to try again. One that changes its codec with
    /// every message must not fill the way to the studio with that.
    fn tell_tracks(&mut self) -> Option<i64> {
        if self.tracks.is_some() && !self.told_pace.take(clock::now_us()) {
            return self.told_pace.waits_until_us();
        }
        let tracks = self.tracks.take()?;
        if let Some(publication) = &self.publication {
            publication.set_tracks(tracks);
        }
        None
    }

    async fn admit(&mut self, request: PublishRequested) -> Result<Publication, Refusal> {
        let request = PublishRequest {
            studio: request.studio,
            key: request.key.expose().to_owned(),
            peer: self.peer,
            encoder: request.encoder,
            protocol: self.door.protocol,
        };
        let (desk, place) = (&self.desk, &mut self.place);
        desk.admit(request, || place.has_wrong_key()).await
    }

    fn accept(&mut self, publication: Publication) {
        self.place.is_known();
        self.publication = Some(publication);
        self.session.accept_publish();
    }

    fn report_left_out(&self, publication: &Publication) {
        let (studio, line) = publication.labels();
        let counts = self.session.counts();
        if counts.damaged + counts.undecodable + counts.unsupported > 0 {
            warn!(
                studio,
                line,
                peer = %self.peer,
                damaged = counts.damaged,
                undecodable = counts.undecodable,
                unsupported = counts.unsupported,
                "parts of the feed were left out"
            );
        }
    }

    /// A stranger gets a small buffer; an encoder that was let in one that takes what a picture needs in one read.
    fn make_room_to_read(&mut self) {
        let (least, whole) = if self.session.is_publishing() {
            (READ_LEN_MIN, READ_BUFFER_LEN)
        } else {
            (1, READ_BUFFER_LEN_STRANGER)
        };
        if self.input.capacity() - self.input.len() < least {
            self.input.reserve(whole);
        }
    }

    async fn flush(&mut self) -> Result<(), End> {
        let must_go = self.place.must_go();
        while let Some(bytes) = self.session.poll_transmit() {
            let is_stranger = !self.session.is_publishing();
            let deadline_us = self.session.poll_timeout();
            // A peer that sends but never reads must not hold this task for ever, nor a stranger his place.
            tokio::select! {
                biased;
                written = time::timeout(WRITE_TIMEOUT, self.socket.write_all(&bytes)) => match written {
                    Ok(written) => written?,
                    Err(_) => return Err(io::Error::from(io::ErrorKind::TimedOut).into()),
                },
                () = must_go.cancelled(), if is_stranger => return Err(End::MadeRoom),
                () = sleep_until(deadline_us) => self.session.handle_timeout(clock::now_us())?,
            }
        }
        Ok(())
    }
}

fn track_report(track: &TrackInfo) -> TrackReport {
    TrackReport {
        track: track.number,
        kind: track.kind.name().to_owned(),
        codec: match track.codec {
            Ok(codec) => codec.name().to_owned(),
            Err(what) => what.0.to_owned(),
        },
        carried: track.codec.is_ok(),
    }
}

async fn ordered(publication: Option<&Publication>) -> Ending {
    match publication {
        Some(publication) => publication.replaced().await,
        None => std::future::pending().await,
    }
}

async fn asked_to_leave(publication: Option<&Publication>) {
    match publication {
        Some(publication) => publication.asked_to_leave().await,
        None => std::future::pending().await,
    }
}

async fn read_when<S: AsyncRead + Unpin>(
    pause_us: Option<i64>,
    socket: &mut S,
    input: &mut BytesMut,
) -> io::Result<usize> {
    if pause_us.is_some() {
        sleep_until(pause_us).await;
    }
    socket.read_buf(input).await
}

async fn sleep_until(deadline_us: Option<i64>) {
    match deadline_us {
        Some(deadline_us) => {
            let wait_us = deadline_us.saturating_sub(clock::now_us());
            time::sleep(Duration::from_micros(u64::try_from(wait_us).unwrap_or(0))).await;
        }
        None => std::future::pending().await,
    }
}

const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// Messages of one byte each, at `limits.publisher_bitrate`, would take all of a server's time. Six ladders of 60
/// pictures a second with their sound are a thousand.
const MESSAGES_PER_SECOND: u64 = 4_000;

/// An encoder says what its tracks are in its first moments.
const TOLD_PER_SECOND: u64 = 4;

/// An encoder that is started again on its connection by hand gets in at once. One that does nothing else would fill the
/// log, and the studio's events, with thousands of feeds a second.
pub(super) const PUBLISHES_AT_ONCE: u32 = 3;
pub(super) const PUBLISH_PAUSE: Duration = Duration::from_secs(1);

/// Handshake and commands pass through in pieces.
const READ_BUFFER_LEN_STRANGER: usize = 4 * 1024;

/// One read takes what 20 Mbit/s sends in 25 ms.
const READ_BUFFER_LEN: usize = 64 * 1024;

/// Less room than this is not worth a system call.
const READ_LEN_MIN: usize = 16 * 1024;

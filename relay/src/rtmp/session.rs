//! One encoder's conversation, from the first byte to the last, without a socket.
//!
//! ```text
//! Handshake → Commands → Deciding → Publishing → Commands …
//!                └──────────┴───────────┴──→ Closing
//! ```
//! The driver gives bytes and the time in ([`Session::handle_input`], [`Session::handle_timeout`]), then takes out
//! what there is ([`Session::poll_transmit`], [`Session::poll_event`]), then waits for more bytes or for
//! [`Session::poll_timeout`]. Times are microseconds on any monotonic clock.
//!
//! While a publish is being decided nothing is read: whoever is not let in can't make us hold more than what
//! [`UNAUTHENTICATED_LEN_MAX`] allows, and media sent ahead of our answer waits in the encoder.

mod address;
mod commands;
mod farewell;

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use firstmile_shared::{media::AccessUnit, secret::Secret};

use self::farewell::Farewell;
use super::{
    amf0::AmfError,
    chunk::{self, ChunkError, Message, kind},
    flv::{
        Unsupported,
        units::{Counts, Outcome, TrackInfo, Units},
    },
    handshake::{Handshake, HandshakeError},
    message::{self, Aggregate, Incoming},
};

/// What happened, for the driver.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The encoder wants to publish; answer with [`Session::accept_publish`], [`Session::refuse_publish`] or
    /// [`Session::close`]. Nothing is read before.
    PublishRequested(PublishRequested),
    /// A picture or a block of sound.
    Unit(AccessUnit),
    /// The encoder says who it is. Any text may be in it.
    Metadata {
        /// At most 128 characters, none of them a control.
        encoder: String,
    },
    /// The encoder sends what is not played; told once for each track, until it sends something else there.
    Unsupported(Unsupported),
    /// All tracks of this publish, when there is another one or one changed its codec.
    Tracks(Vec<TrackInfo>),
    /// The encoder ended its publish in good order. It may begin another one.
    Unpublished,
}

/// Who wants to publish, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishRequested {
    /// First part of the path, in lower case. May be empty or nonsense.
    pub studio: String,
    /// The stream key as offered. May be empty.
    pub key: Secret,
    /// What the encoder calls itself at this point: at most 128 characters, none of them a control.
    pub encoder: String,
}

/// Whether all of the input was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Progress {
    /// All but the beginning of something; more bytes are needed.
    NeedsInput,
    /// Take out answers and events, or decide on the publish; then call [`Session::handle_input`] again. So it is also
    /// after some messages, for somebody else's turn.
    Full,
}

/// Why the connection must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// No RTMP, or a kind that is not spoken.
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    /// The chunks make no sense or are too large.
    #[error(transparent)]
    Chunk(#[from] ChunkError),
    /// A command that can't be read.
    #[error("a command can not be read")]
    Command(#[source] AmfError),
    /// Publishing without having connected.
    #[error("{command} came before connect")]
    NotConnected {
        /// Name of the command, one of ours.
        command: &'static str,
    },
    /// Playback is not offered.
    #[error("it wants to play; this relay only takes feeds in")]
    Play,
    /// No publish within the time.
    #[error("no publish within {} ms", within_us / 1_000)]
    TimedOut {
        /// The time allowed, microseconds.
        within_us: i64,
    },
    /// Too many bytes without a publish.
    #[error("more than {len_max} bytes before a publish")]
    TooMuchUnauthenticated {
        /// Bytes allowed.
        len_max: usize,
    },
}

/// One encoder's conversation.
#[derive(Debug)]
pub struct Session {
    stage: Stage,
    handshake: Handshake,
    decoder: chunk::Decoder,
    encoder: chunk::Encoder,
    output: BytesMut,
    events: VecDeque<Event>,
    /// What is left of an aggregate message.
    aggregate: Option<Aggregate>,
    /// Messages read since the driver asked.
    messages: usize,
    connected: Option<Connected>,
    units: Units,
    told: Told,
    acknowledgements: Acknowledgements,
    limits: Limits,
    /// When it must have published.
    deadline_us: i64,
    /// Bytes read since the encoder last had no right to send any.
    unauthenticated_len: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Handshake,
    Commands,
    Deciding,
    Publishing,
    Closing,
}

/// What one session may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// From the first byte to a publish, microseconds.
    pub publish_within_us: i64,
    /// Bytes in all before a publish is accepted; no message may be larger.
    pub unauthenticated_len: usize,
    /// Bytes of one message of a publish.
    pub message_len: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            publish_within_us: 10_000_000,
            unauthenticated_len: UNAUTHENTICATED_LEN_MAX,
            message_len: MESSAGE_LEN_MAX,
        }
    }
}

/// What `connect` said.
#[derive(Debug)]
struct Connected {
    app: String,
    encoder: String,
    farewell: Farewell,
}

/// What was told once and need not be again.
#[derive(Debug, Default)]
struct Told {
    metadata: bool,
}

impl Session {
    /// A session at `now_us`; the encoder must publish within `publish_within_us`. `seed` as in [`Handshake::new`].
    pub fn new(now_us: i64, publish_within_us: i64, seed: u64) -> Self {
        let limits = Limits {
            publish_within_us,
            ..Limits::default()
        };
        Self::with_limits(now_us, limits, seed)
    }

    /// Likewise, within these limits.
    pub fn with_limits(now_us: i64, limits: Limits, seed: u64) -> Self {
        Self {
            stage: Stage::Handshake,
            handshake: Handshake::new(seed),
            decoder: chunk::Decoder::new(limits.of_strangers()),
            encoder: chunk::Encoder::default(),
            output: BytesMut::new(),
            events: VecDeque::new(),
            aggregate: None,
            messages: 0,
            connected: None,
            units: Units::default(),
            told: Told::default(),
            acknowledgements: Acknowledgements::default(),
            limits,
            deadline_us: now_us.saturating_add(limits.publish_within_us),
            unauthenticated_len: 0,
        }
    }

    /// Reads what the encoder sent. What does not yet make sense stays in `input`: less than a header, or less
    /// than a part of the handshake.
    pub fn handle_input(
        &mut self,
        now_us: i64,
        input: &mut BytesMut,
    ) -> Result<Progress, SessionError> {
        let before = input.len();
        let mut published_until = before;
        let progress = self.read(now_us, input, &mut published_until);
        let read = before.saturating_sub(input.len());
        if let Some(sequence) = self.acknowledgements.received(read) {
            self.send_control(&message::control(kind::ACKNOWLEDGEMENT, sequence));
        }
        if self.stage != Stage::Publishing {
            // What came with the end of a publish, and before it, was its own.
            let read = published_until.saturating_sub(input.len());
            self.unauthenticated_len = self.unauthenticated_len.saturating_add(read);
            let len_max = self.limits.unauthenticated_len;
            if self.unauthenticated_len > len_max {
                return Err(SessionError::TooMuchUnauthenticated { len_max });
            }
        }
        progress
    }

    /// `published_until`: how much of `input` was left when the publish was seen last, if it was.
    fn read(
        &mut self,
        now_us: i64,
        input: &mut BytesMut,
        published_until: &mut usize,
    ) -> Result<Progress, SessionError> {
        let mut at_once = 0_usize;
        loop {
            if self.stage == Stage::Publishing {
                *published_until = input.len();
            }
            match self.stage {
                Stage::Deciding => return Ok(Progress::Full),
                Stage::Closing => {
                    input.clear();
                    return Ok(Progress::NeedsInput);
                }
                _ if self.is_full() || at_once >= MESSAGES_AT_ONCE => return Ok(Progress::Full),
                Stage::Handshake => {
                    if !self.handshake.advance(input, &mut self.output)? {
                        return Ok(Progress::NeedsInput);
                    }
                    self.stage = Stage::Commands;
                }
                Stage::Commands | Stage::Publishing => {
                    if let Some(inside) = self.aggregate.as_mut().and_then(Iterator::next) {
                        self.messages = self.messages.saturating_add(1);
                        self.media(now_us, inside);
                    } else {
                        let message = self.decoder.poll(input);
                        let whole = self.decoder.take_messages();
                        self.messages = self.messages.saturating_add(whole);
                        let Some(message) = message? else {
                            return Ok(Progress::NeedsInput);
                        };
                        self.message(now_us, message)?;
                    }
                    at_once = at_once.saturating_add(1);
                }
            }
        }
    }

    /// Call when [`Session::poll_timeout`] has passed.
    pub fn handle_timeout(&mut self, now_us: i64) -> Result<(), SessionError> {
        match self.poll_timeout() {
            Some(deadline_us) if now_us >= deadline_us => Err(SessionError::TimedOut {
                within_us: self.limits.publish_within_us,
            }),
            _ => Ok(()),
        }
    }

    /// When to call [`Session::handle_timeout`] if nothing arrives before, microseconds.
    pub fn poll_timeout(&self) -> Option<i64> {
        matches!(self.stage, Stage::Handshake | Stage::Commands).then_some(self.deadline_us)
    }

    /// The next bytes to send, until `None`.
    pub fn poll_transmit(&mut self) -> Option<Bytes> {
        (!self.output.is_empty()).then(|| self.output.split().freeze())
    }

    /// What happened next, until `None`.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Lets the encoder publish: it may send media from now on.
    pub fn accept_publish(&mut self) {
        if self.stage != Stage::Deciding {
            return;
        }
        self.stage = Stage::Publishing;
        self.decoder.set_limits(self.limits.of_publishers());
        self.units = Units::default();
        self.told = Told::default();
        self.send_publish_started();
    }

    /// Turns the encoder away for good: most stop and ask their user for another key. Then close when
    /// [`Session::poll_transmit`] is empty.
    pub fn refuse_publish(&mut self) {
        if self.stage == Stage::Deciding {
            self.send_publish_refused();
        }
        self.close();
    }

    /// Sends away an encoder that the studio does not want, before or while it publishes, with a reason that it can
    /// show. Then close when [`Session::poll_transmit`] is empty.
    pub fn deny_publish(&mut self) {
        if matches!(self.stage, Stage::Deciding | Stage::Publishing) {
            self.send_publish_denied();
        }
        self.close();
    }

    /// Ends the conversation without a word, which encoders take for a fault that passes: they try again.
    pub fn close(&mut self) {
        self.stage = Stage::Closing;
        self.aggregate = None;
        // What it had begun to say is nobody's any more.
        self.decoder = chunk::Decoder::new(self.limits.of_strangers());
    }

    /// Whether the driver is to close once all is sent.
    pub fn is_closing(&self) -> bool {
        self.stage == Stage::Closing
    }

    /// Whether the peer has shown that it speaks RTMP.
    pub fn has_shaken_hands(&self) -> bool {
        self.stage != Stage::Handshake
    }

    /// Whether the encoder has been let in.
    pub fn is_publishing(&self) -> bool {
        self.stage == Stage::Publishing
    }

    /// What was left out of this publish.
    pub fn counts(&self) -> Counts {
        self.units.counts()
    }

    /// Messages read since the last call, those inside aggregates included. A byte can be one: who counts bytes alone
    /// does not know what an encoder costs.
    pub fn take_messages(&mut self) -> usize {
        std::mem::take(&mut self.messages)
    }

    /// Memory held for the encoder, bytes: unfinished messages, answers and events that wait. At most
    /// [`BUFFERED_BYTES_MAX`].
    pub fn buffered_bytes(&self) -> usize {
        self.decoder
            .buffered_bytes()
            .saturating_add(self.output.len())
            .saturating_add(self.aggregate.as_ref().map_or(0, Aggregate::len))
            .saturating_add(self.event_bytes())
    }

    fn event_bytes(&self) -> usize {
        let units = self.events.iter().map(|event| match event {
            Event::Unit(unit) => unit.payload.len(),
            _ => 0,
        });
        units.sum()
    }

    fn is_full(&self) -> bool {
        self.events.len() >= EVENTS_MAX
            || self.output.len() >= OUTPUT_LEN_MAX
            || self.event_bytes() >= EVENT_BYTES_MAX
    }

    fn message(&mut self, now_us: i64, message: Message) -> Result<(), SessionError> {
        let timestamp = message.timestamp;
        let is_command = matches!(message.kind, kind::COMMAND_AMF0 | kind::COMMAND_AMF3);
        match Incoming::parse(message) {
            Ok(Incoming::Command(command)) => self.command(now_us, &command)?,
            Ok(Incoming::WindowAckSize(size)) => self.acknowledgements.set_window(size),
            Ok(Incoming::Ping(number)) => self.send_control(&message::ping_response(number)),
            Ok(Incoming::Aggregate(body)) if self.is_publishing() => {
                self.aggregate = Some(Aggregate::new(body, timestamp));
            }
            Ok(incoming) => self.understood_media(now_us, timestamp, incoming),
            Err(error) if is_command => return Err(SessionError::Command(error)),
            // Metadata that can't be read is no reason to lose the pictures.
            Err(_) => {}
        }
        Ok(())
    }

    /// A message out of an aggregate: media and metadata only.
    fn media(&mut self, now_us: i64, message: Message) {
        let timestamp = message.timestamp;
        if let Ok(incoming) = Incoming::parse(message) {
            self.understood_media(now_us, timestamp, incoming);
        }
    }

    fn understood_media(&mut self, now_us: i64, timestamp: u32, incoming: Incoming) {
        if !self.is_publishing() {
            return;
        }
        match incoming {
            Incoming::Video(body) => self.units.video(now_us, timestamp, &body),
            Incoming::Audio(body) => self.units.audio(now_us, timestamp, &body),
            Incoming::Data(values) => {
                self.metadata(&values);
                self.units.data(now_us, timestamp, &values);
            }
            _ => return,
        }
        while let Some(outcome) = self.units.poll() {
            self.events.push_back(match outcome {
                Outcome::Unit(unit) => Event::Unit(unit),
                Outcome::Unsupported(what) => Event::Unsupported(what),
                Outcome::TracksChanged => Event::Tracks(self.units.tracks().collect()),
            });
        }
    }

    fn send_control(&mut self, message: &Message) {
        self.encoder.encode(
            &mut self.output,
            chunk::encoder::CHUNK_STREAM_CONTROL,
            message,
        );
    }
}

/// When an acknowledgement is due.
#[derive(Debug)]
struct Acknowledgements {
    window: u32,
    received: u32,
    acknowledged: u32,
}

impl Default for Acknowledgements {
    fn default() -> Self {
        Self {
            window: WINDOW,
            received: 0,
            acknowledged: 0,
        }
    }
}

impl Acknowledgements {
    fn set_window(&mut self, size: u32) {
        self.window = size.max(WINDOW_MIN);
    }

    /// Counts bytes; the sequence number to acknowledge, if one is due.
    fn received(&mut self, len: usize) -> Option<u32> {
        let len = u32::try_from(len).unwrap_or(u32::MAX);
        self.received = self.received.wrapping_add(len);
        // Flash Media Live Encoder stops near the end of the range, so it is not used.
        if self.received >= SEQUENCE_RESET {
            self.received = 0;
            self.acknowledged = 0;
        }
        let due = self.received.wrapping_sub(self.acknowledged) >= self.window;
        due.then(|| {
            self.acknowledged = self.received;
            self.received
        })
    }
}

/// What may be sent before a publish is accepted: a handshake is 3 KiB, commands take less than one. With what else a
/// connection costs, TLS included, a stranger takes less than 64 KiB of memory.
pub const UNAUTHENTICATED_LEN_MAX: usize = 32 * 1024;

/// A 4K intra picture at 100 Mbit/s has 0.5 MB on average: 16 times that.
const MESSAGE_LEN_MAX: usize = 8 * 1024 * 1024;

/// What one session holds at most: unfinished messages, one whole message waiting as an event or an aggregate,
/// and what small events and answers may be before reading stops.
pub const BUFFERED_BYTES_MAX: usize = MESSAGE_LEN_MAX
    + MESSAGE_LEN_MAX / 2
    + MESSAGE_LEN_MAX
    + EVENT_BYTES_MAX
    + OUTPUT_LEN_MAX
    + 64 * 1024;

impl Limits {
    const fn of_strangers(self) -> chunk::Limits {
        chunk::Limits {
            message_len_max: self.unauthenticated_len,
            unfinished_len_max: self.unauthenticated_len,
            chunk_streams_max: CHUNK_STREAMS_MAX,
        }
    }

    const fn of_publishers(self) -> chunk::Limits {
        chunk::Limits {
            message_len_max: self.message_len,
            unfinished_len_max: self.message_len.saturating_add(self.message_len / 2),
            chunk_streams_max: CHUNK_STREAMS_MAX,
        }
    }
}

/// Encoders use fewer than ten.
const CHUNK_STREAMS_MAX: usize = 64;

/// Reading pauses after this many messages: some hundred microseconds, of which nobody else has any.
const MESSAGES_AT_ONCE: usize = 64;

/// Reading stops when this many events wait, ...
const EVENTS_MAX: usize = 64;

/// ... or this many bytes in them, ...
const EVENT_BYTES_MAX: usize = 256 * 1024;

/// ... or this many bytes of answers.
const OUTPUT_LEN_MAX: usize = 16 * 1024;

/// Bytes between acknowledgements, as Flash Media Server has it.
const WINDOW: u32 = 2_500_000;

/// An encoder that asks for more frequent ones is not obeyed.
const WINDOW_MIN: u32 = 16 * 1024;

const SEQUENCE_RESET: u32 = 0xf000_0000;

#[cfg(test)]
mod tests;

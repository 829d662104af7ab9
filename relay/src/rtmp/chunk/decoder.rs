//! Reads messages out of chunks, with one reassembly per chunk stream, because encoders interleave them at will.
//!
//! Memory follows what was received: a message announced as 16 MiB costs nothing until its bytes are here. Payload
//! is taken from the input as it comes, also within a chunk (some encoders announce chunks of 128 MiB), so no more
//! than one header ever stays behind in the input.

use bytes::{Buf, Bytes, BytesMut};

use super::{CHUNK_SIZE_INITIAL, Message, TIME_EXTENDED, kind};

/// What one connection may make us hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest message.
    pub message_len_max: usize,
    /// Memory of all unfinished messages together, bytes.
    pub unfinished_len_max: usize,
    /// Chunk streams; each costs about 100 bytes even when idle.
    pub chunk_streams_max: usize,
}

/// Why the bytes are not a chunk stream, or not one that is served. Every variant is fatal to the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChunkError {
    /// A compressed header on a chunk stream that never had a full one: sync is lost.
    #[error("chunk stream {chunk_stream} begins with a header of format {format}")]
    NoHeader {
        /// Where.
        chunk_stream: u32,
        /// 2 or 3.
        format: u8,
    },
    /// Larger than [`Limits::message_len_max`].
    #[error("a message of {len} bytes exceeds the limit of {max}")]
    MessageTooLong {
        /// As announced.
        len: usize,
        /// The limit in force.
        max: usize,
    },
    /// More begun at once than [`Limits::unfinished_len_max`].
    #[error("unfinished messages exceed {max} bytes")]
    TooMuchUnfinished {
        /// The limit in force.
        max: usize,
    },
    /// More than [`Limits::chunk_streams_max`].
    #[error("more than {max} chunk streams")]
    TooManyChunkStreams {
        /// The limit in force.
        max: usize,
    },
    /// A chunk size of 0, or with its top bit set, or without its four bytes.
    #[error("the chunk size is not allowed")]
    ChunkSize,
}

/// The receiving half of a chunk stream.
#[derive(Debug)]
pub struct Decoder {
    limits: Limits,
    chunk_size: usize,
    streams: Vec<ChunkStream>,
    /// The chunk whose payload is being read.
    open: Option<OpenChunk>,
    /// Memory of all unfinished messages, bytes.
    unfinished_len: usize,
    /// Messages since somebody asked.
    messages: usize,
    first_delta_is_timestamp: bool,
}

#[derive(Clone, Copy, Debug)]
struct OpenChunk {
    /// Index into `streams`.
    stream: usize,
    /// Payload still to come.
    left: usize,
}

#[derive(Debug)]
struct ChunkStream {
    id: u32,
    header: Header,
    /// The message begun, if any.
    body: Option<Vec<u8>>,
}

/// What later headers of a chunk stream leave out.
#[derive(Clone, Copy, Debug, Default)]
struct Header {
    timestamp: u32,
    delta: u32,
    len: usize,
    kind: u8,
    stream: u32,
    /// The four bytes of an extended time field, if the last header had them.
    extended: Option<u32>,
}

impl Decoder {
    /// A decoder at the start of a connection.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            chunk_size: CHUNK_SIZE_INITIAL,
            streams: Vec::new(),
            open: None,
            unfinished_len: 0,
            messages: 0,
            first_delta_is_timestamp: false,
        }
    }

    /// A new message with a header of format 3 right after one of format 0 repeats its *timestamp* as the delta
    /// (specification 5.3.1.2.4), instead of having the same time. Off by default: of the encoders seen, those
    /// that do this at all mean the same time.
    pub fn set_first_delta_is_timestamp(&mut self, on: bool) {
        self.first_delta_is_timestamp = on;
    }

    /// Changes what the connection may make us hold from the next header on.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Memory held for unfinished messages, bytes.
    pub fn buffered_bytes(&self) -> usize {
        self.unfinished_len
    }

    /// Whole messages since the last call, those that are obeyed here included: each is some work, however small it is.
    pub fn take_messages(&mut self) -> usize {
        std::mem::take(&mut self.messages)
    }

    /// Takes the next whole message out of `input`, or answers `None` when more bytes are needed; then what is left
    /// in `input` is less than a header. Chunk sizes and aborts are obeyed here and do not come out.
    pub fn poll(&mut self, input: &mut BytesMut) -> Result<Option<Message>, ChunkError> {
        loop {
            let open = match self.open {
                Some(open) => open,
                None => match self.begin_chunk(input)? {
                    Some(open) => open,
                    None => return Ok(None),
                },
            };
            let taken = open.left.min(input.len());
            self.take_payload(open, taken, input)?;
            let left = open.left.saturating_sub(taken);
            if left > 0 {
                self.open = Some(OpenChunk { left, ..open });
                return Ok(None);
            }
            self.open = None;
            if let Some(message) = self.finished(open.stream)
                && !self.obey(&message)?
            {
                return Ok(Some(message));
            }
        }
    }

    /// Reads a chunk's header; `None` if it is not all here yet.
    fn begin_chunk(&mut self, input: &mut BytesMut) -> Result<Option<OpenChunk>, ChunkError> {
        let mut bytes = &input[..];
        let Some((format, id)) = basic_header(&mut bytes) else {
            return Ok(None);
        };
        let known = self.streams.iter().position(|stream| stream.id == id);
        let (last, in_message) = match known.and_then(|index| self.streams.get(index)) {
            Some(stream) => (stream.header, stream.body.is_some()),
            // Cameras and librtmp begin the control stream with format 1.
            None if format >= 2 => {
                return Err(ChunkError::NoHeader {
                    chunk_stream: id,
                    format,
                });
            }
            None => (Header::default(), false),
        };
        let continues = format == 3 && in_message;
        let Some(header) = self.message_header(format, continues, last, &mut bytes) else {
            return Ok(None);
        };
        let max = self.limits.message_len_max;
        if header.len > max {
            return Err(ChunkError::MessageTooLong {
                len: header.len,
                max,
            });
        }

        let header_len = input.len().saturating_sub(bytes.len());
        input.advance(header_len);
        let index = match known {
            Some(index) => index,
            None => self.add_stream(id)?,
        };
        Ok(Some(self.open_chunk(index, header, continues)))
    }

    /// The header with what it inherits; `None` if it is not all here yet.
    fn message_header(
        &self,
        format: u8,
        continues: bool,
        last: Header,
        bytes: &mut &[u8],
    ) -> Option<Header> {
        let mut header = last;
        if format == 3 {
            if let Some(extended) = last.extended {
                skip_repetition(extended, bytes)?;
            }
            if !continues {
                header.timestamp = last.timestamp.wrapping_add(last.delta);
            }
            return Some(header);
        }

        let time = u32::from_be_bytes([0, take(bytes)?, take(bytes)?, take(bytes)?]);
        if format <= 1 {
            let len = u32::from_be_bytes([0, take(bytes)?, take(bytes)?, take(bytes)?]);
            header.len = len as usize;
            header.kind = take(bytes)?;
        }
        if format == 0 {
            header.stream =
                u32::from_le_bytes([take(bytes)?, take(bytes)?, take(bytes)?, take(bytes)?]);
        }
        let extended = time == TIME_EXTENDED;
        let time = if extended {
            u32::from_be_bytes([take(bytes)?, take(bytes)?, take(bytes)?, take(bytes)?])
        } else {
            time
        };
        header.extended = extended.then_some(time);
        if format == 0 {
            header.timestamp = time;
            header.delta = if self.first_delta_is_timestamp {
                time
            } else {
                0
            };
        } else {
            header.timestamp = last.timestamp.wrapping_add(time);
            header.delta = time;
        }
        Some(header)
    }

    fn add_stream(&mut self, id: u32) -> Result<usize, ChunkError> {
        let max = self.limits.chunk_streams_max;
        let index = self.streams.len();
        if index >= max {
            return Err(ChunkError::TooManyChunkStreams { max });
        }
        self.streams.push(ChunkStream {
            id,
            header: Header::default(),
            body: None,
        });
        Ok(index)
    }

    /// A header inside a message, other than a continuation, gives up what was begun.
    fn open_chunk(&mut self, index: usize, header: Header, continues: bool) -> OpenChunk {
        if !continues {
            self.give_up(index);
        }
        let mut received = 0;
        if let Some(stream) = self.streams.get_mut(index) {
            stream.header = header;
            received = stream.body.get_or_insert_default().len();
        }
        OpenChunk {
            stream: index,
            left: header.len.saturating_sub(received).min(self.chunk_size),
        }
    }

    fn take_payload(
        &mut self,
        open: OpenChunk,
        len: usize,
        input: &mut BytesMut,
    ) -> Result<(), ChunkError> {
        let Some(stream) = self.streams.get_mut(open.stream) else {
            return Ok(());
        };
        let body = stream.body.get_or_insert_default();
        if body.capacity().saturating_sub(body.len()) < len {
            // Twofold, so that a long message is moved a few times only; never past its announced end.
            let announced = stream.header.len.saturating_sub(body.len());
            let growth = body.len().max(GROWTH_MIN).max(len).min(announced);
            let before = body.capacity();
            body.reserve_exact(growth);
            let grown = body.capacity().saturating_sub(before);
            self.unfinished_len = self.unfinished_len.saturating_add(grown);
        }
        body.extend_from_slice(input.get(..len).unwrap_or_default());
        input.advance(len);
        let max = self.limits.unfinished_len_max;
        if self.unfinished_len > max {
            return Err(ChunkError::TooMuchUnfinished { max });
        }
        Ok(())
    }

    /// The message of this chunk stream, if its last byte is here.
    fn finished(&mut self, index: usize) -> Option<Message> {
        let stream = self.streams.get_mut(index)?;
        let body = stream
            .body
            .take_if(|body| body.len() >= stream.header.len)?;
        self.unfinished_len = self.unfinished_len.saturating_sub(body.capacity());
        self.messages = self.messages.saturating_add(1);
        Some(Message {
            kind: stream.header.kind,
            stream: stream.header.stream,
            timestamp: stream.header.timestamp,
            payload: Bytes::from(body),
        })
    }

    /// Carries out the messages that are about chunks; `true` if this was one.
    fn obey(&mut self, message: &Message) -> Result<bool, ChunkError> {
        let number = message
            .payload
            .first_chunk()
            .copied()
            .map(u32::from_be_bytes);
        match (message.kind, number) {
            (kind::SET_CHUNK_SIZE, Some(size @ 1..=0x7fff_ffff)) => {
                self.chunk_size = size as usize;
            }
            (kind::SET_CHUNK_SIZE, _) => return Err(ChunkError::ChunkSize),
            (kind::ABORT, Some(id)) => {
                if let Some(index) = self.streams.iter().position(|stream| stream.id == id) {
                    self.give_up(index);
                }
            }
            (kind::ABORT, None) => {}
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn give_up(&mut self, index: usize) {
        let body = self.streams.get_mut(index).and_then(|s| s.body.take());
        let memory = body.map_or(0, |body| body.capacity());
        self.unfinished_len = self.unfinished_len.saturating_sub(memory);
    }
}

/// Format and chunk stream.
fn basic_header(bytes: &mut &[u8]) -> Option<(u8, u32)> {
    let first = take(bytes)?;
    let id = match first & 0x3f {
        0 => 64_u32.saturating_add(take(bytes)?.into()),
        1 => 64_u32.saturating_add(u16::from_le_bytes([take(bytes)?, take(bytes)?]).into()),
        id => id.into(),
    };
    Some((first >> 6, id))
}

/// Some encoders repeat an extended time field before every chunk of a message, as the specification says, and some
/// (OBS before 30.1, old hardware) do not. Four bytes that equal it are taken for the repetition. `None`: so far
/// they do equal it, and there are less than four.
fn skip_repetition(extended: u32, bytes: &mut &[u8]) -> Option<()> {
    let expected = extended.to_be_bytes();
    let here = bytes.len().min(expected.len());
    if bytes.iter().zip(&expected).any(|(a, b)| a != b) {
        return Some(());
    }
    *bytes = bytes
        .split_at_checked(here)
        .map_or(*bytes, |(_, rest)| rest);
    (here == expected.len()).then_some(())
}

fn take(bytes: &mut &[u8]) -> Option<u8> {
    let (first, rest) = bytes.split_first()?;
    *bytes = rest;
    Some(*first)
}

/// A message of a quiet track fits; 64 chunk streams of this are 256 KiB.
const GROWTH_MIN: usize = 4096;

#[cfg(test)]
#[path = "decoder_tests.rs"]
mod tests;

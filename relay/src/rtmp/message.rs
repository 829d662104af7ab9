//! What messages mean: controls, commands and metadata, between bytes and the session.
//!
//! A body that can't be read is an error here; whether that matters is the session's business. Unknown kinds are
//! [`Incoming::Other`]: encoders send many, and none of them is a reason to close.

use std::fmt;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{
    amf0::{self, AmfError, Value},
    chunk::{Message, kind},
};

/// A message of the other side, understood.
#[derive(Clone, Debug, PartialEq)]
pub enum Incoming {
    /// It has received this many bytes; nobody here waits for that.
    Acknowledgement,
    /// It wants an acknowledgement each time it has sent this many bytes.
    WindowAckSize(u32),
    /// The window that we are to announce.
    SetPeerBandwidth(u32),
    /// It wants this number back.
    Ping(u32),
    /// A command.
    Command(Command),
    /// Metadata: a name and values.
    Data(Vec<Value>),
    /// An FLV audio tag.
    Audio(Bytes),
    /// An FLV video tag.
    Video(Bytes),
    /// Several messages in one: see [`Aggregate`].
    Aggregate(Bytes),
    /// Nothing that concerns an ingest.
    Other,
}

/// A remote call, or the answer to one.
#[derive(Clone, PartialEq)]
pub struct Command {
    /// "connect", "publish", "`_result`".
    pub name: String,
    /// Pairs an answer with its call; 0 wants none.
    pub transaction: f64,
    /// The command object; `Null` where there is none.
    pub object: Value,
    /// What follows it.
    pub arguments: Vec<Value>,
}

impl fmt::Debug for Command {
    /// Without the arguments: one of them may be a stream key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Command")
            .field("name", &self.name)
            .field("transaction", &self.transaction)
            .finish_non_exhaustive()
    }
}

impl Incoming {
    /// Understands a whole message.
    pub fn parse(message: Message) -> Result<Self, AmfError> {
        let body = message.payload;
        let number = body.first_chunk().copied().map(u32::from_be_bytes);
        Ok(match (message.kind, number) {
            (kind::ACKNOWLEDGEMENT, _) => Self::Acknowledgement,
            (kind::WINDOW_ACK_SIZE, Some(size)) => Self::WindowAckSize(size),
            (kind::SET_PEER_BANDWIDTH, Some(size)) => Self::SetPeerBandwidth(size),
            (kind::USER_CONTROL, _) => match body.first_chunk() {
                Some(&[0, EVENT_PING_REQUEST, a, b, c, d]) => {
                    Self::Ping(u32::from_be_bytes([a, b, c, d]))
                }
                _ => Self::Other,
            },
            (kind::COMMAND_AMF0, _) => Self::Command(Command::parse(&body)?),
            (kind::COMMAND_AMF3, _) => Self::Command(Command::parse(without_format(&body))?),
            (kind::DATA_AMF0, _) => Self::Data(amf0::decode_all(&body)?),
            (kind::DATA_AMF3, _) => Self::Data(amf0::decode_all(without_format(&body))?),
            (kind::AUDIO, _) => Self::Audio(body),
            (kind::VIDEO, _) => Self::Video(body),
            (kind::AGGREGATE, _) => Self::Aggregate(body),
            _ => Self::Other,
        })
    }
}

/// The AMF3 kinds begin with a format byte, 0; what follows is AMF0 in practice. Some encoders leave it out.
fn without_format(body: &[u8]) -> &[u8] {
    body.strip_prefix(&[0]).unwrap_or(body)
}

impl Command {
    fn parse(body: &[u8]) -> Result<Self, AmfError> {
        let mut values = amf0::decode_all(body)?.into_iter();
        Ok(Self {
            name: match values.next() {
                Some(Value::String(name)) => name,
                _ => String::new(),
            },
            transaction: values.next().and_then(|v| v.as_number()).unwrap_or(0.0),
            object: values.next().unwrap_or(Value::Null),
            arguments: values.collect(),
        })
    }

    /// As a message on a message stream.
    pub fn to_message(&self, stream: u32) -> Message {
        let mut body = BytesMut::new();
        amf0::encode(&Value::string(&self.name), &mut body);
        amf0::encode(&Value::Number(self.transaction), &mut body);
        amf0::encode(&self.object, &mut body);
        for argument in &self.arguments {
            amf0::encode(argument, &mut body);
        }
        Message {
            kind: kind::COMMAND_AMF0,
            stream,
            timestamp: 0,
            payload: body.freeze(),
        }
    }
}

/// A control message of one number: an acknowledgement, a window.
pub fn control(kind: u8, number: u32) -> Message {
    control_of(kind, number.to_be_bytes().to_vec())
}

/// The window that the other side is to use, "dynamic".
pub fn set_peer_bandwidth(size: u32) -> Message {
    let mut body = size.to_be_bytes().to_vec();
    body.push(2);
    control_of(kind::SET_PEER_BANDWIDTH, body)
}

/// "Stream begin": media may flow on this message stream.
pub fn stream_begin(stream: u32) -> Message {
    user_control(EVENT_STREAM_BEGIN, stream)
}

/// The answer to a ping, with its number.
pub fn ping_response(number: u32) -> Message {
    user_control(EVENT_PING_RESPONSE, number)
}

fn user_control(event: u8, number: u32) -> Message {
    let mut body = vec![0, event];
    body.put_u32(number);
    control_of(kind::USER_CONTROL, body)
}

fn control_of(kind: u8, body: Vec<u8>) -> Message {
    Message {
        kind,
        stream: 0,
        timestamp: 0,
        payload: body.into(),
    }
}

/// The messages inside an aggregate, each with its own time. Ends at the first that is cut.
#[derive(Debug)]
pub struct Aggregate {
    left: Bytes,
    timestamp: u32,
    first: Option<u32>,
}

impl Aggregate {
    /// Over the body of an aggregate message that carries `timestamp`.
    pub fn new(body: Bytes, timestamp: u32) -> Self {
        Self {
            left: body,
            timestamp,
            first: None,
        }
    }

    /// Bytes not yet taken out.
    pub fn len(&self) -> usize {
        self.left.len()
    }

    /// Whether all is taken out.
    pub fn is_empty(&self) -> bool {
        self.left.is_empty()
    }
}

impl Iterator for Aggregate {
    type Item = Message;

    fn next(&mut self) -> Option<Message> {
        let &[kind, l0, l1, l2, t0, t1, t2, t3, s0, s1, s2] = self.left.first_chunk()?;
        let len = u32::from_be_bytes([0, l0, l1, l2]) as usize;
        // The high byte of the time comes last, as in an FLV file.
        let time = u32::from_be_bytes([t3, t0, t1, t2]);
        let first = *self.first.get_or_insert(time);
        self.left.advance(TAG_HEADER_LEN);
        if self.left.len() < len {
            self.left.clear();
            return None;
        }
        // A copy: a unit that waits somewhere must not keep the whole aggregate alive.
        let payload = Bytes::copy_from_slice(&self.left.split_to(len));
        // How far back this message began: nobody needs it, and the last one may lack it.
        self.left.advance(self.left.len().min(BACK_POINTER_LEN));
        Some(Message {
            kind,
            stream: u32::from_be_bytes([0, s0, s1, s2]),
            timestamp: self.timestamp.wrapping_add(time.wrapping_sub(first)),
            payload,
        })
    }
}

const TAG_HEADER_LEN: usize = 11;
const BACK_POINTER_LEN: usize = 4;

const EVENT_STREAM_BEGIN: u8 = 0;
const EVENT_PING_REQUEST: u8 = 6;
const EVENT_PING_RESPONSE: u8 = 7;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn controls_are_understood_and_unknown_ones_ignored() {
        for (kind, body, expected) in [
            (5, &[0, 0, 1, 0][..], Incoming::WindowAckSize(256)),
            (6, &[0, 0, 1, 0, 2], Incoming::SetPeerBandwidth(256)),
            (3, &[0, 0, 1, 0], Incoming::Acknowledgement),
            (4, &[0, 6, 0, 0, 0, 9], Incoming::Ping(9)),
            (4, &[0, 31, 0, 0, 0, 1], Incoming::Other),
            (4, &[0], Incoming::Other),
            (5, &[0, 0], Incoming::Other),
            (32, &[], Incoming::Other),
        ] {
            assert_eq!(
                Incoming::parse(message(kind, body)),
                Ok(expected),
                "{kind} {body:?}"
            );
        }
    }

    #[test]
    fn a_command_reads_the_same_from_amf0_and_behind_amf3s_format_byte() {
        let command = Command {
            name: "publish".into(),
            transaction: 5.0,
            object: Value::Null,
            arguments: vec![Value::string("key"), Value::string("live")],
        };
        let wire = command.to_message(1);
        assert_eq!(
            Incoming::parse(wire.clone()),
            Ok(Incoming::Command(command.clone()))
        );
        let behind = [&[0][..], &wire.payload].concat();
        let wrapped = message(kind::COMMAND_AMF3, &behind);
        assert_eq!(
            Incoming::parse(wrapped),
            Ok(Incoming::Command(command.clone()))
        );
        assert!(!format!("{command:?} {wire:?}").contains("key"));
    }

    #[test]
    fn messages_of_an_aggregate_keep_their_distance_in_time() {
        let tag = |kind: u8, time: u8, body: &[u8]| {
            let header = [kind, 0, 0, body.len() as u8, 0, 0, time, 0, 0, 0, 1];
            [&header[..], body, &[0, 0, 0, 0]].concat()
        };
        let body = [tag(8, 20, &[1]), tag(9, 53, &[2, 3]), vec![9, 0, 0, 200]].concat();
        let inside: Vec<_> = Aggregate::new(body.into(), 1_000)
            .map(|m| (m.kind, m.timestamp, m.payload.to_vec()))
            .collect();
        assert_eq!(inside, [(8, 1_000, vec![1]), (9, 1_033, vec![2, 3])]);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(kind in 0..40u8, body in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Incoming::parse(message(kind, &body));
            for inside in Aggregate::new(body.clone().into(), u32::MAX) {
                let _ = Incoming::parse(inside);
            }
        }
    }

    fn message(kind: u8, body: &[u8]) -> Message {
        Message {
            kind,
            stream: 0,
            timestamp: 0,
            payload: body.to_vec().into(),
        }
    }
}

//! A conversation as a list of operations, so that the fuzzer changes the order of things instead of their bytes.

use arbitrary::Arbitrary;
use bytes::{Bytes, BytesMut};
use firstmile_relay::rtmp::{
    amf0::Value,
    chunk::{Encoder, Message, kind},
    handshake::BLOCK_LEN,
    message::Command,
};

use crate::Driven;

/// What an encoder, the clock or the driver does next.
#[derive(Clone, Debug, Arbitrary)]
pub enum Operation {
    /// All of the encoder's half of a handshake.
    Handshake { is_signed: bool },
    /// A command with text as its arguments.
    Command {
        name: Name,
        transaction: u8,
        is_amf3: bool,
        text: Vec<Text>,
    },
    /// Any message.
    Message {
        kind: Kind,
        chunk_stream: u8,
        stream: u8,
        timestamp: u32,
        body: Vec<u8>,
    },
    /// A tag of the kind that encoders begin with.
    Tag(Tag, u32),
    /// Larger or smaller chunks from now on.
    ChunkSize(u32),
    /// No message at all.
    Noise(Vec<u8>),
    /// Time passes.
    Wait(u32),
    /// The relay lets it publish.
    Accept,
    /// The relay turns it away.
    Refuse,
    /// The studio turns it away.
    Deny,
}

/// Commands that mean something, and one that does not.
#[derive(Clone, Copy, Debug, Arbitrary)]
pub enum Name {
    Connect,
    ReleaseStream,
    FcPublish,
    CreateStream,
    Publish,
    FcUnpublish,
    DeleteStream,
    CloseStream,
    Play,
    CheckBandwidth,
    Unknown,
}

/// What names, keys and addresses are made of.
#[derive(Clone, Copy, Debug, Arbitrary)]
pub enum Text {
    Studio,
    Key,
    Slash,
    Question,
    Percent(u8),
    Bracket,
    Live,
    Any(char),
}

/// Kinds of messages that mean something, and any other.
#[derive(Clone, Copy, Debug, Arbitrary)]
pub enum Kind {
    Audio,
    Video,
    Data,
    DataAmf3,
    Aggregate,
    UserControl,
    Abort,
    Acknowledgement,
    Window,
    Bandwidth,
    Any(u8),
}

/// The tags of H.264 and AAC as encoders send them.
#[derive(Clone, Copy, Debug, Arbitrary)]
pub enum Tag {
    VideoConfig,
    Keyframe,
    Picture,
    AudioConfig,
    Sound,
}

/// Does all of it, and answers with what was reached.
pub fn converse(operations: &[Operation]) -> Driven {
    let mut driven = Driven::new(7, false);
    let mut encoder = Encoder::default();
    for operation in operations {
        let mut bytes = BytesMut::new();
        let goes_on = match operation {
            Operation::Handshake { is_signed } => driven.say(&handshake(*is_signed)),
            Operation::Command {
                name,
                transaction,
                is_amf3,
                text,
            } => {
                let message = command(*name, *transaction, *is_amf3, text);
                encoder.encode(&mut bytes, 3, &message);
                driven.say(&bytes)
            }
            Operation::Message {
                kind,
                chunk_stream,
                stream,
                timestamp,
                body,
            } => {
                let message = Message {
                    kind: number(*kind),
                    stream: (*stream).into(),
                    timestamp: *timestamp,
                    payload: Bytes::copy_from_slice(body),
                };
                encoder.encode(&mut bytes, *chunk_stream, &message);
                driven.say(&bytes)
            }
            Operation::Tag(tag, timestamp) => {
                encoder.encode(&mut bytes, 6, &media(*tag, *timestamp));
                driven.say(&bytes)
            }
            Operation::ChunkSize(size) => {
                encoder.set_chunk_size(&mut bytes, *size);
                driven.say(&bytes)
            }
            Operation::Noise(noise) => driven.say(noise),
            Operation::Wait(us) => driven.wait(*us),
            Operation::Accept => {
                driven.session.accept_publish();
                driven.work()
            }
            Operation::Refuse => {
                driven.session.refuse_publish();
                driven.work()
            }
            Operation::Deny => {
                driven.session.deny_publish();
                driven.work()
            }
        };
        if !goes_on {
            break;
        }
    }
    driven
}

fn handshake(is_signed: bool) -> Vec<u8> {
    let mut bytes = vec![3];
    // A version is the claim of a signature, which is a wrong one: it is answered plainly.
    bytes.extend_from_slice(&[0, 0, 0, 0, u8::from(is_signed) * 9, 0, 124, 2]);
    bytes.resize(1 + 2 * BLOCK_LEN, 0x5a);
    bytes
}

fn command(name: Name, transaction: u8, is_amf3: bool, text: &[Text]) -> Message {
    let text: String = text.iter().map(|part| part.text()).collect();
    let (name, object, arguments) = match name {
        Name::Connect => {
            let app = if text.is_empty() { "truck1" } else { &text };
            let object = Value::object([
                ("app", Value::string(app)),
                ("flashVer", Value::string("FMLE/3.0")),
                ("tcUrl", Value::string(&format!("rtmp://relay/{app}"))),
                ("supportsGoAway", Value::Boolean(true)),
                ("capsEx", Value::Number(15.0)),
                ("fourCcList", Value::Array(vec![Value::string("*")])),
            ]);
            ("connect", object, vec![])
        }
        Name::CreateStream => ("createStream", Value::Null, vec![]),
        Name::ReleaseStream => ("releaseStream", Value::Null, vec![text]),
        Name::FcPublish => ("FCPublish", Value::Null, vec![text]),
        Name::Publish => ("publish", Value::Null, vec![text, "live".to_owned()]),
        Name::FcUnpublish => ("FCUnpublish", Value::Null, vec![text]),
        Name::DeleteStream => ("deleteStream", Value::Null, vec![text]),
        Name::CloseStream => ("closeStream", Value::Null, vec![]),
        Name::Play => ("play", Value::Null, vec![text]),
        Name::CheckBandwidth => ("_checkbw", Value::Null, vec![]),
        Name::Unknown => ("unknown", Value::Null, vec![text]),
    };
    let command = Command {
        name: name.to_owned(),
        transaction: transaction.into(),
        object,
        arguments: arguments.into_iter().map(Value::String).collect(),
    };
    let mut message = command.to_message(1);
    if is_amf3 {
        message.kind = kind::COMMAND_AMF3;
        message.payload = [&[0], &message.payload[..]].concat().into();
    }
    message
}

impl Text {
    fn text(self) -> String {
        match self {
            Self::Studio => "truck1".to_owned(),
            Self::Key => "abcd-efgh-jkmn".to_owned(),
            Self::Slash => "/".to_owned(),
            Self::Question => "?token=1&x=".to_owned(),
            Self::Percent(byte) => format!("%{byte:02x}"),
            Self::Bracket => "[::1]:1935".to_owned(),
            Self::Live => "live".to_owned(),
            Self::Any(character) => character.to_string(),
        }
    }
}

fn number(kind: Kind) -> u8 {
    match kind {
        Kind::Audio => kind::AUDIO,
        Kind::Video => kind::VIDEO,
        Kind::Data => kind::DATA_AMF0,
        Kind::DataAmf3 => kind::DATA_AMF3,
        Kind::Aggregate => kind::AGGREGATE,
        Kind::UserControl => kind::USER_CONTROL,
        Kind::Abort => kind::ABORT,
        Kind::Acknowledgement => kind::ACKNOWLEDGEMENT,
        Kind::Window => kind::WINDOW_ACK_SIZE,
        Kind::Bandwidth => kind::SET_PEER_BANDWIDTH,
        Kind::Any(kind) => kind,
    }
}

fn media(tag: Tag, timestamp: u32) -> Message {
    let (kind, body): (u8, &[u8]) = match tag {
        Tag::VideoConfig => (kind::VIDEO, AVC_CONFIG),
        Tag::Keyframe => (kind::VIDEO, &[0x17, 1, 0, 0, 0, 0, 0, 0, 2, 0x65, 0x88]),
        Tag::Picture => (kind::VIDEO, &[0x27, 1, 0, 0, 0, 0, 0, 0, 2, 0x41, 0x9a]),
        Tag::AudioConfig => (kind::AUDIO, &[0xaf, 0, 0x11, 0x90]),
        Tag::Sound => (kind::AUDIO, &[0xaf, 1, 0x21, 0x10, 0x04]),
    };
    Message {
        kind,
        stream: 1,
        timestamp,
        payload: Bytes::from_static(body),
    }
}

/// 640 by 360, as x264 writes it.
const AVC_CONFIG: &[u8] = &[
    0x17, 0, 0, 0, 0, 1, 0x64, 0, 0x1e, 0xff, 0xe1, 0, 0x18, 0x67, 0x64, 0, 0x1e, 0xac, 0xd9, 0x40,
    0xa0, 0x2f, 0xf9, 0x70, 0x11, 0, 0, 3, 0, 1, 0, 0, 3, 0, 0x3c, 0x0f, 0x16, 0x2d, 0x96, 1, 0, 6,
    0x68, 0xeb, 0xe3, 0xcb, 0x22, 0xc0,
];

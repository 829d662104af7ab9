//! The commands of a publish, and answers in the order and shape that every encoder accepts.
//!
//! Learned from encoders, not from the specification: properties come in the order level, code, description; some
//! wait for `onFCPublish` with a transaction number; an unknown command is no reason to close; a stream may be
//! ended by any of three commands or by none.

use firstmile_shared::{secret::Secret, text};

use super::{
    Connected, Event, PublishRequested, Session, SessionError, Stage, WINDOW,
    address::{app_of_url, studio_and_key},
    farewell::Farewell,
};
use crate::rtmp::{
    amf0::Value,
    chunk::kind,
    message::{self, Command},
};

impl Session {
    pub(super) fn command(&mut self, now_us: i64, command: &Command) -> Result<(), SessionError> {
        match command.name.as_str() {
            "connect" => self.connect(command),
            "createStream" => self.answer(command, [Value::Number(STREAM.into())]),
            "releaseStream" | "_checkbw" | "getStreamLength" => {
                self.answer(command, [Value::Undefined]);
            }
            "FCPublish" => self.fc_publish(command),
            "publish" => self.publish(now_us, command)?,
            "FCUnpublish" | "deleteStream" | "closeStream" => self.unpublish(now_us)?,
            "play" | "play2" => return Err(SessionError::Play),
            "_result" | "_error" | "onStatus" | "setBufferLength" => {}
            _ => self.unknown(command),
        }
        Ok(())
    }

    fn connect(&mut self, command: &Command) {
        let text = |name: &str| command.object.get(name).and_then(Value::as_str);
        let app = match text("app") {
            Some(app) if !app.is_empty() => app,
            _ => app_of_url(text("tcUrl").or_else(|| text("tcurl")).unwrap_or_default()),
        };
        self.connected = Some(Connected {
            app: app.to_owned(),
            encoder: encoder_name(text("flashVer").unwrap_or_default()),
            farewell: Farewell::announced(&command.object),
        });

        self.send_control(&message::control(kind::WINDOW_ACK_SIZE, WINDOW));
        self.send_control(&message::set_peer_bandwidth(WINDOW));
        self.encoder.set_chunk_size(&mut self.output, CHUNK_SIZE);
        let mut properties = vec![
            ("fmsVer".to_owned(), Value::string("FMS/3,5,7,7009")),
            ("capabilities".to_owned(), Value::Number(31.0)),
        ];
        properties.extend(capabilities(&command.object));
        let mut information = status(
            "status",
            "NetConnection.Connect.Success",
            "Connection succeeded.",
        );
        if let Value::Object(list) = &mut information {
            // Keeps encoders that could speak AMF3 on AMF0.
            list.push(("objectEncoding".to_owned(), Value::Number(0.0)));
        }
        self.send_command(
            0,
            &Command {
                name: "_result".to_owned(),
                transaction: command.transaction,
                object: Value::Object(properties),
                arguments: vec![information],
            },
        );
    }

    fn fc_publish(&mut self, command: &Command) {
        self.answer(command, [Value::Undefined]);
        let information = status("status", "NetStream.Publish.Start", "FCPublish.");
        self.send_command(
            0,
            &Command {
                name: "onFCPublish".to_owned(),
                transaction: command.transaction,
                object: Value::Null,
                arguments: vec![information],
            },
        );
    }

    fn publish(&mut self, now_us: i64, command: &Command) -> Result<(), SessionError> {
        let stream = command.arguments.first().and_then(Value::as_str);
        let Some(connected) = &self.connected else {
            return Err(SessionError::NotConnected { command: "publish" });
        };
        let (studio, key) = studio_and_key(&connected.app, stream.unwrap_or_default());
        let request = PublishRequested {
            studio,
            key: Secret::new(key),
            encoder: connected.encoder.clone(),
        };
        self.unpublish(now_us)?;
        self.stage = Stage::Deciding;
        self.events.push_back(Event::PublishRequested(request));
        Ok(())
    }

    /// Ends the publish, if there is one. What comes next has to earn its right again.
    ///
    /// # Errors
    /// When it holds more, of messages that it began to publish, than a stranger may.
    fn unpublish(&mut self, now_us: i64) -> Result<(), SessionError> {
        if self.stage == Stage::Publishing {
            self.stage = Stage::Commands;
            self.aggregate = None;
            self.decoder.set_limits(self.limits.of_strangers());
            self.unauthenticated_len = 0;
            self.deadline_us = now_us.saturating_add(self.limits.publish_within_us);
            self.events.push_back(Event::Unpublished);
            let len_max = self.limits.unauthenticated_len;
            if self.decoder.buffered_bytes() > len_max {
                return Err(SessionError::TooMuchUnauthenticated { len_max });
            }
        }
        Ok(())
    }

    fn unknown(&mut self, command: &Command) {
        if command.transaction > 0.0 {
            let information = status("error", "NetConnection.Call.Failed", "Unknown command.");
            self.send_command(
                0,
                &Command {
                    name: "_error".to_owned(),
                    transaction: command.transaction,
                    object: Value::Null,
                    arguments: vec![information],
                },
            );
        }
    }

    pub(super) fn send_publish_started(&mut self) {
        self.send_control(&message::stream_begin(STREAM));
        self.send_status(status(
            "status",
            "NetStream.Publish.Start",
            "Publishing has begun.",
        ));
    }

    pub(super) fn send_publish_refused(&mut self) {
        self.send_status(status(
            "error",
            "NetStream.Publish.BadName",
            "The address or the stream key is wrong.",
        ));
    }

    pub(super) fn send_publish_denied(&mut self) {
        self.send_status(status(
            "error",
            "NetStream.Publish.Denied",
            "The studio refused this encoder.",
        ));
    }

    /// What the encoder says about itself: its name is kept, its codec numbers are never believed.
    pub(super) fn metadata(&mut self, values: &[Value]) {
        let text = |index: usize| values.get(index).and_then(Value::as_str);
        let values = match (text(0), text(1)) {
            (Some("@setDataFrame"), Some("onMetaData")) => values.get(2),
            (Some("onMetaData"), _) => values.get(1),
            _ => None,
        };
        let encoder = values
            .and_then(|values| values.get("encoder"))
            .and_then(Value::as_str);
        if let Some(encoder) = encoder
            && !std::mem::replace(&mut self.told.metadata, true)
        {
            let encoder = encoder_name(encoder);
            self.events.push_back(Event::Metadata { encoder });
        }
    }

    fn send_status(&mut self, information: Value) {
        self.send_command(
            STREAM,
            &Command {
                name: "onStatus".to_owned(),
                transaction: 0.0,
                object: Value::Null,
                arguments: vec![information],
            },
        );
    }

    fn answer<const N: usize>(&mut self, command: &Command, arguments: [Value; N]) {
        self.send_command(
            0,
            &Command {
                name: "_result".to_owned(),
                transaction: command.transaction,
                object: Value::Null,
                arguments: arguments.into(),
            },
        );
    }

    pub(super) fn send_command(&mut self, stream: u32, command: &Command) {
        let message = command.to_message(stream);
        self.encoder
            .encode(&mut self.output, CHUNK_STREAM_COMMANDS, &message);
    }
}

/// What of Enhanced RTMP is understood, to an encoder that says that it speaks it. Others may send it all the same.
fn capabilities(asked: &Value) -> Vec<(String, Value)> {
    const KEYS: [&str; 5] = [
        "fourCcList",
        "videoFourCcInfoMap",
        "audioFourCcInfoMap",
        "capsEx",
        "videoFunction",
    ];
    let is_enhanced = KEYS.iter().take(4).any(|key| asked.get(key).is_some());
    if !is_enhanced {
        return Vec::new();
    }
    let masks = |codes: &[&str]| {
        let codes = codes.iter();
        Value::Object(
            codes
                .map(|code| ((*code).to_owned(), Value::Number(CAN_FORWARD)))
                .collect(),
        )
    };
    let all = VIDEO_CODES.iter().chain(&AUDIO_CODES);
    let values = [
        Value::Array(all.map(|code| Value::string(code)).collect()),
        masks(&VIDEO_CODES),
        masks(&AUDIO_CODES),
        Value::Number(CAPABILITIES),
        Value::Number(VIDEO_FUNCTIONS),
    ];
    let keys = KEYS.iter().map(|key| (*key).to_owned());
    keys.zip(values).collect()
}

/// The order matters: Wirecast wants the level before the code.
pub(super) fn status(level: &str, code: &str, description: &str) -> Value {
    Value::object([
        ("level", Value::string(level)),
        ("code", Value::string(code)),
        ("description", Value::string(description)),
    ])
}

/// Short, on one line, and without the "FMLE/3.0 (compatible; …)" that most encoders hide behind.
fn encoder_name(text: &str) -> String {
    let text = text.trim();
    let inner = text
        .strip_prefix("FMLE/3.0 (compatible; ")
        .and_then(|rest| rest.strip_suffix(')'))
        .unwrap_or(text);
    inner
        .chars()
        .map(|c| if text::is_deceptive(c) { ' ' } else { c })
        .take(ENCODER_NAME_LEN_MAX)
        .collect()
}

const VIDEO_CODES: [&str; 4] = ["avc1", "hvc1", "av01", "vp09"];
const AUDIO_CODES: [&str; 6] = ["mp4a", "Opus", "fLaC", "ac-3", "ec-3", ".mp3"];

/// Of decode, encode and forward.
const CAN_FORWARD: f64 = 4.0;

/// Several tracks (2), modifiers (4), times in nanoseconds (8). A request to reconnect is not made.
const CAPABILITIES: f64 = 14.0;

/// Colours (2) in metadata packets (4).
const VIDEO_FUNCTIONS: f64 = 6.0;

/// The one message stream that we hand out.
const STREAM: u32 = 1;
const CHUNK_STREAM_COMMANDS: u8 = 3;

/// Answers are smaller, so none is cut.
const CHUNK_SIZE: u32 = 4096;

/// Characters.
const ENCODER_NAME_LEN_MAX: usize = 128;

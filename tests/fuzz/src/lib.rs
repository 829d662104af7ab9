//! What several targets share: a driver that gives bytes to a session as a socket would, and notes what it reached.

pub mod operations;

use std::collections::BTreeMap;

use bytes::BytesMut;
use firstmile_relay::rtmp::session::{
    BUFFERED_BYTES_MAX, Event, Progress, Session, SessionError, UNAUTHENTICATED_LEN_MAX,
};

/// How long an encoder may take to publish, microseconds.
pub const WITHIN_US: i64 = 10_000_000;

/// A session, the bytes that it has not read yet, and what it has come to.
#[derive(Debug)]
pub struct Driven {
    pub session: Session,
    pub input: BytesMut,
    pub now_us: i64,
    /// Every publish is accepted at once; else somebody else decides.
    pub is_generous: bool,
    /// What was reached, and how often.
    pub reached: BTreeMap<String, u64>,
}

impl Driven {
    pub fn new(seed: u64, is_generous: bool) -> Self {
        Self {
            session: Session::new(0, WITHIN_US, seed),
            input: BytesMut::new(),
            now_us: 0,
            is_generous,
            reached: BTreeMap::new(),
        }
    }

    /// Gives it bytes; `false`: the conversation is over.
    pub fn say(&mut self, bytes: &[u8]) -> bool {
        self.input.extend_from_slice(bytes);
        self.work()
    }

    /// Lets time pass.
    pub fn wait(&mut self, us: u32) -> bool {
        self.now_us += i64::from(us);
        let result = self.session.handle_timeout(self.now_us);
        self.note_end(result)
    }

    /// Reads what there is and takes out what comes of it.
    pub fn work(&mut self) -> bool {
        loop {
            let was_publishing = self.session.is_publishing();
            let result = self.session.handle_input(self.now_us, &mut self.input);
            let bound = if was_publishing || self.session.is_publishing() {
                BUFFERED_BYTES_MAX
            } else {
                // What came before a publish, and the answers to it.
                6 * UNAUTHENTICATED_LEN_MAX
            };
            let held = self.session.buffered_bytes();
            assert!(held <= bound, "{held} of {bound} bytes");
            let progress = match result {
                Ok(progress) => progress,
                Err(error) => return self.note_end(Err(error)),
            };
            let mut is_taken = self.session.take_messages() > 0;
            while let Some(bytes) = self.session.poll_transmit() {
                assert!(!bytes.is_empty());
                is_taken = true;
            }
            let mut is_asked = false;
            while let Some(event) = self.session.poll_event() {
                is_taken = true;
                is_asked |= matches!(event, Event::PublishRequested(_));
                assert!(
                    was_publishing || self.session.is_publishing() || is_asked,
                    "before anybody let it in: {event:?}"
                );
                self.note(name(&event));
            }
            if is_asked && self.is_generous {
                self.session.accept_publish();
                is_taken = true;
            }
            if self.session.is_closing() {
                self.note("closing".to_owned());
                return false;
            }
            if progress == Progress::NeedsInput || !is_taken {
                return true;
            }
        }
    }

    fn note_end(&mut self, result: Result<(), SessionError>) -> bool {
        match result {
            Ok(()) => true,
            Err(error) => {
                let name = format!("{error:?}");
                let end = name.find([' ', '{']).unwrap_or(name.len());
                self.note(format!("ended: {}", &name[..end]));
                false
            }
        }
    }

    pub fn note(&mut self, what: String) {
        *self.reached.entry(what).or_default() += 1;
    }
}

fn name(event: &Event) -> String {
    match event {
        Event::Unit(unit) => format!("unit: {:?}", unit.codec),
        other => {
            let name = format!("{other:?}");
            let end = name.find([' ', '(', '{']).unwrap_or(name.len());
            format!("event: {}", &name[..end])
        }
    }
}

/// A whole connection: all that an encoder sent, in the pieces in which a socket might give it.
pub fn connection(bytes: &[u8], driven: &mut Driven) {
    for piece in bytes.chunks(4096) {
        driven.now_us += 1_000;
        if !driven.say(piece) {
            return;
        }
    }
    driven.note("read to the end".to_owned());
}

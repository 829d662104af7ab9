//! A line's decoder in a process of its own: what a stranger's stream does to FFmpeg costs that line a moment, and
//! nobody else anything.
//!
//! The process is this program again, started by [`this_program`] and entered by [`main`]. Units go to it over a socket
//! ([`wire`]), sound comes back the same way; pictures are written into shared memory, one at a time, and copied out here
//! at once. It answers each unit before it gets the next, and is ended when an answer takes longer than a second.
//! Nothing that comes back is trusted: whoever has taken the decoder over can spoil the pictures of its own line, and
//! no more.

mod child;
mod wire;

use std::io::{self, ErrorKind};

use firstmile_shared::{clock::now_us, media::MediaKind};
use tracing::{debug, warn};

pub use self::child::main;
use self::wire::{Reply, ReplyReader, WireError};
use super::{CodedUnit, DecodeError, Decoded, Decoder, ffmpeg::PictureHead, limits::SizeGuard};
use crate::{
    os::{Helper, HelperProgram, THIS_PROGRAM},
    output::{BufferPool, Picture},
};

/// What stands before a line's name in the arguments of its decoder's process.
pub const ARGUMENT: &str = "decoder-process";

/// This program as the decoder of a line: its `main` has to hand over to [`main`] when [`ARGUMENT`] is its first
/// argument.
pub fn this_program(shown_as: &str) -> HelperProgram {
    // Of the environment a library can need only where other libraries are.
    let library_path = std::env::var_os(LIBRARY_PATH);
    HelperProgram {
        path: THIS_PROGRAM.into(),
        shown_as: Some(shown_as.into()),
        arguments: vec![ARGUMENT.into()],
        environment: (library_path.into_iter())
            .map(|path| (LIBRARY_PATH.into(), path))
            .collect(),
    }
}

/// Decodes a line in a process of its own.
#[derive(Debug)]
pub struct ProcessDecoder {
    program: HelperProgram,
    max_pixels: u32,
    guard: SizeGuard,
    pool: BufferPool,
    running: Option<Running>,
    /// Not to be started before, microseconds of the clock: it could not be, just now.
    retry_at_us: i64,
}

#[derive(Debug)]
struct Running {
    helper: Helper,
    replies: ReplyReader,
    is_ready: bool,
    started_us: i64,
    /// Used again for each request and each read.
    request: Vec<u8>,
    read: Vec<u8>,
}

/// Why a process is of no use any more.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("it said something that no decoder says: {0}")]
    Wire(#[from] WireError),
}

impl ProcessDecoder {
    /// `program` is started with [`Decoder::tend`] or the first unit. Nothing larger than `max_pixels` is decoded.
    pub fn new(program: HelperProgram, max_pixels: u32) -> Self {
        Self {
            program,
            max_pixels,
            guard: SizeGuard::new(max_pixels),
            pool: BufferPool::default(),
            running: None,
            retry_at_us: i64::MIN,
        }
    }

    /// The process, while there is one.
    pub fn process_id(&self) -> Option<u32> {
        self.running.as_ref().map(|running| running.helper.id())
    }

    fn start(&mut self) -> Result<&mut Running, DecodeError> {
        let running = match self.running.take() {
            Some(running) => running,
            None => Running::start(&self.program, self.max_pixels).map_err(|error| {
                self.retry_at_us = now_us() + RETRY_US;
                warn!(program = %self.program.path.display(), %error, "a decoder process can't be started");
                DecodeError::Lost {
                    how: format!("can't be started as a process of its own: {error}"),
                }
            })?,
        };
        Ok(self.running.insert(running))
    }

    /// One request, and all that comes back.
    fn exchange(
        &mut self,
        put: impl FnOnce(&mut Vec<u8>),
        out: &mut Vec<Decoded>,
    ) -> Result<(), DecodeError> {
        let (pool, max_pixels) = (self.pool.clone(), self.max_pixels);
        let result = self.start()?.exchange(put, &pool, max_pixels, out);
        result.unwrap_or_else(|fault| Err(self.lose(&fault)))
    }

    fn lose(&mut self, fault: &Fault) -> DecodeError {
        let Some(Running {
            helper, is_ready, ..
        }) = self.running.take()
        else {
            return DecodeError::Lost {
                how: "is not there".to_owned(),
            };
        };
        let pid = helper.id();
        let is_closed = matches!(fault, Fault::Io(error) if error.kind() != ErrorKind::TimedOut);
        let end = helper.end(is_closed);
        // Its words can be a stranger's.
        debug!(pid, how = end.how, words = end.last_words, %fault, "a decoder process ended");
        if !is_ready {
            self.retry_at_us = now_us() + RETRY_US;
        }
        let how = match fault {
            _ if !is_ready => format!("does not start (it ended {})", end.how),
            Fault::Io(error) if error.kind() == ErrorKind::TimedOut => {
                format!("gave no answer for {} s", ANSWER_MAX_US / 1_000_000)
            }
            Fault::Io(_) => format!("crashed (it ended {})", end.how),
            Fault::Wire(error) => format!("was ended because {error}"),
        };
        DecodeError::Lost { how }
    }
}

impl Decoder for ProcessDecoder {
    fn decode(&mut self, unit: &CodedUnit, out: &mut Vec<Decoded>) -> Result<(), DecodeError> {
        self.guard.check(unit)?;
        self.exchange(|request| wire::put_unit(request, unit), out)
    }

    fn finish(&mut self, kind: MediaKind, out: &mut Vec<Decoded>) -> Result<(), DecodeError> {
        if self.running.is_none() {
            return Ok(());
        }
        self.exchange(|request| wire::put_finish(request, kind), out)
    }

    /// Started early, and again if it died idle: the first unit of a feed finds it ready.
    fn tend(&mut self) -> bool {
        if let Some(running) = &mut self.running
            && !running.helper.is_running()
        {
            let error = self.lose(&Fault::Io(ErrorKind::BrokenPipe.into()));
            warn!("while there was nothing to do: {error}");
        }
        let is_needed = self.running.is_none() && now_us() >= self.retry_at_us;
        if is_needed {
            // That it can't be started is logged, and said of the first unit again.
            let _ = self.start();
        }
        is_needed
    }
}

impl Running {
    fn start(program: &HelperProgram, max_pixels: u32) -> io::Result<Self> {
        let mut running = Self {
            helper: Helper::start(program, memory_len(max_pixels))?,
            replies: ReplyReader::default(),
            is_ready: false,
            started_us: now_us(),
            request: Vec::new(),
            read: vec![0; READ_LEN],
        };
        wire::put_setup(&mut running.request, max_pixels);
        let deadline_us = now_us() + ANSWER_MAX_US;
        // One that is gone already says how when it is asked.
        let _ = running.helper.send(&running.request, deadline_us);
        Ok(running)
    }

    fn exchange(
        &mut self,
        put: impl FnOnce(&mut Vec<u8>),
        pool: &BufferPool,
        max_pixels: u32,
        out: &mut Vec<Decoded>,
    ) -> Result<Result<(), DecodeError>, Fault> {
        while !self.is_ready {
            // One that was started early has said so already.
            let deadline_us = (self.started_us + START_MAX_US).max(now_us() + ANSWER_MAX_US);
            match self.next(deadline_us)? {
                Reply::Ready { is_confined } => {
                    self.is_ready = true;
                    debug!(
                        pid = self.helper.id(),
                        is_confined,
                        after_ms = (now_us() - self.started_us) / 1000,
                        "a decoder process is ready"
                    );
                }
                _ => return Err(WireError::OutOfTurn.into()),
            }
        }
        self.request.clear();
        put(&mut self.request);
        let deadline_us = now_us() + ANSWER_MAX_US;
        self.helper.send(&self.request, deadline_us)?;
        let mut left = ANSWERS_MAX;
        loop {
            match self.next(deadline_us)? {
                Reply::Picture(head) => out.push(self.picture(head, pool, max_pixels)?),
                Reply::Sound(sound) => out.push(Decoded::Sound(sound)),
                Reply::NeedRoom => {
                    // All pictures before this word were copied.
                    self.request.clear();
                    wire::put_room(&mut self.request);
                    self.helper.send(&self.request, deadline_us)?;
                }
                Reply::Done(result) => return Ok(result),
                Reply::Ready { .. } => return Err(WireError::OutOfTurn.into()),
            }
            left -= 1;
            if left == 0 {
                return Err(WireError::TooMany.into());
            }
        }
    }

    fn next(&mut self, deadline_us: i64) -> Result<Reply, Fault> {
        loop {
            if let Some(reply) = self.replies.poll()? {
                return Ok(reply);
            }
            let read = self.helper.receive(&mut self.read, deadline_us)?;
            if read == 0 {
                return Err(Fault::Io(ErrorKind::UnexpectedEof.into()));
            }
            self.replies.push(self.read.get(..read).unwrap_or_default());
        }
    }

    /// Copies a picture out of the shared memory. What it says of itself is checked; its pixels are only pixels.
    fn picture(
        &self,
        head: PictureHead,
        pool: &BufferPool,
        max_pixels: u32,
    ) -> Result<Decoded, WireError> {
        let is_sane = head.width.is_multiple_of(2)
            && (1..=SIDE_MAX).contains(&head.width)
            && (1..=SIDE_MAX).contains(&head.height)
            && u64::from(head.width) * u64::from(head.height) <= pixels_shown_max(max_pixels)
            && (ASPECT_MIN..=ASPECT_MAX).contains(&head.aspect);
        if !is_sane {
            return Err(WireError::Picture);
        }
        let len = Picture::byte_len(head.width, head.height);
        if len > self.helper.memory().len() {
            return Err(WireError::Picture);
        }
        let mut pixels = pool.take(len);
        if !self.helper.memory().copy_to(&mut pixels) {
            return Err(WireError::Picture);
        }
        Ok(Decoded::Picture(head.with(pixels)))
    }
}

/// A picture of odd width is shown with a column more.
fn pixels_shown_max(max_pixels: u32) -> u64 {
    u64::from(max_pixels) + u64::from(SIDE_MAX)
}

fn memory_len(max_pixels: u32) -> usize {
    usize::try_from(pixels_shown_max(max_pixels) * 2).unwrap_or(usize::MAX)
}

const LIBRARY_PATH: &str = "LD_LIBRARY_PATH";

/// How long a unit may take. The largest keyframes of 4K were seen to take 118 ms; a busy computer may need more, and
/// a line may be without a picture for 2 s.
const ANSWER_MAX_US: i64 = 1_000_000;

/// A program that is not in memory yet is read from a slow disk.
const START_MAX_US: i64 = 5_000_000;

/// After one that could not be started.
const RETRY_US: i64 = 2_000_000;

/// A drained decoder gives 16 pictures; sound comes one block for a unit.
const ANSWERS_MAX: u32 = 64;

const READ_LEN: usize = 64 * 1024;

/// No decoder here gives larger pictures.
const SIDE_MAX: u32 = 16_384;

/// The widest and the narrowest picture that is one.
const ASPECT_MIN: f32 = 1.0 / 200_000.0;
const ASPECT_MAX: f32 = 200_000.0;

#[cfg(test)]
pub(crate) mod tests;

//! The process itself: FFmpeg between a socket and shared memory, and nothing else in it.

use std::{
    io::{self, Read, Write},
    process::ExitCode,
};

use super::{
    ARGUMENT,
    wire::{self, Request, RequestReader, WireError},
};
use crate::{
    decode::{
        DecodeError, DecodedSound,
        ffmpeg::{Ffmpeg, PictureHead, Sink},
    },
    os::{self, HelperSide},
};

/// The whole life of a decoder's process. The program's `main` calls this before it does anything else, and returns
/// what comes back.
pub fn main() -> ExitCode {
    let side = match os::become_helper() {
        Ok(side) => side,
        Err(error) => {
            note(&format!(
                "{ARGUMENT} is what the program starts itself for a line; it is no command ({error})"
            ));
            return ExitCode::from(2);
        }
    };
    match serve(side) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            note(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum ChildError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("the parent sent {0}")]
    Wire(#[from] WireError),
    #[error(transparent)]
    Decode(#[from] DecodeError),
    #[error("the parent did not begin at the beginning")]
    OutOfTurn,
}

fn serve(side: HelperSide) -> Result<(), ChildError> {
    let HelperSide {
        channel,
        mut memory,
    } = side;
    let mut line = ToLine {
        channel,
        requests: RequestReader::default(),
        reply: Vec::new(),
        read: vec![0; READ_LEN],
    };
    let Some(first) = line.next()? else {
        return Ok(());
    };
    let Request::Setup { max_pixels } = first else {
        return Err(ChildError::OutOfTurn);
    };
    let mut ffmpeg = Ffmpeg::new(max_pixels)?;
    let is_confined = os::confine(memory_max(max_pixels))?;
    wire::put_ready(&mut line.reply, is_confined);
    line.flush()?;
    while let Some(request) = line.next()? {
        let mut shelf = Shelf {
            line: &mut line,
            pixels: memory.bytes(),
            is_taken: false,
            broken: None,
        };
        let result = match request {
            Request::Unit(unit) => ffmpeg.decode(&unit, &mut shelf),
            Request::Finish(kind) => {
                ffmpeg.finish(kind, &mut shelf);
                Ok(())
            }
            Request::Setup { .. } | Request::Room => return Err(ChildError::OutOfTurn),
        };
        if let Some(error) = shelf.broken {
            return Err(error);
        }
        wire::put_done(&mut line.reply, &result);
        line.flush()?;
    }
    Ok(())
}

/// The socket to the line that this process decodes for.
struct ToLine<Channel> {
    channel: Channel,
    requests: RequestReader,
    /// Said and not sent yet.
    reply: Vec<u8>,
    read: Vec<u8>,
}

impl<Channel: Read + Write> ToLine<Channel> {
    /// Waits for the next request; `None`: the parent is gone.
    fn next(&mut self) -> Result<Option<Request>, ChildError> {
        loop {
            if let Some(request) = self.requests.poll()? {
                return Ok(Some(request));
            }
            match self.channel.read(&mut self.read) {
                Ok(0) => return Ok(None),
                Ok(read) => self
                    .requests
                    .push(self.read.get(..read).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Returns when the parent has taken the picture that lies on the shelf.
    fn make_room(&mut self) -> Result<(), ChildError> {
        wire::put_need_room(&mut self.reply);
        self.flush()?;
        match self.next()? {
            Some(Request::Room) => Ok(()),
            _ => Err(ChildError::OutOfTurn),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.channel.write_all(&self.reply)?;
        self.reply.clear();
        Ok(())
    }
}

/// What the parent takes pictures from: there is place for one.
struct Shelf<'a, Channel> {
    line: &'a mut ToLine<Channel>,
    pixels: &'a mut [u8],
    is_taken: bool,
    broken: Option<ChildError>,
}

impl<Channel: Read + Write> Sink for Shelf<'_, Channel> {
    fn pixels(&mut self, len: usize) -> Result<&mut [u8], DecodeError> {
        if self.is_taken {
            if let Err(error) = self.line.make_room() {
                self.broken = Some(error);
                return Err(DecodeError::Memory);
            }
            self.is_taken = false;
        }
        // Larger than `max_pixels`: FFmpeg does not get that far.
        self.pixels.get_mut(..len).ok_or(DecodeError::Memory)
    }

    fn picture(&mut self, head: PictureHead) {
        self.is_taken = true;
        wire::put_picture(&mut self.line.reply, &head);
    }

    fn sound(&mut self, sound: DecodedSound) {
        wire::put_sound(&mut self.line.reply, &sound);
    }
}

/// What a decoder may take: two dozen pictures of six bytes a pixel (4:4:4, 16 bits), and as much as its threads and
/// the allocator set aside.
fn memory_max(max_pixels: u32) -> u64 {
    u64::from(max_pixels) * 6 * 24 + (1 << 30)
}

#[expect(clippy::print_stderr, reason = "the parent keeps it for its log")]
fn note(text: &str) {
    eprintln!("{text}");
}

const READ_LEN: usize = 256 * 1024;

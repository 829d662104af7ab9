//! Units off the wire: many streams at once, each read as it comes, none waiting for another.
//!
//! Most units are whole when their stream is first looked at; the others are read by a task each. What they may
//! hold together is bounded: a relay that starts streams and never ends them costs [`PARTIAL_BYTES_MAX`].

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
};

use bytes::{Bytes, BytesMut};
use firstmile_shared::tunnel::{
    close::Reset,
    frame::Spoiled,
    unit::{STREAM_LEN_MAX, Unit, UnitError},
};
use quinn::{ReadError, RecvStream, VarInt};
use tokio::task::JoinSet;

/// Why a stream brought no unit. The session goes on.
#[derive(Debug, thiserror::Error)]
pub(super) enum LostUnit {
    /// The relay gave it up.
    #[error("the relay gave it up")]
    GivenUp,
    /// The connection is gone, or the stream broke.
    #[error(transparent)]
    Read(ReadError),
    /// Not a unit.
    #[error(transparent)]
    Invalid(#[from] UnitError),
    /// Over TCP: too long, or no room.
    #[error(transparent)]
    Spoiled(#[from] Spoiled),
    /// Longer than a unit can be.
    #[error("more than {STREAM_LEN_MAX} bytes")]
    TooLong,
    /// All that unfinished units may hold is held.
    #[error("unfinished units hold {PARTIAL_BYTES_MAX} bytes already")]
    Full,
}

type Answer = Result<Unit, LostUnit>;

/// Reads streams to their end.
#[derive(Default)]
pub(super) struct Receiver {
    unfinished: JoinSet<Answer>,
    budget: Arc<Budget>,
}

impl Receiver {
    /// Takes a stream in. The answer is its unit if it is whole already; else [`Receiver::next`] will have it.
    pub(super) async fn take(&mut self, stream: RecvStream) -> Option<Answer> {
        let mut reading: Pin<Box<dyn Future<Output = Answer> + Send>> =
            Box::pin(read(stream, self.budget.clone()));
        let first_look = poll_fn(|context| Poll::Ready(reading.as_mut().poll(context))).await;
        match first_look {
            Poll::Ready(answer) => Some(answer),
            Poll::Pending => {
                self.unfinished.spawn(reading);
                None
            }
        }
    }

    /// The next unit that was not whole at once; waits for ever when there is none. Cancel-safe.
    pub(super) async fn next(&mut self) -> Answer {
        loop {
            match self.unfinished.join_next().await {
                Some(Ok(answer)) => return answer,
                // A reader that panicked took one unit with it.
                Some(Err(_)) => {}
                None => std::future::pending().await,
            }
        }
    }
}

async fn read(mut stream: RecvStream, budget: Arc<Budget>) -> Answer {
    let answer = collect(&mut stream, budget).await;
    if answer.is_err() {
        // Fails only if the stream is over.
        let _ = stream.stop(VarInt::from_u32(Reset::Late as u32));
    }
    Ok(Unit::decode(answer?)?)
}

/// All bytes of a stream in one piece: chunks are slices of large receive buffers, which must not be kept alive
/// for the length of the jitter buffer.
async fn collect(stream: &mut RecvStream, budget: Arc<Budget>) -> Result<Bytes, LostUnit> {
    let mut share = Share { budget, bytes: 0 };
    let mut bytes = BytesMut::new();
    loop {
        let chunk = stream
            .read_chunk(CHUNK_LEN, true)
            .await
            .map_err(|error| match error {
                ReadError::Reset(_) => LostUnit::GivenUp,
                other => LostUnit::Read(other),
            })?;
        let Some(chunk) = chunk else {
            return Ok(bytes.freeze());
        };
        if bytes.len() + chunk.bytes.len() > STREAM_LEN_MAX {
            return Err(LostUnit::TooLong);
        }
        share.grow(chunk.bytes.len())?;
        bytes.extend_from_slice(&chunk.bytes);
    }
}

/// What all unfinished units hold.
#[derive(Debug, Default)]
struct Budget(AtomicUsize);

/// One unit's part of it.
struct Share {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Share {
    fn grow(&mut self, bytes: usize) -> Result<(), LostUnit> {
        let before = self.budget.0.fetch_add(bytes, Ordering::Relaxed);
        self.bytes += bytes;
        if before + bytes > PARTIAL_BYTES_MAX {
            return Err(LostUnit::Full);
        }
        Ok(())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.0.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Eight of the largest units, or seconds of many lines.
const PARTIAL_BYTES_MAX: usize = 64 * 1024 * 1024;

const CHUNK_LEN: usize = 256 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_unfinished_units_hold_is_bounded_and_given_back() {
        let budget = Arc::new(Budget::default());
        let share = || Share {
            budget: budget.clone(),
            bytes: 0,
        };
        let (mut first, mut second) = (share(), share());
        first.grow(PARTIAL_BYTES_MAX - 10).unwrap();
        second.grow(10).unwrap();
        assert!(matches!(second.grow(1), Err(LostUnit::Full)));
        drop(first);
        second.grow(1).unwrap();
        drop(second);
        assert_eq!(budget.0.load(Ordering::Relaxed), 0);
    }
}

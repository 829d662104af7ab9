//! One thread for each NDI source that waits for what its receivers say.
//!
//! The library's own wait returns the moment a tally changes (0.2 to 4 ms, measured) and delays no send meanwhile;
//! asking again and again instead would cost 30 µs each time and find the change later. Whoever paces pictures reads
//! two numbers here and never waits.
#![expect(unsafe_code, reason = "calls the NDI library")]

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
        mpsc::{self, Receiver},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use super::{
    sender::Handle,
    sys::{self, Api},
};
use crate::{output::Receivers, playout::Tally};

/// The thread, and what it saw last.
#[derive(Debug)]
pub(super) struct Watcher {
    seen: Arc<Seen>,
    ended: Receiver<()>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Seen {
    stop: AtomicBool,
    connections: AtomicU32,
    tally: AtomicU32,
}

impl Watcher {
    /// Watches the source until [`Self::end`]; it must not be destroyed before.
    pub(super) fn start(api: &Arc<Api>, handle: Handle) -> io::Result<Self> {
        let seen = Arc::new(Seen::default());
        let (ends, ended) = mpsc::sync_channel(1);
        let thread = thread::Builder::new().name("ndi-tally".to_owned()).spawn({
            let (api, seen) = (api.clone(), seen.clone());
            move || {
                while !seen.stop.load(Ordering::Relaxed) {
                    seen.look(&api, handle);
                }
                let _ = ends.send(());
            }
        })?;
        Ok(Self {
            seen,
            ended,
            thread: Some(thread),
        })
    }

    /// What receivers do now.
    ///
    /// The library does not tell one that has the source off from one that sends no tally: both are off.
    pub(super) fn receivers(&self) -> Receivers {
        Receivers {
            connections: self.seen.connections.load(Ordering::Relaxed),
            tally: match self.seen.tally.load(Ordering::Relaxed) {
                PROGRAM => Tally::Program,
                PREVIEW => Tally::Preview,
                _ => Tally::Off,
            },
        }
    }

    /// Ends the thread. `false`: it does not come back from the library, so the source must be left alone.
    pub(super) fn end(&mut self) -> bool {
        self.seen.stop.store(true, Ordering::Relaxed);
        let Some(thread) = self.thread.take() else {
            return true;
        };
        let is_back = self.ended.recv_timeout(END_LIMIT).is_ok();
        if is_back {
            let _ = thread.join();
        }
        is_back
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.end();
    }
}

impl Seen {
    /// Waits for a change of the tally, not for long: connections have no wait of their own that fits.
    fn look(&self, api: &Api, Handle(instance): Handle) {
        let mut flags = sys::TallyFlags::default();
        // SAFETY: the instance is alive until this thread has ended; both calls are allowed beside a sending thread.
        let connections = unsafe {
            (api.get_tally)(instance, &raw mut flags, LOOK_MS);
            (api.get_no_connections)(instance, 0)
        };
        let tally = match flags {
            sys::TallyFlags {
                on_program: true, ..
            } => PROGRAM,
            sys::TallyFlags {
                on_preview: true, ..
            } => PREVIEW,
            sys::TallyFlags { .. } => OFF,
        };
        self.tally.store(tally, Ordering::Relaxed);
        self.connections
            .store(u32::try_from(connections).unwrap_or(0), Ordering::Relaxed);
    }
}

const OFF: u32 = 0;
const PREVIEW: u32 = 1;
const PROGRAM: u32 = 2;

/// The longest wait for a change: how old the number of connections may be, and how long a source's end may take.
const LOOK_MS: u32 = 100;

/// Ten times what a wait takes.
const END_LIMIT: Duration = Duration::from_secs(1);

//! One thread per process that asks every NDI source for its receivers and its tally.
//!
//! The calls take a lock inside the library that a sending thread may hold for milliseconds: nothing that paces
//! pictures may wait for it.

use std::{
    io,
    sync::{Arc, Condvar, Mutex, PoisonError, Weak},
    thread::{self, JoinHandle},
    time::Duration,
};

use super::sender::Watched;

/// The thread; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Poller {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    sources: Vec<Weak<Watched>>,
    stop: bool,
}

impl Poller {
    pub(super) fn start() -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let thread = thread::Builder::new().name("ndi-poll".to_owned()).spawn({
            let shared = shared.clone();
            move || run(&shared)
        })?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Polls this source too, until it is gone.
    pub(super) fn add(&self, source: Weak<Watched>) {
        self.shared.lock().sources.push(source);
    }
}

impl Drop for Poller {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn run(shared: &Shared) {
    loop {
        let sources = {
            let mut state = shared.lock();
            if state.stop {
                return;
            }
            state.sources.retain(|source| source.strong_count() > 0);
            state.sources.clone()
        };
        for source in sources.iter().filter_map(Weak::upgrade) {
            source.poll();
        }
        let state = shared.lock();
        let _ = shared
            .changed
            .wait_timeout_while(state, INTERVAL, |state| !state.stop)
            .unwrap_or_else(PoisonError::into_inner);
    }
}

/// A tally light that follows within a quarter of a second looks immediate.
const INTERVAL: Duration = Duration::from_millis(200);

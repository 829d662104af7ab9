//! A receiver of one NDI source on a thread of its own, watched while it runs.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::bail;

use crate::{
    ndi::{Captured, Receiver, Runtime, Source},
    source::wall_us,
    stamp::Stamp,
    watch::{Report, Watch},
};

/// Receives until dropped.
#[derive(Debug)]
pub struct Viewer {
    source: Source,
    watch: Arc<Mutex<Watch>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Viewer {
    /// Finds a source by a part of its name and connects to it.
    ///
    /// # Errors
    /// When there is no runtime or no such source before `deadline`.
    pub fn find(name: &str, deadline: Instant) -> anyhow::Result<Self> {
        let runtime = Runtime::load()?;
        let source = runtime.find(name, deadline)?;
        Self::connect(&runtime, source)
    }

    /// Connects to a known source.
    ///
    /// # Errors
    /// When the runtime refuses.
    pub fn connect(runtime: &Runtime, source: Source) -> anyhow::Result<Self> {
        let receiver = runtime.receive(&source)?;
        let watch = Arc::new(Mutex::new(Watch::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let thread = {
            let (watch, stop) = (Arc::clone(&watch), Arc::clone(&stop));
            thread::Builder::new()
                .name("viewer".into())
                .spawn(move || receive(receiver, &watch, &stop))?
        };
        Ok(Self {
            source,
            watch,
            stop,
            thread: Some(thread),
        })
    }

    /// What it is connected to.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// What was seen and heard so far.
    pub fn report(&self) -> Report {
        self.watch
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .report()
    }

    /// Waits until the account satisfies `condition`.
    ///
    /// # Errors
    /// When it does not before `deadline`: names `what` and gives the account.
    pub fn wait_for(
        &self,
        what: &str,
        deadline: Instant,
        condition: impl Fn(&Report) -> bool,
    ) -> anyhow::Result<Report> {
        loop {
            let report = self.report();
            if condition(&report) {
                return Ok(report);
            }
            if Instant::now() > deadline {
                bail!(
                    "still waiting for {what}: {}",
                    serde_json::to_string(&report)?
                );
            }
            thread::sleep(POLL);
        }
    }
}

impl Drop for Viewer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

fn receive(mut receiver: Receiver, watch: &Mutex<Watch>, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        receiver.capture(POLL, |captured| {
            let arrived_us = wall_us();
            let mut watch = watch.lock().unwrap_or_else(PoisonError::into_inner);
            match captured {
                Captured::Video(video) => {
                    let format = format!(
                        "{}x{} {} {}/{}",
                        video.luma.width,
                        video.luma.height,
                        String::from_utf8_lossy(&video.format),
                        video.rate.0,
                        video.rate.1,
                    );
                    let timecode_us = video.timecode / 10;
                    watch.picture(arrived_us, Stamp::read(video.luma), timecode_us, &format);
                }
                Captured::Audio(audio) => {
                    let format = format!("{} Hz {} channels", audio.sample_rate, audio.channels);
                    watch.sound(
                        arrived_us,
                        audio.samples,
                        audio.sample_rate,
                        audio.timecode / 10,
                        &format,
                    );
                }
                Captured::Lost => watch.connection(false),
                Captured::Nothing => {}
            }
        });
        let connected = receiver.is_connected();
        watch
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .connection(connected);
    }
}

/// How often a wait looks again.
const POLL: Duration = Duration::from_millis(50);

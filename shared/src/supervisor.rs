//! The process's components: started by name, stopped together, all joined.
//!
//! A *vital* component that ends by itself stops the program with its name in the error. Any other is started
//! again with back-off, so that a fault in a page never touches a picture.

use std::{future::Future, time::Duration};

use ring::rand::{SecureRandom, SystemRandom};
use tokio::{task::JoinSet, time};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{backoff::Backoff, os};

/// The components and the token that stops them.
#[derive(Debug, Default)]
pub struct Supervisor {
    components: JoinSet<(&'static str, anyhow::Result<()>)>,
    shutdown: CancellationToken,
}

impl Supervisor {
    /// A token that is cancelled when the process is to stop.
    pub fn shutdown_token(&self) -> CancellationToken {
        self.shutdown.clone()
    }

    /// Starts a vital component. `name` appears in the log and in the final error.
    pub fn spawn(
        &mut self,
        name: &'static str,
        component: impl Future<Output = anyhow::Result<()>> + Send + 'static,
    ) {
        self.components
            .spawn(async move { (name, component.await) });
    }

    /// Starts a component that is started again when it ends or panics. `status` hears of each fault.
    pub fn spawn_restarting<Start, Component>(
        &mut self,
        name: &'static str,
        start: Start,
        status: impl Fn(Option<String>) + Send + 'static,
    ) where
        Start: Fn() -> Component + Send + 'static,
        Component: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let shutdown = self.shutdown.clone();
        self.spawn(name, async move {
            let mut backoff = Backoff::new(RESTART_MIN, RESTART_MAX);
            while !shutdown.is_cancelled() {
                status(None);
                let mut run = JoinSet::new();
                run.spawn(start());
                let started = time::Instant::now();
                let fault = match run.join_next().await {
                    Some(Ok(Ok(()))) | None if shutdown.is_cancelled() => break,
                    Some(Ok(Ok(()))) | None => "it ended".to_owned(),
                    Some(Ok(Err(error))) => format!("{error:#}"),
                    Some(Err(error)) => format!("it panicked: {error}"),
                };
                if started.elapsed() > RESTART_MAX {
                    backoff.reset();
                }
                let wait = backoff.next_wait(random());
                warn!(component = name, fault, ?wait, "starts again");
                status(Some(fault));
                let _ = shutdown.run_until_cancelled(time::sleep(wait)).await;
            }
            Ok(())
        });
    }

    /// Waits for `signal` or a fault, then stops everything.
    ///
    /// `Ok` only if it was the signal and every component stopped by itself within `grace`. A second stop
    /// signal ends the wait at once.
    pub async fn run(
        mut self,
        signal: impl Future<Output = ()>,
        grace: Duration,
    ) -> anyhow::Result<()> {
        let mut first_fault = tokio::select! {
            () = signal => {
                info!("stopping");
                None
            }
            Some(ended) = self.components.join_next() => Some(early(ended)),
        };
        self.shutdown.cancel();

        let drained = tokio::select! {
            biased;
            () = async {
                while let Some(ended) = self.components.join_next().await {
                    if let Some(fault) = late(ended) {
                        error!(fault = format!("{fault:#}"), "while stopping");
                        first_fault.get_or_insert(fault);
                    }
                }
            } => true,
            _ = os::wait_for_stop_signal() => false,
            () = time::sleep(grace) => false,
        };
        if !drained {
            let left = self.components.len();
            self.components.shutdown().await;
            first_fault.get_or_insert_with(|| {
                anyhow::anyhow!("{left} components did not stop within {grace:?}")
            });
        }
        first_fault.map_or(Ok(()), Err)
    }
}

type Ended = Result<(&'static str, anyhow::Result<()>), tokio::task::JoinError>;

fn early(ended: Ended) -> anyhow::Error {
    match ended {
        Ok((name, Ok(()))) => anyhow::anyhow!("{name} ended by itself"),
        Ok((name, Err(error))) => error.context(name),
        Err(error) => anyhow::anyhow!("a component panicked: {error}"),
    }
}

fn late(ended: Ended) -> Option<anyhow::Error> {
    match ended {
        Ok((_, Ok(()))) => None,
        Ok((name, Err(error))) => Some(error.context(name)),
        Err(error) => Some(anyhow::anyhow!("a component panicked: {error}")),
    }
}

/// For jitter only.
pub fn random() -> u32 {
    let mut bytes = [0; 4];
    let _ = SystemRandom::new().fill(&mut bytes);
    u32::from_ne_bytes(bytes)
}

const RESTART_MIN: Duration = Duration::from_millis(200);
const RESTART_MAX: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    };

    use super::*;

    #[tokio::test]
    async fn a_vital_component_that_fails_stops_the_program_with_its_name() {
        let mut supervisor = Supervisor::default();
        let shutdown = supervisor.shutdown_token();
        supervisor.spawn("ingest", async { Err(anyhow::anyhow!("port taken")) });
        supervisor.spawn("http", async move {
            shutdown.cancelled().await;
            Ok(())
        });
        let error = supervisor
            .run(std::future::pending(), Duration::from_secs(5))
            .await
            .unwrap_err();
        assert_eq!(format!("{error:#}"), "ingest: port taken");
    }

    #[tokio::test(start_paused = true)]
    async fn a_component_that_does_not_stop_is_cut_off_after_the_grace() {
        let mut supervisor = Supervisor::default();
        supervisor.spawn("deaf", std::future::pending());
        let error = supervisor
            .run(async {}, Duration::from_secs(5))
            .await
            .unwrap_err();
        assert_eq!(error.to_string(), "1 components did not stop within 5s");
    }

    #[tokio::test(start_paused = true)]
    async fn a_fault_in_the_page_is_reported_and_the_page_comes_back() {
        let mut supervisor = Supervisor::default();
        let shutdown = supervisor.shutdown_token();
        let starts = Arc::new(AtomicUsize::new(0));
        let faults = Arc::new(Mutex::new(Vec::new()));
        let (start, heard) = (starts.clone(), faults.clone());
        supervisor.spawn_restarting(
            "http",
            move || {
                let (start, shutdown) = (start.clone(), shutdown.clone());
                async move {
                    match start.fetch_add(1, Ordering::SeqCst) {
                        0 => anyhow::bail!("a fault"),
                        1 => panic!("a bug"),
                        _ => shutdown.cancelled().await,
                    }
                    Ok(())
                }
            },
            move |fault| heard.lock().unwrap().extend(fault),
        );
        let third_start = async {
            while starts.load(Ordering::SeqCst) < 3 {
                time::sleep(Duration::from_millis(50)).await;
            }
        };
        supervisor
            .run(third_start, Duration::from_secs(5))
            .await
            .unwrap();
        let faults = faults.lock().unwrap();
        assert_eq!(faults.len(), 2, "{faults:?}");
        assert!(
            faults[0].contains("a fault") && faults[1].contains("panicked"),
            "{faults:?}"
        );
    }
}

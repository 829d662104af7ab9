//! What the relay remembers over a restart: studios, connectors, join tokens, declared lines.
//!
//! [`Store`] is what a store can do; [`sqlite`] is the one there is. A store is synchronous and is owned by one
//! thread ([`StoreThread`]); async code sends it jobs through a [`StoreHandle`], each with an answer and a deadline.
//! The publish path never comes here: it reads the snapshot of [`crate::auth`].
//!
//! Secrets: a stream key is here only as its HMAC under the studio's salt, a token's secret only as its SHA-256.
//! Times are seconds since 1970.

pub mod sqlite;

use std::{
    sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    thread,
    time::{Duration, Instant},
};

use firstmile_shared::{
    secret::KeyHash,
    tls::Spki,
    tunnel::control::{LagPolicy, Takeover},
};
use rusqlite::ErrorCode;
use tokio::sync::oneshot;

/// A durable table of who may do what. Each method is one transaction: whole or not at all, also over a power cut.
pub trait Store: Send {
    /// The names of all studios.
    fn studios(&mut self) -> Result<Vec<String>, StoreError>;

    /// Everything about one studio; `None` when there is no such studio.
    fn studio(&mut self, name: &str) -> Result<Option<StudioContents>, StoreError>;

    /// Keeps a join token; the studio is made with `salt` if it is new. `true` when it was.
    fn add_token(
        &mut self,
        token: &NewToken,
        salt: [u8; 32],
        now_unix: i64,
    ) -> Result<bool, StoreError>;

    /// Redeems a token for a connector's key. The same key may redeem the same token again, with the same answer.
    fn enrol(&mut self, enrolment: &Enrolment, now_unix: i64) -> Result<Redeemed, StoreError>;

    /// Replaces the lines of a connector. `false`: nothing was done, because a newer generation is here or the
    /// connector is not.
    fn declare(
        &mut self,
        connector: Spki,
        generation: u64,
        lines: &[Line],
    ) -> Result<bool, StoreError>;

    /// Shuts a connector out and forgets its lines. `false` when it is not there or was out already.
    fn revoke_connector(&mut self, connector: Spki) -> Result<bool, StoreError>;

    /// Forgets a studio with all that belongs to it. `false` when it is not there.
    fn revoke_studio(&mut self, name: &str) -> Result<bool, StoreError>;
}

/// One studio with its connectors and their lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StudioContents {
    /// Its name.
    pub name: String,
    /// What its key hashes are made with.
    pub salt: [u8; 32],
    /// When it was made.
    pub created_unix: i64,
    /// Those that may connect; revoked ones are not here.
    pub connectors: Vec<ConnectorContents>,
}

/// One connector with its lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectorContents {
    /// Who it is.
    pub spki: Spki,
    /// The name of its machine.
    pub name: String,
    /// When it was enrolled.
    pub enrolled_unix: i64,
    /// Of the last declaration that was taken.
    pub generation: u64,
    /// As declared, by line number.
    pub lines: Vec<Line>,
}

/// A declared line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The connector's number for it.
    pub line: u32,
    /// "Camera 1".
    pub name: String,
    /// What a publisher's key must hash to.
    pub key: KeyHash,
    /// Whether it takes publishers.
    pub enabled: bool,
    /// The studio delay, milliseconds.
    pub delay_ms: u32,
    /// Who wins when a second encoder comes.
    pub takeover: Takeover,
    /// What becomes of an encoder that falls behind.
    pub lag: LagPolicy,
    /// By how much it may, milliseconds.
    pub max_lag_ms: u32,
}

/// A join token as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewToken {
    /// Its public half.
    pub id: String,
    /// Of its secret half.
    pub secret_sha256: [u8; 32],
    /// The studio that it lets in to.
    pub studio: String,
    /// How many connectors may redeem it.
    pub uses: u32,
    /// When it ends.
    pub expires_unix: i64,
    /// The connector that asked for it: it ends with that one. `None`: the relay's operator did.
    pub made_by: Option<Spki>,
}

/// A connector that shows a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Enrolment {
    /// The token's public half.
    pub token: String,
    /// Of the secret that was shown.
    pub secret_sha256: [u8; 32],
    /// The connector's key.
    pub spki: Spki,
    /// The name of its machine.
    pub name: String,
}

/// What became of an enrolment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Redeemed {
    /// The connector belongs to this studio now.
    Studio(String),
    /// No such token, or not its secret.
    Unknown,
    /// All its uses are taken by other connectors, or this connector was revoked after it used it.
    Used,
    /// Its time is over.
    Expired,
    /// The connector belongs to another studio of this relay.
    OtherStudio,
}

/// Why the store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The database said no.
    #[error("the database {0}")]
    Database(String, #[source] rusqlite::Error),
    /// The file was written by a later version of this program.
    #[error(
        "the database is of a later version ({found}, this program knows {known}): install that version again"
    )]
    Later {
        /// The version in the file.
        found: i64,
        /// The version of this program.
        known: i64,
    },
    /// A value in the file can't be what this program wrote.
    #[error("the database holds {0} that is not valid")]
    Corrupt(&'static str),
    /// The answer did not come in time, or too many jobs wait.
    #[error("the database did not answer within {} s", ANSWER_TIMEOUT.as_secs())]
    TooSlow,
    /// The program stops.
    #[error("the database is closed")]
    Closed,
}

impl StoreError {
    /// What failed, why, and what a person can do about it.
    pub fn sentence(&self) -> String {
        let cause =
            std::error::Error::source(self).map_or(String::new(), |cause| format!(": {cause}"));
        let remedy = self
            .remedy()
            .map_or(String::new(), |remedy| format!("; {remedy}"));
        format!("{self}{cause}{remedy}")
    }

    /// What a person can do, as a clause; `None` if the message says it, or nobody knows.
    pub fn remedy(&self) -> Option<&'static str> {
        const DAMAGED: &str = "restore a backup of it, or move it away to start without studios: they join again with new tokens";
        match self {
            Self::Corrupt(_) => Some(DAMAGED),
            Self::Database(_, error) => match error.sqlite_error_code()? {
                ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt => Some(DAMAGED),
                ErrorCode::DiskFull => Some("make room on its disk"),
                ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::CannotOpen => {
                    Some("let the user that this program runs as read and write it and its folder")
                }
                ErrorCode::SystemIoFailure => {
                    Some("make sure that its disk has room and is in order")
                }
                _ => None,
            },
            Self::Later { .. } | Self::TooSlow | Self::Closed => None,
        }
    }
}

/// Sends jobs to the store's thread.
#[derive(Clone, Debug)]
pub struct StoreHandle {
    jobs: SyncSender<Command>,
}

impl StoreHandle {
    /// Runs `job` on the store's thread. A job that has not begun when the deadline passes never begins.
    pub async fn run<R: Send + 'static>(
        &self,
        job: impl FnOnce(&mut dyn Store) -> Result<R, StoreError> + Send + 'static,
    ) -> Result<R, StoreError> {
        let (answer, answered) = oneshot::channel();
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        let job: Job = Box::new(move |store| {
            if Instant::now() < deadline {
                // Nobody waits any more: the answer is not needed.
                let _ = answer.send(job(store));
            }
        });
        match self.jobs.try_send(Command::Run(job)) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => return Err(StoreError::TooSlow),
            Err(TrySendError::Disconnected(_)) => return Err(StoreError::Closed),
        }
        match tokio::time::timeout(ANSWER_TIMEOUT, answered).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(StoreError::Closed),
            Err(_) => Err(StoreError::TooSlow),
        }
    }
}

/// The thread that owns the store.
#[derive(Debug)]
pub struct StoreThread {
    handle: StoreHandle,
    thread: Option<thread::JoinHandle<()>>,
    ended: Option<oneshot::Receiver<()>>,
}

impl StoreThread {
    /// Starts the thread.
    pub fn start(store: impl Store + 'static) -> std::io::Result<Self> {
        let (jobs, queue) = sync_channel(JOBS_MAX);
        let (alive, ended) = oneshot::channel();
        let thread = thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || {
                work(store, &queue);
                drop(alive);
            })?;
        Ok(Self {
            handle: StoreHandle { jobs },
            thread: Some(thread),
            ended: Some(ended),
        })
    }

    /// A way to send it jobs.
    pub fn handle(&self) -> StoreHandle {
        self.handle.clone()
    }

    /// Resolves when the thread ended without having been told to. To be called once; later calls never resolve.
    pub fn ended(&mut self) -> impl Future<Output = ()> + Send + use<> {
        let ended = self.ended.take();
        async move {
            match ended {
                Some(ended) => drop(ended.await),
                None => std::future::pending().await,
            }
        }
    }
}

impl Drop for StoreThread {
    /// Finishes the jobs that wait, closes the store, joins the thread.
    fn drop(&mut self) {
        // A full queue is emptied by the thread: this waits for one job at most. An ended thread needs no word.
        let _ = self.handle.jobs.send(Command::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

type Job = Box<dyn FnOnce(&mut dyn Store) + Send>;

enum Command {
    Run(Job),
    Stop,
}

fn work(mut store: impl Store, queue: &Receiver<Command>) {
    while let Ok(Command::Run(job)) = queue.recv() {
        job(&mut store);
    }
}

/// Longer than a disk that syncs badly, shorter than the 5 s that a connector waits for its enrolment twice over.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(4);

/// Every connector of a full relay may declare at once after a restart.
const JOBS_MAX: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stopped_store_says_so_and_finishes_what_waits() {
        let thread = StoreThread::start(sqlite::Sqlite::in_memory().unwrap()).unwrap();
        let handle = thread.handle();
        let (go, started) = std::sync::mpsc::channel::<()>();
        let slow = handle.run(move |store| {
            let _ = started.recv();
            store.studios()
        });
        let slow = async {
            let (result, ()) = tokio::join!(slow, async { drop(go) });
            result
        };
        assert_eq!(slow.await.unwrap(), Vec::<String>::new());
        drop(thread);
        let error = handle.run(|store| store.studios()).await.unwrap_err();
        assert_eq!(error.to_string(), "the database is closed");
    }

    #[tokio::test]
    async fn a_store_that_ends_by_itself_is_noticed() {
        let mut thread = StoreThread::start(sqlite::Sqlite::in_memory().unwrap()).unwrap();
        let ended = thread.ended();
        let answer = thread
            .handle()
            .run(|_| -> Result<(), StoreError> { panic!("a defect of the store (wanted here)") })
            .await;
        assert!(matches!(answer, Err(StoreError::Closed)), "{answer:?}");
        ended.await;
    }
}

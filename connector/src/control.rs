//! What can be asked of a connector, from whatever side: the page, the command line over the control socket, or the
//! command line alone when no program runs. One place, so that all sides do the same and say the same.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use firstmile_shared::{
    exit::{ExitCode, Failure},
    os,
    secret::{Secret, StreamKey},
    token::JoinToken,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::{task, time};

mod rivals;

use crate::{
    address,
    events::{Event, Events},
    lines::{Line, Lines, LinesError},
    spare::{self, Spare},
    status::{Notice, Rival, Severity, Status},
    tunnel::{RelaySnapshot, RelayState, Tunnels},
};

/// One request, as it crosses the control socket.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Request {
    /// The [`Status`].
    Status {},
    /// Redeems a join token. Answer: [`JoinedStudio`].
    Join {
        /// As pasted.
        token: Secret,
    },
    /// Forgets a relay.
    Leave {
        /// Its address as the status shows it.
        relay: String,
    },
    /// Every line with its key, as `[LineInfo]`.
    Lines {},
    /// Adds a line. Answer: [`LineInfo`].
    AddLine {
        /// Its name.
        name: String,
        /// The studio's own key; `None` generates one.
        key: Option<Secret>,
    },
    /// Sets settings of a line. Answer: [`LineInfo`].
    SetLine {
        /// Its name.
        name: String,
        /// Keys and values, all or none.
        settings: Vec<(String, String)>,
    },
    /// Switches a line on or off. Answer: [`LineInfo`].
    EnableLine {
        /// Its name.
        name: String,
        /// On or off.
        enabled: bool,
    },
    /// Takes a line away. Answer: [`LineInfo`].
    RemoveLine {
        /// Its name.
        name: String,
    },
    /// What a spare machine needs. Answer: [`Spare`]. Only a running program can ask its relays for tokens.
    Export {},
    /// Joins and takes lines over as [`Request::Export`] gave them. Answer: [`Imported`].
    Import {
        /// From the file.
        spare: Spare,
    },
    /// Gives the line to an encoder that waits for it, or lets one that was refused try again. Answer: [`Decided`].
    TakeLine {
        /// The line's name.
        name: String,
        /// Which one, if there are several.
        publisher: Option<u32>,
    },
    /// Sends an encoder away that waits for the line. Answer: [`Decided`].
    RefuseLine {
        /// The line's name.
        name: String,
        /// Which one, if there are several.
        publisher: Option<u32>,
    },
    /// Makes the encoder that has the line start again at live. Answer: [`Resynced`].
    ResyncLine {
        /// The line's name.
        name: String,
    },
    /// What happened lately, as `[Event]`.
    Events {},
}

/// One answer, as it crosses the control socket.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// It was done; the result is the request's own.
    Done(Value),
    /// It was not.
    Failed {
        /// The exit code for a command line.
        code: u8,
        /// What failed and what to do.
        message: String,
    },
}

impl Answer {
    /// As a result for `?`.
    pub fn into_result(self) -> Result<Value, Failure> {
        match self {
            Self::Done(value) => Ok(value),
            Self::Failed { code, message } => {
                let code = CODES.into_iter().find(|known| *known as u8 == code);
                Err(Failure::new(code.unwrap_or(ExitCode::Io), message))
            }
        }
    }
}

impl From<Result<Value, Failure>> for Answer {
    fn from(result: Result<Value, Failure>) -> Self {
        match result {
            Ok(value) => Self::Done(value),
            Err(failure) => Self::Failed {
                code: failure.code as u8,
                message: failure.message,
            },
        }
    }
}

/// A line with its secret: for the operator's own screen only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LineInfo {
    /// Its number in this connector.
    pub id: u32,
    /// "Camera 1".
    pub name: String,
    /// The stream key.
    pub key: Secret,
    /// Whole addresses, key included, best first; empty before a relay was joined.
    pub urls: Vec<Secret>,
    /// `rtmp://HOST/STUDIO` for encoders that ask for server and key apart.
    pub server: Option<String>,
    /// Whether it takes a feed.
    pub enabled: bool,
    /// The delay in force, milliseconds.
    pub delay_ms: u32,
    /// Every setting with its value, as `line set` takes them.
    #[serde(default)]
    pub settings: Vec<(String, String)>,
}

/// What joining led to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinedStudio {
    /// The studio.
    pub studio: String,
    /// The relay's address.
    pub relay: String,
}

/// What taking over an export led to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Imported {
    /// The relays.
    pub joined: Vec<JoinedStudio>,
    /// Names of the lines that were not here before.
    pub lines: Vec<String>,
}

/// What the operator decided about an encoder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decided {
    /// The line's name.
    pub line: String,
    /// The encoder.
    pub rival: Rival,
    /// It had been refused, and may try again.
    pub is_readmitted: bool,
}

/// An encoder that is made to start again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resynced {
    /// The line's name.
    pub line: String,
    /// The encoder's own name, as it sent it: escape it wherever it is shown.
    pub encoder: String,
    /// How far behind it was, milliseconds.
    pub encoder_lag_ms: Option<u32>,
}

/// Answers requests. Clones share everything.
#[derive(Clone, Debug)]
pub struct Control {
    lines: Lines,
    tunnels: Tunnels,
    health: Health,
    events: Events,
}

impl Control {
    /// Over these parts.
    pub fn new(lines: Lines, tunnels: Tunnels, health: Health, events: Events) -> Self {
        Self {
            lines,
            tunnels,
            health,
            events,
        }
    }

    /// Does what is asked.
    pub async fn answer(&self, request: Request) -> Answer {
        self.result(request).await.into()
    }

    /// Does what is asked, as a result.
    pub async fn result(&self, request: Request) -> Result<Value, Failure> {
        match request {
            Request::Status {} => json(&self.status()),
            Request::Join { token } => json(&self.join(&token).await?),
            Request::Leave { relay } => {
                let tunnels = self.tunnels.clone();
                on_disk(move || tunnels.leave(&relay).map_err(leave_failure)).await?;
                Ok(Value::Null)
            }
            Request::Lines {} => {
                let set = self.lines.set();
                let infos: Vec<_> = set.lines.iter().map(|line| self.info(line)).collect();
                json(&infos)
            }
            Request::AddLine { name, key } => {
                let key = key.map(|key| StreamKey::parse(key.expose())).transpose();
                let key = key.map_err(LinesError::from)?;
                self.edit(move |lines| lines.add(&name, key)).await
            }
            Request::SetLine { name, settings } => {
                self.edit(move |lines| lines.configure(&name, &settings))
                    .await
            }
            Request::EnableLine { name, enabled } => {
                self.edit(move |lines| lines.enable(&name, enabled)).await
            }
            Request::RemoveLine { name } => self.edit(move |lines| lines.remove(&name)).await,
            Request::Export {} => json(&self.export().await?),
            Request::Import { spare } => json(&self.import(spare).await?),
            Request::TakeLine { name, publisher } => json(&self.take(&name, publisher)?),
            Request::RefuseLine { name, publisher } => json(&self.refuse(&name, publisher)?),
            Request::ResyncLine { name } => json(&self.resync(&name)?),
            Request::Events {} => json(&self.events.list()),
        }
    }

    /// The program at this moment. No key is in it.
    pub fn status(&self) -> Status {
        let relays = self.tunnels.snapshot();
        let lines = (self.lines.snapshots().into_iter())
            .map(|(id, snapshot)| self.line_status(id, snapshot, &relays))
            .collect();
        let notices = self.notices(&relays);
        Status {
            version: env!("CARGO_PKG_VERSION"),
            host: os::host_name(),
            studio: relays.iter().find_map(|relay| relay.studio.clone()),
            relays,
            lines,
            notices,
        }
    }

    /// What happened lately, the oldest first.
    pub fn events(&self) -> Vec<Event> {
        self.events.list()
    }

    /// A line with its key and addresses.
    pub fn info(&self, line: &Line) -> LineInfo {
        let addresses = address::of(&line.key, &self.tunnels.snapshot());
        LineInfo {
            id: line.id,
            name: line.name.clone(),
            key: Secret::new(line.key.expose()),
            urls: addresses.urls,
            server: addresses.server,
            enabled: line.enabled,
            delay_ms: line.delay_ms,
            settings: line.settings.all(),
        }
    }

    /// The line of this number.
    pub fn line(&self, id: u32) -> Option<Line> {
        let set = self.lines.set();
        set.lines.iter().find(|line| line.id == id).cloned()
    }

    /// What keeps the program from doing its work; empty when it is ready.
    pub fn unready(&self) -> Vec<String> {
        (self.lines.snapshots().into_iter())
            .filter(|(id, _)| self.lines.handle(*id).is_none())
            .filter(|(_, line)| line.state != crate::playout::LineState::Off)
            .map(|(_, line)| {
                let reason = line.reason.unwrap_or_default();
                format!("line {:?}: {reason}", line.name)
            })
            .collect()
    }

    async fn join(&self, token: &Secret) -> Result<JoinedStudio, Failure> {
        let token = JoinToken::parse(token.expose())
            .map_err(|error| Failure::new(ExitCode::Usage, error.to_string()))?;
        let joined = self.tunnels.join(&token).await;
        let joined = joined.map_err(|error| Failure::new(error.exit_code(), error.to_string()))?;
        Ok(JoinedStudio {
            studio: joined.studio,
            relay: joined.relay,
        })
    }

    async fn export(&self) -> Result<Spare, Failure> {
        let tokens = self.tunnels.invite_colleague().await;
        let tokens = tokens.map_err(|error| Failure::new(error.exit_code(), error.to_string()))?;
        if tokens.is_empty() {
            return Err(Failure::unavailable(
                "no relay was joined yet: there is no studio to export".to_owned(),
            ));
        }
        Spare::new(&tokens, &self.lines.set())
    }

    /// May be repeated: what is here already stays.
    async fn import(&self, spare: Spare) -> Result<Imported, Failure> {
        let missing = spare::missing(spare.lines()?, &self.lines.set())?;
        let mut joined = Vec::new();
        for token in &spare.tokens {
            joined.push(self.join(token).await?);
        }
        let names = missing.iter().map(|entry| entry.name.clone()).collect();
        let lines = self.lines.clone();
        on_disk(move || lines.add_all(missing).map_err(Failure::from)).await?;
        self.declared().await;
        Ok(Imported {
            joined,
            lines: names,
        })
    }

    async fn edit(
        &self,
        change: impl FnOnce(&Lines) -> Result<Line, LinesError> + Send + 'static,
    ) -> Result<Value, Failure> {
        let lines = self.lines.clone();
        let line = on_disk(move || change(&lines).map_err(Failure::from)).await?;
        self.declared().await;
        json(&self.info(&line))
    }

    /// Waits until the connected relays know the lines as they are: an encoder that is started next must be let in.
    /// A relay takes one declaration a second; one that is slower hears of it later.
    async fn declared(&self) {
        let generation = self.lines.set().generation;
        let is_known = || {
            let relays = self.tunnels.snapshot();
            let mut connected = (relays.iter()).filter(|r| r.state == RelayState::Connected);
            connected.all(|relay| relay.declared >= Some(generation))
        };
        let known = async {
            while !is_known() {
                time::sleep(DECLARED_POLL).await;
            }
        };
        let _ = time::timeout(DECLARED_WAIT, known).await;
    }

    fn notices(&self, relays: &[RelaySnapshot]) -> Vec<Notice> {
        let mut notices = Vec::new();
        if let Some(text) = self.lines.refused_edit() {
            notices.push(Notice {
                severity: Severity::Error,
                text,
                remedy: Some("Mend the file; it is read again as soon as it is saved.".to_owned()),
            });
        }
        for (component, fault) in self.health.faults() {
            notices.push(Notice {
                severity: Severity::Error,
                text: format!("The {component} has a fault: {fault}."),
                remedy: Some(
                    "It is started again by itself. The lines are not touched.".to_owned(),
                ),
            });
        }
        for fault in self.lines.slate_faults() {
            notices.push(Notice {
                severity: Severity::Warning,
                text: format!("{fault}."),
                remedy: Some("The file is tried again every 10 s.".to_owned()),
            });
        }
        if let Some(text) = self.lines.ndi_error() {
            notices.push(Notice {
                severity: Severity::Warning,
                text: "NDI® is not available: feeds are received and decoded, but no source appears on the network."
                    .to_owned(),
                remedy: Some(format!("Why: {text}")),
            });
        }
        for (text, remedy) in relays.iter().filter_map(RelaySnapshot::detour) {
            notices.push(Notice {
                severity: Severity::Warning,
                text,
                remedy: Some(remedy),
            });
        }
        notices
    }
}

/// What is wrong with components that are started again by themselves. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Health {
    faults: Arc<Mutex<BTreeMap<&'static str, String>>>,
}

impl Health {
    /// A component's fault; `None` when it runs.
    pub fn report(&self, component: &'static str, fault: Option<String>) {
        let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        match fault {
            Some(fault) => drop(faults.insert(component, fault)),
            None => drop(faults.remove(component)),
        }
    }

    fn faults(&self) -> BTreeMap<&'static str, String> {
        let faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        faults.clone()
    }
}

/// Disk writes wait; the runtime's own threads must not.
async fn on_disk<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    match task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Failure::new(
            ExitCode::Io,
            format!("it went wrong: {error}"),
        )),
    }
}

fn json<T: Serialize>(value: &T) -> Result<Value, Failure> {
    serde_json::to_value(value).map_err(|error| {
        Failure::new(
            ExitCode::Io,
            format!("the answer can't be written: {error}"),
        )
    })
}

fn leave_failure(error: impl std::fmt::Display) -> Failure {
    Failure::new(ExitCode::Usage, error.to_string())
}

const DECLARED_POLL: Duration = Duration::from_millis(10);
/// The second between two declarations, and a slow way to the relay and back.
const DECLARED_WAIT: Duration = Duration::from_secs(3);

const CODES: [ExitCode; 7] = [
    ExitCode::Ok,
    ExitCode::Failed,
    ExitCode::Usage,
    ExitCode::Unavailable,
    ExitCode::Io,
    ExitCode::Refused,
    ExitCode::Config,
];

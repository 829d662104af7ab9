//! What can be asked of a relay, from whatever side: the command line over the control socket, the command line alone
//! when no program runs, and the API. One place, so that all sides do the same and say the same.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use firstmile_shared::{
    date,
    exit::{ExitCode, Failure},
    secret::Secret,
    tls::Spki,
    token::JoinToken,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{
    address,
    auth::Directory,
    config::{Config, PublicAddress},
    registry::Registry,
    store::StoreError,
};

/// One request, as it crosses the control socket.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Request {
    /// Answer: [`Status`].
    Status {},
    /// Answer: `[`[`StudioStatus`]`]`.
    Studios {},
    /// Answer: `[`[`crate::registry::PublisherStatus`]`]`.
    Publishers {},
    /// Answer: `[`[`crate::registry::ConnectorStatus`]`]`.
    Connectors {},
    /// Makes a join token. Answer: [`Invited`].
    Invite {
        /// The studio, made if it is new.
        studio: String,
        /// How many connectors may use the token.
        uses: u32,
        /// How long it lasts, seconds.
        ttl_s: i64,
        /// Where the relay is, as the operator said it; empty: find out.
        addresses: Vec<String>,
    },
    /// Forgets a studio. Answer: null.
    RevokeStudio {
        /// Its name.
        name: String,
    },
    /// Shuts a connector out. Answer: its studio and name, as [`Revoked`].
    RevokeConnector {
        /// The first digits of its identity.
        id: String,
    },
    /// Takes no new publishers, and asks those that understand it to connect elsewhere. Answer: [`Status`].
    Drain {
        /// After which time those that are still here are closed, seconds; `None`: never.
        #[serde(default)]
        close_after_s: Option<u64>,
    },
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
        /// What standard error gets.
        message: String,
    },
}

/// `status --json` (stable fields).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// "0.1.0".
    pub version: String,
    /// Whether new publishers are taken.
    pub state: State,
    /// What is really listened on.
    pub listen: Bound,
    /// How many encoders publish or are held.
    pub publishers: usize,
    /// How many connectors are connected.
    pub connectors: usize,
}

/// Whether new publishers are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// They are.
    Ready,
    /// They are not; those that are live stay.
    Draining,
}

/// What is really listened on; null for what is off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bound {
    /// Encoders.
    pub rtmp: Option<SocketAddr>,
    /// Encoders with TLS.
    pub rtmps: Option<SocketAddr>,
    /// Connectors.
    pub tunnel: Option<SocketAddr>,
    /// Connectors, over TCP beside HTTPS.
    pub https: Option<SocketAddr>,
    /// The API and the metrics.
    pub http: Option<SocketAddr>,
}

/// `studios --json` (stable fields).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StudioStatus {
    /// Its name.
    pub name: String,
    /// Connectors that may connect.
    pub connectors: usize,
    /// Lines that they declared.
    pub lines: usize,
    /// When it was made, RFC 3339.
    pub created: String,
}

/// `invite --json` (stable fields).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Invited {
    /// The join token.
    pub token: Secret,
    /// The studio.
    pub studio: String,
    /// Where the token says that the relay is.
    pub addresses: Vec<String>,
    /// When it ends, RFC 3339.
    pub expires: String,
}

/// A connector that was shut out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Revoked {
    /// The first 12 hex digits of its identity.
    pub id: String,
    /// The studio it belonged to.
    pub studio: String,
    /// The name of its machine.
    pub name: String,
}

/// A relay, running or not, that can be asked. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Control {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    config: Config,
    directory: Directory,
    registry: Registry,
    identity: Spki,
    /// `None`: no program runs, this is the command line alone.
    bound: Option<Bound>,
}

impl Control {
    /// `bound` is `None` where no program runs.
    pub fn new(
        config: Config,
        directory: Directory,
        registry: Registry,
        identity: Spki,
        bound: Option<Bound>,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                config,
                directory,
                registry,
                identity,
                bound,
            }),
        }
    }

    /// Does what is asked; never fails itself.
    pub async fn handle(&self, request: Request) -> Answer {
        match self.try_handle(request).await {
            Ok(value) => Answer::Done(value),
            Err(failure) => Answer::Failed {
                code: failure.code as u8,
                message: failure.message,
            },
        }
    }

    /// The running program at this moment; `None` where none runs.
    pub fn status(&self) -> Option<Status> {
        let registry = &self.shared.registry;
        Some(Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            state: if registry.is_draining() {
                State::Draining
            } else {
                State::Ready
            },
            listen: self.shared.bound?,
            publishers: registry.publishers_len(),
            connectors: registry.connectors_len(),
        })
    }

    /// All studios, by name.
    pub fn studios(&self) -> Vec<StudioStatus> {
        let snapshot = self.shared.directory.snapshot();
        let studios = snapshot.studios().map(|studio| StudioStatus {
            name: studio.name.clone(),
            connectors: studio.connectors_len(),
            lines: studio.lines_len(),
            created: date::rfc3339(studio.created_unix),
        });
        studios.collect()
    }

    /// Who is live.
    pub fn registry(&self) -> &Registry {
        &self.shared.registry
    }

    async fn try_handle(&self, request: Request) -> Result<Value, Failure> {
        let shared = &self.shared;
        match request {
            Request::Status {} => value(&self.running_status()?),
            Request::Studios {} => value(&self.studios()),
            Request::Publishers {} => value(&shared.registry.publishers()),
            Request::Connectors {} => value(&shared.registry.connectors()),
            Request::Invite {
                studio,
                uses,
                ttl_s,
                addresses,
            } => value(&self.invite(&studio, uses, ttl_s, &addresses).await?),
            Request::RevokeStudio { name } => {
                let was_there = shared.directory.revoke_studio(&name).await;
                if !was_there.map_err(|error| unavailable(&error))? {
                    return Err(Failure::new(
                        ExitCode::Usage,
                        format!(
                            "no studio is called \"{name}\"; `firstmile-relay studios` lists them"
                        ),
                    ));
                }
                Ok(Value::Null)
            }
            Request::RevokeConnector { id } => value(&self.revoke_connector(&id).await?),
            Request::Drain { close_after_s } => {
                self.running_status()?;
                shared
                    .registry
                    .drain(close_after_s.map(Duration::from_secs));
                value(&self.running_status()?)
            }
        }
    }

    fn running_status(&self) -> Result<Status, Failure> {
        self.status()
            .ok_or_else(|| Failure::unavailable("firstmile-relay does not run"))
    }

    async fn invite(
        &self,
        studio: &str,
        uses: u32,
        ttl_s: i64,
        named: &[String],
    ) -> Result<Invited, Failure> {
        check_studio_name(studio)?;
        let named = named
            .iter()
            .map(|text| {
                text.parse::<PublicAddress>().map_err(|error| {
                    Failure::new(ExitCode::Usage, format!("--address {text:?}: {error}"))
                })
            })
            .collect::<Result<Vec<_>, _>>()?;
        let shared = &self.shared;
        let addresses = address::for_token(&named, &shared.config.tunnel, self.port()).await?;
        let invitation = shared
            .directory
            .invite(studio, uses, ttl_s)
            .await
            .map_err(|error| unavailable(&error))?;
        let token = JoinToken {
            addresses: addresses.clone(),
            pins: vec![shared.identity],
            studio: studio.to_owned(),
            id: invitation.id,
            secret: invitation.secret,
            expires_unix: u64::try_from(invitation.expires_unix).unwrap_or(0),
            https_port: self.https_port(),
        };
        Ok(Invited {
            token: Secret::new(token.encode()),
            studio: studio.to_owned(),
            addresses,
            expires: date::rfc3339(invitation.expires_unix),
        })
    }

    /// The tunnel's port, as bound, or as it will be.
    fn port(&self) -> Option<u16> {
        use firstmile_shared::config::Listen;
        match (&self.shared.bound, &self.shared.config.tunnel.listen) {
            (Some(bound), _) => bound.tunnel.map(|address| address.port()),
            (None, Listen::At { port, .. }) if *port != 0 => Some(*port),
            (None, _) => None,
        }
    }

    /// Likewise, where the tunnel is taken beside HTTPS.
    fn https_port(&self) -> Option<u16> {
        match &self.shared.bound {
            Some(bound) => bound.https.map(|address| address.port()),
            None => (self.shared.config.https.listen.port()).filter(|port| *port != 0),
        }
    }

    async fn revoke_connector(&self, id: &str) -> Result<Revoked, Failure> {
        let snapshot = self.shared.directory.snapshot();
        let id = id.trim().to_ascii_lowercase();
        let mut found = snapshot
            .connectors()
            .filter(|connector| id.len() >= ID_LEN_MIN && connector.spki.to_hex().starts_with(&id));
        let (Some(connector), None) = (found.next(), found.next()) else {
            return Err(Failure::new(
                ExitCode::Usage,
                format!(
                    "no connector, or more than one, has the ID \"{id}\"; `firstmile-relay connectors` lists them"
                ),
            ));
        };
        self.shared
            .directory
            .revoke_connector(connector.spki)
            .await
            .map_err(|error| unavailable(&error))?;
        Ok(Revoked {
            id: connector.spki.to_string(),
            studio: connector.studio.clone(),
            name: connector.name.clone(),
        })
    }
}

impl Answer {
    /// The result as its type, or the failure.
    pub fn into_result<T: DeserializeOwned>(self) -> Result<T, Failure> {
        match self {
            Self::Done(value) => serde_json::from_value(value).map_err(|error| {
                Failure::new(
                    ExitCode::Io,
                    format!("the running program is of another version: {error}"),
                )
            }),
            Self::Failed { code, message } => {
                let code = [ExitCode::Usage, ExitCode::Unavailable, ExitCode::Config]
                    .into_iter()
                    .find(|known| *known as u8 == code)
                    .unwrap_or(ExitCode::Io);
                Err(Failure::new(code, message))
            }
        }
    }
}

/// `[a-z0-9][a-z0-9-]{0,31}`: it is in every encoder's URL.
pub fn check_studio_name(name: &str) -> Result<(), Failure> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if (1..=32).contains(&name.len()) && name.chars().all(allowed) && !name.starts_with('-') {
        return Ok(());
    }
    Err(Failure::new(
        ExitCode::Usage,
        format!(
            "\"{}\" can't be a studio's name: 1 to 32 of a-z, 0-9 and -, the first no -",
            name.escape_default()
        ),
    ))
}

fn value(answer: &impl Serialize) -> Result<Value, Failure> {
    serde_json::to_value(answer).map_err(|error| Failure::new(ExitCode::Io, error.to_string()))
}

fn unavailable(error: &StoreError) -> Failure {
    Failure::new(ExitCode::Io, error.sentence())
}

/// Fewer digits are a slip of the finger.
const ID_LEN_MIN: usize = 6;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_studios_name_fits_into_an_encoders_url() {
        for (name, is_name) in [
            ("truck1", true),
            ("1", true),
            ("a-b-", true),
            ("", false),
            ("-a", false),
            ("Truck", false),
            ("truck_1", false),
            ("tr\u{fc}ck", false),
            ("a/b", false),
            (&"a".repeat(32), true),
            (&"a".repeat(33), false),
        ] {
            assert_eq!(check_studio_name(name).is_ok(), is_name, "{name:?}");
        }
        let error = check_studio_name("a\u{1b}b").unwrap_err();
        assert!(!error.message.contains('\u{1b}'), "{error:?}");
    }
}

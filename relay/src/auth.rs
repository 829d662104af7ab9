//! Who may do what: studios, connectors, join tokens, stream keys.
//!
//! A [`Directory`] is an immutable [`Snapshot`] in memory over the [`crate::store`]. Reading never waits; so the
//! publish path and the tunnel's handshake go on when the disk does not. A change is written first, on the store's
//! thread, and the snapshot is replaced there too: there is one writer, and what a snapshot shows is on the disk.
//!
//! Not here: the feeds themselves (see [`crate::registry`]).

mod declaration;
mod snapshot;

use std::sync::Arc;

use arc_swap::ArcSwap;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use firstmile_shared::{
    clock,
    secret::{Secret, to_hex},
    tls::Spki,
    tunnel::control::{LineDeclaration, RefusedLine},
};
use ring::{
    digest,
    rand::{SecureRandom, SystemRandom},
};
use tokio::sync::watch;
use tracing::info;

pub(crate) use self::declaration::{printable, printable_up_to};
pub use self::snapshot::{ConnectorRecord, Grant, LineRecord, Snapshot, Studio};
use crate::store::{Enrolment, NewToken, Redeemed, Store, StoreError, StoreHandle};

/// The live table of studios and connectors. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Directory {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    store: StoreHandle,
    snapshot: ArcSwap<Snapshot>,
    changes: watch::Sender<u64>,
}

/// A join token that was made: what [`firstmile_shared::token::JoinToken`] needs from here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invitation {
    /// The token's public half.
    pub id: String,
    /// The token's secret half; only its SHA-256 is kept.
    pub secret: Secret,
    /// When it ends, seconds since 1970.
    pub expires_unix: i64,
    /// The studio is new with this invitation.
    pub is_new_studio: bool,
}

/// Why a connector was not enrolled: a sentence for the studio, with what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EnrolError {
    /// No such token, or not its secret.
    #[error(
        "this relay does not know the join token; it may be another relay's, or its studio was revoked: ask for a new one"
    )]
    Unknown,
    /// Somebody else was faster, or this connector was revoked since.
    #[error("the join token is used up; ask for a new one")]
    Used,
    /// Its time is over.
    #[error("the join token has expired; ask for a new one")]
    Expired,
    /// The connector is another studio's.
    #[error(
        "this connector belongs to another studio of this relay already; leave that one first, or ask the relay's operator to revoke it"
    )]
    OtherStudio,
    /// The relay's trouble, not the studio's.
    #[error("the relay can't store the enrolment now; try again in a minute")]
    Unavailable(#[source] StoreError),
}

impl Directory {
    /// Reads everything from the store.
    pub async fn open(store: StoreHandle) -> Result<Self, StoreError> {
        let snapshot = store
            .run(|store| {
                let mut snapshot = Snapshot::default();
                for name in store.studios()? {
                    if let Some(contents) = store.studio(&name)? {
                        snapshot.set(&name, Some(Studio::new(contents)));
                    }
                }
                Ok(snapshot)
            })
            .await?;
        Ok(Self {
            shared: Arc::new(Shared {
                store,
                snapshot: ArcSwap::from_pointee(snapshot),
                changes: watch::Sender::new(0),
            }),
        })
    }

    /// The table at this moment.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.shared.snapshot.load_full()
    }

    /// The connector with this key; `None` when it was never enrolled here, or was revoked.
    pub fn connector(&self, spki: &Spki) -> Option<ConnectorRecord> {
        self.snapshot().connector(spki).cloned()
    }

    /// What the studio's key hashes are made with.
    pub fn salt(&self, studio: &str) -> Option<[u8; 32]> {
        self.snapshot().studio(studio).map(|studio| studio.salt)
    }

    /// Changes whenever the table did: sessions then look whether they may go on.
    pub fn revocations(&self) -> watch::Receiver<u64> {
        self.shared.changes.subscribe()
    }

    /// Makes a join token for `uses` connectors, and the studio if it is new.
    pub async fn invite(
        &self,
        studio: &str,
        uses: u32,
        ttl_s: i64,
    ) -> Result<Invitation, StoreError> {
        self.add_token(studio, uses, ttl_s, None).await
    }

    /// Makes a join token for one more connector of the studio of `connector`. It ends with that one.
    pub async fn invite_colleague(
        &self,
        connector: &ConnectorRecord,
    ) -> Result<Invitation, StoreError> {
        self.add_token(&connector.studio, 1, COLLEAGUE_TTL_S, Some(connector.spki))
            .await
    }

    async fn add_token(
        &self,
        studio: &str,
        uses: u32,
        ttl_s: i64,
        made_by: Option<Spki>,
    ) -> Result<Invitation, StoreError> {
        let now_unix = clock::unix_now();
        let secret = Secret::new(URL_SAFE_NO_PAD.encode(random::<32>()));
        let token = NewToken {
            id: to_hex(&random::<8>()),
            secret_sha256: sha256(secret.expose()),
            studio: studio.to_owned(),
            uses,
            expires_unix: now_unix.saturating_add(ttl_s),
            made_by,
        };
        let (id, expires_unix) = (token.id.clone(), token.expires_unix);
        let name = studio.to_owned();
        let is_new_studio = self
            .change(name, move |store| {
                let is_new = store.add_token(&token, random(), now_unix)?;
                Ok((is_new, is_new))
            })
            .await?;
        Ok(Invitation {
            id,
            secret,
            expires_unix,
            is_new_studio,
        })
    }

    /// Redeems a join token for a connector's key; the answer is the studio. The same key may ask again.
    pub async fn enrol(
        &self,
        token_id: &str,
        secret: &Secret,
        spki: Spki,
        name: &str,
    ) -> Result<String, EnrolError> {
        let enrolment = Enrolment {
            token: token_id.to_owned(),
            secret_sha256: sha256(secret.expose()),
            spki,
            name: printable(name),
        };
        let shared = self.shared.clone();
        let redeemed = self
            .shared
            .store
            .run(move |store| {
                let redeemed = store.enrol(&enrolment, clock::unix_now())?;
                if let Redeemed::Studio(studio) = &redeemed {
                    shared.reload(store, studio)?;
                }
                Ok(redeemed)
            })
            .await
            .map_err(EnrolError::Unavailable)?;
        match redeemed {
            Redeemed::Studio(studio) => {
                info!(studio, connector = %spki, "connector enrolled");
                Ok(studio)
            }
            Redeemed::Unknown => Err(EnrolError::Unknown),
            Redeemed::Used => Err(EnrolError::Used),
            Redeemed::Expired => Err(EnrolError::Expired),
            Redeemed::OtherStudio => Err(EnrolError::OtherStudio),
        }
    }

    /// Replaces a connector's lines by this snapshot, over a restart too. The answer names the lines that were
    /// not taken; the others were. A generation older than the last one changes nothing.
    pub async fn declare(
        &self,
        spki: Spki,
        generation: u64,
        lines: Vec<LineDeclaration>,
    ) -> Result<Vec<RefusedLine>, StoreError> {
        let (lines, refused) = declaration::check(lines);
        let snapshot = self.snapshot();
        let Some(connector) = snapshot.connector(&spki) else {
            return Ok(refused);
        };
        // A connector that comes back declares what is here already: no need to wake the disk.
        let studio = connector.studio.clone();
        if snapshot.is_declared(&studio, &spki, generation, &lines) {
            return Ok(refused);
        }
        self.change(studio, move |store| {
            let is_taken = store.declare(spki, generation, &lines)?;
            Ok((is_taken, ()))
        })
        .await?;
        Ok(refused)
    }

    /// Shuts a connector out. `false` when it is not there.
    pub async fn revoke_connector(&self, spki: Spki) -> Result<bool, StoreError> {
        let Some(connector) = self.connector(&spki) else {
            return Ok(false);
        };
        self.change(connector.studio, move |store| {
            let was_there = store.revoke_connector(spki)?;
            Ok((was_there, was_there))
        })
        .await
    }

    /// Forgets a studio: its connectors, tokens and lines. `false` when it is not there.
    pub async fn revoke_studio(&self, name: &str) -> Result<bool, StoreError> {
        let studio = name.to_owned();
        self.change(studio.clone(), move |store| {
            let was_there = store.revoke_studio(&studio)?;
            Ok((was_there, was_there))
        })
        .await
    }

    /// Runs `job` on the store's thread; when it answers `(true, …)` the snapshot takes the studio in anew.
    async fn change<R: Send + 'static>(
        &self,
        studio: String,
        job: impl FnOnce(&mut dyn Store) -> Result<(bool, R), StoreError> + Send + 'static,
    ) -> Result<R, StoreError> {
        let shared = self.shared.clone();
        self.shared
            .store
            .run(move |store| {
                let (has_changed, answer) = job(store)?;
                if has_changed {
                    shared.reload(store, &studio)?;
                }
                Ok(answer)
            })
            .await
    }
}

impl Shared {
    /// Only ever called on the store's thread: so no change is lost between reading and replacing.
    fn reload(&self, store: &mut dyn Store, studio: &str) -> Result<(), StoreError> {
        let contents = store.studio(studio)?;
        let mut snapshot = Snapshot::clone(&self.snapshot.load());
        snapshot.set(studio, contents.map(Studio::new));
        self.snapshot.store(Arc::new(snapshot));
        self.changes.send_modify(|changes| *changes += 1);
        Ok(())
    }
}

/// Thirty days: a spare machine is prepared ahead of a tour, not on the day that it is needed.
const COLLEAGUE_TTL_S: i64 = 30 * 24 * 3600;

fn sha256(text: &str) -> [u8; 32] {
    let digest = digest::digest(&digest::SHA256, text.as_bytes());
    std::array::from_fn(|n| digest.as_ref()[n])
}

#[expect(
    clippy::expect_used,
    reason = "without random numbers there is no safe way on"
)]
fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    SystemRandom::new()
        .fill(&mut bytes)
        .expect("the operating system has random numbers");
    bytes
}

#[cfg(test)]
pub(crate) mod tests;

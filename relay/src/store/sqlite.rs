//! The store as one SQLite file: WAL, every commit synced to the disk, schema changes by `user_version`.
//!
//! Not here: who may ask for what, and any cache. Inspect the file with `sqlite3`; it holds no key and no secret.

use std::path::Path;

use firstmile_shared::{
    secret::KeyHash,
    tls::Spki,
    tunnel::control::{LagPolicy, Takeover},
};
use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};

use super::{
    ConnectorContents, Enrolment, Line, NewToken, Redeemed, Store, StoreError, StudioContents,
};

/// The store in a file.
#[derive(Debug)]
pub struct Sqlite {
    connection: Connection,
}

impl Sqlite {
    /// Opens or makes the file and brings it to this program's version.
    pub fn open(file: &Path) -> Result<Self, StoreError> {
        let connection = Connection::open(file).map_err(|error| {
            StoreError::Database(format!("{} can't be opened", file.display()), error)
        })?;
        Self::prepare(connection)
    }

    /// A store that is forgotten when it is dropped: for tests.
    pub fn in_memory() -> Result<Self, StoreError> {
        Self::prepare(Connection::open_in_memory().map_err(failed)?)
    }

    fn prepare(mut connection: Connection) -> Result<Self, StoreError> {
        connection
            .execute_batch(
                "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;",
            )
            .map_err(failed)?;
        migrate(&mut connection)?;
        Ok(Self { connection })
    }

    fn transaction(&mut self) -> Result<Transaction<'_>, StoreError> {
        self.connection
            .transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)
            .map_err(failed)
    }
}

impl Store for Sqlite {
    fn studios(&mut self) -> Result<Vec<String>, StoreError> {
        let mut statement = self
            .connection
            .prepare_cached("SELECT name FROM studios ORDER BY name")
            .map_err(failed)?;
        let names = statement.query_map([], |row| row.get(0)).map_err(failed)?;
        names.collect::<Result<_, _>>().map_err(failed)
    }

    fn studio(&mut self, name: &str) -> Result<Option<StudioContents>, StoreError> {
        // One read transaction: connectors and lines of the same moment.
        let transaction = self.connection.transaction().map_err(failed)?;
        let studio: Option<(Vec<u8>, i64)> = transaction
            .query_row(
                "SELECT salt, created FROM studios WHERE name = ?1",
                [name],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )
            .optional()
            .map_err(failed)?;
        let Some((salt, created_unix)) = studio else {
            return Ok(None);
        };
        Ok(Some(StudioContents {
            name: name.to_owned(),
            salt: bytes(salt, "a salt")?,
            created_unix,
            connectors: connectors(&transaction, name)?,
        }))
    }

    fn add_token(
        &mut self,
        token: &NewToken,
        salt: [u8; 32],
        now_unix: i64,
    ) -> Result<bool, StoreError> {
        let transaction = self.transaction()?;
        let is_new = transaction
            .execute(
                "INSERT INTO studios (name, salt, created) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING",
                params![token.studio, salt, now_unix],
            )
            .map_err(failed)?
            == 1;
        transaction
            .execute(
                "DELETE FROM tokens WHERE expires < ?1",
                [now_unix.saturating_sub(EXPIRED_TOKENS_KEPT_S)],
            )
            .map_err(failed)?;
        transaction
            .execute(
                "INSERT INTO tokens (id, secret_sha256, studio, uses, expires, made_by) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                params![
                    token.id,
                    token.secret_sha256,
                    token.studio,
                    token.uses,
                    token.expires_unix,
                    token.made_by.map(|spki| spki.0)
                ],
            )
            .map_err(failed)?;
        transaction.commit().map_err(failed)?;
        Ok(is_new)
    }

    fn enrol(&mut self, enrolment: &Enrolment, now_unix: i64) -> Result<Redeemed, StoreError> {
        let transaction = self.transaction()?;
        let redeemed = redeem(&transaction, enrolment, now_unix)?;
        if matches!(redeemed, Redeemed::Studio(_)) {
            transaction.commit().map_err(failed)?;
        }
        Ok(redeemed)
    }

    fn declare(
        &mut self,
        connector: Spki,
        generation: u64,
        lines: &[Line],
    ) -> Result<bool, StoreError> {
        let transaction = self.transaction()?;
        let stored: Option<i64> = transaction
            .query_row(
                "SELECT generation FROM connectors WHERE spki = ?1 AND NOT revoked",
                [connector.0],
                |row| row.get(0),
            )
            .optional()
            .map_err(failed)?;
        if stored.is_none_or(|stored| stored.cast_unsigned() > generation) {
            return Ok(false);
        }
        transaction
            .execute(
                "UPDATE connectors SET generation = ?2 WHERE spki = ?1",
                params![connector.0, generation.cast_signed()],
            )
            .map_err(failed)?;
        transaction
            .execute("DELETE FROM lines WHERE connector = ?1", [connector.0])
            .map_err(failed)?;
        for line in lines {
            insert_line(&transaction, connector, line)?;
        }
        transaction.commit().map_err(failed)?;
        Ok(true)
    }

    fn revoke_connector(&mut self, connector: Spki) -> Result<bool, StoreError> {
        let transaction = self.transaction()?;
        let changed = transaction
            .execute(
                "UPDATE connectors SET revoked = 1, generation = 0 WHERE spki = ?1 AND NOT revoked",
                [connector.0],
            )
            .map_err(failed)?;
        transaction
            .execute("DELETE FROM lines WHERE connector = ?1", [connector.0])
            .map_err(failed)?;
        // Who shuts a stolen machine out means the tokens on it too.
        transaction
            .execute("DELETE FROM tokens WHERE made_by = ?1", [connector.0])
            .map_err(failed)?;
        transaction.commit().map_err(failed)?;
        Ok(changed == 1)
    }

    fn revoke_studio(&mut self, name: &str) -> Result<bool, StoreError> {
        let changed = self
            .connection
            .execute("DELETE FROM studios WHERE name = ?1", [name])
            .map_err(failed)?;
        Ok(changed == 1)
    }
}

/// Brings the schema to this program's version, in one transaction.
fn migrate(connection: &mut Connection) -> Result<(), StoreError> {
    let known = i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX);
    let found: i64 = connection
        .query_row("PRAGMA user_version", [], |row| row.get(0))
        .map_err(failed)?;
    let done = usize::try_from(found).map_err(|_| StoreError::Corrupt("a version"))?;
    let Some(missing) = MIGRATIONS.get(done..) else {
        return Err(StoreError::Later { found, known });
    };
    if missing.is_empty() {
        return Ok(());
    }
    let transaction = connection.transaction().map_err(failed)?;
    for migration in missing {
        transaction.execute_batch(migration).map_err(failed)?;
    }
    transaction
        .pragma_update(None, "user_version", known)
        .map_err(failed)?;
    transaction.commit().map_err(failed)
}

fn redeem(
    transaction: &Transaction<'_>,
    enrolment: &Enrolment,
    now_unix: i64,
) -> Result<Redeemed, StoreError> {
    let Some(token) = find_token(transaction, &enrolment.token)? else {
        return Ok(Redeemed::Unknown);
    };
    // How long hashes are alike tells nothing about a secret of 256 random bits.
    if token.secret_sha256 != enrolment.secret_sha256 {
        return Ok(Redeemed::Unknown);
    }
    let connector: Option<(String, bool)> = transaction
        .query_row(
            "SELECT studio, revoked FROM connectors WHERE spki = ?1",
            [enrolment.spki.0],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .optional()
        .map_err(failed)?;
    let is_revoked = matches!(connector, Some((_, true)));
    if connector.is_some_and(|(studio, revoked)| !revoked && studio != token.studio) {
        return Ok(Redeemed::OtherStudio);
    }
    let is_repeated = transaction
        .query_row(
            "SELECT 1 FROM redemptions WHERE token = ?1 AND spki = ?2",
            params![enrolment.token, enrolment.spki.0],
            |_| Ok(()),
        )
        .optional()
        .map_err(failed)?
        .is_some();
    if is_repeated {
        // An answer that was lost on the way may be asked for again, but not to get round a revocation.
        return Ok(if is_revoked {
            Redeemed::Used
        } else {
            Redeemed::Studio(token.studio)
        });
    }
    if now_unix >= token.expires_unix {
        return Ok(Redeemed::Expired);
    }
    if token.redeemed >= token.uses {
        return Ok(Redeemed::Used);
    }
    record_redemption(transaction, enrolment, &token.studio, now_unix)?;
    Ok(Redeemed::Studio(token.studio))
}

fn record_redemption(
    transaction: &Transaction<'_>,
    enrolment: &Enrolment,
    studio: &str,
    now_unix: i64,
) -> Result<(), StoreError> {
    transaction
        .execute(
            "INSERT INTO redemptions (token, spki, redeemed) VALUES (?1, ?2, ?3)",
            params![enrolment.token, enrolment.spki.0, now_unix],
        )
        .map_err(failed)?;
    transaction
        .execute(
            "INSERT INTO connectors (spki, studio, name, enrolled) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (spki) DO UPDATE SET studio = ?2, name = ?3, enrolled = ?4, revoked = 0",
            params![enrolment.spki.0, studio, enrolment.name, now_unix],
        )
        .map_err(failed)?;
    Ok(())
}

struct TokenRow {
    secret_sha256: Vec<u8>,
    studio: String,
    uses: u32,
    redeemed: u32,
    expires_unix: i64,
}

fn find_token(transaction: &Transaction<'_>, id: &str) -> Result<Option<TokenRow>, StoreError> {
    transaction
        .query_row(
            "SELECT secret_sha256, studio, uses, expires,
                    (SELECT count(*) FROM redemptions WHERE token = tokens.id)
             FROM tokens WHERE id = ?1",
            [id],
            |row| {
                Ok(TokenRow {
                    secret_sha256: row.get(0)?,
                    studio: row.get(1)?,
                    uses: row.get(2)?,
                    expires_unix: row.get(3)?,
                    redeemed: row.get(4)?,
                })
            },
        )
        .optional()
        .map_err(failed)
}

fn connectors(
    transaction: &Transaction<'_>,
    studio: &str,
) -> Result<Vec<ConnectorContents>, StoreError> {
    let mut statement = transaction
        .prepare_cached(
            "SELECT spki, name, enrolled, generation FROM connectors
             WHERE studio = ?1 AND NOT revoked ORDER BY enrolled, spki",
        )
        .map_err(failed)?;
    let rows = statement
        .query_map([studio], |row| {
            Ok((
                row.get::<_, Vec<u8>>(0)?,
                row.get(1)?,
                row.get(2)?,
                row.get::<_, i64>(3)?,
            ))
        })
        .map_err(failed)?;
    rows.map(|row| {
        let (spki, name, enrolled_unix, generation) = row.map_err(failed)?;
        let spki = Spki(bytes(spki, "a connector's key")?);
        Ok(ConnectorContents {
            spki,
            name,
            enrolled_unix,
            generation: generation.cast_unsigned(),
            lines: lines(transaction, spki)?,
        })
    })
    .collect()
}

fn lines(transaction: &Transaction<'_>, connector: Spki) -> Result<Vec<Line>, StoreError> {
    let mut statement = transaction
        .prepare_cached(
            "SELECT line, name, key_hash, enabled, delay_ms, takeover, lag, max_lag_ms FROM lines
             WHERE connector = ?1 ORDER BY line",
        )
        .map_err(failed)?;
    let mut rows = statement.query([connector.0]).map_err(failed)?;
    let mut lines = Vec::new();
    while let Some(row) = rows.next().map_err(failed)? {
        lines.push(read_line(row)?);
    }
    Ok(lines)
}

fn read_line(row: &Row<'_>) -> Result<Line, StoreError> {
    let key: String = row.get(2).map_err(failed)?;
    let takeover: String = row.get(5).map_err(failed)?;
    let lag: String = row.get(6).map_err(failed)?;
    Ok(Line {
        line: row.get(0).map_err(failed)?,
        name: row.get(1).map_err(failed)?,
        key: KeyHash::from_hex(&key).ok_or(StoreError::Corrupt("a key's hash"))?,
        enabled: row.get(3).map_err(failed)?,
        delay_ms: row.get(4).map_err(failed)?,
        takeover: TAKEOVERS
            .into_iter()
            .find(|(_, text)| *text == takeover)
            .map(|(takeover, _)| takeover)
            .ok_or(StoreError::Corrupt("a takeover policy"))?,
        lag: LAGS
            .into_iter()
            .find(|(_, text)| *text == lag)
            .map(|(lag, _)| lag)
            .ok_or(StoreError::Corrupt("a lag policy"))?,
        max_lag_ms: row.get(7).map_err(failed)?,
    })
}

fn insert_line(
    transaction: &Transaction<'_>,
    connector: Spki,
    line: &Line,
) -> Result<(), StoreError> {
    let takeover = TAKEOVERS
        .into_iter()
        .find(|(takeover, _)| *takeover == line.takeover)
        .map_or("smart", |(_, text)| text);
    let lag = LAGS
        .into_iter()
        .find(|(lag, _)| *lag == line.lag)
        .map_or("reconnect", |(_, text)| text);
    transaction
        .prepare_cached(
            "INSERT INTO lines (connector, line, name, key_hash, enabled, delay_ms, takeover, lag, max_lag_ms)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        )
        .and_then(|mut statement| {
            statement.execute(params![
                connector.0,
                line.line,
                line.name,
                line.key.to_hex(),
                line.enabled,
                line.delay_ms,
                takeover,
                lag,
                line.max_lag_ms
            ])
        })
        .map_err(failed)?;
    Ok(())
}

fn bytes(bytes: Vec<u8>, what: &'static str) -> Result<[u8; 32], StoreError> {
    bytes.try_into().map_err(|_| StoreError::Corrupt(what))
}

fn failed(error: rusqlite::Error) -> StoreError {
    StoreError::Database("failed".to_owned(), error)
}

const TAKEOVERS: [(Takeover, &str); 3] = [
    (Takeover::Smart, "smart"),
    (Takeover::Always, "always"),
    (Takeover::Never, "never"),
];

const LAGS: [(LagPolicy, &str); 2] = [
    (LagPolicy::Reconnect, "reconnect"),
    (LagPolicy::Accept, "accept"),
];

/// Thirty days: an expired token is told from an unknown one while somebody may still hold it.
const EXPIRED_TOKENS_KEPT_S: i64 = 30 * 24 * 3600;

/// Each brings the schema one version up; what was released is never edited.
const MIGRATIONS: &[&str] = &[
    "
CREATE TABLE studios (
    name TEXT PRIMARY KEY,
    salt BLOB NOT NULL,
    created INTEGER NOT NULL
) STRICT;
CREATE TABLE tokens (
    id TEXT PRIMARY KEY,
    secret_sha256 BLOB NOT NULL,
    studio TEXT NOT NULL REFERENCES studios (name) ON DELETE CASCADE,
    uses INTEGER NOT NULL,
    expires INTEGER NOT NULL
) STRICT;
CREATE TABLE redemptions (
    token TEXT NOT NULL REFERENCES tokens (id) ON DELETE CASCADE,
    spki BLOB NOT NULL,
    redeemed INTEGER NOT NULL,
    PRIMARY KEY (token, spki)
) STRICT;
CREATE TABLE connectors (
    spki BLOB PRIMARY KEY,
    studio TEXT NOT NULL REFERENCES studios (name) ON DELETE CASCADE,
    name TEXT NOT NULL,
    enrolled INTEGER NOT NULL,
    revoked INTEGER NOT NULL DEFAULT 0,
    generation INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX connectors_of_studio ON connectors (studio);
CREATE TABLE lines (
    connector BLOB NOT NULL REFERENCES connectors (spki) ON DELETE CASCADE,
    line INTEGER NOT NULL,
    name TEXT NOT NULL,
    key_hash TEXT NOT NULL,
    enabled INTEGER NOT NULL,
    delay_ms INTEGER NOT NULL,
    takeover TEXT NOT NULL,
    PRIMARY KEY (connector, line)
) STRICT;
",
    "
ALTER TABLE tokens ADD COLUMN made_by BLOB;
",
    "
ALTER TABLE lines ADD COLUMN lag TEXT NOT NULL DEFAULT 'reconnect';
ALTER TABLE lines ADD COLUMN max_lag_ms INTEGER NOT NULL DEFAULT 3000;
",
];

#[cfg(test)]
mod tests;

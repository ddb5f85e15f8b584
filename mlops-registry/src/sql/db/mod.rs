//! The one place that knows which database it is. The rest is SQL that SQLite and PostgreSQL read alike, on these types.

#[cfg(feature = "sqlite")]
mod group;
#[cfg(feature = "postgres")]
mod postgres;
mod query;
#[cfg(feature = "sqlite")]
mod sqlite;

#[cfg(feature = "sqlite")]
use std::path::Path;
use std::time::Duration;

use mlops_core::{Error, Result, Timestamp, clock};
use serde::Serialize;
use serde::de::DeserializeOwned;
#[cfg(feature = "postgres")]
use sqlx::postgres::PgConnectOptions;

#[cfg(feature = "sqlite")]
use self::group::Member;
#[cfg(feature = "postgres")]
use self::postgres::Server;
pub(super) use self::query::{Arg, Column, FromRow, On, Row, built, insert_all, query, row, select_in};
#[cfg(feature = "sqlite")]
use self::sqlite::Files;
#[cfg(feature = "sqlite")]
pub(super) use self::sqlite::Place;
use super::Durability;

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("./migrations");

/// The connections to one database.
pub(super) enum Database {
    #[cfg(feature = "sqlite")]
    Sqlite(Files),
    #[cfg(feature = "postgres")]
    Postgres(Server),
}

/// What a writing transaction keeps others from, from its start.
///
/// SQLite has one lock. PostgreSQL takes rows, always in this order: the head of the audit log, then the run.
#[derive(Clone, Copy, Debug)]
pub(super) enum Lock {
    /// Everything that is audited: the head of the audit log.
    All,
    /// What is logged to the run that the key names, where nothing of it is audited.
    Run,
    /// What is logged to the run that the key names, and everything that is audited.
    AuditedRun,
    /// What is told to the webhook that the key names.
    #[cfg(feature = "webhooks")]
    Webhook,
}

/// What to connect to, and as whom. Nothing is tried yet.
#[cfg(feature = "postgres")]
pub(super) fn postgres_options(url: &str) -> Result<PgConnectOptions> {
    postgres::options(url).map_err(|reason| Error::invalid("PostgreSQL URL", reason))
}

#[cfg(feature = "postgres")]
pub(super) use self::postgres::label as postgres_label;

/// A transaction; dropping it takes everything back.
pub(super) enum Conn {
    /// One that only reads.
    #[cfg(feature = "sqlite")]
    Sqlite(sqlx::Transaction<'static, sqlx::Sqlite>),
    #[cfg(feature = "sqlite")]
    SqliteWriting(Member),
    #[cfg(feature = "postgres")]
    Postgres(sqlx::Transaction<'static, sqlx::Postgres>),
}

impl Conn {
    fn on(&mut self) -> On<'_> {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite(tx) => On::Sqlite(tx),
            #[cfg(feature = "sqlite")]
            Self::SqliteWriting(member) => On::Sqlite(member.conn()),
            #[cfg(feature = "postgres")]
            Self::Postgres(tx) => On::Postgres(tx),
        }
    }

    pub(super) fn is_sqlite(&self) -> bool {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite(_) | Self::SqliteWriting(_) => true,
            #[cfg(feature = "postgres")]
            Self::Postgres(_) => false,
        }
    }

    /// Keeps what was written or takes it back; returns once all that it saw is permanent.
    pub(super) async fn end(self, keep: bool) -> Result<(), Failure> {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite(tx) => if keep { tx.commit().await } else { tx.rollback().await }.map_err(Failure::sqlite),
            #[cfg(feature = "sqlite")]
            Self::SqliteWriting(member) => member.end(keep).await.map_err(|error| Failure::Driver {
                backend: sqlite::NAME,
                retryable: sqlite::is_transient(&error),
                source: Box::new(error),
            }),
            #[cfg(feature = "postgres")]
            Self::Postgres(tx) => if keep { tx.commit().await } else { tx.rollback().await }.map_err(Failure::postgres),
        }
    }
}

impl Database {
    #[cfg(feature = "sqlite")]
    pub(super) async fn open_sqlite(
        place: &Place,
        durability: Durability,
        busy: Duration,
        readers: u32,
    ) -> Result<Self, Failure> {
        let files = Files::open(place, durability, busy, readers).await;
        files.map(Self::Sqlite).map_err(Failure::sqlite)
    }

    #[cfg(feature = "postgres")]
    pub(super) async fn open_postgres(
        options: PgConnectOptions,
        schema: &str,
        durability: Durability,
        busy: Duration,
        connections: u32,
    ) -> Result<Self, Failure> {
        let server = Server::open(options, schema, durability, busy, connections).await;
        server.map(Self::Postgres).map_err(Failure::postgres)
    }

    /// Starts a writing transaction that holds `lock`: what it reads then is what was there last.
    pub(super) async fn begin_write(&self, lock: Lock, key: &str) -> Result<Conn, Failure> {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite(files) => {
                // One lock for all.
                let _ = (lock, key);
                let tx = files.begin_write().await;
                tx.map(Conn::SqliteWriting).map_err(Failure::sqlite)
            }
            #[cfg(feature = "postgres")]
            Self::Postgres(server) => {
                let tx = server.begin_write(lock, key).await;
                tx.map(Conn::Postgres).map_err(Failure::postgres)
            }
        }
    }

    /// Starts a reading transaction: every query in it sees the same state.
    pub(super) async fn begin_read(&self) -> Result<Conn, Failure> {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite(files) => {
                let tx = files.begin_read().await;
                tx.map(Conn::Sqlite).map_err(Failure::sqlite)
            }
            #[cfg(feature = "postgres")]
            Self::Postgres(server) => {
                let tx = server.begin_read().await;
                tx.map(Conn::Postgres).map_err(Failure::postgres)
            }
        }
    }

    /// Copies a SQLite database into a new file.
    #[cfg(feature = "sqlite")]
    pub(super) async fn backup(&self, path: &Path, at: Timestamp) -> Result<()> {
        match self {
            Self::Sqlite(files) => files.backup(path, at).await,
            #[cfg(feature = "postgres")]
            Self::Postgres(_) => {
                let reason = "backs a SQLite file up; for PostgreSQL use pg_dump, pg_basebackup or its archive";
                Err(Error::invalid("backup", reason))
            }
        }
    }

    pub(super) async fn close(&self) {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite(files) => files.close().await,
            #[cfg(feature = "postgres")]
            Self::Postgres(server) => server.close().await,
        }
    }
}

/// What tells a follower that there may be something new, as far as the database does.
pub(super) enum Bell {
    /// Nothing does.
    #[cfg(feature = "sqlite")]
    Sqlite,
    #[cfg(feature = "postgres")]
    Postgres(Box<postgres::Bell>),
}

impl Database {
    pub(super) fn bell(&self) -> Bell {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite(_) => Bell::Sqlite,
            #[cfg(feature = "postgres")]
            Self::Postgres(server) => Bell::Postgres(Box::new(server.bell())),
        }
    }
}

/// Whether what is committed from now on rings.
pub(super) enum Listening {
    #[cfg(feature = "postgres")]
    Yes,
    /// Not now: the connection could not be made.
    #[cfg(feature = "postgres")]
    NotNow,
    /// This database has no bell.
    #[cfg(feature = "sqlite")]
    Never,
}

impl Bell {
    pub(super) async fn listen(&mut self) -> Listening {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite => Listening::Never,
            #[cfg(feature = "postgres")]
            Self::Postgres(bell) => match bell.listen().await {
                Ok(()) => Listening::Yes,
                Err(error) => {
                    tracing::warn!(%error, "cannot listen for events; looking for them instead");
                    Listening::NotNow
                }
            },
        }
    }

    /// Waits until it rings: forever where nothing does.
    pub(super) async fn heard(&mut self) {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite => std::future::pending().await,
            #[cfg(feature = "postgres")]
            Self::Postgres(bell) => bell.heard().await,
        }
    }
}

/// What the driver said, and of which database.
#[derive(Debug)]
pub(super) enum Failure {
    /// A text holds the character that PostgreSQL cannot keep. SQLite could: nobody shall find out by moving.
    Nul,
    Driver {
        backend: &'static str,
        retryable: bool,
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Failure {
    #[cfg(feature = "sqlite")]
    fn sqlite(error: sqlx::Error) -> Self {
        Self::Driver { backend: sqlite::NAME, retryable: sqlite::is_transient(&error), source: Box::new(error) }
    }

    #[cfg(feature = "postgres")]
    fn postgres(error: sqlx::Error) -> Self {
        Self::Driver { backend: postgres::NAME, retryable: postgres::is_transient(&error), source: Box::new(error) }
    }
}

/// What stands behind a migration that failed, or the error itself.
fn cause(error: &sqlx::Error) -> &sqlx::Error {
    use sqlx::migrate::MigrateError::{Execute, ExecuteMigration};
    match error {
        sqlx::Error::Migrate(migration) => match &**migration {
            Execute(error) | ExecuteMigration(error, _) => error,
            _ => error,
        },
        _ => error,
    }
}

/// Names what was being done when the database failed.
pub(super) trait Backend<T> {
    fn during(self, operation: &'static str, key: &str) -> Result<T>;
}

impl<T> Backend<T> for Result<T, Failure> {
    fn during(self, operation: &'static str, key: &str) -> Result<T> {
        self.map_err(|failure| match failure {
            Failure::Nul => {
                let reason = format!("could not {operation} {key:?}: no text may contain the character U+0000");
                Error::invalid("text", reason)
            }
            Failure::Driver { backend, retryable, source } => {
                Error::Backend { backend: backend.to_owned(), operation, key: key.to_owned(), retryable, source }
            }
        })
    }
}

/// Whether the database took the transaction back because it stood in another's way: tried again, it finds its turn.
pub(super) fn lost_its_turn(error: &Error) -> bool {
    let Error::Backend { source, .. } = error else { return false };
    #[cfg(feature = "postgres")]
    if source.downcast_ref().is_some_and(postgres::lost_its_turn) {
        return true;
    }
    let _ = source;
    false
}

/// Wakes those who follow the events, once the transaction is committed. On SQLite they look by themselves.
pub(super) async fn ring(conn: &mut Conn) -> Result<(), Failure> {
    match conn {
        #[cfg(feature = "sqlite")]
        Conn::Sqlite(_) | Conn::SqliteWriting(_) => Ok(()),
        #[cfg(feature = "postgres")]
        Conn::Postgres(_) => query(postgres::RING).execute(conn).await.map(|_| ()),
    }
}

/// Moves the end of a sequence by one and returns its new place; whoever else appends waits.
pub(super) async fn next_place(conn: &mut Conn, sequence: &str) -> Result<i64> {
    query("UPDATE heads SET seq = seq + 1 WHERE name = $1 RETURNING seq")
        .bind(sequence)
        .fetch_one(conn)
        .await
        .during("append to", sequence)
}

pub(super) fn time(micros: i64) -> Timestamp {
    clock::from_micros(micros)
}

pub(super) fn json(value: &impl Serialize) -> Result<String> {
    mlops_core::json::to_canonical(value)
}

/// A row that does not read back as what this crate writes: damage, or a hand at work.
fn unreadable(what: &'static str, text: &str, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    let key: String = text.chars().take(80).collect();
    Error::Backend { backend: "sql database".to_owned(), operation: what, key, retryable: false, source: error.into() }
}

/// Reads JSON that was stored.
pub(super) fn from_json<T: DeserializeOwned>(text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|e| unreadable("read stored JSON", text, e))
}

/// Reads a word that was stored, such as a state.
pub(super) fn from_word<T: DeserializeOwned>(word: &str) -> Result<T> {
    serde_json::from_value(serde_json::Value::from(word)).map_err(|e| unreadable("read stored word", word, e))
}

/// Reads an id or a digest that was stored.
pub(super) fn from_text<T: std::str::FromStr<Err = Error>>(text: &str) -> Result<T> {
    text.parse().map_err(|e: Error| unreadable("read stored id", text, e))
}

/// A count, number or place that was stored.
pub(super) fn number(value: i64) -> Result<u64> {
    u64::try_from(value).map_err(|e| unreadable("read stored number", &value.to_string(), e))
}

/// A count, number or place to be stored; one beyond the range is in no row.
pub(super) fn to_i64(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

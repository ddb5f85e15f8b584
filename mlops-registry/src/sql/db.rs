//! The one place that knows which database it is. The rest is SQL that SQLite and PostgreSQL read alike, on these types.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use mlops_core::{Error, Result, Timestamp, clock};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};

use super::Durability;

pub(super) type Db = sqlx::Sqlite;
pub(super) type Conn = SqliteConnection;
pub(super) type Pool = SqlitePool;
pub(super) type Tx = sqlx::Transaction<'static, Db>;

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("./migrations");

/// Rows per multi-row statement: a fixed number, so that the statement is prepared once. Six columns stay far below
/// the 32,766 parameters that SQLite takes.
pub(super) const ROWS: usize = 250;

/// The longest that SQLite can be asked to wait, as it counts milliseconds in 32 bits: about 24 days.
pub(super) const LONGEST_WAIT: Duration = Duration::from_millis(i32::MAX as u64);

pub(super) enum Place {
    File(PathBuf),
    Memory,
}

/// Opens the writing and the reading pool, and migrates the schema.
pub(super) async fn open(
    place: &Place,
    durability: Durability,
    busy: Duration,
    readers: u32,
) -> Result<(Pool, Pool), sqlx::Error> {
    // A longer one is a panic of sqlx, here and where it adds it to the time of day.
    let busy = busy.min(LONGEST_WAIT);
    let options = SqliteConnectOptions::new().foreign_keys(true).busy_timeout(busy).statement_cache_capacity(200);
    let pool = |size| {
        SqlitePoolOptions::new()
            .max_connections(size)
            .acquire_timeout(busy.saturating_add(Duration::from_secs(30)))
            .idle_timeout(None)
            .max_lifetime(None)
            .test_before_acquire(false)
    };
    let Place::File(path) = place else {
        // Each connection to `:memory:` is a database of its own, so there is one for everything.
        let only = pool(1).min_connections(1).connect_with(options.in_memory(true)).await?;
        migrate(&only).await?;
        return Ok((only.clone(), only));
    };
    let synchronous = match durability {
        Durability::Disk => SqliteSynchronous::Full,
        Durability::Process => SqliteSynchronous::Normal,
    };
    let options =
        options.filename(path).create_if_missing(true).journal_mode(SqliteJournalMode::Wal).synchronous(synchronous);
    let deadline = Instant::now() + busy;
    // SQLite does not wait, whatever the time-out, where two connections turn on the write-ahead log at the same moment.
    let write = loop {
        match pool(1).connect_with(options.clone()).await {
            Err(error) if is_busy(&error) && Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            other => break other?,
        }
    };
    migrate(&write).await?;
    let read = pool(readers).connect_lazy_with(options.read_only(true).create_if_missing(false));
    Ok((write, read))
}

/// Under the write lock, so that of several processes that open a new file one migrates and the others find it done.
async fn migrate(pool: &Pool) -> Result<(), sqlx::Error> {
    let mut tx = begin_write(pool).await?;
    // `run` takes anything that gives a connection, and so loses that its future is `Send`.
    MIGRATIONS.run_direct(None, &mut *tx, false).await?;
    tx.commit().await
}

/// Starts a transaction that holds the write lock from the start, so that it never fails half-way for lack of it.
pub(super) async fn begin_write(pool: &Pool) -> Result<Tx, sqlx::Error> {
    pool.begin_with("BEGIN IMMEDIATE").await
}

/// SQLITE_BUSY and SQLITE_LOCKED with their extended codes: the low byte is the primary code.
fn is_busy(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|e| e.code()).and_then(|c| c.parse::<u32>().ok());
    matches!(code.map(|c| c & 0xff), Some(5 | 6))
}

pub(super) fn failed(error: sqlx::Error, operation: &'static str, key: &str) -> Error {
    let retryable = is_busy(&error) || matches!(error, sqlx::Error::PoolTimedOut);
    let source = Box::new(error);
    Error::Backend { backend: "sqlite".to_owned(), operation, key: key.to_owned(), retryable, source }
}

/// Names what was being done when the database failed.
pub(super) trait Backend<T> {
    fn during(self, operation: &'static str, key: &str) -> Result<T>;
}

impl<T> Backend<T> for Result<T, sqlx::Error> {
    fn during(self, operation: &'static str, key: &str) -> Result<T> {
        self.map_err(|error| failed(error, operation, key))
    }
}

/// Moves the end of a sequence by one and returns its new place; whoever else appends waits.
pub(super) async fn next_place(conn: &mut Conn, sequence: &str) -> Result<i64> {
    sqlx::query_scalar("UPDATE heads SET seq = seq + 1 WHERE name = $1 RETURNING seq")
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
    Error::Backend { backend: "sqlite".to_owned(), operation: what, key, retryable: false, source: error.into() }
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

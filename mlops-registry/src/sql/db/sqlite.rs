//! SQLite: one writing connection and a few reading ones on a file in write-ahead mode.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Sqlite, Transaction};

use super::group::{Line, Member};
use crate::sql::Durability;

pub(super) const NAME: &str = "sqlite";

/// The longest that SQLite can be asked to wait, as it counts milliseconds in 32 bits: about 24 days.
const LONGEST_WAIT: Duration = Duration::from_millis(i32::MAX as u64);

pub(in crate::sql) enum Place {
    File(PathBuf),
    Memory,
}

pub(in crate::sql) struct Files {
    write: Arc<Line>,
    read: SqlitePool,
}

impl Files {
    /// Opens the writing and the reading pool, and migrates the schema.
    pub(in crate::sql) async fn open(
        place: &Place,
        durability: Durability,
        busy: Duration,
        readers: u32,
    ) -> Result<Self, sqlx::Error> {
        // A longer one is a panic of sqlx, here and where it adds it to the time of day.
        let busy = busy.min(LONGEST_WAIT);
        let options = SqliteConnectOptions::new().foreign_keys(true).busy_timeout(busy).statement_cache_capacity(200);
        let patience = busy.saturating_add(Duration::from_secs(30));
        let pool = |size| {
            SqlitePoolOptions::new()
                .max_connections(size)
                .acquire_timeout(patience)
                .idle_timeout(None)
                .max_lifetime(None)
                .test_before_acquire(false)
        };
        let Place::File(path) = place else {
            // Each connection to `:memory:` is a database of its own, so there is one for everything.
            let only = pool(1).min_connections(1).connect_with(options.in_memory(true)).await?;
            let files = Self { write: Line::new(only.clone(), patience), read: only };
            files.migrate().await?;
            return Ok(files);
        };
        let synchronous = match durability {
            Durability::Disk => SqliteSynchronous::Full,
            Durability::Process => SqliteSynchronous::Normal,
        };
        let options = options
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(synchronous);
        let deadline = Instant::now() + busy;
        // SQLite does not wait, whatever the time-out, where two connections turn on the write-ahead log at the same
        // moment.
        let write = loop {
            match pool(1).connect_with(options.clone()).await {
                Err(error) if is_busy(&error) && Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                other => break other?,
            }
        };
        let read = pool(readers).connect_lazy_with(options.read_only(true).create_if_missing(false));
        let files = Self { write: Line::new(write, patience), read };
        files.migrate().await?;
        Ok(files)
    }

    /// Under the write lock, so that of several processes that open a new file one migrates and the others find it done.
    async fn migrate(&self) -> Result<(), sqlx::Error> {
        let mut tx = self.write.pool().begin_with("BEGIN IMMEDIATE").await?;
        // `run` takes anything that gives a connection, and so loses that its future is `Send`.
        super::MIGRATIONS.run_direct(None, &mut *tx, false).await?;
        tx.commit().await
    }

    /// Starts a transaction that holds the write lock from the start, so that it never fails half-way for lack of it.
    pub(super) async fn begin_write(&self) -> Result<Member, sqlx::Error> {
        self.write.begin().await
    }

    pub(super) async fn begin_read(&self) -> Result<Transaction<'static, Sqlite>, sqlx::Error> {
        self.read.begin().await
    }

    pub(super) fn read(&self) -> &SqlitePool {
        &self.read
    }

    pub(super) async fn close(&self) {
        self.read.close().await;
        self.write.pool().close().await;
    }
}

/// Whether the same call may work later: another process wrote for too long, or a call beside this one failed.
pub(super) fn is_transient(error: &sqlx::Error) -> bool {
    is_busy(error) || matches!(error, sqlx::Error::PoolTimedOut | sqlx::Error::Io(_))
}

/// SQLITE_BUSY and SQLITE_LOCKED with their extended codes: the low byte is the primary code.
fn is_busy(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|e| e.code()).and_then(|c| c.parse::<u32>().ok());
    matches!(code.map(|c| c & 0xff), Some(5 | 6))
}

//! SQLite: one writing connection and a few reading ones on a file in write-ahead mode.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mlops_core::{Error, Timestamp};
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

    /// Copies the database as it is at one moment, under another name until it is whole.
    pub(super) async fn backup(&self, path: &Path, at: Timestamp) -> mlops_core::Result<()> {
        let taken = || Error::AlreadyExists { what: "file", name: path.display().to_string() };
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| Error::Backend {
            backend: NAME.to_owned(),
            operation: "back up to",
            key: path.display().to_string(),
            retryable: false,
            source,
        };
        if path.exists() {
            return Err(taken());
        }
        let text = path.to_str().ok_or_else(|| Error::invalid("backup path", "is not UTF-8"))?;
        let part = format!("{text}.{}.part", at.timestamp_micros());
        let copied = async {
            let mut conn = self.read.acquire().await?;
            // As a URI with its mode: a database in memory would be copied into memory otherwise.
            let target = uri(&std::path::absolute(&part)?.to_string_lossy());
            sqlx::query("VACUUM INTO $1").bind(target).execute(&mut *conn).await
        };
        let copied = copied.await;
        let (from, to) = (PathBuf::from(&part), path.to_owned());
        let put = tokio::task::spawn_blocking(move || {
            let done = match copied {
                Ok(_) => publish(&from, &to),
                Err(error) => Err(std::io::Error::other(error)),
            };
            // A copy that did not become the backup, or its second name.
            let _ = std::fs::remove_file(&from);
            done
        });
        match put.await.map_err(|e| failed(e.into()))? {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Err(taken()),
            done => done.map_err(|e| failed(e.into())),
        }
    }

    pub(super) async fn close(&self) {
        self.read.close().await;
        self.write.pool().close().await;
    }
}

/// A file's absolute path as SQLite reads it, to be created if it is not there.
fn uri(path: &str) -> String {
    let path = if cfg!(windows) { path.replace('\\', "/") } else { path.to_owned() };
    let path = path.replace('%', "%25").replace('?', "%3f").replace('#', "%23");
    let root = if path.starts_with('/') { "" } else { "/" };
    format!("file:{root}{path}?mode=rwc")
}

/// Brings a file to disk and gives it its name, unless that is taken.
fn publish(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::File::open(from)?.sync_all()?;
    std::fs::hard_link(from, to)?;
    #[cfg(unix)]
    {
        let folder = to.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        std::fs::File::open(folder)?.sync_all()?;
    }
    Ok(())
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

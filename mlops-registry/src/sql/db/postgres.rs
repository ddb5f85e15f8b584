//! PostgreSQL: a pool of connections to one schema of a database.

use std::str::FromStr as _;
use std::time::Duration;

use mlops_core::Digest;
use sqlx::migrate::{Migration, Migrator};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgListener, PgPool, PgPoolOptions, PgSslMode};
use sqlx::{AssertSqlSafe, Connection as _, Postgres, SqlSafeStr as _, Transaction};

use super::{Lock, MIGRATIONS};
use crate::sql::Durability;

pub(super) const NAME: &str = "postgres";

/// Notifies the channel that [`Bell`] listens to.
pub(super) const RING: &str = "SELECT pg_notify(current_schema() || '_events', '')";

/// A connection that lay idle for longer is asked whether it still works before a call gets it.
const TRUSTED: Duration = Duration::from_secs(1);

pub(in crate::sql) struct Server {
    pool: PgPool,
    schema: String,
    options: Box<PgConnectOptions>,
}

/// What to connect to, and as whom. Nothing is tried yet.
pub(super) fn options(url: &str) -> Result<PgConnectOptions, &'static str> {
    let known = url.starts_with("postgres://") || url.starts_with("postgresql://");
    // The driver's own reason is left out: it could quote the password.
    let options = PgConnectOptions::from_str(url).ok().filter(|_| known);
    let options = options.ok_or("not of the form postgres://user:password@host:port/database?option=value")?;
    let strict = !matches!(options.get_ssl_mode(), PgSslMode::Disable | PgSslMode::Allow | PgSslMode::Prefer);
    if strict && cfg!(not(feature = "postgres-tls")) {
        return Err("it asks for TLS, which needs the feature `postgres-tls`");
    }
    Ok(options)
}

/// For people: where it is, without the password.
pub(in crate::sql) fn label(options: &PgConnectOptions, schema: &str) -> String {
    let database = options.get_database().unwrap_or(options.get_username());
    match options.get_socket() {
        Some(socket) => format!("postgres {}/{database} schema {schema}", socket.display()),
        None => format!("postgres {}:{}/{database} schema {schema}", options.get_host(), options.get_port()),
    }
}

impl Server {
    /// Connects, and migrates the schema.
    pub(in crate::sql) async fn open(
        options: PgConnectOptions,
        schema: &str,
        durability: Durability,
        busy: Duration,
        connections: u32,
    ) -> Result<Self, sqlx::Error> {
        let wait = i32::try_from(busy.as_millis()).unwrap_or(i32::MAX).max(1).to_string();
        let mut options = options.statement_cache_capacity(200).options([
            ("search_path", schema),
            ("lock_timeout", &wait),
            // A server that never hears of a client's end would hold its locks for hours.
            ("tcp_keepalives_idle", "30"),
            ("tcp_keepalives_interval", "10"),
            ("tcp_keepalives_count", "3"),
        ]);
        if durability == Durability::Process {
            options = options.options([("synchronous_commit", "off")]);
        }
        let pool = PgPoolOptions::new()
            .max_connections(connections)
            .acquire_timeout(busy.clamp(Duration::from_secs(1), Duration::from_secs(1 << 30)))
            .test_before_acquire(false)
            .before_acquire(|conn, meta| {
                Box::pin(async move { Ok(meta.idle_for < TRUSTED || conn.ping().await.is_ok()) })
            })
            .connect_with(options.clone())
            .await;
        let pool = match pool {
            // The pool tries until it gives up, and does not say why.
            Err(sqlx::Error::PoolTimedOut) => match PgConnection::connect_with(&options).await {
                Err(cause) => return Err(cause),
                Ok(_) => return Err(sqlx::Error::PoolTimedOut),
            },
            pool => pool?,
        };
        let server = Self { pool, schema: schema.to_owned(), options: Box::new(options) };
        server.migrate().await?;
        Ok(server)
    }

    /// Under a lock of the schema's name, so that of several processes that open a new one, one migrates and the others
    /// find it done.
    async fn migrate(&self) -> Result<(), sqlx::Error> {
        let mut tx = self.pool.begin().await?;
        let digest = Digest::of(format!("mlops-registry {}", self.schema).as_bytes());
        let key = u64::from_str_radix(&digest.to_string()[..16], 16).unwrap_or_default().cast_signed();
        sqlx::query("SET LOCAL lock_timeout = 0").execute(&mut *tx).await?;
        sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(key).execute(&mut *tx).await?;
        let encoding: String = sqlx::query_scalar("SHOW server_encoding").fetch_one(&mut *tx).await?;
        if encoding != "UTF8" {
            let reason = format!("the database is encoded in {encoding}; create one with ENCODING 'UTF8'");
            return Err(sqlx::Error::Configuration(reason.into()));
        }
        // `IF NOT EXISTS` asks for the permission to create even where there is nothing to create.
        let schema: i64 = sqlx::query_scalar("SELECT count(*) FROM pg_namespace WHERE nspname = $1")
            .bind(&self.schema)
            .fetch_one(&mut *tx)
            .await?;
        if schema == 0 {
            let create = AssertSqlSafe(format!("CREATE SCHEMA \"{}\"", self.schema));
            sqlx::query(create).execute(&mut *tx).await?;
        }
        // `run` takes anything that gives a connection, and so loses that its future is `Send`.
        migrations().run_direct(None, &mut *tx, false).await?;
        tx.commit().await
    }

    /// Starts a transaction that holds its rows from the start. Whoever waited for them reads what their last holder
    /// wrote, as each statement at this isolation level sees all that was committed before it.
    pub(super) async fn begin_write(
        &self,
        lock: Lock,
        key: &str,
    ) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
        let mut tx = self.pool.begin_with("BEGIN ISOLATION LEVEL READ COMMITTED").await?;
        if matches!(lock, Lock::All | Lock::AuditedRun) {
            let head = "SELECT name FROM heads WHERE name = 'audit' FOR NO KEY UPDATE";
            sqlx::query(head).execute(&mut *tx).await?;
        }
        if matches!(lock, Lock::Run | Lock::AuditedRun) {
            let run = "SELECT id FROM runs WHERE id = $1 FOR NO KEY UPDATE";
            sqlx::query(run).bind(key).execute(&mut *tx).await?;
        }
        #[cfg(feature = "webhooks")]
        if matches!(lock, Lock::Webhook) {
            let webhook = "SELECT id FROM webhooks WHERE id = $1 FOR NO KEY UPDATE";
            sqlx::query(webhook).bind(key).execute(&mut *tx).await?;
        }
        Ok(tx)
    }

    pub(super) async fn begin_read(&self) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
        self.pool.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await
    }

    /// A bell of its own connection, which is made at the first use.
    pub(super) fn bell(&self) -> Bell {
        // With a life of no set length the pool starts no task, and so needs no runtime yet.
        let pool = PgPoolOptions::new().max_connections(1).idle_timeout(None).max_lifetime(None);
        let channel = format!("{}_events", self.schema);
        Bell { pool: pool.connect_lazy_with((*self.options).clone()), channel, listener: None }
    }

    pub(super) fn pool(&self) -> &PgPool {
        &self.pool
    }

    pub(super) async fn close(&self) {
        self.pool.close().await;
    }
}

/// Hears of events as they are committed.
pub(in crate::sql) struct Bell {
    pool: PgPool,
    channel: String,
    listener: Option<PgListener>,
}

impl Bell {
    /// Makes sure that what is committed from now on is heard.
    pub(super) async fn listen(&mut self) -> Result<(), sqlx::Error> {
        if self.listener.is_none() {
            let mut listener = PgListener::connect_with(&self.pool).await?;
            listener.listen(&self.channel).await?;
            self.listener = Some(listener);
        }
        Ok(())
    }

    /// Waits until it rings or the connection is lost, which is to be taken for a ring too.
    pub(super) async fn heard(&mut self) {
        let Some(listener) = &mut self.listener else { return std::future::pending().await };
        if !matches!(listener.try_recv().await, Ok(Some(_))) {
            self.listener = None;
        }
    }
}

/// The migrations as PostgreSQL takes them: text is ordered and compared by its bytes, as in SQLite, tables have no row ids
/// to be without or to name, and JSON has a type of its own. What identifies a migration is the text that both have.
fn migrations() -> Migrator {
    let adapt = |migration: &Migration| {
        let sql = migration.sql.as_str().replace(" TEXT", " TEXT COLLATE \"C\"").replace(" WITHOUT ROWID", "");
        let sql = sql.replace("json_each(tags)", "json_each_text(CAST(tags AS JSON))");
        let sql = sql.replace(" INTEGER          PRIMARY KEY", " BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY");
        Migration { sql: AssertSqlSafe(sql).into_sql_str(), ..migration.clone() }
    };
    Migrator {
        migrations: MIGRATIONS.iter().map(adapt).collect(),
        // There is a lock of the schema alone, for as long as the transaction.
        locking: false,
        ..Migrator::DEFAULT
    }
}

fn code(error: &sqlx::Error) -> Option<String> {
    Some(error.as_database_error()?.code()?.into_owned())
}

/// Serialization failure and deadlock.
pub(super) fn lost_its_turn(error: &sqlx::Error) -> bool {
    matches!(code(error).as_deref(), Some("40001" | "40P01"))
}

/// Whether the same call may work later: the connection was lost, the server is starting, stopping or full, or somebody
/// else held a lock for too long.
pub(super) fn is_transient(error: &sqlx::Error) -> bool {
    let error = super::cause(error);
    if matches!(error, sqlx::Error::Io(_) | sqlx::Error::WorkerCrashed | sqlx::Error::PoolTimedOut) {
        return true;
    }
    let Some(code) = code(error) else { return false };
    let class = ["08", "40", "53"].iter().any(|class| code.starts_with(class));
    class || matches!(&*code, "55P03" | "57P01" | "57P02" | "57P03" | "57P05")
}

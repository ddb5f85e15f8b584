//! The registry in a SQL database: SQLite, in one file, or PostgreSQL, in one schema.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! use mlops_core::store::LocalStore;
//! use mlops_registry::{ModelRegistry, SqlRegistry};
//! let registry = SqlRegistry::builder()
//!     .artifacts(LocalStore::open(dir.path().join("artifacts"))?)
//!     .open_sqlite(dir.path().join("registry.db"))
//!     .await?;
//! assert!(registry.models().await?.is_empty());
//! # Ok(()) }
//! ```
//!
//! # Rules
//! - **One writer at a time** for everything that is audited, on either database: a writing call is one transaction that
//!   takes its turn first and then reads what the last one wrote. Readers are never blocked by it and see whole
//!   transactions. Metric points alone wait, on PostgreSQL, only for those of the same run.
//! - **SQLite:** a handle has one writing connection and a few reading ones. Calls that wait for their turn share a
//!   commit, and so its flush to the disk; none returns before that. Several handles, in one process or in many on one
//!   machine, may use a file at once. The file must not lie on a network share.
//! - **PostgreSQL:** any number of processes on any number of machines. A schema holds one registry.
//! - A writer waits for its turn up to [`SqlRegistryBuilder::busy_timeout`], then the error is retryable; so is a lost
//!   connection. The call may have taken effect then, and may be repeated as the traits say.
//! - **What has returned `Ok` survives** the death of the process at any moment. [`Durability`] says what a power failure
//!   can take.
//! - The audit log, the outbox and lineage are written in the transaction of the change they tell of.

/// Runs `$body` in the writing transaction that `$start` begins, and gives its result. A `return` or `?` in it leaves the
/// transaction: an `Ok` keeps what was written, an error takes it back. It runs again where the database took it back for
/// another's sake, and so it borrows what it uses.
macro_rules! transaction {
    ($start:expr, |$writing:ident| $body:expr) => {{
        let mut tries = 0;
        loop {
            let mut $writing = $start.await?;
            let result = async { $body }.await;
            match $writing.end(result).await {
                Err(error) if $crate::sql::again(&error, &mut tries).await => {}
                done => break done,
            }
        }
    }};
}

mod aliases;
mod audit;
#[cfg(feature = "webhooks")]
mod claims;
mod db;
mod events;
mod holds;
mod lineage;
mod models;
mod policies;
mod promotions;
mod purge;
mod registry;
mod requests;
mod roots;
mod search;
mod source;
mod stages;
mod tokens;
mod tracking;
mod versions;
mod watch;
#[cfg(feature = "webhooks")]
mod webhooks;

use std::fmt;
#[cfg(feature = "sqlite")]
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mlops_core::audit::AuditEvent;
#[cfg(feature = "webhooks")]
use mlops_core::store::KeyProvider;
use mlops_core::{
    ArtifactStore, Authorizer, Clock, Error as CoreError, Permission, Principal, Resource, RoleTable, SystemClock,
    Timestamp,
};

#[cfg(feature = "webhooks")]
pub(crate) use self::claims::{Claim, Outcome};
use self::db::{Backend as _, Conn, Database, Lock};
pub use self::watch::Watch;
use crate::{Error, Result, check};

/// How often a transaction is tried again that the database took back for another's sake.
const TRIES: u32 = 8;

/// What a power failure can take. The death of the process takes nothing either way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Durability {
    /// Each commit reaches the disk before the call returns (`synchronous = FULL` on SQLite, what the server is set to on
    /// PostgreSQL): a power failure takes nothing that was acknowledged, as far as the disk itself keeps what it says it
    /// has.
    #[default]
    Disk,
    /// Each commit reaches the operating system before the call returns (`synchronous = NORMAL`; on PostgreSQL
    /// `synchronous_commit = off`, where it is the server that has it): a power failure or a crash of the operating system,
    /// or of the PostgreSQL server, can take the last commits, newest first, and never leaves a part of one.
    Process,
}

/// Experiments, runs, models, versions, aliases, audit log and lineage in one SQL database.
///
/// Implements [`TrackingStore`](crate::TrackingStore), [`ModelRegistry`](crate::ModelRegistry), and core's
/// [`AuditLog`](mlops_core::audit::AuditLog), [`LineageStore`](mlops_core::lineage::LineageStore),
/// [`TokenStore`](mlops_core::auth::token::TokenStore) and [`ModelSource`](mlops_core::ModelSource). Clones share it.
#[derive(Clone)]
pub struct SqlRegistry(Arc<Inner>);

struct Inner {
    label: String,
    database: Database,
    artifacts: Arc<dyn ArtifactStore>,
    authorizer: Arc<dyn Authorizer>,
    project: Option<String>,
    clock: Arc<dyn Clock>,
    poll_interval: Duration,
    #[cfg(feature = "webhooks")]
    webhook_keys: Option<Arc<dyn KeyProvider>>,
}

impl fmt::Debug for SqlRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { label, artifacts, authorizer, project, clock, .. } = &*self.0;
        let mut shown = f.debug_struct("SqlRegistry");
        shown.field("database", label).field("artifacts", artifacts).field("authorizer", authorizer);
        shown.field("project", project).field("clock", clock).finish_non_exhaustive()
    }
}

impl fmt::Display for SqlRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.label)
    }
}

impl SqlRegistry {
    /// Starts a registry: give it at least the artifact store that packages live in.
    pub fn builder() -> SqlRegistryBuilder {
        SqlRegistryBuilder {
            artifacts: None,
            authorizer: Arc::new(RoleTable),
            project: None,
            clock: Arc::new(SystemClock),
            durability: Durability::default(),
            busy_timeout: Duration::from_secs(30),
            readers: 4,
            poll_interval: Duration::from_millis(500),
            #[cfg(feature = "webhooks")]
            webhook_keys: None,
            #[cfg(feature = "postgres")]
            connections: 8,
            #[cfg(feature = "postgres")]
            schema: "mlops_registry".to_owned(),
        }
    }

    /// Closes every connection, after the calls under way. Dropping the last handle instead loses nothing either.
    pub async fn close(&self) {
        self.0.database.close().await;
    }

    /// Copies the SQLite database, as it is at one moment, into a new file at `path`, which then opens by itself; calls go on
    /// meanwhile. `Ok` means that the copy is whole and on disk; if the process dies before, a file named
    /// `PATH.….part` may be left beside it. Artifacts are not in it: back their store up after the database, so that
    /// every package that a row names is there.
    ///
    /// # Errors
    /// [`AlreadyExists`](CoreError::AlreadyExists) if there is a file at `path`;
    /// [`InvalidInput`](CoreError::InvalidInput) on PostgreSQL, which has `pg_dump` and its kin, and for a path that is
    /// not UTF-8; [`Backend`](CoreError::Backend) if it cannot be written.
    #[cfg(feature = "sqlite")]
    #[cfg_attr(docsrs, doc(cfg(feature = "sqlite")))]
    pub async fn backup(&self, path: impl AsRef<Path>) -> Result<()> {
        Ok(self.0.database.backup(path.as_ref(), self.0.clock.now()).await?)
    }

    /// Starts a writing transaction, for [`transaction!`]; dropping it takes everything back.
    async fn write(&self, operation: &'static str, key: &str) -> Result<Writing> {
        self.begin(Lock::All, operation, key).await
    }

    async fn begin(&self, lock: Lock, operation: &'static str, key: &str) -> Result<Writing> {
        let tx = self.0.database.begin_write(lock, key).await.during(operation, key)?;
        Ok(Writing { tx, operation, key: key.to_owned(), at: self.0.clock.now() })
    }

    /// Starts a reading transaction: every query in it sees the same state.
    async fn read(&self, operation: &'static str, key: &str) -> Result<Conn> {
        Ok(self.0.database.begin_read().await.during(operation, key)?)
    }

    fn allow(&self, who: &Principal, permission: Permission, resource: Resource) -> Result<()> {
        check::principal(who)?;
        Ok(self.0.authorizer.check(who, permission, &self.scoped(resource))?)
    }

    /// The resource in the registry's project, if it has one.
    fn scoped(&self, resource: Resource) -> Resource {
        match &self.0.project {
            Some(project) => resource.in_project(project),
            None => resource,
        }
    }
}

/// Whether a transaction that ended so is worth another try, and if so, waits a little longer each time.
async fn again(error: &Error, tries: &mut u32) -> bool {
    let Error::Core(error) = error else { return false };
    if *tries >= TRIES || !db::lost_its_turn(error) {
        return false;
    }
    *tries += 1;
    tokio::time::sleep(Duration::from_millis(1 << *tries)).await;
    true
}

/// A writing transaction and the moment it stands for.
struct Writing {
    tx: Conn,
    operation: &'static str,
    key: String,
    at: Timestamp,
}

impl Writing {
    /// An audit event of this moment.
    fn event(&self, who: &Principal, action: &str, resource: impl Into<String>) -> AuditEvent {
        AuditEvent::new(self.at, &who.name, action, resource)
    }

    /// Keeps what was written if all went well, and takes it back if not. Whatever the result, it is given only once what
    /// it was read from is permanent.
    async fn end<T>(self, result: Result<T>) -> Result<T> {
        let Self { tx, operation, key, .. } = self;
        tx.end(result.is_ok()).await.during(operation, &key)?;
        result
    }
}

/// Opens a [`SqlRegistry`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `open_sqlite`, `open_postgres` or `open_in_memory`"]
pub struct SqlRegistryBuilder {
    artifacts: Option<Arc<dyn ArtifactStore>>,
    authorizer: Arc<dyn Authorizer>,
    project: Option<String>,
    clock: Arc<dyn Clock>,
    durability: Durability,
    busy_timeout: Duration,
    readers: u32,
    poll_interval: Duration,
    #[cfg(feature = "webhooks")]
    webhook_keys: Option<Arc<dyn KeyProvider>>,
    #[cfg(feature = "postgres")]
    connections: u32,
    #[cfg(feature = "postgres")]
    schema: String,
}

impl SqlRegistryBuilder {
    /// Where packages live. Required.
    pub fn artifacts(mut self, store: impl ArtifactStore) -> Self {
        self.artifacts = Some(Arc::new(store));
        self
    }

    /// Who may do what (default [`RoleTable`]).
    pub fn authorizer(mut self, authorizer: impl Authorizer) -> Self {
        self.authorizer = Arc::new(authorizer);
        self
    }

    /// The project that everything in this registry belongs to (default none): grants on it hold here, and grants that
    /// name no project or another do not, unless they hold everywhere.
    pub fn project(mut self, name: impl Into<String>) -> Self {
        self.project = Some(name.into());
        self
    }

    /// What tells the time (default [`SystemClock`]).
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// What a power failure can take (default [`Durability::Disk`]: nothing).
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// How long a writing call waits for other writers on the same database (default 30 seconds, at most 24 days), and on
    /// PostgreSQL any call for a connection.
    pub fn busy_timeout(mut self, wait: Duration) -> Self {
        self.busy_timeout = wait;
        self
    }

    /// How many calls may read a SQLite file at once, 1 to 64 (default 4). Each is a connection with its own thread.
    pub fn readers(mut self, readers: u32) -> Self {
        self.readers = readers;
        self
    }

    /// How often a [`Watch`] looks for events, 1 millisecond to 1 hour (default 500 milliseconds).
    pub fn poll_interval(mut self, interval: Duration) -> Self {
        self.poll_interval = interval;
        self
    }

    /// What secrets of webhooks are encrypted with in the database (default: they are stored as they are). Give every process
    /// that opens it the same keys, and old ones for as long as a secret may be encrypted with them.
    #[cfg(feature = "webhooks")]
    #[cfg_attr(docsrs, doc(cfg(feature = "webhooks")))]
    pub fn webhook_keys(mut self, keys: impl KeyProvider) -> Self {
        self.webhook_keys = Some(Arc::new(keys));
        self
    }

    /// How many connections to PostgreSQL calls may use at once, 1 to 1,000 (default 8); the others wait.
    #[cfg(feature = "postgres")]
    #[cfg_attr(docsrs, doc(cfg(feature = "postgres")))]
    pub fn connections(mut self, connections: u32) -> Self {
        self.connections = connections;
        self
    }

    /// The schema of the PostgreSQL database that the registry's tables are in (default `mlops_registry`): each registry
    /// of several in one database has its own. 1 to 50 lower-case letters, digits and `_`, not a digit first.
    #[cfg(feature = "postgres")]
    #[cfg_attr(docsrs, doc(cfg(feature = "postgres")))]
    pub fn schema(mut self, schema: impl Into<String>) -> Self {
        self.schema = schema.into();
        self
    }

    /// Opens the registry in a schema of the PostgreSQL database at `url`
    /// (`postgres://user:password@host:port/database?sslmode=require`), creating the schema if there is none, and brings
    /// it up to date. The database must exist and be encoded in UTF-8. PostgreSQL 12 or newer.
    ///
    /// What the URL leaves out, the driver takes from PostgreSQL's own variables (`PGUSER`, `PGPASSWORD`, `PGSSLMODE`, …)
    /// and the password file, as every client of PostgreSQL does.
    ///
    /// # Errors
    /// [`InvalidInput`](CoreError::InvalidInput) naming the option that is missing or out of range;
    /// [`Backend`](CoreError::Backend) if the server cannot be reached (retryable), refuses, or holds a schema of a newer
    /// version of this crate.
    #[cfg(feature = "postgres")]
    #[cfg_attr(docsrs, doc(cfg(feature = "postgres")))]
    pub async fn open_postgres(self, url: &str) -> Result<SqlRegistry> {
        let artifacts = self.checked()?;
        if !(1..=1_000).contains(&self.connections) {
            let reason = format!("{} is not in 1..=1000", self.connections);
            return Err(CoreError::invalid("connections", reason).into());
        }
        check::schema(&self.schema)?;
        let options = db::postgres_options(url)?;
        let label = db::postgres_label(&options, &self.schema);
        let database =
            Database::open_postgres(options, &self.schema, self.durability, self.busy_timeout, self.connections);
        let database = database.await.during("open", &label)?;
        Ok(self.build(label, database, artifacts))
    }

    /// Opens the registry in the SQLite file at `path`, creating it if there is none, and brings its schema up to date.
    ///
    /// # Errors
    /// [`InvalidInput`](CoreError::InvalidInput) naming the option that is missing or out of range;
    /// [`Backend`](CoreError::Backend) if the file cannot be opened, is no such database, or was written by a newer
    /// version of this crate.
    #[cfg(feature = "sqlite")]
    #[cfg_attr(docsrs, doc(cfg(feature = "sqlite")))]
    pub async fn open_sqlite(self, path: impl AsRef<Path>) -> Result<SqlRegistry> {
        let path = path.as_ref();
        let label = format!("sqlite {}", path.display());
        self.open_file(label, db::Place::File(path.to_owned())).await
    }

    /// Opens a new, empty registry in memory; it is gone with its last handle. Calls take turns on one connection.
    ///
    /// # Errors
    /// [`InvalidInput`](CoreError::InvalidInput) naming the option that is missing or out of range.
    #[cfg(feature = "sqlite")]
    #[cfg_attr(docsrs, doc(cfg(feature = "sqlite")))]
    pub async fn open_in_memory(self) -> Result<SqlRegistry> {
        self.open_file("sqlite in memory".to_owned(), db::Place::Memory).await
    }

    #[cfg(feature = "sqlite")]
    async fn open_file(self, label: String, place: db::Place) -> Result<SqlRegistry> {
        let artifacts = self.checked()?;
        let database = Database::open_sqlite(&place, self.durability, self.busy_timeout, self.readers);
        let database = database.await.during("open", &label)?;
        Ok(self.build(label, database, artifacts))
    }

    /// The artifact store, if the options are in order.
    fn checked(&self) -> Result<Arc<dyn ArtifactStore>> {
        if !(1..=64).contains(&self.readers) {
            return Err(CoreError::invalid("readers", format!("{} is not in 1..=64", self.readers)).into());
        }
        if !(Duration::from_millis(1)..=Duration::from_secs(3_600)).contains(&self.poll_interval) {
            let reason = format!("{:?} is not in 1 ms..=1 h", self.poll_interval);
            return Err(CoreError::invalid("poll interval", reason).into());
        }
        let missing = || CoreError::invalid("artifacts", "give the registry the store that packages live in");
        Ok(self.artifacts.clone().ok_or_else(missing)?)
    }

    fn build(self, label: String, database: Database, artifacts: Arc<dyn ArtifactStore>) -> SqlRegistry {
        let Self { authorizer, project, clock, poll_interval, .. } = self;
        SqlRegistry(Arc::new(Inner {
            label,
            database,
            artifacts,
            authorizer,
            project,
            clock,
            poll_interval,
            #[cfg(feature = "webhooks")]
            webhook_keys: self.webhook_keys,
        }))
    }
}

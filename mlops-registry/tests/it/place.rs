//! A registry that other processes open too, and this test binary as those processes.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use mlops_core::store::LocalStore;
use mlops_registry::{Durability, SqlRegistry};
use tempfile::TempDir;

/// What a child is told by.
const CHILD: &str = "MLOPS_REGISTRY_TEST_PLACE";

/// A folder with the artifacts, and a database: a file in it or a schema of the server under test.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    folder: PathBuf,
    schema: Option<String>,
}

impl Place {
    pub(crate) fn file() -> (Self, TempDir) {
        let dir = tempfile::tempdir().unwrap();
        (Self { folder: dir.path().to_owned(), schema: None }, dir)
    }

    #[cfg(feature = "postgres")]
    pub(crate) fn schema() -> (Self, TempDir) {
        let dir = tempfile::tempdir().unwrap();
        (Self { folder: dir.path().to_owned(), schema: Some(crate::postgres::new_schema()) }, dir)
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(crate) fn store(&self) -> LocalStore {
        LocalStore::open(self.folder.join("artifacts")).unwrap()
    }

    pub(crate) async fn open(&self, durability: Durability) -> mlops_registry::Result<SqlRegistry> {
        let builder = SqlRegistry::builder().artifacts(self.store()).durability(durability);
        let builder = builder.busy_timeout(std::time::Duration::from_secs(60));
        match &self.schema {
            None => builder.open_sqlite(self.folder.join("registry.db")).await,
            #[cfg(feature = "postgres")]
            Some(schema) => builder.schema(schema).open_postgres(&crate::postgres::url()).await,
            #[cfg(not(feature = "postgres"))]
            Some(schema) => panic!("{schema} needs the feature `postgres`"),
        }
    }

    /// Starts this binary again for the one test `name`, with `job` to do here.
    pub(crate) fn start(&self, name: &str, job: &str) -> Child {
        let told = format!("{}|{}|{job}", self.folder.display(), self.schema.as_deref().unwrap_or(""));
        Command::new(std::env::current_exe().unwrap())
            .args([name, "--exact", "--nocapture", "--include-ignored"])
            .env(CHILD, told)
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    }

    /// In such a child: where and what. Nothing in a test run of its own.
    pub(crate) fn told() -> Option<(Self, String)> {
        let told = std::env::var(CHILD).ok()?;
        let [folder, schema, job] = told.splitn(3, '|').collect::<Vec<_>>().try_into().unwrap();
        let schema = Some(schema.to_owned()).filter(|s| !s.is_empty());
        Some((Self { folder: folder.into(), schema }, job.to_owned()))
    }
}

/// How often a heavy test repeats: `few` here, or what the integration tier asks for.
pub(crate) fn scale(variable: &str, few: u64) -> u64 {
    std::env::var(variable).map_or(few, |text| text.parse().unwrap())
}

/// SplitMix64: the same numbers in every run.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % n
    }
}

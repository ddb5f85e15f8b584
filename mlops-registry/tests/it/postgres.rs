//! A PostgreSQL server. `MLOPS_TEST_POSTGRES` is the URL of an empty database on it; `ci/integration.sh` starts one. Each
//! test has a schema of its own.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use mlops_core::audit::AuditLogExt as _;
use mlops_core::store::MemoryStore;
use mlops_core::{Role, audit_log_conformance, lineage_store_conformance, token_store_conformance};
use mlops_registry::conformance::model_registry::package;
use mlops_registry::{
    ModelRegistry, NewModel, NewVersion, SqlRegistry, SqlRegistryBuilder, model_registry_conformance,
    tracking_store_conformance,
};
use sqlx::{Connection as _, PgConnection};

use crate::{builder, who};

pub(crate) fn url() -> String {
    std::env::var("MLOPS_TEST_POSTGRES").expect("MLOPS_TEST_POSTGRES is the URL of an empty PostgreSQL database")
}

pub(crate) fn new_schema() -> String {
    static SCHEMAS: AtomicUsize = AtomicUsize::new(0);
    format!("test_{}_{}", std::process::id(), SCHEMAS.fetch_add(1, Ordering::Relaxed))
}

/// Opens the schema.
async fn open(builder: SqlRegistryBuilder, schema: &str) -> SqlRegistry {
    builder.schema(schema).open_postgres(&url()).await.unwrap()
}

async fn on_server() -> (SqlRegistry, MemoryStore, String) {
    let (store, schema) = (MemoryStore::default(), new_schema());
    (open(builder(&store), &schema).await, store, schema)
}

/// A connection beside the registry's.
async fn hand() -> PgConnection {
    PgConnection::connect(&url()).await.unwrap()
}

tracking_store_conformance!(
    #[ignore = "needs a PostgreSQL server: ci/integration.sh"]
    tracking,
    (on_server().await.0, ())
);
model_registry_conformance!(
    #[ignore = "needs a PostgreSQL server: ci/integration.sh"]
    models,
    on_server().await
);
audit_log_conformance!(
    #[ignore = "needs a PostgreSQL server: ci/integration.sh"]
    audit,
    (on_server().await.0, ())
);
lineage_store_conformance!(
    #[ignore = "needs a PostgreSQL server: ci/integration.sh"]
    lineage,
    (on_server().await.0, ())
);
token_store_conformance!(
    #[ignore = "needs a PostgreSQL server: ci/integration.sh"]
    tokens,
    {
        let registry = on_server().await.0;
        ((registry.clone(), registry), ())
    }
);

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "needs a PostgreSQL server: ci/integration.sh"]
async fn an_empty_schema_may_be_opened_many_times_at_once() {
    let (store, schema) = (MemoryStore::default(), new_schema());
    let opening = (0..8).map(|_| {
        let (builder, schema) = (builder(&store).connections(1), schema.clone());
        tokio::spawn(async move { open(builder, &schema).await.models().await.unwrap().len() })
    });
    for opened in opening.collect::<Vec<_>>() {
        assert_eq!(opened.await.unwrap(), 0);
    }
}

#[tokio::test]
#[ignore = "needs a PostgreSQL server: ci/integration.sh"]
async fn schemas_are_registries_of_their_own() {
    let ((one, _, schema), (two, ..)) = (on_server().await, on_server().await);
    let ana = who("ana", Role::Contributor);
    one.create_model(&ana, NewModel::new("m")).await.unwrap();
    assert!(two.models().await.unwrap().is_empty());
    assert_eq!(open(builder(&MemoryStore::default()), &schema).await.models().await.unwrap().len(), 1);
    let of_two: Vec<u64> = two.events(0, 10).await.unwrap().iter().map(|e| e.seq).collect();
    assert_eq!(of_two, [0; 0]);
}

/// As SQLite orders and compares text, whatever the database's locale.
#[tokio::test]
#[ignore = "needs a PostgreSQL server: ci/integration.sh"]
async fn text_is_ordered_by_its_bytes() {
    let (registry, _, schema) = on_server().await;
    let ana = who("ana", Role::Contributor);
    let mut names = ["b", "B", "a", "é", "z", "_", "10", "9", "a b", "ab", "日本", "Z"];
    for name in names {
        registry.create_model(&ana, NewModel::new(name)).await.unwrap();
    }
    names.sort_unstable();
    let listed: Vec<String> = registry.models().await.unwrap().into_iter().map(|m| m.name).collect();
    assert_eq!(listed, names);
    let query = "SELECT count(*), count(*) FILTER (WHERE collation_name = 'C') FROM information_schema.columns \
                 WHERE table_schema = $1 AND data_type = 'text' AND table_name <> '_sqlx_migrations'";
    let (all, bytewise): (i64, i64) = sqlx::query_as(query).bind(&schema).fetch_one(&mut hand().await).await.unwrap();
    assert!(all > 50, "{all}");
    assert_eq!(all, bytewise);
}

#[tokio::test]
#[ignore = "needs a PostgreSQL server: ci/integration.sh"]
async fn a_writer_waits_only_so_long_and_the_error_is_retryable() {
    let (registry, store, schema) = on_server().await;
    let hasty = open(builder(&store).busy_timeout(Duration::from_millis(200)), &schema).await;
    let mut other = hand().await;
    let mut tx = other.begin().await.unwrap();
    let lock = sqlx::AssertSqlSafe(format!("SELECT * FROM {schema}.heads FOR UPDATE"));
    sqlx::query(lock).execute(&mut *tx).await.unwrap();
    let ana = who("ana", Role::Contributor);
    let error = hasty.create_model(&ana, NewModel::new("m")).await.unwrap_err();
    assert!(error.is_retryable(), "{error:?}");
    assert!(registry.models().await.unwrap().is_empty(), "readers go on");
    tx.rollback().await.unwrap();
    hasty.create_model(&ana, NewModel::new("m")).await.unwrap();
}

/// A hand that takes the rows in the other order: the database takes one of the two back, and it is tried again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a PostgreSQL server: ci/integration.sh"]
async fn a_deadlock_is_tried_again() {
    let (registry, store, schema) = on_server().await;
    let ana = who("ana", Role::Contributor);
    registry.create_model(&ana, NewModel::new("m")).await.unwrap();
    let package = package(&store, "1").await;
    let (mut other, mut third) = (hand().await, hand().await);
    let mut tx = other.begin().await.unwrap();
    // So that the registry's session is the one that looks for a deadlock and gives way.
    sqlx::query("SET LOCAL deadlock_timeout = '60s'").execute(&mut *tx).await.unwrap();
    let model = sqlx::AssertSqlSafe(format!("SELECT * FROM {schema}.models FOR UPDATE"));
    sqlx::query(model).execute(&mut *tx).await.unwrap();
    let call = tokio::spawn({
        let (registry, ana) = (registry.clone(), ana.clone());
        async move { registry.create_version(&ana, NewVersion::new("m", package)).await }
    });
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'UPDATE models%'";
    while sqlx::query_scalar::<_, i64>(waits).fetch_one(&mut third).await.unwrap() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let head = sqlx::AssertSqlSafe(format!("SELECT * FROM {schema}.heads WHERE name = 'audit' FOR UPDATE"));
    sqlx::query(head).execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(call.await.unwrap().unwrap().version, 1);
    let sum = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
    let began = Instant::now();
    while sqlx::query_scalar::<_, i64>(sum).fetch_one(&mut third).await.unwrap() == 0 {
        assert!(began.elapsed() < Duration::from_secs(20), "there was no deadlock");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(registry.verify().await.unwrap().unwrap().entries, 2);
}

/// Cuts every connection of the schema's registries.
async fn cut(schema: &str) {
    let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1";
    sqlx::query(cut).bind(schema).execute(&mut hand().await).await.unwrap();
}

fn named_url(schema: &str) -> String {
    let url = url();
    let sign = if url.contains('?') { '&' } else { '?' };
    format!("{url}{sign}application_name={schema}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "needs a PostgreSQL server: ci/integration.sh"]
async fn a_cut_connection_is_retryable_and_a_watch_neither_misses_nor_repeats() {
    const MODELS: u64 = 200;
    let (store, schema) = (MemoryStore::default(), new_schema());
    // So rarely asked that only what it is told can explain how soon it knows.
    let builder = builder(&store).schema(&schema).poll_interval(Duration::from_secs(60));
    let registry = builder.open_postgres(&named_url(&schema)).await.unwrap();
    let ana = who("ana", Role::Contributor);
    let followers: Vec<_> = (0..3)
        .map(|_| {
            let mut watch = registry.watch(0);
            tokio::spawn(async move {
                let mut seen = Vec::new();
                while seen.len() < MODELS as usize {
                    seen.push(watch.next().await.unwrap());
                }
                assert_eq!(watch.position(), MODELS);
                seen
            })
        })
        .collect();
    let cutter = tokio::spawn({
        let schema = schema.clone();
        async move {
            loop {
                tokio::time::sleep(Duration::from_millis(60)).await;
                cut(&schema).await;
            }
        }
    });
    let (began, mut failed) = (Instant::now(), 0);
    for n in 0..MODELS {
        while let Err(error) = registry.create_model(&ana, NewModel::new(format!("m{n}"))).await {
            assert!(error.is_retryable(), "{error:?}");
            failed += 1;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    cutter.abort();
    assert!(failed > 0, "no call met a cut connection");
    for follower in followers {
        let seen = tokio::time::timeout(Duration::from_secs(30), follower).await.unwrap().unwrap();
        assert_eq!(seen.iter().map(|e| e.seq).collect::<Vec<_>>(), (1..=MODELS).collect::<Vec<_>>());
        assert_eq!(seen.iter().map(|e| &e.model).collect::<BTreeSet<_>>().len() as u64, MODELS);
    }
    assert!(began.elapsed() < Duration::from_secs(60), "told, not asked: {:?}", began.elapsed());
    assert_eq!(registry.verify().await.unwrap().unwrap().entries, MODELS);
}

#[tokio::test]
#[ignore = "needs a PostgreSQL server: ci/integration.sh"]
async fn a_watch_is_told_at_once() {
    let (store, schema) = (MemoryStore::default(), new_schema());
    let registry = open(builder(&store).poll_interval(Duration::from_secs(60)), &schema).await;
    let ana = who("ana", Role::Contributor);
    let mut watch = registry.watch(0);
    // It listens before it looks, so this is told whichever comes first.
    for n in 0..20 {
        let name = format!("m{n}");
        let (event, made) = tokio::join!(watch.next(), registry.create_model(&ana, NewModel::new(&name)));
        made.unwrap();
        assert_eq!(event.unwrap().model, name);
    }
}

#[tokio::test]
#[ignore = "needs a PostgreSQL server: ci/integration.sh"]
async fn what_cannot_be_opened_is_an_error_that_keeps_the_password() {
    let store = MemoryStore::default();
    for (url, schema, says) in [
        ("postgres://u:secret@127.0.0.1:1/d", "s", "could not open"),
        ("http://u:secret@127.0.0.1:1/d", "s", "PostgreSQL URL"),
        ("postgres://u:secret@[::1/d", "s", "PostgreSQL URL"),
        ("postgres://u:secret@127.0.0.1:1/d", "Upper", "schema"),
        ("postgres://u:secret@127.0.0.1:1/d", "pg_own", "schema"),
        ("postgres://u:secret@127.0.0.1:1/d", "", "schema"),
    ] {
        let builder = builder(&store).schema(schema).busy_timeout(Duration::from_secs(2));
        let error = builder.open_postgres(url).await.unwrap_err();
        assert!(error.to_string().contains(says), "{url}: {error}");
        assert!(!format!("{error} {error:?}").contains("secret"), "{error:?}");
    }
    let refused = builder(&store).connections(0).open_postgres(&url()).await.unwrap_err();
    assert!(refused.to_string().contains("connections"), "{refused}");
    let (registry, ..) = on_server().await;
    let refused = registry.backup("/nowhere/at/all").await.unwrap_err();
    assert!(refused.to_string().contains("pg_dump"), "{refused}");
}

#[cfg(not(feature = "postgres-tls"))]
#[tokio::test]
async fn tls_that_is_not_compiled_in_is_refused() {
    let store = MemoryStore::default();
    let error = builder(&store).open_postgres("postgres://u@127.0.0.1:1/d?sslmode=require").await.unwrap_err();
    assert!(error.to_string().contains("postgres-tls"), "{error}");
}

/// Figures for the notes: points per second and durable calls per second.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a PostgreSQL server: ci/integration.sh"]
async fn figures_on_a_server() {
    crate::group::measure(&on_server().await.0, 100).await;
}

//! Several handles on one file, and what is left when one is not closed.

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mlops_core::audit::AuditLogExt as _;
use mlops_core::store::MemoryStore;
use mlops_core::{Clock as _, PromotionId, Role, RunId, SystemClock};
use mlops_registry::conformance::model_registry::package;
use mlops_registry::{
    AliasPolicy, LogBatch, ModelRegistry, NewExperiment, NewModel, NewPromotion, NewRun, NewVersion, TrackingStore,
    TrackingStoreExt,
};

use crate::{builder, in_file, versions, who};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_handles_number_versions_without_gap_or_duplicate() {
    let (store, dir) = (MemoryStore::default(), tempfile::tempdir().unwrap());
    let path = dir.path().join("registry.db");
    let handles = [
        Arc::new(builder(&store).open_sqlite(&path).await.unwrap()),
        Arc::new(builder(&store).open_sqlite(&path).await.unwrap()),
    ];
    let ana = who("ana", Role::Contributor);
    handles[0].create_model(&ana, NewModel::new("m")).await.unwrap();
    let mut tasks = Vec::new();
    for i in 0..60_usize {
        let (registry, store, ana) = (Arc::clone(&handles[i % 2]), store.clone(), ana.clone());
        tasks.push(tokio::spawn(async move {
            let package = package(&store, &i.to_string()).await;
            registry.create_version(&ana, NewVersion::new("m", package)).await.unwrap().version
        }));
    }
    let mut numbers = Vec::new();
    for task in tasks {
        numbers.push(task.await.unwrap());
    }
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=60).collect::<Vec<u64>>());
    for registry in &handles {
        let listed: Vec<u64> = registry.versions("m").await.unwrap().iter().map(|v| v.version).collect();
        assert_eq!(listed, numbers);
        assert_eq!(registry.verify().await.unwrap().unwrap().entries, 61);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_handles_promote_and_one_wins() {
    let (first, store, dir) = in_file().await;
    let second = builder(&store).open_sqlite(dir.path().join("registry.db")).await.unwrap();
    versions(&first, &store, 2).await;
    let (ana, dan) = (who("ana", Role::Contributor), who("dan", Role::Deployer));
    for round in 0..20 {
        let alias = format!("a{round}");
        let one = first.request_promotion(&ana, NewPromotion::new("m", 1, &alias)).await.unwrap();
        let two = second.request_promotion(&ana, NewPromotion::new("m", 2, &alias)).await.unwrap();
        let (r1, r2) = tokio::join!(first.promote(&dan, one.id), second.promote(&dan, two.id));
        assert!(r1.is_ok() != r2.is_ok(), "{r1:?} {r2:?}");
        let (won, lost) = if r1.is_ok() { (r1, r2) } else { (r2, r1) };
        assert!(lost.unwrap_err().is_conflict());
        let now = second.alias("m", &alias).await.unwrap();
        assert_eq!((now.version, now.revision), (won.unwrap().version, 1));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_new_file_may_be_opened_many_times_at_once() {
    let (store, dir) = (MemoryStore::default(), tempfile::tempdir().unwrap());
    let path = dir.path().join("registry.db");
    let mut tasks = Vec::new();
    for _ in 0..8 {
        let (builder, path) = (builder(&store), path.clone());
        tasks.push(tokio::spawn(async move { builder.open_sqlite(path).await.unwrap().models().await.unwrap().len() }));
    }
    for task in tasks {
        assert_eq!(task.await.unwrap(), 0);
    }
}

#[tokio::test]
async fn a_writer_waits_only_so_long_and_the_error_is_retryable() {
    use sqlx::Connection as _;
    let (registry, store, dir) = in_file().await;
    let path = dir.path().join("registry.db");
    let hasty = builder(&store).busy_timeout(Duration::from_millis(50)).open_sqlite(&path).await.unwrap();
    let mut other = sqlx::SqliteConnection::connect(path.to_str().unwrap()).await.unwrap();
    sqlx::query("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
    let ana = who("ana", Role::Contributor);
    let error = hasty.create_model(&ana, NewModel::new("m")).await.unwrap_err();
    assert!(error.is_retryable(), "{error}");
    assert!(registry.models().await.unwrap().is_empty(), "readers go on");
    sqlx::query("COMMIT").execute(&mut other).await.unwrap();
    hasty.create_model(&ana, NewModel::new("m")).await.unwrap();
}

#[tokio::test]
async fn the_longest_wait_there_is_does_not_panic() {
    let (store, dir) = (MemoryStore::default(), tempfile::tempdir().unwrap());
    let patient = builder(&store).busy_timeout(Duration::MAX);
    let registry = patient.open_sqlite(dir.path().join("registry.db")).await.unwrap();
    registry.create_model(&who("ana", Role::Contributor), NewModel::new("m")).await.unwrap();
    assert_eq!(registry.models().await.unwrap().len(), 1);
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_a_drop_without_close() {
    let (registry, store, dir) = in_file().await;
    versions(&registry, &store, 1).await;
    let ana = who("ana", Role::Contributor);
    registry.create_experiment(&ana, NewExperiment::new("e")).await.unwrap();
    let run = registry.start_run(&ana, NewRun::new("e")).await.unwrap().id();
    registry.log_batch(&ana, run, LogBatch::new().metric("m", f64::NAN, 0, SystemClock.now())).await.unwrap();
    drop(registry);
    let registry = builder(&store).open_sqlite(dir.path().join("registry.db")).await.unwrap();
    assert_eq!(registry.versions("m").await.unwrap().len(), 1);
    assert!(registry.run(run).await.unwrap().metrics["m"].value.is_nan());
    assert_eq!(registry.verify().await.unwrap().unwrap().entries, 4);
}

#[tokio::test]
async fn a_dropped_call_leaves_all_or_nothing_and_the_registry_usable() {
    let (registry, store, _dir) = in_file().await;
    versions(&registry, &store, 1).await;
    let ana = who("ana", Role::Contributor);
    registry.create_experiment(&ana, NewExperiment::new("e")).await.unwrap();
    for i in 0..40_u64 {
        let id = RunId::derived(SystemClock.now(), &i.to_le_bytes());
        let call = registry.start_run(&ana, NewRun::new("e").id(id));
        let _ = tokio::time::timeout(Duration::from_micros(i * 20), call).await;
    }
    // A commit that was under way when its call was dropped may still end; this one comes behind it.
    registry.start_run(&ana, NewRun::new("e")).await.unwrap();
    let entries = registry.verify().await.unwrap().unwrap().entries;
    let runs = registry.newest_runs("e", 100).await.unwrap().len() as u64;
    assert_eq!(entries, 3 + runs, "each run has its entry, and each entry its run");
}

const CHILD: &str = "MLOPS_REGISTRY_TEST_CHILD";

/// Not a test by itself: the child of the next one, which kills it.
#[tokio::test]
async fn child_that_is_killed() {
    let Ok(dir) = std::env::var(CHILD) else { return };
    let store = mlops_core::store::LocalStore::open(format!("{dir}/artifacts")).unwrap();
    let registry = mlops_registry::SqlRegistry::builder().artifacts(store.clone());
    let registry = registry.open_sqlite(format!("{dir}/registry.db")).await.unwrap();
    let [ana, rob, dan, root] = [
        who("ana", Role::Contributor),
        who("rob", Role::Reviewer),
        who("dan", Role::Deployer),
        who("root", Role::Admin),
    ];
    let acknowledged = |n: u64| std::fs::write(format!("{dir}/acknowledged-{n}"), "").unwrap();
    registry.create_model(&ana, NewModel::new("m")).await.unwrap();
    registry.set_policy(&root, "m", "champion", AliasPolicy::approvals(1)).await.unwrap();
    for n in 1_u64.. {
        let id = PromotionId::derived(mlops_core::clock::from_micros(0), &n.to_le_bytes());
        let package = package(&store, &n.to_string()).await;
        let version = registry.create_version(&ana, NewVersion::new("m", package)).await.unwrap();
        assert_eq!(version.version, n);
        registry.request_promotion(&ana, NewPromotion::new("m", n, "champion").id(id)).await.unwrap();
        registry.approve(&rob, id, "ok").await.unwrap();
        registry.promote(&dan, id).await.unwrap();
        acknowledged(n);
    }
}

/// The highest version that a child said it has promoted.
fn acknowledged(dir: &std::path::Path) -> u64 {
    let entries = std::fs::read_dir(dir).unwrap();
    let told = |name: &str| name.strip_prefix("acknowledged-")?.parse().ok();
    entries.filter_map(|e| told(e.unwrap().file_name().to_str()?)).max().unwrap_or(0)
}

/// A program killed at any moment finds every promotion that was acknowledged, and goes on by repeating its calls.
#[tokio::test]
async fn a_killed_process_loses_no_acknowledged_promotion() {
    let dir = tempfile::tempdir().unwrap();
    let exe = std::env::current_exe().unwrap();
    let mut last = 0;
    for round in 0..8_u64 {
        let mut child = Command::new(&exe)
            .args(["durability::child_that_is_killed", "--exact", "--nocapture"])
            .env(CHILD, dir.path())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        // The first child is killed at start-up or in its first calls, each later one a little after it went further
        // than all before it. The moments only spread the kills: what is asserted holds at any of them.
        if round > 0 {
            let began = Instant::now();
            while acknowledged(dir.path()) <= last {
                assert!(child.try_wait().unwrap().is_none(), "the child ended by itself: a repeated call failed");
                assert!(began.elapsed() < Duration::from_secs(120), "round {round}: no further than {last}");
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
        tokio::time::sleep(Duration::from_millis(20 + 7 * round)).await;
        assert!(child.try_wait().unwrap().is_none(), "the child ended by itself: a repeated call failed");
        child.kill().unwrap();
        child.wait().unwrap();

        let acknowledged = acknowledged(dir.path());
        let store = MemoryStore::default();
        let registry = builder(&store).open_sqlite(dir.path().join("registry.db")).await.unwrap();
        let revision = match registry.alias("m", "champion").await {
            Ok(alias) => {
                assert_eq!(alias.version, alias.revision, "one move per version, none twice");
                alias.revision
            }
            Err(error) => {
                assert!(error.is_not_found(), "{error}");
                0
            }
        };
        assert!(revision >= acknowledged, "round {round}: {acknowledged} acknowledged, {revision} there");
        registry.verify().await.unwrap().unwrap();
        registry.close().await;
        last = acknowledged;
    }
    assert!(last >= 7, "each child but the first went further: {last}");
}

#[tokio::test]
async fn what_is_no_registry_is_refused() {
    let (store, dir) = (MemoryStore::default(), tempfile::tempdir().unwrap());
    let path = dir.path().join("registry.db");
    std::fs::write(&path, "not a database, but long enough to be looked at".repeat(100)).unwrap();
    let error = builder(&store).open_sqlite(&path).await.unwrap_err();
    assert!(error.to_string().contains("could not open"), "{error}");
    let error = builder(&store).open_sqlite(dir.path().join("no/such/folder/r.db")).await.unwrap_err();
    assert!(error.to_string().contains("no/such/folder"), "{error}");
    let error = mlops_registry::SqlRegistry::builder().open_in_memory().await.unwrap_err();
    assert!(error.to_string().contains("artifacts"), "{error}");
    let error = builder(&store).readers(0).open_in_memory().await.unwrap_err();
    assert!(error.to_string().contains("readers"), "{error}");
}

/// What an earlier version of this crate wrote is there after the migrations, and cannot be logged again.
#[tokio::test]
async fn points_of_an_earlier_version_are_kept() {
    use sqlx::Connection as _;
    let (store, dir) = (MemoryStore::default(), tempfile::tempdir().unwrap());
    let path = dir.path().join("registry.db");
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&path).create_if_missing(true);
    let mut old = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::migrate!("./migrations").run_to(2, &mut old).await.unwrap();
    let run = RunId::derived(mlops_core::clock::from_micros(1), b"run");
    for statement in [
        "INSERT INTO experiments VALUES ('e', $1, '{}', 'ana', 1)",
        "INSERT INTO runs VALUES ($1, 'e', '', NULL, 'RUNNING', 'ana', 1, NULL, '')",
        "INSERT INTO run_metrics VALUES ($1, 'm', 1, 5, 0, 0.5), ($1, 'm', 2, 5, 1, 0), ($1, 'm', 2, 5, 0, 9e999)",
    ] {
        sqlx::query(statement).bind(run.to_string()).execute(&mut old).await.unwrap();
    }
    old.close().await.unwrap();
    let registry = builder(&store).open_sqlite(&path).await.unwrap();
    let at = mlops_core::clock::from_micros(5);
    let again = LogBatch::new().metric("m", 0.5, 1, at).metric("m", f64::NAN, 2, at);
    registry.log_batch(&who("ana", Role::Contributor), run, again).await.unwrap();
    let points: Vec<_> =
        registry.metric_history(run, "m").await.unwrap().iter().map(|m| (m.step, m.value.to_string())).collect();
    assert_eq!(points, [(1, "0.5".to_owned()), (2, "NaN".to_owned()), (2, "inf".to_owned())]);
}

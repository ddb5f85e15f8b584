//! Calls that write at once share commits, and each still keeps or loses its own work alone.

use std::time::{Duration, Instant};

use mlops_core::audit::AuditLogExt as _;
use mlops_core::{Clock as _, Role, RunId, SystemClock};
use mlops_registry::{LogBatch, ModelRegistry, NewExperiment, NewModel, NewRun, SqlRegistry, TrackingStore};

use crate::{in_file, in_memory, who};

/// Calls that succeed, calls that are refused and calls that are dropped, all at once: what succeeded is there, what was
/// refused is not, and what was dropped is there as a whole or not at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn each_call_of_a_group_keeps_or_loses_its_own_work_alone() {
    for in_a_file in [true, false] {
        let (registry, _store, _dir) = if in_a_file {
            in_file().await
        } else {
            let (registry, store) = in_memory().await;
            (registry, store, tempfile::tempdir().unwrap())
        };
        let ana = who("ana", Role::Contributor);
        registry.create_experiment(&ana, NewExperiment::new("e")).await.unwrap();
        let mut tasks = Vec::new();
        for i in 0..300_u64 {
            let (registry, ana) = (registry.clone(), ana.clone());
            tasks.push(tokio::spawn(async move {
                let id = RunId::derived(mlops_core::clock::from_micros(1), &i.to_le_bytes());
                let start = registry.start_run(&ana, NewRun::new("e").id(id));
                match i % 3 {
                    0 => start.await.map(|run| assert_eq!(run.id(), id)).unwrap(),
                    1 => {
                        // The run is written before the missing parent of its twin is noticed.
                        let run = registry.start_run(&ana, NewRun::new("e").id(id).tag("try", "1")).await.unwrap();
                        let changed = LogBatch::new().param("lr", 1).metric("m", 1.0, 0, SystemClock.now());
                        registry.log_batch(&ana, run.id(), changed).await.unwrap();
                        let other =
                            LogBatch::new().param("lr", 2).tag("try", "2").metric("m", 2.0, 1, SystemClock.now());
                        registry.log_batch(&ana, run.id(), other).await.unwrap_err();
                        let run = registry.run(id).await.unwrap();
                        assert_eq!((&*run.params["lr"], &*run.tags["try"]), ("1", "1"));
                        assert_eq!(run.metrics["m"].value, 1.0);
                    }
                    _ => drop(tokio::time::timeout(Duration::from_micros(i * 30), start).await),
                }
            }));
        }
        for task in tasks {
            task.await.unwrap();
        }
        // Behind a commit that was under way when its last call was dropped.
        registry.create_model(&ana, NewModel::new("m")).await.unwrap();
        let runs = registry.runs("e", 1_000, None).await.unwrap();
        assert!(runs.len() >= 200, "{}", runs.len());
        let entries = registry.verify().await.unwrap().unwrap().entries;
        assert_eq!(entries, 2 + runs.len() as u64 + 100, "one entry per run, and one per params that were kept");
    }
}

/// A call that finds what another has just written waits until that is permanent.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_same_call_many_times_at_once_is_one_call() {
    let (registry, _store, _dir) = in_file().await;
    let ana = who("ana", Role::Contributor);
    let tasks: Vec<_> = (0..64)
        .map(|_| {
            let (registry, ana) = (registry.clone(), ana.clone());
            tokio::spawn(async move {
                registry.create_model(&ana, NewModel::new("m")).await.unwrap();
                // A reader on another connection sees it, so it was committed.
                registry.model("m").await.unwrap().created_at
            })
        })
        .collect();
    let mut times = Vec::new();
    for task in tasks {
        times.push(task.await.unwrap());
    }
    times.dedup();
    assert_eq!(times.len(), 1);
    assert_eq!(registry.verify().await.unwrap().unwrap().entries, 1);
}

/// With everybody who waited for it gone, a transaction does not stay open.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn dropped_calls_leave_the_file_to_others() {
    let (registry, store, dir) = in_file().await;
    let other = crate::builder(&store).busy_timeout(Duration::from_secs(10));
    let other = other.open_sqlite(dir.path().join("registry.db")).await.unwrap();
    let ana = who("ana", Role::Contributor);
    for round in 0..100_u64 {
        let calls = (0..8).map(|i| registry.create_model(&ana, NewModel::new(format!("m{round}-{i}"))));
        let all = futures::future::join_all(calls);
        let _ = tokio::time::timeout(Duration::from_micros(round * 40), all).await;
        let began = Instant::now();
        other.create_model(&ana, NewModel::new(format!("other{round}"))).await.unwrap();
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    }
    let models = registry.models().await.unwrap().len() as u64;
    assert!(models >= 100);
    assert_eq!(registry.verify().await.unwrap().unwrap().entries, models);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures: run with --release --nocapture"]
async fn figures_on_a_file() {
    measure(&in_file().await.0, 1_000).await;
}

/// Durable calls per second of one metric each, and points per second of one caller with batches of a thousand.
pub(crate) async fn measure(registry: &SqlRegistry, batches: i64) {
    let ana = who("ana", Role::Contributor);
    registry.create_experiment(&ana, NewExperiment::new("e")).await.unwrap();
    for callers in [1_u64, 8, 64, 256] {
        let each = 5_000 / callers.max(5);
        let mut runs = Vec::new();
        for _ in 0..callers {
            runs.push(registry.start_run(&ana, NewRun::new("e")).await.unwrap().id());
        }
        let began = Instant::now();
        let tasks: Vec<_> = runs
            .iter()
            .map(|&run| {
                let (registry, ana) = (registry.clone(), ana.clone());
                tokio::spawn(async move {
                    for i in 0..each as i64 {
                        let batch = LogBatch::new().metric("m", i as f64, i, SystemClock.now());
                        registry.log_batch(&ana, run, batch).await.unwrap();
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        let took = began.elapsed().as_secs_f64();
        for run in runs {
            assert_eq!(registry.metric_history(run, "m").await.unwrap().len() as u64, each);
        }
        println!("{callers} callers: {:.0} durable calls/s", (callers * each) as f64 / took);
    }
    let run = registry.start_run(&ana, NewRun::new("e")).await.unwrap().id();
    let began = Instant::now();
    for batch in 1..=batches {
        let points = (0..1_000).fold(LogBatch::new(), |b, i| {
            let step = batch * 1_000 + i;
            b.metric(["loss", "accuracy"][i as usize % 2], step as f64, step, mlops_core::clock::from_micros(step))
        });
        registry.log_batch(&ana, run, points).await.unwrap();
        if batch % (batches / 4) == 0 {
            let points = batch as f64 * 1_000.0;
            println!("{points} points: {:.0} points/s", points / began.elapsed().as_secs_f64());
        }
    }
}

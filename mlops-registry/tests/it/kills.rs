//! A process that is killed at random moments while many of its calls write at once.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mlops_core::audit::AuditLogExt as _;
use mlops_core::{Principal, Role, RunId, clock};
use mlops_registry::conformance::model_registry::package;
use mlops_registry::{
    Durability, LogBatch, ModelRegistry, NewExperiment, NewModel, NewPromotion, NewRun, NewVersion, SqlRegistry,
    TrackingStore,
};

use crate::place::{Dice, Place, scale};
use crate::who;

const TASKS: u64 = 6;

fn run_of(task: u64) -> RunId {
    RunId::derived(clock::from_micros(1), &task.to_le_bytes())
}

/// Makes a call until it succeeds, as long as its error says that this may help: the server under test is restarted.
macro_rules! again {
    ($call:expr) => {
        loop {
            match $call.await {
                Ok(done) => break done,
                Err(error) if error.is_retryable() => tokio::time::sleep(Duration::from_millis(20)).await,
                Err(error) => panic!("{error:?}"),
            }
        }
    };
}

/// Not a test by itself: the process that is killed. Each task writes down what was acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_that_writes_until_it_is_killed() {
    let Some((place, job)) = Place::told() else { return };
    let round: u64 = job.parse().unwrap();
    let registry = again!(place.open(Durability::Disk));
    let (ana, dan) = (who("ana", Role::Contributor), who("dan", Role::Deployer));
    again!(registry.create_model(&ana, NewModel::new("m")));
    again!(registry.create_experiment(&ana, NewExperiment::new("e")));
    let log = std::fs::OpenOptions::new().append(true).create(true).open(place.folder().join("acknowledged")).unwrap();
    let log = Arc::new(Mutex::new(log));
    let mut tasks = Vec::new();
    for task in 0..TASKS {
        let (registry, store, log) = (registry.clone(), place.store(), Arc::clone(&log));
        let (ana, dan) = (ana.clone(), dan.clone());
        // One line, one write: it is there as a whole or not at all.
        let acknowledge = move |line: String| log.lock().unwrap().write_all(format!("{line}\n").as_bytes()).unwrap();
        tasks.push(tokio::task::spawn(async move {
            write_on(&registry, &store, (&ana, &dan), task, round, acknowledge).await;
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
}

async fn write_on(
    registry: &SqlRegistry,
    store: &mlops_core::store::LocalStore,
    (ana, dan): (&Principal, &Principal),
    task: u64,
    round: u64,
    acknowledge: impl Fn(String),
) {
    let run = run_of(task);
    again!(registry.start_run(ana, NewRun::new("e").id(run)));
    for i in 0_i64.. {
        let step = (round as i64) * 1_000_000 + i;
        let batch = || LogBatch::new().metric("m", step as f64, step, clock::from_micros(step));
        again!(registry.log_batch(ana, run, batch()));
        acknowledge(format!("metric {task} {step}"));
        if i % 4 == 0 {
            let package = package(store, &format!("{task}-{step}")).await;
            let version = again!(registry.create_version(ana, NewVersion::new("m", package))).version;
            acknowledge(format!("version {version} {package}"));
            let alias = format!("a{task}");
            let id = mlops_core::PromotionId::derived(clock::from_micros(step), format!("{task}-{step}").as_bytes());
            again!(registry.request_promotion(ana, NewPromotion::new("m", version, &alias).id(id)));
            let moved = again!(registry.promote(dan, id));
            acknowledge(format!("move {alias} {} {version}", moved.revision.unwrap()));
        }
    }
}

/// Everything acknowledged in the log from byte `from` on is there; gives the log's length and how many lines were new.
async fn check(place: &Place, registry: &SqlRegistry, from: usize) -> (usize, usize) {
    let text = std::fs::read(place.folder().join("acknowledged")).unwrap_or_default();
    let text = String::from_utf8(text).unwrap();
    let end = text.rfind('\n').map_or(0, |last| last + 1);
    let lines: Vec<&str> = text[from.min(end)..end].lines().collect();
    let mut steps = Vec::new();
    for task in 0..TASKS {
        let history = match registry.metric_history(run_of(task), "m").await {
            Ok(history) => history.iter().map(|m| m.step).collect::<BTreeSet<i64>>(),
            Err(error) if error.is_not_found() => BTreeSet::new(),
            Err(error) => panic!("{error}"),
        };
        steps.push(history);
    }
    let versions = match registry.versions("m").await {
        Ok(versions) => versions,
        Err(error) if error.is_not_found() => Vec::new(),
        Err(error) => panic!("{error}"),
    };
    for (place, version) in versions.iter().enumerate() {
        assert_eq!(version.version, place as u64 + 1);
    }
    let moves: BTreeSet<(String, u64, u64)> = match registry.promotions("m").await {
        Ok(all) => all.into_iter().filter_map(|p| Some((p.alias, p.revision?, p.version))).collect(),
        Err(error) if error.is_not_found() => BTreeSet::new(),
        Err(error) => panic!("{error}"),
    };
    for line in &lines {
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["metric", task, step] => {
                assert!(steps[task.parse::<usize>().unwrap()].contains(&step.parse().unwrap()), "lost: {line}");
            }
            ["version", number, package] => {
                let number: usize = number.parse().unwrap();
                assert_eq!(versions[number - 1].package.to_string(), package, "lost: {line}");
            }
            ["move", alias, revision, version] => {
                let moved = (alias.to_owned(), revision.parse().unwrap(), version.parse().unwrap());
                assert!(moves.contains(&moved), "lost: {line}");
            }
            _ => panic!("{line}"),
        }
    }
    registry.verify().await.unwrap().unwrap();
    (end, lines.len())
}

async fn kill_and_check(place: Place, rounds: u64, mut disturb: impl FnMut(u64)) {
    let (mut dice, mut from, mut total) = (Dice(7), 0, 0);
    for round in 0..rounds {
        let mut child = place.start("kills::child_that_writes_until_it_is_killed", &round.to_string());
        tokio::time::sleep(Duration::from_millis(5 + dice.below(200))).await;
        disturb(round);
        assert!(child.try_wait().unwrap().is_none(), "round {round}: a call failed");
        child.kill().unwrap();
        child.wait().unwrap();
        let registry = again!(place.open(Durability::Disk));
        let (end, new) = check(&place, &registry, from).await;
        (from, total) = (end, total + new);
        registry.close().await;
    }
    // All of it once more: nothing that was found is gone since.
    let registry = place.open(Durability::Disk).await.unwrap();
    check(&place, &registry, 0).await;
    assert!(total as u64 > rounds, "{total} writes acknowledged");
    println!("{rounds} kills, {total} acknowledged writes there");
}

#[tokio::test]
async fn whatever_was_acknowledged_survives_kills_on_a_file() {
    let (place, _dir) = Place::file();
    kill_and_check(place, scale("MLOPS_TEST_KILLS", 15), |_| {}).await;
}

#[cfg(feature = "postgres")]
#[tokio::test]
#[ignore = "needs a PostgreSQL server: ci/integration.sh"]
async fn whatever_was_acknowledged_survives_kills_on_a_server() {
    let (place, _dir) = Place::schema();
    kill_and_check(place, scale("MLOPS_TEST_KILLS", 15), |_| {}).await;
}

/// `MLOPS_TEST_POSTGRES_CRASH` stops the server at once, as a crash does, and starts it again.
#[cfg(feature = "postgres")]
#[tokio::test]
#[ignore = "needs a PostgreSQL server of its own to crash: ci/integration.sh"]
async fn whatever_was_acknowledged_survives_crashes_of_the_server() {
    let crash = std::env::var("MLOPS_TEST_POSTGRES_CRASH").expect("MLOPS_TEST_POSTGRES_CRASH is a command");
    let (place, _dir) = Place::schema();
    let rounds = scale("MLOPS_TEST_CRASHES", 5);
    kill_and_check(place, rounds, |_| {
        assert!(std::process::Command::new("sh").args(["-c", &crash]).status().unwrap().success());
        // The client finds its connections cut, and goes on.
        std::thread::sleep(Duration::from_millis(300));
    })
    .await;
}

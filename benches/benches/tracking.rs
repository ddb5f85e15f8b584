//! Searches of `mlops-registry` on a SQLite file with many runs: the median and the 99th percentile of each.
//!
//!     cargo bench -p mlops-benches --bench tracking -- 100000 100
//!
//! The arguments are the number of runs and the points of each run. Without them it is a short check.
#![allow(clippy::unwrap_used, missing_docs)] // nothing to do but stop where the set-up fails

use std::time::{Duration, Instant};

use mlops_core::store::MemoryStore;
use mlops_core::{ExperimentId, Principal, Role, RunId};
use mlops_registry::{Durability, NewExperiment, Search, SqlRegistry, TrackingStore};
use sqlx::{AssertSqlSafe, Connection as _, SqliteConnection};

const METRICS: u64 = 10;
const ROUNDS: u64 = 100;

/// Writes runs straight into the tables, as fast as SQLite takes them.
async fn fill(path: &str, experiment: ExperimentId, runs: u64, points: u64) {
    let mut hand = SqliteConnection::connect(path).await.unwrap();
    let numbers =
        |n: u64| format!("WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < {n}) ");
    let run = "printf('%08x-0000-7000-8000-%012x', i, i)";
    // A value between 0 and 1 that looks random.
    let value = "((i * 2654435761 + m.k * 40503) % 1000003) / 1000003.0";
    let keys: Vec<String> = (0..METRICS).map(|k| format!("SELECT {k} AS k")).collect();
    let keys = keys.join(" UNION ALL ");
    for statement in [
        "PRAGMA synchronous = OFF".to_owned(),
        "BEGIN".to_owned(),
        format!(
            "INSERT INTO runs (id, experiment_key, name, status, author, started_at, content) {} SELECT {run}, '{experiment}', \
             'run ' || i, 'FINISHED', 'ana', i * 1000000, '' FROM n",
            numbers(runs)
        ),
        format!(
            "INSERT INTO run_params (run_id, name, value) {} SELECT {run}, 'model', \
             CASE i % 3 WHEN 0 THEN 'mlp' WHEN 1 THEN 'tree' ELSE 'linear' END FROM n",
            numbers(runs)
        ),
        format!("INSERT INTO run_params (run_id, name, value) {} SELECT {run}, 'seed', i FROM n", numbers(runs)),
        format!(
            "INSERT INTO run_tags (run_id, name, value) {} SELECT {run}, 'host', 'node-' || (i % 50) FROM n",
            numbers(runs)
        ),
        format!(
            "INSERT INTO run_latest_metrics (run_id, name, step, logged_at, is_nan, value) {} \
             SELECT {run}, 'm' || m.k, {points}, 0, 0, {value} FROM n, ({keys}) AS m",
            numbers(runs)
        ),
        format!(
            "INSERT INTO run_metrics (series, step, logged_at, is_nan, value) \
             SELECT l.series, s.j, 0, 0, s.j FROM run_latest_metrics AS l, \
             (WITH RECURSIVE s (j) AS (SELECT 0 UNION ALL SELECT j + 1 FROM s WHERE j + 1 < {}) SELECT j FROM s) AS s",
            points.div_ceil(METRICS)
        ),
        "COMMIT".to_owned(),
    ] {
        sqlx::query(AssertSqlSafe(statement)).execute(&mut hand).await.unwrap();
    }
}

fn report(name: &str, found: usize, mut times: Vec<Duration>) {
    times.sort();
    let at = |share: f64| times[((times.len() - 1) as f64 * share).round() as usize].as_secs_f64() * 1e3;
    println!("{name:<58} {found:>5} found  p50 {:>8.2} ms  p99 {:>8.2} ms", at(0.5), at(0.99));
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut numbers = std::env::args().filter_map(|arg| arg.parse::<u64>().ok());
    let (runs, points) = (numbers.next().unwrap_or(1_000), numbers.next().unwrap_or(20));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("registry.db");
    let registry = SqlRegistry::builder().artifacts(MemoryStore::default()).durability(Durability::Process);
    let registry = registry.open_sqlite(&path).await.unwrap();
    let ana = Principal::new("ana").with_role(Role::Contributor);
    let e = registry.create_experiment(&ana, NewExperiment::new("e")).await.unwrap().id;
    let start = Instant::now();
    fill(path.to_str().unwrap(), e, runs, points).await;
    let bytes = std::fs::metadata(&path).unwrap().len();
    println!("{runs} runs, {} points, {} MB, written in {:?}", runs * points, bytes >> 20, start.elapsed());

    let seed = move |round: u64| round * 7919 % runs;
    type Case = (&'static str, Box<dyn Fn(u64) -> Search>);
    let cases: Vec<Case> = vec![
        ("newest", Box::new(|_| Search::default())),
        ("params.seed = 'n', one of all", Box::new(move |r| Search::new(format!("params.seed = '{}'", seed(r))))),
        ("params.model = 'mlp', every third", Box::new(|_| Search::new("params.model = 'mlp'"))),
        ("tags.host = 'node-7', every fiftieth", Box::new(|_| Search::new("tags.host = 'node-7'"))),
        ("tags.host LIKE 'node-%', all", Box::new(|_| Search::new("tags.host LIKE 'node-%'"))),
        ("tags.host LIKE '%none%', none", Box::new(|_| Search::new("tags.host LIKE '%none%'"))),
        ("params.none IS NULL, all", Box::new(|_| Search::new("params.none IS NULL"))),
        ("metrics.m3 > 0.999, one of a thousand", Box::new(|_| Search::new("metrics.m3 > 0.999"))),
        (
            "metrics.m3 > 0.5 AND params.model = 'mlp'",
            Box::new(|_| Search::new("metrics.m3 > 0.5 AND params.model = 'mlp'")),
        ),
        (
            "metrics.m1 > 0.95 AND metrics.m2 > 0.95",
            Box::new(|_| Search::new("metrics.m1 > 0.95 AND metrics.m2 > 0.95")),
        ),
        ("all, by metrics.m3 DESC", Box::new(|_| Search::default().order_by("metrics.m3 DESC"))),
        (
            "params.model = 'mlp', by metrics.m3 DESC",
            Box::new(|_| Search::new("params.model = 'mlp'").order_by("metrics.m3 DESC")),
        ),
        ("all, by params.seed", Box::new(|_| Search::default().order_by("params.seed"))),
    ];
    for (name, search) in cases {
        let (mut times, mut found) = (Vec::new(), 0);
        for round in 0..ROUNDS {
            let start = Instant::now();
            let page = registry.search_runs(&[e], search(round).limit(100)).await.unwrap();
            times.push(start.elapsed());
            found = page.items.len();
        }
        report(name, found, times);
    }
    let (mut times, mut search) = (Vec::new(), Search::default().order_by("metrics.m3 DESC").limit(100));
    for _ in 0..ROUNDS {
        let start = Instant::now();
        let page = registry.search_runs(&[e], search.clone()).await.unwrap();
        times.push(start.elapsed());
        let Some(next) = page.next else { break };
        search = search.after(next);
    }
    report("all, by metrics.m3 DESC, page after page", 100, times);
    let mut times = Vec::new();
    for round in 0..ROUNDS {
        let n = seed(round);
        let run: RunId = format!("{n:08x}-0000-7000-8000-{n:012x}").parse().unwrap();
        let start = Instant::now();
        registry.metric_page(run, "m3", 1_000, None).await.unwrap();
        times.push(start.elapsed());
    }
    report("history of one metric of a run", points.div_ceil(METRICS) as usize, times);
}

//! Searches against a plain evaluator, plans of queries, the migration of older files, and the metric logger.

use std::collections::BTreeSet;

use futures::TryStreamExt as _;
use mlops_core::clock::from_micros;
use mlops_core::{Digest, ExperimentId, ManualClock, Principal, Role, RunId};
use mlops_registry::search::{Entity, Filter, Order};
use mlops_registry::{
    LifecycleStage, LogBatch, Metric, MetricLogger, NewExperiment, NewRun, Run, RunEdit, RunInput, RunStatus, RunTable,
    Search, SqlRegistry, TrackingStore, TrackingStoreExt, View, export,
};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use sqlx::Connection as _;

use crate::{builder, in_file, in_memory, who};

fn ana() -> Principal {
    who("ana", Role::Contributor)
}

/// What a run of a random store may have; few values, so that filters meet them.
#[derive(Clone, Debug)]
struct Made {
    name: usize,
    started: i64,
    ended: Option<i64>,
    params: Vec<Option<usize>>,
    tag: Option<usize>,
    metrics: Vec<Option<usize>>,
    inputs: Vec<(usize, usize)>,
    deleted: bool,
}

const TEXTS: [&str; 8] = ["", "a", "A", "ab", "a%", "b_*", "[a]", "é`'\"x"];
const NUMBERS: [f64; 8] = [0.0, -1.5, 2.0, 0.1, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e300];

fn made() -> impl Strategy<Value = Made> {
    let text = || prop::option::of(0..TEXTS.len());
    let numbers = prop::collection::vec(prop::option::of(0..NUMBERS.len()), 2);
    (
        0..TEXTS.len(),
        // Two in the same millisecond, and two at the same moment.
        prop::sample::select(vec![0, 1_000_000, 1_000_001, 1_999_999, 2_000_000, -1]),
        prop::option::of(prop::sample::select(vec![0, 2_000_000, 2_000_500])),
        prop::collection::vec(text(), 2),
        text(),
        numbers,
        prop::collection::vec((1..TEXTS.len(), 0..2usize), 0..3),
        prop::bool::weighted(0.2),
    )
        .prop_map(|(name, started, ended, params, tag, metrics, inputs, deleted)| Made {
            name,
            started,
            ended,
            params,
            tag,
            metrics,
            inputs,
            deleted,
        })
}

fn clause() -> impl Strategy<Value = String> {
    let quote = |text: &str| format!("'{}'", text.replace('\'', "''"));
    let text_field = prop::sample::select(vec![
        "params.p0",
        "params.`p 1`",
        "tags.t",
        "run_name",
        "status",
        "user_id",
        "datasets.name",
        "datasets.context",
    ]);
    let value =
        prop::sample::select([&TEXTS[..], &["FINISHED", "ana", "training", "%a%", "_", "a_", "A%", "%*"]].concat());
    let text = (text_field, prop::sample::select(vec!["=", "!=", "LIKE", "ILIKE"]), value)
        .prop_map(move |(field, op, value)| format!("{field} {op} {}", quote(value)));
    let number_field = prop::sample::select(vec!["metrics.m0", "metrics.`m 1`"]);
    let op = || prop::sample::select(vec!["=", "!=", "<", "<=", ">", ">="]);
    let number = (number_field, op(), prop::sample::select(vec!["0", "-1.5", "0.1", "2", "inf", "-inf", "1e300"]))
        .prop_map(|(field, op, value)| format!("{field} {op} {value}"));
    let time = (
        prop::sample::select(vec!["start_time", "end_time"]),
        op(),
        prop::sample::select(vec!["0", "1000", "1000.5", "2000", "-1", "-0.5"]),
    )
        .prop_map(|(field, op, value)| format!("{field} {op} {value}"));
    let rest = prop::sample::select(vec![
        "metrics.m0 = nan",
        "metrics.m0 != nan",
        "params.p0 IS NULL",
        "params.p0 IS NOT NULL",
        "tags.t IS NULL",
        "datasets.name IN ('a', 'ab')",
        "datasets.name NOT IN ('a')",
        "datasets.digest = 'd'",
    ]);
    prop_oneof![text, number, time, rest.prop_map(str::to_owned)]
}

fn orders() -> impl Strategy<Value = Vec<String>> {
    let field = prop::sample::select(vec![
        "metrics.m0",
        "metrics.`m 1`",
        "params.p0",
        "tags.t",
        "run_name",
        "start_time",
        "end_time",
        "status",
        "run_id",
    ]);
    let key = (field, prop::bool::ANY).prop_map(|(field, up)| format!("{field} {}", if up { "ASC" } else { "DESC" }));
    prop::collection::vec(key, 0..3)
}

async fn fill(registry: &SqlRegistry, experiment: &str, made: &[Made]) -> ExperimentId {
    let e = registry.create_experiment(&ana(), NewExperiment::new(experiment)).await.unwrap().id;
    for (i, made) in made.iter().enumerate() {
        let id = RunId::derived(from_micros(0), format!("{experiment} {i}").as_bytes());
        let mut new = NewRun::new(experiment).id(id).name(TEXTS[made.name]).started_at(from_micros(made.started));
        if let Some(tag) = made.tag {
            new = new.tag("t", TEXTS[tag]);
        }
        registry.start_run(&ana(), new).await.unwrap();
        let mut batch = LogBatch::new();
        for (key, value) in ["p0", "p 1"].iter().zip(&made.params) {
            if let Some(value) = value {
                batch = batch.param(*key, TEXTS[*value]);
            }
        }
        for (key, value) in ["m0", "m 1"].iter().zip(&made.metrics) {
            if let Some(value) = value {
                batch = batch.metric(*key, 7.0, 0, from_micros(0)).metric(*key, NUMBERS[*value], 1, from_micros(0));
            }
        }
        registry.log_batch(&ana(), id, batch).await.unwrap();
        let inputs =
            made.inputs.iter().map(|(name, c)| RunInput::new(TEXTS[*name], "d", ["training", ""][*c])).collect();
        registry.log_inputs(&ana(), id, inputs).await.unwrap();
        if let Some(ended) = made.ended {
            let edit = RunEdit::new().status(RunStatus::Finished).ended_at(from_micros(ended));
            registry.edit_run(&ana(), id, edit).await.unwrap();
        }
        if made.deleted {
            registry.delete_run(&ana(), id).await.unwrap();
        }
    }
    e
}

/// Random stores, filters, orders and pages: what SQL finds is what a plain loop over all runs finds.
#[test]
fn searches_find_what_a_plain_evaluator_finds() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (registry, _) = runtime.block_on(in_memory());
    let mut runner = TestRunner::new_with_rng(
        Config { cases: 24, failure_persistence: None, ..Config::default() },
        proptest::test_runner::TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha),
    );
    let searches = prop::collection::vec((prop::collection::vec(clause(), 0..3), orders(), 1..9usize, 0..3usize), 40);
    let counter = std::cell::Cell::new(0);
    runner
        .run(&(prop::collection::vec(made(), 0..14), searches), |(made, searches)| {
            counter.set(counter.get() + 1);
            runtime.block_on(async {
                let e = fill(&registry, &format!("e{}", counter.get()), &made).await;
                let all = registry.search_runs(&[e], Search::default().view(View::All)).await.unwrap().items;
                assert_eq!(all.len(), made.len());
                for (clauses, keys, limit, view) in searches {
                    let view = [View::Active, View::Deleted, View::All][view];
                    let text = clauses.join(" AND ");
                    let filter = Filter::parse(Entity::Runs, &text).unwrap();
                    let mut expected: Vec<&Run> =
                        all.iter().filter(|r| view.shows(r.info.stage) && filter.fits(*r, &[])).collect();
                    let mut order: Vec<Order> = keys.iter().map(|k| Order::parse(Entity::Runs, k).unwrap()).collect();
                    order.extend(Entity::Runs.ties());
                    expected.sort_by(|a, b| {
                        order.iter().map(|o| o.compare(*a, *b)).find(|c| c.is_ne()).unwrap_or(std::cmp::Ordering::Equal)
                    });
                    let mut search = Search::new(&text).view(view).limit(limit);
                    search.order_by = keys.clone();
                    let mut found = Vec::new();
                    loop {
                        let page = registry.search_runs(&[e], search.clone()).await.unwrap();
                        found.extend(page.items.iter().map(Run::id));
                        let Some(next) = page.next else { break };
                        search = search.after(next);
                    }
                    let expected: Vec<RunId> = expected.into_iter().map(Run::id).collect();
                    prop_assert_eq!(found, expected, "{} by {:?}, {:?}", text, keys, view);
                }
                Ok(())
            })
        })
        .unwrap();
}

/// A file of the first schemas, with runs in it, opens with everything that was there.
#[tokio::test]
async fn older_files_keep_their_experiments_and_runs() {
    let (store, dir) = (mlops_core::store::MemoryStore::default(), tempfile::tempdir().unwrap());
    let path = dir.path().join("registry.db");
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&path).create_if_missing(true);
    let mut old = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
    let mut first = sqlx::migrate!("./migrations");
    first.migrations.to_mut().retain(|migration| migration.version < 10);
    first.run(&mut old).await.unwrap();
    let (e, run) = (ExperimentId::new(from_micros(5)), RunId::new(from_micros(5)));
    let digest = Digest::of(b"rows");
    let started = Digest::of_json(&("ana", &NewRun::new("e").id(run).name("r"))).unwrap();
    for statement in [
        format!("INSERT INTO experiments VALUES ('e', '{e}', '{{\"team\":\"é'' x\",\"n\":\"1\"}}', 'ana', 5)"),
        format!("INSERT INTO experiments VALUES ('bare', '{}', '{{}}', 'ana', 6)", ExperimentId::new(from_micros(6))),
        format!("INSERT INTO runs VALUES ('{run}', 'e', 'r', NULL, 'RUNNING', 'ana', 7, NULL, '{started}')"),
        format!("INSERT INTO run_params VALUES ('{run}', 'lr', '0.1')"),
        format!("INSERT INTO run_metrics VALUES ('{run}', 'loss', 1, 8, 0, 0.5), ('{run}', 'loss', 2, 9, 1, 0)"),
        format!("INSERT INTO run_latest_metrics VALUES ('{run}', 'loss', 2, 9, 1, 0)"),
        format!("INSERT INTO run_inputs VALUES ('{run}', 'd', '{digest}', 'training')"),
        format!("INSERT INTO run_artifacts VALUES ('{run}', 'a/b', '{digest}', 4)"),
    ] {
        sqlx::query(sqlx::AssertSqlSafe(statement)).execute(&mut old).await.unwrap();
    }
    old.close().await.unwrap();

    let registry = builder(&store).open_sqlite(&path).await.unwrap();
    let found = registry.experiment("e").await.unwrap();
    assert_eq!((found.id, found.created_at, found.updated_at), (e, from_micros(5), from_micros(5)));
    assert_eq!((&*found.tags["team"], &*found.tags["n"], found.stage), ("é' x", "1", LifecycleStage::Active));
    let same = NewExperiment::new("e").tag("team", "é' x").tag("n", "1");
    assert_eq!(registry.create_experiment(&ana(), same).await.unwrap(), found, "created again as it was");
    assert!(registry.create_experiment(&ana(), NewExperiment::new("e")).await.is_err());
    assert!(registry.experiment("bare").await.unwrap().tags.is_empty());

    let there = registry.run(run).await.unwrap();
    assert_eq!(
        registry.start_run(&ana(), NewRun::new("e").id(run).name("r")).await.unwrap().id(),
        run,
        "started again"
    );
    assert_eq!((there.info.experiment_id, there.info.started_at), (e, from_micros(7)));
    assert!(there.params["lr"] == "0.1" && there.metrics["loss"].value.is_nan());
    assert_eq!(registry.metric_history(run, "loss").await.unwrap().len(), 2);
    assert_eq!(there.inputs[0].dataset_ref().unwrap().digest, digest);
    assert_eq!(there.inputs, [RunInput::of(&there.inputs[0].dataset_ref().unwrap(), "training")]);
    assert_eq!(registry.artifacts(run.into(), "a").await.unwrap()[0].bytes, 4);

    let edit = mlops_registry::ExperimentEdit::new().rename("renamed");
    registry.edit_experiment(&ana(), "e", edit).await.unwrap();
    assert_eq!(registry.run(run).await.unwrap().info.experiment, "renamed");
    registry.start_run(&ana(), NewRun::new("renamed")).await.unwrap();
    assert_eq!(registry.newest_runs("renamed", 9).await.unwrap().len(), 2);
}

/// The searches that must be fast enter an index where they shall.
#[tokio::test]
async fn searches_enter_their_indexes() {
    let (registry, _, dir) = in_file().await;
    let mut hand = sqlx::SqliteConnection::connect(dir.path().join("registry.db").to_str().unwrap()).await.unwrap();
    let mut plan = async |sql: &'static str| -> String {
        let rows: Vec<(i64, i64, i64, String)> =
            sqlx::query_as(sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}")))
                .fetch_all(&mut hand)
                .await
                .unwrap();
        rows.into_iter().map(|row| row.3 + "\n").collect()
    };
    let newest = plan("SELECT r.id FROM runs r WHERE r.experiment_key IN (?) AND r.deleted_at IS NULL ORDER BY r.started_at DESC, r.id LIMIT ?").await;
    assert!(newest.contains("USING INDEX runs_newest (experiment_key=?)") && !newest.contains("TEMP"), "{newest}");
    let walk = plan(
        "SELECT r.id FROM run_latest_metrics k0 CROSS JOIN runs r WHERE k0.run_id = r.id AND k0.name = ? AND k0.is_nan = 0 \
         AND r.experiment_key IN (?) ORDER BY k0.value DESC, r.started_at DESC, r.id LIMIT ?",
    )
    .await;
    assert!(walk.contains("k0 USING COVERING INDEX run_latest_metrics_by_value (name=? AND is_nan=?)"), "{walk}");
    let param = plan("SELECT COUNT(*) FROM (SELECT 1 FROM run_params t WHERE t.name = ? AND substr(t.value, 1, 250) = ? AND t.value = ? LIMIT ?)").await;
    assert!(param.contains("run_params_by_value (name=? AND <expr>=?)"), "{param}");
    let metric = plan("SELECT COUNT(*) FROM (SELECT 1 FROM run_latest_metrics t WHERE t.name = ? AND t.is_nan = 0 AND t.value > ? LIMIT ?)").await;
    assert!(metric.contains("run_latest_metrics_by_value (name=? AND is_nan=? AND value>?)"), "{metric}");
    registry.close().await;
}

async fn run(registry: &SqlRegistry) -> RunId {
    registry.create_experiment(&ana(), NewExperiment::new("e")).await.unwrap();
    registry.start_run(&ana(), NewRun::new("e")).await.unwrap().id()
}

#[tokio::test]
async fn a_logger_writes_everything_and_counts_what_is_refused() {
    let (registry, _) = in_memory().await;
    let id = run(&registry).await;
    let clock = ManualClock::at(from_micros(9));
    let (logger, writer) = MetricLogger::builder(registry.clone(), ana(), id).batch(64).clock(clock).build();
    let writer = tokio::spawn(writer.run());
    let clones: Vec<_> = (0..4).map(|_| logger.clone()).collect();
    for (i, clone) in clones.into_iter().enumerate() {
        std::thread::spawn(move || (0..500).for_each(|step| assert!(clone.log(format!("m{i}"), step as f64, step))))
            .join()
            .unwrap();
    }
    let all = logger.flush().await.unwrap();
    assert_eq!((all.written, all.lost), (2_000, 0));
    let points = registry.metric_history(id, "m3").await.unwrap();
    assert_eq!((points.len(), points[9].at), (500, from_micros(9)));
    // Of a batch only the point that cannot be kept is lost.
    (0..50).for_each(|step| assert!(logger.log(if step == 17 { "" } else { "ok" }, 1.0, step)));
    let error = logger.flush().await.unwrap_err();
    assert!(error.to_string().contains("metric"), "{error}");
    let counts = logger.flush().await.unwrap();
    assert_eq!((counts.written, counts.lost), (2_049, 1), "told of once");
    drop(logger);
    assert_eq!(writer.await.unwrap().unwrap(), counts);
}

#[tokio::test]
async fn a_logger_never_waits_and_never_loses_in_silence() {
    let (registry, _) = in_memory().await;
    let id = run(&registry).await;
    // Nobody writes yet: what does not fit is refused and counted.
    let (logger, writer) = MetricLogger::builder(registry.clone(), ana(), id).capacity(10).build();
    let taken = (0..15).filter(|&step| logger.log("m", 0.0, step)).count();
    assert_eq!((taken, logger.counts().lost), (10, 5));
    let writer = tokio::spawn(writer.run());
    let error = logger.flush().await.unwrap_err();
    assert!(error.to_string().contains("queue a point"), "{error}");
    assert_eq!(logger.flush().await.unwrap().written, 10);
    // A last point before the drop is written, and the writer ends by itself.
    assert!(logger.log("m", 1.0, 99));
    drop(logger);
    assert_eq!(writer.await.unwrap().unwrap().written, 11);
    assert_eq!(registry.metric_history(id, "m").await.unwrap().len(), 11);
    // A writer that is stopped leaves an error, not a flush that waits for ever.
    let (logger, writer) = MetricLogger::builder(registry.clone(), ana(), id).build();
    assert!(logger.log("late", 1.0, 0));
    drop(writer);
    assert!(logger.flush().await.unwrap_err().to_string().contains("queue a point"));
    assert!(!logger.log("late", 1.0, 1));
    assert_eq!(logger.counts().lost, 2);
    // Who may not track hears of it from the writer too.
    let (logger, writer) = MetricLogger::builder(registry, who("eve", Role::Viewer), id).build();
    logger.log("m", 1.0, 0);
    drop(logger);
    assert!(writer.run().await.unwrap_err().to_string().contains("may not track"));
}

#[tokio::test]
async fn tables_and_batches_hold_what_the_runs_hold() {
    let (registry, _) = in_memory().await;
    registry.create_experiment(&ana(), NewExperiment::new("e")).await.unwrap();
    for (i, name) in ["a|b", "c\nd", "c"].into_iter().enumerate() {
        let new =
            NewRun::new("e").name(name).started_at(from_micros(i as i64)).tag("mlflow.user", name).tag("same", "1");
        let id = registry.start_run(&ana(), new).await.unwrap().id();
        let mut batch = LogBatch::new().param("same", 1).metric("acc", [0.5, f64::NAN, 0.25][i], 1, from_micros(3));
        if i == 0 {
            batch = batch.param("only", "é");
        }
        registry.log_batch(&ana(), id, batch).await.unwrap();
    }
    let runs = registry.newest_runs("e", 9).await.unwrap();
    let table = RunTable::new(&runs);
    assert_eq!(table.header(), ["run", "params.only", "metrics.acc"]);
    assert_eq!(
        table.to_markdown(),
        "| run | params.only | metrics.acc |\n| --- | --- | ---: |\n| c |  | 0.25 |\n| c d |  | NaN |\n| a\\|b | é | 0.5 |\n"
    );
    assert_eq!(table.to_string().lines().map(|l| l.chars().count()).collect::<BTreeSet<_>>().len(), 1, "{table}");
    assert_eq!(RunTable::new(&[]).to_string(), "run\n");

    let e = runs[0].info.experiment_id;
    let batches: Vec<_> = export::runs(&registry, &[e], Search::default().limit(2)).try_collect().await.unwrap();
    assert_eq!(batches.iter().map(|b| b.num_rows()).collect::<Vec<_>>(), [2, 1]);
    assert!(batches.iter().all(|b| b.schema() == export::run_schema()));
    let params = batches[1].column_by_name("params").unwrap();
    let shown = arrow::util::display::array_value_to_string(params, 0).unwrap();
    assert_eq!(shown, "{only: é, same: 1}");
    let id = runs[0].id();
    let points =
        (0..25).fold(LogBatch::new(), |b, step| b.point(Metric::new("loss", step as f64, step, from_micros(step))));
    registry.log_batch(&ana(), id, points).await.unwrap();
    let batches: Vec<_> = export::metric_history(&registry, id, "loss", 10).try_collect().await.unwrap();
    assert_eq!(batches.iter().map(|b| b.num_rows()).collect::<Vec<_>>(), [10, 10, 5]);
    let steps = batches[2].column_by_name("step").unwrap();
    assert_eq!(arrow::util::display::array_value_to_string(steps, 4).unwrap(), "24");
    assert!(export::metric_history(&registry, id, "loss", 0).try_collect::<Vec<_>>().await.is_err());
}

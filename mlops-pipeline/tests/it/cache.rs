use std::sync::{Arc, Mutex};

use mlops_core::store::{LocalStore, MemoryStore, artifact_key};
use mlops_core::{ArtifactStore, ArtifactStoreExt, RunId};
use mlops_pipeline::{CodeIdentity, Handle, Pipeline, Runner, StepStatus};

/// Which steps ran, in order.
#[derive(Clone, Default)]
struct Ran(Arc<Mutex<Vec<&'static str>>>);

impl Ran {
    fn note(&self, step: &'static str) {
        self.0.lock().unwrap().push(step);
    }

    fn take(&self) -> Vec<&'static str> {
        let mut ran = std::mem::take(&mut *self.0.lock().unwrap());
        ran.sort_unstable();
        ran
    }
}

#[derive(Clone)]
struct Setup {
    code: Option<CodeIdentity>,
    rate: f64,
    rows: Vec<f64>,
    report_version: Option<&'static str>,
    report_cached: bool,
}

impl Default for Setup {
    fn default() -> Self {
        let code = Some(CodeIdentity::declared("v1"));
        Self { code, rate: 0.5, rows: vec![1.0, 2.0], report_version: None, report_cached: true }
    }
}

/// `ingest → train (with rate) → report`, and `profile` beside `train`.
fn pipeline(ran: &Ran, setup: &Setup) -> (Pipeline, Handle<String>) {
    let mut p = Pipeline::builder("prices");
    if let Some(code) = &setup.code {
        p = p.code(code.clone());
    }
    let rate = p.value("rate", setup.rate);
    let wanted = p.value("rows", setup.rows.clone());
    let noted = || {
        let ran = ran.clone();
        move |step| ran.note(step)
    };
    let note = noted();
    let rows = p.step("ingest", wanted, move |_, rows| {
        note("ingest");
        async move { Ok(rows) }
    });
    let note = noted();
    let model = p.step("train", (rows, rate), move |_, (rows, rate)| {
        note("train");
        async move { Ok(rate * rows.iter().sum::<f64>()) }
    });
    let note = noted();
    let profile = p.step("profile", rows, move |_, rows| {
        note("profile");
        async move { Ok(rows.len()) }
    });
    let note = noted();
    let report = p.step("report", (model, profile), move |_, (model, rows)| {
        note("report");
        async move { Ok(format!("{model} from {rows} rows")) }
    });
    if let Some(version) = setup.report_version {
        p.options(report).version(version);
    }
    if !setup.report_cached {
        p.options(report).uncached();
    }
    (p.build().unwrap(), report)
}

/// Runs it, and says which steps ran.
async fn run(store: &MemoryStore, setup: &Setup) -> Vec<&'static str> {
    let ran = Ran::default();
    let (pipeline, report) = pipeline(&ran, setup);
    let run = pipeline.run(&Runner::new(store.clone())).await.unwrap();
    let sum: f64 = setup.rows.iter().sum();
    assert_eq!(run.output(report).unwrap(), format!("{} from {} rows", setup.rate * sum, setup.rows.len()));
    ran.take()
}

const ALL: [&str; 4] = ["ingest", "profile", "report", "train"];
const NONE: [&str; 0] = [];

#[tokio::test]
async fn a_second_run_takes_everything_from_the_first_and_says_so() {
    let (store, ran) = (MemoryStore::default(), Ran::default());
    let (pipeline, report) = pipeline(&ran, &Setup::default());
    let first = pipeline.run(&Runner::new(store.clone())).await.unwrap();
    assert_eq!(ran.take(), ALL);
    let second = pipeline.run(&Runner::new(store.clone())).await.unwrap();
    assert_eq!(ran.take(), NONE);
    assert_ne!(first.id(), second.id());
    for step in &second.report().steps {
        assert_eq!(step.status, StepStatus::Cached { computed_by: first.id() }, "{}", step.step);
        assert_eq!(step.output, first.report().step(&step.step).unwrap().output);
    }
    assert_eq!(second.output(report).unwrap(), first.output(report).unwrap());
    assert!(second.report().to_string().contains(&first.id().to_string()));
}

#[tokio::test]
async fn a_change_runs_again_what_it_reaches_and_nothing_else() {
    let store = MemoryStore::default();
    let base = Setup::default();
    assert_eq!(run(&store, &base).await, ALL);
    assert_eq!(run(&store, &base).await, NONE);
    let other_rate = Setup { rate: 0.25, ..base.clone() };
    assert_eq!(run(&store, &other_rate).await, ["report", "train"]);
    // Another order of rows: the sum, and so the output of `train`, is the same, and `report` need not run.
    let other_rows = Setup { rows: vec![2.0, 1.0], ..base.clone() };
    assert_eq!(run(&store, &other_rows).await, ["ingest", "profile", "train"]);
    let other_version = Setup { report_version: Some("2"), ..base.clone() };
    assert_eq!(run(&store, &other_version).await, ["report"]);
    let other_code = Setup { code: Some(CodeIdentity::declared("v2")), ..base.clone() };
    assert_eq!(run(&store, &other_code).await, ALL);
    assert_eq!(run(&store, &base).await, NONE, "what was computed first is still there");
}

#[tokio::test]
async fn without_a_code_identity_nothing_is_cached() {
    let store = MemoryStore::default();
    let unknown = Setup { code: None, ..Setup::default() };
    assert_eq!(run(&store, &unknown).await, ALL);
    assert_eq!(run(&store, &unknown).await, ALL);
    assert!(store.list("cache/").await.unwrap().is_empty());
}

#[tokio::test]
async fn a_pipeline_of_another_name_shares_nothing() {
    let store = MemoryStore::default();
    for name in ["one", "two"] {
        let mut p = Pipeline::builder(name).code(CodeIdentity::declared("v1"));
        p.step("train", (), |_, ()| async { Ok(1) });
        let run = p.build().unwrap().run(&Runner::new(store.clone())).await.unwrap();
        assert_eq!(run.report().computed().count(), 1, "{name}");
    }
}

#[tokio::test]
async fn an_uncached_step_runs_in_every_run_but_once_in_each() {
    let (store, ran) = (MemoryStore::default(), Ran::default());
    let (pipeline, _) = pipeline(&ran, &Setup { report_cached: false, ..Setup::default() });
    let one = RunId::derived("1997-01-01T00:00:00Z".parse().unwrap(), b"one");
    pipeline.run(&Runner::new(store.clone()).run_id(one)).await.unwrap();
    assert_eq!(ran.take(), ALL);
    pipeline.run(&Runner::new(store.clone()).run_id(one)).await.unwrap();
    assert_eq!(ran.take(), NONE, "the same run, started again");
    pipeline.run(&Runner::new(store.clone())).await.unwrap();
    assert_eq!(ran.take(), ["report"], "another run");
}

#[tokio::test]
async fn a_broken_entry_or_output_is_computed_again_and_healed() {
    #[derive(Clone, Copy, Debug)]
    enum Damage {
        OutputGone,
        OutputChanged,
        EntryGone,
        EntryCut,
        EntryOfNothing,
    }
    use Damage::{EntryCut, EntryGone, EntryOfNothing, OutputChanged, OutputGone};
    for damage in [OutputGone, OutputChanged, EntryGone, EntryCut, EntryOfNothing] {
        let (store, ran) = (MemoryStore::default(), Ran::default());
        let (pipeline, _) = pipeline(&ran, &Setup::default());
        let first = pipeline.run(&Runner::new(store.clone())).await.unwrap();
        ran.take();
        let output = artifact_key(&first.report().step("train").unwrap().output.unwrap());
        let mut entry = String::new();
        for object in store.list("cache/").await.unwrap() {
            let key = object.key;
            let record: serde_json::Value = serde_json::from_slice(&store.get(&key).await.unwrap()).unwrap();
            if record["step"] == "train" {
                entry = key;
            }
        }
        match damage {
            OutputGone => store.delete(&output).await.unwrap(),
            OutputChanged => store.put(&output, "2.5".into()).await.unwrap(),
            EntryGone => store.delete(&entry).await.unwrap(),
            EntryCut => store.put(&entry, "{\"step\":\"tr".into()).await.unwrap(),
            EntryOfNothing => store.put(&entry, "{}".into()).await.unwrap(),
        }
        let second = pipeline.run(&Runner::new(store.clone())).await.unwrap();
        assert_eq!(ran.take(), ["train"], "{damage:?}");
        assert_eq!(second.report().step("train").unwrap().output, first.report().step("train").unwrap().output);
        pipeline.run(&Runner::new(store.clone())).await.unwrap();
        assert_eq!(ran.take(), NONE, "{damage:?} was not healed");
    }
}

#[tokio::test]
async fn an_output_of_another_type_is_no_hit() {
    let store = MemoryStore::default();
    let code = || CodeIdentity::declared("v1");
    let mut p = Pipeline::builder("p").code(code());
    p.step("answer", (), |_, ()| async { Ok("forty-two".to_owned()) });
    p.build().unwrap().run(&Runner::new(store.clone())).await.unwrap();
    let mut p = Pipeline::builder("p").code(code());
    let answer = p.step("answer", (), |_, ()| async { Ok(42_u32) });
    let run = p.build().unwrap().run(&Runner::new(store)).await.unwrap();
    assert_eq!(run.output(answer).unwrap(), 42);
}

#[tokio::test]
async fn floats_read_back_bit_for_bit() {
    let values: Vec<f64> = (1..2_000).map(|i| (f64::from(i) * 0.37).sin() / f64::from(i).exp2().min(1e300)).collect();
    let mut p = Pipeline::builder("p");
    let wanted = values.clone();
    let kept = p.step("values", (), move |_, ()| {
        let values = values.clone();
        async move { Ok(values) }
    });
    let run = p.build().unwrap().run(&Runner::new(MemoryStore::default())).await.unwrap();
    let read = run.output(kept).unwrap();
    assert!(read.iter().zip(&wanted).all(|(a, b)| a.to_bits() == b.to_bits()));
}

#[tokio::test]
async fn runners_at_the_same_time_share_a_store() {
    let (store, ran) = (MemoryStore::default(), Ran::default());
    let (pipeline, report) = pipeline(&ran, &Setup::default());
    let (a, b) = (Runner::new(store.clone()), Runner::new(store));
    let (one, two) = tokio::join!(pipeline.run(&a), pipeline.run(&b));
    assert_eq!(one.unwrap().output(report).unwrap(), two.unwrap().output(report).unwrap());
}

#[tokio::test]
async fn a_directory_keeps_what_was_computed_for_the_next_process() {
    let dir = tempfile::tempdir().unwrap();
    let ran = Ran::default();
    let (pipeline, report) = pipeline(&ran, &Setup::default());
    let mut digests = Vec::new();
    for wanted in [&ALL[..], &NONE[..]] {
        let store: Arc<dyn ArtifactStore> = Arc::new(LocalStore::open(dir.path()).unwrap());
        let run = pipeline.run(&Runner::new(store)).await.unwrap();
        assert_eq!(ran.take(), wanted);
        digests.push(run.digest(report).unwrap());
    }
    assert_eq!(digests[0], digests[1]);
}

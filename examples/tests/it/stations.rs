//! Bad input at each station of the journey: a clear error, and nothing lost.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, RecordBatch};
use mlops_core::dataset::{DatasetStore, GuardedDatasets, NewDataset, ParquetDatasets};
use mlops_core::lineage::{LineageEvents, MemorySink};
use mlops_core::store::{ArtifactStore, MemoryStore, PutMode, artifact_key};
use mlops_core::{
    Digest, ManualClock, ModelRef, ModelSource, Package, Principal, ResolvedModel, Role, RunId, Verdict,
    clock::from_micros,
};
use mlops_examples::elec2::{Elec2, FEATURES};
use mlops_examples::lifecycle::{Job, Workshop, data_gate, make};
use mlops_examples::train::TrainParams;
use mlops_pipeline::CodeIdentity;
use mlops_pipeline::gate::{Gate, Subject};
use mlops_registry::{
    AliasPolicy, ModelRegistry, NewModel, NewPromotion, NewRun, NewVersion, SqlRegistry, TrackingStore,
};
use mlops_serve::runtime::candle::WEIGHTS;
use mlops_serve::{Deployment, PackageLoader, Request, Runtimes, Split};

fn who(name: &str, role: Role) -> Principal {
    Principal::new(name).with_role(role)
}

/// A registry with one gated version of a small model, in memory.
struct Fixture {
    store: MemoryStore,
    registry: SqlRegistry,
    package: Digest,
    elec2: Arc<Elec2>,
}

async fn fixture() -> Fixture {
    let store = MemoryStore::default();
    let clock = ManualClock::at(from_micros(0));
    let registry = SqlRegistry::builder().artifacts(store.clone()).clock(clock.clone()).open_in_memory().await.unwrap();
    let elec2 = Arc::new(Elec2::open().unwrap());
    let ana = who("ana", Role::Contributor);
    registry.create_experiment(&ana, mlops_registry::NewExperiment::new("elec2")).await.unwrap();
    let run = RunId::derived(from_micros(0), b"fixture");
    registry.start_run(&ana, NewRun::new("elec2").id(run)).await.unwrap();
    let shop = Workshop {
        elec2: Arc::clone(&elec2),
        store: Arc::new(store.clone()),
        datasets: GuardedDatasets::new(ParquetDatasets::new(store.clone())),
        registry: registry.clone(),
        events: LineageEvents::to(MemorySink::default()),
        clock,
        code: CodeIdentity::declared("test"),
    };
    let made = make(&shop, job(run)).await.unwrap();
    assert_eq!(made.gates.verdict, Verdict::Pass, "{}", made.gates);
    registry.create_model(&ana, NewModel::new("elec2")).await.unwrap();
    registry.create_version(&ana, NewVersion::new("elec2", made.package).run(run)).await.unwrap();
    Fixture { store, registry, package: made.package, elec2 }
}

fn job(run: RunId) -> Job {
    let features = FEATURES.map(str::to_owned).to_vec();
    let (hidden, epochs, batch, learning_rate) = (vec![16], 30, 32, 0.01);
    let params = TrainParams {
        features,
        hidden,
        epochs,
        batch,
        learning_rate,
        weight_decay: 0.0,
        seed: 1,
        shuffle_labels: false,
    };
    Job { run, rows: (0, 1_500), holdout: 400, params, champion: None, who: who("ana", Role::Contributor), show: false }
}

fn resolved(package: Digest) -> ResolvedModel {
    ResolvedModel { name: "elec2".into(), version: 1, revision: 0, package }
}

/// Replaces one column of a batch.
fn with_column(rows: &RecordBatch, name: &str, values: Vec<f64>) -> RecordBatch {
    let at = rows.schema().index_of(name).unwrap();
    let mut columns = rows.columns().to_vec();
    columns[at] = Arc::new(Float64Array::from(values)) as ArrayRef;
    RecordBatch::try_new(rows.schema(), columns).unwrap()
}

#[test]
fn the_data_gate_names_missing_columns_nan_and_emptiness() {
    let elec2 = Elec2::open().unwrap();
    let rows = elec2.archive(0, 1_000);
    let finding = |rows: &RecordBatch| {
        let finding = data_gate().unwrap().check(&Subject::new().data(rows)).unwrap();
        (finding.verdict, finding.to_string())
    };
    assert_eq!(finding(&rows).0, Verdict::Pass, "{}", finding(&rows).1);
    let narrow = rows.project(&[0, 1, 2, 3, 4]).unwrap();
    let (verdict, told) = finding(&narrow);
    assert!(verdict == Verdict::Fail && told.contains("vic_demand"), "{told}");
    let mut prices = vec![0.1; 1_000];
    prices[17] = f64::NAN;
    let (verdict, told) = finding(&with_column(&rows, "nsw_price", prices));
    assert!(verdict == Verdict::Fail && told.contains("nsw_price") && told.contains("17"), "{told}");
    let (verdict, told) = finding(&rows.slice(0, 0));
    assert!(verdict == Verdict::Fail && told.contains('0'), "{told}");
}

#[tokio::test]
async fn an_empty_dataset_is_not_committed() {
    let datasets = ParquetDatasets::new(MemoryStore::default());
    let empty = Elec2::open().unwrap().archive(5, 5);
    let error = datasets.commit(NewDataset::new("elec2", [empty])).await.unwrap_err();
    assert_eq!(error.to_string(), "invalid dataset: elec2 has no rows");
}

#[tokio::test]
async fn the_registry_names_what_is_missing_and_who_may_not() {
    let Fixture { registry, .. } = fixture().await;
    let (ana, rita) = (who("ana", Role::Contributor), who("rita", Role::Reviewer));
    let (dora, adam) = (who("dora", Role::Deployer), who("adam", Role::Admin));

    let error = registry.resolve(&ModelRef::alias("elec2", "champion")).await.unwrap_err().to_string();
    assert!(error.contains("champion") && error.contains("not found"), "{error}");
    let error = registry.resolve(&ModelRef::version("elec2", 9)).await.unwrap_err().to_string();
    assert!(error.contains("elec2") && error.contains('9'), "{error}");

    registry.set_policy(&adam, "elec2", "champion", AliasPolicy::approvals(1)).await.unwrap();
    let promotion = registry.request_promotion(&ana, NewPromotion::new("elec2", 1, "champion")).await.unwrap();
    let error = registry.promote(&dora, promotion.id).await.unwrap_err().to_string();
    assert!(error.contains("0 of 1 approvals"), "{error}");
    let error = registry.promote(&rita, promotion.id).await.unwrap_err().to_string();
    assert!(error.contains("rita may not move alias"), "{error}");
    let author_and_reviewer = ana.clone().with_role(Role::Reviewer);
    let error = registry.approve(&author_and_reviewer, promotion.id, "mine").await.unwrap_err().to_string();
    assert!(error.contains("ana"), "the author of a version can't approve it: {error}");
    assert!(registry.alias("elec2", "champion").await.is_err(), "nothing has moved");

    registry.approve(&rita, promotion.id, "fine").await.unwrap();
    registry.promote(&dora, promotion.id).await.unwrap();
    assert_eq!(registry.alias("elec2", "champion").await.unwrap().version, 1);
}

#[tokio::test]
async fn a_package_with_one_byte_changed_is_never_served() {
    let Fixture { store, registry, package, .. } = fixture().await;
    let whole = Package::load(&store, &package).await.unwrap();
    let weights = whole.files()[WEIGHTS].clone();
    let key = artifact_key(&Digest::of(&weights));
    let mut damaged = weights.to_vec();
    damaged[weights.len() / 2] ^= 1;
    store.put_opts(&key, damaged.into(), PutMode::Overwrite).await.unwrap();
    let error = registry.package(&resolved(package)).await.unwrap_err().to_string();
    assert!(error.contains(WEIGHTS) && error.contains("corrupt"), "{error}");

    let loader = PackageLoader::new(registry, Runtimes::default());
    let split = Split::only("champion", ModelRef::version("elec2", 1));
    let error = Deployment::builder("prices", loader).start(split).await.unwrap_err().to_string();
    assert!(error.contains("corrupt"), "{error}");
}

#[tokio::test]
async fn weights_cut_short_before_packaging_are_named() {
    let Fixture { store, package, .. } = fixture().await;
    let mut files = Package::load(&store, &package).await.unwrap().files().clone();
    files.insert(WEIGHTS.into(), files[WEIGHTS].slice(..200));
    let error = Runtimes::default().load(&Package::from_files(files).unwrap()).unwrap_err().to_string();
    assert!(error.contains(WEIGHTS), "{error}");
}

#[tokio::test]
async fn requests_with_a_missing_column_or_nan_are_refused_and_named() {
    let Fixture { registry, elec2, .. } = fixture().await;
    let loader = PackageLoader::new(registry, Runtimes::default());
    let split = Split::only("champion", ModelRef::version("elec2", 1));
    let deployment = Deployment::builder("prices", loader).start(split).await.unwrap();
    let good = elec2.request(2_000).unwrap();
    let refused = async |rows: RecordBatch| deployment.predict(Request::new("k", rows)).await.unwrap_err().to_string();
    let error = refused(good.project(&[0, 1, 2]).unwrap()).await;
    assert!(error.contains("\"transfer\"") && error.contains("missing"), "{error}");
    let error = refused(with_column(&good, "transfer", vec![f64::INFINITY])).await;
    assert!(error.contains("\"transfer\"") && error.contains("row 0 is not finite"), "{error}");
    let error = refused(good.slice(0, 0)).await;
    assert!(error.contains("no rows"), "{error}");
    assert!(deployment.predict(Request::new("k", good)).await.is_ok(), "and it goes on answering");
}

#[tokio::test]
async fn a_pipeline_stops_at_rows_that_do_not_pass() {
    let Fixture { store, registry, elec2, .. } = fixture().await;
    let shop = Workshop {
        elec2,
        store: Arc::new(store.clone()),
        datasets: GuardedDatasets::new(ParquetDatasets::new(store)),
        registry,
        events: LineageEvents::to(MemorySink::default()),
        clock: ManualClock::at(from_micros(0)),
        code: CodeIdentity::declared("test"),
    };
    let few = Job { rows: (0, 100), holdout: 20, ..job(RunId::derived(from_micros(0), b"few")) };
    let error = make(&shop, few).await.unwrap_err();
    let mut told = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        told.push_str(&error.to_string());
        cause = error.source();
    }
    assert!(told.contains("check_data") && told.contains("500"), "{told}");
}

//! The training pipeline: rows in, a gated package out.

use std::sync::Arc;

use mlops_core::code::Environment;
use mlops_core::dataset::{DatasetStore, DatasetStoreExt, DatasetsAs, GuardedDatasets, NewDataset};
use mlops_core::lineage::{LineageEvents, LineageStore};
use mlops_core::package::{DatasetRef, Provenance, REFERENCE_PROFILE};
use mlops_core::signature::{ColumnSpec, ColumnType, Signature};
use mlops_core::{
    ArtifactStore, ArtifactStoreExt, Clock, Digest, ManualClock, Package, Predictor, PredictorExt, Principal, RunId,
    Verdict,
};
use mlops_monitor::ReferenceProfile;
use mlops_pipeline::gate::{
    ChallengerGate, ColumnRules, DataGate, GateSuite, LatencyGate, SliceGate, Subject, SuiteReport,
};
use mlops_pipeline::{CodeIdentity, Pipeline, RunReport, Runner, StepContext};
use mlops_registry::SqlRegistry;
use mlops_serve::Runtimes;
use mlops_serve::runtime::candle::{MlpConfig, add_to_package, to_safetensors};
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::elec2::{Elec2, LABEL};
use crate::train::{TrainParams, train};

/// The output column of every model here: the probability that the price is up.
pub const PROBABILITY: &str = "probability_up";

/// The pipeline that makes every model here.
pub const PIPELINE: &str = "train-elec2";

/// What every training run works with.
#[derive(Clone, Debug)]
pub struct Workshop {
    /// The stream.
    pub elec2: Arc<Elec2>,
    /// Where artifacts are kept.
    pub store: Arc<dyn ArtifactStore>,
    /// Where dataset versions are kept.
    pub datasets: GuardedDatasets,
    /// Where runs and lineage are recorded.
    pub registry: SqlRegistry,
    /// Where lineage is told to others.
    pub events: LineageEvents,
    /// The time.
    pub clock: ManualClock,
    /// What the steps are made of: the whole program, so that any change of it makes them run again.
    pub code: CodeIdentity,
}

/// One model to make.
#[derive(Clone, Debug)]
pub struct Job {
    /// The run it is tracked as.
    pub run: RunId,
    /// The rows of the stream: the first and the one after the last.
    pub rows: (usize, usize),
    /// How many of them, at the end, are held out.
    pub holdout: usize,
    /// How to train.
    pub params: TrainParams,
    /// The package of the champion to compare with.
    pub champion: Option<Digest>,
    /// Who commits and reads the data.
    pub who: Principal,
    /// Whether to show the steps as they run.
    pub show: bool,
}

/// What a job gave.
#[derive(Debug)]
pub struct Made {
    /// The rows it was made from.
    pub dataset: DatasetRef,
    /// The part that was trained on.
    pub trained_on: DatasetRef,
    /// The package.
    pub package: Digest,
    /// What the gates found.
    pub gates: SuiteReport,
    /// Mean loss of each epoch.
    pub losses: Vec<f64>,
    /// What became of each step.
    pub report: RunReport,
}

/// A dataset version in two parts.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Parts {
    train: DatasetRef,
    holdout: DatasetRef,
}

/// A trained network, its weights by digest.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Fitted {
    config: MlpConfig,
    weights: Digest,
    losses: Vec<f64>,
}

/// The signature of a model with these features.
fn signature(features: &[String]) -> Result<Signature> {
    let inputs = features.iter().map(|name| ColumnSpec::new(name, ColumnType::Double));
    Ok(Signature::new(inputs, [ColumnSpec::new(PROBABILITY, ColumnType::Double)])?)
}

/// What the rows must look like before anything is trained on them.
///
/// # Errors
/// None in practice: the rules are fixed.
pub fn data_gate() -> Result<DataGate> {
    let share = |name: &str| ColumnRules::new(name).of_type(ColumnType::Double).not_null().finite().range(0.0, 1.0);
    let apart = |name: &str| ColumnRules::new(name).of_type(ColumnType::Double).not_null().finite().range(-1.0, 1.0);
    let mut gate = DataGate::builder().name("data").min_rows(500);
    for name in ["period", "nsw_price", "nsw_demand", "vic_price", "vic_demand", "transfer"] {
        gate = gate.column(share(name));
    }
    gate = gate.column(share("price_before"));
    for name in ["price_over_day", "price_step", "price_yesterday", "demand_over_day", "demand_step"] {
        gate = gate.column(apart(name));
    }
    Ok(gate.column(ColumnRules::new(LABEL).of_type(ColumnType::Long).not_null().allowed([0, 1])).build()?)
}

/// What a model must show before it may ask for promotion.
fn model_gates() -> Result<GateSuite> {
    let challenger = ChallengerGate::builder(PROBABILITY).margin(0.05).floor(0.7).min_rows(200).build()?;
    let times_of_day = SliceGate::builder(PROBABILITY).quantiles("period", 4).margin(0.15).floor(0.6).min_rows(50);
    let latency = LatencyGate::builder().p99(std::time::Duration::from_millis(100)).build()?;
    Ok(GateSuite::new("before promotion").block(challenger).block(times_of_day.build()?).block(latency))
}

/// Commits rows and records where they came from.
async fn keep(
    ctx: &StepContext,
    datasets: &DatasetsAs,
    lineage: &SqlRegistry,
    new: NewDataset,
) -> mlops_core::Result<DatasetRef> {
    let version = datasets.commit(new).await?;
    let (node, edges) = version.lineage();
    lineage.record(&[node], &edges).await?;
    ctx.writes(&version.reference());
    Ok(version.reference())
}

async fn load(store: &dyn ArtifactStore, package: &Digest) -> Result<Arc<dyn Predictor>> {
    Ok(Runtimes::default().load(&Package::load(store, package).await?)?)
}

/// Runs the pipeline `ingest → check_data, split → train → package → gates`.
///
/// A run that was killed goes on where it was when it is started again with the same run id.
///
/// # Errors
/// Those of the step that failed: rows that do not pass the data gate among them.
pub async fn make(shop: &Workshop, job: Job) -> Result<Made> {
    let mut p = Pipeline::builder(PIPELINE).code(shop.code.clone());
    let rows = p.value("rows", job.rows);
    let held_out = p.value("held_out", job.holdout);
    let params = p.value("params", job.params.clone());
    let champion = p.value("champion", job.champion);

    let at = shop.clock.now();
    let own = shop.datasets.acting_as(&job.who);
    let elec2 = Arc::clone(&shop.elec2);
    let (datasets, registry) = (own.clone(), shop.registry.clone());
    let ingested = p.step("ingest", rows, move |ctx, (from, until)| {
        let rows = elec2.archive(from, until);
        let (datasets, registry) = (datasets.clone(), registry.clone());
        async move {
            let source = format!("elec2.parquet {} rows {from}..{until}", Elec2::digest());
            let new = NewDataset::new("elec2", [rows]).source(source).at(at);
            Ok(keep(&ctx, &datasets, &registry, new).await?)
        }
    });

    let datasets = own.clone();
    let checked = p.step("check_data", ingested, move |ctx, dataset: DatasetRef| {
        let datasets = datasets.clone();
        async move {
            ctx.reads(&dataset);
            let version = datasets.version(&dataset.name, &dataset.digest).await?;
            let rows = datasets.read_all(&version).await?;
            let report = GateSuite::new("before training").block(data_gate()?).run(&Subject::new().data(&rows))?;
            if report.verdict == Verdict::Pass { Ok(report) } else { Err(report.to_string().into()) }
        }
    });

    let (datasets, registry) = (own.clone(), shop.registry.clone());
    let parts = p.step("split", (ingested, held_out), move |ctx, (dataset, held_out): (DatasetRef, usize)| {
        let (datasets, registry) = (datasets.clone(), registry.clone());
        async move {
            ctx.reads(&dataset);
            let whole = datasets.version(&dataset.name, &dataset.digest).await?;
            let rows = datasets.read_all(&whole).await?;
            let cut = rows.num_rows().saturating_sub(held_out);
            let part =
                |name: &str, rows| NewDataset::new(name, [rows]).parent(&whole).source(format!("{dataset}")).at(at);
            let train = keep(&ctx, &datasets, &registry, part("elec2-train", rows.slice(0, cut))).await?;
            let holdout = part("elec2-holdout", rows.slice(cut, rows.num_rows() - cut));
            let holdout = keep(&ctx, &datasets, &registry, holdout).await?;
            Ok(Parts { train, holdout })
        }
    });

    let datasets = own.clone();
    let fitted =
        p.step("train", (parts, params, checked), move |ctx, (parts, params, _): (Parts, TrainParams, SuiteReport)| {
            let datasets = datasets.clone();
            async move {
                ctx.reads(&parts.train);
                let version = datasets.version(&parts.train.name, &parts.train.digest).await?;
                let rows = datasets.read_all(&version).await?;
                let shown = ctx.clone();
                let (epochs, params) = (params.epochs as u64, params);
                let trained = ctx
                    .blocking(move || train(&rows, LABEL, &params, |epoch| shown.progress(epoch as u64, epochs)))
                    .await?;
                let weights = ctx.artifacts().put_artifact(to_safetensors(&trained.weights)?).await?;
                Ok(Fitted { config: trained.config, weights, losses: trained.losses })
            }
        });

    let (datasets, champion_at) = (own.clone(), at);
    let package = p.step(
        "package",
        (parts, params, fitted),
        move |ctx, (parts, params, fitted): (Parts, TrainParams, Fitted)| {
            let datasets = datasets.clone();
            async move {
                let weights = ctx.artifacts().get_artifact(&fitted.weights).await?;
                let signature = signature(&params.features)?;
                let draft =
                    add_to_package(Package::builder(signature.clone()), "mlp", &fitted.config, weights.clone())?
                        .build()?;
                let model = Runtimes::default().load(&draft)?;
                let version = datasets.version(&parts.train.name, &parts.train.digest).await?;
                let inputs = signature.check_inputs(&datasets.read_all(&version).await?)?;
                let profile = ReferenceProfile::fit(&inputs, &model.run(&inputs)?)?;
                let builder = add_to_package(Package::builder(signature), "mlp", &fitted.config, weights)?;
                let package = builder
                    .file(REFERENCE_PROFILE, profile.to_json()?)
                    .provenance(provenance(ctx.run(), &parts.train, &params)?)
                    .created(champion_at)
                    .build()?;
                Ok(package.save(&**ctx.artifacts()).await?)
            }
        },
    );

    let datasets = own.clone();
    let gated = p.step(
        "gates",
        (parts, package, champion),
        move |ctx, (parts, package, champion): (Parts, Digest, Option<Digest>)| {
            let datasets = datasets.clone();
            async move {
                ctx.reads(&parts.holdout);
                let version = datasets.version(&parts.holdout.name, &parts.holdout.digest).await?;
                let rows = datasets.read_all(&version).await?;
                let candidate = load(&**ctx.artifacts(), &package).await?;
                let champion = match &champion {
                    Some(digest) => Some(load(&**ctx.artifacts(), digest).await?),
                    None => None,
                };
                let subject = Subject::new().holdout(&rows, LABEL).candidate(&*candidate).champion(champion.as_deref());
                Ok(model_gates()?.run(&subject)?)
            }
        },
    );

    let pipeline = p.build()?;
    let mut runner = Runner::new(Arc::clone(&shop.store)).run_id(job.run).workers(2);
    runner = runner.lineage(shop.registry.clone()).lineage_events(shop.events.clone()).clock(shop.clock.clone());
    if job.show {
        runner = runner.observer(mlops_pipeline::ConsoleObserver::new());
    }
    let run = pipeline.run(&runner).await?;
    let fitted = run.output(fitted)?;
    Ok(Made {
        dataset: run.output(ingested)?,
        trained_on: run.output(parts)?.train,
        package: run.output(package)?,
        gates: run.output(gated)?,
        losses: fitted.losses,
        report: run.report().clone(),
    })
}

/// What this program was built with and runs on.
pub(crate) fn environment() -> Environment {
    let here = Environment::here().lock_file(Digest::of(include_bytes!("../../../Cargo.lock")));
    option_env!("RUSTC_VERSION").iter().fold(here, |here, version| here.toolchain(*version))
}

/// What this program was built from.
pub(crate) fn built() -> Provenance {
    let mut provenance = Provenance::default();
    environment().describe(&mut provenance);
    provenance.commit = option_env!("GIT_COMMIT").map(str::to_owned);
    provenance.dirty = option_env!("GIT_DIRTY").map(|dirty| dirty == "true");
    provenance
}

fn provenance(run: RunId, dataset: &DatasetRef, params: &TrainParams) -> Result<Provenance> {
    let mut provenance = built();
    provenance.run = Some(run);
    provenance.datasets = vec![dataset.clone()];
    provenance.seed = Some(params.seed);
    let params = serde_json::to_value(params)?;
    provenance.params = params.as_object().into_iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect();
    Ok(provenance)
}

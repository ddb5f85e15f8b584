//! A name that answers, whatever version is behind it.

use std::any::Any;
use std::collections::HashMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use arrow::array::RecordBatch;
use mlops_core::audit::{AuditEvent, AuditLog};
use mlops_core::inference::{InferenceRecord, InferenceSink, SHADOW};
use mlops_core::lineage::openlineage::{Dataset, DeploymentFacet, ModelFacet};
use mlops_core::lineage::{Edge, LineageEvents, LineageStore, NodeRef};
use mlops_core::{
    Authorizer, Clock, ModelRef, ModelSource, Permission, PredictionId, Predictor, PredictorExt, Principal,
    ResolvedModel, Resource, RoleTable, SystemClock, Timestamp,
};
use tokio::sync::{Mutex, Semaphore};

use crate::events::Telling;
use crate::runtime::Runtimes;
use crate::{Error, Result, Split};

/// What is asked.
#[derive(Clone, Debug)]
pub struct Request {
    key: String,
    inputs: RecordBatch,
    ids: Vec<PredictionId>,
}

impl Request {
    /// A request by the caller `key`, who is answered by the same arm each time.
    pub fn new(key: impl Into<String>, inputs: RecordBatch) -> Self {
        Self { key: key.into(), inputs, ids: Vec::new() }
    }

    /// Gives the predictions the caller's own ids, one for each row (default: new ones).
    #[must_use]
    pub fn ids(mut self, ids: Vec<PredictionId>) -> Self {
        self.ids = ids;
        self
    }
}

/// What is answered.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Answer {
    /// One id for each row: labels come back under it.
    pub ids: Vec<PredictionId>,
    /// When the request arrived.
    pub at: Timestamp,
    /// The arm that answered.
    pub arm: Arc<str>,
    /// The model's name.
    pub model: Arc<str>,
    /// The model's version.
    pub version: u64,
    /// Time in the model.
    pub latency: Duration,
    /// The output columns, one row for each input row.
    pub outputs: RecordBatch,
}

/// A version that is loaded and ready.
#[derive(Clone, Debug)]
struct Loaded {
    resolved: ResolvedModel,
    name: Arc<str>,
    predictor: Arc<dyn Predictor>,
}

/// What answers right now: replaced as a whole, never changed in place.
#[derive(Debug)]
struct Routing {
    split: Split,
    arms: Vec<(Arc<str>, Loaded)>,
}

/// Counts of what happened beside the answers.
#[derive(Debug, Default)]
struct Counters {
    capture_failures: AtomicU64,
    shadow_failures: AtomicU64,
    shadows_dropped: AtomicU64,
    /// By model and version.
    failures: std::sync::Mutex<HashMap<(String, u64), u64>>,
}

/// A named place that answers requests with the versions a [`Split`] names.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// # use std::sync::Arc;
/// # use arrow::array::{Float64Array, RecordBatch};
/// # use mlops_core::signature::{ColumnSpec, ColumnType, Signature};
/// # use mlops_core::{FnPredictor, ModelRef};
/// use mlops_serve::{Deployment, Request, Split, StaticSource};
/// # let column = || [ColumnSpec::new("x", ColumnType::Double)];
/// # let echo = FnPredictor::new("echo", Signature::new(column(), column())?, |inputs| Ok(inputs.clone()));
/// # let batch = RecordBatch::try_from_iter([("x", Arc::new(Float64Array::from(vec![1.0])) as _)])?;
/// let models = StaticSource::default().with("echo", 1, echo);
/// let split = Split::only("champion", ModelRef::version("echo", 1));
/// let deployment = Deployment::builder("demo", models).start(split).await?;
/// let answer = deployment.predict(Request::new("customer 17", batch)).await?;
/// assert_eq!((&*answer.arm, answer.version), ("champion", 1));
/// # Ok::<(), Box<dyn std::error::Error>>(()) }).unwrap();
/// ```
///
/// # Rules
/// - **No request is dropped by a change.** [`apply`](Deployment::apply) loads first and swaps a pointer then; requests
///   under way finish on the version they began with.
/// - **All or nothing.** If one arm cannot be loaded, nothing changes.
/// - **Shadows are harmless.** They run beside the answer, at most [`DeploymentBuilder::shadows`] at a time; more are
///   dropped and counted, and a failing one is counted. The answer waits for neither.
/// - **Capture does not fail the answer.** A record that the sink refuses is counted in [`Health`] and logged.
/// - **Panics stay in the model.** They are [`Error::Panicked`] for the one request.
///
/// Clones share one deployment. The model runs on the thread that polls `predict`.
#[derive(Clone, Debug)]
pub struct Deployment(Arc<Inner>);

struct Inner {
    name: Arc<str>,
    source: Arc<dyn Loader>,
    sink: Option<Arc<dyn InferenceSink>>,
    audit: Option<Arc<dyn AuditLog>>,
    lineage: Option<Arc<dyn LineageStore>>,
    events: Option<LineageEvents>,
    authorizer: Arc<dyn Authorizer>,
    clock: Arc<dyn Clock>,
    routing: ArcSwap<Routing>,
    changing: Mutex<()>,
    shadows: Arc<Semaphore>,
    shadow_limit: u32,
    counters: Counters,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deployment").field("name", &self.name).field("routing", &self.routing).finish_non_exhaustive()
    }
}

/// Counts of what went wrong beside the answers, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Health {
    /// Records that the sink refused.
    pub capture_failures: u64,
    /// Shadow predictions that failed.
    pub shadow_failures: u64,
    /// Shadow predictions that were left out because too many were under way.
    pub shadows_dropped: u64,
}

/// Resolves a reference and makes the model ready to answer.
#[async_trait::async_trait]
pub trait Loader: fmt::Debug + Send + Sync + 'static {
    /// What `wanted` points at now.
    async fn resolve(&self, wanted: &ModelRef) -> Result<ResolvedModel>;

    /// The model, ready.
    async fn load(&self, model: &ResolvedModel) -> Result<Arc<dyn Predictor>>;
}

/// A [`ModelSource`] with the runtimes that load its packages.
#[derive(Debug)]
pub struct PackageLoader<S> {
    source: S,
    runtimes: Runtimes,
}

impl<S: ModelSource> PackageLoader<S> {
    /// Packages from `source`, loaded by `runtimes`.
    pub fn new(source: S, runtimes: Runtimes) -> Self {
        Self { source, runtimes }
    }
}

#[async_trait::async_trait]
impl<S: ModelSource> Loader for PackageLoader<S> {
    async fn resolve(&self, wanted: &ModelRef) -> Result<ResolvedModel> {
        Ok(self.source.resolve(wanted).await?)
    }

    async fn load(&self, model: &ResolvedModel) -> Result<Arc<dyn Predictor>> {
        let package = self.source.package(model).await?;
        self.runtimes.load(&package)
    }
}

/// Models that are already in the process: closures, rules, tests.
#[derive(Clone, Debug, Default)]
pub struct StaticSource(HashMap<(String, u64), Arc<dyn Predictor>>);

impl StaticSource {
    /// Adds a model under a name and a version.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, version: u64, predictor: impl Predictor) -> Self {
        self.0.insert((name.into(), version), Arc::new(predictor));
        self
    }
}

#[async_trait::async_trait]
impl Loader for StaticSource {
    async fn resolve(&self, wanted: &ModelRef) -> Result<ResolvedModel> {
        use mlops_core::Selector as S;
        let versions = self.0.keys().filter(|(name, _)| *name == wanted.name).map(|(_, version)| *version);
        let version = match &wanted.selector {
            S::Version(version) => versions.into_iter().find(|v| v == version),
            S::Latest => versions.max(),
            _ => None,
        };
        let version = version.ok_or_else(|| mlops_core::Error::not_found("model", wanted))?;
        let package = mlops_core::Digest::of(format!("{}/{version}", wanted.name).as_bytes());
        Ok(ResolvedModel { name: wanted.name.clone(), version, revision: 0, package })
    }

    async fn load(&self, model: &ResolvedModel) -> Result<Arc<dyn Predictor>> {
        let found = self.0.get(&(model.name.clone(), model.version));
        Ok(Arc::clone(found.ok_or_else(|| mlops_core::Error::not_found("model", model))?))
    }
}

/// Sets a [`Deployment`] up.
#[derive(Debug)]
#[must_use = "a builder does nothing until `start`"]
pub struct DeploymentBuilder {
    name: String,
    source: Arc<dyn Loader>,
    sink: Option<Arc<dyn InferenceSink>>,
    audit: Option<Arc<dyn AuditLog>>,
    lineage: Option<Arc<dyn LineageStore>>,
    events: Option<LineageEvents>,
    authorizer: Arc<dyn Authorizer>,
    clock: Arc<dyn Clock>,
    shadows: u32,
}

impl DeploymentBuilder {
    /// Where records of answered requests go (default: nowhere).
    pub fn sink(mut self, sink: impl InferenceSink) -> Self {
        self.sink = Some(Arc::new(sink));
        self
    }

    /// Where changes of the split are written down (default: nowhere).
    pub fn audit(mut self, audit: impl AuditLog) -> Self {
        self.audit = Some(Arc::new(audit));
        self
    }

    /// Where it is recorded which versions were deployed (default: nowhere).
    pub fn lineage(mut self, lineage: impl LineageStore) -> Self {
        self.lineage = Some(Arc::new(lineage));
        self
    }

    /// Tells of each change of what is deployed, the first one included, as a run of the job `deploy.NAME`: model versions
    /// go in, the deployment comes out (default: nobody). A sink never holds a change up, and never fails it; one that
    /// fails by itself is told as such.
    ///
    /// [`TracedSink`](crate::TracedSink) tells of the predictions.
    pub fn lineage_events(mut self, events: LineageEvents) -> Self {
        self.events = Some(events);
        self
    }

    /// Who may change the split (default: the built-in role table).
    pub fn authorizer(mut self, authorizer: impl Authorizer) -> Self {
        self.authorizer = Arc::new(authorizer);
        self
    }

    /// The clock that dates requests (default: the system's).
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Shadow predictions under way at most (default 64, at least 1).
    pub fn shadows(mut self, limit: u32) -> Self {
        self.shadows = limit.max(1);
        self
    }

    /// Loads every arm and begins to answer.
    ///
    /// # Errors
    /// Those of [`Split::check`] and of loading: a missing model, a corrupt package, no runtime.
    pub async fn start(self, split: Split) -> Result<Deployment> {
        let telling = deploying(self.events.as_ref(), &self.clock, &self.name);
        let routing = match load(&*self.source, split, None).await {
            Ok(routing) => routing,
            Err(error) => {
                telling.fail(&error);
                return Err(error);
            }
        };
        let deployment = Deployment(Arc::new(Inner {
            name: self.name.into(),
            source: self.source,
            sink: self.sink,
            audit: self.audit,
            lineage: self.lineage,
            events: self.events,
            authorizer: self.authorizer,
            clock: self.clock,
            routing: ArcSwap::from_pointee(routing),
            changing: Mutex::new(()),
            shadows: Arc::new(Semaphore::new(self.shadows as usize)),
            shadow_limit: self.shadows,
            counters: Counters::default(),
        }));
        let routing = deployment.0.routing.load_full();
        if let Err(error) = deployment.record_lineage(&routing).await {
            telling.fail(&error);
            return Err(error);
        }
        deployment.deployed(telling, &routing);
        Ok(deployment)
    }
}

/// A change of what is deployed begins.
fn deploying(events: Option<&LineageEvents>, clock: &Arc<dyn Clock>, name: &str) -> Telling {
    Telling::start(events, clock, &format!("deploy.{name}"), "DEPLOYMENT")
}

async fn load(source: &dyn Loader, split: Split, current: Option<&Routing>) -> Result<Routing> {
    split.check()?;
    let mut arms: Vec<(Arc<str>, Loaded)> = Vec::with_capacity(split.arms.len());
    for arm in &split.arms {
        let resolved = source.resolve(&arm.model).await?;
        let at_hand = current.iter().flat_map(|r| &r.arms).chain(&arms);
        let same = |l: &&Loaded| {
            (l.resolved.package, &l.resolved.name, l.resolved.version)
                == (resolved.package, &resolved.name, resolved.version)
        };
        let predictor = match at_hand.map(|(_, loaded)| loaded).find(same) {
            Some(loaded) => Arc::clone(&loaded.predictor),
            None => source.load(&resolved).await?,
        };
        let name = resolved.name.as_str().into();
        arms.push((arm.name.as_str().into(), Loaded { resolved, name, predictor }));
    }
    Ok(Routing { split, arms })
}

fn run(loaded: &Loaded, inputs: &RecordBatch) -> Result<(RecordBatch, Duration)> {
    let started = Instant::now();
    let outputs = catch_unwind(AssertUnwindSafe(|| loaded.predictor.run(inputs)));
    let outputs = outputs
        .map_err(|panic| Error::Panicked { model: loaded.resolved.to_string(), message: panic_message(&*panic) })??;
    Ok((outputs, started.elapsed()))
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("no message").to_owned()
}

impl Deployment {
    /// Sets up a deployment that takes its models from `source`: a [`PackageLoader`] over a registry, or a
    /// [`StaticSource`].
    pub fn builder(name: impl Into<String>, source: impl Loader) -> DeploymentBuilder {
        DeploymentBuilder {
            name: name.into(),
            source: Arc::new(source),
            sink: None,
            audit: None,
            lineage: None,
            events: None,
            authorizer: Arc::new(RoleTable),
            clock: Arc::new(SystemClock),
            shadows: 64,
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The split in force.
    #[must_use]
    pub fn split(&self) -> Split {
        self.0.routing.load().split.clone()
    }

    /// The versions in force, by arm.
    #[must_use]
    pub fn versions(&self) -> Vec<(String, ResolvedModel)> {
        self.0.routing.load().arms.iter().map(|(name, loaded)| (name.to_string(), loaded.resolved.clone())).collect()
    }

    /// What went wrong beside the answers.
    #[must_use]
    pub fn health(&self) -> Health {
        let count = |c: &AtomicU64| c.load(Ordering::Relaxed);
        let c = &self.0.counters;
        Health {
            capture_failures: count(&c.capture_failures),
            shadow_failures: count(&c.shadow_failures),
            shadows_dropped: count(&c.shadows_dropped),
        }
    }

    /// Answers a request.
    ///
    /// # Errors
    /// [`mlops_core::Error::SchemaMismatch`] naming the column that does not fit; [`Error::InvalidInput`] if ids are
    /// given and are not one for each row; those of the model.
    pub async fn predict(&self, request: Request) -> Result<Answer> {
        let inner = &self.0;
        let routing = inner.routing.load_full();
        let at = inner.clock.now();
        let Request { key, inputs, mut ids } = request;
        if ids.is_empty() {
            ids = (0..inputs.num_rows()).map(|_| PredictionId::new(at)).collect();
        } else if ids.len() != inputs.num_rows() {
            return Err(Error::invalid("ids", format!("{} given for {} rows", ids.len(), inputs.num_rows())));
        }
        let chosen = routing.split.route(&key);
        let (arm, loaded) = &routing.arms[chosen];
        let taken = loaded.predictor.signature().check_inputs(&inputs)?;
        let (outputs, latency) = run(loaded, &taken).inspect_err(|_| self.note_failure(loaded))?;
        let version = loaded.resolved.version;
        let answer =
            Answer { ids, at, arm: Arc::clone(arm), model: Arc::clone(&loaded.name), version, latency, outputs };
        if inner.sink.is_none() && !routing.split.mirrored {
            return Ok(answer);
        }
        let record = InferenceRecord {
            ids: answer.ids.clone(),
            at,
            deployment: Arc::clone(&inner.name),
            model: Arc::clone(&answer.model),
            version,
            arm: Arc::clone(arm),
            key: key.into(),
            latency,
            inputs: taken,
            outputs: answer.outputs.clone(),
        };
        if routing.split.mirrored {
            for i in (0..routing.arms.len()).filter(|&i| i != chosen) {
                self.mirror(Arc::clone(&routing), i, &record, &inputs);
            }
        }
        self.capture(record).await;
        Ok(answer)
    }

    fn mirror(&self, routing: Arc<Routing>, arm: usize, answered: &InferenceRecord, inputs: &RecordBatch) {
        let Ok(permit) = Arc::clone(&self.0.shadows).try_acquire_owned() else {
            self.0.counters.shadows_dropped.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let deployment = self.clone();
        let (mut record, inputs) = (answered.clone(), inputs.clone());
        tokio::spawn(async move {
            let loaded = &routing.arms[arm].1;
            let taken = loaded.predictor.signature().check_inputs(&inputs).map_err(Error::from);
            match taken.and_then(|taken| Ok((run(loaded, &taken)?, taken))) {
                Ok(((outputs, latency), taken)) => {
                    (record.inputs, record.outputs, record.latency) = (taken, outputs, latency);
                    (record.model, record.version) = (Arc::clone(&loaded.name), loaded.resolved.version);
                    record.arm = SHADOW.into();
                    deployment.capture(record).await;
                }
                Err(error) => {
                    deployment.0.counters.shadow_failures.fetch_add(1, Ordering::Relaxed);
                    deployment.note_failure(loaded);
                    tracing::warn!(deployment = deployment.name(), %error, "a shadow prediction failed");
                }
            }
            drop(permit);
        });
    }

    fn note_failure(&self, loaded: &Loaded) {
        let version = (loaded.resolved.name.clone(), loaded.resolved.version);
        let mut failures = self.0.counters.failures.lock().unwrap_or_else(PoisonError::into_inner);
        *failures.entry(version).or_default() += 1;
    }

    /// How often a version has failed since the start: on a request that fitted its signature or, as a shadow, on one that
    /// another arm could answer.
    #[must_use]
    pub fn failures(&self, model: &str, version: u64) -> u64 {
        let failures = self.0.counters.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.get(&(model.to_owned(), version)).copied().unwrap_or(0)
    }

    async fn capture(&self, record: InferenceRecord) {
        let Some(sink) = &self.0.sink else { return };
        if let Err(error) = sink.write(record).await {
            self.0.counters.capture_failures.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(deployment = self.name(), %error, "a record could not be captured");
        }
    }

    /// Waits until every shadow prediction that was under way is done and captured.
    pub async fn drain(&self) {
        // The semaphore is never closed, so the only outcome is all permits.
        let _all = self.0.shadows.acquire_many(self.0.shadow_limit).await;
    }

    /// Puts a split in force: who is answered by which version. Returns whether anything changed.
    ///
    /// Arms that name an alias are resolved now; applying the split in force again follows an alias that has moved.
    ///
    /// # Errors
    /// [`mlops_core::Error::PermissionDenied`] without [`Permission::Deploy`]; those of [`Split::check`] and of loading,
    /// after which the split in force is unchanged.
    pub async fn apply(&self, who: &Principal, split: Split, reason: &str) -> Result<bool> {
        let inner = &self.0;
        inner.authorizer.check(who, Permission::Deploy, &Resource::deployment(&*inner.name))?;
        let _alone = inner.changing.lock().await;
        let current = inner.routing.load_full();
        let telling = || deploying(inner.events.as_ref(), &inner.clock, &inner.name);
        let next = match load(&*inner.source, split, Some(&current)).await {
            Ok(next) => next,
            Err(error) => {
                telling().fail(&error);
                return Err(error);
            }
        };
        let versions = |r: &Routing| r.arms.iter().map(|(_, l)| l.resolved.clone()).collect::<Vec<_>>();
        if next.split == current.split && versions(&next) == versions(&current) {
            return Ok(false);
        }
        let telling = telling();
        // Written down first: a change that cannot be recorded does not happen.
        if let Err(error) = self.record(who, &current, &next, reason).await {
            telling.fail(&error);
            return Err(error);
        }
        let next = Arc::new(next);
        inner.routing.store(Arc::clone(&next));
        self.deployed(telling, &next);
        Ok(true)
    }

    async fn record(&self, who: &Principal, current: &Routing, next: &Routing, reason: &str) -> Result<()> {
        let inner = &self.0;
        let told = |r: &Routing| {
            let arm = |(name, l): &(Arc<str>, Loaded), share: f64| serde_json::json!({"arm": &**name, "model": l.resolved.to_string(), "share": share});
            let arms: Vec<_> = r.arms.iter().zip(&r.split.arms).map(|(a, spec)| arm(a, spec.share)).collect();
            serde_json::json!({"arms": arms, "mirrored": r.split.mirrored})
        };
        self.record_lineage(next).await?;
        if let Some(audit) = &inner.audit {
            let resource = Resource::deployment(&*inner.name).to_string();
            let event = AuditEvent::new(inner.clock.now(), &who.name, "deployment.split", resource);
            audit.append(event.change(told(current), told(next)).because(reason)).await?;
        }
        Ok(())
    }

    /// Tells what is in force now.
    fn deployed(&self, telling: Telling, routing: &Routing) {
        telling.complete(|mut event, home| {
            let mut deployment = DeploymentFacet::new(&*self.0.name);
            for ((name, loaded), arm) in routing.arms.iter().zip(&routing.split.arms) {
                let ResolvedModel { name: model, version, package, .. } = &loaded.resolved;
                let model = Dataset::model(home, ModelFacet::new(model, *version).package(*package)).into();
                if !event.inputs.contains(&model) {
                    event = event.input(model);
                }
                deployment = deployment.arm(&**name, arm.share);
            }
            event.output(Dataset::deployment(home, deployment))
        });
    }

    async fn record_lineage(&self, routing: &Routing) -> Result<()> {
        let Some(lineage) = &self.0.lineage else { return Ok(()) };
        let edge = |l: &Loaded| {
            let model = NodeRef::model(&l.resolved.name, l.resolved.version);
            Edge::new(model, NodeRef::deployment(&*self.0.name))
        };
        let edges: Vec<Edge> = routing.arms.iter().map(|(_, l)| edge(l)).collect();
        Ok(lineage.record(&[], &edges).await?)
    }
}

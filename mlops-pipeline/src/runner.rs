use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use backon::{BackoffBuilder, ExponentialBuilder};
use mlops_core::lineage::openlineage::StepFacet;
use mlops_core::lineage::{Edge, LineageStore, Node as LineageNode, NodeRef};
use mlops_core::{ArtifactStore, ArtifactStoreExt, Clock, Digest, RunId, SystemClock};
use tokio::task::{JoinError, JoinSet};

use crate::cache::{self, Record};
use crate::context::Used;
use crate::events::{End, Teller};
use crate::pipeline::{Handle, Node, Options, Plan, Step, Stored, Value, Work};
use crate::report::{RunReport, StepReport, StepStatus};
use crate::{Error, LineageEvents, Pipeline, Result, RunEvent, RunObserver, StepContext};
use mlops_core::with_causes;

/// Where and how pipelines run: the stores, the observers, how many steps at once.
///
/// ```
/// use mlops_core::store::MemoryStore;
/// let runner = mlops_pipeline::Runner::new(MemoryStore::default()).workers(4);
/// # let _ = runner;
/// ```
#[derive(Clone, Debug)]
#[must_use = "a runner does nothing until it is given to `Pipeline::run`"]
pub struct Runner {
    store: Arc<dyn ArtifactStore>,
    lineage: Option<Arc<dyn LineageStore>>,
    events: Option<LineageEvents>,
    observers: Vec<Arc<dyn RunObserver>>,
    clock: Arc<dyn Clock>,
    run: Option<RunId>,
    workers: Option<usize>,
    on_failure: FailureMode,
}

/// What happens to the other steps when one fails. No step starts after that, in either mode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum FailureMode {
    /// Steps that are running come to their end, and their outputs are kept for the next start.
    #[default]
    FinishRunning,
    /// Steps that are running are stopped at their next `await`.
    FailFast,
}

impl Runner {
    /// Runs pipelines on the caller's runtime, with outputs and cache entries in `store`.
    pub fn new(store: impl ArtifactStore) -> Self {
        Self {
            store: Arc::new(store),
            lineage: None,
            events: None,
            observers: Vec::new(),
            clock: Arc::new(SystemClock),
            run: None,
            workers: None,
            on_failure: FailureMode::default(),
        }
    }

    /// The run's id (default: a new one each time). Give the same id to go on with a run that was cut off.
    pub fn run_id(mut self, run: RunId) -> Self {
        self.run = Some(run);
        self
    }

    /// Records each step, its inputs and the datasets it used in this graph.
    pub fn lineage(mut self, lineage: impl LineageStore) -> Self {
        self.lineage = Some(Arc::new(lineage));
        self
    }

    /// Sends the lineage of each run and step as OpenLineage events. A sink never holds a run up, and never fails it.
    ///
    /// Each run is a run of the job `PIPELINE`, and each step, cached ones too, one of the job `PIPELINE.STEP`, with the run
    /// as its parent. The datasets that a step [reads](crate::StepContext::reads) and
    /// [writes](crate::StepContext::writes) are its inputs and outputs; one taken from the cache writes nothing. Every start
    /// is followed by one end: `COMPLETE`, `FAIL`, or `ABORT` for what was stopped, also because the run's future was
    /// dropped.
    ///
    /// ```
    /// use mlops_core::lineage::openlineage::EnvironmentFacet;
    /// use mlops_core::lineage::{LineageEvents, MemorySink};
    /// let sink = MemorySink::default();
    /// let events = LineageEvents::to(sink.clone()).namespace("shop").environment(EnvironmentFacet::new().commit("4f92db1"));
    /// let runner = mlops_pipeline::Runner::new(mlops_core::store::MemoryStore::default()).lineage_events(events);
    /// # let _ = runner;
    /// ```
    pub fn lineage_events(mut self, events: LineageEvents) -> Self {
        self.events = Some(events);
        self
    }

    /// Adds an observer.
    pub fn observer(mut self, observer: impl RunObserver) -> Self {
        self.observers.push(Arc::new(observer));
        self
    }

    /// Tells the time for run ids and cache entries (default: the system's clock).
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// How many steps may run at the same time, at least 1 (default: as many as the runtime has worker threads).
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = Some(workers.max(1));
        self
    }

    /// What happens to other steps when one fails.
    pub fn on_failure(mut self, mode: FailureMode) -> Self {
        self.on_failure = mode;
        self
    }
}

/// A run that came to its end: every step has an output.
#[derive(Debug)]
pub struct Run {
    pipeline: Pipeline,
    outputs: Vec<Stored>,
    report: RunReport,
}

impl Run {
    /// The run's id.
    #[must_use]
    pub fn id(&self) -> RunId {
        self.report.run
    }

    /// What became of each step.
    #[must_use]
    pub fn report(&self) -> &RunReport {
        &self.report
    }

    /// The value that a step gave.
    ///
    /// # Errors
    /// [`Error::ForeignHandle`] for a handle of another pipeline.
    pub fn output<T: Value>(&self, handle: Handle<T>) -> Result<T> {
        let stored = self.stored(handle)?;
        serde_json::from_slice(&stored.bytes).map_err(|source| {
            let step = self.pipeline.plan.nodes[handle.index].name.clone();
            Error::InvalidOutput { step, source: source.into() }
        })
    }

    /// The digest that a step's output is kept under.
    ///
    /// # Errors
    /// [`Error::ForeignHandle`] for a handle of another pipeline.
    pub fn digest<T>(&self, handle: Handle<T>) -> Result<Digest> {
        Ok(self.stored(handle)?.digest)
    }

    fn stored<T>(&self, handle: Handle<T>) -> Result<&Stored> {
        let plan = &self.pipeline.plan;
        let foreign = || Error::ForeignHandle { pipeline: plan.name.clone(), index: handle.index };
        if handle.builder == plan.builder { self.outputs.get(handle.index) } else { None }.ok_or_else(foreign)
    }
}

/// What all steps of one run share.
pub(crate) struct Session {
    pub(crate) run: RunId,
    pub(crate) store: Arc<dyn ArtifactStore>,
    pub(crate) clock: Arc<dyn Clock>,
    plan: Arc<Plan>,
    lineage: Option<Arc<dyn LineageStore>>,
    teller: Option<Arc<Teller>>,
    observers: Vec<Arc<dyn RunObserver>>,
    attempts: Vec<AtomicU32>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Session({} of {})", self.run, self.plan.name)
    }
}

/// A finished step.
struct Finished {
    output: Stored,
    status: StepStatus,
    used: Used,
}

pub(crate) async fn run(pipeline: &Pipeline, runner: &Runner) -> Result<Run> {
    let runtime = tokio::runtime::Handle::try_current().map_err(|_| Error::NoRuntime)?;
    let began = Instant::now();
    let plan = &pipeline.plan;
    let run = runner.run.unwrap_or_else(|| RunId::new(runner.clock.now()));
    let teller = runner.events.as_ref().map(|e| Arc::new(Teller::begin(e, Arc::clone(&runner.clock), run, &plan.name)));
    // Dropped with this future, while a step that cannot be stopped may keep the session.
    let _stopped = teller.clone().map(AbortOnDrop);
    let session = Arc::new(Session {
        run,
        store: Arc::clone(&runner.store),
        clock: Arc::clone(&runner.clock),
        plan: Arc::clone(plan),
        lineage: runner.lineage.clone(),
        teller: teller.clone(),
        observers: runner.observers.clone(),
        attempts: plan.nodes.iter().map(|_| AtomicU32::new(0)).collect(),
    });
    session.tell(&RunEvent::RunStarted { pipeline: plan.name.clone(), steps: pipeline.steps().count() });
    let workers = runner.workers.unwrap_or_else(|| runtime.metrics().num_workers());
    let mut progress = Progress::new(plan);
    let begun = session.begin(&mut progress).await;
    let failure = match begun {
        Ok(()) => session.steps(&mut progress, workers, runner.on_failure).await,
        Err(error) => Some(error.into()),
    };
    let report =
        RunReport { pipeline: plan.name.clone(), run: session.run, steps: progress.reports, elapsed: began.elapsed() };
    session.tell(&RunEvent::RunFinished { report: report.clone() });
    if let Some(teller) = &teller {
        let error = failure.as_ref().map(|error| with_causes(error));
        teller.run_ended(&error.as_deref().map_or(End::Complete, End::Fail));
    }
    match failure {
        Some(error) => Err(error),
        None => {
            let outputs = progress.outputs.into_iter().flatten().collect();
            Ok(Run { pipeline: pipeline.clone(), outputs, report })
        }
    }
}

/// Tells that a run was stopped, unless its end was told before.
struct AbortOnDrop(Arc<Teller>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.run_ended(&End::Abort);
    }
}

/// How far a run is.
struct Progress {
    outputs: Vec<Option<Stored>>,
    /// For each node, how many of its inputs are not there yet.
    missing: Vec<usize>,
    /// For each node, the steps that take its output, once for each time they do.
    takers: Vec<Vec<usize>>,
    ready: BTreeSet<usize>,
    reports: Vec<StepReport>,
    /// For each node, its place in `reports`.
    places: Vec<usize>,
}

impl Progress {
    fn new(plan: &Plan) -> Self {
        let nodes = plan.nodes.len();
        let mut progress = Self {
            outputs: vec![None; nodes],
            missing: vec![0; nodes],
            takers: vec![Vec::new(); nodes],
            ready: BTreeSet::new(),
            reports: Vec::new(),
            places: vec![0; nodes],
        };
        for (index, node) in plan.nodes.iter().enumerate() {
            let Some(step) = node.step() else { continue };
            step.inputs.iter().for_each(|&input| progress.takers[input].push(index));
            progress.missing[index] = step.inputs.len();
            if step.inputs.is_empty() {
                progress.ready.insert(index);
            }
            progress.places[index] = progress.reports.len();
            progress.reports.push(StepReport {
                step: node.name.clone(),
                status: StepStatus::NotStarted,
                attempts: 0,
                elapsed: std::time::Duration::ZERO,
                output: None,
            });
        }
        progress
    }

    fn keep(&mut self, index: usize, output: Stored) {
        self.outputs[index] = Some(output);
        for &taker in &self.takers[index] {
            self.missing[taker] -= 1;
            if self.missing[taker] == 0 {
                self.ready.insert(taker);
            }
        }
    }

    fn inputs(&self, step: &Step) -> Vec<Stored> {
        step.inputs.iter().filter_map(|&input| self.outputs[input].clone()).collect()
    }
}

impl Session {
    pub(crate) fn tell(&self, event: &RunEvent) {
        self.observers.iter().for_each(|observer| observer.on_event(self.run, event));
    }

    /// Keeps the constants and the run's node.
    async fn begin(&self, progress: &mut Progress) -> mlops_core::Result<()> {
        for (index, node) in self.plan.nodes.iter().enumerate() {
            if let Work::Value(bytes) = &node.work {
                self.store.put_artifact(bytes.clone()).await?;
                progress.keep(index, Stored::new(bytes.clone()));
            }
        }
        let Some(lineage) = &self.lineage else { return Ok(()) };
        let mut node = LineageNode::new(NodeRef::run(self.run)).fact("pipeline", &self.plan.name);
        if let Some(code) = &self.plan.code {
            node = node.fact("code", code);
        }
        lineage.record(&[node], &[]).await
    }

    /// Runs the steps; gives the first error.
    async fn steps(self: &Arc<Self>, progress: &mut Progress, workers: usize, mode: FailureMode) -> Option<Error> {
        let mut running = JoinSet::new();
        let mut started: HashMap<tokio::task::Id, (usize, Instant)> = HashMap::new();
        let mut failure = None;
        loop {
            while failure.is_none()
                && running.len() < workers
                && let Some(index) = progress.ready.pop_first()
            {
                let node = &self.plan.nodes[index];
                let inputs = node.step().map(|step| progress.inputs(step)).unwrap_or_default();
                let task = running.spawn(Arc::clone(self).step(index, inputs));
                started.insert(task.id(), (index, Instant::now()));
            }
            let Some(ended) = running.join_next_with_id().await else { return failure };
            let id = ended.as_ref().map_or_else(JoinError::id, |(id, _)| *id);
            // Every task of the set was put into the map when it was spawned, and is removed once, here.
            let Some((index, at)) = started.remove(&id) else { continue };
            let name = &self.plan.nodes[index].name;
            let result = match ended {
                Ok((_, result)) => result.map_err(Some),
                Err(error) => Err(panicked(name, error)),
            };
            let attempts = self.attempts[index].load(Ordering::Relaxed);
            let report = &mut progress.reports[progress.places[index]];
            (report.attempts, report.elapsed) = (attempts, at.elapsed());
            match result {
                Ok(Finished { output, status, used }) => {
                    report.output = Some(output.digest);
                    report.status = status;
                    let (step, elapsed) = (name.clone(), report.elapsed);
                    if let Some(teller) = &self.teller {
                        let computed_by = match report.status {
                            StepStatus::Cached { computed_by } => computed_by,
                            _ => self.run,
                        };
                        let facet = self.step_facet(index, &progress.outputs).output(output.digest);
                        teller.step_completed(facet.computed_by(computed_by), &used);
                    }
                    self.tell(&match report.status {
                        StepStatus::Cached { computed_by } => {
                            RunEvent::StepCached { step, computed_by, output: output.digest }
                        }
                        _ => RunEvent::StepFinished { step, attempts, elapsed, output: output.digest },
                    });
                    progress.keep(index, output);
                }
                Err(None) => {
                    report.status = StepStatus::Cancelled;
                    self.teller.iter().for_each(|teller| teller.step_ended(name, &End::Abort));
                }
                Err(Some(error)) => {
                    let text = with_causes(&error);
                    report.status = StepStatus::Failed { error: text.clone() };
                    self.teller.iter().for_each(|teller| teller.step_ended(name, &End::Fail(&text)));
                    self.tell(&RunEvent::StepFailed { step: name.clone(), attempts, error: text });
                    failure.get_or_insert(error);
                    if mode == FailureMode::FailFast {
                        running.abort_all();
                    }
                }
            }
        }
    }

    /// What lineage events say of a step beside its output.
    fn step_facet(&self, index: usize, outputs: &[Option<Stored>]) -> StepFacet {
        let node = &self.plan.nodes[index];
        let mut facet = StepFacet::new(&node.name);
        let Some(step) = node.step() else { return facet };
        facet.code = cache::code_of(&self.plan, step);
        for &input in &step.inputs {
            let before = &self.plan.nodes[input];
            if let (Some(_), Some(output)) = (before.step(), &outputs[input]) {
                facet = facet.input(&before.name, output.digest);
            }
        }
        facet
    }

    /// One step: the cache, else its attempts, then everything that is kept of it.
    async fn step(self: Arc<Self>, index: usize, inputs: Vec<Stored>) -> Result<Finished> {
        let node = &self.plan.nodes[index];
        let Work::Step(step) = &node.work else {
            // Values have no inputs to wait for and are never made ready.
            return Err(Error::StepPanicked { step: node.name.clone(), message: "a value was run".to_owned() });
        };
        let not_kept = |source| Error::NotKept { step: node.name.clone(), source };
        let key = cache::key(&self.plan, &node.name, step, &inputs, self.run);
        let hit = match &key {
            Some(key) => cache::look_up(&*self.store, key, node).await,
            None => None,
        };
        if let Some((record, output)) = hit {
            let computed_by = record.run;
            let used = record.used();
            self.link(node, step, key, &inputs, &output, computed_by, &used).await.map_err(not_kept)?;
            return Ok(Finished { output, status: StepStatus::Cached { computed_by }, used });
        }
        let (output, used) = Arc::clone(&self).attempts(index, step, &inputs).await?;
        let Used { reads, writes } = used.clone();
        let (run, at) = (self.run, self.clock.now());
        let record = Record { step: node.name.clone(), output: output.digest, run, at, reads, writes };
        cache::keep_output(&*self.store, &output).await.map_err(not_kept)?;
        // Before the entry: a run cut off in between computes again, while a hit could not tell what was not recorded.
        self.link(node, step, key, &inputs, &output, run, &used).await.map_err(not_kept)?;
        if let Some(key) = &key {
            cache::keep_entry(&*self.store, key, &record).await.map_err(not_kept)?;
        }
        Ok(Finished { output, status: StepStatus::Computed, used })
    }

    async fn attempts(self: Arc<Self>, index: usize, step: &Step, inputs: &[Stored]) -> Result<(Stored, Used)> {
        let name = &self.plan.nodes[index].name;
        let stored: Vec<_> = inputs.iter().map(|input| input.bytes.clone()).collect();
        let mut delays = delays(&step.options);
        loop {
            let attempt = self.attempts[index].fetch_add(1, Ordering::Relaxed) + 1;
            self.tell(&RunEvent::StepStarted { step: name.clone(), attempt });
            self.teller.iter().for_each(|teller| teller.step_started(name));
            let context = StepContext::new(Arc::clone(&self), name.clone(), attempt);
            let body = (step.body)(context.clone(), &stored);
            let ended = match step.options.timeout {
                None => body.await.map_err(Some),
                Some(limit) => match tokio::time::timeout(limit, body).await {
                    Ok(ended) => ended.map_err(Some),
                    Err(_) => Err(None),
                },
            };
            self.teller.iter().for_each(|teller| teller.step_used(name, context.used()));
            let error = match ended {
                Ok(Ok(bytes)) => return Ok((Stored::new(bytes), context.used())),
                Ok(Err(source)) => return Err(Error::InvalidOutput { step: name.clone(), source }),
                Err(Some(source)) => Error::StepFailed { step: name.clone(), attempts: attempt, source },
                Err(None) => {
                    let limit = step.options.timeout.unwrap_or_default();
                    Error::TimedOut { step: name.clone(), attempts: attempt, limit }
                }
            };
            let Some(delay) = delays.next() else { return Err(error) };
            self.tell(&RunEvent::StepRetrying { step: name.clone(), attempt, delay, error: with_causes(&error) });
            tokio::time::sleep(delay).await;
        }
    }

    /// Records the step in the lineage graph: the same nodes, facts and edges each time it is done for this run.
    ///
    /// On a hit it records the step that computed the output as well, whose own run may have had no lineage store.
    #[allow(clippy::too_many_arguments)] // each is one part of what is recorded, and there is one caller
    async fn link(
        &self,
        node: &Node,
        step: &Step,
        key: Option<Digest>,
        inputs: &[Stored],
        output: &Stored,
        computed_by: RunId,
        used: &Used,
    ) -> mlops_core::Result<()> {
        let Some(lineage) = &self.lineage else { return Ok(()) };
        let code = cache::code_of(&self.plan, step);
        // The key covers the code, so a step of another run that has this key ran this code.
        let described = |run: RunId| {
            let mut described = LineageNode::new(NodeRef::step(run, &node.name))
                .fact("output", output.digest)
                .fact("cached", computed_by != run)
                .fact("computed_by", computed_by);
            if let Some(code) = &code {
                described = described.fact("code", code);
            }
            if let Some(key) = key {
                described = described.fact("key", key);
            }
            described
        };
        let here = NodeRef::step(self.run, &node.name);
        let mut facts = described(self.run);
        let mut edges = vec![Edge::new(here.clone(), NodeRef::run(self.run))];
        for (&index, stored) in step.inputs.iter().zip(inputs) {
            let input = &self.plan.nodes[index];
            facts = facts.fact(format!("input.{}", input.name), stored.digest);
            if input.step().is_some() {
                edges.push(Edge::new(NodeRef::step(self.run, &input.name), here.clone()));
            }
        }
        edges.extend(used.reads.iter().map(|d| Edge::new(NodeRef::dataset(d), here.clone())));
        // The step that computed the output, here or in another run, wrote the datasets.
        let maker = NodeRef::step(computed_by, &node.name);
        edges.extend(used.writes.iter().map(|d| Edge::new(maker.clone(), NodeRef::dataset(d))));
        let mut nodes = vec![facts];
        if maker != here {
            nodes.push(described(computed_by));
            edges.extend(used.reads.iter().map(|d| Edge::new(NodeRef::dataset(d), maker.clone())));
            edges.push(Edge::new(maker.clone(), NodeRef::run(computed_by)));
            edges.push(Edge::new(maker, here));
        }
        lineage.record(&nodes, &edges).await
    }
}

fn delays(options: &Options) -> impl Iterator<Item = std::time::Duration> + use<> {
    ExponentialBuilder::default()
        .with_min_delay(options.first_delay)
        .with_max_delay(options.most_delay.max(options.first_delay))
        .with_max_times(options.retries)
        .with_jitter()
        .build()
}

/// What a task that did not end by itself ended with: `None` if it was cancelled.
fn panicked(step: &str, error: JoinError) -> Option<Error> {
    let payload = error.try_into_panic().ok()?;
    let text = payload.downcast_ref::<String>().cloned();
    let text = text.or_else(|| payload.downcast_ref::<&str>().map(|t| (*t).to_owned()));
    let message = text.unwrap_or_else(|| "with a payload that is not text".to_owned());
    Some(Error::StepPanicked { step: step.to_owned(), message })
}

//! The whole life of a model, on a real stream, through all five crates.
//!
//! 1. The first months become a dataset version; a pipeline trains a model on them, gates it, registers it; a contributor
//!    asks, a reviewer approves, and the alias `champion` moves.
//! 2. The rest of the stream is replayed as requests, in its own time. Labels come a day late. A monitor watches inputs,
//!    predictions and errors.
//! 3. An alert leads to retraining; what passes the gates goes through shadow and canary, and takes over or is out. Two
//!    faults are planted: a model trained on shuffled labels, which the gates must stop, and one trained on a column
//!    that is not known yet when it matters, which passes them and must be stopped in live traffic.
//! 4. What came of it is told in a table, in `summary.json` and in `report.html`; where everything came from stands in
//!    `lineage.jsonl` as OpenLineage events, and the audit log ends under a signed checkpoint.

mod evidence;
mod report;
mod retrain;
mod state;

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Float64Type;
use async_trait::async_trait;
use indicatif::{ProgressBar, ProgressStyle};
use mlops_core::dataset::{GuardedDatasets, ParquetDatasets};
use mlops_core::inference::{InferenceRecord, InferenceSink, SHADOW};
use mlops_core::lineage::openlineage::{Dataset, EventType, ModelFacet, RunEvent};
use mlops_core::lineage::trace;
use mlops_core::package::REFERENCE_PROFILE;
use mlops_core::store::LocalStore;
use mlops_core::{
    Clock, Digest, ManualClock, ModelRef, Package, PredictionId, Predictor, PredictorExt, Principal, PromotionId, Role,
    RolloutId, RunId, Timestamp, Verdict,
};
use mlops_monitor::alert::{Alert, AlertSink, Alerter, Severity};
use mlops_monitor::{DriftPolicy, Monitor, ReferenceProfile, RetrainTrigger};
use mlops_pipeline::CodeIdentity;
use mlops_registry::{
    AliasPolicy, Durability, EvidenceRule, LogBatch, ModelRegistry, NewExperiment, NewModel, NewPromotion, NewRun,
    NewVersion, RunStatus, SqlRegistry, TrackingStore, TrackingStoreExt as _,
};
use mlops_serve::rollout::{CHAMPION, Decision, Plan, Rollout, Status};
use mlops_serve::{Deployment, PackageLoader, ParquetInferenceLog, Request, Runtimes, Split, TracedSink};

use self::evidence::Evidence;
pub use self::evidence::{Checked, LINEAGE_FILE};
pub use self::report::Summary;
pub use self::retrain::{Job, Made, PIPELINE, PROBABILITY, Workshop, data_gate, make};
pub use self::state::{AlertNote, Attempt, SERIES, Scores, Tally};
use self::state::{Identity, State, Trial};
use crate::Result;
use crate::elec2::{DAY, Elec2, FEATURES, SETTLED};
use crate::train::TrainParams;

/// The model's name in the registry, and the experiment's.
pub const MODEL: &str = "elec2";
/// The alias that the deployment follows.
pub const ALIAS: &str = "champion";

const WEEK: usize = 7 * DAY;

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where everything is written.
    pub out: PathBuf,
    /// Fixes everything random.
    pub seed: u64,
    /// Replay a tenth of the stream.
    pub quick: bool,
    /// Go on where a killed run was.
    pub resume: bool,
    /// Whether to tell what happens on standard error.
    pub show: bool,
}

impl Options {
    fn identity(&self) -> Identity {
        Identity { seed: self.seed, quick: self.quick }
    }
}

/// How the stream is cut, in rows, and how fast things go.
#[derive(Clone, Copy, Debug)]
struct Scale {
    /// The first row of the first training data.
    first: usize,
    /// The first row that is replayed.
    start: usize,
    /// The row after the last.
    end: usize,
    /// Rows that a model is retrained on.
    window: usize,
    /// How many of them are held out.
    holdout: usize,
    /// The rows at which the two faults are planted.
    planted: [usize; 2],
    /// The time between retrainings.
    cool_down: Duration,
    /// How long each canary step lasts.
    canary: Duration,
}

fn days(n: u64) -> Duration {
    Duration::from_secs(86_400 * n)
}

impl Scale {
    fn new(quick: bool, rows: usize) -> Self {
        if quick {
            // A tenth of the stream, around the opening of Victoria's market in May 1997.
            let (first, start) = (330 * DAY, 358 * DAY);
            let planted = [start + 9 * DAY, start + 22 * DAY];
            let (cool_down, canary) = (days(7), days(1));
            Self {
                first,
                start,
                end: first + rows / 10,
                window: 28 * DAY,
                holdout: 7 * DAY,
                planted,
                cool_down,
                canary,
            }
        } else {
            let start = 184 * DAY; // six months
            let planted = [start + 100 * DAY, start + 400 * DAY];
            let (cool_down, canary) = (days(28), days(2));
            Self { first: 0, start, end: rows, window: 184 * DAY, holdout: 14 * DAY, planted, cool_down, canary }
        }
    }
}

/// Who takes part.
struct People {
    /// Sets the rules.
    admin: Principal,
    /// Trains the first model and asks for its promotion.
    ana: Principal,
    /// Approves it.
    rita: Principal,
    /// Retrains when an alert asks for it.
    pipeline: Principal,
    /// Approves retrained models whose evidence passes.
    policy: Principal,
    /// Moves aliases and traffic.
    controller: Principal,
}

impl People {
    fn new() -> Self {
        let one = |name: &str, role| Principal::new(name).with_role(role);
        Self {
            admin: one("adam", Role::Admin),
            ana: one("ana", Role::Contributor),
            rita: one("rita", Role::Reviewer),
            pipeline: one("service:retrain", Role::Contributor),
            policy: one("policy:evidence-passes", Role::Reviewer),
            controller: one("service:rollout", Role::Deployer),
        }
    }
}

/// Keeps every answered request in Parquet, and hands it to the loop as well.
#[derive(Clone, Debug)]
struct Tap {
    log: TracedSink,
    seen: Arc<Mutex<Vec<InferenceRecord>>>,
}

impl fmt::Display for Tap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.log.fmt(f)
    }
}

#[async_trait]
impl InferenceSink for Tap {
    async fn write(&self, record: InferenceRecord) -> mlops_core::Result<()> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).push(record.clone());
        self.log.write(record).await
    }

    async fn flush(&self) -> mlops_core::Result<()> {
        self.log.flush().await
    }
}

impl Tap {
    fn take(&self) -> Vec<InferenceRecord> {
        std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Tells what happens: above a bar on a terminal, as lines elsewhere.
#[derive(Clone, Debug)]
struct Screen(Option<ProgressBar>);

impl Screen {
    fn new(options: &Options) -> Self {
        let style = ProgressStyle::with_template("{bar:32} {percent:>3} % {msg} (eta {eta})");
        Self(
            options
                .show
                .then(|| ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))),
        )
    }

    /// Whether bars can be drawn.
    fn has_bars(&self) -> bool {
        self.0.as_ref().is_some_and(|bar| !bar.is_hidden())
    }

    fn say(&self, at: Timestamp, text: impl fmt::Display) {
        let Some(bar) = &self.0 else { return };
        let line = format!("{}  {text}", at.format("%Y-%m-%d %H:%M"));
        if bar.is_hidden() { eprintln!("{line}") } else { bar.println(line) }
    }
}

impl fmt::Display for Screen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("screen")
    }
}

#[async_trait]
impl AlertSink for Screen {
    async fn send(&self, alert: &Alert) -> mlops_monitor::Result<()> {
        self.say(alert.at, format_args!("{} {}: {}", alert.severity, alert.rule, alert.summary));
        Ok(())
    }
}

/// The parts, put together.
struct Lifecycle {
    options: Options,
    scale: Scale,
    people: People,
    shop: Workshop,
    log: ParquetInferenceLog,
    tap: Tap,
    evidence: Evidence,
    screen: Screen,
}

/// Runs the whole story.
///
/// # Errors
/// Whatever fails first; nothing that was recorded is lost, and `resume` goes on from there.
pub async fn run(options: Options) -> Result<Summary> {
    if options.resume {
        state::check_owner(&options)?;
    } else {
        clear(&options.out)?;
    }
    fs::create_dir_all(&options.out)?;
    state::own(&options)?;
    let elec2 = Arc::new(Elec2::open()?);
    let scale = Scale::new(options.quick, elec2.len());
    let clock = ManualClock::at(elec2.time(scale.start));
    let store = LocalStore::open(options.out.join("store"))?;
    let registry = SqlRegistry::builder()
        .artifacts(store.clone())
        .clock(clock.clone())
        .durability(Durability::Process)
        .open_sqlite(options.out.join("registry.db"))
        .await?;
    let log = ParquetInferenceLog::new(store.clone(), "inference/prices")?;
    let evidence = Evidence::open(&options, &store, &registry, &clock).await?;
    let events = evidence.events.clone();
    let tap = Tap { log: TracedSink::new(log.clone(), events.clone()).clock(clock.clone()), seen: Arc::default() };
    let datasets = ParquetDatasets::new(store.clone()).audit(evidence.audit.clone());
    datasets.reconcile_audit().await?;
    let (store, datasets, code) = (Arc::new(store), GuardedDatasets::new(datasets), CodeIdentity::of_executable()?);
    let shop = Workshop { elec2, store, datasets, registry, events, clock, code };
    let screen = Screen::new(&options);
    let life = Lifecycle { options, scale, people: People::new(), shop, log, tap, evidence, screen };
    let state = match State::load(&life.options)? {
        Some(state) => {
            life.screen.say(life.shop.elec2.time(state.next), "resumed");
            life.log.rewind(life.shop.elec2.time(state.next)).await?;
            state
        }
        None => {
            life.log.rewind(life.shop.elec2.time(0)).await?;
            life.begin().await?
        }
    };
    let summary = life.replay(state).await?;
    life.shop.registry.close().await;
    Ok(summary)
}

/// Removes what an earlier run left in `out`, and nothing else: the file that says so is removed last.
fn clear(out: &Path) -> Result<()> {
    let left = [
        "state.json",
        "state.json.new",
        "registry.db",
        "registry.db-wal",
        "registry.db-shm",
        "store",
        LINEAGE_FILE,
        "report.html",
        "summary.json",
    ];
    let Ok(entries) = fs::read_dir(out) else { return Ok(()) };
    let names = entries.map(|e| Ok(e?.file_name())).collect::<Result<Vec<_>>>()?;
    let ours = names.iter().any(|name| *name == *state::OWNER);
    let known = |name: &std::ffi::OsString| *name == *state::OWNER || left.iter().any(|l| *name == **l);
    if let Some(foreign) = names.iter().find(|name| !ours || !known(name)) {
        let (dir, name) = (out.display(), foreign.to_string_lossy());
        return Err(format!("--out {dir}: has {name:?}, which is not ours; name an empty or a new directory").into());
    }
    for name in left.into_iter().chain([state::OWNER]) {
        let path = out.join(name);
        if path.is_dir() {
            fs::remove_dir_all(path)?;
        } else if path.exists() {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// The loaded model's probability for each row of `rows`.
fn probability(model: &dyn Predictor, rows: &RecordBatch) -> Result<f64> {
    Ok(first(&model.run(rows)?))
}

fn first(outputs: &RecordBatch) -> f64 {
    outputs.column(0).as_primitive::<Float64Type>().value(0)
}

impl Lifecycle {
    fn params(&self, attempt: usize) -> TrainParams {
        TrainParams {
            features: FEATURES.map(str::to_owned).to_vec(),
            hidden: vec![32, 32],
            epochs: 30,
            batch: 64,
            learning_rate: 0.003,
            weight_decay: 0.02,
            seed: self.options.seed.wrapping_add(1_000 * attempt as u64),
            shuffle_labels: false,
        }
    }

    /// A seed for derived ids: the same in a run that is resumed.
    fn named(&self, what: impl fmt::Display) -> Vec<u8> {
        format!("{} {what}", self.options.seed).into_bytes()
    }

    fn say(&self, text: impl fmt::Display) {
        self.screen.say(self.shop.clock.now(), text);
    }

    async fn package(&self, digest: &Digest) -> Result<(Arc<dyn Predictor>, ReferenceProfile)> {
        let package = Package::load(&*self.shop.store, digest).await?;
        let profile = ReferenceProfile::from_json(package.file(REFERENCE_PROFILE)?)?;
        Ok((Runtimes::default().load(&package)?, profile))
    }

    /// Makes a model in a tracked pipeline run.
    async fn make(&self, name: &str, job: Job) -> Result<Made> {
        let registry = &self.shop.registry;
        let (run, who) = (job.run, &job.who.clone());
        registry.start_run(who, NewRun::new(MODEL).id(run).name(name).environment(&retrain::environment())).await?;
        let params = serde_json::to_value(&job.params)?;
        // One that fails stays open: resumed, it may end well, and a run ends once.
        let made = make(&self.shop, job).await?;
        let at = self.shop.clock.now();
        registry.log_input(who, run, made.trained_on.clone(), "training").await?;
        let mut batch = LogBatch::new();
        for (key, value) in params.as_object().into_iter().flatten() {
            batch = batch.param(key, value);
        }
        for (epoch, loss) in made.losses.iter().enumerate() {
            batch = batch.metric("loss", *loss, epoch as i64, at);
        }
        registry.log_batch(who, run, batch.tag("gates", made.gates.verdict.as_str())).await?;
        registry.finish_run(who, run, RunStatus::Finished).await?;
        Ok(made)
    }

    /// Registers what a run made, and says so in its lineage.
    async fn register(&self, who: &Principal, made: &Made, run: RunId, why: &str) -> Result<u64> {
        let Workshop { registry, events, clock, .. } = &self.shop;
        let new = NewVersion::new(MODEL, made.package).run(run).description(why);
        let version = registry.create_version(who, new).await?.version;
        let job = events.job(PIPELINE, "PIPELINE");
        let model = Dataset::model(events.home(), ModelFacet::new(MODEL, version).package(made.package));
        events.emit(RunEvent::new(EventType::Other, clock.now(), events.run(run), job).output(model));
        Ok(version)
    }

    /// From the first rows to the first champion.
    async fn begin(&self) -> Result<State> {
        let Self { scale, people, shop, .. } = self;
        let registry = &shop.registry;
        let at = shop.clock.now();
        let fine = |outcome: mlops_registry::Result<()>| match outcome {
            Err(mlops_registry::Error::Core(mlops_core::Error::AlreadyExists { .. })) => Ok(()), // a run that was killed made it
            other => other,
        };
        fine(registry.create_experiment(&people.ana, NewExperiment::new(MODEL)).await.map(drop))?;
        let model =
            NewModel::new(MODEL).description("whether the price of electricity is above its mean of the last 24 hours");
        fine(registry.create_model(&people.ana, model).await.map(drop))?;
        let policy = AliasPolicy::approvals(1).evidence(EvidenceRule::AllPass);
        registry.set_policy(&people.admin, MODEL, ALIAS, policy).await?;

        let run = RunId::derived(at, &self.named("run 0"));
        let rows = (scale.first, scale.start);
        self.say(format_args!("training the first model on rows {}..{}", rows.0, rows.1));
        let (holdout, who, show) = (scale.holdout, people.ana.clone(), self.screen.has_bars());
        let job = Job { run, rows, holdout, params: self.params(0), champion: None, who, show };
        let made = self.make("first model", job).await?;
        self.say(&made.gates);
        if made.gates.verdict != Verdict::Pass {
            return Err(format!("the first model does not pass its gates\n{}", made.gates).into());
        }
        let version = self.register(&people.ana, &made, run, "trained on the first months").await?;
        let id = PromotionId::derived(at, &self.named("promotion 0"));
        let evidence = made.gates.findings().cloned();
        let promotion = NewPromotion::new(MODEL, version, ALIAS).id(id).evidence(evidence).reason("first model");
        registry.request_promotion(&people.ana, promotion).await?;
        // Nobody lets their own model through, and nobody without the role moves the alias.
        if let Err(refused) = registry.approve(&people.ana, id, "looks good to me").await {
            self.say(format_args!("refused: {refused}"));
        }
        if let Err(refused) = registry.promote(&people.controller, id).await {
            self.say(format_args!("refused: {refused}"));
        }
        registry.approve(&people.rita, id, "the gates pass and the data is what we agreed on").await?;
        let promotion = registry.promote(&people.controller, id).await?;
        self.say(&promotion);

        let (_, profile) = self.package(&made.package).await?;
        // One column that moves with the season is no news; three at once, two weeks running, are.
        let policy = DriftPolicy::default().min_features(3).consecutive(2);
        let monitor = Monitor::builder(MODEL, profile)
            .version(version)
            .window(days(7))
            .aligned_to(at)
            .policy(policy)
            .accuracy_floor(0.75)
            .build()?;
        let trigger = RetrainTrigger::builder()
            .min_severity(Severity::Warning)
            .rules(["data_drift", "error_rate", "accuracy"])
            .cool_down(scale.cool_down)
            .min_labelled(if self.options.quick { 5 } else { 14 } * DAY as u64)
            .build()?;
        let attempt = Attempt {
            at,
            why: "first model".into(),
            dataset: made.dataset.digest,
            package: made.package,
            gates: made.gates.verdict,
            version: Some(version),
            outcome: "champion, approved by rita".into(),
            decided: at,
        };
        Ok(State {
            next: scale.start,
            champion: version,
            package: made.package,
            trained_until: scale.start,
            monitor,
            alerter: Alerter::builder().cool_down(scale.cool_down).build()?,
            trigger,
            trial: None,
            planted: 0,
            open: Default::default(),
            scores: Scores::default(),
            attempts: vec![attempt],
            alerts: Vec::new(),
            traffic: Vec::new(),
            last_prediction: None,
        })
    }

    /// Replays the stream from where `state` is.
    async fn replay(&self, mut state: State) -> Result<Summary> {
        let Self { scale, shop, .. } = self;
        let first_package = state.attempts[0].package;
        let (frozen, _) = self.package(&first_package).await?;
        let split = match &state.trial {
            Some(trial) => trial.rollout.split(),
            None => champion_only(state.champion),
        };
        let source = PackageLoader::new(shop.registry.clone(), Runtimes::default());
        let deployment = Deployment::builder("prices", source)
            .sink(self.tap.clone())
            .audit(self.evidence.audit.clone())
            .lineage(shop.registry.clone())
            .lineage_events(shop.events.clone())
            .clock(shop.clock.clone())
            .start(split)
            .await?;
        if let Some(bar) = &self.screen.0 {
            bar.set_length((scale.end - scale.start) as u64);
        }
        for row in state.next..scale.end {
            let at = shop.elec2.time(row);
            shop.clock.set(at);
            if (row - scale.start).is_multiple_of(WEEK) {
                state.next = row;
                self.tap.flush().await?;
                self.evidence.flush().await?;
                state.save(&self.options.out)?;
                if let Some(bar) = &self.screen.0 {
                    bar.set_position((row - scale.start) as u64);
                    bar.set_message(format!("{}, champion v{}", at.format("%b %Y"), state.champion));
                }
            }
            self.take_labels(&mut state, row)?;
            self.watch(&mut state).await?;
            self.decide(&mut state, &deployment).await?;
            if row.is_multiple_of(DAY) && state.trial.is_none() {
                self.retrain_if_due(&mut state, &deployment, row).await?;
            }
            self.answer(&mut state, &deployment, &*frozen, row).await?;
        }
        if let Some(trial) = &mut state.trial {
            let attempt = &mut state.attempts[trial.attempt];
            attempt.outcome = "still on trial at the end".into();
        }
        self.tap.flush().await?;
        if let Some(bar) = &self.screen.0 {
            bar.finish_and_clear();
        }
        let last = state.last_prediction.ok_or("nothing was replayed")?;
        let traced = trace(&self.log, &shop.registry, last).await?;
        let checked = self.evidence.check().await?;
        let promotions = shop.registry.promotions(MODEL).await?;
        let summary = Summary::new(&self.options, &state, &traced, checked, &promotions, deployment.health())?;
        fs::write(self.options.out.join("summary.json"), serde_json::to_vec_pretty(&summary)?)?;
        let html = report::html(&summary, &state, shop.elec2.time(scale.start));
        fs::write(self.options.out.join("report.html"), html)?;
        Ok(summary)
    }

    /// The label of the row of 24 hours ago arrives.
    fn take_labels(&self, state: &mut State, row: usize) -> Result<()> {
        while let Some(&(asked, id)) = state.open.front().filter(|(asked, _)| asked + DAY <= row) {
            state.open.pop_front();
            let label = self.shop.elec2.label(asked);
            state.scores.known.0 += 1;
            state.scores.known.1 += u64::from(label);
            state.monitor.label(id, label, self.shop.clock.now())?;
            if let Some(trial) = &mut state.trial
                && let Some((champion, candidate)) = trial.pairs.remove(&asked)
            {
                trial.rollout.observe_pair(champion == label, candidate == label);
            }
        }
        Ok(())
    }

    /// What the monitor has to say.
    async fn watch(&self, state: &mut State) -> Result<()> {
        let now = self.shop.clock.now();
        for alert in state.monitor.advance(now)? {
            let note = AlertNote { at: alert.at, rule: alert.rule.clone(), summary: alert.summary.clone() };
            let considered = alert.clone();
            if state.alerter.raise(alert, &self.screen).await? {
                state.alerts.push(note);
                // With no new rows it is only kept in mind; it is served at midnight, see `retrain_if_due`.
                state.trigger.consider(&considered, now, 0);
            }
        }
        Ok(())
    }

    /// Moves a rollout on.
    async fn decide(&self, state: &mut State, deployment: &Deployment) -> Result<()> {
        let Some(trial) = &mut state.trial else { return Ok(()) };
        let now = self.shop.clock.now();
        let failures = deployment.failures(MODEL, trial.version);
        trial.rollout.observe_failures(failures.saturating_sub(trial.rollout.evidence().failures));
        let decision = trial.rollout.decide(now)?;
        if decision == Decision::Continue {
            return Ok(());
        }
        let because = trial.rollout.history().last().map(|t| t.finding.to_string()).unwrap_or_default();
        let share = match trial.rollout.status() {
            Status::Running { step, .. } => trial.rollout.plan().steps.get(*step).map_or(0.0, |s| s.share),
            _ => 0.0,
        };
        let (people, registry) = (&self.people, &self.shop.registry);
        let (version, promotion) = (trial.version, trial.promotion);
        match decision {
            Decision::Continue => {}
            Decision::Advance => {
                self.say(format_args!("v{version} goes on to {:.0} % of the callers", 100.0 * share));
                deployment.apply(&people.controller, trial.rollout.split(), &because).await?;
            }
            Decision::Promote => {
                let moved = registry.promote(&people.controller, promotion).await?;
                self.say(&moved);
                let (_, profile) = self.package(&trial.package).await?;
                deployment.apply(&people.controller, champion_only(version), &because).await?;
                state.monitor.reset_for(version, profile, now)?;
                // What was pending was said of the version that has just gone.
                state.trigger.clear();
                (state.champion, state.package, state.trained_until) = (version, trial.package, trial.trained_until);
                self.end_trial(state, format!("champion after {}", evidence(state)), now);
            }
            Decision::Rollback => {
                self.say(format_args!("v{version} is rolled back: {because}"));
                deployment.apply(&people.controller, champion_only(state.champion), &because).await?;
                registry.reject(&people.policy, promotion, &because).await?;
                let step = if ended_in_shadow(&trial.rollout) { "shadow" } else { "canary" };
                let outcome = format!("rolled back in {step} after {}", evidence(state));
                self.end_trial(state, outcome, now);
            }
        }
        Ok(())
    }

    fn end_trial(&self, state: &mut State, outcome: String, now: Timestamp) {
        if let Some(trial) = state.trial.take() {
            let attempt = &mut state.attempts[trial.attempt];
            (attempt.outcome, attempt.decided) = (outcome, now);
        }
    }

    /// Plants a fault whose day has come, or serves the alert that is due.
    async fn retrain_if_due(&self, state: &mut State, deployment: &Deployment, row: usize) -> Result<()> {
        let labelled_until = row - DAY;
        let labelled = labelled_until.saturating_sub(state.trained_until) as u64;
        let mut params = self.params(state.attempts.len());
        let planted = self.scale.planted.get(state.planted).is_some_and(|&at| row >= at);
        let why = if planted {
            state.planted += 1;
            if state.planted == 1 {
                params.shuffle_labels = true;
                "planted: trained on shuffled labels".to_owned()
            } else {
                params.features.push(SETTLED.to_owned());
                "planted: trained on a column not known yet when asked".to_owned()
            }
        } else if let Some(request) = state.trigger.due(self.shop.clock.now(), labelled) {
            request.reason
        } else {
            return Ok(());
        };
        self.try_candidate(state, deployment, why, params, labelled_until).await
    }

    /// Makes a candidate from the rows labelled so far and, if its gates let it through, starts its rollout.
    async fn try_candidate(
        &self,
        state: &mut State,
        deployment: &Deployment,
        why: String,
        params: TrainParams,
        labelled_until: usize,
    ) -> Result<()> {
        let Self { scale, people, shop, .. } = self;
        let (at, n) = (shop.clock.now(), state.attempts.len());
        self.say(format_args!("candidate {n}: {why}"));
        let run = RunId::derived(at, &self.named(format_args!("run {n}")));
        let rows = (labelled_until.saturating_sub(scale.window).max(scale.first), labelled_until);
        let (holdout, champion, who) = (scale.holdout, Some(state.package), people.pipeline.clone());
        let made = self
            .make(&format!("candidate {n}"), Job { run, rows, holdout, params, champion, who, show: false })
            .await?;
        let mut attempt = Attempt {
            at,
            why: why.clone(),
            dataset: made.dataset.digest,
            package: made.package,
            gates: made.gates.verdict,
            version: None,
            outcome: String::new(),
            decided: at,
        };
        if made.gates.verdict != Verdict::Pass {
            let stopped = made.gates.findings().find(|f| f.verdict != Verdict::Pass);
            attempt.outcome =
                stopped.map(|f| format!("stopped by gate {}: {}", f.check, f.summary)).unwrap_or_default();
            self.say(format_args!("candidate {n}: {}", attempt.outcome));
            state.attempts.push(attempt);
            return Ok(());
        }
        let registry = &shop.registry;
        let version = self.register(&people.pipeline, &made, run, &why).await?;
        let id = PromotionId::derived(at, &self.named(format_args!("promotion {n}")));
        let promotion =
            NewPromotion::new(MODEL, version, ALIAS).id(id).evidence(made.gates.findings().cloned()).reason(&why);
        registry.request_promotion(&people.pipeline, promotion).await?;
        registry.approve(&people.policy, id, "all blocking gates pass").await?;
        let plan = Plan::builder()
            .shadow(days(1))
            .canary(0.1, scale.canary)
            .canary(0.5, scale.canary)
            .tolerated_loss(0.05)
            .patience(days(14))
            .build()?;
        let rollout = RolloutId::derived(at, &self.named(format_args!("rollout {n}")));
        let (champion, candidate) = (ModelRef::version(MODEL, state.champion), ModelRef::version(MODEL, version));
        let rollout = Rollout::start(rollout, plan, champion, candidate, at);
        deployment.apply(&people.controller, rollout.split(), "shadow for a day").await?;
        self.say(format_args!(
            "candidate {n} passes its gates, is v{version}, and starts in the shadow of v{}",
            state.champion
        ));
        attempt.version = Some(version);
        let trial = Trial {
            rollout,
            promotion: id,
            version,
            package: made.package,
            trained_until: labelled_until,
            attempt: state.attempts.len(),
            pairs: Default::default(),
        };
        state.attempts.push(attempt);
        state.trial = Some(trial);
        Ok(())
    }

    /// Asks the deployment, scores the answer beside the baselines, and lets the monitor see it.
    async fn answer(
        &self,
        state: &mut State,
        deployment: &Deployment,
        frozen: &dyn Predictor,
        row: usize,
    ) -> Result<()> {
        let elec2 = &self.shop.elec2;
        let inputs = elec2.request(row)?;
        let id = PredictionId::derived(elec2.time(row), &self.named(format_args!("row {row}")));
        let frozen = probability(frozen, &inputs)?;
        let answer = deployment.predict(Request::new(format!("caller {row}"), inputs).ids(vec![id])).await?;
        if state.trial.is_some() {
            deployment.drain().await;
        }
        let mut said = [None, None];
        for record in self.tap.take() {
            let place = usize::from(state.trial.as_ref().is_some_and(|t| t.version == record.version));
            said[place] = Some(first(&record.outputs) >= 0.5);
            if &*record.arm != SHADOW {
                state.monitor.observe(&record)?;
            }
        }
        if let (Some(trial), [Some(champion), Some(candidate)]) = (&mut state.trial, said) {
            trial.pairs.insert(row, (champion, candidate));
        }
        state.open.push_back((row, id));
        state.last_prediction = Some(id);
        let day = (row - self.scale.start) / DAY;
        if state.traffic.len() <= day {
            state.traffic.resize(day + 1, Default::default());
        }
        *state.traffic[day].entry(answer.version).or_default() += 1;

        let certain = |label: bool| f64::from(u8::from(label));
        let (n, up) = state.scores.known;
        let base_rate = if n == 0 { 0.0 } else { up as f64 / n as f64 };
        let told =
            [first(&answer.outputs), frozen, certain(elec2.label(row - DAY)), certain(elec2.label(row - 1)), base_rate];
        state.scores.add((row - self.scale.start) / WEEK, told, elec2.label(row));
        Ok(())
    }
}

fn champion_only(version: u64) -> Split {
    Split::only(CHAMPION, ModelRef::version(MODEL, version))
}

/// The evidence of the trial in progress, in a few words.
fn evidence(state: &State) -> String {
    let Some(trial) = &state.trial else { return String::new() };
    let e = trial.rollout.evidence();
    let (pairs, won, lost) = (e.pairs(), e.only_candidate, e.only_champion);
    format!("{pairs} labelled pairs, {won} won and {lost} lost")
}

/// Whether a rollout that has just ended did so before it answered anybody.
fn ended_in_shadow(rollout: &Rollout) -> bool {
    !rollout.history().iter().any(|t| matches!(t.to, Status::Running { .. }))
}

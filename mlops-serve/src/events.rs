//! What is deployed and what is predicted, as OpenLineage events.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use mlops_core::inference::{InferenceRecord, InferenceSink};
use mlops_core::lineage::LineageEvents;
use mlops_core::lineage::openlineage::{
    Dataset, ErrorMessageFacet, EventType, Job, ModelFacet, PredictionsFacet, Run, RunEvent,
};
use mlops_core::{Clock, DatasetRef, Result, RunId, SystemClock, Timestamp, with_causes};

/// Tells of one run, of which it is told that it started: how it ends, or that it was aborted.
pub(crate) struct Telling(Option<Open>);

struct Open {
    events: LineageEvents,
    clock: Arc<dyn Clock>,
    run: Run,
    job: Job,
}

impl Telling {
    /// A run of the job starts; nothing is told where nobody wants to know.
    pub(crate) fn start(events: Option<&LineageEvents>, clock: &Arc<dyn Clock>, job: &str, job_type: &str) -> Self {
        Self(events.map(|events| {
            let now = clock.now();
            let (run, job) = (events.run(RunId::new(now)), events.job(job, job_type));
            events.emit(RunEvent::new(EventType::Start, now, run.clone(), job.clone()));
            Open { events: events.clone(), clock: Arc::clone(clock), run, job }
        }))
    }

    /// It came to its end with what `used` adds in the namespace it is given.
    pub(crate) fn complete(mut self, used: impl FnOnce(RunEvent, &str) -> RunEvent) {
        if let Some(Open { events, clock, run, job }) = self.0.take() {
            let event = RunEvent::new(EventType::Complete, clock.now(), run, job);
            events.emit(used(event, events.home()));
        }
    }

    /// It failed.
    pub(crate) fn fail(mut self, error: &(dyn std::error::Error + 'static)) {
        if let Some(Open { events, clock, run, job }) = self.0.take() {
            let run = run.facet(ErrorMessageFacet::new(with_causes(error)));
            events.emit(RunEvent::new(EventType::Fail, clock.now(), run, job));
        }
    }
}

impl Drop for Telling {
    fn drop(&mut self) {
        if let Some(Open { events, clock, run, job }) = self.0.take() {
            events.emit(RunEvent::new(EventType::Abort, clock.now(), run, job));
        }
    }
}

/// A layer that tells of the predictions it passes on: wraps a sink, and is one.
///
/// What was written between two flushes is a batch for each version that predicted, shadows included. A batch is a run of
/// the job `predict.DEPLOYMENT` from its first request on; its inputs are the model version and, where it is
/// [known](Self::dataset), the dataset whose rows were asked about, its output the batch. It is told once the sink has
/// flushed: of what is lost with the process, nothing is told. The layer flushes by itself each
/// [`batch_rows`](Self::batch_rows).
///
/// ```
/// # futures::executor::block_on(async {
/// use mlops_core::inference::{InferenceSink, MemoryInferenceLog};
/// use mlops_core::lineage::{LineageEvents, MemorySink};
/// use mlops_serve::TracedSink;
/// let told = MemorySink::default();
/// let sink = TracedSink::new(MemoryInferenceLog::default(), LineageEvents::to(told.clone()).namespace("shop"));
/// sink.flush().await?;
/// assert!(told.events().is_empty()); // nothing was predicted
/// # Ok::<(), mlops_core::Error>(()) }).unwrap();
/// ```
///
/// Clones share the sink and the batches.
#[derive(Clone, Debug)]
pub struct TracedSink {
    inner: Arc<dyn InferenceSink>,
    events: LineageEvents,
    clock: Arc<dyn Clock>,
    dataset: Option<DatasetRef>,
    batch_rows: u64,
    open: Arc<Mutex<Batches>>,
}

type Batches = BTreeMap<(Arc<str>, Arc<str>, u64), Batch>;

/// Predictions of one version.
#[derive(Clone, Copy, Debug)]
struct Batch {
    rows: u64,
    from: Timestamp,
    last: Timestamp,
}

impl Batch {
    fn merge(&mut self, other: &Self) {
        self.rows += other.rows;
        (self.from, self.last) = (self.from.min(other.from), self.last.max(other.last));
    }
}

impl TracedSink {
    /// Passes everything on to `inner` and tells `events` of it.
    pub fn new(inner: impl InferenceSink, events: LineageEvents) -> Self {
        let (clock, open) = (Arc::new(SystemClock), Arc::default());
        Self { inner: Arc::new(inner), events, clock, dataset: None, batch_rows: 8_192, open }
    }

    /// The clock that dates the end of a batch (default: the system's).
    #[must_use]
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// The dataset version whose rows are asked about (default: not known, as online).
    #[must_use]
    pub fn dataset(mut self, dataset: &DatasetRef) -> Self {
        self.dataset = Some(dataset.clone());
        self
    }

    /// Rows from which a write flushes by itself, at least 1 (default 8,192).
    #[must_use]
    pub fn batch_rows(mut self, rows: u64) -> Self {
        self.batch_rows = rows.max(1);
        self
    }

    fn tell(&self, (deployment, model, version): &(Arc<str>, Arc<str>, u64), batch: &Batch) {
        let run = RunId::new(self.clock.now());
        let (home, job) = (self.events.home(), self.events.job(format!("predict.{deployment}"), "PREDICTION"));
        let event = |event_type, at| RunEvent::new(event_type, at, self.events.run(run), job.clone());
        let model = Dataset::model(home, ModelFacet::new(&**model, *version));
        let predictions = PredictionsFacet::new(format!("{deployment}-{run}"))
            .between(batch.from, batch.last + Duration::from_micros(1))
            .rows(batch.rows)
            .deployment(&**deployment);
        self.events.emit(event(EventType::Start, batch.from));
        let made = event(EventType::Complete, self.clock.now()).input(model);
        let made = self.dataset.iter().fold(made, |made, dataset| made.input(Dataset::reference(home, dataset)));
        self.events.emit(made.output(Dataset::predictions(home, predictions)));
    }
}

fn lock(open: &Mutex<Batches>) -> MutexGuard<'_, Batches> {
    open.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Batches that are about to be told of; they are open again if that does not come to pass.
struct Taken<'a> {
    open: &'a Mutex<Batches>,
    batches: Batches,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        let mut open = lock(self.open);
        for (key, batch) in std::mem::take(&mut self.batches) {
            open.entry(key).and_modify(|open| open.merge(&batch)).or_insert(batch);
        }
    }
}

impl fmt::Display for TracedSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "traced {}", self.inner)
    }
}

#[async_trait]
impl InferenceSink for TracedSink {
    async fn write(&self, record: InferenceRecord) -> Result<()> {
        let key = (Arc::clone(&record.deployment), Arc::clone(&record.model), record.version);
        let batch = Batch { rows: record.ids.len() as u64, from: record.at, last: record.at };
        self.inner.write(record).await?;
        let is_full = {
            let mut open = lock(&self.open);
            let before: u64 = open.values().map(|batch| batch.rows).sum();
            open.entry(key).and_modify(|open| open.merge(&batch)).or_insert(batch);
            // While the sink fails, try again once in a batch's worth of rows, not for each.
            before / self.batch_rows != (before + batch.rows) / self.batch_rows
        };
        if is_full { self.flush().await } else { Ok(()) }
    }

    async fn flush(&self) -> Result<()> {
        let mut taken = Taken { open: &self.open, batches: std::mem::take(&mut *lock(&self.open)) };
        self.inner.flush().await?;
        std::mem::take(&mut taken.batches).iter().for_each(|(key, batch)| self.tell(key, batch));
        Ok(())
    }
}

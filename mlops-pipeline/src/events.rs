//! A run as OpenLineage events: one for the run and one for each step, when they start and when they end.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mlops_core::lineage::LineageEvents;
use mlops_core::lineage::openlineage::{
    Dataset, ErrorMessageFacet, EventType, Job, ParentFacet, Run, RunEvent, StepFacet,
};
use mlops_core::{Clock, RunId};

use crate::context::Used;

/// Tells of one run.
pub(crate) struct Teller {
    events: LineageEvents,
    clock: Arc<dyn Clock>,
    run: RunId,
    pipeline: String,
    open: Mutex<Open>,
}

/// What has started and not ended.
#[derive(Default)]
struct Open {
    is_open: bool,
    steps: BTreeMap<String, Used>,
}

/// How a run or a step ended.
pub(crate) enum End<'a> {
    Complete,
    Fail(&'a str),
    Abort,
}

impl Teller {
    /// Begins to tell of one run.
    pub(crate) fn begin(events: &LineageEvents, clock: Arc<dyn Clock>, run: RunId, pipeline: &str) -> Self {
        let teller = Self { events: events.clone(), clock, run, pipeline: pipeline.to_owned(), open: Mutex::default() };
        let mut open = teller.open();
        open.is_open = true;
        teller.emit(EventType::Start, teller.whole(), teller.job(None));
        drop(open);
        teller
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A step starts, if it has not before.
    pub(crate) fn step_started(&self, step: &str) {
        self.start(&mut self.open(), step);
    }

    fn start(&self, open: &mut Open, step: &str) {
        if open.is_open && !open.steps.contains_key(step) {
            open.steps.insert(step.to_owned(), Used::default());
            self.emit(EventType::Start, self.part(StepFacet::new(step)), self.job(Some(step)));
        }
    }

    /// What the step's attempt said it used, in case it fails.
    pub(crate) fn step_used(&self, step: &str, used: Used) {
        if let Some(before) = self.open().steps.get_mut(step) {
            *before = used;
        }
    }

    /// A step came to its end: it ran, or its output was computed before, with what it wrote.
    pub(crate) fn step_completed(&self, facet: StepFacet, used: &Used) {
        let mut open = self.open();
        self.start(&mut open, &facet.step);
        if open.steps.remove(&facet.step).is_some() {
            let job = self.job(Some(&facet.step));
            let is_cached = facet.computed_by.is_some_and(|run| run != self.run);
            let writes = if is_cached { Default::default() } else { used.writes.clone() };
            let used = Used { reads: used.reads.clone(), writes };
            self.emit_using(EventType::Complete, self.part(facet), job, &used);
        }
    }

    /// A step failed or was stopped.
    pub(crate) fn step_ended(&self, step: &str, end: &End<'_>) {
        let mut open = self.open();
        if matches!(end, End::Fail(_)) {
            self.start(&mut open, step);
        }
        if let Some(used) = open.steps.remove(step) {
            let (event_type, run) = ended(self.part(StepFacet::new(step)), end);
            self.emit_using(event_type, run, self.job(Some(step)), &used);
        }
    }

    /// The run is over; nothing is told of it after this.
    pub(crate) fn run_ended(&self, end: &End<'_>) {
        let mut open = self.open();
        if std::mem::take(&mut open.is_open) {
            for (step, used) in std::mem::take(&mut open.steps) {
                let (event_type, run) = ended(self.part(StepFacet::new(&step)), &End::Abort);
                self.emit_using(event_type, run, self.job(Some(&step)), &used);
            }
            let (event_type, run) = ended(self.whole(), end);
            self.emit(event_type, run, self.job(None));
        }
    }

    fn whole(&self) -> Run {
        self.events.run(self.run)
    }

    fn part(&self, step: StepFacet) -> Run {
        let parent = ParentFacet::new(Run::new(self.run), Job::new(self.events.home(), &self.pipeline));
        self.events.run(Run::step(self.run, &step.step)).facet(parent).facet(step)
    }

    fn job(&self, step: Option<&str>) -> Job {
        match step {
            None => self.events.job(&self.pipeline, "PIPELINE"),
            Some(step) => self.events.job(format!("{}.{step}", self.pipeline), "STEP"),
        }
    }

    fn emit(&self, event_type: EventType, run: Run, job: Job) {
        self.emit_using(event_type, run, job, &Used::default());
    }

    fn emit_using(&self, event_type: EventType, run: Run, job: Job, used: &Used) {
        let dataset = |d| Dataset::reference(self.events.home(), d);
        let event = RunEvent::new(event_type, self.clock.now(), run, job);
        let event = used.reads.iter().fold(event, |event, d| event.input(dataset(d)));
        self.events.emit(used.writes.iter().fold(event, |event, d| event.output(dataset(d))));
    }
}

fn ended(run: Run, end: &End<'_>) -> (EventType, Run) {
    match end {
        End::Complete => (EventType::Complete, run),
        End::Fail(error) => (EventType::Fail, run.facet(ErrorMessageFacet::new(*error))),
        End::Abort => (EventType::Abort, run),
    }
}

impl fmt::Debug for Teller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Teller({} of {})", self.run, self.pipeline)
    }
}

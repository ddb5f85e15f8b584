use std::sync::Arc;

use super::LineageSink;
use super::openlineage::{EnvironmentFacet, Job, JobTypeFacet, Run, RunEvent, SourceCodeLocationFacet};

/// Where a part of a program sends its lineage, and what it says of it beside what it knows by itself.
///
/// ```
/// use mlops_core::RunId;
/// use mlops_core::lineage::openlineage::{EnvironmentFacet, EventType, RunEvent};
/// use mlops_core::lineage::{LineageEvents, MemorySink};
/// # let at: mlops_core::Timestamp = "1996-05-07T00:00:00Z".parse().unwrap();
/// let sink = MemorySink::default();
/// let events = LineageEvents::to(sink.clone()).namespace("shop").environment(EnvironmentFacet::new().commit("4f92db1"));
/// let run = events.run(RunId::new(at));
/// events.emit(RunEvent::new(EventType::Start, at, run, events.job("nightly", "JOB")));
/// assert_eq!(sink.events()[0].job.namespace, "shop");
/// ```
#[derive(Clone, Debug)]
#[must_use = "events are sent by what this is given to"]
pub struct LineageEvents {
    sink: Arc<dyn LineageSink>,
    namespace: String,
    environment: Option<EnvironmentFacet>,
    source: Option<SourceCodeLocationFacet>,
}

impl LineageEvents {
    /// Sends events to `sink`.
    pub fn to(sink: impl LineageSink) -> Self {
        Self { sink: Arc::new(sink), namespace: "mlops".to_owned(), environment: None, source: None }
    }

    /// The namespace of jobs and datasets (default: `mlops`).
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = namespace.into();
        self
    }

    /// Which code runs, and on what.
    pub fn environment(mut self, environment: EnvironmentFacet) -> Self {
        self.environment = Some(environment);
        self
    }

    /// Where the code lies.
    pub fn source(mut self, source: SourceCodeLocationFacet) -> Self {
        self.source = Some(source);
        self
    }

    /// The namespace of jobs and datasets.
    #[must_use]
    pub fn home(&self) -> &str {
        &self.namespace
    }

    /// A run in this environment: of that id, or with what is known of it already.
    #[must_use]
    pub fn run(&self, run: impl Into<Run>) -> Run {
        self.environment.iter().fold(run.into(), |run, environment| run.facet(environment.clone()))
    }

    /// A job of this program, done in batches, of that type: `PIPELINE`, `STEP`, `DEPLOYMENT`.
    #[must_use]
    pub fn job(&self, name: impl Into<String>, job_type: &str) -> Job {
        let job = Job::new(&self.namespace, name).facet(JobTypeFacet::batch().job_type(job_type));
        self.source.iter().fold(job, |job, source| job.facet(source.clone()))
    }

    /// Sends an event.
    pub fn emit(&self, event: RunEvent) {
        self.sink.emit(event);
    }
}

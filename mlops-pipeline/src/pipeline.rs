use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use mlops_core::{Digest, store};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{BoxError, CodeIdentity, Error, Result, Run, Runner, StepContext, runner};
use mlops_core::with_causes;

/// What a step may give and take: JSON, so that it can be kept, compared and read back.
///
/// Large things travel as references: a dataset version, the digest of an artifact. Implemented for every type that
/// fits; never implement it by hand.
pub trait Value: Serialize + DeserializeOwned + Send + Sync + 'static {}

impl<T: Serialize + DeserializeOwned + Send + Sync + 'static> Value for T {}

/// The output of a step, before it exists: how later steps name it, and how its value is asked for after a run.
pub struct Handle<T> {
    pub(crate) builder: u64,
    pub(crate) index: usize,
    value: PhantomData<fn() -> T>,
}

impl<T> Clone for Handle<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Handle<T> {}

impl<T> fmt::Debug for Handle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Handle({}: {})", self.index, std::any::type_name::<T>())
    }
}

/// What a step takes: `()`, a [`Handle`], a `Vec` of inputs, or a tuple of up to eight inputs.
///
/// Sealed: these are all there are.
pub trait Inputs: sealed::Sealed + Send + Sync + 'static {
    /// What the step's closure is given: each handle replaced by its value.
    type Values: Send;

    /// The handles, as (builder, index), in order.
    #[doc(hidden)]
    fn handles(&self, out: &mut Vec<(u64, usize)>);

    /// Reads the values, in the order of `handles`.
    #[doc(hidden)]
    fn read(&self, stored: &mut std::slice::Iter<'_, Bytes>) -> Result<Self::Values, BoxError>;
}

mod sealed {
    pub trait Sealed {}
}

impl<T: Value> sealed::Sealed for Handle<T> {}

impl<T: Value> Inputs for Handle<T> {
    type Values = T;

    fn handles(&self, out: &mut Vec<(u64, usize)>) {
        out.push((self.builder, self.index));
    }

    fn read(&self, stored: &mut std::slice::Iter<'_, Bytes>) -> Result<T, BoxError> {
        let bytes = stored.next().ok_or("a step was started without all of its inputs")?;
        Ok(serde_json::from_slice(bytes)?)
    }
}

impl<I: Inputs> sealed::Sealed for Vec<I> {}

impl<I: Inputs> Inputs for Vec<I> {
    type Values = Vec<I::Values>;

    fn handles(&self, out: &mut Vec<(u64, usize)>) {
        self.iter().for_each(|input| input.handles(out));
    }

    fn read(&self, stored: &mut std::slice::Iter<'_, Bytes>) -> Result<Self::Values, BoxError> {
        self.iter().map(|input| input.read(stored)).collect()
    }
}

macro_rules! tuples {
    ($(($($name:ident),*);)+) => { $(
        impl<$($name: Inputs),*> sealed::Sealed for ($($name,)*) {}

        #[allow(non_snake_case, unused_variables, clippy::unused_unit)]
        impl<$($name: Inputs),*> Inputs for ($($name,)*) {
            type Values = ($($name::Values,)*);

            fn handles(&self, out: &mut Vec<(u64, usize)>) {
                let ($($name,)*) = self;
                $($name.handles(out);)*
            }

            fn read(&self, stored: &mut std::slice::Iter<'_, Bytes>) -> Result<Self::Values, BoxError> {
                let ($($name,)*) = self;
                Ok(($($name.read(stored)?,)*))
            }
        }
    )+ };
}

tuples! {
    ();
    (A);
    (A, B);
    (A, B, C);
    (A, B, C, D);
    (A, B, C, D, E);
    (A, B, C, D, E, F);
    (A, B, C, D, E, F, G);
    (A, B, C, D, E, F, G, H);
}

/// Steps and what each takes from which: built once, run as often as wanted. Clones share it.
///
/// A step can only name handles that exist, so it always stands after what it takes: there is no way to write a cycle.
#[derive(Clone)]
pub struct Pipeline {
    pub(crate) plan: Arc<Plan>,
}

pub(crate) struct Plan {
    pub(crate) name: String,
    pub(crate) builder: u64,
    pub(crate) code: Option<CodeIdentity>,
    pub(crate) nodes: Vec<Node>,
}

pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) work: Work,
    check: fn(&[u8]) -> Result<(), BoxError>,
}

pub(crate) enum Work {
    /// A constant, as canonical JSON.
    Value(Bytes),
    Step(Step),
}

pub(crate) type Body = dyn Fn(StepContext, &[Bytes]) -> BoxFuture<'static, Result<Output, BoxError>> + Send + Sync;

/// What a step's closure gave: the canonical JSON of its value, or why there is none.
pub(crate) type Output = Result<Bytes, BoxError>;

pub(crate) struct Step {
    pub(crate) inputs: Vec<usize>,
    pub(crate) body: Box<Body>,
    pub(crate) options: Options,
}

#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) retries: usize,
    pub(crate) first_delay: Duration,
    pub(crate) most_delay: Duration,
    pub(crate) timeout: Option<Duration>,
    pub(crate) cached: bool,
    pub(crate) code: Option<CodeIdentity>,
    pub(crate) version: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            retries: 0,
            first_delay: Duration::from_secs(1),
            most_delay: Duration::from_secs(60),
            timeout: None,
            cached: true,
            code: None,
            version: None,
        }
    }
}

impl Node {
    /// Whether `bytes` read back as this node's type.
    pub(crate) fn check(&self, bytes: &[u8]) -> Result<(), BoxError> {
        (self.check)(bytes)
    }

    pub(crate) fn step(&self) -> Option<&Step> {
        match &self.work {
            Work::Value(_) => None,
            Work::Step(step) => Some(step),
        }
    }
}

fn reads_as<T: Value>(bytes: &[u8]) -> Result<(), BoxError> {
    Ok(serde_json::from_slice::<T>(bytes).map(drop)?)
}

/// The canonical JSON of a value that reads back.
fn write<T: Value>(value: &T) -> Output {
    let bytes = Bytes::from(mlops_core::json::to_canonical(value)?);
    reads_as::<T>(&bytes)?;
    Ok(bytes)
}

impl Pipeline {
    /// Starts a pipeline. Its name is part of every cache key.
    pub fn builder(name: impl Into<String>) -> PipelineBuilder {
        // A random number tells builders apart without a counter that the whole process shares.
        let builder = RandomState::new().hash_one(0_u8);
        PipelineBuilder { plan: Plan { name: name.into(), builder, code: None, nodes: Vec::new() }, refused: None }
    }

    /// The pipeline's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.plan.name
    }

    /// The names of its steps, in the order they were defined.
    pub fn steps(&self) -> impl Iterator<Item = &str> {
        self.plan.nodes.iter().filter(|n| n.step().is_some()).map(|n| n.name.as_str())
    }

    /// Runs every step that the cache cannot answer, those independent of each other at the same time.
    ///
    /// Start it again after a crash and only unfinished steps run (see [the crate's guarantees](crate#guarantees)).
    /// Dropping the future stops all its steps at their next `await`.
    ///
    /// # Errors
    /// The error of the first step that failed; observers see those of all, and the report. [`Error::Core`] if the
    /// stores cannot take constants or the run's lineage node, [`Error::NoRuntime`] outside tokio.
    pub async fn run(&self, runner: &Runner) -> Result<Run> {
        Box::pin(runner::run(self, runner)).await
    }

    /// The pipeline as a Mermaid flow chart: constants are rounded.
    #[must_use]
    pub fn to_mermaid(&self) -> String {
        let mut text = "flowchart LR\n".to_owned();
        for (i, node) in self.plan.nodes.iter().enumerate() {
            let (open, close) = if node.step().is_some() { ("[", "]") } else { ("([", "])") };
            text.push_str(&format!("  n{i}{open}\"{}\"{close}\n", node.name));
        }
        for (i, node) in self.plan.nodes.iter().enumerate() {
            for input in node.step().map(|s| s.inputs.as_slice()).unwrap_or_default() {
                text.push_str(&format!("  n{input} --> n{i}\n"));
            }
        }
        text
    }
}

impl fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.plan.nodes.iter().map(|n| n.name.as_str()).collect();
        f.debug_struct("Pipeline").field("name", &self.plan.name).field("nodes", &names).finish()
    }
}

/// Puts a [`Pipeline`] together.
#[must_use = "a builder does nothing until `build`"]
pub struct PipelineBuilder {
    plan: Plan,
    refused: Option<String>,
}

impl PipelineBuilder {
    /// The code that the steps run, where a step does not say otherwise. Without one, nothing is cached.
    pub fn code(mut self, identity: CodeIdentity) -> Self {
        self.plan.code = Some(identity);
        self
    }

    /// Adds a constant: parameters, a seed, the digest of a file.
    pub fn value<T: Value>(&mut self, name: impl Into<String>, value: T) -> Handle<T> {
        let name = name.into();
        let bytes = write(&value).unwrap_or_else(|error| {
            let reason = format!("value {name:?} cannot be written as JSON and read back: {}", with_causes(&*error));
            self.refused.get_or_insert(reason);
            Bytes::new()
        });
        self.add(Node { name, work: Work::Value(bytes), check: reads_as::<T> })
    }

    /// Adds a step: `body` is given a [`StepContext`] and the values of `inputs`, and gives a value or any error.
    ///
    /// It must be fit to run again: a retry, or a crash just before its output is kept, repeats it. Work that keeps a
    /// processor busy belongs in [`StepContext::blocking`].
    ///
    /// The cache knows the step by its name, its code identity and version, and `inputs`, and by nothing else. Values that
    /// `body` captures, and files or services that it reads, may change and the old output is still taken: give them as
    /// [`value`](Self::value)s or inputs (outside data by its digest), or mark the step
    /// [`uncached`](StepOptions::uncached).
    ///
    /// Values pass through JSON on their way, in a first run as in a cached one, so a later step sees the same either
    /// way. JSON has no NaN and no infinity: such an output is [`Error::InvalidOutput`] unless its type says how to
    /// write one (`mlops_core::json::lossless_f64`). Inside an `Option`, though, such a float is written as `null` and
    /// reads back as `None`, without an error.
    pub fn step<I, T, F, Fut>(&mut self, name: impl Into<String>, inputs: I, body: F) -> Handle<T>
    where
        I: Inputs,
        T: Value,
        F: Fn(StepContext, I::Values) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<T, BoxError>> + Send + 'static,
    {
        let name = name.into();
        let mut handles = Vec::new();
        inputs.handles(&mut handles);
        if let Some((_, index)) = handles.iter().find(|(builder, _)| *builder != self.plan.builder) {
            let reason = format!("step {name:?} takes handle {index} of another pipeline builder");
            self.refused.get_or_insert(reason);
        }
        let body = move |context: StepContext, stored: &[Bytes]| {
            let step = inputs.read(&mut stored.iter()).map(|values| body(context, values));
            async move { Ok(write(&step?.await?)) }.boxed()
        };
        let inputs = handles.into_iter().map(|(_, index)| index).collect();
        let step = Step { inputs, body: Box::new(body), options: Options::default() };
        self.add(Node { name, work: Work::Step(step), check: reads_as::<T> })
    }

    fn add<T>(&mut self, node: Node) -> Handle<T> {
        self.plan.nodes.push(node);
        Handle { builder: self.plan.builder, index: self.plan.nodes.len() - 1, value: PhantomData }
    }

    /// Sets options of a step: `p.options(train).retries(3).timeout(Duration::from_secs(60));`
    pub fn options<T>(&mut self, step: Handle<T>) -> StepOptions<'_> {
        let reason = if step.builder != self.plan.builder {
            Some(format!("options were set on handle {} of another pipeline builder", step.index))
        } else if self.plan.nodes[step.index].step().is_none() {
            Some(format!("value {:?} has no options: it is not a step", self.plan.nodes[step.index].name))
        } else {
            None
        };
        if reason.is_none()
            && let Work::Step(step) = &mut self.plan.nodes[step.index].work
        {
            return StepOptions(Some(&mut step.options));
        }
        self.refused = self.refused.take().or(reason);
        StepOptions(None)
    }

    /// Checks everything.
    ///
    /// # Errors
    /// [`Error::InvalidPipeline`] for the first of: a name that is not 1 to 250 letters, digits, `.`, `_` or `-`; a
    /// name given twice; a handle of another builder; options of a constant; a constant that JSON cannot hold; a
    /// pipeline without steps.
    pub fn build(self) -> Result<Pipeline> {
        let Self { plan, refused } = self;
        let reason = refused.or_else(|| problem(&plan));
        match reason {
            Some(reason) => Err(Error::InvalidPipeline { pipeline: plan.name, reason }),
            None => Ok(Pipeline { plan: Arc::new(plan) }),
        }
    }
}

fn problem(plan: &Plan) -> Option<String> {
    let mut seen = std::collections::HashSet::new();
    let named = std::iter::once(("pipeline name", &plan.name)).chain(plan.nodes.iter().map(|n| ("step name", &n.name)));
    if let Some(error) = named.into_iter().find_map(|(what, name)| store::check_name(what, name).err()) {
        return Some(error.to_string());
    }
    if let Some(twice) = plan.nodes.iter().find(|n| !seen.insert(n.name.as_str())) {
        return Some(format!("the name {:?} is given twice; steps and values each need their own", twice.name));
    }
    plan.nodes.iter().all(|n| n.step().is_none()).then(|| "it has no steps".to_owned())
}

impl fmt::Debug for PipelineBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.plan.nodes.iter().map(|n| n.name.as_str()).collect();
        f.debug_struct("PipelineBuilder").field("name", &self.plan.name).field("nodes", &names).finish()
    }
}

/// The options of one step; each call takes effect at once.
#[derive(Debug)]
pub struct StepOptions<'a>(Option<&'a mut Options>);

impl StepOptions<'_> {
    fn set(mut self, change: impl FnOnce(&mut Options)) -> Self {
        if let Some(options) = &mut self.0 {
            change(options);
        }
        self
    }

    /// How many more times the step is tried after an error or a time-out (default 0). A panic is never retried.
    #[allow(clippy::return_self_not_must_use)]
    pub fn retries(self, times: usize) -> Self {
        self.set(|o| o.retries = times)
    }

    /// The pause before the first retry, doubled for each further one up to `most` (default 1 s and 60 s), and
    /// lengthened by a random part of itself so that many steps do not come back at the same moment.
    pub fn backoff(self, first: Duration, most: Duration) -> Self {
        self.set(|o| (o.first_delay, o.most_delay) = (first, most))
    }

    /// How long one attempt may take (default: for ever). It is stopped at an `await`; code that does not reach one
    /// cannot be stopped.
    pub fn timeout(self, limit: Duration) -> Self {
        self.set(|o| o.timeout = Some(limit))
    }

    /// Never takes this step's output from another run: for steps with effects outside.
    ///
    /// A run that is started again under its own id still does not repeat the step once it was finished.
    pub fn uncached(self) -> Self {
        self.set(|o| o.cached = false)
    }

    /// Adds a version to the pipeline's code identity, for this step: change it to have the step run again.
    pub fn version(self, version: impl Into<String>) -> Self {
        self.set(|o| o.version = Some(version.into()))
    }

    /// The code that this step runs, in place of the pipeline's.
    pub fn code(self, identity: CodeIdentity) -> Self {
        self.set(|o| o.code = Some(identity))
    }
}

/// An output as it is kept.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub(crate) digest: Digest,
    pub(crate) bytes: Bytes,
}

impl Stored {
    pub(crate) fn new(bytes: Bytes) -> Self {
        Self { digest: Digest::of(&bytes), bytes }
    }
}

use std::collections::VecDeque;
use std::fmt::{self, Debug};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

use mlops_core::{Clock, Error as CoreError, Principal, RunId, SystemClock};

use super::{LogBatch, Metric, TrackingStore};
use crate::{Error, Result};

/// How often a batch is tried again at once when the store says that it may work.
const TRIES: u32 = 3;

/// Logs metrics of one run from a training loop that must not wait for the store.
///
/// Points go into a bounded queue; a [`MetricWriter`], which the caller spawns, writes them in batches. While it writes one
/// batch, the next one gathers. Nothing is lost in silence: a point that finds the queue full, or that the store refuses,
/// is counted, and the next [`flush`](Self::flush) returns the error. Clones share the queue; when the last is dropped, the
/// writer writes what is left and ends.
///
/// ```
/// # #[cfg(feature = "sqlite")] #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use mlops_core::store::MemoryStore;
/// # use mlops_core::{Principal, Role};
/// use mlops_registry::{MetricLogger, NewExperiment, NewRun, SqlRegistry, TrackingStore};
/// # let registry = SqlRegistry::builder().artifacts(MemoryStore::default()).open_in_memory().await?;
/// # let ana = Principal::new("ana").with_role(Role::Contributor);
/// registry.create_experiment(&ana, NewExperiment::new("prices")).await?;
/// let run = registry.start_run(&ana, NewRun::new("prices")).await?.id();
///
/// let (logger, writer) = MetricLogger::builder(registry.clone(), ana, run).build();
/// let writer = tokio::spawn(writer.run());
/// for step in 0..1_000 {
///     logger.log("loss", 1.0 / (1.0 + step as f64), step); // never waits
/// }
/// assert_eq!(logger.flush().await?.written, 1_000);
/// drop(logger);
/// writer.await??;
/// assert_eq!(registry.metric_history(run, "loss").await?.len(), 1_000);
/// # Ok(()) }
/// # #[cfg(not(feature = "sqlite"))] fn main() {}
/// ```
pub struct MetricLogger {
    queue: Arc<Queue>,
    clock: Arc<dyn Clock>,
}

/// What became of the points so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Written {
    /// Points that the store has.
    pub written: u64,
    /// Points that it does not have: the queue was full, the store refused them, or the writer was stopped.
    pub lost: u64,
}

struct Queue {
    run: RunId,
    capacity: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Metric>,
    /// Points that were taken into the queue, and those of them that were dealt with.
    taken: u64,
    done: u64,
    counts: Written,
    /// The first error since it was last told of.
    error: Option<Error>,
    loggers: usize,
    writer_gone: bool,
    writer: Option<Waker>,
    flushing: Vec<Waker>,
}

impl State {
    fn wake_flushing(&mut self) {
        self.flushing.drain(..).for_each(Waker::wake);
    }

    fn fail(&mut self, points: usize, error: Error) {
        self.counts.lost += points as u64;
        self.error.get_or_insert(error);
    }
}

fn lost(reason: impl Into<String>, run: RunId) -> Error {
    let (backend, source) = ("metric logger".to_owned(), reason.into().into());
    CoreError::Backend { backend, operation: "queue a point of run", key: run.to_string(), retryable: false, source }
        .into()
}

impl Queue {
    /// A thread that panicked while it held the lock left whole numbers behind.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl MetricLogger {
    /// A logger of that run's metrics, as whom they are logged.
    pub fn builder(store: impl TrackingStore, who: Principal, run: RunId) -> MetricLoggerBuilder {
        let (store, clock) = (Arc::new(store), Arc::new(SystemClock));
        MetricLoggerBuilder { store, who, run, capacity: 100_000, batch: 1_000, clock }
    }

    /// Logs a value as measured now. Gives whether there was room for it.
    pub fn log(&self, key: impl Into<String>, value: f64, step: i64) -> bool {
        self.log_point(Metric::new(key, value, step, self.clock.now()))
    }

    /// Logs a point. Gives whether there was room for it.
    pub fn log_point(&self, metric: Metric) -> bool {
        let mut state = self.queue.lock();
        if state.writer_gone || state.waiting.len() >= self.queue.capacity {
            let reason = match state.writer_gone {
                true => "the writer was stopped".to_owned(),
                false => format!("the queue is full with {} points: give it more capacity", state.waiting.len()),
            };
            state.fail(1, lost(reason, self.queue.run));
            return false;
        }
        state.waiting.push_back(metric);
        state.taken += 1;
        if let Some(writer) = state.writer.take() {
            writer.wake();
        }
        true
    }

    /// What became of the points so far; those in the queue are in neither number.
    #[must_use]
    pub fn counts(&self) -> Written {
        self.queue.lock().counts
    }

    /// Waits until every point that was logged before is written or lost, and gives the numbers of all so far.
    ///
    /// The writer must be running, here or elsewhere: this only waits for it.
    ///
    /// # Errors
    /// The first error since it was last told of: the store's, that the queue was full, that the writer was stopped.
    pub async fn flush(&self) -> Result<Written> {
        let target = self.queue.lock().taken;
        std::future::poll_fn(|cx| {
            let mut state = self.queue.lock();
            if state.done < target && !state.writer_gone {
                state.flushing.push(cx.waker().clone());
                return Poll::Pending;
            }
            Poll::Ready(match state.error.take() {
                Some(error) => Err(error),
                None => Ok(state.counts),
            })
        })
        .await
    }
}

impl Clone for MetricLogger {
    fn clone(&self) -> Self {
        self.queue.lock().loggers += 1;
        Self { queue: Arc::clone(&self.queue), clock: Arc::clone(&self.clock) }
    }
}

impl Drop for MetricLogger {
    fn drop(&mut self) {
        let mut state = self.queue.lock();
        state.loggers -= 1;
        if state.loggers == 0
            && let Some(writer) = state.writer.take()
        {
            writer.wake();
        }
    }
}

impl Debug for MetricLogger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.queue.lock();
        f.debug_struct("MetricLogger").field("waiting", &state.waiting.len()).field("counts", &state.counts).finish()
    }
}

/// Writes what a [`MetricLogger`] took: spawn [`run`](Self::run), or await it beside the training.
#[must_use = "nothing is written until `run` is awaited or spawned"]
pub struct MetricWriter {
    queue: Arc<Queue>,
    store: Arc<dyn TrackingStore>,
    who: Principal,
    run: RunId,
    batch: usize,
}

impl Debug for MetricWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MetricWriter").field("store", &self.store).field("run", &self.run).finish_non_exhaustive()
    }
}

impl MetricWriter {
    /// Writes until the last logger is dropped and the queue is empty.
    ///
    /// # Errors
    /// The first error that no [`flush`](MetricLogger::flush) has told of. Writing goes on after an error.
    pub async fn run(self) -> Result<Written> {
        while let Some(points) = self.next().await {
            self.write(points).await;
        }
        let mut state = self.queue.lock();
        match state.error.take() {
            Some(error) => Err(error),
            None => Ok(state.counts),
        }
    }

    /// The next points, once there are some; none when there will be no more.
    async fn next(&self) -> Option<Vec<Metric>> {
        std::future::poll_fn(|cx| {
            let mut state = self.queue.lock();
            if state.waiting.is_empty() {
                if state.loggers == 0 {
                    return Poll::Ready(None);
                }
                state.writer = Some(cx.waker().clone());
                return Poll::Pending;
            }
            let take = state.waiting.len().min(self.batch);
            Poll::Ready(Some(state.waiting.drain(..take).collect()))
        })
        .await
    }

    /// Writes these points; where the store refuses some for what they are, only those are lost.
    async fn write(&self, points: Vec<Metric>) {
        let mut stack = vec![points];
        while let Some(mut points) = stack.pop() {
            let mut tries = 0;
            let outcome = loop {
                tries += 1;
                let batch = LogBatch { metrics: points.clone(), ..LogBatch::new() };
                match self.store.log_batch(&self.who, self.run, batch).await {
                    Err(error) if error.is_retryable() && tries < TRIES => {}
                    outcome => break outcome,
                }
            };
            let mut state = self.queue.lock();
            match outcome {
                Ok(()) => state.counts.written += points.len() as u64,
                Err(Error::Core(CoreError::InvalidInput { .. })) if points.len() > 1 => {
                    let rest = points.split_off(points.len() / 2);
                    stack.extend([rest, points]);
                    continue;
                }
                Err(error) => state.fail(points.len(), error),
            }
            state.done += points.len() as u64;
            state.wake_flushing();
        }
    }
}

impl Drop for MetricWriter {
    fn drop(&mut self) {
        let mut state = self.queue.lock();
        state.writer_gone = true;
        let left = state.taken - state.done;
        if left > 0 {
            state.waiting.clear();
            state.done = state.taken;
            state.fail(left as usize, lost(format!("the writer was stopped with {left} points left"), self.run));
        }
        state.wake_flushing();
    }
}

/// Makes a [`MetricLogger`] and its writer.
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct MetricLoggerBuilder {
    store: Arc<dyn TrackingStore>,
    who: Principal,
    run: RunId,
    capacity: usize,
    batch: usize,
    clock: Arc<dyn Clock>,
}

impl MetricLoggerBuilder {
    /// Most points that wait (default 100,000, at least 1).
    pub fn capacity(mut self, points: usize) -> Self {
        self.capacity = points;
        self
    }

    /// Most points in one call to the store (default 1,000; 1 to 10,000).
    pub fn batch(mut self, points: usize) -> Self {
        self.batch = points;
        self
    }

    /// What tells when a point was measured (default [`SystemClock`]).
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Makes them. A capacity or batch out of range is taken to its nearest end.
    pub fn build(self) -> (MetricLogger, MetricWriter) {
        let state = Mutex::new(State { loggers: 1, ..State::default() });
        let queue = Arc::new(Queue { run: self.run, capacity: self.capacity.max(1), state });
        let batch = self.batch.clamp(1, 10_000);
        let writer = MetricWriter { queue: Arc::clone(&queue), store: self.store, who: self.who, run: self.run, batch };
        (MetricLogger { queue, clock: self.clock }, writer)
    }
}

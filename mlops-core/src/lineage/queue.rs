use std::collections::VecDeque;
use std::fmt::{self, Debug, Display};
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

use async_trait::async_trait;

use super::openlineage::RunEvent;
use super::{Dropped, LineageSink, SinkCounts};
use crate::{Result, with_causes};

/// Brings events to where they are kept: into a store, a file, over HTTP. May take as long as it takes; a
/// [`LineageQueue`] in front of it makes it a [`LineageSink`].
///
/// # Contract
/// - `send` returns `Ok` once the event has arrived. It makes its own further attempts, if any.
/// - An error that [is retryable](crate::Error::is_retryable) means that the other side could not be reached or failed, any other
///   that it will not have this event.
/// - **At least once.** An event whose `send` failed, or was dropped, may have arrived.
#[async_trait]
pub trait Transport: Debug + Display + Send + Sync + 'static {
    /// Brings one event.
    async fn send(&self, event: &RunEvent) -> Result<()>;
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<T: Transport + ?Sized> Transport for Arc<T> {
    async fn send(&self, event: &RunEvent) -> Result<()> {
        (**self).send(event).await
    }
}

/// A bounded queue in front of a [`Transport`]. Clones share it.
///
/// `emit` puts an event in and returns; the [`LineageWorker`] that was made with the queue takes events out, one at a time
/// in order. When the queue is full, the new event is dropped and counted. Nothing is delivered until the worker runs:
/// `tokio::spawn(worker.run())`, or await it beside something else. It needs no runtime but what its transport needs.
#[derive(Clone)]
pub struct LineageQueue(Arc<Handles>);

/// What all clones of a queue share; the worker ends when the last of them is gone.
struct Handles {
    shared: Arc<Shared>,
    name: String,
}

/// Takes events out of a [`LineageQueue`] and sends them.
///
/// Dropped before its end, it counts what is queued, and whatever is emitted later, as dropped.
#[must_use = "nothing is delivered until the worker runs"]
pub struct LineageWorker<T: Transport> {
    shared: Arc<Shared>,
    transport: T,
}

struct Shared {
    capacity: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<RunEvent>,
    /// Events that were let into the queue, and those of them that left it, one way or the other.
    accepted: u64,
    settled: u64,
    emitted: u64,
    delivered: u64,
    dropped: Dropped,
    last_error: Option<String>,
    /// No queue is left to emit into.
    is_finished: bool,
    /// No worker is left to deliver.
    is_closed: bool,
    worker: Option<Waker>,
    flushing: Vec<Waker>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn counts(&self) -> SinkCounts {
        let state = self.state();
        SinkCounts {
            emitted: state.emitted,
            delivered: state.delivered,
            queued: state.accepted - state.settled,
            dropped: state.dropped,
        }
    }

    /// Notes what became of the event that was taken out last.
    fn settle(&self, outcome: Result<()>) {
        let mut state = self.state();
        match outcome {
            Ok(()) => state.delivered += 1,
            Err(error) => {
                if error.is_retryable() {
                    state.dropped.failed += 1;
                } else {
                    state.dropped.refused += 1;
                }
                state.last_error = Some(with_causes(&error));
            }
        }
        state.settled += 1;
        let flushing = std::mem::take(&mut state.flushing);
        drop(state);
        flushing.into_iter().for_each(Waker::wake);
    }

    /// The next event, or `None` when the last queue is gone and nothing waits.
    async fn next(&self) -> Option<RunEvent> {
        poll_fn(|context| {
            let mut state = self.state();
            match state.waiting.pop_front() {
                Some(event) => Poll::Ready(Some(event)),
                None if state.is_finished => Poll::Ready(None),
                None => {
                    state.worker = Some(context.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }
}

impl LineageQueue {
    /// A queue of at most `capacity` events (at least one) and the worker that empties it into `transport`.
    pub fn new<T: Transport>(transport: T, capacity: usize) -> (Self, LineageWorker<T>) {
        let shared = Arc::new(Shared { capacity: capacity.max(1), state: Mutex::default() });
        let handles = Handles { shared: Arc::clone(&shared), name: transport.to_string() };
        (Self(Arc::new(handles)), LineageWorker { shared, transport })
    }

    /// Why an event was refused or failed, the last time one was.
    #[must_use]
    pub fn last_error(&self) -> Option<String> {
        self.0.shared.state().last_error.clone()
    }

    /// Flushes for at most `limit`, and tells what became of the events: those still queued were not in time.
    ///
    /// # Panics
    /// Outside a tokio runtime with timers.
    #[cfg(feature = "lineage-http")]
    #[cfg_attr(docsrs, doc(cfg(feature = "lineage-http")))]
    pub async fn flush_within(&self, limit: std::time::Duration) -> SinkCounts {
        let _ = tokio::time::timeout(limit, self.flush()).await;
        self.counts()
    }
}

#[async_trait]
impl LineageSink for LineageQueue {
    fn emit(&self, event: RunEvent) {
        let mut state = self.0.shared.state();
        state.emitted += 1;
        if state.is_closed {
            state.dropped.closed += 1;
        } else if state.waiting.len() >= self.0.shared.capacity {
            state.dropped.full += 1;
        } else {
            state.accepted += 1;
            state.waiting.push_back(event);
            let worker = state.worker.take();
            drop(state);
            if let Some(worker) = worker {
                worker.wake();
            }
        }
    }

    fn counts(&self) -> SinkCounts {
        self.0.shared.counts()
    }

    async fn flush(&self) {
        let until = self.0.shared.state().accepted;
        poll_fn(|context| {
            let mut state = self.0.shared.state();
            if state.settled >= until {
                return Poll::Ready(());
            }
            if !state.flushing.iter().any(|waker| waker.will_wake(context.waker())) {
                state.flushing.push(context.waker().clone());
            }
            Poll::Pending
        })
        .await;
    }
}

impl<T: Transport> LineageWorker<T> {
    /// Delivers until the last queue is gone and empty; tells what became of all events.
    pub async fn run(self) -> SinkCounts {
        while let Some(event) = self.shared.next().await {
            let outcome = self.transport.send(&event).await;
            self.shared.settle(outcome);
        }
        self.shared.counts()
    }
}

impl Drop for Handles {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.is_finished = true;
        let worker = state.worker.take();
        drop(state);
        if let Some(worker) = worker {
            worker.wake();
        }
    }
}

impl<T: Transport> Drop for LineageWorker<T> {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.is_closed = true;
        // The one on its way too, if it is not known to have arrived.
        state.dropped.closed += state.accepted - state.settled;
        state.settled = state.accepted;
        let events = std::mem::take(&mut state.waiting);
        let flushing = std::mem::take(&mut state.flushing);
        drop(state);
        drop(events);
        flushing.into_iter().for_each(Waker::wake);
    }
}

impl Debug for LineageQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LineageQueue({}: {})", self.0.name, self.counts())
    }
}

impl Display for LineageQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.name)
    }
}

impl<T: Transport> Debug for LineageWorker<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LineageWorker({:?}: {})", self.transport, self.shared.counts())
    }
}

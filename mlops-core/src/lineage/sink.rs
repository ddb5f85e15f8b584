use std::fmt::{self, Debug, Display};
use std::iter::Sum;
use std::ops::Add;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use futures::future::join_all;
use serde::Serialize;

use super::openlineage::RunEvent;

/// Takes the events of a program's lineage.
///
/// # Contract
/// - **Never blocks.** `emit` returns at once, from async code and any thread, whatever becomes of the event; it never
///   fails and never panics. Work that waits (a disk, a network) happens elsewhere.
/// - **Order.** Events of one thread are delivered in the order they were emitted.
/// - **Counts add up** at every moment: `emitted = delivered + dropped + queued`.
/// - **Flush** returns when everything emitted before it is delivered or dropped. It is cancel safe, and has no time-out
///   of its own.
/// - **Clones** and pointers share one sink.
#[async_trait]
pub trait LineageSink: Debug + Display + Send + Sync + 'static {
    /// Takes an event.
    fn emit(&self, event: RunEvent);

    /// What became of the events so far.
    fn counts(&self) -> SinkCounts;

    /// Waits until everything emitted before is delivered or dropped.
    async fn flush(&self);
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<S: LineageSink + ?Sized> LineageSink for Arc<S> {
    fn emit(&self, event: RunEvent) {
        (**self).emit(event);
    }

    fn counts(&self) -> SinkCounts {
        (**self).counts()
    }

    async fn flush(&self) {
        (**self).flush().await;
    }
}

/// What became of the events that a sink was given. `Display` is one line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[non_exhaustive]
pub struct SinkCounts {
    /// Events given to it.
    pub emitted: u64,
    /// Events that arrived.
    pub delivered: u64,
    /// Events that wait or are on their way.
    pub queued: u64,
    /// Events that were lost, by reason.
    pub dropped: Dropped,
}

/// Why events were lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[non_exhaustive]
pub struct Dropped {
    /// The queue was full.
    pub full: u64,
    /// The other side would not have it, however often it is sent.
    pub refused: u64,
    /// The other side could not be reached or failed, on the last attempt too.
    pub failed: u64,
    /// Nobody delivers any more: the worker was dropped.
    pub closed: u64,
}

impl Dropped {
    /// All of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.full + self.refused + self.failed + self.closed
    }
}

impl Add for SinkCounts {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        let (a, b) = (self.dropped, other.dropped);
        Self {
            emitted: self.emitted + other.emitted,
            delivered: self.delivered + other.delivered,
            queued: self.queued + other.queued,
            dropped: Dropped {
                full: a.full + b.full,
                refused: a.refused + b.refused,
                failed: a.failed + b.failed,
                closed: a.closed + b.closed,
            },
        }
    }
}

impl Sum for SinkCounts {
    fn sum<I: Iterator<Item = Self>>(counts: I) -> Self {
        counts.fold(Self::default(), Add::add)
    }
}

impl Display for SinkCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { emitted, delivered, queued, dropped } = self;
        write!(f, "{emitted} emitted, {delivered} delivered, {queued} queued, {} dropped", dropped.total())?;
        if dropped.total() > 0 {
            let Dropped { full, refused, failed, closed } = dropped;
            write!(f, " ({full} queue full, {refused} refused, {failed} failed, {closed} closed)")?;
        }
        Ok(())
    }
}

/// Keeps every event, for tests. Clones share them.
///
/// ```
/// use mlops_core::lineage::{LineageSink, MemorySink};
/// assert_eq!(MemorySink::default().counts().emitted, 0);
/// ```
#[derive(Clone, Debug, Default)]
pub struct MemorySink(Arc<Mutex<Vec<RunEvent>>>);

impl MemorySink {
    /// The events so far, in the order they came.
    #[must_use]
    pub fn events(&self) -> Vec<RunEvent> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Display for MemorySink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("memory")
    }
}

#[async_trait]
impl LineageSink for MemorySink {
    fn emit(&self, event: RunEvent) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(event);
    }

    fn counts(&self) -> SinkCounts {
        let n = self.0.lock().unwrap_or_else(PoisonError::into_inner).len() as u64;
        SinkCounts { emitted: n, delivered: n, ..SinkCounts::default() }
    }

    async fn flush(&self) {}
}

/// Gives each event to several sinks. Its counts are the sums of theirs, so an event counts once for each.
///
/// ```
/// use std::sync::Arc;
/// use mlops_core::lineage::{FanOut, MemorySink};
/// let both = FanOut::default().with(MemorySink::default()).with(MemorySink::default());
/// assert_eq!(both.to_string(), "memory, memory");
/// ```
#[derive(Clone, Debug, Default)]
pub struct FanOut(Vec<Arc<dyn LineageSink>>);

impl FanOut {
    /// Adds a sink.
    #[must_use]
    pub fn with(mut self, sink: impl LineageSink) -> Self {
        self.0.push(Arc::new(sink));
        self
    }
}

impl Display for FanOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&names.join(", "))
    }
}

#[async_trait]
impl LineageSink for FanOut {
    fn emit(&self, event: RunEvent) {
        if let Some((last, others)) = self.0.split_last() {
            others.iter().for_each(|sink| sink.emit(event.clone()));
            last.emit(event);
        }
    }

    fn counts(&self) -> SinkCounts {
        self.0.iter().map(LineageSink::counts).sum()
    }

    async fn flush(&self) {
        join_all(self.0.iter().map(LineageSink::flush)).await;
    }
}

use std::fmt::{self, Write as _};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{ArtifactStore, ObjectMeta, PutMode};
use crate::{Error, Result};

/// The operations that are counted, in the order of [`Metrics::operations`].
const NAMES: [&str; 7] = ["put", "get", "get_range", "head", "delete", "list", "sync"];
/// Upper bounds double from one to the next: bucket `i` holds what took less than `64 << i` microseconds, the last one
/// all the rest (67 s and more).
const BUCKETS: usize = 22;

/// A layer that counts calls, errors, bytes and time.
///
/// ```
/// # futures::executor::block_on(async {
/// use mlops_core::store::{ArtifactStoreExt, MemoryStore, MeteredStore};
/// let store = MeteredStore::new(MemoryStore::default());
/// store.put_artifact("weights".into()).await?;
/// let metrics = store.snapshot();
/// assert_eq!((metrics.operation("put").calls, metrics.operation("put").bytes), (1, 7));
/// # Ok::<(), mlops_core::Error>(()) }).unwrap();
/// ```
///
/// Clones count together. "Not found" and "exists already" are answers, not errors.
#[derive(Clone, Debug)]
pub struct MeteredStore<S> {
    inner: S,
    counters: Arc<[Counters; NAMES.len()]>,
}

#[derive(Debug, Default)]
struct Counters {
    calls: AtomicU64,
    errors: AtomicU64,
    bytes: AtomicU64,
    micros: AtomicU64,
    buckets: [AtomicU64; BUCKETS],
}

impl<S: ArtifactStore> MeteredStore<S> {
    /// Counts the calls of `inner`.
    pub fn new(inner: S) -> Self {
        Self { inner, counters: Arc::default() }
    }

    /// All that was counted up to now.
    #[must_use]
    pub fn snapshot(&self) -> Metrics {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let operations = self.counters.iter().map(|counters| Operation {
            calls: read(&counters.calls),
            errors: read(&counters.errors),
            bytes: read(&counters.bytes),
            micros: read(&counters.micros),
            buckets: counters.buckets.iter().map(read).collect(),
        });
        Metrics { operations: operations.collect() }
    }

    async fn count<T>(
        &self,
        operation: usize,
        call: impl Future<Output = Result<T>>,
        bytes: impl FnOnce(&T) -> usize,
    ) -> Result<T> {
        let begin = Instant::now();
        let outcome = call.await;
        let micros = u64::try_from(begin.elapsed().as_micros()).unwrap_or(u64::MAX);
        let counters = &self.counters[operation];
        let add = |counter: &AtomicU64, n: u64| counter.fetch_add(n, Ordering::Relaxed);
        add(&counters.calls, 1);
        add(&counters.micros, micros);
        let bucket = (micros / 64).checked_ilog2().map_or(0, |log| log as usize + 1);
        add(&counters.buckets[bucket.min(BUCKETS - 1)], 1);
        match &outcome {
            Ok(done) => add(&counters.bytes, bytes(done) as u64),
            Err(Error::NotFound { .. } | Error::AlreadyExists { .. }) => 0,
            Err(_) => add(&counters.errors, 1),
        };
        outcome
    }
}

/// What a [`MeteredStore`] counted. Snapshots of several stores add up by [`merge`](Self::merge).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metrics {
    operations: Vec<Operation>,
}

/// The counts of one operation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Operation {
    /// Calls that ended.
    pub calls: u64,
    /// Those that failed.
    pub errors: u64,
    /// Bytes written or read by those that did not.
    pub bytes: u64,
    /// The time all calls took, in microseconds.
    pub micros: u64,
    /// Calls by the time they took: entry `i` counts those of less than `64 << i` microseconds that no entry before
    /// counts; the last one has no bound.
    pub buckets: Vec<u64>,
}

impl Operation {
    /// The time that a share `q`, 0 to 1, of the calls took at most: the bound of a bucket, so up to twice the real one.
    /// None without calls, or if it is beyond all bounds.
    #[must_use]
    pub fn quantile(&self, q: f64) -> Option<Duration> {
        let wanted = (q.clamp(0.0, 1.0) * self.calls as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        let bounded = &self.buckets[..self.buckets.len().saturating_sub(1)];
        let bucket = bounded.iter().position(|count| {
            seen += count;
            seen >= wanted
        });
        bucket.map(bound)
    }
}

fn bound(bucket: usize) -> Duration {
    Duration::from_micros(64 << bucket)
}

impl Metrics {
    /// The operations by name: `put`, `get`, `get_range`, `head`, `delete`, `list`, `sync`.
    pub fn operations(&self) -> impl Iterator<Item = (&'static str, &Operation)> {
        NAMES.into_iter().zip(&self.operations)
    }

    /// The counts of the operation of that name; zeroes for a name that is none.
    #[must_use]
    pub fn operation(&self, name: &str) -> Operation {
        self.operations().find(|(n, _)| *n == name).map(|(_, operation)| operation.clone()).unwrap_or_default()
    }

    /// Adds the counts of another snapshot.
    pub fn merge(&mut self, other: &Self) {
        self.operations.resize_with(NAMES.len(), Operation::default);
        for (mine, theirs) in self.operations.iter_mut().zip(&other.operations) {
            mine.calls += theirs.calls;
            mine.errors += theirs.errors;
            mine.bytes += theirs.bytes;
            mine.micros += theirs.micros;
            mine.buckets.resize(BUCKETS, 0);
            mine.buckets.iter_mut().zip(&theirs.buckets).for_each(|(mine, theirs)| *mine += theirs);
        }
    }

    /// The counts in Prometheus' text format, each with the label `store`.
    #[must_use]
    pub fn to_prometheus(&self, store: &str) -> String {
        let store = store.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n");
        let mut text = String::new();
        for (name, of) in
            [("calls", (|o| o.calls) as fn(&Operation) -> u64), ("errors", |o| o.errors), ("bytes", |o| o.bytes)]
        {
            // Writing to a string cannot fail.
            _ = writeln!(text, "# TYPE mlops_store_{name}_total counter");
            for (operation, counts) in self.operations() {
                let labels = format!("store=\"{store}\",operation=\"{operation}\"");
                _ = writeln!(text, "mlops_store_{name}_total{{{labels}}} {}", of(counts));
            }
        }
        text.push_str("# TYPE mlops_store_seconds histogram\n");
        for (operation, counts) in self.operations() {
            let labels = format!("store=\"{store}\",operation=\"{operation}\"");
            let mut seen = 0;
            for (bucket, count) in counts.buckets.iter().enumerate().take(BUCKETS - 1) {
                seen += count;
                let le = bound(bucket).as_secs_f64();
                _ = writeln!(text, "mlops_store_seconds_bucket{{{labels},le=\"{le}\"}} {seen}");
            }
            _ = writeln!(text, "mlops_store_seconds_bucket{{{labels},le=\"+Inf\"}} {}", counts.calls);
            _ = writeln!(text, "mlops_store_seconds_sum{{{labels}}} {}", counts.micros as f64 / 1e6);
            _ = writeln!(text, "mlops_store_seconds_count{{{labels}}} {}", counts.calls);
        }
        text
    }
}

impl fmt::Display for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:<10} {:>9} {:>7} {:>12} {:>10} {:>10}",
            "operation", "calls", "errors", "bytes", "p50 <", "p99 <"
        )?;
        for (name, operation) in self.operations().filter(|(_, operation)| operation.calls > 0) {
            let quantile = |q| operation.quantile(q).map_or_else(|| "long".to_owned(), |time| format!("{time:.1?}"));
            let (calls, errors, bytes) = (operation.calls, operation.errors, super::gc::size(operation.bytes));
            write!(f, "\n{name:<10} {calls:>9} {errors:>7} {bytes:>12} {:>10} {:>10}", quantile(0.5), quantile(0.99))?;
        }
        Ok(())
    }
}

impl<S: ArtifactStore> fmt::Display for MeteredStore<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.inner, f)
    }
}

#[async_trait]
impl<S: ArtifactStore> ArtifactStore for MeteredStore<S> {
    async fn put_opts(&self, key: &str, data: Bytes, mode: PutMode) -> Result<()> {
        let bytes = data.len();
        self.count(0, self.inner.put_opts(key, data, mode), |()| bytes).await
    }

    async fn get(&self, key: &str) -> Result<Bytes> {
        self.count(1, self.inner.get(key), Bytes::len).await
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes> {
        self.count(2, self.inner.get_range(key, range), Bytes::len).await
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta> {
        self.count(3, self.inner.head(key), |_| 0).await
    }

    async fn delete(&self, key: &str) -> Result<()> {
        self.count(4, self.inner.delete(key), |()| 0).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>> {
        self.count(5, self.inner.list(prefix), |_| 0).await
    }

    async fn sync(&self) -> Result<()> {
        self.count(6, self.inner.sync(), |()| 0).await
    }
}

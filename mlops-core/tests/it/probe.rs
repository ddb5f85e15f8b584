//! A store around a store, for tests: gives way before each call, and fails when it is told to.

use std::fmt;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};

use async_trait::async_trait;
use bytes::Bytes;
use mlops_core::store::{ArtifactStore, ObjectMeta, PutMode};
use mlops_core::{Error, Result};

/// What happens to one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Pass,
    /// Fails without an effect.
    Refused,
    /// Takes effect and fails: an answer that got lost.
    Unanswered,
    /// Fails in a way that is no use to retry.
    Broken,
}

type Plan = Box<dyn Fn(u64, &str, &str) -> Fate + Send + Sync>;

/// Asks its plan about each call: its number, operation and key.
pub(crate) struct Probe {
    inner: Arc<dyn ArtifactStore>,
    calls: AtomicU64,
    plan: Plan,
}

impl Probe {
    pub(crate) fn new(
        inner: impl ArtifactStore,
        plan: impl Fn(u64, &str, &str) -> Fate + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self { inner: Arc::new(inner), calls: AtomicU64::new(0), plan: Box::new(plan) })
    }

    pub(crate) fn calls(&self) -> u64 {
        self.calls.load(Ordering::SeqCst)
    }

    async fn call<T>(&self, operation: &'static str, key: &str, call: impl Future<Output = Result<T>>) -> Result<T> {
        let number = self.calls.fetch_add(1, Ordering::SeqCst);
        // A collection lists hundreds of prefixes: others would be done before it comes to the point.
        if operation != "list" || number.is_multiple_of(32) {
            give_way().await;
        }
        let failed = |retryable| Error::Backend {
            backend: "probe".into(),
            operation,
            key: key.into(),
            retryable,
            source: "told to".into(),
        };
        match (self.plan)(number, operation, key) {
            Fate::Pass => call.await,
            Fate::Refused => Err(failed(true)),
            Fate::Broken => Err(failed(false)),
            Fate::Unanswered => call.await.and(Err(failed(true))),
        }
    }
}

/// Lets other tasks run once.
async fn give_way() {
    let mut resumed = false;
    std::future::poll_fn(|context| {
        if std::mem::replace(&mut resumed, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

impl fmt::Debug for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Probe")
    }
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "probed {}", self.inner)
    }
}

#[async_trait]
impl ArtifactStore for Probe {
    async fn put_opts(&self, key: &str, data: Bytes, mode: PutMode) -> Result<()> {
        self.call("put", key, self.inner.put_opts(key, data, mode)).await
    }

    async fn get(&self, key: &str) -> Result<Bytes> {
        self.call("get", key, self.inner.get(key)).await
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes> {
        self.call("get_range", key, self.inner.get_range(key, range)).await
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta> {
        self.call("head", key, self.inner.head(key)).await
    }

    async fn delete(&self, key: &str) -> Result<()> {
        self.call("delete", key, self.inner.delete(key)).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>> {
        self.call("list", prefix, self.inner.list(prefix)).await
    }

    async fn sync(&self) -> Result<()> {
        self.call("sync", "", self.inner.sync()).await
    }
}

/// Numbers that look random, the same each time (xorshift64*).
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `n`.
    pub(crate) fn roll(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % n
    }
}

pub(crate) type Task<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

/// Runs tasks on one thread, one step of one task at a time, in an order that the dice decide. `event` comes before
/// each step and may drop a task by its index: a kill.
pub(crate) fn interleave(
    mut tasks: Vec<Task<'_>>,
    dice: &mut Dice,
    mut event: impl FnMut(&mut Dice, &mut Vec<Task<'_>>),
) {
    let mut context = Context::from_waker(Waker::noop());
    while !tasks.is_empty() {
        event(dice, &mut tasks);
        if tasks.is_empty() {
            return;
        }
        let i = dice.roll(tasks.len());
        if tasks[i].as_mut().poll(&mut context).is_ready() {
            drop(tasks.swap_remove(i));
        }
    }
}

use std::fmt;
use std::ops::Range;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use backon::{BackoffBuilder, ExponentialBuilder};
use bytes::Bytes;

use super::{ArtifactStore, ObjectMeta, PutMode};
use crate::{Error, Result};

/// A layer that calls again what failed in a way that may pass, after longer and longer waits with jitter.
///
/// ```
/// # futures::executor::block_on(async {
/// use mlops_core::store::{ArtifactStoreExt, MemoryStore, RetryStore};
/// let store = RetryStore::builder(MemoryStore::default()).attempts(3).build()?;
/// let digest = store.put_artifact("weights".into()).await?;
/// assert_eq!(store.get_artifact(&digest).await?, "weights");
/// # Ok::<(), mlops_core::Error>(()) }).unwrap();
/// ```
///
/// Only errors with [`Error::is_retryable`] are called again. When an exclusive create failed so, nobody knows whether it
/// took effect: if a later attempt finds the very same bytes there, they are taken for its own, so of two writers of
/// *equal* bytes both may win then. An overwrite that is called again may undo one that came between.
///
/// Inside a tokio runtime it needs the timer, which `#[tokio::main]` has on.
#[derive(Clone, Debug)]
pub struct RetryStore<S> {
    inner: S,
    delays: ExponentialBuilder,
    elapsed: Duration,
}

impl<S: ArtifactStore> RetryStore<S> {
    /// Retries with the usual options.
    pub fn new(inner: S) -> Self {
        Self::builder(inner).layer()
    }

    /// Retries with options of your own.
    pub fn builder(inner: S) -> RetryStoreBuilder<S> {
        let (first, last) = (Duration::from_millis(50), Duration::from_secs(5));
        RetryStoreBuilder { inner, attempts: 6, first, last, elapsed: Duration::from_secs(30) }
    }

    fn attempts(&self) -> Attempts {
        Attempts { delays: self.delays.build(), until: Instant::now().checked_add(self.elapsed) }
    }
}

/// What is left of the attempts at one call.
struct Attempts {
    delays: backon::ExponentialBackoff,
    until: Option<Instant>,
}

impl Attempts {
    /// Waits for the next attempt, or gives the error back if there is none.
    async fn again(&mut self, error: Error) -> Result<()> {
        if !error.is_retryable() {
            return Err(error);
        }
        match self.delays.next() {
            Some(delay) if self.until.is_none_or(|until| Instant::now() + delay < until) => {
                super::pause(delay).await;
                Ok(())
            }
            _ => Err(error),
        }
    }
}

/// Options of a [`RetryStore`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct RetryStoreBuilder<S> {
    inner: S,
    attempts: usize,
    first: Duration,
    last: Duration,
    elapsed: Duration,
}

impl<S: ArtifactStore> RetryStoreBuilder<S> {
    /// How often a call is tried in all, 1 to 100 (default 6).
    pub fn attempts(mut self, attempts: usize) -> Self {
        self.attempts = attempts;
        self
    }

    /// The first wait, and the longest (default 50 ms, 5 s). Each is up to twice the one before, and then as much again
    /// by chance at most.
    pub fn delays(mut self, first: Duration, longest: Duration) -> Self {
        (self.first, self.last) = (first, longest);
        self
    }

    /// No attempt starts later than this after the first (default 30 s). It does not end an attempt that hangs: that is
    /// the store's time-out.
    pub fn elapsed(mut self, elapsed: Duration) -> Self {
        self.elapsed = elapsed;
        self
    }

    /// The layer.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] naming the option out of range.
    pub fn build(self) -> Result<RetryStore<S>> {
        if !(1..=100).contains(&self.attempts) {
            return Err(Error::invalid("attempts", format!("{} is not 1 to 100", self.attempts)));
        }
        if self.first.is_zero() || self.first > self.last || self.last > Duration::from_secs(3600) {
            let reason =
                format!("{:?} to {:?}: must ascend from more than 0 to at most an hour", self.first, self.last);
            return Err(Error::invalid("delays", reason));
        }
        Ok(self.layer())
    }

    fn layer(self) -> RetryStore<S> {
        let delays = ExponentialBuilder::new()
            .with_min_delay(self.first)
            .with_max_delay(self.last)
            .with_max_times(self.attempts - 1)
            .with_jitter();
        RetryStore { inner: self.inner, delays, elapsed: self.elapsed }
    }
}

impl<S: ArtifactStore> fmt::Display for RetryStore<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.inner, f)
    }
}

#[async_trait]
impl<S: ArtifactStore> ArtifactStore for RetryStore<S> {
    async fn put_opts(&self, key: &str, data: Bytes, mode: PutMode) -> Result<()> {
        let (mut attempts, mut unknown) = (self.attempts(), false);
        loop {
            match self.inner.put_opts(key, data.clone(), mode).await {
                Err(Error::AlreadyExists { what, name }) if unknown => match self.get(key).await {
                    Ok(there) if there == data => return Ok(()),
                    Ok(_) => return Err(Error::AlreadyExists { what, name }),
                    // Deleted since.
                    Err(Error::NotFound { .. }) => unknown = false,
                    Err(error) => return Err(error),
                },
                Err(error) => {
                    attempts.again(error).await?;
                    unknown = true;
                }
                written => return written,
            }
        }
    }

    async fn get(&self, key: &str) -> Result<Bytes> {
        let mut attempts = self.attempts();
        loop {
            match self.inner.get(key).await {
                Err(error) => attempts.again(error).await?,
                found => return found,
            }
        }
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes> {
        let mut attempts = self.attempts();
        loop {
            match self.inner.get_range(key, range.clone()).await {
                Err(error) => attempts.again(error).await?,
                found => return found,
            }
        }
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta> {
        let mut attempts = self.attempts();
        loop {
            match self.inner.head(key).await {
                Err(error) => attempts.again(error).await?,
                found => return found,
            }
        }
    }

    async fn delete(&self, key: &str) -> Result<()> {
        let mut attempts = self.attempts();
        loop {
            match self.inner.delete(key).await {
                Err(error) => attempts.again(error).await?,
                done => return done,
            }
        }
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>> {
        let mut attempts = self.attempts();
        loop {
            match self.inner.list(prefix).await {
                Err(error) => attempts.again(error).await?,
                found => return found,
            }
        }
    }

    async fn sync(&self) -> Result<()> {
        let mut attempts = self.attempts();
        loop {
            match self.inner.sync().await {
                Err(error) => attempts.again(error).await?,
                done => return done,
            }
        }
    }
}

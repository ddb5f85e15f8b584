//! Answers to `resolve` from memory.

use std::collections::HashMap;
use std::fmt;
use std::sync::{PoisonError, RwLock};
use std::time::{Duration, Instant};

use mlops_core::{ModelRef, ModelSource, ResolvedModel};

use super::Event;

/// Answers kept at most; beyond, what is asked for is read each time.
const MOST: usize = 10_000;

/// What references point at, from memory: for a request path that asks at every call.
///
/// It is no [`ModelSource`], whose answers are never stale. An answer from here may be, by no more than
/// [`max_age`](Self::max_age) (a second unless told otherwise), and by as little as events take to arrive where
/// [`heed`](Self::heed) gets those of a [`Watch`](crate::Watch). Fixed versions are kept as long. What is missing is asked
/// for again each time, and so is what nobody asked for within that age.
///
/// ```
/// # #[cfg(feature = "sqlite")] #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use mlops_core::{ModelRef, Principal, Role, store::MemoryStore};
/// # use mlops_registry::{ModelRegistry, NewModel, NewPromotion, NewVersion, SqlRegistry};
/// use mlops_registry::ResolveCache;
/// # let store = MemoryStore::default();
/// # let registry = SqlRegistry::builder().artifacts(store.clone()).open_in_memory().await?;
/// # let (ana, root) = (Principal::new("ana").with_role(Role::Contributor), Principal::new("root").with_role(Role::Admin));
/// # registry.create_model(&ana, NewModel::new("prices")).await?;
/// # for text in ["a", "b"] {
/// #     let package = mlops_registry::conformance::model_registry::package(&store, text).await;
/// #     registry.create_version(&ana, NewVersion::new("prices", package)).await?;
/// # }
/// # registry.move_alias(&root, NewPromotion::new("prices", 1, "champion")).await?;
/// let cache = ResolveCache::new(registry.clone());
/// let champion = ModelRef::alias("prices", "champion");
/// assert_eq!(cache.resolve(&champion).await?.version, 1);
///
/// let mut events = registry.watch(registry.events(0, 1_000).await?.last().map_or(0, |event| event.seq));
/// registry.move_alias(&root, NewPromotion::new("prices", 2, "champion")).await?;
/// cache.heed(&events.next().await?); // a task does this in a loop
/// # cache.heed(&events.next().await?);
/// assert_eq!(cache.resolve(&champion).await?.version, 2);
/// # Ok(()) }
/// # #[cfg(not(feature = "sqlite"))] fn main() {}
/// ```
pub struct ResolveCache<S> {
    source: S,
    max_age: Duration,
    kept: RwLock<Kept>,
}

#[derive(Default)]
struct Kept {
    answers: HashMap<ModelRef, (Instant, ResolvedModel)>,
    /// Counts what was forgotten, so that an answer from before is not kept after it.
    forgotten: u64,
}

impl<S: fmt::Debug> fmt::Debug for ResolveCache<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let max_age = self.max_age;
        f.debug_struct("ResolveCache").field("source", &self.source).field("max_age", &max_age).finish_non_exhaustive()
    }
}

impl<S: ModelSource> ResolveCache<S> {
    /// An empty cache in front of `source`.
    pub fn new(source: S) -> Self {
        Self { source, max_age: Duration::from_secs(1), kept: RwLock::default() }
    }

    /// How old an answer may be; zero for none from memory.
    #[must_use]
    pub fn max_age(mut self, age: Duration) -> Self {
        self.max_age = age;
        self
    }

    /// What `wanted` points at, from memory where that is young enough.
    ///
    /// # Errors
    /// Those of [`ModelSource::resolve`]. A source that fails is not covered up by an older answer.
    pub async fn resolve(&self, wanted: &ModelRef) -> mlops_core::Result<ResolvedModel> {
        let forgotten = {
            let kept = self.kept.read().unwrap_or_else(PoisonError::into_inner);
            if let Some((at, answer)) = kept.answers.get(wanted)
                && at.elapsed() < self.max_age
            {
                return Ok(answer.clone());
            }
            kept.forgotten
        };
        // Before the source is asked: that is how old the answer is at most.
        let asked = Instant::now();
        let answer = self.source.resolve(wanted).await?;
        let mut kept = self.kept.write().unwrap_or_else(PoisonError::into_inner);
        if kept.forgotten == forgotten {
            if kept.answers.len() >= MOST {
                let max_age = self.max_age;
                kept.answers.retain(|_, (at, _)| at.elapsed() < max_age);
            }
            if kept.answers.len() < MOST {
                kept.answers.insert(wanted.clone(), (asked, answer.clone()));
            }
        }
        Ok(answer)
    }

    /// Forgets what an event may have changed: every answer about its model.
    pub fn heed(&self, event: &Event) {
        self.forget(|wanted, answer| wanted.name == event.model || answer.name == event.model);
    }

    /// Forgets everything, or what one model's references point at.
    pub fn clear(&self, model: Option<&str>) {
        self.forget(|wanted, answer| model.is_none_or(|model| wanted.name == model || answer.name == model));
    }

    fn forget(&self, which: impl Fn(&ModelRef, &ResolvedModel) -> bool) {
        let mut kept = self.kept.write().unwrap_or_else(PoisonError::into_inner);
        kept.answers.retain(|wanted, (_, answer)| !which(wanted, answer));
        kept.forgotten += 1;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use mlops_core::{Digest, Error, Package, Selector};

    use super::*;

    /// Counts its calls and gives their number as the version.
    #[derive(Debug, Default)]
    struct Counting(AtomicU64);

    #[async_trait::async_trait]
    impl ModelSource for Counting {
        async fn resolve(&self, wanted: &ModelRef) -> mlops_core::Result<ResolvedModel> {
            let version = self.0.fetch_add(1, Ordering::SeqCst) + 1;
            tokio::task::yield_now().await;
            if wanted.selector == Selector::Latest {
                return Err(Error::invalid("model", "is gone"));
            }
            let name = wanted.name.clone();
            Ok(ResolvedModel { name, version, revision: version, package: Digest::of(b"") })
        }

        async fn package(&self, _model: &ResolvedModel) -> mlops_core::Result<Package> {
            Err(Error::invalid("package", "there is none"))
        }
    }

    #[tokio::test]
    async fn an_answer_is_kept_until_it_is_too_old_or_forgotten() {
        let cache = ResolveCache::new(Counting::default()).max_age(Duration::from_secs(3600));
        let (a, b) = (ModelRef::alias("a", "champion"), ModelRef::alias("b", "champion"));
        for _ in 0..3 {
            assert_eq!(cache.resolve(&a).await.unwrap().version, 1);
            assert_eq!(cache.resolve(&b).await.unwrap().version, 2);
        }
        cache.clear(Some("a"));
        assert_eq!(cache.resolve(&a).await.unwrap().version, 3);
        assert_eq!(cache.resolve(&b).await.unwrap().version, 2);
        cache.clear(None);
        assert_eq!(cache.resolve(&b).await.unwrap().version, 4);

        let none = ResolveCache::new(Counting::default()).max_age(Duration::ZERO);
        assert_ne!(none.resolve(&a).await.unwrap(), none.resolve(&a).await.unwrap());
    }

    #[tokio::test]
    async fn a_failure_is_told_and_not_kept() {
        let cache = ResolveCache::new(Counting::default());
        let latest = ModelRef { name: "a".to_owned(), selector: Selector::Latest };
        for calls in 1..=2 {
            cache.resolve(&latest).await.unwrap_err();
            assert_eq!(cache.source.0.load(Ordering::SeqCst), calls);
        }
    }

    /// An answer that was on its way when its model changed is given, and not kept.
    #[tokio::test]
    async fn an_answer_from_before_is_not_kept_after() {
        let cache = ResolveCache::new(Counting::default()).max_age(Duration::from_secs(3600));
        let a = ModelRef::alias("a", "champion");
        let (first, ()) = futures::join!(cache.resolve(&a), async { cache.clear(Some("a")) });
        assert_eq!(first.unwrap().version, 1);
        assert_eq!(cache.resolve(&a).await.unwrap().version, 2);
    }

    #[tokio::test]
    async fn it_does_not_grow_for_ever() {
        let cache = ResolveCache::new(Counting::default()).max_age(Duration::from_secs(3600));
        for version in 0..MOST as u64 + 10 {
            cache.resolve(&ModelRef::version("a", version)).await.unwrap();
        }
        assert_eq!(cache.kept.read().unwrap().answers.len(), MOST);
    }
}

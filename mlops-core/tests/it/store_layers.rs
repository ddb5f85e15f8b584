//! Layers: each keeps the contract of a store, and does what it is for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::join_all;
use mlops_core::store::{
    ArtifactStore, CacheStore, LocalStore, MemoryStore, MeteredStore, PutMode, RetryStore, RetryStoreBuilder,
    artifact_key,
};
use mlops_core::{ArtifactStoreExt, Digest, Error};

use super::probe::{Dice, Fate, Probe};

fn quick<S: ArtifactStore>(store: S) -> RetryStoreBuilder<S> {
    RetryStore::builder(store).delays(Duration::from_micros(10), Duration::from_micros(100))
}

/// A store where a twelfth of the calls fail, half of these after they took effect. The same calls fail in each run.
fn unreliable(inner: impl ArtifactStore) -> Arc<Probe> {
    Probe::new(inner, |call, _, _| match Dice::new(call).roll(24) {
        0 => Fate::Refused,
        1 => Fate::Unanswered,
        _ => Fate::Pass,
    })
}

async fn small_cache() -> CacheStore<MemoryStore, MemoryStore> {
    CacheStore::open(MemoryStore::default(), MemoryStore::default(), 2 << 20).await.unwrap()
}

mlops_core::artifact_store_conformance!(retried, (RetryStore::new(MemoryStore::default()), ()));
mlops_core::artifact_store_conformance!(
    retried_and_unreliable,
    (quick(unreliable(MemoryStore::default())).attempts(50).build().unwrap(), ())
);
mlops_core::artifact_store_conformance!(cached, (small_cache().await, ()));
mlops_core::artifact_store_conformance!(cached_in_a_directory, {
    let dir = tempfile::tempdir().unwrap();
    let cache = LocalStore::open(dir.path()).unwrap();
    (CacheStore::open(MemoryStore::default(), cache, 100 << 20).await.unwrap(), dir)
});
mlops_core::artifact_store_conformance!(cached_where_the_cache_fails, {
    let cache = Probe::new(MemoryStore::default(), |call, _, _| if call % 2 == 0 { Fate::Pass } else { Fate::Broken });
    (CacheStore::open(MemoryStore::default(), cache, 100 << 20).await.unwrap(), ())
});
mlops_core::artifact_store_conformance!(metered, (MeteredStore::new(MemoryStore::default()), ()));

fn failing(fates: &'static [Fate]) -> (MemoryStore, Arc<Probe>) {
    let inner = MemoryStore::default();
    (inner.clone(), Probe::new(inner, |call, _, _| fates.get(call as usize).copied().unwrap_or(Fate::Pass)))
}

#[tokio::test]
async fn only_what_may_pass_is_called_again_and_not_for_ever() {
    let (_, probe) = failing(&[Fate::Refused, Fate::Refused, Fate::Broken]);
    let store = quick(Arc::clone(&probe)).build().unwrap();
    assert!(!store.put("k", "x".into()).await.unwrap_err().is_retryable());
    assert_eq!(probe.calls(), 3);
    assert!(matches!(store.get("k").await, Err(Error::NotFound { .. })));
    assert_eq!(probe.calls(), 4);

    let probe = Probe::new(MemoryStore::default(), |_, _, _| Fate::Refused);
    let store = quick(Arc::clone(&probe)).attempts(7).build().unwrap();
    assert!(store.list("").await.unwrap_err().is_retryable());
    assert_eq!(probe.calls(), 7);

    let slow = RetryStore::builder(probe).attempts(100).delays(Duration::from_millis(40), Duration::from_millis(40));
    let store = slow.elapsed(Duration::from_millis(200)).build().unwrap();
    let begin = Instant::now();
    assert!(store.get("k").await.is_err());
    assert!(begin.elapsed() < Duration::from_millis(600), "{:?}", begin.elapsed());
    for bad in [quick(MemoryStore::default()).attempts(0), quick(MemoryStore::default()).attempts(101)] {
        assert!(matches!(bad.build(), Err(Error::InvalidInput { .. })));
    }
    let backwards = RetryStore::builder(MemoryStore::default()).delays(Duration::from_secs(2), Duration::from_secs(1));
    assert!(backwards.build().unwrap_err().to_string().contains("delays"));
}

#[tokio::test]
async fn a_create_whose_answer_got_lost_is_won_once_and_by_its_own_bytes() {
    let (inner, probe) = failing(&[Fate::Unanswered]);
    let store = quick(probe).build().unwrap();
    store.put_opts("k", "mine".into(), PutMode::Create).await.unwrap();
    assert_eq!(inner.get("k").await.unwrap(), "mine");
    let again = store.put_opts("k", "mine".into(), PutMode::Create).await;
    assert!(matches!(again, Err(Error::AlreadyExists { .. })), "nothing was unknown this time");

    let (inner, probe) = failing(&[Fate::Refused]);
    inner.put("k", "theirs".into()).await.unwrap();
    let lost = quick(probe).build().unwrap().put_opts("k", "mine".into(), PutMode::Create).await;
    assert!(matches!(lost, Err(Error::AlreadyExists { .. })));
}

fn artifact(seed: u8, bytes: usize) -> Bytes {
    vec![seed; bytes].into()
}

#[tokio::test]
async fn a_cache_serves_what_it_has_and_never_exceeds_its_limit() {
    let (far, near) = (MemoryStore::default(), MemoryStore::default());
    let mut digests = Vec::new();
    for seed in 0..10 {
        digests.push(far.put_artifact(artifact(seed, 1000)).await.unwrap());
    }
    let counted = MeteredStore::new(far);
    let store = CacheStore::open(counted.clone(), near.clone(), 4500).await.unwrap();
    let gets = || counted.snapshot().operation("get").calls;
    for digest in &digests[..4] {
        store.get_artifact(digest).await.unwrap();
    }
    assert_eq!(gets(), 4);
    store.get_artifact(&digests[0]).await.unwrap();
    assert_eq!(store.get_range(&artifact_key(&digests[1]), 990..2000).await.unwrap(), artifact(1, 10));
    assert_eq!((gets(), counted.snapshot().operation("get_range").calls), (4, 0));
    store.get_artifact(&digests[4]).await.unwrap(); // evicts 2, which was used least recently
    for kept in [0, 1, 3, 4] {
        store.get_artifact(&digests[kept]).await.unwrap();
    }
    assert_eq!(gets(), 5);
    store.get_artifact(&digests[2]).await.unwrap();
    assert_eq!(gets(), 6);
    let mut dice = Dice::new(3);
    for _ in 0..200 {
        store.get_artifact(&digests[dice.roll(10)]).await.unwrap();
        let held: u64 = near.list("").await.unwrap().iter().map(|object| object.bytes).sum();
        assert!(held <= 4500 && held == store.stats().bytes, "{held}, {:?}", store.stats());
    }
    let big = store.put_artifact(artifact(99, 5000)).await.unwrap();
    store.get_artifact(&big).await.unwrap();
    assert_eq!(store.stats().entries, 4, "what is larger than the cache evicts nothing: {:?}", store.stats());

    // A restart keeps the entries, and a lower limit is met at once.
    let held = near.list("").await.unwrap();
    let store = CacheStore::open(counted.clone(), near.clone(), 2000).await.unwrap();
    assert_eq!((store.stats().entries, store.stats().bytes, store.stats().evicted), (2, 2000, 2));
    let before = gets();
    for object in near.list("").await.unwrap() {
        assert!(held.contains(&object));
        store.get(&object.key).await.unwrap();
    }
    assert_eq!((gets(), store.stats().hits), (before, 2));
}

#[tokio::test]
async fn a_damaged_or_missing_entry_is_fetched_again_and_damage_from_behind_is_not_kept() {
    let (far, near) = (MemoryStore::default(), MemoryStore::default());
    let digest = far.put_artifact("weights".into()).await.unwrap();
    let (key, store) = (artifact_key(&digest), CacheStore::open(far.clone(), near.clone(), 1000).await.unwrap());
    store.get_artifact(&digest).await.unwrap();
    near.put(&key, "weighty".into()).await.unwrap();
    assert_eq!(store.get(&key).await.unwrap(), "weights");
    assert_eq!(near.get(&key).await.unwrap(), "weights", "the entry is mended");
    near.put(&key, "weighty".into()).await.unwrap();
    assert_eq!(store.get_range(&key, 5..7).await.unwrap(), "ts", "a range is checked too");
    store.get(&key).await.unwrap();
    near.delete(&key).await.unwrap();
    assert_eq!(store.get(&key).await.unwrap(), "weights");
    assert_eq!(store.stats().damaged, 3);

    store.delete(&key).await.unwrap();
    far.put(&key, "weighty".into()).await.unwrap();
    assert!(matches!(store.get_artifact(&digest).await, Err(Error::Corrupt { .. })));
    assert!(near.list("").await.unwrap().is_empty());
    assert_eq!(store.put_artifact("weights".into()).await.unwrap(), digest);
    assert_eq!(store.get_artifact(&digest).await.unwrap(), "weights");
    store.put("rows/1", "x".into()).await.unwrap();
    store.get("rows/1").await.unwrap();
    assert_eq!(near.list("").await.unwrap().len(), 1, "only artifacts are cached");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn readers_that_come_together_fetch_once() {
    let far = MemoryStore::default();
    let digest = far.put_artifact(artifact(1, 1 << 20)).await.unwrap();
    let counted = MeteredStore::new(far);
    let store = Arc::new(CacheStore::open(counted.clone(), MemoryStore::default(), 2 << 20).await.unwrap());
    let readers = (0..32).map(|_| {
        let store = Arc::clone(&store);
        tokio::spawn(async move { store.get_artifact(&digest).await.unwrap().len() })
    });
    assert!(join_all(readers).await.into_iter().all(|read| read.unwrap() == 1 << 20));
    assert_eq!(counted.snapshot().operation("get").calls, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn readers_writers_and_deletes_at_once_see_right_bytes_and_the_limit_holds() {
    let (far, near) = (MemoryStore::default(), MemoryStore::default());
    let store = Arc::new(CacheStore::open(far, near.clone(), 5_000).await.unwrap());
    let tasks = (0..8_u64).map(|task| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            let mut dice = Dice::new(task);
            for _ in 0..400 {
                let seed = dice.roll(12) as u8;
                let key = artifact_key(&Digest::of(&artifact(seed, 1000)));
                match dice.roll(6) {
                    0 => store.delete(&key).await.unwrap(),
                    1 | 2 => drop(store.put_artifact(artifact(seed, 1000)).await.unwrap()),
                    _ => match store.get(&key).await {
                        Err(Error::NotFound { .. }) => {}
                        data => assert_eq!(data.unwrap(), artifact(seed, 1000)),
                    },
                }
            }
        })
    });
    join_all(tasks).await.into_iter().for_each(|task| task.unwrap());
    let held: u64 = near.list("").await.unwrap().iter().map(|object| object.bytes).sum();
    assert!(held <= 5_000, "{held}");
    assert!(store.stats().evicted > 0, "{:?}", store.stats());
}

#[tokio::test]
async fn a_meter_counts_calls_errors_bytes_and_time_and_snapshots_add_up() {
    let broken = Arc::new(AtomicBool::new(false));
    let switch = Arc::clone(&broken);
    let fate = move |_, _: &str, _: &str| if switch.load(Ordering::SeqCst) { Fate::Refused } else { Fate::Pass };
    let store = MeteredStore::new(Probe::new(MemoryStore::default(), fate));
    for key in ["a", "b"] {
        store.put(key, "0123456789".into()).await.unwrap();
    }
    let clone = store.clone();
    clone.get("a").await.unwrap();
    clone.get_range("a", 3..5).await.unwrap();
    assert!(clone.get("none").await.is_err());
    broken.store(true, Ordering::SeqCst);
    assert!(clone.get("a").await.is_err());
    let metrics = store.snapshot();
    let counts = |name| {
        let operation = metrics.operation(name);
        assert_eq!(operation.buckets.iter().sum::<u64>(), operation.calls);
        (operation.calls, operation.errors, operation.bytes)
    };
    assert_eq!([counts("put"), counts("get"), counts("get_range")], [(2, 0, 20), (3, 1, 10), (1, 0, 2)]);
    assert_eq!(counts("sync"), (0, 0, 0));
    assert!(metrics.operation("get").quantile(0.5).unwrap() < Duration::from_secs(1));
    let mut twice = metrics.clone();
    twice.merge(&metrics);
    assert_eq!((twice.operation("put").calls, twice.operation("get").errors), (4, 2));
    let shown = metrics.to_string();
    assert!(shown.lines().any(|line| line.starts_with("get ") && line.contains("10 B")), "{shown}");
    assert!(!shown.contains("sync"), "{shown}");
    let text = metrics.to_prometheus("far \"1\"");
    for line in [
        r#"mlops_store_calls_total{store="far \"1\"",operation="put"} 2"#,
        r#"mlops_store_errors_total{store="far \"1\"",operation="get"} 1"#,
        r#"mlops_store_seconds_bucket{store="far \"1\"",operation="get",le="+Inf"} 3"#,
        r#"mlops_store_seconds_count{store="far \"1\"",operation="get"} 3"#,
    ] {
        assert!(text.lines().any(|l| l == line), "{line} in {text}");
    }
}

/// Wherever a read is cancelled, what it put out of the index is put out of the cache by the next.
#[tokio::test]
async fn reads_that_are_cancelled_leave_no_more_than_the_limit() {
    use std::future::Future as _;
    use std::task::{Context, Waker};
    const LIMIT: u64 = 1_000;
    let far = MemoryStore::default();
    let digests = [b'a', b'b', b'c', b'd'].map(|byte| far.put_artifact(vec![byte; 400].into()));
    let digests: Vec<Digest> = join_all(digests).await.into_iter().map(Result::unwrap).collect();
    let mut cancelled = 0;
    for steps in 0..40 {
        let near = MemoryStore::default();
        let probed = Probe::new(near.clone(), |_, _, _| Fate::Pass);
        let store = CacheStore::open(far.clone(), probed, LIMIT).await.unwrap();
        store.get_artifact(&digests[0]).await.unwrap();
        store.get_artifact(&digests[1]).await.unwrap();
        {
            let mut read = Box::pin(store.get_artifact(&digests[2]));
            let mut context = Context::from_waker(Waker::noop());
            let done = (0..steps).any(|_| read.as_mut().poll(&mut context).is_ready());
            cancelled += u32::from(!done);
        }
        store.get_artifact(&digests[3]).await.unwrap();
        let held: u64 = near.list("").await.unwrap().iter().map(|object| object.bytes).sum();
        assert!(held <= LIMIT, "{held} bytes after a read that was dropped at step {steps}");
        assert!(store.stats().bytes >= held, "{:?} and {held} bytes after step {steps}", store.stats());
    }
    assert!(cancelled > 2, "{cancelled} reads were cancelled");
}

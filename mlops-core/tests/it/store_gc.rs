//! Leases and garbage collection.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures::executor::block_on;
use mlops_core::store::{
    ArtifactStore, BlobWriter, Collected, Collector, CollectorBuilder, Lease, LocalStore, MemoryStore, PutMode, Roots,
    Usage, artifact_key, chunks_key, usage,
};
use mlops_core::{ArtifactStoreExt, Clock, Digest, Error, ManualClock, Result};

use super::probe::{Dice, Fate, Probe, Task, interleave};

/// Rows in the store itself, under `rows/`: each holds one digest.
#[derive(Clone)]
struct Rows(Arc<dyn ArtifactStore>);

#[async_trait]
impl Roots for Rows {
    async fn live(&self, live: &mut BTreeSet<Digest>) -> Result<()> {
        for row in self.0.list("rows/").await? {
            match self.0.get(&row.key).await {
                Err(Error::NotFound { .. }) => {}
                digest => {
                    live.insert(String::from_utf8_lossy(&digest?).parse()?);
                }
            }
        }
        Ok(())
    }
}

/// A time at which all that a test wrote is old.
fn later() -> ManualClock {
    ManualClock::at("2100-01-01T00:00:00Z".parse().unwrap())
}

fn collector(store: &Arc<dyn ArtifactStore>, clock: &ManualClock) -> CollectorBuilder {
    let collector = Collector::builder(Arc::clone(store)).roots(Rows(Arc::clone(store)));
    collector.clock(clock.clone()).grace(Duration::ZERO).wait(Duration::from_millis(50)).pause(Duration::ZERO).hurry()
}

async fn collect(store: &Arc<dyn ArtifactStore>, clock: &ManualClock) -> Result<Collected> {
    collector(store, clock).build()?.collect().await
}

async fn lease(store: &Arc<dyn ArtifactStore>, clock: &ManualClock) -> Result<Lease> {
    let lease = Lease::builder(Arc::clone(store), Arc::new(clock.clone()));
    lease.wait(Duration::from_millis(50)).hurry().acquire().await
}

/// A blob of these parts, each a chunk of its own, under a row of that name.
async fn commit<S: ArtifactStore + ?Sized>(
    store: &S,
    lease: Option<&Lease>,
    parts: &[u8],
    row: &str,
) -> Result<Digest> {
    let mut writer = lease.map_or_else(|| BlobWriter::new(store), |lease| BlobWriter::under(store, lease));
    writer.write_parts(parts.iter().map(|part| vec![*part; 100].into()).collect()).await?;
    let blob = writer.finish().await?;
    store.sync().await?;
    lease.map_or(Ok(()), Lease::check)?;
    store.put(row, blob.digest.to_string().into()).await?;
    if let Some(Err(error)) = lease.map(Lease::check) {
        store.delete(row).await?;
        return Err(error);
    }
    Ok(blob.digest)
}

fn memory() -> (Arc<dyn ArtifactStore>, ManualClock) {
    (Arc::new(MemoryStore::default()), later())
}

#[tokio::test]
async fn what_rows_name_stays_with_its_chunks_and_the_rest_goes() {
    let (store, clock) = memory();
    let kept = commit(&store, None, &[1, 2, 3], "rows/kept").await.unwrap();
    let single = commit(&store, None, &[4], "rows/single").await.unwrap();
    commit(&store, None, &[3, 5, 6], "rows/dropped").await.unwrap();
    store.delete("rows/dropped").await.unwrap();
    for foreign in ["artifacts/notes.txt", "artifacts/ab/readme", "chunks/ab/cd", "datasets/d/1"] {
        store.put(foreign, "not ours".into()).await.unwrap();
    }
    let before = usage(&*store, "artifacts/").await.unwrap();
    assert_eq!(before, Usage { objects: 7, bytes: 608 });
    assert_eq!(usage(&*store, "rows/").await.unwrap().to_string(), "2 objects, 128 B");

    let dry = collector(&store, &clock).dry_run(true).build().unwrap().collect().await.unwrap();
    assert_eq!(usage(&*store, "artifacts/").await.unwrap(), before, "a dry run deletes nothing");
    let collected = collect(&store, &clock).await.unwrap();
    assert_eq!((collected.deleted, collected.live, collected.examined()), (3, 5, 8));
    assert_eq!(
        collected,
        {
            let mut same = dry;
            same.dry_run = false;
            same
        },
        "a dry run tells what a run does"
    );
    assert_eq!(store.get_artifact(&kept).await.unwrap().len(), 300);
    assert_eq!(store.get_artifact(&single).await.unwrap().len(), 100);
    assert_eq!(store.list("artifacts/").await.unwrap().len(), 4 + 2);
    assert_eq!(store.list("").await.unwrap().len(), (4 + 1) + 2 + 4, "what is no artifact is left alone");
    assert_eq!(collect(&store, &clock).await.unwrap().deleted, 0);
}

#[tokio::test]
async fn a_grace_spares_what_is_young() {
    let store: Arc<dyn ArtifactStore> = Arc::new(MemoryStore::default());
    store.put_artifact("about to be named".into()).await.unwrap();
    let collector = Collector::builder(Arc::clone(&store)).roots(Rows(Arc::clone(&store))).build().unwrap();
    let collected = tokio::spawn(async move { collector.collect().await }).await.unwrap().unwrap();
    assert_eq!((collected.deleted, collected.kept_by_grace), (0, 1), "{collected}");
}

#[test]
fn a_collector_without_roots_is_refused() {
    let error = Collector::builder(memory().0).build().unwrap_err();
    assert!(error.to_string().contains("at least one"), "{error}");
}

#[tokio::test]
async fn an_error_of_a_root_or_a_damaged_list_stops_before_anything_is_deleted() {
    let (store, clock) = memory();
    let blob = commit(&store, None, &[1, 2], "rows/a").await.unwrap();
    store.put_artifact("garbage".into()).await.unwrap();
    store.put("rows/odd", "no digest".into()).await.unwrap();
    assert!(collect(&store, &clock).await.is_err());
    store.delete("rows/odd").await.unwrap();
    let list = store.get(&chunks_key(&blob)).await.unwrap();
    store.put(&chunks_key(&blob), list.slice(1..)).await.unwrap();
    let error = collect(&store, &clock).await.unwrap_err();
    assert!(matches!(error, Error::Corrupt { expected, .. } if expected == blob), "{error}");
    assert_eq!(store.list("artifacts/").await.unwrap().len(), 3);
    assert!(store.list("gc/").await.unwrap().is_empty(), "no lock is left");
}

#[tokio::test]
async fn a_collection_waits_for_leases_and_a_lease_for_collections() {
    let (store, clock) = memory();
    store.put_artifact("garbage".into()).await.unwrap();
    let held = lease(&store, &clock).await.unwrap();
    let error = collect(&store, &clock).await.unwrap_err();
    assert!(error.is_retryable(), "{error}");
    assert!(std::error::Error::source(&error).unwrap().to_string().contains("a commit is under way: leases/"));
    assert_eq!(store.list("artifacts/").await.unwrap().len(), 1);
    held.release().await.unwrap();
    assert_eq!(collect(&store, &clock).await.unwrap().deleted, 1);

    // A collector that died left its lock.
    let expires = (clock.now() + Duration::from_secs(600)).timestamp_micros();
    let lock = format!(r#"{{"expires":{expires},"holder":"a dead process"}}"#);
    store.put_opts("gc/0", lock.into(), PutMode::Create).await.unwrap();
    store.put_artifact("garbage".into()).await.unwrap();
    for error in [lease(&store, &clock).await.unwrap_err(), collect(&store, &clock).await.unwrap_err()] {
        assert!(error.is_retryable(), "{error}");
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert!(cause.contains("a dead process"), "{cause}");
    }
    assert!(store.list("leases/").await.unwrap().is_empty(), "a lease that was not given is not left");
    clock.advance(Duration::from_secs(601));
    lease(&store, &clock).await.unwrap().release().await.unwrap();
    assert_eq!(collect(&store, &clock).await.unwrap().deleted, 1, "an expired lock is taken over");
    assert!(store.list("gc/").await.unwrap().is_empty());
}

#[tokio::test]
async fn a_lease_that_expired_acknowledges_nothing_and_is_removed() {
    let (store, clock) = memory();
    let held = lease(&store, &clock).await.unwrap();
    clock.advance(Duration::from_secs(400));
    held.keep().await.unwrap();
    assert_eq!(held.expires(), clock.now() + Duration::from_secs(600));
    clock.advance(Duration::from_secs(539));
    held.check().unwrap();
    clock.advance(Duration::from_secs(1));
    let error = held.check().unwrap_err();
    assert!(error.is_retryable(), "a minute early, for clocks that differ: {error}");
    assert!(commit(&store, Some(&held), &[1], "rows/late").await.is_err());
    assert!(store.list("rows/").await.unwrap().is_empty());
    assert!(held.renew().await.is_err());
    store.put_artifact("garbage".into()).await.unwrap();
    assert!(collect(&store, &clock).await.is_err(), "by the collector's clock, it holds");
    clock.advance(Duration::from_secs(61));
    collect(&store, &clock).await.unwrap();
    assert!(store.list("leases/").await.unwrap().is_empty());
    for ttl in [Duration::from_secs(100), Duration::MAX] {
        let odd = Lease::builder(Arc::clone(&store), Arc::new(clock.clone())).ttl(ttl);
        assert!(matches!(odd.acquire().await, Err(Error::InvalidInput { .. })));
    }
    let patient = Lease::builder(Arc::clone(&store), Arc::new(clock.clone())).wait(Duration::MAX).acquire().await;
    patient.unwrap().release().await.unwrap();
    collector(&store, &clock).grace(Duration::MAX).wait(Duration::MAX).build().unwrap().collect().await.unwrap();
}

/// What many committers, collectors, kills and the clock do to one store, in an order that the seed decides. Returns how
/// many commits were acknowledged, and how many blobs were unreadable at some time although a row named them.
fn race(seed: u64, leased: bool) -> (usize, usize) {
    let (inner, clock) = (MemoryStore::default(), later());
    let deleted = Arc::new(AtomicBool::new(false));
    let note = Arc::clone(&deleted);
    let store: Arc<dyn ArtifactStore> = Probe::new(inner.clone(), move |_, operation, _| {
        note.fetch_or(operation == "delete", Ordering::SeqCst);
        Fate::Pass
    });
    let acknowledged = Rc::new(std::cell::RefCell::new((BTreeMap::<String, Digest>::new(), 0)));
    let mut tasks: Vec<Task<'_>> = Vec::new();
    for name in 0..8_u64 {
        let (store, clock) = (Arc::clone(&store), clock.clone());
        let (acknowledged, deleted) = (Rc::clone(&acknowledged), Arc::clone(&deleted));
        tasks.push(Box::pin(async move {
            let mut dice = Dice::new(seed * 100 + name);
            for round in 0..12 {
                let parts: Vec<u8> = (0..=dice.roll(4)).map(|_| dice.roll(9) as u8).collect();
                let row = format!("rows/{name}-{round}");
                let held = match leased.then(|| lease(&store, &clock)) {
                    Some(held) => match held.await {
                        Ok(held) => Some(held),
                        Err(error) => {
                            assert!(error.is_retryable(), "{error}");
                            continue;
                        }
                    },
                    None => None,
                };
                if let Ok(digest) = commit(&*store, held.as_ref(), &parts, &row).await {
                    acknowledged.borrow_mut().0.insert(row.clone(), digest);
                    acknowledged.borrow_mut().1 += 1;
                    deleted.store(true, Ordering::SeqCst);
                }
                if let Some(held) = held {
                    held.release().await.unwrap();
                }
                if dice.roll(2) == 0 {
                    acknowledged.borrow_mut().0.remove(&row);
                    store.delete(&row).await.unwrap();
                }
            }
        }));
    }
    let pause = Duration::from_secs(60 * (seed % 3));
    for _ in 0..3 {
        let (store, clock) = (Arc::clone(&store), clock.clone());
        tasks.push(Box::pin(async move {
            for _ in 0..4 {
                let collector = collector(&store, &clock).wait(Duration::from_secs(60)).pause(pause).build().unwrap();
                if let Err(error) = collector.collect().await {
                    assert!(error.is_retryable(), "{error}");
                }
            }
        }));
    }
    let mut lost = BTreeSet::new();
    let mut kills = 4;
    interleave(tasks, &mut Dice::new(seed), |dice, tasks| {
        if dice.roll(20) == 0 {
            clock.advance(Duration::from_secs(5));
        }
        if kills > 0 && dice.roll(800) == 0 {
            kills -= 1;
            drop(tasks.swap_remove(dice.roll(tasks.len())));
        }
        let check = deleted.swap(false, Ordering::SeqCst);
        for (row, digest) in acknowledged.borrow().0.iter().filter(|_| check) {
            if block_on(inner.get_artifact(digest)).is_err() {
                lost.insert(row.clone());
            }
        }
    });
    clock.advance(Duration::from_secs(700));
    let inner: Arc<dyn ArtifactStore> = Arc::new(inner);
    block_on(collect(&inner, &clock)).unwrap();
    let mut live = BTreeSet::new();
    block_on(Rows(Arc::clone(&inner)).live(&mut live)).unwrap();
    for digest in live.iter().filter(|_| leased) {
        block_on(inner.get_artifact(digest)).unwrap();
    }
    assert_eq!(block_on(collect(&inner, &clock)).unwrap().deleted, 0);
    for claims in ["leases/", "gc/"] {
        assert!(block_on(inner.list(claims)).unwrap().is_empty(), "{claims}");
    }
    let acknowledged = acknowledged.borrow().1;
    (acknowledged, lost.len())
}

#[test]
fn no_acknowledged_blob_is_ever_collected_however_commits_collections_and_kills_interleave() {
    let mut commits = 0;
    for seed in 0..12 {
        let (acknowledged, lost) = race(seed, true);
        assert_eq!(lost, 0, "seed {seed}");
        commits += acknowledged;
    }
    assert!(commits > 400, "{commits} commits in all");
}

#[test]
fn without_leases_and_without_grace_blobs_are_lost_so_the_race_above_is_one() {
    assert!((0..100).any(|seed| race(seed, false).1 > 0));
}

#[test]
fn a_collection_that_dies_at_any_call_loses_nothing_and_the_next_ends_it() {
    let mut died = 0;
    // Before the lock is taken it only reads, in some 770 calls.
    for calls in (0..760).step_by(76).chain(760..) {
        let (inner, clock) = memory();
        let kept = block_on(commit(&inner, None, &[1, 2, 3], "rows/kept")).unwrap();
        for parts in [[3, 4, 5], [6, 7, 8]] {
            block_on(commit(&inner, None, &parts, "rows/dropped")).unwrap();
        }
        block_on(inner.delete("rows/dropped")).unwrap();
        let objects = block_on(inner.list("")).unwrap();
        let fate = move |call, _: &str, _: &str| if call < calls { Fate::Pass } else { Fate::Broken };
        let dying = Probe::new(Arc::clone(&inner), fate);
        let store: Arc<dyn ArtifactStore> = Arc::<Probe>::clone(&dying);
        let outcome = block_on(collector(&store, &clock).pause(Duration::from_secs(60)).build().unwrap().collect());
        if calls == 760 {
            assert_eq!(block_on(inner.list("")).unwrap(), objects, "the calls left out above change nothing");
        }
        assert_eq!(block_on(inner.get_artifact(&kept)).unwrap().len(), 300, "died at call {calls}");
        clock.advance(Duration::from_secs(601));
        block_on(collect(&inner, &clock)).unwrap();
        let left = ["artifacts/", "chunks/"].map(|p| block_on(inner.list(p)).unwrap().len());
        assert_eq!(left, [3, 1], "died at call {calls}");
        if outcome.is_ok() {
            assert_eq!(dying.calls(), calls);
            break;
        }
        died += 1;
    }
    assert!(died > 250, "{died}");
}

#[test]
fn a_list_that_is_rewritten_while_the_collector_marks_keeps_its_new_chunks() {
    // The blob's list is cut elsewhere by another version, between the first mark and the second.
    let (inner, clock) = (MemoryStore::default(), later());
    let whole: Vec<u8> = [[1; 100], [2; 100]].concat();
    let digest = block_on(commit(&inner, None, &[1, 2], "rows/a")).unwrap();
    block_on(inner.put_artifact("garbage".into())).unwrap();
    let recut = inner.clone();
    let store: Arc<dyn ArtifactStore> = Probe::new(inner.clone(), move |_, operation, key| {
        if operation == "put" && key.starts_with("gc/") {
            let parts = [0..150, 150..200].map(|range| Bytes::copy_from_slice(&whole[range])).to_vec();
            let rewrite = async {
                let mut writer = BlobWriter::new(&recut);
                writer.write_parts(parts).await?;
                writer.finish().await
            };
            // Not here: an executor runs already.
            std::thread::scope(|scope| scope.spawn(|| block_on(rewrite)).join().unwrap()).unwrap();
        }
        Fate::Pass
    });
    block_on(collect(&store, &clock)).unwrap();
    assert_eq!(block_on(inner.get_artifact(&digest)).unwrap().len(), 200);
}

fn make_old(dir: &Path, key: &str, hours: u64) {
    let at = SystemTime::now() - Duration::from_secs(hours * 3600);
    File::options().write(true).open(dir.join(key)).unwrap().set_modified(at).unwrap();
}

#[test]
fn writing_an_artifact_again_makes_an_old_one_young_and_leaves_a_young_one_alone() {
    let dir = tempfile::tempdir().unwrap();
    let store = LocalStore::open(dir.path()).unwrap();
    let key = artifact_key(&block_on(store.put_artifact("weights".into())).unwrap());
    let age = || chrono::Utc::now() - block_on(store.head(&key)).unwrap().modified;
    for (hours, expected) in [(11, 11), (13, 0), (100, 0)] {
        make_old(dir.path(), &key, hours);
        block_on(store.put_artifact("weights".into())).unwrap();
        assert_eq!(age().num_hours(), expected, "was {hours} hours old");
    }
}

#[test]
fn an_old_artifact_that_is_written_again_without_a_lease_survives_a_collection_at_the_same_time() {
    let mut deleted = 0;
    for seed in 0..60 {
        let dir = tempfile::tempdir().unwrap();
        let inner = LocalStore::open(dir.path()).unwrap();
        let key = artifact_key(&block_on(inner.put_artifact("weights".into())).unwrap());
        make_old(dir.path(), &key, 30);
        let store: Arc<dyn ArtifactStore> = Probe::new(inner.clone(), |_, _, _| Fate::Pass);
        let collector = Collector::builder(Arc::clone(&store)).roots(Rows(Arc::clone(&store))).build().unwrap();
        let collected = std::cell::Cell::new(0);
        let mut dice = Dice::new(seed);
        // The collector lists all prefixes before it comes to the point: the writer starts about then.
        let start = seed;
        let written = async {
            for _ in 0..start {
                futures::pending!();
            }
            store.put_artifact("weights".into()).await.unwrap();
        };
        let tasks: Vec<Task<'_>> =
            vec![Box::pin(async { collected.set(collector.collect().await.unwrap().deleted) }), Box::pin(written)];
        interleave(tasks, &mut dice, |_, _| ());
        assert_eq!(block_on(inner.get(&key)).unwrap(), "weights", "seed {seed}");
        deleted += collected.get();
    }
    assert!(deleted > 0 && deleted < 60, "both orders occur: {deleted}");
}

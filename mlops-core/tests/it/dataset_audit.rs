//! A change of a dataset and its audit entry, through crashes between the two; and commits that are late.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use async_trait::async_trait;
use mlops_core::audit::{AuditEntry, AuditEvent, AuditLog, AuditLogExt, MemoryAuditLog};
use mlops_core::dataset::{DatasetStore, DatasetStoreExt, MoveTag, NewDataset, ParquetDatasets, Removal};
use mlops_core::store::{ArtifactStore, Collector, MemoryStore};
use mlops_core::{Clock as _, Digest, Error, ManualClock, Result, SystemClock};

use crate::probe::{Dice, Fate, Probe};

fn rows(ids: std::ops::Range<i64>) -> RecordBatch {
    let id: ArrayRef = Arc::new(Int64Array::from_iter_values(ids));
    RecordBatch::try_from_iter([("id", id)]).unwrap()
}

fn first() -> NewDataset {
    NewDataset::new("d", [rows(0..5)])
        .author("ana")
        .source("feed")
        .at("1997-01-01T00:00:00.123456789Z".parse().unwrap())
}

async fn told(log: &MemoryAuditLog) -> Vec<String> {
    let entries = log.all_entries().await.unwrap();
    entries.iter().map(|e| format!("{} {}", e.event.actor, e.event.action)).collect()
}

/// Commits, tags, moves the tag away and removes; how far it came.
async fn history(store: &ParquetDatasets) -> Result<()> {
    let at = "1997-01-02T00:00:00Z".parse().unwrap();
    let version = store.commit(first()).await?;
    let next = store.commit(NewDataset::new("d", [rows(5..9)]).author("bob").append_to(&version).at(at)).await?;
    store.tag(MoveTag::create("gold", &version).by("rita").at(at)).await?;
    store.tag(MoveTag::create("gold", &next).from(&version).by("rita").at(at)).await?;
    store.remove(&version, Removal { reason: "no use".into(), by: "adam".into(), at }).await
}

/// What the log must say, by what is in the store, where the first version has that digest.
async fn shown(store: &ParquetDatasets, first: Digest) -> BTreeSet<String> {
    let mut shown = BTreeSet::new();
    let versions = store.versions("d").await.unwrap();
    shown.extend(versions.iter().map(|version| format!("dataset.commit {}", version.digest)));
    for tag in store.tags("d").await.unwrap() {
        shown.extend((1..tag.revision).map(|_| format!("dataset.tag {first}")));
        shown.insert(format!("dataset.tag {}", tag.version.unwrap()));
    }
    match store.version("d", &first).await {
        Err(error) if error.to_string().contains("removed on") => {
            shown.insert(format!("dataset.commit {first}"));
            shown.insert(format!("dataset.remove {first}"));
        }
        _ => {}
    }
    shown
}

fn said(entries: &[AuditEntry]) -> BTreeSet<String> {
    let said = entries.iter().map(|entry| {
        let AuditEvent { action, before, after, .. } = &entry.event;
        let digest = [after, before][usize::from(after.is_null())].get("version").unwrap();
        format!("{action} {}", digest.as_str().unwrap())
    });
    said.collect()
}

/// A log that fails from some append on, that one before or after it took effect.
#[derive(Clone, Debug, Default)]
struct Flaky {
    log: MemoryAuditLog,
    appends: Arc<AtomicU64>,
    last: Option<(u64, Fate)>,
    broken: Arc<AtomicBool>,
}

impl fmt::Display for Flaky {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("flaky")
    }
}

#[async_trait]
impl AuditLog for Flaky {
    async fn append(&self, event: AuditEvent) -> Result<AuditEntry> {
        let number = self.appends.fetch_add(1, Ordering::SeqCst);
        let down = || Error::invalid("audit log", "down");
        match self.last {
            Some((last, Fate::Unanswered)) if number == last => self.log.append(event).await.and(Err(down())),
            Some((last, _)) if number >= last => Err(down()),
            _ if self.broken.load(Ordering::SeqCst) => Err(down()),
            _ => self.log.append(event).await,
        }
    }

    async fn entries(&self, from: u64, limit: usize) -> Result<Vec<AuditEntry>> {
        self.log.entries(from, limit).await
    }
}

/// An event without the id of its removal, which is another each time.
fn plain(event: &AuditEvent) -> AuditEvent {
    let mut event = event.clone();
    if let Some(before) = event.before.as_object_mut() {
        before.remove("removal");
    }
    event
}

/// A store, or a log, that breaks at any one of its calls, before or after the call took effect, and from then on: a
/// crash. Whatever had happened by then is in the log once it is reconciled, once, and nothing else.
#[tokio::test]
async fn after_a_crash_at_any_call_the_log_says_what_the_store_shows() {
    let quiet = Probe::new(MemoryStore::default(), |_, _, _| Fate::Pass);
    let whole = MemoryAuditLog::default();
    history(&ParquetDatasets::new(Arc::clone(&quiet)).audit(whole.clone())).await.unwrap();
    let expected =
        ["ana dataset.commit", "bob dataset.commit", "rita dataset.tag", "rita dataset.tag", "adam dataset.remove"];
    assert_eq!(told(&whole).await, expected);
    let whole = whole.all_entries().await.unwrap();
    let first_digest = ParquetDatasets::new(MemoryStore::default()).commit(first()).await.unwrap().digest;
    let mut repaired = 0;
    let of_store = (0..quiet.calls()).map(|call| (call, u64::MAX));
    let of_log = (0..whole.len() as u64).map(|append| (u64::MAX, append));
    for (call, append) in of_store.chain(of_log) {
        for fate in [Fate::Broken, Fate::Unanswered] {
            let memory = MemoryStore::default();
            let log = Flaky { last: Some((append, fate)), ..Flaky::default() };
            let appends = Arc::clone(&log.appends);
            let broken = Probe::new(memory.clone(), move |number, _, _| match number {
                number if number == call => fate,
                number if number > call || appends.load(Ordering::SeqCst) > append => Fate::Broken,
                _ => Fate::Pass,
            });
            let outcome = history(&ParquetDatasets::new(broken).audit(log.clone())).await;
            let log = log.log;
            let before = log.all_entries().await.unwrap();
            let store = ParquetDatasets::new(memory).audit(log.clone());
            let found = store.reconcile_audit().await.unwrap();
            let entries = log.all_entries().await.unwrap();
            let what = format!("{fate:?} at call {call}, append {append}: {outcome:?}, {found} found");
            assert_eq!(entries[..before.len()], before, "{what}");
            assert_eq!(said(&entries), shown(&store, first_digest).await, "{what}");
            assert_eq!(said(&entries).len(), entries.len(), "{what}: an entry stands twice");
            for entry in &entries {
                let meant = whole.iter().any(|other| plain(&other.event) == plain(&entry.event));
                assert!(meant, "{what}: not as it was meant: {entry}");
            }
            repaired += entries.len() - before.len();
            assert_eq!(store.reconcile_audit().await.unwrap(), 0, "{what}");
        }
    }
    // Between a removal and its entry it is looked for tags, in two calls, and the lease is released.
    assert_eq!(repaired, 10 + 6, "each change was caught twice: its answer lost, and before its entry");
}

#[tokio::test]
async fn the_next_change_of_a_dataset_records_the_one_that_a_crash_left_out() {
    let memory = MemoryStore::default();
    let flaky = Flaky::default();
    let store = ParquetDatasets::new(memory.clone()).audit(flaky.clone());
    flaky.broken.store(true, Ordering::SeqCst);
    store.commit(first()).await.unwrap_err();
    let version = store.versions("d").await.unwrap().remove(0);
    // While it cannot be recorded, nothing else happens to that dataset; to others it does.
    store.tag(MoveTag::create("gold", &version).by("rita")).await.unwrap_err();
    assert!(store.tags("d").await.unwrap().is_empty());
    flaky.broken.store(false, Ordering::SeqCst);
    store.commit(NewDataset::new("e", [rows(0..1)]).author("bob")).await.unwrap();
    assert_eq!(told(&flaky.log).await, ["bob dataset.commit"]);
    store.tag(MoveTag::create("gold", &version).by("rita")).await.unwrap();
    assert_eq!(told(&flaky.log).await, ["bob dataset.commit", "ana dataset.commit", "rita dataset.tag"]);
    assert!(memory.list("pending/").await.unwrap().is_empty(), "nothing is left to do");

    let without = ParquetDatasets::new(memory).reconcile_audit().await.unwrap_err().to_string();
    assert_eq!(without, "invalid audit: there is no log: give one to `ParquetDatasets::audit`");
}

#[tokio::test]
async fn a_removal_by_a_process_without_a_log_leaves_the_commit_to_be_recorded() {
    let memory = MemoryStore::default();
    let flaky = Flaky::default();
    let store = ParquetDatasets::new(memory.clone()).audit(flaky.clone());
    flaky.broken.store(true, Ordering::SeqCst);
    store.commit(first()).await.unwrap_err();
    let silent = ParquetDatasets::new(memory);
    let version = silent.versions("d").await.unwrap().remove(0);
    let removal = Removal { reason: "no use".into(), by: "eve".into(), at: version.created_at };
    silent.remove(&version, removal).await.unwrap();
    flaky.broken.store(false, Ordering::SeqCst);
    assert_eq!(store.reconcile_audit().await.unwrap(), 1);
    assert_eq!(told(&flaky.log).await, ["ana dataset.commit"]);
}

/// A version comes back; while its commit is under way, another process catches up, and then the commit crashes.
#[tokio::test]
async fn catching_up_leaves_a_commit_that_is_under_way_to_be_recorded() {
    let memory = MemoryStore::default();
    let flaky = Flaky::default();
    let whole = ParquetDatasets::new(memory.clone()).audit(flaky.log.clone());
    let version = whole.commit(first()).await.unwrap();
    let removal = Removal { reason: "no use".into(), by: "adam".into(), at: version.created_at };
    whole.remove(&version, removal).await.unwrap();
    let other = whole.clone();
    let slow = Probe::new(memory, move |_, operation, key| {
        if operation == "put" && key.starts_with("datasets/") {
            meanwhile(other.reconcile_audit()).unwrap();
        }
        Fate::Pass
    });
    flaky.broken.store(true, Ordering::SeqCst);
    ParquetDatasets::new(slow).audit(flaky.clone()).commit(first().author("bob")).await.unwrap_err();
    whole.reconcile_audit().await.unwrap();
    assert_eq!(told(&flaky.log).await, ["ana dataset.commit", "adam dataset.remove", "bob dataset.commit"]);
}

#[tokio::test]
async fn a_version_that_is_removed_twice_has_an_entry_for_each_that_changed_something() {
    let log = MemoryAuditLog::default();
    let store = ParquetDatasets::new(MemoryStore::default()).audit(log.clone());
    let removal = |by: &str, at: &str| Removal { reason: "no use".into(), by: by.into(), at: at.parse().unwrap() };
    let version = store.commit(first()).await.unwrap();
    store.remove(&version, removal("adam", "1997-01-02T00:00:00Z")).await.unwrap();
    store.remove(&version, removal("eve", "1997-01-03T00:00:00Z")).await.unwrap();
    store.commit(first().author("bob").at("1997-01-04T00:00:00Z".parse().unwrap())).await.unwrap();
    store.remove(&version, removal("eve", "1997-01-05T00:00:00Z")).await.unwrap();
    let expected = ["ana dataset.commit", "adam dataset.remove", "bob dataset.commit", "eve dataset.remove"];
    assert_eq!(told(&log).await, expected);
    let gone = store.version("d", &version.digest).await.unwrap_err().to_string();
    assert!(gone.contains("by eve"), "the last removal is the one that is told: {gone}");
    let mut never = version.clone();
    never.name = "never".to_owned();
    let missing = store.remove(&never, removal("eve", "1997-01-05T00:00:00Z")).await;
    assert!(matches!(missing, Err(Error::NotFound { .. })), "{missing:?}");
}

#[tokio::test]
async fn a_change_that_was_announced_and_never_made_is_forgotten_after_a_day() {
    let memory = MemoryStore::default();
    let clock = ManualClock::at(SystemClock.now());
    let log = MemoryAuditLog::default();
    let broken = Probe::new(memory.clone(), |_, operation, key| match (operation, key.starts_with("datasets/")) {
        ("put", true) => Fate::Broken,
        _ => Fate::Pass,
    });
    ParquetDatasets::new(broken).clock(clock.clone()).audit(log.clone()).commit(first()).await.unwrap_err();
    let store = ParquetDatasets::new(memory.clone()).clock(clock.clone()).audit(log.clone());
    for (hours, left) in [(0, 1), (23, 1), (2, 0)] {
        clock.advance(Duration::from_secs(hours * 3_600));
        assert_eq!(store.reconcile_audit().await.unwrap(), 0);
        assert_eq!(memory.list("pending/").await.unwrap().len(), left);
    }
    assert!(told(&log).await.is_empty());
}

/// Runs to its end in the midst of another call.
fn meanwhile<T: Send>(what: impl Future<Output = T> + Send) -> T {
    std::thread::scope(|scope| scope.spawn(|| futures::executor::block_on(what)).join().unwrap())
}

/// A commit whose lease is over by the time that its manifest arrives. `before` happens just before the manifest is
/// written, `after` with the first call after that which `is_next`. What comes of the commit, and the store.
async fn late(
    before: impl Fn(&MemoryStore, &ManualClock) + Send + Sync + 'static,
    is_next: impl Fn(&str, &str) -> bool + Send + Sync + 'static,
    after: impl Fn(&MemoryStore, &ManualClock) + Send + Sync + 'static,
) -> (Result<mlops_core::dataset::DatasetVersion>, ParquetDatasets) {
    let memory = MemoryStore::default();
    let clock = ManualClock::at(SystemClock.now());
    let (stage, time, under) = (std::sync::Mutex::new(0), clock.clone(), memory.clone());
    let slow = Probe::new(memory.clone(), move |_, operation, key| {
        let mut stage = stage.lock().unwrap();
        match *stage {
            0 if operation == "put" && key.starts_with("datasets/") => {
                *stage = 1;
                time.advance(Duration::from_secs(3_600));
                before(&under, &time);
            }
            1 if is_next(operation, key) => {
                *stage = 2;
                after(&under, &time);
            }
            _ => {}
        }
        Fate::Pass
    });
    let outcome = ParquetDatasets::new(slow).clock(clock.clone()).commit(first()).await;
    (outcome, ParquetDatasets::new(memory).clock(clock))
}

/// Another process commits the same version, and is told that it is kept.
fn commits_too(memory: &MemoryStore, clock: &ManualClock) {
    let store = ParquetDatasets::new(memory.clone()).clock(clock.clone());
    meanwhile(store.commit(first().author("bob"))).unwrap();
}

/// A collection that takes all that no manifest names.
fn collects(memory: &MemoryStore, clock: &ManualClock) {
    let store: Arc<dyn ArtifactStore> = Arc::new(memory.clone());
    let roots = ParquetDatasets::new(memory.clone()).clock(clock.clone());
    let collector = Collector::builder(store).roots(roots).grace(Duration::ZERO).clock(clock.clone()).hurry();
    assert!(meanwhile(collector.build().unwrap().collect()).unwrap().deleted > 0);
}

#[tokio::test]
async fn a_late_commit_does_not_take_away_what_another_has_acknowledged() {
    let (outcome, store) = late(|_, _| {}, |_, _| true, commits_too).await;
    let version = outcome.unwrap();
    assert_eq!(store.read_all(&store.version("d", &version.digest).await.unwrap()).await.unwrap(), rows(0..5));
}

#[tokio::test]
async fn a_late_commit_whose_files_were_collected_is_withdrawn() {
    let (outcome, store) = late(collects, |_, _| false, |_, _| {}).await;
    let error = outcome.unwrap_err();
    assert!(error.is_retryable(), "{error:?}");
    assert!(store.versions("d").await.unwrap().is_empty(), "nothing is listed that cannot be read");
    let again = store.commit(first()).await.unwrap();
    assert_eq!(store.read_all(&again).await.unwrap(), rows(0..5));
}

#[tokio::test]
async fn a_late_commit_whose_files_another_wrote_anew_stays() {
    let is_lock = |operation: &str, key: &str| operation == "put" && key.starts_with("gc/");
    for is_next in [(|_, _| true) as fn(&str, &str) -> bool, is_lock] {
        let (outcome, store) = late(collects, is_next, commits_too).await;
        let version = outcome.unwrap();
        assert_eq!(store.read_all(&version).await.unwrap(), rows(0..5));
        assert_eq!(store.versions("d").await.unwrap(), [version]);
    }
}

#[tokio::test]
async fn many_late_commits_of_one_version_lose_none_that_was_acknowledged() {
    let mut acknowledged = 0;
    for seed in 1..40 {
        let memory = MemoryStore::default();
        let clock = ManualClock::at(SystemClock.now());
        let time = clock.clone();
        let dice = std::sync::Mutex::new(Dice::new(seed));
        // Now and then a write takes three minutes, and that of a manifest more often.
        let slow = Probe::new(memory.clone(), move |_, operation, key| {
            let odds = if key.starts_with("datasets/") { 2 } else { 12 };
            if operation == "put" && dice.lock().unwrap().roll(odds) == 0 {
                time.advance(Duration::from_secs(180));
            }
            Fate::Pass
        });
        let store = ParquetDatasets::new(slow).clock(clock.clone());
        let outcomes = futures::future::join_all((0..6).map(|_| store.commit(first()))).await;
        let kept = ParquetDatasets::new(memory).clock(clock);
        for version in outcomes.into_iter().flatten() {
            let found = kept.version("d", &version.digest).await.unwrap();
            assert_eq!(kept.read_all(&found).await.unwrap(), rows(0..5));
            acknowledged += 1;
        }
    }
    assert!(acknowledged > 50, "{acknowledged}");
}

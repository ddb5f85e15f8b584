//! Manifests of dataset versions: damage anywhere in one is seen, strangers beside them are passed over, and those of
//! earlier formats are read.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::datatypes::Int64Type;
use mlops_core::audit::MemoryAuditLog;
use mlops_core::dataset::{
    DatasetStore, DatasetStoreExt, Erasure, MoveTag, NewDataset, ParquetDatasets, Retention, Scan, col, diff, erase,
    retain,
};
use mlops_core::lineage::MemoryLineage;
use mlops_core::store::{ArtifactStore, ArtifactStoreExt, MemoryStore, PutMode, Roots};
use mlops_core::{Clock as _, Digest, Error, ManualClock, SystemClock};

use crate::probe::{Fate, Probe};

fn rows(ids: std::ops::Range<i64>) -> RecordBatch {
    let id: ArrayRef = Arc::new(Int64Array::from_iter_values(ids));
    RecordBatch::try_from_iter([("id", id)]).unwrap()
}

async fn overwrite(store: &MemoryStore, key: &str, data: impl Into<bytes::Bytes>) {
    store.put_opts(key, data.into(), PutMode::Overwrite).await.unwrap();
}

#[tokio::test]
async fn a_flipped_bit_anywhere_in_a_manifest_is_seen() {
    let inner = MemoryStore::default();
    let store = ParquetDatasets::new(inner.clone());
    let version = store.commit(NewDataset::new("d", [rows(0..100)]).source("feed").author("ana")).await.unwrap();
    let key = format!("datasets/d/{}", version.digest);
    let whole = inner.get(&key).await.unwrap();
    let kept = store.version("d", &version.digest).await.unwrap();
    let mut unseen = BTreeSet::new();
    for bit in 0..whole.len() * 8 {
        let mut damaged = whole.to_vec();
        damaged[bit / 8] ^= 1 << (bit % 8);
        overwrite(&inner, &key, damaged).await;
        if store.version("d", &version.digest).await.is_ok_and(|found| found != kept) {
            unseen.insert(bit / 8);
        }
    }
    let shown: Vec<_> = unseen.iter().map(|at| char::from(whole[*at])).collect();
    assert!(unseen.is_empty(), "{} bytes may be anything: {shown:?} of {whole:?}", unseen.len());
}

/// Wrong bounds would make scans pass over rows, and an erasure report that there are none.
#[tokio::test]
async fn edited_statistics_are_corrupt() {
    let inner = MemoryStore::default();
    let store = ParquetDatasets::new(inner.clone());
    let version = store.commit(NewDataset::new("d", [rows(0..100)])).await.unwrap();
    let key = format!("datasets/d/{}", version.digest);
    let manifest = String::from_utf8(inner.get(&key).await.unwrap().to_vec()).unwrap();
    assert!(manifest.contains(r#""max":{"int":99}"#), "{manifest}");
    overwrite(&inner, &key, manifest.replace(r#""max":{"int":99}"#, r#""max":{"int":9}"#)).await;
    assert!(matches!(store.version("d", &version.digest).await, Err(Error::Corrupt { .. })));
    let (lineage, audit) = (MemoryLineage::default(), MemoryAuditLog::default());
    let erasure = Erasure::new("id", [50], "dpo", SystemClock.now());
    assert!(erase(&store, &lineage, &audit, &erasure).await.is_err());
}

#[tokio::test]
async fn a_manifest_of_another_dataset_is_no_version_of_this_one() {
    let inner = MemoryStore::default();
    let store = ParquetDatasets::new(inner.clone());
    let version = store.commit(NewDataset::new("d", [rows(0..10)])).await.unwrap();
    let manifest = inner.get(&format!("datasets/d/{}", version.digest)).await.unwrap();
    overwrite(&inner, &format!("datasets/e/{}", version.digest), manifest).await;
    assert!(store.version("e", &version.digest).await.is_err());
}

#[tokio::test]
async fn sketches_of_other_columns_are_an_error() {
    let inner = MemoryStore::default();
    let store = ParquetDatasets::new(inner.clone());
    let mut version = store.commit(NewDataset::new("d", [rows(0..10)])).await.unwrap();
    version.sketches = Some(inner.put_artifact("[]".into()).await.unwrap());
    assert!(store.sketches(&version).await.is_err());
    assert!(diff(&store, &version, &version, &[]).await.is_err());
}

#[tokio::test]
async fn objects_that_are_no_manifests_are_passed_over() {
    let inner = MemoryStore::default();
    let store = ParquetDatasets::new(inner.clone());
    let version = store.commit(NewDataset::new("d", [rows(0..10)])).await.unwrap();
    store.tag(MoveTag::create("gold", &version)).await.unwrap();
    for key in ["datasets/d/.DS_Store", "datasets/.DS_Store", "datasets/d/a/b", "tags/d/.DS_Store", "tags/d/gold/.x"] {
        overwrite(&inner, key, "no manifest").await;
    }
    assert_eq!(store.versions("d").await.unwrap().len(), 1);
    assert_eq!(store.names().await.unwrap(), ["d"]);
    assert_eq!(store.open("d").await.unwrap().digest, version.digest);
    assert_eq!(store.open("d@gold").await.unwrap().digest, version.digest);
    assert_eq!(store.tags("d").await.unwrap().len(), 1);
    store.tag(MoveTag::remove("gold", &version)).await.unwrap();
    let mut live = BTreeSet::new();
    store.live(&mut live).await.unwrap();
    assert!(live.contains(&version.schema));
}

/// What [`MoveTag`] and [`NewDataset`] are not told, the store's clock tells.
#[tokio::test]
async fn the_stores_clock_tells_which_version_is_newest() {
    let clock = ManualClock::at("2026-11-25T12:00:00Z".parse().unwrap());
    let store = ParquetDatasets::new(MemoryStore::default()).clock(clock.clone());
    let lineage = MemoryLineage::default();
    let mut expected = Vec::new();
    for n in 0..6 {
        clock.advance(Duration::from_secs(60));
        let version = store.commit(NewDataset::new("d", [rows(n..n + 1)])).await.unwrap();
        assert_eq!(version.created_at, clock.now());
        assert_eq!(store.open("d").await.unwrap().digest, version.digest, "after {n}");
        let tag = store.tag(MoveTag::create(format!("t{n}"), &version)).await.unwrap();
        assert_eq!(tag.at, clock.now());
        store.tag(MoveTag::remove(format!("t{n}"), &version)).await.unwrap();
        expected.push(version.digest);
    }
    let policy = Retention::default().keep_last(2).keep_for(chrono::TimeDelta::zero());
    retain(&store, &lineage, "d", &policy, "ana", clock.now() + Duration::from_secs(60)).await.unwrap();
    let left: Vec<Digest> = store.versions("d").await.unwrap().iter().map(|v| v.digest).collect();
    assert_eq!(left, expected[4..]);
}

/// Versions of one moment are listed in the order they were made from each other.
#[tokio::test]
async fn a_version_is_listed_after_the_one_it_was_made_from() {
    let clock = ManualClock::at("2026-11-25T12:00:00Z".parse().unwrap());
    let store = ParquetDatasets::new(MemoryStore::default()).clock(clock);
    let mut expected = vec![store.commit(NewDataset::new("d", [rows(0..1)])).await.unwrap()];
    for n in 1..8 {
        let new = NewDataset::new("d", [rows(n..n + 1)]).append_to(&expected[expected.len() - 1]);
        expected.push(store.commit(new).await.unwrap());
    }
    let digests =
        |versions: &[mlops_core::dataset::DatasetVersion]| versions.iter().map(|v| v.digest).collect::<Vec<_>>();
    assert_eq!(digests(&store.versions("d").await.unwrap()), digests(&expected));
}

#[tokio::test]
async fn a_collection_reads_each_manifest_once() {
    let reads = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&reads);
    let probe = Probe::new(MemoryStore::default(), move |_, operation, key| {
        if operation == "get" && key.starts_with("datasets/") {
            counted.fetch_add(1, Ordering::SeqCst);
        }
        Fate::Pass
    });
    // Ahead, so that what is written was written long enough ago to look different should it change.
    let clock = ManualClock::at(SystemClock.now() + Duration::from_secs(3_600));
    let store = ParquetDatasets::new(probe).clock(clock);
    let mut versions = Vec::new();
    for n in 0..40 {
        versions.push(store.commit(NewDataset::new("d", [rows(n..n + 1)])).await.unwrap());
    }
    reads.store(0, Ordering::SeqCst);
    let (mut first, mut second) = (BTreeSet::new(), BTreeSet::new());
    store.live(&mut first).await.unwrap();
    assert_eq!(reads.load(Ordering::SeqCst), 40);
    store.remove(&versions[7], removal()).await.unwrap();
    reads.store(0, Ordering::SeqCst);
    store.clone().live(&mut second).await.unwrap();
    assert_eq!(reads.load(Ordering::SeqCst), 0, "manifests were read again");
    assert!(versions.iter().all(|v| first.contains(&v.files[0].blob.digest)));
    assert!(!second.contains(&versions[7].files[0].blob.digest) && second.len() < first.len());
    assert!(second.contains(&versions[8].files[0].blob.digest));
}

fn removal() -> mlops_core::dataset::Removal {
    mlops_core::dataset::Removal { reason: "no use".into(), by: "adam".into(), at: SystemClock.now() }
}

/// The files under `root`, as keys.
fn files(root: &Path) -> Vec<String> {
    let (mut found, mut waiting) = (Vec::new(), vec![root.to_owned()]);
    while let Some(folder) = waiting.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                waiting.push(path);
            } else {
                found.push(path.strip_prefix(root).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    found
}

/// `tests/golden/datasets_0_1` was written before manifests were sealed and sketches had a format; see its README.
#[tokio::test]
async fn a_store_of_the_first_format_is_read() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/datasets_0_1");
    let inner = MemoryStore::default();
    for key in files(&golden) {
        overwrite(&inner, &key, std::fs::read(golden.join(&key)).unwrap()).await;
    }
    let store = ParquetDatasets::new(inner.clone());
    let versions = store.versions("d").await.unwrap();
    let digests: Vec<String> = versions.iter().map(|v| v.digest.short()).collect();
    assert_eq!(digests, ["d3b98bc76b51", "a6e9204a291e"]);
    assert_eq!((versions[1].rows, &*versions[1].author), (250, "bob"));
    let (tagged, last) = (store.open("d@gold").await.unwrap(), &versions[1]);
    assert_eq!(tagged.digest, versions[0].digest);
    let read = store.read_all(last).await.unwrap();
    let ids: Vec<i64> = read.column(0).as_primitive::<Int64Type>().values().to_vec();
    assert_eq!(ids, (0..250).map(|i| (1 << 60) + i).collect::<Vec<i64>>());
    let few = store.select(last, Scan::all().filter(col("x").lt(1.0).and(col("s").is_null()))).await.unwrap();
    assert_eq!(few.num_rows(), 4);
    let more = store.commit(NewDataset::new("d", [read.slice(0, 50)]).append_to(last)).await.unwrap();
    assert_eq!((more.rows, more.stats[0].rows), (300, 300));
    // Its sketches took whole numbers for floats, of which there is one near 2^60: they are made anew.
    for (version, expected) in [(last, 250.0), (&more, 250.0)] {
        let (distinct, _) = store.sketches(version).await.unwrap()[0].distinct();
        assert!((distinct / expected - 1.0).abs() < 0.08, "{distinct}");
    }
}

/// A file whose bytes take an hour to come from the store, read for its statistics and once more for lost sketches.
#[tokio::test]
async fn a_commit_that_reads_for_long_keeps_its_lease() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d.csv");
    let mut text = String::from("id,noise\n");
    for i in 0..600_000u64 {
        text += &format!("{i},{}\n", i.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    }
    std::fs::write(&path, &text).unwrap();
    let clock = ManualClock::at(SystemClock.now());
    let slow = clock.clone();
    let inner = MemoryStore::default();
    let reads = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&reads);
    let probe = Probe::new(inner, move |_, operation, key| {
        if operation.starts_with("get") && key.starts_with("artifacts/") {
            counted.fetch_add(1, Ordering::SeqCst);
            slow.advance(Duration::from_secs(20));
        }
        Fate::Pass
    });
    let store = ParquetDatasets::new(probe).clock(clock.clone());
    let begin = clock.now();
    let version = store.commit(NewDataset::files("d", [&path])).await.unwrap();
    assert!(clock.now() - begin > chrono::TimeDelta::minutes(12), "{} in {reads:?} reads", clock.now() - begin);
    let mut lost = version.clone();
    lost.sketches = None;
    let more = store.read_all(&version).await.unwrap().slice(0, 1);
    let begin = clock.now();
    store.commit(NewDataset::new("d", [more]).append_to(&lost)).await.unwrap();
    assert!(clock.now() - begin > chrono::TimeDelta::minutes(12), "{}", clock.now() - begin);
}

//! Changes of one dataset by two at a time, in every order that a few hundred throws of the dice find.

use std::cell::RefCell;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use futures::executor::block_on;
use mlops_core::audit::MemoryAuditLog;
use mlops_core::clock::from_micros;
use mlops_core::dataset::{
    DatasetStore, DatasetStoreExt, DatasetVersion, Erasure, MoveTag, NewDataset, ParquetDatasets, Removal, Scan, Tag,
    col, erase,
};
use mlops_core::lineage::MemoryLineage;
use mlops_core::store::{ArtifactStore, MemoryStore};
use mlops_core::{Error, Result};

use crate::probe::{Dice, Fate, Probe, Task, interleave};

const SEEDS: u64 = 400;

fn rows(ids: &[i64]) -> RecordBatch {
    RecordBatch::try_from_iter([("id", Arc::new(Int64Array::from(ids.to_vec())) as ArrayRef)]).unwrap()
}

/// A store of one version, and the same store giving way before each call.
fn fresh() -> (ParquetDatasets, ParquetDatasets, DatasetVersion) {
    let memory: Arc<dyn ArtifactStore> = Arc::new(MemoryStore::default());
    let plain = ParquetDatasets::new(Arc::clone(&memory));
    let probed = ParquetDatasets::new(Probe::new(memory, |_, _, _| Fate::Pass));
    let version = block_on(plain.commit(NewDataset::new("d", [rows(&[1, 5])]))).unwrap();
    (plain, probed, version)
}

fn task<'a, T: 'a>(into: &'a RefCell<Option<T>>, work: impl Future<Output = T> + 'a) -> Task<'a> {
    Box::pin(async move {
        let outcome = work.await;
        *into.borrow_mut() = Some(outcome);
    })
}

#[test]
fn an_append_during_an_erasure_does_not_bring_the_rows_back() {
    let mut outcomes = [0, 0];
    for seed in 0..SEEDS {
        let (plain, probed, v1) = fresh();
        let (lineage, audit) = (MemoryLineage::default(), MemoryAuditLog::default());
        let erasure = Erasure::new("id", [5], "dpo", from_micros(1));
        let appended: RefCell<Option<Result<DatasetVersion>>> = RefCell::default();
        let erased = RefCell::default();
        let append = probed.commit(NewDataset::new("d", [rows(&[7])]).append_to(&v1));
        let tasks = vec![
            task(&appended, append),
            task(&erased, async { erase(&probed, &lineage, &audit, &erasure).await.map(drop) }),
        ];
        interleave(tasks, &mut Dice::new(seed), |_, _| {});
        erased.into_inner().unwrap().unwrap();
        let appended = appended.into_inner().unwrap();
        for version in block_on(plain.versions("d")).unwrap() {
            let found = block_on(plain.select(&version, Scan::all().filter(col("id").eq(5)))).unwrap();
            assert_eq!(found.num_rows(), 0, "seed {seed}: {version} has the row again; the append gave {appended:?}");
        }
        if appended.is_ok() {
            let newest = block_on(plain.open("d")).unwrap();
            let found = block_on(plain.select(&newest, Scan::all().filter(col("id").eq(7)))).unwrap();
            assert_eq!(found.num_rows(), 1, "seed {seed}: what was appended and acknowledged is gone");
        }
        outcomes[usize::from(appended.is_ok())] += 1;
    }
    assert!(outcomes.iter().all(|count| *count > 2), "{outcomes:?}");
}

#[test]
fn no_tag_is_left_on_a_version_that_is_removed_meanwhile() {
    let mut outcomes = [0, 0];
    for seed in 0..SEEDS {
        let (plain, probed, v1) = fresh();
        let tagged: RefCell<Option<Result<Tag>>> = RefCell::default();
        let removed: RefCell<Option<Result<()>>> = RefCell::default();
        let removal = Removal { reason: "no use".into(), by: "adam".into(), at: from_micros(1) };
        let tasks =
            vec![task(&tagged, probed.tag(MoveTag::create("gold", &v1))), task(&removed, probed.remove(&v1, removal))];
        interleave(tasks, &mut Dice::new(seed), |_, _| {});
        let (tagged, removed) = (tagged.into_inner().unwrap(), removed.into_inner().unwrap());
        let told = format!("seed {seed}: tag {tagged:?}, removal {removed:?}");
        let names = block_on(plain.tags("d")).unwrap();
        assert_eq!(names.len(), usize::from(tagged.is_ok()), "{told}");
        let there = block_on(plain.version("d", &v1.digest));
        assert_eq!(there.is_ok(), removed.is_err(), "{told}");
        assert!(tagged.is_err() || there.is_ok(), "{told}");
        assert!(!matches!(&tagged, Err(error) if !matches!(error, Error::NotFound { .. })), "{told}");
        outcomes[usize::from(removed.is_ok())] += 1;
    }
    assert!(outcomes.iter().all(|count| *count > 10), "{outcomes:?}");
}

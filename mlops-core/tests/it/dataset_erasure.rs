//! Erasure where it is easily missed: columns of other kinds, and versions that are not the newest.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use mlops_core::audit::{AuditLog, MemoryAuditLog};
use mlops_core::clock::from_micros;
use mlops_core::dataset::{
    DatasetStore, DatasetStoreExt, Erasure, MoveTag, NewDataset, ParquetDatasets, Scan, Value, col, erase,
};
use mlops_core::lineage::{Edge, LineageStore, MemoryLineage, NodeRef};
use mlops_core::store::MemoryStore;
use mlops_core::{DatasetRef, Timestamp};

fn at(day: i64) -> Timestamp {
    from_micros(day * 86_400_000_000)
}

fn batch(column: ArrayRef) -> RecordBatch {
    RecordBatch::try_from_iter([("user", column)]).unwrap()
}

fn numbers(ids: &[i64]) -> RecordBatch {
    batch(Arc::new(Int64Array::from(ids.to_vec())))
}

fn texts(ids: &[&str]) -> RecordBatch {
    batch(Arc::new(StringArray::from(ids.to_vec())))
}

#[tokio::test]
async fn a_value_that_cannot_be_compared_does_not_hide_the_others() {
    let store = ParquetDatasets::new(MemoryStore::default());
    let (lineage, audit) = (MemoryLineage::default(), MemoryAuditLog::default());
    let old = store.commit(NewDataset::new("d", [numbers(&[4, 5])]).at(at(1))).await.unwrap();
    let new = store.commit(NewDataset::new("d", [texts(&["5", "6"])]).parent(&old).at(at(2))).await.unwrap();
    let both = Erasure::new("user", [Value::Int(5), Value::from("5")], "dpo", at(3));
    let report = erase(&store, &lineage, &audit, &both).await.unwrap();
    let found: Vec<_> = report.contained.iter().map(|(version, rows)| (version.digest, *rows)).collect();
    assert_eq!(found, [(old.digest, 1), (new.digest, 1)], "{report}");
    assert_eq!(report.removed, [old.reference(), new.reference()]);
    assert!(report.unchecked.is_empty(), "{report}");
    let left = store.open("d").await.unwrap();
    assert_eq!(store.read_all(&left).await.unwrap(), texts(&["6"]));
}

#[tokio::test]
async fn versions_that_were_not_looked_through_are_named() {
    let store = ParquetDatasets::new(MemoryStore::default());
    let (lineage, audit) = (MemoryLineage::default(), MemoryAuditLog::default());
    let old = store.commit(NewDataset::new("d", [numbers(&[4, 5])]).at(at(1))).await.unwrap();
    let new = store.commit(NewDataset::new("d", [texts(&["5", "6"])]).parent(&old).at(at(2))).await.unwrap();
    let report = erase(&store, &lineage, &audit, &Erasure::new("user", [5], "dpo", at(3))).await.unwrap();
    assert_eq!(report.removed, [old.reference()]);
    let unchecked: Vec<&DatasetRef> = report.unchecked.iter().map(|unchecked| &unchecked.version).collect();
    assert_eq!(unchecked, [&new.reference()], "5 is in it as a text");
    assert!(report.to_string().contains("is Utf8"), "{report}");
    let entries = audit.entries(1, 10).await.unwrap();
    let named = format!("d@{}", new.digest);
    assert_eq!(entries.last().unwrap().event.after["unchecked"], serde_json::json!([named]));
    // A value that some version has in no form is no reason to doubt the others.
    let mixed = Erasure::new("user", [Value::from("6"), Value::from("five")], "dpo", at(4));
    let report = erase(&store, &lineage, &audit, &mixed).await.unwrap();
    assert!(report.unchecked.is_empty() && report.contained.len() == 1, "{report}");
}

#[tokio::test]
async fn the_newest_version_is_the_newest_still_after_an_erasure() {
    let store = ParquetDatasets::new(MemoryStore::default());
    let (lineage, audit) = (MemoryLineage::default(), MemoryAuditLog::default());
    let old = store.commit(NewDataset::new("d", [numbers(&[1, 5])]).at(at(1))).await.unwrap();
    let new = store.commit(NewDataset::new("d", [numbers(&[1, 2, 3])]).at(at(2))).await.unwrap();
    store.tag(MoveTag::create("gold", &old).at(at(2))).await.unwrap();
    let erasure = Erasure::new("user", [5], "dpo", at(3));
    erase(&store, &lineage, &audit, &erasure).await.unwrap();
    assert_eq!(store.open("d").await.unwrap().digest, new.digest);
    let gold = store.open("d@gold").await.unwrap();
    assert_eq!(store.read_all(&gold).await.unwrap(), numbers(&[1]));
    let then = format!("d@{}", at(1).to_rfc3339());
    assert_eq!(store.open(&then).await.unwrap().digest, gold.digest, "it is in the place of the one it follows");
}

/// A version that a model holds stays beside its successor, which has its time: the successor is the later one.
#[tokio::test]
async fn a_successor_comes_after_a_version_that_stays() {
    for round in 0..8 {
        let store = ParquetDatasets::new(MemoryStore::default());
        let (lineage, audit) = (MemoryLineage::default(), MemoryAuditLog::default());
        let held = store.commit(NewDataset::new("d", [numbers(&[round, 5, 9])]).at(at(1))).await.unwrap();
        let edge = Edge::new(NodeRef::dataset(&held.reference()), NodeRef::model("m", 1));
        lineage.record(&[], &[edge]).await.unwrap();
        let report = erase(&store, &lineage, &audit, &Erasure::new("user", [5], "dpo", at(3))).await.unwrap();
        assert_eq!(report.held.len(), 1);
        let newest = store.open("d").await.unwrap();
        assert_eq!(newest.parent, Some(held.reference()), "round {round}");
        let found = store.select(&newest, Scan::all().filter(col("user").eq(5))).await.unwrap();
        assert_eq!(found.num_rows(), 0, "round {round}");
    }
}

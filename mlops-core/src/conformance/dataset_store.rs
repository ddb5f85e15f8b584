//! The cases of [`dataset_store_conformance!`](crate::dataset_store_conformance).

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use futures::future::join_all;

use crate::clock::from_micros;
use crate::dataset::{DatasetStore, DatasetStoreExt, MoveTag, NewDataset, Removal, Scan, col};
use crate::lineage::{Edge, NodeRef};
use crate::{Digest, Error};

fn rows(values: [f64; 3]) -> RecordBatch {
    let columns: [(&str, ArrayRef); 3] = [
        ("x", Arc::new(Float64Array::from(values.to_vec()))),
        ("s", Arc::new(StringArray::from(vec!["a", "ß", ""]))),
        ("n", Arc::new(Int64Array::from(vec![Some(1), None, Some(-1)]))),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.map(|(name, array)| (name, array, name == "n"))).unwrap()
}

/// Contract: a version reads back the same rows, bit for bit, NaN and nulls included.
pub async fn rows_read_back_bit_for_bit(store: &dyn DatasetStore) {
    let first = rows([f64::NAN, -0.0, f64::MIN_POSITIVE / 2.0]);
    let second = rows([f64::INFINITY, 1.0, 2.0]);
    let new = NewDataset::new("d", [first.clone(), second.clone()]);
    let version = store.commit(new).await.unwrap();
    assert_eq!((version.rows, version.columns.len()), (6, 3), "{store}");
    let read = store.read_all(&version).await.unwrap();
    let bits = |batch: &RecordBatch| -> Vec<u64> {
        let column = batch.column(0).as_any().downcast_ref::<Float64Array>().unwrap();
        column.values().iter().map(|v| v.to_bits()).collect()
    };
    assert_eq!(bits(&read), [bits(&first), bits(&second)].concat(), "{store}");
    assert_eq!(read.slice(0, 3).columns()[1..], first.columns()[1..], "{store}");
    assert_eq!(read.schema(), first.schema(), "{store}");
}

/// Contract: equal rows with equal name, parent and source are one version, with its first author and time.
pub async fn equal_rows_are_one_version(store: &dyn DatasetStore) {
    let new = |author: &str, at| NewDataset::new("d", [rows([1., 2., 3.])]).author(author).at(from_micros(at));
    let first = store.commit(new("ana", 1)).await.unwrap();
    let again = store.commit(new("bob", 2)).await.unwrap();
    assert_eq!(first, again, "{store}");
    let long: Vec<f64> = (0..50_000).map(f64::from).collect();
    let long = RecordBatch::try_from_iter([("x", Arc::new(Float64Array::from(long)) as ArrayRef)]).unwrap();
    let whole = store.commit(NewDataset::new("long", [long.clone()])).await.unwrap();
    let cut = store.commit(NewDataset::new("long", [long.slice(0, 30_001), long.slice(30_001, 19_999)])).await.unwrap();
    assert_eq!(whole.digest, cut.digest, "{store}: however the rows are cut into batches");
    let other = store.commit(new("ana", 1).source("elsewhere")).await.unwrap();
    assert_ne!(first.digest, other.digest, "{store}");
    assert_eq!(store.versions("d").await.unwrap().len(), 2, "{store}");
}

/// Contract: versions are listed by time of commit; a name never committed has none.
pub async fn versions_are_listed_in_order(store: &dyn DatasetStore) {
    let mut expected = Vec::new();
    for (x, at) in [(1.0, 30), (2.0, 10), (3.0, 20)] {
        let new = NewDataset::new("d", [rows([x; 3])]).at(from_micros(at));
        expected.push(store.commit(new).await.unwrap());
    }
    expected.sort_by_key(|v| v.created_at);
    assert_eq!(store.versions("d").await.unwrap(), expected, "{store}");
    assert!(store.versions("never").await.unwrap().is_empty(), "{store}");
    for version in &expected {
        assert_eq!(store.version("d", &version.digest).await.unwrap(), *version, "{store}");
    }
}

/// Parent, source and author come back.
pub async fn parents_and_sources_are_kept(store: &dyn DatasetStore) {
    let v1 = store.commit(NewDataset::new("d", [rows([1.; 3])]).source("a.csv").author("ana")).await.unwrap();
    let v2 = store.commit(NewDataset::new("d", [rows([2.; 3])]).parent(&v1)).await.unwrap();
    let read = store.version("d", &v2.digest).await.unwrap();
    assert_eq!(read.parent, Some(v1.reference()), "{store}");
    let (node, edges) = read.lineage();
    assert_eq!(node.facts["rows"], "3", "{store}");
    assert_eq!(edges, [Edge::new(NodeRef::dataset(&v1.reference()), node.node)], "{store}");
    assert_eq!((&*v1.source, &*v1.author), ("a.csv", "ana"), "{store}");
}

/// Contract: missing versions are `NotFound`.
pub async fn missing_versions_are_not_found(store: &dyn DatasetStore) {
    let found = store.version("d", &Digest::of(b"none")).await;
    assert!(matches!(found, Err(Error::NotFound { .. })), "{store}");
}

/// Empty datasets, names that are not plain and batches that disagree are refused, naming what is wrong.
pub async fn what_cannot_be_kept_is_refused(store: &dyn DatasetStore) {
    let message = |new| async move { store.commit(new).await.unwrap_err().to_string() };
    assert!(message(NewDataset::new("d", [])).await.contains("no rows"), "{store}");
    assert!(message(NewDataset::new("d", [rows([1.; 3]).slice(0, 0)])).await.contains("no rows"), "{store}");
    assert!(message(NewDataset::new("../d", [rows([1.; 3])])).await.contains("dataset name"), "{store}");
    let other = rows([1.; 3]).project(&[0, 1]).unwrap();
    assert!(message(NewDataset::new("d", [rows([1.; 3]), other])).await.contains("\"n\""), "{store}");
    assert!(store.versions("d").await.unwrap().is_empty(), "{store}");
}
/// Contract: of two that move one tag from one version, one gets `Conflict`; a tag names what it was moved to last.
pub async fn tags_move_by_compare_and_swap(store: &dyn DatasetStore) {
    let mut versions = Vec::new();
    for x in [1., 2., 3.] {
        versions.push(store.commit(NewDataset::new("d", [rows([x; 3])])).await.unwrap());
    }
    let first = store.tag(MoveTag::create("gold", &versions[0]).by("ana").at(from_micros(7))).await.unwrap();
    assert_eq!((first.version, &*first.by, first.at), (Some(versions[0].digest), "ana", from_micros(7)), "{store}");
    let moves = versions[1..].iter().map(|to| store.tag(MoveTag::create("gold", to).from(&versions[0])));
    let outcomes = join_all(moves).await;
    let lost: Vec<&Error> = outcomes.iter().filter_map(|outcome| outcome.as_ref().err()).collect();
    assert!(matches!(lost[..], [Error::Conflict { .. }]), "{store}: {outcomes:?}");
    let won = outcomes.iter().flatten().next().unwrap();
    assert_eq!(store.tags("d").await.unwrap(), std::slice::from_ref(won), "{store}");
    let again = store.tag(MoveTag::create("gold", &versions[0])).await;
    assert!(matches!(again, Err(Error::Conflict { .. })), "{store}: it exists");
    let winner = store.open("d@gold").await.unwrap();
    store.tag(MoveTag::remove("gold", &winner)).await.unwrap();
    assert!(store.tags("d").await.unwrap().is_empty(), "{store}");
    assert!(store.tags("never").await.unwrap().is_empty(), "{store}");
}

/// Contract: a tag names a version that is there.
pub async fn a_version_that_is_missing_cannot_be_tagged(store: &dyn DatasetStore) {
    let mut version = store.commit(NewDataset::new("d", [rows([1.; 3])])).await.unwrap();
    version.digest = Digest::of(b"none");
    let refused = store.tag(MoveTag::create("gold", &version)).await;
    assert!(matches!(refused, Err(Error::NotFound { .. })), "{store}: {refused:?}");
    assert!(store.tags("d").await.unwrap().is_empty(), "{store}");
}

/// Contract: a removed version is not listed and `NotFound`; what it was and why it went stays. Others stay whole.
pub async fn removed_versions_are_gone_and_told_of(store: &dyn DatasetStore) {
    let v1 = store.commit(NewDataset::new("d", [rows([1.; 3])])).await.unwrap();
    let v2 = store.commit(NewDataset::new("d", [rows([2.; 3])]).append_to(&v1)).await.unwrap();
    let removal = Removal { reason: "no use".to_owned(), by: "adam".to_owned(), at: from_micros(1) };
    for _ in 0..2 {
        store.remove(&v1, removal.clone()).await.unwrap();
        let listed: Vec<Digest> = store.versions("d").await.unwrap().iter().map(|v| v.digest).collect();
        assert_eq!(listed, [v2.digest], "{store}: removing it again changes nothing");
    }
    let gone = store.version("d", &v1.digest).await.unwrap_err();
    let told = gone.to_string();
    assert!(matches!(gone, Error::NotFound { .. }) && told.contains("no use"), "{store}: {told}");
    assert_eq!(store.read_all(&v2).await.unwrap().num_rows(), 6, "{store}");
    let late = store.commit(NewDataset::new("d", [rows([3.; 3])]).append_to(&v1)).await;
    assert!(matches!(late, Err(Error::NotFound { .. })), "{store}: {late:?}");
}

/// Contract: a tagged version cannot be removed.
pub async fn tagged_versions_are_not_removed(store: &dyn DatasetStore) {
    let version = store.commit(NewDataset::new("d", [rows([1.; 3])])).await.unwrap();
    store.tag(MoveTag::create("gold", &version)).await.unwrap();
    let removal = Removal { reason: "no use".to_owned(), by: "adam".to_owned(), at: from_micros(1) };
    let refused = store.remove(&version, removal.clone()).await;
    assert!(matches!(refused, Err(Error::InvalidInput { .. })), "{store}: {refused:?}");
    assert_eq!(store.read_all(&version).await.unwrap().num_rows(), 3, "{store}");
    store.tag(MoveTag::remove("gold", &version)).await.unwrap();
    store.remove(&version, removal).await.unwrap();
    assert!(store.versions("d").await.unwrap().is_empty(), "{store}");
}

/// Contract: a commit that fails on its way leaves nothing.
pub async fn a_commit_that_fails_leaves_nothing(store: &dyn DatasetStore) {
    let batch = rows([1.; 3]);
    let broken = [Ok(batch.clone()), Err(Error::invalid("feed", "it broke"))];
    let new = NewDataset::stream("d", batch.schema(), futures::stream::iter(broken));
    assert!(store.commit(new).await.is_err(), "{store}");
    assert!(store.versions("d").await.unwrap().is_empty(), "{store}");
    assert!(store.names().await.unwrap().is_empty(), "{store}");
}

/// A scan gives the rows that pass and the columns asked for, in order, and its columns even where no row passes.
pub async fn scans_filter_and_project(store: &dyn DatasetStore) {
    let version = store.commit(NewDataset::new("d", [rows([1., 2., 3.])])).await.unwrap();
    let found = store.select(&version, Scan::all().filter(col("x").ge(2.0)).columns(["n", "s"])).await.unwrap();
    assert_eq!(found, rows([1., 2., 3.]).slice(1, 2).project(&[1, 2]).unwrap(), "{store}");
    let none = store.select(&version, Scan::all().filter(col("x").gt(9.0))).await.unwrap();
    assert_eq!((none.num_rows(), none.num_columns()), (0, 3), "{store}");
    let odd = store.scan(&version, Scan::all().columns(["nope"])).await.map(drop);
    assert!(matches!(odd, Err(Error::SchemaMismatch { .. })), "{store}: {odd:?}");
}

/// There is a sketch of each column, of all rows.
pub async fn sketches_are_of_all_rows(store: &dyn DatasetStore) {
    let v1 = store.commit(NewDataset::new("d", [rows([1., 2., 3.])])).await.unwrap();
    let v2 = store.commit(NewDataset::new("d", [rows([4., 5., 6.])]).append_to(&v1)).await.unwrap();
    let sketches = store.sketches(&v2).await.unwrap();
    assert_eq!(sketches.len(), 3, "{store}");
    assert_eq!((sketches[0].stats.rows, sketches[2].stats.nulls), (6, 2), "{store}");
    assert_eq!(sketches[0].quantile(1.0).unwrap(), Some(6.0), "{store}");
}

//! Dataset versions in Delta tables: the contract, numbers, what other readers see, tables of other writers, and files
//! that are gone.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Date32Array, Float64Array, Int64Array, LargeStringArray, RecordBatch,
    StringArray, TimestampMicrosecondArray, UInt8Array,
};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use chrono::TimeDelta;
use mlops_core::audit::{AuditLog, MemoryAuditLog};
use mlops_core::clock::from_micros;
use mlops_core::dataset::{
    DatasetStore, DatasetStoreExt, DatasetVersion, DeltaDatasets, Erasure, MoveTag, NewDataset, Removal, Retention,
    Scan, col, diff, erase, retain,
};
use mlops_core::lineage::MemoryLineage;
use mlops_core::{Error, Timestamp};
use parquet::arrow::ArrowWriter;
use serde_json::{Value, json};
use tempfile::TempDir;

fn local() -> (DeltaDatasets, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    (DeltaDatasets::open(dir.path()).unwrap(), dir)
}

fn memory() -> DeltaDatasets {
    DeltaDatasets::new(Arc::new(object_store::memory::InMemory::new()), "memory:///all/tables").unwrap()
}

mlops_core::dataset_store_conformance!(in_a_directory, local());
mlops_core::dataset_store_conformance!(in_memory, (memory(), ()));
mlops_core::dataset_store_conformance!(shared, (Arc::new(memory()) as Arc<dyn DatasetStore>, ()));

fn at(day: i64) -> Timestamp {
    from_micros(day * 86_400_000_000)
}

/// Rows with a key, its square or null, and one of three texts.
fn rows(ids: std::ops::Range<i64>) -> RecordBatch {
    let id: ArrayRef = Arc::new(Int64Array::from_iter_values(ids.clone()));
    let maybe: ArrayRef = Arc::new(Int64Array::from_iter(ids.clone().map(|i| (i % 3 > 0).then_some(i * i))));
    let day: ArrayRef = Arc::new(StringArray::from_iter_values(ids.map(|i| format!("day {}", i % 3))));
    RecordBatch::try_from_iter_with_nullable([("id", id, false), ("maybe", maybe, true), ("day", day, false)]).unwrap()
}

fn new(ids: std::ops::Range<i64>) -> NewDataset {
    NewDataset::new("d", [rows(ids)]).author("ana")
}

async fn ids(store: &dyn DatasetStore, version: &DatasetVersion, scan: Scan) -> Vec<i64> {
    let found = store.select(version, scan.columns(["id"])).await.unwrap();
    assert_eq!(found.num_columns(), 1);
    let mut ids = found.column(0).as_primitive::<Int64Type>().values().to_vec();
    ids.sort_unstable();
    ids
}

/// The actions of one version of a table.
fn actions(table: &Path, number: u64) -> Vec<Value> {
    let text = fs::read_to_string(table.join(format!("_delta_log/{number:020}.json"))).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn count(actions: &[Value], kind: &str) -> usize {
    actions.iter().filter(|action| action.get(kind).is_some()).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_tags_times_and_distances_find_versions() {
    let (store, dir) = local();
    let v0 = store.commit(new(0..10).source("a.csv").at(at(1))).await.unwrap();
    let v1 = store.commit(new(10..15).append_to(&v0).at(at(2))).await.unwrap();
    let v2 = store.commit(new(0..5).at(at(3))).await.unwrap();
    assert_eq!([v0.number, v1.number, v2.number], [Some(0), Some(1), Some(2)]);
    store.tag(MoveTag::create("gold", &v1).by("rita")).await.unwrap();
    // Another handle finds all in what is on disk.
    let store = DeltaDatasets::open(dir.path()).unwrap();
    for (spec, version) in
        [("d", &v2), ("d@v0", &v0), ("d@gold", &v1), ("d@gold~1", &v0), ("d@1970-01-03T12:00:00Z", &v1), ("d@v2", &v2)]
    {
        assert_eq!(store.open(spec).await.unwrap(), *version, "{spec}");
    }
    assert_eq!(store.open_number("d", 1).await.unwrap(), v1);
    assert!(matches!(store.open_number("d", 3).await, Err(Error::NotFound { .. })));
    assert!(matches!(store.open("d@v3").await, Err(Error::NotFound { .. })));
    assert_eq!(ids(&store, &v0, Scan::all()).await, (0..10).collect::<Vec<_>>());
    assert_eq!(ids(&store, &v1, Scan::all()).await, (0..15).collect::<Vec<_>>());
    assert_eq!(store.names().await.unwrap(), ["d"]);
    let told = diff(&store, &v0, &v1, &["id"]).await.unwrap().by_key.unwrap();
    assert_eq!((told.added, told.removed, told.changed, told.unchanged), (5, 0, 0, 10));
    // The log tells other readers what was done, and by whom.
    let log = actions(&dir.path().join("d"), 1);
    assert_eq!((count(&log, "add"), count(&log, "remove"), count(&log, "metaData")), (1, 0, 0));
    let info = &log.iter().find(|action| action.get("commitInfo").is_some()).unwrap()["commitInfo"];
    assert_eq!((&info["userName"], &info["mlops"]["digest"]), (&json!("ana"), &json!(v1.digest)));
    assert_eq!(info["mlops"]["parent"]["digest"], json!(v0.digest));
    let log = actions(&dir.path().join("d"), 2);
    assert_eq!((count(&log, "add"), count(&log, "remove")), (1, 2));
}

#[tokio::test]
async fn scans_give_what_a_filter_over_all_rows_gives_and_pass_over_files() {
    let (store, dir) = local();
    let v0 = store.commit(new(0..500)).await.unwrap();
    let v1 = store.commit(new(500..900).append_to(&v0)).await.unwrap();
    let keep = |passes: &dyn Fn(i64) -> bool| -> Vec<i64> { (0..900).filter(|&i| passes(i)).collect() };
    let found = async |filter| ids(&store, &v1, Scan::all().filter(filter).batch_rows(64)).await;
    assert_eq!(found(col("id").ge(490).and(col("id").lt(510))).await, keep(&|i| (490..510).contains(&i)));
    assert_eq!(found(col("maybe").is_null()).await, keep(&|i| i % 3 == 0));
    assert_eq!(found(col("day").eq("day 1").or(col("id").eq(0))).await, keep(&|i| i % 3 == 1 || i == 0));
    assert_eq!(found(col("id").gt(10_000)).await, [0i64; 0]);
    let error = store.scan(&v1, Scan::all().columns(["none"])).await.err().unwrap();
    assert!(matches!(error, Error::SchemaMismatch { .. }), "{error}");
    // With the first file gone, rows of the second can be read and those of the first cannot.
    fs::remove_file(dir.path().join("d").join(v1.files[0].path.as_ref().unwrap())).unwrap();
    assert_eq!(found(col("id").ge(500)).await.len(), 400);
    let error = store.read_all(&v1).await.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error}");
    assert!(error.to_string().contains("VACUUM") && error.to_string().contains("version 1 of its table"), "{error}");
}

#[tokio::test]
async fn partitions_are_the_tables_and_can_be_replaced() {
    let (store, dir) = local();
    let table = dir.path().join("d");
    let v0 = store.commit(new(0..30).partition_by(["day"])).await.unwrap();
    assert_eq!((v0.files.len(), v0.rows), (3, 30));
    let log = actions(&table, 0);
    let metadata = log.iter().find_map(|action| action.get("metaData")).unwrap();
    assert_eq!(metadata["partitionColumns"], json!(["day"]));
    let add = log.iter().find_map(|action| action.get("add")).unwrap();
    let stats: Value = serde_json::from_str(add["stats"].as_str().unwrap()).unwrap();
    assert_eq!((&add["partitionValues"]["day"], &stats["numRecords"]), (&json!("day 0"), &json!(10)));
    assert_eq!((&stats["minValues"]["id"], &stats["maxValues"]["id"]), (&json!(0), &json!(27)));
    assert_eq!((&stats["nullCount"]["maybe"], stats["nullCount"].get("day")), (&json!(10), None));
    let all = store.read_all(&v0).await.unwrap();
    assert_eq!((all.num_rows(), all.schema()), (30, rows(0..1).schema()));
    // Only the partition, which is in no file.
    let days = store.select(&v0, Scan::all().columns(["day"]).filter(col("day").eq("day 2"))).await.unwrap();
    assert!(days.num_rows() == 10 && days.column(0).as_string::<i32>().iter().all(|day| day == Some("day 2")));
    let replaced = rows(100..130).slice(0, 3);
    let one = arrow::compute::filter_record_batch(&replaced, &BooleanArray::from(vec![true, false, false])).unwrap();
    let v1 = store.commit(NewDataset::new("d", [one]).partition_by(["day"]).replace_partitions_of(&v0)).await.unwrap();
    let log = actions(&table, 1);
    assert_eq!((count(&log, "add"), count(&log, "remove")), (1, 1));
    let left: Vec<i64> = (0..30).filter(|i| i % 3 != 1).chain([100]).collect();
    assert_eq!(ids(&store, &v1, Scan::all()).await, left);
    assert_eq!(ids(&store, &v0, Scan::all()).await, (0..30).collect::<Vec<_>>());
    // Appending takes over the partitions; equal rows again are another file.
    let v2 = store.commit(new(0..30).append_to(&v1)).await.unwrap();
    let v3 = store.commit(new(0..30).append_to(&v2)).await.unwrap();
    assert_eq!((v2.files.len(), v3.files.len(), v3.rows), (6, 9, 21 + 60));
    assert_eq!(ids(&store, &v3, Scan::all()).await.len(), 81);
    let error = store.commit(new(0..3).partition_by(["id"]).append_to(&v3)).await.unwrap_err();
    assert!(error.to_string().contains("partitioned by [\"day\"]"), "{error}");
    let dates: ArrayRef = Arc::new(Date32Array::from(vec![Some(0), None, Some(20_000)]));
    let flags: ArrayRef = Arc::new(BooleanArray::from(vec![true, false, true]));
    let x: ArrayRef = Arc::new(Float64Array::from(vec![1.0, 2.0, 3.0]));
    let batch = RecordBatch::try_from_iter_with_nullable([("date", dates, true), ("f", flags, false), ("x", x, false)]);
    let batch = batch.unwrap();
    let version = store.commit(NewDataset::new("t", [batch.clone()]).partition_by(["date", "f"])).await.unwrap();
    let read = store.read_all(&version).await.unwrap();
    let sort = |b: &RecordBatch| arrow::compute::sort_to_indices(b.column(2), None, None).unwrap();
    assert_eq!(arrow::compute::take_record_batch(&read, &sort(&read)).unwrap(), batch);
    assert_eq!(store.select(&version, Scan::all().filter(col("date").eq(20_000))).await.unwrap().num_rows(), 1);
}

#[tokio::test]
async fn what_a_table_cannot_hold_is_refused_with_the_remedy() {
    let (store, dir) = local();
    let commit = async |columns: Vec<(&str, ArrayRef)>, by: &[&str]| {
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let new = NewDataset::new("d", [batch]).partition_by(by.iter().copied());
        store.commit(new).await.unwrap_err().to_string()
    };
    let bytes: ArrayRef = Arc::new(UInt8Array::from(vec![255]));
    assert!(commit(vec![("b", bytes)], &[]).await.contains("cast it to Int64"));
    let texts: ArrayRef = Arc::new(StringArray::from(vec!["", "a"]));
    let numbers: ArrayRef = Arc::new(Float64Array::from(vec![1.0, 2.0]));
    let two = || vec![("s", Arc::clone(&texts)), ("x", Arc::clone(&numbers))];
    assert!(commit(two(), &["s"]).await.contains("empty text"));
    assert!(commit(two(), &["x"]).await.contains("partition a Delta table by text"));
    assert!(commit(two(), &["s", "x"]).await.contains("\"x\""));
    assert!(commit(vec![("s", Arc::clone(&texts))], &["s"]).await.contains("names every column"));
    assert!(commit(vec![("a", Arc::clone(&numbers)), ("A", numbers)], &[]).await.contains("case only"));
    let error = store.commit(NewDataset::new("_mlops", [rows(0..1)])).await.unwrap_err();
    assert!(error.to_string().contains("dataset name"), "{error}");
    let csv = dir.path().join("x.csv");
    fs::write(&csv, "x\n1\n").unwrap();
    let error = store.commit(NewDataset::files("d", [csv])).await.unwrap_err();
    assert!(error.to_string().contains("commit the rows"), "{error}");
    assert!(store.versions("d").await.unwrap().is_empty());
    assert!(!dir.path().join("d/_delta_log").exists(), "nothing made a table");
    // Types that are wider in Arrow than in the table come back as they were.
    let long: ArrayRef = Arc::new(LargeStringArray::from(vec!["a"]));
    let time: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![1]).with_timezone("UTC"));
    let local: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![1]));
    let batch = RecordBatch::try_from_iter([("long", long), ("time", time), ("local", local)]).unwrap();
    let version = store.commit(NewDataset::new("wide", [batch.clone()])).await.unwrap();
    assert_eq!(store.read_all(&version).await.unwrap(), batch);
    // A table that was made without local times does not get them: its other readers may not know them.
    store.commit(new(0..3)).await.unwrap();
    let error = store.commit(NewDataset::new("d", [batch])).await.unwrap_err();
    assert!(error.to_string().contains("\"local\""), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_two_that_append_one_gets_a_conflict_and_rows_that_replace_all_do_not() {
    let (store, _dir) = local();
    let v0 = store.commit(new(0..10)).await.unwrap();
    let append = |ids: std::ops::Range<i64>| store.commit(new(ids).append_to(&v0));
    let (a, b) = tokio::join!(append(10..20), append(20..30));
    let (won, lost) = if a.is_ok() { (a, b) } else { (b, a) };
    let (won, lost) = (won.unwrap(), lost.unwrap_err());
    assert!(matches!(&lost, Error::Conflict { .. }), "{lost}");
    assert!(lost.to_string().contains("expected version 0, found version 1"), "{lost}");
    assert_eq!(store.read_all(&won).await.unwrap().num_rows(), 20);
    // The same rows again: what was committed, not a conflict.
    let again = if ids(&store, &won, Scan::all()).await.contains(&10) { 10..20 } else { 20..30 };
    assert_eq!(append(again).await.unwrap(), won);
    let all: Vec<_> = (0..8)
        .map(|i| {
            let store = store.clone();
            tokio::spawn(async move { store.commit(new(100 * i + 100..100 * i + 110).at(at(i))).await })
        })
        .collect();
    let mut numbers = Vec::new();
    for one in all {
        numbers.push(one.await.unwrap().unwrap().number.unwrap());
    }
    numbers.sort_unstable();
    assert_eq!(numbers, (2..10).collect::<Vec<_>>());
    assert_eq!(store.versions("d").await.unwrap().len(), 10);
    // Equal rows at one time are one version.
    let equal: Vec<_> = (0..6)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move { store.commit(NewDataset::new("e", [rows(0..9)])).await })
        })
        .collect();
    for one in equal {
        assert_eq!(one.await.unwrap().unwrap().number, Some(0));
    }
    assert_eq!(store.versions("e").await.unwrap().len(), 1);
}

#[tokio::test]
async fn columns_may_change_with_rows_that_replace_all() {
    let (store, _dir) = local();
    let v0 = store.commit(new(0..10)).await.unwrap();
    let x: ArrayRef = Arc::new(Float64Array::from(vec![0.5]));
    let other = RecordBatch::try_from_iter([("x", x)]).unwrap();
    let v1 = store.commit(NewDataset::new("d", [other.clone()]).parent(&v0)).await.unwrap();
    assert_eq!(store.read_all(&v1).await.unwrap(), other);
    assert_eq!(store.read_all(&v0).await.unwrap(), rows(0..10));
    let error = store.commit(new(0..1).append_to(&v1)).await.unwrap_err();
    assert!(matches!(error, Error::SchemaMismatch { .. }), "{error}");
}

#[tokio::test]
async fn damage_is_corrupt_and_committing_again_mends_it() {
    let (store, dir) = local();
    let v0 = store.commit(new(0..100)).await.unwrap();
    let path = dir.path().join("d").join(v0.files[0].path.as_ref().unwrap());
    let mut bytes = fs::read(&path).unwrap();
    bytes[40] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let error = store.read_all(&v0).await.unwrap_err();
    assert!(matches!(error, Error::Corrupt { .. }), "{error}");
    assert_eq!(store.commit(new(0..100)).await.unwrap(), v0);
    assert_eq!(store.read_all(&v0).await.unwrap(), rows(0..100));
    let manifest = dir.path().join("_mlops/datasets/d").join(v0.digest.to_string());
    fs::write(&manifest, fs::read_to_string(&manifest).unwrap().replace("\"rows\":100", "\"rows\":101")).unwrap();
    assert!(matches!(store.version("d", &v0.digest).await, Err(Error::Corrupt { .. })));
}

#[tokio::test]
async fn many_commits_make_a_checkpoint_and_stay_readable() {
    let (store, dir) = local();
    let mut version = store.commit(new(0..1)).await.unwrap();
    for i in 1..25 {
        version = store.commit(new(i..i + 1).append_to(&version)).await.unwrap();
    }
    let log = fs::read_dir(dir.path().join("d/_delta_log")).unwrap();
    let names: Vec<String> = log.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert!(names.iter().any(|name| name.contains("checkpoint")), "{names:?}");
    assert_eq!(names.iter().filter(|name| name.ends_with(".json")).count(), 25);
    assert_eq!(ids(&store, &version, Scan::all()).await, (0..25).collect::<Vec<_>>());
    assert_eq!(ids(&store, &store.open("d@v7").await.unwrap(), Scan::all()).await, (0..8).collect::<Vec<_>>());
    // A clean-up of the log takes versions from the list; those that are left read as before, and commits go on.
    for number in 0..5 {
        fs::remove_file(dir.path().join(format!("d/_delta_log/{number:020}.json"))).unwrap();
    }
    let mut left: Vec<u64> = store.versions("d").await.unwrap().iter().filter_map(|v| v.number).collect();
    left.sort_unstable();
    assert_eq!(left, (5..25).collect::<Vec<_>>());
    assert!(matches!(store.open("d@v3").await, Err(Error::NotFound { .. })));
    assert_eq!(ids(&store, &store.open("d@v7").await.unwrap(), Scan::all()).await, (0..8).collect::<Vec<_>>());
    assert_eq!(store.commit(new(25..26).append_to(&version)).await.unwrap().rows, 26);
}

#[tokio::test]
async fn retention_erasure_and_purge_leave_no_bytes() {
    let (store, dir) = local();
    let audit = MemoryAuditLog::default();
    let store = store.audit(audit.clone());
    let (lineage, table) = (MemoryLineage::default(), dir.path().join("d"));
    let mut versions = Vec::new();
    for i in 0..6 {
        versions.push(store.commit(new(i * 10..i * 10 + 10).at(at(i))).await.unwrap());
    }
    store.tag(MoveTag::create("gold", &versions[0])).await.unwrap();
    let policy = Retention::default().keep_last(2).keep_for(TimeDelta::days(1));
    let outcome = retain(&store, &lineage, "d", &policy, "ana", at(5)).await.unwrap();
    assert_eq!((outcome.removed.len(), outcome.held.len(), outcome.kept), (3, 1, 3), "{outcome}");
    let gone = store.version("d", &versions[1].digest).await.unwrap_err();
    assert!(matches!(&gone, Error::NotFound { .. }) && gone.to_string().contains("by ana: retention"), "{gone}");
    let removal = || Removal { reason: "by hand".into(), by: "bob".into(), at: at(9) };
    let error = store.remove(&versions[0], removal()).await.unwrap_err();
    assert!(error.to_string().contains("tagged \"gold\""), "{error}");
    store.remove(&versions[1], removal()).await.unwrap();
    let files = || fs::read_dir(&table).unwrap().filter(|e| e.as_ref().unwrap().file_type().unwrap().is_file()).count();
    let future = chrono::Utc::now() + TimeDelta::days(1);
    assert_eq!(store.purge("d", at(0)).await.unwrap().files, 0, "nothing is that old");
    assert_eq!((store.purge("d", future).await.unwrap().files, files()), (3, 3));
    assert_eq!(ids(&store, &versions[0], Scan::all()).await, (0..10).collect::<Vec<_>>());
    // Forget a row of the newest; then all that is left.
    let report = erase(&store, &lineage, &audit, &Erasure::new("id", [55], "dpo", at(10))).await.unwrap();
    assert_eq!(report.removed, [versions[5].reference()]);
    let after = store.open("d").await.unwrap();
    assert_eq!(ids(&store, &after, Scan::all()).await, [50, 51, 52, 53, 54, 56, 57, 58, 59]);
    let rest = Erasure::new("id", 50..60, "dpo", at(11));
    erase(&store, &lineage, &audit, &rest).await.unwrap();
    assert_eq!(store.purge("d", future).await.unwrap().files, 2);
    assert_eq!(files(), 2, "those of the tagged version and of the one before");
    let log = fs::read_dir(table.join("_delta_log")).unwrap().count() as u64;
    let last = actions(&table, log - 1);
    assert_eq!((count(&last, "remove"), count(&last, "add")), (1, 0), "other readers find the table empty");
    // Equal rows can be committed again after that.
    let back = store.commit(new(50..60).at(at(12))).await.unwrap();
    assert_eq!((back.digest, back.number), (versions[5].digest, Some(log)));
    assert_eq!(store.open("d").await.unwrap(), back);
    assert_eq!(ids(&store, &back, Scan::all()).await, (50..60).collect::<Vec<_>>());
    let told: Vec<String> = audit.entries(1, 100).await.unwrap().iter().map(|e| e.event.action.clone()).collect();
    assert_eq!(told.iter().filter(|action| *action == "dataset.remove").count(), 5);
}

#[test]
fn without_a_runtime_there_is_an_error_and_no_panic() {
    let store = memory();
    let error = futures::executor::block_on(store.commit(new(0..3))).unwrap_err();
    assert!(error.to_string().contains("tokio runtime"), "{error}");
    assert!(futures::executor::block_on(store.names()).is_err());
}

/// A table as another writer makes it: one file a version, in parts with and without statistics.
struct Foreign {
    table: std::path::PathBuf,
    next: u64,
}

impl Foreign {
    fn create(dir: &Path, configuration: Value) -> Self {
        let table = dir.join("other");
        fs::create_dir_all(table.join("_delta_log")).unwrap();
        let field = |name: &str, kind: &str| json!({"name": name, "type": kind, "nullable": true, "metadata": {}});
        let schema = json!({"type": "struct", "fields": [field("id", "long"), field("day", "string")]});
        let mut made = Self { table, next: 0 };
        made.entry(&[
            json!({"protocol": {"minReaderVersion": 1, "minWriterVersion": 2}}),
            json!({"metaData": {
                "id": "5f1c1b9e-0000-4000-8000-000000000001", "format": {"provider": "parquet", "options": {}},
                "schemaString": schema.to_string(), "partitionColumns": ["day"], "configuration": configuration,
                "createdTime": 0,
            }}),
            json!({"commitInfo": {"timestamp": 1_000, "operation": "CREATE TABLE"}}),
        ]);
        made
    }

    fn entry(&mut self, actions: &[Value]) {
        let lines: Vec<String> = actions.iter().map(Value::to_string).collect();
        fs::write(self.table.join(format!("_delta_log/{:020}.json", self.next)), lines.join("\n")).unwrap();
        self.next += 1;
    }

    /// A file with these ids, in the column type of the writer, and its `add`.
    fn file(&self, path: &str, key: &str, ids: &[i32], day: Option<&str>, stats: bool) -> Value {
        let id: ArrayRef = Arc::new(arrow::array::Int32Array::from(ids.to_vec()));
        let schema = Arc::new(Schema::new(vec![Field::new("id", DataType::Int32, true)]));
        let batch = RecordBatch::try_new(schema, vec![id]).unwrap();
        let place = self.table.join(key);
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        let mut writer = ArrowWriter::try_new(fs::File::create(&place).unwrap(), batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        let (low, high) = (ids.iter().min().unwrap(), ids.iter().max().unwrap());
        let told = json!({
            "numRecords": ids.len(), "minValues": {"id": low}, "maxValues": {"id": high}, "nullCount": {"id": 0},
        });
        json!({"add": {
            "path": path, "size": fs::metadata(&place).unwrap().len(), "modificationTime": self.next, "dataChange": true,
            "partitionValues": {"day": day}, "stats": stats.then(|| told.to_string()),
        }})
    }
}

#[tokio::test]
async fn a_table_of_another_writer_opens_read_only_with_its_numbers() {
    let (store, dir) = local();
    let mut table = Foreign::create(dir.path(), json!({}));
    let first = table.file("day=a%2520b/1.parquet", "day=a%20b/1.parquet", &[1, 2, 3], Some("a b"), true);
    let info = json!({"commitInfo": {"timestamp": 2_000, "operation": "WRITE", "userName": "eve"}});
    table.entry(&[info, first.clone()]);
    let second = table.file("2.parquet", "2.parquet", &[4, 5], None, false);
    let third = table.file("3.parquet", "3.parquet", &[10, 11], Some("c"), true);
    table.entry(&[json!({"commitInfo": {"timestamp": 3_000, "operation": "WRITE"}}), second, third]);
    let remove = json!({"remove": {"path": first["add"]["path"], "deletionTimestamp": 4_000, "dataChange": true}});
    table.entry(&[json!({"commitInfo": {"timestamp": 4_000, "operation": "DELETE"}}), remove]);
    let versions = store.versions("other").await.unwrap();
    let told: Vec<_> = versions.iter().map(|v| (v.number.unwrap(), v.rows, v.created_at.timestamp_millis())).collect();
    assert_eq!(told, [(0, 0, 1_000), (1, 3, 2_000), (2, 7, 3_000), (3, 4, 4_000)]);
    assert_eq!((&*versions[1].author, &*versions[3].source), ("eve", "delta: DELETE"));
    for version in &versions {
        assert_eq!(store.version("other", &version.digest).await.unwrap(), *version);
        assert_eq!(store.open_number("other", version.number.unwrap()).await.unwrap(), *version);
    }
    assert_eq!(store.open("other~2").await.unwrap(), versions[1]);
    assert_eq!(store.open("other@1970-01-01T00:00:02.5Z").await.unwrap(), versions[1]);
    let all = store.read_all(&versions[2]).await.unwrap();
    assert_eq!((all.num_rows(), all.schema().field(0).data_type()), (7, &DataType::Int64), "the table's type");
    assert_eq!(ids(&store, &versions[2], Scan::all()).await, [1, 2, 3, 4, 5, 10, 11]);
    assert_eq!(ids(&store, &versions[2], Scan::all().filter(col("day").eq("a b"))).await, [1, 2, 3]);
    assert_eq!(ids(&store, &versions[2], Scan::all().filter(col("day").is_null())).await, [4, 5]);
    assert_eq!(ids(&store, &versions[2], Scan::all().filter(col("id").gt(4))).await, [5, 10, 11]);
    assert_eq!(store.read_all(&versions[0]).await.unwrap().num_rows(), 0);
    let told = diff(&store, &versions[1], &versions[2], &["id"]).await.unwrap().by_key.unwrap();
    assert_eq!((told.added, told.removed, told.unchanged), (4, 0, 3));
    store.tag(MoveTag::create("gold", &versions[2])).await.unwrap();
    assert_eq!(store.open("other@gold").await.unwrap(), versions[2]);
    // Read only: but a version of ours may be made from it.
    let x: ArrayRef = Arc::new(Int64Array::from(vec![1]));
    let day: ArrayRef = Arc::new(StringArray::from(vec!["a b"]));
    let batch = RecordBatch::try_from_iter_with_nullable([("id", x, true), ("day", day, true)]).unwrap();
    let append = NewDataset::new("other", [batch.clone()]).append_to(&versions[3]);
    let error = store.commit(append).await.unwrap_err();
    assert!(error.to_string().contains("read only"), "{error}");
    let removal = Removal { reason: String::new(), by: String::new(), at: at(0) };
    assert!(store.remove(&versions[1], removal).await.unwrap_err().to_string().contains("read only"));
    assert_eq!(store.versions("other").await.unwrap(), versions);
    let ours = store.commit(NewDataset::new("mine", [batch]).parent(&versions[3])).await.unwrap();
    assert_eq!(ours.parent, Some(versions[3].reference()));
    // VACUUM took the file of the version that was deleted from; a file of another size is noticed too.
    fs::remove_file(table.table.join("day=a%20b/1.parquet")).unwrap();
    let error = store.read_all(&versions[1]).await.unwrap_err();
    assert!(matches!(&error, Error::NotFound { .. }) && error.to_string().contains("VACUUM"), "{error}");
    assert_eq!(ids(&store, &versions[3], Scan::all()).await, [4, 5, 10, 11]);
    let path = table.table.join("3.parquet");
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() - 1]).unwrap();
    let error = store.read_all(&versions[3]).await.unwrap_err();
    assert!(error.to_string().contains("3.parquet") && error.to_string().contains("should have"), "{error}");
}

#[tokio::test]
async fn tables_with_features_we_cannot_read_are_refused_by_name() {
    let (store, dir) = local();
    Foreign::create(dir.path(), json!({"delta.columnMapping.mode": "name"}));
    let error = store.versions("other").await.unwrap_err();
    assert!(error.to_string().contains("columns mapped"), "{error}");
}

#[tokio::test]
async fn versions_that_others_add_to_our_table_are_versions_too() {
    let (store, dir) = local();
    let v0 = store.commit(NewDataset::new("d", [rows(0..10)]).author("ana").at(at(1))).await.unwrap();
    // Compaction as another tool does it: the same rows in another file, by an entry of its own.
    let table = dir.path().join("d");
    let ours = v0.files[0].path.clone().unwrap();
    fs::copy(table.join(&ours), table.join("compacted.parquet")).unwrap();
    let add = json!({"add": {
        "path": "compacted.parquet", "size": v0.files[0].blob.bytes, "modificationTime": 1, "dataChange": false,
        "partitionValues": {}, "stats": "{\"numRecords\":10}",
    }});
    let remove = json!({"remove": {"path": ours, "deletionTimestamp": 1, "dataChange": false}});
    let info = json!({"commitInfo": {"timestamp": 172_800_000, "operation": "OPTIMIZE"}});
    let text: Vec<String> = [info, remove, add].iter().map(Value::to_string).collect();
    fs::write(table.join(format!("_delta_log/{:020}.json", 1)), text.join("\n")).unwrap();
    let v1 = store.open("d").await.unwrap();
    assert_eq!((v1.number, v1.rows, &v1.parent), (Some(1), 10, &Some(v0.reference())));
    assert_eq!(store.read_all(&v1).await.unwrap().column(0).len(), 10);
    let error = store.commit(new(10..20).append_to(&v0)).await.unwrap_err();
    assert!(matches!(error, Error::Conflict { .. }), "{error}");
    let v2 = store.commit(new(10..20).append_to(&v1)).await.unwrap();
    assert_eq!((v2.number, ids(&store, &v2, Scan::all()).await), (Some(2), (0..20).collect::<Vec<_>>()));
    assert_eq!(store.read_all(&v0).await.unwrap(), rows(0..10), "what was compacted stays readable");
}

/// Rows as JSON, as a set: a table has no order of rows.
async fn told(store: &dyn DatasetStore, version: &DatasetVersion) -> Vec<String> {
    let mut writer = arrow::json::LineDelimitedWriter::new(Vec::new());
    writer.write(&store.read_all(version).await.unwrap()).unwrap();
    writer.finish().unwrap();
    let text = String::from_utf8(writer.into_inner()).unwrap();
    sorted(text.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
}

fn sorted(rows: Vec<Value>) -> Vec<String> {
    let mut rows: Vec<String> = rows.iter().map(Value::to_string).collect();
    rows.sort_unstable();
    rows
}

fn shared_folder() -> std::path::PathBuf {
    std::env::var_os("MLOPS_TEST_DELTA").expect("MLOPS_TEST_DELTA names a folder that Python shares").into()
}

/// The first half of `ci/delta_tables.py`: tables for Python to read, with the rows of each version.
#[tokio::test]
#[ignore = "writes for Python's deltalake into MLOPS_TEST_DELTA"]
async fn python_first_we_write() {
    let dir = shared_folder();
    let store = DeltaDatasets::open(&dir).unwrap();
    let date: ArrayRef = Arc::new(Date32Array::from(vec![Some(19_000), None, Some(-1)]));
    let time: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![0, 1_500_000, -1_000_000]).with_timezone("UTC"));
    let x: ArrayRef = Arc::new(Float64Array::from(vec![Some(-0.5), None, Some(1e300)]));
    let flag: ArrayRef = Arc::new(BooleanArray::from(vec![Some(true), None, Some(false)]));
    let text: ArrayRef = Arc::new(StringArray::from(vec!["a b/c%", "ß", ""]));
    let id: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3]));
    let columns = [("id", id), ("date", date), ("time", time), ("x", x), ("flag", flag), ("text", text)];
    let typed = RecordBatch::try_from_iter_with_nullable(columns.map(|(n, a)| (n, a, n != "id"))).unwrap();
    let mut written = vec![
        store.commit(NewDataset::new("typed", [typed.clone()]).author("ana").source("a.csv").at(at(1))).await.unwrap(),
        store.commit(new(0..30).partition_by(["day"]).at(at(1))).await.unwrap(),
    ];
    let more = typed.slice(0, 2);
    let by = ["date", "flag"];
    written.push(store.commit(NewDataset::new("typed", [more]).append_to(&written[0]).at(at(2))).await.unwrap());
    written.push(store.commit(NewDataset::new("typed", [typed]).partition_by(by).at(at(3))).await.unwrap());
    let some = arrow::compute::filter_record_batch(&rows(0..3), &BooleanArray::from(vec![false, true, false])).unwrap();
    let some = NewDataset::new("d", [some]).partition_by(["day"]).replace_partitions_of(&written[1]);
    written.push(store.commit(some.at(at(2))).await.unwrap());
    let mut last = written[written.len() - 1].clone();
    for i in 2..13 {
        last = store.commit(new(i * 100..i * 100 + 3).append_to(&last).at(at(i))).await.unwrap();
        written.push(last.clone());
    }
    let mut expected = Vec::new();
    for version in &written {
        let rows = told(&store, version).await;
        let rows: Vec<Value> = rows.iter().map(|row| serde_json::from_str(row).unwrap()).collect();
        expected.push(json!({
            "table": version.name, "version": version.number, "digest": version.digest, "author": version.author,
            "rows": rows,
        }));
    }
    fs::write(dir.join("ours.json"), json!(expected).to_string()).unwrap();
}

/// The second half: what Python wrote, with the rows of each version, and what it did to our tables.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "reads what Python's deltalake wrote into MLOPS_TEST_DELTA"]
async fn python_then_we_read() {
    let dir = shared_folder();
    let store = DeltaDatasets::open(&dir).unwrap();
    let expected: Vec<Value> = serde_json::from_slice(&fs::read(dir.join("python.json")).unwrap()).unwrap();
    let mut seen: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for one in &expected {
        let (name, number) = (one["table"].as_str().unwrap(), one["version"].as_u64().unwrap());
        let version = store.open_number(name, number).await.unwrap();
        if let Some(gone) = one.get("gone") {
            let error = store.read_all(&version).await.unwrap_err();
            assert!(
                error.to_string().contains("VACUUM") && error.to_string().contains(gone.as_str().unwrap()),
                "{error}"
            );
            continue;
        }
        assert_eq!(version.rows, one["rows"].as_array().unwrap().len() as u64, "{name} v{number}");
        if version.rows > 0 {
            let rows: Vec<Value> = one["rows"].as_array().unwrap().clone();
            assert_eq!(told(&store, &version).await, sorted(rows), "{name} v{number}");
        }
        assert_eq!(store.version(name, &version.digest).await.unwrap(), version);
        seen.entry(name.to_owned()).or_default().push(number);
    }
    // Filters skip files by statistics and partitions of Python's, and find what a filter over all rows finds.
    let version = store.open_number("python", 2).await.unwrap();
    for filter in
        [col("id").gt(3), col("place").eq("x y/z"), col("place").is_null(), col("x").ge(0.0), col("text").eq("b")]
    {
        let found = store.select(&version, Scan::all().filter(filter.clone())).await.unwrap();
        let all = store.read_all(&version).await.unwrap();
        assert_eq!(found.num_rows(), filter.select(&all).unwrap().num_rows(), "{filter}");
        assert!((1..all.num_rows()).contains(&found.num_rows()), "{filter}");
    }
    // Ours and Python's in one table: all are versions, ours with the digests they had.
    let ours: Vec<Value> = serde_json::from_slice(&fs::read(dir.join("ours.json")).unwrap()).unwrap();
    for one in &ours {
        let version =
            store.open_number(one["table"].as_str().unwrap(), one["version"].as_u64().unwrap()).await.unwrap();
        assert_eq!(json!(version.digest), one["digest"]);
        assert_eq!(told(&store, &version).await, sorted(one["rows"].as_array().unwrap().clone()));
    }
    let last = store.versions("d").await.unwrap().into_iter().max_by_key(|v| v.number).unwrap();
    assert_eq!(*seen["d"].last().unwrap(), last.number.unwrap(), "Python wrote last");
    let next = store.commit(new(7_000..7_003).append_to(&last)).await.unwrap();
    assert_eq!((next.number, next.rows), (last.number.map(|n| n + 1), last.rows + 3));
    assert_eq!(store.read_all(&next).await.unwrap().num_rows() as u64, next.rows);
}

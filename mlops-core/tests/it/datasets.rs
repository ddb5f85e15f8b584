//! Dataset versions: files of each format, scans, tags, time, appending, partitions, comparison, retention, erasure, and
//! what nearly equal versions cost.

use std::fs::File;
use std::io::Write;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Float64Type, Int64Type, Schema};
use chrono::TimeDelta;
use futures::TryStreamExt;
use mlops_core::audit::{AuditLog, MemoryAuditLog};
use mlops_core::clock::from_micros;
use mlops_core::dataset::{
    DatasetStore, DatasetStoreExt, DatasetVersion, Erasure, FileFormat, MoveTag, NewDataset, ParquetDatasets, Removal,
    Retention, Scan, col, diff, erase, retain,
};
use mlops_core::lineage::{Edge, LineageStore, MemoryLineage, NodeRef};
use mlops_core::store::{ArtifactStore, LocalStore, MemoryStore, PutMode};
use mlops_core::{Error, RunId, Timestamp};

fn memory() -> ParquetDatasets {
    ParquetDatasets::new(MemoryStore::default())
}

fn noise(i: u64) -> u64 {
    let x = (i ^ (i >> 30)).wrapping_add(0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb) >> 11
}

/// Rows `ids` of a table with a key, a number that does not compress, a small set of texts and nulls.
fn rows(ids: impl Iterator<Item = i64> + Clone) -> RecordBatch {
    let id: ArrayRef = Arc::new(Int64Array::from_iter_values(ids.clone()));
    let x: ArrayRef = Arc::new(Float64Array::from_iter_values(ids.clone().map(|i| noise(i as u64) as f64)));
    let day: ArrayRef = Arc::new(StringArray::from_iter_values(ids.clone().map(|i| format!("day {}", i / 100 % 7))));
    let maybe: ArrayRef = Arc::new(Int64Array::from_iter(ids.map(|i| (i % 3 > 0).then_some(i * i))));
    RecordBatch::try_from_iter_with_nullable([
        ("id", id, false),
        ("x", x, false),
        ("day", day, false),
        ("maybe", maybe, true),
    ])
    .unwrap()
}

fn at(day: i64) -> Timestamp {
    from_micros(day * 86_400_000_000)
}

async fn ids(store: &dyn DatasetStore, version: &DatasetVersion, scan: Scan) -> Vec<i64> {
    let found = store.select(version, scan.columns(["id"])).await.unwrap();
    assert_eq!(found.num_columns(), 1);
    found.column(0).as_primitive::<Int64Type>().values().to_vec()
}

#[tokio::test]
async fn a_commit_does_not_depend_on_how_rows_are_batched() {
    let store = memory();
    let all = rows(0..300_000);
    let once = store.commit(NewDataset::new("d", [all.clone()])).await.unwrap();
    let pieces: Vec<_> = (0..100).map(|i| Ok(all.slice(i * 3_000, 3_000))).collect();
    let stream = NewDataset::stream("d", all.schema(), futures::stream::iter(pieces));
    let streamed = store.commit(stream).await.unwrap();
    assert_eq!(once.digest, streamed.digest);
    assert_eq!(store.versions("d").await.unwrap().len(), 1);
    assert_eq!(store.read_all(&once).await.unwrap(), all);
}

#[tokio::test]
async fn a_stream_that_fails_leaves_no_version() {
    let store = memory();
    let batch = rows(0..10);
    let broken = [Ok(batch.clone()), Err(Error::invalid("feed", "it broke"))];
    let new = NewDataset::stream("d", batch.schema(), futures::stream::iter(broken));
    assert!(store.commit(new).await.is_err());
    let other = RecordBatch::try_from_iter([("id", Arc::new(StringArray::from(vec!["a"])) as ArrayRef)]).unwrap();
    let mixed = NewDataset::stream("d", batch.schema(), futures::stream::iter([Ok(batch), Ok(other)]));
    let error = store.commit(mixed).await.unwrap_err();
    assert!(error.to_string().contains("was Int64 and is Utf8"), "{error}");
    assert!(store.versions("d").await.unwrap().is_empty());
}

#[tokio::test]
async fn scans_give_what_a_filter_over_all_rows_gives() {
    let store = memory();
    let v1 = store.commit(NewDataset::new("d", [rows(0..5_000)])).await.unwrap();
    let v2 = store.commit(NewDataset::new("d", [rows(5_000..9_000)]).append_to(&v1)).await.unwrap();
    let all: Vec<i64> = (0..9_000).collect();
    let keep = |passes: &dyn Fn(i64) -> bool| -> Vec<i64> { all.iter().copied().filter(|&i| passes(i)).collect() };
    let found = async |filter| ids(&store, &v2, Scan::all().filter(filter)).await;
    assert_eq!(found(col("id").ge(4_990).and(col("id").lt(5_010))).await, (4_990..5_010).collect::<Vec<i64>>());
    assert_eq!(found(col("maybe").is_null()).await, keep(&|i| i % 3 == 0));
    assert_eq!(found(col("maybe").gt(1_000_000)).await, keep(&|i| i % 3 > 0 && i * i > 1_000_000));
    assert_eq!(found(col("maybe").gt(1_000_000).not()).await, keep(&|i| i % 3 > 0 && i * i <= 1_000_000));
    assert_eq!(found(col("day").eq("day 3").or(col("id").eq(8_999))).await, keep(&|i| i / 100 % 7 == 3 || i == 8_999));
    assert_eq!(found(col("id").is_in([7, 8_000, 9_000])).await, [7, 8_000]);
    assert_eq!(found(col("id").lt(0.5)).await, [0]);
    assert_eq!(found(col("id").gt(100_000)).await, [0i64; 0], "nothing is an empty batch, not an error");
    let zero: ArrayRef = Arc::new(Float64Array::from(vec![-0.0, 0.0, f64::NAN]));
    let huge: ArrayRef = Arc::new(arrow::array::UInt64Array::from(vec![0, 5, u64::MAX]));
    let day: ArrayRef = Arc::new(arrow::array::Date32Array::from(vec![Some(-1), None, Some(20_000)]));
    let odd = RecordBatch::try_from_iter_with_nullable([("z", zero, false), ("u", huge, false), ("t", day, true)]);
    let odd = store.commit(NewDataset::new("odd", [odd.unwrap()])).await.unwrap();
    for (filter, expected) in [
        (col("z").lt(0.0), 0),
        (col("z").eq(0.0), 2),
        (col("z").eq(0), 2),
        (col("u").gt(5), 1),
        (col("u").ge(-1), 3),
        (col("u").lt(-1), 0),
        (col("t").ge(0), 1),
        (col("t").lt(0), 1),
    ] {
        let found = store.select(&odd, Scan::all().filter(filter.clone())).await.unwrap();
        assert_eq!(found.num_rows(), expected, "{filter}");
    }
    for (filter, told) in [(col("nope").eq(1), "no such column"), (col("day").eq(1), "cannot be compared")] {
        let error = match store.scan(&v2, Scan::all().filter(filter)).await {
            Ok(scan) => scan.try_collect::<Vec<_>>().await.unwrap_err(),
            Err(error) => error,
        };
        assert!(matches!(error, Error::SchemaMismatch { .. }) && error.to_string().contains(told), "{error}");
    }
}

#[tokio::test]
async fn files_that_cannot_match_are_not_read() {
    let dir = tempfile::tempdir().unwrap();
    let local = LocalStore::open(dir.path()).unwrap();
    let store = ParquetDatasets::new(local.clone());
    let v1 = store.commit(NewDataset::new("d", [rows(0..1_000)])).await.unwrap();
    let v2 = store.commit(NewDataset::new("d", [rows(1_000..2_000)]).append_to(&v1)).await.unwrap();
    // Once the first file is gone, only scans that pass over it can succeed.
    let mlops_core::store::Blob { digest, chunks, .. } = v1.files[0].blob;
    let key = if chunks.is_some() {
        mlops_core::store::chunks_key(&digest)
    } else {
        mlops_core::store::artifact_key(&digest)
    };
    local.delete(&key).await.unwrap();
    assert_eq!(ids(&store, &v2, Scan::all().filter(col("id").ge(1_500))).await.len(), 500);
    assert!(store.read_all(&v2).await.is_err());
}

#[tokio::test]
async fn files_are_kept_as_they_are_and_read_alike() {
    let dir = tempfile::tempdir().unwrap();
    let store = memory();
    let batch = rows(0..2_000);
    let path = |name: &str| dir.path().join(name);
    arrow::csv::Writer::new(File::create(path("d.csv")).unwrap()).write(&batch).unwrap();
    let mut json = arrow::json::LineDelimitedWriter::new(File::create(path("d.jsonl")).unwrap());
    json.write(&batch).unwrap();
    json.finish().unwrap();
    let mut ipc =
        arrow::ipc::writer::FileWriter::try_new(File::create(path("d.arrow")).unwrap(), &batch.schema()).unwrap();
    ipc.write(&batch).unwrap();
    ipc.finish().unwrap();
    let file = File::create(path("d.parquet")).unwrap();
    let mut parquet = parquet::arrow::ArrowWriter::try_new(file, batch.schema(), None).unwrap();
    parquet.write(&batch).unwrap();
    parquet.close().unwrap();
    for (name, format) in [
        ("d.csv", FileFormat::Csv),
        ("d.jsonl", FileFormat::JsonLines),
        ("d.arrow", FileFormat::ArrowIpc),
        ("d.parquet", FileFormat::Parquet),
    ] {
        let version = store.commit(NewDataset::files(format.key(), [path(name)]).source(name)).await.unwrap();
        assert_eq!((version.rows, version.files[0].format), (2_000, format));
        assert_eq!(version.files[0].blob.digest, mlops_core::Digest::of(&std::fs::read(path(name)).unwrap()));
        let read = store.read_all(&version).await.unwrap();
        for name in ["id", "maybe"] {
            assert_eq!(read.column_by_name(name).unwrap(), batch.column_by_name(name).unwrap(), "{format:?} {name}");
        }
        let few = ids(&store, &version, Scan::all().filter(col("day").eq("day 0").and(col("id").lt(50)))).await;
        assert_eq!(few, (0..50).collect::<Vec<i64>>(), "{format:?}");
        let x = &version.stats[version.columns.iter().position(|c| c.name == "x").unwrap()];
        let mean = batch.column(1).as_primitive::<Float64Type>().iter().flatten().sum::<f64>() / 2_000.0;
        assert!((x.mean / mean - 1.0).abs() < 1e-9, "{format:?}");
    }
}

/// The names of datasets in a test.
trait Key {
    fn key(self) -> &'static str;
}

impl Key for FileFormat {
    fn key(self) -> &'static str {
        match self {
            Self::Csv => "csv",
            Self::JsonLines => "jsonl",
            Self::ArrowIpc => "arrow",
            _ => "parquet",
        }
    }
}

#[tokio::test]
async fn bad_files_are_refused_by_name_and_leave_no_version() {
    let dir = tempfile::tempdir().unwrap();
    let store = memory();
    let write = |name: &str, data: &[u8]| {
        let path = dir.path().join(name);
        File::create(&path).unwrap().write_all(data).unwrap();
        path
    };
    let mut whole = Vec::new();
    let batch = rows(0..5_000);
    let mut writer = parquet::arrow::ArrowWriter::try_new(&mut whole, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    let good = write("good.csv", b"a,b\n1,x\n2,y\n");
    std::os::unix::fs::symlink(&good, dir.path().join("link.csv")).unwrap();
    for (path, told) in [
        (write("cut.parquet", &whole[..whole.len() / 2]), "cut.parquet"),
        (write("empty.parquet", b""), "empty.parquet"),
        (write("empty.csv", b""), "empty.csv"),
        (write("header.csv", b"a,b\n"), "no rows"),
        (write("ragged.csv", b"a,b\n1,2\n1,2,3\n"), "ragged.csv"),
        (write("bad.jsonl", b"{\"a\": 1}\n{\"a\": "), "bad.jsonl"),
        (write("rows.arrow", b"ARROW1 not really"), "rows.arrow"),
        (write("rows.txt", b"a"), "does not end in"),
        (dir.path().join("link.csv"), "symbolic link"),
        (dir.path().to_owned(), "does not end in"),
        (dir.path().join("none.csv"), "none.csv"),
    ] {
        let error = store.commit(NewDataset::files("d", [&path])).await.unwrap_err();
        assert!(error.to_string().contains(told), "{}: {error}", path.display());
    }
    // `b` is a text in the first file, and anything is one.
    let other = write("other.csv", b"a,b\n1,2\n");
    let both = store.commit(NewDataset::files("good", [&good, &other])).await.unwrap();
    assert_eq!(both.rows, 3);
    for (name, data, told) in [
        ("swapped.csv", &b"b,a\n1,2\n"[..], "header"),
        ("renamed.csv", b"a,c\n1,2\n", "header"),
        ("more.csv", b"a,b,c\n1,2,3\n", "more.csv"),
        ("headless.csv", b"1,2\n3,4\n", "header"),
    ] {
        let error = store.commit(NewDataset::files("d", [&good, &write(name, data)])).await.unwrap_err().to_string();
        assert!(error.contains(name) && error.contains(told), "{name}: {error}");
    }
    let known = write("known.jsonl", b"{\"a\": 1}\n");
    let unknown = write("unknown.jsonl", b"{\"a\": 2, \"z\": 3}\n");
    let error = store.commit(NewDataset::files("d", [known, unknown])).await.unwrap_err().to_string();
    assert!(error.contains("unknown.jsonl") && error.contains('z'), "{error}");
    assert!(store.versions("d").await.unwrap().is_empty());
    for name in ["../up", "a/b", "", ".hidden"] {
        assert!(store.commit(NewDataset::new(name, [rows(0..1)])).await.is_err(), "{name:?}");
        assert!(store.open(name).await.is_err(), "{name:?}");
    }
}

#[tokio::test]
async fn a_schema_given_for_text_files_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d.csv");
    std::fs::write(&path, "code,n\n007,1\n010,2\n").unwrap();
    let schema = Schema::new(vec![Field::new("code", DataType::Utf8, true), Field::new("n", DataType::Float64, true)]);
    let store = memory();
    let version = store.commit(NewDataset::files("d", [path]).schema(Arc::new(schema))).await.unwrap();
    let read = store.read_all(&version).await.unwrap();
    assert_eq!(read.column(0).as_string::<i32>().value(0), "007", "not the number 7");
    assert_eq!(read.column(1).as_primitive::<Float64Type>().value(1), 2.0);
}

#[tokio::test]
async fn appending_writes_only_what_is_new() {
    let store = memory();
    let v1 = store.commit(NewDataset::new("d", [rows(0..100_000)])).await.unwrap();
    let v2 = store.commit(NewDataset::new("d", [rows(100_000..101_000)]).append_to(&v1).at(at(1))).await.unwrap();
    assert_eq!((v2.rows, &v2.files[0], v2.parent.clone()), (101_000, &v1_file(&v1), Some(v1.reference())));
    assert!(v2.new_bytes() * 20 < v1.new_bytes(), "{} after {}", v2.new_bytes(), v1.new_bytes());
    assert_eq!(ids(&store, &v2, Scan::all()).await, (0..101_000).collect::<Vec<i64>>());
    assert_eq!((v2.stats[0].rows, v2.stats[3].nulls), (101_000, 101_000_u64.div_ceil(3)));
    let (distinct, [low, high]) = store.sketches(&v2).await.unwrap()[0].distinct();
    assert!(low <= 101_000.0 && 101_000.0 <= high, "{distinct} in {low}..{high}");
    let other = RecordBatch::try_from_iter([("id", Arc::new(Float64Array::from(vec![1.0])) as ArrayRef)]).unwrap();
    assert!(matches!(
        store.commit(NewDataset::new("d", [other]).append_to(&v2)).await,
        Err(Error::SchemaMismatch { .. })
    ));
    store.remove(&v1, Removal { reason: "no use".into(), by: "adam".into(), at: at(2) }).await.unwrap();
    let error = store.commit(NewDataset::new("d", [rows(0..1)]).append_to(&v1)).await.unwrap_err();
    assert!(error.to_string().contains("removed on 1970-01-03 by adam: no use"), "{error}");
    assert_eq!(ids(&store, &v2, Scan::all()).await.len(), 101_000, "what was appended to it stays whole");
}

fn v1_file(version: &DatasetVersion) -> mlops_core::dataset::DataFile {
    let mut file = version.files[0].clone();
    file.blob.new_bytes = 0;
    file
}

#[tokio::test]
async fn partitions_are_replaced_one_by_one_and_passed_over_by_scans() {
    let store = memory();
    let new = NewDataset::new("d", [rows(0..1_400)]).partition_by(["day"]);
    let v1 = store.commit(new).await.unwrap();
    assert_eq!((v1.rows, v1.files.len()), (1_400, 7));
    let again: RecordBatch = rows(300..350);
    let v2 =
        store.commit(NewDataset::new("d", [again]).partition_by(["day"]).replace_partitions_of(&v1)).await.unwrap();
    assert_eq!((v2.rows, v2.files.len()), (1_400 - 200 + 50, 7));
    assert_eq!(ids(&store, &v2, Scan::all().filter(col("day").eq("day 3"))).await, (300..350).collect::<Vec<i64>>());
    assert_eq!(ids(&store, &v2, Scan::all().filter(col("day").eq("day 4"))).await.len(), 200);
    let odd = NewDataset::new("d", [rows(0..10)]).partition_by(["id"]).replace_partitions_of(&v1);
    assert!(store.commit(odd).await.unwrap_err().to_string().contains("is partitioned by"));
    let none = NewDataset::new("d", [rows(0..10)]).partition_by(["nope"]);
    assert!(matches!(store.commit(none).await, Err(Error::SchemaMismatch { .. })));
}

#[tokio::test]
async fn versions_are_found_by_tag_time_digest_and_distance() {
    let store = memory();
    let v1 = store.commit(NewDataset::new("d", [rows(0..10)]).at(at(1))).await.unwrap();
    let v2 = store.commit(NewDataset::new("d", [rows(10..20)]).append_to(&v1).at(at(2))).await.unwrap();
    let v3 = store.commit(NewDataset::new("d", [rows(20..30)]).append_to(&v2).at(at(3))).await.unwrap();
    store.tag(MoveTag::create("gold", &v2).by("ana").at(at(4))).await.unwrap();
    let time = at(2).to_rfc3339();
    for (spec, expected) in [
        ("d".to_owned(), &v3),
        ("d~2".to_owned(), &v1),
        ("d@gold".to_owned(), &v2),
        ("d@gold~1".to_owned(), &v1),
        (format!("d@{time}"), &v2),
        (format!("d@{}", v1.digest.short()), &v1),
        (format!("d@{}~0", v3.digest), &v3),
    ] {
        assert_eq!(store.open(&spec).await.unwrap().digest, expected.digest, "{spec}");
    }
    for spec in ["d~3", "d@silver", "e", "d@1970-01-01T00:00:00Z", "d@0000000000"] {
        let error = store.open(spec).await.unwrap_err();
        assert!(matches!(error, Error::NotFound { .. }), "{spec}: {error}");
    }
    for spec in ["d~x", "d@", "@gold", "d@a b", "d@..~1", "d~99999999999"] {
        assert!(matches!(store.open(spec).await, Err(Error::InvalidInput { .. })), "{spec}");
    }
}

#[tokio::test]
async fn of_two_that_move_a_tag_one_wins() {
    let store = memory();
    let v1 = store.commit(NewDataset::new("d", [rows(0..10)])).await.unwrap();
    let v2 = store.commit(NewDataset::new("d", [rows(0..20)])).await.unwrap();
    let v3 = store.commit(NewDataset::new("d", [rows(0..30)])).await.unwrap();
    store.tag(MoveTag::create("gold", &v1)).await.unwrap();
    let moves = [&v2, &v3].map(|to| store.tag(MoveTag::create("gold", to).from(&v1)));
    let outcomes = futures::future::join_all(moves).await;
    assert_eq!(outcomes.iter().filter(|o| o.is_ok()).count(), 1, "{outcomes:?}");
    let lost = outcomes.iter().find_map(|o| o.as_ref().err()).unwrap();
    assert!(matches!(lost, Error::Conflict { what: "tag", .. }), "{lost}");
    assert!(matches!(store.tag(MoveTag::create("gold", &v1)).await, Err(Error::Conflict { .. })));
    let winner = store.open("d@gold").await.unwrap();
    store.tag(MoveTag::remove("gold", &winner)).await.unwrap();
    assert!(store.tags("d").await.unwrap().is_empty());
    store.tag(MoveTag::create("gold", &v1)).await.unwrap();
    assert_eq!(store.tags("d").await.unwrap()[0].revision, 4);
    let stranger = memory().commit(NewDataset::new("d", [rows(0..40)])).await.unwrap();
    assert!(matches!(store.tag(MoveTag::create("x", &stranger)).await, Err(Error::NotFound { .. })));
    assert!(store.tag(MoveTag::create("../up", &v1)).await.is_err());
}

#[tokio::test]
async fn a_diff_counts_rows_by_key_and_names_the_columns_that_moved() {
    let store = memory();
    let v1 = store.commit(NewDataset::new("d", [rows(0..20_000)])).await.unwrap();
    let changed = rows(100..20_500);
    let mut x = changed.column(1).as_primitive::<Float64Type>().values().to_vec();
    x.iter_mut().step_by(2).for_each(|x| *x *= 1.5);
    let mut columns = changed.columns().to_vec();
    columns[1] = Arc::new(Float64Array::from(x));
    let changed = RecordBatch::try_new(changed.schema(), columns).unwrap();
    let v2 = store.commit(NewDataset::new("d", [changed])).await.unwrap();
    let found = diff(&store, &v1, &v2, &["id"]).await.unwrap();
    let by_key = found.by_key.unwrap();
    assert_eq!((by_key.added, by_key.removed), (500, 100));
    // Half of 100..20_000 changed, apart from a value of 0 that times 1.5 is itself: there is none.
    assert_eq!((by_key.changed, by_key.unchanged), (9_950, 9_950));
    let moved: Vec<&str> = found.columns.iter().filter(|c| c.moved()).map(|c| &*c.name).collect();
    assert_eq!(moved, ["x"], "{found}");
    let (distance, error) = found.columns[1].distance.unwrap();
    // x is uniform on [0, m); half of it times 1.5: the distance of the distribution functions is 1/6 at m.
    assert!((distance - 1.0 / 6.0).abs() < error && error < 0.06, "{distance} ± {error}");
    let same = diff(&store, &v1, &v1, &["id"]).await.unwrap().by_key.unwrap();
    assert_eq!((same.added, same.removed, same.changed, same.unchanged), (0, 0, 0, 20_000));
    assert!(diff(&store, &v1, &v2, &["day"]).await.unwrap_err().to_string().contains("same key"));
    assert!(matches!(diff(&store, &v1, &v2, &["nope"]).await, Err(Error::SchemaMismatch { .. })));
}

#[tokio::test]
async fn retention_never_breaks_what_a_model_was_trained_on() {
    let (store, lineage) = (memory(), MemoryLineage::default());
    let mut versions: Vec<DatasetVersion> = Vec::new();
    for day in 0..8 {
        let new = NewDataset::new("d", [rows(day * 10..day * 10 + 10)]).at(at(day));
        versions.push(store.commit(new).await.unwrap());
    }
    let run = NodeRef::run(RunId::derived(at(0), b"run"));
    let edges =
        [Edge::new(NodeRef::dataset(&versions[1].reference()), run.clone()), Edge::new(run, NodeRef::model("m", 1))];
    lineage.record(&[], &edges).await.unwrap();
    store.tag(MoveTag::create("gold", &versions[3])).await.unwrap();
    // A later version that a model was trained on does not hold the earlier ones it was appended to.
    let chain = [Edge::new(NodeRef::dataset(&versions[0].reference()), NodeRef::dataset(&versions[1].reference()))];
    lineage.record(&[], &chain).await.unwrap();
    let policy = Retention::default().keep_last(2).keep_for(TimeDelta::days(1));
    let outcome = retain(&store, &lineage, "d", &policy, "ana", at(8)).await.unwrap();
    let left: Vec<i64> = store.versions("d").await.unwrap().iter().map(|v| v.created_at.timestamp() / 86_400).collect();
    assert_eq!(left, [1, 3, 6, 7], "{outcome}");
    assert_eq!((outcome.removed.len(), outcome.held.len(), outcome.kept), (4, 2, 4));
    let gone = store.version("d", &versions[0].digest).await.unwrap_err();
    assert!(matches!(&gone, Error::NotFound { .. }) && gone.to_string().contains("by ana: retention"), "{gone}");
    let removal = Removal { reason: "by hand".into(), by: "bob".into(), at: at(9) };
    let error = store.remove(&versions[3], removal).await.unwrap_err();
    assert!(error.to_string().contains("tagged \"gold\""), "{error}");
}

#[tokio::test]
async fn erasure_forgets_rows_reports_who_saw_them_and_records_no_data() {
    let inner = MemoryStore::default();
    let store = ParquetDatasets::new(inner.clone());
    let (lineage, audit) = (MemoryLineage::default(), MemoryAuditLog::default());
    let people = |names: &[Option<&str>]| {
        let person: ArrayRef = Arc::new(StringArray::from(names.to_vec()));
        let n: ArrayRef = Arc::new(Int64Array::from_iter_values(0..names.len() as i64));
        RecordBatch::try_from_iter_with_nullable([("person", person, true), ("n", n, false)]).unwrap()
    };
    let secret = "zelda@example.org";
    let old = store.commit(NewDataset::new("d", [people(&[Some("a"), Some(secret)])]).at(at(1))).await.unwrap();
    let v2 = people(&[Some("a"), Some(secret), None, Some(secret)]);
    let v2 = store.commit(NewDataset::new("d", [v2]).parent(&old).at(at(2))).await.unwrap();
    let only = store.commit(NewDataset::new("only", [people(&[Some(secret)])]).at(at(2))).await.unwrap();
    store.commit(NewDataset::new("clean", [people(&[Some("b")])]).at(at(2))).await.unwrap();
    store.commit(NewDataset::new("other", [rows(0..10)]).at(at(2))).await.unwrap();
    store.tag(MoveTag::create("gold", &v2)).await.unwrap();
    let edges = [Edge::new(NodeRef::dataset(&v2.reference()), NodeRef::model("m", 1))];
    lineage.record(&[], &edges).await.unwrap();
    let erasure = Erasure::new("person", [secret], "dpo", at(3)).because("request 17");
    let report = erase(&store, &lineage, &audit, &erasure).await.unwrap();
    let contained: Vec<_> = report.contained.iter().map(|(v, rows)| (v.digest, *rows)).collect();
    assert_eq!(contained, [(old.digest, 1), (v2.digest, 2), (only.digest, 1)]);
    assert_eq!(report.affected.iter().collect::<Vec<_>>(), [&NodeRef::model("m", 1)]);
    let after = store.open("d@gold").await.unwrap();
    let names = store.read_all(&after).await.unwrap();
    let names = names.column(0).as_string::<i32>();
    assert_eq!((names.len(), names.value(0), names.is_null(1)), (2, "a", true), "the null stays");
    assert_eq!(after.parent, Some(v2.reference()));
    assert_eq!(report.removed, [old.reference(), only.reference()]);
    assert_eq!(report.held[0].version, v2.reference());
    assert!(store.versions("only").await.unwrap().is_empty());
    let record = serde_json::to_string(&audit.entries(1, 10).await.unwrap()).unwrap();
    assert!(record.contains("request 17") && !record.contains(secret), "{record}");
    assert!(!format!("{report} {report:?} {erasure:?}").contains(secret));
    let second = erase(&store, &lineage, &audit, &erasure.despite_use()).await.unwrap();
    assert_eq!((second.contained.len(), &*second.removed), (1, &[v2.reference()][..]));
    // What is left of it is only what a collection takes: no manifest, tag or record names it or quotes it.
    for object in inner.list("").await.unwrap() {
        if !object.key.starts_with("artifacts/") && !object.key.starts_with("chunks/") {
            let data = inner.get(&object.key).await.unwrap();
            assert!(!String::from_utf8_lossy(&data).contains(secret), "{}", object.key);
        }
    }
    for name in store.names().await.unwrap() {
        for version in store.versions(&name).await.unwrap() {
            let Some(column) = version.columns.iter().position(|c| c.name == "person") else { continue };
            let bounds = format!("{:?}", version.stats[column]);
            assert!(!bounds.contains(secret), "{bounds}");
        }
    }
}

#[tokio::test]
async fn every_change_is_in_the_audit_log() {
    let audit = MemoryAuditLog::default();
    let store = memory().audit(audit.clone());
    let v1 = store.commit(NewDataset::new("d", [rows(0..10)]).author("ana").at(at(1))).await.unwrap();
    store.commit(NewDataset::new("d", [rows(0..10)]).author("bob").at(at(2))).await.unwrap();
    store.tag(MoveTag::create("gold", &v1).by("rita").at(at(3))).await.unwrap();
    store.tag(MoveTag::create("gold", &v1).by("eve").at(at(4))).await.unwrap_err();
    store.tag(MoveTag::remove("gold", &v1).by("rita").at(at(5))).await.unwrap();
    store.remove(&v1, Removal { reason: "no use".into(), by: "adam".into(), at: at(6) }).await.unwrap();
    let entries = audit.entries(1, 10).await.unwrap();
    let told: Vec<String> = entries.iter().map(|e| format!("{} {}", e.event.actor, e.event.action)).collect();
    assert_eq!(told, ["ana dataset.commit", "rita dataset.tag", "rita dataset.tag", "adam dataset.remove"]);
    assert_eq!(entries[1].event.after, serde_json::json!({"version": v1.digest, "revision": 1}));
    assert_eq!(entries[2].event.before, serde_json::json!({"version": v1.digest}));
    assert_eq!((&*entries[3].event.reason, &entries[3].event.before["rows"]), ("no use", &serde_json::json!(10)));
}

/// All at one time, by one person: the log would take entries that are equal in everything for one.
#[tokio::test]
async fn changes_that_are_made_again_are_recorded_again() {
    let audit = MemoryAuditLog::default();
    let store = memory().audit(audit.clone());
    let new = |n| NewDataset::new("d", [rows(0..n)]).at(at(1));
    let (v1, v2) = (store.commit(new(10)).await.unwrap(), store.commit(new(20)).await.unwrap());
    store.tag(MoveTag::create("gold", &v1).at(at(1))).await.unwrap();
    for (from, to) in [(&v1, &v2), (&v2, &v1), (&v1, &v2)] {
        store.tag(MoveTag::create("gold", to).from(from).at(at(1))).await.unwrap();
    }
    for _ in 0..2 {
        let removal = Removal { reason: "no use".into(), by: "adam".into(), at: at(1) };
        store.remove(&v1, removal).await.unwrap();
        store.commit(new(10)).await.unwrap();
    }
    let entries = audit.entries(1, 100).await.unwrap();
    let count = |action| entries.iter().filter(|entry| entry.event.action == action).count();
    assert_eq!((count("dataset.tag"), count("dataset.remove")), (4, 2));
}

/// The share of a dataset that a second version costs, in new bytes.
fn cost(first: &DatasetVersion, second: &DatasetVersion) -> f64 {
    second.new_bytes() as f64 / first.bytes() as f64
}

/// 1 % of rows, appended or inserted at a random place, costs under 4 % new bytes, and at ten places little more. No case
/// profits from what another has stored.
#[tokio::test]
async fn nearly_equal_versions_cost_little() {
    const ROWS: i64 = 1_500_000;
    let all = rows(0..ROWS);
    let more = rows(2 * ROWS..2 * ROWS + ROWS / 100);
    let part = |from: usize, to: usize| all.slice(from, to - from);
    let (at, end) = (611_953, all.num_rows());
    let mut places = Vec::new();
    for i in 0..10 {
        let from = i * end / 10;
        places.extend([part(from, from + 70_001), more.slice(i * 1_500, 1_500), part(from + 70_001, from + end / 10)]);
    }
    let cases = [
        ("append", vec![all.clone(), more.clone()], 0.02),
        ("insert", vec![part(0, at), more.clone(), part(at, end)], 0.04),
        ("removal", vec![part(0, at), part(at + 5_000, end)], 0.04),
        ("ten inserts", places, 0.12),
    ];
    let inner = MemoryStore::default();
    let v1 = ParquetDatasets::new(inner.clone()).commit(NewDataset::new("parquet", [all.clone()])).await.unwrap();
    assert!(v1.bytes() > 10_000_000 && v1.new_bytes() > v1.bytes() / 100 * 99);
    for (case, second, most) in cases {
        let store = copy(&inner).await;
        let v2 = store.commit(NewDataset::new("parquet", second)).await.unwrap();
        assert!(cost(&v1, &v2) < most, "{case}: {}", cost(&v1, &v2));
    }

    let dir = tempfile::tempdir().unwrap();
    let third = part(0, end / 3);
    let place = third.num_rows() / 2;
    let few = more.slice(0, more.num_rows() / 3);
    let inserted = [part(0, place), few.clone(), part(place, end / 3)];
    let csv = async |store: &ParquetDatasets, batches: &[RecordBatch]| {
        let path = dir.path().join("data.csv");
        let mut writer = arrow::csv::Writer::new(File::create(&path).unwrap());
        batches.iter().for_each(|batch| writer.write(batch).unwrap());
        drop(writer);
        store.commit(NewDataset::files("csv", [path])).await.unwrap()
    };
    let inner = MemoryStore::default();
    let v1 = csv(&ParquetDatasets::new(inner.clone()), std::slice::from_ref(&third)).await;
    for (case, second) in [("append to CSV", &[third, few] as &[_]), ("insert into CSV", &inserted)] {
        let v2 = csv(&copy(&inner).await, second).await;
        assert!(cost(&v1, &v2) < 0.04, "{case}: {}", cost(&v1, &v2));
    }
}

/// A store of its own with all that a store has.
async fn copy(inner: &MemoryStore) -> ParquetDatasets {
    let copy = MemoryStore::default();
    for object in inner.list("").await.unwrap() {
        copy.put_opts(&object.key, inner.get(&object.key).await.unwrap(), PutMode::Create).await.unwrap();
    }
    ParquetDatasets::new(copy)
}

/// Segments that the newest version has are not written again, unless their file is damaged; and a manifest from before
/// files had digests of their rows is as good.
#[tokio::test]
async fn rows_that_are_there_keep_their_file() {
    let all = rows(0..1_500_000);
    let more = rows(2_000_000..2_010_000);
    let inner = MemoryStore::default();
    let store = ParquetDatasets::new(inner.clone());
    let v1 = store.commit(NewDataset::new("d", [all.clone()])).await.unwrap();
    let (kept, last) = v1.files.split_at(v1.files.len() - 1);
    assert!(!kept.is_empty() && v1.files.iter().all(|file| file.rows_digest.is_some()));
    let appended = || NewDataset::new("d", [all.clone(), more.clone()]);
    let fresh = memory().commit(appended()).await.unwrap();
    let v2 = store.commit(appended()).await.unwrap();
    assert_eq!((v2.digest, &v2.files), (fresh.digest, &fresh.files), "what was there changed the version");
    assert_eq!(v2.files[..kept.len()], *kept);
    assert_ne!(v2.files[kept.len()].rows_digest, last[0].rows_digest);
    assert!(v2.files[..kept.len()].iter().all(|file| file.blob.new_bytes == 0));

    store.remove(&v2, Removal { reason: "no use".into(), by: "adam".into(), at: at(1) }).await.unwrap();
    let chunk =
        mlops_core::store::BlobReader::open(&inner, &kept[0].blob.digest).await.unwrap().chunks().next().unwrap();
    inner.put_opts(&mlops_core::store::artifact_key(&chunk), "rust".into(), PutMode::Overwrite).await.unwrap();
    let v3 = store.commit(appended()).await.unwrap();
    assert!(v3.files[0].blob.new_bytes > 0, "a damaged file was kept");
    assert_eq!(store.read_all(&v3).await.unwrap().num_rows(), 1_510_000);

    let key = format!("datasets/d/{}", v1.digest);
    let mut manifest: serde_json::Value = serde_json::from_slice(&inner.get(&key).await.unwrap()).unwrap();
    for file in manifest["files"].as_array_mut().unwrap() {
        file.as_object_mut().unwrap().remove("rows_digest").unwrap();
    }
    // Manifests of that time had no seal either.
    manifest.as_object_mut().unwrap().remove("seal").unwrap();
    inner.put_opts(&key, manifest.to_string().into(), PutMode::Overwrite).await.unwrap();
    let old = store.version("d", &v1.digest).await.unwrap();
    assert_eq!(store.read_all(&old).await.unwrap(), all);
    assert_eq!(store.commit(NewDataset::new("d", [all])).await.unwrap().digest, v1.digest);
}

#[tokio::test]
async fn a_damaged_sketch_or_schema_is_an_error() {
    let inner = MemoryStore::default();
    let store = ParquetDatasets::new(inner.clone());
    let version = store.commit(NewDataset::new("d", [rows(0..100)])).await.unwrap();
    for digest in [version.schema, version.sketches.unwrap()] {
        let key = mlops_core::store::artifact_key(&digest);
        let kept = inner.get(&key).await.unwrap();
        inner.put_opts(&key, kept.slice(..kept.len() / 2), PutMode::Overwrite).await.unwrap();
    }
    assert!(matches!(store.sketches(&version).await, Err(Error::Corrupt { .. })));
    assert!(matches!(store.read_all(&version).await, Err(Error::Corrupt { .. })));
}

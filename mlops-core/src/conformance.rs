//! Conformance suites: one function per sentence of a contract, runnable on any backend, this crate's or yours.
//!
//! Each macro makes a module of named tests. Its second argument is evaluated for each test, may `.await`, and gives a
//! fresh, empty backend with something to keep alive beside it (a temporary directory, or `()`):
//!
//! ```
//! use mlops_core::store::MemoryStore;
//! mlops_core::artifact_store_conformance!(memory, (MemoryStore::default(), ()));
//! # fn main() {}
//! ```
//!
//! The crate that uses a macro needs `tokio` with its `macros` and `rt` features. A failed check panics, as a test does.
#![allow(clippy::unwrap_used, clippy::missing_panics_doc)] // these functions are tests: panicking is how they report

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use bytes::Bytes;
use futures::TryStreamExt;
use futures::future::join_all;

use crate::audit::{AuditEvent, AuditLog, AuditLogExt, export, verify_export};
use crate::clock::from_micros;
#[cfg(feature = "datasets")]
use crate::dataset::{DatasetStore, DatasetStoreExt, NewDataset};
use crate::inference::{InferenceLog, InferenceRecord, InferenceSink, SHADOW};
use crate::lineage::openlineage::{EventType, Job, Run, RunEvent};
use crate::lineage::{Edge, LineageSink, LineageStore, Node, NodeKind, NodeRef};
use crate::store::{ArtifactStore, ArtifactStoreExt, BlobReader, PutMode, artifact_key, chunks_key};
use crate::{Clock as _, DatasetRef, Digest, Error, PredictionId, RunId, SystemClock};

#[doc(hidden)]
#[macro_export]
macro_rules! __conformance {
    ($(#[$attribute:meta])* $suite:ident, $fresh:expr, $cases:ident; $($case:ident),+ $(,)?) => {
        $crate::__conformance!(@ [$(#[$attribute])*] $suite, $fresh, $cases; $($case),+);
    };
    (@ $attributes:tt $suite:ident, $fresh:expr, $cases:ident; $($case:ident),+) => {
        mod $suite {
            #[allow(unused_imports)]
            use super::*;
            $($crate::__conformance!(@@ $attributes $case, $fresh, $cases);)+
        }
    };
    (@@ [$(#[$attribute:meta])*] $case:ident, $fresh:expr, $cases:ident) => {
        #[tokio::test]
        $(#[$attribute])*
        async fn $case() {
            let (fresh, _alive) = $fresh;
            $crate::conformance::$cases::$case(&fresh).await;
        }
    };
}

/// Tests of [`ArtifactStore`]'s contract: `artifact_store_conformance!(name, (store, keep_alive))`. Attributes before the
/// name go to each test: `#[ignore = "needs a server"]`.
#[macro_export]
macro_rules! artifact_store_conformance {
    ($(#[$attribute:meta])* $suite:ident, $fresh:expr) => {
        $crate::__conformance!($(#[$attribute])* $suite, $fresh, artifact_store;
            reads_what_was_written, missing_is_not_found, create_is_exclusive, one_of_many_creates_wins,
            overwrite_replaces, list_is_sorted_and_scoped, delete_is_idempotent, bad_keys_are_refused,
            ranges_are_cut_at_the_end, objects_are_described, staged_objects_are_kept, artifacts_are_verified,
            artifacts_are_idempotent, blobs_read_back_whole_and_in_part, nearly_equal_blobs_share_their_chunks,
            damaged_blobs_are_corrupt);
    };
}

/// The cases of [`artifact_store_conformance!`](crate::artifact_store_conformance).
pub mod artifact_store {
    use super::*;

    /// What `get` returns is what `put_opts` was given, empty objects included.
    pub async fn reads_what_was_written(store: &dyn ArtifactStore) {
        let large = Bytes::from(vec![7; 3 << 20]);
        for (key, data) in [("a/empty", Bytes::new()), ("a/b/c", "abc".into()), ("large", large)] {
            store.put(key, data.clone()).await.unwrap();
            assert_eq!(store.get(key).await.unwrap(), data, "{store}: {key}");
        }
    }

    /// Contract: a missing object is `NotFound`.
    pub async fn missing_is_not_found(store: &dyn ArtifactStore) {
        store.put("no/folder/x", "x".into()).await.unwrap();
        for key in ["no/such", "nowhere/near", "no/folder"] {
            assert!(matches!(store.get(key).await, Err(Error::NotFound { .. })), "{store}: {key}");
            assert!(matches!(store.get_range(key, 0..1).await, Err(Error::NotFound { .. })), "{store}: {key}");
            assert!(matches!(store.head(key).await, Err(Error::NotFound { .. })), "{store}: {key}");
        }
        let digest = Digest::of(b"never stored");
        assert!(matches!(store.get_artifact(&digest).await, Err(Error::NotFound { .. })), "{store}");
    }

    /// Contract: exclusive create.
    pub async fn create_is_exclusive(store: &dyn ArtifactStore) {
        store.put_opts("m/1", "a".into(), PutMode::Create).await.unwrap();
        let err = store.put_opts("m/1", "b".into(), PutMode::Create).await.unwrap_err();
        assert!(matches!(err, Error::AlreadyExists { .. }), "{store}: {err}");
        assert_eq!(store.get("m/1").await.unwrap(), "a", "{store}: the loser overwrote");
    }

    /// Contract: of N concurrent creates of a key, N - 1 get `AlreadyExists`.
    pub async fn one_of_many_creates_wins(store: &dyn ArtifactStore) {
        let creates = (0..16).map(|i| store.put_opts("race", Bytes::from(format!("writer {i}")), PutMode::Create));
        let outcomes = join_all(creates).await;
        let winners: Vec<usize> = (0..16).filter(|&i| outcomes[i].is_ok()).collect();
        assert_eq!(winners.len(), 1, "{store}: {outcomes:?}");
        assert_eq!(store.get("race").await.unwrap(), format!("writer {}", winners[0]), "{store}");
    }

    /// `Overwrite` replaces.
    pub async fn overwrite_replaces(store: &dyn ArtifactStore) {
        store.put("k", "long old contents".into()).await.unwrap();
        store.put("k", "new".into()).await.unwrap();
        assert_eq!(store.get("k").await.unwrap(), "new", "{store}");
    }

    /// Contract: `list` yields keys in ascending byte order, each once, and only those under the prefix.
    pub async fn list_is_sorted_and_scoped(store: &dyn ArtifactStore) {
        for key in ["b/2", "b/10", "b/1/x", "ba/1", "a", "B/1"] {
            store.put(key, "x".into()).await.unwrap();
        }
        let keys = async |prefix| -> Vec<String> {
            store.list(prefix).await.unwrap().into_iter().map(|object| object.key).collect()
        };
        assert_eq!(keys("b/").await, ["b/1/x", "b/10", "b/2"], "{store}");
        assert_eq!(keys("").await, ["B/1", "a", "b/1/x", "b/10", "b/2", "ba/1"], "{store}");
        assert!(store.list("none/").await.unwrap().is_empty(), "{store}");
        assert!(store.list("b").await.is_err(), "{store}: a prefix ends at a segment");
    }

    /// Contract: deleting a missing key is `Ok`.
    pub async fn delete_is_idempotent(store: &dyn ArtifactStore) {
        store.put("gone", "x".into()).await.unwrap();
        store.delete("gone").await.unwrap();
        store.delete("gone").await.unwrap();
        assert!(matches!(store.get("gone").await, Err(Error::NotFound { .. })), "{store}");
    }

    /// Contract: a key that could lead elsewhere is refused by every call.
    pub async fn bad_keys_are_refused(store: &dyn ArtifactStore) {
        for key in ["", "/etc/passwd", "../up", "a/../../up", "a//b", "a/", "a b", "a\0b"] {
            let refused =
                |result: crate::Result<()>| assert!(matches!(result, Err(Error::InvalidInput { .. })), "{key:?}");
            refused(store.put(key, "x".into()).await);
            refused(store.get(key).await.map(drop));
            refused(store.get_range(key, 0..1).await.map(drop));
            refused(store.head(key).await.map(drop));
            refused(store.delete(key).await);
        }
        assert!(store.list("../").await.is_err(), "{store}");
    }

    /// Contract: ranges are cut at the object's end; a start behind it is refused.
    pub async fn ranges_are_cut_at_the_end(store: &dyn ArtifactStore) {
        store.put("ten", "0123456789".into()).await.unwrap();
        for (range, expected) in [(0..10, "0123456789"), (3..5, "34"), (8..99, "89"), (4..4, ""), (10..11, "")] {
            assert_eq!(store.get_range("ten", range.clone()).await.unwrap(), expected, "{store}: {range:?}");
        }
        assert!(matches!(store.get_range("ten", 11..12).await, Err(Error::InvalidInput { .. })), "{store}");
        #[allow(clippy::reversed_empty_ranges)]
        let backwards = 5..3;
        assert!(matches!(store.get_range("ten", backwards).await, Err(Error::InvalidInput { .. })), "{store}");
    }

    /// `head` and `list` tell the size that `get` returns, and when the object was written.
    pub async fn objects_are_described(store: &dyn ArtifactStore) {
        store.put("a/ten", "0123456789".into()).await.unwrap();
        let meta = store.head("a/ten").await.unwrap();
        assert_eq!((&*meta.key, meta.bytes), ("a/ten", 10), "{store}");
        let age = SystemClock.now() - meta.modified;
        assert!(age.abs() < chrono::TimeDelta::minutes(5), "{store}: written {age} ago");
        assert_eq!(store.list("a/").await.unwrap(), [meta], "{store}");
    }

    /// Contract: staged objects are there, exclusively, and stay after `sync`.
    pub async fn staged_objects_are_kept(store: &dyn ArtifactStore) {
        for i in 0..20 {
            store.put_opts(&format!("staged/{i:02}"), "x".into(), PutMode::Stage).await.unwrap();
        }
        let again = store.put_opts("staged/03", "y".into(), PutMode::Stage).await;
        assert!(matches!(again, Err(Error::AlreadyExists { .. })), "{store}");
        store.delete("staged/07").await.unwrap();
        store.sync().await.unwrap();
        assert_eq!(store.list("staged/").await.unwrap().len(), 19, "{store}");
        assert_eq!(store.get("staged/03").await.unwrap(), "x", "{store}");
    }

    /// Bytes that look random, the same each time.
    fn noise(bytes: usize, seed: u64) -> Vec<u8> {
        let mut out = vec![0; bytes];
        let mut hasher = blake3::Hasher::new();
        hasher.update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
        out
    }

    fn pieces(data: &[u8], size: usize) -> impl futures::Stream<Item = crate::Result<Bytes>> + Send + use<> {
        let pieces: Vec<_> = data.chunks(size).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
        futures::stream::iter(pieces)
    }

    /// Blobs of any size read back, whole, in pieces and in part, and are found as artifacts; pieces do not matter.
    pub async fn blobs_read_back_whole_and_in_part(store: &dyn ArtifactStore) {
        for bytes in [0, 1, 65_536, 300_000, 9_000_000] {
            let data = noise(bytes, 1);
            let blob = store.put_blob(pieces(&data, 100_001)).await.unwrap();
            assert_eq!((blob.bytes, blob.digest), (bytes as u64, Digest::of(&data)), "{store}");
            assert_eq!(blob, store.put_blob(pieces(&data, 7_777)).await.unwrap(), "{store}");
            assert_eq!(store.get_artifact(&blob.digest).await.unwrap(), data, "{store}");
            let reader = store.open_blob(&blob.digest).await.unwrap();
            assert_eq!(reader.bytes(), bytes as u64, "{store}");
            for (from, to) in [(0, 10), (bytes / 3, 2 * bytes / 3), (bytes.saturating_sub(5), bytes + 5)] {
                let part = reader.range(from as u64..to as u64).await.unwrap();
                assert_eq!(part, data[from.min(bytes)..to.min(bytes)], "{store}: {from}..{to} of {bytes}");
            }
            let read: Vec<Bytes> = reader.stream().try_collect().await.unwrap();
            assert_eq!(read.concat(), data, "{store}");
        }
        assert!(matches!(store.open_blob(&Digest::of(b"none")).await, Err(Error::NotFound { .. })), "{store}");
    }

    /// Bytes inserted in the middle cost little more than themselves.
    pub async fn nearly_equal_blobs_share_their_chunks(store: &dyn ArtifactStore) {
        let mut data = noise(20 << 20, 2);
        let first = store.put_blob(pieces(&data, 1 << 20)).await.unwrap();
        assert_eq!(first.new_bytes, first.bytes, "{store}");
        data.splice(7_000_000..7_000_000, noise(1000, 3));
        let second = store.put_blob(pieces(&data, 1 << 20)).await.unwrap();
        assert!(second.new_bytes >= 1000 && second.new_bytes <= 3 << 20, "{store}: {}", second.new_bytes);
    }

    /// A damaged chunk, a missing one and a damaged list are errors, never bytes; writing the blob again mends it.
    pub async fn damaged_blobs_are_corrupt(store: &dyn ArtifactStore) {
        let data = noise(3_000_000, 4);
        let blob = store.put_blob(pieces(&data, 1 << 20)).await.unwrap();
        let chunk = store.open_blob(&blob.digest).await.unwrap().chunks().nth(2).unwrap();
        let read = async || -> crate::Result<Bytes> {
            let reader = BlobReader::open_as(store, &blob).await?;
            let read: Vec<Bytes> = reader.stream().try_collect().await?;
            Ok(read.concat().into())
        };
        for key in [artifact_key(&chunk), chunks_key(&blob.digest)] {
            let kept = store.get(&key).await.unwrap();
            store.put(&key, kept.slice(..kept.len() - 36)).await.unwrap();
            assert!(matches!(read().await, Err(Error::Corrupt { .. })), "{store}: {key}");
            assert!(store.get_artifact(&blob.digest).await.is_err(), "{store}: {key}");
            store.delete(&key).await.unwrap();
            assert!(matches!(read().await, Err(Error::NotFound { .. })), "{store}: {key}");
            store.put_blob(pieces(&data, 1 << 20)).await.unwrap();
            assert_eq!(read().await.unwrap(), data, "{store}: {key} was mended");
        }
    }

    /// Damaged bytes are `Corrupt`, never an answer.
    pub async fn artifacts_are_verified(store: &dyn ArtifactStore) {
        let digest = store.put_artifact("weights".into()).await.unwrap();
        assert_eq!(store.get_artifact(&digest).await.unwrap(), "weights", "{store}");
        store.put(&artifact_key(&digest), "weighty".into()).await.unwrap();
        assert!(matches!(store.get_artifact(&digest).await, Err(Error::Corrupt { .. })), "{store}");
        store.put_artifact("weights".into()).await.unwrap();
        assert_eq!(store.get_artifact(&digest).await.unwrap(), "weights", "{store}: writing them again mends them");
    }

    /// Writing equal bytes again gives the same digest and one object.
    pub async fn artifacts_are_idempotent(store: &dyn ArtifactStore) {
        let first = store.put_artifact("weights".into()).await.unwrap();
        let again = store.put_artifact("weights".into()).await.unwrap();
        assert_eq!(first, again, "{store}");
        assert_eq!(store.list("artifacts/").await.unwrap().len(), 1, "{store}");
    }
}

#[cfg(feature = "datasets")]
/// Tests of [`DatasetStore`]'s contract: `dataset_store_conformance!(name, (store, keep_alive))`.
#[macro_export]
macro_rules! dataset_store_conformance {
    ($suite:ident, $fresh:expr) => {
        $crate::__conformance!($suite, $fresh, dataset_store;
            rows_read_back_bit_for_bit, equal_rows_are_one_version, versions_are_listed_in_order,
            parents_and_sources_are_kept, missing_versions_are_not_found, what_cannot_be_kept_is_refused);
    };
}

#[cfg(feature = "datasets")]
/// The cases of [`dataset_store_conformance!`](crate::dataset_store_conformance).
pub mod dataset_store {
    use super::*;

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
        let cut =
            store.commit(NewDataset::new("long", [long.slice(0, 30_001), long.slice(30_001, 19_999)])).await.unwrap();
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
}

/// Tests of [`AuditLog`]'s contract: `audit_log_conformance!(name, (log, keep_alive))`.
#[macro_export]
macro_rules! audit_log_conformance {
    ($(#[$attribute:meta])* $suite:ident, $fresh:expr) => {
        $crate::__conformance!($(#[$attribute])* $suite, $fresh, audit_log;
            an_empty_log_verifies, entries_come_back_in_order, concurrent_appends_get_distinct_places,
            everything_about_an_event_is_kept, a_repeated_append_adds_nothing, pages_of_any_size_join_up,
            long_and_foreign_text_is_kept, concurrent_repeats_are_one_entry, exports_verify);
    };
}

/// The cases of [`audit_log_conformance!`](crate::audit_log_conformance).
pub mod audit_log {
    use super::*;

    fn event(n: i64) -> AuditEvent {
        AuditEvent::new(from_micros(n), "ana", "version.create", format!("model prices/{n}"))
    }

    /// An empty log is a whole chain.
    pub async fn an_empty_log_verifies(log: &dyn AuditLog) {
        assert_eq!(log.verify().await.unwrap().unwrap().entries, 0, "{log}");
        assert!(log.entries(1, 10).await.unwrap().is_empty(), "{log}");
    }

    /// Contract: ascending places without gaps, pages included.
    pub async fn entries_come_back_in_order(log: &dyn AuditLog) {
        for n in 1..=7 {
            assert_eq!(log.append(event(n)).await.unwrap().seq, n as u64, "{log}");
        }
        let seqs = |entries: Vec<crate::audit::AuditEntry>| entries.iter().map(|e| e.seq).collect::<Vec<_>>();
        assert_eq!(seqs(log.entries(3, 2).await.unwrap()), [3, 4], "{log}");
        assert_eq!(seqs(log.entries(6, 100).await.unwrap()), [6, 7], "{log}");
        assert_eq!(log.verify().await.unwrap().unwrap().entries, 7, "{log}");
    }

    /// Contract: concurrent appends get distinct places, and the chain holds.
    pub async fn concurrent_appends_get_distinct_places(log: &dyn AuditLog) {
        let appended = join_all((0..25).map(|n| log.append(event(n)))).await;
        let mut seqs: Vec<u64> = appended.into_iter().map(|e| e.unwrap().seq).collect();
        seqs.sort_unstable();
        assert_eq!(seqs, (1..=25).collect::<Vec<_>>(), "{log}");
        assert_eq!(log.verify().await.unwrap().unwrap().entries, 25, "{log}");
    }

    /// Actor, action, resource, before, after, reason and time come back as they were given.
    pub async fn everything_about_an_event_is_kept(log: &dyn AuditLog) {
        let before = serde_json::json!({"version": 1, "share": 0.1, "names": ["ß", "\u{0}", "\""]});
        let event = event(1).change(before, serde_json::json!(null)).because("it was worse\nby far");
        let entry = log.append(event.clone()).await.unwrap();
        assert_eq!(log.entries(1, 1).await.unwrap(), std::slice::from_ref(&entry), "{log}");
        assert_eq!(entry.event, event, "{log}");
    }

    /// Contract: an event equal in every field is the one that is there.
    pub async fn a_repeated_append_adds_nothing(log: &dyn AuditLog) {
        let first = log.append(event(1)).await.unwrap();
        log.append(event(2)).await.unwrap();
        assert_eq!(log.append(event(1)).await.unwrap(), first, "{log}");
        assert_eq!(log.append(event(1).because("another reason")).await.unwrap().seq, 3, "{log}");
        assert_eq!(log.verify().await.unwrap().unwrap().entries, 3, "{log}");
    }

    /// Contract: a page holds as many as there are up to its limit, and one past the end is empty.
    pub async fn pages_of_any_size_join_up(log: &dyn AuditLog) {
        for n in 1..=11 {
            log.append(event(n)).await.unwrap();
        }
        let all = log.entries(1, 100).await.unwrap();
        assert_eq!(log.all_entries().await.unwrap(), all, "{log}");
        for size in 1..=12 {
            let mut joined = Vec::new();
            loop {
                let page = log.entries(joined.len() as u64 + 1, size).await.unwrap();
                assert!(page.len() == size || joined.len() + page.len() == 11, "{log}: a page of {size} is full");
                if page.is_empty() {
                    break;
                }
                joined.extend(page);
            }
            assert_eq!(joined, all, "{log}: pages of {size}");
        }
        assert_eq!(log.entries(0, 1).await.unwrap(), all[..1], "{log}");
        assert!(log.entries(1, 0).await.unwrap().is_empty(), "{log}");
        for past in [12, u64::from(u32::MAX), u64::MAX] {
            assert!(log.entries(past, 10).await.unwrap().is_empty(), "{log}: {past}");
        }
    }

    /// Text of a megabyte and of any script comes back, and the chain holds over it.
    pub async fn long_and_foreign_text_is_kept(log: &dyn AuditLog) {
        let texts = [
            "x".repeat(1 << 20),
            "日本語 ß 👩‍🔬 \u{202e}\u{10ffff} e\u{301}".into(),
            "'; DROP TABLE audit_log; --".into(),
        ];
        for (n, text) in texts.iter().enumerate() {
            let at = from_micros(n as i64);
            let new =
                AuditEvent::new(at, text, text, text).because(text).change(text.as_str().into(), text.as_str().into());
            let entry = log.append(new.clone()).await.unwrap();
            assert_eq!(entry.event, new, "{log}");
            assert_eq!(log.entries(n as u64 + 1, 1).await.unwrap(), [entry], "{log}");
        }
        assert_eq!(log.verify().await.unwrap().unwrap().entries, 3, "{log}");
    }

    /// Contract: of concurrent appends of one event, one adds it and all give it.
    pub async fn concurrent_repeats_are_one_entry(log: &dyn AuditLog) {
        let appended = join_all((0..20).map(|n| log.append(event(n % 4)))).await;
        let entries: Vec<_> = appended.into_iter().map(|e| e.unwrap()).collect();
        for entry in &entries {
            assert!(entries.iter().all(|e| e.event != entry.event || e == entry), "{log}");
        }
        assert_eq!(log.verify().await.unwrap().unwrap().entries, 4, "{log}");
    }

    /// What `export` gives is what `verify_export` accepts, over several pages.
    pub async fn exports_verify(log: &dyn AuditLog) {
        for n in 1..=300 {
            log.append(event(n).change(serde_json::json!(null), serde_json::json!({"share": 0.1, "n": n})))
                .await
                .unwrap();
        }
        let lines: Vec<String> = export(log).try_collect().await.unwrap();
        assert_eq!(lines.len(), 301, "{log}: an entry a line, and the end");
        let summary = verify_export(lines.concat().as_bytes()).unwrap().unwrap();
        assert_eq!(summary, log.verify().await.unwrap().unwrap(), "{log}");
    }
}

/// Tests of [`TokenStore`](crate::auth::token::TokenStore)'s contract:
/// `token_store_conformance!(name, ((store, its audit log), keep_alive))`.
#[macro_export]
macro_rules! token_store_conformance {
    ($(#[$attribute:meta])* $suite:ident, $fresh:expr) => {
        $crate::__conformance!($(#[$attribute])* $suite, $fresh, token_store;
            tokens_read_back, an_id_is_given_once, revoking_is_idempotent_and_audited_once,
            tokens_are_listed_by_age, one_of_many_inserts_wins, issued_tokens_authenticate);
    };
}

/// The cases of [`token_store_conformance!`](crate::token_store_conformance).
pub mod token_store {
    use super::*;
    use crate::auth::Grant;
    use crate::auth::token::{NewToken, StoredToken, TokenHash, TokenInfo, TokenStore, Tokens};
    use crate::{ManualClock, Principal, Resource, Role, TokenId};

    fn token(n: u8, at: i64) -> StoredToken {
        let hash: TokenHash = Digest::of(&[n]).to_string().parse().unwrap();
        let who = Principal::new("ci \u{df}").with_role(Role::Viewer);
        let who = who.with_role_on(Role::Deployer, Resource::alias("prices", "champion").in_project("fraud"));
        let id = TokenId::derived(from_micros(at), &[n]);
        StoredToken { info: TokenInfo::new(id, who, "root".into(), from_micros(at), from_micros(at + 1)), hash }
    }

    fn event(action: &str, at: i64) -> AuditEvent {
        AuditEvent::new(from_micros(at), "root", action, "token")
    }

    async fn actions(audit: &impl AuditLog) -> Vec<String> {
        audit.all_entries().await.unwrap().into_iter().map(|e| e.event.action).collect()
    }

    /// What `find` gives is what `insert` was given; an id that was never given is none.
    pub async fn tokens_read_back<S: TokenStore, A: AuditLog>((store, audit): &(S, A)) {
        assert_eq!(store.find(token(1, 5).info.id).await.unwrap(), None, "{store}");
        store.insert(token(1, 5), event("token.issue", 5)).await.unwrap();
        assert_eq!(store.find(token(1, 5).info.id).await.unwrap(), Some(token(1, 5)), "{store}");
        assert_eq!(actions(audit).await, ["token.issue"], "{store}");
        assert!(!format!("{:?}", token(1, 5)).contains(&token(1, 5).hash.to_string()), "a hash is not shown");
    }

    /// Contract: a second insert of an id is refused, changes nothing and is not audited.
    pub async fn an_id_is_given_once<S: TokenStore, A: AuditLog>((store, audit): &(S, A)) {
        store.insert(token(1, 5), event("token.issue", 5)).await.unwrap();
        let other = StoredToken { hash: token(2, 5).hash, ..token(1, 5) };
        let error = store.insert(other, event("token.issue", 6)).await.unwrap_err();
        assert!(matches!(error, Error::AlreadyExists { .. }), "{store}: {error}");
        assert_eq!(store.find(token(1, 5).info.id).await.unwrap(), Some(token(1, 5)), "{store}");
        assert_eq!(actions(audit).await.len(), 1, "{store}");
    }

    /// Contract: revoking again keeps the first time and audits nothing; what is not there is `NotFound`.
    pub async fn revoking_is_idempotent_and_audited_once<S: TokenStore, A: AuditLog>((store, audit): &(S, A)) {
        let id = token(1, 5).info.id;
        let error = store.revoke(id, from_micros(7), event("token.revoke", 7)).await.unwrap_err();
        assert!(matches!(error, Error::NotFound { .. }), "{store}: {error}");
        store.insert(token(1, 5), event("token.issue", 5)).await.unwrap();
        for at in [7, 8] {
            let revoked = store.revoke(id, from_micros(at), event("token.revoke", at)).await.unwrap();
            assert_eq!(revoked.revoked_at, Some(from_micros(7)), "{store}");
            assert_eq!(store.find(id).await.unwrap().unwrap().info, revoked, "{store}");
        }
        assert_eq!(actions(audit).await, ["token.issue", "token.revoke"], "{store}");
    }

    /// Contract: `tokens` yields the oldest first.
    pub async fn tokens_are_listed_by_age<S: TokenStore, A: AuditLog>((store, _): &(S, A)) {
        assert!(store.tokens().await.unwrap().is_empty(), "{store}");
        for (n, at) in [(1, 30), (2, 10), (3, 20), (4, 10)] {
            store.insert(token(n, at), event("token.issue", i64::from(n))).await.unwrap();
        }
        let mut expected: Vec<TokenInfo> = [(1, 30), (2, 10), (3, 20), (4, 10)].map(|(n, at)| token(n, at).info).into();
        expected.sort_by_key(|token| (token.created_at, token.id));
        assert_eq!(store.tokens().await.unwrap(), expected, "{store}");
    }

    /// Of concurrent inserts of one id, one is kept and audited.
    pub async fn one_of_many_inserts_wins<S: TokenStore, A: AuditLog>((store, audit): &(S, A)) {
        let inserted = join_all((0..8).map(|n| store.insert(token(1, 5), event("token.issue", n)))).await;
        assert_eq!(inserted.iter().filter(|r| r.is_ok()).count(), 1, "{store}: {inserted:?}");
        assert_eq!(actions(audit).await.len(), 1, "{store}");
    }

    /// A token from [`Tokens`] over this store authenticates until it expires or is revoked, and holds what it was given.
    pub async fn issued_tokens_authenticate<S: TokenStore + Clone, A: AuditLog>((store, audit): &(S, A)) {
        let clock = ManualClock::at(from_micros(1_000_000));
        let tokens = Tokens::new(store.clone()).clock(clock.clone());
        let root = Principal::new("root").with_role(Role::Admin);
        let grant = Grant::on(Role::Deployer, Resource::model("prices"));
        let new =
            || NewToken::new(Duration::from_secs(60)).speaks_as("ci").grant(grant.clone()).because("for the build");
        let (secret, info) = tokens.issue(&root, new()).await.unwrap();
        let (other, second) = tokens.issue(&root, new()).await.unwrap();
        assert_eq!(tokens.authenticate(secret.reveal()).await.unwrap(), info, "{store}");
        assert_eq!(info.principal(), Principal { name: "ci".into(), grants: vec![grant] }, "{store}");
        tokens.revoke(&root, second.id, "lost").await.unwrap();
        let message = |r: crate::Result<TokenInfo>| r.unwrap_err().to_string();
        assert!(message(tokens.authenticate(other.reveal()).await).contains("was revoked"), "{store}");
        clock.advance(Duration::from_secs(59));
        tokens.authenticate(secret.reveal()).await.unwrap();
        clock.advance(Duration::from_secs(1));
        assert!(message(tokens.authenticate(secret.reveal()).await).contains("expired"), "{store}");
        assert_eq!(actions(audit).await, ["token.issue", "token.issue", "token.revoke"], "{store}");
        let entry = &audit.entries(1, 1).await.unwrap()[0].event;
        assert_eq!((entry.actor.as_str(), entry.reason.as_str()), ("root", "for the build"), "{store}");
        assert_eq!(entry.after["speaks_as"], "ci", "{store}");
        let kept = format!("{:?}", audit.all_entries().await.unwrap());
        assert!(!kept.contains(&secret.reveal()[39..]), "{store}: no secret in the log");
    }
}

/// Tests of [`LineageStore`]'s contract: `lineage_store_conformance!(name, (store, keep_alive))`.
#[macro_export]
macro_rules! lineage_store_conformance {
    ($(#[$attribute:meta])* $suite:ident, $fresh:expr) => {
        $crate::__conformance!($(#[$attribute])* $suite, $fresh, lineage_store;
            walks_reach_what_they_should, recording_again_changes_only_facts, cycles_end, unknown_starts_are_not_found,
            every_kind_reads_back);
    };
}

/// The cases of [`lineage_store_conformance!`](crate::lineage_store_conformance).
pub mod lineage_store {
    use super::*;

    fn ids() -> (NodeRef, NodeRef, NodeRef) {
        let data = DatasetRef { name: "prices".to_owned(), digest: Digest::of(b"rows") };
        let run = RunId::derived(from_micros(0), b"run");
        (NodeRef::dataset(&data), NodeRef::run(run), NodeRef::model("prices", 1))
    }

    fn names(graph: &crate::lineage::Graph) -> Vec<NodeRef> {
        graph.nodes.iter().map(|n| n.node.clone()).collect()
    }

    /// Contract: nearest first, each once, the start included, no further than the depth.
    pub async fn walks_reach_what_they_should(store: &dyn LineageStore) {
        let (data, run, model) = ids();
        let known = [Node::new(run.clone()).fact("commit", "abc")];
        let edges = [Edge::new(data.clone(), run.clone()), Edge::new(run.clone(), model.clone())];
        store.record(&known, &edges).await.unwrap();
        let up = store.upstream(&model, usize::MAX).await.unwrap();
        assert_eq!(names(&up), [model.clone(), run.clone(), data.clone()], "{store}");
        assert_eq!(up.edges.len(), 2, "{store}");
        assert_eq!(up.nodes[1].facts["commit"], "abc", "{store}");
        assert_eq!(names(&store.upstream(&model, 1).await.unwrap()), [model.clone(), run.clone()], "{store}");
        assert_eq!(names(&store.upstream(&model, 0).await.unwrap()), std::slice::from_ref(&model), "{store}");
        assert_eq!(names(&store.downstream(&data, 9).await.unwrap()), [data, run, model], "{store}");
    }

    /// Contract: recording again adds or replaces facts, nothing else.
    pub async fn recording_again_changes_only_facts(store: &dyn LineageStore) {
        let (data, run, _) = ids();
        let edge = [Edge::new(data.clone(), run.clone())];
        store.record(&[Node::new(run.clone()).fact("a", 1).fact("b", 1)], &edge).await.unwrap();
        store.record(&[Node::new(run.clone()).fact("b", 2)], &edge).await.unwrap();
        let graph = store.upstream(&run, 5).await.unwrap();
        assert_eq!((graph.nodes.len(), graph.edges.len()), (2, 1), "{store}");
        assert_eq!((&*graph.nodes[0].facts["a"], &*graph.nodes[0].facts["b"]), ("1", "2"), "{store}");
    }

    /// Contract: cycles end by themselves.
    pub async fn cycles_end(store: &dyn LineageStore) {
        let (a, b, c) = ids();
        let edges = [Edge::new(a.clone(), b.clone()), Edge::new(b.clone(), c.clone()), Edge::new(c.clone(), a.clone())];
        store.record(&[], &edges).await.unwrap();
        assert_eq!(store.upstream(&a, usize::MAX).await.unwrap().nodes.len(), 3, "{store}");
    }

    /// Nodes of every kind come back as they were, and are told apart by it.
    pub async fn every_kind_reads_back(store: &dyn LineageStore) {
        use NodeKind::{Dataset, Deployment, Job, Model, Prediction, PredictionBatch, Run, Step};
        let kinds = [Dataset, Job, Run, Step, Model, Deployment, Prediction, PredictionBatch];
        let chain = kinds.map(|kind| NodeRef { kind, id: "same \"ß\n".to_owned() });
        let edges: Vec<Edge> = chain.windows(2).map(|pair| Edge::new(pair[0].clone(), pair[1].clone())).collect();
        store.record(&[], &edges).await.unwrap();
        assert_eq!(names(&store.downstream(&chain[0], usize::MAX).await.unwrap()), chain, "{store}");
        for kind in kinds {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str(), "the word is the one that is stored");
        }
    }

    /// Contract: a start that was never recorded is `NotFound`.
    pub async fn unknown_starts_are_not_found(store: &dyn LineageStore) {
        assert!(matches!(store.upstream(&ids().0, 1).await, Err(Error::NotFound { .. })), "{store}");
    }
}

/// Tests of [`LineageSink`]'s contract: `lineage_sink_conformance!(name, (sink, keep_alive))`. The sink is one that
/// delivers, with room for at least 200 events.
#[macro_export]
macro_rules! lineage_sink_conformance {
    ($suite:ident, $fresh:expr) => {
        $crate::__conformance!($suite, $fresh, lineage_sink;
            counts_add_up_at_every_moment, flush_settles_everything, many_threads_may_emit);
    };
}

/// The cases of [`lineage_sink_conformance!`](crate::lineage_sink_conformance).
pub mod lineage_sink {
    use super::*;

    fn event(n: i64) -> RunEvent {
        let run = Run::new(RunId::derived(from_micros(n), b"run"));
        RunEvent::new(EventType::Complete, from_micros(n), run, Job::new("shop", "train"))
    }

    fn adds_up(sink: &dyn LineageSink) -> crate::lineage::SinkCounts {
        let counts = sink.counts();
        assert_eq!(counts.emitted, counts.delivered + counts.dropped.total() + counts.queued, "{sink}: {counts}");
        counts
    }

    /// Contract: `emitted = delivered + dropped + queued`.
    pub async fn counts_add_up_at_every_moment(sink: &dyn LineageSink) {
        let before = adds_up(sink).emitted;
        assert_eq!(before, 0, "{sink}");
        for n in 0..100 {
            sink.emit(event(n));
            adds_up(sink);
        }
        assert!(adds_up(sink).emitted >= 100, "{sink}");
        sink.flush().await;
        adds_up(sink);
    }

    /// Contract: after `flush`, what was emitted before is delivered or dropped; a sink that delivers drops nothing.
    pub async fn flush_settles_everything(sink: &dyn LineageSink) {
        sink.flush().await; // nothing to wait for
        (0..50).for_each(|n| sink.emit(event(n)));
        sink.flush().await;
        let counts = adds_up(sink);
        assert_eq!((counts.queued, counts.dropped.total()), (0, 0), "{sink}: {counts}");
        assert_eq!(counts.delivered, counts.emitted, "{sink}");
    }

    /// Contract: from any thread.
    pub async fn many_threads_may_emit(sink: &dyn LineageSink) {
        std::thread::scope(|scope| {
            for thread in 0..4 {
                scope.spawn(move || (0..25).for_each(|n| sink.emit(event(thread * 25 + n))));
            }
        });
        sink.flush().await;
        assert_eq!(adds_up(sink).delivered, adds_up(sink).emitted, "{sink}");
    }
}

/// The JSON schemas that lineage events follow: of OpenLineage 2-0-2, of its facets and of our own. Each has its name
/// under `$id`, and every `$ref` of one leads to another.
#[must_use]
pub fn openlineage_schemas() -> Vec<serde_json::Value> {
    macro_rules! schemas {
        ($($file:literal),+ $(,)?) => { [$(include_str!(concat!("../schemas/", $file, ".json"))),+] };
    }
    let texts = schemas!(
        "openlineage/OpenLineage",
        "openlineage/facets/ColumnLineageDatasetFacet",
        "openlineage/facets/DataQualityMetricsDatasetFacet",
        "openlineage/facets/DataQualityMetricsInputDatasetFacet",
        "openlineage/facets/DatasetVersionDatasetFacet",
        "openlineage/facets/ErrorMessageRunFacet",
        "openlineage/facets/JobTypeJobFacet",
        "openlineage/facets/NominalTimeRunFacet",
        "openlineage/facets/ParentRunFacet",
        "openlineage/facets/SchemaDatasetFacet",
        "openlineage/facets/SourceCodeLocationJobFacet",
        "MlopsDeploymentDatasetFacet",
        "MlopsEnvironmentRunFacet",
        "MlopsModelDatasetFacet",
        "MlopsPredictionsDatasetFacet",
        "MlopsStepRunFacet",
    );
    texts.iter().map(|text| serde_json::from_str(text).unwrap()).collect()
}

/// Tests of [`InferenceSink`]'s and [`InferenceLog`]'s contracts, for a type that is both:
/// `inference_log_conformance!(name, (log, keep_alive))`.
#[macro_export]
macro_rules! inference_log_conformance {
    ($suite:ident, $fresh:expr) => {
        $crate::__conformance!($suite, $fresh, inference_log;
            what_was_flushed_is_found, rows_of_one_request_are_found_one_by_one, the_answer_wins_over_its_shadow,
            flushes_of_one_moment_keep_apart, scans_are_half_open_and_sorted, records_of_unequal_length_are_refused);
    };
}

/// The cases of [`inference_log_conformance!`](crate::inference_log_conformance).
pub mod inference_log {
    use super::*;

    fn record(minute: i64, arm: &str, rows: usize) -> InferenceRecord {
        let at = from_micros(minute * 60_000_000);
        let x: Vec<f64> = (0..rows).map(|i| i as f64 + minute as f64).collect();
        let inputs = RecordBatch::try_from_iter([("x", Arc::new(Float64Array::from(x)) as _)]);
        let inputs = inputs.unwrap();
        InferenceRecord {
            ids: (0..rows).map(|i| PredictionId::derived(at, &[i as u8])).collect(),
            at,
            deployment: "d".into(),
            model: "m".into(),
            version: 3,
            arm: arm.into(),
            key: "caller".into(),
            latency: Duration::from_micros(12),
            outputs: inputs.clone(),
            inputs,
        }
    }

    /// Contract: what was flushed is found, everything about it included.
    pub async fn what_was_flushed_is_found(log: &(impl InferenceSink + InferenceLog)) {
        let written = record(1, "champion", 1);
        InferenceSink::write(log, written.clone()).await.unwrap();
        log.flush().await.unwrap();
        assert_eq!(log.find(written.ids[0]).await.unwrap().unwrap(), written, "{log:?}");
        assert!(log.find(PredictionId::derived(from_micros(0), b"none")).await.unwrap().is_none(), "{log:?}");
    }

    /// Each row is found under its own id.
    pub async fn rows_of_one_request_are_found_one_by_one(log: &(impl InferenceSink + InferenceLog)) {
        let written = record(1, "champion", 3);
        log.write(written.clone()).await.unwrap();
        log.flush().await.unwrap();
        for (i, id) in written.ids.iter().enumerate() {
            let found = log.find(*id).await.unwrap().unwrap();
            assert_eq!((found.ids, found.inputs), (vec![*id], written.inputs.slice(i, 1)), "{log:?}");
        }
    }

    /// Contract: where arms share an id, `find` returns the one whose answer was given.
    pub async fn the_answer_wins_over_its_shadow(log: &(impl InferenceSink + InferenceLog)) {
        log.write(record(1, SHADOW, 1)).await.unwrap();
        log.write(record(1, "champion", 1)).await.unwrap();
        log.write(record(1, SHADOW, 1)).await.unwrap();
        log.flush().await.unwrap();
        let found = log.find(record(1, SHADOW, 1).ids[0]).await.unwrap().unwrap();
        assert_eq!(&*found.arm, "champion", "{log:?}");
    }

    /// What two flushes write of one moment is all kept.
    pub async fn flushes_of_one_moment_keep_apart(log: &(impl InferenceSink + InferenceLog)) {
        for arm in ["champion", SHADOW] {
            log.write(record(1, arm, 1)).await.unwrap();
            log.flush().await.unwrap();
        }
        let found = log.scan(from_micros(0), from_micros(i64::MAX / 2)).await.unwrap();
        assert_eq!(found.len(), 2, "{log:?}");
        let answer = log.find(record(1, SHADOW, 1).ids[0]).await.unwrap().unwrap();
        assert_eq!(&*answer.arm, "champion", "{log:?}");
    }

    /// Contract: rows in `from..until`, oldest first.
    pub async fn scans_are_half_open_and_sorted(log: &(impl InferenceSink + InferenceLog)) {
        for minute in [4, 1, 3, 2] {
            log.write(record(minute, "champion", 2)).await.unwrap();
            log.flush().await.unwrap();
        }
        let found = log.scan(from_micros(60_000_000), from_micros(180_000_000)).await.unwrap();
        let minutes: Vec<i64> = found.iter().map(|r| r.at.timestamp() / 60).collect();
        assert_eq!(minutes, [1, 1, 2, 2], "{log:?}");
    }

    /// Contract: a record that does not fit together changes nothing.
    pub async fn records_of_unequal_length_are_refused(log: &(impl InferenceSink + InferenceLog)) {
        let mut broken = record(1, "champion", 2);
        broken.ids.pop();
        assert!(matches!(log.write(broken).await, Err(Error::InvalidInput { .. })), "{log:?}");
        log.flush().await.unwrap();
        assert!(log.scan(from_micros(0), from_micros(i64::MAX / 2)).await.unwrap().is_empty(), "{log:?}");
    }
}

//! The cases of [`artifact_store_conformance!`](crate::artifact_store_conformance).

use bytes::Bytes;
use futures::TryStreamExt;
use futures::future::join_all;

use crate::store::{ArtifactStore, ArtifactStoreExt, BlobReader, PutMode, artifact_key, chunks_key};
use crate::{Clock as _, Digest, Error, SystemClock};

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
        let refused = |result: crate::Result<()>| assert!(matches!(result, Err(Error::InvalidInput { .. })), "{key:?}");
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

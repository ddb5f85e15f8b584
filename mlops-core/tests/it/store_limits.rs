//! Bad places to store things in, and the memory that large things take.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use mlops_core::store::{ArtifactStore, BlobReader, BlobWriter, LocalStore, MemoryStore, PutMode, artifact_key};
use mlops_core::{ArtifactStoreExt, Error};

fn left_over(dir: &Path) -> usize {
    fs::read_dir(dir.join("#tmp")).unwrap().count()
}

#[cfg(unix)]
#[tokio::test]
async fn symbolic_links_are_neither_followed_nor_listed_nor_written_through() {
    let (dir, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(outside.path().join("secret"), "outside").unwrap();
    let store = LocalStore::open(dir.path()).unwrap();
    store.put("a/real", "inside".into()).await.unwrap();
    std::os::unix::fs::symlink(outside.path(), dir.path().join("folder")).unwrap();
    std::os::unix::fs::symlink(outside.path().join("secret"), dir.path().join("a/file")).unwrap();
    for key in ["folder/secret", "a/file"] {
        let refused = |error: Option<Error>| {
            let error = error.expect(key);
            assert!(
                matches!(error, Error::InvalidInput { .. }) && error.to_string().contains("symbolic link"),
                "{error}"
            );
        };
        refused(store.get(key).await.err());
        refused(store.get_range(key, 0..1).await.err());
        refused(store.head(key).await.err());
        refused(store.delete(key).await.err());
        for mode in [PutMode::Create, PutMode::Overwrite, PutMode::Stage] {
            refused(store.put_opts(key, "x".into(), mode).await.err());
        }
    }
    let keys: Vec<String> = store.list("").await.unwrap().into_iter().map(|object| object.key).collect();
    assert_eq!(keys, ["a/real"]);
    assert!(store.list("folder/").await.is_err());
    assert_eq!(fs::read_to_string(outside.path().join("secret")).unwrap(), "outside");
    assert_eq!((fs::read_dir(outside.path()).unwrap().count(), left_over(dir.path())), (1, 0));
}

#[tokio::test]
async fn a_place_that_cannot_be_a_store_is_told() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), "x").unwrap();
    let error = LocalStore::open(dir.path().join("file/store")).unwrap_err();
    assert!(!error.is_retryable() && error.to_string().contains("file/store"), "{error}");
}

#[cfg(unix)]
#[tokio::test]
async fn a_directory_without_permission_fails_and_names_the_key() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let store = LocalStore::open(dir.path()).unwrap();
    store.put("rows/1", "x".into()).await.unwrap();
    let allow = |mode| fs::set_permissions(dir.path().join("rows"), fs::Permissions::from_mode(mode)).unwrap();
    allow(0o500);
    // The superuser may do anything anywhere.
    if fs::write(dir.path().join("rows/probe"), "x").is_err() {
        for mode in [PutMode::Create, PutMode::Overwrite, PutMode::Stage] {
            let error = store.put_opts("rows/2", "y".into(), mode).await.unwrap_err();
            assert!(!error.is_retryable() && error.to_string().contains("\"rows/2\""), "{error}");
        }
        let error = store.delete("rows/1").await.unwrap_err();
        assert!(error.to_string().contains("\"rows/1\""), "{error}");
        assert_eq!(store.get("rows/1").await.unwrap(), "x");
        allow(0o000);
        for error in [store.get("rows/1").await.err(), store.list("rows/").await.err(), store.list("").await.err()] {
            assert!(matches!(error, Some(Error::Backend { .. })), "an error, not an empty answer: {error:?}");
        }
        assert_eq!(left_over(dir.path()), 0);
    }
    allow(0o700);
}

/// `MLOPS_TEST_SMALL_DISK` is a directory on a file system of its own of 8 to 64 MiB.
#[tokio::test]
#[ignore = "needs a small file system: ci/integration.sh"]
async fn a_full_disk_loses_nothing_and_works_again_when_there_is_room() {
    let dir = std::env::var("MLOPS_TEST_SMALL_DISK").expect("MLOPS_TEST_SMALL_DISK is a directory of 8 to 64 MiB");
    let store = LocalStore::open(&dir).unwrap();
    let data = |i: usize| Bytes::from(i.to_le_bytes().repeat(16 << 10));
    let mut kept = Vec::new();
    let error = loop {
        match store.put_artifact(data(kept.len())).await {
            Ok(digest) => kept.push(digest),
            Err(error) => break error,
        }
        assert!(kept.len() < 1000, "the disk is too large");
    };
    assert!(kept.len() >= 32, "{}", kept.len());
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(error.to_string().contains("could not write \"artifacts/") && cause.contains("space"), "{error}: {cause}");
    for mode in [PutMode::Create, PutMode::Overwrite, PutMode::Stage] {
        assert!(store.put_opts("more", data(1000), mode).await.is_err());
    }
    assert!(matches!(store.head("more").await, Err(Error::NotFound { .. })));
    // An object that would be replaced is whole still.
    let first = mlops_core::store::artifact_key(&kept[0]);
    assert!(store.put(&first, data(0).repeat(100).into()).await.is_err());
    let blob = store.put_blob(stream::iter((0..200).map(|i| Ok(data(1000 + i))))).await;
    assert!(matches!(blob, Err(Error::Backend { .. })));
    assert_eq!(left_over(Path::new(&dir)), 0, "nothing takes up room that has no name");
    for (i, digest) in kept.iter().enumerate() {
        assert_eq!(store.get_artifact(digest).await.unwrap(), data(i));
    }
    for digest in &kept[..16] {
        store.delete(&mlops_core::store::artifact_key(digest)).await.unwrap();
    }
    for object in store.list("").await.unwrap() {
        if !kept.iter().any(|digest| object.key.ends_with(&digest.to_string())) {
            store.delete(&object.key).await.unwrap();
        }
    }
    let again = store.put_artifact(data(2000)).await.unwrap();
    assert_eq!(store.get_artifact(&again).await.unwrap(), data(2000));
}

/// Megabytes that are streamed; `MLOPS_TEST_STREAM_MIB` says how many else.
const STREAM_MIB: u64 = 512;
const CHILD: &str = "MLOPS_TEST_STREAM_DIR";

fn peak_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// A megabyte that looks random.
fn megabyte(i: u64) -> Bytes {
    let mut data = vec![0; 1 << 20];
    blake3::Hasher::new().update(&i.to_le_bytes()).finalize_xof().fill(&mut data);
    data.into()
}

#[cfg(target_os = "linux")]
#[test]
fn a_large_blob_is_written_and_read_in_little_memory() {
    let (dir, begin) = (tempfile::tempdir().unwrap(), Instant::now());
    // A process of its own, as the peak is that of the process.
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "store_limits::in_a_process_of_its_own", "--ignored", "--nocapture"])
        .env(CHILD, dir.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success() && said.contains("grew by"), "{said}{}", String::from_utf8_lossy(&child.stderr));
    println!("{} in {:.1?}", said.lines().find(|line| line.contains("grew by")).unwrap(), begin.elapsed());
}

#[cfg(target_os = "linux")]
#[test]
#[ignore = "is started by the test above"]
fn in_a_process_of_its_own() {
    let Ok(dir) = std::env::var(CHILD) else { return };
    let mib = std::env::var("MLOPS_TEST_STREAM_MIB").map_or(STREAM_MIB, |mib| mib.parse().unwrap());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let store = LocalStore::open(dir).unwrap();
        store.put_blob(stream::iter([Ok(megabyte(0))])).await.unwrap();
        let before = peak_kib();
        let blob = store.put_blob(stream::iter(0..mib).map(|i| Ok(megabyte(i)))).await.unwrap();
        assert_eq!(blob.bytes, mib << 20);
        let written = peak_kib() - before;
        let (mut read, mut left) = (BlobReader::open_as(&store, &blob).await.unwrap().stream(), Bytes::new());
        for i in 0..mib {
            let mut data = Vec::with_capacity(1 << 20);
            while data.len() < 1 << 20 {
                if left.is_empty() {
                    left = read.try_next().await.unwrap().unwrap();
                }
                data.extend_from_slice(&left.split_to(left.len().min((1 << 20) - data.len())));
            }
            assert!(data == megabyte(i), "megabyte {i}");
        }
        assert!(left.is_empty() && read.try_next().await.unwrap().is_none());
        let grown = peak_kib() - before;
        assert!(grown <= 64 << 10, "grew by {} MiB, writing by {}", grown >> 10, written >> 10);
        println!("{mib} MiB: grew by {} MiB, writing by {}", grown >> 10, written >> 10);
    });
}

/// Equal bytes cut elsewhere do not take the list away from whoever was told of the first one.
#[tokio::test]
async fn equal_bytes_cut_elsewhere_leave_the_first_list() {
    let store = MemoryStore::default();
    let data =
        Bytes::from((0..3_000_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect::<Vec<u8>>());
    let mut parts = BlobWriter::new(&store);
    parts.write_parts(vec![data.slice(..1_000_000), data.slice(1_000_000..)]).await.unwrap();
    let first = parts.finish().await.unwrap();
    let second = store.put_blob(futures::stream::iter([Ok(data.clone())])).await.unwrap();
    assert_eq!((first.digest, first.chunks), (second.digest, second.chunks));
    for blob in [&first, &second] {
        let reader = BlobReader::open_as(&store, blob).await.unwrap();
        assert_eq!(reader.range(0..u64::MAX).await.unwrap(), data);
    }
    // A list that leads nowhere is no blob: it is replaced.
    let lost = BlobReader::open_as(&store, &first).await.unwrap().chunks().next().unwrap();
    store.delete(&artifact_key(&lost)).await.unwrap();
    let mended = store.put_blob(futures::stream::iter([Ok(data.clone())])).await.unwrap();
    assert_ne!(mended.chunks, first.chunks);
    assert_eq!(store.get_artifact(&mended.digest).await.unwrap(), data);
}

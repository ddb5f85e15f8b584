//! Packages as tar archives.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use mlops_core::package::{Limits, MLMODEL, Manifest, Package};
use mlops_core::store::{MemoryStore, PutMode, artifact_key};
use mlops_core::{ArtifactStore, Digest, Error, Result};
use proptest::prelude::*;

use super::packages::python;

async fn packed(package: &Package) -> Vec<u8> {
    let store = MemoryStore::default();
    let digest = package.save(&store).await.unwrap();
    let manifest = Manifest::load(&store, &digest).await.unwrap();
    let pieces: Vec<Bytes> = manifest.export_archive(&store).unwrap().try_collect().await.unwrap();
    pieces.concat()
}

async fn unpacked_from(store: &MemoryStore, archive: &[u8], limits: Limits) -> Result<Manifest> {
    let pieces: Vec<Result<Bytes>> = archive.chunks(700).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    Manifest::import_archive(store, stream::iter(pieces), limits, None).await
}

async fn unpacked(archive: &[u8]) -> Result<Manifest> {
    unpacked_from(&MemoryStore::default(), archive, Limits::default()).await
}

fn long() -> Package {
    let mut files = python();
    files.insert(format!("{}/{}.bin", "d".repeat(200), "ä".repeat(90)), "x".into());
    files.insert("x".repeat(100), Bytes::from(vec![7; 512]));
    files.insert("x".repeat(101), Bytes::from(vec![7; 513]));
    Package::from_files(files).unwrap()
}

#[tokio::test]
async fn equal_packages_are_equal_archives_and_read_back_equal() {
    for package in [Package::from_files(python()).unwrap(), long()] {
        let archive = packed(&package).await;
        assert_eq!(archive, packed(&package).await);
        assert_eq!(archive.len() % 512, 0);
        let store = MemoryStore::default();
        let read = unpacked_from(&store, &archive, Limits::default()).await.unwrap();
        assert_eq!(read, package.manifest());
        assert_eq!(Package::load(&store, &read.digest().unwrap()).await.unwrap().files(), package.files());
    }
}

#[tokio::test]
async fn every_archive_that_is_cut_short_is_refused_and_leaves_no_package() {
    let (package, store) = (long(), MemoryStore::default());
    let archive = packed(&package).await;
    for length in (0..archive.len()).step_by(131).chain([archive.len() - 512, archive.len() - 1]) {
        let error = unpacked_from(&store, &archive[..length], Limits::default()).await.unwrap_err();
        assert!(error.to_string().contains("truncated"), "{length}: {error}");
    }
    assert!(Manifest::load(&store, &package.digest().unwrap()).await.is_err());
    unpacked(&[&*archive, &[0; 10_240]].concat()).await.unwrap();
    assert!(unpacked(&[&*archive, b"x"].concat()).await.unwrap_err().to_string().contains("behind its end"));
    assert!(unpacked(&[&*archive, &vec![0; 2 << 20]].concat()).await.is_err());
}

#[tokio::test]
async fn every_byte_that_changes_is_found() {
    let archive = packed(&Package::from_files(python()).unwrap()).await;
    let original = unpacked(&archive).await.unwrap();
    for at in (0..archive.len()).step_by(37) {
        let mut changed = archive.clone();
        changed[at] ^= 0x01;
        // What fills up a block is nobody's, and a comment in other words is somebody else's.
        if let Ok(read) = unpacked(&changed).await {
            assert_eq!(read, original);
            assert!(archive[at] == 0 || (512..1_024).contains(&at), "byte {at}");
        }
    }
}

/// An archive as others might make it: kind, path, claimed size and data.
fn tar(entries: &[(u8, &str, u64, &[u8])]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (kind, path, size, data) in entries {
        let mut header = [0; 512];
        header[..path.len()].copy_from_slice(path.as_bytes());
        header[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
        header[148..156].copy_from_slice(b"        ");
        header[156] = *kind;
        header[157..168].copy_from_slice(b"/etc/passwd");
        header[257..265].copy_from_slice(b"ustar\x0000");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        archive.extend(header);
        archive.extend(*data);
        archive.resize(archive.len().next_multiple_of(512), 0);
    }
    archive.extend([0; 1_024]);
    archive
}

const MODEL: (u8, &str, u64, &[u8]) = (b'0', MLMODEL, 12, b"flavors: {}\n");

#[tokio::test]
async fn archives_of_other_programs_are_read() {
    let path = "größe/w.bin";
    let record = format!("{} path={path}\n", path.len() + 9);
    let long = "y".repeat(150);
    let read = unpacked(&tar(&[
        (b'5', "./", 0, b""),
        (b'0', "./MLmodel", 12, b"flavors: {}\n"),
        (b'5', "d/", 0, b""),
        (b'g', "g", 14, b"14 comment=hi\n"),
        (b'x', "x", record.len() as u64, record.as_bytes()),
        (b'0', "gr", 1, b"a"),
        (b'L', "././@LongLink", 151, format!("{long}\0").as_bytes()),
        (0, "yyy", 1, b"b"),
    ]))
    .await
    .unwrap();
    let paths: Vec<&str> = read.files().keys().map(String::as_str).collect();
    assert_eq!(paths, [MLMODEL, path, &long]);
}

#[tokio::test]
async fn what_is_no_plain_file_or_leads_elsewhere_is_refused() {
    for (kind, what) in [
        (b'1', "hard link"),
        (b'2', "symbolic link"),
        (b'3', "device"),
        (b'4', "device"),
        (b'6', "pipe"),
        (b'S', "sparse"),
        (b'9', "unknown"),
    ] {
        let error = unpacked(&tar(&[MODEL, (kind, "weights", 0, b"")])).await.unwrap_err().to_string();
        assert!(error.contains(what) && error.contains("\"weights\""), "{error}");
    }
    for path in ["../x", "/etc/passwd", "a/../../x", "C:/x", "a\\b", "mlmodel", "MLmodel/x", ".//x", "..", ""] {
        let error = unpacked(&tar(&[MODEL, (b'0', path, 0, b"")])).await;
        assert!(matches!(error, Err(Error::InvalidInput { .. })), "{path:?}");
    }
    for record in
        ["13 path=../x\n", "15 path=/etc/x\n", "11 path=\0\n", "24 GNU.sparse.major=1.0\n", "9 size=x\n", "7 path"]
    {
        let entries = [MODEL, (b'x', "x", record.len() as u64, record.as_bytes()), (b'0', "w", 0, b"")];
        assert!(matches!(unpacked(&tar(&entries)).await, Err(Error::InvalidInput { .. })), "{record:?}");
    }
    assert!(unpacked(&tar(&[MODEL, MODEL])).await.unwrap_err().to_string().contains("given twice"));
    assert!(unpacked(&tar(&[])).await.unwrap_err().to_string().contains("no MLmodel"));
    assert!(unpacked(&[0x28; 2_048]).await.unwrap_err().to_string().contains("decompress it first"));
    assert!(unpacked(b"").await.unwrap_err().to_string().contains("truncated"));
}

#[tokio::test]
async fn bombs_are_refused_by_what_they_declare() {
    let limits = Limits::default().files(3).bytes(1_000_000).file_bytes(500_000);
    let small = |entries: Vec<(u8, &'static str, u64, &'static [u8])>| async move {
        unpacked_from(&MemoryStore::default(), &tar(&entries), limits).await.unwrap_err().to_string()
    };
    assert!(small(vec![MODEL, (b'0', "w", 500_001, b"")]).await.contains("\"w\" has 500001 bytes"));
    assert!(small(vec![MODEL, (b'0', "w", 0o7777_7777_777, b"")]).await.contains("more than 500000"));
    let size = b"25 size=18446744073709551615\n";
    assert!(small(vec![MODEL, (b'x', "x", 29, size), (b'0', "w", 0, b"")]).await.contains("extended header"));
    let size = b"29 size=18446744073709551615\n";
    assert!(small(vec![MODEL, (b'x', "x", 29, size), (b'0', "w", 0, b"")]).await.contains("more than 500000"));
    assert!(
        small(vec![MODEL, (b'0', "a", 0, b""), (b'0', "b", 0, b""), (b'0', "c", 0, b"")]).await.contains("3 files")
    );
    assert!(small(vec![(b'5', "d/", 0, b""); 40]).await.contains("too many entries"));
    assert!(small(vec![(b'x', "x", 1 << 20, b""), MODEL]).await.contains("extended header of 1048576 bytes"));
    // Declared small, and endless: the reader stops at what was declared.
    let endless = stream::iter([Ok(Bytes::from(tar(&[MODEL])[..1_024].to_vec()))])
        .chain(stream::repeat_with(|| Ok(Bytes::from_static(&[b'x'; 4_096]))));
    assert!(Manifest::import_archive(&MemoryStore::default(), endless, limits, None).await.is_err());
}

#[tokio::test]
async fn a_damaged_file_ends_the_archive_with_an_error() {
    let store = MemoryStore::default();
    let digest = Package::from_files(python()).unwrap().save(&store).await.unwrap();
    let key = artifact_key(&Digest::of(&python()["conda.yaml"]));
    store.put_opts(&key, "name: f\n".into(), PutMode::Overwrite).await.unwrap();
    let manifest = Manifest::load(&store, &digest).await.unwrap();
    let pieces: Vec<Result<Bytes>> = manifest.export_archive(&store).unwrap().collect().await;
    let error = pieces.last().unwrap().as_ref().unwrap_err().to_string();
    assert!(error.contains("conda.yaml"), "{error}");
    let imported =
        Manifest::import_archive(&MemoryStore::default(), stream::iter(pieces), Limits::default(), None).await;
    assert_eq!(imported.unwrap_err().to_string(), error);
}

#[tokio::test]
async fn an_archive_that_names_another_package_is_corrupt() {
    let one = packed(&Package::from_files(python()).unwrap()).await;
    let two = packed(&long()).await;
    let mixed = [&one[..1_024], &two[1_024..]].concat();
    assert!(matches!(unpacked(&mixed).await, Err(Error::Corrupt { what, .. }) if what == "package archive"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_package_comes_back(sizes in prop::collection::btree_map("[a-z]{1,3}(/[a-zä]{1,60}){0,3}", 0_usize..1_600, 0..6)) {
        let mut files: BTreeMap<String, Bytes> =
            sizes.into_iter().map(|(path, size)| (path, Bytes::from(vec![size as u8; size]))).collect();
        files.insert(MLMODEL.to_owned(), "flavors: {}\n".into());
        // A name may be a folder of another's.
        if let Ok(package) = Package::from_files(files) {
            let read = futures::executor::block_on(async { unpacked(&packed(&package).await).await }).unwrap();
            prop_assert_eq!(read, package.manifest());
        }
    }

    #[test]
    fn no_bytes_make_the_reader_panic(mut archive in prop::collection::vec(any::<u8>(), 0..3_000), kind in any::<u8>()) {
        let _ = futures::executor::block_on(unpacked(&archive));
        // A header that holds, with anything behind it.
        let head = tar(&[(kind, "name", archive.len() as u64, b"")]);
        archive.splice(0..0, head[..512].iter().copied());
        let _ = futures::executor::block_on(unpacked(&archive));
    }
}

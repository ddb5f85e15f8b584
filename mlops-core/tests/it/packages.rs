//! Packages: what Python wrote, lists without bytes, directories.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::stream;
use mlops_core::package::{Limits, MLMODEL, Manifest, Package};
use mlops_core::store::{ArtifactStore, ArtifactStoreExt, LocalStore, MemoryStore, PutMode, artifact_key};
use mlops_core::{Digest, Error, Signature};

pub(crate) const PLAIN: &str = include_str!("../golden/mlflow/plain.MLmodel");

/// What `mlflow.sklearn.save_model` leaves without a signature.
pub(crate) fn python() -> BTreeMap<String, Bytes> {
    let files = [
        (MLMODEL, PLAIN.as_bytes()),
        ("code/größe v2.py", b"x = 1\n"),
        ("conda.yaml", b"name: e\n"),
        ("model.skops", &[0xff; 3_000]),
        ("requirements.txt", b""),
    ];
    files.map(|(path, data)| (path.to_owned(), Bytes::copy_from_slice(data))).into()
}

#[tokio::test]
async fn what_python_wrote_is_a_package_without_a_signature() {
    let store = MemoryStore::default();
    let package = Package::from_files(python()).unwrap();
    let digest = package.save(&store).await.unwrap();
    let read = Package::load(&store, &digest).await.unwrap();
    assert_eq!(read.files(), &python(), "byte for byte");
    let model = read.model();
    assert_eq!(model.flavors["sklearn"]["sklearn_version"], "1.9.1");
    assert_eq!(model.model_uuid.as_deref(), Some("7a695930d51f481fbc5cf0e10b984498"));
    assert_eq!(model.other["mlflow_version"], "3.17.2");
    assert_eq!(read.signature().unwrap_err().to_string(), "invalid MLmodel: has no signature");
    assert!(matches!(read.provenance(), Err(Error::NotFound { .. })));
}

#[test]
fn every_signature_of_mlflow_is_kept_and_named_columns_are_understood() {
    let package = |mlmodel: &'static str| {
        Package::from_files(BTreeMap::from([(MLMODEL.to_owned(), Bytes::from_static(mlmodel.as_bytes()))])).unwrap()
    };
    let params = package(include_str!("../golden/mlflow/params.MLmodel"));
    assert_eq!(params.signature().unwrap().to_string(), "(a: double, b: long) -> (y: long)");
    assert_eq!(params.model().other["metadata"]["größe"], "ä");
    for foreign in [
        include_str!("../golden/mlflow/columns.MLmodel"),
        include_str!("../golden/mlflow/tensors.MLmodel"),
        include_str!("../golden/mlflow/inputs_only.MLmodel"),
    ] {
        let package = package(foreign);
        let error = package.signature().unwrap_err().to_string();
        assert!(error.contains("not one of named columns on both sides"), "{error}");
        let kept = package.model().other["signature"]["inputs"].as_str().unwrap();
        assert!(serde_json::from_str::<serde_json::Value>(kept).is_ok(), "{kept}");
        let again: serde_json::Value = serde_json::to_value(package.model()).unwrap();
        assert_eq!(again["signature"], package.model().other["signature"], "written as it was read");
    }
}

#[test]
fn ids_that_look_like_numbers_stay_text() {
    // PyYAML writes these without quotes: YAML 1.1 has no float without a dot.
    let text = "flavors: {}\nmodel_uuid: 12345e67890123456789012345678901\nrun_id: 0e101\n";
    let files = BTreeMap::from([(MLMODEL.to_owned(), Bytes::from_static(text.as_bytes()))]);
    let package = Package::from_files(files).unwrap();
    assert_eq!(package.model().model_uuid.as_deref(), Some("12345e67890123456789012345678901"));
    assert_eq!(package.model().run_id.as_deref(), Some("0e101"));
}

#[test]
fn an_mlmodel_made_to_exhaust_the_reader_is_an_error() {
    let mut laughs = "a0: &a0 [x]\n".to_owned();
    for i in 1..40 {
        let last = i - 1;
        laughs += &format!("a{i}: &a{i} [*a{last},*a{last},*a{last},*a{last},*a{last},*a{last},*a{last},*a{last}]\n");
    }
    let deep = format!("flavors: {{x: {}{}}}\n", "[".repeat(100_000), "]".repeat(100_000));
    for text in [laughs + "flavors: {}\n", deep, "flavors: [".to_owned(), "flavors: {}\nflavors: {}\n".to_owned()] {
        let files = BTreeMap::from([(MLMODEL.to_owned(), Bytes::from(text))]);
        assert!(matches!(Package::from_files(files), Err(Error::InvalidInput { .. })));
    }
}

#[tokio::test]
async fn a_list_names_files_that_are_stored_and_its_digest_is_the_packages() {
    let store = MemoryStore::default();
    let large =
        Bytes::from((0..3_000_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect::<Vec<_>>());
    let blob = store.put_blob(stream::iter([Ok(large.clone())])).await.unwrap();
    assert!(blob.chunks.is_some(), "of several chunks");
    let mlmodel = store.put_artifact(PLAIN.into()).await.unwrap();
    let manifest =
        Manifest::builder().file("model.skops", &blob).entry(MLMODEL, PLAIN.len() as u64, mlmodel).build().unwrap();
    let digest = manifest.save(&store).await.unwrap();
    let files = BTreeMap::from([(MLMODEL.to_owned(), PLAIN.into()), ("model.skops".to_owned(), large.clone())]);
    assert_eq!(digest, Package::from_files(files).unwrap().digest().unwrap());
    assert_eq!(Package::load(&store, &digest).await.unwrap().file("model.skops").unwrap(), &large);
    let read = Manifest::load(&store, &digest).await.unwrap();
    assert_eq!((&read, read.bytes()), (&manifest, large.len() as u64 + PLAIN.len() as u64));
    read.verify(&store).await.unwrap();
    let part = read.open(&store, "model.skops").await.unwrap().range(2_000_000..2_000_010).await.unwrap();
    assert_eq!(part, large.slice(2_000_000..2_000_010));
    assert_eq!(read.model(&store).await.unwrap().flavors.len(), 2);
    let limits = Limits::default().bytes(1_000_000);
    assert!(Package::load_within(&store, &digest, limits).await.unwrap_err().to_string().contains("1000000 bytes"));
}

#[tokio::test]
async fn a_list_that_lies_is_refused() {
    let store = MemoryStore::default();
    let mlmodel = store.put_artifact(PLAIN.into()).await.unwrap();
    let data = store.put_artifact("weights".into()).await.unwrap();
    let list = |path: &str, bytes| {
        Manifest::builder().entry(MLMODEL, PLAIN.len() as u64, mlmodel).entry(path, bytes, data).build()
    };
    let error = list("weights", 8).unwrap().save(&store).await.unwrap_err().to_string();
    assert!(error.contains("\"weights\" should have 8 bytes, and 7 are stored"), "{error}");
    let missing = Manifest::builder().entry(MLMODEL, 3, Digest::of(b"abc")).build().unwrap();
    assert_eq!(missing.save(&store).await.unwrap_err().to_string(), "package file \"MLmodel\" not found");
    for path in ["../x", "/x", "C:\\x", "mlmodel", "MLmodel/x", "a\0"] {
        assert!(list(path, 7).is_err(), "{path:?}");
        let stored = serde_json::json!({"files": [
            {"path": MLMODEL, "bytes": PLAIN.len(), "digest": mlmodel}, {"path": path, "bytes": 7, "digest": data},
        ]});
        let digest = store.put_artifact(stored.to_string().into()).await.unwrap();
        assert!(matches!(Package::load(&store, &digest).await, Err(Error::InvalidInput { .. })), "{path:?}");
    }
    let text = mlops_core::json::canonical(&serde_json::json!({"files": [
        {"path": MLMODEL, "bytes": PLAIN.len(), "digest": mlmodel},
    ]}));
    let loose = store.put_artifact(format!("{text}\n").into()).await.unwrap();
    assert!(Manifest::load(&store, &loose).await.unwrap_err().to_string().contains("canonical"));
    let none = Manifest::builder().entry("weights", 7, data).build().unwrap_err();
    assert_eq!(none.to_string(), "invalid package: has no MLmodel file");
    for garbage in ["", "{}", "[]", "{\"files\":[]}", "\u{0}"] {
        let digest = store.put_artifact(garbage.into()).await.unwrap();
        assert!(matches!(Manifest::load(&store, &digest).await, Err(Error::InvalidInput { .. })), "{garbage:?}");
    }
}

#[tokio::test]
async fn the_digests_of_packages_made_before_hold() {
    let column = |name| [mlops_core::signature::ColumnSpec::new(name, mlops_core::signature::ColumnType::Double)];
    let package = Package::builder(Signature::new(column("x"), column("y")).unwrap())
        .flavor("test", serde_json::json!({"k": 1}))
        .file("weights", "abc")
        .build()
        .unwrap();
    let digest = "446317cdc0d84b6153e3a003f00024ee1adf5254a25b1a49cd341ee6a351130e";
    assert_eq!(package.digest().unwrap().to_string(), digest);
    let list = format!(
        r#"{{"files":[{{"bytes":{},"digest":"{}","path":"MLmodel"}},{{"bytes":3,"digest":"{}","path":"weights"}}]}}"#,
        package.file(MLMODEL).unwrap().len(),
        Digest::of(package.file(MLMODEL).unwrap()),
        Digest::of(b"abc"),
    );
    assert_eq!(package.digest().unwrap(), Digest::of(list.as_bytes()));
}

#[tokio::test]
async fn only_what_is_missing_is_copied() {
    let (from, to) = (MemoryStore::default(), MemoryStore::default());
    let digest = Package::from_files(python()).unwrap().save(&from).await.unwrap();
    to.put_artifact(python()["model.skops"].clone()).await.unwrap();
    let copied = Manifest::copy(&from, &to, &digest, None).await.unwrap();
    assert_eq!((copied.files, copied.bytes), (4, copied.manifest.bytes() - 3_000));
    assert_eq!(Package::load(&to, &digest).await.unwrap().files(), &python());
    assert_eq!(Manifest::copy(&from, &to, &digest, None).await.unwrap().files, 0);

    let damaged = artifact_key(&Digest::of(&python()["conda.yaml"]));
    from.put_opts(&damaged, "name: f\n".into(), PutMode::Overwrite).await.unwrap();
    let fresh = MemoryStore::default();
    let error = Manifest::copy(&from, &fresh, &digest, None).await.unwrap_err();
    assert!(matches!(error, Error::Corrupt { .. }) && error.to_string().contains("conda.yaml"), "{error}");
    assert!(matches!(Manifest::load(&fresh, &digest).await, Err(Error::NotFound { .. })), "no package with holes");
}

#[tokio::test]
async fn a_directory_goes_in_and_out() {
    let dir = tempfile::tempdir().unwrap();
    let store = LocalStore::open(dir.path().join("store")).unwrap();
    let digest = Package::from_files(python()).unwrap().save(&store).await.unwrap();
    let out = dir.path().join("model");
    let manifest = Manifest::load(&store, &digest).await.unwrap();
    manifest.export_dir(&store, &out).await.unwrap();
    assert_eq!(std::fs::read(out.join("code/größe v2.py")).unwrap(), b"x = 1\n");
    assert!(matches!(manifest.export_dir(&store, &out).await, Err(Error::AlreadyExists { .. })));
    let other = MemoryStore::default();
    let back = Manifest::import_dir(&other, &out, Limits::default(), None).await.unwrap();
    assert_eq!(back.digest().unwrap(), digest);
    assert_eq!(Package::load(&other, &digest).await.unwrap().files(), &python());
    let few = Manifest::import_dir(&other, &out, Limits::default().files(4), None).await;
    assert!(few.unwrap_err().to_string().contains("more than 4 files"));

    let key = artifact_key(&Digest::of(&python()["conda.yaml"]));
    store.put_opts(&key, "name: f\n".into(), PutMode::Overwrite).await.unwrap();
    let error = manifest.export_dir(&store, dir.path().join("second")).await.unwrap_err();
    assert!(error.to_string().contains("conda.yaml"), "{error}");
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "nothing half written stays: {left:?}");

    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("/etc/passwd", out.join("code/link")).unwrap();
        let error = Manifest::import_dir(&other, &out, Limits::default(), None).await.unwrap_err().to_string();
        assert!(error.contains("\"code/link\" is neither a file nor a folder"), "{error}");
    }
}

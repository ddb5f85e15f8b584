//! The conformance suites, on every backend and pointer of this crate.

use std::sync::Arc;

use arrow::array::{Float64Array, RecordBatch};
use mlops_core::audit::{AuditLog, MemoryAuditLog};
use mlops_core::dataset::{DatasetStore, DatasetStoreExt, NewDataset, ParquetDatasets};
use mlops_core::inference::MemoryInferenceLog;
use mlops_core::lineage::MemoryLineage;
use mlops_core::package::{DatasetRef, Package, Provenance};
use mlops_core::signature::{ColumnSpec, ColumnType, Signature};
use mlops_core::store::{ArtifactStore, LocalStore, MemoryStore, artifact_key};
use mlops_core::{Digest, Error};
use tempfile::TempDir;

fn local() -> (LocalStore, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    (LocalStore::open(dir.path()).unwrap(), dir)
}

fn local_datasets() -> (ParquetDatasets, TempDir) {
    let (store, dir) = local();
    (ParquetDatasets::new(store), dir)
}

mlops_core::artifact_store_conformance!(memory, (MemoryStore::default(), ()));
mlops_core::artifact_store_conformance!(shared, (Arc::new(MemoryStore::default()) as Arc<dyn ArtifactStore>, ()));
mlops_core::artifact_store_conformance!(local_directory, local());
mlops_core::artifact_store_conformance!(
    over_object_store,
    (mlops_core::store::ObjectArtifactStore::new(Arc::new(object_store::memory::InMemory::new()), "object store"), ())
);
mlops_core::dataset_store_conformance!(parquet_in_memory, (ParquetDatasets::new(MemoryStore::default()), ()));
mlops_core::dataset_store_conformance!(parquet_in_a_directory, local_datasets());
mlops_core::audit_log_conformance!(memory_audit, (MemoryAuditLog::default(), ()));
mlops_core::audit_log_conformance!(shared_audit, (Arc::new(MemoryAuditLog::default()) as Arc<dyn AuditLog>, ()));
mlops_core::lineage_store_conformance!(memory_lineage, (MemoryLineage::default(), ()));
mlops_core::inference_log_conformance!(memory_log, (MemoryInferenceLog::default(), ()));

fn package() -> Package {
    let column = |name| [ColumnSpec::new(name, ColumnType::Double)];
    let mut provenance = Provenance::default();
    provenance.datasets = vec![DatasetRef { name: "prices".into(), digest: Digest::of(b"rows") }];
    provenance.seed = Some(7);
    Package::builder(Signature::new(column("price"), column("p")).unwrap())
        .flavor("candle", serde_json::json!({"architecture": "mlp", "layers": [1, 8, 1]}))
        .file("data/weights.safetensors", "weights")
        .provenance(provenance)
        .build()
        .unwrap()
}

fn two_rows() -> RecordBatch {
    RecordBatch::try_from_iter([("x", Arc::new(Float64Array::from(vec![1.0, 2.0])) as _)]).unwrap()
}

#[tokio::test]
async fn a_package_reads_back_equal_and_its_digest_repeats() {
    let store = MemoryStore::default();
    let digest = package().save(&store).await.unwrap();
    assert_eq!(digest, package().digest().unwrap());
    let read = Package::load(&store, &digest).await.unwrap();
    assert_eq!(read.files(), package().files());
    assert_eq!(read.model().flavors["candle"]["layers"], serde_json::json!([1, 8, 1]));
    assert_eq!(read.signature().unwrap().to_string(), "(price: double) -> (p: double)");
    assert_eq!(read.provenance().unwrap().seed, Some(7));
}

#[tokio::test]
async fn a_package_with_one_byte_changed_is_corrupt_and_the_file_is_named() {
    let (store, _dir) = local();
    let digest = package().save(&store).await.unwrap();
    let file = artifact_key(&Digest::of(b"weights"));
    store.put_opts(&file, "weighto".into(), mlops_core::store::PutMode::Overwrite).await.unwrap();
    let error = Package::load(&store, &digest).await.unwrap_err();
    assert!(matches!(error, Error::Corrupt { .. }), "{error}");
    assert!(error.to_string().contains("data/weights.safetensors"), "{error}");
}

#[test]
fn packages_with_paths_that_escape_are_refused() {
    for path in ["../x", "/etc/passwd", "a/../../b", "MLmodel"] {
        let column = |name| [ColumnSpec::new(name, ColumnType::Double)];
        let builder = Package::builder(Signature::new(column("x"), column("y")).unwrap());
        assert!(builder.flavor("f", serde_json::Value::Null).file(path, "x").build().is_err(), "{path}");
    }
}

#[tokio::test]
async fn a_truncated_data_file_is_corrupt_not_rows() {
    let (store, _dir) = local();
    let datasets = ParquetDatasets::new(store.clone());
    let rows = two_rows();
    let version = datasets.commit(NewDataset::new("d", [rows])).await.unwrap();
    let key = artifact_key(&version.files[0].blob.digest);
    let bytes = store.get(&key).await.unwrap();
    store.put_opts(&key, bytes.slice(0..bytes.len() / 2), mlops_core::store::PutMode::Overwrite).await.unwrap();
    let error = datasets.read_all(&version).await.unwrap_err();
    assert!(matches!(error, Error::Corrupt { .. }), "{error}");
}

#[tokio::test]
async fn a_manifest_that_was_edited_is_corrupt() {
    let (store, _dir) = local();
    let datasets = ParquetDatasets::new(store.clone());
    let rows = two_rows();
    let version = datasets.commit(NewDataset::new("d", [rows]).source("honest")).await.unwrap();
    let key = format!("datasets/d/{}", version.digest);
    let edited = String::from_utf8(store.get(&key).await.unwrap().to_vec()).unwrap().replace("honest", "forged");
    store.put_opts(&key, edited.into(), mlops_core::store::PutMode::Overwrite).await.unwrap();
    assert!(matches!(datasets.version("d", &version.digest).await, Err(Error::Corrupt { .. })));
    let mended = datasets.commit(NewDataset::new("d", [two_rows()]).source("honest")).await.unwrap();
    assert_eq!(mended, datasets.version("d", &version.digest).await.unwrap(), "committing the rows again mends it");
}

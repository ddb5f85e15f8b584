use mlops_core::clock::from_micros;
use mlops_core::inference::{InferenceLog, InferenceRecord, InferenceSink};
use mlops_core::store::{ArtifactStore, LocalStore, MemoryStore};
use mlops_core::{Error, PredictionId};
use mlops_serve::ParquetInferenceLog;
use std::time::Duration;

use crate::support::rows;

fn local() -> (ParquetInferenceLog, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let store = LocalStore::open(dir.path()).unwrap();
    (ParquetInferenceLog::new(store, "inference/d").unwrap(), dir)
}

mlops_core::inference_log_conformance!(memory, (ParquetInferenceLog::new(MemoryStore::default(), "log").unwrap(), ()));
mlops_core::inference_log_conformance!(local_directory, local());

fn record(minute: i64) -> InferenceRecord {
    let at = from_micros(minute * 60_000_000);
    InferenceRecord {
        ids: vec![PredictionId::derived(at, b"row")],
        at,
        deployment: "d".into(),
        model: "m".into(),
        version: 1,
        arm: "champion".into(),
        key: "k".into(),
        latency: Duration::from_nanos(1),
        inputs: rows(vec![minute as f64]),
        outputs: rows(vec![0.0]),
    }
}

#[tokio::test]
async fn a_full_buffer_flushes_itself() {
    let store = MemoryStore::default();
    let log = ParquetInferenceLog::new(store.clone(), "log").unwrap();
    for minute in 0..ParquetInferenceLog::BUFFER as i64 + 1 {
        log.write(record(minute)).await.unwrap();
    }
    assert_eq!(store.list("log/").await.unwrap().len(), 1);
    assert!(log.find(record(17).ids[0]).await.unwrap().is_some());
}

#[tokio::test]
async fn rewinding_forgets_exactly_what_came_later() {
    let (log, _dir) = local();
    for minute in 0..10 {
        log.write(record(minute)).await.unwrap();
        if minute % 4 == 3 {
            log.flush().await.unwrap();
        }
    }
    log.rewind(record(6).at).await.unwrap();
    log.flush().await.unwrap();
    let kept = log.scan(from_micros(0), from_micros(i64::MAX / 2)).await.unwrap();
    assert_eq!(kept.len(), 6, "minutes 0 to 5");
    log.write(record(6)).await.unwrap();
    log.flush().await.unwrap();
    assert!(log.find(record(6).ids[0]).await.unwrap().is_some());
    assert!(log.find(record(7).ids[0]).await.unwrap().is_none());
}

#[tokio::test]
async fn a_truncated_file_is_an_error_that_names_it() {
    let store = MemoryStore::default();
    let log = ParquetInferenceLog::new(store.clone(), "log").unwrap();
    log.write(record(1)).await.unwrap();
    log.flush().await.unwrap();
    let key = store.list("log/").await.unwrap().remove(0).key;
    let data = store.get(&key).await.unwrap();
    store.put_opts(&key, data.slice(..data.len() / 2), mlops_core::store::PutMode::Overwrite).await.unwrap();
    let error = log.find(record(1).ids[0]).await.unwrap_err();
    assert!(matches!(&error, Error::InvalidInput { what, .. } if what.contains(&key)), "{error}");
}

#[test]
fn prefixes_that_could_escape_are_refused() {
    assert!(ParquetInferenceLog::new(MemoryStore::default(), "../up").is_err());
}

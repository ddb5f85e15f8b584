//! The cases of [`inference_log_conformance!`](crate::inference_log_conformance).

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Float64Array, RecordBatch};

use crate::clock::from_micros;
use crate::inference::{InferenceLog, InferenceRecord, InferenceSink, SHADOW};
use crate::{Error, PredictionId};

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

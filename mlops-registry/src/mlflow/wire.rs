//! What both sides of the wire know: error codes, numbers, times and ids as MLflow writes them.

use std::collections::BTreeMap;

use mlops_core::{Timestamp, clock};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{Metric, RunInput, View};

/// Where the calls are, below the server's address, and where the bytes of artifacts are.
pub(super) const API: &str = "/api/2.0/mlflow";
pub(super) const PROXY: &str = "/api/2.0/mlflow-artifacts";
/// How URIs of artifacts begin that are behind the server.
pub(super) const PROXIED: &str = "mlflow-artifacts:";

pub(super) const NAME_TAG: &str = "mlflow.runName";
pub(super) const PARENT_TAG: &str = "mlflow.parentRunId";
pub(super) const USER_TAG: &str = "mlflow.user";
pub(super) const CONTEXT_TAG: &str = "mlflow.data.context";
/// Ours, on a dataset input: the digest in full, where it is longer than [`DIGEST`].
pub(super) const DIGEST_TAG: &str = "mlops.digest";
/// Longest digest of a dataset in MLflow, in characters. Ours have 64.
#[cfg(feature = "mlflow-client")]
pub(super) const DIGEST: usize = 36;

/// Most metrics, params and tags of a batch, each and together, in MLflow.
pub(super) const METRICS: usize = 1_000;
pub(super) const PARAMS: usize = 100;
pub(super) const TAGS: usize = 100;
pub(super) const BATCH: usize = 1_000;
/// Most points of a page of a metric's history.
pub(super) const HISTORY: usize = 25_000;

/// The error codes of MLflow's answers and the HTTP status of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg(feature = "mlflow-server")]
pub(super) enum Code {
    InvalidParameterValue,
    ResourceAlreadyExists,
    ResourceDoesNotExist,
    EndpointNotFound,
    BadRequest,
    Unauthenticated,
    PermissionDenied,
    ResourceConflict,
    TooLarge,
    TemporarilyUnavailable,
    InternalError,
}

#[cfg(feature = "mlflow-server")]
impl Code {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::InvalidParameterValue => "INVALID_PARAMETER_VALUE",
            Self::ResourceAlreadyExists => "RESOURCE_ALREADY_EXISTS",
            Self::ResourceDoesNotExist => "RESOURCE_DOES_NOT_EXIST",
            Self::EndpointNotFound => "ENDPOINT_NOT_FOUND",
            Self::BadRequest | Self::TooLarge => "BAD_REQUEST",
            Self::Unauthenticated => "UNAUTHENTICATED",
            Self::PermissionDenied => "PERMISSION_DENIED",
            Self::ResourceConflict => "RESOURCE_CONFLICT",
            Self::TemporarilyUnavailable => "TEMPORARILY_UNAVAILABLE",
            Self::InternalError => "INTERNAL_ERROR",
        }
    }

    /// The client repeats a call after 408, 429 and each 5xx but 501, so that a mistake of the caller is never one.
    pub(super) fn status(self) -> u16 {
        match self {
            Self::InvalidParameterValue | Self::ResourceAlreadyExists | Self::BadRequest => 400,
            Self::Unauthenticated => 401,
            Self::PermissionDenied => 403,
            Self::ResourceDoesNotExist | Self::EndpointNotFound => 404,
            Self::ResourceConflict => 409,
            Self::TooLarge => 413,
            Self::TemporarilyUnavailable => 503,
            Self::InternalError => 500,
        }
    }
}

/// A metric's value: JSON has no NaN and no infinity, so those are words.
pub(super) fn number(value: f64) -> Value {
    if value.is_nan() {
        "NaN".into()
    } else if value.is_infinite() {
        (if value > 0.0 { "Infinity" } else { "-Infinity" }).into()
    } else {
        json!(value)
    }
}

/// Reads what [`number`] wrote, and what protobuf's JSON allows: a number as a string.
pub(super) fn read_number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => match text.as_str() {
            "NaN" => Some(f64::NAN),
            "Infinity" => Some(f64::INFINITY),
            "-Infinity" => Some(f64::NEG_INFINITY),
            text => text.parse().ok().filter(|number: &f64| number.is_finite()),
        },
        _ => None,
    }
}

/// Reads a 64-bit integer: a JSON number, or a string of digits as protobuf's JSON writes it.
pub(super) fn read_integer(value: &Value) -> Option<i64> {
    match value {
        Value::Number(number) => number.as_i64().or_else(|| {
            let float = number.as_f64().filter(|f| f.fract() == 0.0 && f.abs() < 9e15)?;
            Some(float as i64)
        }),
        Value::String(text) => text.parse().ok(),
        _ => None,
    }
}

/// Names and texts as a list of `{key, value}`.
pub(super) fn pairs(pairs: &BTreeMap<String, String>) -> Value {
    pairs.iter().map(|(key, value)| json!({ "key": key, "value": value })).collect()
}

/// How the stages that a search looks at are written.
pub(super) const VIEWS: [(View, &str); 3] =
    [(View::Active, "ACTIVE_ONLY"), (View::Deleted, "DELETED_ONLY"), (View::All, "ALL")];

/// A point of a metric, without what it was measured of.
pub(super) fn metric(metric: &Metric) -> Value {
    json!({
        "key": metric.key,
        "value": number(metric.value),
        "timestamp": millis(metric.at),
        "step": metric.step,
    })
}

/// The same with the logged model and the dataset.
pub(super) fn measured(point: &Metric) -> Value {
    let mut message = metric(point);
    if let Some(model) = &point.model {
        message["model_id"] = model.to_string().into();
    }
    if let Some(dataset) = &point.dataset {
        message["dataset_name"] = dataset.name.as_str().into();
        message["dataset_digest"] = dataset.digest.as_str().into();
    }
    message
}

/// A dataset that a run read: its context is a tag.
pub(super) fn input(input: &RunInput) -> Value {
    let mut all: Vec<Value> = Vec::new();
    if !input.context.is_empty() {
        all.push(json!({ "key": CONTEXT_TAG, "value": input.context }));
    }
    all.extend(input.tags.iter().map(|(key, value)| json!({ "key": key, "value": value })));
    let mut dataset = json!({
        "name": input.name,
        "digest": input.digest,
        "source_type": input.source_type,
        "source": input.source,
    });
    for (field, text) in [("schema", &input.schema), ("profile", &input.profile)] {
        if let Some(text) = text {
            dataset[field] = text.as_str().into();
        }
    }
    json!({ "tags": all, "dataset": dataset })
}

/// Takes what tags hold of an input out of them: the context, and a digest that was too long for MLflow.
pub(super) fn read_input_tags(mut tags: BTreeMap<String, String>, digest: &str) -> RunInput {
    let context = tags.remove(CONTEXT_TAG).unwrap_or_default();
    let whole = tags.remove(DIGEST_TAG).filter(|whole| whole.starts_with(digest));
    let mut input = RunInput::new("", whole.unwrap_or_else(|| digest.to_owned()), context);
    input.tags = tags;
    input
}

pub(super) fn millis(at: Timestamp) -> i64 {
    at.timestamp_millis()
}

/// A time in milliseconds since 1970, if there is such a date.
pub(super) fn read_millis(millis: i64) -> Option<Timestamp> {
    let at = clock::from_micros(millis.checked_mul(1_000)?);
    (at.timestamp_millis() == millis).then_some(at)
}

/// An id as MLflow writes it: 32 hexadecimal digits.
pub(super) fn hex(id: &Uuid) -> String {
    id.simple().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_pass_both_ways() {
        for value in [0.0, -0.5, 1e-300, f64::MAX, f64::INFINITY, f64::NEG_INFINITY] {
            assert_eq!(read_number(&number(value)), Some(value));
        }
        assert!(read_number(&number(f64::NAN)).unwrap().is_nan());
        assert_eq!(read_number(&json!("1.5")), Some(1.5));
        for bad in [json!("inf"), json!("nan"), json!("x"), json!(null), json!([1]), json!("1e999")] {
            assert_eq!(read_number(&bad), None, "{bad}");
        }
    }

    #[test]
    fn integers_come_as_numbers_and_as_text() {
        for (value, expected) in [
            (json!(3), Some(3)),
            (json!(3.0), Some(3)),
            (json!("-4"), Some(-4)),
            (json!(i64::MIN), Some(i64::MIN)),
            (json!(0.5), None),
            (json!(1e300), None),
            (json!("x"), None),
            (json!(true), None),
            (json!(u64::MAX), None),
        ] {
            assert_eq!(read_integer(&value), expected, "{value}");
        }
    }

    #[test]
    fn times_outside_the_calendar_are_refused() {
        assert_eq!(read_millis(1_500).map(millis), Some(1_500));
        assert_eq!(read_millis(-1).map(millis), Some(-1));
        assert_eq!(read_millis(i64::MAX), None);
        assert_eq!(read_millis(i64::MAX / 1_000), None);
    }
}

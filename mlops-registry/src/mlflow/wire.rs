//! What both sides of the wire know: error codes, numbers, times and ids as MLflow writes them.

use mlops_core::{Timestamp, clock};
use serde_json::{Value, json};
use uuid::Uuid;

/// The error codes of MLflow's answers and the HTTP status of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

//! JSON as it is hashed and stored: one spelling per value.

use serde::Serialize;
use serde_json::Value;

/// The canonical spelling of a JSON value: keys sorted, no white space.
///
/// Two equal values always give the same text, whatever order a map kept its keys in, so that digests over it agree.
///
/// ```
/// let value = serde_json::json!({"b": 1, "a": [true, null]});
/// assert_eq!(mlops_core::json::canonical(&value), r#"{"a":[true,null],"b":1}"#);
/// ```
#[must_use]
pub fn canonical(value: &Value) -> String {
    let mut out = String::new();
    write(value, &mut out);
    out
}

/// The canonical spelling of anything that serializes to JSON.
///
/// # Errors
/// [`crate::Error::InvalidInput`] if the value cannot be written as JSON (a map with keys that are not strings).
pub fn to_canonical(value: &impl Serialize) -> crate::Result<String> {
    let value = serde_json::to_value(value).map_err(|e| crate::Error::invalid("json value", e))?;
    Ok(canonical(&value))
}

fn write(value: &Value, out: &mut String) {
    match value {
        Value::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                write(item, out);
            }
            out.push(']');
        }
        Value::Object(map) => {
            let mut keys: Vec<&String> = map.keys().collect();
            keys.sort_unstable();
            out.push('{');
            for (i, key) in keys.into_iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                out.push_str(&Value::String(key.clone()).to_string());
                out.push(':');
                write(&map[key.as_str()], out);
            }
            out.push('}');
        }
        scalar => out.push_str(&scalar.to_string()),
    }
}

/// Serde for an `f64` that may be NaN or infinite: a number where JSON has one, else `"NaN"`, `"Infinity"`, `"-Infinity"`.
///
/// Use it as `#[serde(with = "mlops_core::json::lossless_f64")]`.
pub mod lossless_f64 {
    use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

    /// Writes the number, or its name where JSON has no number for it.
    ///
    /// # Errors
    /// Only those of the serializer.
    pub fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        match *value {
            v if v.is_finite() => serializer.serialize_f64(v),
            v if v.is_nan() => serializer.serialize_str("NaN"),
            v if v > 0.0 => serializer.serialize_str("Infinity"),
            _ => serializer.serialize_str("-Infinity"),
        }
    }

    /// Reads what [`serialize`] wrote.
    ///
    /// # Errors
    /// Anything but a number or one of the three names.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Spelling {
            Number(f64),
            Name(String),
        }
        match Spelling::deserialize(deserializer)? {
            Spelling::Number(v) => Ok(v),
            Spelling::Name(name) => match name.as_str() {
                "NaN" => Ok(f64::NAN),
                "Infinity" => Ok(f64::INFINITY),
                "-Infinity" => Ok(f64::NEG_INFINITY),
                other => Err(D::Error::custom(format!("expected a number, got {other:?}"))),
            },
        }
    }
}

/// Serde for an optional pair of floats, each as in [`lossless_f64`].
pub(crate) mod lossless_pair {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    struct Kept(#[serde(with = "super::lossless_f64")] f64);

    pub(crate) fn serialize<S: Serializer>(value: &Option<(f64, f64)>, serializer: S) -> Result<S::Ok, S::Error> {
        value.map(|(low, high)| (Kept(low), Kept(high))).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<(f64, f64)>, D::Error> {
        let kept = Option::<(Kept, Kept)>::deserialize(deserializer)?;
        Ok(kept.map(|(low, high)| (low.0, high.0)))
    }
}

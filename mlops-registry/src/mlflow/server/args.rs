//! What a call was given, in its query or its body: one way to read both, and one wording for what is wrong.

use std::collections::BTreeMap;

use axum::extract::RawPathParams;
use mlops_core::Timestamp;
use serde_json::{Map, Value};

use super::failure::{Answer, Failure};
use crate::mlflow::wire;

/// The fields of a call, by name.
///
/// As protobuf's JSON has it: an unknown field is ignored, one that is null is not there, and 64-bit integers may be
/// strings. A field of the query that is given more than once is a list.
#[derive(Debug, Default)]
pub(super) struct Args(Map<String, Value>);

impl Args {
    /// Of a body: empty, or one JSON object.
    pub(super) fn body(bytes: &[u8]) -> Answer<Self> {
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Ok(Self::default());
        }
        match serde_json::from_slice(bytes) {
            Ok(Value::Object(fields)) => Ok(Self(fields)),
            Ok(_) => Err(Failure::invalid("the body must be a JSON object")),
            Err(error) => Err(Failure::invalid(format!("the body is not JSON: {error}"))),
        }
    }

    /// Of a query: every value is text.
    pub(super) fn query(query: &str) -> Self {
        let mut fields = Map::new();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let value = Value::String(value.into_owned());
            match fields.get_mut(&*name) {
                Some(Value::Array(all)) => all.push(value),
                Some(first) => *first = Value::Array(vec![first.take(), value]),
                None => {
                    fields.insert(name.into_owned(), value);
                }
            }
        }
        Self(fields)
    }

    /// Adds the fields of another; its own hold where both have one.
    pub(super) fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// Adds the named parts of the path, which hold whatever the body says.
    pub(super) fn path(&mut self, path: &RawPathParams) {
        self.0.extend(path.iter().map(|(name, value)| (name.to_owned(), Value::String(value.to_owned()))));
    }

    fn value(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    fn wrong(name: &str, value: &Value, wanted: &str) -> Failure {
        let mut shown = value.to_string();
        if shown.len() > 80 {
            let cut = (0..=80).rev().find(|&i| shown.is_char_boundary(i)).unwrap_or(0);
            shown.truncate(cut);
            shown.push('…');
        }
        Failure::invalid(format!("Invalid value {shown} for parameter '{name}' supplied: expected {wanted}"))
    }

    pub(super) fn opt_text(&self, name: &str) -> Answer<Option<&str>> {
        match self.value(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(Self::wrong(name, other, "a string")),
        }
    }

    /// Text that may be empty but must be there.
    pub(super) fn any_text(&self, name: &str) -> Answer<&str> {
        self.opt_text(name)?.ok_or_else(|| Failure::invalid(format!("Missing value for required parameter '{name}'.")))
    }

    /// Text that must be there and say something.
    pub(super) fn text(&self, name: &str) -> Answer<&str> {
        match self.any_text(name)? {
            "" => Err(Failure::invalid(format!("Missing value for required parameter '{name}'."))),
            text => Ok(text),
        }
    }

    /// A field that has an older name too.
    pub(super) fn text_or(&self, name: &str, older: &str) -> Answer<&str> {
        match self.opt_text(name)?.filter(|text| !text.is_empty()) {
            Some(text) => Ok(text),
            None => self.opt_text(older)?.filter(|text| !text.is_empty()).map_or_else(|| self.text(name), Ok),
        }
    }

    pub(super) fn opt_integer(&self, name: &str) -> Answer<Option<i64>> {
        self.value(name)
            .map(|value| wire::read_integer(value).ok_or_else(|| Self::wrong(name, value, "an integer")))
            .transpose()
    }

    /// A version: a number above 0, mostly sent as a string.
    pub(super) fn version(&self, name: &str) -> Answer<u64> {
        let value = self
            .value(name)
            .ok_or_else(|| Failure::invalid(format!("Missing value for required parameter '{name}'.")))?;
        wire::read_integer(value)
            .and_then(|version| u64::try_from(version).ok())
            .ok_or_else(|| Self::wrong(name, value, "the number of a version"))
    }

    pub(super) fn number(&self, name: &str) -> Answer<f64> {
        let value = self
            .value(name)
            .ok_or_else(|| Failure::invalid(format!("Missing value for required parameter '{name}'.")))?;
        wire::read_number(value).ok_or_else(|| Self::wrong(name, value, "a number"))
    }

    pub(super) fn opt_time(&self, name: &str) -> Answer<Option<Timestamp>> {
        let Some(millis) = self.opt_integer(name)? else { return Ok(None) };
        match wire::read_millis(millis) {
            Some(at) => Ok(Some(at)),
            None => Err(Failure::invalid(format!("Invalid value {millis} for parameter '{name}': no such time"))),
        }
    }

    pub(super) fn opt_flag(&self, name: &str) -> Answer<Option<bool>> {
        match self.value(name) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(Value::String(text)) if text.eq_ignore_ascii_case("true") => Ok(Some(true)),
            Some(Value::String(text)) if text.eq_ignore_ascii_case("false") => Ok(Some(false)),
            Some(other) => Err(Self::wrong(name, other, "true or false")),
        }
    }

    /// The same without one field.
    pub(super) fn without(&self, name: &str) -> Self {
        Self(
            self.0
                .iter()
                .filter(|(field, _)| *field != name)
                .map(|(field, value)| (field.clone(), value.clone()))
                .collect(),
        )
    }

    /// A list of texts; one text alone is a list of one, as a query gives it.
    pub(super) fn texts(&self, name: &str) -> Answer<Vec<String>> {
        match self.value(name) {
            None => Ok(Vec::new()),
            Some(Value::String(text)) => Ok(vec![text.clone()]),
            Some(Value::Array(all)) => all
                .iter()
                .map(|value| value.as_str().map(str::to_owned).ok_or_else(|| Self::wrong(name, value, "a string")))
                .collect(),
            Some(other) => Err(Self::wrong(name, other, "a list of strings")),
        }
    }

    /// A list of messages.
    pub(super) fn objects(&self, name: &str) -> Answer<Vec<Self>> {
        match self.value(name) {
            None => Ok(Vec::new()),
            Some(Value::Array(all)) => all
                .iter()
                .map(|value| match value {
                    Value::Object(fields) => Ok(Self(fields.clone())),
                    other => Err(Self::wrong(name, other, "an object")),
                })
                .collect(),
            Some(other) => Err(Self::wrong(name, other, "a list of objects")),
        }
    }

    /// One message within this one.
    pub(super) fn object(&self, name: &str) -> Answer<Option<Self>> {
        match self.value(name) {
            None => Ok(None),
            Some(Value::Object(fields)) => Ok(Some(Self(fields.clone()))),
            Some(other) => Err(Self::wrong(name, other, "an object")),
        }
    }

    /// A list of `{key, value}`. The last of equal keys holds.
    pub(super) fn pairs(&self, name: &str) -> Answer<BTreeMap<String, String>> {
        let pair = |pair: Self| {
            let value = pair.opt_text("value")?.unwrap_or_default().to_owned();
            Ok((pair.text("key")?.to_owned(), value))
        };
        self.objects(name)?.into_iter().map(pair).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_and_a_body_read_alike() {
        let query = Args::query("name=a%20b&order_by=x&order_by=y+z&max_results=3&empty=&n=1.5");
        let body =
            Args::body(br#"{"name":"a b","order_by":["x","y z"],"max_results":"3","empty":"","n":1.5,"gone":null}"#)
                .unwrap();
        for args in [query, body] {
            assert_eq!(args.text("name").unwrap(), "a b");
            assert_eq!(args.texts("order_by").unwrap(), ["x", "y z"]);
            assert_eq!(args.opt_integer("max_results").unwrap(), Some(3));
            assert_eq!(args.number("n").unwrap(), 1.5);
            assert_eq!(args.opt_text("gone").unwrap(), None);
            assert!(args.text("empty").is_err());
            assert_eq!(args.any_text("empty").unwrap(), "");
            assert_eq!(args.texts("name").unwrap(), ["a b"]);
        }
    }

    #[test]
    fn what_is_wrong_names_the_field() {
        let args = Args::body(br#"{"a":[1],"b":"x","c":9e99,"d":{"e":1}}"#).unwrap();
        for (failure, field) in [
            (args.text("a").unwrap_err(), "'a'"),
            (args.texts("a").unwrap_err(), "'a'"),
            (args.opt_integer("b").unwrap_err(), "'b'"),
            (args.opt_time("c").unwrap_err(), "'c'"),
            (args.number("d").unwrap_err(), "'d'"),
            (args.objects("d").unwrap_err(), "'d'"),
            (args.pairs("b").unwrap_err(), "'b'"),
            (args.opt_flag("b").unwrap_err(), "'b'"),
            (args.text("none").unwrap_err(), "'none'"),
        ] {
            assert!(failure.message.contains(field), "{failure:?}");
        }
        let long = Args::body(format!(r#"{{"a":["{}"]}}"#, "é".repeat(1_000)).as_bytes()).unwrap();
        assert!(long.text("a").unwrap_err().message.len() < 200);
        for bad in [&b"[]"[..], b"{", b"\xff", b"null"] {
            assert!(Args::body(bad).is_err());
        }
        assert!(Args::body(b" \n").unwrap().0.is_empty());
    }
}

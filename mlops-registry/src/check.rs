//! What may be stored: every text has a limit, and none holds what a database cannot keep.

use std::collections::BTreeMap;

use mlops_core::{Error, Principal, Result};

use crate::tracking::{LogBatch, RunInput};

/// Longest name of a model, experiment, run, tag, param or metric, in characters.
pub(crate) const NAME: usize = 250;
/// Longest alias, in characters.
pub(crate) const ALIAS: usize = 255;
/// Longest value of a param or a tag, in characters.
pub(crate) const VALUE: usize = 100_000;
/// Longest value of a tag of a model or a version, in characters.
pub(crate) const LABEL: usize = 100_000;
/// Longest description, reason or comment, in characters.
pub(crate) const TEXT: usize = 64_000;
/// Longest path of an artifact, in characters.
pub(crate) const PATH: usize = 1_000;
/// Longest schema or profile of a dataset, in characters; MLflow's limit is 2^24 - 1 bytes.
pub(crate) const SCHEMA: usize = 1 << 20;
/// Most metrics, params and tags in one batch.
pub(crate) const BATCH: (usize, usize, usize) = (10_000, 1_000, 1_000);
#[cfg(any(feature = "sqlite", feature = "postgres"))]
/// Most rows that a paged call returns.
pub(crate) const PAGE: usize = 1_000;
/// Most findings in a request's evidence, and most bytes as JSON.
pub(crate) const EVIDENCE: (usize, usize) = (1_000, 1 << 20);

fn shown(text: &str) -> String {
    let mut start: String = text.chars().take(40).collect();
    if start.len() < text.len() {
        start.push('…');
    }
    start
}

fn length(what: &str, text: &str, most: usize) -> Result<()> {
    // Bytes first, so that a huge text is not counted through.
    if text.len() > 4 * most || text.chars().count() > most {
        let (bytes, start) = (text.len(), shown(text));
        return Err(Error::invalid(what, format!("{start:?} ({bytes} bytes) is longer than {most} characters")));
    }
    Ok(())
}

/// A name that people read and programs look up.
pub(crate) fn name(what: &str, name: &str) -> Result<()> {
    length(what, name, NAME)?;
    if name.is_empty() {
        return Err(Error::invalid(what, "must not be empty"));
    }
    if name.trim() != name || name.chars().any(char::is_control) {
        return Err(Error::invalid(what, format!("{name:?} has control characters or white space at its ends")));
    }
    Ok(())
}

/// A model's name: also free of what separates the parts of a model reference.
pub(crate) fn model(text: &str) -> Result<()> {
    name("model name", text)?;
    if text.contains(['/', ':', '@']) {
        return Err(Error::invalid("model name", format!("{text:?} must not contain '/', ':' or '@'")));
    }
    Ok(())
}

/// An alias, by MLflow's rules.
pub(crate) fn alias(alias: &str) -> Result<()> {
    length("alias", alias, ALIAS)?;
    let word = |c: char| c.is_alphanumeric() || c == '_' || c == '-';
    if alias.is_empty() || !alias.chars().all(word) {
        return Err(Error::invalid("alias", format!("{alias:?} must be one or more letters, digits, '_' or '-'")));
    }
    let number = alias.strip_prefix(['v', 'V']).is_some_and(|n| !n.is_empty() && n.chars().all(|c| c.is_ascii_digit()));
    if alias.eq_ignore_ascii_case("latest") || number {
        return Err(Error::invalid("alias", format!("{alias:?} is reserved: it reads as a version")));
    }
    Ok(())
}

/// Text that is kept as it is.
pub(crate) fn text(what: &str, text: &str, most: usize) -> Result<()> {
    length(what, text, most)?;
    if text.contains('\0') {
        return Err(Error::invalid(what, "must not contain the character U+0000"));
    }
    Ok(())
}

/// A reason that must be given.
pub(crate) fn reason(what: &str, reason: &str) -> Result<()> {
    if reason.trim().is_empty() {
        return Err(Error::invalid(what, "must say why"));
    }
    text(what, reason, TEXT)
}

pub(crate) fn tags(tags: &BTreeMap<String, String>) -> Result<()> {
    count("tags", tags.len(), BATCH.2)?;
    tags.iter().try_for_each(|(key, value)| name("tag", key).and_then(|()| text("tag value", value, VALUE)))
}

/// Tags of a model or a version, all of them.
pub(crate) fn labels(tags: &BTreeMap<String, String>) -> Result<()> {
    count("tags", tags.len(), BATCH.2)?;
    tags.iter().try_for_each(|(key, value)| name("tag", key).and_then(|()| text("tag value", value, LABEL)))
}

pub(crate) fn count(what: &str, found: usize, most: usize) -> Result<()> {
    if found > most {
        return Err(Error::invalid(what, format!("{found} in one call; at most {most}, so split them")));
    }
    Ok(())
}

pub(crate) fn batch(batch: &LogBatch) -> Result<()> {
    count("metrics", batch.metrics.len(), BATCH.0)?;
    tags(&batch.tags)?;
    params(&batch.params)?;
    for metric in &batch.metrics {
        name("metric", &metric.key)?;
        if let Some(dataset) = &metric.dataset {
            name("dataset name", &dataset.name)?;
            name("dataset digest", &dataset.digest)?;
        }
    }
    Ok(())
}

pub(crate) fn params(params: &BTreeMap<String, String>) -> Result<()> {
    count("params", params.len(), BATCH.1)?;
    params.iter().try_for_each(|(key, value)| name("param", key).and_then(|()| text("param value", value, VALUE)))
}

pub(crate) fn inputs(inputs: &[RunInput]) -> Result<()> {
    count("inputs", inputs.len(), BATCH.1)?;
    for input in inputs {
        name("dataset name", &input.name)?;
        name("dataset digest", &input.digest)?;
        text("context", &input.context, NAME)?;
        text("dataset source type", &input.source_type, NAME)?;
        text("dataset source", &input.source, TEXT)?;
        text("dataset schema", input.schema.as_deref().unwrap_or_default(), SCHEMA)?;
        text("dataset profile", input.profile.as_deref().unwrap_or_default(), SCHEMA)?;
        tags(&input.tags)?;
    }
    Ok(())
}

/// Where an artifact lies within its owner: names between `/`, none of which leads elsewhere.
pub(crate) fn path(what: &str, path: &str) -> Result<()> {
    length(what, path, PATH)?;
    if path.contains('\\') || path.chars().any(char::is_control) {
        return Err(Error::invalid(what, format!("{path:?} has a backslash or control characters")));
    }
    if path.split('/').any(|segment| matches!(segment, "" | "." | "..")) {
        let reason = format!("{path:?} is not a relative path of names between '/', without '.' and '..'");
        return Err(Error::invalid(what, reason));
    }
    Ok(())
}

pub(crate) fn principal(who: &Principal) -> Result<()> {
    name("principal", &who.name)
}

/// A schema of a PostgreSQL database: a name that needs no quotes, and leaves room for a channel's name made from it.
#[cfg(feature = "postgres")]
pub(crate) fn schema(name: &str) -> Result<()> {
    let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let good =
        (1..=50).contains(&name.len()) && name.chars().all(word) && !name.starts_with(|c: char| c.is_ascii_digit());
    if !good || name.starts_with("pg_") {
        let rule = "must be 1 to 50 lower-case letters, digits and '_', not start with a digit and not with pg_";
        return Err(Error::invalid("schema", format!("{:?} {rule}", shown(name))));
    }
    Ok(())
}

#[cfg(any(feature = "sqlite", feature = "postgres"))]
/// The id of a node in the lineage graph, or the name of a fact about it: two of them fit into an index entry of
/// PostgreSQL.
pub(crate) fn key(what: &str, text: &str) -> Result<()> {
    const BYTES: usize = 1_200;
    if text.len() > BYTES {
        let (bytes, start) = (text.len(), shown(text));
        return Err(Error::invalid(what, format!("{start:?} ({bytes} bytes) is longer than {BYTES} bytes")));
    }
    Ok(())
}

#[cfg(any(feature = "sqlite", feature = "postgres"))]
/// The size of a page.
pub(crate) fn page(limit: usize) -> Result<i64> {
    if (1..=PAGE).contains(&limit) {
        return Ok(limit as i64);
    }
    Err(Error::invalid("limit", format!("{limit} is not in 1..={PAGE}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aliases_follow_mlflow() {
        for good in ["champion", "a", "été", "v", "v1a", "latest2", "A-b_c", "0"] {
            alias(good).unwrap();
        }
        for bad in ["", "latest", "LaTeSt", "v1", "V007", "a b", "a/b", "a@b", "a.b", &"x".repeat(256)] {
            assert!(alias(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn model_names_leave_references_readable() {
        for good in ["prices", "Elec 2 (half-hourly)", "日本"] {
            model(good).unwrap();
        }
        for bad in ["", " a", "a ", "a/b", "a:b", "a@b", "a\n", "a\0b", &"x".repeat(251)] {
            assert!(model(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn paths_stay_within_their_owner() {
        for good in ["a", "a/b c/d.txt", "模型/é", "..a", "a..", "-", "C:"] {
            path("path", good).unwrap();
        }
        for bad in ["", "/a", "a/", "a//b", "..", "a/../b", "./a", "a/.", "a\\b", "a\nb", "a\0", &"x".repeat(1_001)] {
            assert!(path("path", bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_huge_text_is_refused_without_being_quoted_whole() {
        let error = text("description", &"x".repeat(10_000_000), TEXT).unwrap_err().to_string();
        assert!(error.len() < 200, "{error}");
        assert!(error.contains("10000000 bytes"), "{error}");
    }
}

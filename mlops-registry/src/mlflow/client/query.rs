//! Searches in MLflow's grammar.

use mlops_core::{Error as CoreError, RunId};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::messages::experiment_id;
use super::unsupported;
use crate::mlflow::wire;
use crate::search::{Clause, Comparison, Entity, Field, Filter, Order, Plan, Test, read_token, write_token};
use crate::{Result, Search};

/// A search as MLflow takes it.
#[derive(Debug)]
pub(super) struct Query {
    pub(super) filter: String,
    order: Vec<Order>,
    /// The server's token of where to go on.
    pub(super) from: Option<String>,
    /// The digest of what decides what is found.
    digest: String,
    pub(super) limit: usize,
}

/// The server's token, with the search that it belongs to.
#[derive(Serialize, Deserialize)]
struct Token {
    query: String,
    server: String,
}

impl Query {
    pub(super) fn new(entity: Entity, search: &Search, scope: &impl Serialize) -> Result<Self> {
        let mut first = search.clone();
        first.page_token = None;
        let plan = Plan::new(entity, &first, scope)?;
        let from = search.page_token.as_deref().map(read_token::<Token>).transpose()?;
        if from.as_ref().is_some_and(|token| token.query != plan.query) {
            let reason = "it belongs to another search: a filter, order, view or experiment differs";
            return Err(CoreError::invalid("page token", reason).into());
        }
        let asked = search.order_by.len();
        // Where a server's own ties differ from ours, ours are asked for.
        let ties = matches!(entity, Entity::Experiments | Entity::Models | Entity::Versions);
        let mut order = plan.order;
        if !ties {
            let unasked = entity.ties().len();
            let keep = order.len().saturating_sub(unasked).max(asked.min(order.len()));
            order.truncate(keep);
        }
        if entity == Entity::Models && order.iter().any(|o| o.field == Field::Attribute("creation_timestamp")) {
            return Err(unsupported(
                "order registered models by creation_timestamp",
                "order by last_updated_timestamp",
            ));
        }
        Ok(Self {
            filter: filter(entity, &plan.filter)?,
            order,
            from: from.map(|token| token.server),
            digest: plan.query,
            limit: plan.limit,
        })
    }

    /// What [`Search::after`] takes.
    pub(super) fn token(&self, server: String) -> String {
        write_token(&Token { query: self.digest.clone(), server })
    }

    /// The keys of the order, as texts.
    pub(super) fn order_by(&self) -> Result<Vec<String>> {
        self.order.iter().map(|order| Ok(format!("{} {}", field(&order.field)?, direction(order)))).collect()
    }

    /// The keys of the order, as messages.
    pub(super) fn order_messages(&self) -> Result<Vec<Value>> {
        let message = |order: &Order| {
            let name = match &order.field {
                Field::Attribute(name) => (*name).to_owned(),
                // Not in backticks here: the whole rest is the key.
                Field::Metric(key) => format!("metrics.{key}"),
                other => {
                    let operation = format!("order logged models by {other}");
                    return Err(unsupported(operation, "order by a metric or an attribute"));
                }
            };
            let mut message = json!({ "field_name": name, "ascending": order.ascending });
            if let Some(dataset) = &order.dataset {
                message["dataset_name"] = dataset.name.as_str().into();
                if let Some(digest) = &dataset.digest {
                    message["dataset_digest"] = digest.as_str().into();
                }
            }
            Ok(message)
        };
        self.order.iter().map(message).collect()
    }
}

fn direction(order: &Order) -> &'static str {
    if order.ascending { "ASC" } else { "DESC" }
}

fn field(field: &Field) -> Result<String> {
    let (prefix, key) = match field {
        Field::Attribute(name) => return Ok((*name).to_owned()),
        Field::Dataset(name) => return Ok(format!("datasets.{name}")),
        Field::Metric(key) => ("metrics", key),
        Field::Param(key) => ("params", key),
        Field::Tag(key) => ("tags", key),
    };
    if key.contains('`') {
        return Err(unsupported(format!("search by the key {key:?}"), "use keys without backticks"));
    }
    Ok(format!("{prefix}.`{key}`"))
}

fn text(text: &str) -> Result<String> {
    // Nothing is escaped in MLflow's texts; a backslash at the end would take the quote along.
    match (text.contains('\''), text.contains('"')) {
        _ if text.ends_with('\\') => {
            Err(unsupported("search by a text that ends with a backslash", "use LIKE with a '_' in its place"))
        }
        (false, _) => Ok(format!("'{text}'")),
        (true, false) => Ok(format!("\"{text}\"")),
        (true, true) => {
            Err(unsupported("search by a text with both ' and \" in it", "use LIKE with a '_' in place of one of them"))
        }
    }
}

/// An id in the form that the server stores.
fn id(field: &Field, value: &str) -> String {
    match field {
        Field::Attribute("run_id" | "source_run_id") => {
            value.parse::<RunId>().map_or_else(|_| value.to_owned(), |id| wire::hex(id.as_uuid()))
        }
        Field::Attribute("experiment_id") => value.parse().map_or_else(|_| value.to_owned(), experiment_id),
        _ => value.to_owned(),
    }
}

fn number(field: &Field, comparison: Comparison, number: f64) -> Result<String> {
    let plain = |number: f64| {
        if number.fract() == 0.0 && number.abs() < 9e15 { format!("{number:.0}") } else { format!("{number:?}") }
    };
    if !number.is_finite() {
        let remedy = "compare with finite numbers, or look at `metric_history`";
        return Err(unsupported(format!("search by {field} {} {number}", comparison.as_str()), remedy));
    }
    let sign = comparison.as_str();
    if matches!(field, Field::Metric(_)) || number.fract() == 0.0 {
        return Ok(format!("{sign} {}", plain(number)));
    }
    // A time or a count is whole, so that a fraction falls between two of them.
    match comparison {
        Comparison::Above | Comparison::AtMost => Ok(format!("{sign} {}", plain(number.floor()))),
        Comparison::Below | Comparison::AtLeast => Ok(format!("{sign} {}", plain(number.ceil()))),
        _ => Err(unsupported(format!("search by {field} {sign} {number}"), "compare it with a whole number")),
    }
}

fn unequal(clause: &Clause) -> crate::Error {
    unsupported(format!("search by {clause}: it keeps 36 characters of a digest"), "search for one digest, by =")
}

fn filter(entity: Entity, filter: &Filter) -> Result<String> {
    let mut clauses = Vec::new();
    for clause in &filter.clauses {
        let on = &clause.field;
        if entity == Entity::LoggedModels && *on == Field::Attribute("status") {
            return Err(unsupported(
                "search logged models by status",
                "look at `LoggedModel::status` of what is found",
            ));
        }
        let long = |value: &String| *on == Field::Dataset("digest") && value.chars().count() > wire::DIGEST;
        let test = match &clause.test {
            // MLflow has the beginning of ours, a server of this crate all of it.
            Test::Is(value) if long(value) => {
                format!("LIKE {}", text(&value.chars().take(wire::DIGEST).chain(['%']).collect::<String>())?)
            }
            Test::IsNot(value) if long(value) => return Err(unequal(clause)),
            Test::In { values, .. } if values.iter().any(long) => return Err(unequal(clause)),
            Test::Number(comparison, value) => number(on, *comparison, *value)?,
            Test::Is(value) => format!("= {}", text(&id(on, value))?),
            Test::IsNot(value) => format!("!= {}", text(&id(on, value))?),
            Test::Like { pattern, any_case } => {
                format!("{} {}", if *any_case { "ILIKE" } else { "LIKE" }, text(pattern)?)
            }
            Test::In { values, negated } => {
                let list = values.iter().map(|value| text(&id(on, value))).collect::<Result<Vec<_>>>()?;
                // Of one value a list needs a comma in Python, so it is compared alone.
                match (list.as_slice(), negated) {
                    ([one], false) => format!("= {one}"),
                    ([one], true) => format!("!= {one}"),
                    (_, true) => format!("NOT IN ({})", list.join(", ")),
                    (_, false) => format!("IN ({})", list.join(", ")),
                }
            }
            Test::Null(_) if !matches!(entity, Entity::Runs | Entity::Experiments) => {
                let remedy = "give the tag a value that says so, and search by that";
                return Err(unsupported(format!("search by {clause}"), remedy));
            }
            null @ Test::Null(_) => null.to_string(),
        };
        clauses.push(format!("{} {test}", field(on)?));
    }
    Ok(clauses.join(" AND "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(entity: Entity, given: &str) -> Result<String> {
        Ok(Query::new(entity, &Search::new(given), &())?.filter)
    }

    #[test]
    fn filters_are_written_as_mlflow_reads_them() {
        for (given, expected) in [
            ("metric.a>1 and params.b like 'x%'", "metrics.`a` > 1 AND params.`b` LIKE 'x%'"),
            ("params.only = 'it''s'", "params.`only` = \"it's\""),
            ("start_time > 1999.5 AND end_time < 3.5", "start_time > 1999 AND end_time < 4"),
            ("metrics.`val loss` != -1e-9", "metrics.`val loss` != -1e-9"),
            ("tags.a IS NOT NULL", "tags.`a` IS NOT NULL"),
            ("run_id = '0194f1d2-c3b4-7a5e-8f60-718293a4b5c6'", "run_id = '0194f1d2c3b47a5e8f60718293a4b5c6'"),
            ("datasets.name IN ('a')", "datasets.name = 'a'"),
            ("run_id NOT IN ('x', 'y')", "run_id NOT IN ('x', 'y')"),
        ] {
            assert_eq!(rendered(Entity::Runs, given).unwrap(), expected);
        }
        let long = "0".repeat(64);
        let cut = rendered(Entity::Runs, &format!("datasets.digest = '{long}'")).unwrap();
        assert_eq!(cut, format!("datasets.digest LIKE '{}%'", &long[..36]));
    }

    #[test]
    fn what_mlflow_cannot_search_by_is_refused_with_a_remedy() {
        for (entity, given) in [
            (Entity::Runs, "metrics.a = nan"),
            (Entity::Runs, "metrics.a < inf"),
            (Entity::Runs, "start_time = 0.5"),
            (Entity::Runs, "params.a = 'both '' and \"'"),
            (Entity::Runs, "params.a = 'end\\'"),
            (Entity::Runs, "params.\"a`b\" = 'x'"),
            (Entity::Versions, "tags.a IS NULL"),
            (Entity::LoggedModels, "status = 'READY'"),
        ] {
            let error = rendered(entity, given).unwrap_err();
            assert!(matches!(error, crate::Error::Unsupported { .. }), "{given}: {error}");
        }
    }

    #[test]
    fn a_token_belongs_to_its_search() {
        let search = Search::new("params.a = 'b'").order_by("metrics.x DESC");
        let query = Query::new(Entity::Runs, &search, &["e"]).unwrap();
        assert_eq!(query.order_by().unwrap(), ["metrics.`x` DESC"]);
        let token = query.token("theirs".into());
        let next = Query::new(Entity::Runs, &search.clone().after(&token), &["e"]).unwrap();
        assert_eq!(next.from.as_deref(), Some("theirs"));
        for (search, scope) in [(search.clone().after(&token), "f"), (Search::default().after(&token), "e")] {
            let error = Query::new(Entity::Runs, &search, &[scope]).unwrap_err().to_string();
            assert!(error.starts_with("invalid page token"), "{error}");
        }
        assert!(Query::new(Entity::Runs, &search.after("zz"), &["e"]).is_err());
    }
}

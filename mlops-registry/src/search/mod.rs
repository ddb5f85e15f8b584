//! Searching experiments, runs, logged models, registered models and their versions, in MLflow's grammar.
//!
//! ```
//! use mlops_registry::search::{Entity, Filter, Search};
//! let search = Search::new("metrics.accuracy > 0.9 AND params.`learning rate` = '0.1'").order_by("metrics.accuracy DESC");
//! let filter = Filter::parse(Entity::Runs, &search.filter)?;
//! assert_eq!(filter.clauses.len(), 2);
//!
//! let error = Filter::parse(Entity::Runs, "metrics.accuracy > 'high'").unwrap_err();
//! assert_eq!(
//!     error.to_string(),
//!     "invalid filter: Expected numeric value type for metric. Found 'high' (at character 20)"
//! );
//! # Ok::<(), mlops_registry::Error>(())
//! ```
//!
//! # Grammar
//! ```text
//! filter   = [clause ("AND" clause)*]
//! clause   = field test
//! field    = [("metrics" | "params" | "tags" | "attributes" | "datasets") "."] key
//! key      = bare word, or text in `…` or "…", in which a doubled quote stands for one
//! test     = ("=" | "!=" | ">" | ">=" | "<" | "<=") value
//!          | ("LIKE" | "ILIKE") text | ["NOT"] "IN" "(" text ("," text)* ")" | "IS" ["NOT"] "NULL"
//! value    = number, nan, inf, or text in '…' or "…", in which a doubled quote stands for one
//! order_by = field ["ASC" | "DESC"]
//! ```
//! Words are read in any case. There is no `OR` and there are no brackets around clauses, as in MLflow. The singular of a
//! prefix and MLflow's other spellings (`metric`, `param`, `parameters`, `tag`, `attr`, `run`, `dataset`) are read too, and
//! a field without a prefix is an attribute.
//!
//! # Meaning
//! - What a thing does not have fits no test but `IS NULL`; so `!=` asks for a value that is there and differs. The one
//!   exception is MLflow's: a model or version without the tag `mlflow.prompt.is_prompt` has it as `'false'`.
//! - `LIKE`: `%` is any text, `_` any one character, nothing escapes them. `ILIKE` also takes A to Z and a to z as equal.
//! - A metric is compared by its latest value. `= nan` finds NaN; a NaN differs from every number and is neither above
//!   nor below one.
//! - Times are milliseconds since 1970, and a stored time is cut to them before it is compared.
//! - Where a thing has several values (its datasets, a logged model's metric in several runs), one that fits is enough.
//! - **Order.** As asked, then by the entity's own ties ([`Entity::ties`]), so that no two places are equal. Within an
//!   order by a metric, numbers come first, then NaN, then those without; within other orders those without come last.
//! - **Pages** go on behind the last thing of the page before, whatever was added or removed meanwhile.

mod page;
mod parse;
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mlflow-client"))]
mod plan;
mod value;

use std::fmt::{self, Display};

use serde::{Deserialize, Serialize};

pub use self::page::{Page, Search};
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mlflow-client"))]
pub(crate) use self::plan::{Plan, check_limit, read_token, write_token};
pub use self::value::{Searched, Value};

/// Whether a thing is in use or was deleted and may be restored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum LifecycleStage {
    /// In use.
    #[default]
    Active,
    /// Deleted; it can be restored.
    Deleted,
}

impl LifecycleStage {
    /// MLflow's spelling: `active`, `deleted`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Deleted => "deleted",
        }
    }
}

impl Display for LifecycleStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Which stages a search looks at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum View {
    /// What is in use.
    #[default]
    Active,
    /// What was deleted.
    Deleted,
    /// Both.
    All,
}

impl View {
    /// Whether it shows that stage.
    #[must_use]
    pub fn shows(self, stage: LifecycleStage) -> bool {
        match self {
            Self::Active => stage == LifecycleStage::Active,
            Self::Deleted => stage == LifecycleStage::Deleted,
            Self::All => true,
        }
    }
}

/// What is searched: it decides which fields there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Entity {
    /// Experiments: `name`, `experiment_id`, `creation_time`, `last_update_time`, tags.
    Experiments,
    /// Runs: `run_id`, `run_name`, `user_id`, `status`, `artifact_uri`, `start_time`, `end_time`, metrics, params, tags,
    /// datasets.
    Runs,
    /// Logged models: `name`, `model_id`, `model_type`, `status`, `source_run_id`, `creation_timestamp`,
    /// `last_updated_timestamp`, metrics, params, tags.
    LoggedModels,
    /// Registered models: `name`, tags; ordered also by `creation_timestamp`, `last_updated_timestamp`.
    Models,
    /// Their versions: `name`, `version_number`, `run_id`, `source_path`, tags; ordered by `name`, `version_number`,
    /// `creation_timestamp`, `last_updated_timestamp`.
    Versions,
}

/// What kind of value an attribute has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    Number,
    /// Milliseconds in filters.
    Time,
}

/// An attribute of an entity, and what may be asked of it.
#[derive(Debug)]
struct Attribute {
    name: &'static str,
    also: &'static [&'static str],
    kind: Kind,
    filter: bool,
    list: bool,
    order: bool,
}

const fn text(name: &'static str) -> Attribute {
    Attribute { name, also: &[], kind: Kind::Text, filter: true, list: false, order: true }
}

const fn time(name: &'static str) -> Attribute {
    Attribute { kind: Kind::Time, ..text(name) }
}

const EXPERIMENT: &[Attribute] =
    &[text("name"), text("experiment_id"), time("creation_time"), time("last_update_time")];
const RUN: &[Attribute] = &[
    Attribute { list: true, ..text("run_id") },
    Attribute { also: &["run name", "Run name", "Run Name"], ..text("run_name") },
    text("user_id"),
    text("status"),
    text("artifact_uri"),
    Attribute { also: &["created", "Created"], ..time("start_time") },
    time("end_time"),
];
const LOGGED_MODEL: &[Attribute] = &[
    Attribute { list: true, ..text("name") },
    Attribute { list: true, ..text("model_id") },
    Attribute { list: true, ..text("model_type") },
    Attribute { list: true, ..text("status") },
    Attribute { list: true, ..text("source_run_id") },
    Attribute { also: &["creation_time"], ..time("creation_timestamp") },
    Attribute { also: &["last_updated_time"], ..time("last_updated_timestamp") },
];
const MODEL: &[Attribute] = &[
    Attribute { list: true, ..text("name") },
    Attribute { filter: false, ..time("creation_timestamp") },
    Attribute { filter: false, ..time("last_updated_timestamp") },
];
const VERSION: &[Attribute] = &[
    Attribute { list: true, ..text("name") },
    Attribute { kind: Kind::Number, ..text("version_number") },
    Attribute { list: true, order: false, ..text("run_id") },
    Attribute { order: false, ..text("source_path") },
    Attribute { filter: false, ..time("creation_timestamp") },
    Attribute { filter: false, ..time("last_updated_timestamp") },
];

impl Entity {
    fn attributes(self) -> &'static [Attribute] {
        match self {
            Self::Experiments => EXPERIMENT,
            Self::Runs => RUN,
            Self::LoggedModels => LOGGED_MODEL,
            Self::Models => MODEL,
            Self::Versions => VERSION,
        }
    }

    fn attribute(self, name: &str) -> Option<&'static Attribute> {
        self.attributes().iter().find(|a| a.name == name || a.also.contains(&name))
    }

    /// Whether an attribute is a time, in microseconds where it is stored.
    #[cfg(any(feature = "sqlite", feature = "postgres"))]
    pub(crate) fn is_time(self, name: &str) -> bool {
        self.attribute(name).is_some_and(|a| a.kind == Kind::Time)
    }

    /// Whether an attribute is a time or a count.
    #[cfg(any(feature = "sqlite", feature = "postgres"))]
    pub(crate) fn is_number(self, name: &str) -> bool {
        self.attribute(name).is_some_and(|a| a.kind != Kind::Text)
    }

    /// Whether things of this kind have metrics and params.
    fn has_metrics(self) -> bool {
        matches!(self, Self::Runs | Self::LoggedModels)
    }

    /// The order of those that what was asked for leaves equal; the last entry is unique.
    #[must_use]
    pub fn ties(self) -> Vec<Order> {
        let order = |name, ascending| Order { field: Field::Attribute(name), ascending, dataset: None };
        match self {
            Self::Experiments => vec![order("creation_time", false), order("experiment_id", true)],
            Self::Runs => vec![order("start_time", false), order("run_id", true)],
            Self::LoggedModels => vec![order("creation_timestamp", false), order("model_id", true)],
            Self::Models => vec![order("name", true)],
            Self::Versions => vec![order("name", true), order("version_number", false)],
        }
    }
}

/// What a clause or an order looks at.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Field {
    /// An attribute, in its first spelling: `start_time`.
    Attribute(&'static str),
    /// The latest value of a metric.
    Metric(String),
    /// A param.
    Param(String),
    /// A tag.
    Tag(String),
    /// Of a run's datasets: `name`, `digest` or `context`.
    Dataset(&'static str),
}

/// Reads back as what it was parsed from, or its first spelling.
impl Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (prefix, key) = match self {
            Self::Attribute(name) => return write!(f, "attributes.{name}"),
            Self::Dataset(name) => return write!(f, "datasets.{name}"),
            Self::Metric(key) => ("metrics", key),
            Self::Param(key) => ("params", key),
            Self::Tag(key) => ("tags", key),
        };
        write!(f, "{prefix}.`{}`", key.replace('`', "``"))
    }
}

/// How numbers, or the equality of texts, are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Comparison {
    /// `=`
    Equal,
    /// `!=`
    NotEqual,
    /// `>`
    Above,
    /// `>=`
    AtLeast,
    /// `<`
    Below,
    /// `<=`
    AtMost,
}

impl Comparison {
    /// As it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Equal => "=",
            Self::NotEqual => "!=",
            Self::Above => ">",
            Self::AtLeast => ">=",
            Self::Below => "<",
            Self::AtMost => "<=",
        }
    }
}

/// What a clause asks of its field.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Test {
    /// Compares a number: a metric, a count, a time in milliseconds. NaN only with `=` and `!=`, on metrics.
    Number(Comparison, f64),
    /// Whether the text is this one.
    Is(String),
    /// Whether the text is there and another.
    IsNot(String),
    /// Whether the text fits a pattern of `%` and `_`.
    Like {
        /// The pattern.
        pattern: String,
        /// `ILIKE`: the case of A to Z does not matter.
        any_case: bool,
    },
    /// Whether the text is one of these, or is there and none of them.
    In {
        /// The texts.
        values: Vec<String>,
        /// `NOT IN`.
        negated: bool,
    },
    /// `IS NULL` (true) or `IS NOT NULL` (false).
    Null(bool),
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

impl Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(comparison, number) => write!(f, "{} {number:?}", comparison.as_str()),
            Self::Is(text) => write!(f, "= {}", quoted(text)),
            Self::IsNot(text) => write!(f, "!= {}", quoted(text)),
            Self::Like { pattern, any_case } => {
                write!(f, "{} {}", if *any_case { "ILIKE" } else { "LIKE" }, quoted(pattern))
            }
            Self::In { values, negated } => {
                let list: Vec<String> = values.iter().map(|v| quoted(v)).collect();
                write!(f, "{}IN ({})", if *negated { "NOT " } else { "" }, list.join(", "))
            }
            Self::Null(true) => f.write_str("IS NULL"),
            Self::Null(false) => f.write_str("IS NOT NULL"),
        }
    }
}

/// One condition.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Clause {
    /// What it looks at.
    pub field: Field,
    /// What it asks.
    pub test: Test,
    /// Whether things fit as well that do not have the field.
    pub or_missing: bool,
}

impl Display for Clause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.field, self.test)
    }
}

/// Conditions that must all hold. `Display` writes it in one spelling, which parses to the same filter.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Filter {
    /// The conditions.
    pub clauses: Vec<Clause>,
}

impl Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, clause) in self.clauses.iter().enumerate() {
            write!(f, "{}{clause}", if i == 0 { "" } else { " AND " })?;
        }
        Ok(())
    }
}

/// A dataset version by the name and digest that were logged with a metric, or every version of that name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct DatasetFilter {
    /// The dataset's name.
    pub name: String,
    /// The digest; any if absent.
    pub digest: Option<String>,
}

impl DatasetFilter {
    /// Every version of a dataset.
    pub fn named(name: impl Into<String>) -> Self {
        Self { name: name.into(), digest: None }
    }

    /// Only the version of that digest.
    #[must_use]
    pub fn digest(mut self, digest: impl Into<String>) -> Self {
        self.digest = Some(digest.into());
        self
    }

    pub(crate) fn fits(&self, name: &str, digest: &str) -> bool {
        self.name == name && self.digest.as_deref().is_none_or(|d| d == digest)
    }
}

/// One key of an order.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Order {
    /// What it looks at.
    pub field: Field,
    /// From small to great.
    pub ascending: bool,
    /// For a logged model's metric: only as measured on this dataset.
    pub dataset: Option<DatasetFilter>,
}

impl Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.field, if self.ascending { "ASC" } else { "DESC" })
    }
}

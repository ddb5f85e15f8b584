//! Which method compares a column, and from when its effect is drift.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::profile::{ColumnKind, ColumnProfile};
use crate::{Error, Result};

/// A way to compare one column of two profiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Method {
    /// Population stability index, as [`PsiDetector`](super::PsiDetector): the effect is the index above its noise, in
    /// nats. Over the reference's quantile bins, or over categories.
    Psi,
    /// Jensen–Shannon: the statistic is the divergence in nats, the effect the distance, its root, above noise; in
    /// [0, 0.833]. Over the reference's quantile bins, or over categories.
    JensenShannon,
    /// The largest difference of the shares of a bin or category, in [0, 1], with an interval that holds at any number of
    /// rows.
    LInfinity,
    /// Pearson's chi-square with its p-value; the effect is Cramér's V above noise, in [0, 1].
    ChiSquare,
    /// Kolmogorov–Smirnov distance, in [0, 1], with an interval that holds at any number of rows, and a p-value for small
    /// ones; for numbers and times.
    KolmogorovSmirnov,
}

impl Method {
    /// What the verdict is about.
    pub(crate) fn effect(self) -> &'static str {
        match self {
            Self::Psi => "psi above noise",
            Self::ChiSquare => "cramer's v above noise",
            Self::JensenShannon => "distance above noise",
            Self::LInfinity | Self::KolmogorovSmirnov => "distance",
        }
    }

    fn most(self) -> f64 {
        match self {
            Self::Psi => f64::MAX,
            _ => 1.0,
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Psi => "psi",
            Self::JensenShannon => "jensen_shannon",
            Self::LInfinity => "l_infinity",
            Self::ChiSquare => "chi_square",
            Self::KolmogorovSmirnov => "ks",
        })
    }
}

/// A method and the effect from which it finds drift.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Choice {
    /// The method.
    pub method: Method,
    /// The effect from which a change counts as drift: a convention.
    pub alert_at: f64,
}

impl Choice {
    /// A method with its threshold.
    #[must_use]
    pub fn new(method: Method, alert_at: f64) -> Self {
        Self { method, alert_at }
    }

    pub(crate) fn check(self, what: &str) -> Result<()> {
        let most = self.method.most();
        if self.alert_at > 0.0 && self.alert_at <= most {
            return Ok(());
        }
        let Self { method, alert_at } = self;
        Err(Error::invalid(what, format!("`alert_at` of {method} must lie in (0, {most}], got {alert_at}")))
    }
}

/// Columns that are compared alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Family {
    /// Numbers, durations and times of day.
    Numbers,
    /// Texts and booleans.
    Categories,
    /// Dates and timestamps. They move by themselves, so none is compared unless a method is named for it.
    Dates,
}

impl Family {
    /// The family of a column; `None` for bytes and nulls, whose values are not compared.
    #[must_use]
    pub fn of(column: &ColumnProfile) -> Option<Self> {
        let dated = column.data_type().starts_with("Date") || column.data_type().starts_with("Timestamp");
        match column.kind() {
            ColumnKind::Time if dated => Some(Self::Dates),
            ColumnKind::Number | ColumnKind::Time => Some(Self::Numbers),
            ColumnKind::Text | ColumnKind::Boolean => Some(Self::Categories),
            _ => None,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Numbers => "numbers",
            Self::Categories => "categories",
            Self::Dates => "dates",
        })
    }
}

/// The default choice of method by the kind of column and the rows of the smaller side.
///
/// ```
/// use mlops_monitor::drift::MethodTable;
///
/// assert_eq!(MethodTable::default().to_string(), "\
/// | column | rows from | method | drift from |
/// | --- | --- | --- | --- |
/// | numbers | 0 | ks | 0.1 |
/// | numbers | 1000 | psi | 0.2 |
/// | categories | 0 | l_infinity | 0.1 |
/// | categories | 1000 | psi | 0.2 |
/// ");
/// ```
/// With few rows a distance, whose interval holds at any number of them; from 1,000 on PSI, whose interval needs rows and
/// which sees tails and rare categories that a distance does not. A column that crosses the line goes over from one
/// convention to the other; take the line out (one rule from 0 on) where that matters more.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MethodTable {
    rules: Vec<Rule>,
}

/// One line of a [`MethodTable`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Rule {
    /// The columns.
    pub column: Family,
    /// Rows of the smaller side from which it holds.
    pub rows_from: u64,
    /// What to do.
    #[serde(flatten)]
    pub choice: Choice,
}

impl Default for MethodTable {
    fn default() -> Self {
        Self::empty()
            .rule(Family::Numbers, 0, Choice::new(Method::KolmogorovSmirnov, 0.1))
            .rule(Family::Numbers, 1_000, Choice::new(Method::Psi, 0.2))
            .rule(Family::Categories, 0, Choice::new(Method::LInfinity, 0.1))
            .rule(Family::Categories, 1_000, Choice::new(Method::Psi, 0.2))
    }
}

impl MethodTable {
    /// Without rules: nothing is compared.
    #[must_use]
    pub fn empty() -> Self {
        Self { rules: Vec::new() }
    }

    /// Adds a rule, or replaces that of the same columns and rows.
    #[must_use]
    pub fn rule(mut self, column: Family, rows_from: u64, choice: Choice) -> Self {
        self.rules.retain(|rule| (rule.column, rule.rows_from) != (column, rows_from));
        self.rules.push(Rule { column, rows_from, choice });
        self.rules.sort_by_key(|rule| (rule.column, rule.rows_from));
        self
    }

    /// The rules, by column and rows.
    #[must_use]
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// What is done with a column at so many rows of the smaller side; `None` if no rule is for it.
    #[must_use]
    pub fn choose(&self, column: Family, rows: u64) -> Option<Choice> {
        let fits = self.rules.iter().filter(|rule| rule.column == column && rule.rows_from <= rows);
        fits.max_by_key(|rule| rule.rows_from).map(|rule| rule.choice)
    }
}

impl fmt::Display for MethodTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| column | rows from | method | drift from |\n| --- | --- | --- | --- |")?;
        for Rule { column, rows_from, choice } in &self.rules {
            writeln!(f, "| {column} | {rows_from} | {} | {} |", choice.method, choice.alert_at)?;
        }
        Ok(())
    }
}

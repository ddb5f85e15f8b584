//! Rows per category.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Most rows on a side: sums and products of two stay exact below it.
const MOST_ROWS: u64 = 1 << 53;

/// Rows per category of one sample, with the missing ones as a category of their own.
///
/// Merging is adding, so shards can be counted apart.
///
/// # Examples
/// ```
/// use mlops_monitor::two_sample::CategoryCounts;
///
/// let mut plan: CategoryCounts = [Some("free"), Some("paid"), None].into_iter().collect();
/// plan.add("paid", 2);
/// assert_eq!((plan.count("paid"), plan.missing(), plan.rows()), (3, 1, 5));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CategoryCounts {
    counts: BTreeMap<String, u64>,
    missing: u64,
}

impl CategoryCounts {
    /// No rows.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds `rows` rows of a category; none at all leave no trace of it.
    pub fn add(&mut self, category: &str, rows: u64) {
        if rows == 0 {
            return;
        }
        if let Some(count) = self.counts.get_mut(category) {
            *count = count.saturating_add(rows);
        } else {
            self.counts.insert(category.to_owned(), rows);
        }
    }

    /// Adds rows without a category.
    pub fn add_missing(&mut self, rows: u64) {
        self.missing = self.missing.saturating_add(rows);
    }

    /// Adds the rows of `other`.
    pub fn merge(&mut self, other: &Self) {
        for (category, rows) in &other.counts {
            self.add(category, *rows);
        }
        self.add_missing(other.missing);
    }

    /// Rows of a category, 0 if it is not known.
    #[must_use]
    pub fn count(&self, category: &str) -> u64 {
        self.counts.get(category).copied().unwrap_or(0)
    }

    /// The categories with their rows, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.counts.iter().map(|(category, rows)| (category.as_str(), *rows))
    }

    /// Rows without a category.
    #[must_use]
    pub fn missing(&self) -> u64 {
        self.missing
    }

    /// All rows, with the missing ones.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.counts.values().fold(self.missing, |sum, rows| sum.saturating_add(*rows))
    }
}

impl<S: AsRef<str>> FromIterator<Option<S>> for CategoryCounts {
    fn from_iter<I: IntoIterator<Item = Option<S>>>(values: I) -> Self {
        let mut counts = Self::new();
        for value in values {
            match value {
                Some(category) => counts.add(category.as_ref(), 1),
                None => counts.add_missing(1),
            }
        }
        counts
    }
}

/// The counts of two samples side by side: a table of two rows, with one column for each category that either has.
///
/// # Examples
/// ```
/// use mlops_monitor::two_sample::{CategoryCounts, CountTable};
///
/// let before: CategoryCounts = [Some("a"), Some("b"), Some("b")].into_iter().collect();
/// let after: CategoryCounts = [Some("b"), Some("c"), None].into_iter().collect();
/// let table = CountTable::new(&before, &after)?;
/// assert_eq!((table.first(), table.second()), (&[1, 2, 0, 0][..], &[0, 1, 1, 1][..])); // a, b, c, missing
/// # Ok::<(), mlops_monitor::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CountTable {
    first: Vec<u64>,
    second: Vec<u64>,
    pub(super) n: u64,
    pub(super) m: u64,
}

impl CountTable {
    /// Two samples by category, in the order of their names; missing ones, if there are any, come last.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if a side has no row, or more than 2^53.
    pub fn new(first: &CategoryCounts, second: &CategoryCounts) -> Result<Self> {
        let (mut a, mut b) = (Vec::new(), Vec::new());
        for (category, rows) in first.iter() {
            a.push((category, rows, second.count(category)));
        }
        for (category, rows) in second.iter().filter(|(category, _)| !first.counts.contains_key(*category)) {
            b.push((category, 0, rows));
        }
        a.append(&mut b);
        a.sort_unstable();
        let missing = [first.missing, second.missing];
        let with_missing = usize::from(missing != [0, 0]);
        let side = |counts: Vec<u64>, rows: u64| counts.into_iter().chain(std::iter::repeat_n(rows, with_missing));
        Self::from_counts(
            &side(a.iter().map(|c| c.1).collect(), missing[0]).collect::<Vec<_>>(),
            &side(a.iter().map(|c| c.2).collect(), missing[1]).collect::<Vec<_>>(),
        )
    }

    /// Two samples whose categories are known by their place; those that neither has are left out.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] if the lengths differ; [`Error::InvalidInput`] if a side has no row, or more than 2^53.
    pub fn from_counts(first: &[u64], second: &[u64]) -> Result<Self> {
        if first.len() != second.len() {
            return Err(Error::shape("second", first.len(), second.len()));
        }
        let rows = |what: &str, counts: &[u64]| {
            let rows = counts.iter().fold(0_u64, |sum, c| sum.saturating_add(*c));
            match rows {
                0 => Err(Error::invalid(what, "has no row")),
                1..=MOST_ROWS => Ok(rows),
                _ => Err(Error::invalid(what, format!("has {rows} rows, at most 2^53 can be compared"))),
            }
        };
        let (n, m) = (rows("first", first)?, rows("second", second)?);
        let (first, second) = first.iter().zip(second).filter(|(a, b)| **a > 0 || **b > 0).unzip();
        Ok(Self { first, second, n, m })
    }

    /// Rows of the first sample by category.
    #[must_use]
    pub fn first(&self) -> &[u64] {
        &self.first
    }

    /// Rows of the second sample by category.
    #[must_use]
    pub fn second(&self) -> &[u64] {
        &self.second
    }

    pub(super) fn pairs(&self) -> impl Iterator<Item = (f64, f64)> {
        self.first.iter().zip(&self.second).map(|(a, b)| (*a as f64, *b as f64))
    }

    /// Shares of both samples by category.
    pub(super) fn shares(&self) -> impl Iterator<Item = (f64, f64)> {
        self.pairs().map(|(a, b)| (a / self.n as f64, b / self.m as f64))
    }
}

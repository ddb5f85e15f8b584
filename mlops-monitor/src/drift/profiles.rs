//! Drift between two profiles: every column by the method that suits it, with what moved.
//!
//! ```
//! use std::sync::Arc;
//! use arrow::array::{ArrayRef, Float64Array, RecordBatch, StringArray};
//! use mlops_core::Verdict;
//! use mlops_monitor::drift::profiles::ProfileCheck;
//! use mlops_monitor::profile::Profile;
//!
//! let rows = |shift: f64, vic: usize| {
//!     let demand: ArrayRef = Arc::new(Float64Array::from_iter_values((0..5_000).map(|i| f64::from(i % 997) + shift)));
//!     let state: ArrayRef = Arc::new(StringArray::from_iter_values((0..5_000).map(|i| if i % 10 < vic { "VIC" } else { "NSW" })));
//!     RecordBatch::try_from_iter([("demand", demand), ("state", state)])
//! };
//! let training = Profile::fit(&rows(0.0, 3)?)?;
//! let live = Profile::builder().against(&training).fit(&rows(0.0, 8)?)?;
//! let report = ProfileCheck::default().compare(&training, &live)?;
//!
//! let [demand, state] = &report.columns[..] else { panic!("two columns") };
//! assert_eq!((demand.verdict, state.verdict), (Verdict::Pass, Verdict::Fail));
//! let moved = &state.moved[0];
//! assert_eq!((moved.bin.as_str(), moved.reference, moved.live), ("NSW", 0.7, 0.2)); // and this much of the statistic:
//! assert!((state.moved.iter().map(|m| m.contribution).sum::<f64>() - state.score.statistic).abs() < 1e-12);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What is compared
//! - **Numbers** over the quantile bins of the reference, or by the distance of the distributions; missing values are no
//!   mass in a bin. Counts are exact if the live profile was made [`against`](crate::profile::ProfileBuilder::against) the
//!   reference; else they are those of the sketches, and the interval holds their error too.
//! - **Categories**: the 50 most frequent of the reference, those that are new and have 1 % of the live rows, and the others
//!   together. Missing values are a category of their own.
//! - **Missing values** of any column: the share that lacks a value above that of the reference.
//! - **New categories**: the share of live rows with one that no row of the reference has, as long as the reference holds
//!   all of its categories.
//!
//! # Many columns
//! A verdict rests on an interval for the effect, not on a p-value. By default the intervals of all columns hold at once
//! ([`ProfileCheck::simultaneous`], Bonferroni). P-values are reported for methods that have them, and adjusted over the
//! columns by Holm's method or another ([`ProfileCheck::adjust`]); they decide nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use mlops_core::Verdict;
use serde::{Deserialize, Serialize};

use super::ks::dkw_margin;
use super::shares::{Measured, Shares};
use super::{Choice, DriftDetector, DriftScore, Effect, Family, KsDetector, Method, MethodTable};
use crate::error::check_confidence;
use crate::metrics::wilson;
use crate::multiple::{Adjustment, adjust};
use crate::profile::{Categories, ColumnProfile, NumberProfile, Profile, SkippedColumn};
use crate::{Error, Result};

/// Categories that have a bin of their own.
const CATEGORIES: usize = 50;
/// New categories with so large a share of the live rows have one too.
const NEW_SHARE: f64 = 0.01;

/// How two profiles are compared; plain data, so it may come from a configuration file.
///
/// ```
/// use mlops_monitor::drift::{Choice, Method};
/// use mlops_monitor::drift::profiles::ProfileCheck;
///
/// let check = ProfileCheck::default().column("price", Choice::new(Method::KolmogorovSmirnov, 0.05));
/// let stored = serde_json::to_string(&check)?;
/// assert_eq!(serde_json::from_str::<ProfileCheck>(&stored)?, check);
/// let partly: ProfileCheck = serde_json::from_str(r#"{"missing_at": null}"#)?; // the rest as by default
/// assert_eq!(partly, ProfileCheck::default().missing_at(None));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProfileCheck {
    methods: MethodTable,
    columns: BTreeMap<String, Choice>,
    confidence: f64,
    simultaneous: bool,
    min_rows: u64,
    missing_at: Option<f64>,
    new_categories_at: Option<f64>,
    adjust: Option<Adjustment>,
}

impl Default for ProfileCheck {
    fn default() -> Self {
        Self {
            methods: MethodTable::default(),
            columns: BTreeMap::new(),
            confidence: 0.95,
            simultaneous: true,
            min_rows: 30,
            missing_at: Some(0.1),
            new_categories_at: Some(0.05),
            adjust: Some(Adjustment::Holm),
        }
    }
}

impl ProfileCheck {
    /// The choice of methods (default [`MethodTable::default`]).
    #[must_use]
    pub fn methods(mut self, table: MethodTable) -> Self {
        self.methods = table;
        self
    }

    /// The method of one column, whatever the table says.
    #[must_use]
    pub fn column(mut self, column: impl Into<String>, choice: Choice) -> Self {
        self.columns.insert(column.into(), choice);
        self
    }

    /// Coverage of the intervals that verdicts rest on, in (0, 1) (default 0.95).
    #[must_use]
    pub fn confidence(mut self, confidence: f64) -> Self {
        self.confidence = confidence;
        self
    }

    /// Whether all intervals of a report hold at once with that confidence, not each for itself (default `true`).
    #[must_use]
    pub fn simultaneous(mut self, simultaneous: bool) -> Self {
        self.simultaneous = simultaneous;
        self
    }

    /// Rows that each side needs before a method with an approximate interval gives a verdict (default 30).
    #[must_use]
    pub fn min_rows(mut self, rows: u64) -> Self {
        self.min_rows = rows;
        self
    }

    /// Share of missing values above that of the reference, in (0, 1], from which they count as drift (default 0.1); `None`
    /// leaves it out.
    #[must_use]
    pub fn missing_at(mut self, above: impl Into<Option<f64>>) -> Self {
        self.missing_at = above.into();
        self
    }

    /// Share of live rows with a new category, in (0, 1], from which they count as drift (default 0.05); `None` leaves it
    /// out.
    #[must_use]
    pub fn new_categories_at(mut self, share: impl Into<Option<f64>>) -> Self {
        self.new_categories_at = share.into();
        self
    }

    /// How p-values are adjusted (default [`Adjustment::Holm`]); `None` leaves them as they are.
    #[must_use]
    pub fn adjust(mut self, adjust: impl Into<Option<Adjustment>>) -> Self {
        self.adjust = adjust.into();
        self
    }

    fn check(&self) -> Result<()> {
        check_confidence(self.confidence)?;
        self.methods.rules().iter().try_for_each(|rule| rule.choice.check("methods"))?;
        self.columns.values().try_for_each(|choice| choice.check("columns"))?;
        for (what, at) in [("missing_at", self.missing_at), ("new_categories_at", self.new_categories_at)] {
            if at.is_some_and(|at| !(at > 0.0 && at <= 1.0)) {
                return Err(Error::invalid(what, format!("must lie in (0, 1], got {}", at.unwrap_or_default())));
            }
        }
        Ok(())
    }

    /// Compares every column of `reference` with that of `live`. A column that cannot be compared, because it is missing,
    /// holds something else or no rule is for it, is listed with the reason.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] naming the first option out of range; [`Error::Column`] for a choice whose column the
    /// reference does not have, or whose method does not suit it.
    pub fn compare(&self, reference: &Profile, live: &Profile) -> Result<ProfileDrift> {
        self.compare_among(reference, live, 1)
    }

    /// The same as one of `families` comparisons whose intervals are to hold at once.
    pub(crate) fn compare_among(&self, reference: &Profile, live: &Profile, families: usize) -> Result<ProfileDrift> {
        self.check()?;
        if let Some(unknown) = self.columns.keys().find(|name| reference.column(name).is_none()) {
            return Err(Error::column(unknown, "has a method and no profile in the reference"));
        }
        let mut drift = ProfileDrift { rows: live.rows(), columns: Vec::new(), uncompared: Vec::new() };
        let mut pairs = Vec::new();
        for column in reference.columns() {
            match live.column(column.name()) {
                None => drift.skip(column.name(), "is missing in the live profile"),
                Some(other) if column.kind() != other.kind() => {
                    drift.skip(column.name(), format!("holds {}, the reference {}", other.kind(), column.kind()));
                }
                Some(other) => pairs.push((column, other)),
            }
        }
        let known: BTreeSet<&str> = reference.columns().iter().map(ColumnProfile::name).collect();
        for column in live.columns().iter().filter(|column| !known.contains(column.name())) {
            drift.skip(column.name(), "is not in the reference");
        }
        let intervals = (pairs.len() * families).max(1) as f64;
        let confidence = if self.simultaneous { 1.0 - (1.0 - self.confidence) / intervals } else { self.confidence };
        for (reference, live) in pairs {
            match self.compare_column(reference, live, confidence)? {
                Ok(column) => drift.columns.push(column),
                Err(reason) => drift.skip(reference.name(), reason),
            }
        }
        let p_values: Vec<Option<f64>> = drift.columns.iter().map(|column| column.score.p_value).collect();
        let given: Vec<f64> = p_values.iter().flatten().copied().collect();
        let adjusted = self.adjust.map_or_else(|| Ok(given.clone()), |method| adjust(&given, method))?;
        let mut adjusted = adjusted.into_iter();
        for (column, p) in drift.columns.iter_mut().zip(p_values) {
            column.p_adjusted = p.and_then(|_| adjusted.next());
        }
        Ok(drift)
    }

    /// The method for a column at these rows, or why there is none.
    fn choose(&self, reference: &ColumnProfile, live: &ColumnProfile) -> Result<Result<Choice, String>> {
        let named = self.columns.get(reference.name()).copied();
        let Some(family) = Family::of(reference) else {
            return match named {
                None => Ok(Err(format!("{} are not compared", reference.kind()))),
                Some(_) => Err(Error::column(reference.name(), format!("{} are not compared", reference.kind()))),
            };
        };
        if let Some(choice) = named {
            if choice.method == Method::KolmogorovSmirnov && family == Family::Categories {
                let reason = "ks needs an order: choose psi, jensen_shannon, l_infinity or chi_square";
                return Err(Error::column(reference.name(), reason));
            }
            return Ok(Ok(choice));
        }
        let rows = |column: &ColumnProfile| column.rows().saturating_sub(column.missing());
        let choice = self.methods.choose(family, rows(reference).min(rows(live)));
        Ok(choice.ok_or_else(|| match family {
            Family::Dates => "dates move by themselves; name a method for the column to compare it".to_owned(),
            _ => format!("no rule is for {family}"),
        }))
    }

    fn compare_column(
        &self,
        reference: &ColumnProfile,
        live: &ColumnProfile,
        confidence: f64,
    ) -> Result<Result<ColumnChange, String>> {
        let choice = match self.choose(reference, live)? {
            Ok(choice) => choice,
            Err(reason) => return Ok(Err(reason)),
        };
        let (score, moved) = match (reference.numbers(), live.numbers()) {
            (Some(a), Some(b)) => {
                let (score, moved) = compare_numbers(a, b, choice, confidence, self.min_rows)?;
                (rows_of(score, reference, live), moved)
            }
            _ => compare_categories(reference, live, choice, confidence, self.min_rows),
        };
        let missing = self.missing_at.map(|at| missing_shift(reference, live, at, confidence)).transpose()?;
        let new_categories = match self.new_categories_at {
            Some(at) => new_categories(reference, live, at, confidence)?,
            None => None,
        };
        let parts = || [Some(&score), missing.as_ref(), new_categories.as_ref()].into_iter().flatten();
        let verdict = joined(parts().map(|part| part.verdict));
        let column = reference.name().to_owned();
        Ok(Ok(ColumnChange { column, verdict, score, missing, new_categories, moved, p_adjusted: None }))
    }
}

/// `Fail` if one fails, `Pass` if all pass.
fn joined(verdicts: impl Iterator<Item = Verdict>) -> Verdict {
    verdicts.fold(Verdict::Pass, |all, verdict| match (all, verdict) {
        (Verdict::Fail, _) | (_, Verdict::Fail) => Verdict::Fail,
        (Verdict::Inconclusive, _) | (_, Verdict::Inconclusive) => Verdict::Inconclusive,
        _ => Verdict::Pass,
    })
}

/// What became of the columns of a reference in live rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ProfileDrift {
    /// Live rows.
    pub rows: u64,
    /// The columns compared, in the order of the reference.
    pub columns: Vec<ColumnChange>,
    /// Those that were not, and why.
    pub uncompared: Vec<SkippedColumn>,
}

impl ProfileDrift {
    fn skip(&mut self, column: &str, reason: impl Into<String>) {
        self.uncompared.push(SkippedColumn { column: column.to_owned(), reason: reason.into() });
    }

    /// `Fail` if a column drifted, `Pass` if all are shown to be alike, else `Inconclusive`. Columns that were not compared
    /// do not count.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        if self.columns.is_empty() {
            return Verdict::Inconclusive;
        }
        joined(self.columns.iter().map(|column| column.verdict))
    }

    /// The columns that drifted, those farthest above their threshold first.
    #[must_use]
    pub fn drifted(&self) -> Vec<&ColumnChange> {
        let mut drifted: Vec<_> = self.columns.iter().filter(|column| column.verdict == Verdict::Fail).collect();
        drifted.sort_by(|a, b| b.excess().total_cmp(&a.excess()));
        drifted
    }
}

/// How one column changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ColumnChange {
    /// The column.
    pub column: String,
    /// `Fail` if one of the scores below fails, `Pass` if all pass.
    pub verdict: Verdict,
    /// Its distribution, by the chosen method.
    pub score: DriftScore,
    /// The share of missing values above the reference's.
    pub missing: Option<DriftScore>,
    /// The share of rows with a new category.
    pub new_categories: Option<DriftScore>,
    /// The bins or categories and what each adds to the statistic, the largest first; they add up to it.
    pub moved: Vec<Moved>,
    /// The p-value adjusted over the columns of the report.
    pub p_adjusted: Option<f64>,
}

impl ColumnChange {
    /// The lower ends of the effects over their thresholds, the largest: above 1 for drift, whatever the method.
    #[must_use]
    pub fn excess(&self) -> f64 {
        let parts = [Some(&self.score), self.missing.as_ref(), self.new_categories.as_ref()];
        let low = |score: &DriftScore| score.effect.low.unwrap_or(0.0) / score.alert_at;
        parts.into_iter().flatten().map(low).fold(0.0, f64::max)
    }
}

impl fmt::Display for ColumnChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.column, self.score)?;
        for moved in self.moved.iter().take(3).filter(|moved| moved.contribution != 0.0) {
            write!(f, "; {} from {:.1} % to {:.1} %", moved.bin, 100.0 * moved.reference, 100.0 * moved.live)?;
        }
        Ok(())
    }
}

/// A bin or category, and what it has to do with a change.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Moved {
    /// The bin as an interval, or the category; `(missing)` and `(other)` for rows without a value and of categories without
    /// a bin.
    pub bin: String,
    /// Its share of the reference.
    pub reference: f64,
    /// Its share of the live rows.
    pub live: f64,
    /// What it adds to the statistic. For the distances, which no bin has for itself: for `l_infinity` the largest
    /// difference has all; for `ks` every bin below the widest gap has its difference, signed.
    pub contribution: f64,
}

fn moved(shares: &Shares, names: Vec<String>, terms: &[f64]) -> Vec<Moved> {
    let mut moved: Vec<Moved> = names
        .into_iter()
        .enumerate()
        .map(|(i, bin)| {
            let (reference, live) = shares.shares(i);
            Moved { bin, reference, live, contribution: terms[i] }
        })
        .collect();
    moved.sort_by(|a, b| b.contribution.abs().total_cmp(&a.contribution.abs()));
    moved
}

/// The rows that were compared, and those that had no value.
fn rows_of(mut score: DriftScore, reference: &ColumnProfile, live: &ColumnProfile) -> DriftScore {
    (score.skipped_baseline, score.skipped_live) = (reference.missing(), live.missing());
    score.n_baseline = reference.rows().saturating_sub(reference.missing());
    score.n_live = live.rows().saturating_sub(live.missing());
    score
}

fn scored(method: Method, measured: Measured, alert_at: f64) -> DriftScore {
    let mut score = DriftScore::new(method.to_string(), measured.statistic, measured.effect, alert_at);
    score.p_value = measured.p_value;
    score
}

fn compare_numbers(
    reference: &NumberProfile,
    live: &NumberProfile,
    choice: Choice,
    confidence: f64,
    min_rows: u64,
) -> Result<(DriftScore, Vec<Moved>)> {
    let edges = reference.bin_edges();
    if choice.method == Method::KolmogorovSmirnov {
        return distance(reference, live, choice, confidence, edges);
    }
    let ((a, noise_a), (b, noise_b)) = (reference.counts_in(&edges), live.counts_in(&edges));
    let shares = Shares { reference: a, live: b, noise: (noise_a, noise_b) };
    let measured = shares.measure(choice.method, confidence, min_rows);
    let moved = moved(&shares, intervals(&edges), &measured.terms);
    Ok((scored(choice.method, measured, choice.alert_at), moved))
}

fn distance(
    reference: &NumberProfile,
    live: &NumberProfile,
    choice: Choice,
    confidence: f64,
    mut edges: Vec<f64>,
) -> Result<(DriftScore, Vec<Moved>)> {
    let (a, b) = (reference.quantiles(), live.quantiles());
    let name = choice.method.effect();
    if a.n() == 0 || b.n() == 0 {
        let effect = Effect::new(name, 0.0, Some(0.0), Some(1.0), confidence);
        return Ok((DriftScore::new(choice.method.to_string(), 0.0, effect, choice.alert_at), Vec::new()));
    }
    let (view_a, view_b) = (a.view(), b.view());
    let (value, at) = view_a.distance(&view_b);
    let place = edges.partition_point(|edge| *edge < at);
    if at.is_finite() && edges.get(place) != Some(&at) {
        edges.insert(place, at);
    }
    let shares = Shares { reference: view_a.counts(&edges), live: view_b.counts(&edges), noise: (0.0, 0.0) };
    let gap = |i: usize| shares.shares(i).1 - shares.shares(i).0;
    let sum: f64 = (0..=place).map(gap).sum();
    let terms: Vec<f64> =
        (0..=edges.len()).map(|i| if i <= place && value > 0.0 { gap(i) * sum.signum() } else { 0.0 }).collect();
    let moved = moved(&shares, intervals(&edges), &terms);
    let (n, m) = (a.n() as f64, b.n() as f64);
    let score = if a.is_exact() && b.is_exact() {
        let builder = KsDetector::builder().alert_at(choice.alert_at).confidence(confidence);
        builder.fit(&a.pending)?.score(&b.pending)?
    } else {
        let sketched = a.rank_error_everywhere(confidence) + b.rank_error_everywhere(confidence);
        let margin = dkw_margin(n, m, confidence) + sketched;
        let (low, high) = ((value - margin).max(0.0), (value + margin).min(1.0));
        let effect = Effect::new(name, value, Some(low), Some(high), confidence);
        let mut score = DriftScore::new(choice.method.to_string(), value, effect, choice.alert_at);
        // A p-value of a distance that a sketch blurs would claim more than is known.
        score.p_value = None;
        score
    };
    Ok((score, moved))
}

/// PSI of counts in the bins between `edges`, at 95 %.
#[cfg(feature = "alerts")]
pub(crate) fn score_bins(
    column: &ColumnProfile,
    reference: &NumberProfile,
    edges: &[f64],
    live: &super::BinCounts,
    alert_at: f64,
) -> Result<DriftScore> {
    let (counts, noise) = reference.counts_in(edges);
    if counts.len() != live.counts().len() {
        return Err(Error::shape("live", counts.len(), live.counts().len()));
    }
    let shares = Shares { reference: counts, live: live.counts().to_vec(), noise: (noise, 0.0) };
    let measured = shares.measure(Method::Psi, crate::metrics::DEFAULT_CONFIDENCE, 30);
    let mut score = scored(Method::Psi, measured, alert_at);
    (score.n_baseline, score.skipped_baseline) = (reference.finite(), column.missing());
    (score.n_live, score.skipped_live) = (live.rows(), live.skipped());
    Ok(score)
}

/// The distance of a live sample from the reference at 95 %, and its p-value if that holds all rows.
#[cfg(feature = "alerts")]
pub(crate) fn sample_distance(reference: &NumberProfile, live: &[f64], alert_at: f64) -> DriftScore {
    let confidence = crate::metrics::DEFAULT_CONFIDENCE;
    let (sorted, skipped) = super::sorted_finite(live);
    let quantiles = reference.quantiles();
    let mut effect = Effect::new(Method::KolmogorovSmirnov.effect(), 0.0, Some(0.0), Some(1.0), confidence);
    let mut p_value = None;
    let (n, m) = (quantiles.n() as f64, sorted.len() as f64);
    if n > 0.0 && m > 0.0 {
        let (value, _) = quantiles.view().distance(&crate::profile::View::of_sorted(&sorted));
        let margin = dkw_margin(n, m, confidence) + quantiles.rank_error_everywhere(confidence);
        effect.value = value;
        effect.low = Some((value - margin).max(0.0));
        effect.high = Some((value + margin).min(1.0));
        let tail = || super::ks::asymptotic((n * m / (n + m)).round(), value).clamp(0.0, 1.0);
        p_value = quantiles.is_exact().then(tail);
    }
    let mut score = DriftScore::new(Method::KolmogorovSmirnov.to_string(), effect.value, effect, alert_at);
    score.p_value = p_value;
    (score.n_baseline, score.n_live, score.skipped_live) = (quantiles.n(), sorted.len() as u64, skipped);
    score
}

fn intervals(edges: &[f64]) -> Vec<String> {
    // Six digits name a bin well enough.
    let short = |x: f64| format!("{x:.5e}").parse::<f64>().unwrap_or(x).to_string();
    let from = std::iter::once("(-∞".to_owned()).chain(edges.iter().map(|e| format!("({}", short(*e))));
    let to = edges.iter().map(|e| format!("{}]", short(*e))).chain(std::iter::once("∞)".to_owned()));
    from.zip(to).map(|(from, to)| format!("{from}, {to}")).collect()
}

/// Categories and booleans; missing values are a category.
pub(crate) fn compare_categories(
    reference: &ColumnProfile,
    live: &ColumnProfile,
    choice: Choice,
    confidence: f64,
    min_rows: u64,
) -> (DriftScore, Vec<Moved>) {
    let none = Categories::default();
    let (a, b) = (reference.categories().unwrap_or(&none), live.categories().unwrap_or(&none));
    let mut names = Vec::new();
    let mut shares = Shares { reference: Vec::new(), live: Vec::new(), noise: (blur(a), blur(b)) };
    let mut bin = |name: String, in_reference: u64, in_live: u64| {
        names.push(name);
        shares.reference.push(in_reference);
        shares.live.push(in_live);
    };
    let mut keys = BTreeSet::new();
    // A count that a sketch may have wrong by more than a quarter names no bin.
    let held = a.keyed().filter(|(.., rows)| *rows >= 4 * a.error());
    for (key, name, rows) in held.take(CATEGORIES) {
        keys.insert(key);
        bin(name.to_owned(), rows, b.rows_of(key));
    }
    if a.error() == 0 {
        let large = (NEW_SHARE * b.rows() as f64).max(1.0);
        let new =
            b.keyed().filter(|(key, _, rows)| !keys.contains(key) && a.rows_of(*key) == 0 && *rows as f64 >= large);
        for (_, name, rows) in new.take(CATEGORIES).collect::<Vec<_>>() {
            bin(name.to_owned(), 0, rows);
        }
    }
    let left = |counts: &[u64], all: u64| all.saturating_sub(counts.iter().sum());
    let other = (left(&shares.reference, a.rows()), left(&shares.live, b.rows()));
    for (name, (in_reference, in_live)) in [("(other)", other), ("(missing)", (reference.missing(), live.missing()))] {
        if in_reference > 0 || in_live > 0 {
            names.push(name.to_owned());
            shares.reference.push(in_reference);
            shares.live.push(in_live);
        }
    }
    let measured = shares.measure(choice.method, confidence, min_rows);
    let moved = moved(&shares, names, &measured.terms);
    let mut score = scored(choice.method, measured, choice.alert_at);
    (score.n_baseline, score.n_live) = (reference.rows(), live.rows());
    (score, moved)
}

/// Variance of a share by what the sketch leaves open, at most.
fn blur(categories: &Categories) -> f64 {
    let share = categories.error() as f64 / categories.rows().max(1) as f64;
    0.25 * share * share
}

/// The share of missing values above that of the reference, with the interval of Newcombe (1998, method 10),
/// doi:10.1002/(SICI)1097-0258(19980430)17:8<873::AID-SIM779>3.0.CO;2-I.
fn missing_shift(
    reference: &ColumnProfile,
    live: &ColumnProfile,
    alert_at: f64,
    confidence: f64,
) -> Result<DriftScore> {
    let mut effect = Effect::new("missing share above the reference's", 0.0, None, None, confidence);
    if reference.rows() > 0 && live.rows() > 0 {
        let usual = wilson(reference.missing(), reference.rows(), confidence)?;
        let now = wilson(live.missing(), live.rows(), confidence)?;
        effect.value = now.value - usual.value;
        effect.low = Some(effect.value - (now.value - now.low).hypot(usual.high - usual.value));
        effect.high = Some(effect.value + (now.high - now.value).hypot(usual.value - usual.low));
    }
    let mut score = DriftScore::new("missing_share", effect.value, effect, alert_at);
    (score.n_baseline, score.n_live) = (reference.rows(), live.rows());
    Ok(score)
}

/// The share of live rows whose category the reference does not have; `None` unless it is known what it has.
fn new_categories(
    reference: &ColumnProfile,
    live: &ColumnProfile,
    alert_at: f64,
    confidence: f64,
) -> Result<Option<DriftScore>> {
    let (Some(a), Some(b)) = (reference.categories(), live.categories()) else { return Ok(None) };
    if a.error() > 0 || a.is_empty() {
        return Ok(None);
    }
    let (mut new, mut old) = (0_u64, 0_u64);
    for (key, _, rows) in b.keyed() {
        *(if a.rows_of(key) == 0 { &mut new } else { &mut old }) += rows;
    }
    let mut effect = Effect::new("share of new categories", 0.0, None, None, confidence);
    if b.rows() > 0 {
        // A live sketch without room leaves open to which side the rows belong that it dropped.
        let (least, most) =
            (wilson(new, b.rows(), confidence)?, wilson(b.rows().saturating_sub(old), b.rows(), confidence)?);
        effect.value = least.value;
        (effect.low, effect.high) = (Some(least.low), Some(most.high));
    }
    let mut score = DriftScore::new("new_categories", effect.value, effect, alert_at);
    (score.n_baseline, score.n_live) = (a.rows(), b.rows());
    Ok(Some(score))
}

//! Two samples compared: plain statistical functions, for numbers, categories, tables and texts.
//!
//! ```
//! use mlops_monitor::two_sample::{Method, Sorted, mann_whitney, wasserstein};
//!
//! let baseline = Sorted::new(&[1.0, 2.0, 3.0, 4.0, 5.0]);
//! let live = Sorted::new(&[3.5, 4.5, 5.5, 6.5, f64::NAN]);
//! let test = mann_whitney(&baseline, &live, Method::Auto, 0.95)?;
//! // mann_whitney 3.0000, P(first > second) 0.1500 [0.0276, 0.5852], p = 1.111e-1 (exact), n = 5 and 4, 1 skipped
//! println!("{test}");
//! assert_eq!(wasserstein(&baseline, &live)?.statistic, 2.0);
//! # Ok::<(), mlops_monitor::Error>(())
//! ```
//!
//! # Rules for every function
//! - A value that is not finite, or a row of a table with one, is skipped and counted. A missing category is a
//!   category of its own.
//! - The p-value answers "could this be chance", and is small for any change at all once there are rows enough. The
//!   effect answers "how much", and settles with more rows: decide on it ([`Comparison::score`]).
//! - Same input and seed, same result. The order of rows does not matter, except where rows are drawn or paired by a
//!   seed (the multivariate tests).
//! - Too little data for a method is an error that says so, never a number without meaning.
//!
//! # Which one
//! | rows | functions |
//! | --- | --- |
//! | numbers ([`Sorted`]) | [`ks`], [`cramer_von_mises`], [`anderson_darling`], [`mann_whitney`], [`wasserstein`], [`energy`]; [`numeric`] makes all of them in one pass |
//! | categories ([`CategoryCounts`], [`CountTable`]) | [`chi_square`], [`g_test`], [`fisher_exact`], [`proportions`], [`jensen_shannon`], [`hellinger`], [`kl`], [`total_variation`], [`l_infinity`], [`psi_of_counts`], [`missing_shift`], [`new_categories`] |
//! | tables ([`Rows`]) | [`Mmd`], [`EnergyTest`], [`DomainClassifier`], [`PcaReconstruction`], [`hotelling`]; [`label_shift`] from predictions |
//! | texts | [`Vocabulary`], [`TextClassifier`] |

//!
//! [`ks_two_sample`](crate::drift::ks_two_sample) and [`psi`](crate::drift::psi) are those of [`drift`](crate::drift).

mod categorical;
mod counts;
mod distances;
mod domain;
mod label_shift;
mod linalg;
mod mmd;
mod numeric;
mod pca;
mod ranks;
mod rows;
mod sorted;
mod tails;
mod text;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use categorical::{chi_square, fisher_exact, g_test, missing_shift, new_categories, proportions};
pub use counts::{CategoryCounts, CountTable};
pub use distances::{LogBase, hellinger, jensen_shannon, kl, l_infinity, psi_of_counts, total_variation};
pub use domain::{DomainClassifier, DomainReport, Weight};
pub use label_shift::{LabelShift, label_shift};
pub use mmd::{EnergyTest, Mmd, MmdEstimate};
pub use numeric::{cramer_von_mises, energy, ks, numeric, wasserstein};
pub use pca::{PcaReconstruction, hotelling};
pub use ranks::{Ties, anderson_darling, mann_whitney};
pub use rows::Rows;
pub use sorted::Sorted;
pub use text::{Novelty, TextClassifier, Vocabulary};

use crate::drift::{DriftScore, Effect};
use crate::metrics::grouped;

/// How a p-value is to be computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Method {
    /// Exact for small samples, else asymptotic; each function says where it changes over.
    #[default]
    Auto,
    /// From the distribution over all ways to divide the rows into two samples.
    Exact,
    /// From the limit for many rows.
    Asymptotic,
}

/// How a p-value was computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum PValueBy {
    /// From the distribution over all ways to divide the rows into two samples.
    Exact,
    /// From the limit for many rows.
    Asymptotic,
    /// From random divisions of the rows; no smaller than one over their number and one.
    Permutation,
}

/// What a comparison of two samples gave.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Comparison {
    /// The method's short name, such as `mann_whitney`.
    pub method: String,
    /// The statistic, as the function documents it.
    pub statistic: f64,
    /// Probability of a statistic at least this extreme if both samples come from one distribution, where the
    /// method has one.
    pub p_value: Option<f64>,
    /// How `p_value` was computed.
    pub p_value_by: Option<PValueBy>,
    /// How large the difference is, in units that do not grow with the rows, where the method has such.
    pub effect: Option<Effect>,
    /// Rows used on each side.
    pub n: [u64; 2],
    /// Rows left out on each side because a value was not finite.
    pub skipped: [u64; 2],
}

impl Comparison {
    fn new(method: &str, statistic: f64, n: [u64; 2]) -> Self {
        let (p_value, p_value_by, effect) = (None, None, None);
        Self { method: method.to_owned(), statistic, p_value, p_value_by, effect, n, skipped: [0; 2] }
    }

    fn p(mut self, p_value: f64, by: PValueBy) -> Self {
        self.p_value = Some(p_value.clamp(0.0, 1.0));
        self.p_value_by = Some(by);
        self
    }

    fn effect(mut self, name: &str, value: f64, interval: Option<(f64, f64)>, confidence: f64) -> Self {
        let (low, high) = (interval.map(|i| i.0), interval.map(|i| i.1));
        self.effect = Some(Effect::new(name, value, low, high, confidence));
        self
    }

    /// The comparison as a score: the first sample is the baseline, and the verdict is on the effect.
    ///
    /// Where the method has no effect size, the statistic stands for it without an interval, so the verdict is
    /// `Inconclusive`.
    ///
    /// # Examples
    /// ```
    /// use mlops_core::Verdict;
    /// use mlops_monitor::two_sample::{CountTable, chi_square};
    ///
    /// let table = CountTable::from_counts(&[500, 500], &[900, 100])?;
    /// assert_eq!(chi_square(&table, 0.95)?.score(0.1).verdict, Verdict::Fail);
    /// # Ok::<(), mlops_monitor::Error>(())
    /// ```
    #[must_use]
    pub fn score(&self, alert_at: f64) -> DriftScore {
        let bare = || Effect::new("statistic", self.statistic, None, None, crate::metrics::DEFAULT_CONFIDENCE);
        let effect = self.effect.clone().unwrap_or_else(bare);
        let mut score = DriftScore::new(self.method.as_str(), self.statistic, effect, alert_at);
        score.p_value = self.p_value;
        [score.n_baseline, score.n_live] = self.n;
        [score.skipped_baseline, score.skipped_live] = self.skipped;
        score
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:.4}", self.method, self.statistic)?;
        if let Some(effect) = &self.effect {
            write!(f, ", {effect}")?;
        }
        if let Some(p) = self.p_value {
            let by = match self.p_value_by {
                Some(PValueBy::Exact) => " (exact)",
                Some(PValueBy::Permutation) => " (permutation)",
                _ => "",
            };
            write!(f, ", p = {p:.3e}{by}")?;
        }
        write!(f, ", n = {} and {}", grouped(self.n[0]), grouped(self.n[1]))?;
        match self.skipped[0].saturating_add(self.skipped[1]) {
            0 => Ok(()),
            skipped => write!(f, ", {} skipped", grouped(skipped)),
        }
    }
}

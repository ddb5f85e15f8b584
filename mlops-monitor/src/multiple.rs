//! Many tests at once: p-values and e-values that hold for all of them together.
//!
//! A hundred columns tested at 5 % give five false alarms a day. Two promises are on offer:
//!
//! | promise | from p-values | from e-values |
//! | --- | --- | --- |
//! | no false alarm at all, but with probability `α` (family-wise error) | [`Adjustment::Holm`], [`Hommel`](Adjustment::Hommel), [`Bonferroni`](Adjustment::Bonferroni) | reject `e >= m/α` |
//! | at most a share `α` of the alarms is false on average (false discovery rate) | [`Adjustment::BenjaminiHochberg`], [`BenjaminiYekutieli`](Adjustment::BenjaminiYekutieli) | [`e_bh`] |
//!
//! ```
//! use mlops_monitor::multiple::{Adjustment, adjust};
//!
//! let q = adjust(&[0.01, 0.02, 0.03, 0.5], Adjustment::BenjaminiHochberg)?;
//! assert!(q.iter().zip([0.04, 0.04, 0.04, 0.5]).all(|(got, want)| (got - want).abs() < 1e-12));
//! # Ok::<(), mlops_monitor::Error>(())
//! ```
//!
//! Neither says how large a change is: with enough rows every column differs. [`decide`] asks for both, evidence under
//! multiplicity and an effect beyond its threshold.

use std::fmt;

use mlops_core::Verdict;
use serde::{Deserialize, Serialize};

use crate::drift::{DriftScore, Effect};
use crate::special::{normal_quantile, two_sided_z};
use crate::{EValue, Error, Result};

/// How p-values of a family are adjusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Adjustment {
    /// `m p`. Family-wise, any dependence.
    Bonferroni,
    /// `max_(j<=i) (m - j + 1) p_(j)`. Family-wise, any dependence; never larger than Bonferroni's.
    Holm,
    /// Closed testing with Simes' test. Family-wise for independent or positively dependent tests; never larger than
    /// Holm's.
    Hommel,
    /// `min_(j>=i) m p_(j)/j`. False discovery rate for independent or positively dependent tests.
    BenjaminiHochberg,
    /// That times `Σ_(j<=m) 1/j`. False discovery rate for any dependence.
    BenjaminiYekutieli,
}

impl fmt::Display for Adjustment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bonferroni => "Bonferroni",
            Self::Holm => "Holm",
            Self::Hommel => "Hommel",
            Self::BenjaminiHochberg => "Benjamini–Hochberg",
            Self::BenjaminiYekutieli => "Benjamini–Yekutieli",
        })
    }
}

/// Adjusted p-values in the order given: those at most `α` are rejected under the promise of `method` at `α`.
///
/// `p_values` has shape `[tests]`, each in [0, 1]; the result too. No tests, no result. [`Adjustment::Hommel`] takes time
/// in proportion to the square of the tests, the others sort.
///
/// # Errors
/// [`Error::InvalidInput`] if a p-value is not in [0, 1].
///
/// # Source
/// Holm (1979), jstor:4615733; Hommel (1988), doi:10.1093/biomet/75.2.383; Benjamini and Hochberg (1995),
/// doi:10.1111/j.2517-6161.1995.tb02031.x; Benjamini and Yekutieli (2001), doi:10.1214/aos/1013699998.
/// `tests/golden/multiple.json`.
///
/// # Examples
/// ```
/// use mlops_monitor::multiple::{Adjustment, adjust};
/// let p = adjust(&[0.01, 0.04, 0.03], Adjustment::Holm)?;
/// assert!(p.iter().zip([0.03, 0.06, 0.06]).all(|(got, want)| (got - want).abs() < 1e-12));
/// # Ok::<(), mlops_monitor::Error>(())
/// ```
pub fn adjust(p_values: &[f64], method: Adjustment) -> Result<Vec<f64>> {
    if let Some(p) = p_values.iter().find(|p| !(0.0..=1.0).contains(*p)) {
        return Err(Error::invalid("p_values", format!("must lie in [0, 1], got {p}")));
    }
    let mut order: Vec<usize> = (0..p_values.len()).collect();
    order.sort_by(|i, j| p_values[*i].total_cmp(&p_values[*j]));
    let sorted: Vec<f64> = order.iter().map(|i| p_values[*i]).collect();
    let m = sorted.len() as f64;
    let adjusted: Vec<f64> = match method {
        Adjustment::Bonferroni => sorted.iter().map(|p| p * m).collect(),
        Adjustment::Holm => {
            let mut most = 0.0_f64;
            let steps = sorted.iter().enumerate().map(|(i, p)| {
                most = most.max((m - i as f64) * p);
                most
            });
            steps.collect()
        }
        Adjustment::Hommel => hommel(&sorted),
        Adjustment::BenjaminiHochberg => step_up(&sorted, m),
        Adjustment::BenjaminiYekutieli => step_up(&sorted, m * (1..=sorted.len()).map(|j| 1.0 / j as f64).sum::<f64>()),
    };
    let mut result = vec![0.0; p_values.len()];
    for (i, p) in order.into_iter().zip(adjusted) {
        result[i] = p.min(1.0);
    }
    Ok(result)
}

fn step_up(sorted: &[f64], factor: f64) -> Vec<f64> {
    let mut least = f64::INFINITY;
    let mut adjusted: Vec<f64> = sorted
        .iter()
        .enumerate()
        .rev()
        .map(|(i, p)| {
            least = least.min(factor * p / (i as f64 + 1.0));
            least
        })
        .collect();
    adjusted.reverse();
    adjusted
}

/// Wright's algorithm (1992), doi:10.2307/2532694: the largest of Simes' p-values over the sets that hold a test.
fn hommel(sorted: &[f64]) -> Vec<f64> {
    let m = sorted.len();
    let mut adjusted = sorted.to_vec();
    for size in (2..=m).rev() {
        // The largest `size - 1` p-values, and the least of `size p_(j)/k` over them.
        let (small, large) = sorted.split_at(m - size + 1);
        let simes =
            large.iter().zip(2_u32..).map(|(p, k)| size as f64 * p / f64::from(k)).fold(f64::INFINITY, f64::min);
        let (first, last) = adjusted.split_at_mut(m - size + 1);
        for (a, p) in first.iter_mut().zip(small) {
            *a = a.max(simes.min(size as f64 * p));
        }
        for a in last {
            *a = a.max(simes);
        }
    }
    adjusted
}

/// Which hypotheses are rejected so that at most a share `alpha` of the rejections is false on average: e-BH.
///
/// ```text
/// reject the k* largest,    k* = max {k : e_(k) >= m/(α k)},    e_(1) >= e_(2) >= …
/// ```
/// Valid **whatever the dependence** between the tests, and also at a moment that was chosen by looking. The result has the
/// order of `evidence`.
///
/// # Errors
/// [`Error::InvalidInput`] if `alpha` is not in (0, 1).
///
/// # Source
/// Wang and Ramdas (2022), doi:10.1111/rssb.12489; `tests/golden/multiple.json`.
///
/// # Examples
/// ```
/// use mlops_monitor::{EValue, multiple::e_bh};
///
/// let evidence = [90.0, 0.3, 40.0, 1.2].map(|e| EValue::from_log(f64::ln(e)));
/// assert_eq!(e_bh(&evidence, 0.05)?, [true, false, true, false]);
/// # Ok::<(), mlops_monitor::Error>(())
/// ```
pub fn e_bh(evidence: &[EValue], alpha: f64) -> Result<Vec<bool>> {
    if !(alpha > 0.0 && alpha < 1.0) {
        return Err(Error::invalid("alpha", format!("must lie in (0, 1), got {alpha}")));
    }
    // Evidence that is not a number is none.
    let logs: Vec<f64> = evidence.iter().map(|e| if e.log().is_nan() { f64::NEG_INFINITY } else { e.log() }).collect();
    let mut sorted = logs.clone();
    sorted.sort_by(|a, b| b.total_cmp(a));
    let needed = |k: usize| (logs.len() as f64).ln() - alpha.ln() - (k as f64).ln();
    let last = (1..).zip(&sorted).filter(|(k, log)| **log >= needed(*k)).last();
    // Equal evidence is rejected together: if one of a tie reaches its bound, so do those after it.
    Ok(logs.iter().map(|log| last.is_some_and(|(_, least)| log >= least)).collect())
}

/// What one of many tests says: how sure it is that there is a change, and how large that is.
///
/// # Examples
/// See [`decide`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Candidate {
    /// The column or slice.
    pub name: String,
    /// Evidence against there being no change.
    pub evidence: Evidence,
    /// The size of the change.
    pub effect: Effect,
    /// Size from which a change matters: a convention.
    pub alert_at: f64,
}

/// A p-value or an e-value.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(clippy::exhaustive_enums)] // The two currencies of evidence.
pub enum Evidence {
    /// Good for one look; in [0, 1].
    PValue(f64),
    /// Good at every look, if it comes from an e-process.
    EValue(EValue),
}

impl Candidate {
    /// A candidate.
    #[must_use]
    pub fn new(name: impl Into<String>, evidence: Evidence, effect: Effect, alert_at: f64) -> Self {
        Self { name: name.into(), evidence, effect, alert_at }
    }

    /// The candidate for a column's drift score, with evidence against the effect being *at most* `alert_at`: the upper
    /// tail of a normal distribution around the effect whose lower limit is that of its interval. It does not go to 0
    /// under the least change as the score's own p-value does, and methods without one have it too. A score without a
    /// lower limit above its value's noise has none (`p = 1`).
    #[must_use]
    pub fn from_score(name: impl Into<String>, score: &DriftScore) -> Self {
        let effect = &score.effect;
        let p = match effect.low {
            Some(low) if low < effect.value && effect.confidence > 0.0 && effect.confidence < 1.0 => {
                upper_tail((effect.value - score.alert_at) / (effect.value - low) * two_sided_z(effect.confidence))
            }
            _ => 1.0,
        };
        Self::new(name, Evidence::PValue(p), effect.clone(), score.alert_at)
    }
}

/// Upper tail of the standard normal distribution, by inverting its quantiles; at least 1e-300.
fn upper_tail(z: f64) -> f64 {
    let (mut low, mut high) = (-300.0 * std::f64::consts::LN_10, 0.0);
    for _ in 0..60 {
        let middle = f64::midpoint(low, high);
        // A tail that is too small has its quantile too far out.
        if -normal_quantile(middle.exp()) > z { low = middle } else { high = middle }
    }
    f64::exp(high)
}

/// What [`decide`] found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Decision {
    /// `Fail` if a candidate failed, `Pass` if all passed, else `Inconclusive`.
    pub verdict: Verdict,
    /// The verdict of each candidate, in the order given.
    pub verdicts: Vec<Verdict>,
    /// Names of the candidates that failed, largest effect in proportion to its threshold first.
    pub changed: Vec<String>,
    /// Share of false alarms that was allowed.
    pub alpha: f64,
}

/// One decision from many tests: a candidate fails if its evidence stands among the others *and* its effect lies beyond its
/// threshold.
///
/// - **Evidence** is selected at false discovery rate `alpha`: by [`e_bh`] if every candidate has an e-value, else by
///   [`Adjustment::BenjaminiHochberg`] on p-values (an e-value counts as `min(1, 1/e)`).
/// - **Effect** as for every drift detector: the whole interval above `alert_at` is a `Fail`, below it a `Pass`.
///
/// A candidate with a large effect whose evidence is not selected is `Inconclusive`; so is selected evidence for an effect
/// that straddles the threshold. A small effect passes however strong the evidence is. No candidates: `Inconclusive`.
///
/// # Errors
/// [`Error::InvalidInput`] if `alpha` is not in (0, 1) or a p-value not in [0, 1].
///
/// # Examples
/// ```
/// use mlops_core::Verdict;
/// use mlops_monitor::drift::Effect;
/// use mlops_monitor::multiple::{Candidate, Evidence, decide};
///
/// let candidate = |name, p, low, high| {
///     Candidate::new(name, Evidence::PValue(p), Effect::new("distance", (low + high) / 2.0, Some(low), Some(high), 0.95), 0.1)
/// };
/// let decision = decide(
///     &[
///         candidate("age", 1e-9, 0.2, 0.3),       // sure, and large
///         candidate("income", 1e-9, 0.01, 0.02),  // sure, but small
///         candidate("city", 0.04, 0.11, 0.4),     // one of three is at 4 % by chance
///     ],
///     0.05,
/// )?;
/// assert_eq!(decision.verdicts, [Verdict::Fail, Verdict::Pass, Verdict::Fail]);
/// assert_eq!(decision.to_string(), "fail: 2 of 3 changed (city, age) at false discovery rate 0.05");
/// # Ok::<(), mlops_monitor::Error>(())
/// ```
pub fn decide(candidates: &[Candidate], alpha: f64) -> Result<Decision> {
    let e_values: Option<Vec<EValue>> = candidates
        .iter()
        .map(|candidate| match candidate.evidence {
            Evidence::EValue(e) => Some(e),
            Evidence::PValue(_) => None,
        })
        .collect();
    let selected = match e_values {
        Some(evidence) => e_bh(&evidence, alpha)?,
        None => {
            let p_values: Vec<f64> = candidates
                .iter()
                .map(|candidate| match candidate.evidence {
                    Evidence::PValue(p) => p,
                    Evidence::EValue(e) => e.p_value(),
                })
                .collect();
            e_bh(&[], alpha)?; // checks alpha
            adjust(&p_values, Adjustment::BenjaminiHochberg)?.iter().map(|q| *q <= alpha).collect()
        }
    };
    let verdicts: Vec<Verdict> = candidates
        .iter()
        .zip(selected)
        .map(|(candidate, selected)| match candidate.effect.verdict(candidate.alert_at) {
            Verdict::Fail if !selected => Verdict::Inconclusive,
            verdict => verdict,
        })
        .collect();
    let verdict = if candidates.is_empty() {
        Verdict::Inconclusive
    } else {
        verdicts.iter().fold(Verdict::Pass, |all, one| all.and(*one))
    };
    let mut changed: Vec<&Candidate> =
        candidates.iter().zip(&verdicts).filter(|(_, one)| **one == Verdict::Fail).map(|(c, _)| c).collect();
    changed.sort_by(|a, b| (b.effect.value / b.alert_at).total_cmp(&(a.effect.value / a.alert_at)));
    let changed = changed.into_iter().map(|candidate| candidate.name.clone()).collect();
    Ok(Decision { verdict, verdicts, changed, alpha })
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} of {} changed", self.verdict, self.changed.len(), self.verdicts.len())?;
        if !self.changed.is_empty() {
            write!(f, " ({})", self.changed.join(", "))?;
        }
        write!(f, " at false discovery rate {}", self.alpha)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tails_match_tables() {
        for (z, want) in [
            (0.0, 0.5),
            (1.959_963_984_540_054, 0.025),
            (-1.0, 0.841_344_746_068_542_9),
            (10.0, 7.619_853_024_160_527e-24),
        ] {
            assert!((upper_tail(z) - want).abs() < 1e-9 * want, "{z}: {}", upper_tail(z));
        }
        assert!(upper_tail(f64::INFINITY) <= 1e-299 && upper_tail(f64::NEG_INFINITY) > 1.0 - 1e-9);
        assert!((0.0..=1.0).contains(&upper_tail(f64::NAN)));
    }
}

//! What a check concluded, with the numbers that say so.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The outcome of a gate, a drift test or a rollout decision.
///
/// `Inconclusive` is an outcome of its own: the evidence at hand cannot tell. It never counts as a pass.
#[allow(clippy::exhaustive_enums)] // three outcomes are the contract; callers match on all of them
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The check's condition holds.
    Pass,
    /// The check's condition is violated.
    Fail,
    /// Too little evidence to say either.
    Inconclusive,
}

impl Verdict {
    /// Joins two verdicts: `Fail` beats `Inconclusive` beats `Pass`.
    ///
    /// ```
    /// use mlops_core::Verdict;
    /// assert_eq!(Verdict::Pass.and(Verdict::Inconclusive), Verdict::Inconclusive);
    /// assert_eq!(Verdict::Fail.and(Verdict::Inconclusive), Verdict::Fail);
    /// ```
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Fail, _) | (_, Self::Fail) => Self::Fail,
            (Self::Inconclusive, _) | (_, Self::Inconclusive) => Self::Inconclusive,
            (Self::Pass, Self::Pass) => Self::Pass,
        }
    }

    /// Whether the verdict is [`Verdict::Pass`].
    #[must_use]
    pub fn is_pass(self) -> bool {
        self == Self::Pass
    }

    /// The name used on screen and in records: `pass`, `fail`, `inconclusive`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::Inconclusive => "inconclusive",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// One number behind a verdict: its value, how sure it is, and the bound it was held against.
///
/// ```
/// use mlops_core::Measurement;
/// let m = Measurement::new("accuracy", 0.912).with_interval(0.905, 0.919).with_n(4_368).with_bound(">= 0.9");
/// assert_eq!(m.to_string(), "accuracy 0.912 [0.905, 0.919] (n = 4368), wanted >= 0.9");
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Measurement {
    /// What was measured, with its unit where it has one: `accuracy`, `latency_p99_us`.
    pub name: String,
    /// The value; NaN and the infinities are kept, by name, in JSON.
    #[serde(with = "crate::json::lossless_f64")]
    pub value: f64,
    /// Lower and upper limit of the confidence interval, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "crate::json::lossless_pair")]
    pub interval: Option<(f64, f64)>,
    /// Number of observations behind the value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n: Option<u64>,
    /// The bound it was held against, in words: `>= 0.9`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bound: Option<String>,
}

impl Measurement {
    /// A measurement with a name and a value.
    pub fn new(name: impl Into<String>, value: f64) -> Self {
        Self { name: name.into(), value, interval: None, n: None, bound: None }
    }

    /// Adds the confidence interval.
    #[must_use]
    pub fn with_interval(mut self, low: f64, high: f64) -> Self {
        self.interval = Some((low, high));
        self
    }

    /// Adds the number of observations.
    #[must_use]
    pub fn with_n(mut self, n: u64) -> Self {
        self.n = Some(n);
        self
    }

    /// Adds the bound, in words.
    #[must_use]
    pub fn with_bound(mut self, bound: impl Into<String>) -> Self {
        self.bound = Some(bound.into());
        self
    }
}

/// Four significant digits, without trailing zeros: enough to read, short enough to scan.
///
/// ```
/// use mlops_core::verdict::short;
/// assert_eq!([short(0.23404299), short(812.0), short(-2.5e-7)], ["0.234", "812", "-0.00000025"]);
/// ```
#[must_use]
pub fn short(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return value.to_string();
    }
    let decimals = (3 - value.abs().log10().floor() as i32).clamp(0, 12) as usize;
    let text = format!("{value:.decimals$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

impl fmt::Display for Measurement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, short(self.value))?;
        if let Some((low, high)) = self.interval {
            write!(f, " [{}, {}]", short(low), short(high))?;
        }
        if let Some(n) = self.n {
            write!(f, " (n = {n})")?;
        }
        if let Some(bound) = &self.bound {
            write!(f, ", wanted {bound}")?;
        }
        Ok(())
    }
}

/// A verdict with everything behind it: what one gate, test or judge found.
///
/// ```
/// use mlops_core::{Finding, Measurement, Verdict};
/// let finding = Finding::new("latency", Verdict::Fail, "p99 above the budget")
///     .with(Measurement::new("latency_p99_us", 812.0).with_bound("<= 500"));
/// assert_eq!(finding.to_string(), "fail latency: p99 above the budget; latency_p99_us 812, wanted <= 500");
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Finding {
    /// The name of the check.
    pub check: String,
    /// What it concluded.
    pub verdict: Verdict,
    /// One sentence that names the cause.
    pub summary: String,
    /// The numbers behind it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub measurements: Vec<Measurement>,
}

impl Finding {
    /// A finding without measurements yet.
    pub fn new(check: impl Into<String>, verdict: Verdict, summary: impl Into<String>) -> Self {
        Self { check: check.into(), verdict, summary: summary.into(), measurements: Vec::new() }
    }

    /// Adds a measurement.
    #[must_use]
    pub fn with(mut self, measurement: Measurement) -> Self {
        self.measurements.push(measurement);
        self
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.verdict, self.check, self.summary)?;
        for measurement in &self.measurements {
            write!(f, "; {measurement}")?;
        }
        Ok(())
    }
}

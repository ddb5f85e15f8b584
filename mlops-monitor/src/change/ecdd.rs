//! EWMA for concept drift detection.

use serde::{Deserialize, Serialize};

use super::parts::{Mean, Progress, read_progress};
use super::{ChangeDetector, State, check_wrong};
use crate::{Error, Result};

/// ECDD: an [`Ewma`](super::Ewma) chart for error rates whose limit follows the rate, for a wanted mean run between false
/// alarms.
///
/// ```text
/// p_t = errors / rows,     E_t = (1 - weight) · E_(t-1) + weight · x_t,  E_0 = 0
/// s_t = sqrt(p_t (1 - p_t) · weight / (2 - weight) · (1 - (1 - weight)^(2t)))
/// warning if E_t > p_t + warning_share · L(p_t) · s_t,     change if E_t > p_t + L(p_t) · s_t
/// run of 100 rows:  L(p) = 2.76 - 6.23 p + 18.12 p³ - 312.45 p⁵ + 1002.18 p⁷
/// run of 400 rows:  L(p) = 3.97 - 6.56 p + 48.73 p³ - 330.13 p⁵ + 848.18 p⁷
/// ```
/// Rows are 1 (the model was wrong) or 0 (it was right); anything else is an error. Falling error rates are not reported.
/// [`changed_at`](ChangeDetector::changed_at) is the first row of the warning zone that led to the change, or the row of
/// the change if there was none.
///
/// # Agreement
/// Change points equal those of `frouros.ECDDWT` 0.9, which has these polynomials too. They are the paper's for a weight
/// of 0.2. Mean runs between false alarms seen in 1e6 rows, the first 30 of each run included:
///
/// | error rate | 2 % | 5 % | 10 % | 20 % | 30 % | 40 % | 50 % |
/// | --- | --- | --- | --- | --- | --- | --- | --- |
/// | run of 100 rows | 98 | 98 | 83 | 55 | 39 | 36 | 74 |
/// | run of 400 rows | 222 | 288 | 350 | 382 | 373 | 433 | hardly ever |
///
/// The paper's third, for a run of 1,000 rows, falls below that for 400 and is negative at a rate of one half, so it is not
/// offered. For longer runs, and other weights, give a [`limit`](EcddBuilder::limit) in deviations.
///
/// # Source
/// Ross, Adams, Tasoulis and Hand (2012), doi:10.1016/j.patrec.2011.08.019, table 1 and section 3;
/// `tests/golden/change_more.json`.
///
/// # Examples
/// ```
/// use mlops_monitor::change::{ChangeDetector, Ecdd, State};
///
/// let mut detector = Ecdd::builder().build()?;
/// let change = (0..1_000_u32).find(|i| {
///     let wrong = if *i < 500 { i % 10 == 0 } else { i % 2 == 0 };
///     detector.update(f64::from(u8::from(wrong))).is_ok_and(|state| state == State::Change)
/// });
/// assert!(change.is_some_and(|row| (500..520).contains(&row)));
/// # Ok::<(), mlops_monitor::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ecdd {
    options: EcddBuilder,
    rate: Mean,
    average: f64,
    /// `(1 - weight)^(2t)`.
    decay: f64,
    warned_at: Option<u64>,
    progress: Progress,
}

/// How far above the error rate an [`Ecdd`] puts its limit.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum EcddLimit {
    /// By the polynomial for a mean run of about 100 rows between false alarms, for a weight of 0.2.
    Run100,
    /// The same for 400 rows.
    Run400,
    /// A number of standard deviations of the average, above 0.
    Deviations(f64),
}

impl EcddLimit {
    fn at(self, p: f64) -> f64 {
        let p3 = p * p * p;
        match self {
            Self::Run100 => 2.76 - 6.23 * p + 18.12 * p3 - 312.45 * p3 * p * p + 1002.18 * p3 * p3 * p,
            Self::Run400 => 3.97 - 6.56 * p + 48.73 * p3 - 330.13 * p3 * p * p + 848.18 * p3 * p3 * p,
            Self::Deviations(limit) => limit,
        }
    }
}

/// Options of an [`Ecdd`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[must_use = "a builder does nothing until `build`"]
pub struct EcddBuilder {
    min_rows: u64,
    weight: f64,
    limit: EcddLimit,
    warning_share: f64,
}

impl Default for EcddBuilder {
    fn default() -> Self {
        Self { min_rows: 30, weight: 0.2, limit: EcddLimit::Run400, warning_share: 0.5 }
    }
}

impl EcddBuilder {
    /// Rows of a window from which on it is tested, at least 1 (default 30).
    pub fn min_rows(mut self, rows: u64) -> Self {
        self.min_rows = rows;
        self
    }

    /// Weight of the latest row, in (0, 1] (default 0.2); another needs a limit in deviations.
    pub fn weight(mut self, weight: f64) -> Self {
        self.weight = weight;
        self
    }

    /// Where the limit is (default [`EcddLimit::Run400`]).
    pub fn limit(mut self, limit: EcddLimit) -> Self {
        self.limit = limit;
        self
    }

    /// Share of the way to the limit at which the warning zone begins, in (0, 1] (default 0.5).
    pub fn warning_share(mut self, share: f64) -> Self {
        self.warning_share = share;
        self
    }

    /// Makes the detector.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] naming the first option out of range.
    pub fn build(self) -> Result<Ecdd> {
        if self.min_rows == 0 {
            return Err(Error::invalid("min_rows", "must be at least 1"));
        }
        if !(self.weight > 0.0 && self.weight <= 1.0) {
            return Err(Error::invalid("weight", format!("must lie in (0, 1], got {}", self.weight)));
        }
        match self.limit {
            EcddLimit::Deviations(limit) if !(limit > 0.0 && limit.is_finite()) => {
                return Err(Error::invalid("limit", format!("must be finite and above 0, got {limit}")));
            }
            EcddLimit::Run100 | EcddLimit::Run400 if self.weight != 0.2 => {
                let reason = format!("is known for a weight of 0.2, not {}; give it in deviations", self.weight);
                return Err(Error::invalid("limit", reason));
            }
            _ => {}
        }
        if !(self.warning_share > 0.0 && self.warning_share <= 1.0) {
            return Err(Error::invalid("warning_share", format!("must lie in (0, 1], got {}", self.warning_share)));
        }
        Ok(Ecdd {
            options: self,
            rate: Mean::default(),
            average: 0.0,
            decay: 1.0,
            warned_at: None,
            progress: Progress::default(),
        })
    }
}

impl Ecdd {
    /// Options with their defaults; finish with [`EcddBuilder::build`].
    pub fn builder() -> EcddBuilder {
        EcddBuilder::default()
    }

    fn empty_window(&mut self) {
        self.rate = Mean::default();
        self.average = 0.0;
        self.decay = 1.0;
        self.warned_at = None;
    }
}

impl ChangeDetector for Ecdd {
    fn name(&self) -> &'static str {
        "ecdd"
    }

    fn update(&mut self, x: f64) -> Result<State> {
        check_wrong(x)?;
        if self.progress.is_over() {
            self.empty_window();
        }
        let row = self.progress.next_row();
        let EcddBuilder { min_rows, weight, limit, warning_share } = self.options;
        let keep = 1.0 - weight;
        self.rate.add(x);
        self.average = keep * self.average + weight * x;
        self.decay *= keep * keep;
        self.progress.state = State::Stable;
        if self.rate.rows < min_rows {
            return Ok(self.progress.state);
        }
        let rate = self.rate.mean;
        // Rounding may put a rate of 1 just above it.
        let variance = (rate * (1.0 - rate)).max(0.0) * (weight / (2.0 - weight)) * (1.0 - self.decay);
        let distance = limit.at(rate) * variance.sqrt();
        if self.average > rate + distance {
            self.progress.change(self.warned_at.unwrap_or(row));
        } else if self.average > rate + warning_share * distance {
            self.progress.state = State::Warning;
            self.warned_at.get_or_insert(row);
        } else {
            self.warned_at = None;
        }
        Ok(self.progress.state)
    }

    fn estimate(&self) -> Option<f64> {
        self.rate.value()
    }

    fn reset(&mut self) {
        self.progress = Progress::default();
        self.empty_window();
    }

    read_progress!();
}

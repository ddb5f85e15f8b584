use std::hint::black_box;
use std::time::{Duration, Instant};

use mlops_core::{Finding, Measurement, Verdict};

use super::{Gate, Subject, invalid};
use crate::Result;

/// How sure the interval of a percentile is.
const CONFIDENCE: f64 = 0.95;

/// The fewest calls whose largest time is an upper limit of the 99th percentile: `0.99^n <= 0.025` from 368 on.
const CALLS_FOR_P99: usize = 368;

/// Passes a candidate that answers within a time budget.
///
/// It is called with `batch` rows at a time (default 1), taken from the data or, without, the hold-out rows, over and
/// over: first `warm_up` calls that do not count, then `calls` that do, on the calling thread. The percentiles are
/// observed times (nearest rank): `p99` is a time that 99 % of the calls did not exceed.
///
/// A budget is judged by the 95 % confidence interval of its percentile: `Pass` if the upper limit is within the budget,
/// `Fail` if the lower limit is above it, else `Inconclusive`, as with fewer rows than `batch`. The limits are the `r`th
/// and `s`th smallest of the `n` times, with
///
/// ```text
/// r = max { k : P(B < k) <= 0.025 },   s = min { k : P(B >= k) <= 0.025 },   B ~ Binomial(n, p)
/// ```
/// which holds for times of any distribution, as long as the calls do not depend on each other (David and Nagaraja,
/// *Order Statistics*, 3rd ed. 2003, section 7.1). A percentile whose `s` is above `n` has no upper limit, and no interval
/// among the measurements.
///
/// Only the measurements hold measured times; verdict and summary can still differ between two runs if the candidate is
/// close to its budget, and on a busy machine it may fail for that alone.
///
/// ```
/// use std::time::Duration;
/// use mlops_pipeline::gate::LatencyGate;
/// let gate = LatencyGate::builder().p50(Duration::from_micros(200)).p99(Duration::from_millis(1)).build()?;
/// # let _ = gate; Ok::<(), mlops_pipeline::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct LatencyGate {
    name: String,
    p50: Option<Duration>,
    p99: Option<Duration>,
    batch: usize,
    warm_up: usize,
    calls: usize,
}

/// Puts a [`LatencyGate`] together.
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct LatencyGateBuilder(LatencyGate);

impl LatencyGate {
    /// Starts a gate named `latency`.
    pub fn builder() -> LatencyGateBuilder {
        let name = "latency".to_owned();
        LatencyGateBuilder(Self { name, p50: None, p99: None, batch: 1, warm_up: 20, calls: 1_000 })
    }
}

impl LatencyGateBuilder {
    /// The gate's name (default `latency`).
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.0.name = name.into();
        self
    }

    /// The time that half of the calls may not exceed.
    pub fn p50(mut self, budget: Duration) -> Self {
        self.0.p50 = Some(budget);
        self
    }

    /// The time that 99 % of the calls may not exceed.
    pub fn p99(mut self, budget: Duration) -> Self {
        self.0.p99 = Some(budget);
        self
    }

    /// Rows in one call, at least 1 (default 1).
    pub fn batch(mut self, rows: usize) -> Self {
        self.0.batch = rows;
        self
    }

    /// Calls before the measured ones (default 20).
    pub fn warm_up(mut self, calls: usize) -> Self {
        self.0.warm_up = calls;
        self
    }

    /// Measured calls, at least 100, and at least 368 for a budget of the 99th percentile (default 1,000).
    pub fn calls(mut self, calls: usize) -> Self {
        self.0.calls = calls;
        self
    }

    /// Checks the options.
    ///
    /// # Errors
    /// [`Error::InvalidGate`](crate::Error::InvalidGate) if there is no budget, `batch` is 0, or there are too few
    /// [`calls`](Self::calls), of which no percentile could be told.
    pub fn build(self) -> Result<LatencyGate> {
        let gate = self.0;
        if gate.p50.is_none() && gate.p99.is_none() {
            return Err(invalid(&gate.name, "set a budget: `p50`, `p99` or both"));
        }
        if gate.batch == 0 {
            return Err(invalid(&gate.name, "batch must be at least 1"));
        }
        let fewest = if gate.p99.is_some() { CALLS_FOR_P99 } else { 100 };
        if gate.calls < fewest {
            return Err(invalid(&gate.name, format!("calls must be at least {fewest}, got {}", gate.calls)));
        }
        Ok(gate)
    }
}

impl Gate for LatencyGate {
    fn name(&self) -> &str {
        &self.name
    }

    fn check(&self, subject: &Subject<'_>) -> Result<Finding> {
        let candidate = subject.need_candidate(&self.name)?;
        let rows = match (subject.data, subject.holdout) {
            (Some(rows), _) => rows,
            (None, Some(holdout)) => holdout.rows,
            (None, None) => return Err(super::missing(&self.name, "rows to predict", "data")),
        };
        if rows.num_rows() == 0 {
            return Ok(Finding::new(&self.name, Verdict::Inconclusive, "there are no rows to predict"));
        }
        let size = self.batch;
        if rows.num_rows() < size {
            let summary = format!("there are {} rows, fewer than the batch of {size}", rows.num_rows());
            return Ok(Finding::new(&self.name, Verdict::Inconclusive, summary));
        }
        let inputs = candidate.signature().check_inputs(rows)?;
        let batches = inputs.num_rows() / size;
        let mut times = Vec::with_capacity(self.calls);
        for call in 0..self.warm_up + self.calls {
            let batch = inputs.slice(call % batches * size, size);
            let began = Instant::now();
            let answer = black_box(candidate.predict(black_box(&batch)));
            let took = began.elapsed();
            if let Err(error) = answer {
                let why = mlops_core::with_causes(&error);
                let summary = format!("the candidate cannot answer the rows: {why}");
                return Ok(Finding::new(&self.name, Verdict::Fail, summary));
            }
            if call >= self.warm_up {
                times.push(took);
            }
        }
        times.sort_unstable();
        let n = times.len();
        let (mut above, mut open) = (Vec::new(), Vec::new());
        let mut measurements = Vec::new();
        for (name, p, budget) in [("p50", 50, self.p50), ("p99", 99, self.p99)] {
            let time = times[(n * p).div_ceil(100) - 1];
            let (low, high) = ranks(n, p as f64 / 100.0);
            let low = low.checked_sub(1).map_or(Duration::ZERO, |i| times[i]);
            let high = high.map(|rank| times[rank - 1]);
            let mut measurement = Measurement::new(format!("latency_{name}_us"), micros(time)).with_n(n as u64);
            if let Some(high) = high {
                measurement = measurement.with_interval(micros(low), micros(high));
            }
            if let Some(budget) = budget {
                measurement = measurement.with_bound(format!("<= {}", micros(budget)));
                if low > budget {
                    above.push(format!("{name} is above the budget of {budget:?}"));
                } else if high.is_none_or(|high| high > budget) {
                    open.push(format!("{name} may be above or within the budget of {budget:?}"));
                }
            }
            measurements.push(measurement);
        }
        let rows = if size == 1 { "single rows".to_owned() } else { format!("{size} rows at a time") };
        let (verdict, said) = match (above.is_empty(), open.is_empty()) {
            (false, _) => (Verdict::Fail, above.join(" and ")),
            (true, false) => (Verdict::Inconclusive, open.join(" and ")),
            (true, true) => (Verdict::Pass, "within the budget".to_owned()),
        };
        let finding = Finding::new(&self.name, verdict, format!("{said}, on {rows}"));
        Ok(measurements.into_iter().fold(finding, Finding::with))
    }
}

/// Which of `n` sorted values, counted from 1, are the limits of the `p` quantile: the lower one is 0 and the upper one
/// `None` where `n` values are too few for it.
fn ranks(n: usize, p: f64) -> (usize, Option<usize>) {
    let tail = (1.0 - CONFIDENCE) / 2.0;
    let odds = (p / (1.0 - p)).ln();
    // The logarithm of P(B = k), from one k to the next, and P(B <= k): as plain numbers they would underflow.
    let mut log_mass = n as f64 * (-p).ln_1p();
    let (mut below, mut low) = (0.0, 0);
    for k in 0..n {
        // Here `below` is P(B < k).
        if below <= tail {
            low = k;
        }
        below += log_mass.exp();
        // Now it is P(B < k + 1).
        if below >= 1.0 - tail {
            return (low, Some(k + 1));
        }
        log_mass += ((n - k) as f64 / (k + 1) as f64).ln() + odds;
    }
    (low, None)
}

fn micros(time: Duration) -> f64 {
    time.as_nanos() as f64 / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against `scipy.stats.binom.cdf` (SciPy), by trying every rank.
    #[test]
    fn ranks_agree_with_scipy() {
        for (n, p, low, high) in [
            (100, 0.5, 40, Some(61)),
            (200, 0.5, 86, Some(115)),
            (1_000, 0.5, 469, Some(532)),
            (367, 0.99, 359, None),
            (368, 0.99, 360, Some(368)),
            (1_000, 0.99, 983, Some(997)),
            (10_000, 0.99, 9_880, Some(9_920)),
            (200_000, 0.99, 197_912, Some(198_088)),
        ] {
            assert_eq!(ranks(n, p), (low, high), "n = {n}, p = {p}");
        }
    }

    #[test]
    fn few_values_have_no_limits() {
        assert_eq!(ranks(1, 0.5), (0, None));
        assert_eq!(ranks(0, 0.5), (0, None));
        assert_eq!(ranks(CALLS_FOR_P99 - 1, 0.99).1, None);
        assert_eq!(ranks(CALLS_FOR_P99, 0.99).1, Some(CALLS_FOR_P99));
    }
}

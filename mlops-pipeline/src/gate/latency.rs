use std::hint::black_box;
use std::time::{Duration, Instant};

use mlops_core::{Finding, Measurement, Verdict};

use super::{Gate, Subject, invalid};
use crate::Result;

/// Passes a candidate that answers within a time budget.
///
/// It is called with `batch` rows at a time (default 1), taken from the data or, without, the hold-out rows, over and
/// over: first `warm_up` calls that do not count, then `calls` that do, on the calling thread. The percentiles are
/// observed times (nearest rank): `p99` is a time that 99 % of the calls did not exceed.
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
        LatencyGateBuilder(Self { name, p50: None, p99: None, batch: 1, warm_up: 20, calls: 200 })
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

    /// Measured calls, at least 100 (default 200).
    pub fn calls(mut self, calls: usize) -> Self {
        self.0.calls = calls;
        self
    }

    /// Checks the options.
    ///
    /// # Errors
    /// [`Error::InvalidGate`](crate::Error::InvalidGate) if there is no budget, `batch` is 0, or there are fewer than
    /// 100 calls, of which no 99th percentile could be told.
    pub fn build(self) -> Result<LatencyGate> {
        let gate = self.0;
        if gate.p50.is_none() && gate.p99.is_none() {
            return Err(invalid(&gate.name, "set a budget: `p50`, `p99` or both"));
        }
        if gate.batch == 0 {
            return Err(invalid(&gate.name, "batch must be at least 1"));
        }
        if gate.calls < 100 {
            return Err(invalid(&gate.name, format!("calls must be at least 100, got {}", gate.calls)));
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
        let inputs = candidate.signature().check_inputs(rows)?;
        let size = self.batch.min(inputs.num_rows());
        let batches = inputs.num_rows() / size;
        let mut times = Vec::with_capacity(self.calls);
        for call in 0..self.warm_up + self.calls {
            let batch = inputs.slice(call % batches * size, size);
            let began = Instant::now();
            let answer = black_box(candidate.predict(black_box(&batch)));
            let took = began.elapsed();
            if let Err(error) = answer {
                let why = crate::error::chain(&error);
                let summary = format!("the candidate cannot answer the rows: {why}");
                return Ok(Finding::new(&self.name, Verdict::Fail, summary));
            }
            if call >= self.warm_up {
                times.push(took);
            }
        }
        times.sort_unstable();
        let percentile = |p: usize| times[(times.len() * p).div_ceil(100) - 1];
        let mut above = Vec::new();
        let mut measurements = Vec::new();
        for (name, p, budget) in [("p50", 50, self.p50), ("p99", 99, self.p99)] {
            let time = percentile(p);
            let mut measurement =
                Measurement::new(format!("latency_{name}_us"), micros(time)).with_n(times.len() as u64);
            if let Some(budget) = budget {
                measurement = measurement.with_bound(format!("<= {}", micros(budget)));
                if time > budget {
                    above.push(format!("{name} is above the budget of {budget:?}"));
                }
            }
            measurements.push(measurement);
        }
        let rows = if size == 1 { "single rows".to_owned() } else { format!("{size} rows at a time") };
        let finding = if above.is_empty() {
            Finding::new(&self.name, Verdict::Pass, format!("within the budget, on {rows}"))
        } else {
            Finding::new(&self.name, Verdict::Fail, format!("{}, on {rows}", above.join(" and ")))
        };
        Ok(measurements.into_iter().fold(finding, Finding::with))
    }
}

fn micros(time: Duration) -> f64 {
    time.as_nanos() as f64 / 1e3
}

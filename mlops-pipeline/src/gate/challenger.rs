use mlops_core::{Finding, Measurement, Verdict};

use super::stats::{Paired, mcnemar_exact, paired_difference, share};
use super::{Answers, Gate, Subject, Terms, invalid};
use crate::Result;

/// Passes a candidate that is not worse than the champion on the same hold-out rows, or better, by a stated margin.
///
/// Both models answer every row; what counts is how often only one of them is right. With `[low, high]` the interval of
/// the difference in accuracy, candidate minus champion ([`paired_difference`](super::stats::paired_difference)):
///
/// ```text
///                     Pass             Fail               Inconclusive
/// margin m (default 0)  low > -m         high <= -m         else
/// gain g > 0            low >= g         high < g           else
/// no champion           low > floor      high <= floor      else     (Wilson interval of the candidate's accuracy)
/// ```
/// A candidate that is truly worse by the margin (or short of the gain) passes with probability at most about
/// `(1 - confidence) / 2`. With the default margin of 0 only a candidate shown to be better passes.
///
/// Each finding also has McNemar's exact p-value ([`mcnemar_exact`](super::stats::mcnemar_exact)) as a measurement: for
/// reading, it decides nothing.
///
/// Fewer rows than `min_rows` are `Inconclusive`. A candidate that cannot answer the rows, or answers with anything but
/// a probability, is a `Fail`; a champion that cannot is an error.
///
/// ```
/// use mlops_pipeline::gate::ChallengerGate;
/// let gate = ChallengerGate::builder("probability").margin(0.01).min_rows(500).build()?;
/// # let _ = gate; Ok::<(), mlops_pipeline::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct ChallengerGate(Terms);

/// Puts a [`ChallengerGate`] together.
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct ChallengerGateBuilder(Terms, Option<String>);

impl ChallengerGate {
    /// Starts a gate named `challenger`; `output` is the column that holds the probability of the positive class.
    pub fn builder(output: impl Into<String>) -> ChallengerGateBuilder {
        ChallengerGateBuilder(Terms::new("challenger", output.into()), None)
    }
}

impl ChallengerGateBuilder {
    /// The gate's name (default `challenger`).
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.0.name = name.into();
        self
    }

    /// The probability from which the answer is "positive" (default 0.5).
    pub fn threshold(mut self, threshold: f64) -> Self {
        self.0.threshold = threshold;
        self
    }

    /// How much lower the candidate's accuracy may be, in [0, 1) (default 0).
    pub fn margin(mut self, margin: f64) -> Self {
        self.refuse_negative("margin", margin);
        self.0.least = 0.0 - margin; // not -margin, which would print no margin as -0
        self
    }

    /// How much higher the candidate's accuracy must be, in [0, 1), in place of a margin.
    pub fn gain(mut self, gain: f64) -> Self {
        self.refuse_negative("gain", gain);
        self.0.least = gain;
        self
    }

    fn refuse_negative(&mut self, option: &str, value: f64) {
        if value < 0.0 {
            self.1.get_or_insert(format!("{option} must lie in [0, 1), got {value}"));
        }
    }

    /// The accuracy that the first model of a name must exceed, in [0, 1) (default 0.5).
    pub fn floor(mut self, floor: f64) -> Self {
        self.0.floor = floor;
        self
    }

    /// The level of the two-sided interval, in (0, 1) (default 0.95).
    pub fn confidence(mut self, confidence: f64) -> Self {
        self.0.confidence = confidence;
        self
    }

    /// How many hold-out rows a verdict needs (default 100).
    pub fn min_rows(mut self, rows: usize) -> Self {
        self.0.min_rows = rows;
        self
    }

    /// Checks the options.
    ///
    /// # Errors
    /// [`Error::InvalidGate`](crate::Error::InvalidGate) naming the first option out of range.
    pub fn build(self) -> Result<ChallengerGate> {
        if let Some(reason) = self.1 {
            return Err(invalid(&self.0.name, reason));
        }
        self.0.check()?;
        Ok(ChallengerGate(self.0))
    }
}

impl Gate for ChallengerGate {
    fn name(&self) -> &str {
        &self.0.name
    }

    fn check(&self, subject: &Subject<'_>) -> Result<Finding> {
        let terms = &self.0;
        match terms.answers(subject)? {
            Answers::Settled(finding) => Ok(finding),
            Answers::Given { candidate, champion: None } => terms.against_floor(&candidate),
            Answers::Given { candidate, champion: Some(champion) } => terms.against_champion(&candidate, &champion),
        }
    }
}

impl Terms {
    fn against_champion(&self, candidate: &[bool], champion: &[bool]) -> Result<Finding> {
        let paired = Paired::count(candidate, champion);
        let n = paired.n();
        let difference = paired_difference(&paired, self.confidence)?;
        let verdict = self.judge(difference.low, difference.high);
        let wanted = if self.least > 0.0 {
            format!("better by {}", self.least)
        } else if self.least < 0.0 {
            format!("at most {} worse", -self.least)
        } else {
            "better".to_owned()
        };
        let summary = match verdict {
            Verdict::Pass => format!("the candidate is {wanted}, on {n} rows"),
            Verdict::Fail => format!("the candidate is not {wanted}, on {n} rows"),
            Verdict::Inconclusive => format!("{n} rows cannot tell whether the candidate is {wanted}"),
        };
        let correct = |right: u64| share(right, n, self.confidence);
        let candidate = correct(paired.both + paired.only_candidate)?;
        let champion = correct(paired.both + paired.only_champion)?;
        Ok(Finding::new(&self.name, verdict, summary)
            .with(
                Measurement::new("accuracy_difference", difference.value)
                    .with_interval(difference.low, difference.high)
                    .with_n(n)
                    .with_bound(self.bound()),
            )
            .with(Measurement::new("candidate_accuracy", candidate.value).with_interval(candidate.low, candidate.high))
            .with(Measurement::new("champion_accuracy", champion.value).with_interval(champion.low, champion.high))
            .with(
                Measurement::new("mcnemar_p", mcnemar_exact(&paired))
                    .with_n(paired.only_candidate + paired.only_champion),
            ))
    }

    fn judge(&self, low: f64, high: f64) -> Verdict {
        if self.passes(low) {
            Verdict::Pass
        } else if !self.passes(high) {
            Verdict::Fail
        } else {
            Verdict::Inconclusive
        }
    }

    fn against_floor(&self, candidate: &[bool]) -> Result<Finding> {
        let right = candidate.iter().filter(|right| **right).count() as u64;
        let n = candidate.len() as u64;
        let accuracy = share(right, n, self.confidence)?;
        let floor = self.floor;
        let (verdict, summary) = if accuracy.low > floor {
            (Verdict::Pass, format!("there is no champion, and the accuracy is above {floor}, on {n} rows"))
        } else if accuracy.high <= floor {
            (Verdict::Fail, format!("there is no champion, and the accuracy is not above {floor}, on {n} rows"))
        } else {
            let summary =
                format!("there is no champion, and {n} rows cannot tell whether the accuracy is above {floor}");
            (Verdict::Inconclusive, summary)
        };
        Ok(Finding::new(&self.name, verdict, summary).with(
            Measurement::new("candidate_accuracy", accuracy.value)
                .with_interval(accuracy.low, accuracy.high)
                .with_n(n)
                .with_bound(format!("> {floor}")),
        ))
    }
}

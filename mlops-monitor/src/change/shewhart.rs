//! The Shewhart chart.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::parts::{InControl, Mean, Progress, read_progress};
use super::{ChangeDetector, State, check_value};
use crate::{Error, Result};

/// Shewhart chart: single rows against control limits, with the Western Electric rules about runs.
///
/// With `z` the distance of a row from the mean in standard deviations, a change is
///
/// | rule | on one side of the mean |
/// | --- | --- |
/// | [`BeyondThree`](WesternElectric::BeyondThree) | one row beyond 3 |
/// | [`TwoOfThree`](WesternElectric::TwoOfThree) | two of three rows in succession beyond 2 |
/// | [`FourOfFive`](WesternElectric::FourOfFive) | four of five beyond 1 |
/// | [`EightInARow`](WesternElectric::EightInARow) | eight in succession |
///
/// [`fired`](Self::fired) names the rules that did; a row beyond 2 alone is a warning. With independent normal rows the
/// mean run between false alarms is 370 rows with the first rule, 92 with all four: the chart is for few rows that
/// are each worth a look, such as daily figures, and not for every prediction.
///
/// The mean and deviation in control are [given](ShewhartBuilder::in_control), or learnt from the first
/// [`baseline_rows`](ShewhartBuilder::baseline_rows) of each window; no test is made on those.
///
/// [`changed_at`](ChangeDetector::changed_at) is the first row of the longest run that fired.
///
/// # Source
/// Western Electric, *Statistical Quality Control Handbook* (1956), pages 25 to 28; run lengths: Champ and Woodall
/// (1987), doi:10.1080/00401706.1987.10488266. `tests/golden/change_more.json`.
///
/// # Examples
/// ```
/// use mlops_monitor::change::{ChangeDetector, Shewhart, State, WesternElectric};
///
/// let mut accuracy = Shewhart::builder().in_control(0.90, 0.01).build()?;
/// let days = [0.905, 0.897, 0.873, 0.906, 0.871];
/// let states = days.into_iter().map(|day| accuracy.update(day)).collect::<Result<Vec<_>, _>>()?;
/// assert_eq!(states[2..], [State::Warning, State::Stable, State::Change]);
/// assert_eq!(accuracy.fired().collect::<Vec<_>>(), [WesternElectric::TwoOfThree]);
/// assert_eq!(accuracy.changed_at(), Some(2));
/// # Ok::<(), mlops_monitor::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Shewhart {
    options: ShewhartBuilder,
    in_control: InControl,
    window: Mean,
    above: Side,
    below: Side,
    fired: Vec<WesternElectric>,
    progress: Progress,
}

/// Which of the latest eight rows, the newest in the lowest bit, were beyond 0, 1, 2 and 3 deviations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Side {
    beyond: [u8; 4],
}

impl Side {
    fn add(&mut self, z: f64) {
        for (bits, limit) in self.beyond.iter_mut().zip([0.0, 1.0, 2.0, 3.0]) {
            *bits = *bits << 1 | u8::from(z > limit);
        }
    }

    /// Rows since the first of those that make the rule fire, if it does.
    fn began(self, rule: WesternElectric) -> Option<u64> {
        let (beyond, of, least) = match rule {
            WesternElectric::BeyondThree => (self.beyond[3], 1, 1),
            WesternElectric::TwoOfThree => (self.beyond[2], 3, 2),
            WesternElectric::FourOfFive => (self.beyond[1], 5, 4),
            WesternElectric::EightInARow => (self.beyond[0], 8, 8),
        };
        let run = beyond & (u8::MAX >> (8 - of));
        (run.count_ones() >= least).then(|| u64::from(7 - run.leading_zeros()))
    }
}

/// A rule about runs on a control chart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(clippy::exhaustive_enums)] // The handbook has four.
pub enum WesternElectric {
    /// One row beyond three deviations.
    BeyondThree,
    /// Two of three rows in succession beyond two deviations, on the same side.
    TwoOfThree,
    /// Four of five rows in succession beyond one deviation, on the same side.
    FourOfFive,
    /// Eight rows in succession on the same side of the mean.
    EightInARow,
}

impl WesternElectric {
    /// All four.
    pub const ALL: [Self; 4] = [Self::BeyondThree, Self::TwoOfThree, Self::FourOfFive, Self::EightInARow];
}

impl fmt::Display for WesternElectric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BeyondThree => "one row beyond three deviations",
            Self::TwoOfThree => "two of three rows beyond two deviations",
            Self::FourOfFive => "four of five rows beyond one deviation",
            Self::EightInARow => "eight rows on one side",
        })
    }
}

/// Options of a [`Shewhart`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[must_use = "a builder does nothing until `build`"]
pub struct ShewhartBuilder {
    in_control: Option<(f64, f64)>,
    baseline_rows: u64,
    rules: Vec<WesternElectric>,
}

impl Default for ShewhartBuilder {
    fn default() -> Self {
        Self { in_control: None, baseline_rows: 100, rules: WesternElectric::ALL.to_vec() }
    }
}

impl ShewhartBuilder {
    /// Mean and standard deviation of the stream in control (default: learnt).
    pub fn in_control(mut self, mean: f64, deviation: f64) -> Self {
        self.in_control = Some((mean, deviation));
        self
    }

    /// Rows of each window that mean and deviation are learnt from, at least 2 (default 100); none if they are given.
    pub fn baseline_rows(mut self, rows: u64) -> Self {
        self.baseline_rows = rows;
        self
    }

    /// The rules in force, each once (default all).
    pub fn rules(mut self, rules: impl IntoIterator<Item = WesternElectric>) -> Self {
        self.rules = rules.into_iter().collect();
        self
    }

    /// Makes the detector.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] naming the first option out of range.
    pub fn build(self) -> Result<Shewhart> {
        if self.rules.is_empty() {
            return Err(Error::invalid("rules", "must name at least one rule"));
        }
        if self.rules.iter().enumerate().any(|(i, rule)| self.rules[..i].contains(rule)) {
            return Err(Error::invalid("rules", "must name each rule once"));
        }
        Ok(Shewhart {
            in_control: InControl::new(self.in_control, self.baseline_rows)?,
            options: self,
            window: Mean::default(),
            above: Side::default(),
            below: Side::default(),
            fired: Vec::new(),
            progress: Progress::default(),
        })
    }
}

impl Shewhart {
    /// Options with their defaults; finish with [`ShewhartBuilder::build`].
    pub fn builder() -> ShewhartBuilder {
        ShewhartBuilder::default()
    }

    /// The rules that the latest row fired, in the order of the options; none unless the state is a change.
    pub fn fired(&self) -> impl Iterator<Item = WesternElectric> + '_ {
        self.fired.iter().copied()
    }

    /// Mean and standard deviation that rows are compared with, `None` while they are learnt.
    #[must_use]
    pub fn in_control(&self) -> Option<(f64, f64)> {
        self.in_control.known()
    }

    fn empty_window(&mut self) {
        self.in_control.restart();
        self.window = Mean::default();
        self.above = Side::default();
        self.below = Side::default();
        self.fired.clear();
    }
}

impl ChangeDetector for Shewhart {
    fn name(&self) -> &'static str {
        "shewhart"
    }

    fn update(&mut self, x: f64) -> Result<State> {
        check_value(x)?;
        if self.progress.is_over() {
            self.empty_window();
        }
        let row = self.progress.next_row();
        self.window.add(x);
        self.progress.state = State::Stable;
        let Some(z) = self.in_control.standardize(x) else {
            return Ok(self.progress.state);
        };
        self.above.add(z);
        self.below.add(-z);
        let mut longest = None;
        for rule in &self.options.rules {
            if let Some(back) = self.above.began(*rule).max(self.below.began(*rule)) {
                self.fired.push(*rule);
                longest = longest.max(Some(back));
            }
        }
        if let Some(back) = longest {
            self.progress.change(row.saturating_sub(back));
        } else if z.abs() > 2.0 {
            self.progress.state = State::Warning;
        }
        Ok(self.progress.state)
    }

    fn estimate(&self) -> Option<f64> {
        self.window.value()
    }

    fn reset(&mut self) {
        self.progress = Progress::default();
        self.empty_window();
    }

    read_progress!();
}

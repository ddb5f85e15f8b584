//! Labels that arrive late: joining them to the predictions they judge.
//!
//! ```
//! use mlops_core::{PredictionId, Timestamp};
//! use mlops_monitor::labels::{LabelJoiner, LabelOutcome};
//! use std::time::Duration;
//!
//! let noon: Timestamp = "1997-01-06T12:00:00Z".parse()?;
//! let id = PredictionId::derived(noon, b"row 1");
//!
//! let mut joiner = LabelJoiner::builder().horizon(Duration::from_secs(7 * 86_400)).build()?;
//! joiner.predicted(id, noon, 0.8)?;
//! let outcome = joiner.label(id, true, noon + Duration::from_secs(86_400))?;
//! let LabelOutcome::Joined(row) = outcome else { panic!("{outcome:?}") };
//! assert_eq!((row.score, row.label, row.delay()), (0.8, 1.0, Duration::from_secs(86_400)));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Rules
//! - **Event time.** A row belongs to the time of its prediction, whenever its label comes.
//! - **Bounded.** A prediction is forgotten once the horizon has passed since it was made, or when there are more than
//!   `capacity` of them; about 250 bytes each until then. Every one forgotten is handed out and counted.
//! - **Deterministic.** The same calls in the same order give the same outcomes; no clock is read.
//! - **Restart.** The whole state is serde data: stored after any call and loaded again it goes on as if nothing had
//!   happened.
//!
//! # What partial labels mean
//! Coverage below 1 is not a random gap as a rule: a loan that was refused never shows whether it would have been paid.
//! Numbers made from the labels that came hold for the labelled part only.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use mlops_core::{PredictionId, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// A prediction and its label.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Joined {
    /// The prediction.
    pub id: PredictionId,
    /// When it was made.
    pub predicted_at: Timestamp,
    /// When the label came.
    pub labelled_at: Timestamp,
    /// What was predicted, such as a probability.
    pub score: f64,
    /// What was true; 0 or 1 for two classes.
    pub label: f64,
    /// The version that made the prediction, if [`LabelJoiner::predicted_by`] was told.
    pub version: Option<u64>,
}

impl Joined {
    /// Time from the prediction to its label; zero if the clocks disagree about the order.
    #[must_use]
    pub fn delay(&self) -> Duration {
        (self.labelled_at - self.predicted_at).to_std().unwrap_or_default()
    }
}

/// What became of a label.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum LabelOutcome {
    /// The first label of a known prediction.
    Joined(Joined),
    /// Another label than before: the row as it is now, and the label it had.
    Corrected {
        /// The row with its new label.
        row: Joined,
        /// The label it had until now.
        previous: f64,
    },
    /// The label that is there already; nothing changed.
    Duplicate,
    /// No such prediction: never made here, not recorded yet, or forgotten.
    Unknown,
}

/// What became of a prediction handed to [`LabelJoiner::predicted`].
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Accepted {
    /// `false` if the id was known already; then nothing changed.
    pub new: bool,
    /// The oldest prediction, if it had to make room.
    pub forgotten: Option<Forgotten>,
}

/// A prediction that is no longer waited for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Forgotten {
    /// The prediction.
    pub id: PredictionId,
    /// When it was made.
    pub predicted_at: Timestamp,
    /// What was predicted.
    pub score: f64,
    /// Its label, if one came.
    pub label: Option<f64>,
    /// The version that made it, if known.
    pub version: Option<u64>,
}

impl Forgotten {
    fn waited(&self) -> bool {
        self.label.is_none() && self.score.is_finite()
    }
}

/// Counts since the joiner was made.
///
/// `predicted = pending + labelled + expired + evicted` at all times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LabelStats {
    /// Predictions taken in.
    pub predicted: u64,
    /// Predictions that wait for their label.
    pub pending: u64,
    /// Predictions that got a label.
    pub labelled: u64,
    /// Predictions given up without a label when the horizon had passed.
    pub expired: u64,
    /// Predictions given up without a label because there were too many.
    pub evicted: u64,
    /// Labels that replaced another one.
    pub corrected: u64,
    /// Labels that repeated the one that was there.
    pub duplicate: u64,
    /// Labels for a prediction that is not known.
    pub unknown: u64,
    /// Predictions whose id was known already.
    pub repeated: u64,
}

impl LabelStats {
    /// Share of the predictions that are settled, one way or the other, which got a label; `None` while none is.
    ///
    /// Labels that come fast are over-represented until the first predictions expire.
    #[must_use]
    pub fn coverage(&self) -> Option<f64> {
        let settled = self.labelled + self.expired + self.evicted;
        (settled > 0).then(|| self.labelled as f64 / settled as f64)
    }
}

/// How long labels take, in seconds: a histogram whose buckets grow by 5 %.
///
/// Quantiles are within 2.5 % of the exact ones; the smallest and the largest delay are exact. Shards can be joined.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LabelDelays {
    n: u64,
    min: Duration,
    max: Duration,
    /// Labels without any delay.
    immediate: u64,
    buckets: BTreeMap<i32, u64>,
}

/// Ratio of a bucket's upper edge to its lower one.
const GROWTH: f64 = 1.05;

impl LabelDelays {
    fn add(&mut self, delay: Duration) {
        self.min = if self.n == 0 { delay } else { self.min.min(delay) };
        self.max = self.max.max(delay);
        self.n += 1;
        if delay.is_zero() {
            self.immediate += 1;
        } else {
            *self.buckets.entry((delay.as_secs_f64().ln() / GROWTH.ln()).floor() as i32).or_default() += 1;
        }
    }

    /// Adds the labels of `other`.
    pub fn merge(&mut self, other: &Self) {
        if other.n == 0 {
            return;
        }
        self.min = if self.n == 0 { other.min } else { self.min.min(other.min) };
        self.max = self.max.max(other.max);
        self.n += other.n;
        self.immediate += other.immediate;
        for (bucket, n) in &other.buckets {
            *self.buckets.entry(*bucket).or_default() += n;
        }
    }

    /// Labels counted.
    #[must_use]
    pub fn n(&self) -> u64 {
        self.n
    }

    /// The shortest delay, `None` without labels.
    #[must_use]
    pub fn min(&self) -> Option<Duration> {
        (self.n > 0).then_some(self.min)
    }

    /// The longest delay, `None` without labels.
    #[must_use]
    pub fn max(&self) -> Option<Duration> {
        (self.n > 0).then_some(self.max)
    }

    /// The median delay, within 2.5 %; `None` without labels.
    #[must_use]
    pub fn median(&self) -> Option<Duration> {
        self.quantile(0.5)
    }

    /// The delay that a share `q` of the labels does not exceed, within 2.5 %; `None` without labels or for a `q`
    /// outside [0, 1].
    #[must_use]
    pub fn quantile(&self, q: f64) -> Option<Duration> {
        if self.n == 0 || !(0.0..=1.0).contains(&q) {
            return None;
        }
        let rank = ((q * self.n as f64).ceil() as u64).max(1);
        let mut seen = self.immediate;
        if seen >= rank {
            return Some(Duration::ZERO);
        }
        for (bucket, n) in &self.buckets {
            seen += n;
            if seen >= rank {
                let middle = GROWTH.powf(f64::from(*bucket) + 0.5);
                let middle = Duration::try_from_secs_f64(middle).unwrap_or(self.max);
                return Some(middle.clamp(self.min, self.max));
            }
        }
        Some(self.max)
    }
}

/// Options of a [`LabelJoiner`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct LabelJoinerBuilder {
    horizon: Duration,
    capacity: usize,
}

impl LabelJoinerBuilder {
    /// How long a prediction waits for its label, and a label for its correction (default 30 days).
    pub fn horizon(mut self, horizon: Duration) -> Self {
        self.horizon = horizon;
        self
    }

    /// Predictions kept at most, at least 1 (default 1,000,000); the oldest goes first.
    pub fn capacity(mut self, rows: usize) -> Self {
        self.capacity = rows;
        self
    }

    /// Makes the joiner.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] for a horizon of zero or beyond 1,000 years, or a capacity of zero.
    pub fn build(self) -> Result<LabelJoiner> {
        if self.horizon.is_zero() || self.horizon > LONGEST {
            return Err(Error::invalid("horizon", format!("must lie in (0, 1000 years], got {:?}", self.horizon)));
        }
        if self.capacity == 0 {
            return Err(Error::invalid("capacity", "must be at least 1"));
        }
        Ok(LabelJoiner {
            horizon: self.horizon,
            capacity: self.capacity,
            stats: LabelStats::default(),
            delays: LabelDelays::default(),
            rows: BTreeMap::new(),
            times: HashMap::new(),
            pending: BTreeSet::new(),
        })
    }
}

const LONGEST: Duration = Duration::from_secs(1_000 * 365 * 86_400);

/// Joins late labels to predictions by [`PredictionId`]; see the [module](self).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(into = "Stored", try_from = "Stored")]
pub struct LabelJoiner {
    horizon: Duration,
    capacity: usize,
    stats: LabelStats,
    delays: LabelDelays,
    rows: BTreeMap<(Timestamp, PredictionId), Row>,
    /// When each known prediction was made.
    times: HashMap<PredictionId, Timestamp>,
    /// The keys of `rows` that have no label.
    pending: BTreeSet<(Timestamp, PredictionId)>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Row {
    score: f64,
    version: Option<u64>,
    label: Option<(f64, Timestamp)>,
}

impl Row {
    fn forgotten(self, (predicted_at, id): (Timestamp, PredictionId)) -> Forgotten {
        let Self { score, version, label } = self;
        Forgotten { id, predicted_at, score, label: label.map(|(label, _)| label), version }
    }
}

/// A row that is remembered without a score has none here: NaN has no JSON form.
type StoredRow = (PredictionId, Timestamp, Option<f64>, Option<u64>, Option<(f64, Timestamp)>);

/// What is stored: the indexes are made again.
#[derive(Serialize, Deserialize)]
struct Stored {
    horizon: Duration,
    capacity: usize,
    stats: LabelStats,
    delays: LabelDelays,
    rows: Vec<StoredRow>,
}

impl From<LabelJoiner> for Stored {
    fn from(joiner: LabelJoiner) -> Self {
        let LabelJoiner { horizon, capacity, stats, delays, rows, .. } = joiner;
        let rows = rows.into_iter().map(|((at, id), row)| {
            let score = row.score.is_finite().then_some(row.score);
            (id, at, score, row.version, row.label)
        });
        let rows = rows.collect();
        Self { horizon, capacity, stats, delays, rows }
    }
}

impl TryFrom<Stored> for LabelJoiner {
    type Error = Error;

    fn try_from(stored: Stored) -> Result<Self> {
        let builder = LabelJoinerBuilder { horizon: stored.horizon, capacity: stored.capacity };
        let mut joiner = builder.build()?;
        for (id, at, score, version, label) in stored.rows {
            if let Some(score) = score {
                check_finite("score", score)?;
            }
            if joiner.times.insert(id, at).is_some() {
                return Err(Error::invalid("rows", format!("prediction {id} is there twice")));
            }
            if label.is_none() && score.is_some() {
                joiner.pending.insert((at, id));
            }
            joiner.rows.insert((at, id), Row { score: score.unwrap_or(f64::NAN), version, label });
        }
        joiner.stats = LabelStats { pending: joiner.pending.len() as u64, ..stored.stats };
        joiner.delays = stored.delays;
        Ok(joiner)
    }
}

impl LabelJoiner {
    /// Options with their defaults; finish with [`LabelJoinerBuilder::build`].
    pub fn builder() -> LabelJoinerBuilder {
        LabelJoinerBuilder { horizon: Duration::from_secs(30 * 86_400), capacity: 1_000_000 }
    }

    /// Takes in a prediction made at `at`. An id that is known already changes nothing.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if `score` is not finite; nothing is taken in then.
    pub fn predicted(&mut self, id: PredictionId, at: Timestamp, score: f64) -> Result<Accepted> {
        self.insert(id, at, score, None)
    }

    /// As [`predicted`](Self::predicted), with the version that made the prediction.
    ///
    /// # Errors
    /// Those of [`predicted`](Self::predicted).
    pub fn predicted_by(&mut self, version: u64, id: PredictionId, at: Timestamp, score: f64) -> Result<Accepted> {
        self.insert(id, at, score, Some(version))
    }

    fn insert(&mut self, id: PredictionId, at: Timestamp, score: f64, version: Option<u64>) -> Result<Accepted> {
        check_finite("score", score)?;
        if self.times.contains_key(&id) {
            self.stats.repeated += 1;
            return Ok(Accepted { new: false, forgotten: None });
        }
        let forgotten = self.make_room();
        self.times.insert(id, at);
        self.pending.insert((at, id));
        self.rows.insert((at, id), Row { score, version, label: None });
        self.stats.predicted += 1;
        self.stats.pending += 1;
        Ok(Accepted { new: true, forgotten })
    }

    /// Remembers an id whose prediction has no score, until the horizon or the capacity forgets it: such a row waits for no
    /// label, and is counted nowhere.
    #[cfg(feature = "alerts")]
    pub(crate) fn remember(&mut self, version: u64, id: PredictionId, at: Timestamp) -> Option<Forgotten> {
        if self.times.contains_key(&id) {
            return None;
        }
        let forgotten = self.make_room();
        self.times.insert(id, at);
        self.rows.insert((at, id), Row { score: f64::NAN, version: Some(version), label: None });
        forgotten
    }

    /// Joins a label that came at `at`: a number, or a `bool` for two classes.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if `label` is not finite; nothing is joined or counted then.
    pub fn label(&mut self, id: PredictionId, label: impl Into<f64>, at: Timestamp) -> Result<LabelOutcome> {
        let label = label.into();
        check_finite("label", label)?;
        let key = self.times.get(&id).map(|predicted_at| (*predicted_at, id));
        let row = key.and_then(|key| self.rows.get_mut(&key)).filter(|row| row.score.is_finite());
        let (Some(key), Some(row)) = (key, row) else {
            self.stats.unknown += 1;
            return Ok(LabelOutcome::Unknown);
        };
        let predicted_at = key.0;
        let previous = row.label.map(|(label, _)| label);
        if previous == Some(label) {
            self.stats.duplicate += 1;
            return Ok(LabelOutcome::Duplicate);
        }
        row.label = Some((label, at));
        let joined = Joined { id, predicted_at, labelled_at: at, score: row.score, label, version: row.version };
        if let Some(previous) = previous {
            self.stats.corrected += 1;
            return Ok(LabelOutcome::Corrected { row: joined, previous });
        }
        self.pending.remove(&key);
        self.stats.pending -= 1;
        self.stats.labelled += 1;
        self.delays.add(joined.delay());
        Ok(LabelOutcome::Joined(joined))
    }

    /// Forgets the predictions made before `now - horizon`, oldest first, and hands them out.
    pub fn advance(&mut self, now: Timestamp) -> Vec<Forgotten> {
        // A horizon that reaches back beyond the calendar forgets nothing.
        let Some(until) = now.checked_sub_signed(crate::time::delta(self.horizon)) else { return Vec::new() };
        let mut forgotten = Vec::new();
        while self.rows.first_key_value().is_some_and(|((at, _), _)| *at < until) {
            let Some(row) = self.forget_oldest() else { break };
            if row.waited() {
                self.stats.expired += 1;
            }
            forgotten.push(row);
        }
        forgotten
    }

    fn make_room(&mut self) -> Option<Forgotten> {
        let forgotten = if self.rows.len() >= self.capacity { self.forget_oldest() } else { None };
        if forgotten.as_ref().is_some_and(Forgotten::waited) {
            self.stats.evicted += 1;
        }
        forgotten
    }

    fn forget_oldest(&mut self) -> Option<Forgotten> {
        let (key, row) = self.rows.pop_first()?;
        self.times.remove(&key.1);
        if self.pending.remove(&key) {
            self.stats.pending -= 1;
        }
        Some(row.forgotten(key))
    }

    /// The labelled predictions made in `from..until` that are still known, oldest first.
    pub fn labelled(&self, from: Timestamp, until: Timestamp) -> impl Iterator<Item = Joined> + '_ {
        // A range from the end to the beginning would panic.
        let ends = (from < until).then(|| (first_key(from), first_key(until)));
        ends.into_iter().flat_map(|(from, until)| self.rows.range(from..until)).filter_map(
            |(&(predicted_at, id), row)| {
                let (label, labelled_at) = row.label?;
                Some(Joined { id, predicted_at, labelled_at, score: row.score, label, version: row.version })
            },
        )
    }

    /// Whether the prediction is known.
    #[must_use]
    pub fn knows(&self, id: PredictionId) -> bool {
        self.times.contains_key(&id)
    }

    /// Counts so far.
    #[must_use]
    pub fn stats(&self) -> LabelStats {
        self.stats
    }

    /// How long labels took.
    #[must_use]
    pub fn delays(&self) -> &LabelDelays {
        &self.delays
    }

    /// The time of the oldest prediction that still waits: all before it are labelled or given up. `None` if none waits.
    #[must_use]
    pub fn watermark(&self) -> Option<Timestamp> {
        self.pending.first().map(|(at, _)| *at)
    }

    /// How long a prediction waits for its label.
    #[must_use]
    pub fn horizon(&self) -> Duration {
        self.horizon
    }
}

/// Not above any key of that time: the default UUID is all zeros.
fn first_key(at: Timestamp) -> (Timestamp, PredictionId) {
    (at, PredictionId::from_uuid(Default::default()))
}

fn check_finite(what: &str, value: f64) -> Result<()> {
    if value.is_finite() {
        return Ok(());
    }
    Err(Error::invalid(what, format!("must be finite, got {value}")))
}

//! A monitor for one deployed version: drift by window, quality as labels come, change in the errors.
//!
//! ```
//! use std::{sync::Arc, time::Duration};
//! use arrow::array::{ArrayRef, Float64Array, RecordBatch};
//! use mlops_core::inference::InferenceRecord;
//! use mlops_core::{PredictionId, Timestamp};
//! use mlops_monitor::{Monitor, ReferenceProfile};
//!
//! // At training time; in a service the profile comes with the model package.
//! let price: ArrayRef = Arc::new(Float64Array::from(vec![0.05, 0.07, 0.06, 0.09]));
//! let prob_up: ArrayRef = Arc::new(Float64Array::from(vec![0.2, 0.8, 0.4, 0.9]));
//! let inputs = RecordBatch::try_from_iter([("price", price)])?;
//! let outputs = RecordBatch::try_from_iter([("prob_up", prob_up)])?;
//! let profile = ReferenceProfile::fit(&inputs, &outputs)?;
//!
//! let mut monitor = Monitor::builder("elec2", profile).window(Duration::from_secs(7 * 86_400)).build()?;
//!
//! // Every answer that was given ...
//! let at: Timestamp = "1997-01-06T12:00:00Z".parse()?;
//! let id = PredictionId::derived(at, b"row 1");
//! monitor.observe(&InferenceRecord {
//!     ids: vec![id],
//!     at,
//!     deployment: "prices".into(),
//!     model: "elec2".into(),
//!     version: 1,
//!     arm: "champion".into(),
//!     key: "customer 1".into(),
//!     latency: Duration::from_micros(40),
//!     inputs: inputs.slice(0, 1),
//!     outputs: outputs.slice(1, 1),
//! })?;
//! // ... every label when it comes ...
//! monitor.label(id, true, at + Duration::from_secs(86_400))?;
//! // ... and now and then the time: windows close, and alerts come out.
//! let alerts = monitor.advance(at + Duration::from_secs(7 * 86_400))?;
//! assert!(alerts.is_empty());
//! let report = monitor.reports().next().expect("one window has closed");
//! assert_eq!((report.rows, report.accuracy().map(|a| a.value)), (1, Some(1.0)));
//!
//! // The whole state, to go on from after a restart.
//! let stored = serde_json::to_string(&monitor)?;
//! assert_eq!(serde_json::from_str::<Monitor>(&stored)?, monitor);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Rules
//! - **Event time.** Windows tumble over the time of the request, and quality belongs to the window of the prediction,
//!   whenever its label comes. No clock is read.
//! - **Given answers only.** Shadow answers and other models' records are counted and otherwise ignored.
//! - **One version.** A monitor that knows its version counts the answers of others (a canary's) and leaves them out;
//!   their labels join, and go no further. Put a monitor of its own beside it for a canary.
//! - **Each prediction once.** A prediction id that is known already, with a usable score or without, is counted as
//!   repeated and left out. It is known until the label horizon or the joiner's capacity forgets it.
//! - **Missing values** are counted in every score and never make mass; a row without a usable score counts for the
//!   features only.
//! - **Restart.** The whole state is serde data: stored after any call and loaded again the monitor goes on identically,
//!   as long as the format keeps every bit of an `f64` (as `serde_json` does with the feature this crate turns on).
//! - **Bounded.** An open window takes `columns · (8 · bins + 16 · sample_rows)` bytes and a little more, whatever the
//!   traffic: 3 MB for 100 columns and 2,000 rows; of texts up to 512 categories each. Usually one is open, never more than [`MAX_OPEN_WINDOWS`]. Add about
//!   250 bytes for each prediction within the label horizon, and about 1 kB a column for each report kept.
//!
//! # What alerts
//! | rule | when | severity |
//! | --- | --- | --- |
//! | `data_drift` | a window closes, and features drifted according to the [`DriftPolicy`] | warning; critical from a share on |
//! | `prediction_drift` | a window closes, and the score column drifted | warning |
//! | `missing_values` | a window closes, and a column lacks more values than in training, by the policy's `missing_at` | warning |
//! | `error_rate.NAME` | the detector of that name sees a change in the stream of errors, as labels come | warning; info if errors fell |
//! | `accuracy` | the labels of a window show its accuracy to be below the floor, once for each window | critical |
//!
//! The subject of an alert is `MODEL vN` where the version is known, so that in one [`Alerter`](crate::Alerter) the
//! monitors of a champion and of its canary do not silence each other, and `MODEL` otherwise.
//!
//! The accuracy of a window is tested anew with each of its labels, by betting ([`BettingTest`](crate::BettingTest)), so
//! that the alert may come as soon as there is evidence enough and still is false for one window in 1,000 at most
//! ([`ACCURACY_ALPHA`]). Its time is that of the label which settled it.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::time::Duration;

use arrow::array::{ArrayRef, RecordBatch, UInt64Array};
use arrow::compute::take;
use chrono::TimeDelta;
use mlops_core::inference::{InferenceRecord, SHADOW};
use mlops_core::{Finding, Measurement, PredictionId, Timestamp, Verdict};
use serde::{Deserialize, Serialize};

use crate::alert::{Alert, Severity};
use crate::change::{Adwin, ChangeDetector, Ddm, Direction, PageHinkley, State};
use crate::drift::profiles::{compare_categories, sample_distance, score_bins};
use crate::drift::{BinCounts, Choice, Family, Method};
use crate::labels::{Joined, LabelDelays, LabelJoinerBuilder, LabelStats};
use crate::metrics::{DEFAULT_CONFIDENCE, wilson};
use crate::profile::{ColumnProfile, Profile, numbers_of, scramble};
use crate::sequential::{share, share_below};
use crate::time::{after, check_duration, delta};
use crate::{BinaryPerformance, DriftScore, Error, Estimate, LabelJoiner, LabelOutcome, ReferenceProfile, Result};

/// Windows that are open at one time at most; a row that would open another is counted as refused.
pub const MAX_OPEN_WINDOWS: usize = 64;

/// Chance, at most, that a window whose answers are right as often as the accuracy floor asks for raises an `accuracy`
/// alert, however often its labels are looked at.
pub const ACCURACY_ALPHA: f64 = 0.001;

/// Thresholds that the scores of a method name that does not decide.
const PSI_AT: f64 = 0.2;
const DISTANCE_AT: f64 = 0.1;
/// Rows from which the interval of a PSI is given, as by [`PsiDetector`](crate::PsiDetector).
const MIN_ROWS: u64 = 30;

/// When a column counts as drifted, and when that is worth an alert.
///
/// A method that is on must show that the effect is *above* its threshold, with its whole interval: significance alone,
/// which any change reaches with rows enough, is not drift. With both methods on, both must agree. Numbers are compared by
/// PSI over quantile bins and by their Kolmogorov–Smirnov distance, texts and booleans by PSI over categories and by the
/// largest difference of a category's share.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DriftPolicy {
    psi_at: Option<f64>,
    distance_at: Option<f64>,
    min_rows: u64,
    min_features: usize,
    critical_share: f64,
    consecutive: u32,
    predictions: bool,
    missing_at: Option<f64>,
}

impl Default for DriftPolicy {
    fn default() -> Self {
        Self {
            psi_at: Some(0.2),
            distance_at: Some(0.1),
            min_rows: 100,
            min_features: 1,
            critical_share: 0.5,
            consecutive: 1,
            predictions: true,
            missing_at: Some(0.1),
        }
    }
}

impl DriftPolicy {
    /// PSI, in nats above its noise, from which a column has drifted (default 0.2); `None` leaves the method out.
    #[must_use]
    pub fn psi_at(mut self, alert_at: impl Into<Option<f64>>) -> Self {
        self.psi_at = alert_at.into();
        self
    }

    /// Distance, in (0, 1], from which a column has drifted (default 0.1); `None` leaves it out.
    #[must_use]
    pub fn distance_at(mut self, alert_at: impl Into<Option<f64>>) -> Self {
        self.distance_at = alert_at.into();
        self
    }

    /// Rows below which a window gives no drift alert (default 100).
    #[must_use]
    pub fn min_rows(mut self, rows: u64) -> Self {
        self.min_rows = rows;
        self
    }

    /// Drifted features that make an alert, at least 1 (default 1).
    #[must_use]
    pub fn min_features(mut self, features: usize) -> Self {
        self.min_features = features;
        self
    }

    /// Share of drifted features, in (0, 1], from which the alert is critical and is raised in any case (default 0.5).
    #[must_use]
    pub fn critical_share(mut self, share: f64) -> Self {
        self.critical_share = share;
        self
    }

    /// Windows in a row that a column must have drifted in, at least 1 (default 1).
    #[must_use]
    pub fn consecutive(mut self, windows: u32) -> Self {
        self.consecutive = windows;
        self
    }

    /// Whether drift of the score column, and answers without a score, raise an alert (default `true`).
    #[must_use]
    pub fn predictions(mut self, watched: bool) -> Self {
        self.predictions = watched;
        self
    }

    /// Share of rows without a value, in (0, 1] and above the column's share in the profile, from which values are
    /// missing (default 0.1: from 5 % in training, 15 % are too many); `None` leaves the rule out. As with drift, the
    /// whole 95 % interval of the window's share must lie above, in as many windows in a row.
    #[must_use]
    pub fn missing_at(mut self, above: impl Into<Option<f64>>) -> Self {
        self.missing_at = above.into();
        self
    }

    fn check(&self) -> Result<()> {
        let positive = |what, value: Option<f64>, most: f64| match value {
            Some(v) if !(v > 0.0 && v <= most) => {
                Err(Error::invalid(what, format!("must lie in (0, {most}], got {v}")))
            }
            _ => Ok(()),
        };
        positive("psi_at", self.psi_at, f64::MAX)?;
        positive("distance_at", self.distance_at, 1.0)?;
        positive("missing_at", self.missing_at, 1.0)?;
        positive("critical_share", Some(self.critical_share), 1.0)?;
        if self.psi_at.is_none() && self.distance_at.is_none() {
            return Err(Error::invalid("policy", "needs at least one of `psi_at` and `distance_at`"));
        }
        if self.min_features == 0 || self.consecutive == 0 {
            return Err(Error::invalid("policy", "`min_features` and `consecutive` must be at least 1"));
        }
        Ok(())
    }

    /// `Fail` if all methods that are on say so, `Pass` if one of them does, else `Inconclusive`.
    fn verdict(&self, psi: &DriftScore, distance: &DriftScore) -> Verdict {
        let psi = self.psi_at.map(|alert_at| psi.effect.verdict(alert_at));
        let distance = self.distance_at.map(|alert_at| distance.effect.verdict(alert_at));
        let mut on = psi.into_iter().chain(distance);
        if on.clone().any(Verdict::is_pass) {
            Verdict::Pass
        } else if on.all(|verdict| verdict == Verdict::Fail) {
            Verdict::Fail
        } else {
            Verdict::Inconclusive
        }
    }
}

/// A change detector on the stream of errors (1: the answer was wrong, 0: it was right), in the order of the labels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ErrorDetector {
    /// Adaptive windowing.
    Adwin(Adwin),
    /// Drift detection method.
    Ddm(Ddm),
    /// Page–Hinkley.
    PageHinkley(PageHinkley),
}

impl ErrorDetector {
    /// ADWIN with its default options, DDM from 100 rows on and at four deviations, and Page–Hinkley upwards that
    /// tolerates a rise by 0.03.
    ///
    /// The usual options of the last two are made for experiments of some thousand rows. False alarms in 40 simulated
    /// years of half-hourly answers at a steady error rate, with the usual options and with these:
    ///
    /// | error rate | ADWIN | DDM | Page–Hinkley |
    /// | --- | --- | --- | --- |
    /// | 2 % | 0 | 143, now 17 | 0, now 0 |
    /// | 10 % | 0 | 30, now 2 | 5, now 0 |
    /// | 20 % | 1 | 8, now 1 | 13, now 0 |
    /// | 40 % | 0 | 9, now 0 | 36, now 3 |
    ///
    /// # Errors
    /// None in practice: the defaults are in range.
    pub fn defaults() -> Result<Vec<Self>> {
        Ok(vec![
            Adwin::builder().build()?.into(),
            Ddm::builder().min_rows(100).change_at(4.0).build()?.into(),
            PageHinkley::builder().direction(Direction::Up).delta(0.03).build()?.into(),
        ])
    }

    /// The detector itself.
    #[must_use]
    pub fn as_detector(&self) -> &dyn ChangeDetector {
        match self {
            Self::Adwin(detector) => detector,
            Self::Ddm(detector) => detector,
            Self::PageHinkley(detector) => detector,
        }
    }

    fn inner_mut(&mut self) -> &mut dyn ChangeDetector {
        match self {
            Self::Adwin(detector) => detector,
            Self::Ddm(detector) => detector,
            Self::PageHinkley(detector) => detector,
        }
    }
}

impl From<Adwin> for ErrorDetector {
    fn from(detector: Adwin) -> Self {
        Self::Adwin(detector)
    }
}

impl From<Ddm> for ErrorDetector {
    fn from(detector: Ddm) -> Self {
        Self::Ddm(detector)
    }
}

impl From<PageHinkley> for ErrorDetector {
    fn from(detector: PageHinkley) -> Self {
        Self::PageHinkley(detector)
    }
}

/// Options of a [`Monitor`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct MonitorBuilder {
    model: String,
    profile: ReferenceProfile,
    version: Option<u64>,
    score_column: Option<String>,
    threshold: f64,
    detectors: Option<Vec<ErrorDetector>>,
    labels: LabelJoinerBuilder,
    options: Options,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Options {
    window: Duration,
    origin: Timestamp,
    lateness: Duration,
    policy: DriftPolicy,
    accuracy_floor: Option<f64>,
    sample_rows: usize,
    keep_reports: usize,
}

impl MonitorBuilder {
    /// The version to watch (default: every version's answers, as one).
    pub fn version(mut self, version: u64) -> Self {
        self.version = Some(version);
        self
    }

    /// The output column with the probability of the positive class (default: the only profiled output).
    pub fn score_column(mut self, column: impl Into<String>) -> Self {
        self.score_column = Some(column.into());
        self
    }

    /// Probability from which the answer counts as positive, in [0, 1] (default 0.5).
    pub fn threshold(mut self, threshold: f64) -> Self {
        self.threshold = threshold;
        self
    }

    /// Length of a window, at least a second (default 7 days).
    pub fn window(mut self, window: Duration) -> Self {
        self.options.window = window;
        self
    }

    /// A time at which a window starts (default 5 January 1970, a Monday, 0:00 UTC: days start at midnight, weeks on
    /// Mondays).
    pub fn aligned_to(mut self, origin: Timestamp) -> Self {
        self.options.origin = origin;
        self
    }

    /// How long after its end a window still takes rows (default zero).
    pub fn lateness(mut self, lateness: Duration) -> Self {
        self.options.lateness = lateness;
        self
    }

    /// When drift is worth an alert.
    pub fn policy(mut self, policy: DriftPolicy) -> Self {
        self.options.policy = policy;
        self
    }

    /// The detectors on the stream of errors (default [`ErrorDetector::defaults`]; none is possible).
    pub fn error_detectors<D: Into<ErrorDetector>>(mut self, detectors: impl IntoIterator<Item = D>) -> Self {
        self.detectors = Some(detectors.into_iter().map(Into::into).collect());
        self
    }

    /// Alerts when a window's accuracy is shown to be below this, in [1e-9, 1 - 1e-9] (default: no floor).
    ///
    /// Every label of the window counts at once, before the window closes or after; see [`ACCURACY_ALPHA`]. At a floor
    /// of 0.85, about 25 labels show an accuracy of 0.5, 250 one of 0.75, and 850 one of 0.8 (medians).
    pub fn accuracy_floor(mut self, floor: f64) -> Self {
        self.options.accuracy_floor = Some(floor);
        self
    }

    /// How long labels are waited for, and for how many predictions.
    pub fn labels(mut self, labels: LabelJoinerBuilder) -> Self {
        self.labels = labels;
        self
    }

    /// Rows of a window kept for Kolmogorov–Smirnov, 1 to 1,000,000 (default 2,000). Which ones depends on their ids
    /// alone, so shards that saw a part each would keep the same rows.
    pub fn sample_rows(mut self, rows: usize) -> Self {
        self.options.sample_rows = rows;
        self
    }

    /// Closed windows kept, at least 1 (default 520); the oldest goes first.
    pub fn keep_reports(mut self, windows: usize) -> Self {
        self.options.keep_reports = windows;
        self
    }

    /// Makes the monitor.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] naming the first option out of range; [`Error::Column`] if the profile has no such score
    /// column, or several outputs and none was named.
    pub fn build(self) -> Result<Monitor> {
        let options = self.options;
        if options.window < Duration::from_secs(1) {
            return Err(Error::invalid("window", format!("must be at least a second, got {:?}", options.window)));
        }
        check_duration("window", options.window)?;
        check_duration("lateness", options.lateness)?;
        options.policy.check()?;
        if let Some(floor) = options.accuracy_floor.filter(|floor| !(1e-9..=1.0 - 1e-9).contains(floor)) {
            return Err(Error::invalid("accuracy_floor", format!("must lie in [1e-9, 1 - 1e-9], got {floor}")));
        }
        if !(1..=1_000_000).contains(&options.sample_rows) {
            return Err(Error::invalid("sample_rows", format!("must lie in 1..=1000000, got {}", options.sample_rows)));
        }
        if options.keep_reports == 0 {
            return Err(Error::invalid("keep_reports", "must be at least 1"));
        }
        let outputs: Vec<&ColumnProfile> = watched(self.profile.outputs()).filter(|o| o.numbers().is_some()).collect();
        let score_column = match (self.score_column, outputs.as_slice()) {
            (Some(name), _) => name,
            (None, [only]) => only.name().to_owned(),
            (None, outputs) => {
                let names: Vec<&str> = outputs.iter().map(|output| output.name()).collect();
                return Err(Error::column("score", format!("name one of the profiled outputs {names:?}")));
            }
        };
        score_profile(&self.profile, &score_column)?;
        let detectors = match self.detectors {
            Some(detectors) => detectors,
            None => ErrorDetector::defaults()?,
        };
        Ok(Monitor {
            model: self.model,
            version: self.version,
            score_column,
            options,
            profile: self.profile,
            labels: self.labels.build()?,
            no_rows: BinaryPerformance::with_threshold(self.threshold)?,
            fresh_detectors: detectors.clone(),
            detectors,
            recent_errors: RecentErrors::default(),
            since: None,
            open: BTreeMap::new(),
            closed_until: None,
            reports: VecDeque::new(),
            streaks: BTreeMap::new(),
            outbox: Vec::new(),
            stats: MonitorStats::default(),
        })
    }
}

fn score_profile<'a>(profile: &'a ReferenceProfile, column: &str) -> Result<&'a ColumnProfile> {
    let found = watched(profile.outputs()).find(|output| output.name() == column && output.numbers().is_some());
    found.ok_or_else(|| Error::column(column, "is not among the profiled outputs that hold numbers"))
}

/// The columns that live values can be compared with: those with a value, dates and bytes apart.
fn watched(profile: &Profile) -> impl Iterator<Item = &ColumnProfile> {
    profile.columns().iter().filter(|column| {
        let kept = matches!(Family::of(column), Some(Family::Numbers | Family::Categories));
        kept && column.rows() > column.missing()
    })
}

/// Rows since the monitor was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MonitorStats {
    /// Rows that entered a window.
    pub rows: u64,
    /// Rows whose window had closed; their labels still count.
    pub late: u64,
    /// Rows that would have opened too many windows; their labels still count.
    pub refused: u64,
    /// Rows whose prediction id was known already.
    pub repeated: u64,
    /// Rows whose score is no probability; they cannot be judged by a label.
    pub without_score: u64,
    /// Rows answered by another version.
    pub other_version: u64,
    /// Rows of a shadow, or of another model.
    pub ignored: u64,
}

/// Drift of one column over one window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ColumnDrift {
    /// The column.
    pub column: String,
    /// By population stability index, over all rows.
    pub psi: DriftScore,
    /// By distance: Kolmogorov–Smirnov over the window's sample of numbers, the largest difference of the share of a
    /// category over all rows.
    pub distance: DriftScore,
    /// The window's rows without a value. They are a category of their own where there are categories, and nowhere else.
    pub missing: u64,
    /// The window's rows.
    pub rows: u64,
    /// What the [`DriftPolicy`] makes of the two: `Fail` is drift.
    pub verdict: Verdict,
}

impl ColumnDrift {
    fn finding(&self) -> Finding {
        let measure = |name: &str, score: &DriftScore| {
            let measurement = Measurement::new(name, score.effect.value).with_n(score.n_live);
            match (score.effect.low, score.effect.high) {
                (Some(low), Some(high)) => measurement.with_interval(low, high),
                _ => measurement,
            }
        };
        let Self { column, psi, distance, .. } = self;
        let (far, name) = (distance.effect.value, &distance.method);
        let summary = format!("{column}: psi {:.3}, {name} {far:.3}", psi.effect.value);
        Finding::new(format!("drift.{column}"), self.verdict, summary)
            .with(measure("psi", psi))
            .with(measure(name, distance))
    }
}

/// What was seen of the traffic in `from..until`.
///
/// Drift is settled when the window closes; quality goes on as labels come, until the label horizon has passed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct WindowReport {
    /// The version watched, if the monitor knew it.
    pub version: Option<u64>,
    /// Start of the window.
    pub from: Timestamp,
    /// End of the window, itself excluded. Earlier than planned if a new version took over.
    pub until: Timestamp,
    /// Rows in the window.
    pub rows: u64,
    /// Drift of each profiled input that has values to compare, dates apart.
    pub features: Vec<ColumnDrift>,
    /// Drift of the score column.
    pub prediction: ColumnDrift,
    quality: Quality,
}

impl WindowReport {
    /// Quality on the rows labelled so far.
    #[must_use]
    pub fn performance(&self) -> &BinaryPerformance {
        &self.quality.total
    }

    /// Accuracy on the rows labelled so far; `None` if there are none.
    #[must_use]
    pub fn accuracy(&self) -> Option<Estimate> {
        self.quality.total.accuracy()
    }

    /// Brier score on the rows labelled so far; `None` if there are none.
    #[must_use]
    pub fn brier(&self) -> Option<Estimate> {
        self.quality.total.brier()
    }

    /// The features that drifted, the largest PSI first.
    #[must_use]
    pub fn drifted(&self) -> Vec<&ColumnDrift> {
        let mut drifted: Vec<_> = self.features.iter().filter(|f| f.verdict == Verdict::Fail).collect();
        drifted.sort_by(|a, b| b.psi.effect.value.total_cmp(&a.psi.effect.value));
        drifted
    }
}

/// Quality of one window's predictions. A corrected label takes a row out of the sums, which cannot be done in place:
/// the rows that are still known are added up anew, on top of those that are not.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Quality {
    total: BinaryPerformance,
    /// The part of `total` whose rows the joiner has forgotten.
    forgotten: BinaryPerformance,
    /// Whether its accuracy has raised an alert.
    alerted: bool,
}

impl Quality {
    /// Without rows, given an accumulator without rows.
    fn of(no_rows: &BinaryPerformance) -> Self {
        Self { total: no_rows.clone(), forgotten: no_rows.clone(), alerted: false }
    }
}

/// Where a prediction's quality is kept.
struct WindowOf<'a> {
    version: Option<u64>,
    from: Timestamp,
    until: Timestamp,
    quality: &'a mut Quality,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Window {
    until: Timestamp,
    rows: u64,
    /// For each watched input, then for the score.
    seen: Vec<Seen>,
    /// Of numbers alone.
    sample: Sample,
    quality: Quality,
}

/// What a window has seen of one column.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Seen {
    Numbers { edges: Vec<f64>, counts: BinCounts },
    Categories(Box<ColumnProfile>),
}

impl Seen {
    fn new(profile: &ColumnProfile) -> Self {
        match profile.numbers() {
            Some(numbers) => {
                let edges = numbers.bin_edges();
                Self::Numbers { counts: BinCounts::of(&edges, &[]), edges }
            }
            None => Self::Categories(Box::new(profile.fresh())),
        }
    }

    fn add(&mut self, values: &Values) -> Result<()> {
        match (self, values) {
            (Self::Numbers { edges, counts }, Values::Numbers(values)) => counts.merge(&BinCounts::of(edges, values)),
            (Self::Categories(seen), Values::Other(array)) => seen.update(array),
            _ => Err(Error::invalid("window", "a stored state does not fit its profile")),
        }
    }
}

/// The values of a column in one record.
enum Values {
    Numbers(Vec<f64>),
    Other(ArrayRef),
}

impl Values {
    fn of(batch: &RecordBatch, profile: &ColumnProfile) -> Result<Self> {
        if profile.numbers().is_some() {
            return column(batch, profile.name()).map(Self::Numbers);
        }
        let array = batch.column_by_name(profile.name()).ok_or_else(|| Error::column(profile.name(), "is missing"))?;
        profile.check_type(array.data_type())?;
        Ok(Self::Other(ArrayRef::clone(array)))
    }

    fn rows(&self, rows: &[usize]) -> Result<Self> {
        Ok(match self {
            Self::Numbers(values) => Self::Numbers(rows.iter().map(|row| values[*row]).collect()),
            Self::Other(array) => {
                let rows = UInt64Array::from_iter_values(rows.iter().map(|row| *row as u64));
                Self::Other(take(array, &rows, None).map_err(|e| Error::invalid("inputs", e.to_string()))?)
            }
        })
    }

    fn numbers(&self) -> Option<&[f64]> {
        match self {
            Self::Numbers(values) => Some(values),
            Self::Other(_) => None,
        }
    }
}

/// The rows whose scrambled ids are lowest: a random sample that does not depend on the order of the rows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(into = "Vec<StoredRow>", from = "Vec<StoredRow>")]
struct Sample(BTreeMap<(u64, PredictionId), Vec<f64>>);

/// A sampled row as it is stored: what is not finite has no JSON form.
type StoredRow = ((u64, PredictionId), Vec<Option<f64>>);

impl From<Sample> for Vec<StoredRow> {
    fn from(sample: Sample) -> Self {
        let known = |values: Vec<f64>| values.into_iter().map(|x| x.is_finite().then_some(x)).collect();
        sample.0.into_iter().map(|(key, values)| (key, known(values))).collect()
    }
}

impl From<Vec<StoredRow>> for Sample {
    fn from(rows: Vec<StoredRow>) -> Self {
        let values = |row: Vec<Option<f64>>| row.into_iter().map(|x| x.unwrap_or(f64::NAN)).collect();
        Self(rows.into_iter().map(|(key, row)| (key, values(row))).collect())
    }
}

impl Sample {
    fn add(&mut self, id: PredictionId, most: usize, row: impl FnOnce() -> Vec<f64>) {
        let (high, low) = id.as_uuid().as_u64_pair();
        let key = (scramble(scramble(high) ^ low), id);
        if self.0.contains_key(&key) {
            return;
        }
        if self.0.len() >= most {
            if self.0.last_key_value().is_some_and(|(last, _)| *last <= key) {
                return;
            }
            self.0.pop_last();
        }
        self.0.insert(key, row());
    }

    fn column(&self, index: usize) -> Vec<f64> {
        self.0.values().map(|row| row.get(index).copied().unwrap_or(f64::NAN)).collect()
    }
}

/// The latest 64 answers, a bit each: set if it was wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct RecentErrors {
    bits: u64,
    n: u32,
}

impl RecentErrors {
    fn add(&mut self, wrong: bool) {
        self.bits = self.bits << 1 | u64::from(wrong);
        self.n = (self.n + 1).min(64);
    }

    fn rate(self) -> f64 {
        f64::from(self.bits.count_ones()) / f64::from(self.n.max(1))
    }
}

/// Watches what one deployed version of a binary classifier sees and answers; see the [module](self).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Monitor {
    model: String,
    version: Option<u64>,
    score_column: String,
    options: Options,
    profile: ReferenceProfile,
    labels: LabelJoiner,
    no_rows: BinaryPerformance,
    fresh_detectors: Vec<ErrorDetector>,
    detectors: Vec<ErrorDetector>,
    recent_errors: RecentErrors,
    /// When the watched version took over; earlier predictions do not reach the detectors.
    since: Option<Timestamp>,
    /// By start.
    open: BTreeMap<Timestamp, Window>,
    closed_until: Option<Timestamp>,
    reports: VecDeque<WindowReport>,
    /// Windows in a row that each column has drifted in.
    streaks: BTreeMap<String, u32>,
    outbox: Vec<Alert>,
    stats: MonitorStats,
}

impl Monitor {
    /// Options with their defaults; finish with [`MonitorBuilder::build`].
    pub fn builder(model: impl Into<String>, profile: ReferenceProfile) -> MonitorBuilder {
        MonitorBuilder {
            model: model.into(),
            profile,
            version: None,
            score_column: None,
            threshold: 0.5,
            detectors: None,
            labels: LabelJoiner::builder(),
            options: Options {
                window: Duration::from_secs(7 * 86_400),
                origin: mlops_core::clock::from_micros(4 * 86_400 * 1_000_000),
                lateness: Duration::ZERO,
                policy: DriftPolicy::default(),
                accuracy_floor: None,
                sample_rows: 2_000,
                keep_reports: 520,
            },
        }
    }

    /// Takes in one answered request. Of another version's, only the score column is read, if there is one.
    ///
    /// # Errors
    /// [`Error::Column`] naming a watched column that is missing or holds something else than in training; [`Error::ShapeMismatch`] if ids,
    /// inputs and outputs differ in length; [`Error::InvalidInput`] for a time that no window can hold. The monitor is
    /// then as before the call.
    pub fn observe(&mut self, record: &InferenceRecord) -> Result<()> {
        let rows = record.ids.len();
        for (what, got) in [("inputs", record.inputs.num_rows()), ("outputs", record.outputs.num_rows())] {
            if got != rows {
                return Err(Error::shape(what, rows, got));
            }
        }
        if *record.arm == *SHADOW || *record.model != *self.model {
            self.stats.ignored += rows as u64;
            return Ok(());
        }
        let score_profile = score_profile(&self.profile, &self.score_column)?;
        if self.version.is_some_and(|version| version != record.version) {
            // Another version may have other columns; its labels join if it has the score.
            let scores = column(&record.outputs, &self.score_column).unwrap_or_else(|_| vec![f64::NAN; rows]);
            let (taken, forgotten) = Self::take_rows(&mut self.labels, &mut self.stats, record, &scores)?;
            self.stats.other_version += taken.len() as u64;
            return forgotten.iter().try_for_each(|row| self.note_forgotten(row));
        }
        let profiles = watched(self.profile.inputs()).map(|p| (p, &record.inputs));
        let profiles: Vec<_> = profiles.chain([(score_profile, &record.outputs)]).collect();
        let mut columns = Vec::with_capacity(profiles.len());
        for (profile, batch) in &profiles {
            columns.push(Values::of(batch, profile)?);
        }
        let (from, until) = self.window_at(record.at)?;
        let scores = columns.last().and_then(Values::numbers).unwrap_or_default();
        let (taken, forgotten) = Self::take_rows(&mut self.labels, &mut self.stats, record, scores)?;
        let new = taken.len() as u64;
        if self.closed_until.is_some_and(|closed| record.at < closed) {
            self.stats.late += new;
        } else if self.open.len() >= MAX_OPEN_WINDOWS && !self.open.contains_key(&from) {
            self.stats.refused += new;
        } else if new > 0 {
            let window = self.open.entry(from).or_insert_with(|| Window {
                until,
                rows: 0,
                seen: profiles.iter().map(|(profile, _)| Seen::new(profile)).collect(),
                sample: Sample::default(),
                quality: Quality::of(&self.no_rows),
            });
            self.stats.rows += new;
            window.rows += new;
            for (seen, values) in window.seen.iter_mut().zip(&columns) {
                if new == rows as u64 {
                    seen.add(values)?;
                } else {
                    seen.add(&values.rows(&taken)?)?;
                }
            }
            for row in taken {
                let values = || columns.iter().filter_map(|column| Some(column.numbers()?[row])).collect();
                window.sample.add(record.ids[row], self.options.sample_rows, values);
            }
        }
        for row in forgotten {
            self.note_forgotten(&row)?;
        }
        Ok(())
    }

    /// The rows of a record whose ids are new, and the predictions that had to make room for them.
    fn take_rows(
        labels: &mut LabelJoiner,
        stats: &mut MonitorStats,
        record: &InferenceRecord,
        scores: &[f64],
    ) -> Result<(Vec<usize>, Vec<crate::labels::Forgotten>)> {
        let mut taken = Vec::with_capacity(scores.len());
        let mut forgotten = Vec::new();
        for (row, (id, score)) in record.ids.iter().zip(scores).enumerate() {
            if labels.knows(*id) {
                stats.repeated += 1;
                continue;
            }
            taken.push(row);
            if (0.0..=1.0).contains(score) {
                forgotten.extend(labels.predicted_by(record.version, *id, record.at, *score)?.forgotten);
            } else {
                stats.without_score += 1;
                forgotten.extend(labels.remember(record.version, *id, record.at));
            }
        }
        Ok((taken, forgotten))
    }

    /// Joins a label (`bool`, or 0 and 1) that came at `at` to its prediction, judges the answer, and feeds the error
    /// detectors. What they make of it comes out of [`advance`](Self::advance).
    ///
    /// A corrected label corrects the quality of its window; the detectors have seen the first one and are not told.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if `label` is neither 0 nor 1; nothing happens then.
    pub fn label(&mut self, id: PredictionId, label: impl Into<f64>, at: Timestamp) -> Result<LabelOutcome> {
        let label = label.into();
        if label != 0.0 && label != 1.0 {
            return Err(Error::invalid("label", format!("must be 0 or 1, got {label}")));
        }
        let outcome = self.labels.label(id, label, at)?;
        match &outcome {
            LabelOutcome::Joined(row) => {
                if let Some(window) = self.window_of(row.predicted_at, row.version) {
                    window.quality.total.update(row.score, row.label == 1.0)?;
                }
                self.check_accuracy(row);
                let current = self.version.is_none() || self.version == row.version;
                if current && self.since.is_none_or(|since| row.predicted_at >= since) {
                    self.judge(row)?;
                }
            }
            LabelOutcome::Corrected { row, .. } => {
                self.recount(row.predicted_at, row.version)?;
                self.check_accuracy(row);
            }
            _ => {}
        }
        Ok(outcome)
    }

    /// Tells the monitor the time: closes the windows that have ended, forgets predictions beyond the label horizon, and
    /// returns the alerts raised since the last call, oldest first.
    ///
    /// Hand the alerts on before the state is stored; after a crash in between they come again, with the same ids.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] if a stored state does not fit its profile.
    pub fn advance(&mut self, now: Timestamp) -> Result<Vec<Alert>> {
        while let Some((from, window)) = self.open.first_key_value() {
            if after(window.until, self.options.lateness) > now {
                break;
            }
            let (from, until) = (*from, window.until);
            self.close(from, until)?;
        }
        for row in self.labels.advance(now) {
            self.note_forgotten(&row)?;
        }
        let mut alerts = std::mem::take(&mut self.outbox);
        alerts.sort_by_key(|alert| alert.at);
        Ok(alerts)
    }

    /// Goes over to another version and its profile at `at`: closes the open windows early, and starts the error
    /// detectors afresh on predictions made from `at` on. Labels for earlier ones still count for their windows.
    ///
    /// An open window that starts at `at` or later is dropped, and its rows count as answered by another version: a row
    /// of the old version that is ahead of its time must not keep the new one's rows out.
    ///
    /// # Errors
    /// [`Error::Column`] if the profile lacks the score column, [`Error::ShapeMismatch`] if a stored state does not fit
    /// its profile; the monitor is then as before the call.
    pub fn reset_for(&mut self, version: u64, profile: ReferenceProfile, at: Timestamp) -> Result<()> {
        score_profile(&profile, &self.score_column)?;
        while let Some((from, window)) = self.open.first_key_value().filter(|(from, _)| **from < at) {
            let (from, until) = (*from, window.until.min(at));
            self.close(from, until)?;
        }
        for window in std::mem::take(&mut self.open).into_values() {
            self.stats.rows = self.stats.rows.saturating_sub(window.rows);
            self.stats.other_version += window.rows;
        }
        self.closed_until = Some(self.closed_until.map_or(at, |closed| closed.max(at)));
        self.since = Some(at);
        self.version = Some(version);
        self.profile = profile;
        self.detectors.clone_from(&self.fresh_detectors);
        self.recent_errors = RecentErrors::default();
        self.streaks.clear();
        Ok(())
    }

    /// The closed windows that are kept, oldest first.
    pub fn reports(&self) -> impl DoubleEndedIterator<Item = &WindowReport> + ExactSizeIterator {
        self.reports.iter()
    }

    /// The model's name.
    #[must_use]
    pub fn model(&self) -> &str {
        &self.model
    }

    /// The version watched, if it is known.
    #[must_use]
    pub fn version(&self) -> Option<u64> {
        self.version
    }

    /// What live data is compared with.
    #[must_use]
    pub fn profile(&self) -> &ReferenceProfile {
        &self.profile
    }

    /// The detectors on the stream of errors.
    #[must_use]
    pub fn error_detectors(&self) -> &[ErrorDetector] {
        &self.detectors
    }

    /// Counts of rows so far.
    #[must_use]
    pub fn stats(&self) -> MonitorStats {
        self.stats
    }

    /// Counts of labels so far.
    #[must_use]
    pub fn label_stats(&self) -> LabelStats {
        self.labels.stats()
    }

    /// How long labels took.
    #[must_use]
    pub fn label_delays(&self) -> &LabelDelays {
        self.labels.delays()
    }

    /// All predictions before this time are labelled or given up; `None` if none waits.
    #[must_use]
    pub fn label_watermark(&self) -> Option<Timestamp> {
        self.labels.watermark()
    }

    fn window_at(&self, at: Timestamp) -> Result<(Timestamp, Timestamp)> {
        let Options { window, origin, .. } = self.options;
        let bounds = || {
            let length = delta(window).num_microseconds()?;
            let since = (at - origin).num_microseconds()?;
            let from =
                origin.checked_add_signed(TimeDelta::microseconds(since.checked_sub(since.rem_euclid(length))?))?;
            Some((from, from.checked_add_signed(delta(window))?))
        };
        let (from, until) = bounds().ok_or_else(|| Error::invalid("at", format!("no window can hold {at}")))?;
        Ok((self.since.map_or(from, |since| from.max(since.min(until))), until))
    }

    /// The window that a prediction belongs to, open or closed.
    fn window_of(&mut self, at: Timestamp, version: Option<u64>) -> Option<WindowOf<'_>> {
        let belongs = |watched: Option<u64>| watched.is_none() || watched == version;
        let closed = self.reports.iter().rposition(|r| (r.from..r.until).contains(&at) && belongs(r.version));
        if let Some(report) = closed.and_then(|i| self.reports.get_mut(i)) {
            let WindowReport { version, from, until, quality, .. } = report;
            return Some(WindowOf { version: *version, from: *from, until: *until, quality });
        }
        let version = self.version;
        let (from, window) = self.open.range_mut(..=at).next_back()?;
        let found = WindowOf { version, from: *from, until: window.until, quality: &mut window.quality };
        (at < found.until && belongs(version)).then_some(found)
    }

    /// Adds up the window's quality anew, after one of its labels has changed.
    fn recount(&mut self, at: Timestamp, version: Option<u64>) -> Result<()> {
        let Some(window) = self.window_of(at, version) else { return Ok(()) };
        let (from, until, watched) = (window.from, window.until, window.version);
        let mut total = window.quality.forgotten.clone();
        for row in self.labels.labelled(from, until) {
            if watched.is_none() || row.version == watched {
                total.update(row.score, row.label == 1.0)?;
            }
        }
        if let Some(window) = self.window_of(at, version) {
            window.quality.total = total;
        }
        Ok(())
    }

    fn note_forgotten(&mut self, row: &crate::labels::Forgotten) -> Result<()> {
        if let (Some(label), Some(window)) = (row.label, self.window_of(row.predicted_at, row.version)) {
            window.quality.forgotten.update(row.score, label == 1.0)?;
        }
        Ok(())
    }

    /// Feeds the error detectors.
    fn judge(&mut self, row: &Joined) -> Result<()> {
        let wrong = (row.score >= self.no_rows.threshold()) != (row.label == 1.0);
        self.recent_errors.add(wrong);
        let subject = self.subject();
        for detector in &mut self.detectors {
            let detector = detector.inner_mut();
            let before = detector.estimate().unwrap_or(0.0);
            if detector.update(f64::from(u8::from(wrong)))? != State::Change {
                continue;
            }
            let now = self.recent_errors.rate();
            let rose = now >= before;
            let (severity, verdict, verb) =
                if rose { (Severity::Warning, Verdict::Fail, "rose") } else { (Severity::Info, Verdict::Pass, "fell") };
            let name = detector.name();
            let n = self.recent_errors.n;
            let summary = format!("error rate {verb} from {before:.3} to {now:.3} over the latest {n} labels ({name})");
            let finding = Finding::new(name, verdict, summary.clone())
                .with(Measurement::new("error_rate_before", before).with_n(detector.n()))
                .with(Measurement::new("error_rate_latest", now).with_n(n.into()));
            let rule = format!("error_rate.{name}");
            self.outbox.push(Alert::new(row.labelled_at, severity, rule, &subject, summary).with(finding));
        }
        Ok(())
    }

    fn close(&mut self, from: Timestamp, until: Timestamp) -> Result<()> {
        let Some(window) = self.open.get(&from) else { return Ok(()) };
        let mut drifts = Vec::with_capacity(window.seen.len());
        let score = score_profile(&self.profile, &self.score_column)?;
        let policy = &self.options.policy;
        let psi_at = policy.psi_at.unwrap_or(PSI_AT);
        let distance_at = policy.distance_at.unwrap_or(DISTANCE_AT);
        let mut numeric = 0;
        for (i, profile) in watched(self.profile.inputs()).chain([score]).enumerate() {
            let seen = window.seen.get(i).ok_or_else(|| Error::shape("window", i + 1, window.seen.len()))?;
            let (psi, distance, missing) = match (seen, profile.numbers()) {
                (Seen::Numbers { edges, counts }, Some(numbers)) => {
                    let psi = score_bins(profile, numbers, edges, counts, psi_at)?;
                    let mut distance = sample_distance(numbers, &window.sample.column(numeric), distance_at);
                    distance.skipped_baseline = profile.missing();
                    numeric += 1;
                    (psi, distance, counts.skipped())
                }
                (Seen::Categories(live), _) => {
                    let by = |method, at| {
                        let choice = Choice::new(method, at);
                        compare_categories(profile, live, choice, DEFAULT_CONFIDENCE, MIN_ROWS).0
                    };
                    (by(Method::Psi, psi_at), by(Method::LInfinity, distance_at), live.missing())
                }
                _ => return Err(Error::invalid("window", "a stored state does not fit its profile")),
            };
            let verdict = policy.verdict(&psi, &distance);
            let (column, rows) = (profile.name().to_owned(), window.rows);
            drifts.push(ColumnDrift { column, psi, distance, missing, rows, verdict });
        }
        let Some(prediction) = drifts.pop() else { return Ok(()) };
        let Some(window) = self.open.remove(&from) else { return Ok(()) };
        let report = WindowReport {
            version: self.version,
            from,
            until,
            rows: window.rows,
            features: drifts,
            prediction,
            quality: window.quality,
        };
        self.closed_until = Some(self.closed_until.map_or(until, |closed| closed.max(until)));
        self.check_drift(&report);
        self.reports.push_back(report);
        while self.reports.len() > self.options.keep_reports {
            self.reports.pop_front();
        }
        Ok(())
    }

    fn subject(&self) -> String {
        subject(&self.model, self.version)
    }

    fn check_drift(&mut self, report: &WindowReport) {
        let policy = &self.options.policy;
        if report.rows < policy.min_rows {
            return;
        }
        let mut lasting = |kind: &str, drift: &ColumnDrift, is: bool| {
            let streak = self.streaks.entry(format!("{kind} {}", drift.column)).or_default();
            *streak = if is { streak.saturating_add(1) } else { 0 };
            *streak >= policy.consecutive
        };
        let mut drifting = |kind, drift: &ColumnDrift| lasting(kind, drift, drift.verdict == Verdict::Fail);
        let features: Vec<bool> = report.features.iter().map(|drift| drifting("input", drift)).collect();
        let predictions = drifting("output", &report.prediction);
        let mut missing = Vec::new();
        if let Some(above) = policy.missing_at {
            let inputs = report.features.iter().zip(watched(self.profile.inputs())).map(|pair| ("missing input", pair));
            let score = self.profile.outputs().column(&self.score_column);
            let score = score.filter(|_| policy.predictions).map(|p| ("missing output", (&report.prediction, p)));
            for (kind, (drift, profile)) in inputs.chain(score) {
                let found = Missing::of(drift, profile);
                let many = found.as_ref().is_some_and(|found| found.live.low > found.usual + above);
                if lasting(kind, drift, many) {
                    missing.extend(found);
                }
            }
        }

        let mut drifted: Vec<&ColumnDrift> =
            report.features.iter().zip(&features).filter_map(|(drift, lasts)| lasts.then_some(drift)).collect();
        drifted.sort_by(|a, b| b.psi.effect.value.total_cmp(&a.psi.effect.value));
        let share = drifted.len() as f64 / report.features.len().max(1) as f64;
        let critical = share >= policy.critical_share;
        let week = format!("{} to {}", Day(report.from), Day(report.until));
        if !drifted.is_empty() && (critical || drifted.len() >= policy.min_features) {
            let severity = if critical { Severity::Critical } else { Severity::Warning };
            let named: Vec<String> =
                drifted.iter().take(3).map(|d| format!("{} (psi {:.2})", d.column, d.psi.effect.value)).collect();
            let more = if drifted.len() > 3 { format!(" and {} more", drifted.len() - 3) } else { String::new() };
            let (n, of) = (drifted.len(), report.features.len());
            let summary = format!("{n} of {of} features drifted from {week}: {}{more}", named.join(", "));
            let mut alert = Alert::new(report.until, severity, "data_drift", self.subject(), summary);
            alert.evidence = drifted.iter().map(|drift| drift.finding()).collect();
            self.outbox.push(alert);
        }
        if predictions && policy.predictions {
            let drift = &report.prediction;
            let summary = format!("{} drifted from {week}: psi {:.2}", drift.column, drift.psi.effect.value);
            let alert = Alert::new(report.until, Severity::Warning, "prediction_drift", self.subject(), summary);
            self.outbox.push(alert.with(drift.finding()));
        }
        if !missing.is_empty() {
            missing.sort_by(|a, b| b.live.value.total_cmp(&a.live.value));
            let named: Vec<String> = missing.iter().take(3).map(Missing::to_string).collect();
            let more =
                if missing.len() > 3 { format!(", and {} more columns", missing.len() - 3) } else { String::new() };
            let summary = format!("values are missing from {week}: {}{more}", named.join(", "));
            let mut alert = Alert::new(report.until, Severity::Warning, "missing_values", self.subject(), summary);
            alert.evidence =
                missing.iter().map(|column| column.finding(policy.missing_at.unwrap_or_default())).collect();
            self.outbox.push(alert);
        }
    }

    /// Tests the accuracy of the window whose label has just come.
    fn check_accuracy(&mut self, row: &Joined) {
        let Some(floor) = self.options.accuracy_floor else { return };
        let Some(window) = self.window_of(row.predicted_at, row.version) else { return };
        let (from, until) = (window.from, window.until);
        let version = window.version;
        let (right, n) = (window.quality.total.correct(), window.quality.total.n());
        if window.quality.alerted || !share_below(right, n, floor).rejects(ACCURACY_ALPHA) {
            return;
        }
        window.quality.alerted = true;
        let accuracy = share(right, n, ACCURACY_ALPHA);
        let week = format!("{} to {}", Day(from), Day(until));
        let summary = format!("accuracy from {week} is {accuracy}, below {floor}");
        let measured = Measurement::new("accuracy", accuracy.value)
            .with_interval(accuracy.low, accuracy.high)
            .with_n(accuracy.n)
            .with_bound(format!(">= {floor}"));
        let finding = Finding::new("accuracy", Verdict::Fail, summary.clone()).with(measured);
        let alert = Alert::new(row.labelled_at, Severity::Critical, "accuracy", subject(&self.model, version), summary);
        self.outbox.push(alert.with(finding));
    }
}

/// A column's rows without a finite value.
struct Missing<'a> {
    column: &'a str,
    live: Estimate,
    /// Share in the profile.
    usual: f64,
}

impl<'a> Missing<'a> {
    /// `None` without rows.
    fn of(drift: &'a ColumnDrift, profile: &ColumnProfile) -> Option<Self> {
        let live = wilson(drift.missing, drift.rows, DEFAULT_CONFIDENCE).ok()?;
        let usual = profile.missing_share();
        Some(Self { column: &drift.column, live, usual })
    }

    fn finding(&self, above: f64) -> Finding {
        let measured = Measurement::new("missing_share", self.live.value)
            .with_interval(self.live.low, self.live.high)
            .with_n(self.live.n)
            .with_bound(format!("<= {:.3}", self.usual + above));
        Finding::new(format!("missing.{}", self.column), Verdict::Fail, self.to_string()).with(measured)
    }
}

/// `demand (38 % of rows, 2 % in training)`
impl fmt::Display for Missing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (live, usual) = (100.0 * self.live.value, 100.0 * self.usual);
        write!(f, "{} ({live:.0} % of rows, {usual:.0} % in training)", self.column)
    }
}

/// What an alert is about.
fn subject(model: &str, version: Option<u64>) -> String {
    version.map_or_else(|| model.to_owned(), |version| format!("{model} v{version}"))
}

fn column(batch: &RecordBatch, name: &str) -> Result<Vec<f64>> {
    let column = batch.column_by_name(name).ok_or_else(|| Error::column(name, "is missing"))?;
    let values = numbers_of(column).map_err(|e| Error::column(name, e.to_string()))?;
    values.ok_or_else(|| Error::column(name, format!("expected numbers, got {}", column.data_type())))
}

/// `6 Jan 1997`, with the time if it is not midnight.
struct Day(Timestamp);

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let midnight = self.0.time() == chrono::NaiveTime::MIN;
        self.0.format(if midnight { "%-d %b %Y" } else { "%-d %b %Y %H:%M" }).fmt(f)
    }
}

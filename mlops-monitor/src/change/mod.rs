//! Change detection: is a stream still the one it was a moment ago?
//!
//! ```
//! use mlops_monitor::change::{Adwin, ChangeDetector, State};
//!
//! let mut errors = Adwin::builder().build()?;
//! for i in 0..2_000_u32 {
//!     let wrong = if i < 1_000 { i % 10 == 0 } else { i % 2 == 0 };
//!     if errors.update(f64::from(u8::from(wrong)))? == State::Change {
//!         println!("changed around row {:?}", errors.changed_at()); // Some(1000) or close by
//!         break;
//!     }
//! }
//! # assert!(errors.changed_at().is_some_and(|row| row.abs_diff(1_000) < 100), "{:?}", errors.changed_at());
//! # Ok::<(), mlops_monitor::Error>(())
//! ```
//!
//! # Rules for every detector
//! - A value the detector is not defined for (NaN, infinity, beyond ±1e100) is an error and leaves the state as it was.
//! - The whole state is serde data: a detector stored after any row and loaded again goes on as if nothing had happened.
//! - After [`State::Change`] the next `update` starts with a fresh window, unless the type's docs say otherwise.
//! - Row numbers count accepted rows from 0, since the detector was made or [`reset`](ChangeDetector::reset).
//!
//! # Choosing
//! By type, or by a configuration that names the method: [`DetectorConfig`], which makes a [`Detector`].
//!
//! | type | `method` | rows | watches | tuned by | warns |
//! | --- | --- | --- | --- | --- | --- |
//! | [`Adwin`] | `adwin` | bounded | the mean, either way | a false-alarm level of one check | no |
//! | [`PageHinkley`] | `page_hinkley` | any | the mean, one way or both | a threshold in the stream's units | no |
//! | [`Cusum`] | `cusum` | any | the mean, one way or both: small lasting shifts | standard deviations | no |
//! | [`Ewma`] | `ewma` | any | the same | standard deviations | yes |
//! | [`Shewhart`] | `shewhart` | few, each worth a look | single rows and runs; names the rule | the rules | yes |
//! | [`Kswin`] | `kswin` | any | the distribution | a false-alarm level of one test | no |
//! | [`HddmA`] | `hddm_a` | in [0, 1] | the mean, one way or both: sudden changes | an error level | yes |
//! | [`HddmW`] | `hddm_w` | in [0, 1] | the same: slow changes | an error level | yes |
//! | [`Ddm`] | `ddm` | 0 or 1 | an error rate, rises | standard deviations | yes |
//! | [`Rddm`] | `rddm` | 0 or 1 | the same, after long stable stretches too | standard deviations | yes |
//! | [`Eddm`] | `eddm` | 0 or 1 | distances between errors: slow rises of low rates | a ratio | yes |
//! | [`Stepd`] | `stepd` | 0 or 1 | the latest rows' error rate against the others' | p-values | yes |
//! | [`Ecdd`] | `ecdd` | 0 or 1 | an error rate, rises | a mean run between false alarms | yes |
//! | [`EDetector`] | `e_detector` | in [0, 1] | the mean against a bound, one way or both | a guaranteed mean run | yes |
//!
//! To begin with: [`Adwin`] where nothing is known of the stream, [`HddmA`] for errors, [`EDetector`] where a bound is
//! agreed and false alarms cost. `benches/RESULTS.md` has false alarms and delays of each on four kinds of drift.
//!
//! All say when the change began. [`EDetector`] alone guarantees how far apart false alarms are. None bounds the chance of
//! ever giving one on an endless stream; for decisions that must, see [`sequential`](crate::sequential).

mod adwin;
mod config;
mod cusum;
mod ddm;
mod e_detector;
mod ecdd;
mod eddm;
mod ewma;
mod hddm_a;
mod hddm_w;
mod kswin;
mod page_hinkley;
mod parts;
mod rddm;
mod shewhart;
mod stepd;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use adwin::{Adwin, AdwinBuilder};
pub use config::{Detector, DetectorConfig};
pub use cusum::{Cusum, CusumBuilder};
pub use ddm::{Ddm, DdmBuilder};
pub use e_detector::{EDetector, EDetectorBuilder, EStyle};
pub use ecdd::{Ecdd, EcddBuilder, EcddLimit};
pub use eddm::{Eddm, EddmBuilder};
pub use ewma::{Ewma, EwmaBuilder};
pub use hddm_a::{HddmA, HddmABuilder};
pub use hddm_w::{HddmW, HddmWBuilder};
pub use kswin::{Kswin, KswinBuilder};
pub use page_hinkley::{Direction, PageHinkley, PageHinkleyBuilder};
pub use rddm::{Rddm, RddmBuilder};
pub use shewhart::{Shewhart, ShewhartBuilder, WesternElectric};
pub use stepd::{Stepd, StepdBuilder};

use crate::{Error, Result};

/// What a stream looks like after the latest row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(clippy::exhaustive_enums)] // The three zones of a control chart; a caller should have to handle each.
pub enum State {
    /// No sign of a change.
    #[default]
    Stable,
    /// Perhaps the beginning of a change; start keeping rows for retraining.
    Warning,
    /// The stream has changed.
    Change,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stable => "stable",
            Self::Warning => "warning",
            Self::Change => "change",
        })
    }
}

/// Watches one stream of numbers, a row at a time.
///
/// # Contract
/// - **Errors leave no trace.** After an `Err` from `update` the detector is as before the call.
/// - **Deterministic.** The same rows in the same order give the same states.
/// - **Bounded.** Memory does not grow with the rows, or with their logarithm at most.
/// - **Never panics**, whatever the values.
pub trait ChangeDetector: fmt::Debug + Send + Sync {
    /// The method's usual short name, such as `adwin`.
    fn name(&self) -> &'static str;

    /// Takes the next row and says what the stream looks like now.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if the method is not defined for `x`.
    fn update(&mut self, x: f64) -> Result<State>;

    /// What the latest `update` returned; `Stable` before the first.
    fn state(&self) -> State;

    /// Mean of the rows in the current window, `None` while it is empty.
    fn estimate(&self) -> Option<f64>;

    /// Rows accepted since the detector was made or reset. A detected change does not set it back.
    fn n(&self) -> u64;

    /// Estimated number of the first row after the latest detected change; `None` before one is detected, or if
    /// the method cannot tell.
    fn changed_at(&self) -> Option<u64>;

    /// Forgets all rows; the options stay.
    fn reset(&mut self);
}

#[deny(clippy::missing_trait_methods)]
impl<D: ChangeDetector + ?Sized> ChangeDetector for Box<D> {
    fn name(&self) -> &'static str {
        (**self).name()
    }

    fn update(&mut self, x: f64) -> Result<State> {
        (**self).update(x)
    }

    fn state(&self) -> State {
        (**self).state()
    }

    fn estimate(&self) -> Option<f64> {
        (**self).estimate()
    }

    fn n(&self) -> u64 {
        (**self).n()
    }

    fn changed_at(&self) -> Option<u64> {
        (**self).changed_at()
    }

    fn reset(&mut self) {
        (**self).reset();
    }
}

/// Refuses what would turn a running sum of squares into infinity.
fn check_value(x: f64) -> Result<()> {
    if x.abs() <= 1e100 {
        return Ok(());
    }
    Err(Error::invalid("x", format!("must be finite and within ±1e100, got {x}")))
}

/// Checks that an option is finite and not negative.
fn check_option(what: &str, value: f64) -> Result<()> {
    if value.is_finite() && value >= 0.0 {
        return Ok(());
    }
    Err(Error::invalid(what, format!("must be finite and at least 0, got {value}")))
}

/// Whether a row is an error of the model; refuses anything but 0 and 1.
fn check_wrong(x: f64) -> Result<bool> {
    if x == 0.0 || x == 1.0 {
        return Ok(x == 1.0);
    }
    Err(Error::invalid("x", format!("must be 0 (right) or 1 (wrong), got {x}")))
}

/// Refuses values outside [0, 1].
fn check_unit(x: f64) -> Result<()> {
    if (0.0..=1.0).contains(&x) {
        return Ok(());
    }
    Err(Error::invalid("x", format!("must lie in [0, 1], got {x}")))
}

/// Checks error probabilities of a change and of a warning.
fn check_levels(change: f64, warning: f64) -> Result<()> {
    if !(change > 0.0 && change < 1.0) {
        return Err(Error::invalid("change_level", format!("must lie in (0, 1), got {change}")));
    }
    if !(warning >= change && warning < 1.0) {
        return Err(Error::invalid(
            "warning_level",
            format!("must lie in [change_level = {change}, 1), got {warning}"),
        ));
    }
    Ok(())
}

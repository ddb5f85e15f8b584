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
//! | type | watches | says when it began | tuned by |
//! | --- | --- | --- | --- |
//! | [`Adwin`] | the mean of any bounded stream, either direction | yes | a false-alarm level |
//! | [`PageHinkley`] | the mean, one or both directions | yes | a threshold in the stream's units |
//! | [`Ddm`] | an error rate, increases only | yes | standard deviations; has a warning zone |
//!
//! None of these bounds the chance of ever giving a false alarm on an endless stream; for decisions that must, see
//! [`sequential`](crate::sequential).

mod adwin;
mod ddm;
mod page_hinkley;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use adwin::{Adwin, AdwinBuilder};
pub use ddm::{Ddm, DdmBuilder};
pub use page_hinkley::{Direction, PageHinkley, PageHinkleyBuilder};

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

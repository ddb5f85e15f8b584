//! E-detectors: change detection with a guaranteed average run length.

use serde::{Deserialize, Serialize};

use super::parts::{Mean, Progress, read_progress};
use super::{ChangeDetector, Direction, State, check_unit};
use crate::sequential::{BETS, STAKES};
use crate::{EValue, Error, Result};

/// E-detector: has the mean of a stream of values in [0, 1] risen above `max_mean`? False alarms are at least
/// `1/alpha` rows apart in the mean.
///
/// Before the change the conditional mean of each row, given the past, is at most `max_mean`; nothing else is assumed, no
/// distribution, no independence, no known mean. Every row opens a new bet against that, and the evidence of all is added
/// up ([`Shiryaev–Roberts`](EStyle::ShiryaevRoberts)) or the best of all counts ([`Cusum`](EStyle::Cusum)):
///
/// ```text
/// L_k,t = 1 + f_k (x_t - max_mean) / max_mean,     f_k = 0.99 · 2^(-k/2),  k = 0..24
/// Shiryaev–Roberts:  M_k,t = L_k,t · (M_k,t-1 + 1),          CUSUM:  M_k,t = L_k,t · max(M_k,t-1, 1),     M_k,0 = 0
/// M_t = 1/25 Σ_k M_k,t,     warning if M_t >= warning_share / alpha,     change if M_t >= 1/alpha
/// ```
/// Each `L` is the return of a bet that cannot gain in the mean before the change, so `M_t - t` does not either, and the
/// mean number of rows until `M_t >= 1/alpha` is at least `1/alpha`. This holds for each run:
/// from the start, and from each alarm, on which `M` starts at 0 again. Shiryaev–Roberts is never later than CUSUM, which
/// keeps the guarantee with more to spare.
///
/// [`Direction::Down`] watches `1 - x` against `1 - min_mean`, with [`in_control`](EDetectorBuilder::in_control) for
/// `min_mean`; with [`Direction::Both`] the mean before the change is `in_control` exactly, and each direction has half of
/// the weight.
///
/// [`changed_at`](ChangeDetector::changed_at) is the row from which on the bet that won most at the alarm, of those opened
/// at one row, has won most.
///
/// # Source
/// Shin, Ramdas and Rinaldo (2024), *E-detectors: a nonparametric framework for sequential change detection*,
/// doi:10.51387/23-NEJSDS51 (arXiv:2203.03532): definition 2.2, the baseline for bounded values, and mixtures. The stakes
/// are those of [`BettingTest`](crate::BettingTest). `tests/golden/change_more.json`; run lengths are simulated in
/// `tests/it/change.rs`.
///
/// # Examples
/// ```
/// use mlops_monitor::change::{ChangeDetector, EDetector, State};
///
/// // At most 5 % of the answers may be wrong; one false alarm in 100,000 rows.
/// let mut detector = EDetector::builder(0.05).alpha(1e-5).build()?;
/// let change = (0..4_000_u32).find(|i| {
///     let wrong = if *i < 2_000 { i % 25 == 0 } else { i % 8 == 0 };
///     detector.update(f64::from(u8::from(wrong))).is_ok_and(|state| state == State::Change)
/// });
/// assert!(change.is_some_and(|row| (2_000..2_400).contains(&row)), "{change:?}");
/// assert!(detector.changed_at().is_some_and(|row| row.abs_diff(2_000) < 50));
/// # Ok::<(), mlops_monitor::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EDetector {
    options: EDetectorBuilder,
    up: Bets,
    down: Bets,
    window: Mean,
    progress: Progress,
}

/// Capitals of the bets in one direction.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Bets {
    /// `M_k`, each under 25/alpha times the return of one row.
    capital: [f64; BETS],
    /// The capital of the best single bet for each stake, and the row it was opened at.
    best: [f64; BETS],
    since: [u64; BETS],
}

impl Bets {
    const START: Self = Self { capital: [0.0; BETS], best: [0.0; BETS], since: [0; BETS] };

    /// `gain` is the return on a stake of one, at least -1.
    fn bet(&mut self, gain: f64, style: EStyle, row: u64) {
        for ((best, since), stake) in self.best.iter_mut().zip(&mut self.since).zip(STAKES) {
            let anew = *best <= 1.0;
            *since = if anew { row } else { *since };
            *best = (1.0 + stake * gain) * if anew { 1.0 } else { *best };
        }
        match style {
            EStyle::Cusum => self.capital = self.best,
            EStyle::ShiryaevRoberts => {
                for (capital, stake) in self.capital.iter_mut().zip(STAKES) {
                    *capital = (1.0 + stake * gain) * (*capital + 1.0);
                }
            }
        }
    }

    fn sum(&self) -> f64 {
        self.capital.iter().sum()
    }

    /// The row at which the single bet with the most capital was opened, and that capital.
    fn leader(&self) -> (f64, u64) {
        self.best.iter().zip(self.since).fold(
            (0.0, 0),
            |most, (best, since)| {
                if *best > most.0 { (*best, since) } else { most }
            },
        )
    }
}

/// How the bets opened at different rows are joined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(clippy::exhaustive_enums)] // The paper's two.
pub enum EStyle {
    /// Their sum: sooner.
    #[default]
    ShiryaevRoberts,
    /// The best of them.
    Cusum,
}

/// Options of an [`EDetector`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[must_use = "a builder does nothing until `build`"]
pub struct EDetectorBuilder {
    in_control: f64,
    #[serde(default = "default_alpha")]
    alpha: f64,
    #[serde(default = "default_warning_share")]
    warning_share: f64,
    #[serde(default)]
    style: EStyle,
    #[serde(default = "default_direction")]
    direction: Direction,
}

fn default_alpha() -> f64 {
    1e-4
}

fn default_warning_share() -> f64 {
    0.1
}

fn default_direction() -> Direction {
    Direction::Up
}

impl EDetectorBuilder {
    /// The bound of the mean before a change, in [1e-9, 1 − 1e-9]: the most it is if rises count, the least if falls do.
    pub fn in_control(mut self, mean: f64) -> Self {
        self.in_control = mean;
        self
    }

    /// One over the least mean number of rows between false alarms, in [1e-12, 1) (default 1e-4: 10,000 rows).
    pub fn alpha(mut self, alpha: f64) -> Self {
        self.alpha = alpha;
        self
    }

    /// Share of `1/alpha` at which the warning zone begins, in (0, 1] (default 0.1).
    pub fn warning_share(mut self, share: f64) -> Self {
        self.warning_share = share;
        self
    }

    /// How bets are joined (default Shiryaev–Roberts).
    pub fn style(mut self, style: EStyle) -> Self {
        self.style = style;
        self
    }

    /// Which changes count (default up).
    pub fn direction(mut self, direction: Direction) -> Self {
        self.direction = direction;
        self
    }

    /// Makes the detector.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] naming the first option out of range.
    pub fn build(self) -> Result<EDetector> {
        if !(1e-9..=1.0 - 1e-9).contains(&self.in_control) {
            let reason = format!("must lie in [1e-9, 1 - 1e-9], got {}", self.in_control);
            return Err(Error::invalid("in_control", reason));
        }
        if !(self.alpha >= 1e-12 && self.alpha < 1.0) {
            return Err(Error::invalid("alpha", format!("must lie in [1e-12, 1), got {}", self.alpha)));
        }
        if !(self.warning_share > 0.0 && self.warning_share <= 1.0) {
            return Err(Error::invalid("warning_share", format!("must lie in (0, 1], got {}", self.warning_share)));
        }
        Ok(EDetector {
            options: self,
            up: Bets::START,
            down: Bets::START,
            window: Mean::default(),
            progress: Progress::default(),
        })
    }
}

impl EDetector {
    /// Options for a mean of at most `in_control` before a change, the others with their defaults; finish with
    /// [`EDetectorBuilder::build`].
    pub fn builder(in_control: f64) -> EDetectorBuilder {
        EDetectorBuilder {
            in_control,
            alpha: default_alpha(),
            warning_share: default_warning_share(),
            style: EStyle::default(),
            direction: default_direction(),
        }
    }

    /// `M_t`; without a change its mean is at most the number of rows in the window.
    #[must_use]
    pub fn evidence(&self) -> EValue {
        EValue::from_log(self.value().ln())
    }

    fn value(&self) -> f64 {
        match self.options.direction {
            Direction::Up => self.up.sum() / BETS as f64,
            Direction::Down => self.down.sum() / BETS as f64,
            Direction::Both => (self.up.sum() + self.down.sum()) / (2 * BETS) as f64,
        }
    }

    fn empty_window(&mut self) {
        self.up = Bets::START;
        self.down = Bets::START;
        self.window = Mean::default();
    }
}

impl ChangeDetector for EDetector {
    fn name(&self) -> &'static str {
        "e_detector"
    }

    fn update(&mut self, x: f64) -> Result<State> {
        check_unit(x)?;
        if self.progress.is_over() {
            self.empty_window();
        }
        let row = self.progress.next_row();
        self.window.add(x);
        let EDetectorBuilder { in_control, alpha, warning_share, style, direction } = self.options;
        if direction != Direction::Down {
            self.up.bet((x - in_control) / in_control, style, row);
        }
        if direction != Direction::Up {
            self.down.bet((in_control - x) / (1.0 - in_control), style, row);
        }
        let value = self.value();
        self.progress.state = State::Stable;
        if value >= 1.0 / alpha {
            let (up, down) = (self.up.leader(), self.down.leader());
            self.progress.change(if up.0 >= down.0 { up.1 } else { down.1 });
        } else if value >= warning_share / alpha {
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

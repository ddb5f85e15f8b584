//! Tests and distances on two columns of numbers.

use super::ranks::{AndersonDarling, MannWhitney};
use super::sorted::check_sides;
use super::tails::cramer_von_mises_sf;
use super::{Comparison, Method, PValueBy, Sorted, Ties};
use crate::drift::{Gap, KsMethod, dkw_margin};
use crate::error::check_confidence;
use crate::metrics::DEFAULT_CONFIDENCE;
use crate::{Error, Result};

/// Rows a side up to which [`cramer_von_mises`] is exact unless told otherwise.
const CVM_EXACT: usize = 20;
/// Rows a side up to which it can be.
const CVM_EXACT_MOST: usize = 40;

/// Sums over the distinct values of two sorted sides together, ascending.
pub(super) trait Pass {
    /// `x`, with the rows of each side below it and at it.
    fn value(&mut self, x: f64, below: [u64; 2], at: [u64; 2]);
}

impl<A: Pass, B: Pass> Pass for (A, B) {
    #[inline(always)]
    fn value(&mut self, x: f64, below: [u64; 2], at: [u64; 2]) {
        self.0.value(x, below, at);
        self.1.value(x, below, at);
    }
}

/// Goes through both sides once.
#[inline(always)]
pub(super) fn walk<P: Pass>(first: &Sorted, second: &Sorted, mut pass: P) -> P {
    let (a, b) = (first.values(), second.values());
    let (mut i, mut j) = (0, 0);
    while i < a.len() || j < b.len() {
        let x = match (a.get(i), b.get(j)) {
            (Some(x), Some(y)) => x.min(*y),
            (Some(x), None) => *x,
            (None, Some(y)) => *y,
            (None, None) => break,
        };
        let (from_i, from_j) = (i, j);
        while a.get(i) == Some(&x) {
            i += 1;
        }
        while b.get(j) == Some(&x) {
            j += 1;
        }
        pass.value(x, [from_i as u64, from_j as u64], [(i - from_i) as u64, (j - from_j) as u64]);
    }
    pass
}

/// Kolmogorov–Smirnov test: [`drift::ks_two_sample`](crate::drift::ks_two_sample) on sorted columns.
///
/// The effect is the distance `D` with the interval of [`KsDetector`](crate::KsDetector), which holds for any
/// distributions and any number of rows. [`Method::Auto`] is [`KsMethod::Auto`].
///
/// # Errors
/// [`Error::InvalidInput`] if a side has no finite value, or `confidence` is not in (0, 1).
///
/// # Examples
/// ```
/// use mlops_monitor::two_sample::{Method, Sorted, ks};
///
/// let (a, b) = (Sorted::new(&[1.0, 2.0, 3.0, 4.0]), Sorted::new(&[3.5, 4.5, 5.5, 6.5]));
/// assert_eq!(ks(&a, &b, Method::Auto, 0.95)?.statistic, 0.75);
/// # Ok::<(), mlops_monitor::Error>(())
/// ```
pub fn ks(first: &Sorted, second: &Sorted, method: Method, confidence: f64) -> Result<Comparison> {
    check_sides(first, second, 1)?;
    check_confidence(confidence)?;
    let gap = Gap::between(first.values(), second.values());
    let wanted = match method {
        Method::Auto => KsMethod::Auto,
        Method::Exact => KsMethod::Exact,
        Method::Asymptotic => KsMethod::Asymptotic,
    };
    let (p_value, used) = gap.p_value(wanted);
    let by = if used == KsMethod::Exact { PValueBy::Exact } else { PValueBy::Asymptotic };
    let d = gap.statistic();
    let margin = dkw_margin(first.rows() as f64, second.rows() as f64, confidence);
    let interval = ((d - margin).max(0.0), (d + margin).min(1.0));
    Ok(finish("ks", d, first, second).p(p_value, by).effect("distance", d, Some(interval), confidence))
}

pub(super) fn finish(method: &str, statistic: f64, first: &Sorted, second: &Sorted) -> Comparison {
    let mut result = Comparison::new(method, statistic, [first.rows(), second.rows()]);
    result.skipped = [first.skipped(), second.skipped()];
    result
}

/// Cramér–von Mises test, two-sided.
///
/// ```text
/// T = nm/(n + m)² · Σ (F(z) - G(z))²          over all n + m rows z
/// ```
/// Without ties this is `scipy.stats.cramervonmises_2samp`. With ties scipy puts midranks into a formula for untied
/// ranks, and so finds a difference between two equal constants. Here `l` tied rows have the gaps that they have on
/// average over their orders: `F - G` goes in `l` equal steps from its value below the tie to that at it. The p-value is
/// that of untied rows.
///
/// The effect is `∫(F - G)² dH` above its noise, where `H` weighs both sides by their rows:
/// `max(0, T - E) · (n + m)/(nm)`, `E = (1 + 1/(n + m))/6`, at most 1/3.
///
/// [`Method::Auto`] counts all divisions of the rows up to 20 a side ([`Method::Exact`]: up to 40). The asymptotic
/// p-value takes the limit distribution at `1/6 + (T - E) / sqrt(45 Var T)`, with the exact variance of untied rows, and
/// keeps its digits however small.
///
/// # Errors
/// [`Error::InvalidInput`] if a side has fewer than two finite values, or more than 40 for [`Method::Exact`].
///
/// # Source
/// Anderson (1962), doi:10.1214/aoms/1177704477; Xiao, Gordon and Yakovlev (2006), doi:10.18637/jss.v017.i08; limit by
/// Smirnov's formula. `tests/golden/two_sample.json`.
///
/// # Examples
/// ```
/// use mlops_monitor::two_sample::{Method, Sorted, cramer_von_mises};
///
/// let (a, b) = (Sorted::new(&[1.0, 2.0, 3.0]), Sorted::new(&[4.0, 5.0, 6.0]));
/// let test = cramer_von_mises(&a, &b, Method::Auto)?;
/// assert!((test.p_value.unwrap() - 0.1).abs() < 1e-12); // 2 of the 20 divisions are as extreme
/// # Ok::<(), mlops_monitor::Error>(())
/// ```
pub fn cramer_von_mises(first: &Sorted, second: &Sorted, method: Method) -> Result<Comparison> {
    check_sides(first, second, 2)?;
    walk(first, second, CramerVonMises::new(first, second)).finish(first, second, method)
}

/// Sum of squared gaps over all rows; terms are positive, and each gap is exact.
struct CramerVonMises {
    /// The rows of the second and the first side over their greatest common divisor: steps of a gap.
    steps: [i64; 2],
    sum: Compensated,
}

impl Pass for CramerVonMises {
    #[inline(always)]
    fn value(&mut self, _: f64, below: [u64; 2], at: [u64; 2]) {
        let gap = |a: u64, b: u64| (self.steps[0] * a as i64 - self.steps[1] * b as i64) as f64;
        let end = gap(below[0] + at[0], below[1] + at[1]);
        let rows = at[0] + at[1];
        if rows == 1 {
            return self.sum.add(end * end);
        }
        let (start, rows) = (gap(below[0], below[1]), rows as f64);
        let step = (end - start) / rows;
        let mean = start + 0.5 * step * (rows + 1.0);
        self.sum.add(rows * mean * mean + step * step * rows * (rows * rows - 1.0) / 12.0);
    }
}

impl CramerVonMises {
    fn new(first: &Sorted, second: &Sorted) -> Self {
        let (n, m) = (first.rows(), second.rows());
        let (mut a, mut b) = (n, m);
        while b != 0 {
            (a, b) = (b, a % b);
        }
        let divisor = a.max(1);
        Self { steps: [(m / divisor) as i64, (n / divisor) as i64], sum: Compensated::default() }
    }

    fn finish(self, first: &Sorted, second: &Sorted, method: Method) -> Result<Comparison> {
        let (rows_n, rows_m) = (first.values().len(), second.values().len());
        let (n, m) = (rows_n as f64, rows_m as f64);
        let (both, product) = (n + m, n * m);
        // A gap over the least common multiple of the rows is F - G.
        let multiple = self.steps[0] as f64 * n;
        let sum = self.sum.total();
        let t = product / (both * both) * (sum / multiple / multiple);
        let mean = (1.0 + 1.0 / both) / 6.0;
        let exact = match method {
            Method::Exact => true,
            Method::Asymptotic => false,
            Method::Auto => rows_n.max(rows_m) <= CVM_EXACT,
        };
        if exact && rows_n.max(rows_m) > CVM_EXACT_MOST {
            let reason = format!("is exact up to {CVM_EXACT_MOST} rows a side, use Auto or Asymptotic");
            return Err(Error::invalid("method", reason));
        }
        let (p_value, by) = if exact {
            (cvm_exact(sum, self.steps, rows_n, rows_m), PValueBy::Exact)
        } else {
            let variance = (both + 1.0) * (4.0 * product * both - 3.0 * (n * n + m * m) - 2.0 * product)
                / (45.0 * both * both * 4.0 * product);
            (cramer_von_mises_sf(1.0 / 6.0 + (t - mean) / (45.0 * variance).sqrt()), PValueBy::Asymptotic)
        };
        let effect = ((t - mean) * both / product).max(0.0);
        Ok(finish("cramer_von_mises", t, first, second).p(p_value, by).effect(
            "squared distance",
            effect,
            None,
            DEFAULT_CONFIDENCE,
        ))
    }
}

/// Share of the divisions of `n + m` untied rows whose sum of squared gaps is at least `sum`.
fn cvm_exact(sum: f64, steps: [i64; 2], n: usize, m: usize) -> f64 {
    // Paths to (v, u) by the sum along them: ascending values with their numbers of paths.
    let mut row: Vec<Vec<(i64, f64)>> = vec![vec![]; n + 1];
    row[0].push((0, 1.0));
    for u in 0..=m as i64 {
        let mut left: Vec<(i64, f64)> = vec![];
        for (v, cell) in row.iter_mut().enumerate() {
            let gap = (steps[0] * v as i64 - steps[1] * u).pow(2);
            let mut joined = Vec::with_capacity(left.len() + cell.len());
            let (mut i, mut j) = (0, 0);
            while i < left.len() || j < cell.len() {
                let (take_left, take_cell) = match (left.get(i), cell.get(j)) {
                    (Some(x), Some(y)) => (x.0 <= y.0, y.0 <= x.0),
                    (x, y) => (x.is_some(), y.is_some()),
                };
                let key = if take_left { left[i].0 } else { cell[j].0 };
                let mut paths = 0.0;
                if take_left {
                    paths += left[i].1;
                    i += 1;
                }
                if take_cell {
                    paths += cell[j].1;
                    j += 1;
                }
                joined.push((key + gap, paths));
            }
            left.clone_from(&joined);
            *cell = joined;
        }
    }
    let last = &row[n];
    // Sums are whole numbers, that of tied rows up to rounding.
    let at_least = sum * (1.0 - 1e-12);
    let all: f64 = last.iter().map(|(_, paths)| paths).sum();
    last.iter().filter(|(value, _)| *value as f64 >= at_least).map(|(_, paths)| paths).sum::<f64>() / all
}

/// Wasserstein distance of order 1 (the earth mover's): how far a row has to move on average.
///
/// ```text
/// W = ∫ |F(x) - G(x)| dx
/// ```
/// in units of the column. The effect is `W` over the standard deviation of the first side (as a population), so that
/// columns can be compared; where that is 0, over the one of both sides together. Evidently divides by
/// `max(sd, 0.001)` instead, which depends on the column's unit. There is no p-value.
///
/// # Errors
/// [`Error::InvalidInput`] if a side has no finite value, or the range of both exceeds the largest number.
///
/// # Source
/// Vallender (1974), doi:10.1137/1118101. `tests/golden/two_sample.json`.
///
/// # Examples
/// ```
/// use mlops_monitor::two_sample::{Sorted, wasserstein};
///
/// let (a, b) = (Sorted::new(&[0.0, 2.0]), Sorted::new(&[3.0, 5.0]));
/// let distance = wasserstein(&a, &b)?;
/// assert_eq!(distance.statistic, 3.0);
/// assert_eq!(distance.effect.unwrap().value, 3.0); // the standard deviation of the first side is 1
/// # Ok::<(), mlops_monitor::Error>(())
/// ```
pub fn wasserstein(first: &Sorted, second: &Sorted) -> Result<Comparison> {
    check_sides(first, second, 1)?;
    check_range(first, second)?;
    Ok(walk(first, second, Integrals::new(first, second)).wasserstein(first, second))
}

/// Energy distance of two columns.
///
/// ```text
/// D = sqrt(2 ∫ (F(x) - G(x))² dx) = sqrt(2E|X - Y| - E|X - X'| - E|Y - Y'|)
/// ```
/// in units of the square root of the column, as `scipy.stats.energy_distance`. The effect is the energy coefficient
/// `D² / 2E|X - Y|`, in [0, 1] and without unit: 0 for equal distributions, 1 for two constants. Time is that of
/// one merge. There is no p-value; for one see
/// [`EnergyTest`](super::EnergyTest).
///
/// # Errors
/// [`Error::InvalidInput`] if a side has no finite value, or the range of both exceeds the largest number.
///
/// # Source
/// Székely and Rizzo (2013), doi:10.1016/j.jspi.2013.03.018. `tests/golden/two_sample.json`.
///
/// # Examples
/// ```
/// use mlops_monitor::two_sample::{Sorted, energy};
///
/// let distance = energy(&Sorted::new(&[0.0]), &Sorted::new(&[8.0]))?;
/// assert!((distance.statistic - 4.0).abs() < 1e-12 && (distance.effect.unwrap().value - 1.0).abs() < 1e-12);
/// # Ok::<(), mlops_monitor::Error>(())
/// ```
pub fn energy(first: &Sorted, second: &Sorted) -> Result<Comparison> {
    check_sides(first, second, 1)?;
    check_range(first, second)?;
    Ok(walk(first, second, Integrals::new(first, second)).energy(first, second))
}

fn check_range(first: &Sorted, second: &Sorted) -> Result<()> {
    let ends = |side: &Sorted| Some((*side.values().first()?, *side.values().last()?));
    if let (Some(a), Some(b)) = (ends(first), ends(second)) {
        let range = a.1.max(b.1) - a.0.min(b.0);
        if !range.is_finite() {
            return Err(Error::invalid("first", "the range of both sides exceeds the largest number, scale them down"));
        }
    }
    Ok(())
}

/// Integrals over the two distribution functions; sums of many small steps, hence compensated (Neumaier).
struct Integrals {
    /// One over the rows of each side.
    share: [f64; 2],
    previous: f64,
    started: bool,
    absolute: Compensated,
    squared: Compensated,
    cross: Compensated,
}

#[derive(Clone, Copy, Default)]
struct Compensated {
    sum: f64,
    lost: f64,
}

impl Compensated {
    #[inline(always)]
    fn add(&mut self, x: f64) {
        // Every term is positive and the sum is soon the larger one; the other order costs the bits it would anyway.
        let sum = self.sum + x;
        self.lost += (self.sum - sum) + x;
        self.sum = sum;
    }

    fn total(self) -> f64 {
        self.sum + self.lost
    }
}

impl Integrals {
    fn new(first: &Sorted, second: &Sorted) -> Self {
        let share = [1.0 / first.rows() as f64, 1.0 / second.rows() as f64];
        let zero = Compensated::default();
        Self { share, previous: 0.0, started: false, absolute: zero, squared: zero, cross: zero }
    }

    fn wasserstein(&self, first: &Sorted, second: &Sorted) -> Comparison {
        let distance = self.absolute.total();
        let ((mean_a, sd_a), (mean_b, sd_b)) = (first.moments(), second.moments());
        let mut scale = sd_a;
        if scale == 0.0 {
            let (n, m) = (first.rows() as f64, second.rows() as f64);
            let (p, q) = (n / (n + m), m / (n + m));
            // Square roots apart, as the square of a large number is not finite.
            scale = (q.sqrt() * sd_b).hypot((p * q).sqrt() * (mean_a - mean_b).abs());
        }
        let effect = if distance == 0.0 { 0.0 } else { (distance / scale).min(f64::MAX) };
        finish("wasserstein", distance, first, second).effect("standard deviations", effect, None, DEFAULT_CONFIDENCE)
    }

    fn energy(&self, first: &Sorted, second: &Sorted) -> Comparison {
        let (squared, cross) = (self.squared.total(), self.cross.total());
        let statistic = std::f64::consts::SQRT_2 * squared.sqrt();
        let coefficient = if cross > 0.0 { (squared / cross).min(1.0) } else { 0.0 };
        finish("energy", statistic, first, second).effect("energy coefficient", coefficient, None, DEFAULT_CONFIDENCE)
    }
}

impl Pass for Integrals {
    #[inline(always)]
    fn value(&mut self, x: f64, below: [u64; 2], _: [u64; 2]) {
        if self.started {
            let (f, g) = (below[0] as f64 * self.share[0], below[1] as f64 * self.share[1]);
            let (gap, step) = (f - g, x - self.previous);
            self.absolute.add(gap.abs() * step);
            self.squared.add(gap * gap * step);
            self.cross.add((f * (1.0 - g) + g * (1.0 - f)) * step);
        }
        self.started = true;
        self.previous = x;
    }
}

/// All tests and distances on two columns of numbers, in one pass over both: `ks`, `cramer_von_mises`,
/// `anderson_darling` ([`Ties::Right`]), `mann_whitney`, `wasserstein` and `energy`, in this order.
///
/// Each is what the function of that name gives with [`Method::Auto`].
///
/// # Errors
/// [`Error::InvalidInput`] if a side has fewer than two finite values, the range of both exceeds the largest number,
/// or `confidence` is not in (0, 1).
///
/// # Examples
/// ```
/// use mlops_monitor::two_sample::{Sorted, numeric};
///
/// let (a, b) = (Sorted::new(&[1.0, 2.0, 4.0]), Sorted::new(&[1.5, 3.0, 5.0, 6.0]));
/// for test in numeric(&a, &b, 0.95)? {
///     println!("{test}");
/// }
/// # Ok::<(), mlops_monitor::Error>(())
/// ```
pub fn numeric(first: &Sorted, second: &Sorted, confidence: f64) -> Result<Vec<Comparison>> {
    check_sides(first, second, 2)?;
    check_range(first, second)?;
    let ks = ks(first, second, Method::Auto, confidence)?;
    let start = (
        (CramerVonMises::new(first, second), MannWhitney::default()),
        (AndersonDarling::new(first, second, Ties::Right), Integrals::new(first, second)),
    );
    let ((cvm, mann_whitney), (anderson, integrals)) = walk(first, second, start);
    Ok(vec![
        ks,
        cvm.finish(first, second, Method::Auto)?,
        anderson.finish(first, second),
        mann_whitney.finish(first, second, Method::Auto, confidence)?,
        integrals.wasserstein(first, second),
        integrals.energy(first, second),
    ])
}

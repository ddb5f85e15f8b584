//! Kernel and energy tests on tables.

use serde::{Deserialize, Serialize};

use super::rows::{
    Groups, PairSums, Rng, Standard, Table, both, check_permutations, draw, permutation_p, squared_distance,
};
use super::tails::normal_sf;
use super::{Comparison, PValueBy, Rows};
use crate::error::check_confidence;
use crate::special::two_sided_z;
use crate::{Error, Result};

/// Rows a side that the median heuristic looks at.
const MEDIAN_ROWS: usize = 500;

/// How [`Mmd`] estimates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum MmdEstimate {
    /// All pairs, without bias, with a permutation p-value: the most power, time and memory by rows squared.
    #[default]
    Quadratic,
    /// Disjoint pairs, with a normal p-value: time by rows, least power for a number of rows.
    Linear,
    /// All pairs under that many random Fourier features (cosine and sine for each), with a permutation p-value.
    Fourier(u32),
}

/// Maximum mean discrepancy (MMD) with a Gaussian kernel: any difference of two multivariate distributions.
///
/// ```text
/// k(x, y) = exp(-|x - y|² / 2σ²)
/// MMD²    = Σ_i≠j k(x_i, x_j)/(n(n-1)) + Σ_i≠j k(y_i, y_j)/(m(m-1)) - 2 Σ_ij k(x_i, y_j)/(nm)
/// ```
/// The statistic is this estimate without bias, in about [-1, 2], and below 0 about as often as above when nothing has
/// changed. `σ` is the median distance of the rows of both sides together (of up to 500 a side) where it is not
/// given. Columns are divided by their standard deviation over both sides unless `standardize` is off.
///
/// [`MmdEstimate::Linear`] is the mean of `k(x, x') + k(y, y') - k(x, y') - k(x', y)` over disjoint quadruples of rows in
/// random order, and its p-value and interval are normal. [`MmdEstimate::Fourier`] is the first formula for the kernel's
/// approximation `Σ_d cos(w_d(x - y))/D` with `w` normal of deviation `1/σ`.
///
/// The effect is MMD² with an interval from the variance of the witness function
/// `E k(·, X) - E k(·, Y)` on both sides, plus the variance under random division (its share when nothing has changed).
///
/// A seed draws at most `max_rows` rows a side (not for `Linear`), which `n` then tells.
///
/// # Source
/// Gretton and others (2012), JMLR 13:723; Rahimi and Recht (2007); Phipson and Smyth (2010), doi:10.2202/1544-6115.1585
/// (p-value). `tests/golden/multivariate.json`.
///
/// # Examples
/// ```
/// use mlops_monitor::two_sample::{Mmd, Rows};
///
/// let before: Vec<f64> = (0..200).map(|i| f64::from(i * 37 % 100)).collect();
/// let after: Vec<f64> = before.iter().map(|x| x + 40.0).collect();
/// let test = Mmd::builder().compare(Rows::new(&before, 2)?, Rows::new(&after, 2)?)?;
/// assert!(test.p_value.unwrap() < 0.01);
/// # Ok::<(), mlops_monitor::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "options do nothing until `compare`"]
pub struct Mmd {
    estimate: MmdEstimate,
    bandwidth: Option<f64>,
    standardize: bool,
    permutations: u32,
    max_rows: usize,
    seed: u64,
    confidence: f64,
}

impl Mmd {
    /// Options with their defaults; finish with [`compare`](Self::compare).
    pub fn builder() -> Self {
        Self {
            estimate: MmdEstimate::Quadratic,
            bandwidth: None,
            standardize: true,
            permutations: 200,
            max_rows: 1_000,
            seed: 0,
            confidence: 0.95,
        }
    }

    /// How to estimate (default [`MmdEstimate::Quadratic`]).
    pub fn estimate(mut self, estimate: MmdEstimate) -> Self {
        self.estimate = estimate;
        self
    }

    /// The kernel's `σ`, positive (default: the median distance).
    pub fn bandwidth(mut self, sigma: f64) -> Self {
        self.bandwidth = Some(sigma);
        self
    }

    /// Whether columns are divided by their standard deviation (default: yes).
    pub fn standardize(mut self, standardize: bool) -> Self {
        self.standardize = standardize;
        self
    }

    /// Random divisions behind the p-value, 19 to 100,000 (default 200).
    pub fn permutations(mut self, permutations: u32) -> Self {
        self.permutations = permutations;
        self
    }

    /// Most rows to use from each side, 2 to 10,000 (default 1,000). Memory is `8 (2 · max_rows)²` bytes.
    pub fn max_rows(mut self, max_rows: usize) -> Self {
        self.max_rows = max_rows;
        self
    }

    /// Seed of what is drawn (default 0).
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Coverage of the interval, in (0, 1) (default 0.95).
    pub fn confidence(mut self, confidence: f64) -> Self {
        self.confidence = confidence;
        self
    }

    /// Compares two tables.
    ///
    /// # Errors
    /// - [`Error::InvalidInput`] naming the first option out of range, or a side that has fewer than two finite rows (four
    ///   for `Linear`).
    /// - [`Error::ShapeMismatch`] if the numbers of columns differ.
    pub fn compare(self, first: Rows<'_>, second: Rows<'_>) -> Result<Comparison> {
        check_confidence(self.confidence)?;
        check_permutations(self.permutations, self.max_rows)?;
        if let Some(sigma) = self.bandwidth
            && !(sigma > 0.0 && sigma.is_finite())
        {
            return Err(Error::invalid("bandwidth", format!("must be finite and positive, got {sigma}")));
        }
        if let MmdEstimate::Fourier(features) = self.estimate
            && !(1..=10_000).contains(&features)
        {
            return Err(Error::invalid("estimate", format!("needs 1 to 10000 features, got {features}")));
        }
        let linear = self.estimate == MmdEstimate::Linear;
        let mut sides = both(first, second, if linear { 4 } else { 2 })?;
        let mut rng = Rng::new(self.seed);
        if !linear {
            draw(&mut sides, self.max_rows, &mut rng);
        }
        if self.standardize {
            let standard = Standard::of(&[&sides[0], &sides[1]]);
            sides.iter_mut().for_each(|side| standard.apply(side));
        }
        let sigma = match self.bandwidth {
            Some(sigma) => sigma,
            None => median_distance(&sides, &mut rng),
        };
        let gamma = 0.5 / (sigma * sigma);
        if !(gamma > 0.0 && gamma.is_finite()) {
            return Err(Error::invalid("bandwidth", "is beyond what a number holds, scale the columns or standardize"));
        }
        let mut result = match self.estimate {
            MmdEstimate::Linear => self.linear(&sides, gamma, &mut rng),
            MmdEstimate::Fourier(features) => self.fourier(&sides, sigma, features, &mut rng),
            MmdEstimate::Quadratic => self.quadratic(&sides, gamma, &mut rng),
        };
        result.skipped = [sides[0].skipped, sides[1].skipped];
        Ok(result)
    }

    fn quadratic(&self, sides: &[Table; 2], gamma: f64, rng: &mut Rng) -> Comparison {
        let sums = PairSums::new(&sides[0], &sides[1], |a, b| (-gamma * squared_distance(a, b)).exp());
        let (n, m) = (sides[0].rows() as f64, sides[1].rows() as f64);
        let statistic = |g: Groups| g.first / (n * (n - 1.0)) + g.second / (m * (m - 1.0)) - 2.0 * g.between / (n * m);
        let permuted = sums.permuted(self.permutations, rng, statistic);
        // The witness at each row, from all others.
        let mut witness = [Moments::default(), Moments::default()];
        for (i, (to_first, to_second)) in sums.by_row().enumerate() {
            if i < sides[0].rows() {
                witness[0].add(to_first / (n - 1.0) - to_second / m);
            } else {
                witness[1].add(to_first / n - to_second / (m - 1.0));
            }
        }
        self.finish(statistic(sums.observed()), &permuted, &witness)
    }

    fn finish(&self, observed: f64, permuted: &[f64], witness: &[Moments; 2]) -> Comparison {
        let chance = permuted.iter().map(|x| x * x).sum::<f64>() / permuted.len() as f64;
        let of_witness: f64 = witness.iter().map(|side| 4.0 * side.variance() / side.n).sum();
        let margin = two_sided_z(self.confidence) * (of_witness + chance).sqrt();
        let interval = ((observed - margin).max(0.0), (observed + margin).clamp(0.0, 2.0));
        Comparison::new("mmd", observed, [witness[0].n as u64, witness[1].n as u64])
            .p(permutation_p(observed, permuted), PValueBy::Permutation)
            .effect("squared discrepancy", observed.max(0.0), Some(interval), self.confidence)
    }

    fn linear(&self, sides: &[Table; 2], gamma: f64, rng: &mut Rng) -> Comparison {
        let pairs = sides[0].rows().min(sides[1].rows()) / 2;
        let order = [0, 1].map(|side: usize| {
            let mut order: Vec<usize> = (0..sides[side].rows()).collect();
            rng.shuffle(&mut order);
            order
        });
        let k = |a: &[f64], b: &[f64]| (-gamma * squared_distance(a, b)).exp();
        let mut moments = Moments::default();
        for i in 0..pairs {
            let [x, x2] = [0, 1].map(|k| sides[0].row(order[0][2 * i + k]));
            let [y, y2] = [0, 1].map(|k| sides[1].row(order[1][2 * i + k]));
            moments.add(k(x, x2) + k(y, y2) - k(x, y2) - k(x2, y));
        }
        let se = (moments.variance() / pairs as f64).sqrt();
        let mean = moments.mean;
        let p = if se > 0.0 { normal_sf(mean / se) } else { f64::from(u8::from(mean <= 0.0)) };
        let margin = two_sided_z(self.confidence) * se;
        let used = 2 * pairs as u64;
        Comparison::new("mmd", mean, [used, used]).p(p, PValueBy::Asymptotic).effect(
            "squared discrepancy",
            mean.max(0.0),
            Some(((mean - margin).max(0.0), (mean + margin).max(0.0))),
            self.confidence,
        )
    }

    fn fourier(&self, sides: &[Table; 2], sigma: f64, features: u32, rng: &mut Rng) -> Comparison {
        let columns = sides[0].columns;
        let weights: Vec<f64> = (0..features as usize * columns).map(|_| rng.normal() / sigma).collect();
        let scale = 1.0 / f64::from(features).sqrt();
        let width = 2 * features as usize;
        let mapped = [0, 1].map(|side: usize| {
            let mut data = Vec::with_capacity(sides[side].rows() * width);
            for row in sides[side].iter() {
                for w in weights.chunks_exact(columns) {
                    let angle: f64 = w.iter().zip(row).map(|(w, x)| w * x).sum();
                    data.push(scale * angle.cos());
                    data.push(scale * angle.sin());
                }
            }
            Table { data, columns: width, skipped: 0 }
        });
        let (n, m) = (mapped[0].rows(), mapped[1].rows());
        let all: Vec<&[f64]> = mapped[0].iter().chain(mapped[1].iter()).collect();
        let mut total = vec![0.0; width];
        all.iter().for_each(|row| add(&mut total, row));
        // |φ|² = 1, so the sum over different pairs is the square of the sum less the rows.
        let statistic = |first: &[f64]| {
            let (n, m) = (n as f64, m as f64);
            let (mut xx, mut xy, mut yy) = (0.0, 0.0, 0.0);
            for (x, t) in first.iter().zip(&total) {
                let y = t - x;
                xx += x * x;
                xy += x * y;
                yy += y * y;
            }
            (xx - n) / (n * (n - 1.0)) + (yy - m) / (m * (m - 1.0)) - 2.0 * xy / (n * m)
        };
        let sum = |rows: &mut dyn Iterator<Item = &[f64]>| {
            let mut sum = vec![0.0; width];
            rows.for_each(|row| add(&mut sum, row));
            sum
        };
        let first = sum(&mut mapped[0].iter());
        let observed = statistic(&first);
        let mut order: Vec<usize> = (0..n + m).collect();
        let permuted: Vec<f64> = (0..self.permutations)
            .map(|_| {
                for i in 0..n {
                    let j = i + rng.below(n + m - i);
                    order.swap(i, j);
                }
                statistic(&sum(&mut order[..n].iter().map(|i| all[*i])))
            })
            .collect();
        let (nf, mf) = (n as f64, m as f64);
        let mut witness = [Moments::default(), Moments::default()];
        for (i, row) in all.iter().enumerate() {
            let to_first: f64 = row.iter().zip(&first).map(|(a, b)| a * b).sum();
            let to_all: f64 = row.iter().zip(&total).map(|(a, b)| a * b).sum();
            let to_second = to_all - to_first;
            if i < n {
                witness[0].add((to_first - 1.0) / (nf - 1.0) - to_second / mf);
            } else {
                witness[1].add(to_first / nf - (to_second - 1.0) / (mf - 1.0));
            }
        }
        self.finish(observed, &permuted, &witness)
    }
}

fn add(sum: &mut [f64], row: &[f64]) {
    sum.iter_mut().zip(row).for_each(|(s, x)| *s += x);
}

/// Mean and variance, one number at a time.
#[derive(Default)]
pub(super) struct Moments {
    n: f64,
    pub(super) mean: f64,
    square: f64,
}

impl Moments {
    pub(super) fn add(&mut self, x: f64) {
        self.n += 1.0;
        let gap = x - self.mean;
        self.mean += gap / self.n;
        self.square += gap * (x - self.mean);
    }

    /// Of the sample; 0 for one number.
    pub(super) fn variance(&self) -> f64 {
        if self.n > 1.0 { self.square / (self.n - 1.0) } else { 0.0 }
    }
}

/// Median distance between different rows of both sides together; where more than half are equal, the mean one.
fn median_distance(sides: &[Table; 2], rng: &mut Rng) -> f64 {
    let mut rows: Vec<&[f64]> = Vec::new();
    for side in sides {
        let n = side.rows();
        if n <= MEDIAN_ROWS {
            rows.extend(side.iter());
        } else {
            rows.extend(rng.choose(n, MEDIAN_ROWS).into_iter().map(|i| side.row(i)));
        }
    }
    let mut distances = Vec::with_capacity(rows.len() * rows.len() / 2);
    for (i, a) in rows.iter().enumerate() {
        distances.extend(rows[..i].iter().map(|b| squared_distance(a, b)));
    }
    let middle = distances.len() / 2;
    let odd = distances.len() % 2 == 1;
    let (below, upper, _) = distances.select_nth_unstable_by(middle, f64::total_cmp);
    let lower = if odd { *upper } else { below.iter().copied().fold(0.0, f64::max) };
    let median = 0.5 * (lower.sqrt() + upper.sqrt());
    if median > 0.0 {
        return median;
    }
    let mean = distances.iter().map(|d| d.sqrt()).sum::<f64>() / distances.len() as f64;
    // All rows are equal: any kernel gives 0.
    if mean > 0.0 { mean } else { 1.0 }
}

/// Energy test: any difference of two multivariate distributions, with a permutation p-value.
///
/// ```text
/// E = 2 Σ_ij |x_i - y_j|/(nm) - Σ_ij |x_i - x_j|/n² - Σ_ij |y_i - y_j|/m²
/// ```
/// The statistic is `E`, `>= 0`; `T = nm/(n + m) · E` of the literature has the same p-value. The effect is the energy
/// coefficient `E / (2 Σ_ij |x_i - y_j|/(nm))`, in [0, 1], without an interval. Columns are divided by their standard
/// deviation over both sides unless `standardize` is off. A seed draws at most `max_rows` rows a side. No bandwidth has
/// to be chosen; against far but small changes it has less power than [`Mmd`].
///
/// # Source
/// Székely and Rizzo (2013), doi:10.1016/j.jspi.2013.03.018. `tests/golden/multivariate.json`.
///
/// # Examples
/// ```
/// use mlops_monitor::two_sample::{EnergyTest, Rows};
///
/// let before: Vec<f64> = (0..200).map(|i| f64::from(i * 37 % 100)).collect();
/// let after: Vec<f64> = before.iter().map(|x| x + 40.0).collect();
/// let test = EnergyTest::builder().compare(Rows::new(&before, 2)?, Rows::new(&after, 2)?)?;
/// assert!(test.p_value.unwrap() < 0.01);
/// # Ok::<(), mlops_monitor::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "options do nothing until `compare`"]
pub struct EnergyTest {
    standardize: bool,
    permutations: u32,
    max_rows: usize,
    seed: u64,
}

impl EnergyTest {
    /// Options with their defaults; finish with [`compare`](Self::compare).
    pub fn builder() -> Self {
        Self { standardize: true, permutations: 200, max_rows: 1_000, seed: 0 }
    }

    /// Whether columns are divided by their standard deviation (default: yes).
    pub fn standardize(mut self, standardize: bool) -> Self {
        self.standardize = standardize;
        self
    }

    /// Random divisions behind the p-value, 19 to 100,000 (default 200).
    pub fn permutations(mut self, permutations: u32) -> Self {
        self.permutations = permutations;
        self
    }

    /// Most rows to use from each side, 2 to 10,000 (default 1,000). Memory is `8 (2 · max_rows)²` bytes.
    pub fn max_rows(mut self, max_rows: usize) -> Self {
        self.max_rows = max_rows;
        self
    }

    /// Seed of what is drawn (default 0).
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Compares two tables.
    ///
    /// # Errors
    /// - [`Error::InvalidInput`] naming the first option out of range, or a side without a finite row; or if distances
    ///   exceed the largest number.
    /// - [`Error::ShapeMismatch`] if the numbers of columns differ.
    pub fn compare(self, first: Rows<'_>, second: Rows<'_>) -> Result<Comparison> {
        check_permutations(self.permutations, self.max_rows)?;
        let mut sides = both(first, second, 1)?;
        let mut rng = Rng::new(self.seed);
        draw(&mut sides, self.max_rows, &mut rng);
        if self.standardize {
            let standard = Standard::of(&[&sides[0], &sides[1]]);
            sides.iter_mut().for_each(|side| standard.apply(side));
        }
        let sums = PairSums::new(&sides[0], &sides[1], |a, b| squared_distance(a, b).sqrt());
        let (n, m) = (sides[0].rows() as f64, sides[1].rows() as f64);
        let statistic = |g: Groups| 2.0 * g.between / (n * m) - g.first / (n * n) - g.second / (m * m);
        let groups = sums.observed();
        let observed = statistic(groups).max(0.0);
        if !(groups.first + groups.between + groups.second).is_finite() {
            return Err(Error::invalid(
                "first",
                "distances exceed the largest number, scale the columns or standardize",
            ));
        }
        let permuted = sums.permuted(self.permutations, &mut rng, statistic);
        let cross = 2.0 * groups.between / (n * m);
        let coefficient = if cross > 0.0 { (observed / cross).min(1.0) } else { 0.0 };
        let mut result = Comparison::new("energy", observed, [sides[0].rows() as u64, sides[1].rows() as u64])
            .p(permutation_p(observed, &permuted), PValueBy::Permutation)
            .effect("energy coefficient", coefficient, None, crate::metrics::DEFAULT_CONFIDENCE);
        result.skipped = [sides[0].skipped, sides[1].skipped];
        Ok(result)
    }
}

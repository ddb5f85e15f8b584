//! Tests on counts.

use super::tails::{chi2_sf, noncentral_chi2_sf, normal_two_sided, root};
use super::{CategoryCounts, Comparison, CountTable, PValueBy};
use crate::error::check_confidence;
use crate::metrics::wilson;
use crate::special::two_sided_z;
use crate::{Error, Result};

/// Pearson's chi-square test that two samples have the same shares of categories.
///
/// ```text
/// χ² = Σ (O - E)² / E        E: row sum · column sum / all rows; df = categories - 1, no continuity correction
/// ```
/// The effect is Cramér's V above its noise, `sqrt(max(0, χ² - df) / N)`: without the subtraction it grows with the
/// number of categories when nothing has changed. Its interval is that of the noncentrality, `sqrt(λ/N)` for the `λ`
/// at which `χ²` is the upper or lower quantile of a noncentral chi-square variable; it is an approximation that is
/// good for small and middling effects. The p-value is an approximation too; [`fisher_exact`] is exact for 2 × 2.
///
/// # Errors
/// [`Error::InvalidInput`] if `confidence` is not in (0, 1).
///
/// # Source
/// Pearson (1900), doi:10.1080/14786440009463897; Bergsma (2013), doi:10.1016/j.jkss.2012.10.002 (noise); Smithson
/// (2003), doi:10.4135/9781412983761 (interval). `tests/golden/two_sample.json`.
///
/// # Examples
/// ```
/// use mlops_monitor::two_sample::{CountTable, chi_square};
///
/// let test = chi_square(&CountTable::from_counts(&[10, 20, 30], &[20, 20, 20])?, 0.95)?;
/// assert!((test.statistic - 16.0 / 3.0).abs() < 1e-12);
/// # Ok::<(), mlops_monitor::Error>(())
/// ```
pub fn chi_square(table: &CountTable, confidence: f64) -> Result<Comparison> {
    check_confidence(confidence)?;
    let (n, m) = (table.n as f64, table.m as f64);
    // For two rows: Σ nm/(n+m) · (p - q)² / (pooled share · (n+m)/(n+m)), with every term from whole numbers.
    let statistic: f64 = table
        .pairs()
        .map(|(a, b)| {
            let gap = a * m - b * n;
            gap / n * gap / m / (a + b)
        })
        .sum();
    Ok(noncentral("chi_square", "cramer's v", statistic, table, confidence, |x| x.sqrt().min(1.0)))
}

/// Likelihood-ratio test (G-test) that two samples have the same shares of categories.
///
/// ```text
/// G = 2 Σ O ln(O/E)          df = categories - 1, no continuity correction
/// ```
/// The effect is the mutual information of sample and category above its noise, `max(0, G - df) / 2N` in nats, with
/// the interval of the noncentrality as in [`chi_square`].
///
/// # Errors
/// [`Error::InvalidInput`] if `confidence` is not in (0, 1).
///
/// # Source
/// Wilks (1935), doi:10.1214/aoms/1177732564. `tests/golden/two_sample.json`.
///
/// # Examples
/// ```
/// use mlops_monitor::two_sample::{CountTable, g_test};
///
/// let test = g_test(&CountTable::from_counts(&[10, 20, 30], &[20, 20, 20])?, 0.95)?;
/// assert!((test.statistic - 5.411_532).abs() < 1e-6);
/// # Ok::<(), mlops_monitor::Error>(())
/// ```
pub fn g_test(table: &CountTable, confidence: f64) -> Result<Comparison> {
    check_confidence(confidence)?;
    let (n, m) = (table.n as f64, table.m as f64);
    let all = n + m;
    // o ln(o/e) - o + e: the same sum, of terms that are all positive.
    let term = |o: f64, e: f64| {
        if o == 0.0 {
            return e;
        }
        let t = (e - o) / o;
        o * (t - t.ln_1p())
    };
    let half: f64 = table.pairs().map(|(a, b)| term(a, n / all * (a + b)) + term(b, m / all * (a + b))).sum();
    Ok(noncentral("g_test", "mutual information", 2.0 * half.max(0.0), table, confidence, |x| {
        (0.5 * x).min(std::f64::consts::LN_2)
    }))
}

/// A statistic that is noncentral chi-square, and the effect `scale(λ/N)`.
fn noncentral(
    method: &str,
    effect: &str,
    statistic: f64,
    table: &CountTable,
    level: f64,
    scale: impl Fn(f64) -> f64,
) -> Comparison {
    let df = table.first().len() as f64 - 1.0;
    let all = (table.n + table.m) as f64;
    let value = scale((statistic - df).max(0.0) / all);
    let (low, high) = if df == 0.0 { (0.0, 0.0) } else { noncentrality(statistic, df, level) };
    let interval = (scale(low / all).min(value), scale(high / all).max(value));
    Comparison::new(method, statistic, [table.n, table.m]).p(chi2_sf(statistic, df), PValueBy::Asymptotic).effect(
        effect,
        value,
        Some(interval),
        level,
    )
}

/// Interval for the noncentrality of a chi-square statistic.
fn noncentrality(x: f64, df: f64, level: f64) -> (f64, f64) {
    if x + df > 1e6 {
        // A noncentral chi-square variable is close to normal there.
        let z = two_sided_z(level);
        let spread = |lambda: f64| (2.0 * (df + 2.0 * lambda)).sqrt();
        let most = x + 40.0 * z * (x + df).sqrt() + 1e3;
        let low =
            if df + z * spread(0.0) >= x { 0.0 } else { root(0.0, x, |lambda| lambda + df + z * spread(lambda) - x) };
        return (low, root(0.0, most, |lambda| lambda + df - z * spread(lambda) - x));
    }
    let most = x + df + 40.0 * (x + df + 10.0).sqrt() * (1.0 + two_sided_z(level) / 4.0) + 40.0;
    quantile_interval(|lambda| noncentral_chi2_sf(x, df, lambda), most, level)
}

/// Where an upper tail that grows with its parameter is `alpha/2` and `1 - alpha/2`, in `[0, most]`.
pub(super) fn quantile_interval(tail: impl Fn(f64) -> f64, most: f64, level: f64) -> (f64, f64) {
    let alpha = 0.5 * (1.0 - level);
    // The interval is an approximation: eleven digits are plenty.
    let solve = |goal: f64| {
        let (mut low, mut high) = (0.0, most);
        while high - low > 1e-11 * high && high > 1e-12 {
            let middle = 0.5 * (low + high);
            if tail(middle) < goal { low = middle } else { high = middle }
        }
        0.5 * (low + high)
    };
    let at_zero = tail(0.0);
    let low = if at_zero >= alpha { 0.0 } else { solve(alpha) };
    let high = if at_zero >= 1.0 - alpha { 0.0 } else { solve(1.0 - alpha) };
    (low, high)
}

/// Fisher's exact test for a table of two categories, two-sided.
///
/// ```text
/// p = P(tables with the same sums that are at most as likely as this one)
/// ```
/// The statistic is the odds ratio `(a/b) / (c/d)` of first `[a, b]` and second `[c, d]`, infinite if only `b` or `c`
/// is 0, and 1 where a sum is 0. The effect is the conditional maximum likelihood estimate of its logarithm with the
/// exact interval of Cornfield, each end without a bound where there is none; it has no value if the estimate is not
/// finite, and then the effect is missing.
///
/// # Errors
/// [`Error::InvalidInput`] if `confidence` is not in (0, 1).
///
/// # Source
/// Fisher (1935), doi:10.2307/2342435; Cornfield (1956). `tests/golden/two_sample.json`.
///
/// # Examples
/// ```
/// use mlops_monitor::two_sample::fisher_exact;
///
/// let test = fisher_exact([8, 2], [1, 5], 0.95)?;
/// assert_eq!(test.statistic, 20.0);
/// assert!((test.p_value.unwrap() - 0.034_965).abs() < 1e-6);
/// # Ok::<(), mlops_monitor::Error>(())
/// ```
pub fn fisher_exact(first: [u64; 2], second: [u64; 2], confidence: f64) -> Result<Comparison> {
    check_confidence(confidence)?;
    for (what, side) in [("first", first), ("second", second)] {
        if side[0].checked_add(side[1]).is_none_or(|rows| rows > 1 << 32) {
            return Err(Error::invalid(what, "has more than 2^32 rows, use proportions"));
        }
    }
    let [a, b, c, d] = [first[0], first[1], second[0], second[1]].map(|x| x as f64);
    let n = [first[0] + first[1], second[0] + second[1]];
    let table = Hypergeometric::new(first, second);
    if table.low == table.high {
        return Ok(Comparison::new("fisher_exact", 1.0, n).p(1.0, PValueBy::Exact));
    }
    let odds = if b * c > 0.0 { a * d / (b * c) } else { f64::INFINITY };
    let result = Comparison::new("fisher_exact", odds, n).p(table.as_unlikely(), PValueBy::Exact);
    if table.seen == table.low || table.seen == table.high {
        return Ok(result);
    }
    let alpha = 0.5 * (1.0 - confidence);
    // The log odds of any table of this size that is not at an end, with room for the tails.
    let most = 80.0;
    let estimate = root(-most, most, |log| table.sums(log).mean - table.seen);
    let low = root(-most, estimate, |log| table.sums(log).at_or_above - alpha);
    let high = root(estimate, most, |log| alpha - table.sums(log).at_or_below);
    Ok(result.effect("log odds ratio", estimate, Some((low, high)), confidence))
}

/// The first cell of a 2 × 2 table with all sums given.
struct Hypergeometric {
    row: f64,
    column: f64,
    all: f64,
    low: f64,
    high: f64,
    seen: f64,
}

#[derive(Default)]
struct Sums {
    mean: f64,
    at_or_above: f64,
    at_or_below: f64,
    as_unlikely: f64,
}

impl Hypergeometric {
    fn new(first: [u64; 2], second: [u64; 2]) -> Self {
        let [row, column, other] = [first[0] + first[1], first[0] + second[0], second[0] + second[1]].map(|x| x as f64);
        let all = row + other;
        let (low, high) = ((column - other).max(0.0), row.min(column));
        Self { row, column, all, low, high, seen: first[0] as f64 }
    }

    /// `P(k + 1) / P(k)` without the odds.
    fn ratio(&self, k: f64) -> f64 {
        (self.row - k) * (self.column - k) / ((k + 1.0) * (self.all - self.row - self.column + k + 1.0))
    }

    fn as_unlikely(&self) -> f64 {
        self.sums(0.0).as_unlikely
    }

    /// Sums over the distribution whose odds ratio has this logarithm, outwards from its mode.
    fn sums(&self, log_odds: f64) -> Sums {
        let odds = log_odds.exp();
        let (mut left, mut right) = (self.low, self.high);
        while right - left > 0.5 {
            let middle = (0.5 * (left + right)).floor();
            if self.ratio(middle) * odds >= 1.0 { left = middle + 1.0 } else { right = middle }
        }
        let mode = left;
        let mut cells = Vec::new();
        let mut seen = None;
        // Every cell that counts in a sum, and on to the one seen if that is further out.
        let mut side = |up: bool| {
            let (mut k, mut weight) = (mode, 1.0);
            loop {
                if !(up && k == mode) {
                    cells.push((k, weight));
                }
                if k == self.seen {
                    seen = Some(weight);
                }
                let beyond = if up { k >= self.seen } else { k <= self.seen };
                if (weight < 1e-30 && beyond) || weight == 0.0 || k == if up { self.high } else { self.low } {
                    return;
                }
                if up {
                    weight *= self.ratio(k) * odds;
                    k += 1.0;
                } else {
                    k -= 1.0;
                    weight /= self.ratio(k) * odds;
                }
            }
        };
        side(false);
        side(true);
        let seen = seen.unwrap_or(0.0);
        // From the smallest, so that no digit of a small tail is lost.
        cells.sort_unstable_by(|a, b| a.1.total_cmp(&b.1));
        let mut sums = Sums::default();
        let mut all = 0.0;
        let mut from_mode = 0.0;
        for (k, weight) in cells {
            all += weight;
            from_mode += weight * (k - mode);
            if k >= self.seen {
                sums.at_or_above += weight;
            }
            if k <= self.seen {
                sums.at_or_below += weight;
            }
            if weight <= seen * (1.0 + 1e-7) {
                sums.as_unlikely += weight;
            }
        }
        sums.mean = mode + from_mode / all;
        sums.at_or_above /= all;
        sums.at_or_below /= all;
        sums.as_unlikely /= all;
        sums
    }
}

/// z-test that two shares are equal, with their difference.
///
/// ```text
/// z = (p - q) / sqrt(s(1 - s)(1/n + 1/m))         s: the share of both together
/// ```
/// `first` and `second` are hits and rows. The effect is `q - p`, second less first, with Newcombe's interval, which is
/// made of the Wilson intervals of both and holds for small samples too. The p-value is for many rows; see
/// [`fisher_exact`] for few.
///
/// # Errors
/// [`Error::InvalidInput`] if a side has no row or more hits than rows, or `confidence` is not in (0, 1).
///
/// # Source
/// Newcombe (1998), doi:10.1002/(SICI)1097-0258(19980430)17:8<873::AID-SIM779>3.0.CO;2-I, method 10.
/// `tests/golden/two_sample.json`.
///
/// # Examples
/// ```
/// let test = mlops_monitor::two_sample::proportions((50, 1_000), (80, 1_000), 0.95)?;
/// assert!((test.statistic + 2.7211).abs() < 1e-4);
/// assert!((test.effect.unwrap().value - 0.03).abs() < 1e-12);
/// # Ok::<(), mlops_monitor::Error>(())
/// ```
pub fn proportions(first: (u64, u64), second: (u64, u64), confidence: f64) -> Result<Comparison> {
    let named = |what: &str, (hits, rows): (u64, u64)| {
        if hits > rows || rows == 0 {
            return Err(Error::invalid(what, format!("needs a row at least and no more hits, got {hits} of {rows}")));
        }
        wilson(hits, rows, confidence)
    };
    let (p, q) = (named("first", first)?, named("second", second)?);
    let (n, m) = (first.1 as f64, second.1 as f64);
    let pooled = (first.0 as f64 + second.0 as f64) / (n + m);
    let spread = (pooled * (1.0 - pooled) * (1.0 / n + 1.0 / m)).sqrt();
    let z = if spread > 0.0 { (p.value - q.value) / spread } else { 0.0 };
    let change = q.value - p.value;
    let low = change - (q.value - q.low).hypot(p.high - p.value);
    let high = change + (q.high - q.value).hypot(p.value - p.low);
    Ok(Comparison::new("proportions", z, [first.1, second.1]).p(normal_two_sided(z), PValueBy::Asymptotic).effect(
        "difference",
        change,
        Some((low.max(-1.0), high.min(1.0))),
        confidence,
    ))
}

/// Change of the share of missing rows, as [`proportions`] of missing among all.
///
/// # Errors
/// [`Error::InvalidInput`] if a side has no row, or `confidence` is not in (0, 1).
///
/// # Examples
/// ```
/// use mlops_monitor::two_sample::{CategoryCounts, missing_shift};
///
/// let before: CategoryCounts = [Some("a"), Some("b")].into_iter().collect();
/// let after: CategoryCounts = [Some("a"), None].into_iter().collect();
/// assert_eq!(missing_shift(&before, &after, 0.95)?.effect.unwrap().value, 0.5);
/// # Ok::<(), mlops_monitor::Error>(())
/// ```
pub fn missing_shift(first: &CategoryCounts, second: &CategoryCounts, confidence: f64) -> Result<Comparison> {
    let mut result = proportions((first.missing(), first.rows()), (second.missing(), second.rows()), confidence)?;
    result.method = "missing_shift".to_owned();
    Ok(result)
}

/// Share of the rows of `second` in categories that `first` does not have; missing rows are in neither.
///
/// The statistic is the number of such categories, the effect the share of rows with its Wilson interval. There is no
/// p-value: if the categories of `first` were all there are, one row in another would be proof.
///
/// # Errors
/// [`Error::InvalidInput`] if `second` has no row with a category, or `confidence` is not in (0, 1).
///
/// # Examples
/// ```
/// use mlops_monitor::two_sample::{CategoryCounts, new_categories};
///
/// let before: CategoryCounts = [Some("a"), Some("b")].into_iter().collect();
/// let after: CategoryCounts = [Some("a"), Some("c"), Some("c"), Some("d")].into_iter().collect();
/// let shift = new_categories(&before, &after, 0.95)?;
/// assert_eq!((shift.statistic, shift.effect.unwrap().value), (2.0, 0.75));
/// # Ok::<(), mlops_monitor::Error>(())
/// ```
pub fn new_categories(first: &CategoryCounts, second: &CategoryCounts, confidence: f64) -> Result<Comparison> {
    check_confidence(confidence)?;
    let [known, rows] = [first, second].map(|side| side.rows().saturating_sub(side.missing()));
    if rows == 0 {
        return Err(Error::invalid("second", "has no row with a category"));
    }
    let (mut kinds, mut hits) = (0_u32, 0_u64);
    for (_, count) in second.iter().filter(|(category, _)| first.count(category) == 0) {
        kinds = kinds.saturating_add(1);
        hits = hits.saturating_add(count);
    }
    let share = wilson(hits, rows, confidence)?;
    let mut result = Comparison::new("new_categories", f64::from(kinds), [known, rows]).effect(
        "share of rows",
        share.value,
        Some((share.low, share.high)),
        confidence,
    );
    result.skipped = [first.missing(), second.missing()];
    Ok(result)
}

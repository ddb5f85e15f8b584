//! The finite values of a column in ascending order.

use crate::{Error, Result};

/// Most finite values on a side: integer sums over ranks stay exact below it.
const MOST_ROWS: usize = 1 << 30;
/// Below this many values a comparison sort is faster.
const RADIX_FROM: usize = 2_048;
const DIGIT_BITS: u32 = 11;
const DIGITS: usize = 1 << DIGIT_BITS;
/// Bits that the radix passes look at; equal ones are told apart by comparisons.
const RADIX_BITS: u32 = 3 * DIGIT_BITS;

/// The finite values of a column, sorted once for any number of tests.
///
/// Other values are counted as skipped. Sorting is by radix on the bits of the numbers: time proportional to the rows
/// for any distribution whose values differ in their first 33 bits after the range is taken away, and never more than
/// that of a comparison sort beyond it. -0 and 0 are one value.
///
/// # Examples
/// ```
/// use mlops_monitor::two_sample::Sorted;
///
/// let column = Sorted::new(&[3.0, f64::NAN, -1.0, 2.0]);
/// assert_eq!(column.values(), [-1.0, 2.0, 3.0]);
/// assert_eq!(column.skipped(), 1);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Sorted {
    values: Vec<f64>,
    skipped: u64,
}

impl Sorted {
    /// Sorts the finite values of a column.
    #[must_use]
    pub fn new(column: &[f64]) -> Self {
        // Adding 0 turns -0 into 0.
        let mut keys: Vec<u64> = Vec::with_capacity(column.len());
        keys.extend(column.iter().filter(|x| x.is_finite()).map(|x| key(x + 0.0)));
        sort_keys(&mut keys);
        Self { skipped: (column.len() - keys.len()) as u64, values: keys.into_iter().map(value).collect() }
    }

    /// The values in ascending order.
    #[must_use]
    pub fn values(&self) -> &[f64] {
        &self.values
    }

    /// Values left out because they were not finite.
    #[must_use]
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    pub(super) fn rows(&self) -> u64 {
        self.values.len() as u64
    }

    /// Mean and standard deviation (of the sample as a population) of the values; there is at least one.
    pub(super) fn moments(&self) -> (f64, f64) {
        let n = self.values.len() as f64;
        if let (Some(first), Some(last)) = (self.values.first(), self.values.last())
            && first == last
        {
            return (*first, 0.0);
        }
        let mean = self.values.iter().map(|x| x / n).sum::<f64>();
        // Scaled, as the square of a large number is not finite.
        let most = self.values.iter().fold(0.0_f64, |most, x| most.max((x - mean).abs()));
        if most == 0.0 || !most.is_finite() {
            return (mean, most);
        }
        let square: f64 = self.values.iter().map(|x| ((x - mean) / most).powi(2)).sum();
        (mean, most * (square / n).sqrt())
    }
}

/// Checks that both sides have from `least` to the most rows.
pub(super) fn check_sides(first: &Sorted, second: &Sorted, least: usize) -> Result<()> {
    for (what, side) in [("first", first), ("second", second)] {
        let rows = side.values.len();
        if rows < least {
            let wanted = if least == 1 { "value".to_owned() } else { format!("values, and {least} are needed") };
            let count = if rows == 0 { "no".to_owned() } else { format!("only {rows}") };
            return Err(Error::invalid(what, format!("has {count} finite {wanted} ({} skipped)", side.skipped)));
        }
        if rows > MOST_ROWS {
            return Err(Error::invalid(what, format!("has {rows} rows, at most {MOST_ROWS} can be compared")));
        }
    }
    Ok(())
}

/// An integer in the order of the numbers.
fn key(x: f64) -> u64 {
    let bits = x.to_bits();
    bits ^ (((bits as i64) >> 63) as u64 | (1 << 63))
}

fn value(key: u64) -> f64 {
    f64::from_bits(key ^ (((!key as i64) >> 63) as u64 | (1 << 63)))
}

fn sort_keys(keys: &mut Vec<u64>) {
    let n = keys.len();
    if n < RADIX_FROM || u32::try_from(n).is_err() {
        keys.sort_unstable();
        return;
    }
    let (least, most, mut sorted) = (keys.iter().copied().min(), keys.iter().copied().max(), true);
    for pair in keys.windows(2) {
        sorted &= pair[0] <= pair[1];
    }
    let (Some(least), Some(most)) = (least, most) else { return };
    if sorted {
        return;
    }
    let shift = (u64::BITS - (most - least).leading_zeros()).saturating_sub(RADIX_BITS);
    let mut starts = vec![[0_u32; DIGITS]; 3];
    for k in keys.iter() {
        let top = (k - least) >> shift;
        starts[0][top as usize % DIGITS] += 1;
        starts[1][(top >> DIGIT_BITS) as usize % DIGITS] += 1;
        starts[2][(top >> (2 * DIGIT_BITS)) as usize % DIGITS] += 1;
    }
    let mut other = vec![0_u64; n];
    for (pass, starts) in starts.iter_mut().enumerate() {
        if starts.iter().any(|count| *count as usize == n) {
            continue;
        }
        let mut sum = 0;
        for start in starts.iter_mut() {
            (*start, sum) = (sum, sum + *start);
        }
        let down = shift + pass as u32 * DIGIT_BITS;
        for k in keys.iter() {
            let start = &mut starts[((k - least) >> down) as usize % DIGITS];
            other[*start as usize] = *k;
            *start += 1;
        }
        std::mem::swap(keys, &mut other);
    }
    if shift > 0 {
        // Runs that agree in the bits looked at, in any order so far.
        let mut i = 1;
        while i < n {
            if keys[i] >= keys[i - 1] {
                i += 1;
                continue;
            }
            let top = (keys[i] - least) >> shift;
            let mut from = i - 1;
            while from > 0 && (keys[from - 1] - least) >> shift == top {
                from -= 1;
            }
            let mut to = i + 1;
            while to < n && (keys[to] - least) >> shift == top {
                to += 1;
            }
            keys[from..to].sort_unstable();
            i = to;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(seed: u64, n: usize) -> impl Iterator<Item = u64> {
        (0..n as u64).map(move |i| {
            let z = (i + seed).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            (z ^ (z >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9)
        })
    }

    #[test]
    fn a_column_of_any_kind_is_sorted() {
        let n = 10_000;
        let uniform = |z: u64| (z >> 11) as f64 * 2.0_f64.powi(-53);
        let columns: Vec<Vec<f64>> = vec![
            noise(1, n).map(f64::from_bits).collect(),
            noise(2, n).map(uniform).collect(),
            noise(3, n).map(|z| uniform(z) - 0.5).collect(),
            noise(4, n).map(|z| (z % 7) as f64).collect(),
            noise(5, n).map(|z| 1e15 + uniform(z) * 40.0).chain([f64::MAX, f64::MIN]).collect(),
            noise(6, n).map(|z| f64::from_bits(z % 1_000_000)).collect(),
            noise(7, n).map(|z| if z % 2 == 0 { -0.0 } else { 0.0 }).collect(),
            (0..n).map(|i| i as f64).collect(),
            (0..n).rev().map(|i| i as f64).collect(),
            vec![3.0; n],
        ];
        for (i, column) in columns.iter().enumerate() {
            let mut want: Vec<f64> = column.iter().copied().filter(|x| x.is_finite()).collect();
            want.sort_by(f64::total_cmp);
            let got = Sorted::new(column);
            assert_eq!(got.values(), want, "column {i}");
            assert_eq!(got.skipped() as usize, column.len() - want.len(), "column {i}");
        }
    }
}

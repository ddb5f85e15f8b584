//! Tables of numbers, and what their tests share: drawing, standardising, dividing at random.

use crate::{Error, Result};

/// A table of numbers: a view of row after row in one slice.
///
/// # Examples
/// ```
/// use mlops_monitor::two_sample::Rows;
///
/// let rows = Rows::new(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 3)?;
/// assert_eq!((rows.len(), rows.columns()), (2, 3));
/// assert!(Rows::new(&[1.0, 2.0, 3.0], 2).is_err());
/// # Ok::<(), mlops_monitor::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rows<'a> {
    data: &'a [f64],
    columns: usize,
}

impl<'a> Rows<'a> {
    /// Views `data` as rows of `columns` numbers.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if `columns` is 0 or the length of `data` is no multiple of it.
    pub fn new(data: &'a [f64], columns: usize) -> Result<Self> {
        if columns == 0 {
            return Err(Error::invalid("columns", "must be at least 1"));
        }
        if !data.len().is_multiple_of(columns) {
            let reason = format!("has {} numbers, which is no multiple of {columns} columns", data.len());
            return Err(Error::invalid("data", reason));
        }
        Ok(Self { data, columns })
    }

    /// Number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.data.len() / self.columns
    }

    /// Whether there is no row.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// Numbers in each row.
    #[must_use]
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// The rows, one slice each.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &'a [f64]> + use<'a> {
        self.data.chunks_exact(self.columns)
    }
}

/// Owned rows without those that have a value that is not finite.
#[derive(Clone, Debug)]
pub(super) struct Table {
    pub(super) data: Vec<f64>,
    pub(super) columns: usize,
    pub(super) skipped: u64,
}

impl Table {
    pub(super) fn finite(rows: Rows<'_>) -> Self {
        let mut data = Vec::with_capacity(rows.data.len());
        let mut skipped = 0;
        for row in rows.iter() {
            if row.iter().all(|x| x.is_finite()) {
                data.extend_from_slice(row);
            } else {
                skipped += 1;
            }
        }
        Self { data, columns: rows.columns, skipped }
    }

    pub(super) fn rows(&self) -> usize {
        self.data.len() / self.columns
    }

    pub(super) fn row(&self, i: usize) -> &[f64] {
        &self.data[i * self.columns..(i + 1) * self.columns]
    }

    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = &[f64]> {
        self.data.chunks_exact(self.columns)
    }

    /// At most `most` rows, drawn without replacement.
    fn draw(&mut self, most: usize, rng: &mut Rng) {
        let n = self.rows();
        if n <= most {
            return;
        }
        // Ascending, so that the first rows to be overwritten have been copied.
        let mut chosen = rng.choose(n, most);
        chosen.sort_unstable();
        for (to, from) in chosen.into_iter().enumerate() {
            self.data.copy_within(from * self.columns..(from + 1) * self.columns, to * self.columns);
        }
        self.data.truncate(most * self.columns);
    }
}

/// The finite rows of both sides; each has `least` at least.
pub(super) fn both(first: Rows<'_>, second: Rows<'_>, least: usize) -> Result<[Table; 2]> {
    if first.columns != second.columns {
        return Err(Error::shape("second", first.columns, second.columns));
    }
    let sides = [Table::finite(first), Table::finite(second)];
    for (what, side) in ["first", "second"].into_iter().zip(&sides) {
        if side.rows() < least {
            let reason = format!("has {} finite rows, and {least} are needed ({} skipped)", side.rows(), side.skipped);
            return Err(Error::invalid(what, reason));
        }
    }
    Ok(sides)
}

/// Draws at most `most` rows from each side.
pub(super) fn draw(sides: &mut [Table; 2], most: usize, rng: &mut Rng) {
    for side in sides {
        side.draw(most, rng);
    }
}

/// Centre and scale of columns; the scale of a constant is 1.
#[derive(Clone, Debug)]
pub(super) struct Standard {
    pub(super) mean: Vec<f64>,
    pub(super) sd: Vec<f64>,
}

impl Standard {
    /// Mean and population standard deviation of the columns of all tables together.
    pub(super) fn of(tables: &[&Table]) -> Self {
        let columns = tables[0].columns;
        let rows = tables.iter().map(|t| t.rows()).sum::<usize>().max(1) as f64;
        let (mut mean, mut most, mut square) = (vec![0.0; columns], vec![0.0_f64; columns], vec![0.0; columns]);
        let each = |f: &mut dyn FnMut(usize, f64)| {
            for row in tables.iter().flat_map(|t| t.iter()) {
                row.iter().enumerate().for_each(|(j, x)| f(j, *x));
            }
        };
        // Divided before they are summed, and scaled before they are squared: no sum overflows.
        each(&mut |j, x| mean[j] += x / rows);
        each(&mut |j, x| most[j] = most[j].max((0.5 * x - 0.5 * mean[j]).abs()));
        each(&mut |j, x| {
            if most[j] > 0.0 {
                square[j] += ((0.5 * x - 0.5 * mean[j]) / most[j]).powi(2) / rows;
            }
        });
        let sd = most.iter().zip(&square).zip(&mean).map(|((most, square), mean)| {
            let sd = most * square.sqrt() * 2.0;
            // What rounding of the mean leaves of a constant is no spread.
            if sd.is_finite() && sd > 1e-14 * mean.abs() {
                sd
            } else if sd.is_finite() {
                1.0
            } else {
                f64::MAX
            }
        });
        Self { sd: sd.collect(), mean }
    }

    pub(super) fn apply(&self, table: &mut Table) {
        for row in table.data.chunks_exact_mut(table.columns) {
            for ((x, mean), sd) in row.iter_mut().zip(&self.mean).zip(&self.sd) {
                // Halves, as the difference of two large numbers is not finite.
                *x = (0.5 * *x - 0.5 * mean) / sd * 2.0;
            }
        }
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014, doi:10.1145/2660193.2660195).
#[derive(Clone, Debug)]
pub(super) struct Rng(u64);

impl Rng {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// In (0, 1).
    pub(super) fn uniform(&mut self) -> f64 {
        ((self.next() >> 11) as f64 + 0.5) * 2.0_f64.powi(-53)
    }

    /// Below `n`; off by `n / 2^64` at most.
    pub(super) fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.next()) * n as u128) >> 64) as usize
    }

    pub(super) fn normal(&mut self) -> f64 {
        crate::special::normal_quantile(self.uniform())
    }

    pub(super) fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }

    /// `k` of the numbers below `n`, in random order.
    pub(super) fn choose(&mut self, n: usize, k: usize) -> Vec<usize> {
        let mut all: Vec<usize> = (0..n).collect();
        for i in 0..k.min(n) {
            let j = i + self.below(n - i);
            all.swap(i, j);
        }
        all.truncate(k);
        all
    }
}

/// Sums of a symmetric matrix over the pairs within and between two groups, for groups drawn at random.
pub(super) struct PairSums {
    matrix: Vec<f64>,
    rows: Vec<f64>,
    total: f64,
    n: usize,
    all: usize,
}

/// Sums over ordered pairs of different rows: within the first, between, within the second.
#[derive(Clone, Copy)]
pub(super) struct Groups {
    pub(super) first: f64,
    pub(super) between: f64,
    pub(super) second: f64,
}

impl PairSums {
    /// `value` for each pair of different rows; the diagonal is 0.
    pub(super) fn new(first: &Table, second: &Table, value: impl Fn(&[f64], &[f64]) -> f64) -> Self {
        let (n, all) = (first.rows(), first.rows() + second.rows());
        let row = |i: usize| if i < n { first.row(i) } else { second.row(i - n) };
        let mut matrix = vec![0.0; all * all];
        for i in 0..all {
            for j in 0..i {
                let x = value(row(i), row(j));
                matrix[i * all + j] = x;
                matrix[j * all + i] = x;
            }
        }
        let rows: Vec<f64> = matrix.chunks_exact(all).map(|row| row.iter().sum()).collect();
        Self { total: rows.iter().sum(), matrix, rows, n, all }
    }

    /// For each row, the sums over rows of the first group and of the second.
    pub(super) fn by_row(&self) -> impl Iterator<Item = (f64, f64)> {
        self.matrix.chunks_exact(self.all).zip(&self.rows).map(|(row, sum)| {
            let first: f64 = row[..self.n].iter().sum();
            (first, sum - first)
        })
    }

    pub(super) fn observed(&self) -> Groups {
        let members: Vec<usize> = (0..self.n).collect();
        self.groups(&members)
    }

    /// The sums if the first group is `members`.
    fn groups(&self, members: &[usize]) -> Groups {
        let mut first = 0.0;
        for i in members {
            let row = &self.matrix[i * self.all..(i + 1) * self.all];
            first += members.iter().map(|j| row[*j]).sum::<f64>();
        }
        let touching: f64 = members.iter().map(|i| self.rows[*i]).sum();
        let between = touching - first;
        Groups { first, between, second: self.total - first - 2.0 * between }
    }

    /// Statistics of `times` random divisions into groups of the same sizes.
    pub(super) fn permuted(&self, times: u32, rng: &mut Rng, statistic: impl Fn(Groups) -> f64) -> Vec<f64> {
        let small = self.n.min(self.all - self.n);
        let mut order: Vec<usize> = (0..self.all).collect();
        (0..times)
            .map(|_| {
                for i in 0..small {
                    let j = i + rng.below(self.all - i);
                    order.swap(i, j);
                }
                // Ascending, so that the matrix is read in order.
                let mut members = order[..small].to_vec();
                members.sort_unstable();
                let groups = self.groups(&members);
                statistic(if small == self.n {
                    groups
                } else {
                    Groups { first: groups.second, between: groups.between, second: groups.first }
                })
            })
            .collect()
    }
}

/// `(1 + #{permuted >= observed}) / (1 + times)`: never 0, and exact whatever the number of divisions.
pub(super) fn permutation_p(observed: f64, permuted: &[f64]) -> f64 {
    // A division that is the observed one with its sums in another order counts as equal.
    let slack = 1e-12 * permuted.iter().fold(observed.abs(), |most, x| most.max(x.abs()));
    let as_large = permuted.iter().filter(|x| **x >= observed - slack).count();
    (1.0 + as_large as f64) / (1.0 + permuted.len() as f64)
}

pub(super) fn check_permutations(permutations: u32, max_rows: usize) -> Result<()> {
    if !(19..=100_000).contains(&permutations) {
        return Err(Error::invalid("permutations", format!("must lie in 19..=100000, got {permutations}")));
    }
    if !(2..=10_000).contains(&max_rows) {
        return Err(Error::invalid("max_rows", format!("must lie in 2..=10000, got {max_rows}")));
    }
    Ok(())
}

pub(super) fn squared_distance(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| (x - y) * (x - y)).sum()
}

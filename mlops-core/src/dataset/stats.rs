//! What a column holds, in one pass and little memory: counts, bounds, moments, and sketches of its distribution.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int64Array, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Decimal128Type, Decimal256Type, Float64Type, Int64Type, UInt64Type};
use datasketches::common::{NumStdDev, SearchCriteria};
use datasketches::hll::{HllSketch, HllType, HllUnion};
use datasketches::kll::{KllFloat, KllSketch};
use serde::{Deserialize, Serialize};

use super::expr::{Value, is_text};
use crate::{Error, Result};

/// What sketches are made now: of every number, and of whole numbers as such. Those of format 0 were made of samples
/// without weights, and of whole numbers as floats: they cannot be merged with others.
const FORMAT: u8 = 1;
/// Bound texts longer than this are not kept: there is no bound then on that side.
const LONGEST_BOUND: usize = 256;

/// What is known of one column of some rows. Mergeable: counts and bounds exactly, moments up to rounding.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct ColumnStats {
    /// Its rows.
    pub rows: u64,
    /// Its nulls.
    pub nulls: u64,
    /// Its NaNs, which are not nulls.
    pub nans: u64,
    /// Its smallest value, NaN apart; none for a column without values, of a type without order, or of long text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min: Option<Value>,
    /// Its largest value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<Value>,
    /// The mean of its finite numbers.
    #[serde(with = "crate::json::lossless_f64")]
    pub mean: f64,
    /// The sum of squared differences of its finite numbers from their mean.
    #[serde(with = "crate::json::lossless_f64")]
    pub m2: f64,
    /// How many finite numbers it has.
    pub finite: u64,
    /// Whether a bound was left out for its length.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub unbounded: bool,
    /// Whether nothing is known of some of the rows: counts and bounds are then those of the others.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub unknown: bool,
}

impl ColumnStats {
    /// Standard deviation of the finite numbers, with `n - 1`; NaN below two of them.
    #[must_use]
    pub fn std(&self) -> f64 {
        if self.finite < 2 { f64::NAN } else { (self.m2 / (self.finite - 1) as f64).sqrt() }
    }

    /// The share of nulls, in `[0, 1]`; 0 for no rows.
    #[must_use]
    pub fn null_rate(&self) -> f64 {
        if self.rows == 0 { 0.0 } else { self.nulls as f64 / self.rows as f64 }
    }

    /// Adds what is known of other rows of the column.
    pub fn merge(&mut self, other: &Self) {
        use std::cmp::Ordering::{Greater, Less};
        let (a, b) = (self.finite as f64, other.finite as f64);
        if self.finite == 0 {
            (self.mean, self.m2) = (other.mean, other.m2);
        } else if other.finite > 0 {
            // Chan, Golub and LeVeque 1983: pairwise update of mean and m2.
            let delta = other.mean - self.mean;
            let mean = self.mean + delta * (b / (a + b));
            // The difference of two numbers may be none, their mean is one.
            self.mean = if mean.is_finite() { mean } else { self.mean * (a / (a + b)) + other.mean * (b / (a + b)) };
            self.m2 += other.m2 + delta * delta * (a / (a + b)) * b;
        }
        let had_values = self.rows > self.nulls + self.nans;
        let has_values = other.rows > other.nulls + other.nans;
        self.rows += other.rows;
        self.nulls += other.nulls;
        self.nans += other.nans;
        self.finite += other.finite;
        self.unbounded |= other.unbounded;
        self.unknown |= other.unknown;
        let pick = |mine: &Option<Value>, theirs: &Option<Value>, wanted| match (mine, theirs) {
            _ if !has_values => mine.clone(),
            _ if !had_values => theirs.clone(),
            (Some(mine), Some(theirs)) => match theirs.order(mine) {
                Some(order) if order == wanted => Some(theirs.clone()),
                Some(_) => Some(mine.clone()),
                None => None,
            },
            // One side has values and no bound: neither has the whole.
            _ => None,
        };
        self.min = pick(&self.min, &other.min, Less);
        self.max = pick(&self.max, &other.max, Greater);
    }

    /// Learns from one array of the column.
    fn update(&mut self, array: &ArrayRef) -> Result<()> {
        let mut seen = Self { rows: array.len() as u64, nulls: array.logical_null_count() as u64, ..Self::default() };
        let kind = array.data_type();
        if kind.is_floating() || matches!(kind, DataType::Decimal128(..) | DataType::Decimal256(..)) {
            let numbers = cast(array, &DataType::Float64)?;
            seen.numbers(numbers.as_primitive::<Float64Type>().iter().flatten(), Value::Float);
        } else if *kind == DataType::UInt64 {
            // Half of them are no `i64`, and as floats their bounds would be rounded: it has none.
            let numbers = cast(array, &DataType::Float64)?;
            seen.numbers(numbers.as_primitive::<Float64Type>().iter().flatten(), Value::Float);
            seen.min = None;
            seen.max = None;
        } else if kind.is_integer() || kind.is_temporal() && !matches!(kind, DataType::Interval(_)) {
            let numbers = whole(array)?;
            let numbers = numbers.as_primitive::<Int64Type>();
            seen.numbers(numbers.iter().flatten().map(|v| v as f64), Value::Float);
            seen.min = arrow::compute::min(numbers).map(Value::Int);
            seen.max = arrow::compute::max(numbers).map(Value::Int);
        } else if *kind == DataType::Boolean {
            let flags: &BooleanArray = array.as_boolean();
            seen.min = arrow::compute::min_boolean(flags).map(Value::Bool);
            seen.max = arrow::compute::max_boolean(flags).map(Value::Bool);
        } else if is_text(kind) {
            let texts = cast(array, &DataType::LargeUtf8)?;
            let texts = texts.as_string::<i64>();
            let bound = |text: Option<&str>| text.filter(|t| t.len() <= LONGEST_BOUND).map(Value::from);
            let (min, max) = (arrow::compute::min_string(texts), arrow::compute::max_string(texts));
            seen.unbounded = [min, max].iter().flatten().any(|t| t.len() > LONGEST_BOUND);
            (seen.min, seen.max) = (bound(min), bound(max));
        }
        self.merge(&seen);
        Ok(())
    }

    fn numbers(&mut self, values: impl Iterator<Item = f64> + Clone, bound: fn(f64) -> Value) {
        let (mut low, mut high, mut sum) = (f64::INFINITY, f64::NEG_INFINITY, 0.0);
        for value in values.clone() {
            if value.is_nan() {
                self.nans += 1;
                continue;
            }
            (low, high) = (low.min(value), high.max(value));
            if value.is_finite() {
                self.finite += 1;
                sum += value;
            }
        }
        if low <= high {
            (self.min, self.max) = (Some(bound(low)), Some(bound(high)));
        }
        if self.finite > 0 {
            let n = self.finite as f64;
            let finite = values.filter(|v| v.is_finite());
            // A sum may be no number where the mean is one.
            self.mean = if f64::is_finite(sum) { sum / n } else { finite.clone().map(|v| v / n).sum() };
            self.m2 = finite.map(|v| (v - self.mean) * (v - self.mean)).sum();
        }
    }
}

/// A whole-number or time column as `i64`, in its own units.
pub(super) fn whole(array: &ArrayRef) -> Result<ArrayRef> {
    let narrow = matches!(array.data_type(), DataType::Date32 | DataType::Time32(_));
    let array = if narrow { cast(array, &DataType::Int32)? } else { Arc::clone(array) };
    Ok(cast(&array, &DataType::Int64)?)
}

type Quantiles = KllSketch<KllFloat<f64>>;

/// Statistics of a column with sketches of its quantiles and of its number of distinct values.
///
/// # Errors of the sketches
/// A quantile's rank is off by at most 1.33 % at 99 % (KLL, k = 200), however the rows were divided. The number of distinct
/// values is off by 1.6 % (HyperLogLog, 4,096 registers, one standard deviation); 0 and -0 are one, and so are all NaNs.
///
/// # Source
/// Crate `datasketches`, the Apache DataSketches KLL (Karnin, Lang, Liberty 2016) and HLL sketches.
#[derive(Clone, Debug)]
pub struct ColumnSketch {
    /// Counts, bounds and moments.
    pub stats: ColumnStats,
    quantiles: Quantiles,
    distinct: HllSketch,
    format: u8,
}

#[derive(Serialize, Deserialize)]
struct Kept {
    #[serde(default)]
    format: u8,
    stats: ColumnStats,
    quantiles: String,
    distinct: String,
}

impl ColumnSketch {
    pub(super) fn new() -> Result<Self> {
        let quantiles = Quantiles::new(200).map_err(unusable)?;
        let distinct = HllSketch::new(12, HllType::Hll8).map_err(unusable)?;
        Ok(Self { stats: ColumnStats::default(), quantiles, distinct, format: FORMAT })
    }

    /// Whether it was made as they are made now.
    pub(super) fn is_current(&self) -> bool {
        self.format == FORMAT
    }

    /// Learns from one array of the column.
    pub(super) fn update(&mut self, array: &ArrayRef) -> Result<()> {
        self.stats.update(array)?;
        let kind = array.data_type();
        if kind.is_numeric() || kind.is_temporal() && !matches!(kind, DataType::Interval(_)) {
            self.count(array)?;
            let numbers: Float64Array = if kind.is_temporal() {
                let whole = whole(array)?;
                let whole: &Int64Array = whole.as_primitive::<Int64Type>();
                whole.unary(|v| v as f64)
            } else {
                cast(array, &DataType::Float64)?.as_primitive::<Float64Type>().clone()
            };
            // Those that are no numbers cannot be made a `KllFloat`.
            let numbers = numbers.iter().flatten().filter_map(|value| KllFloat::<f64>::new(value).ok());
            numbers.for_each(|value| self.quantiles.update(value));
        } else if is_text(kind) {
            let texts = cast(array, &DataType::LargeUtf8)?;
            texts.as_string::<i64>().iter().flatten().for_each(|text| self.distinct.update(text));
        } else if *kind == DataType::Boolean {
            array.as_boolean().iter().flatten().for_each(|flag| self.distinct.update(flag));
        }
        Ok(())
    }

    /// Counts distinct numbers, each as its own type has it: as floats, near ones would be one.
    fn count(&mut self, array: &ArrayRef) -> Result<()> {
        let distinct = &mut self.distinct;
        match array.data_type() {
            DataType::UInt64 => {
                array.as_primitive::<UInt64Type>().iter().flatten().for_each(|value| distinct.update(value));
            }
            DataType::Decimal32(_, scale) | DataType::Decimal64(_, scale) | DataType::Decimal128(_, scale) => {
                let whole = cast(array, &DataType::Decimal128(38, *scale))?;
                whole.as_primitive::<Decimal128Type>().iter().flatten().for_each(|value| distinct.update(value));
            }
            DataType::Decimal256(..) => {
                let whole = array.as_primitive::<Decimal256Type>().iter().flatten();
                whole.for_each(|value| distinct.update(value.to_le_bytes()));
            }
            kind if kind.is_floating() => {
                let numbers = cast(array, &DataType::Float64)?;
                for value in numbers.as_primitive::<Float64Type>().iter().flatten() {
                    let value = if value.is_nan() { f64::NAN } else { value + 0.0 };
                    distinct.update(value.to_bits());
                }
            }
            _ => whole(array)?.as_primitive::<Int64Type>().iter().flatten().for_each(|value| distinct.update(value)),
        }
        Ok(())
    }

    /// Adds what is known of other rows of the column.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if the sketches are of other sizes or formats.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        if self.format != other.format {
            let reason = format!("of format {} does not merge with one of format {}", other.format, self.format);
            return Err(Error::invalid("sketch", reason));
        }
        self.stats.merge(&other.stats);
        self.quantiles.merge(&other.quantiles).map_err(unusable)?;
        let mut union = HllUnion::new(12).map_err(unusable)?;
        union.update(&self.distinct);
        union.update(&other.distinct);
        self.distinct = union.to_sketch(HllType::Hll8);
        Ok(())
    }

    /// About how many distinct values there are, with a range that holds the number in 95 of 100 cases. Columns of
    /// nested types are not counted.
    #[must_use]
    pub fn distinct(&self) -> (f64, [f64; 2]) {
        let range = [self.distinct.lower_bound(NumStdDev::Two), self.distinct.upper_bound(NumStdDev::Two)];
        (self.distinct.estimate(), range)
    }

    /// The value below which a share `rank` of the numbers lies; none for a column without numbers.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] for a rank outside `[0, 1]`.
    pub fn quantile(&self, rank: f64) -> Result<Option<f64>> {
        if !(0.0..=1.0).contains(&rank) {
            return Err(Error::invalid("rank", format!("{rank} is not within 0 and 1")));
        }
        if self.quantiles.is_empty() {
            return Ok(None);
        }
        let found = self.quantiles.quantile(rank, SearchCriteria::Inclusive).map_err(unusable)?;
        Ok(found.map(KllFloat::into_inner))
    }

    /// The greatest difference between the shares of two columns that lie below a value: the Kolmogorov–Smirnov
    /// distance, in `[0, 1]`, with the error of both sketches. None if a column has no numbers.
    #[must_use]
    pub fn distance(&self, other: &Self) -> Option<(f64, f64)> {
        if self.quantiles.is_empty() || other.quantiles.is_empty() {
            return None;
        }
        let cuts = |sketch: &Quantiles| -> Vec<KllFloat<f64>> {
            let at = (0..=100).map(|i| f64::from(i) / 100.0);
            at.filter_map(|rank| sketch.quantile(rank, SearchCriteria::Inclusive).ok().flatten()).collect()
        };
        let below = |sketch: &Quantiles, at: &KllFloat<f64>, criteria| sketch.rank(at, criteria).unwrap_or(0.0);
        let distance = cuts(&self.quantiles)
            .iter()
            .chain(&cuts(&other.quantiles))
            .flat_map(|at| {
                [SearchCriteria::Inclusive, SearchCriteria::Exclusive]
                    .map(|c| (below(&self.quantiles, at, c) - below(&other.quantiles, at, c)).abs())
            })
            .fold(0.0, f64::max);
        let error = |sketch: &Quantiles| {
            let sampled = (f64::ln(200.0) / (2.0 * sketch.n() as f64)).sqrt();
            sampled + if sketch.is_estimation_mode() { sketch.normalized_rank_error() } else { 0.0 }
        };
        Some((distance, error(&self.quantiles) + error(&other.quantiles)))
    }
}

impl Serialize for ColumnSketch {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (quantiles, distinct) = (hex(&self.quantiles.serialize()), hex(&self.distinct.serialize()));
        Kept { format: self.format, stats: self.stats.clone(), quantiles, distinct }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for ColumnSketch {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error as _;
        let kept = Kept::deserialize(deserializer)?;
        let bytes = |text: &str| unhex(text).ok_or_else(|| D::Error::custom("a sketch is not hexadecimal"));
        let quantiles = Quantiles::deserialize(&bytes(&kept.quantiles)?).map_err(D::Error::custom)?;
        let distinct = HllSketch::deserialize(&bytes(&kept.distinct)?).map_err(D::Error::custom)?;
        Ok(Self { stats: kept.stats, quantiles, distinct, format: kept.format })
    }
}

/// Learns from all columns of `batch`, one sketch each.
pub(super) fn update(sketches: &mut [ColumnSketch], batch: &RecordBatch) -> Result<()> {
    sketches.iter_mut().zip(batch.columns()).try_for_each(|(sketch, array)| sketch.update(array))
}

pub(super) fn empty(columns: usize) -> Result<Vec<ColumnSketch>> {
    (0..columns).map(|_| ColumnSketch::new()).collect()
}

fn unusable(error: datasketches::error::Error) -> Error {
    Error::invalid("sketch", error)
}

/// The finaliser of SplitMix64: spreads a number over all bits.
pub(super) fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes.iter().flat_map(|b| [b >> 4, b & 15]).map(|d| char::from(DIGITS[usize::from(d)])).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |c: u8| char::from(c).to_digit(16);
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return None };
    pairs.iter().map(|[high, low]| u8::try_from(digit(*high)? * 16 + digit(*low)?).ok()).collect()
}

#[cfg(test)]
mod tests {
    use arrow::array::{Decimal128Array, UInt64Array};

    use super::*;

    /// A share of 1.33 % is exceeded once in a hundred queries: twice that, five standard deviations, never.
    const RANK: f64 = 2.0 * 0.0133;
    /// Five standard deviations of HyperLogLog with 4,096 registers, 1.04 / 64 each.
    const COUNT: f64 = 5.0 * 1.04 / 64.0;

    fn sketch(array: impl Array + 'static) -> ColumnSketch {
        let mut sketch = ColumnSketch::new().unwrap();
        sketch.update(&(Arc::new(array) as ArrayRef)).unwrap();
        sketch
    }

    fn floats(values: impl IntoIterator<Item = f64>) -> ColumnSketch {
        sketch(Float64Array::from_iter_values(values))
    }

    #[test]
    fn many_small_parts_weigh_what_their_rows_weigh() {
        // A million rows in [0, 1), in an order that is none, and 64 parts of 16,000 rows in [1, 2).
        let old = (0..1_000_000u64).map(|i| (i * 611_953 % 1_000_000) as f64 / 1e6);
        let part =
            |k: u64| (0..16_000u64).map(move |i| 1.0 + ((i * 64 + k) * 611_953 % 1_024_000) as f64 / 1_024_000.0);
        let mut merged = floats(old.clone());
        (0..64).for_each(|k| merged.merge(&floats(part(k))).unwrap());
        let once = floats(old.chain((0..64).flat_map(part)));
        assert_eq!(merged.stats.rows, 2_024_000);
        let share = |x: f64| if x < 1.0 { x * 1_000.0 / 2_024.0 } else { (1_000.0 + (x - 1.0) * 1_024.0) / 2_024.0 };
        for rank in [0.01, 0.1, 0.25, 0.4, 0.49, 0.5, 0.6, 0.75, 0.9, 0.99] {
            for (sketch, told) in [(&merged, "merged"), (&once, "in one pass")] {
                let found = share(sketch.quantile(rank).unwrap().unwrap());
                assert!((found - rank).abs() < RANK, "{told}: {found} for {rank}");
            }
        }
        let (distance, _) = merged.distance(&once).unwrap();
        assert!(distance < 2.0 * RANK, "{distance}");
    }

    #[test]
    fn distinct_numbers_are_counted_as_their_type_has_them() {
        let near = |n: i64| (1i64 << 60)..(1 << 60) + n;
        let decimals = Decimal128Array::from_iter_values(near(100_000).map(i128::from));
        for (sketch, told) in [
            (sketch(Int64Array::from_iter_values(near(100_000))), "i64"),
            (sketch(UInt64Array::from_iter_values(near(100_000).map(|i| u64::MAX - i as u64))), "u64"),
            (sketch(decimals.with_precision_and_scale(38, 3).unwrap()), "decimal"),
            (floats((0..100_000).map(f64::from)), "f64"),
        ] {
            let (found, _) = sketch.distinct();
            assert!((found / 100_000.0 - 1.0).abs() < COUNT, "{told}: {found}");
        }
        let one = f64::from_bits(f64::NAN.to_bits() + 1);
        let (found, _) = floats([0.0, -0.0, f64::NAN, one, -f64::NAN, 1.0]).distinct();
        assert!((found - 3.0).abs() < 0.01, "{found}: 0, 1 and NaN");
    }

    #[test]
    fn the_mean_of_numbers_is_a_number() {
        let huge = [1e308; 10];
        let whole = floats(huge).stats;
        assert!((whole.mean / 1e308 - 1.0).abs() < 1e-12, "{whole:?}");
        let mut merged = ColumnStats::default();
        huge.chunks(3).for_each(|part| merged.merge(&floats(part.iter().copied()).stats));
        assert!((merged.mean / 1e308 - 1.0).abs() < 1e-12, "{merged:?}");
        let mut both = floats([1e308; 4]).stats;
        both.merge(&floats([-1e308; 4]).stats);
        assert!(both.mean.abs() < 1e295 && !both.m2.is_nan(), "{both:?}");
        let small = floats((0..1_000).map(|i| 0.1 * f64::from(i))).stats;
        assert!((small.mean - 49.95).abs() < 1e-12 && (small.std() - 28.881_943_609_574_94).abs() < 1e-9, "{small:?}");
    }
}

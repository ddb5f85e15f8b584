//! The profile of one column.

use std::fmt;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Decimal128Type, Decimal256Type, Float64Type, Int32Type, Int64Type, UInt64Type};
use serde::{Deserialize, Serialize};

use super::distinct::{hash_bits, hash_bytes};
use super::text::Letters;
use super::{Categories, Distinct, FrequentItem, NumberProfile, TextProfile};
use crate::drift::BinCounts;
use crate::metrics::DEFAULT_CONFIDENCE;
use crate::{Error, Estimate, Result};

/// What the values of a column are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ColumnKind {
    /// Integers, floats of any width, decimals.
    Number,
    /// Dates, times, timestamps and durations, as whole numbers of their unit.
    Time,
    /// True or false.
    Boolean,
    /// Text, plain, as views or by dictionary.
    Text,
    /// Byte strings, of which lengths and different values are counted.
    Binary,
    /// Nulls alone.
    Null,
}

impl ColumnKind {
    /// The kind of a type; `None` for types that are not profiled (lists, structs, maps, unions, intervals).
    #[must_use]
    pub fn of(kind: &DataType) -> Option<Self> {
        Some(match kind {
            DataType::Boolean => Self::Boolean,
            DataType::Null => Self::Null,
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Self::Text,
            DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
                Self::Binary
            }
            DataType::Dictionary(_, values) => return Self::of(values),
            DataType::Interval(_) => return None,
            kind if kind.is_numeric() => Self::Number,
            kind if kind.is_temporal() => Self::Time,
            _ => return None,
        })
    }

    /// Whether it is compared by its order: numbers and times.
    #[must_use]
    pub fn is_ordered(self) -> bool {
        matches!(self, Self::Number | Self::Time)
    }
}

impl fmt::Display for ColumnKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Number => "numbers",
            Self::Time => "times",
            Self::Boolean => "booleans",
            Self::Text => "texts",
            Self::Binary => "bytes",
            Self::Null => "nulls",
        })
    }
}

/// What one column holds; see the [module](super).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ColumnProfile {
    name: String,
    kind: ColumnKind,
    data_type: String,
    rows: u64,
    nulls: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    numbers: Option<NumberProfile>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    categories: Option<Categories>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    text: Option<TextProfile>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    distinct: Option<Distinct>,
}

impl ColumnProfile {
    /// Without rows; `edges` are those of the reference.
    pub(crate) fn new(name: &str, data_type: &DataType, kind: ColumnKind, k: usize, edges: Option<Vec<f64>>) -> Self {
        let value_type = match data_type {
            DataType::Dictionary(_, values) => values,
            other => other,
        };
        let categories = matches!(kind, ColumnKind::Text | ColumnKind::Boolean);
        let text = matches!(kind, ColumnKind::Text | ColumnKind::Binary);
        Self {
            name: name.to_owned(),
            kind,
            data_type: value_type.to_string(),
            rows: 0,
            nulls: 0,
            numbers: kind.is_ordered().then(|| NumberProfile::new(k, edges)),
            categories: categories.then(Categories::default),
            text: text.then(TextProfile::default),
            distinct: text.then(Distinct::default),
        }
    }

    /// Without rows, for the same column and with the same bins, those of its sketch if it has none of its own.
    pub(crate) fn fresh(&self) -> Self {
        let numbers = self.numbers.as_ref();
        Self {
            rows: 0,
            nulls: 0,
            numbers: numbers.map(|n| NumberProfile::new(n.quantiles().k(), Some(n.bin_edges()))),
            categories: self.categories.as_ref().map(|_| Categories::default()),
            text: self.text.as_ref().map(|_| TextProfile::default()),
            distinct: self.distinct.as_ref().map(|_| Distinct::default()),
            name: self.name.clone(),
            kind: self.kind,
            data_type: self.data_type.clone(),
        }
    }

    pub(crate) fn check(&self) -> Result<()> {
        let parts = match self.kind {
            ColumnKind::Number | ColumnKind::Time => self.numbers.is_some(),
            ColumnKind::Boolean => self.categories.is_some(),
            ColumnKind::Text => self.categories.is_some() && self.text.is_some() && self.distinct.is_some(),
            ColumnKind::Binary => self.text.is_some() && self.distinct.is_some(),
            ColumnKind::Null => true,
        };
        let present = self.rows.saturating_sub(self.nulls);
        let numbers = self.numbers.as_ref().is_none_or(|numbers| numbers.is_sound(present));
        let categories = self.categories.as_ref().is_none_or(|c| c.is_sound() && c.rows() == present);
        if parts && numbers && categories && self.nulls <= self.rows {
            return Ok(());
        }
        Err(Error::column(&self.name, "its profile contradicts itself; fit it anew"))
    }

    /// That `kind` can be added to this column.
    pub(crate) fn check_type(&self, data_type: &DataType) -> Result<()> {
        let units = self.kind == ColumnKind::Time;
        let value_type = match data_type {
            DataType::Dictionary(_, values) => values,
            other => other,
        };
        if ColumnKind::of(data_type) == Some(self.kind) && (!units || value_type.to_string() == self.data_type) {
            return Ok(());
        }
        Err(Error::column(&self.name, format!("expected {} ({}), got {data_type}", self.kind, self.data_type)))
    }

    /// Adds the rows of `array`.
    pub(crate) fn update(&mut self, array: &ArrayRef) -> Result<()> {
        self.check_type(array.data_type())?;
        let array = &plain(array).map_err(|e| Error::column(&self.name, e.to_string()))?;
        let nulls = array.logical_nulls();
        match self.kind {
            ColumnKind::Number | ColumnKind::Time => self.update_numbers(array)?,
            ColumnKind::Boolean => self.update_booleans(array),
            ColumnKind::Text => self.update_texts(array)?,
            ColumnKind::Binary => self.update_bytes(array)?,
            ColumnKind::Null => {}
        }
        self.rows = self.rows.saturating_add(array.len() as u64);
        self.nulls = self.nulls.saturating_add(nulls.map_or(0, |nulls| nulls.null_count() as u64));
        Ok(())
    }

    fn update_numbers(&mut self, array: &ArrayRef) -> Result<()> {
        let name = self.name.clone();
        let Some(numbers) = &mut self.numbers else { return Ok(()) };
        let failed = |e: arrow::error::ArrowError| Error::column(&name, e.to_string());
        let kind = array.data_type();
        match kind {
            DataType::Float64 => {
                let floats = array.as_primitive::<Float64Type>();
                numbers.extend(floats.values(), floats.nulls());
                return Ok(());
            }
            DataType::UInt64 => {
                let values = array.as_primitive::<UInt64Type>();
                if values.iter().flatten().all(|v| i64::try_from(v).is_ok()) {
                    numbers.extend_whole(values.iter().flatten().map(|v| v as i64));
                } else {
                    numbers.extend_exact(values.iter().flatten().map(hash_bits));
                }
            }
            DataType::Decimal32(_, scale) | DataType::Decimal64(_, scale) | DataType::Decimal128(_, scale) => {
                let wide = cast(array, &DataType::Decimal128(38, *scale)).map_err(failed)?;
                let values = wide.as_primitive::<Decimal128Type>();
                numbers.extend_exact(values.iter().flatten().map(|v| hash_bytes(&v.to_le_bytes())));
            }
            DataType::Decimal256(..) => {
                let values = array.as_primitive::<Decimal256Type>();
                numbers.extend_exact(values.iter().flatten().map(|v| hash_bytes(&v.to_le_bytes())));
            }
            kind if kind.is_integer() || kind.is_temporal() => {
                let whole = whole(array).map_err(failed)?;
                let values = whole.as_primitive::<Int64Type>();
                match values.nulls() {
                    None => numbers.extend_whole(values.values().iter().copied()),
                    Some(_) => numbers.extend_whole(values.iter().flatten()),
                }
            }
            _ => {}
        }
        let floats = floats(array).map_err(failed)?;
        let floats = floats.as_primitive::<Float64Type>();
        numbers.extend(floats.values(), floats.nulls());
        Ok(())
    }

    fn update_booleans(&mut self, array: &ArrayRef) {
        let Some(categories) = &mut self.categories else { return };
        let flags = array.as_boolean();
        let (yes, no) = (flags.true_count() as u64, flags.false_count() as u64);
        for (name, rows) in [("true", yes), ("false", no)] {
            if rows > 0 {
                categories.add(hash_bytes(name.as_bytes()), name, rows);
            }
        }
    }

    fn update_texts(&mut self, array: &ArrayRef) -> Result<()> {
        let Self { name, categories: Some(categories), text: Some(text), distinct: Some(distinct), .. } = self else {
            return Ok(());
        };
        let mut add = |hash: u64, letters: &Letters, value: &str| {
            distinct.add(hash);
            categories.add(hash, value, 1);
            text.add(letters);
        };
        let failed = |e: arrow::error::ArrowError| Error::column(&*name, e.to_string());
        if let Some(dictionary) = array.as_any_dictionary_opt() {
            let values = cast(dictionary.values(), &DataType::LargeUtf8).map_err(failed)?;
            let values = values.as_string::<i64>();
            if values.is_empty() {
                return Ok(());
            }
            // Each value is looked at once.
            let known: Vec<Option<(u64, Letters, &str)>> = values
                .iter()
                .map(|value| value.map(|text| (hash_bytes(text.as_bytes()), Letters::of(text), text)))
                .collect();
            for (row, key) in dictionary.normalized_keys().into_iter().enumerate() {
                if let Some((hash, letters, value)) = known[key].as_ref().filter(|_| !array.is_null(row)) {
                    add(*hash, letters, value);
                }
            }
            return Ok(());
        }
        let mut each = |value: &str| add(hash_bytes(value.as_bytes()), &Letters::of(value), value);
        match array.data_type() {
            DataType::Utf8 => array.as_string::<i32>().iter().flatten().for_each(&mut each),
            DataType::LargeUtf8 => array.as_string::<i64>().iter().flatten().for_each(&mut each),
            _ => array.as_string_view().iter().flatten().for_each(&mut each),
        }
        Ok(())
    }

    fn update_bytes(&mut self, array: &ArrayRef) -> Result<()> {
        let Self { name, text: Some(text), distinct: Some(distinct), .. } = self else { return Ok(()) };
        let mut each = |value: &[u8]| {
            distinct.add(hash_bytes(value));
            text.add(&Letters::of_bytes(value));
        };
        match array.data_type() {
            DataType::Binary => array.as_binary::<i32>().iter().flatten().for_each(&mut each),
            DataType::LargeBinary => array.as_binary::<i64>().iter().flatten().for_each(&mut each),
            DataType::BinaryView => array.as_binary_view().iter().flatten().for_each(&mut each),
            DataType::FixedSizeBinary(_) => array.as_fixed_size_binary().iter().flatten().for_each(&mut each),
            other => return Err(Error::column(&*name, format!("values of type {other} are not profiled"))),
        }
        Ok(())
    }

    /// Adds the rows of `other`.
    pub(crate) fn merge(&mut self, other: &Self) -> Result<()> {
        let units = self.kind == ColumnKind::Time && self.data_type != other.data_type;
        if self.name != other.name || self.kind != other.kind || units {
            let Self { kind, data_type, .. } = other;
            let reason =
                format!("expected {} ({}), got {:?} of {kind} ({data_type})", self.kind, self.data_type, other.name);
            return Err(Error::column(&self.name, reason));
        }
        let edges = |column: &Self| column.numbers.as_ref().and_then(|n| n.edges().map(<[f64]>::to_vec));
        if edges(self) != edges(other) {
            let reason = "the bins differ: make the profiles against one reference, or by updates alone";
            return Err(Error::column(&self.name, reason));
        }
        self.rows = self.rows.saturating_add(other.rows);
        self.nulls = self.nulls.saturating_add(other.nulls);
        if let (Some(mine), Some(theirs)) = (&mut self.numbers, &other.numbers) {
            mine.merge(theirs);
        }
        if let (Some(mine), Some(theirs)) = (&mut self.categories, &other.categories) {
            mine.merge(theirs);
        }
        if let (Some(mine), Some(theirs)) = (&mut self.text, &other.text) {
            mine.merge(theirs);
        }
        if let (Some(mine), Some(theirs)) = (&mut self.distinct, &other.distinct) {
            mine.merge(theirs);
        }
        Ok(())
    }

    /// Gives numbers their bins, counted from the rows they came from.
    pub(crate) fn count_bins(&mut self, bins: usize, arrays: &[&ArrayRef]) -> Result<()> {
        let Some(numbers) = &mut self.numbers else { return Ok(()) };
        if numbers.finite() == 0 {
            return Ok(());
        }
        let mut histogram = super::numbers::Histogram::new(numbers.quantiles().view().edges(bins));
        // What is pending is counted with its block.
        let mut waiting = BinCounts::of(&histogram.edges, &numbers.quantiles().pending).counts().to_vec();
        for array in arrays {
            let values = super::numbers_of(array).map_err(|e| Error::column(&self.name, e.to_string()))?;
            let counts = BinCounts::of(&histogram.edges, &values.unwrap_or_default());
            histogram.counts.iter_mut().zip(counts.counts()).for_each(|(sum, n)| *sum += n);
        }
        histogram.counts.iter_mut().zip(waiting.drain(..)).for_each(|(sum, n)| *sum = sum.saturating_sub(n));
        numbers.set_histogram(Some(histogram));
        Ok(())
    }

    /// The column's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What its values are.
    #[must_use]
    pub fn kind(&self) -> ColumnKind {
        self.kind
    }

    /// The Arrow type of its values when the profile was begun, such as `Int64`.
    #[must_use]
    pub fn data_type(&self) -> &str {
        &self.data_type
    }

    /// Rows, missing ones included.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Nulls.
    #[must_use]
    pub fn nulls(&self) -> u64 {
        self.nulls
    }

    /// Rows without a value to compare: nulls, and of numbers those that are not finite.
    #[must_use]
    pub fn missing(&self) -> u64 {
        let odd = self.numbers.as_ref().map_or(0, |n| n.nans() + n.infinite().0 + n.infinite().1);
        self.nulls.saturating_add(odd)
    }

    /// The share of rows that are [`missing`](Self::missing), in [0, 1]; 0 without rows.
    #[must_use]
    pub fn missing_share(&self) -> f64 {
        self.missing() as f64 / self.rows.max(1) as f64
    }

    /// What its numbers or times are like; `None` for other kinds.
    #[must_use]
    pub fn numbers(&self) -> Option<&NumberProfile> {
        self.numbers.as_ref()
    }

    /// Counts of its values; `None` for kinds other than text and booleans.
    #[must_use]
    pub fn categories(&self) -> Option<&Categories> {
        self.categories.as_ref()
    }

    /// Lengths and characters; `None` for kinds other than text and bytes.
    #[must_use]
    pub fn text(&self) -> Option<&TextProfile> {
        self.text.as_ref()
    }

    /// How many different values there are, missing ones apart, with an interval at 95 %; exact where all are known.
    /// `None` for nulls.
    #[must_use]
    pub fn distinct(&self) -> Option<Estimate> {
        let exact = |n: u64| Estimate::new(n as f64, n as f64, n as f64, self.rows);
        if let Some(categories) = self.categories.as_ref().filter(|c| c.error() == 0) {
            return Some(exact(categories.len() as u64));
        }
        let present = self.rows.saturating_sub(self.missing());
        if let Some(numbers) = &self.numbers {
            let (sketch, all) = numbers.distinct();
            return Some(all.map_or_else(|| sketch.estimate(present, DEFAULT_CONFIDENCE), exact));
        }
        self.distinct.as_ref().map(|sketch| sketch.estimate(present, DEFAULT_CONFIDENCE))
    }

    /// The most frequent values, at most `most`, those with the most rows first.
    #[must_use]
    pub fn frequent(&self, most: usize) -> Vec<FrequentItem> {
        let mut items = match (&self.numbers, &self.categories) {
            (Some(numbers), _) => numbers.frequent(),
            (_, Some(categories)) => categories.items(),
            _ => Vec::new(),
        };
        items.truncate(most);
        items
    }
}

/// Dictionaries of anything but text as the values they stand for.
fn plain(array: &ArrayRef) -> Result<ArrayRef, arrow::error::ArrowError> {
    match array.data_type() {
        DataType::Dictionary(_, values) if ColumnKind::of(values) != Some(ColumnKind::Text) => cast(array, values),
        // A dictionary of dictionaries.
        DataType::Dictionary(_, values) if matches!(**values, DataType::Dictionary(..)) => plain(&cast(array, values)?),
        _ => Ok(ArrayRef::clone(array)),
    }
}

/// Whole numbers and times as `i64`, in their own units.
fn whole(array: &ArrayRef) -> Result<ArrayRef, arrow::error::ArrowError> {
    let narrow = matches!(array.data_type(), DataType::Date32 | DataType::Time32(_));
    if narrow {
        let days = cast(array, &DataType::Int32)?;
        let wide = days.as_primitive::<Int32Type>().unary::<_, Int64Type>(i64::from);
        return Ok(std::sync::Arc::new(wide));
    }
    cast(array, &DataType::Int64)
}

/// Numbers or times as `f64`.
pub(super) fn floats(array: &ArrayRef) -> Result<ArrayRef, arrow::error::ArrowError> {
    let array = plain(array)?;
    let kind = array.data_type();
    if kind.is_temporal() {
        let whole = whole(&array)?;
        let floats = whole.as_primitive::<Int64Type>().unary::<_, Float64Type>(|v| v as f64);
        return Ok(std::sync::Arc::new(floats));
    }
    cast(&array, &DataType::Float64)
}

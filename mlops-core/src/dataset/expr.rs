//! Which rows: a small typed expression over columns, evaluated by Arrow kernels and used to skip what cannot match.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int64Array, RecordBatch, Scalar as ArrowScalar, StringArray,
};
use arrow::compute::kernels::{boolean, cmp};
use arrow::compute::{cast, is_not_null, is_null};
use arrow::datatypes::{DataType, Float64Type};
use serde::{Deserialize, Serialize};

use super::stats::ColumnStats;
use crate::{Error, Result};

/// One value that a column is compared with, or that bounds it.
///
/// Times and dates are [`Int`](Self::Int), counted as their column counts them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Value {
    /// True or false.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A number.
    Float(#[serde(with = "crate::json::lossless_f64")] f64),
    /// Text.
    Text(String),
}

impl Value {
    /// The order of two values of one kind, whole numbers and numbers being one; `None` where there is none.
    pub(crate) fn order(&self, other: &Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Bool(a), Self::Bool(b)) => Some(a.cmp(b)),
            (Self::Int(a), Self::Int(b)) => Some(a.cmp(b)),
            (Self::Text(a), Self::Text(b)) => Some(a.cmp(b)),
            (Self::Float(a), Self::Float(b)) => a.partial_cmp(b),
            (Self::Int(a), Self::Float(b)) => (*a as f64).partial_cmp(b),
            (Self::Float(a), Self::Int(b)) => a.partial_cmp(&(*b as f64)),
            _ => None,
        }
    }

    fn array(&self) -> ArrayRef {
        match self {
            Self::Bool(v) => Arc::new(BooleanArray::from(vec![*v])),
            Self::Int(v) => Arc::new(Int64Array::from(vec![*v])),
            Self::Float(v) => Arc::new(Float64Array::from(vec![*v])),
            Self::Text(v) => Arc::new(StringArray::from(vec![v.as_str()])),
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(v) => v.fmt(f),
            Self::Int(v) => v.fmt(f),
            Self::Float(v) => v.fmt(f),
            Self::Text(v) => write!(f, "{v:?}"),
        }
    }
}

macro_rules! from_value {
    ($($from:ty => $kind:ident),+) => { $(
        impl From<$from> for Value {
            fn from(value: $from) -> Self {
                Self::$kind(value.into())
            }
        }
    )+ };
}
from_value!(bool => Bool, i64 => Int, i32 => Int, u32 => Int, f64 => Float, f32 => Float, &str => Text, String => Text);

/// How two values are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Comparison {
    /// `=`
    Eq,
    /// `≠`
    Ne,
    /// `<`
    Lt,
    /// `≤`
    Le,
    /// `>`
    Gt,
    /// `≥`
    Ge,
}

/// A condition on a row, as data. A row passes where it is true; a comparison with null is neither true nor false.
///
/// ```
/// use mlops_core::dataset::col;
/// let cheap = col("price").lt(0.05).and(col("day").eq("monday").or(col("demand").is_null()));
/// assert_eq!(cheap.to_string(), "price < 0.05 and (day = \"monday\" or demand is null)");
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Expr {
    /// A column compared with a value.
    Compare {
        /// The column's name.
        column: String,
        /// How.
        by: Comparison,
        /// With what.
        value: Value,
    },
    /// The column is one of some values.
    In {
        /// The column's name.
        column: String,
        /// The values.
        values: Vec<Value>,
    },
    /// The column is null.
    IsNull(String),
    /// Both hold.
    And(Box<Expr>, Box<Expr>),
    /// One holds.
    Or(Box<Expr>, Box<Expr>),
    /// It does not hold, where it is known.
    Not(Box<Expr>),
}

/// Starts a condition on the column `name`.
pub fn col(name: impl Into<String>) -> ColumnExpr {
    ColumnExpr(name.into())
}

/// A column that waits for its condition.
#[derive(Clone, Debug)]
#[must_use]
pub struct ColumnExpr(String);

macro_rules! comparisons {
    ($($(#[$doc:meta])* $name:ident => $by:ident;)+) => { $(
        $(#[$doc])*
        pub fn $name(self, value: impl Into<Value>) -> Expr {
            Expr::Compare { column: self.0, by: Comparison::$by, value: value.into() }
        }
    )+ };
}

impl ColumnExpr {
    comparisons! {
        /// It equals `value`.
        eq => Eq;
        /// It differs from `value`.
        ne => Ne;
        /// It is less than `value`.
        lt => Lt;
        /// It is at most `value`.
        le => Le;
        /// It is greater than `value`.
        gt => Gt;
        /// It is at least `value`.
        ge => Ge;
    }

    /// It is one of `values`.
    pub fn is_in<V: Into<Value>>(self, values: impl IntoIterator<Item = V>) -> Expr {
        Expr::In { column: self.0, values: values.into_iter().map(Into::into).collect() }
    }

    /// It is null.
    pub fn is_null(self) -> Expr {
        Expr::IsNull(self.0)
    }
}

impl Expr {
    /// Both hold.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self::And(Box::new(self), Box::new(other))
    }

    /// One holds.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self::Or(Box::new(self), Box::new(other))
    }

    /// It does not hold.
    #[must_use]
    #[allow(clippy::should_implement_trait)] // reads as the others do, and needs no import
    pub fn not(self) -> Self {
        Self::Not(Box::new(self))
    }

    /// The columns it asks for.
    #[must_use]
    pub fn columns(&self) -> BTreeSet<&str> {
        match self {
            Self::Compare { column, .. } | Self::In { column, .. } | Self::IsNull(column) => {
                BTreeSet::from([&**column])
            }
            Self::And(a, b) | Self::Or(a, b) => a.columns().union(&b.columns()).copied().collect(),
            Self::Not(a) => a.columns(),
        }
    }

    /// Which rows pass: true, false, or null where it is not known.
    ///
    /// # Errors
    /// [`Error::SchemaMismatch`] for a column that is missing or of a kind that the value cannot be compared with.
    pub fn evaluate(&self, batch: &RecordBatch) -> Result<BooleanArray> {
        match self {
            Self::Compare { column, by, value } => compare(find(batch, column)?, column, *by, value),
            Self::In { column, values } => {
                let array = find(batch, column)?;
                let none = boolean::and(&is_null(array)?, &BooleanArray::from(vec![false; array.len()]))?;
                values.iter().try_fold(none, |any, value| {
                    Ok(boolean::or_kleene(&any, &compare(array, column, Comparison::Eq, value)?)?)
                })
            }
            Self::IsNull(column) => Ok(is_null(find(batch, column)?)?),
            Self::And(a, b) => Ok(boolean::and_kleene(&a.evaluate(batch)?, &b.evaluate(batch)?)?),
            Self::Or(a, b) => Ok(boolean::or_kleene(&a.evaluate(batch)?, &b.evaluate(batch)?)?),
            Self::Not(a) => Ok(boolean::not(&a.evaluate(batch)?)?),
        }
    }

    /// The rows of `batch` that pass.
    ///
    /// # Errors
    /// As [`evaluate`](Self::evaluate).
    pub fn select(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        Ok(arrow::compute::filter_record_batch(batch, &self.evaluate(batch)?)?)
    }

    /// False only if no row can pass, by what `stats` tells of each column.
    pub(crate) fn may_match<'a>(&self, stats: &impl Fn(&str) -> Option<&'a ColumnStats>) -> bool {
        let known = |column: &str| stats(column).filter(|stats| !stats.unknown);
        match self {
            Self::Compare { column, by, value } => {
                known(column).is_none_or(|stats| stats.rows > stats.nulls && may_compare(stats, *by, value))
            }
            Self::In { column, values } => known(column).is_none_or(|stats| {
                stats.rows > stats.nulls && values.iter().any(|value| may_compare(stats, Comparison::Eq, value))
            }),
            Self::IsNull(column) => known(column).is_none_or(|stats| stats.nulls > 0),
            Self::And(a, b) => a.may_match(stats) && b.may_match(stats),
            Self::Or(a, b) => a.may_match(stats) || b.may_match(stats),
            // Where `a` may fail is not known from where it may hold.
            Self::Not(_) => true,
        }
    }
}

fn may_compare(stats: &ColumnStats, by: Comparison, value: &Value) -> bool {
    use Ordering::{Equal, Greater, Less};
    // Arrow orders NaN above all numbers, so it counts as an upper end.
    if stats.nans > 0 {
        return true;
    }
    let low = stats.min.as_ref().and_then(|min| min.order(value));
    let high = stats.max.as_ref().and_then(|max| max.order(value));
    match by {
        Comparison::Eq => low != Some(Greater) && high != Some(Less),
        Comparison::Ne => !(low == Some(Equal) && high == Some(Equal)),
        Comparison::Lt => !matches!(low, Some(Equal | Greater)),
        Comparison::Le => low != Some(Greater),
        Comparison::Gt => !matches!(high, Some(Equal | Less)),
        Comparison::Ge => high != Some(Less),
    }
}

fn find<'a>(batch: &'a RecordBatch, column: &str) -> Result<&'a ArrayRef> {
    batch.column_by_name(column).ok_or_else(|| Error::column(column, "no such column"))
}

fn compare(array: &ArrayRef, column: &str, by: Comparison, value: &Value) -> Result<BooleanArray> {
    let mismatch = || Error::column(column, format!("is {} and cannot be compared with {value}", array.data_type()));
    let kind = array.data_type();
    let whole = kind.is_integer() || kind.is_temporal();
    // Both sides in a type that holds all values of both: a whole number is not rounded to the column's type.
    let (left, right): (ArrayRef, ArrayRef) = match value {
        Value::Bool(_) if *kind == DataType::Boolean => (Arc::clone(array), value.array()),
        Value::Text(_) if is_text(kind) => (cast(array, &DataType::Utf8)?, value.array()),
        Value::Int(v) if *kind == DataType::UInt64 && *v >= 0 => {
            (Arc::clone(array), cast(&value.array(), &DataType::UInt64)?)
        }
        Value::Int(_) if whole && *kind != DataType::UInt64 => {
            (super::stats::whole(array).map_err(|_| mismatch())?, value.array())
        }
        Value::Int(_) | Value::Float(_) if kind.is_numeric() => {
            let float = |array| -> Result<ArrayRef> {
                let array = cast(array, &DataType::Float64).map_err(|_| mismatch())?;
                // Arrow orders -0 below 0; here they are one number.
                Ok(Arc::new(array.as_primitive::<Float64Type>().unary::<_, Float64Type>(|v| v + 0.0)))
            };
            (float(array)?, float(&value.array())?)
        }
        _ => return Err(mismatch()),
    };
    let right = ArrowScalar::new(right);
    let passes = match by {
        Comparison::Eq => cmp::eq(&left, &right),
        Comparison::Ne => cmp::neq(&left, &right),
        Comparison::Lt => cmp::lt(&left, &right),
        Comparison::Le => cmp::lt_eq(&left, &right),
        Comparison::Gt => cmp::gt(&left, &right),
        Comparison::Ge => cmp::gt_eq(&left, &right),
    }?;
    // A cast that overflowed gave null: such a row is not known to pass.
    if left.null_count() == array.null_count() {
        return Ok(passes);
    }
    Ok(boolean::and_kleene(&passes, &is_not_null(&left)?)?)
}

pub(crate) fn is_text(kind: &DataType) -> bool {
    match kind {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
        DataType::Dictionary(_, values) => is_text(values),
        _ => false,
    }
}

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = |expr: &Self| match expr {
            Self::And(..) | Self::Or(..) => format!("({expr})"),
            _ => expr.to_string(),
        };
        match self {
            Self::Compare { column, by, value } => {
                let by = match by {
                    Comparison::Eq => "=",
                    Comparison::Ne => "≠",
                    Comparison::Lt => "<",
                    Comparison::Le => "≤",
                    Comparison::Gt => ">",
                    Comparison::Ge => "≥",
                };
                write!(f, "{column} {by} {value}")
            }
            Self::In { column, values } => {
                let values: Vec<String> = values.iter().map(ToString::to_string).collect();
                write!(f, "{column} in [{}]", values.join(", "))
            }
            Self::IsNull(column) => write!(f, "{column} is null"),
            Self::And(a, b) => write!(f, "{} and {}", inner(a), inner(b)),
            Self::Or(a, b) => write!(f, "{} or {}", inner(a), inner(b)),
            Self::Not(a) => write!(f, "not {}", inner(a)),
        }
    }
}

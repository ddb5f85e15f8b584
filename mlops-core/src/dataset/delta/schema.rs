//! What of Arrow's types, partitions and statistics a Delta table holds.

use std::collections::BTreeSet;

use arrow::array::{Array, AsArray, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use serde_json::{Map, json};

use crate::dataset::stats::whole;
use crate::dataset::{ColumnStats, Partition, Value};
use crate::{Error, Result};

/// A text bound of another writer that is at least that long may be cut off.
const MAYBE_CUT: usize = 32;

/// Checks that a table has each type as it is, so that other readers find the same values.
pub(super) fn check(schema: &Schema, partition_by: &[String]) -> Result<()> {
    for field in schema.fields() {
        if let Some(remedy) = refused(field.data_type()) {
            let reason = format!("is {}, which a Delta table has not: {remedy}", field.data_type());
            return Err(Error::column(field.name(), reason));
        }
    }
    let mut lower = BTreeSet::new();
    if let Some(twice) = schema.fields().iter().find(|field| !lower.insert(field.name().to_lowercase())) {
        return Err(Error::column(
            twice.name(),
            "differs from another column in case only, which a Delta table forbids",
        ));
    }
    for name in partition_by {
        let field = schema.field_with_name(name).map_err(|_| Error::column(name, "no such column to partition by"))?;
        let kind = field.data_type();
        if !matches!(
            kind,
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Boolean | DataType::Date32
        ) && !kind.is_signed_integer()
        {
            let reason = format!("is {kind}: partition a Delta table by text, whole numbers, booleans or dates");
            return Err(Error::column(name, reason));
        }
    }
    if schema.fields().iter().all(|field| partition_by.contains(field.name())) {
        return Err(Error::invalid("partition_by", "names every column; a Delta table needs one that is in its files"));
    }
    Ok(())
}

/// What to do about a type that a table cannot hold.
fn refused(kind: &DataType) -> Option<&'static str> {
    use DataType::{
        Binary, BinaryView, Boolean, Date32, Decimal128, Dictionary, Float16, Float32, Float64, Int8, Int16, Int32,
        Int64, LargeBinary, LargeList, LargeUtf8, List, Struct, Timestamp, UInt8, UInt16, UInt32, UInt64, Utf8,
        Utf8View,
    };
    match kind {
        Boolean
        | Int8
        | Int16
        | Int32
        | Int64
        | Float32
        | Float64
        | Utf8
        | LargeUtf8
        | Utf8View
        | Binary
        | LargeBinary
        | BinaryView
        | Date32
        | Timestamp(TimeUnit::Microsecond, None) => None,
        Timestamp(TimeUnit::Microsecond, Some(zone)) if zone.eq_ignore_ascii_case("utc") => None,
        Decimal128(_, scale) if *scale >= 0 => None,
        List(item) | LargeList(item) => refused(item.data_type()),
        Struct(fields) => fields.iter().find_map(|field| refused(field.data_type())),
        Dictionary(_, values) => refused(values),
        UInt8 | UInt16 | UInt32 | UInt64 => Some("cast it to Int64 or Decimal128"),
        Float16 => Some("cast it to Float32"),
        Timestamp(..) => Some("cast it to Timestamp(Microsecond, Some(\"UTC\"))"),
        _ => Some("cast it to a type that it has, or commit it to `ParquetDatasets`"),
    }
}

/// Whether a column has times without a zone, for which a table needs a feature.
pub(super) fn has_local_times(kind: &DataType) -> bool {
    match kind {
        DataType::Timestamp(_, zone) => zone.is_none(),
        DataType::List(item) | DataType::LargeList(item) => has_local_times(item.data_type()),
        DataType::Struct(fields) => fields.iter().any(|field| has_local_times(field.data_type())),
        DataType::Dictionary(_, values) => has_local_times(values),
        _ => false,
    }
}

/// The statistics of a file as the log has them. A bound that another reader could take for more than it is is left out:
/// of times, of long text, of columns with NaN.
pub(super) fn to_log(schema: &Schema, rows: u64, stats: &[ColumnStats], partition: &Partition) -> String {
    let (mut min, mut max, mut nulls) = (Map::new(), Map::new(), Map::new());
    for (field, stats) in schema.fields().iter().zip(stats) {
        if partition.contains_key(field.name()) || stats.unknown || field.data_type().is_nested() {
            continue;
        }
        nulls.insert(field.name().clone(), stats.nulls.into());
        if stats.nans > 0 || stats.unbounded {
            continue;
        }
        if let (Some(low), Some(high)) = (bound(field, stats.min.as_ref()), bound(field, stats.max.as_ref())) {
            min.insert(field.name().clone(), low);
            max.insert(field.name().clone(), high);
        }
    }
    json!({"numRecords": rows, "minValues": min, "maxValues": max, "nullCount": nulls}).to_string()
}

fn bound(field: &Field, value: Option<&Value>) -> Option<serde_json::Value> {
    match (value?, field.data_type()) {
        (Value::Int(days), DataType::Date32) => {
            let date = chrono::DateTime::from_timestamp(days.checked_mul(86_400)?, 0)?;
            Some(date.format("%Y-%m-%d").to_string().into())
        }
        (Value::Int(v), kind) if kind.is_signed_integer() => Some((*v).into()),
        // One that is not finite is no JSON number.
        (Value::Float(v), DataType::Float32 | DataType::Float64) => {
            serde_json::Number::from_f64(*v).map(serde_json::Value::Number)
        }
        (Value::Text(v), _) => Some(v.as_str().into()),
        _ => None,
    }
}

/// What the log tells of each column of a file that another writer made; columns it does not tell of are `unknown`. NaNs
/// are not counted there, and Arrow orders them above all numbers: a column of floats has no upper bound.
pub(super) fn from_log(schema: &Schema, rows: u64, stats: Option<&str>, partition: &Partition) -> Vec<ColumnStats> {
    let stats: serde_json::Value = stats.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    let column = |field: &Field| {
        let mut known = ColumnStats { rows, ..ColumnStats::default() };
        if let Some(value) = partition.get(field.name()) {
            known.nulls = if value.is_none() { rows } else { 0 };
            known.min = value.as_deref().and_then(|text| parsed(field.data_type(), text));
            known.max = known.min.clone();
            known.unbounded = value.is_some() && known.min.is_none();
            return known;
        }
        let Some(nulls) = stats["nullCount"][field.name()].as_u64() else {
            return ColumnStats { unknown: true, ..ColumnStats::default() };
        };
        known.nulls = nulls;
        let end = |name: &str| -> Option<Value> {
            match &stats[name][field.name()] {
                serde_json::Value::String(text) if field.data_type() == &DataType::Date32 => {
                    parsed(field.data_type(), text)
                }
                serde_json::Value::String(text) if text.len() < MAYBE_CUT && field.data_type().is_string() => {
                    Some(Value::Text(text.clone()))
                }
                serde_json::Value::Number(n) if field.data_type().is_floating() => n.as_f64().map(Value::Float),
                serde_json::Value::Number(n) if field.data_type().is_integer() => n.as_i64().map(Value::Int),
                _ => None,
            }
        };
        known.min = end("minValues");
        known.max = if field.data_type().is_floating() { None } else { end("maxValues") };
        known.unbounded = known.min.is_none() || known.max.is_none();
        known
    };
    schema.fields().iter().map(|field| column(field)).collect()
}

/// The text of a partition as a value of its column.
fn parsed(kind: &DataType, text: &str) -> Option<Value> {
    if kind.is_string() {
        return Some(Value::Text(text.to_owned()));
    }
    let one = cast(&StringArray::from(vec![text]), kind).ok()?;
    match kind {
        DataType::Boolean => (!one.is_null(0)).then(|| Value::Bool(one.as_boolean().value(0))),
        kind if kind.is_integer() || matches!(kind, DataType::Date32) => {
            let whole = whole(&one).ok()?;
            let whole = whole.as_primitive::<arrow::datatypes::Int64Type>();
            (!whole.is_null(0)).then(|| Value::Int(whole.value(0)))
        }
        _ => None,
    }
}

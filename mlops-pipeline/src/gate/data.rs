use std::collections::BTreeSet;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{ArrowPrimitiveType, DataType, Float16Type, Float64Type};
use mlops_core::signature::ColumnType;
use mlops_core::{Finding, Measurement, Signature, Verdict};
use serde_json::Value;

use super::{Gate, Subject, invalid};
use crate::Result;

/// The 16-bit float that Arrow uses.
#[allow(non_camel_case_types)] // as it is called where it comes from
type f16 = <Float16Type as ArrowPrimitiveType>::Native;

/// How many broken rules a summary spells out.
const SHOWN: usize = 5;

/// Passes rows that have the wanted columns and values.
///
/// ```
/// use std::sync::Arc;
/// use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch};
/// use mlops_core::signature::ColumnType;
/// use mlops_pipeline::gate::{ColumnRules, DataGate, Gate, Subject};
/// let gate = DataGate::builder()
///     .min_rows(2)
///     .column(ColumnRules::new("price").of_type(ColumnType::Double).range(0.0, 1.0))
///     .column(ColumnRules::new("day").allowed([1, 2, 3, 4, 5, 6, 7]))
///     .build()?;
/// let price: ArrayRef = Arc::new(Float64Array::from(vec![0.05, f64::NAN]));
/// let day: ArrayRef = Arc::new(Int64Array::from(vec![7, 8]));
/// let rows = RecordBatch::try_from_iter([("price", price), ("day", day)]).map_err(mlops_core::Error::from)?;
/// let finding = gate.check(&Subject::new().data(&rows))?;
/// assert_eq!(
///     finding.to_string(),
///     r#"fail data: column "price": 1 of 2 rows not finite, first at row 1 (NaN); "#.to_owned()
///         + r#"column "day": 1 of 2 rows not an allowed value, first at row 1 (8); "#
///         + "price: not finite 1 (n = 2), wanted 0; day: not an allowed value 1 (n = 2), wanted 0",
/// );
/// # Ok::<(), mlops_pipeline::Error>(())
/// ```
///
/// All broken rules are found in one pass, each with how many rows break it and the first of them. The summary spells
/// out five; measurements have them all. Rows are counted from 0.
#[derive(Clone, Debug)]
pub struct DataGate {
    name: String,
    min_rows: usize,
    columns: Vec<ColumnRules>,
}

/// Puts a [`DataGate`] together.
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct DataGateBuilder(DataGate);

/// What one column must be like. It must be there in any case; the other rules hold once they are asked for.
#[derive(Clone, Debug)]
#[must_use = "rules hold once they are given to a `DataGateBuilder`"]
pub struct ColumnRules {
    name: String,
    column_type: Option<ColumnType>,
    not_null: bool,
    finite: bool,
    range: Option<(f64, f64)>,
    allowed: Option<Vec<Value>>,
}

impl ColumnRules {
    /// Rules for the column of that name: so far, that it is there.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), column_type: None, not_null: false, finite: false, range: None, allowed: None }
    }

    /// It has this type, exactly.
    pub fn of_type(mut self, column_type: ColumnType) -> Self {
        self.column_type = Some(column_type);
        self
    }

    /// No row is null, be it in the column itself or in the dictionary it points to.
    pub fn not_null(mut self) -> Self {
        self.not_null = true;
        self
    }

    /// No row is NaN or infinite; a column of another kind than numbers breaks it too. Nulls are another matter: see
    /// [`not_null`](Self::not_null).
    pub fn finite(mut self) -> Self {
        self.finite = true;
        self
    }

    /// Every value lies in `[low, high]`; implies [`finite`](Self::finite). The limits are rounded to the column's type
    /// first, so that a 32-bit 0.1 lies in `[0.1, 1]`.
    pub fn range(mut self, low: f64, high: f64) -> Self {
        self.range = Some((low, high));
        self.finite()
    }

    /// Every value is one of these numbers, texts or Booleans. Numbers are rounded to the column's type first, so that a
    /// 32-bit 0.1 is `0.1`.
    pub fn allowed(mut self, values: impl IntoIterator<Item = impl Into<Value>>) -> Self {
        self.allowed = Some(values.into_iter().map(Into::into).collect());
        self
    }

    fn check(&self, rows: &RecordBatch, broken: &mut Vec<Broken>) {
        let mut report = |rule: &'static str, what: String, rows: u64| {
            broken.push(Broken { column: self.name.clone(), rule, what, rows });
        };
        let n = rows.num_rows();
        let Some(array) = rows.column_by_name(&self.name) else {
            let schema = rows.schema();
            let names: Vec<&str> = schema.fields().iter().take(20).map(|f| f.name().as_str()).collect();
            return report("missing", format!("missing; there are [{}]", names.join(", ")), n as u64);
        };
        if let Some(wanted) = self.column_type.map(ColumnType::arrow).filter(|t| t != array.data_type()) {
            return report("other type", format!("is {}, not {wanted}", array.data_type()), n as u64);
        }
        // Values in place of dictionary keys, so that each kind of column is met in one form.
        let plain = match array.data_type() {
            DataType::Dictionary(_, values) => cast(array, values).ok(),
            _ => None,
        };
        let array = plain.as_ref().unwrap_or(array);
        let nulls = array.logical_nulls();
        let valid = |row: usize| nulls.as_ref().is_none_or(|nulls| nulls.is_valid(row));
        let mut count = |rule: &'static str, text: &str, breaks: &dyn Fn(usize) -> bool| {
            let mut offenders = (0..n).filter(|&row| breaks(row));
            if let Some(first) = offenders.next() {
                let many = 1 + offenders.count();
                let value = if valid(first) { shown(array, first) } else { "null".to_owned() };
                let what = format!("{many} of {n} rows {text}, first at row {first} ({value})");
                report(rule, what, many as u64);
            }
        };
        if self.not_null {
            count("null", "null", &|row| !valid(row));
        }
        let kind = array.data_type().clone();
        let numeric = kind.is_numeric() || kind == DataType::Boolean;
        let numbers = if numeric { cast(array, &DataType::Float64).ok() } else { None };
        let numbers = numbers.as_ref().map(|a| a.as_primitive::<Float64Type>().values());
        let rounded = |x: f64| match kind {
            DataType::Float16 => f64::from(f16::from_f64(x)),
            DataType::Float32 => f64::from(x as f32),
            _ => x,
        };
        if self.finite {
            match (numbers, self.range) {
                (Some(values), _) => {
                    count("not finite", "not finite", &|row| valid(row) && !values[row].is_finite());
                }
                (None, None) => count("not a number", "not numbers, which alone can be finite", &valid),
                // Said by the range, below.
                (None, Some(_)) => {}
            }
        }
        if let Some((low, high)) = self.range {
            match numbers {
                Some(values) => count("outside the range", &format!("outside [{low}, {high}]"), &|row| {
                    let range = rounded(low)..=rounded(high);
                    valid(row) && values[row].is_finite() && !range.contains(&values[row])
                }),
                None => count("not a number", "not numbers, which a range needs", &valid),
            }
        }
        if let Some(allowed) = &self.allowed {
            let is_allowed: Box<dyn Fn(usize) -> bool> = if kind == DataType::Boolean {
                let flags = array.as_boolean();
                Box::new(move |row| allowed.contains(&Value::Bool(flags.value(row))))
            } else if let Some(values) = numbers {
                let allowed: Vec<f64> = allowed.iter().filter_map(Value::as_f64).map(rounded).collect();
                Box::new(move |row| allowed.contains(&values[row]))
            } else {
                let texts: BTreeSet<&str> = allowed.iter().filter_map(Value::as_str).collect();
                Box::new(move |row| whole(array, row).is_some_and(|text| texts.contains(text.as_str())))
            };
            count("not an allowed value", "not an allowed value", &|row| valid(row) && !is_allowed(row));
        }
    }
}

/// One rule that does not hold.
struct Broken {
    column: String,
    rule: &'static str,
    what: String,
    rows: u64,
}

/// One value that is not null as text, cut to what a person reads.
fn shown(array: &ArrayRef, row: usize) -> String {
    if let Some(floats) = array.as_primitive_opt::<Float64Type>() {
        return floats.value(row).to_string();
    }
    whole(array, row).unwrap_or_else(|| "?".to_owned()).chars().take(80).collect()
}

/// One value that is not null as text.
fn whole(array: &ArrayRef, row: usize) -> Option<String> {
    arrow::util::display::array_value_to_string(array, row).ok()
}

impl DataGate {
    /// Starts a gate named `data` that wants at least one row.
    pub fn builder() -> DataGateBuilder {
        DataGateBuilder(Self { name: "data".to_owned(), min_rows: 1, columns: Vec::new() })
    }
}

impl DataGateBuilder {
    /// The gate's name (default `data`).
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.0.name = name.into();
        self
    }

    /// How many rows there must be, at least 1 (default 1).
    pub fn min_rows(mut self, rows: usize) -> Self {
        self.0.min_rows = rows;
        self
    }

    /// Adds rules for a column.
    pub fn column(mut self, rules: ColumnRules) -> Self {
        self.0.columns.push(rules);
        self
    }

    /// Adds what a model with this signature asks of its inputs: each required column there, of its type, not null and,
    /// if it holds floats, finite.
    pub fn signature(mut self, signature: &Signature) -> Self {
        for spec in signature.inputs().iter().filter(|c| c.required) {
            let rules = ColumnRules::new(&spec.name).of_type(spec.column_type).not_null();
            let floats = matches!(spec.column_type, ColumnType::Float | ColumnType::Double);
            self.0.columns.push(if floats { rules.finite() } else { rules });
        }
        self
    }

    /// Checks the options.
    ///
    /// # Errors
    /// [`Error::InvalidGate`](crate::Error::InvalidGate) for `min_rows` of 0, a range whose ends are not numbers in
    /// order, or an empty list of allowed values.
    pub fn build(self) -> Result<DataGate> {
        let gate = self.0;
        if gate.min_rows == 0 {
            return Err(invalid(&gate.name, "min_rows must be at least 1: a gate has nothing to say about no rows"));
        }
        for rules in &gate.columns {
            if let Some((low, high)) = rules.range.filter(|(low, high)| low.is_nan() || high.is_nan() || low > high) {
                return Err(invalid(&gate.name, format!("the range [{low}, {high}] of column {:?}", rules.name)));
            }
            if rules.allowed.as_ref().is_some_and(Vec::is_empty) {
                return Err(invalid(&gate.name, format!("no value of column {:?} is allowed", rules.name)));
            }
        }
        Ok(gate)
    }
}

impl Gate for DataGate {
    fn name(&self) -> &str {
        &self.name
    }

    fn check(&self, subject: &Subject<'_>) -> Result<Finding> {
        let rows = subject.need_data(&self.name)?;
        let n = rows.num_rows();
        let mut said = Vec::new();
        if n < self.min_rows {
            said.push(match n {
                0 => "there are no rows".to_owned(),
                _ => format!("{n} rows, fewer than the {} wanted", self.min_rows),
            });
        }
        let mut broken = Vec::new();
        self.columns.iter().for_each(|rules| rules.check(rows, &mut broken));
        said.extend(broken.iter().map(|b| format!("column {:?}: {}", b.column, b.what)));
        let mut finding = if said.is_empty() {
            let summary = format!("{n} rows hold to the rules of {} columns", self.columns.len());
            Finding::new(&self.name, Verdict::Pass, summary)
        } else {
            let more = said.len().saturating_sub(SHOWN);
            let mut summary = said[..said.len() - more].join("; ");
            if more > 0 {
                summary.push_str(&format!("; and {more} more"));
            }
            Finding::new(&self.name, Verdict::Fail, summary)
        };
        if n < self.min_rows {
            finding = finding.with(Measurement::new("rows", n as f64).with_bound(format!(">= {}", self.min_rows)));
        }
        Ok(broken.iter().fold(finding, |finding, b| {
            let name = format!("{}: {}", b.column, b.rule);
            finding.with(Measurement::new(name, b.rows as f64).with_n(n as u64).with_bound("0"))
        }))
    }
}

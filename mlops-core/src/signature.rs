//! What a model takes and gives, and the check that a batch fits.

use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Float32Array, Float64Array, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// The type of a column, by its MLflow name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum ColumnType {
    /// True or false.
    Boolean,
    /// 32-bit signed integer.
    Integer,
    /// 64-bit signed integer.
    Long,
    /// 32-bit float.
    Float,
    /// 64-bit float.
    Double,
    /// UTF-8 text.
    String,
    /// Bytes.
    Binary,
    /// Microseconds since 1970, UTC.
    Datetime,
}

impl ColumnType {
    /// The Arrow type that holds it.
    #[must_use]
    pub fn arrow(self) -> DataType {
        match self {
            Self::Boolean => DataType::Boolean,
            Self::Integer => DataType::Int32,
            Self::Long => DataType::Int64,
            Self::Float => DataType::Float32,
            Self::Double => DataType::Float64,
            Self::String => DataType::Utf8,
            Self::Binary => DataType::Binary,
            Self::Datetime => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        }
    }

    fn from_arrow(data_type: &DataType) -> Option<Self> {
        let all = [
            Self::Boolean,
            Self::Integer,
            Self::Long,
            Self::Float,
            Self::Double,
            Self::String,
            Self::Binary,
            Self::Datetime,
        ];
        all.into_iter().find(|t| t.arrow() == *data_type)
    }
}

/// One column of a signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ColumnSpec {
    /// Its name.
    pub name: String,
    /// Its type.
    #[serde(rename = "type")]
    pub column_type: ColumnType,
    /// Whether every row needs a value. An optional column may be absent, null or NaN.
    #[serde(default = "yes")]
    pub required: bool,
}

fn yes() -> bool {
    true
}

impl ColumnSpec {
    /// A required column.
    pub fn new(name: impl Into<String>, column_type: ColumnType) -> Self {
        Self { name: name.into(), column_type, required: true }
    }

    /// The same column, not required.
    #[must_use]
    pub fn optional(mut self) -> Self {
        self.required = false;
        self
    }
}

/// The columns a model takes and the columns it gives.
///
/// Serializes as the `signature` entry of an MLflow `MLmodel` file: two JSON texts.
///
/// ```
/// use mlops_core::signature::{ColumnSpec, ColumnType, Signature};
/// let signature = Signature::new(
///     [ColumnSpec::new("price", ColumnType::Double)],
///     [ColumnSpec::new("probability", ColumnType::Double)],
/// )?;
/// assert_eq!(signature.to_string(), "(price: double) -> (probability: double)");
/// # Ok::<(), mlops_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Texts", into = "Texts")]
pub struct Signature {
    inputs: Vec<ColumnSpec>,
    outputs: Vec<ColumnSpec>,
}

#[derive(Clone, Serialize, Deserialize)]
struct Texts {
    inputs: String,
    outputs: String,
}

impl From<Signature> for Texts {
    fn from(signature: Signature) -> Self {
        // A list of plain structs with string names always has a JSON form.
        let text = |columns: &[ColumnSpec]| serde_json::to_string(columns).unwrap_or_default();
        Self { inputs: text(&signature.inputs), outputs: text(&signature.outputs) }
    }
}

impl TryFrom<Texts> for Signature {
    type Error = Error;

    fn try_from(texts: Texts) -> Result<Self> {
        let columns = |side: &str, text: &str| -> Result<Vec<ColumnSpec>> {
            serde_json::from_str(text).map_err(|e| Error::invalid(format!("signature {side}"), e))
        };
        Self::new(columns("inputs", &texts.inputs)?, columns("outputs", &texts.outputs)?)
    }
}

impl Signature {
    /// A signature.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if either side has no column or names one twice.
    pub fn new(
        inputs: impl IntoIterator<Item = ColumnSpec>,
        outputs: impl IntoIterator<Item = ColumnSpec>,
    ) -> Result<Self> {
        let signature = Self { inputs: inputs.into_iter().collect(), outputs: outputs.into_iter().collect() };
        for (side, columns) in [("inputs", &signature.inputs), ("outputs", &signature.outputs)] {
            if columns.is_empty() {
                return Err(Error::invalid(format!("signature {side}"), "has no column"));
            }
            if let Some(twice) =
                columns.iter().enumerate().find(|(i, c)| columns[..*i].iter().any(|b| b.name == c.name))
            {
                return Err(Error::invalid(format!("signature {side}"), format!("names {:?} twice", twice.1.name)));
            }
        }
        Ok(signature)
    }

    /// The signature whose columns are those of two Arrow schemas; nullable fields become optional columns.
    ///
    /// # Errors
    /// [`Error::SchemaMismatch`] for a field whose type has no place in a signature.
    pub fn from_schemas(inputs: &Schema, outputs: &Schema) -> Result<Self> {
        let columns = |schema: &Schema| -> Result<Vec<ColumnSpec>> {
            schema
                .fields()
                .iter()
                .map(|field| {
                    let column_type = ColumnType::from_arrow(field.data_type()).ok_or_else(|| {
                        Error::column(
                            field.name(),
                            format!("{} has no place in a signature; cast it", field.data_type()),
                        )
                    })?;
                    Ok(ColumnSpec { name: field.name().clone(), column_type, required: !field.is_nullable() })
                })
                .collect()
        };
        Self::new(columns(inputs)?, columns(outputs)?)
    }

    /// The columns it takes, in order.
    #[must_use]
    pub fn inputs(&self) -> &[ColumnSpec] {
        &self.inputs
    }

    /// The columns it gives, in order.
    #[must_use]
    pub fn outputs(&self) -> &[ColumnSpec] {
        &self.outputs
    }

    /// The Arrow schema of the inputs.
    #[must_use]
    pub fn input_schema(&self) -> SchemaRef {
        schema(&self.inputs)
    }

    /// The Arrow schema of the outputs.
    #[must_use]
    pub fn output_schema(&self) -> SchemaRef {
        schema(&self.outputs)
    }

    /// The wanted input columns of `batch`, in the signature's order; other columns are left out.
    ///
    /// # Errors
    /// - [`Error::InvalidInput`] for a batch without rows.
    /// - [`Error::SchemaMismatch`] naming the first column that is missing, has another type, or (when required) has a
    ///   null, a NaN or an infinite value, with its row.
    pub fn check_inputs(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        check("inputs", &self.inputs, batch)
    }

    /// The same for what a model gave.
    ///
    /// # Errors
    /// As [`Signature::check_inputs`].
    pub fn check_outputs(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        check("outputs", &self.outputs, batch)
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = |columns: &[ColumnSpec]| {
            let column = |c: &ColumnSpec| {
                let kind = format!("{:?}", c.column_type).to_lowercase();
                format!("{}{}: {kind}", c.name, if c.required { "" } else { "?" })
            };
            columns.iter().map(column).collect::<Vec<_>>().join(", ")
        };
        write!(f, "({}) -> ({})", side(&self.inputs), side(&self.outputs))
    }
}

fn schema(columns: &[ColumnSpec]) -> SchemaRef {
    let field = |c: &ColumnSpec| Field::new(&c.name, c.column_type.arrow(), !c.required);
    Arc::new(Schema::new(columns.iter().map(field).collect::<Vec<_>>()))
}

fn check(side: &str, columns: &[ColumnSpec], batch: &RecordBatch) -> Result<RecordBatch> {
    let rows = batch.num_rows();
    if rows == 0 {
        return Err(Error::invalid(side, "batch has no rows"));
    }
    let mut arrays: Vec<ArrayRef> = Vec::with_capacity(columns.len());
    for spec in columns {
        let wanted = spec.column_type.arrow();
        let Some(array) = batch.column_by_name(&spec.name) else {
            if spec.required {
                let schema = batch.schema();
                let names: Vec<&str> = schema.fields().iter().take(20).map(|f| f.name().as_str()).collect();
                let reason = format!("missing from the {side}; the batch has [{}]", names.join(", "));
                return Err(Error::column(&spec.name, reason));
            }
            arrays.push(new_null_array(&wanted, rows));
            continue;
        };
        if *array.data_type() != wanted {
            let reason = format!("expected {wanted}, got {}; cast it before the call", array.data_type());
            return Err(Error::column(&spec.name, reason));
        }
        if spec.required {
            check_complete(spec, array)?;
        }
        arrays.push(Arc::clone(array));
    }
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    Ok(RecordBatch::try_new_with_options(schema(columns), arrays, &options)?)
}

fn check_complete(spec: &ColumnSpec, array: &ArrayRef) -> Result<()> {
    let at = |row: usize, what: &str| {
        Err(Error::column(
            &spec.name,
            format!("row {row} is {what}; fill it, drop the row, or make the column optional"),
        ))
    };
    if let Some(nulls) = array.nulls().filter(|n| n.null_count() > 0) {
        return at((0..array.len()).find(|&i| nulls.is_null(i)).unwrap_or(0), "null");
    }
    let bad = if let Some(floats) = array.as_any().downcast_ref::<Float64Array>() {
        floats.values().iter().position(|v| !v.is_finite())
    } else if let Some(floats) = array.as_any().downcast_ref::<Float32Array>() {
        floats.values().iter().position(|v| !v.is_finite())
    } else {
        None
    };
    bad.map_or(Ok(()), |row| at(row, "not finite"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::Int64Array;

    fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
        RecordBatch::try_from_iter(columns).unwrap()
    }

    fn floats(values: impl Into<Float64Array>) -> ArrayRef {
        Arc::new(values.into())
    }

    fn signature() -> Signature {
        Signature::new(
            [ColumnSpec::new("a", ColumnType::Double), ColumnSpec::new("b", ColumnType::Double).optional()],
            [ColumnSpec::new("p", ColumnType::Double)],
        )
        .unwrap()
    }

    #[test]
    fn columns_are_picked_by_name_and_put_in_order() {
        let rows = batch(vec![
            ("b", floats(vec![f64::NAN])),
            ("x", Arc::new(Int64Array::from(vec![1]))),
            ("a", floats(vec![2.0])),
        ]);
        let picked = signature().check_inputs(&rows).unwrap();
        assert_eq!(picked.schema(), signature().input_schema());
        assert_eq!(picked.num_columns(), 2);
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let message = |batch: &RecordBatch| signature().check_inputs(batch).unwrap_err().to_string();
        let missing = batch(vec![("b", floats(vec![1.0]))]);
        assert_eq!(message(&missing), "column \"a\": missing from the inputs; the batch has [b]");
        let wrong = batch(vec![("a", Arc::new(Int64Array::from(vec![1])))]);
        assert!(message(&wrong).contains("expected Float64, got Int64"), "{}", message(&wrong));
        let nan = batch(vec![("a", floats(vec![1.0, f64::NAN]))]);
        assert!(message(&nan).contains("row 1 is not finite"), "{}", message(&nan));
        let null = batch(vec![("a", floats(vec![None, Some(1.0)]))]);
        assert!(message(&null).contains("row 0 is null"), "{}", message(&null));
        let empty = nan.slice(0, 0);
        assert_eq!(message(&empty), "invalid inputs: batch has no rows");
    }

    #[test]
    fn an_absent_optional_column_is_null() {
        let rows = batch(vec![("a", floats(vec![2.0, 3.0]))]);
        assert_eq!(signature().check_inputs(&rows).unwrap().column(1).null_count(), 2);
    }

    #[test]
    fn mlflow_reads_the_same_json() {
        let json = serde_json::to_value(signature()).unwrap();
        let inputs = r#"[{"name":"a","type":"double","required":true},{"name":"b","type":"double","required":false}]"#;
        assert_eq!(json["inputs"], inputs);
        assert_eq!(serde_json::from_value::<Signature>(json).unwrap(), signature());
    }

    #[test]
    fn schemas_with_foreign_types_are_refused() {
        let array = Int64Array::from(vec![1]);
        let list = Schema::new(vec![Field::new("l", DataType::new_list(array.data_type().clone(), false), false)]);
        assert!(Signature::from_schemas(&list, &list).unwrap_err().to_string().contains("\"l\""));
    }
}

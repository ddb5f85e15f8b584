//! What was asked, what was answered, and by which version: the log that monitoring, labels and [`crate::lineage::trace`]
//! live on.
//!
//! In memory a request is an [`InferenceRecord`]; at rest the log is a table with the columns of [`log_schema`], one
//! prediction a row.

use std::fmt::{Debug, Display};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arrow::array::{
    Array, ArrayRef, AsArray, Int64Array, RecordBatch, StringArray, StructArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType};
use async_trait::async_trait;

use crate::clock::from_micros;
use crate::{Error, PredictionId, Result, Timestamp};

/// One answered request: one or more rows, each with its own prediction id.
#[derive(Clone, Debug, PartialEq)]
pub struct InferenceRecord {
    /// One id for each row.
    pub ids: Vec<PredictionId>,
    /// When the request arrived.
    pub at: Timestamp,
    /// The deployment that answered.
    pub deployment: Arc<str>,
    /// The model's name.
    pub model: Arc<str>,
    /// The model's version.
    pub version: u64,
    /// The arm: `champion`, `canary`, `shadow`, or a name of the caller's.
    pub arm: Arc<str>,
    /// What the caller was routed by.
    pub key: Arc<str>,
    /// How long the model took.
    pub latency: Duration,
    /// What was asked.
    pub inputs: RecordBatch,
    /// What was answered, row for row.
    pub outputs: RecordBatch,
}

/// The columns of the log at rest.
///
/// | column | type | meaning |
/// | --- | --- | --- |
/// | `prediction_id` | Utf8 | UUID; shadow answers carry the id of the answer they shadow |
/// | `at` | Timestamp(µs, UTC) | when the request arrived |
/// | `deployment`, `model` | Utf8 | names |
/// | `version` | Int64 | the model's version |
/// | `arm`, `key` | Utf8 | who answered, and what the caller was routed by |
/// | `latency_ns` | Int64 | time in the model, for the whole request |
/// | `inputs`, `outputs` | Struct | the model's own columns |
#[must_use]
pub fn log_schema(inputs: &Schema, outputs: &Schema) -> SchemaRef {
    let text = |name: &str| Field::new(name, DataType::Utf8, false);
    Arc::new(Schema::new(vec![
        text("prediction_id"),
        Field::new("at", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), false),
        text("deployment"),
        text("model"),
        Field::new("version", DataType::Int64, false),
        text("arm"),
        text("key"),
        Field::new("latency_ns", DataType::Int64, false),
        Field::new("inputs", DataType::Struct(inputs.fields().clone()), false),
        Field::new("outputs", DataType::Struct(outputs.fields().clone()), false),
    ]))
}

/// Records as rows of the log.
///
/// # Errors
/// [`Error::InvalidInput`] for no records, or one whose ids, inputs and outputs differ in length; a batch error for
/// records whose columns differ.
pub fn to_batch(records: &[InferenceRecord]) -> Result<RecordBatch> {
    let first = records.first().ok_or_else(|| Error::invalid("inference log", "no records"))?;
    for r in records {
        if r.inputs.num_rows() != r.ids.len() || r.outputs.num_rows() != r.ids.len() {
            let (ids, inputs, outputs) = (r.ids.len(), r.inputs.num_rows(), r.outputs.num_rows());
            let reason = format!("{ids} ids, {inputs} input rows and {outputs} output rows must be equally many");
            return Err(Error::invalid("inference record", reason));
        }
    }
    let per_row = |f: &dyn Fn(&InferenceRecord) -> String| -> ArrayRef {
        let rows: Vec<String> = records.iter().flat_map(|r| std::iter::repeat_n(f(r), r.ids.len())).collect();
        Arc::new(StringArray::from(rows))
    };
    let per_row_int = |f: &dyn Fn(&InferenceRecord) -> i64| {
        records.iter().flat_map(|r| std::iter::repeat_n(f(r), r.ids.len())).collect::<Vec<i64>>()
    };
    let (in_schema, out_schema) = (first.inputs.schema(), first.outputs.schema());
    let inputs = arrow::compute::concat_batches(&in_schema, records.iter().map(|r| &r.inputs))?;
    let outputs = arrow::compute::concat_batches(&out_schema, records.iter().map(|r| &r.outputs))?;
    let ids: Vec<String> = records.iter().flat_map(|r| &r.ids).map(ToString::to_string).collect();
    let clamp = |v: u128| i64::try_from(v).unwrap_or(i64::MAX);
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from(ids)),
        Arc::new(TimestampMicrosecondArray::from(per_row_int(&|r| r.at.timestamp_micros())).with_timezone("UTC")),
        per_row(&|r| r.deployment.to_string()),
        per_row(&|r| r.model.to_string()),
        Arc::new(Int64Array::from(per_row_int(&|r| clamp(r.version.into())))),
        per_row(&|r| r.arm.to_string()),
        per_row(&|r| r.key.to_string()),
        Arc::new(Int64Array::from(per_row_int(&|r| clamp(r.latency.as_nanos())))),
        Arc::new(StructArray::from(inputs)),
        Arc::new(StructArray::from(outputs)),
    ];
    Ok(RecordBatch::try_new(log_schema(&in_schema, &out_schema), columns)?)
}

/// Rows of the log as records, one a row.
///
/// # Errors
/// [`Error::SchemaMismatch`] naming a column of [`log_schema`] that is missing, has another type or null structs;
/// [`Error::InvalidInput`] for an id that is none.
pub fn from_batch(batch: &RecordBatch) -> Result<Vec<InferenceRecord>> {
    let column = |name: &str| batch.column_by_name(name).ok_or_else(|| Error::column(name, "missing from the log"));
    let text = |name: &str| column(name)?.as_string_opt::<i32>().ok_or_else(|| Error::column(name, "expected Utf8"));
    let int =
        |name: &str| column(name)?.as_primitive_opt::<Int64Type>().ok_or_else(|| Error::column(name, "expected Int64"));
    let rows = |name: &str| -> Result<RecordBatch> {
        let array = column(name)?.as_struct_opt().ok_or_else(|| Error::column(name, "expected Struct"))?;
        if array.null_count() > 0 {
            return Err(Error::column(name, format!("{} rows are null", array.null_count())));
        }
        Ok(RecordBatch::from(array.clone()))
    };
    let at = column("at")?;
    let at = at.as_primitive_opt::<TimestampMicrosecondType>();
    let at = at.ok_or_else(|| Error::column("at", "expected Timestamp(Microsecond, UTC)"))?;
    let (ids, deployment, model) = (text("prediction_id")?, text("deployment")?, text("model")?);
    let (arm, key, version, latency) = (text("arm")?, text("key")?, int("version")?, int("latency_ns")?);
    let (inputs, outputs) = (rows("inputs")?, rows("outputs")?);
    (0..batch.num_rows())
        .map(|i| {
            Ok(InferenceRecord {
                ids: vec![ids.value(i).parse()?],
                at: from_micros(at.value(i)),
                deployment: deployment.value(i).into(),
                model: model.value(i).into(),
                version: u64::try_from(version.value(i)).map_err(|e| Error::column("version", e.to_string()))?,
                arm: arm.value(i).into(),
                key: key.value(i).into(),
                latency: Duration::from_nanos(latency.value(i).unsigned_abs()),
                inputs: inputs.slice(i, 1),
                outputs: outputs.slice(i, 1),
            })
        })
        .collect()
}

/// Takes records of answered requests.
///
/// # Contract
/// - **Order.** Records are kept in the order they are written.
/// - **Durable at flush.** What was written before `flush` returned survives the process; what came after may not.
/// - **Refused records** (ids, inputs and outputs of different length) change nothing.
/// - **Clones** and pointers share one sink.
#[async_trait]
pub trait InferenceSink: Debug + Display + Send + Sync + 'static {
    /// Takes one record.
    async fn write(&self, record: InferenceRecord) -> Result<()>;

    /// Makes everything written so far durable.
    async fn flush(&self) -> Result<()>;
}

/// Finds records again.
///
/// # Contract
/// - Sees what was flushed; may or may not see what was written since.
/// - Where arms share an id (a shadow), `find` returns the one whose answer was given.
#[async_trait]
pub trait InferenceLog: Debug + Display + Send + Sync + 'static {
    /// The row with that id.
    async fn find(&self, id: PredictionId) -> Result<Option<InferenceRecord>>;

    /// The rows that arrived in `from..until`, oldest first.
    async fn scan(&self, from: Timestamp, until: Timestamp) -> Result<Vec<InferenceRecord>>;
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<S: InferenceSink + ?Sized> InferenceSink for Arc<S> {
    async fn write(&self, record: InferenceRecord) -> Result<()> {
        (**self).write(record).await
    }

    async fn flush(&self) -> Result<()> {
        (**self).flush().await
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<S: InferenceLog + ?Sized> InferenceLog for Arc<S> {
    async fn find(&self, id: PredictionId) -> Result<Option<InferenceRecord>> {
        (**self).find(id).await
    }

    async fn scan(&self, from: Timestamp, until: Timestamp) -> Result<Vec<InferenceRecord>> {
        (**self).scan(from, until).await
    }
}

/// The arm whose answers are never given, only recorded.
pub const SHADOW: &str = "shadow";

/// A log in memory: the reference implementation. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct MemoryInferenceLog(Arc<Mutex<Vec<InferenceRecord>>>);

impl Display for MemoryInferenceLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("memory")
    }
}

#[async_trait]
impl InferenceSink for MemoryInferenceLog {
    async fn write(&self, record: InferenceRecord) -> Result<()> {
        let rows = from_batch(&to_batch(std::slice::from_ref(&record))?)?;
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(rows);
        Ok(())
    }

    async fn flush(&self) -> Result<()> {
        Ok(())
    }
}

#[async_trait]
impl InferenceLog for MemoryInferenceLog {
    async fn find(&self, id: PredictionId) -> Result<Option<InferenceRecord>> {
        let log = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut found = log.iter().filter(|r| r.ids[0] == id);
        let first = found.next();
        Ok(first.filter(|r| &*r.arm != SHADOW).or_else(|| found.find(|r| &*r.arm != SHADOW)).or(first).cloned())
    }

    async fn scan(&self, from: Timestamp, until: Timestamp) -> Result<Vec<InferenceRecord>> {
        let log = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut rows: Vec<_> = log.iter().filter(|r| (from..until).contains(&r.at)).cloned().collect();
        rows.sort_by_key(|r| r.at);
        Ok(rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_structs_are_an_error() {
        let one = RecordBatch::try_from_iter([("x", Arc::new(Int64Array::from(vec![1])) as ArrayRef)]).unwrap();
        let record = InferenceRecord {
            ids: vec![PredictionId::derived(from_micros(0), b"one")],
            at: from_micros(0),
            deployment: "d".into(),
            model: "m".into(),
            version: 1,
            arm: "a".into(),
            key: "k".into(),
            latency: Duration::ZERO,
            inputs: one.clone(),
            outputs: one,
        };
        let batch = to_batch(&[record]).unwrap();
        assert_eq!(from_batch(&batch).unwrap().len(), 1);
        let place = batch.schema().index_of("inputs").unwrap();
        let mut fields: Vec<Field> = batch.schema().fields().iter().map(|field| field.as_ref().clone()).collect();
        fields[place].set_nullable(true);
        let mut columns = batch.columns().to_vec();
        columns[place] = arrow::array::new_null_array(fields[place].data_type(), 1);
        let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap();
        assert!(matches!(from_batch(&batch), Err(Error::SchemaMismatch { column, .. }) if column == "inputs"));
    }
}

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Float64Array, RecordBatch};
use arrow::datatypes::Float64Type;
use mlops_core::signature::{ColumnSpec, ColumnType, Signature};
use mlops_core::{FnPredictor, Predictor, Result};

pub(crate) fn signature() -> Signature {
    let column = |name| [ColumnSpec::new(name, ColumnType::Double)];
    Signature::new(column("x"), column("y")).unwrap()
}

pub(crate) fn rows(values: Vec<f64>) -> RecordBatch {
    let x: ArrayRef = Arc::new(Float64Array::from(values));
    RecordBatch::try_from_iter([("x", x)]).unwrap()
}

pub(crate) fn first(batch: &RecordBatch) -> f64 {
    batch.column(0).as_primitive::<Float64Type>().value(0)
}

/// `y = f(x)`, row by row.
pub(crate) fn rule(f: impl Fn(f64) -> f64 + Send + Sync + 'static) -> impl Predictor {
    FnPredictor::new("rule", signature(), move |inputs: &RecordBatch| -> Result<RecordBatch> {
        let x = inputs.column(0).as_primitive::<Float64Type>();
        let y: ArrayRef = Arc::new(Float64Array::from_iter_values(x.values().iter().map(|&x| f(x))));
        Ok(RecordBatch::try_new(signature().output_schema(), vec![y])?)
    })
}

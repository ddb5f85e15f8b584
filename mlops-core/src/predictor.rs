//! A model that can answer, whatever runs it.

use std::fmt;
use std::sync::Arc;

use arrow::array::RecordBatch;

use crate::{Error, Result, Signature};

/// Turns input columns into output columns.
///
/// # Contract
/// - **Pure.** Equal inputs give equal outputs, on any thread, in any batch.
/// - **Row by row.** Row `i` of the outputs belongs to row `i` of the inputs, and does not depend on other rows.
/// - **Inputs** have passed [`Signature::check_inputs`]; callers go through [`PredictorExt::run`], which sees to it.
/// - **No panic, no I/O, no runtime.**
pub trait Predictor: fmt::Debug + Send + Sync + 'static {
    /// What it takes and gives.
    fn signature(&self) -> &Signature;

    /// Answers a batch that fits the signature.
    ///
    /// # Errors
    /// [`Error::Prediction`] if the model itself fails.
    fn predict(&self, inputs: &RecordBatch) -> Result<RecordBatch>;
}

/// Conveniences for callers. Implemented for every predictor; never implement it by hand.
pub trait PredictorExt: Predictor {
    /// Checks the inputs, answers, and checks the outputs: their columns, and one row for each input row.
    ///
    /// # Errors
    /// Those of [`Signature::check_inputs`], [`Predictor::predict`] and [`Signature::check_outputs`].
    fn run(&self, inputs: &RecordBatch) -> Result<RecordBatch> {
        let inputs = self.signature().check_inputs(inputs)?;
        let outputs = self.predict(&inputs)?;
        if outputs.num_rows() != inputs.num_rows() {
            let reason = format!("expected {} rows, the model gave {}", inputs.num_rows(), outputs.num_rows());
            return Err(Error::invalid("outputs", reason));
        }
        self.signature().check_outputs(&outputs)
    }
}

impl<P: Predictor + ?Sized> PredictorExt for P {}

impl<P: Predictor + ?Sized> Predictor for Arc<P> {
    fn signature(&self) -> &Signature {
        (**self).signature()
    }

    fn predict(&self, inputs: &RecordBatch) -> Result<RecordBatch> {
        (**self).predict(inputs)
    }
}

/// A closure as a predictor: rules, baselines, tests.
///
/// ```
/// use std::sync::Arc;
/// use arrow::array::{Float64Array, RecordBatch};
/// use mlops_core::signature::{ColumnSpec, ColumnType, Signature};
/// use mlops_core::{FnPredictor, PredictorExt};
/// let signature = Signature::new([ColumnSpec::new("x", ColumnType::Double)], [ColumnSpec::new("x", ColumnType::Double)])?;
/// let echo = FnPredictor::new("echo", signature, |inputs| Ok(inputs.clone()));
/// let batch = RecordBatch::try_from_iter([("x", Arc::new(Float64Array::from(vec![1.0, 2.0])) as _)])?;
/// assert_eq!(echo.run(&batch)?.num_rows(), 2);
/// # Ok::<(), mlops_core::Error>(())
/// ```
pub struct FnPredictor<F> {
    name: String,
    signature: Signature,
    f: F,
}

impl<F> FnPredictor<F>
where
    F: Fn(&RecordBatch) -> Result<RecordBatch> + Send + Sync + 'static,
{
    /// A predictor that calls `f`; `name` is what `Debug` shows.
    pub fn new(name: impl Into<String>, signature: Signature, f: F) -> Self {
        Self { name: name.into(), signature, f }
    }
}

impl<F> fmt::Debug for FnPredictor<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FnPredictor({}: {})", self.name, self.signature)
    }
}

impl<F> Predictor for FnPredictor<F>
where
    F: Fn(&RecordBatch) -> Result<RecordBatch> + Send + Sync + 'static,
{
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn predict(&self, inputs: &RecordBatch) -> Result<RecordBatch> {
        (self.f)(inputs)
    }
}

//! Models in safetensors, run by [Candle](candle_core) on the CPU.
//!
//! A package of flavor `candle` names an *architecture* and its configuration, and carries the weights. The built-in one
//! is [`Mlp`]; own ones are registered by name with [`CandleRuntime::with`].

use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Float32Array, Float64Array, RecordBatch};
use arrow::datatypes::{DataType, Float32Type, Float64Type, Int32Type, Int64Type};
use bytes::Bytes;
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use mlops_core::package::PackageBuilder;
use mlops_core::{Package, Predictor, Signature};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Runtime;
use crate::{Error, Result};

/// Where a package keeps its weights unless it says otherwise.
pub const WEIGHTS: &str = "data/model.safetensors";

/// A network whose weights are loaded.
///
/// # Contract
/// - `x: [batch, features] f64, on the CPU`, the input columns in the signature's order, missing values as NaN.
/// - The result is `[batch, outputs]`, of any float type, one column for each output of the signature.
pub trait Network: Debug + Send + Sync + 'static {
    /// Runs the network.
    ///
    /// # Errors
    /// Those of Candle.
    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor>;
}

/// Builds networks of one kind from a configuration and weights.
pub trait Architecture: Debug + Send + Sync + 'static {
    /// The name packages call it by.
    fn name(&self) -> &'static str;

    /// Builds the network, taking its weights from `weights` by name and shape.
    ///
    /// # Errors
    /// A reason: a configuration that cannot be read, a weight that is missing or has another shape.
    fn build(&self, config: &Value, weights: VarBuilder<'_>) -> Result<Arc<dyn Network>, BoxError>;
}

/// Any error.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The entry a package of this flavor has in `MLmodel`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Flavor {
    architecture: String,
    config: Value,
    #[serde(default = "weights_path")]
    weights: String,
}

fn weights_path() -> String {
    WEIGHTS.to_owned()
}

/// Loads packages of flavor `candle`.
#[derive(Clone, Debug)]
pub struct CandleRuntime {
    architectures: BTreeMap<&'static str, Arc<dyn Architecture>>,
}

impl Default for CandleRuntime {
    /// With the built-in architectures.
    fn default() -> Self {
        Self { architectures: BTreeMap::new() }.with(MlpArchitecture)
    }
}

impl CandleRuntime {
    /// Adds an architecture, in place of one of the same name if there is one.
    #[must_use]
    pub fn with(mut self, architecture: impl Architecture) -> Self {
        self.architectures.insert(architecture.name(), Arc::new(architecture));
        self
    }
}

fn invalid(file: &str, reason: impl ToString) -> Error {
    Error::InvalidModel { file: file.to_owned(), reason: reason.to_string() }
}

impl Runtime for CandleRuntime {
    fn flavor(&self) -> &'static str {
        "candle"
    }

    fn load(&self, package: &Package) -> Result<Arc<dyn Predictor>> {
        let flavor = package.model().flavors.get("candle").cloned().unwrap_or_default();
        let flavor: Flavor = serde_json::from_value(flavor).map_err(|e| invalid("MLmodel", e))?;
        let architecture = self.architectures.get(flavor.architecture.as_str()).ok_or_else(|| {
            let known: Vec<&str> = self.architectures.keys().copied().collect();
            let reason = format!(
                "architecture {:?} is not registered; known: {}; add it with `CandleRuntime::with`",
                flavor.architecture,
                known.join(", ")
            );
            invalid("MLmodel", reason)
        })?;
        let signature = package.signature()?.clone();
        let weights = package.file(&flavor.weights)?;
        let tensors =
            candle_core::safetensors::load_buffer(weights, &Device::Cpu).map_err(|e| invalid(&flavor.weights, e))?;
        let weights = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
        let network = architecture.build(&flavor.config, weights).map_err(|e| invalid(&flavor.weights, e))?;
        for column in signature.inputs() {
            if !is_numeric(&column.column_type.arrow()) {
                return Err(invalid("MLmodel", format!("input {:?} is not a number", column.name)));
            }
        }
        Ok(Arc::new(CandlePredictor { signature, network }))
    }
}

fn is_numeric(data_type: &DataType) -> bool {
    use DataType as T;
    matches!(data_type, T::Float64 | T::Float32 | T::Int64 | T::Int32 | T::Boolean)
}

#[derive(Debug)]
struct CandlePredictor {
    signature: Signature,
    network: Arc<dyn Network>,
}

impl Predictor for CandlePredictor {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn predict(&self, inputs: &RecordBatch) -> mlops_core::Result<RecordBatch> {
        let failed = |source: BoxError| mlops_core::Error::Prediction { runtime: "candle".to_owned(), source };
        let x = to_tensor(inputs).map_err(|e| failed(e.into()))?;
        let y = self.network.forward(&x).map_err(|e| failed(e.into()))?;
        to_batch(&y, &self.signature).map_err(failed)
    }
}

/// The columns of a batch as `[rows, columns] f64`, nulls as NaN.
///
/// # Errors
/// Those of Candle. A column that is not a number becomes NaN throughout.
pub fn to_tensor(batch: &RecordBatch) -> candle_core::Result<Tensor> {
    let (rows, columns) = (batch.num_rows(), batch.num_columns());
    let mut values = vec![f64::NAN; rows * columns];
    for (j, array) in batch.columns().iter().enumerate() {
        let mut put = |i: usize, v: f64| {
            if array.is_valid(i) {
                values[i * columns + j] = v;
            }
        };
        match array.data_type() {
            DataType::Float64 => {
                array.as_primitive::<Float64Type>().values().iter().enumerate().for_each(|(i, v)| put(i, *v));
            }
            DataType::Float32 => {
                array
                    .as_primitive::<Float32Type>()
                    .values()
                    .iter()
                    .enumerate()
                    .for_each(|(i, v)| put(i, f64::from(*v)));
            }
            DataType::Int64 => {
                array.as_primitive::<Int64Type>().values().iter().enumerate().for_each(|(i, v)| put(i, *v as f64));
            }
            DataType::Int32 => {
                array.as_primitive::<Int32Type>().values().iter().enumerate().for_each(|(i, v)| put(i, f64::from(*v)));
            }
            DataType::Boolean => {
                array.as_boolean().values().iter().enumerate().for_each(|(i, v)| put(i, f64::from(u8::from(v))));
            }
            _ => {}
        }
    }
    Tensor::from_vec(values, (rows, columns), &Device::Cpu)
}

fn to_batch(y: &Tensor, signature: &Signature) -> Result<RecordBatch, BoxError> {
    let (rows, columns) = y.dims2()?;
    if columns != signature.outputs().len() {
        return Err(
            format!("the network gives {columns} columns, the signature has {}", signature.outputs().len()).into()
        );
    }
    let flat: Vec<f64> = y.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?;
    let mut arrays: Vec<ArrayRef> = Vec::with_capacity(columns);
    for (j, spec) in signature.outputs().iter().enumerate() {
        let column = (0..rows).map(|i| flat[i * columns + j]);
        arrays.push(match spec.column_type.arrow() {
            DataType::Float64 => Arc::new(Float64Array::from_iter_values(column)),
            DataType::Float32 => Arc::new(Float32Array::from_iter_values(column.map(|v| v as f32))),
            other => return Err(format!("output {:?} is {other}; Candle gives double or float", spec.name).into()),
        });
    }
    Ok(RecordBatch::try_new(signature.output_schema(), arrays)?)
}

/// How the last layer of an [`Mlp`] is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Output {
    /// As it is: regression.
    Identity,
    /// Each output squeezed into `(0, 1)`: probabilities of independent labels.
    #[default]
    Sigmoid,
    /// Outputs that sum to 1: probabilities of classes.
    Softmax,
}

/// The shape of an [`Mlp`].
///
/// ```
/// use mlops_serve::runtime::candle::{MlpConfig, Output};
/// let config = MlpConfig { features: 9, hidden: vec![32, 32], outputs: 1, output: Output::Sigmoid };
/// assert_eq!(config.weight_shapes()["layers.0.weight"], [32, 9]);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MlpConfig {
    /// Input columns.
    pub features: usize,
    /// Units of each hidden layer, first to last.
    pub hidden: Vec<usize>,
    /// Output columns.
    pub outputs: usize,
    /// How the last layer is read.
    #[serde(default)]
    pub output: Output,
}

impl MlpConfig {
    /// The name and shape of every weight: `input.mean` and `input.scale` (f64, `[features]`), and for each layer `k`
    /// `layers.k.weight` (`[out, in]`) and `layers.k.bias` (`[out]`), f32.
    #[must_use]
    pub fn weight_shapes(&self) -> BTreeMap<String, Vec<usize>> {
        let mut shapes = BTreeMap::new();
        shapes.insert("input.mean".to_owned(), vec![self.features]);
        shapes.insert("input.scale".to_owned(), vec![self.features]);
        let mut width = self.features;
        for (k, &next) in self.hidden.iter().chain([&self.outputs]).enumerate() {
            shapes.insert(format!("layers.{k}.weight"), vec![next, width]);
            shapes.insert(format!("layers.{k}.bias"), vec![next]);
            width = next;
        }
        shapes
    }
}

/// A multi-layer perceptron that scales its own inputs.
///
/// ```text
/// h₀ = (x − mean) / scale          in f64, then f32
/// hₖ₊₁ = relu(Wₖ hₖ + bₖ)           hidden layers
/// y = output(W hₙ + b)             identity, sigmoid or softmax
/// ```
///
/// Mean and scale are weights like the others, so training and serving cannot differ in them.
///
/// [`Mlp::logits`] is Candle throughout, for training. Serving multiplies by itself, row by row in a fixed order: a row's
/// answer is the same bits alone and in any batch, and a single row costs a microsecond. (On Linux, Candle 0.11 reads
/// `/proc/cpuinfo` for each matrix product unless `RAYON_NUM_THREADS` is set; see `benches/RESULTS.md`.)
#[derive(Debug)]
pub struct Mlp {
    mean: Tensor,
    scale: Tensor,
    layers: Vec<(Tensor, Tensor)>,
    output: Output,
}

impl Mlp {
    /// The network with these weights (see [`MlpConfig::weight_shapes`]).
    ///
    /// # Errors
    /// A Candle error naming a weight that is missing or has another shape.
    pub fn new(config: &MlpConfig, weights: &VarBuilder<'_>) -> candle_core::Result<Self> {
        let input = weights.pp("input");
        let mean = input.get_with_hints_dtype(config.features, "mean", candle_nn::Init::Const(0.0), DType::F64)?;
        let scale = input.get_with_hints_dtype(config.features, "scale", candle_nn::Init::Const(1.0), DType::F64)?;
        let mut layers = Vec::new();
        let mut width = config.features;
        for (k, &next) in config.hidden.iter().chain([&config.outputs]).enumerate() {
            let layer = weights.pp(format!("layers.{k}"));
            layers.push((layer.get((next, width), "weight")?, layer.get(next, "bias")?));
            width = next;
        }
        Ok(Self { mean, scale, layers, output: config.output })
    }

    /// The last layer before it is read: `[batch, outputs] f32`. Training with a loss on logits needs this one.
    ///
    /// # Errors
    /// Those of Candle: `x` must be `[batch, features] f64`.
    pub fn logits(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let mut h = x.broadcast_sub(&self.mean)?.broadcast_div(&self.scale)?.to_dtype(DType::F32)?;
        for (k, (weight, bias)) in self.layers.iter().enumerate() {
            h = h.matmul(&weight.t()?)?.broadcast_add(bias)?;
            if k + 1 < self.layers.len() {
                h = h.relu()?;
            }
        }
        Ok(h)
    }
}

/// An [`Mlp`] with its weights laid out for serving.
#[derive(Debug)]
struct ServingMlp {
    mean: Vec<f64>,
    scale: Vec<f64>,
    layers: Vec<Dense>,
    output: Output,
}

/// `y = W x + b`, the weights stored by input so that the inner loop runs over outputs.
#[derive(Debug)]
struct Dense {
    /// `[inputs, outputs]`, row-major.
    by_input: Vec<f32>,
    bias: Vec<f32>,
}

impl ServingMlp {
    fn new(mlp: &Mlp) -> candle_core::Result<Self> {
        let dense = |(weight, bias): &(Tensor, Tensor)| {
            Ok(Dense { by_input: weight.t()?.flatten_all()?.to_vec1()?, bias: bias.to_vec1()? })
        };
        let layers = mlp.layers.iter().map(dense).collect::<candle_core::Result<_>>()?;
        Ok(Self { mean: mlp.mean.to_vec1()?, scale: mlp.scale.to_vec1()?, layers, output: mlp.output })
    }
}

impl Network for ServingMlp {
    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let (rows, columns) = x.dims2()?;
        if columns != self.mean.len() {
            candle_core::bail!("expected {} columns, got {columns}", self.mean.len());
        }
        let x: Vec<f64> = x.flatten_all()?.to_vec1()?;
        let outputs = self.layers.last().map_or(0, |layer| layer.bias.len());
        let mut y = Vec::with_capacity(rows * outputs);
        let (mut h, mut next) = (Vec::new(), Vec::new());
        for row in x.chunks_exact(columns.max(1)) {
            h.clear();
            h.extend(row.iter().zip(&self.mean).zip(&self.scale).map(|((x, mean), scale)| ((x - mean) / scale) as f32));
            for (k, layer) in self.layers.iter().enumerate() {
                next.clone_from(&layer.bias);
                for (h, weights) in h.iter().zip(layer.by_input.chunks_exact(layer.bias.len().max(1))) {
                    next.iter_mut().zip(weights).for_each(|(sum, w)| *sum += h * w);
                }
                if k + 1 < self.layers.len() {
                    // Not `f32::max`, which would turn a NaN into 0.
                    next.iter_mut().filter(|v| **v < 0.0).for_each(|v| *v = 0.0);
                }
                std::mem::swap(&mut h, &mut next);
            }
            self.output.read(&h, &mut y);
        }
        Tensor::from_vec(y, (rows, outputs), &Device::Cpu)
    }
}

impl Output {
    /// Appends what a row of logits says.
    fn read(self, logits: &[f32], to: &mut Vec<f64>) {
        let logits = logits.iter().map(|&z| f64::from(z));
        match self {
            Self::Identity => to.extend(logits),
            Self::Sigmoid => to.extend(logits.map(|z| 1.0 / (1.0 + (-z).exp()))),
            Self::Softmax => {
                let most = logits.clone().fold(f64::NEG_INFINITY, f64::max);
                let sum: f64 = logits.clone().map(|z| (z - most).exp()).sum();
                to.extend(logits.map(|z| (z - most).exp() / sum));
            }
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct MlpArchitecture;

impl Architecture for MlpArchitecture {
    fn name(&self) -> &'static str {
        "mlp"
    }

    fn build(&self, config: &Value, weights: VarBuilder<'_>) -> Result<Arc<dyn Network>, BoxError> {
        let config = MlpConfig::deserialize(config)?;
        Ok(Arc::new(ServingMlp::new(&Mlp::new(&config, &weights)?)?))
    }
}

/// Weights as the bytes of a safetensors file: equal weights, equal bytes.
///
/// # Errors
/// [`Error::InvalidModel`] if they cannot be written.
pub fn to_safetensors(weights: &HashMap<String, Tensor>) -> Result<Bytes> {
    let sorted: BTreeMap<&String, &Tensor> = weights.iter().collect();
    Ok(safetensors::serialize(sorted, None).map_err(|e| invalid(WEIGHTS, e))?.into())
}

/// Adds the flavor `candle` and the weights, a safetensors file, to a package.
///
/// # Errors
/// [`Error::InvalidModel`] if the configuration cannot be written as JSON.
///
/// # Examples
/// ```
/// # use std::collections::HashMap;
/// # use candle_core::{Device, Tensor};
/// # use mlops_core::signature::{ColumnSpec, ColumnType, Signature};
/// use mlops_core::Package;
/// use mlops_serve::runtime::candle::{MlpConfig, Output, add_to_package, to_safetensors};
/// # let signature = Signature::new([ColumnSpec::new("x", ColumnType::Double)], [ColumnSpec::new("p", ColumnType::Double)])?;
/// let config = MlpConfig { features: 1, hidden: vec![], outputs: 1, output: Output::Sigmoid };
/// let weights = HashMap::from([
///     ("input.mean".to_owned(), Tensor::new(&[0f64], &Device::Cpu)?),
///     ("input.scale".to_owned(), Tensor::new(&[1f64], &Device::Cpu)?),
///     ("layers.0.weight".to_owned(), Tensor::new(&[[2f32]], &Device::Cpu)?),
///     ("layers.0.bias".to_owned(), Tensor::new(&[0f32], &Device::Cpu)?),
/// ]);
/// let package = Package::builder(signature);
/// let package = add_to_package(package, "mlp", &config, to_safetensors(&weights)?)?.build()?;
/// let model = mlops_serve::runtime::Runtimes::default().load(&package)?;
/// # let _ = model;
/// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
/// ```
pub fn add_to_package(
    builder: PackageBuilder,
    architecture: &str,
    config: &impl Serialize,
    weights: impl Into<Bytes>,
) -> Result<PackageBuilder> {
    let config = serde_json::to_value(config).map_err(|e| invalid("MLmodel", e))?;
    let flavor = Flavor { architecture: architecture.to_owned(), config, weights: weights_path() };
    let flavor = serde_json::to_value(flavor).map_err(|e| invalid("MLmodel", e))?;
    Ok(builder.flavor("candle", flavor).file(WEIGHTS, weights))
}

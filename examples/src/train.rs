//! Trains a multi-layer perceptron in Candle, the same way each time it is given the same seed.

use std::collections::{BTreeMap, HashMap};

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Float64Type, Int64Type};
use candle_core::{Device, Tensor, Var};
use candle_nn::{AdamW, Optimizer, ParamsAdamW, VarBuilder};
use mlops_serve::runtime::candle::{Mlp, MlpConfig, Output, to_tensor};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

use crate::Result;

/// How a model is trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainParams {
    /// The input columns.
    pub features: Vec<String>,
    /// Units of each hidden layer.
    pub hidden: Vec<usize>,
    /// Passes over the rows.
    pub epochs: usize,
    /// Rows in each step.
    pub batch: usize,
    /// The first learning rate; it falls to a tenth along half a cosine.
    pub learning_rate: f64,
    /// Weight decay of AdamW.
    pub weight_decay: f64,
    /// Fixes the first weights and the order of the rows.
    pub seed: u64,
    /// Trains on labels in random order: a fault planted on purpose.
    #[serde(default)]
    pub shuffle_labels: bool,
}

/// What training gives.
#[derive(Debug)]
pub struct Trained {
    /// The network's shape.
    pub config: MlpConfig,
    /// Its weights.
    pub weights: HashMap<String, Tensor>,
    /// Mean loss (binary cross-entropy, nats) of each epoch.
    pub losses: Vec<f64>,
}

/// Trains on `rows`, which have the features and the 0/1 label as columns. `progress` is called after each epoch.
///
/// # Errors
/// If a column is missing or there are no rows.
pub fn train(rows: &RecordBatch, label: &str, params: &TrainParams, progress: impl Fn(usize)) -> Result<Trained> {
    let features = rows.project_by_name(&params.features)?;
    let labels = rows.column_by_name(label).ok_or_else(|| format!("no label column {label:?}"))?;
    let mut labels: Vec<f32> = labels.as_primitive::<Int64Type>().values().iter().map(|&v| v as f32).collect();
    if labels.is_empty() {
        return Err("no rows to train on".into());
    }
    let mut rng = StdRng::seed_from_u64(params.seed);
    if params.shuffle_labels {
        labels.shuffle(&mut rng);
    }
    let output = Output::Sigmoid;
    let config = MlpConfig { features: params.features.len(), hidden: params.hidden.clone(), outputs: 1, output };
    let (mean, scale) = moments(&features);
    let mut vars = BTreeMap::new();
    let mut fixed = HashMap::new();
    for (name, shape) in config.weight_shapes() {
        match name.as_str() {
            "input.mean" => drop(fixed.insert(name, Tensor::new(mean.as_slice(), &Device::Cpu)?)),
            "input.scale" => drop(fixed.insert(name, Tensor::new(scale.as_slice(), &Device::Cpu)?)),
            // He et al. 2015: uniform with variance 2 / inputs for layers followed by a ReLU; biases start at 0.
            _ => {
                let limit = if shape.len() == 2 { (6.0 / shape[1] as f64).sqrt() as f32 } else { 0.0 };
                let count = shape.iter().product();
                let values: Vec<f32> = (0..count).map(|_| rng.random_range(-1.0f32..=1.0) * limit).collect();
                drop(vars.insert(name, Var::from_vec(values, shape, &Device::Cpu)?));
            }
        }
    }
    let all = |vars: &BTreeMap<String, Var>| {
        let trained = vars.iter().map(|(name, var)| (name.clone(), var.as_tensor().clone()));
        trained.chain(fixed.clone()).collect::<HashMap<_, _>>()
    };
    let weights = VarBuilder::from_tensors(all(&vars), candle_core::DType::F32, &Device::Cpu);
    let network = Mlp::new(&config, &weights)?;

    let x = to_tensor(&features)?;
    let y = Tensor::from_vec(labels, (rows.num_rows(), 1), &Device::Cpu)?;
    let adam = ParamsAdamW { lr: params.learning_rate, weight_decay: params.weight_decay, ..ParamsAdamW::default() };
    let mut optimizer = AdamW::new(vars.values().cloned().collect(), adam)?;
    let mut order: Vec<u32> = (0..rows.num_rows() as u32).collect();
    let mut losses = Vec::with_capacity(params.epochs);
    for epoch in 0..params.epochs {
        let along = epoch as f64 / params.epochs as f64;
        let fall = 0.55 + 0.45 * (std::f64::consts::PI * along).cos();
        optimizer.set_learning_rate(params.learning_rate * fall);
        order.shuffle(&mut rng);
        let mut sum = 0.0;
        for chunk in order.chunks(params.batch.max(1)) {
            let pick = Tensor::new(chunk, &Device::Cpu)?;
            let logits = network.logits(&x.index_select(&pick, 0)?)?;
            let loss = cross_entropy(&logits, &y.index_select(&pick, 0)?)?;
            optimizer.backward_step(&loss)?;
            sum += f64::from(loss.to_scalar::<f32>()?) * chunk.len() as f64;
        }
        losses.push(sum / rows.num_rows() as f64);
        progress(epoch + 1);
    }
    let weights = all(&vars).into_iter().map(|(name, tensor)| Ok((name, tensor.detach().copy()?)));
    Ok(Trained { config, weights: weights.collect::<candle_core::Result<_>>()?, losses })
}

/// Mean binary cross-entropy of logits `z` and labels `y`, in nats: `max(z, 0) − z·y + ln(1 + exp(−|z|))`.
///
/// Candle's own takes the logarithm of a sigmoid, which is −∞ once a logit is large.
fn cross_entropy(z: &Tensor, y: &Tensor) -> candle_core::Result<Tensor> {
    let tail = (z.abs()?.neg()?.exp()? + 1.0)?.log()?;
    ((z.relu()? - (z * y)?)? + tail)?.mean_all()
}

/// Mean and standard deviation of each column; a column that does not vary has scale 1.
fn moments(features: &RecordBatch) -> (Vec<f64>, Vec<f64>) {
    let column = |array: &arrow::array::ArrayRef| {
        let values = array.as_primitive::<Float64Type>().values();
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let deviation = (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n).sqrt();
        (mean, if deviation < 1e-9 { 1.0 } else { deviation })
    };
    features.columns().iter().map(column).unzip()
}

/// Picks columns by name.
trait ProjectByName {
    fn project_by_name(&self, names: &[String]) -> Result<RecordBatch>;
}

impl ProjectByName for RecordBatch {
    fn project_by_name(&self, names: &[String]) -> Result<RecordBatch> {
        let schema = self.schema();
        let place = |name: &String| schema.index_of(name);
        Ok(self.project(&names.iter().map(place).collect::<Result<Vec<_>, _>>()?)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::elec2::{Elec2, FEATURES, LABEL};

    fn params() -> TrainParams {
        TrainParams {
            features: FEATURES.map(str::to_owned).to_vec(),
            hidden: vec![8],
            epochs: 4,
            batch: 64,
            learning_rate: 0.01,
            weight_decay: 0.0,
            seed: 7,
            shuffle_labels: false,
        }
    }

    fn bits(trained: &Trained) -> BTreeMap<&String, Vec<f64>> {
        let flat = |t: &Tensor| t.flatten_all().unwrap().to_dtype(candle_core::DType::F64).unwrap().to_vec1().unwrap();
        trained.weights.iter().map(|(name, tensor)| (name, flat(tensor))).collect()
    }

    #[test]
    fn one_seed_gives_one_model_and_the_loss_falls() {
        let rows = Elec2::open().unwrap().archive(0, 1_000);
        let (a, b) = (train(&rows, LABEL, &params(), |_| ()).unwrap(), train(&rows, LABEL, &params(), |_| ()).unwrap());
        assert_eq!(bits(&a), bits(&b));
        assert!(a.losses[3] < 0.75 * a.losses[0], "{:?}", a.losses);
        let other = train(&rows, LABEL, &TrainParams { seed: 8, ..params() }, |_| ()).unwrap();
        assert_ne!(bits(&a), bits(&other));
    }

    #[test]
    fn the_loss_is_finite_for_logits_of_any_size() {
        let z = Tensor::new(&[-1e4f32, -2.0, 0.0, 3.0, 1e4], &Device::Cpu).unwrap();
        let y = Tensor::new(&[0f32, 1.0, 1.0, 0.0, 1.0], &Device::Cpu).unwrap();
        let loss = cross_entropy(&z, &y).unwrap().to_scalar::<f32>().unwrap();
        let by_hand = (0.0 + 2.0 + (-2f64).exp().ln_1p() + 2f64.ln() + 3.0 + (-3f64).exp().ln_1p() + 0.0) / 5.0;
        assert!((f64::from(loss) - by_hand).abs() < 1e-6, "{loss} and {by_hand}");
    }

    #[test]
    fn what_cannot_be_trained_on_is_an_error() {
        let rows = Elec2::open().unwrap().archive(0, 10);
        assert!(train(&rows.slice(0, 0), LABEL, &params(), |_| ()).is_err());
        assert!(train(&rows, "no such column", &params(), |_| ()).is_err());
        let params = TrainParams { features: vec!["no such column".into()], ..params() };
        assert!(train(&rows, LABEL, &params, |_| ()).unwrap_err().to_string().contains("no such column"));
    }
}

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Float64Array, RecordBatch};
use arrow::datatypes::Float64Type;
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use mlops_core::signature::{ColumnSpec, ColumnType, Signature};
use mlops_core::store::MemoryStore;
use mlops_core::{Package, PredictorExt};
use mlops_serve::runtime::candle::{
    Architecture, BoxError, CandleRuntime, Mlp, MlpConfig, Network, Output, WEIGHTS, add_to_package, to_safetensors,
    to_tensor,
};
use mlops_serve::{Error, Runtimes};
use serde_json::Value;

fn config() -> MlpConfig {
    MlpConfig { features: 2, hidden: vec![2], outputs: 1, output: Output::Sigmoid }
}

fn weights() -> HashMap<String, Tensor> {
    let tensor = |t: candle_core::Result<Tensor>| t.unwrap();
    HashMap::from([
        ("input.mean".to_owned(), tensor(Tensor::new(&[1e9f64, 0.0], &Device::Cpu))),
        ("input.scale".to_owned(), tensor(Tensor::new(&[1f64, 2.0], &Device::Cpu))),
        ("layers.0.weight".to_owned(), tensor(Tensor::new(&[[1f32, 0.0], [0.0, -1.0]], &Device::Cpu))),
        ("layers.0.bias".to_owned(), tensor(Tensor::new(&[0f32, 0.5], &Device::Cpu))),
        ("layers.1.weight".to_owned(), tensor(Tensor::new(&[[1f32, 2.0]], &Device::Cpu))),
        ("layers.1.bias".to_owned(), tensor(Tensor::new(&[-1f32], &Device::Cpu))),
    ])
}

fn signature() -> Signature {
    let inputs = ["a", "b"].map(|name| ColumnSpec::new(name, ColumnType::Double));
    Signature::new(inputs, [ColumnSpec::new("p", ColumnType::Double)]).unwrap()
}

fn package(weights: &HashMap<String, Tensor>) -> Package {
    add_to_package(Package::builder(signature()), "mlp", &config(), to_safetensors(weights).unwrap())
        .unwrap()
        .build()
        .unwrap()
}

fn rows() -> RecordBatch {
    let column = |values: Vec<f64>| -> ArrayRef { Arc::new(Float64Array::from(values)) };
    let (a, b) = (column(vec![1e9 + 3.0, 1e9, 1e9 + 0.25]), column(vec![0.0, 4.0, -4.0]));
    RecordBatch::try_from_iter([("a", a), ("b", b)]).unwrap()
}

#[test]
fn the_mlp_computes_its_formula() {
    let model = Runtimes::default().load(&package(&weights())).unwrap();
    let outputs = model.run(&rows()).unwrap();
    let p = outputs.column(0).as_primitive::<Float64Type>();
    // By hand: h = relu([a - 1e9, 0.5 - b/2]); p = 1/(1 + exp(1 - h0 - 2 h1)). The weights are exact in f32.
    let by_hand = |a: f64, b: f64| 1.0 / (1.0 + (1.0 - a.max(0.0) - 2.0 * (0.5 - b / 2.0).max(0.0)).exp());
    for (i, (a, b)) in [(3.0, 0.0), (0.0, 4.0), (0.25, -4.0)].into_iter().enumerate() {
        assert!((p.value(i) - by_hand(a, b)).abs() < 1e-12, "row {i}: {} and {}", p.value(i), by_hand(a, b));
    }
    for i in 0..3 {
        let alone = model.run(&rows().slice(i, 1)).unwrap();
        assert_eq!(alone.column(0).as_primitive::<Float64Type>().value(0), p.value(i), "alone or in a batch");
    }
}

/// Serving and training are two ways through the same layers: sums of at most 32 products in f32 differ by rounding only,
/// far below 1e-5 of a probability.
#[test]
fn serving_agrees_with_training() {
    let mut state = 1u64;
    let mut random = |count: usize| -> Vec<f32> {
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
        };
        (0..count).map(|_| next()).collect()
    };
    for output in [Output::Identity, Output::Sigmoid, Output::Softmax] {
        let config = MlpConfig { features: 2, hidden: vec![32, 16], outputs: 3, output };
        let mut weights = HashMap::new();
        for (name, shape) in config.weight_shapes() {
            let values = Tensor::from_vec(random(shape.iter().product()), shape, &Device::Cpu).unwrap();
            let kind = if name.starts_with("input.") { DType::F64 } else { DType::F32 };
            weights.insert(name, values.to_dtype(kind).unwrap());
        }
        let inputs = ["a", "b"].map(|name| ColumnSpec::new(name, ColumnType::Double));
        let outputs = ["p", "q", "r"].map(|name| ColumnSpec::new(name, ColumnType::Double));
        let builder = Package::builder(Signature::new(inputs, outputs).unwrap());
        let package =
            add_to_package(builder, "mlp", &config, to_safetensors(&weights).unwrap()).unwrap().build().unwrap();
        let column = |values: Vec<f32>| -> ArrayRef {
            Arc::new(Float64Array::from_iter_values(values.into_iter().map(f64::from)))
        };
        let rows = RecordBatch::try_from_iter([("a", column(random(50))), ("b", column(random(50)))]).unwrap();
        let served = Runtimes::default().load(&package).unwrap().run(&rows).unwrap();

        let mlp = Mlp::new(&config, &VarBuilder::from_tensors(weights, DType::F32, &Device::Cpu)).unwrap();
        let logits = mlp.logits(&to_tensor(&rows).unwrap()).unwrap().to_dtype(DType::F64).unwrap();
        let trained = match output {
            Output::Sigmoid => candle_nn::ops::sigmoid(&logits),
            Output::Softmax => candle_nn::ops::softmax(&logits, 1),
            _ => Ok(logits),
        };
        let trained: Vec<Vec<f64>> = trained.unwrap().to_vec2().unwrap();
        for (i, row) in trained.iter().enumerate() {
            for (j, expected) in row.iter().enumerate() {
                let got = served.column(j).as_primitive::<Float64Type>().value(i);
                assert!((got - expected).abs() < 1e-5, "{output:?} [{i}, {j}]: {got} and {expected}");
            }
        }
    }
}

#[test]
fn equal_weights_are_equal_packages() {
    assert_eq!(package(&weights()).digest().unwrap(), package(&weights()).digest().unwrap());
}

#[tokio::test]
async fn a_package_survives_the_store() {
    let store = MemoryStore::default();
    let digest = package(&weights()).save(&store).await.unwrap();
    let read = Package::load(&store, &digest).await.unwrap();
    assert!(Runtimes::default().load(&read).is_ok());
}

#[test]
fn a_safetensors_file_cut_short_is_named() {
    let whole = package(&weights());
    for keep in [0, 7, 100, whole.files()[WEIGHTS].len() - 1] {
        let mut files = whole.files().clone();
        files.insert(WEIGHTS.to_owned(), files[WEIGHTS].slice(..keep));
        let error = Runtimes::default().load(&Package::from_files(files).unwrap()).unwrap_err();
        assert!(matches!(&error, Error::InvalidModel { file, .. } if file == WEIGHTS), "{keep}: {error}");
    }
}

#[test]
fn weights_that_are_missing_or_misshapen_are_named() {
    let mut missing = weights();
    missing.remove("layers.1.bias");
    let error = Runtimes::default().load(&package(&missing)).unwrap_err().to_string();
    assert!(error.contains("layers.1.bias"), "{error}");
    let mut misshapen = weights();
    misshapen.insert("layers.1.bias".into(), Tensor::zeros(2, DType::F32, &Device::Cpu).unwrap());
    let error = Runtimes::default().load(&package(&misshapen)).unwrap_err().to_string();
    assert!(error.contains("layers.1.bias"), "{error}");
}

#[test]
fn unknown_flavors_and_architectures_say_what_is_known() {
    let error = Runtimes::none().load(&package(&weights())).unwrap_err().to_string();
    assert!(error.contains("[candle]"), "{error}");
    let builder = Package::builder(signature());
    let unknown = add_to_package(builder, "transformer", &config(), to_safetensors(&weights()).unwrap())
        .unwrap()
        .build()
        .unwrap();
    let error = Runtimes::default().load(&unknown).unwrap_err().to_string();
    assert!(error.contains("transformer") && error.contains("mlp"), "{error}");
}

#[derive(Debug)]
struct Sum;

impl Network for Sum {
    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        x.sum_keepdim(1)
    }
}

impl Architecture for Sum {
    fn name(&self) -> &'static str {
        "sum"
    }

    fn build(&self, _: &Value, _: VarBuilder<'_>) -> Result<Arc<dyn Network>, BoxError> {
        Ok(Arc::new(Self))
    }
}

#[test]
fn a_users_own_architecture_is_loaded_by_name() {
    let package =
        add_to_package(Package::builder(signature()), "sum", &Value::Null, to_safetensors(&weights()).unwrap())
            .unwrap()
            .build()
            .unwrap();
    let runtimes = Runtimes::none().with(CandleRuntime::default().with(Sum));
    let outputs = runtimes.load(&package).unwrap().run(&rows()).unwrap();
    assert_eq!(outputs.column(0).as_primitive::<Float64Type>().value(0), 1e9 + 3.0);
}

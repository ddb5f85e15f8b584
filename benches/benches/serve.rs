//! `mlops-serve`: the model alone, and what a deployment adds to it.
#![allow(missing_docs, clippy::unwrap_used)]

use std::collections::HashMap;
use std::hint::black_box;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, RecordBatch};
use candle_core::{DType, Device, Tensor};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use mlops_core::signature::{ColumnSpec, ColumnType, Signature};
use mlops_core::store::MemoryStore;
use mlops_core::{ModelRef, Package, Predictor, PredictorExt};
use mlops_serve::runtime::candle::{MlpConfig, Output, add_to_package, to_safetensors};
use mlops_serve::{Deployment, ParquetInferenceLog, Request, Runtimes, Split, StaticSource};

const FEATURES: usize = 8;

/// The network of the lifecycle: 8 → 32 → 32 → 1.
fn model() -> Arc<dyn Predictor> {
    let config = MlpConfig { features: FEATURES, hidden: vec![32, 32], outputs: 1, output: Output::Sigmoid };
    let weight = |(name, shape): (String, Vec<usize>)| {
        let count: usize = shape.iter().product();
        let values: Vec<f32> = (0..count).map(|i| ((i * 37 % 101) as f32 - 50.0) / 200.0 + 0.26).collect();
        let kind = if name.starts_with("input.") { DType::F64 } else { DType::F32 };
        (name, Tensor::from_vec(values, shape, &Device::Cpu).unwrap().to_dtype(kind).unwrap())
    };
    let weights: HashMap<String, Tensor> = config.weight_shapes().into_iter().map(weight).collect();
    let inputs = (0..FEATURES).map(|i| ColumnSpec::new(format!("x{i}"), ColumnType::Double));
    let signature = Signature::new(inputs, [ColumnSpec::new("p", ColumnType::Double)]).unwrap();
    let package = add_to_package(Package::builder(signature), "mlp", &config, to_safetensors(&weights).unwrap());
    Runtimes::default().load(&package.unwrap().build().unwrap()).unwrap()
}

fn rows(count: usize) -> RecordBatch {
    let column = |j: usize| -> ArrayRef {
        Arc::new(Float64Array::from_iter_values((0..count).map(|i| ((i * 7 + j * 13) % 100) as f64 / 100.0)))
    };
    RecordBatch::try_from_iter((0..FEATURES).map(|j| (format!("x{j}"), column(j)))).unwrap()
}

fn bare(c: &mut Criterion) {
    let model = model();
    let mut group = c.benchmark_group("predict");
    for count in [1, 64, 4_096] {
        let batch = rows(count);
        group.throughput(Throughput::Elements(count as u64));
        group.bench_with_input(BenchmarkId::new("bare", count), &batch, |b, batch| {
            b.iter(|| model.run(black_box(batch)).unwrap());
        });
    }
    group.finish();
}

fn routed(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let models = StaticSource::default().with("m", 1, model()).with("m", 2, model());
    let champion = || Split::only("champion", ModelRef::version("m", 1));
    let canary = || champion().arm("canary", ModelRef::version("m", 2), 0.1);
    let batch = rows(1);
    let request = || Request::new("customer 17", batch.clone());
    let mut group = c.benchmark_group("predict");
    let one = runtime.block_on(Deployment::builder("d", models.clone()).start(champion())).unwrap();
    group.bench_function("deployment/1", |b| b.iter(|| runtime.block_on(one.predict(request())).unwrap()));
    let two = runtime.block_on(Deployment::builder("d", models.clone()).start(canary())).unwrap();
    group.bench_function("deployment with canary/1", |b| b.iter(|| runtime.block_on(two.predict(request())).unwrap()));
    let log = ParquetInferenceLog::new(MemoryStore::default(), "log").unwrap();
    let captured = runtime.block_on(Deployment::builder("d", models).sink(log).start(champion())).unwrap();
    group.bench_function("deployment with capture/1", |b| {
        b.iter(|| runtime.block_on(captured.predict(request())).unwrap());
    });
    group.finish();
    let split = canary();
    c.bench_function("route", |b| b.iter(|| split.route(black_box("customer 17"))));
}

criterion_group!(benches, bare, routed);
criterion_main!(benches);

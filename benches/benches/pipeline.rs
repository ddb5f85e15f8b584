//! What a pipeline costs beside the work of its steps: 1,000 steps that do nothing, in 10 layers of 100, each step
//! taking two of the layer before. `computed` runs them all and keeps every output in a store in memory, `cached` takes
//! every output from there.
#![allow(clippy::unwrap_used, missing_docs)]

use std::hint::black_box;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use mlops_core::store::MemoryStore;
use mlops_pipeline::{CodeIdentity, Handle, Pipeline, Runner};

const LAYERS: u64 = 10;
const WIDTH: u64 = 100;

fn layered() -> Pipeline {
    let mut p = Pipeline::builder("layers").code(CodeIdentity::declared("1"));
    let start = p.value("start", 0_u64);
    let mut before = vec![start; WIDTH as usize];
    for layer in 0..LAYERS {
        let steps: Vec<Handle<u64>> = (0..WIDTH)
            .map(|i| {
                let inputs = (before[i as usize], before[((i + 1) % WIDTH) as usize]);
                p.step(format!("step-{layer}-{i}"), inputs, move |_, (a, b)| async move { Ok(a.wrapping_add(b) + i) })
            })
            .collect();
        before = steps;
    }
    p.build().unwrap()
}

fn dag(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_time().build().unwrap();
    let pipeline = layered();
    let mut group = c.benchmark_group("dag");
    group.throughput(Throughput::Elements(LAYERS * WIDTH));
    group.sample_size(20);
    group.bench_function(BenchmarkId::new("computed", LAYERS * WIDTH), |b| {
        b.to_async(&runtime).iter_batched(
            || Runner::new(MemoryStore::default()),
            |runner| {
                let pipeline = &pipeline;
                async move { black_box(pipeline.run(&runner).await.unwrap()) }
            },
            BatchSize::LargeInput,
        );
    });
    let runner = Runner::new(MemoryStore::default());
    runtime.block_on(pipeline.run(&runner)).unwrap();
    group.bench_function(BenchmarkId::new("cached", LAYERS * WIDTH), |b| {
        b.to_async(&runtime).iter(|| async { black_box(pipeline.run(&runner).await.unwrap()) });
    });
    group.finish();
}

criterion_group!(benches, dag);
criterion_main!(benches);

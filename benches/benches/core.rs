//! `mlops-core`: digests, dataset versions, the audit chain.
#![allow(missing_docs, clippy::unwrap_used)]

use std::hint::black_box;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, RecordBatch};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use mlops_core::Digest;
use mlops_core::audit::{AuditEntry, AuditEvent, GENESIS, verify_chain};
use mlops_core::clock::from_micros;
use mlops_core::dataset::{DatasetStore, DatasetStoreExt, NewDataset, ParquetDatasets};
use mlops_core::store::LocalStore;

/// `columns` columns of numbers that do not compress to nothing.
fn rows(count: usize, columns: usize) -> RecordBatch {
    let column = |j: usize| -> ArrayRef {
        let value = |i: usize| ((i * 2_654_435_761 + j * 40_503) % 1_000_003) as f64 / 1_000_003.0;
        Arc::new(Float64Array::from_iter_values((0..count).map(value)))
    };
    RecordBatch::try_from_iter((0..columns).map(|j| (format!("c{j}"), column(j)))).unwrap()
}

fn digest(c: &mut Criterion) {
    let bytes = vec![7u8; 16 << 20];
    let mut group = c.benchmark_group("digest");
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    group.bench_function("16 MiB", |b| b.iter(|| Digest::of(black_box(&bytes))));
    group.finish();
}

fn dataset(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut group = c.benchmark_group("dataset");
    group.sample_size(10);
    let batch = rows(1_000_000, 8);
    group.throughput(Throughput::Bytes((batch.num_rows() * batch.num_columns() * 8) as u64));
    let fresh = || {
        let dir = tempfile::tempdir().unwrap();
        (ParquetDatasets::new(LocalStore::open(dir.path()).unwrap()), dir)
    };
    group.bench_function(BenchmarkId::new("commit", "64 MB"), |b| {
        b.iter_batched(
            fresh,
            |(datasets, dir)| {
                runtime.block_on(datasets.commit(NewDataset::new("d", [batch.clone()]))).unwrap();
                dir
            },
            criterion::BatchSize::PerIteration,
        );
    });
    let (datasets, _dir) = fresh();
    let version = runtime.block_on(datasets.commit(NewDataset::new("d", [batch.clone()]))).unwrap();
    group.bench_function(BenchmarkId::new("read", "64 MB"), |b| {
        b.iter(|| runtime.block_on(datasets.read_all(&version)).unwrap());
    });
    group.finish();
}

fn audit(c: &mut Criterion) {
    let mut entries: Vec<AuditEntry> = Vec::new();
    for seq in 1..=10_000 {
        let event = AuditEvent::new(from_micros(seq as i64), "ana", "alias.move", "model prices@champion");
        let previous = entries.last().map_or(GENESIS, |e| e.digest);
        entries.push(AuditEntry::seal(seq, event.because("it is better"), previous).unwrap());
    }
    let mut group = c.benchmark_group("audit");
    group.throughput(Throughput::Elements(entries.len() as u64));
    group.bench_function("verify", |b| b.iter(|| verify_chain(black_box(&entries)).unwrap()));
    group.finish();
}

criterion_group!(benches, digest, dataset, audit);
criterion_main!(benches);

//! Costs of profiles: bytes of a column profiled in a second, beside one sum and one sort of the same bytes.
#![allow(clippy::unwrap_used, missing_docs)]

use std::hint::black_box;
use std::sync::Arc;

use arrow::array::{ArrayRef, DictionaryArray, Float64Array, Int32Array, RecordBatch, StringArray};
use arrow::datatypes::Int32Type;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use mlops_monitor::drift::profiles::ProfileCheck;
use mlops_monitor::profile::Profile;

const ROWS: usize = 1 << 20;

fn random(seed: u64) -> impl Iterator<Item = u64> {
    let mut state = seed;
    (0..ROWS).map(move |_| {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    })
}

fn uniform(seed: u64) -> Vec<f64> {
    random(seed).map(|z| (z >> 11) as f64 * 2.0_f64.powi(-53)).collect()
}

fn batch(array: ArrayRef) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable([("c", array, true)]).unwrap()
}

fn profile(c: &mut Criterion) {
    let values = uniform(1);
    let mut group = c.benchmark_group("profile");
    group.sample_size(10).throughput(Throughput::Bytes(8 * ROWS as u64));
    // The limits: the bytes read once, and sorted.
    group.bench_function("limit/sum", |b| b.iter(|| black_box(&values).iter().sum::<f64>()));
    group.bench_function("limit/sort", |b| {
        b.iter(|| {
            let mut sorted = values.clone();
            sorted.sort_unstable_by(f64::total_cmp);
            sorted
        })
    });
    let names: Vec<String> = random(3).map(|z| format!("category {}", z % 100)).collect();
    let name_bytes = names.iter().map(String::len).sum::<usize>() as u64;
    let nullable = values.iter().map(|x| (*x > 0.1).then_some(*x));
    let columns: [(&str, ArrayRef, u64); 6] = [
        ("f64", Arc::new(Float64Array::from(values.clone())), 8 * ROWS as u64),
        ("f64_nulls", Arc::new(Float64Array::from_iter(nullable)), 8 * ROWS as u64),
        (
            "f64_100_values",
            Arc::new(Float64Array::from_iter_values(random(2).map(|z| (z % 100) as f64))),
            8 * ROWS as u64,
        ),
        ("i32", Arc::new(Int32Array::from_iter_values(random(2).map(|z| z as i32))), 4 * ROWS as u64),
        ("text", Arc::new(StringArray::from(names.clone())), name_bytes),
        (
            "dictionary",
            Arc::new(names.iter().map(String::as_str).collect::<DictionaryArray<Int32Type>>()),
            4 * ROWS as u64,
        ),
    ];
    for (name, array, bytes) in columns {
        let batch = batch(array);
        group.throughput(Throughput::Bytes(bytes));
        group.bench_with_input(BenchmarkId::new("update", name), &batch, |b, batch| {
            b.iter(|| {
                let mut profile = Profile::builder().build(&batch.schema()).unwrap();
                profile.update(black_box(batch)).unwrap();
                profile
            })
        });
    }
    group.finish();
}

fn compare(c: &mut Criterion) {
    let rows = |seed| {
        let numbers: ArrayRef = Arc::new(Float64Array::from(uniform(seed)));
        RecordBatch::try_from_iter([("x", numbers)]).unwrap()
    };
    let reference = Profile::fit(&rows(1)).unwrap();
    let live = Profile::builder().against(&reference).fit(&rows(2)).unwrap();
    let check = ProfileCheck::default();
    c.bench_function("profile/compare", |b| b.iter(|| check.compare(black_box(&reference), &live).unwrap()));
    c.bench_function("profile/merge", |b| {
        b.iter(|| {
            let mut merged = live.clone();
            merged.merge(black_box(&live)).unwrap();
            merged
        })
    });
}

criterion_group!(benches, profile, compare);
criterion_main!(benches);

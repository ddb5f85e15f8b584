//! Costs of anytime-valid inference in `mlops-monitor`: one row, one look, many p-values.
#![allow(clippy::unwrap_used, missing_docs)]

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use mlops_monitor::EValue;
use mlops_monitor::multiple::{Adjustment, adjust, e_bh};
use mlops_monitor::sequential::{
    Arm, AsymptoticCs, CdfBand, ConfidenceSequence, DifferenceCs, QuantileCs, RiskTest, TwoSampleKsTest,
    TwoSampleMeanTest, bounded_mean,
};

const ROWS: usize = 10_000;

/// Uniform values from SplitMix64.
fn uniform(seed: u64, n: usize) -> Vec<f64> {
    let mut state = seed;
    (0..n)
        .map(|_| {
            state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let z = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            ((z ^ (z >> 31)) >> 11) as f64 * 2.0_f64.powi(-53)
        })
        .collect()
}

fn sequences() -> [(&'static str, Box<dyn ConfidenceSequence>); 8] {
    let mean = bounded_mean;
    [
        ("empirical_bernstein", Box::new(mean().empirical_bernstein().unwrap())),
        ("empirical_bernstein_running", Box::new(mean().running(true).empirical_bernstein().unwrap())),
        ("stitched", Box::new(mean().stitched().unwrap())),
        ("hedged_100", Box::new(mean().hedged(100).unwrap())),
        ("hedged_1000", Box::new(mean().hedged(1_000).unwrap())),
        ("hedged_1000_running", Box::new(mean().running(true).hedged(1_000).unwrap())),
        ("asymptotic", Box::new(AsymptoticCs::builder().build().unwrap())),
        ("quantile", Box::new(QuantileCs::builder(0.99).build().unwrap())),
    ]
}

fn updates(c: &mut Criterion) {
    let values = uniform(1, ROWS);
    let mut group = c.benchmark_group("sequential_update");
    group.throughput(Throughput::Elements(ROWS as u64));
    for (name, mut sequence) in sequences() {
        group.bench_function(name, |b| b.iter(|| values.iter().for_each(|x| sequence.update(*x).unwrap())));
    }
    let arm = |i: usize| if i.is_multiple_of(10) { Arm::B } else { Arm::A };
    let mut each = |name: &str, update: &mut dyn FnMut(usize, f64)| {
        group.bench_function(name, |b| b.iter(|| values.iter().enumerate().for_each(|(i, x)| update(i, *x))));
    };
    let mut band = CdfBand::builder().build().unwrap();
    each("cdf_band", &mut |_, x| band.update(x).unwrap());
    let mut difference = DifferenceCs::bounded(0.0, 1.0, 0.05).unwrap();
    each("difference", &mut |i, x| difference.update(arm(i), x).unwrap());
    let mut means = TwoSampleMeanTest::new(0.0, 1.0, 0.1).unwrap();
    each("two_sample_mean", &mut |i, x| means.update(arm(i), x).unwrap());
    let mut distributions = TwoSampleKsTest::new(0.05).unwrap();
    each("two_sample_ks", &mut |i, x| distributions.update(arm(i), x).unwrap());
    let mut risk = RiskTest::builder().build(&values).unwrap();
    each("risk", &mut |_, x| risk.update(x).unwrap());
    group.finish();
}

fn looks(c: &mut Criterion) {
    let values = uniform(2, ROWS);
    let mut group = c.benchmark_group("sequential_look");
    for (name, mut sequence) in sequences() {
        values.iter().for_each(|x| sequence.update(*x).unwrap());
        group.bench_function(name, |b| b.iter(|| black_box(&sequence).estimate()));
    }
    let mut distributions = TwoSampleKsTest::new(0.05).unwrap();
    for (i, x) in values.iter().enumerate() {
        distributions.update(if i % 2 == 0 { Arm::A } else { Arm::B }, *x).unwrap();
    }
    group.bench_function("two_sample_ks_evidence", |b| b.iter(|| black_box(&distributions).evidence()));
    group.bench_function("two_sample_ks_distance", |b| b.iter(|| black_box(&distributions).distance()));
    group.finish();
}

fn multiplicity(c: &mut Criterion) {
    let mut group = c.benchmark_group("multiple");
    for m in [100_usize, 1_000] {
        let p = uniform(3, m);
        let evidence: Vec<EValue> = p.iter().map(|p| EValue::from_p_value(*p, 0.5).unwrap()).collect();
        group.throughput(Throughput::Elements(m as u64));
        for (name, method) in [
            ("holm", Adjustment::Holm),
            ("hommel", Adjustment::Hommel),
            ("benjamini_hochberg", Adjustment::BenjaminiHochberg),
        ] {
            group.bench_with_input(BenchmarkId::new(name, m), &p, |b, p| b.iter(|| adjust(p, method).unwrap()));
        }
        group.bench_with_input(BenchmarkId::new("e_bh", m), &evidence, |b, e| b.iter(|| e_bh(e, 0.05).unwrap()));
    }
    group.finish();
}

criterion_group!(benches, updates, looks, multiplicity);
criterion_main!(benches);

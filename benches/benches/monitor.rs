//! Costs of `mlops-monitor`: one row of a change detector or accumulator, one score of a drift detector.
#![allow(clippy::unwrap_used, missing_docs)]

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use mlops_monitor::change::{Adwin, ChangeDetector, Ddm, PageHinkley};
use mlops_monitor::{BettingTest, BinaryPerformance, DriftDetector, KsDetector, PairedSignTest, PsiDetector, psi};

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

fn updates(c: &mut Criterion) {
    let values = uniform(1, ROWS);
    let wrong: Vec<f64> = values.iter().map(|u| f64::from(u8::from(*u < 0.2))).collect();
    let mut group = c.benchmark_group("update");
    group.throughput(Throughput::Elements(ROWS as u64));
    // Each pass goes on with the detector of the one before: a window that has been growing for long.
    let mut change = |name: &str, detector: &mut dyn ChangeDetector, rows: &[f64]| {
        group.bench_function(name, |b| {
            b.iter(|| {
                for x in rows {
                    black_box(detector.update(*x).unwrap());
                }
            })
        });
    };
    change("adwin", &mut Adwin::builder().build().unwrap(), &wrong);
    change("adwin_real", &mut Adwin::builder().build().unwrap(), &values);
    change("page_hinkley", &mut PageHinkley::builder().build().unwrap(), &wrong);
    change("ddm", &mut Ddm::builder().build().unwrap(), &wrong);

    group.bench_function("binary_performance", |b| {
        let mut quality = BinaryPerformance::new();
        b.iter(|| values.iter().zip(&wrong).for_each(|(p, w)| quality.update(*p, *w > 0.0).unwrap()))
    });
    group.bench_function("betting", |b| {
        let mut test = BettingTest::new(0.5).unwrap();
        b.iter(|| values.iter().for_each(|x| test.update(*x).unwrap()))
    });
    group.bench_function("paired_sign", |b| {
        let mut test = PairedSignTest::new(0.01).unwrap();
        b.iter(|| {
            for (x, w) in values.iter().zip(&wrong) {
                test.update(black_box(*x < 0.9), black_box(*w > 0.0));
            }
        })
    });
    group.finish();
}

fn looks(c: &mut Criterion) {
    let mut test = PairedSignTest::new(0.01).unwrap();
    uniform(1, ROWS).iter().for_each(|u| test.update(*u < 0.9, *u > 0.1));
    c.bench_function("look/paired_evidence", |b| b.iter(|| black_box(&test).evidence_worse()));
    c.bench_function("look/paired_difference", |b| b.iter(|| black_box(&test).difference(0.95).unwrap()));
}

fn drift(c: &mut Criterion) {
    let mut group = c.benchmark_group("psi_shares");
    for bins in [10_usize, 100, 1_000] {
        let shares = vec![1.0 / bins as f64; bins];
        group.throughput(Throughput::Elements(bins as u64));
        group.bench_with_input(BenchmarkId::from_parameter(bins), &shares, |b, s| {
            b.iter(|| psi(black_box(s), black_box(s)).unwrap())
        });
    }
    group.finish();

    let mut group = c.benchmark_group("score");
    for n in [1_000, 100_000] {
        let (baseline, live) = (uniform(1, n), uniform(2, n));
        let detectors: [Box<dyn DriftDetector>; 2] = [
            Box::new(PsiDetector::builder().fit(&baseline).unwrap()),
            Box::new(KsDetector::builder().fit(&baseline).unwrap()),
        ];
        group.throughput(Throughput::Elements(n as u64));
        for detector in detectors {
            group.bench_with_input(BenchmarkId::new(detector.name(), n), &live, |b, live| {
                b.iter(|| detector.score(black_box(live)).unwrap())
            });
        }
    }
    group.finish();
}

criterion_group!(benches, updates, looks, drift);
criterion_main!(benches);

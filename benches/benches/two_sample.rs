//! Costs of `mlops_monitor::two_sample`: rows a second of a sort and of each comparison of sorted columns.
#![allow(clippy::unwrap_used, missing_docs)]

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use mlops_monitor::two_sample::{
    CountTable, DomainClassifier, EnergyTest, LogBase, Method, Mmd, MmdEstimate, Rows, Sorted, Ties, anderson_darling,
    chi_square, cramer_von_mises, energy, jensen_shannon, ks, mann_whitney, numeric, wasserstein,
};

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

fn columns(c: &mut Criterion) {
    for n in [1_000_usize, 100_000, 1_000_000] {
        let raw = uniform(1, n);
        let (a, b) = (Sorted::new(&raw), Sorted::new(&uniform(2, n)));
        let mut group = c.benchmark_group("two_sample");
        group.sample_size(20).throughput(Throughput::Elements(n as u64));
        group.bench_function(BenchmarkId::new("sort", n), |x| x.iter(|| Sorted::new(black_box(&raw))));
        group.throughput(Throughput::Elements(2 * n as u64));
        let mut case = |name: &str, f: &dyn Fn(&Sorted, &Sorted)| {
            group.bench_function(BenchmarkId::new(name, n), |x| x.iter(|| f(black_box(&a), black_box(&b))));
        };
        case("ks", &|a, b| drop(ks(a, b, Method::Asymptotic, 0.95).unwrap()));
        case("cramer_von_mises", &|a, b| drop(cramer_von_mises(a, b, Method::Asymptotic).unwrap()));
        case("anderson_darling", &|a, b| drop(anderson_darling(a, b, Ties::Midrank).unwrap()));
        case("mann_whitney", &|a, b| drop(mann_whitney(a, b, Method::Asymptotic, 0.95).unwrap()));
        case("wasserstein", &|a, b| drop(wasserstein(a, b).unwrap()));
        case("energy", &|a, b| drop(energy(a, b).unwrap()));
        case("numeric", &|a, b| drop(numeric(a, b, 0.95).unwrap()));
        group.finish();
    }
}

fn counts(c: &mut Criterion) {
    let mut group = c.benchmark_group("two_sample_counts");
    for categories in [10_usize, 1_000, 100_000] {
        let side = |seed| uniform(seed, categories).iter().map(|u| (u * 1_000.0) as u64 + 1).collect::<Vec<_>>();
        let table = CountTable::from_counts(&side(1), &side(2)).unwrap();
        group.throughput(Throughput::Elements(categories as u64));
        group.bench_function(BenchmarkId::new("chi_square", categories), |x| {
            x.iter(|| chi_square(black_box(&table), 0.95).unwrap())
        });
        group.bench_function(BenchmarkId::new("jensen_shannon", categories), |x| {
            x.iter(|| jensen_shannon(black_box(&table), LogBase::Two, 0.95).unwrap())
        });
    }
    group.finish();
}

fn tables(c: &mut Criterion) {
    let mut group = c.benchmark_group("two_sample_tables");
    group.sample_size(10);
    for n in [1_000_usize, 100_000, 1_000_000] {
        let (a, b) = (uniform(1, 10 * n), uniform(2, 10 * n));
        let (a, b) = (Rows::new(&a, 10).unwrap(), Rows::new(&b, 10).unwrap());
        group.throughput(Throughput::Elements(2 * n as u64));
        // These draw at most 1,000 rows a side.
        group.bench_function(BenchmarkId::new("mmd", n), |x| x.iter(|| Mmd::builder().compare(a, b).unwrap()));
        group.bench_function(BenchmarkId::new("mmd_fourier_100", n), |x| {
            x.iter(|| Mmd::builder().estimate(MmdEstimate::Fourier(100)).compare(a, b).unwrap())
        });
        group
            .bench_function(BenchmarkId::new("energy", n), |x| x.iter(|| EnergyTest::builder().compare(a, b).unwrap()));
        group.bench_function(BenchmarkId::new("mmd_linear", n), |x| {
            x.iter(|| Mmd::builder().estimate(MmdEstimate::Linear).compare(a, b).unwrap())
        });
        let names = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"];
        group.bench_function(BenchmarkId::new("domain_classifier", n), |x| {
            x.iter(|| DomainClassifier::builder().compare(a, b, &names).unwrap())
        });
    }
    group.finish();
}

criterion_group!(benches, columns, counts, tables);
criterion_main!(benches);

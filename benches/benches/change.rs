//! Costs of a row in every change detector of `mlops-monitor`.
#![allow(clippy::unwrap_used, missing_docs)]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use mlops_monitor::change::{ChangeDetector, DetectorConfig};

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
    let mut group = c.benchmark_group("change");
    group.throughput(Throughput::Elements(ROWS as u64));
    for (name, config, rows) in [
        ("adwin", r#"{"method":"adwin"}"#, &wrong),
        ("adwin_values", r#"{"method":"adwin"}"#, &values),
        ("adwin_clock_1", r#"{"method":"adwin","clock":1}"#, &wrong),
        ("page_hinkley", r#"{"method":"page_hinkley"}"#, &wrong),
        ("cusum", r#"{"method":"cusum"}"#, &values),
        ("ewma", r#"{"method":"ewma"}"#, &values),
        ("shewhart", r#"{"method":"shewhart","in_control":[0.5,0.3],"rules":["beyond_three"]}"#, &values),
        ("kswin", r#"{"method":"kswin","alpha":0.0001}"#, &values),
        ("kswin_1000", r#"{"method":"kswin","alpha":0.0001,"window_rows":1000,"recent_rows":300}"#, &values),
        ("hddm_a", r#"{"method":"hddm_a"}"#, &wrong),
        ("hddm_a_both", r#"{"method":"hddm_a","direction":"both"}"#, &wrong),
        ("hddm_w", r#"{"method":"hddm_w"}"#, &wrong),
        ("ddm", r#"{"method":"ddm"}"#, &wrong),
        ("rddm", r#"{"method":"rddm"}"#, &wrong),
        ("eddm", r#"{"method":"eddm"}"#, &wrong),
        ("stepd", r#"{"method":"stepd"}"#, &wrong),
        ("ecdd", r#"{"method":"ecdd"}"#, &wrong),
        ("e_detector", r#"{"method":"e_detector","in_control":0.2}"#, &wrong),
        ("e_detector_cusum", r#"{"method":"e_detector","in_control":0.2,"style":"cusum"}"#, &wrong),
    ] {
        let mut detector = serde_json::from_str::<DetectorConfig>(config).unwrap().build().unwrap();
        // Each pass goes on with the detector of the one before: a window that has been growing for long.
        group.bench_function(name, |b| {
            b.iter(|| {
                for x in rows {
                    black_box(detector.update(*x).unwrap());
                }
            })
        });
    }
    group.finish();
}

criterion_group!(benches, updates);
criterion_main!(benches);

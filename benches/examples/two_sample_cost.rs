//! Seconds of each comparison of two raw columns, sorting included, for `benches/peers/two_sample.py`.
//!
//! `two_sample_cost DIR ROWS` writes the columns to `DIR/a.f64` and `DIR/b.f64` and prints one JSON object a line.
#![allow(clippy::unwrap_used)]

use std::time::Instant;

use mlops_monitor::two_sample::{
    Comparison, Method, Sorted, cramer_von_mises, energy, ks, mann_whitney, numeric, wasserstein,
};

/// Normal values from SplitMix64, to three decimals if `tied`.
fn column(seed: u64, n: usize, shift: f64, tied: bool) -> Vec<f64> {
    let mut state = seed;
    let mut uniform = || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (((z ^ (z >> 31)) >> 11) as f64 + 0.5) * 2.0_f64.powi(-53)
    };
    (0..n)
        .map(|_| {
            let x = shift + (-2.0 * uniform().ln()).sqrt() * (std::f64::consts::TAU * uniform()).cos();
            if tied { (x * 1e3).round() / 1e3 } else { x }
        })
        .collect()
}

/// A comparison from two raw columns.
type Compare = fn(&[f64], &[f64]) -> Comparison;

fn sorted(a: &[f64], b: &[f64]) -> (Sorted, Sorted) {
    (Sorted::new(a), Sorted::new(b))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(folder), Some(rows)) = (arguments.next(), arguments.next()) else {
        return Err("usage: two_sample_cost DIR ROWS".into());
    };
    let rows: usize = rows.parse()?;
    std::fs::create_dir_all(&folder)?;
    for tied in [false, true] {
        let (a, b) = (column(1, rows, 0.0, tied), column(2, rows, 0.002, tied));
        let data = if tied { "three decimals" } else { "normal" };
        for (name, column) in [("a", &a), ("b", &b)] {
            let bytes: Vec<u8> = column.iter().flat_map(|x| x.to_le_bytes()).collect();
            std::fs::write(format!("{folder}/{name}_{}.f64", if tied { "tied" } else { "normal" }), bytes)?;
        }
        let report = |what: &str, f: &dyn Fn() -> f64| {
            let mut value = 0.0;
            let mut seconds: Vec<f64> = (0..7)
                .map(|_| {
                    let start = Instant::now();
                    value = f();
                    start.elapsed().as_secs_f64()
                })
                .collect();
            seconds.sort_by(f64::total_cmp);
            println!(
                r#"{{"data":"{data}","what":"{what}","seconds":{},"least":{},"value":{value:?}}}"#,
                seconds[3], seconds[0]
            );
        };
        report("sort one side", &|| Sorted::new(&a).values()[0]);
        let tests: [(&str, Compare); 5] = [
            ("ks", |a, b| {
                let (a, b) = sorted(a, b);
                ks(&a, &b, Method::Asymptotic, 0.95).unwrap()
            }),
            ("cramer_von_mises", |a, b| {
                let (a, b) = sorted(a, b);
                cramer_von_mises(&a, &b, Method::Asymptotic).unwrap()
            }),
            ("mann_whitney", |a, b| {
                let (a, b) = sorted(a, b);
                mann_whitney(&a, &b, Method::Asymptotic, 0.95).unwrap()
            }),
            ("wasserstein", |a, b| {
                let (a, b) = sorted(a, b);
                wasserstein(&a, &b).unwrap()
            }),
            ("energy", |a, b| {
                let (a, b) = sorted(a, b);
                energy(&a, &b).unwrap()
            }),
        ];
        for (name, test) in tests {
            report(name, &|| test(&a, &b).statistic);
        }
        report("all", &|| {
            let (a, b) = sorted(&a, &b);
            numeric(&a, &b, 0.95).unwrap()[4].statistic
        });
    }
    Ok(())
}

//! Two-sample comparisons: golden numbers (`tests/golden/two_sample.json`), levels and power on seeded data, laws.

use mlops_monitor::two_sample::{
    CategoryCounts, Comparison, CountTable, LogBase, Method, PValueBy, Sorted, Ties, anderson_darling, chi_square,
    cramer_von_mises, energy, fisher_exact, g_test, hellinger, jensen_shannon, kl, ks, l_infinity, mann_whitney,
    missing_shift, new_categories, numeric, proportions, psi_of_counts, total_variation, wasserstein,
};
use proptest::prelude::*;
use serde::Deserialize;

use crate::streams::{Sample, SplitMix};

#[derive(Deserialize)]
struct Golden {
    numeric: Vec<Numeric>,
    counts: Vec<Counts>,
    pairs: Vec<Pair>,
}

fn golden() -> Golden {
    serde_json::from_str(include_str!("../golden/two_sample.json")).unwrap()
}

#[derive(Deserialize)]
struct Numeric {
    case: String,
    a: Sample,
    b: Sample,
    cvm: f64,
    cvm_exact: Option<f64>,
    cvm_asymptotic: f64,
    cvm_tail: f64,
    ad_midrank: Option<f64>,
    ad_midrank_p: Option<f64>,
    ad_right: Option<f64>,
    ad_tail: Option<f64>,
    u: f64,
    u_asymptotic: f64,
    u_exact: Option<f64>,
    auc_low: f64,
    auc_high: f64,
    wasserstein: f64,
    wasserstein_normed: f64,
    energy: f64,
    energy_coefficient: Option<f64>,
}

#[track_caller]
fn close(name: &str, what: &str, got: f64, want: f64, relative: f64, absolute: f64) {
    let error = (got - want).abs();
    assert!(
        error <= relative * want.abs() || error <= absolute,
        "{name}: {what} is {got:e}, want {want:e}, relative error {:e}",
        error / want.abs()
    );
}

#[test]
fn numeric_tests_match_scipy() {
    for c in golden().numeric {
        let name = c.case.as_str();
        let (a, b) = (Sorted::new(&c.a.rows()), Sorted::new(&c.b.rows()));
        let p = |test: &Comparison| test.p_value.unwrap();

        // scipy's own statistic is a difference of two numbers near 2/3 · nm/(n + m); ours comes from whole numbers.
        let rows = c.a.n as f64 * c.b.n as f64 / (c.a.n + c.b.n) as f64;
        let cancelled = 4e-16 * rows;
        let asymptotic = cramer_von_mises(&a, &b, Method::Asymptotic).unwrap();
        close(name, "cvm", asymptotic.statistic, c.cvm, 1e-9, cancelled.max(1e-14));
        // scipy takes 1 less a series that it ends at terms of 1e-7, so it is good to about 1e-8; the quadrature
        // beside it keeps the digits of small values too.
        close(name, "cvm p", p(&asymptotic), c.cvm_asymptotic, 1e-9, 1e-8);
        close(name, "cvm tail", p(&asymptotic), c.cvm_tail, 1e-9 + 10.0 * cancelled, 0.0);
        if let Some(want) = c.cvm_exact {
            let exact = cramer_von_mises(&a, &b, Method::Auto).unwrap();
            assert_eq!(exact.p_value_by, Some(PValueBy::Exact));
            close(name, "cvm exact p", p(&exact), want, 1e-12, 0.0);
        }

        if let (Some(midrank), Some(right), Some(tail), Some(table)) =
            (c.ad_midrank, c.ad_right, c.ad_tail, c.ad_midrank_p)
        {
            let test = anderson_darling(&a, &b, Ties::Midrank).unwrap();
            close(name, "ad", test.statistic, midrank, 1e-9, 1e-11);
            close(name, "ad right", anderson_darling(&a, &b, Ties::Right).unwrap().statistic, right, 1e-9, 1e-11);
            close(name, "ad p", p(&test), tail, 1e-9, 0.0);
            // scipy interpolates a table of seven values, rounded to three digits, and stops at its ends.
            if table > 0.001 && table < 0.25 {
                close(name, "ad p by table", p(&test), table, 0.03, 0.0);
            }
        }

        let test = mann_whitney(&a, &b, Method::Asymptotic, 0.95).unwrap();
        close(name, "u", test.statistic, c.u, 1e-12, 0.0);
        // scipy's p-value is NaN, read as null, for equal constants only; that case is below.
        close(name, "u p", p(&test), c.u_asymptotic, 1e-9, 1e-300);
        let effect = test.effect.unwrap();
        close(name, "auc low", effect.low.unwrap(), c.auc_low, 1e-9, 1e-12);
        close(name, "auc high", effect.high.unwrap(), c.auc_high, 1e-9, 1e-12);
        if let Some(want) = c.u_exact {
            let exact = mann_whitney(&a, &b, Method::Auto, 0.95).unwrap();
            assert_eq!(exact.p_value_by, Some(PValueBy::Exact));
            close(name, "u exact p", p(&exact), want, 1e-12, 0.0);
        }

        let test = wasserstein(&a, &b).unwrap();
        close(name, "wasserstein", test.statistic, c.wasserstein, 1e-9, 0.0);
        close(name, "normed", test.effect.unwrap().value, c.wasserstein_normed, 1e-9, 0.0);
        let test = energy(&a, &b).unwrap();
        close(name, "energy", test.statistic, c.energy, 1e-9, 0.0);
        if let Some(want) = c.energy_coefficient {
            close(name, "energy coefficient", test.effect.unwrap().value, want, 1e-9, 0.0);
        }
    }
}

#[derive(Deserialize)]
struct Counts {
    case: String,
    first: Vec<u64>,
    second: Vec<u64>,
    chi: f64,
    chi_p: f64,
    g: f64,
    g_p: f64,
    v: [f64; 3],
    js2: f64,
    js: f64,
    js_effect: [f64; 4],
    hellinger: f64,
    tv: f64,
    linf: f64,
    kl: Option<f64>,
    kl_smoothed: f64,
    kl_effect: [f64; 4],
    psi: f64,
}

#[test]
fn tests_on_counts_match_scipy() {
    for c in golden().counts {
        let name = c.case.as_str();
        let table = CountTable::from_counts(&c.first, &c.second).unwrap();
        let test = chi_square(&table, 0.95).unwrap();
        close(name, "chi", test.statistic, c.chi, 1e-9, 1e-12);
        close(name, "chi p", test.p_value.unwrap(), c.chi_p, 1e-9, 0.0);
        let effect = test.effect.unwrap();
        close(name, "v", effect.value, c.v[0], 1e-9, 0.0);
        close(name, "v low", effect.low.unwrap(), c.v[1], 1e-8, 1e-9);
        close(name, "v high", effect.high.unwrap(), c.v[2], 1e-8, 1e-9);
        let test = g_test(&table, 0.95).unwrap();
        // scipy's terms cancel: to the rounding of sums of all rows.
        close(name, "g", test.statistic, c.g, 1e-9, 1e-15 * c.first.iter().chain(&c.second).sum::<u64>() as f64);
        close(name, "g p", test.p_value.unwrap(), c.g_p, 1e-8, 0.0);

        // scipy sums terms of both signs: for close shares the divergence is good to 1e-16, the distance to its root.
        let statistic = |test: Comparison| test.statistic;
        let js = statistic(jensen_shannon(&table, LogBase::E, 0.95).unwrap());
        close(name, "js", js * js, c.js * c.js, 1e-9, 1e-15);
        let test = jensen_shannon(&table, LogBase::Two, 0.95).unwrap();
        close(name, "js2", test.statistic.powi(2), c.js2 * c.js2, 1e-9, 1e-15);
        let effect = test.effect.unwrap();
        for (what, got, want) in [
            ("js effect", effect.value, c.js_effect[1]),
            ("js low", effect.low.unwrap(), c.js_effect[2]),
            ("js high", effect.high.unwrap(), c.js_effect[3].min(1.0)),
        ] {
            close(name, what, got, want.min(1.0), 1e-9, 1e-14);
        }
        close(name, "hellinger", statistic(hellinger(&table, 0.95).unwrap()), c.hellinger, 1e-9, 1e-15);
        close(name, "tv", statistic(total_variation(&table, 0.95).unwrap()), c.tv, 1e-9, 1e-15);
        close(name, "linf", statistic(l_infinity(&table, 0.95).unwrap()), c.linf, 1e-9, 1e-15);
        close(name, "psi", statistic(psi_of_counts(&table, 0.95).unwrap()), c.psi, 1e-9, 1e-14);
        assert_eq!(kl(&table, 0.0, 0.95).is_ok(), c.kl.is_some(), "{name}");
        if let Some(want) = c.kl {
            close(name, "kl", statistic(kl(&table, 0.0, 0.95).unwrap()), want, 1e-9, 1e-15);
        }
        let test = kl(&table, 0.5, 0.95).unwrap();
        close(name, "kl smoothed", test.statistic, c.kl_smoothed, 1e-9, 1e-15);
        let effect = test.effect.unwrap();
        close(name, "kl low", effect.low.unwrap(), c.kl_effect[2], 1e-9, 1e-13);
        close(name, "kl high", effect.high.unwrap(), c.kl_effect[3], 1e-9, 1e-13);
    }
}

#[derive(Deserialize)]
struct Pair {
    case: String,
    first: [u64; 2],
    second: [u64; 2],
    p: f64,
    odds: Option<f64>,
    log_odds: Option<[f64; 3]>,
    z: Option<f64>,
    z_p: Option<f64>,
    difference: [f64; 3],
}

#[test]
fn tests_on_two_shares_match_scipy_and_statsmodels() {
    for c in golden().pairs {
        let name = c.case.as_str();
        let test = fisher_exact(c.first, c.second, 0.95).unwrap();
        close(name, "p", test.p_value.unwrap(), c.p, 1e-9, 0.0);
        if let Some(odds) = c.odds {
            close(name, "odds", test.statistic, odds, 1e-12, 0.0);
        }
        if let Some([estimate, low, high]) = c.log_odds {
            let effect = test.effect.unwrap();
            // scipy solves for these to about 1e-12 of the odds, and from there their logarithm.
            close(name, "log odds", effect.value, estimate, 1e-9, 1e-9);
            close(name, "low", effect.low.unwrap(), low, 1e-9, 1e-9);
            close(name, "high", effect.high.unwrap(), high, 1e-9, 1e-9);
        }
        let rows = |side: [u64; 2]| (side[0], side[0] + side[1]);
        let test = proportions(rows(c.first), rows(c.second), 0.95).unwrap();
        if let (Some(z), Some(p)) = (c.z, c.z_p) {
            close(name, "z", test.statistic, z, 1e-9, 1e-15);
            close(name, "z p", test.p_value.unwrap(), p, 1e-9, 0.0);
        }
        let effect = test.effect.unwrap();
        for (got, want) in [effect.value, effect.low.unwrap(), effect.high.unwrap()].into_iter().zip(c.difference) {
            close(name, "difference", got, want, 1e-9, 1e-14);
        }
    }
}

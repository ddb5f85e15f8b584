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
    cvm_scipy: Option<f64>,
    cvm_asymptotic: Option<f64>,
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
pub(crate) fn close(name: &str, what: &str, got: f64, want: f64, relative: f64, absolute: f64) {
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

        let asymptotic = cramer_von_mises(&a, &b, Method::Asymptotic).unwrap();
        close(name, "cvm", asymptotic.statistic, c.cvm, 1e-9, 0.0);
        // The quadrature holds to 1e-9.
        close(name, "cvm tail", p(&asymptotic), c.cvm_tail, 3e-9, 0.0);
        if let (Some(statistic), Some(p_value)) = (c.cvm_scipy, c.cvm_asymptotic) {
            // scipy's own statistic is a difference of two numbers near 2/3 · nm/(n + m), and its p-value 1 less a series
            // that it ends at terms of 1e-7.
            let rows = c.a.n as f64 * c.b.n as f64 / (c.a.n + c.b.n) as f64;
            close(name, "cvm of scipy", asymptotic.statistic, statistic, 1e-9, 4e-16 * rows);
            close(name, "cvm p", p(&asymptotic), p_value, 1e-9, 1e-8);
        }
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
            close(name, "ad p", p(&test), tail, 3e-9, 0.0);
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
        close(name, "v high", effect.high.unwrap(), c.v[2].min(1.0), 1e-8, 1e-9);
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

/// The most events of probability `p` in `trials` that chance explains, at five standard deviations.
pub(crate) fn at_most(p: f64, trials: u32) -> u32 {
    let trials = f64::from(trials);
    (p * trials + 5.0 * (p * (1.0 - p) * trials).sqrt()) as u32
}

#[test]
fn numeric_tests_keep_their_level() {
    let (trials, alpha) = (2_000, 0.05);
    for (levels, rows) in [(0, [60, 45]), (8, [60, 45]), (0, [6, 9])] {
        let mut alarms = [0_u32; 5];
        for seed in 0..trials {
            let side = |k: u64, n| Sample { seed: 2 * u64::from(seed) + k, n, shift: 0.0, scale: 1.0, levels }.rows();
            let (a, b) = (Sorted::new(&side(0, rows[0])), Sorted::new(&side(1, rows[1])));
            let tests = [
                ks(&a, &b, Method::Auto, 0.95),
                cramer_von_mises(&a, &b, Method::Auto),
                anderson_darling(&a, &b, Ties::Midrank),
                anderson_darling(&a, &b, Ties::Right),
                mann_whitney(&a, &b, Method::Auto, 0.95),
            ];
            for (count, test) in alarms.iter_mut().zip(tests) {
                *count += u32::from(test.unwrap().p_value.unwrap() <= alpha);
            }
        }
        println!("{levels} levels, {rows:?} rows: {alarms:?}");
        for (i, count) in alarms.into_iter().enumerate() {
            // The limit of Anderson and Darling's statistic for six rows is rough, and gets half as much again; midranks
            // with many ties do what their docs say.
            let level = match i {
                2 if levels > 0 => 1.8 * alpha,
                2 | 3 if rows[0] < 10 => 1.5 * alpha,
                _ => alpha,
            };
            assert!(count <= at_most(level, trials), "test {i}, {levels} levels, {rows:?}: {count}");
            // With ties, or as few divisions as six rows have, a test may err less often.
            assert!(count >= trials / 100, "test {i}, {levels} levels, {rows:?}: {count}");
        }
    }
}

#[test]
fn tests_on_counts_keep_their_level_and_intervals_cover() {
    let (trials, alpha) = (2_000, 0.05);
    let mut alarms = [0_u32; 4];
    let mut missed = [0_u32; 7];
    for seed in 0..trials {
        let mut rng = SplitMix(u64::from(seed) + 77_000);
        let mut draw = |shares: &[f64], n: usize| {
            let mut counts = vec![0; shares.len()];
            for _ in 0..n {
                let (mut u, mut i) = (rng.uniform(), 0);
                while i + 1 < shares.len() && u >= shares[i] {
                    u -= shares[i];
                    i += 1;
                }
                counts[i] += 1;
            }
            counts
        };
        let (p, q) = ([0.4, 0.3, 0.2, 0.1], [0.3, 0.3, 0.2, 0.2]);
        let (a, b, moved) = (draw(&p, 200), draw(&p, 300), draw(&q, 300));
        let same = CountTable::from_counts(&a, &b).unwrap();
        let half = |c: &[u64]| [c[0], c[1..].iter().sum()];
        let (fa, fb) = (half(&a), half(&b));
        let tests = [
            chi_square(&same, 0.95),
            g_test(&same, 0.95),
            fisher_exact(fa, fb, 0.95),
            proportions((fa[0], 200), (fb[0], 300), 0.95),
        ];
        for (count, test) in alarms.iter_mut().zip(tests) {
            *count += u32::from(test.unwrap().p_value.unwrap() <= alpha);
        }
        let table = CountTable::from_counts(&a, &moved).unwrap();
        let both: Vec<(f64, f64)> = p.into_iter().zip(q).collect();
        // Of the population that is 200 parts p and 300 parts q.
        let phi2: f64 = both.iter().map(|(p, q)| 0.24 * (p - q).powi(2) / (0.4 * p + 0.6 * q)).sum();
        let js: f64 =
            both.iter().map(|(p, q)| (p * (2.0 * p / (p + q)).log2() + q * (2.0 * q / (p + q)).log2()) / 2.0).sum();
        let hellinger2: f64 = both.iter().map(|(p, q)| (p.sqrt() - q.sqrt()).powi(2) / 2.0).sum();
        let divergence: f64 = both.iter().map(|(p, q)| p * (p / q).ln()).sum();
        let tests = [
            (chi_square(&table, 0.95), phi2.sqrt()),
            (jensen_shannon(&table, LogBase::Two, 0.95), js),
            (hellinger(&table, 0.95), hellinger2),
            (kl(&table, 0.5, 0.95), divergence),
            (total_variation(&table, 0.95), 0.1),
            (l_infinity(&table, 0.95), 0.1),
            (proportions((a[0], 200), (moved[0], 300), 0.95), -0.1),
        ];
        for (count, (test, truth)) in missed.iter_mut().zip(tests) {
            let effect = test.unwrap().effect.unwrap();
            *count += u32::from(truth < effect.low.unwrap() || truth > effect.high.unwrap());
        }
    }
    println!("{alarms:?}, {missed:?}");
    assert!(alarms.iter().all(|count| *count <= at_most(alpha, trials) && *count > trials / 50), "{alarms:?}");
    // The delta-method intervals of small divergences may miss half as often again.
    assert!(missed.iter().all(|count| *count <= at_most(1.5 * alpha, trials)), "{missed:?}");
}

#[test]
fn the_area_is_covered_and_power_grows_with_the_shift() {
    let trials = 1_000;
    let mut missed = 0;
    let mut found = [[0_u32; 5]; 4];
    for seed in 0..trials {
        for (k, shift) in [0.05, 0.1, 0.2, 0.4].into_iter().enumerate() {
            let a = Sample { seed: u64::from(seed), n: 40, shift: 0.0, scale: 1.0, levels: 0 };
            let b = Sample { seed: u64::from(seed) + 40_000, n: 50, shift, scale: 1.0, levels: 0 };
            let (a, b) = (Sorted::new(&a.rows()), Sorted::new(&b.rows()));
            let tests = numeric(&a, &b, 0.95).unwrap();
            for (count, test) in found[k].iter_mut().zip(&tests) {
                *count += u32::from(test.p_value.is_some_and(|p| p <= 0.05));
            }
            if shift == 0.2 {
                // P(X > Y + 0.2) for uniform X and Y.
                let (truth, effect) = (0.5 * 0.8 * 0.8, tests[3].effect.as_ref().unwrap());
                missed += u32::from(truth < effect.low.unwrap() || truth > effect.high.unwrap());
            }
        }
    }
    assert!(missed <= at_most(0.05, trials), "{missed}");
    for test in 0..4 {
        assert!(found.windows(2).all(|w| w[0][test] < w[1][test]), "{found:?}");
        assert!(found[3][test] > 950, "{found:?}");
    }
}

#[test]
fn few_rows_constants_and_gaps_have_an_answer() {
    let sorted = |x: &[f64]| Sorted::new(x);
    let constant = sorted(&[3.0; 20]);
    for test in numeric(&constant, &sorted(&[3.0; 30]), 0.95).unwrap() {
        assert!(test.p_value.is_none_or(|p| p == 1.0), "{test}");
        assert!(test.method == "mann_whitney" || test.effect.as_ref().is_none_or(|e| e.value == 0.0), "{test}");
    }
    let two = numeric(&sorted(&[1.0, 2.0]), &sorted(&[f64::NAN, 5.0, 6.0, f64::INFINITY]), 0.95).unwrap();
    assert!(two.iter().all(|t| t.n == [2, 2] && t.skipped == [0, 2]), "{two:?}");
    assert!((two[0].p_value.unwrap() - 1.0 / 3.0).abs() < 1e-12);
    for (a, b) in [(&[][..], &[1.0][..]), (&[1.0], &[f64::NAN])] {
        let error = wasserstein(&sorted(a), &sorted(b)).unwrap_err().to_string();
        assert!(error.contains("no finite value"), "{error}");
    }
    let error = wasserstein(&sorted(&[f64::MIN]), &sorted(&[f64::MAX])).unwrap_err().to_string();
    assert!(error.contains("scale"), "{error}");
    // Far from 0 and of tiny spread, nothing is lost.
    let (a, b) = (sorted(&[1e300, 1e300 + 1e285]), sorted(&[1e300 + 2e285]));
    assert!(wasserstein(&a, &b).unwrap().effect.unwrap().value.is_finite());
}

#[test]
fn missing_rows_are_a_category_of_their_own() {
    let counts = |a: u64, b: u64, missing: u64| {
        let mut counts = CategoryCounts::new();
        counts.add("a", a);
        counts.add("b", b);
        counts.add_missing(missing);
        counts
    };
    let (before, after) = (counts(500, 500, 0), counts(400, 400, 200));
    let table = CountTable::new(&before, &after).unwrap();
    assert_eq!(table.second(), [400, 400, 200]);
    assert!((total_variation(&table, 0.95).unwrap().statistic - 0.2).abs() < 1e-12);
    let shift = missing_shift(&before, &after, 0.95).unwrap();
    assert!(shift.effect.unwrap().low.unwrap() > 0.17);
    assert_eq!(new_categories(&before, &after, 0.95).unwrap().statistic, 0.0);
    let mut merged = before.clone();
    merged.merge(&after);
    assert_eq!((merged.count("a"), merged.missing(), merged.rows()), (900, 200, 2_000));
}

fn column() -> impl Strategy<Value = Vec<f64>> {
    let value = prop_oneof![
        4 => -10.0..10.0_f64,
        3 => (0..5).prop_map(f64::from),
        1 => any::<f64>(),
        1 => prop_oneof![Just(f64::NAN), Just(f64::INFINITY), Just(-0.0), Just(5e-324), Just(f64::MAX), Just(f64::MIN)],
    ];
    prop::collection::vec(value, 0..40)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2_000) })]

    #[test]
    fn numeric_comparisons_of_any_columns_are_within_bounds(x in column(), y in column()) {
        let (a, b) = (Sorted::new(&x), Sorted::new(&y));
        let (forward, back) = (numeric(&a, &b, 0.95), numeric(&b, &a, 0.95));
        prop_assert_eq!(forward.is_ok(), back.is_ok());
        if let (Ok(forward), Ok(back)) = (forward, back) {
            for (t, u) in forward.iter().zip(&back) {
                prop_assert!(t.statistic.is_finite() && u.statistic.is_finite(), "{} {}", t, u);
                let near = |s: f64, t: f64| (s - t).abs() <= 1e-9 * s.abs().max(t.abs()) + 1e-12;
                match (t.p_value, u.p_value) {
                    (Some(p), Some(q)) => prop_assert!((0.0..=1.0).contains(&p) && near(p, q), "{} {}", t, u),
                    (p, q) => prop_assert_eq!(p, q),
                }
                if t.method == "mann_whitney" {
                    prop_assert!(near(t.statistic + u.statistic, (t.n[0] * t.n[1]) as f64));
                } else {
                    prop_assert!(near(t.statistic, u.statistic), "{} {}", t, u);
                }
                if let Some(effect) = &t.effect {
                    let most = match t.method.as_str() {
                        "wasserstein" => f64::MAX,
                        "cramer_von_mises" => 0.34,
                        _ => 1.0,
                    };
                    prop_assert!(effect.value >= 0.0 && effect.value <= most, "{}", t);
                    prop_assert!(effect.low.is_none_or(|low| low >= 0.0 && low <= effect.value), "{}", t);
                    prop_assert!(effect.high.is_none_or(|high| high <= 1.0 && high >= effect.value), "{}", t);
                }
                prop_assert!(!t.to_string().is_empty());
            }
            // One pass gives what each function gives, and a test on ranks does not change with the unit.
            prop_assert_eq!(&forward[1], &cramer_von_mises(&a, &b, Method::Auto).unwrap());
            prop_assert_eq!(&forward[4], &wasserstein(&a, &b).unwrap());
            prop_assert_eq!(&forward[5], &energy(&a, &b).unwrap());
            let moved = |v: &[f64]| Sorted::new(&v.iter().map(|x| x * 0.5).collect::<Vec<_>>());
            if x.iter().chain(&y).all(|x| !x.is_finite() || x.abs() > 1e-300 || *x == 0.0) {
                let halved = numeric(&moved(&x), &moved(&y), 0.95).unwrap();
                for (t, u) in forward.iter().zip(&halved).take(4) {
                    prop_assert_eq!(t, u);
                }
                prop_assert!((halved[4].statistic - 0.5 * forward[4].statistic).abs() <= 1e-12 * forward[4].statistic);
            }
        }
    }

    #[test]
    fn comparisons_of_any_counts_are_within_bounds(
        counts in prop::collection::vec((prop_oneof![Just(0), 0..50_u64, 0..1_u64 << 40], prop_oneof![Just(0), 0..50_u64, 0..1_u64 << 40]), 0..12)
    ) {
        let (x, y): (Vec<u64>, Vec<u64>) = counts.iter().copied().unzip();
        let (Ok(table), Ok(back)) = (CountTable::from_counts(&x, &y), CountTable::from_counts(&y, &x)) else {
            prop_assert!(x.iter().sum::<u64>() == 0 || y.iter().sum::<u64>() == 0);
            return Ok(());
        };
        let tests = |t: &CountTable| {
            [
                chi_square(t, 0.95), g_test(t, 0.95), jensen_shannon(t, LogBase::Two, 0.95), jensen_shannon(t, LogBase::E, 0.95),
                hellinger(t, 0.95), total_variation(t, 0.95), l_infinity(t, 0.95), psi_of_counts(t, 0.95), kl(t, 0.5, 0.95),
            ].map(|t| t.unwrap())
        };
        let (forward, back) = (tests(&table), tests(&back));
        for (i, (t, u)) in forward.iter().zip(&back).enumerate() {
            prop_assert!(t.statistic.is_finite() && t.statistic >= 0.0, "{}", t);
            prop_assert!(i == 8 || (t.statistic - u.statistic).abs() <= 1e-9 * t.statistic + 1e-7, "{} {}", t, u);
            prop_assert!(!(2..=6).contains(&i) || t.statistic <= 1.0, "{}", t);
            let effect = t.effect.as_ref().unwrap();
            prop_assert!(effect.low.unwrap() <= effect.value && effect.value <= effect.high.unwrap(), "{}", t);
            if x == y && i < 7 {
                prop_assert!(t.statistic < 1e-7, "{}", t);
            }
        }
        if let [(a, c), (b, d)] = counts[..] {
            let (t, u) = (fisher_exact([a % 1000, b % 1000], [c % 1000, d % 1000], 0.95).unwrap(),
                          fisher_exact([c % 1000, d % 1000], [a % 1000, b % 1000], 0.95).unwrap());
            prop_assert!((t.p_value.unwrap() - u.p_value.unwrap()).abs() <= 1e-9 * t.p_value.unwrap());
        }
    }
}

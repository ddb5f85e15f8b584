//! Anytime-valid methods: numbers of independent implementations, and laws.

use std::fmt::Debug;

use mlops_core::Verdict;
use mlops_monitor::sequential::{
    Arm, AsymptoticCs, CdfBand, ConfidenceSequence, Demand, DifferenceCs, QuantileCs, RiskTest, TwoSampleKsTest,
    TwoSampleMeanTest, bounded_mean, poly_stitched,
};
use mlops_monitor::{EValue, Estimate};
use proptest::prelude::*;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::streams::{SplitMix, stream};

#[derive(Deserialize)]
struct Golden {
    means: Vec<MeanCase>,
    asymptotic: Vec<AsymptoticCase>,
    quantiles: Vec<QuantileCase>,
    boundaries: Vec<BoundaryCase>,
    bands: Vec<BandCase>,
    two_sample: Vec<TwoSampleCase>,
    risk: Vec<RiskCase>,
}

fn golden() -> Golden {
    serde_json::from_str(include_str!("../golden/sequential.json")).unwrap()
}

/// Sums of up to 1,500 terms in another order: 1e-9 of the width of the range or of the value.
#[track_caller]
fn close(case: &str, got: f64, want: f64) {
    assert!((got - want).abs() <= 1e-9 * want.abs().max(1.0), "{case}: {got} {want}");
}

#[derive(Deserialize)]
struct MeanCase {
    case: String,
    method: String,
    grid: usize,
    seed: u64,
    kind: String,
    segments: Vec<(u32, f64)>,
    alpha: f64,
    running: bool,
    looks: Vec<(usize, f64, f64)>,
}

#[test]
fn intervals_for_bounded_means_match_the_formulas() {
    for MeanCase { case, method, grid, seed, kind, segments, alpha, running, looks } in golden().means {
        // The same rows in another range, and the intervals with them.
        for (low, high) in [(0.0, 1.0), (-3.0, 5.0)] {
            let builder = bounded_mean().range(low, high).alpha(alpha).running(running);
            let mut sequence: Box<dyn ConfidenceSequence> = match method.as_str() {
                "empirical_bernstein" => Box::new(builder.empirical_bernstein().unwrap()),
                "hedged" => Box::new(builder.hedged(grid).unwrap()),
                _ => Box::new(builder.stitched().unwrap()),
            };
            let mut wanted = looks.iter().peekable();
            for (i, x) in stream(seed, &kind, &segments).into_iter().enumerate() {
                sequence.update(low + (high - low) * x).unwrap();
                if let Some((_, from, to)) = wanted.next_if(|look| look.0 == i + 1) {
                    let got = sequence.estimate().unwrap();
                    close(&case, (got.low - low) / (high - low), *from);
                    close(&case, (got.high - low) / (high - low), *to);
                    assert!(got.low <= got.value && got.value <= got.high);
                }
            }
            assert_eq!(wanted.count(), 0);
        }
    }
}

#[derive(Deserialize)]
struct AsymptoticCase {
    case: String,
    seed: u64,
    kind: String,
    segments: Vec<(u32, f64)>,
    alpha: f64,
    tuned_for: u64,
    n: usize,
    low: f64,
    high: f64,
}

#[test]
fn asymptotic_intervals_match_the_formula() {
    for AsymptoticCase { case, seed, kind, segments, alpha, tuned_for, n, low, high } in golden().asymptotic {
        let mut sequence = AsymptoticCs::builder().alpha(alpha).tuned_for(tuned_for).build().unwrap();
        for x in stream(seed, &kind, &segments).into_iter().take(n) {
            sequence.update(1_000.0 * x - 50.0).unwrap();
        }
        let got = sequence.estimate().unwrap();
        close(&case, got.low, low);
        close(&case, got.high, high);
    }
}

#[derive(Deserialize)]
struct QuantileCase {
    case: String,
    seed: u64,
    p: f64,
    alpha: f64,
    tuned_for: u64,
    n: u32,
    low: Option<f64>,
    high: Option<f64>,
}

#[test]
fn quantile_intervals_are_the_order_statistics_of_the_formula() {
    for QuantileCase { case, seed, p, alpha, tuned_for, n, low, high } in golden().quantiles {
        let mut rng = SplitMix(seed);
        let mut sequence = QuantileCs::builder(p).alpha(alpha).tuned_for(tuned_for).build().unwrap();
        for _ in 0..n {
            sequence.update((rng.uniform() * 64.0).floor() / 64.0).unwrap();
        }
        // The values are first numbers of buckets: the lower end is exact, the upper is that of its bucket.
        let bounds = sequence.bounds();
        assert_eq!(bounds.0, low, "{case}");
        assert_eq!(bounds.1.is_some(), high.is_some(), "{case}");
        if let (Some(got), Some(want)) = (bounds.1, high) {
            assert!((want..want * (1.0 + 1.0 / 128.0) + 1e-300).contains(&got), "{case}: {got} {want}");
        }
    }
}

#[derive(Deserialize)]
struct BoundaryCase {
    case: String,
    v: f64,
    alpha: f64,
    m: f64,
    c: f64,
    value: f64,
}

#[derive(Deserialize)]
struct BandCase {
    case: String,
    n: u64,
    alpha: f64,
    first_look: u64,
    value: f64,
}

#[test]
fn boundaries_match_the_formulas() {
    for BoundaryCase { case, v, alpha, m, c, value } in golden().boundaries {
        close(&case, poly_stitched(v, alpha, m, c).unwrap() / value, 1.0);
    }
    for BandCase { case, n, alpha, first_look, value } in golden().bands {
        let mut band = CdfBand::builder().alpha(alpha).first_look(first_look).build().unwrap();
        (0..n).for_each(|i| band.update(i as f64).unwrap());
        close(&case, band.half_height(), value);
    }
}

#[derive(Deserialize)]
struct TwoSampleCase {
    case: String,
    seed: u64,
    n: u32,
    share_b: f64,
    margin: f64,
    above: f64,
    below: f64,
    within_below: f64,
    within_above: f64,
    ks: f64,
}

#[test]
fn two_sample_evidence_matches_the_products() {
    for TwoSampleCase { case, seed, n, share_b, margin, above, below, within_below, within_above, ks } in
        golden().two_sample
    {
        let mut rng = SplitMix(seed);
        let mut means = TwoSampleMeanTest::new(0.0, 1.0, margin).unwrap();
        let mut distributions = TwoSampleKsTest::new(0.05).unwrap();
        for _ in 0..n {
            let arm = if rng.chance(share_b) { Arm::B } else { Arm::A };
            let u = rng.uniform();
            let x = (if arm == Arm::B { u * u } else { u } * 64.0).floor() / 64.0;
            means.update(arm, x).unwrap();
            distributions.update(arm, x).unwrap();
        }
        close(&case, means.evidence_above().log(), above);
        close(&case, means.evidence_below().log(), below);
        close(&case, means.evidence_within().log(), within_below.min(within_above));
        close(&case, means.evidence_differ().value(), f64::midpoint(above.exp(), below.exp()));
        close(&case, distributions.evidence().log(), ks);
    }
}

#[derive(Deserialize)]
struct RiskCase {
    case: String,
    seed: u64,
    p0: f64,
    m: u32,
    segments: Vec<(u32, f64)>,
    tolerance: f64,
    alpha: f64,
    source_low: f64,
    source_high: f64,
    alarm_at: Option<u64>,
}

#[test]
fn the_risk_test_alarms_at_the_row_of_the_formula() {
    for RiskCase { case, seed, p0, m, segments, tolerance, alpha, source_low, source_high, alarm_at } in golden().risk {
        let source = stream(100 + seed, "bernoulli", &[(m, p0)]);
        let mut test = RiskTest::builder().tolerance(tolerance).alpha(alpha).build(&source).unwrap();
        close(&case, test.source().low, source_low);
        close(&case, test.source().high, source_high);
        stream(200 + seed, "bernoulli", &segments).iter().for_each(|loss| test.update(*loss).unwrap());
        assert_eq!(test.alarm_at(), alarm_at, "{case}");
        assert_eq!(test.verdict() == Verdict::Fail, alarm_at.is_some(), "{case}");
    }
}

fn restored<T: Serialize + DeserializeOwned>(value: &T) -> T {
    serde_json::from_str(&serde_json::to_string(value).unwrap()).unwrap()
}

fn odd() -> impl Strategy<Value = f64> {
    prop_oneof![
        3 => 0.0..=1.0_f64,
        2 => (0..3_u8).prop_map(f64::from),
        2 => any::<f64>(),
        1 => prop_oneof![
            Just(f64::NAN), Just(f64::INFINITY), Just(f64::NEG_INFINITY), Just(f64::MAX), Just(f64::MIN),
            Just(5e-324), Just(-0.0), Just(1e100), Just(-1e100),
        ],
    ]
}

/// Feeds two copies, one of them stored and loaded again on the way.
fn follow<S>(fresh: S, values: &[f64], stop: usize, update: impl Fn(&mut S, usize, f64) -> mlops_monitor::Result<()>)
where
    S: Clone + PartialEq + Debug + Serialize + DeserializeOwned + ToString,
{
    let (mut whole, mut resumed) = (fresh.clone(), fresh);
    for (i, x) in values.iter().enumerate() {
        if i == stop {
            resumed = restored(&resumed);
        }
        let before = whole.clone();
        match update(&mut whole, i, *x) {
            Ok(()) => update(&mut resumed, i, *x).unwrap(),
            Err(_) => {
                assert!(update(&mut resumed, i, *x).is_err());
                assert_eq!(whole, before);
            }
        }
        assert_eq!(whole, resumed);
    }
    assert!(!whole.to_string().contains("NaN"), "{}", whole.to_string());
}

fn sequence<S>(fresh: S, values: &[f64], stop: usize)
where
    S: ConfidenceSequence + Clone + PartialEq + Serialize + DeserializeOwned,
{
    follow(fresh, values, stop, |sequence, _, x| {
        sequence.update(x)?;
        if let Some(Estimate { value, low, high, n, .. }) = sequence.estimate() {
            assert!(low <= value && value <= high && n == sequence.n(), "{sequence}");
        }
        Ok(())
    });
}

fn arm(i: usize) -> Arm {
    if i.is_multiple_of(3) { Arm::B } else { Arm::A }
}

proptest! {
    #[test]
    fn any_value_is_taken_or_refused_and_a_restart_loses_nothing(
        values in prop::collection::vec(odd(), 0..120),
        stop in 0..120_usize,
        running in any::<bool>(),
    ) {
        let mean = || bounded_mean().range(0.0, 2.0).running(running);
        sequence(mean().empirical_bernstein().unwrap(), &values, stop);
        sequence(mean().hedged(20).unwrap(), &values, stop);
        sequence(mean().stitched().unwrap(), &values, stop);
        sequence(bounded_mean().range(-1e307, 1e307).hedged(10).unwrap(), &values, stop);
        sequence(AsymptoticCs::builder().first_look(2).build().unwrap(), &values, stop);
        sequence(QuantileCs::builder(0.3).tuned_for(10).build().unwrap(), &values, stop);
        follow(CdfBand::builder().first_look(1).build().unwrap(), &values, stop, |band, _, x| {
            band.update(x)?;
            let share = band.share_up_to(x).unwrap();
            assert!(0.0 <= share.low && share.low <= share.value && share.value <= share.high && share.high <= 1.0);
            Ok(())
        });
        follow(DifferenceCs::bounded(0.0, 1.0, 0.05).unwrap(), &values, stop, |test, i, x| test.update(arm(i), x));
        follow(TwoSampleMeanTest::new(0.0, 1.0, 0.1).unwrap(), &values, stop, |test, i, x| test.update(arm(i), x));
        follow(TwoSampleKsTest::new(0.05).unwrap(), &values, stop, |test, i, x| test.update(arm(i), x));
        follow(RiskTest::builder().build(&[0.0, 0.5]).unwrap(), &values, stop, |test, _, x| test.update(x));
    }

    #[test]
    fn what_says_so_merges_exactly(
        a in prop::collection::vec(-2.0..2.0_f64, 0..150),
        b in prop::collection::vec(-2.0..2.0_f64, 0..150),
    ) {
        let all = [a.clone(), b.clone()].concat();
        let quantile = |rows: &[f64]| {
            let mut sequence = QuantileCs::builder(0.5).build().unwrap();
            rows.iter().for_each(|x| sequence.update(*x).unwrap());
            sequence
        };
        let mut merged = quantile(&a);
        merged.merge(&quantile(&b)).unwrap();
        prop_assert_eq!(merged, quantile(&all));

        let asymptotic = |rows: &[f64]| {
            let mut sequence = AsymptoticCs::builder().first_look(2).build().unwrap();
            rows.iter().for_each(|x| sequence.update(*x).unwrap());
            sequence
        };
        let mut merged = asymptotic(&a);
        merged.merge(&asymptotic(&b)).unwrap();
        if let Some(want) = asymptotic(&all).estimate() {
            let got = merged.estimate().unwrap();
            prop_assert!((got.low - want.low).abs() < 1e-9 && (got.high - want.high).abs() < 1e-9);
        }
    }

    #[test]
    fn combined_evidence_is_between_its_parts(logs in prop::collection::vec(prop_oneof![odd(), -50.0..50.0_f64], 1..20)) {
        let values: Vec<EValue> = logs.iter().map(|log| EValue::from_log(*log)).collect();
        let mean = EValue::mean(&values);
        let numbers = || logs.iter().map(|log| if log.is_nan() { f64::NEG_INFINITY } else { *log });
        let most = numbers().fold(f64::NEG_INFINITY, f64::max);
        prop_assert!(mean.log() <= most + 1e-9 && mean.log() >= most - (logs.len() as f64).ln() - 1e-9);
        prop_assert!(!EValue::product(&values).log().is_nan());
    }

    #[test]
    fn calibrated_evidence_never_refuses_a_probability(p in odd(), kappa in odd()) {
        prop_assert_eq!(EValue::from_p_value_mixed(p).is_ok(), (0.0..=1.0).contains(&p));
        let ok = (0.0..=1.0).contains(&p) && kappa > 0.0 && kappa < 1.0;
        prop_assert_eq!(EValue::from_p_value(p, kappa).is_ok(), ok);
        if let Ok(e) = EValue::from_p_value_mixed(p) {
            // Markov: calibrating back is never better than the p-value itself.
            prop_assert!(e.p_value() >= p * (1.0 - 1e-12), "{} {}", e.p_value(), p);
        }
    }
}

#[test]
fn ranges_are_declared_and_never_learned() {
    for range in [(0.0, f64::INFINITY), (f64::NAN, 1.0), (1.0, 1.0), (2.0, 1.0), (f64::MIN, f64::MAX)] {
        let error = bounded_mean().range(range.0, range.1).stitched().unwrap_err().to_string();
        assert!(error.starts_with("range: must be finite") && error.contains("AsymptoticCs"), "{error}");
    }
    let mut sequence = bounded_mean().empirical_bernstein().unwrap();
    assert_eq!(
        sequence.update(1.5).unwrap_err().to_string(),
        "x: must lie in the declared range [0, 1], got 1.5; declare a wider one, or use AsymptoticCs"
    );
    assert_eq!(sequence.n(), 0);
}

#[test]
fn options_out_of_range_are_errors_that_name_them() {
    let message = |result: mlops_monitor::Result<()>| result.unwrap_err().to_string();
    let mean = bounded_mean;
    for (error, what) in [
        (message(mean().alpha(0.0).stitched().map(drop)), "alpha"),
        (message(mean().alpha(f64::NAN).empirical_bernstein().map(drop)), "alpha"),
        (message(mean().hedged(9).map(drop)), "grid"),
        (message(AsymptoticCs::builder().first_look(1).build().map(drop)), "first_look"),
        (message(AsymptoticCs::builder().tuned_for(0).build().map(drop)), "tuned_for"),
        (message(QuantileCs::builder(1.0).build().map(drop)), "p"),
        (message(QuantileCs::builder(0.5).precision_bits(17).build().map(drop)), "precision_bits"),
        (message(CdfBand::builder().alpha(0.31).build().map(drop)), "alpha"),
        (message(CdfBand::builder().first_look(0).build().map(drop)), "first_look"),
        (message(DifferenceCs::bounded(0.0, 1.0, 1.0).map(drop)), "alpha"),
        (message(TwoSampleKsTest::new(0.61).map(drop)), "alpha"),
        (message(TwoSampleMeanTest::new(0.0, 1.0, 1.0).map(drop)), "margin"),
        (message(RiskTest::builder().tolerance(-1.0).build(&[0.0, 1.0]).map(drop)), "tolerance"),
        (message(RiskTest::builder().source_share(1.0).build(&[0.0, 1.0]).map(drop)), "source_share"),
        (message(RiskTest::builder().build(&[0.0]).map(drop)), "source_losses"),
        (message(RiskTest::builder().build(&[0.0, 1.5]).map(drop)), "source_losses"),
        (message(poly_stitched(-1.0, 0.05, 1.0, 1.0).map(drop)), "v"),
        (message(poly_stitched(1.0, 0.05, 0.0, 1.0).map(drop)), "m"),
    ] {
        assert!(error.starts_with(&format!("{what}:")), "{error}");
    }
}

#[test]
fn shards_of_running_or_other_sequences_do_not_merge() {
    let running = bounded_mean().running(true);
    let mut a = running.clone().empirical_bernstein().unwrap();
    let error = a.merge(&running.empirical_bernstein().unwrap()).unwrap_err().to_string();
    assert!(error.contains("build both without"), "{error}");
    let mut a = bounded_mean().hedged(10).unwrap();
    assert!(a.merge(&bounded_mean().hedged(20).unwrap()).is_err());
    assert!(a.merge(&bounded_mean().alpha(0.1).hedged(10).unwrap()).is_err());
    let mut test = TwoSampleMeanTest::new(0.0, 1.0, 0.1).unwrap();
    let before = test.clone();
    assert!(test.merge(&TwoSampleMeanTest::new(0.0, 1.0, 0.2).unwrap()).is_err());
    assert_eq!(test, before);
}

#[test]
fn an_alarm_of_a_shard_is_its_own() {
    let fresh = RiskTest::builder().build(&[0.0; 500]).unwrap();
    let (mut bad, mut good, mut joint) = (fresh.clone(), fresh.clone(), fresh);
    (0..200).for_each(|_| bad.update(1.0).unwrap());
    (0..20_000).for_each(|_| good.update(0.0).unwrap());
    assert_eq!((bad.verdict(), good.verdict()), (Verdict::Fail, Verdict::Pass));
    joint.merge(&bad).unwrap();
    assert_eq!((joint.verdict(), joint.alarm_at()), (Verdict::Fail, None)); // its rows alone say so
    joint.merge(&good).unwrap();
    assert_eq!((joint.verdict(), joint.n()), (Verdict::Pass, 20_200));
    bad.merge(&good).unwrap();
    assert_eq!(bad.verdict(), Verdict::Fail);
}

#[test]
fn a_mean_that_moves_contradicts_the_running_intersection() {
    let mut sequence = bounded_mean().running(true).empirical_bernstein().unwrap();
    let mut plain = bounded_mean().empirical_bernstein().unwrap();
    for i in 0..6_000 {
        let x = if i < 3_000 { 0.1 } else { 0.9 };
        sequence.update(x).unwrap();
        plain.update(x).unwrap();
    }
    assert!(sequence.contradicted() && !plain.contradicted());
    assert_eq!(sequence.estimate(), plain.estimate());
}

#[test]
fn a_tampered_grid_does_not_load() {
    let text = serde_json::to_string(&bounded_mean().hedged(10).unwrap()).unwrap();
    assert!(serde_json::from_str::<mlops_monitor::sequential::HedgedCs>(&text).is_ok());
    let cut = text.replacen("[0.0,", "[", 1);
    assert!(serde_json::from_str::<mlops_monitor::sequential::HedgedCs>(&cut).is_err());
}

#[test]
fn an_open_quantile_interval_settles_the_side_it_bounds() {
    let mut p99 = QuantileCs::builder(0.99).build().unwrap();
    (0..100).for_each(|_| p99.update(50.0).unwrap());
    let (low, high) = p99.bounds();
    assert!(low.is_some() && high.is_none() && p99.estimate().is_none(), "{p99}");
    assert_eq!(p99.verdict(Demand::AtMost(40.0)), Verdict::Fail);
    assert_eq!(p99.verdict(Demand::AtMost(60.0)), Verdict::Inconclusive);
    assert_eq!(p99.verdict(Demand::AtLeast(40.0)), Verdict::Pass);
    assert_eq!(p99.verdict(Demand::Within(40.0, 60.0)), Verdict::Inconclusive);
}

#[test]
fn sequences_and_tests_read_well() {
    let mut mean = bounded_mean().empirical_bernstein().unwrap();
    assert_eq!(mean.to_string(), "mean not bounded yet (n = 0), alpha 0.05 at all looks together, empirical Bernstein");
    (0..1_000).for_each(|i| mean.update(f64::from(i % 2)).unwrap());
    assert_eq!(
        mean.to_string(),
        "mean 0.500 [0.436, 0.562] (n = 1,000), alpha 0.05 at all looks together, empirical Bernstein"
    );
    let mut risk = RiskTest::builder().tolerance(0.1).build(&[0.0; 500]).unwrap();
    (0..400).for_each(|_| risk.update(1.0).unwrap());
    assert_eq!(
        risk.to_string(),
        "fail: live risk 1.000 [0.969, 1.000] (n = 400), source risk 0.000 [0.000, 0.020] (n = 500), tolerated rise \
         0.1, alarm after row 15"
    );
    assert_eq!(Demand::Within(0.1, 0.2).to_string(), "in [0.1, 0.2]");
}

//! Laws that hold for any input, odd values included.

use mlops_core::Verdict;
use mlops_monitor::change::{Adwin, ChangeDetector, Ddm, PageHinkley};
use mlops_monitor::drift::{KsMethod, ks_two_sample};
use mlops_monitor::{
    BettingTest, BinaryPerformance, DriftDetector, DriftScore, KsDetector, PairedSignTest, PsiDetector, psi,
};
use proptest::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;

fn restored<T: Serialize + DeserializeOwned>(value: &T) -> T {
    serde_json::from_str(&serde_json::to_string(value).unwrap()).unwrap()
}

/// Any double at all, with the awkward ones often, and many ties.
fn odd() -> impl Strategy<Value = f64> {
    prop_oneof![
        2 => any::<f64>(),
        3 => -1.0..1.0_f64,
        3 => (0..4_u8).prop_map(f64::from),
        1 => prop_oneof![
            Just(f64::NAN),
            Just(f64::INFINITY),
            Just(f64::NEG_INFINITY),
            Just(f64::MAX),
            Just(f64::MIN),
            Just(f64::MIN_POSITIVE),
            Just(5e-324),
            Just(-0.0),
        ],
    ]
}

fn rows(most: usize) -> impl Strategy<Value = Vec<f64>> {
    prop::collection::vec(odd(), 0..most)
}

fn detectors(baseline: &[f64], bins: usize) -> Option<Vec<Box<dyn DriftDetector>>> {
    let psi = PsiDetector::builder().bins(bins).fit(baseline);
    let ks = KsDetector::builder().fit(baseline);
    assert_eq!(psi.is_ok(), baseline.iter().any(|x| x.is_finite()));
    assert_eq!(psi.is_ok(), ks.is_ok());
    Some(vec![Box::new(psi.ok()?), Box::new(ks.ok()?)])
}

fn check_score(score: &DriftScore, live: &[f64]) {
    let finite = live.iter().filter(|x| x.is_finite()).count() as u64;
    assert_eq!(score.n_live, finite, "{score}");
    assert_eq!(score.skipped_live, live.len() as u64 - finite, "{score}");
    assert!(score.statistic.is_finite() && score.statistic >= 0.0, "{score}");
    assert!(score.effect.low.unwrap_or(0.0) <= score.effect.value, "{score}");
    assert!(score.effect.high.unwrap_or(f64::MAX) >= score.effect.value, "{score}");
    assert!(score.p_value.is_none_or(|p| (0.0..=1.0).contains(&p)), "{score}");
    if finite == 0 {
        assert_eq!(score.verdict, Verdict::Inconclusive);
    }
}

proptest! {
    #[test]
    fn any_rows_give_a_sound_score(baseline in rows(120), live in rows(120), bins in 2..40_usize) {
        for detector in detectors(&baseline, bins).into_iter().flatten() {
            let score = detector.score(&live).unwrap();
            check_score(&score, &live);
            let mut turned = live.clone();
            turned.reverse();
            prop_assert_eq!(&detector.score(&turned).unwrap(), &score);
            prop_assert_eq!(&restored(&score), &score);
        }
    }

    #[test]
    fn the_baseline_itself_is_never_drift(baseline in rows(200), bins in 2..40_usize) {
        for detector in detectors(&baseline, bins).into_iter().flatten() {
            let score = detector.score(&baseline).unwrap();
            prop_assert!(score.statistic.abs() < 1e-15);
            prop_assert_ne!(score.verdict, Verdict::Fail);
        }
    }

    #[test]
    fn stored_detectors_score_alike(baseline in rows(120), live in rows(60)) {
        if let Ok(detector) = PsiDetector::builder().fit(&baseline) {
            prop_assert_eq!(&restored(&detector), &detector);
            prop_assert_eq!(restored(&detector).score(&live).unwrap(), detector.score(&live).unwrap());
        }
        if let Ok(detector) = KsDetector::builder().fit(&baseline) {
            prop_assert_eq!(restored(&detector).score(&live).unwrap(), detector.score(&live).unwrap());
        }
    }

    #[test]
    fn merged_counts_equal_counts_of_all_rows(baseline in rows(120), a in rows(60), b in rows(60)) {
        if let Ok(detector) = PsiDetector::builder().fit(&baseline) {
            let mut merged = detector.bin_counts(&a);
            merged.merge(&detector.bin_counts(&b)).unwrap();
            let all = [a, b].concat();
            prop_assert_eq!(&merged, &detector.bin_counts(&all));
            prop_assert_eq!(detector.score_counts(&merged).unwrap(), detector.score(&all).unwrap());
        }
    }

    #[test]
    fn psi_is_a_divergence(weights in prop::collection::vec((1e-6..1.0_f64, 1e-6..1.0_f64), 1..50)) {
        let (a, b): (Vec<f64>, Vec<f64>) = weights.into_iter().unzip();
        prop_assert_eq!(psi(&a, &a).unwrap(), 0.0);
        prop_assert!(psi(&a, &b).unwrap() >= 0.0);
        prop_assert_eq!(psi(&a, &b).unwrap(), psi(&b, &a).unwrap());
    }

    #[test]
    fn psi_refuses_what_is_not_a_share(a in rows(5), b in rows(5)) {
        let valid = a.len() == b.len() && !a.is_empty() && a.iter().chain(&b).all(|x| *x > 0.0 && *x <= 1.0);
        prop_assert_eq!(psi(&a, &b).is_ok(), valid);
    }

    #[test]
    fn ks_is_symmetric_and_keeps_under_monotone_maps(
        a in prop::collection::vec(-10.0..10.0_f64, 1..80),
        b in prop::collection::vec(-10.0..10.0_f64, 1..80),
    ) {
        let test = ks_two_sample(&a, &b, KsMethod::Exact).unwrap();
        let other = ks_two_sample(&b, &a, KsMethod::Exact).unwrap();
        prop_assert_eq!((test.statistic, test.p_value), (other.statistic, other.p_value));
        let doubled = |values: &[f64]| values.iter().map(|x| 2.0 * x).collect::<Vec<_>>();
        prop_assert_eq!(ks_two_sample(&doubled(&a), &doubled(&b), KsMethod::Exact).unwrap(), test);
    }

    #[test]
    fn equal_size_formula_and_lattice_agree(
        a in prop::collection::vec(0..30_u8, 2..60),
        shift in 0..20_u8,
    ) {
        // Doubling one side leaves D alone and takes the other code path, whose p-value is then smaller or equal.
        let a: Vec<f64> = a.into_iter().map(f64::from).collect();
        let b: Vec<f64> = a.iter().map(|x| x + f64::from(shift)).collect();
        let equal = ks_two_sample(&a, &b, KsMethod::Exact).unwrap();
        let doubled = ks_two_sample(&a, &[b.clone(), b].concat(), KsMethod::Exact).unwrap();
        prop_assert_eq!(equal.statistic, doubled.statistic);
        prop_assert!(doubled.p_value <= equal.p_value + 1e-12);
    }

    #[test]
    fn change_detectors_survive_any_stream(
        values in prop::collection::vec(prop_oneof![3 => odd(), 2 => Just(0.0), 2 => Just(1.0)], 0..400),
        stop in 0..400_usize,
    ) {
        let adwin = Adwin::builder().clock(1).delta(0.3).build().unwrap();
        follow(adwin, &values, stop);
        follow(Adwin::builder().clock(4).delta(0.5).max_buckets(1).keep_recent(true).build().unwrap(), &values, stop);
        follow(PageHinkley::builder().threshold(1.0).build().unwrap(), &values, stop);
        follow(Ddm::builder().min_rows(5).build().unwrap(), &values, stop);
    }

    #[test]
    fn performance_of_shards_is_performance_of_all(
        a in prop::collection::vec((0.0..=1.0_f64, any::<bool>()), 0..60),
        b in prop::collection::vec((0.0..=1.0_f64, any::<bool>()), 0..60),
    ) {
        let fed = |parts: &[&[(f64, bool)]]| {
            let mut quality = BinaryPerformance::new();
            parts.iter().copied().flatten().for_each(|(prob, label)| quality.update(*prob, *label).unwrap());
            quality
        };
        let mut merged = fed(&[&a]);
        merged.merge(&fed(&[&b])).unwrap();
        let all = fed(&[&a, &b]);
        prop_assert_eq!(merged.accuracy(), all.accuracy());
        prop_assert_eq!(merged.recall(), all.recall());
        prop_assert_eq!(merged.n(), all.n());
        if let (Some(x), Some(y)) = (merged.brier(), all.brier()) {
            prop_assert!((x.value - y.value).abs() < 1e-12 && (x.high - y.high).abs() < 1e-9);
            prop_assert!((merged.log_loss().unwrap() - all.log_loss().unwrap()).abs() < 1e-9);
            prop_assert!(0.0 <= y.low && y.low <= y.value && y.value <= y.high && y.high <= 1.0);
        }
        prop_assert_eq!(restored(&merged), merged);
    }

    #[test]
    fn performance_refuses_what_is_not_a_probability(prob in odd()) {
        let mut quality = BinaryPerformance::new();
        let ok = quality.update(prob, true).is_ok();
        prop_assert_eq!(ok, (0.0..=1.0).contains(&prob));
        prop_assert_eq!(quality.n(), u64::from(ok));
    }

    #[test]
    fn evidence_of_shards_is_evidence_of_all(
        mean0 in 0.001..0.999_f64,
        a in prop::collection::vec(0.0..=1.0_f64, 0..80),
        b in prop::collection::vec(0.0..=1.0_f64, 0..80),
    ) {
        let fed = |parts: &[&[f64]]| {
            let mut test = BettingTest::new(mean0).unwrap();
            parts.iter().copied().flatten().for_each(|x| test.update(*x).unwrap());
            test
        };
        let mut merged = fed(&[&a]);
        merged.merge(&fed(&[&b])).unwrap();
        let all = fed(&[&a, &b]);
        for (x, y) in [
            (merged.evidence_above(), all.evidence_above()),
            (merged.evidence_below(), all.evidence_below()),
        ] {
            prop_assert!((x.log() - y.log()).abs() < 1e-9 * y.log().abs().max(1.0), "{} {}", x.log(), y.log());
        }
        prop_assert_eq!(restored(&merged), merged);
    }

    #[test]
    fn the_paired_test_is_the_betting_test_on_differences(
        margin in 0.0..0.5_f64,
        pairs in prop::collection::vec(any::<(bool, bool)>(), 0..200),
    ) {
        let mut paired = PairedSignTest::new(margin).unwrap();
        let mut betting = BettingTest::new((1.0 - margin) / 2.0).unwrap();
        for (a, b) in pairs {
            paired.update(a, b);
            betting.update((1.0 + f64::from(u8::from(b)) - f64::from(u8::from(a))) / 2.0).unwrap();
        }
        for (x, y) in [
            (paired.evidence_noninferior(), betting.evidence_above()),
            (paired.evidence_worse(), betting.evidence_below()),
        ] {
            prop_assert!((x.log() - y.log()).abs() < 1e-9 * y.log().abs().max(1.0));
        }
        prop_assert_eq!(restored(&paired), paired);
    }
}

/// Feeds two copies, one of them stored and loaded again on the way, and compares them after each row.
fn follow<D>(fresh: D, values: &[f64], stop: usize)
where
    D: ChangeDetector + Clone + PartialEq + Serialize + DeserializeOwned,
{
    let (mut whole, mut resumed) = (fresh.clone(), fresh.clone());
    let mut accepted = 0;
    for (i, x) in values.iter().enumerate() {
        if i == stop {
            resumed = restored(&resumed);
        }
        let before = whole.clone();
        match whole.update(*x) {
            Ok(state) => {
                accepted += 1;
                assert_eq!(resumed.update(*x).unwrap(), state);
                assert_eq!(whole.state(), state);
            }
            Err(_) => {
                assert!(resumed.update(*x).is_err());
                assert_eq!(whole, before);
            }
        }
        assert_eq!(whole, resumed);
        assert_eq!(whole.n(), accepted);
        assert!(whole.estimate().is_none_or(f64::is_finite));
        assert!(whole.changed_at().is_none_or(|row| row <= whole.n()));
    }
    whole.reset();
    assert_eq!(whole, fresh);
}

#[test]
fn constant_columns_are_compared_exactly() {
    let detector = PsiDetector::builder().fit(&[7.0; 200]).unwrap();
    assert_eq!(detector.score(&[7.0; 200]).unwrap().verdict, Verdict::Pass);
    for moved in [6.999, 7.001, -1e300, f64::MAX] {
        assert_eq!(detector.score(&[moved; 200]).unwrap().verdict, Verdict::Fail, "{moved}");
    }
    let edge = PsiDetector::builder().fit(&[f64::MIN; 200]).unwrap();
    assert_eq!(edge.score(&[f64::MIN; 200]).unwrap().verdict, Verdict::Pass);
    assert_eq!(edge.score(&[0.0; 200]).unwrap().verdict, Verdict::Fail);
}

#[test]
fn missing_values_are_counted_and_move_nothing() {
    let baseline: Vec<f64> = (0..1_000).map(f64::from).collect();
    let mut live = baseline.clone();
    live.extend([f64::NAN; 500]);
    for detector in detectors(&baseline, 10).unwrap() {
        let score = detector.score(&live).unwrap();
        assert_eq!((score.n_live, score.skipped_live), (1_000, 500));
        assert_eq!(score.statistic, 0.0);
        let none = detector.score(&[f64::NAN; 10]).unwrap();
        assert_eq!((none.n_live, none.verdict), (0, Verdict::Inconclusive));
    }
}

#[test]
fn a_tampered_detector_does_not_load() {
    let text = serde_json::to_string(&PsiDetector::builder().bins(4).fit(&[1.0, 2.0, 3.0, 4.0]).unwrap()).unwrap();
    for (from, to) in [("[1.0,2.0,3.0]", "[1.0,2.0]"), ("[1.0,2.0,3.0]", "[1.0,3.0,2.0]"), ("0.95", "1.5")] {
        assert!(text.contains(from), "{text}");
        assert!(serde_json::from_str::<PsiDetector>(&text.replace(from, to)).is_err(), "{from} {to}");
    }
}

#[test]
fn options_out_of_range_are_errors_that_name_them() {
    let message = |result: mlops_monitor::Result<()>| result.unwrap_err().to_string();
    for (error, what) in [
        (message(PsiDetector::builder().bins(1).fit(&[1.0]).map(drop)), "bins"),
        (message(PsiDetector::builder().alert_at(f64::NAN).fit(&[1.0]).map(drop)), "alert_at"),
        (message(KsDetector::builder().alert_at(1.5).fit(&[1.0]).map(drop)), "alert_at"),
        (message(KsDetector::builder().confidence(1.0).fit(&[1.0]).map(drop)), "confidence"),
        (message(KsDetector::builder().fit(&[f64::NAN]).map(drop)), "baseline"),
        (message(Adwin::builder().delta(0.0).build().map(drop)), "delta"),
        (message(Adwin::builder().clock(0).build().map(drop)), "clock"),
        (message(PageHinkley::builder().alpha(f64::NAN).build().map(drop)), "alpha"),
        (message(PageHinkley::builder().threshold(-1.0).build().map(drop)), "threshold"),
        (message(Ddm::builder().change_at(f64::INFINITY).build().map(drop)), "change_at"),
        (message(BettingTest::new(0.0).map(drop)), "mean0"),
        (message(PairedSignTest::new(-0.1).map(drop)), "margin"),
    ] {
        assert!(error.starts_with(what), "{error}");
    }
}

#[test]
fn scores_and_errors_read_well() {
    let baseline: Vec<f64> = (0..2_000).map(f64::from).collect();
    let live: Vec<f64> = (0..1_000).map(f64::from).chain([f64::NAN; 3]).collect();
    let score = KsDetector::builder().fit(&baseline).unwrap().score(&live).unwrap();
    assert_eq!(
        score.to_string(),
        "drift: distance 0.5000 [0.4202, 0.5798] (alert at 0.1), ks 0.5000, p = 3.437e-152, n = 1,000 against 2,000, \
         3 skipped"
    );
}

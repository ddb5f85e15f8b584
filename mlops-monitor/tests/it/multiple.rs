//! Many tests at once and sample sizes: numbers of statsmodels and scipy, and laws.

use mlops_core::Verdict;
use mlops_monitor::drift::Effect;
use mlops_monitor::multiple::{Adjustment, Candidate, Evidence, adjust, decide, e_bh};
use mlops_monitor::{DriftDetector, EValue, KsDetector, PsiDetector, power};
use proptest::prelude::*;
use serde::Deserialize;

#[derive(Deserialize)]
struct Golden {
    adjusted: Vec<Adjusted>,
    e_bh: Vec<EBh>,
    calibrated: Vec<Calibrated>,
}

#[derive(Deserialize)]
struct Adjusted {
    case: String,
    method: Adjustment,
    p: Vec<f64>,
    adjusted: Vec<f64>,
}

#[derive(Deserialize)]
struct EBh {
    case: String,
    e: Vec<f64>,
    alpha: f64,
    rejected: Vec<bool>,
}

#[derive(Deserialize)]
struct Calibrated {
    case: String,
    p: f64,
    half: f64,
    mixed: f64,
}

#[test]
fn adjusted_p_values_match_statsmodels_and_e_bh_its_definition() {
    let golden: Golden = serde_json::from_str(include_str!("../golden/multiple.json")).unwrap();
    for Adjusted { case, method, p, adjusted } in golden.adjusted {
        for (got, want) in adjust(&p, method).unwrap().into_iter().zip(adjusted) {
            // A few products in another order.
            assert!((got - want).abs() <= 1e-12 * want, "{case}: {got} {want}");
        }
    }
    for EBh { case, e, alpha, rejected } in golden.e_bh {
        let evidence: Vec<EValue> = e.iter().map(|e| EValue::from_value(*e).unwrap()).collect();
        assert_eq!(e_bh(&evidence, alpha).unwrap(), rejected, "{case}");
    }
    for Calibrated { case, p, half, mixed } in golden.calibrated {
        let close = |got: f64, want: f64| assert!((got - want).abs() <= 1e-9 * want, "{case}: {got} {want}");
        close(EValue::from_p_value(p, 0.5).unwrap().value(), half);
        close(EValue::from_p_value_mixed(p).unwrap().value(), mixed);
    }
}

#[derive(Deserialize)]
struct Power {
    mean: Vec<Mean>,
    means: Vec<Mean>,
    proportions: Vec<Proportions>,
    ks: Vec<Distance>,
}

#[derive(Deserialize)]
struct Mean {
    effect: f64,
    sd: f64,
    alpha: f64,
    power: f64,
    n: u64,
}

#[derive(Deserialize)]
struct Proportions {
    a: f64,
    b: f64,
    alpha: f64,
    power: f64,
    n: u64,
}

#[derive(Deserialize)]
struct Distance {
    distance: f64,
    alpha: f64,
    power: f64,
    n: u64,
}

#[test]
fn sample_sizes_match_statsmodels() {
    let golden: Power = serde_json::from_str(include_str!("../golden/power.json")).unwrap();
    for Mean { effect, sd, alpha, power, n } in golden.mean {
        assert_eq!(power::rows_for_mean(effect, sd, alpha, power).unwrap(), n);
        assert_eq!(power::rows_for_mean(-effect, sd, alpha, power).unwrap(), n);
    }
    for Mean { effect, sd, alpha, power, n } in golden.means {
        assert_eq!(power::rows_for_means(effect, sd, sd, alpha, power).unwrap(), n);
    }
    for Proportions { a, b, alpha, power, n } in golden.proportions {
        assert_eq!(power::rows_for_proportions(a, b, alpha, power).unwrap(), n);
        assert_eq!(power::rows_for_proportions(b, a, alpha, power).unwrap(), n);
    }
    for Distance { distance, alpha, power, n } in golden.ks {
        assert_eq!(power::rows_for_ks(distance, alpha, power).unwrap(), n);
    }
}

proptest! {
    #[test]
    fn adjustments_keep_their_order(p in prop::collection::vec(prop_oneof![0.0..=1.0_f64, Just(0.0), Just(0.5), Just(1.0)], 0..40)) {
        let of = |method| adjust(&p, method).unwrap();
        let (bonferroni, holm, hommel) = (of(Adjustment::Bonferroni), of(Adjustment::Holm), of(Adjustment::Hommel));
        let (bh, by) = (of(Adjustment::BenjaminiHochberg), of(Adjustment::BenjaminiYekutieli));
        for i in 0..p.len() {
            let slack = 1e-12;
            for adjusted in [&bonferroni, &holm, &hommel, &bh, &by] {
                prop_assert!(adjusted[i] >= p[i] - slack && adjusted[i] <= 1.0);
            }
            prop_assert!(hommel[i] <= holm[i] + slack && holm[i] <= bonferroni[i] + slack);
            prop_assert!(bh[i] <= hommel[i] + slack && bh[i] <= by[i] + slack);
            for j in 0..p.len() {
                for adjusted in [&bonferroni, &holm, &hommel, &bh, &by] {
                    prop_assert!(p[i] > p[j] || adjusted[i] <= adjusted[j] + slack, "{i} {j} {adjusted:?}");
                }
            }
        }
    }

    #[test]
    fn e_bh_takes_any_evidence_and_bh_of_its_p_values_rejects_the_same(
        logs in prop::collection::vec(prop_oneof![5 => -3.0..12.0_f64, 1 => any::<f64>()], 0..40),
        alpha in 0.01..0.5_f64,
    ) {
        let evidence: Vec<EValue> = logs.iter().map(|log| EValue::from_log(*log)).collect();
        let rejected = e_bh(&evidence, alpha).unwrap();
        if logs.iter().all(|log| !log.is_nan()) {
            // e-BH is BH on 1/e, but for rounding at the edge.
            let p: Vec<f64> = evidence.iter().map(|e| e.p_value()).collect();
            let q = adjust(&p, Adjustment::BenjaminiHochberg).unwrap();
            for (i, q) in q.iter().enumerate() {
                prop_assert!((q - alpha).abs() < 1e-9 || (*q <= alpha) == rejected[i], "{q} {alpha}");
            }
        }
    }

    #[test]
    fn sample_sizes_survive_any_number(a in any::<f64>(), b in any::<f64>(), c in any::<f64>(), d in any::<f64>()) {
        let sizes = [
            power::rows_for_mean(a, b, c, d),
            power::rows_for_means(a, b, b, 0.05, 0.8),
            power::rows_for_means(a, b, a, c.fract().abs(), d.fract().abs()),
            power::rows_for_proportions(a, b, c, d),
            power::rows_for_proportions(a.fract().abs(), b.fract().abs(), c.fract().abs(), d.fract().abs()),
            power::rows_for_ks(a, c, d),
            power::rows_for_ks(a.fract().abs(), c.fract().abs(), d.fract().abs()),
            power::rows_for_width(a, b, c),
            power::rows_for_width(a.abs(), b.abs(), c.fract().abs()),
        ];
        for size in sizes.into_iter().flatten() {
            prop_assert!(size >= 1);
        }
    }
}

#[test]
fn p_values_out_of_range_are_refused() {
    for bad in [-1e-9, 1.000_001, f64::NAN, f64::INFINITY] {
        let error = adjust(&[0.5, bad], Adjustment::Holm).unwrap_err().to_string();
        assert!(error.starts_with("p_values: must lie in [0, 1]"), "{error}");
    }
    assert!(adjust(&[], Adjustment::Hommel).unwrap().is_empty());
    assert!(e_bh(&[], 1.0).is_err());
    assert!(power::rows_for_proportions(0.2, 0.2, 0.05, 0.8).is_err());
}

fn candidate(name: &str, evidence: Evidence, low: f64, high: f64) -> Candidate {
    Candidate::new(name, evidence, Effect::new("distance", (low + high) / 2.0, Some(low), Some(high), 0.95), 0.1)
}

#[test]
fn a_decision_needs_evidence_and_effect() {
    let p = Evidence::PValue;
    let one = |evidence, low, high| decide(&[candidate("x", evidence, low, high)], 0.05).unwrap().verdict;
    assert_eq!(one(p(1e-9), 0.2, 0.3), Verdict::Fail);
    assert_eq!(one(p(0.2), 0.2, 0.3), Verdict::Inconclusive);
    assert_eq!(one(p(1e-9), 0.05, 0.3), Verdict::Inconclusive);
    assert_eq!(one(p(1e-9), 0.01, 0.05), Verdict::Pass);
    assert_eq!(decide(&[], 0.05).unwrap().verdict, Verdict::Inconclusive);

    // 4 % on one of ten columns is chance.
    let mut many: Vec<Candidate> = (0..9).map(|i| candidate(&i.to_string(), p(0.5), 0.0, 0.05)).collect();
    many.push(candidate("last", p(0.04), 0.11, 0.4));
    assert_eq!(decide(&many, 0.05).unwrap().verdicts[9], Verdict::Inconclusive);

    // All e-values: e-BH, which needs 10/0.05 for one of ten.
    let e = |value: f64| Evidence::EValue(EValue::from_value(value).unwrap());
    many.iter_mut().for_each(|c| c.evidence = e(1.0));
    many[9].evidence = e(199.0);
    assert!(decide(&many, 0.05).unwrap().changed.is_empty());
    many[9].evidence = e(201.0);
    let decision = decide(&many, 0.05).unwrap();
    assert_eq!(decision.to_string(), "fail: 1 of 10 changed (last) at false discovery rate 0.05");
    assert!(decide(&many, 0.0).is_err());
    assert!(decide(&[candidate("x", p(f64::NAN), 0.0, 1.0)], 0.05).is_err());
}

#[test]
fn drift_scores_of_any_method_become_candidates() {
    let baseline: Vec<f64> = (0..5_000).map(f64::from).collect();
    let detectors: [Box<dyn DriftDetector>; 2] = [
        Box::new(KsDetector::builder().fit(&baseline).unwrap()),
        Box::new(PsiDetector::builder().fit(&baseline).unwrap()), // has no p-value of its own
    ];
    let moved: Vec<f64> = (0..1_000).map(|i| f64::from(i) + 4_000.0).collect();
    let slightly: Vec<f64> = baseline.iter().map(|x| x + 250.0).collect(); // p of KS 7e-6, distance 0.05
    for detector in detectors {
        let candidates = [("same", &baseline), ("moved", &moved), ("slightly", &slightly)]
            .map(|(name, live)| Candidate::from_score(name, &detector.score(live).unwrap()));
        let decision = decide(&candidates, 0.01).unwrap();
        assert_eq!(decision.verdicts, [Verdict::Pass, Verdict::Fail, Verdict::Pass], "{candidates:?}");
        assert_eq!(decision.changed, ["moved"]);
        assert!(matches!(candidates[1].evidence, Evidence::PValue(p) if p < 1e-6), "{candidates:?}");
        assert!(matches!(candidates[2].evidence, Evidence::PValue(p) if p > 0.5), "{candidates:?}");
    }
}

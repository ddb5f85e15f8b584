use mlops_pipeline::gate::stats::{Paired, mcnemar_exact, paired_difference};
use serde::Deserialize;

#[derive(Deserialize)]
struct Golden {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    b: u64,
    c: u64,
    n: u64,
    confidence: f64,
    low: f64,
    high: f64,
    mcnemar: f64,
}

#[test]
fn paired_statistics_match_scipy_and_statsmodels() {
    let golden: Golden = serde_json::from_str(include_str!("../golden/paired.json")).unwrap();
    assert_eq!(golden.cases.len(), 42);
    for case in golden.cases {
        let Case { b, c, n, confidence, low, high, mcnemar } = case;
        let paired = Paired { both: n - b - c, only_candidate: b, only_champion: c, neither: 0 };
        let difference = paired_difference(&paired, confidence).unwrap();
        let at = format!("b = {b}, c = {c}, n = {n}, {confidence}: {difference:.12}");
        // Both sides find roots in double precision; next to -1 and 1 the score is steep, and the reference stops there.
        assert!((difference.low - low).abs() < 1e-9 && (difference.high - high).abs() < 1e-9, "{at} {low} {high}");
        // The logarithm of n! loses about ten digits of the exponent at a million rows.
        let p = mcnemar_exact(&paired);
        assert!((p - mcnemar).abs() <= 1e-9 * mcnemar + f64::MIN_POSITIVE, "{at}: {p} against {mcnemar}");
    }
}

#[test]
fn a_textbook_example_is_met() {
    // Airway hyper-responsiveness before and after stem cell transplantation (Bentur et al. 2009), the running example
    // of Fagerland, Lydersen and Laake, "Statistical Analysis of Contingency Tables" (2017), chapter 8.
    let paired = Paired { both: 1, only_candidate: 1, only_champion: 7, neither: 12 };
    assert_eq!(paired_difference(&paired, 0.95).unwrap().to_string(), "-0.286 [-0.517, -0.026] (n = 21)");
    assert_eq!(format!("{:.4}", mcnemar_exact(&paired)), "0.0703");
}

#[test]
fn swapping_the_models_mirrors_the_interval() {
    for (b, c) in [(0, 0), (3, 0), (10, 25), (7, 7)] {
        let one = Paired { both: 40, only_candidate: b, only_champion: c, neither: 3 };
        let other = Paired { only_candidate: c, only_champion: b, ..one };
        let (one, other) = (paired_difference(&one, 0.9).unwrap(), paired_difference(&other, 0.9).unwrap());
        assert!((one.low + other.high).abs() < 1e-12 && (one.high + other.low).abs() < 1e-12, "{one} {other}");
        assert!(one.low < one.high);
    }
}

//! Numbers of independent implementations; the scripts and their versions are in `tests/golden`.

use mlops_monitor::change::{Adwin, ChangeDetector, Ddm, Direction, PageHinkley, State};
use mlops_monitor::drift::{KsMethod, ks_two_sample};
use mlops_monitor::metrics::wilson;
use mlops_monitor::{BettingTest, DriftDetector, PairedSignTest, PsiDetector};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::streams::{Sample, stream};

fn cases<T: DeserializeOwned>(json: &str) -> Vec<T> {
    #[derive(Deserialize)]
    struct File<T> {
        cases: Vec<T>,
    }
    serde_json::from_str::<File<T>>(json).unwrap().cases
}

#[track_caller]
fn close(name: &str, what: &str, got: f64, want: f64, relative: f64) {
    assert!(
        (got - want).abs() <= relative * want.abs().max(1e-300) || (got - want).abs() < 1e-300,
        "{name}: {what} is {got:e}, want {want:e}, relative error {:e}",
        (got - want).abs() / want.abs()
    );
}

#[test]
fn ks_matches_scipy() {
    #[derive(Deserialize)]
    struct Case {
        case: String,
        a: Sample,
        b: Sample,
        method: String,
        statistic: f64,
        p_value: f64,
    }
    for Case { case, a, b, method, statistic, p_value } in cases::<Case>(include_str!("../golden/ks.json")) {
        let exact = method == "exact";
        let method = if exact { KsMethod::Exact } else { KsMethod::Asymptotic };
        let test = ks_two_sample(&a.rows(), &b.rows(), method).unwrap();
        assert_eq!(test.method, method, "{case}");
        close(&case, "D", test.statistic, statistic, 1e-12);
        // scipy takes twice the exact one-sided tail from N·D² = 2.2 on, where this crate takes the first terms of
        // its expansion in 1/N. What is left out is of the order (N·D²)²/N, relative.
        let (n, m) = (a.n as f64, b.n as f64);
        let rows = n * m / (n + m);
        let scaled = rows * statistic * statistic;
        let tolerance = if exact || scaled < 2.2 { 1e-9 } else { scaled * scaled / rows };
        close(&case, "p", test.p_value, p_value, tolerance);
    }
}

#[test]
fn auto_method_is_exact_while_that_is_cheap() {
    for Case { a, b } in cases::<Case>(include_str!("../golden/ks.json")) {
        let test = ks_two_sample(&a.rows(), &b.rows(), KsMethod::Auto).unwrap();
        let points = a.n as f64 * b.n as f64 * test.statistic * 2.0;
        let cheap = a.n == b.n || points <= 2e7;
        assert_eq!(test.method == KsMethod::Exact, cheap, "{a:?} {b:?}");
    }
    #[derive(Deserialize)]
    struct Case {
        a: Sample,
        b: Sample,
    }
}

#[test]
fn psi_matches_numpy() {
    #[derive(Deserialize)]
    struct Case {
        case: String,
        a: Sample,
        b: Sample,
        bins: usize,
        baseline: Vec<u64>,
        live: Vec<u64>,
        statistic: f64,
        value: f64,
        low: f64,
        high: f64,
    }
    for c in cases::<Case>(include_str!("../golden/psi.json")) {
        let detector = PsiDetector::builder().bins(c.bins).fit(&c.a.rows()).unwrap();
        assert_eq!(detector.baseline().counts(), c.baseline, "{}", c.case);
        assert_eq!(detector.bin_counts(&c.b.rows()).counts(), c.live, "{}", c.case);
        let score = detector.score(&c.b.rows()).unwrap();
        // Absolute 1e-14 for values that cancel to 0.
        for (what, got, want) in [
            ("statistic", score.statistic, c.statistic),
            ("value", score.effect.value, c.value),
            ("low", score.effect.low.unwrap(), c.low),
            ("high", score.effect.high.unwrap(), c.high),
        ] {
            if (got - want).abs() > 1e-14 {
                close(&c.case, what, got, want, 1e-9);
            }
        }
    }
}

#[test]
fn wilson_matches_scipy() {
    #[derive(Deserialize)]
    struct Case {
        case: String,
        successes: u64,
        n: u64,
        confidence: f64,
        low: f64,
        high: f64,
    }
    for c in cases::<Case>(include_str!("../golden/wilson.json")) {
        let estimate = wilson(c.successes, c.n, c.confidence).unwrap();
        for (what, got, want) in [("low", estimate.low, c.low), ("high", estimate.high, c.high)] {
            if (got - want).abs() > 1e-15 {
                close(&c.case, what, got, want, 1e-9);
            }
        }
    }
}

/// One stream, the options under the names river gives them, and what river found.
#[derive(Deserialize)]
struct Stream {
    case: String,
    detector: String,
    seed: u64,
    kind: String,
    segments: Vec<(u32, f64)>,
    options: serde_json::Map<String, serde_json::Value>,
    changes: Vec<usize>,
    width: Option<u64>,
    mean: Option<f64>,
    variance: Option<f64>,
    warnings: Option<usize>,
}

impl Stream {
    fn option(&self, name: &str, default: f64) -> f64 {
        self.options.get(name).map_or(default, |value| value.as_f64().unwrap())
    }

    /// Rows on which the detector reports a change, and the number of rows with a warning.
    fn run(&self, detector: &mut dyn ChangeDetector) -> (Vec<usize>, usize) {
        let states: Vec<State> =
            stream(self.seed, &self.kind, &self.segments).into_iter().map(|x| detector.update(x).unwrap()).collect();
        let rows = |wanted| states.iter().enumerate().filter(move |(_, s)| **s == wanted).map(|(i, _)| i);
        (rows(State::Change).collect(), rows(State::Warning).count())
    }
}

fn streams_of(detector: &str) -> Vec<Stream> {
    let streams: Vec<Stream> =
        cases(include_str!("../golden/change.json")).into_iter().filter(|s: &Stream| s.detector == detector).collect();
    assert!(streams.len() >= 20);
    streams
}

#[test]
fn adwin_changes_where_river_does() {
    for s in streams_of("adwin") {
        let mut adwin = Adwin::builder()
            .delta(s.option("delta", 0.002))
            .clock(s.option("clock", 32.0) as u64)
            .max_buckets(s.option("max_buckets", 5.0) as u32)
            .min_window(s.option("min_window_length", 5.0) as u64)
            .grace_period(s.option("grace_period", 10.0) as u64)
            .build()
            .unwrap();
        assert_eq!(s.run(&mut adwin).0, s.changes, "{}", s.case);
        assert_eq!(Some(adwin.width()), s.width, "{}", s.case);
        close(&s.case, "mean", adwin.estimate().unwrap(), s.mean.unwrap(), 1e-12);
        // What river calls the variance is the sum of squared deviations.
        close(&s.case, "variance", adwin.variance() * adwin.width() as f64, s.variance.unwrap(), 1e-9);
    }
}

#[test]
fn page_hinkley_changes_where_river_does() {
    for s in streams_of("page_hinkley") {
        let direction = match s.options.get("mode").and_then(|mode| mode.as_str()) {
            Some("up") => Direction::Up,
            Some("down") => Direction::Down,
            _ => Direction::Both,
        };
        let mut page_hinkley = PageHinkley::builder()
            .min_rows(s.option("min_instances", 30.0) as u64)
            .delta(s.option("delta", 0.005))
            .threshold(s.option("threshold", 50.0))
            .alpha(s.option("alpha", 1.0 - 0.0001))
            .direction(direction)
            .build()
            .unwrap();
        assert_eq!(s.run(&mut page_hinkley).0, s.changes, "{}", s.case);
    }
}

#[test]
fn ddm_changes_and_warns_where_river_does() {
    for s in streams_of("ddm") {
        let mut ddm = Ddm::builder()
            .min_rows(s.option("warm_start", 30.0) as u64)
            .warning_at(s.option("warning_threshold", 2.0))
            .change_at(s.option("drift_threshold", 3.0))
            .build()
            .unwrap();
        let (changes, warnings) = s.run(&mut ddm);
        assert_eq!(changes, s.changes, "{}", s.case);
        assert_eq!(Some(warnings), s.warnings, "{}", s.case);
    }
}

#[test]
fn betting_matches_the_published_product() {
    #[derive(Deserialize)]
    #[serde(tag = "kind", rename_all = "snake_case")]
    enum Case {
        Mean {
            case: String,
            #[serde(flatten)]
            sample: Sample,
            mean0: f64,
            above: f64,
            below: f64,
        },
        Paired {
            case: String,
            only_a: u64,
            only_b: u64,
            same: u64,
            margin: f64,
            worse: f64,
            noninferior: f64,
            better: f64,
            low: f64,
            high: f64,
        },
    }
    // Logarithms near 0 come from sums of logarithms of either sign, hence the absolute part.
    let check = |case: &str, what: &str, got: f64, want: f64| {
        if (got - want).abs() > 1e-12 {
            close(case, what, got, want, 1e-9);
        }
    };
    for case in cases::<Case>(include_str!("../golden/betting.json")) {
        match case {
            Case::Mean { case, sample, mean0, above, below } => {
                let mut test = BettingTest::new(mean0).unwrap();
                for x in sample.rows() {
                    test.update(x).unwrap();
                }
                check(&case, "above", test.evidence_above().log(), above);
                check(&case, "below", test.evidence_below().log(), below);
            }
            Case::Paired { case, only_a, only_b, same, margin, worse, noninferior, better, low, high } => {
                let mut test = PairedSignTest::new(margin).unwrap();
                for (rows, a, b) in [(only_a, true, false), (only_b, false, true), (same, true, true)] {
                    (0..rows).for_each(|_| test.update(a, b));
                }
                check(&case, "worse", test.evidence_worse().log(), worse);
                check(&case, "noninferior", test.evidence_noninferior().log(), noninferior);
                check(&case, "better", test.evidence_better().log(), better);
                if let Some(difference) = test.difference(0.95).unwrap() {
                    // Both ends are found by bisection, here to 1e-12.
                    assert!((difference.low - low).abs() < 1e-10, "{case}: {} {low}", difference.low);
                    assert!((difference.high - high).abs() < 1e-10, "{case}: {} {high}", difference.high);
                }
            }
        }
    }
}

//! Change detectors: numbers of independent implementations, laws for any stream, and promised run lengths.

use std::collections::BTreeMap;

use mlops_monitor::Error;
use mlops_monitor::change::{
    Adwin, ChangeDetector, Cusum, Detector, DetectorConfig, Direction, EDetector, EStyle, Ecdd, EcddLimit, Eddm, Ewma,
    HddmA, HddmW, Kswin, Rddm, Shewhart, State, Stepd, WesternElectric,
};
use proptest::prelude::*;
use serde::Deserialize;

use crate::streams::{SplitMix, stream};

const METHODS: [&str; 14] = [
    "adwin",
    "cusum",
    "ddm",
    "e_detector",
    "ecdd",
    "eddm",
    "ewma",
    "hddm_a",
    "hddm_w",
    "kswin",
    "page_hinkley",
    "rddm",
    "shewhart",
    "stepd",
];

/// A detector by its configuration, and what another implementation found.
#[derive(Deserialize)]
struct Case {
    case: String,
    config: DetectorConfig,
    source: Source,
    changes: Vec<u64>,
    warnings: usize,
    /// Where the changes began, if the other implementation says.
    began: Option<Vec<u64>>,
    fired: Option<Vec<String>>,
    /// Logarithms of the evidence, the latest first, spread over the rows up to the first change.
    log_evidence: Option<Vec<f64>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Source {
    Made { seed: u64, kind: String, segments: Vec<(u32, f64)> },
    Elec2(String),
}

impl Source {
    fn rows(&self) -> Vec<f64> {
        match self {
            Self::Made { seed, kind, segments } => stream(*seed, kind, segments),
            Self::Elec2(column) => elec2(column),
        }
    }
}

/// See `tests/golden/elec2.py`.
fn elec2(column: &str) -> Vec<f64> {
    let data = include_bytes!("../golden/elec2.bin");
    let (wrong, demand) = data.split_at(data.len() / 9);
    match column {
        "errors" => wrong.iter().flat_map(|byte| (0..8).map(move |i| f64::from(byte >> i & 1))).collect(),
        "demand" => demand.iter().map(|byte| f64::from(*byte) / 255.0).collect(),
        _ => panic!("no column {column}"),
    }
}

fn cases() -> Vec<Case> {
    #[derive(Deserialize)]
    struct File {
        cases: Vec<Case>,
    }
    serde_json::from_str::<File>(include_str!("../golden/change_more.json")).unwrap().cases
}

#[test]
fn changes_and_warnings_are_where_others_find_them() {
    let (mut streams, mut wrong) = (BTreeMap::<_, usize>::new(), Vec::new());
    for case in cases() {
        let mut detector = case.config.build().unwrap();
        let (mut changes, mut began, mut fired, mut warnings) = (Vec::new(), Vec::new(), Vec::new(), 0);
        for (i, x) in case.source.rows().into_iter().enumerate() {
            match detector.update(x).unwrap() {
                State::Stable => {}
                State::Warning => warnings += 1,
                State::Change => {
                    changes.push(i as u64);
                    began.push(detector.changed_at().unwrap());
                    if let Detector::Shewhart(chart) = &detector {
                        let names: Vec<_> = chart.fired().map(|rule| serde_json::to_value(rule).unwrap()).collect();
                        fired.push(names.iter().map(|name| name.as_str().unwrap()).collect::<Vec<_>>().join(","));
                    }
                }
            }
        }
        *streams.entry(detector.name()).or_default() += 1;
        let differs = changes != case.changes
            || warnings != case.warnings
            || case.began.is_some_and(|wanted| began != wanted)
            || case.fired.is_some_and(|wanted| fired[..wanted.len()] != wanted);
        if differs {
            let first = changes.iter().zip(&case.changes).find(|(got, want)| got != want);
            wrong.push(format!("{}: {} changes, {first:?}, {warnings} warnings", case.case, changes.len()));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    // ADWIN, Page–Hinkley and DDM have their streams in `golden.rs`, and Elec2 here.
    for (method, streams) in streams {
        let least = if ["adwin", "page_hinkley", "ddm"].contains(&method) { 1 } else { 20 };
        assert!(streams >= least, "{method}: {streams}");
    }
}

#[test]
fn evidence_is_the_sum_over_all_bets() {
    let mut seen = 0;
    for case in cases() {
        let Some(wanted) = case.log_evidence else { continue };
        let Detector::EDetector(mut detector) = case.config.build().unwrap() else { panic!("{}", case.case) };
        let mut logs = Vec::new();
        for x in case.source.rows() {
            let state = detector.update(x).unwrap();
            logs.push(detector.evidence().log());
            if state == State::Change {
                break;
            }
        }
        let step = (logs.len() / 20).max(1);
        for (got, want) in logs.iter().rev().step_by(step).zip(&wanted) {
            // Sums of up to thousands of products on both sides, each rounded.
            assert!((got - want).abs() < 1e-9, "{}: {got} {want}", case.case);
            seen += 1;
        }
    }
    assert!(seen > 300, "{seen}");
}

/// What the defaults and other options of every method make.
fn all_detectors() -> Vec<Detector> {
    let mut detectors: Vec<Detector> = METHODS
        .into_iter()
        .map(|method| {
            let mut config = serde_json::json!({ "method": method });
            if method == "e_detector" {
                config["in_control"] = 0.3.into();
            }
            serde_json::from_value::<DetectorConfig>(config).unwrap().build().unwrap()
        })
        .collect();
    let both = Direction::Both;
    detectors.extend([
        Cusum::builder().in_control(0.5, 0.1).head_start(0.5).build().unwrap().into(),
        Cusum::builder().baseline_rows(2).threshold(0.0).slack(0.0).build().unwrap().into(),
        EDetector::builder(1e-9).alpha(0.5).direction(both).build().unwrap().into(),
        EDetector::builder(1.0 - 1e-9).alpha(1e-12).direction(both).style(EStyle::Cusum).build().unwrap().into(),
        Ecdd::builder().min_rows(1).weight(1.0).limit(EcddLimit::Deviations(1.0)).build().unwrap().into(),
        Ecdd::builder().min_rows(5).limit(EcddLimit::Run100).build().unwrap().into(),
        Eddm::builder().min_rows(2).build().unwrap().into(),
        Ewma::builder().in_control(0.0, 1e-100).weight(1.0).build().unwrap().into(),
        Ewma::builder().baseline_rows(3).weight(0.01).direction(Direction::Down).build().unwrap().into(),
        HddmA::builder().change_level(0.5).warning_level(0.9).direction(both).build().unwrap().into(),
        HddmW::builder().change_level(0.5).warning_level(0.9).direction(both).build().unwrap().into(),
        HddmW::builder().weight(1.0).direction(Direction::Down).build().unwrap().into(),
        Kswin::builder().window_rows(2).recent_rows(1).alpha(0.9).build().unwrap().into(),
        Kswin::builder().window_rows(9).recent_rows(4).alpha(0.3).keep_recent(true).seed(7).build().unwrap().into(),
        Kswin::builder().window_rows(8).recent_rows(4).alpha(0.1).seed(u64::MAX).build().unwrap().into(),
        Rddm::builder().min_rows(3).short_window(5).long_window(9).max_warnings(2).build().unwrap().into(),
        Rddm::builder().min_rows(1).short_window(1).long_window(1).max_warnings(0).build().unwrap().into(),
        Shewhart::builder().baseline_rows(2).build().unwrap().into(),
        Shewhart::builder().in_control(0.0, 1.0).rules([WesternElectric::EightInARow]).build().unwrap().into(),
        Stepd::builder().recent_rows(1).warning_p(0.9).change_p(0.8).build().unwrap().into(),
        Stepd::builder().recent_rows(5).warning_p(0.4).change_p(0.2).build().unwrap().into(),
    ]);
    detectors
}

fn restored(detector: &Detector) -> Detector {
    serde_json::from_str(&serde_json::to_string(detector).unwrap()).unwrap()
}

/// Feeds two copies, one of them stored and loaded again on the way, and compares them after each row.
fn follow(fresh: &Detector, values: &[f64], stop: usize) {
    let (mut whole, mut resumed) = (fresh.clone(), fresh.clone());
    let mut accepted = 0;
    for (i, x) in values.iter().enumerate() {
        if i == stop {
            resumed = restored(&resumed);
        }
        let before = whole.clone();
        let name = whole.name();
        match whole.update(*x) {
            Ok(state) => {
                accepted += 1;
                assert_eq!(resumed.update(*x).unwrap(), state, "{name}");
                assert_eq!(whole.state(), state, "{name}");
                assert!(state != State::Change || whole.changed_at().is_some(), "{name}");
            }
            Err(error) => {
                assert!(matches!(error, Error::InvalidInput { .. }), "{name}");
                assert!(resumed.update(*x).is_err(), "{name}");
                assert_eq!(whole, before, "{name}: an error left a trace");
            }
        }
        assert_eq!(whole, resumed, "{name}");
        assert_eq!(whole.n(), accepted, "{name}");
        assert!(whole.estimate().is_none_or(f64::is_finite), "{name}");
        assert!(whole.changed_at().is_none_or(|row| row <= whole.n()), "{name}");
    }
    whole.reset();
    assert_eq!(&whole, fresh, "a reset detector is a new one");
}

fn any_value() -> impl Strategy<Value = f64> {
    prop_oneof![
        4 => Just(0.0),
        4 => Just(1.0),
        4 => 0.0..=1.0_f64,
        2 => any::<f64>(),
        1 => prop_oneof![
            Just(f64::NAN), Just(f64::INFINITY), Just(f64::NEG_INFINITY), Just(-0.0), Just(f64::MIN_POSITIVE),
            Just(5e-324), Just(1e100), Just(-1e100), Just(f64::MAX),
        ],
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_stream_is_survived_stored_and_forgotten(
        values in prop::collection::vec(any_value(), 0..150),
        stop in 0..150_usize,
    ) {
        for fresh in all_detectors() {
            follow(&fresh, &values, stop);
        }
    }

    #[test]
    fn long_runs_of_errors_and_of_none_are_survived(
        runs in prop::collection::vec((any::<bool>(), 1..60_usize), 0..20),
        stop in 0..600_usize,
    ) {
        let values: Vec<f64> =
            runs.into_iter().flat_map(|(wrong, rows)| vec![f64::from(u8::from(wrong)); rows]).collect();
        for fresh in all_detectors() {
            follow(&fresh, &values, stop);
        }
    }

    #[test]
    fn the_kept_order_is_a_sorted_window(
        values in prop::collection::vec((0..12_u8).prop_map(f64::from), 0..300),
        keep in any::<bool>(),
    ) {
        // A fresh sort at every load: the state read back would differ if the order kept were another.
        let mut kept = Kswin::builder().window_rows(20).recent_rows(7).alpha(0.2).keep_recent(keep).build().unwrap();
        for x in values {
            kept.update(x).unwrap();
            let again: Kswin = serde_json::from_str(&serde_json::to_string(&kept).unwrap()).unwrap();
            prop_assert_eq!(&again, &kept);
        }
    }
}

#[test]
fn memory_does_not_grow_with_the_rows() {
    let mut rng = SplitMix(3);
    let rows: Vec<f64> = (0..200_000).map(|_| f64::from(u8::from(rng.chance(0.1)))).collect();
    for mut detector in all_detectors() {
        let mut sizes = [0, 0];
        for part in 0..2 {
            for x in &rows[part * 100_000..][..100_000] {
                detector.update(*x).unwrap();
            }
            sizes[part] = serde_json::to_string(&detector).unwrap().len();
        }
        // Digits, and what a window may hold more or less of: the stored bits of RDDM are the most.
        assert!(sizes[1] < sizes[0] + 4_000, "{}: {sizes:?}", detector.name());
        assert!(sizes[1] < 10_000, "{}: {sizes:?}", detector.name());
    }
}

#[test]
fn options_out_of_range_are_errors_that_name_them() {
    for (config, what) in [
        (r#"{"method":"cusum","slack":-1.0}"#, "slack"),
        (r#"{"method":"cusum","head_start":1.0}"#, "head_start"),
        (r#"{"method":"cusum","baseline_rows":1}"#, "baseline_rows"),
        (r#"{"method":"cusum","in_control":[0.0,0.0]}"#, "in_control"),
        (r#"{"method":"ewma","weight":0.0}"#, "weight"),
        (r#"{"method":"ewma","warning_at":4.0}"#, "warning_at"),
        (r#"{"method":"ewma","limit":0.0}"#, "limit"),
        (r#"{"method":"shewhart","rules":[]}"#, "rules"),
        (r#"{"method":"shewhart","rules":["two_of_three","two_of_three"]}"#, "rules"),
        (r#"{"method":"eddm","change_below":0.0}"#, "change_below"),
        (r#"{"method":"eddm","warning_below":0.5}"#, "warning_below"),
        (r#"{"method":"rddm","short_window":0}"#, "short_window"),
        (r#"{"method":"rddm","long_window":100}"#, "long_window"),
        (r#"{"method":"rddm","change_at":-1.0}"#, "change_at"),
        (r#"{"method":"hddm_a","change_level":0.0}"#, "change_level"),
        (r#"{"method":"hddm_a","warning_level":0.0001}"#, "warning_level"),
        (r#"{"method":"hddm_w","weight":1.5}"#, "weight"),
        (r#"{"method":"kswin","alpha":0.0}"#, "alpha"),
        (r#"{"method":"kswin","window_rows":59}"#, "window_rows"),
        (r#"{"method":"kswin","recent_rows":4000000000}"#, "recent_rows"),
        (r#"{"method":"kswin","min_distance":2.0}"#, "min_distance"),
        (r#"{"method":"stepd","recent_rows":0}"#, "recent_rows"),
        (r#"{"method":"stepd","warning_p":0.001}"#, "warning_p"),
        (r#"{"method":"ecdd","weight":0.1}"#, "limit"),
        (r#"{"method":"ecdd","limit":{"deviations":0.0}}"#, "limit"),
        (r#"{"method":"ecdd","min_rows":0}"#, "min_rows"),
        (r#"{"method":"e_detector","in_control":0.0}"#, "in_control"),
        (r#"{"method":"e_detector","in_control":0.5,"alpha":1.0}"#, "alpha"),
        (r#"{"method":"e_detector","in_control":0.5,"warning_share":0.0}"#, "warning_share"),
        (r#"{"method":"adwin","delta":0.0}"#, "delta"),
    ] {
        let error = serde_json::from_str::<DetectorConfig>(config).unwrap().build().unwrap_err();
        assert!(error.to_string().starts_with(what), "{config}: {error}");
    }
    for config in [
        r#"{"method":"e_detector"}"#,
        r#"{"method":"cusum","treshold":4.0}"#,
        r#"{"method":"magic"}"#,
        r#"{"threshold":4.0}"#,
    ] {
        assert!(serde_json::from_str::<DetectorConfig>(config).is_err(), "{config}");
    }
}

#[test]
fn a_tampered_window_does_not_load() {
    let mut kswin = Kswin::builder().window_rows(4).recent_rows(2).build().unwrap();
    [1.0, 2.0, 3.0].into_iter().for_each(|x| assert_eq!(kswin.update(x).unwrap(), State::Stable));
    let text = serde_json::to_string(&kswin).unwrap();
    for (from, to) in [
        ("[1.0,2.0,3.0]", "[1.0,2.0]"),
        ("[1.0,2.0,3.0]", "[1.0,2.0,3.0,4.0,5.0]"),
        ("[1.0,2.0,3.0]", "[1.0,2.0,1e200]"),
        (r#""window_rows":4"#, r#""window_rows":3"#),
    ] {
        assert!(text.contains(from), "{text}");
        assert!(serde_json::from_str::<Kswin>(&text.replace(from, to)).is_err(), "{from} {to}");
    }
    let text = serde_json::to_string(&Rddm::builder().build().unwrap()).unwrap();
    assert!(serde_json::from_str::<Rddm>(&text.replace(r#""capacity":7000"#, r#""capacity":9000"#)).is_err());
}

/// Rows until the first alarm, at most `most`.
fn run_length(mut detector: EDetector, rng: &mut SplitMix, most: u64, row: impl Fn(&mut SplitMix) -> f64) -> u64 {
    while detector.n() < most {
        if detector.update(row(rng)).unwrap() == State::Change {
            break;
        }
    }
    detector.n()
}

#[test]
fn runs_of_the_e_detector_are_as_long_as_promised() {
    // Runs are cut at ten times the promise, which can only make them shorter. Their standard deviation is about their
    // mean, so the mean of 10,000 is under 0.95 of a true one but once in a million; where the mean is the bound itself,
    // Shiryaev–Roberts runs are hardly longer than promised.
    let (promise, runs) = (200.0, 10_000);
    let mut shortest = f64::INFINITY;
    for (mean, direction) in [
        (0.05, Direction::Up),
        (0.5, Direction::Up),
        (0.9, Direction::Up),
        (0.5, Direction::Down),
        (0.2, Direction::Both),
    ] {
        for style in [EStyle::ShiryaevRoberts, EStyle::Cusum] {
            let fresh =
                EDetector::builder(mean).alpha(1.0 / promise).direction(direction).style(style).build().unwrap();
            let mut rng = SplitMix(11);
            let total: u64 = (0..runs)
                .map(|_| run_length(fresh.clone(), &mut rng, 2_000, |rng| f64::from(u8::from(rng.chance(mean)))))
                .sum();
            let average = total as f64 / f64::from(runs);
            println!("{mean} {direction:?} {style:?}: {average}");
            assert!(average >= promise * 0.95, "{mean} {direction:?} {style:?}: {average}");
            shortest = shortest.min(average);
        }
    }
    // A promise that is kept by far too much is no detector.
    assert!(shortest < 1.1 * promise, "{shortest}");
}

#[test]
fn the_e_detector_keeps_its_promise_for_rows_that_depend_on_each_other() {
    // Bursts of errors after each other, with a conditional mean of at most 0.3 throughout.
    let (promise, runs) = (200.0, 1_000);
    let mut rng = SplitMix(12);
    let fresh = EDetector::builder(0.3).alpha(1.0 / promise).build().unwrap();
    let total: u64 = (0..runs)
        .map(|_| {
            let mut detector = fresh.clone();
            let mut calm = false;
            while detector.n() < 2_000 {
                calm = if rng.chance(0.05) { !calm } else { calm };
                let x = if calm { 0.3 * rng.uniform() } else { f64::from(u8::from(rng.chance(0.3))) };
                if detector.update(x).unwrap() == State::Change {
                    break;
                }
            }
            detector.n()
        })
        .sum();
    let average = total as f64 / f64::from(runs);
    assert!(average >= promise * 1.16, "{average}");
}

#[test]
fn control_charts_run_as_long_as_the_tables_say() {
    // Published mean runs between false alarms for independent normal rows: 465 (CUSUM, Montgomery 2009), 92
    // (Shewhart with all rules) and 370 (the first alone; Champ and Woodall 1987). 4,000 runs give them within
    // 5 standard errors = 8 %.
    let normal =
        |rng: &mut SplitMix| (-2.0 * (1.0 - rng.uniform()).ln()).sqrt() * (std::f64::consts::TAU * rng.uniform()).cos();
    for (name, mut detector, wanted) in [
        ("cusum", Detector::from(Cusum::builder().in_control(0.0, 1.0).build().unwrap()), 465.0),
        ("shewhart", Shewhart::builder().in_control(0.0, 1.0).build().unwrap().into(), 91.75),
        (
            "shewhart, first rule",
            Shewhart::builder().in_control(0.0, 1.0).rules([WesternElectric::BeyondThree]).build().unwrap().into(),
            370.4,
        ),
    ] {
        let mut rng = SplitMix(5);
        let mut runs = 0;
        while runs < 4_000 {
            runs += u64::from(detector.update(normal(&mut rng)).unwrap() == State::Change);
        }
        let average = detector.n() as f64 / runs as f64;
        assert!((average / wanted - 1.0).abs() < 0.08, "{name}: {average}, want {wanted}");
    }
}

#[test]
fn learnt_baselines_and_constant_ones_work() {
    let mut rng = SplitMix(1);
    let mut chart = Ewma::builder().baseline_rows(500).build().unwrap();
    for _ in 0..500 {
        assert_eq!(chart.update(3.0 + rng.uniform()).unwrap(), State::Stable);
    }
    let (mean, deviation) = chart.in_control().unwrap();
    assert!((mean - 3.5).abs() < 0.05 && (deviation - 1.0 / 12.0_f64.sqrt()).abs() < 0.02, "{mean} {deviation}");

    let mut constant = Cusum::builder().baseline_rows(10).build().unwrap();
    for _ in 0..1_000 {
        assert_eq!(constant.update(0.7).unwrap(), State::Stable);
    }
    assert_eq!(constant.update(0.700_001).unwrap(), State::Change);
    assert_eq!(constant.changed_at(), Some(1_000));
}

#[test]
fn a_head_start_finds_a_stream_that_is_off_from_the_start() {
    let rows_to_alarm = |share: f64| {
        let mut chart = Cusum::builder().in_control(0.0, 1.0).head_start(share).build().unwrap();
        while chart.update(1.0).unwrap() != State::Change {}
        chart.n()
    };
    assert_eq!((rows_to_alarm(0.0), rows_to_alarm(0.5)), (11, 6));
}

#[test]
fn a_detector_of_a_configuration_is_the_one_built() {
    let mut by_config = serde_json::from_str::<DetectorConfig>(r#"{"method":"adwin","delta":0.05,"clock":1}"#)
        .unwrap()
        .build()
        .unwrap();
    let mut built = Detector::from(Adwin::builder().delta(0.05).clock(1).build().unwrap());
    for x in stream(4, "bernoulli", &[(500, 0.2), (500, 0.7)]) {
        assert_eq!(by_config.update(x).unwrap(), built.update(x).unwrap());
    }
    assert_eq!(by_config, built);
    for method in METHODS {
        assert!(all_detectors().iter().any(|detector| detector.name() == method), "{method}");
    }
}

//! The monitor as a whole: windows, drift, labels, alerts, restarts.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, Float64Array, Int32Array, RecordBatch, StringArray};
use chrono::TimeDelta;
use mlops_core::inference::InferenceRecord;
use mlops_core::{PredictionId, Timestamp, Verdict};
use mlops_monitor::alert::{Alert, AlertSink, Alerter, FanOut, LogSink, MemorySink, Severity};
use mlops_monitor::change::Adwin;
use mlops_monitor::trigger::{Decision, RetrainTrigger};
use mlops_monitor::watch::ErrorDetector;
use mlops_monitor::{DriftPolicy, Error, LabelJoiner, LabelOutcome, Monitor, ReferenceProfile, Result};
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const DAY: Duration = Duration::from_secs(86_400);
const FEATURES: [&str; 3] = ["price", "demand", "transfer"];

fn start() -> Timestamp {
    "1997-01-06T00:00:00Z".parse().unwrap() // a Monday
}

fn hours(n: i64) -> Timestamp {
    start() + TimeDelta::hours(n)
}

fn id(n: u64) -> PredictionId {
    PredictionId::derived(start(), &n.to_le_bytes())
}

fn floats<const N: usize>(names: [&str; N], rows: &[[f64; N]]) -> RecordBatch {
    RecordBatch::try_from_iter(names.into_iter().enumerate().map(|(i, name)| {
        let column: ArrayRef = Arc::new(rows.iter().map(|row| Some(row[i])).collect::<Float64Array>());
        (name, column)
    }))
    .unwrap()
}

fn record(version: u64, at: Timestamp, ids: &[u64], features: &[[f64; 3]], scores: &[f64]) -> InferenceRecord {
    let scores: Vec<[f64; 1]> = scores.iter().map(|score| [*score]).collect();
    InferenceRecord {
        ids: ids.iter().map(|n| id(*n)).collect(),
        at,
        deployment: "prices".into(),
        model: "elec2".into(),
        version,
        arm: "champion".into(),
        key: "k".into(),
        latency: Duration::from_micros(50),
        inputs: floats(FEATURES, features),
        outputs: floats(["prob"], &scores),
    }
}

fn row(rng: &mut StdRng) -> [f64; 3] {
    [rng.random_range(0.0..1.0), rng.random_range(0.0_f64..1.0).powi(2), rng.random_range(-1.0..1.0)]
}

fn profile(seed: u64) -> ReferenceProfile {
    let mut rng = StdRng::seed_from_u64(seed);
    let rows: Vec<[f64; 3]> = (0..8_000).map(|_| row(&mut rng)).collect();
    let scores: Vec<[f64; 1]> = rows.iter().map(|row| [row[0]]).collect();
    ReferenceProfile::fit(&floats(FEATURES, &rows), &floats(["prob"], &scores)).unwrap()
}

fn monitor() -> Monitor {
    Monitor::builder("elec2", profile(1)).labels(LabelJoiner::builder().horizon(10 * DAY)).build().unwrap()
}

/// Half-hourly rows of `weeks` weeks with labels a day late; `change` bends a row and says whether the answer is wrong.
fn replay(
    monitor: &mut Monitor,
    seed: u64,
    weeks: u64,
    mut change: impl FnMut(u64, &mut [f64; 3], bool) -> bool,
) -> Vec<Alert> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut labels = std::collections::VecDeque::new();
    let mut alerts = Vec::new();
    for n in 0..weeks * 336 {
        let at = start() + TimeDelta::minutes(30 * n as i64);
        let mut features = row(&mut rng);
        let wrong = change(n, &mut features, rng.random_bool(0.2));
        let score: f64 = rng.random_range(0.0..1.0);
        monitor.observe(&record(1, at, &[n], &[features], &[score])).unwrap();
        labels.push_back((n, (score >= 0.5) != wrong));
        if labels.len() > 48 {
            let (n, label) = labels.pop_front().unwrap();
            monitor.label(id(n), label, at).unwrap();
        }
        alerts.extend(monitor.advance(at).unwrap());
    }
    alerts
}

/// Bounds asserted over 20 quiet years of 52 weekly windows, four columns (4,160 tests) and 350,000 labels: not one
/// drift alert, and at most 2 alerts of each error detector, which promise no more than to be rare.
#[test]
fn quiet_years_raise_no_drift_alert_and_hardly_any_other() {
    let mut by_rule = std::collections::BTreeMap::<String, u32>::new();
    for seed in 0..20 {
        let mut monitor = Monitor::builder("elec2", profile(seed)).build().unwrap();
        for alert in replay(&mut monitor, 1_000 + seed, 52, |_, _, wrong| wrong) {
            *by_rule.entry(alert.rule).or_default() += 1;
        }
        assert_eq!(monitor.reports().len(), 51);
    }
    assert!(by_rule.iter().all(|(rule, n)| rule.starts_with("error_rate.") && *n <= 2), "{by_rule:?}");
}

#[test]
fn drift_in_one_feature_is_named_with_its_evidence() {
    let mut monitor = monitor();
    let alerts = replay(&mut monitor, 7, 7, |n, row, wrong| {
        row[1] += if n >= 4 * 336 { 0.3 } else { 0.0 };
        wrong
    });
    let drift: Vec<&Alert> = alerts.iter().filter(|alert| alert.rule == "data_drift").collect();
    assert_eq!(drift.len(), 2, "{alerts:#?}");
    assert_eq!((drift[0].severity, &*drift[0].subject), (Severity::Warning, "elec2"));
    assert_eq!(drift[0].at, start() + TimeDelta::weeks(5));
    assert!(drift[0].summary.starts_with("1 of 3 features drifted from 3 Feb 1997 to 10 Feb 1997: demand (psi "));
    assert_eq!((drift[0].evidence.len(), &*drift[0].evidence[0].check), (1, "drift.demand"));
    let report = monitor.reports().nth(4).unwrap();
    assert_eq!(report.drifted()[0].column, "demand");
    assert_eq!(report.prediction.verdict, Verdict::Pass);
    assert_eq!(report.rows, 336);
}

#[test]
fn many_drifted_features_are_critical_and_consecutive_windows_are_waited_for() {
    let policy = DriftPolicy::default().consecutive(2);
    let mut monitor = Monitor::builder("elec2", profile(1)).policy(policy).build().unwrap();
    let alerts = replay(&mut monitor, 7, 5, |n, row, wrong| {
        if n >= 2 * 336 {
            *row = [row[0] * 0.4, row[1] * 0.4, row[2]];
        }
        wrong
    });
    let drift: Vec<&Alert> = alerts.iter().filter(|alert| alert.rule == "data_drift").collect();
    assert_eq!(drift[0].at, start() + TimeDelta::weeks(4), "the second drifted window, not the first");
    assert_eq!(drift[0].severity, Severity::Critical);
}

#[test]
fn more_errors_alert_by_each_detector_and_fewer_are_news() {
    let mut monitor = monitor();
    let worse = replay(&mut monitor, 3, 16, |n, _, wrong| wrong || (n >= 8 * 336 && n % 3 == 0));
    for rule in ["error_rate.adwin", "error_rate.ddm", "error_rate.page_hinkley"] {
        let alert = worse.iter().find(|a| a.rule == rule && a.at > start() + TimeDelta::weeks(8));
        let alert = alert.unwrap_or_else(|| panic!("{rule}: {worse:#?}"));
        assert_eq!(alert.severity, Severity::Warning);
        assert!(alert.summary.starts_with("error rate rose from 0."), "{alert}");
    }
    let mut monitor =
        Monitor::builder("elec2", profile(1)).error_detectors([Adwin::builder().build().unwrap()]).build().unwrap();
    let better = replay(&mut monitor, 3, 16, |n, _, wrong| wrong && n < 8 * 336);
    let severities: Vec<Severity> =
        better.iter().filter(|a| a.at > start() + TimeDelta::weeks(8)).map(|a| a.severity).collect();
    assert!(!severities.is_empty() && severities.iter().all(|s| *s == Severity::Info), "{better:#?}");
}

#[test]
fn quality_belongs_to_the_window_of_the_prediction_and_follows_corrections() {
    let mut monitor = monitor();
    let ids: Vec<u64> = (0..10).collect();
    let rows = [[0.5; 3]; 10];
    monitor.observe(&record(1, hours(1), &ids, &rows, &[0.9; 10])).unwrap();
    monitor.advance(hours(7 * 24)).unwrap();
    assert_eq!(monitor.reports().next().unwrap().accuracy(), None);
    for n in 0..10 {
        monitor.label(id(n), n < 6, hours(8 * 24)).unwrap();
    }
    let accuracy = monitor.reports().next().unwrap().accuracy().unwrap();
    assert_eq!((accuracy.value, accuracy.n), (0.6, 10));
    assert!(matches!(monitor.label(id(9), true, hours(9 * 24)).unwrap(), LabelOutcome::Corrected { .. }));
    assert_eq!(monitor.label(id(9), true, hours(9 * 24)).unwrap(), LabelOutcome::Duplicate);
    assert_eq!(monitor.label(id(99), true, hours(9 * 24)).unwrap(), LabelOutcome::Unknown);
    let report = monitor.reports().next().unwrap();
    assert_eq!(report.accuracy().map(|a| (a.value, a.n)), Some((0.7, 10)));
    assert!((report.brier().unwrap().value - (7.0 * 0.01 + 3.0 * 0.81) / 10.0).abs() < 1e-12);
    // Beyond the horizon the numbers stay.
    monitor.advance(hours(30 * 24)).unwrap();
    assert_eq!(monitor.reports().next().unwrap().accuracy().map(|a| (a.value, a.n)), Some((0.7, 10)));
}

#[test]
fn a_correction_after_part_of_the_window_is_forgotten_keeps_that_part() {
    let labels = LabelJoiner::builder().horizon(3 * DAY);
    let mut monitor = Monitor::builder("elec2", profile(1)).labels(labels).build().unwrap();
    for n in 0..6_u64 {
        monitor.observe(&record(1, hours(24 * n as i64), &[n], &[[0.5; 3]], &[0.9])).unwrap();
        monitor.label(id(n), true, hours(24 * n as i64 + 1)).unwrap();
    }
    monitor.advance(hours(24 * 5 + 2)).unwrap(); // forgets days 0, 1 and 2
    monitor.label(id(5), false, hours(24 * 5 + 3)).unwrap();
    monitor.advance(hours(24 * 7)).unwrap();
    let report = monitor.reports().next().unwrap();
    assert_eq!(report.accuracy().map(|a| (a.n, report.performance().correct())), Some((6, 5)));
}

#[test]
fn accuracy_below_the_floor_is_critical_once_a_window() {
    let mut monitor = Monitor::builder("elec2", profile(1)).accuracy_floor(0.7).error_detectors::<ErrorDetector>([]);
    monitor = monitor.threshold(0.5);
    let mut monitor = monitor.build().unwrap();
    let alerts = replay(&mut monitor, 5, 4, |n, _, wrong| if n / 336 == 1 { n % 2 == 0 } else { wrong });
    assert_eq!(alerts.len(), 1, "{alerts:#?}");
    assert_eq!((&*alerts[0].rule, alerts[0].severity), ("accuracy", Severity::Critical));
    assert!(alerts[0].summary.starts_with("accuracy from 13 Jan 1997 to 20 Jan 1997 is 0."), "{}", alerts[0]);
}

/// 600 windows of 200 labels, right as often as the floor asks for, looked at label by label: one in 1,000 may alert
/// (asserted: at most 4, which chance exceeds once in 2,000 runs). One at 0.75 is found in nearly every window.
#[test]
fn accuracy_at_the_floor_hardly_ever_alerts_and_a_drop_does() {
    let alerts = |right: f64, windows: i64, seed: u64| {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut monitor = Monitor::builder("elec2", profile(1)).window(Duration::from_secs(3_600)).accuracy_floor(0.9);
        monitor = monitor.error_detectors::<ErrorDetector>([]).labels(LabelJoiner::builder().horizon(DAY));
        monitor = monitor.policy(DriftPolicy::default().min_rows(1_000)).sample_rows(10);
        let mut monitor = monitor.keep_reports(3).build().unwrap();
        let mut alerts = Vec::new();
        for window in 0..windows {
            let ids: Vec<u64> = (0..200).map(|n| window as u64 * 200 + n).collect();
            monitor.observe(&record(1, hours(window), &ids, &[[0.5; 3]; 200], &[0.9; 200])).unwrap();
            for n in ids {
                monitor.label(id(n), rng.random_bool(right), hours(window + 1)).unwrap();
                alerts.extend(monitor.advance(hours(window + 1)).unwrap());
            }
        }
        alerts
    };
    let at_floor = alerts(0.9, 600, 1).len();
    assert!(at_floor <= 4, "{at_floor}");
    assert_eq!(alerts(0.95, 100, 2).len(), 0);
    let found = alerts(0.75, 60, 3);
    assert!((57..=60).contains(&found.len()), "{}", found.len());
    assert!(found.iter().all(|alert| alert.severity == Severity::Critical));
}

#[tokio::test]
async fn alerts_name_the_version_so_that_monitors_of_two_do_not_silence_each_other() {
    let alerts = |version: u64| {
        let mut monitor = Monitor::builder("elec2", profile(1)).version(version).accuracy_floor(0.9).build().unwrap();
        let rows = [[9.0; 3]; 200];
        monitor.observe(&record(version, hours(1), &(0..200).collect::<Vec<_>>(), &rows, &[0.9; 200])).unwrap();
        for n in 0..200 {
            monitor.label(id(n), n < 100, hours(2)).unwrap();
        }
        monitor.reset_for(7, profile(1), hours(3)).unwrap(); // alerts are about what they were raised for
        monitor.advance(hours(4)).unwrap()
    };
    let (champion, canary) = (alerts(3), alerts(4));
    for rule in ["data_drift", "prediction_drift", "accuracy", "error_rate.adwin"] {
        assert!(champion.iter().any(|alert| alert.rule == rule && alert.subject == "elec2 v3"), "{rule}");
    }
    assert!(canary.iter().all(|alert| alert.subject == "elec2 v4" && champion.iter().all(|c| c.id != alert.id)));
    let (sink, mut alerter) = (MemorySink::default(), Alerter::builder().build().unwrap());
    for monitor in [champion, canary] {
        assert!(alerter.raise(monitor[0].clone(), &sink).await.unwrap());
    }
}

#[test]
fn an_accuracy_alert_has_the_time_of_its_label_however_rarely_the_time_is_told() {
    let run = |often: i64| {
        let monitor = Monitor::builder("elec2", profile(1)).accuracy_floor(0.9);
        let mut monitor = monitor.error_detectors::<ErrorDetector>([]).build().unwrap();
        monitor.observe(&record(1, hours(1), &(0..40).collect::<Vec<_>>(), &[[0.5; 3]; 40], &[0.9; 40])).unwrap();
        let mut alerts = Vec::new();
        for n in 0..40 {
            monitor.label(id(n), false, hours(160 + n as i64)).unwrap();
            if n as i64 % often == often - 1 {
                alerts.extend(monitor.advance(hours(160 + n as i64)).unwrap());
            }
        }
        alerts
    };
    let (each, once) = (run(1), run(40));
    assert_eq!((each.len(), &each), (1, &once));
    assert!(each[0].at < hours(170), "{}", each[0]);
    let interval = each[0].evidence[0].measurements[0].interval;
    assert!(interval.is_some(), "{:?}", each[0].evidence);
}

#[test]
fn shadows_other_models_other_versions_and_repeats_are_left_out() {
    let mut monitor = Monitor::builder("elec2", profile(1)).version(1).build().unwrap();
    let one = |n: u64| record(1, hours(1), &[n], &[[0.5; 3]], &[0.9]);
    monitor.observe(&one(1)).unwrap();
    monitor.observe(&one(1)).unwrap();
    monitor.observe(&InferenceRecord { arm: "shadow".into(), ..one(2) }).unwrap();
    monitor.observe(&InferenceRecord { model: "other".into(), ..one(3) }).unwrap();
    monitor.observe(&InferenceRecord { version: 2, arm: "canary".into(), ..one(4) }).unwrap();
    let stats = monitor.stats();
    assert_eq!((stats.rows, stats.repeated, stats.ignored, stats.other_version), (1, 1, 2, 1));
    assert!(matches!(monitor.label(id(4), false, hours(2)).unwrap(), LabelOutcome::Joined(_)));
    assert_eq!(monitor.error_detectors()[0].as_detector().n(), 0, "a canary's error is not the champion's");
    monitor.advance(hours(7 * 24)).unwrap();
    assert_eq!(monitor.reports().next().unwrap().accuracy(), None);
}

#[test]
fn another_version_may_have_other_columns() {
    let mut monitor = Monitor::builder("elec2", profile(1)).version(1).build().unwrap();
    let canary = record(2, hours(1), &[1], &[[0.5; 3]], &[0.9]);
    monitor.observe(&InferenceRecord { inputs: floats(["price"], &[[0.5]]), ..canary.clone() }).unwrap();
    assert!(matches!(monitor.label(id(1), true, hours(2)).unwrap(), LabelOutcome::Joined(_)));
    let renamed = InferenceRecord { ids: vec![id(2)], outputs: floats(["p"], &[[0.5]]), ..canary };
    monitor.observe(&renamed).unwrap();
    assert_eq!(monitor.label(id(2), true, hours(2)).unwrap(), LabelOutcome::Unknown);
    let stats = monitor.stats();
    assert_eq!((stats.rows, stats.other_version, stats.without_score), (0, 2, 1));
}

#[test]
fn a_record_read_again_counts_once_whatever_its_scores() {
    let mut monitor = Monitor::builder("elec2", profile(1)).sample_rows(2).build().unwrap();
    let scores = [0.9, f64::NAN, 1.5, f64::INFINITY];
    let again = record(1, hours(1), &[1, 2, 3, 4], &[[0.5; 3]; 4], &scores);
    monitor.observe(&again).unwrap();
    let mut restored: Monitor = serde_json::from_str(&serde_json::to_string(&monitor).unwrap()).unwrap();
    for monitor in [&mut monitor, &mut restored] {
        monitor.observe(&again).unwrap();
        assert_eq!((monitor.stats().rows, monitor.stats().repeated, monitor.stats().without_score), (4, 4, 3));
        assert_eq!((monitor.label_stats().predicted, monitor.label_stats().pending), (1, 1));
        assert_eq!(monitor.label(id(3), true, hours(2)).unwrap(), LabelOutcome::Unknown);
        monitor.advance(hours(60 * 24)).unwrap();
        assert_eq!((monitor.label_stats().expired, monitor.label_watermark()), (1, None));
        assert_eq!(monitor.reports().next().unwrap().rows, 4);
    }
    assert_eq!(serde_json::to_string(&monitor).unwrap(), serde_json::to_string(&restored).unwrap());
}

#[test]
fn a_row_seen_again_after_the_joiner_forgot_it_pushes_no_other_out_of_the_sample() {
    let labels = LabelJoiner::builder().capacity(1);
    let mut monitor = Monitor::builder("elec2", profile(1)).sample_rows(2).labels(labels).build().unwrap();
    for n in [1, 2, 1, 2, 1] {
        monitor.observe(&record(1, hours(1), &[n], &[[0.5; 3]], &[0.9])).unwrap();
    }
    monitor.advance(hours(7 * 24)).unwrap();
    assert_eq!(monitor.reports().next().unwrap().features[0].distance.n_live, 2);
}

#[test]
fn late_rows_miss_their_window_but_their_labels_count() {
    let lateness = Duration::from_secs(3_600);
    let mut monitor = Monitor::builder("elec2", profile(1)).lateness(lateness).build().unwrap();
    monitor.observe(&record(1, hours(1), &[1], &[[0.5; 3]], &[0.9])).unwrap();
    monitor.advance(hours(7 * 24)).unwrap();
    monitor.observe(&record(1, hours(2), &[2], &[[0.5; 3]], &[0.9])).unwrap();
    assert_eq!((monitor.stats().rows, monitor.reports().len()), (2, 0), "within the allowed lateness");
    monitor.advance(hours(7 * 24 + 1)).unwrap();
    monitor.observe(&record(1, hours(3), &[3], &[[0.5; 3]], &[0.9])).unwrap();
    monitor.label(id(3), true, hours(7 * 24 + 2)).unwrap();
    let report = monitor.reports().next().unwrap();
    assert_eq!((monitor.stats().late, report.rows, report.performance().n()), (1, 2, 1));
}

#[test]
fn a_new_version_starts_afresh_and_the_old_ones_labels_stay_its_own() {
    let mut monitor = Monitor::builder("elec2", profile(1)).version(1).build().unwrap();
    monitor.observe(&record(1, hours(1), &[1, 2], &[[0.5; 3]; 2], &[0.9; 2])).unwrap();
    monitor.label(id(1), true, hours(2)).unwrap();
    assert_eq!(monitor.error_detectors()[0].as_detector().n(), 1);

    monitor.reset_for(2, profile(2), hours(30)).unwrap();
    monitor.observe(&record(2, hours(31), &[3], &[[0.5; 3]], &[0.9])).unwrap();
    monitor.observe(&record(1, hours(32), &[4], &[[0.5; 3]], &[0.9])).unwrap();
    monitor.label(id(2), false, hours(33)).unwrap();
    assert_eq!(monitor.error_detectors()[0].as_detector().n(), 0);
    monitor.label(id(3), true, hours(34)).unwrap();
    assert_eq!(monitor.error_detectors()[0].as_detector().n(), 1);
    monitor.advance(hours(7 * 24)).unwrap();

    let reports: Vec<_> = monitor.reports().collect();
    assert_eq!(reports.len(), 2);
    assert_eq!((reports[0].version, reports[0].until, reports[0].rows), (Some(1), hours(30), 2));
    assert_eq!((reports[1].version, reports[1].from, reports[1].until), (Some(2), hours(30), hours(168)));
    assert_eq!((reports[0].performance().n(), reports[0].performance().correct()), (2, 1));
    assert_eq!((reports[1].performance().n(), reports[1].rows), (1, 1));
}

#[test]
fn a_new_version_is_watched_from_a_window_start_and_past_a_row_from_the_future() {
    let week = 7 * 24;
    let takes_over = |stray: i64| {
        let mut monitor = Monitor::builder("elec2", profile(1)).version(1).build().unwrap();
        monitor.observe(&record(1, hours(1), &[1], &[[0.5; 3]], &[0.9])).unwrap();
        monitor.observe(&record(1, hours(stray), &[2], &[[0.5; 3]], &[0.9])).unwrap();
        monitor.reset_for(2, profile(2), hours(week)).unwrap();
        monitor.observe(&record(2, hours(week), &[3], &[[0.5; 3]], &[0.9])).unwrap();
        monitor.observe(&record(2, hours(2 * week - 1), &[4], &[[0.5; 3]], &[0.9])).unwrap();
        for n in 2..5 {
            monitor.label(id(n), true, hours(2 * week)).unwrap();
        }
        let restored: Monitor = serde_json::from_str(&serde_json::to_string(&monitor).unwrap()).unwrap();
        assert_eq!(restored, monitor);
        monitor.advance(hours(2 * week)).unwrap();
        let stats = monitor.stats();
        assert_eq!((stats.rows, stats.late, stats.other_version), (3, 0, 1), "{stats:?}");
        let seen = |r: &mlops_monitor::WindowReport| (r.version, r.from, r.until, r.rows, r.performance().n());
        let reports: Vec<_> = monitor.reports().map(seen).collect();
        let new = (Some(2), hours(week), hours(2 * week), 2, 2);
        assert_eq!(reports, [(Some(1), hours(0), hours(week), 1, 0), new]);
    };
    takes_over(week); // the old version's answer at the very time
    takes_over(week + 30);
    takes_over(200 * 365 * 24);
}

#[test]
fn a_killed_monitor_goes_on_as_if_nothing_had_happened() {
    let drifting = |n: u64, row: &mut [f64; 3], wrong: bool| {
        row[0] += if n > 900 { 0.5 } else { 0.0 };
        row[2] = if n.is_multiple_of(17) { f64::NAN } else { row[2] };
        wrong || (n > 1_200 && n.is_multiple_of(2))
    };
    let mut whole = monitor();
    let expected = replay(&mut whole, 9, 6, drifting);
    assert!(expected.len() > 3);

    let mut restarted = monitor();
    let mut rng = StdRng::seed_from_u64(9);
    let mut labels = std::collections::VecDeque::new();
    let mut alerts = Vec::new();
    for n in 0..6 * 336 {
        let at = start() + TimeDelta::minutes(30 * n as i64);
        let mut features = row(&mut rng);
        let wrong = drifting(n, &mut features, rng.random_bool(0.2));
        let score: f64 = rng.random_range(0.0..1.0);
        restarted.observe(&record(1, at, &[n], &[features], &[score])).unwrap();
        labels.push_back((n, (score >= 0.5) != wrong));
        if labels.len() > 48 {
            let (n, label) = labels.pop_front().unwrap();
            restarted.label(id(n), label, at).unwrap();
        }
        if n % 97 == 0 {
            let stored = serde_json::to_string(&restarted).unwrap();
            restarted = serde_json::from_str(&stored).unwrap();
        }
        alerts.extend(restarted.advance(at).unwrap());
    }
    assert_eq!(alerts, expected);
    assert_eq!(serde_json::to_string(&restarted).unwrap(), serde_json::to_string(&whole).unwrap());
}

#[test]
fn missing_values_are_counted_and_a_score_that_is_none_is_not_judged() {
    let mut monitor = monitor();
    let rows: Vec<[f64; 3]> = (0..200).map(|n| [f64::from(n) / 200.0, f64::NAN, f64::from(n % 2)]).collect();
    let scores: Vec<f64> = (0..200).map(|n| if n % 4 == 0 { f64::NAN } else { 0.5 }).collect();
    monitor.observe(&record(1, hours(1), &(0..200).collect::<Vec<_>>(), &rows, &scores)).unwrap();
    assert_eq!(monitor.label(id(0), true, hours(2)).unwrap(), LabelOutcome::Unknown);
    monitor.advance(hours(7 * 24)).unwrap();
    let report = monitor.reports().next().unwrap();
    let demand = &report.features[1];
    assert_eq!((demand.psi.skipped_live, demand.psi.n_live, demand.distance.skipped_live), (200, 0, 200));
    assert_eq!(demand.verdict, Verdict::Inconclusive);
    assert_eq!((report.prediction.psi.skipped_live, monitor.stats().without_score), (50, 50));
}

#[test]
fn a_column_that_goes_missing_raises_an_alert_unless_the_rule_is_off() {
    let run = |policy: DriftPolicy, every: u64, kill: bool| {
        let mut monitor = Monitor::builder("elec2", profile(1)).policy(policy).build().unwrap();
        let mut alerts = Vec::new();
        for week in 0..3 {
            let rng = &mut StdRng::seed_from_u64(week);
            let rows = (0..400).map(|n| {
                let [a, b, c] = row(rng);
                [a, if week > 0 && n % every == 0 { f64::NAN } else { b }, c]
            });
            let rows: Vec<[f64; 3]> = rows.collect();
            let scores: Vec<f64> = rows.iter().map(|row| row[0]).collect();
            let ids: Vec<u64> = (0..400).map(|n| week * 400 + n).collect();
            monitor.observe(&record(1, hours(168 * week as i64), &ids, &rows, &scores)).unwrap();
            if kill {
                monitor = serde_json::from_str(&serde_json::to_string(&monitor).unwrap()).unwrap();
            }
            alerts.extend(monitor.advance(hours(168 * (week as i64 + 1))).unwrap());
        }
        alerts
    };
    let all = run(DriftPolicy::default(), 1, false);
    assert_eq!((all.len(), &*all[0].rule, all[0].severity), (2, "missing_values", Severity::Warning), "{all:#?}");
    let wanted = "values are missing from 13 Jan 1997 to 20 Jan 1997: demand (100 % of rows, 0 % in training)";
    assert_eq!((&*all[0].summary, all[0].at), (wanted, hours(2 * 168)));
    assert_eq!(&*all[0].evidence[0].check, "missing.demand");
    assert_eq!(run(DriftPolicy::default(), 5, false).len(), 2); // 20 %
    assert_eq!(run(DriftPolicy::default(), 9, false).len(), 0); // 11 %: not shown to be above 10
    assert_eq!(run(DriftPolicy::default().missing_at(0.3), 5, false).len(), 0);
    assert_eq!(run(DriftPolicy::default().missing_at(None), 1, false).len(), 0);
    let twice = DriftPolicy::default().consecutive(2);
    assert_eq!(run(twice.clone(), 1, false).len(), 1);
    assert_eq!(run(twice.clone(), 1, true), run(twice, 1, false));
}

#[test]
fn records_that_do_not_fit_are_errors_that_change_nothing() {
    let mut monitor = monitor();
    let good = record(1, hours(1), &[1], &[[0.5; 3]], &[0.9]);
    monitor.observe(&good).unwrap();
    let before = monitor.clone();

    let missing = InferenceRecord { inputs: floats(["price"], &[[0.5]]), ids: vec![id(2)], ..good.clone() };
    assert_eq!(monitor.observe(&missing).unwrap_err().to_string(), "column \"demand\": is missing");
    let text: ArrayRef = Arc::new(StringArray::from(vec!["high"]));
    let columns = FEATURES.map(|name| (name, Arc::clone(&text)));
    let text =
        InferenceRecord { inputs: RecordBatch::try_from_iter(columns).unwrap(), ids: vec![id(3)], ..good.clone() };
    assert_eq!(monitor.observe(&text).unwrap_err().to_string(), "column \"price\": expected numbers, got Utf8");
    let short = InferenceRecord { ids: vec![id(4), id(5)], ..good.clone() };
    assert!(matches!(monitor.observe(&short).unwrap_err(), Error::ShapeMismatch { expected: 2, got: 1, .. }));
    assert!(monitor.label(id(1), 0.5, hours(2)).is_err());
    assert_eq!(monitor, before);

    let mut other = serde_json::to_value(&before).unwrap();
    let more = other["profile"]["outputs"]["columns"][0].clone();
    other["profile"]["inputs"]["columns"].as_array_mut().unwrap().push(more);
    let mut torn: Monitor = serde_json::from_value(other).unwrap();
    assert!(torn.advance(hours(7 * 24)).is_err(), "a state that does not fit its profile is an error, not a panic");
}

#[test]
fn options_out_of_range_are_errors_that_name_them() {
    let builder = || Monitor::builder("elec2", profile(1));
    for (what, built) in [
        ("window", builder().window(Duration::ZERO).build()),
        ("window", builder().window(Duration::MAX).build()),
        ("lateness", builder().lateness(Duration::MAX).build()),
        ("threshold", builder().threshold(f64::NAN).build()),
        ("accuracy_floor", builder().accuracy_floor(1.0).build()),
        ("sample_rows", builder().sample_rows(0).build()),
        ("keep_reports", builder().keep_reports(0).build()),
        ("psi_at", builder().policy(DriftPolicy::default().psi_at(f64::NAN)).build()),
        ("distance_at", builder().policy(DriftPolicy::default().distance_at(1.5)).build()),
        ("missing_at", builder().policy(DriftPolicy::default().missing_at(0.0)).build()),
        ("policy", builder().policy(DriftPolicy::default().distance_at(None).psi_at(None)).build()),
        ("column \"prov\"", builder().score_column("prov").build()),
    ] {
        assert!(built.as_ref().is_err_and(|e| e.to_string().starts_with(what)), "{what}: {built:?}");
    }
}

#[test]
fn columns_of_any_kind_are_watched_and_those_without_values_are_not() {
    let age: ArrayRef = Arc::new(Int32Array::from(vec![Some(30), None, Some(50)]));
    let city: ArrayRef = Arc::new(StringArray::from(vec!["a", "b", "c"]));
    let empty: ArrayRef = Arc::new(Float64Array::from(vec![f64::NAN, f64::NAN, f64::INFINITY]));
    let inputs =
        RecordBatch::try_from_iter_with_nullable([("age", age, true), ("city", city, true), ("empty", empty, true)]);
    let outputs = floats(["prob"], &[[0.1], [0.2], [0.3]]);
    let inputs = inputs.unwrap();
    let profile = ReferenceProfile::fit(&inputs, &outputs).unwrap();
    let age = profile.inputs().column("age").unwrap();
    let numbers = age.numbers().unwrap();
    assert_eq!((age.rows(), age.missing(), numbers.moments().mean()), (3, 1, Some(40.0)));
    assert_eq!(numbers.range(), Some((30.0, 50.0)));
    assert_eq!(profile.inputs().column("empty").unwrap().missing(), 3);
    assert_eq!(ReferenceProfile::from_json(&profile.to_json().unwrap()).unwrap(), profile);
    assert!(ReferenceProfile::from_json(b"{}").is_err());
    let none = floats(["prob"], &[]);
    assert!(ReferenceProfile::fit(&none, &none).is_err());
    assert!(ReferenceProfile::fit(&none, &outputs).is_err());

    let mut monitor = Monitor::builder("elec2", profile).build().unwrap();
    let mut record = record(1, hours(1), &[1, 2, 3], &[[0.0; 3]; 3], &[0.1, 0.2, 0.3]);
    record.inputs = inputs;
    monitor.observe(&record).unwrap();
    monitor.advance(hours(7 * 24)).unwrap();
    let features = &monitor.reports().next().unwrap().features;
    let seen: Vec<_> =
        features.iter().map(|f| (f.column.as_str(), f.distance.method.as_str(), f.rows, f.missing)).collect();
    assert_eq!(seen, [("age", "ks", 3, 1), ("city", "l_infinity", 3, 0)]);
}

/// Rows of a text column alone, with a score.
fn states(first: u64, share_of_vic: f64, missing: bool) -> InferenceRecord {
    let ids: Vec<u64> = (first..first + 1_000).collect();
    let mut record = record(1, hours(1), &ids, &vec![[0.0; 3]; 1_000], &vec![0.25; 1_000]);
    let state = |i: u64| if (i as f64) < 1_000.0 * share_of_vic { "VIC" } else { "NSW" };
    let values = (0..1_000).map(|i| (!missing || i % 2 == 0).then(|| state(i)));
    let state: ArrayRef = Arc::new(StringArray::from_iter(values));
    record.inputs = RecordBatch::try_from_iter_with_nullable([("state", state, true)]).unwrap();
    record
}

#[test]
fn a_shift_of_categories_is_drift_and_a_restart_changes_nothing() {
    let training = states(0, 0.3, false);
    let profile = ReferenceProfile::fit(&training.inputs, &training.outputs).unwrap();
    let policy = DriftPolicy::default().predictions(false);
    let mut monitor = Monitor::builder("elec2", profile).policy(policy).build().unwrap();
    let mut week = |record: &InferenceRecord, end: i64| {
        monitor.observe(record).unwrap();
        monitor = serde_json::from_str(&serde_json::to_string(&monitor).unwrap()).unwrap();
        let rules: Vec<String> = monitor.advance(hours(end)).unwrap().into_iter().map(|alert| alert.rule).collect();
        (rules, monitor.reports().next_back().unwrap().features[0].clone())
    };
    let (alerts, drift) = week(&states(0, 0.3, false), 7 * 24);
    assert_eq!((alerts.len(), drift.verdict, drift.psi.statistic), (0, Verdict::Pass, 0.0));
    let later = |mut record: InferenceRecord, at: i64| {
        record.at = hours(at);
        record
    };
    let (alerts, drift) = week(&later(states(2_000, 0.8, false), 7 * 24 + 1), 14 * 24);
    assert_eq!((alerts, drift.verdict), (vec!["data_drift".to_owned()], Verdict::Fail));
    assert!((drift.distance.effect.value - 0.5).abs() < 1e-12 && drift.distance.method == "l_infinity");
    let (alerts, drift) = week(&later(states(4_000, 0.3, true), 14 * 24 + 1), 21 * 24);
    assert!(alerts.contains(&"missing_values".to_owned()), "{alerts:?}");
    assert_eq!((drift.missing, drift.rows), (500, 1_000));
}

#[test]
fn memory_of_a_window_does_not_grow_with_its_rows() {
    let mut monitor = Monitor::builder("elec2", profile(1))
        .sample_rows(100)
        .labels(LabelJoiner::builder().capacity(100))
        .build()
        .unwrap();
    let mut rng = StdRng::seed_from_u64(1);
    let mut sizes = Vec::new();
    for batch in 0..40_u64 {
        let rows: Vec<[f64; 3]> = (0..250).map(|_| row(&mut rng)).collect();
        let ids: Vec<u64> = (0..250).map(|n| batch * 250 + n).collect();
        monitor.observe(&record(1, hours(1), &ids, &rows, &[0.25; 250])).unwrap();
        sizes.push(serde_json::to_vec(&monitor).unwrap().len());
    }
    assert!(sizes[39] < sizes[3] + 2_000, "{sizes:?}");
    monitor.advance(hours(7 * 24)).unwrap();
    let report = monitor.reports().next().unwrap();
    assert_eq!((report.rows, report.features[0].psi.n_live, report.features[0].distance.n_live), (10_000, 10_000, 100));
    assert_eq!(report.features[0].verdict, Verdict::Pass);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn garbage_never_panics_and_rows_are_all_accounted_for(
        records in prop::collection::vec(
            (any::<i64>(), prop::collection::vec((0..50_u64, any::<f64>(), any::<f64>()), 0..5), 0..3_u64), 0..30),
        labels in prop::collection::vec((0..60_u64, any::<f64>(), any::<i32>()), 0..30),
        advance in prop::collection::vec(any::<i64>(), 0..5),
    ) {
        let mut monitor = Monitor::builder("elec2", profile(1)).version(1).sample_rows(10).build().unwrap();
        let mut rows = 0;
        for (at, values, version) in &records {
            let at = mlops_core::clock::from_micros(*at);
            let ids: Vec<u64> = values.iter().map(|(n, ..)| *n).collect();
            let features: Vec<[f64; 3]> = values.iter().map(|(_, x, _)| [*x, -*x, 0.0]).collect();
            let scores: Vec<f64> = values.iter().map(|(.., score)| *score).collect();
            if monitor.observe(&record(*version, at, &ids, &features, &scores)).is_ok() {
                rows += ids.len() as u64;
            }
        }
        for (n, label, hour) in labels {
            let _ = monitor.label(id(n), label, hours(hour.into()));
            let _ = monitor.label(id(n), label > 0.0, hours(hour.into()));
        }
        for at in advance {
            monitor.advance(mlops_core::clock::from_micros(at)).unwrap();
        }
        let stats = monitor.stats();
        prop_assert_eq!(stats.rows + stats.late + stats.refused + stats.repeated + stats.other_version, rows);
        let stored = serde_json::to_string(&monitor).unwrap();
        let restored: Monitor = serde_json::from_str(&stored).unwrap();
        prop_assert_eq!(serde_json::to_string(&restored).unwrap(), stored);
    }
}

fn alert(hour: i64, severity: Severity, rule: &str, subject: &str) -> Alert {
    Alert::new(hours(hour), severity, rule, subject, format!("at hour {hour}"))
}

#[derive(Debug)]
struct Broken;

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("broken")
    }
}

#[async_trait::async_trait]
impl AlertSink for Broken {
    async fn send(&self, _: &Alert) -> Result<()> {
        Err(Error::sink(self, true, "connection refused"))
    }
}

#[tokio::test]
async fn the_alerter_leaves_out_repeats_but_not_worse_news() {
    let sink = MemorySink::default();
    let mut alerter = Alerter::builder().cool_down(DAY).build().unwrap();
    let cases = [
        (alert(0, Severity::Warning, "data_drift", "a"), true),
        (alert(1, Severity::Warning, "data_drift", "a"), false),
        (alert(1, Severity::Warning, "data_drift", "b"), true),
        (alert(1, Severity::Warning, "accuracy", "a"), true),
        (alert(2, Severity::Critical, "data_drift", "a"), true),
        (alert(3, Severity::Critical, "data_drift", "a"), false),
        (alert(25, Severity::Warning, "data_drift", "a"), false),
        (alert(26, Severity::Warning, "data_drift", "a"), true),
        (alert(26, Severity::Warning, "data_drift", "a"), false),
    ];
    for (i, (alert, wanted)) in cases.into_iter().enumerate() {
        assert_eq!(alerter.raise(alert, &sink).await.unwrap(), wanted, "case {i}");
        let stored = serde_json::to_string(&alerter).unwrap();
        assert_eq!(serde_json::from_str::<Alerter>(&stored).unwrap(), alerter);
    }
    assert_eq!((sink.alerts().len(), alerter.suppressed()), (5, 4));
}

#[tokio::test]
async fn a_failed_delivery_can_be_tried_again_and_harms_no_other_sink() {
    let memory = MemorySink::default();
    let all = FanOut::new([Arc::new(Broken) as Arc<dyn AlertSink>, Arc::new(memory.clone()), Arc::new(LogSink)]);
    assert_eq!(all.to_string(), "broken + memory + log");
    let mut alerter = Alerter::builder().build().unwrap();
    for _ in 0..2 {
        let error = alerter.raise(alert(0, Severity::Warning, "accuracy", "a"), &all).await.unwrap_err();
        assert!(error.is_retryable());
        assert_eq!(error.to_string(), "broken could not deliver the alert");
    }
    assert_eq!((memory.alerts().len(), alerter.suppressed()), (1, 0), "an id counts once");
    assert!(alerter.raise(alert(0, Severity::Warning, "accuracy", "a"), &memory).await.unwrap());
}

#[test]
fn the_trigger_keeps_its_cool_down_and_its_budget() {
    let mut trigger = RetrainTrigger::builder()
        .cool_down(2 * DAY)
        .budget(2, 10 * DAY)
        .min_labelled(100)
        .rules(["error_rate", "accuracy"])
        .build()
        .unwrap();
    let bad = |hour| alert(hour, Severity::Warning, "error_rate.adwin", "elec2");
    let mild = alert(0, Severity::Info, "error_rate.adwin", "elec2");
    assert!(matches!(trigger.consider(&mild, hours(0), 500), Decision::Ignored { .. }));
    let other = alert(0, Severity::Critical, "data_drift", "elec2");
    assert!(matches!(trigger.consider(&other, hours(0), 500), Decision::Ignored { .. }));

    let Decision::Retrain(first) = trigger.consider(&bad(0), hours(0), 500) else { panic!() };
    assert_eq!((first.at, first.alert), (hours(0), bad(0).id));
    assert_eq!(first.reason, "error_rate.adwin: at hour 0");
    let Decision::NotYet { reason, not_before } = trigger.consider(&bad(1), hours(1), 500) else { panic!() };
    assert_eq!((&*reason, not_before), ("cooling down until 1997-01-08 00:00 UTC", Some(hours(48))));
    assert_eq!(trigger.due(hours(47), 500), None);

    let mut trigger: RetrainTrigger = serde_json::from_str(&serde_json::to_string(&trigger).unwrap()).unwrap();
    assert_eq!(trigger.due(hours(48), 99), None);
    assert_eq!(trigger.due(hours(49), 100).map(|request| request.alert), Some(bad(1).id));
    assert!(!trigger.is_pending());
    let Decision::NotYet { reason, not_before } = trigger.consider(&bad(120), hours(120), 500) else { panic!() };
    assert_eq!((&*reason, not_before), ("budget of 2 is used up until 1997-01-16 00:00 UTC", Some(hours(240))));
    assert!(trigger.due(hours(239), 500).is_none() && trigger.due(hours(240), 500).is_some());
    assert!(RetrainTrigger::builder().budget(0, DAY).build().is_err());
}

#[test]
fn several_detectors_that_notice_one_change_start_one_retraining() {
    let mut trigger = RetrainTrigger::builder().cool_down(2 * DAY).build().unwrap();
    let by = |detector: &str, hour| alert(hour, Severity::Warning, detector, "elec2");
    assert!(matches!(trigger.consider(&by("error_rate.adwin", 9), hours(10), 500), Decision::Retrain(_)));
    let late = trigger.consider(&by("error_rate.ddm", 10), hours(11), 500);
    let reason = "noticed before the retraining of 1997-01-06 10:00 UTC".to_owned();
    assert_eq!(late, Decision::Ignored { reason });
    assert!(!trigger.is_pending() && trigger.due(hours(100), 500).is_none());
    assert!(matches!(trigger.consider(&by("error_rate.ddm", 11), hours(11), 500), Decision::NotYet { .. }));
    assert!(trigger.due(hours(100), 500).is_some());
}

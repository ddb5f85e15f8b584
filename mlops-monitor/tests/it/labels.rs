//! Labels that are late, early, repeated, corrected or for nobody.

use std::time::Duration;

use chrono::TimeDelta;
use mlops_core::{PredictionId, Timestamp};
use mlops_monitor::labels::{LabelJoiner, LabelOutcome};
use proptest::prelude::*;

const DAY: Duration = Duration::from_secs(86_400);

fn hour(n: i64) -> Timestamp {
    "1997-01-06T00:00:00Z".parse::<Timestamp>().unwrap() + TimeDelta::hours(n)
}

fn id(n: u64) -> PredictionId {
    PredictionId::derived(hour(0), &n.to_le_bytes())
}

fn joiner() -> LabelJoiner {
    LabelJoiner::builder().horizon(7 * DAY).build().unwrap()
}

#[test]
fn a_late_label_joins_with_its_prediction() {
    let mut joiner = joiner();
    assert!(joiner.predicted_by(3, id(1), hour(0), 0.8).unwrap().new);
    let LabelOutcome::Joined(row) = joiner.label(id(1), true, hour(30)).unwrap() else { panic!() };
    assert_eq!((row.id, row.predicted_at, row.labelled_at), (id(1), hour(0), hour(30)));
    assert_eq!((row.score, row.label, row.version), (0.8, 1.0, Some(3)));
    assert_eq!(row.delay(), Duration::from_secs(30 * 3_600));
    assert_eq!((joiner.stats().labelled, joiner.stats().pending), (1, 0));
}

#[test]
fn repeated_corrected_and_unknown_labels_are_told_apart() {
    let mut joiner = joiner();
    joiner.predicted(id(1), hour(0), 0.8).unwrap();
    assert_eq!(joiner.label(id(2), true, hour(1)).unwrap(), LabelOutcome::Unknown);
    assert!(matches!(joiner.label(id(1), true, hour(1)).unwrap(), LabelOutcome::Joined(_)));
    assert_eq!(joiner.label(id(1), true, hour(2)).unwrap(), LabelOutcome::Duplicate);
    let LabelOutcome::Corrected { row, previous } = joiner.label(id(1), false, hour(3)).unwrap() else { panic!() };
    assert_eq!((row.label, previous, row.labelled_at), (0.0, 1.0, hour(3)));
    let stats = joiner.stats();
    assert_eq!((stats.labelled, stats.corrected, stats.duplicate, stats.unknown), (1, 1, 1, 1));
}

#[test]
fn a_prediction_counts_once_and_keeps_its_first_score() {
    let mut joiner = joiner();
    joiner.predicted(id(1), hour(0), 0.8).unwrap();
    assert!(!joiner.predicted(id(1), hour(5), 0.1).unwrap().new);
    let LabelOutcome::Joined(row) = joiner.label(id(1), true, hour(6)).unwrap() else { panic!() };
    assert_eq!((row.score, row.predicted_at, joiner.stats().repeated), (0.8, hour(0), 1));
}

#[test]
fn what_no_label_reached_within_the_horizon_expires_and_is_counted() {
    let mut joiner = joiner();
    for n in 0..10_u32 {
        joiner.predicted(id(n.into()), hour(i64::from(n)), f64::from(n) / 10.0).unwrap();
    }
    joiner.label(id(2), true, hour(20)).unwrap();
    assert_eq!(joiner.watermark(), Some(hour(0)));
    assert!(joiner.advance(hour(7 * 24)).is_empty(), "the horizon itself is still inside");
    let forgotten = joiner.advance(hour(7 * 24 + 5));
    assert_eq!(forgotten.iter().map(|row| row.predicted_at).collect::<Vec<_>>(), (0..5).map(hour).collect::<Vec<_>>());
    assert_eq!(forgotten[2].label, Some(1.0));
    let stats = joiner.stats();
    assert_eq!((stats.expired, stats.pending, stats.labelled), (4, 5, 1));
    assert_eq!(stats.coverage(), Some(0.2));
    assert_eq!(joiner.watermark(), Some(hour(5)));
    assert_eq!(joiner.label(id(0), true, hour(200)).unwrap(), LabelOutcome::Unknown);
}

#[test]
fn capacity_bounds_memory_and_hands_out_the_oldest() {
    let mut joiner = LabelJoiner::builder().capacity(3).build().unwrap();
    for n in [5_u64, 1, 3] {
        assert_eq!(joiner.predicted(id(n), hour(n as i64), 0.5).unwrap().forgotten, None);
    }
    let forgotten = joiner.predicted(id(7), hour(7), 0.5).unwrap().forgotten.unwrap();
    assert_eq!((forgotten.id, joiner.stats().evicted, joiner.stats().pending), (id(1), 1, 3));
}

#[test]
fn delays_have_exact_ends_and_a_median_within_its_tolerance() {
    let mut joiner = LabelJoiner::builder().build().unwrap();
    for n in 0..1_001_u64 {
        joiner.predicted(id(n), hour(0), 0.5).unwrap();
        joiner.label(id(n), true, hour(0) + TimeDelta::minutes(10 + n as i64)).unwrap();
    }
    let delays = joiner.delays();
    assert_eq!(delays.min(), Some(Duration::from_secs(600)));
    assert_eq!(delays.max(), Some(Duration::from_secs(60 * 1_010)));
    for (q, minutes) in [(0.5, 510.0), (0.1, 110.0), (0.9, 910.0)] {
        let got = delays.quantile(q).unwrap().as_secs_f64() / 60.0;
        assert!((got / minutes - 1.0).abs() < 0.026, "{q}: {got} minutes, wanted {minutes}");
    }
    // A label before its prediction is a matter of clocks, not of time.
    joiner.predicted(id(5_000), hour(9), 0.5).unwrap();
    joiner.label(id(5_000), true, hour(8)).unwrap();
    assert_eq!(joiner.delays().min(), Some(Duration::ZERO));
    assert_eq!(joiner.delays().quantile(f64::NAN), None);
}

#[test]
fn what_is_not_finite_is_refused_and_leaves_no_trace() {
    let mut joiner = joiner();
    joiner.predicted(id(1), hour(0), 0.5).unwrap();
    let before = joiner.clone();
    assert!(joiner.predicted(id(2), hour(0), f64::NAN).is_err());
    let error = joiner.label(id(1), f64::INFINITY, hour(1)).unwrap_err();
    assert_eq!(error.to_string(), "label: must be finite, got inf");
    assert_eq!(joiner, before);
    for builder in [
        LabelJoiner::builder().horizon(Duration::ZERO),
        LabelJoiner::builder().horizon(Duration::MAX),
        LabelJoiner::builder().capacity(0),
    ] {
        assert!(builder.build().is_err());
    }
}

#[derive(Clone, Debug)]
enum Call {
    Predicted(u64, i64, f64),
    Label(u64, f64, i64),
    Advance(i64),
}

fn call() -> impl Strategy<Value = Call> {
    let score = prop_oneof![9 => 0.0..1.0, 1 => Just(f64::NAN)];
    prop_oneof![
        4 => (0..40_u64, 0..400_i64, score).prop_map(|(n, at, score)| Call::Predicted(n, at, score)),
        4 => (0..40_u64, 0..3_u8, 0..400_i64).prop_map(|(n, label, at)| Call::Label(n, label.into(), at)),
        1 => (0..700_i64).prop_map(Call::Advance),
    ]
}

fn play(joiner: &mut LabelJoiner, call: &Call) -> String {
    match *call {
        Call::Predicted(n, at, score) => format!("{:?}", joiner.predicted(id(n), hour(at), score).ok()),
        Call::Label(n, label, at) => format!("{:?}", joiner.label(id(n), label, hour(at)).ok()),
        Call::Advance(at) => format!("{:?}", joiner.advance(hour(at))),
    }
}

proptest! {
    #[test]
    fn counts_add_up_and_a_restart_changes_nothing(
        calls in prop::collection::vec(call(), 0..200),
        cut in 0..200_usize,
    ) {
        let mut whole = LabelJoiner::builder().horizon(7 * DAY).capacity(20).build().unwrap();
        let mut restarted = whole.clone();
        for (i, call) in calls.iter().enumerate() {
            if i == cut {
                let stored = serde_json::to_string(&restarted).unwrap();
                restarted = serde_json::from_str(&stored).unwrap();
            }
            prop_assert_eq!(play(&mut whole, call), play(&mut restarted, call));
            let stats = whole.stats();
            prop_assert_eq!(stats.predicted, stats.pending + stats.labelled + stats.expired + stats.evicted);
        }
        prop_assert_eq!(&whole, &restarted);
    }
}

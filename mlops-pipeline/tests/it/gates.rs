use std::sync::Arc;
use std::time::Duration;

use arrow::array::{
    Array, ArrayRef, DictionaryArray, Float32Array, Float64Array, Int32Array, Int64Array, NullArray, RecordBatch,
    StringArray,
};
use mlops_core::signature::{ColumnSpec, ColumnType, Signature};
use mlops_core::{FnPredictor, Predictor, Verdict};
use mlops_pipeline::Error;
use mlops_pipeline::gate::stats::Paired;
use mlops_pipeline::gate::{
    ChallengerGate, ColumnRules, DataGate, Gate, GateSuite, LatencyGate, Severity, SliceGate, Subject, SuiteReport,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

fn batch<const N: usize>(columns: [(&str, ArrayRef); N]) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable(columns.map(|(name, array)| (name, array, true))).unwrap()
}

fn doubles(values: impl IntoIterator<Item = f64>) -> ArrayRef {
    Arc::new(Float64Array::from_iter_values(values))
}

fn signature() -> Signature {
    let double = |name| ColumnSpec::new(name, ColumnType::Double);
    Signature::new([double("x")], [double("probability")]).unwrap()
}

/// Answers each row by its `x`.
fn model(name: &str, answer: impl Fn(f64) -> f64 + Send + Sync + 'static) -> impl Predictor {
    FnPredictor::new(name, signature(), move |inputs| {
        let x = inputs.column(0).as_any().downcast_ref::<Float64Array>().unwrap();
        Ok(batch([("probability", doubles(x.values().iter().map(|x| answer(*x))))]))
    })
}

/// The label is whether `x > 0`, wrong in a share `noise` of the rows.
fn holdout(rows: usize, noise: f64) -> RecordBatch {
    let mut random = StdRng::seed_from_u64(17);
    let x: Vec<f64> = (0..rows).map(|_| random.random_range(-1.0..1.0)).collect();
    let y = x.iter().map(|x| i64::from((*x > 0.0) != random.random_bool(noise))).collect::<Vec<_>>();
    let day = x.iter().map(|_| format!("day-{}", random.random_range(1..6))).collect::<Vec<_>>();
    batch([("x", doubles(x)), ("label", Arc::new(Int64Array::from(y))), ("day", Arc::new(StringArray::from(day)))])
}

fn good() -> impl Predictor {
    model("good", |x| 1.0 / (1.0 + (-5.0 * x).exp()))
}

/// As a model trained on shuffled labels: its answers have nothing to do with the label.
fn shuffled() -> impl Predictor {
    model("shuffled", |x| (x * 1e6).fract().abs())
}

fn wanted(gate: &impl Gate, subject: &Subject<'_>) -> (Verdict, String) {
    let finding = gate.check(subject).unwrap();
    (finding.verdict, finding.to_string())
}

#[test]
fn a_candidate_trained_on_shuffled_labels_fails() {
    let (rows, good, bad) = (holdout(2_000, 0.1), good(), shuffled());
    let gate = ChallengerGate::builder("probability").margin(0.02).build().unwrap();
    let subject = Subject::new().holdout(&rows, "label").candidate(&bad).champion(Some(&good));
    let (verdict, text) = wanted(&gate, &subject);
    assert_eq!(verdict, Verdict::Fail, "{text}");
    assert!(text.contains("the candidate is not at most 0.02 worse, on 2000 rows"), "{text}");
    let (verdict, text) = wanted(&gate, &subject.champion(None));
    assert_eq!(verdict, Verdict::Inconclusive, "a coin against a floor of one half: {text}");
}

#[test]
fn the_champion_itself_is_not_inferior_and_not_superior() {
    let (rows, good) = (holdout(2_000, 0.1), good());
    let subject = Subject::new().holdout(&rows, "label").candidate(&good).champion(Some(&good));
    let gate = |margin| ChallengerGate::builder("probability").margin(margin).build().unwrap();
    assert_eq!(gate(0.01).check(&subject).unwrap().verdict, Verdict::Pass);
    let (verdict, text) = wanted(&gate(0.0), &subject);
    assert_eq!(verdict, Verdict::Inconclusive);
    assert!(text.contains("wanted > 0;"), "{text}");
    let gain = ChallengerGate::builder("probability").gain(0.05).build().unwrap();
    assert_eq!(gain.check(&subject).unwrap().verdict, Verdict::Fail);
}

#[test]
fn a_better_candidate_shows_the_gain_asked_for() {
    let (rows, good, bad) = (holdout(2_000, 0.1), good(), shuffled());
    let subject = Subject::new().holdout(&rows, "label").candidate(&good).champion(Some(&bad));
    let gain = ChallengerGate::builder("probability").gain(0.3).build().unwrap();
    let finding = gain.check(&subject).unwrap();
    assert_eq!(finding.verdict, Verdict::Pass, "{finding}");
    let names: Vec<&str> = finding.measurements.iter().map(|m| m.name.as_str()).collect();
    assert_eq!(names, ["accuracy_difference", "candidate_accuracy", "champion_accuracy", "mcnemar_p"]);
}

#[test]
fn a_tiny_holdout_is_inconclusive() {
    let (good, bad) = (good(), shuffled());
    let gate = ChallengerGate::builder("probability").margin(0.01).min_rows(10).build().unwrap();
    for (n, words) in [(0, "0 hold-out rows, fewer than the 10 wanted"), (5, "5 hold-out rows"), (12, "cannot tell")] {
        let rows = holdout(n, 0.1);
        let subject = Subject::new().holdout(&rows, "label").candidate(&bad).champion(Some(&good));
        let (verdict, text) = wanted(&gate, &subject.candidate(&good));
        assert_eq!(verdict, Verdict::Inconclusive, "{text}");
        assert!(text.contains(words), "{text}");
    }
}

#[test]
fn the_first_model_must_exceed_the_floor() {
    let (rows, good, bad) = (holdout(2_000, 0.1), good(), shuffled());
    let gate = ChallengerGate::builder("probability").floor(0.8).build().unwrap();
    let subject = Subject::new().holdout(&rows, "label");
    assert_eq!(gate.check(&subject.candidate(&good)).unwrap().verdict, Verdict::Pass);
    assert_eq!(gate.check(&subject.candidate(&bad)).unwrap().verdict, Verdict::Fail);
}

#[test]
fn what_a_candidate_cannot_answer_fails_it_and_what_a_champion_cannot_is_an_error() {
    let (rows, good) = (holdout(200, 0.1), good());
    let gate = ChallengerGate::builder("probability").margin(0.01).build().unwrap();
    let nan = model("nan", |x| if x > 0.9 { f64::NAN } else { 0.5 });
    let raw = model("raw", |x| 3.0 * x);
    for (bad, words) in [(&nan as &dyn Predictor, "not finite"), (&raw, "not a probability")] {
        let subject = Subject::new().holdout(&rows, "label").candidate(bad).champion(Some(&good));
        let (verdict, text) = wanted(&gate, &subject);
        assert_eq!(verdict, Verdict::Fail);
        assert!(text.contains("cannot answer") && text.contains(words), "{text}");
        let error = gate.check(&subject.candidate(&good).champion(Some(bad))).unwrap_err().to_string();
        assert!(error.contains("champion") && error.contains(words), "{error}");
    }
}

#[test]
fn a_question_that_cannot_be_asked_is_an_error_that_names_what_is_wrong() {
    let (rows, good) = (holdout(200, 0.1), good());
    let gate = ChallengerGate::builder("probability").build().unwrap();
    let message = |subject: &Subject<'_>| gate.check(subject).unwrap_err().to_string();
    let subject = Subject::new().candidate(&good);
    assert!(message(&subject).contains("needs hold-out rows") && message(&subject).contains("Subject::holdout"));
    assert!(matches!(gate.check(&Subject::new().holdout(&rows, "label")), Err(Error::MissingPart { .. })));
    assert!(message(&subject.holdout(&rows, "price")).contains(r#"column "price": missing from the hold-out rows"#));
    assert!(message(&subject.holdout(&rows, "x")).contains("labels must be Boolean, 0 or 1"));
    assert!(message(&subject.holdout(&rows, "day")).contains("not Utf8"));
    let without_x = rows.project(&[1, 2]).unwrap();
    assert!(message(&subject.holdout(&without_x, "label")).contains(r#"column "x": missing"#));
    let other = ChallengerGate::builder("score").build().unwrap();
    let error = other.check(&subject.holdout(&rows, "label")).unwrap_err().to_string();
    assert!(error.contains(r#"column "score": missing from the outputs"#), "{error}");
}

#[test]
fn options_out_of_range_are_refused() {
    let challenger = || ChallengerGate::builder("p");
    let slices = || SliceGate::builder("p").values("day");
    let refused = [
        challenger().margin(-0.1).build().err(),
        challenger().gain(1.0).build().err(),
        challenger().gain(f64::NAN).build().err(),
        challenger().confidence(1.0).build().err(),
        challenger().floor(-0.5).build().err(),
        challenger().threshold(2.0).build().err(),
        slices().margin(-0.1).build().err(),
        slices().quantiles("x", 1).build().err(),
        SliceGate::builder("p").build().err(),
        LatencyGate::builder().build().err(),
        LatencyGate::builder().p99(Duration::ZERO).calls(367).build().err(),
        LatencyGate::builder().p99(Duration::ZERO).batch(0).build().err(),
        DataGate::builder().min_rows(0).build().err(),
        DataGate::builder().column(ColumnRules::new("x").range(1.0, 0.0)).build().err(),
        DataGate::builder().column(ColumnRules::new("x").allowed(Vec::<i64>::new())).build().err(),
    ];
    for (i, error) in refused.into_iter().enumerate() {
        assert!(matches!(error, Some(Error::InvalidGate { .. })), "case {i}: {error:?}");
    }
}

/// Draws rows in which the candidate's accuracy is lower by `loss`, and counts how often the gate passes.
fn passes(gate: &ChallengerGate, rows: usize, loss: f64, disagree: f64, rounds: usize) -> usize {
    let mut random = StdRng::seed_from_u64(20_240_601);
    let (only_champion, only_candidate) = ((disagree + loss) / 2.0, (disagree - loss) / 2.0);
    // Both models answer what their column says.
    let double = |name| ColumnSpec::new(name, ColumnType::Double);
    let column_of = |column: &'static str| {
        let signature = Signature::new([double(column)], [double("probability")]).unwrap();
        FnPredictor::new(column, signature, |inputs| Ok(batch([("probability", Arc::clone(inputs.column(0)))])))
    };
    let (candidate, champion) = (column_of("candidate"), column_of("champion"));
    let mut passed = 0;
    for _ in 0..rounds {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..rows {
            let (a, b) = match random.random::<f64>() {
                u if u < only_champion => (0.0, 1.0),
                u if u < only_champion + only_candidate => (1.0, 0.0),
                u if u < only_champion + only_candidate + 0.7 => (1.0, 1.0),
                _ => (0.0, 0.0),
            };
            ours.push(a);
            theirs.push(b);
        }
        let labels = doubles(vec![1.0; rows]);
        let rows = batch([("candidate", doubles(ours)), ("champion", doubles(theirs)), ("label", labels)]);
        let subject = Subject::new().holdout(&rows, "label").candidate(&candidate).champion(Some(&champion));
        passed += usize::from(gate.check(&subject).unwrap().verdict.is_pass());
    }
    passed
}

#[test]
fn a_candidate_worse_by_the_margin_seldom_passes() {
    // With confidence 0.9 the lower limit errs in about 5 % of rounds. Over 2,000 rounds that is 100 ± 10, so that more
    // than 140 would be four standard deviations away.
    for (rows, margin, disagree) in [(100, 0.05, 0.1), (400, 0.02, 0.1), (1_000, 0.0, 0.05), (150, 0.1, 0.25)] {
        let gate = ChallengerGate::builder("probability").margin(margin).confidence(0.9).build().unwrap();
        let passed = passes(&gate, rows, margin, disagree, 2_000);
        assert!(passed <= 140, "{passed} of 2000 with {rows} rows and margin {margin}");
    }
    let gain = ChallengerGate::builder("probability").gain(0.03).confidence(0.9).build().unwrap();
    let passed = passes(&gain, 500, -0.03, 0.1, 2_000);
    assert!(passed <= 140, "{passed} of 2000 at exactly the gain");
}

#[test]
fn an_equal_candidate_mostly_passes_once_there_are_enough_rows() {
    let gate = ChallengerGate::builder("probability").margin(0.03).build().unwrap();
    let passed = passes(&gate, 2_000, 0.0, 0.1, 300);
    assert!(passed >= 290, "{passed} of 300");
}

#[test]
fn a_weak_slice_is_named() {
    let (rows, good) = (holdout(5_000, 0.05), good());
    // Overall only a tenth of the rows is hurt: those with 0.6 < x < 0.8.
    let weak = model("weak", |x| if (0.6..0.8).contains(&x) { 0.1 } else { f64::from(u8::from(x > 0.0)) });
    let gate = SliceGate::builder("probability")
        .by("x", |rows| {
            let x = rows.column_by_name("x").unwrap().as_any().downcast_ref::<Float64Array>().unwrap();
            Ok(x.values().iter().map(|x| format!("{:.0} tenths", (x * 5.0).floor() * 2.0)).collect())
        })
        .values("day")
        .margin(0.05);
    let gate = gate.build().unwrap();
    let subject = Subject::new().holdout(&rows, "label").champion(Some(&good));
    let (verdict, text) = wanted(&gate, &subject.candidate(&weak));
    assert_eq!(verdict, Verdict::Fail, "{text}");
    assert!(text.contains("worst x = 6 tenths"), "{text}");
    let (verdict, text) = wanted(&gate, &subject.candidate(&good));
    assert_eq!(verdict, Verdict::Pass, "{text}");
    let (verdict, text) = wanted(&gate, &subject.candidate(&weak).champion(None));
    assert_eq!(verdict, Verdict::Fail, "{text}");
    assert!(text.contains("not above an accuracy of 0.5, worst x = 6 tenths"), "{text}");
}

#[test]
fn quantile_slices_cover_every_row_once() {
    let good = good();
    let x: Vec<f64> = (0..400).map(|i| f64::from(i % 40) / 40.0).collect();
    let with_nan: Vec<f64> = (0..400).map(|i| if i % 8 == 0 { f64::NAN } else { f64::from(i % 3) }).collect();
    let label = Arc::new(Int64Array::from_iter_values((0..400).map(|i| i64::from(i % 40 > 0))));
    let rows = batch([("x", doubles(x)), ("few", doubles(with_nan)), ("label", label)]);
    let gate =
        |column: &str| SliceGate::builder("probability").quantiles(column, 4).margin(0.5).min_rows(1).build().unwrap();
    let subject = Subject::new().holdout(&rows, "label").candidate(&good).champion(Some(&good));
    for (column, slices) in [("x", 4), ("few", 4)] {
        let finding = gate(column).check(&subject).unwrap();
        assert_eq!(finding.measurements.len(), slices, "{finding}");
        assert_eq!(finding.measurements.iter().map(|m| m.n.unwrap()).sum::<u64>(), 400, "{finding}");
    }
    let sizes = |f: mlops_core::Finding| f.measurements.iter().map(|m| m.n.unwrap()).collect::<Vec<_>>();
    assert_eq!(sizes(gate("x").check(&subject).unwrap()), [100; 4]);
}

#[test]
fn two_slicings_cannot_share_a_name() {
    let (rows, good) = (holdout(500, 0.1), good());
    let by = |rows: &RecordBatch| Ok(vec!["day-1".to_owned(); rows.num_rows()]);
    let gate = SliceGate::builder("probability").values("day").by("day", by).build().unwrap();
    let error = gate.check(&Subject::new().holdout(&rows, "label").candidate(&good)).unwrap_err().to_string();
    assert!(error.contains(r#"both have a slice "day = day-1""#), "{error}");
}

#[test]
fn a_slice_too_small_is_reported_and_does_not_decide() {
    let good = good();
    let rows = holdout(1_000, 0.1);
    let day = (0..1_000).map(|i| if i < 5 { None } else { Some(if i < 15 { "rare" } else { "usual" }) });
    let day: ArrayRef = Arc::new(StringArray::from_iter(day));
    let rows = batch([("x", Arc::clone(rows.column(0))), ("label", Arc::clone(rows.column(1))), ("day", day)]);
    let subject = Subject::new().holdout(&rows, "label").candidate(&good).champion(Some(&good));
    let gate = |least| SliceGate::builder("probability").values("day").margin(0.02).min_rows(least).build().unwrap();
    let (verdict, text) = wanted(&gate(50), &subject);
    assert_eq!(verdict, Verdict::Pass, "{text}");
    assert!(text.contains("; 2 too small to tell (day = null, day = rare)"), "{text}");
    let (verdict, text) = wanted(&gate(990), &subject);
    assert_eq!(verdict, Verdict::Inconclusive, "{text}");
    assert!(text.contains("no slice has the 990 rows wanted"), "{text}");
}

#[test]
fn a_slow_predictor_fails_and_a_quick_one_passes() {
    let rows = holdout(50, 0.1);
    let slow = model("slow", |x| {
        std::thread::sleep(Duration::from_millis(2));
        x.abs()
    });
    let gate = LatencyGate::builder().p50(Duration::from_millis(1)).warm_up(1).calls(100).build().unwrap();
    let finding = gate.check(&Subject::new().data(&rows).candidate(&slow)).unwrap();
    assert_eq!(finding.verdict, Verdict::Fail);
    assert_eq!(finding.summary, "p50 is above the budget of 1ms, on single rows");
    assert!(finding.measurements[0].value >= 2_000.0, "{finding}");
    let quick = LatencyGate::builder().p99(Duration::from_secs(1)).batch(10).build().unwrap();
    let good = good();
    let (verdict, text) = wanted(&quick, &Subject::new().holdout(&rows, "label").candidate(&good));
    assert_eq!(verdict, Verdict::Pass, "{text}");
    assert!(text.contains("on 10 rows at a time"), "{text}");
}

#[test]
fn fewer_rows_than_a_batch_say_nothing_of_its_latency() {
    let (rows, good) = (holdout(50, 0.1), good());
    let gate = |batch| LatencyGate::builder().p50(Duration::from_secs(1)).batch(batch).calls(100).build().unwrap();
    let subject = Subject::new().data(&rows).candidate(&good);
    assert_eq!(gate(50).check(&subject).unwrap().verdict, Verdict::Pass);
    let finding = gate(51).check(&subject).unwrap();
    assert_eq!(finding.verdict, Verdict::Inconclusive);
    assert_eq!(finding.summary, "there are 50 rows, fewer than the batch of 51");
}

#[test]
fn a_percentile_that_its_calls_cannot_place_is_inconclusive() {
    let rows = holdout(1, 0.1);
    // Every other call is slow, so the median lies anywhere from quick to slow.
    let calls = std::sync::atomic::AtomicUsize::new(0);
    let model = model("uneven", move |x| {
        if calls.fetch_add(1, std::sync::atomic::Ordering::Relaxed).is_multiple_of(2) {
            std::thread::sleep(Duration::from_millis(4));
        }
        x
    });
    let gate = LatencyGate::builder().p50(Duration::from_millis(3)).warm_up(0).calls(100).build().unwrap();
    let finding = gate.check(&Subject::new().data(&rows).candidate(&model)).unwrap();
    assert_eq!(finding.verdict, Verdict::Inconclusive, "{finding}");
    assert_eq!(finding.summary, "p50 may be above or within the budget of 3ms, on single rows");
    let (low, high) = finding.measurements[0].interval.unwrap();
    assert!(low < 3_000.0 && high >= 4_000.0, "{finding}");
    assert_eq!(finding.measurements[1].interval, None, "100 calls have no upper limit of p99");
}

#[test]
fn rows_that_break_rules_are_counted_and_the_first_is_named() {
    let rows = batch([
        ("price", doubles([0.1, f64::NAN, 1.5, -2.0])),
        ("day", Arc::new(Int64Array::from(vec![Some(1), None, Some(9), Some(2)]))),
        ("state", Arc::new(StringArray::from(vec!["nsw", "vic", "qld", "vic"]))),
    ]);
    let gate = DataGate::builder()
        .min_rows(10)
        .column(ColumnRules::new("price").of_type(ColumnType::Double).not_null().range(0.0, 1.0))
        .column(ColumnRules::new("day").not_null().allowed([1, 2, 3]))
        .column(ColumnRules::new("state").allowed(["nsw", "vic"]))
        .column(ColumnRules::new("volume"))
        .column(ColumnRules::new("state").of_type(ColumnType::Long))
        .column(ColumnRules::new("state").range(0.0, 1.0));
    let finding = gate.build().unwrap().check(&Subject::new().data(&rows)).unwrap();
    assert_eq!(finding.verdict, Verdict::Fail);
    let wanted = [
        "4 rows, fewer than the 10 wanted",
        r#"column "price": 1 of 4 rows not finite, first at row 1 (NaN)"#,
        r#"column "price": 2 of 4 rows outside [0, 1], first at row 2 (1.5)"#,
        r#"column "day": 1 of 4 rows null, first at row 1 (null)"#,
        r#"column "day": 1 of 4 rows not an allowed value, first at row 2 (9)"#,
        "and 4 more",
    ];
    assert_eq!(finding.summary, wanted.join("; "));
    let measured: Vec<(&str, f64)> = finding.measurements.iter().map(|m| (m.name.as_str(), m.value)).collect();
    let rest = [
        ("state: not an allowed value", 1.0),
        ("volume: missing", 4.0),
        ("state: other type", 4.0),
        ("state: not a number", 4.0),
    ];
    assert_eq!(measured[5..], rest);
}

#[test]
fn clean_rows_pass_and_no_rows_fail() {
    let rows = holdout(50, 0.1);
    let gate = DataGate::builder().signature(&signature()).build().unwrap();
    assert_eq!(gate.check(&Subject::new().data(&rows)).unwrap().verdict, Verdict::Pass);
    let empty = gate.check(&Subject::new().data(&rows.slice(0, 0))).unwrap();
    assert_eq!(empty.to_string(), "fail data: there are no rows; rows 0, wanted >= 1");
    let nulls: ArrayRef = Arc::new(Float64Array::from(vec![Some(1.0), None]));
    assert_eq!(nulls.null_count(), 1);
    let finding = gate.check(&Subject::new().data(&batch([("x", nulls)]))).unwrap();
    assert_eq!(finding.summary, r#"column "x": 1 of 2 rows null, first at row 1 (null)"#);
}

#[test]
fn a_suite_joins_what_blocks_and_shows_what_warns() {
    let (rows, good, bad) = (holdout(2_000, 0.1), good(), shuffled());
    let suite = |severity| {
        GateSuite::new("promotion")
            .block(DataGate::builder().signature(&signature()).build().unwrap())
            .gate(severity, ChallengerGate::builder("probability").margin(0.02).build().unwrap())
            .warn(SliceGate::builder("probability").values("day").margin(0.1).build().unwrap())
    };
    let subject = Subject::new().data(&rows).holdout(&rows, "label").candidate(&bad).champion(Some(&good));
    let report = suite(Severity::Block).run(&subject).unwrap();
    assert_eq!(report.verdict, Verdict::Fail, "{report}");
    assert_eq!(report.findings().count(), 3);
    assert_eq!(report.finding("slices").unwrap().verdict, Verdict::Fail);
    assert!(report.to_string().starts_with("promotion: fail\n") && report.to_string().contains("(warns only)"));
    let json = serde_json::to_string(&report).unwrap();
    assert_eq!(serde_json::from_str::<SuiteReport>(&json).unwrap(), report);
    assert_eq!(suite(Severity::Warn).run(&subject).unwrap().verdict, Verdict::Pass);
    assert_eq!(GateSuite::new("empty").run(&subject).unwrap().verdict, Verdict::Inconclusive);
    assert!(matches!(suite(Severity::Warn).run(&Subject::new()), Err(Error::MissingPart { .. })));
    assert_eq!(report, suite(Severity::Block).run(&subject).unwrap(), "the same question has the same answer");
}

#[test]
fn cells_are_counted() {
    let paired = Paired::count(&[true, true, false, false], &[true, false, true, false]);
    assert_eq!(paired, Paired { both: 1, only_candidate: 1, only_champion: 1, neither: 1 });
}

/// The verdict and summary of a gate with one column `c`.
fn column(array: ArrayRef, rules: impl FnOnce(ColumnRules) -> ColumnRules) -> (Verdict, String) {
    let gate = DataGate::builder().column(rules(ColumnRules::new("c"))).build().unwrap();
    let finding = gate.check(&Subject::new().data(&batch([("c", array)]))).unwrap();
    (finding.verdict, finding.summary)
}

#[test]
fn a_long_text_is_compared_whole() {
    let long = "x".repeat(80);
    let texts: ArrayRef = Arc::new(StringArray::from(vec![format!("{long}1"), format!("{long}2")]));
    let (verdict, text) = column(Arc::clone(&texts), |c| c.allowed([format!("{long}1")]));
    assert_eq!(verdict, Verdict::Fail);
    assert_eq!(text, format!("column \"c\": 1 of 2 rows not an allowed value, first at row 1 ({long})"));
    assert_eq!(column(Arc::clone(&texts), |c| c.allowed([long.clone()])).0, Verdict::Fail, "only cut is it that");
    assert_eq!(column(texts, |c| c.allowed([format!("{long}1"), format!("{long}2")])).0, Verdict::Pass);
}

#[test]
fn nulls_are_found_wherever_arrow_keeps_them() {
    let dictionary = |values: Vec<Option<&str>>| -> ArrayRef {
        let keys = Int32Array::from(vec![0, 1, 0]);
        Arc::new(DictionaryArray::new(keys, Arc::new(StringArray::from(values))))
    };
    let null = |array| column(array, ColumnRules::not_null);
    let (verdict, text) = null(Arc::new(NullArray::new(3)));
    assert_eq!((verdict, &*text), (Verdict::Fail, "column \"c\": 3 of 3 rows null, first at row 0 (null)"));
    let (verdict, text) = null(dictionary(vec![Some("a"), None]));
    assert_eq!((verdict, &*text), (Verdict::Fail, "column \"c\": 1 of 3 rows null, first at row 1 (null)"));
    assert_eq!(null(dictionary(vec![Some("a"), Some("b")])).0, Verdict::Pass);
    let allowed = |values| column(dictionary(values), |c| c.allowed(["a"])).0;
    assert_eq!(allowed(vec![Some("a"), None]), Verdict::Pass, "null or not is another rule");
    assert_eq!(allowed(vec![Some("a"), Some("b")]), Verdict::Fail);
}

#[test]
fn a_column_that_is_no_number_is_not_finite() {
    let texts = || -> ArrayRef { Arc::new(StringArray::from(vec!["1", "2"])) };
    let (verdict, text) = column(texts(), ColumnRules::finite);
    assert_eq!(verdict, Verdict::Fail);
    assert_eq!(text, "column \"c\": 2 of 2 rows not numbers, which alone can be finite, first at row 0 (1)");
    let (_, text) = column(texts(), |c| c.range(0.0, 1.0));
    assert_eq!(text, "column \"c\": 2 of 2 rows not numbers, which a range needs, first at row 0 (1)", "said once");
    let signature = Signature::new(
        [ColumnSpec::new("c", ColumnType::String)],
        [ColumnSpec::new("probability", ColumnType::Double)],
    );
    let gate = DataGate::builder().signature(&signature.unwrap()).build().unwrap();
    let finding = gate.check(&Subject::new().data(&batch([("c", texts())]))).unwrap();
    assert_eq!(finding.verdict, Verdict::Pass, "a signature asks floats alone to be finite: {finding}");
}

#[test]
fn numbers_are_compared_in_the_type_of_the_column() {
    let floats = || -> ArrayRef { Arc::new(Float32Array::from(vec![0.1, 0.7])) };
    assert_eq!(column(floats(), |c| c.allowed([0.1, 0.7])).0, Verdict::Pass);
    assert_eq!(column(floats(), |c| c.allowed([0.1, 0.700_001])).0, Verdict::Fail);
    assert_eq!(column(floats(), |c| c.range(0.1, 0.7)).0, Verdict::Pass);
    assert_eq!(column(floats(), |c| c.range(0.1, 0.699_999)).0, Verdict::Fail);
    let halves = || arrow::compute::cast(&floats(), &arrow::datatypes::DataType::Float16).unwrap();
    assert_eq!(column(halves(), |c| c.allowed([0.1, 0.7])).0, Verdict::Pass);
    assert_eq!(column(halves(), |c| c.allowed([0.1])).0, Verdict::Fail);
}

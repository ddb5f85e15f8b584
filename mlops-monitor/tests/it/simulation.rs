//! What the methods promise, on seeded streams.

use mlops_core::Verdict;
use mlops_monitor::change::{Adwin, ChangeDetector, State};
use mlops_monitor::drift::{KsMethod, ks_two_sample};
use mlops_monitor::{BettingTest, DriftDetector, KsDetector, PairedSignTest, PsiDetector, psi};

use crate::streams::SplitMix;

/// The most events of probability `p` in `trials` that chance explains, at three standard deviations.
fn at_most(p: f64, trials: u32) -> u32 {
    let trials = f64::from(trials);
    (p * trials + 3.0 * (p * (1.0 - p) * trials).sqrt()) as u32
}

fn at_least(p: f64, trials: u32) -> u32 {
    trials - at_most(1.0 - p, trials)
}

#[test]
fn paired_evidence_looked_at_after_every_row_keeps_its_level() {
    let (streams, alpha, margin) = (2_000, 0.05, 0.02);
    let (mut worse, mut better, mut noninferior) = (0, 0, 0);
    for seed in 0..streams {
        let mut rng = SplitMix(u64::from(seed));
        // On the edge of each null: `b` worse by exactly the margin, or exactly equal.
        let mut on_margin = PairedSignTest::new(margin).unwrap();
        let mut equal = PairedSignTest::new(0.0).unwrap();
        let mut found = [false; 3];
        for _ in 0..200 {
            let u = rng.uniform();
            on_margin.update(u < 0.86, !(0.04..=0.20).contains(&u)); // 0.86 against 0.84
            equal.update(u < 0.9, u >= 0.1);
            found[0] |= on_margin.evidence_worse().rejects(alpha);
            found[1] |= on_margin.evidence_noninferior().rejects(alpha);
            found[2] |= equal.evidence_better().rejects(alpha);
        }
        worse += u32::from(found[0]);
        noninferior += u32::from(found[1]);
        better += u32::from(found[2]);
    }
    for (name, alarms) in [("worse", worse), ("better", better), ("noninferior", noninferior)] {
        assert!(alarms <= at_most(alpha, streams), "{name}: {alarms} of {streams}");
        assert!(alarms > 0, "{name}: a test that never errs has no power");
    }
}

#[test]
fn evidence_for_a_mean_looked_at_after_every_row_keeps_its_level() {
    let (streams, alpha) = (2_000, 0.05);
    let mut alarms = [0; 2];
    for seed in 0..streams {
        let mut rng = SplitMix(u64::from(seed));
        let mut test = BettingTest::new(0.1).unwrap();
        let mut found = [false; 2];
        for _ in 0..200 {
            test.update(f64::from(u8::from(rng.chance(0.2))) * 0.5).unwrap();
            found[0] |= test.evidence_above().rejects(alpha);
            found[1] |= test.evidence_below().rejects(alpha);
        }
        alarms[0] += u32::from(found[0]);
        alarms[1] += u32::from(found[1]);
    }
    assert!(alarms.iter().all(|a| *a <= at_most(alpha, streams)), "{alarms:?}");
}

#[test]
fn a_worse_canary_is_found_and_an_equal_one_passes() {
    let (mut failed, mut passed, mut rows) = (0, 0, 0);
    for seed in 0..100 {
        let mut rng = SplitMix(seed);
        let mut test = PairedSignTest::new(0.01).unwrap();
        let mut equal = PairedSignTest::new(0.05).unwrap();
        for i in 0..4_000 {
            let (u, v) = (rng.uniform(), rng.uniform());
            test.update(u < 0.92, u < 0.85); // errors of `a` are errors of `b` too
            equal.update(u < 0.9, v < 0.9); // errors of the two have nothing to do with each other
            if i % 20 == 0 && test.verdict(0.01).unwrap() == Verdict::Fail {
                rows += test.n();
                failed += 1;
                break;
            }
        }
        for _ in equal.n()..4_000 {
            equal.update(rng.chance(0.9), rng.chance(0.9));
        }
        passed += u32::from(equal.verdict(0.01).unwrap() == Verdict::Pass);
    }
    assert_eq!(failed, 100);
    assert!(rows / 100 < 250, "{} rows on average", rows / 100);
    assert!(passed >= 98, "{passed}");
}

#[test]
fn the_confidence_sequence_covers_at_all_looks_together() {
    let streams = 400;
    let mut covered = 0;
    for seed in 0..streams {
        let mut rng = SplitMix(1_000 + u64::from(seed));
        let mut test = PairedSignTest::new(0.0).unwrap();
        let mut always = true;
        for i in 1..=300 {
            test.update(rng.chance(0.9), rng.chance(0.8)); // the difference is -0.1
            if i % 30 == 0 {
                let difference = test.difference(0.95).unwrap().unwrap();
                always &= (difference.low..=difference.high).contains(&-0.1);
            }
        }
        covered += u32::from(always);
    }
    assert!(covered >= at_least(0.95, streams), "{covered} of {streams}");
}

#[test]
fn psi_without_drift_is_zero_on_average_and_raises_no_alarm() {
    let trials = 400;
    let (mut sum, mut plug_in, mut above, mut fails) = (0.0, 0.0, 0, 0);
    for seed in 0..trials {
        let mut rng = SplitMix(u64::from(seed));
        let mut draw = |n: usize| (0..n).map(|_| rng.uniform()).collect::<Vec<_>>();
        let score = PsiDetector::builder().fit(&draw(1_000)).unwrap().score(&draw(300)).unwrap();
        plug_in += score.statistic / f64::from(trials);
        sum += score.effect.value / f64::from(trials);
        above += u32::from(score.effect.low.unwrap() > 0.0);
        fails += u32::from(score.verdict == Verdict::Fail);
    }
    let noise = 9.0 * (1.0 / 1_000.0 + 1.0 / 300.0);
    assert!((plug_in / noise - 1.0).abs() < 0.1, "{plug_in} {noise}");
    assert!(sum < 0.4 * noise, "{sum}"); // what cutting at 0 leaves of the noise
    assert_eq!(fails, 0);
    // The noise is skewed (chi-square): the nominal 2.5 % above is nearer 4 %.
    assert!(above <= at_most(0.04, trials), "{above}");
}

#[test]
fn psi_intervals_cover_a_real_drift() {
    // Live rows are 1.5 times as likely below one half as above it, whatever the bins.
    let truth = psi(&[0.5, 0.5], &[0.6, 0.4]).unwrap();
    let trials = 400;
    let mut covered = 0;
    for seed in 0..trials {
        let mut rng = SplitMix(5_000 + u64::from(seed));
        let baseline: Vec<f64> = (0..2_000).map(|_| rng.uniform()).collect();
        let live: Vec<f64> =
            (0..1_000).map(|_| if rng.chance(0.6) { rng.uniform() / 2.0 } else { 0.5 + rng.uniform() / 2.0 }).collect();
        let effect = PsiDetector::builder().fit(&baseline).unwrap().score(&live).unwrap().effect;
        covered += u32::from((effect.low.unwrap()..=effect.high.unwrap()).contains(&truth));
    }
    assert!(covered >= at_least(0.94, trials), "{covered} of {trials}");
}

#[test]
fn ks_p_values_keep_their_level_and_bounds_their_coverage() {
    let trials = 500;
    let (mut small, mut covered) = (0, 0);
    for seed in 0..trials {
        let mut rng = SplitMix(9_000 + u64::from(seed));
        let baseline: Vec<f64> = (0..200).map(|_| rng.uniform()).collect();
        let same: Vec<f64> = (0..150).map(|_| rng.uniform()).collect();
        small += u32::from(ks_two_sample(&baseline, &same, KsMethod::Auto).unwrap().p_value <= 0.05);
        let moved: Vec<f64> = same.iter().map(|x| x + 0.2).collect(); // the true distance is 0.2
        let effect = KsDetector::builder().fit(&baseline).unwrap().score(&moved).unwrap().effect;
        covered += u32::from((effect.low.unwrap()..=effect.high.unwrap()).contains(&0.2));
    }
    assert!(small <= at_most(0.05, trials), "{small}");
    assert!(covered >= at_least(0.95, trials), "{covered}");
}

#[test]
fn verdicts_settle_with_more_rows_and_do_not_turn_over() {
    // True distance 0.02 and 0.3: PSI about 0.01 and above 1.
    for (shift, settled) in [(0.01, Verdict::Pass), (0.3, Verdict::Fail)] {
        for n in [100, 1_000, 10_000, 100_000, 400_000] {
            let mut rng = SplitMix(n as u64);
            let baseline: Vec<f64> = (0..n).map(|_| rng.uniform()).collect();
            let live: Vec<f64> = (0..n).map(|_| shift + rng.uniform()).collect();
            let detectors: [Box<dyn DriftDetector>; 2] = [
                Box::new(PsiDetector::builder().fit(&baseline).unwrap()),
                Box::new(KsDetector::builder().method(KsMethod::Asymptotic).fit(&baseline).unwrap()),
            ];
            for detector in detectors {
                let score = detector.score(&live).unwrap();
                let unsettled = score.verdict == Verdict::Inconclusive && n <= 1_000;
                assert!(score.verdict == settled || unsettled, "shift {shift}: {score}");
            }
        }
    }
}

#[test]
fn adwin_is_quiet_on_a_stable_stream_and_quick_on_a_change() {
    let mut false_alarms = 0;
    for seed in 0..20 {
        let mut rng = SplitMix(seed);
        let mut adwin = Adwin::builder().build().unwrap();
        for _ in 0..5_000 {
            adwin.update(f64::from(u8::from(rng.chance(0.2)))).unwrap();
        }
        false_alarms += adwin.detections();
        adwin.reset();
        let mut delay = None;
        for i in 0..3_000 {
            let p = if i < 2_000 { 0.2 } else { 0.5 };
            if adwin.update(f64::from(u8::from(rng.chance(p)))).unwrap() == State::Change && i >= 2_000 {
                delay = Some(i - 2_000);
                break;
            }
        }
        assert!(delay.is_some_and(|rows| rows < 250), "{delay:?}");
        assert!(adwin.changed_at().is_some_and(|row| row.abs_diff(2_000) < 200), "{:?}", adwin.changed_at());
    }
    assert!(false_alarms <= 2, "{false_alarms} in 100,000 rows");
}

//! What the anytime-valid methods promise, simulated with a look after every row.

use mlops_core::Verdict;
use mlops_monitor::drift::{KsMethod, ks_two_sample};
use mlops_monitor::multiple::{Adjustment, adjust, e_bh};
use mlops_monitor::sequential::{
    Arm, AsymptoticCs, BoundedMeanBuilder, CdfBand, ConfidenceSequence, Demand, DifferenceCs, QuantileCs, RiskTest,
    TwoSampleKsTest, TwoSampleMeanTest, bounded_mean,
};
use mlops_monitor::{EValue, power};

use crate::streams::SplitMix;

/// The most events of probability `p` in `trials` that are not past chance: more of them happen with probability 1e-7.
fn most(p: f64, trials: u32) -> u32 {
    let mut log_pmf = f64::from(trials) * (-p).ln_1p();
    let mut tail = 1.0 - log_pmf.exp();
    let mut k = 0;
    while tail > 1e-7 {
        log_pmf += (f64::from(trials - k) / f64::from(k + 1)).ln() + p.ln() - (-p).ln_1p();
        tail -= log_pmf.exp();
        k += 1;
    }
    k
}

type Draw = fn(&mut SplitMix) -> f64;

/// Distributions on [0, 1] with their means.
const BOUNDED: [(&str, f64, Draw); 6] = [
    ("fair coin", 0.5, |rng| f64::from(u8::from(rng.chance(0.5)))),
    ("rare errors", 0.01, |rng| f64::from(u8::from(rng.chance(0.01)))),
    ("rare successes", 0.995, |rng| f64::from(u8::from(rng.chance(0.995)))),
    ("uniform", 0.5, |rng| rng.uniform()),
    ("beta(1/4, 1)", 0.2, |rng| rng.uniform().powi(4)),
    ("two points, far apart", 0.02 + 0.03 * 0.98, |rng| if rng.chance(0.03) { 1.0 } else { 0.02 }),
];

const ALPHA: f64 = 0.1;

/// Streams whose running intersection loses the mean: some interval on the way did.
fn misses<S: ConfidenceSequence + Clone>(
    mean: f64,
    draw: Draw,
    streams: u32,
    rows: u32,
    fresh: &S,
    contradicted: fn(&S) -> bool,
) -> u32 {
    let missed = (0..streams).filter(|seed| {
        let (mut rng, mut sequence) = (SplitMix(u64::from(*seed)), fresh.clone());
        (0..rows).for_each(|_| sequence.update(draw(&mut rng)).unwrap());
        let interval = sequence.estimate().unwrap();
        contradicted(&sequence) || !(interval.low..=interval.high).contains(&mean)
    });
    missed.count() as u32
}

fn options() -> BoundedMeanBuilder {
    bounded_mean().alpha(ALPHA).running(true)
}

#[test]
fn intervals_for_bounded_means_cover_at_all_looks_together() {
    let bernstein = options().empirical_bernstein().unwrap();
    let stitched = options().stitched().unwrap();
    let hedged = options().hedged(200).unwrap();
    for (name, mean, draw) in BOUNDED {
        let counts = [
            ("bernstein", 500, misses(mean, draw, 500, 2_000, &bernstein, |s| s.contradicted())),
            ("stitched", 500, misses(mean, draw, 500, 2_000, &stitched, |s| s.contradicted())),
            ("hedged", 200, misses(mean, draw, 200, 1_000, &hedged, |s| s.contradicted())),
        ];
        for (method, streams, missed) in counts {
            assert!(missed <= most(ALPHA, streams), "{method}, {name}: {missed} of {streams}");
        }
    }
}

#[test]
fn shards_merged_at_every_look_cover_too() {
    let streams = 300;
    let mut missed = [0; 3];
    for seed in 0..streams {
        let mut rng = SplitMix(u64::from(seed));
        let fresh = || bounded_mean().alpha(ALPHA);
        let mut bernstein = [fresh().empirical_bernstein().unwrap(), fresh().empirical_bernstein().unwrap()];
        let mut stitched = [fresh().stitched().unwrap(), fresh().stitched().unwrap()];
        let mut hedged = [fresh().hedged(50).unwrap(), fresh().hedged(50).unwrap()];
        let mut found = [false; 3];
        for i in 0..400 {
            let (shard, x) = (usize::from(rng.chance(0.3)), f64::from(u8::from(rng.chance(0.1))));
            bernstein[shard].update(x).unwrap();
            stitched[shard].update(x).unwrap();
            hedged[shard].update(x).unwrap();
            if i % 5 == 4 {
                let [mut a, b] = bernstein.clone();
                a.merge(&b).unwrap();
                let [mut c, d] = stitched.clone();
                c.merge(&d).unwrap();
                let [mut e, f] = hedged.clone();
                e.merge(&f).unwrap();
                for (found, estimate) in found.iter_mut().zip([a.estimate(), c.estimate(), e.estimate()]) {
                    let estimate = estimate.unwrap();
                    assert_eq!(estimate.n, i + 1);
                    *found |= !(estimate.low..=estimate.high).contains(&0.1);
                }
            }
        }
        missed.iter_mut().zip(found).for_each(|(missed, found)| *missed += u32::from(found));
    }
    assert!(missed.iter().all(|missed| *missed <= most(ALPHA, streams)), "{missed:?}");
}

#[test]
fn the_stitched_sequence_covers_the_average_of_a_mean_that_wanders() {
    let streams = 300;
    let mut missed = 0;
    for seed in 0..streams {
        let mut rng = SplitMix(u64::from(seed));
        let mut sequence = bounded_mean().alpha(ALPHA).stitched().unwrap();
        let (mut sum, mut found, mut last) = (0.0, false, 0.0);
        for i in 1..=1_500_u32 {
            // The chance of a 1 follows a wave and the row before: dependent rows, known conditional means.
            let p = 0.3 + 0.2 * (f64::from(i) / 200.0).sin() + 0.1 * last;
            last = f64::from(u8::from(rng.chance(p)));
            sum += p;
            sequence.update(last).unwrap();
            let estimate = sequence.estimate().unwrap();
            found |= !(estimate.low..=estimate.high).contains(&(sum / f64::from(i)));
        }
        missed += u32::from(found);
    }
    assert!(missed <= most(ALPHA, streams), "{missed} of {streams}");
}

#[test]
fn quantiles_and_bands_cover_at_all_looks_together() {
    let streams = 200;
    type Case = (&'static str, Draw, fn(f64) -> f64);
    // A distribution with atoms, and one without whose quantile at p is p.
    let draws: [Case; 2] = [
        ("uniform", |rng| rng.uniform(), |p| p),
        ("tied", |rng| (rng.uniform() * 4.0).floor(), |p| (p * 4.0).ceil() - 1.0),
    ];
    for (name, draw, quantile) in draws {
        for p in [0.5, 0.9] {
            let (mut missed, mut outside) = (0, 0);
            for seed in 0..streams {
                let mut rng = SplitMix(u64::from(seed));
                let mut sequence = QuantileCs::builder(p).alpha(ALPHA).tuned_for(100).build().unwrap();
                let mut band = CdfBand::builder().alpha(ALPHA).first_look(1).build().unwrap();
                let mut found = [false; 2];
                for i in 0..800 {
                    let x = draw(&mut rng);
                    sequence.update(x).unwrap();
                    band.update(x).unwrap();
                    let lost = |(low, high): (Option<f64>, Option<f64>)| {
                        low.is_some_and(|low| low > quantile(p)) || high.is_some_and(|high| high < quantile(p))
                    };
                    if i % 4 == 0 {
                        found[0] |= lost(sequence.bounds());
                    }
                    if i % 20 == 0 {
                        found[1] |= (1..10).any(|k| {
                            let at = f64::from(k) / 10.0;
                            let (low, high) = band.quantile_bounds(at).unwrap();
                            low.is_some_and(|low| low > quantile(at)) || high.is_some_and(|high| high < quantile(at))
                        });
                    }
                }
                missed += u32::from(found[0]);
                outside += u32::from(found[1]);
            }
            assert!(missed <= most(ALPHA, streams), "{name} {p}: {missed} of {streams}");
            assert!(outside <= most(ALPHA, streams), "{name} {p}: {outside} of {streams}");
        }
    }
}

#[test]
fn the_asymptotic_sequence_covers_from_its_first_look_on() {
    // Exponential waiting times: unbounded and skewed. Without a promise for 100 rows; seen to hold.
    let streams = 500;
    let mut missed = 0;
    for seed in 0..streams {
        let mut rng = SplitMix(u64::from(seed));
        let mut sequence = AsymptoticCs::builder().alpha(ALPHA).build().unwrap();
        let mut found = false;
        for _ in 0..3_000 {
            sequence.update(-(1.0 - rng.uniform()).ln()).unwrap();
            found |= sequence.estimate().is_some_and(|estimate| !(estimate.low..=estimate.high).contains(&1.0));
        }
        missed += u32::from(found);
    }
    assert!(missed <= most(ALPHA, streams) && missed > 0, "{missed} of {streams}");
}

#[test]
fn differences_of_unequal_arms_are_covered() {
    let streams = 400;
    let mut missed = 0;
    for seed in 0..streams {
        let mut rng = SplitMix(u64::from(seed));
        let mut test = DifferenceCs::bounded(0.0, 1.0, ALPHA).unwrap();
        let mut found = false;
        for _ in 0..1_500 {
            let arm = if rng.chance(0.1) { Arm::B } else { Arm::A };
            let x = if arm == Arm::B { rng.uniform() } else { f64::from(u8::from(rng.chance(0.3))) };
            test.update(arm, x).unwrap();
            found |= test.estimate().is_some_and(|estimate| !(estimate.low..=estimate.high).contains(&0.2));
        }
        missed += u32::from(found);
    }
    assert!(missed <= most(ALPHA, streams), "{missed} of {streams}");
}

#[test]
fn two_sample_tests_looked_at_after_every_row_keep_their_level() {
    let streams = 500;
    let (mut mean, mut within, mut ks) = (0, 0, 0);
    for seed in 0..streams {
        let mut rng = SplitMix(u64::from(seed));
        // Means 0.5 of other distributions; means exactly a margin apart; one distribution.
        let mut means = TwoSampleMeanTest::new(0.0, 1.0, 0.0).unwrap();
        let mut margin = TwoSampleMeanTest::new(0.0, 1.0, 0.2).unwrap();
        let mut distributions = TwoSampleKsTest::new(0.05).unwrap();
        let mut found = [false; 3];
        for _ in 0..600 {
            let arm = if rng.chance(0.25) { Arm::B } else { Arm::A };
            let (u, coin) = (rng.uniform(), f64::from(u8::from(rng.chance(0.5))));
            means.update(arm, if arm == Arm::B { coin } else { u }).unwrap();
            let shifted = f64::from(u8::from(rng.chance(if arm == Arm::B { 0.6 } else { 0.4 })));
            margin.update(arm, shifted).unwrap();
            distributions.update(arm, u).unwrap();
            found[0] |= means.verdict(ALPHA).unwrap() == Verdict::Fail;
            found[1] |= margin.verdict(ALPHA).unwrap() != Verdict::Inconclusive;
            found[2] |= distributions.verdict(ALPHA).unwrap() == Verdict::Fail;
        }
        mean += u32::from(found[0]);
        within += u32::from(found[1]);
        ks += u32::from(found[2]);
    }
    assert!(mean <= most(ALPHA, streams), "{mean}");
    // On the margin a pass and a fail are both errors, at `alpha` each.
    assert!(within <= most(2.0 * ALPHA, streams) && within > 0, "{within}");
    assert!(ks <= most(ALPHA, streams), "{ks}");
}

#[test]
fn the_risk_test_keeps_its_level_on_the_edge_and_while_risk_wanders() {
    let streams = 300;
    let mut alarms = [0; 2];
    for seed in 0..streams {
        let mut rng = SplitMix(u64::from(seed));
        let source: Vec<f64> = (0..20_000).map(|_| f64::from(u8::from(rng.chance(0.1)))).collect();
        let fresh = RiskTest::builder().tolerance(0.05).alpha(ALPHA).build(&source).unwrap();
        let (mut edge, mut wandering) = (fresh.clone(), fresh);
        for i in 0..2_000 {
            edge.update(f64::from(u8::from(rng.chance(0.15)))).unwrap();
            // Below the tolerated risk first and above it later: on average never above.
            wandering.update(f64::from(u8::from(rng.chance(if i < 1_000 { 0.05 } else { 0.25 })))).unwrap();
        }
        alarms[0] += u32::from(edge.alarm_at().is_some());
        alarms[1] += u32::from(wandering.alarm_at().is_some());
    }
    assert!(alarms.iter().all(|alarms| *alarms <= most(ALPHA, streams)), "{alarms:?}");
}

#[test]
fn changes_are_found() {
    let mut rows = [0; 3];
    for seed in 0..50 {
        let mut rng = SplitMix(seed);
        let source: Vec<f64> = (0..5_000).map(|_| f64::from(u8::from(rng.chance(0.1)))).collect();
        let mut risk = RiskTest::builder().tolerance(0.05).build(&source).unwrap();
        let mut means = TwoSampleMeanTest::new(0.0, 1.0, 0.0).unwrap();
        let mut spreads = TwoSampleKsTest::new(0.05).unwrap();
        while risk.alarm_at().is_none() {
            risk.update(f64::from(u8::from(rng.chance(0.3)))).unwrap();
        }
        while means.verdict(0.05).unwrap() != Verdict::Fail {
            means.update(Arm::A, rng.uniform()).unwrap();
            means.update(Arm::B, 0.8 * rng.uniform()).unwrap();
        }
        while spreads.verdict(0.05).unwrap() != Verdict::Fail {
            spreads.update(Arm::A, rng.uniform()).unwrap();
            spreads.update(Arm::B, 0.25 + 0.5 * rng.uniform()).unwrap();
        }
        for (rows, n) in rows.iter_mut().zip([risk.n(), means.rows().0, spreads.rows().0]) {
            *rows += n / 50;
        }
    }
    // A rise of 0.2, a shift by a third of a standard deviation, a distance of 0.25.
    assert!(rows[0] < 600 && rows[1] < 500 && rows[2] < 500, "{rows:?}");
}

#[test]
fn widths_after_ten_thousand_rows_are_near_those_of_one_look() {
    let builder = || bounded_mean().alpha(0.05);
    let mut sequences: [(Box<dyn ConfidenceSequence>, f64); 4] = [
        (Box::new(builder().empirical_bernstein().unwrap()), 2.5),
        (Box::new(builder().hedged(4_000).unwrap()), 2.5),
        (Box::new(builder().stitched().unwrap()), 2.5),
        (Box::new(AsymptoticCs::builder().tuned_for(10_000).build().unwrap()), 1.6),
    ];
    let mut rng = SplitMix(3);
    for _ in 0..10_000 {
        let x = rng.uniform();
        sequences.iter_mut().for_each(|(sequence, _)| sequence.update(x).unwrap());
    }
    let one_look = 2.0 * 1.959_964 * (1.0 / 12.0_f64).sqrt() / 100.0;
    for (sequence, factor) in sequences {
        let estimate = sequence.estimate().unwrap();
        let ratio = (estimate.high - estimate.low) / one_look;
        println!("{ratio:.3} {sequence}");
        assert!(ratio > 1.0 && ratio < factor, "{ratio} {sequence}");
        assert_eq!(sequence.verdict(Demand::Within(0.45, 0.55)), Verdict::Pass);
    }
    // The quantile's against the asymptotic interval for a median, and the width that was asked for.
    let mut median = QuantileCs::builder(0.5).tuned_for(10_000).build().unwrap();
    let rows = power::rows_for_width(0.005, (1.0 / 12.0_f64).sqrt(), 0.05).unwrap();
    let mut mean = AsymptoticCs::builder().tuned_for(rows).build().unwrap();
    (0..10_000).for_each(|_| median.update(rng.uniform()).unwrap());
    (0..rows).for_each(|_| mean.update(rng.uniform()).unwrap());
    let (median, mean) = (median.estimate().unwrap(), mean.estimate().unwrap());
    let ratio = (median.high - median.low) / (2.0 * 1.96 * 0.5 / 100.0);
    println!("{ratio:.3} median");
    assert!(ratio > 1.0 && ratio < 2.2, "{ratio}");
    assert!(((mean.high - mean.low) / 0.01 - 1.0).abs() < 0.03, "{mean}");
}

#[test]
fn the_rows_for_a_distance_reach_the_power() {
    let (trials, n) = (400, power::rows_for_ks(0.2, 0.05, 0.8).unwrap());
    let mut seen = 0;
    for seed in 0..trials {
        let mut rng = SplitMix(u64::from(seed));
        let a: Vec<f64> = (0..n).map(|_| rng.uniform()).collect();
        let b: Vec<f64> = (0..n).map(|_| 0.2 + rng.uniform()).collect();
        seen += u32::from(ks_two_sample(&a, &b, KsMethod::Asymptotic).unwrap().p_value <= 0.05);
    }
    assert!(trials - seen <= most(0.2, trials), "{seen} of {trials}");
}

#[test]
fn the_share_of_false_discoveries_stays_at_its_level() {
    // 40 hypotheses of which 10 are false; p-values of shifted normals, e-values of their likelihood ratios.
    let (families, alpha, shift) = (1_000, 0.2, 3.0);
    let (mut by_p, mut by_e, mut found) = (0.0, 0.0, 0);
    for seed in 0..families {
        let mut rng = SplitMix(seed);
        let z: Vec<f64> = (0..40)
            .map(|i| {
                let normal = (-2.0 * (1.0 - rng.uniform()).ln()).sqrt() * (std::f64::consts::TAU * rng.uniform()).cos();
                if i < 10 { normal + shift } else { normal }
            })
            .collect();
        // A p-value by Markov's inequality on the likelihood ratio would be e-BH again: take the tail.
        let p: Vec<f64> = z.iter().map(|z| upper_tail(*z)).collect();
        let e: Vec<EValue> = z.iter().map(|z| EValue::from_log(shift * z - shift * shift / 2.0)).collect();
        let share = |rejected: Vec<bool>| {
            let all = rejected.iter().filter(|r| **r).count();
            let wrong = rejected[10..].iter().filter(|r| **r).count();
            (wrong as f64 / all.max(1) as f64, all - wrong)
        };
        let q = adjust(&p, Adjustment::BenjaminiHochberg).unwrap();
        by_p += share(q.iter().map(|q| *q <= alpha).collect()).0 / families as f64;
        let (wrong, right) = share(e_bh(&e, alpha).unwrap());
        by_e += wrong / families as f64;
        found += right;
    }
    // BH's rate is 0.15 exactly: 30 of 40 times alpha. A share of a family is at most 1: five standard errors.
    assert!((by_p - 0.15).abs() < 5.0 * 0.15 / (families as f64).sqrt(), "{by_p}");
    assert!(by_e <= alpha, "{by_e}");
    assert!(found > 4 * families as usize, "{found}");
}

/// Upper tail of the standard normal, by Simpson's rule over the next ten standard deviations.
fn upper_tail(z: f64) -> f64 {
    let density = |x: f64| (-x * x / 2.0).exp() / std::f64::consts::TAU.sqrt();
    let step = 10.0 / 400.0;
    let sum: f64 = (0..=400)
        .map(|i| {
            let weight = if i == 0 || i == 400 { 1.0 } else { f64::from(2 + 2 * (i % 2)) };
            weight * density(z + f64::from(i) * step)
        })
        .sum();
    (sum * step / 3.0).min(1.0)
}

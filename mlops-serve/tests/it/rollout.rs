use std::time::Duration;

use mlops_core::clock::from_micros;
use mlops_core::{ModelRef, RolloutId, Timestamp, Verdict};
use mlops_serve::rollout::{Decision, Plan, Rollout, Status};

const DAY: Duration = Duration::from_secs(86_400);

fn start_of(day: u32) -> Timestamp {
    from_micros(0) + DAY * day
}

fn plan() -> Plan {
    Plan::builder().shadow(DAY).canary(0.1, 2 * DAY).canary(0.5, 2 * DAY).tolerated_loss(0.05).build().unwrap()
}

fn rollout() -> Rollout {
    let (champion, candidate) = (ModelRef::version("m", 1), ModelRef::version("m", 2));
    Rollout::start(RolloutId::derived(start_of(0), b"r"), plan(), champion, candidate, start_of(0))
}

/// SplitMix64 as a source of uniform numbers: enough for a simulation, and the same everywhere.
struct Uniform(u64);

impl Uniform {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[test]
fn a_good_candidate_goes_through_every_step_and_is_promoted() {
    let mut rollout = rollout();
    let mut seen = Vec::new();
    for day in 1..=20 {
        for _ in 0..48 {
            rollout.observe_pair(true, true);
        }
        seen.push(rollout.decide(start_of(day)).unwrap());
        if *rollout.status() == Status::Promoted {
            break;
        }
    }
    let changes: Vec<_> = seen.into_iter().filter(|d| *d != Decision::Continue).collect();
    assert_eq!(changes, [Decision::Advance, Decision::Advance, Decision::Promote]);
    assert_eq!(rollout.split().to_string(), "champion models:/m/2 100 %");
    assert_eq!(rollout.history().len(), 3);
    assert_eq!(rollout.history()[2].finding.verdict, Verdict::Pass);
}

#[test]
fn a_bad_candidate_is_rolled_back_in_the_step_it_is_in() {
    let mut rollout = rollout();
    let mut decision = Decision::Continue;
    for day in 1..=20 {
        for i in 0..48 {
            rollout.observe_pair(true, i % 5 > 0);
        }
        decision = rollout.decide(start_of(day)).unwrap();
        if decision == Decision::Rollback {
            break;
        }
    }
    assert_eq!(decision, Decision::Rollback);
    assert_eq!(rollout.split().to_string(), "champion models:/m/1 100 %");
    assert_eq!(rollout.decide(start_of(21)).unwrap(), Decision::Continue, "it has ended");
}

#[test]
fn without_evidence_patience_ends_in_a_rollback_never_in_a_promotion() {
    let mut rollout = rollout();
    let decisions: Vec<_> = (1..=30).map(|day| rollout.decide(start_of(day)).unwrap()).collect();
    assert!(!decisions.contains(&Decision::Promote));
    assert_eq!(*rollout.status(), Status::RolledBack);
    assert!(rollout.history().last().unwrap().finding.summary.contains("patience"));
}

#[test]
fn one_failed_prediction_too_many_rolls_back_at_once() {
    let mut rollout = rollout();
    rollout.observe_failures(1);
    assert_eq!(rollout.decide(start_of(0)).unwrap(), Decision::Rollback);
}

#[test]
fn a_restart_goes_on_where_it_was() {
    let mut rollout = rollout();
    rollout.observe_pair(true, false);
    rollout.decide(start_of(1)).unwrap();
    let text = serde_json::to_string(&rollout).unwrap();
    let mut restored: Rollout = serde_json::from_str(&text).unwrap();
    assert_eq!(restored, rollout);
    for rollout in [&mut rollout, &mut restored] {
        rollout.observe_pair(false, true);
        rollout.decide(start_of(4)).unwrap();
    }
    assert_eq!(restored, rollout);
}

#[test]
fn an_abort_ends_it() {
    let mut rollout = rollout();
    rollout.abort(start_of(1), "the pager rang");
    assert_eq!(*rollout.status(), Status::RolledBack);
    assert!(rollout.history()[0].finding.summary.contains("the pager rang"));
}

#[test]
fn plans_that_make_no_sense_are_refused() {
    assert!(Plan::builder().build().is_err());
    assert!(Plan::builder().canary(0.5, DAY).canary(0.1, DAY).build().is_err());
    assert!(Plan::builder().canary(f64::NAN, DAY).build().is_err());
    assert!(Plan::builder().canary(0.5, DAY).alpha(0.0).build().is_err());
    assert!(Plan::builder().canary(0.5, DAY).tolerated_loss(-0.1).build().is_err());
}

/// Looked at after every request, 1,000 rollouts of a candidate that is exactly as good as the champion.
///
/// Each may be rolled back with probability at most α/2 = 0.025. With 1,000 rollouts the count is at most 25 on average;
/// 60 would be more than seven standard deviations above. Here 300 requests are looked at.
#[test]
fn an_equal_candidate_is_rarely_rolled_back() {
    let mut uniform = Uniform(1);
    let mut rolled_back = 0;
    for _ in 0..1_000 {
        let mut rollout = rollout();
        for _ in 0..300 {
            let u = uniform.next();
            rollout.observe_pair(u < 0.9, !(0.05..0.15).contains(&u));
            if rollout.decide(start_of(0)).unwrap() == Decision::Rollback {
                rolled_back += 1;
                break;
            }
        }
    }
    assert!(rolled_back <= 60, "{rolled_back} of 1000");
}

/// A candidate exactly at the tolerated loss of five points, looked at after every request once the last step is over:
/// promoted with probability at most 0.025, so at most 25 of 1,000 on average.
#[test]
fn a_candidate_at_the_tolerated_loss_is_rarely_promoted() {
    let mut uniform = Uniform(2);
    let mut promoted = 0;
    for _ in 0..1_000 {
        let mut rollout = rollout();
        for day in [1, 3] {
            rollout.decide(start_of(day)).unwrap();
        }
        for _ in 0..300 {
            let u = uniform.next();
            rollout.observe_pair(u < 0.9, (0.05..0.85).contains(&u) || u >= 0.95);
            match rollout.decide(start_of(5)).unwrap() {
                Decision::Promote => {
                    promoted += 1;
                    break;
                }
                Decision::Rollback => break,
                _ => {}
            }
        }
    }
    assert!(promoted <= 60, "{promoted} of 1000");
}

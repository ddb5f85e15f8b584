//! A version's way to the champion's place, or back: shadow, canary, promotion, rollback.
//!
//! A [`Rollout`] is a state machine that is told what happened and decides what to do next. It does no I/O and reads no
//! clock, so a year of rollouts can be simulated in a test; its whole state is serde, so that a process that dies goes on
//! where it was. The caller puts [`Rollout::split`] in force and moves the alias.
//!
//! ```
//! use std::time::Duration;
//! use mlops_core::{ModelRef, RolloutId};
//! use mlops_serve::rollout::{Decision, Plan, Rollout};
//! # let start: mlops_core::Timestamp = "1997-06-01T00:00:00Z".parse().unwrap();
//! const DAY: Duration = Duration::from_secs(86_400);
//! let plan = Plan::builder().shadow(DAY).canary(0.1, 2 * DAY).canary(0.5, 2 * DAY).tolerated_loss(0.02).build()?;
//! let (champion, candidate) = (ModelRef::version("prices", 1), ModelRef::version("prices", 2));
//! let mut rollout = Rollout::start(RolloutId::derived(start, b"v2"), plan, champion, candidate, start);
//! assert_eq!(rollout.split().to_string(), "champion models:/prices/1 100 %, canary models:/prices/2 0 %, mirrored");
//! for _ in 0..60 {
//!     rollout.observe_pair(true, false); // the champion was right, the candidate wrong
//! }
//! assert!(matches!(rollout.decide(start + DAY)?, Decision::Rollback));
//! # Ok::<(), mlops_serve::Error>(())
//! ```

use std::fmt;
use std::time::Duration;

use mlops_core::{Finding, Measurement, ModelRef, RolloutId, Timestamp, Verdict};
use mlops_monitor::PairedSignTest;
use serde::{Deserialize, Serialize};

use crate::{Error, Result, Split};

/// The name of the arm with the version in place.
pub const CHAMPION: &str = "champion";
/// The name of the arm with the version under trial.
pub const CANARY: &str = "canary";

/// One step: a share of the callers for some time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// The candidate's share of the callers; 0 is a shadow.
    pub share: f64,
    /// How long it lasts at least.
    pub at_least: Duration,
}

/// The steps, and what is tolerated on the way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Plan {
    /// The steps, first to last.
    pub steps: Vec<Step>,
    /// The error probability of the whole rollout, however often it is looked at: half for promoting a version that is
    /// worse by `tolerated_loss` or more, half for calling one worse that is not. It holds for labelled pairs that are
    /// independent given those before; a rollback because `patience` ended is not counted.
    pub alpha: f64,
    /// The loss of accuracy that is tolerated: 0.02 is two points.
    pub tolerated_loss: f64,
    /// How long the last step may wait for evidence; without any by then, the candidate is rolled back.
    pub patience: Duration,
    /// Failed predictions of the candidate that are tolerated; one more rolls it back at once.
    pub tolerated_failures: u64,
}

impl Plan {
    /// A plan without steps yet: α 0.05, two points of tolerated loss, 14 days of patience, no failures tolerated.
    pub fn builder() -> PlanBuilder {
        PlanBuilder(Self {
            steps: Vec::new(),
            alpha: 0.05,
            tolerated_loss: 0.02,
            patience: Duration::from_secs(14 * 86_400),
            tolerated_failures: 0,
        })
    }
}

/// Puts a [`Plan`] together.
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct PlanBuilder(Plan);

impl PlanBuilder {
    /// Adds a step in which the candidate sees everything and answers nobody.
    pub fn shadow(self, at_least: Duration) -> Self {
        self.canary(0.0, at_least)
    }

    /// Adds a step in which the candidate answers `share` of the callers.
    pub fn canary(mut self, share: f64, at_least: Duration) -> Self {
        self.0.steps.push(Step { share, at_least });
        self
    }

    /// The error probability of the whole rollout, in `(0, 1)`.
    pub fn alpha(mut self, alpha: f64) -> Self {
        self.0.alpha = alpha;
        self
    }

    /// The loss of accuracy that is tolerated, in `[0, 0.99]`.
    pub fn tolerated_loss(mut self, loss: f64) -> Self {
        self.0.tolerated_loss = loss;
        self
    }

    /// How long the last step may wait for evidence.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.0.patience = patience;
        self
    }

    /// Failed predictions that are tolerated.
    pub fn tolerated_failures(mut self, failures: u64) -> Self {
        self.0.tolerated_failures = failures;
        self
    }

    /// Checks the plan.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] for a plan without steps, a share outside `[0, 1]` or smaller than the one before, or
    /// an `alpha` or `tolerated_loss` out of range.
    pub fn build(self) -> Result<Plan> {
        let plan = self.0;
        if plan.steps.is_empty() {
            return Err(Error::invalid("plan", "has no steps"));
        }
        let shares: Vec<f64> = plan.steps.iter().map(|s| s.share).collect();
        if !shares.iter().all(|s| (0.0..=1.0).contains(s)) || !shares.is_sorted() {
            return Err(Error::invalid("plan", format!("shares {shares:?} must lie in [0, 1] and not shrink")));
        }
        if !(plan.alpha > 0.0 && plan.alpha < 1.0) {
            return Err(Error::invalid("alpha", format!("must lie in (0, 1), got {}", plan.alpha)));
        }
        PairedSignTest::new(plan.tolerated_loss)?;
        Ok(plan)
    }
}

/// Where a rollout stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Status {
    /// In one of the plan's steps, since some time.
    Running {
        /// The step's index.
        step: usize,
        /// When it began.
        since: Timestamp,
    },
    /// The candidate has earned the champion's place.
    Promoted,
    /// The candidate is out.
    RolledBack,
}

/// What to do now.
#[allow(clippy::exhaustive_enums)] // a caller that ignores a decision is wrong, and should not compile
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Nothing: wait for more.
    Continue,
    /// Put [`Rollout::split`] in force: the next step has begun.
    Advance,
    /// Move the alias to the candidate, and the traffic with it.
    Promote,
    /// Give the champion all traffic again.
    Rollback,
}

/// What is known of the candidate against the champion.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Evidence {
    /// Rows on which only the champion was right.
    pub only_champion: u64,
    /// Rows on which only the candidate was right.
    pub only_candidate: u64,
    /// Rows on which both were right or both wrong.
    pub same: u64,
    /// Predictions of the candidate that failed.
    pub failures: u64,
}

impl Evidence {
    /// Labelled rows that both predicted.
    #[must_use]
    pub fn pairs(&self) -> u64 {
        self.only_champion + self.only_candidate + self.same
    }
}

/// Judges evidence under a plan.
///
/// # Contract
/// - `Fail` means the candidate is worse than the plan tolerates, `Pass` that it is not, `Inconclusive` that nobody can
///   tell yet.
/// - It is asked after every change; an implementation says in its own doc whether its error rate survives that.
pub trait RolloutJudge: fmt::Debug + Send + Sync {
    /// The verdict alone: cheap, since it is asked for after every request.
    ///
    /// # Errors
    /// Those of the statistics used.
    fn verdict(&self, evidence: &Evidence, plan: &Plan) -> Result<Verdict>;

    /// The same verdict with a sentence and the numbers behind it: asked for when something changes.
    ///
    /// # Errors
    /// Those of the statistics used.
    fn finding(&self, evidence: &Evidence, plan: &Plan) -> Result<Finding>;
}

/// The default judge: a paired test by betting, valid however often it is asked.
///
/// `Fail` when the candidate is shown to be worse than the champion at all, `Pass` when it is shown not to be worse by
/// [`Plan::tolerated_loss`], each at half of [`Plan::alpha`]; over all looks together, the probability of a wrong `Fail`
/// or a wrong `Pass` is at most [`Plan::alpha`] (Ville's inequality and a union bound). A candidate whose loss is real but
/// tolerated may get either. More failed predictions than are tolerated are `Fail`. See [`PairedSignTest`].
#[derive(Clone, Copy, Debug, Default)]
pub struct SequentialJudge;

impl SequentialJudge {
    /// The tests for "worse at all" and for "not worse by more than is tolerated".
    fn tests(evidence: &Evidence, plan: &Plan) -> Result<(PairedSignTest, PairedSignTest)> {
        let Evidence { only_champion, only_candidate, same, .. } = *evidence;
        let test = |margin| PairedSignTest::from_counts(margin, only_champion, only_candidate, same);
        Ok((test(0.0)?, test(plan.tolerated_loss)?))
    }
}

impl RolloutJudge for SequentialJudge {
    fn verdict(&self, evidence: &Evidence, plan: &Plan) -> Result<Verdict> {
        if evidence.failures > plan.tolerated_failures {
            return Ok(Verdict::Fail);
        }
        let (strict, lenient) = Self::tests(evidence, plan)?;
        let half = plan.alpha / 2.0;
        Ok(if strict.evidence_worse().rejects(half) {
            Verdict::Fail
        } else if lenient.evidence_noninferior().rejects(half) {
            Verdict::Pass
        } else {
            Verdict::Inconclusive
        })
    }

    fn finding(&self, evidence: &Evidence, plan: &Plan) -> Result<Finding> {
        let verdict = self.verdict(evidence, plan)?;
        let summary = match verdict {
            Verdict::Fail if evidence.failures > plan.tolerated_failures => "the candidate failed to answer",
            Verdict::Fail => "the candidate is worse than the champion",
            Verdict::Pass => "the candidate is not worse than the champion by more than is tolerated",
            Verdict::Inconclusive => "the evidence does not decide yet",
        };
        let (strict, lenient) = Self::tests(evidence, plan)?;
        let failed = Measurement::new("failed_predictions", evidence.failures as f64);
        let mut finding = Finding::new("rollout", verdict, summary)
            .with(failed.with_bound(format!("<= {}", plan.tolerated_failures)));
        if let Some(d) = strict.difference(1.0 - plan.alpha)? {
            let d = Measurement::new("accuracy_difference", d.value).with_interval(d.low, d.high).with_n(d.n);
            finding = finding.with(d.with_bound(format!("> -{}", plan.tolerated_loss)));
        }
        let rejects = format!("{:.0}", 2.0 / plan.alpha);
        let worse = Measurement::new("e_value_worse", strict.evidence_worse().value());
        let fine = Measurement::new("e_value_not_worse", lenient.evidence_noninferior().value());
        Ok(finding.with(worse.with_bound(format!("< {rejects}"))).with(fine.with_bound(format!(">= {rejects}"))))
    }
}

/// A change of a rollout's status, with what decided it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Transition {
    /// When.
    pub at: Timestamp,
    /// The status it changed to.
    pub to: Status,
    /// What decided it.
    pub finding: Finding,
}

/// One version's trial against the champion.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rollout {
    id: RolloutId,
    plan: Plan,
    champion: ModelRef,
    candidate: ModelRef,
    status: Status,
    evidence: Evidence,
    history: Vec<Transition>,
}

impl Rollout {
    /// Begins with the plan's first step at `at`.
    #[must_use]
    pub fn start(id: RolloutId, plan: Plan, champion: ModelRef, candidate: ModelRef, at: Timestamp) -> Self {
        let status = Status::Running { step: 0, since: at };
        Self { id, plan, champion, candidate, status, evidence: Evidence::default(), history: Vec::new() }
    }

    /// Its id; also the salt of its splits.
    #[must_use]
    pub fn id(&self) -> RolloutId {
        self.id
    }

    /// Its plan.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The version under trial.
    #[must_use]
    pub fn candidate(&self) -> &ModelRef {
        &self.candidate
    }

    /// Where it stands.
    #[must_use]
    pub fn status(&self) -> &Status {
        &self.status
    }

    /// What is known so far.
    #[must_use]
    pub fn evidence(&self) -> &Evidence {
        &self.evidence
    }

    /// What it went through, oldest first.
    #[must_use]
    pub fn history(&self) -> &[Transition] {
        &self.history
    }

    /// The split that belongs to its status. While it runs, the split is mirrored, so that each request gives a pair of
    /// answers to compare.
    #[must_use]
    pub fn split(&self) -> Split {
        let only = |model: &ModelRef| Split::only(CHAMPION, model.clone()).salt(self.id.to_string());
        match self.status {
            Status::Running { step, .. } => {
                let share = self.plan.steps.get(step).map_or(0.0, |s| s.share);
                only(&self.champion).arm(CANARY, self.candidate.clone(), share).mirrored()
            }
            Status::Promoted => only(&self.candidate),
            Status::RolledBack => only(&self.champion),
        }
    }

    /// Tells it that a row both predicted was labelled. Nothing changes once the rollout has ended.
    pub fn observe_pair(&mut self, champion_correct: bool, candidate_correct: bool) {
        if !matches!(self.status, Status::Running { .. }) {
            return;
        }
        let cell = match (champion_correct, candidate_correct) {
            (true, false) => &mut self.evidence.only_champion,
            (false, true) => &mut self.evidence.only_candidate,
            _ => &mut self.evidence.same,
        };
        *cell += 1;
    }

    /// Tells it that the candidate failed to answer `count` times.
    pub fn observe_failures(&mut self, count: u64) {
        if matches!(self.status, Status::Running { .. }) {
            self.evidence.failures += count;
        }
    }

    /// Decides with the default judge.
    ///
    /// # Errors
    /// Those of [`SequentialJudge`].
    pub fn decide(&mut self, now: Timestamp) -> Result<Decision> {
        self.decide_with(&SequentialJudge, now)
    }

    /// Decides what to do at `now`, and changes the status accordingly.
    ///
    /// - `Fail` rolls back at once, in any step.
    /// - A step that has lasted long enough gives way to the next.
    /// - The last step promotes on `Pass`, and rolls back when [`Plan::patience`] is over without one: too little
    ///   evidence never promotes.
    ///
    /// # Errors
    /// Those of the judge.
    pub fn decide_with(&mut self, judge: &dyn RolloutJudge, now: Timestamp) -> Result<Decision> {
        let Status::Running { step, since } = self.status else { return Ok(Decision::Continue) };
        let verdict = judge.verdict(&self.evidence, &self.plan)?;
        let lasted = (now - since).to_std().unwrap_or(Duration::ZERO);
        let over = self.plan.steps.get(step).is_none_or(|s| lasted >= s.at_least);
        let last = step + 1 >= self.plan.steps.len();
        let impatient = lasted >= self.plan.patience;
        let (decision, to) = match verdict {
            Verdict::Fail => (Decision::Rollback, Status::RolledBack),
            _ if !over => return Ok(Decision::Continue),
            _ if !last => (Decision::Advance, Status::Running { step: step + 1, since: now }),
            Verdict::Pass => (Decision::Promote, Status::Promoted),
            Verdict::Inconclusive if impatient => (Decision::Rollback, Status::RolledBack),
            Verdict::Inconclusive => return Ok(Decision::Continue),
        };
        let mut finding = judge.finding(&self.evidence, &self.plan)?;
        if decision == Decision::Rollback && verdict == Verdict::Inconclusive {
            finding.summary = "no evidence that the candidate is good enough before patience ran out".to_owned();
        }
        self.status = to.clone();
        self.history.push(Transition { at: now, to, finding });
        Ok(decision)
    }

    /// Ends it by hand.
    pub fn abort(&mut self, now: Timestamp, reason: &str) {
        if matches!(self.status, Status::Running { .. }) {
            self.status = Status::RolledBack;
            let finding = Finding::new("rollout", Verdict::Fail, format!("aborted by hand: {reason}"));
            self.history.push(Transition { at: now, to: Status::RolledBack, finding });
        }
    }
}

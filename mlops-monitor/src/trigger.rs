//! From alert to retraining: when is it worth it, and how often may it happen?
//!
//! ```
//! use mlops_monitor::alert::{Alert, Severity};
//! use mlops_monitor::trigger::{Decision, RetrainTrigger};
//! use std::time::Duration;
//!
//! let day = Duration::from_secs(86_400);
//! let mut trigger = RetrainTrigger::builder().cool_down(14 * day).budget(6, 365 * day).min_labelled(2_000).build()?;
//!
//! let noon = "1997-01-06T12:00:00Z".parse()?;
//! let alert = Alert::new(noon, Severity::Warning, "error_rate.adwin", "elec2", "error rate rose from 0.12 to 0.24");
//! let Decision::NotYet { reason, .. } = trigger.consider(&alert, noon, 500) else { panic!() };
//! assert_eq!(reason, "500 newly labelled rows, 2000 needed");
//!
//! // The alert is kept in mind: once there are rows enough, it is due.
//! let request = trigger.due(noon + 7 * day, 2_300).expect("enough rows now");
//! assert_eq!(request.alert, alert.id);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use mlops_core::{AlertId, Timestamp};
use serde::{Deserialize, Serialize};

use crate::alert::{Alert, Severity};
use crate::time::{after, check_duration};
use crate::{Error, Result};

/// Asks for one retraining.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RetrainRequest {
    /// When it was decided.
    pub at: Timestamp,
    /// Why, in one sentence.
    pub reason: String,
    /// The alert that asked for it.
    pub alert: AlertId,
}

/// What a trigger makes of an alert.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Decision {
    /// Retrain now. The trigger counts it as done.
    Retrain(RetrainRequest),
    /// It would be worth it, but not now. The latest such alert stays pending; see [`RetrainTrigger::due`].
    NotYet {
        /// What stands in the way.
        reason: String,
        /// The earliest time at which it may no longer do so, where time alone decides.
        not_before: Option<Timestamp>,
    },
    /// The alert is none that retraining answers: below the severity, of another rule, or about what the latest
    /// retraining has answered already.
    Ignored {
        /// Why.
        reason: String,
    },
}

/// Options of a [`RetrainTrigger`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct RetrainTriggerBuilder {
    options: Options,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Options {
    min_severity: Severity,
    rules: BTreeSet<String>,
    cool_down: Duration,
    budget: u32,
    budget_per: Duration,
    min_labelled: u64,
}

impl RetrainTriggerBuilder {
    /// Alerts below this never retrain (default [`Severity::Warning`]).
    pub fn min_severity(mut self, severity: Severity) -> Self {
        self.options.min_severity = severity;
        self
    }

    /// Only alerts of these rules retrain: a rule's name, or the part before its dot (default: all rules).
    pub fn rules<R: Into<String>>(mut self, rules: impl IntoIterator<Item = R>) -> Self {
        self.options.rules = rules.into_iter().map(Into::into).collect();
        self
    }

    /// Least time between two retrainings (default 7 days).
    pub fn cool_down(mut self, cool_down: Duration) -> Self {
        self.options.cool_down = cool_down;
        self
    }

    /// At most `n` retrainings within any span of length `per` (default 4 within 30 days).
    pub fn budget(mut self, n: u32, per: Duration) -> Self {
        (self.options.budget, self.options.budget_per) = (n, per);
        self
    }

    /// Newly labelled rows below which there is nothing to learn from (default 1).
    pub fn min_labelled(mut self, rows: u64) -> Self {
        self.options.min_labelled = rows;
        self
    }

    /// Makes the trigger.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] for a budget of zero, or a duration beyond 1,000 years.
    pub fn build(self) -> Result<RetrainTrigger> {
        check_duration("cool_down", self.options.cool_down)?;
        check_duration("budget", self.options.budget_per)?;
        if self.options.budget == 0 {
            return Err(Error::invalid("budget", "must be at least 1"));
        }
        Ok(RetrainTrigger { options: self.options, done: VecDeque::new(), pending: None })
    }
}

/// Decides which alerts start a retraining, within a cool-down and a budget.
///
/// Its state is serde data: a process that is killed and restarted from it decides as if nothing had happened. It holds
/// at most `budget` times and one pending alert.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RetrainTrigger {
    options: Options,
    /// Times of the latest retrainings, at most `budget` of them, oldest first.
    done: VecDeque<Timestamp>,
    pending: Option<Pending>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Pending {
    alert: AlertId,
    reason: String,
}

impl RetrainTrigger {
    /// Options with their defaults; finish with [`RetrainTriggerBuilder::build`].
    pub fn builder() -> RetrainTriggerBuilder {
        let day = Duration::from_secs(86_400);
        RetrainTriggerBuilder {
            options: Options {
                min_severity: Severity::Warning,
                rules: BTreeSet::new(),
                cool_down: 7 * day,
                budget: 4,
                budget_per: 30 * day,
                min_labelled: 1,
            },
        }
    }

    /// Decides about one alert at `now`, given how many rows were labelled since the last training.
    ///
    /// An alert whose time is not after the latest retraining asks for nothing new: several detectors that notice one
    /// change start one retraining. A pending alert is replaced by a newer one that cannot be served either, and cleared by a retraining.
    pub fn consider(&mut self, alert: &Alert, now: Timestamp, labelled_rows: u64) -> Decision {
        if alert.severity < self.options.min_severity {
            let reason = format!("{} is below {}", alert.severity, self.options.min_severity);
            return Decision::Ignored { reason };
        }
        let family = alert.rule.split('.').next().unwrap_or_default();
        let rules = &self.options.rules;
        if !(rules.is_empty() || rules.contains(&alert.rule) || rules.contains(family)) {
            return Decision::Ignored { reason: format!("rule {} does not retrain", alert.rule) };
        }
        if let Some(done) = self.done.back().filter(|done| alert.at <= **done) {
            return Decision::Ignored { reason: format!("noticed before the retraining of {}", day(*done)) };
        }
        self.pending = Some(Pending { alert: alert.id, reason: format!("{}: {}", alert.rule, alert.summary) });
        match self.obstacle(now, labelled_rows) {
            Some((reason, not_before)) => Decision::NotYet { reason, not_before },
            None => match self.due(now, labelled_rows) {
                Some(request) => Decision::Retrain(request),
                // `due` finds nothing only without a pending alert or with an obstacle, and neither is the case.
                None => Decision::NotYet { reason: "nothing is pending".to_owned(), not_before: None },
            },
        }
    }

    /// The pending alert's retraining, if it may start at `now`. The trigger counts it as done.
    pub fn due(&mut self, now: Timestamp, labelled_rows: u64) -> Option<RetrainRequest> {
        if self.pending.is_none() || self.obstacle(now, labelled_rows).is_some() {
            return None;
        }
        let Pending { alert, reason } = self.pending.take()?;
        self.done.push_back(now);
        while self.done.len() > self.options.budget as usize {
            self.done.pop_front();
        }
        Some(RetrainRequest { at: now, reason, alert })
    }

    /// Whether an alert waits to be served.
    #[must_use]
    pub fn is_pending(&self) -> bool {
        self.pending.is_some()
    }

    /// Drops the pending alert, for instance because a person has seen to it.
    pub fn clear(&mut self) {
        self.pending = None;
    }

    fn obstacle(&self, now: Timestamp, labelled_rows: u64) -> Option<(String, Option<Timestamp>)> {
        let Options { cool_down, budget, budget_per, min_labelled, .. } = self.options;
        if labelled_rows < min_labelled {
            return Some((format!("{labelled_rows} newly labelled rows, {min_labelled} needed"), None));
        }
        let latest = self.done.back().map(|at| after(*at, cool_down)).filter(|until| now < *until);
        if let Some(until) = latest {
            return Some((format!("cooling down until {}", day(until)), Some(until)));
        }
        let full = self.done.len() >= budget as usize;
        let oldest = self.done.front().filter(|_| full).map(|at| after(*at, budget_per)).filter(|until| now < *until);
        oldest.map(|until| (format!("budget of {budget} is used up until {}", day(until)), Some(until)))
    }
}

fn day(at: Timestamp) -> String {
    at.format("%Y-%m-%d %H:%M UTC").to_string()
}

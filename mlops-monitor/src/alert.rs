//! Alerts: what monitoring tells people and triggers, and where it goes.
//!
//! ```
//! use mlops_monitor::alert::{Alert, Alerter, MemorySink, Severity};
//! use std::time::Duration;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let sink = MemorySink::default();
//! let mut alerter = Alerter::builder().cool_down(Duration::from_secs(86_400)).build()?;
//!
//! let noon = "1997-01-06T12:00:00Z".parse()?;
//! let alert = Alert::new(noon, Severity::Warning, "data_drift", "elec2", "nswprice has moved");
//! assert!(alerter.raise(alert.clone(), &sink).await?);
//! assert!(!alerter.raise(alert, &sink).await?); // the same again within a day
//! assert_eq!((sink.alerts().len(), alerter.suppressed()), (1, 1));
//! # Ok(()) }
//! ```
//!
//! # Rules
//! - An alert's id is derived from its time, rule, subject and summary, so one raised again after a restart is recognised.
//! - A sink delivers and does nothing else; what to leave out is the [`Alerter`]'s business.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use mlops_core::{AlertId, Finding, Timestamp};
use serde::{Deserialize, Serialize};

use crate::time::after;
use crate::{Error, Result};

/// How much an alert matters; ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(clippy::exhaustive_enums)] // Three levels, told apart by what one does: read, look into, act.
pub enum Severity {
    /// For the record: nobody need do anything.
    Info,
    /// Somebody should look into it in working hours.
    Warning,
    /// Answers are likely wrong now.
    Critical,
}

impl Severity {
    /// The name used on screen and in records: `info`, `warning`, `critical`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Something that monitoring noticed, with the evidence.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Alert {
    /// Derived from `at`, `rule`, `subject` and `summary`.
    pub id: AlertId,
    /// The event time of what was noticed, such as the end of a window.
    pub at: Timestamp,
    /// How much it matters.
    pub severity: Severity,
    /// Which rule noticed: `data_drift`, `prediction_drift`, `missing_values`, `error_rate.adwin`, `accuracy`, or one of the
    /// caller's.
    pub rule: String,
    /// What it is about: a [`Monitor`](crate::Monitor) says `elec2 v3`, or `elec2` if it watches every version.
    pub subject: String,
    /// One sentence that names the cause.
    pub summary: String,
    /// The numbers behind it, the most telling first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub evidence: Vec<Finding>,
}

impl Alert {
    /// An alert without evidence yet.
    pub fn new(
        at: Timestamp,
        severity: Severity,
        rule: impl Into<String>,
        subject: impl Into<String>,
        summary: impl Into<String>,
    ) -> Self {
        let (rule, subject, summary) = (rule.into(), subject.into(), summary.into());
        let id = AlertId::derived(at, format!("{at:?}\n{rule}\n{subject}\n{summary}").as_bytes());
        Self { id, at, severity, rule, subject, summary, evidence: Vec::new() }
    }

    /// Adds a finding.
    #[must_use]
    pub fn with(mut self, finding: Finding) -> Self {
        self.evidence.push(finding);
        self
    }
}

/// `warning data_drift elec2 at 1997-01-13T00:00:00Z: nswprice has moved`
impl fmt::Display for Alert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { severity, rule, subject, summary, .. } = self;
        let at = self.at.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true);
        write!(f, "{severity} {rule} {subject} at {at}: {summary}")
    }
}

/// Takes alerts to where people or programs see them.
///
/// # Contract
/// - **At least once.** `Ok` means the receiver has it; an alert sent again carries the same id, by which receivers drop
///   repeats.
/// - **Order.** Alerts sent one after the other arrive in that order; concurrent ones in any.
/// - **Errors.** [`Error::Sink`] says whether trying again may help. The sink itself is usable afterwards.
/// - **Cancel safety.** Dropping a `send` future leaves the alert delivered or not; send it again.
/// - **Clones** and pointers share one sink. **No hidden runtime:** none is started, none is blocked.
#[async_trait]
pub trait AlertSink: fmt::Debug + fmt::Display + Send + Sync + 'static {
    /// Delivers one alert.
    async fn send(&self, alert: &Alert) -> Result<()>;
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<S: AlertSink + ?Sized> AlertSink for Arc<S> {
    async fn send(&self, alert: &Alert) -> Result<()> {
        (**self).send(alert).await
    }
}

/// Alerts as `tracing` events, target `mlops_monitor::alert`: `info`, `warn` or `error` by severity.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogSink;

impl fmt::Display for LogSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("log")
    }
}

#[async_trait]
impl AlertSink for LogSink {
    async fn send(&self, alert: &Alert) -> Result<()> {
        let Alert { id, at, rule, subject, summary, .. } = alert;
        match alert.severity {
            Severity::Info => tracing::info!(%id, %at, %rule, %subject, "{summary}"),
            Severity::Warning => tracing::warn!(%id, %at, %rule, %subject, "{summary}"),
            Severity::Critical => tracing::error!(%id, %at, %rule, %subject, "{summary}"),
        }
        Ok(())
    }
}

/// Alerts in memory: the reference implementation. Clones share them; it keeps all it is sent.
#[derive(Clone, Debug, Default)]
pub struct MemorySink(Arc<Mutex<Vec<Alert>>>);

impl MemorySink {
    /// The alerts so far, oldest first, each id once.
    #[must_use]
    pub fn alerts(&self) -> Vec<Alert> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl fmt::Display for MemorySink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("memory")
    }
}

#[async_trait]
impl AlertSink for MemorySink {
    async fn send(&self, alert: &Alert) -> Result<()> {
        let mut alerts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !alerts.iter().any(|known| known.id == alert.id) {
            alerts.push(alert.clone());
        }
        Ok(())
    }
}

/// Several sinks as one: each gets every alert, in the order given, whether the others fail or not.
///
/// `send` returns the first error, after all sinks have been tried. Sending again repeats the alert to those that had
/// it; see the contract.
#[derive(Clone, Debug)]
pub struct FanOut(Vec<Arc<dyn AlertSink>>);

impl FanOut {
    /// One sink made of these.
    #[must_use]
    pub fn new(sinks: impl IntoIterator<Item = Arc<dyn AlertSink>>) -> Self {
        Self(sinks.into_iter().collect())
    }
}

impl fmt::Display for FanOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, sink) in self.0.iter().enumerate() {
            write!(f, "{}{sink}", if i == 0 { "" } else { " + " })?;
        }
        Ok(())
    }
}

#[async_trait]
impl AlertSink for FanOut {
    async fn send(&self, alert: &Alert) -> Result<()> {
        let mut outcome = Ok(());
        for sink in &self.0 {
            let sent = sink.send(alert).await;
            outcome = outcome.and(sent);
        }
        outcome
    }
}

/// Options of an [`Alerter`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct AlerterBuilder {
    cool_down: Duration,
    min_severity: Severity,
}

impl AlerterBuilder {
    /// For how long, in event time, an alert of the same rule and subject is left out (default one day; zero: never).
    pub fn cool_down(mut self, cool_down: Duration) -> Self {
        self.cool_down = cool_down;
        self
    }

    /// Alerts below this are left out (default [`Severity::Info`]: none).
    pub fn min_severity(mut self, severity: Severity) -> Self {
        self.min_severity = severity;
        self
    }

    /// Makes the alerter.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] for a cool-down beyond 1,000 years.
    pub fn build(self) -> Result<Alerter> {
        crate::time::check_duration("cool_down", self.cool_down)?;
        let Self { cool_down, min_severity } = self;
        Ok(Alerter { cool_down, min_severity, suppressed: 0, recent: BTreeMap::new() })
    }
}

/// Leaves out what has just been said: alerts of the same rule and subject within the cool-down.
///
/// An alert more severe than the last one that went out passes at once. Its state is serde data, and holds one entry for
/// each rule and subject heard of within a cool-down.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Alerter {
    cool_down: Duration,
    min_severity: Severity,
    suppressed: u64,
    /// By rule, then subject.
    recent: BTreeMap<String, BTreeMap<String, Sent>>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Sent {
    id: AlertId,
    at: Timestamp,
    severity: Severity,
}

impl Alerter {
    /// Options with their defaults; finish with [`AlerterBuilder::build`].
    pub fn builder() -> AlerterBuilder {
        AlerterBuilder { cool_down: Duration::from_secs(86_400), min_severity: Severity::Info }
    }

    /// Whether `alert` would go out now; changes nothing.
    #[must_use]
    pub fn admits(&self, alert: &Alert) -> bool {
        if alert.severity < self.min_severity {
            return false;
        }
        let Some(last) = self.recent.get(&alert.rule).and_then(|by_subject| by_subject.get(&alert.subject)) else {
            return true;
        };
        last.id != alert.id && (alert.severity > last.severity || alert.at >= after(last.at, self.cool_down))
    }

    /// Sends `alert` unless it repeats another, and says whether it went out.
    ///
    /// # Errors
    /// Those of the sink. The alert then counts as not sent, so that it can be raised again.
    pub async fn raise(&mut self, alert: Alert, sink: &dyn AlertSink) -> Result<bool> {
        if !self.admits(&alert) {
            self.suppressed += 1;
            return Ok(false);
        }
        sink.send(&alert).await?;
        self.note(alert);
        Ok(true)
    }

    fn note(&mut self, alert: Alert) {
        let Alert { id, at, severity, rule, subject, .. } = alert;
        let cool_down = self.cool_down;
        for by_subject in self.recent.values_mut() {
            by_subject.retain(|_, sent| at < after(sent.at, cool_down));
        }
        self.recent.retain(|_, by_subject| !by_subject.is_empty());
        self.recent.entry(rule).or_default().insert(subject, Sent { id, at, severity });
    }

    /// Alerts left out so far.
    #[must_use]
    pub fn suppressed(&self) -> u64 {
        self.suppressed
    }
}

impl Error {
    /// An [`Error::Sink`], for sinks outside this crate.
    pub fn sink(
        sink: impl fmt::Display,
        retryable: bool,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Sink { sink: sink.to_string(), retryable, source: source.into() }
    }
}

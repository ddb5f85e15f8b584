use std::fmt;
use std::sync::Arc;

use mlops_core::{Finding, Verdict};
use serde::{Deserialize, Serialize};

use super::{Gate, Subject};
use crate::Result;

/// What a gate's verdict does to the suite's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Severity {
    /// It counts.
    Block,
    /// It is reported, and nothing more.
    Warn,
}

/// Gates in order, each of which blocks or only warns. Clones share the gates.
#[derive(Clone, Debug)]
#[must_use = "a suite checks nothing until `run`"]
pub struct GateSuite {
    name: String,
    gates: Vec<(Severity, Arc<dyn Gate>)>,
}

impl GateSuite {
    /// A suite without gates.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), gates: Vec::new() }
    }

    /// Adds a gate that must pass.
    pub fn block(self, gate: impl Gate + 'static) -> Self {
        self.gate(Severity::Block, gate)
    }

    /// Adds a gate that only warns.
    pub fn warn(self, gate: impl Gate + 'static) -> Self {
        self.gate(Severity::Warn, gate)
    }

    /// Adds a gate with a severity.
    pub fn gate(mut self, severity: Severity, gate: impl Gate + 'static) -> Self {
        self.gates.push((severity, Arc::new(gate)));
        self
    }

    /// Asks every gate, in order.
    ///
    /// The suite's verdict joins those of the blocking gates by [`Verdict::and`]; without one there is no evidence, and
    /// it is [`Verdict::Inconclusive`].
    ///
    /// # Errors
    /// The first error of a gate, whatever its severity.
    pub fn run(&self, subject: &Subject<'_>) -> Result<SuiteReport> {
        let entries = self
            .gates
            .iter()
            .map(|(severity, gate)| Ok(SuiteEntry { severity: *severity, finding: gate.check(subject)? }))
            .collect::<Result<Vec<_>>>()?;
        let blocking = entries.iter().filter(|e| e.severity == Severity::Block).map(|e| e.finding.verdict);
        let verdict = blocking.reduce(Verdict::and).unwrap_or(Verdict::Inconclusive);
        Ok(SuiteReport { suite: self.name.clone(), verdict, entries })
    }
}

/// What a suite found. `Display` is a table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SuiteReport {
    /// The suite's name.
    pub suite: String,
    /// The verdicts of the blocking gates, joined.
    pub verdict: Verdict,
    /// What each gate found, in order.
    pub entries: Vec<SuiteEntry>,
}

/// What one gate of a suite found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SuiteEntry {
    /// Whether it counts.
    pub severity: Severity,
    /// What it found.
    pub finding: Finding,
}

impl SuiteReport {
    /// What every gate found, in order: the evidence to keep with a promotion.
    pub fn findings(&self) -> impl Iterator<Item = &Finding> {
        self.entries.iter().map(|e| &e.finding)
    }

    /// What the gate of that name found.
    #[must_use]
    pub fn finding(&self, gate: &str) -> Option<&Finding> {
        self.findings().find(|f| f.check == gate)
    }
}

impl fmt::Display for SuiteReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.findings().map(|f| f.check.chars().count()).max().unwrap_or(0).max(4);
        writeln!(f, "{}: {}", self.suite, self.verdict)?;
        for SuiteEntry { severity, finding } in &self.entries {
            let severity = if *severity == Severity::Warn { "  (warns only)" } else { "" };
            let (verdict, check) = (finding.verdict, &finding.check);
            writeln!(f, "  {verdict:12}  {check:width$}  {}{severity}", finding.summary)?;
            for measurement in &finding.measurements {
                writeln!(f, "  {:12}  {:width$}    {measurement}", "", "")?;
            }
        }
        Ok(())
    }
}

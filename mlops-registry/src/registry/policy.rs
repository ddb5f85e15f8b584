//! What it takes to move an alias or a stage.

use std::collections::BTreeSet;
use std::fmt::{self, Display};
use std::time::Duration;

use mlops_core::Role;
use serde::{Deserialize, Serialize};

/// Which checks must stand behind a promotion.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum EvidenceRule {
    /// None, but those that the policy names.
    #[default]
    None,
    /// At least one finding, and every one a pass; `Inconclusive` is no pass.
    AllPass,
}

impl EvidenceRule {
    /// The rule in one word, as stored: `none`, `all_pass`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::AllPass => "all_pass",
        }
    }
}

/// What it takes to move an alias, or a version into a stage. The default asks for nothing.
///
/// ```
/// use std::time::Duration;
/// use mlops_registry::{AliasPolicy, EvidenceRule};
/// let week = Duration::from_secs(7 * 24 * 3600);
/// let policy = AliasPolicy::approvals(2)
///     .reviewers(["rob", "ria", "zoe"])
///     .approvals_max_age(week)
///     .evidence(EvidenceRule::AllPass)
///     .check("fairness")
///     .evidence_max_age(week);
/// assert_eq!(
///     policy.to_string(),
///     "2 approvals from ria, rob or zoe, none older than 7 days; checks that all passed, with fairness among them, \
///      handed in within 7 days"
/// );
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct AliasPolicy {
    /// Approvals by different people, none of them the version's author or the one who asked.
    pub approvals: u32,
    /// Whose approvals count, by name. With none and no `roles`: everybody's who may review.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub reviewers: BTreeSet<String>,
    /// Roles on the alias or stage that make an approval count, beside the names: as held when it was given.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub roles: BTreeSet<Role>,
    /// How old an approval may be when the move is made; one that is older may be given again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub approvals_max_age: Option<Duration>,
    /// Checks that must have passed.
    pub evidence: EvidenceRule,
    /// Checks that must be there by name, and have passed.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub checks: BTreeSet<String>,
    /// How long ago the request may have handed the checks in when the move is made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evidence_max_age: Option<Duration>,
}

impl AliasPolicy {
    /// Asks for that many approvals, and no evidence.
    #[must_use]
    pub fn approvals(approvals: u32) -> Self {
        Self { approvals, ..Self::default() }
    }

    /// Counts the approvals of these people.
    #[must_use]
    pub fn reviewers<S: Into<String>>(mut self, names: impl IntoIterator<Item = S>) -> Self {
        self.reviewers.extend(names.into_iter().map(Into::into));
        self
    }

    /// Counts the approvals of those who hold that role on the alias or stage.
    #[must_use]
    pub fn role(mut self, role: Role) -> Self {
        self.roles.insert(role);
        self
    }

    /// Lets approvals expire.
    #[must_use]
    pub fn approvals_max_age(mut self, age: Duration) -> Self {
        self.approvals_max_age = Some(age);
        self
    }

    /// Asks for evidence as well.
    #[must_use]
    pub fn evidence(mut self, evidence: EvidenceRule) -> Self {
        self.evidence = evidence;
        self
    }

    /// Asks for a passed check of that name.
    #[must_use]
    pub fn check(mut self, name: impl Into<String>) -> Self {
        self.checks.insert(name.into());
        self
    }

    /// Lets evidence expire.
    #[must_use]
    pub fn evidence_max_age(mut self, age: Duration) -> Self {
        self.evidence_max_age = Some(age);
        self
    }

    /// Whether it asks for anything at all. What such an alias points at, or is in such a stage, is not deleted.
    #[must_use]
    pub fn protects(&self) -> bool {
        self.approvals > 0 || self.asks_for_evidence()
    }

    /// Whether it asks for checks.
    pub(crate) fn asks_for_evidence(&self) -> bool {
        self.evidence != EvidenceRule::None || !self.checks.is_empty()
    }
}

impl Display for AliasPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.protects() {
            return f.write_str("nothing");
        }
        if self.approvals > 0 {
            let plural = if self.approvals == 1 { "" } else { "s" };
            write!(f, "{} approval{plural}", self.approvals)?;
            let who = counted(&self.reviewers, &self.roles);
            if !who.is_empty() {
                write!(f, " from {who}")?;
            }
            if let Some(age) = self.approvals_max_age {
                write!(f, ", none older than {}", span(age))?;
            }
        }
        if self.asks_for_evidence() {
            let lead = if self.approvals > 0 { "; " } else { "" };
            let named: Vec<&str> = self.checks.iter().map(String::as_str).collect();
            match (self.evidence, named.is_empty()) {
                (EvidenceRule::AllPass, true) => write!(f, "{lead}checks that all passed")?,
                (EvidenceRule::AllPass, false) => {
                    write!(f, "{lead}checks that all passed, with {} among them", list(&named, "and"))?;
                }
                (EvidenceRule::None, _) => write!(f, "{lead}passed checks: {}", list(&named, "and"))?,
            }
            if let Some(age) = self.evidence_max_age {
                write!(f, ", handed in within {}", span(age))?;
            }
        }
        Ok(())
    }
}

/// Whose approvals count: `ria, rob or a reviewer`; empty if everybody's do.
pub(crate) fn counted<'a>(
    names: impl IntoIterator<Item = &'a String>,
    roles: impl IntoIterator<Item = &'a Role>,
) -> String {
    let mut parts: Vec<String> = names.into_iter().cloned().collect();
    parts.extend(roles.into_iter().map(|role| {
        let article = if role.as_str().starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
        format!("{article} {}", role.as_str())
    }));
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    list(&parts, "or")
}

/// `a, b and c`.
pub(crate) fn list(parts: &[&str], last: &str) -> String {
    match parts {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [most @ .., end] => format!("{} {last} {end}", most.join(", ")),
    }
}

/// A duration for people, in the largest unit that tells it whole: `7 days`, `36 hours`.
pub(crate) fn span(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let units = [(86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second")];
    let (unit, name) =
        units.into_iter().find(|(unit, _)| seconds.is_multiple_of(*unit) && seconds > 0).unwrap_or((1, "second"));
    let count = seconds / unit;
    format!("{count} {name}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_read_well() {
        let hour = Duration::from_secs(3_600);
        let cases = [
            (AliasPolicy::default(), "nothing"),
            (AliasPolicy::approvals(1), "1 approval"),
            (
                AliasPolicy::approvals(2).role(Role::Admin).role(Role::Reviewer),
                "2 approvals from a reviewer or an admin",
            ),
            (AliasPolicy::approvals(1).reviewers(["rob"]).role(Role::Admin), "1 approval from rob or an admin"),
            (AliasPolicy::default().evidence(EvidenceRule::AllPass), "checks that all passed"),
            (
                AliasPolicy::default().check("b").check("a").evidence_max_age(hour),
                "passed checks: a and b, handed in within 1 hour",
            ),
            (AliasPolicy::approvals(1).approvals_max_age(hour * 36), "1 approval, none older than 36 hours"),
        ];
        for (policy, text) in cases {
            assert_eq!(policy.to_string(), text);
            assert_eq!(serde_json::from_str::<AliasPolicy>(&serde_json::to_string(&policy).unwrap()).unwrap(), policy);
        }
    }

    #[test]
    fn policies_of_the_first_schema_are_read() {
        let policy: AliasPolicy = serde_json::from_str(r#"{"approvals":2,"evidence":"all_pass"}"#).unwrap();
        assert_eq!(policy, AliasPolicy::approvals(2).evidence(EvidenceRule::AllPass));
    }

    #[test]
    fn spans_are_told_whole() {
        let spans = [0, 1, 60, 90, 3_600, 86_400, 129_600].map(|s| span(Duration::from_secs(s)));
        assert_eq!(spans, ["0 seconds", "1 second", "1 minute", "90 seconds", "1 hour", "1 day", "36 hours"]);
    }
}

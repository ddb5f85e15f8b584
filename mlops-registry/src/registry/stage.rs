//! Stages, and which moves between them are legal.

use std::collections::BTreeSet;
use std::fmt::{self, Display};

use serde::{Deserialize, Serialize};

/// The stages of a model's versions, and the moves between them that are legal.
///
/// ```
/// use mlops_registry::StageTable;
/// let strict = StageTable::strict().allow("None", "Archived");
/// assert!(strict.allows("None", "Staging") && strict.allows("None", "Archived"));
/// assert!(!strict.allows("None", "Production"));
/// assert_eq!(StageTable::default().find("production"), Some("Production"));
/// assert_eq!(strict.to_string(), "None → Archived or Staging, Staging → Production, Production → Archived");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct StageTable {
    /// All stages. A version begins in the first.
    pub stages: Vec<String>,
    /// The legal moves, from and to; any when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moves: Option<BTreeSet<(String, String)>>,
    /// Where a stage's other versions go when one takes their place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive: Option<String>,
}

impl Default for StageTable {
    /// MLflow's: `None`, `Staging`, `Production`, `Archived`, and any move.
    fn default() -> Self {
        Self::new(["None", "Staging", "Production", "Archived"]).archive("Archived")
    }
}

impl StageTable {
    /// These stages, any move between them, and no stage for what is replaced.
    pub fn new<S: Into<String>>(stages: impl IntoIterator<Item = S>) -> Self {
        Self { stages: stages.into_iter().map(Into::into).collect(), moves: None, archive: None }
    }

    /// MLflow's stages, one step at a time: `None` → `Staging` → `Production` → `Archived`.
    #[must_use]
    pub fn strict() -> Self {
        Self::default().allow("None", "Staging").allow("Staging", "Production").allow("Production", "Archived")
    }

    /// Makes a move legal. The first such call makes all others illegal.
    #[must_use]
    pub fn allow(mut self, from: impl Into<String>, to: impl Into<String>) -> Self {
        self.moves.get_or_insert_default().insert((from.into(), to.into()));
        self
    }

    /// Says where a stage's other versions go when one takes their place.
    #[must_use]
    pub fn archive(mut self, stage: impl Into<String>) -> Self {
        self.archive = Some(stage.into());
        self
    }

    /// The stage that a version begins in.
    #[must_use]
    pub fn first(&self) -> &str {
        self.stages.first().map_or("", String::as_str)
    }

    /// The stage of that name as it is written here, whatever the case of the letters given.
    #[must_use]
    pub fn find(&self, stage: &str) -> Option<&str> {
        self.stages.iter().find(|s| s.eq_ignore_ascii_case(stage)).map(String::as_str)
    }

    /// Whether that move is legal.
    #[must_use]
    pub fn allows(&self, from: &str, to: &str) -> bool {
        self.moves.as_ref().is_none_or(|moves| moves.iter().any(|(f, t)| f == from && t == to))
    }

    /// Where a version in that stage may go.
    pub(crate) fn targets(&self, from: &str) -> Vec<&str> {
        match &self.moves {
            None => self.stages.iter().map(String::as_str).filter(|s| *s != from).collect(),
            Some(moves) => moves.iter().filter(|(f, _)| f == from).map(|(_, to)| to.as_str()).collect(),
        }
    }

    #[cfg(any(feature = "sqlite", feature = "postgres"))]
    /// Whether every part of it names a stage, and each stage is there once.
    pub(crate) fn check(&self) -> mlops_core::Result<()> {
        use mlops_core::Error;
        if self.stages.is_empty() || self.stages.len() > 100 {
            return Err(Error::invalid("stages", format!("{} of them; name 1 to 100", self.stages.len())));
        }
        for (place, stage) in self.stages.iter().enumerate() {
            crate::check::name("stage", stage)?;
            if self.stages[..place].iter().any(|s| s.eq_ignore_ascii_case(stage)) {
                return Err(Error::invalid("stages", format!("{stage:?} is there twice, but for the case of letters")));
            }
        }
        let named = self.moves.iter().flatten().flat_map(|(from, to)| [from, to]).chain(&self.archive);
        for stage in named {
            if !self.stages.contains(stage) {
                return Err(Error::invalid("stages", format!("{stage:?} is not one of {}", self.stages.join(", "))));
            }
        }
        Ok(())
    }
}

impl Display for StageTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.moves.is_none() {
            return write!(f, "{}: any move", self.stages.join(", "));
        }
        let open = self.stages.iter().filter_map(|from| {
            let to = self.targets(from);
            (!to.is_empty()).then(|| format!("{from} → {}", super::policy::list(&to, "or")))
        });
        f.write_str(&open.collect::<Vec<_>>().join(", "))
    }
}

#[cfg(all(test, any(feature = "sqlite", feature = "postgres")))]
mod tests {
    use super::*;

    #[test]
    fn a_table_that_contradicts_itself_is_refused() {
        let bad = [
            StageTable::new::<&str>([]),
            StageTable::new(["dev", "Dev"]),
            StageTable::new(["dev", ""]),
            StageTable::new(["dev"]).allow("dev", "live"),
            StageTable::new(["dev"]).archive("old"),
            StageTable::new((0..101).map(|n| n.to_string())),
        ];
        for table in bad {
            assert!(table.check().is_err(), "{table:?}");
        }
        for good in [StageTable::default(), StageTable::strict(), StageTable::new(["live"])] {
            good.check().unwrap();
            assert_eq!(serde_json::from_str::<StageTable>(&serde_json::to_string(&good).unwrap()).unwrap(), good);
        }
    }
}

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display, Write as _};

use super::Run;

/// Runs side by side: a row for each, a column for every param, metric and tag in which they differ.
///
/// ```
/// # #[cfg(feature = "sqlite")] #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use mlops_core::store::MemoryStore;
/// # use mlops_core::{Principal, Role, clock::from_micros};
/// use mlops_registry::{LogBatch, NewExperiment, NewRun, RunTable, SqlRegistry, TrackingStore, TrackingStoreExt};
/// # let registry = SqlRegistry::builder().artifacts(MemoryStore::default()).open_in_memory().await?;
/// # let ana = Principal::new("ana").with_role(Role::Contributor);
/// registry.create_experiment(&ana, NewExperiment::new("prices")).await?;
/// for (name, rate, loss) in [("slow", 0.01, 0.5), ("fast", 0.1, 0.25)] {
///     let run = registry.start_run(&ana, NewRun::new("prices").name(name)).await?.id();
///     let batch = LogBatch::new().param("lr", rate).param("layers", 3).metric("loss", loss, 1, from_micros(0));
///     registry.log_batch(&ana, run, batch).await?;
/// }
/// let table = RunTable::new(&registry.newest_runs("prices", 10).await?);
/// assert_eq!(table.to_string(), "run   params.lr  metrics.loss\nfast  0.1                0.25\nslow  0.01                0.5\n");
/// # Ok(()) }
/// # #[cfg(not(feature = "sqlite"))] fn main() {}
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunTable {
    header: Vec<String>,
    rows: Vec<Vec<String>>,
    /// Columns of numbers, which stand to the right.
    numbers: BTreeSet<usize>,
}

/// Tags of MLflow's own, which say where a run came from rather than what it is.
const RESERVED: &str = "mlflow.";

impl RunTable {
    /// Compares runs, in the order given.
    #[must_use]
    pub fn new(runs: &[Run]) -> Self {
        let mut table = Self { header: vec!["run".to_owned()], rows: Vec::new(), numbers: BTreeSet::new() };
        let name = |run: &Run| if run.info.name.is_empty() { run.id().to_string() } else { run.info.name.clone() };
        // Names that repeat do not tell runs apart.
        let names: BTreeSet<String> = runs.iter().map(name).collect();
        let title = |run: &Run| if names.len() == runs.len() { name(run) } else { run.id().to_string() };
        table.rows = runs.iter().map(|run| vec![title(run)]).collect();
        table.add("params", runs, |run| run.params.clone(), false);
        let metrics = |run: &Run| run.metrics.iter().map(|(key, m)| (key.clone(), m.value.to_string())).collect();
        table.add("metrics", runs, metrics, true);
        let own = |run: &Run| run.tags.clone().into_iter().filter(|(key, _)| !key.starts_with(RESERVED)).collect();
        table.add("tags", runs, own, false);
        table
    }

    fn add(&mut self, prefix: &str, runs: &[Run], of: impl Fn(&Run) -> BTreeMap<String, String>, numbers: bool) {
        let values: Vec<BTreeMap<String, String>> = runs.iter().map(of).collect();
        let keys: BTreeSet<&String> = values.iter().flat_map(BTreeMap::keys).collect();
        for key in keys {
            let differ = values.windows(2).any(|pair| pair[0].get(key) != pair[1].get(key));
            if differ || runs.len() == 1 {
                if numbers {
                    self.numbers.insert(self.header.len());
                }
                self.header.push(format!("{prefix}.{key}"));
                for (row, values) in self.rows.iter_mut().zip(&values) {
                    row.push(values.get(key).cloned().unwrap_or_default());
                }
            }
        }
    }

    /// The names of the columns: `run`, `params.lr`, `metrics.loss`.
    #[must_use]
    pub fn header(&self) -> &[String] {
        &self.header
    }

    /// The rows, with '' where a run has no such value.
    #[must_use]
    pub fn rows(&self) -> &[Vec<String>] {
        &self.rows
    }

    /// As a table in Markdown.
    #[must_use]
    pub fn to_markdown(&self) -> String {
        let cells = |row: &[String]| {
            let cells: Vec<String> =
                row.iter().map(|cell| one_line(cell).replace('\\', "\\\\").replace('|', "\\|")).collect();
            format!("| {} |\n", cells.join(" | "))
        };
        let mut out = cells(&self.header);
        let rule = |i| if self.numbers.contains(&i) { "---:" } else { "---" };
        let rules: Vec<&str> = (0..self.header.len()).map(rule).collect();
        // Writing to a string does not fail.
        let _ = writeln!(out, "| {} |", rules.join(" | "));
        self.rows.iter().for_each(|row| out.push_str(&cells(row)));
        out
    }
}

/// A value on one line, and not a long one.
fn one_line(cell: &str) -> String {
    let mut line: String = cell.chars().take(80).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if line.len() < cell.len() {
        line.push('…');
    }
    line
}

impl Display for RunTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<Vec<String>> = std::iter::once(&self.header)
            .chain(&self.rows)
            .map(|row| row.iter().map(|cell| one_line(cell)).collect())
            .collect();
        let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..self.header.len()).map(width).collect();
        for line in &lines {
            let mut out = String::new();
            for (i, (cell, width)) in line.iter().zip(&widths).enumerate() {
                let gap = if i == 0 { "" } else { "  " };
                match self.numbers.contains(&i) {
                    true => write!(out, "{gap}{cell:>width$}")?,
                    false => write!(out, "{gap}{cell:<width$}")?,
                }
            }
            writeln!(f, "{}", out.trim_end())?;
        }
        Ok(())
    }
}

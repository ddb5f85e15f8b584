use std::collections::BTreeSet;
use std::fmt;

use arrow::array::RecordBatch;
use futures::TryStreamExt;
use serde_json::json;

use super::expr::{Expr, Value, col};
use super::retention::{reached, used_by};
use super::{DatasetStore, DatasetStoreExt, DatasetVersion, MoveTag, NewDataset, Removal, Scan};
use crate::audit::{AuditEvent, AuditLog};
use crate::lineage::{LineageStore, NodeKind, NodeRef};
use crate::{DatasetRef, Digest, Error, Result, Timestamp};

/// Rows to be forgotten: those that have one of some values in a key column, in every dataset that has that column.
#[derive(Clone)]
#[must_use = "rows are erased by `erase`"]
pub struct Erasure {
    column: String,
    values: Vec<Value>,
    despite_use: bool,
    reason: String,
    by: String,
    at: Timestamp,
}

impl fmt::Debug for Erasure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { column, despite_use, by, at, .. } = self;
        let mut shown = f.debug_struct("Erasure");
        shown.field("column", column).field("values", &"***").field("despite_use", despite_use);
        shown.field("by", by).field("at", at).finish_non_exhaustive()
    }
}

impl Erasure {
    /// Rows whose `column` is one of `values`, asked for by `by` at `at`.
    pub fn new<V: Into<Value>>(
        column: impl Into<String>,
        values: impl IntoIterator<Item = V>,
        by: impl Into<String>,
        at: Timestamp,
    ) -> Self {
        let values = values.into_iter().map(Into::into).collect();
        Self { column: column.into(), values, despite_use: false, reason: String::new(), by: by.into(), at }
    }

    /// Why, for the record. Do not put there what is to be forgotten.
    pub fn because(mut self, reason: impl Into<String>) -> Self {
        self.reason = reason.into();
        self
    }

    /// Removes also the versions that runs and models were made from. Those models cannot be made again after that.
    pub fn despite_use(mut self) -> Self {
        self.despite_use = true;
        self
    }

    pub(super) fn by(mut self, by: &str) -> Self {
        by.clone_into(&mut self.by);
        self
    }

    /// The rows with those of the values that a column can be compared with, and whether it holds none of the others: as
    /// one kind of column has a value as a number and another as text, it is enough to be given in the column's own.
    fn rows(&self, column: &RecordBatch) -> (Option<Expr>, bool) {
        let text = |value: &Value| match value {
            Value::Text(text) => text.clone(),
            other => other.to_string(),
        };
        let comparable = |value: &&Value| col(&self.column).eq((*value).clone()).evaluate(column).is_ok();
        let (fit, unfit): (Vec<_>, Vec<_>) = self.values.iter().partition(comparable);
        let all = unfit.iter().all(|value| fit.iter().any(|other| text(other) == text(value)));
        let rows = (!fit.is_empty()).then(|| col(&self.column).is_in(fit.into_iter().cloned()));
        (rows, all)
    }
}

/// A version whose key column is of another kind than some of the values, so that it was not looked through for these.
#[derive(Clone, Debug)]
pub struct Unchecked {
    /// The version.
    pub version: DatasetRef,
    /// The type of its key column.
    pub data_type: String,
}

/// A version that holds the rows and stays.
#[derive(Clone, Debug)]
pub struct Held {
    /// The version.
    pub version: DatasetRef,
    /// What was made from it.
    pub by: NodeRef,
}

/// What [`erase`] found and did. It has none of the data.
#[derive(Clone, Debug, Default)]
pub struct ErasureReport {
    /// The key column.
    pub column: String,
    /// Every version that held such rows, with their number.
    pub contained: Vec<(DatasetRef, u64)>,
    /// The versions written without the rows, each with the version it follows.
    pub successors: Vec<(DatasetRef, DatasetVersion)>,
    /// Runs, model versions, deployments and prediction batches downstream of those that held the rows.
    pub affected: BTreeSet<NodeRef>,
    /// The versions that were removed; a garbage collection takes their bytes.
    pub removed: Vec<DatasetRef>,
    /// The versions that stay for what was made from them. Erase again once that is gone, or
    /// [`despite_use`](Erasure::despite_use).
    pub held: Vec<Held>,
    /// The versions that may hold such rows still. Erase again with the values as these versions have them: the text `"5"`
    /// besides the number 5.
    pub unchecked: Vec<Unchecked>,
}

impl fmt::Display for ErasureReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows: u64 = self.contained.iter().map(|(_, rows)| rows).sum();
        writeln!(f, "erasure by {}: {rows} rows in {} dataset versions", self.column, self.contained.len())?;
        for (before, after) in &self.successors {
            writeln!(f, "  {before} is followed by {after}")?;
        }
        for version in &self.removed {
            writeln!(f, "  {version} removed")?;
        }
        for held in &self.held {
            writeln!(f, "  {} stays: {} was made from it", held.version, held.by)?;
        }
        for Unchecked { version, data_type } in &self.unchecked {
            let column = &self.column;
            writeln!(f, "  {version} may hold more: {column} is {data_type}, erase also by values of that kind")?;
        }
        for node in &self.affected {
            writeln!(f, "  had seen the rows: {node}")?;
        }
        Ok(())
    }
}

/// Forgets rows: finds every version that holds them, writes successors without them for the newest and for tagged
/// versions (whose tags move), removes the versions that nothing was made from, and leaves a record in the audit log.
///
/// A successor has the time of the version it follows, and so its place among the others. A column that cannot be compared
/// with a value is not looked through for it: see [`ErasureReport::unchecked`]. Can be repeated: a second call finds only
/// what is left.
///
/// # Errors
/// Those of the stores; [`Error::InvalidInput`] for no values. What was done by then stays done: call it again.
pub async fn erase(
    store: &dyn DatasetStore,
    lineage: &dyn LineageStore,
    audit: &dyn AuditLog,
    erasure: &Erasure,
) -> Result<ErasureReport> {
    if erasure.values.is_empty() {
        return Err(Error::invalid("erasure", "names no values"));
    }
    let mut report = ErasureReport { column: erasure.column.clone(), ..ErasureReport::default() };
    for name in store.names().await? {
        let mut seen = BTreeSet::new();
        // An append to a version that was removed by now may have been done before that, and after the versions were
        // listed.
        while erase_from(store, lineage, erasure, &name, &mut seen, &mut report).await? {}
    }
    let names =
        |versions: &[DatasetRef]| versions.iter().map(|v| format!("{}@{}", v.name, v.digest)).collect::<Vec<_>>();
    let held: Vec<DatasetRef> = report.held.iter().map(|held| held.version.clone()).collect();
    let unchecked: Vec<DatasetRef> = report.unchecked.iter().map(|unchecked| unchecked.version.clone()).collect();
    let contained: Vec<DatasetRef> = report.contained.iter().map(|(version, _)| version.clone()).collect();
    let successors: Vec<DatasetRef> = report.successors.iter().map(|(_, after)| after.reference()).collect();
    let before = json!({
        "column": report.column,
        "rows": report.contained.iter().map(|(_, rows)| rows).sum::<u64>(),
        "versions": names(&contained),
    });
    let affected: Vec<String> = report.affected.iter().map(ToString::to_string).collect();
    let after = json!({
        "successors": names(&successors), "removed": names(&report.removed), "held": names(&held), "affected": affected,
        "unchecked": names(&unchecked),
    });
    let event = AuditEvent::new(erasure.at, &erasure.by, "dataset.erase", format!("column {}", report.column));
    audit.append(event.change(before, after).because(&erasure.reason)).await?;
    Ok(report)
}

/// Erases from the versions of a dataset that were not seen yet, and tells whether it removed any.
async fn erase_from(
    store: &dyn DatasetStore,
    lineage: &dyn LineageStore,
    erasure: &Erasure,
    name: &str,
    seen: &mut BTreeSet<Digest>,
    report: &mut ErasureReport,
) -> Result<bool> {
    let mut versions = store.versions(name).await?;
    let newest = versions.last().map(|version| version.digest);
    let removed = report.removed.len();
    versions.retain(|version| seen.insert(version.digest));
    for version in versions {
        let Some(column) = version.columns.iter().find(|column| column.name == erasure.column) else { continue };
        let reference = version.reference();
        let scan = Scan::all().columns([&erasure.column]);
        // No row is one of no values: only the column itself is asked for.
        let none = scan.clone().filter(col(&erasure.column).is_in::<Value>([]));
        let (wanted, all) = erasure.rows(&store.select(&version, none).await?);
        if !all {
            report.unchecked.push(Unchecked { version: reference.clone(), data_type: column.data_type.clone() });
        }
        let Some(wanted) = wanted else { continue };
        let mut found = store.scan(&version, scan.filter(wanted.clone())).await?;
        let mut rows = 0;
        while let Some(batch) = found.try_next().await? {
            rows += batch.num_rows() as u64;
        }
        if rows == 0 {
            continue;
        }
        report.contained.push((reference.clone(), rows));
        let reached = reached(lineage, &version).await?;
        report.affected.extend(reached.into_iter().filter(|node| node.kind != NodeKind::Dataset));
        let tags: Vec<_> = store.tags(name).await?.into_iter().filter(|t| t.version == Some(version.digest)).collect();
        let user = used_by(lineage, &version).await?;
        if newest == Some(version.digest) || !tags.is_empty() {
            let after = successor(store, lineage, erasure, &version, wanted, rows).await?;
            for tag in &tags {
                let change = match &after {
                    Some(after) => MoveTag::create(&tag.tag, after).from(&version),
                    None => MoveTag::remove(&tag.tag, &version),
                };
                store.tag(change.by(&erasure.by).at(erasure.at)).await?;
            }
            seen.extend(after.iter().map(|after| after.digest));
            report.successors.extend(after.map(|after| (reference.clone(), after)));
        }
        match user {
            Some(by) if !erasure.despite_use => report.held.push(Held { version: reference, by }),
            _ => {
                let reason = format!("erasure by column {}", erasure.column);
                match store.remove(&version, Removal { reason, by: erasure.by.clone(), at: erasure.at }).await {
                    // An append that was listed before it saw that its base was gone, and was taken back.
                    Err(Error::NotFound { .. }) => {}
                    removed => {
                        removed?;
                        report.removed.push(reference);
                    }
                }
            }
        }
    }
    Ok(report.removed.len() > removed)
}

/// The version without the rows; none if it would be empty.
async fn successor(
    store: &dyn DatasetStore,
    lineage: &dyn LineageStore,
    erasure: &Erasure,
    version: &DatasetVersion,
    wanted: Expr,
    rows: u64,
) -> Result<Option<DatasetVersion>> {
    if rows == version.rows {
        return Ok(None);
    }
    // A null is none of the values, though comparing says only that it is not known.
    let others = col(&erasure.column).is_null().or(wanted.not());
    let mut batches = store.scan(version, Scan::all().filter(others)).await?;
    let Some(first) = batches.try_next().await? else { return Ok(None) };
    let schema = first.schema();
    let rest = futures::stream::once(futures::future::ready(Ok(first)));
    let by: Vec<String> = version.files.first().map(|f| f.partition.keys().cloned().collect()).unwrap_or_default();
    let new = NewDataset::stream(&version.name, schema, futures::StreamExt::chain(rest, batches))
        .partition_by(by)
        .parent(version)
        .source(format!("erasure of {rows} rows by column {}", erasure.column))
        .author(&erasure.by)
        .at(version.created_at);
    let after = store.commit(new).await?;
    let kept = store.read(&after).await?.try_fold(0, |n, batch| async move { Ok(n + batch.num_rows() as u64) }).await?;
    if kept + rows != version.rows {
        let reason = format!("{after} should have {} rows and has {kept}", version.rows - rows);
        return Err(Error::invalid("erasure", reason));
    }
    let (node, edges) = after.lineage();
    lineage.record(&[node], &edges).await?;
    Ok(Some(after))
}

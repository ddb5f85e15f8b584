use std::collections::{BTreeSet, HashMap};
use std::fmt;

use arrow::array::RecordBatch;
use arrow::row::{RowConverter, SortField};
use futures::TryStreamExt;

use super::{DatasetStore, DatasetVersion, Scan};
use crate::{DatasetRef, Digest, Error, Result};

/// A shift of at least that much of a column's distribution, beyond the error of the sketches, counts as moved: one row
/// in twenty lies elsewhere. A convention.
const MOVED: f64 = 0.05;

/// How one column differs between two versions that both have it.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ColumnDiff {
    /// The column.
    pub name: String,
    /// Its type in both versions, where they differ.
    pub retyped: Option<(String, String)>,
    /// The shares of nulls.
    pub null_rate: (f64, f64),
    /// The Kolmogorov–Smirnov distance of its numbers, from the sketches, and the error of that: see
    /// [`ColumnSketch::distance`](super::ColumnSketch::distance).
    pub distance: Option<(f64, f64)>,
}

impl ColumnDiff {
    /// Whether its distribution moved: the distance, less its error, is at least 0.05, or the share of nulls changed by
    /// as much.
    #[must_use]
    pub fn moved(&self) -> bool {
        let shifted = self.distance.is_some_and(|(distance, error)| distance - error >= MOVED);
        shifted || (self.null_rate.0 - self.null_rate.1).abs() >= MOVED
    }
}

/// How the rows differ, by key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RowDiff {
    /// Keys only in the later version.
    pub added: u64,
    /// Keys only in the earlier version.
    pub removed: u64,
    /// Keys in both, with other values.
    pub changed: u64,
    /// Keys in both, with equal values.
    pub unchanged: u64,
}

/// How two versions differ.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct DatasetDiff {
    /// The earlier version.
    pub from: DatasetRef,
    /// The later version.
    pub to: DatasetRef,
    /// Rows before and after.
    pub rows: (u64, u64),
    /// Columns only in the later version.
    pub added_columns: Vec<String>,
    /// Columns only in the earlier version.
    pub removed_columns: Vec<String>,
    /// Columns in both.
    pub columns: Vec<ColumnDiff>,
    /// By key, if one was given.
    pub by_key: Option<RowDiff>,
}

impl fmt::Display for DatasetDiff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} → {}: {} → {} rows", self.from, self.to, self.rows.0, self.rows.1)?;
        if let Some(RowDiff { added, removed, changed, unchanged }) = self.by_key {
            write!(f, "\n  rows: {added} added, {removed} removed, {changed} changed, {unchanged} unchanged")?;
        }
        self.added_columns.iter().try_for_each(|name| write!(f, "\n  + {name}"))?;
        self.removed_columns.iter().try_for_each(|name| write!(f, "\n  - {name}"))?;
        for column in &self.columns {
            if let Some((before, after)) = &column.retyped {
                write!(f, "\n  {}: was {before}, is {after}", column.name)?;
            }
            if column.moved() {
                write!(f, "\n  {}: moved", column.name)?;
                if let Some((distance, error)) = column.distance {
                    write!(f, " by {distance:.3} ± {error:.3}")?;
                }
                let (before, after) = column.null_rate;
                write!(f, ", nulls {:.1} % → {:.1} %", 100.0 * before, 100.0 * after)?;
            }
        }
        Ok(())
    }
}

/// Compares two versions: columns, distributions and, if `key` names columns, rows.
///
/// Files that both versions have are not read. Of the others' rows, a digest of key and row is kept in memory: about 100
/// bytes a row.
///
/// # Errors
/// [`Error::SchemaMismatch`] for a key column that a version has not; [`Error::InvalidInput`] for a key that two rows
/// of the files read have; those of the store.
pub async fn diff(
    store: &dyn DatasetStore,
    from: &DatasetVersion,
    to: &DatasetVersion,
    key: &[&str],
) -> Result<DatasetDiff> {
    let (before, after) = (store.sketches(from).await?, store.sketches(to).await?);
    let mut columns = Vec::new();
    let mut removed_columns = Vec::new();
    for (column, before) in from.columns.iter().zip(&before) {
        let Some(place) = to.columns.iter().position(|other| other.name == column.name) else {
            removed_columns.push(column.name.clone());
            continue;
        };
        let (other, after) = (&to.columns[place], &after[place]);
        let retyped =
            (column.data_type != other.data_type).then(|| (column.data_type.clone(), other.data_type.clone()));
        columns.push(ColumnDiff {
            name: column.name.clone(),
            distance: if retyped.is_none() { before.distance(after) } else { None },
            retyped,
            null_rate: (before.stats.null_rate(), after.stats.null_rate()),
        });
    }
    let known: BTreeSet<&str> = from.columns.iter().map(|c| &*c.name).collect();
    let added_columns = to.columns.iter().filter(|c| !known.contains(&*c.name)).map(|c| c.name.clone()).collect();
    let by_key = if key.is_empty() { None } else { Some(diff_rows(store, from, to, key).await?) };
    let rows = (from.rows, to.rows);
    Ok(DatasetDiff {
        from: from.reference(),
        to: to.reference(),
        rows,
        added_columns,
        removed_columns,
        columns,
        by_key,
    })
}

async fn diff_rows(
    store: &dyn DatasetStore,
    from: &DatasetVersion,
    to: &DatasetVersion,
    key: &[&str],
) -> Result<RowDiff> {
    let shared: BTreeSet<Digest> = {
        let digests = |version: &DatasetVersion| -> BTreeSet<Digest> {
            version.files.iter().map(|file| file.blob.digest).collect()
        };
        // A file is the same rows only under the same schema.
        if from.schema == to.schema {
            digests(from).intersection(&digests(to)).copied().collect()
        } else {
            BTreeSet::new()
        }
    };
    let before = rows(store, from, key, &shared).await?;
    let mut diff = RowDiff { removed: before.len() as u64, ..RowDiff::default() };
    diff.unchanged = from.files.iter().filter(|f| shared.contains(&f.blob.digest)).map(|f| f.rows).sum();
    for (key, row) in rows(store, to, key, &shared).await? {
        match before.get(&key) {
            None => diff.added += 1,
            Some(known) if *known == row => {
                diff.unchanged += 1;
                diff.removed -= 1;
            }
            Some(_) => {
                diff.changed += 1;
                diff.removed -= 1;
            }
        }
    }
    Ok(diff)
}

/// The digests of key and row of all rows in files that are not shared.
async fn rows(
    store: &dyn DatasetStore,
    version: &DatasetVersion,
    key: &[&str],
    shared: &BTreeSet<Digest>,
) -> Result<HashMap<Digest, Digest>> {
    let mut found = HashMap::new();
    let part = DatasetVersion {
        files: version.files.iter().filter(|file| !shared.contains(&file.blob.digest)).cloned().collect(),
        ..version.clone()
    };
    let mut batches = store.scan(&part, Scan::all()).await?;
    while let Some(batch) = batches.try_next().await? {
        let schema = batch.schema();
        let place = |name: &&str| {
            let reason = format!("no such key column in {version}");
            schema.index_of(name).map_err(|_| Error::column(*name, reason))
        };
        let places: Vec<usize> = key.iter().map(place).collect::<Result<_>>()?;
        // By name, so that columns in another order are the same row.
        let mut order: Vec<usize> = (0..batch.num_columns()).collect();
        order.sort_unstable_by_key(|&i| schema.field(i).name());
        let keys = digests(&batch.project(&places)?)?;
        for (key, row) in keys.into_iter().zip(digests(&batch.project(&order)?)?) {
            if found.insert(key, row).is_some() {
                let reason = format!("two rows of {version} have the same key; name columns that tell all rows apart");
                return Err(Error::invalid("key", reason));
            }
        }
    }
    Ok(found)
}

fn digests(batch: &RecordBatch) -> Result<Vec<Digest>> {
    let fields = batch.schema().fields().iter().map(|f| SortField::new(f.data_type().clone())).collect();
    let rows = RowConverter::new(fields)?.convert_columns(batch.columns())?;
    Ok(rows.iter().map(|row| Digest::of(row.as_ref())).collect())
}

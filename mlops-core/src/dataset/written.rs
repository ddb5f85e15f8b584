//! What commits of every backend have in common: rows cut into segments, and the version that their files make.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use futures::{Stream, TryStreamExt};

use super::stats::{ColumnSketch, ColumnStats};
use super::{Base, Column, DataFile, DatasetVersion, Partition};
use crate::store::{ArtifactStore, ArtifactStoreExt};
use crate::{DatasetRef, Digest, Error, Result, Timestamp};

/// What was written of a version so far.
#[derive(Default)]
pub(super) struct Written {
    pub(super) files: Vec<DataFile>,
    pub(super) sketches: Vec<ColumnSketch>,
}

impl Written {
    pub(super) fn add(&mut self, mut file: DataFile, sketches: Vec<ColumnSketch>) -> Result<()> {
        file.stats = sketches.iter().map(|s| s.stats.clone()).collect();
        self.files.push(file);
        self.merge(sketches)
    }

    fn merge(&mut self, sketches: Vec<ColumnSketch>) -> Result<()> {
        if self.sketches.is_empty() {
            self.sketches = sketches;
            return Ok(());
        }
        self.sketches.iter_mut().zip(&sketches).try_for_each(|(all, more)| all.merge(more))
    }
    /// Puts the files behind those of the version that was appended to, whose sketches these are, or in the place of the
    /// partitions they belong to.
    pub(super) fn onto(&mut self, base: &Base, sketches: Vec<ColumnSketch>, partition_by: &[String]) -> Result<()> {
        let (Base::Append(before) | Base::ReplacePartitions(before)) = base;
        let mut kept = before.files.clone();
        kept.iter_mut().for_each(|file| file.blob.new_bytes = 0);
        match base {
            // A sketch cannot forget: the rows that were replaced stay in it, and so it is not kept.
            Base::ReplacePartitions(_) => {
                let new: BTreeSet<&Partition> = self.files.iter().map(|file| &file.partition).collect();
                let by: BTreeSet<&String> = partition_by.iter().collect();
                if let Some(odd) = kept.iter().find(|file| !file.partition.keys().eq(by.iter().copied())) {
                    let by: Vec<&String> = odd.partition.keys().collect();
                    return Err(Error::invalid("partition_by", format!("the version is partitioned by {by:?}")));
                }
                kept.retain(|file| !new.contains(&file.partition));
                self.sketches.clear();
                self.files.extend(kept);
                self.files.sort_by(|a, b| a.partition.cmp(&b.partition));
            }
            Base::Append(_) => {
                self.merge(sketches)?;
                kept.append(&mut self.files);
                self.files = kept;
            }
        }
        Ok(())
    }

    /// The version that this makes; its schema and sketches are artifacts with these digests.
    pub(super) fn into_version(self, from: Origin, schema: &Schema, kept: Kept) -> Result<DatasetVersion> {
        let mut version = DatasetVersion {
            name: from.name,
            digest: Digest::from_bytes([0; 32]),
            number: None,
            columns: columns(schema),
            rows: self.files.iter().map(|file| file.rows).sum(),
            stats: total(schema.fields().len(), &self.files),
            files: self.files,
            parent: from.parent,
            source: from.source,
            created_at: from.at,
            author: from.author,
            sketches: kept.sketches,
            schema: kept.schema,
        };
        version.digest = version.digest_of()?;
        Ok(version)
    }
}

/// Where a version comes from.
pub(super) struct Origin {
    pub(super) name: String,
    pub(super) parent: Option<DatasetRef>,
    pub(super) source: String,
    pub(super) author: String,
    pub(super) at: Timestamp,
}

/// The artifacts of a version.
pub(super) struct Kept {
    pub(super) schema: Digest,
    pub(super) sketches: Option<Digest>,
}

impl Kept {
    /// Keeps the schema, and the sketches if there are any.
    pub(super) async fn put(store: &dyn ArtifactStore, schema: &Schema, sketches: &[ColumnSketch]) -> Result<Self> {
        let sketches = if sketches.is_empty() {
            None
        } else {
            let sketches = serde_json::to_vec(sketches).map_err(|e| Error::invalid("sketches", e))?;
            Some(store.put_artifact(sketches.into()).await?)
        };
        Ok(Self { schema: store.put_artifact(encode_schema(schema)?).await?, sketches })
    }
}

pub(super) fn columns(schema: &Schema) -> Vec<Column> {
    let column = |field: &arrow::datatypes::FieldRef| Column {
        name: field.name().clone(),
        data_type: field.data_type().to_string(),
        nullable: field.is_nullable(),
    };
    schema.fields().iter().map(column).collect()
}

/// What is known of each column of all files.
pub(super) fn total(columns: usize, files: &[DataFile]) -> Vec<ColumnStats> {
    let mut stats = vec![ColumnStats::default(); columns];
    files.iter().for_each(|file| stats.iter_mut().zip(&file.stats).for_each(|(all, more)| all.merge(more)));
    stats
}

/// The sketches that were kept of a version; none if there are none or they are of an earlier format.
pub(super) async fn kept_sketches(
    store: &dyn ArtifactStore,
    version: &DatasetVersion,
) -> Result<Option<Vec<ColumnSketch>>> {
    let Some(kept) = &version.sketches else { return Ok(None) };
    let kept = store.get_artifact(kept).await?;
    let invalid = |error: &dyn std::fmt::Display| Error::invalid(format!("sketches of {version}"), error);
    let sketches: Vec<ColumnSketch> = serde_json::from_slice(&kept).map_err(|e| invalid(&e))?;
    if sketches.len() != version.columns.len() {
        return Err(invalid(&format!("there are {} for {} columns", sketches.len(), version.columns.len())));
    }
    Ok(sketches.iter().all(ColumnSketch::is_current).then_some(sketches))
}

/// Learns from all rows.
#[cfg(feature = "delta")]
pub(super) async fn sketch(
    columns: usize,
    mut batches: BoxStream<'static, Result<RecordBatch>>,
) -> Result<Vec<ColumnSketch>> {
    let mut sketches = super::stats::empty(columns)?;
    while let Some(batch) = batches.try_next().await? {
        super::stats::update(&mut sketches, &batch)?;
    }
    Ok(sketches)
}

/// Batches that have rows; `none` where there are no such, since one empty batch tells at least the columns.
pub(super) fn some_batch(
    batches: impl Stream<Item = Result<RecordBatch>> + Send + 'static,
    none: RecordBatch,
) -> BoxStream<'static, Result<RecordBatch>> {
    let any = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&any);
    let batches = batches.try_filter(|batch| futures::future::ready(batch.num_rows() > 0));
    let batches = batches.inspect(move |_| seen.store(true, Ordering::Relaxed));
    let empty = stream::once(async move { (!any.load(Ordering::Relaxed)).then_some(Ok(none)) });
    batches.chain(empty.filter_map(futures::future::ready)).boxed()
}

pub(super) fn encode_schema(schema: &Schema) -> Result<Bytes> {
    let mut writer = arrow::ipc::writer::StreamWriter::try_new(Vec::new(), schema)?;
    writer.finish()?;
    Ok(writer.into_inner()?.into())
}

pub(super) fn decode_schema(data: Bytes) -> Result<SchemaRef> {
    Ok(arrow::ipc::reader::StreamReader::try_new(std::io::Cursor::new(data), None)?.schema())
}

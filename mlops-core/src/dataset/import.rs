//! Files into versions: kept byte for byte, and read for what is in them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use futures::TryStreamExt;
use futures::future::try_join;

use super::parquet::ParquetDatasets;
use super::written::Written;
use super::{DataFile, FileFormat, Partition, Scan, blocking, check_schema, files, same_columns, stats};
use crate::store::{Blob, BlobWriter, Lease};
use crate::{Error, Result};

/// Bytes after which what is staged goes to the disk while more comes.
const SYNCED: usize = 64 << 20;

impl ParquetDatasets {
    /// Keeps files as they are, and reads them for their rows and statistics.
    pub(super) async fn import(
        &self,
        paths: Vec<PathBuf>,
        schema: Option<SchemaRef>,
        lease: &Lease,
    ) -> Result<(SchemaRef, Written)> {
        let mut schema = schema;
        let mut written = Written::default();
        for path in paths {
            let format = FileFormat::of(&path)?;
            let what = format!("file {}", path.display());
            // The columns of a text file are what we say; the others say it themselves.
            let told = schema.clone().filter(|_| matches!(format, FileFormat::Csv | FileFormat::JsonLines));
            let found = async {
                let path = path.clone();
                match told {
                    Some(told) => Ok(told),
                    None => blocking(move || format.schema(&path).map(Arc::new)).await,
                }
            };
            let (found, blob) = try_join(found, self.keep(&path, lease)).await?;
            lease.keep().await?;
            let wanted = Arc::clone(schema.get_or_insert_with(|| Arc::clone(&found)));
            check_schema(&what, &wanted)?;
            same_columns(&wanted, &found)?;
            let unreadable = |error: Error| match error {
                Error::InvalidInput { reason, .. } => Error::invalid(what.clone(), reason),
                other => other,
            };
            let (rows, sketches) = self.learn(blob, format, &wanted, lease).await.map_err(unreadable)?;
            written.add(DataFile::new(blob, rows, format, Partition::new()), sketches)?;
        }
        let schema = schema.ok_or_else(|| Error::invalid("dataset", "has no files"))?;
        Ok((schema, written))
    }

    /// The bytes of a file.
    async fn keep(&self, path: &Path, lease: &Lease) -> Result<Blob> {
        let mut writer = BlobWriter::under(&*self.store, lease);
        let mut pieces = files::pieces(files::open(path)?);
        let mut unsynced = 0;
        while let Some(piece) = pieces.try_next().await? {
            unsynced += piece.len();
            if unsynced < SYNCED {
                writer.write(piece).await?;
            } else {
                unsynced = 0;
                try_join(self.store.sync(), writer.write(piece)).await?;
            }
        }
        writer.finish().await
    }

    /// The rows of a file that is kept, and what is known of its columns. It is decoded while the batch before is learned
    /// from.
    async fn learn(
        &self,
        blob: Blob,
        format: FileFormat,
        schema: &SchemaRef,
        lease: &Lease,
    ) -> Result<(u64, Vec<stats::ColumnSketch>)> {
        let scan = Arc::new(Scan::all().strict());
        let mut batches = files::read(Arc::clone(&self.store), blob, format, Arc::clone(schema), scan).await?;
        let mut sketches = stats::empty(schema.fields().len())?;
        let mut rows = 0;
        let mut batch = batches.try_next().await?;
        while let Some(known) = batch {
            lease.keep().await?;
            rows += known.num_rows() as u64;
            let learned = blocking(move || {
                stats::update(&mut sketches, &known)?;
                Ok(sketches)
            });
            (sketches, batch) = try_join(learned, batches.try_next()).await?;
        }
        Ok((rows, sketches))
    }
}

//! Rows of one file of a table.

use std::ops::Range;
use std::sync::Arc;

use ::parquet::arrow::arrow_reader::ArrowReaderOptions;
use ::parquet::arrow::async_reader::AsyncFileReader;
use ::parquet::arrow::{ParquetRecordBatchStreamBuilder, ProjectionMask};
use ::parquet::errors::{ParquetError, Result as ParquetResult};
use ::parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, StringArray, UInt32Array, new_null_array};
use arrow::compute::{cast, take};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{BoxStream, StreamExt};
use futures::{FutureExt, TryStreamExt};
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStore, ObjectStoreExt};

use super::table::{Table, own_digest};
use crate::dataset::files::unreadable;
use crate::dataset::{DataFile, Partition, Scan, blocking};
use crate::{Digest, Error, Result};

/// The bytes of a file: in memory, once they are verified, or still in the store.
pub(super) enum Source {
    Held(Bytes),
    Stored(Arc<dyn ObjectStore>, ObjectPath, u64),
}

impl Source {
    fn bytes(&self) -> u64 {
        match self {
            Self::Held(bytes) => bytes.len() as u64,
            Self::Stored(_, _, bytes) => *bytes,
        }
    }

    async fn range(&self, range: Range<u64>) -> ParquetResult<Bytes> {
        match self {
            Self::Held(bytes) => {
                let place = |at: u64| usize::try_from(at).ok().filter(|at| *at <= bytes.len());
                match (place(range.start), place(range.end)) {
                    (Some(start), Some(end)) if start <= end => Ok(bytes.slice(start..end)),
                    _ => Err(ParquetError::EOF(format!("{range:?} is not within {} bytes", bytes.len()))),
                }
            }
            Self::Stored(store, path, _) => {
                store.get_range(path, range).await.map_err(|e| ParquetError::External(e.into()))
            }
        }
    }

    /// How many rows the file has, by its footer.
    pub(super) async fn rows(mut self) -> Result<u64> {
        let meta = self.get_metadata(None).await.map_err(unreadable)?;
        u64::try_from(meta.file_metadata().num_rows()).map_err(|e| Error::invalid("parquet file", e))
    }
}

impl AsyncFileReader for Source {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, ParquetResult<Bytes>> {
        self.range(range).boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        _: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, ParquetResult<Arc<ParquetMetaData>>> {
        let size = self.bytes();
        async move {
            let reader = ParquetMetaDataReader::new().with_prefetch_hint(Some(64 << 10));
            Ok(Arc::new(reader.load_and_finish(self, size).await?))
        }
        .boxed()
    }
}

/// Opens a file of a version: one of ours is read whole and verified, another must have the size that the log says.
pub(super) async fn open(table: &Table, of: &str, file: &DataFile) -> Result<Source> {
    let path = file.path.as_deref().unwrap_or_default();
    let key = ObjectPath::parse(path).map_err(|e| Error::invalid(format!("path of a file of {of}"), e))?;
    let missing = |error: object_store::Error| match error {
        object_store::Error::NotFound { .. } => Error::not_found(
            "data file",
            format!(
                "{path} of {of}: it was deleted, as VACUUM does with files that newer versions have not; restore it from \
                 a copy, or open a later version"
            ),
        ),
        other => table.failed("read", path, other),
    };
    if own_digest(path) == Some(file.blob.digest) {
        let bytes = table.store.get(&key).await.map_err(missing)?.bytes().await.map_err(missing)?;
        let (bytes, found) = blocking(move || Ok((bytes.clone(), Digest::of(&bytes)))).await?;
        if found != file.blob.digest {
            let what = format!("data file {path} of {of}");
            return Err(Error::Corrupt { what, expected: file.blob.digest, found });
        }
        return Ok(Source::Held(bytes));
    }
    let found = table.store.head(&key).await.map_err(missing)?.size;
    if found != file.blob.bytes {
        let reason = format!("has {found} bytes and should have {}; restore it from a copy", file.blob.bytes);
        return Err(Error::invalid(format!("data file {path} of {of}"), reason));
    }
    Ok(Source::Stored(Arc::clone(&table.store), key, found))
}

/// The columns of the version that a scan asks for, in order, with those that its filter needs.
fn needed(schema: &Schema, scan: &Scan) -> Vec<Field> {
    let filter = scan.filter.iter().flat_map(|filter| filter.columns()).collect::<Vec<_>>();
    let wanted = |field: &&arrow::datatypes::FieldRef| match &scan.columns {
        Some(columns) => columns.contains(field.name()) || filter.contains(&field.name().as_str()),
        None => true,
    };
    schema.fields().iter().filter(wanted).map(|field| field.as_ref().clone()).collect()
}

/// The rows of one file: columns and filter of `scan`, in the version's columns and types.
pub(super) async fn read(
    table: Arc<Table>,
    of: Arc<str>,
    file: DataFile,
    schema: SchemaRef,
    scan: Arc<Scan>,
) -> Result<BoxStream<'static, Result<RecordBatch>>> {
    let source = open(&table, &of, &file).await?;
    let builder = ParquetRecordBatchStreamBuilder::new(source).await.map_err(unreadable)?;
    let there = Arc::clone(builder.schema());
    let wanted = Arc::new(Schema::new_with_metadata(needed(&schema, &scan), schema.metadata().clone()));
    let stored = |field: &&arrow::datatypes::FieldRef| !file.partition.contains_key(field.name());
    let places = wanted.fields().iter().filter(stored).filter_map(|field| there.index_of(field.name()).ok());
    let mask = ProjectionMask::roots(builder.parquet_schema(), places);
    let batches = builder.with_projection(mask).with_batch_size(scan.batch_rows).build().map_err(unreadable)?;
    let partition = file.partition;
    let rows = batches.map_err(unreadable).map(move |batch| scan.apply(&complete(&batch?, &wanted, &partition)?));
    Ok(rows.boxed())
}

/// The rows in the wanted columns: those of the partition are the same in each row, those that the file has not are null.
fn complete(batch: &RecordBatch, wanted: &SchemaRef, partition: &Partition) -> Result<RecordBatch> {
    let rows = batch.num_rows();
    let column = |field: &arrow::datatypes::FieldRef| -> Result<ArrayRef> {
        let kind = field.data_type();
        match (partition.get(field.name()), batch.column_by_name(field.name())) {
            (Some(Some(value)), _) => constant(field, value, rows),
            (None, Some(array)) if array.data_type() == kind => Ok(Arc::clone(array)),
            (None, Some(array)) => cast(array, kind)
                .map_err(|e| Error::column(field.name(), format!("is {} in a file: {e}", array.data_type()))),
            (Some(None), _) | (None, None) => Ok(new_null_array(kind, rows)),
        }
    };
    let columns = wanted.fields().iter().map(column).collect::<Result<Vec<_>>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    Ok(RecordBatch::try_new_with_options(Arc::clone(wanted), columns, &options)?)
}

fn constant(field: &Field, value: &str, rows: usize) -> Result<ArrayRef> {
    let text: ArrayRef = Arc::new(StringArray::from(vec![value]));
    let one = if field.data_type() == &DataType::Utf8 { text } else { cast(&text, field.data_type())? };
    if one.is_null(0) {
        let reason = format!("the partition {value:?} is no {}", field.data_type());
        return Err(Error::column(field.name(), reason));
    }
    Ok(take(&one, &UInt32Array::from(vec![0; rows]), None)?)
}

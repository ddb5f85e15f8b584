//! Reading the files of a version, whatever their format, from a store that has them in chunks.

use std::fs::{self, File};
use std::io::{Read, Seek};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use ::parquet::arrow::arrow_reader::{ArrowPredicateFn, ArrowReaderOptions, RowFilter};
use ::parquet::arrow::async_reader::AsyncFileReader;
use ::parquet::arrow::{ParquetRecordBatchStreamBuilder, ProjectionMask};
use ::parquet::errors::{ParquetError, Result as ParquetResult};
use ::parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use arrow::error::ArrowError;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt};
use futures::{FutureExt, TryStreamExt};
use serde::{Deserialize, Serialize};

use super::{Scan, looks};
use crate::store::{ArtifactStore, Blob, BlobReader};
use crate::{Error, Result};

type Store = Arc<dyn ArtifactStore>;

/// The format of a file of rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FileFormat {
    /// Apache Parquet.
    #[default]
    Parquet,
    /// Comma-separated values with a header line.
    Csv,
    /// One JSON object a line.
    JsonLines,
    /// Arrow IPC, as a file or a stream; read whole into memory.
    ArrowIpc,
}

impl FileFormat {
    /// The format that the ending of a file's name tells.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] for any ending but `parquet`, `csv`, `jsonl`, `ndjson`, `arrow`, `arrows`, `ipc`, `feather`.
    pub fn of(path: &Path) -> Result<Self> {
        let ending = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
        match &*ending {
            "parquet" => Ok(Self::Parquet),
            "csv" => Ok(Self::Csv),
            "jsonl" | "ndjson" => Ok(Self::JsonLines),
            "arrow" | "arrows" | "ipc" | "feather" => Ok(Self::ArrowIpc),
            _ => {
                let reason = format!(
                    "{} does not end in .parquet, .csv, .jsonl, .ndjson, .arrow, .arrows, .ipc or .feather",
                    path.display()
                );
                Err(Error::invalid("file", reason))
            }
        }
    }

    /// The columns of a file on disk. CSV and JSON lines are read through for it, and every column may hold nulls.
    pub(super) fn schema(self, path: &Path) -> Result<Schema> {
        let mut file = open(path)?;
        let unreadable = |error: &dyn std::fmt::Display| Error::invalid(format!("file {}", path.display()), error);
        match self {
            Self::Parquet => {
                let options = ArrowReaderOptions::new();
                let meta = ::parquet::arrow::arrow_reader::ArrowReaderMetadata::load(&file, options);
                Ok(meta.map_err(|e| unreadable(&e))?.schema().as_ref().clone())
            }
            Self::Csv => looks::schema(file).map_err(|e| unreadable(&e)),
            Self::JsonLines => {
                let inferred = arrow::json::reader::infer_json_schema(std::io::BufReader::new(file), None);
                Ok(inferred.map_err(|e| unreadable(&e))?.0)
            }
            Self::ArrowIpc => {
                let mut magic = [0; 6];
                let is_file = file.read_exact(&mut magic).is_ok() && &magic == b"ARROW1";
                file.rewind().map_err(|e| unreadable(&e))?;
                let schema = if is_file {
                    arrow::ipc::reader::FileReader::try_new(file, None).map(|r| r.schema())
                } else {
                    arrow::ipc::reader::StreamReader::try_new(file, None).map(|r| r.schema())
                };
                Ok(schema.map_err(|e| unreadable(&e))?.as_ref().clone())
            }
        }
    }
}

/// Opens a file to be committed: a plain one, no link to somewhere else.
pub(super) fn open(path: &Path) -> Result<File> {
    let what = || format!("file {}", path.display());
    let meta = fs::symlink_metadata(path).map_err(|e| Error::invalid(what(), e))?;
    if meta.file_type().is_symlink() {
        let target = fs::canonicalize(path).map(|t| t.display().to_string()).unwrap_or_else(|_| "nothing".to_owned());
        return Err(Error::invalid(what(), format!("is a symbolic link; name what it leads to instead: {target}")));
    }
    if !meta.is_file() {
        return Err(Error::invalid(what(), "is not a plain file"));
    }
    File::open(path).map_err(|e| Error::invalid(what(), e))
}

/// The bytes of a file in pieces.
pub(super) fn pieces(file: File) -> BoxStream<'static, Result<Bytes>> {
    const PIECE: usize = 1 << 20;
    let next = |file: File| async move {
        super::blocking(move || {
            let mut piece = Vec::with_capacity(PIECE);
            let read = (&file).take(PIECE as u64).read_to_end(&mut piece).map_err(|e| Error::invalid("file", e))?;
            Ok((read > 0).then(|| (Bytes::from(piece), file)))
        })
        .await
    };
    stream::try_unfold(file, next).boxed()
}

/// A blob as a file that Parquet's reader fetches parts of.
struct Fetched(BlobReader<Store>);

impl AsyncFileReader for Fetched {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, ParquetResult<Bytes>> {
        let length = range.end.saturating_sub(range.start);
        async move {
            let bytes = self.0.range(range).await.map_err(|e| ParquetError::External(e.into()))?;
            // A file whose footer points behind its end.
            if bytes.len() as u64 != length {
                return Err(ParquetError::EOF(format!("expected {length} bytes, found {}", bytes.len())));
            }
            Ok(bytes)
        }
        .boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        _: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, ParquetResult<Arc<ParquetMetaData>>> {
        let size = self.0.bytes();
        async move {
            let reader = ParquetMetaDataReader::new().with_prefetch_hint(Some(64 << 10));
            Ok(Arc::new(reader.load_and_finish(self, size).await?))
        }
        .boxed()
    }
}

/// What a reader of a format says, with the store's own error if that was the cause.
pub(super) fn unreadable(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    let mut error: Box<dyn std::error::Error + Send + Sync> = Box::new(error);
    loop {
        error = match error.downcast::<ParquetError>().map(|e| *e) {
            Ok(ParquetError::External(inner)) => inner,
            Ok(other) => return Error::invalid("parquet file", other),
            Err(other) => match other.downcast::<ArrowError>().map(|e| *e) {
                Ok(ArrowError::ExternalError(inner)) => inner,
                Ok(other) => return Error::invalid("file of rows", other),
                Err(other) => match other.downcast::<Error>() {
                    Ok(ours) => return *ours,
                    Err(other) => return Error::invalid("file of rows", other),
                },
            },
        };
    }
}

/// The rows of one file: columns and filter of `scan`, in order.
pub(super) async fn read(
    store: Store,
    blob: Blob,
    format: FileFormat,
    schema: SchemaRef,
    scan: Arc<Scan>,
) -> Result<BoxStream<'static, Result<RecordBatch>>> {
    let reader = BlobReader::open_as(store, &blob).await?;
    match format {
        FileFormat::Parquet => read_parquet(reader, scan).await,
        FileFormat::Csv => {
            let decoder = arrow::csv::ReaderBuilder::new(schema)
                .with_header(true)
                .with_header_validation(scan.strict)
                .with_batch_size(scan.batch_rows)
                .build_decoder();
            Ok(push(reader, Decoder::Csv(Box::new(decoder)), scan))
        }
        FileFormat::JsonLines => {
            let builder = arrow::json::ReaderBuilder::new(schema).with_strict_mode(scan.strict);
            let decoder = builder.with_batch_size(scan.batch_rows).build_decoder()?;
            Ok(push(reader, Decoder::Json(Box::new(decoder)), scan))
        }
        FileFormat::ArrowIpc => {
            let data: Vec<Bytes> = reader.stream().try_collect().await?;
            let data = std::io::Cursor::new(Bytes::from(data.concat()));
            let batches: Vec<RecordBatch> = if data.get_ref().starts_with(b"ARROW1") {
                arrow::ipc::reader::FileReader::try_new(data, None)?.collect::<Result<_, _>>()?
            } else {
                arrow::ipc::reader::StreamReader::try_new(data, None)?.collect::<Result<_, _>>()?
            };
            Ok(stream::iter(batches).map(move |batch| scan.apply(&batch)).boxed())
        }
    }
}

async fn read_parquet(reader: BlobReader<Store>, scan: Arc<Scan>) -> Result<BoxStream<'static, Result<RecordBatch>>> {
    let mut builder = ParquetRecordBatchStreamBuilder::new(Fetched(reader)).await.map_err(unreadable)?;
    builder = builder.with_batch_size(scan.batch_rows);
    let schema = Arc::clone(builder.schema());
    let roots = |names: &mut dyn Iterator<Item = &str>| -> Result<ProjectionMask> {
        let index = |name: &str| schema.index_of(name).map_err(|_| Error::column(name, "no such column"));
        let indices: Vec<usize> = names.map(index).collect::<Result<_>>()?;
        Ok(ProjectionMask::roots(builder.parquet_schema(), indices))
    };
    let wanted = match &scan.columns {
        Some(columns) => Some(roots(&mut columns.iter().map(String::as_str))?),
        None => None,
    };
    let filter = match &scan.filter {
        Some(filter) => Some((filter.clone(), roots(&mut filter.columns().into_iter())?)),
        None => None,
    };
    if let Some(wanted) = wanted {
        builder = builder.with_projection(wanted);
    }
    if let Some((filter, needed)) = filter {
        let passes = move |batch: RecordBatch| filter.evaluate(&batch).map_err(|e| ArrowError::ExternalError(e.into()));
        let predicate: Box<dyn ::parquet::arrow::arrow_reader::ArrowPredicate> =
            Box::new(ArrowPredicateFn::new(needed, passes));
        builder = builder.with_row_filter(RowFilter::new(vec![predicate]));
    }
    let batches = builder.build().map_err(unreadable)?;
    Ok(batches.map(move |batch| scan.project(&batch.map_err(unreadable)?)).boxed())
}

enum Decoder {
    Csv(Box<arrow::csv::reader::Decoder>),
    Json(Box<arrow::json::reader::Decoder>),
}

impl Decoder {
    fn decode(&mut self, bytes: &[u8]) -> Result<usize, ArrowError> {
        match self {
            Self::Csv(decoder) => decoder.decode(bytes),
            Self::Json(decoder) => decoder.decode(bytes),
        }
    }

    fn flush(&mut self) -> Result<Option<RecordBatch>, ArrowError> {
        match self {
            Self::Csv(decoder) => decoder.flush(),
            Self::Json(decoder) => decoder.flush(),
        }
    }
}

/// Feeds a decoder with the bytes of a blob until a batch is full or the blob ends.
fn push(reader: BlobReader<Store>, decoder: Decoder, scan: Arc<Scan>) -> BoxStream<'static, Result<RecordBatch>> {
    let start = (reader.stream(), decoder, Bytes::new(), false);
    let batches = stream::try_unfold(start, |(mut pieces, mut decoder, mut piece, mut ended)| async move {
        loop {
            if piece.is_empty() && !ended {
                match pieces.try_next().await? {
                    Some(next) => piece = next,
                    None => ended = true,
                }
            }
            let read = decoder.decode(&piece).map_err(unreadable)?;
            let full = read < piece.len() || (piece.is_empty() && ended);
            bytes::Buf::advance(&mut piece, read);
            if full {
                match decoder.flush().map_err(unreadable)? {
                    Some(batch) => return Ok::<_, Error>(Some((batch, (pieces, decoder, piece, ended)))),
                    None if ended => return Ok(None),
                    None => {}
                }
            }
        }
    });
    batches.map(move |batch| scan.apply(&batch?)).boxed()
}

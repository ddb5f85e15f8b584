//! The inference log at rest: Parquet files in any artifact store.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use mlops_core::clock::from_micros;
use mlops_core::inference::{InferenceLog, InferenceRecord, InferenceSink, SHADOW, from_batch, to_batch};
use mlops_core::store::{ArtifactStore, ArtifactStoreExt};
use mlops_core::{Error, PredictionId, Result, Timestamp};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;

/// Writes answered requests to Parquet files and finds them again.
///
/// Records wait in memory until there are [`ParquetInferenceLog::BUFFER`] rows or somebody flushes; each flush writes one
/// file for each set of columns, named after the times of its first and last record, so that a look-up by id (which
/// holds its time) opens few files. A process that dies loses what it had not flushed.
///
/// ```
/// # futures::executor::block_on(async {
/// use mlops_core::store::MemoryStore;
/// use mlops_serve::ParquetInferenceLog;
/// let log = ParquetInferenceLog::new(MemoryStore::default(), "inference/prices")?;
/// assert_eq!(log.to_string(), "inference/prices in memory");
/// # Ok::<(), mlops_core::Error>(()) }).unwrap();
/// ```
#[derive(Clone, Debug)]
pub struct ParquetInferenceLog {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    store: Arc<dyn ArtifactStore>,
    prefix: String,
    waiting: std::sync::Mutex<Vec<InferenceRecord>>,
    /// Held while files are written, so that files appear in the order of their records.
    writing: tokio::sync::Mutex<()>,
}

impl ParquetInferenceLog {
    /// Rows that wait in memory at most.
    pub const BUFFER: usize = 8_192;

    /// A log under `prefix` in `store`.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if the prefix is not a plain relative path.
    pub fn new(store: impl ArtifactStore, prefix: impl Into<String>) -> Result<Self> {
        let prefix = prefix.into();
        mlops_core::store::check_key(&prefix)?;
        let store: Arc<dyn ArtifactStore> = Arc::new(store);
        let (waiting, writing) = Default::default();
        Ok(Self { inner: Arc::new(Inner { store, prefix, waiting, writing }) })
    }

    /// Forgets every record that arrived at or after `at`, flushed or not: a replay that starts again from there writes
    /// them anew.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn rewind(&self, at: Timestamp) -> Result<()> {
        let _alone = self.inner.writing.lock().await;
        self.waiting().retain(|r| r.at < at);
        for file in self.files().await? {
            if file.first >= at {
                self.inner.store.delete(&file.key).await?;
            } else if file.last >= at {
                let mut kept = self.read(&file).await?;
                kept.retain(|r| r.at < at);
                self.write_file(&kept, file.part).await?;
                self.inner.store.delete(&file.key).await?;
            }
        }
        Ok(())
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, Vec<InferenceRecord>> {
        self.inner.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn files(&self) -> Result<Vec<File>> {
        let prefix = format!("{}/", self.inner.prefix);
        let keys = self.inner.store.list(&prefix).await?;
        Ok(keys.into_iter().filter_map(|key| File::parse(&prefix, key)).collect())
    }

    async fn read(&self, file: &File) -> Result<Vec<InferenceRecord>> {
        let data = self.inner.store.get(&file.key).await?;
        decode(data).map_err(|e| Error::invalid(format!("inference file {}", file.key), e))
    }

    async fn write_file(&self, records: &[InferenceRecord], part: usize) -> Result<()> {
        let times = records.iter().map(|r| r.at.timestamp_micros());
        let (Some(first), Some(last)) = (times.clone().min(), times.max()) else { return Ok(()) };
        let data = encode(records)?;
        let key = format!("{}/{first:020}-{last:020}-{part:04}.parquet", self.inner.prefix);
        self.inner.store.put(&key, data).await
    }
}

impl fmt::Display for ParquetInferenceLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {}", self.inner.prefix, self.inner.store)
    }
}

struct File {
    key: String,
    first: Timestamp,
    last: Timestamp,
    part: usize,
}

impl File {
    fn parse(prefix: &str, key: String) -> Option<Self> {
        let mut parts = key.strip_prefix(prefix)?.strip_suffix(".parquet")?.split('-');
        let mut time = || Some(from_micros(parts.next()?.parse().ok()?));
        let (first, last) = (time()?, time()?);
        let part = parts.next()?.parse().ok()?;
        Some(Self { key, first, last, part })
    }
}

fn failed(error: ParquetError) -> Error {
    Error::invalid("parquet file", error)
}

fn encode(records: &[InferenceRecord]) -> Result<Bytes> {
    let batch = to_batch(records)?;
    let zstd = Compression::ZSTD(ZstdLevel::try_new(1).map_err(failed)?);
    let properties = WriterProperties::builder().set_compression(zstd).build();
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties)).map_err(failed)?;
    writer.write(&batch).map_err(failed)?;
    Ok(writer.into_inner().map_err(failed)?.into())
}

fn decode(data: Bytes) -> Result<Vec<InferenceRecord>> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(data).map_err(failed)?.build().map_err(failed)?;
    let mut records = Vec::new();
    for batch in reader {
        records.extend(from_batch(&batch?)?);
    }
    Ok(records)
}

#[async_trait]
impl InferenceSink for ParquetInferenceLog {
    async fn write(&self, record: InferenceRecord) -> Result<()> {
        let (rows, inputs, outputs) = (record.ids.len(), record.inputs.num_rows(), record.outputs.num_rows());
        if inputs != rows || outputs != rows || rows == 0 {
            let reason =
                format!("{rows} ids, {inputs} input rows and {outputs} output rows must be equally many, and some");
            return Err(Error::invalid("inference record", reason));
        }
        let full = {
            let mut waiting = self.waiting();
            waiting.push(record);
            waiting.iter().map(|r| r.ids.len()).sum::<usize>() >= Self::BUFFER
        };
        if full { self.flush().await } else { Ok(()) }
    }

    async fn flush(&self) -> Result<()> {
        let _alone = self.inner.writing.lock().await;
        // Copied, and taken out only when written: a store that fails, or a caller that gives up, loses nothing.
        let records = self.waiting().clone();
        let mut groups: BTreeMap<String, Vec<InferenceRecord>> = BTreeMap::new();
        for record in &records {
            let columns = format!("{:?}{:?}", record.inputs.schema().fields(), record.outputs.schema().fields());
            groups.entry(columns).or_default().push(record.clone());
        }
        for (part, group) in groups.values().enumerate() {
            self.write_file(group, part).await?;
        }
        self.waiting().drain(..records.len());
        Ok(())
    }
}

#[async_trait]
impl InferenceLog for ParquetInferenceLog {
    async fn find(&self, id: PredictionId) -> Result<Option<InferenceRecord>> {
        let millis = id.as_uuid().get_timestamp().map(|t| {
            let (seconds, nanos) = t.to_unix();
            i64::try_from(seconds).unwrap_or(0) * 1_000 + i64::from(nanos / 1_000_000)
        });
        let near = |file: &File| {
            millis.is_none_or(|at| file.first.timestamp_millis() <= at && at <= file.last.timestamp_millis())
        };
        // A caller's own ids may hold any time: those not found nearby are looked for everywhere.
        let (close, far): (Vec<File>, Vec<File>) = self.files().await?.into_iter().partition(near);
        let mut shadow = None;
        for file in close.iter().chain(&far) {
            for record in self.read(file).await?.into_iter().filter(|r| r.ids[0] == id) {
                if &*record.arm != SHADOW {
                    return Ok(Some(record));
                }
                shadow.get_or_insert(record);
            }
        }
        Ok(shadow)
    }

    async fn scan(&self, from: Timestamp, until: Timestamp) -> Result<Vec<InferenceRecord>> {
        let mut records = Vec::new();
        for file in self.files().await?.iter().filter(|f| f.first < until && f.last >= from) {
            records.extend(self.read(file).await?.into_iter().filter(|r| (from..until).contains(&r.at)));
        }
        records.sort_by_key(|r| r.at);
        Ok(records)
    }
}

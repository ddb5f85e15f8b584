//! The inference log at rest: Parquet files in any artifact store.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use mlops_core::clock::from_micros;
use mlops_core::inference::{InferenceLog, InferenceRecord, InferenceSink, SHADOW, from_batch, to_batch};
use mlops_core::store::{ArtifactStore, PutMode};
use mlops_core::{Error, PredictionId, Result, Timestamp};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;

/// Writes answered requests to Parquet files and finds them again.
///
/// Records wait in memory until there are [`ParquetInferenceLog::BUFFER`] rows or somebody flushes; each flush writes one
/// file for each set of columns, under a name of its own that begins with the times of its first and last record, so that
/// a look-up by id (which holds its time) opens few files. A process that dies loses what it had not flushed: flush as
/// often as that may cost. While the store fails, records wait; beyond [`ParquetInferenceLog::LIMIT`] rows they are
/// refused with an error.
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
    /// Rows from which a write flushes by itself.
    pub const BUFFER: usize = 8_192;
    /// Rows that wait in memory at most, while the store fails.
    pub const LIMIT: usize = 16 * Self::BUFFER;

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
                self.write_file(&kept).await?;
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
        let objects = self.inner.store.list(&prefix).await?;
        Ok(objects.into_iter().filter_map(|object| File::parse(&prefix, object.key)).collect())
    }

    async fn read(&self, file: &File) -> Result<Vec<InferenceRecord>> {
        let data = self.inner.store.get(&file.key).await?;
        decode(data).map_err(|e| Error::invalid(format!("inference file {}", file.key), e))
    }

    async fn write_file(&self, records: &[InferenceRecord]) -> Result<()> {
        let times = records.iter().map(|r| r.at);
        let (Some(first), Some(last)) = (times.clone().min(), times.max()) else { return Ok(()) };
        let data = encode(records)?;
        // A random id keeps apart what two flushes, or two replicas, write of one moment.
        let own = PredictionId::new(first);
        let key =
            format!("{}/{}-{}-{}.parquet", self.inner.prefix, sortable(first), sortable(last), own.as_uuid().simple());
        self.inner.store.put_opts(&key, data, PutMode::Create).await
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
}

/// Microseconds since 1970 moved by 2⁶³, in 20 digits: sorts as the times do, before 1970 too.
fn sortable(at: Timestamp) -> String {
    format!("{:020}", at.timestamp_micros().cast_unsigned() ^ (1 << 63))
}

impl File {
    fn parse(prefix: &str, key: String) -> Option<Self> {
        let mut parts = key.strip_prefix(prefix)?.strip_suffix(".parquet")?.split('-');
        let mut time = || Some(from_micros((parts.next()?.parse::<u64>().ok()? ^ (1 << 63)).cast_signed()));
        let (first, last) = (time()?, time()?);
        Some(Self { key, first, last })
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
            let before = waiting.iter().map(|r| r.ids.len()).sum::<usize>();
            if before + rows > Self::LIMIT.max(rows) {
                return Err(Error::invalid(
                    "inference record",
                    format!("{before} rows wait already and cannot be written"),
                ));
            }
            waiting.push(record);
            // While the store fails, try again once in a buffer's worth of rows, not for each.
            before / Self::BUFFER != (before + rows) / Self::BUFFER
        };
        if full { self.flush().await } else { Ok(()) }
    }

    async fn flush(&self) -> Result<()> {
        let _alone = self.inner.writing.lock().await;
        // Copied, and taken out only when written: a store that fails, or a caller that gives up, loses nothing. Each set
        // of columns by itself, so that one that cannot be written holds up no other.
        let mut groups: BTreeMap<String, Vec<InferenceRecord>> = BTreeMap::new();
        for record in self.waiting().iter() {
            groups.entry(columns(record)).or_default().push(record.clone());
        }
        let mut outcome = Ok(());
        for (name, group) in &groups {
            match self.write_file(group).await {
                Ok(()) => {
                    let mut left = group.len();
                    self.waiting().retain(|record| {
                        let written = left > 0 && columns(record) == *name;
                        left -= usize::from(written);
                        !written
                    });
                }
                Err(error) => outcome = Err(error),
            }
        }
        outcome
    }
}

/// What makes two records fit into one file.
fn columns(record: &InferenceRecord) -> String {
    format!("{:?}{:?}", record.inputs.schema().fields(), record.outputs.schema().fields())
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

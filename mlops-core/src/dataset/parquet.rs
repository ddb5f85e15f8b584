use std::fmt;
use std::sync::Arc;

use ::parquet::arrow::ArrowWriter;
use ::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use ::parquet::basic::{Compression, ZstdLevel};
use ::parquet::errors::ParquetError;
use ::parquet::file::properties::WriterProperties;
use arrow::array::RecordBatch;
use async_trait::async_trait;
use futures::stream::{self, BoxStream, StreamExt};

use super::{Column, DataFile, DatasetStore, DatasetVersion, NewDataset};
use crate::store::{ArtifactStore, ArtifactStoreExt, PutMode, check_name};
use crate::{Digest, Error, Result};

/// Dataset versions as Parquet files in an artifact store.
///
/// A version is written as one file and held in memory while it is written and while it is read: meant for datasets
/// that fit there.
#[derive(Clone, Debug)]
pub struct ParquetDatasets {
    store: Arc<dyn ArtifactStore>,
}

impl ParquetDatasets {
    /// Dataset versions in `store`.
    pub fn new(store: impl ArtifactStore) -> Self {
        Self { store: Arc::new(store) }
    }
}

impl fmt::Display for ParquetDatasets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Parquet in {}", self.store)
    }
}

fn unreadable(error: ParquetError) -> Error {
    Error::invalid("parquet file", error)
}

fn encode(batches: &[RecordBatch]) -> Result<Vec<u8>> {
    // The writer's name and version stay out of the file's digest.
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(1).map_err(unreadable)?))
        .set_created_by("mlops-core".to_owned())
        .build();
    let Some(first) = batches.first() else { return Ok(Vec::new()) };
    // As one batch: where Parquet ends its pages depends on how rows come in, and equal rows must be equal bytes.
    let rows = arrow::compute::concat_batches(&first.schema(), batches)?;
    let mut writer = ArrowWriter::try_new(Vec::new(), rows.schema(), Some(properties)).map_err(unreadable)?;
    writer.write(&rows).map_err(unreadable)?;
    writer.into_inner().map_err(unreadable)
}

fn manifest_key(name: &str, digest: &Digest) -> String {
    format!("datasets/{name}/{digest}")
}

#[async_trait]
impl DatasetStore for ParquetDatasets {
    async fn commit(&self, new: NewDataset) -> Result<DatasetVersion> {
        new.check()?;
        let columns: Vec<Column> = new.batches[0]
            .schema()
            .fields()
            .iter()
            .map(|f| Column { name: f.name().clone(), data_type: f.data_type().to_string(), nullable: f.is_nullable() })
            .collect();
        let rows = new.batches.iter().map(|b| b.num_rows() as u64).sum();
        let data = encode(&new.batches)?;
        let bytes = data.len() as u64;
        let digest = self.store.put_artifact(data.into()).await?;
        let files = vec![DataFile { digest, bytes, rows }];
        let digest = DatasetVersion::digest_of(&new.name, &columns, &files, new.parent.as_ref(), &new.source)?;
        let version = DatasetVersion {
            name: new.name,
            digest,
            columns,
            rows,
            files,
            parent: new.parent,
            source: new.source,
            created_at: new.at,
            author: new.author,
        };
        let manifest = crate::json::to_canonical(&version)?;
        let key = manifest_key(&version.name, &digest);
        match self.store.put_opts(&key, manifest.clone().into(), PutMode::Create).await {
            Ok(()) => Ok(version),
            Err(Error::AlreadyExists { .. }) => match self.version(&version.name, &digest).await {
                // What is there is damaged: the same version, written anew, mends it.
                Err(Error::Corrupt { .. } | Error::InvalidInput { .. }) => {
                    self.store.put_opts(&key, manifest.into(), PutMode::Overwrite).await?;
                    Ok(version)
                }
                known => known,
            },
            Err(error) => Err(error),
        }
    }

    async fn version(&self, name: &str, digest: &Digest) -> Result<DatasetVersion> {
        check_name("dataset name", name)?;
        let manifest = match self.store.get(&manifest_key(name, digest)).await {
            Err(Error::NotFound { .. }) => {
                return Err(Error::not_found("dataset version", format!("{name}@{digest}")));
            }
            other => other?,
        };
        let version: DatasetVersion =
            serde_json::from_slice(&manifest).map_err(|e| Error::invalid(format!("manifest of {name}"), e))?;
        let found = DatasetVersion::digest_of(
            &version.name,
            &version.columns,
            &version.files,
            version.parent.as_ref(),
            &version.source,
        )?;
        if found == *digest && version.digest == found {
            Ok(version)
        } else {
            Err(Error::Corrupt { what: format!("manifest of dataset {name}"), expected: *digest, found })
        }
    }

    async fn versions(&self, name: &str) -> Result<Vec<DatasetVersion>> {
        check_name("dataset name", name)?;
        let mut versions = Vec::new();
        for object in self.store.list(&format!("datasets/{name}/")).await? {
            let digest = object.key.rsplit('/').next().unwrap_or_default().parse()?;
            versions.push(self.version(name, &digest).await?);
        }
        versions.sort_by_key(|v| (v.created_at, v.digest));
        Ok(versions)
    }

    async fn read(&self, version: &DatasetVersion) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        let store = Arc::clone(&self.store);
        let files = stream::iter(version.files.clone()).then(move |file| {
            let store = Arc::clone(&store);
            async move {
                let data = store.get_artifact(&file.digest).await?;
                let reader = ParquetRecordBatchReaderBuilder::try_new(data).map_err(unreadable)?;
                let reader = reader.with_batch_size(65_536).build().map_err(unreadable)?;
                Ok::<_, Error>(reader.map(|batch| batch.map_err(Error::from)))
            }
        });
        let batches = files.flat_map(|file| match file {
            Ok(reader) => stream::iter(reader).boxed(),
            Err(error) => stream::iter([Err(error)]).boxed(),
        });
        Ok(batches.boxed())
    }
}

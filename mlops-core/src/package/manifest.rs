//! The list of a package's files: a package without its bytes in memory.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::TryStreamExt;
use serde::{Deserialize, Serialize};

use super::names::Inspector;
use super::{Limits, MLMODEL, MlModel, PROVENANCE, Provenance};
use crate::store::{ArtifactStore, ArtifactStoreExt, Blob, BlobReader, BlobWriter, Lease};
use crate::{Digest, Error, Result};

/// Most bytes of a file that is read to be understood: `MLmodel`, `provenance.json`.
const DESCRIPTION: u64 = 4 << 20;

/// One file of a package: its size and where its bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct FileEntry {
    /// Its size.
    pub bytes: u64,
    /// The digest of its bytes, under which a store has them.
    pub digest: Digest,
}

/// A package as the list of its files: path, size and digest of each. The bytes stay in the store.
///
/// A package is its manifest: equal manifests are equal packages, and [`Manifest::digest`] is the package's digest. So a
/// package whose files are stored already is made by writing the list alone, whatever they weigh:
///
/// ```
/// # futures::executor::block_on(async {
/// use futures::stream;
/// use mlops_core::package::{MLMODEL, Manifest};
/// use mlops_core::store::{ArtifactStoreExt, MemoryStore};
/// use mlops_core::Package;
/// let store = MemoryStore::default();
/// let piece = |text: &'static str| stream::iter([Ok(text.into())]);
/// let weights = store.put_blob(piece("many bytes")).await?;
/// let mlmodel = store.put_blob(piece("flavors:\n  sklearn: {pickled_model: weights}\n")).await?;
/// let manifest = Manifest::builder().file("weights", &weights).file(MLMODEL, &mlmodel).build()?;
/// let digest = manifest.save(&store).await?;
/// assert_eq!(Package::load(&store, &digest).await?.file("weights")?, "many bytes");
/// # Ok::<(), mlops_core::Error>(()) }).unwrap();
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    files: BTreeMap<String, FileEntry>,
}

/// The manifest as it is stored.
#[derive(Serialize, Deserialize)]
struct Stored {
    files: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    path: String,
    bytes: u64,
    digest: Digest,
}

impl Manifest {
    /// Starts a manifest without files.
    pub fn builder() -> ManifestBuilder {
        ManifestBuilder { files: Vec::new(), limits: Limits::default() }
    }

    pub(super) fn of(files: &BTreeMap<String, Bytes>) -> Self {
        let entry = |data: &Bytes| FileEntry { bytes: data.len() as u64, digest: Digest::of(data) };
        Self { files: files.iter().map(|(path, data)| (path.clone(), entry(data))).collect() }
    }

    /// All files by path.
    #[must_use]
    pub fn files(&self) -> &BTreeMap<String, FileEntry> {
        &self.files
    }

    /// The size of all files together.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.files.values().map(|file| file.bytes).sum()
    }

    /// One file.
    ///
    /// # Errors
    /// [`Error::NotFound`] naming it.
    pub fn file(&self, path: &str) -> Result<&FileEntry> {
        self.files.get(path).ok_or_else(|| Error::not_found("package file", path))
    }

    pub(super) fn text(&self) -> Result<String> {
        let entry =
            |(path, file): (&String, &FileEntry)| Entry { path: path.clone(), bytes: file.bytes, digest: file.digest };
        crate::json::to_canonical(&Stored { files: self.files.iter().map(entry).collect() })
    }

    /// The package's digest: over all paths and bytes.
    ///
    /// # Errors
    /// None in practice: a list of paths and digests always has a JSON form.
    pub fn digest(&self) -> Result<Digest> {
        Ok(Digest::of(self.text()?.as_bytes()))
    }

    /// Reads the manifest of a package, within the default [`Limits`].
    ///
    /// # Errors
    /// As [`Manifest::load_within`].
    pub async fn load(store: &dyn ArtifactStore, digest: &Digest) -> Result<Self> {
        Self::load_within(store, digest, Limits::default()).await
    }

    /// Reads the manifest of a package.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Corrupt`] if it was changed; [`Error::InvalidInput`] if it is no manifest, is beyond
    /// `limits`, or has a path that is refused; those of the store.
    pub async fn load_within(store: &dyn ArtifactStore, digest: &Digest, limits: Limits) -> Result<Self> {
        // A path of 1,024 bytes, each escaped, and what is around it.
        let most = (limits.files as u64).saturating_add(1).saturating_mul(8 << 10);
        let stored = store.open_blob(digest).await?;
        if stored.bytes() > most {
            let reason = format!("has {} bytes, too many for {} files", stored.bytes(), limits.files);
            return Err(Error::invalid("package list", reason));
        }
        let stored = store.get_artifact(digest).await?;
        let stored: Stored = serde_json::from_slice(&stored).map_err(|e| Error::invalid("package list", e))?;
        let mut builder = Self::builder().limits(limits);
        builder.files.extend(stored.files.into_iter().map(|e| (e.path, e.bytes, e.digest)));
        let manifest = builder.build()?;
        // Another spelling of the same list would be another digest for the same package.
        let found = manifest.digest()?;
        if found == *digest {
            Ok(manifest)
        } else {
            Err(Error::invalid("package list", format!("is not in canonical form: it should be {found}")))
        }
    }

    /// Writes the list to the store that has the files, and returns the package's digest.
    ///
    /// What is stored but not named by anything yet may be collected after the collector's grace, so save within it or
    /// hold a [`Lease`].
    ///
    /// # Errors
    /// [`Error::NotFound`] naming a file that is not stored, [`Error::InvalidInput`] naming one that is stored with another
    /// size or for an `MLmodel` that cannot be read; those of the store. The files' bytes are checked when they are read.
    pub async fn save(&self, store: &dyn ArtifactStore) -> Result<Digest> {
        for path in self.files.keys() {
            self.open(store, path).await?;
        }
        self.model(store).await?;
        store.put_artifact(self.text()?.into()).await
    }

    /// Opens one file to be read in pieces or in part.
    ///
    /// # Errors
    /// [`Error::NotFound`] naming it, [`Error::InvalidInput`] if it is stored with another size; those of the store.
    pub async fn open<'a>(
        &self,
        store: &'a dyn ArtifactStore,
        path: &str,
    ) -> Result<BlobReader<&'a dyn ArtifactStore>> {
        let file = self.file(path)?;
        let reader = BlobReader::open(store, &file.digest).await.map_err(|error| about(path, error))?;
        if reader.bytes() == file.bytes {
            return Ok(reader);
        }
        let reason = format!("{path:?} should have {} bytes, and {} are stored", file.bytes, reader.bytes());
        Err(Error::invalid("package file", reason))
    }

    /// The bytes of one file, checked.
    pub(super) async fn read(&self, store: &dyn ArtifactStore, path: &str) -> Result<Bytes> {
        self.open(store, path).await?;
        store.get_artifact(&self.file(path)?.digest).await.map_err(|error| about(path, error))
    }

    async fn described(&self, store: &dyn ArtifactStore, path: &str) -> Result<Bytes> {
        let bytes = self.file(path)?.bytes;
        if bytes > DESCRIPTION {
            let reason = format!("has {bytes} bytes, more than the {DESCRIPTION} that are read of it");
            return Err(Error::invalid(path, reason));
        }
        self.read(store, path).await
    }

    /// The parsed `MLmodel`; nothing else is read.
    ///
    /// # Errors
    /// [`Error::NotFound`] or [`Error::InvalidInput`] if there is none or it cannot be read; those of the store.
    pub async fn model(&self, store: &dyn ArtifactStore) -> Result<MlModel> {
        MlModel::parse(&self.described(store, MLMODEL).await?)
    }

    /// What the model was made from; nothing else is read.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the package does not say, [`Error::InvalidInput`] if what it says cannot be read.
    pub async fn provenance(&self, store: &dyn ArtifactStore) -> Result<Provenance> {
        Provenance::parse(&self.described(store, PROVENANCE).await?)
    }

    /// Reads every byte of every file, in pieces, and checks it.
    ///
    /// # Errors
    /// [`Error::Corrupt`] or [`Error::NotFound`] naming the first file; [`Error::InvalidInput`] for an `MLmodel` that
    /// cannot be read; those of the store.
    pub async fn verify(&self, store: &dyn ArtifactStore) -> Result<()> {
        for path in self.files.keys() {
            let mut pieces = self.open(store, path).await?.stream();
            while pieces.try_next().await.map_err(|error| about(path, error))?.is_some() {}
        }
        self.model(store).await.map(|_| ())
    }

    /// Copies a package from one store to another: only the files that are missing there, each checked on the way, and
    /// the list last. Returns what was copied.
    ///
    /// With a `lease` on the other store, files that are there stay as they are; without one, old ones are rewritten, so
    /// that a collector does not take them before the package is named.
    ///
    /// # Errors
    /// [`Error::NotFound`] or [`Error::Corrupt`] naming the file; those of the stores.
    pub async fn copy(
        from: &dyn ArtifactStore,
        to: &dyn ArtifactStore,
        digest: &Digest,
        lease: Option<&Lease>,
    ) -> Result<Copied> {
        let manifest = Self::load(from, digest).await?;
        let mut copied = Copied { manifest, files: 0, bytes: 0 };
        for (path, file) in &copied.manifest.files {
            // What is there but damaged or about to go is written anew below.
            let there = copied.manifest.open(to, path).await.is_ok();
            if there && (lease.is_some() || crate::store::keep_blob_young(to, &file.digest).await.is_ok()) {
                continue;
            }
            let mut pieces = copied.manifest.open(from, path).await?.stream();
            let mut writer = lease.map_or_else(|| BlobWriter::new(to), |lease| BlobWriter::under(to, lease));
            while let Some(piece) = pieces.try_next().await.map_err(|error| about(path, error))? {
                writer.write(piece).await?;
            }
            writer.finish().await?;
            copied.files += 1;
            copied.bytes += file.bytes;
        }
        to.sync().await?;
        copied.manifest.save(to).await?;
        Ok(copied)
    }
}

/// What [`Manifest::copy`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Copied {
    /// The package.
    pub manifest: Manifest,
    /// How many of its files were missing.
    pub files: u64,
    /// Their size.
    pub bytes: u64,
}

/// An error of the store, with the file's name for the digest's.
pub(super) fn about(path: &str, error: Error) -> Error {
    match error {
        Error::Corrupt { expected, found, .. } => {
            Error::Corrupt { what: format!("package file {path}"), expected, found }
        }
        Error::NotFound { .. } => Error::not_found("package file", path),
        other => other,
    }
}

/// Puts a [`Manifest`] together.
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct ManifestBuilder {
    files: Vec<(String, u64, Digest)>,
    limits: Limits,
}

impl ManifestBuilder {
    /// Adds a file that is stored as `blob`.
    pub fn file(mut self, path: impl Into<String>, blob: &Blob) -> Self {
        self.files.push((path.into(), blob.bytes, blob.digest));
        self
    }

    /// Adds a file that is stored under `digest` and has `bytes` bytes.
    pub fn entry(mut self, path: impl Into<String>, bytes: u64, digest: Digest) -> Self {
        self.files.push((path.into(), bytes, digest));
        self
    }

    /// How much is allowed.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Checks everything.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if there is no `MLmodel`, a path is refused (see [`check_path`](super::check_path)), two are
    /// equal or differ in case alone, one is a folder of another, or a limit is passed.
    pub fn build(self) -> Result<Manifest> {
        let mut inspector = Inspector::new(self.limits);
        let mut files = BTreeMap::new();
        for (path, bytes, digest) in self.files {
            inspector.file(&path, bytes)?;
            files.insert(path, FileEntry { bytes, digest });
        }
        if files.contains_key(MLMODEL) { Ok(Manifest { files }) } else { Err(no_mlmodel()) }
    }
}

pub(super) fn no_mlmodel() -> Error {
    Error::invalid("package", "has no MLmodel file")
}

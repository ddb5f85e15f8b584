//! A model as files: the MLflow directory layout, addressed by the digest of its contents.
//!
//! [`Package`] holds the files in memory; [`Manifest`] is the same package as a list of paths, sizes and digests, for
//! files of any size. What Python's `mlflow` wrote is a package too: its `MLmodel` needs no signature, and what it says
//! beyond the fields known here stays as it is.
//!
//! # Rules for every package
//! - It has an `MLmodel`. Its digest covers every path and every byte, and no time, owner or mode.
//! - Paths pass [`check_path`], and no two are in each other's way on a file system that does not tell case apart.
//! - Nothing is read or written beyond its [`Limits`].

mod archive;
#[cfg(feature = "local")]
mod dir;
mod manifest;
mod names;
#[cfg(feature = "signing")]
#[cfg_attr(docsrs, doc(cfg(feature = "signing")))]
pub mod signing;

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use self::manifest::{Copied, FileEntry, Manifest, ManifestBuilder};
pub use self::names::{Limits, check_path};
use crate::store::{ArtifactStore, ArtifactStoreExt};
use crate::{Digest, Error, Result, RunId, Signature, Timestamp};

/// The file that describes a package: YAML, as MLflow writes and reads it.
pub const MLMODEL: &str = "MLmodel";
/// The file that says what a package was made from: a [`Provenance`] as JSON.
pub const PROVENANCE: &str = "provenance.json";
/// The file with the profile of the training data that monitoring compares live data with.
pub const REFERENCE_PROFILE: &str = "reference_profile.json";

/// The contents of `MLmodel`: which runtimes can load the package, and its signature.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "Read")]
#[non_exhaustive]
pub struct MlModel {
    /// By flavor name (`candle`, `onnx`, `python_function`), what that runtime needs to know.
    pub flavors: BTreeMap<String, Value>,
    /// 32 hexadecimal digits that name this model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_uuid: Option<String>,
    /// The run that made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_id: Option<String>,
    /// What it takes and gives. A signature of another kind (tensors, nested or unnamed columns, one side only) is an entry
    /// of `other`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signature: Option<Signature>,
    /// When it was made, `1996-11-06 23:30:00.000000`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub utc_time_created: Option<String>,
    /// Entries of other tools, kept as they are.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

/// An `MLmodel` as it is read: whatever the signature.
#[derive(Deserialize)]
struct Read {
    flavors: BTreeMap<String, Value>,
    #[serde(default)]
    model_uuid: Option<String>,
    #[serde(default)]
    run_id: Option<String>,
    #[serde(default)]
    signature: Option<Value>,
    #[serde(default)]
    utc_time_created: Option<String>,
    #[serde(flatten)]
    other: BTreeMap<String, Value>,
}

impl From<Read> for MlModel {
    fn from(read: Read) -> Self {
        let Read { flavors, model_uuid, run_id, signature, utc_time_created, mut other } = read;
        let known = signature.as_ref().and_then(|s| Signature::deserialize(s).ok());
        if let (None, Some(unknown)) = (&known, signature) {
            other.insert("signature".to_owned(), unknown);
        }
        Self { flavors, model_uuid, run_id, signature: known, utc_time_created, other }
    }
}

impl MlModel {
    fn parse(text: &[u8]) -> Result<Self> {
        let text = std::str::from_utf8(text).map_err(|e| Error::invalid(MLMODEL, e))?;
        // Python writes a plain `n` or `y` for a text and `true` for a truth, so the short truths of YAML 1.1 are none here.
        let options = serde_saphyr::options! { strict_booleans: true };
        serde_saphyr::from_str_with_options(text, options).map_err(|e| Error::invalid(MLMODEL, e))
    }

    /// What the model takes and gives.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if there is no signature, or one of another kind than named columns on both sides.
    pub fn signature(&self) -> Result<&Signature> {
        self.signature.as_ref().ok_or_else(|| {
            let reason = match self.other.get("signature").map(Signature::deserialize) {
                Some(Err(error)) => format!("its signature is not one of named columns on both sides: {error}"),
                _ => "has no signature".to_owned(),
            };
            Error::invalid(MLMODEL, reason)
        })
    }
}

/// A dataset version by name and digest.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DatasetRef {
    /// The dataset's name.
    pub name: String,
    /// The version's digest.
    pub digest: Digest,
}

impl fmt::Display for DatasetRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.name, self.digest.short())
    }
}

/// What a model was made from: enough to make it again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Provenance {
    /// The run that made it.
    pub run: Option<RunId>,
    /// The dataset versions it was trained on.
    pub datasets: Vec<DatasetRef>,
    /// The commit of the training code.
    pub commit: Option<String>,
    /// Whether the working tree differed from that commit.
    pub dirty: Option<bool>,
    /// The digest of what differed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub changes: Option<Digest>,
    /// The digest of the lock file that pins the dependencies.
    pub lock_file: Option<Digest>,
    /// The compiler or interpreter: `rustc 1.95.0`.
    pub toolchain: Option<String>,
    /// The container image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// The seed that fixes the training.
    pub seed: Option<u64>,
    /// The training parameters.
    pub params: BTreeMap<String, Value>,
}

impl Provenance {
    fn parse(text: &[u8]) -> Result<Self> {
        serde_json::from_slice(text).map_err(|e| Error::invalid(PROVENANCE, e))
    }
}

/// A model package: files in memory, each with a plain relative path, and the parsed `MLmodel`.
///
/// Its digest covers every path and every byte, so two packages with one digest are the same model.
#[derive(Clone)]
pub struct Package {
    files: BTreeMap<String, Bytes>,
    model: MlModel,
}

impl Package {
    /// Starts a package with that signature.
    pub fn builder(signature: Signature) -> PackageBuilder {
        PackageBuilder {
            files: BTreeMap::new(),
            flavors: BTreeMap::new(),
            signature,
            created: None,
            provenance: None,
            clash: None,
        }
    }

    /// The package made of these files, within the default [`Limits`].
    ///
    /// # Errors
    /// [`Error::InvalidInput`] for a path that is refused or in another's way, too much of anything, a missing `MLmodel`, or
    /// one that cannot be read.
    pub fn from_files(files: BTreeMap<String, Bytes>) -> Result<Self> {
        let mut inspector = names::Inspector::new(Limits::default());
        files.iter().try_for_each(|(path, data)| inspector.file(path, data.len() as u64))?;
        let model = MlModel::parse(files.get(MLMODEL).ok_or_else(manifest::no_mlmodel)?)?;
        Ok(Self { files, model })
    }

    /// The parsed `MLmodel`.
    #[must_use]
    pub fn model(&self) -> &MlModel {
        &self.model
    }

    /// What the model takes and gives.
    ///
    /// # Errors
    /// As [`MlModel::signature`].
    pub fn signature(&self) -> Result<&Signature> {
        self.model.signature()
    }

    /// The bytes of one file.
    ///
    /// # Errors
    /// [`Error::NotFound`] naming the file.
    pub fn file(&self, path: &str) -> Result<&Bytes> {
        self.files.get(path).ok_or_else(|| Error::not_found("package file", path))
    }

    /// All files by path.
    #[must_use]
    pub fn files(&self) -> &BTreeMap<String, Bytes> {
        &self.files
    }

    /// What the model was made from.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the package does not say, [`Error::InvalidInput`] if what it says cannot be read.
    pub fn provenance(&self) -> Result<Provenance> {
        Provenance::parse(self.file(PROVENANCE)?)
    }

    /// The list of its files.
    #[must_use]
    pub fn manifest(&self) -> Manifest {
        Manifest::of(&self.files)
    }

    /// The digest over all paths and bytes.
    ///
    /// # Errors
    /// None in practice: a list of paths and digests always has a JSON form.
    pub fn digest(&self) -> Result<Digest> {
        self.manifest().digest()
    }

    /// Writes the package to a store and returns its digest.
    ///
    /// Files go first and the list of files last, so that a crash leaves loose files and never a package with holes.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn save(&self, store: &dyn ArtifactStore) -> Result<Digest> {
        for data in self.files.values() {
            store.put_artifact(data.clone()).await?;
        }
        store.put_artifact(self.manifest().text()?.into()).await
    }

    /// Reads a package whole into memory, within the default [`Limits`], checking every byte against its digest.
    ///
    /// # Errors
    /// As [`Package::load_within`].
    pub async fn load(store: &dyn ArtifactStore, digest: &Digest) -> Result<Self> {
        Self::load_within(store, digest, Limits::default()).await
    }

    /// Reads a package whole into memory, checking every byte against its digest.
    ///
    /// # Errors
    /// [`Error::NotFound`] or [`Error::Corrupt`] naming the file, [`Error::InvalidInput`] if it is beyond `limits` or no
    /// package, or those of the store.
    pub async fn load_within(store: &dyn ArtifactStore, digest: &Digest, limits: Limits) -> Result<Self> {
        let manifest = Manifest::load_within(store, digest, limits).await?;
        let mut files = BTreeMap::new();
        for path in manifest.files().keys() {
            files.insert(path.clone(), manifest.read(store, path).await?);
        }
        let model = MlModel::parse(files.get(MLMODEL).ok_or_else(manifest::no_mlmodel)?)?;
        Ok(Self { files, model })
    }
}

impl fmt::Debug for Package {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sizes: BTreeMap<&str, usize> = self.files.iter().map(|(p, d)| (p.as_str(), d.len())).collect();
        f.debug_struct("Package").field("model", &self.model).field("bytes", &sizes).finish()
    }
}

/// Puts a [`Package`] together.
#[derive(Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct PackageBuilder {
    files: BTreeMap<String, Bytes>,
    flavors: BTreeMap<String, Value>,
    signature: Signature,
    created: Option<Timestamp>,
    provenance: Option<Provenance>,
    clash: Option<String>,
}

impl PackageBuilder {
    /// Adds a flavor: a runtime's name and what it needs to know.
    pub fn flavor(mut self, name: impl Into<String>, config: Value) -> Self {
        self.flavors.insert(name.into(), config);
        self
    }

    /// Adds a file.
    pub fn file(mut self, path: impl Into<String>, data: impl Into<Bytes>) -> Self {
        let path = path.into();
        if self.files.insert(path.clone(), data.into()).is_some() {
            self.clash.get_or_insert(path);
        }
        self
    }

    /// Says what the model was made from.
    pub fn provenance(mut self, provenance: Provenance) -> Self {
        self.provenance = Some(provenance);
        self
    }

    /// Says when the model was made.
    pub fn created(mut self, at: Timestamp) -> Self {
        self.created = Some(at);
        self
    }

    /// Checks everything and writes `MLmodel` and `provenance.json`.
    ///
    /// `model_uuid` is derived from the contents, so the same inputs give the same package, byte for byte.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if there is no flavor, a path is not plain, or a file is given twice.
    pub fn build(mut self) -> Result<Package> {
        if self.flavors.is_empty() {
            return Err(Error::invalid("package flavors", "name at least one runtime that can load it"));
        }
        if let Some(path) = self.clash {
            return Err(Error::invalid("package file", format!("{path:?} is given twice")));
        }
        if self.files.contains_key(MLMODEL) {
            return Err(Error::invalid("package file", "MLmodel is written by `build`"));
        }
        if let Some(provenance) = &self.provenance {
            let text = serde_json::to_vec_pretty(provenance).map_err(|e| Error::invalid(PROVENANCE, e))?;
            if self.files.insert(PROVENANCE.to_owned(), text.into()).is_some() {
                return Err(Error::invalid("package file", "provenance.json is given twice"));
            }
        }
        let mut hasher = crate::digest::Hasher::default();
        for (path, data) in &self.files {
            hasher.field(path.as_bytes()).field(data);
        }
        hasher.field(crate::json::to_canonical(&(&self.flavors, &self.signature))?.as_bytes());
        let uuid = hasher.finish().to_string()[..32].to_owned();
        let model = MlModel {
            flavors: self.flavors,
            model_uuid: Some(uuid),
            run_id: self.provenance.and_then(|p| p.run).map(|run| run.as_uuid().simple().to_string()),
            signature: Some(self.signature),
            utc_time_created: self.created.map(|at| at.format("%Y-%m-%d %H:%M:%S%.6f").to_string()),
            other: BTreeMap::new(),
        };
        let text = serde_saphyr::to_string(&model).map_err(|e| Error::invalid(MLMODEL, e))?;
        self.files.insert(MLMODEL.to_owned(), text.into());
        Package::from_files(self.files)
    }
}

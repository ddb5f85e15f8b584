//! Packages as directories: what `mlflow` and `model_signing` read and write.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures::TryStreamExt;
use uuid::Uuid;

use super::manifest::about;
use super::names::Inspector;
use super::{Limits, Manifest};
use crate::store::{ArtifactStore, BlobWriter, Lease, blocking};
use crate::{Error, Result};

/// Bytes that are read at once.
const PIECE: usize = 1 << 20;

impl Manifest {
    /// Puts the files of a directory into a store, in pieces, and saves the package they make. With a `lease`, what is
    /// stored is safe from a collector for as long as that.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] naming a link or anything else that is neither a file nor a folder, a path that is refused,
    /// what is beyond `limits`, or an `MLmodel` that is missing or cannot be read; [`Error::Backend`] for a file that
    /// cannot be read; those of the store.
    pub async fn import_dir(
        store: &dyn ArtifactStore,
        dir: impl AsRef<Path>,
        limits: Limits,
        lease: Option<&Lease>,
    ) -> Result<Self> {
        let dir = dir.as_ref().to_owned();
        let files = blocking(move || walk(dir, limits)).await?;
        let mut builder = Self::builder().limits(limits);
        for (path, file, bytes) in files {
            let mut writer = lease.map_or_else(|| BlobWriter::new(store), |lease| BlobWriter::under(store, lease));
            let mut opened = None;
            let mut read = 0;
            loop {
                let (at, name) = (file.clone(), path.clone());
                let (again, piece) = blocking(move || piece(opened, &at, &name)).await?;
                if piece.is_empty() {
                    break;
                }
                read += piece.len() as u64;
                if read > bytes {
                    return Err(Error::invalid("package file", format!("{path:?} grew while it was read")));
                }
                opened = Some(again);
                writer.write(piece).await?;
            }
            builder = builder.file(path, &writer.finish().await?);
        }
        store.sync().await?;
        let manifest = builder.build()?;
        manifest.save(store).await?;
        Ok(manifest)
    }

    /// Writes the package's files into a directory that does not exist yet, in pieces, each checked. The directory appears
    /// when it is complete.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`] for the directory, [`Error::NotFound`] or [`Error::Corrupt`] naming a file of the package,
    /// [`Error::Backend`] if a file cannot be written; those of the store.
    pub async fn export_dir(&self, store: &dyn ArtifactStore, dir: impl AsRef<Path>) -> Result<()> {
        let dir = dir.as_ref().to_owned();
        if fs::symlink_metadata(&dir).is_ok() {
            return Err(Error::AlreadyExists { what: "directory", name: dir.display().to_string() });
        }
        let mut name = dir.file_name().map(ToOwned::to_owned).unwrap_or_default();
        name.push(format!(".{}.partial", Uuid::new_v4().simple()));
        let partial = dir.with_file_name(name);
        let written = self.write_into(store, &partial).await;
        let finished = match written {
            Ok(()) => fs::rename(&partial, &dir).map_err(|e| failed("write", &dir.display().to_string(), e)),
            Err(error) => Err(error),
        };
        if finished.is_err() {
            // What is left is of no use; if it cannot be removed either, the error that matters is the first.
            let _ = blocking(move || Ok(fs::remove_dir_all(partial))).await;
        }
        finished
    }

    async fn write_into(&self, store: &dyn ArtifactStore, dir: &Path) -> Result<()> {
        for path in self.files().keys() {
            let (at, name) = (dir.join(path), path.clone());
            let mut file = blocking(move || {
                let folder = at.parent().unwrap_or(&at);
                fs::create_dir_all(folder).and_then(|()| File::create_new(&at)).map_err(|e| failed("write", &name, e))
            })
            .await?;
            let mut pieces = self.open(store, path).await?.stream();
            while let Some(piece) = pieces.try_next().await.map_err(|error| about(path, error))? {
                let name = path.clone();
                file = blocking(move || {
                    file.write_all(&piece).map_err(|e| failed("write", &name, e))?;
                    Ok(file)
                })
                .await?;
            }
        }
        Ok(())
    }
}

fn failed(operation: &'static str, path: &str, source: std::io::Error) -> Error {
    Error::Backend {
        backend: "directory".to_owned(),
        operation,
        key: path.to_owned(),
        retryable: false,
        source: source.into(),
    }
}

/// The next piece of a file, empty at its end, and the file to go on with.
fn piece(opened: Option<File>, at: &Path, path: &str) -> Result<(File, Bytes)> {
    let read = |e| failed("read", path, e);
    let file = match opened {
        Some(file) => file,
        None => File::open(at).map_err(read)?,
    };
    let mut piece = Vec::new();
    Read::by_ref(&mut &file).take(PIECE as u64).read_to_end(&mut piece).map_err(read)?;
    Ok((file, piece.into()))
}

/// The files below `dir` with their paths in the package and their sizes, sorted.
fn walk(dir: PathBuf, limits: Limits) -> Result<Vec<(String, PathBuf, u64)>> {
    let mut inspector = Inspector::new(limits);
    let mut files = Vec::new();
    let mut folders = vec![(String::new(), dir)];
    while let Some((prefix, folder)) = folders.pop() {
        let shown = if prefix.is_empty() { folder.display().to_string() } else { prefix.clone() };
        for entry in fs::read_dir(&folder).map_err(|e| failed("list", &shown, e))? {
            let entry = entry.map_err(|e| failed("list", &shown, e))?;
            let name = entry.file_name().into_string();
            let name = name.map_err(|name| Error::invalid("package path", format!("{name:?} is not Unicode")))?;
            let path = format!("{prefix}{name}");
            let meta = fs::symlink_metadata(entry.path()).map_err(|e| failed("read", &path, e))?;
            if meta.is_dir() {
                if prefix.len() > 1_024 {
                    super::check_path(&path)?;
                }
                folders.push((format!("{path}/"), entry.path()));
            } else if meta.is_file() {
                inspector.file(&path, meta.len())?;
                files.push((path, entry.path(), meta.len()));
            } else {
                let reason = format!("{path:?} is neither a file nor a folder: put in its place what it leads to");
                return Err(Error::invalid("package file", reason));
            }
        }
    }
    files.sort_unstable();
    Ok(files)
}

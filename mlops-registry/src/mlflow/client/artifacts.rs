//! Files behind the server: bytes both ways, as they come.

use std::sync::Arc;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt as _};
use hyper::Method;
use mlops_core::store::{ArtifactStoreExt as _, BlobReader};
use mlops_core::{Error as CoreError, Permission, Principal, Resource};

use super::MlflowClient;
use super::http::Call;
use super::messages::{self, FileMessage, odd};
use crate::mlflow::wire;
use crate::{Artifact, ArtifactMode, ArtifactOwner, Error, LifecycleStage, Result, check};

const WHAT: &str = "artifact";
/// Most folders of one listing: a server that answers itself in a ring would not end.
const MOST_FOLDERS: usize = 100_000;

/// A file behind the server, as a listing tells of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct File {
    /// Its path within its owner.
    pub path: String,
    /// Its size in bytes.
    pub bytes: u64,
}

/// What of a URI the server's proxy takes.
pub(super) fn behind(uri: &str) -> Result<&str> {
    let refused = |operation: String, remedy| Err(super::unsupported(operation, remedy));
    let shown = || uri.chars().take(200).collect::<String>();
    match uri.strip_prefix(wire::PROXIED) {
        Some(rest) if !rest.starts_with("//") => Ok(rest.trim_matches('/')),
        Some(_) => refused(
            format!("reach the files at {:?}, behind another server", shown()),
            "make a client of that server, or give the experiment an artifact location without a host",
        ),
        None => {
            let scheme = uri.split_once(':').map_or("no", |(scheme, _)| scheme);
            refused(
                format!("reach the files at {:?}: with the scheme {scheme:?} clients write them themselves", shown()),
                "use an experiment whose artifact location begins with mlflow-artifacts: (mlflow server \
                 --serve-artifacts), or read that place with an `ObjectArtifactStore`",
            )
        }
    }
}

fn missing(owner: ArtifactOwner, path: &str) -> Error {
    CoreError::not_found(WHAT, format!("{path} of {owner}")).into()
}

impl MlflowClient {
    /// Where the files of an owner are, whether it takes changes, and who may make them.
    async fn place(&self, owner: ArtifactOwner) -> Result<(String, LifecycleStage, String)> {
        match owner {
            ArtifactOwner::Run(run) => {
                let run = self.read_run(run).await?;
                Ok((run.artifact_uri, run.info.stage, run.info.experiment))
            }
            ArtifactOwner::LoggedModel(model) => {
                let logged = self.read_logged(model).await?;
                let experiment = self.read_experiment_by_id(logged.model.experiment).await?.name;
                Ok((logged.uri, logged.model.stage, experiment))
            }
        }
    }

    /// The same, for somebody who is to change them.
    async fn open_place(&self, who: &Principal, owner: ArtifactOwner) -> Result<String> {
        let (uri, stage, experiment) = self.place(owner).await?;
        self.allow(who, Permission::Track, Resource::experiment(experiment))?;
        super::experiments::in_use("owner of artifacts", owner, stage)?;
        Ok(behind(&uri)?.to_owned())
    }

    /// What lies in a folder of the server.
    async fn list(&self, folder: &str) -> Result<Vec<FileMessage>> {
        let call = Call::list(folder).about("folder", folder);
        let (files, _): (Vec<FileMessage>, Option<String>) = self.http().send::<messages::Files>(call).await?.into();
        Ok(files)
    }

    /// Every file in a folder of the server, however deep, by its path within the folder.
    pub(super) async fn walk(&self, root: &str, within: &str) -> Result<Vec<File>> {
        let mut found = Vec::new();
        let mut folders = vec![within.trim_matches('/').to_owned()];
        let mut seen = 0;
        while let Some(folder) = folders.pop() {
            seen += 1;
            if seen > MOST_FOLDERS {
                return Err(odd("a folder", format!("{root} has more than {MOST_FOLDERS} folders")));
            }
            for file in self.list(format!("{root}/{folder}").trim_matches('/')).await? {
                // A path is relative to the folder that was asked for, and one that leads elsewhere is none.
                let path = if folder.is_empty() { file.path } else { format!("{folder}/{}", file.path) };
                check::path("path in a listing", &path)?;
                if file.is_dir {
                    folders.push(path);
                } else {
                    let bytes = u64::try_from(file.file_size).map_err(|_| odd("the size of a file", file.file_size))?;
                    found.push(File { path, bytes });
                }
            }
        }
        found.sort();
        Ok(found)
    }

    /// Every file of a run or a logged model under the directory `within`, however deep, or all if it is empty, by path.
    ///
    /// # Errors
    /// [`NotFound`](CoreError::NotFound) for an owner that is not there, [`Error::Unsupported`] for files that are not behind
    /// the server.
    pub async fn files(&self, owner: ArtifactOwner, within: &str) -> Result<Vec<File>> {
        let within = within.strip_suffix('/').filter(|w| !w.is_empty()).unwrap_or(within);
        if !within.is_empty() {
            check::path("artifact path", within)?;
        }
        let (uri, ..) = self.place(owner).await?;
        self.walk(behind(&uri)?, within).await
    }

    pub(super) async fn open_file(
        &self,
        root: &str,
        path: &str,
    ) -> Result<BoxStream<'static, mlops_core::Result<Bytes>>> {
        let at = format!("{root}/{path}");
        self.http().download(Call::file(Method::GET, "read", &at).about(WHAT, path)).await
    }

    /// The bytes of a file of a run or a logged model, as they come. Nothing says whether they are the ones that were
    /// written: MLflow keeps no digests.
    ///
    /// # Errors
    /// [`NotFound`](CoreError::NotFound), [`Error::Unsupported`] for a file that is not behind the server. The stream's last
    /// item is an error where not all came.
    pub async fn download(
        &self,
        owner: ArtifactOwner,
        path: &str,
    ) -> Result<BoxStream<'static, mlops_core::Result<Bytes>>> {
        check::path("artifact path", path)?;
        let (uri, ..) = self.place(owner).await?;
        match self.open_file(behind(&uri)?, path).await {
            Err(error) if error.is_not_found() => Err(missing(owner, path)),
            other => other,
        }
    }

    pub(super) async fn send_file(
        &self,
        who: &Principal,
        root: &str,
        path: &str,
        bytes: Option<u64>,
        pieces: BoxStream<'static, mlops_core::Result<Bytes>>,
    ) -> Result<()> {
        let at = format!("{root}/{path}");
        self.http().upload(Call::file(Method::PUT, "write", &at).about(WHAT, path).by(who), bytes, pieces).await
    }

    /// Writes a file of a run or a logged model, as its bytes come, over one that is there. `bytes` is how many they are, if
    /// that is known.
    ///
    /// # Errors
    /// As [`put_artifact`](crate::TrackingStore::put_artifact), but for the artifact store, which is not used; and those of
    /// `pieces`.
    pub async fn upload(
        &self,
        who: &Principal,
        owner: ArtifactOwner,
        path: &str,
        bytes: Option<u64>,
        pieces: impl Stream<Item = mlops_core::Result<Bytes>> + Send + 'static,
    ) -> Result<()> {
        check::path("artifact path", path)?;
        let root = self.open_place(who, owner).await?;
        self.send_file(who, &root, path, bytes, pieces.boxed()).await
    }

    /// Sends what the artifact store has under a digest.
    pub(super) async fn send_blob(&self, who: &Principal, root: &str, file: &Artifact) -> Result<()> {
        let store = self.store("take an artifact's bytes")?;
        let blob = BlobReader::open(Arc::clone(store), &file.digest).await?;
        if blob.bytes() != file.bytes {
            let reason = format!("{:?} should have {} bytes, and {} are stored", file.path, file.bytes, blob.bytes());
            return Err(CoreError::invalid(WHAT, reason).into());
        }
        let bytes = Some(blob.bytes());
        self.send_file(who, root, &file.path, bytes, blob.stream()).await
    }

    /// Brings a file into the artifact store.
    pub(super) async fn fetch(&self, root: &str, path: &str) -> Result<Artifact> {
        let store = self.store("read an artifact")?;
        let pieces = self.open_file(root, path).await?;
        let blob = store.put_blob(pieces).await?;
        Ok(Artifact::new(path, blob.digest, blob.bytes))
    }

    pub(super) async fn write_artifact(
        &self,
        who: &Principal,
        owner: ArtifactOwner,
        artifact: Artifact,
        mode: ArtifactMode,
    ) -> Result<()> {
        check::path("artifact path", &artifact.path)?;
        let root = self.open_place(who, owner).await?;
        if mode == ArtifactMode::Create {
            let folder = artifact.path.rsplit_once('/').map_or("", |(folder, _)| folder);
            let listed = self.list(format!("{root}/{folder}").trim_matches('/')).await?;
            let name = artifact.path.rsplit('/').next().unwrap_or_default();
            if let Some(there) = listed.iter().find(|file| file.path == name) {
                let size = u64::try_from(there.file_size).ok();
                let same = !there.is_dir
                    && size == Some(artifact.bytes)
                    && self.fetch(&root, &artifact.path).await?.digest == artifact.digest;
                let name = format!("{} of {owner}", artifact.path);
                return if same { Ok(()) } else { Err(CoreError::AlreadyExists { what: WHAT, name }.into()) };
            }
        }
        self.send_blob(who, &root, &artifact).await
    }

    pub(super) async fn delete_artifact(&self, who: &Principal, owner: ArtifactOwner, path: &str) -> Result<()> {
        check::path("artifact path", path)?;
        let root = self.open_place(who, owner).await?;
        let at = format!("{root}/{path}");
        let call = Call::file(Method::DELETE, "remove", &at).about(WHAT, path).by(who);
        match self.http().tell(call).await {
            Err(error) if error.is_not_found() => Ok(()),
            other => other,
        }
    }

    pub(super) async fn read_artifact(&self, owner: ArtifactOwner, path: &str) -> Result<Artifact> {
        check::path("artifact path", path)?;
        let (uri, ..) = self.place(owner).await?;
        match self.fetch(behind(&uri)?, path).await {
            Err(error) if error.is_not_found() => Err(missing(owner, path)),
            other => other,
        }
    }

    pub(super) async fn read_artifacts(&self, owner: ArtifactOwner, within: &str) -> Result<Vec<Artifact>> {
        let (root, mut found) = (self.place(owner).await?.0, Vec::new());
        for file in self.files(owner, within).await? {
            found.push(self.fetch(behind(&root)?, &file.path).await?);
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mlflow::client::BACKEND;

    #[test]
    fn other_places_are_refused_by_their_scheme() {
        assert_eq!(behind("mlflow-artifacts:/1/a/artifacts").unwrap(), "1/a/artifacts");
        for (uri, said) in [
            ("s3://bucket/1", "with the scheme \"s3\" clients write them themselves: use an experiment whose"),
            ("dbfs:/x", "\"dbfs\""),
            ("/srv/mlruns/1", "\"no\""),
            ("mlflow-artifacts://other:5000/1", "behind another server: make a client of that server"),
        ] {
            let error = behind(uri).unwrap_err();
            assert!(matches!(error, Error::Unsupported { .. }), "{error}");
            assert!(error.to_string().contains(said), "{error}");
        }
        assert!(behind("s3://b").unwrap_err().to_string().starts_with(&format!("{BACKEND} cannot reach the files at")));
    }
}

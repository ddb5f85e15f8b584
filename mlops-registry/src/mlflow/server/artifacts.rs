//! The artifact proxy: bytes both ways, as they come, never a whole artifact in memory.
//!
//! A path is `EXPERIMENT/RUN/artifacts/…`, `EXPERIMENT/models/MODEL/artifacts/…`, or `model-versions/NAME/VERSION/…`,
//! which is only read: the files of a version are those of its package.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, RawQuery, Request, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures::{StreamExt, TryStreamExt};
use mlops_core::store::{ArtifactStoreExt as _, BlobReader};
use mlops_core::{Error as CoreError, ExperimentId, Permission, Principal, Resource};
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

use super::Server;
use super::args::Args;
use super::experiments::wire_id;
use super::failure::{Answer, Failure};
use crate::mlflow::wire::Code;
use crate::{Artifact, ArtifactMode, ArtifactOwner, LifecycleStage, LoggedModel, ModelVersion, Run};

/// Whose files a path is among, and which.
pub(super) enum Place {
    Run { run: Run, path: String },
    LoggedModel { model: LoggedModel, path: String },
    Version { version: ModelVersion, path: String },
}

impl Place {
    pub(super) fn path(&self) -> &str {
        let (Self::Run { path, .. } | Self::LoggedModel { path, .. } | Self::Version { path, .. }) = self;
        path
    }

    /// Who the files are of, where they may be changed.
    fn owner(&self) -> Answer<(ArtifactOwner, ExperimentId)> {
        match self {
            Self::Run { run, .. } if run.info.stage == LifecycleStage::Deleted => {
                Err(Failure::invalid("the run is deleted: restore it first"))
            }
            Self::Run { run, .. } => Ok((run.id().into(), run.info.experiment_id)),
            Self::LoggedModel { model, .. } => Ok((model.id.into(), model.experiment)),
            Self::Version { .. } => {
                Err(Failure::invalid("the files of a model version are those that were registered: they do not change"))
            }
        }
    }
}

/// Files and folders directly in `folder`, with paths that start with `prefix`.
fn listing(files: &[Artifact], folder: &str, prefix: &str) -> Vec<Value> {
    let folder = folder.trim_matches('/');
    let mut found: BTreeMap<&str, Option<u64>> = BTreeMap::new();
    for file in files {
        let rest = if folder.is_empty() {
            Some(file.path.as_str())
        } else {
            file.path.strip_prefix(folder).and_then(|rest| rest.strip_prefix('/'))
        };
        match rest.map(|rest| rest.split_once('/')) {
            None => {}
            Some(Some((name, _))) => {
                found.insert(name, None);
            }
            Some(None) => {
                found.insert(rest.unwrap_or_default(), Some(file.bytes));
            }
        }
    }
    let message = |(name, bytes): (&str, Option<u64>)| {
        let path = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}/{name}") };
        match bytes {
            Some(bytes) => json!({ "path": path, "is_dir": false, "file_size": bytes }),
            None => json!({ "path": path, "is_dir": true }),
        }
    };
    found.into_iter().map(message).collect()
}

impl Server {
    /// Finds out what a path of the proxy names, and whether the caller may look at it.
    pub(super) async fn place(&self, who: &Principal, path: &str) -> Answer<Place> {
        let missing = || Failure::missing(format!("no artifacts at '{path}'"));
        if path.split('/').any(|part| part == "..") || path.contains(['\\', '\0']) {
            return Err(Failure::invalid("Invalid path"));
        }
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
        match parts.as_slice() {
            ["model-versions", name, version, rest @ ..] => {
                // The client takes the address of a version as it is, so that the name is still encoded here.
                let name = percent_decode_str(name).decode_utf8().map_err(|_| missing())?;
                let number = version.parse().map_err(|_| missing())?;
                Ok(Place::Version { version: self.version_of(who, &name, number).await?, path: rest.join("/") })
            }
            [experiment, "models", id, "artifacts", rest @ ..] => {
                let model = self.logged_model(who, id).await?;
                let of = self.tracking.experiment_by_id(model.experiment).await?;
                if wire_id(&of.name, of.id) != *experiment {
                    return Err(missing());
                }
                Ok(Place::LoggedModel { model, path: rest.join("/") })
            }
            [experiment, run, "artifacts", rest @ ..] => {
                let run = self.run_of(who, run).await?;
                if wire_id(&run.info.experiment, run.info.experiment_id) != *experiment {
                    return Err(missing());
                }
                Ok(Place::Run { run, path: rest.join("/") })
            }
            _ => Err(missing()),
        }
    }

    /// All files of whoever `place` is among.
    pub(super) async fn files_of(&self, place: &Place) -> Answer<Vec<Artifact>> {
        Ok(match place {
            Place::Run { run, .. } => self.tracking.artifacts(run.id().into(), "").await?,
            Place::LoggedModel { model, .. } => self.tracking.artifacts(model.id.into(), "").await?,
            Place::Version { version, .. } => self.package_files(&version.package).await?,
        })
    }

    pub(super) async fn list_run_artifacts(&self, who: &Principal, args: Args) -> Answer {
        let run = self.run_of(who, args.text_or("run_id", "run_uuid")?).await?;
        let folder = args.opt_text("path")?.unwrap_or_default();
        let files = self.tracking.artifacts(run.id().into(), "").await?;
        Ok(json!({ "root_uri": self.run_uri(&run).await?, "files": listing(&files, folder, folder.trim_matches('/')) }))
    }

    pub(super) async fn list_model_artifacts(&self, who: &Principal, args: Args) -> Answer {
        let model = self.logged_model(who, args.text("model_id")?).await?;
        let folder = args.opt_text("artifact_directory_path")?.unwrap_or_default();
        let files = self.tracking.artifacts(model.id.into(), "").await?;
        let uri = self.model_uri(&model).await?;
        Ok(json!({ "root_uri": uri, "files": listing(&files, folder, folder.trim_matches('/')) }))
    }
}

async fn list(State(server): State<Arc<Server>>, headers: HeaderMap, RawQuery(query): RawQuery) -> Answer<Response> {
    let who = server.caller(&headers).await?;
    let args = Args::query(query.as_deref().unwrap_or_default());
    let path = args.opt_text("path")?.unwrap_or_default();
    let found = match server.place(&who, path).await {
        // A client asks this of what it is about to write, too.
        Err(failure) if failure.code == Code::ResourceDoesNotExist => Vec::new(),
        place => {
            let place = place?;
            listing(&server.files_of(&place).await?, place.path(), "")
        }
    };
    let answer = if found.is_empty() { json!({}) } else { json!({ "files": found }) };
    Ok(axum::Json(answer).into_response())
}

async fn download(State(server): State<Arc<Server>>, Path(path): Path<String>, headers: HeaderMap) -> Answer<Response> {
    let who = server.caller(&headers).await?;
    let place = server.place(&who, &path).await?;
    let files = server.files_of(&place).await?;
    let file = files
        .iter()
        .find(|file| file.path == place.path())
        .ok_or_else(|| Failure::missing(format!("No such artifact: '{path}'")))?;
    let blob = BlobReader::open(Arc::clone(&server.store), &file.digest).await?;
    let length = blob.bytes();
    // A damaged chunk ends the answer before its announced length, which the client sees as an error.
    let stream = blob.stream().inspect_err(|error| tracing::error!(%error, "an artifact could not be read to its end"));
    let mut response = Body::from_stream(stream).into_response();
    let name = file.path.rsplit('/').next().unwrap_or_default();
    let plain: String =
        name.chars().map(|c| if c.is_ascii_graphic() && !"\"\\%".contains(c) { c } else { '_' }).collect();
    let set = response.headers_mut();
    set.insert(header::CONTENT_LENGTH, length.into());
    // Nothing that somebody stored is shown as a page of this server.
    set.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    set.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Ok(value) = HeaderValue::from_str(&format!("attachment; filename=\"{plain}\"")) {
        set.insert(header::CONTENT_DISPOSITION, value);
    }
    Ok(response)
}

async fn upload(State(server): State<Arc<Server>>, Path(path): Path<String>, request: Request) -> Answer<Response> {
    let who = server.caller(request.headers()).await?;
    let place = server.place(&who, &path).await?;
    let (owner, experiment) = place.owner()?;
    // Asked before the bytes are read, and again by the registry.
    let experiment = server.tracking.experiment_by_id(experiment).await?;
    server.may(&who, Permission::Track, Resource::experiment(experiment.name))?;
    if place.path().is_empty() {
        return Err(Failure::invalid("Invalid path: it names no file"));
    }
    let most = server.largest_artifact;
    let too_large = || Failure::new(Code::TooLarge, format!("an artifact may have at most {most} bytes"));
    let announced =
        request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|bytes| bytes > most) {
        return Err(too_large());
    }
    let mut seen = 0;
    let pieces = request.into_body().into_data_stream().map(|piece| {
        let piece = piece.map_err(|error| CoreError::invalid("body", error))?;
        seen += piece.len() as u64;
        if seen > most { Err(CoreError::invalid("body", format!("more than {most} bytes"))) } else { Ok(piece) }
    });
    let blob = server.store.put_blob(pieces).await?;
    let artifact = Artifact::new(place.path(), blob.digest, blob.bytes);
    server.tracking.put_artifact(&who, owner, artifact, ArtifactMode::Overwrite).await?;
    Ok(axum::Json(json!({})).into_response())
}

async fn remove(State(server): State<Arc<Server>>, Path(path): Path<String>, headers: HeaderMap) -> Answer<Response> {
    let who = server.caller(&headers).await?;
    let place = server.place(&who, &path).await?;
    let (owner, _) = place.owner()?;
    let within = format!("{}/", place.path());
    let files = server.files_of(&place).await?;
    let gone =
        |file: &&Artifact| place.path().is_empty() || file.path == place.path() || file.path.starts_with(&within);
    for file in files.iter().filter(gone) {
        server.tracking.remove_artifact(&who, owner, &file.path).await?;
    }
    Ok(axum::Json(json!({})).into_response())
}

/// Uploads have a limit of their own, so this is outside the limit of other calls.
pub(super) fn router() -> Router<Arc<Server>> {
    Router::new()
        .route("/artifacts", get(list))
        .route("/artifacts/{*path}", get(download).put(upload).delete(remove))
        .layer(axum::extract::DefaultBodyLimit::disable())
}

#[cfg(test)]
mod tests {
    use mlops_core::Digest;

    use super::*;

    #[test]
    fn a_listing_has_files_and_folders_of_one_folder() {
        let file = |path: &str| Artifact::new(path, Digest::of(path.as_bytes()), path.len() as u64);
        let files = ["a", "b/c", "b/d/e", "bb/f"].map(file);
        let seen = |folder: &str| {
            listing(&files, folder, "").into_iter().map(|f| f["path"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(seen(""), ["a", "b", "bb"]);
        assert_eq!(seen("b/"), ["c", "d"]);
        assert_eq!(seen("b/d"), ["e"]);
        // A file and nothing at all look alike: that is how a client tells a file from a folder.
        assert!(seen("a").is_empty() && seen("x").is_empty());
        assert_eq!(listing(&files, "b", "b")[1], json!({ "path": "b/d", "is_dir": true }));
    }
}

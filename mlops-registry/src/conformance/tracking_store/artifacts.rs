use mlops_core::{Digest, Error as CoreError};

use super::{ana, lacks, left, run};
use crate::{Artifact, ArtifactMode, ArtifactOwner, Error, Limit, NewLoggedModel, TrackingStore};

fn artifact(path: &str, bytes: &[u8]) -> Artifact {
    Artifact::new(path, Digest::of(bytes), bytes.len() as u64)
}

/// A run and a logged model.
async fn owners(store: &dyn TrackingStore) -> [ArtifactOwner; 2] {
    let run = run(store).await;
    let e = store.experiment("e").await.unwrap().id;
    let model = store.create_logged_model(&ana(), NewLoggedModel::new(e, "m")).await.unwrap().id;
    [run.into(), model.into()]
}

/// An artifact is written once, or replaced where the caller says so.
pub async fn artifacts_are_overwritten_where_asked(store: &dyn TrackingStore) {
    for owner in owners(store).await {
        let (old, new) = (artifact("a/b", b"old"), artifact("a/b", b"newer"));
        for mode in [ArtifactMode::Create, ArtifactMode::Create, ArtifactMode::Overwrite] {
            store.put_artifact(&ana(), owner, old.clone(), mode).await.unwrap();
        }
        let error = store.put_artifact(&ana(), owner, new.clone(), ArtifactMode::Create).await.unwrap_err();
        assert!(matches!(error, Error::Core(CoreError::AlreadyExists { .. })), "{store}: {error}");
        assert_eq!(store.artifact(owner, "a/b").await.unwrap(), old, "{store}");
        store.put_artifact(&ana(), owner, new.clone(), ArtifactMode::Overwrite).await.unwrap();
        assert_eq!(store.artifact(owner, "a/b").await.unwrap(), new, "{store}");
    }
}

/// A removed artifact is gone; removing it again is no error, and its path is free.
pub async fn artifacts_are_removed(store: &dyn TrackingStore) {
    for owner in owners(store).await {
        store.put_artifact(&ana(), owner, artifact("a", b"1"), ArtifactMode::Create).await.unwrap();
        for _ in 0..2 {
            store.remove_artifact(&ana(), owner, "a").await.unwrap();
            assert!(store.artifact(owner, "a").await.unwrap_err().is_not_found(), "{store}");
        }
        store.put_artifact(&ana(), owner, artifact("a", b"2"), ArtifactMode::Create).await.unwrap();
        assert_eq!(store.artifacts(owner, "").await.unwrap(), [artifact("a", b"2")], "{store}");
    }
}

/// A listing gives what lies in a directory, however deep, sorted by path, and nothing of its neighbours or other owners.
pub async fn artifacts_are_listed_by_directory(store: &dyn TrackingStore) {
    let owners = owners(store).await;
    let mut paths = vec!["model.bak", "model/MLmodel", "model/data/w b.bin", "model0", "models/x", "é/模"];
    if !lacks(store, Limit::FilesAndFolders) {
        paths.push("model");
    }
    for owner in owners {
        for path in &paths {
            store.put_artifact(&ana(), owner, artifact(path, path.as_bytes()), ArtifactMode::Create).await.unwrap();
        }
        let list = async |within: &str| -> Vec<String> {
            store.artifacts(owner, within).await.unwrap().into_iter().map(|a| a.path).collect()
        };
        assert_eq!(list("model").await, ["model/MLmodel", "model/data/w b.bin"], "{store}");
        assert_eq!(list("model/").await, ["model/MLmodel", "model/data/w b.bin"], "{store}");
        assert_eq!(list("model/data").await, ["model/data/w b.bin"], "{store}");
        assert_eq!(list("é").await, ["é/模"], "{store}");
        assert!(list("model/MLmodel").await.is_empty() && list("none").await.is_empty(), "{store}");
        let all = list("").await;
        assert!(all.len() == paths.len() && all.is_sorted(), "{store}: {all:?}");
    }
    if let ArtifactOwner::Run(run) = owners[0] {
        assert_eq!(left(store, &store.run(run).await.unwrap()).await.len(), paths.len(), "{store}");
    }
}

/// A path that leads elsewhere is refused in every call.
pub async fn artifact_paths_stay_inside(store: &dyn TrackingStore) {
    for owner in owners(store).await {
        for path in ["", "/etc/passwd", "../a", "a/../../b", "a//b", "a/", ".", "a\\b", "a\nb"] {
            let refused = [
                store.put_artifact(&ana(), owner, artifact(path, b""), ArtifactMode::Overwrite).await,
                store.remove_artifact(&ana(), owner, path).await,
                store.artifact(owner, path).await.map(drop),
            ];
            for error in refused.map(Result::unwrap_err) {
                assert!(matches!(error, Error::Core(CoreError::InvalidInput { .. })), "{store}: {path:?}: {error}");
            }
        }
        for within in ["..", "/", "a/../b", "a\\b"] {
            let error = store.artifacts(owner, within).await.unwrap_err();
            assert!(matches!(error, Error::Core(CoreError::InvalidInput { .. })), "{store}: {within:?}: {error}");
        }
    }
}

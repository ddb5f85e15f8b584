//! The version of the code, told by git.

use std::fs;
use std::path::Path;
use std::process::Command;

use mlops_core::code::{CodeVersion, Environment};
use mlops_core::{Digest, Provenance};

fn git(dir: &Path, args: &[&str]) -> Option<String> {
    let mut command = Command::new("git");
    command.args(["-c", "user.name=ana", "-c", "user.email=ana@example.com", "-c", "init.defaultBranch=main"]);
    let output = command.args(args).current_dir(dir).output().ok()?;
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[test]
fn a_repository_tells_its_commit_and_what_differs_from_it() {
    let dir = tempfile::tempdir().unwrap();
    let (here, inside) = (dir.path(), dir.path().join("src"));
    if git(here, &["init", "--quiet"]).is_none() {
        eprintln!("there is no git: not tested");
        return;
    }
    let error = CodeVersion::of_repository(here).unwrap_err().to_string();
    assert!(error.contains("HEAD"), "no commit yet: {error}");

    fs::create_dir(&inside).unwrap();
    fs::write(inside.join("a.rs"), "one\n").unwrap();
    fs::write(here.join(".gitignore"), "target\n").unwrap();
    git(here, &["add", "."]);
    git(here, &["commit", "--quiet", "-m", "first"]);
    git(here, &["remote", "add", "origin", "https://ana:secret@git.example/a.git"]);
    fs::write(here.join("target"), "ignored").unwrap();
    let clean = CodeVersion::of_repository(&inside).unwrap();
    assert_eq!(Some(clean.commit.clone()), git(here, &["rev-parse", "HEAD"]));
    assert_eq!((clean.branch.as_deref(), clean.is_dirty()), (Some("main"), false));
    assert_eq!(clean.repository.as_deref(), Some("https://git.example/a.git"));
    assert_eq!(clean.to_string(), format!("{} on main", clean.commit));

    let changed = |file: &str, text: &str| {
        fs::write(here.join(file), text).unwrap();
        CodeVersion::of_repository(&inside).unwrap().changes
    };
    let (edited, other) = (changed("src/a.rs", "two\n"), changed("src/a.rs", "three\n"));
    assert!(edited.is_some() && other.is_some() && edited != other);
    assert_eq!(changed("src/a.rs", "two\n"), edited, "equal changes, equal digests");
    assert_eq!(changed("src/a.rs", "one\n"), None, "as it was");
    let untracked = changed("new é.txt", "x");
    assert!(untracked.is_some() && untracked != changed("new é.txt", "y"));
    git(here, &["add", "."]);
    assert!(CodeVersion::of_repository(here).unwrap().is_dirty(), "staged is not committed");
    git(here, &["checkout", "--quiet", "--detach"]);
    let detached = CodeVersion::of_repository(here).unwrap();
    assert_eq!(detached.branch, None);

    let tags = detached.tags();
    assert_eq!((&*tags["mlflow.source.git.commit"], &*tags["mlflow.source.git.dirty"]), (&*clean.commit, "true"));
    assert_eq!(tags["mlops.source.git.changes"], detached.changes.unwrap().to_string());
    assert!(!tags.contains_key("mlflow.source.git.branch") && !format!("{tags:?}").contains("secret"));
}

#[test]
fn what_is_no_repository_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let error = CodeVersion::of_repository(dir.path()).unwrap_err().to_string();
    assert!(error.contains("not a git repository") || error.contains("no program"), "{error}");
    CodeVersion::of_repository(dir.path().join("missing")).unwrap_err();
}

#[test]
fn both_are_written_into_provenance() {
    let mut provenance = Provenance::default();
    let bare = serde_json::to_string(&provenance).unwrap();
    assert!(!bare.contains("image") && !bare.contains("changes"), "as it was before they were known: {bare}");
    CodeVersion::of_commit("abc").describe(&mut provenance);
    let lock = Digest::of(b"lock");
    Environment::here().toolchain("rustc 1").lock_file(lock).image("train@sha256:0").describe(&mut provenance);
    assert_eq!((provenance.commit.as_deref(), provenance.dirty), (Some("abc"), Some(false)));
    assert_eq!((provenance.toolchain.as_deref(), provenance.lock_file), (Some("rustc 1"), Some(lock)));
    assert_eq!((provenance.image.as_deref(), provenance.changes), (Some("train@sha256:0"), None));
    let platform = &Environment::here().tags()["mlops.environment.platform"];
    assert!(platform.contains(std::env::consts::ARCH));
}

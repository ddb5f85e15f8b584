//! What a run was made by: the version of the code, and what it ran in.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read};
use std::path::Path;
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use crate::digest::Hasher;
use crate::{Digest, Error, Provenance, Result};

/// A commit of a git repository, and what differed from it in the working tree.
///
/// ```no_run
/// use mlops_core::code::CodeVersion;
/// let code = CodeVersion::of_repository(".")?;
/// println!("{code}"); // 1482ef5c… on main, with changes b31fa0…
/// # Ok::<(), mlops_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CodeVersion {
    /// The commit's id.
    pub commit: String,
    /// The branch, unless the head is detached.
    pub branch: Option<String>,
    /// Where `origin` is, without a user or password in it.
    pub repository: Option<String>,
    /// The digest of what differs from the commit: `git diff` and the files that git neither has nor ignores, by path and
    /// content. `None` where nothing does. Equal changes to one commit have equal digests.
    pub changes: Option<Digest>,
}

impl CodeVersion {
    /// That of a commit without changes, for a program that knows it from its build.
    pub fn of_commit(commit: impl Into<String>) -> Self {
        Self { commit: commit.into(), branch: None, repository: None, changes: None }
    }

    /// That of the working tree which `dir` lies in, by the program `git`, which heeds its own variables such as `GIT_DIR`.
    /// Blocks while git reads the tree.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if there is no `git` program, or with its own words if `dir` is in no repository or in one
    /// without a commit; [`Error::Backend`] if the tree cannot be read.
    pub fn of_repository(dir: impl AsRef<Path>) -> Result<Self> {
        let git = Git(dir.as_ref());
        let root = git.line(&["rev-parse", "--show-toplevel"])?;
        let git = Git(Path::new(&root));
        let commit = git.line(&["rev-parse", "--verify", "HEAD"])?;
        let branch = git.line(&["symbolic-ref", "--quiet", "--short", "HEAD"]).ok();
        let repository = git.line(&["config", "--get", "remote.origin.url"]).ok().map(|url| without_secret(&url));
        Ok(Self { commit, branch, repository, changes: git.changes()? })
    }

    /// Whether the working tree differed from the commit.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        self.changes.is_some()
    }

    /// As tags of a run, in MLflow's names: `mlflow.source.git.commit`, `.branch`, `.repoURL` and `.dirty`, and
    /// `mlops.source.git.changes` for the digest.
    #[must_use]
    pub fn tags(&self) -> BTreeMap<String, String> {
        some([
            ("mlflow.source.git.commit", Some(self.commit.clone())),
            ("mlflow.source.git.branch", self.branch.clone()),
            ("mlflow.source.git.repoURL", self.repository.clone()),
            ("mlflow.source.git.dirty", Some(self.is_dirty().to_string())),
            ("mlops.source.git.changes", self.changes.map(|digest| digest.to_string())),
        ])
    }

    /// Writes it into the provenance of a package.
    pub fn describe(&self, provenance: &mut Provenance) {
        provenance.commit = Some(self.commit.clone());
        provenance.dirty = Some(self.is_dirty());
        provenance.changes = self.changes;
    }
}

impl fmt::Display for CodeVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.commit)?;
        if let Some(branch) = &self.branch {
            write!(f, " on {branch}")?;
        }
        match &self.changes {
            Some(changes) => write!(f, ", with changes {}", changes.short()),
            None => Ok(()),
        }
    }
}

/// What a run ran in. What is not told stays unknown: nothing is read from the environment.
///
/// ```
/// use mlops_core::{Digest, code::Environment};
/// let environment = Environment::here().toolchain("rustc 1.95.0").lock_file(Digest::of(b"# Cargo.lock"));
/// assert_eq!(environment.tags()["mlops.environment.toolchain"], "rustc 1.95.0");
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Environment {
    /// Operating system and processor: `linux x86_64`.
    pub platform: Option<String>,
    /// The compiler or interpreter: `rustc 1.95.0`.
    pub toolchain: Option<String>,
    /// The digest of the lock file that pins the dependencies.
    pub lock_file: Option<Digest>,
    /// The container image, best by its digest: `registry.example/train@sha256:…`.
    pub image: Option<String>,
}

impl Environment {
    /// The platform that this program was compiled for, and nothing else.
    #[must_use]
    pub fn here() -> Self {
        let platform = format!("{} {}", std::env::consts::OS, std::env::consts::ARCH);
        Self { platform: Some(platform), ..Self::default() }
    }

    /// Says which compiler or interpreter.
    #[must_use]
    pub fn toolchain(mut self, toolchain: impl Into<String>) -> Self {
        self.toolchain = Some(toolchain.into());
        self
    }

    /// Says which lock file, by its digest: `Digest::of(include_bytes!("../Cargo.lock"))` is that of the build.
    #[must_use]
    pub fn lock_file(mut self, digest: Digest) -> Self {
        self.lock_file = Some(digest);
        self
    }

    /// Says which container image.
    #[must_use]
    pub fn image(mut self, image: impl Into<String>) -> Self {
        self.image = Some(image.into());
        self
    }

    /// As tags of a run: `mlflow.docker.image.uri`, and `mlops.environment.platform`, `.toolchain` and `.lock_file`.
    #[must_use]
    pub fn tags(&self) -> BTreeMap<String, String> {
        some([
            ("mlops.environment.platform", self.platform.clone()),
            ("mlops.environment.toolchain", self.toolchain.clone()),
            ("mlops.environment.lock_file", self.lock_file.map(|digest| digest.to_string())),
            ("mlflow.docker.image.uri", self.image.clone()),
        ])
    }

    /// Writes it into the provenance of a package.
    pub fn describe(&self, provenance: &mut Provenance) {
        provenance.toolchain.clone_from(&self.toolchain);
        provenance.lock_file = self.lock_file;
        provenance.image.clone_from(&self.image);
    }
}

fn some<const N: usize>(tags: [(&str, Option<String>); N]) -> BTreeMap<String, String> {
    tags.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}

/// A URL without who logs in with what: `https://token@host/x` becomes `https://host/x`.
fn without_secret(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let end = rest.find('/').unwrap_or(rest.len());
    let host = rest[..end].rfind('@').map_or(0, |at| at + 1);
    format!("{scheme}://{}", &rest[host..])
}

/// The program `git` in a directory.
struct Git<'d>(&'d Path);

impl Git<'_> {
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("git");
        // Nothing is written, and neither a monitor of files nor a driver for differences is started. A filter of contents
        // (git-lfs is one) is, as without it every file that it changes would look changed.
        command.args(["--no-optional-locks", "-c", "core.fsmonitor=false", "-c", "core.quotePath=false"]);
        command.args(args).current_dir(self.0).stdin(Stdio::null());
        command
    }

    fn failed(&self, args: &[&str], error: io::Error) -> Error {
        if error.kind() == io::ErrorKind::NotFound && self.0.is_dir() {
            return Error::invalid("code version", "there is no program `git`; install it, or name the commit");
        }
        self.unreadable(&format!("git {}", args.join(" ")), error)
    }

    fn unreadable(&self, what: &str, error: io::Error) -> Error {
        let key = format!("{} ({what})", self.0.display());
        Error::Backend { backend: "git".to_owned(), operation: "read", key, retryable: false, source: error.into() }
    }

    fn output(&self, args: &[&str]) -> Result<Vec<u8>> {
        let output = self.command(args).output().map_err(|error| self.failed(args, error))?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let reason = format!("git {} in {}: {}", args.join(" "), self.0.display(), said.trim());
        Err(Error::invalid("code version", reason))
    }

    fn line(&self, args: &[&str]) -> Result<String> {
        let line = String::from_utf8_lossy(&self.output(args)?).trim_end_matches(['\r', '\n']).to_owned();
        if line.is_empty() { Err(Error::invalid("code version", "git said nothing")) } else { Ok(line) }
    }

    /// The digest of what differs from the last commit, without holding it in memory.
    fn changes(&self) -> Result<Option<Digest>> {
        let mut hasher = Hasher::default();
        let args = ["diff", "--binary", "--full-index", "--no-color", "--no-ext-diff", "--no-textconv", "HEAD"];
        let mut diff = self.command(&args);
        let mut diff = diff.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().map_err(|e| self.failed(&args, e))?;
        let mut changed = 0;
        if let Some(mut out) = diff.stdout.take() {
            changed = feed(&mut hasher, &mut out).map_err(|error| self.unreadable("git diff", error))?;
        }
        let status = diff.wait().map_err(|error| self.failed(&args, error))?;
        if !status.success() {
            return Err(self.unreadable("git diff", io::Error::other(format!("it ended with {status}"))));
        }
        let others = self.output(&["ls-files", "--others", "--exclude-standard", "-z"])?;
        let mut others: Vec<&[u8]> = others.split(|byte| *byte == 0).filter(|path| !path.is_empty()).collect();
        others.sort_unstable();
        for path in &others {
            let name = String::from_utf8_lossy(path);
            let mut content = Hasher::default();
            // A link by where it leads, and a directory (a repository inside) by its name.
            let path_here = self.0.join(&*name);
            let kind = path_here.symlink_metadata().map_err(|error| self.unreadable(&name, error))?.file_type();
            if kind.is_symlink() {
                let target = std::fs::read_link(&path_here).map_err(|error| self.unreadable(&name, error))?;
                content.update(target.to_string_lossy().as_bytes());
            } else if kind.is_file() {
                let mut file = std::fs::File::open(&path_here).map_err(|error| self.unreadable(&name, error))?;
                feed(&mut content, &mut file).map_err(|error| self.unreadable(&name, error))?;
            }
            hasher.field(path).field(content.finish().to_string().as_bytes());
        }
        Ok((changed > 0 || !others.is_empty()).then(|| hasher.finish()))
    }
}

fn feed(hasher: &mut Hasher, from: &mut impl Read) -> io::Result<u64> {
    let (mut buffer, mut bytes) = (vec![0; 1 << 16], 0);
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(bytes),
            Ok(n) => {
                hasher.update(&buffer[..n]);
                bytes += n as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::without_secret;

    #[test]
    fn no_secret_is_kept() {
        for (url, kept) in [
            ("https://token@git.example/a/b.git", "https://git.example/a/b.git"),
            ("https://ana:p@ss@git.example:8443/a@b", "https://git.example:8443/a@b"),
            ("https://git.example/a@b", "https://git.example/a@b"),
            ("https://token@git.example", "https://git.example"),
            ("git@git.example:a/b.git", "git@git.example:a/b.git"),
            ("/srv/git/a.git", "/srv/git/a.git"),
        ] {
            assert_eq!(without_secret(url), kept);
        }
    }
}

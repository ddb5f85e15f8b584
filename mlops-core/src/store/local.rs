use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;

use super::{ArtifactStore, ObjectMeta, PutMode, check_key, check_prefix, clamp};
use crate::{Error, Result, Timestamp};

/// Where writes go before they have their name. No key can lead here, as keys have no `#`.
const TEMPORARY: &str = "#tmp";
/// Files that are forced to the disk at the same time: the system does many such at once for about the price of one.
const SYNCED_AT_ONCE: usize = 16;
/// Files left in [`TEMPORARY`] by a process that died are removed when they are that old.
const ABANDONED: Duration = Duration::from_secs(24 * 3600);

/// A store in a local directory.
///
/// ```
/// # futures::executor::block_on(async {
/// use mlops_core::store::{ArtifactStoreExt, LocalStore};
/// # let dir = tempfile::tempdir().unwrap();
/// # let dir = dir.path();
/// let store = LocalStore::open(dir)?;
/// let digest = store.put_artifact("weights".into()).await?;
/// assert_eq!(store.get_artifact(&digest).await?, "weights");
/// # Ok::<(), mlops_core::Error>(()) }).unwrap();
/// ```
///
/// A write goes to a file of its own, is forced to the disk, and gets its name by a rename (a hard link, for exclusive
/// create); then the folder is forced to the disk. So neither a reader, nor a kill, nor a power failure meets a part.
/// [`PutMode::Stage`] leaves the forcing to [`sync`](ArtifactStore::sync), once for many files.
///
/// Symbolic links inside the directory are neither followed nor listed: reading through one is [`Error::InvalidInput`].
/// File operations run on tokio's blocking pool when called inside a tokio runtime, else in place.
#[derive(Clone, Debug)]
pub struct LocalStore(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    temporary: AtomicU64,
    staged: Mutex<Vec<PathBuf>>,
    /// Held while staged files are forced to the disk: who finds none staged waits for those that another call took.
    syncing: Mutex<()>,
}

impl LocalStore {
    /// The store in `dir`, which is created if it is missing.
    ///
    /// # Errors
    /// [`Error::Backend`] if the directory cannot be created or written to.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref();
        let open = || {
            fs::create_dir_all(dir.join(TEMPORARY))?;
            let root = dir.canonicalize()?;
            remove_abandoned(&root.join(TEMPORARY))?;
            Ok(root)
        };
        let root = open().map_err(|e| failed("open", &dir.display().to_string(), e))?;
        let (staged, syncing) = (Mutex::default(), Mutex::default());
        Ok(Self(Arc::new(Inner { root, temporary: AtomicU64::new(0), staged, syncing })))
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0.root
    }

    async fn run<T: Send + 'static>(
        &self,
        operation: &'static str,
        key: &str,
        work: impl FnOnce(&Inner, &str) -> Result<T, Trouble> + Send + 'static,
    ) -> Result<T> {
        let (inner, key) = (Arc::clone(&self.0), key.to_owned());
        super::blocking(move || {
            work(&inner, &key).map_err(|trouble| match trouble {
                Trouble::Io(error) if error.kind() == io::ErrorKind::NotFound => Error::not_found("object", &key),
                Trouble::Io(error) => failed(operation, &key, error),
                Trouble::Said(error) => error,
            })
        })
        .await
    }
}

/// What stops a file operation: the system, or us.
enum Trouble {
    Io(io::Error),
    Said(Error),
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::Said(error)
    }
}

fn failed(operation: &'static str, key: &str, error: io::Error) -> Error {
    use io::ErrorKind as K;
    let retryable = matches!(error.kind(), K::Interrupted | K::WouldBlock | K::TimedOut | K::ResourceBusy);
    let backend = "local directory".to_owned();
    Error::Backend { backend, operation, key: key.to_owned(), retryable, source: error.into() }
}

fn remove_abandoned(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let age = entry.metadata().and_then(|m| m.modified()).map(|at| SystemTime::now().duration_since(at));
        if matches!(age, Ok(Ok(age)) if age > ABANDONED) {
            // Somebody else may have been faster; either way it is gone.
            fs::remove_file(entry.path()).ok();
        }
    }
    Ok(())
}

impl Inner {
    /// The path of a key, if no symbolic link lies on the way.
    fn path(&self, key: &str) -> Result<PathBuf, Trouble> {
        check_key(key)?;
        let mut path = self.root.clone();
        for segment in key.split('/') {
            path.push(segment);
            match fs::symlink_metadata(&path) {
                Ok(meta) if meta.file_type().is_symlink() => {
                    let reason = format!("{key:?} leads through a symbolic link, which a store does not follow");
                    return Err(Error::invalid("key", reason).into());
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(self.root.join(key)),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(path)
    }

    /// Opens the object under `key`; a folder is not an object.
    fn read(&self, key: &str) -> Result<(File, fs::Metadata), Trouble> {
        let file = File::open(self.path(key)?)?;
        let meta = file.metadata()?;
        if meta.is_file() { Ok((file, meta)) } else { Err(io::Error::from(io::ErrorKind::NotFound).into()) }
    }

    fn write(&self, key: &str, data: &[u8], mode: PutMode) -> Result<(), Trouble> {
        let path = self.path(key)?;
        let exists = || Trouble::Said(Error::AlreadyExists { what: "object", name: key.to_owned() });
        if mode != PutMode::Overwrite && path.exists() {
            return self.make_durable(path, mode).and(Err(exists()));
        }
        let place = self.temporary.fetch_add(1, Ordering::Relaxed);
        let random = uuid::Uuid::new_v4();
        let temporary = Removed(self.root.join(TEMPORARY).join(format!("{random}-{place}")));
        let mut file = OpenOptions::new().write(true).create_new(true).open(&temporary.0)?;
        file.write_all(data)?;
        if mode != PutMode::Stage {
            file.sync_all()?;
        }
        drop(file);
        let folder = path.parent().unwrap_or(&self.root);
        let created = self.make_folder(folder)?;
        if mode == PutMode::Overwrite {
            fs::rename(&temporary.0, &path)?;
        } else if let Err(error) = fs::hard_link(&temporary.0, &path) {
            if error.kind() != io::ErrorKind::AlreadyExists {
                return Err(error.into());
            }
            return self.make_durable(path, mode).and(Err(exists()));
        }
        if mode == PutMode::Stage {
            self.stage(path.clone());
        } else {
            sync_folder(folder)?;
        }
        created.iter().try_for_each(|folder| Ok(sync_folder(folder)?))
    }

    /// What is there may be known to the system alone, as whoever wrote it may not have synced it yet; and a caller who
    /// is told that it is there may build on it.
    fn make_durable(&self, path: PathBuf, mode: PutMode) -> Result<(), Trouble> {
        if mode == PutMode::Stage {
            self.stage(path);
            return Ok(());
        }
        match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            file => file?.sync_all()?,
        }
        // Every folder on the way may be new.
        let folders = path.ancestors().skip(1).take_while(|folder| folder.starts_with(&self.root));
        folders.into_iter().try_for_each(|folder| Ok(sync_folder(folder)?))
    }

    fn stage(&self, path: PathBuf) {
        self.staged.lock().unwrap_or_else(PoisonError::into_inner).push(path);
    }

    /// Creates what is missing of a folder and returns the folders that got a new entry by that.
    fn make_folder(&self, folder: &Path) -> io::Result<Vec<PathBuf>> {
        let missing: Vec<&Path> = folder.ancestors().take_while(|f| *f != self.root && !f.exists()).collect();
        fs::create_dir_all(folder)?;
        Ok(missing.iter().filter_map(|f| f.parent()).map(Path::to_owned).collect())
    }

    fn sync(&self) -> io::Result<()> {
        let _alone = self.syncing.lock().unwrap_or_else(PoisonError::into_inner);
        let staged = std::mem::take(&mut *self.staged.lock().unwrap_or_else(PoisonError::into_inner));
        let mut folders: Vec<&Path> = staged.iter().filter_map(|p| p.parent()).collect();
        folders.sort_unstable();
        folders.dedup();
        let file = |path: &PathBuf| match File::open(path) {
            // Deleted since: nothing is left to keep.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            file => file?.sync_all(),
        };
        let synced = at_once(&staged, file).and_then(|()| at_once(&folders, |folder| sync_folder(folder)));
        if synced.is_err() {
            self.staged.lock().unwrap_or_else(PoisonError::into_inner).extend(staged);
        }
        synced
    }

    fn list(&self, folder: &Path, prefix: &str, found: &mut Vec<ObjectMeta>) -> io::Result<()> {
        let entries = match fs::read_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            // What is no key was not written by a store.
            let Some(key) = entry.file_name().to_str().map(|name| format!("{prefix}{name}")) else { continue };
            if check_key(&key).is_err() {
                continue;
            }
            let kind = entry.file_type()?;
            if kind.is_dir() {
                self.list(&entry.path(), &format!("{key}/"), found)?;
            } else if kind.is_file() {
                match entry.metadata() {
                    Ok(meta) => found.push(describe(&key, &meta)?),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }
}

/// A temporary file, removed when it goes out of scope, unless it was renamed by then.
struct Removed(PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        fs::remove_file(&self.0).ok();
    }
}

/// Does `work` for all items, some at the same time; the first error of any.
fn at_once<T: Sync>(items: &[T], work: impl Fn(&T) -> io::Result<()> + Sync) -> io::Result<()> {
    let share = items.len().div_ceil(SYNCED_AT_ONCE).max(1);
    let mut shares = items.chunks(share);
    let Some(own) = shares.next() else { return Ok(()) };
    let each = &|share: &[T]| share.iter().try_for_each(&work);
    std::thread::scope(|scope| {
        let thread = |share| std::thread::Builder::new().spawn_scoped(scope, move || each(share));
        let others: Vec<_> = shares.map(thread).collect();
        let own = each(own);
        others.into_iter().fold(own, |done, other| {
            let panicked = |_| Err(io::Error::other("a thread that synced files panicked"));
            done.and(other.and_then(|thread| thread.join().unwrap_or_else(panicked)))
        })
    })
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    // Elsewhere a folder cannot be opened; there the system's own journal has to do.
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

fn describe(key: &str, meta: &fs::Metadata) -> io::Result<ObjectMeta> {
    Ok(ObjectMeta { key: key.to_owned(), bytes: meta.len(), modified: Timestamp::from(meta.modified()?) })
}

impl fmt::Display for LocalStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "local directory {}", self.0.root.display())
    }
}

#[async_trait]
impl ArtifactStore for LocalStore {
    async fn put_opts(&self, key: &str, data: Bytes, mode: PutMode) -> Result<()> {
        self.run("write", key, move |inner, key| inner.write(key, &data, mode)).await
    }

    async fn get(&self, key: &str) -> Result<Bytes> {
        let read = |inner: &Inner, key: &str| {
            let (mut file, meta) = inner.read(key)?;
            let mut data = Vec::with_capacity(usize::try_from(meta.len()).unwrap_or(0));
            file.read_to_end(&mut data)?;
            Ok(data.into())
        };
        self.run("read", key, read).await
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes> {
        let read = move |inner: &Inner, key: &str| {
            let (mut file, meta) = inner.read(key)?;
            let range = clamp(&range, meta.len())?;
            file.seek(SeekFrom::Start(range.start))?;
            let mut data = Vec::new();
            file.take(range.end - range.start).read_to_end(&mut data)?;
            Ok(data.into())
        };
        self.run("read", key, read).await
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta> {
        self.run("look up", key, |inner, key| Ok(describe(key, &inner.read(key)?.1)?)).await
    }

    async fn delete(&self, key: &str) -> Result<()> {
        let delete = |inner: &Inner, key: &str| {
            let path = inner.path(key)?;
            match fs::remove_file(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                removed => removed?,
            }
            // An artifact that comes back is garbage. What has a name must not come back after it was said to be gone.
            let garbage = key.starts_with("artifacts/") || key.starts_with("chunks/");
            match path.parent() {
                Some(folder) if !garbage => Ok(sync_folder(folder)?),
                _ => Ok(()),
            }
        };
        self.run("delete", key, delete).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>> {
        check_prefix(prefix)?;
        let list = |inner: &Inner, prefix: &str| {
            let mut found = Vec::new();
            let folder = match prefix.strip_suffix('/') {
                Some(folder) => inner.path(folder)?,
                None => inner.root.clone(),
            };
            inner.list(&folder, prefix, &mut found)?;
            found.sort_unstable_by(|a, b| a.key.cmp(&b.key));
            Ok(found)
        };
        self.run("list", prefix, list).await
    }

    async fn sync(&self) -> Result<()> {
        self.run("sync", "staged objects", |inner, _| Ok(inner.sync()?)).await
    }
}

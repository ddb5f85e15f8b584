use std::fmt::{self, Display};
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;

use super::Transport;
use super::openlineage::RunEvent;
use crate::{Error, Result};

/// Appends events to a file, one line of JSON each, as the file transport of other OpenLineage clients does.
///
/// Each event is one write to the operating system: it survives the program, and the machine's fall once the system has
/// brought it to the disk. A line that a crash cut off is closed when the file is opened again, and skipped when it is
/// read. Several programs may append to one file on a local disk.
///
/// The write is done on the thread that runs the worker. If the disk may be slow, run that on a thread of its own.
///
/// ```
/// # futures::executor::block_on(async {
/// use mlops_core::lineage::{EventFile, FileTransport, LineageQueue, LineageSink};
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("lineage.jsonl");
/// let (sink, worker) = LineageQueue::new(FileTransport::open(&path)?, 1000);
/// drop(sink);
/// worker.run().await;
/// assert!(EventFile::read(&path)?.events.is_empty());
/// # Ok::<(), mlops_core::Error>(()) }).unwrap();
/// ```
#[derive(Debug)]
pub struct FileTransport {
    path: PathBuf,
    file: Mutex<Appender>,
}

#[derive(Debug)]
struct Appender {
    file: File,
    /// The last line has no end: a crash or a full disk cut it off.
    is_torn: bool,
}

impl FileTransport {
    /// Appends to the file at `path`, which is made if it is not there.
    ///
    /// # Errors
    /// [`Error::Backend`] if it cannot be opened.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref().to_owned();
        let open = || {
            let mut file = OpenOptions::new().read(true).append(true).create(true).open(&path)?;
            let mut last = [b'\n'];
            if file.seek(SeekFrom::End(0))? > 0 {
                file.seek(SeekFrom::End(-1))?;
                file.read_exact(&mut last)?;
            }
            Ok(Appender { file, is_torn: last != [b'\n'] })
        };
        let file = open().map_err(|e| failed("open", &path, e))?;
        Ok(Self { path, file: Mutex::new(file) })
    }
}

impl Display for FileTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "file {}", self.path.display())
    }
}

#[async_trait]
impl Transport for FileTransport {
    async fn send(&self, event: &RunEvent) -> Result<()> {
        let mut line = event.to_json()?;
        line.push('\n');
        let mut appender = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if appender.is_torn {
            line.insert(0, '\n');
        }
        appender.is_torn = true;
        appender.file.write_all(line.as_bytes()).map_err(|e| failed("append to", &self.path, e))?;
        appender.is_torn = false;
        Ok(())
    }
}

/// What a file of events holds.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct EventFile {
    /// The events, in order.
    pub events: Vec<RunEvent>,
    /// The numbers, from 1, of lines that are no event: cut off by a crash, or written by something else.
    pub broken: Vec<u64>,
}

impl EventFile {
    /// Reads a whole file. Lines that are no event are skipped and told; empty ones are neither.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such file, [`Error::Backend`] if it cannot be read.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let bytes = std::fs::read(path).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => Error::not_found("file of lineage events", path.display()),
            _ => failed("read", path, e),
        })?;
        let mut read = Self::default();
        for (number, line) in (1..).zip(bytes.split(|b| *b == b'\n')) {
            // A cut may go through a character, so a line need not be text.
            match std::str::from_utf8(line).map(str::trim) {
                Ok("") => {}
                Ok(text) => match RunEvent::from_json(text) {
                    Ok(event) => read.events.push(event),
                    Err(_) => read.broken.push(number),
                },
                Err(_) => read.broken.push(number),
            }
        }
        Ok(read)
    }
}

fn failed(operation: &'static str, path: &Path, source: std::io::Error) -> Error {
    let (backend, key) = ("file of lineage events".to_owned(), path.display().to_string());
    Error::Backend { backend, operation, key, retryable: true, source: Box::new(source) }
}

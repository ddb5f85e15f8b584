//! Packages as one file: a tar archive whose bytes follow from the package alone.
//!
//! Files come in the order of their paths, without times, owners or modes, so equal packages are equal archives. A comment
//! in the first header tells the package's digest. Any tar program unpacks it; compress it as you like on the way.

use std::collections::BTreeMap;
use std::pin::pin;

use bytes::{Bytes, BytesMut};
use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt, TryStreamExt};

use super::manifest::about;
use super::names::Inspector;
use super::{Limits, Manifest};
use crate::store::{ArtifactStore, BlobWriter, Lease};
use crate::{Digest, Error, Result};

/// Everything in an archive is a multiple of this.
const BLOCK: usize = 512;
/// The largest size that fits a header's eleven octal digits.
const OCTAL: u64 = 0o777_7777_7777;
/// Most bytes of an extended header or a long name.
const EXTENDED: u64 = 64 << 10;
/// Most bytes of zeros behind the end.
const PADDING: u64 = 1 << 20;
/// What the comment says before the digest.
const COMMENT: &str = "mlops package ";

impl Manifest {
    /// The package as a tar archive, in pieces of at most a few MiB.
    ///
    /// ```
    /// # futures::executor::block_on(async {
    /// # use mlops_core::package::{Limits, MLMODEL, Manifest};
    /// # use mlops_core::store::MemoryStore;
    /// # use mlops_core::Package;
    /// # let (store, elsewhere) = (MemoryStore::default(), MemoryStore::default());
    /// # let package = Package::from_files([(MLMODEL.to_owned(), "flavors: {}\n".into())].into())?;
    /// let digest = package.save(&store).await?;
    /// let manifest = Manifest::load(&store, &digest).await?;
    /// let pieces = manifest.export_archive(&store)?; // to a file, a socket, an object
    /// let read = Manifest::import_archive(&elsewhere, pieces, Limits::default(), None).await?;
    /// assert_eq!(read.digest()?, digest);
    /// # Ok::<(), mlops_core::Error>(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    /// In the stream, [`Error::NotFound`] or [`Error::Corrupt`] naming a file of the package, or those of the store: what
    /// came before is then no whole archive, and reading it says so.
    pub fn export_archive<'a>(&'a self, store: &'a dyn ArtifactStore) -> Result<BoxStream<'a, Result<Bytes>>> {
        let comment = record("comment", &format!("{COMMENT}{}", self.digest()?));
        let first = [header("pax_global_header", comment.len() as u64, b'g'), padded(comment.into())].concat();
        let files = stream::iter(self.files().iter()).then(move |(path, file)| async move {
            let reader = self.open(store, path).await?;
            let data = reader.stream().map_err(move |error| about(path, error));
            let behind = Bytes::from(vec![0; padding(file.bytes)]);
            Ok::<_, Error>(stream::iter([Ok(entry(path, file.bytes))]).chain(data).chain(stream::iter([Ok(behind)])))
        });
        let end = Bytes::from(vec![0; 2 * BLOCK]);
        let pieces = stream::iter([Ok(Bytes::from(first))]).chain(files.try_flatten()).chain(stream::iter([Ok(end)]));
        // Nothing follows an error, so what was written by then is no whole archive.
        let until_error = pieces.scan(false, |failed, piece| {
            let ended = std::mem::replace(failed, piece.is_err());
            std::future::ready((!ended).then_some(piece))
        });
        Ok(until_error.try_filter(|piece| std::future::ready(!piece.is_empty())).boxed())
    }

    /// Puts the files of a tar archive into a store, in pieces, and saves the package they make. Reads what
    /// [`export_archive`](Self::export_archive) wrote and what other programs write of plain files and folders: POSIX
    /// (ustar, pax) and GNU headers. With a `lease`, what is stored is safe from a collector for as long as that.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] naming what is wrong: a link, a device, a sparse file, a path that is refused, what is
    /// beyond `limits` by its header before any of it is read, a header that is damaged, an archive that ends too early, an
    /// `MLmodel` that is missing or cannot be read. [`Error::Corrupt`] if the archive names a package and holds another.
    /// The first error of `pieces`, or of the store.
    pub async fn import_archive(
        store: &dyn ArtifactStore,
        pieces: impl Stream<Item = Result<Bytes>> + Send,
        limits: Limits,
        lease: Option<&Lease>,
    ) -> Result<Self> {
        let mut input = Input { pieces: pin!(pieces), rest: Bytes::new() };
        let mut inspector = Inspector::new(limits);
        let mut builder = Self::builder().limits(limits);
        let mut told: Option<Digest> = None;
        let mut next = Extended::default();
        let mut others = 0;
        while let Some(head) = Head::parse(&input.exactly(BLOCK).await?)? {
            if !matches!(head.kind, b'0' | 0) {
                others += 1;
                if others > limits.files.saturating_mul(4).saturating_add(16) {
                    return Err(invalid("has too many entries that are no files"));
                }
            }
            match head.kind {
                b'0' | 0 => {
                    let Extended { path, size } = std::mem::take(&mut next);
                    let (path, size) = (path.unwrap_or(head.path), size.unwrap_or(head.size));
                    let path = path.strip_prefix("./").unwrap_or(&path).to_owned();
                    inspector.file(&path, size)?;
                    let mut writer =
                        lease.map_or_else(|| BlobWriter::new(store), |lease| BlobWriter::under(store, lease));
                    let mut left = size;
                    while left > 0 {
                        let piece = input.some(left).await?.ok_or_else(|| short(&path))?;
                        left -= piece.len() as u64;
                        writer.write(piece).await?;
                    }
                    input.exactly(padding(size)).await?;
                    builder = builder.file(path, &writer.finish().await?);
                }
                b'x' | b'g' => {
                    let records = extended(&input.small(head.size).await?)?;
                    if let Some(sparse) = records.keys().find(|key| key.starts_with("GNU.sparse")) {
                        return Err(invalid(&format!("has a sparse file ({sparse}); pack it whole")));
                    }
                    if head.kind == b'g' {
                        let digest = records.get("comment").and_then(|c| c.strip_prefix(COMMENT));
                        told = digest.map(str::parse).transpose()?.or(told);
                    } else {
                        let size = records.get("size").map(|text| text.parse());
                        next.size = size.transpose().map_err(|_| invalid("has an extended size that is no number"))?;
                        next.path = records.get("path").cloned();
                    }
                }
                b'L' => {
                    let name = input.small(head.size).await?;
                    next.path = Some(text(&name)?);
                }
                b'5' => {
                    next = Extended::default();
                    if head.size > 0 {
                        return Err(invalid("has a folder with bytes"));
                    }
                }
                kind => {
                    let what = match kind {
                        b'1' => "a hard link",
                        b'2' => "a symbolic link",
                        b'3' | b'4' => "a device",
                        b'6' => "a pipe",
                        b'S' => "a sparse file",
                        _ => "an entry of an unknown kind",
                    };
                    let path = next.path.unwrap_or(head.path);
                    return Err(invalid(&format!("has {what}, {path:?}; pack files and folders only")));
                }
            }
        }
        input.end().await?;
        store.sync().await?;
        let manifest = builder.build()?;
        let found = manifest.digest()?;
        if let Some(expected) = told.filter(|told| *told != found) {
            return Err(Error::Corrupt { what: "package archive".to_owned(), expected, found });
        }
        manifest.save(store).await?;
        Ok(manifest)
    }
}

fn invalid(reason: &str) -> Error {
    Error::invalid("package archive", reason)
}

fn short(path: &str) -> Error {
    invalid(&format!("ends within {path:?}: it is truncated"))
}

/// How many zeros follow that many bytes.
fn padding(bytes: u64) -> usize {
    (bytes.next_multiple_of(BLOCK as u64) - bytes) as usize
}

fn padded(mut data: Vec<u8>) -> Vec<u8> {
    data.resize(data.len().next_multiple_of(BLOCK), 0);
    data
}

/// The header of a file, after an extended one where its path or size does not fit.
fn entry(path: &str, bytes: u64) -> Bytes {
    let mut records = String::new();
    if path.len() > 100 || !path.is_ascii() {
        records += &record("path", path);
    }
    if bytes > OCTAL {
        records += &record("size", &bytes.to_string());
    }
    let mut entry = Vec::new();
    if !records.is_empty() {
        entry.extend(header("pax_header", records.len() as u64, b'x'));
        entry.extend(padded(records.into()));
    }
    entry.extend(header(path, bytes, b'0'));
    entry.into()
}

/// One record of an extended header: its own length, a key and a value.
fn record(key: &str, value: &str) -> String {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + length.to_string().len() != length {
        length = rest + length.to_string().len();
    }
    format!("{length} {key}={value}\n")
}

/// A ustar header. What does not fit is cut, and told by the extended header before.
fn header(path: &str, bytes: u64, kind: u8) -> Vec<u8> {
    let mut header = vec![0; BLOCK];
    let mut field = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    let name: String = path.chars().map(|c| if c.is_ascii() { c } else { '_' }).take(100).collect();
    field(0, &name);
    field(100, "0000644");
    field(108, "0000000");
    field(116, "0000000");
    field(124, &format!("{:011o}", if bytes > OCTAL { 0 } else { bytes }));
    field(136, "00000000000");
    field(148, "        ");
    field(156, &char::from(kind).to_string());
    field(257, "ustar\x0000");
    field(329, "0000000");
    field(337, "0000000");
    let sum = checksum(&header);
    header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    header
}

/// The sum of a header's bytes, those of the sum itself taken as spaces.
fn checksum(header: &[u8]) -> u64 {
    let byte = |(at, byte): (usize, &u8)| if (148..156).contains(&at) { 32 } else { u64::from(*byte) };
    header.iter().enumerate().map(byte).sum()
}

/// What an extended header says of the entry that follows.
#[derive(Debug, Default)]
struct Extended {
    path: Option<String>,
    size: Option<u64>,
}

/// A header as it is read.
#[derive(Debug)]
struct Head {
    path: String,
    size: u64,
    kind: u8,
}

impl Head {
    /// `None` for the first block of the end.
    fn parse(block: &[u8]) -> Result<Option<Self>> {
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        if &block[257..262] != b"ustar" {
            return Err(invalid("is no tar archive with ustar headers, or is compressed: decompress it first"));
        }
        if number(&block[148..156])? != checksum(block) {
            return Err(invalid("has a damaged header"));
        }
        let mut path = text(&block[..100])?;
        // The GNU form has times where POSIX has the first part of the path.
        if block[262] == 0 && block[345] != 0 {
            path = format!("{}/{path}", text(&block[345..500])?);
        }
        Ok(Some(Self { path, size: number(&block[124..136])?, kind: block[156] }))
    }
}

/// A field up to its first NUL.
fn text(field: &[u8]) -> Result<String> {
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    let text = std::str::from_utf8(&field[..end]).map_err(|_| invalid("has a path that is not UTF-8"))?;
    Ok(text.to_owned())
}

/// A number in octal digits, or in GNU's base 256.
fn number(field: &[u8]) -> Result<u64> {
    let bad = || invalid("has a header with a number that cannot be read");
    if let Some((0x80, rest)) = field.split_first() {
        let (high, low) = rest.split_last_chunk::<8>().map_or((rest, [0; 8]), |(high, low)| (high, *low));
        return if high.iter().all(|byte| *byte == 0) { Ok(u64::from_be_bytes(low)) } else { Err(bad()) };
    }
    let text = std::str::from_utf8(field).map_err(|_| bad())?.trim_matches(['\0', ' ']);
    if text.is_empty() { Ok(0) } else { u64::from_str_radix(text, 8).map_err(|_| bad()) }
}

/// The records of an extended header, the last of each key.
fn extended(mut data: &[u8]) -> Result<BTreeMap<String, String>> {
    let bad = || invalid("has an extended header that cannot be read");
    let mut records = BTreeMap::new();
    while !data.is_empty() && data[0] != 0 {
        let space = data.iter().position(|byte| *byte == b' ').ok_or_else(bad)?;
        let length: usize = std::str::from_utf8(&data[..space]).ok().and_then(|n| n.parse().ok()).ok_or_else(bad)?;
        let record = data.get(space + 1..length).ok_or_else(bad)?;
        let record = std::str::from_utf8(record).map_err(|_| bad())?.strip_suffix('\n').ok_or_else(bad)?;
        let (key, value) = record.split_once('=').ok_or_else(bad)?;
        records.insert(key.to_owned(), value.to_owned());
        data = &data[length..];
    }
    Ok(records)
}

/// The archive as it comes.
struct Input<S> {
    pieces: S,
    rest: Bytes,
}

impl<S: Stream<Item = Result<Bytes>> + Unpin> Input<S> {
    /// The next bytes, at most `most` of them; `None` at the end.
    async fn some(&mut self, most: u64) -> Result<Option<Bytes>> {
        while self.rest.is_empty() {
            match self.pieces.try_next().await? {
                Some(piece) => self.rest = piece,
                None => return Ok(None),
            }
        }
        let length = usize::try_from(most).map_or(self.rest.len(), |most| most.min(self.rest.len()));
        Ok(Some(self.rest.split_to(length)))
    }

    /// Exactly that many bytes, a few.
    async fn exactly(&mut self, length: usize) -> Result<Bytes> {
        let mut data = BytesMut::with_capacity(length);
        while data.len() < length {
            let piece = self.some((length - data.len()) as u64).await?;
            data.extend_from_slice(&piece.ok_or_else(|| invalid("ends before its end mark: it is truncated"))?);
        }
        Ok(data.freeze())
    }

    /// The data of an extended header.
    async fn small(&mut self, size: u64) -> Result<Bytes> {
        if size > EXTENDED {
            return Err(invalid(&format!("has an extended header of {size} bytes, more than {EXTENDED}")));
        }
        let mut data = self.exactly(size as usize + padding(size)).await?;
        data.truncate(size as usize);
        Ok(data)
    }

    /// The second block of the end, and zeros behind it.
    async fn end(&mut self) -> Result<()> {
        let mut zeros = self.exactly(BLOCK).await?;
        let mut seen = 0;
        loop {
            seen += zeros.len() as u64;
            if seen > PADDING || zeros.iter().any(|byte| *byte != 0) {
                return Err(invalid("goes on behind its end mark"));
            }
            match self.some(PADDING).await? {
                Some(more) => zeros = more,
                None => return Ok(()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_count_their_own_length() {
        assert_eq!(record("path", "ab"), "11 path=ab\n");
        for length in 80..1_100 {
            let record = record("path", &"x".repeat(length));
            assert_eq!(record.split_once(' ').unwrap().0, record.len().to_string());
            assert_eq!(extended(record.as_bytes()).unwrap()["path"].len(), length);
        }
    }

    #[test]
    fn headers_read_back() {
        for (path, bytes) in [("a", 0), ("d/b c.bin", 7), (&*"x".repeat(100), OCTAL)] {
            let head = Head::parse(&header(path, bytes, b'0')).unwrap().unwrap();
            assert_eq!((&*head.path, head.size, head.kind), (path, bytes, b'0'));
        }
        assert_eq!(number(&[0x80, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 1]).unwrap(), (2 << 32) + 1);
        assert!(number(&[0x80, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]).is_err());
        assert!(number(b"99999999").is_err() && number(b"-1      ").is_err());
    }

    #[test]
    fn extended_headers_that_lie_are_errors() {
        for bad in
            ["x", "5", "99 path=a\n", "3 a\n", "0 a=b\n", "10 path=ab\n", "6 pat\n", "99999999999999999999 a=b\n"]
        {
            assert!(extended(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }
}

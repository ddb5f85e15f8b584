//! Artifacts of any size: as content-defined chunks, so that two that are nearly equal share nearly everything.
//!
//! A blob of one chunk is an artifact like any other. A larger one is a list of chunks under [`chunks_key`], each chunk
//! an artifact of its own. Its digest is that of all its bytes, so it is the same however it was cut.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use fastcdc::v2020::FastCDC;
use futures::stream::{self, BoxStream, FuturesUnordered, StreamExt};
use serde::{Deserialize, Serialize};

use super::{ArtifactStore, ArtifactStoreExt, Lease, PutMode, artifact_key, keep_young, put_chunk};
use crate::digest::Hasher;
use crate::{Digest, Error, Result};

/// Smallest, usual and largest size of a chunk in bytes, the last one of a blob apart.
const SIZES: (usize, usize, usize) = (64 << 10, 256 << 10, 1 << 20);
/// Bytes that are gathered before they are cut.
const WINDOW: usize = 4 << 20;
/// Chunks that are written or read at the same time.
const PARALLEL: usize = 8;
/// The first bytes of a list of chunks.
const MAGIC: &[u8] = b"mlops chunks 1\n";
/// One entry of a list: digest and length.
const ENTRY: usize = 32 + 4;

/// The key of the list of chunks of a blob that has more than one: `chunks/ab/abcd…`.
#[must_use]
pub fn chunks_key(digest: &Digest) -> String {
    let hex = digest.to_string();
    format!("chunks/{}/{hex}", &hex[..2])
}

/// An artifact of any size, as it was written. Two are equal if the artifact is, whatever writing it cost.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Blob {
    /// The digest of its bytes: what it is read by.
    pub digest: Digest,
    /// Its size.
    pub bytes: u64,
    /// The digest of its list of chunks, if it has more than one. Who keeps it can read a part of the blob and know that
    /// it is the right one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chunks: Option<Digest>,
    /// How many of the bytes were not stored before.
    #[serde(skip)]
    pub new_bytes: u64,
}

impl PartialEq for Blob {
    fn eq(&self, other: &Self) -> bool {
        (self.digest, self.bytes, self.chunks) == (other.digest, other.bytes, other.chunks)
    }
}

impl Eq for Blob {}

#[derive(Clone, Copy, Debug)]
struct Chunk {
    digest: Digest,
    bytes: u32,
}

/// Writes one blob, piece by piece.
///
/// The chunks are staged: call [`ArtifactStore::sync`] before you let anybody know of the blob, as
/// [`put_blob`](ArtifactStoreExt::put_blob) does. A writer that is dropped leaves chunks as garbage.
#[derive(Debug)]
pub struct BlobWriter<'a, S: ?Sized> {
    store: &'a S,
    lease: Option<&'a Lease>,
    pending: BytesMut,
    hasher: Hasher,
    chunks: Vec<Chunk>,
    bytes: u64,
    new_bytes: u64,
}

impl<'a, S: ArtifactStore + ?Sized> BlobWriter<'a, S> {
    /// A writer of an empty blob.
    #[must_use]
    pub fn new(store: &'a S) -> Self {
        let (hasher, chunks) = (Hasher::default(), Vec::new());
        Self { store, lease: None, pending: BytesMut::new(), hasher, chunks, bytes: 0, new_bytes: 0 }
    }

    /// A writer of an empty blob whose chunks `lease` keeps from being collected, and which keeps the lease. Chunks that
    /// are there stay as they are, while a writer without a lease rewrites old ones.
    #[must_use]
    pub fn under(store: &'a S, lease: &'a Lease) -> Self {
        Self { lease: Some(lease), ..Self::new(store) }
    }

    /// Adds bytes.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn write(&mut self, mut piece: Bytes) -> Result<()> {
        while !piece.is_empty() {
            let room = WINDOW - self.pending.len();
            self.pending.extend_from_slice(&piece.split_to(room.min(piece.len())));
            if self.pending.len() == WINDOW {
                self.cut(false).await?;
            }
        }
        Ok(())
    }

    /// Adds bytes that shall be chunks of their own: whoever knows where equal parts begin cuts better than a hash does.
    ///
    /// # Errors
    /// Those of the store; [`Error::InvalidInput`] for a part of 4 GiB or more.
    pub async fn write_parts(&mut self, parts: Vec<Bytes>) -> Result<()> {
        self.cut(true).await?;
        self.put(parts).await
    }

    /// Cuts what is pending; at the end, the rest is a chunk too.
    async fn cut(&mut self, end: bool) -> Result<()> {
        let pending = self.pending.split().freeze();
        let (smallest, usual, largest) = SIZES;
        let mut parts: Vec<Bytes> = FastCDC::new(&pending, smallest, usual, largest)
            .map(|cut| pending.slice(cut.offset..cut.offset + cut.length))
            .collect();
        if !end && let Some(rest) = parts.pop() {
            // Where it ends may be only where the window ends.
            self.pending.reserve(WINDOW);
            self.pending.extend_from_slice(&rest);
        }
        self.put(parts).await
    }

    async fn put(&mut self, parts: Vec<Bytes>) -> Result<()> {
        let mut chunks = Vec::with_capacity(parts.len());
        for part in &parts {
            let bytes = u32::try_from(part.len()).map_err(|_| Error::invalid("part", "must be smaller than 4 GiB"))?;
            self.hasher.update(part);
            self.bytes += u64::from(bytes);
            chunks.push(Chunk { digest: Digest::of(part), bytes });
        }
        // A chunk that occurs twice is written once: two writers of one key would be in each other's way.
        let mut distinct: Vec<(Digest, Bytes)> = chunks.iter().map(|c| c.digest).zip(parts).collect();
        distinct.sort_unstable_by_key(|(digest, _)| *digest);
        distinct.dedup_by_key(|(digest, _)| *digest);
        if let Some(lease) = self.lease {
            lease.keep().await?;
        }
        let (store, leased) = (self.store, self.lease.is_some());
        let mut waiting = distinct.into_iter();
        let start = |(digest, part): (Digest, Bytes)| async move {
            let bytes = part.len() as u64;
            Ok::<u64, Error>(if put_chunk(store, digest, part, PutMode::Stage, leased).await? { bytes } else { 0 })
        };
        let mut writing: FuturesUnordered<_> = waiting.by_ref().take(PARALLEL).map(start).collect();
        while let Some(written) = writing.next().await {
            self.new_bytes += written?;
            writing.extend(waiting.next().map(start));
        }
        self.chunks.extend(chunks);
        Ok(())
    }

    /// Ends the blob.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn finish(mut self) -> Result<Blob> {
        self.cut(true).await?;
        let digest = self.hasher.finish();
        if self.bytes == 0 {
            put_chunk(self.store, digest, Bytes::new(), PutMode::Stage, self.lease.is_some()).await?;
        }
        let mut blob = Blob { digest, bytes: self.bytes, chunks: None, new_bytes: self.new_bytes };
        if self.chunks.len() > 1 {
            let list = encode(&self.chunks);
            blob.chunks = Some(Digest::of(&list));
            let key = chunks_key(&digest);
            match self.store.put_opts(&key, list.clone(), PutMode::Stage).await {
                Err(Error::AlreadyExists { .. }) => match self.store.get(&key).await {
                    Ok(there) if there == list => {
                        if self.lease.is_none() {
                            keep_young(self.store, &key, &list).await?;
                        }
                    }
                    // Equal bytes cut elsewhere, by another writer or an older version. Whoever wrote them may have said
                    // where, so that this list stays and what was written here is garbage.
                    Ok(there) if self.is_whole(&digest).await? => {
                        blob.chunks = Some(Digest::of(&there));
                        if self.lease.is_none() {
                            super::keep_blob_young(self.store, &digest).await?;
                        }
                    }
                    Ok(_) | Err(Error::NotFound { .. } | Error::Corrupt { .. }) => {
                        self.store.put_opts(&key, list, PutMode::Overwrite).await?;
                    }
                    Err(error) => return Err(error),
                },
                written => written?,
            }
        }
        Ok(blob)
    }

    /// Whether the blob of that digest reads back, every byte of it.
    async fn is_whole(&self, digest: &Digest) -> Result<bool> {
        let read = async {
            let mut pieces = BlobReader::open(self.store, digest).await?.stream();
            while let Some(piece) = pieces.next().await {
                piece?;
            }
            Ok(())
        };
        match read.await {
            Ok(()) => Ok(true),
            Err(Error::NotFound { .. } | Error::Corrupt { .. } | Error::InvalidInput { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

fn encode(chunks: &[Chunk]) -> Bytes {
    let mut list = Vec::with_capacity(MAGIC.len() + ENTRY * chunks.len());
    list.extend_from_slice(MAGIC);
    for chunk in chunks {
        list.extend_from_slice(chunk.digest.as_bytes());
        list.extend_from_slice(&chunk.bytes.to_le_bytes());
    }
    list.into()
}

fn decode(list: &[u8]) -> Option<Vec<Chunk>> {
    let (entries, []) = list.strip_prefix(MAGIC)?.as_chunks::<ENTRY>() else { return None };
    let read = |entry: &[u8; ENTRY]| {
        let (digest, bytes) = entry.split_first_chunk::<32>()?;
        Some(Chunk { digest: Digest::from_bytes(*digest), bytes: u32::from_le_bytes(bytes.try_into().ok()?) })
    };
    entries.iter().map(read).collect()
}

/// Reads one blob, whole or in part. Each chunk is checked against its digest.
#[derive(Clone, Debug)]
pub struct BlobReader<S> {
    store: S,
    digest: Digest,
    chunks: Arc<[Chunk]>,
    /// Where each chunk starts, and last where the blob ends.
    starts: Arc<[u64]>,
}

impl<S: std::ops::Deref<Target: ArtifactStore> + Clone + Send + Sync> BlobReader<S> {
    /// Finds the blob with that digest.
    ///
    /// # Errors
    /// [`Error::NotFound`] if none is stored.
    pub async fn open(store: S, digest: &Digest) -> Result<Self> {
        match store.head(&artifact_key(digest)).await {
            Ok(meta) => {
                let bytes = u32::try_from(meta.bytes);
                let bytes =
                    bytes.map_err(|_| Error::invalid("artifact", "an object of 4 GiB or more is not a chunk"))?;
                Ok(Self::new(store, *digest, vec![Chunk { digest: *digest, bytes }]))
            }
            Err(Error::NotFound { .. }) => {
                let list = list(&*store, digest).await?;
                let damaged = || Error::Corrupt {
                    what: format!("list of chunks in {}", &*store),
                    expected: *digest,
                    found: Digest::of(&list),
                };
                let chunks = decode(&list).ok_or_else(damaged)?;
                Ok(Self::new(store, *digest, chunks))
            }
            Err(error) => Err(error),
        }
    }

    /// Finds the blob that was written as `blob`, and checks its list of chunks.
    ///
    /// # Errors
    /// [`Error::NotFound`] if it is not stored, [`Error::Corrupt`] if its list of chunks is another.
    pub async fn open_as(store: S, blob: &Blob) -> Result<Self> {
        let Some(expected) = blob.chunks else {
            let bytes = u32::try_from(blob.bytes);
            let bytes = bytes.map_err(|_| Error::invalid("blob", "of 4 GiB or more must have several chunks"))?;
            return Ok(Self::new(store, blob.digest, vec![Chunk { digest: blob.digest, bytes }]));
        };
        let list = list(&*store, &blob.digest).await?;
        let found = Digest::of(&list);
        match decode(&list) {
            Some(chunks) if found == expected => Ok(Self::new(store, blob.digest, chunks)),
            _ => Err(Error::Corrupt { what: format!("list of chunks in {}", &*store), expected, found }),
        }
    }

    fn new(store: S, digest: Digest, chunks: Vec<Chunk>) -> Self {
        let ends = chunks.iter().scan(0, |end, chunk| {
            *end += u64::from(chunk.bytes);
            Some(*end)
        });
        let starts = std::iter::once(0).chain(ends).collect();
        Self { store, digest, chunks: chunks.into(), starts }
    }

    /// Its size in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.starts.last().copied().unwrap_or(0)
    }

    /// The digests of its chunks, in order.
    pub fn chunks(&self) -> impl Iterator<Item = Digest> + '_ {
        self.chunks.iter().map(|c| c.digest)
    }

    async fn chunk(store: S, chunk: Chunk) -> Result<Bytes> {
        let data = store.get(&artifact_key(&chunk.digest)).await;
        let data = data.map_err(|error| match error {
            Error::NotFound { .. } => Error::not_found("artifact", chunk.digest),
            other => other,
        })?;
        (*store).verified(data, &chunk.digest)
    }

    /// Bytes `range`, cut at the end. Reads the chunks that hold them, several at a time.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] for a start behind the end; [`Error::Corrupt`] if a chunk is damaged.
    pub async fn range(&self, range: Range<u64>) -> Result<Bytes> {
        let range = super::clamp(&range, self.bytes())?;
        let first = self.starts.partition_point(|start| *start <= range.start).saturating_sub(1);
        let behind = self.starts.partition_point(|start| *start < range.end).min(self.chunks.len());
        let wanted = first..behind.max(first);
        let read = |i: usize| Self::chunk(self.store.clone(), self.chunks[i]);
        let mut chunks = stream::iter(wanted.clone().map(read)).buffered(PARALLEL);
        let mut data = BytesMut::new();
        for i in wanted.clone() {
            let Some(chunk) = chunks.next().await.transpose()? else { break };
            let within = |at: u64| (at.saturating_sub(self.starts[i]).min(chunk.len() as u64)) as usize;
            let part = chunk.slice(within(range.start)..within(range.end));
            if wanted.len() == 1 {
                return Ok(part);
            }
            data.extend_from_slice(&part);
        }
        Ok(data.freeze())
    }

    /// All bytes, in pieces. The last item is an error if they do not have the blob's digest, so a reader that acts
    /// before the end acts on chunks that are whole but may not be all of this blob.
    pub fn stream<'a>(self) -> BoxStream<'a, Result<Bytes>>
    where
        S: 'a,
    {
        let (store, expected) = (self.store.clone(), self.digest);
        let several = self.chunks.len() > 1;
        let chunks: Vec<Chunk> = self.chunks.to_vec();
        let pieces = stream::iter(chunks).map(move |chunk| Self::chunk(self.store.clone(), chunk)).buffered(PARALLEL);
        if !several {
            return pieces.boxed();
        }
        let checked = stream::try_unfold((pieces.boxed(), Hasher::default()), move |(mut pieces, mut hasher)| {
            let what = format!("artifact in {}", &*store);
            async move {
                match pieces.next().await {
                    Some(piece) => {
                        let piece = piece?;
                        hasher.update(&piece);
                        Ok(Some((piece, (pieces, hasher))))
                    }
                    None if hasher.finish() == expected => Ok(None),
                    None => Err(Error::Corrupt { what, expected, found: hasher.finish() }),
                }
            }
        });
        checked.boxed()
    }
}

async fn list<S: ArtifactStore + ?Sized>(store: &S, digest: &Digest) -> Result<Bytes> {
    match store.get(&chunks_key(digest)).await {
        Err(Error::NotFound { .. }) => Err(Error::not_found("artifact", digest)),
        other => other,
    }
}

/// Whether everything of an artifact is there, by the keys alone.
#[cfg(feature = "datasets")]
pub(crate) async fn is_whole(store: &dyn ArtifactStore, digest: &Digest) -> Result<bool> {
    let found = async {
        let reader = BlobReader::open(store, digest).await?;
        let mut heads =
            stream::iter(reader.chunks().map(|chunk| async move { store.head(&artifact_key(&chunk)).await }))
                .buffer_unordered(PARALLEL);
        while let Some(head) = heads.next().await {
            head?;
        }
        Ok(())
    };
    match found.await {
        Ok(()) => Ok(true),
        Err(Error::NotFound { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The digests of the chunks that a list names.
pub(super) fn named(list: &[u8]) -> Option<Vec<Digest>> {
    Some(decode(list)?.iter().map(|chunk| chunk.digest).collect())
}

/// All bytes of a blob that has several chunks.
pub(super) async fn get_whole<S: ArtifactStore + ?Sized>(store: &S, digest: &Digest) -> Result<Bytes> {
    let list = list(store, digest).await?;
    let damaged = |found| Error::Corrupt { what: format!("artifact in {store}"), expected: *digest, found };
    let mut data = BytesMut::new();
    for chunk in decode(&list).ok_or_else(|| damaged(Digest::of(&list)))? {
        let part = store.get(&artifact_key(&chunk.digest)).await?;
        data.extend_from_slice(&store.verified(part, &chunk.digest)?);
    }
    store.verified(data.freeze(), digest)
}

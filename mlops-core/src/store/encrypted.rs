use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use chacha20poly1305::aead::{AeadInOut, Generate, KeyInit};
use chacha20poly1305::{Key, Tag, XChaCha20Poly1305, XNonce};
use zeroize::Zeroizing;

use super::{ArtifactStore, ObjectMeta, PutMode, check_name, clamp};
use crate::{Digest, Error, Result};

const MAGIC: &[u8; 8] = b"mlopsE1\n";
/// Longest name of a key in bytes; a header has room for one of that length.
const NAME: usize = 31;
/// Magic, length and name of the key, its mark, the nonce's random part, the number of plaintext bytes.
const HEADER: usize = 8 + 1 + NAME + 8 + 19 + 8;
/// Plaintext bytes of each segment but the last.
const SEGMENT: u64 = 64 << 10;
const TAG: u64 = 16;

/// A secret key of 256 bits. `Debug` shows `***`; its memory is overwritten when it is dropped.
#[derive(Clone)]
pub struct EncryptionKey(Zeroizing<[u8; 32]>);

impl EncryptionKey {
    /// The key made of these bytes, which must come from a source of randomness.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// A new key, from the system's source of randomness.
    ///
    /// # Errors
    /// [`Error::Backend`] if the system has none.
    pub fn generate() -> Result<Self> {
        Ok(Self::from_bytes(Key::try_generate().map_err(no_randomness)?.into()))
    }

    /// Its bytes.
    #[must_use]
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    /// Encrypts a short text, such as a secret in a row, by XChaCha20-Poly1305 under a random nonce, which comes first. It
    /// opens only with the same `about`, which says what it belongs to and is not hidden.
    ///
    /// ```
    /// let key = mlops_core::store::EncryptionKey::generate()?;
    /// let sealed = key.seal(b"hush", b"row 1")?;
    /// assert_eq!(key.open(&sealed, b"row 1")?, b"hush");
    /// assert!(key.open(&sealed, b"row 2").is_err());
    /// # Ok::<(), mlops_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Backend`] if the system has no source of randomness.
    pub fn seal(&self, text: &[u8], about: &[u8]) -> Result<Vec<u8>> {
        let nonce = XNonce::try_generate().map_err(no_randomness)?;
        let mut sealed = text.to_vec();
        let tag = self.cipher().encrypt_inout_detached(&nonce, about, sealed.as_mut_slice().into());
        let tag = tag.map_err(|_| Error::invalid("text to seal", "is longer than the cipher takes"))?;
        Ok([&nonce[..], &sealed, &tag[..]].concat())
    }

    /// What was [sealed](EncryptionKey::seal) with this key about the same thing.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if it was changed, or sealed with another key or about something else.
    pub fn open(&self, sealed: &[u8], about: &[u8]) -> Result<Vec<u8>> {
        let refused =
            || Error::invalid("sealed text", "was changed, or sealed with another key or about something else");
        let (nonce, rest) = sealed.split_first_chunk::<24>().ok_or_else(refused)?;
        let (text, tag) = rest.split_last_chunk::<{ TAG as usize }>().ok_or_else(refused)?;
        let mut text = text.to_vec();
        let (nonce, tag) = (XNonce::from(*nonce), Tag::from(*tag));
        let opened = self.cipher().decrypt_inout_detached(&nonce, about, text.as_mut_slice().into(), &tag);
        opened.map_err(|_| refused()).map(|()| text)
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new(self.expose().into())
    }

    /// Tells this key from others of its name, and nothing else.
    fn mark(&self) -> [u8; 8] {
        let mark = blake3::derive_key("mlops-core 2026 encrypted store: mark of a key", &*self.0);
        std::array::from_fn(|i| mark[i])
    }
}

impl fmt::Debug for EncryptionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

fn no_randomness(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    let (backend, key) = ("system".to_owned(), String::new());
    Error::Backend { backend, operation: "give random bytes for", key, retryable: true, source: Box::new(error) }
}

/// Where keys come from: a [`KeyRing`], or a key management service.
///
/// # Contract
/// - A name means one key for ever; rotation is a new name.
/// - Names are 1 to 31 letters, digits, `.`, `_` or `-`. They are stored in the clear.
/// - It is asked on every call, so it caches what is slow to get.
#[async_trait]
pub trait KeyProvider: fmt::Debug + Send + Sync + 'static {
    /// The name of the key for what is written from now on.
    async fn current(&self) -> Result<String>;

    /// The key of that name, if there is one.
    async fn key(&self, name: &str) -> Result<Option<EncryptionKey>>;
}

/// Keys in memory: the first is for new objects, the others are for old ones.
#[derive(Clone, Debug)]
pub struct KeyRing {
    current: String,
    keys: BTreeMap<String, EncryptionKey>,
}

impl KeyRing {
    /// One key of that name.
    pub fn new(name: impl Into<String>, key: EncryptionKey) -> Self {
        let current = name.into();
        Self { keys: BTreeMap::from([(current.clone(), key)]), current }
    }

    /// Adds a key that objects were written with before.
    #[must_use]
    pub fn old(mut self, name: impl Into<String>, key: EncryptionKey) -> Self {
        self.keys.entry(name.into()).or_insert(key);
        self
    }
}

#[async_trait]
impl KeyProvider for KeyRing {
    async fn current(&self) -> Result<String> {
        Ok(self.current.clone())
    }

    async fn key(&self, name: &str) -> Result<Option<EncryptionKey>> {
        Ok(self.keys.get(name).cloned())
    }
}

/// A layer that encrypts what is written and authenticates what is read.
///
/// ```
/// # futures::executor::block_on(async {
/// use mlops_core::store::{ArtifactStoreExt, EncryptedStore, EncryptionKey, KeyRing, MemoryStore};
/// let keys = KeyRing::new("2026", EncryptionKey::generate()?);
/// let store = EncryptedStore::new(MemoryStore::default(), keys);
/// let digest = store.put_artifact("weights".into()).await?;
/// assert_eq!(store.get_artifact(&digest).await?, "weights");
/// # Ok::<(), mlops_core::Error>(()) }).unwrap();
/// ```
///
/// XChaCha20-Poly1305 in segments of 64 KiB, each under a nonce made of 152 random bits of the object, the segment's
/// number and whether it is the last, with the object's key and header (name of the encryption key, size) as associated
/// data. So an object that was changed, cut, extended or moved to another key is [`Error::Corrupt`], and a range is read
/// and checked by its segments alone. An object whose encryption key is missing or another is [`Error::InvalidInput`].
///
/// Not hidden are keys of objects (and so the digests of artifacts: whoever guesses the bytes of one can tell that it is
/// stored), sizes, times, and that an object is an old version of itself. `Error::Corrupt` quotes the digest in the
/// object's key, or zeroes for a key without one, and that of the encrypted bytes.
///
/// [`head`](ArtifactStore::head) and [`list`](ArtifactStore::list) tell plaintext sizes, worked out from the stored ones.
#[derive(Clone, Debug)]
pub struct EncryptedStore<S> {
    inner: S,
    keys: Arc<dyn KeyProvider>,
}

/// The header of an object, which each of its segments authenticates.
struct Header {
    raw: [u8; HEADER],
    cipher: XChaCha20Poly1305,
    bytes: u64,
}

impl Header {
    fn nonce(&self, segment: u64) -> XNonce {
        let mut nonce = [0; 24];
        nonce[..19].copy_from_slice(&self.raw[48..67]);
        // At most 2^32 segments: `seal` refuses more, and `open` a header that tells of more.
        nonce[19..23].copy_from_slice(&(segment as u32).to_be_bytes());
        nonce[23] = u8::from(segment + 1 == segments(self.bytes));
        nonce.into()
    }

    fn associated(&self, key: &str) -> Vec<u8> {
        [&self.raw, key.as_bytes()].concat()
    }
}

/// How many segments that much plaintext has; an empty object has one, so that it is authenticated too.
fn segments(bytes: u64) -> u64 {
    bytes.div_ceil(SEGMENT).max(1)
}

/// The stored size of that much plaintext.
fn stored(bytes: u64) -> u64 {
    (HEADER as u64).saturating_add(bytes).saturating_add(segments(bytes).saturating_mul(TAG))
}

/// The plaintext of that much stored, as far as the size alone can tell.
fn plain(stored: u64) -> u64 {
    let body = stored.saturating_sub(HEADER as u64);
    body.saturating_sub(body.div_ceil(SEGMENT + TAG) * TAG)
}

impl<S: ArtifactStore> EncryptedStore<S> {
    /// Encrypts what goes to `inner`.
    pub fn new(inner: S, keys: impl KeyProvider) -> Self {
        Self { inner, keys: Arc::new(keys) }
    }

    fn corrupt(&self, key: &str, found: &[u8]) -> Error {
        let expected = key.rsplit('/').next().and_then(|name| name.parse().ok());
        let expected = expected.unwrap_or_else(|| Digest::from_bytes([0; 32]));
        Error::Corrupt { what: format!("encrypted object {key} in {}", self.inner), expected, found: Digest::of(found) }
    }

    async fn seal(&self, key: &str, data: &[u8]) -> Result<Bytes> {
        let name = self.keys.current().await?;
        check_name("encryption key", &name)?;
        if name.len() > NAME {
            return Err(Error::invalid("encryption key", format!("the name {name:?} is longer than {NAME} bytes")));
        }
        let secret = self.keys.key(&name).await?;
        let secret = secret.ok_or_else(|| {
            Error::invalid("encryption key", format!("the provider has no key of its current name {name:?}"))
        })?;
        let bytes = data.len() as u64;
        if segments(bytes) > u64::from(u32::MAX) {
            return Err(Error::invalid("data", "is too large for one encrypted object: write a blob"));
        }
        let mut raw = [0; HEADER];
        raw[..8].copy_from_slice(MAGIC);
        raw[8] = name.len() as u8;
        raw[9..9 + name.len()].copy_from_slice(name.as_bytes());
        raw[40..48].copy_from_slice(&secret.mark());
        raw[48..67].copy_from_slice(&XNonce::try_generate().map_err(no_randomness)?[..19]);
        raw[67..].copy_from_slice(&bytes.to_le_bytes());
        let header = Header { raw, cipher: secret.cipher(), bytes };
        let associated = header.associated(key);
        let mut out = BytesMut::with_capacity(usize::try_from(stored(bytes)).unwrap_or(0));
        out.extend_from_slice(&raw);
        let parts = data.chunks(SEGMENT as usize).chain(data.is_empty().then_some(&[][..]));
        for (segment, part) in parts.enumerate() {
            let from = out.len();
            out.extend_from_slice(part);
            let nonce = header.nonce(segment as u64);
            let tag = header.cipher.encrypt_inout_detached(&nonce, &associated, (&mut out[from..]).into());
            let tag = tag.map_err(|_| Error::invalid("data", "is too large to be encrypted"))?;
            out.extend_from_slice(&tag);
        }
        Ok(out.freeze())
    }

    /// Reads the header of an object that is stored in that many bytes.
    async fn header(&self, key: &str, start: &[u8], size: u64) -> Result<Header> {
        let corrupt = || self.corrupt(key, start);
        let raw: &[u8; HEADER] = start.first_chunk().ok_or_else(corrupt)?;
        if !raw.starts_with(MAGIC) {
            return Err(corrupt());
        }
        let bytes = raw.last_chunk::<8>().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        if stored(bytes) != size || segments(bytes) > u64::from(u32::MAX) {
            return Err(corrupt());
        }
        let name = raw.get(9..9 + usize::from(raw[8]).min(NAME)).and_then(|name| std::str::from_utf8(name).ok());
        let name = name.filter(|name| check_name("encryption key", name).is_ok()).ok_or_else(corrupt)?;
        let wrong = |what| {
            let remedy = "add it to the keys, or delete the object if it is damaged";
            Error::invalid("encryption key", format!("{key} was written with a key {name:?}, {what}: {remedy}"))
        };
        let secret = self.keys.key(name).await?.ok_or_else(|| wrong("which the provider does not have"))?;
        if secret.mark() != raw[40..48] {
            return Err(wrong("which is not the provider's key of that name"));
        }
        Ok(Header { raw: *raw, cipher: secret.cipher(), bytes })
    }

    /// Decrypts segments from number `first` on.
    fn open(&self, key: &str, header: &Header, first: u64, body: &[u8]) -> Result<BytesMut> {
        let associated = header.associated(key);
        let mut out = BytesMut::with_capacity(body.len());
        for (i, part) in body.chunks((SEGMENT + TAG) as usize).enumerate() {
            let (text, tag) = part.split_last_chunk::<{ TAG as usize }>().ok_or_else(|| self.corrupt(key, body))?;
            let from = out.len();
            out.extend_from_slice(text);
            let (nonce, tag) = (header.nonce(first + i as u64), Tag::from(*tag));
            let opened = header.cipher.decrypt_inout_detached(&nonce, &associated, (&mut out[from..]).into(), &tag);
            opened.map_err(|_| self.corrupt(key, body))?;
        }
        Ok(out)
    }
}

impl<S: ArtifactStore> fmt::Display for EncryptedStore<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "encrypted {}", self.inner)
    }
}

#[async_trait]
impl<S: ArtifactStore> ArtifactStore for EncryptedStore<S> {
    async fn put_opts(&self, key: &str, data: Bytes, mode: PutMode) -> Result<()> {
        super::check_key(key)?;
        let sealed = self.seal(key, &data).await?;
        self.inner.put_opts(key, sealed, mode).await
    }

    async fn get(&self, key: &str) -> Result<Bytes> {
        let stored = self.inner.get(key).await?;
        let header = self.header(key, &stored, stored.len() as u64).await?;
        Ok(self.open(key, &header, 0, &stored[HEADER..])?.freeze())
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes> {
        let size = self.inner.head(key).await?.bytes;
        let start = self.inner.get_range(key, 0..(HEADER as u64).min(size)).await?;
        let header = self.header(key, &start, size).await?;
        let range = clamp(&range, header.bytes)?;
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let (first, behind) = (range.start / SEGMENT, range.end.div_ceil(SEGMENT));
        let at = |segment: u64| (HEADER as u64 + segment * (SEGMENT + TAG)).min(size);
        let body = self.inner.get_range(key, at(first)..at(behind)).await?;
        if body.len() as u64 != at(behind) - at(first) {
            return Err(self.corrupt(key, &body));
        }
        let text = self.open(key, &header, first, &body)?.freeze();
        // Within the segments that were read, which are in memory.
        let within = |at: u64| (at - first * SEGMENT) as usize;
        Ok(text.slice(within(range.start)..within(range.end)))
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta> {
        let mut meta = self.inner.head(key).await?;
        meta.bytes = plain(meta.bytes);
        Ok(meta)
    }

    async fn delete(&self, key: &str) -> Result<()> {
        self.inner.delete(key).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>> {
        let mut found = self.inner.list(prefix).await?;
        found.iter_mut().for_each(|object| object.bytes = plain(object.bytes));
        Ok(found)
    }

    async fn sync(&self) -> Result<()> {
        self.inner.sync().await
    }
}

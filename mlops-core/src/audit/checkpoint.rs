//! What was the log at some moment, signed: a checkpoint as the C2SP specifications `tlog-checkpoint` and `signed-note`
//! write it, so that others' tools read it.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use sha2::{Digest as _, Sha256};

use super::{ChainSummary, MerkleFrontier, TreeHash};
use crate::store::{ArtifactStore, ObjectMeta, PutMode};
use crate::{Digest, Error, Result, Timestamp};

/// The algorithm byte of Ed25519 in signed notes.
const ED25519: u8 = 1;
/// Longest text that is read as a checkpoint, in bytes: more than 64 peaks and as many witnesses need.
const LONGEST: usize = 64 << 10;

/// Signs checkpoints under a name. The name is both the log's origin and the key's name, such as
/// `example.com/prices-audit`: with it in the signed text, no checkpoint of one log passes for another's.
///
/// Use the key for nothing else.
#[derive(Clone)]
pub struct CheckpointSigner {
    secret: SigningKey,
    public: CheckpointKey,
}

impl CheckpointSigner {
    /// The signer with that secret: 32 random bytes (the seed of RFC 8032).
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if the name is empty or has white space, control characters or a `+`.
    pub fn from_seed(name: impl Into<String>, seed: &[u8; 32]) -> Result<Self> {
        let secret = SigningKey::from_bytes(seed);
        let public = CheckpointKey::new(name.into(), secret.verifying_key())?;
        Ok(Self { secret, public })
    }

    /// The public key, to be given to whoever shall verify.
    #[must_use]
    pub fn key(&self) -> &CheckpointKey {
        &self.public
    }

    /// Signs the state of a log.
    pub(super) fn sign(&self, chain: ChainSummary, tree: MerkleFrontier, at: Timestamp) -> Checkpoint {
        let CheckpointKey { name, id, .. } = &self.public;
        let state = State { head: chain.head, at, root: tree.root(), tree };
        let body = state.body(name);
        let signature = self.secret.sign(body.as_bytes()).to_bytes();
        let note = format!("{body}\n— {name} {}\n", STANDARD.encode([&id[..], &signature].concat()));
        Checkpoint { state, key_id: *id, note }
    }
}

impl fmt::Debug for CheckpointSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CheckpointSigner").field("key", &self.public).field("secret", &"***").finish()
    }
}

/// The public key of a [`CheckpointSigner`], with its name. Written as signed notes write keys: `name+id+key`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointKey {
    name: String,
    id: [u8; 4],
    key: VerifyingKey,
}

impl CheckpointKey {
    fn new(name: String, key: VerifyingKey) -> Result<Self> {
        if name.is_empty() || name.chars().any(|c| c.is_whitespace() || c.is_control() || c == '+') {
            let reason = format!("{name:?} must be one or more characters without white space or '+'");
            return Err(Error::invalid("checkpoint name", reason));
        }
        let hash = Sha256::new().chain_update(&name).chain_update([b'\n', ED25519]).chain_update(key.as_bytes());
        let [a, b, c, d, ..] = <[u8; 32]>::from(hash.finalize());
        Ok(Self { name, id: [a, b, c, d], key })
    }

    /// The log's origin and the key's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for CheckpointKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, id, key } = self;
        let bytes = [&[ED25519], &key.as_bytes()[..]].concat();
        write!(f, "{name}+{:08x}+{}", u32::from_be_bytes(*id), STANDARD.encode(bytes))
    }
}

impl FromStr for CheckpointKey {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parsed = || {
            // From the left, as Base64 itself may hold a '+'.
            let (name, rest) = text.split_once('+')?;
            let (_, key) = rest.split_once('+')?;
            let [ED25519, key @ ..] = &STANDARD.decode(key).ok()?[..] else { return None };
            let key = VerifyingKey::from_bytes(key.try_into().ok()?).ok()?;
            Self::new(name.to_owned(), key).ok().filter(|key| key.to_string() == text)
        };
        parsed().ok_or_else(|| Error::invalid("checkpoint key", "expected an Ed25519 key as `name+id+key`"))
    }
}

/// What is signed.
#[derive(Clone, Debug, PartialEq, Eq)]
struct State {
    root: TreeHash,
    head: Digest,
    at: Timestamp,
    tree: MerkleFrontier,
}

impl State {
    /// Origin, size and root as the specification has them, then three lines of our own.
    fn body(&self, origin: &str) -> String {
        let Self { root, head, at, tree } = self;
        let at = at.to_rfc3339_opts(chrono::SecondsFormat::Micros, true);
        let peaks: Vec<String> = tree.peaks().iter().map(TreeHash::to_string).collect();
        format!("{origin}\n{}\n{root}\nhead {head}\nat {at}\npeaks {}\n", tree.leaves(), peaks.join(" "))
    }

    /// Reads what `body` wrote, and nothing else.
    fn read(body: &str, origin: &str) -> Option<Self> {
        let mut lines = body.lines().skip(1);
        let leaves = lines.next()?.parse().ok()?;
        let root = lines.next()?.parse().ok()?;
        let head = lines.next()?.strip_prefix("head ")?.parse().ok()?;
        let at = lines.next()?.strip_prefix("at ")?.parse().ok()?;
        let peaks: Result<Vec<TreeHash>> = lines.next()?.strip_prefix("peaks ")?.split(' ').map(str::parse).collect();
        let tree = MerkleFrontier::from_peaks(leaves, peaks.ok()?).ok()?;
        Some(Self { root, head, at, tree }).filter(|s| s.tree.root() == s.root && s.body(origin) == body)
    }
}

/// The state of a log at some moment, with a signature that was checked: there is no other way to have one.
///
/// It is a text of a few lines ([`Checkpoint::note`]) in the format of C2SP `tlog-checkpoint`:
///
/// ```text
/// example.com/prices-audit
/// 3
/// tiEyWpXwhLQ7vPOGVwpYYmpLnFWsNGlrhWDJEhN6TWk=
/// head 5f0e…                            the digest of the last entry
/// at 1997-01-01T00:00:00.000000Z
/// peaks 9Kcv… kZ3f…                     the right edge of the tree, from which it can grow
///
/// — example.com/prices-audit Az3grlgtz…
/// ```
///
/// The leaves of the tree are the 32 bytes of each entry's digest; the tree is that of RFC 6962 with SHA-256. The last
/// three lines of the text are this crate's own, and other tools skip them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    state: State,
    key_id: [u8; 4],
    note: String,
}

impl Checkpoint {
    /// Reads a checkpoint and checks its signature. Signatures by others, such as witnesses, may stand beside it.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if the text is no checkpoint of this crate, is another log's or was not signed with that
    /// key.
    pub fn read(note: &str, key: &CheckpointKey) -> Result<Self> {
        let refuse = |reason: &str| Error::invalid("checkpoint", reason);
        if note.len() > LONGEST {
            return Err(refuse("it is longer than 64 KiB"));
        }
        let (body, signatures) = note.rsplit_once("\n\n").ok_or_else(|| refuse("it has no signature"))?;
        let body = format!("{body}\n");
        let signatures = signatures.strip_suffix('\n').ok_or_else(|| refuse("its last line is cut off"))?;
        let mut signed = false;
        for line in signatures.split('\n') {
            let parts = line.strip_prefix("— ").and_then(|rest| rest.split_once(' '));
            let (name, signature) = parts.ok_or_else(|| refuse("a line among its signatures is none"))?;
            let bytes = STANDARD.decode(signature).map_err(|_| refuse("a signature is not Base64"))?;
            if let Some((id, signature)) = bytes.split_first_chunk::<4>()
                && (name, *id) == (&key.name, key.id)
            {
                let signature = Signature::from_slice(signature).map_err(|_| refuse("its signature is not one"))?;
                let checked = key.key.verify_strict(body.as_bytes(), &signature);
                checked.map_err(|_| refuse("its signature does not fit: it was changed, or signed by another key"))?;
                signed = true;
            }
        }
        if !signed {
            return Err(refuse(&format!("it is not signed by {key}")));
        }
        let state = State::read(&body, &key.name).ok_or_else(|| refuse("it is signed, and not by this crate"))?;
        Ok(Self { state, key_id: key.id, note: note.to_owned() })
    }

    /// How many entries the log had.
    #[must_use]
    pub fn entries(&self) -> u64 {
        self.state.tree.leaves()
    }

    /// The digest of the last of them.
    #[must_use]
    pub fn head(&self) -> Digest {
        self.state.head
    }

    /// The root of the tree over all of them.
    #[must_use]
    pub fn root(&self) -> TreeHash {
        self.state.root
    }

    /// The right edge of that tree.
    #[must_use]
    pub fn tree(&self) -> &MerkleFrontier {
        &self.state.tree
    }

    /// When it was signed, by the signer's clock.
    #[must_use]
    pub fn at(&self) -> Timestamp {
        self.state.at
    }

    /// Which key signed it: the id in signed notes.
    #[must_use]
    pub fn key_id(&self) -> [u8; 4] {
        self.key_id
    }

    /// The signed text, for [`Checkpoint::read`].
    #[must_use]
    pub fn note(&self) -> &str {
        &self.note
    }
}

/// Where checkpoints are kept: in an artifact store, under `audit/checkpoints/` and their size, each written once.
///
/// Give it a store that whoever can write the log cannot: a bucket with object lock, another account. Any copy of the
/// newest checkpoint serves as well.
#[derive(Clone, Debug)]
pub struct Checkpoints {
    store: Arc<dyn ArtifactStore>,
    key: CheckpointKey,
}

impl Checkpoints {
    const PREFIX: &str = "audit/checkpoints/";

    /// The checkpoints in that store which were signed with that key.
    pub fn new(store: impl ArtifactStore, key: CheckpointKey) -> Self {
        Self { store: Arc::new(store), key }
    }

    /// The sizes of those that are kept, ascending.
    ///
    /// # Errors
    /// Those of the store; [`Error::InvalidInput`] for a key that no checkpoint has.
    pub async fn sizes(&self) -> Result<Vec<u64>> {
        let objects = self.store.list(Self::PREFIX).await?;
        let size = |object: &ObjectMeta| {
            let key = &object.key;
            let size = key.strip_prefix(Self::PREFIX).and_then(|size| size.parse().ok());
            size.ok_or_else(|| Error::invalid("checkpoint store", format!("{key:?} is no checkpoint's key")))
        };
        objects.iter().map(size).collect()
    }

    /// The checkpoint of the log when it had `entries` entries.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is none; [`Error::InvalidInput`] as in [`Checkpoint::read`].
    pub async fn of(&self, entries: u64) -> Result<Checkpoint> {
        let bytes = self.store.get(&Self::path(entries)).await?;
        let note = str::from_utf8(&bytes).map_err(|e| Error::invalid("checkpoint", e))?;
        let checkpoint = Checkpoint::read(note, &self.key)?;
        if checkpoint.entries() != entries {
            let reason = format!("it is of {} entries and kept as one of {entries}", checkpoint.entries());
            return Err(Error::invalid("checkpoint", reason));
        }
        Ok(checkpoint)
    }

    /// The largest.
    ///
    /// # Errors
    /// As [`Checkpoints::of`].
    pub async fn latest(&self) -> Result<Option<Checkpoint>> {
        match self.sizes().await?.last() {
            Some(&entries) => Ok(Some(self.of(entries).await?)),
            None => Ok(None),
        }
    }

    /// All of them, ascending, to be given to [`verify_log`](super::verify_log).
    ///
    /// # Errors
    /// As [`Checkpoints::of`].
    pub async fn all(&self) -> Result<Vec<Checkpoint>> {
        let mut all = Vec::new();
        for entries in self.sizes().await? {
            all.push(self.of(entries).await?);
        }
        Ok(all)
    }

    /// Keeps a checkpoint, and gives the one that is kept: of two for the same log, the first.
    ///
    /// # Errors
    /// [`Error::Conflict`] if there is one of that size for another log: two histories were signed.
    pub async fn keep(&self, checkpoint: Checkpoint) -> Result<Checkpoint> {
        let note = Bytes::copy_from_slice(checkpoint.note().as_bytes());
        match self.store.put_opts(&Self::path(checkpoint.entries()), note, PutMode::Create).await {
            Err(Error::AlreadyExists { .. }) => {}
            other => return other.map(|()| checkpoint),
        }
        let kept = self.of(checkpoint.entries()).await?;
        if kept.root() == checkpoint.root() {
            return Ok(kept);
        }
        let (what, name) = ("audit log of checkpoint", checkpoint.entries().to_string());
        let (expected, found) = (kept.root().to_string(), checkpoint.root().to_string());
        Err(Error::Conflict { what, name, expected, found })
    }

    /// Twenty digits, so that keys sort by size.
    fn path(entries: u64) -> String {
        format!("{}{entries:020}", Self::PREFIX)
    }
}

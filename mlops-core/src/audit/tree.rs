//! The Merkle tree of Certificate Transparency over the digests of the entries.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ct_merkle::RootHash;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{AuditEntry, AuditLog, Checkpoint, PAGE};
use crate::{Error, Result};

/// The most entries that a proof is checked for; no log gets there.
const MOST: u64 = 1 << 62;

/// A node of the tree: SHA-256 as RFC 6962 has it, `SHA-256(0x00 ‖ leaf)` for a leaf, `SHA-256(0x01 ‖ left ‖ right)`
/// above. Written as Base64, like in checkpoints.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TreeHash([u8; 32]);

impl TreeHash {
    /// The hash of a leaf.
    #[must_use]
    pub fn leaf(data: &[u8]) -> Self {
        Self(Sha256::new().chain_update([0]).chain_update(data).finalize().into())
    }

    fn node(left: &Self, right: &Self) -> Self {
        Self(Sha256::new().chain_update([1]).chain_update(left.0).chain_update(right.0).finalize().into())
    }

    /// The 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    fn root_of(self, entries: u64) -> RootHash<Sha256> {
        RootHash::new(self.0.into(), entries)
    }
}

impl fmt::Display for TreeHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for TreeHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TreeHash({self})")
    }
}

impl FromStr for TreeHash {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bytes = STANDARD.decode(text).ok().and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or_else(|| Error::invalid("tree hash", "expected 32 bytes in Base64"))
    }
}

impl TryFrom<String> for TreeHash {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<TreeHash> for String {
    fn from(hash: TreeHash) -> Self {
        hash.to_string()
    }
}

/// The right edge of the tree: enough to add leaves and to tell the root, in memory for one hash per binary digit of
/// the number of leaves.
///
/// ```
/// use mlops_core::audit::MerkleFrontier;
/// let mut tree = MerkleFrontier::default();
/// // The root of no leaves is the hash of nothing.
/// assert_eq!(tree.root().to_string(), "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=");
/// (0..1_000_000_u32).for_each(|n| tree.push(&n.to_le_bytes()));
/// assert_eq!((tree.leaves(), tree.peaks().len()), (1_000_000, 7));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MerkleFrontier {
    leaves: u64,
    /// The roots of the perfect subtrees that the leaves divide into, the largest first: one per 1 in `leaves`.
    peaks: Vec<TreeHash>,
}

impl MerkleFrontier {
    /// The edge of a tree with so many leaves.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if a tree of that size has another number of peaks, or no log grows to it.
    pub fn from_peaks(leaves: u64, peaks: Vec<TreeHash>) -> Result<Self> {
        if leaves > MOST {
            return Err(Error::invalid("leaves", format!("{leaves} are more than {MOST}")));
        }
        let expected = leaves.count_ones() as usize;
        if peaks.len() == expected {
            return Ok(Self { leaves, peaks });
        }
        Err(Error::invalid("peaks", format!("{} for {leaves} leaves, which have {expected}", peaks.len())))
    }

    /// Adds a leaf at the right.
    pub fn push(&mut self, leaf: &[u8]) {
        let mut hash = TreeHash::leaf(leaf);
        let mut full = self.leaves;
        while full & 1 == 1
            && let Some(left) = self.peaks.pop()
        {
            hash = TreeHash::node(&left, &hash);
            full >>= 1;
        }
        self.peaks.push(hash);
        self.leaves += 1;
    }

    /// The root: `MTH` of RFC 6962 §2.1.
    #[must_use]
    pub fn root(&self) -> TreeHash {
        let mut peaks = self.peaks.iter().rev();
        let last = peaks.next().copied().unwrap_or_else(|| TreeHash(Sha256::digest([]).into()));
        peaks.fold(last, |right, left| TreeHash::node(left, &right))
    }

    /// How many leaves the tree has.
    #[must_use]
    pub fn leaves(&self) -> u64 {
        self.leaves
    }

    /// The roots of the perfect subtrees that the leaves divide into, the largest first.
    #[must_use]
    pub fn peaks(&self) -> &[TreeHash] {
        &self.peaks
    }
}

/// Shows somebody who has a checkpoint that one entry is in the log, without the rest of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct InclusionProof {
    /// The entry's place.
    pub seq: u64,
    /// The size of the tree that it is shown to be in: that of the checkpoint.
    pub entries: u64,
    /// The nodes beside the way from the leaf up to the root: `PATH(seq - 1, D[entries])` of RFC 6962 §2.1.1.
    pub path: Vec<TreeHash>,
}

impl InclusionProof {
    /// Checks that `entry` is at its place in the log that `checkpoint` was made of.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if the entry was changed, or this is no proof for it and that checkpoint.
    pub fn verify(&self, entry: &AuditEntry, checkpoint: &Checkpoint) -> Result<()> {
        let refuse = |reason: String| Err(Error::invalid("inclusion proof", reason));
        if (self.seq, self.entries) != (entry.seq, checkpoint.entries()) {
            let Self { seq, entries, .. } = self;
            return refuse(format!(
                "it is for entry {seq} of {entries}, not for entry {} of {}",
                entry.seq,
                checkpoint.entries()
            ));
        }
        if !entry.is_intact() {
            return refuse(format!("the contents of entry {} differ from its digest", entry.seq));
        }
        match self.check(entry.digest.as_bytes(), checkpoint.root()) {
            true => Ok(()),
            false => refuse(format!("entry {} is not in the log of that checkpoint", entry.seq)),
        }
    }

    fn check(&self, leaf: &[u8], root: TreeHash) -> bool {
        let Self { seq, entries, ref path } = *self;
        let proof = ct_merkle::InclusionProof::try_from_bytes(concat(path));
        (1..=entries).contains(&seq)
            && entries <= MOST
            && proof.is_ok_and(|proof| root.root_of(entries).verify_inclusion(&leaf, seq - 1, &proof).is_ok())
    }
}

/// Shows somebody who has an older checkpoint that the log of a newer one begins with the whole log of the older:
/// nothing of it was cut off or written anew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ConsistencyProof {
    /// Entries of the older checkpoint.
    pub from: u64,
    /// Entries of the newer one.
    pub to: u64,
    /// The nodes from which both roots follow: `PROOF(from, D[to])` of RFC 6962 §2.1.2.
    pub path: Vec<TreeHash>,
}

impl ConsistencyProof {
    /// Checks that the log that `new` was made of begins with the one that `old` was made of.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if it does not, or this is no proof for those checkpoints.
    pub fn verify(&self, old: &Checkpoint, new: &Checkpoint) -> Result<()> {
        let refuse = |reason: String| Err(Error::invalid("consistency proof", reason));
        let (from, to) = (old.entries(), new.entries());
        if (self.from, self.to) != (from, to) {
            return refuse(format!("it is for {} and {} entries, not for {from} and {to}", self.from, self.to));
        }
        match self.check(old.root(), new.root()) {
            true => Ok(()),
            false => refuse(format!("the log of {to} entries does not begin with the log of {from} entries")),
        }
    }

    fn check(&self, old: TreeHash, new: TreeHash) -> bool {
        let Self { from, to, ref path } = *self;
        let proof = ct_merkle::ConsistencyProof::try_from_bytes(concat(path));
        (1..=to).contains(&from)
            && to <= MOST
            && proof.is_ok_and(|proof| new.root_of(to).verify_consistency(&old.root_of(from), &proof).is_ok())
    }
}

fn concat(path: &[TreeHash]) -> Vec<u8> {
    path.iter().flat_map(|hash| hash.0).collect()
}

/// Proves that entry `seq` is in the tree of the first `entries` entries. Reads those once, in constant memory.
///
/// # Errors
/// [`Error::InvalidInput`] if the log has no such entry or is shorter.
pub async fn prove_inclusion<L: AuditLog + ?Sized>(log: &L, seq: u64, entries: u64) -> Result<InclusionProof> {
    if !(1..=entries.min(MOST)).contains(&seq) {
        return Err(Error::invalid("seq", format!("{seq} is not in 1..={entries}")));
    }
    let mut ranges = Vec::new();
    path(seq - 1, 0..entries, &mut ranges);
    Ok(InclusionProof { seq, entries, path: roots(log, ranges, entries).await? })
}

/// Proves that the tree of the first `to` entries begins with that of the first `from`. Reads the entries once, in
/// constant memory.
///
/// # Errors
/// [`Error::InvalidInput`] if `from` is not in `1..=to` or the log is shorter than `to`.
pub async fn prove_consistency<L: AuditLog + ?Sized>(log: &L, from: u64, to: u64) -> Result<ConsistencyProof> {
    if !(1..=to.min(MOST)).contains(&from) {
        return Err(Error::invalid("from", format!("{from} is not in 1..={to}")));
    }
    let mut ranges = Vec::new();
    subproof(from, 0..to, true, &mut ranges);
    Ok(ConsistencyProof { from, to, path: roots(log, ranges, to).await? })
}

/// The leaves of the left subtree: the largest power of two below `leaves`, which are at least 2.
fn left(leaves: u64) -> u64 {
    1 << (leaves - 1).ilog2()
}

/// `PATH(m, D[n])` as ranges of leaves whose roots it consists of.
fn path(m: u64, tree: Range<u64>, out: &mut Vec<Range<u64>>) {
    if tree.end - tree.start == 1 {
        return;
    }
    let middle = tree.start + left(tree.end - tree.start);
    if m < middle {
        path(m, tree.start..middle, out);
        out.push(middle..tree.end);
    } else {
        path(m, middle..tree.end, out);
        out.push(tree.start..middle);
    }
}

/// `SUBPROOF(m, D[n], whole)` as ranges of leaves; `m` counts from the first leaf of all.
fn subproof(m: u64, tree: Range<u64>, whole: bool, out: &mut Vec<Range<u64>>) {
    if m == tree.end {
        if !whole {
            out.push(tree);
        }
        return;
    }
    let middle = tree.start + left(tree.end - tree.start);
    if m <= middle {
        subproof(m, tree.start..middle, whole, out);
        out.push(middle..tree.end);
    } else {
        subproof(m, middle..tree.end, false, out);
        out.push(tree.start..middle);
    }
}

/// The roots over these ranges of leaves, which do not overlap, from one pass over the log.
async fn roots<L: AuditLog + ?Sized>(log: &L, ranges: Vec<Range<u64>>, entries: u64) -> Result<Vec<TreeHash>> {
    let mut trees: Vec<(Range<u64>, MerkleFrontier)> =
        ranges.into_iter().map(|range| (range, MerkleFrontier::default())).collect();
    let mut next = 0;
    while next < entries {
        let limit = usize::try_from(entries - next).unwrap_or(PAGE).min(PAGE);
        let page = log.entries(next + 1, limit).await?;
        if page.is_empty() {
            return Err(Error::invalid("audit log", format!("it has {next} entries, and the proof is of {entries}")));
        }
        for entry in page {
            if entry.seq != next + 1 {
                return Err(Error::invalid("audit log", format!("entry {} is missing", next + 1)));
            }
            if let Some((_, tree)) = trees.iter_mut().find(|(range, _)| range.contains(&next)) {
                tree.push(entry.digest.as_bytes());
            }
            next += 1;
        }
    }
    Ok(trees.iter().map(|(_, tree)| tree.root()).collect())
}

#[cfg(test)]
mod tests {
    use ct_merkle::mem_backed_tree::MemoryBackedTree;

    use super::*;

    /// The leaves and vectors of the Certificate Transparency reference tests (`transparency-dev/merkle`,
    /// `testonly/reference_test.go`).
    const LEAVES: [&str; 8] =
        ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"];
    const ROOTS: [&str; 9] = [
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ];
    const NODES: [&str; 8] = [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ];

    fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len() / 2).map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap()).collect()
    }

    fn hex(hash: &TreeHash) -> String {
        hash.0.iter().map(|b| format!("{b:02x}")).collect()
    }

    fn roots_over(leaves: &[Vec<u8>], ranges: &[Range<u64>]) -> Vec<TreeHash> {
        let root = |range: &Range<u64>| {
            let mut tree = MerkleFrontier::default();
            leaves[range.start as usize..range.end as usize].iter().for_each(|leaf| tree.push(leaf));
            tree.root()
        };
        ranges.iter().map(root).collect()
    }

    #[test]
    fn the_vectors_of_certificate_transparency() {
        let leaves: Vec<Vec<u8>> = LEAVES.iter().map(|leaf| bytes(leaf)).collect();
        let mut tree = MerkleFrontier::default();
        for (n, root) in ROOTS.iter().enumerate() {
            assert_eq!(hex(&tree.root()), *root, "{n} leaves");
            leaves.get(n).inspect(|leaf| tree.push(leaf));
        }
        let inclusion =
            [(1, 0, &[][..]), (2, 0, &[0]), (2, 1, &[6]), (5, 1, &[6, 1, 3]), (8, 0, &[0, 1, 2]), (8, 5, &[3, 4, 7])];
        for (n, m, nodes) in inclusion {
            let mut ranges = Vec::new();
            path(m, 0..n, &mut ranges);
            let expected: Vec<&str> = nodes.iter().map(|&i| NODES[i]).collect();
            assert_eq!(roots_over(&leaves, &ranges).iter().map(hex).collect::<Vec<_>>(), expected, "{m} in {n}");
        }
        for (m, n, nodes) in [(1, 1, &[][..]), (1, 8, &[0, 1, 2]), (2, 5, &[1, 3]), (6, 8, &[5, 4, 7])] {
            let mut ranges = Vec::new();
            subproof(m, 0..n, true, &mut ranges);
            let expected: Vec<&str> = nodes.iter().map(|&i| NODES[i]).collect();
            assert_eq!(roots_over(&leaves, &ranges).iter().map(hex).collect::<Vec<_>>(), expected, "{m} to {n}");
        }
    }

    #[test]
    fn every_proof_of_every_small_tree_is_the_reference_implementations() {
        let leaves: Vec<Vec<u8>> = (0..40_u8).map(|n| vec![n; 32]).collect();
        let mut reference = MemoryBackedTree::<Sha256, Vec<u8>>::new();
        let mut ours = MerkleFrontier::default();
        let mut old = Vec::new();
        for n in 1..=40_u64 {
            reference.push(leaves[n as usize - 1].clone());
            ours.push(&leaves[n as usize - 1]);
            assert_eq!(ours.root().0[..], reference.root().as_bytes()[..], "{n} leaves");
            old.push(ours.root());
            for m in 0..n {
                let mut ranges = Vec::new();
                path(m, 0..n, &mut ranges);
                let path = roots_over(&leaves, &ranges);
                assert_eq!(concat(&path), reference.prove_inclusion(m as usize).as_bytes(), "{m} in {n}");
                let proof = InclusionProof { seq: m + 1, entries: n, path };
                assert!(proof.check(&leaves[m as usize], ours.root()));
                assert!(!proof.check(&leaves[(m as usize + 1) % 40], ours.root()), "another leaf");
            }
            for m in 1..=n {
                let mut ranges = Vec::new();
                subproof(m, 0..n, true, &mut ranges);
                let path = roots_over(&leaves, &ranges);
                assert_eq!(concat(&path), reference.prove_consistency((n - m) as usize).as_bytes(), "{m} to {n}");
                let proof = ConsistencyProof { from: m, to: n, path };
                assert!(proof.check(old[m as usize - 1], ours.root()));
                assert!(!proof.check(TreeHash([7; 32]), ours.root()), "another old root: {m} to {n}");
                assert!(!proof.check(old[m as usize - 1], TreeHash([7; 32])), "another new root: {m} to {n}");
            }
        }
    }

    #[test]
    fn proofs_of_odd_sizes_are_refused_without_a_panic() {
        let hash = TreeHash([1; 32]);
        for (seq, entries) in [(0, 0), (0, 5), (6, 5), (1, u64::MAX), (u64::MAX, u64::MAX), (1, MOST + 1)] {
            for length in [0, 1, 70] {
                let path = vec![hash; length];
                assert!(!InclusionProof { seq, entries, path: path.clone() }.check(b"x", hash), "{seq} of {entries}");
                assert!(!ConsistencyProof { from: seq, to: entries, path }.check(hash, hash), "{seq} to {entries}");
            }
        }
        assert!(MerkleFrontier::from_peaks(3, vec![hash]).is_err());
        assert!(MerkleFrontier::from_peaks(u64::MAX, vec![hash; 64]).is_err());
    }
}

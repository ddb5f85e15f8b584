//! Signatures over packages: OpenSSF Model Signing v1.0, as the `model_signing` program writes and checks it.
//!
//! A signature is the file `model.sig` of the package: a sigstore bundle around a DSSE envelope around an in-toto
//! statement that lists every file with its digest. The keys are elliptic curve keys on P-256 or P-384.
//!
//! ```
//! # futures::executor::block_on(async {
//! use mlops_core::package::signing::{PublicKey, SignOptions, SigningKey, Verifier};
//! # use mlops_core::package::MLMODEL;
//! # use mlops_core::Package;
//! # let files = [(MLMODEL.to_owned(), "flavors: {}\n".into()), ("weights".to_owned(), "abc".into())];
//! # let package = Package::from_files(files.into())?;
//! # let private = include_str!("../../../tests/golden/signing/key.pem");
//! # let public = include_str!("../../../tests/golden/signing/key.pub.pem");
//! let signed = package.sign(&SigningKey::from_pem(private)?, &SignOptions::new("prices")).await?;
//! let verifier = Verifier::new([PublicKey::from_pem(public)?]);
//! assert_eq!(verifier.verify_package(&signed)?.files, 2);
//! assert!(verifier.verify_package(&package).is_err());
//! # Ok::<(), mlops_core::Error>(()) }).unwrap();
//! ```
//!
//! # Rules
//! - Every file is signed but `model.sig` itself and, as in `model_signing`, what belongs to git: `.git`, `.github`,
//!   `.gitattributes`, `.gitignore` at the top. A verifier refuses a signature that leaves out more, unless told otherwise.
//! - Nothing of a statement is believed before its signature is checked, and a key is trusted because the caller says so.
//! - What is refused is [`Error::NotAsSigned`], naming the first file at fault.

mod key;
mod statement;

use std::collections::BTreeMap;

use async_trait::async_trait;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use futures::TryStreamExt;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

pub use self::key::{PublicKey, Signer, SigningKey};
use self::statement::{BUNDLE, Bundle, PAYLOAD, Sig, Statement, bundle, hex, preauthenticated};
use super::{Limits, Manifest, Package};
use crate::source::{ModelRef, ModelSource, ResolvedModel};
use crate::store::{ArtifactStore, ArtifactStoreExt};
use crate::{Digest, Error, Result};

/// The file with a package's signature.
pub const MODEL_SIG: &str = "model.sig";

/// What is never signed.
const IGNORED: [&str; 5] = [".git", ".gitattributes", ".github", ".gitignore", MODEL_SIG];
/// Most bytes of a bundle.
const LARGEST: u64 = 64 << 20;

/// The digest that files are signed by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum HashType {
    /// What everybody reads. Every byte of a package is read to sign it, and again to verify it.
    #[default]
    Sha256,
    /// The digest that packages have anyway: nothing is read to sign or verify a package in a store, whatever it weighs.
    /// `model_signing` reads it too.
    Blake3,
}

impl HashType {
    fn as_str(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Blake3 => "blake3",
        }
    }

    fn of(self, data: &[u8]) -> [u8; 32] {
        match self {
            Self::Sha256 => Sha256::digest(data).into(),
            Self::Blake3 => *Digest::of(data).as_bytes(),
        }
    }

    async fn of_file(self, store: &dyn ArtifactStore, manifest: &Manifest, path: &str) -> Result<[u8; 32]> {
        match self {
            Self::Sha256 => {
                let mut hasher = Sha256::new();
                let mut pieces = manifest.open(store, path).await?.stream();
                while let Some(piece) = pieces.try_next().await.map_err(|e| super::manifest::about(path, e))? {
                    hasher.update(&piece);
                }
                Ok(hasher.finalize().into())
            }
            Self::Blake3 => Ok(*manifest.file(path)?.digest.as_bytes()),
        }
    }
}

/// How a package is signed.
///
/// ```
/// use mlops_core::package::signing::{HashType, SignOptions};
/// let options = SignOptions::new("prices").hash(HashType::Blake3);
/// # let _ = options;
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct SignOptions {
    name: String,
    hash: HashType,
}

impl SignOptions {
    /// Signs by SHA-256 and calls the model `name`, which is for people: a signature holds under any name.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), hash: HashType::default() }
    }

    /// The digest that files are signed by.
    pub fn hash(mut self, hash: HashType) -> Self {
        self.hash = hash;
        self
    }
}

/// A statement that was signed and checked.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Verified {
    /// The [`id`](PublicKey::id) of the key that signed.
    pub key: String,
    /// What the signer called the model.
    pub name: String,
    /// The digest that files are signed by.
    pub hash: HashType,
    /// How many files are signed.
    pub files: u64,
    /// The files that the signature leaves out, itself apart, sorted.
    pub unsigned: Vec<String>,
}

impl Package {
    /// The same package with a signature over it, in place of any that it has.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if what signs gave something else than its signature; those of the signer.
    pub async fn sign(&self, signer: &dyn Signer, options: &SignOptions) -> Result<Self> {
        let mut files = self.files.clone();
        files.remove(MODEL_SIG);
        let paths = files.iter().filter(|(path, _)| !is_ignored(path, &IGNORED));
        let resources = paths.map(|(path, data)| (path.clone(), options.hash.of(data))).collect();
        let bundle = bundle(signer, options, resources).await?;
        files.insert(MODEL_SIG.to_owned(), bundle);
        Self::from_files(files)
    }
}

impl Manifest {
    /// The same package with a signature over it, in place of any that it has, saved to the store that has its files.
    ///
    /// # Errors
    /// [`Error::NotFound`] or [`Error::Corrupt`] naming a file; [`Error::InvalidInput`] if what signs gave something else
    /// than its signature; those of the signer and the store.
    pub async fn sign(&self, store: &dyn ArtifactStore, signer: &dyn Signer, options: &SignOptions) -> Result<Self> {
        let mut resources = BTreeMap::new();
        let mut builder =
            Self::builder().limits(Limits::default().files(usize::MAX).bytes(u64::MAX).file_bytes(u64::MAX));
        for (path, file) in self.files().iter().filter(|(path, _)| *path != MODEL_SIG) {
            builder = builder.entry(path, file.bytes, file.digest);
            if !is_ignored(path, &IGNORED) {
                resources.insert(path.clone(), options.hash.of_file(store, self, path).await?);
            }
        }
        let bundle = bundle(signer, options, resources).await?;
        let bytes = bundle.len() as u64;
        let signed = builder.entry(MODEL_SIG, bytes, store.put_artifact(bundle).await?).build()?;
        signed.save(store).await?;
        Ok(signed)
    }
}

/// Checks signatures against the keys that are trusted.
#[derive(Clone, Debug)]
pub struct Verifier {
    keys: Vec<PublicKey>,
    ignored: bool,
}

impl Verifier {
    /// Trusts these keys.
    #[must_use]
    pub fn new(keys: impl IntoIterator<Item = PublicKey>) -> Self {
        Self { keys: keys.into_iter().collect(), ignored: false }
    }

    /// Whether a signature may leave out what its signer chose to (default no). [`Verified::unsigned`] names it.
    #[must_use]
    pub fn allow_ignored(mut self, allow: bool) -> Self {
        self.ignored = allow;
        self
    }

    /// Checks a package in memory.
    ///
    /// # Errors
    /// [`Error::NotAsSigned`] naming the first file at fault, which is `model.sig` if the signature is missing, damaged or
    /// not by a trusted key.
    pub fn verify_package(&self, package: &Package) -> Result<Verified> {
        let bundle =
            package.file(MODEL_SIG).map_err(|_| refused(MODEL_SIG, "is missing: the package is not signed"))?;
        let (statement, verified) = self.check(bundle, package.files().keys())?;
        for (path, signed) in &statement {
            unchanged(path, signed, &verified.hash.of(package.file(path)?), verified.hash)?;
        }
        Ok(verified)
    }

    /// Checks a package in a store, reading its files in pieces.
    ///
    /// # Errors
    /// As [`Verifier::verify_package`]; [`Error::NotFound`] or [`Error::Corrupt`] naming a file that is not stored as the
    /// manifest says; those of the store.
    pub async fn verify(&self, store: &dyn ArtifactStore, manifest: &Manifest) -> Result<Verified> {
        let Ok(file) = manifest.file(MODEL_SIG) else {
            return Err(refused(MODEL_SIG, "is missing: the package is not signed"));
        };
        if file.bytes > LARGEST {
            return Err(refused(MODEL_SIG, format!("has {} bytes, more than {LARGEST}", file.bytes)));
        }
        let bundle = manifest.read(store, MODEL_SIG).await?;
        let (statement, verified) = self.check(&bundle, manifest.files().keys())?;
        for (path, signed) in &statement {
            unchanged(path, signed, &verified.hash.of_file(store, manifest, path).await?, verified.hash)?;
        }
        Ok(verified)
    }

    /// Checks the signature, and that the statement is about these files.
    fn check<'a>(
        &self,
        bundle: &[u8],
        paths: impl Iterator<Item = &'a String>,
    ) -> Result<(BTreeMap<String, [u8; 32]>, Verified)> {
        let (key, payload) = self.authenticate(bundle)?;
        let Statement { name, hash, resources, ignored } = Statement::parse(&payload)?;
        let mut missing: BTreeMap<&str, ()> = resources.keys().map(|path| (path.as_str(), ())).collect();
        let mut unsigned = Vec::new();
        for path in paths.filter(|path| *path != MODEL_SIG) {
            if missing.remove(path.as_str()).is_some() {
                continue;
            }
            if !is_ignored(path, &ignored) {
                return Err(refused(path, "was added after signing"));
            }
            if !self.ignored && !is_ignored(path, &IGNORED) {
                let reason = "is left out by the signature; `Verifier::allow_ignored` accepts that";
                return Err(refused(path, reason));
            }
            unsigned.push(path.clone());
        }
        if let Some((path, ())) = missing.first_key_value() {
            return Err(refused(path, "was removed or renamed after signing"));
        }
        let verified = Verified { key, name, hash, files: resources.len() as u64, unsigned };
        Ok((resources, verified))
    }

    /// The payload that a trusted key signed, and the key's id.
    fn authenticate(&self, bundle: &[u8]) -> Result<(String, Vec<u8>)> {
        let bundle: Bundle = serde_json::from_slice(bundle)
            .map_err(|e| refused(MODEL_SIG, format!("cannot be read as a sigstore bundle with a public key: {e}")))?;
        let envelope = bundle.dsse_envelope;
        if bundle.media_type != BUNDLE || envelope.payload_type != PAYLOAD {
            let reason =
                format!("is {} around {}, not {BUNDLE} around {PAYLOAD}", bundle.media_type, envelope.payload_type);
            return Err(refused(MODEL_SIG, reason));
        }
        let [Sig { sig }] = &envelope.signatures[..] else {
            let reason = format!("has {} signatures, not one", envelope.signatures.len());
            return Err(refused(MODEL_SIG, reason));
        };
        let decode = |what: &str, text: &str| {
            BASE64_STANDARD.decode(text).map_err(|e| refused(MODEL_SIG, format!("{what} is not base64: {e}")))
        };
        let (payload, sig) = (decode("payload", &envelope.payload)?, decode("signature", sig)?);
        let hint = bundle.verification_material.public_key.hint.filter(|hint| !hint.is_empty());
        let candidates: Vec<&PublicKey> =
            self.keys.iter().filter(|key| hint.as_ref().is_none_or(|hint| hint == key.id())).collect();
        if let (Some(hint), []) = (&hint, &candidates[..]) {
            let known: Vec<&str> = self.keys.iter().map(PublicKey::id).collect();
            let reason = format!("is by key {hint}, which is none of the trusted ones [{}]", known.join(", "));
            return Err(refused(MODEL_SIG, reason));
        }
        let message = preauthenticated(&payload);
        match candidates.into_iter().find(|key| key.made(&message, &sig)) {
            Some(key) => Ok((key.id().to_owned(), payload)),
            None => Err(refused(MODEL_SIG, "has a signature that no trusted key made over its statement")),
        }
    }
}

fn refused(path: &str, reason: impl ToString) -> Error {
    Error::NotAsSigned { path: path.to_owned(), reason: reason.to_string() }
}

fn unchanged(path: &str, signed: &[u8; 32], found: &[u8; 32], hash: HashType) -> Result<()> {
    if signed == found {
        return Ok(());
    }
    let name = hash.as_str();
    Err(refused(path, format!("was changed after signing: signed with {name} {}, found {}", hex(signed), hex(found))))
}

/// Whether `path` is one of `ignored` or in one of them.
fn is_ignored(path: &str, ignored: &[impl AsRef<str>]) -> bool {
    ignored.iter().any(|ignored| {
        let wanted = ignored.as_ref().split('/').filter(|segment| !matches!(*segment, "" | "."));
        let mut found = path.split('/');
        wanted.into_iter().all(|segment| found.next() == Some(segment))
    })
}

/// A layer that hands out only packages with a signature by a trusted key.
///
/// ```
/// use mlops_core::package::signing::{PublicKey, Verifier, VerifiedSource};
/// # fn f(registry: impl mlops_core::ModelSource, key: PublicKey) {
/// let source = VerifiedSource::new(registry, Verifier::new([key]));
/// # let _ = source; }
/// ```
#[derive(Clone, Debug)]
pub struct VerifiedSource<S> {
    source: S,
    verifier: Verifier,
}

impl<S> VerifiedSource<S> {
    /// Checks what `source` gives.
    pub fn new(source: S, verifier: Verifier) -> Self {
        Self { source, verifier }
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<S: ModelSource> ModelSource for VerifiedSource<S> {
    async fn resolve(&self, wanted: &ModelRef) -> Result<ResolvedModel> {
        self.source.resolve(wanted).await
    }

    /// The package, if [`Verifier::verify_package`] accepts it.
    async fn package(&self, model: &ResolvedModel) -> Result<Package> {
        let package = self.source.package(model).await?;
        self.verifier.verify_package(&package)?;
        Ok(package)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_paths_are_whole_segments() {
        for (path, ignored, is) in [
            (".git", ".git", true),
            (".git/config", ".git", true),
            (".gitmodules", ".git", false),
            ("a/.git", ".git", false),
            ("a/b", "./a/", true),
            ("a", "a/b", false),
            ("anything", ".", true),
            ("anything", "", true),
        ] {
            assert_eq!(is_ignored(path, &[ignored]), is, "{path} by {ignored}");
        }
    }
}

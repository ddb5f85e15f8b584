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
//! # let private = include_str!("../../tests/golden/signing/key.pem");
//! # let public = include_str!("../../tests/golden/signing/key.pub.pem");
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

use std::collections::BTreeMap;
use std::fmt;

use async_trait::async_trait;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use futures::TryStreamExt;
use p256::ecdsa::signature::{Signer as _, Verifier as _};
use p256::pkcs8::{DecodePrivateKey, DecodePublicKey, EncodePublicKey, LineEnding};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::{Manifest, Package};
use crate::source::{ModelRef, ModelSource, ResolvedModel};
use crate::store::{ArtifactStore, ArtifactStoreExt};
use crate::{Digest, Error, Result};

/// The file with a package's signature.
pub const MODEL_SIG: &str = "model.sig";

const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
const PAYLOAD: &str = "application/vnd.in-toto+json";
const STATEMENT: &str = "https://in-toto.io/Statement/v1";
const PREDICATE: &str = "https://model_signing/signature/v1.0";
/// What is never signed.
const IGNORED: [&str; 5] = [".git", ".gitattributes", ".github", ".gitignore", MODEL_SIG];
/// Most bytes of a bundle.
const LARGEST: u64 = 64 << 20;

/// A public key on P-256 or P-384.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey {
    curve: Curve,
    id: String,
    pem: String,
}

#[derive(Clone, PartialEq, Eq)]
enum Curve {
    P256(p256::ecdsa::VerifyingKey),
    P384(p384::ecdsa::VerifyingKey),
}

impl PublicKey {
    /// Reads a key from PEM text: `-----BEGIN PUBLIC KEY-----`.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if it is no key on P-256 or P-384.
    pub fn from_pem(pem: &str) -> Result<Self> {
        let p256 = || p256::ecdsa::VerifyingKey::from_public_key_pem(pem).map(Curve::P256);
        let p384 = |_| p384::ecdsa::VerifyingKey::from_public_key_pem(pem).map(Curve::P384);
        let curve = p256().or_else(p384);
        Self::new(curve.map_err(|e| {
            Error::invalid("public key", format!("is no PEM text of a public key on P-256 or P-384: {e}"))
        })?)
    }

    fn new(curve: Curve) -> Result<Self> {
        let pem = match &curve {
            Curve::P256(key) => key.to_public_key_pem(LineEnding::LF),
            Curve::P384(key) => key.to_public_key_pem(LineEnding::LF),
        };
        let pem = pem.map_err(|e| Error::invalid("public key", e))?;
        Ok(Self { id: hex(&Sha256::digest(&pem)), curve, pem })
    }

    /// What a bundle names the key by: the SHA-256 of its PEM text, in hexadecimal digits.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The key as PEM text.
    #[must_use]
    pub fn to_pem(&self) -> &str {
        &self.pem
    }

    /// Whether `signature`, in DER, is this key's over `message`.
    fn made(&self, message: &[u8], signature: &[u8]) -> bool {
        match &self.curve {
            Curve::P256(key) => {
                p256::ecdsa::Signature::from_der(signature).is_ok_and(|s| key.verify(message, &s).is_ok())
            }
            Curve::P384(key) => {
                p384::ecdsa::Signature::from_der(signature).is_ok_and(|s| key.verify(message, &s).is_ok())
            }
        }
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.id)
    }
}

/// Who signs: a [`SigningKey`], or a key that a service keeps.
///
/// # Contract
/// - **Form.** `sign` gives the ECDSA signature over `message` in DER, hashed with SHA-256 on P-256 and SHA-384 on P-384.
/// - **Key.** It is made with the private key of `public_key`. What is not is an error before it is stored.
#[async_trait]
pub trait Signer: fmt::Debug + Send + Sync {
    /// The public key of what signs.
    fn public_key(&self) -> &PublicKey;

    /// Signs `message`.
    async fn sign(&self, message: &[u8]) -> Result<Vec<u8>>;
}

/// A private key in memory. It is wiped when it is dropped.
pub struct SigningKey {
    secret: Secret,
    public: PublicKey,
}

enum Secret {
    P256(p256::ecdsa::SigningKey),
    P384(p384::ecdsa::SigningKey),
}

impl SigningKey {
    /// Reads a key from PEM text in PKCS#8 form: `-----BEGIN PRIVATE KEY-----`.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if it is no such key on P-256 or P-384.
    pub fn from_pem(pem: &str) -> Result<Self> {
        let p256 = || p256::ecdsa::SigningKey::from_pkcs8_pem(pem).map(Secret::P256);
        let p384 = |_| p384::ecdsa::SigningKey::from_pkcs8_pem(pem).map(Secret::P384);
        let secret = p256().or_else(p384).map_err(|e| {
            let reason = format!(
                "is no PEM text of a PKCS#8 key on P-256 or P-384 ({e}); \
                 `openssl pkcs8 -topk8 -nocrypt` makes one of other forms"
            );
            Error::invalid("private key", reason)
        })?;
        let public = match &secret {
            Secret::P256(key) => Curve::P256(*key.verifying_key()),
            Secret::P384(key) => Curve::P384(*key.verifying_key()),
        };
        Ok(Self { secret, public: PublicKey::new(public)? })
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey(***, {})", self.public.id)
    }
}

#[async_trait]
impl Signer for SigningKey {
    fn public_key(&self) -> &PublicKey {
        &self.public
    }

    async fn sign(&self, message: &[u8]) -> Result<Vec<u8>> {
        Ok(match &self.secret {
            Secret::P256(key) => {
                let signature: p256::ecdsa::Signature = key.try_sign(message).map_err(|e| failed(&e))?;
                signature.to_der().as_bytes().to_vec()
            }
            Secret::P384(key) => {
                let signature: p384::ecdsa::Signature = key.try_sign(message).map_err(|e| failed(&e))?;
                signature.to_der().as_bytes().to_vec()
            }
        })
    }
}

fn failed(error: &impl fmt::Display) -> Error {
    Error::invalid("private key", error)
}

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
    pub async fn sign(mut self, signer: &dyn Signer, options: &SignOptions) -> Result<Self> {
        self.files.remove(MODEL_SIG);
        let paths = self.files.iter().filter(|(path, _)| !is_ignored(path, &IGNORED));
        let resources = paths.map(|(path, data)| (path.clone(), options.hash.of(data))).collect();
        let bundle = bundle(signer, options, resources).await?;
        self.files.insert(MODEL_SIG.to_owned(), bundle);
        Self::from_files(self.files)
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
            Self::builder().limits(super::Limits::default().files(usize::MAX).bytes(u64::MAX).file_bytes(u64::MAX));
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
            self.keys.iter().filter(|key| hint.as_ref().is_none_or(|hint| *hint == key.id)).collect();
        if let (Some(hint), []) = (&hint, &candidates[..]) {
            let known: Vec<&str> = self.keys.iter().map(PublicKey::id).collect();
            let reason = format!("is by key {hint}, which is none of the trusted ones [{}]", known.join(", "));
            return Err(refused(MODEL_SIG, reason));
        }
        let message = preauthenticated(&payload);
        match candidates.into_iter().find(|key| key.made(&message, &sig)) {
            Some(key) => Ok((key.id.clone(), payload)),
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

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    text.to_ascii_lowercase().parse::<Digest>().ok().map(|digest| *digest.as_bytes())
}

/// Whether `path` is one of `ignored` or in one of them.
fn is_ignored(path: &str, ignored: &[impl AsRef<str>]) -> bool {
    ignored.iter().any(|ignored| {
        let wanted = ignored.as_ref().split('/').filter(|segment| !matches!(*segment, "" | "."));
        let mut found = path.split('/');
        wanted.into_iter().all(|segment| found.next() == Some(segment))
    })
}

/// What is signed: the payload with its type and lengths (DSSE v1).
fn preauthenticated(payload: &[u8]) -> Vec<u8> {
    [format!("DSSEv1 {} {PAYLOAD} {} ", PAYLOAD.len(), payload.len()).as_bytes(), payload].concat()
}

/// The digest over all digests, in the order they are listed.
fn root<'a>(digests: impl IntoIterator<Item = &'a [u8; 32]>) -> [u8; 32] {
    digests.into_iter().fold(Sha256::new(), |hasher, digest| hasher.chain_update(digest)).finalize().into()
}

async fn bundle(signer: &dyn Signer, options: &SignOptions, files: BTreeMap<String, [u8; 32]>) -> Result<Bytes> {
    let mut files: Vec<(String, [u8; 32])> = files.into_iter().collect();
    // By segment, as Python's paths compare: `d/b` comes before `d.txt`.
    files.sort_unstable_by(|(a, _), (b, _)| a.split('/').cmp(b.split('/')));
    let hash = options.hash.as_str();
    let resources: Vec<_> =
        files.iter().map(|(path, digest)| json!({"name": path, "algorithm": hash, "digest": hex(digest)})).collect();
    let statement = json!({
        "_type": STATEMENT,
        "subject": [{"name": options.name, "digest": {"sha256": hex(&root(files.iter().map(|(_, digest)| digest)))}}],
        "predicateType": PREDICATE,
        "predicate": {
            "serialization": {
                "method": "files", "hash_type": hash, "allow_symlinks": false, "ignore_paths": IGNORED,
            },
            "resources": resources,
        },
    });
    let payload = crate::json::canonical(&statement).into_bytes();
    let (key, message) = (signer.public_key(), preauthenticated(&payload));
    let signature = signer.sign(&message).await?;
    if !key.made(&message, &signature) {
        let reason = format!("gave something else than a DER signature by its public key {}", key.id);
        return Err(Error::invalid("signer", reason));
    }
    let bundle = json!({
        "mediaType": BUNDLE,
        "verificationMaterial": {"publicKey": {"hint": key.id}, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": BASE64_STANDARD.encode(payload),
            "payloadType": PAYLOAD,
            "signatures": [{"sig": BASE64_STANDARD.encode(signature), "keyid": ""}],
        },
    });
    Ok(crate::json::canonical(&bundle).into())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Bundle {
    media_type: String,
    verification_material: Material,
    dsse_envelope: Envelope,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Material {
    public_key: Hint,
}

#[derive(Deserialize)]
struct Hint {
    #[serde(default)]
    hint: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    payload: String,
    payload_type: String,
    signatures: Vec<Sig>,
}

#[derive(Deserialize)]
struct Sig {
    sig: String,
}

/// What a payload says, checked for itself.
struct Statement {
    name: String,
    hash: HashType,
    resources: BTreeMap<String, [u8; 32]>,
    ignored: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Payload {
    #[serde(rename = "_type")]
    kind: String,
    subject: Vec<Subject>,
    predicate_type: String,
    predicate: Predicate,
}

#[derive(Deserialize)]
struct Subject {
    name: String,
    digest: Sha,
}

#[derive(Deserialize)]
struct Sha {
    sha256: String,
}

#[derive(Deserialize)]
struct Predicate {
    serialization: Serialization,
    resources: Vec<Resource>,
}

#[derive(Deserialize)]
struct Serialization {
    method: String,
    hash_type: HashType,
    #[serde(default)]
    ignore_paths: Vec<String>,
}

#[derive(Deserialize)]
struct Resource {
    name: String,
    algorithm: HashType,
    digest: String,
}

impl Statement {
    fn parse(payload: &[u8]) -> Result<Self> {
        let bad = |reason: String| refused(MODEL_SIG, reason);
        let payload: Payload = serde_json::from_slice(payload)
            .map_err(|e| bad(format!("has a statement that cannot be read as {PREDICATE}: {e}")))?;
        let Serialization { method, hash_type, ignore_paths } = payload.predicate.serialization;
        if payload.kind != STATEMENT || payload.predicate_type != PREDICATE {
            let reason =
                format!("states {} in {}, not {PREDICATE} in {STATEMENT}", payload.predicate_type, payload.kind);
            return Err(bad(reason));
        }
        if method != "files" {
            return Err(bad(format!("signs by {method:?}; sign it again by files")));
        }
        let [subject] = &payload.subject[..] else {
            return Err(bad(format!("is about {} subjects, not one", payload.subject.len())));
        };
        let mut digests = Vec::new();
        let mut resources = BTreeMap::new();
        for Resource { name, algorithm, digest } in payload.predicate.resources {
            let digest = unhex(&digest).filter(|_| algorithm == hash_type);
            let digest = digest.ok_or_else(|| bad(format!("has no {} digest of {name:?}", hash_type.as_str())))?;
            digests.push(digest);
            if resources.insert(name.clone(), digest).is_some() {
                return Err(bad(format!("lists {name:?} twice")));
            }
        }
        if unhex(&subject.digest.sha256) != Some(root(&digests)) {
            return Err(bad("has a root digest that is not that of its files".to_owned()));
        }
        Ok(Self { name: subject.name.clone(), hash: hash_type, resources, ignored: ignore_paths })
    }
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

    #[test]
    fn keys_that_are_none_are_refused() {
        for bad in ["", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", include_str!("signing.rs")] {
            assert!(PublicKey::from_pem(bad).is_err());
            assert!(SigningKey::from_pem(bad).unwrap_err().to_string().contains("openssl pkcs8 -topk8"));
        }
    }
}

//! Signed packages: what Python signed is accepted, and nothing else than what was signed.

use std::collections::BTreeMap;

use async_trait::async_trait;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use mlops_core::package::signing::{
    HashType, MODEL_SIG, PublicKey, SignOptions, Signer, SigningKey, VerifiedSource, Verifier,
};
use mlops_core::package::{MLMODEL, Manifest, Package};
use mlops_core::store::{ArtifactStoreExt, MemoryStore};
use mlops_core::{Digest, Error, ModelRef, ModelSource, ModelSourceExt, ResolvedModel, Result};
use serde_json::{Value, json};

const P256: &[u8] = include_bytes!("../golden/signing/p256.sig");
const P384: &[u8] = include_bytes!("../golden/signing/p384.sig");
const BLAKE3: &[u8] = include_bytes!("../golden/signing/blake3.sig");
const IGNORING: &[u8] = include_bytes!("../golden/signing/ignoring.sig");

fn key() -> SigningKey {
    SigningKey::from_pem(include_str!("../golden/signing/key.pem")).unwrap()
}

fn key384() -> SigningKey {
    SigningKey::from_pem(include_str!("../golden/signing/key384.pem")).unwrap()
}

fn trusting() -> Verifier {
    let keys = [include_str!("../golden/signing/key384.pub.pem"), include_str!("../golden/signing/key.pub.pem")];
    Verifier::new(keys.map(|pem| PublicKey::from_pem(pem).unwrap()))
}

/// The files that `golden/signing/make.py` signed.
fn files() -> BTreeMap<String, Bytes> {
    let weights: Vec<u8> = (0..=255).collect::<Vec<u8>>().repeat(20);
    let files: [(&str, &[u8]); 6] = [
        (MLMODEL, b"flavors:\n  sklearn: {pickled_model: model.skops}\n"),
        ("model.skops", &weights),
        ("d/b c.bin", b"yo\n"),
        ("d.txt", b""),
        ("größe.txt", b"x"),
        (".gitignore", b"*.tmp\n"),
    ];
    files.map(|(path, data)| (path.to_owned(), Bytes::copy_from_slice(data))).into()
}

fn with(mut files: BTreeMap<String, Bytes>, path: &str, data: impl Into<Bytes>) -> Package {
    files.insert(path.to_owned(), data.into());
    Package::from_files(files).unwrap()
}

fn signed_by_python(bundle: &'static [u8]) -> Package {
    with(files(), MODEL_SIG, bundle)
}

/// Which file is refused, and why.
fn refused(package: &Package) -> (String, String) {
    match trusting().verify_package(package).unwrap_err() {
        Error::NotAsSigned { path, reason } => (path, reason),
        other => panic!("{other}"),
    }
}

#[test]
fn what_python_signed_is_accepted() {
    for (bundle, key, hash) in
        [(P256, key(), HashType::Sha256), (P384, key384(), HashType::Sha256), (BLAKE3, key(), HashType::Blake3)]
    {
        let verified = trusting().verify_package(&signed_by_python(bundle)).unwrap();
        assert_eq!((&*verified.name, verified.files, verified.hash), ("prices", 5, hash));
        assert_eq!(verified.key, key.public_key().id());
        assert_eq!(verified.unsigned, [".gitignore"]);
    }
}

#[tokio::test]
async fn a_statement_of_ours_is_the_one_of_python() {
    let statement = |bundle: &[u8]| -> Value {
        let bundle: Value = serde_json::from_slice(bundle).unwrap();
        let payload = BASE64_STANDARD.decode(bundle["dsseEnvelope"]["payload"].as_str().unwrap()).unwrap();
        let mut statement: Value = serde_json::from_slice(&payload).unwrap();
        // A set: Python writes it in the order of its hashes.
        let ignored = statement["predicate"]["serialization"]["ignore_paths"].as_array_mut().unwrap();
        ignored.sort_by_key(|path| path.as_str().unwrap().to_owned());
        statement
    };
    for (key, hash, python) in
        [(key(), HashType::Sha256, P256), (key384(), HashType::Sha256, P384), (key(), HashType::Blake3, BLAKE3)]
    {
        let options = SignOptions::new("prices").hash(hash);
        let ours = Package::from_files(files()).unwrap().sign(&key, &options).await.unwrap();
        let bundle = ours.file(MODEL_SIG).unwrap();
        assert_eq!(statement(bundle), statement(python));
        let (ours, python): (Value, Value) =
            (serde_json::from_slice(bundle).unwrap(), serde_json::from_slice(python).unwrap());
        assert_eq!(ours["verificationMaterial"], python["verificationMaterial"]);
        let again = Package::from_files(files()).unwrap().sign(&key, &options).await.unwrap();
        assert_eq!(again.file(MODEL_SIG).unwrap(), bundle, "signatures are deterministic");
    }
}

#[tokio::test]
async fn a_package_in_a_store_is_signed_and_verified_without_holding_it() {
    let store = MemoryStore::default();
    let digest = Package::from_files(files()).unwrap().save(&store).await.unwrap();
    let manifest = Manifest::load(&store, &digest).await.unwrap();
    for hash in [HashType::Sha256, HashType::Blake3] {
        let options = SignOptions::new("prices").hash(hash);
        let signed = manifest.sign(&store, &key(), &options).await.unwrap();
        let read = Package::load(&store, &signed.digest().unwrap()).await.unwrap();
        assert_eq!(trusting().verify_package(&read).unwrap(), trusting().verify(&store, &signed).await.unwrap());
        assert_eq!(read.files(), Package::from_files(files()).unwrap().sign(&key(), &options).await.unwrap().files());
        let again = signed.sign(&store, &key384(), &options).await.unwrap();
        assert_eq!(trusting().verify(&store, &again).await.unwrap().key, key384().public_key().id(), "replaced");

        let other = store.put_artifact("yO\n".into()).await.unwrap();
        let mut builder = Manifest::builder();
        for (path, file) in signed.files() {
            let digest = if path == "d/b c.bin" { other } else { file.digest };
            builder = builder.entry(path, file.bytes, digest);
        }
        let error = trusting().verify(&store, &builder.build().unwrap()).await.unwrap_err().to_string();
        assert!(error.starts_with("not as signed: \"d/b c.bin\" was changed after signing"), "{error}");
    }
    let error = trusting().verify(&store, &manifest).await.unwrap_err().to_string();
    assert_eq!(error, "not as signed: \"model.sig\" is missing: the package is not signed");
}

#[test]
fn any_byte_of_any_file_that_changes_is_found_and_the_file_named() {
    for (path, data) in files() {
        for at in (0..data.len()).step_by(if data.len() > 100 { 509 } else { 1 }) {
            let mut changed = data.to_vec();
            changed[at] ^= 1;
            let mut files = files();
            files.insert(path.clone(), changed.into());
            files.insert(MODEL_SIG.to_owned(), P256.into());
            // An MLmodel that cannot be read any more is no package at all.
            let Ok(package) = Package::from_files(files) else { continue };
            if path == ".gitignore" {
                trusting().verify_package(&package).unwrap();
            } else {
                let (named, reason) = refused(&package);
                assert_eq!((named, &reason[..25]), (path.clone(), "was changed after signing"));
            }
        }
    }
    let longer = with(files(), "d.txt", "x").files().clone();
    assert_eq!(refused(&with(longer, MODEL_SIG, P256)).0, "d.txt");
}

#[test]
fn files_added_removed_and_renamed_are_found() {
    let (path, reason) = refused(&with(signed_by_python(P256).files().clone(), "extra", "x"));
    assert_eq!((&*path, &*reason), ("extra", "was added after signing"));
    for path in ["model.skops", "d.txt", "größe.txt"] {
        let mut files = signed_by_python(P256).files().clone();
        let data = files.remove(path).unwrap();
        let (named, reason) = refused(&Package::from_files(files.clone()).unwrap());
        assert_eq!((&*named, &*reason), (path, "was removed or renamed after signing"));
        files.insert(format!("{path}.old"), data);
        assert_eq!(refused(&Package::from_files(files).unwrap()).0, format!("{path}.old"));
    }
    let hidden = with(signed_by_python(P256).files().clone(), "sub/.git/hook", "x");
    assert_eq!(refused(&hidden).0, "sub/.git/hook", "only what is ignored at the top");
}

#[test]
fn what_a_signature_leaves_out_is_refused_unless_allowed() {
    let signed = with(with(files(), "README.md", "# other\n").files().clone(), MODEL_SIG, IGNORING);
    let (path, reason) = refused(&signed);
    assert_eq!(path, "README.md");
    assert!(reason.contains("left out by the signature"), "{reason}");
    let verified = trusting().allow_ignored(true).verify_package(&signed).unwrap();
    assert_eq!(verified.unsigned, [".gitignore", "README.md", "d/b c.bin"]);
}

#[test]
fn a_bundle_that_was_changed_is_refused_whatever_changed() {
    let reason = |bundle: Vec<u8>| {
        let (path, reason) = refused(&with(files(), MODEL_SIG, bundle));
        assert_eq!(path, MODEL_SIG);
        reason
    };
    for length in 0..P256.len() {
        reason(P256[..length].to_vec());
    }
    let edited = |edit: &dyn Fn(&mut Value)| {
        let mut bundle: Value = serde_json::from_slice(P256).unwrap();
        edit(&mut bundle);
        reason(serde_json::to_vec(&bundle).unwrap())
    };
    let other: Value = serde_json::from_slice(IGNORING).unwrap();
    let swapped = edited(&|b| b["dsseEnvelope"]["payload"] = other["dsseEnvelope"]["payload"].clone());
    assert!(swapped.contains("no trusted key made over its statement"), "{swapped}");
    let p384: Value = serde_json::from_slice(P384).unwrap();
    edited(&|b| b["dsseEnvelope"]["signatures"] = p384["dsseEnvelope"]["signatures"].clone());
    assert!(edited(&|b| b["dsseEnvelope"]["signatures"] = json!([])).contains("0 signatures"));
    assert!(edited(&|b| b["mediaType"] = "application/json".into()).contains("application/json around"));
    edited(&|b| b["dsseEnvelope"]["payloadType"] = "text/plain".into());
    edited(&|b| b["dsseEnvelope"]["payload"] = "%".into());
    let material = edited(&|b| b["verificationMaterial"] = json!({"x509CertificateChain": {"certificates": []}}));
    assert!(material.contains("public key"), "{material}");
    let hint = edited(&|b| b["verificationMaterial"]["publicKey"]["hint"] = "00".into());
    assert!(hint.contains("by key 00, which is none of the trusted ones"), "{hint}");

    let mut bundle: Value = serde_json::from_slice(P256).unwrap();
    bundle["verificationMaterial"] = json!({"publicKey": {}, "tlogEntries": []});
    let package = with(files(), MODEL_SIG, serde_json::to_vec(&bundle).unwrap());
    assert_eq!(
        trusting().verify_package(&package).unwrap().key,
        key().public_key().id(),
        "without a hint, each is tried"
    );
}

#[test]
fn another_key_is_refused() {
    let package = signed_by_python(P256);
    let error = Verifier::new([key384().public_key().clone()]).verify_package(&package).unwrap_err().to_string();
    assert!(error.contains(key().public_key().id()) && error.contains(key384().public_key().id()), "{error}");
    assert!(Verifier::new([]).verify_package(&package).is_err());
    assert!(!format!("{:?}", key()).contains("PRIVATE") && format!("{:?}", key()).contains("***"));
}

/// Signs whatever it is told to, with the right key.
fn forged(statement: &Value) -> Package {
    let payload = statement.to_string();
    let message = format!("DSSEv1 28 application/vnd.in-toto+json {} {payload}", payload.len());
    let key = key();
    let signature = futures::executor::block_on(key.sign(message.as_bytes())).unwrap();
    let bundle = json!({
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": {"publicKey": {"hint": key.public_key().id()}},
        "dsseEnvelope": {
            "payload": BASE64_STANDARD.encode(payload), "payloadType": "application/vnd.in-toto+json",
            "signatures": [{"sig": BASE64_STANDARD.encode(signature)}],
        },
    });
    with(files(), MODEL_SIG, bundle.to_string())
}

#[test]
fn statements_that_do_not_add_up_are_refused_though_signed() {
    let bundle: Value = serde_json::from_slice(P256).unwrap();
    let payload = BASE64_STANDARD.decode(bundle["dsseEnvelope"]["payload"].as_str().unwrap()).unwrap();
    let statement: Value = serde_json::from_slice(&payload).unwrap();
    trusting().verify_package(&forged(&statement)).unwrap();
    let edited = |edit: &dyn Fn(&mut Value), expected: &str| {
        let mut statement = statement.clone();
        edit(&mut statement);
        let (path, reason) = refused(&forged(&statement));
        assert_eq!(path, MODEL_SIG);
        assert!(reason.contains(expected), "{reason}");
    };
    edited(&|s| s["_type"] = "https://in-toto.io/Statement/v0.1".into(), "Statement/v0.1");
    edited(&|s| s["predicateType"] = "https://slsa.dev/provenance/v1".into(), "slsa.dev");
    edited(&|s| s["subject"] = json!([]), "0 subjects");
    edited(&|s| s["subject"][0]["digest"]["sha256"] = "00".repeat(32).into(), "root digest");
    edited(&|s| s["predicate"]["serialization"]["method"] = "shards".into(), "sign it again by files");
    edited(&|s| s["predicate"]["serialization"]["hash_type"] = "md5".into(), "md5");
    edited(&|s| s["predicate"]["resources"][1]["algorithm"] = "blake3".into(), "no sha256 digest of");
    edited(&|s| s["predicate"]["resources"][1]["digest"] = "00".into(), "no sha256 digest of");
    let twice = |s: &mut Value| {
        let first = s["predicate"]["resources"][0].clone();
        s["predicate"]["resources"].as_array_mut().unwrap().push(first);
    };
    edited(&twice, "twice");
    edited(&|s| s["predicate"] = Value::Null, "cannot be read");
}

#[derive(Debug)]
struct Liar(SigningKey);

#[async_trait]
impl Signer for Liar {
    fn public_key(&self) -> &PublicKey {
        self.0.public_key()
    }

    async fn sign(&self, _message: &[u8]) -> Result<Vec<u8>> {
        self.0.sign(b"something else").await
    }
}

#[tokio::test]
async fn a_signer_that_signs_something_else_is_found_out() {
    let package = Package::from_files(files()).unwrap();
    let error = package.sign(&Liar(key()), &SignOptions::new("m")).await.unwrap_err().to_string();
    assert!(error.starts_with("invalid signer: gave something else"), "{error}");
}

#[derive(Debug)]
struct One(Package);

#[async_trait]
impl ModelSource for One {
    async fn resolve(&self, wanted: &ModelRef) -> Result<ResolvedModel> {
        Ok(ResolvedModel { name: wanted.name.clone(), version: 1, revision: 0, package: Digest::of(b"") })
    }

    async fn package(&self, _model: &ResolvedModel) -> Result<Package> {
        Ok(self.0.clone())
    }
}

#[tokio::test]
async fn a_verified_source_hands_out_nothing_unsigned() {
    let wanted = ModelRef::version("prices", 1);
    let fetched = VerifiedSource::new(One(signed_by_python(P256)), trusting()).fetch(&wanted).await.unwrap();
    assert_eq!(fetched.files(), signed_by_python(P256).files());
    let unsigned = VerifiedSource::new(One(Package::from_files(files()).unwrap()), trusting());
    assert!(matches!(unsigned.fetch(&wanted).await, Err(Error::NotAsSigned { .. })));
}

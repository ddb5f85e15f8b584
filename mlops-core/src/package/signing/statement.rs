//! The forms around a signature: a bundle, its envelope and the statement in it.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::{HashType, IGNORED, MODEL_SIG, SignOptions, Signer, refused};
use crate::{Digest, Error, Result};

pub(super) const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
pub(super) const PAYLOAD: &str = "application/vnd.in-toto+json";
const STATEMENT: &str = "https://in-toto.io/Statement/v1";
const PREDICATE: &str = "https://model_signing/signature/v1.0";
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    text.to_ascii_lowercase().parse::<Digest>().ok().map(|digest| *digest.as_bytes())
}

/// What is signed: the payload with its type and lengths (DSSE v1).
pub(super) fn preauthenticated(payload: &[u8]) -> Vec<u8> {
    [format!("DSSEv1 {} {PAYLOAD} {} ", PAYLOAD.len(), payload.len()).as_bytes(), payload].concat()
}

/// The digest over all digests, in the order they are listed.
fn root<'a>(digests: impl IntoIterator<Item = &'a [u8; 32]>) -> [u8; 32] {
    digests.into_iter().fold(Sha256::new(), |hasher, digest| hasher.chain_update(digest)).finalize().into()
}

pub(super) async fn bundle(
    signer: &dyn Signer,
    options: &SignOptions,
    files: BTreeMap<String, [u8; 32]>,
) -> Result<Bytes> {
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
        let reason = format!("gave something else than a DER signature by its public key {}", key.id());
        return Err(Error::invalid("signer", reason));
    }
    let bundle = json!({
        "mediaType": BUNDLE,
        "verificationMaterial": {"publicKey": {"hint": key.id()}, "tlogEntries": []},
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
pub(super) struct Bundle {
    pub(super) media_type: String,
    pub(super) verification_material: Material,
    pub(super) dsse_envelope: Envelope,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Material {
    pub(super) public_key: Hint,
}

#[derive(Deserialize)]
pub(super) struct Hint {
    #[serde(default)]
    pub(super) hint: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Envelope {
    pub(super) payload: String,
    pub(super) payload_type: String,
    pub(super) signatures: Vec<Sig>,
}

#[derive(Deserialize)]
pub(super) struct Sig {
    pub(super) sig: String,
}

/// What a payload says, checked for itself.
pub(super) struct Statement {
    pub(super) name: String,
    pub(super) hash: HashType,
    pub(super) resources: BTreeMap<String, [u8; 32]>,
    pub(super) ignored: Vec<String>,
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
    pub(super) fn parse(payload: &[u8]) -> Result<Self> {
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

//! Tokens of an identity provider: what is accepted, and each way in which one is not.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::jwk::{Jwk, KeyAlgorithm};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use mlops_core::auth::jwt::{JwtAlgorithm, JwtVerifier, JwtVerifierBuilder};
use mlops_core::auth::{Grant, Permission, Principal, Resource, Role, RoleTable};
use mlops_core::{Authorizer, Error, ManualClock, clock};
use proptest::prelude::*;
use serde_json::{Value, json};

const ISSUER: &str = "https://id.example.com/realms/ml";
const NOW: i64 = 1_800_000_000;

struct Key {
    id: &'static str,
    algorithm: Algorithm,
    secret: EncodingKey,
}

impl Key {
    /// A key for tests and nothing else: making one of this type takes long in a build that is not optimised.
    fn rsa(id: &'static str) -> Self {
        let der = STANDARD.decode(include_str!("rsa_key_for_tests.b64").trim()).unwrap();
        Self { id, algorithm: Algorithm::RS256, secret: EncodingKey::from_rsa_der(&der) }
    }

    /// PKCS #8 of a random scalar on P-256.
    fn p256(id: &'static str) -> Self {
        let head = [
            0x30, 0x41, 2, 1, 0, 0x30, 0x13, 6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, 6, 8, 0x2a, 0x86, 0x48, 0xce,
            0x3d, 3, 1, 7, 4, 0x27, 0x30, 0x25, 2, 1, 1, 4, 0x20,
        ];
        let secret = EncodingKey::from_ec_der(&[&head[..], &random()].concat());
        Self { id, algorithm: Algorithm::ES256, secret }
    }

    /// PKCS #8 of a random seed.
    fn ed25519(id: &'static str) -> Self {
        let head = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
        let secret = EncodingKey::from_ed_der(&[&head[..], &random()].concat());
        Self { id, algorithm: Algorithm::EdDSA, secret }
    }

    fn public(&self) -> Value {
        let mut jwk = Jwk::from_encoding_key(&self.secret, self.algorithm).unwrap();
        jwk.common.key_id = Some(self.id.to_owned());
        serde_json::to_value(jwk).unwrap()
    }

    fn sign(&self, claims: &Value) -> String {
        self.sign_as(&self.header(), claims)
    }

    fn header(&self) -> Header {
        let mut header = Header::new(self.algorithm);
        header.kid = Some(self.id.to_owned());
        header
    }

    fn sign_as(&self, header: &Header, claims: &Value) -> String {
        jsonwebtoken::encode(header, claims, &self.secret).unwrap()
    }
}

fn random() -> [u8; 32] {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).unwrap();
    bytes[0] &= 0x7f; // below the order of P-256
    bytes
}

fn keys() -> [Key; 3] {
    [Key::rsa("r"), Key::p256("p"), Key::ed25519("e")]
}

fn set(keys: &[&Key]) -> String {
    json!({ "keys": keys.iter().map(|key| key.public()).collect::<Vec<_>>() }).to_string()
}

fn builder() -> JwtVerifierBuilder {
    JwtVerifier::builder(ISSUER, "mlops")
        .clock(ManualClock::at(clock::from_micros(NOW * 1_000_000)))
        .roles_at(["realm_access", "roles"])
        .role("ml-deployers", Grant::on(Role::Deployer, Resource::project("fraud")))
        .role("ml-viewers", Grant::everywhere(Role::Viewer))
}

fn claims() -> Value {
    json!({
        "iss": ISSUER, "aud": "mlops", "sub": "ana", "exp": NOW + 300, "iat": NOW - 10, "nbf": NOW - 10,
        "realm_access": { "roles": ["ml-deployers", "offline_access"] },
    })
}

fn with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[name] = value;
    claims
}

fn without(name: &str) -> Value {
    let mut claims = claims();
    claims.as_object_mut().unwrap().remove(name);
    claims
}

#[track_caller]
fn refused(result: mlops_core::Result<Principal>, reason: &str) {
    match result {
        Err(Error::Unauthenticated { reason: found }) => assert!(found.contains(reason), "{found:?}, not {reason:?}"),
        other => panic!("{other:?}, not {reason:?}"),
    }
}

#[test]
fn each_kind_of_key_proves_who_somebody_is_and_what_they_may_do() {
    let keys = keys();
    let verifier = builder().build(&set(&[&keys[0], &keys[1], &keys[2]])).unwrap();
    for key in &keys {
        let ana = verifier.verify(&key.sign(&claims())).unwrap();
        assert_eq!(ana, Principal::new("ana").with_role_on(Role::Deployer, Resource::project("fraud")));
        let alias = Resource::alias("prices", "champion");
        assert!(RoleTable.check(&ana, Permission::MoveAlias, &alias.clone().in_project("fraud")).is_ok());
        assert!(RoleTable.check(&ana, Permission::MoveAlias, &alias).is_err());
    }
    for algorithm in [Algorithm::RS384, Algorithm::RS512, Algorithm::PS256, Algorithm::PS384, Algorithm::PS512] {
        let mut public = keys[0].public();
        public.as_object_mut().unwrap().remove("alg");
        let all =
            [JwtAlgorithm::Rs384, JwtAlgorithm::Rs512, JwtAlgorithm::Ps256, JwtAlgorithm::Ps384, JwtAlgorithm::Ps512];
        let verifier = builder().algorithms(all).build(&json!({"keys": [public]}).to_string()).unwrap();
        let header = Header { alg: algorithm, ..keys[0].header() };
        assert_eq!(verifier.verify(&keys[0].sign_as(&header, &claims())).unwrap().name, "ana", "{algorithm:?}");
        refused(verifier.verify(&keys[0].sign(&claims())), "RS256, which is not allowed");
    }
}

#[test]
fn times_are_the_clocks_within_the_leeway() {
    let key = Key::ed25519("e");
    let verifier = builder().leeway(Duration::from_secs(30)).build(&set(&[&key])).unwrap();
    let ok = |claims: Value| verifier.verify(&key.sign(&claims)).unwrap();
    let no = |claims: Value, reason: &str| refused(verifier.verify(&key.sign(&claims)), reason);
    ok(with("exp", json!(NOW - 29)));
    no(with("exp", json!(NOW - 30)), "has expired");
    ok(with("exp", json!(NOW as f64 - 29.5)));
    no(with("exp", json!(0)), "has expired");
    no(with("exp", json!(-1e300)), "has expired");
    no(with("exp", json!("tomorrow")), "is no time");
    no(with("exp", Value::Null), "has no end");
    no(without("exp"), "has no end");
    ok(with("nbf", json!(NOW + 30)));
    no(with("nbf", json!(NOW + 31)), "not valid yet");
    no(with("nbf", json!([])), "is no time");
    ok(without("nbf"));
    ok(with("iat", json!(NOW + 30)));
    no(with("iat", json!(NOW + 31)), "made in the future");
    ok(without("iat"));
    assert!(builder().leeway(Duration::from_secs(601)).build(&set(&[&key])).is_err());
}

#[test]
fn issuer_audience_and_name_must_be_there_and_ours() {
    let key = Key::ed25519("e");
    let verifier = builder().build(&set(&[&key])).unwrap();
    let no = |claims: Value, reason: &str| refused(verifier.verify(&key.sign(&claims)), reason);
    for issuer in [json!("https://evil.example.com"), json!(format!("{ISSUER}/")), json!([ISSUER]), Value::Null] {
        no(with("iss", issuer), "another issuer");
    }
    for audience in [json!("mlops2"), json!("MLOPS"), json!([]), json!(["a", "b"]), json!({"mlops": 1}), Value::Null] {
        no(with("aud", audience), "another audience");
    }
    verifier.verify(&key.sign(&with("aud", json!(["other", "mlops"])))).unwrap();
    for name in [json!(""), json!(" "), json!("a\nb"), json!("a\u{0}"), json!(7), json!({}), Value::Null] {
        no(with("sub", name), "does not say whose it is");
    }
    no(json!([claims()]), "no JSON object");
    no(json!("ana"), "no JSON object");
    let mailed = builder().name_at(["email"]).name_prefix("id.example.com:").build(&set(&[&key])).unwrap();
    assert_eq!(mailed.verify(&key.sign(&with("email", json!("a@b")))).unwrap().name, "id.example.com:a@b");
}

#[test]
fn roles_that_are_not_mapped_grant_nothing() {
    let key = Key::ed25519("e");
    let verifier = builder().build(&set(&[&key])).unwrap();
    let grants = |roles: Value| verifier.verify(&key.sign(&with("realm_access", roles))).unwrap().grants.len();
    for (roles, expected) in [
        (json!({"roles": ["ml-deployers", "ml-viewers"]}), 2),
        (json!({"roles": "ml-viewers ml-deployers"}), 2),
        (json!({"roles": ["ml-viewers2", "ML-VIEWERS", "", "admin", "Admin", "*"]}), 0),
        (json!({"roles": [["ml-viewers"], {"ml-viewers": 1}, 7]}), 0),
        (json!({"roles": {"ml-viewers": true}}), 0),
        (json!({}), 0),
        (json!("ml-viewers"), 0),
        (json!(["ml-viewers"]), 0),
        (Value::Null, 0),
    ] {
        assert_eq!(grants(roles.clone()), expected, "{roles}");
    }
    let dotted = builder().roles_at(["https://example.com/roles"]).build(&set(&[&key])).unwrap();
    let token = key.sign(&with("https://example.com/roles", json!(["ml-viewers"])));
    assert_eq!(dotted.verify(&token).unwrap().grants, [Grant::everywhere(Role::Viewer)]);
}

#[test]
fn a_token_changed_in_any_part_is_refused() {
    for key in keys() {
        let verifier = builder().build(&set(&[&key])).unwrap();
        let token = key.sign(&claims());
        let parts: Vec<&str> = token.split('.').collect();
        let forged = URL_SAFE_NO_PAD.encode(with("sub", json!("root")).to_string());
        refused(verifier.verify(&format!("{}.{forged}.{}", parts[0], parts[2])), "signature does not fit");
        let other = key.sign(&with("sub", json!("bob")));
        let other: Vec<&str> = other.split('.').collect();
        refused(verifier.verify(&format!("{}.{}.{}", parts[0], parts[1], other[2])), "signature does not fit");
        refused(verifier.verify(&format!("{}.{}.", parts[0], parts[1])), "signature does not fit");
        refused(verifier.verify(&format!("{token}=")), "signature is not Base64");
        for place in (0..token.len()).step_by(7) {
            let mut bytes = token.clone().into_bytes();
            bytes[place] = if bytes[place] == b'A' { b'B' } else { b'A' };
            assert!(verifier.verify(str::from_utf8(&bytes).unwrap()).is_err(), "byte {place}");
        }
    }
}

/// The attacks that libraries fell for.
#[test]
fn algorithms_are_not_the_tokens_to_choose() {
    let keys = keys();
    let verifier = builder().build(&set(&[&keys[0], &keys[1], &keys[2]])).unwrap();
    let payload = URL_SAFE_NO_PAD.encode(claims().to_string());
    for none in ["none", "None", "NONE", "nOnE", ""] {
        let header = URL_SAFE_NO_PAD.encode(json!({"alg": none, "typ": "JWT", "kid": "r"}).to_string());
        for signature in ["", "AAAA"] {
            refused(verifier.verify(&format!("{header}.{payload}.{signature}")), "header is not one that is accepted");
        }
    }
    // HS256 with what everybody knows: each public key, in each spelling of it.
    for key in &keys {
        let public = key.public();
        let mut secrets = vec![public.to_string().into_bytes()];
        for part in ["n", "x", "y"] {
            if let Some(text) = public[part].as_str() {
                secrets.extend([text.as_bytes().to_vec(), URL_SAFE_NO_PAD.decode(text).unwrap()]);
            }
        }
        for secret in secrets {
            let mut header = Header::new(Algorithm::HS256);
            header.kid = Some(key.id.to_owned());
            let token = jsonwebtoken::encode(&header, &claims(), &EncodingKey::from_secret(&secret)).unwrap();
            refused(verifier.verify(&token), "HS256, which is not allowed");
        }
    }
    // The right key by the wrong name: another type's algorithm.
    for (key, named) in [(&keys[2], "p"), (&keys[1], "r"), (&keys[0], "e")] {
        let header = Header { kid: Some(named.to_owned()), ..key.header() };
        refused(verifier.verify(&key.sign_as(&header, &claims())), "signature does not fit");
    }
    // A key that states one algorithm is not used with another.
    let both = builder().algorithms([JwtAlgorithm::Rs256, JwtAlgorithm::Ps256]).build(&set(&[&keys[0]])).unwrap();
    let header = Header { alg: Algorithm::PS256, ..keys[0].header() };
    refused(both.verify(&keys[0].sign_as(&header, &claims())), "signature does not fit");
    // A key in the token itself is not looked at.
    let mallory = Key::ed25519("m");
    let mut header = Header { kid: None, ..mallory.header() };
    header.jwk = Some(serde_json::from_value(mallory.public()).unwrap());
    refused(verifier.verify(&mallory.sign_as(&header, &claims())), "signature does not fit");
    let header = Header { crit: Some(vec!["b64".to_owned()]), ..keys[2].header() };
    refused(verifier.verify(&keys[2].sign_as(&header, &claims())), "extension");
    for typ in ["logout+jwt", "secevent+jwt", "dpop+jwt"] {
        let header = Header { typ: Some(typ.to_owned()), ..keys[2].header() };
        refused(verifier.verify(&keys[2].sign_as(&header, &claims())), "proves no identity");
    }
    let header = Header { typ: Some("at+JWT".to_owned()), ..keys[2].header() };
    verifier.verify(&keys[2].sign_as(&header, &claims())).unwrap();
}

#[test]
fn keys_are_rotated_while_it_runs() {
    let (old, new) = (Key::ed25519("2026-10"), Key::p256("2026-11"));
    let verifier = builder().build(&set(&[&old])).unwrap();
    let shared = verifier.clone();
    let token = new.sign(&claims());
    let error = verifier.verify(&token).unwrap_err();
    assert!(matches!(&error, Error::UnknownKey { key } if key == "2026-11"), "{error}");
    assert!(error.to_string().contains("fetch the issuer's keys again"), "{error}");
    for bad in ["", "[]", "{}", r#"{"keys": 1}"#, r#"{"keys": [{"kty": "RSA"}]}"#] {
        assert!(matches!(verifier.set_keys(bad), Err(Error::InvalidInput { .. })), "{bad}");
    }
    verifier.verify(&old.sign(&claims())).unwrap();
    verifier.set_keys(&set(&[&new])).unwrap();
    assert_eq!(shared.verify(&token).unwrap().name, "ana", "clones share the keys");
    assert!(matches!(verifier.verify(&old.sign(&claims())), Err(Error::UnknownKey { .. })));
    // Two keys by one name: either may have signed.
    let twin = Key::p256("2026-11");
    verifier.set_keys(&set(&[&twin, &new])).unwrap();
    verifier.verify(&token).unwrap();
    // Without a name: only where one key could be meant.
    let nameless = Header { kid: None, ..new.header() };
    refused(verifier.verify(&new.sign_as(&nameless, &claims())), "signature does not fit");
    verifier.set_keys(&set(&[&new, &old])).unwrap();
    verifier.verify(&new.sign_as(&nameless, &claims())).unwrap();
}

#[test]
fn key_sets_hold_what_they_hold_and_bad_keys_are_named() {
    let key = Key::ed25519("e");
    let foreign = [
        json!({"kty": "oct", "kid": "s", "k": "c2VjcmV0", "alg": "HS256"}),
        json!({"kty": "EC", "crv": "secp256k1", "x": "AA", "y": "AA"}),
        json!({"kty": "OKP", "crv": "X25519", "x": "AA"}),
        json!({"kty": "AKP", "alg": "ML-DSA-44"}),
        json!({}),
        json!(7),
    ];
    let mut encryption = Key::ed25519("enc").public();
    encryption["use"] = json!("enc");
    let mut all = foreign.to_vec();
    all.extend([encryption, key.public()]);
    let verifier = builder().build(&json!({"keys": all}).to_string()).unwrap();
    verifier.verify(&key.sign(&claims())).unwrap();
    assert!(format!("{verifier:?}").contains("keys: [Some(\"e\")]"), "{verifier:?}");

    let text = |n: usize| URL_SAFE_NO_PAD.encode(vec![0xff; n]);
    for (bad, reason) in [
        (json!({"kty": "OKP", "crv": "Ed25519", "x": text(31)}), "key 0: \"x\" has 31 bytes, not 32"),
        (json!({"kty": "OKP", "crv": "Ed25519", "x": ""}), "key 0: \"x\" has 0 bytes, not 32"),
        (json!({"kty": "EC", "crv": "P-256", "x": text(32), "y": text(33)}), "key 0: \"y\" has 33 bytes, not 32"),
        (json!({"kty": "RSA", "n": text(128), "e": "AQAB"}), "key 0: an RSA key of 1024 bits"),
        (json!({"kty": "RSA", "n": text(1_024), "e": "AQAB"}), "key 0: an RSA key of 8192 bits"),
        (json!({"kty": "RSA", "n": "!", "e": "AQAB"}), "key 0: \"n\" is not Base64"),
    ] {
        let error = builder().build(&json!({"keys": [bad]}).to_string()).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
    // On no curve: accepted as text, and fits no signature.
    let off = json!({"kty": "EC", "crv": "P-256", "kid": "p", "x": text(32), "y": text(32)});
    let verifier = builder().build(&json!({"keys": [off]}).to_string()).unwrap();
    refused(verifier.verify(&Key::p256("p").sign(&claims())), "signature does not fit");
    assert_eq!(KeyAlgorithm::from(Algorithm::EdDSA), KeyAlgorithm::EdDSA);
}

#[test]
fn options_out_of_range_are_named() {
    let message = |builder: JwtVerifierBuilder| builder.build(r#"{"keys": []}"#).unwrap_err().to_string();
    assert!(message(JwtVerifier::builder("", "a")).contains("issuer"));
    assert!(message(JwtVerifier::builder("i", "")).contains("audience"));
    assert!(message(builder().algorithms([])).contains("algorithms"));
    assert!(message(builder().name_at::<String>([])).contains("name_at"));
    assert!(message(builder().roles_at::<String>([])).contains("roles_at"));
}

#[test]
fn huge_and_garbled_tokens_are_refused() {
    let key = Key::ed25519("e");
    let verifier = builder().build(&set(&[&key])).unwrap();
    refused(verifier.verify(&key.sign(&with("pad", json!("x".repeat(20_000))))), "longer than 16384 bytes");
    refused(verifier.verify(&"a.".repeat(1 << 20)), "longer than");
    for garbage in ["", ".", "..", "...", "a.b.c", "a.b.c.d", "日本.語.x", "e30.e30.e30", "null.null.null"] {
        assert!(verifier.verify(garbage).is_err(), "{garbage:?}");
    }
    let deep = URL_SAFE_NO_PAD.encode("[".repeat(9_000));
    assert!(verifier.verify(&format!("{deep}.{deep}.")).is_err());
}

proptest! {
    #[test]
    fn anything_at_all_is_an_error_and_not_a_panic(parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 0..5), text in ".*") {
        let verifier = builder().build(&set(&[&Key::ed25519("e")])).unwrap();
        let token = parts.iter().map(|part| URL_SAFE_NO_PAD.encode(part)).collect::<Vec<_>>().join(".");
        prop_assert!(verifier.verify(&token).is_err() && verifier.verify(&text).is_err());
        let _ = verifier.set_keys(&text);
    }
}

//! The cases of [`token_store_conformance!`](crate::token_store_conformance).

use std::time::Duration;

use futures::future::join_all;

use crate::audit::{AuditEvent, AuditLog, AuditLogExt};
use crate::auth::Grant;
use crate::auth::token::{NewToken, StoredToken, TokenHash, TokenInfo, TokenStore, Tokens};
use crate::clock::from_micros;
use crate::{Digest, Error};
use crate::{ManualClock, Principal, Resource, Role, TokenId};

fn token(n: u8, at: i64) -> StoredToken {
    let hash: TokenHash = Digest::of(&[n]).to_string().parse().unwrap();
    let who = Principal::new("ci \u{df}").with_role(Role::Viewer);
    let who = who.with_role_on(Role::Deployer, Resource::alias("prices", "champion").in_project("fraud"));
    let id = TokenId::derived(from_micros(at), &[n]);
    StoredToken { info: TokenInfo::new(id, who, "root".into(), from_micros(at), from_micros(at + 1)), hash }
}

fn event(action: &str, at: i64) -> AuditEvent {
    AuditEvent::new(from_micros(at), "root", action, "token")
}

async fn actions(audit: &impl AuditLog) -> Vec<String> {
    audit.all_entries().await.unwrap().into_iter().map(|e| e.event.action).collect()
}

/// What `find` gives is what `insert` was given; an id that was never given is none.
pub async fn tokens_read_back<S: TokenStore, A: AuditLog>((store, audit): &(S, A)) {
    assert_eq!(store.find(token(1, 5).info.id).await.unwrap(), None, "{store}");
    store.insert(token(1, 5), event("token.issue", 5)).await.unwrap();
    assert_eq!(store.find(token(1, 5).info.id).await.unwrap(), Some(token(1, 5)), "{store}");
    assert_eq!(actions(audit).await, ["token.issue"], "{store}");
    assert!(!format!("{:?}", token(1, 5)).contains(&token(1, 5).hash.to_string()), "a hash is not shown");
}

/// Contract: a second insert of an id is refused, changes nothing and is not audited.
pub async fn an_id_is_given_once<S: TokenStore, A: AuditLog>((store, audit): &(S, A)) {
    store.insert(token(1, 5), event("token.issue", 5)).await.unwrap();
    let other = StoredToken { hash: token(2, 5).hash, ..token(1, 5) };
    let error = store.insert(other, event("token.issue", 6)).await.unwrap_err();
    assert!(matches!(error, Error::AlreadyExists { .. }), "{store}: {error}");
    assert_eq!(store.find(token(1, 5).info.id).await.unwrap(), Some(token(1, 5)), "{store}");
    assert_eq!(actions(audit).await.len(), 1, "{store}");
}

/// Contract: revoking again keeps the first time and audits nothing; what is not there is `NotFound`.
pub async fn revoking_is_idempotent_and_audited_once<S: TokenStore, A: AuditLog>((store, audit): &(S, A)) {
    let id = token(1, 5).info.id;
    let error = store.revoke(id, from_micros(7), event("token.revoke", 7)).await.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{store}: {error}");
    store.insert(token(1, 5), event("token.issue", 5)).await.unwrap();
    for at in [7, 8] {
        let revoked = store.revoke(id, from_micros(at), event("token.revoke", at)).await.unwrap();
        assert_eq!(revoked.revoked_at, Some(from_micros(7)), "{store}");
        assert_eq!(store.find(id).await.unwrap().unwrap().info, revoked, "{store}");
    }
    assert_eq!(actions(audit).await, ["token.issue", "token.revoke"], "{store}");
}

/// Contract: `tokens` yields the oldest first.
pub async fn tokens_are_listed_by_age<S: TokenStore, A: AuditLog>((store, _): &(S, A)) {
    assert!(store.tokens().await.unwrap().is_empty(), "{store}");
    for (n, at) in [(1, 30), (2, 10), (3, 20), (4, 10)] {
        store.insert(token(n, at), event("token.issue", i64::from(n))).await.unwrap();
    }
    let mut expected: Vec<TokenInfo> = [(1, 30), (2, 10), (3, 20), (4, 10)].map(|(n, at)| token(n, at).info).into();
    expected.sort_by_key(|token| (token.created_at, token.id));
    assert_eq!(store.tokens().await.unwrap(), expected, "{store}");
}

/// Of concurrent inserts of one id, one is kept and audited.
pub async fn one_of_many_inserts_wins<S: TokenStore, A: AuditLog>((store, audit): &(S, A)) {
    let inserted = join_all((0..8).map(|n| store.insert(token(1, 5), event("token.issue", n)))).await;
    assert_eq!(inserted.iter().filter(|r| r.is_ok()).count(), 1, "{store}: {inserted:?}");
    assert_eq!(actions(audit).await.len(), 1, "{store}");
}

/// A token from [`Tokens`] over this store authenticates until it expires or is revoked, and holds what it was given.
pub async fn issued_tokens_authenticate<S: TokenStore + Clone, A: AuditLog>((store, audit): &(S, A)) {
    let clock = ManualClock::at(from_micros(1_000_000));
    let tokens = Tokens::new(store.clone()).clock(clock.clone());
    let root = Principal::new("root").with_role(Role::Admin);
    let grant = Grant::on(Role::Deployer, Resource::model("prices"));
    let new = || NewToken::new(Duration::from_secs(60)).speaks_as("ci").grant(grant.clone()).because("for the build");
    let (secret, info) = tokens.issue(&root, new()).await.unwrap();
    let (other, second) = tokens.issue(&root, new()).await.unwrap();
    assert_eq!(tokens.authenticate(secret.reveal()).await.unwrap(), info, "{store}");
    assert_eq!(info.principal(), Principal { name: "ci".into(), grants: vec![grant] }, "{store}");
    tokens.revoke(&root, second.id, "lost").await.unwrap();
    let message = |r: crate::Result<TokenInfo>| r.unwrap_err().to_string();
    assert!(message(tokens.authenticate(other.reveal()).await).contains("was revoked"), "{store}");
    clock.advance(Duration::from_secs(59));
    tokens.authenticate(secret.reveal()).await.unwrap();
    clock.advance(Duration::from_secs(1));
    assert!(message(tokens.authenticate(secret.reveal()).await).contains("expired"), "{store}");
    assert_eq!(actions(audit).await, ["token.issue", "token.issue", "token.revoke"], "{store}");
    let entry = &audit.entries(1, 1).await.unwrap()[0].event;
    assert_eq!((entry.actor.as_str(), entry.reason.as_str()), ("root", "for the build"), "{store}");
    assert_eq!(entry.after["speaks_as"], "ci", "{store}");
    let kept = format!("{:?}", audit.all_entries().await.unwrap());
    assert!(!kept.contains(&secret.reveal()[39..]), "{store}: no secret in the log");
}

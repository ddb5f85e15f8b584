//! Tokens: who may issue what, and what does not authenticate.

use std::time::Duration;

use mlops_core::audit::{AuditLogExt, MemoryAuditLog};
use mlops_core::auth::token::{MemoryTokens, NewToken, TokenStore, Tokens};
use mlops_core::auth::{Grant, Principal, Resource, Role};
use mlops_core::{Error, ManualClock, TokenId, clock};
use std::sync::Arc;

mlops_core::token_store_conformance!(memory_tokens, {
    let audit = MemoryAuditLog::default();
    ((MemoryTokens::new(audit.clone()), audit), ())
});
mlops_core::token_store_conformance!(shared_tokens, {
    let audit = MemoryAuditLog::default();
    ((Arc::new(MemoryTokens::new(audit.clone())) as Arc<dyn TokenStore>, audit), ())
});

const HOUR: Duration = Duration::from_secs(3_600);

fn tokens() -> (Tokens, MemoryAuditLog, ManualClock) {
    let (audit, clock) = (MemoryAuditLog::default(), ManualClock::at(clock::from_micros(0)));
    (Tokens::new(MemoryTokens::new(audit.clone())).clock(clock.clone()), audit, clock)
}

/// Every role held × every role wanted × where it is held × where it is wanted.
#[tokio::test]
async fn a_token_never_holds_more_than_its_issuer() {
    let (tokens, ..) = tokens();
    let model = Resource::model("prices").in_project("fraud");
    let alias = Resource::alias("prices", "champion").in_project("fraud");
    let places = [None, Some(Resource::project("fraud")), Some(model), Some(alias), Some(Resource::model("prices2"))];
    let (y, n) = (true, false);
    let covers = [
        // wanted: everywhere, project, model, alias, other model
        [y, y, y, y, y],
        [n, y, y, y, n],
        [n, n, y, y, n],
        [n, n, n, y, n],
        [n, n, n, n, y],
    ];
    for held in Role::ALL {
        for wanted in Role::ALL {
            for (i, held_on) in places.iter().enumerate() {
                for (j, wanted_on) in places.iter().enumerate() {
                    let grant = |role, on: &Option<Resource>| Grant { role, on: on.clone() };
                    let issuer = Principal { name: "ana".into(), grants: vec![grant(held, held_on)] };
                    let new = NewToken::new(HOUR).grant(grant(wanted, wanted_on));
                    let own = tokens.issue(&issuer, new.clone()).await;
                    let foreign = tokens.issue(&issuer, new.speaks_as("rob")).await;
                    let case = format!("{held:?} on {held_on:?} gives {wanted:?} on {wanted_on:?}");
                    assert_eq!(own.is_ok(), covers[i][j] && (held == wanted || held == Role::Admin), "{case}");
                    assert_eq!(foreign.is_ok(), covers[i][j] && held == Role::Admin, "{case}, as rob");
                }
            }
        }
    }
    let error = tokens.issue(&Principal::new("ana"), NewToken::new(HOUR).role(Role::Viewer)).await.unwrap_err();
    let expected =
        "ana may not issue a token on viewer everywhere: needs a role that grants it (viewer or admin, there)";
    assert_eq!(error.to_string(), expected);
}

#[tokio::test]
async fn a_refused_token_leaves_no_trace() {
    let (tokens, audit, _) = tokens();
    let root = Principal::new("root").with_role(Role::Admin);
    for new in [
        NewToken::new(HOUR),
        NewToken::new(Duration::ZERO).role(Role::Viewer),
        NewToken::new(Duration::from_secs(91 * 86_400)).role(Role::Viewer),
        NewToken::new(Duration::MAX).role(Role::Viewer),
        NewToken::new(HOUR).role(Role::Viewer).speaks_as(" "),
        NewToken::new(HOUR).role(Role::Viewer).speaks_as("a\nb"),
    ] {
        assert!(matches!(tokens.issue(&root, new).await, Err(Error::InvalidInput { .. })));
    }
    let for_ever = tokens.clone().longest(Duration::MAX);
    assert!(for_ever.issue(&root, NewToken::new(Duration::MAX).role(Role::Viewer)).await.is_err(), "no overflow");
    assert!(audit.all_entries().await.unwrap().is_empty() && tokens.list(&root).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_token_issued_under_another_ends_with_it() {
    let (tokens, _, clock) = tokens();
    let root = Principal::new("root").with_role(Role::Admin);
    let (_, parent) = tokens.issue(&root, NewToken::new(HOUR).role(Role::Viewer)).await.unwrap();
    clock.advance(HOUR / 2);
    let new = NewToken::new(HOUR).role(Role::Viewer).under(&parent);
    let (secret, child) = tokens.issue(&parent.principal(), new).await.unwrap();
    assert_eq!(child.expires_at, parent.expires_at);
    clock.advance(HOUR / 2);
    assert!(tokens.authenticate(secret.reveal()).await.is_err());
}

#[tokio::test]
async fn unknown_wrong_and_garbled_tokens_are_refused_alike() {
    let (tokens, ..) = tokens();
    let root = Principal::new("root").with_role(Role::Admin);
    let (secret, info) = tokens.issue(&root, NewToken::new(HOUR).role(Role::Viewer)).await.unwrap();
    let text = secret.reveal();
    assert_eq!(text.len(), 103);
    assert_eq!(format!("{secret:?}"), "Token(***)");
    let message = async |text: &str| tokens.authenticate(text).await.unwrap_err().to_string();
    let unknown =
        text.replace(&text[6..38], &TokenId::derived(clock::from_micros(0), b"x").as_uuid().simple().to_string());
    let wrong = format!("{}{}", &text[..39], "0".repeat(64));
    assert_eq!(message(&unknown).await, message(&wrong).await);
    let hyphenated = text.replace(&text[6..38], &info.id.to_string());
    let (upper, double) = (text.to_uppercase(), format!("{text}{text}"));
    let huge = format!("mlops_{}", "a".repeat(1 << 20));
    for garbled in
        ["", "mlops_", "mlops__", "mlops_x_y", &text[1..], &text[..102], &hyphenated, &upper, &double, &huge, "日本語"]
    {
        assert_eq!(
            message(garbled).await,
            "not authenticated: that is no token: expected mlops_ID_SECRET",
            "{garbled}"
        );
    }
    for place in 0..text.len() {
        let mut bytes = text.as_bytes().to_vec();
        bytes[place] = if bytes[place] == b'0' { b'1' } else { b'0' };
        assert!(tokens.authenticate(str::from_utf8(&bytes).unwrap()).await.is_err(), "{place}");
    }
    tokens.authenticate(text).await.unwrap();
}

#[tokio::test]
async fn tokens_are_seen_and_revoked_by_those_they_concern() {
    let (tokens, audit, _) = tokens();
    let root = Principal::new("root").with_role(Role::Admin);
    let prices = Resource::model("prices");
    let new = NewToken::new(HOUR).speaks_as("ci").role_on(Role::Deployer, prices.clone());
    let (secret, info) = tokens.issue(&root, new).await.unwrap();
    let strangers = [
        Principal::new("eve").with_role(Role::Deployer),
        Principal::new("adam").with_role_on(Role::Admin, Resource::model("other")),
    ];
    for stranger in strangers {
        assert!(tokens.list(&stranger).await.unwrap().is_empty());
        let error = tokens.revoke(&stranger, info.id, "mine now").await.unwrap_err();
        assert!(matches!(error, Error::PermissionDenied { .. }), "{error}");
    }
    let local = Principal::new("lea").with_role_on(Role::Admin, prices);
    for who in [&root, &Principal::new("ci"), &local] {
        assert_eq!(tokens.list(who).await.unwrap(), std::slice::from_ref(&info));
    }
    assert!(tokens.revoke(&local, info.id, " ").await.is_err(), "without a reason");
    tokens.revoke(&local, info.id, "left on a train").await.unwrap();
    assert!(tokens.authenticate(secret.reveal()).await.is_err());
    let last = audit.all_entries().await.unwrap().pop().unwrap().event;
    assert_eq!((last.actor.as_str(), last.reason.as_str()), ("lea", "left on a train"));
    let missing = tokens.revoke(&root, TokenId::derived(clock::from_micros(1), b"x"), "x").await.unwrap_err();
    assert!(matches!(missing, Error::NotFound { .. }));
}

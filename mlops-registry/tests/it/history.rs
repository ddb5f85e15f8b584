//! The registry against a plain model of it in memory, over random sequences of calls.

use std::collections::BTreeSet;

use mlops_core::clock::ManualClock;
use mlops_core::store::MemoryStore;
use mlops_core::{PromotionId, Role, Timestamp};
use mlops_registry::{AliasPolicy, Error, ModelRegistry, NewPromotion, PromotionState};
use proptest::prelude::*;

use crate::{builder, versions, who};

const VERSIONS: u64 = 4;

#[derive(Clone, Debug)]
enum Call {
    Request(u64),
    Approve(usize, usize),
    Reject(usize),
    Promote(usize),
    Rollback,
    Remove,
    Policy(u32),
}

fn call() -> impl Strategy<Value = Call> {
    prop_oneof![
        4 => (1..=VERSIONS).prop_map(Call::Request),
        4 => (0..5_usize, 0..4_usize).prop_map(|(i, by)| Call::Approve(i, by)),
        1 => (0..5_usize).prop_map(Call::Reject),
        4 => (0..5_usize).prop_map(Call::Promote),
        2 => Just(Call::Rollback),
        1 => Just(Call::Remove),
        1 => (0..3_u32).prop_map(Call::Policy),
    ]
}

/// Who approves: two reviewers, the author of every version (who may not), and somebody without the role.
const APPROVERS: [(&str, Role); 4] =
    [("rob", Role::Reviewer), ("ria", Role::Reviewer), ("ana", Role::Reviewer), ("vic", Role::Viewer)];

struct Asked {
    id: PromotionId,
    version: u64,
    saw: u64,
    approved: BTreeSet<&'static str>,
    state: PromotionState,
}

/// What the registry should hold.
#[derive(Default)]
struct Plain {
    asked: Vec<Asked>,
    /// The versions under the current one, the current one last.
    stack: Vec<u64>,
    revision: u64,
    /// Whether the alias is removed, over the current one.
    removed: bool,
    needed: u32,
    moves: Vec<(Timestamp, Option<u64>)>,
}

/// One of the latest requests, the last for 0: those are the ones that race.
fn nth_last(asked: &mut [Asked], n: usize) -> Option<&mut Asked> {
    asked.iter_mut().rev().nth(n)
}

async fn check(calls: Vec<Call>) {
    let clock = ManualClock::at("1997-01-01T00:00:00Z".parse().unwrap());
    let store = MemoryStore::default();
    let registry = builder(&store).clock(clock.clone()).open_in_memory().await.unwrap();
    versions(&registry, &store, VERSIONS).await;
    let (ana, rob, dan, root) = (
        who("ana", Role::Contributor),
        who("rob", Role::Reviewer),
        who("dan", Role::Deployer),
        who("root", Role::Admin),
    );
    let mut plain = Plain::default();
    for call in calls {
        clock.advance(std::time::Duration::from_secs(60));
        let now = mlops_core::Clock::now(&clock);
        match call {
            Call::Request(version) => {
                let result = registry.request_promotion(&ana, NewPromotion::new("m", version, "champion")).await;
                if plain.stack.last() == Some(&version) && !plain.removed {
                    assert!(result.is_err(), "it is v{version} already");
                    continue;
                }
                let (id, saw) = (result.unwrap().id, plain.revision);
                let (approved, state) = (BTreeSet::new(), PromotionState::Requested);
                plain.asked.push(Asked { id, version, saw, approved, state });
            }
            Call::Approve(i, by) => {
                let Some(asked) = nth_last(&mut plain.asked, i) else { continue };
                let (name, role) = APPROVERS[by];
                let result = registry.approve(&who(name, role), asked.id, "").await;
                let known = asked.approved.contains(name);
                let may = role == Role::Reviewer && name != "ana" && asked.state == PromotionState::Requested;
                assert_eq!(result.is_ok(), known || may, "{name}: {result:?}");
                if may {
                    asked.approved.insert(name);
                }
            }
            Call::Reject(i) => {
                let Some(asked) = nth_last(&mut plain.asked, i) else { continue };
                let result = registry.reject(&rob, asked.id, "no").await;
                assert_eq!(result.is_ok(), asked.state != PromotionState::Promoted, "{result:?}");
                if result.is_ok() {
                    asked.state = PromotionState::Rejected;
                }
            }
            Call::Promote(i) => {
                let Some(asked) = nth_last(&mut plain.asked, i) else { continue };
                let result = registry.promote(&dan, asked.id).await;
                if asked.state == PromotionState::Promoted {
                    result.unwrap();
                } else if asked.state == PromotionState::Rejected {
                    assert!(matches!(result, Err(Error::Decided { .. })), "{result:?}");
                } else if (asked.approved.len() as u32) < plain.needed {
                    assert!(matches!(result, Err(Error::ApprovalMissing { .. })), "{result:?}");
                } else if asked.saw != plain.revision {
                    assert!(result.as_ref().is_err_and(Error::is_conflict), "{result:?}");
                } else {
                    result.unwrap();
                    asked.state = PromotionState::Promoted;
                    plain.stack.push(asked.version);
                    plain.revision += 1;
                    plain.removed = false;
                    plain.moves.push((now, Some(asked.version)));
                }
            }
            Call::Rollback => {
                let result = registry.rollback(&dan, "m", "champion", None, "worse").await;
                if plain.stack.len() + usize::from(plain.removed) < 2 {
                    assert!(result.as_ref().is_err_and(Error::is_not_found), "{result:?}");
                    continue;
                }
                if !std::mem::take(&mut plain.removed) {
                    plain.stack.pop();
                }
                plain.revision += 1;
                plain.moves.push((now, Some(plain.stack[plain.stack.len() - 1])));
                assert_eq!(result.unwrap().version, plain.stack[plain.stack.len() - 1]);
            }
            Call::Remove => {
                let result = registry.remove_alias(&root, "m", "champion", "retired").await;
                if plain.stack.is_empty() {
                    assert!(result.as_ref().is_err_and(Error::is_not_found), "{result:?}");
                    continue;
                }
                result.unwrap();
                if !std::mem::replace(&mut plain.removed, true) {
                    plain.revision += 1;
                    plain.moves.push((now, None));
                }
            }
            Call::Policy(needed) => {
                registry.set_policy(&root, "m", "champion", AliasPolicy::approvals(needed)).await.unwrap();
                plain.needed = needed;
            }
        }
        match registry.alias("m", "champion").await {
            Ok(alias) => {
                assert!(!plain.removed);
                assert_eq!((Some(&alias.version), alias.revision), (plain.stack.last(), plain.revision));
            }
            Err(error) => assert!(error.is_not_found() && (plain.revision == 0 || plain.removed), "{error}"),
        }
    }
    for asked in &plain.asked {
        let kept = registry.promotion(asked.id).await.unwrap();
        assert_eq!((kept.state, kept.approvals.len()), (asked.state, asked.approved.len()));
    }
    let second = std::time::Duration::from_secs(1);
    let mut before = None;
    for (at, version) in &plain.moves {
        assert_eq!(registry.alias_at("m", "champion", *at - second).await.unwrap(), before);
        assert_eq!(registry.alias_at("m", "champion", *at).await.unwrap(), *version);
        before = *version;
    }
    let tenures = registry.alias_history("m", "champion", Timestamp::MIN_UTC, Timestamp::MAX_UTC).await.unwrap();
    let told: Vec<(Timestamp, u64)> = tenures.iter().map(|tenure| (tenure.from, tenure.version)).collect();
    let pointed: Vec<(Timestamp, u64)> =
        plain.moves.iter().filter_map(|(at, version)| Some((*at, (*version)?))).collect();
    assert_eq!(told, pointed);
    mlops_core::audit::AuditLogExt::verify(&registry).await.unwrap().unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_registry_agrees_with_a_plain_model(calls in prop::collection::vec(call(), 1..60)) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(check(calls));
    }
}

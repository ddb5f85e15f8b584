//! Policies of one's own: what they can say, and that a bad one is named.

use mlops_core::auth::cedar::{CedarAuthorizer, ROLES};
use mlops_core::auth::{Authorizer, Permission, Principal, Resource, Role};
use mlops_core::{Error, ManualClock};

const OFFICE: &str = r#"
// Champions move in office hours only, and never by eve.
@id("office_hours")
forbid (principal, action == MLOps::Action::"move_alias", resource)
when { resource.kind == "alias" && resource.name == "champion" && (context.hour < 9 || context.hour >= 17) };

@id("not_eve")
forbid (principal == MLOps::Principal::"eve", action == MLOps::Action::"move_alias", resource in MLOps::Resource::"project:fraud");
"#;

fn message(name: &str, text: &str) -> String {
    CedarAuthorizer::builder().policies(name, text).build().unwrap_err().to_string()
}

#[test]
fn a_forbid_wins_over_every_role() {
    let clock = ManualClock::at("2026-11-25T16:59:59Z".parse().unwrap());
    let builder = CedarAuthorizer::builder().policies("office.cedar", OFFICE).clock(clock.clone());
    let authorizer = builder.build().unwrap();
    let dan = Principal::new("dan").with_role(Role::Admin);
    let eve = Principal::new("eve").with_role(Role::Admin);
    let champion = Resource::alias("prices", "champion").in_project("fraud");
    let staging = Resource::alias("prices", "staging").in_project("fraud");
    let may = |who, resource: &Resource| authorizer.check(who, Permission::MoveAlias, resource).is_ok();
    assert!(may(&dan, &champion) && may(&dan, &staging));
    assert!(!may(&eve, &champion) && !may(&eve, &staging) && may(&eve, &Resource::alias("prices", "staging")));
    clock.set("2026-11-25T17:00:00Z".parse().unwrap());
    assert!(!may(&dan, &champion) && may(&dan, &staging));
    let error = authorizer.check(&dan, Permission::MoveAlias, &champion).unwrap_err();
    assert!(matches!(&error, Error::PermissionDenied { remedy, .. } if remedy == "policy office_hours forbids it"));
    assert!(authorizer.check(&dan, Permission::Review, &champion).is_ok(), "other acts go on");
}

#[test]
fn without_the_roles_only_ones_own_policies_speak() {
    let text = r#"@id("readers") permit (principal, action == MLOps::Action::"read", resource) when { resource.kind == "model" };"#;
    let authorizer = CedarAuthorizer::builder().without_roles().policies("own", text).build().unwrap();
    let admin = Principal::new("root").with_role(Role::Admin);
    assert!(authorizer.check(&Principal::new("x"), Permission::Read, &Resource::model("m")).is_ok());
    for permission in Permission::ALL {
        assert!(authorizer.check(&admin, permission, &Resource::dataset("m")).is_err(), "{permission:?}");
    }
    let nothing = CedarAuthorizer::builder().without_roles().build().unwrap();
    assert!(nothing.check(&admin, Permission::Read, &Resource::model("m")).is_err(), "deny by default");
}

#[test]
fn a_bad_policy_is_named_with_its_line() {
    let unread = message("a.cedar", "// fine\n\npermit (principal, action, resource)\nwhen { nonsense ( };");
    assert!(unread.contains("cedar policies a.cedar line 4"), "{unread}");
    let misspelled = OFFICE.replace("resource.name ==", "resource.nmae ==");
    let misspelled = message("office.cedar", &misspelled);
    assert!(misspelled.contains("cedar policies office.cedar line 5, policy office_hours"), "{misspelled}");
    let nobody = message("b", "permit (principal == User::\"x\", action, resource);");
    assert!(nobody.contains("cedar policies b line 1, policy b:policy0"), "{nobody}");
    let unknown = message("c", "permit (principal, action == MLOps::Action::\"destroy\", resource);");
    assert!(unknown.contains("line 1, policy c:policy0") && unknown.contains("destroy"), "{unknown}");
    let number = message("d", "permit (principal, action, resource) when { context.hour == \"nine\" };");
    assert!(number.contains("line 1, policy d:policy0"), "{number}");
    let twice = message("e", ROLES);
    assert!(twice.contains("cedar policies e, policy"), "{twice}");
    let slots = message("f", "permit (principal == ?principal, action, resource);");
    assert!(slots.contains("template"), "{slots}");
}

#[test]
fn a_policy_that_fails_denies() {
    // 9_000_000_000_000_000_000 + the time overflows when it is evaluated.
    let text = r#"@id("overflows") forbid (principal, action, resource) when { context.unix_seconds + 9223372036854775000 > 0 };"#;
    let authorizer = CedarAuthorizer::builder().policies("o", text).build().unwrap();
    let root = Principal::new("root").with_role(Role::Admin);
    let error = authorizer.check(&root, Permission::Read, &Resource::model("m")).unwrap_err().to_string();
    assert!(error.contains("could not be evaluated"), "{error}");
}

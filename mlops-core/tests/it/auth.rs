//! Who may do what: the whole table, spelled out, for every authorizer of this crate.

use mlops_core::auth::{Authorizer, Grant, Permission, Principal, Resource, Role};

/// A change of any cell is a change of who may do what.
const TABLE: [(Permission, [bool; 5]); 9] = [
    //                             viewer contributor reviewer deployer admin
    (Permission::Read, [true, true, true, true, true]),
    (Permission::CommitData, [false, true, false, false, true]),
    (Permission::Track, [false, true, false, false, true]),
    (Permission::Register, [false, true, false, false, true]),
    (Permission::RequestPromotion, [false, true, false, false, true]),
    (Permission::Review, [false, false, true, false, true]),
    (Permission::MoveAlias, [false, false, false, true, true]),
    (Permission::Deploy, [false, false, false, true, true]),
    (Permission::Administer, [false, false, false, false, true]),
];

fn champion() -> Resource {
    Resource::alias("prices", "champion").in_project("fraud")
}

fn prices() -> Resource {
    Resource::model("prices").in_project("fraud")
}

/// Where a grant holds, and the resources that are asked about, in the order of the columns of `SCOPES`.
fn asked() -> [Resource; 12] {
    [
        champion(),
        Resource::alias("prices", "staging").in_project("fraud"),
        prices(),
        Resource::alias("prices2", "champion").in_project("fraud"),
        Resource::model("prices2").in_project("fraud"),
        Resource::dataset("prices").in_project("fraud"),
        Resource::deployment("prices").in_project("fraud"),
        Resource::project("fraud"),
        Resource::project("fraud2"),
        Resource::model("prices").in_project("fraud2"),
        Resource::alias("prices", "champion"),
        Resource::model("prices"),
    ]
}

fn scopes() -> [(&'static str, Option<Resource>, [bool; 12]); 6] {
    let (y, n) = (true, false);
    [
        //                  own model:         other model:    own project:                   elsewhere:
        //                  own    other
        //                  alias  alias  it   alias  it   dataset deployment it        other its model  no project
        ("everywhere", None, [y, y, y, y, y, y, y, y, y, y, y, y]),
        ("own project", Some(Resource::project("fraud")), [y, y, y, y, y, y, y, y, n, n, n, n]),
        ("own model", Some(prices()), [y, y, y, n, n, n, n, n, n, n, n, n]),
        ("own alias", Some(champion()), [y, n, n, n, n, n, n, n, n, n, n, n]),
        ("own model, no project", Some(Resource::model("prices")), [n, n, n, n, n, n, n, n, n, n, y, y]),
        ("other kind, same name", Some(Resource::experiment("fraud")), [n, n, n, n, n, n, n, n, n, n, n, n]),
    ]
}

/// Each role, each permission, each scope, each resource: 5 × 9 × 6 × 12 cells.
fn the_whole_table_holds(authorizer: &dyn Authorizer) {
    assert_eq!(TABLE.map(|(permission, _)| permission), Permission::ALL);
    let mut cells = 0;
    for (permission, row) in TABLE {
        for (role, granted) in Role::ALL.into_iter().zip(row) {
            for (scope, on, covered) in scopes() {
                let who = Principal { name: "p".into(), grants: vec![Grant { role, on }] };
                for (resource, covered) in asked().iter().zip(covered) {
                    let allowed = authorizer.check(&who, permission, resource).is_ok();
                    assert_eq!(allowed, granted && covered, "{role:?} {scope}: {permission:?} on {resource}");
                    cells += 1;
                }
            }
        }
        for resource in asked() {
            assert!(authorizer.check(&Principal::new("nobody"), permission, &resource).is_err());
        }
    }
    assert_eq!(cells, 5 * 9 * 6 * 12);
}

/// Grants add up, each on its own resource: none lends its role to another's.
fn grants_do_not_mix(authorizer: &dyn Authorizer) {
    let who = Principal::new("p").with_role(Role::Viewer).with_role_on(Role::Deployer, champion());
    let may = |permission, resource: &Resource| authorizer.check(&who, permission, resource).is_ok();
    assert!(may(Permission::Read, &prices()) && may(Permission::MoveAlias, &champion()));
    assert!(!may(Permission::MoveAlias, &prices()) && !may(Permission::Register, &champion()));
}

/// Names that look like paths, ids or quotes are names.
fn odd_names_do_not_reach_elsewhere(authorizer: &dyn Authorizer) {
    let odd = [
        "",
        "*",
        "fraud/model:prices",
        "prices/alias:champion",
        "%2F",
        "\"",
        "\\",
        "a\nb",
        "日本",
        "::",
        "..",
        "\u{0}",
    ];
    for (i, own) in odd.iter().enumerate() {
        let who = Principal::new(*own).with_role_on(Role::Admin, Resource::project(*own));
        for (j, other) in odd.iter().enumerate() {
            let asked = [
                Resource::project(*other),
                Resource::model("prices").in_project(*other),
                Resource::alias("prices", *own).in_project(*other),
            ];
            for resource in asked {
                let allowed = authorizer.check(&who, Permission::Administer, &resource).is_ok();
                assert_eq!(allowed, i == j, "{own:?}: {resource:?}");
            }
        }
        assert!(authorizer.check(&who, Permission::Read, &Resource::new("project:fraud/model", *own)).is_err());
    }
}

macro_rules! authorizer_suite {
    ($suite:ident, $authorizer:expr) => {
        mod $suite {
            #[test]
            fn the_whole_table_holds() {
                super::the_whole_table_holds(&$authorizer);
            }
            #[test]
            fn grants_do_not_mix() {
                super::grants_do_not_mix(&$authorizer);
            }
            #[test]
            fn odd_names_do_not_reach_elsewhere() {
                super::odd_names_do_not_reach_elsewhere(&$authorizer);
            }
        }
    };
}

authorizer_suite!(role_table, mlops_core::RoleTable);
authorizer_suite!(
    shared_role_table,
    std::sync::Arc::new(mlops_core::RoleTable) as std::sync::Arc<dyn mlops_core::Authorizer>
);
#[cfg(feature = "cedar")]
authorizer_suite!(cedar_default, mlops_core::auth::cedar::CedarAuthorizer::default());

#[test]
fn a_grant_reads_back_and_a_misspelled_one_is_refused() {
    let grant = Grant::on(Role::Deployer, champion());
    let text = serde_json::to_string(&grant).unwrap();
    assert_eq!(serde_json::from_str::<Grant>(&text).unwrap(), grant);
    assert_eq!(grant.to_string(), "deployer on alias champion in model prices in project fraud");
    let old = r#"{"role":"viewer","on":{"kind":"model","name":"prices"}}"#;
    assert_eq!(serde_json::from_str::<Grant>(old).unwrap(), Grant::on(Role::Viewer, Resource::model("prices")));
    for bad in [
        r#"{"role":"admin","On":{"kind":"model","name":"m"}}"#,
        r#"{"role":"admin","on":{"kind":"m","name":"m","within":null}}"#,
    ] {
        assert!(serde_json::from_str::<Grant>(bad).is_err(), "{bad}");
    }
}

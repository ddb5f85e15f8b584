//! Who may do what: principals, roles, permissions, and the table that joins them.
//!
//! ```
//! use mlops_core::auth::{Authorizer, Permission, Principal, Resource, Role, RoleTable};
//! let ana = Principal::new("ana").with_role(Role::Contributor);
//! let model = Resource::model("prices");
//! assert!(RoleTable.check(&ana, Permission::Register, &model).is_ok());
//! let denied = RoleTable.check(&ana, Permission::MoveAlias, &model).unwrap_err();
//! assert_eq!(denied.to_string(), "ana may not move alias on model prices: needs a role that grants it (deployer or admin)");
//! ```

use std::fmt::{self, Debug};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// What somebody does here. Roles do not include each other; give a principal as many as it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Role {
    /// Reads everything, changes nothing.
    Viewer,
    /// Commits data, tracks runs, registers versions, asks for promotions.
    Contributor,
    /// Approves or rejects what others ask for.
    Reviewer,
    /// Moves aliases that may move, and changes traffic.
    Deployer,
    /// Everything, policies included.
    Admin,
}

impl Role {
    /// All roles, weakest first.
    pub const ALL: [Self; 5] = [Self::Viewer, Self::Contributor, Self::Reviewer, Self::Deployer, Self::Admin];

    /// Whether the built-in table gives this role that permission.
    #[must_use]
    pub fn grants(self, permission: Permission) -> bool {
        use Permission as P;
        match self {
            Self::Viewer => permission == P::Read,
            Self::Contributor => {
                matches!(permission, P::Read | P::CommitData | P::Track | P::Register | P::RequestPromotion)
            }
            Self::Reviewer => matches!(permission, P::Read | P::Review),
            Self::Deployer => matches!(permission, P::Read | P::MoveAlias | P::Deploy),
            Self::Admin => true,
        }
    }

    /// The role's name: `viewer`, `contributor`, `reviewer`, `deployer`, `admin`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Contributor => "contributor",
            Self::Reviewer => "reviewer",
            Self::Deployer => "deployer",
            Self::Admin => "admin",
        }
    }
}

/// One kind of act.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Permission {
    /// Look at anything.
    Read,
    /// Commit a dataset version.
    CommitData,
    /// Create experiments and runs, log to them.
    Track,
    /// Create models and versions.
    Register,
    /// Ask for an alias to move.
    RequestPromotion,
    /// Approve or reject such a request.
    Review,
    /// Carry the move out.
    MoveAlias,
    /// Change what a deployment serves and to whom.
    Deploy,
    /// Set policies and remove things.
    Administer,
}

impl Permission {
    /// All permissions.
    pub const ALL: [Self; 9] = [
        Self::Read,
        Self::CommitData,
        Self::Track,
        Self::Register,
        Self::RequestPromotion,
        Self::Review,
        Self::MoveAlias,
        Self::Deploy,
        Self::Administer,
    ];

    /// The permission in words, as error messages say it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::CommitData => "commit data",
            Self::Track => "track runs",
            Self::Register => "register",
            Self::RequestPromotion => "request promotion",
            Self::Review => "review",
            Self::MoveAlias => "move alias",
            Self::Deploy => "deploy",
            Self::Administer => "administer",
        }
    }
}

/// What an act is done to: a kind and a name, `model prices`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Resource {
    /// The kind: `dataset`, `experiment`, `model`, `deployment`.
    pub kind: String,
    /// The name within the kind.
    pub name: String,
}

impl Resource {
    /// A resource of any kind.
    pub fn new(kind: impl Into<String>, name: impl Into<String>) -> Self {
        Self { kind: kind.into(), name: name.into() }
    }

    /// A registered model.
    pub fn model(name: impl Into<String>) -> Self {
        Self::new("model", name)
    }

    /// An experiment.
    pub fn experiment(name: impl Into<String>) -> Self {
        Self::new("experiment", name)
    }

    /// A dataset.
    pub fn dataset(name: impl Into<String>) -> Self {
        Self::new("dataset", name)
    }

    /// A deployment.
    pub fn deployment(name: impl Into<String>) -> Self {
        Self::new("deployment", name)
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

/// A role, on everything or on one resource.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// The role.
    pub role: Role,
    /// The one resource it holds on; on everything when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on: Option<Resource>,
}

/// Somebody who acts: a person, a service, or a policy that acts by itself.
///
/// How they proved who they are is the caller's business; this is what was proved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Principal {
    /// The name that the audit log keeps.
    pub name: String,
    /// What they may do.
    pub grants: Vec<Grant>,
}

impl Principal {
    /// A principal without any role yet: it may do nothing.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), grants: Vec::new() }
    }

    /// Adds a role on everything.
    #[must_use]
    pub fn with_role(mut self, role: Role) -> Self {
        self.grants.push(Grant { role, on: None });
        self
    }

    /// Adds a role on one resource.
    #[must_use]
    pub fn with_role_on(mut self, role: Role, resource: Resource) -> Self {
        self.grants.push(Grant { role, on: Some(resource) });
        self
    }

    /// The roles that hold on `resource`.
    pub fn roles_on<'a>(&'a self, resource: &'a Resource) -> impl Iterator<Item = Role> + 'a {
        self.grants.iter().filter(move |g| g.on.as_ref().is_none_or(|on| on == resource)).map(|g| g.role)
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// Decides whether a principal may act.
///
/// # Contract
/// - **Deny by default.** What nothing grants is [`Error::PermissionDenied`].
/// - **Pure.** Same question, same answer, until the implementation's own rules change; it neither blocks nor fails
///   for any other reason.
pub trait Authorizer: Debug + Send + Sync + 'static {
    /// `Ok` if `principal` may do `permission` on `resource`.
    ///
    /// # Errors
    /// [`Error::PermissionDenied`], naming the roles that would do.
    fn check(&self, principal: &Principal, permission: Permission, resource: &Resource) -> Result<()>;
}

impl<A: Authorizer + ?Sized> Authorizer for Arc<A> {
    fn check(&self, principal: &Principal, permission: Permission, resource: &Resource) -> Result<()> {
        (**self).check(principal, permission, resource)
    }
}

/// The built-in table: [`Role::grants`].
#[derive(Clone, Copy, Debug, Default)]
pub struct RoleTable;

impl Authorizer for RoleTable {
    fn check(&self, principal: &Principal, permission: Permission, resource: &Resource) -> Result<()> {
        if principal.roles_on(resource).any(|role| role.grants(permission)) {
            return Ok(());
        }
        let enough: Vec<&str> = Role::ALL.iter().filter(|r| r.grants(permission)).map(|r| r.as_str()).collect();
        Err(Error::PermissionDenied {
            principal: principal.name.clone(),
            permission: permission.as_str(),
            resource: resource.to_string(),
            remedy: enough.join(" or "),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The whole table, spelled out: a change of any cell is a change of who may do what.
    #[test]
    fn every_role_by_every_permission() {
        let table = [
            //                            viewer contributor reviewer deployer admin
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
        assert_eq!(table.len(), Permission::ALL.len());
        let own = Resource::model("own");
        let other = Resource::model("other");
        for (permission, row) in table {
            for (role, expected) in Role::ALL.into_iter().zip(row) {
                let everywhere = Principal::new("p").with_role(role);
                let scoped = Principal::new("p").with_role_on(role, own.clone());
                assert_eq!(RoleTable.check(&everywhere, permission, &own).is_ok(), expected, "{role:?} {permission:?}");
                assert_eq!(RoleTable.check(&scoped, permission, &own).is_ok(), expected, "{role:?} {permission:?}");
                assert!(RoleTable.check(&scoped, permission, &other).is_err(), "{role:?} {permission:?} leaks");
            }
        }
    }

    #[test]
    fn nobody_may_do_anything() {
        for permission in Permission::ALL {
            assert!(RoleTable.check(&Principal::new("x"), permission, &Resource::model("m")).is_err());
        }
    }
}

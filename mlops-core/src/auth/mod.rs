//! Who may do what: principals, roles, permissions, and the table that joins them.
//!
//! ```
//! use mlops_core::auth::{Authorizer, Permission, Principal, Resource, Role, RoleTable};
//! let ana = Principal::new("ana").with_role(Role::Contributor);
//! let model = Resource::model("prices");
//! assert!(RoleTable.check(&ana, Permission::Register, &model).is_ok());
//! let denied = RoleTable.check(&ana, Permission::MoveAlias, &model).unwrap_err();
//! assert_eq!(denied.to_string(), "ana may not move alias on model prices: needs a role that grants it (deployer or admin)");
//!
//! // A grant holds on its resource and on all that is in it, and nowhere else.
//! let dan = Principal::new("dan").with_role_on(Role::Deployer, Resource::alias("prices", "staging"));
//! assert!(RoleTable.check(&dan, Permission::MoveAlias, &Resource::alias("prices", "staging")).is_ok());
//! assert!(RoleTable.check(&dan, Permission::MoveAlias, &Resource::alias("prices", "champion")).is_err());
//! ```
//!
//! # Rules
//! - **Deny by default:** what no grant covers is denied, with the roles that would do.
//! - **Scopes** are compared whole, part by part: a project covers its models, datasets, experiments and deployments, a
//!   model its aliases. A resource that names no project is in none, and a grant on it holds in none.
#![cfg_attr(feature = "cedar", doc = "- **Policies** instead of the table: [`cedar::CedarAuthorizer`].")]
#![cfg_attr(not(feature = "cedar"), doc = "- **Policies** instead of the table: feature `cedar`.")]
//! - **Proof of who somebody is,** at the edges ([`Authenticator`]): opaque tokens ([`token`]) or
#![cfg_attr(feature = "jwt", doc = "  those of an identity provider ([`jwt`]).")]
#![cfg_attr(not(feature = "jwt"), doc = "  those of an identity provider (feature `jwt`).")]

mod authenticator;
#[cfg(feature = "cedar")]
#[cfg_attr(docsrs, doc(cfg(feature = "cedar")))]
pub mod cedar;
#[cfg(feature = "jwt")]
#[cfg_attr(docsrs, doc(cfg(feature = "jwt")))]
pub mod jwt;
pub mod token;

pub use self::authenticator::{AnyOf, Authenticator, Credential, FixedPrincipal};

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

/// What an act is done to: a kind and a name, within another or on its own. `alias champion in model prices`.
///
/// ```
/// use mlops_core::Resource;
/// let alias = Resource::alias("prices", "champion").in_project("fraud");
/// assert_eq!(alias.to_string(), "alias champion in model prices in project fraud");
/// assert!(Resource::project("fraud").covers(&alias));
/// assert!(Resource::model("prices").in_project("fraud").covers(&alias));
/// assert!(!Resource::model("prices").covers(&alias)); // that one is in no project
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resource {
    /// The kind: `project`, `dataset`, `experiment`, `model`, `alias`, `stage`, `deployment`, `registry`.
    pub kind: String,
    /// The name within the kind and what it is in.
    pub name: String,
    /// What it is in: a model's project, an alias's model.
    #[serde(rename = "in", default, skip_serializing_if = "Option::is_none")]
    pub within: Option<Box<Resource>>,
}

impl Resource {
    /// A resource of any kind, in nothing.
    pub fn new(kind: impl Into<String>, name: impl Into<String>) -> Self {
        Self { kind: kind.into(), name: name.into(), within: None }
    }

    /// A project: what holds all the others.
    pub fn project(name: impl Into<String>) -> Self {
        Self::new("project", name)
    }

    /// A registered model.
    pub fn model(name: impl Into<String>) -> Self {
        Self::new("model", name)
    }

    /// An alias of a model.
    pub fn alias(model: impl Into<String>, alias: impl Into<String>) -> Self {
        Self::new("alias", alias).within(Self::model(model))
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

    /// Puts it, with all that it is in, into `whole`.
    #[must_use]
    pub fn within(mut self, whole: Self) -> Self {
        let mut outermost = &mut self;
        while let Some(ref mut next) = outermost.within {
            outermost = next;
        }
        outermost.within = Some(Box::new(whole));
        self
    }

    /// Puts it, with all that it is in, into that project.
    #[must_use]
    pub fn in_project(self, project: impl Into<String>) -> Self {
        self.within(Self::project(project))
    }

    /// It, then what it is in, outwards.
    pub fn path(&self) -> impl Iterator<Item = &Self> {
        std::iter::successors(Some(self), |resource| resource.within.as_deref())
    }

    /// Whether `other` is this resource or is in it.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        other.path().any(|part| part == self)
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)?;
        self.path().skip(1).try_for_each(|whole| write!(f, " in {} {}", whole.kind, whole.name))
    }
}

/// A role, on everything or on one resource and what is in it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)] // a misspelled `on` would grant everything
pub struct Grant {
    /// The role.
    pub role: Role,
    /// The resource it holds on, with what is in that; on everything when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on: Option<Resource>,
}

impl Grant {
    /// A role on everything.
    #[must_use]
    pub fn everywhere(role: Role) -> Self {
        Self { role, on: None }
    }

    /// A role on one resource and what is in it.
    #[must_use]
    pub fn on(role: Role, resource: Resource) -> Self {
        Self { role, on: Some(resource) }
    }

    /// Whether it holds on `resource`.
    #[must_use]
    pub fn covers(&self, resource: &Resource) -> bool {
        self.on.as_ref().is_none_or(|on| on.covers(resource))
    }
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.on {
            Some(on) => write!(f, "{} on {on}", self.role.as_str()),
            None => write!(f, "{} everywhere", self.role.as_str()),
        }
    }
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
        self.grants.push(Grant::everywhere(role));
        self
    }

    /// Adds a role on one resource and what is in it.
    #[must_use]
    pub fn with_role_on(mut self, role: Role, resource: Resource) -> Self {
        self.grants.push(Grant::on(role, resource));
        self
    }

    /// The roles that hold on `resource`.
    pub fn roles_on<'a>(&'a self, resource: &'a Resource) -> impl Iterator<Item = Role> + 'a {
        self.grants.iter().filter(move |g| g.covers(resource)).map(|g| g.role)
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

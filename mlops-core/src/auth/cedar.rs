//! Permissions by [Cedar](https://www.cedarpolicy.com) policies: the role table as text, and rules of your own.
//!
//! ```
//! use mlops_core::auth::cedar::CedarAuthorizer;
//! use mlops_core::{Authorizer, Permission, Principal, Resource, Role};
//! let authorizer = CedarAuthorizer::builder()
//!     .policies("freeze.cedar", r#"
//!         @id("no_champion_on_sundays")
//!         forbid (principal, action == MLOps::Action::"move_alias", resource)
//!         when { resource.name == "champion" && context.weekday == 7 }
//!         unless { principal == MLOps::Principal::"oncall" };"#)
//!     .clock(mlops_core::ManualClock::at("2026-11-22T12:00:00Z".parse().unwrap())) // a Sunday
//!     .build()?;
//! let dan = Principal::new("dan").with_role(Role::Deployer);
//! let champion = Resource::alias("prices", "champion");
//! let denied = authorizer.check(&dan, Permission::MoveAlias, &champion).unwrap_err().to_string();
//! assert!(denied.contains("policy no_champion_on_sundays forbids it"), "{denied}");
//! assert!(authorizer.check(&dan, Permission::MoveAlias, &Resource::alias("prices", "staging")).is_ok());
//! # Ok::<(), mlops_core::Error>(())
//! ```
//!
//! # Rules
//! - Policies are checked against [`SCHEMA`] when they are loaded, strictly: a misspelled attribute is an error then, and
//!   not a rule that never applies.
//! - A `forbid` wins over every `permit`. A policy that fails when it is evaluated denies.
//! - The answer depends on the clock where a policy asks for `context`, and on nothing else outside the question.

use std::collections::{HashMap, HashSet};
use std::str::FromStr as _;
use std::sync::Arc;

use cedar_policy::{
    Authorizer as Engine, Context, Decision, Entities, Entity, EntityId, EntityTypeName, EntityUid, PolicyId,
    PolicySet, Request, RestrictedExpression, Schema, ValidationMode, Validator,
};
use chrono::{Datelike as _, Timelike as _};
use miette::Diagnostic;

use super::{Authorizer, Permission, Principal, Resource, Role};
use crate::{Clock, Error, Result, SystemClock};

/// What policies may speak of.
pub const SCHEMA: &str = include_str!("schema.cedarschema");

/// The role table as policies, loaded unless [`CedarBuilder::without_roles`] says otherwise.
pub const ROLES: &str = include_str!("roles.cedar");

/// Decides by Cedar policies: by default those of the role table. Clones share them.
#[derive(Clone, Debug)]
pub struct CedarAuthorizer(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    engine: Engine,
    schema: Schema,
    policies: PolicySet,
    principal: EntityTypeName,
    resource: EntityTypeName,
    action: EntityTypeName,
    clock: Arc<dyn Clock>,
}

impl Default for CedarAuthorizer {
    fn default() -> Self {
        Self::builder().build().expect("the policies and the schema of this crate fit each other")
    }
}

impl CedarAuthorizer {
    /// Starts an authorizer with the policies of the role table.
    pub fn builder() -> CedarBuilder {
        CedarBuilder { texts: vec![("roles.cedar".to_owned(), ROLES.to_owned())], clock: Arc::new(SystemClock) }
    }
}

/// Loads policies.
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct CedarBuilder {
    texts: Vec<(String, String)>,
    clock: Arc<dyn Clock>,
}

impl CedarBuilder {
    /// Leaves out the role table: then a grant means what your policies make of it.
    pub fn without_roles(mut self) -> Self {
        self.texts.retain(|(name, _)| name != "roles.cedar");
        self
    }

    /// Adds policies in Cedar's syntax. Errors speak of them by `name`, such as that of their file; give each an `@id`.
    pub fn policies(mut self, name: impl Into<String>, text: impl Into<String>) -> Self {
        self.texts.push((name.into(), text.into()));
        self
    }

    /// What tells the time that policies see (default [`SystemClock`]).
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Reads and validates all policies.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] naming the text, the line and, where the text can be read, the policy.
    pub fn build(self) -> Result<CedarAuthorizer> {
        let internal = |error: String| Error::invalid("cedar schema", error);
        let (schema, _) = Schema::from_cedarschema_str(SCHEMA).map_err(|e| internal(e.to_string()))?;
        let validator = Validator::new(schema.clone());
        let mut policies = PolicySet::new();
        for (name, text) in &self.texts {
            add(&mut policies, &validator, name, text)?;
        }
        let named = |name: &str| EntityTypeName::from_str(name).map_err(|e| internal(e.to_string()));
        let (principal, resource) = (named("MLOps::Principal")?, named("MLOps::Resource")?);
        let (action, engine, clock) = (named("MLOps::Action")?, Engine::new(), self.clock);
        Ok(CedarAuthorizer(Arc::new(Inner { engine, schema, policies, principal, resource, action, clock })))
    }
}

/// Adds the policies of one text under their `@id`, else under the text's name and their place in it.
fn add(policies: &mut PolicySet, validator: &Validator, name: &str, text: &str) -> Result<()> {
    let refuse = |policy: Option<&str>, line: Option<usize>, reason: String| {
        let policy = policy.map(|policy| format!(", policy {policy}")).unwrap_or_default();
        let line = line.map(|line| format!(" line {line}")).unwrap_or_default();
        Err(Error::invalid(format!("cedar policies {name}{line}{policy}"), reason))
    };
    let parsed = match PolicySet::from_str(text) {
        Ok(parsed) => parsed,
        Err(errors) => return refuse(None, line_of(text, &errors), errors.to_string()),
    };
    if let Some(template) = parsed.templates().next() {
        return refuse(Some(template.id().as_ref()), None, "a template: write it out, without slots".to_owned());
    }
    let called = |id: &PolicyId| match parsed.annotation(id, "id") {
        Some(given) if !given.is_empty() => given.to_owned(),
        _ => format!("{name}:{id}"),
    };
    if let Some(error) = validator.validate(&parsed, ValidationMode::Strict).validation_errors().next() {
        return refuse(Some(&called(error.policy_id())), line_of(text, error), error.to_string());
    }
    for policy in parsed.policies() {
        let id = called(policy.id());
        if let Err(error) = policies.add(policy.new_id(PolicyId::new(&id))) {
            return refuse(Some(&id), None, error.to_string());
        }
    }
    Ok(())
}

/// The line, from 1, that a diagnostic points at first.
fn line_of(text: &str, error: &dyn Diagnostic) -> Option<usize> {
    let start = error.labels()?.next()?.offset();
    Some(1 + text.bytes().take(start).filter(|byte| *byte == b'\n').count())
}

/// The action's name in policies: that of the permission in JSON.
fn action(permission: Permission) -> &'static str {
    match permission {
        Permission::Read => "read",
        Permission::CommitData => "commit_data",
        Permission::Track => "track",
        Permission::Register => "register",
        Permission::RequestPromotion => "request_promotion",
        Permission::Review => "review",
        Permission::MoveAlias => "move_alias",
        Permission::Deploy => "deploy",
        Permission::Administer => "administer",
    }
}

/// The root of all resources. Every other id has a ':'.
const EVERYWHERE: &str = "everywhere";

/// The path from the outside inwards, so that no two resources have one id.
fn path_id(resource: &Resource) -> String {
    let plain = |text: &str| text.replace('%', "%25").replace('/', "%2F").replace(':', "%3A");
    let mut parts: Vec<String> =
        resource.path().map(|part| format!("{}:{}", plain(&part.kind), plain(&part.name))).collect();
    parts.reverse();
    parts.join("/")
}

impl Inner {
    fn uid(&self, of: &EntityTypeName, id: &str) -> EntityUid {
        EntityUid::from_type_name_and_id(of.clone(), EntityId::new(id))
    }

    /// Whether it is allowed, and if not which policies forbid it.
    fn decide(
        &self,
        who: &Principal,
        permission: Permission,
        resource: &Resource,
    ) -> Result<(bool, Vec<String>), Box<dyn std::error::Error + Send + Sync>> {
        let text = |text: &str| RestrictedExpression::new_string(text.to_owned());
        let described =
            |kind: &str, name: &str| HashMap::from([("kind".to_owned(), text(kind)), ("name".to_owned(), text(name))]);
        let everywhere = self.uid(&self.resource, EVERYWHERE);
        let mut entities = vec![Entity::new(everywhere.clone(), described(EVERYWHERE, ""), HashSet::new())?];
        for part in resource.path() {
            let whole = match &part.within {
                Some(whole) => self.uid(&self.resource, &path_id(whole)),
                None => everywhere.clone(),
            };
            let part_uid = self.uid(&self.resource, &path_id(part));
            entities.push(Entity::new(part_uid, described(&part.kind, &part.name), HashSet::from([whole]))?);
        }
        let granted = |role: Role| {
            let on = who.grants.iter().filter(|grant| grant.role == role).map(|grant| match &grant.on {
                Some(on) => self.uid(&self.resource, &path_id(on)),
                None => everywhere.clone(),
            });
            RestrictedExpression::new_set(on.map(RestrictedExpression::new_entity_uid))
        };
        let roles = Role::ALL.into_iter().map(|role| (role.as_str().to_owned(), granted(role))).collect();
        let principal = self.uid(&self.principal, &who.name);
        entities.push(Entity::new(principal.clone(), roles, HashSet::new())?);
        let entities = Entities::from_entities(entities, Some(&self.schema))?;

        let now = self.clock.now();
        let context = Context::from_pairs([
            ("hour".to_owned(), RestrictedExpression::new_long(i64::from(now.hour()))),
            ("weekday".to_owned(), RestrictedExpression::new_long(i64::from(now.weekday().number_from_monday()))),
            ("unix_seconds".to_owned(), RestrictedExpression::new_long(now.timestamp())),
        ])?;
        let action = self.uid(&self.action, action(permission));
        let resource = self.uid(&self.resource, &path_id(resource));
        let request = Request::new(principal, action, resource, context, Some(&self.schema))?;
        let response = self.engine.is_authorized(&request, &self.policies, &entities);
        // A `forbid` that could not be evaluated would be skipped.
        if let Some(error) = response.diagnostics().errors().next() {
            return Err(error.to_string().into());
        }
        let allowed = response.decision() == Decision::Allow;
        Ok((allowed, response.diagnostics().reason().map(ToString::to_string).collect()))
    }
}

impl Authorizer for CedarAuthorizer {
    fn check(&self, principal: &Principal, permission: Permission, resource: &Resource) -> Result<()> {
        let remedy = match self.0.decide(principal, permission, resource) {
            Ok((true, _)) => return Ok(()),
            Ok((false, forbidden)) if forbidden.is_empty() => "no policy permits it".to_owned(),
            Ok((false, forbidden)) => format!("policy {} forbids it", forbidden.join(" and ")),
            Err(error) => format!("a policy could not be evaluated: {error}"),
        };
        let (principal, permission, resource) = (principal.name.clone(), permission.as_str(), resource.to_string());
        Err(Error::PermissionDenied { principal, permission, resource, remedy })
    }
}

//! Policies and stage tables as rows, and whether a request meets its policy.

use std::time::Duration;

use mlops_core::{Error as CoreError, Permission, Principal, Resource, Role, Timestamp};
use serde_json::json;

use super::db::{self, Backend as _, Conn};
use super::models::find_model;
use super::{SqlRegistry, audit};
use crate::registry::{
    AliasPolicy, Approval, EventKind, EvidenceRule, Promotion, StageTable, Target, counted, list, span,
};
use crate::{Error, Result, check};

/// Most names in each list of a policy.
const MOST_NAMES: usize = 1_000;

pub(super) async fn find_policy(conn: &mut Conn, model: &str, target: &Target) -> Result<Option<AliasPolicy>> {
    let row: Option<String> = db::query("SELECT content FROM policies WHERE model = $1 AND target = $2 AND name = $3")
        .bind(model)
        .bind(target.kind())
        .bind(target.name())
        .fetch_optional(conn)
        .await
        .during("read policy of", model)?;
    Ok(row.as_deref().map(db::from_json).transpose()?)
}

/// The stages of a model, else those of all without their own, else MLflow's.
pub(super) async fn find_stages(conn: &mut Conn, model: Option<&str>) -> Result<StageTable> {
    let row: Option<String> =
        db::query("SELECT content FROM stage_tables WHERE model = $1 OR model = '' ORDER BY model DESC LIMIT 1")
            .bind(model.unwrap_or_default())
            .fetch_optional(conn)
            .await
            .during("read stages of", model.unwrap_or("the registry"))?;
    Ok(row.as_deref().map(db::from_json).transpose()?.unwrap_or_default())
}

/// A stage as its table writes it.
pub(super) fn known_stage(table: &StageTable, stage: &str) -> Result<String> {
    check::text("stage", stage, check::NAME)?;
    let unknown = || CoreError::invalid("stage", format!("{stage:?} is not one of {}", table.stages.join(", ")));
    Ok(table.find(stage).ok_or_else(unknown)?.to_owned())
}

/// Whether the table has that move.
pub(super) fn check_move(table: &StageTable, promotion: &Promotion, from: &str, to: &str) -> Result<()> {
    if table.allows(from, to) {
        return Ok(());
    }
    let targets = table.targets(from);
    let may = if targets.is_empty() { "nowhere".to_owned() } else { format!("to {}", list(&targets, "or")) };
    let Promotion { model, version, .. } = promotion;
    let reason = format!("{model} v{version} may not go from {from} to {to}; from {from} the table lets it go {may}");
    Err(CoreError::invalid("stage", reason).into())
}

fn check_names(policy: &AliasPolicy) -> Result<()> {
    let AliasPolicy { approvals, reviewers, roles, checks, .. } = policy;
    for (what, names) in [("reviewers", reviewers), ("checks", checks)] {
        if names.len() > MOST_NAMES {
            return Err(CoreError::invalid(what, format!("{} names; at most {MOST_NAMES}", names.len())).into());
        }
        names.iter().try_for_each(|name| check::name(what, name))?;
    }
    if roles.is_empty() && !reviewers.is_empty() && *approvals as usize > reviewers.len() {
        let reason =
            format!("{approvals} of {} reviewers can never approve; name more or ask for less", reviewers.len());
        return Err(CoreError::invalid("approvals", reason).into());
    }
    Ok(())
}

/// How old something of `then` is, if that is more than `most`.
fn too_old(then: Timestamp, now: Timestamp, most: Option<Duration>) -> Option<Duration> {
    let most = most?;
    let age = (now - then).to_std().unwrap_or_default();
    (age > most).then_some(most)
}

/// Why an approval does not count at that moment.
fn why_ignored(policy: &AliasPolicy, approval: &Approval, now: Timestamp) -> Option<String> {
    let AliasPolicy { reviewers, roles, approvals_max_age, .. } = policy;
    let anybody = reviewers.is_empty() && roles.is_empty();
    if !anybody && !reviewers.contains(&approval.by) && !approval.roles.iter().any(|role| roles.contains(role)) {
        return Some(format!("that of {} does not count", approval.by));
    }
    let most = too_old(approval.at, now, *approvals_max_age)?;
    Some(format!("that of {} is older than {}: approve again", approval.by, span(most)))
}

/// Whether an approval is one that its giver may renew.
pub(super) fn has_expired(policy: &AliasPolicy, approval: &Approval, now: Timestamp) -> bool {
    too_old(approval.at, now, policy.approvals_max_age).is_some()
}

/// Whether a request may be carried out at that moment. `author` is who registered the version.
pub(super) fn check_policy(policy: &AliasPolicy, promotion: &Promotion, author: &str, now: Timestamp) -> Result<()> {
    let (model, version, target) = (promotion.model.clone(), promotion.version, promotion.target.clone());
    let mut ignored = Vec::new();
    let mut given: Vec<&str> = Vec::new();
    for approval in &promotion.approvals {
        match why_ignored(policy, approval, now) {
            Some(why) => ignored.push(why),
            None => given.push(&approval.by),
        }
    }
    let found = u32::try_from(given.len()).unwrap_or(u32::MAX);
    if found < policy.approvals {
        let may =
            |name: &&String| **name != author && **name != promotion.requested_by && !given.contains(&name.as_str());
        let from = if policy.reviewers.is_empty() && policy.roles.is_empty() {
            let roles: Vec<&str> =
                Role::ALL.iter().filter(|r| r.grants(Permission::Review)).map(|r| r.as_str()).collect();
            format!("a {}", roles.join(" or "))
        } else {
            match counted(policy.reviewers.iter().filter(may), &policy.roles) {
                nobody if nobody.is_empty() => "nobody who is left: name more reviewers".to_owned(),
                names => names,
            }
        };
        let (promotion, needed) = (promotion.id, policy.approvals);
        let (from, ignored) = (from.into(), ignored.into());
        return Err(Error::ApprovalMissing { promotion, model, version, target, found, needed, from, ignored });
    }
    match lacking_evidence(policy, promotion, now) {
        Some(reason) => Err(Error::EvidenceMissing { model, version, target, reason }),
        None => Ok(()),
    }
}

fn lacking_evidence(policy: &AliasPolicy, promotion: &Promotion, now: Timestamp) -> Option<String> {
    if !policy.asks_for_evidence() {
        return None;
    }
    let evidence = &promotion.evidence;
    let missing: Vec<&str> =
        policy.checks.iter().filter(|name| !evidence.iter().any(|f| f.check == **name)).map(String::as_str).collect();
    if !missing.is_empty() {
        return Some(format!("its policy asks for {}, and the request does not have it", list(&missing, "and")));
    }
    let asked = |check: &String| policy.evidence == EvidenceRule::AllPass || policy.checks.contains(check);
    if evidence.is_empty() {
        return Some("its policy asks for checks that passed, and the request has none".to_owned());
    }
    let open = evidence.iter().filter(|f| asked(&f.check) && !f.verdict.is_pass());
    let open: Vec<String> = open.map(|f| format!("{} ({})", f.check, f.verdict)).collect();
    if !open.is_empty() {
        let which = if policy.evidence == EvidenceRule::AllPass { "every check passes" } else { "its checks pass" };
        return Some(format!("its policy asks that {which}, and these did not: {}", open.join(", ")));
    }
    let most = too_old(promotion.requested_at, now, policy.evidence_max_age)?;
    Some(format!("its checks were handed in more than {} ago; ask again with new ones", span(most)))
}

impl SqlRegistry {
    pub(super) async fn put_policy(
        &self,
        who: &Principal,
        model: &str,
        target: Target,
        policy: AliasPolicy,
    ) -> Result<()> {
        if let Target::Alias(alias) = &target {
            check::alias(alias)?;
        }
        check_names(&policy)?;
        self.allow(who, Permission::Administer, target.resource(model))?;
        transaction!(self.write("set policy of", model), |writing| {
            find_model(&mut writing.tx, model).await?;
            let mut target = target.clone();
            if let Target::Stage(stage) = &mut target {
                *stage = known_stage(&find_stages(&mut writing.tx, Some(model)).await?, stage)?;
            }
            let before = find_policy(&mut writing.tx, model, &target).await?;
            if before.as_ref() == Some(&policy) {
                return Ok(());
            }
            db::query(
                "INSERT INTO policies (model, target, name, content) VALUES ($1, $2, $3, $4) \
                 ON CONFLICT (model, target, name) DO UPDATE SET content = excluded.content",
            )
            .bind(model)
            .bind(target.kind())
            .bind(target.name())
            .bind(db::json(&policy)?)
            .execute(&mut writing.tx)
            .await
            .during("set policy of", model)?;
            let resource = match &target {
                Target::Alias(alias) => format!("model {model}@{alias}"),
                Target::Stage(stage) => format!("stage {stage} of model {model}"),
            };
            let audited = writing.event(who, "policy.set", resource);
            audit::append(&mut writing.tx, audited.change(json!(before), json!(policy))).await?;
            let details = [(target.kind(), target.name()), ("policy", &*policy.to_string())];
            writing.tell_of(EventKind::PolicySet, model, None, &details).await
        })
    }

    pub(super) async fn read_policy(&self, model: &str, target: Target) -> Result<AliasPolicy> {
        let mut tx = self.read("read policy of", model).await?;
        find_model(&mut tx, model).await?;
        let target = match target {
            Target::Stage(stage) => Target::Stage(known_stage(&find_stages(&mut tx, Some(model)).await?, &stage)?),
            alias => alias,
        };
        Ok(find_policy(&mut tx, model, &target).await?.unwrap_or_default())
    }

    pub(super) async fn put_stages(&self, who: &Principal, model: Option<&str>, table: StageTable) -> Result<()> {
        table.check()?;
        let (key, shown) = (model.unwrap_or_default(), model.unwrap_or("the registry"));
        let resource = match model {
            Some(name) => Resource::model(name),
            None => Resource::new("registry", "stages"),
        };
        self.allow(who, Permission::Administer, resource)?;
        transaction!(self.write("set stages of", shown), |writing| {
            if let Some(name) = model {
                find_model(&mut writing.tx, name).await?;
            }
            let before: Option<String> = db::query("SELECT content FROM stage_tables WHERE model = $1")
                .bind(key)
                .fetch_optional(&mut writing.tx)
                .await
                .during("read stages of", shown)?;
            let before: Option<StageTable> = before.as_deref().map(db::from_json).transpose()?;
            if before.as_ref() == Some(&table) {
                return Ok(());
            }
            // Whom it concerns: one model, or all without a table of their own.
            let moved: Vec<(String, i64, String)> = db::query(
                "SELECT model, version, stage FROM versions WHERE deleted_at IS NULL AND stage_revision > 0 \
                 AND (model = $1 OR ($1 = '' AND model NOT IN (SELECT model FROM stage_tables)))",
            )
            .bind(key)
            .fetch_all(&mut writing.tx)
            .await
            .during("read stages of", shown)?;
            if let Some((name, version, stage)) = moved.iter().find(|(_, _, stage)| !table.stages.contains(stage)) {
                let reason = format!("{name} v{version} is in {stage}, which is not among them; move it first");
                return Err(CoreError::invalid("stages", reason).into());
            }
            db::query(
                "UPDATE versions SET stage = $2 WHERE stage_revision = 0 \
                 AND (model = $1 OR ($1 = '' AND model NOT IN (SELECT model FROM stage_tables)))",
            )
            .bind(key)
            .bind(table.first())
            .execute(&mut writing.tx)
            .await
            .during("set stages of", shown)?;
            db::query(
                "INSERT INTO stage_tables (model, content) VALUES ($1, $2) \
                 ON CONFLICT (model) DO UPDATE SET content = excluded.content",
            )
            .bind(key)
            .bind(db::json(&table)?)
            .execute(&mut writing.tx)
            .await
            .during("set stages of", shown)?;
            let resource = model.map_or_else(|| "registry".to_owned(), |name| format!("model {name}"));
            let audited = writing.event(who, "stages.set", resource);
            audit::append(&mut writing.tx, audited.change(json!(before), json!(table))).await?;
            writing.tell_of(EventKind::StagesSet, key, None, &[("stages", &table.to_string())]).await
        })
    }

    pub(super) async fn read_stages(&self, model: Option<&str>) -> Result<StageTable> {
        let mut tx = self.read("read stages of", model.unwrap_or("the registry")).await?;
        if let Some(name) = model {
            find_model(&mut tx, name).await?;
        }
        find_stages(&mut tx, model).await
    }
}

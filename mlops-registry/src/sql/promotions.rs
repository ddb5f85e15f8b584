//! Requests, approvals, moves: how an alias comes to point at a version.

use std::collections::HashMap;

use async_trait::async_trait;
use mlops_core::{Digest, Error as CoreError, Finding, Permission, Principal, PromotionId, Resource, Role, Timestamp};
use serde_json::{Value, json};

use super::db::{self, Backend as _, Conn};
use super::models::{find_alias, find_model, find_policy, find_version, tell};
use super::{SqlRegistry, Writing, audit};
use crate::registry::{
    Alias, AliasPolicy, Approval, Decision, Event, EventKind, EvidenceRule, Model, ModelRegistry, ModelVersion,
    NewModel, NewPromotion, NewVersion, Promotion, PromotionKind, PromotionState,
};
use crate::{Error, Result, check};

db::row! {
    struct Row {
        id: String,
        kind: String,
        model: String,
        version: i64,
        alias: String,
        state: String,
        requested_by: String,
        requested_at: i64,
        reason: String,
        evidence: String,
        content: String,
        seen_revision: i64,
        from_version: Option<i64>,
        decided_by: Option<String>,
        decided_at: Option<i64>,
        decision_reason: Option<String>,
        revision: Option<i64>,
        undo_to: Option<String>,
    }
}

impl Row {
    fn promotion(self, approvals: Vec<Approval>) -> Result<Promotion> {
        let decision = match (self.decided_by, self.decided_at) {
            (Some(by), Some(at)) => {
                Some(Decision { by, at: db::time(at), reason: self.decision_reason.unwrap_or_default() })
            }
            _ => None,
        };
        Ok(Promotion {
            id: db::from_text(&self.id)?,
            kind: db::from_word(&self.kind)?,
            model: self.model,
            version: db::number(self.version)?,
            alias: self.alias,
            state: db::from_word(&self.state)?,
            requested_by: self.requested_by,
            requested_at: db::time(self.requested_at),
            reason: self.reason,
            evidence: db::from_json(&self.evidence)?,
            seen_revision: db::number(self.seen_revision)?,
            from: self.from_version.map(db::number).transpose()?,
            approvals,
            decision,
            revision: self.revision.map(db::number).transpose()?,
        })
    }
}

async fn find_row(conn: &mut Conn, id: &str) -> Result<Option<Row>> {
    Ok(db::query("SELECT * FROM promotions WHERE id = $1")
        .bind(id)
        .fetch_optional(conn)
        .await
        .during("read promotion", id)?)
}

type ApprovalRow = (String, String, i64, String);

fn approval((_, by, at, comment): ApprovalRow) -> Approval {
    Approval { by, at: db::time(at), comment }
}

async fn with_approvals(conn: &mut Conn, row: Row) -> Result<Promotion> {
    let rows: Vec<ApprovalRow> = db::query(
        "SELECT promotion, approver, approved_at, comment FROM approvals WHERE promotion = $1 ORDER BY place",
    )
    .bind(&row.id)
    .fetch_all(conn)
    .await
    .during("read promotion", &row.id)?;
    row.promotion(rows.into_iter().map(approval).collect())
}

async fn find(conn: &mut Conn, id: PromotionId) -> Result<Promotion> {
    let row = find_row(conn, &id.to_string()).await?.ok_or_else(|| CoreError::not_found("promotion", id))?;
    with_approvals(conn, row).await
}

/// The promotion of that id if it is the same request, an error if it is another one.
async fn find_repeated(conn: &mut Conn, id: Option<PromotionId>, content: &str) -> Result<Option<Promotion>> {
    let Some(id) = id else { return Ok(None) };
    match find_row(conn, &id.to_string()).await? {
        None => Ok(None),
        Some(row) if row.content == content => Ok(Some(with_approvals(conn, row).await?)),
        Some(_) => Err(CoreError::AlreadyExists { what: "promotion", name: id.to_string() }.into()),
    }
}

/// Writes a request that is not decided yet.
async fn insert(conn: &mut Conn, promotion: &Promotion, content: &str) -> Result<()> {
    let id = promotion.id.to_string();
    let place = db::next_place(conn, "promotion").await?;
    db::query(
        "INSERT INTO promotions (id, place, kind, model, version, alias, state, requested_by, requested_at, reason, \
         evidence, content, seen_revision, from_version) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)",
    )
    .bind(&id)
    .bind(place)
    .bind(promotion.kind.as_str())
    .bind(&promotion.model)
    .bind(db::to_i64(promotion.version))
    .bind(&promotion.alias)
    .bind(promotion.state.as_str())
    .bind(&promotion.requested_by)
    .bind(promotion.requested_at.timestamp_micros())
    .bind(&promotion.reason)
    .bind(db::json(&promotion.evidence)?)
    .bind(content)
    .bind(db::to_i64(promotion.seen_revision))
    .bind(promotion.from.map(db::to_i64))
    .execute(conn)
    .await
    .during("request promotion", &id)?;
    Ok(())
}

/// Writes how a request ended, once: [`Error::Decided`] if it has ended already, whatever the caller read before.
async fn decide(conn: &mut Conn, promotion: &Promotion, undo_to: Option<&str>) -> Result<()> {
    let id = promotion.id.to_string();
    let decision = promotion.decision.as_ref();
    let done = db::query(
        "UPDATE promotions SET state = $1, decided_by = $2, decided_at = $3, decision_reason = $4, revision = $5, \
         undo_to = $6 WHERE id = $7 AND state = $8",
    )
    .bind(promotion.state.as_str())
    .bind(decision.map(|d| d.by.as_str()))
    .bind(decision.map(|d| d.at.timestamp_micros()))
    .bind(decision.map(|d| d.reason.as_str()))
    .bind(promotion.revision.map(db::to_i64))
    .bind(undo_to)
    .bind(&id)
    .bind(PromotionState::Requested.as_str())
    .execute(&mut *conn)
    .await
    .during("decide promotion", &id)?;
    if done == 1 {
        return Ok(());
    }
    let found = find(conn, promotion.id).await?;
    Err(Error::Decided { id: found.id, state: found.state })
}

/// Moves the promotion's alias from the revision it saw, or not at all.
async fn swap(conn: &mut Conn, promotion: &Promotion, at: Timestamp, standing: &str) -> Result<u64> {
    let Promotion { model, alias, seen_revision, .. } = promotion;
    let query = if *seen_revision == 0 {
        "INSERT INTO aliases (model, alias, version, revision, moved_at, promotion, standing) \
         VALUES ($1, $2, $3, $4 + 1, $5, $6, $7) ON CONFLICT (model, alias) DO NOTHING"
    } else {
        "UPDATE aliases SET version = $3, revision = $4 + 1, moved_at = $5, promotion = $6, standing = $7 \
         WHERE model = $1 AND alias = $2 AND revision = $4"
    };
    let done = db::query(query)
        .bind(model)
        .bind(alias)
        .bind(db::to_i64(promotion.version))
        .bind(db::to_i64(*seen_revision))
        .bind(at.timestamp_micros())
        .bind(promotion.id.to_string())
        .bind(standing)
        .execute(&mut *conn)
        .await
        .during("move alias of", model)?;
    if done == 1 {
        return Ok(seen_revision + 1);
    }
    let found = match find_alias(conn, model, alias).await? {
        Some(row) => {
            let alias = row.alias()?;
            format!("revision {} (v{})", alias.revision, alias.version)
        }
        None => "no alias".to_owned(),
    };
    let expected = match (seen_revision, promotion.from) {
        (revision, Some(from)) => format!("revision {revision} (v{from})"),
        (_, None) => "no alias".to_owned(),
    };
    Err(CoreError::Conflict { what: "alias", name: format!("{model}@{alias}"), expected, found }.into())
}

/// The evidence as it will read back.
fn check_evidence(evidence: &[Finding]) -> Result<()> {
    let refuse = |reason: String| Err(CoreError::invalid("evidence", reason).into());
    let (most, most_bytes) = check::EVIDENCE;
    if evidence.len() > most {
        return refuse(format!("{} findings; at most {most}", evidence.len()));
    }
    let text = db::json(&evidence)?;
    if text.len() > most_bytes {
        return refuse(format!("{} bytes as JSON; at most {most_bytes}", text.len()));
    }
    for finding in evidence {
        if serde_json::from_str::<Finding>(&db::json(finding)?).is_err() {
            return refuse(format!("finding {:?} has an interval that is not finite", finding.check));
        }
    }
    Ok(())
}

fn check_policy(policy: AliasPolicy, promotion: &Promotion) -> Result<()> {
    let (model, version, alias) = (promotion.model.clone(), promotion.version, promotion.alias.clone());
    let found = u32::try_from(promotion.approvals.len()).unwrap_or(u32::MAX);
    if found < policy.approvals {
        let roles: Vec<&str> = Role::ALL.iter().filter(|r| r.grants(Permission::Review)).map(|r| r.as_str()).collect();
        let from = format!("a {}", roles.join(" or "));
        return Err(Error::ApprovalMissing { model, version, alias, found, needed: policy.approvals, from });
    }
    let reason = match policy.evidence {
        EvidenceRule::None => return Ok(()),
        EvidenceRule::AllPass if promotion.evidence.is_empty() => {
            "its policy asks for checks that passed, and the request has none".to_owned()
        }
        EvidenceRule::AllPass => {
            let open = promotion.evidence.iter().filter(|f| !f.verdict.is_pass());
            let open: Vec<String> = open.map(|f| format!("{} ({})", f.check, f.verdict)).collect();
            if open.is_empty() {
                return Ok(());
            }
            format!("its policy asks that every check passes, and these did not: {}", open.join(", "))
        }
    };
    Err(Error::EvidenceMissing { model, version, alias, reason })
}

impl Promotion {
    /// What permissions are asked on.
    fn on(&self) -> Resource {
        Resource::alias(&self.model, &self.alias)
    }

    fn resource(&self) -> String {
        format!("model {}@{}", self.model, self.alias)
    }

    fn happened(&self, at: Timestamp, kind: EventKind) -> Event {
        Event {
            seq: 0,
            at,
            kind,
            model: self.model.clone(),
            version: Some(self.version),
            alias: Some(self.alias.clone()),
            revision: self.revision,
            promotion: Some(self.id),
        }
    }
}

impl Writing {
    /// Audits and tells what happened to a promotion.
    async fn record(
        &mut self,
        who: &Principal,
        promotion: &Promotion,
        (action, kind): (&str, EventKind),
        (before, after): (Value, Value),
        reason: &str,
    ) -> Result<()> {
        let event = self.event(who, action, promotion.resource()).change(before, after).because(reason);
        audit::append(&mut self.tx, event).await?;
        tell(&mut self.tx, promotion.happened(self.at, kind)).await
    }

    /// Moves the alias, ends the promotion and records both. Time does not run backwards for an alias.
    async fn carry_out(
        &mut self,
        who: &Principal,
        promotion: &mut Promotion,
        action: &str,
        standing: &str,
        undo_to: Option<&str>,
    ) -> Result<()> {
        let last = find_alias(&mut self.tx, &promotion.model, &promotion.alias).await?;
        let last = last.map(|row| row.alias()).transpose()?;
        let at = last.map_or(self.at, |a| a.moved_at.max(self.at));
        let revision = swap(&mut self.tx, promotion, at, standing).await?;
        promotion.state = PromotionState::Promoted;
        promotion.decision = Some(Decision { by: who.name.clone(), at, reason: String::new() });
        promotion.revision = Some(revision);
        decide(&mut self.tx, promotion, undo_to).await?;
        let before = match promotion.from {
            Some(from) => json!({ "version": from, "revision": promotion.seen_revision }),
            None => Value::Null,
        };
        let approved_by: Vec<&str> = promotion.approvals.iter().map(|a| a.by.as_str()).collect();
        let verdicts: serde_json::Map<String, Value> =
            promotion.evidence.iter().map(|f| (f.check.clone(), json!(f.verdict))).collect();
        let after = json!({
            "version": promotion.version, "revision": revision, "promotion": promotion.id,
            "requested_by": promotion.requested_by, "approved_by": approved_by, "verdicts": verdicts,
        });
        let reason = promotion.reason.clone();
        self.record(who, promotion, (action, EventKind::AliasMoved), (before, after), &reason).await
    }
}

impl SqlRegistry {
    async fn insert_request(&self, who: &Principal, new: NewPromotion) -> Result<Promotion> {
        check::alias(&new.alias)?;
        check::text("reason", &new.reason, check::TEXT)?;
        check_evidence(&new.evidence)?;
        self.allow(who, Permission::RequestPromotion, Resource::alias(&new.model, &new.alias))?;
        let content = Digest::of_json(&(&who.name, &new))?.to_string();
        transaction!(self.write("request promotion of", &new.model), |writing| {
            if let Some(found) = find_repeated(&mut writing.tx, new.id, &content).await? {
                return Ok(found);
            }
            find_version(&mut writing.tx, &new.model, new.version).await?;
            let current = find_alias(&mut writing.tx, &new.model, &new.alias).await?;
            let current = current.map(|row| row.alias()).transpose()?;
            if current.as_ref().is_some_and(|a| a.version == new.version) {
                let reason = format!("{}@{} is v{} already", new.model, new.alias, new.version);
                return Err(CoreError::invalid("promotion", reason).into());
            }
            let promotion = Promotion {
                id: new.id.unwrap_or_else(|| PromotionId::new(writing.at)),
                kind: PromotionKind::Promote,
                model: new.model.clone(),
                version: new.version,
                alias: new.alias.clone(),
                state: PromotionState::Requested,
                requested_by: who.name.clone(),
                requested_at: db::time(writing.at.timestamp_micros()),
                reason: new.reason.clone(),
                evidence: new.evidence.clone(),
                seen_revision: current.as_ref().map_or(0, |a| a.revision),
                from: current.map(|a| a.version),
                approvals: Vec::new(),
                decision: None,
                revision: None,
            };
            insert(&mut writing.tx, &promotion, &content).await?;
            let after = json!({
                "promotion": promotion.id, "version": promotion.version, "seen_revision": promotion.seen_revision,
                "evidence": promotion.evidence,
            });
            let what = ("promotion.request", EventKind::PromotionRequested);
            writing.record(who, &promotion, what, (Value::Null, after), &promotion.reason).await?;
            Ok(promotion)
        })
    }

    async fn insert_approval(&self, who: &Principal, id: PromotionId, comment: &str) -> Result<Promotion> {
        check::text("comment", comment, check::TEXT)?;
        transaction!(self.write("approve promotion", &id.to_string()), |writing| {
            let mut promotion = find(&mut writing.tx, id).await?;
            self.allow(who, Permission::Review, promotion.on())?;
            if let Some(given) = promotion.approvals.iter().find(|a| a.by == who.name) {
                if given.comment == comment {
                    return Ok(promotion);
                }
                let name = format!("{} of promotion {id}", who.name);
                return Err(CoreError::AlreadyExists { what: "approval", name }.into());
            }
            if promotion.state != PromotionState::Requested {
                return Err(Error::Decided { id, state: promotion.state });
            }
            let author = find_version(&mut writing.tx, &promotion.model, promotion.version).await?.author;
            let because = if who.name == author {
                Some("they registered that version")
            } else if who.name == promotion.requested_by {
                Some("they asked for it")
            } else {
                None
            };
            if let Some(because) = because {
                let Promotion { model, version, alias, .. } = promotion;
                return Err(Error::FourEyes { who: who.name.clone(), model, version, alias, because });
            }
            let approval = Approval {
                by: who.name.clone(),
                at: db::time(writing.at.timestamp_micros()),
                comment: comment.to_owned(),
            };
            db::query(
                "INSERT INTO approvals (promotion, place, approver, approved_at, comment) VALUES ($1, $2, $3, $4, $5)",
            )
            .bind(id.to_string())
            .bind(promotion.approvals.len() as i64)
            .bind(&approval.by)
            .bind(approval.at.timestamp_micros())
            .bind(&approval.comment)
            .execute(&mut writing.tx)
            .await
            .during("approve promotion", &id.to_string())?;
            promotion.approvals.push(approval);
            let after = json!({
                "promotion": id, "version": promotion.version, "approvals": promotion.approvals.len(),
            });
            let what = ("promotion.approve", EventKind::PromotionApproved);
            writing.record(who, &promotion, what, (Value::Null, after), comment).await?;
            Ok(promotion)
        })
    }

    async fn turn_down(&self, who: &Principal, id: PromotionId, reason: &str) -> Result<Promotion> {
        check::reason("reason", reason)?;
        transaction!(self.write("reject promotion", &id.to_string()), |writing| {
            let mut promotion = find(&mut writing.tx, id).await?;
            self.allow(who, Permission::Review, promotion.on())?;
            if promotion.state != PromotionState::Requested {
                let same = |d: &Decision| d.by == who.name && d.reason == reason;
                if promotion.state == PromotionState::Rejected && promotion.decision.as_ref().is_some_and(same) {
                    return Ok(promotion);
                }
                return Err(Error::Decided { id, state: promotion.state });
            }
            promotion.state = PromotionState::Rejected;
            let at = db::time(writing.at.timestamp_micros());
            promotion.decision = Some(Decision { by: who.name.clone(), at, reason: reason.to_owned() });
            decide(&mut writing.tx, &promotion, None).await?;
            let after = json!({ "promotion": id, "version": promotion.version });
            let what = ("promotion.reject", EventKind::PromotionRejected);
            writing.record(who, &promotion, what, (Value::Null, after), reason).await?;
            Ok(promotion)
        })
    }

    async fn move_alias(&self, who: &Principal, id: PromotionId) -> Result<Promotion> {
        let (promotion, moves) = transaction!(self.write("promote", &id.to_string()), |writing| {
            let mut promotion = find(&mut writing.tx, id).await?;
            self.allow(who, Permission::MoveAlias, promotion.on())?;
            match promotion.state {
                PromotionState::Promoted => return Ok((promotion, false)),
                PromotionState::Rejected => return Err(Error::Decided { id, state: promotion.state }),
                PromotionState::Requested => {}
            }
            let policy = find_policy(&mut writing.tx, &promotion.model, &promotion.alias).await?.unwrap_or_default();
            check_policy(policy, &promotion)?;
            let below = find_alias(&mut writing.tx, &promotion.model, &promotion.alias).await?.map(|row| row.standing);
            let standing = id.to_string();
            writing.carry_out(who, &mut promotion, "alias.move", &standing, below.as_deref()).await?;
            Ok((promotion, true))
        })?;
        if moves {
            moved(&promotion);
        }
        Ok(promotion)
    }

    async fn move_back(
        &self,
        who: &Principal,
        model: &str,
        alias: &str,
        id: Option<PromotionId>,
        reason: &str,
    ) -> Result<Promotion> {
        check::reason("reason", reason)?;
        self.allow(who, Permission::MoveAlias, Resource::alias(model, alias))?;
        let content = Digest::of_json(&(&who.name, PromotionKind::Rollback, model, alias, reason))?.to_string();
        let (promotion, moves) = transaction!(self.write("roll back", model), |writing| {
            if let Some(found) = find_repeated(&mut writing.tx, id, &content).await? {
                return Ok((found, false));
            }
            find_model(&mut writing.tx, model).await?;
            let name = format!("{model}@{alias}");
            let row = find_alias(&mut writing.tx, model, alias).await?;
            let row = row.ok_or_else(|| CoreError::not_found("alias", &name))?;
            let below = find_row(&mut writing.tx, &row.standing).await?.and_then(|undone| undone.undo_to);
            let below = match below {
                Some(below) => find_row(&mut writing.tx, &below).await?,
                None => None,
            };
            let below = below.ok_or_else(|| CoreError::not_found("earlier version of alias", &name))?;
            let current = row.alias()?;
            let mut promotion = Promotion {
                id: id.unwrap_or_else(|| PromotionId::new(writing.at)),
                kind: PromotionKind::Rollback,
                model: model.to_owned(),
                version: db::number(below.version)?,
                alias: alias.to_owned(),
                state: PromotionState::Requested,
                requested_by: who.name.clone(),
                requested_at: db::time(writing.at.timestamp_micros()),
                reason: reason.to_owned(),
                evidence: Vec::new(),
                seen_revision: current.revision,
                from: Some(current.version),
                approvals: Vec::new(),
                decision: None,
                revision: None,
            };
            insert(&mut writing.tx, &promotion, &content).await?;
            writing.carry_out(who, &mut promotion, "alias.rollback", &below.id, None).await?;
            Ok((promotion, true))
        })?;
        if moves {
            moved(&promotion);
        }
        Ok(promotion)
    }
}

fn moved(promotion: &Promotion) {
    let Promotion { model, alias, version, kind, .. } = promotion;
    tracing::info!(%model, %alias, version, revision = promotion.revision, kind = kind.as_str(), "alias moved");
}

#[async_trait]
impl ModelRegistry for SqlRegistry {
    async fn create_model(&self, who: &Principal, new: NewModel) -> Result<Model> {
        self.insert_model(who, new).await
    }

    async fn model(&self, name: &str) -> Result<Model> {
        find_model(&mut self.read("read model", name).await?, name).await
    }

    async fn models(&self) -> Result<Vec<Model>> {
        self.list_models().await
    }

    async fn set_policy(&self, who: &Principal, model: &str, alias: &str, policy: AliasPolicy) -> Result<()> {
        self.put_policy(who, model, alias, policy).await
    }

    async fn policy(&self, model: &str, alias: &str) -> Result<AliasPolicy> {
        let mut tx = self.read("read policy of", model).await?;
        find_model(&mut tx, model).await?;
        Ok(find_policy(&mut tx, model, alias).await?.unwrap_or_default())
    }

    async fn create_version(&self, who: &Principal, new: NewVersion) -> Result<ModelVersion> {
        self.insert_version(who, new).await
    }

    async fn version(&self, model: &str, version: u64) -> Result<ModelVersion> {
        find_version(&mut self.read("read version of", model).await?, model, version).await
    }

    async fn versions(&self, model: &str) -> Result<Vec<ModelVersion>> {
        self.list_versions(model).await
    }

    async fn request_promotion(&self, who: &Principal, new: NewPromotion) -> Result<Promotion> {
        self.insert_request(who, new).await
    }

    async fn approve(&self, who: &Principal, id: PromotionId, comment: &str) -> Result<Promotion> {
        self.insert_approval(who, id, comment).await
    }

    async fn reject(&self, who: &Principal, id: PromotionId, reason: &str) -> Result<Promotion> {
        self.turn_down(who, id, reason).await
    }

    async fn promote(&self, who: &Principal, id: PromotionId) -> Result<Promotion> {
        self.move_alias(who, id).await
    }

    async fn rollback(
        &self,
        who: &Principal,
        model: &str,
        alias: &str,
        id: Option<PromotionId>,
        reason: &str,
    ) -> Result<Promotion> {
        self.move_back(who, model, alias, id, reason).await
    }

    async fn alias(&self, model: &str, alias: &str) -> Result<Alias> {
        let mut tx = self.read("read alias of", model).await?;
        match find_alias(&mut tx, model, alias).await? {
            Some(row) => row.alias(),
            None => {
                find_model(&mut tx, model).await?;
                Err(CoreError::not_found("alias", format!("{model}@{alias}")).into())
            }
        }
    }

    async fn aliases(&self, model: &str) -> Result<Vec<Alias>> {
        self.list_aliases(model).await
    }

    async fn alias_at(&self, model: &str, alias: &str, at: Timestamp) -> Result<Option<u64>> {
        let mut tx = self.read("read history of", model).await?;
        find_model(&mut tx, model).await?;
        let version: Option<i64> = db::query(
            "SELECT version FROM promotions WHERE model = $1 AND alias = $2 AND revision IS NOT NULL \
             AND decided_at <= $3 ORDER BY revision DESC LIMIT 1",
        )
        .bind(model)
        .bind(alias)
        .bind(at.timestamp_micros())
        .fetch_optional(&mut tx)
        .await
        .during("read history of", model)?;
        Ok(version.map(db::number).transpose()?)
    }

    async fn promotions(&self, model: &str) -> Result<Vec<Promotion>> {
        let mut tx = self.read("list promotions of", model).await?;
        find_model(&mut tx, model).await?;
        let rows: Vec<ApprovalRow> = db::query(
            "SELECT a.promotion, a.approver, a.approved_at, a.comment FROM approvals a \
             JOIN promotions p ON p.id = a.promotion WHERE p.model = $1 ORDER BY a.promotion, a.place",
        )
        .bind(model)
        .fetch_all(&mut tx)
        .await
        .during("list promotions of", model)?;
        let mut approvals: HashMap<String, Vec<Approval>> = HashMap::new();
        for row in rows {
            approvals.entry(row.0.clone()).or_default().push(approval(row));
        }
        let rows: Vec<Row> = db::query("SELECT * FROM promotions WHERE model = $1 ORDER BY place")
            .bind(model)
            .fetch_all(&mut tx)
            .await
            .during("list promotions of", model)?;
        rows.into_iter()
            .map(|row| {
                let given = approvals.remove(&row.id).unwrap_or_default();
                row.promotion(given)
            })
            .collect()
    }

    async fn promotion(&self, id: PromotionId) -> Result<Promotion> {
        find(&mut self.read("read promotion", &id.to_string()).await?, id).await
    }

    async fn events(&self, after: u64, limit: usize) -> Result<Vec<Event>> {
        self.list_events(after, limit).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::{NewModel, NewVersion};

    #[tokio::test]
    async fn a_request_is_decided_once_whatever_was_read_before() {
        let store = mlops_core::store::MemoryStore::default();
        let registry = SqlRegistry::builder().artifacts(store.clone()).open_in_memory().await.unwrap();
        let ana = Principal::new("ana").with_role(Role::Contributor);
        registry.create_model(&ana, NewModel::new("m")).await.unwrap();
        let package = crate::conformance::model_registry::package(&store, "1").await;
        registry.create_version(&ana, NewVersion::new("m", package)).await.unwrap();
        let mut asked = registry.request_promotion(&ana, NewPromotion::new("m", 1, "champion")).await.unwrap();
        let mut writing = registry.write("test", "decide").await.unwrap();
        asked.state = PromotionState::Rejected;
        decide(&mut writing.tx, &asked, None).await.unwrap();
        let rejected = find(&mut writing.tx, asked.id).await.unwrap();
        asked.state = PromotionState::Promoted;
        let error = decide(&mut writing.tx, &asked, None).await.unwrap_err();
        assert!(matches!(error, Error::Decided { state: PromotionState::Rejected, .. }), "{error}");
        assert_eq!(find(&mut writing.tx, asked.id).await.unwrap(), rejected);
    }
}

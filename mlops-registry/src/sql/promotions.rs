//! Requests and what becomes of them: approved, rejected, withdrawn, carried out.

use std::collections::HashMap;

use mlops_core::{Digest, Error as CoreError, Finding, Permission, Principal, PromotionId, Resource, Role, Timestamp};
use serde_json::{Value, json};

use super::db::{self, Backend as _, Conn};
use super::events::{event, tell};
use super::models::find_model;
use super::policies::{check_move, check_policy, find_policy, find_stages, has_expired, known_stage};
use super::versions::find_version;
use super::{SqlRegistry, Writing, aliases, audit, stages};
use crate::registry::{
    Approval, Decision, Event, EventKind, NewPromotion, NewStageMove, Promotion, PromotionKind, PromotionState, Target,
};
use crate::{Error, Result, check};

db::row! {
    pub(super) struct Row {
        pub(super) id: String,
        pub(super) kind: String,
        model: String,
        pub(super) version: i64,
        target: String,
        name: String,
        state: String,
        requested_by: String,
        requested_at: i64,
        reason: String,
        evidence: String,
        content: String,
        seen_revision: i64,
        from_version: Option<i64>,
        from_stage: Option<String>,
        archive_existing: i64,
        decided_by: Option<String>,
        decided_at: Option<i64>,
        decision_reason: Option<String>,
        revision: Option<i64>,
        pub(super) undo_to: Option<String>,
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
            target: if self.target == "stage" { Target::Stage(self.name) } else { Target::Alias(self.name) },
            state: db::from_word(&self.state)?,
            requested_by: self.requested_by,
            requested_at: db::time(self.requested_at),
            reason: self.reason,
            evidence: db::from_json(&self.evidence)?,
            seen_revision: db::number(self.seen_revision)?,
            from: self.from_version.map(db::number).transpose()?,
            from_stage: self.from_stage,
            archive_existing: self.archive_existing != 0,
            approvals,
            decision,
            revision: self.revision.map(db::number).transpose()?,
        })
    }
}

pub(super) async fn find_row(conn: &mut Conn, id: &str) -> Result<Option<Row>> {
    Ok(db::query("SELECT * FROM promotions WHERE id = $1")
        .bind(id)
        .fetch_optional(conn)
        .await
        .during("read promotion", id)?)
}

type ApprovalRow = (String, String, i64, String, String);

fn approval((_, by, at, comment, roles): ApprovalRow) -> Result<Approval> {
    Ok(Approval { by, at: db::time(at), comment, roles: db::from_json(&roles)? })
}

async fn with_approvals(conn: &mut Conn, row: Row) -> Result<Promotion> {
    let rows: Vec<ApprovalRow> = db::query(
        "SELECT promotion, approver, approved_at, comment, roles FROM approvals WHERE promotion = $1 ORDER BY place",
    )
    .bind(&row.id)
    .fetch_all(conn)
    .await
    .during("read promotion", &row.id)?;
    row.promotion(rows.into_iter().map(approval).collect::<Result<_>>()?)
}

pub(super) async fn find(conn: &mut Conn, id: PromotionId) -> Result<Promotion> {
    let row = find_row(conn, &id.to_string()).await?.ok_or_else(|| CoreError::not_found("promotion", id))?;
    with_approvals(conn, row).await
}

/// The promotion of that id if it is the same request, an error if it is another one.
pub(super) async fn find_repeated(
    conn: &mut Conn,
    id: Option<PromotionId>,
    content: &str,
) -> Result<Option<Promotion>> {
    let Some(id) = id else { return Ok(None) };
    match find_row(conn, &id.to_string()).await? {
        None => Ok(None),
        Some(row) if row.content == content => Ok(Some(with_approvals(conn, row).await?)),
        Some(_) => Err(CoreError::AlreadyExists { what: "promotion", name: id.to_string() }.into()),
    }
}

/// The open request of the same contents on the same revision, newest first.
async fn find_open(conn: &mut Conn, content: &str, seen_revision: u64) -> Result<Option<Promotion>> {
    let row: Option<Row> = db::query(
        "SELECT * FROM promotions WHERE content = $1 AND state = $2 AND seen_revision = $3 \
         ORDER BY place DESC LIMIT 1",
    )
    .bind(content)
    .bind(PromotionState::Requested.as_str())
    .bind(db::to_i64(seen_revision))
    .fetch_optional(&mut *conn)
    .await
    .during("read promotion", content)?;
    match row {
        Some(row) => Ok(Some(with_approvals(conn, row).await?)),
        None => Ok(None),
    }
}

/// The open requests that concern a version, oldest first.
pub(super) async fn open(conn: &mut Conn, model: &str, version: u64) -> Result<Vec<Promotion>> {
    let rows: Vec<Row> =
        db::query("SELECT * FROM promotions WHERE model = $1 AND version = $2 AND state = $3 ORDER BY place")
            .bind(model)
            .bind(db::to_i64(version))
            .bind(PromotionState::Requested.as_str())
            .fetch_all(&mut *conn)
            .await
            .during("list promotions of", model)?;
    let mut found = Vec::new();
    for row in rows {
        found.push(with_approvals(conn, row).await?);
    }
    Ok(found)
}

/// Writes a request that is not decided yet.
pub(super) async fn insert(conn: &mut Conn, promotion: &Promotion, content: &str) -> Result<()> {
    let id = promotion.id.to_string();
    let place = db::next_place(conn, "promotion").await?;
    db::query(
        "INSERT INTO promotions (id, place, kind, model, version, target, name, state, requested_by, requested_at, \
         reason, evidence, content, seen_revision, from_version, from_stage, archive_existing) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)",
    )
    .bind(&id)
    .bind(place)
    .bind(promotion.kind.as_str())
    .bind(&promotion.model)
    .bind(db::to_i64(promotion.version))
    .bind(promotion.target.kind())
    .bind(promotion.target.name())
    .bind(promotion.state.as_str())
    .bind(&promotion.requested_by)
    .bind(promotion.requested_at.timestamp_micros())
    .bind(&promotion.reason)
    .bind(db::json(&promotion.evidence)?)
    .bind(content)
    .bind(db::to_i64(promotion.seen_revision))
    .bind(promotion.from.map(db::to_i64))
    .bind(&promotion.from_stage)
    .bind(promotion.archive_existing)
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

impl Promotion {
    /// What permissions are asked on.
    fn on(&self) -> Resource {
        self.target.resource(&self.model)
    }

    /// What the audit log calls it.
    pub(super) fn resource(&self) -> String {
        match &self.target {
            Target::Alias(alias) => format!("model {}@{alias}", self.model),
            Target::Stage(_) => format!("model {}/{}", self.model, self.version),
        }
    }

    fn happened(&self, at: Timestamp, kind: EventKind) -> Event {
        let mut event = Event {
            revision: self.revision,
            promotion: Some(self.id),
            ..event(at, kind, &self.model, Some(self.version))
        };
        match &self.target {
            Target::Alias(alias) => event.alias = Some(alias.clone()),
            Target::Stage(stage) => {
                event.stage = Some(stage.clone());
                event.details.extend(self.from_stage.iter().map(|from| ("from".to_owned(), from.clone())));
            }
        }
        event
    }
}

impl Writing {
    /// Audits and tells what happened to a promotion.
    pub(super) async fn record(
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

    /// Ends a promotion whose alias or version has moved, and records the move.
    pub(super) async fn end_move(
        &mut self,
        who: &Principal,
        promotion: &mut Promotion,
        (action, kind): (&str, EventKind),
        (revision, at): (u64, Timestamp),
        undo_to: Option<&str>,
    ) -> Result<()> {
        promotion.state = PromotionState::Promoted;
        promotion.decision = Some(Decision { by: who.name.clone(), at, reason: String::new() });
        promotion.revision = Some(revision);
        decide(&mut self.tx, promotion, undo_to).await?;
        let (seen, version) = (promotion.seen_revision, promotion.version);
        let before = match (&promotion.target, promotion.from) {
            (Target::Stage(_), _) => json!({ "stage": promotion.from_stage, "revision": seen }),
            (Target::Alias(_), Some(from)) => json!({ "version": from, "revision": seen }),
            (Target::Alias(_), None) => Value::Null,
        };
        let approved_by: Vec<&str> = promotion.approvals.iter().map(|a| a.by.as_str()).collect();
        let verdicts: serde_json::Map<String, Value> =
            promotion.evidence.iter().map(|f| (f.check.clone(), json!(f.verdict))).collect();
        let mut after = json!({
            "revision": revision, "promotion": promotion.id, "requested_by": promotion.requested_by,
            "approved_by": approved_by, "verdicts": verdicts,
        });
        match &promotion.target {
            Target::Stage(stage) => after["stage"] = json!(stage),
            Target::Alias(_) if promotion.kind == PromotionKind::Remove => after["version"] = Value::Null,
            Target::Alias(_) => after["version"] = json!(version),
        }
        let reason = promotion.reason.clone();
        self.record(who, promotion, (action, kind), (before, after), &reason).await
    }
}

/// Turns an open request down, in the words of a reviewer or of who asked.
async fn turn_down(
    writing: &mut Writing,
    who: &Principal,
    promotion: &mut Promotion,
    reason: &str,
    (state, action, kind): (PromotionState, &str, EventKind),
) -> Result<()> {
    promotion.state = state;
    let at = db::time(writing.at.timestamp_micros());
    promotion.decision = Some(Decision { by: who.name.clone(), at, reason: reason.to_owned() });
    decide(&mut writing.tx, promotion, None).await?;
    let after = json!({ "promotion": promotion.id, "version": promotion.version });
    writing.record(who, promotion, (action, kind), (Value::Null, after), reason).await
}

pub(super) async fn withdraw(
    writing: &mut Writing,
    who: &Principal,
    promotion: &mut Promotion,
    reason: &str,
) -> Result<()> {
    let what = (PromotionState::Withdrawn, "promotion.withdraw", EventKind::PromotionWithdrawn);
    turn_down(writing, who, promotion, reason, what).await
}

/// What is asked for, of an alias or of a stage.
pub(super) struct Asked {
    id: Option<PromotionId>,
    model: String,
    version: u64,
    target: Target,
    archive_existing: bool,
    evidence: Vec<Finding>,
    reason: String,
    /// Tells it from another request of the same id.
    content: String,
}

impl Asked {
    pub(super) fn alias(who: &Principal, new: NewPromotion) -> Result<Self> {
        check::alias(&new.alias)?;
        let content = Digest::of_json(&(&who.name, &new))?.to_string();
        let NewPromotion { id, model, version, alias, evidence, reason } = new;
        let target = Target::Alias(alias);
        Self { id, model, version, target, archive_existing: false, evidence, reason, content }.checked()
    }

    pub(super) fn stage(who: &Principal, new: NewStageMove) -> Result<Self> {
        let content = Digest::of_json(&(&who.name, &new))?.to_string();
        let NewStageMove { id, model, version, stage, archive_existing, evidence, reason } = new;
        let target = Target::Stage(stage);
        Self { id, model, version, target, archive_existing, evidence, reason, content }.checked()
    }

    fn checked(self) -> Result<Self> {
        check::text("reason", &self.reason, check::TEXT)?;
        check_evidence(&self.evidence)?;
        Ok(self)
    }
}

/// What a request finds: the revision it is made on, and what is there.
struct Seen {
    target: Target,
    revision: u64,
    from: Option<u64>,
    from_stage: Option<String>,
    /// The promotion that brought about what is asked for, if that is so already.
    standing: Option<Option<PromotionId>>,
}

impl SqlRegistry {
    /// What a request is made on. Its stage is spelled as the table has it, before permissions are asked on that.
    async fn look(&self, conn: &mut Conn, who: &Principal, asked: &Asked, permissions: &[Permission]) -> Result<Seen> {
        let Asked { model, version, target, .. } = asked;
        let allow = |target: &Target| permissions.iter().try_for_each(|p| self.allow(who, *p, target.resource(model)));
        match target {
            Target::Alias(alias) => {
                allow(target)?;
                find_version(conn, model, *version).await?;
                let row = aliases::find_row(conn, model, alias).await?;
                let from = row.as_ref().and_then(|row| row.version).map(db::number).transpose()?;
                let (target, from_stage) = (target.clone(), None);
                let Some(row) = row else { return Ok(Seen { target, revision: 0, from, from_stage, standing: None }) };
                let standing = match from {
                    Some(from) if from == *version => Some(Some(db::from_text(&row.promotion)?)),
                    _ => None,
                };
                Ok(Seen { target, revision: db::number(row.revision)?, from, from_stage, standing })
            }
            Target::Stage(stage) => {
                let table = find_stages(conn, Some(model)).await?;
                let target = Target::Stage(known_stage(&table, stage)?);
                allow(&target)?;
                let found = find_version(conn, model, *version).await?;
                let standing = if found.stage == target.name() {
                    Some(stages::last_move(conn, model, *version).await?)
                } else {
                    None
                };
                let (revision, from_stage) = (found.stage_revision, Some(found.stage));
                Ok(Seen { target, revision, from: None, from_stage, standing })
            }
        }
    }

    /// Writes down a request that was not made before.
    async fn request(&self, writing: &mut Writing, who: &Principal, asked: &Asked, seen: Seen) -> Result<Promotion> {
        let Asked { model, version, .. } = asked;
        if seen.standing.is_some() {
            let reason = match &seen.target {
                Target::Alias(alias) => format!("{model}@{alias} is v{version} already"),
                Target::Stage(stage) => format!("{model} v{version} is in {stage} already"),
            };
            return Err(CoreError::invalid("promotion", reason).into());
        }
        let promotion = Promotion {
            id: asked.id.unwrap_or_else(|| PromotionId::new(writing.at)),
            kind: PromotionKind::Promote,
            model: model.clone(),
            version: *version,
            target: seen.target,
            state: PromotionState::Requested,
            requested_by: who.name.clone(),
            requested_at: db::time(writing.at.timestamp_micros()),
            reason: asked.reason.clone(),
            evidence: asked.evidence.clone(),
            seen_revision: seen.revision,
            from: seen.from,
            from_stage: seen.from_stage,
            archive_existing: asked.archive_existing,
            approvals: Vec::new(),
            decision: None,
            revision: None,
        };
        if let (Target::Stage(to), Some(from)) = (&promotion.target, &promotion.from_stage) {
            let table = find_stages(&mut writing.tx, Some(model)).await?;
            check_move(&table, &promotion, from, to)?;
            if promotion.archive_existing && table.archive.as_ref().is_none_or(|archive| archive == to) {
                let why = format!("nothing in {to} can make way: the table names no other stage to archive to");
                return Err(CoreError::invalid("archive existing", why).into());
            }
        }
        insert(&mut writing.tx, &promotion, &asked.content).await?;
        let mut after = json!({
            "promotion": promotion.id, "version": promotion.version, "seen_revision": promotion.seen_revision,
            "evidence": promotion.evidence,
        });
        if let Target::Stage(stage) = &promotion.target {
            after["stage"] = json!(stage);
            after["archive_existing"] = json!(promotion.archive_existing);
        }
        let what = ("promotion.request", EventKind::PromotionRequested);
        writing.record(who, &promotion, what, (Value::Null, after), &promotion.reason).await?;
        Ok(promotion)
    }

    /// Checks the policy of this moment and moves what the request is about.
    async fn carry_out(&self, writing: &mut Writing, who: &Principal, promotion: &mut Promotion) -> Result<()> {
        let Promotion { model, version, target, .. } = &*promotion;
        let author = find_version(&mut writing.tx, model, *version).await?.author;
        let policy = find_policy(&mut writing.tx, model, target).await?.unwrap_or_default();
        check_policy(&policy, promotion, &author, writing.at)?;
        match promotion.target {
            Target::Alias(_) => aliases::point(writing, who, promotion).await,
            Target::Stage(_) => stages::enter(writing, who, promotion).await,
        }
    }

    pub(super) async fn insert_request(&self, who: &Principal, asked: Asked) -> Result<Promotion> {
        transaction!(self.write("request promotion of", &asked.model), |writing| {
            // Permissions first, also for a repeated call.
            let may = [Permission::RequestPromotion];
            let seen = self.look(&mut writing.tx, who, &asked, &may).await;
            if !matches!(seen, Err(Error::Core(CoreError::PermissionDenied { .. })))
                && let Some(found) = find_repeated(&mut writing.tx, asked.id, &asked.content).await?
            {
                return Ok(found);
            }
            self.request(&mut writing, who, &asked, seen?).await
        })
    }

    pub(super) async fn request_and_move(&self, who: &Principal, asked: Asked) -> Result<Promotion> {
        let done: Result<Result<Promotion>> = transaction!(self.write("promote", &asked.model), |writing| {
            let may = [Permission::RequestPromotion, Permission::MoveAlias];
            let seen = self.look(&mut writing.tx, who, &asked, &may).await;
            let denied = matches!(seen, Err(Error::Core(CoreError::PermissionDenied { .. })));
            let found = match asked.id {
                _ if denied => None,
                Some(_) => find_repeated(&mut writing.tx, asked.id, &asked.content).await?,
                None => match &seen {
                    Ok(seen) => find_open(&mut writing.tx, &asked.content, seen.revision).await?,
                    Err(_) => None,
                },
            };
            let mut promotion = match found {
                Some(found) => match found.state {
                    PromotionState::Promoted => return Ok(Ok(found)),
                    PromotionState::Requested => found,
                    state => return Err(Error::Decided { id: found.id, state }),
                },
                None => {
                    let seen = seen?;
                    if let Some(Some(standing)) = seen.standing {
                        return Ok(Ok(find(&mut writing.tx, standing).await?));
                    }
                    self.request(&mut writing, who, &asked, seen).await?
                }
            };
            match self.carry_out(&mut writing, who, &mut promotion).await {
                Ok(()) => Ok(Ok(promotion)),
                // Nothing has moved; the request stays, and waits.
                Err(error @ Error::ApprovalMissing { .. }) => Ok(Err(error)),
                Err(error) => Err(error),
            }
        });
        done?
    }

    pub(super) async fn insert_approval(&self, who: &Principal, id: PromotionId, comment: &str) -> Result<Promotion> {
        check::text("comment", comment, check::TEXT)?;
        transaction!(self.write("approve promotion", &id.to_string()), |writing| {
            let mut promotion = find(&mut writing.tx, id).await?;
            self.allow(who, Permission::Review, promotion.on())?;
            let given = promotion.approvals.iter().position(|a| a.by == who.name);
            if let Some(place) = given {
                let given = &promotion.approvals[place];
                let policy = find_policy(&mut writing.tx, &promotion.model, &promotion.target).await?;
                let expired = promotion.state == PromotionState::Requested
                    && policy.is_some_and(|policy| has_expired(&policy, given, writing.at));
                if !expired && given.comment == comment {
                    return Ok(promotion);
                }
                if !expired {
                    let name = format!("{} of promotion {id}", who.name);
                    return Err(CoreError::AlreadyExists { what: "approval", name }.into());
                }
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
                let Promotion { model, version, target, .. } = promotion;
                return Err(Error::FourEyes { who: who.name.clone(), model, version, target, because });
            }
            let mut roles: Vec<Role> = who.roles_on(&self.scoped(promotion.on())).collect();
            roles.sort_unstable();
            roles.dedup();
            let approval = Approval {
                by: who.name.clone(),
                at: db::time(writing.at.timestamp_micros()),
                comment: comment.to_owned(),
                roles,
            };
            db::query(
                "INSERT INTO approvals (promotion, place, approver, approved_at, comment, roles) \
                 VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (promotion, approver) DO UPDATE SET \
                 approved_at = excluded.approved_at, comment = excluded.comment, roles = excluded.roles",
            )
            .bind(id.to_string())
            .bind(promotion.approvals.len() as i64)
            .bind(&approval.by)
            .bind(approval.at.timestamp_micros())
            .bind(&approval.comment)
            .bind(db::json(&approval.roles)?)
            .execute(&mut writing.tx)
            .await
            .during("approve promotion", &id.to_string())?;
            match given {
                Some(place) => promotion.approvals[place] = approval,
                None => promotion.approvals.push(approval),
            }
            let after = json!({
                "promotion": id, "version": promotion.version, "approvals": promotion.approvals.len(),
            });
            let what = ("promotion.approve", EventKind::PromotionApproved);
            writing.record(who, &promotion, what, (Value::Null, after), comment).await?;
            Ok(promotion)
        })
    }

    pub(super) async fn reject_request(&self, who: &Principal, id: PromotionId, reason: &str) -> Result<Promotion> {
        check::reason("reason", reason)?;
        transaction!(self.write("reject promotion", &id.to_string()), |writing| {
            let mut promotion = find(&mut writing.tx, id).await?;
            self.allow(who, Permission::Review, promotion.on())?;
            if promotion.state != PromotionState::Requested {
                return repeated(promotion, who, reason, PromotionState::Rejected);
            }
            let what = (PromotionState::Rejected, "promotion.reject", EventKind::PromotionRejected);
            turn_down(&mut writing, who, &mut promotion, reason, what).await?;
            Ok(promotion)
        })
    }

    pub(super) async fn withdraw_request(&self, who: &Principal, id: PromotionId, reason: &str) -> Result<Promotion> {
        check::reason("reason", reason)?;
        transaction!(self.write("withdraw promotion", &id.to_string()), |writing| {
            let mut promotion = find(&mut writing.tx, id).await?;
            self.allow(who, Permission::RequestPromotion, promotion.on())?;
            if promotion.requested_by != who.name {
                let asked_by = promotion.requested_by;
                return Err(Error::NotWhoAsked { who: who.name.clone(), promotion: id, asked_by });
            }
            if promotion.state != PromotionState::Requested {
                return repeated(promotion, who, reason, PromotionState::Withdrawn);
            }
            withdraw(&mut writing, who, &mut promotion, reason).await?;
            Ok(promotion)
        })
    }

    pub(super) async fn carry_request_out(&self, who: &Principal, id: PromotionId) -> Result<Promotion> {
        transaction!(self.write("promote", &id.to_string()), |writing| {
            let mut promotion = find(&mut writing.tx, id).await?;
            self.allow(who, Permission::MoveAlias, promotion.on())?;
            match promotion.state {
                PromotionState::Promoted => return Ok(promotion),
                PromotionState::Requested => {}
                state => return Err(Error::Decided { id, state }),
            }
            self.carry_out(&mut writing, who, &mut promotion).await?;
            Ok(promotion)
        })
    }

    pub(super) async fn read_promotion(&self, id: PromotionId) -> Result<Promotion> {
        find(&mut self.read("read promotion", &id.to_string()).await?, id).await
    }

    pub(super) async fn list_promotions(&self, model: &str) -> Result<Vec<Promotion>> {
        let mut tx = self.read("list promotions of", model).await?;
        find_model(&mut tx, model).await?;
        let rows: Vec<ApprovalRow> = db::query(
            "SELECT a.promotion, a.approver, a.approved_at, a.comment, a.roles FROM approvals a \
             JOIN promotions p ON p.id = a.promotion WHERE p.model = $1 ORDER BY a.promotion, a.place",
        )
        .bind(model)
        .fetch_all(&mut tx)
        .await
        .during("list promotions of", model)?;
        let mut approvals: HashMap<String, Vec<Approval>> = HashMap::new();
        for row in rows {
            approvals.entry(row.0.clone()).or_default().push(approval(row)?);
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
}

/// A request that was turned down so before, by the same person in the same words.
fn repeated(promotion: Promotion, who: &Principal, reason: &str, state: PromotionState) -> Result<Promotion> {
    let same = |d: &Decision| d.by == who.name && d.reason == reason;
    if promotion.state == state && promotion.decision.as_ref().is_some_and(same) {
        return Ok(promotion);
    }
    Err(Error::Decided { id: promotion.id, state: promotion.state })
}

#[cfg(all(test, feature = "sqlite"))]
mod tests {
    use super::*;
    use crate::ModelRegistry as _;
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

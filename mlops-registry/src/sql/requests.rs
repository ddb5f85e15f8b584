//! What becomes of a request: asked for, approved, rejected, withdrawn, carried out.

use mlops_core::{Digest, Error as CoreError, Finding, Permission, Principal, PromotionId, Resource, Role, Timestamp};
use serde_json::{Value, json};

use super::db::{self, Backend as _, Conn};
use super::events::{event, tell};
use super::policies::{check_move, check_policy, find_policy, find_stages, has_expired, known_stage};
use super::promotions::{decide, find, find_open, find_repeated, insert};
use super::versions::find_version;
use super::{SqlRegistry, Writing, aliases, audit, stages};
use crate::registry::{
    Approval, Decision, Event, EventKind, NewPromotion, NewStageMove, Promotion, PromotionKind, PromotionState, Target,
};
use crate::{Error, Result, check};

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
}

/// A request that was turned down so before, by the same person in the same words.
fn repeated(promotion: Promotion, who: &Principal, reason: &str, state: PromotionState) -> Result<Promotion> {
    let same = |d: &Decision| d.by == who.name && d.reason == reason;
    if promotion.state == state && promotion.decision.as_ref().is_some_and(same) {
        return Ok(promotion);
    }
    Err(Error::Decided { id: promotion.id, state: promotion.state })
}

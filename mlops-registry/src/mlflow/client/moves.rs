//! Moves of aliases and stages: a read, a write, and a record of the move in a tag.

use mlops_core::clock::from_micros;
use mlops_core::{Clock as _, Error as CoreError, Finding, Permission, Principal, PromotionId, SystemClock};
use serde_json::json;

use super::MlflowClient;
use super::http::Call;
use super::models::{record, written};
use super::versions::{STAGE, find_stage, led_to, version_name};
use crate::{
    Alias, Decision, NewPromotion, NewStageMove, Promotion, PromotionKind, PromotionState, Result, StageTable, Target,
    check,
};

/// Longest record of a move: what MLflow takes for the tag of a model, in characters.
const RECORD: usize = 100_000;

fn alias_tag(alias: &str) -> String {
    format!("mlops.alias.{alias}")
}

fn alias_name(model: &str, alias: &str) -> String {
    format!("{model}@{alias}")
}

/// What a move was that another tool made: nobody knows by whom, when and why.
fn unrecorded(model: &str, version: u64, target: Target) -> Promotion {
    let nil = PromotionId::from_uuid(uuid::Uuid::nil());
    Promotion {
        reason: "made by another client of the MLflow server, which keeps no record".to_owned(),
        decision: None,
        revision: None,
        ..promotion(nil, PromotionKind::Promote, model, version, target, "", from_micros(0))
    }
}

fn promotion(
    id: PromotionId,
    kind: PromotionKind,
    model: &str,
    version: u64,
    target: Target,
    who: &str,
    at: mlops_core::Timestamp,
) -> Promotion {
    Promotion {
        id,
        kind,
        model: model.to_owned(),
        version,
        target,
        state: PromotionState::Promoted,
        requested_by: who.to_owned(),
        requested_at: at,
        reason: String::new(),
        evidence: Vec::new(),
        seen_revision: 0,
        from: None,
        from_stage: None,
        archive_existing: false,
        approvals: Vec::new(),
        decision: Some(Decision { by: who.to_owned(), at, reason: String::new() }),
        revision: None,
    }
}

/// The record as text, if MLflow takes it.
fn text(promotion: &Promotion) -> Result<String> {
    let text = written(promotion)?;
    if text.chars().count() > RECORD {
        let reason = format!("{} characters with the rest of the move; an MLflow server keeps {RECORD}", text.len());
        return Err(CoreError::invalid("evidence", reason).into());
    }
    Ok(text)
}

fn check_move(reason: &str, evidence: &[Finding]) -> Result<()> {
    check::text("reason", reason, check::TEXT)?;
    check::count("findings", evidence.len(), check::EVIDENCE.0)?;
    Ok(())
}

impl MlflowClient {
    pub(super) async fn read_alias(&self, model: &str, alias: &str) -> Result<Alias> {
        let message = self.model_message(model).await?;
        let version = message.points(alias)?.ok_or_else(|| CoreError::not_found("alias", alias_name(model, alias)))?;
        let moved = record::<Promotion>(&message.tags, &alias_tag(alias)).filter(|moved| moved.version == version);
        Ok(alias_of(model, alias, version, moved))
    }

    pub(super) async fn read_aliases(&self, model: &str) -> Result<Vec<Alias>> {
        let (message, aliases) = self.all_aliases(model).await?;
        let read = |(alias, version): (String, u64)| {
            let moved = record::<Promotion>(&message.tags, &alias_tag(&alias)).filter(|moved| moved.version == version);
            alias_of(model, &alias, version, moved)
        };
        Ok(aliases.into_iter().map(read).collect())
    }

    pub(super) async fn set_alias(&self, who: &Principal, new: NewPromotion) -> Result<Promotion> {
        check::alias(&new.alias)?;
        check_move(&new.reason, &new.evidence)?;
        let target = Target::Alias(new.alias.clone());
        for permission in [Permission::RequestPromotion, Permission::MoveAlias] {
            self.allow(who, permission, target.resource(&new.model))?;
        }
        let message = self.model_message(&new.model).await?;
        self.version_message(&new.model, new.version).await?;
        let (before, key) = (message.points(&new.alias)?, alias_tag(&new.alias));
        let last: Option<Promotion> = record(&message.tags, &key);
        if before == Some(new.version) {
            let known = last.filter(|last| last.version == new.version && last.kind == PromotionKind::Promote);
            return Ok(known.unwrap_or_else(|| unrecorded(&new.model, new.version, target)));
        }
        let (at, seen) = (SystemClock.now(), last.as_ref().and_then(|last| last.revision).unwrap_or(0));
        let id = new.id.unwrap_or_else(|| PromotionId::new(at));
        let done = Promotion {
            reason: new.reason,
            evidence: new.evidence,
            seen_revision: seen,
            from: before,
            revision: Some(seen + 1),
            ..promotion(id, PromotionKind::Promote, &new.model, new.version, target, &who.name, at)
        };
        let record = text(&done)?;
        let name = alias_name(&new.model, &new.alias);
        let body = json!({ "name": new.model, "alias": new.alias, "version": new.version.to_string() });
        let call = Call::post("move", "registered-models/alias", body).about("alias", &name).by(who);
        self.http().tell(call).await?;
        self.tag_model(who, &new.model, &key, &record).await?;
        Ok(done)
    }

    pub(super) async fn take_alias(
        &self,
        who: &Principal,
        model: &str,
        alias: &str,
        reason: &str,
    ) -> Result<Promotion> {
        check::alias(alias)?;
        check::reason("reason", reason)?;
        let target = Target::Alias(alias.to_owned());
        self.allow(who, Permission::MoveAlias, target.resource(model))?;
        let message = self.model_message(model).await?;
        let (key, name) = (alias_tag(alias), alias_name(model, alias));
        let last: Option<Promotion> = record(&message.tags, &key);
        let Some(version) = message.points(alias)? else {
            let again = last.filter(|last| last.kind == PromotionKind::Remove && last.reason == reason);
            return again.ok_or_else(|| CoreError::not_found("alias", name).into());
        };
        let (at, seen) = (SystemClock.now(), last.as_ref().and_then(|last| last.revision).unwrap_or(0));
        let done = Promotion {
            reason: reason.to_owned(),
            seen_revision: seen,
            from: Some(version),
            revision: Some(seen + 1),
            ..promotion(PromotionId::new(at), PromotionKind::Remove, model, version, target, &who.name, at)
        };
        let record = text(&done)?;
        let body = json!({ "name": model, "alias": alias });
        self.http().tell(Call::delete("remove", "registered-models/alias", body).about("alias", &name).by(who)).await?;
        self.tag_model(who, model, &key, &record).await?;
        Ok(done)
    }

    pub(super) async fn set_stage(&self, who: &Principal, new: NewStageMove) -> Result<Promotion> {
        check::name("stage", &new.stage)?;
        check_move(&new.reason, &new.evidence)?;
        let table = StageTable::default();
        // As the table has it, where it has it: permissions are asked on the stage itself.
        let target = Target::Stage(table.find(&new.stage).unwrap_or(&new.stage).to_owned());
        for permission in [Permission::RequestPromotion, Permission::MoveAlias] {
            self.allow(who, permission, target.resource(&new.model))?;
        }
        let message = match self.version_message(&new.model, new.version).await {
            Err(error) if error.is_not_found() => {
                self.model_message(&new.model).await?;
                return Err(error);
            }
            other => other?,
        };
        let stage = find_stage(&table, &new.stage)?.to_owned();
        if new.archive_existing && (stage == table.first() || table.archive.as_deref() == Some(&stage)) {
            let reason = format!("versions that are in {stage} do not make way there; leave `archive_existing` out");
            return Err(CoreError::invalid("stage", reason).into());
        }
        let last: Option<Promotion> = record(&message.tags, STAGE);
        if message.current_stage == stage {
            let known = last.filter(|last| led_to(last, &stage));
            return Ok(known.unwrap_or_else(|| unrecorded(&new.model, new.version, target)));
        }
        let (at, seen) = (SystemClock.now(), last.as_ref().and_then(|last| last.revision).unwrap_or(0));
        let id = new.id.unwrap_or_else(|| PromotionId::new(at));
        let done = Promotion {
            reason: new.reason,
            evidence: new.evidence,
            seen_revision: seen,
            from_stage: Some(message.current_stage),
            archive_existing: new.archive_existing,
            revision: Some(seen + 1),
            ..promotion(id, PromotionKind::Promote, &new.model, new.version, target, &who.name, at)
        };
        let record = text(&done)?;
        let body = json!({
            "name": new.model, "version": new.version.to_string(), "stage": stage,
            "archive_existing_versions": new.archive_existing,
        });
        let name = version_name(&new.model, new.version);
        let call = Call::post("move", "model-versions/transition-stage", body).about("model version", &name).by(who);
        self.http().tell(call).await?;
        self.tag_version(who, &new.model, new.version, STAGE, &record).await?;
        Ok(done)
    }
}

fn alias_of(model: &str, alias: &str, version: u64, moved: Option<Promotion>) -> Alias {
    let moved = moved.unwrap_or_else(|| unrecorded(model, version, Target::Alias(alias.to_owned())));
    Alias {
        model: model.to_owned(),
        alias: alias.to_owned(),
        version,
        revision: moved.revision.unwrap_or(0),
        moved_at: moved.requested_at,
        promotion: moved.id,
    }
}

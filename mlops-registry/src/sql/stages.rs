//! Stages of versions: moves and history.

use mlops_core::{Error as CoreError, Principal, PromotionId, Timestamp};

use super::db::{self, Backend as _, Conn};
use super::models::find_model;
use super::policies::{check_move, find_stages};
use super::{SqlRegistry, Writing, promotions};
use crate::Result;
use crate::registry::{EventKind, Promotion, PromotionKind, PromotionState, Target};

/// The promotion that moved a version last.
pub(super) async fn last_move(conn: &mut Conn, model: &str, version: u64) -> Result<Option<PromotionId>> {
    let id: Option<String> = db::query(
        "SELECT id FROM promotions WHERE model = $1 AND target = 'stage' AND version = $2 \
         AND revision IS NOT NULL ORDER BY revision DESC LIMIT 1",
    )
    .bind(model)
    .bind(db::to_i64(version))
    .fetch_optional(conn)
    .await
    .during("read history of", model)?;
    Ok(id.as_deref().map(db::from_text).transpose()?)
}

async fn revision_of(conn: &mut Conn, model: &str, version: u64) -> Result<(String, u64, Timestamp)> {
    let (stage, revision, moved_at): (String, i64, i64) =
        db::query("SELECT stage, stage_revision, stage_moved_at FROM versions WHERE model = $1 AND version = $2")
            .bind(model)
            .bind(db::to_i64(version))
            .fetch_one(conn)
            .await
            .during("read stage of", model)?;
    Ok((stage, db::number(revision)?, db::time(moved_at)))
}

/// Moves the promotion's version from the revision it saw, or not at all, and records it. Time does not run backwards for
/// a version.
async fn carry_out(writing: &mut Writing, who: &Principal, promotion: &mut Promotion) -> Result<()> {
    let Promotion { model, version, target, seen_revision, from_stage, .. } = &*promotion;
    let (stage, revision, moved_at) = revision_of(&mut writing.tx, model, *version).await?;
    let at = writing.at.max(moved_at);
    let done = db::query(
        "UPDATE versions SET stage = $3, stage_revision = $4 + 1, stage_moved_at = $5, updated_at = $6 \
         WHERE model = $1 AND version = $2 AND stage_revision = $4 AND deleted_at IS NULL",
    )
    .bind(model)
    .bind(db::to_i64(*version))
    .bind(target.name())
    .bind(db::to_i64(*seen_revision))
    .bind(at.timestamp_micros())
    .bind(writing.at.timestamp_micros())
    .execute(&mut writing.tx)
    .await
    .during("move stage of", model)?;
    if done != 1 {
        let (expected, found) = (
            format!("revision {seen_revision} ({})", from_stage.as_deref().unwrap_or("?")),
            format!("revision {revision} ({stage})"),
        );
        return Err(CoreError::Conflict { what: "stage", name: format!("{model}/{version}"), expected, found }.into());
    }
    tracing::info!(%model, version, stage = %target, revision = revision + 1, "stage moved");
    let what = ("stage.move", EventKind::StageMoved);
    writing.end_move(who, promotion, what, (revision + 1, at), None).await
}

/// Moves a version to the stage that was asked for, whose policy is met, and the others out of it if that was asked for.
pub(super) async fn enter(writing: &mut Writing, who: &Principal, promotion: &mut Promotion) -> Result<()> {
    let (model, to) = (promotion.model.clone(), promotion.target.name().to_owned());
    let table = find_stages(&mut writing.tx, Some(&model)).await?;
    let from = promotion.from_stage.clone().unwrap_or_default();
    if !table.stages.contains(&to) {
        let reason = format!("{to:?} is no longer one of {}", table.stages.join(", "));
        return Err(CoreError::invalid("stage", reason).into());
    }
    check_move(&table, promotion, &from, &to)?;
    let mut making_way = Vec::new();
    if promotion.archive_existing {
        let others: Vec<i64> = db::query(
            "SELECT version FROM versions WHERE model = $1 AND stage = $2 AND deleted_at IS NULL ORDER BY version",
        )
        .bind(&model)
        .bind(&to)
        .fetch_all(&mut writing.tx)
        .await
        .during("list versions of", &model)?;
        for other in others {
            making_way.push(db::number(other)?);
        }
    }
    carry_out(writing, who, promotion).await?;
    for version in making_way {
        let archive = table.archive.clone().unwrap_or_default();
        let (stage, revision, _) = revision_of(&mut writing.tx, &model, version).await?;
        let mut made = Promotion {
            id: PromotionId::new(writing.at),
            kind: PromotionKind::Promote,
            model: model.clone(),
            version,
            target: Target::Stage(archive.clone()),
            state: PromotionState::Requested,
            requested_by: who.name.clone(),
            requested_at: db::time(writing.at.timestamp_micros()),
            reason: format!("v{} took its place in {to} by promotion {}", promotion.version, promotion.id),
            evidence: Vec::new(),
            seen_revision: revision,
            from: None,
            from_stage: Some(stage.clone()),
            archive_existing: false,
            approvals: Vec::new(),
            decision: None,
            revision: None,
        };
        check_move(&table, &made, &stage, &archive)?;
        promotions::insert(&mut writing.tx, &made, "").await?;
        carry_out(writing, who, &mut made).await?;
    }
    Ok(())
}

impl SqlRegistry {
    pub(super) async fn stage_then(&self, model: &str, version: u64, at: Timestamp) -> Result<Option<String>> {
        let mut tx = self.read("read history of", model).await?;
        find_model(&mut tx, model).await?;
        let row: Option<(i64, Option<i64>, String)> =
            db::query("SELECT created_at, deleted_at, stage FROM versions WHERE model = $1 AND version = $2")
                .bind(model)
                .bind(db::to_i64(version))
                .fetch_optional(&mut tx)
                .await
                .during("read history of", model)?;
        let (created_at, deleted_at, now) =
            row.ok_or_else(|| CoreError::not_found("model version", format!("{model}/{version}")))?;
        let then = at.timestamp_micros();
        if then < created_at || deleted_at.is_some_and(|deleted| deleted <= then) {
            return Ok(None);
        }
        let moves: Vec<(i64, String, Option<String>)> = db::query(
            "SELECT decided_at, name, from_stage FROM promotions WHERE model = $1 AND target = 'stage' \
             AND version = $2 AND revision IS NOT NULL ORDER BY revision",
        )
        .bind(model)
        .bind(db::to_i64(version))
        .fetch_all(&mut tx)
        .await
        .during("read history of", model)?;
        let last = moves.iter().rev().find(|(at, ..)| *at <= then).map(|(_, name, _)| name.clone());
        let first = moves.first().and_then(|(_, _, from)| from.clone());
        Ok(Some(last.or(first).unwrap_or(now)))
    }
}

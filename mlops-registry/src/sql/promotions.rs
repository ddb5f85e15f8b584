//! Promotions as rows: what was asked for, who approved, how it ended.

use std::collections::HashMap;

use mlops_core::{Error as CoreError, PromotionId};

use super::SqlRegistry;
use super::db::{self, Backend as _, Conn};
use super::models::find_model;
use crate::registry::{Approval, Decision, Promotion, PromotionState, Target};
use crate::{Error, Result};

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
pub(super) async fn find_open(conn: &mut Conn, content: &str, seen_revision: u64) -> Result<Option<Promotion>> {
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
pub(super) async fn decide(conn: &mut Conn, promotion: &Promotion, undo_to: Option<&str>) -> Result<()> {
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

impl SqlRegistry {
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

#[cfg(all(test, feature = "sqlite"))]
mod tests {
    use mlops_core::{Principal, Role};

    use super::*;
    use crate::ModelRegistry as _;
    use crate::registry::{NewModel, NewPromotion, NewVersion};

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

//! Aliases as rows: pointing, removing, rolling back, and where they pointed.

use std::collections::BTreeMap;

use mlops_core::{Digest, Error as CoreError, Permission, Principal, PromotionId, Resource, Timestamp};

use super::db::{self, Backend as _, Conn};
use super::models::find_model;
use super::policies::find_policy;
use super::{SqlRegistry, Writing, promotions};
use crate::registry::{Alias, EventKind, Promotion, PromotionKind, PromotionState, Target, Tenure};
use crate::{Result, check};

db::row! {
    pub(super) struct AliasRow {
        model: String,
        alias: String,
        /// Nothing while it is removed.
        pub(super) version: Option<i64>,
        pub(super) revision: i64,
        moved_at: i64,
        pub(super) promotion: String,
        /// The promotion that the next rollback undoes.
        standing: String,
    }
}

impl AliasRow {
    /// The alias, unless it is removed.
    fn alias(self) -> Result<Option<Alias>> {
        let Some(version) = self.version else { return Ok(None) };
        Ok(Some(Alias {
            model: self.model,
            alias: self.alias,
            version: db::number(version)?,
            revision: db::number(self.revision)?,
            moved_at: db::time(self.moved_at),
            promotion: db::from_text(&self.promotion)?,
        }))
    }
}

pub(super) async fn find_row(conn: &mut Conn, model: &str, alias: &str) -> Result<Option<AliasRow>> {
    Ok(db::query("SELECT * FROM aliases WHERE model = $1 AND alias = $2")
        .bind(model)
        .bind(alias)
        .fetch_optional(conn)
        .await
        .during("read alias of", model)?)
}

/// Moves the promotion's alias from the revision it saw, or not at all.
async fn swap(conn: &mut Conn, promotion: &Promotion, at: Timestamp, standing: &str) -> Result<u64> {
    let Promotion { model, target, seen_revision, .. } = promotion;
    let alias = target.name();
    let version = Some(promotion.version).filter(|_| promotion.kind != PromotionKind::Remove);
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
        .bind(version.map(db::to_i64))
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
    let shown = |revision: u64, version: Option<u64>| match (revision, version) {
        (0, _) => "no alias".to_owned(),
        (revision, Some(version)) => format!("revision {revision} (v{version})"),
        (revision, None) => format!("revision {revision} (removed)"),
    };
    let (revision, version) = match find_row(conn, model, alias).await? {
        Some(row) => (db::number(row.revision)?, row.version.map(db::number).transpose()?),
        None => (0, None),
    };
    let (expected, found) = (shown(*seen_revision, promotion.from), shown(revision, version));
    Err(CoreError::Conflict { what: "alias", name: format!("{model}@{alias}"), expected, found }.into())
}

/// Moves the alias, ends the promotion and records both. Time does not run backwards for an alias.
async fn carry_out(
    writing: &mut Writing,
    who: &Principal,
    promotion: &mut Promotion,
    what: (&str, EventKind),
    standing: &str,
    undo_to: Option<&str>,
) -> Result<()> {
    let last = find_row(&mut writing.tx, &promotion.model, promotion.target.name()).await?;
    let at = last.map_or(writing.at, |row| db::time(row.moved_at).max(writing.at));
    let revision = swap(&mut writing.tx, promotion, at, standing).await?;
    writing.end_move(who, promotion, what, (revision, at), undo_to).await?;
    let Promotion { model, target, version, kind, .. } = &*promotion;
    tracing::info!(%model, alias = %target, version, revision, kind = kind.as_str(), "alias moved");
    Ok(())
}

/// The promotion that a rollback returns to where it undoes what stands: a removal counts as what it took away, and
/// deleted versions are passed over.
async fn below(conn: &mut Conn, model: &str, standing: &str) -> Result<Option<promotions::Row>> {
    let mut next = promotions::find_row(conn, standing).await?.and_then(|undone| undone.undo_to);
    while let Some(id) = next {
        let Some(row) = promotions::find_row(conn, &id).await? else { return Ok(None) };
        let lives: Option<i64> =
            db::query("SELECT version FROM versions WHERE model = $1 AND version = $2 AND deleted_at IS NULL")
                .bind(model)
                .bind(row.version)
                .fetch_optional(&mut *conn)
                .await
                .during("read version of", model)?;
        if lives.is_some() && row.kind != PromotionKind::Remove.as_str() {
            return Ok(Some(row));
        }
        next = row.undo_to;
    }
    Ok(None)
}

/// Points an alias at the version that was asked for, whose policy is met.
pub(super) async fn point(writing: &mut Writing, who: &Principal, promotion: &mut Promotion) -> Result<()> {
    let row = find_row(&mut writing.tx, &promotion.model, promotion.target.name()).await?;
    let (id, undo_to) = (promotion.id.to_string(), row.map(|row| row.standing));
    carry_out(writing, who, promotion, ("alias.move", EventKind::AliasMoved), &id, undo_to.as_deref()).await
}

/// A promotion that nobody has to ask for.
fn decided_at_once(writing: &Writing, who: &Principal, current: &AliasRow, kind: PromotionKind) -> Result<Promotion> {
    let from = current.version.map(db::number).transpose()?;
    Ok(Promotion {
        id: PromotionId::new(writing.at),
        kind,
        model: current.model.clone(),
        version: from.unwrap_or_default(),
        target: Target::Alias(current.alias.clone()),
        state: PromotionState::Requested,
        requested_by: who.name.clone(),
        requested_at: db::time(writing.at.timestamp_micros()),
        reason: String::new(),
        evidence: Vec::new(),
        seen_revision: db::number(current.revision)?,
        from,
        from_stage: None,
        archive_existing: false,
        approvals: Vec::new(),
        decision: None,
        revision: None,
    })
}

fn content(who: &Principal, kind: PromotionKind, model: &str, alias: &str, reason: &str) -> Result<String> {
    Ok(Digest::of_json(&(&who.name, kind, model, alias, reason))?.to_string())
}

fn missing(model: &str, alias: &str) -> crate::Error {
    CoreError::not_found("alias", format!("{model}@{alias}")).into()
}

/// Takes an alias away that points somewhere.
pub(super) async fn remove(
    writing: &mut Writing,
    who: &Principal,
    model: &str,
    alias: &str,
    reason: &str,
) -> Result<Promotion> {
    let current = find_row(&mut writing.tx, model, alias).await?;
    let current = current.filter(|row| row.version.is_some()).ok_or_else(|| missing(model, alias))?;
    let mut promotion = decided_at_once(writing, who, &current, PromotionKind::Remove)?;
    promotion.reason = reason.to_owned();
    let content = content(who, PromotionKind::Remove, model, alias, reason)?;
    promotions::insert(&mut writing.tx, &promotion, &content).await?;
    let id = promotion.id.to_string();
    let what = ("alias.remove", EventKind::AliasRemoved);
    carry_out(writing, who, &mut promotion, what, &id, Some(&current.standing)).await?;
    Ok(promotion)
}

impl SqlRegistry {
    pub(super) async fn take_alias(
        &self,
        who: &Principal,
        model: &str,
        alias: &str,
        reason: &str,
    ) -> Result<Promotion> {
        check::alias(alias)?;
        check::reason("reason", reason)?;
        let on = Resource::alias(model, alias);
        self.allow(who, Permission::MoveAlias, on.clone())?;
        transaction!(self.write("remove alias of", model), |writing| {
            find_model(&mut writing.tx, model).await?;
            let row = find_row(&mut writing.tx, model, alias).await?.ok_or_else(|| missing(model, alias))?;
            if row.version.is_none() {
                let last = promotions::find(&mut writing.tx, db::from_text(&row.promotion)?).await?;
                let same = last.requested_by == who.name && last.reason == reason;
                return if same { Ok(last) } else { Err(missing(model, alias)) };
            }
            let policy = find_policy(&mut writing.tx, model, &Target::Alias(alias.to_owned())).await?;
            if policy.is_some_and(|policy| policy.protects()) {
                self.allow(who, Permission::Administer, on.clone())?;
            }
            remove(&mut writing, who, model, alias, reason).await
        })
    }

    pub(super) async fn move_back(
        &self,
        who: &Principal,
        model: &str,
        alias: &str,
        id: Option<PromotionId>,
        reason: &str,
    ) -> Result<Promotion> {
        check::reason("reason", reason)?;
        self.allow(who, Permission::MoveAlias, Resource::alias(model, alias))?;
        let content = content(who, PromotionKind::Rollback, model, alias, reason)?;
        transaction!(self.write("roll back", model), |writing| {
            if let Some(found) = promotions::find_repeated(&mut writing.tx, id, &content).await? {
                return Ok(found);
            }
            find_model(&mut writing.tx, model).await?;
            let current = find_row(&mut writing.tx, model, alias).await?.ok_or_else(|| missing(model, alias))?;
            let below = below(&mut writing.tx, model, &current.standing).await?;
            let name = format!("{model}@{alias}");
            let below = below.ok_or_else(|| CoreError::not_found("earlier version of alias", name))?;
            let mut promotion = decided_at_once(&writing, who, &current, PromotionKind::Rollback)?;
            promotion.id = id.unwrap_or(promotion.id);
            promotion.version = db::number(below.version)?;
            promotion.reason = reason.to_owned();
            promotions::insert(&mut writing.tx, &promotion, &content).await?;
            let what = ("alias.rollback", EventKind::AliasMoved);
            carry_out(&mut writing, who, &mut promotion, what, &below.id, None).await?;
            Ok(promotion)
        })
    }

    pub(super) async fn read_alias(&self, model: &str, alias: &str) -> Result<Alias> {
        let mut tx = self.read("read alias of", model).await?;
        let row = find_row(&mut tx, model, alias).await?;
        match row.map(AliasRow::alias).transpose()?.flatten() {
            Some(alias) => Ok(alias),
            None => {
                find_model(&mut tx, model).await?;
                Err(missing(model, alias))
            }
        }
    }

    pub(super) async fn list_aliases(&self, model: &str) -> Result<Vec<Alias>> {
        let mut tx = self.read("list aliases of", model).await?;
        find_model(&mut tx, model).await?;
        let rows: Vec<AliasRow> =
            db::query("SELECT * FROM aliases WHERE model = $1 AND version IS NOT NULL ORDER BY alias")
                .bind(model)
                .fetch_all(&mut tx)
                .await
                .during("list aliases of", model)?;
        rows.into_iter().filter_map(|row| row.alias().transpose()).collect()
    }

    pub(super) async fn aliases_then(&self, model: &str, at: Timestamp) -> Result<BTreeMap<String, u64>> {
        let mut tx = self.read("read history of", model).await?;
        find_model(&mut tx, model).await?;
        let rows: Vec<(String, i64, String)> = db::query(
            "SELECT p.name, p.version, p.kind FROM promotions p JOIN (SELECT name, MAX(revision) AS last \
             FROM promotions WHERE model = $1 AND target = 'alias' AND decided_at <= $2 AND revision IS NOT NULL \
             GROUP BY name) l ON l.name = p.name AND l.last = p.revision WHERE p.model = $1 AND p.target = 'alias'",
        )
        .bind(model)
        .bind(at.timestamp_micros())
        .fetch_all(&mut tx)
        .await
        .during("read history of", model)?;
        let pointing = rows.into_iter().filter(|(_, _, kind)| kind != PromotionKind::Remove.as_str());
        pointing.map(|(name, version, _)| Ok((name, db::number(version)?))).collect()
    }

    pub(super) async fn alias_then(&self, model: &str, alias: &str, at: Timestamp) -> Result<Option<u64>> {
        let mut tx = self.read("read history of", model).await?;
        find_model(&mut tx, model).await?;
        let last: Option<(i64, String)> = db::query(
            "SELECT version, kind FROM promotions WHERE model = $1 AND target = 'alias' AND name = $2 \
             AND revision IS NOT NULL AND decided_at <= $3 ORDER BY revision DESC LIMIT 1",
        )
        .bind(model)
        .bind(alias)
        .bind(at.timestamp_micros())
        .fetch_optional(&mut tx)
        .await
        .during("read history of", model)?;
        let last = last.filter(|(_, kind)| kind != PromotionKind::Remove.as_str());
        Ok(last.map(|(version, _)| db::number(version)).transpose()?)
    }

    pub(super) async fn tenures(
        &self,
        model: &str,
        alias: &str,
        from: Timestamp,
        until: Timestamp,
    ) -> Result<Vec<Tenure>> {
        let mut tx = self.read("read history of", model).await?;
        find_model(&mut tx, model).await?;
        let rows: Vec<(i64, String, String, String, i64)> = db::query(
            "SELECT version, kind, id, decided_by, decided_at FROM promotions WHERE model = $1 \
             AND target = 'alias' AND name = $2 AND revision IS NOT NULL ORDER BY revision",
        )
        .bind(model)
        .bind(alias)
        .fetch_all(&mut tx)
        .await
        .during("read history of", model)?;
        let ends: Vec<Option<Timestamp>> = rows.iter().skip(1).map(|row| Some(db::time(row.4))).chain([None]).collect();
        let mut tenures = Vec::new();
        for ((version, kind, id, by, at), end) in rows.into_iter().zip(ends) {
            let at = db::time(at);
            let over = end.is_some_and(|end| end <= from || end <= at);
            if kind == PromotionKind::Remove.as_str() || at >= until || over {
                continue;
            }
            let (version, promotion) = (db::number(version)?, db::from_text(&id)?);
            tenures.push(Tenure { version, from: at, until: end, promotion, by });
        }
        Ok(tenures)
    }
}

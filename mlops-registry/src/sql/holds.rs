//! Audit holds as rows.

use mlops_core::{Permission, Principal, Resource};
use serde_json::{Value, json};

use super::db::{self, Backend as _, Conn};
use super::models::find_model;
use super::versions::find_version;
use super::{SqlRegistry, audit};
use crate::registry::{EventKind, Hold};
use crate::{Result, check};

db::row! {
    struct HoldRow {
        model: String,
        version: i64,
        held_by: String,
        held_at: i64,
        reason: String,
    }
}

impl HoldRow {
    fn hold(self) -> Result<Hold> {
        let (model, version, at) = (self.model, db::number(self.version)?, db::time(self.held_at));
        Ok(Hold { model, version, by: self.held_by, at, reason: self.reason })
    }
}

/// The holds that were not released, of one version or of all.
pub(super) async fn open(conn: &mut Conn, model: &str, version: Option<u64>) -> Result<Vec<Hold>> {
    let query = match version {
        Some(_) => "SELECT * FROM holds WHERE model = $1 AND version = $2 AND released_at IS NULL ORDER BY place",
        None => "SELECT * FROM holds WHERE model = $1 AND released_at IS NULL ORDER BY version, place",
    };
    let mut query = db::query(query).bind(model);
    if let Some(version) = version {
        query = query.bind(db::to_i64(version));
    }
    let rows: Vec<HoldRow> = query.fetch_all(conn).await.during("read holds of", model)?;
    rows.into_iter().map(HoldRow::hold).collect()
}

impl SqlRegistry {
    pub(super) async fn place_hold(&self, who: &Principal, model: &str, version: u64, reason: &str) -> Result<Hold> {
        check::reason("reason", reason)?;
        self.allow(who, Permission::Review, Resource::model(model))?;
        transaction!(self.write("hold version of", model), |writing| {
            find_version(&mut writing.tx, model, version).await?;
            let placed = open(&mut writing.tx, model, Some(version)).await?;
            if let Some(hold) = placed.into_iter().find(|hold| hold.by == who.name) {
                if hold.reason == reason {
                    return Ok(hold);
                }
                let name = format!("{} of {model}/{version}", who.name);
                return Err(mlops_core::Error::AlreadyExists { what: "hold", name }.into());
            }
            let place: i64 =
                db::query("SELECT COALESCE(MAX(place), 0) + 1 FROM holds WHERE model = $1 AND version = $2")
                    .bind(model)
                    .bind(db::to_i64(version))
                    .fetch_one(&mut writing.tx)
                    .await
                    .during("hold version of", model)?;
            let at = writing.at.timestamp_micros();
            db::query(
                "INSERT INTO holds (model, version, place, held_by, held_at, reason) VALUES ($1, $2, $3, $4, $5, $6)",
            )
            .bind(model)
            .bind(db::to_i64(version))
            .bind(place)
            .bind(&who.name)
            .bind(at)
            .bind(reason)
            .execute(&mut writing.tx)
            .await
            .during("hold version of", model)?;
            let audited = writing.event(who, "version.hold", format!("model {model}/{version}"));
            let after = json!({ "held_by": who.name });
            audit::append(&mut writing.tx, audited.change(Value::Null, after).because(reason)).await?;
            writing.tell_of(EventKind::VersionHeld, model, Some(version), &[("by", &who.name)]).await?;
            let (model, by, reason) = (model.to_owned(), who.name.clone(), reason.to_owned());
            Ok(Hold { model, version, by, at: db::time(at), reason })
        })
    }

    pub(super) async fn end_holds(&self, who: &Principal, model: &str, version: u64, reason: &str) -> Result<()> {
        check::reason("reason", reason)?;
        self.allow(who, Permission::Administer, Resource::model(model))?;
        transaction!(self.write("release version of", model), |writing| {
            find_version(&mut writing.tx, model, version).await?;
            let placed = open(&mut writing.tx, model, Some(version)).await?;
            if placed.is_empty() {
                return Ok(());
            }
            db::query(
                "UPDATE holds SET released_by = $3, released_at = $4, release_reason = $5 \
                 WHERE model = $1 AND version = $2 AND released_at IS NULL",
            )
            .bind(model)
            .bind(db::to_i64(version))
            .bind(&who.name)
            .bind(writing.at.timestamp_micros())
            .bind(reason)
            .execute(&mut writing.tx)
            .await
            .during("release version of", model)?;
            let held_by: Vec<&str> = placed.iter().map(|hold| hold.by.as_str()).collect();
            let audited = writing.event(who, "version.release", format!("model {model}/{version}"));
            let before = json!({ "held_by": held_by });
            audit::append(&mut writing.tx, audited.change(before, Value::Null).because(reason)).await?;
            writing.tell_of(EventKind::VersionReleased, model, Some(version), &[("by", &who.name)]).await
        })
    }

    pub(super) async fn list_holds(&self, model: &str) -> Result<Vec<Hold>> {
        let mut tx = self.read("read holds of", model).await?;
        find_model(&mut tx, model).await?;
        open(&mut tx, model, None).await
    }
}

use async_trait::async_trait;
use mlops_core::audit::{AuditEntry, AuditEvent, AuditLog};
use mlops_core::{Digest, Result};

use super::SqlRegistry;
use super::db::{self, Backend as _, Conn};

db::row! {
    struct Row {
        seq: i64,
        at: i64,
        actor: String,
        action: String,
        resource: String,
        value_before: String,
        value_after: String,
        reason: String,
        previous: String,
        digest: String,
    }
}

impl Row {
    fn entry(self) -> Result<AuditEntry> {
        let event = AuditEvent::new(db::time(self.at), self.actor, self.action, self.resource)
            .change(db::from_json(&self.value_before)?, db::from_json(&self.value_after)?)
            .because(self.reason);
        let (previous, digest) = (db::from_text(&self.previous)?, db::from_text(&self.digest)?);
        Ok(AuditEntry::from_parts(db::number(self.seq)?, event, previous, digest))
    }
}

/// Seals the event behind the last entry, within the caller's transaction.
pub(super) async fn append(conn: &mut Conn, mut event: AuditEvent) -> Result<AuditEntry> {
    const WHAT: &str = "append to audit log";
    // What is sealed must read back the same, and times are stored to the microsecond.
    event.at = db::time(event.at.timestamp_micros());
    let key = event.resource.clone();
    let (seq, previous): (i64, String) =
        db::query("UPDATE heads SET seq = seq + 1 WHERE name = 'audit' RETURNING seq, digest")
            .fetch_one(&mut *conn)
            .await
            .during(WHAT, &key)?;
    let previous: Digest = db::from_text(&previous)?;
    let entry = AuditEntry::seal(db::number(seq)?, event, previous)?;
    let (before, after) = (db::json(&entry.event.before)?, db::json(&entry.event.after)?);
    let (digest, known_by) = (entry.digest.to_string(), Digest::of_json(&entry.event)?.to_string());
    db::query(
        "INSERT INTO audit_log \
         (seq, at, actor, action, resource, value_before, value_after, reason, previous, digest, event) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
    )
    .bind(seq)
    .bind(entry.event.at.timestamp_micros())
    .bind(&entry.event.actor)
    .bind(&entry.event.action)
    .bind(&entry.event.resource)
    .bind(before)
    .bind(after)
    .bind(&entry.event.reason)
    .bind(previous.to_string())
    .bind(&digest)
    .bind(known_by)
    .execute(&mut *conn)
    .await
    .during(WHAT, &key)?;
    db::query("UPDATE heads SET digest = $1 WHERE name = 'audit'")
        .bind(&digest)
        .execute(conn)
        .await
        .during(WHAT, &key)?;
    Ok(entry)
}

/// The entry of an event that is equal in every field.
async fn find(conn: &mut Conn, event: &AuditEvent) -> Result<Option<AuditEntry>> {
    let found: Option<Row> = db::query("SELECT * FROM audit_log WHERE event = $1 ORDER BY seq LIMIT 1")
        .bind(Digest::of_json(event)?.to_string())
        .fetch_optional(&mut *conn)
        .await
        .during("read", "audit log")?;
    let found = found.map(Row::entry).transpose()?.filter(|entry| entry.event == *event);
    if found.is_some() {
        return Ok(found);
    }
    let older: Option<Row> = db::query(
        "SELECT * FROM audit_log WHERE event IS NULL AND at = $1 AND actor = $2 AND action = $3 AND resource = $4 \
         AND value_before = $5 AND value_after = $6 AND reason = $7 ORDER BY seq LIMIT 1",
    )
    .bind(event.at.timestamp_micros())
    .bind(&event.actor)
    .bind(&event.action)
    .bind(&event.resource)
    .bind(db::json(&event.before)?)
    .bind(db::json(&event.after)?)
    .bind(&event.reason)
    .fetch_optional(conn)
    .await
    .during("read", "audit log")?;
    older.map(Row::entry).transpose()
}

#[async_trait]
impl AuditLog for SqlRegistry {
    async fn append(&self, mut event: AuditEvent) -> Result<AuditEntry> {
        event.at = db::time(event.at.timestamp_micros());
        Ok(transaction!(self.write("append to audit log", &event.resource), |writing| {
            if let Some(entry) = find(&mut writing.tx, &event).await? {
                return Ok(entry);
            }
            let entry = append(&mut writing.tx, event.clone()).await?;
            Ok(entry)
        })?)
    }

    async fn entries(&self, from: u64, limit: usize) -> Result<Vec<AuditEntry>> {
        let rows: Vec<Row> = db::query("SELECT * FROM audit_log WHERE seq >= $1 ORDER BY seq LIMIT $2")
            .bind(db::to_i64(from))
            .bind(db::to_i64(limit as u64))
            .fetch_all(&self.0.database)
            .await
            .during("read", "audit log")?;
        rows.into_iter().map(Row::entry).collect()
    }
}

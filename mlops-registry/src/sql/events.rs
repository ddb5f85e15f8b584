//! The outbox: what followers are told, in the transaction of the change.

use mlops_core::Timestamp;

use super::db::{self, Backend as _, Conn};
use super::{SqlRegistry, Writing};
use crate::registry::{Event, EventKind};
use crate::{Result, check};

db::row! {
    struct EventRow {
        seq: i64,
        at: i64,
        kind: String,
        model: String,
        version: Option<i64>,
        alias: Option<String>,
        stage: Option<String>,
        revision: Option<i64>,
        promotion: Option<String>,
        details: Option<String>,
    }
}

impl EventRow {
    fn event(self) -> Result<Event> {
        Ok(Event {
            seq: db::number(self.seq)?,
            at: db::time(self.at),
            kind: db::from_word(&self.kind)?,
            model: self.model,
            version: self.version.map(db::number).transpose()?,
            alias: self.alias,
            stage: self.stage,
            revision: self.revision.map(db::number).transpose()?,
            promotion: self.promotion.as_deref().map(db::from_text).transpose()?,
            details: self.details.as_deref().map(db::from_json).transpose()?.unwrap_or_default(),
        })
    }
}

/// The event at a place that there is.
#[cfg(feature = "webhooks")]
pub(super) async fn find_event(conn: &mut Conn, seq: i64) -> Result<Event> {
    let row: EventRow =
        db::query("SELECT * FROM events WHERE seq = $1").bind(seq).fetch_one(conn).await.during("read", "events")?;
    row.event()
}

/// An event of a model; its place is given when it is told.
pub(super) fn event(at: Timestamp, kind: EventKind, model: &str, version: Option<u64>) -> Event {
    let (alias, stage, revision, promotion) = (None, None, None, None);
    let (model, details) = (model.to_owned(), Default::default());
    Event { seq: 0, at, kind, model, version, alias, stage, revision, promotion, details }
}

/// Tells followers what happened, in the same transaction. The place is given here.
pub(super) async fn tell(conn: &mut Conn, event: Event) -> Result<()> {
    let seq = db::next_place(conn, "event").await?;
    let details = if event.details.is_empty() { None } else { Some(db::json(&event.details)?) };
    db::query(
        "INSERT INTO events (seq, at, kind, model, version, alias, stage, revision, promotion, details) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
    )
    .bind(seq)
    .bind(event.at.timestamp_micros())
    .bind(event.kind.as_str())
    .bind(&event.model)
    .bind(event.version.map(db::to_i64))
    .bind(&event.alias)
    .bind(&event.stage)
    .bind(event.revision.map(db::to_i64))
    .bind(event.promotion.map(|p| p.to_string()))
    .bind(details)
    .execute(&mut *conn)
    .await
    .during("write event of", &event.model)?;
    Ok(db::ring(conn).await.during("write event of", &event.model)?)
}

impl Writing {
    /// Tells of a model or one of its versions, with what else there is to know.
    pub(super) async fn tell_of(
        &mut self,
        kind: EventKind,
        model: &str,
        version: Option<u64>,
        details: &[(&str, &str)],
    ) -> Result<()> {
        let details = details.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        tell(&mut self.tx, Event { details, ..event(self.at, kind, model, version) }).await
    }
}

impl SqlRegistry {
    pub(super) async fn list_events(&self, after: u64, limit: usize) -> Result<Vec<Event>> {
        let rows: Vec<EventRow> = db::query("SELECT * FROM events WHERE seq > $1 ORDER BY seq LIMIT $2")
            .bind(db::to_i64(after))
            .bind(check::page(limit)?)
            .fetch_all(&self.0.database)
            .await
            .during("read", "events")?;
        rows.into_iter().map(EventRow::event).collect()
    }
}

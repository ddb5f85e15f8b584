//! Deliveries under way: who makes the next one, and what came of it.

use std::time::Duration;

use futures::future::select;
use mlops_core::{DeliveryId, Timestamp, WebhookId};
use uuid::Uuid;

use super::db::{self, Arg, Backend as _, Bell, Conn, Listening, Lock};
use super::events::find_event;
use super::webhooks::{Subscription, WebhookRow, delivery_id, find_row};
use super::{SqlRegistry, Writing};
use crate::Result;
use crate::webhooks::{DeliveryState, Secret, body};

/// How many deliveries of a webhook are kept.
const KEPT: i64 = 1_000;

/// How many times the interval one waits that is told of events; see [`Watch`](super::Watch).
#[cfg(feature = "postgres")]
const TOLD: u32 = 10;

/// A delivery that is this process's to make, for a while.
pub(crate) struct Claim {
    webhook: WebhookId,
    seq: i64,
    /// Tells this claim from a later one.
    holder: String,
    pub(crate) url: String,
    pub(crate) secret: Option<Secret>,
    pub(crate) delivery: DeliveryId,
    pub(crate) payload: String,
    /// The number of this attempt, from 1.
    pub(crate) attempt: u32,
}

/// What came of an attempt.
pub(crate) struct Outcome {
    pub(crate) state: DeliveryState,
    /// How long until the next attempt, while it is pending.
    pub(crate) delay: Duration,
    pub(crate) status: Option<u16>,
    pub(crate) error: Option<String>,
    pub(crate) excerpt: Option<String>,
}

/// What wakes a dispatcher.
pub(crate) struct Alarm {
    bell: Bell,
    interval: Duration,
}

impl Alarm {
    /// How long to wait at most. What happens from now on rings, where the database tells.
    pub(crate) async fn set(&mut self) -> Duration {
        match self.bell.listen().await {
            #[cfg(feature = "postgres")]
            Listening::Yes => self.interval * TOLD,
            #[cfg(feature = "postgres")]
            Listening::NotNow => self.interval,
            #[cfg(feature = "sqlite")]
            Listening::Never => self.interval,
        }
    }

    pub(crate) async fn rings(&mut self, pause: Duration) {
        select(Box::pin(tokio::time::sleep(pause)), Box::pin(self.bell.heard())).await;
    }
}

db::row! {
    struct DueRow {
        id: String,
        subscriptions: String,
        seen: i64,
        held_until: i64,
        next_at: Option<i64>,
    }
}

db::row! {
    struct PendingRow {
        seq: i64,
        id: String,
        payload: String,
        attempts: i64,
        next_at: i64,
    }
}

/// The place of the first event that a webhook is to be told and has not been.
async fn next_event(conn: &mut Conn, subscriptions: &[Subscription], seen: i64) -> Result<Option<i64>> {
    let (mut sql, mut args) = (String::new(), Vec::new());
    for (kind, since) in subscriptions {
        let place = args.len();
        let joined = if place == 0 { "" } else { " UNION ALL " };
        let (kind_at, since_at) = (place + 1, place + 2);
        sql.push_str(&format!(
            "{joined}SELECT MIN(seq) AS seq FROM events WHERE kind = ${kind_at} AND seq > ${since_at}"
        ));
        args.push(Arg::from(kind.as_str()));
        args.push(Arg::from(db::to_i64(*since).max(seen)));
    }
    if args.is_empty() {
        return Ok(None);
    }
    let sql = format!("SELECT MIN(seq) FROM ({sql}) AS next");
    Ok(db::built(sql, args).fetch_one(conn).await.during("read", "events")?)
}

fn later(at: Timestamp, by: Duration) -> i64 {
    let micros = i64::try_from(by.as_micros()).unwrap_or(i64::MAX);
    at.timestamp_micros().saturating_add(micros)
}

impl SqlRegistry {
    pub(crate) fn now(&self) -> Timestamp {
        self.0.clock.now()
    }

    pub(crate) fn alarm(&self) -> Alarm {
        Alarm { bell: self.0.database.bell(), interval: self.0.poll_interval }
    }

    /// The webhooks that are to be told something now, those first that are furthest behind, and how long until another is, as
    /// far as that is known.
    pub(crate) async fn due_webhooks(&self) -> Result<(Vec<WebhookId>, Option<Duration>)> {
        const WHAT: &str = "look for deliveries to";
        let mut tx = self.read(WHAT, "webhooks").await?;
        let rows: Vec<DueRow> = db::query(
            "SELECT w.id, w.subscriptions, w.seen, w.held_until, (SELECT d.next_at FROM webhook_deliveries d \
             WHERE d.webhook = w.id AND d.state = 'pending') AS next_at \
             FROM webhooks w WHERE w.status = 'ACTIVE' AND w.deleted_at IS NULL ORDER BY w.seen, w.id",
        )
        .fetch_all(&mut tx)
        .await
        .during(WHAT, "webhooks")?;
        let now = self.now().timestamp_micros();
        let (mut due, mut next) = (Vec::new(), None::<i64>);
        for row in rows {
            let from = row.next_at.map_or(row.held_until, |at| at.max(row.held_until));
            if from > now {
                next = Some(next.map_or(from, |next| next.min(from)));
                continue;
            }
            let subscriptions: Vec<Subscription> = db::from_json(&row.subscriptions)?;
            if row.next_at.is_some() || next_event(&mut tx, &subscriptions, row.seen).await?.is_some() {
                due.push(db::from_text(&row.id)?);
            }
        }
        let next = next.map(|at| Duration::from_micros(u64::try_from(at - now).unwrap_or(0)));
        Ok((due, next))
    }

    /// The next delivery to a webhook, if there is one that is due and nobody else makes it.
    pub(crate) async fn claim_delivery(&self, id: WebhookId, lease: Duration, most: u32) -> Result<Option<Claim>> {
        let key = id.to_string();
        transaction!(self.begin(Lock::Webhook, "claim delivery to", &key), |writing| {
            let Some(row) = find_row(&mut writing.tx, id).await?.filter(WebhookRow::is_active) else { return Ok(None) };
            let now = writing.at.timestamp_micros();
            if row.held_until > now {
                return Ok(None);
            }
            let subscriptions: Vec<Subscription> = db::from_json(&row.subscriptions)?;
            let (mut pending, mut seen) = (writing.pending(&key).await?, row.seen);
            if let Some(used_up) = pending.take_if(|pending| pending.attempts >= i64::from(most)) {
                // Whoever made the last attempt died over it.
                writing.give_up(&key, used_up.seq).await?;
                seen = used_up.seq;
            }
            let pending = match pending {
                Some(pending) if pending.next_at > now => return Ok(None),
                Some(pending) => pending,
                None => match next_event(&mut writing.tx, &subscriptions, seen).await? {
                    None => return Ok(None),
                    Some(seq) => writing.start(id, seq).await?,
                },
            };
            let holder = Uuid::new_v4().to_string();
            db::query("UPDATE webhook_deliveries SET attempts = attempts + 1, updated_at = $3 WHERE webhook = $1 AND seq = $2")
                .bind(&key)
                .bind(pending.seq)
                .bind(now)
                .execute(&mut writing.tx)
                .await
                .during("claim delivery to", &key)?;
            db::query("UPDATE webhooks SET seen = $2, holder = $3, held_until = $4 WHERE id = $1")
                .bind(&key)
                .bind(pending.seq)
                .bind(&holder)
                .bind(later(writing.at, lease))
                .execute(&mut writing.tx)
                .await
                .during("claim delivery to", &key)?;
            let secret = self.secret(&row, id).await?;
            Ok(Some(Claim {
                webhook: id,
                seq: pending.seq,
                holder,
                url: row.url,
                secret,
                delivery: db::from_text(&pending.id)?,
                payload: pending.payload,
                attempt: u32::try_from(pending.attempts + 1).unwrap_or(u32::MAX),
            }))
        })
    }

    /// Records what came of an attempt and gives the claim up. What was delivered is so whoever holds the claim by now; any
    /// other outcome counts only as long as nobody else tries.
    pub(crate) async fn settle_delivery(&self, claim: &Claim, outcome: &Outcome) -> Result<()> {
        const WHAT: &str = "record delivery to";
        let key = claim.webhook.to_string();
        transaction!(self.begin(Lock::Webhook, WHAT, &key), |writing| {
            let now = writing.at.timestamp_micros();
            let holder: Option<Option<String>> = db::query("SELECT holder FROM webhooks WHERE id = $1")
                .bind(&key)
                .fetch_optional(&mut writing.tx)
                .await
                .during(WHAT, &key)?;
            let ours = holder.flatten().is_some_and(|holder| holder == claim.holder);
            if !ours && outcome.state != DeliveryState::Delivered {
                return Ok(());
            }
            db::query(
                "UPDATE webhook_deliveries SET state = $3, next_at = $4, updated_at = $5, last_status = $6, \
                 last_error = $7, excerpt = $8, payload = CASE WHEN $3 = 'pending' THEN payload ELSE '' END \
                 WHERE webhook = $1 AND seq = $2 AND state = 'pending'",
            )
            .bind(&key)
            .bind(claim.seq)
            .bind(outcome.state.as_str())
            .bind(later(writing.at, outcome.delay))
            .bind(now)
            .bind(outcome.status.map(i64::from))
            .bind(outcome.error.as_deref().map(|error| error.replace('\0', "")))
            .bind(&outcome.excerpt)
            .execute(&mut writing.tx)
            .await
            .during(WHAT, &key)?;
            db::query(
                "DELETE FROM webhook_deliveries WHERE webhook = $1 AND seq <= (SELECT seq FROM webhook_deliveries \
                 WHERE webhook = $1 ORDER BY seq DESC LIMIT 1 OFFSET $2)",
            )
            .bind(&key)
            .bind(KEPT)
            .execute(&mut writing.tx)
            .await
            .during(WHAT, &key)?;
            if ours {
                db::query("UPDATE webhooks SET holder = NULL, held_until = 0 WHERE id = $1")
                    .bind(&key)
                    .execute(&mut writing.tx)
                    .await
                    .during(WHAT, &key)?;
            }
            Ok(())
        })
    }
}

impl Writing {
    /// What a webhook is being told.
    async fn pending(&mut self, webhook: &str) -> Result<Option<PendingRow>> {
        Ok(db::query(
            "SELECT seq, id, payload, attempts, next_at FROM webhook_deliveries WHERE webhook = $1 AND state = 'pending'",
        )
        .bind(webhook)
        .fetch_optional(&mut self.tx)
        .await
        .during("claim delivery to", webhook)?)
    }

    async fn give_up(&mut self, webhook: &str, seq: i64) -> Result<()> {
        db::query(
            "UPDATE webhook_deliveries SET state = 'failed', payload = '', updated_at = $3, \
             last_error = COALESCE(last_error, $4) WHERE webhook = $1 AND seq = $2",
        )
        .bind(webhook)
        .bind(seq)
        .bind(self.at.timestamp_micros())
        .bind("the last attempt ended without being recorded")
        .execute(&mut self.tx)
        .await
        .during("claim delivery to", webhook)?;
        Ok(())
    }

    /// Begins to tell a webhook of an event. What is told does not change from here on.
    async fn start(&mut self, webhook: WebhookId, seq: i64) -> Result<PendingRow> {
        const WHAT: &str = "claim delivery to";
        let (event, key) = (find_event(&mut self.tx, seq).await?, webhook.to_string());
        let (id, payload) = (delivery_id(webhook, &event).to_string(), body(&event));
        db::query(
            "INSERT INTO webhook_deliveries (webhook, seq, id, event, payload, state, attempts, next_at, updated_at) \
             VALUES ($1, $2, $3, $4, $5, 'pending', 0, 0, 0)",
        )
        .bind(&key)
        .bind(seq)
        .bind(&id)
        .bind(event.kind.as_str())
        .bind(&payload)
        .execute(&mut self.tx)
        .await
        .during(WHAT, &key)?;
        Ok(PendingRow { seq, id, payload, attempts: 0, next_at: 0 })
    }
}

//! Webhooks as rows: setting them up, changing them, and what was told to them.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mlops_core::{DeliveryId, Digest, Error as CoreError, Permission, Principal, Resource, WebhookId};
use serde_json::{Value, json};

use super::db::{self, Backend as _, Conn};
use super::{SqlRegistry, audit};
use crate::registry::EventKind;
use crate::webhooks::{
    self, Delivery, DeliveryState, NewWebhook, Secret, Webhook, WebhookEdit, WebhookEvent, WebhookStatus,
};
use crate::{Result, check};

/// Most webhooks of a registry: each is looked after by itself.
const MOST: i64 = 1_000;

/// A kind of event, and the last event before it was asked for.
pub(super) type Subscription = (EventKind, u64);

db::row! {
    pub(super) struct WebhookRow {
        id: String,
        name: String,
        description: String,
        pub(super) url: String,
        pub(super) subscriptions: String,
        status: String,
        pub(super) secret: Option<String>,
        pub(super) secret_key: Option<String>,
        author: String,
        created_at: i64,
        updated_at: i64,
        deleted_at: Option<i64>,
        content: String,
        pub(super) seen: i64,
        pub(super) held_until: i64,
    }
}

impl WebhookRow {
    fn webhook(self) -> Result<Webhook> {
        let subscriptions: Vec<Subscription> = db::from_json(&self.subscriptions)?;
        Ok(Webhook {
            id: db::from_text(&self.id)?,
            name: self.name,
            description: self.description,
            url: self.url,
            events: subscriptions.into_iter().map(|(kind, _)| WebhookEvent::of(kind)).collect(),
            status: db::from_word(&self.status)?,
            signed: self.secret.is_some(),
            author: self.author,
            created_at: db::time(self.created_at),
            updated_at: db::time(self.updated_at),
        })
    }

    pub(super) fn is_active(&self) -> bool {
        self.deleted_at.is_none() && self.status == WebhookStatus::Active.as_str()
    }
}

db::row! {
    struct DeliveryRow {
        id: String,
        seq: i64,
        event: String,
        state: String,
        attempts: i64,
        next_at: i64,
        updated_at: i64,
        last_status: Option<i64>,
        last_error: Option<String>,
        excerpt: Option<String>,
    }
}

impl DeliveryRow {
    fn delivery(self) -> Result<Delivery> {
        let state: DeliveryState = db::from_word(&self.state)?;
        Ok(Delivery {
            id: db::from_text(&self.id)?,
            seq: db::number(self.seq)?,
            event: WebhookEvent::of(db::from_word(&self.event)?),
            state,
            attempts: u32::try_from(self.attempts).unwrap_or(u32::MAX),
            next_at: (state == DeliveryState::Pending).then(|| db::time(self.next_at)),
            updated_at: db::time(self.updated_at),
            last_status: self.last_status.and_then(|status| u16::try_from(status).ok()),
            last_error: self.last_error,
            excerpt: self.excerpt,
        })
    }
}

/// The row, also of one that is deleted.
pub(super) async fn find_row(conn: &mut Conn, id: WebhookId) -> Result<Option<WebhookRow>> {
    let id = id.to_string();
    Ok(db::query("SELECT * FROM webhooks WHERE id = $1")
        .bind(&id)
        .fetch_optional(conn)
        .await
        .during("read webhook", &id)?)
}

async fn find_live(conn: &mut Conn, id: WebhookId) -> Result<WebhookRow> {
    let row = find_row(conn, id).await?.filter(|row| row.deleted_at.is_none());
    row.ok_or_else(|| CoreError::not_found("webhook", id).into())
}

/// The place of the last event.
async fn last_event(conn: &mut Conn) -> Result<u64> {
    let last: i64 =
        db::query("SELECT seq FROM heads WHERE name = 'event'").fetch_one(conn).await.during("read", "events")?;
    Ok(db::number(last)?)
}

fn resource() -> Resource {
    Resource::new("registry", "webhooks")
}

/// MLflow's rule, as its clients know it.
fn check_name(name: &str) -> Result<()> {
    let end = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if (1..=63).contains(&name.len()) && name.chars().all(word) && end(name.chars().next()) && end(name.chars().last())
    {
        return Ok(());
    }
    let shown: String = name.chars().take(80).collect();
    let rule = "must be 1 to 63 letters, digits, '.', '_' and '-', with a letter or digit at both ends";
    Err(CoreError::invalid("webhook name", format!("{shown:?} {rule}")).into())
}

/// Each event once, in the order in which they were given.
fn check_events(events: &[WebhookEvent]) -> Result<Vec<EventKind>> {
    let mut kinds = Vec::new();
    for event in events {
        if !kinds.contains(&event.kind()) {
            kinds.push(event.kind());
        }
    }
    if kinds.is_empty() {
        return Err(CoreError::invalid("webhook events", "there must be at least one").into());
    }
    Ok(kinds)
}

/// What everybody who reads the audit log may know of an address, some of which hold a token.
fn audited_url(url: &str) -> Value {
    json!({ "origin": webhooks::origin(url), "digest": Digest::of(url.as_bytes()) })
}

fn names(kinds: &[EventKind]) -> Vec<String> {
    kinds.iter().map(|kind| WebhookEvent::of(*kind).to_string()).collect()
}

/// A secret as it is stored: the text, and the name of the key that it is encrypted with.
type Stored = (Option<String>, Option<String>);

impl SqlRegistry {
    /// Sets a webhook up. Repeated with the same id and the same contents (the secret aside) it changes nothing.
    ///
    /// # Errors
    /// [`InvalidInput`](CoreError::InvalidInput) for a name, an address, events or a secret that may not be, or too many
    /// webhooks; [`AlreadyExists`](CoreError::AlreadyExists) if the id was given to another;
    /// [`PermissionDenied`](CoreError::PermissionDenied).
    pub async fn create_webhook(&self, who: &Principal, new: NewWebhook) -> Result<Webhook> {
        const WHAT: &str = "create webhook";
        check_name(&new.name)?;
        check::text("webhook description", &new.description, check::TEXT)?;
        webhooks::check(&new.url)?;
        let kinds = check_events(&new.events)?;
        new.secret.as_ref().map_or(Ok(()), Secret::check)?;
        self.allow(who, Permission::Administer, resource())?;
        let id = new.id.unwrap_or_else(|| WebhookId::new(self.now()));
        let key = id.to_string();
        let content = (&new.name, &new.description, &new.url, names(&kinds), new.status, new.secret.is_some());
        let content = Digest::of_json(&content)?.to_string();
        let (secret, secret_key) = self.stored(id, new.secret.as_ref()).await?;
        transaction!(self.write(WHAT, &key), |writing| {
            if let Some(row) = find_row(&mut writing.tx, id).await? {
                if row.deleted_at.is_none() && row.content == content {
                    return row.webhook();
                }
                return Err(CoreError::AlreadyExists { what: "webhook", name: key.clone() }.into());
            }
            let there: i64 = db::query("SELECT COUNT(*) FROM webhooks WHERE deleted_at IS NULL")
                .fetch_one(&mut writing.tx)
                .await
                .during(WHAT, &key)?;
            if there >= MOST {
                let reason = format!("there are {MOST} already; delete those that nobody listens to");
                return Err(CoreError::invalid("webhooks", reason).into());
            }
            let last = last_event(&mut writing.tx).await?;
            let subscriptions: Vec<Subscription> = kinds.iter().map(|kind| (*kind, last)).collect();
            db::query(
                "INSERT INTO webhooks (id, name, description, url, subscriptions, status, secret, secret_key, author, \
                 created_at, updated_at, content, seen, held_until) \
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $10, $11, $12, 0)",
            )
            .bind(&key)
            .bind(&new.name)
            .bind(&new.description)
            .bind(&new.url)
            .bind(db::json(&subscriptions)?)
            .bind(new.status.as_str())
            .bind(&secret)
            .bind(&secret_key)
            .bind(&who.name)
            .bind(writing.at.timestamp_micros())
            .bind(&content)
            .bind(db::to_i64(last))
            .execute(&mut writing.tx)
            .await
            .during(WHAT, &key)?;
            let after = json!({
                "name": new.name, "description": new.description, "url": audited_url(&new.url), "events": names(&kinds),
                "status": new.status, "signed": secret.is_some(),
            });
            let event = writing.event(who, "webhook.create", format!("webhook {key}")).change(json!(null), after);
            audit::append(&mut writing.tx, event).await?;
            find_live(&mut writing.tx, id).await?.webhook()
        })
    }

    /// Changes a webhook. An edit that changes nothing leaves no trace.
    ///
    /// # Errors
    /// Those of [`create_webhook`](Self::create_webhook), and [`NotFound`](CoreError::NotFound).
    pub async fn edit_webhook(&self, who: &Principal, id: WebhookId, edit: WebhookEdit) -> Result<Webhook> {
        edit.name.as_deref().map_or(Ok(()), check_name)?;
        check::text("webhook description", edit.description.as_deref().unwrap_or_default(), check::TEXT)?;
        edit.url.as_deref().map_or(Ok(()), webhooks::check)?;
        let kinds = edit.events.as_deref().map(check_events).transpose()?;
        edit.secret.iter().flatten().try_for_each(Secret::check)?;
        self.allow(who, Permission::Administer, resource())?;
        let key = id.to_string();
        let sealed: Option<Stored> = match &edit.secret {
            Some(secret) => Some(self.stored(id, secret.as_ref()).await?),
            None => None,
        };
        transaction!(self.write("edit webhook", &key), |writing| {
            let row = find_live(&mut writing.tx, id).await?;
            let (mut was, mut is) = (json!({}), json!({}));
            let mut note = |field: &str, before: Value, after: Value| {
                if before == after {
                    return false;
                }
                (was[field], is[field]) = (before, after);
                true
            };
            let name = edit.name.as_ref().filter(|new| note("name", json!(row.name), json!(new)));
            let description =
                edit.description.as_ref().filter(|new| note("description", json!(row.description), json!(new)));
            let url = edit.url.as_ref().filter(|new| note("url", audited_url(&row.url), audited_url(new)));
            let status = edit.status.filter(|new| note("status", json!(row.status), json!(new)));
            let mut subscriptions: Vec<Subscription> = db::from_json(&row.subscriptions)?;
            let before: Vec<EventKind> = subscriptions.iter().map(|(kind, _)| *kind).collect();
            let kinds = kinds.as_ref().filter(|new| note("events", json!(names(&before)), json!(names(new))));
            let secret = match &edit.secret {
                // One that cannot be read any more is replaced like any other.
                Some(new) if self.secret(&row, id).await.ok().as_ref() != Some(new) => {
                    // Only whether there is one.
                    was["signed"] = json!(row.secret.is_some());
                    is["signed"] = json!(new.is_some());
                    is["secret"] = json!(if new.is_some() { "changed" } else { "removed" });
                    sealed.clone()
                }
                _ => None,
            };
            if is == json!({}) {
                return row.webhook();
            }
            let last = last_event(&mut writing.tx).await?;
            if let Some(kinds) = kinds {
                let since =
                    |kind: &EventKind| subscriptions.iter().find(|(old, _)| old == kind).map_or(last, |old| old.1);
                subscriptions = kinds.iter().map(|kind| (*kind, since(kind))).collect();
            }
            if status == Some(WebhookStatus::Active) {
                subscriptions.iter_mut().for_each(|(_, since)| *since = last);
            }
            let (secret, secret_key) = secret.unwrap_or((row.secret.clone(), row.secret_key.clone()));
            db::query(
                "UPDATE webhooks SET name = $2, description = $3, url = $4, subscriptions = $5, status = $6, secret = $7, \
                 secret_key = $8, updated_at = $9 WHERE id = $1",
            )
            .bind(&key)
            .bind(name.unwrap_or(&row.name))
            .bind(description.unwrap_or(&row.description))
            .bind(url.unwrap_or(&row.url))
            .bind(db::json(&subscriptions)?)
            .bind(status.map_or(&*row.status, |status| status.as_str()))
            .bind(secret)
            .bind(secret_key)
            .bind(writing.at.timestamp_micros())
            .execute(&mut writing.tx)
            .await
            .during("edit webhook", &key)?;
            let event = writing.event(who, "webhook.edit", format!("webhook {key}")).change(was, is);
            audit::append(&mut writing.tx, event).await?;
            find_live(&mut writing.tx, id).await?.webhook()
        })
    }

    /// Deletes a webhook, with its secret; what it has not been told yet, it never is. Deleting it again changes nothing.
    ///
    /// # Errors
    /// [`NotFound`](CoreError::NotFound), [`PermissionDenied`](CoreError::PermissionDenied),
    /// [`InvalidInput`](CoreError::InvalidInput) without a reason.
    pub async fn delete_webhook(&self, who: &Principal, id: WebhookId, reason: &str) -> Result<()> {
        const WHAT: &str = "delete webhook";
        check::reason("reason", reason)?;
        self.allow(who, Permission::Administer, resource())?;
        let key = id.to_string();
        transaction!(self.write(WHAT, &key), |writing| {
            let row = find_row(&mut writing.tx, id).await?.ok_or_else(|| CoreError::not_found("webhook", id))?;
            if row.deleted_at.is_some() {
                return Ok(());
            }
            db::query(
                "UPDATE webhooks SET deleted_at = $2, updated_at = $2, secret = NULL, secret_key = NULL WHERE id = $1",
            )
            .bind(&key)
            .bind(writing.at.timestamp_micros())
            .execute(&mut writing.tx)
            .await
            .during(WHAT, &key)?;
            db::query("DELETE FROM webhook_deliveries WHERE webhook = $1")
                .bind(&key)
                .execute(&mut writing.tx)
                .await
                .during(WHAT, &key)?;
            let before = json!({ "name": row.name, "url": audited_url(&row.url) });
            let event = writing.event(who, "webhook.delete", format!("webhook {key}"));
            audit::append(&mut writing.tx, event.change(before, json!(null)).because(reason)).await?;
            Ok(())
        })
    }

    /// One webhook.
    ///
    /// # Errors
    /// [`NotFound`](CoreError::NotFound).
    pub async fn webhook(&self, id: WebhookId) -> Result<Webhook> {
        find_live(&mut self.read("read webhook", &id.to_string()).await?, id).await?.webhook()
    }

    /// All webhooks, newest first. At most a thousand.
    ///
    /// # Errors
    /// [`Backend`](CoreError::Backend).
    pub async fn webhooks(&self) -> Result<Vec<Webhook>> {
        let rows: Vec<WebhookRow> =
            db::query("SELECT * FROM webhooks WHERE deleted_at IS NULL ORDER BY created_at DESC, id DESC")
                .fetch_all(&self.0.database)
                .await
                .during("list", "webhooks")?;
        rows.into_iter().map(WebhookRow::webhook).collect()
    }

    /// What was told to a webhook, is being told, or could not be: the last `limit` deliveries, newest first.
    ///
    /// # Errors
    /// [`NotFound`](CoreError::NotFound); [`InvalidInput`](CoreError::InvalidInput) if `limit` is not in `1..=1000`.
    pub async fn deliveries(&self, id: WebhookId, limit: usize) -> Result<Vec<Delivery>> {
        let (limit, key) = (check::page(limit)?, id.to_string());
        let mut tx = self.read("list deliveries to", &key).await?;
        find_live(&mut tx, id).await?;
        let rows: Vec<DeliveryRow> =
            db::query("SELECT * FROM webhook_deliveries WHERE webhook = $1 ORDER BY seq DESC LIMIT $2")
                .bind(&key)
                .bind(limit)
                .fetch_all(&mut tx)
                .await
                .during("list deliveries to", &key)?;
        rows.into_iter().map(DeliveryRow::delivery).collect()
    }

    pub(crate) async fn webhook_to_test(&self, who: &Principal, id: WebhookId) -> Result<(Webhook, Option<Secret>)> {
        self.allow(who, Permission::Administer, resource())?;
        let row = find_live(&mut self.read("read webhook", &id.to_string()).await?, id).await?;
        let secret = self.secret(&row, id).await?;
        Ok((row.webhook()?, secret))
    }

    /// A secret as it is to be stored: encrypted, if the registry was given keys.
    async fn stored(&self, id: WebhookId, secret: Option<&Secret>) -> Result<Stored> {
        let Some(secret) = secret else { return Ok((None, None)) };
        let Some(keys) = &self.0.webhook_keys else { return Ok((Some(secret.expose().to_owned()), None)) };
        let name = keys.current().await?;
        let key = keys.key(&name).await?.ok_or_else(|| missing(&name))?;
        let sealed = key.seal(secret.expose().as_bytes(), id.to_string().as_bytes())?;
        Ok((Some(STANDARD.encode(sealed)), Some(name)))
    }

    /// The secret of a row.
    pub(super) async fn secret(&self, row: &WebhookRow, id: WebhookId) -> Result<Option<Secret>> {
        let Some(stored) = &row.secret else { return Ok(None) };
        let Some(name) = &row.secret_key else { return Ok(Some(Secret::new(stored))) };
        let key = match &self.0.webhook_keys {
            Some(keys) => keys.key(name).await?,
            None => None,
        };
        let key = key.ok_or_else(|| missing(name))?;
        let refused =
            || CoreError::invalid("secret of webhook", format!("{id}: was changed, or {name} is another key"));
        let sealed = STANDARD.decode(stored).map_err(|_| refused())?;
        let text = key.open(&sealed, id.to_string().as_bytes()).map_err(|_| refused())?;
        Ok(Some(Secret::new(String::from_utf8(text).map_err(|_| refused())?)))
    }
}

fn missing(name: impl fmt::Display) -> CoreError {
    let reason = format!("there is no key named {name}; give the registry those that secrets were encrypted with");
    CoreError::invalid("webhook keys", reason)
}

/// The id of what is told of one event to one webhook: the same in every process, and after every restart.
pub(super) fn delivery_id(webhook: WebhookId, event: &crate::Event) -> DeliveryId {
    DeliveryId::derived(event.at, format!("{webhook} {}", event.seq).as_bytes())
}

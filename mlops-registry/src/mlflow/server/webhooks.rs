//! `webhooks…`: what MLflow's clients know of them. Events that MLflow does not have stay as they are, and a webhook that has
//! no others is not shown.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::routing::{get, post};
use mlops_core::{Permission, Principal, Resource};
use serde_json::{Value, json};

use super::args::Args;
use super::experiments::with_token;
use super::failure::{Answer, Failure};
use super::models::REASON;
use super::{Call, Server};
use crate::mlflow::wire::{self, Code};
use crate::webhooks::{NewWebhook, Secret, Webhook, WebhookDispatcher, WebhookEdit, WebhookEvent, WebhookStatus};

/// The routes, below `/api/2.0/mlflow`.
pub(super) fn routes() -> Router<Arc<Server>> {
    macro_rules! call {
        ($method:ident) => {
            |State(server): State<Arc<Server>>, Call { headers, args }: Call| async move {
                let who = server.caller(&headers).await?;
                server.may(&who, Permission::Administer, Resource::new("registry", "webhooks"))?;
                server.$method(&who, args).await.map(axum::Json)
            }
        };
    }
    Router::new()
        .route("/webhooks", get(call!(list_webhooks)).post(call!(create_webhook)))
        .route(
            "/webhooks/{webhook_id}",
            get(call!(get_webhook)).patch(call!(update_webhook)).delete(call!(delete_webhook)),
        )
        .route("/webhooks/{webhook_id}/test", post(call!(test_webhook)))
}

fn message(webhook: &Webhook) -> Value {
    let events = webhook.events.iter().filter(|event| event.is_mlflow());
    let upper = |word: &str| word.to_ascii_uppercase();
    json!({
        "webhook_id": webhook.id.to_string(),
        "name": webhook.name,
        "description": webhook.description,
        "url": webhook.url,
        "events": events
            .map(|event| json!({ "entity": upper(event.entity()), "action": upper(event.action()) }))
            .collect::<Vec<_>>(),
        "status": webhook.status.as_str(),
        "creation_timestamp": wire::millis(webhook.created_at),
        "last_updated_timestamp": wire::millis(webhook.updated_at),
    })
}

fn is_shown(webhook: &Webhook) -> bool {
    webhook.events.iter().any(|event| event.is_mlflow())
}

fn event(args: &Args) -> Answer<WebhookEvent> {
    let (entity, action) = (args.text("entity")?, args.text("action")?);
    let name = format!("{}.{}", entity.to_ascii_lowercase(), action.to_ascii_lowercase());
    match name.parse::<WebhookEvent>() {
        Ok(event) if event.is_mlflow() => Ok(event),
        _ => Err(Failure::invalid(format!("Invalid event: this server never sends '{name}'"))),
    }
}

fn events(args: &Args) -> Answer<Vec<WebhookEvent>> {
    args.objects("events")?.iter().map(event).collect()
}

fn status(args: &Args) -> Answer<Option<WebhookStatus>> {
    match args.opt_text("status")? {
        None => Ok(None),
        Some("ACTIVE") => Ok(Some(WebhookStatus::Active)),
        Some("DISABLED") => Ok(Some(WebhookStatus::Disabled)),
        Some(other) => Err(Failure::invalid(format!("Invalid value '{other}' for parameter 'status' supplied"))),
    }
}

impl Server {
    fn dispatcher(&self) -> Answer<&WebhookDispatcher> {
        let none = || Failure::new(Code::EndpointNotFound, "this server was given no webhooks");
        self.webhooks.as_ref().ok_or_else(none)
    }

    async fn webhook(&self, args: &Args) -> Answer<Webhook> {
        let (dispatcher, id) = (self.dispatcher()?, args.text("webhook_id")?);
        let missing = || Failure::missing(format!("Webhook with ID {id} not found."));
        let found = dispatcher.registry().webhook(id.parse().map_err(|_| missing())?).await;
        match found {
            Ok(webhook) if is_shown(&webhook) => Ok(webhook),
            Err(error) if !error.is_not_found() => Err(error.into()),
            _ => Err(missing()),
        }
    }

    async fn create_webhook(&self, who: &Principal, args: Args) -> Answer {
        let dispatcher = self.dispatcher()?;
        let mut new = NewWebhook::new(args.text("name")?, args.text("url")?, events(&args)?)
            .description(args.opt_text("description")?.unwrap_or_default())
            .status(status(&args)?.unwrap_or_default());
        new.secret = args.opt_text("secret")?.filter(|secret| !secret.is_empty()).map(Secret::new);
        dispatcher.check_url(&new.url).await?;
        let webhook = dispatcher.registry().create_webhook(who, new).await?;
        Ok(json!({ "webhook": message(&webhook) }))
    }

    async fn list_webhooks(&self, _: &Principal, args: Args) -> Answer {
        let most = args.opt_integer("max_results")?.unwrap_or(100);
        let most = usize::try_from(most).ok().filter(|most| (1..=1_000).contains(most));
        let most = most.ok_or_else(|| Failure::invalid("max_results must be between 1 and 1000."))?;
        let mut webhooks = self.dispatcher()?.registry().webhooks().await?;
        webhooks.retain(is_shown);
        if let Some(token) = args.opt_text("page_token")?.filter(|token| !token.is_empty()) {
            // Where the last page ended, whether that webhook is still there or not.
            let read = |token: &str| {
                let (micros, id) = token.split_once('.')?;
                Some((micros.parse::<i64>().ok()?, id.parse().ok()?))
            };
            let end = read(token).ok_or_else(|| Failure::invalid("Invalid page token"))?;
            webhooks.retain(|webhook| (webhook.created_at.timestamp_micros(), webhook.id) < end);
        }
        let more = webhooks.len() > most;
        webhooks.truncate(most);
        let next = webhooks.last().filter(|_| more).map(|w| format!("{}.{}", w.created_at.timestamp_micros(), w.id));
        Ok(with_token(json!({ "webhooks": webhooks.iter().map(message).collect::<Vec<_>>() }), next))
    }

    async fn get_webhook(&self, _: &Principal, args: Args) -> Answer {
        Ok(json!({ "webhook": message(&self.webhook(&args).await?) }))
    }

    async fn update_webhook(&self, who: &Principal, args: Args) -> Answer {
        let before = self.webhook(&args).await?;
        let mut edit = WebhookEdit::new();
        edit.name = args.opt_text("name")?.filter(|name| !name.is_empty()).map(str::to_owned);
        edit.description = args.opt_text("description")?.map(str::to_owned);
        edit.url = args.opt_text("url")?.filter(|url| !url.is_empty()).map(str::to_owned);
        let events = events(&args)?;
        if !events.is_empty() {
            let ours = before.events.iter().copied().filter(|event| !event.is_mlflow());
            edit.events = Some(events.into_iter().chain(ours).collect());
        }
        edit.secret = args.opt_text("secret")?.map(|secret| (!secret.is_empty()).then(|| Secret::new(secret)));
        edit.status = status(&args)?;
        let dispatcher = self.dispatcher()?;
        if let Some(url) = &edit.url {
            dispatcher.check_url(url).await?;
        }
        let webhook = dispatcher.registry().edit_webhook(who, before.id, edit).await?;
        Ok(json!({ "webhook": message(&webhook) }))
    }

    async fn delete_webhook(&self, who: &Principal, args: Args) -> Answer {
        let webhook = self.webhook(&args).await?;
        self.dispatcher()?.registry().delete_webhook(who, webhook.id, REASON).await?;
        Ok(json!({}))
    }

    async fn test_webhook(&self, who: &Principal, args: Args) -> Answer {
        let webhook = self.webhook(&args).await?;
        let named = args.object("event")?.as_ref().map(event).transpose()?;
        let event = named.or_else(|| webhook.events.iter().copied().find(|event| event.is_mlflow()));
        let test = self.dispatcher()?.test(who, webhook.id, event).await?;
        let mut result = json!({ "success": test.success });
        for (field, value) in [
            ("response_status", test.status.map(Value::from)),
            ("response_body", test.body.map(Value::from)),
            ("error_message", test.error.map(|error| format!("Failed to test webhook: {error}").into())),
        ] {
            if let Some(value) = value {
                result[field] = value;
            }
        }
        Ok(json!({ "result": result }))
    }
}

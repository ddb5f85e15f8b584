//! What webhooks are told: names and bodies.

use std::fmt;
use std::str::FromStr;

use mlops_core::{Error, Result};
#[cfg(any(feature = "sqlite", feature = "postgres"))]
use mlops_core::{RunId, Timestamp};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
#[cfg(any(feature = "sqlite", feature = "postgres"))]
use serde_json::{Map, Value, json};

#[cfg(any(feature = "sqlite", feature = "postgres"))]
use crate::registry::Event;
use crate::registry::EventKind;

/// What a webhook may be told of: an [`EventKind`] as an entity and what happened to it, `model_version_tag.set`.
///
/// What MLflow 3.17 has, has its names and bodies. The rest is under names of ours, which start with `mlops.` and so are no
/// names of MLflow's, which have no dot: `mlops.promotion.requested`. MLflow's `prompt…` and `budget_policy` are none of
/// them: this registry never has such things to tell.
///
/// ```
/// use mlops_registry::EventKind;
/// use mlops_registry::webhooks::WebhookEvent;
/// let event: WebhookEvent = "model_version_alias.created".parse()?;
/// assert_eq!((event.kind(), event.entity(), event.action()), (EventKind::AliasMoved, "model_version_alias", "created"));
/// assert_eq!(WebhookEvent::of(EventKind::PromotionApproved).to_string(), "mlops.promotion.approved");
/// # Ok::<(), mlops_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WebhookEvent(EventKind);

impl WebhookEvent {
    /// The event of that kind.
    #[must_use]
    pub const fn of(kind: EventKind) -> Self {
        Self(kind)
    }

    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        EventKind::ALL.iter().copied().map(Self)
    }

    /// What the registry calls it.
    #[must_use]
    pub const fn kind(self) -> EventKind {
        self.0
    }

    /// To what it happened: `model_version`.
    #[must_use]
    pub fn entity(self) -> &'static str {
        self.words().0
    }

    /// What happened to it: `created`.
    #[must_use]
    pub fn action(self) -> &'static str {
        self.words().1
    }

    /// Whether MLflow 3.17 has it, too.
    #[must_use]
    pub fn is_mlflow(self) -> bool {
        !self.entity().contains('.')
    }

    fn words(self) -> (&'static str, &'static str) {
        match self.0 {
            EventKind::ModelCreated => ("registered_model", "created"),
            EventKind::ModelUpdated => ("mlops.registered_model", "updated"),
            EventKind::ModelRenamed => ("mlops.registered_model", "renamed"),
            EventKind::ModelDeleted => ("mlops.registered_model", "deleted"),
            EventKind::ModelTagSet => ("mlops.registered_model_tag", "set"),
            EventKind::ModelTagRemoved => ("mlops.registered_model_tag", "deleted"),
            EventKind::VersionCreated => ("model_version", "created"),
            EventKind::VersionUpdated => ("mlops.model_version", "updated"),
            EventKind::VersionDeleted => ("mlops.model_version", "deleted"),
            EventKind::VersionTagSet => ("model_version_tag", "set"),
            EventKind::VersionTagRemoved => ("model_version_tag", "deleted"),
            EventKind::VersionHeld => ("mlops.model_version", "held"),
            EventKind::VersionReleased => ("mlops.model_version", "released"),
            EventKind::PromotionRequested => ("mlops.promotion", "requested"),
            EventKind::PromotionApproved => ("mlops.promotion", "approved"),
            EventKind::PromotionRejected => ("mlops.promotion", "rejected"),
            EventKind::PromotionWithdrawn => ("mlops.promotion", "withdrawn"),
            EventKind::AliasMoved => ("model_version_alias", "created"),
            EventKind::AliasRemoved => ("model_version_alias", "deleted"),
            EventKind::StageMoved => ("mlops.model_version_stage", "moved"),
            EventKind::PolicySet => ("mlops.policy", "set"),
            EventKind::StagesSet => ("mlops.stages", "set"),
        }
    }

    /// The example that MLflow sends as a test, and one of the same kind for what it does not have.
    #[cfg(any(feature = "sqlite", feature = "postgres"))]
    pub(super) fn example(self) -> Value {
        let mut data = json!({ "name": "example_model" });
        let (one, tag) = (json!("1"), json!({ "example_key": "example_value" }));
        match self.0 {
            EventKind::ModelCreated => {
                data["tags"] = tag;
                data["description"] = json!("An example registered model");
            }
            EventKind::VersionCreated => {
                data["version"] = one;
                data["source"] = json!("models:/123");
                data["run_id"] = json!("abcd1234abcd5678");
                data["tags"] = tag;
                data["description"] = json!("An example model version");
            }
            EventKind::VersionTagSet => {
                data["version"] = one;
                data["key"] = json!("example_key");
                data["value"] = json!("example_value");
            }
            EventKind::VersionTagRemoved => {
                data["version"] = one;
                data["key"] = json!("example_key");
            }
            EventKind::AliasMoved => {
                data["alias"] = json!("example_alias");
                data["version"] = one;
            }
            EventKind::AliasRemoved => data["alias"] = json!("example_alias"),
            _ => {}
        }
        data
    }
}

/// The body of a delivery, as MLflow has it.
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub(super) fn envelope(event: WebhookEvent, at: Timestamp, data: &Value) -> String {
    let (entity, action) = event.words();
    json!({ "entity": entity, "action": action, "timestamp": at.to_rfc3339(), "data": data }).to_string()
}

/// The body of a delivery that tells of `event`.
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub(crate) fn body(event: &Event) -> String {
    envelope(WebhookEvent(event.kind), event.at, &data(event))
}

/// What there is to know of an event. MLflow's have MLflow's fields and no others.
#[cfg(any(feature = "sqlite", feature = "postgres"))]
fn data(event: &Event) -> Value {
    let detail = |key: &str| event.details.get(key).map(String::as_str);
    let version = event.version.map(|version| version.to_string());
    let mut data = Map::new();
    let mut add = |key: &str, value: Value| data.insert(key.to_owned(), value);
    add("name", event.model.as_str().into());
    match event.kind {
        EventKind::ModelCreated | EventKind::VersionCreated => {
            if let Some(version) = &version {
                let here = || format!("models:/{}/{version}", event.model);
                add("version", version.as_str().into());
                add("source", detail("source").map_or_else(here, str::to_owned).into());
                let run = detail("run").and_then(|run| run.parse::<RunId>().ok());
                add("run_id", run.map(|run| run.as_uuid().simple().to_string()).into());
            }
            // Left out of the event where they are long.
            let tags = detail("tags").and_then(|tags| serde_json::from_str(tags).ok());
            add("tags", tags.unwrap_or_else(|| json!({})));
            // MLflow says nothing of a version's empty description, and "" of a model's.
            let said = |text: &&str| event.version.is_none() || !text.is_empty();
            add("description", detail("description").filter(said).into());
        }
        EventKind::VersionTagSet | EventKind::VersionTagRemoved => {
            add("version", version.into());
            add("key", detail("key").into());
            if event.kind == EventKind::VersionTagSet {
                add("value", detail("value").into());
            }
        }
        EventKind::AliasMoved => {
            add("alias", event.alias.as_deref().into());
            add("version", version.into());
        }
        EventKind::AliasRemoved => {
            add("alias", event.alias.as_deref().into());
        }
        _ => {
            for (key, value) in [
                ("version", version.map(Value::from)),
                ("alias", event.alias.as_deref().map(Value::from)),
                ("stage", event.stage.as_deref().map(Value::from)),
                ("revision", event.revision.map(Value::from)),
                ("promotion", event.promotion.map(|id| id.to_string().into())),
            ] {
                if let Some(value) = value {
                    add(key, value);
                }
            }
            for (key, value) in &event.details {
                // The other name of a model that was renamed.
                add(if key == "name" { "new_name" } else { key }, value.as_str().into());
            }
        }
    }
    data.into()
}

impl fmt::Display for WebhookEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (entity, action) = self.words();
        write!(f, "{entity}.{action}")
    }
}

impl FromStr for WebhookEvent {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let unknown = || {
            let shown: String = text.chars().take(80).collect();
            let all = Self::all().map(|event| event.to_string()).collect::<Vec<_>>().join(", ");
            Error::invalid("webhook event", format!("{shown:?} is never told here; there are {all}"))
        };
        Self::all().find(|event| event.to_string() == text).ok_or_else(unknown)
    }
}

impl Serialize for WebhookEvent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for WebhookEvent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(all(test, any(feature = "sqlite", feature = "postgres")))]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_differ_and_read_back() {
        let names: BTreeSet<String> = WebhookEvent::all().map(|event| event.to_string()).collect();
        assert_eq!(names.len(), EventKind::ALL.len());
        for event in WebhookEvent::all() {
            assert_eq!(event.to_string().parse::<WebhookEvent>().unwrap(), event);
            assert_eq!(serde_json::from_value::<WebhookEvent>(json!(event)).unwrap(), event);
        }
        // Those of `VALID_ENTITY_ACTIONS` in mlflow 3.17 that are no prompts and budgets.
        let theirs: BTreeSet<String> =
            WebhookEvent::all().filter(|event| event.is_mlflow()).map(|event| event.to_string()).collect();
        let expected = [
            "registered_model.created",
            "model_version.created",
            "model_version_tag.set",
            "model_version_tag.deleted",
            "model_version_alias.created",
            "model_version_alias.deleted",
        ];
        assert_eq!(theirs, expected.map(str::to_owned).into());
        for unknown in ["prompt.created", "registered_model", "", "registered_model.created.x"] {
            let error = unknown.parse::<WebhookEvent>().unwrap_err().to_string();
            assert!(error.contains("mlops.promotion.requested"), "{error}");
        }
    }

    #[test]
    fn bodies_have_mlflow_s_fields() {
        let mut event: Event = serde_json::from_value(json!({
            "seq": 1, "at": "2026-01-02T03:04:05.678901Z", "kind": "version_created", "model": "m", "version": 3,
            "alias": null, "stage": null, "revision": null, "promotion": null,
            "details": { "tags": "{\"a\":\"b\"}", "description": "d", "run": "018f3a64-2b1c-7e2f-9c8d-0123456789ab" },
        }))
        .unwrap();
        let body: Value =
            serde_json::from_str(&envelope(WebhookEvent::of(event.kind), event.at, &data(&event))).unwrap();
        let expected = json!({
            "entity": "model_version", "action": "created", "timestamp": "2026-01-02T03:04:05.678901+00:00",
            "data": {
                "name": "m", "version": "3", "source": "models:/m/3", "run_id": "018f3a642b1c7e2f9c8d0123456789ab",
                "tags": { "a": "b" }, "description": "d",
            },
        });
        assert_eq!(body, expected);
        event.details.clear();
        assert_eq!(data(&event)["tags"], json!({}));
        assert_eq!((&data(&event)["description"], &data(&event)["run_id"]), (&Value::Null, &Value::Null));
        event.kind = EventKind::AliasMoved;
        event.alias = Some("champion".into());
        event.revision = Some(4);
        assert_eq!(data(&event), json!({ "name": "m", "version": "3", "alias": "champion" }));
        event.kind = EventKind::ModelRenamed;
        event.details.insert("name".into(), "n".into());
        assert_eq!(data(&event)["new_name"], "n");
        for event in WebhookEvent::all() {
            assert_eq!(event.example()["name"], "example_model");
        }
    }
}

//! What followers of a registry are told.

use std::collections::BTreeMap;

use mlops_core::{PromotionId, Timestamp};
use serde::{Deserialize, Serialize};

macro_rules! kinds {
    ($($(#[doc = $doc:literal])+ $kind:ident = $word:literal,)+) => {
        /// What an [`Event`] tells.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        #[non_exhaustive]
        pub enum EventKind { $($(#[doc = $doc])+ $kind,)+ }

        impl EventKind {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$kind),+];

            /// The kind in one word, as stored: `alias_moved`.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$kind => $word,)+ }
            }
        }
    };
}

kinds! {
    /// A model was registered: `details["description"]`, and `details["tags"]` as a JSON object. Those two are left out where
    /// they take more than 64 KiB together.
    ModelCreated = "model_created",
    /// A model's description changed.
    ModelUpdated = "model_updated",
    /// A model has another name: the event's model is the old one, `details["name"]` the new one.
    ModelRenamed = "model_renamed",
    /// A model was deleted, with all its versions.
    ModelDeleted = "model_deleted",
    /// A tag of a model was set: `details["key"]`, `details["value"]`.
    ModelTagSet = "model_tag_set",
    /// A tag of a model was removed: `details["key"]`.
    ModelTagRemoved = "model_tag_removed",
    /// A version was registered: `details` as for a model, with `source` and `run` where they are known.
    VersionCreated = "version_created",
    /// A version's description changed.
    VersionUpdated = "version_updated",
    /// A version was deleted.
    VersionDeleted = "version_deleted",
    /// A tag of a version was set: `details["key"]`, `details["value"]`.
    VersionTagSet = "version_tag_set",
    /// A tag of a version was removed: `details["key"]`.
    VersionTagRemoved = "version_tag_removed",
    /// A version may not be deleted until it is released.
    VersionHeld = "version_held",
    /// A version is held no more.
    VersionReleased = "version_released",
    /// Somebody asked for an alias or a stage to move.
    PromotionRequested = "promotion_requested",
    /// Somebody approved that.
    PromotionApproved = "promotion_approved",
    /// Somebody rejected it.
    PromotionRejected = "promotion_rejected",
    /// Who asked for it took it back.
    PromotionWithdrawn = "promotion_withdrawn",
    /// An alias points at another version.
    AliasMoved = "alias_moved",
    /// An alias points nowhere; the version is the one it pointed at.
    AliasRemoved = "alias_removed",
    /// A version is in another stage: `details["from"]`.
    StageMoved = "stage_moved",
    /// It takes something else to move an alias or a stage.
    PolicySet = "policy_set",
    /// Other stages, or other moves between them, are legal. Of the whole registry where the model is empty.
    StagesSet = "stages_set",
}

/// Something that happened in the registry, for those who follow it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Event {
    /// Its place, from 1 without gaps, in the order the changes took effect.
    pub seq: u64,
    /// When.
    pub at: Timestamp,
    /// What.
    pub kind: EventKind,
    /// The model's name.
    pub model: String,
    /// The version concerned.
    pub version: Option<u64>,
    /// The alias concerned.
    pub alias: Option<String>,
    /// The stage concerned.
    pub stage: Option<String>,
    /// The revision of the alias or of the version's stage after a move.
    pub revision: Option<u64>,
    /// The promotion concerned.
    pub promotion: Option<PromotionId>,
    /// What else there is to know, by kind.
    pub details: BTreeMap<String, String>,
}

#[cfg(test)]
mod tests {
    use super::EventKind;

    #[test]
    fn words_read_back() {
        for kind in EventKind::ALL {
            let word = serde_json::to_value(kind).unwrap();
            assert_eq!(word, kind.as_str());
            assert_eq!(serde_json::from_value::<EventKind>(word).unwrap(), *kind);
        }
    }
}

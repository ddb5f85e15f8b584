#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod audit;
pub mod auth;
pub mod clock;
pub mod code;
#[cfg(feature = "testing")]
#[cfg_attr(docsrs, doc(cfg(feature = "testing")))]
pub mod conformance;
#[cfg(feature = "datasets")]
#[cfg_attr(docsrs, doc(cfg(feature = "datasets")))]
pub mod dataset;
pub mod digest;
mod error;
mod id;
pub mod inference;
pub mod json;
pub mod lineage;
pub mod package;
pub mod predictor;
pub mod signature;
pub mod source;
pub mod store;
pub mod verdict;

pub use self::auth::{Authorizer, Permission, Principal, Resource, Role, RoleTable};
pub use self::clock::{Clock, ManualClock, SystemClock, Timestamp};
pub use self::digest::Digest;
pub use self::error::{Error, Result, with_causes};
pub use self::id::{
    AlertId, DeliveryId, ExperimentId, PredictionId, PromotionId, RolloutId, RunId, TokenId, WebhookId,
};
pub use self::package::{DatasetRef, Package, Provenance};
pub use self::predictor::{FnPredictor, Predictor, PredictorExt};
pub use self::signature::Signature;
pub use self::source::{ModelRef, ModelSource, ModelSourceExt, ResolvedModel, Selector};
pub use self::store::{ArtifactStore, ArtifactStoreExt};
pub use self::verdict::{Finding, Measurement, Verdict};

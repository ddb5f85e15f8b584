#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod card;
#[cfg(feature = "sqlite")]
mod check;
#[cfg(feature = "testing")]
#[cfg_attr(docsrs, doc(cfg(feature = "testing")))]
pub mod conformance;
mod error;
pub mod registry;
#[cfg(feature = "sqlite")]
#[cfg_attr(docsrs, doc(cfg(feature = "sqlite")))]
pub mod sql;
pub mod tracking;

pub use self::card::ModelCard;
pub use self::error::{Error, Result};
pub use self::registry::{
    Alias, AliasPolicy, Approval, Decision, Event, EventKind, EvidenceRule, Model, ModelRegistry, ModelVersion,
    NewModel, NewPromotion, NewVersion, Promotion, PromotionKind, PromotionState,
};
#[cfg(feature = "sqlite")]
#[cfg_attr(docsrs, doc(cfg(feature = "sqlite")))]
pub use self::sql::{Durability, SqlRegistry, SqlRegistryBuilder};
pub use self::tracking::{
    Experiment, LogBatch, Metric, NewExperiment, NewRun, Run, RunArtifact, RunInfo, RunInput, RunStatus, TrackingStore,
};

#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(any(feature = "sqlite", feature = "postgres"))]
mod check;
#[cfg(feature = "testing")]
#[cfg_attr(docsrs, doc(cfg(feature = "testing")))]
pub mod conformance;
mod error;
#[cfg(feature = "mlflow-server")]
#[cfg_attr(docsrs, doc(cfg(feature = "mlflow-server")))]
pub mod mlflow;
pub mod registry;
pub mod search;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
#[cfg_attr(docsrs, doc(cfg(any(feature = "sqlite", feature = "postgres"))))]
pub mod sql;
pub mod tracking;

pub use self::error::{Error, Result};
pub use self::registry::{
    Alias, AliasPolicy, Approval, Decision, Event, EventKind, EvidenceRule, Model, ModelRegistry, ModelVersion,
    NewModel, NewPromotion, NewVersion, Promotion, PromotionKind, PromotionState,
};
#[cfg(any(feature = "sqlite", feature = "postgres"))]
#[cfg_attr(docsrs, doc(cfg(any(feature = "sqlite", feature = "postgres"))))]
pub use self::sql::{Durability, SqlRegistry, SqlRegistryBuilder};
pub use self::tracking::{
    Experiment, LogBatch, Metric, NewExperiment, NewRun, Run, RunArtifact, RunInfo, RunInput, RunStatus, TrackingStore,
};

#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod card;
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mlflow-client"))]
mod check;
#[cfg(feature = "testing")]
#[cfg_attr(docsrs, doc(cfg(feature = "testing")))]
pub mod conformance;
mod copy;
mod edit;
mod error;
mod limit;
#[cfg(any(feature = "mlflow-server", feature = "mlflow-client"))]
#[cfg_attr(docsrs, doc(cfg(any(feature = "mlflow-server", feature = "mlflow-client"))))]
pub mod mlflow;
pub mod registry;
pub mod search;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
#[cfg_attr(docsrs, doc(cfg(any(feature = "sqlite", feature = "postgres"))))]
pub mod sql;
pub mod tracking;
#[cfg(feature = "webhooks")]
#[cfg_attr(docsrs, doc(cfg(feature = "webhooks")))]
pub mod webhooks;

pub use self::card::ModelCard;
pub use self::copy::copy_version;
pub use self::error::{Error, Result};
pub use self::limit::Limit;
pub use self::registry::{
    Alias, AliasPolicy, Approval, Decision, Event, EventKind, EvidenceRule, Hold, Model, ModelEdit, ModelRegistry,
    ModelVersion, NewModel, NewPromotion, NewStageMove, NewVersion, Promotion, PromotionKind, PromotionState, Purged,
    ResolveCache, Retention, StageTable, Target, Tenure, VersionEdit,
};
pub use self::search::{LifecycleStage, Page, Search, View};
#[cfg(any(feature = "sqlite", feature = "postgres"))]
#[cfg_attr(docsrs, doc(cfg(any(feature = "sqlite", feature = "postgres"))))]
pub use self::sql::{Durability, SqlRegistry, SqlRegistryBuilder, Watch};
pub use self::tracking::{
    Artifact, ArtifactMode, ArtifactOwner, Experiment, ExperimentEdit, LogBatch, LoggedModel, LoggedModelEdit,
    LoggedModelId, LoggedModelStatus, Metric, MetricDataset, MetricLogger, ModelMetric, NewExperiment, NewLoggedModel,
    NewRun, Run, RunEdit, RunInfo, RunInput, RunModel, RunModelRole, RunStatus, RunTable, TrackingStore,
    TrackingStoreExt, export, system,
};

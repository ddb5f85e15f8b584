#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod capture;
mod deployment;
mod error;
mod events;
pub mod rollout;
pub mod runtime;
mod split;

pub use self::capture::ParquetInferenceLog;
pub use self::deployment::{
    Answer, Deployment, DeploymentBuilder, Health, Loader, PackageLoader, Request, StaticSource,
};
pub use self::error::{Error, Result};
pub use self::events::TracedSink;
pub use self::runtime::Runtimes;
pub use self::split::{Arm, Split};

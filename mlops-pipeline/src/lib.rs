#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod cache;
mod code;
#[cfg(feature = "progress")]
mod console;
mod context;
mod error;
mod events;
pub mod gate;
mod observer;
mod pipeline;
mod report;
mod runner;

pub use self::code::CodeIdentity;
#[cfg(feature = "progress")]
#[cfg_attr(docsrs, doc(cfg(feature = "progress")))]
pub use self::console::ConsoleObserver;
pub use self::context::StepContext;
pub use self::error::{BoxError, Error, Result};
pub use self::observer::{MemoryObserver, RunEvent, RunObserver};
pub use self::pipeline::{Handle, Inputs, Pipeline, PipelineBuilder, StepOptions, Value};
pub use self::report::{RunReport, StepReport, StepStatus};
pub use self::runner::{FailureMode, Run, Runner};
pub use mlops_core::lineage::LineageEvents;

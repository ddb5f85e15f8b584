//! Integration tests, one binary.
#![allow(clippy::unwrap_used)]

mod golden;
mod labels;
mod profile;
mod properties;
#[cfg(feature = "report")]
mod report;
mod simulation;
mod streams;
#[cfg(feature = "alerts")]
mod watch;

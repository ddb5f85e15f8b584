//! Integration tests, one binary.
#![allow(clippy::unwrap_used)]

mod golden;
mod labels;
mod multivariate;
mod properties;
#[cfg(feature = "report")]
mod report;
mod simulation;
mod streams;
mod two_sample;
#[cfg(feature = "alerts")]
mod watch;

//! Integration tests, one binary.
#![allow(clippy::unwrap_used)]

mod change;
mod coverage;
mod golden;
mod labels;
mod multiple;
mod multivariate;
mod profile;
mod properties;
#[cfg(feature = "report")]
mod report;
mod sequential;
mod simulation;
mod streams;
mod two_sample;
#[cfg(feature = "alerts")]
mod watch;

//! Integration tests, one binary.
#![allow(clippy::unwrap_used)]

mod golden;
mod properties;
mod simulation;
mod streams;

//! Integration tests of `mlops-pipeline`.
#![allow(clippy::unwrap_used)]

mod bounds;
mod cache;
mod events;
mod failures;
mod gates;
mod golden;
mod graphs;
mod lineage;
mod observers;
mod support;

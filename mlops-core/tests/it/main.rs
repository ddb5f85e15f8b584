//! Contracts and laws of `mlops-core`.
#![allow(clippy::unwrap_used)]

mod backends;
mod lineage;
mod openlineage;
mod properties;
mod sinks;

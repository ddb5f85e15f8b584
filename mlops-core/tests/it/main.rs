//! Contracts and laws of `mlops-core`.
#![allow(clippy::unwrap_used)]

mod archive;
mod audit;
mod auth;
mod backends;
#[cfg(feature = "cedar")]
mod cedar;
mod code;
mod dataset_audit;
mod dataset_crashes;
mod dataset_erasure;
mod dataset_guard;
mod dataset_manifests;
mod dataset_races;
mod datasets;
#[cfg(feature = "delta")]
mod delta;
#[cfg(feature = "jwt")]
mod jwt;
mod lineage;
mod openlineage;
mod packages;
mod probe;
mod properties;
mod signing;
mod sinks;
mod store_encryption;
mod store_gc;
mod store_layers;
mod store_limits;
#[cfg(feature = "s3")]
mod store_s3;
mod tokens;

//! Contracts and laws of `mlops-core`.
#![allow(clippy::unwrap_used)]

mod backends;
mod probe;
mod properties;
mod store_encryption;
mod store_gc;
mod store_layers;
mod store_limits;
#[cfg(feature = "s3")]
mod store_s3;

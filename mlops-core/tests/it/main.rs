//! Contracts and laws of `mlops-core`.
#![allow(clippy::unwrap_used)]

mod backends;
mod datasets;
mod probe;
mod properties;
mod store_gc;

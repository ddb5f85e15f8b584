//! Contracts and laws of `mlops-core`.
#![allow(clippy::unwrap_used)]

mod audit;
mod backends;
mod properties;

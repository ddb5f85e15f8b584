//! Contracts and laws of `mlops-core`.
#![allow(clippy::unwrap_used)]

mod backends;
mod openlineage;
mod properties;

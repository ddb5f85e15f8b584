//! Contracts and laws of `mlops-core`.
#![allow(clippy::unwrap_used)]

mod audit;
mod auth;
mod backends;
mod datasets;
mod probe;
mod properties;
mod store_gc;
#[cfg(feature = "cedar")]
mod cedar;
#[cfg(feature = "jwt")]
mod jwt;
mod tokens;

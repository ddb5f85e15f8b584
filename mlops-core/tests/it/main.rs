//! Contracts and laws of `mlops-core`.
#![allow(clippy::unwrap_used)]

mod audit;
mod auth;
mod backends;
#[cfg(feature = "cedar")]
mod cedar;
#[cfg(feature = "jwt")]
mod jwt;
mod properties;
mod tokens;

//! What `mlops-serve` promises.
#![allow(clippy::unwrap_used)]

mod capture;
mod deployment;
mod events;
mod rollout;
mod runtime;
mod support;

//! What the example programs share: real data, a model trained on it, and the lifecycle that joins all five crates.

pub mod elec2;
pub mod lifecycle;
pub mod train;

/// Any error: an example shows it and stops.
pub type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

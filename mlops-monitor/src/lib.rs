#![doc = include_str!("../README.md")]

pub mod change;
pub mod drift;
mod error;
pub mod metrics;
pub mod sequential;
mod special;

pub use change::ChangeDetector;
pub use drift::{DriftDetector, DriftScore, KsDetector, PsiDetector, psi};
pub use error::{Error, Result};
pub use metrics::{BinaryPerformance, Estimate};
pub use sequential::{BettingTest, EValue, PairedSignTest};

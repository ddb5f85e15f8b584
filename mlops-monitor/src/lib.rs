#![doc = include_str!("../README.md")]

#[cfg(feature = "alerts")]
#[cfg_attr(docsrs, doc(cfg(feature = "alerts")))]
pub mod alert;
pub mod change;
pub mod drift;
mod error;
pub mod labels;
pub mod metrics;
pub mod multiple;
pub mod power;
pub mod profile;
#[cfg(feature = "report")]
#[cfg_attr(docsrs, doc(cfg(feature = "report")))]
pub mod report;
pub mod segments;
pub mod sequential;
mod special;
mod time;
#[cfg(feature = "alerts")]
#[cfg_attr(docsrs, doc(cfg(feature = "alerts")))]
pub mod trigger;
pub mod two_sample;
#[cfg(feature = "alerts")]
#[cfg_attr(docsrs, doc(cfg(feature = "alerts")))]
pub mod watch;

#[cfg(feature = "alerts")]
pub use alert::{Alert, AlertSink, Alerter, Severity};
pub use change::ChangeDetector;
pub use drift::{DriftDetector, DriftScore, KsDetector, PsiDetector, psi};
pub use error::{Error, Result};
pub use labels::{LabelJoiner, LabelOutcome};
pub use metrics::{BinaryPerformance, Estimate};
pub use profile::{Profile, ReferenceProfile};
pub use sequential::{BettingTest, EValue, PairedSignTest};
#[cfg(feature = "alerts")]
pub use trigger::RetrainTrigger;
#[cfg(feature = "alerts")]
pub use watch::{DriftPolicy, Monitor, WindowReport};

//! Spans of time in the two types that the code meets.

use std::time::Duration;

use chrono::TimeDelta;
#[cfg(any(feature = "alerts", feature = "report"))]
use mlops_core::Timestamp;

/// The duration as a signed one, or the longest there is.
pub(crate) fn delta(duration: Duration) -> TimeDelta {
    TimeDelta::from_std(duration).unwrap_or(TimeDelta::MAX)
}

/// `at + duration`, or the end of the calendar.
#[cfg(any(feature = "alerts", feature = "report"))]
pub(crate) fn after(at: Timestamp, duration: Duration) -> Timestamp {
    at.checked_add_signed(delta(duration)).unwrap_or(Timestamp::MAX_UTC)
}

/// Refuses what no calendar can add.
#[cfg(feature = "alerts")]
pub(crate) fn check_duration(what: &str, duration: Duration) -> crate::Result<()> {
    if duration <= Duration::from_secs(1_000 * 365 * 86_400) {
        return Ok(());
    }
    Err(crate::Error::invalid(what, format!("must not exceed 1000 years, got {duration:?}")))
}

//! Reports: work in progress.

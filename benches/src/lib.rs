//! The benches are in `benches/`; what was seen is in `RESULTS.md`.

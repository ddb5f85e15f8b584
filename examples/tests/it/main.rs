//! The main job as a user runs it, and the rules of the workspace.
#![allow(clippy::unwrap_used)]

mod architecture;
mod lifecycle;
mod readme;
mod stations;

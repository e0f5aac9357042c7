//! How Aya sees itself: the one clock, the log, the metric registry.
//!
//! Everything above layer 1 takes its time from [`Clock`], so that a test can hold it still. This crate
//! reads no file and no environment variable: what it needs is passed in by whoever read the configuration.

mod clock;
mod labels;
pub mod logging;
pub mod metrics;

pub use clock::{Clock, ManualTime};

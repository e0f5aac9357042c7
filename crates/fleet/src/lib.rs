//! The farm as its reports describe it: one writer, events in, immutable snapshots out.
//!
//! Owns what is known about nodes, GPUs and endpoints between two reports: order and reboots, freshness, health,
//! draining, and the load on an endpoint that is not ours. It is a pure state machine: time is an argument, it
//! performs no IO, and what somebody should hear about comes back as [`Effects`].
//!
//! Fail-static is its first rule: missing telemetry never makes anything unhealthy, idle or empty. It only makes
//! it stale, and says so.

mod apply;
pub mod breaker;
mod endpoint;
mod event;
mod facts;
mod fleet;
mod foreign;
mod gpu_events;
pub mod health;
mod ingest;
pub mod invariants;
mod learning;
mod models;
mod node;
mod notice;
mod own;
mod params;
mod peers;
mod snapshot;
mod steps;
#[cfg(test)]
mod tests;

pub use breaker::{BreakerNotice, BreakerParams, Outcomes};
pub use event::{Event, OwnInFlight, Target};
pub use facts::{Severity, Subject};
pub use fleet::Fleet;
pub use notice::{Effects, Ignored, Notice, Refused};
pub use params::Params;
pub use peers::{ENTRIES_MAX, Heard, LedgerDigest, LedgerEntry, PEERS_MAX, PeerLedgers};
pub use steps::{DecodeSteps, ObservedSteps, PROMPTS_MAX, PromptAlone, StepSums};

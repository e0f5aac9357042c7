//! The scheduler: wiring of the data plane, telemetry, the ledger, the journal and the operators' API.
//!
//! Decisions are made elsewhere, by pure crates; this crate feeds them and acts on what they say. Client requests
//! live on one current-thread runtime per core and share only atomics and the published view with the rest.
//! Telemetry, the admin listener and the writer of the fleet live on the caller's runtime.

mod admin;
mod events;
mod fallen;
mod handover;
mod http;
mod insight;
mod journal;
mod ledger;
mod listener;
mod memory;
mod metrics;
mod models;
mod pipeline;
mod prober;
mod process;
mod residents;
mod room;
mod routes;
mod scheduler;
mod shared;
pub mod simulation;
mod state;
mod steps;
mod stopping;
mod telemetry;
mod tenants;
mod view;

pub use handover::HandoverError;
pub use process::prepare_process;
pub use scheduler::{Scheduler, SchedulerError};

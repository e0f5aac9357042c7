//! The whole farm under a virtual clock and a seed: arrivals from a trace, the decision crates that the live
//! scheduler runs, engine cores that the simulated engine runs, and one outcome per request.
//!
//! A discrete-event simulation in one thread. It never models a decision, a snapshot or an iteration itself: it
//! calls `placement::decide`, `fleet::Fleet` and `sim_engine::Engine`, and only passes time between them. Same
//! workload, configuration and seed give the same outcomes. Not modelled: network, tokenisation, the cost of
//! deciding.

mod config;
mod conservation;
mod fairness;
mod fault;
mod fleet_spec;
mod held;
mod ledger;
mod progress;
mod run;
mod scheduler;
mod site;
mod summary;
mod telemetry;
mod workload;

pub use config::{SimConfig, Telemetry};
pub use conservation::Violation;
pub use fairness::RejectedByPrompt;
pub use fault::{Fault, FaultError, FaultKind};
pub use fleet_spec::{EngineSpec, FleetError, parse_fleet};
pub use run::simulate;
pub use summary::{Objectives, Outcome, RequestRecord, Results, Summary};
pub use workload::{Arrival, PREFIX_BLOCK_TOKENS, Selection, Workload, WorkloadError};

//! A simulated inference engine: the real one's batching, memory, protocol and failures, without a GPU.
//!
//! - The core (`engine`, `batch`, `kv`, `prefix`, `sequence`, `invariants`) is pure: it fills iterations of
//!   continuous batching and prices them with the cost model of `estimate`. It knows no clock, so the farm
//!   simulator runs thousands of them under a virtual one.
//! - The service (`driver`, `inbox`, `status`, `activity`, `server`, `http`) lets the modelled time pass and
//!   speaks vLLM's dialect of the OpenAI API. One task owns the core; everybody else sends to it or reads
//!   what it publishes.
//! - What is made up (`prompt`, `text`) is a function of a seed and the request; what breaks (`faults`) breaks
//!   on demand.

mod activity;
mod batch;
pub mod config;
mod driver;
pub mod engine;
pub mod faults;
mod http;
mod inbox;
pub mod invariants;
mod kv;
mod prefix;
mod prompt;
mod sequence;
mod server;
mod status;
mod text;

pub use config::{SimConfig, SimError};
pub use engine::{Counters, Emission, Engine, StepPlan, StepResult, SubmitError};
pub use faults::{Fault, Faults, UnknownFault};
pub use kv::{BLOCK_TOKENS, blocks_for};
pub use sequence::SimRequest;
pub use server::SimEngine;

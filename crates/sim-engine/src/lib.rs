//! A simulated inference engine: the real one's batching, memory, protocol and failures, without a GPU.
//!
//! - The core (`engine`, `batch`, `kv`, `prefix`, `sequence`, `invariants`) is pure: it plans iterations of
//!   continuous batching and prices them with the cost model of `estimate`.

mod batch;
pub mod engine;
pub mod invariants;
mod kv;
mod prefix;
mod sequence;

pub use engine::{Counters, Emission, Engine, StepPlan, StepResult, SubmitError};
pub use kv::{BLOCK_TOKENS, blocks_for};
pub use sequence::SimRequest;

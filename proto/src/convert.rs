//! Between the wire and the domain, both ways.
//!
//! One function per message. From the wire, whatever is missing, unknown or impossible is a
//! [`ConvertError`] with the path of the field (`engines[2].url`); a report is taken whole or not at all.
//! To the wire nothing fails: domain values are valid by construction, and ages beyond the limit saturate.

mod engine;
mod error;
mod field;
mod gpu;
mod gpu_event;
mod gpu_process;
mod message;
mod report;
mod signal;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub use error::{ConvertError, Problem};
pub use message::{
    AgentMessage, Heard, SchedulerMessage, Welcome, agent_message, events_message, from_agent,
    report_of_message,
};
pub use report::report_from_wire;

/// The highest age that is believed; far beyond any uptime, and far below what overflows a clock.
pub const AGE_MAX: Duration = Duration::from_secs(10 * 365 * 24 * 3_600);

/// The longest reporting period an agent may promise; a longer one would hide that a node is silent.
pub const PERIOD_MAX: Duration = Duration::from_secs(60);

/// How much one report may carry. At a limit the whole report is refused with an error that names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// GPUs and MIG slices of one node.
    pub gpus_max: u32,
    /// Engines of one node.
    pub engines_max: u32,
    /// Models and adapters of one engine.
    pub models_per_engine_max: u32,
    /// Bytes of one text that is not an id: names, versions, reasons.
    pub text_bytes_max: u32,
    /// GPU events of one message; 0: none may be sent, as to a scheduler that does not know them.
    pub events_max: u32,
}

impl Limits {
    /// What a scheduler takes unless configured otherwise.
    pub const DEFAULT: Self = Self {
        gpus_max: 256,
        engines_max: 256,
        models_per_engine_max: 1_024,
        text_bytes_max: 4_096,
        events_max: 64,
    };
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

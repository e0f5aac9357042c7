//! The only reader of files and environment for settings: one TOML file per program, overlaid by
//! `AYA__SECTION__KEY` variables, overlaid by flags.
//!
//! What comes out is plain, validated and complete: no other crate sees a raw value, asks for a default or
//! checks a range. All problems are found in one pass, each with the place its value came from. A setting is
//! written in exactly two places: its field, and the line that reads it.

mod agent;
mod breaker;
mod handover;
mod health;
mod memory;
mod named;
mod passed;
mod policies;
mod reader;
mod scheduler;
mod secret;
mod service;
mod sim_engine;
mod source;
mod tree;
mod units;
mod upstream;
mod value;

use std::path::Path;

pub use agent::{
    AgentConfig, DiscoveryConfig, DiscoveryMode, EngineConfig, EnginePolling, GpuChoice, GpuConfig, GpuRef,
    ReportConfig, SimulatedGpus,
};
pub use breaker::{BreakerConfig, ModelProbe, ProbeConfig};
pub use handover::{HandoverConfig, StateConfig};
pub use memory::MemoryConfig;
pub use passed::{PassedSocket, passed_sockets};
pub use policies::ModelPolicyConfig;
pub use scheduler::{
    AliasConfig, DecisionsConfig, Limits, PlacementConfig, QueueConfig, RetryConfig, SchedulerConfig,
    TelemetryConfig, Timeouts,
};
pub use secret::Secret;
pub use service::{ClassConfig, SloConfig, TenantConfig, TenantsConfig};
pub use sim_engine::SimEngineConfig;
pub use source::{Flag, Origin, Problem, Problems, Setting, process_env};
pub use units::{format_duration, format_size, parse_duration, parse_size};
pub use upstream::{EngineKeyConfig, UpstreamConfig};

use reader::Reader;

/// A program's whole configuration; implemented by the configurations of this crate alone.
pub trait Config: Sized {
    /// Reads every key; problems go to the reader and stand-in values go on, so that all are found at once.
    #[doc(hidden)]
    fn read(reader: &mut Reader<'_>) -> Self;
    #[doc(hidden)]
    fn keep_effective(&mut self, settings: Vec<Setting>);
}

/// The log, for every program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// Levels per target, such as `info,aya_proxy=debug`; the log itself checks it.
    pub filter: String,
    pub format: LogFormat,
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

impl LogConfig {
    fn read(r: &mut Reader<'_>) -> Self {
        Self {
            filter: r.text("filter", "info"),
            format: r.choice(
                "format",
                LogFormat::Text,
                &[("text", LogFormat::Text), ("json", LogFormat::Json)],
            ),
        }
    }
}

/// Reads a program's configuration: the file if one is named, then `env`, then `flags`; the later wins.
///
/// # Errors
/// Every problem of all sources, an unreadable file included.
pub fn load<C: Config>(
    file: Option<&Path>,
    env: impl IntoIterator<Item = (String, String)>,
    flags: &[Flag],
) -> Result<C, Problems> {
    let (name, text) = match file {
        Some(path) => (path.display().to_string(), source::read_file(path)?),
        None => (String::new(), String::new()),
    };
    parse(&name, &text, env, flags)
}

/// The same on a text that stands for the file of this name; reads only the files that the text names.
///
/// # Errors
/// Every problem of all sources.
pub fn parse<C: Config>(
    name: &str,
    text: &str,
    env: impl IntoIterator<Item = (String, String)>,
    flags: &[Flag],
) -> Result<C, Problems> {
    let mut problems = Vec::new();
    let mut tree = tree::from_toml(name, text).map_err(Problems)?;
    tree::overlay_env(&mut tree, env, &mut problems);
    tree::overlay_flags(&mut tree, flags, &mut problems);
    let mut settings = Vec::new();
    let mut reader = Reader::new(tree, &mut problems, &mut settings);
    let mut config = C::read(&mut reader);
    reader.finish();
    if problems.is_empty() {
        config.keep_effective(settings);
        Ok(config)
    } else {
        problems.sort_by(Problem::in_reading_order);
        Err(Problems(problems))
    }
}

#[cfg(test)]
mod tests;

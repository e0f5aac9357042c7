//! What a simulated engine is started with, and what follows from it for the HTTP side.
//!
//! The cli and `config` fill [`SimConfig`]; nothing here reads a file, a flag or the environment.

use std::net::SocketAddr;

use aya_domain::{EngineProfile, StepCost, Tokens};
use aya_estimate::{NamedProfile, PLANNING_OVERHEAD, named};

use crate::engine::ROUNDING_TOKENS;
use crate::faults::Faults;

/// Requests that may wait in the engine's own queue unless configured.
pub const WAITING_MAX: u32 = 10_000;

/// Mean length of an answer, in tokens, unless configured.
pub const MEAN_OUTPUT_TOKENS: f64 = 200.0;

/// How a simulated engine is started.
#[derive(Debug, Clone)]
pub struct SimConfig {
    /// Port 0 takes a free one.
    pub listen: SocketAddr,
    /// A name that `aya_estimate::named` knows: `l4-8b`, `a10g-8b`, `a100-8b`, `h100-8b`, `a100x4-70b`, `h100x4-70b`.
    pub profile: String,
    /// Served names; the first one labels the metrics. Empty: the profile's own model.
    pub model: Vec<String>,
    /// Prompt and answer of one request, in tokens; `None`: the profile's.
    pub context_length: Option<u64>,
    /// Modelled seconds per real second; 10 is ten times faster than the hardware.
    pub time_scale: f64,
    /// Decides the texts, their lengths and which requests a partial fault strikes.
    pub seed: u64,
    /// Sequences in the batch; `None`: the profile's.
    pub max_sequences: Option<u32>,
    /// Mean length of an answer that the client's limit does not end, in tokens.
    pub mean_output_tokens: f64,
    /// Requests in the engine's own queue; beyond it they get a 503.
    pub waiting_max: u32,
    /// Whether the fault `abort-process` may end this process: never inside a test or the demo.
    pub may_abort_process: bool,
    /// What is wrong from the start.
    pub faults: Faults,
}

impl SimConfig {
    /// A faultless engine on a free loopback port, at the hardware's own speed.
    #[must_use]
    pub fn local(profile: &str) -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            profile: profile.to_owned(),
            model: Vec::new(),
            context_length: None,
            time_scale: 1.0,
            seed: 0,
            max_sequences: None,
            mean_output_tokens: MEAN_OUTPUT_TOKENS,
            waiting_max: WAITING_MAX,
            may_abort_process: false,
            faults: Faults::default(),
        }
    }
}

/// Why a simulated engine cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum SimError {
    #[error(transparent)]
    UnknownProfile(#[from] aya_estimate::UnknownProfile),
    #[error("a time scale of {0} is not from 0.001 to 10000")]
    TimeScale(f64),
    #[error("a context of {context} tokens does not fit into a KV pool of {pool} tokens")]
    ContextTooLong { context: u64, pool: u64 },
    #[error("max sequences and the mean answer must be at least 1")]
    Zero,
    #[error("faults: {0}")]
    Faults(String),
    #[error("cannot listen on {listen}: {source}")]
    Bind { listen: SocketAddr, source: std::io::Error },
    #[error("the listener failed: {0}")]
    Serve(#[source] std::io::Error),
}

/// What is told about the engine and never changes.
#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) named: &'static NamedProfile,
    /// As it runs, in modelled seconds.
    pub(crate) profile: EngineProfile,
    pub(crate) models: Vec<String>,
    pub(crate) context_length: u64,
    pub(crate) time_scale: f64,
    pub(crate) seed: u64,
    pub(crate) mean_output_tokens: f64,
    pub(crate) may_abort_process: bool,
}

impl Facts {
    pub(crate) fn new(config: &SimConfig) -> Result<Self, SimError> {
        let named = named(&config.profile)?;
        if !(0.001..=10_000.0).contains(&config.time_scale) {
            return Err(SimError::TimeScale(config.time_scale));
        }
        if config.max_sequences == Some(0)
            || config.mean_output_tokens.is_nan()
            || config.mean_output_tokens < 1.0
        {
            return Err(SimError::Zero);
        }
        config.faults.check().map_err(SimError::Faults)?;
        let pool = named.profile.kv_capacity.get();
        let context_length = config.context_length.unwrap_or(named.context_length.get());
        if context_length + u64::from(ROUNDING_TOKENS) > pool {
            return Err(SimError::ContextTooLong { context: context_length, pool });
        }
        let models =
            if config.model.is_empty() { vec![named.model.to_owned()] } else { config.model.clone() };
        let max_sequences = config.max_sequences.unwrap_or(named.profile.max_sequences);
        Ok(Self {
            named,
            profile: EngineProfile { max_sequences, ..named.profile },
            models,
            context_length,
            time_scale: config.time_scale,
            seed: config.seed,
            mean_output_tokens: config.mean_output_tokens,
            may_abort_process: config.may_abort_process,
        })
    }

    /// The model that labels the metrics and serves requests that name none.
    pub(crate) fn model(&self) -> &str {
        self.models.first().map_or("", String::as_str)
    }

    /// The cost of a step in real seconds, faults aside.
    pub(crate) fn real_cost(&self) -> StepCost {
        let cost = &self.profile.cost;
        StepCost {
            base_s: cost.base_s / self.time_scale,
            per_token_s: cost.per_token_s / self.time_scale,
            overhead_s: cost.overhead_s / self.time_scale,
            per_kv_token_s: cost.per_kv_token_s / self.time_scale,
            attention_s: cost.attention_s / self.time_scale,
        }
    }

    /// VRAM over all GPUs of the engine: weights, the pool and the working memory, all taken at the start and
    /// kept, as pre-allocating engines do.
    pub(crate) fn vram_used_bytes(&self) -> u64 {
        let pool = self.named.kv_bytes_per_token_per_gpu.get().saturating_mul(self.profile.kv_capacity.get());
        let per_gpu =
            self.named.weights_per_gpu.get().saturating_add(pool).saturating_add(PLANNING_OVERHEAD.get());
        per_gpu.min(self.named.vram_total_per_gpu.get()).saturating_mul(u64::from(self.named.gpus_per_engine))
    }

    /// What is left of the context after a prompt.
    pub(crate) const fn room_after(&self, prompt: Tokens) -> u64 {
        self.context_length.saturating_sub(prompt.get())
    }
}

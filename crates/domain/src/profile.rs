//! What one iteration of an engine costs, as plain numbers.
//!
//! The numbers come from `estimate` (named profiles, priors, later learning); the simulated engine
//! runs on them, and placement predicts with them.

use crate::{Ratio, Tokens};

/// Coefficients of one continuous-batching iteration:
/// `sqrt(base^2 + (per_token*n)^2) + overhead + per_kv_token*kv + attention*attn` seconds, where `n` counts
/// prefill and decode tokens, `kv` the KV tokens read by the decoders and `attn` the token pairs of prefill chunks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepCost {
    /// Reading the weights once, in seconds (a).
    pub base_s: f64,
    /// Computing one token, in seconds (b).
    pub per_token_s: f64,
    /// Host, sampling and all-reduce time, in seconds (o).
    pub overhead_s: f64,
    /// Reading one KV token, in seconds (d).
    pub per_kv_token_s: f64,
    /// One query-key pair of a prefill chunk, in seconds (e).
    pub attention_s: f64,
}

/// An engine on its hardware: the cost of a step and the limits of the batch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EngineProfile {
    pub cost: StepCost,
    /// The KV pool.
    pub kv_capacity: Tokens,
    /// Prefill and decode tokens in one iteration.
    pub max_batched_tokens: u32,
    /// Sequences in one iteration.
    pub max_sequences: u32,
}

/// No engine is thought slower than this: predictions beyond it say no more than "last".
const SPEED_MIN: f64 = 0.05;

impl EngineProfile {
    /// The same engine on GPUs that run at a share of their speed. Everything the GPU does takes longer, reading memory
    /// too: what lies between the multiprocessors and the memory has their clock. The host's part stays.
    #[must_use]
    pub fn at_speed(&self, speed: Ratio) -> Self {
        if speed >= Ratio::ONE {
            return *self;
        }
        let slower = 1.0 / speed.get().max(SPEED_MIN);
        let cost = StepCost {
            base_s: self.cost.base_s * slower,
            per_token_s: self.cost.per_token_s * slower,
            overhead_s: self.cost.overhead_s,
            per_kv_token_s: self.cost.per_kv_token_s * slower,
            attention_s: self.cost.attention_s * slower,
        };
        Self { cost, ..*self }
    }
}

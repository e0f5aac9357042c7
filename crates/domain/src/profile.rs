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

/// What a correction of the cost rests on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Learned {
    /// What predicted seconds are multiplied with; 1 unless `is_used`.
    pub factor: f64,
    /// Steps that taught, of the whole class of hardware.
    pub samples: u32,
    /// Mean relative error of the prior and of what was learned, each before it saw the sample.
    pub prior_error: f64,
    pub learned_error: f64,
    /// Whether it predicts better than the prior, on enough samples; else the prior is used.
    pub is_used: bool,
}

/// Corrections of an endpoint's cost, learned from its own and its class's steps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LearnedCost {
    /// Of iterations that only decode: weights, KV cache, host.
    pub decode: Learned,
    /// Of prompts: computing tokens, attention.
    pub prefill: Learned,
}

impl EngineProfile {
    /// The same engine with its cost corrected.
    #[must_use]
    pub fn corrected(&self, learned: &LearnedCost) -> Self {
        let (decode, prefill) = (learned.decode.factor, learned.prefill.factor);
        let cost = StepCost {
            base_s: self.cost.base_s * decode,
            per_token_s: self.cost.per_token_s * prefill,
            overhead_s: self.cost.overhead_s * decode,
            per_kv_token_s: self.cost.per_kv_token_s * decode,
            attention_s: self.cost.attention_s * prefill,
        };
        Self { cost, ..*self }
    }
}

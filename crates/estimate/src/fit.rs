//! Whether a model and its KV cache fit on GPUs: weights, KV bytes per token, and the pool that remains.
//!
//! Planning numbers. The activation peak varies from 0.5 to 9.4 GiB between configurations, so what an
//! engine reports about its own pool always wins over what is computed here. A request fits at all iff
//! prompt and answer ([`total_need`]) fit the context and the pool.

use aya_domain::{Bytes, Request, RequestKind, Tokens};

/// Tokens of one KV block.
pub const BLOCK_TOKENS: u64 = 16;

/// What an engine needs beside weights and KV pool, for planning: activation peak, CUDA context, NCCL,
/// graphs: 1.5 GiB.
pub const PLANNING_OVERHEAD: Bytes = Bytes(3 << 29);

/// The dimensions that decide memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModelShape {
    pub layers: u64,
    pub hidden: u64,
    pub heads: u64,
    pub kv_heads: u64,
    pub head_dim: u64,
    pub ffn: u64,
    pub vocabulary: u64,
    /// Experts per layer; 1 for a dense model. All count for weights.
    pub experts: u64,
    /// Whether queries and keys are normalised (Qwen3).
    pub qk_norm: bool,
}

pub const LLAMA_3_1_8B: ModelShape = ModelShape {
    layers: 32,
    hidden: 4096,
    heads: 32,
    kv_heads: 8,
    head_dim: 128,
    ffn: 14_336,
    vocabulary: 128_256,
    experts: 1,
    qk_norm: false,
};

pub const LLAMA_3_1_70B: ModelShape =
    ModelShape { layers: 80, hidden: 8192, heads: 64, ffn: 28_672, ..LLAMA_3_1_8B };

pub const QWEN3_32B: ModelShape = ModelShape {
    layers: 64,
    hidden: 5120,
    heads: 64,
    ffn: 25_600,
    vocabulary: 151_936,
    qk_norm: true,
    ..LLAMA_3_1_8B
};

pub const MIXTRAL_8X7B: ModelShape = ModelShape { vocabulary: 32_000, experts: 8, ..LLAMA_3_1_8B };

impl ModelShape {
    /// Parameters, embeddings untied.
    #[must_use]
    pub const fn parameters(&self) -> u64 {
        let attention =
            2 * self.hidden * self.heads * self.head_dim + 2 * self.hidden * self.kv_heads * self.head_dim;
        let norms = 2 * self.hidden + if self.qk_norm { 2 * self.head_dim } else { 0 };
        let router = if self.experts > 1 { self.hidden * self.experts } else { 0 };
        let feed_forward = 3 * self.hidden * self.ffn * self.experts + router;
        self.layers * (attention + feed_forward + norms) + 2 * self.vocabulary * self.hidden + self.hidden
    }

    /// KV cache of one token on one GPU. KV heads are replicated once the tensor-parallel group is larger
    /// than their number. `element_bytes` is 2 for bf16, 1 for fp8.
    #[must_use]
    pub fn kv_bytes_per_token(
        &self,
        tensor_parallel: u64,
        pipeline_parallel: u64,
        element_bytes: u64,
    ) -> Bytes {
        let heads = (self.kv_heads / tensor_parallel.max(1)).max(1);
        Bytes(2 * self.layers * heads * self.head_dim * element_bytes / pipeline_parallel.max(1))
    }
}

/// KV cache of one token for multi-head latent attention: one compressed vector per layer, replicated on
/// every GPU of a tensor-parallel group.
#[must_use]
pub const fn mla_kv_bytes_per_token(layers: u64, lora_rank: u64, rope_dim: u64, element_bytes: u64) -> Bytes {
    Bytes(layers * (lora_rank + rope_dim) * element_bytes)
}

/// How weights are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeightFormat {
    Bf16,
    Fp8,
    /// Four bits and a scale per 128 weights, as loaded: 0.5625 bytes.
    Int4Group128,
}

impl WeightFormat {
    /// Sixteenths of a byte per parameter, so that the arithmetic stays exact.
    const fn sixteenth_bytes(self) -> u64 {
        match self {
            Self::Bf16 => 32,
            Self::Fp8 => 16,
            Self::Int4Group128 => 9,
        }
    }
}

/// Weights on each of `gpus` GPUs (tensor-parallel times pipeline-parallel).
#[must_use]
pub const fn weights_per_gpu(parameters: u64, format: WeightFormat, gpus: u64) -> Bytes {
    let gpus = if gpus == 0 { 1 } else { gpus };
    Bytes(parameters * format.sixteenth_bytes() / 16 / gpus)
}

/// The parts of one GPU's memory when an engine starts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PoolPlan {
    pub total: Bytes,
    /// Share of `total` the engine may claim (vLLM `gpu_memory_utilization`, 0.90 or 0.92).
    pub utilization: f64,
    pub weights: Bytes,
    pub overhead: Bytes,
    pub kv_bytes_per_token: Bytes,
}

impl PoolPlan {
    /// The KV pool in whole blocks; `None` if not even one block fits beside the weights.
    #[must_use]
    pub fn kv_tokens(&self) -> Option<Tokens> {
        let pool = self.total.as_f64() * self.utilization - self.weights.as_f64() - self.overhead.as_f64();
        let block = self.kv_bytes_per_token.as_f64() * Tokens(BLOCK_TOKENS).as_f64();
        let blocks = (pool / block).floor();
        if blocks >= 1.0 && blocks.is_finite() { Some(Tokens(whole(blocks) * BLOCK_TOKENS)) } else { None }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a floored positive number; saturates"
)]
const fn whole(value: f64) -> u64 {
    value as u64
}

/// Tokens that a request may come to hold: prompt and answer limit, or one answer token where there is no
/// limit. An embedding has no answer.
#[must_use]
pub fn total_need(request: &Request) -> Tokens {
    let answer = match request.kind {
        RequestKind::Chat | RequestKind::Completion => request.max_tokens.unwrap_or(Tokens(1)),
        RequestKind::Embedding => Tokens(0),
    };
    request.prompt_tokens.plus(answer)
}

#[cfg(test)]
mod tests;

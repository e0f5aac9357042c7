//! What things cost: the time of an engine's iteration, tokens from bytes, KV cache and VRAM, expected
//! answers.
//!
//! Placement predicts with these numbers and the simulated engine runs on them, so both mean the same by
//! "an H100". Everything here is arithmetic on arguments: no clock, no file, no random source, and no
//! opinion about where a request should go.

mod fit;
mod learn;
mod lengths;
mod output;
mod prefix;
mod prior;
mod profiles;
mod rate;
mod step;
mod tokens;

pub use fit::{
    BLOCK_TOKENS, LLAMA_3_1_8B, LLAMA_3_1_70B, MIXTRAL_8X7B, ModelShape, PLANNING_OVERHEAD, PoolPlan,
    QWEN3_32B, WeightFormat, mla_kv_bytes_per_token, total_need, weights_per_gpu,
};
pub use learn::{ClassLearner, StepKind};
pub use lengths::LengthDistribution;
pub use output::OutputPrior;
pub use prefix::{Match, PREFIX_BLOCKS_MAX, PrefixIndex};
pub use prior::{Prior, prior};
pub use profiles::{NamedProfile, UnknownProfile, all, named, relative_speed};
pub use rate::{DecayedRate, RATE_TAU};
pub use step::{decode_steps_s, prefill_attention, prompt_alone_s, step_time_s};
pub use tokens::{BYTES_PER_TOKEN_LIMIT, TokenRatio};

//! Engines on known hardware by name: what the simulated engine runs on and what the estimator starts from.
//!
//! The constants are those of the reference study: roofline formulas (`prior`), calibrated on published
//! kernel timings where there are any. A profile is a starting point, never an answer to what a real engine
//! told.

use std::fmt;

use aya_domain::{Bytes, EngineProfile, Milliwatts, StepCost, Tokens};

use crate::fit::{LLAMA_3_1_8B, LLAMA_3_1_70B, WeightFormat, weights_per_gpu};

/// An engine with its model on its GPUs.
#[derive(Debug, Clone, PartialEq)]
pub struct NamedProfile {
    /// The name used in flags, configuration and explanations.
    pub name: &'static str,
    /// The product name as the driver gives it.
    pub gpu_name: &'static str,
    /// GPUs of one engine (tensor parallel).
    pub gpus_per_engine: u32,
    pub profile: EngineProfile,
    /// Memory a program can use on one GPU.
    pub vram_total_per_gpu: Bytes,
    pub weights_per_gpu: Bytes,
    pub kv_bytes_per_token_per_gpu: Bytes,
    /// The board's default power limit.
    pub power_limit: Milliwatts,
    /// Typical draw with a model loaded and nothing to do.
    pub idle_power: Milliwatts,
    /// The model served unless another name is given.
    pub model: &'static str,
    /// The longest request; below the KV pool, as engines demand.
    pub context_length: Tokens,
    /// Relative speed set by hand, for weighted baseline policies only.
    pub weight: f64,
}

/// A text that names no profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownProfile(pub String);

impl fmt::Display for UnknownProfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unknown profile {:?}; known:", self.0)?;
        for (i, profile) in ALL.iter().enumerate() {
            write!(f, "{} {}", if i == 0 { "" } else { "," }, profile.name)?;
        }
        Ok(())
    }
}

impl std::error::Error for UnknownProfile {}

/// Every profile, slower single GPUs first.
#[must_use]
pub const fn all() -> &'static [NamedProfile] {
    &ALL
}

/// The profile of this name.
///
/// # Errors
/// [`UnknownProfile`], which lists the known names.
pub fn named(name: &str) -> Result<&'static NamedProfile, UnknownProfile> {
    ALL.iter().find(|profile| profile.name == name).ok_or_else(|| UnknownProfile(name.to_owned()))
}

/// How fast an engine is beside an L4: the hand-set weight of a named profile, otherwise how fast it computes
/// tokens. For weighted baseline policies only; `aya` predicts seconds instead.
#[must_use]
pub fn relative_speed(profile: &EngineProfile) -> f64 {
    let named = ALL.iter().find(|named| named.profile.cost == profile.cost);
    named.map_or_else(
        || (SLOWEST.cost.per_token_s / profile.cost.per_token_s.max(1e-9)).max(0.01),
        |n| n.weight,
    )
}

/// Sequences per iteration in all profiles.
const MAX_SEQUENCES: u32 = 256;

/// Milliseconds, microseconds and nanoseconds as the tables give them.
const fn cost(
    base_ms: f64,
    per_token_us: f64,
    overhead_ms: f64,
    per_kv_token_us: f64,
    attention_ns: f64,
) -> StepCost {
    StepCost {
        base_s: base_ms / 1e3,
        per_token_s: per_token_us / 1e6,
        overhead_s: overhead_ms / 1e3,
        per_kv_token_s: per_kv_token_us / 1e6,
        attention_s: attention_ns / 1e9,
    }
}

const fn engine(cost: StepCost, kv_capacity: u64, max_batched_tokens: u32) -> EngineProfile {
    EngineProfile { cost, kv_capacity: Tokens(kv_capacity), max_batched_tokens, max_sequences: MAX_SEQUENCES }
}

/// GiB given in hundredths.
pub(crate) const fn hundredth_gib(hundredths: u64) -> Bytes {
    Bytes(hundredths * (1 << 30) / 100)
}

/// What an unknown engine is taken for.
pub(crate) const SLOWEST: EngineProfile = engine(cost(60.0, 250.0, 3.0, 0.550, 8.7), 31_000, 2048);

const WEIGHTS_8B: Bytes = weights_per_gpu(LLAMA_3_1_8B.parameters(), WeightFormat::Bf16, 1);
const WEIGHTS_70B_OF_4: Bytes = weights_per_gpu(LLAMA_3_1_70B.parameters(), WeightFormat::Bf16, 4);
/// bf16 KV of one token: 8B on one GPU, and 70B on each of four.
const KV_8B: Bytes = Bytes(131_072);
const KV_70B_OF_4: Bytes = Bytes(81_920);
const MODEL_8B: &str = "llama-3.1-8b";
const MODEL_70B: &str = "llama-3.1-70b";

static ALL: [NamedProfile; 6] = [
    NamedProfile {
        name: "l4-8b",
        gpu_name: "NVIDIA L4",
        gpus_per_engine: 1,
        profile: SLOWEST,
        vram_total_per_gpu: hundredth_gib(2217),
        weights_per_gpu: WEIGHTS_8B,
        kv_bytes_per_token_per_gpu: KV_8B,
        power_limit: Milliwatts(72_000),
        idle_power: Milliwatts(28_000),
        model: MODEL_8B,
        context_length: Tokens(16_384),
        weight: 1.0,
    },
    NamedProfile {
        name: "a10g-8b",
        gpu_name: "NVIDIA A10G",
        gpus_per_engine: 1,
        profile: engine(cost(32.0, 330.0, 3.0, 0.280, 11.7), 30_000, 2048),
        vram_total_per_gpu: hundredth_gib(2206),
        weights_per_gpu: WEIGHTS_8B,
        kv_bytes_per_token_per_gpu: KV_8B,
        power_limit: Milliwatts(300_000),
        idle_power: Milliwatts(58_000),
        model: MODEL_8B,
        context_length: Tokens(16_384),
        weight: 1.0,
    },
    NamedProfile {
        name: "a100-8b",
        gpu_name: "NVIDIA A100-SXM4-80GB",
        gpus_per_engine: 1,
        profile: engine(cost(10.3, 69.0, 2.5, 0.086, 3.4), 440_000, 2048),
        vram_total_per_gpu: hundredth_gib(7915),
        weights_per_gpu: WEIGHTS_8B,
        kv_bytes_per_token_per_gpu: KV_8B,
        power_limit: Milliwatts(400_000),
        idle_power: Milliwatts(65_000),
        model: MODEL_8B,
        context_length: Tokens(131_072),
        weight: 4.0,
    },
    NamedProfile {
        name: "h100-8b",
        gpu_name: "NVIDIA H100 80GB HBM3",
        gpus_per_engine: 1,
        profile: engine(cost(6.1, 24.0, 2.0, 0.052, 1.1), 440_000, 8192),
        vram_total_per_gpu: hundredth_gib(7911),
        weights_per_gpu: WEIGHTS_8B,
        kv_bytes_per_token_per_gpu: KV_8B,
        power_limit: Milliwatts(700_000),
        idle_power: Milliwatts(110_000),
        model: MODEL_8B,
        context_length: Tokens(131_072),
        weight: 10.0,
    },
    NamedProfile {
        name: "a100x4-70b",
        gpu_name: "NVIDIA A100-SXM4-80GB",
        gpus_per_engine: 4,
        profile: engine(cost(25.5, 161.0, 8.0, 0.054, 4.3), 470_000, 2048),
        vram_total_per_gpu: hundredth_gib(7915),
        weights_per_gpu: WEIGHTS_70B_OF_4,
        kv_bytes_per_token_per_gpu: KV_70B_OF_4,
        power_limit: Milliwatts(400_000),
        idle_power: Milliwatts(65_000),
        model: MODEL_70B,
        context_length: Tokens(131_072),
        weight: 1.7,
    },
    NamedProfile {
        name: "h100x4-70b",
        gpu_name: "NVIDIA H100 80GB HBM3",
        gpus_per_engine: 4,
        profile: engine(cost(14.8, 55.0, 6.0, 0.033, 1.4), 470_000, 8192),
        vram_total_per_gpu: hundredth_gib(7911),
        weights_per_gpu: WEIGHTS_70B_OF_4,
        kv_bytes_per_token_per_gpu: KV_70B_OF_4,
        power_limit: Milliwatts(700_000),
        idle_power: Milliwatts(110_000),
        model: MODEL_70B,
        context_length: Tokens(131_072),
        weight: 4.8,
    },
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fit::{LLAMA_3_1_8B, LLAMA_3_1_70B, PLANNING_OVERHEAD, PoolPlan};

    #[test]
    fn every_profile_is_found_by_its_name_and_an_error_lists_them() {
        for profile in all() {
            assert_eq!(named(profile.name).map(|p| p.name), Ok(profile.name));
        }
        let error = named("h200").unwrap_err().to_string();
        assert_eq!(
            error,
            "unknown profile \"h200\"; known: l4-8b, a10g-8b, a100-8b, h100-8b, a100x4-70b, h100x4-70b"
        );
    }

    #[test]
    fn an_unnamed_engine_gets_about_the_weight_of_its_like() {
        for p in all() {
            assert!((relative_speed(&p.profile) - p.weight).abs() < 1e-9, "{}", p.name);
            let mut unnamed = p.profile;
            unnamed.cost.overhead_s += 1e-6;
            let ratio = relative_speed(&unnamed) / p.weight;
            assert!((0.7..1.3).contains(&ratio), "{}: {ratio}", p.name);
        }
    }

    /// The table's pools are rounded planning numbers; the formula with 1.5 GiB of overhead is the check on
    /// them.
    #[test]
    fn every_pool_is_about_what_the_memory_allows() {
        for p in all() {
            let plan = PoolPlan {
                total: p.vram_total_per_gpu,
                utilization: 0.90,
                weights: p.weights_per_gpu,
                overhead: PLANNING_OVERHEAD,
                kv_bytes_per_token: p.kv_bytes_per_token_per_gpu,
            };
            let computed = plan.kv_tokens().unwrap().as_f64();
            let stated = p.profile.kv_capacity.as_f64();
            assert!(
                (stated / computed - 1.0).abs() < 0.10,
                "{}: {stated} stated, {computed} computed",
                p.name
            );
            let shape = if p.gpus_per_engine == 4 { LLAMA_3_1_70B } else { LLAMA_3_1_8B };
            assert_eq!(
                p.kv_bytes_per_token_per_gpu,
                shape.kv_bytes_per_token(p.gpus_per_engine.into(), 1, 2)
            );
            assert!(p.context_length <= p.profile.kv_capacity, "{}", p.name);
            assert!(p.idle_power < p.power_limit, "{}", p.name);
        }
    }

    #[test]
    fn the_constants_reproduce_the_floors_of_an_idle_endpoint() {
        // Alone on an A100: published are 75.6 ms of kernels for 1,024 tokens, 9.8 ms for one.
        let a100 = named("a100-8b").unwrap().profile.cost;
        let prefill_ms = crate::step_time_s(&a100, 1024.0, 0.0, 0.0) * 1e3;
        assert!((73.0..80.0).contains(&prefill_ms), "{prefill_ms}");
        let decode_ms = crate::step_time_s(&a100, 1.0, 1000.0, 0.0) * 1e3;
        assert!((12.0..13.5).contains(&decode_ms), "{decode_ms}");
    }
}

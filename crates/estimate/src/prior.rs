//! What an engine probably costs when nobody told: a guess from the name of its GPU.
//!
//! Roofline with the efficiencies of the reference study: `a = weights / (TP bandwidth eta_m)`, `b = 2
//! parameters / (TP FLOPS eta_c)`, `d = KV bytes / (bandwidth eta_m)`, `e = 4 layers heads head_dim / (TP
//! FLOPS eta_a)`. Bandwidth and dense bf16 (fp16 where the chip has no bf16) throughput are NVIDIA's data
//! sheet figures. Where a calibrated profile exists it is used instead. The model is unknown here, so an 8B
//! (or, on a group of GPUs that only makes sense for one, a 70B) in bf16 is assumed. The source string says
//! so in the explanation; what an engine or the configuration tells always wins.

use aya_domain::{Bytes, EngineProfile, StepCost, Tokens};

use crate::fit::{
    LLAMA_3_1_8B, LLAMA_3_1_70B, ModelShape, PLANNING_OVERHEAD, PoolPlan, WeightFormat, weights_per_gpu,
};
use crate::profiles;

/// A guessed profile and where it comes from.
#[derive(Debug, Clone, PartialEq)]
pub struct Prior {
    pub profile: EngineProfile,
    /// `prior:GPU-MODEL`, such as `prior:h100-8b` or `prior:h200x4-70b`; `prior:unknown` where the GPU is
    /// unknown.
    pub source: String,
}

/// One product: words of its name, and its data sheet.
struct Product {
    /// All of these are words of the product name.
    words: &'static [&'static str],
    key: &'static str,
    bandwidth_gb_s: f64,
    tflops: f64,
    /// Memory a program can use on one GPU.
    vram: Bytes,
    /// Measured shares of peak bandwidth and throughput, where the study has them.
    eta: (f64, f64),
    /// Prefill budget of an engine's defaults on such a card.
    batched: u32,
}

const fn product(
    words: &'static [&'static str],
    key: &'static str,
    bandwidth_gb_s: f64,
    tflops: f64,
    vram_hundredth_gib: u64,
) -> Product {
    let vram = profiles::hundredth_gib(vram_hundredth_gib);
    // vLLM's defaults: 8192 on cards of 70 GiB and more, except A100.
    let batched = if vram_hundredth_gib >= 7000 && tflops > 400.0 { 8192 } else { 2048 };
    Product { words, key, bandwidth_gb_s, tflops, vram, eta: (ETA_MEMORY, ETA_COMPUTE), batched }
}

/// Typical of the calibration table: .67 to .78 of the bandwidth, .64 to .69 of the throughput.
const ETA_MEMORY: f64 = 0.70;
const ETA_COMPUTE: f64 = 0.65;
const ETA_ATTENTION: f64 = 0.5;
/// Seconds of host and sampling time per iteration; the profiles have 2 to 3 ms.
const OVERHEAD_S: f64 = 2.5e-3;
/// Seconds of one all-reduce; two per layer. Between the 25 us of H100 and the 34 us of A100 groups over
/// NVLink.
const ALL_REDUCE_S: f64 = 0.03e-3;
/// A larger model is assumed once its weights take at most this share of the group's memory.
const LARGE_MODEL_SHARE: f64 = 0.75;
/// Share of memory engines claim by default.
const UTILIZATION: f64 = 0.90;
/// The pool where not even the weights fit: a smaller or quantised model runs there, and this is the least
/// that is useful.
const LEAST_POOL: Tokens = Tokens(4096);
/// Larger tensor-parallel groups are counted as this.
const MAX_GROUP: usize = 16;

/// More specific names first: the first product whose words all occur is taken.
static PRODUCTS: [Product; 26] = [
    product(&["B200"], "b200", 8000.0, 2250.0, 17800),
    product(&["GH200"], "gh200", 4000.0, 989.0, 9400),
    product(&["H200"], "h200", 4800.0, 989.0, 13900),
    product(&["H100", "NVL"], "h100-nvl", 3938.0, 835.0, 9300),
    product(&["H100", "PCIE"], "h100-pcie", 2000.0, 756.0, 7910),
    product(&["H100"], "h100", 3350.0, 989.0, 7910),
    product(&["H800"], "h800", 3350.0, 989.0, 7910),
    product(&["H20"], "h20", 4000.0, 148.0, 9500),
    product(&["A100", "40GB"], "a100-40", 1555.0, 312.0, 3950),
    product(&["A100"], "a100", 2039.0, 312.0, 7915),
    product(&["A800"], "a800", 2039.0, 312.0, 7915),
    product(&["A40"], "a40", 696.0, 149.7, 4440),
    product(&["A30"], "a30", 933.0, 165.0, 2360),
    Product { eta: (0.73, 0.65), ..product(&["A10G"], "a10g", 600.0, 70.0, 2206) },
    product(&["A10"], "a10", 600.0, 125.0, 2206),
    product(&["A6000"], "rtx-a6000", 768.0, 154.8, 4740),
    product(&["L40S"], "l40s", 864.0, 362.0, 4440),
    product(&["L40"], "l40", 864.0, 181.0, 4440),
    Product { eta: (0.78, 0.50), ..product(&["L4"], "l4", 300.0, 121.0, 2217) },
    product(&["RTX", "6000", "ADA"], "rtx-6000-ada", 960.0, 364.0, 4740),
    product(&["RTX", "5090"], "rtx-5090", 1792.0, 209.5, 3130),
    product(&["RTX", "4090"], "rtx-4090", 1008.0, 165.2, 2350),
    product(&["RTX", "3090"], "rtx-3090", 936.0, 71.0, 2350),
    product(&["V100", "32GB"], "v100-32", 900.0, 125.0, 3170),
    product(&["V100"], "v100", 900.0, 125.0, 1570),
    product(&["T4"], "t4", 320.0, 65.0, 1460),
];

/// The prior of an engine on `gpus` GPUs of this product name. Unknown products, slices (MIG) and engines
/// without a known GPU get the slowest of the named profiles, so that an unknown endpoint is not flooded.
#[must_use]
pub fn prior(gpu_name: Option<&str>, gpus: usize) -> Prior {
    let Some(product) = gpu_name.and_then(product_of) else {
        return Prior { profile: profiles::SLOWEST, source: "prior:unknown".to_owned() };
    };
    let group = gpus.clamp(1, MAX_GROUP) as u64;
    let (model, shape) = assumed_model(product, group);
    let name = match group {
        1 => format!("{}-{model}", product.key),
        _ => format!("{}x{group}-{model}", product.key),
    };
    let profile =
        profiles::named(&name).map_or_else(|_| roofline(product, shape, group), |known| known.profile);
    Prior { profile, source: format!("prior:{name}") }
}

fn product_of(name: &str) -> Option<&'static Product> {
    let has =
        |word: &str| name.split(|c: char| !c.is_ascii_alphanumeric()).any(|w| w.eq_ignore_ascii_case(word));
    if has("MIG") {
        return None;
    }
    PRODUCTS.iter().find(|product| product.words.iter().all(|word| has(word)))
}

/// A group is built for the largest model it carries well: 70B where its weights leave room, else 8B.
fn assumed_model(product: &Product, group: u64) -> (&'static str, &'static ModelShape) {
    let share_of_group = weights_per_gpu(LLAMA_3_1_70B.parameters(), WeightFormat::Bf16, group).as_f64()
        / product.vram.as_f64();
    if group > 1 && share_of_group <= LARGE_MODEL_SHARE {
        ("70b", &LLAMA_3_1_70B)
    } else {
        ("8b", &LLAMA_3_1_8B)
    }
}

fn roofline(product: &Product, shape: &ModelShape, group: u64) -> EngineProfile {
    let (eta_memory, eta_compute) = product.eta;
    let bandwidth = product.bandwidth_gb_s * 1e9 * eta_memory;
    let gpus = Tokens(group).as_f64();
    let flops = product.tflops * 1e12 * gpus;
    let parameters = Tokens(shape.parameters()).as_f64();
    let weights = weights_per_gpu(shape.parameters(), WeightFormat::Bf16, group);
    let kv = shape.kv_bytes_per_token(group, 1, 2);
    let pairs = Tokens(4 * shape.layers * shape.heads * shape.head_dim).as_f64();
    let all_reduces = if group > 1 { Tokens(2 * shape.layers).as_f64() } else { 0.0 };
    let plan = PoolPlan {
        total: product.vram,
        utilization: UTILIZATION,
        weights,
        overhead: PLANNING_OVERHEAD,
        kv_bytes_per_token: kv,
    };
    EngineProfile {
        cost: StepCost {
            base_s: weights.as_f64() / bandwidth,
            per_token_s: 2.0 * parameters / (flops * eta_compute),
            overhead_s: OVERHEAD_S + all_reduces * ALL_REDUCE_S,
            per_kv_token_s: kv.as_f64() / bandwidth,
            attention_s: pairs / (flops * ETA_ATTENTION),
        },
        kv_capacity: plan.kv_tokens().unwrap_or(LEAST_POOL).max(LEAST_POOL),
        max_batched_tokens: product.batched,
        max_sequences: 256,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_product_name_decides_by_whole_words() {
        for (name, gpus, source) in [
            (Some("NVIDIA H100 80GB HBM3"), 1, "prior:h100-8b"),
            (Some("NVIDIA H100 80GB HBM3"), 4, "prior:h100x4-70b"),
            (Some("NVIDIA H100 80GB HBM3"), 2, "prior:h100x2-8b"),
            (Some("NVIDIA H100 PCIe"), 1, "prior:h100-pcie-8b"),
            (Some("NVIDIA H200"), 1, "prior:h200-8b"),
            (Some("NVIDIA H200"), 2, "prior:h200x2-70b"),
            (Some("NVIDIA A100-SXM4-80GB"), 4, "prior:a100x4-70b"),
            (Some("NVIDIA A100-SXM4-40GB"), 1, "prior:a100-40-8b"),
            (Some("NVIDIA A10G"), 1, "prior:a10g-8b"),
            (Some("NVIDIA A10"), 1, "prior:a10-8b"),
            (Some("NVIDIA L4"), 1, "prior:l4-8b"),
            (Some("NVIDIA L4"), 4, "prior:l4x4-8b"),
            (Some("NVIDIA L40S"), 1, "prior:l40s-8b"),
            (Some("NVIDIA A40"), 1, "prior:a40-8b"),
            (Some("NVIDIA GeForce RTX 4090"), 1, "prior:rtx-4090-8b"),
            (Some("Tesla T4"), 0, "prior:t4-8b"),
            (Some("Tesla V100-SXM2-32GB"), 1, "prior:v100-32-8b"),
            (Some("NVIDIA A100-SXM4-80GB MIG 1g.10gb"), 1, "prior:unknown"),
            (Some("Radeon"), 1, "prior:unknown"),
            (None, 0, "prior:unknown"),
        ] {
            assert_eq!(prior(name, gpus).source, source, "{name:?} x {gpus}");
        }
    }

    #[test]
    fn a_calibrated_profile_is_used_where_there_is_one() {
        for known in profiles::all() {
            let found = prior(Some(known.gpu_name), known.gpus_per_engine as usize);
            assert_eq!(found.profile, known.profile, "{}", known.name);
        }
    }

    /// Where both exist, the bare roofline must come out near the calibrated constants.
    #[test]
    fn the_roofline_agrees_with_the_calibrated_profiles() {
        for (key, shape, group, name) in [
            ("l4", &LLAMA_3_1_8B, 1, "l4-8b"),
            ("a10g", &LLAMA_3_1_8B, 1, "a10g-8b"),
            ("a100", &LLAMA_3_1_8B, 1, "a100-8b"),
            ("h100", &LLAMA_3_1_8B, 1, "h100-8b"),
            ("a100", &LLAMA_3_1_70B, 4, "a100x4-70b"),
            ("h100", &LLAMA_3_1_70B, 4, "h100x4-70b"),
        ] {
            let product = PRODUCTS.iter().find(|p| p.key == key).unwrap();
            let bare = roofline(product, shape, group);
            let known = profiles::named(name).unwrap().profile;
            let near = |what: &str, a: f64, b: f64| {
                assert!((a / b - 1.0).abs() < 0.30, "{name} {what}: roofline {a:.3e}, calibrated {b:.3e}");
            };
            near("a", bare.cost.base_s, known.cost.base_s);
            near("b", bare.cost.per_token_s, known.cost.per_token_s);
            near("d", bare.cost.per_kv_token_s, known.cost.per_kv_token_s);
            near("e", bare.cost.attention_s, known.cost.attention_s);
            near("pool", bare.kv_capacity.as_f64(), known.kv_capacity.as_f64());
            assert_eq!(bare.max_batched_tokens, known.max_batched_tokens, "{name}");
        }
    }

    #[test]
    fn every_prior_is_a_usable_profile_and_unknown_is_the_slowest_named_one() {
        for product in &PRODUCTS {
            for group in [1, 2, 4, 8, 999] {
                let name = product.words.join(" ");
                let profile = prior(Some(&name), group).profile;
                let cost = profile.cost;
                for value in
                    [cost.base_s, cost.per_token_s, cost.overhead_s, cost.per_kv_token_s, cost.attention_s]
                {
                    assert!(value.is_finite() && value > 0.0, "{name} x {group}: {profile:?}");
                }
                assert!(profile.kv_capacity >= LEAST_POOL && profile.max_sequences > 0, "{name} x {group}");
            }
        }
        let unknown = prior(None, 1).profile.cost;
        assert!(profiles::all().iter().all(|known| known.profile.cost.base_s <= unknown.base_s));
    }
}

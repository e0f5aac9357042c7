//! The time of one iteration of continuous batching: a roofline with smooth corner.
//!
//! `sqrt(a^2 + (b n)^2) + o + d kv + e attn`. The weights are read once per iteration (a) while the tokens
//! are computed (b); whichever takes longer hides the other. A plain sum over-estimates by up to 40 % near
//! `n = a/b`, the square root fits published kernel timings (tests). Never returns less than `a + o`.

use aya_domain::{EngineProfile, StepCost};

/// Seconds of one iteration with `n` tokens computed (prefill chunk tokens and one per decoding sequence),
/// `kv` tokens of KV cache read by the decoding sequences, and `attn` query-key pairs
/// ([`prefill_attention`]).
#[must_use]
pub fn step_time_s(cost: &StepCost, n: f64, kv: f64, attn: f64) -> f64 {
    let compute = cost.per_token_s * n;
    (cost.base_s * cost.base_s + compute * compute).sqrt()
        + cost.overhead_s
        + cost.per_kv_token_s * kv
        + cost.attention_s * attn
}

/// Query-key pairs of a prefill chunk behind `context` tokens already in the cache: causal, so the chunk
/// sees half of itself.
#[must_use]
pub fn prefill_attention(chunk: f64, context: f64) -> f64 {
    chunk * (context + chunk / 2.0)
}

/// Seconds of `steps` pure decode iterations of `n` sequences that begin with `kv` KV tokens: each
/// iteration adds `n` tokens, so the closed form is an arithmetic series. Equals stepping one by one.
#[must_use]
pub fn decode_steps_s(cost: &StepCost, n: f64, kv: f64, steps: f64) -> f64 {
    steps * step_time_s(cost, n, kv, 0.0) + cost.per_kv_token_s * n / 2.0 * steps * (steps - 1.0)
}

/// Seconds from an idle engine's first look at a prompt of so many uncached tokens to its first token.
#[must_use]
pub fn prompt_alone_s(profile: &EngineProfile, uncached: f64) -> f64 {
    let chunk = f64::from(profile.max_batched_tokens).max(1.0);
    let iterations = (uncached / chunk).max(1.0);
    iterations * step_time_s(&profile.cost, uncached.min(chunk), 0.0, 0.0)
        + profile.cost.attention_s * prefill_attention(uncached, 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cost(base_ms: f64, per_token_us: f64) -> StepCost {
        StepCost {
            base_s: base_ms / 1e3,
            per_token_s: per_token_us / 1e6,
            overhead_s: 0.0,
            per_kv_token_s: 0.0,
            attention_s: 0.0,
        }
    }

    /// Vidur's published kernel times (microsoft/vidur @ 7d475133, data/profiling/compute/*/mlp.csv),
    /// milliseconds.
    #[test]
    fn the_curve_fits_published_kernel_times_within_a_tenth() {
        let a100_8b = cost(10.0, 67.2);
        let h100_7b = cost(5.7, 20.5);
        let a100_70b_tp4 = cost(25.0, 160.6);
        let check = |cost: &StepCost, n: f64, measured_ms: f64| {
            let predicted_ms = step_time_s(cost, n, 0.0, 0.0) * 1e3;
            let error = predicted_ms / measured_ms - 1.0;
            assert!(error.abs() < 0.10, "n = {n}: {predicted_ms:.2} ms, measured {measured_ms} ms");
        };
        for (n, ms) in
            [(1.0, 9.76), (64.0, 11.33), (128.0, 13.28), (256.0, 19.62), (512.0, 34.85), (1024.0, 75.6)]
        {
            check(&a100_8b, n, ms);
        }
        for (n, ms) in
            [(1.0, 5.63), (64.0, 5.92), (128.0, 6.43), (1024.0, 21.25), (2048.0, 40.8), (4096.0, 84.5)]
        {
            check(&h100_7b, n, ms);
        }
        for (n, ms) in [(1.0, 25.04), (64.0, 27.12), (128.0, 33.84), (256.0, 51.44), (512.0, 90.8)] {
            check(&a100_70b_tp4, n, ms);
        }
    }

    #[test]
    fn many_decode_steps_at_once_equal_one_by_one() {
        let cost = StepCost { overhead_s: 0.002, per_kv_token_s: 0.05e-6, ..cost(6.1, 24.0) };
        for (n, kv, steps) in [(1_u32, 0_u32, 1_u32), (7, 12_000, 400), (256, 400_000, 1000)] {
            let (n, kv) = (f64::from(n), f64::from(kv));
            let stepped: f64 = (0..steps).map(|k| step_time_s(&cost, n, kv + n * f64::from(k), 0.0)).sum();
            let closed = decode_steps_s(&cost, n, kv, f64::from(steps));
            assert!((stepped - closed).abs() < 1e-11 * stepped.max(1.0), "{stepped} {closed}");
        }
    }

    #[test]
    fn chunks_of_a_prompt_cost_the_attention_of_the_whole() {
        let whole = prefill_attention(1000.0, 0.0);
        let chunked = prefill_attention(600.0, 0.0) + prefill_attention(400.0, 600.0);
        assert!((whole - chunked).abs() < 1e-6);
    }
}

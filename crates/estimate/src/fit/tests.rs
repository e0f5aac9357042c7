//! The integers of the reference table of the study, and a real engine's log.

use super::*;

fn gib(hundredths: u64) -> Bytes {
    Bytes(hundredths * (1 << 30) / 100)
}

const A100_80: u64 = 7915;
const H100_80: u64 = 7911;
const L4: u64 = 2217;
const A10G: u64 = 2206;

#[test]
fn parameters_follow_from_the_shape() {
    for (name, shape, parameters) in [
        ("llama 8B", LLAMA_3_1_8B, 8_030_261_248),
        ("llama 70B", LLAMA_3_1_70B, 70_553_706_496),
        ("qwen3 32B", QWEN3_32B, 32_762_123_264),
        ("mixtral", MIXTRAL_8X7B, 46_702_792_704_u64),
    ] {
        assert_eq!(shape.parameters(), parameters, "{name}");
    }
    assert_eq!(weights_per_gpu(LLAMA_3_1_8B.parameters(), WeightFormat::Bf16, 1), Bytes(16_060_522_496));
    assert_eq!(weights_per_gpu(LLAMA_3_1_70B.parameters(), WeightFormat::Bf16, 4), Bytes(35_276_853_248));
    assert_eq!(
        weights_per_gpu(LLAMA_3_1_70B.parameters(), WeightFormat::Int4Group128, 1),
        Bytes(39_686_459_904)
    );
}

#[test]
fn kv_heads_are_split_until_there_is_one_per_gpu_then_replicated() {
    for (shape, tp, bytes) in [
        (LLAMA_3_1_8B, 1, 131_072),
        (LLAMA_3_1_8B, 4, 32_768),
        (LLAMA_3_1_8B, 16, 16_384),
        (LLAMA_3_1_70B, 1, 327_680),
        (LLAMA_3_1_70B, 8, 40_960),
        (LLAMA_3_1_70B, 16, 40_960),
        (QWEN3_32B, 2, 131_072),
        (MIXTRAL_8X7B, 8, 16_384),
    ] {
        assert_eq!(shape.kv_bytes_per_token(tp, 1, 2), Bytes(bytes), "{shape:?} TP {tp}");
    }
    assert_eq!(LLAMA_3_1_8B.kv_bytes_per_token(1, 2, 2), Bytes(65_536));
    assert_eq!(mla_kv_bytes_per_token(61, 512, 64, 2), Bytes(70_272));
}

#[test]
fn the_worked_fits_come_out_to_the_token() {
    use WeightFormat::{Bf16, Fp8, Int4Group128};
    for (name, shape, format, kv_element, gpu, gpus, tokens) in [
        ("8B bf16, H100", LLAMA_3_1_8B, Bf16, 2, H100_80, 1, Some(448_432)),
        ("8B bf16, L4", LLAMA_3_1_8B, Bf16, 2, L4, 1, Some(28_624)),
        ("8B bf16, A10G", LLAMA_3_1_8B, Bf16, 2, A10G, 1, Some(27_808)),
        ("8B fp8, fp8 KV, L4", LLAMA_3_1_8B, Fp8, 1, L4, 1, Some(179_792)),
        ("70B bf16, 4xA100", LLAMA_3_1_70B, Bf16, 2, A100_80, 4, Some(483_392)),
        ("70B bf16, 2xH100", LLAMA_3_1_70B, Bf16, 2, H100_80, 2, Some(26_144)),
        ("70B fp8, 2xH100", LLAMA_3_1_70B, Fp8, 2, H100_80, 2, Some(241_456)),
        ("70B int4, 1xH100", LLAMA_3_1_70B, Int4Group128, 2, H100_80, 1, Some(107_264)),
        ("32B bf16, 2xH100", QWEN3_32B, Bf16, 2, H100_80, 2, Some(321_008)),
        ("mixtral bf16, 2xA100", MIXTRAL_8X7B, Bf16, 2, A100_80, 2, Some(429_904)),
        ("mixtral bf16, 1xA100", MIXTRAL_8X7B, Bf16, 2, A100_80, 1, None),
    ] {
        let plan = PoolPlan {
            total: gib(gpu),
            utilization: 0.90,
            weights: weights_per_gpu(shape.parameters(), format, gpus),
            overhead: PLANNING_OVERHEAD,
            kv_bytes_per_token: shape.kv_bytes_per_token(gpus, 1, kv_element),
        };
        assert_eq!(plan.kv_tokens(), tokens.map(Tokens), "{name}");
    }
}

/// vLLM issue 12330: A100-40, 8B, 0.90; non-torch 0.10 and activation 9.37 GiB; the log says 5691 blocks.
#[test]
fn a_real_engines_pool_is_met_within_a_thousandth() {
    let plan = PoolPlan {
        total: gib(3950),
        utilization: 0.90,
        weights: gib(1496),
        overhead: gib(947),
        kv_bytes_per_token: Bytes(131_072),
    };
    let blocks = plan.kv_tokens().unwrap().get() / BLOCK_TOKENS;
    assert!(blocks.abs_diff(5691) <= 5, "{blocks} blocks");
}

#[test]
fn nothing_fits_into_nothing() {
    let plan = PoolPlan {
        total: Bytes(0),
        utilization: 0.9,
        weights: Bytes(0),
        overhead: Bytes(0),
        kv_bytes_per_token: Bytes(0),
    };
    assert_eq!(plan.kv_tokens(), None);
}

#[test]
fn a_request_needs_its_prompt_and_the_answer_it_may_get() {
    use aya_domain::{ModelId, MonoTime, RequestId};
    let need = |kind, max_tokens: Option<u64>| {
        total_need(&Request {
            id: RequestId::parse("r").unwrap(),
            sequence: 0,
            model: ModelId::parse("m").unwrap(),
            kind,
            stream: false,
            prompt_bytes: 400,
            prompt_tokens: Tokens(100),
            prompt_tokens_min: Tokens(9),
            max_tokens: max_tokens.map(Tokens),
            expected_output: 1.0,
            expected_residual: 1.0,
            arrived_at: MonoTime::ZERO,
            priority: aya_domain::Priority::default(),
            tenant: aya_domain::TenantId::default(),
            deadline: None,
            slo: None,
            prefix: aya_domain::PromptPrefix::default(),
            tried: Vec::new(),
        })
    };
    for (kind, max_tokens, expect) in [
        (RequestKind::Chat, Some(50), 150),
        (RequestKind::Completion, None, 101),
        (RequestKind::Chat, Some(u64::MAX), u64::MAX),
        (RequestKind::Embedding, None, 100),
    ] {
        assert_eq!(need(kind, max_tokens), Tokens(expect), "{kind:?} {max_tokens:?}");
    }
}

//! Numbers that nobody should send, and somebody will.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use proptest::sample::select;

use aya_domain::{
    Bytes, MonoTime, Ratio, Reading, Request, RequestKind, ResponseTimes, Slo, StepCost, Tokens,
};
use aya_estimate::LengthDistribution;

use super::farms::{World, any_policy, any_world};
use crate::testkit::{KnownEndpoint, request};
use crate::{
    Consulted, Knowledge, Picker, Policy, Scorer, Seen, Stream, Weighted, decide_noting, invariants,
    queueing_s,
};

fn count() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), Just(1), Just(u64::MAX), Just(u64::MAX - 1), Just(u64::from(u32::MAX)), any::<u64>()]
}

fn small() -> impl Strategy<Value = u32> {
    prop_oneof![Just(0), Just(1), Just(u32::MAX), Just(u32::MAX - 1), any::<u32>()]
}

/// A number as arithmetic may leave it.
fn real() -> impl Strategy<Value = f64> {
    select(vec![0.0, -0.0, -1.0, 1e-300, 1e-3, 1.0, 1e9, 1e300, f64::MAX, f64::INFINITY, f64::NAN])
}

fn instant() -> impl Strategy<Value = MonoTime> {
    count().prop_map(MonoTime::from_nanos)
}

type Numbers = ((u64, u64, u64), (u32, u32), (f64, f64));

/// What is done to one endpoint of an otherwise random farm.
fn spoil(world: &mut World, at: usize, ((a, b, c), (m, n), (x, y)): Numbers, now: MonoTime) {
    let (endpoint, own) = (&mut world.farm.snapshot.endpoints[at], &mut world.farm.loads[at]);
    let mut info = (*endpoint.info).clone();
    let cost = StepCost { base_s: x, per_token_s: y, overhead_s: x, per_kv_token_s: y, attention_s: x };
    info.profile.cost = cost;
    info.profile.kv_capacity = Tokens(a);
    (info.profile.max_batched_tokens, info.profile.max_sequences) = (m, n);
    info.kv_capacity = (b % 2 == 0).then_some(Tokens(c));
    info.kv_bytes_per_token = Some(Bytes(b));
    endpoint.info = Arc::new(info);
    endpoint.vram_free = Some(Reading::new(Bytes(a), now));
    endpoint.sampled_at = Some(MonoTime::from_nanos(c));
    endpoint.waiting = Some(Reading::new(m, now));
    endpoint.running = Some(Reading::new(n, now));
    endpoint.kv_used = Some(Reading::new(Ratio::clamped(x), now));
    endpoint.speed = Ratio::clamped(y);
    endpoint.foreign.waiting = n;
    endpoint.foreign.running = m;
    endpoint.foreign.kv_tokens = a;
    (own.in_flight, own.prefilling, own.decoding) = (n, m, m);
    (own.prefill_tokens, own.decode_kv_tokens, own.prefill_rate) = (a, b, x);
    own.cooling_until = Some(MonoTime::from_nanos(b));
    own.response = Some(ResponseTimes { mean_s: x, peak_s: y, at: MonoTime::from_nanos(a) });
    world.known.0[at] = KnownEndpoint {
        cached: c,
        prompts: Some(Tokens(a)),
        pending: vec![m, n, m],
        streams: vec![Stream { tokens: m, since_first_ms: n }, Stream { tokens: 0, since_first_ms: 0 }],
    };
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// No panic, every total finite, every promise kept.
    #[test]
    fn hostile_numbers_are_decided_like_any_others(
        mut world in any_world(20),
        spoils in prop::collection::vec(((count(), count(), count()), (small(), small()), (real(), real())), 1..20),
        (prompt, least, most, sequence) in (count(), count(), prop::option::of(count()), count()),
        (output, residual) in (real(), real()),
        (now, slo_ms, embeds, softmax) in (instant(), prop::option::of(count()), any::<bool>(), any::<bool>()),
        policy in any_policy(),
        seed: u64,
    ) {
        for (at, numbers) in spoils.into_iter().enumerate().take(world.farm.loads.len()) {
            spoil(&mut world, at, numbers, now);
        }
        let within = slo_ms.map(Duration::from_millis);
        let request = Request {
            sequence,
            kind: if embeds { RequestKind::Embedding } else { RequestKind::Chat },
            prompt_tokens: Tokens(prompt),
            prompt_tokens_min: Tokens(least),
            max_tokens: most.map(Tokens),
            expected_output: output,
            expected_residual: residual,
            slo: within.map(|within| Slo { ttft: within, tpot: within }),
            ..request(1, None)
        };
        let mut policy = Policy::named(policy).unwrap();
        if softmax {
            policy.picker = Picker::Softmax(1e9);
            let scorers = Scorer::ALL.iter().map(|scorer| Weighted { scorer: *scorer, weight: 1e9 });
            policy.scorers.extend(scorers);
        }
        let lengths = LengthDistribution::default();
        let knowledge =
            Knowledge { endpoints: Some(&world.known), lengths: Some(&lengths), affinity: Some(seed) };
        let (snapshot, loads) = (&world.farm.snapshot, &world.farm.loads);
        let seen = Seen { snapshot, loads, knowledge };
        let decision = decide_noting(seen, &request, &policy, now, seed, &mut Consulted::default());
        prop_assert_eq!(invariants::broken(&decision, snapshot, &request), None);
        let behind = queueing_s(&decision, snapshot, |at| loads[at.get()], &request, &policy);
        prop_assert!(behind.is_none_or(|seconds| seconds >= 0.0), "{behind:?}");
    }
}

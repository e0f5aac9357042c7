//! Load on an endpoint never speaks for it.

use std::time::Duration;

use proptest::prelude::*;
use proptest::sample::select;

use aya_domain::{Freshness, Ratio, Reading, Request, Verdict};

use super::farms::{World, any_request, any_world};
use crate::testkit::NOW;
use crate::{Knowledge, Policy, decide_knowing};

/// All but one. `cache-aware` gives up its holders, and takes back those that it had left out, once the fullest is too
/// far from the mean: more load on that one can let it in again, as its authors want it.
fn policies() -> Vec<&'static str> {
    Policy::names().filter(|name| *name != "cache-aware").collect()
}

/// What is added to one endpoint.
#[derive(Debug, Clone, Copy)]
enum More {
    Prefill {
        requests: u32,
        tokens: u64,
        rate: u32,
    },
    Decode {
        requests: u32,
        kv_tokens: u64,
    },
    ForeignWaiting(u32),
    ForeignRunning {
        requests: u32,
        kv_tokens: u64,
    },
    /// In the engine's own queue, where it tells that at all: from unknown to known is no load.
    ToldWaiting(u32),
    ToldRunning(u32),
    ToldKv(f64),
    Older {
        seconds: u64,
        suspect: bool,
    },
    Slower(f64),
    Answers {
        times: f64,
    },
}

fn any_more() -> impl Strategy<Value = More> {
    prop_oneof![
        (1..4_u32, 0..5000_u64, 0..2000_u32).prop_map(|(requests, tokens, rate)| More::Prefill {
            requests,
            tokens,
            rate
        }),
        (1..4_u32, 0..9000_u64).prop_map(|(requests, kv_tokens)| More::Decode { requests, kv_tokens }),
        (1..5_u32).prop_map(More::ForeignWaiting),
        (1..5_u32, 0..9000_u64)
            .prop_map(|(requests, kv_tokens)| More::ForeignRunning { requests, kv_tokens }),
        (1..50_u32).prop_map(More::ToldWaiting),
        (1..50_u32).prop_map(More::ToldRunning),
        (0.0..1.0_f64).prop_map(More::ToldKv),
        (1..90_u64, any::<bool>()).prop_map(|(seconds, suspect)| More::Older { seconds, suspect }),
        (0.02..1.0_f64).prop_map(More::Slower),
        (1.0..9.0_f64).prop_map(|times| More::Answers { times }),
    ]
}

fn add(world: &mut World, at: usize, more: More) {
    let (endpoint, own) = (&mut world.farm.snapshot.endpoints[at], &mut world.farm.loads[at]);
    let told = |reading: Option<Reading<u32>>, more: u32| reading.map(|r| Reading::new(r.value + more, NOW));
    match more {
        More::Prefill { requests, tokens, rate } => {
            own.in_flight += requests;
            own.prefilling += requests;
            own.prefill_tokens += tokens;
            own.prefill_rate += f64::from(rate);
        }
        More::Decode { requests, kv_tokens } => {
            own.in_flight += requests;
            own.decoding += requests;
            own.decode_kv_tokens += kv_tokens;
        }
        More::ForeignWaiting(requests) => endpoint.foreign.waiting += requests,
        More::ForeignRunning { requests, kv_tokens } => {
            endpoint.foreign.running += requests;
            endpoint.foreign.kv_tokens += kv_tokens;
        }
        More::ToldWaiting(requests) => endpoint.waiting = told(endpoint.waiting, requests),
        More::ToldRunning(requests) => endpoint.running = told(endpoint.running, requests),
        More::ToldKv(share) => {
            let more = |used: Reading<Ratio>| {
                let used = used.value.get();
                Reading::new(Ratio::clamped(used + (1.0 - used) * share), NOW)
            };
            endpoint.kv_used = endpoint.kv_used.map(more);
        }
        More::Older { seconds, suspect } => {
            endpoint.sampled_at = endpoint.sampled_at.map(|at| at.before(Duration::from_secs(seconds)));
            let later = if suspect { Freshness::Suspect } else { Freshness::Stale };
            // A reading of VRAM stops to count on a suspect node: what proves nothing must not refuse.
            let counts = endpoint.vram_free.is_some();
            if endpoint.freshness != Freshness::Suspect && !(suspect && counts) {
                endpoint.freshness = later;
            }
        }
        More::Slower(share) => endpoint.speed = Ratio::clamped(endpoint.speed.get() * share),
        More::Answers { times } => {
            if let Some(response) = &mut own.response {
                response.mean_s *= times;
                response.peak_s *= times;
            }
        }
    }
}

/// The endpoint's total, and its lead over the best of the others (negative: it is ahead).
fn stands(world: &World, request: &Request, policy: &str, seed: u64, at: usize) -> Option<(f64, f64)> {
    // What is cached and whom a request belongs to count; streams do not. Objectives that are lost already cost nothing
    // more, so a fuller endpoint may have fewer left to lose: `aya` wants that, and the rest of its price holds.
    let knowledge = Knowledge { endpoints: Some(&world.known), lengths: None, affinity: world.affinity };
    let (farm, policy) = (&world.farm, Policy::named(policy).unwrap());
    let decision = decide_knowing(&farm.snapshot, &farm.loads, &knowledge, request, &policy, NOW, seed);
    let total = |at: usize| match decision.candidates[at].verdict {
        Verdict::Scored { total, .. } => Some(total),
        Verdict::Rejected(_) => None,
    };
    let others = (0..decision.candidates.len()).filter(|other| *other != at).filter_map(total);
    let best = others.min_by(f64::total_cmp).unwrap_or(0.0);
    total(at).map(|total| (total, total - best))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn more_load_neither_lowers_an_endpoints_total_nor_brings_it_nearer_to_being_chosen(
        world in any_world(12),
        request in any_request(),
        more in any_more(),
        policy in select(policies()),
        (seed, at) in (any::<u64>(), any::<prop::sample::Index>()),
    ) {
        let at = at.index(world.farm.loads.len());
        let mut loaded = world.clone();
        add(&mut loaded, at, more);
        let before = stands(&world, &request, policy, seed, at);
        let after = stands(&loaded, &request, policy, seed, at);
        let Some((total_after, gap_after)) = after else { return Ok(()) };
        let Some((total, gap)) = before else {
            return Err(TestCaseError::fail(format!("{policy}: {more:?} lets a rejected endpoint in")));
        };
        let at_least = |after: f64, before: f64| after >= before - 1e-9 * total.abs().max(total_after.abs()).max(1.0);
        prop_assert!(at_least(total_after, total), "{policy}: {more:?} lowers {total} to {total_after}");
        prop_assert!(at_least(gap_after, gap), "{policy}: {more:?} brings it from {gap} to {gap_after} behind");
    }
}

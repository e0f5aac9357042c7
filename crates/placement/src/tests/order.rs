//! Where an endpoint stands in the list decides nothing, except where a policy takes turns.

use proptest::prelude::*;
use proptest::sample::select;

use aya_domain::{Decision, Verdict, splitmix64};

use super::farms::{Part, World, any_parts, any_request};
use crate::testkit::{Fleet, NOW, fleet, outcome, request};
use crate::{Knowledge, LOOKED_AT_MAX, Policy, decide_knowing};

/// Policies that neither draw, nor take turns, nor know endpoints by a key.
const BY_MERIT: [&str; 12] = [
    "aya",
    "lc",
    "wlc",
    "lot",
    "wlot",
    "gie",
    "sticky",
    "kv-cost",
    "expected-wait",
    "cache-aware",
    "least-response-time",
    "least-predicted-ttft",
];

/// The parts in another order, and where each of them was.
fn shuffled(parts: &[Part], seed: u64) -> (Vec<Part>, Vec<usize>) {
    let mut was: Vec<usize> = (0..parts.len()).collect();
    was.sort_by_key(|at| splitmix64(seed ^ splitmix64(*at as u64)));
    (was.iter().map(|at| parts[*at].clone()).collect(), was)
}

fn total(decision: &Decision, at: usize) -> Option<f64> {
    match decision.candidates[at].verdict {
        Verdict::Scored { total, .. } => Some(total),
        Verdict::Rejected(_) => None,
    }
}

/// Sums over the endpoints (means) are added up in another order, so the last digits may differ.
fn near(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-9 * a.abs().max(b.abs()).max(1.0)
}

/// An idle farm of endpoints with these numbers.
fn idle(numbers: &[usize]) -> Fleet {
    let names: Vec<String> = numbers.iter().map(|number| format!("e{number:02}: a100")).collect();
    fleet(&names.join("|"))
}

fn home(farm: &Fleet, key: u64) -> String {
    let knowledge = Knowledge { affinity: Some(key), ..Knowledge::default() };
    let (policy, request) = (Policy::named("chbl").unwrap(), request(100, None));
    outcome(&decide_knowing(&farm.snapshot, &farm.loads, &knowledge, &request, &policy, NOW, key))
}

proptest! {
    /// What hashing consistently is for: a key that lived elsewhere does not notice.
    #[test]
    fn only_the_keys_of_an_endpoint_that_leaves_move(count in 2_usize..40, gone: prop::sample::Index, keys: u64) {
        let all: Vec<usize> = (0..count).collect();
        let gone = gone.index(count);
        let left: Vec<usize> = all.iter().copied().filter(|number| *number != gone).collect();
        let (before, after) = (idle(&all), idle(&left));
        for key in (0..40).map(|nth| splitmix64(keys ^ nth)) {
            let lived = home(&before, key);
            if lived != format!("e{gone:02}") {
                prop_assert_eq!(home(&after, key), lived, "{} left", gone);
            }
        }
    }

    #[test]
    fn permuted_endpoints_get_the_same_verdicts_and_the_same_choice_up_to_ties(
        parts in any_parts(80),
        request in any_request(),
        (seed, order) in (any::<u64>(), any::<u64>()),
        policy in select(BY_MERIT.to_vec()),
    ) {
        let request = aya_domain::Request { tried: Vec::new(), ..request };
        let (mixed, was) = shuffled(&parts, order);
        let (forth, asked) = World::of(&parts).decide_knowing(&request, policy, seed);
        let (back, _) = World::of(&mixed).decide_knowing(&request, policy, seed);
        // Beyond so many in the running the seed draws, among positions, which of near equals are looked at.
        prop_assume!(asked.looked_at.len() < LOOKED_AT_MAX);
        for (now, before) in was.iter().enumerate() {
            match (total(&back, now), total(&forth, *before)) {
                (Some(a), Some(b)) => prop_assert!(near(a, b), "{policy}: {a} instead of {b}"),
                (a, b) => prop_assert_eq!((a, b), (None, None)),
            }
        }
        match (forth.chosen(), back.chosen()) {
            (Some(a), Some(b)) => {
                prop_assert!(near(a.total, b.total), "{policy}: {} instead of {}", b.total, a.total);
                let least = total(&forth, was[b.endpoint.get()]).unwrap();
                prop_assert!(near(least, a.total), "{policy}: the choice has {least}, the least is {}", a.total);
            }
            (a, b) => prop_assert_eq!((a.is_none(), b.is_none()), (true, true)),
        }
    }
}

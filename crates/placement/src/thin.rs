//! Slow start and a slow pace for every policy: who is to have a part of its share gets that part.
//!
//! Policies that predict seconds see a derate in their prediction, and those that count load are given the load over the
//! share (Envoy's slow start: weight over active requests). The others (turns, hashes, draws) cannot tell, so here a
//! seeded draw takes the endpoint out of as many decisions as its share lacks. Where nobody else is left it stays.

use aya_domain::{Candidate, Cause, Condition, Endpoint, Ratio, Rejection, Verdict, speed_under, splitmix64};

use crate::decide::{Farm, unit};
use crate::policy::{Policy, Scorer};

/// The part of its share that an endpoint is to have for what its requests told. What its GPUs are derated for is not
/// held against it here: a baseline that knows of clocks is none.
pub(crate) fn share(endpoint: &Endpoint) -> Ratio {
    let told_by_requests =
        |condition: &&Condition| matches!(condition.cause, Cause::SlowStart | Cause::SlowerThanPeers { .. });
    let mut share = Ratio::ONE;
    for condition in endpoint.conditions.iter().filter(told_by_requests) {
        let speed = speed_under(std::slice::from_ref(condition));
        share = if speed < share { speed } else { share };
    }
    share
}

/// Takes endpoints out that are to have a part of their share, of as many decisions as that part lacks.
pub(crate) fn thin(farm: &Farm<'_>, candidates: &mut [Candidate]) {
    let share_of =
        |candidate: &Candidate| farm.snapshot.endpoint(candidate.endpoint).map_or(Ratio::ONE, share);
    let is_scored = |candidate: &Candidate| matches!(candidate.verdict, Verdict::Scored { .. });
    if tells_speed(farm.policy) || candidates.iter().all(|c| !is_scored(c) || share_of(c) >= Ratio::ONE) {
        return;
    }
    let drawn_out = |candidate: &Candidate| {
        let draw = unit(splitmix64(farm.seed ^ splitmix64(u64::from(candidate.endpoint.0) ^ 0x7417)));
        is_scored(candidate) && draw >= share_of(candidate).get()
    };
    if !candidates.iter().any(|candidate| is_scored(candidate) && !drawn_out(candidate)) {
        return;
    }
    for candidate in candidates {
        if drawn_out(candidate) {
            candidate.verdict = Verdict::Rejected(Rejection::Thinned { share: share_of(candidate) });
        }
    }
}

/// Whether any scorer of the policy sees that an endpoint is to have less.
fn tells_speed(policy: &Policy) -> bool {
    policy.scorers.iter().any(|weighted| match weighted.scorer {
        Scorer::Cost
        | Scorer::PredictedTtft
        | Scorer::WeightedTurn
        | Scorer::Requests
        | Scorer::WeightedRequests
        | Scorer::Tokens
        | Scorer::WeightedTokens
        | Scorer::PrefillSeconds
        | Scorer::KvBlocks
        | Scorer::ExpectedWait
        | Scorer::ResponseTime
        | Scorer::PeakResponseTime => weighted.weight > 0.0,
        Scorer::Draw
        | Scorer::Turn
        | Scorer::KeyTurn
        | Scorer::KeyRing
        | Scorer::Uncached
        | Scorer::Queue
        | Scorer::KvUsed => false,
    })
}

//! What must hold for every decision, as predicates that assertions, property tests and the simulator share.

use aya_domain::{Candidate, Decision, Misses, Outcome, Phase, Request, Snapshot, Verdict};

use crate::foresee::LOOKED_AT_MAX;

/// The first promise that a decision breaks; `None`: it keeps all of them.
#[must_use]
pub fn broken(decision: &Decision, snapshot: &Snapshot, request: &Request) -> Option<&'static str> {
    let checks: [(bool, &'static str); 5] = [
        (every_endpoint_is_judged_once(decision, snapshot), "every endpoint is judged once, in order"),
        (totals_are_numbers(decision), "totals are numbers"),
        (placed_iff_something_scored(decision), "placed if and only if something scored"),
        (the_least_total_is_chosen(decision), "the chosen endpoint has the least total"),
        (
            the_chosen_can_serve(decision, snapshot, request),
            "the chosen endpoint serves the model and was not tried",
        ),
    ];
    checks.into_iter().find(|(holds, _)| !holds).map(|(_, promise)| promise)
}

/// The record names every endpoint of the snapshot exactly once, at its own position.
#[must_use]
pub fn every_endpoint_is_judged_once(decision: &Decision, snapshot: &Snapshot) -> bool {
    decision.candidates.len() == snapshot.endpoints.len()
        && decision.candidates.iter().enumerate().all(|(at, candidate)| candidate.endpoint.get() == at)
}

/// No total is NaN or infinite.
#[must_use]
pub fn totals_are_numbers(decision: &Decision) -> bool {
    decision.candidates.iter().filter_map(total).all(f64::is_finite)
}

/// A request is held or refused only if every endpoint was rejected.
#[must_use]
pub fn placed_iff_something_scored(decision: &Decision) -> bool {
    let scored = decision.candidates.iter().any(|candidate| total(candidate).is_some());
    scored == matches!(decision.outcome, Outcome::Placed(_))
}

/// The chosen endpoint was scored, and nothing that competed was better by more than a tie. Until as many endpoints were
/// looked at as may be, everything competes: the bounds of the others have to be above the total that won.
#[must_use]
pub fn the_least_total_is_chosen(decision: &Decision) -> bool {
    let Some(chosen) = decision.chosen() else { return true };
    let Some(won) = decision.candidates.get(chosen.endpoint.get()).and_then(total) else { return false };
    let expected = |candidate: &&Candidate| matches!(candidate.verdict, Verdict::Scored { terms, .. } if matches!(terms.misses, Misses::Expected(_)));
    let looked_at = decision.candidates.iter().filter(expected).count();
    let competing = decision.candidates.iter().filter(|c| looked_at < LOOKED_AT_MAX || expected(c));
    competing.filter_map(total).all(|other| won <= other + 1e-8 * other.abs())
        && chosen.margin_s.is_none_or(|margin| margin >= 0.0)
}

/// The chosen endpoint is in service, in the model's pool, and did not already fail this request.
#[must_use]
pub fn the_chosen_can_serve(decision: &Decision, snapshot: &Snapshot, request: &Request) -> bool {
    let Some(chosen) = decision.chosen() else { return true };
    let Some(endpoint) = snapshot.endpoint(chosen.endpoint) else { return false };
    let in_pool = snapshot.models.get(&request.model).is_some_and(|pool| {
        pool.members.binary_search_by_key(&chosen.endpoint, |(member, _)| *member).is_ok()
    });
    in_pool && endpoint.phase == Phase::Serving && !request.tried.contains(&endpoint.info.id)
}

const fn total(candidate: &Candidate) -> Option<f64> {
    match candidate.verdict {
        Verdict::Scored { total, .. } => Some(total),
        Verdict::Rejected(_) => None,
    }
}

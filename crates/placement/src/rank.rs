//! The rules of other schedulers as totals, so that the field can be run beside `aya`, live and simulated.
//!
//! A rule that looks at one endpoint is in [`alone`]; one that compares endpoints is in [`among`] and overwrites the
//! totals once all are judged. An endpoint that a rule leaves out keeps its place behind all others ([`LEFT_OUT`]), so
//! that the choice is still the least total. Constants are those their authors publish.

use aya_domain::{Candidate, EndpointIndex, Terms, Tokens, Verdict, splitmix64};
use aya_estimate::relative_speed;

use crate::cost::{Load, total_s};
use crate::decide::{Farm, unit};
use crate::filter::{Ask, Subject};
use crate::policy::Scorer;

/// Added to the total of an endpoint that a rule does not consider.
const LEFT_OUT: f64 = 1e12;
/// Tokens per KV block, where a rule counts blocks.
const BLOCK: f64 = 16.0;
/// expected-wait: tokens per second of any engine, tokens of an unknown prompt, seconds for a full cache.
const WAIT_TOKENS_PER_S: f64 = 2_000.0;
const WAIT_PROMPT: f64 = 1_024.0;
const WAIT_KV_S: f64 = 0.15;
/// chbl: the most load, as a multiple of the mean.
const BOUND: f64 = 1.25;
/// sticky: the share of a prompt that makes a holder, and the lead in seconds of prefill it may have.
const STICKY_SHARE: f64 = 0.8;
const STICKY_LEAD_S: f64 = 2.0;
/// gie: parts of prefix, queue and KV use.
const GIE_PREFIX: f64 = 3.0;
const GIE_QUEUE: f64 = 2.0;
const GIE_KV: f64 = 2.0;

/// The total by a rule that needs no other endpoint; 0 for a rule that does.
pub(crate) fn alone(
    scorer: Scorer,
    on: &Subject<'_>,
    prompts_in_flight: impl FnOnce() -> Option<Tokens>,
    terms: &Terms,
    drawn: impl FnOnce() -> f64,
) -> f64 {
    let (load, new) = (&on.site.load, &on.newcomer);
    let speed = || relative_speed(&on.endpoint.info.profile);
    let requests = f64::from(load.requests);
    let total = match scorer {
        Scorer::Cost => total_s(terms),
        Scorer::PredictedTtft => terms.predicted_ttft_s,
        Scorer::Random => drawn(),
        Scorer::LeastRequests => requests,
        Scorer::WeightedRequests => (requests + 1.0) / speed(),
        Scorer::OutstandingTokens => outstanding(load, prompts_in_flight(), new.output),
        Scorer::WeightedOutstandingTokens => {
            (outstanding(load, prompts_in_flight(), new.output) + new.prompt) / speed()
        }
        Scorer::KvCost => {
            (load.prefill_tokens + new.uncached + load.kv_tokens + load.prefill_tokens + new.prompt) / BLOCK
        }
        Scorer::ExpectedWait => expected_wait_s(on),
        Scorer::RoundRobin
        | Scorer::WeightedRoundRobin
        | Scorer::PowerOfTwo
        | Scorer::KeyHash
        | Scorer::ConsistentHash
        | Scorer::QueueKvPrefix
        | Scorer::Sticky => 0.0,
    };
    finite(total)
}

/// Not a number ranks last.
const fn finite(total: f64) -> f64 {
    if total.is_finite() { total } else { f64::MAX }
}

/// Prompts and mean answers in flight. Where the prompts are not known one by one, what the ledger counts of them.
fn outstanding(load: &Load, prompts: Option<Tokens>, mean_output: f64) -> f64 {
    let prompts = prompts.map_or(load.kv_tokens + load.prefill_tokens, Tokens::as_f64);
    prompts + f64::from(load.requests) * mean_output
}

/// A reading that is missing counts as nothing there, as the rule's authors have it.
fn expected_wait_s(on: &Subject<'_>) -> f64 {
    let read = |reading: Option<aya_domain::Reading<u32>>| f64::from(reading.map_or(0, |r| r.value));
    let (running, waiting) = (read(on.endpoint.running), read(on.endpoint.waiting));
    let since = (f64::from(on.own.in_flight) - running - waiting).max(0.0);
    let used = on.endpoint.kv_used.map_or(0.0, |r| r.value.get()).min(0.999);
    (waiting + running + since) * WAIT_PROMPT / WAIT_TOKENS_PER_S + WAIT_KV_S * used / (1.0 - used)
}

/// Overwrites the totals by a rule that compares the endpoints.
pub(crate) fn among(farm: &Farm<'_>, ask: &Ask<'_>, candidates: &mut [Candidate]) {
    let turn = ask.request.sequence;
    let key = farm.knowledge.affinity.unwrap_or_else(|| splitmix64(turn));
    match farm.policy.scorer {
        Scorer::RoundRobin => take_turns(candidates, turn),
        Scorer::KeyHash => take_turns(candidates, splitmix64(key)),
        Scorer::WeightedRoundRobin => take_weighted_turns(farm, candidates, turn),
        Scorer::PowerOfTwo => compare_two(farm, candidates),
        Scorer::ConsistentHash => walk_ring(farm, candidates, key),
        Scorer::QueueKvPrefix => mix_scores(farm, ask, candidates),
        Scorer::Sticky => stick(farm, ask, candidates),
        Scorer::Cost
        | Scorer::PredictedTtft
        | Scorer::Random
        | Scorer::LeastRequests
        | Scorer::WeightedRequests
        | Scorer::OutstandingTokens
        | Scorer::WeightedOutstandingTokens
        | Scorer::KvCost
        | Scorer::ExpectedWait => {}
    }
}

fn scored(candidates: &mut [Candidate]) -> impl Iterator<Item = (EndpointIndex, &mut f64)> {
    candidates.iter_mut().filter_map(|candidate| match &mut candidate.verdict {
        Verdict::Scored { total, .. } => Some((candidate.endpoint, total)),
        Verdict::Rejected(_) => None,
    })
}

fn load(farm: &Farm<'_>, index: EndpointIndex) -> Load {
    let own = farm.own(index);
    let foreign = farm.snapshot.endpoint(index).map(|endpoint| endpoint.foreign).unwrap_or_default();
    Load::of(&own, &foreign)
}

fn cached(farm: &Farm<'_>, index: EndpointIndex) -> f64 {
    farm.knowledge.cached(index).map_or(0.0, Tokens::as_f64)
}

fn speed(farm: &Farm<'_>, index: EndpointIndex) -> f64 {
    farm.snapshot.endpoint(index).map_or(1.0, |endpoint| relative_speed(&endpoint.info.profile))
}

/// Totals become ranks: 0 for the endpoint whose turn it is, 1 for the one after it.
fn take_turns(candidates: &mut [Candidate], turn: u64) {
    let eligible = scored(candidates).count() as u64;
    let Some(turn) = turn.checked_rem(eligible) else { return };
    for (position, (_, total)) in (0_u64..).zip(scored(candidates)) {
        *total = Tokens((position + eligible - turn) % eligible).as_f64();
    }
}

/// The golden ratio visits the endpoints in proportion to their weights, evenly interleaved and without a state.
fn take_weighted_turns(farm: &Farm<'_>, candidates: &mut [Candidate], turn: u64) {
    const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
    let sum: f64 = scored(candidates).map(|(index, _)| speed(farm, index)).sum();
    let mark = unit(turn.wrapping_mul(GOLDEN)) * sum;
    let mut upto = 0.0;
    for (index, total) in scored(candidates) {
        let from = upto;
        upto += speed(farm, index);
        *total = if (from..upto).contains(&mark) { 0.0 } else { 1.0 + (from - mark).abs() };
    }
}

fn compare_two(farm: &Farm<'_>, candidates: &mut [Candidate]) {
    let eligible = scored(candidates).count() as u64;
    let Some(first) = splitmix64(farm.seed).checked_rem(eligible) else { return };
    let step = splitmix64(splitmix64(farm.seed)).checked_rem(eligible - 1).map_or(0, |n| n + 1);
    let second = (first + step) % eligible;
    for (position, (index, total)) in (0_u64..).zip(scored(candidates)) {
        let drawn = position == first || position == second;
        *total = f64::from(load(farm, index).requests) + if drawn { 0.0 } else { LEFT_OUT };
    }
}

/// Rendezvous hashing: the endpoints in the order of their hash with the key, those above the bound left out.
fn walk_ring(farm: &Farm<'_>, candidates: &mut [Candidate], key: u64) {
    let (mut count, mut sum) = (0.0, 0.0);
    for (index, _) in scored(candidates) {
        count += 1.0;
        sum += f64::from(load(farm, index).requests);
    }
    let bound = BOUND * (sum + 1.0) / f64::max(count, 1.0);
    for (index, total) in scored(candidates) {
        let requests = f64::from(load(farm, index).requests);
        let position = unit(splitmix64(key ^ splitmix64(u64::from(index.0))));
        *total = if requests < bound { position } else { LEFT_OUT + requests };
    }
}

fn mix_scores(farm: &Farm<'_>, ask: &Ask<'_>, candidates: &mut [Candidate]) {
    let waiting = |index| {
        let reading = farm.snapshot.endpoint(index)?.waiting?;
        Some(f64::from(reading.value))
    };
    let queues = || (f64::INFINITY, f64::NEG_INFINITY);
    let (least, most) = scored(candidates)
        .filter_map(|(index, _)| waiting(index))
        .fold(queues(), |(least, most), q| (f64::min(least, q), f64::max(most, q)));
    let prompt = ask.newcomer.prompt.max(1.0);
    for (index, total) in scored(candidates) {
        let queue =
            waiting(index).map_or(0.0, |q| if most > least { (most - q) / (most - least) } else { 1.0 });
        let used = farm.snapshot.endpoint(index).and_then(|endpoint| endpoint.kv_used);
        let kv = used.map_or(0.0, |used| 1.0 - used.value.get());
        let prefix = cached(farm, index) / prompt;
        let score = GIE_PREFIX * prefix + GIE_QUEUE * queue + GIE_KV * kv;
        *total = GIE_PREFIX + GIE_QUEUE + GIE_KV - score;
    }
}

fn stick(farm: &Farm<'_>, ask: &Ask<'_>, candidates: &mut [Candidate]) {
    let per_token =
        |index| farm.snapshot.endpoint(index).map_or(1e-4, |endpoint| endpoint.info.profile.cost.per_token_s);
    let prompt = ask.newcomer.prompt.max(1.0);
    let least =
        scored(candidates).map(|(index, _)| load(farm, index).prefill_tokens).fold(f64::INFINITY, f64::min);
    let holds = |index| {
        let lead_s = (load(farm, index).prefill_tokens - least) * per_token(index);
        cached(farm, index) / prompt >= STICKY_SHARE && lead_s <= STICKY_LEAD_S
    };
    let any = scored(candidates).any(|(index, _)| holds(index));
    for (index, total) in scored(candidates) {
        let uncached = (prompt - cached(farm, index)).max(1.0);
        let seconds = (load(farm, index).prefill_tokens + uncached) * per_token(index);
        *total = finite(seconds) + if any && !holds(index) { LEFT_OUT } else { 0.0 };
    }
}

#[cfg(test)]
mod tests;

//! A policy's scorers, filters and picker as totals, so that the whole field runs beside `aya`, live and simulated.
//!
//! A scorer that looks at one endpoint is in [`alone`]; scorers that compare endpoints, filters and pickers are in
//! [`among`], once all are judged. An endpoint that a filter leaves out keeps its place behind all others
//! ([`LEFT_OUT`]), so that the choice is still the least total. What nobody told of an endpoint counts as the mean of
//! what is known of the others, and is noted with the candidate: unknown is neither idle nor full.

use aya_domain::{Candidate, EndpointIndex, Fact, Terms, Tokens, Verdict, splitmix64};
use aya_estimate::relative_speed;

use crate::cost::{Load, total_s};
use crate::decide::{Farm, unit};
use crate::filter::{Ask, Subject};
use crate::policy::{Filter, Picker, Policy, Scorer};
use crate::thin;

/// Added to the total of an endpoint that a filter leaves out.
const LEFT_OUT: f64 = 1e12;

/// Whether a total is that of an endpoint that a filter left out: it keeps the order, and is no score to show.
#[must_use]
pub const fn is_left_out(total: f64) -> bool {
    total >= LEFT_OUT
}

/// Tokens per KV block, where a scorer counts blocks.
const BLOCK: f64 = 16.0;
/// expected-wait: tokens per second of any engine, tokens of an unknown prompt, seconds for a full cache.
const WAIT_TOKENS_PER_S: f64 = 2_000.0;
const WAIT_PROMPT: f64 = 1_024.0;
const WAIT_KV_S: f64 = 0.15;
/// response times: what the first answer is taken to last (linkerd's and Finagle's default round trip).
const FIRST_RESPONSE_S: f64 = 0.05;

/// The weighted sum of the scorers that need no other endpoint.
pub(crate) fn alone(
    policy: &Policy,
    on: &Subject<'_>,
    mut prompts_in_flight: impl FnMut() -> Option<Tokens>,
    terms: &Terms,
    drawn: impl Fn() -> f64,
) -> f64 {
    let mut total = 0.0;
    for weighted in &policy.scorers {
        total += weighted.weight * one(weighted.scorer, policy, on, &mut prompts_in_flight, terms, &drawn);
    }
    finite(total)
}

fn one(
    scorer: Scorer,
    policy: &Policy,
    on: &Subject<'_>,
    prompts_in_flight: &mut impl FnMut() -> Option<Tokens>,
    terms: &Terms,
    drawn: &impl Fn() -> f64,
) -> f64 {
    let (load, new) = (&on.site.load, &on.newcomer);
    let speed = || {
        let set = policy.speeds.get(&on.endpoint.info.id).copied();
        set.unwrap_or_else(|| relative_speed(&on.endpoint.info.profile))
    };
    let requests = f64::from(load.requests);
    // Of an endpoint that is to have a part of its share, the load counts as much more.
    let share = || thin::share(on.endpoint).get().max(f64::MIN_POSITIVE);
    match scorer {
        Scorer::Cost => total_s(terms),
        Scorer::PredictedTtft => terms.predicted_ttft_s,
        Scorer::Draw => drawn(),
        Scorer::Requests => (requests + 1.0) / share() - 1.0,
        Scorer::WeightedRequests => (requests + 1.0) / (speed() * share()),
        Scorer::Tokens => {
            let held = outstanding(load, prompts_in_flight(), new.output);
            (held + new.prompt) / share() - new.prompt
        }
        Scorer::WeightedTokens => {
            (outstanding(load, prompts_in_flight(), new.output) + new.prompt) / (speed() * share())
        }
        Scorer::PrefillSeconds => {
            (load.prefill_tokens + new.uncached) * on.endpoint.info.profile.cost.per_token_s / share()
        }
        Scorer::KvBlocks => {
            let blocks =
                load.prefill_tokens + new.uncached + load.kv_tokens + load.prefill_tokens + new.prompt;
            blocks / (BLOCK * share())
        }
        Scorer::Turn
        | Scorer::WeightedTurn
        | Scorer::KeyTurn
        | Scorer::KeyRing
        | Scorer::Uncached
        | Scorer::Queue
        | Scorer::KvUsed
        | Scorer::ExpectedWait
        | Scorer::ResponseTime
        | Scorer::PeakResponseTime => 0.0,
    }
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

/// Adds the scorers that compare endpoints, and applies filters and picker.
pub(crate) fn among(farm: &Farm<'_>, ask: &Ask<'_>, candidates: &mut [Candidate]) {
    if farm.policy.is_cost_alone() {
        return;
    }
    for weighted in &farm.policy.scorers {
        compare(farm, ask, weighted.scorer, weighted.weight, candidates);
    }
    for filter in &farm.policy.filters {
        leave_out(farm, ask, *filter, candidates);
    }
    if let Picker::Softmax(temperature) = farm.policy.picker {
        soften(farm, temperature, candidates);
    }
}

fn compare(farm: &Farm<'_>, ask: &Ask<'_>, scorer: Scorer, weight: f64, candidates: &mut [Candidate]) {
    let turn = ask.request.sequence;
    let key = || farm.knowledge.affinity.unwrap_or_else(|| splitmix64(turn));
    match scorer {
        Scorer::Turn => take_turns(weight, candidates, turn),
        Scorer::KeyTurn => take_turns(weight, candidates, splitmix64(key())),
        Scorer::WeightedTurn => take_weighted_turns(farm, weight, candidates, turn),
        Scorer::KeyRing => {
            let key = key();
            for (index, total) in scored(candidates) {
                *total += weight * unit(splitmix64(key ^ identity(farm, index)));
            }
        }
        Scorer::Uncached => {
            let prompt = ask.newcomer.prompt.max(1.0);
            let share = |index| Some(1.0 - farm.knowledge.cached(index)?.as_f64() / prompt);
            known(weight, Fact::CachedPrefix, candidates, share);
        }
        Scorer::Queue => queue(farm, weight, candidates),
        Scorer::KvUsed => known(weight, Fact::KvUsed, candidates, |index| kv_used(farm, index)),
        Scorer::ExpectedWait => expected_wait(farm, weight, candidates),
        Scorer::ResponseTime => response(farm, weight, candidates, |times| times.mean_s),
        Scorer::PeakResponseTime => {
            response(farm, weight, candidates, |times| times.faded_peak_s(ask.now));
        }
        Scorer::Cost
        | Scorer::PredictedTtft
        | Scorer::Draw
        | Scorer::Requests
        | Scorer::WeightedRequests
        | Scorer::Tokens
        | Scorer::WeightedTokens
        | Scorer::PrefillSeconds
        | Scorer::KvBlocks => {}
    }
}

fn scored(candidates: &mut [Candidate]) -> impl Iterator<Item = (EndpointIndex, &mut f64)> {
    candidates.iter_mut().filter_map(|candidate| match &mut candidate.verdict {
        Verdict::Scored { total, .. } => Some((candidate.endpoint, total)),
        Verdict::Rejected(_) => None,
    })
}

/// Adds a value where it is known, and the mean of those where it is not; 0 if nobody told it.
fn known(
    weight: f64,
    fact: Fact,
    candidates: &mut [Candidate],
    value: impl Fn(EndpointIndex) -> Option<f64>,
) {
    let (mut sum, mut count) = (0.0, 0.0);
    for (index, _) in scored(candidates) {
        if let Some(value) = value(index) {
            sum += value;
            count += 1.0;
        }
    }
    let mean = sum / f64::max(count, 1.0);
    for candidate in candidates {
        let Verdict::Scored { total, .. } = &mut candidate.verdict else { continue };
        let told = value(candidate.endpoint);
        if told.is_none() {
            candidate.missing.add(fact);
        }
        *total = finite(*total + weight * told.unwrap_or(mean));
    }
}

fn load(farm: &Farm<'_>, index: EndpointIndex) -> Load {
    let own = *farm.own(index);
    let foreign = farm.snapshot.endpoint(index).map(|endpoint| endpoint.foreign).unwrap_or_default();
    Load::of(&own, &foreign)
}

fn cached(farm: &Farm<'_>, index: EndpointIndex) -> f64 {
    farm.knowledge.cached(index).map_or(0.0, Tokens::as_f64)
}

fn speed(farm: &Farm<'_>, index: EndpointIndex) -> f64 {
    let Some(endpoint) = farm.snapshot.endpoint(index) else { return 1.0 };
    let set = farm.policy.speeds.get(&endpoint.info.id).copied();
    set.unwrap_or_else(|| relative_speed(&endpoint.info.profile)) * thin::share(endpoint).get()
}

/// A number for an endpoint that it keeps while others come and go, unlike its position (FNV-1a of its id).
fn identity(farm: &Farm<'_>, index: EndpointIndex) -> u64 {
    let id = farm.snapshot.endpoint(index).map_or("", |endpoint| endpoint.info.id.as_str());
    let mix = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    splitmix64(id.bytes().fold(0xcbf2_9ce4_8422_2325, mix))
}

/// Ranks: 0 for the endpoint whose turn it is, 1 for the one after it.
fn take_turns(weight: f64, candidates: &mut [Candidate], turn: u64) {
    let eligible = scored(candidates).count() as u64;
    let Some(turn) = turn.checked_rem(eligible) else { return };
    for (position, (_, total)) in (0_u64..).zip(scored(candidates)) {
        *total += weight * Tokens((position + eligible - turn) % eligible).as_f64();
    }
}

/// The golden ratio visits the endpoints in proportion to their weights, evenly interleaved and without a state.
fn take_weighted_turns(farm: &Farm<'_>, weight: f64, candidates: &mut [Candidate], turn: u64) {
    const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
    let sum: f64 = scored(candidates).map(|(index, _)| speed(farm, index)).sum();
    let mark = unit(turn.wrapping_mul(GOLDEN)) * sum;
    let mut upto = 0.0;
    for (index, total) in scored(candidates) {
        let from = upto;
        upto += speed(farm, index);
        *total += weight * if (from..upto).contains(&mark) { 0.0 } else { 1.0 + (from - mark).abs() };
    }
}

fn waiting(farm: &Farm<'_>, index: EndpointIndex) -> Option<f64> {
    Some(f64::from(farm.snapshot.endpoint(index)?.waiting?.value))
}

fn kv_used(farm: &Farm<'_>, index: EndpointIndex) -> Option<f64> {
    Some(farm.snapshot.endpoint(index)?.kv_used?.value.get())
}

/// 0 for the shortest queue, 1 for the longest; all equal: 0.
fn queue(farm: &Farm<'_>, weight: f64, candidates: &mut [Candidate]) {
    let (mut least, mut most) = (f64::INFINITY, f64::NEG_INFINITY);
    for length in scored(candidates).filter_map(|(index, _)| waiting(farm, index)) {
        (least, most) = (least.min(length), most.max(length));
    }
    let share = |length: f64| if most > least { (length - least) / (most - least) } else { 0.0 };
    known(weight, Fact::Waiting, candidates, |index| waiting(farm, index).map(share));
}

/// Where the engine does not tell its requests, those of the ledger are all that is known to be there.
fn expected_wait(farm: &Farm<'_>, weight: f64, candidates: &mut [Candidate]) {
    for candidate in candidates.iter_mut() {
        let Verdict::Scored { total, .. } = &mut candidate.verdict else { continue };
        let endpoint = farm.snapshot.endpoint(candidate.endpoint);
        let running = endpoint.and_then(|endpoint| endpoint.running).map(|reading| f64::from(reading.value));
        let queued = waiting(farm, candidate.endpoint);
        if running.is_none() {
            candidate.missing.add(Fact::Running);
        }
        if queued.is_none() {
            candidate.missing.add(Fact::Waiting);
        }
        let told = running.unwrap_or(0.0) + queued.unwrap_or(0.0);
        let share = endpoint.map_or(1.0, |endpoint| thin::share(endpoint).get());
        let requests =
            (told.max(f64::from(candidate.own_in_flight)) + 1.0) / share.max(f64::MIN_POSITIVE) - 1.0;
        *total += weight * requests * WAIT_PROMPT / WAIT_TOKENS_PER_S;
    }
    let full = |used: f64| WAIT_KV_S * used.min(0.999) / (1.0 - used.min(0.999));
    known(weight, Fact::KvUsed, candidates, |index| kv_used(farm, index).map(full));
}

fn response(
    farm: &Farm<'_>,
    weight: f64,
    candidates: &mut [Candidate],
    seconds: impl Fn(aya_domain::ResponseTimes) -> f64,
) {
    for candidate in candidates {
        let Verdict::Scored { total, .. } = &mut candidate.verdict else { continue };
        let times = farm.own(candidate.endpoint).response;
        if times.is_none() {
            candidate.missing.add(Fact::ResponseTime);
        }
        let share = farm.snapshot.endpoint(candidate.endpoint).map_or(1.0, |at| thin::share(at).get());
        let requests =
            (f64::from(load(farm, candidate.endpoint).requests) + 1.0) / share.max(f64::MIN_POSITIVE);
        *total = finite(*total + weight * requests * times.map_or(FIRST_RESPONSE_S, &seconds));
    }
}

/// Puts those that a filter leaves out behind all others.
fn leave_out(farm: &Farm<'_>, ask: &Ask<'_>, filter: Filter, candidates: &mut [Candidate]) {
    let prompt = ask.newcomer.prompt.max(1.0);
    let share = |index| cached(farm, index) / prompt;
    match filter {
        Filter::Sample(count) => sample(farm, count, candidates),
        Filter::Bounded(times) => {
            let (mean, count) = mean_requests(farm, candidates);
            let bound = times * (mean + 1.0 / count);
            keep(candidates, |index| f64::from(load(farm, index).requests) < bound);
        }
        Filter::Holders { share: least_share, lead_s } => {
            let seconds = |index| {
                let endpoint = farm.snapshot.endpoint(index);
                endpoint.map_or(1e-4, |endpoint| endpoint.info.profile.cost.per_token_s)
            };
            let prefill = |index| load(farm, index).prefill_tokens;
            let least = scored(candidates).map(|(index, _)| prefill(index)).fold(f64::INFINITY, f64::min);
            keep(candidates, |index| {
                share(index) >= least_share && (prefill(index) - least) * seconds(index) <= lead_s
            });
        }
        Filter::BestHolders { share: least_share, above_mean, times_mean } => {
            let (mean, _) = mean_requests(farm, candidates);
            let requests = |index| f64::from(load(farm, index).requests);
            let most = scored(candidates).map(|(index, _)| requests(index)).fold(0.0, f64::max);
            let best = scored(candidates).map(|(index, _)| share(index)).fold(0.0, f64::max);
            if most - mean > above_mean && most > times_mean * mean {
                return;
            }
            keep(candidates, |index| share(index) > least_share && share(index) >= best);
        }
    }
}

/// Requests in flight per endpoint, and how many endpoints there are, at least 1.
fn mean_requests(farm: &Farm<'_>, candidates: &mut [Candidate]) -> (f64, f64) {
    let (mut count, mut sum) = (0.0, 0.0);
    for (index, _) in scored(candidates) {
        count += 1.0;
        sum += f64::from(load(farm, index).requests);
    }
    let count = f64::max(count, 1.0);
    (sum / count, count)
}

fn keep(candidates: &mut [Candidate], stays: impl Fn(EndpointIndex) -> bool) {
    if !scored(candidates).any(|(index, total)| !is_left_out(*total) && stays(index)) {
        return;
    }
    for (index, total) in scored(candidates) {
        if !stays(index) {
            *total = finite(*total + LEFT_OUT);
        }
    }
}

/// Draws so many of those that are left, each set of them as likely.
fn sample(farm: &Farm<'_>, count: u32, candidates: &mut [Candidate]) {
    let draw = |index: EndpointIndex| splitmix64(splitmix64(farm.seed) ^ splitmix64(u64::from(index.0)));
    let mut draws = Vec::with_capacity(candidates.len());
    let left = scored(candidates).filter(|(_, total)| !is_left_out(**total));
    draws.extend(left.map(|(index, _)| draw(index)));
    draws.sort_unstable();
    let last = usize::try_from(count).unwrap_or(usize::MAX).saturating_sub(1);
    if let Some(bar) = draws.get(last).copied() {
        keep(candidates, |index| draw(index) <= bar);
    }
}

/// The least of totals with Gumbel noise is a draw by their softmax.
fn soften(farm: &Farm<'_>, temperature: f64, candidates: &mut [Candidate]) {
    let (mut least, mut most) = (f64::INFINITY, f64::NEG_INFINITY);
    for (_, total) in scored(candidates).filter(|(_, total)| !is_left_out(**total)) {
        (least, most) = (least.min(*total), most.max(*total));
    }
    let spread = (most - least).max(f64::MIN_POSITIVE);
    for (index, total) in scored(candidates).filter(|(_, total)| !is_left_out(**total)) {
        let drawn =
            unit(splitmix64(farm.seed ^ splitmix64(u64::from(index.0) ^ 0x5f))).clamp(1e-12, 1.0 - 1e-12);
        let gumbel = -(-drawn.ln()).ln();
        *total = finite((*total - least) / spread - temperature * gumbel);
    }
}

#[cfg(test)]
mod tests;

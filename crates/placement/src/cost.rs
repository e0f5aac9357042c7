//! What it would cost to place a request on an endpoint, in seconds: its time to the first token and to
//! decode, the slowdown of those already there, and a penalty near the TTFT objective.
//!
//! Not here yet: learned corrections of the coefficients. More load never makes an endpoint cheaper; a property
//! test holds that.

use std::time::Duration;

use aya_domain::{
    ForeignLoad, Freshness, Misses, Outline, OwnLoad, Request, RequestKind, StepCost, Terms, Tokens,
};
use aya_estimate::{LengthDistribution, prefill_attention, step_time_s};

use crate::knowledge::Stream;
use crate::misses::{AIM, Pace};
use crate::policy::Policy;

/// What a waiting request of somebody else is taken to bring: nobody says how long its prompt is. The mean of
/// conversation traces is near 1,150.
pub const FOREIGN_PROMPT_TOKENS: u32 = 1024;

/// KV tokens that a sequence holds beyond its own through rounding to blocks: half a block.
const BLOCK_ROUNDING: f64 = 8.0;
/// Share of the KV pool that engines fill before they stop admitting.
const POOL_HEADROOM: f64 = 0.995;
/// An iteration always has room for this many prefill tokens, however many sequences decode.
const LEAST_CHUNK: f64 = 64.0;
/// Prefill is never thought to take more than this share of an engine's time: beyond it, predictions explode.
const DUTY_MAX: f64 = 0.9;
/// Seconds over which the newcomer's own prompt counts towards the dispatch rate; the rate's tau.
const DUTY_WINDOW_S: f64 = aya_estimate::RATE_TAU.as_secs() as f64;
/// Share of the duty that lengthens a stream's pace when misses are foreseen: the stalls that are known count
/// by themselves.
const MISS_DUTY: f64 = 0.3;
/// What a bound has to be below to be below for certain, whatever was rounded.
const NEARLY: f64 = 1.0 - 1e-9;
/// Seconds of doubt per second of age, once telemetry is stale, and the most it can come to. Small: the own
/// ledger is still fresh, and old telemetry must not empty a healthy endpoint.
const DOUBT_PER_S: f64 = 0.02;
const DOUBT_MAX_S: f64 = 0.5;

/// Everything known to be on an endpoint: our own ledger plus what others have there.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Load {
    /// Requests.
    pub(crate) requests: u32,
    /// Prompt tokens not yet computed (P).
    pub(crate) prefill_tokens: f64,
    /// Decoding sequences (nd).
    pub(crate) decoding: f64,
    /// KV tokens they read each iteration (K).
    pub(crate) kv_tokens: f64,
    /// Dispatched prompt tokens per second (rho).
    pub(crate) prefill_rate: f64,
}

impl Load {
    pub(crate) fn of(own: &OwnLoad, foreign: &ForeignLoad) -> Self {
        let foreign_prompts = f64::from(foreign.waiting) * f64::from(FOREIGN_PROMPT_TOKENS);
        Self {
            requests: own.in_flight.saturating_add(foreign.running).saturating_add(foreign.waiting),
            prefill_tokens: count(own.prefill_tokens) + foreign_prompts,
            decoding: f64::from(own.decoding) + f64::from(foreign.running),
            kv_tokens: count(own.decode_kv_tokens) + count(foreign.kv_tokens),
            prefill_rate: own.prefill_rate,
        }
    }

    /// KV tokens that cannot be given to a newcomer (U).
    fn pinned(&self) -> f64 {
        self.kv_tokens + self.prefill_tokens + BLOCK_ROUNDING * f64::from(self.requests)
    }
}

/// The request as a load to come; computed once per decision.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Newcomer {
    /// Prompt tokens (p).
    pub(crate) prompt: f64,
    /// Prompt tokens not in the endpoint's cache (u), at least 1.
    pub(crate) uncached: f64,
    attention: f64,
    /// Expected answer (eo).
    pub(crate) output: f64,
    /// Mean rest of a running answer (res).
    residual: f64,
    /// What it was promised, or what the policy aims at: seconds to its first token.
    pub(crate) slo_ttft_s: f64,
    /// Seconds per further token.
    slo_tpot_s: f64,
}

impl Newcomer {
    pub(crate) fn of(request: &Request, policy: &Policy) -> Self {
        let prompt = request.prompt_tokens.as_f64();
        let uncached = prompt.max(1.0);
        let output = match request.kind {
            RequestKind::Chat | RequestKind::Completion => request.expected_output.max(0.0),
            RequestKind::Embedding => 0.0,
        };
        Self {
            prompt,
            uncached,
            attention: prefill_attention(uncached, prompt - uncached),
            output,
            residual: request.expected_residual.max(0.0),
            slo_ttft_s: request.slo.map_or(policy.slo_ttft_s, |slo| slo.ttft.as_secs_f64()),
            slo_tpot_s: request.slo.map_or(policy.slo_tpot_s, |slo| slo.tpot.as_secs_f64()),
        }
    }

    /// The same with a prompt of one token.
    pub(crate) fn with_one_token(self) -> Self {
        Self { prompt: 1.0, uncached: 1.0, attention: prefill_attention(1.0, 0.0), ..self }
    }

    /// The same where so many leading prompt tokens are cached; one at least is always computed.
    pub(crate) fn with_cached(self, cached: Tokens) -> Self {
        if cached == Tokens(0) {
            return self;
        }
        let uncached = (self.prompt - cached.as_f64()).max(1.0);
        Self { uncached, attention: prefill_attention(uncached, self.prompt - uncached), ..self }
    }
}

/// One endpoint's side of the prediction, with what filter and price both need computed once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Site<'a> {
    /// At the endpoint's present speed.
    cost: &'a StepCost,
    batch_tokens: f64,
    pub(crate) load: Load,
    /// Seconds of one iteration with the residents only, or with one sequence if there are none.
    decode_step_s: f64,
    kv_wait_s: f64,
}

impl<'a> Site<'a> {
    /// The endpoint with what is there.
    #[inline]
    pub(crate) fn on(outline: &'a Outline, own: &OwnLoad, new: &Newcomer) -> Self {
        Self::with(outline, Load::of(own, &outline.foreign), new)
    }

    /// The endpoint as if nothing were there.
    pub(crate) fn idle(outline: &'a Outline, new: &Newcomer) -> Self {
        Self::with(outline, Load::default(), new)
    }

    #[inline]
    fn with(outline: &'a Outline, load: Load, new: &Newcomer) -> Self {
        let cost = &outline.cost;
        let decode_step_s = step_time_s(cost, load.decoding.max(1.0), load.kv_tokens, 0.0);
        let kv_wait_s = kv_wait_s(outline.kv_pool, &load, new, decode_step_s);
        Self { cost, batch_tokens: outline.batch_tokens, load, decode_step_s, kv_wait_s }
    }

    /// Seconds before the engine gets to the newcomer: prefill ahead of it, then the wait for KV.
    #[inline]
    pub(crate) fn backlog_s(&self) -> f64 {
        self.load.prefill_tokens * self.cost.per_token_s + self.kv_wait_s
    }

    /// The pace of the residents before and after the newcomer, as misses are foreseen with.
    fn pace(&self, new: &Newcomer) -> Pace {
        let cost = self.cost;
        let Load { decoding, kv_tokens, .. } = self.load;
        let busy = self.share_left(new);
        let kv_after = kv_tokens + new.prompt + new.output / 2.0;
        Pace {
            before_s: self.decode_step_s / busy,
            after_s: step_time_s(cost, decoding + 1.0, kv_after, 0.0) / busy,
            stall_s: new.uncached * cost.per_token_s + cost.attention_s * new.attention,
            per_token_s: cost.per_token_s,
        }
    }

    /// The share of an engine's time that stalls leave to streams, as misses are foreseen with.
    fn share_left(&self, new: &Newcomer) -> f64 {
        let rate = self.load.prefill_rate + new.uncached / DUTY_WINDOW_S;
        1.0 - MISS_DUTY * (rate * self.cost.per_token_s).min(DUTY_MAX)
    }

    /// The price of the newcomer here, but for misses.
    #[inline]
    pub(crate) fn terms(&self, new: &Newcomer, policy: &Policy, doubt_s: f64) -> Terms {
        let cost = self.cost;
        let Load { decoding, kv_tokens, prefill_tokens, prefill_rate, .. } = self.load;
        let decode_step = self.decode_step_s;

        let own_attention = cost.attention_s * new.attention;
        let work = prefill_tokens + new.uncached;
        let chunk = (self.batch_tokens - decoding).max(LEAST_CHUNK);
        let iterations = (work / chunk).max(1.0);
        // Whatever runs there, an iteration of it is under way.
        let current_iteration = if self.load.requests > 0 { decode_step / 2.0 } else { 0.0 };
        let ttft = iterations * step_time_s(cost, work.min(chunk) + decoding, kv_tokens, 0.0)
            + own_attention
            + current_iteration
            + self.kv_wait_s;

        let rate = prefill_rate + new.uncached / DUTY_WINDOW_S;
        let duty = (rate * cost.per_token_s).min(DUTY_MAX);
        // Who waits for a first token decodes soon: counted here, or short prompts would all go where none decodes yet.
        let residents = f64::from(self.load.requests).max(decoding);
        let kv_before = kv_tokens + prefill_tokens;
        let tpot_before = step_time_s(cost, residents.max(1.0), kv_before, 0.0) / (1.0 - duty);
        let kv_after = kv_before + new.prompt + new.output / 2.0;
        let tpot_after = step_time_s(cost, residents + 1.0, kv_after, 0.0) / (1.0 - duty);

        let stall = new.uncached * cost.per_token_s + own_attention;
        let slowdown = new.output.min(new.residual) * (tpot_after - tpot_before);
        let weights = &policy.weights;
        Terms {
            predicted_ttft_s: ttft,
            predicted_tpot_s: tpot_after,
            ttft_s: weights.ttft * ttft,
            decode_s: new.output * tpot_after,
            harm_s: weights.harm * residents * (stall + slowdown),
            slo_s: (weights.slo * (ttft - weights.slo_share * new.slo_ttft_s))
                .clamp(0.0, weights.slo_most.max(0.0)),
            misses: Misses::Unknown,
            uncertainty_s: doubt_s,
        }
    }

    /// Whether the newcomer's own objective for its pace is lost here.
    #[inline]
    pub(crate) fn breaks_own_pace(&self, new: &Newcomer) -> bool {
        let cost = self.cost;
        let Load { decoding, kv_tokens, .. } = self.load;
        // The sum bounds the root of the squares from above, and is mostly far below the objective already.
        let at_most = cost.base_s
            + cost.per_token_s * (decoding + 1.0)
            + cost.overhead_s
            + cost.per_kv_token_s * (kv_tokens + new.prompt + new.output / 2.0);
        let certainly_keeps = at_most < NEARLY * AIM * new.slo_tpot_s * self.share_left(new);
        !certainly_keeps && self.pace(new).breaks(new.slo_tpot_s)
    }

    /// The least that misses can cost here, without a look at the streams.
    #[inline]
    pub(crate) fn miss_at_least_s(&self, new: &Newcomer, policy: &Policy) -> f64 {
        if self.breaks_own_pace(new) { policy.weights.miss } else { 0.0 }
    }

    /// The weighted number of objectives that the newcomer is expected to break here.
    pub(crate) fn miss_s(
        &self,
        new: &Newcomer,
        policy: &Policy,
        (pending, streams): (&[u32], &[Stream]),
        lengths: &LengthDistribution,
    ) -> f64 {
        // What others run there is taken to be like what we run.
        let known = u32::try_from(streams.len() + pending.len()).unwrap_or(u32::MAX);
        let like_ours = f64::from(self.load.requests.max(known)) / f64::from(known.max(1));
        let pace = self.pace(new);
        // Whoever is there was promised what the policy says; only the newcomer's own promise is known.
        let others = pace.newly(pending, streams, lengths, policy.slo_tpot_s);
        let own = if pace.breaks(new.slo_tpot_s) { 1.0 } else { 0.0 };
        policy.weights.miss * (own + like_ours * others)
    }
}

/// Seconds until enough KV is released: the deficit over the rate at which running answers end. Nobody can
/// wait for more than is held.
fn kv_wait_s(pool: f64, load: &Load, new: &Newcomer, decode_step_s: f64) -> f64 {
    let pinned = load.pinned();
    let deficit = (new.uncached + BLOCK_ROUNDING - (POOL_HEADROOM * pool - pinned)).min(pinned);
    if deficit <= 0.0 { 0.0 } else { deficit / pinned.max(1.0) * new.residual * decode_step_s }
}

/// What the age of telemetry adds to a total: nothing while reports arrive as promised.
pub(crate) fn doubt_s(freshness: Freshness, age: Option<Duration>) -> f64 {
    match freshness {
        Freshness::Fresh => 0.0,
        Freshness::Stale | Freshness::Suspect => {
            age.map_or(DOUBT_MAX_S, |age| (DOUBT_PER_S * age.as_secs_f64()).min(DOUBT_MAX_S))
        }
    }
}

/// The price: the sum of the weighted terms. Not a number (absurd coefficients) ranks last.
pub(crate) fn total_s(terms: &Terms) -> f64 {
    let total = terms.ttft_s
        + terms.decode_s
        + terms.harm_s
        + terms.slo_s
        + terms.misses.seconds()
        + terms.uncertainty_s;
    if total.is_finite() { total } else { f64::MAX }
}

fn count(tokens: u64) -> f64 {
    Tokens(tokens).as_f64()
}

#[cfg(test)]
mod tests;

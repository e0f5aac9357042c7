//! The decision: every endpoint of the snapshot judged once, then one chosen, or the reason why none was.
//!
//! The way through is one pass in endpoint order with the model's pool merged in, and one allocation: the
//! candidates of the record. Only when nothing can take the request does it look again: was it the size,
//! and was that certain?

use std::sync::Arc;

use aya_domain::{
    Candidate, Chosen, Decision, Endpoint, EndpointIndex, Facts, HoldReason, Misses, MonoTime, Outcome,
    Outline, OwnLoad, Phase, Pool, RefusalReason, Rejection, Request, Snapshot, Tokens, Verdict, splitmix64,
};

use crate::cost::{Newcomer, Site, doubt_s, total_s};
use crate::filter::{self, Ask, Subject};
use crate::foresee::foresee;
use crate::invariants;
use crate::knowledge::{Consulted, Knowledge};
use crate::pick;
use crate::policy::Policy;
use crate::rank;
use crate::thin;

/// Decides where a request goes. `loads` is parallel to `snapshot.endpoints`; an endpoint without an entry
/// has nothing of ours in flight. Every endpoint of the snapshot appears in the decision, in order, with
/// its reason or its terms.
#[must_use]
pub fn decide(
    snapshot: &Snapshot,
    loads: &[OwnLoad],
    request: &Request,
    policy: &Policy,
    now: MonoTime,
    seed: u64,
) -> Decision {
    decide_knowing(snapshot, loads, &Knowledge::default(), request, policy, now, seed)
}

/// [`decide`] by a scheduler that knows more than its sums.
#[must_use]
pub fn decide_knowing(
    snapshot: &Snapshot,
    loads: &[OwnLoad],
    knowledge: &Knowledge<'_>,
    request: &Request,
    policy: &Policy,
    now: MonoTime,
    seed: u64,
) -> Decision {
    let seen = Seen { snapshot, loads, knowledge: *knowledge };
    decide_noting(seen, request, policy, now, seed, &mut Consulted::default())
}

/// What a decision is made on, the request apart.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    pub snapshot: &'a Snapshot,
    /// As for [`decide`].
    pub loads: &'a [OwnLoad],
    pub knowledge: Knowledge<'a>,
}

/// [`decide_knowing`], which leaves in `consulted` all that it asked its knowledge for. The same decision can be made
/// again from that.
#[must_use]
pub fn decide_noting(
    seen: Seen<'_>,
    request: &Request,
    policy: &Policy,
    now: MonoTime,
    seed: u64,
    consulted: &mut Consulted,
) -> Decision {
    consulted.clear();
    let snapshot = seen.snapshot;
    let farm = Farm::new(seen, policy, seed);
    let mut candidates = Vec::with_capacity(snapshot.endpoints.len());
    let ask = Ask::new(request, policy, now);
    let outcome = match snapshot.models.get(&request.model) {
        Some(pool) => farm.place(pool, &ask, &mut candidates, consulted),
        None => {
            farm.judge_all(&Pool::default(), &ask, &mut candidates, consulted);
            Outcome::Refused(RefusalReason::UnknownModel)
        }
    };
    let decision = Decision {
        policy: policy.name.clone(),
        seed,
        snapshot_generation: snapshot.generation,
        directory: snapshot.directory.clone(),
        candidates,
        conditions: Arc::clone(snapshot.endpoints.conditions()),
        outcome,
    };
    debug_assert_eq!(invariants::broken(&decision, snapshot, request), None);
    decision
}

/// Seconds that a prompt of one token would lose on the chosen endpoint to those that are there: its predicted time to
/// the first token minus that on the same endpoint idle. The request's own length does not count, so admission that
/// sheds by this is fair over prompt lengths. `own`: the ledger of an endpoint. `None` unless the request was placed.
#[must_use]
pub fn queueing_s(
    decision: &Decision,
    snapshot: &Snapshot,
    own: impl FnOnce(EndpointIndex) -> OwnLoad,
    request: &Request,
    policy: &Policy,
) -> Option<f64> {
    let index = decision.chosen()?.endpoint;
    let outline = snapshot.endpoints.outlines().get(index.get())?;
    let probe = Newcomer::of(request, policy).with_one_token();
    let alone = Site::idle(outline, &probe).terms(&probe, policy, 0.0);
    let there = Site::on(outline, &own(index), &probe).terms(&probe, policy, 0.0);
    Some((there.predicted_ttft_s - alone.predicted_ttft_s).max(0.0))
}

/// Objectives that are missed if the request is placed as decided: its own, and those of requests there. What it would
/// miss alone on an idle endpoint too is nobody's overload, and not counted. `None` unless it was placed.
#[must_use]
pub fn expected_misses(
    decision: &Decision,
    snapshot: &Snapshot,
    own: impl FnOnce(EndpointIndex) -> OwnLoad,
    request: &Request,
    policy: &Policy,
) -> Option<f64> {
    let index = decision.chosen()?.endpoint;
    let candidate = decision.candidates.get(index.get())?;
    let Verdict::Scored { terms, .. } = &candidate.verdict else { return None };
    let outline = snapshot.endpoints.outlines().get(index.get())?;
    let newcomer = Newcomer::of(request, policy).with_cached(candidate.cached.unwrap_or_default());
    let there = Site::on(outline, &own(index), &newcomer);
    let alone = Site::idle(outline, &newcomer);
    let late = terms.predicted_ttft_s > newcomer.slo_ttft_s
        && alone.terms(&newcomer, policy, 0.0).predicted_ttft_s <= newcomer.slo_ttft_s;
    let slow = there.breaks_own_pace(&newcomer) && !alone.breaks_own_pace(&newcomer);
    let others = match terms.misses {
        Misses::Expected(seconds) if policy.weights.miss > 0.0 => {
            let own = if there.breaks_own_pace(&newcomer) { 1.0 } else { 0.0 };
            (seconds / policy.weights.miss - own).max(0.0)
        }
        Misses::Expected(_) | Misses::AtLeast(_) | Misses::Unknown => 0.0,
    };
    Some(if late || slow { 1.0 + others } else { others })
}

/// What stays the same while one request is decided.
pub(crate) struct Farm<'a> {
    pub(crate) snapshot: &'a Snapshot,
    /// Parallel to the endpoints.
    pub(crate) outlines: &'a [Outline],
    pub(crate) loads: &'a [OwnLoad],
    pub(crate) knowledge: Knowledge<'a>,
    pub(crate) policy: &'a Policy,
    pub(crate) seed: u64,
    /// Whether predicted seconds decide, and nothing else.
    is_cost_alone: bool,
}

impl<'a> Farm<'a> {
    fn new(seen: Seen<'a>, policy: &'a Policy, seed: u64) -> Self {
        let Seen { snapshot, loads, knowledge } = seen;
        let (outlines, is_cost_alone) = (snapshot.endpoints.outlines(), policy.is_cost_alone());
        Self { snapshot, outlines, loads, knowledge, policy, seed, is_cost_alone }
    }

    fn place(
        &self,
        pool: &Pool,
        ask: &Ask<'_>,
        candidates: &mut Vec<Candidate>,
        consulted: &mut Consulted,
    ) -> Outcome {
        self.judge(pool, ask, candidates, consulted);
        if let Some(chosen) = self.choose(ask, candidates, consulted) {
            return Outcome::Placed(chosen);
        }
        match self.room(pool, ask) {
            Room::Never { largest } => Outcome::Refused(RefusalReason::TooLong { need: ask.need, largest }),
            Room::Perhaps => {
                self.judge(pool, &Ask { lenient: true, ..*ask }, candidates, consulted);
                self.keep_largest(pool, ask, candidates);
                self.choose(ask, candidates, consulted).map_or_else(|| hold(candidates), Outcome::Placed)
            }
            Room::Likely => hold(candidates),
        }
    }

    /// One candidate per endpoint of the snapshot. Where waiting is for the whole pool to decide, endpoints that are too
    /// busy compete as long as one is not.
    fn judge(&self, pool: &Pool, ask: &Ask<'_>, candidates: &mut Vec<Candidate>, consulted: &mut Consulted) {
        candidates.clear();
        consulted.clear();
        self.judge_all(pool, ask, candidates, consulted);
        let backlog = |candidate: &Candidate| {
            let outline = self.outlines.get(candidate.endpoint.get())?;
            let newcomer = ask.newcomer.with_cached(candidate.cached.unwrap_or_default());
            filter::backlog(ask, &Site::on(outline, self.own(candidate.endpoint), &newcomer))
        };
        // Mostly the first one tells that they are not.
        let all_busy = || pick::scored(candidates).all(|(candidate, _)| backlog(candidate).is_some());
        if !ask.avoids_busy && all_busy() {
            for candidate in candidates {
                if let (Verdict::Scored { .. }, Some(rejection)) = (candidate.verdict, backlog(candidate)) {
                    candidate.verdict = Verdict::Rejected(rejection);
                }
            }
            consulted.prompts.clear();
        }
    }

    /// Appends one candidate per endpoint of the snapshot.
    fn judge_all(
        &self,
        pool: &Pool,
        ask: &Ask<'_>,
        candidates: &mut Vec<Candidate>,
        consulted: &mut Consulted,
    ) {
        let mut members = pool.members.iter().peekable();
        let endpoints = self.snapshot.endpoints.iter().zip(self.outlines);
        for ((endpoint, outline), index) in endpoints.zip((0..).map(EndpointIndex)) {
            let member = members.next_if(|(member, _)| *member == index);
            let own = self.own(index);
            let cached = member.and_then(|_| self.knowledge.cached(index));
            if let Some(tokens) = cached.filter(|tokens| *tokens > Tokens(0)) {
                consulted.cached.push((index, tokens));
            }
            let age = outline.sampled_at.map(|at| ask.now.since(at));
            let verdict = match member {
                None => Verdict::Rejected(Rejection::ModelNotServed),
                Some((_, context)) => {
                    let newcomer = ask.newcomer.with_cached(cached.unwrap_or_default());
                    let site = Site::on(outline, own, &newcomer);
                    let has_room = filter::has_room(ask, outline, own, &site, *context);
                    let on = Subject { endpoint, own, context: *context, site, newcomer };
                    let rejection = if has_room { None } else { filter::rejection(ask, &on) };
                    debug_assert!(
                        !has_room || filter::rejection(ask, &on).is_none(),
                        "{:?}",
                        endpoint.info.id
                    );
                    match rejection {
                        Some(rejection) => Verdict::Rejected(rejection),
                        None => self.score(&on, index, doubt_s(outline.freshness, age), consulted),
                    }
                }
            };
            candidates.push(Candidate {
                endpoint: index,
                verdict,
                freshness: outline.freshness,
                age,
                own_in_flight: own.in_flight,
                missing: Facts::default(),
                cached,
            });
        }
    }

    /// The terms are filled for every scorer, so that a baseline's choice can be compared with the
    /// prediction.
    #[inline]
    fn score(
        &self,
        on: &Subject<'_>,
        index: EndpointIndex,
        doubt_s: f64,
        consulted: &mut Consulted,
    ) -> Verdict {
        let mut terms = on.site.terms(&on.newcomer, self.policy, doubt_s);
        if self.foresees() {
            terms.misses = Misses::AtLeast(on.site.miss_at_least_s(&on.newcomer, self.policy));
        }
        if self.is_cost_alone {
            return Verdict::Scored { total: total_s(&terms), terms };
        }
        let prompts = || {
            let prompts = self.knowledge.prompts_in_flight(index);
            consulted.prompts.extend(prompts.map(|tokens| (index, tokens)));
            prompts
        };
        let drawn = || unit(splitmix64(self.seed ^ splitmix64(u64::from(index.0))));
        let total = rank::alone(self.policy, on, prompts, &terms, drawn);
        Verdict::Scored { total, terms }
    }

    /// Whether the policy prices misses and there is something to foresee them from.
    pub(crate) fn foresees(&self) -> bool {
        let known = self.knowledge.endpoints.is_some() && self.knowledge.lengths.is_some();
        known && self.is_cost_alone
    }

    pub(crate) fn own(&self, index: EndpointIndex) -> &'a OwnLoad {
        self.loads.get(index.get()).unwrap_or(&OwnLoad::NONE)
    }

    fn choose(
        &self,
        ask: &Ask<'_>,
        candidates: &mut [Candidate],
        consulted: &mut Consulted,
    ) -> Option<Chosen> {
        if let Some(seen) = foresee(self, ask, candidates, consulted) {
            let chosen = pick::pick_foreseen(candidates, &seen, self.seed);
            debug_assert_eq!(chosen, pick::pick(candidates, self.seed), "going through few chooses alike");
            return chosen;
        }
        thin::thin(self, candidates);
        rank::among(self, ask, candidates);
        pick::pick(candidates, self.seed)
    }

    /// Whether the pool has an endpoint large enough, disregarding how full it is.
    fn room(&self, pool: &Pool, ask: &Ask<'_>) -> Room {
        let members = || {
            let known = |(at, context): &(EndpointIndex, Option<Tokens>)| {
                Some((self.snapshot.endpoint(*at)?, *context))
            };
            pool.members.iter().filter_map(known)
        };
        let largest = members().map(|(endpoint, context)| size_limit(endpoint, context)).max();
        let staying = members()
            .filter(|(endpoint, _)| matches!(endpoint.phase, Phase::Serving | Phase::Joining))
            .map(|(endpoint, context)| size_limit(endpoint, context))
            .max();
        match (largest, staying) {
            (Some(largest), _) if ask.need_min > largest => Room::Never { largest },
            (Some(_), Some(limit)) if ask.need > limit => Room::Perhaps,
            // An empty pool says nothing about size.
            _ => Room::Likely,
        }
    }

    /// When the engine shall judge the size, it is asked where the context is largest.
    fn keep_largest(&self, pool: &Pool, ask: &Ask<'_>, candidates: &mut [Candidate]) {
        let limit_of = |index: EndpointIndex| {
            let at = pool.members.binary_search_by_key(&index, |(member, _)| *member).ok()?;
            let (_, context) = pool.members.get(at)?;
            Some(size_limit(self.snapshot.endpoint(index)?, *context))
        };
        let largest = pick::scored(candidates).filter_map(|(c, _)| limit_of(c.endpoint)).max();
        for candidate in candidates {
            if let (Verdict::Scored { .. }, Some(limit)) = (&candidate.verdict, limit_of(candidate.endpoint))
                && Some(limit) < largest
            {
                candidate.verdict =
                    Verdict::Rejected(Rejection::ContextTooLong { need: ask.need, limit, certain: false });
            }
        }
    }
}

/// Whether waiting for room makes sense.
enum Room {
    /// Some endpoint is large enough by the estimate.
    Likely,
    /// Only the lower bound fits somewhere: the engine shall judge.
    Perhaps,
    /// Not even the lower bound fits anywhere.
    Never { largest: Tokens },
}

/// The most tokens one request may hold on an endpoint; unknown counts as no limit.
fn size_limit(endpoint: &Endpoint, context: Option<Tokens>) -> Tokens {
    let pool = endpoint.info.told_kv_capacity();
    context.into_iter().chain(pool).min().unwrap_or(Tokens(u64::MAX))
}

/// Waiting helps: because those that are ready are full, or because one may become ready.
fn hold(candidates: &[Candidate]) -> Outcome {
    let full = candidates.iter().any(|candidate| {
        matches!(
            candidate.verdict,
            Verdict::Rejected(
                Rejection::SlotsFull { .. } | Rejection::Backlogged { .. } | Rejection::VramShort { .. }
            )
        )
    });
    Outcome::Hold(if full { HoldReason::AllFull } else { HoldReason::NoneReady })
}

/// A number from 0 to 1 from 53 random bits.
pub(crate) fn unit(bits: u64) -> f64 {
    Tokens(bits >> 11).as_f64() / Tokens(1 << 53).as_f64()
}

#[cfg(test)]
mod tests;

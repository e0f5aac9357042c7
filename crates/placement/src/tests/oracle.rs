//! Who can take a request, worked out again from the snapshot's fields alone, the slow way.
//!
//! Nothing of `filter`, `cost` or `decide` is used here: the rules and the formula of the backlog are written down a
//! second time, as the documentation tells them.

use proptest::prelude::*;

use aya_domain::{
    Action, Bytes, Cause, Decision, Endpoint, EngineKind, Freshness, Health, HoldReason, Outcome, OwnLoad,
    Phase, RefusalReason, Rejection, Request, RequestKind, Tokens, Verdict,
};

use super::farms::{World, any_request, any_world};
use crate::testkit::NOW;

/// Seconds of backlog beyond which nothing more is sent.
const LIMIT_S: f64 = 0.5;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Judge {
    /// By the estimate of the prompt's tokens.
    Estimate,
    /// By the least that it can have.
    Certain,
}

#[derive(Clone, Copy)]
struct Oracle<'a> {
    world: &'a World,
    request: &'a Request,
    /// Whether one who is not too busy lets those compete that are.
    whole_pool: bool,
}

impl Oracle<'_> {
    fn answer(&self, unless_told: u64) -> u64 {
        match self.request.kind {
            RequestKind::Embedding => 0,
            RequestKind::Chat | RequestKind::Completion => {
                self.request.max_tokens.map_or(unless_told, Tokens::get)
            }
        }
    }

    fn need(&self) -> u64 {
        self.request.prompt_tokens.get() + self.answer(1)
    }

    fn need_min(&self) -> u64 {
        self.request.prompt_tokens_min.get() + self.answer(0)
    }

    /// The context that a member of the pool gives the model; `None`: not a member.
    fn context(&self, at: usize) -> Option<Option<Tokens>> {
        let models = &self.world.farm.snapshot.endpoints[at].info.models;
        models.iter().find(|model| model.id == self.request.model).map(|model| model.context_length)
    }

    /// What is against an endpoint, the first of the documented order.
    fn against(&self, at: usize, judge: Judge) -> Option<Rejection> {
        let (endpoint, own) = (&self.world.farm.snapshot.endpoints[at], &self.world.farm.loads[at]);
        let Some(context) = self.context(at) else { return Some(Rejection::ModelNotServed) };
        let reasons = [
            (endpoint.phase != Phase::Serving).then_some(Rejection::NotServing { phase: endpoint.phase }),
            excluded(endpoint),
            on_trial(endpoint, own),
            match endpoint.health {
                Health::Unknown => Some(Rejection::HealthUnknown),
                Health::Unhealthy { .. } => Some(Rejection::Unhealthy),
                Health::Healthy | Health::Degraded { .. } => None,
            },
            self.request.tried.contains(&endpoint.info.id).then_some(Rejection::AlreadyTried),
            own.cooling_until
                .filter(|until| until.as_nanos() > NOW.as_nanos())
                .map(|until| Rejection::Cooling { remaining: until.since(NOW) }),
            self.too_long(context, judge),
            self.pool_too_small(endpoint, judge),
            slots_full(endpoint, own),
            self.vram_short(endpoint),
        ];
        reasons.into_iter().flatten().next()
    }

    fn size(&self, judge: Judge) -> u64 {
        if judge == Judge::Estimate { self.need() } else { self.need_min() }
    }

    fn too_long(&self, context: Option<Tokens>, judge: Judge) -> Option<Rejection> {
        let limit = context?;
        let certain = self.need_min() > limit.get();
        let rejection = Rejection::ContextTooLong { need: Tokens(self.need()), limit, certain };
        (self.size(judge) > limit.get()).then_some(rejection)
    }

    fn pool_too_small(&self, endpoint: &Endpoint, judge: Judge) -> Option<Rejection> {
        let limit = told_pool(endpoint)?;
        let rejection = Rejection::KvPoolTooSmall { need: Tokens(self.need()), limit };
        (self.size(judge) > limit.get()).then_some(rejection)
    }

    fn vram_short(&self, endpoint: &Endpoint) -> Option<Rejection> {
        if endpoint.info.kind != EngineKind::Ollama || endpoint.freshness == Freshness::Suspect {
            return None;
        }
        let (need, free) =
            (self.need() * endpoint.info.kv_bytes_per_token?.get(), endpoint.vram_free?.value.get());
        (need > free).then_some(Rejection::VramShort { need: Bytes(need), free: Bytes(free) })
    }

    fn backlogged(&self, at: usize) -> Option<Rejection> {
        let (endpoint, own) = (&self.world.farm.snapshot.endpoints[at], &self.world.farm.loads[at]);
        let wait_s = self.backlog_s(at);
        let busy = requests(endpoint, own) > 0 && wait_s > LIMIT_S;
        busy.then_some(Rejection::Backlogged { wait_s, limit_s: LIMIT_S })
    }

    /// Prefill ahead, and the wait for KV: the share of what is held that has to be released, over the rest of an
    /// answer at the residents' pace.
    fn backlog_s(&self, at: usize) -> f64 {
        let (endpoint, own) = (&self.world.farm.snapshot.endpoints[at], &self.world.farm.loads[at]);
        let (cost, foreign) = (endpoint.info.profile.cost, endpoint.foreign);
        let slower = 1.0 / endpoint.speed.get().clamp(0.05, 1.0);
        let prefill = real(own.prefill_tokens) + 1024.0 * f64::from(foreign.waiting);
        let ahead_s = prefill * cost.per_token_s * slower;
        if !preallocates(endpoint.info.kind) {
            return ahead_s;
        }
        let pool = endpoint.info.kv_capacity.unwrap_or(endpoint.info.profile.kv_capacity);
        let sequences = (f64::from(own.decoding) + f64::from(foreign.running)).max(1.0);
        let kv = real(own.decode_kv_tokens) + real(foreign.kv_tokens);
        let step_s = (cost.base_s * slower).hypot(cost.per_token_s * slower * sequences)
            + cost.overhead_s
            + cost.per_kv_token_s * slower * kv;
        let held = kv + prefill + 8.0 * f64::from(requests(endpoint, own));
        let cached = self.world.known.0[at].cached;
        let uncached = real(self.request.prompt_tokens.get().saturating_sub(cached).max(1));
        let missing = (uncached + 8.0 + held - 0.995 * real(pool.get())).min(held);
        let share = if missing > 0.0 { missing / held.max(1.0) } else { 0.0 };
        ahead_s + share * self.request.expected_residual * step_s
    }

    /// Every endpoint's reason. Who is too busy is left alone, or only where all are.
    fn judged(&self, judge: Judge) -> Vec<Option<Rejection>> {
        let all = 0..self.world.farm.snapshot.endpoints.len();
        let fit: Vec<_> = all.clone().map(|at| self.against(at, judge)).collect();
        let busy: Vec<_> = all.map(|at| fit[at].or_else(|| self.backlogged(at))).collect();
        let some_free = busy.iter().any(Option::is_none);
        if self.whole_pool && some_free { fit } else { busy }
    }

    /// Every endpoint's reason, and what becomes of the request.
    fn verdicts(&self) -> (Vec<Option<Rejection>>, Expect) {
        let all = 0..self.world.farm.snapshot.endpoints.len();
        let strict = self.judged(Judge::Estimate);
        if strict.iter().any(Option::is_none) {
            return (strict, Expect::Placed);
        }
        let members = || all.clone().filter_map(|at| Some((at, self.size_limit(at)?)));
        let stays = |at: &usize| {
            matches!(self.world.farm.snapshot.endpoints[*at].phase, Phase::Serving | Phase::Joining)
        };
        let Some(largest) = members().map(|(_, limit)| limit).max() else {
            return (strict.clone(), hold(&strict));
        };
        if self.need_min() > largest {
            return (strict, Expect::TooLong { largest });
        }
        let staying = members().filter(|(at, _)| stays(at)).map(|(_, limit)| limit).max();
        if staying.is_none_or(|staying| self.need() <= staying) {
            return (strict.clone(), hold(&strict));
        }
        // Nobody is large enough by the estimate, somebody perhaps in truth: those with the most room may judge.
        let mut lenient = self.judged(Judge::Certain);
        let most = members().filter(|(at, _)| lenient[*at].is_none()).map(|(_, limit)| limit).max();
        for (at, limit) in members().filter(|(_, limit)| Some(*limit) < most) {
            let smaller =
                Rejection::ContextTooLong { need: Tokens(self.need()), limit: Tokens(limit), certain: false };
            lenient[at] = lenient[at].or(Some(smaller));
        }
        let expect = if most.is_some() { Expect::Placed } else { hold(&lenient) };
        (lenient, expect)
    }

    fn size_limit(&self, at: usize) -> Option<u64> {
        let pool = told_pool(&self.world.farm.snapshot.endpoints[at]).map_or(u64::MAX, Tokens::get);
        Some(self.context(at)?.map_or(u64::MAX, Tokens::get).min(pool))
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Expect {
    Placed,
    Hold(HoldReason),
    TooLong { largest: u64 },
}

fn hold(against: &[Option<Rejection>]) -> Expect {
    let full = ["slots_full", "backlogged", "vram_short"];
    let any = against.iter().flatten().any(|rejection| full.contains(&rejection.as_str()));
    Expect::Hold(if any { HoldReason::AllFull } else { HoldReason::NoneReady })
}

#[expect(clippy::cast_precision_loss, reason = "small numbers")]
fn real(count: u64) -> f64 {
    count as f64
}

fn requests(endpoint: &Endpoint, own: &OwnLoad) -> u32 {
    own.in_flight + endpoint.foreign.running + endpoint.foreign.waiting
}

fn preallocates(kind: EngineKind) -> bool {
    !matches!(kind, EngineKind::LlamaCpp | EngineKind::Ollama)
}

/// The pool's size where the engine told it, itself or as its profile.
fn told_pool(endpoint: &Endpoint) -> Option<Tokens> {
    let info = &endpoint.info;
    let told = info.kind == EngineKind::Simulated || info.profile_source == "engine";
    let size = info.kv_capacity.or(told.then_some(info.profile.kv_capacity));
    size.filter(|_| preallocates(info.kind))
}

fn excluded(endpoint: &Endpoint) -> Option<Rejection> {
    let severity = |action: Action| match action {
        Action::Drain => 1,
        Action::Cordon => 2,
        Action::Fail => 3,
        Action::Note | Action::Derate(_) | Action::Limit(_) => 0,
    };
    let mut worst = None;
    for condition in endpoint.conditions.iter() {
        if severity(condition.action) >= worst.map_or(1, |(_, action)| severity(action)) {
            worst = Some((condition.cause, condition.action));
        }
    }
    let (cause, action) = worst?;
    Some(if let Cause::Ejected { trip, until } = cause {
        Rejection::Ejected { trip, remaining: until.since(NOW) }
    } else if let Cause::Wedged { silent } = cause {
        Rejection::Wedged { silent }
    } else {
        Rejection::GpuFault { action, cause }
    })
}

fn on_trial(endpoint: &Endpoint, own: &OwnLoad) -> Option<Rejection> {
    let mut least = None;
    for condition in endpoint.conditions.iter() {
        if let Action::Limit(limit) = condition.action {
            least = Some(least.map_or(limit, |least: u32| least.min(limit)));
        }
    }
    let (in_flight, limit) = (own.in_flight, least?);
    (in_flight >= limit).then_some(Rejection::OnTrial { in_flight, limit })
}

fn slots_full(endpoint: &Endpoint, own: &OwnLoad) -> Option<Rejection> {
    let (in_flight, limit) = (requests(endpoint, own), endpoint.info.max_sequences?);
    (in_flight >= limit).then_some(Rejection::SlotsFull { in_flight, limit })
}

/// Equal to the last digit but for seconds, which two ways of computing may round differently.
fn same(told: Option<Rejection>, expected: Option<Rejection>) -> bool {
    match (told, expected) {
        (
            Some(Rejection::Backlogged { wait_s, .. }),
            Some(Rejection::Backlogged { wait_s: expect_s, .. }),
        ) => (wait_s - expect_s).abs() <= 1e-9 * expect_s,
        (told, expected) => told == expected,
    }
}

fn told(decision: &Decision) -> (Vec<Option<Rejection>>, Expect) {
    let verdict = |candidate: &aya_domain::Candidate| match candidate.verdict {
        Verdict::Rejected(rejection) => Some(rejection),
        Verdict::Scored { .. } => None,
    };
    let outcome = match decision.outcome {
        Outcome::Placed(_) => Expect::Placed,
        Outcome::Hold(reason) => Expect::Hold(reason),
        Outcome::Refused(RefusalReason::TooLong { largest, .. }) => {
            Expect::TooLong { largest: largest.get() }
        }
        Outcome::Refused(RefusalReason::UnknownModel) => panic!("the model is known"),
    };
    (decision.candidates.iter().map(verdict).collect(), outcome)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    /// The reason with its numbers, the first of the documented order, of every endpoint; and the outcome.
    #[test]
    fn every_verdict_is_that_of_a_brute_force_oracle(world in any_world(80), request in any_request(), seed: u64) {
        let oracle = Oracle { world: &world, request: &request, whole_pool: false };
        // At the edge itself, rounding decides.
        let at_the_edge = |at| (oracle.backlog_s(at) - LIMIT_S).abs() < 1e-9;
        prop_assume!(!(0..world.farm.loads.len()).any(at_the_edge));
        // Policies differ in what they prefer, never in who can take a request at all.
        for policy in ["aya", "lc", "gie"] {
            let (expected, outcome) = Oracle { whole_pool: policy == "aya", ..oracle }.verdicts();
            let (told, told_outcome) = told(&world.decide_knowing(&request, policy, seed).0);
            for (at, (told, expected)) in told.iter().zip(&expected).enumerate() {
                prop_assert!(same(*told, *expected), "{policy}: e{at:02} is {told:?}, expected {expected:?}");
            }
            prop_assert_eq!(told_outcome, outcome, "{}", policy);
        }
    }
}

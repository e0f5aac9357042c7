//! Whether a newcomer is let in: what is predicted for it against what its class allows.
//!
//! The rules are `admission`'s; here the numbers come together: the queueing of its best endpoint from the decision,
//! the wait before that from the queue. Only newcomers are refused so: who was let in keeps its place.

use std::time::Duration;

use aya_admission::{Entry, Forecast, PoolForecast, Shed, ShedRules};
use aya_config::SchedulerConfig;
use aya_domain::{
    Decision, EndpointIndex, MonoTime, Outcome, Priority, Rejection, Request, Slo, Tokens, Verdict,
    splitmix64,
};
use aya_placement::{Policy, expected_misses, queueing_s};

use crate::shared::Shared;
use crate::view::FarmView;

/// So that refusals do not follow the ties of placement.
const SHED_SEED: u64 = 0x5bed;

/// What each class is promised, as decisions need it; in the order of [`Priority::ALL`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Promises {
    slo: [Option<Slo>; Priority::ALL.len()],
    shed: [ShedRules; Priority::ALL.len()],
}

impl Promises {
    /// `policy`: has the objectives of classes without their own.
    pub(crate) fn new(config: &SchedulerConfig, policy: &Policy) -> Self {
        let slo = |class: Priority| {
            let own = config.slo.of(class);
            (own.ttft.is_some() || own.tpot.is_some()).then(|| Slo {
                ttft: own.ttft.unwrap_or(Duration::from_secs_f64(policy.slo_ttft_s)),
                tpot: own.tpot.unwrap_or(Duration::from_secs_f64(policy.slo_tpot_s)),
            })
        };
        let shed = |class: Priority| {
            let own = config.slo.of(class);
            let rules = own.shed_above.map_or(ShedRules::PATIENT, |a| ShedRules::above(a.as_secs_f64()));
            ShedRules { allowed_misses_ratio: own.shed_misses, ..rules }
        };
        Self { slo: Priority::ALL.map(slo), shed: Priority::ALL.map(shed) }
    }

    pub(crate) fn slo(&self, class: Priority) -> Option<Slo> {
        self.slo.get(class.index()).copied().flatten()
    }

    fn shed(&self, class: Priority) -> ShedRules {
        self.shed.get(class.index()).copied().unwrap_or(ShedRules::PATIENT)
    }

    /// Whether account is kept of misses: of all classes, for they share the endpoints.
    fn watches_misses(&self) -> bool {
        self.shed.iter().any(|rules| rules.allowed_misses_ratio.is_some())
    }
}

/// What a request waits with.
pub(super) fn entry(shared: &Shared, request: &Request, deadline: MonoTime) -> Entry {
    Entry {
        class: request.priority,
        tenant: request.tenant.clone(),
        weight: shared.tenants.weight(&request.tenant),
        cost: request.prompt_tokens.plus(Tokens(whole(request.expected_output))),
        deadline,
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an expected length, clamped")]
const fn whole(tokens: f64) -> u64 {
    tokens.clamp(0.0, 1e9) as u64
}

/// Refuses a newcomer that was placed, before its place is claimed.
pub(super) fn shed_placed(
    shared: &Shared,
    view: &FarmView,
    decision: &Decision,
    request: &Request,
    policy: &Policy,
    now: MonoTime,
) -> Option<Shed> {
    let rules = shared.promises.shed(request.priority);
    let watches = shared.promises.watches_misses();
    if rules.allowed_s.is_none() && !watches {
        return None;
    }
    let own = |at: EndpointIndex| view.companion(at).map(|c| c.cell.read(now)).unwrap_or_default();
    let queueing_s = queueing_s(decision, &view.snapshot, own, request, policy);
    let misses = || expected_misses(decision, &view.snapshot, own, request, policy).unwrap_or(0.0);
    let pool = watches.then(|| {
        let foreseen = Foreseen { misses: misses(), ttft_s: chosen_ttft_s(decision).unwrap_or(0.0) };
        pool(shared, view, request, foreseen, now)
    });
    let forecast =
        Forecast { queueing_s, queue_s: Some(0.0), patience_s: f64::INFINITY, pool: pool.flatten() };
    rules.shed(&forecast, seed(shared, request))
}

/// Refuses a newcomer that has to wait, before it takes a place in the queue. `decision`: what held it, unless it only
/// waits behind others.
pub(super) fn shed_waiting(
    shared: &Shared,
    decision: Option<&Decision>,
    request: &Request,
    now: MonoTime,
    deadline: MonoTime,
) -> Option<Shed> {
    let (_, queue_s) = shared.room.outlook(&request.model, request.priority, &request.tenant);
    let queueing_s = decision.and_then(least_backlog_s);
    let ttft_s = queueing_s.unwrap_or(0.0) + queue_s.unwrap_or(0.0);
    let pool = shared.promises.watches_misses().then(|| {
        let misses = if ttft_s > slo_ttft_s(shared, request) { 1.0 } else { 0.0 };
        pool(shared, &shared.view.load(), request, Foreseen { misses, ttft_s }, now)
    });
    let patience_s = deadline.since(now).as_secs_f64();
    let forecast = Forecast { queueing_s, queue_s, patience_s, pool: pool.flatten() };
    shared.promises.shed(request.priority).shed(&forecast, seed(shared, request))
}

/// What is expected of one newcomer.
#[derive(Debug, Clone, Copy)]
struct Foreseen {
    misses: f64,
    ttft_s: f64,
}

/// Adds a newcomer to the account of its pool, and reads it. `None`: the model is unknown.
fn pool(
    shared: &Shared,
    view: &FarmView,
    request: &Request,
    foreseen: Foreseen,
    now: MonoTime,
) -> Option<PoolForecast> {
    let strained = view.models.get(&request.model)?.strain(foreseen.misses, foreseen.ttft_s, now);
    Some(PoolForecast { strained, slo_ttft_s: slo_ttft_s(shared, request), own_misses: foreseen.misses })
}

fn slo_ttft_s(shared: &Shared, request: &Request) -> f64 {
    request.slo.map_or(shared.config.placement.slo_ttft, |slo| slo.ttft).as_secs_f64()
}

fn chosen_ttft_s(decision: &Decision) -> Option<f64> {
    match &decision.candidates.get(decision.chosen()?.endpoint.get())?.verdict {
        Verdict::Scored { terms, .. } => Some(terms.predicted_ttft_s),
        Verdict::Rejected(_) => None,
    }
}

/// The backlog of the endpoint that is nearest to having room.
fn least_backlog_s(decision: &Decision) -> Option<f64> {
    debug_assert!(!matches!(decision.outcome, Outcome::Placed(_)), "who is placed does not wait");
    let backlog = |verdict: &Verdict| match verdict {
        Verdict::Rejected(Rejection::Backlogged { wait_s, .. }) => Some(*wait_s),
        Verdict::Rejected(_) | Verdict::Scored { .. } => None,
    };
    decision.candidates.iter().filter_map(|candidate| backlog(&candidate.verdict)).min_by(f64::total_cmp)
}

const fn seed(shared: &Shared, request: &Request) -> u64 {
    splitmix64(shared.config.placement.seed ^ SHED_SEED ^ splitmix64(request.sequence))
}

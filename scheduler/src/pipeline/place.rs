//! From a classified request to a lease: decide, claim, or wait for room.
//!
//! Placement binds late: while nothing fits, the request holds a ticket and no endpoint. The head of a queue
//! decides anew whenever a lease ends, a prefill ends or a view is published, and at the latest every
//! [`RECHECK`], because a cooling pause ends without anybody's doing.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use aya_domain::{Decision, EndpointInfo, HoldReason, MonoTime, Outcome, RefusalReason, Request, splitmix64};
use aya_placement::{Policy, decide};

use super::inputs::{Decided, Inputs};
use crate::ledger::Lease;
use crate::metrics::EndpointMetrics;
use crate::room::Ticket;
use crate::shared::Shared;
use crate::view::{FarmView, Loads};

/// How often a claim may lose its race before the request queues instead.
const CLAIMS_MAX: usize = 16;
/// The head of a queue decides anew at least this often.
const RECHECK: Duration = Duration::from_millis(50);
/// After the start a model may be unknown only because its agent has not called yet.
const STARTUP_GRACE: Duration = Duration::from_secs(5);

thread_local! {
    /// The ledger as the decision reads it, reused by every request of this core.
    static LOADS: RefCell<Loads> = RefCell::new(Loads::default());
}

/// A claimed place.
#[derive(Debug)]
pub(crate) struct Placed {
    pub(crate) decided: Decided,
    pub(crate) endpoint: Arc<EndpointInfo>,
    pub(crate) metrics: Arc<EndpointMetrics>,
    pub(crate) lease: Lease,
    /// The prediction that the choice rests on, in seconds.
    pub(crate) predicted_ttft_s: f64,
}

/// Why there is no place.
#[derive(Debug)]
pub(crate) enum NotPlaced {
    Refused(RefusalReason),
    /// The longest configured wait, or the client's deadline, is over.
    WaitedOut(HoldReason),
    /// The queue is at its limit.
    QueueFull {
        limit: usize,
    },
}

/// A failed placement with the last decision behind it.
#[derive(Debug)]
pub(crate) struct Unplaced {
    pub(crate) reason: NotPlaced,
    pub(crate) decided: Option<Decided>,
}

/// Places a request, waiting until `deadline` at the longest. `queued` hears when the wait begins.
pub(crate) async fn place(
    shared: &Shared,
    request: &Request,
    policy: &Policy,
    deadline: MonoTime,
    mut queued: impl FnMut(MonoTime),
) -> Result<Placed, Unplaced> {
    let mut ticket: Option<Ticket> = None;
    let mut last = None;
    loop {
        let may_try = match &ticket {
            Some(ticket) => ticket.is_head(),
            None => !shared.room.is_waited_for(&request.model),
        };
        if may_try {
            match attempt(shared, request, policy) {
                Ok(placed) => return Ok(placed),
                Err(Attempt::Refused(reason, decided)) => {
                    return Err(Unplaced { reason: NotPlaced::Refused(reason), decided: Some(decided) });
                }
                Err(Attempt::Hold(reason, decided)) => last = Some((reason, decided)),
            }
        }
        let now = shared.clock.now();
        if now >= deadline {
            let held = last.or_else(|| look(shared, request, policy));
            let (reason, decided) = held.map_or((HoldReason::AllFull, None), |(r, d)| (r, Some(d)));
            return Err(Unplaced { reason: NotPlaced::WaitedOut(reason), decided });
        }
        let Some(waiting) = ticket.take() else {
            match shared.room.enter(&request.model, now, deadline) {
                Ok(taken) => ticket = Some(taken),
                Err(full) => {
                    // Refusing is cheap: no decision is made for it.
                    let reason = NotPlaced::QueueFull { limit: full.limit };
                    return Err(Unplaced { reason, decided: last.map(|(_, decided)| decided) });
                }
            }
            queued(now);
            // Once more before it sleeps: room that appeared since the decision woke nobody, for nobody waited.
            continue;
        };
        let patience = deadline.since(now);
        let patience = if waiting.is_head() { patience.min(RECHECK) } else { patience };
        // Woken or not, the loop looks again; the two differ in nothing else.
        let _ = tokio::time::timeout(patience, waiting.woken()).await;
        ticket = Some(waiting);
    }
}

/// The last look of a request that waited in vain without having headed its queue, so that it too can be explained. What
/// would find room just then belongs to those before it, and explains nothing.
fn look(shared: &Shared, request: &Request, policy: &Policy) -> Option<(HoldReason, Decided)> {
    let (view, now) = (shared.view.load(), shared.clock.now());
    let decision = decide_on(&view, request, policy, now, shared.config.placement.seed);
    let reason = hold_reason(&view, &decision, now)?;
    Some((reason, kept(shared, &view, decision, request, policy, now)))
}

/// Why the request has to wait, if that is what was decided.
fn hold_reason(view: &FarmView, decision: &Decision, now: MonoTime) -> Option<HoldReason> {
    match decision.outcome {
        Outcome::Hold(reason) => Some(reason),
        Outcome::Refused(RefusalReason::UnknownModel) if may_still_join(view, now) => {
            Some(HoldReason::NoneReady)
        }
        Outcome::Refused(_) | Outcome::Placed(_) => None,
    }
}

/// A decision that claimed nothing.
#[derive(Debug)]
enum Attempt {
    Refused(RefusalReason, Decided),
    Hold(HoldReason, Decided),
}

/// Endpoints that failed this request are avoided, not banned: where only they have room, the pause after their
/// failure decides when. A head of the queue that insisted on others would hold up all behind it.
fn attempt(shared: &Shared, request: &Request, policy: &Policy) -> Result<Placed, Attempt> {
    match attempt_once(shared, request, policy) {
        Err(Attempt::Hold(..)) if !request.tried.is_empty() => {
            let anew = Request { tried: Vec::new(), ..request.clone() };
            attempt_once(shared, &anew, policy)
        }
        attempted => attempted,
    }
}

fn attempt_once(shared: &Shared, request: &Request, policy: &Policy) -> Result<Placed, Attempt> {
    let view = shared.view.load();
    let mut claims = 0;
    loop {
        let now = shared.clock.now();
        let decision = decide_on(&view, request, policy, now, shared.config.placement.seed);
        shared.metrics.placement.observe(shared.clock.now().since(now).as_secs_f64());
        let kept = |decision| kept(shared, &view, decision, request, policy, now);
        if let Some(reason) = hold_reason(&view, &decision, now) {
            return Err(Attempt::Hold(reason, kept(decision)));
        }
        if let Outcome::Refused(reason) = decision.outcome {
            return Err(Attempt::Refused(reason, kept(decision)));
        }
        match claim(&view, &decision, request, now) {
            Some(claimed) => {
                let Claimed { endpoint, metrics, lease, predicted_ttft_s } = claimed;
                return Ok(Placed { decided: kept(decision), endpoint, metrics, lease, predicted_ttft_s });
            }
            None if claims == CLAIMS_MAX => return Err(Attempt::Hold(HoldReason::AllFull, kept(decision))),
            None => claims += 1,
        }
        shared.metrics.lost_races.inc();
    }
}

/// One decision on a view; also what a dry run does.
pub(crate) fn decide_on(
    view: &FarmView,
    request: &Request,
    policy: &Policy,
    now: MonoTime,
    seed: u64,
) -> Decision {
    LOADS.with_borrow_mut(|loads| {
        view.read_loads(now, loads);
        decide(&view.snapshot, &loads.loads, request, policy, now, seed_of(seed, request))
    })
}

fn seed_of(seed: u64, request: &Request) -> u64 {
    splitmix64(seed ^ request.sequence)
}

/// The decision that this thread made last, with its inputs if they are recorded. The loads are still those that it
/// saw: nothing else runs on this thread before the next decision.
fn kept(
    shared: &Shared,
    view: &Arc<FarmView>,
    decision: Decision,
    request: &Request,
    policy: &Policy,
    now: MonoTime,
) -> Decided {
    let inputs = shared.journal.takes_inputs().then(|| {
        Box::new(Inputs {
            view: Arc::clone(view),
            loads: LOADS.with_borrow(Loads::copied),
            request: request.clone(),
            policy: policy.clone(),
            now,
            seed: decision.seed,
        })
    });
    Decided { decision: Arc::new(decision), inputs }
}

/// What a won claim gives.
struct Claimed {
    endpoint: Arc<EndpointInfo>,
    metrics: Arc<EndpointMetrics>,
    lease: Lease,
    predicted_ttft_s: f64,
}

/// `None`: another claim was faster.
fn claim(view: &FarmView, decision: &Decision, request: &Request, now: MonoTime) -> Option<Claimed> {
    let chosen = decision.chosen()?;
    let (Some(endpoint), Some(companion), Some(candidate)) = (
        view.snapshot.endpoint(chosen.endpoint),
        view.companion(chosen.endpoint),
        decision.candidates.iter().find(|c| c.endpoint == chosen.endpoint),
    ) else {
        debug_assert!(false, "a decision chose an endpoint outside its snapshot");
        return None;
    };
    let predicted_ttft_s = match candidate.verdict {
        aya_domain::Verdict::Scored { terms, .. } => terms.predicted_ttft_s,
        aya_domain::Verdict::Rejected(_) => 0.0,
    };
    let lease = companion.cell.claim(candidate.own_in_flight, request.prompt_tokens.get(), now).ok()?;
    let (endpoint, metrics) = (Arc::clone(&endpoint.info), Arc::clone(&companion.metrics));
    Some(Claimed { endpoint, metrics, lease, predicted_ttft_s })
}

/// Whether an unknown model may only be one whose agent has not called yet.
fn may_still_join(view: &FarmView, now: MonoTime) -> bool {
    view.snapshot.endpoints.is_empty() || now.since(MonoTime::ZERO) < STARTUP_GRACE
}

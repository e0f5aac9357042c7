//! From a classified request to a lease: decide, claim, or wait for room.
//!
//! Placement binds late: while nothing fits, the request holds a ticket and no endpoint. Those at the front of a
//! queue decide anew, one after the other, whenever a lease ends, a prefill ends or a view is published, and at the
//! latest every [`RECHECK`], because a cooling pause ends without anybody's doing.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use aya_admission::{Blocked, Shed};
use aya_domain::{Decision, EndpointInfo, HoldReason, MonoTime, Outcome, RefusalReason, Request, splitmix64};
use aya_estimate::LengthDistribution;
use aya_placement::{Consulted, Knowledge, Policy, Seen, decide_noting};
use aya_trace::{KnowledgeRead, WaitedFor};

use super::account::Account;
use super::admit;
use super::inputs::{Decided, Inputs};
use crate::insight::{CacheGuess, Held, Sight, affinity};
use crate::ledger::Lease;
use crate::metrics::EndpointMetrics;
use crate::room::{Stands, Ticket};
use crate::shared::Shared;
use crate::view::{FarmView, Loads};

/// How often a claim may lose its race before the request queues instead.
const CLAIMS_MAX: usize = 16;
/// The head of a queue decides anew at least this often.
const RECHECK: Duration = Duration::from_millis(50);
/// After the start a model may be unknown only because its agent has not called yet.
const STARTUP_GRACE: Duration = Duration::from_secs(5);

thread_local! {
    /// What the last decision of this core was made on; its room is used again for the next one.
    static LAST: RefCell<Last> = RefCell::default();
}

#[derive(Debug, Default)]
struct Last {
    loads: Loads,
    held: Held,
    lengths: Option<Arc<LengthDistribution>>,
    /// All that it asked beyond the loads.
    consulted: Consulted,
}

/// A claimed place.
#[derive(Debug)]
pub(crate) struct Placed {
    pub(crate) decided: Decided,
    pub(crate) endpoint: Arc<EndpointInfo>,
    pub(crate) metrics: Arc<EndpointMetrics>,
    pub(crate) lease: Lease,
    /// `None`: nothing of the prompt was expected in its cache.
    pub(crate) guess: Option<CacheGuess>,
    /// The prediction that the choice rests on, in seconds.
    pub(crate) predicted_ttft_s: f64,
    /// When the decision was made.
    pub(crate) at: MonoTime,
    /// Of the endpoint, unless its URL has a name in it.
    pub(crate) address: Option<SocketAddr>,
}

/// Why there is no place.
#[derive(Debug)]
pub(crate) enum NotPlaced {
    Refused(RefusalReason),
    /// The longest configured wait is over.
    WaitedOut(HoldReason),
    /// The client's deadline is over. `None`: there was room, but not for those who come so late.
    DeadlineExceeded(Option<HoldReason>),
    /// The queue is at its limit.
    QueueFull {
        limit: usize,
    },
    /// A request of a higher class, or of a tenant with less in the queue, took its place.
    Displaced,
    /// It would be answered too late, or would keep others from being answered in time.
    Shed(Shed),
}

/// A failed placement with the last decision behind it.
#[derive(Debug)]
pub(crate) struct Unplaced {
    pub(crate) reason: NotPlaced,
    pub(crate) decided: Option<Decided>,
}

/// How long a request may wait, and who hears of it.
pub(crate) struct Wait<'a> {
    /// It waits for room no longer.
    pub(crate) until: MonoTime,
    /// Whether it may be refused for what is predicted: who was let in once may not.
    pub(crate) newcomer: bool,
    /// Hears when the wait begins, at which position, and what for; and keeps the decision that it rests on, in case the
    /// client does not wait.
    pub(crate) account: &'a mut Account,
    /// Endpoints that it was tried on are out, and not only avoided.
    pub(crate) elsewhere: bool,
}

/// Places a request, waiting as long as it may.
pub(crate) async fn place(
    shared: &Shared,
    request: &Request,
    policy: &Policy,
    wait: Wait<'_>,
) -> Result<Placed, Unplaced> {
    let mut ticket: Option<Ticket> = None;
    loop {
        let stands = ticket.as_ref().map(Ticket::stands);
        if stands == Some(Stands::Displaced) {
            let decided = wait.account.take_held().map(|(_, decided)| decided);
            return Err(Unplaced { reason: NotPlaced::Displaced, decided });
        }
        let late = request.deadline.is_some_and(|deadline| shared.clock.now() >= deadline);
        let may_try = match stands {
            Some(stands) => stands == Stands::Turn,
            None => !shared.room.is_waited_for(&request.model),
        };
        if may_try && !late {
            let newcomer = wait.newcomer && ticket.is_none();
            match attempt(shared, request, policy, newcomer, wait.elsewhere) {
                Ok(placed) => {
                    drop(wait.account.take_held());
                    if let Some(ticket) = ticket {
                        ticket.placed();
                    }
                    return Ok(placed);
                }
                Err(Attempt::Refused(reason, decided)) => {
                    drop(wait.account.take_held());
                    return Err(Unplaced { reason, decided: Some(decided) });
                }
                Err(Attempt::Hold(reason, decided)) => wait.account.hold(reason, decided),
            }
        }
        let now = shared.clock.now();
        if late || now >= wait.until {
            let held = wait.account.take_held().or_else(|| look(shared, request, policy));
            let (held, decided) = held.map_or((None, None), |(r, d)| (Some(r), Some(d)));
            let reason = match request.deadline {
                Some(deadline) if now >= deadline => NotPlaced::DeadlineExceeded(held),
                Some(_) | None => NotPlaced::WaitedOut(held.unwrap_or(HoldReason::AllFull)),
            };
            return Err(Unplaced { reason, decided });
        }
        match &ticket {
            Some(waiting) => {
                if may_try {
                    waiting.pass(blocked(wait.account.held()));
                }
                sleep(waiting, wait.until.since(now)).await;
            }
            None => {
                let entered = enter(shared, request, now, &wait);
                let taken = entered.map_err(|reason| {
                    // Refusing is cheap: no decision is made for it.
                    Unplaced { reason, decided: wait.account.take_held().map(|(_, decided)| decided) }
                })?;
                let what = waited_for(wait.account.held());
                wait.account.queued(now, taken.position, what);
                // Once more before it sleeps: room that appeared since the decision woke nobody, for nobody waited.
                ticket = Some(taken);
            }
        }
    }
}

/// Takes a place in the queue, if what is predicted allows it.
fn enter(shared: &Shared, request: &Request, now: MonoTime, wait: &Wait<'_>) -> Result<Ticket, NotPlaced> {
    let decision = wait.account.held().map(|(_, decided)| &*decided.decision);
    if wait.newcomer
        && let Some(shed) = admit::shed_waiting(shared, decision, request, now, wait.until)
    {
        return Err(NotPlaced::Shed(shed));
    }
    let entry = admit::entry(shared, request, wait.until);
    shared.room.enter(&request.model, &entry).map_err(|full| NotPlaced::QueueFull { limit: full.limit })
}

fn waited_for(held: Option<&(HoldReason, Decided)>) -> WaitedFor {
    match held {
        Some((HoldReason::AllFull, _)) => WaitedFor::Room,
        Some((HoldReason::NoneReady, _)) => WaitedFor::ReadyEndpoint,
        None => WaitedFor::Turn,
    }
}

fn blocked(held: Option<&(HoldReason, Decided)>) -> Blocked {
    match held {
        Some((HoldReason::NoneReady, _)) => Blocked::NotReady,
        Some((HoldReason::AllFull, _)) | None => Blocked::Full,
    }
}

/// Until it is woken, or its wait is over. The head looks again by itself, and lets those behind it look again.
async fn sleep(ticket: &Ticket, left: Duration) {
    let is_head = ticket.stands() == Stands::Head;
    let patience = if is_head { left.min(RECHECK) } else { left };
    let slept = tokio::time::timeout(patience, ticket.woken()).await;
    if slept.is_err() && is_head {
        ticket.look_again();
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
    Refused(NotPlaced, Decided),
    Hold(HoldReason, Decided),
}

/// Endpoints that failed this request are avoided, not banned: where only they have room, the pause after their
/// failure decides when. A head of the queue that insisted on others would hold up all behind it.
fn attempt(
    shared: &Shared,
    request: &Request,
    policy: &Policy,
    newcomer: bool,
    elsewhere: bool,
) -> Result<Placed, Attempt> {
    match attempt_once(shared, request, policy, newcomer) {
        Err(Attempt::Hold(..)) if !request.tried.is_empty() && !elsewhere => {
            let anew = Request { tried: Vec::new(), ..request.clone() };
            attempt_once(shared, &anew, policy, newcomer)
        }
        attempted => attempted,
    }
}

fn attempt_once(
    shared: &Shared,
    request: &Request,
    policy: &Policy,
    newcomer: bool,
) -> Result<Placed, Attempt> {
    let view = shared.view.load();
    let mut claims = 0;
    loop {
        let now = shared.clock.now();
        let decision = decide_on(&view, request, policy, now, shared.config.placement.seed);
        let at = shared.clock.now();
        shared.metrics.placement.observe(at.since(now).as_secs_f64());
        let kept = |decision| kept(shared, &view, decision, request, policy, now);
        if let Some(reason) = hold_reason(&view, &decision, now) {
            return Err(Attempt::Hold(reason, kept(decision)));
        }
        if let Outcome::Refused(reason) = decision.outcome {
            return Err(Attempt::Refused(NotPlaced::Refused(reason), kept(decision)));
        }
        if newcomer && let Some(shed) = admit::shed_placed(shared, &view, &decision, request, policy, now) {
            return Err(Attempt::Refused(NotPlaced::Shed(shed), kept(decision)));
        }
        match claim(&view, &decision, request, now) {
            Some(claimed) => {
                let Claimed { endpoint, metrics, lease, guess, predicted_ttft_s, address } = claimed;
                let decided = kept(decision);
                return Ok(Placed {
                    decided,
                    endpoint,
                    metrics,
                    lease,
                    guess,
                    predicted_ttft_s,
                    at,
                    address,
                });
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
    LAST.with_borrow_mut(|Last { loads, held, lengths, consulted }| {
        view.read_loads(now, loads);
        held.find(view, request);
        *lengths = view.models.get(&request.model).map(|model| model.lengths());
        let sight = Sight { view, held, now };
        let knowledge =
            Knowledge { endpoints: Some(&sight), lengths: lengths.as_deref(), affinity: affinity(request) };
        let seen = Seen { snapshot: &view.snapshot, loads: &loads.loads, knowledge };
        decide_noting(seen, request, policy, now, seed_of(seed, request), consulted)
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
        let (loads, knowledge) = LAST.with_borrow(|Last { loads, lengths, consulted, .. }| {
            let lengths = lengths.as_ref().filter(|_| !consulted.looked_at.is_empty()).map(Arc::clone);
            let affinity = affinity(request);
            (loads.copied(), KnowledgeRead { consulted: consulted.clone(), lengths, affinity })
        });
        Box::new(Inputs {
            view: Arc::clone(view),
            loads,
            knowledge,
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
    guess: Option<CacheGuess>,
    predicted_ttft_s: f64,
    address: Option<SocketAddr>,
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
    let prompt = request.prompt_tokens.get();
    let uncached = prompt.saturating_sub(candidate.cached.unwrap_or_default().get()).max(1);
    let mut lease = companion.cell.claim(candidate.own_in_flight, prompt, uncached, now).ok()?;
    // A derate must not hide what made it necessary: the endpoint is measured by its full speed.
    lease.expect(now, predicted_ttft_s * endpoint.speed.get());
    let guess = LAST.with_borrow(|last| last.held.guess(view, chosen.endpoint));
    // Now and not when it was computed: those who begin alike come while the first is still in prefill.
    companion.prefixes.insert(&request.prefix.blocks);
    let (endpoint, metrics) = (Arc::clone(&endpoint.info), Arc::clone(&companion.metrics));
    Some(Claimed { endpoint, metrics, lease, guess, predicted_ttft_s, address: companion.address })
}

/// Whether an unknown model may only be one whose agent has not called yet.
fn may_still_join(view: &FarmView, now: MonoTime) -> bool {
    view.snapshot.endpoints.is_empty() || now.since(MonoTime::ZERO) < STARTUP_GRACE
}

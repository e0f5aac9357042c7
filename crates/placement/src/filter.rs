//! Which endpoints can take a request at all, one function per reason.
//!
//! [`rejection`] asks them in a fixed order and reports the first reason, facts about the endpoint before
//! facts about room, so that the explanation names what an operator would fix first. Missing readings never
//! reject: the filter that would need them passes. Size is judged twice: by the estimate here, and by the
//! lower bound where nothing else would be left (`decide`).

use aya_domain::{
    Bytes, Cause, Endpoint, Freshness, Health, KvAllocation, MonoTime, Outline, OwnLoad, Phase, Rejection,
    Request, RequestKind, Tokens,
};
use aya_estimate::total_need;

use crate::cost::{Newcomer, Site};
use crate::policy::{HoldRules, Policy};

/// The request's side; computed once per decision.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ask<'a> {
    pub(crate) request: &'a Request,
    pub(crate) newcomer: Newcomer,
    pub(crate) hold: &'a HoldRules,
    pub(crate) now: MonoTime,
    /// Prompt and answer by the estimate.
    pub(crate) need: Tokens,
    /// Prompt and answer at the very least.
    pub(crate) need_min: Tokens,
    /// Whether only certain lack of room counts: the engine, which can count, shall judge.
    pub(crate) lenient: bool,
    /// Whether an endpoint that is too busy gets nothing even while others are not.
    pub(crate) avoids_busy: bool,
}

impl<'a> Ask<'a> {
    pub(crate) fn new(request: &'a Request, policy: &'a Policy, now: MonoTime) -> Self {
        let hold = &policy.hold;
        Self {
            request,
            newcomer: Newcomer::of(request, policy),
            hold,
            now,
            need: total_need(request),
            need_min: request.prompt_tokens_min.plus(answer_min(request)),
            lenient: false,
            avoids_busy: !hold.whole_pool,
        }
    }

    /// What a limit on size is compared with.
    const fn measured(&self) -> Tokens {
        if self.lenient { self.need_min } else { self.need }
    }
}

/// Answer tokens that the client reserves for certain.
fn answer_min(request: &Request) -> Tokens {
    match request.kind {
        RequestKind::Chat | RequestKind::Completion => request.max_tokens.unwrap_or_default(),
        RequestKind::Embedding => Tokens(0),
    }
}

/// The endpoint's side.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Subject<'a> {
    pub(crate) endpoint: &'a Endpoint,
    pub(crate) own: &'a OwnLoad,
    /// The context this endpoint gives the model; `None` if the engine does not say.
    pub(crate) context: Option<Tokens>,
    pub(crate) site: Site<'a>,
    /// The request as this endpoint would see it.
    pub(crate) newcomer: Newcomer,
}

/// Whether nothing speaks against an endpoint of the model's pool, seen from its outline: then [`rejection`] has no reason
/// either. That it does not know is no reason.
#[inline]
pub(crate) fn has_room(
    ask: &Ask<'_>,
    outline: &Outline,
    own: &OwnLoad,
    site: &Site<'_>,
    context: Option<Tokens>,
) -> bool {
    outline.is_open
        && ask.request.tried.is_empty()
        && own.cooling_until.is_none_or(|until| until <= ask.now)
        && ask.measured() <= outline.size_limit
        && context.is_none_or(|limit| ask.measured() <= limit)
        && site.load.requests < outline.slots
        && !(ask.avoids_busy && too_busy(ask, site))
}

/// Why this endpoint of the model's pool cannot take the request now; `None`: it can.
pub(crate) fn rejection(ask: &Ask<'_>, on: &Subject<'_>) -> Option<Rejection> {
    phase(on)
        .or_else(|| condition(ask, on))
        .or_else(|| health(on))
        .or_else(|| tried(ask, on))
        .or_else(|| cooling(ask, on))
        .or_else(|| context(ask, on.context))
        .or_else(|| kv_pool(ask, on.endpoint))
        .or_else(|| slots(on))
        .or_else(|| vram(ask, on))
        .or_else(|| backlog(ask, &on.site).filter(|_| ask.avoids_busy))
}

fn phase(on: &Subject<'_>) -> Option<Rejection> {
    match on.endpoint.phase {
        Phase::Serving => None,
        phase @ (Phase::Joining | Phase::Draining | Phase::Gone) => Some(Rejection::NotServing { phase }),
    }
}

fn condition(ask: &Ask<'_>, on: &Subject<'_>) -> Option<Rejection> {
    let Some(worst) = on.endpoint.excluded_by() else { return on_trial(on) };
    let cause = worst.cause;
    Some(if let Cause::Ejected { trip, until } = cause {
        Rejection::Ejected { trip, remaining: until.since(ask.now) }
    } else if let Cause::Wedged { silent } = cause {
        Rejection::Wedged { silent }
    } else {
        Rejection::GpuFault { action: worst.action, cause }
    })
}

/// Back from an ejection, an endpoint gets no more than a trial needs until something has succeeded.
fn on_trial(on: &Subject<'_>) -> Option<Rejection> {
    let (in_flight, limit) = (on.own.in_flight, on.endpoint.limited_to()?);
    (in_flight >= limit).then_some(Rejection::OnTrial { in_flight, limit })
}

fn health(on: &Subject<'_>) -> Option<Rejection> {
    match on.endpoint.health {
        Health::Healthy | Health::Degraded { .. } => None,
        Health::Unknown => Some(Rejection::HealthUnknown),
        Health::Unhealthy { .. } => Some(Rejection::Unhealthy),
    }
}

fn tried(ask: &Ask<'_>, on: &Subject<'_>) -> Option<Rejection> {
    ask.request.tried.contains(&on.endpoint.info.id).then_some(Rejection::AlreadyTried)
}

fn cooling(ask: &Ask<'_>, on: &Subject<'_>) -> Option<Rejection> {
    let until = on.own.cooling_until.filter(|until| *until > ask.now)?;
    Some(Rejection::Cooling { remaining: until.since(ask.now) })
}

/// Prompt and answer against the context that a pool member gives the model.
pub(crate) fn context(ask: &Ask<'_>, limit: Option<Tokens>) -> Option<Rejection> {
    let limit = limit.filter(|limit| ask.measured() > *limit)?;
    Some(Rejection::ContextTooLong { need: ask.need, limit, certain: ask.need_min > limit })
}

/// Prompt and answer against the whole KV pool, where the engine told its size.
pub(crate) fn kv_pool(ask: &Ask<'_>, endpoint: &Endpoint) -> Option<Rejection> {
    let limit = endpoint.info.told_kv_capacity().filter(|limit| ask.measured() > *limit)?;
    Some(Rejection::KvPoolTooSmall { need: ask.need, limit })
}

/// Requests against sequences per batch or slots. Beyond them a request would only wait inside the engine,
/// whose queue cannot be reordered or taken back (and llama.cpp stops answering its health endpoint).
fn slots(on: &Subject<'_>) -> Option<Rejection> {
    let info = &on.endpoint.info;
    let beyond = info.kind.capabilities().in_flight_beyond_slots.unwrap_or(0);
    let limit = info.max_sequences?.saturating_add(beyond);
    let in_flight = on.site.load.requests;
    (in_flight >= limit).then_some(Rejection::SlotsFull { in_flight, limit })
}

/// KV cache against free VRAM, for engines that allocate as they go. A reading of a silent node proves
/// nothing.
fn vram(ask: &Ask<'_>, on: &Subject<'_>) -> Option<Rejection> {
    let info = &on.endpoint.info;
    if info.kind.capabilities().kv != KvAllocation::OnDemand || on.endpoint.freshness == Freshness::Suspect {
        return None;
    }
    let free = on.endpoint.vram_free?.value;
    let need = Bytes(ask.need.get().saturating_mul(info.kv_bytes_per_token?.get()));
    (need > free).then_some(Rejection::VramShort { need, free })
}

/// Late binding: what would wait inside the engine waits at the scheduler, where it can still go elsewhere.
/// An idle endpoint is never too busy, whatever its coefficients predict.
#[inline]
pub(crate) fn too_busy(ask: &Ask<'_>, site: &Site<'_>) -> bool {
    site.load.requests > 0 && site.backlog_s() > ask.hold.max_backlog_s
}

pub(crate) fn backlog(ask: &Ask<'_>, site: &Site<'_>) -> Option<Rejection> {
    let (wait_s, limit_s) = (site.backlog_s(), ask.hold.max_backlog_s);
    too_busy(ask, site).then_some(Rejection::Backlogged { wait_s, limit_s })
}

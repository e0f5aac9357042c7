//! A stream that breaks off and goes on from another engine, for clients that asked for it (`x-aya-continue`).
//!
//! Once per request, and only plain text: the other engine is given the prompt with the text so far, and as many tokens
//! less. Only one engine works for the request at any time: the first one's socket is closed before another is asked.
//! Requests that did not ask for it pay one pointer that is empty.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;

use aya_domain::{AbortPolicy, EndpointId, EndpointInfo, EngineKind, MonoTime, RequestKind, Tokens};
use aya_placement::Policy;
use aya_proxy::continued::{Continued, Dialect, NotContinued, TextSoFar, rest_of, sound_part};
use aya_proxy::{ScanLimits, StreamFacts, scan};
use bytes::Bytes;

use super::Prepared;
use super::account::Account;
use super::failure::Failure;
use super::place::{self, Placed};
use super::relay::{FirstEvent, first_event, unless_it_falls};
use super::sent::{Mode, Patience, Sent, Upstream, total_until};
use crate::ledger::Lease;
use crate::metrics::EndpointMetrics;
use crate::shared::Shared;

/// Nothing may follow it: a second failure is told to the client.
const NO_PATIENCE: Patience = Patience {
    failures_left: 0,
    pushbacks_left: 0,
    wait_until: MonoTime::ZERO,
    dispatch_until: MonoTime::ZERO,
};

/// One stream that may go on elsewhere, or does.
#[derive(Debug)]
pub(super) struct Continuation {
    prepared: Prepared,
    policy: Policy,
    endpoint: EndpointId,
    part: Part,
}

#[derive(Debug)]
enum Part {
    /// The text is kept.
    First(TextSoFar),
    Second(Continued),
}

/// The way to another engine.
pub(super) type Going = Pin<Box<dyn Future<Output = Went> + Send>>;

/// How it went.
pub(super) struct Went {
    pub(super) account: Account,
    /// `None`: the stream ends where it broke off.
    pub(super) next: Option<Next>,
}

/// The engine that goes on, and what it has said already.
pub(super) struct Next {
    pub(super) first: FirstEvent,
    pub(super) lease: Lease,
    pub(super) metrics: Arc<EndpointMetrics>,
    pub(super) endpoint: EndpointId,
}

impl Continuation {
    /// `None`: nobody asked for it, or the engine has to be read to its end. In a box, because it is rare.
    pub(super) fn of(sent: &Sent<'_>) -> Option<Box<Self>> {
        let policy = sent.up.prepared.continues.as_deref()?.clone();
        let may = sent.endpoint.abort == AbortPolicy::Cancel;
        may.then(|| {
            Box::new(Self {
                prepared: sent.up.prepared.clone(),
                policy,
                endpoint: sent.endpoint.id.clone(),
                part: Part::First(TextSoFar::default()),
            })
        })
    }

    /// Whole events on their way to the client, as it is to see them.
    pub(super) fn pass(&mut self, chunk: Bytes) -> Bytes {
        match &mut self.part {
            Part::First(text) => {
                text.note(&chunk);
                chunk
            }
            Part::Second(continued) => continued.rewrite(&chunk),
        }
    }

    /// What of the last chunk is no failure, if the stream may go on without the rest.
    pub(super) fn sound_part(&self, chunk: &Bytes) -> Option<Bytes> {
        matches!(self.part, Part::First(_)).then(|| sound_part(chunk))
    }

    /// Sets out to another engine. `None`: it does not go on; the reason is in the log.
    pub(super) fn set_out(
        &mut self,
        shared: &Arc<Shared>,
        account: &mut Account,
        facts: &StreamFacts,
    ) -> Option<Going> {
        let Part::First(text) = &self.part else { return None };
        let tokens = facts.completion_tokens().unwrap_or(0);
        let rest = match text.get().and_then(|text| rest(&self.prepared, text, tokens)) {
            Ok(rest) => rest,
            Err(why) => {
                tracing::info!(request = %account.request_id(), %why, "a broken stream is not continued");
                return None;
            }
        };
        self.part = Part::Second(Continued::after(text, tokens));
        account.breaks_off(Tokens(tokens));
        let going =
            go_on(Arc::clone(shared), account.elsewhere(), rest, self.policy.clone(), self.endpoint.clone());
        Some(Box::pin(going))
    }
}

/// How an engine of this kind is asked to go on, if it can be.
const fn dialect(kind: EngineKind, request: RequestKind) -> Option<Dialect> {
    match (request, kind) {
        (RequestKind::Chat, EngineKind::Vllm | EngineKind::Sglang | EngineKind::Simulated) => {
            Some(Dialect::Fields)
        }
        (RequestKind::Chat, EngineKind::LlamaCpp) => Some(Dialect::Prefill),
        // A chat of theirs begins a new message behind the old one.
        (
            RequestKind::Chat,
            EngineKind::Tgi | EngineKind::TrtLlm | EngineKind::Triton | EngineKind::Ollama,
        ) => None,
        // Ollama puts its template around prompts too.
        (RequestKind::Completion, EngineKind::Ollama) | (RequestKind::Embedding, _) => None,
        (RequestKind::Completion, _) => Some(Dialect::Prefill),
    }
}

/// The request for the rest in each dialect that differs.
struct Rest {
    fields: Prepared,
    prefill: Prepared,
}

fn rest(prepared: &Prepared, text: &str, tokens: u64) -> Result<Rest, NotContinued> {
    let asked = |dialect| {
        let body = Bytes::from(rest_of(&prepared.body, text, tokens, dialect)?);
        let scanned = scan(&body, ScanLimits::DEFAULT).map_err(|_| NotContinued::BadBody)?;
        let mut prepared = Prepared { scanned, body, continues: None, ..prepared.clone() };
        let request = &mut prepared.request;
        request.prompt_bytes = request.prompt_bytes.saturating_add(text.len() as u64);
        request.prompt_tokens = request.prompt_tokens.plus(Tokens(tokens));
        request.max_tokens = scanned.output_limit().map(|limit| Tokens(u64::from(limit)));
        let most = request.max_tokens.map_or(f64::INFINITY, Tokens::as_f64);
        request.expected_output = request.expected_residual.min(most);
        Ok(prepared)
    };
    Ok(Rest { fields: asked(Dialect::Fields)?, prefill: asked(Dialect::Prefill)? })
}

async fn go_on(
    shared: Arc<Shared>,
    mut account: Account,
    rest: Rest,
    policy: Policy,
    failed: EndpointId,
) -> Went {
    let next = find(&shared, &mut account, rest, &policy, failed).await;
    shared.metrics.continued(next.is_some());
    if next.is_none() {
        account.gives_up();
    }
    Went { account, next }
}

async fn find(
    shared: &Arc<Shared>,
    account: &mut Account,
    mut rest: Rest,
    policy: &Policy,
    failed: EndpointId,
) -> Option<Next> {
    let request = &mut rest.prefill.request;
    let kind = request.kind;
    // Out, all of them: who has failed, and who cannot go on with what others began.
    let view = shared.view.load();
    let unable = |info: &EndpointInfo| dialect(info.kind, kind).is_none() || info.id == failed;
    let all = view.snapshot.endpoints.iter().map(|endpoint| &endpoint.info);
    request.tried = all.filter(|info| unable(info)).map(|info| info.id.clone()).collect();
    let pool = view.snapshot.models.get(&request.model)?;
    let mut others = pool.members.iter().filter_map(|(at, _)| view.snapshot.endpoint(*at));
    if others.all(|endpoint| unable(&endpoint.info)) {
        return None;
    }
    drop(view);
    let until =
        shared.clock.now().after(shared.config.queue.wait_max).min(total_until(shared, &rest.prefill));
    let wait = place::Wait { until, newcomer: false, account, elsewhere: true };
    let placed = place::place(shared, &rest.prefill.request, policy, wait).await;
    let placed = match placed {
        Ok(placed) => placed,
        Err(unplaced) => {
            account.undecided(unplaced.decided);
            return None;
        }
    };
    let Placed { decided, endpoint, metrics, mut lease, guess, at, address, .. } = placed;
    let dialect = dialect(endpoint.kind, kind).filter(|_| endpoint.id != failed)?;
    account.dispatched(decided, &endpoint.id, at);
    account.guessed(guess);
    shared.metrics.retries.inc();
    metrics.placements.inc();
    lease.listen();
    let prepared = match dialect {
        Dialect::Fields => &rest.fields,
        Dialect::Prefill => &rest.prefill,
    };
    let sent = Sent {
        up: Upstream { shared, prepared, patience: NO_PATIENCE },
        endpoint: &endpoint,
        mode: Mode::Stream,
        at,
        address,
    };
    let fallen = Arc::clone(lease.cell().fallen());
    let answered = {
        let work = pin!(first_event(&sent, account));
        unless_it_falls(&fallen, work).await
    };
    match answered {
        Ok(first) => {
            lease.cell().succeeded();
            let seen = first.scanner.facts().content_events;
            if seen > 0 {
                lease.tokens(seen, shared.clock.now());
            }
            Some(Next { first, lease, metrics, endpoint: endpoint.id.clone() })
        }
        Err(failure) => {
            blame(shared, account, &lease, &metrics, failure);
            None
        }
    }
}

fn blame(shared: &Shared, account: &mut Account, lease: &Lease, metrics: &EndpointMetrics, failure: Failure) {
    match failure {
        Failure::Refused { status, .. } => {
            lease.cell().succeeded();
            lease.cell().answered();
            account.last_failed(&format!("status {}", status.as_u16()));
        }
        Failure::Endpoint { reason, pause, .. } => {
            pause.note(lease.cell(), metrics, shared.clock.now());
            account.last_failed(&reason);
        }
    }
}

/// What a client of an event stream passes over: who goes on.
pub(super) fn marker(endpoint: &EndpointId) -> Bytes {
    Bytes::from(format!(": aya-continued endpoint={endpoint}\n\n"))
}

//! One attempt at one endpoint.
//!
//! Until the engine's first event the client has seen nothing, so whatever goes wrong can be tried elsewhere:
//! a refused connection, a crash, an overload told with 200 and an error event. Afterwards the stream belongs
//! to [`super::stream`]. Clients that do not stream get their answer whole, so for them nothing is ever cut.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use aya_domain::{AbortPolicy, FirstEvent as FirstEventOf};
use aya_proxy::{Response as EngineResponse, SseScanner, StreamFacts};
use aya_trace::OutcomeStatus;
use bytes::Bytes;
use tokio::time::timeout;

use super::account::{Account, End};
use super::carried;
use super::continuation::Continuation;
use super::failure::{Failure, Pause, told_in_stream};
use super::place::{NotPlaced, Placed};
use super::refusal;
use super::sent::{BEHIND, Mode, Sent, Upstream, total_until};
use super::stream::{Begun, StreamBody};
use super::whole;
use crate::fallen::Fallen;
use crate::http::answer::Answer;
use crate::http::respond;
use crate::ledger::Lease;
use crate::metrics::EndpointMetrics;

/// Chunks that may come before the first event, such as keep-alive comments; beyond it the engine is broken.
const CHUNKS_BEFORE_EVENT_MAX: usize = 4096;

/// How an attempt ended.
#[derive(Debug)]
pub(crate) enum AttemptEnd {
    Answered(Answer),
    /// The client has seen nothing; the account goes on.
    Retry(Box<Account>, Pause),
}

/// Sends the request to the placed endpoint, as its engine bears a client that leaves.
pub(crate) async fn attempt(up: Upstream<'_>, account: Account, placed: Placed) -> AttemptEnd {
    match placed.endpoint.abort {
        AbortPolicy::Cancel => attempt_once(up, account, placed).await,
        AbortPolicy::Drain => carried::attempt(up, account, placed).await,
    }
}

/// One attempt; dropped, it cancels at the engine.
pub(super) async fn attempt_once(up: Upstream<'_>, mut account: Account, placed: Placed) -> AttemptEnd {
    let Placed { decided, endpoint, metrics, mut lease, guess, predicted_ttft_s, at, address } = placed;
    account.dispatched(decided, &endpoint.id, at);
    account.guessed(guess);
    metrics.placements.inc();
    let mode = Mode::of(up.prepared, &endpoint);
    if mode != Mode::Whole {
        lease.listen();
    }
    let sent = Sent { up, endpoint: &endpoint, mode, at, address };
    let fallen = Arc::clone(lease.cell().fallen());
    let failure = if mode == Mode::Stream {
        let first = {
            let work = pin!(first_event(&sent, &mut account));
            unless_it_falls(&fallen, work).await
        };
        match first {
            Ok(first) => {
                lease.cell().succeeded();
                let body = begin(&sent, first, account, lease, &metrics);
                return AttemptEnd::Answered(body);
            }
            Err(failure) => failure,
        }
    } else {
        let answer = {
            let work = pin!(whole::answer(&sent, &mut account, &mut lease, predicted_ttft_s));
            unless_it_falls(&fallen, work).await
        };
        match answer {
            Ok(body) => {
                lease.cell().succeeded();
                lease.cell().answered();
                return AttemptEnd::Answered(whole::respond(up, account, lease, body));
            }
            Err(failure) => failure,
        }
    };
    failed(up, account, &lease, &metrics, failure)
}

fn failed(
    up: Upstream<'_>,
    mut account: Account,
    lease: &Lease,
    metrics: &EndpointMetrics,
    failure: Failure,
) -> AttemptEnd {
    let now = up.shared.clock.now();
    match failure {
        Failure::Refused { status, body } => {
            lease.cell().succeeded();
            lease.cell().answered();
            let mut answer = Answer::json(status, body);
            account.head(&mut answer.fields);
            let at_fault = if status.is_client_error() {
                OutcomeStatus::ClientError
            } else {
                OutcomeStatus::UpstreamError
            };
            let (http_status, error) = (Some(status.as_u16()), Some("refused_by_engine"));
            account.close(End { status: at_fault, http_status, error });
            AttemptEnd::Answered(answer)
        }
        Failure::Endpoint { error, reason, pause } => {
            pause.note(lease.cell(), metrics, now);
            let last = up.patience.is_over(pause, now);
            tracing::warn!(request = %account.request_id(), reason, last, "attempt failed");
            account.attempt_failed(&reason);
            if !last {
                return AttemptEnd::Retry(Box::new(account), pause);
            }
            // A deadline that passed meanwhile is why there is no other attempt.
            let late = up.prepared.request.deadline.is_some_and(|deadline| now >= deadline);
            let missed = NotPlaced::DeadlineExceeded(None);
            let error = if late { refusal::error(up.shared, &up.prepared.request, &missed) } else { error };
            let mut answer = respond::error(&error);
            account.head(&mut answer.fields);
            account.fail(&error);
            AttemptEnd::Answered(answer)
        }
    }
}

/// The client has seen nothing yet: what hangs on a failed GPU is tried elsewhere.
pub(super) async fn unless_it_falls<T>(
    fallen: &Fallen,
    work: Pin<&mut impl Future<Output = Result<T, Failure>>>,
) -> Result<T, Failure> {
    tokio::select! {
        biased;
        done = work => done,
        () = fallen.wait() => Err(Failure::broken("a GPU of the engine failed")),
    }
}

/// A stream whose first event has been seen.
#[derive(Debug)]
pub(super) struct FirstEvent {
    pub(super) response: EngineResponse,
    pub(super) scanner: SseScanner,
    pub(super) held: Vec<Bytes>,
}

fn begin(
    sent: &Sent<'_>,
    first: FirstEvent,
    account: Account,
    mut lease: Lease,
    metrics: &Arc<EndpointMetrics>,
) -> Answer {
    let up = sent.up;
    let FirstEvent { response, scanner, held } = first;
    let EngineResponse { head, body: mut upstream } = response;
    upstream.count_progress_only();
    upstream.set_idle_timeout(up.shared.config.timeouts.inter_token);
    let seen = scanner.facts().content_events;
    if seen > 0 {
        lease.tokens(seen, up.shared.clock.now());
    }
    let left = total_until(up.shared, up.prepared).since(up.shared.clock.now());
    let mut fields = head.forward;
    account.head(&mut fields);
    let begun = Begun {
        upstream,
        scanner,
        held,
        lease,
        endpoint: Arc::clone(metrics),
        choices: up.prepared.choices(),
        total: Box::pin(tokio::time::sleep(left)),
        drains: sent.endpoint.abort == AbortPolicy::Drain,
        continuation: Continuation::of(sent),
    };
    Answer::stream(fields, StreamBody::new(Arc::clone(up.shared), account, begun))
}

/// Whether the engine has begun to answer, or said that it will not.
const fn has_begun(facts: &StreamFacts, first_event: FirstEventOf) -> bool {
    match first_event {
        FirstEventOf::WithFirstToken => facts.events > 0,
        FirstEventOf::BeforeWork => {
            facts.content_events > 0 || facts.finished > 0 || facts.error.is_some() || facts.done
        }
    }
}

/// Waits for the engine's first event, holding back everything before it.
pub(super) async fn first_event(sent: &Sent<'_>, account: &mut Account) -> Result<FirstEvent, Failure> {
    let Upstream { shared, prepared, .. } = sent.up;
    let ttft = shared.config.timeouts.ttft;
    let left = total_until(shared, prepared).since(shared.clock.now());
    match timeout(ttft.min(left), wait_first_event(sent, account, ttft)).await {
        Ok(result) => result,
        Err(_) if left < ttft => Err(Failure::over()),
        Err(_) => Err(Failure::late("ttft_timeout")),
    }
}

async fn wait_first_event(
    sent: &Sent<'_>,
    account: &mut Account,
    ttft: Duration,
) -> Result<FirstEvent, Failure> {
    let mut response = sent.exchange(account, ttft.saturating_add(BEHIND)).await?;
    if !response.head.is_event_stream() {
        return Err(Failure::broken("the answer is no event stream"));
    }
    let mut scanner = SseScanner::default();
    let mut held = Vec::new();
    let kind_begins = sent.endpoint.kind.capabilities().first_event;
    while !has_begun(scanner.facts(), kind_begins) {
        let Some(chunk) = response.body.chunk().await? else {
            return Err(Failure::broken("the stream ended before its first event"));
        };
        let whole = scanner.feed_whole(&chunk).map_err(|error| Failure::broken(error.to_string()))?;
        if !whole.is_empty() {
            held.push(whole);
        }
        if held.len() > CHUNKS_BEFORE_EVENT_MAX {
            return Err(Failure::broken("the stream has no events"));
        }
    }
    let facts = scanner.facts();
    if facts.content_events == 0 && facts.finished == 0 {
        if let Some(error) = &facts.error {
            return Err(told_in_stream(error));
        }
        if facts.done {
            return Err(Failure::broken("the stream was done before it began"));
        }
    }
    account.tokens(facts.content_events, sent.up.shared.clock.now());
    Ok(FirstEvent { response, scanner, held })
}

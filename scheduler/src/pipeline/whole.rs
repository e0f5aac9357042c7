//! Answers in one piece, for clients that do not stream.
//!
//! The answer is collected before the client sees a byte of it, so a crash in its middle is still only a failed
//! attempt. Engines that notice a disconnect only while they stream are asked to stream, and their events are
//! put together here.

use std::time::Duration;

use aya_domain::RequestKind;
use aya_proxy::assemble::{AnswerKind, AssembleError, Assembler};
use aya_proxy::upstream::Quiet;
use aya_proxy::{ApiError, StreamFacts};
use aya_trace::OutcomeStatus;
use bytes::Bytes;
use http::StatusCode;
use tokio::time::timeout;

use super::account::{Account, End};
use super::failure::{Failure, told_in_stream};
use super::sent::{Mode, Sent, Upstream, late_is_over, total_until};
use crate::http::answer::Answer;
use crate::ledger::Lease;

/// Predictions of the first token are trusted no further than this, in seconds, lest a wrong one holds others back.
const ASSUMED_TTFT_MAX_S: f64 = 30.0;

/// Asks the engine and collects its answer.
pub(super) async fn answer(
    sent: &Sent<'_>,
    account: &mut Account,
    lease: &mut Lease,
    predicted_ttft_s: f64,
) -> Result<Bytes, Failure> {
    let left = total_until(sent.up.shared, sent.up.prepared).since(sent.at);
    match sent.mode {
        Mode::Assemble => match timeout(left, assembled(sent, account, lease)).await {
            Ok(result) => result,
            Err(_) => Err(Failure::over()),
        },
        Mode::Whole | Mode::Stream => whole(sent, account, lease, left, predicted_ttft_s).await,
    }
}

/// One answer through. The engine is silent until it is done, so the end of the prefill is assumed when it was
/// predicted: a lease that looked like prefill for the whole generation would hold others back.
async fn whole(
    sent: &Sent<'_>,
    account: &mut Account,
    lease: &mut Lease,
    left: Duration,
    predicted_ttft_s: f64,
) -> Result<Bytes, Failure> {
    let Upstream { shared, prepared, .. } = sent.up;
    let limit = shared.config.limits.response_max;
    let assumed = predicted_ttft_s.min(ASSUMED_TTFT_MAX_S);
    let assumed = Duration::try_from_secs_f64(assumed).unwrap_or_default();
    let mut prefilled = || lease.first_token(shared.clock.now());
    let response =
        sent.exchange_in_all(account, left, Quiet { after: assumed, then: &mut prefilled }).await?;
    if !response.head.is_json() {
        return Err(Failure::broken("the answer is no JSON"));
    }
    let body = response.body.collect(limit).await.map_err(late_is_over)?.ok_or_else(|| too_large(limit))?;
    let facts = StreamFacts::of_answer(&body);
    if let Some(error) = &facts.error {
        return Err(told_in_stream(error));
    }
    if prepared.request.kind != RequestKind::Embedding && facts.finished == 0 {
        return Err(Failure::broken("the answer has no finish reason"));
    }
    account.facts(&facts);
    Ok(body)
}

/// A stream put together to one answer.
async fn assembled(sent: &Sent<'_>, account: &mut Account, lease: &mut Lease) -> Result<Bytes, Failure> {
    let Upstream { shared, prepared, .. } = sent.up;
    let timeouts = &shared.config.timeouts;
    let mut response = sent.exchange(account, timeouts.ttft).await?;
    if !response.head.is_event_stream() {
        return Err(Failure::broken("the answer is no event stream"));
    }
    let kind = match prepared.request.kind {
        RequestKind::Completion => AnswerKind::Completion,
        RequestKind::Chat | RequestKind::Embedding => AnswerKind::Chat,
    };
    let limit = shared.config.limits.response_max;
    let mut assembler = Assembler::new(kind, limit).choices_per_prompt(prepared.choices_per_prompt());
    let (mut seen, mut events) = (0, 0);
    while let Some(chunk) = response.body.chunk().await? {
        let facts = assembler.feed(&chunk).map_err(|error| failure(error, limit))?;
        if facts.events > events {
            // Of those that are no comments only.
            events = facts.events;
            response.body.progressed();
        }
        if facts.content_events > seen {
            if seen == 0 {
                response.body.count_progress_only();
                response.body.set_idle_timeout(timeouts.inter_token);
            }
            let now = shared.clock.now();
            lease.tokens(facts.content_events - seen, now);
            seen = facts.content_events;
            account.tokens(seen, now);
        }
    }
    let facts = assembler.facts().clone();
    let body = assembler.finish(prepared.choices()).map_err(|error| failure(error, limit))?;
    account.facts(&facts);
    Ok(body.into())
}

fn failure(error: AssembleError, limit: usize) -> Failure {
    match error {
        AssembleError::Engine(error) => told_in_stream(&error),
        AssembleError::TooLarge { .. } => too_large(limit),
        AssembleError::Truncated | AssembleError::BadEvent | AssembleError::Stream(_) => {
            Failure::broken(error.to_string())
        }
    }
}

/// Another endpoint would answer as much: told to the client at once.
fn too_large(limit: usize) -> Failure {
    let message = format!("the answer is larger than {limit} bytes; ask with `stream: true`");
    let body =
        ApiError::new(502, "upstream_error", message).code("answer_too_large").should_retry(false).to_json();
    Failure::Refused { status: StatusCode::BAD_GATEWAY, body: body.into() }
}

/// The client's response; ends the account and the lease.
pub(super) fn respond(up: Upstream<'_>, mut account: Account, lease: Lease, body: Bytes) -> Answer {
    let mut answer = Answer::json(StatusCode::OK, body);
    account.head(&mut answer.fields);
    let now = up.shared.clock.now();
    account.close_at(now, End { status: OutcomeStatus::Completed, http_status: Some(200), error: None });
    lease.completed(now);
    drop(lease);
    answer
}

//! One request's account: opened when its head is read, closed exactly once, on every path.
//!
//! Closing counts the outcome, writes the decision record and teaches the estimators. An account that is
//! dropped open belongs to a client that has gone: the connection drops a request's future and body then. Or the time to
//! drain is over, and the scheduler drops them all.

mod continued;
mod waiting;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use aya_domain::{
    Decision, DecisionId, EndpointId, HoldReason, MonoTime, Request, RequestId, RequestKind, Tokens, WallTime,
};
use aya_proxy::downstream::FieldLines;
use aya_proxy::{ApiError, StreamFacts};
use aya_trace::{Admission, Attempt, AttemptResult, OutcomeStatus, Record, RequestOutcome};

use super::Prepared;
use super::blame::{self, abandoned, at_fault};
use super::inputs::{Captured, Decided};
use crate::http::respond;
use crate::insight::CacheGuess;
use crate::models::{Lesson, ModelState, Route};
use crate::shared::Shared;

/// What is known of a request so far.
#[derive(Debug)]
pub(crate) struct Account {
    shared: Arc<Shared>,
    /// `None` once closed.
    open: Option<Box<Open>>,
}

#[derive(Debug)]
struct Open {
    request_id: RequestId,
    decision_id: DecisionId,
    kind: RequestKind,
    arrived_at: MonoTime,
    /// The same for people.
    time: WallTime,
    request: Option<Request>,
    model: Arc<ModelState>,
    messages: u32,
    choices_per_prompt: u32,
    queued_at: Option<MonoTime>,
    admission: Admission,
    /// The last decision that found no room, while it waits for some.
    held: Option<(HoldReason, Decided)>,
    queue: Duration,
    /// Decisions that something came of: an attempt, or the end.
    decisions: u32,
    decision: Option<Arc<Decision>>,
    attempts: Vec<Attempt>,
    first_token_at: Option<MonoTime>,
    last_token_at: Option<MonoTime>,
    tokens_seen: u64,
    /// Of a part that broke off, when the answer goes on elsewhere.
    tokens_before: Option<Tokens>,
    prompt_tokens: Option<u64>,
    /// Prompt tokens that the engine had in its cache, by its own word.
    cached_tokens: Option<u64>,
    /// What was expected of that.
    guess: Option<CacheGuess>,
    completion_tokens: Option<u64>,
    finish_reason: Option<String>,
    /// Of an attempt that goes on without its client: whether it does.
    client_gone: Option<Arc<AtomicBool>>,
}

/// How a request ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct End<'a> {
    pub(crate) status: OutcomeStatus,
    /// What the client was sent; `None`: nothing.
    pub(crate) http_status: Option<u16>,
    pub(crate) error: Option<&'a str>,
}

impl Account {
    /// `arrived`: on both clocks.
    pub(crate) fn open(
        shared: &Arc<Shared>,
        request_id: &RequestId,
        kind: RequestKind,
        (arrived_at, time): (MonoTime, WallTime),
    ) -> Self {
        shared.metrics.opened();
        let open = Open {
            request_id: request_id.clone(),
            decision_id: super::fresh_id(time, DecisionId::parse),
            kind,
            arrived_at,
            time,
            request: None,
            model: Arc::clone(&shared.unknown_model),
            messages: 0,
            choices_per_prompt: 1,
            queued_at: None,
            admission: Admission::default(),
            held: None,
            queue: Duration::ZERO,
            decisions: 0,
            decision: None,
            attempts: Vec::new(),
            first_token_at: None,
            last_token_at: None,
            tokens_seen: 0,
            tokens_before: None,
            prompt_tokens: None,
            cached_tokens: None,
            guess: None,
            completion_tokens: None,
            finish_reason: None,
            client_gone: None,
        };
        Self { shared: Arc::clone(shared), open: Some(Box::new(open)) }
    }

    pub(crate) fn request_id(&self) -> &RequestId {
        static NONE: std::sync::LazyLock<RequestId> =
            std::sync::LazyLock::new(|| super::fresh_id(WallTime::default(), RequestId::parse));
        self.open.as_ref().map_or_else(|| &*NONE, |open| &open.request_id)
    }

    pub(crate) fn arrived_at(&self) -> MonoTime {
        self.open.as_ref().map_or(MonoTime::ZERO, |open| open.arrived_at)
    }

    pub(crate) fn classified(&mut self, prepared: &Prepared) {
        if let Some(open) = &mut self.open {
            open.request = Some(prepared.request.clone());
            open.model = Arc::clone(&prepared.state);
            open.messages = prepared.scanned.messages.unwrap_or(0);
            open.choices_per_prompt = prepared.choices_per_prompt();
        }
    }

    /// Nothing was placed. `None`: it never came to a decision, because others waited before it.
    pub(crate) fn undecided(&mut self, decided: Option<Decided>) {
        self.end_wait();
        if let Some(decided) = decided {
            self.decided(decided);
        }
    }

    /// Remembers the decision, and hands its inputs on at once.
    fn decided(&mut self, Decided { decision, inputs }: Decided) {
        let Some(open) = &mut self.open else { return };
        open.decisions = open.decisions.saturating_add(1);
        if let Some(inputs) = inputs {
            let (decision_id, decision) = (open.decision_id.clone(), Arc::clone(&decision));
            let captured = Captured { decision_id, attempt: open.decisions, decision, inputs };
            self.shared.journal.decided(&self.shared.metrics, captured);
        }
        open.decision = Some(decision);
    }

    /// An attempt begins.
    pub(crate) fn dispatched(&mut self, decided: Decided, endpoint: &EndpointId, now: MonoTime) {
        self.end_wait();
        if let Some(open) = &mut self.open {
            open.attempts.push(Attempt {
                endpoint: endpoint.clone(),
                started: now.since(open.arrived_at),
                result: AttemptResult::Open,
                continues: open.tokens_before,
            });
        }
        self.decided(decided);
    }

    /// From here on it may be open when its client has gone, which this then tells.
    pub(super) fn outlives_client(&mut self, gone: Arc<AtomicBool>) {
        if let Some(open) = &mut self.open {
            open.client_gone = Some(gone);
        }
    }

    /// What the current attempt's endpoint probably holds of the prompt.
    pub(crate) fn guessed(&mut self, guess: Option<CacheGuess>) {
        if let Some(open) = &mut self.open {
            open.guess = guess;
        }
    }

    /// A kept connection was closed as the request went out, and it is sent once more on a new one. Whether the
    /// engine had begun, nobody can tell from here: so the record has both.
    pub(crate) fn resent(&mut self) {
        let now = self.shared.clock.now();
        let Some(open) = &mut self.open else { return };
        let Some(last) = open.attempts.last_mut() else { return };
        last.result = AttemptResult::Failed { reason: "stale_socket".to_owned() };
        let endpoint = last.endpoint.clone();
        let started = now.since(open.arrived_at);
        let continues = open.tokens_before;
        open.attempts.push(Attempt { endpoint, started, result: AttemptResult::Open, continues });
        self.shared.metrics.retries.inc();
    }

    fn end_wait(&mut self) {
        if let Some(open) = &mut self.open
            && let Some(since) = open.queued_at.take()
        {
            open.queue = open.queue.saturating_add(self.shared.clock.now().since(since));
        }
    }

    /// The current attempt failed before the client had seen anything of it.
    pub(crate) fn attempt_failed(&mut self, reason: &str) {
        if let Some(attempt) = self.open.as_mut().and_then(|open| open.attempts.last_mut()) {
            attempt.result = AttemptResult::Failed { reason: reason.to_owned() };
        }
        if let Some(open) = &mut self.open {
            open.first_token_at = None;
            open.last_token_at = None;
            open.tokens_seen = 0;
        }
    }

    /// This many tokens have come in all.
    pub(crate) fn tokens(&mut self, seen: u64, now: MonoTime) {
        let Some(open) = &mut self.open else { return };
        let seen = open.tokens_before.map_or(seen, |before| before.get().saturating_add(seen));
        if seen == 0 || seen == open.tokens_seen {
            return;
        }
        if open.first_token_at.is_none() {
            open.first_token_at = Some(now);
        }
        open.last_token_at = Some(now);
        open.tokens_seen = seen;
    }

    pub(crate) fn facts(&mut self, facts: &StreamFacts) {
        let per_prompt = self.open.as_ref().map_or(1, |open| open.choices_per_prompt);
        let prompt = facts.prompt_tokens(per_prompt);
        let timed = facts.timings.and_then(|t| Some(t.prompt_n? + t.cache_n.unwrap_or(0)));
        let finish = facts.finish.map(|finish| finish.as_str().to_owned());
        let cached = facts.cached_tokens(per_prompt);
        let cached = cached.or(facts.timings.and_then(|timings| timings.cache_n));
        if let Some(open) = &mut self.open {
            open.cached_tokens = cached.or(open.cached_tokens);
        }
        let (prompt, completion) = self.with_part_before(prompt.or(timed), facts.completion_tokens());
        self.usage(prompt, completion, finish);
    }

    pub(crate) fn usage(&mut self, prompt: Option<u64>, completion: Option<u64>, finish: Option<String>) {
        if let Some(open) = &mut self.open {
            open.prompt_tokens = prompt.or(open.prompt_tokens);
            open.completion_tokens = completion.or(open.completion_tokens);
            open.finish_reason = finish.or(open.finish_reason.take());
        }
    }

    /// The headers that tell a client where its request went.
    pub(crate) fn head(&self, fields: &mut FieldLines) {
        let Some(open) = &self.open else { return };
        open.head(fields);
    }

    /// The client is at fault; nothing was sent to an engine, or the engine said so.
    pub(crate) fn refuse(&mut self, error: &ApiError) {
        self.close(End {
            status: OutcomeStatus::ClientError,
            http_status: Some(error.status),
            error: error.code.or(Some(error.kind)),
        });
    }

    /// The farm is at fault: the engine that it was sent to last, or we sent it to none.
    pub(crate) fn fail(&mut self, error: &ApiError) {
        self.close(End {
            status: self.open.as_ref().map_or(OutcomeStatus::Refused, |open| at_fault(&open.attempts)),
            http_status: Some(error.status),
            error: error.code.or(Some(error.kind)),
        });
    }

    /// Ends the account; later calls change nothing.
    pub(crate) fn close(&mut self, end: End<'_>) {
        self.close_at(self.shared.clock.now(), end);
    }

    /// The same for those who know the present.
    pub(crate) fn close_at(&mut self, now: MonoTime, end: End<'_>) {
        self.end_wait();
        if let Some((_, decided)) = self.take_held() {
            self.decided(decided);
        }
        let Some(mut open) = self.open.take() else { return };
        let end = blame::seen_by_client(open.client_gone.as_ref(), end);
        let e2e = now.since(open.arrived_at);
        if let Some(attempt) = open.attempts.last_mut().filter(|a| a.result == AttemptResult::Open) {
            attempt.result = match end.status {
                OutcomeStatus::UpstreamError | OutcomeStatus::Truncated | OutcomeStatus::Refused => {
                    AttemptResult::Failed { reason: end.error.unwrap_or("upstream_error").to_owned() }
                }
                OutcomeStatus::Completed | OutcomeStatus::ClientError => AttemptResult::Answered,
                OutcomeStatus::ClientCancelled => AttemptResult::Cancelled,
            };
        }
        // Once per request, whatever its attempts and waits: so here, and not as they happen.
        if let Some(at) = open.first_token_at {
            open.model.metrics.first_token(at.since(open.arrived_at).as_secs_f64());
        }
        let admission = &self.shared.metrics.admission;
        if !open.queue.is_zero() {
            let waited_s = open.queue.as_secs_f64();
            open.model.metrics.queued(waited_s);
            let class = open.request.as_ref().map(|request| request.priority);
            admission.waited(class.unwrap_or_default(), waited_s);
        }
        if let Some(request) = &open.request {
            admission.ended(&request.tenant, end.status);
        }
        open.model.metrics.ended(end.status, e2e.as_secs_f64());
        self.shared.metrics.tokens_in.inc_by(open.prompt_tokens.unwrap_or(0));
        self.shared.metrics.tokens_out.inc_by(open.completion_tokens.unwrap_or(open.tokens_seen));
        if end.status == OutcomeStatus::Completed {
            open.teach();
        }
        self.shared.journal.keep(&self.shared.metrics, open.into_record(end, e2e));
        self.shared.metrics.closed();
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        if let Some(open) = &self.open {
            let (status, error) = abandoned(&self.shared, at_fault(&open.attempts));
            self.close(End { status, http_status: error.map(|_| respond::CUT_STATUS), error });
        }
    }
}

impl Open {
    fn head(&self, fields: &mut FieldLines) {
        fields.add(respond::X_DECISION_ID, self.decision_id.as_str());
        if let Some(attempt) = self.attempts.last() {
            fields.add(respond::X_ENDPOINT, attempt.endpoint.as_str());
        }
        let waiting = usize::try_from(self.queue.as_millis()).unwrap_or(usize::MAX);
        fields.add_number(respond::X_QUEUE_MS, waiting);
    }

    fn teach(&self) {
        if let (Some(guess), Some(cached)) = (&self.guess, self.cached_tokens) {
            guess.told(Tokens(cached));
        }
        let Some(request) = &self.request else { return };
        self.model.learn(Lesson {
            prompt_bytes: request.prompt_bytes,
            messages: self.messages,
            prompt_tokens: self.prompt_tokens,
            completion_tokens: self.completion_tokens.filter(|_| request.kind != RequestKind::Embedding),
            route: Route::of(request),
        });
    }

    fn into_record(self, end: End<'_>, e2e: Duration) -> Record {
        let ttft = self.first_token_at.map(|at| at.since(self.arrived_at));
        let completion = self.completion_tokens.or((self.tokens_seen > 0).then_some(self.tokens_seen));
        Record {
            decision_id: self.decision_id,
            request_id: self.request_id,
            time: self.time,
            kind: self.kind,
            request: self.request,
            decision: self.decision,
            attempts: self.attempts,
            queue: self.queue,
            admission: self.admission,
            outcome: RequestOutcome {
                status: end.status,
                http_status: end.http_status,
                ttft,
                itl_mean: mean_gap(self.first_token_at, self.last_token_at, completion),
                e2e,
                prompt_tokens: self.prompt_tokens.map(Tokens),
                completion_tokens: completion.map(Tokens),
                finish_reason: self.finish_reason,
                error: end.error.map(str::to_owned),
            },
        }
    }
}

/// Mean time between two tokens; `None` below two tokens.
fn mean_gap(first: Option<MonoTime>, last: Option<MonoTime>, tokens: Option<u64>) -> Option<Duration> {
    let gaps = u32::try_from(tokens?.checked_sub(1)?).ok().filter(|gaps| *gaps > 0)?;
    Some(last?.since(first?) / gaps)
}
